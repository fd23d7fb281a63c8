//! A service of several nodes under one name, at loopback addresses of their own and with one store: who is asked
//! for what, and what goes on while nodes die, hang, leave the name and return.

mod deaths;
mod names;
mod trouble;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rezcache::asset::{AssetKey, AssetKind};
use rezcache::client::address::ServerAddress;
use rezcache::client::resolve::{Resolve, Resolved, Resolver, Resolving};
use rezcache::client::{Face, ServiceClient};
use rezcache::grid::{GridId, Origin};
use rezcache::node::{Node, NodeConfig};
use rezcache::proxy::ServiceConfig;
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};
use serde_json::Value;

use crate::service::{GRID, config, key, texture};
use crate::support::within;

/// A name at home: what comes from a grid on this machine is not shown to anybody outside.
const NAME: &str = "cache.home.arpa";
/// How long a name's answer holds here.
const TTL: Duration = Duration::from_millis(100);

/// What the name stands for, as the test has it.
#[derive(Clone, Debug, Default)]
struct Names(Arc<NamesState>);

#[derive(Debug, Default)]
struct NamesState {
    /// `None`: whoever asks gets no answer.
    addresses: Mutex<Option<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Resolve for Names {
    fn resolve(&self, host: &str) -> Resolving {
        assert_eq!(host, NAME);
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let addresses = self.0.addresses.lock().unwrap().clone();
        Box::pin(async move {
            let addresses = addresses.ok_or(io::ErrorKind::TimedOut)?;
            Ok(Resolved { addresses, ttl: Some(TTL), ..Resolved::default() })
        })
    }
}

impl Names {
    fn of(addresses: &[&str]) -> Self {
        let names = Self::default();
        names.are(addresses);
        names
    }

    fn are(&self, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        *self.0.addresses.lock().unwrap() = Some(addresses);
    }

    /// Waits until the client has asked again, and has taken the answer.
    async fn taken(&self, client: &ServiceClient) {
        let before = self.0.asked.load(Ordering::SeqCst);
        within(async {
            while self.0.asked.load(Ordering::SeqCst) < before + 2 {
                // Only who uses the service asks for its name.
                let _ = client.lookup(&GridId::new("probe"), None, Vec::new()).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    /// The service of this name.
    fn service(&self, at: SocketAddr, pin: &str) -> ServerAddress {
        let url = format!("https://{NAME}:{}#pin={pin}", at.port());
        ServerAddress { resolver: Resolver::Other(Arc::new(self.clone())), ..url.parse().unwrap() }
    }
}

const ALL: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];

/// Nodes in this process, with one port and one store.
struct Array {
    folder: tempfile::TempDir,
    nodes: Vec<Option<Node>>,
    at: SocketAddr,
    pin: String,
}

impl Array {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl Fn(&mut NodeConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        'port: loop {
            let first = start(folder.path(), ALL[0], 0, &change).await.unwrap();
            let (at, pin) = (first.address(), first.pin().unwrap().to_owned());
            let mut nodes = vec![Some(first)];
            for ip in &ALL[1..] {
                match start(folder.path(), ip, at.port(), &change).await {
                    Some(node) => nodes.push(Some(node)),
                    None => continue 'port,
                }
            }
            return Self { folder, nodes, at, pin };
        }
    }

    fn service(&self, names: &Names) -> ServerAddress {
        names.service(self.at, &self.pin)
    }

    fn client(&self, names: &Names) -> ServiceClient {
        ServiceClient::new(self.service(names), None).unwrap()
    }

    /// A number of a node's own report.
    async fn report(&self, n: usize, pointer: &str) -> u64 {
        let url = format!("https://{}:{}/v1/node", ALL[n], self.at.port());
        let run = move || Command::new("curl").args(["-sSk", &url]).output().unwrap();
        let output = tokio::task::spawn_blocking(run).await.unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report.pointer(pointer).unwrap().as_u64().unwrap()
    }

    /// Reads that each node has had.
    async fn reads(&self) -> Vec<u64> {
        let mut reads = Vec::new();
        for n in 0..ALL.len() {
            reads.push(self.report(n, "/counters/reads").await);
        }
        reads
    }

    async fn stop(self) {
        for node in self.nodes.into_iter().flatten() {
            node.stop().await;
        }
    }
}

async fn start(folder: &Path, ip: &str, port: u16, change: impl Fn(&mut NodeConfig)) -> Option<Node> {
    let mut config = NodeConfig { listen: SocketAddr::new(ip.parse().unwrap(), port), ..config(folder) };
    change(&mut config);
    Node::start(config).await.ok()
}

fn proxy_service(address: ServerAddress, least_deadline: Duration) -> ServiceConfig {
    ServiceConfig { address, token: None, join: None, spot_check: 0, least_deadline }
}

fn region(number: usize) -> Option<OriginHash> {
    Some(OriginHash::of(&GridId::new(GRID), &Origin::new(&format!("sim{number}.example"))))
}

/// One texture of each region, as somebody brings them.
async fn share(client: &ServiceClient, regions: usize) -> Vec<(AssetKey, Vec<u8>)> {
    let mut shared = Vec::new();
    for number in 0..regions {
        let (key, bytes) = (key(AssetKind::Texture, number as u128 + 1), texture(number, 3000));
        let digest = rezcache::asset::Digest::of(&bytes);
        let verdict = client.attest(&key, region(number), digest, &bytes).await.unwrap();
        assert_eq!(verdict, Verdict::Waiting { want_body: true });
        let verdict = client.put(&key, region(number), digest, Codec::Raw, bytes.clone()).await.unwrap();
        assert_eq!(verdict, Verdict::Published);
        shared.push((key, bytes.to_vec()));
    }
    shared
}

/// Reads an asset of a region, and checks it.
async fn read(client: &ServiceClient, shared: &[(AssetKey, Vec<u8>)], number: usize) {
    let (key, bytes) = &shared[number];
    let mut body = within(client.read(key, region(number), None)).await.unwrap().expect("it is there");
    assert!(body.next().await.unwrap().unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn regions_spread_over_all_nodes_and_each_stays_at_one() {
    let array = Array::start().await;
    let names = Names::of(&ALL);
    let client = array.client(&names);
    let shared = share(&client, 60).await;
    let before = array.reads().await;
    for number in 0..60 {
        read(&client, &shared, number).await;
    }
    let after = array.reads().await;
    let each: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    // 20 of each, with much room for chance: the names of these regions are always the same.
    assert!(each.iter().all(|reads| *reads >= 8) && each.iter().sum::<u64>() == 60, "{each:?}");
    assert_eq!(client.connections_made(), 3, "one connection to each node that is used");
    assert_eq!((client.nodes(), client.failovers(), client.face()), ((3, 3), 0, Face::Quic));

    // Another proxy, to which the name server has told it in another order, asks the same nodes.
    let others = Names::of(&[ALL[2], ALL[0], ALL[1]]);
    let other = array.client(&others);
    for number in 0..60 {
        let before = array.reads().await;
        read(&client, &shared, number).await;
        read(&other, &shared, number).await;
        read(&other, &shared, number).await;
        let after = array.reads().await;
        let mut each: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
        each.sort_unstable();
        assert_eq!(each, [0, 0, 3], "region {number}");
        if number == 11 {
            break;
        }
    }
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_said_of_a_region_is_said_to_its_node() {
    let array = Array::start().await;
    let client = array.client(&Names::of(&ALL));
    let counters = ["/counters/attestations", "/counters/bodies", "/counters/lookups", "/counters/reads"];
    for number in 0..8 {
        let (key, bytes) = (key(AssetKind::Texture, number as u128 + 1), texture(number, 3000));
        let digest = rezcache::asset::Digest::of(&bytes);
        let mut before = Vec::new();
        for n in 0..ALL.len() {
            for counter in counters {
                before.push(array.report(n, counter).await);
            }
        }
        client.attest(&key, region(number), digest, &bytes).await.unwrap();
        client.put(&key, region(number), digest, Codec::Raw, bytes.clone()).await.unwrap();
        let sizes = client.lookup(&key.grid, region(number), vec![(key.kind, key.id)]).await.unwrap();
        assert_eq!(sizes, [Some((bytes.len() as u64, digest))]);
        read(&client, &vec![(key, bytes.to_vec()); number + 1], number).await;
        let mut more = Vec::new();
        for n in 0..ALL.len() {
            for (at, counter) in counters.iter().enumerate() {
                more.push(array.report(n, counter).await - before[n * counters.len() + at]);
            }
        }
        // A body is also said to be attested.
        let each: Vec<bool> =
            more.chunks(counters.len()).map(|one| one.iter().all(|count| *count > 0)).collect();
        let idle = more.chunks(counters.len()).filter(|one| one.iter().all(|count| *count == 0)).count();
        assert_eq!((each.iter().filter(|all| **all).count(), idle), (1, 2), "{more:?}");
    }
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_knows_an_address_asks_nobody_for_a_name() {
    let array = Array::start().await;
    let names = Names::default();
    let url = format!("https://{}#pin={}", array.at, array.pin);
    let address =
        ServerAddress { resolver: Resolver::Other(Arc::new(names.clone())), ..url.parse().unwrap() };
    let client = ServiceClient::new(address, None).unwrap();
    let shared = share(&client, 5).await;
    for number in 0..5 {
        read(&client, &shared, number).await;
    }
    tokio::time::sleep(TTL * 3).await;
    assert_eq!(names.0.asked.load(Ordering::SeqCst), 0);
    assert_eq!((client.nodes(), client.connections_made()), ((1, 1), 1));
    assert!(client.is_silent(), "what the only node misses is the service's");
    array.stop().await;
}
