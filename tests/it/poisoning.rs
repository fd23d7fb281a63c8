//! Attempts to make the shared cache serve wrong bytes: a real node, real clients, real tokens, each client
//! from a network of its own. `REZCACHE_LONG` runs all 10,000; a sample otherwise.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rezcache::asset::{AssetKey, AssetKind, Digest};
use rezcache::client::{CallError, ServiceClient};
use rezcache::grid::GridId;
use rezcache::node::{GridPolicy, Node, NodeConfig};
use rezcache::token::{Budgets, Claims};
use rezcache::wire::frame::{Codec, Verdict};
use tokio::net::UdpSocket;

use crate::access::{GRID, key, origin, read, share, status, texture};
use crate::cli::rezcache;
use crate::support::operator::{Operator, client_at, from_network};

/// The region of the honest, and of a liar who runs his own.
const REGION: &str = "region.example";
const LYING_REGION: &str = "lies.example";
const KNOWN: u128 = 20;

struct World {
    node: Node,
    operator: Operator,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let operator = Operator::new(folder.path());
        let node = Node::start(config(&operator, folder.path())).await.unwrap();
        Self { node, operator, folder }
    }

    /// A principal of a tenant, in the network 127.0.`network`.0/24.
    async fn client(&self, subject: &str, tenant: &str, network: u8) -> ServiceClient {
        let way = from_network(self.node.address(), network).await;
        client_at(way, &self.node, Some(self.token(subject, tenant)))
    }

    fn token(&self, subject: &str, tenant: &str) -> String {
        // Nobody here is to be stopped by a budget: what is proved holds without.
        let budgets = Budgets {
            assets_per_hour: Some(10_000_000),
            burst: Some(10_000_000),
            bytes_per_day: Some(1 << 50),
            stored_bytes: Some(1 << 50),
        };
        self.operator.sign(&Claims { budgets, ..self.operator.claims(subject, tenant, "read,write") })
    }

    async fn counter(&self, name: &str) -> u64 {
        let token = self.operator.sign(&self.operator.claims("director", "public", "observe"));
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sk", "-H", &format!("Authorization: Bearer {token}")]);
        let output = curl.arg(format!("https://{}/v1/node", self.node.address())).output().await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["counters"][name].as_u64().unwrap()
    }

    fn store(&self) -> String {
        format!("file://{}", self.folder.path().join("store").display())
    }
}

fn config(operator: &Operator, folder: &Path) -> NodeConfig {
    NodeConfig {
        confirmations: 2,
        trusted_tenants: vec!["school".into(), "club".into()],
        grids: vec![GridPolicy {
            id: GridId::new(GRID),
            publish: true,
            central: false,
            asset_hosts: vec!["assets.example".into()],
        }],
        ..operator.config(folder)
    }
}

fn truth(number: u128) -> Bytes {
    texture(usize::try_from(number).unwrap(), 900)
}

fn lie(number: usize) -> Bytes {
    texture(100_000 + number % 64, 700)
}

/// A refusal, or an attestation that waits: anything but being believed by strangers.
fn not_published(answer: &Result<Verdict, CallError>) {
    match answer {
        Ok(Verdict::Published) => panic!("a lie was published"),
        Ok(_) | Err(CallError::Refused { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
}

async fn put(
    client: &ServiceClient,
    key: &AssetKey,
    host: &str,
    bytes: &Bytes,
) -> Result<Verdict, CallError> {
    client.put(key, origin(host), Digest::of(bytes), Codec::Raw, bytes.clone()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_thousand_attempts_none_reaches_a_strangers_viewer() {
    let attempts = if std::env::var_os("REZCACHE_LONG").is_some() { 10_000 } else { 400 };
    let world = World::new().await;
    let honest = [world.client("honest-1", "public", 11).await, world.client("honest-2", "public", 12).await];
    for number in 0..KNOWN {
        let first = share(&honest[0], &key(number), REGION, &truth(number)).await;
        assert_eq!(
            first,
            Ok(Verdict::Waiting { want_body: false }),
            "one voice is none, and no body is taken"
        );
        assert_eq!(share(&honest[1], &key(number), REGION, &truth(number)).await, Ok(Verdict::Published));
    }
    let victims = [
        world.client("reader", "public", 13).await,
        world.client("pupil", "school", 14).await,
        client_at(world.node.address(), &world.node, Some(world.token("neighbour", "other"))),
    ];

    let liar = world.client("liar", "public", 21).await;
    let same_again = world.client("liar", "public", 22).await;
    let room_mate = world.client("room-mate", "public", 21).await;
    let landlord = world.client("landlord", "public", 23).await;
    let club = world.client("club-member", "club", 24).await;
    let banned = world.client("banned", "public", 25).await;
    assert_eq!(read(&banned, &key(0), REGION).await, Ok(Some(truth(0).to_vec())));
    let gone = rezcache(&["token", "revoke", "--subject", "banned", "--store", &world.store()]);
    assert_eq!(gone.code, 0, "{gone:?}");
    while read(&banned, &key(0), REGION).await.is_ok() {
        tokio::task::yield_now().await;
    }

    let script = Bytes::from_static(b"default { state_entry() { llSay(0, \"Hello\"); } }");
    let (mut refused, mut checked) = (0, 0);
    for number in 0..attempts {
        let known = key(number as u128 % KNOWN);
        let unknown = key(1_000_000 + number as u128 / 12);
        let lie = lie(number);
        let cut = truth(number as u128 % KNOWN);
        let cut = cut.slice(..cut.len() - 1 - number % 700);
        match number % 12 {
            // Wrong bytes under a known id and an unknown one, with and without asking first.
            0 => not_published(&share(&liar, &known, REGION, &lie).await),
            1 => not_published(&put(&liar, &known, REGION, &lie).await),
            2 => not_published(&put(&liar, &unknown, REGION, &lie).await),
            // One principal is one voice, with however many tokens and networks, and so is one network.
            3 => not_published(
                &put(&same_again, &unknown, REGION, &texture(100_000 + (number - 1) % 64, 700)).await,
            ),
            4 => not_published(
                &put(&room_mate, &unknown, REGION, &texture(100_000 + (number - 2) % 64, 700)).await,
            ),
            // Conflicting uploads.
            5 => {
                not_published(&put(&landlord, &unknown, REGION, &lie).await);
                not_published(&put(&room_mate, &known, REGION, &lie).await);
            }
            // What is no asset of its kind, or not whole.
            6 => refused += usize::from(status(put(&liar, &known, REGION, &cut).await) == 422),
            7 => {
                let mesh = AssetKey { kind: AssetKind::Mesh, ..unknown.clone() };
                refused += usize::from(status(put(&liar, &mesh, REGION, &lie).await) == 422);
            }
            8 => refused += usize::from(status(put(&liar, &unknown, REGION, &script).await) == 422),
            // A token that was revoked, shown again.
            9 => {
                // Whoever tries without end is told to wait instead.
                let replayed = put(&banned, &known, REGION, &lie).await;
                refused += usize::from(matches!(status(replayed), 401 | 429));
                let replayed = share(&banned, &unknown, REGION, &lie).await;
                refused += usize::from(matches!(status(replayed), 401 | 429));
            }
            // A region that lies to its visitors, who tell: true for that region, and for no other.
            10 => {
                for visitor in [&liar, &landlord] {
                    let _ = share(visitor, &known, LYING_REGION, &lie).await;
                }
            }
            // A trusted tenant deceives its own members only; and a digest that was only heard of.
            _ => {
                let _ = share(&club, &unknown, REGION, &lie).await;
                let heard =
                    club.attest(&known, origin(REGION), Digest::of(&truth(number as u128 % KNOWN)), &lie);
                refused += usize::from(status(heard.await) == 422);
            }
        }
        for victim in &victims {
            // A public reader of a known asset is served the truth, or, while it is disputed, nothing.
            if let Some(bytes) = read(victim, &known, REGION).await.unwrap() {
                assert_eq!(bytes, truth(number as u128 % KNOWN), "attempt {number}");
                checked += 1;
            }
            assert_eq!(read(victim, &unknown, REGION).await, Ok(None), "attempt {number}");
        }
    }
    let each = attempts / 12;
    assert!(refused >= each * 6 && checked > attempts, "{refused} refused, {checked} reads of the truth");
    for number in 0..KNOWN {
        for victim in &victims {
            let served = read(victim, &key(number), REGION).await.unwrap();
            assert!(served.is_none_or(|bytes| bytes == truth(number)), "{number}");
        }
    }
    world.node.stop().await;
}

/// The one way in: two liars are the first to name an asset. Honest readers correct it; an operator
/// undoes it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_quorum_of_liars_is_corrected_by_readers_and_undone_by_the_operator() {
    let world = World::new().await;
    let liars = [world.client("liar-1", "public", 31).await, world.client("liar-2", "public", 32).await];
    let reader = world.client("reader", "public", 33).await;
    let (first, second) = (key(1), key(2));
    for wrong in [&first, &second] {
        assert_eq!(share(&liars[0], wrong, REGION, &lie(1)).await, Ok(Verdict::Waiting { want_body: false }));
        assert_eq!(share(&liars[1], wrong, REGION, &lie(1)).await, Ok(Verdict::Published));
        assert_eq!(read(&reader, wrong, REGION).await, Ok(Some(lie(1).to_vec())));
        // Not to the visitors of another region, and nobody is told to doubt yet.
        assert_eq!(read(&reader, wrong, "other.example").await, Ok(None));
        assert!(!reader.read(wrong, origin(REGION), None).await.unwrap().unwrap().found().verify);
    }

    // One honest proxy has had it from the grid: from now on readers are asked to compare.
    let mut verdicts = Vec::new();
    for number in 0..5u8 {
        let honest = world.client(&format!("honest-{number}"), "public", 41 + number).await;
        verdicts.push(share(&honest, &first, REGION, &truth(1)).await);
        let served = reader.read(&first, origin(REGION), None).await.unwrap();
        match number {
            0 => assert!(served.is_some_and(|body| body.found().verify), "readers are asked to compare"),
            // Two against two: disputed, and nobody is served.
            1..4 => assert!(served.is_none(), "disputed"),
            _ => assert_eq!(served.unwrap().found().digest, Digest::of(&truth(1)), "three ahead"),
        }
    }
    assert_eq!(verdicts[0], Ok(Verdict::Waiting { want_body: false }));
    assert_eq!(verdicts[4], Ok(Verdict::Published));
    // What directors raise an alarm by.
    assert_eq!(world.counter("disputed").await, 1, "once, however many confirm it");
    assert_eq!(read(&reader, &first, REGION).await, Ok(Some(truth(1).to_vec())));

    // The operator is faster: the liars' word is void, on every asset, without waiting for anybody.
    assert_eq!(read(&reader, &second, REGION).await, Ok(Some(lie(1).to_vec())));
    for liar in ["liar-1", "liar-2"] {
        let key_file = world.folder.path().join("store.key");
        let struck = rezcache(&[
            "store",
            "--store",
            &world.store(),
            "--key-file",
            key_file.to_str().unwrap(),
            "distrust",
            "--principal",
            liar,
        ]);
        assert_eq!(struck.code, 0, "{struck:?}");
    }
    tokio::time::timeout(std::time::Duration::from_secs(10), async {
        while read(&reader, &second, REGION).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("in force within 10 s");
    assert_eq!(read(&reader, &first, REGION).await, Ok(Some(truth(1).to_vec())), "what others said stands");
    world.node.stop().await;
}

/// A way to a node over UDP whose source address changes when told: 127.0.5.1 first, then 127.0.6.1.
async fn moving(node: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let near = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (at, moved) = (near.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
    let mut ways = Vec::new();
    let last: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
    for source in ["127.0.5.1:0", "127.0.6.1:0"] {
        let far = Arc::new(UdpSocket::bind(source).await.unwrap());
        far.connect(node).await.unwrap();
        ways.push(Arc::clone(&far));
        let (near, last) = (Arc::clone(&near), Arc::clone(&last));
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = far.recv(&mut buffer).await {
                let client = *last.lock().unwrap();
                if let Some(client) = client {
                    let _ = near.send_to(&buffer[..length], client).await;
                }
            }
        });
    }
    let told = Arc::clone(&moved);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, client)) = near.recv_from(&mut buffer).await {
            *last.lock().unwrap() = Some(client);
            let _ = ways[usize::from(told.load(Ordering::SeqCst))].send(&buffer[..length]).await;
        }
    });
    (at, moved)
}

/// Where packets say they come from is proven by the handshake alone: whoever moves on, or pretends to,
/// brings no second network.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_moves_is_no_other_network() {
    let world = World::new().await;
    let first = world.client("first", "public", 5).await;
    let (way, moved) = moving(world.node.address()).await;
    let second = client_at(way, &world.node, Some(world.token("second", "public")));
    let name = key(1);
    assert_eq!(share(&first, &name, REGION, &lie(1)).await, Ok(Verdict::Waiting { want_body: false }));
    // Its connection is made from the network of the first.
    assert_eq!(read(&second, &name, REGION).await, Ok(None));
    moved.store(true, Ordering::SeqCst);
    assert_eq!(share(&second, &name, REGION, &lie(1)).await, Ok(Verdict::Waiting { want_body: false }));
    let third = world.client("third", "public", 7).await;
    assert_eq!(share(&third, &name, REGION, &lie(1)).await, Ok(Verdict::Published));
    world.node.stop().await;
}
