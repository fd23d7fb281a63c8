//! Chat: what a viewer says, and what it is told.
//!
//! Source for both layouts: Second Life, `message_template.msg`; for the numbers, Second Life viewer,
//! indra/llcommon/llchat.h.

use uuid::Uuid;

use super::fields::{Variable1, Variable2, single_block_message};
use crate::grid::{AgentId, SessionId};
use crate::redact::Redacted;

/// The longest text a viewer shows, its final NUL included.
pub const MAX_TEXT: usize = 1024;

single_block_message! {
    /// Something that the user says. What it is stays hidden from logs.
    ChatFromViewer<'a> = CHAT_FROM_VIEWER {
        /// Who says it.
        agent / "AgentID": AgentId,
        /// The login.
        session / "SessionID": SessionId,
    } then {
        /// The text, usually with a NUL at its end.
        message / "Message": Redacted<Variable2<'a>>,
        /// 0 whispers, 1 says, 2 shouts.
        kind / "Type": u8,
        /// 0 is heard by people, others by scripts.
        channel / "Channel": i32,
    }
}

single_block_message! {
    /// Something that a viewer is to show.
    ChatFromSimulator<'a> = CHAT_FROM_SIMULATOR {
        /// Who says it, with a NUL at the end.
        from / "FromName": Variable1<'a>,
        /// The speaker.
        source / "SourceID": Uuid,
        /// The speaker's owner.
        owner / "OwnerID": Uuid,
        /// 0 is the system, 1 an agent, 2 an object.
        source_type / "SourceType": u8,
        /// 8 is said to the owner only.
        kind / "ChatType": u8,
        /// 1 is fully.
        audible / "Audible": u8,
        /// Where the speaker is.
        position / "Position": [f32; 3],
        /// The text, with a NUL at the end.
        message / "Message": Redacted<Variable2<'a>>,
    }
}

/// The name that our lines come from.
const NAME: &[u8] = b"rezcache\0";
/// No object in the world has this id.
const SPEAKER: Uuid = Uuid::from_u128(0x7265_7a63_6163_4865_8000_7265_7a63_6163);
const OBJECT: u8 = 2;
const TO_OWNER: u8 = 8;
const FULLY: u8 = 1;

/// The body of a line that only its owner is shown, as an object of theirs would say it. A text that is too
/// long is cut.
#[must_use]
pub fn line_to_owner(owner: AgentId, text: &str) -> Vec<u8> {
    let end = (0..MAX_TEXT.min(text.len() + 1)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    // A NUL inside would end it there.
    let mut message: Vec<u8> = text.bytes().take(end).filter(|byte| *byte != 0).collect();
    message.push(0);
    let line = ChatFromSimulator {
        from: Variable1(NAME),
        source: SPEAKER,
        owner: owner.0,
        source_type: OBJECT,
        kind: TO_OWNER,
        audible: FULLY,
        position: [0.0; 3],
        message: Redacted::new(Variable2(&message)),
    };
    let mut body = Vec::new();
    super::MessageBody::encode(&line, &mut body);
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::lludp::MessageBody as _;

    const AGENT: AgentId = AgentId(Uuid::from_u128(0x1111_2222_3333_4444_5555_6666_7777_8888));

    /// The vector was made by hand from the message template.
    #[test]
    fn chat_is_read_as_the_template_says() {
        let mut body = vec![1; 16];
        body.extend([2; 16]);
        body.extend([11, 0]);
        body.extend(b"rez status\0");
        body.push(1);
        body.extend([0x61, 0x1E, 0, 0]);
        let chat = ChatFromViewer::decode(&body).unwrap();
        assert_eq!((chat.agent.0.as_bytes(), chat.kind, chat.channel), (&[1; 16], 1, 7777));
        assert_eq!(chat.message.reveal().0, b"rez status\0");
        assert!(!format!("{chat:?}").contains("114"), "no byte of what somebody says is in it");
    }

    #[test]
    fn a_line_is_written_as_the_template_says() {
        let body = line_to_owner(AGENT, "hi");
        let mut expected = vec![9];
        expected.extend(b"rezcache\0");
        expected.extend(SPEAKER.as_bytes());
        expected.extend(AGENT.0.as_bytes());
        expected.extend([2, 8, 1]);
        expected.extend([0; 12]);
        expected.extend([3, 0, b'h', b'i', 0]);
        assert_eq!(body, expected);
    }

    proptest! {
        #[test]
        fn a_line_is_never_too_long_and_never_ends_in_the_middle_of_a_character(text in "\\PC{0,700}") {
            let body = line_to_owner(AGENT, &text);
            let said = ChatFromSimulator::decode(&body).unwrap();
            let said = said.message.reveal().0;
            prop_assert!(said.len() <= MAX_TEXT && body.len() < 1150);
            let (nul, said) = said.split_last().unwrap();
            prop_assert!(*nul == 0 && text.starts_with(std::str::from_utf8(said).unwrap()));
            prop_assert!(said.len() == text.len() || said.len() > MAX_TEXT - 5);
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..90)) {
            let _ = ChatFromViewer::decode(&body);
            let _ = ChatFromSimulator::decode(&body);
        }
    }
}
