//! `rezcache run`: the real program starts stand-ins for viewers, which write down how they were started.
#![cfg(unix)]

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

mod assets;
mod grid_files;
mod join;
mod launch;
mod question;

/// Writes its environment and its words to a file of its own, stays while `$STAY` names a file, and ends with
/// the status `$STATUS`; with 42 when it is asked to end.
const STAND_IN: &str = r#"#!/bin/sh
trap 'exit 42' TERM
{
  printf 'asset %s\n' "$VIEWERASSET"
  env | grep '^REZCACHE_' | sed 's/^/leaked /'
  for word in "$@"; do printf 'word %s\n' "$word"; done
} > "$RECORD/$$.part"
mv "$RECORD/$$.part" "$RECORD/$$.started"
while [ -n "$STAY" ] && [ -e "$STAY" ]; do sleep 0.05; done
[ "$STATUS" = killed ] && kill -9 $$
exit "${STATUS:-0}"
"#;

/// Nothing here takes this long; a hang becomes a failure.
const LIMIT: Duration = Duration::from_secs(60);

/// Looks again and again until there is something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "{what}: nothing happened in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How a stand-in was started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Started {
    words: Vec<String>,
    asset_address: String,
    leaked: Vec<String>,
}

/// How a run ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    said: String,
}

/// A user's home, with nothing in it but what a test puts there.
struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir(home.path("record")).unwrap();
        home
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.dir.path().join(inner)
    }

    fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// Installs a stand-in for a viewer.
    fn viewer(&self, inner: &str) -> String {
        self.program(inner, STAND_IN)
    }

    fn program(&self, inner: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.path(inner);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn write(&self, inner: &str, text: &str) -> PathBuf {
        let path = self.path(inner);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program, with a subcommand and its words.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rezcache"));
        command
            .args(words)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .env("RECORD", self.path("record"))
            .env("REZCACHE_DATA_DIR", self.data())
            .env("REZCACHE_LISTEN", "127.0.0.1:0")
            .env("REZCACHE_CONTROL", "127.0.0.1:0")
            .env("REZCACHE_LOGIN_GRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, words: &[&str]) -> Ended {
        ended(self.command(&[&["run"], words].concat()).spawn().unwrap())
    }

    /// Starts one whose viewer stays until [`Running::let_go`].
    fn start(&self, name: &str, words: &[&str]) -> Running {
        let stay = self.write(&format!("stay-{name}"), "");
        let mut command = self.command(&[&["run"], words].concat());
        let process = Some(command.env("STAY", &stay).spawn().unwrap());
        Running { process, stay }
    }

    /// How the stand-ins were started so far, in no order.
    fn started(&self) -> Vec<Started> {
        let files = std::fs::read_dir(self.path("record")).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|file| file.extension().is_some_and(|ending| ending == "started"));
        files.map(|file| read_started(&file)).collect()
    }

    /// How the only stand-in was started.
    fn only(&self) -> Started {
        let mut all = self.started();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    /// Waits until so many have been started.
    fn until_started(&self, count: usize) -> Vec<Started> {
        until("viewers", || Some(self.started()).filter(|all| all.len() >= count))
    }

    fn forget(&self) {
        for entry in std::fs::read_dir(self.path("record")).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// The control port of the proxy that runs on the data directory.
    fn control(&self) -> SocketAddr {
        until("a proxy", || {
            let note: Value =
                serde_json::from_slice(&std::fs::read(self.data().join("running.json")).ok()?).ok()?;
            note["control"].as_str()?.parse().ok()
        })
    }

    fn token(&self) -> String {
        std::fs::read_to_string(self.data().join("control-token")).unwrap()
    }

    /// What the running proxy tells who knows its token.
    fn state(&self) -> Value {
        let bearer = format!("Authorization: Bearer {}", self.token());
        let (status, body) = ask(self.control(), "GET /run/state", &[&bearer], "");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }
}

fn read_started(file: &Path) -> Started {
    let text = std::fs::read_to_string(file).unwrap();
    let of = |mark: &str| -> Vec<String> {
        text.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect()
    };
    Started { words: of("word "), asset_address: of("asset ").remove(0), leaked: of("leaked ") }
}

/// One whose viewer stays; killed when dropped.
struct Running {
    process: Option<Child>,
    stay: PathBuf,
}

impl Running {
    /// The viewer ends by itself.
    fn let_go(&self) {
        std::fs::remove_file(&self.stay).unwrap();
    }

    fn signal(&self, name: &str) {
        let id = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    fn ended(mut self) -> Ended {
        ended(self.process.take().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.stay);
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn ended(mut process: Child) -> Ended {
    let mut errors = process.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut said = String::new();
        errors.read_to_string(&mut said).unwrap();
        said
    });
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT {
            process.kill().unwrap();
            panic!("it does not end: {}", reading.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    Ended { code: status.code(), said: reading.join().unwrap() }
}

/// One request to a port of ours: its status, and the body of the answer.
fn ask(at: SocketAddr, line: &str, headers: &[&str], body: &str) -> (u16, String) {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(at).unwrap();
    let host = if headers.iter().any(|header| header.starts_with("Host:")) {
        String::new()
    } else {
        format!("Host: {at}\r\n")
    };
    let all: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\n{host}{all}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The port in the address that a viewer was given.
fn port_of(started: &Started) -> SocketAddr {
    let address = started.words.iter().find_map(|word| word.strip_prefix("http://")).unwrap();
    address.trim_end_matches('/').parse().unwrap()
}
