//! Assets over LLUDP out of the shared cache.

use std::time::Duration;

use rezcache::proxy::ServiceConfig;
use rezcache::support::metrics::Counter;

use super::serving::{assert_image, assert_injected_image, assert_injected_transfer};
use super::world::{Player, SOUND, Sim, Thing, Want, params};
use crate::service_tier::faulty_node::{FaultyNode, Mood};
use crate::support::fake_grid::FakeGrid;
use crate::support::{Setup, another_texture, sound, texture, within};

async fn behind(service: ServiceConfig) -> Setup {
    let setup = Setup::with(FakeGrid::start().await, |config| {
        config.service = Some(service);
        config.grids[0].central = true;
    })
    .await;
    setup.proxy.service_settled(Duration::from_secs(20)).await;
    setup
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn textures_and_transfers_come_from_the_service_and_the_simulator_hears_nothing() {
    for node in [FaultyNode::http().await, FaultyNode::quic().await] {
        let setup = behind(node.patient(0)).await;
        let (image, clip) = (Thing::from(texture()), Thing::from(sound()));
        for thing in [&image, &clip] {
            node.knows(&thing.query, &thing.bytes);
        }
        let sim = Sim::holding(&[&image, &clip]).await;
        let viewer = Player::enter(&setup, 1, &sim).await;
        viewer.ask(&[Want::whole(image.id)]).await;
        let parts = viewer.image(image.id, 0, image.packets(), 0).await;
        assert_injected_image(&image, 0, &parts);
        let asked = params(clip.id, SOUND);
        let (transfer, _) = viewer.ask_transfer(2, &asked).await;
        let parts = viewer.transfer(transfer, clip.bytes.len()).await;
        assert_injected_transfer(&clip, transfer, &asked, &parts);
        viewer.passes_a_marker(&sim).await;
        assert_eq!((sim.asked_for_image(image.id), sim.asked_for_transfers()), (0, 0));
        let bytes = (image.bytes.len() + clip.bytes.len()) as u64;
        assert_eq!(setup.proxy.metrics().get(Counter::BytesFromService), bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_does_not_answer_in_time_leaves_the_request_to_the_simulator() {
    for mood in [Mood::Silent, Mood::Slow, Mood::Dripping, Mood::WrongBytes, Mood::Dying, Mood::Absent] {
        for node in [FaultyNode::http().await, FaultyNode::quic().await] {
            let setup = behind(node.config(0)).await;
            let things = [Thing::from(texture()), Thing::from(another_texture())];
            let sim = Sim::holding(&[&things[0], &things[1]]).await;
            let viewer = Player::enter(&setup, 1, &sim).await;
            for thing in &things {
                node.knows(&thing.query, &thing.bytes);
            }
            node.is(mood);
            for thing in &things {
                let since = viewer.heard().len();
                viewer.ask(&[Want::whole(thing.id)]).await;
                let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
                assert_image(thing, &parts);
                assert_eq!(sim.asked_for_image(thing.id), 1, "{mood:?}");
            }
            // What comes late is no second answer.
            viewer.passes_a_marker(&sim).await;
            let again = viewer.heard().len();
            viewer.hears_a_marker(&sim).await;
            assert!(viewer.heard()[again..].iter().all(|heard| heard.image_part().is_none()), "{mood:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_hit_is_left_to_the_simulator_and_a_lie_is_found_out() {
    let node = FaultyNode::quic().await;
    let setup = behind(node.patient(1)).await;
    let (honest, lied) = (Thing::from(texture()), Thing::from(another_texture()));
    node.knows(&honest.query, &honest.bytes);
    node.knows(&lied.query, &honest.bytes);
    let sim = Sim::holding(&[&honest, &lied]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    for (thing, state) in [(&honest, "working"), (&lied, "distrusted")] {
        let since = viewer.heard().len();
        viewer.ask(&[Want::whole(thing.id)]).await;
        let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
        assert_image(thing, &parts);
        within(async {
            while setup.proxy.metrics().service().unwrap().state != state {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
    within(async {
        while setup.proxy.metrics().get(Counter::ServiceMismatches) != 1 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(setup.proxy.metrics().get(Counter::ServiceSpotChecks), 2);
}
