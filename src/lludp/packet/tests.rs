#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;
use crate::lludp::circuit::{AgentPause, PacketAck, StartPingCheck};
use crate::lludp::fields::MessageBody;

const AGENT: &str = "11111111222233334444555555555555";
const SESSION: &str = "aaaaaaaabbbbccccddddeeeeeeeeeeee";
const IMAGE: &str = "0089556747472435 0a5b92ed257b55d1";

/// Bytes from hexadecimal with spaces; A, S and I stand for the ids of protocol.md 16.
fn hex(text: &str) -> Vec<u8> {
    let text = text.replace('A', AGENT).replace('S', SESSION).replace('I', IMAGE).replace(' ', "");
    let digits: Vec<u8> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16).unwrap()).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn body_of(datagram: &[u8]) -> Vec<u8> {
    let mut scratch = Vec::new();
    Packet::decode(datagram).unwrap().body(&mut scratch).unwrap().to_vec()
}

#[test]
fn acks_in_a_body_are_little_endian() {
    let datagram = hex("00 00000003 00 fffffffb 02 07000000 02000001");
    let packet = Packet::decode(&datagram).unwrap();
    assert_eq!((packet.sequence, packet.number), (SequenceNumber(3), MessageNumber::PACKET_ACK));
    let body = body_of(&datagram);
    let ids: Vec<_> = PacketAck::decode(&body).unwrap().ids().collect();
    assert_eq!(ids, [SequenceNumber(7), SequenceNumber(0x0100_0002)]);
    let mut rebuilt = Vec::new();
    PacketAck::write_ids(&ids, &mut rebuilt);
    let none = PacketFlags::default();
    assert_eq!(encode_packet(none, packet.sequence, packet.number, &rebuilt, &[], false), datagram);
}

#[test]
fn a_low_number_is_read_through_zero_coding() {
    let datagram = hex("c0 00000009 00 ffff 0001 fd A S 01 0010");
    let packet = Packet::decode(&datagram).unwrap();
    assert_eq!(packet.number, MessageNumber::LOGOUT_REPLY);
    assert_eq!(packet.flags, PacketFlags::ZEROCODED.with(PacketFlags::RELIABLE));
    assert_eq!(body_of(&datagram), hex("A S 01 00000000000000000000000000000000"));
    let again = encode_packet(packet.flags, packet.sequence, packet.number, &body_of(&datagram), &[], true);
    assert_eq!(again, datagram);
}

#[test]
fn a_run_of_zeros_may_span_two_fields() {
    let plain = hex("A 02000000 00000000 00000000 dc050000 1400 I 01000000");
    let coded = hex("c0 00000014 00 ffff 0001 9a A 02 000b dc05 0002 14 0002 \
                     895567474724350a5b92ed257b55d1 01 0003");
    assert_eq!(body_of(&coded), plain);
    let packet = Packet::decode(&coded).unwrap();
    assert_eq!(packet.number, MessageNumber::TRANSFER_INFO);
    let flags = PacketFlags::RELIABLE;
    assert_eq!(encode_packet(flags, packet.sequence, packet.number, &plain, &[], true), coded);
}

#[test]
fn appended_acks_are_big_endian_and_come_off_and_on() {
    let datagram = hex("50 0000003c 00 08 A S 01 I 05 00007a44 00000000 00 00000010 00000011 02");
    let packet = Packet::decode(&datagram).unwrap();
    let acks: Vec<_> = packet.acks().collect();
    assert_eq!(acks, [SequenceNumber(16), SequenceNumber(17)]);
    let mut patched = datagram.clone();
    strip_acks(&mut patched).unwrap();
    assert_eq!(patched.len(), datagram.len() - 9);
    assert_eq!(Packet::decode(&patched).unwrap().acks().len(), 0);
    assert_eq!(Packet::decode(&patched).unwrap().raw_body, packet.raw_body);
    assert!(append_acks(&mut patched, &acks).is_empty());
    assert_eq!(patched, datagram);
    set_sequence(&mut patched, SequenceNumber(0x0102_0304));
    assert_eq!(patched[..6], hex("50 01020304 00"));
    assert_eq!(patched[6..], datagram[6..]);
}

#[test]
fn a_ping_is_thirteen_bytes() {
    let datagram = hex("00 00000015 00 01 07 0d000000");
    let body = body_of(&datagram);
    let ping = StartPingCheck::decode(&body).unwrap();
    assert_eq!(ping, StartPingCheck { ping: 7, oldest_unacked: SequenceNumber(13) });
}

#[test]
fn extra_bytes_stand_behind_the_number_and_inside_the_coding() {
    let plain = hex("00 00000001 03 ffff004e 010203 A S 05000000");
    assert_eq!(body_of(&plain), hex("A S 05000000"));
    let coded = hex("80 00000001 03 ffff00014e 0003 A S 050003");
    let body = body_of(&coded);
    assert_eq!(AgentPause::decode(&body).unwrap().serial, 5);
    let cut = hex("00 00000001 09 ffff004e 010203");
    let error = Packet::decode(&cut).unwrap().body(&mut Vec::new()).unwrap_err();
    assert_eq!((error.offset, error.field), (13, "extra header"));
}

#[test]
fn a_trailer_leaves_a_whole_message_or_nothing() {
    let label = |text: &str| {
        Packet::decode(&hex(text)).map(|packet| packet.acks().len()).map_err(|error| error.label())
    };
    assert_eq!(label("10 00000001 00 02 00"), Ok(0));
    assert_eq!(label("10 00000001 00 02 00000007 01"), Ok(1));
    assert_eq!(label("10 00000001 00 00000007 01"), Err("ack_trailer"));
    assert_eq!(label("10 00000001 00 02 ff"), Err("ack_trailer"));
    assert_eq!(label("00 00000001 00"), Err("truncated"));
    assert_eq!(label("00 00000001 00 ffff00"), Err("truncated"));
    assert_eq!(label("80 00000001 00 ffff00"), Err("truncated"), "one zero is three bytes in all");
    let mut claims_too_much = hex("10 00000001 00 02 ff");
    let before = claims_too_much.clone();
    assert!(strip_acks(&mut claims_too_much).is_err());
    assert_eq!(claims_too_much, before);
}

#[test]
fn acks_beyond_the_bound_are_handed_back() {
    let acks: Vec<_> = (0..300).map(SequenceNumber).collect();
    let mut datagram = hex("00 00000001 00 02 07");
    assert_eq!(append_acks(&mut datagram, &acks), &acks[MAX_APPENDED_ACKS..]);
    assert_eq!(Packet::decode(&datagram).unwrap().acks().collect::<Vec<_>>(), acks[..MAX_APPENDED_ACKS]);
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        flags in any::<u8>(),
        sequence in any::<u32>(),
        number in prop::sample::select(MessageNumber::NAMED),
        body in prop::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..1500),
        acks in prop::collection::vec(any::<u32>().prop_map(SequenceNumber), 0..40),
        zerocode in any::<bool>(),
    ) {
        let datagram =
            encode_packet(PacketFlags(flags), SequenceNumber(sequence), number, &body, &acks, zerocode);
        let Ok(packet) = Packet::decode(&datagram) else {
            // Only a message of less than one byte can be refused, and a number is one.
            return Err(TestCaseError::fail("own packet refused"));
        };
        prop_assert_eq!(packet.flags.0 & 0x6F, flags & 0x6F);
        prop_assert_eq!(packet.sequence, SequenceNumber(sequence));
        prop_assert_eq!(packet.number, number);
        prop_assert_eq!(packet.acks().collect::<Vec<_>>(), acks);
        let mut scratch = Vec::new();
        prop_assert_eq!(packet.body(&mut scratch), Ok(&body[..]));
    }

    #[test]
    fn no_datagram_panics(datagram in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(packet) = Packet::decode(&datagram) {
            let mut scratch = Vec::new();
            let _ = packet.body(&mut scratch);
            prop_assert!(scratch.len() <= zerocode::MAX_EXPANDED);
            prop_assert_eq!(
                6 + packet.raw_body.len() + packet.trailer.len()
                    + usize::from(packet.flags.contains(PacketFlags::ACK)),
                datagram.len()
            );
        }
    }
}
