//! The six bytes in front of every message: flags, sequence number, length of the extra header.

use nom::Parser;
use nom::number::complete::{be_u8, be_u32};

use super::error::{DecodeError, DecodeErrorKind};

/// Bytes before the message number; never zero-coded.
pub const HEADER_BYTES: usize = 6;

/// Shortest datagram that holds a message, before and after its ack trailer is cut off.
/// Source: Second Life viewer, indra/llmessage/message.h (`LL_MINIMUM_VALID_PACKET_SIZE`).
pub const MIN_DATAGRAM: usize = 7;

/// The flags byte; the low four bits have no meaning and are kept as they came.
/// Source: Second Life viewer, indra/llmessage/message.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct PacketFlags(pub u8);

impl PacketFlags {
    /// Bytes from the message number to the ack trailer are zero-coded.
    pub const ZEROCODED: Self = Self(0x80);
    /// The receiver must acknowledge the sequence number.
    pub const RELIABLE: Self = Self(0x40);
    /// A retransmission of a reliable packet under its first sequence number.
    pub const RESENT: Self = Self(0x20);
    /// An ack trailer follows the message.
    pub const ACK: Self = Self(0x10);

    /// True when every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags and those of `other`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These flags without those of `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Position of a packet within one direction of its circuit. 32 bits on the wire, big-endian.
///
/// Viewers and Second Life count modulo 2^24; OpenSimulator counts all 32 bits. Comparisons here
/// look at the low 24 bits only, which is right for both while the compared numbers are less than
/// 2^23 apart. There is no `Ord`, since a circle has none.
/// Source: Second Life viewer, indra/llmessage/llcircuit.h (`LL_MAX_OUT_PACKET_ID`);
/// OpenSimulator, OpenSim/Region/ClientStack/Linden/UDP/LLUDPServer.cs (`SendPacketFinal`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct SequenceNumber(pub u32);

impl SequenceNumber {
    /// Numbers are counted modulo this.
    pub const MODULUS: u32 = 1 << 24;
    const MASK: u32 = Self::MODULUS - 1;

    /// The number a viewer gives to the packet after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        self.wrapping_add(1)
    }

    /// `n` further on the circle of 2^24.
    #[must_use]
    pub const fn wrapping_add(self, n: u32) -> Self {
        Self(self.0.wrapping_add(n) & Self::MASK)
    }

    /// `n` back on the circle of 2^24.
    #[must_use]
    pub const fn wrapping_sub(self, n: u32) -> Self {
        Self(self.0.wrapping_sub(n) & Self::MASK)
    }

    /// How far this is ahead of `other`, by the shorter way round: -2^23 to 2^23 - 1.
    #[must_use]
    pub const fn distance_from(self, other: Self) -> i32 {
        // Shifting the 24-bit difference to the top lets the sign bit decide the way round.
        let ahead = (self.0.wrapping_sub(other.0) & Self::MASK) << 8;
        ahead.cast_signed() >> 8
    }

    /// True when this was sent after `other`, by the shorter way round.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }
}

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: PacketFlags,
    pub(super) sequence: SequenceNumber,
    pub(super) extra_len: u8,
}

impl Header {
    /// Reads the header and returns it with the bytes behind it.
    pub(super) fn read(datagram: &[u8]) -> Result<(&[u8], Self), DecodeError> {
        (be_u8::<_, ()>, be_u32, be_u8)
            .map(|(flags, sequence, extra_len)| Self {
                flags: PacketFlags(flags),
                sequence: SequenceNumber(sequence),
                extra_len,
            })
            .parse_complete(datagram)
            .map_err(|_| DecodeError::new(datagram.len(), "header", DecodeErrorKind::Truncated))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PacketFlags, SequenceNumber};

    #[test]
    fn flags_keep_bits_without_meaning() {
        let flags = PacketFlags(0x4A).with(PacketFlags::RESENT).without(PacketFlags::RELIABLE);
        assert_eq!(flags, PacketFlags(0x2A));
        assert!(flags.contains(PacketFlags::RESENT));
        assert!(!flags.contains(PacketFlags::RESENT.with(PacketFlags::ACK)));
    }

    #[test]
    fn zero_follows_the_last_number() {
        let last = SequenceNumber(0x00FF_FFFF);
        assert_eq!(last.next(), SequenceNumber(0));
        assert!(last.next().is_after(last));
        assert!(!last.is_after(last));
        assert_eq!(SequenceNumber(0).distance_from(SequenceNumber(1)), -1);
    }

    proptest! {
        #[test]
        fn distance_undoes_addition(start in 0_u32..1 << 24, step in -(1_i32 << 23)..1 << 23) {
            let start = SequenceNumber(start);
            let end = start.wrapping_add(step.cast_unsigned());
            prop_assert_eq!(end.distance_from(start), step);
            prop_assert_eq!(end.wrapping_sub(step.cast_unsigned()), start);
        }

        #[test]
        fn a_counter_of_32_bits_compares_like_one_of_24(start in any::<u32>(), step in 1_u32..1 << 23) {
            let later = SequenceNumber(start.wrapping_add(step));
            prop_assert!(later.is_after(SequenceNumber(start)));
        }
    }
}
