//! Whether anything may be uploaded: the user's word, asked for once where there is somebody to ask.

use std::fs;
use std::io::{self, BufRead, IsTerminal as _, Write};
use std::path::Path;

use crate::support::private_file;

/// The file's name within the data directory.
pub(super) const FILE_NAME: &str = "upload-consent";
/// How often a question is put that is answered neither way.
const TRIES: usize = 3;

/// What came of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consent {
    /// Upload.
    Given,
    /// Do not; and what an earlier consent left in the queue goes.
    Refused,
    /// Nobody has answered: do not, for now.
    Unanswered,
}

/// Finds out whether to upload to `service`: `said` beforehand, else remembered, else asked.
pub(super) fn find_out(said: Option<bool>, data_dir: &Path, service: &str, may_ask: bool) -> Consent {
    if let Some(said) = said {
        return if said { Consent::Given } else { Consent::Refused };
    }
    if let Some(remembered) = remembered(data_dir, service) {
        return if remembered { Consent::Given } else { Consent::Refused };
    }
    match may_ask.then(|| ask_at_terminal(service)).flatten() {
        Some(answer) => {
            if let Err(error) = remember(data_dir, service, answer) {
                tracing::warn!(%error, "the answer cannot be remembered; you will be asked again");
            }
            if answer { Consent::Given } else { Consent::Refused }
        }
        None => Consent::Unanswered,
    }
}

/// Asks whether to upload to `service`, where there is somebody to ask. The answer is the caller's to
/// remember.
pub(super) fn ask_at_terminal(service: &str) -> Option<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    ask(&mut io::stdin().lock(), &mut io::stderr().lock(), service)
}

/// What was answered for this service. A file that we did not write counts as no answer.
fn remembered(data_dir: &Path, service: &str) -> Option<bool> {
    let text = fs::read_to_string(data_dir.join(FILE_NAME)).ok()?;
    text.lines().find_map(|line| match line.split_once(' ') {
        Some(("yes", of)) if of == service => Some(true),
        Some(("no", of)) if of == service => Some(false),
        _ => None,
    })
}

fn remember(data_dir: &Path, service: &str, answer: bool) -> io::Result<()> {
    let path = data_dir.join(FILE_NAME);
    let word = if answer { "yes" } else { "no" };
    let mut text = format!("{word} {service}\n");
    if let Ok(before) = fs::read_to_string(&path) {
        for line in before.lines().filter(|line| !line.ends_with(&format!(" {service}"))).take(20) {
            text.push_str(line);
            text.push('\n');
        }
        fs::remove_file(&path)?;
    }
    private_file::create(&path, text.as_bytes())
}

/// Puts the question. `None` when it was not answered.
fn ask(input: &mut impl BufRead, output: &mut impl Write, service: &str) -> Option<bool> {
    let text = format!(
        "\nMay rezcache share assets with the cache server {service}?\n\
         \n\
         If you say yes, what the grid sends you of its public assets is given to that server, so that others\n\
         and you yourself get it from there: textures, sounds, animations, meshes and materials, each with its\n\
         id, the name of the grid, and a hash that stands for the simulator or asset server it came from.\n\
         \n\
         Never sent: your login, your name or your avatar's, passwords, chat, instant messages, inventory,\n\
         objects, scripts, notecards, landmarks, where you are, and the baked textures of avatars.\n\
         \n\
         The answer is remembered for this server; --upload yes or --upload no overrules it.\n"
    );
    output.write_all(text.as_bytes()).ok()?;
    for _ in 0..TRIES {
        output.write_all(b"Share assets? [yes/no] ").and_then(|()| output.flush()).ok()?;
        let mut line = String::new();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => return Some(true),
            "n" | "no" => return Some(false),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SERVICE: &str = "https://cache.example.org:8443";

    fn asked(answers: &str) -> (Option<bool>, String) {
        let mut output = Vec::new();
        let answer = ask(&mut answers.as_bytes(), &mut output, SERVICE);
        (answer, String::from_utf8(output).unwrap())
    }

    #[test]
    fn only_a_clear_word_is_an_answer() {
        for (answers, answer) in [
            ("yes\n", Some(true)),
            ("Y\n", Some(true)),
            ("no\n", Some(false)),
            ("\nperhaps\nN\n", Some(false)),
            ("\n\n\nyes\n", None),
            ("", None),
        ] {
            assert_eq!(asked(answers).0, answer, "{answers:?}");
        }
    }

    #[test]
    fn the_question_says_what_leaves_and_what_does_not() {
        let (_, text) = asked("no\n");
        for word in [
            SERVICE,
            "textures",
            "meshes",
            "name of the grid",
            "Never sent",
            "passwords",
            "chat",
            "inventory",
        ] {
            assert!(text.contains(word), "{word}");
        }
    }

    #[test]
    fn an_answer_holds_for_one_service() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(remembered(dir.path(), SERVICE), None);
        remember(dir.path(), SERVICE, true).unwrap();
        assert_eq!(find_out(None, dir.path(), SERVICE, true), Consent::Given);
        assert_eq!(remembered(dir.path(), "https://other.example:8443"), None);
        remember(dir.path(), "https://other.example:8443", false).unwrap();
        assert_eq!(find_out(None, dir.path(), "https://other.example:8443", true), Consent::Refused);
        assert_eq!(remembered(dir.path(), SERVICE), Some(true));
        remember(dir.path(), SERVICE, false).unwrap();
        assert_eq!(find_out(None, dir.path(), SERVICE, true), Consent::Refused);
        // What is said now counts, and is not remembered.
        assert_eq!(find_out(Some(true), dir.path(), SERVICE, true), Consent::Given);
        assert_eq!(remembered(dir.path(), SERVICE), Some(false));
    }

    #[test]
    fn nobody_to_ask_is_no_consent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(find_out(None, dir.path(), SERVICE, false), Consent::Unanswered);
        fs::write(dir.path().join(FILE_NAME), "yes\nyes \n\u{fffd}").unwrap();
        assert_eq!(find_out(None, dir.path(), SERVICE, false), Consent::Unanswered);
    }
}
