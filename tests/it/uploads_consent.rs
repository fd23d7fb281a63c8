//! The real program asks before anything is uploaded, once, and takes silence for no.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A service that is never asked anything in these tests.
const SERVICE: &str = "http://127.0.0.1:9";

fn words(data: &Path, more: &[&str]) -> Vec<String> {
    let words = [env!("CARGO_BIN_EXE_rezcache"), "proxy", "--grid", "http://127.0.0.1:9/"];
    let ports = ["--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--cache-server", SERVICE];
    let mut words: Vec<String> =
        words.iter().chain(&ports).chain(more).map(|&word| word.to_owned()).collect();
    words.extend(["--data-dir".to_owned(), data.display().to_string()]);
    words
}

fn spawn(words: &[String]) -> Child {
    Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a program says until it runs; then it is ended by `end`.
fn until_running(mut child: Child, end: impl FnOnce(&mut Child)) -> (String, String) {
    let mut stdout = child.stdout.take().unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    let needle = b"end it with Ctrl-C";
    while !said.windows(needle.len()).any(|window| window == needle) {
        assert_eq!(stdout.read(&mut byte).unwrap(), 1, "it ended: {}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    end(&mut child);
    child.wait().unwrap();
    let (mut rest, mut errors) = (String::new(), String::new());
    stdout.read_to_string(&mut rest).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (String::from_utf8_lossy(&said).into_owned() + &rest, errors)
}

/// The same at a terminal where somebody types.
fn at_a_terminal(data: &Path, typed: &str) -> String {
    let mut all = vec!["python3".to_owned(), "-c".into(), "import pty,sys; pty.spawn(sys.argv[1:])".into()];
    all.extend(words(data, &[]));
    let mut child = spawn(&all);
    child.stdin.as_mut().unwrap().write_all(typed.as_bytes()).unwrap();
    // By what a person would type: killing the terminal alone may leave the program behind.
    until_running(child, |child| child.stdin.as_mut().unwrap().write_all(b"\x03").unwrap()).0
}

fn killed(child: &mut Child) {
    child.kill().unwrap();
}

const QUESTION: &str = "May rezcache share assets with the cache server http://127.0.0.1:9?";
const REFUSED: &str = "nothing is uploaded to the cache server, since nobody has said yes";

#[test]
fn with_nobody_to_ask_nothing_is_uploaded_and_one_line_says_so() {
    let data = tempfile::tempdir().unwrap();
    let (said, errors) = until_running(spawn(&words(data.path(), &[])), killed);
    assert_eq!(errors.matches(REFUSED).count(), 1, "{errors}");
    assert!(!said.contains("shared with the cache server"), "{said}");
    assert!(!data.path().join("uploads").exists() && !data.path().join("upload-consent").exists());
}

#[test]
fn a_flag_is_an_answer() {
    let data = tempfile::tempdir().unwrap();
    let (said, errors) = until_running(spawn(&words(data.path(), &["--upload", "yes"])), killed);
    assert!(!errors.contains(REFUSED), "{errors}");
    let token = std::fs::read_to_string(data.path().join("control-token")).unwrap();
    // It is printed on a terminal only: elsewhere it would end up in a journal.
    assert!(!said.contains(&token), "{said}");
    assert!(data.path().join("uploads/queue").exists());
    // And the opposite takes back what waits.
    let (said, errors) = until_running(spawn(&words(data.path(), &["--upload", "no"])), killed);
    assert!(!errors.contains(REFUSED) && !said.contains(&token), "{errors}{said}");
    assert!(!data.path().join("uploads").exists());
}

#[test]
fn at_a_terminal_the_first_run_asks_and_remembers() {
    for (typed, answer) in [("yes\n", "yes"), ("what?\nno\n", "no")] {
        let data = tempfile::tempdir().unwrap();
        let said = at_a_terminal(data.path(), typed);
        assert_eq!(said.matches(QUESTION).count(), 1, "{said}");
        assert!(said.contains("Never sent: your login"), "{said}");
        let token = std::fs::read_to_string(data.path().join("control-token")).unwrap();
        assert!(said.contains(&format!("/#{token}")), "{said}");
        let kept = std::fs::read_to_string(data.path().join("upload-consent")).unwrap();
        assert_eq!(kept, format!("{answer} {SERVICE}\n"));
        assert_eq!(data.path().join("uploads/queue").exists(), answer == "yes");
        let said = at_a_terminal(data.path(), "");
        assert!(!said.contains(QUESTION), "asked twice: {said}");
        assert_eq!(data.path().join("uploads/queue").exists(), answer == "yes");
    }
}
