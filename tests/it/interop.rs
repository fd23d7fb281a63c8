//! A real client (PyPI hippolyzer's `HippoClient`) against a stand-in grid, alone and through the
//! built proxy.
//!
//! The programs lie in `tests/interop/`. They need a Python with hippolyzer: `REZCACHE_PYTHON` names
//! it (`tests/run` makes one). Without it these tests say that they did not run, or fail when
//! `REZCACHE_REQUIRE_INTEROP=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long any one program may take; each has shorter limits of its own inside.
const LIMIT: Duration = Duration::from_secs(120);

/// A program that does not outlive the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let name = format!("{:?}", command.get_program());
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}")))
    }

    /// Asks it to end, as a user's Ctrl-C or a service manager does, and waits until it has.
    fn terminate(mut self) -> ExitStatus {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(asked.success(), "the program was already gone");
        let until = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it does not end on SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `read` on the output in a thread of its own, so that a silent program cannot hold the test.
fn read_within<T: Send + 'static>(
    output: ChildStdout,
    read: impl FnOnce(BufReader<ChildStdout>) -> T + Send + 'static,
) -> T {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || send.send(read(BufReader::new(output))));
    receive.recv_timeout(LIMIT).expect("the program said nothing in time")
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// The Python to use, or `None` after saying that the test does not run.
fn python(test: &str) -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("REZCACHE_PYTHON") {
        return Some(python.into());
    }
    assert!(
        std::env::var_os("REZCACHE_REQUIRE_INTEROP").is_none_or(|value| value != "1"),
        "{test}: REZCACHE_REQUIRE_INTEROP=1, but REZCACHE_PYTHON names no Python with hippolyzer"
    );
    eprintln!("{test} DID NOT RUN: REZCACHE_PYTHON names no Python with hippolyzer");
    None
}

/// The stand-in grid: two regions that serve what the captures hold.
struct Grid {
    _process: Running,
    http: SocketAddr,
    addresses: Vec<String>,
}

impl Grid {
    fn start(python: &Path) -> Self {
        let mut process = Running::start(
            Command::new(python)
                .arg(script("stand_in_grid.py"))
                .arg("--until-stdin-closes")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped()),
        );
        let line = read_within(process.0.stdout.take().unwrap(), |mut output| {
            let mut line = String::new();
            output.read_line(&mut line).unwrap();
            line
        });
        let ready: Value = serde_json::from_str(&line).expect("the stand-in grid did not start");
        let port = |value: &Value| u16::try_from(value.as_u64().unwrap()).unwrap();
        let http = SocketAddr::from(([127, 0, 0, 1], port(&ready["http"])));
        let mut addresses = vec![http.to_string()];
        for simulator in ready["simulators"].as_array().unwrap() {
            addresses.push(format!("127.0.0.1:{}", port(simulator)));
        }
        Self { _process: process, http, addresses }
    }

    /// What the grid was asked for since the last call.
    fn take_counts(&self) -> Value {
        let mut stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        write!(stream, "GET /__counts?reset=1 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http)
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

/// The proxy as users run it.
struct Proxy {
    process: Running,
    listen: SocketAddr,
}

impl Proxy {
    fn start(grid: &Grid, data_dir: &Path) -> Self {
        // Held together until both are known, so that they differ.
        let (first, second) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let (listen, control) = (first.local_addr().unwrap(), second.local_addr().unwrap());
        drop((first, second));
        let mut process = Running::start(
            Command::new(env!("CARGO_BIN_EXE_rezcache"))
                .arg("proxy")
                .args(["--grid", &format!("http://{}/", grid.http)])
                .args(["--listen", &listen.to_string()])
                .args(["--control", &control.to_string()])
                .arg("--data-dir")
                .arg(data_dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null()),
        );
        let until = Instant::now() + LIMIT;
        while TcpStream::connect(listen).is_err() {
            if let Some(status) = process.0.try_wait().unwrap() {
                panic!("the proxy ended with {status} instead of listening on {listen}");
            }
            assert!(Instant::now() < until, "the proxy does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { process, listen }
    }
}

/// A client program that logs in at `login`.
fn client(python: &Path, name: &str, login: SocketAddr) -> Command {
    let mut command = Command::new(python);
    command
        .arg(script(name))
        .args(["--login-uri", &format!("http://{login}/")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // The client heeds these, and would ask another proxy for loopback addresses.
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command
}

/// Starts one client session; [`finish`] waits for it.
fn start_client(python: &Path, login: SocketAddr, user: &str, forbidden: &[String]) -> Running {
    start_client_with(python, login, user, forbidden, "--login-replies")
}

/// The same with another option of the program's.
fn start_client_with(
    python: &Path,
    login: SocketAddr,
    user: &str,
    forbidden: &[String],
    option: &str,
) -> Running {
    let mut command = client(python, "client_session.py", login);
    command.args(["--user", user, option]);
    if !forbidden.is_empty() {
        command.arg("--behind-proxy").args(forbidden);
    }
    Running::start(&mut command)
}

/// The report of a session that went well in every part.
fn finish(mut client: Running) -> Value {
    let text = read_within(client.0.stdout.take().unwrap(), |mut output| {
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        text
    });
    let status = client.0.wait().unwrap();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no report, {status}: {text}"));
    assert_eq!(report["ok"], true, "{:#}", report["errors"]);
    assert!(status.success());
    report
}

/// The picture that simulators send for those they cannot find; the proxy may ask for it by itself.
const MISSING_IMAGE: &str = "5748decc-f629-461c-9a36-a35a221fe21f";

/// How many asset requests the grid saw over this way: `http`, `udp` or `transfer`.
fn asked_over(way: &str, counts: &Value) -> u64 {
    let assets = counts["assets"][way].as_object().into_iter().flatten();
    assets.filter(|(id, _)| *id != MISSING_IMAGE).map(|(_, asset)| asset["requests"].as_u64().unwrap()).sum()
}

fn asked_over_http(counts: &Value) -> u64 {
    asked_over("http", counts)
}

#[test]
fn client_and_stand_in_grid_agree_without_a_proxy() {
    let Some(python) = python("client_and_stand_in_grid_agree_without_a_proxy") else {
        return;
    };
    let grid = Grid::start(&python);
    let report = finish(start_client(&python, grid.http, "Lab Alpha", &[]));
    assert!(report["http"].as_u64().unwrap() >= 85, "the captures hold 85 assets");
    let counts = grid.take_counts();
    assert!(asked_over_http(&counts) >= 85);
    assert_eq!(counts["logouts"], 1);
}

#[test]
fn second_session_through_a_restarted_proxy_asks_the_grid_for_no_asset_over_http() {
    let Some(python) =
        python("second_session_through_a_restarted_proxy_asks_the_grid_for_no_asset_over_http")
    else {
        return;
    };
    let data_dir = tempfile::tempdir().unwrap();
    let grid = Grid::start(&python);

    let proxy = Proxy::start(&grid, data_dir.path());
    finish(start_client(&python, proxy.listen, "Lab Alpha", &grid.addresses));
    let cold = grid.take_counts();
    assert!(asked_over_http(&cold) >= 85, "{cold:#}");
    assert!(proxy.process.terminate().success());

    let proxy = Proxy::start(&grid, data_dir.path());
    let report = finish(start_client(&python, proxy.listen, "Lab Alpha", &grid.addresses));
    let warm = grid.take_counts();
    assert_eq!(asked_over_http(&warm), 0, "{:#}", warm["assets"]["http"]);
    let answers = report["answers"].as_object().unwrap();
    assert!(answers.keys().all(|header| header.starts_with("hit")), "{answers:?}");
    // The rest of the session still reached the grid.
    assert_eq!(warm["logouts"], 1);
    assert_eq!(warm["circuits"], 3);
    // What HTTP taught came over LLUDP too.
    assert_eq!((report["udp"].as_u64(), report["transfer"].as_u64()), (Some(3), Some(5)));
    assert_eq!(asked_over("udp", &warm), 0, "{:#}", warm["assets"]["udp"]);
    assert_eq!(asked_over("transfer", &warm), 0, "{:#}", warm["assets"]["transfer"]);
}

#[test]
fn second_session_through_a_restarted_proxy_asks_the_simulators_for_no_asset() {
    let Some(python) = python("second_session_through_a_restarted_proxy_asks_the_simulators_for_no_asset")
    else {
        return;
    };
    let data_dir = tempfile::tempdir().unwrap();
    let grid = Grid::start(&python);
    let session = |listen, user| {
        let report = finish(start_client_with(&python, listen, user, &grid.addresses, "--only-udp"));
        assert_eq!((report["udp"].as_u64(), report["transfer"].as_u64()), (Some(12), Some(11)));
        assert_eq!(report["http"], 0);
        (grid.take_counts(), report)
    };

    let proxy = Proxy::start(&grid, data_dir.path());
    let (cold, _) = session(proxy.listen, "Lab Alpha");
    // Those asked for in both regions may have been learned in between.
    assert!((9..=12).contains(&asked_over("udp", &cold)), "{:#}", cold["assets"]);
    assert!((9..=11).contains(&asked_over("transfer", &cold)), "{:#}", cold["assets"]);
    assert!(proxy.process.terminate().success());

    let proxy = Proxy::start(&grid, data_dir.path());
    for user in ["Lab Alpha", "Lab Beta"] {
        let (warm, report) = session(proxy.listen, user);
        for way in ["udp", "transfer", "http"] {
            assert_eq!(asked_over(way, &warm), 0, "{:#}", warm["assets"]);
        }
        // The rest of the session still reached the grid, and the simulators missed nothing.
        assert_eq!((&warm["logouts"], &warm["circuits"]), (&1.into(), &3.into()));
        assert_eq!(warm["given_up"], Value::Null);
        let datagrams = &report["datagrams"];
        assert_eq!(datagrams["ImageData"], 12, "{datagrams}");
        assert_eq!(datagrams["TransferInfo"], 11, "{datagrams}");
    }
}

#[test]
fn two_clients_at_once_have_sessions_of_their_own() {
    let Some(python) = python("two_clients_at_once_have_sessions_of_their_own") else {
        return;
    };
    let data_dir = tempfile::tempdir().unwrap();
    let grid = Grid::start(&python);
    let proxy = Proxy::start(&grid, data_dir.path());
    let clients =
        ["Lab Alpha", "Lab Beta"].map(|user| start_client(&python, proxy.listen, user, &grid.addresses));
    for report in clients.map(finish) {
        assert_eq!(report["transfer"], 5);
        assert_eq!(report["udp"], 3);
    }
    let counts = grid.take_counts();
    assert_eq!(counts["logouts"], 2);
    assert_eq!(counts["circuits"], 6, "home, neighbour and the neighbour anew");
    assert_eq!(counts["circuits_refused"], Value::Null);
}

#[test]
fn broken_answers_of_the_grid_reach_the_client_as_breaks_and_are_not_kept() {
    let Some(python) = python("broken_answers_of_the_grid_reach_the_client_as_breaks_and_are_not_kept")
    else {
        return;
    };
    let data_dir = tempfile::tempdir().unwrap();
    let grid = Grid::start(&python);
    let proxy = Proxy::start(&grid, data_dir.path());
    let mut command = client(&python, "client_faults.py", proxy.listen);
    command.args(["--grid", &format!("http://{}", grid.http), "--cached"]);
    finish(Running::start(&mut command));
}
