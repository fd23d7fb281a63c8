//! Two machines on one cable: network namespaces of Linux, for which one has to be root. The server's address
//! changes between two runs of the proxy, and nobody tells the proxy.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Two namespaces with a cable between, removed when dropped.
struct Cable {
    ends: [String; 2],
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

impl Cable {
    fn lay() -> Result<Self, String> {
        let number = std::process::id();
        let ends = [format!("rzbox{number}"), format!("rzhome{number}")];
        let cable = Self { ends };
        let [here, there] = &cable.ends;
        for end in &cable.ends {
            ip(&format!("netns add {end}"))?;
            ip(&format!("-n {end} link set lo up"))?;
        }
        cable.without_a_network();
        ip(&format!("link add rzc netns {here} type veth peer name rzc netns {there}"))?;
        for (end, address) in [(here, "10.77.1.1"), (there, "10.77.1.2")] {
            ip(&format!("-n {end} addr add {address}/24 dev rzc"))?;
            ip(&format!("-n {end} link set rzc up"))?;
            ip(&format!("-n {end} route add 224.0.0.0/4 dev rzc"))?;
        }
        Ok(cable)
    }

    /// Where there is no network but loopback, nobody is served, and that is said.
    fn without_a_network(&self) {
        let folder = tempfile::tempdir().unwrap();
        let refused = self.rezcache(0, folder.path()).args(["serve", "--lan"]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains("in no private network"), "{said}");
        // Announcements go nowhere here; what was asked for works all the same.
        let mut command = self.rezcache(0, folder.path());
        command.args(["serve", "--lan", "--listen", "127.0.0.1:0"]);
        let (_serving, ready) = Running::start(&mut command, &folder.path().join("log"));
        assert!(ready["join"].as_str().unwrap().starts_with("rezcache://127.0.0.1:"));
    }

    fn at(&self, end: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ends[end]]).stdin(Stdio::null()).env("HOME", "/nonexistent");
        command
    }

    fn rezcache(&self, end: usize, data_dir: &Path) -> Command {
        let mut command = self.at(end);
        command
            .arg(env!("CARGO_BIN_EXE_rezcache"))
            .args(["--log-format", "json", "--data-dir"])
            .arg(data_dir);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for end in &self.ends {
            let _ = ip(&format!("netns del {end}"));
        }
    }
}

struct Running(Child);

impl Running {
    /// Starts it, and reads the line that it prints.
    fn start(command: &mut Command, log: &Path) -> (Self, Value) {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let running = Self(child);
        (running, serde_json::from_str(&line).unwrap_or_else(|_| panic!("it did not start: {line}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "a test that proves nothing must say so")]
fn a_box_on_the_cable_is_joined_and_found_again_at_another_address() {
    let cable = match Cable::lay() {
        Ok(cable) => cable,
        Err(why) => {
            println!("left out, for want of network namespaces: {why}");
            return;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let (at_box, at_home, log) =
        (folder.path().join("box"), folder.path().join("home"), folder.path().join("log"));
    let serve = || Running::start(cable.rezcache(0, &at_box).args(["serve", "--lan"]), &log);
    let (serving, ready) = serve();
    let line = ready["join"].as_str().unwrap();
    assert!(line.starts_with("rezcache://10.77.1.1:8443/#pin=sha256:"), "{}", ready["listening"]);
    let joined = cable.rezcache(1, &at_home).args(["join", "--upload", "no", line]).output().unwrap();
    assert!(String::from_utf8_lossy(&joined.stdout).contains("it answers"), "{joined:?}");

    let works = || {
        let (_proxy, ready) = Running::start(
            cable.rezcache(1, &at_home).args(["proxy", "--grid", "grid=http://10.77.1.77/"]).args([
                "--listen",
                "127.0.0.1:0",
                "--control",
                "127.0.0.1:0",
                "--cache-server",
                "auto",
            ]),
            &log,
        );
        let url = format!("http://{}/status.json", ready["control"].as_str().unwrap());
        let began = Instant::now();
        loop {
            let status = cable.at(1).args(["curl", "-sS", &url]).output().unwrap();
            let status: Value = serde_json::from_slice(&status.stdout).unwrap();
            if status.pointer("/service/state").and_then(Value::as_str) == Some("working") {
                return status;
            }
            let log = std::fs::read_to_string(&log).unwrap();
            assert!(began.elapsed() < Duration::from_secs(60), "{status:#}\n{log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    works();
    drop(serving);
    let [here, _] = &cable.ends;
    ip(&format!("-n {here} addr add 10.77.1.9/24 dev rzc")).unwrap();
    ip(&format!("-n {here} addr del 10.77.1.1/24 dev rzc")).unwrap();
    // The other one goes with the first of its network; what a DHCP server gave stays.
    let _ = ip(&format!("-n {here} addr add 10.77.1.9/24 dev rzc"));
    let (_serving, ready) = serve();
    assert_eq!(ready["listening"], "10.77.1.9:8443");
    let status = works();
    assert!(status.pointer("/counters/lan_sightings").and_then(Value::as_u64) >= Some(1), "{status:#}");
    let remembered = std::fs::read_to_string(at_home.join("joined.json")).unwrap();
    assert!(
        remembered.contains("10.77.1.9:8443") && !remembered.contains("10.77.1.1:"),
        "it is looked for there"
    );
}
