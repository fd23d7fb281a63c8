//! Commands that the user types into the viewer's chat, when that was asked for: `/7777 rez status`.
//!
//! Such a line goes no further; what answers it is put into the circuit, for this viewer alone. Of all
//! other chat nothing is looked at but its channel and its first word.

use super::relay::{Direction, Kept};
use super::traffic::{Surroundings, Traffic};
use super::{DropReason, Output, Route};
use crate::grid::{AgentId, SessionId};
use crate::lludp::chat::{ChatFromViewer, line_to_owner};
use crate::lludp::{MessageBody, MessageNumber, Packet};

/// The channel that commands are said on.
pub const CHANNEL: i32 = 7777;
/// Their first word.
const NAME: &str = "rez";
/// Whispered, said, or shouted; typing is told in the same message.
const SAID: std::ops::RangeInclusive<u8> = 0..=2;
/// Whose lines of ours are: no download's.
const OWNER: u64 = u64::MAX;

/// Lines that wait for the viewer.
const MAX_LINES: usize = 8;

/// What the user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChatCommand {
    /// How things are.
    Status,
    /// What there is to ask for.
    Help,
    /// Share nothing until told otherwise.
    Pause,
    /// Share again.
    Resume,
    /// Something else.
    Unknown,
}

/// The command in the body of a `ChatFromViewer`. `None` when it is none of ours.
fn command(body: &[u8], identity: &(AgentId, SessionId)) -> Option<ChatCommand> {
    let chat = ChatFromViewer::decode(body).ok()?;
    if chat.channel != CHANNEL || !SAID.contains(&chat.kind) {
        return None;
    }
    let text = chat.message.reveal().0;
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let mut words = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
    if !words.next()?.eq_ignore_ascii_case(NAME.as_bytes()) || (chat.agent, chat.session) != *identity {
        return None;
    }
    let wanted = words.next().map(<[u8]>::to_ascii_lowercase);
    if words.next().is_some() {
        return Some(ChatCommand::Unknown);
    }
    Some(match wanted.as_deref() {
        Some(b"status") => ChatCommand::Status,
        None | Some(b"help") => ChatCommand::Help,
        Some(b"pause") => ChatCommand::Pause,
        Some(b"resume") => ChatCommand::Resume,
        Some(_) => ChatCommand::Unknown,
    })
}

impl Traffic {
    /// Chat of the viewer. `None`: it goes on like any other packet.
    pub(super) fn chat(&mut self, around: &mut Surroundings<'_>, packet: &Packet<'_>) -> Option<Route> {
        let direction = Direction::ToSimulator;
        debug_assert_eq!(packet.number, MessageNumber::CHAT_FROM_VIEWER);
        let is_copy = self.relay.kept(direction, packet) == Some(Kept::Swallowed);
        if !is_copy {
            let mut scratch = Vec::new();
            let command = command(packet.body(&mut scratch).ok()?, &around.identity)?;
            around.outputs.push_back(Output::Command { simulator: around.simulator, command });
        }
        self.relay.unload_acks(around.now, direction, packet);
        self.relay.swallow(around.now, direction, packet);
        self.pump(around);
        Some(Route::Drop(DropReason::Swallowed))
    }

    /// Shows the viewer a line, as soon as it can take one. Of too many at once the later ones are left out.
    pub(super) fn say(&mut self, around: &mut Surroundings<'_>, text: &str) {
        if around.viewer.is_some() && self.lines.len() < MAX_LINES {
            self.lines.push_back(line_to_owner(around.identity.0, text));
            self.pump(around);
        }
    }

    /// Sends the lines that may be sent now.
    pub(super) fn send_lines(&mut self, around: &mut Surroundings<'_>) {
        while self.has_room(around.now)
            && let Some(body) = self.lines.front()
        {
            let number = MessageNumber::CHAT_FROM_SIMULATOR;
            // Before the simulator has spoken there is no number for it.
            let injected = self.relay.inject(around.now, Direction::ToViewer, OWNER, number, body, false);
            let Some(datagram) = injected else { return };
            self.lines.pop_front();
            around.inject_to_viewer(datagram);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::lludp::Variable2;
    use crate::redact::Redacted;

    fn identity() -> (AgentId, SessionId) {
        (AgentId(Uuid::from_u128(1)), SessionId(Redacted::new(Uuid::from_u128(2))))
    }

    fn said(text: &[u8], kind: u8, channel: i32, agent: u128) -> Vec<u8> {
        let session = identity().1;
        let message = Redacted::new(Variable2(text));
        let agent = AgentId(Uuid::from_u128(agent));
        let mut body = Vec::new();
        ChatFromViewer { agent, session, message, kind, channel }.encode(&mut body);
        body
    }

    #[test]
    fn commands_are_told_from_all_other_chat() {
        let of = |text: &str, kind, channel, agent| {
            command(&said(text.as_bytes(), kind, channel, agent), &identity())
        };
        let ours = |text: &str| of(text, 1, CHANNEL, 1);
        assert_eq!(ours("rez status\0"), Some(ChatCommand::Status));
        assert_eq!(ours("  Rez   STATUS "), Some(ChatCommand::Status));
        assert_eq!(ours("rez\0"), Some(ChatCommand::Help));
        assert_eq!(ours("rez pause\0"), Some(ChatCommand::Pause));
        assert_eq!(ours("rez resume"), Some(ChatCommand::Resume));
        assert_eq!(ours("rez status now"), Some(ChatCommand::Unknown));
        assert_eq!(ours("rez fly"), Some(ChatCommand::Unknown));
        assert_eq!(of("rez help", 2, CHANNEL, 1), Some(ChatCommand::Help));
        for other in ["", "\0", "rezzer on", "status", "please rez status", "\0rez status"] {
            assert_eq!(ours(other), None, "{other:?}");
        }
        assert_eq!(of("rez status", 1, 0, 1), None, "another channel");
        assert_eq!(of("rez status", 4, CHANNEL, 1), None, "typing");
        assert_eq!(of("rez status", 1, CHANNEL, 9), None, "somebody else");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            text in prop::collection::vec(any::<u8>(), 0..1100),
            noise in prop::collection::vec(any::<u8>(), 0..80),
            cut in any::<prop::sample::Index>(),
        ) {
            let whole = said(&[b"rez ", &text[..]].concat(), 1, CHANNEL, 1);
            prop_assert!(command(&whole, &identity()).is_some() || text.is_empty());
            let _ = command(whole.get(..cut.index(whole.len())).unwrap(), &identity());
            let _ = command(&noise, &identity());
        }
    }
}
