//! The hot tier: contents and records in memory, both bounded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use std::collections::{BTreeMap, HashMap};

use super::service::Content;
use crate::asset::Digest;
use crate::catalog::KeyHash;
use crate::publication::Record;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 256;
/// Records kept; each is some hundred bytes.
const MAX_RECORDS: usize = 200_000;
const SHARDS: usize = 16;

/// What is known of a key: its record, or that there is none.
pub(super) type Known = Option<Arc<Record>>;

/// Least recently used goes first.
#[derive(Default)]
struct Contents {
    entries: HashMap<[u8; 32], (Arc<Content>, u64)>,
    order: BTreeMap<u64, [u8; 32]>,
    bytes: u64,
    clock: u64,
}

impl Contents {
    fn get(&mut self, digest: &[u8; 32]) -> Option<Arc<Content>> {
        self.clock += 1;
        let (content, used) = self.entries.get_mut(digest)?;
        self.order.remove(used);
        *used = self.clock;
        self.order.insert(self.clock, *digest);
        Some(Arc::clone(content))
    }

    fn remove(&mut self, digest: &[u8; 32]) {
        if let Some((content, used)) = self.entries.remove(digest) {
            self.order.remove(&used);
            self.bytes -= content.bytes.len() as u64 + ENTRY_BYTES;
        }
    }

    fn put(&mut self, content: Arc<Content>, limit: u64) {
        let (digest, cost) = (content.digest.0, content.bytes.len() as u64 + ENTRY_BYTES);
        if cost > limit {
            return;
        }
        self.remove(&digest);
        self.clock += 1;
        self.bytes += cost;
        self.order.insert(self.clock, digest);
        self.entries.insert(digest, (content, self.clock));
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

    pub(super) fn content(&self, digest: Digest) -> Option<Arc<Content>> {
        Self::shard(&self.contents, &digest.0).get(&digest.0)
    }

    pub(super) fn put(&self, content: Arc<Content>) {
        let limit = self.limit / SHARDS as u64;
        // One large mesh may be more than a shard's share; it is then read from the store each time.
        let mut shard = Self::shard(&self.contents, &content.digest.0);
        let before = shard.bytes;
        shard.put(content, limit);
        let after = shard.bytes;
        drop(shard);
        if after >= before {
            self.bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.bytes.fetch_sub(before - after, Ordering::Relaxed);
        }
    }

    pub(super) fn drop_content(&self, digest: Digest) {
        let mut shard = Self::shard(&self.contents, &digest.0);
        let before = shard.bytes;
        shard.remove(&digest.0);
        self.bytes.fetch_sub(before - shard.bytes, Ordering::Relaxed);
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
