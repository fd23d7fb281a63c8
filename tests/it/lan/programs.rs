//! The same with the real programs, `rezcache serve --lan` and `rezcache join`: what they print, keep and log.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rezcache::client::joined;
use rezcache::token::join::JoinLine;
use serde_json::Value;

use super::member;
use crate::access::{key, read};
use crate::support::client::get;
use crate::support::within;

fn rezcache() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rezcache"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", "/nonexistent");
    command.stdin(Stdio::null());
    command
}

/// `rezcache serve --lan`; killed when dropped.
struct Serving {
    process: Child,
    output: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Serving {
    fn start(folder: &Path, options: &[&str]) -> (Self, Value) {
        let log = folder.join("serve-log");
        let mut process = rezcache()
            .args(["serve", "--lan", "-vv", "--log-format", "json", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.join("box"))
            .args(options)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut serving = Self { process, output, log };
        let ready = serving.line();
        (serving, ready)
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}: {}", self.log()))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn join_of(ready: &Value) -> JoinLine {
    ready["join"].as_str().unwrap().parse().unwrap()
}

fn run(command: &mut Command, input: &str) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_printed_line_to_a_working_cache_and_the_secret_is_in_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, ready) = Serving::start(folder.path(), &[]);
    let line = join_of(&ready);
    let home = folder.path().join("home");
    let joining =
        run(rezcache().args(["join", "-vv", "--upload", "yes", "--data-dir"]).arg(&home), &line.reveal());
    assert!(joining.status.success() && said(&joining).contains("it answers"), "{}", said(&joining));
    let listed = run(rezcache().args(["join", "--list", "--data-dir"]).arg(&home), "");
    assert!(said(&listed).contains(line.pin.short()), "{}", said(&listed));

    let log = folder.path().join("proxy-log");
    let mut proxy = rezcache()
        .args(["proxy", "-vv", "--log-format", "json", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .args(["--grid", "grid=http://127.0.0.1:9/", "--cache-server", "auto", "--data-dir"])
        .arg(&home)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let mut first = String::new();
    BufReader::new(proxy.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let control =
        serde_json::from_str::<Value>(&first).unwrap()["control"].as_str().unwrap().parse().unwrap();
    let status = within(async {
        loop {
            let status = get(control, "/status.json", &[]).await.text();
            if status.contains("\"working\"") {
                return status;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    let logs = [serving.log(), std::fs::read_to_string(&log).unwrap()];
    assert!(logs[0].contains("made a key file") && logs[1].contains("the cache service answers"), "{logs:?}");
    for part in line.token.reveal().split('.').skip(1) {
        for text in logs.iter().chain([&first, &said(&joining), &said(&listed), &status]) {
            assert!(!text.contains(part), "{text}");
        }
    }
    #[cfg(unix)]
    for file in ["home/joined.json", "box/lan/signing.key", "box/lan/join-tokens.json"] {
        assert!(!rezcache::support::private_file::is_exposed(&folder.path().join(file)), "{file}");
    }
    assert_eq!(joined::load(&home).unwrap()[0].upload, Some(true));
    let forgotten = run(rezcache().args(["join", "--forget", line.pin.short(), "--data-dir"]).arg(&home), "");
    assert!(forgotten.status.success());
    assert_eq!(joined::load(&home).unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_is_the_same_after_a_restart_until_it_is_withdrawn() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, ready) = Serving::start(folder.path(), &[]);
    let first = join_of(&ready);
    drop(serving);
    let (mut serving, ready) = Serving::start(folder.path(), &[]);
    let second = join_of(&ready);
    assert_eq!((&second.pin, &second.token), (&first.pin, &first.token));
    let client = member(&folder.path().join("pupil"), &second);
    assert_eq!(read(&client, &key(1), "a").await, Ok(None));

    let revoking = run(
        rezcache().args(["token", "revoke", "--join-lines", "--data-dir"]).arg(folder.path().join("box")),
        "",
    );
    assert!(revoking.status.success(), "{}", said(&revoking));
    // A running server says its new line by itself.
    let (_serving, third) = tokio::task::spawn_blocking(move || {
        let ready = serving.line();
        (serving, join_of(&ready))
    })
    .await
    .unwrap();
    assert_eq!(third.pin, first.pin);
    assert_ne!(third.token, first.token);
    within(async {
        while read(&client, &key(1), "a").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    let again = member(&folder.path().join("pupil"), &third);
    assert_eq!(read(&again, &key(1), "a").await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_teacher_writes_there_are_two_lines_and_the_line_of_before_is_worthless() {
    let folder = tempfile::tempdir().unwrap();
    let (serving, ready) = Serving::start(folder.path(), &[]);
    let everybody = join_of(&ready);
    drop(serving);
    let (_serving, ready) = Serving::start(folder.path(), &["--teacher-writes"]);
    let (pupil, teacher) = (join_of(&ready), ready["join_teacher"].as_str().unwrap());
    let teacher: JoinLine = teacher.parse().unwrap();
    let rights = |line: &JoinLine| rezcache::token::unverified_rights(line.token.reveal()).unwrap();
    assert_eq!((rights(&pupil).write, rights(&teacher).write), (false, true));
    let old = JoinLine { address: pupil.address, ..everybody };
    assert!(read(&member(&folder.path().join("old"), &old), &key(1), "a").await.is_err());
    assert_eq!(read(&member(&folder.path().join("new"), &pupil), &key(1), "a").await, Ok(None));
}

#[test]
fn what_a_households_server_does_not_do_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let tried = |options: &[&str]| {
        let mut command = rezcache();
        command.args(["serve", "--lan", "--data-dir"]).arg(folder.path()).args(options);
        let output = run(&mut command, "");
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        said(&output)
    };
    assert!(tried(&["--listen", "203.0.113.5:8443"]).contains("not an address of a private network"));
    assert!(tried(&["--listen", "[2001:db8::1]:8443"]).contains("private"));
    assert!(tried(&["--plain-http"]).contains("always encrypted"));
    assert!(tried(&["--open-access"]).contains("join line"));
    assert!(tried(&["--enroll"]).contains("join line"));
    let line = format!("rezcache://203.0.113.5:8443/#pin=sha256:{}&token=e30.e30.e30", "ab".repeat(32));
    let output = run(rezcache().args(["join", "--data-dir"]).arg(folder.path()), &line);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("out of your own network") && !said(&output).contains("e30"));
}
