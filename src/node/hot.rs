//! The hot tier: contents, or pieces of large ones, and records in memory; all bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::contents::{Content, PIECE_BYTES, Piece};
use crate::asset::{AssetKind, Digest};
use crate::catalog::KeyHash;
use crate::publication::Record;
use crate::store::sealed::Head;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;
/// Records kept; each is some hundred bytes.
const MAX_RECORDS: usize = 200_000;
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

/// Contents and records in memory.
pub(super) struct HotTier {
    limit: u64,
    contents: [Mutex<Contents>; SHARDS],
    records: [Mutex<HashMap<KeyHash, (Known, Instant)>>; SHARDS],
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
        let (known, read) = shard.get(hash)?;
        (read.elapsed() < fresh).then(|| known.clone())
    }

    pub(super) fn keep_record(&self, hash: KeyHash, known: Known) {
        let mut shard = Self::shard(&self.records, &hash);
        if shard.len() >= MAX_RECORDS / SHARDS {
            shard.retain(|_, (_, read)| read.elapsed() < Duration::from_secs(1));
            if shard.len() >= MAX_RECORDS / SHARDS {
                shard.clear();
            }
        }
        shard.insert(hash, (known, Instant::now()));
    }

    pub(super) fn forget(&self, hash: &KeyHash) {
        Self::shard(&self.records, hash).remove(hash);
    }

    /// Keys of which something is known.
    pub(super) fn records(&self) -> usize {
        self.records.iter().map(|shard| lock(shard).len()).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
