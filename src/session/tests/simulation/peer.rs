//! What viewer and simulator have in common: numbers, acks and copies, each in its own way.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::lludp::circuit::PacketAck;
use crate::lludp::{
    MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, append_acks, encode_packet,
};

/// Whose habits an end has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Habits {
    /// Counts modulo 2^24, knows duplicates by RESENT alone, acknowledges after 100 ms.
    Firestorm,
    /// Counts modulo 2^24, knows its last 1000 packets of any kind, and sends a copy with the acks of
    /// the first.
    Libomv,
    /// Counts 32 bits, knows its last 1024 reliable packets, acknowledges every 500 ms on its own.
    OpenSim,
    /// Shares the viewer's lineage.
    SecondLife,
}

impl Habits {
    const fn goes_round(self) -> bool {
        !matches!(self, Self::OpenSim)
    }

    /// How many packets it remembers, when it does not go by RESENT.
    const fn ring(self) -> Option<usize> {
        match self {
            Self::Firestorm | Self::SecondLife => None,
            Self::Libomv => Some(1000),
            Self::OpenSim => Some(1024),
        }
    }
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
    /// What is older was acknowledged long ago, as its sender says.
    forgotten: Option<SequenceNumber>,
    /// Link-made copies are not the protocol's affair.
    serials: HashSet<u64>,
    pub(super) false_acks: Vec<u64>,
    /// What each number stood for: it never stands for anything else.
    firsts: HashSet<u32>,
    contents: HashMap<u32, (MessageNumber, u64)>,
    pub(super) mistaken: Vec<String>,
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
            forgotten: None,
            serials: HashSet::new(),
            false_acks: Vec::new(),
            firsts: HashSet::new(),
            contents: HashMap::new(),
            mistaken: Vec::new(),
        }
    }

    /// The other end counts anew.
    pub(super) fn other_end_is_new(&mut self) {
        self.seen.clear();
        self.ring.clear();
        self.contents.clear();
        self.firsts.clear();
        self.told = None;
        self.forgotten = None;
        self.highest = SequenceNumber(0);
    }

    pub(super) fn forget_acks(&mut self) {
        self.acks.clear();
        self.acks_since = None;
    }

    /// An ack outside the counter, as OpenSimulator sends before a circuit exists.
    pub(super) fn immediate_ack(acked: SequenceNumber) -> Vec<u8> {
        let mut body = Vec::new();
        PacketAck::write_ids(&[acked], &mut body);
        encode_packet(PacketFlags(0), SequenceNumber(0), MessageNumber::PACKET_ACK, &body, &[], false)
    }

    fn next(&mut self) -> SequenceNumber {
        self.counter = match self.habits.goes_round() {
            true => SequenceNumber(self.counter).next().0,
            false => self.counter.wrapping_add(1),
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
        let zerocode = reliable && number != MessageNumber::IMAGE_PACKET;
        let mut datagram = encode_packet(flags, sequence, number, body, &[], zerocode);
        let bare = datagram.clone();
        let ride = self.habits.goes_round() && self.acks.len() <= 20 && datagram.len() < 1000;
        if ride && !self.acks.is_empty() {
            append_acks(&mut datagram, &self.acks);
            self.acks.clear();
            self.acks_since = None;
        }
        if reliable {
            let copy = if self.habits == Habits::Libomv { datagram.clone() } else { bare };
            self.unacked.insert(sequence.0, Unacked { datagram: copy, sent: now, chatter });
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
            self.forgotten = Some(before);
            self.seen.retain(|id| !before.is_after(SequenceNumber(*id)));
        }
    }

    /// Acks and copies that are due.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let delay = Duration::from_millis(if self.habits.goes_round() { 100 } else { 500 });
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
        self.compare(&packet, &body);
        // A copy that the line made of what the session then held comes under another name.
        let is_first = packet.flags.contains(PacketFlags::RESENT) || self.firsts.insert(packet.sequence.0);
        if self.habits == Habits::SecondLife && !is_first {
            return None;
        }
        let is_ack = packet.number == MessageNumber::PACKET_ACK;
        let reliable = packet.flags.contains(PacketFlags::RELIABLE);
        let resent = packet.flags.contains(PacketFlags::RESENT);
        if packet.sequence.is_after(self.highest) {
            self.highest = packet.sequence;
        }
        if reliable && !self.acks.contains(&packet.sequence) {
            self.acks.push(packet.sequence);
            self.acks_since.get_or_insert(now);
        }
        let remembers = reliable || self.habits == Habits::Libomv;
        let known = match self.habits.ring() {
            None => reliable && !self.seen.insert(packet.sequence.0) && resent,
            Some(_) => remembers && self.ring.contains(&packet.sequence.0),
        };
        if known {
            return None;
        }
        if let Some(size) = self.habits.ring().filter(|_| remembers) {
            self.ring.push_back(packet.sequence.0);
            if self.ring.len() > size {
                self.ring.pop_front();
            }
        }
        if is_ack {
            let acks = PacketAck::decode(&body).expect("acks");
            if acks.ids().len() == 0 {
                self.mistaken.push(format!("nothing is acknowledged under number {}", packet.sequence.0));
            }
            for id in acks.ids() {
                self.acknowledged(id, reached);
            }
            return None;
        }
        Some(Taken { number: packet.number, sequence: packet.sequence, body, zerocoded_len: datagram.len() })
    }

    fn compare(&mut self, packet: &Packet<'_>, body: &[u8]) {
        let mut hasher = DefaultHasher::new();
        (packet.number, body).hash(&mut hasher);
        let content = (packet.number, hasher.finish());
        let before = self.contents.insert(packet.sequence.0, content);
        let is_old = self.forgotten.is_some_and(|oldest| oldest.is_after(packet.sequence));
        if is_old && before.is_some() && packet.flags.contains(PacketFlags::RESENT) {
            self.mistaken.push(format!("number {} was sent again after its time", packet.sequence.0));
        }
        if let Some(before) = before.filter(|before| packet.sequence.0 != 0 && *before != content) {
            let name = |(number, _): (MessageNumber, u64)| number.name().unwrap_or("chatter");
            let (first, second) = (name(before), name(content));
            self.mistaken.push(format!("{first} and {second} under number {}", packet.sequence.0));
        }
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
