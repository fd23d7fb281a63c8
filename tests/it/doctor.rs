//! `rezcache doctor` before set-ups that are broken for real: each is named, with the right advice, and
//! nothing else is blamed; before one that works it finds nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rezcache::checks::{CheckResult, Outcome, Report};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::within;

mod elsewhere;
mod here;

/// A grid, and a place for everything that one installation keeps.
struct Desk {
    folder: TempDir,
    grid: FakeGrid,
}

/// What the program found.
struct Found {
    code: Option<i32>,
    report: Report,
    text: String,
}

impl Desk {
    async fn new() -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap(), grid: FakeGrid::start().await };
        let login = desk.grid.url("/");
        desk.grid_says(&login, Duration::ZERO);
        desk
    }

    /// What the grid says of itself, with a clock that is so far ahead.
    fn grid_says(&self, login: &str, ahead: Duration) {
        let info = format!(
            "<gridinfo><platform>OpenSim</platform><login>{login}</login><gridname>Test</gridname></gridinfo>"
        );
        self.grid.on("/get_grid_info", move |_| {
            let date = httpdate::fmt_http_date(SystemTime::now() + ahead);
            Reply::new("200 OK", &[("Content-Type", "application/xml"), ("Date", &date)], &info)
        });
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The options of an installation that nothing is wrong with.
    fn options(&self) -> Vec<String> {
        let data = self.data();
        let grid = self.grid.url("/");
        let all = ["--listen", "127.0.0.1:0", "--control", "off", "--cache-size", "64MiB"];
        let own = ["--data-dir", data.to_str().unwrap(), "--grid", &grid];
        all.iter().chain(&own).map(|&word| word.to_owned()).collect()
    }

    /// The same without some of them (a flag with its value), and with others.
    fn changed(&self, without: &[&str], more: &[&str]) -> Vec<String> {
        let pairs = self.options();
        let kept = pairs.chunks(2).filter(|pair| !without.contains(&pair[0].as_str())).flatten().cloned();
        kept.chain(more.iter().map(|&word| word.to_owned())).collect()
    }

    async fn doctor(&self, without: &[&str], more: &[&str]) -> Found {
        run(&[], self.changed(without, more), &[]).await
    }
}

/// The real program, through `wrapper`.
async fn run(wrapper: &[&str], options: Vec<String>, environment: &[(&str, &str)]) -> Found {
    let mut words: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
    words.extend([env!("CARGO_BIN_EXE_rezcache"), "doctor", "--json"].map(str::to_owned));
    words.extend(options);
    let mut command = Command::new(&words[0]);
    command
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    let output = within(tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    Found { code: output.status.code(), report, text }
}

impl Found {
    /// What is not as it should be, by name.
    fn faults(&self) -> Vec<(&str, Outcome)> {
        let faults = self.report.checks.iter().filter(|check| check.outcome >= Outcome::Warning);
        faults.map(|check| (&*check.name, check.outcome)).collect()
    }

    fn check(&self, name: &str) -> &CheckResult {
        self.report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// This one thing is wrong, and it is said so, with this advice.
    #[track_caller]
    fn blames(&self, name: &str, outcome: Outcome, seen: &str, advice: &str) {
        assert_eq!(self.faults(), [(name, outcome)], "{}", self.text);
        self.says(name, outcome, seen, advice);
        assert_eq!(self.code, Some(i32::from(outcome == Outcome::Failed)));
    }

    #[track_caller]
    fn says(&self, name: &str, outcome: Outcome, seen: &str, advice: &str) {
        let check = self.check(name);
        assert_eq!(check.outcome, outcome, "{check:?}");
        assert!(check.seen.contains(seen), "{seen:?} is not in {check:?}");
        let given = check.advice.as_deref().unwrap_or_default();
        assert!(given.contains(advice), "{advice:?} is not in {check:?}");
    }

    #[track_caller]
    fn is_fine(&self) {
        assert_eq!(self.faults(), [], "{}", self.text);
        assert_eq!(self.code, Some(0));
    }
}

/// A port that was free a moment ago. Below those that systems give to who asks for any, so that no other test
/// is given it meanwhile.
async fn unused() -> SocketAddr {
    loop {
        let port = rand::random_range(20_000..30_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener.local_addr().unwrap();
        }
    }
}

/// The paths below a folder, to see that nothing was left there.
fn everything(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        found.extend(everything(&entry.path()));
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_start_there_is_nothing_to_find_and_nothing_is_made() {
    let desk = Desk::new().await;
    let found = desk.doctor(&[], &[]).await;
    found.is_fine();
    assert_eq!(found.report.summary, "Everything is as it should be.");
    assert_eq!(everything(desk.folder.path()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_people_read_has_a_sign_and_advice() {
    let desk = Desk::new().await;
    let options = desk.changed(&["--grid"], &["--grid", "http://nowhere.invalid/"]);
    let words: Vec<&str> = ["doctor"].into_iter().chain(options.iter().map(String::as_str)).collect();
    let mut command = crate::cli::command(&words);
    command.env("LANG", "C.UTF-8");
    let output = within(tokio::task::spawn_blocking(move || command.output())).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\n✗ nowhere.invalid: The name nowhere.invalid leads nowhere"), "{text}");
    assert!(text.contains("\n    See whether this computer is on the internet."), "{text}");
    assert!(text.ends_with("\n\n1 thing must be put right.\n"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let plain = crate::cli::rezcache(&words).out;
    assert!(plain.is_ascii() && plain.contains("\nx nowhere.invalid: "), "{plain}");
}
