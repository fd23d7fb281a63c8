//! The hot tier: contents, or pieces of large ones, and records in memory; all bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::contents::{Content, PIECE_BYTES, Piece};
use crate::asset::{AssetKind, Digest};
use crate::catalog::KeyHash;
use crate::publication::{self, Record};
use crate::store::sealed::Head;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;
/// What may be taken by records, of what contents may: most are some hundred bytes, a few are many thousand.
const RECORDS_SHARE: u64 = 4;
/// What they may take at least.
const MIN_RECORDS_BYTES: u64 = 1 << 20;
const SHARDS: usize = 16;

/// What is known of a key: its record, or that there is none.
pub(super) type Known = Option<Arc<Record>>;

/// A piece of a content in memory.
#[derive(Clone)]
pub(super) enum Held {
    /// All of a small one.
    Whole(Arc<Content>),
    /// The head of a large one.
    Head(Arc<Head>),
    /// Bytes of a large one.
    Bytes(Bytes),
}

impl Held {
    fn cost(&self) -> u64 {
        let bytes = match self {
            Self::Whole(content) => content.bytes.len(),
            // Group values, and the key with its tables.
            Self::Head(head) => head.groups().as_flattened().len() + 1024,
            Self::Bytes(bytes) => bytes.len(),
        };
        bytes as u64 + ENTRY_BYTES
    }
}

type PieceKey = ([u8; 32], Piece);

/// Least recently used goes first.
#[derive(Default)]
struct Contents {
    entries: HashMap<PieceKey, (Held, u64)>,
    order: BTreeMap<u64, PieceKey>,
    bytes: u64,
    clock: u64,
}

impl Contents {
    fn get(&mut self, key: &PieceKey) -> Option<Held> {
        self.clock += 1;
        let (held, used) = self.entries.get_mut(key)?;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, *key);
        Some(held.clone())
    }

    fn remove(&mut self, key: &PieceKey) {
        if let Some((held, used)) = self.entries.remove(key) {
            self.order.remove(&used);
            self.bytes -= held.cost();
        }
    }

    fn put(&mut self, key: PieceKey, held: Held, limit: u64) {
        let cost = held.cost();
        if cost > limit {
            return;
        }
        self.remove(&key);
        self.clock += 1;
        self.bytes += cost;
        self.order.insert(self.clock, key);
        self.entries.insert(key, (held, self.clock));
        while self.bytes > limit {
            let Some(oldest) = self.order.values().next().copied() else { return };
            self.remove(&oldest);
        }
    }
}

/// About what a known record takes in memory.
fn weight(known: &Known) -> u64 {
    let contents = known.iter().flat_map(|record| &record.contents);
    let lists = contents.map(|content| {
        size_of::<publication::Content>()
            + content.counts.capacity() * size_of::<publication::Count>()
            + content.attestations.capacity() * size_of::<publication::Attestation>()
    });
    lists.sum::<usize>() as u64 + ENTRY_BYTES
}

#[derive(Default)]
struct Records {
    entries: HashMap<KeyHash, (Known, Instant)>,
    bytes: u64,
}

impl Records {
    fn remove(&mut self, hash: &KeyHash) -> Option<Known> {
        let (known, _) = self.entries.remove(hash)?;
        self.bytes -= weight(&known);
        Some(known)
    }

    /// Makes room: what was read a while ago goes first, then all.
    fn make_room(&mut self, needed: u64, limit: u64) {
        if self.bytes.saturating_add(needed) > limit {
            self.entries.retain(|_, (_, read)| read.elapsed() < Duration::from_secs(1));
            self.bytes = self.entries.values().map(|(known, _)| weight(known)).sum();
        }
        if self.bytes.saturating_add(needed) > limit {
            *self = Self::default();
        }
    }
}

/// Contents and records in memory.
pub(super) struct HotTier {
    limit: u64,
    contents: [Mutex<Contents>; SHARDS],
    records: [Mutex<Records>; SHARDS],
    bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HotTier {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, contents: Default::default(), records: Default::default(), bytes: AtomicU64::new(0) }
    }

    fn shard<'a, T>(shards: &'a [Mutex<T>; SHARDS], hash: &[u8; 32]) -> MutexGuard<'a, T> {
        let [first, ..] = *hash;
        let [only, ..] = shards;
        lock(shards.get(usize::from(first) % SHARDS).unwrap_or(only))
    }

    /// Pieces of one content lie in different shards: one large mesh may use all of them.
    fn pieces(&self, key: &PieceKey) -> MutexGuard<'_, Contents> {
        let (mut hash, piece) = *key;
        let [first, ..] = &mut hash;
        *first = match piece {
            Piece::Whole | Piece::Head => *first,
            Piece::Body(number) => first.wrapping_add(number.to_le_bytes()[0]).wrapping_add(1),
        };
        Self::shard(&self.contents, &hash)
    }

    pub(super) fn get(&self, digest: Digest, piece: Piece) -> Option<Held> {
        let key = (digest.0, piece);
        self.pieces(&key).get(&key)
    }

    /// Keeps a piece. One larger than a shard's share is read from the store each time.
    pub(super) fn put(&self, digest: Digest, piece: Piece, held: Held) {
        let (key, limit) = ((digest.0, piece), self.limit / SHARDS as u64);
        self.change(&key, |shard| shard.put(key, held, limit));
    }

    pub(super) fn drop_content(&self, digest: Digest) {
        let limit = AssetKind::ALL.iter().map(|kind| kind.max_bytes()).max().unwrap_or(0);
        let bodies = (0..=u16::try_from(limit / PIECE_BYTES).unwrap_or(u16::MAX)).map(Piece::Body);
        for piece in bodies.chain([Piece::Whole, Piece::Head]) {
            let key = (digest.0, piece);
            self.change(&key, |shard| shard.remove(&key));
        }
    }

    fn change(&self, key: &PieceKey, change: impl FnOnce(&mut Contents)) {
        let mut shard = self.pieces(key);
        let before = shard.bytes;
        change(&mut shard);
        let after = shard.bytes;
        drop(shard);
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    /// What a key's record was a moment ago; `None` when nobody looked lately.
    pub(super) fn record(&self, hash: &KeyHash, fresh: Duration) -> Option<Known> {
        let shard = Self::shard(&self.records, hash);
        let (known, read) = shard.entries.get(hash)?;
        (read.elapsed() < fresh).then(|| known.clone())
    }

    /// Keeps what was read of a key; what was known of it before.
    pub(super) fn keep_record(&self, hash: KeyHash, known: Known) -> Option<Known> {
        let (needed, limit) = (weight(&known), self.records_limit() / SHARDS as u64);
        let mut shard = Self::shard(&self.records, &hash);
        let before = shard.remove(&hash);
        shard.make_room(needed, limit);
        shard.bytes += needed;
        shard.entries.insert(hash, (known, Instant::now()));
        before
    }

    /// Forgets what is known of a key, and says what that was.
    pub(super) fn forget(&self, hash: &KeyHash) -> Option<Known> {
        Self::shard(&self.records, hash).remove(hash)
    }

    fn records_limit(&self) -> u64 {
        (self.limit / RECORDS_SHARE).max(MIN_RECORDS_BYTES)
    }

    /// Bytes that records take.
    pub(super) fn record_bytes(&self) -> u64 {
        self.records.iter().map(|shard| lock(shard).bytes).sum()
    }

    /// Keys of which something is known.
    pub(super) fn records(&self) -> usize {
        self.records.iter().map(|shard| lock(shard).entries.len()).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::{HotTier, MIN_RECORDS_BYTES};
    use crate::asset::Digest;
    use crate::publication::{Attestation, Content, MAX_ATTESTATIONS, MAX_CONTENTS, Record};

    /// A record as large as strangers can make it.
    fn large() -> Record {
        let attestation = Attestation {
            attester: [1; 16],
            network: [2; 16],
            ipv6: false,
            tenant: [3; 16],
            origin: None,
            at: 0,
            counts_from: 0,
            trusted: false,
            vouch: false,
            asset_host: false,
            unproven: Some(([1; 32], [2; 32])),
        };
        let content = |number| {
            let mut content = Content::new(Digest([number; 32]));
            content.attestations = vec![attestation.clone(); MAX_ATTESTATIONS];
            content
        };
        let contents = (0..u8::try_from(MAX_CONTENTS).unwrap()).map(content).collect();
        Record { contents, ..Record::default() }
    }

    #[test]
    fn records_are_bounded_by_their_bytes() {
        let tier = HotTier::new(0);
        let hash = |number: u16| *blake3::hash(&number.to_le_bytes()).as_bytes();
        for number in 0..2000 {
            assert!(tier.keep_record(hash(number), Some(Arc::new(large()))).is_none());
            assert!(tier.record_bytes() <= MIN_RECORDS_BYTES);
        }
        assert!((1..100).contains(&tier.records()), "{}", tier.records());
        let last = hash(1999);
        assert!(tier.record(&last, std::time::Duration::from_secs(600)).is_some());
        let before = tier.record_bytes();
        assert!(tier.keep_record(last, None).unwrap().is_some(), "what was known before");
        assert!(tier.record_bytes() < before - 10_000);
        assert!(tier.forget(&last).is_some() && tier.forget(&last).is_none());
        for number in 0..2000 {
            tier.forget(&hash(number));
        }
        assert_eq!((tier.record_bytes(), tier.records()), (0, 0));
    }
}
