//! The live line on a real terminal: drawn over and over, never mixed with logs, gone at the end; and none
//! where it could not be drawn over.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::client::get;
use crate::support::within;

const LIVE: &str = "no viewer has asked for anything yet | 0 requests now";
const LOG: &str = "a request to the control port was refused";

/// The real proxy in a terminal of its own.
struct Terminal {
    child: Child,
    said: Vec<u8>,
}

impl Terminal {
    fn open(data: &Path, environment: &[(&str, &str)]) -> Self {
        let script = "import pty,sys; pty.spawn(sys.argv[1:])";
        let child = Command::new("python3")
            .args(["-c", script, env!("CARGO_BIN_EXE_rezcache"), "proxy", "-v"])
            .args(["--grid", "http://127.0.0.1:9/", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", "/nonexistent")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, said: Vec::new() }
    }

    /// Reads on until this has been said so often.
    fn until(&mut self, needle: &str, times: usize) {
        let mut piece = [0; 1024];
        while self.text().matches(needle).count() < times {
            let length = self.child.stdout.as_mut().unwrap().read(&mut piece).unwrap();
            assert_ne!(length, 0, "it ended: {}", self.text());
            self.said.extend_from_slice(&piece[..length]);
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Ends it as a person does, and gives all that was said.
    fn end(mut self) -> String {
        self.child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap();
        self.child.stdout.as_mut().unwrap().read_to_end(&mut self.said).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.text()
    }
}

/// What a person sees in the end: the rows of a terminal that takes these characters.
fn rows(said: &str) -> Vec<String> {
    let (mut rows, mut column) = (vec![Vec::new()], 0);
    let mut characters = said.chars();
    while let Some(character) = characters.next() {
        let row = rows.last_mut().unwrap();
        match character {
            '\r' => column = 0,
            '\n' => rows.push(Vec::new()),
            '\x1b' => {
                // Colours.
                let end = characters.find(|c| c.is_ascii_alphabetic());
                assert_eq!(end, Some('m'), "an escape that not every terminal knows");
            }
            other => {
                row.resize(row.len().max(column + 1), ' ');
                row[column] = other;
                column += 1;
            }
        }
    }
    rows.into_iter().map(|row| row.into_iter().collect::<String>().trim_end().to_owned()).collect()
}

/// A request of a foreign page, which is refused and logged.
async fn refused(control: SocketAddr) {
    let mut stream = within(TcpStream::connect(control)).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    within(stream.write_all(request.as_bytes())).await.unwrap();
    let mut answer = Vec::new();
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer)).await;
}

fn control(said: &str) -> SocketAddr {
    let (_, rest) = said.split_once("what can be changed: http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn logs_and_the_line_never_mix_and_nothing_of_it_is_left() {
    let data = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(data.path(), &[("TERM", "xterm"), ("NO_COLOR", "1")]);
    terminal.until(LIVE, 1);
    let control = control(&terminal.text());
    for n in 1..=3 {
        refused(control).await;
        terminal.until(LOG, n);
        // It comes back below.
        terminal.until(LIVE, n + 1);
    }
    let said = terminal.end();
    assert!(!said.contains('\x1b'), "no colours were wanted");
    let rows = rows(&said);
    assert_eq!(rows.iter().filter(|row| row.contains(LOG)).count(), 3, "{rows:#?}");
    assert!(rows.iter().any(|row| row.ends_with("stopping")), "{rows:#?}");
    assert!(rows.iter().all(|row| !row.contains(" | ")), "the line is gone: {rows:#?}");
}

/// As when somebody has marked text in it.
#[tokio::test]
async fn a_terminal_that_takes_nothing_holds_up_nobody() {
    let data = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::open(data.path(), &[("TERM", "xterm")]);
    terminal.until(LIVE, 1);
    let control = control(&terminal.text());
    // More than pipes and terminals hold, and nobody reads.
    for _ in 0..1500 {
        refused(control).await;
    }
    assert_eq!(get(control, "/status.json", &[]).await.status, 200);
    let rows = rows(&terminal.end());
    let told = rows.iter().filter(|row| row.contains(LOG)).count();
    assert!((100..=1500).contains(&told), "{told}");
}

#[tokio::test]
async fn a_terminal_that_cannot_be_drawn_on_is_not() {
    for environment in [&[("TERM", "dumb")][..], &[], &[("TERM", "xterm"), ("REZCACHE_LOG_FORMAT", "json")]] {
        let data = tempfile::tempdir().unwrap();
        let mut terminal = Terminal::open(data.path(), environment);
        let json = environment.len() == 2;
        terminal.until(if json { "\"control\"" } else { "end it with Ctrl-C" }, 1);
        terminal.until("\n", if json { 1 } else { 5 });
        let said = terminal.end();
        assert!(said.contains("stopping") && !said.contains(LIVE), "{environment:?}: {said}");
        assert!(!said.replace("\r\n", "").contains('\r'), "{environment:?}: {said:?}");
    }
}
