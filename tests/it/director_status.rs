//! The status page over real processes: two directors, two nodes, and whoever looks at it by plain HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::{Run, rezcache};
use crate::service::tools;
use crate::support::client::{Connection, ask, get};
use crate::support::directors::DirectorProcess;
use crate::support::process::NodeProcess;
use crate::support::{find, within};

const PATIENCE: Duration = Duration::from_secs(40);
const NAMES: [&str; 2] = ["otter", "lynx"];
/// What must never be seen.
const HOOK: &str = "hook-secret-5b1f";

struct Stage {
    folder: tempfile::TempDir,
    nodes: Vec<Option<NodeProcess>>,
    addresses: Vec<SocketAddr>,
    pin: String,
}

impl Stage {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = Self { folder, nodes: Vec::new(), addresses: Vec::new(), pin: String::new() };
        for n in 0..NAMES.len() {
            let node = stage.node(n, &format!("127.0.0.{}:0", n + 2));
            stage.addresses.push(node.at);
            stage.pin.clone_from(&node.pin);
            stage.nodes.push(Some(node));
        }
        stage
    }

    fn store(&self) -> String {
        format!("file://{}", self.folder.path().join("store").display())
    }

    fn node(&self, n: usize, listen: &str) -> NodeProcess {
        let own = self.folder.path().join(NAMES[n]);
        std::fs::create_dir_all(&own).unwrap();
        let store = self.store();
        NodeProcess::start_with(&own, &["--listen", listen, "--store", &store], &[])
    }

    fn director(&self, name: &str) -> DirectorProcess {
        let node = |(name, at): (&&str, &SocketAddr)| {
            format!("[[node]]\nname = \"{name}\"\nurl = \"https://{at}\"\n")
        };
        let nodes: String = NAMES.iter().zip(&self.addresses).map(node).collect();
        let config = format!(
            "[director]\nname = \"{name}\"\nzone = \"cache.example.org\"\ndns_listen = \"127.0.0.1:0\"\n\
             ns = [\"ns1.example.org\"]\nstatus_listen = \"127.0.0.1:0\"\nstore = \"{}\"\npins = [\"{}\"]\n\
             probe_interval_s = 1\nslow_start_s = 0\n[alerts]\nwebhook = \"http://127.0.0.1:9/{HOOK}\"\n{nodes}",
            self.store(),
            self.pin,
        );
        DirectorProcess::start(&self.data(name), &config, &[])
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `rezcache director …` with the configuration of one of them.
    fn say(&self, words: &[&str]) -> Run {
        let file = self.data("owl").join("director.toml");
        rezcache(&[&["director"], words, &["--config", file.to_str().unwrap()]].concat())
    }
}

fn member<'a>(status: &'a Value, group: &str, name: &str) -> &'a Value {
    let members = status[group].as_array().unwrap();
    members.iter().find(|member| member["name"] == name).unwrap_or(&Value::Null)
}

fn all_work(status: &Value) -> bool {
    let groups = [("directors", 2), ("nodes", 2), ("storage", 2)];
    groups.iter().all(|(group, count)| {
        let members = status[*group].as_array().unwrap();
        members.len() == *count && members.iter().all(|member| member["state"] == "works")
    })
}

/// A page that is open: its events as they come.
struct Events(Connection);

impl Events {
    async fn open(at: SocketAddr) -> Self {
        let mut connection = Connection::open(at).await;
        connection.send("GET", "/events", &[], b"").await;
        let head = connection.head().await.unwrap();
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
        assert_eq!(
            (head.header("cache-control"), head.header("x-accel-buffering")),
            (Some("no-store"), Some("no"))
        );
        Self(connection)
    }

    /// Waits until a part is told that holds this text.
    async fn until(&mut self, part: &str, text: &str) {
        let began = Instant::now();
        loop {
            let chunk = self.0.chunk().await;
            let data = chunk.lines().find_map(|line| line.strip_prefix("data: "));
            let parts: BTreeMap<String, String> =
                data.map(|data| serde_json::from_str(data).unwrap()).unwrap_or_default();
            if parts.get(part).is_some_and(|html| html.contains(text)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no {text:?} in {part:?}; the last was {chunk}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_directors_tell_the_same_and_an_open_page_sees_a_node_go_and_come() {
    let mut stage = Stage::start();
    let (first, second) = (stage.director("owl"), stage.director("fox"));
    for director in [&first, &second] {
        let status = director.until("well", PATIENCE, all_work).await;
        assert_eq!((&status["level"], &status["sentence"]), (&"good".into(), &"All is well.".into()));
        let page = get(director.status, "/", &[]).await.text();
        assert!(page.contains("All is well.") && page.contains(">otter<"), "{page}");
    }
    let mut events = Events::open(first.status).await;
    events.until("group-nodes", "otter").await;

    stage.nodes[1].take().unwrap().kill();
    events.until("group-nodes", "Does not answer").await;
    events.until("incidents", "lynx does not answer").await;
    for director in [&first, &second] {
        let told = |status: &Value| status["incidents"][0]["title"] == "lynx does not answer";
        let status = director.until("told", PATIENCE, told).await;
        assert_eq!(status["incidents"][0]["affected"][0], "lynx");
        let status =
            director.until("red", PATIENCE, |it| member(it, "nodes", "lynx")["state"] == "down").await;
        assert_eq!(
            status["sentence"],
            "The cache works, but lynx does not answer; the other node does the work."
        );
    }
    let at = stage.addresses[1].to_string();
    stage.nodes[1] = Some(stage.node(1, &at));
    events.until("group-nodes", "<h3>lynx</h3><span class=\"state\">Works</span>").await;
    events.until("past", "lynx is back").await;

    // What operators write by hand.
    let opened = stage.say(&[
        "incident",
        "open",
        "Slow </script> evening",
        "--affects",
        "otter",
        "--text",
        "We look.",
    ]);
    assert!(opened.code == 0 && opened.out.contains("incident 2 is open"), "{opened:?}");
    assert_eq!(stage.say(&["incident", "update", "2", "A disk\nis slow."]).code, 0);
    let planned = stage.say(&["maintain", "otter", "--until", "2h", "--reason", "A new disk"]);
    assert_eq!(planned.code, 0, "{planned:?}");
    for director in [&first, &second] {
        let told = |status: &Value| {
            let texts = status["incidents"][0]["updates"].as_array().cloned().unwrap_or_default();
            let texts: Vec<_> =
                texts.iter().map(|update| update["text"].as_str().unwrap_or_default()).collect();
            texts == ["We look.", "A disk\nis slow."]
                && member(status, "nodes", "otter")["state"] == "maintenance"
        };
        let status = director.until("told by hand", PATIENCE, told).await;
        assert_eq!(member(&status, "nodes", "otter")["maintenance"]["reason"], "A new disk");
        let page = get(director.status, "/", &[]).await.text();
        assert!(page.contains("Slow &lt;/script&gt; evening") && page.contains("A new disk"), "{page}");
    }
    events.until("incidents", "A disk\nis slow.").await;
    assert!(stage.say(&["incident", "list"]).out.contains("Slow </script> evening"));
    assert_eq!(stage.say(&["incident", "close", "2", "Done."]).code, 0);
    assert!(stage.say(&["incident", "list"]).out.contains("no incident is open"));
    let again = stage.say(&["incident", "close", "2"]);
    assert!(again.code == 1 && again.err.contains("incident 2 is closed"), "{again:?}");
    let unknown = stage.say(&["incident", "update", "99", "x"]);
    assert!(unknown.code == 1 && unknown.err.contains("there is no incident 99"), "{unknown:?}");
    events.until("past", "Done.").await;

    // The day's history is one, whoever tells it.
    let known = |status: &Value| {
        let day = &member(status, "nodes", "lynx")["days"][0];
        day["lost"].as_u64().is_some_and(|lost| lost > 0) && day["healthy"].as_u64().is_some_and(|ok| ok > 0)
    };
    for director in [&first, &second] {
        director.until("with history", PATIENCE * 2, known).await;
    }

    // A director that is gone is told of by the other, which goes on leading or begins to.
    second.kill();
    let gone = |status: &Value| member(status, "directors", "fox")["state"] == "down";
    let status = first.until("without the other", PATIENCE, gone).await;
    assert!(status["sentence"].as_str().unwrap().contains("the director fox does not answer"), "{status}");
    first.until("leading", PATIENCE, |status| status["leading"] == true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_secret_is_shown_and_what_comes_is_bounded() {
    let stage = Stage::start();
    let (first, second) = (stage.director("owl"), stage.director("fox"));
    for director in [&first, &second] {
        director.until("well", PATIENCE, all_work).await;
    }
    let at = first.status;
    // All of it, and both words of an event stream.
    let mut shown = String::new();
    for path in
        ["/", "/v1/status", "/healthz", "/metrics", "/monitoring", "/monitoring/parts?range=day", "/nothing"]
    {
        let answer = get(at, path, &[]).await;
        assert_eq!(answer.status, if path == "/nothing" { 404 } else { 200 }, "{path}");
        assert!(
            answer.header("content-security-policy").is_some_and(|policy| {
                policy.contains("default-src 'none'") && !policy.contains("unsafe")
            })
        );
        for (name, value) in [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        shown.push_str(&answer.text());
        shown.push_str(&format!("{:?}", answer.headers));
    }
    let mut events = Connection::open(at).await;
    events.send("GET", "/events", &[], b"").await;
    events.head().await.unwrap();
    for _ in 0..3 {
        shown.push_str(&events.chunk().await);
    }
    assert!(shown.contains("otter") && shown.contains("event: parts"));
    let mut secrets =
        vec![HOOK.to_owned(), stage.pin.clone(), "https://".into(), "file://".into(), "sqlite".into()];
    secrets.push(stage.folder.path().display().to_string());
    for (n, node) in stage.addresses.iter().enumerate() {
        secrets.extend([node.to_string(), format!("127.0.0.{}", n + 2), format!(":{}", node.port())]);
    }
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret} is shown");
    }

    // curl reads it as well, and HEAD is the same without its body.
    let curl = |words: &[&str]| {
        let output = Command::new("curl").args(["-sS", "--max-time", "20"]).args(words).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let url = format!("http://{at}/");
    assert!(curl(&["-I", &url]).starts_with("HTTP/1.1 200 OK"));
    assert!(curl(&[&url]).contains("</html>"));
    let files: BTreeSet<_> = curl(&[&url])
        .split(['"', '\''])
        .filter(|word| word.starts_with("/files/") || word.starts_with("/icon"))
        .map(ToOwned::to_owned)
        .collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let answer = get(at, &file, &[]).await;
        assert!(
            answer.status == 200 && answer.header("cache-control").unwrap().contains("max-age"),
            "{file}"
        );
    }

    // Whoever comes through a reverse proxy is the public.
    for path in ["/metrics", "/monitoring", "/monitoring/parts"] {
        assert_eq!(get(at, path, &[("X-Forwarded-For", "203.0.113.7")]).await.status, 403, "{path}");
        assert_eq!(get(at, path, &[("Forwarded", "for=203.0.113.7")]).await.status, 403, "{path}");
    }
    assert_eq!(get(at, "/", &[("X-Forwarded-For", "203.0.113.7")]).await.status, 200);

    assert_eq!(ask(at, "POST", "/", &[], b"x=1").await.status, 405);
    assert_eq!(ask(at, "GET", "/", &[], b"body").await.status, 413);
    let long = "x".repeat(40_000);
    let mut connection = Connection::open(at).await;
    connection.send_raw(format!("GET /?{long} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    let refused = connection.try_answer("GET").await;
    assert!(refused.is_none_or(|answer| matches!(answer.status, 414 | 431)));
    // A head that never ends, and a connection that says nothing, end by themselves.
    for begun in [&b"GET / HTTP/1.1\r\nHost: x\r\nX-"[..], b""] {
        let mut slow = Connection::open(at).await;
        slow.send_raw(begun).await;
        within(async { while !slow.body(1).await.is_empty() {} }).await;
    }
    assert_eq!(get(at, "/healthz", &[]).await.text(), "ok\n");
    // As many open pages as there is room for, none of which reads; one more is sent away, and pages are still served.
    let mut open = vec![events];
    let refused = loop {
        let mut next = Connection::open(at).await;
        next.send("GET", "/events", &[], b"").await;
        let head = next.head().await.unwrap();
        if head.status != 200 {
            break head;
        }
        open.push(next);
        assert!(open.len() <= 512, "there is no end of it");
    };
    assert_eq!((refused.status, refused.header("retry-after").is_some(), open.len()), (503, true, 512));
    assert_eq!(get(at, "/", &[]).await.status, 200);
    // Who goes makes room.
    drop(open);
    within(async {
        loop {
            let mut next = Connection::open(at).await;
            next.send("GET", "/events", &[], b"").await;
            if next.head().await.unwrap().status == 200 {
                return;
            }
        }
    })
    .await;
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !is_name(c));
    words
        .filter(|it| it.starts_with("rezcache_director_") || it.starts_with("rezcache_node_"))
        .map(Into::into)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_and_the_dashboard_name_metrics_that_there_are() {
    let stage = Stage::start();
    let (first, second) = (stage.director("owl"), stage.director("fox"));
    for director in [&first, &second] {
        director.until("well", PATIENCE, all_work).await;
    }
    let mut known = names(&get(first.status, "/metrics", &[]).await.text());
    let output = Command::new("curl")
        .args(["-sSk", "--max-time", "20", &format!("https://{}/metrics", stage.addresses[0])])
        .output()
        .unwrap();
    let of_node = names(std::str::from_utf8(&output.stdout).unwrap());
    assert!(of_node.len() > 20, "{output:?}");
    known.extend(of_node);
    // A ratio is told once something was read.
    known.insert("rezcache_director_node_hit_ratio".into());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/monitoring");
    for file in ["prometheus-alerts.yml", "grafana-dashboard.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        assert!(find(text.as_bytes(), b"\t").is_none(), "{file} has tabs");
        let named = names(&text);
        assert!(named.len() > 10, "{file}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    let read = "import sys, yaml\nfor group in yaml.safe_load(open(sys.argv[1]))['groups']:\n  for rule in group['rules']: \
                print(rule['alert'], rule['expr'] != '', rule['labels']['severity'], rule['annotations']['summary'] != '')";
    let output = Command::new(tools().join("python"))
        .args(["-c", read])
        .arg(folder.join("prometheus-alerts.yml"))
        .output()
        .unwrap();
    let rules = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && rules.lines().count() > 10, "{rules}{:?}", output.stderr);
    assert!(!rules.contains(" False"), "{rules}");
    let text = std::fs::read_to_string(folder.join("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10 && panels.iter().all(|panel| !panel["targets"].as_array().unwrap().is_empty()));
}
