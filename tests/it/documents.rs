//! Every command that the documents show is run here, as it stands there.
//!
//! A fenced block marked `sh` holds commands for bash. The blocks of one document run one after the other in one
//! empty home, with the built program on the path and these replacements for what a reader replaces too:
//! addresses and ports by free ones on loopback, the example grid by a stand-in, system folders by folders of
//! the home, `pin=…` by the pin that a node of the same document printed. A comment before a block says what is
//! special about it:
//!
//! - `<!-- test: stays -->`: the last command goes on running (a proxy, a node) until the same subcommand is
//!   started again, or to the document's end; it is ready once it prints.
//! - `<!-- test: by PATH… -->`: these scripts run it, since it takes another machine or longer. One of them must
//!   name the first two words of each command in the block.
//!
//! Blocks marked `toml` must pass `rezcache check-config`. A block with no mark is output or a picture, and may
//! not hold a command. Commands within a sentence must be there in `--help`, with the flags they name.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use crate::cli::rezcache;
use crate::support::fake_grid::{FakeGrid, Reply};

/// What a block's command has before it counts as one that hangs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A fenced block.
struct Block {
    line: usize,
    mark: String,
    directive: String,
    text: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All documents, by their path in the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("packaging")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|e| e == "md") {
                found.push(entry.path());
            }
        }
    }
    found.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name)));
    found.sort();
    found
}

fn blocks(text: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut directive = String::new();
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim_start();
        if let Some(comment) = trimmed.strip_prefix("<!-- test:") {
            directive = comment.trim_end_matches("-->").trim().to_owned();
        } else if let Some(mark) = trimmed.strip_prefix("```") {
            let mut text = String::new();
            for (_, line) in lines.by_ref() {
                if line.trim() == "```" {
                    break;
                }
                text.push_str(line.trim_start());
                text.push('\n');
            }
            let directive = std::mem::take(&mut directive);
            found.push(Block { line: number + 1, mark: mark.to_owned(), directive, text });
        } else if !trimmed.is_empty() {
            assert!(directive.is_empty(), "line {}: a test comment stands before no block", number + 1);
        }
    }
    found
}

/// The commands of a block: continued lines joined, comments and what is piped away left out.
fn commands(text: &str) -> Vec<String> {
    text.replace("\\\n", " ")
        .lines()
        .map(|line| line.split(" #").next().unwrap_or("").trim().to_owned())
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

fn is_command(line: &str) -> bool {
    let starts =
        ["rezcache ", "cargo ", "tests/run", "packaging/build", "systemctl ", "apt ", "sudo ", "curl "];
    starts.iter().any(|start| line.starts_with(start)) || line == "rezcache"
}

struct Running {
    process: Child,
    /// The first two words of its command.
    what: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-TERM", "--", &group]).status();
        let _ = self.process.wait();
    }
}

/// Where one document's commands run.
struct Stage {
    home: tempfile::TempDir,
    replacements: Vec<(String, String)>,
    running: Vec<Running>,
}

impl Stage {
    fn new(grid: &FakeGrid) -> Self {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_rezcache"), bin.join("rezcache")).unwrap();
        std::os::unix::fs::symlink(root().join("fixtures"), home.path().join("fixtures")).unwrap();
        // A viewer to be found and started.
        let viewer = bin.join("firestorm");
        std::fs::write(&viewer, "#!/bin/sh\necho \"$0 $*\" >>\"$HOME/viewer-started\"\n").unwrap();
        std::fs::set_permissions(&viewer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        for folder in ["etc/rezcache", "var/lib/rezcache"] {
            std::fs::create_dir_all(home.path().join(folder)).unwrap();
        }
        let path = |folder: &str| home.path().join(folder).to_str().unwrap().to_owned();
        let mut replacements = vec![
            ("cargo run --release -- ".into(), "rezcache ".into()),
            ("http://login.grid.example/".into(), grid.url("/")),
            ("login.grid.example".into(), grid.at.to_string()),
            ("192.168.1.5".into(), "127.0.0.1".into()),
            ("/var/lib/rezcache".into(), path("var/lib/rezcache")),
            ("/etc/rezcache".into(), path("etc/rezcache")),
        ];
        // All held at once, so that they differ.
        let free: Vec<_> = (0..5).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        for (port, listener) in ["8443", "9080", "9079", "5300", "8053"].into_iter().zip(&free) {
            let free = listener.local_addr().unwrap().port();
            replacements.push((format!(":{port}"), format!(":{free}")));
            replacements.push((format!("-p {port}"), format!("-p {free}")));
        }
        Self { home, replacements, running: Vec::new() }
    }

    fn replaced(&self, text: &str) -> String {
        self.replacements.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
    }

    fn bash(&self, text: &str) -> Command {
        use std::os::unix::process::CommandExt as _;
        let home = self.home.path();
        let mut path = home.join("bin").into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut command = Command::new("bash");
        command
            .args(["-eu", "-o", "pipefail", "-c", &self.replaced(text)])
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("REZCACHE_LOGIN_GRACE", "0s")
            // A proxy's ports follow one another: it has to be told the free ones.
            .env("REZCACHE_LISTEN", self.replaced("127.0.0.1:9080"))
            .env("REZCACHE_CONTROL", self.replaced("127.0.0.1:9079"))
            .env("REZCACHE_SERVE_LISTEN", self.replaced("127.0.0.1:8443"))
            .env("REZCACHE_DNS_LISTEN", self.replaced("127.0.0.1:5300"))
            .env("REZCACHE_STATUS_LISTEN", self.replaced("127.0.0.1:8053"))
            .stdin(Stdio::null())
            .process_group(0);
        command
    }

    fn run(&self, text: &str) -> Result<String, String> {
        let out = self.home.path().join("out");
        let file = std::fs::File::create(&out).unwrap();
        let mut command = self.bash(text);
        command.stdout(file.try_clone().unwrap()).stderr(file);
        let running = Running { process: command.spawn().unwrap(), what: String::new() };
        let status = wait(running, PATIENCE);
        let out = std::fs::read_to_string(&out).unwrap();
        match status {
            Some(0) => Ok(out),
            Some(code) => Err(format!("exit status {code}:\n{out}")),
            None => Err(format!("still running after {} s:\n{out}", PATIENCE.as_secs())),
        }
    }

    /// Starts what does not end, and waits until it has printed what it is ready with.
    fn start(&mut self, command: &str) -> Result<(), String> {
        // What is run is replaced once, by `bash`: a path within the home holds what is replaced.
        let what = self.replaced(command);
        let what = what.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
        self.running.retain(|running| running.what != what);
        let errors = self.home.path().join("errors");
        let mut bash = self.bash(&format!("exec {command}"));
        bash.stdout(Stdio::piped()).stderr(std::fs::File::create(&errors).unwrap());
        let mut process = bash.spawn().unwrap();
        let out = process.stdout.take().unwrap();
        self.running.push(Running { process, what });
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let failed = |why: &str| {
            let errors = std::fs::read_to_string(&errors).unwrap_or_default();
            format!("`{command}` {why}:\n{errors}")
        };
        let mut printed = told.recv_timeout(PATIENCE).map_err(|_| failed("printed nothing"))?;
        // The rest of what it says at its start comes at once.
        while let Ok(line) = told.recv_timeout(Duration::from_millis(300)) {
            let _ = write!(printed, "\n{line}");
        }
        self.remember(&printed);
        Ok(())
    }

    /// What a reader copies from a program's output into the next command.
    fn remember(&mut self, printed: &str) {
        if let Some(at) = printed.find("pin=sha256:") {
            let pin: String =
                printed[at..].chars().take_while(|c| !matches!(c, '\'' | '"' | '&' | '\n' | ' ')).collect();
            self.replacements.insert(0, ("pin=…".into(), pin.clone()));
            self.replacements.insert(0, ("pin=sha256:…".into(), pin));
        }
        if let Some(at) = printed.find("rezcache://") {
            let line: String =
                printed[at..].chars().take_while(|c| !matches!(c, '\'' | '"' | '\n' | ' ')).collect();
            self.replacements.insert(0, ("rezcache://…".into(), line));
        }
        if let Some(token) = printed.split("/#").nth(1) {
            let token = token.chars().take_while(char::is_ascii_hexdigit).collect();
            self.replacements.insert(0, ("TOKEN".into(), token));
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.running.clear();
        // Nodes that a director has opened outlive it.
        let home = self.home.path().to_str().unwrap();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            if words.contains("\0serve\0") && words.contains(home) {
                let _ = Command::new("kill").arg("-KILL").arg(entry.file_name()).status();
            }
        }
    }
}

fn wait(mut running: Running, patience: Duration) -> Option<i32> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < patience {
        if let Some(status) = running.process.try_wait().unwrap() {
            return Some(status.code().unwrap_or(-1));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

async fn grid() -> FakeGrid {
    let grid = FakeGrid::start().await;
    let at = grid.at;
    grid.on("/get_grid_info", move |_| {
        Reply::ok(
            "application/xml",
            format!("<gridinfo><login>http://{at}/</login><gridname>Example</gridname><gridnick>example</gridnick></gridinfo>"),
        )
    });
    grid
}

fn run_document(path: &Path, grid: &FakeGrid) -> Vec<String> {
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let text = std::fs::read_to_string(path).unwrap();
    let mut stage = Stage::new(grid);
    let mut problems = Vec::new();
    for block in blocks(&text) {
        let mut problem = |what: String| problems.push(format!("{name}:{}: {what}", block.line));
        let commands = commands(&block.text);
        match (block.mark.as_str(), block.directive.split_once(' ')) {
            ("sh", Some(("by", script))) => {
                let read = |script| std::fs::read_to_string(root().join(script)).unwrap_or_default();
                let script_text: String = script.split_whitespace().map(read).collect();
                for command in commands {
                    let words: Vec<_> = command.split_whitespace().take(2).collect();
                    if !script_text.contains(&words.join(" ")) {
                        problem(format!("{script} does not run `{command}`"));
                    }
                }
            }
            ("sh", None) if block.directive == "stays" => {
                let Some((last, first)) = commands.split_last() else { continue };
                let before = if first.is_empty() { Ok(String::new()) } else { stage.run(&first.join("\n")) };
                if let Err(what) = before.and_then(|_| stage.start(last).map(|()| String::new())) {
                    problem(what);
                }
            }
            ("sh", None) if block.directive.is_empty() => match stage.run(&block.text) {
                Ok(printed) => stage.remember(&printed),
                Err(what) => problem(what),
            },
            ("toml", None) => {
                let file = stage.home.path().join("block.toml");
                std::fs::write(&file, stage.replaced(&block.text)).unwrap();
                if let Err(what) = stage.run("rezcache check-config --config block.toml") {
                    problem(what);
                }
            }
            ("sh" | "toml", _) => problem(format!("unknown test comment `{}`", block.directive)),
            (_, _) => {
                for command in commands.iter().filter(|command| is_command(command)) {
                    problem(format!("`{command}` is shown, but the block is not marked `sh`"));
                }
            }
        }
    }
    problems
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_shown_runs() {
    let grid = std::sync::Arc::new(grid().await);
    let runs = documents().into_iter().map(|path| {
        let grid = std::sync::Arc::clone(&grid);
        tokio::task::spawn_blocking(move || run_document(&path, &grid))
    });
    let mut problems = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        problems.extend(run.await.unwrap());
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The spans between single backticks, outside blocks.
fn inline_commands(text: &str) -> Vec<String> {
    let mut outside = String::new();
    let mut inside = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            outside.push_str(line.trim());
            outside.push(' ');
        }
    }
    let spans = outside.split('`').skip(1).step_by(2);
    spans.filter(|span| span.starts_with("rezcache ")).map(ToOwned::to_owned).collect()
}

#[test]
fn commands_within_sentences_are_in_the_help() {
    let mut problems = Vec::new();
    for path in documents() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        for command in inline_commands(&std::fs::read_to_string(&path).unwrap()) {
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let names: Vec<&str> = words
                .iter()
                .copied()
                .take_while(|word| {
                    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-')
                })
                .collect();
            // `incident open|update|close` and such: the first words must be there, values may follow.
            let help = (0..=names.len()).rev().find_map(|count| {
                let mut arguments = names[..count].to_vec();
                arguments.push("--help");
                let run = rezcache(&arguments);
                (run.code == 0).then_some((count, run.out))
            });
            let Some((count, help)) = help else {
                problems.push(format!("{name}: `{command}` is no command"));
                continue;
            };
            if count == 0 && !names.is_empty() {
                problems.push(format!("{name}: `{command}` is no command"));
            }
            for flag in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let flag = flag.split(['=', '[', ',']).next().unwrap_or(flag);
                if !help.contains(flag) {
                    problems.push(format!("{name}: `{command}`: the help does not know {flag}"));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
