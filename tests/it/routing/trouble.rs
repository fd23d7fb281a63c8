//! Nodes that are there and of no use: slow, stuck, wrong, or saying no. One of several is gone around; when all are
//! so, the service is left.

use std::sync::Arc;
use std::time::Duration;

use rezcache::asset::{AssetKey, AssetKind};
use rezcache::client::address::ServerAddress;
use rezcache::client::resolve::Resolver;
use rezcache::client::{CallError, ServiceClient, Way};
use rezcache::support::metrics::Counter;
use rezcache::wire::groups::GROUP_BYTES;

use super::{ALL, NAME, Names, region};
use crate::service::{key, texture};
use crate::service_tier::faults::{ASSETS, World};
use crate::service_tier::faulty_node::{FaultyNode, Mood};
use crate::support::within;

fn address(nodes: &[FaultyNode], ips: &[&str]) -> ServerAddress {
    let url = nodes[0].named(NAME);
    ServerAddress { resolver: Resolver::Other(Arc::new(Names::of(ips))), ..url.parse().unwrap() }
}

/// Nodes that know one asset, and a client of theirs.
struct Few {
    nodes: Vec<FaultyNode>,
    client: ServiceClient,
    key: AssetKey,
    bytes: Vec<u8>,
}

impl Few {
    async fn start(count: usize, size: usize) -> Self {
        let nodes = FaultyNode::array(&ALL[..count]).await;
        let client = ServiceClient::new(address(&nodes, &ALL[..count]), None).unwrap();
        let (key, bytes) = (key(AssetKind::Texture, 77), texture(77, size).to_vec());
        for node in &nodes {
            node.knows(&format!("?texture_id={}", key.id.0), &Arc::new(bytes.clone()));
        }
        Self { nodes, client, key, bytes }
    }

    /// Reads the asset; how many bytes the receipt is for.
    async fn read(&self, patience: Duration) -> Result<u64, CallError> {
        let way = Way { central: false, patience };
        let mut body =
            within(self.client.read_by(&way, &self.key, region(1), None)).await?.expect("it is there");
        let receipt = body.receipt();
        let mut got = Vec::new();
        while let Some(part) = within(body.next()).await? {
            got.extend_from_slice(&part);
        }
        assert!(got == self.bytes);
        Ok(receipt.lock().unwrap().bytes)
    }

    /// The node that is asked first, found out by asking.
    async fn first(&self) -> usize {
        self.read(PATIENT).await.unwrap();
        self.nodes.iter().position(|node| node.reads() > 0).unwrap()
    }

    fn all_are(&self, mood: Mood) {
        self.nodes.iter().for_each(|node| node.is(mood));
    }
}

const PATIENT: Duration = Duration::from_secs(20);
const HASTY: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slow_nodes_miss_is_the_services_and_what_one_misses_is_not() {
    for count in [2, 3] {
        let few = Few::start(count, 3000).await;
        let first = few.first().await;
        few.nodes[first].is(Mood::Lagging);
        for _ in 0..5 {
            few.read(HASTY).await.unwrap();
        }
        assert!(!few.client.is_silent(), "one of {count}");
        few.all_are(Mood::Lagging);
        for _ in 0..5 {
            few.read(HASTY).await.unwrap();
        }
        assert!(few.client.is_silent(), "all {count}");
        few.all_are(Mood::Well);
        // Whatever has missed meanwhile comes last, and may come in time again.
        few.read(PATIENT).await.unwrap();
        assert!(!few.client.is_silent(), "they are as they were");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_stand_still_everywhere_open_the_breaker() {
    for (number, count) in [(0, 2), (1, 3)] {
        let nodes = FaultyNode::array(&ALL[..count]).await;
        let mut service = nodes[0].config(0);
        service.address = address(&nodes, &ALL[..count]);
        service.least_deadline = Duration::from_millis(150);
        let world = World::new(9300 + number, |n| 3000 + n * 100, service).await;
        for asset in &world.assets {
            nodes.iter().for_each(|node| node.knows(&asset.query, &asset.bytes));
        }
        world.settled().await;
        nodes.iter().for_each(|node| node.is(Mood::Dripping));
        let mut n = 0;
        while world.count(Counter::ServiceAway) == 0 {
            assert!(n < ASSETS, "{count}: the breaker never opens");
            world.get(n, None).await;
            n += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stands_still_is_finished_by_another_node() {
    let few = Few::start(2, 3000).await;
    let first = few.first().await;
    few.nodes[first].is(Mood::Dripping);
    assert_eq!(few.read(HASTY).await, Ok(few.bytes.len() as u64), "what came of the first is not counted");
    assert_eq!((few.nodes[first].reads(), few.nodes[1 - first].reads()), (2, 1), "the same was asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_counted_once_whoever_sends_them() {
    for size in [40_000, 3_000_000] {
        let few = Few::start(2, size).await;
        let size = few.bytes.len() as u64;
        let first = few.first().await;
        few.nodes[first].is(Mood::Dying);
        let hashes =
            if size > rezcache::wire::WHOLE_BYTES { size.div_ceil(GROUP_BYTES as u64) * 32 } else { 0 };
        assert_eq!(few.read(PATIENT).await, Ok(size + hashes));
        assert_eq!(few.nodes[1 - first].reads(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_sends_wrong_bytes_is_left_for_another() {
    for size in [3000, 3_000_000] {
        let few = Few::start(2, size).await;
        let first = few.first().await;
        few.nodes[first].is(Mood::WrongBytes);
        few.read(PATIENT).await.unwrap();
        let before = few.nodes[first].reads();
        few.read(PATIENT).await.unwrap();
        assert_eq!(
            (few.nodes[first].reads(), few.client.nodes()),
            (before, (2, 1)),
            "it is asked first again"
        );
        few.all_are(Mood::WrongBytes);
        assert_eq!(few.read(PATIENT).await, Err(CallError::WrongBytes));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_says_no_is_not_the_service() {
    for status in [500, 502, 429, 401, 403] {
        let few = Few::start(2, 3000).await;
        let first = few.first().await;
        few.nodes[first].is(Mood::Says(status));
        few.read(PATIENT).await.unwrap();
        assert_eq!(few.nodes[1 - first].reads(), 1, "{status}");
        few.all_are(Mood::Says(status));
        let error = few.read(PATIENT).await.unwrap_err();
        assert!(matches!(error, CallError::Refused { status: said, .. } if said == status), "{error:?}");
    }
}
