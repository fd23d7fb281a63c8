//! What passes on one circuit: numbers and acks translated, packets of our own put between, others
//! left out, so that neither end can tell.
//!
//! Each direction is a [`Lane`]. A lane knows what its sender calls its packets, which packets of
//! ours its receiver has not acknowledged, which of its sender's packets we kept to ourselves, and
//! which acks are to travel on it. A circuit on which nothing was injected forwards datagrams as
//! they came.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mutation::{Rule, broken};
use super::sequence::{CounterWidth, Original};
use crate::lludp::circuit::{PacketAck, StartPingCheck};
use crate::lludp::{
    MessageBody, MessageNumber, Packet, PacketFlags, SequenceNumber, append_acks, encode_packet,
    set_sequence, strip_acks,
};

mod lane;

use lane::{ACK_BATCH, ACK_DELAY, Lane, MAX_HOLES, MAX_KEPT, Outstanding, fingerprint};

/// A packet of ours that is not acknowledged is sent again after this.
/// Source: Second Life viewer, indra/llmessage/llcircuit.cpp: max(1 s, 5 x ping).
pub const RESEND_AFTER: Duration = Duration::from_secs(1);
/// How often a packet of ours is sent before the receiver is taken for deaf.
pub const MAX_SENDS: u32 = 16;
/// The way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the simulator.
    ToViewer,
    /// From the viewer.
    ToSimulator,
}

impl Direction {
    /// The other way.
    #[must_use]
    pub const fn back(self) -> Self {
        match self {
            Self::ToViewer => Self::ToSimulator,
            Self::ToSimulator => Self::ToViewer,
        }
    }
}

/// Whose an injected packet is; chosen by the caller.
pub type Owner = u64;

/// What became of an injected packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The receiver has it.
    Acknowledged(Owner),
    /// The receiver never said so.
    GivenUp(Owner),
}

/// What was decided on a packet of the sender that is not simply forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It does not go on; copies are only acknowledged again.
    Swallowed,
    /// It waits for a decision; copies are dropped.
    Held,
    /// It went on without the blocks that are in the set, which may be none; copies go on in the
    /// same way, whatever has come to be known since.
    Edited(BlockSet),
}

/// Which blocks of a message are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSet([u64; 4]);

impl BlockSet {
    /// Adds a block; a message has at most 255.
    pub fn insert(&mut self, block: usize) {
        if let Some(word) = self.0.get_mut(block / 64) {
            *word |= 1 << (block % 64);
        }
    }

    /// Whether a block is in it.
    #[must_use]
    pub fn contains(&self, block: usize) -> bool {
        self.0.get(block / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
    }
}

/// Both directions of a circuit.
#[derive(Debug)]
pub struct Relay {
    to_viewer: Lane,
    to_simulator: Lane,
    fates: Vec<Fate>,
    /// Packets of ours to the viewer that wait for a number.
    unheard: VecDeque<(Owner, Vec<u8>)>,
}

impl Relay {
    /// A relay on which nothing was injected yet. `incoming` is how the simulator counts.
    #[must_use]
    pub fn new(incoming: CounterWidth) -> Self {
        Self {
            to_viewer: Lane::new(incoming),
            to_simulator: Lane::new(CounterWidth::Bits24),
            fates: Vec::new(),
            unheard: VecDeque::new(),
        }
    }

    const fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::ToViewer => &self.to_viewer,
            Direction::ToSimulator => &self.to_simulator,
        }
    }

    const fn lane_mut(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::ToViewer => &mut self.to_viewer,
            Direction::ToSimulator => &mut self.to_simulator,
        }
    }

    /// Takes note of a packet's number, before anything else is done with it.
    pub fn observe(&mut self, direction: Direction, packet: &Packet<'_>) {
        let lane = self.lane_mut(direction);
        if !lane.map.is_outside(packet.sequence) {
            lane.map.observe(packet.sequence);
        }
    }

    /// What was decided on an earlier copy of this packet.
    #[must_use]
    pub fn kept(&self, direction: Direction, packet: &Packet<'_>) -> Option<Kept> {
        let kept = self.lane(direction).kept.get(&packet.sequence.0)?;
        (kept.message == fingerprint(packet)).then_some(kept.what)
    }

    /// Whether one more packet may be kept from its receiver.
    #[must_use]
    pub fn may_keep(&self, direction: Direction) -> bool {
        self.lane(direction).kept.len() < MAX_KEPT
    }

    /// True while every datagram can go on as it came.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.to_viewer.map.is_identity() && self.to_simulator.map.is_identity()
    }

    /// Whether the receiver of this direction can be sent packets of ours.
    #[must_use]
    pub fn may_inject(&self, direction: Direction) -> bool {
        self.lane(direction).map.highest().is_some()
    }

    /// The sender's highest number so far.
    #[must_use]
    pub fn highest(&self, direction: Direction) -> Option<SequenceNumber> {
        self.lane(direction).map.highest()
    }

    /// Whether packets of ours wait for a number since the numbering began anew.
    #[must_use]
    pub fn has_unheard(&self) -> bool {
        !self.unheard.is_empty()
    }

    /// How many packets of ours the receiver has not acknowledged.
    #[must_use]
    pub fn outstanding(&self, direction: Direction) -> usize {
        self.lane(direction).outstanding.len()
    }

    /// How many injections are remembered in both directions.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.to_viewer.map.remembered() + self.to_simulator.map.remembered()
    }

    /// What became of injected packets since the last call.
    pub fn take_fates(&mut self) -> Vec<Fate> {
        std::mem::take(&mut self.fates)
    }

    /// The acks on a packet that travels in `direction`, as its receiver knows the numbers; those for
    /// packets of ours are taken out. `None` when they stay as they are.
    fn converted(
        &mut self,
        direction: Direction,
        acks: impl ExactSizeIterator<Item = SequenceNumber>,
    ) -> Option<Vec<SequenceNumber>> {
        let named = self.lane(direction.back());
        if named.map.is_identity() || acks.len() == 0 {
            return None;
        }
        let before: Vec<_> = acks.collect();
        let after: Vec<_> = before.iter().filter_map(|ack| self.translate_ack(direction, *ack)).collect();
        (before != after).then_some(after)
    }

    fn translate_ack(&mut self, direction: Direction, ack: SequenceNumber) -> Option<SequenceNumber> {
        let lane = self.lane_mut(direction.back());
        match lane.map.to_original(ack) {
            Original::Sender(original) if broken(Rule::AcksAreTranslated) => {
                Some(ack).filter(|_| original != ack)
            }
            Original::Sender(original) => Some(original),
            Original::Ours => {
                match lane.outstanding.remove(&(ack.0 & (SequenceNumber::MODULUS - 1))) {
                    Some(packet) => self.fates.push(Fate::Acknowledged(packet.owner)),
                    None if broken(Rule::OursStayOurs) => return Some(ack),
                    None => {}
                }
                broken(Rule::OurAcksAreStripped).then_some(ack)
            }
            Original::Forgotten => None,
        }
    }

    /// Prepares a packet that goes on. `None`: as it came. `Some` of an empty vector: not at all,
    /// since nothing is left of it.
    pub fn forward(
        &mut self,
        now: Instant,
        direction: Direction,
        packet: &Packet<'_>,
        datagram: &[u8],
    ) -> Option<Vec<u8>> {
        if self.is_transparent() {
            return None;
        }
        let wire = self.wire(direction, packet);
        let acks = self.converted(direction, packet.acks());
        let body = match packet.number {
            MessageNumber::PACKET_ACK => {
                let mut scratch = Vec::new();
                let named = packet.body(&mut scratch).and_then(PacketAck::decode);
                let ids = named.ok().and_then(|named| self.converted(direction, named.ids()));
                if ids.as_ref().is_some_and(Vec::is_empty) && !broken(Rule::EmptyPacketAckIsNotSent) {
                    self.leave_hole(direction, packet);
                    // Acks that ride on a packet of acks go on their own.
                    let riding = acks.unwrap_or_else(|| packet.acks().collect());
                    riding.into_iter().for_each(|ack| self.lane_mut(direction).acknowledge(now, ack));
                    return Some(Vec::new());
                }
                ids.map(|ids| {
                    let mut body = Vec::new();
                    PacketAck::write_ids(&ids, &mut body);
                    body
                })
            }
            MessageNumber::START_PING_CHECK => self.ping(direction, packet),
            _ => None,
        };
        if wire == packet.sequence && acks.is_none() && body.is_none() {
            return None;
        }
        let acks = acks.unwrap_or_else(|| packet.acks().collect());
        if let Some(body) = body {
            return Some(encode_packet(packet.flags, wire, packet.number, &body, &acks, false));
        }
        let mut patched = datagram.to_vec();
        set_sequence(&mut patched, wire);
        if strip_acks(&mut patched).is_ok() {
            append_acks(&mut patched, &acks);
        }
        Some(patched)
    }

    fn wire(&self, direction: Direction, packet: &Packet<'_>) -> SequenceNumber {
        let map = &self.lane(direction).map;
        if map.is_outside(packet.sequence) || broken(Rule::NumbersAreMapped) {
            return packet.sequence;
        }
        if broken(Rule::ResentKeepsItsNumber) && packet.flags.contains(PacketFlags::RESENT) {
            let highest = map.highest().unwrap_or_default();
            let now = map.to_wire(highest).distance_from(highest).unsigned_abs();
            return packet.sequence.wrapping_add(now);
        }
        map.to_wire(packet.sequence)
    }

    /// The body of a StartPingCheck whose oldest number covers packets of ours too.
    fn ping(&self, direction: Direction, packet: &Packet<'_>) -> Option<Vec<u8>> {
        let mut scratch = Vec::new();
        let ping = StartPingCheck::decode(packet.body(&mut scratch).ok()?).ok()?;
        let lane = self.lane(direction);
        let mut oldest = lane.map.oldest_to_wire(ping.oldest_unacked);
        if broken(Rule::OldestUnackedIsMapped) {
            oldest = ping.oldest_unacked.wrapping_add(4096);
        }
        let ours = lane.outstanding.keys().map(|wire| SequenceNumber(*wire));
        let oldest = ours.fold(oldest, |oldest, ours| match oldest.is_after(ours) {
            true if !broken(Rule::OldestUnackedCoversOurs) => ours,
            _ => oldest,
        });
        if oldest == ping.oldest_unacked {
            return None;
        }
        let mut body = Vec::new();
        StartPingCheck { oldest_unacked: oldest, ..ping }.encode(&mut body);
        Some(body)
    }

    fn leave_hole(&mut self, direction: Direction, packet: &Packet<'_>) {
        let hole = self.wire(direction, packet);
        let lane = self.lane_mut(direction);
        // A copy's number was a hole before.
        let is_first = !packet.flags.contains(PacketFlags::RESENT)
            && !lane.holes.contains(&hole)
            && !lane.filled.contains(&hole);
        if is_first && lane.holes.len() < MAX_HOLES {
            lane.holes.push_back(hole);
        }
    }

    /// Sends the acks that ride on a packet on their own: it does not go on, or not now.
    pub fn unload_acks(&mut self, now: Instant, direction: Direction, packet: &Packet<'_>) {
        if broken(Rule::RidingAcksAreDelivered) {
            return;
        }
        let acks = self.converted(direction, packet.acks()).unwrap_or_else(|| packet.acks().collect());
        for ack in acks {
            self.lane_mut(direction).acknowledge(now, ack);
        }
    }

    /// Keeps a packet that waits for a decision; [`Self::unload_acks`] comes first.
    pub fn hold(&mut self, now: Instant, direction: Direction, packet: &Packet<'_>) {
        self.lane_mut(direction).keep(now, packet, Kept::Held);
    }

    /// Keeps a packet from its receiver for good: acknowledged to its sender now, and again with
    /// every copy. [`Self::unload_acks`] comes first.
    pub fn swallow(&mut self, now: Instant, direction: Direction, packet: &Packet<'_>) {
        let known = self.kept(direction, packet) == Some(Kept::Swallowed);
        if packet.flags.contains(PacketFlags::RELIABLE) {
            let quiet =
                if known { broken(Rule::SwallowedCopiesAreAcked) } else { broken(Rule::SwallowedIsAcked) };
            if !quiet {
                self.lane_mut(direction.back()).acknowledge(now, packet.sequence);
            }
        }
        if !known {
            self.leave_hole(direction, packet);
        }
        self.lane_mut(direction).keep(now, packet, Kept::Swallowed);
    }

    /// Remembers that a packet goes on without some of its blocks, or as it is when none.
    pub fn release(
        &mut self,
        now: Instant,
        direction: Direction,
        packet: &Packet<'_>,
        without: Option<BlockSet>,
    ) {
        let lane = self.lane_mut(direction);
        match without {
            Some(_) if broken(Rule::EditedCopiesAreEdited) => drop(lane.kept.remove(&packet.sequence.0)),
            blocks => lane.keep(now, packet, Kept::Edited(blocks.unwrap_or_default())),
        }
    }

    /// Makes a packet of our own. A reliable one is sent again until it is acknowledged. `None` while
    /// the sender of this direction has not been heard, or too much is remembered.
    pub fn inject(
        &mut self,
        now: Instant,
        direction: Direction,
        owner: Owner,
        number: MessageNumber,
        body: &[u8],
        zerocode: bool,
    ) -> Option<Vec<u8>> {
        let lane = self.lane_mut(direction);
        let wire = lane.map.inject(now)?;
        let datagram = encode_packet(PacketFlags::RELIABLE, wire, number, body, &[], zerocode);
        let low = wire.0 & (SequenceNumber::MODULUS - 1);
        let packet = Outstanding { owner, datagram: datagram.clone(), sent: now, sends: 1 };
        lane.outstanding.insert(low, packet);
        Some(datagram)
    }

    /// Sends nothing more of what `owner` has outstanding: nobody wants it.
    pub fn abandon(&mut self, direction: Direction, owner: Owner) {
        self.lane_mut(direction).outstanding.retain(|_, packet| packet.owner != owner);
        if direction == Direction::ToViewer {
            self.unheard.retain(|(unheard, _)| *unheard != owner);
        }
    }

    /// What is due now: packets of ours again, and acks of ours.
    pub fn due(&mut self, now: Instant, out: &mut Vec<(Direction, Vec<u8>)>) {
        self.revive(now, out);
        for direction in [Direction::ToViewer, Direction::ToSimulator] {
            self.resend(now, direction, out);
            self.flush_acks(now, direction, out);
        }
    }

    fn resend(&mut self, now: Instant, direction: Direction, out: &mut Vec<(Direction, Vec<u8>)>) {
        let lane = self.lane_mut(direction);
        let mut deaf = Vec::new();
        for (wire, packet) in &mut lane.outstanding {
            if now.saturating_duration_since(packet.sent) < RESEND_AFTER || broken(Rule::OursAreResent) {
                continue;
            }
            if packet.sends >= MAX_SENDS {
                deaf.push((*wire, packet.owner));
                continue;
            }
            packet.sent = now;
            packet.sends += 1;
            let mut copy = packet.datagram.clone();
            if let Some(flags) = copy.first_mut().filter(|_| !broken(Rule::OurCopiesAreMarked)) {
                *flags = PacketFlags(*flags).with(PacketFlags::RESENT).0;
            }
            out.push((direction, copy));
        }
        for (wire, owner) in deaf {
            self.lane_mut(direction).outstanding.remove(&wire);
            self.fates.push(Fate::GivenUp(owner));
        }
    }

    fn flush_acks(&mut self, now: Instant, direction: Direction, out: &mut Vec<(Direction, Vec<u8>)>) {
        let lane = self.lane_mut(direction);
        let waited = lane.acks_since.is_some_and(|since| now.saturating_duration_since(since) >= ACK_DELAY);
        if !waited && lane.acks.len() < ACK_BATCH {
            return;
        }
        while !lane.acks.is_empty() {
            let Some(number) = lane.spare_number(now) else { break };
            let mut body = Vec::new();
            let left = PacketAck::write_ids(&lane.acks, &mut body).to_vec();
            lane.acks = left;
            out.push((
                direction,
                encode_packet(PacketFlags(0), number, MessageNumber::PACKET_ACK, &body, &[], false),
            ));
        }
        lane.acks_since = (!lane.acks.is_empty()).then_some(now);
    }

    /// When [`Self::due`] has something to do.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.to_viewer.next_due().into_iter().chain(self.to_simulator.next_due()).min()
    }

    /// Lets time pass: forgets what nobody can name any more.
    pub fn tick(&mut self, now: Instant) {
        for lane in [&mut self.to_viewer, &mut self.to_simulator] {
            lane.map.tick(now);
            lane.forget_kept(now);
        }
    }

    /// The simulator has restarted its numbering while the viewer's goes on. What the viewer has not
    /// acknowledged of ours is sent again under new numbers.
    pub fn restart_incoming(&mut self) {
        let mut fresh = Lane::new(self.to_viewer.map.width());
        // The viewer's packets are still to be acknowledged to it.
        fresh.acks = std::mem::take(&mut self.to_viewer.acks);
        fresh.acks_since = self.to_viewer.acks_since;
        let old = std::mem::replace(&mut self.to_viewer, fresh);
        let mut unheard: Vec<_> = old.outstanding.into_iter().collect();
        // In the order made, also where the numbers have gone round.
        let any = SequenceNumber(unheard.first().map_or(0, |(wire, _)| *wire));
        unheard.sort_by_key(|(wire, _)| SequenceNumber(*wire).distance_from(any));
        self.unheard.extend(unheard.into_iter().map(|(_, packet)| (packet.owner, packet.datagram)));
        // Acks of ours to the simulator name numbers that it has forgotten.
        self.to_simulator.acks.clear();
        self.to_simulator.acks_since = None;
    }

    /// A new circuit between the same two ends: both have restarted.
    pub fn restart(&mut self) {
        self.restart_incoming();
        self.restart_outgoing();
    }

    /// The viewer alone counts anew.
    pub fn restart_outgoing(&mut self) {
        for packet in std::mem::replace(&mut self.to_simulator, Lane::new(CounterWidth::Bits24)).outstanding {
            self.fates.push(Fate::GivenUp(packet.1.owner));
        }
        self.to_viewer.acks.clear();
        self.to_viewer.acks_since = None;
    }

    /// Gives new numbers to what the viewer had not acknowledged when the numbering began anew.
    fn revive(&mut self, now: Instant, out: &mut Vec<(Direction, Vec<u8>)>) {
        while let Some((owner, mut datagram)) = self.unheard.pop_front() {
            let Some(wire) = self.to_viewer.map.inject(now) else {
                self.unheard.push_front((owner, datagram));
                return;
            };
            set_sequence(&mut datagram, wire);
            let low = wire.0 & (SequenceNumber::MODULUS - 1);
            let packet = Outstanding { owner, datagram: datagram.clone(), sent: now, sends: 1 };
            self.to_viewer.outstanding.insert(low, packet);
            out.push((Direction::ToViewer, datagram));
        }
    }

    /// The viewer is gone, or will not listen any more: nothing of ours is sent again.
    pub fn silence(&mut self) {
        for lane in [&mut self.to_viewer, &mut self.to_simulator] {
            lane.outstanding.clear();
            lane.acks.clear();
            lane.acks_since = None;
        }
        self.fates.clear();
        self.unheard.clear();
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
