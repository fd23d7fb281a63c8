//! A director that starts when others are away: the catalog, its nodes, or those whom it takes for its nodes; and why
//! it does not believe somebody.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rezcache::catalog::{Board as _, Fact, FactKind, Place, SqliteCatalog};
use rezcache::director::provision::{Asked, Provisioner};
use rezcache::director::{AlertConfig, Director, DirectorConfig, Looked, NodeAddress, Prober};
use rezcache::fleet::array::{ArrayRules, NodeFact, NodeSpec};
use rezcache::fleet::health::{Cause, HealthRules, Probe};
use rezcache::fleet::notices::NoticeRules;
use rezcache::fleet::report::Capacity;
use rezcache::fleet::scaling::{Phase, ScalingRules};
use rezcache::redact::Redacted;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::process::NodeProcess;
use crate::support::tls::Authority;
use crate::support::within;

const NAME: &str = "cache.example.org";
const PATIENCE: Duration = Duration::from_secs(2);

fn config(catalog: Place, memory: Option<PathBuf>, scaling: bool) -> DirectorConfig {
    DirectorConfig {
        name: "first".into(),
        zone: format!("{NAME}."),
        name_servers: vec!["ns1.example.org.".into()],
        ttl: Duration::from_secs(7),
        dns_listen: "127.0.0.1:0".parse().unwrap(),
        nodes: Vec::new(),
        rules: ArrayRules {
            health: HealthRules::every(Duration::from_secs(1)),
            scaling: scaling.then(|| ScalingRules { minimum: 0, ..ScalingRules::default() }),
            capacity: Capacity::default(),
            notices: NoticeRules { gather: Duration::from_millis(300), ..NoticeRules::default() },
        },
        catalog,
        server_name: None,
        pins: Vec::new(),
        ca_file: None,
        token: None,
        memory,
        alerts: AlertConfig::default(),
        status_listen: None,
        monitoring_public: false,
    }
}

fn spec(name: &str, at: impl std::fmt::Display, handle: &str) -> NodeSpec {
    let url = format!("https://{at}");
    NodeSpec { name: name.into(), url, addresses: Vec::new(), handle: handle.into() }
}

async fn dig(director: &Director) -> String {
    let at = director.dns_address();
    let mut command = Command::new("dig");
    command.args([format!("@{}", at.ip()), "-p".into(), at.port().to_string()]);
    command.args(["+tries=1", &format!("{NAME}."), "A"]);
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("dig is installed")).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}

async fn until_dug(director: &Director, wanted: &str) -> String {
    let waiting = async {
        loop {
            let told = dig(director).await;
            if told.contains(wanted) {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(waiting).await
}

/// A catalog that nobody answers for.
fn away() -> Place {
    let at = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Place::Postgres(Redacted::new(format!("postgres://nobody@{at}/rezcache")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_catalog_a_director_names_whom_it_remembers_and_never_says_that_there_is_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let (catalog, memory) = (folder.path().join("catalog.sqlite"), folder.path().join("nodes.json"));
    // Nobody listens at these; both are known from the board alone.
    let mut facts = Vec::new();
    for (name, host) in [("otter", "127.0.0.77"), ("lynx", "127.0.0.78")] {
        let addresses = vec![host.parse().unwrap()];
        let spec = NodeSpec { addresses, ..spec(name, format!("{host}:9"), "i-1") };
        let record = serde_json::to_vec(&NodeFact { spec, phase: Phase::Serving, closing: false }).unwrap();
        facts.push(Fact { name: name.into(), at: 0, record });
    }
    let board = SqliteCatalog::open(&catalog).unwrap();
    for fact in facts {
        assert!(board.put_fact(FactKind::Node, fact, 0).await.unwrap());
    }
    let known = config(Place::Sqlite(catalog), Some(memory.clone()), true);
    let director = Director::start(known, None).await.unwrap();
    until_dug(&director, "127.0.0.77").await;
    within(async {
        while !memory.exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    director.stop().await;

    let director = Director::start(config(away(), Some(memory), true), None).await.unwrap();
    for _ in 0..3 {
        let told = dig(&director).await;
        assert!(told.contains("127.0.0.77") && told.contains("127.0.0.78"), "{told}");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    director.stop().await;

    for scaling in [true, false] {
        let director = Director::start(config(away(), None, scaling), None).await.unwrap();
        for _ in 0..3 {
            let told = dig(&director).await;
            assert!(told.contains("status: SERVFAIL") && !told.contains(" aa "), "{told}");
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        director.stop().await;
    }
    // A catalog that says that there is nobody is believed, for as long as an address would be.
    let director = Director::start(config(Place::Memory, None, true), None).await.unwrap();
    let told = until_dug(&director, "status: NOERROR").await;
    let soa = told.lines().find(|line| line.contains("\tSOA\t")).unwrap_or_default();
    assert_eq!(soa.split_whitespace().nth(1), Some("7"), "{told}");
    director.stop().await;
}

fn roots(file: Option<PathBuf>) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        roots.add_parsable_certificates(CertificateDer::pem_file_iter(file).unwrap().flatten());
    }
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn address(at: SocketAddr, tls: bool) -> NodeAddress {
    NodeAddress { host: at.ip().to_string(), port: at.port(), tls }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_the_services_name_is_probed_and_drained_on_loopback_and_strangers_are_called_what_they_are()
 {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let file = authority.file(folder.path());
    let node = |name: &str, not_after: i32| {
        let own = folder.path().join(name);
        std::fs::create_dir_all(&own).unwrap();
        let identity =
            authority.sign(&[name], |params| params.not_after = rcgen::date_time_ymd(not_after, 1, 1));
        let (certificate, key) = identity.files(&own);
        let words =
            ["--certificate", certificate.to_str().unwrap(), "--certificate-key", key.to_str().unwrap()];
        NodeProcess::start_with(&own, &words, &[])
    };
    let mut ours = node(NAME, 2400);
    let prober = Prober::new(roots(Some(file.clone())), Some(NAME.into()), None);
    let looked = prober.probe(&address(ours.at, true), PATIENCE).await;
    assert!(
        matches!(looked, Looked { probe: Probe::Ready { .. }, cause: None, report: Some(_) }),
        "{looked:?}"
    );

    let expired = node("old.example.org", 2020);
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = FakeGrid::start().await;
    other.on("/readyz", |_| Reply::new("404 Not Found", &[], ""));
    let babbler = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let babbling = babbler.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = babbler.accept().await {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"220 mail.example.org ready\r\n").await;
        }
    });
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let named = |name: &str| Prober::new(roots(Some(file.clone())), Some(name.into()), None);
    let at = |at| address(at, true);
    for (prober, at, cause) in [
        (named("else.example.org"), at(ours.at), Cause::NotForName("else.example.org".into())),
        (Prober::new(roots(None), Some(NAME.into()), None), at(ours.at), Cause::UnknownAuthority),
        (named("old.example.org"), at(expired.at), Cause::Expired),
        (prober.clone(), at(nobody), Cause::ConnectionRefused),
        (prober.clone(), at(mute.local_addr().unwrap()), Cause::TimedOut),
        (prober.clone(), address(other.at, false), Cause::Status(404)),
        (prober.clone(), address(babbling, false), Cause::NotHttp),
        (prober.clone(), at(babbling), Cause::NoTls),
    ] {
        let looked = prober.probe(&at, PATIENCE).await;
        assert_eq!((looked.cause, looked.report.is_none()), (Some(cause), true), "{at:?}");
        assert!(matches!(looked.probe, Probe::Refused | Probe::TimedOut));
    }

    assert!(prober.drain(&address(ours.at, true), PATIENCE).await);
    // It has nobody to wait for.
    let looked = prober.probe(&address(ours.at, true), PATIENCE).await;
    assert!(
        matches!(
            looked.cause,
            Some(Cause::Draining | Cause::ConnectionRefused | Cause::NoRoute | Cause::NotHttp | Cause::NoTls)
        ),
        "{looked:?}"
    );
    assert_eq!(ours.ended().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_were_never_there_are_told_of_with_the_reason_and_the_public_is_not_told_it() {
    let folder = tempfile::tempdir().unwrap();
    let stranger = NodeProcess::start_with(folder.path(), &["--listen", "127.0.0.1:0"], &[]);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nodes = vec![spec("otter", nobody, ""), spec("lynx", stranger.at, "")];
    let pins = vec![format!("sha256:{}", "0".repeat(64))];
    let config = DirectorConfig { nodes, pins, ..config(Place::Memory, None, false) };
    let director = Director::start(config, None).await.unwrap();
    let mut notices = director.notices();
    within(notices.changed()).await.unwrap();
    let mut told: Vec<_> = notices.borrow_and_update().iter().map(|notice| notice.text.clone()).collect();
    while told.len() < 3 {
        within(notices.changed()).await.unwrap();
        told.extend(notices.borrow_and_update().iter().map(|notice| notice.text.clone()));
    }
    told.sort();
    assert_eq!(
        told,
        [
            "lynx does not answer: TLS: its key is not one of the pins",
            "no node is well; DNS names all of them",
            "otter does not answer: connection refused",
        ]
    );
    let public = director.picture().borrow().troubles.clone();
    assert!(public.contains(&"lynx does not answer".to_owned()), "{public:?}");
    assert!(!public.iter().any(|text| text.contains("TLS") || text.contains("refused")), "{public:?}");
    director.stop().await;
}

/// Opens slowly, and always at one place; whoever is closed is written down.
struct Slow {
    url: String,
    takes: Duration,
    asked: tokio::sync::watch::Sender<usize>,
    closed: Mutex<Vec<String>>,
}

impl Slow {
    fn new(url: &str, takes: Duration) -> Arc<Self> {
        let (asked, closed) = (tokio::sync::watch::channel(0).0, Mutex::default());
        Arc::new(Self { url: url.into(), takes, asked, closed })
    }
}

impl Provisioner for Slow {
    fn open(&self, name: String, _: Vec<String>) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            self.asked.send_modify(|asked| *asked += 1);
            tokio::time::sleep(self.takes).await;
            let addresses = vec!["127.0.0.79".parse().unwrap()];
            Ok(NodeSpec { name, url: self.url.clone(), addresses, handle: "i-new".into() })
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        self.closed.lock().unwrap().push(node.handle);
        Box::pin(async { Ok(()) })
    }
}

fn elastic(catalog: PathBuf, nodes: Vec<NodeSpec>, minimum: usize) -> DirectorConfig {
    let usual = config(Place::Sqlite(catalog), None, true);
    let scaling = Some(ScalingRules { minimum, maximum: 2, ..ScalingRules::default() });
    DirectorConfig { nodes, rules: ArrayRules { scaling, ..usual.rules }, ..usual }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_being_opened_when_its_director_ends_is_written_of() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = folder.path().join("catalog.sqlite");
    let slow = Slow::new("https://127.0.0.79:9", Duration::from_secs(2));
    let director =
        Director::start(elastic(catalog.clone(), Vec::new(), 1), Some(slow.clone())).await.unwrap();
    within(slow.asked.subscribe().wait_for(|asked| *asked == 1)).await.unwrap();
    within(director.stop()).await;
    let facts = SqliteCatalog::open(&catalog).unwrap().facts(FactKind::Node).await.unwrap();
    let facts: Vec<NodeFact> =
        facts.iter().map(|fact| serde_json::from_slice(&fact.record).unwrap()).collect();
    assert!(
        matches!(&facts[..], [fact] if fact.spec.handle == "i-new" && fact.phase == Phase::Starting),
        "{facts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_opened_where_a_member_is_does_not_go_on_to_cost() {
    let folder = tempfile::tempdir().unwrap();
    let member = spec("otter", "127.0.0.79:9", "");
    let slow = Slow::new(&member.url, Duration::ZERO);
    let config = elastic(folder.path().join("catalog.sqlite"), vec![member], 2);
    let director = Director::start(config, Some(slow.clone())).await.unwrap();
    within(async {
        while slow.closed.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(slow.closed.lock().unwrap()[0], "i-new");
    director.stop().await;
}
