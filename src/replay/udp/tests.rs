//! The numbering and acks of one end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use bytes::Bytes;

use super::{End, content};
use crate::lludp::{MessageNumber, Packet, PacketFlags, SequenceNumber, encode_packet};
use crate::replay::script::DatagramKind;

fn datagram(flags: PacketFlags, sequence: u32, body: &[u8]) -> Bytes {
    Bytes::from(encode_packet(
        flags,
        SequenceNumber(sequence),
        MessageNumber::CHAT_FROM_VIEWER,
        body,
        &[],
        false,
    ))
}

#[test]
fn a_copy_whose_original_was_lost_gets_the_older_number() {
    let mut end = End::new(&[10, 12, 14].into());
    let mut send =
        |sequence, flags| end.replay(DatagramKind::Plain, sequence, &datagram(flags, sequence, b"x")).1;
    assert_eq!(send(10, PacketFlags(0)), 1);
    assert_eq!(send(14, PacketFlags(0)), 3);
    assert_eq!(send(12, PacketFlags::RELIABLE.with(PacketFlags::RESENT)), 2);
    assert_eq!(send(10, PacketFlags::RELIABLE.with(PacketFlags::RESENT)), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_packet_is_sent_again_until_it_is_acknowledged() {
    let (mut sender, mut receiver) = (End::new(&[1].into()), End::new(&[].into()));
    let (sent, number) = sender.replay(DatagramKind::Plain, 1, &datagram(PacketFlags::RELIABLE, 1, b"x"));
    tokio::time::advance(Duration::from_millis(1001)).await;
    let copies = sender.tick();
    assert_eq!(copies.len(), 1);
    let copy = Packet::decode(&copies[0]).unwrap();
    assert!(copy.flags.contains(PacketFlags::RESENT));
    assert_eq!((copy.sequence.0, content(&copies[0])), (number, content(&sent)));
    assert!(!receiver.receive(&sent).duplicate);
    assert!(receiver.receive(&copies[0]).duplicate);
    tokio::time::advance(Duration::from_millis(30)).await;
    for acks in receiver.tick() {
        assert!(sender.receive(&acks).is_ack);
    }
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(sender.tick().is_empty());
}

#[test]
fn no_more_answers_go_out_than_are_acknowledged() {
    let mut end = End::new(&[].into());
    let answers: Vec<Bytes> = (0..100).map(|n| datagram(PacketFlags::RELIABLE, 0, &[n])).collect();
    end.queue(&answers);
    assert_eq!(end.pump().len(), 32);
    assert!(end.pump().is_empty());
    let ids: Vec<SequenceNumber> = (1..=10).map(SequenceNumber).collect();
    let mut ack = datagram(PacketFlags(0), 1, b"y").to_vec();
    crate::lludp::append_acks(&mut ack, &ids);
    end.receive(&ack);
    assert_eq!(end.pump().len(), 10);
}

#[test]
fn acks_flags_and_numbers_are_not_content() {
    let plain = datagram(PacketFlags::RELIABLE, 7, b"x").to_vec();
    let mut with_acks = datagram(PacketFlags::RELIABLE.with(PacketFlags::RESENT), 9, b"x").to_vec();
    crate::lludp::append_acks(&mut with_acks, &[SequenceNumber(3)]);
    assert_eq!(content(&plain), content(&with_acks));
    assert_ne!(content(&plain), content(&datagram(PacketFlags::RELIABLE, 7, b"z")));
}
