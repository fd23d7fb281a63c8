//! What people script against, held by files in `golden/`: help texts, metric names, status keys, and
//! the template of the configuration. `REZCACHE_BLESS=1` writes them anew; the diff is then the review.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use rezcache::support::metrics::Metrics;
use rezcache::support::{prometheus, status::Status};

use crate::cli::rezcache;

fn golden(name: &str, actual: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden").join(name);
    if std::env::var_os("REZCACHE_BLESS").is_some() {
        std::fs::write(&path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(expected, actual, "{} differs; REZCACHE_BLESS=1 accepts the change", path.display());
}

#[test]
fn help_of_every_subcommand() {
    let names = [
        "",
        "proxy",
        "run",
        "replay",
        "serve",
        "director",
        "store",
        "token",
        "join",
        "status",
        "doctor",
        "check-config",
    ];
    for name in names.into_iter().chain([
        "token keygen",
        "token new",
        "token list",
        "token revoke",
        "director maintain",
        "director incident",
    ]) {
        let mut arguments: Vec<&str> = name.split_whitespace().collect();
        arguments.push("--help");
        let run = rezcache(&arguments);
        assert_eq!(run.code, 0, "{run:?}");
        let file = if name.is_empty() { "rezcache".into() } else { name.replace(' ', "-") };
        golden(&format!("help-{file}.txt"), &run.out);
    }
}

#[test]
fn help_of_the_stores_commands() {
    let mut all = String::new();
    for words in [
        "verify",
        "stat",
        "keys",
        "keys list",
        "keys export",
        "keys import",
        "keys rotate",
        "reseal",
        "distrust",
        "prune",
    ] {
        let arguments: Vec<_> = ["store"].into_iter().chain(words.split(' ')).chain(["--help"]).collect();
        let run = rezcache(&arguments);
        assert_eq!(run.code, 0, "{run:?}");
        // What is common to all stands in the help of `store`.
        let own = run.out.split("\nStore options:").next().expect("help");
        let _ = write!(all, "== store {words}\n{own}");
    }
    golden("help-store-commands.txt", &all);
}

#[test]
fn every_subcommand_has_a_golden_help() {
    let help = rezcache(&["--help"]).out;
    let commands: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        commands,
        [
            "proxy",
            "run",
            "replay",
            "serve",
            "director",
            "store",
            "token",
            "join",
            "status",
            "doctor",
            "check-config",
            "help"
        ]
    );
}

#[test]
fn metric_names() {
    let text = prometheus::render(&Metrics::default());
    let names: String = text
        .lines()
        .filter(|line| !line.starts_with("# HELP"))
        .map(|line| if line.starts_with('#') { line } else { line.rsplit_once(' ').expect("a value").0 })
        .map(|line| line.replace(env!("CARGO_PKG_VERSION"), "VERSION") + "\n")
        .collect();
    golden("metrics.txt", &names);
}

#[test]
fn status_keys() {
    let metrics = Metrics::default();
    metrics.set_service("working", true, Duration::from_millis(40));
    let status = serde_json::to_value(Status::of(&metrics, Duration::ZERO)).expect("JSON");
    let mut keys = BTreeSet::new();
    walk("", &status, &mut keys);
    let mut text = String::new();
    for key in keys {
        let _ = writeln!(text, "{key}");
    }
    golden("status-keys.txt", &text);
}

/// What `rezcache doctor --json` is made of, and the labels of its checks.
#[test]
fn doctor_keys_and_labels() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("UTF-8");
    let words =
        ["doctor", "--json", "--data-dir", data, "--control", "off", "--grid", "http://nowhere.invalid/"];
    let run = rezcache(&words);
    let report: serde_json::Value = serde_json::from_str(&run.out).expect("JSON");
    let (mut keys, mut labels) = (BTreeSet::new(), String::new());
    walk("", &report, &mut keys);
    for check in report["checks"].as_array().expect("a list") {
        walk("checks[]", check, &mut keys);
        let _ = writeln!(labels, "{}", check["name"].as_str().expect("a name"));
    }
    let keys: Vec<_> = keys.into_iter().collect();
    golden("doctor.txt", &format!("{}\n\n{labels}", keys.join("\n")));
}

fn walk(prefix: &str, value: &serde_json::Value, keys: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(object) => object.iter().for_each(|(key, inner)| walk(&format!("{prefix}.{key}"), inner, keys)),
        None => {
            keys.insert(prefix.trim_start_matches('.').to_owned());
        }
    }
}

fn template() -> (PathBuf, String) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging/rezcache.toml");
    let text = std::fs::read_to_string(&path).expect("the template");
    (path, text)
}

#[test]
fn the_template_as_shipped_changes_nothing() {
    let (path, _) = template();
    let file = rezcache(&["check-config", "--data-dir", "/d", "--config", path.to_str().expect("UTF-8")]);
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("none.toml"), "").expect("written");
    let empty = folder.path().join("none.toml");
    let none = rezcache(&["check-config", "--data-dir", "/d", "--config", empty.to_str().expect("UTF-8")]);
    let rest =
        |out: &str| out.lines().filter(|line| !line.starts_with("file ")).collect::<Vec<_>>().join("\n");
    assert_eq!((file.code, rest(&file.out)), (0, rest(&none.out)), "{}", file.err);
}

#[test]
fn the_template_with_everything_switched_on_is_valid_and_complete() {
    let (_, text) = template();
    // `#key = value` and `#[section]` are settings; `# words` are words.
    let active: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").expect("written");
    std::fs::write(folder.path().join("token"), "header.payload.signature\n").expect("written");
    std::fs::write(folder.path().join("mail-password"), "secret\n").expect("written");
    let path = folder.path().join("all.toml");
    std::fs::write(&path, &active).expect("written");
    let run = rezcache(&["check-config", "--config", path.to_str().expect("UTF-8")]);
    assert_eq!(run.code, 0, "{run:?}");

    // Whatever may be written is in it: an unknown key's message lists what is known.
    for section in [
        "",
        "[proxy]\n",
        "[run]\n",
        "[replay]\n",
        "[serve]\n",
        "[[grid]]\nurl = \"x\"\n",
        "[director]\n",
        "[scaling]\n",
        "[alerts]\n",
        "[[node]]\nname = \"otter\"\nurl = \"https://x:1\"\n",
    ] {
        std::fs::write(&path, format!("{section}nonsense = 1\n")).expect("written");
        let run = rezcache(&["check-config", "--config", path.to_str().expect("UTF-8")]);
        let known = run.err.split("known are ").nth(1).expect("known keys").trim();
        for key in known.split(", ") {
            let there = active
                .lines()
                .any(|line| line.starts_with(&format!("{key} =")) || line.trim_matches(['[', ']']) == key);
            assert!(there, "{section}{key} is not in packaging/rezcache.toml");
        }
    }
}
