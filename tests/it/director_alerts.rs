//! What operators are told, by a webhook and by mail: the mail server and the reader of its mail are others' work.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rezcache::catalog::Place;
use rezcache::director::provision::{CommandProvisioner, Provisioner};
use rezcache::director::{
    AlertConfig, AlertError, Alerts, Director, DirectorConfig, MailConfig, MailTls, Tries,
};
use rezcache::fleet::array::{ArrayRules, NodeSpec};
use rezcache::fleet::health::HealthRules;
use rezcache::fleet::notices::{Notice, NoticeRules, Severity, What};
use rezcache::fleet::report::Capacity;
use rezcache::fleet::scaling::ScalingRules;
use rezcache::redact::Redacted;
use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use crate::support::fake_grid::{FakeGrid, Gate, Reply};
use crate::support::mail::{Demands, MailServer};
use crate::support::postgres;
use crate::support::process::NodeProcess;
use crate::support::tls::{Authority, TlsFront};
use crate::support::within;

const INTERVAL: Duration = Duration::from_secs(1);
const SECRET_PATH: &str = "/hooks/T0SECRETPATH";
const PASSWORD: &str = "geheim-äöü-9241";

fn quick() -> Tries {
    Tries { most: 5, pause: Duration::from_millis(100), patience: Duration::from_secs(3) }
}

fn webhook(hook: &FakeGrid) -> AlertConfig {
    let webhook = Some(Redacted::new(hook.url(SECRET_PATH)));
    AlertConfig { webhook, tries: quick(), ..AlertConfig::default() }
}

fn mail(port: u16) -> MailConfig {
    MailConfig {
        host: "127.0.0.1".into(),
        port,
        tls: MailTls::None,
        login: None,
        from: "Zwischenspeicher <cache@example.org>".parse().unwrap(),
        to: vec!["Jürgen Groß <ops@example.org>".parse().unwrap(), "night@example.org".parse().unwrap()],
    }
}

fn by_mail(mail: MailConfig) -> AlertConfig {
    AlertConfig { mail: Some(mail), tries: quick(), ..AlertConfig::default() }
}

fn notice(key: &str, text: &str) -> Notice {
    Notice { key: key.into(), severity: Severity::Critical, what: What::Raised, text: text.into() }
}

async fn accepting() -> FakeGrid {
    let hook = FakeGrid::start().await;
    hook.on(SECRET_PATH, |_| Reply::ok("text/plain", "ok"));
    hook
}

/// What the webhook was told so far: each message with its notices as key and what has become of it.
fn told(hook: &FakeGrid) -> Vec<Vec<(String, String)>> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    hook.asked(SECRET_PATH)
        .iter()
        .map(|asked| {
            let message: Value = serde_json::from_slice(&asked.body).unwrap();
            let notices = message["notices"].as_array().unwrap();
            notices.iter().map(|notice| (text(&notice["key"]), text(&notice["what"]))).collect()
        })
        .collect()
}

async fn until(what: impl Fn() -> bool) {
    within(async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn until_told(hook: &FakeGrid, key: &str, what: &str) {
    let wanted = (key.to_owned(), what.to_owned());
    let waiting = until(|| told(hook).concat().contains(&wanted));
    let heard = tokio::time::timeout(Duration::from_secs(25), waiting).await;
    assert!(heard.is_ok(), "{wanted:?} was not told: {:?}", told(hook));
}

/// A node that says what the test wants.
struct FakeNode {
    http: FakeGrid,
    report: Arc<Mutex<Value>>,
}

impl FakeNode {
    async fn start() -> Self {
        let report = json!({
            "uptime_s": 100, "connections_open": 3, "store": { "canary": true }, "catalog": { "primary": true },
            "process": { "cpu_cores": 0.2, "cores": 1, "memory_bytes": 1 }, "counters": { "disputed": 4 },
        });
        let (http, report) = (FakeGrid::start().await, Arc::new(Mutex::new(report)));
        http.on("/readyz", |_| Reply::ok("text/plain", "ready"));
        let said = Arc::clone(&report);
        http.on("/v1/node", move |_| Reply::ok("application/json", said.lock().unwrap().to_string()));
        Self { http, report }
    }

    fn say(&self, pointer: &str, value: impl Into<Value>) {
        *self.report.lock().unwrap().pointer_mut(pointer).unwrap() = value.into();
    }

    fn spec(&self, name: &str) -> NodeSpec {
        NodeSpec { name: name.into(), url: self.http.url(""), addresses: Vec::new(), handle: String::new() }
    }
}

fn config(nodes: Vec<NodeSpec>, catalog: Place, alerts: AlertConfig) -> DirectorConfig {
    let notices = NoticeRules {
        gather: Duration::from_millis(600),
        flapping_within: Duration::from_secs(12),
        remind: Duration::from_secs(3),
        ..NoticeRules::default()
    };
    DirectorConfig {
        name: "first".into(),
        zone: "cache.example.org.".into(),
        name_servers: vec!["ns1.example.org.".into()],
        ttl: Duration::from_secs(5),
        dns_listen: "127.0.0.1:0".parse().unwrap(),
        status_listen: None,
        monitoring_public: false,
        nodes,
        rules: ArrayRules {
            health: HealthRules { slow_start: Duration::ZERO, ..HealthRules::every(INTERVAL) },
            scaling: None,
            capacity: Capacity::default(),
            notices,
        },
        catalog,
        server_name: None,
        pins: Vec::new(),
        ca_file: None,
        token: None,
        memory: None,
        alerts,
    }
}

async fn until_green(director: &Director, nodes: usize) {
    let picture = director.picture();
    until(|| {
        let picture = picture.borrow();
        let green = picture.nodes.iter().filter(|node| node.uptime_s.is_some()).count();
        picture.leading && green == nodes
    })
    .await;
}

/// A real node, killed and started again: both ways tell of both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_lost_and_back_is_told_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let start = |listen: &str| NodeProcess::start_with(folder.path(), &["--listen", listen], &[]);
    let node = start("127.0.0.1:0");
    let (at, pin) = (node.at, node.pin.clone());
    let (hook, mut post) = (accepting().await, MailServer::start(Demands::default()).await);
    let spec = NodeSpec {
        name: "otter".into(),
        url: format!("https://{at}"),
        addresses: Vec::new(),
        handle: String::new(),
    };
    let alerts = AlertConfig { mail: Some(mail(post.port)), ..webhook(&hook) };
    let config = DirectorConfig { pins: vec![pin], ..config(vec![spec], Place::Memory, alerts) };
    let director = Director::start(config, None).await.unwrap();
    until_green(&director, 1).await;
    node.kill();
    until_told(&hook, "node otter", "raised").await;
    let lost = post.next().await;
    assert_eq!(lost["subject"], "[cache.example.org.] critical: otter does not answer: connection refused");
    assert_eq!(lost["body"].as_str().unwrap().trim_end(), "BEGUN: otter does not answer: connection refused");
    // It goes on: a reminder, as the rules say.
    until_told(&hook, "node otter", "reminder").await;
    let _again = start(&at.to_string());
    until_told(&hook, "node otter", "cleared").await;
    let back = loop {
        let mail = post.next().await;
        if mail["subject"].as_str().unwrap().contains("over:") {
            break mail;
        }
    };
    assert_eq!(back["body"].as_str().unwrap().trim_end(), "OVER: otter is back");
    let first: Value = serde_json::from_slice(&hook.asked(SECRET_PATH)[0].body).unwrap();
    assert_eq!(first["sender"], "cache.example.org.");
    assert_eq!(first["notices"][0]["severity"], "critical");
    assert_eq!(director.picture().borrow().alerts_lost, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_say_of_store_catalog_and_poisoning_is_told() {
    let (otter, lynx, hook) = (FakeNode::start().await, FakeNode::start().await, accepting().await);
    let specs = vec![otter.spec("otter"), lynx.spec("lynx")];
    let director = Director::start(config(specs, Place::Memory, webhook(&hook)), None).await.unwrap();
    until_green(&director, 2).await;
    let last = |key: &str| -> Value {
        let messages = hook.asked(SECRET_PATH);
        let mut notices = messages.iter().flat_map(|asked| {
            let message: Value = serde_json::from_slice(&asked.body).unwrap();
            message["notices"].as_array().unwrap().clone()
        });
        notices.rfind(|notice| notice["key"] == key).unwrap()
    };

    otter.say("/store/canary", false);
    until_told(&hook, "store", "raised").await;
    assert_eq!(last("store")["severity"], "warning");
    assert_eq!(last("store")["text"], "the store does not answer otter; the others reach it");
    lynx.say("/store/canary", false);
    until(|| last("store")["severity"] == "critical").await;
    for node in [&otter, &lynx] {
        node.say("/store/canary", true);
        node.say("/catalog/primary", false);
    }
    until_told(&hook, "store", "cleared").await;
    until_told(&hook, "catalog", "raised").await;
    for node in [&otter, &lynx] {
        node.say("/catalog/primary", true);
    }
    until_told(&hook, "catalog", "cleared").await;

    // Counted before this director looked: no news. Counted now: an alarm.
    assert!(!told(&hook).concat().iter().any(|(key, _)| key == "poisoning"));
    lynx.say("/counters/disputed", 6);
    until_told(&hook, "poisoning", "raised").await;
    let text = last("poisoning")["text"].as_str().unwrap().to_owned();
    assert!(text.contains("2 assets became disputed (seen by lynx)"), "{text}");
    assert!(director.picture().borrow().troubles.contains(&text));
}

/// A real node whose store somebody exchanges under its hands: the marker is another service's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_with_anothers_marker_is_a_poisoning_alarm() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = |n: usize| format!("file://{}", folders[n].path().join("store").display());
    let start = |n: usize| NodeProcess::start_with(folders[n].path(), &["--store", &store(n)], &[]);
    let (node, other) = (start(0), start(1));
    let marker = |n: usize| find(&folders[n].path().join("store"), "marker").expect("a store has its marker");
    let hook = accepting().await;
    let spec = NodeSpec {
        name: "otter".into(),
        url: format!("https://{}", node.at),
        addresses: Vec::new(),
        handle: String::new(),
    };
    let config =
        DirectorConfig { pins: vec![node.pin.clone()], ..config(vec![spec], Place::Memory, webhook(&hook)) };
    let director = Director::start(config, None).await.unwrap();
    until_green(&director, 1).await;
    let own = std::fs::read(marker(0)).unwrap();
    std::fs::copy(marker(1), marker(0)).unwrap();
    until_told(&hook, "poisoning", "raised").await;
    until_told(&hook, "store", "raised").await;
    std::fs::write(marker(0), own).unwrap();
    until_told(&hook, "store", "cleared").await;
    assert!(!told(&hook).concat().contains(&("poisoning".into(), "cleared".into())), "not as soon as that");
    drop(other);
}

fn find(folder: &Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) })
}

/// One that comes and goes is told of as that, and then no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_flaps_is_told_once_and_what_comes_together_is_one_message() {
    let (node, hook) = (FakeNode::start().await, accepting().await);
    let director =
        Director::start(config(vec![node.spec("otter")], Place::Memory, webhook(&hook)), None).await.unwrap();
    until_green(&director, 1).await;
    node.say("/store/canary", false);
    node.say("/catalog/primary", false);
    until_told(&hook, "store", "raised").await;
    let first = told(&hook).remove(0);
    assert_eq!(first, [("catalog".into(), "raised".into()), ("store".into(), "raised".into())]);
    for up in [true, false, true, false, true] {
        node.say("/store/canary", up);
        tokio::time::sleep(INTERVAL * 2).await;
    }
    until_told(&hook, "store", "flapping").await;
    let store = |told: Vec<Vec<(String, String)>>| -> Vec<String> {
        told.concat().into_iter().filter(|(key, _)| key == "store").map(|(_, what)| what).collect()
    };
    let before = store(told(&hook)).len();
    for up in [false, true] {
        node.say("/store/canary", up);
        tokio::time::sleep(INTERVAL * 2).await;
    }
    assert_eq!(store(told(&hook)).len(), before, "nothing more is said while it flaps: {:?}", told(&hook));
    // Steady at last.
    until(|| store(told(&hook)).last().is_some_and(|what| what == "cleared")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_the_scaling_and_an_opening_that_fails_are_told() {
    let (node, hook) = (FakeNode::start().await, accepting().await);
    node.say("/process/cpu_cores", 1.0);
    let quota = "echo 'Köln: quota exceeded' >&2; printf 'x\\rBEGUN: all is well\\n' >&2; exit 3";
    let failing: Arc<dyn Provisioner> =
        Arc::new(CommandProvisioner::new(vec!["sh".into(), "-c".into(), quota.into()]));
    let scaled = |maximum| {
        let mut config = config(vec![node.spec("otter")], Place::Memory, webhook(&hook));
        config.rules.scaling = Some(ScalingRules { maximum, ..ScalingRules::default() });
        config
    };
    let at_limit = Director::start(scaled(1), Some(Arc::clone(&failing))).await.unwrap();
    until_told(&hook, "limit", "raised").await;
    assert!(!told(&hook).concat().iter().any(|(key, _)| key == "opening"));
    drop(at_limit);
    let _failing = Director::start(scaled(3), Some(failing)).await.unwrap();
    until_told(&hook, "opening", "raised").await;
    let message: Value = serde_json::from_slice(&hook.asked(SECRET_PATH).last().unwrap().body).unwrap();
    let text = message["notices"][0]["text"].as_str().unwrap();
    assert!(text.starts_with("a node could not be opened: sh failed: "), "{text}");
    assert!(!text.contains(['\r', '\n']), "{text}");
}

/// The director's own view of the catalog, a real PostgreSQL that is stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_the_director_cannot_reach_is_told_though_nobody_leads() {
    let Some(server) = postgres::Server::start() else { return };
    let catalog = Place::Postgres(Redacted::new(server.url(&server.database())));
    let (node, hook) = (FakeNode::start().await, accepting().await);
    let director =
        Director::start(config(vec![node.spec("otter")], catalog, webhook(&hook)), None).await.unwrap();
    until_green(&director, 1).await;
    server.stop();
    until_told(&hook, "director first catalog", "raised").await;
    until(|| !director.picture().borrow().leading).await;
    // Who led goes on telling while nobody can lead.
    node.say("/store/canary", false);
    until_told(&hook, "store", "raised").await;
    server.resume();
    until_told(&hook, "director first catalog", "cleared").await;
    until(|| director.picture().borrow().leading).await;
}

#[tokio::test]
async fn mail_arrives_as_it_was_meant() {
    let mut server = MailServer::start(Demands::default()).await;
    let alerts = Alerts::start(&by_mail(mail(server.port)), "Würfel").unwrap();
    let evil = Notice {
        what: What::Cleared,
        ..notice("b", "zwei\r\nBcc: victim@example.org\r\n\r\nBEGUN: all is lost\r\n.\r\nDATA")
    };
    let line = format!("{} – 木", "ä".repeat(400));
    alerts.tell(&[notice("a", "Größe überschritten: Käse, 100 % – ☃"), evil, notice("c", &line)]);
    let mail = server.next().await;
    assert_eq!(
        mail["subject"], "[Würfel] critical: Größe überschritten: Käse, 100 % – ☃ (and 2 more)",
        "{mail}"
    );
    assert_eq!(mail["from"], "cache@example.org");
    assert_eq!(mail["to"], json!(["ops@example.org", "night@example.org"]));
    assert_eq!(mail["ascii"], true, "a server without SMTPUTF8 or 8BITMIME takes it");
    let body = mail["body"].as_str().unwrap();
    let lines: Vec<_> = body.trim_end().lines().collect();
    assert_eq!(lines[0], "BEGUN: Größe überschritten: Käse, 100 % – ☃");
    assert!(lines[1].starts_with("OVER: zwei") && lines[1].contains("Bcc: victim@example.org"), "{body}");
    assert_eq!(lines[2], format!("BEGUN: {line}"));
    assert_eq!(lines.len(), 3, "{body}");
    let headers: Vec<_> =
        mail["headers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(!headers.contains(&"bcc"));
    for name in ["date", "message-id", "mime-version", "content-type"] {
        assert!(headers.contains(&name), "{name}: {headers:?}");
    }
    until(|| alerts.told() == 1).await;
    assert_eq!(alerts.lost(), 0);
}

#[tokio::test]
async fn mail_is_protected_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let identity = authority.sign(&["127.0.0.1"], |_| ()).file(folder.path());
    let login = ("käse".to_owned(), PASSWORD.to_owned());
    for wrapped in [false, true] {
        let demands = Demands {
            certificate: Some(identity.display().to_string()),
            wrapped,
            // aiosmtpd offers no login on a connection that was wrapped from its first byte.
            login: (!wrapped).then(|| login.clone()),
            ..Demands::default()
        };
        let mut server = MailServer::start(demands).await;
        let tls = if wrapped { MailTls::Wrapped } else { MailTls::StartTls };
        let known = (!wrapped).then(|| (login.0.clone(), Redacted::new(login.1.clone())));
        let mail = MailConfig { tls, login: known, ..mail(server.port) };
        let mut config = by_mail(mail);

        // A certificate that nobody vouches for.
        let refused = Alerts::test(&config, "cache").await.unwrap().remove(0).result.unwrap_err();
        assert!(refused.contains("certificate") || refused.contains("mail server"), "{refused}");
        assert!(server.is_empty());

        config.ca_file = Some(authority.file(folder.path()));
        assert_eq!(Alerts::test(&config, "cache").await.unwrap().remove(0).result, Ok(()));
        let mail = server.next().await;
        assert_eq!((&mail["tls"], &mail["login"]), (&json!(!wrapped), &json!(!wrapped)), "{mail}");

        if !wrapped {
            let mut wrong = config.clone();
            wrong.mail.as_mut().unwrap().login = Some((login.0.clone(), Redacted::new("wrong-4711".into())));
            let refused = Alerts::test(&wrong, "cache").await.unwrap().remove(0).result.unwrap_err();
            assert!(refused.contains("535") && !refused.contains("4711"), "{refused}");
        }
    }
    // Who takes the offer of TLS out of the answer gets neither mail nor password.
    let plain = MailServer::start(Demands::default()).await;
    let config = by_mail(MailConfig { tls: MailTls::StartTls, ..mail(plain.port) });
    assert!(Alerts::test(&config, "cache").await.unwrap().remove(0).result.is_err());
    assert!(plain.is_empty());
}

#[tokio::test]
async fn a_dead_mail_server_does_not_delay_the_webhook_and_is_caught_up_with_in_one_mail() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let hook = accepting().await;
    let tries = Tries { most: 40, ..quick() };
    let alerts = AlertConfig { mail: Some(mail(port)), tries, ..webhook(&hook) };
    let alerts = Alerts::start(&alerts, "cache").unwrap();
    for n in 1..=4 {
        alerts.tell(&[notice(&format!("key {n}"), &format!("trouble {n}"))]);
        hook.until_asked(SECRET_PATH, n).await;
    }
    let mut server =
        MailServer::start(Demands { port, answers: vec!["451 later"], ..Demands::default() }).await;
    let mail = server.next().await;
    let body = mail["body"].as_str().unwrap();
    assert_eq!(
        body.trim_end().lines().collect::<Vec<_>>(),
        (1..=4).map(|n| format!("BEGUN: trouble {n}")).collect::<Vec<_>>()
    );
    until(|| alerts.told() == 8).await;
    assert_eq!(alerts.lost(), 0);
    // And one that hangs.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let alerts = AlertConfig { mail: Some(self::mail(port)), ..webhook(&hook) };
    let alerts = Alerts::start(&alerts, "cache").unwrap();
    alerts.tell(&[notice("key 5", "trouble 5")]);
    hook.until_asked(SECRET_PATH, 5).await;
    until(|| alerts.told() == 1).await;
}

#[tokio::test]
async fn a_mail_that_is_refused_for_good_is_counted_and_not_repeated() {
    let answers = vec!["554 no such luck", "250"];
    let mut server = MailServer::start(Demands { answers, ..Demands::default() }).await;
    let alerts = Alerts::start(&by_mail(mail(server.port)), "cache").unwrap();
    alerts.tell(&[notice("a", "first")]);
    until(|| alerts.lost() == 1).await;
    alerts.tell(&[notice("b", "second")]);
    assert_eq!(server.next().await["body"].as_str().unwrap().trim_end(), "BEGUN: second");
    let none = AlertConfig { mail: Some(MailConfig { to: Vec::new(), ..mail(1) }), ..AlertConfig::default() };
    assert!(matches!(Alerts::start(&none, "cache"), Err(AlertError::NoRecipient)));
}

/// A webhook that gives these answers, one after the other, and then 200.
async fn answering(answers: &[(&'static str, Option<&'static str>)]) -> FakeGrid {
    let hook = FakeGrid::start().await;
    let mut left: Vec<_> = answers.to_vec();
    left.reverse();
    let left = Mutex::new(left);
    hook.on(SECRET_PATH, move |_| match left.lock().unwrap().pop() {
        Some(("none", _)) => Reply::none(),
        Some((status, None)) => Reply::new(status, &[], "no"),
        Some((status, Some(after))) => Reply::new(status, &[("Retry-After", after)], "no"),
        None => Reply::ok("text/plain", "ok"),
    });
    hook
}

#[tokio::test]
async fn a_webhook_in_trouble_is_asked_again_and_one_that_refuses_is_not() {
    let hook = answering(&[("500 Oops", None), ("none", None), ("503 Busy", None)]).await;
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    alerts.tell(&[notice("a", "first")]);
    until(|| alerts.told() == 1).await;
    assert_eq!((hook.asked(SECRET_PATH).len(), alerts.lost()), (4, 0));

    // It says for how long to leave it alone.
    let hook = answering(&[("429 Slow Down", Some("1")), ("503 Busy", Some("nonsense"))]).await;
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    let began = Instant::now();
    alerts.tell(&[notice("a", "first")]);
    hook.until_asked(SECRET_PATH, 1).await;
    until(|| alerts.told() == 1).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After is honoured");
    assert_eq!(hook.asked(SECRET_PATH).len(), 3);

    for refusal in ["400 Bad Request", "404 Not Found", "302 Found", "410 Gone"] {
        let hook = answering(&[(refusal, None)]).await;
        let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
        alerts.tell(&[notice("a", "first")]);
        until(|| alerts.lost() == 1).await;
        alerts.tell(&[notice("b", "second")]);
        until(|| alerts.told() == 1).await;
        assert_eq!(told(&hook).len(), 2, "{refusal} is for good");
    }

    // In the end it is given up.
    let hook = FakeGrid::start().await;
    hook.on(SECRET_PATH, |_| Reply::new("500 Oops", &[], "no"));
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    alerts.tell(&[notice("a", "first")]);
    until(|| alerts.lost() == 1).await;
    assert_eq!(hook.asked(SECRET_PATH).len(), 5);
}

#[tokio::test]
async fn more_than_a_way_can_take_is_counted_and_does_not_wait() {
    let (hook, gate) = (FakeGrid::start().await, Gate::closed());
    let held = gate.clone();
    hook.on(SECRET_PATH, move |_| Reply::ok("text/plain", "ok").held_by(&held));
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    alerts.tell(&[notice("a", "first")]);
    hook.until_asked(SECRET_PATH, 1).await;
    for n in 0..100 {
        alerts.tell(&[notice("b", &n.to_string())]);
    }
    assert_eq!(alerts.lost(), 100 - 64);
    gate.open();
    until(|| alerts.told() + alerts.lost() == 101).await;
}

#[tokio::test]
async fn what_is_to_be_told_at_the_end_is_told_unless_that_takes_too_long() {
    let hook = accepting().await;
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    alerts.tell(&[notice("a", "the last")]);
    alerts.finish(Duration::from_secs(30)).await;
    assert_eq!(hook.asked(SECRET_PATH).len(), 1);
    let (hook, gate) = (FakeGrid::start().await, Gate::closed());
    let held = gate.clone();
    hook.on(SECRET_PATH, move |_| Reply::ok("text/plain", "ok").held_by(&held));
    let alerts = Alerts::start(&webhook(&hook), "cache").unwrap();
    alerts.tell(&[notice("a", "the last")]);
    within(alerts.finish(Duration::from_millis(200))).await;
}

#[tokio::test]
async fn each_way_is_tested_and_says_how_it_went() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let hook = accepting().await;
    let front = TlsFront::start(authority.sign(&["127.0.0.1"], |_| ()), hook.at).await;
    let mut server = MailServer::start(Demands::default()).await;
    let https = Redacted::new(format!("https://{}{SECRET_PATH}", front.at));
    let mut config = AlertConfig { webhook: Some(https), tries: quick(), ..by_mail(mail(server.port)) };
    let stranger = Alerts::test(&config, "cache").await.unwrap();
    assert_eq!(stranger[0].result, Err("the webhook cannot be reached".to_owned()), "an unknown authority");
    config.ca_file = Some(authority.file(folder.path()));
    let tested = Alerts::test(&config, "cache").await.unwrap();
    let names: Vec<_> = tested.iter().map(|tested| (tested.way, tested.result.is_ok())).collect();
    assert_eq!(names, [("webhook", true), ("mail", true)]);
    assert_eq!(told(&hook), [[("test".to_owned(), "raised".to_owned())]]);
    let _ = server.next().await;
    assert!(server.next().await["body"].as_str().unwrap().contains("this is a test"));
    assert!(Alerts::test(&AlertConfig::default(), "cache").await.unwrap().is_empty());
    for missing in [folder.path().join("none.pem"), empty(folder.path())] {
        config.ca_file = Some(missing);
        assert!(matches!(Alerts::start(&config, "cache"), Err(AlertError::Authorities { .. })));
    }
}

fn empty(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("empty.pem");
    std::fs::write(&path, "nothing").unwrap();
    path
}

/// All that this thread logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The webhook's URL and the mail password are in no log, error or debug text, whatever goes wrong.
#[tokio::test]
async fn no_secret_of_an_alert_is_logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut said = String::new();
    let nobody: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusing = answering(&[("400 Bad Request", None); 9]).await;
    let closing = answering(&[("none", None); 99]).await;
    let login = Some(("someone".to_owned(), Redacted::new(PASSWORD.to_owned())));
    let demands = Demands { login: Some(("someone".into(), "other".into())), ..Demands::default() };
    let server = MailServer::start(demands).await;
    for (at, port) in [(nobody, nobody.port()), (refusing.at, server.port), (closing.at, server.port)] {
        let config = AlertConfig {
            webhook: Some(Redacted::new(format!("http://{at}{SECRET_PATH}"))),
            mail: Some(MailConfig { login: login.clone(), ..mail(port) }),
            tries: Tries { most: 2, ..quick() },
            ca_file: None,
        };
        said.push_str(&format!("{config:?}"));
        let alerts = Alerts::start(&config, "cache").unwrap();
        said.push_str(&format!("{alerts:?}"));
        alerts.tell(&[notice("a", "first")]);
        until(|| alerts.lost() == 2).await;
        said.push_str(&format!("{:?}", Alerts::test(&config, "cache").await.unwrap()));
    }
    for wrong in ["hooks.example.org/T0SECRETPATH", "ftp://x/T0SECRETPATH", "https://[T0SECRETPATH"] {
        let config = AlertConfig { webhook: Some(Redacted::new(wrong.into())), ..AlertConfig::default() };
        let error = Alerts::start(&config, "cache").unwrap_err();
        said.push_str(&format!("{error} {error:?}"));
    }
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    assert!(logged.contains("an alert could not be sent"), "the log is being read: {logged}");
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("\0someone\0{PASSWORD}"));
    for secret in ["T0SECRETPATH", PASSWORD, &encoded] {
        assert!(!said.contains(secret), "{said}");
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
