//! Losses, circuits opened anew, numbers at their seams, and messages that are not what they should be.

use std::collections::{HashMap, HashSet};

use rezcache::lludp::assets::{ImageData, ImagePacket, TransferAbort, TransferInfo, TransferPacket};
use rezcache::lludp::{MessageNumber, Variable2};
use uuid::Uuid;

use super::world::{
    Heard, MISSING_IMAGE, Player, RELIABLE, RESENT, SOUND, Sim, Thing, UNKNOWN, Want, ZEROCODED, encoded,
    image_bodies, missing_image, packet, params, same_but_number, tier, until_learned,
};
use crate::support::{Setup, another_texture, asset_reply, sound, texture};

async fn learn(setup: &Setup, viewer: &Player, thing: &Thing) {
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;
    until_learned(setup, &setup.asset_capability().await, thing).await;
}

/// The viewer asks for a texture that the proxy knows, and gets it.
async fn is_served(viewer: &Player, sim: &Sim, thing: &Thing) {
    let (since, before) = (viewer.heard().len(), sim.asked_for_image(thing.id));
    viewer.ask(&[Want::whole(thing.id)]).await;
    assert_bytes(thing, &viewer.image(thing.id, 0, thing.packets(), since).await);
    assert_eq!(sim.asked_for_image(thing.id), before);
}

fn assert_bytes(thing: &Thing, parts: &[Heard]) {
    let parts: HashMap<usize, &[u8]> =
        parts.iter().filter_map(Heard::image_part).map(|(_, n, data)| (n, data)).collect();
    let bytes: Vec<u8> = (0..parts.len()).flat_map(|n| parts[&n]).copied().collect();
    assert!(bytes == **thing.bytes, "{} came with other bytes", thing.id);
}

/// Packets of the simulator reach the viewer, and the viewer's acks reach the simulator, each by its
/// own numbers; none reaches it that it does not know.
async fn acks_work(viewer: &Player, sim: &Sim, label: u8) {
    let (sim_since, since) = (sim.heard().len(), viewer.heard().len());
    let mut open = HashSet::new();
    for n in 0..5 {
        let sent = sim.send(viewer, RELIABLE, UNKNOWN, &[label, n]).await;
        open.insert(u32::from_be_bytes(sent[1..5].try_into().unwrap()));
    }
    // The viewer acknowledges each at once.
    sim.until(|all| {
        let acks: HashSet<u32> = all[sim_since..].iter().flat_map(|heard| heard.acks.clone()).collect();
        open.is_subset(&acks)
    })
    .await;
    for n in 0..5 {
        assert_eq!(viewer.heard()[since..].iter().filter(|heard| heard.body == [label, n]).count(), 1);
    }
    let own = viewer.send(RELIABLE, UNKNOWN, &[label, 99]).await;
    let own = u32::from_be_bytes(own[1..5].try_into().unwrap());
    viewer.until(|all| all[since..].iter().any(|heard| heard.acks.contains(&own))).await;
}

#[tokio::test]
async fn losses_are_made_good() {
    let setup = Setup::start().await;
    let (thing, clip) = (Thing::texture(60, 150_000), Thing::sound(60, 150_000));
    let sim = Sim::holding(&[&thing, &clip]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    viewer.transfer(transfer, clip.bytes.len()).await;
    until_learned(&setup, &setup.asset_capability().await, &clip).await;

    viewer.loses_every(5);
    is_served(&viewer, &sim, &thing).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    let parts = viewer.transfer(transfer, clip.bytes.len()).await;
    let parts: HashMap<i32, &[u8]> =
        parts.iter().filter_map(Heard::transfer_part).map(|part| (part.packet, part.data.0)).collect();
    let bytes: Vec<u8> = (0..parts.len()).flat_map(|n| parts[&i32::try_from(n).unwrap()]).copied().collect();
    assert!(bytes == **clip.bytes);
    assert!(viewer.heard().iter().any(|heard| heard.has(RESENT)));
    assert_eq!((sim.asked_for_image(thing.id), sim.asked_for_transfers()), (1, 1));
}

#[tokio::test]
async fn a_circuit_opened_anew_begins_anew() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    is_served(&viewer, &sim, &thing).await;
    acks_work(&viewer, &sim, 1).await;
    viewer.until_quiet().await;

    // Both count from the beginning: a relog on the same ports.
    sim.counts_on_from(&viewer, 0);
    viewer.opens_again(&sim, 1).await;
    acks_work(&viewer, &sim, 2).await;
    is_served(&viewer, &sim, &thing).await;
    acks_work(&viewer, &sim, 3).await;
    viewer.until_quiet().await;

    // The viewer alone, as hippolyzer does when a neighbour becomes its region: what the simulator
    // says must not look like something said before. Not at once: then it would be taken for a copy.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    viewer.opens_again(&sim, 1).await;
    let place = viewer.hears_a_marker(&sim).await;
    let before: HashSet<u32> =
        viewer.heard()[..place].iter().rev().take(30).map(|heard| heard.sequence).collect();
    acks_work(&viewer, &sim, 4).await;
    is_served(&viewer, &sim, &thing).await;
    acks_work(&viewer, &sim, 5).await;
    let fresh: Vec<_> = viewer.heard()[place..].iter().filter(|heard| !heard.has(RESENT)).cloned().collect();
    assert!(fresh.iter().all(|heard| !before.contains(&heard.sequence)), "a number came again");
    viewer.until_quiet().await;

    // The simulator alone, after a restart of the region that the viewer did not notice as such.
    sim.counts_on_from(&viewer, 0);
    viewer.opens_again(&sim, 5000).await;
    acks_work(&viewer, &sim, 6).await;
    is_served(&viewer, &sim, &thing).await;
    acks_work(&viewer, &sim, 7).await;
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn a_copy_of_use_circuit_code_changes_nothing() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    is_served(&viewer, &sim, &thing).await;
    viewer.until_quiet().await;
    let highest = viewer.heard().iter().map(|heard| heard.sequence).max().unwrap();
    let mut copy = crate::proxy_udp::use_circuit_code(&viewer.avatar, 1);
    copy[0] |= RESENT;
    viewer.send_raw(&copy).await;
    viewer.passes_a_marker(&sim).await;
    let place = viewer.hears_a_marker(&sim).await;
    assert!(viewer.heard()[place].sequence > highest);
    acks_work(&viewer, &sim, 1).await;
    is_served(&viewer, &sim, &thing).await;
}

#[tokio::test]
async fn numbers_pass_their_seams() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    // OpenSimulator counts on beyond 24 bits; injections make the viewer's numbers cross first.
    for (label, last) in (1..).zip([0x00FF_FFF0, 0x01FF_FFFA]) {
        let since = viewer.heard().len();
        sim.counts_on_from(&viewer, last);
        acks_work(&viewer, &sim, label).await;
        is_served(&viewer, &sim, &thing).await;
        acks_work(&viewer, &sim, label + 100).await;
        is_served(&viewer, &sim, &thing).await;
        acks_work(&viewer, &sim, label + 200).await;
        let mut seen = HashSet::new();
        for heard in viewer.heard()[since..].iter().filter(|heard| !heard.has(RESENT)) {
            assert!(seen.insert(heard.sequence & 0x00FF_FFFF), "{:#x} was given twice", heard.sequence);
        }
    }
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn a_wish_changed_while_it_is_served_is_not_another_download() {
    let setup = Setup::start().await;
    let thing = Thing::texture(61, 200_000);
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    viewer.acknowledges(false);
    let since = viewer.heard().len();
    let mut requests = Vec::new();
    for (discard, priority) in [(5, 1000.0), (3, 5000.0), (0, 90_000.0)] {
        requests.push(viewer.ask(&[Want { discard, priority, ..Want::whole(thing.id) }]).await);
    }
    viewer.until(|all| all[since..].iter().filter(|heard| heard.image_part().is_some()).count() > 10).await;
    viewer.acknowledges(true);
    let stalled: Vec<u32> = viewer.heard()[since..].iter().map(|heard| heard.sequence).collect();
    viewer.acknowledge(&stalled).await;
    let parts = viewer.image(thing.id, 0, thing.packets(), since).await;
    assert_bytes(&thing, &parts);
    let fresh = parts.iter().filter(|part| !part.has(RESENT)).count();
    assert_eq!(fresh, thing.packets(), "some packets came twice");
    for request in requests {
        let sequence = u32::from_be_bytes(request[1..5].try_into().unwrap());
        viewer.until(|all| all.iter().any(|heard| heard.acks.contains(&sequence))).await;
    }
    assert_eq!(sim.asked_for_image(thing.id), 1);
}

#[tokio::test]
async fn the_same_sound_may_be_transferred_twice_at_once() {
    let setup = Setup::start().await;
    let clip = Thing::sound(62, 80_000);
    let sim = Sim::holding(&[&clip]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let params = params(clip.id, SOUND);
    for round in 0..2 {
        let (one, _) = viewer.ask_transfer(2, &params).await;
        let (other, _) = viewer.ask_transfer(2, &params).await;
        assert_ne!(one, other);
        for transfer in [one, other] {
            let parts = viewer.transfer(transfer, clip.bytes.len()).await;
            let mut parts: Vec<_> = parts.iter().filter_map(Heard::transfer_part).collect();
            parts.sort_by_key(|part| part.packet);
            parts.dedup_by_key(|part| part.packet);
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.data.0).copied().collect();
            assert!(bytes == **clip.bytes);
        }
        if round == 0 {
            until_learned(&setup, &setup.asset_capability().await, &clip).await;
        }
    }
    assert!(sim.asked_for_transfers() <= 2);
}

#[tokio::test]
async fn an_aborted_transfer_is_not_served_on() {
    let setup = Setup::start().await;
    let clip = Thing::sound(63, 150_000);
    let sim = Sim::holding(&[&clip]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    viewer.transfer(transfer, clip.bytes.len()).await;
    until_learned(&setup, &setup.asset_capability().await, &clip).await;
    viewer.acknowledges(false);
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    let of_it = |heard: &&Heard| heard.transfer_part().is_some_and(|part| part.transfer == transfer);
    viewer.until(|all| all.iter().filter(of_it).count() > 5).await;
    viewer.until_quiet().await;
    let abort = encoded(&TransferAbort { transfer, channel: 2 });
    viewer.send(RELIABLE, MessageNumber::TRANSFER_ABORT, &abort).await;
    viewer.passes_a_marker(&sim).await;
    let place = viewer.hears_a_marker(&sim).await;
    let ids: Vec<u32> = viewer.heard().iter().rev().take(100).map(|heard| heard.sequence).collect();
    viewer.acknowledge(&ids).await;
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let new = viewer.heard()[place..].iter().filter(of_it).filter(|heard| !heard.has(RESENT)).count();
    assert_eq!(new, 0);
}

#[tokio::test]
async fn acks_on_a_request_that_is_divided_reach_the_simulator() {
    let setup = Setup::start().await;
    let (known, unknown) = (Thing::from(texture()), Thing::from(another_texture()));
    let sim = Sim::holding(&[&known, &unknown]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &known).await;
    is_served(&viewer, &sim, &known).await;
    viewer.until_quiet().await;
    viewer.acknowledges(false);
    let sent = sim.send(&viewer, RELIABLE, UNKNOWN, b"real").await;
    let original = u32::from_be_bytes(sent[1..5].try_into().unwrap());
    viewer.until(|all| all.iter().any(|heard| heard.body == b"real")).await;
    let wire = viewer.heard().iter().find(|heard| heard.body == b"real").unwrap().sequence;
    assert_ne!(wire, original);
    let ids = [viewer.avatar.agent.as_bytes().as_slice(), viewer.avatar.session.as_bytes(), &[2]].concat();
    let block = |id: Uuid| [id.as_bytes().as_slice(), &[0, 0, 0, 0x7a, 0x44, 0, 0, 0, 0, 0]].concat();
    let body = [ids, block(known.id), block(unknown.id)].concat();
    let (since, sim_since) = (viewer.heard().len(), sim.heard().len());
    viewer.acknowledges(true);
    viewer.send_with_acks(RELIABLE, MessageNumber::REQUEST_IMAGE, &body, &[wire]).await;
    assert_bytes(&known, &viewer.image(known.id, 0, known.packets(), since).await);
    assert_bytes(&unknown, &viewer.image(unknown.id, 0, unknown.packets(), since).await);
    sim.until(|all| all[sim_since..].iter().any(|heard| heard.acks.contains(&original))).await;
    assert_eq!(sim.asked_for_image(known.id), 1);
}

#[tokio::test]
async fn a_texture_that_came_in_two_parts_is_learned_whole() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    sim.sends_at_most(8);
    let viewer = Player::enter(&setup, 1, &sim).await;
    viewer.ask(&[Want { discard: 3, ..Want::whole(thing.id) }]).await;
    viewer.until(|all| all.iter().filter(|heard| heard.image_part().is_some()).count() == 9).await;
    sim.sends_at_most(0);
    // The rest, as a viewer asks that counts its packets.
    viewer.ask(&[Want { packet: 9, ..Want::whole(thing.id) }]).await;
    assert_bytes(&thing, &viewer.image(thing.id, 0, thing.packets(), 0).await);
    until_learned(&setup, &setup.asset_capability().await, &thing).await;
    is_served(&viewer, &sim, &thing).await;
}

#[tokio::test]
async fn what_came_of_a_texture_in_part_spares_http_that_part() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    sim.sends_at_most(8);
    let viewer = Player::enter(&setup, 1, &sim).await;
    viewer.ask(&[Want { discard: 3, ..Want::whole(thing.id) }]).await;
    viewer.until(|all| all.iter().filter(|heard| heard.image_part().is_some()).count() == 9).await;
    sim.send(&viewer, RELIABLE, MessageNumber::DISABLE_SIMULATOR, &[]).await;
    viewer.until(|all| all.iter().any(|heard| heard.number == MessageNumber::DISABLE_SIMULATOR)).await;
    let bytes = thing.bytes.clone();
    setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes));
    let capability = setup.asset_capability().await;
    let (_, body) = tier(&setup, &capability, &thing.query).await;
    assert!(body == **thing.bytes);
    let asked = setup.grid.asked("/cap-asset/");
    let range = asked[0].header("range").map(str::to_owned);
    assert_eq!(range, Some(format!("bytes=8600-{}", thing.bytes.len() - 1)));
}

#[tokio::test]
async fn a_viewer_may_ask_for_the_missing_image_itself() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let bytes = missing_image();
    let missing = Thing { id: MISSING_IMAGE, query: String::new(), bytes };
    // In one breath with the texture after which the proxy asks for it.
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.ask(&[Want::whole(missing.id)]).await;
    assert_bytes(&thing, &viewer.image(thing.id, 0, thing.packets(), 0).await);
    assert_bytes(&missing, &viewer.image(missing.id, 0, missing.packets(), 0).await);
    until_learned(&setup, &setup.asset_capability().await, &thing).await;
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(missing.id)]).await;
    assert_bytes(&missing, &viewer.image(missing.id, 0, missing.packets(), since).await);
    acks_work(&viewer, &sim, 1).await;
}

#[tokio::test]
async fn a_known_sound_is_not_served_as_a_texture() {
    let setup = Setup::start().await;
    let clip = Thing::from(sound());
    let sim = Sim::holding(&[&clip]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, SOUND)).await;
    viewer.transfer(transfer, clip.bytes.len()).await;
    until_learned(&setup, &setup.asset_capability().await, &clip).await;
    viewer.ask(&[Want::whole(clip.id)]).await;
    viewer.image(clip.id, 0, clip.packets(), 0).await;
    assert_eq!(sim.asked_for_image(clip.id), 1, "the simulator's to answer");
    let before = sim.asked_for_transfers();
    let (transfer, _) = viewer.ask_transfer(2, &params(clip.id, 20)).await;
    viewer.transfer(transfer, clip.bytes.len()).await;
    assert_eq!(sim.asked_for_transfers(), before + 1);
}

#[tokio::test]
async fn messages_that_are_not_what_they_should_be_pass_as_they_are() {
    let setup = Setup::start().await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    learn(&setup, &viewer, &thing).await;
    viewer.until_quiet().await;
    let ids = [viewer.avatar.agent.as_bytes().as_slice(), viewer.avatar.session.as_bytes()].concat();
    // Nothing wanted; a block behind the last.
    let requests = [[&ids[..], &[0]].concat(), [&ids[..], &[0], &[7; 26]].concat()];
    for body in requests {
        let sent = viewer.send(RELIABLE, MessageNumber::REQUEST_IMAGE, &body).await;
        sim.until(|all| all.iter().any(|heard| same_but_number(&heard.datagram, &sent))).await;
    }

    let (id, data) = (Uuid::from_u128(0xbad), [9_u8; 1200]);
    viewer.ask(&[Want::whole(id)]).await;
    let (transfer, _) = viewer.ask_transfer(2, &params(id, SOUND)).await;
    let image = |size: u32, packets: u16, length: usize| {
        let data = Variable2(&data[..length]);
        (MessageNumber::IMAGE_DATA, encoded(&ImageData { image: id, codec: 2, size, packets, data }))
    };
    let part = |packet: u16, length: usize| {
        let data = Variable2(&data[..length]);
        (MessageNumber::IMAGE_PACKET, encoded(&ImagePacket { image: id, packet, data }))
    };
    let info = |size: i32, status: i32| {
        let info = TransferInfo { transfer, channel: 2, target: 0, status, size, params: Variable2(&[]) };
        (MessageNumber::TRANSFER_INFO, encoded(&info))
    };
    let piece = |packet: i32, status: i32, length: usize| {
        let data = Variable2(&data[..length]);
        let piece = TransferPacket { transfer, channel: 2, packet, status, data };
        (MessageNumber::TRANSFER_PACKET, encoded(&piece))
    };
    let messages = vec![
        part(7, 1000),
        image(u32::MAX, u16::MAX, 600),
        image(0, 0, 0),
        image(1000, 1, 600),
        image(5000, 2, 599),
        part(u16::MAX, 1000),
        part(0, 1000),
        part(1, 1200),
        image(5000, 6, 600),
        part(1, 3),
        piece(3, 0, 1000),
        info(i32::MAX, 0),
        info(-5, 0),
        info(2000, 0),
        piece(-1, 0, 1000),
        piece(i32::MAX, 0, 1000),
        piece(0, 0, 1200),
        piece(1, 7, 1000),
        piece(2, -1, 0),
        piece(9, 1, 0),
        (MessageNumber::IMAGE_DATA, vec![1, 2, 3]),
        (MessageNumber::TRANSFER_INFO, vec![]),
        (MessageNumber::IMAGE_NOT_IN_DATABASE, vec![5; 9]),
    ];
    let since = viewer.until_quiet().await.len();
    for (number, body) in &messages {
        for flags in [RELIABLE, RELIABLE | ZEROCODED] {
            let sent = sim.send(&viewer, flags, *number, body).await;
            let place = viewer.hears_a_marker(&sim).await;
            let heard = viewer.heard();
            let same = heard[since..=place].iter().any(|heard| same_but_number(&heard.datagram, &sent));
            assert!(same, "{number:?} {:02X?}", &body[..body.len().min(40)]);
        }
    }
    // A packet that nobody asked for, of a texture that is being served.
    let unasked = packet(RELIABLE, 30_000, MessageNumber::IMAGE_PACKET, &image_bodies(id, &[1; 2000])[1]);
    sim.counts_on_from(&viewer, 30_000);
    sim.send_raw(&viewer, &unasked).await;
    acks_work(&viewer, &sim, 1).await;
    is_served(&viewer, &sim, &thing).await;
}
