//! `rezcache store` on stores that real nodes have filled.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::node::Node;
use rezcache::store::blobs::Blobs;
use rezcache::store::keys::KeyRing;
use rezcache::wire::frame::Verdict;
use serde_json::Value;

use crate::cli::{Run, rezcache};
use crate::service::{GRID, client, config, key, read, share, texture};
use crate::support::within;

/// A folder with a store in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    async fn node(&self) -> Node {
        Node::start(config(self.0.path())).await.unwrap()
    }

    /// `rezcache store …` on it.
    async fn run(&self, words: &[&str]) -> Run {
        let url = format!("file://{}", self.path("store").display());
        let words: Vec<String> =
            ["store", "--store", &url].iter().chain(words).map(|&word| word.to_owned()).collect();
        let run = move || rezcache(&words.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(run).await.unwrap()
    }

    async fn json(&self, words: &[&str]) -> (i32, Value) {
        let run = self.run(&[words, &["--json"]].concat()).await;
        let json = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
        (run.code, json)
    }

    fn blobs(&self) -> Blobs {
        Blobs::open(&format!("file://{}", self.path("store").display())).unwrap()
    }

    fn ring(&self) -> KeyRing {
        KeyRing::read(&self.path("store.key")).unwrap()
    }

    /// The file of a content's blob.
    fn blob(&self, bytes: &[u8]) -> PathBuf {
        let name = self.ring().blob_name(Digest::of(bytes)).to_string();
        self.path("store/blobs").join(&name[..2]).join(name)
    }
}

fn named(key: &AssetKey) -> String {
    format!("{}/{}/{}", key.grid, key.kind, key.id.0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn three() -> [(AssetKey, Bytes); 3] {
    [(1, 9000), (2, 90_000), (3, 3_000_000)].map(|(number, size)| {
        (key(AssetKind::Texture, number), texture(usize::try_from(number).unwrap(), size))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_missing_is_found_and_brought_again() {
    let place = Place::new();
    let run = place.run(&["verify"]).await;
    assert!(run.code == 1 && run.err.contains("--store"), "nothing there: {run:?}");
    assert!(!place.path("store").exists(), "looking makes nothing");
    let assets = three();
    let node = place.node().await;
    for (key, bytes) in &assets {
        assert_eq!(share(&client(&node), key, bytes).await, Verdict::Published);
    }
    // While nodes run.
    let (code, report) = place.json(&["verify"]).await;
    assert_eq!(
        (code, &report["ok"], &report["blobs"], &report["records"]),
        (0, &true.into(), &3.into(), &3.into())
    );
    node.stop().await;
    let run = place.run(&["verify"]).await;
    assert!(run.code == 0 && run.out.contains("every blob opens"), "{run:?}");

    // One is damaged, one is missing, one is superfluous; and one record cannot be read.
    flip(&place.blob(&assets[1].1), 50_000);
    std::fs::remove_file(place.blob(&assets[2].1)).unwrap();
    let orphan = place.blob(b"written, its record was not");
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    let hashed = rezcache::store::sealed::Hashed::of(b"written, its record was not");
    let name = place.ring().blob_name(hashed.digest);
    let sealed = rezcache::store::sealed::seal(
        &place.ring(),
        &name,
        &hashed,
        b"written, its record was not",
        false,
        [1; 32],
    );
    std::fs::write(&orphan, sealed.unwrap()).unwrap();
    let (code, report) = place.json(&["verify"]).await;
    assert_eq!((code, &report["ok"], &report["arriving"]), (1, &false.into(), &1.into()), "{report}");
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86_400);
    std::fs::File::options().append(true).open(&orphan).unwrap().set_modified(long_ago).unwrap();
    let (_, report) = place.json(&["verify"]).await;
    let counts = ["damaged", "missing", "orphans", "unreadable"].map(|list| report[list]["count"].clone());
    assert_eq!(counts, [1, 1, 1, 0].map(Value::from), "{report}");
    let run = place.run(&["verify"]).await;
    let damaged = place.blob(&assets[1].1);
    assert!(run.out.contains(damaged.file_name().unwrap().to_str().unwrap()), "{}", run.out);
    for words in ["an upload that broke off; 3 days old", "1 asset not served because of it", "--repair"] {
        assert!(run.out.contains(words), "{words}: {}", run.out);
    }
    let stat = place.run(&["stat", &named(&assets[2].0)]).await;
    assert!(stat.out.contains("missing or damaged"), "{stat:?}");

    // Repaired, they are wanted again by whoever has them.
    let (_, report) = place.json(&["verify", "--repair"]).await;
    assert_eq!(report["repaired"], 3, "{report}");
    let (code, report) = place.json(&["verify"]).await;
    assert_eq!((code, &report["blobs"], &report["held"]), (0, &1.into(), &2.into()), "{report}");
    let node = place.node().await;
    for (key, bytes) in &assets[1..] {
        assert_eq!(read(&client(&node), key, None).await, None);
        assert_eq!(share(&client(&node), key, bytes).await, Verdict::Published);
        assert!(read(&client(&node), key, None).await.unwrap().1 == *bytes);
    }
    node.stop().await;
    // A node that finds a blob damaged has it brought again without being told.
    flip(&damaged, 50_000);
    let node = place.node().await;
    assert_eq!(read(&client(&node), &assets[1].0, None).await, None);
    assert_eq!(share(&client(&node), &assets[1].0, &assets[1].1).await, Verdict::Published);
    assert!(read(&client(&node), &assets[1].0, None).await.is_some());
    node.stop().await;
    assert_eq!(place.run(&["verify"]).await.code, 0);

    let catalog = rusqlite::Connection::open(place.path("store/catalog.sqlite")).unwrap();
    let hash =
        catalog.query_row("select key from asset limit 1", [], |row| row.get::<_, Vec<u8>>(0)).unwrap();
    catalog.execute("update asset set record = zeroblob(80) where key = ?1", [&hash]).unwrap();
    drop(catalog);
    let (code, report) = place.json(&["verify"]).await;
    assert_eq!((code, &report["unreadable"]["count"]), (1, &1.into()), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_missing_wrong_or_open_to_others_are_told_apart() {
    let place = Place::new();
    let node = place.node().await;
    let (key, bytes) = &three()[0];
    share(&client(&node), key, bytes).await;
    node.stop().await;
    let file = place.path("store.key");
    let told = || async {
        let store = place.run(&["verify"]).await;
        assert_eq!(store.code, 1, "{store:?}");
        let serve = Node::start(config(place.0.path())).await.err().unwrap().to_string();
        [store.err, serve]
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        for words in told().await {
            assert!(words.contains("chmod 600") && words.contains("store.key"), "{words}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let kept = place.path("kept.key");
    std::fs::rename(&file, &kept).unwrap();
    for words in told().await {
        assert!(words.contains("no key file") && words.contains("key 1"), "{words}");
    }
    assert!(!file.exists(), "no new one is made for a store that holds something");
    KeyRing::create(&file).unwrap();
    for words in told().await {
        assert!(words.contains("another key 1") && words.contains("--key-file"), "{words}");
    }
    // Neither are the wrong keys spread nor the right ones overwritten.
    assert_eq!(place.run(&["keys", "export", place.path("copy").to_str().unwrap()]).await.code, 1);
    assert!(place.run(&["keys", "import", kept.to_str().unwrap()]).await.err.contains("nothing was changed"));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(place.run(&["keys", "import", kept.to_str().unwrap()]).await.code, 0);
    assert_eq!(place.run(&["verify"]).await.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_rotated_and_everything_is_sealed_anew() {
    let place = Place::new();
    let assets = three();
    let node = place.node().await;
    for (key, bytes) in &assets[..2] {
        share(&client(&node), key, bytes).await;
    }
    let copy = place.path("copy.key");
    assert_eq!(place.run(&["keys", "export", copy.to_str().unwrap()]).await.code, 0);
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(place.path("store.key")).unwrap());
    let run = place.run(&["keys", "rotate"]).await;
    assert!(run.code == 0 && run.out.contains("reseal"), "{run:?}");
    assert_eq!(
        place.json(&["keys", "list"]).await.1,
        serde_json::json!({"keys": [1, 2], "seals": 2, "store": 1})
    );
    // No key is shown to whoever looks on.
    for words in [&["keys", "list"][..], &["keys", "rotate", "--help"], &["verify"]] {
        let run = place.run(words).await;
        let text = std::fs::read_to_string(place.path("store.key")).unwrap();
        for secret in text.split_whitespace().filter(|word| word.len() == 64) {
            assert!(!run.out.contains(secret) && !run.err.contains(secret));
        }
    }
    node.stop().await;
    // Half is sealed with the new key already, as after a reseal that broke off.
    let node = place.node().await;
    share(&client(&node), &assets[2].0, &assets[2].1).await;
    let (code, report) = place.json(&["reseal"]).await;
    let counts = ["key", "blobs", "records", "passed_over", "unreadable"].map(|name| report[name].clone());
    assert_eq!((code, counts), (0, [2, 2, 2, 2, 0].map(Value::from)), "{report}");
    let (_, report) = place.json(&["reseal"]).await;
    assert_eq!((&report["blobs"], &report["records"]), (&0.into(), &0.into()), "nothing is left to do");
    for (key, bytes) in &assets {
        assert!(read(&client(&node), key, None).await.unwrap().1 == *bytes, "a node that runs meanwhile");
    }
    node.stop().await;
    let node = place.node().await;
    for (key, bytes) in &assets {
        assert!(read(&client(&node), key, None).await.unwrap().1 == *bytes);
    }
    node.stop().await;
    assert_eq!(place.run(&["verify"]).await.code, 0);
    let stat = place.json(&["stat", &named(&assets[0].0)]).await.1;
    assert_eq!((&stat["contents"][0]["key"], &stat["published"]), (&2.into(), &true.into()), "{stat}");
    // The old file opens nothing now, and says which key is wanting.
    let run = place.run(&["--key-file", copy.to_str().unwrap(), "verify"]).await;
    assert!(run.code == 1 && run.err.contains("key 2"), "{run:?}");
    assert_eq!(place.run(&["keys", "import", copy.to_str().unwrap()]).await.code, 1, "it lacks a key");
    assert_eq!(place.ring().ids().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_liars_word_is_voided_and_nobody_is_named() {
    let place = Place::new();
    let assets = three();
    let node = place.node().await;
    for (key, bytes) in &assets {
        share(&client(&node), key, bytes).await;
    }
    node.stop().await;
    let stat = place.run(&["stat", &named(&assets[0].0)]).await;
    for words in ["served to members of the trusted tenants", "1 principal from 1 network through 1 origin"] {
        assert!(stat.out.contains(words), "{}", stat.out);
    }
    assert!(!stat.out.contains("127.0.0") && !stat.out.contains("sim.example"), "{}", stat.out);
    let unknown = place.run(&["stat", &named(&key(AssetKind::Mesh, 9))]).await;
    assert!(unknown.code == 0 && unknown.out.contains("nobody has attested it"), "{unknown:?}");
    assert_eq!(place.run(&["stat", "texture/x"]).await.code, 2);
    for wrong in [
        &["distrust"][..],
        &["distrust", "--origin", "sim.example"],
        &["distrust", "--tenant", "a", "--since", "soon"],
    ] {
        assert_eq!(place.run(wrong).await.code, 2, "{wrong:?}");
    }

    let numbers = |report: &Value| {
        ["records", "touched", "attestations", "unpublished"].map(|name| report[name].as_u64().unwrap())
    };
    let nobody = place.json(&["distrust", "--tenant", "others"]).await.1;
    assert_eq!(numbers(&nobody), [3, 0, 0, 0]);
    let elsewhere = place.json(&["distrust", "--origin", "other.example", "--grid", GRID]).await.1;
    assert_eq!(numbers(&elsewhere), [3, 0, 0, 0]);
    let origin_words = ["distrust", "--origin", "sim.example", "--grid", GRID];
    let later = place.json(&[&origin_words[..], &["--since", "2100-01-01"]].concat()).await.1;
    assert_eq!(numbers(&later), [3, 0, 0, 0], "said before");
    let dry = place.json(&[&origin_words[..], &["--dry-run"]].concat()).await.1;
    assert_eq!(numbers(&dry), [3, 3, 3, 3]);
    let node = place.node().await;
    assert!(read(&client(&node), &assets[0].0, None).await.is_some(), "a dry run changes nothing");
    let done = place.json(&[&origin_words[..], &["--since", "1h"]].concat()).await.1;
    assert_eq!(numbers(&done), [3, 3, 3, 3]);
    node.stop().await;
    let node = place.node().await;
    for (key, bytes) in &assets {
        assert_eq!(read(&client(&node), key, None).await, None);
        // Said again by somebody honest, it is served again; the body is still there.
        assert_eq!(share(&client(&node), key, bytes).await, Verdict::Published);
    }
    node.stop().await;
    assert_eq!(numbers(&place.json(&["distrust", "--principal", ""]).await.1), [3, 3, 3, 3]);

    let catalog = rusqlite::Connection::open(place.path("store/catalog.sqlite")).unwrap();
    let mut query = catalog.prepare("select action || ' ' || detail from audit").unwrap();
    let audit: Vec<String> = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let voided = audit
        .iter()
        .filter(|line| line.starts_with("distrust") && line.contains("3 attestations of 3 assets"));
    assert_eq!(voided.count(), 2, "{audit:?}");
    assert!(!audit.concat().contains("sim.example"), "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_down_is_held_and_then_destroyed() {
    let place = Place::new();
    let assets = three();
    let node = place.node().await;
    for (key, bytes) in &assets {
        share(&client(&node), key, bytes).await;
    }
    let delete = |key: &AssetKey| {
        let url = format!("https://{}/v1/grids/{GRID}/assets/texture/{}", node.address(), key.id.0);
        let run = move || Command::new("curl").args(["-sSk", "-X", "DELETE", &url]).output().unwrap();
        tokio::task::spawn_blocking(run)
    };
    delete(&assets[0].0).await.unwrap();
    let stat = place.run(&["stat", &named(&assets[0].0)]).await;
    assert!(stat.out.contains("not served: it was taken down"), "{stat:?}");
    let run = place.run(&["verify"]).await;
    assert!(run.code == 0 && run.out.contains("1 blobs were taken down and wait in the hold"), "{run:?}");
    assert_eq!(place.run(&["prune"]).await.code, 2, "what to prune must be said");
    let prune = |words: &'static [&'static str]| async { place.json(words).await.1 };
    assert_eq!(prune(&["prune", "--hold"]).await["left"], 1);
    assert_eq!(prune(&["prune", "--hold", "--older-than", "0s", "--dry-run"]).await["blobs"], 1);
    assert_eq!(prune(&["prune", "--hold", "--older-than", "0s"]).await["blobs"], 1);
    assert_eq!(prune(&["verify"]).await["held"], 0);
    node.stop().await;

    // Nodes destroy it themselves, thirty days later.
    let now = rezcache::upkeep::now();
    let blobs = place.blobs();
    let name = |at: usize| place.ring().blob_name(Digest::of(&assets[at].1));
    blobs.hold(&name(1), now - 29 * 86_400).await.unwrap();
    blobs.hold(&name(2), now - 31 * 86_400).await.unwrap();
    let node = place.node().await;
    within(async {
        loop {
            let held: Vec<_> = blobs.list_held().try_collect().await.unwrap();
            if held.len() == 1 {
                break assert_eq!(held[0].name, name(1));
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    node.stop().await;
}
