//! Byte ranges: what a request asks for, what an answer carries, and which parts are held.
//! Positions are bytes from the start of the asset. Headers in, values out; no HTTP types.

use std::fmt;

use nom::bytes::complete::{tag, tag_no_case};
use nom::character::complete::{char, one_of, space0, space1, u64 as number};
use nom::combinator::{all_consuming, opt};
use nom::multi::many0_count;
use nom::sequence::{delimited, preceded};
use nom::{IResult, Parser};

/// Half-open: `start` is the first byte, `end` the first byte after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// First byte after.
    pub end: u64,
}

impl ByteRange {
    /// From `start` up to, not including, `end`.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self { start, end }
    }

    /// Bytes in it; 0 when `end` lies before `start`.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether there is no byte in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.end <= self.start
    }

    /// The bytes in both; `None` when there is none.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (!both.is_empty()).then_some(both)
    }
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// There was no header.
    Whole,
    /// `bytes=first-last` (both inclusive) or `bytes=first-`.
    From {
        /// First byte wanted.
        first: u64,
        /// Last byte wanted, if named.
        last: Option<u64>,
    },
    /// A suffix, a reversed range, several ranges, another unit, or no range at all.
    Unusable,
}

/// How a held asset answers a [`RangeRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// Status 200 and every byte.
    Whole,
    /// Status 206 and these bytes.
    Part(ByteRange),
}

impl RangeRequest {
    /// Reads the value of a `Range` header; `None` for a request without one.
    /// Source: RFC 9110, 14.1 and 5.6.1 (empty list elements are skipped).
    #[must_use]
    pub fn parse(header: Option<&[u8]>) -> Self {
        let Some(value) = header else { return Self::Whole };
        let spec = (number, char('-'), opt(number)).map(|(first, _, last)| (first, last));
        let list = delimited(list_gaps, spec, list_gaps);
        let parsed: IResult<&[u8], (u64, Option<u64>)> =
            all_consuming(preceded((space0, tag_no_case("bytes"), char('=')), list)).parse(value);
        match parsed {
            Ok((_, (first, last))) if last.is_none_or(|last| first <= last) => Self::From { first, last },
            _ => Self::Unusable,
        }
    }

    /// What to send of an asset of `total` bytes. A start at or past the end is answered with the
    /// whole asset and never with 416: viewers that got one flagged good textures as bad.
    /// Source: OpenSimulator, OpenSim/Capabilities/Handlers/GetAssets/GetAssetsHandler.cs (Handle).
    /// Observed: OpenSimulator 0.9.2.2, fixtures/sessions/hippo-ranges.pcap.
    #[must_use]
    pub fn answer(self, total: u64) -> RangeAnswer {
        let Self::From { first, last } = self else { return RangeAnswer::Whole };
        let end = last.map_or(total, |last| last.saturating_add(1).min(total));
        let part = ByteRange { start: first, end };
        if part.is_empty() { RangeAnswer::Whole } else { RangeAnswer::Part(part) }
    }
}

/// What may stand around a list element: blanks and commas of empty elements.
fn list_gaps(input: &[u8]) -> IResult<&[u8], usize> {
    many0_count(one_of(" \t,")).parse(input)
}

/// The `Content-Range` of a 206 answer. Both ends are inclusive, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// First byte carried.
    pub first: u64,
    /// Last byte carried, at least `first`.
    pub last: u64,
    /// Length of the whole asset, more than `last`; `None` when the sender wrote `*`.
    pub total: Option<u64>,
}

impl ContentRange {
    /// What to announce when sending `part` of an asset of `total` bytes; `None` when `part` is
    /// empty or reaches past the end.
    #[must_use]
    pub fn of(part: ByteRange, total: u64) -> Option<Self> {
        let last = part.end.checked_sub(1)?;
        (!part.is_empty() && part.end <= total).then_some(Self {
            first: part.start,
            last,
            total: Some(total),
        })
    }

    /// Reads a header value. `None` when it names no range (`*/10000`), another unit, a reversed
    /// range, an end past the total, or numbers that 64 bits cannot hold.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let total = number.map(Some).or(char('*').map(|_| None));
        let fields = (number, tag("-"), number, tag("/"), total);
        let parsed: IResult<&[u8], _> =
            all_consuming(delimited((space0, tag_no_case("bytes"), space1), fields, space0)).parse(value);
        let (_, (first, _, last, _, total)) = parsed.ok()?;
        // The end after the last byte must be a number too.
        let end = last.checked_add(1)?;
        (first <= last && total.is_none_or(|total| end <= total)).then_some(Self { first, last, total })
    }

    /// The bytes carried.
    #[must_use]
    pub const fn range(self) -> ByteRange {
        ByteRange { start: self.first, end: self.last.saturating_add(1) }
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}-{}/", self.first, self.last)?;
        match self.total {
            Some(total) => write!(f, "{total}"),
            None => f.write_str("*"),
        }
    }
}

/// Which bytes of an asset are held: runs in order, none empty, none touching the next.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HeldRanges {
    runs: Vec<ByteRange>,
}

impl HeldRanges {
    /// Nothing held.
    #[must_use]
    pub const fn new() -> Self {
        Self { runs: Vec::new() }
    }

    /// Adds these bytes; runs that overlap or touch become one.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let from = self.runs.partition_point(|run| run.end < range.start);
        let to = self.runs.partition_point(|run| run.start <= range.end);
        let joined =
            self.runs.get(from..to).unwrap_or_default().iter().fold(range, |all, run| ByteRange {
                start: all.start.min(run.start),
                end: all.end.max(run.end),
            });
        self.runs.splice(from..to, [joined]);
    }

    /// Whether every byte of `range` is held; so for an empty one.
    #[must_use]
    pub fn covers(&self, range: ByteRange) -> bool {
        range.is_empty() || self.prefix_from(range.start) >= range.end
    }

    /// The parts of `range` that are not held, in order.
    #[must_use]
    pub fn missing(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut start = range.start;
        let first = self.runs.partition_point(|run| run.end <= range.start);
        for run in self.runs.iter().skip(first).take_while(|run| run.start < range.end) {
            if start < run.start {
                gaps.push(ByteRange { start, end: run.start });
            }
            start = run.end;
        }
        if start < range.end {
            gaps.push(ByteRange { start, end: range.end });
        }
        gaps
    }

    /// Where the bytes that are held without a gap from `start` on end; `start` itself when that
    /// byte is not held.
    #[must_use]
    pub fn prefix_from(&self, start: u64) -> u64 {
        let at = self.runs.partition_point(|run| run.end <= start);
        self.runs.get(at).filter(|run| run.start <= start).map_or(start, |run| run.end)
    }

    /// Bytes held.
    #[must_use]
    pub fn total_held(&self) -> u64 {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// The runs, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ByteRange> + '_ {
        self.runs.iter().copied()
    }
}

impl FromIterator<ByteRange> for HeldRanges {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut held = Self::new();
        ranges.into_iter().for_each(|range| held.insert(range));
        held
    }
}

#[cfg(test)]
mod tests;
