//! What is not answered by the proxy and what it never learns; and when it falls silent.

use std::sync::Arc;

use rezcache::lludp::MessageNumber;
use rezcache::support::metrics::Counter;
use uuid::Uuid;

use super::world::{
    Heard, MISSING_IMAGE, Player, RELIABLE, SOUND, Sim, Thing, Want, ZEROCODED, missing_image, params,
    same_but_number, tier, until_learned,
};
use crate::support::{Setup, another_texture, sound, texture};

/// The simulator got these datagrams as they were sent, but for their numbers.
fn assert_passed(sim: &Sim, datagrams: &[Vec<u8>]) {
    for datagram in datagrams {
        let same = |heard: &&Heard| same_but_number(&heard.datagram, datagram);
        assert!(sim.heard().iter().any(|heard| same(&heard)), "touched: {datagram:02X?}");
    }
}

/// A texture goes all the way through the circuit and the learning, behind all that was before it.
async fn learn_another(setup: &Setup, capability: &str, viewer: &Player, sim: &Sim, world: u64) {
    let thing = Thing::texture(world, 3000);
    sim.also_holds(thing.id, &thing.bytes);
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;
    until_learned(setup, capability, &thing).await;
}

#[tokio::test]
async fn transfers_that_are_no_public_assets_pass_and_are_not_learned() {
    let setup = Setup::start().await;
    let thing = Thing::from(sound());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let item = |kind: i32| {
        let head = [viewer.avatar.agent, viewer.avatar.session, Uuid::nil(), Uuid::nil(), Uuid::from_u128(7)];
        let head: Vec<u8> = head.iter().flat_map(|id| id.as_bytes()).copied().collect();
        [head, params(thing.id, kind)].concat()
    };
    // Out of an inventory; estate data; notecard, script, object and calling card by their ids.
    let requests: Vec<(i32, Vec<u8>)> = vec![
        (3, item(7)),
        (3, item(SOUND)),
        (4, [&params(viewer.avatar.agent, 0)[..16], &params(thing.id, 0)].concat()),
        (2, params(thing.id, 7)),
        (2, params(thing.id, 10)),
        (2, params(thing.id, 6)),
        (2, params(thing.id, 2)),
    ];
    let mut sent = Vec::new();
    for _ in 0..2 {
        for (source, params) in &requests {
            let (transfer, datagram) = viewer.ask_transfer(*source, params).await;
            viewer.transfer(transfer, thing.bytes.len()).await;
            sent.push(datagram);
        }
    }
    assert_eq!(sim.asked_for_transfers(), sent.len());
    assert_passed(&sim, &sent);
    let capability = setup.asset_capability().await;
    learn_another(&setup, &capability, &viewer, &sim, 1).await;
    assert_eq!(tier(&setup, &capability, &thing.query).await.0, "miss");
    // Neither is it served, once it is known as a sound, to who asks for it in those ways.
    let (transfer, _) = viewer.ask_transfer(2, &params(thing.id, SOUND)).await;
    viewer.transfer(transfer, thing.bytes.len()).await;
    until_learned(&setup, &capability, &thing).await;
    let before = sim.asked_for_transfers();
    for (n, (source, params)) in (1..).zip(&requests) {
        let (transfer, _) = viewer.ask_transfer(*source, params).await;
        viewer.transfer(transfer, thing.bytes.len()).await;
        assert_eq!(sim.asked_for_transfers(), before + n, "{source} {params:02X?}");
    }
}

#[tokio::test]
async fn a_sound_asked_for_as_something_else_is_neither_learned_nor_served() {
    let setup = Setup::start().await;
    let (clip, picture) = (Thing::from(sound()), Thing::from(texture()));
    let sim = Sim::holding(&[&clip, &picture]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    // A simulator that does not look at the type.
    let (transfer, _) = viewer.ask_transfer(2, &params(picture.id, SOUND)).await;
    viewer.transfer(transfer, picture.bytes.len()).await;
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(clip.id)]).await;
    viewer.image(clip.id, 0, clip.packets(), since).await;
    learn_another(&setup, &capability, &viewer, &sim, 2).await;
    for query in [&clip.query, &picture.query] {
        assert_eq!(tier(&setup, &capability, query).await.0, "miss", "{query}");
        let id = query.split('=').nth(1).unwrap();
        for kind in ["texture", "sound"] {
            assert_eq!(tier(&setup, &capability, &format!("/?{kind}_id={id}")).await.0, "miss");
        }
    }
}

#[tokio::test]
async fn baked_textures_and_cancellations_pass_and_are_not_learned() {
    let setup = Setup::start().await;
    let (baked, plain) = (Thing::from(texture()), Thing::from(another_texture()));
    let sim = Sim::holding(&[&baked, &plain]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let mut sent = Vec::new();
    for kind in [1, 1, 2] {
        let since = viewer.heard().len();
        sent.push(viewer.ask(&[Want { kind, ..Want::whole(baked.id) }]).await);
        viewer.image(baked.id, 0, baked.packets(), since).await;
    }
    sent.push(viewer.ask(&[Want { discard: -1, priority: 0.0, ..Want::whole(plain.id) }]).await);
    viewer.passes_a_marker(&sim).await;
    assert_passed(&sim, &sent);
    assert_eq!(sim.asked_for_image(baked.id), 3);
    let capability = setup.asset_capability().await;
    learn_another(&setup, &capability, &viewer, &sim, 3).await;
    assert_eq!(tier(&setup, &capability, &baked.query).await.0, "miss");
}

/// The body of an AvatarAppearance: the sender, and a texture entry with the face for all, an exception
/// for the baked head (8), and the other fields without exceptions.
pub(super) fn appearance(avatar: u128, all: Uuid, head: Uuid) -> Vec<u8> {
    let entry = [
        all.as_bytes().as_slice(),
        &[0x82, 0x00],
        head.as_bytes(),
        &[0],
        &[0; 4 + 1 + 4 + 1 + 4 + 1 + 2 + 1 + 2 + 1 + 2 + 1 + 1 + 1 + 1 + 1 + 1],
    ]
    .concat();
    let length = u16::try_from(entry.len()).unwrap().to_le_bytes();
    [Uuid::from_u128(avatar).as_bytes().as_slice(), &[0], &length, &entry, &[0, 0, 0, 0]].concat()
}

#[tokio::test]
async fn what_an_avatar_wears_as_baked_is_not_learned_however_it_is_asked_for() {
    let setup = Setup::start().await;
    let (baked, worn) = (Thing::from(texture()), Thing::from(another_texture()));
    let sim = Sim::holding(&[&baked, &worn]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    let number = MessageNumber::low(158);
    sim.send(&viewer, RELIABLE | ZEROCODED, number, &appearance(5, worn.id, baked.id)).await;
    viewer.hears_a_marker(&sim).await;
    for count in 1..=2 {
        let since = viewer.heard().len();
        viewer.ask(&[Want::whole(baked.id)]).await;
        viewer.image(baked.id, 0, baked.packets(), since).await;
        assert_eq!(sim.asked_for_image(baked.id), count);
    }
    learn_another(&setup, &capability, &viewer, &sim, 81).await;
    assert_eq!(tier(&setup, &capability, &baked.query).await.0, "miss");
    assert!(viewer.heard().iter().any(|heard| heard.number == number && heard.has(ZEROCODED)));
}

#[tokio::test]
async fn what_the_simulator_does_not_have_is_asked_for_each_time() {
    let setup = Setup::start().await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let absent = Uuid::from_u128(0xdead);
    let mut sent = Vec::new();
    for count in 1..=2 {
        sent.push(viewer.ask(&[Want::whole(absent)]).await);
        viewer
            .until(|all| {
                let refusals =
                    all.iter().filter(|heard| heard.number == MessageNumber::IMAGE_NOT_IN_DATABASE);
                refusals.filter(|heard| heard.body == absent.as_bytes()).count() == count
            })
            .await;
        let (transfer, datagram) = viewer.ask_transfer(2, &params(absent, SOUND)).await;
        sent.push(datagram);
        viewer
            .until(|all| {
                let infos = all.iter().filter_map(Heard::transfer_info);
                infos.filter(|info| info.transfer == transfer && info.status == -2).count() == 1
            })
            .await;
        assert_eq!((sim.asked_for_image(absent), sim.asked_for_transfers()), (count, count));
    }
    assert_passed(&sim, &sent);
}

#[tokio::test]
async fn the_missing_image_under_another_id_is_not_learned() {
    let setup = Setup::start().await;
    let sim = Sim::holding(&[]).await;
    sim.substitutes_what_is_missing();
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    let bytes = missing_image();
    let absent = Thing {
        id: Uuid::from_u128(0xdead),
        query: "/?texture_id=00000000-0000-0000-0000-00000000dead".into(),
        bytes,
    };
    for count in 1..=2 {
        let since = viewer.heard().len();
        viewer.ask(&[Want::whole(absent.id)]).await;
        viewer.image(absent.id, 0, absent.packets(), since).await;
        assert_eq!(sim.asked_for_image(absent.id), count);
        learn_another(&setup, &capability, &viewer, &sim, 10 + count as u64).await;
        assert_eq!(tier(&setup, &capability, &absent.query).await.0, "miss");
    }
    assert!(sim.asked_for_image(MISSING_IMAGE) <= 1, "it is asked for once");
    // What the proxy asks for itself is its own: no viewer hears of it.
    let unasked = |heard: &Heard| heard.image_part().is_some_and(|(id, ..)| id == MISSING_IMAGE);
    assert!(!viewer.heard().iter().any(unasked));
}

#[tokio::test]
async fn a_damaged_texture_is_not_learned() {
    let setup = Setup::start().await;
    let good = Thing::from(texture());
    let mut noise = good.bytes.to_vec();
    noise[..64].fill(0xA5);
    let mut cut = good.bytes.to_vec();
    cut[30..60].fill(0xFF);
    let damaged: Vec<Thing> = [noise, cut, b"<html>not a picture</html>".repeat(60)]
        .into_iter()
        .zip(1_u128..)
        .map(|(bytes, n)| {
            let id = Uuid::from_u128(0xbad0 + n);
            Thing { id, query: format!("/?texture_id={id}"), bytes: Arc::new(bytes) }
        })
        .collect();
    let sim = Sim::holding(&damaged.iter().collect::<Vec<_>>()).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let capability = setup.asset_capability().await;
    for count in 1..=2 {
        for thing in &damaged {
            let since = viewer.heard().len();
            viewer.ask(&[Want::whole(thing.id)]).await;
            viewer.image(thing.id, 0, thing.packets(), since).await;
            assert_eq!(sim.asked_for_image(thing.id), count);
        }
    }
    learn_another(&setup, &capability, &viewer, &sim, 20).await;
    for thing in &damaged {
        assert_eq!(tier(&setup, &capability, &thing.query).await.0, "miss");
    }
    assert!(setup.proxy.metrics().get(Counter::AssetsInvalid) >= 3);
}

/// A viewer that is being served and acknowledges nothing, so that the serving stands at its limit.
async fn in_the_middle(setup: &Setup, sim: &Sim, thing: &Thing) -> Player {
    let viewer = Player::enter(setup, 1, sim).await;
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;
    until_learned(setup, &setup.asset_capability().await, thing).await;
    viewer.acknowledges(false);
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.until(|all| all[since..].iter().filter(|heard| heard.image_part().is_some()).count() >= 10).await;
    viewer.until_quiet().await;
    assert_eq!(sim.asked_for_image(thing.id), 1);
    viewer
}

/// Long enough for anything that would be sent again to be sent again.
async fn assert_silent_since(viewer: &Player, place: usize) {
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let late: Vec<_> = viewer.heard()[place..]
        .iter()
        .filter(|heard| heard.image_part().is_some())
        .map(|heard| heard.sequence)
        .collect();
    assert!(late.is_empty(), "still injected: {late:?}");
}

#[tokio::test]
async fn nothing_is_injected_after_the_simulator_closed_the_circuit() {
    let setup = Setup::start().await;
    let thing = Thing::texture(30, 200_000);
    let sim = Sim::holding(&[&thing]).await;
    let viewer = in_the_middle(&setup, &sim, &thing).await;
    sim.send(&viewer, RELIABLE, MessageNumber::DISABLE_SIMULATOR, &[]).await;
    let closed = |heard: &Heard| heard.number == MessageNumber::DISABLE_SIMULATOR;
    viewer.until(|all| all.iter().any(closed)).await;
    let place = viewer.heard().iter().position(closed).unwrap();
    // Acks would make room for more.
    let ids: Vec<u32> = viewer.heard().iter().rev().take(60).map(|heard| heard.sequence).collect();
    viewer.acknowledge(&ids).await;
    assert_silent_since(&viewer, place).await;
}

#[tokio::test]
async fn nothing_is_injected_after_a_logout() {
    let setup = Setup::start().await;
    let thing = Thing::texture(31, 200_000);
    let sim = Sim::holding(&[&thing]).await;
    let viewer = in_the_middle(&setup, &sim, &thing).await;
    let body = [viewer.avatar.agent.as_bytes().as_slice(), viewer.avatar.session.as_bytes()].concat();
    viewer.send(RELIABLE, MessageNumber::LOGOUT_REQUEST, &body).await;
    sim.until(|all| all.iter().any(|heard| heard.number == MessageNumber::LOGOUT_REQUEST)).await;
    sim.send(&viewer, RELIABLE, MessageNumber::LOGOUT_REPLY, &[&body[..], &[0]].concat()).await;
    let left = |heard: &Heard| heard.number == MessageNumber::LOGOUT_REPLY;
    viewer.until(|all| all.iter().any(left)).await;
    let place = viewer.heard().iter().position(left).unwrap();
    let ids: Vec<u32> = viewer.heard().iter().rev().take(60).map(|heard| heard.sequence).collect();
    viewer.acknowledge(&ids).await;
    assert_silent_since(&viewer, place).await;
}

#[tokio::test]
async fn a_cancelled_texture_is_not_served_on() {
    let setup = Setup::start().await;
    let thing = Thing::texture(32, 200_000);
    let sim = Sim::holding(&[&thing]).await;
    let viewer = in_the_middle(&setup, &sim, &thing).await;
    viewer.ask(&[Want { discard: -1, priority: 0.0, ..Want::whole(thing.id) }]).await;
    viewer.passes_a_marker(&sim).await;
    let place = viewer.hears_a_marker(&sim).await;
    let ids: Vec<u32> = viewer.heard().iter().rev().take(100).map(|heard| heard.sequence).collect();
    viewer.acknowledge(&ids).await;
    viewer.passes_a_marker(&sim).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let new = viewer.heard()[place..]
        .iter()
        .filter(|heard| heard.image_part().is_some() && !heard.has(0x20))
        .count();
    assert_eq!(new, 0, "new packets of what nobody wants");
}
