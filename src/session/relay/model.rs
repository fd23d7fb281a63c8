//! What relaying must come to, worked out from the complete history: numbers without bounds, lists
//! that are never pruned, and counting instead of searching. Slow and plain on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::CounterWidth;

/// A packet of ours that its receiver has not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) sent: Instant,
    pub(super) sends: u32,
    pub(super) payload: u32,
}

/// One direction. Numbers are counted on without end; [`Self::number`] makes them those of packets.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) width: CounterWidth,
    /// The sender's next packet.
    pub(super) next: i64,
    /// The sender's highest packet that came.
    pub(super) highest: Option<i64>,
    /// Packets that have not come, and may yet.
    pub(super) late: Vec<i64>,
    /// Packets that were forwarded.
    pub(super) forwarded: Vec<i64>,
    pub(super) swallowed: BTreeSet<i64>,
    /// For every injection: the sender's highest packet then, and its own number.
    pub(super) injections: Vec<(i64, i64)>,
    pub(super) waiting: BTreeMap<i64, Waiting>,
    /// Numbers whose packets were kept and which no packet of ours has used.
    pub(super) holes: BTreeSet<i64>,
    /// Acks to go this way, as packets name them.
    pub(super) acks: Vec<u32>,
}

/// What an ack that travels against this direction stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Sender(i64),
    Ours(i64),
}

impl Side {
    pub(super) fn new(width: CounterWidth, first: i64) -> Self {
        Self {
            width,
            next: first,
            highest: None,
            late: Vec::new(),
            forwarded: Vec::new(),
            swallowed: BTreeSet::new(),
            injections: Vec::new(),
            waiting: BTreeMap::new(),
            holes: BTreeSet::new(),
            acks: Vec::new(),
        }
    }

    /// A number as it stands in packets.
    pub(super) fn number(&self, unbounded: i64) -> u32 {
        let modulus = match self.width {
            CounterWidth::Bits24 => 1_i64 << 24,
            CounterWidth::Bits32 => 1_i64 << 32,
        };
        u32::try_from(unbounded.rem_euclid(modulus)).unwrap_or_default()
    }

    pub(super) fn observe(&mut self, original: i64) {
        self.highest = Some(self.highest.map_or(original, |highest| highest.max(original)));
    }

    pub(super) fn wire(&self, original: i64) -> i64 {
        let below = self.injections.iter().filter(|(anchor, _)| *anchor < original).count();
        original + i64::try_from(below).unwrap_or_default()
    }

    /// The number of the next injection.
    pub(super) fn next_injection(&self) -> Option<i64> {
        let anchor = self.highest?;
        let same = self.injections.iter().filter(|(other, _)| *other == anchor).count();
        Some(self.wire(anchor) + 1 + i64::try_from(same).unwrap_or_default())
    }

    pub(super) fn inject(&mut self) -> Option<i64> {
        let wire = self.next_injection()?;
        self.injections.push((self.highest?, wire));
        Some(wire)
    }

    pub(super) fn named(&self, wire: i64) -> Named {
        if self.injections.iter().any(|(_, ours)| *ours == wire) {
            return Named::Ours(wire);
        }
        let below = self.injections.iter().filter(|(_, ours)| *ours < wire).count();
        Named::Sender(wire - i64::try_from(below).unwrap_or_default())
    }

    pub(super) fn acknowledge(&mut self, id: u32) {
        if !self.acks.contains(&id) {
            self.acks.push(id);
        }
    }
}
