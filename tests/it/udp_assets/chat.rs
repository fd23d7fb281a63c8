//! Commands in chat: swallowed, and answered to the viewer alone; and nothing of that without the flag.

use rezcache::lludp::chat::{ChatFromSimulator, ChatFromViewer};
use rezcache::lludp::{MessageBody as _, MessageNumber, Variable2};
use rezcache::proxy::ProxyConfig;
use rezcache::redact::Redacted;
use rezcache::support::metrics::Counter;

use super::world::{
    Heard, Player, RELIABLE, RESENT, Sim, Thing, UNKNOWN, Want, ZEROCODED, encoded, packet, same_but_number,
};
use crate::support::fake_grid::FakeGrid;
use crate::support::{Setup, texture};

const COMMANDS: i32 = 7777;

async fn with_commands(change: impl FnOnce(&mut ProxyConfig)) -> Setup {
    Setup::with(FakeGrid::start().await, |config| {
        config.chat_commands = true;
        change(config);
    })
    .await
}

fn said(viewer: &Player, text: &str, channel: i32) -> Vec<u8> {
    encoded(&ChatFromViewer {
        agent: rezcache::grid::AgentId(viewer.avatar.agent),
        session: rezcache::grid::SessionId(Redacted::new(viewer.avatar.session)),
        message: Redacted::new(Variable2(format!("{text}\0").as_bytes())),
        kind: 1,
        channel,
    })
}

/// The lines that a viewer has been shown.
fn shown(all: &[Heard]) -> Vec<String> {
    let lines = all.iter().filter(|heard| heard.number == MessageNumber::CHAT_FROM_SIMULATOR);
    lines
        .map(|heard| {
            let line = ChatFromSimulator::decode(&heard.body).unwrap();
            assert_eq!(
                (line.from.0, line.source_type, line.kind, line.audible),
                (&b"rezcache\0"[..], 2, 8, 1)
            );
            assert!(heard.has(RELIABLE), "a line that may get lost");
            String::from_utf8(line.message.reveal().0.to_vec()).unwrap().trim_end_matches('\0').to_owned()
        })
        .collect()
}

fn chat_heard(sim: &Sim) -> usize {
    sim.heard().iter().filter(|heard| heard.number == MessageNumber::CHAT_FROM_VIEWER).count()
}

/// Says something on the command channel, and waits for that many lines in all.
async fn asks(viewer: &Player, text: &str, lines: usize) -> String {
    viewer.send(RELIABLE, MessageNumber::CHAT_FROM_VIEWER, &said(viewer, text, COMMANDS)).await;
    viewer.until(|all| shown(all).len() >= lines).await;
    shown(&viewer.heard()).pop().unwrap()
}

#[tokio::test]
async fn a_command_is_answered_here_and_the_grid_hears_nothing() {
    let setup = with_commands(|_| {}).await;
    let thing = Thing::from(texture());
    let sim = Sim::holding(&[&thing]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let since = viewer.heard().len();
    viewer.ask(&[Want::whole(thing.id)]).await;
    viewer.image(thing.id, 0, thing.packets(), since).await;

    let status = asks(&viewer, "rez status", 1).await;
    assert!(status.starts_with("In all: 0.0 % of 1 assets from here"), "{status}");
    assert!(asks(&viewer, "rez help", 2).await.contains("/7777 rez status"));
    assert!(asks(&viewer, "rez fly me", 3).await.starts_with("I do not know that."));
    assert_eq!(asks(&viewer, "rez pause", 4).await, "Nothing is shared with a cache server anyway.");

    // Zero-coded as viewers send it, and twice, since the first ack got lost.
    let before = viewer.heard().len();
    let body = said(&viewer, "rez status", COMMANDS);
    viewer.send_raw(&packet(RELIABLE | ZEROCODED, 900, MessageNumber::CHAT_FROM_VIEWER, &body)).await;
    viewer.until(|all| shown(all).len() == 5).await;
    viewer.until(|all| all[before..].iter().any(|heard| heard.acks.contains(&900))).await;
    let acked = viewer.heard().len();
    viewer
        .send_raw(&packet(RELIABLE | ZEROCODED | RESENT, 900, MessageNumber::CHAT_FROM_VIEWER, &body))
        .await;
    viewer.until(|all| all[acked..].iter().any(|heard| heard.acks.contains(&900))).await;

    viewer.passes_a_marker(&sim).await;
    viewer.hears_a_marker(&sim).await;
    assert_eq!(shown(&viewer.heard()).len(), 5, "a copy is no second command");
    assert_eq!(chat_heard(&sim), 0);
    // Our lines, many more than what the simulator sent meanwhile, were acknowledged to us: the simulator hears only of numbers that it has used itself.
    for lines in 6..46 {
        asks(&viewer, "rez help", lines).await;
    }
    viewer.passes_a_marker(&sim).await;
    let last = sim.send(&viewer, 0, UNKNOWN, &[0; 16]).await;
    let last = u32::from_be_bytes(last[1..5].try_into().unwrap());
    assert!(sim.heard().iter().all(|heard| heard.acks.iter().all(|ack| *ack < last)));
    let lines = |heard: &&Heard| heard.number == MessageNumber::CHAT_FROM_SIMULATOR;
    assert!(viewer.heard().iter().filter(lines).any(|heard| heard.sequence >= last));
}

#[tokio::test]
async fn all_other_chat_goes_on_as_it_came() {
    let setup = with_commands(|_| {}).await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let mut sent = Vec::new();
    for (text, channel) in
        [("rez status", 0), ("rezzer on", COMMANDS), ("hello", COMMANDS), ("rez status", -COMMANDS), ("", 0)]
    {
        let body = said(&viewer, text, channel);
        sent.push(viewer.send(RELIABLE, MessageNumber::CHAT_FROM_VIEWER, &body).await);
    }
    // Somebody else's, which the simulator will not take either; and one cut short.
    let mut forged = said(&viewer, "rez status", COMMANDS);
    forged[0] ^= 1;
    sent.push(viewer.send(RELIABLE, MessageNumber::CHAT_FROM_VIEWER, &forged).await);
    sent.push(viewer.send(RELIABLE, MessageNumber::CHAT_FROM_VIEWER, &forged[..40]).await);
    viewer.passes_a_marker(&sim).await;
    let heard: Vec<Heard> =
        sim.heard().into_iter().filter(|heard| heard.number == MessageNumber::CHAT_FROM_VIEWER).collect();
    assert_eq!(heard.len(), sent.len());
    for (heard, sent) in heard.iter().zip(&sent) {
        assert!(same_but_number(&heard.datagram, sent) && heard.datagram == *sent);
    }
    assert_eq!(shown(&viewer.heard()), Vec::<String>::new());
}

#[tokio::test]
async fn without_the_flag_nothing_is_looked_at() {
    let setup = Setup::start().await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let body = said(&viewer, "rez status", COMMANDS);
    let sent = viewer.send(RELIABLE, MessageNumber::CHAT_FROM_VIEWER, &body).await;
    viewer.passes_a_marker(&sim).await;
    viewer.hears_a_marker(&sim).await;
    assert!(sim.heard().iter().any(|heard| heard.datagram == sent));
    assert_eq!(shown(&viewer.heard()), Vec::<String>::new());
    assert_eq!(setup.proxy.metrics().get(Counter::DatagramsInjected), 0);
}

#[tokio::test]
async fn uploads_are_paused_and_resumed_from_chat() {
    let setup = with_commands(|config| {
        config.service = Some(crate::uploads::service("http://127.0.0.1:9"));
        config.uploads = Some(crate::uploads::at_once());
    })
    .await;
    let sim = Sim::holding(&[]).await;
    let viewer = Player::enter(&setup, 1, &sim).await;
    let metrics = setup.proxy.metrics();
    assert!(asks(&viewer, "rez pause", 1).await.contains("rez resume"));
    assert!(metrics.upload_control().0);
    assert!(asks(&viewer, "rez status", 2).await.contains("Cache server: away"));
    assert!(asks(&viewer, "REZ Resume", 3).await.contains("again"));
    assert!(!metrics.upload_control().0);
}
