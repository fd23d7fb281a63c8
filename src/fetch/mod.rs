//! Decisions of the fetch plan that need no I/O: what of an asset is asked from the grid, and
//! whether a fetch in flight serves another request.

pub mod baked;
pub mod lan_plan;
pub mod pace;
pub mod routing;
pub mod savings;
pub mod service_plan;
pub mod sharing;
pub mod upload_pace;
pub mod upload_plan;
pub mod upload_rules;

use bytes::Bytes;

use crate::asset::range::{ByteRange, RangeAnswer, RangeRequest};

/// How far behind what it wants a fetch may be for a request to wait for it; farther back, asking
/// the grid at once is sooner.
pub const JOIN_WINDOW_BYTES: u64 = 256 << 10;

/// What a request to the grid asks for: from `start` to `end` (exclusive), or to the asset's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `None` is the end of the asset, wherever that is.
    pub end: Option<u64>,
}

impl Span {
    /// The whole asset.
    pub const WHOLE: Self = Self { start: 0, end: None };

    /// What a viewer's request asks for. `None` for ranges that grids understand each in their own
    /// way: nobody else can share such an answer.
    #[must_use]
    pub fn of(request: RangeRequest) -> Option<Self> {
        match request {
            RangeRequest::Whole => Some(Self::WHOLE),
            RangeRequest::From { first, last } => {
                Some(Self { start: first, end: last.map(|last| last.saturating_add(1)) })
            }
            RangeRequest::Unusable => None,
        }
    }

    /// Whether a fetch of this span that has come as far as `position` (an offset in the asset)
    /// soon delivers the start of `wanted`, and in time all of it.
    #[must_use]
    pub fn serves(self, position: u64, wanted: Self) -> bool {
        let reaches_the_end = match (self.end, wanted.end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(have), Some(want)) => want <= have,
        };
        self.start <= wanted.start
            && wanted.start <= position.max(self.start).saturating_add(JOIN_WINDOW_BYTES)
            && reaches_the_end
    }
}

/// How a request is met when parts of the asset are held here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stitch {
    /// What the viewer gets.
    pub answer: ByteRange,
    /// Held bytes from the answer's start.
    pub before: Vec<Bytes>,
    /// What the grid is asked for; `None` when nothing is missing.
    pub missing: Option<ByteRange>,
    /// Held bytes from the end of `missing` to the answer's end.
    pub after: Vec<Bytes>,
}

/// Plans an answer out of held extents, which are sorted and disjoint. `None` when they are of no
/// use: the request then goes to the grid as it is.
#[must_use]
pub fn stitch(request: RangeRequest, total: u64, extents: &[(u64, Bytes)]) -> Option<Stitch> {
    let answer = match request.answer(total) {
        RangeAnswer::Part(part) => part,
        RangeAnswer::Whole if request == RangeRequest::Whole => ByteRange { start: 0, end: total },
        // Out-of-range and unusable ranges: what the grid says to them is its own affair.
        RangeAnswer::Whole => return None,
    };
    let mut before = Vec::new();
    let mut reached = answer.start;
    for (offset, bytes) in extents {
        let Some(piece) = cut(*offset, bytes, reached, answer.end) else { continue };
        if *offset > reached {
            break;
        }
        reached += piece.len() as u64;
        before.push(piece);
    }
    let mut after = Vec::new();
    let mut needed_until = answer.end;
    for (offset, bytes) in extents.iter().rev() {
        if *offset >= needed_until {
            continue;
        }
        if piece_end(*offset, bytes, needed_until) < needed_until {
            break;
        }
        let Some(piece) = cut(*offset, bytes, reached, needed_until) else { break };
        needed_until -= piece.len() as u64;
        after.push(piece);
    }
    after.reverse();
    let missing = (reached < needed_until).then_some(ByteRange { start: reached, end: needed_until });
    let useful = missing != Some(answer);
    useful.then_some(Stitch { answer, before, missing, after })
}

fn piece_end(offset: u64, bytes: &Bytes, limit: u64) -> u64 {
    (offset + bytes.len() as u64).min(limit)
}

/// The part of an extent that lies in `from..to`.
fn cut(offset: u64, bytes: &Bytes, from: u64, to: u64) -> Option<Bytes> {
    let start = offset.max(from);
    let end = piece_end(offset, bytes, to);
    if start >= end {
        return None;
    }
    let start = usize::try_from(start - offset).ok()?;
    let end = usize::try_from(end - offset).ok()?;
    Some(bytes.slice(start..end))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
    use super::{ByteRange, Span, Stitch, stitch};
    use crate::asset::range::RangeRequest;
    use bytes::Bytes;
    use proptest::prelude::*;

    #[test]
    fn a_fetch_serves_what_it_will_deliver_soon() {
        let whole = Span::WHOLE;
        let header = Span { start: 0, end: Some(4096) };
        let lod = Span { start: 5000, end: Some(9000) };
        assert!(whole.serves(0, whole) && whole.serves(0, header) && whole.serves(0, lod));
        assert!(header.serves(0, header) && !header.serves(0, whole) && !header.serves(0, lod));
        assert!(!lod.serves(5000, header), "its start has passed");
        let far = Span { start: 10 << 20, end: None };
        assert!(!whole.serves(0, far) && whole.serves(10 << 20, far));
    }

    fn join(stitch: &Stitch, asset: &[u8]) -> Vec<u8> {
        let mut joined = stitch.before.concat();
        if let Some(missing) = stitch.missing {
            joined.extend_from_slice(&asset[missing.start as usize..missing.end as usize]);
        }
        joined.extend(stitch.after.concat());
        joined
    }

    #[test]
    fn only_what_is_missing_is_asked_for() {
        let asset: Vec<u8> = (0..200u8).collect();
        let held = vec![(0, Bytes::copy_from_slice(&asset[..60]))];
        let plan = stitch(RangeRequest::From { first: 59, last: Some(999) }, 200, &held).unwrap();
        assert_eq!(plan.missing, Some(ByteRange { start: 60, end: 200 }));
        assert_eq!(join(&plan, &asset), &asset[59..]);
        let inside = stitch(RangeRequest::From { first: 10, last: Some(19) }, 200, &held).unwrap();
        assert_eq!((inside.missing, join(&inside, &asset)), (None, asset[10..20].to_vec()));
        assert_eq!(stitch(RangeRequest::From { first: 60, last: None }, 200, &held), None);
        assert_eq!(stitch(RangeRequest::From { first: 200, last: None }, 200, &held), None);
        assert_eq!(stitch(RangeRequest::Unusable, 200, &held), None);
    }

    proptest! {
        #[test]
        fn every_stitch_yields_the_bytes_asked_for(
            total in 1u64..400,
            cuts in proptest::collection::btree_set(0u64..400, 0..8),
            first in 0u64..400,
            length in 1u64..400,
            whole in any::<bool>(),
        ) {
            let asset: Vec<u8> = (0..total).map(|n| (n * 7 % 251) as u8).collect();
            let cuts: Vec<u64> = cuts.into_iter().filter(|cut| *cut <= total).collect();
            let held: Vec<(u64, Bytes)> = cuts
                .chunks_exact(2)
                .map(|pair| (pair[0], Bytes::copy_from_slice(&asset[pair[0] as usize..pair[1] as usize])))
                .collect();
            let request = if whole { RangeRequest::Whole } else { RangeRequest::From { first, last: Some(first + length - 1) } };
            if let Some(plan) = stitch(request, total, &held) {
                let expected = &asset[plan.answer.start as usize..plan.answer.end as usize];
                prop_assert_eq!(join(&plan, &asset), expected);
                if let Some(missing) = plan.missing {
                    prop_assert!(missing.start >= plan.answer.start && missing.end <= plan.answer.end && missing.start < missing.end);
                    prop_assert!(missing != plan.answer);
                }
            }
        }
    }
}
