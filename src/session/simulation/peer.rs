//! What viewer and simulator have in common: numbers, acks and copies, each in its own way.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use crate::lludp::circuit::PacketAck;
use crate::lludp::{
    MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, append_acks, encode_packet,
};

/// Whose habits an end has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habits {
    /// Counts modulo 2^24, knows duplicates by RESENT alone, acknowledges after 100 ms.
    Viewer,
    /// Counts 32 bits, knows its last 1024 reliable packets, acknowledges every 500 ms.
    Simulator,
}

#[derive(Debug)]
struct Unacked {
    datagram: Vec<u8>,
    sent: Duration,
    /// Must not be acknowledged before the other end has it.
    chatter: Option<u64>,
}

/// One end of one circuit.
#[derive(Debug)]
pub(super) struct Peer {
    habits: Habits,
    counter: u32,
    unacked: BTreeMap<u32, Unacked>,
    acks: Vec<SequenceNumber>,
    acks_since: Option<Duration>,
    seen: HashSet<u32>,
    ring: VecDeque<u32>,
    highest: SequenceNumber,
    told: Option<SequenceNumber>,
    /// Link-made copies are not the protocol's affair.
    serials: HashSet<u64>,
    pub(super) false_acks: Vec<u64>,
}

/// A message that an end has taken in.
pub(super) struct Taken {
    pub(super) number: MessageNumber,
    pub(super) sequence: SequenceNumber,
    pub(super) body: Vec<u8>,
    pub(super) zerocoded_len: usize,
}

impl Peer {
    pub(super) fn new(habits: Habits, first: u32) -> Self {
        Self {
            habits,
            counter: first.wrapping_sub(1),
            unacked: BTreeMap::new(),
            acks: Vec::new(),
            acks_since: None,
            seen: HashSet::new(),
            ring: VecDeque::new(),
            highest: SequenceNumber(0),
            told: None,
            serials: HashSet::new(),
            false_acks: Vec::new(),
        }
    }

    fn next(&mut self) -> SequenceNumber {
        self.counter = match self.habits {
            Habits::Viewer => SequenceNumber(self.counter).next().0,
            Habits::Simulator => self.counter.wrapping_add(1),
        };
        SequenceNumber(self.counter)
    }

    /// A message to send now.
    pub(super) fn send(
        &mut self,
        now: Duration,
        number: MessageNumber,
        body: &[u8],
        reliable: bool,
        chatter: Option<u64>,
    ) -> Vec<u8> {
        let sequence = self.next();
        let flags = if reliable { PacketFlags::RELIABLE } else { PacketFlags(0) };
        let mut datagram = encode_packet(flags, sequence, number, body, &[], false);
        if reliable {
            let unacked = Unacked { datagram: datagram.clone(), sent: now, chatter };
            self.unacked.insert(sequence.0, unacked);
        }
        let ride = self.habits == Habits::Viewer && self.acks.len() <= 20 && datagram.len() < 1000;
        if ride && !self.acks.is_empty() {
            append_acks(&mut datagram, &self.acks);
            self.acks.clear();
            self.acks_since = None;
        }
        datagram
    }

    /// The oldest unacknowledged number, or the last one.
    pub(super) fn oldest(&self) -> SequenceNumber {
        let last = SequenceNumber(self.counter);
        let older = |oldest: SequenceNumber, number: &u32| {
            if oldest.is_after(SequenceNumber(*number)) { SequenceNumber(*number) } else { oldest }
        };
        self.unacked.keys().fold(last, older)
    }

    /// Forgets duplicates below what the last ping named: a copy that this ping has overtaken on the
    /// line would be executed twice, with or without a session between.
    pub(super) fn forget_below(&mut self, oldest: SequenceNumber) {
        if let Some(before) = self.told.replace(oldest)
            && self.highest.is_after(before)
        {
            self.seen.retain(|id| !before.is_after(SequenceNumber(*id)));
        }
    }

    /// Acks and copies that are due.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let delay = Duration::from_millis(if self.habits == Habits::Viewer { 100 } else { 500 });
        if self.acks_since.is_some_and(|since| now >= since + delay) {
            while !self.acks.is_empty() {
                let mut body = Vec::new();
                self.acks = PacketAck::write_ids(&self.acks, &mut body).to_vec();
                let sequence = self.next();
                let number = MessageNumber::PACKET_ACK;
                out.push(encode_packet(PacketFlags(0), sequence, number, &body, &[], false));
            }
            self.acks_since = None;
        }
        for unacked in
            self.unacked.values_mut().filter(|unacked| now >= unacked.sent + Duration::from_secs(1))
        {
            unacked.sent = now;
            let mut copy = unacked.datagram.clone();
            copy[0] |= PacketFlags::RESENT.0;
            out.push(copy);
        }
        out
    }

    pub(super) fn is_idle(&self) -> bool {
        self.unacked.is_empty() && self.acks.is_empty()
    }

    pub(super) fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Takes a datagram in; `None` for copies, acks and what is not for the application.
    pub(super) fn receive(
        &mut self,
        now: Duration,
        serial: u64,
        datagram: &[u8],
        reached: &HashSet<u64>,
    ) -> Option<Taken> {
        if !self.serials.insert(serial) {
            return None;
        }
        let packet = Packet::decode(datagram).expect("the session sends packets");
        let mut scratch = Vec::new();
        let body = packet.body(&mut scratch).expect("with bodies").to_vec();
        for id in packet.acks() {
            self.acknowledged(id, reached);
        }
        if packet.number == MessageNumber::PACKET_ACK {
            for id in PacketAck::decode(&body).expect("acks").ids() {
                self.acknowledged(id, reached);
            }
            return None;
        }
        if packet.sequence.is_after(self.highest) {
            self.highest = packet.sequence;
        }
        if packet.flags.contains(PacketFlags::RELIABLE) {
            if !self.acks.contains(&packet.sequence) {
                self.acks.push(packet.sequence);
                self.acks_since.get_or_insert(now);
            }
            let resent = packet.flags.contains(PacketFlags::RESENT);
            let known = match self.habits {
                Habits::Viewer => !self.seen.insert(packet.sequence.0) && resent,
                Habits::Simulator => self.ring.contains(&packet.sequence.0),
            };
            if known {
                return None;
            }
            self.ring.push_back(packet.sequence.0);
            if self.ring.len() > 1024 {
                self.ring.pop_front();
            }
        }
        Some(Taken { number: packet.number, sequence: packet.sequence, body, zerocoded_len: datagram.len() })
    }

    fn acknowledged(&mut self, id: SequenceNumber, reached: &HashSet<u64>) {
        if let Some(unacked) = self.unacked.remove(&id.0)
            && let Some(chatter) = unacked.chatter
            && !reached.contains(&chatter)
        {
            self.false_acks.push(chatter);
        }
    }
}
