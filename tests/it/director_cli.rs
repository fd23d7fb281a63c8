//! `rezcache director` as it is typed: what it says at its start, planned maintenance, and how it ends.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cli::{Run, rezcache};
use crate::support::directors::{DirectorProcess, Orphans, Webhook, free_port};

const ZONE: &str = "cache.example.org";
const PATIENCE: Duration = Duration::from_secs(40);

fn maintain(folder: &Path, words: &[&str]) -> Run {
    let file = folder.join("director/director.toml");
    let before = ["director", "maintain"];
    let after = ["--config", file.to_str().unwrap()];
    rezcache(&[&before, words, &after].concat())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planned_maintenance_takes_a_node_out_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["127.0.0.5", "127.0.0.6"];
    let port = free_port(&hosts);
    let _cleanup = Orphans(port);
    let config = format!(
        "[director]\nname = \"crane\"\nzone = \"{ZONE}\"\ndns_listen = \"127.0.0.1:0\"\nns = [\"ns1.example.org\"]\n\
         status_listen = \"127.0.0.1:0\"\nstore = \"file://{}\"\nprobe_interval_s = 1\nttl_s = 1\nslow_start_s = 0\n\
         [scaling]\nprovisioner = \"process\"\naddresses = [\"{}:{port}\", \"{}:{port}\"]\nminimum = 2\nmaximum = 2\n\
         startup_s = 3\n",
        folder.path().join("store").display(),
        hosts[0],
        hosts[1],
    );
    let director = DirectorProcess::start(&folder.path().join("director"), &config, &[]);
    // Both were opened at once, and each has an address of its own.
    director.until_named(ZONE, &hosts, PATIENCE).await;
    let picture = director.picture().await;
    let name = picture["nodes"][0]["name"].as_str().unwrap().to_owned();

    let planned = maintain(folder.path(), &[&name, "--until", "2h", "--reason", "new disks"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    director
        .until("in maintenance", PATIENCE, |picture| {
            picture["nodes"][0]["maintenance"]["reason"] == "new disks"
        })
        .await;
    assert_eq!(director.named(ZONE).await.len(), 1);
    let plans = maintain(folder.path(), &[]).out;
    assert!(plans.starts_with(&name) && plans.ends_with("more  new disks\n"), "{plans}");
    for (words, told) in [
        (&["nobody", "--until", "2h", "--reason", "x"][..], "there is no node nobody"),
        (&[name.as_str(), "--until", "2020-01-01", "--reason", "x"], "over already"),
        (&[name.as_str(), "--until", "2h", "--reason", " "], "1 to 200 characters"),
        (&["nobody", "--end"], "no maintenance of nobody"),
        (&[name.as_str()], "until when"),
    ] {
        let run = maintain(folder.path(), words);
        assert!(run.code == 1 && run.err.contains(told), "{words:?} {run:?}");
    }
    assert_eq!(maintain(folder.path(), &[&name, "--end"]).code, 0);
    director.until_named(ZONE, &hosts, PATIENCE).await;
    assert!(maintain(folder.path(), &[]).out.contains("no maintenance is planned"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_director_leads_whatever_becomes_of_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[director]\nname = \"crane\"\nzone = \"{ZONE}\"\ndns_listen = \"127.0.0.1:0\"\nns = [\"ns1.example.org\"]\n\
         status_listen = \"127.0.0.1:0\"\ncatalog = \"sqlite://{}\"\nprobe_interval_s = 1\n\
         [[node]]\nname = \"otter\"\nurl = \"https://127.0.0.1:1\"\n",
        folder.path().join("catalog.sqlite").display(),
    );
    // Both have one name, by mistake.
    let first = DirectorProcess::start(&folder.path().join("first"), &config, &[]);
    let leads = |picture: &Value| picture["leading"] == true;
    first.until("leading", PATIENCE, leads).await;
    let second = DirectorProcess::start(&folder.path().join("second"), &config, &[]);
    second.until("seen a node lost", PATIENCE, |picture| picture["nodes"][0]["dot"] == "red").await;
    assert!(!leads(&second.picture().await));
    // The leader is stuck; another one leads. When it goes on it knows that its time is over.
    first.signal("-STOP");
    second.until("leading", PATIENCE, leads).await;
    first.signal("-CONT");
    first.until("knowing that it does not lead", PATIENCE, |picture| !leads(picture)).await;
    assert!(leads(&second.picture().await));
    // Who leaves in order gives the lead up.
    assert_eq!(second.terminate(), Some(0));
    first.until("leading again", PATIENCE, leads).await;
}

/// `rezcache director incident open|update|close` and `rezcache director alert-test`, as the guide shows them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_tell_the_public_and_try_their_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let webhook = Webhook::start().await;
    let config = format!(
        "[director]\nname = \"crane\"\nzone = \"{ZONE}\"\ndns_listen = \"127.0.0.1:0\"\nns = [\"ns1.example.org\"]\n\
         status_listen = \"127.0.0.1:0\"\ncatalog = \"sqlite://{}\"\nprobe_interval_s = 1\n\
         [[node]]\nname = \"otter\"\nurl = \"https://127.0.0.1:1\"\n[alerts]\nwebhook = \"{}\"\n",
        folder.path().join("catalog.sqlite").display(),
        webhook.url,
    );
    let director = DirectorProcess::start(&folder.path().join("director"), &config, &[]);
    let file = folder.path().join("director/director.toml");
    let run =
        |words: &[&str]| rezcache(&[&["director"], words, &["--config", file.to_str().unwrap()]].concat());
    let title = "Textures arrive slowly";
    let opened = run(&["incident", "open", title, "--text", "We are looking for the reason."]);
    assert_eq!(opened.code, 0, "{opened:?}");
    let shown = |what: &'static str| {
        move |picture: &Value| {
            let incidents = picture["incidents"].as_array().cloned().unwrap_or_default();
            incidents.iter().any(|it| it["title"] == title && it.to_string().contains(what))
        }
    };
    let picture = director.until("shown", PATIENCE, shown("We are looking for the reason.")).await;
    let incidents = picture["incidents"].as_array().unwrap();
    let id = incidents.iter().find(|it| it["title"] == title).unwrap()["id"].to_string();
    assert_eq!(run(&["incident", "update", &id, "A disk was full."]).code, 0);
    director.until("updated", PATIENCE, shown("A disk was full.")).await;
    assert_eq!(run(&["incident", "close", &id, "All is as it should be."]).code, 0);
    director.until("closed", PATIENCE, shown("All is as it should be.")).await;
    let again = run(&["incident", "close", &id]);
    assert!(again.code == 1 && !again.err.is_empty(), "{again:?}");

    let tested = run(&["alert-test"]);
    assert!(tested.code == 0 && tested.out == "webhook: sent\n", "{tested:?}");
    webhook.until("test", "raised", PATIENCE).await;
    let nobody = rezcache(&["director", "alert-test", "--data-dir", folder.path().to_str().unwrap()]);
    assert!(nobody.code == 1 && nobody.err.contains("nobody is to be told"), "{nobody:?}");
}

#[test]
fn what_is_missing_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("file://{}", folder.path().join("store").display());
    let data = folder.path().join("data");
    let run =
        |words: &[&str]| rezcache(&[&["director", "--data-dir", data.to_str().unwrap()], words].concat());
    for (words, told) in [
        (&[][..], "which service?"),
        (&["--store", &store], "which zone?"),
        (&["--store", &store, "--zone", "cache.example.org"], "which name servers"),
        (&["--store", &store, "--zone", "cache.example.org", "--ns", "ns1.example.org"], "which nodes?"),
    ] {
        let run = run(words);
        assert!(run.code == 2 && run.err.contains(told), "{words:?} {run:?}");
    }
    let wrong = run(&["--store", &store, "--zone", "no dots"]);
    assert!(wrong.code == 2 && wrong.err.contains("--zone"), "{wrong:?}");
    let inside = run(&["--store", &store, "--zone", "cache.example.org", "--ns", "ns1.cache.example.org"]);
    assert!(inside.code == 2 && inside.err.contains("in the zone itself"), "{inside:?}");
    // Its unit is not to start it again and again with such a file.
    let file = folder.path().join("wrong.toml");
    std::fs::write(&file, "[director]\nzone = \"no dots\"\n").unwrap();
    assert_eq!(run(&["--config", file.to_str().unwrap()]).code, 2);
    assert!(!Path::new(&store["file://".len()..]).exists());
}

/// A catalog in each director's own folder would make each of them lead.
#[test]
fn a_store_that_brings_no_catalog_is_not_enough() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("director.toml");
    let text = format!(
        "data_dir = \"{}\"\n[director]\nzone = \"{ZONE}\"\nns = [\"ns1.example.org\"]\nstore = \"s3://rez/cache\"\n\
         [[node]]\nname = \"otter\"\nurl = \"https://127.0.0.1:1\"\n",
        data.display()
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for words in [
        &["director"][..],
        &["director", "maintain", "otter", "--until", "2h", "--reason", "x"],
        &["director", "incident", "open", "Slow"],
        &["check-config"],
    ] {
        let run = rezcache(&[words, &["--config", file]].concat());
        let code = if words == ["check-config"] { 1 } else { 2 };
        assert!(run.code == code && run.err.contains("which catalog?"), "{words:?} {run:?}");
    }
    assert!(!data.exists());
}

/// What is written into a catalog that no director reads is no success.
#[test]
fn nothing_is_written_where_no_director_reads() {
    let folder = tempfile::tempdir().unwrap();
    let typo = folder.path().join("stroe");
    let store = format!("file://{}", typo.display());
    let planned = &["maintain", "otter", "--until", "2h", "--reason", "x"][..];
    for words in [planned, &["maintain"], &["maintain", "otter", "--end"], &["incident", "open", "Slow"]] {
        let run = rezcache(&[&["director"], words, &["--store", &store]].concat());
        assert!(run.code == 1 && run.err.contains("there is no catalog"), "{words:?} {run:?}");
        assert!(!typo.exists(), "{words:?}");
    }
    // There is one, of a node that no director has to do with.
    std::fs::create_dir(&typo).unwrap();
    drop(rezcache::catalog::SqliteCatalog::open(&typo.join("catalog.sqlite")).unwrap());
    let run = rezcache(&[&["director"], planned, &["--store", &store]].concat());
    assert!(run.code == 1 && run.err.contains("no node is known"), "{run:?}");
}

#[test]
fn check_config_shows_what_a_director_is_but_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("director.toml");
    std::fs::write(folder.path().join("token"), "header.payload.signature").unwrap();
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        rezcache(&["check-config", "--config", file.to_str().unwrap()])
    };
    let whole = check(&format!(
        "[director]\nzone = \"{ZONE}\"\nns = [\"ns1.example.org\"]\nstore = \"s3://rez/cache\"\n\
         catalog = \"postgres://me:hunter2@db.example/rez\"\ntoken_file = \"token\"\nserver_name = \"n.example.org\"\n\
         [[node]]\nname = \"otter\"\nurl = \"https://127.0.0.1:1\"\n"
    ));
    assert_eq!(whole.code, 0, "{whole:?}");
    for (key, value) in [
        ("director.ns", "ns1.example.org."),
        ("director.catalog", "PostgreSQL"),
        ("director.token", "yes"),
        ("director.pins", "none"),
        ("director.server_name", "n.example.org"),
    ] {
        let line = whole.out.lines().find(|line| line.split(' ').next() == Some(key)).unwrap();
        assert!(line.ends_with(value), "{line}");
    }
    assert!(!whole.out.contains("hunter2") && !whole.out.contains("signature"), "{whole:?}");
    let empty = check("[director]\nttl_s = 7\n");
    assert_eq!(empty.code, 1);
    for told in ["which service?", "which zone?", "which nodes?"] {
        assert!(empty.err.contains(told), "{told} {empty:?}");
    }
    // Whoever runs none lacks nothing.
    assert_eq!(check("").code, 0);
}
