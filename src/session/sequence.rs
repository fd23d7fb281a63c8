//! One direction's two numberings: what the sender calls its packets, and what the receiver sees.
//!
//! Each packet we inject takes a number of its own, so every later packet of the sender moves up by
//! one. The map remembers where that happened: an original number that comes again gets the same
//! number on the wire, one that was overtaken keeps its low one, and an ack from the receiver leads
//! back to the sender's own number or is recognised as being for a packet of ours.
//!
//! A packet of ours is recognised long after it was acknowledged: an ack that comes twice must not
//! turn into an ack for somebody else's packet.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::mutation::{Rule, broken};
use crate::lludp::SequenceNumber;

/// An injection is remembered at least this long. The viewer stops resending after some 40 s,
/// OpenSimulator when its client has been silent for 60 s.
/// Source: Second Life viewer, indra/llmessage/llcircuit.cpp (`resendUnackedPackets`);
/// OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLUDPServer.cs (`HandleUnacked`).
const REMEMBERED: Duration = Duration::from_secs(120);
/// And at least this many are remembered, however old.
const REMEMBERED_COUNT: usize = 4096;
/// Past this many nothing is injected until the oldest may be forgotten.
const MAX_INJECTIONS: usize = 64 * 1024;
/// Numbers farther apart than this are not compared: half way round the circle the order turns over.
const FAR: i32 = 1 << 20;

/// How the sender counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterWidth {
    /// Modulo 2^24: viewers, and Second Life's simulators.
    Bits24,
    /// All 32 bits: OpenSimulator.
    Bits32,
}

/// What a number that the receiver saw stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Original {
    /// A packet of the sender.
    Sender(SequenceNumber),
    /// A packet that we injected.
    Ours,
    /// Too old to tell.
    Forgotten,
}

#[derive(Clone, Copy, Debug)]
struct Injection {
    /// The sender's highest number when it was made.
    anchor: u32,
    /// Its own number.
    wire: u32,
    made: Instant,
}

/// The mapping of one direction of a circuit.
#[derive(Debug)]
pub struct SequenceMap {
    width: CounterWidth,
    /// Injections forgotten.
    base: u32,
    highest: Option<u32>,
    /// In the order made, so sorted by anchor and by number alike.
    injections: VecDeque<Injection>,
    /// The youngest injection forgotten.
    horizon: Option<Injection>,
    /// A counter of 24 bits has gone round: from now on 0 is a number like any other.
    wrapped: bool,
}

impl SequenceMap {
    /// An empty map: nothing injected yet.
    #[must_use]
    pub const fn new(width: CounterWidth) -> Self {
        Self { width, base: 0, highest: None, injections: VecDeque::new(), horizon: None, wrapped: false }
    }

    /// How the sender counts.
    #[must_use]
    pub const fn width(&self) -> CounterWidth {
        self.width
    }

    /// True while every number is its own: nothing was ever injected.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.base == 0 && self.injections.is_empty()
    }

    /// The sender's highest number so far; `None` before its first packet.
    #[must_use]
    pub fn highest(&self) -> Option<SequenceNumber> {
        self.highest.map(SequenceNumber)
    }

    /// How many injections are remembered.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.injections.len()
    }

    /// True for a number 0 that stands outside the sender's counter. OpenSimulator acknowledges
    /// UseCircuitCode with such a packet before the circuit exists; it passes as it is.
    /// Source: OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLUDPServer.cs (`SendAckImmediate`).
    #[must_use]
    pub fn is_outside(&self, original: SequenceNumber) -> bool {
        original.0 == 0
            && match (self.width, self.highest) {
                (CounterWidth::Bits32, _) | (_, None) => true,
                (CounterWidth::Bits24, Some(highest)) => {
                    let ahead = original.distance_from(SequenceNumber(highest));
                    !self.wrapped && !(0..FAR).contains(&ahead)
                }
            }
    }

    /// Takes note that the sender has used a number.
    pub fn observe(&mut self, original: SequenceNumber) {
        let Some(highest) = self.highest else {
            self.highest = Some(original.0);
            return;
        };
        let is_later = if broken(Rule::NumbersGoRound) {
            original.0 > highest
        } else {
            original.is_after(SequenceNumber(highest))
        };
        if is_later {
            self.wrapped |= original.0 & MASK < highest & MASK;
            self.highest = Some(original.0);
        }
    }

    /// The number that the receiver sees for the sender's.
    #[must_use]
    pub fn to_wire(&self, original: SequenceNumber) -> SequenceNumber {
        let before = |injection: &Injection| {
            original.is_after(SequenceNumber(injection.anchor)) || broken(Rule::LateNumbersStayLow)
        };
        let passed = self.injections.partition_point(before);
        self.shifted(original, passed)
    }

    fn shifted(&self, original: SequenceNumber, passed: usize) -> SequenceNumber {
        let shift = self.base.wrapping_add(u32::try_from(passed).unwrap_or(u32::MAX));
        match self.width {
            _ if shift == 0 => original,
            CounterWidth::Bits24 => original.wrapping_add(shift),
            CounterWidth::Bits32 => SequenceNumber(original.0.wrapping_add(shift)),
        }
    }

    /// The number of a packet that we make now. `None` before the sender's first packet, and while
    /// too many are remembered.
    pub fn inject(&mut self, now: Instant) -> Option<SequenceNumber> {
        self.forget(now);
        let anchor = self.highest?;
        if self.injections.len() >= MAX_INJECTIONS {
            return None;
        }
        let wire = match self.injections.back() {
            Some(last) if last.anchor == anchor => self.after(last.wire),
            _ => self.after(self.to_wire(SequenceNumber(anchor)).0),
        };
        self.injections.push_back(Injection { anchor, wire, made: now });
        Some(SequenceNumber(wire))
    }

    const fn after(&self, number: u32) -> u32 {
        match self.width {
            CounterWidth::Bits24 => SequenceNumber(number).next().0,
            CounterWidth::Bits32 => number.wrapping_add(1),
        }
    }

    /// What a number that the receiver names stands for.
    #[must_use]
    pub fn to_original(&self, wire: SequenceNumber) -> Original {
        if self.is_identity() {
            return Original::Sender(wire);
        }
        let before = |injection: &Injection| wire.is_after(SequenceNumber(injection.wire));
        let passed = self.injections.partition_point(before);
        if self.injections.get(passed).is_some_and(|injection| (injection.wire ^ wire.0) & MASK == 0) {
            return Original::Ours;
        }
        if self.horizon.is_some_and(|horizon| !wire.is_after(SequenceNumber(horizon.wire))) {
            return Original::Forgotten;
        }
        let shift = self.base.wrapping_add(u32::try_from(passed).unwrap_or(u32::MAX));
        if shift == 0 {
            return Original::Sender(wire);
        }
        Original::Sender(self.widened(wire.wrapping_sub(shift)))
    }

    /// The number nearest to the sender's highest that has these low 24 bits. Whatever carry there
    /// was on the way to the wire is undone so.
    fn widened(&self, low: SequenceNumber) -> SequenceNumber {
        let (CounterWidth::Bits32, Some(highest)) = (self.width, self.highest) else { return low };
        let distance = low.distance_from(SequenceNumber(highest));
        let near = highest.wrapping_add_signed(distance);
        // A counter that has just gone round at 2^24 after all.
        let went_below_zero = highest & !MASK == 0 && near & !MASK != 0 && distance < 0;
        SequenceNumber(if went_below_zero { low.0 } else { near })
    }

    /// The sender's oldest unacknowledged number, as the receiver may be told it: never higher than
    /// its number on the wire, since a receiver forgets duplicates below it.
    #[must_use]
    pub fn oldest_to_wire(&self, original: SequenceNumber) -> SequenceNumber {
        match self.horizon {
            Some(horizon) if !original.is_after(SequenceNumber(horizon.anchor)) => original,
            _ => self.to_wire(original),
        }
    }

    /// Forgets injections that nobody can name any more.
    fn forget(&mut self, now: Instant) {
        let Some(highest) = self.highest.map(SequenceNumber) else { return };
        while let Some(oldest) = self.injections.front().copied() {
            let old = now.saturating_duration_since(oldest.made) >= REMEMBERED;
            let far = highest.distance_from(SequenceNumber(oldest.anchor)) > FAR;
            if !old || (self.injections.len() <= REMEMBERED_COUNT && !far) {
                break;
            }
            self.injections.pop_front();
            self.base = self.base.wrapping_add(1);
            self.horizon = Some(oldest);
        }
        let top = self.to_wire(highest);
        if self.horizon.is_some_and(|horizon| top.distance_from(SequenceNumber(horizon.wire)) > FAR) {
            self.horizon = None;
        }
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        self.forget(now);
    }

    /// Begins anew: the sender has restarted its numbering.
    pub fn restart(&mut self) {
        *self = Self::new(self.width);
    }
}

const MASK: u32 = SequenceNumber::MODULUS - 1;

#[cfg(test)]
mod tests;
