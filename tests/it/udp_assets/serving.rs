//! Downloads: the first from the simulator, all later ones from the proxy.

use std::sync::Arc;

use rezcache::lludp::assets::ImageData;
use rezcache::lludp::{MessageBody, MessageNumber};
use uuid::Uuid;

use super::world::{
    ANIMATION, Heard, Player, RELIABLE, RESENT, SOUND, Sim, Thing, Want, image_bodies, params,
    same_but_number, tier, until_learned,
};
use crate::support::fake_grid::Reply;
use crate::support::{Setup, animation, another_texture, asset_reply, sound, texture};

/// The parts are the texture's from packet `first` on, in order, as an injection has to be.
pub(super) fn assert_injected_image(thing: &Thing, first: usize, parts: &[Heard]) {
    let bodies = image_bodies(thing.id, &thing.bytes);
    let fresh: Vec<_> = parts.iter().filter(|part| !part.has(RESENT)).collect();
    assert_eq!(fresh.len(), bodies.len() - first);
    for ((part, body), n) in fresh.iter().zip(&bodies[first..]).zip(first..) {
        assert_eq!(part.image_part().unwrap().1, n, "in order");
        assert!(part.body == *body, "packet {n} of {} has other bytes", thing.id);
    }
    assert_sound_as_injections(parts);
}

fn assert_sound_as_injections(parts: &[Heard]) {
    for part in parts {
        assert!(part.has(RELIABLE), "{:?} is not reliable", part.number);
        assert!(part.datagram.len() <= 1200, "{:?} has {} bytes", part.number, part.datagram.len());
    }
    let fresh: Vec<_> = parts.iter().filter(|part| !part.has(RESENT)).collect();
    assert!(fresh.is_sorted_by_key(|part| part.sequence), "numbers of injections grow");
}

/// The transfer answers a request for this with these parameters, by packets of 1,000 bytes.
pub(super) fn assert_injected_transfer(thing: &Thing, transfer: Uuid, params: &[u8], parts: &[Heard]) {
    let fresh: Vec<_> = parts.iter().filter(|part| !part.has(RESENT)).collect();
    let info = fresh[0].transfer_info().expect("TransferInfo comes first");
    assert_eq!((info.transfer, info.channel, info.status), (transfer, 2, 0));
    assert_eq!(usize::try_from(info.size).unwrap(), thing.bytes.len());
    assert_eq!(info.params.0, params);
    let chunks: Vec<_> = thing.bytes.chunks(1000).collect();
    assert_eq!(fresh.len(), 1 + chunks.len());
    for ((part, chunk), n) in fresh[1..].iter().zip(&chunks).zip(0..) {
        let part = part.transfer_part().unwrap();
        assert_eq!((part.transfer, part.channel, part.packet), (transfer, 2, n));
        assert_eq!(part.status, i32::from(part.packet as usize == chunks.len() - 1));
        assert!(part.data.0 == *chunk, "packet {n} of {} has other bytes", thing.id);
    }
    assert_sound_as_injections(parts);
}

/// The bytes that the viewer got from the simulator itself.
pub(super) fn assert_image(thing: &Thing, parts: &[Heard]) {
    let mut parts: Vec<_> = parts.iter().map(|part| part.image_part().unwrap()).collect();
    parts.sort_by_key(|part| part.1);
    parts.dedup_by_key(|part| part.1);
    let bytes: Vec<u8> = parts.iter().flat_map(|part| part.2).copied().collect();
    assert!(bytes == **thing.bytes, "{} came with other bytes", thing.id);
}

/// Waits until the viewer's datagram of this number is acknowledged to it.
async fn until_acknowledged(viewer: &Player, datagram: &[u8]) {
    let sequence = u32::from_be_bytes(datagram[1..5].try_into().unwrap());
    viewer.until(|all| all.iter().any(|heard| heard.acks.contains(&sequence))).await;
}

/// Has the viewer download the texture from the simulator, untouched by the way.
async fn learn_image(setup: &Setup, viewer: &Player, sim: &Sim, thing: &Thing) {
    let since = viewer.heard().len();
    let asked = sim.asked_for_image(thing.id);
    let request = viewer.ask(&[Want::whole(thing.id)]).await;
    let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
    assert_image(thing, &parts);
    assert_eq!(sim.asked_for_image(thing.id), asked + 1);
    assert!(sim.heard().iter().any(|heard| same_but_number(&heard.datagram, &request)));
    until_learned(setup, &setup.asset_capability().await, thing).await;
}

/// Has the viewer download the texture, and the simulator hear nothing of it.
async fn served_image(viewer: &Player, sim: &Sim, thing: &Thing) {
    let (since, before) = (viewer.heard().len(), sim.asked_for_image(thing.id));
    let request = viewer.ask(&[Want::whole(thing.id)]).await;
    let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
    assert_injected_image(thing, 0, &parts);
    until_acknowledged(viewer, &request).await;
    viewer.passes_a_marker(sim).await;
    assert_eq!(sim.asked_for_image(thing.id), before, "the simulator was asked again");
}

#[tokio::test]
async fn a_texture_is_downloaded_once_and_then_served_to_everyone() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;

    let request = viewer.ask(&[Want::whole(thing.id)]).await;
    let parts = viewer.image(thing.id, 0, thing.packets(), 0).await;
    assert!(sim.heard().iter().any(|heard| heard.datagram == request), "the request was touched");
    // Zero-coding included.
    assert!(parts[0].has(0x80) && !parts[1].has(0x80) && parts[2].has(0x80));
    assert_image(&thing, &parts);
    until_learned(&setup, &setup.asset_capability().await, &thing).await;

    served_image(&viewer, &sim, &thing).await;
    served_image(&viewer, &sim, &thing).await;
    let other = Player::enter(&setup, 2, &sim).await;
    served_image(&other, &sim, &thing).await;
    drop((viewer, other));

    let setup = setup.restarted().await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    served_image(&viewer, &sim, &thing).await;
    let capability = setup.asset_capability().await;
    assert_eq!(
        tier(&setup, &capability, &thing.query).await,
        ("hit; tier=memory".into(), thing.bytes.to_vec())
    );
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn textures_of_every_framing_are_served() {
    let setup = Setup::start().await;
    let viewer_sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &viewer_sim).await;
    // Grids hold textures whose end is missing; those are kept as they are.
    let whole = texture().bytes;
    for (n, total) in (1_u128..).zip([601, 1599, 1600, 1601, 2600, 2601, whole.len()]) {
        let id = Uuid::from_u128(0x7e00 + n);
        let bytes = Arc::new(whole[..total].to_vec());
        let thing = Thing { id, query: format!("/?texture_id={id}"), bytes };
        viewer_sim.also_holds(thing.id, &thing.bytes);
        learn_image(&setup, &viewer, &viewer_sim, &thing).await;
        served_image(&viewer, &viewer_sim, &thing).await;
    }
}

#[tokio::test]
async fn a_viewer_that_holds_packets_is_given_the_rest() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn_image(&setup, &viewer, &sim, &thing).await;
    // On this circuit the header is known; ask from packet 5, and for another resolution.
    let since = viewer.heard().len();
    let request = viewer.ask(&[Want { packet: 5, discard: 2, ..Want::whole(thing.id) }]).await;
    let parts = viewer.image(thing.id, 5, thing.packets(), since).await;
    assert_injected_image(&thing, 5, &parts);
    until_acknowledged(&viewer, &request).await;
    let headers = |heard: &Heard| {
        heard.number == MessageNumber::IMAGE_DATA && ImageData::decode(&heard.body).unwrap().image == thing.id
    };
    assert!(!viewer.heard()[since..].iter().any(headers), "it has the header");
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn sounds_and_animations_are_transferred_once_and_then_served_to_everyone() {
    let mut setup = Setup::start().await;
    let things = [(SOUND, Thing::from(sound())), (ANIMATION, Thing::from(animation()))];
    let sim = Sim::holding(&[&things[0].1, &things[1].1]).await;
    for round in 1..=3 {
        for avatar in [1, 2] {
            let viewer = Player::enter(&setup, avatar, &sim).await;
            for (kind, thing) in &things {
                let before = sim.asked_for_transfers();
                let params = params(thing.id, *kind);
                let (transfer, request) = viewer.ask_transfer(2, &params).await;
                let parts = viewer.transfer(transfer, thing.bytes.len()).await;
                if (round, avatar) == (1, 1) {
                    assert!(sim.heard().iter().any(|heard| same_but_number(&heard.datagram, &request)));
                    assert!(parts[0].has(0x80), "zero-coded as sent");
                    let mut data: Vec<_> =
                        parts[1..].iter().map(|part| part.transfer_part().unwrap()).collect();
                    data.sort_by_key(|part| part.packet);
                    let data: Vec<u8> = data.iter().flat_map(|part| part.data.0).copied().collect();
                    assert!(data == **thing.bytes);
                    until_learned(&setup, &setup.asset_capability().await, thing).await;
                } else {
                    assert_injected_transfer(thing, transfer, &params, &parts);
                    until_acknowledged(&viewer, &request).await;
                    viewer.passes_a_marker(&sim).await;
                    assert_eq!(sim.asked_for_transfers(), before, "the simulator was asked again");
                }
            }
        }
        if round == 2 {
            setup = setup.restarted().await;
        }
    }
    assert_eq!(sim.asked_for_transfers(), 2);
}

#[tokio::test]
async fn a_transfer_asked_for_with_longer_parameters_is_answered_with_the_20_bytes() {
    let setup = Setup::start().await;
    let thing = Thing::from(sound());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let short = params(thing.id, SOUND);
    let (transfer, _) = viewer.ask_transfer(2, &short).await;
    viewer.transfer(transfer, thing.bytes.len()).await;
    until_learned(&setup, &setup.asset_capability().await, &thing).await;
    // As hippolyzer asks: a file name follows.
    let (transfer, _) = viewer.ask_transfer(2, &[&short[..], b"a file name"].concat()).await;
    let parts = viewer.transfer(transfer, thing.bytes.len()).await;
    assert_injected_transfer(&thing, transfer, &short, &parts);
    assert_eq!(sim.asked_for_transfers(), 1);
}

#[tokio::test]
async fn a_texture_by_transfer_is_the_same_texture() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn_image(&setup, &viewer, &sim, &thing).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(thing.id, 0)).await;
    let parts = viewer.transfer(transfer, thing.bytes.len()).await;
    // Whether the proxy serves textures on this channel is its own affair; the bytes are not.
    let data: Vec<u8> =
        parts.iter().filter_map(Heard::transfer_part).flat_map(|part| part.data.0).copied().collect();
    assert!(data == **thing.bytes);
}

#[tokio::test]
async fn what_came_over_one_way_is_served_over_the_other() {
    let setup = Setup::start().await;
    let (by_http, by_udp) = (Thing::from(another_texture()), Thing::from(texture()));
    let sim = Sim::holding(&[&by_udp]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    // From the simulator to HTTP; the grid's own HTTP has nothing.
    learn_image(&setup, &viewer, &sim, &by_udp).await;
    assert!(setup.grid.asked("/cap-asset/").iter().all(|asked| asked.target.contains(&by_udp.query)));
    // From HTTP to LLUDP; the simulator has nothing.
    let bytes = by_http.bytes.clone();
    setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    let capability = setup.asset_capability().await;
    assert_eq!(tier(&setup, &capability, &by_http.query).await, ("miss".into(), by_http.bytes.to_vec()));
    until_learned(&setup, &capability, &by_http).await;
    served_image(&viewer, &sim, &by_http).await;
    assert_eq!(sim.asked_for_image(by_http.id), 0);

    let clip = Thing::from(sound());
    let bytes = clip.bytes.clone();
    setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    until_learned_from_http(&setup, &capability, &clip).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    let parts = viewer.transfer(transfer, clip.bytes.len()).await;
    assert_injected_transfer(&clip, transfer, &params(clip.id, SOUND), &parts);
    assert_eq!(sim.asked_for_transfers(), 0);
}

async fn until_learned_from_http(setup: &Setup, capability: &str, thing: &Thing) {
    tier(setup, capability, &thing.query).await;
    setup.grid.on("/cap-asset/", |_| Reply::new("404 Not Found", &[], b"gone"));
    until_learned(setup, capability, thing).await;
}

#[tokio::test]
async fn one_request_for_a_known_and_an_unknown_texture_is_divided() {
    let setup = Setup::start().await;
    let (known, unknown) = (Thing::from(texture()), Thing::from(another_texture()));
    let sim = Sim::holding(&[&known, &unknown]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn_image(&setup, &viewer, &sim, &known).await;
    let (since, sim_since) = (viewer.heard().len(), sim.heard().len());
    let request = viewer.ask(&[Want::whole(known.id), Want { packet: 0, ..Want::whole(unknown.id) }]).await;
    let parts = viewer.image(known.id, 0, known.packets(), since).await;
    assert_injected_image(&known, 0, &parts);
    assert_image(&unknown, &viewer.image(unknown.id, 0, unknown.packets(), since).await);
    until_acknowledged(&viewer, &request).await;
    let image_requests = || -> Vec<Heard> {
        sim.heard()[sim_since..]
            .iter()
            .filter(|heard| {
                heard.number == MessageNumber::REQUEST_IMAGE
                    && heard.body[33..49] != *super::world::MISSING_IMAGE.as_bytes()
            })
            .cloned()
            .collect()
    };
    let divided = image_requests();
    assert_eq!(divided.len(), 1);
    // One block, the viewer's own to the byte.
    let expected = [&request[..7 + 32], &[1], &request[7 + 33 + 26..]].concat();
    assert!(same_but_number(&divided[0].datagram, &expected));

    // By now both are known; the copy must be edited as the first was all the same.
    let mut copy = request.clone();
    copy[0] |= RESENT;
    viewer.send_raw(&copy).await;
    sim.until(|all| all[sim_since..].iter().filter(|heard| heard.has(RESENT)).count() == 1).await;
    let again = image_requests().pop().unwrap();
    assert_eq!(again.sequence, divided[0].sequence);
    assert_eq!(again.body, divided[0].body);
    viewer.passes_a_marker(&sim).await;
    assert_eq!(sim.asked_for_image(known.id), 1);
}

#[tokio::test]
async fn a_request_resent_though_served_is_acknowledged_again_and_not_served_again() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn_image(&setup, &viewer, &sim, &thing).await;
    let since = viewer.heard().len();
    let mut request = viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;
    until_acknowledged(&viewer, &request).await;
    let sequence = u32::from_be_bytes(request[1..5].try_into().unwrap());
    let acks = |all: &[Heard]| all.iter().filter(|heard| heard.acks.contains(&sequence)).count();
    let before = acks(&viewer.heard());
    request[0] |= RESENT;
    viewer.send_raw(&request).await;
    viewer.until(|all| acks(all) > before).await;
    let heard = viewer.until_quiet().await;
    let packets = heard[since..].iter().filter(|heard| heard.image_part().is_some() && !heard.has(RESENT));
    assert_eq!(packets.count(), thing.packets(), "served twice");
    viewer.passes_a_marker(&sim).await;
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn two_avatars_may_download_the_same_texture_at_once() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let (first, second) = (Player::enter(&setup, 1, &sim).await, Player::enter(&setup, 2, &sim).await);
    // Once from the simulator, once out of the store.
    for round in 0..2 {
        let since = [first.heard().len(), second.heard().len()];
        let wants = [Want::whole(thing.id)];
        tokio::join!(first.ask(&wants), second.ask(&wants));
        for (viewer, since) in [&first, &second].into_iter().zip(since) {
            let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
            assert_image(&thing, &parts);
        }
        if round == 0 {
            until_learned(&setup, &setup.asset_capability().await, &thing).await;
        }
    }
    assert!((1..=2).contains(&sim.asked_for_image(thing.id)));
    // Neither got what was the other's.
    for viewer in [&first, &second] {
        let from = viewer.login.simulator.into();
        assert!(viewer.heard().iter().all(|heard| heard.from == from));
    }
}

#[tokio::test]
async fn many_textures_in_one_request_are_all_served() {
    let setup = Setup::start().await;
    let things: Vec<_> = (0..20).map(|n| Thing::texture(100 + n, 4000)).collect();
    let sim = Sim::holding(&things.iter().collect::<Vec<_>>()).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let wants: Vec<_> = things.iter().map(|thing| Want::whole(thing.id)).collect();
    for round in 0..2 {
        let since = viewer.heard().len();
        viewer.ask(&wants).await;
        for thing in &things {
            let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
            assert_image(thing, &parts);
            if round == 1 {
                assert_injected_image(thing, 0, &parts);
            }
        }
        if round == 0 {
            let capability = setup.asset_capability().await;
            for thing in &things {
                until_learned(&setup, &capability, thing).await;
            }
        }
    }
    assert!(things.iter().all(|thing| sim.asked_for_image(thing.id) == 1));
}
