//! What injections do to numbers and acks: neither end may notice them.

use std::collections::{HashMap, HashSet};

use rezcache::lludp::MessageNumber;
use rezcache::lludp::circuit::StartPingCheck;
use rezcache::lludp::{MessageBody, SequenceNumber};

use super::world::{
    Heard, Player, RELIABLE, RESENT, SOUND, Sim, Thing, UNKNOWN, Want, encoded, packet, params, until_learned,
};
use crate::support::{Setup, texture};

/// Most datagrams that may wait for their acks on one circuit, and of one transfer.
const OUTSTANDING: usize = 64;
const TRANSFER_AHEAD: usize = 50;

struct Known {
    setup: Setup,
    sim: Sim,
    viewer: Player,
    thing: Thing,
}

impl Known {
    /// A viewer on a circuit whose proxy knows this already.
    async fn start(thing: Thing) -> Self {
        let setup = Setup::start().await;
        let sim = Sim::holding(&[&thing]).await;
        let viewer = Player::enter(&setup, 1, &sim).await;
        if thing.query.contains("texture") {
            viewer.ask(&[Want::whole(thing.id)]).await;
        } else {
            viewer.ask_transfer(2, &params(thing.id, SOUND)).await;
        }
        until_learned(&setup, &setup.asset_capability().await, &thing).await;
        viewer.until_quiet().await;
        Self { setup, sim, viewer, thing }
    }

    /// Has the texture injected; what came of it.
    async fn inject(&self) -> Vec<Heard> {
        let since = self.viewer.heard().len();
        self.viewer.ask(&[Want::whole(self.thing.id)]).await;
        self.viewer.image(self.thing.id, 0, self.thing.packets(), since).await
    }
}

fn numbers(parts: &[Heard]) -> HashSet<u32> {
    parts.iter().map(|part| part.sequence).collect()
}

#[tokio::test]
async fn without_acks_no_more_than_the_window_is_sent_and_with_acks_all() {
    let known = Known::start(Thing::sound(1, 150_000)).await;
    let (viewer, thing) = (&known.viewer, &known.thing);
    let asked = known.sim.asked_for_transfers();
    viewer.acknowledges(false);
    let since = viewer.heard().len();
    let (transfer, _) = viewer.ask_transfer(2, &params(thing.id, SOUND)).await;
    viewer
        .until(|all| {
            all.iter().any(|heard| heard.transfer_part().is_some_and(|part| part.transfer == transfer))
        })
        .await;
    // Two rounds of resending go by.
    viewer
        .until(|all| all[since..].iter().filter(|heard| heard.has(RESENT)).count() > 2 * TRANSFER_AHEAD)
        .await;
    let heard = viewer.heard()[since..].to_vec();
    let parts: HashMap<u32, i32> =
        heard.iter().filter_map(|one| Some((one.sequence, one.transfer_part()?.packet))).collect();
    assert!((2..=TRANSFER_AHEAD).contains(&parts.len()), "{} packets ahead", parts.len());
    assert!(numbers(&heard).len() <= OUTSTANDING + 2);
    assert!(!parts.values().any(|&packet| packet as usize >= TRANSFER_AHEAD));
    // As acks come it goes on, to the end.
    viewer.acknowledges(true);
    viewer
        .acknowledge(
            &parts
                .keys()
                .copied()
                .chain(numbers(&heard))
                .collect::<HashSet<_>>()
                .into_iter()
                .collect::<Vec<_>>(),
        )
        .await;
    let parts = viewer.transfer(transfer, thing.bytes.len()).await;
    let mut fresh: Vec<_> = parts.iter().filter_map(Heard::transfer_part).collect();
    fresh.sort_by_key(|part| part.packet);
    fresh.dedup_by_key(|part| part.packet);
    let bytes: Vec<u8> = fresh.iter().flat_map(|part| part.data.0).copied().collect();
    assert!(bytes == **thing.bytes);
    assert_eq!(known.sim.asked_for_transfers(), asked);
}

#[tokio::test]
async fn a_texture_waits_for_acks_too() {
    let known = Known::start(Thing::texture(2, 200_000)).await;
    let viewer = &known.viewer;
    viewer.acknowledges(false);
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(known.thing.id)]).await;
    viewer.until(|all| all[since..].iter().filter(|heard| heard.has(RESENT)).count() > 70).await;
    let heard = viewer.heard()[since..].to_vec();
    let parts: Vec<_> = heard.iter().filter(|heard| heard.image_part().is_some()).cloned().collect();
    assert!((2..=OUTSTANDING).contains(&numbers(&parts).len()), "{} outstanding", numbers(&parts).len());
    viewer.acknowledges(true);
    viewer.acknowledge(&numbers(&parts).into_iter().collect::<Vec<_>>()).await;
    viewer.image(known.thing.id, 0, known.thing.packets(), since).await;
    assert_eq!(known.sim.asked_for_image(known.thing.id), 1);
}

#[tokio::test]
async fn what_is_not_acknowledged_is_sent_again_and_what_is_is_not() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    viewer.acknowledges(false);
    let parts = known.inject().await;
    let mut own: Vec<u32> = numbers(&parts).into_iter().collect();
    own.sort_unstable();
    let (acked, open) = own.split_at(own.len() / 2);
    let (by_message, by_trailer) = acked.split_at(acked.len() / 2);
    // A real packet between them, so that a trailer is left with something.
    let real = sim.send(viewer, RELIABLE, UNKNOWN, b"real").await;
    let original = u32::from_be_bytes(real[1..5].try_into().unwrap());
    viewer.until(|all| all.iter().any(|heard| heard.body == b"real")).await;
    let wire = viewer.heard().iter().find(|heard| heard.body == b"real").unwrap().sequence;
    assert!(!own.contains(&wire));

    let since = sim.heard().len();
    viewer.acknowledge(by_message).await;
    let mixed: Vec<u32> = by_trailer.iter().copied().chain([wire]).collect();
    viewer.send_with_acks(RELIABLE, UNKNOWN, b"mixed", &mixed).await;
    viewer.send_with_acks(0, UNKNOWN, b"only ours", by_trailer).await;
    sim.until(|all| all.iter().any(|heard| heard.body == b"only ours")).await;
    let heard = sim.heard();
    let acks: Vec<u32> = heard[since..].iter().flat_map(|heard| heard.acks.clone()).collect();
    assert_eq!(acks, [original], "only the real one, by the simulator's number");
    assert!(
        !heard[since..]
            .iter()
            .any(|heard| heard.number == MessageNumber::PACKET_ACK && heard.acks.is_empty())
    );
    let only = heard.iter().find(|heard| heard.body == b"only ours").unwrap();
    assert_eq!(only.flags, 0, "no ack flag without acks");
    let mixed = heard.iter().find(|heard| heard.body == b"mixed").unwrap();
    assert_eq!((mixed.flags, &mixed.acks[..]), (0x50, &[original][..]));

    // From here on only what is open comes again, with the flag and the same number and bytes. Two
    // rounds, because one may have been on its way.
    let place = viewer.hears_a_marker(sim).await;
    let open: HashSet<u32> = open.iter().copied().collect();
    viewer
        .until(|all| {
            let again = all[place..].iter().filter(|heard| heard.has(RESENT));
            again.filter(|heard| open.contains(&heard.sequence)).count() >= 2 * open.len()
        })
        .await;
    let first: HashMap<u32, &Heard> = parts.iter().map(|part| (part.sequence, part)).collect();
    for again in viewer.heard()[place..].iter().filter(|heard| heard.image_part().is_some()) {
        assert!(again.has(RESENT) && again.has(RELIABLE));
        assert!(open.contains(&again.sequence), "{} was acknowledged", again.sequence);
        assert_eq!(again.body, first[&again.sequence].body);
    }
    // Acknowledging a resent copy ends it; doubled acks harm nobody.
    let all: Vec<u32> = own.iter().chain(&own).copied().take(200).collect();
    viewer.acknowledge(&all).await;
    viewer.passes_a_marker(sim).await;
    let place = viewer.hears_a_marker(sim).await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert!(!viewer.heard()[place..].iter().any(|heard| heard.image_part().is_some()));
    let acks: Vec<u32> = sim.heard()[since..].iter().flat_map(|heard| heard.acks.clone()).collect();
    assert_eq!(acks, [original]);
}

#[tokio::test]
async fn what_nobody_ever_acknowledges_is_given_up() {
    let known = Known::start(Thing::texture(3, 1000)).await;
    let viewer = &known.viewer;
    viewer.acknowledges(false);
    let parts = known.inject().await;
    let copies = |all: &[Heard]| {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for heard in all.iter().filter(|heard| heard.has(RESENT)) {
            *counts.entry(heard.sequence).or_default() += 1;
        }
        counts
    };
    viewer
        .until(|all| numbers(&parts).iter().all(|n| copies(all).get(n).is_some_and(|&count| count >= 3)))
        .await;
    assert!(copies(&viewer.heard()).values().all(|&count| count <= 10));
    // The circuit is none the worse for it.
    viewer.acknowledges(true);
    viewer.passes_a_marker(&known.sim).await;
    known.inject().await;
}

#[tokio::test]
async fn numbers_of_the_simulator_grow_around_injections_and_are_translated_back() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    let mut sent: Vec<Vec<u8>> = Vec::new();
    let mut wires: Vec<u32> = Vec::new();
    for round in 0_u8..6 {
        for n in 0..3 {
            let body = [b"numbered".as_slice(), &[round, n]].concat();
            viewer.acknowledges(false);
            sent.push(sim.send(viewer, RELIABLE, UNKNOWN, &body).await);
            viewer.until(|all| all.iter().any(|heard| heard.body == body)).await;
            wires.push(viewer.heard().iter().find(|heard| heard.body == body).unwrap().sequence);
            viewer.acknowledges(true);
        }
        if round % 2 == 0 {
            known.inject().await;
        }
    }
    // Grown past every injection, none of which shares a number with another datagram.
    assert!(wires.is_sorted_by(|a, b| a < b));
    let original = |datagram: &[u8]| u32::from_be_bytes(datagram[1..5].try_into().unwrap());
    assert!(wires[0] > original(&sent[0]) || wires[17] > original(&sent[17]));
    let mut taken: HashMap<u32, Vec<u8>> = HashMap::new();
    for heard in viewer.heard().iter().filter(|heard| !heard.has(RESENT)) {
        let old = taken.insert(heard.sequence, heard.body.clone());
        assert!(old.is_none(), "{} was given twice", heard.sequence);
    }
    // Resent, in whatever order, they keep their numbers and bytes.
    for (datagram, wire) in sent.iter().zip(&wires).rev() {
        let before = viewer.heard().len();
        let mut copy = datagram.clone();
        copy[0] |= RESENT;
        sim.send_raw(viewer, &copy).await;
        viewer
            .until(|all| all[before..].iter().any(|heard| heard.has(RESENT) && heard.sequence == *wire))
            .await;
        let all = viewer.heard();
        let again = all[before..].iter().find(|heard| heard.has(RESENT) && heard.sequence == *wire).unwrap();
        assert_eq!(again.datagram[5..], datagram[5..]);
    }
    // Acks go back as the simulator counts, in whatever order and carrier.
    let since = sim.heard().len();
    viewer.acknowledge(&wires[..9]).await;
    viewer
        .send_with_acks(0, UNKNOWN, b"the rest", &wires[9..].iter().rev().copied().collect::<Vec<_>>())
        .await;
    sim.until(|all| all.iter().any(|heard| heard.body == b"the rest")).await;
    let acks: Vec<u32> = sim.heard()[since..].iter().flat_map(|heard| heard.acks.clone()).collect();
    let expected: HashSet<u32> = sent.iter().map(|datagram| original(datagram)).collect();
    assert!(expected.is_subset(&acks.iter().copied().collect()));
    let sequences =
        |all: &[Heard]| -> HashSet<u32> { all.iter().flat_map(|heard| heard.acks.clone()).collect() };
    // Never a number that the simulator has not used yet.
    let newest = original(&sim.send(viewer, 0, UNKNOWN, b"newest").await);
    assert!(sequences(&sim.heard()).into_iter().all(|id| id < newest));
}

#[tokio::test]
async fn a_late_packet_keeps_its_place_below_the_injection() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    // The simulator numbers one packet, sends the next, and sends the first after an injection.
    let next = sim.send(viewer, RELIABLE, UNKNOWN, b"before").await;
    let number = u32::from_be_bytes(next[1..5].try_into().unwrap());
    let late = packet(RELIABLE, number + 1, UNKNOWN, b"late");
    let jumped = packet(RELIABLE, number + 2, UNKNOWN, b"jumped");
    sim.send_raw(viewer, &jumped).await;
    viewer.until(|all| all.iter().any(|heard| heard.body == b"jumped")).await;
    known.inject().await;
    sim.send_raw(viewer, &late).await;
    viewer.until(|all| all.iter().any(|heard| heard.body == b"late")).await;
    let at = |body: &[u8]| viewer.heard().iter().find(|heard| heard.body == body).unwrap().sequence;
    assert_eq!(at(b"late"), at(b"before") + 1);
    assert_eq!(at(b"jumped"), at(b"before") + 2);
}

#[tokio::test]
async fn a_ping_names_the_oldest_open_packet_in_the_viewers_numbers() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    known.inject().await;
    viewer.until_quiet().await;
    viewer.acknowledges(false);
    let ping =
        |id: u8, oldest: u32| encoded(&StartPingCheck { ping: id, oldest_unacked: SequenceNumber(oldest) });
    let heard_ping = async |id: u8| {
        let find = |all: &[Heard]| {
            all.iter()
                .filter(|heard| heard.number == MessageNumber::START_PING_CHECK)
                .map(|heard| StartPingCheck::decode(&heard.body).unwrap())
                .find(|ping| ping.ping == id)
                .map(|ping| ping.oldest_unacked.0)
        };
        viewer.until(|all| find(all).is_some()).await;
        find(&viewer.heard()).unwrap()
    };
    // Only a packet of the simulator's own is open.
    let open = sim.send(viewer, RELIABLE, UNKNOWN, b"open").await;
    let open = u32::from_be_bytes(open[1..5].try_into().unwrap());
    viewer.until(|all| all.iter().any(|heard| heard.body == b"open")).await;
    let wire = viewer.heard().iter().find(|heard| heard.body == b"open").unwrap().sequence;
    sim.send(viewer, 0, MessageNumber::START_PING_CHECK, &ping(1, open)).await;
    assert_eq!(heard_ping(1).await, wire);
    // An injection is open, older than what the simulator waits for.
    let injected = known.inject().await;
    let later = sim.send(viewer, RELIABLE, UNKNOWN, b"later").await;
    let later = u32::from_be_bytes(later[1..5].try_into().unwrap());
    sim.send(viewer, 0, MessageNumber::START_PING_CHECK, &ping(2, later)).await;
    assert_eq!(heard_ping(2).await, *numbers(&injected).iter().min().unwrap());
    // A viewer's answer goes back as it is.
    let answer = viewer.send(0, MessageNumber::COMPLETE_PING_CHECK, &[2]).await;
    sim.until(|all| all.iter().any(|heard| heard.datagram[5..] == answer[5..])).await;
}

#[tokio::test]
async fn acks_of_the_simulator_reach_the_viewer_in_its_own_numbers() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    let mut reliable = Vec::new();
    for n in 0..10_u8 {
        reliable.push(viewer.send(RELIABLE, UNKNOWN, &[n]).await);
        if n % 3 == 0 {
            known.inject().await;
        }
    }
    let expected: Vec<u32> =
        reliable.iter().map(|datagram| u32::from_be_bytes(datagram[1..5].try_into().unwrap())).collect();
    viewer
        .until(|all| {
            let acks: HashSet<u32> = all.iter().flat_map(|heard| heard.acks.clone()).collect();
            expected.iter().all(|id| acks.contains(id))
        })
        .await;
    // Each number on the simulator's side was used once.
    let mut seen = HashSet::new();
    for heard in sim.heard().iter().filter(|heard| heard.number != MessageNumber::PACKET_ACK) {
        assert!(seen.insert(heard.sequence), "{} was given twice", heard.sequence);
    }
    // Nor does the viewer hear of acks to what it never sent.
    let highest = u32::from_be_bytes(viewer.send(0, UNKNOWN, b"last").await[1..5].try_into().unwrap());
    assert!(viewer.heard().iter().flat_map(|heard| &heard.acks).all(|&id| id < highest));
}

#[tokio::test]
async fn acks_on_a_request_that_is_served_reach_the_simulator() {
    let known = Known::start(Thing::from(texture())).await;
    let (viewer, sim) = (&known.viewer, &known.sim);
    viewer.acknowledges(false);
    let real = sim.send(viewer, RELIABLE, UNKNOWN, b"real").await;
    let original = u32::from_be_bytes(real[1..5].try_into().unwrap());
    viewer.until(|all| all.iter().any(|heard| heard.body == b"real")).await;
    let wire = viewer.heard().iter().find(|heard| heard.body == b"real").unwrap().sequence;
    let mut body = [viewer.avatar.agent.as_bytes().as_slice(), viewer.avatar.session.as_bytes()].concat();
    body.push(1);
    body.extend(known.thing.id.as_bytes());
    body.extend([0, 0, 0, 0x7a, 0x44, 0, 0, 0, 0, 0]);
    let since = viewer.heard().len();
    viewer.send_with_acks(RELIABLE, MessageNumber::REQUEST_IMAGE, &body, &[wire]).await;
    viewer.image(known.thing.id, 0, known.thing.packets(), since).await;
    sim.until(|all| all.iter().any(|heard| heard.acks.contains(&original))).await;
    assert_eq!(sim.asked_for_image(known.thing.id), 1);
    drop(known.setup);
}
