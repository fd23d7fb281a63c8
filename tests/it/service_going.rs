//! A node that goes while its readers still read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rezcache::asset::AssetKind;
use rezcache::catalog::{Board as _, Fact, FactKind, Place, SqliteCatalog};
use rezcache::client::FoundBody;
use rezcache::director::provision::{Asked, ProvisionError, Provisioner};
use rezcache::director::{AlertConfig, Director, DirectorConfig};
use rezcache::fleet::array::{ArrayRules, NodeFact, NodeSpec};
use rezcache::fleet::health::HealthRules;
use rezcache::fleet::notices::NoticeRules;
use rezcache::fleet::report::Capacity;
use rezcache::fleet::scaling::{Phase, ScalingRules};
use rezcache::node::Node;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::service::{GRID, client, client_at, config, key, origin, share, tcp_only, texture};
use crate::support::process::NodeProcess;
use crate::support::tls::careless;
use crate::support::within;

/// More than is on its way at once.
const SIZE: usize = 12_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_read_is_read_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    for (number, over_quic) in [(1, true), (2, false)] {
        let node = Node::start(config(folder.path())).await.unwrap();
        let reader = match over_quic {
            true => client(&node),
            false => client_at(tcp_only(node.address()).await, node.pin().unwrap()),
        };
        let (bytes, name) = (texture(number, SIZE), key(AssetKind::Texture, number as u128));
        share(&reader, &name, &bytes).await;
        let mut body = reader.read(&name, origin(), None).await.unwrap().unwrap();
        let address = node.address();
        let going = tokio::spawn(node.stop());
        let refused = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within(refused).await;
        assert!(!going.is_finished(), "somebody reads");
        let mut got = Vec::new();
        while let Some(part) = body.next().await.unwrap() {
            got.extend_from_slice(&part);
        }
        assert!(got == bytes, "{} of {} bytes", got.len(), bytes.len());
        drop((body, reader));
        within(going).await.unwrap();
    }
}

/// What a node answers: status, head and body.
async fn asked(at: SocketAddr, options: &[&str], path: &str) -> (u16, String, String) {
    let mut command = std::process::Command::new("curl");
    command.args(["--silent", "--insecure", "--include", "--http1.1", "--max-time", "20"]).args(options);
    command.arg(format!("https://{at}{path}"));
    let output = tokio::task::spawn_blocking(move || command.output().expect("curl is installed"));
    let text = String::from_utf8_lossy(&within(output).await.unwrap().stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_ascii_lowercase(), body.to_owned())
}

async fn connections(at: SocketAddr) -> (u64, bool) {
    let (status, _, body) = asked(at, &[], "/v1/node").await;
    assert_eq!(status, 200, "{body}");
    let report: Value = serde_json::from_str(&body).unwrap();
    (report["connections_open"].as_u64().unwrap(), report["draining"].as_bool().unwrap())
}

async fn until_connections(at: SocketAddr, wanted: (u64, bool)) {
    within(async {
        while connections(at).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

async fn whole(mut body: FoundBody) -> Vec<u8> {
    let mut got = Vec::new();
    while let Some(part) = within(body.next()).await.unwrap() {
        got.extend_from_slice(&part);
    }
    got
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_node_is_looked_at_finishes_what_runs_and_takes_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(folder.path(), None);
    let at = node.at;
    let over_quic = client_at(at, &node.pin);
    let over_tcp = client_at(tcp_only(at).await, &node.pin);
    let idle = client_at(at, &node.pin);
    let (bytes, name) = (texture(1, SIZE), key(AssetKind::Texture, 1));
    share(&over_quic, &name, &bytes).await;
    let running = [
        over_quic.read(&name, origin(), None).await.unwrap().unwrap(),
        over_tcp.read(&name, origin(), None).await.unwrap().unwrap(),
    ];
    idle.lookup(&name.grid, origin(), vec![(name.kind, name.id)]).await.unwrap();
    until_connections(at, (3, false)).await;

    for _ in 0..2 {
        let (status, _, word) = asked(at, &["-X", "POST"], "/v1/node/drain").await;
        assert_eq!((status, &*word), (202, "draining"), "said again, nothing changes");
    }
    until_connections(at, (2, true)).await;
    assert_eq!(asked(at, &[], "/healthz").await.0, 200);
    assert_eq!(asked(at, &[], "/readyz").await.0, 503);
    // On one connection, as directors ask.
    let (status, head, both) = asked(at, &[&format!("https://{at}/readyz")], "/v1/node").await;
    assert_eq!(status, 503);
    assert!(!head.contains("connection: close") && both.contains("\"draining\":true"), "{head} {both}");
    for (options, path) in [
        (&[][..], "/v1/service".to_owned()),
        (&[], "/v1/enroll".to_owned()),
        (&["-X", "POST", "-d", "{}"], "/v1/lookup".to_owned()),
        (&[], format!("/v1/grids/{GRID}/assets/texture/{}", name.id.0)),
    ] {
        let (status, head, body) = asked(at, options, &path).await;
        assert_eq!(status, 503, "{path}: {body}");
        assert!(head.contains("retry-after: ") && head.contains("connection: close"), "{path}: {head}");
    }
    assert!(client_at(at, &node.pin).read(&name, origin(), None).await.is_err());
    assert!(idle.read(&name, origin(), None).await.is_err());

    for body in running {
        assert!(whole(body).await == bytes, "what ran is whole");
    }
    drop((over_quic, over_tcp));
    assert_eq!(node.ended().await, Some(0));
    assert!(TcpStream::connect(at).await.is_err());
}

/// There may always be one more request: it is sent away, and nobody waits until its sender has read that.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_and_again_does_not_keep_a_node_from_going() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = NodeProcess::start(folder.path(), None);
    // A client that lets no answer in.
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(0u8.into());
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(careless(rezcache::wire::ALPN)).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).unwrap();
    endpoint.set_default_client_config(config);
    let connection = within(endpoint.connect(node.at, "localhost").unwrap()).await.unwrap();
    let begin = async || {
        let (mut send, receive) = connection.open_bi().await.unwrap();
        send.write_all(&[0]).await.unwrap();
        // The node has it by now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        (send, receive)
    };
    let (mut before, mut answer) = begin().await;
    assert_eq!(asked(node.at, &["-X", "POST"], "/v1/node/drain").await.0, 202);
    let _after = begin().await;
    assert!(connection.close_reason().is_none(), "what ran before may end");
    before.reset(0u8.into()).unwrap();
    answer.stop(0u8.into()).unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(8), connection.closed()).await;
    let closed = closed.expect("the node waits for the second request");
    assert!(
        matches!(&closed, quinn::ConnectionError::ApplicationClosed(why) if why.error_code == 1u8.into()),
        "{closed}"
    );
    assert_eq!(node.ended().await, Some(0));
}

/// Nothing is opened, and whoever is closed is written down.
#[derive(Default)]
struct Closing(std::sync::Mutex<Vec<String>>);

impl Provisioner for Closing {
    fn open(&self, _: String, _: Vec<String>) -> Asked<'_, NodeSpec> {
        Box::pin(async { Err(ProvisionError::NoRoom) })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        self.0.lock().unwrap().push(node.name);
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_director_waits_for_who_reads_from_a_node_that_leaves_and_then_closes_it() {
    let folder = tempfile::tempdir().unwrap();
    let stays = NodeProcess::start(folder.path(), None);
    let store = format!("file://{}", folder.path().join("store").display());
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let mut leaves = NodeProcess::start_with(&other, &["--store", &store, "--listen", "127.0.0.2:0"], &[]);
    let spec = |name: &str, at: SocketAddr, handle: &str| NodeSpec {
        name: name.into(),
        url: format!("https://{at}"),
        addresses: Vec::new(),
        handle: handle.into(),
    };
    let catalog = folder.path().join("store/catalog.sqlite");
    let board = SqliteCatalog::open(&catalog).unwrap();
    let fact = NodeFact { spec: spec("lynx", leaves.at, "i-1"), phase: Phase::Leaving, closing: false };
    let record = serde_json::to_vec(&fact).unwrap();
    let fact = Fact { name: "lynx".into(), at: 0, record };
    assert!(board.put_fact(FactKind::Node, fact, 0).await.unwrap());

    let reader = client_at(leaves.at, &leaves.pin);
    let (bytes, name) = (texture(1, SIZE), key(AssetKind::Texture, 1));
    share(&reader, &name, &bytes).await;
    let running = reader.read(&name, origin(), None).await.unwrap().unwrap();

    let closing = Arc::new(Closing::default());
    let config = DirectorConfig {
        name: "first".into(),
        zone: "cache.example.org.".into(),
        name_servers: vec!["ns1.example.org.".into()],
        ttl: Duration::from_secs(1),
        dns_listen: "127.0.0.1:0".parse().unwrap(),
        nodes: vec![spec("otter", stays.at, "")],
        rules: ArrayRules {
            health: HealthRules::every(Duration::from_millis(500)),
            scaling: Some(ScalingRules { ttl: Duration::from_secs(1), ..ScalingRules::default() }),
            capacity: Capacity::default(),
            notices: NoticeRules::default(),
        },
        catalog: Place::Sqlite(catalog),
        server_name: None,
        pins: vec![stays.pin.clone(), leaves.pin.clone()],
        ca_file: None,
        token: None,
        memory: None,
        alerts: AlertConfig::default(),
        status_listen: None,
        monitoring_public: false,
    };
    let director = Director::start(config, Some(closing.clone())).await.unwrap();
    until_connections(leaves.at, (1, true)).await;
    // Several probes later it still waits.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let phases: Vec<_> =
        director.picture().borrow().nodes.iter().map(|node| (node.name.clone(), node.phase)).collect();
    assert_eq!(phases, [("lynx".to_owned(), Phase::Draining), ("otter".to_owned(), Phase::Serving)]);
    assert!(closing.0.lock().unwrap().is_empty());
    assert!(whole(running).await == bytes);
    drop(reader);
    assert_eq!(leaves.ended().await, Some(0));
    within(async {
        while closing.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(*closing.0.lock().unwrap(), ["lynx"]);
    let troubles = director.picture().borrow().troubles.clone();
    assert!(
        !troubles.iter().any(|trouble| trouble.contains("lynx")),
        "planned ends alarm nobody: {troubles:?}"
    );
}
