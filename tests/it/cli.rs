//! The program as a user starts it: exit status, output, files.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// How a run of the program ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program, with nothing of this machine's environment.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rezcache"));
    command
        .args(arguments)
        .env_clear()
        .env("COLUMNS", "100")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

pub(crate) fn rezcache(arguments: &[&str]) -> Run {
    finish(command(arguments))
}

fn finish(mut command: Command) -> Run {
    let output = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Run { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

fn in_folder(file: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("rezcache.toml");
    std::fs::write(&path, file).expect("written");
    let path = path.to_str().expect("UTF-8").to_owned();
    (folder, path)
}

/// An address that nothing listens on.
fn unused_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    for wrong in [
        &[][..],
        &["fly"],
        &["proxy", "--wings"],
        &["replay"],
        &["check-config", "--listen", "nowhere"],
        &["proxy", "--grid", "http://127.0.0.1:1/", "--listen", "0.0.0.0:9080"],
    ] {
        assert_eq!(rezcache(wrong).code, 2, "{wrong:?}");
    }
    assert_eq!(rezcache(&["--version"]).out, concat!("rezcache ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn unknown_keys_are_refused_with_every_other_problem() {
    let (_folder, path) = in_folder("cach_size = 1\n[proxy]\nlisten = \"nowhere\"\n[[grid]]\nuri = \"x\"\n");
    for subcommand in ["check-config", "proxy", "status"] {
        let run = rezcache(&[subcommand, "--config", &path]);
        assert_eq!(run.code, 1, "{run:?}");
        assert!(run.err.starts_with("rezcache: 4 problems in the configuration\n"), "{}", run.err);
        for part in [
            "toml:1: unknown key cach_size",
            "toml:3: proxy.listen",
            "unknown key grid.uri",
            "url is missing",
        ] {
            assert!(run.err.contains(part), "{part} is not in {}", run.err);
        }
        assert_eq!(run.out, "");
    }
}

#[test]
fn common_flags_stand_before_or_after_the_subcommand() {
    let (_folder, path) = in_folder("[proxy]\nlisten = \"127.0.0.1:7001\"\n");
    for arguments in [["--config", &path, "check-config"], ["check-config", "--config", &path]] {
        let run = rezcache(&arguments);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.out.starts_with("ok\n") && run.out.contains("127.0.0.1:7000"), "{}", run.out);
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let (_folder, path) =
        in_folder("[proxy]\ncache_size = 1\nmemory_size = 1\n[[grid]]\nurl = \"file.example\"\n");
    let mut command = command(&["check-config", "--memory-size", "3"]);
    command.env("REZCACHE_CONFIG", &path).env("REZCACHE_MEMORY_SIZE", "2").env("REZCACHE_CACHE_SIZE", "2");
    command.env("REZCACHE_GRID", "a=a.example,b=b.example").env("REZCACHE_CENTRAL", "b");
    command.env("REZCACHE_REALTIME", "true").env("REZCACHE_VERBOSE", "2");
    let run = finish(command);
    let has = |line: &str| run.out.lines().any(|l| l.split_whitespace().eq(line.split_whitespace()));
    for line in [
        "proxy.cache_size 2",
        "proxy.memory_size 3",
        "grid a",
        "url http://b.example/",
        "central true",
        "verbose 2",
        "replay.realtime true",
    ] {
        assert!(has(line), "{line} is not in {run:?}");
    }
    assert!(!run.out.contains("file.example"));
}

#[test]
fn check_config_makes_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let run = rezcache(&["check-config", "--data-dir", data.to_str().expect("UTF-8"), "--grid", "x.example"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!data.exists());
}

#[test]
fn proxy_needs_a_grid() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = rezcache(&["proxy", "--data-dir", folder.path().to_str().expect("UTF-8")]);
    assert_eq!(run.code, 2);
    assert!(run.err.contains("--grid URL"), "{}", run.err);
}

#[test]
fn status_says_when_nothing_is_running() {
    let address = unused_address();
    let run = rezcache(&["status", "--control", &address]);
    assert_eq!((run.code, run.out.as_str()), (1, ""));
    assert!(run.err.contains(&format!("no rezcache proxy is running on {address}")), "{}", run.err);
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = command(&["check-config", "--data-dir", "/d"]);
    let output = command.stdout(writer).output().expect("the program starts");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn replay_without_its_capture_fails() {
    let run = rezcache(&["replay", "no-such-capture.pcap"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(!Path::new("no-such-capture.pcap").exists() && !run.err.is_empty());
}

/// A running `rezcache proxy`, ended when dropped.
struct Running {
    process: Child,
    ready: Value,
}

impl Running {
    /// Starts it and waits for its ready line.
    fn start(arguments: &[&str]) -> Self {
        let mut command = command(&["proxy", "--log-format", "json"]);
        let mut process =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let Ok(ready) = serde_json::from_str(&line) else {
            let mut why = String::new();
            let _ = process.stderr.take().expect("its errors").read_to_string(&mut why);
            panic!("the proxy did not start: {why}");
        };
        Self { process, ready }
    }

    fn control(&self) -> String {
        self.ready["control"].as_str().expect("an address").to_owned()
    }

    fn listens(&self, grid: &str) -> SocketAddr {
        let grids = self.ready["grids"].as_array().expect("grids");
        let grid = grids.iter().find(|g| g["name"] == grid).expect("the grid");
        grid["listen"].as_str().expect("an address").parse().expect("an address")
    }

    /// Ends it as a service manager does; its exit status.
    fn terminate(mut self) -> Option<i32> {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill").success());
        self.process.wait().expect("it ends").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// Addresses of 127/8 that no other test listens on: ports that follow each other cannot be 0.
#[test]
fn each_grid_keeps_its_port_over_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = ["--data-dir", folder.path().to_str().expect("UTF-8"), "--listen", "127.9.9.1:9080"];
    let (a, b) = (["--grid", "a=http://127.0.0.1:1/"], ["--grid", "b=http://127.0.0.1:2/"]);

    let first = Running::start(&[&data[..], &a, &b].concat());
    assert_eq!(first.control(), "127.9.9.1:9079");
    let ports = (first.listens("a"), first.listens("b"));
    assert_eq!(ports.0.to_string(), "127.9.9.1:9080");
    assert!(ports.1.port() > 9080);
    assert_eq!(first.terminate(), Some(0));

    let second = Running::start(&[&data[..], &b, &a].concat());
    assert_eq!((second.listens("a"), second.listens("b")), ports);
    assert_eq!(second.terminate(), Some(0));

    let _taken = TcpListener::bind(ports.1).expect("the port of b");
    let refused = rezcache(&[&["proxy"], &data[..], &b].concat());
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("ports.json") && refused.err.contains("saved passwords"), "{}", refused.err);
}

#[test]
fn status_shows_a_running_proxy() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    let arguments = ["--data-dir", data, "--listen", "127.0.0.1:0", "--grid", "http://127.0.0.1:1/"];
    let proxy = Running::start(&arguments);

    let run = rezcache(&["status", "--control", &proxy.control()]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.out.contains("no viewer has asked for an asset yet"), "{}", run.out);
    let json = rezcache(&["status", "--json", "--control", &proxy.control()]);
    let status: Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));

    assert_eq!(proxy.terminate(), Some(0));
    let token = std::fs::read_to_string(folder.path().join("asset-token")).expect("a token");
    let counters = std::fs::read_to_string(folder.path().join("counters.json")).expect("counters");
    assert!(
        !run.out.contains(token.trim()) && !json.out.contains(token.trim()) && !counters.contains(&token)
    );
}
