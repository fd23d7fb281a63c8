//! What is learnt over LLUDP goes to the cache service too, unless it is a bake.

use std::time::Duration;

use rezcache::fetch::upload_plan::Limits;
use rezcache::lludp::MessageNumber;
use rezcache::proxy::UploadConfig;
use rezcache::support::metrics::Counter;
use uuid::Uuid;

use super::boundaries::appearance;
use super::world::{Player, RELIABLE, Sim, Thing, Want, ZEROCODED};
use crate::support::client::get;
use crate::support::fake_grid::FakeGrid;
use crate::support::{Setup, another_texture, texture, within};
use crate::uploads::{at_once, service};

/// A proxy whose uploads wait for an hour, to a service that nobody runs.
async fn waiting() -> Setup {
    Setup::with(FakeGrid::start().await, |config| {
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
