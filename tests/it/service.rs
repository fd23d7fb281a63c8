//! The shared cache service: a real node and real clients on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use rezcache::asset::{AssetId, AssetKey, AssetKind, Digest};
use rezcache::catalog::Place;
use rezcache::client::{CallError, Face, Grant, Pace, ServiceClient};
use rezcache::grid::{GridId, Origin};
use rezcache::node::{Node, NodeConfig};
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use crate::support::operator::Operator;
use crate::support::synthetic::Synthetic;

pub(crate) const GRID: &str = "grid.example:8002";

pub(crate) fn config(folder: &Path) -> NodeConfig {
    NodeConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        store: format!("file://{}", folder.join("store").display()),
        catalog: Place::Sqlite(folder.join("store/catalog.sqlite")),
        key_file: folder.join("store.key"),
        open_access: true,
        ..NodeConfig::default()
    }
}

pub(crate) async fn node(folder: &Path) -> Node {
    Node::start(config(folder)).await.unwrap()
}

pub(crate) fn client_at(address: SocketAddr, pin: &str) -> ServiceClient {
    ServiceClient::new(format!("https://{address}#pin={pin}").parse().unwrap(), None).unwrap()
}

pub(crate) fn client(node: &Node) -> ServiceClient {
    client_at(node.address(), node.pin().unwrap())
}

pub(crate) fn key(kind: AssetKind, number: u128) -> AssetKey {
    AssetKey { grid: GridId::new(GRID), kind, id: AssetId(Uuid::from_u128(number)) }
}

pub(crate) fn origin() -> Option<OriginHash> {
    Some(OriginHash::of(&GridId::new(GRID), &Origin::new("sim.example")))
}

/// A valid texture of about this size.
pub(crate) fn texture(number: usize, size: usize) -> Bytes {
    Bytes::from(Synthetic::new(7, number * 8, size).bytes.to_vec())
}

/// Attests, and uploads when the body is wanted.
pub(crate) async fn share(client: &ServiceClient, key: &AssetKey, bytes: &Bytes) -> Verdict {
    let digest = Digest::of(bytes);
    match client.attest(key, origin(), digest, bytes).await.unwrap() {
        Verdict::Waiting { want_body: true } => {
            client.put(key, origin(), digest, Codec::Raw, bytes.clone()).await.unwrap()
        }
        verdict => verdict,
    }
}

pub(crate) async fn read(
    client: &ServiceClient,
    key: &AssetKey,
    range: Option<(u64, u64)>,
) -> Option<(u64, Vec<u8>)> {
    let mut body = client.read(key, origin(), range).await.unwrap()?;
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await.unwrap() {
        bytes.extend_from_slice(&part);
    }
    Some((body.found().first, bytes))
}

/// Passes TCP on to a node, and no UDP: a network that blocks QUIC.
pub(crate) async fn tcp_only(node: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut far = TcpStream::connect(node).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_uploads_another_reads_over_quic_and_without_udp() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    assert_eq!(node.faces(), ["quic", "https"]);
    let blocked = client_at(tcp_only(node.address()).await, node.pin().unwrap());
    let quic = client(&node);
    for (number, size) in [(1, 900), (2, 90_000), (3, 3_000_000)] {
        let (bytes, key) = (texture(number, size), key(AssetKind::Texture, number as u128));
        assert_eq!(read(&quic, &key, None).await, None);
        assert_eq!(share(&quic, &key, &bytes).await, Verdict::Published);
        assert_eq!(share(&blocked, &key, &bytes).await, Verdict::Known);
        for client in [&quic, &blocked] {
            assert_eq!(read(client, &key, None).await, Some((0, bytes.to_vec())));
        }
        let sizes = blocked.lookup(&key.grid, origin(), vec![(key.kind, key.id)]).await.unwrap();
        assert_eq!(sizes, [Some((bytes.len() as u64, Digest::of(&bytes)))]);
    }
    assert_eq!((quic.face(), blocked.face()), (Face::Quic, Face::Http));
    // Of a large body only the groups come that hold what was asked for.
    let large = texture(3, 3_000_000);
    let (first, part) = read(&quic, &key(AssetKind::Texture, 3), Some((1_000_000, 1_000_100))).await.unwrap();
    assert!(first <= 1_000_000 && first + part.len() as u64 >= 1_000_100 && part.len() <= 2 * 65_536);
    assert_eq!(part, large[usize::try_from(first).unwrap()..][..part.len()]);
    node.stop().await;
}

/// Lets pieces of a few bytes go at once, and writes down what it let go.
#[derive(Default)]
struct Pieces(std::sync::Mutex<Vec<usize>>);

impl Pace for Pieces {
    fn piece(&self) -> usize {
        5000
    }

    fn grant(&self, bytes: usize) -> Grant {
        self.0.lock().unwrap().push(bytes);
        Box::pin(tokio::task::yield_now())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_out_in_pieces_over_both_faces() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let blocked = client_at(tcp_only(node.address()).await, node.pin().unwrap());
    for (number, client) in [(1, client(&node)), (2, blocked)] {
        let (bytes, key) = (texture(number, 52_000), key(AssetKind::Texture, number as u128));
        client.attest(&key, origin(), Digest::of(&bytes), &bytes).await.unwrap();
        let pieces = Arc::new(Pieces::default());
        let pace: Arc<dyn Pace> = pieces.clone();
        let (digest, body) = (Digest::of(&bytes), bytes.clone());
        let said = client.put_paced(&key, origin(), digest, Codec::Raw, body, Some(pace)).await;
        assert_eq!(said, Ok(Verdict::Published));
        assert_eq!(read(&client, &key, None).await, Some((0, bytes.to_vec())));
        let mut sent = std::mem::take(&mut *pieces.0.lock().unwrap());
        // Where QUIC is found not to work the other face sends all of it again.
        let whole = bytes.len();
        let total: usize = sent.iter().sum();
        assert!(total == whole || number == 2 && total <= 2 * whole, "{total} of {whole}");
        sent.retain(|piece| *piece != 5000);
        assert!(sent.iter().all(|piece| *piece == whole % 5000), "{sent:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_has_everything() {
    let folder = tempfile::tempdir().unwrap();
    let (bytes, key) = (texture(1, 50_000), key(AssetKind::Texture, 1));
    let first = node(folder.path()).await;
    let pin = first.pin().unwrap().to_owned();
    share(&client(&first), &key, &bytes).await;
    first.stop().await;
    let second = node(folder.path()).await;
    assert_eq!(second.pin(), Some(pin.as_str()), "clients know it again");
    assert_eq!(read(&client(&second), &key, None).await, Some((0, bytes.to_vec())));
    second.stop().await;

    // Another key file is refused, and so is none.
    std::fs::rename(folder.path().join("store.key"), folder.path().join("kept.key")).unwrap();
    let missing = Node::start(config(folder.path())).await.err().unwrap().to_string();
    assert!(missing.contains("no key file") && missing.contains("sealed with key 1"), "{missing}");
    let elsewhere = tempfile::tempdir().unwrap();
    node(elsewhere.path()).await.stop().await;
    std::fs::copy(elsewhere.path().join("store.key"), folder.path().join("store.key")).unwrap();
    let wrong = Node::start(config(folder.path())).await.err().unwrap().to_string();
    assert!(wrong.contains("does not open this store") && wrong.contains("another key 1"), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_wrong_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let client = client(&node);
    let (bytes, name) = (texture(1, 20_000), key(AssetKind::Texture, 1));
    let status = |result: Result<Verdict, CallError>| match result {
        Err(CallError::Refused { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    let put = |kind, digest: Digest, codec, body: Bytes| {
        let (client, name) = (&client, key(kind, 1));
        async move { status(client.put(&name, origin(), digest, codec, body).await) }
    };
    let script = Bytes::from_static(b"default { state_entry() { llSay(0, \"Hello\"); } }");
    assert_eq!(put(AssetKind::Texture, Digest::of(&script), Codec::Raw, script.clone()).await, 422);
    assert_eq!(put(AssetKind::Sound, Digest::of(&bytes), Codec::Raw, bytes.clone()).await, 422);
    assert_eq!(put(AssetKind::Texture, Digest::of(b"x"), Codec::Raw, bytes.clone()).await, 422);
    let cut = bytes.slice(..bytes.len() - 9);
    assert_eq!(put(AssetKind::Texture, Digest::of(&cut), Codec::Raw, cut).await, 422);
    assert_eq!(put(AssetKind::Texture, Digest::of(&bytes), Codec::Lz4, bytes.clone()).await, 422);
    let huge = Bytes::from(vec![0; (16 << 20) + 1]);
    assert_eq!(put(AssetKind::Texture, Digest::of(&huge), Codec::Raw, huge).await, 413);
    assert_eq!(read(&client, &name, None).await, None);

    assert_eq!(share(&client, &name, &bytes).await, Verdict::Published);
    // A digest that was only heard of.
    let other = key(AssetKind::Texture, 2);
    let heard = client.attest(&name, origin(), Digest::of(&bytes), b"not the bytes").await;
    assert_eq!(status(heard), 422);
    let waiting = client.attest(&other, origin(), Digest::of(&bytes), b"not the bytes").await.unwrap();
    assert_eq!(waiting, Verdict::Waiting { want_body: true });
    assert_eq!(read(&client, &other, None).await, None);
    // Conflicting content of the same origin changes nothing.
    let lie = texture(5, 20_000);
    assert_eq!(share(&client, &name, &lie).await, Verdict::Conflict);
    assert_eq!(read(&client, &name, None).await, Some((0, bytes.to_vec())));
    // Another origin's visitors are not served it.
    let elsewhere = Some(OriginHash::of(&name.grid, &Origin::new("other.example")));
    assert!(client.read(&name, elsewhere, None).await.unwrap().is_none());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_store_shows_neither_names_nor_content() {
    let folder = tempfile::tempdir().unwrap();
    let hot = folder.path().join("hot");
    let with = || NodeConfig { hot_dir: Some(hot.clone()), hot_bytes: 1 << 30, ..config(folder.path()) };
    let node = Node::start(with()).await.unwrap();
    let client = client(&node);
    let mut secrets = vec![GRID.as_bytes().to_vec()];
    let mut keys = Vec::new();
    for (number, size) in [(1, 9000), (2, 9000), (3, 9000), (4, 9000), (5, 3_000_000)] {
        let (bytes, key) =
            (texture(number, size), key(AssetKind::Texture, 0x1234_5678_9abc_def0 << 64 | number as u128));
        share(&client, &key, &bytes).await;
        secrets.push(key.id.0.as_bytes().to_vec());
        secrets.push(key.id.0.to_string().into_bytes());
        secrets.push(key.id.0.simple().to_string().into_bytes());
        secrets.push(Digest::of(&bytes).0.to_vec());
        secrets.push(bytes[100..132].to_vec());
        // Nor any value of a part, by which known content could be found.
        secrets.extend(rezcache::wire::groups::of(&bytes).iter().map(|value| value.to_vec()));
        keys.push(key);
    }
    node.stop().await;
    let node = Node::start(with()).await.unwrap();
    for key in &keys {
        assert!(read(&self::client(&node), key, None).await.is_some());
    }
    node.stop().await;
    let mut looked_at = 0;
    let mut folders = vec![folder.path().join("store"), hot];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            looked_at += 1;
            let mut all = std::fs::read(&path).unwrap();
            all.extend_from_slice(path.to_string_lossy().as_bytes());
            for secret in &secrets {
                let found =
                    all.windows(secret.len()).any(|window| window[0] == secret[0] && window == secret);
                assert!(!found, "{}", path.display());
            }
        }
    }
    assert!(looked_at >= 7 + 8, "blobs, the marker and the catalog; four files and four pieces on the disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_reads_ranges_over_both_versions_of_http() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path()).await;
    let (bytes, name) = (texture(1, 30_000), key(AssetKind::Texture, 1));
    share(&client(&node), &name, &bytes).await;
    let url = format!("https://{}/v1/grids/{GRID}/assets/texture/{}", node.address(), name.id.0);
    let host = format!("rezcache-origin: {}", origin().unwrap());
    let curl = |arguments: Vec<String>| async move {
        let run = move || Command::new("curl").args(["-sSik"]).args(arguments).output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let at = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&output.stdout[..at]).to_ascii_lowercase();
        (head, output.stdout[at + 4..].to_vec())
    };
    let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
    for version in ["--http1.1", "--http2"] {
        let (head, body) = curl(words(&[version, "-H", &host, &url])).await;
        assert!(head.contains(" 200") && head.contains("etag: \"b3-"), "{head}");
        assert_eq!(head.starts_with("http/2"), version == "--http2", "{head}");
        assert_eq!(body, bytes);
        let (head, body) = curl(words(&[version, "-H", &host, "-r", "100-199", &url])).await;
        assert!(head.contains(" 206") && head.contains("content-range: bytes 100-199/"), "{head}");
        assert_eq!(body, bytes[100..200]);
        let (head, _) = curl(words(&[version, "-H", &host, "-I", &url])).await;
        assert!(
            head.contains(" 200") && head.contains(&format!("content-length: {}", bytes.len())),
            "{head}"
        );
    }
    let missing = url.replace("/texture/", "/mesh/");
    let (head, body) = curl(words(&["--http1.1", &missing])).await;
    assert!(head.contains(" 404") && head.contains("application/problem+json"), "{head}");
    assert!(String::from_utf8_lossy(&body).contains("\"status\":404"));
    let (head, _) = curl(words(&["--http1.1", "-H", "Origin: https://evil.example", &url])).await;
    assert!(head.contains(" 403"), "{head}");
    let (head, _) = curl(words(&["--http1.1", "-H", "Host: evil.example", &url])).await;
    assert!(head.contains(" 403"), "{head}");

    // Taken down, it is gone at once and for good.
    let (head, body) = curl(words(&["-X", "DELETE", &format!("{url}?dry_run")])).await;
    assert!(head.contains(" 200"), "{head}{}", String::from_utf8_lossy(&body));
    assert!(read(&client(&node), &name, None).await.is_some());
    let (head, _) = curl(words(&["-X", "DELETE", &url])).await;
    assert!(head.contains(" 200"), "{head}");
    assert_eq!(read(&client(&node), &name, None).await, None);
    let again = client(&node).attest(&name, origin(), Digest::of(&bytes), &bytes).await;
    assert!(matches!(again, Err(CallError::Refused { status: 403, .. })), "{again:?}");

    let (head, _) = curl(words(&["-X", "POST", &format!("https://{}/v1/node/drain", node.address())])).await;
    assert!(head.contains(" 202"), "{head}");
    node.asked_to_go().await;
    node.stop().await;
}

/// Where the tools of others are that tests/run installs for these tests.
pub(crate) fn tools() -> std::path::PathBuf {
    let tools = std::env::var_os("REZCACHE_SERVICE_TOOLS").expect("set by tests/run, which installs them");
    tools.into()
}

/// Asks a node everything that its description says, and more; it must answer as described.
async fn schemathesis(node: Node, scratch: &Path, arguments: &[&str]) {
    let scheme = if node.pin().is_some() { "https" } else { "http" };
    let mut command = Command::new(tools().join("schemathesis"));
    command
        .arg("run")
        .arg(format!("{scheme}://{}/openapi.json", node.address()))
        .args(["--max-examples", "30", "--seed", "1", "--no-color", "--checks", "all"])
        // No description can say which bytes are a whole asset with this digest, so a body of noise is
        // refused though it fits the description.
        .args(["--exclude-checks", "positive_data_acceptance"])
        // It ends the node, as it says.
        .args(["--exclude-operation-id", "drain"])
        .args(arguments)
        .current_dir(scratch);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_answer_that_is_not_in_the_description() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(NodeConfig { plain_http: true, ..config(folder.path()) }).await.unwrap();
    schemathesis(node, folder.path(), &[]).await;
}

/// The same where tokens are asked for and proxies may enrol.
#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_none_behind_a_gate_either() {
    let folder = tempfile::tempdir().unwrap();
    let operator = Operator::new(folder.path());
    let gated = NodeConfig { plain_http: true, enroll: true, ..operator.config(folder.path()) };
    let node = Node::start(gated).await.unwrap();
    let token = operator.token("somebody", "school", "read,write,observe,admin");
    let header = format!("Authorization: Bearer {token}");
    schemathesis(node, folder.path(), &["--header", &header]).await;
}
