//! What comes from the service: whole assets, ranges, odd ranges, assets over LLUDP.

use std::sync::Arc;

use rezcache::support::metrics::Counter;

use super::faults::World;
use super::faulty_node::{FaultyNode, Mood};
use crate::support::client::get;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_come_whole_in_ranges_and_are_kept() {
    for node in [FaultyNode::http().await, FaultyNode::quic().await] {
        let world = World::new(700, |n| 4000 + n * 9000, node.patient(0)).await;
        world.settled().await;
        for asset in &world.assets {
            node.knows(&asset.query, &asset.bytes);
        }
        let ranges = [
            None,
            Some("bytes=0-599"),
            Some("bytes=599-16791"),
            Some("bytes=599-"),
            Some("bytes=-500"),
            Some("bytes=0-0,5-6"),
            Some("bytes=9999999-"),
            Some("bytes=700-600"),
        ];
        for (n, range) in ranges.into_iter().enumerate() {
            let (tier, _) = world.get(n, range).await;
            assert_eq!(tier, "hit; tier=service", "{range:?}");
            let (tier, _) = world.get(n, range).await;
            assert_eq!(tier, "hit; tier=memory", "{range:?}");
        }
        assert_eq!(world.grid_asked(), 0);
        let sizes: usize = world.assets[..ranges.len()].iter().map(|asset| asset.bytes.len()).sum();
        assert_eq!(world.count(Counter::BytesFromService), sizes as u64);
        assert_eq!(world.count(Counter::BytesFromGrid), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_large_asset_only_the_groups_of_a_range_come_first_and_then_the_rest() {
    let node = FaultyNode::quic().await;
    let world = World::new(701, |_| 2_500_000, node.patient(0)).await;
    world.settled().await;
    node.knows(&world.assets[0].query, &world.assets[0].bytes);
    let (tier, _) = world.get(0, Some("bytes=1000000-1100000")).await;
    assert_eq!(tier, "hit; tier=service");
    // The whole is fetched behind the viewer's back, and then is here.
    for _ in 0..1000 {
        if world.get(0, Some("bytes=0-10")).await.0 == "hit; tier=memory" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(world.get(0, None).await.0, "hit; tier=memory");
    assert_eq!(world.grid_asked(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_service_does_not_have_is_not_asked_for_again_for_a_while() {
    let node = FaultyNode::http().await;
    let world = World::new(702, |n| 4000 + n, node.patient(0)).await;
    world.settled().await;
    // The grid breaks off, so that nothing is kept and the next request asks anew.
    let asset = world.assets[0].clone();
    let half = Arc::clone(&asset.bytes);
    world.setup.grid.on("/cap-asset/", move |_| {
        crate::support::fake_grid::Reply::raw_head("200 OK", &[("Content-Length", &half.len().to_string())])
            .then_bytes(&half[..100])
            .then_close()
    });
    for _ in 0..3 {
        assert!(get(world.setup.at, &world.path(0), &[]).await.broken);
    }
    assert_eq!(node.reads(), 1);
    assert_eq!(world.count(Counter::ServiceAbsent), 1);
    assert_eq!(world.count(Counter::ServiceKnownAbsent), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_wanted_at_once_are_looked_up_together() {
    let node = FaultyNode::http().await;
    let world = Arc::new(World::new(703, |n| 4000 + n * 10, node.patient(0)).await);
    world.settled().await;
    for asset in &world.assets[..12] {
        node.knows(&asset.query, &asset.bytes);
    }
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..world.assets.len() {
        let world = Arc::clone(&world);
        asking.spawn(async move { (n, world.get(n, None).await.0) });
    }
    while let Some(done) = asking.join_next().await {
        let (n, tier) = done.unwrap();
        // A busy machine may have sent some to the grid; whatever the service lacks came from there.
        assert!(n < 12 || tier == "miss", "{n}: {tier}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_that_is_disputed_is_left_to_the_grid() {
    let node = FaultyNode::http().await;
    let world = World::new(704, |n| 4000 + n * 10, node.patient(0)).await;
    world.settled().await;
    node.says_verify();
    node.is(Mood::Well);
    node.knows(&world.assets[0].query, &world.assets[1].bytes);
    assert_eq!(world.get(0, None).await.0, "miss");
    assert_eq!(world.count(Counter::ServiceVerify), 1);
}
