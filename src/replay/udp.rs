//! One end of a circuit as a stand-in plays it: its own numbering, acks and resends.
//!
//! Captured numbers are mapped onto a counter of our own, since acks are made anew and asset
//! answers go out when they are asked for. The order of numbers stays that of the capture, so that
//! a copy of a packet whose original the line lost still gets the older number.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::script::DatagramKind;
use crate::lludp::circuit::{PacketAck, StartPingCheck};
use crate::lludp::{
    self, MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, append_acks, encode_packet,
    set_sequence,
};

/// A reliable packet is sent again after this.
const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How often a packet is sent at most.
const MAX_SENDS: u32 = 8;
/// An ack waits this long for company.
const ACK_AFTER: Duration = Duration::from_millis(20);
/// Asset datagrams that may be unacknowledged at a time.
const WINDOW: usize = 32;
/// Room for appended acks. Source: Second Life viewer, indra/llmessage/net.h (MTUBYTES).
const MTU: usize = 1200;

/// One end of one circuit.
#[derive(Debug, Default)]
pub(crate) struct End {
    counter: u32,
    /// Captured numbers still to be given one of ours, and those that have.
    captured: BTreeSet<u32>,
    numbers: HashMap<u32, u32>,
    unacked: BTreeMap<u32, Unacked>,
    acks: Vec<SequenceNumber>,
    oldest_ack: Option<Instant>,
    sends: u32,
    seen: HashSet<u32>,
    assets: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Unacked {
    datagram: Vec<u8>,
    sent: Instant,
    sends: u32,
}

/// What an arriving datagram is for the stand-in that gets it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) sequence: u32,
    pub(crate) resent: bool,
    pub(crate) content: Vec<u8>,
    /// A copy of one that has arrived before.
    pub(crate) duplicate: bool,
    pub(crate) is_ack: bool,
}

impl End {
    pub(crate) fn new(captured: &BTreeSet<u32>) -> Self {
        Self { captured: captured.clone(), ..Self::default() }
    }

    fn next_number(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    /// Our number for a captured one: all that are smaller get theirs first.
    fn number_for(&mut self, captured: u32) -> u32 {
        while let Some(first) = self.captured.first().copied().filter(|first| *first <= captured) {
            self.captured.pop_first();
            let number = self.next_number();
            self.numbers.insert(first, number);
        }
        match self.numbers.get(&captured) {
            Some(number) => *number,
            None => self.next_number(),
        }
    }

    /// The bytes to send now for a captured datagram, and the number they carry.
    pub(crate) fn replay(&mut self, kind: DatagramKind, captured: u32, bytes: &Bytes) -> (Vec<u8>, u32) {
        if kind == DatagramKind::Malformed {
            return (bytes.to_vec(), 0);
        }
        let number = self.number_for(captured);
        let mut datagram = bytes.to_vec();
        if kind == DatagramKind::Ping {
            datagram = self.ping(bytes).unwrap_or(datagram);
        }
        (self.dispatch(datagram, number), number)
    }

    /// Queues answers of the simulator; [`Self::pump`] lets them out.
    pub(crate) fn queue(&mut self, answers: &[Bytes]) {
        self.assets.extend(answers.iter().cloned());
    }

    /// Answers that may go now: not more than the other side acknowledges.
    pub(crate) fn pump(&mut self) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        while self.unacked.len() < WINDOW
            && let Some(answer) = self.assets.pop_front()
        {
            let number = self.next_number();
            out.push(self.dispatch(answer.to_vec(), number));
        }
        out
    }

    fn ping(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let packet = Packet::decode(bytes).ok()?;
        let mut scratch = Vec::new();
        let captured = StartPingCheck::decode(packet.body(&mut scratch).ok()?).ok()?;
        let oldest = self.unacked.keys().next().copied().unwrap_or(self.counter);
        let mut body = Vec::new();
        StartPingCheck { oldest_unacked: SequenceNumber(oldest), ..captured }.encode(&mut body);
        Some(encode_packet(packet.flags, SequenceNumber(0), packet.number, &body, &[], false))
    }

    fn dispatch(&mut self, mut datagram: Vec<u8>, number: u32) -> Vec<u8> {
        set_sequence(&mut datagram, SequenceNumber(number));
        let flags = datagram.first().copied().map_or(PacketFlags(0), PacketFlags);
        if flags.contains(PacketFlags::RELIABLE) && !flags.contains(PacketFlags::RESENT) {
            let unacked = Unacked { datagram: datagram.clone(), sent: Instant::now(), sends: 1 };
            self.unacked.insert(number, unacked);
        }
        self.sends += 1;
        let room = MTU.saturating_sub(datagram.len() + 1) / 4;
        // Both carriers are used, as clients do.
        if self.sends.is_multiple_of(2) && !self.acks.is_empty() && self.acks.len() <= room.min(250) {
            append_acks(&mut datagram, &self.acks);
            self.acks.clear();
            self.oldest_ack = None;
        }
        datagram
    }

    /// What is due: acks that waited long enough, packets that were not acknowledged.
    pub(crate) fn tick(&mut self) -> Vec<Vec<u8>> {
        let mut out = self.flush_acks(ACK_AFTER);
        let now = Instant::now();
        for unacked in self.unacked.values_mut().filter(|unacked| now - unacked.sent >= RESEND_AFTER) {
            unacked.sent = now;
            unacked.sends += 1;
            let mut copy = unacked.datagram.clone();
            if let Some(flags) = copy.first_mut() {
                *flags = PacketFlags(*flags).with(PacketFlags::RESENT).0;
            }
            out.push(copy);
        }
        self.unacked.retain(|_, unacked| unacked.sends <= MAX_SENDS);
        out
    }

    fn flush_acks(&mut self, after: Duration) -> Vec<Vec<u8>> {
        let due = self.acks.len() >= 10 || self.oldest_ack.is_some_and(|oldest| oldest.elapsed() >= after);
        let mut out = Vec::new();
        while due && !self.acks.is_empty() {
            let mut body = Vec::new();
            let left = PacketAck::write_ids(&self.acks, &mut body).to_vec();
            self.acks = left;
            let number = SequenceNumber(self.next_number());
            out.push(encode_packet(PacketFlags(0), number, MessageNumber::PACKET_ACK, &body, &[], false));
            self.oldest_ack = None;
        }
        out
    }

    /// Takes in a datagram from the other side: its acks, and what must be acknowledged.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Arrival {
        let content = content(bytes);
        let Ok(packet) = Packet::decode(bytes) else {
            return Arrival { sequence: 0, resent: false, content, duplicate: false, is_ack: false };
        };
        packet.acks().for_each(|ack| drop(self.unacked.remove(&ack.0)));
        let is_ack = packet.number == MessageNumber::PACKET_ACK;
        if is_ack {
            let mut scratch = Vec::new();
            let acked = packet.body(&mut scratch).and_then(PacketAck::decode);
            acked.iter().flat_map(PacketAck::ids).for_each(|ack| drop(self.unacked.remove(&ack.0)));
        }
        let sequence = packet.sequence.0;
        let resent = packet.flags.contains(PacketFlags::RESENT);
        let mut duplicate = false;
        if packet.flags.contains(PacketFlags::RELIABLE) {
            self.acks.push(packet.sequence);
            self.oldest_ack.get_or_insert_with(Instant::now);
            duplicate = !self.seen.insert(sequence) && resent;
        }
        Arrival { sequence, resent, content, duplicate, is_ack }
    }

    /// The acks that should not wait for the next tick.
    pub(crate) fn acks_due(&mut self) -> Vec<Vec<u8>> {
        self.flush_acks(ACK_AFTER)
    }
}

/// What must arrive unchanged: the flags without RESENT and ACK, and everything behind the number;
/// of StartPingCheck not the OldestUnacked, of datagrams that do not decode everything.
pub(crate) fn content(datagram: &[u8]) -> Vec<u8> {
    let Ok(packet) = Packet::decode(datagram) else { return datagram.to_vec() };
    let mut copy = datagram.to_vec();
    if lludp::strip_acks(&mut copy).is_err() {
        return copy;
    }
    if packet.number == MessageNumber::START_PING_CHECK {
        copy.truncate(copy.len().saturating_sub(4));
    }
    let flags = packet.flags.without(PacketFlags::RESENT).without(PacketFlags::ACK);
    let mut content = vec![flags.0];
    content.extend_from_slice(copy.get(5..).unwrap_or_default());
    content
}

/// The name of the message in what [`content`] gives, for error texts.
pub(crate) fn message_name(content: &[u8]) -> String {
    let Some((flags, rest)) = content.split_first() else { return "empty".into() };
    let datagram = [&[*flags, 0, 0, 0, 0][..], rest].concat();
    match Packet::decode(&datagram) {
        Ok(packet) => {
            packet.number.name().map_or_else(|| format!("message {:#X}", packet.number.0), str::to_owned)
        }
        Err(_) => "not LLUDP".into(),
    }
}

#[cfg(test)]
mod tests;
