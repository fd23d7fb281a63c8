//! What is learnt over LLUDP goes to the cache service too, unless it is a bake.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rezcache::fetch::upload_plan::Limits;
use rezcache::lludp::MessageNumber;
use rezcache::proxy::UploadConfig;
use rezcache::support::metrics::Counter;
use uuid::Uuid;

use super::boundaries::appearance;
use super::world::{Player, RELIABLE, Sim, Thing, Want, ZEROCODED, tier, until_learned};
use crate::support::client::get;
use crate::support::fake_grid::{FakeGrid, Reply};
use crate::support::{Setup, another_texture, sound, texture, within};
use crate::uploads::{at_once, says_later, service};

/// A proxy whose uploads wait for an hour, to a service that nobody runs.
async fn waiting() -> Setup {
    waiting_for(FakeGrid::start().await).await
}

async fn waiting_for(grid: FakeGrid) -> Setup {
    Setup::with(grid, |config| {
        config.service = Some(service("http://127.0.0.1:9"));
        let limits = Limits { wait: Duration::from_secs(3600), ..Limits::default() };
        config.uploads = Some(UploadConfig { limits, ..at_once() });
    })
    .await
}

async fn until(setup: &Setup, counter: Counter, least: u64) {
    let metrics = setup.proxy.metrics();
    within(async {
        while metrics.get(counter) < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_came_over_lludp_is_queued() {
    let setup = waiting().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;
    until(&setup, Counter::UploadsQueued, 1).await;
}

#[tokio::test]
async fn a_texture_that_turns_out_to_be_a_bake_leaves_the_queue() {
    let setup = waiting().await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    for asset in [texture(), another_texture()] {
        setup.serve(&asset);
        get(setup.at, &format!("{capability}{}", asset.query), &[]).await;
    }
    assert_eq!(setup.proxy.metrics().upload_queue().0, 2);
    // One is worn as a baked head.
    let head: Uuid = texture().id.parse().unwrap();
    let body = appearance(5, Uuid::from_u128(7), head);
    sim.send(&viewer, RELIABLE | ZEROCODED, MessageNumber::low(158), &body).await;
    until(&setup, Counter::UploadsDroppedBaked, 1).await;
    assert_eq!(setup.proxy.metrics().upload_queue().0, 1);
    // The other is asked for as a bake.
    let other = another_texture().id.parse().unwrap();
    viewer.ask(&[Want { kind: 1, ..Want::whole(other) }]).await;
    until(&setup, Counter::UploadsDroppedBaked, 2).await;
    assert_eq!(setup.proxy.metrics().upload_queue(), (0, 0));
}

/// A grid that does not say who it is before a session has begun.
async fn late_grid(login: &str, word: &str) -> (FakeGrid, impl Fn()) {
    let grid = FakeGrid::start().await;
    let speaks = says_later(&grid, Reply::new("503 Service Unavailable", &[], ""), login, word);
    (grid, move || speaks.store(true, Ordering::SeqCst))
}

/// Waits until what the proxy holds under one name of the grid is not what it looks for.
async fn until_not_found(setup: &Setup, capability: &str, query: &str) {
    within(async {
        while tier(setup, capability, query).await.0.starts_with("hit") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_grid_that_opts_out_during_a_session_has_nothing_looked_up_and_nothing_kept() {
    let (grid, speak) = late_grid("http://127.0.0.1:9/", "off").await;
    let setup = waiting_for(grid).await;
    let (known, unknown) = (Thing::from(texture()), Thing::from(another_texture()));
    let sim = Sim::holding(&[&known, &unknown]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    viewer.ask(&[Want::whole(known.id)]).await;
    until_learned(&setup, &capability, &known).await;
    let queued = setup.proxy.metrics().get(Counter::UploadsQueued);
    speak();
    until_not_found(&setup, &capability, &known.query).await;
    for thing in [&known, &unknown] {
        let before = sim.asked_for_image(thing.id);
        for asked in 1..=2 {
            let since = viewer.heard().len();
            viewer.ask(&[Want::whole(thing.id)]).await;
            viewer.image(thing.id, 0, thing.packets(), since).await;
            viewer.passes_a_marker(&sim).await;
            assert_eq!(sim.asked_for_image(thing.id), before + asked);
        }
    }
    assert_eq!((setup.proxy.metrics().get(Counter::UploadsQueued), queued > 0), (queued, true));
    assert_eq!(setup.proxy.metrics().upload_queue().0, 0);
}

#[tokio::test]
async fn bakes_stay_bakes_when_the_grid_says_during_a_session_what_it_is_called() {
    let (grid, speak) = late_grid("http://grid.example:8002/", "share").await;
    let setup = waiting_for(grid).await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    let wear = async |asset: &str| {
        let body = appearance(5, Uuid::from_u128(7), asset.parse().unwrap());
        sim.send(&viewer, RELIABLE | ZEROCODED, MessageNumber::low(158), &body).await;
        viewer.hears_a_marker(&sim).await;
    };
    let fetch = async |asset| {
        setup.serve(&asset);
        assert_eq!(tier(&setup, &capability, &asset.query).await, ("miss".to_owned(), asset.bytes.to_vec()));
    };
    wear(texture().id).await;
    fetch(sound()).await;
    until(&setup, Counter::UploadsQueued, 1).await;
    speak();
    until_not_found(&setup, &capability, &sound().query).await;
    // What was worn before is known under the new name.
    fetch(texture()).await;
    until(&setup, Counter::UploadsRefusedBaked, 1).await;
    // And what is worn now.
    fetch(another_texture()).await;
    until(&setup, Counter::UploadsQueued, 3).await;
    wear(another_texture().id).await;
    until(&setup, Counter::UploadsDroppedBaked, 1).await;
}
