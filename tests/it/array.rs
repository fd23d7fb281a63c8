//! Several real nodes over one real PostgreSQL and one store: what they race for, what one learns from
//! the other, and what goes on while the database is away.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::catalog::{Catalog as _, Place, PostgresCatalog};
use rezcache::client::{CallError, ServiceClient};
use rezcache::grid::{GridId, Origin};
use rezcache::node::{GridPolicy, Node, NodeConfig};
use rezcache::publication::Record;
use rezcache::redact::Redacted;
use rezcache::store::keys::KeyRing;
use rezcache::store::records;
use rezcache::wire::frame::{Codec, Verdict};
use rezcache::wire::{self, OriginHash};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::rezcache;
use crate::service::{GRID, client, config, key, origin, read, share, texture};
use crate::support::operator::{self, Operator, from_network};
use crate::support::postgres::Server;

/// Promised to whoever asks for a take-down, or revokes a token.
const IN_FORCE: Duration = Duration::from_secs(10);

/// Nodes that share one catalog and one store.
struct Array {
    folder: TempDir,
    catalog: String,
    nodes: Vec<Node>,
}

impl Array {
    async fn start(catalog: String, nodes: usize) -> Self {
        let mut array = Self { folder: tempfile::tempdir().unwrap(), catalog, nodes: Vec::new() };
        for _ in 0..nodes {
            array.nodes.push(array.node().await);
        }
        array
    }

    /// One more node.
    async fn node(&self) -> Node {
        let catalog = Place::Postgres(Redacted::new(self.catalog.clone()));
        Node::start(NodeConfig { catalog, ..config(self.folder.path()) }).await.unwrap()
    }

    fn clients(&self) -> Vec<Arc<ServiceClient>> {
        self.nodes.iter().map(|node| Arc::new(client(node))).collect()
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

/// Two nodes that take tokens, of trusted tenants among others.
struct Gated {
    folder: TempDir,
    operator: Operator,
    catalog: String,
    nodes: Vec<Node>,
}

impl Gated {
    async fn start(server: &Server, confirmations: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let operator = Operator::new(folder.path());
        let mut gated = Self { folder, operator, catalog: server.url(&server.database()), nodes: Vec::new() };
        let grid =
            GridPolicy { id: GridId::new(GRID), publish: true, central: false, asset_hosts: Vec::new() };
        for _ in 0..2 {
            let config = NodeConfig {
                catalog: Place::parse(&gated.catalog).unwrap(),
                confirmations,
                grids: vec![grid.clone()],
                trusted_tenants: vec!["school".into()],
                ..gated.operator.config(gated.folder.path())
            };
            gated.nodes.push(Node::start(config).await.unwrap());
        }
        gated
    }

    async fn record(&self, key: &AssetKey) -> Record {
        record(&self.catalog, &self.operator.config(self.folder.path()).key_file, key).await
    }

    async fn stop(self) {
        for node in self.nodes {
            node.stop().await;
        }
    }
}

/// What a catalog holds of an asset.
async fn record(catalog: &str, key_file: &Path, key: &AssetKey) -> Record {
    let ring = KeyRing::read(key_file).unwrap();
    let hash = ring.keyed_hash("asset key", &[&wire::key_bytes(key)]);
    let catalog = PostgresCatalog::open(catalog).await.unwrap();
    let row = catalog.read(vec![hash]).await.unwrap().remove(0).expect("there is a record");
    Record::decode(&records::open(&ring, &hash, &row.record).unwrap()).unwrap()
}

fn from(simulator: usize) -> Option<OriginHash> {
    Some(OriginHash::of(&GridId::new(GRID), &Origin::new(&format!("sim{simulator}.example"))))
}

/// As [`share`], from an origin.
async fn share_from(
    client: &ServiceClient,
    key: &AssetKey,
    bytes: &Bytes,
    origin: Option<OriginHash>,
) -> Verdict {
    let digest = Digest::of(bytes);
    match client.attest(key, origin, digest, bytes).await.unwrap() {
        Verdict::Waiting { want_body: true } => {
            client.put(key, origin, digest, Codec::Raw, bytes.clone()).await.unwrap()
        }
        verdict => verdict,
    }
}

async fn read_from(client: &ServiceClient, key: &AssetKey, origin: Option<OriginHash>) -> Option<Vec<u8>> {
    let mut body = client.read(key, origin, None).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    Some(bytes)
}

/// Runs curl; the status, the head in lower case, and the body.
async fn curl(arguments: &[&str]) -> (u16, String, Vec<u8>) {
    let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
    let run = move || Command::new("curl").args(["-sSik", "--http1.1"]).args(arguments).output().unwrap();
    let output = tokio::task::spawn_blocking(run).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut all = &output.stdout[..];
    loop {
        let at = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&all[..at]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        all = &all[at + 4..];
        // What only says that the body may come.
        if status != 100 {
            return (status, head, all.to_vec());
        }
    }
}

async fn report(node: &Node) -> Value {
    let (status, _, body) = curl(&[&format!("https://{}/v1/node", node.address())]).await;
    assert_eq!(status, 200);
    serde_json::from_slice(&body).unwrap()
}

fn url(node: &Node, key: &AssetKey) -> String {
    format!("https://{}/v1/grids/{GRID}/assets/{}/{}", node.address(), key.kind.name(), key.id.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_upload_one_asset_exactly_one_publishes_it() {
    const ASSETS: usize = 30;
    const EACH: usize = 4;
    let Some(server) = Server::shared() else { return };
    let array = Array::start(server.url(&server.database()), 2).await;
    let clients = array.clients();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..ASSETS * EACH * clients.len() {
        let client = Arc::clone(&clients[number % clients.len()]);
        let asset = number / (EACH * clients.len());
        tasks.spawn(async move {
            let key = key(AssetKind::Texture, asset as u128);
            (asset, share(&client, &key, &texture(asset, 20_000)).await)
        });
    }
    let mut published = [0; ASSETS];
    for (asset, verdict) in tasks.join_all().await {
        match verdict {
            Verdict::Published => published[asset] += 1,
            Verdict::Known => {}
            other => panic!("asset {asset}: {other:?}"),
        }
    }
    assert_eq!(published, [1; ASSETS]);
    for client in &clients {
        for asset in 0..ASSETS {
            let answer = read(client, &key(AssetKind::Texture, asset as u128), None).await;
            assert_eq!(answer, Some((0, texture(asset, 20_000).to_vec())), "asset {asset}");
        }
    }
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attestation_is_lost_between_two_nodes() {
    const ASSETS: usize = 8;
    const PRINCIPALS: usize = 6;
    /// Two for each content: of more a principal's word does not count.
    const ORIGINS: usize = 4;
    const VOICES: usize = PRINCIPALS * ORIGINS;
    let Some(server) = Server::shared() else { return };
    let gated = Gated::start(server, 1).await;
    let mut clients = Vec::new();
    for principal in 0..PRINCIPALS {
        let token = gated.operator.token(&format!("principal-{principal}"), "school", "read,write");
        clients.push(
            gated.nodes.iter().map(|node| operator::client(node, Some(token.clone()))).collect::<Vec<_>>(),
        );
    }
    let clients = Arc::new(clients);
    let mut tasks = tokio::task::JoinSet::new();
    // Half of the simulators deliver one content, half another; each is believed for itself.
    let content = |asset: usize, simulator: usize| texture(asset * 2 + simulator % 2, 9_000);
    for number in 0..ASSETS * VOICES {
        let clients = Arc::clone(&clients);
        // Neighbours in time are of one asset, and go to both nodes.
        let (asset, voice) = (number / VOICES, number % VOICES);
        tasks.spawn(async move {
            // Some come while the body does.
            tokio::time::sleep(Duration::from_millis(voice as u64)).await;
            let (key, client) = (
                key(AssetKind::Texture, asset as u128),
                &clients[voice % PRINCIPALS][number / PRINCIPALS % 2],
            );
            share_from(client, &key, &content(asset, voice / PRINCIPALS), from(voice)).await
        });
    }
    tasks.join_all().await;
    for asset in 0..ASSETS {
        let key = key(AssetKind::Texture, asset as u128);
        let record = gated.record(&key).await;
        assert_eq!(record.contents.len(), 2, "asset {asset}");
        for content in &record.contents {
            let said = content.attestations.iter().filter(|said| said.unproven.is_none()).count();
            assert_eq!((content.stored, said), (true, VOICES / 2), "asset {asset}");
        }
        for voice in 0..VOICES {
            for client in &clients[0] {
                let answer = read_from(client, &key, from(voice)).await;
                assert_eq!(
                    answer,
                    Some(content(asset, voice / PRINCIPALS).to_vec()),
                    "asset {asset} from {voice}"
                );
            }
        }
    }
    gated.stop().await;
}

/// A node that was asked for an asset a moment ago does not know yet that another has its body by now. The
/// proof is checked all the same, and counts.
#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_counts_though_its_node_has_not_heard_of_the_body() {
    let Some(server) = Server::shared() else { return };
    let gated = Gated::start(server, 1).await;
    let client = |node: usize, name: &str| {
        operator::client(&gated.nodes[node], Some(gated.operator.token(name, "school", "read,write")))
    };
    let (bytes, name) = (texture(1, 9_000), key(AssetKind::Texture, 1));
    let second = client(1, "second");
    assert_eq!(read(&second, &name, None).await, None);
    assert_eq!(share(&client(0, "first"), &name, &bytes).await, Verdict::Published);
    let liar = client(1, "liar").attest(&name, origin(), Digest::of(&bytes), b"only heard of").await;
    assert!(matches!(liar, Err(CallError::Refused { status: 422, .. })), "{liar:?}");
    share(&second, &name, &bytes).await;
    let record = gated.record(&name).await;
    let [content] = &record.contents[..] else { panic!("{record:?}") };
    assert_eq!(content.attestations.len(), 2);
    assert!(content.attestations.iter().all(|said| said.unproven.is_none()), "{record:?}");
    gated.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_takes_down_the_other_serves_no_longer() {
    let Some(server) = Server::shared() else { return };
    let array = Array::start(server.url(&server.database()), 2).await;
    let clients = array.clients();
    let (bytes, name) = (texture(1, 30_000), key(AssetKind::Texture, 1));
    let (other, kept) = (texture(2, 30_000), key(AssetKind::Texture, 2));
    for (key, bytes) in [(&name, &bytes), (&kept, &other)] {
        share(&clients[0], key, bytes).await;
        for client in &clients {
            // Now it lies in the memory of both.
            assert_eq!(read(client, key, None).await, Some((0, bytes.to_vec())));
        }
    }
    let (status, _, _) = curl(&["-X", "DELETE", &url(&array.nodes[0], &name)]).await;
    let taken_down = Instant::now();
    assert_eq!(status, 200);
    assert_eq!(read(&clients[0], &name, None).await, None);
    while read(&clients[1], &name, None).await.is_some() {
        assert!(taken_down.elapsed() < IN_FORCE, "the other node serves what was taken down");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for client in &clients {
        let again = client.attest(&name, origin(), Digest::of(&bytes), &bytes).await;
        assert!(matches!(again, Err(CallError::Refused { status: 403, .. })), "{again:?}");
        assert_eq!(read(client, &kept, None).await, Some((0, other.to_vec())));
    }
    array.stop().await;
}

/// Strangers of two networks, each at another node: together they make a quorum, which none of them may
/// be lost from, and which only one of them completes.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_over_two_nodes_publishes_once() {
    const ASSETS: usize = 40;
    let Some(server) = Server::shared() else { return };
    let gated = Gated::start(server, 2).await;
    let mut strangers = Vec::new();
    for (network, node) in (10..).zip(&gated.nodes) {
        let way = from_network(node.address(), network).await;
        let token =
            gated.operator.token(&format!("principal-{network}"), &format!("tenant-{network}"), "read,write");
        strangers.push(Arc::new(operator::client_at(way, node, Some(token))));
    }
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..ASSETS * 2 {
        let (asset, stranger) = (number / 2, Arc::clone(&strangers[number % 2]));
        tasks.spawn(async move {
            let key = key(AssetKind::Texture, asset as u128);
            (asset, share(&stranger, &key, &texture(asset, 9_000)).await)
        });
    }
    let mut published = [0; ASSETS];
    for (asset, verdict) in tasks.join_all().await {
        match verdict {
            Verdict::Published => published[asset] += 1,
            // The first voice, whose body nobody wants yet.
            Verdict::Waiting { want_body: false } | Verdict::Known => {}
            other => panic!("asset {asset}: {other:?}"),
        }
    }
    assert_eq!(published, [1; ASSETS]);
    for node in &gated.nodes {
        let reader = operator::client(node, Some(gated.operator.token("reader", "others", "read")));
        for asset in 0..ASSETS {
            let answer = read(&reader, &key(AssetKind::Texture, asset as u128), None).await;
            assert_eq!(answer, Some((0, texture(asset, 9_000).to_vec())), "asset {asset}");
        }
    }

    // Who is revoked, by a command that knows the catalog alone, is refused by both within the time promised.
    let revoked = ["token", "revoke", "--subject", "principal-11", "--catalog", &gated.catalog];
    assert_eq!(rezcache(&revoked).code, 0);
    let since = Instant::now();
    let token = gated.operator.token("principal-11", "tenant-11", "read");
    for node in &gated.nodes {
        let client = operator::client(node, Some(token.clone()));
        loop {
            match client.read(&key(AssetKind::Texture, 1), origin(), None).await {
                Err(CallError::Refused { status: 401, .. }) => break,
                Ok(_) => assert!(since.elapsed() < IN_FORCE, "who was revoked is still served"),
                Err(error) => panic!("{error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let other = read(&strangers[0], &key(AssetKind::Texture, 1), None).await;
    assert!(other.is_some(), "others are served on");
    gated.stop().await;
}

/// Twenty assets with their keys.
fn assets() -> Vec<(AssetKey, Bytes)> {
    (0..20u8).map(|n| (key(AssetKind::Texture, n.into()), texture(n.into(), 30_000))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_load_report_says_what_the_node_takes() {
    let Some(server) = Server::shared() else { return };
    let array = Array::start(server.url(&server.database()), 1).await;
    let (node, client) = (&array.nodes[0], client(&array.nodes[0]));
    let before = report(node).await;
    for (key, bytes) in assets() {
        share(&client, &key, &bytes).await;
        assert!(read(&client, &key, None).await.is_some());
    }
    let after = report(node).await;
    let number =
        |report: &Value, pointer: &str| report.pointer(pointer).and_then(Value::as_u64).expect(pointer);
    assert_eq!(number(&before, "/memory/hot_bytes"), 0);
    assert!(number(&after, "/memory/hot_bytes") > 20 * 30_000);
    assert_eq!(number(&after, "/memory/records"), 20);
    // That of the proxy; whoever asks how the node is does not count.
    assert_eq!((number(&before, "/connections_open"), number(&after, "/connections_open")), (0, 1));
    assert_eq!((number(&after, "/catalog/waiting"), number(&after, "/requests_running")), (0, 0));
    if cfg!(target_os = "linux") {
        assert!(number(&after, "/process/memory_bytes") > 4 << 20);
        assert!(number(&after, "/process/cpu_ms") > 0 && number(&after, "/process/cores") > 0);
        assert!(after["process"]["cpu_cores"].as_f64().unwrap() > 0.0);
    }
    array.stop().await;
}

/// How long the database stays away: longer than a record is believed without asking.
fn outage() -> Duration {
    match std::env::var_os("REZCACHE_LONG").is_some_and(|value| value == "1") {
        true => Duration::from_secs(30),
        false => Duration::from_secs(7),
    }
}

/// An upload over either face is refused, and told to come again.
async fn upload_is_refused(node: &Node, client: &ServiceClient, folder: &Path) {
    let (bytes, key) = (texture(90, 5_000), key(AssetKind::Texture, 90));
    let refused = client.put(&key, origin(), Digest::of(&bytes), Codec::Raw, bytes.clone()).await;
    let Err(CallError::Busy { retry_after }) = refused else { panic!("{refused:?}") };
    assert!(retry_after >= Duration::from_secs(1));
    let file = folder.join("body");
    std::fs::write(&file, &bytes).unwrap();
    let digest = format!("rezcache-digest: {}", wire::DigestText(Digest::of(&bytes)));
    let host = format!("rezcache-origin: {}", origin().unwrap());
    let body = format!("@{}", file.display());
    let put = ["-X", "PUT", "--data-binary", &body, "-H", &digest, "-H", &host];
    let kind = ["-H", "content-type: application/octet-stream", "-H", "expect:"];
    let (status, head, _) = curl(&[&put[..], &kind, &[&url(node, &key)]].concat()).await;
    assert_eq!(status, 503, "{head}");
    let seconds = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).expect(&head);
    assert!(seconds.parse::<u32>().unwrap() >= 1);
}

/// Shares until the database takes it again.
async fn share_when_back(client: &ServiceClient, key: &AssetKey, bytes: &Bytes) -> Verdict {
    let digest = Digest::of(bytes);
    let asking = async {
        loop {
            match client.put(key, origin(), digest, Codec::Raw, bytes.clone()).await {
                Err(CallError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                answer => return answer.unwrap(),
            }
        }
    };
    crate::support::within(asking).await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_database_a_node_serves_what_is_hot_and_loses_nothing() {
    let Some(server) = Server::start() else { return };
    let array = Array::start(server.url(&server.database()), 1).await;
    let (node, client) = (&array.nodes[0], client(&array.nodes[0]));
    let assets = assets();
    for (key, bytes) in &assets {
        assert_eq!(share(&client, key, bytes).await, Verdict::Published);
        assert!(read(&client, key, None).await.is_some());
    }
    assert_eq!(
        report(node).await["catalog"],
        serde_json::json!(
            { "engine": "postgres", "primary": true, "standby": null, "waiting": 0 }
        )
    );
    server.stop();
    let (stopped, mut rounds) = (Instant::now(), 0);
    while stopped.elapsed() < outage() || rounds < 2 {
        for (key, bytes) in &assets {
            assert_eq!(read(&client, key, None).await, Some((0, bytes.to_vec())));
        }
        upload_is_refused(node, &client, array.folder.path()).await;
        rounds += 1;
    }
    let (status, _, body) =
        curl(&["-H", &format!("rezcache-origin: {}", origin().unwrap()), &url(node, &assets[3].0)]).await;
    assert_eq!((status, body), (200, assets[3].1.to_vec()));
    // Of what it never saw a node without catalog knows nothing, not even that it is missing.
    let unknown = client.read(&key(AssetKind::Texture, 77), origin(), None).await;
    assert!(matches!(unknown, Err(CallError::Busy { .. })), "{:?}", unknown.map(|_| ()));
    let told = report(node).await;
    assert_eq!(told["catalog"]["primary"], false);
    assert!(told["counters"]["stale_records"].as_u64().unwrap() > 0, "{told}");

    server.resume();
    let late = (key(AssetKind::Texture, 50), texture(50, 30_000));
    assert_eq!(share_when_back(&client, &late.0, &late.1).await, Verdict::Published);
    assert_eq!(report(node).await["catalog"]["primary"], true);
    let newcomer = array.node().await;
    let fresh = crate::service::client(&newcomer);
    for (key, bytes) in assets.iter().chain([&late]) {
        for client in [&client, &fresh] {
            assert_eq!(read(client, key, None).await, Some((0, bytes.to_vec())));
        }
    }
    newcomer.stop().await;
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_from_the_standby_and_writes_find_whoever_takes_them() {
    let Some(server) = Server::start() else { return };
    let database = server.database();
    let standby = server.standby();
    let both = format!("postgres://postgres@{},{}/{database}", server.address(), standby.address());
    let mut array = Array::start(both, 2).await;
    let clients = array.clients();
    let assets = assets();
    for (key, bytes) in &assets {
        assert_eq!(share(&clients[0], key, bytes).await, Verdict::Published);
    }
    // What the primary has committed the standby has, a moment later.
    let at = server.sql(&database, "select pg_current_wal_lsn()");
    let caught_up = format!("select pg_last_wal_replay_lsn() >= '{at}'::pg_lsn");
    while standby.sql("postgres", &caught_up) != "t" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        report(&array.nodes[1]).await["catalog"],
        serde_json::json!(
            { "engine": "postgres", "primary": true, "standby": true, "waiting": 0 }
        )
    );
    server.stop();
    // Nothing of this was ever on the second node.
    let (stopped, mut rounds) = (Instant::now(), 0);
    while stopped.elapsed() < outage() || rounds < 2 {
        for (key, bytes) in &assets {
            assert_eq!(read(&clients[1], key, None).await, Some((0, bytes.to_vec())));
        }
        // It can say what is missing, too.
        assert_eq!(read(&clients[1], &key(AssetKind::Texture, 77), None).await, None);
        upload_is_refused(&array.nodes[1], &clients[1], array.folder.path()).await;
        rounds += 1;
    }
    let told = report(&array.nodes[1]).await;
    assert_eq!((&told["catalog"]["primary"], &told["catalog"]["standby"]), (&false.into(), &true.into()));
    assert_eq!(told["counters"]["stale_records"], 0);
    // A node may start meanwhile.
    array.nodes.push(array.node().await);
    let third = client(&array.nodes[2]);
    assert_eq!(read(&third, &assets[0].0, None).await, Some((0, assets[0].1.to_vec())));

    server.resume();
    let late = (key(AssetKind::Texture, 50), texture(50, 30_000));
    assert_eq!(share_when_back(&clients[1], &late.0, &late.1).await, Verdict::Published);
    // Nodes ask for revocations all the time: one that found the first server away a moment ago still reads
    // from the standby, which comes after.
    let found = async {
        loop {
            match read(&third, &late.0, None).await {
                Some(found) => break found,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), found).await.unwrap();
    assert_eq!(found, (0, late.1.to_vec()));
    while standby.sql(&database, "select count(*) from rezcache.asset") != "21" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // The primary is lost for good, and the operator makes the standby its heir.
    server.stop();
    standby.promote();
    let heir = (key(AssetKind::Texture, 51), texture(51, 30_000));
    assert_eq!(share_when_back(&clients[0], &heir.0, &heir.1).await, Verdict::Published);
    for (key, bytes) in assets.iter().chain([&late, &heir]) {
        for client in [&clients[0], &clients[1]] {
            assert_eq!(read(client, key, None).await, Some((0, bytes.to_vec())));
        }
    }
    array.stop().await;
}
