//! Parts of assets: merging ranges, and the memory that holds them.
//!
//! Parts belong to one origin. They are kept while every answer names the same total length and
//! overlapping bytes agree; a different word starts anew.

use std::collections::{HashMap, HashSet};

use bytes::{Bytes, BytesMut};

use super::evict::Evictor;
use super::format::MAX_EXTENTS;
use crate::asset::AssetKey;
use crate::grid::Origin;

const OVERHEAD: u64 = 300;

/// The parts held of an asset that is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialAsset {
    /// The length of the whole asset, in bytes, as its origin stated it.
    pub total: u64,
    /// Offset and bytes of each run; ascending, disjoint, never touching.
    pub extents: Vec<(u64, Bytes)>,
}

/// An origin contradicts what it said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contradiction;

impl PartialAsset {
    pub(super) fn new(total: u64) -> Self {
        Self { total, extents: Vec::new() }
    }

    /// Adds a run. `Ok(true)` when it brought anything new. Runs past the end are ignored.
    pub(super) fn add(&mut self, offset: u64, bytes: &Bytes) -> Result<bool, Contradiction> {
        let Some(end) = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.total) else {
            return Ok(false);
        };
        if bytes.is_empty() {
            return Ok(false);
        }
        let mut covered = 0;
        for (start, held) in &self.extents {
            let (from, to) = (offset.max(*start), end.min(start + held.len() as u64));
            if from >= to {
                continue;
            }
            if slice(held, from - start, to - start) != slice(bytes, from - offset, to - offset) {
                return Err(Contradiction);
            }
            covered += to - from;
        }
        if covered == bytes.len() as u64 {
            return Ok(false);
        }
        self.join(offset, bytes);
        Ok(true)
    }

    /// Puts a run in its place together with all runs that it overlaps or touches.
    fn join(&mut self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        let (joined, mut apart): (Vec<_>, Vec<_>) = std::mem::take(&mut self.extents)
            .into_iter()
            .partition(|(start, held)| *start <= end && start + held.len() as u64 >= offset);
        let run = if joined.is_empty() {
            (offset, bytes.clone())
        } else {
            let mut pieces = joined;
            pieces.push((offset, bytes.clone()));
            pieces.sort_by_key(|(start, _)| *start);
            let start = pieces.first().map_or(offset, |(start, _)| *start);
            let mut whole = BytesMut::new();
            for (at, piece) in pieces {
                let fresh = start + whole.len() as u64 - at;
                whole.extend_from_slice(slice(&piece, fresh, piece.len() as u64));
            }
            (start, whole.freeze())
        };
        apart.push(run);
        apart.sort_by_key(|(start, _)| *start);
        if apart.len() > MAX_EXTENTS {
            let least =
                apart.iter().enumerate().min_by_key(|(_, (_, held))| held.len()).map(|(index, _)| index);
            if let Some(index) = least {
                apart.remove(index);
            }
        }
        self.extents = apart;
    }

    /// The whole body, once every byte is there.
    pub(super) fn complete(&self) -> Option<Bytes> {
        match self.extents.as_slice() {
            [(0, bytes)] if bytes.len() as u64 == self.total => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The bytes held.
    pub(super) fn held(&self) -> u64 {
        self.extents.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

/// Bytes `from..to`; empty when they are not all there.
fn slice(bytes: &Bytes, from: u64, to: u64) -> &[u8] {
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    range.and_then(|(from, to)| bytes.get(from..to)).unwrap_or_default()
}

/// Whose parts of what.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PartialKey {
    pub(super) key: AssetKey,
    pub(super) origin: Origin,
}

/// Parts in memory, bounded in bytes.
#[derive(Debug)]
pub(super) struct PartialMemory {
    held: HashMap<PartialKey, PartialAsset>,
    /// Those of which something was read from disk, where it may lie since an earlier run.
    read_back: HashSet<PartialKey>,
    evictor: Evictor<PartialKey>,
    used: u64,
    cap: u64,
}

impl PartialMemory {
    pub(super) fn new(cap: u64) -> Self {
        Self { held: HashMap::new(), read_back: HashSet::new(), evictor: Evictor::new(), used: 0, cap }
    }

    pub(super) fn get(&mut self, key: &PartialKey) -> Option<PartialAsset> {
        let found = self.held.get(key)?.clone();
        self.evictor.touch(key);
        Some(found)
    }

    /// As [`Self::set`], for parts that were read from disk.
    pub(super) fn set_read_back(&mut self, key: &PartialKey, parts: PartialAsset) {
        self.set(key, parts);
        if self.held.contains_key(key) {
            self.read_back.insert(key.clone());
        }
    }

    /// Whether it is held and all of it came since this process started.
    pub(super) fn is_fresh(&self, key: &PartialKey) -> bool {
        self.held.contains_key(key) && !self.read_back.contains(key)
    }

    pub(super) fn set(&mut self, key: &PartialKey, parts: PartialAsset) {
        let read_back = self.read_back.contains(key);
        self.take(key);
        let cost = parts.held() + OVERHEAD;
        if cost > self.cap / 2 {
            self.evictor.forget(key);
            return;
        }
        while self.used + cost > self.cap {
            let Some(gone) = self.evictor.evict() else { break };
            self.take(&gone);
        }
        self.used += cost;
        self.evictor.insert(key.clone(), cost);
        self.held.insert(key.clone(), parts);
        if read_back {
            self.read_back.insert(key.clone());
        }
    }

    pub(super) fn remove(&mut self, key: &PartialKey) -> bool {
        self.evictor.forget(key);
        self.take(key)
    }

    fn take(&mut self, key: &PartialKey) -> bool {
        let taken = self.held.remove(key);
        self.read_back.remove(key);
        self.used -= taken.as_ref().map_or(0, |parts| parts.held() + OVERHEAD);
        taken.is_some()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.cap);
    }

    /// Entries, and the bytes they take.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.held.len() as u64, self.used)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::{Contradiction, PartialAsset, PartialKey, PartialMemory};
    use crate::asset::{AssetId, AssetKey, AssetKind};
    use crate::grid::{GridId, Origin};

    fn body(len: usize) -> Bytes {
        (0..len).map(|i| u8::try_from(i * 31 % 251).unwrap_or(0)).collect::<Vec<_>>().into()
    }

    proptest! {
        #[test]
        fn any_order_of_ranges_gives_the_bytes(
            ranges in proptest::collection::vec((0_usize..400, 1_usize..120), 0..40),
        ) {
            let whole = body(400);
            let mut parts = PartialAsset::new(400);
            let mut covered = [false; 400];
            for (start, len) in ranges {
                let end = (start + len).min(400);
                let news = covered[start..end].iter().any(|byte| !byte);
                prop_assert_eq!(parts.add(start as u64, &whole.slice(start..end)), Ok(news));
                covered[start..end].fill(true);
            }
            let mut seen = [false; 400];
            let mut free_from = None;
            for (start, bytes) in &parts.extents {
                let start = usize::try_from(*start).unwrap();
                prop_assert!(free_from.is_none_or(|free| start > free), "runs that touch are joined");
                prop_assert_eq!(&whole[start..start + bytes.len()], &bytes[..]);
                seen[start..start + bytes.len()].fill(true);
                free_from = Some(start + bytes.len());
            }
            prop_assert_eq!(seen, covered);
            prop_assert_eq!(parts.complete(), covered.iter().all(|byte| *byte).then_some(whole));
        }
    }

    #[test]
    fn overlapping_bytes_must_agree() {
        let mut parts = PartialAsset::new(10);
        assert_eq!(parts.add(0, &Bytes::from_static(b"abcd")), Ok(true));
        assert_eq!(parts.add(2, &Bytes::from_static(b"cx")), Err(Contradiction));
        assert_eq!(parts.add(8, &Bytes::from_static(b"toolong")), Ok(false));
        assert_eq!(parts.add(u64::MAX, &Bytes::from_static(b"x")), Ok(false));
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let mut parts = PartialAsset::new(10_000);
        for at in 0..1000 {
            parts.add(at * 10, &body(3)).unwrap();
            assert!(parts.extents.len() <= super::MAX_EXTENTS);
        }
    }

    #[test]
    fn the_memory_for_parts_is_bounded() {
        let mut memory = PartialMemory::new(10_000);
        for number in 0..100 {
            let id = AssetId(uuid::Uuid::from_u128(number));
            let key = AssetKey { grid: GridId::new("grid"), kind: AssetKind::Mesh, id };
            let key = PartialKey { key, origin: Origin::new("sim") };
            let mut parts = PartialAsset::new(5000);
            parts.add(0, &body(1000)).unwrap();
            memory.set(&key, parts.clone());
            assert_eq!(memory.get(&key), Some(parts));
            assert!(memory.size().1 <= 10_000);
        }
    }
}
