//! What is not taken on the service's word: samples are compared with the grid, and one proven lie ends it.

use rezcache::proxy::Proxy;
use rezcache::support::metrics::Counter;

use super::faults::{World, settled};
use super::faulty_node::FaultyNode;
use crate::support::client::get;
use crate::support::{grid_config, proxy_config, within};

/// Waits until a counter has reached a number.
async fn until(world: &World, counter: Counter, number: u64) {
    within(async {
        while world.count(counter) < number {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_hits_pass_the_spot_check() {
    let node = FaultyNode::quic().await;
    let world = World::new(800, |n| 4000 + n * 100, node.patient(1)).await;
    world.settled().await;
    for n in 0..8 {
        node.knows(&world.assets[n].query, &world.assets[n].bytes);
        assert_eq!(world.get(n, None).await.0, "hit; tier=service");
    }
    until(&world, Counter::ServiceSpotChecks, 8).await;
    assert_eq!(world.count(Counter::ServiceMismatches), 0);
    assert_eq!(world.setup.proxy.metrics().service().unwrap().state, "working");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proven_lie_ends_the_use_of_the_service_and_what_came_from_it_is_dropped() {
    let node = FaultyNode::http().await;
    let honest = World::central(801, |n| 4000 + n * 100, node.patient(0)).await;
    honest.settled().await;
    for n in 0..3 {
        node.knows(&honest.assets[n].query, &honest.assets[n].bytes);
    }
    // Valid assets, but not those of these names: no digest tells.
    node.knows(&honest.assets[3].query, &honest.assets[10].bytes);
    for n in 0..3 {
        assert_eq!(honest.get(n, None).await.0, "hit; tier=service");
    }
    let lied = get(honest.setup.at, &honest.path(3), &[]).await;
    assert_eq!((lied.tier(), &lied.body), ("hit; tier=service", &*honest.assets[10].bytes));

    // The next run compares every hit.
    let World { setup, assets, .. } = honest;
    let crate::support::Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let start = |spot_check| {
        let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
        config.service = Some(node.patient(spot_check));
        config.grids[0].central = true;
        Proxy::start(config)
    };
    let proxy = start(1).await.unwrap();
    settled(&proxy).await;
    node.knows(&assets[4].query, &assets[12].bytes);
    let setup = crate::support::Setup { at: proxy.grid_addresses()[0], grid, proxy, dir };
    let cap = setup.asset_capability().await;
    let ask = |n: usize| {
        let path = format!("{cap}{}", assets[n].query);
        let at = setup.at;
        async move { get(at, &path, &[]).await }
    };
    assert_eq!(ask(3).await.tier(), "hit; tier=disk");
    assert_eq!(ask(4).await.tier(), "hit; tier=service");
    within(async {
        while setup.proxy.metrics().get(Counter::ServiceMismatches) == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    })
    .await;
    // All that came from it is gone, and the grid is asked for the truth; what it says is right.
    for (n, asset) in assets.iter().enumerate().take(6) {
        let answer = ask(n).await;
        asset.check(&answer);
        // The fourth is here from the comparison.
        assert!(n == 4 || answer.tier() == "miss", "{n}: {}", answer.tier());
    }
    assert_eq!(setup.proxy.metrics().service().unwrap().state, "distrusted");

    // That is remembered.
    let crate::support::Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
    config.service = Some(node.patient(0));
    config.grids[0].central = true;
    let proxy = Proxy::start(config).await.unwrap();
    assert_eq!(proxy.metrics().service().unwrap().state, "distrusted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_simulator_that_differs_ends_the_use_for_what_comes_through_it_alone() {
    let node = FaultyNode::http().await;
    let world = World::new(802, |n| 4000 + n * 100, node.patient(1)).await;
    world.settled().await;
    node.knows(&world.assets[0].query, &world.assets[0].bytes);
    node.knows(&world.assets[1].query, &world.assets[10].bytes);
    node.knows(&world.assets[2].query, &world.assets[2].bytes);
    assert_eq!(world.get(0, None).await.0, "hit; tier=service");
    let lied = get(world.setup.at, &world.path(1), &[]).await;
    assert_eq!(lied.tier(), "hit; tier=service");
    until(&world, Counter::ServiceMismatches, 1).await;
    // The service may be right, and the simulator wrong: it is used on, but not for this one.
    assert_eq!(world.setup.proxy.metrics().service().unwrap().state, "working");
    let reads = node.reads();
    for n in 0..3 {
        let (tier, _) = world.get(n, None).await;
        assert!(n == 1 || tier == "miss", "{n}: {tier}");
    }
    assert_eq!(node.reads(), reads);

    let setup = world.setup;
    let crate::support::Setup { grid, proxy, dir, .. } = setup;
    within(proxy.stop()).await;
    let mut config = proxy_config(grid_config(&grid.url("/")), dir.path());
    config.service = Some(node.patient(0));
    let proxy = Proxy::start(config).await.unwrap();
    settled(&proxy).await;
    let setup = crate::support::Setup { at: proxy.grid_addresses()[0], grid, proxy, dir };
    let cap = setup.asset_capability().await;
    node.knows(&world.assets[5].query, &world.assets[5].bytes);
    let answer = get(setup.at, &format!("{cap}{}", world.assets[5].query), &[]).await;
    assert_eq!(answer.tier(), "miss", "remembered over a restart");
}
