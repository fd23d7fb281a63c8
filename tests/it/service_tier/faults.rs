//! Do no harm: whatever the service does, viewers get the grid's bytes, and in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rezcache::asset::{AssetId, AssetKey, AssetKind, Digest};
use rezcache::client::ServiceClient;
use rezcache::grid::{GridId, Origin};
use rezcache::proxy::{Proxy, ServiceConfig};
use rezcache::support::metrics::Counter;
use rezcache::wire::OriginHash;
use rezcache::wire::frame::{Codec, Verdict};

use super::faulty_node::{FaultyNode, MOODS, Mood, nobody};
use crate::support::client::get;
use crate::support::fake_grid::FakeGrid;
use crate::support::synthetic::Synthetic;
use crate::support::{Setup, asset_reply};

pub(crate) const ASSETS: usize = 24;

/// A grid that has all of a world's assets, and a proxy in front of it that uses a service.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) assets: Vec<Synthetic>,
    cap: String,
}

impl World {
    pub(crate) async fn new(world: u64, sizes: impl Fn(usize) -> usize, service: ServiceConfig) -> Self {
        Self::of(world, sizes, service, false).await
    }

    /// The same on a grid of one operator.
    pub(crate) async fn central(world: u64, sizes: impl Fn(usize) -> usize, service: ServiceConfig) -> Self {
        Self::of(world, sizes, service, true).await
    }

    async fn of(world: u64, sizes: impl Fn(usize) -> usize, service: ServiceConfig, central: bool) -> Self {
        let assets: Vec<_> = (0..ASSETS).map(|n| Synthetic::new(world, n, sizes(n))).collect();
        let grid = FakeGrid::start().await;
        let by_query: std::collections::HashMap<String, Arc<Vec<u8>>> =
            assets.iter().map(|asset| (asset.query.clone(), Arc::clone(&asset.bytes))).collect();
        grid.on("/cap-asset/", move |asked| {
            asset_reply(asked, &by_query[asked.target.strip_prefix("/cap-asset").unwrap()])
        });
        let setup = Setup::with(grid, |config| {
            config.service = Some(service);
            config.grids[0].central = central;
        })
        .await;
        let cap = setup.asset_capability().await;
        Self { setup, assets, cap }
    }

    /// Somebody else's proxy has brought an asset to the node.
    pub(crate) async fn share(&self, n: usize, client: &ServiceClient) {
        let key = self.key(n);
        let origin = Some(OriginHash::of(&key.grid, &Origin::new("127.0.0.1")));
        let bytes = Bytes::from(self.assets[n].bytes.to_vec());
        let digest = Digest::of(&bytes);
        let verdict = client.attest(&key, origin, digest, &bytes).await.unwrap();
        assert_eq!(verdict, Verdict::Waiting { want_body: true });
        assert_eq!(client.put(&key, origin, digest, Codec::Raw, bytes).await.unwrap(), Verdict::Published);
    }

    /// What an asset is called.
    pub(crate) fn key(&self, n: usize) -> AssetKey {
        let (kind, id) = self.assets[n].query.trim_start_matches("/?").split_once("_id=").unwrap();
        let kind = AssetKind::ALL.into_iter().find(|known| known.name() == kind).unwrap();
        let grid = GridId::new(&self.setup.grid.at.to_string());
        AssetKey { grid, kind, id: AssetId(id.parse().unwrap()) }
    }

    pub(crate) fn path(&self, n: usize) -> String {
        format!("{}{}", self.cap, self.assets[n].query)
    }

    /// Asks for an asset as a viewer does, checks what comes, and says who answered and after how long.
    pub(crate) async fn get(&self, n: usize, range: Option<&str>) -> (String, Duration) {
        let headers: Vec<_> = range.iter().map(|range| ("Range", *range)).collect();
        let asked = Instant::now();
        let answer = get(self.setup.at, &self.path(n), &headers).await;
        let took = asked.elapsed();
        self.assets[n].check(&answer);
        assert!(!answer.broken);
        (answer.tier().to_owned(), took)
    }

    pub(crate) fn count(&self, counter: Counter) -> u64 {
        self.setup.proxy.metrics().get(counter)
    }

    pub(crate) fn grid_asked(&self) -> usize {
        self.setup.grid.asked("/cap-asset/").len()
    }

    pub(crate) async fn settled(&self) {
        settled(&self.setup.proxy).await;
    }
}

pub(crate) async fn settled(proxy: &Proxy) {
    proxy.service_settled(Duration::from_secs(20)).await;
}

#[expect(clippy::print_stdout, reason = "the measured distribution is what a run of this is for")]
fn print(name: &str, mut took: Vec<Duration>, world: &World) {
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)].as_secs_f64() * 1e3;
    println!(
        "{name:<28} p50 {:6.1} ms  p90 {:6.1} ms  most {:6.1} ms  hedges {}  not asked {}",
        at(50),
        at(90),
        at(100),
        world.count(Counter::ServiceHedges),
        world.count(Counter::ServiceAway),
    );
}

async fn misbehaves(node: &FaultyNode, mood: Mood, world: u64, large: bool) {
    let world =
        World::new(world, |n| if large { 1_300_000 + n * 1000 } else { 3000 + n * 2000 }, node.config(0))
            .await;
    world.settled().await;
    for asset in &world.assets {
        node.knows(&asset.query, &asset.bytes);
    }
    // It is well at first, so that it is asked at all.
    node.is(Mood::Well);
    let mut first = 0;
    while world.get(first, None).await.0 != "hit; tier=service" {
        // A busy machine may have kept the first ones from being in time.
        first += 1;
        world.settled().await;
    }
    node.is(mood);
    let mut took = Vec::new();
    for n in first + 1..ASSETS {
        took.push(world.get(n, None).await.1);
    }
    // Nobody waited for a service that is two seconds late, or for ever: the deadline is 150 ms at most.
    let longest = took.iter().max().unwrap();
    assert!(*longest < Duration::from_millis(1500), "{mood:?}: {longest:?}");
    print(&format!("{mood:?}{}", if large { ", large bodies" } else { "" }), took, &world);
    assert_eq!(world.count(Counter::ServiceMismatches), 0);
    // What had three misses in a row is not asked any more, or asks for little.
    assert!(node.reads() <= ASSETS, "{mood:?}");
    if mood != Mood::WrongBytes || !large {
        assert!(world.count(Counter::ServiceAway) > 0, "{mood:?}: the breaker never opened");
    }
    for n in 0..ASSETS {
        let (tier, _) = world.get(n, None).await;
        // Sounds and materials of this size are more than any grid's are: they pass, and are not kept.
        let kept = !large || n % 8 < 6;
        assert!(
            !kept || tier.starts_with("hit; tier=m") || tier.starts_with("hit; tier=d"),
            "{mood:?}: {n} {tier}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_misbehaves_over_http_harms_nobody() {
    for (number, mood) in (0..).zip(MOODS) {
        let node = FaultyNode::http().await;
        misbehaves(&node, mood, 100 + number, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_misbehaves_over_quic_harms_nobody() {
    for (number, mood) in (0..).zip(MOODS) {
        let node = FaultyNode::quic().await;
        misbehaves(&node, mood, 200 + number, false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_break_off_are_finished_by_the_grid() {
    for (number, mood) in (0..).zip([Mood::Dying, Mood::Dripping, Mood::WrongBytes]) {
        let node = FaultyNode::quic().await;
        misbehaves(&node, mood, 300 + number, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_is_not_there_is_never_waited_for() {
    let at = nobody().await;
    let pin = format!("sha256:{}", "0".repeat(64));
    for url in [format!("http://{at}"), format!("https://{at}#pin={pin}")] {
        let service = ServiceConfig {
            address: url.parse().unwrap(),
            token: None,
            join: None,
            spot_check: 0,
            least_deadline: Duration::ZERO,
        };
        let world = World::new(400, |n| 3000 + n * 100, service).await;
        let mut took = Vec::new();
        for n in 0..ASSETS {
            let (tier, time) = world.get(n, None).await;
            assert_eq!(tier, "miss");
            took.push(time);
        }
        print("nobody there", took, &world);
        // It was never reached, so it was never asked.
        assert_eq!(world.count(Counter::ServiceAway), ASSETS as u64);
        assert_eq!(world.count(Counter::ServiceHedges), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_returns_is_used_again() {
    for node in [FaultyNode::http().await, FaultyNode::quic().await] {
        node.is(Mood::Absent);
        let world = World::new(500, |n| 3000 + n * 100, node.patient(0)).await;
        for asset in &world.assets {
            node.knows(&asset.query, &asset.bytes);
        }
        assert_eq!(world.get(0, None).await.0, "miss");
        node.is(Mood::Well);
        world.settled().await;
        assert_eq!(world.get(1, None).await.0, "hit; tier=service");
        assert_eq!(world.grid_asked(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_grid_is_away_the_service_still_answers() {
    let node = FaultyNode::http().await;
    let world = World::new(600, |n| 3000 + n * 100, node.config(0)).await;
    world.settled().await;
    node.knows(&world.assets[1].query, &world.assets[1].bytes);
    world.setup.grid.on("/cap-asset/", |_| crate::support::fake_grid::Reply::none());
    node.is(Mood::Slow);
    assert_eq!(world.get(1, None).await.0, "hit; tier=service");
}
