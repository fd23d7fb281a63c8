//! Nodes that die, hang or go, seen by viewers: right bytes, and from the cache as long as one node is left.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rezcache::asset::{AssetKey, AssetKind};
use rezcache::client::{Face, ServiceClient};
use rezcache::fetch::routing::{RouteKey, Routing};
use rezcache::proxy::Proxy;
use rezcache::support::metrics::Counter;
use rezcache::wire::frame::Codec;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};

use super::{ALL, Array, Names, proxy_service, read, region, share};
use crate::service::{key, texture};
use crate::service_tier::faults::{ASSETS, World};
use crate::service_tier::faulty_node::{FaultyNode, Mood};
use crate::support::process::NodeProcess;
use crate::support::synthetic::Draw;
use crate::support::within;

/// Nodes as processes, with one port and one store.
struct Processes {
    folder: tempfile::TempDir,
    nodes: Vec<Option<NodeProcess>>,
    at: SocketAddr,
    pin: String,
}

impl Processes {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let first = process(folder.path(), ALL[0], 0);
        let (at, pin) = (first.at, first.pin.clone());
        let mut nodes = vec![Some(first)];
        nodes.extend(ALL[1..].iter().map(|ip| Some(process(folder.path(), ip, at.port()))));
        Self { folder, nodes, at, pin }
    }

    /// Which node is the best for an asset.
    fn node_of(&self, world: &World, n: usize) -> usize {
        let nodes: Vec<_> = ALL.map(|ip| SocketAddr::new(ip.parse().unwrap(), self.at.port())).into();
        let mut routing = Routing::default();
        routing.resolved(Instant::now(), &nodes);
        let best = routing.order(Instant::now(), &RouteKey::new(&world.key(n), &[], true))[0];
        nodes.iter().position(|node| *node == best).unwrap()
    }

    fn kill(&mut self, n: usize) {
        self.nodes[n].take().unwrap().kill();
    }

    fn signal(&self, n: usize, signal: &str) {
        let id = self.nodes[n].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn start_again(&mut self, n: usize) {
        self.nodes[n] = Some(process(self.folder.path(), ALL[n], self.at.port()));
    }
}

fn process(folder: &std::path::Path, ip: &str, port: u16) -> NodeProcess {
    let own = folder.join(ip);
    std::fs::create_dir_all(&own).unwrap();
    let store = format!("file://{}", folder.join("store").display());
    let listen = format!("{ip}:{port}");
    NodeProcess::start_with(&own, &["--listen", &listen, "--store", &store, "--open-access"], &[])
}

fn standing(proxy: &Proxy) -> String {
    proxy.metrics().service().unwrap().state.into_owned()
}

/// A world on a grid of one operator, whose assets are known to the service.
async fn world(number: u64, array: &Processes, names: &Names, least: Duration) -> World {
    let service = proxy_service(names.service(array.at, &array.pin), least);
    let world = World::central(number, |n| 3000 + n * 500, service).await;
    let somebody = ServiceClient::new(names.service(array.at, &array.pin), None).unwrap();
    for n in 0..ASSETS {
        world.share(n, &somebody).await;
    }
    world.settled().await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_or_hangs_costs_no_answer() {
    for (number, hangs) in [(0, false), (1, true)] {
        let mut array = Processes::start();
        let names = Names::of(&ALL);
        let world = world(9100 + number, &array, &names, Duration::from_millis(1500)).await;
        for n in 0..8 {
            assert_eq!(world.get(n, None).await.0, "hit; tier=service");
        }
        let before = world.count(Counter::ServiceFailovers);
        let victim = array.node_of(&world, 8);
        if hangs {
            array.signal(victim, "-STOP");
        } else {
            array.kill(victim);
        }
        for n in 8..ASSETS {
            let (tier, took) = world.get(n, None).await;
            assert_eq!(tier, "hit; tier=service", "{n}, after {took:?}");
        }
        assert!(world.count(Counter::ServiceFailovers) > before, "nobody was asked who is gone");
        assert_eq!((world.grid_asked(), standing(&world.setup.proxy).as_str()), (0, "working"));
        assert_eq!(world.count(Counter::ServiceAway), 0, "the breaker has opened");
        if hangs {
            array.signal(victim, "-CONT");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_meets_a_dead_node_and_the_breaker_stays_closed() {
    let mut array = Processes::start();
    let names = Names::of(&ALL);
    let world = Arc::new(world(9120, &array, &names, Duration::from_millis(1500)).await);
    for n in 0..6 {
        world.get(n, None).await;
    }
    let victim = array.node_of(&world, 6);
    array.kill(victim);
    let mut asking = tokio::task::JoinSet::new();
    for n in 6..ASSETS {
        let world = Arc::clone(&world);
        asking.spawn(async move { world.get(n, None).await.0 });
    }
    while let Some(tier) = asking.join_next().await {
        assert_eq!(tier.unwrap(), "hit; tier=service");
    }
    assert!(world.count(Counter::ServiceFailovers) > 0, "nobody was asked who is gone");
    assert_eq!((world.count(Counter::ServiceAway), world.grid_asked()), (0, 0));
    assert_eq!(standing(&world.setup.proxy), "working");
}

/// With the deadlines that users have: nobody waits for a dead node for longer than for a slow service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how many the grid had to serve is what a run of this is for")]
async fn at_usual_deadlines_a_dead_node_keeps_nobody_waiting() {
    let mut array = Processes::start();
    let names = Names::of(&ALL);
    let world = world(9140, &array, &names, Duration::ZERO).await;
    for n in 0..6 {
        world.get(n, None).await;
    }
    let victim = array.node_of(&world, 6);
    array.kill(victim);
    let (mut hits, mut longest) = (0, Duration::ZERO);
    for n in 6..ASSETS {
        let (tier, took) = world.get(n, None).await;
        hits += usize::from(tier == "hit; tier=service");
        longest = longest.max(took);
    }
    println!(
        "one of three dead: {hits} of {} from the service, the longest {longest:?}, {} failovers, {} hedges, {} not asked",
        ASSETS - 6,
        world.count(Counter::ServiceFailovers),
        world.count(Counter::ServiceHedges),
        world.count(Counter::ServiceAway),
    );
    assert!(longest < Duration::from_millis(1500), "{longest:?}");
    assert!(hits > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_are_dead_the_grid_serves_and_one_that_returns_is_enough() {
    let mut array = Processes::start();
    let names = Names::of(&ALL);
    let world = world(9130, &array, &names, Duration::ZERO).await;
    for n in 0..3 {
        array.kill(n);
    }
    let mut n = 0;
    while standing(&world.setup.proxy) == "working" {
        assert!(n < ASSETS - 2, "the breaker never opens");
        let (_, took) = world.get(n, None).await;
        assert!(took < Duration::from_millis(1500), "{took:?}");
        n += 1;
    }
    let (tier, _) = world.get(ASSETS - 2, None).await;
    assert_eq!((tier.as_str(), world.count(Counter::ServiceAway)), ("miss", 1));
    array.start_again(1);
    within(async {
        while standing(&world.setup.proxy) != "working" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Many readers while one node after another is killed or stopped, at whatever moment that is, and comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "how many were read and moved on is what a run of this is for")]
async fn of_many_reads_none_fails_while_nodes_come_and_go() {
    let mut array = Processes::start();
    let names = Names::of(&ALL);
    let client = ServiceClient::new(names.service(array.at, &array.pin), None).unwrap();
    let mut shared = share(&client, 30).await;
    // Some are long enough to be cut off on their way.
    for (number, shared) in shared.iter_mut().enumerate().skip(25) {
        let (name, bytes) = (key(AssetKind::Texture, 700 + number as u128), texture(number, 3_000_000));
        let digest = rezcache::asset::Digest::of(&bytes);
        client.attest(&name, region(number), digest, &bytes).await.unwrap();
        client.put(&name, region(number), digest, Codec::Raw, bytes.clone()).await.unwrap();
        *shared = (name, bytes.to_vec());
    }
    let shared = Arc::new(shared);
    let over = Arc::new(AtomicBool::new(false));
    let mut reading = tokio::task::JoinSet::new();
    for reader in 0..4_u64 {
        let (client, shared, over) = (client.clone(), Arc::clone(&shared), Arc::clone(&over));
        reading.spawn(async move {
            let (mut draw, mut reads, mut longest) = (Draw(reader), 0, Duration::ZERO);
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                read_whole(&client, &shared, draw.below(30)).await;
                longest = longest.max(begun.elapsed());
                reads += 1;
            }
            (reads, longest)
        });
    }
    for round in 0..6 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let node = round % 3;
        if round < 3 {
            array.kill(node);
        } else {
            array.signal(node, "-STOP");
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if round < 3 {
            array.start_again(node);
        } else {
            array.signal(node, "-CONT");
        }
        // The others are known to be well by then.
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    over.store(true, Ordering::Relaxed);
    let (mut reads, mut longest) = (0, Duration::ZERO);
    while let Some(done) = reading.join_next().await {
        let (number, took) = done.unwrap();
        reads += number;
        longest = longest.max(took);
    }
    println!("{reads} reads, {} moved on, the longest took {longest:?}", client.failovers());
    assert!(client.failovers() > 0 && reads > 100);
    // Nobody waits for a dead connection to run out.
    assert!(longest < Duration::from_secs(10), "{longest:?}");
    assert_eq!(client.face(), Face::Quic);
}

async fn read_whole(client: &ServiceClient, shared: &[(AssetKey, Vec<u8>)], number: usize) {
    let (key, bytes) = &shared[number];
    let mut body = within(client.read(key, region(number), None)).await.unwrap().expect("it is there");
    let mut got = Vec::new();
    while let Some(part) = within(body.next()).await.unwrap() {
        got.extend_from_slice(&part);
    }
    assert!(got == *bytes, "wrong bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_is_left_without_a_failure() {
    let mut array = Array::start().await;
    let names = Names::of(&ALL);
    let client = array.client(&names);
    let shared = share(&client, 24).await;
    let going = array.nodes[0].take().unwrap();
    let going = tokio::spawn(going.stop());
    for round in 0..4 {
        for number in 0..24 {
            read(&client, &shared, number).await;
            assert!(!client.is_silent(), "{round}: {number}");
        }
    }
    within(going).await.unwrap();
    assert_eq!(client.face(), Face::Quic, "one node is not the network");
    // It returns, and has its regions again.
    array.nodes[0] = super::start(array.folder.path(), ALL[0], array.at.port(), |_| {}).await;
    within(async {
        while array.report(0, "/counters/reads").await == 0 {
            for number in 0..24 {
                read(&client, &shared, number).await;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert_eq!(client.nodes(), (3, 3));
    array.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_finished_by_another_node() {
    for (number, size) in [(0, 40_000), (1, 3_000_000)] {
        let nodes = FaultyNode::array(&ALL[..2]).await;
        let names = Names::of(&ALL[..2]);
        let mut service = nodes[0].patient(0);
        let url = nodes[0].named(super::NAME);
        service.address = rezcache::client::address::ServerAddress {
            resolver: rezcache::client::resolve::Resolver::Other(Arc::new(names)),
            ..url.parse().unwrap()
        };
        let world = World::new(9150 + number, |_| size, service).await;
        world.settled().await;
        for asset in &world.assets {
            nodes.iter().for_each(|node| node.knows(&asset.query, &asset.bytes));
        }
        assert_eq!(world.get(0, None).await.0, "hit; tier=service");
        let asked = usize::from(nodes[1].reads() > 0);
        nodes[asked].is(Mood::Dying);
        assert_eq!(world.get(1, None).await.0, "hit; tier=service");
        assert!(nodes[asked].reads() == 2 && nodes[1 - asked].reads() == 1, "both have had a part");
        assert_eq!((world.grid_asked(), world.count(Counter::ServiceFailures)), (0, 0));
        // Nobody is left who could go on: the grid does.
        nodes[1 - asked].is(Mood::Dying);
        world.get(2, None).await;
        assert!(world.grid_asked() > 0);
    }
}

/// Passes TCP on to a node from another address, and no UDP.
async fn tcp_only(from: SocketAddr, node: SocketAddr) {
    let listener = TcpListener::bind(from).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(node).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_udp_is_told_from_a_node_that_is_dead() {
    let array = Array::start().await;
    let behind = ["127.0.0.12", "127.0.0.13", "127.0.0.14"];
    for (from, ip) in behind.iter().zip(ALL) {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), array.at.port());
        tcp_only(at(from), at(ip)).await;
    }
    // No node answers over UDP: that is the network, and all of them are asked over HTTPS.
    let names = Names::of(&behind);
    let client = array.client(&names);
    let shared = share(&client, 12).await;
    for number in 0..12 {
        read(&client, &shared, number).await;
    }
    assert_eq!(client.face(), Face::Http);
    assert!(array.reads().await.iter().filter(|reads| **reads > 0).count() >= 2);
    assert_eq!(client.nodes(), (3, 3), "none of them has failed");

    // One does not, and the others do: that is the node. 127.0.0.99 is nobody, over neither.
    let names = Names::of(&[ALL[0], ALL[1], "127.0.0.99", behind[2]]);
    let client = array.client(&names);
    let before = tokio::time::Instant::now();
    for _ in 0..3 {
        for number in 0..12 {
            read(&client, &shared, number).await;
        }
    }
    assert_eq!(client.face(), Face::Quic, "UDP is not blocked");
    assert!(before.elapsed() < Duration::from_secs(20));
    let (name, bytes) = (key(AssetKind::Texture, 500), texture(500, 2_000_000));
    let digest = rezcache::asset::Digest::of(&bytes);
    client.attest(&name, region(3), digest, &bytes).await.unwrap();
    client.put(&name, region(3), digest, Codec::Raw, bytes).await.unwrap();
    array.stop().await;
}
