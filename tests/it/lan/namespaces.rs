//! Two machines on one cable: network namespaces of Linux, for which one has to be root. The server's address
//! changes between two runs of the proxy, and nobody tells the proxy.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
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
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
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

impl Cable {
    /// Laid, or why not, said.
    #[expect(clippy::print_stdout, reason = "a test that proves nothing must say so")]
    fn if_possible() -> Option<Self> {
        match Self::lay() {
            Ok(cable) => Some(cable),
            Err(why) => {
                println!("left out, for want of network namespaces: {why}");
                None
            }
        }
    }

    /// A proxy of the machine at home that looks for servers, and the URL of its page.
    fn proxy(&self, data_dir: &Path, log: &Path) -> (Running, String) {
        let mut command = self.rezcache(1, data_dir);
        command.args(["proxy", "--grid", "grid=http://10.77.1.77/", "--cache-server", "auto"]);
        command.args(["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
        let (running, ready) = Running::start(&mut command, log);
        (running, format!("http://{}/", ready["control"].as_str().unwrap()))
    }

    /// What a page of the machine at home says.
    fn page(&self, url: &str) -> String {
        let answer = self.at(1).args(["curl", "-sS", url]).output().unwrap();
        String::from_utf8(answer.stdout).unwrap()
    }

    /// Waits until the status of the proxy there is as wanted.
    fn until(&self, url: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let status: Value = serde_json::from_str(&self.page(&format!("{url}status.json"))).unwrap();
            if wanted(&status) {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn works(status: &Value) -> bool {
    status.pointer("/service/state").and_then(Value::as_str) == Some("working")
}

fn counter(status: &Value, name: &str) -> u64 {
    status["counters"][name].as_u64().unwrap()
}

#[test]
fn a_box_on_the_cable_is_joined_and_found_again_at_another_address() {
    let Some(cable) = Cable::if_possible() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (at_box, at_home, log) =
        (folder.path().join("box"), folder.path().join("home"), folder.path().join("log"));
    let serve = || Running::start(cable.rezcache(0, &at_box).args(["serve", "--lan"]), &log);
    let (serving, ready) = serve();
    let line = ready["join"].as_str().unwrap();
    assert!(line.starts_with("rezcache://10.77.1.1:8443/#pin=sha256:"), "{}", ready["listening"]);
    let joined = cable.rezcache(1, &at_home).args(["join", "--upload", "no", line]).output().unwrap();
    assert!(String::from_utf8_lossy(&joined.stdout).contains("it answers"), "{joined:?}");
    let (proxy, url) = cable.proxy(&at_home, &log);
    cable.until(&url, works);
    drop((proxy, serving));

    let [here, _] = &cable.ends;
    ip(&format!("-n {here} addr add 10.77.1.9/24 dev rzc")).unwrap();
    ip(&format!("-n {here} addr del 10.77.1.1/24 dev rzc")).unwrap();
    // The second address of a network goes with the first.
    let _ = ip(&format!("-n {here} addr add 10.77.1.9/24 dev rzc"));
    let (_serving, ready) = serve();
    assert_eq!(ready["listening"], "10.77.1.9:8443");
    let (_proxy, url) = cable.proxy(&at_home, &log);
    let status = cable.until(&url, works);
    assert!(counter(&status, "lan_sightings") >= 1, "{status:#}");
    // Written down at the latest a moment later.
    cable.until(&url, |_| {
        let remembered = std::fs::read_to_string(at_home.join("joined.json")).unwrap();
        remembered.contains("10.77.1.9:8443") && !remembered.contains("10.77.1.1:")
    });
}

#[test]
fn a_flood_of_announcements_is_bounded_and_the_server_in_use_stays_so() {
    let Some(cable) = Cable::if_possible() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (at_box, at_home, log) =
        (folder.path().join("box"), folder.path().join("home"), folder.path().join("log"));
    let (_serving, ready) = Running::start(cable.rezcache(0, &at_box).args(["serve", "--lan"]), &log);
    let (line, pin) = (ready["join"].as_str().unwrap(), ready["pin"].as_str().unwrap());
    let joined = cable.rezcache(1, &at_home).args(["join", "--upload", "no", line]).output().unwrap();
    assert!(joined.status.success(), "{joined:?}");
    let (_proxy, url) = cable.proxy(&at_home, &log);
    let before = cable.until(&url, works);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lan/flood.py");
    let flooding = cable.at(0).args(["python3", script, "10.77.1.1", pin, "5000"]).output().unwrap();
    assert!(flooding.status.success(), "{flooding:?}");
    let after = cable.until(&url, |status| counter(status, "mdns_failures") >= 1);
    assert!(works(&after), "{after:#}");
    assert!(after["lan"]["unknown"].as_u64() <= Some(16), "{after:#}");
    assert_eq!(counter(&after, "lan_probes"), counter(&before, "lan_probes"), "nothing is looked for");
    let page = cable.page(&url);
    assert!(page.matches("that you have not joined").count() <= 16, "{page}");
}
