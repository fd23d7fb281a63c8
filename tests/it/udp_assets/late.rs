//! Answers that come from two sides: HTTP brings what the simulator was asked for as well.

use std::collections::HashSet;
use std::time::Duration;

use rezcache::lludp::MessageNumber;

use super::world::{
    Heard, Player, RELIABLE, RESENT, Sim, Thing, Want, ZEROCODED, image_bodies, until_learned,
};
use crate::support::client::get;
use crate::support::fake_grid::{FakeGrid, Gate};
use crate::support::{Setup, another_texture, asset_reply, texture};

struct Late {
    setup: Setup,
    sim: Sim,
    viewer: Player,
    thing: Thing,
    gate: Gate,
    fetching: tokio::task::JoinHandle<()>,
}

impl Late {
    /// Somebody fetches the texture over HTTP and has it when the gate opens; the simulator says
    /// nothing by itself. Requests are held only for a moment.
    async fn start(hold: Duration) -> Self {
        let setup = Setup::with(FakeGrid::start().await, |config| config.disk_patience = hold).await;
        let thing = Thing::from(texture());
        // The missing image is known before the simulator falls mute.
        let first = Thing::from(another_texture());
        let sim = Sim::holding(&[&first]).await;
        let viewer = Player::enter(&setup, 1, &sim).await;
        viewer.ask(&[Want::whole(first.id)]).await;
        viewer.image(first.id, 0, first.packets(), 0).await;
        until_learned(&setup, &setup.asset_capability().await, &first).await;
        sim.falls_mute();

        let (gate, bytes) = (Gate::closed(), thing.bytes.clone());
        let held = gate.clone();
        setup.grid.on("/cap-asset/", move |asked| asset_reply(asked, &bytes).held_by(&held));
        let path = format!("{}{}", setup.asset_capability().await, thing.query);
        let before = setup.grid.asked("/cap-asset/").len();
        let (at, expected) = (setup.at, thing.bytes.clone());
        let fetching = tokio::spawn(async move {
            assert!(get(at, &path, &[]).await.body == **expected);
        });
        setup.grid.until_asked("/cap-asset/", before + 1).await;
        viewer.until_quiet().await;
        Self { setup, sim, viewer, thing, gate, fetching }
    }

    /// The simulator sends these packets of the texture; their numbers.
    async fn sends(&self, packets: std::ops::Range<usize>) -> Vec<u32> {
        let mut sent = Vec::new();
        for (n, body) in image_bodies(self.thing.id, &self.thing.bytes).iter().enumerate() {
            if packets.contains(&n) {
                let (flags, number) = match n {
                    0 => (RELIABLE | ZEROCODED, MessageNumber::IMAGE_DATA),
                    _ => (RELIABLE, MessageNumber::IMAGE_PACKET),
                };
                let datagram = self.sim.send(&self.viewer, flags, number, body).await;
                sent.push(u32::from_be_bytes(datagram[1..5].try_into().unwrap()));
            }
        }
        sent
    }

    /// The viewer has had every packet once, and the simulator an ack for each of its own.
    async fn came_once(&self, since: usize, sent: &[u32]) {
        let parts = self.viewer.image(self.thing.id, 0, self.thing.packets(), since).await;
        self.sim
            .until(|all| {
                let acks: HashSet<u32> = all.iter().flat_map(|heard| heard.acks.clone()).collect();
                sent.iter().all(|number| acks.contains(number))
            })
            .await;
        let fresh: Vec<&Heard> = parts.iter().filter(|part| !part.has(RESENT)).collect();
        assert_eq!(fresh.len(), self.thing.packets(), "some came from both");
        let bodies = image_bodies(self.thing.id, &self.thing.bytes);
        for part in fresh {
            assert!(part.body == bodies[part.image_part().unwrap().1]);
        }
    }
}

#[tokio::test]
async fn a_request_waits_for_what_http_is_about_to_bring() {
    let late = Late::start(Duration::from_secs(20)).await;
    let since = late.viewer.heard().len();
    late.viewer.ask(&[Want::whole(late.thing.id)]).await;
    late.viewer.passes_a_marker(&late.sim).await;
    late.gate.open();
    late.came_once(since, &[]).await;
    assert_eq!(late.sim.asked_for_image(late.thing.id), 0);
    late.fetching.await.unwrap();
}

#[tokio::test]
async fn what_http_brings_late_is_served_and_the_simulators_answer_kept_away() {
    let late = Late::start(Duration::from_millis(50)).await;
    let since = late.viewer.heard().len();
    late.viewer.ask(&[Want::whole(late.thing.id)]).await;
    late.sim
        .until(|all| {
            all.iter().any(|heard| {
                heard.body.ends_with(&[0; 5])
                    && heard.number == MessageNumber::REQUEST_IMAGE
                    && heard.body[33..49] == *late.thing.id.as_bytes()
            })
        })
        .await;
    late.gate.open();
    late.viewer.image(late.thing.id, 0, late.thing.packets(), since).await;
    // Now the simulator answers too.
    let sent = late.sends(0..late.thing.packets()).await;
    late.came_once(since, &sent).await;
    late.viewer.hears_a_marker(&late.sim).await;
    late.came_once(since, &sent).await;
    // And sends a copy of what it believes lost.
    let mut copy = late.sim.send(&late.viewer, RELIABLE, super::world::UNKNOWN, b"after").await;
    late.viewer.until(|all| all.iter().any(|heard| heard.body == b"after")).await;
    copy[0] |= RESENT;
    late.sim.send_raw(&late.viewer, &copy).await;
    late.viewer.until(|all| all.iter().filter(|heard| heard.body == b"after").count() == 2).await;
    let twice: HashSet<u32> = late
        .viewer
        .heard()
        .iter()
        .filter(|heard| heard.body == b"after")
        .map(|heard| heard.sequence)
        .collect();
    assert_eq!(twice.len(), 1);
    assert_eq!(late.sim.asked_for_image(late.thing.id), 1);
    late.fetching.await.unwrap();
}

#[tokio::test]
async fn what_the_simulator_has_begun_to_send_it_sends_to_the_end() {
    let late = Late::start(Duration::from_millis(50)).await;
    let since = late.viewer.heard().len();
    late.viewer.ask(&[Want::whole(late.thing.id)]).await;
    late.sim
        .until(|all| {
            all.iter().any(|heard| {
                heard.number == MessageNumber::REQUEST_IMAGE
                    && heard.body[33..49] == *late.thing.id.as_bytes()
            })
        })
        .await;
    let mut sent = late.sends(0..3).await;
    late.viewer
        .until(|all| all[since..].iter().filter(|heard| heard.image_part().is_some()).count() == 3)
        .await;
    late.gate.open();
    until_learned(&late.setup, &late.setup.asset_capability().await, &late.thing).await;
    late.viewer.hears_a_marker(&late.sim).await;
    sent.extend(late.sends(3..late.thing.packets()).await);
    late.came_once(since, &sent).await;
    late.fetching.await.unwrap();
}
