//! One direction of a circuit, as a relay keeps it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use super::{Kept, Owner, RESEND_AFTER};
use crate::lludp::{Packet, SequenceNumber};
use crate::session::sequence::{CounterWidth, SequenceMap};

/// Acks of ours wait this long for company.
pub(super) const ACK_DELAY: Duration = Duration::from_millis(50);
/// And go at once when there are this many.
pub(super) const ACK_BATCH: usize = 50;
/// The most acks that wait; more are left to the sender's next copy.
const MAX_WAITING_ACKS: usize = 1024;
/// Packets kept from their receiver are remembered this long: longer than any sender resends.
const KEPT_REMEMBERED: Duration = Duration::from_secs(120);
/// And at most this many; past it every packet is forwarded.
pub(super) const MAX_KEPT: usize = 8192;
/// Unused numbers kept for acks of ours.
pub(super) const MAX_HOLES: usize = 64;
/// A number that lies farther back than this is no longer used.
const MAX_HOLE_AGE: i32 = 1024;

#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) owner: Owner,
    pub(super) datagram: Vec<u8>,
    pub(super) sent: Instant,
    pub(super) sends: u32,
}

#[derive(Debug)]
pub(super) struct KeptPacket {
    pub(super) what: Kept,
    /// Tells a copy from another packet under the same number, after a restart that went unnoticed.
    pub(super) message: u64,
    pub(super) last_seen: Instant,
}

pub(super) fn fingerprint(packet: &Packet<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(packet.raw_body);
    hasher.finish()
}

/// One direction.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) map: SequenceMap,
    /// By number on the wire.
    pub(super) outstanding: BTreeMap<u32, Outstanding>,
    /// By the sender's number.
    pub(super) kept: HashMap<u32, KeptPacket>,
    pub(super) kept_order: VecDeque<(u32, Instant)>,
    /// Numbers on the wire that their packets never used.
    pub(super) holes: VecDeque<SequenceNumber>,
    /// Those that acks of ours have taken: a copy that the line made of a packet leaves no second one.
    pub(super) filled: VecDeque<SequenceNumber>,
    /// Acks to go this way, as the receiver knows the numbers.
    pub(super) acks: Vec<SequenceNumber>,
    pub(super) acks_since: Option<Instant>,
}

impl Lane {
    pub(super) fn new(width: CounterWidth) -> Self {
        Self {
            map: SequenceMap::new(width),
            outstanding: BTreeMap::new(),
            kept: HashMap::new(),
            kept_order: VecDeque::new(),
            holes: VecDeque::new(),
            filled: VecDeque::new(),
            acks: Vec::new(),
            acks_since: None,
        }
    }

    pub(super) fn acknowledge(&mut self, now: Instant, id: SequenceNumber) {
        if self.acks.len() < MAX_WAITING_ACKS && !self.acks.contains(&id) {
            self.acks.push(id);
            self.acks_since.get_or_insert(now);
        }
    }

    /// A number for an unreliable packet of ours: one that nobody used, or a new one.
    pub(super) fn spare_number(&mut self, now: Instant) -> Option<SequenceNumber> {
        let top = self.map.highest().map(|highest| self.map.to_wire(highest))?;
        while let Some(hole) = self.holes.pop_back() {
            if top.distance_from(hole) < MAX_HOLE_AGE {
                self.filled.truncate(MAX_HOLES - 1);
                self.filled.push_front(hole);
                return Some(hole);
            }
        }
        self.map.inject(now)
    }

    pub(super) fn keep(&mut self, now: Instant, packet: &Packet<'_>, what: Kept) {
        let original = packet.sequence.0;
        let kept = KeptPacket { what, message: fingerprint(packet), last_seen: now };
        if self.kept.insert(original, kept).is_none() {
            self.kept_order.push_back((original, now));
        }
        // Whoever sends this much is no viewer and no simulator; its oldest copies are taken for new.
        while self.kept.len() > 8 * MAX_KEPT
            && let Some((oldest, _)) = self.kept_order.pop_front()
        {
            self.kept.remove(&oldest);
        }
    }

    pub(super) fn forget_kept(&mut self, now: Instant) {
        while let Some((original, since)) = self.kept_order.front().copied() {
            if now.saturating_duration_since(since) < KEPT_REMEMBERED {
                break;
            }
            self.kept_order.pop_front();
            // A copy may have come since, and the sender may still send another.
            match self.kept.get(&original) {
                Some(kept) if now.saturating_duration_since(kept.last_seen) < KEPT_REMEMBERED => {
                    self.kept_order.push_back((original, kept.last_seen));
                }
                _ => drop(self.kept.remove(&original)),
            }
        }
    }

    /// When the next of this lane's timers is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let resend = self.outstanding.values().map(|packet| packet.sent + RESEND_AFTER).min();
        let acks =
            self.acks_since.map(|since| if self.acks.len() >= ACK_BATCH { since } else { since + ACK_DELAY });
        resend.into_iter().chain(acks).min()
    }
}
