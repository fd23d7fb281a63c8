//! The local store: memory in front of disk, whole assets and parts, bounded in bytes.
//!
//! ```text
//!  get ──► memory ──► waiting to be written ──► index ──► disk (checked, in turn, with a deadline)
//!  put ──► memory, and the queue ──► writer thread ──► temporary file, rename, index
//! ```
//!
//! It never makes anybody wait for a write, it answers [`Lookup::Busy`] when the disk is slow, and
//! whatever it cannot do it counts and leaves undone. What it returns has been checked against its
//! BLAKE3 digest since it was read. The files are described in `format.rs`, the rule of who may
//! get what in `claims.rs`, what goes first in `evict.rs`.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};

use crate::asset::{Asset, AssetKey, AssetSource};
use crate::support::metrics::{Counter, Metrics};

mod claims;
mod disk;
mod evict;
mod files;
mod format;
mod index;
pub mod inspect;
mod lookup;
mod memory;
mod partial;
mod queue;
mod usage;
mod writer;

#[cfg(test)]
mod tests;

pub use claims::Scope;
pub use partial::PartialAsset;

use claims::{Claim, MAX_NAME};
use disk::{Disk, Gate};
use files::{FileId, Files, RealFiles, Stem, on_disk};
use format::MAX_HEADER;
use index::Index;
use memory::MemoryTier;
use partial::{PartialKey, PartialMemory};
use queue::{Job, Parts, PutJob, Queue};
use writer::Writer;

/// Parts are written this long after they came: most are completed before, and need not be.
const PARTS_DELAY: Duration = Duration::from_secs(2);
/// How long [`LocalCache::close`] waits for the queue to be written.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How a local store is made.
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// The directory of the disk tier; made when missing. One process at a time uses it.
    pub dir: PathBuf,
    /// The most bytes the files take on disk, each rounded up to 4 KiB. Assets over a quarter of
    /// it are not stored.
    pub disk_bytes: u64,
    /// The most bytes in memory: three quarters for whole assets, one for parts. Bodies that wait
    /// to be written come on top.
    pub memory_bytes: u64,
    /// The most bytes that wait to be written.
    pub queue_bytes: u64,
    /// How long a lookup waits for the disk.
    pub read_deadline: Duration,
    /// Disk reads at one time.
    pub reads: usize,
}

impl CacheConfig {
    /// A store of these sizes, everything else as usual: 64 MiB waiting, 50 ms, 16 reads.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, disk_bytes: u64, memory_bytes: u64) -> Self {
        Self {
            dir: dir.into(),
            disk_bytes,
            memory_bytes,
            queue_bytes: 64 << 20,
            read_deadline: Duration::from_millis(50),
            reads: 16,
        }
    }
}

/// How long the process that used the store before may take to be gone: it is being restarted.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

fn patiently_lock(lock: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Why a directory cannot hold a store. [`LocalCache::memory_only`] still works.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made, or nothing can be made in it.
    #[error("the store's directory cannot be used")]
    Directory(#[source] io::Error),
    /// Another process uses it.
    #[error("the store's directory is in use by another process")]
    InUse,
    /// The background thread could not be started.
    #[error("the store's thread could not be started")]
    Thread(#[source] io::Error),
}

/// The answer to a lookup.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The whole asset.
    Hit {
        /// Checked against its digest.
        asset: Asset,
        /// `Memory` or `Disk`.
        source: AssetSource,
    },
    /// Parts of it, from the origin that the request would go to. They may cover the whole asset,
    /// which has then not been validated yet: validate it and [`LocalCache::put`] it.
    Partial(PartialAsset),
    /// Not here.
    Miss,
    /// The disk did not answer in time. Treat it as a miss.
    Busy,
}

/// The size of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Keys whole in memory.
    pub memory_objects: u64,
    /// Bytes they take, overhead included.
    pub memory_bytes: u64,
    /// The cap of `memory_bytes`.
    pub memory_limit: u64,
    /// Partly held assets in memory.
    pub partial_objects: u64,
    /// Bytes they take, overhead included.
    pub partial_bytes: u64,
    /// Files on disk.
    pub disk_objects: u64,
    /// Bytes on disk, files rounded up to 4 KiB; during the scan, what was found so far.
    pub disk_bytes: u64,
    /// The cap of `disk_bytes`; 0 without a disk tier.
    pub disk_limit: u64,
    /// Bytes on disk that are pinned.
    pub pinned_bytes: u64,
    /// The cap of `pinned_bytes`.
    pub pinned_limit: u64,
    /// Bytes that wait to be written.
    pub queue_bytes: u64,
    /// Whether the start-up scan still runs.
    pub scanning: bool,
}

/// The local store. Clones share it; it is closed by [`LocalCache::close`], or left to itself when
/// the last clone is dropped (what waits is then written in the background).
#[derive(Clone)]
pub struct LocalCache {
    shared: Arc<Shared>,
    /// Tells the writer when the last clone has gone.
    _owner: Arc<Owner>,
}

struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue.close();
    }
}

impl std::fmt::Debug for LocalCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalCache").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What handles and the writer share. Locks, where two are held: queue, then index or memory or parts.
struct Shared {
    metrics: Arc<Metrics>,
    memory: Mutex<MemoryTier>,
    parts: Mutex<PartialMemory>,
    index: Mutex<Index>,
    queue: Queue,
    disk: Option<Disk>,
    gate: Gate,
    memory_cap: u64,
    disk_cap: AtomicU64,
    queue_cap: u64,
    scanned: AtomicBool,
    /// Becomes true when the writer has ended.
    ended: watch::Sender<bool>,
}

impl Shared {
    fn disk_cap(&self) -> u64 {
        self.disk_cap.load(Ordering::Relaxed)
    }

    fn forget_memory(&self) {
        lock(&self.memory).clear();
        lock(&self.parts).clear();
    }
}

impl LocalCache {
    /// Opens the store in a directory. Returns at once; what is there is counted and cleaned up in
    /// the background, and can be read meanwhile.
    pub fn open(config: CacheConfig, metrics: Arc<Metrics>) -> Result<Self, CacheError> {
        Self::open_on(config, metrics, Arc::new(RealFiles))
    }

    fn open_on(
        mut config: CacheConfig,
        metrics: Arc<Metrics>,
        files: Arc<dyn Files>,
    ) -> Result<Self, CacheError> {
        fs::create_dir_all(&config.dir).map_err(CacheError::Directory)?;
        let lock = File::create(config.dir.join("lock")).map_err(CacheError::Directory)?;
        let lock = match patiently_lock(&lock) {
            Ok(()) => Some(lock),
            Err(TryLockError::WouldBlock) => return Err(CacheError::InUse),
            // Some network file systems have no locks; the store works without.
            Err(TryLockError::Error(_)) => None,
        };
        let disk = Disk { root: std::mem::take(&mut config.dir), files };
        let cache = Self::build(&config, metrics, Some(disk.clone()));
        let writer = Writer::new(Arc::clone(&cache.shared), disk, lock);
        let ended = EndSignal(Arc::clone(&cache.shared));
        std::thread::Builder::new()
            .name("rezcache-store".into())
            .spawn(move || {
                // After the writer, so that the directory's lock is free when the signal comes.
                let _ended = ended;
                writer.run();
            })
            .map_err(CacheError::Thread)?;
        Ok(cache)
    }

    /// A store without a disk tier.
    #[must_use]
    pub fn memory_only(memory_bytes: u64, metrics: Arc<Metrics>) -> Self {
        let cache = Self::build(&CacheConfig::new("", 0, memory_bytes), metrics, None);
        cache.shared.scanned.store(true, Ordering::Release);
        let _ = cache.shared.ended.send_replace(true);
        cache
    }

    fn build(config: &CacheConfig, metrics: Arc<Metrics>, disk: Option<Disk>) -> Self {
        let for_parts = config.memory_bytes / 4;
        let shared = Arc::new(Shared {
            metrics,
            memory: Mutex::new(MemoryTier::new(config.memory_bytes - for_parts)),
            parts: Mutex::new(PartialMemory::new(for_parts)),
            index: Mutex::new(Index::new()),
            queue: Queue::default(),
            disk,
            gate: Gate::new(config.reads, config.read_deadline),
            memory_cap: config.memory_bytes - for_parts,
            disk_cap: AtomicU64::new(config.disk_bytes),
            queue_cap: config.queue_bytes,
            scanned: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        });
        Self { _owner: Arc::new(Owner(Arc::clone(&shared))), shared }
    }

    /// Takes an asset that its origin has just delivered, whole and valid. Never waits, never
    /// fails: what cannot be kept is counted.
    pub fn put(&self, key: AssetKey, scope: &Scope, asset: Asset) {
        let shared = &self.shared;
        let len = asset.bytes.len() as u64;
        if len > key.kind.max_bytes() {
            shared.metrics.count(Counter::StoreWritesSkipped);
            return;
        }
        let stem = Stem::of(&key);
        let origin = scope.origin.clone();
        let stored = unix_now();
        let claim = Claim::new(asset.digest, origin.clone(), stored);
        self.forget_parts(&key, stem, scope);
        let mut queue = shared.queue.lock();
        let alone =
            shared.disk.is_none() || !queue.has_put(&key) && !lock(&shared.index).may_have_whole(stem);
        lock(&shared.memory).put(&key, stem, claim, asset.bytes.clone(), alone);
        if shared.disk.is_none() {
            return;
        }
        let digest = asset.digest;
        let fits = on_disk(len + MAX_HEADER as u64) <= shared.disk_cap() / 4 && names_fit(&key, &origin);
        let job = PutJob { key: key.clone(), stem, origin: origin.clone(), asset, stored };
        if !(fits && queue.push_put(job, shared.queue_cap)) {
            shared.metrics.count(Counter::StoreWritesSkipped);
            queue.push(Job::Disclaim { key, stem, origin, digest });
        }
        drop(queue);
        shared.queue.notify();
    }

    /// Takes back what an origin is said to have delivered of an asset, whole or in part; nobody gets it
    /// any more. `false`: too many of these wait, or the store is closing; then only [`Self::clear`] helps.
    pub fn withdraw(&self, key: &AssetKey, scope: &Scope) -> bool {
        let shared = &self.shared;
        let (stem, origin) = (Stem::of(key), scope.origin.clone());
        self.forget_parts(key, stem, scope);
        let mut queue = shared.queue.lock();
        lock(&shared.memory).withdraw(key, &origin);
        let taken = shared.disk.is_none() || queue.withdraw(key, stem, &origin);
        drop(queue);
        shared.queue.notify();
        taken
    }

    /// Takes ranges of an asset of `total` bytes that its origin has just delivered. Returns the
    /// whole body once every byte is there: validate it, then [`LocalCache::put`] it, or
    /// [`LocalCache::drop_partial`].
    pub fn add_partial(
        &self,
        key: &AssetKey,
        scope: &Scope,
        total: u64,
        extents: &[(u64, Bytes)],
    ) -> Option<Bytes> {
        if total > key.kind.max_bytes() || !names_fit(key, &scope.origin) {
            return None;
        }
        let shared = &self.shared;
        let whose = PartialKey { key: key.clone(), origin: scope.origin.clone() };
        let mut queue = shared.queue.lock();
        let mut memory = lock(&shared.parts);
        let waiting = || match queue.waiting_parts(&whose) {
            Some(Parts::Write(parts)) => Some(parts.clone()),
            _ => None,
        };
        let known = memory.get(&whose).or_else(waiting).filter(|parts| parts.total == total);
        let mut parts = known.unwrap_or_else(|| PartialAsset::new(total));
        let mut news = false;
        let mut contradicted = false;
        for (offset, bytes) in extents {
            match parts.add(*offset, bytes) {
                Ok(added) => news |= added,
                Err(_) => contradicted = true,
            }
        }
        if contradicted {
            // The newer word counts, as far as it agrees with itself.
            parts = PartialAsset::new(total);
            for (offset, bytes) in extents {
                let _ = parts.add(*offset, bytes);
            }
        }
        if !news && !contradicted {
            return parts.complete();
        }
        memory.set(&whose, parts.clone());
        let complete = parts.complete();
        if complete.is_none() && shared.disk.is_some() {
            let due = Instant::now() + PARTS_DELAY;
            if !queue.push_parts(&whose, Parts::Write(parts), due, shared.queue_cap) {
                shared.metrics.count(Counter::StoreWritesSkipped);
            }
        }
        drop(memory);
        drop(queue);
        shared.queue.notify();
        complete
    }

    /// Whether parts are held in memory and all of them came since this process started.
    #[must_use]
    pub fn parts_are_fresh(&self, key: &AssetKey, scope: &Scope) -> bool {
        lock(&self.shared.parts).is_fresh(&PartialKey { key: key.clone(), origin: scope.origin.clone() })
    }

    /// Drops the parts held of an asset from the request's origin.
    pub fn drop_partial(&self, key: &AssetKey, scope: &Scope) {
        self.forget_parts(key, Stem::of(key), scope);
        self.shared.queue.notify();
    }

    fn forget_parts(&self, key: &AssetKey, stem: Stem, scope: &Scope) {
        let shared = &self.shared;
        let whose = PartialKey { key: key.clone(), origin: scope.origin.clone() };
        let mut queue = shared.queue.lock();
        lock(&shared.parts).remove(&whose);
        if shared.disk.is_none() {
            return;
        }
        let on_disk = lock(&shared.index).may_have(FileId::parts(stem, &scope.origin));
        if on_disk || queue.waiting_parts(&whose).is_some() {
            queue.push_parts(&whose, Parts::Drop, Instant::now(), shared.queue_cap);
        }
    }

    /// Forgets everything. The files go in the background; [`LocalCache::flush`] waits for that.
    pub fn clear(&self) {
        let mut queue = self.shared.queue.lock();
        queue.forget_bodies();
        self.shared.forget_memory();
        queue.push(Job::Clear);
        drop(queue);
        self.shared.queue.notify();
    }

    /// Changes the cap of the disk tier; what no longer fits is evicted in the background.
    pub fn set_disk_bytes(&self, disk_bytes: u64) {
        self.shared.disk_cap.store(disk_bytes, Ordering::Relaxed);
        lock(&self.shared.index).set_pin_cap(pinned_share(disk_bytes));
        self.shared.queue.lock().push(Job::Trim);
        self.shared.queue.notify();
    }

    /// Keeps these assets from eviction instead of those that were named before, as far as they are here or
    /// come, and as far as half of the disk tier has room for them.
    pub fn pin<'a>(&self, keys: impl IntoIterator<Item = &'a AssetKey>) {
        let stems = keys.into_iter().map(Stem::of).collect();
        lock(&self.shared.index).pin(stems, pinned_share(self.shared.disk_cap()));
    }

    /// How many of these assets are whole on disk, and the bytes they take there.
    #[must_use]
    pub fn size_of<'a>(&self, keys: impl IntoIterator<Item = &'a AssetKey>) -> (u64, u64) {
        lock(&self.shared.index).size_of(keys.into_iter().map(Stem::of))
    }

    /// Waits until the start-up scan is over and everything given so far is written (or failed).
    pub async fn flush(&self) {
        let (done, finished) = oneshot::channel();
        self.shared.queue.lock().push(Job::Flush(done));
        self.shared.queue.notify();
        if self.shared.disk.is_some() {
            // An error means that the writer ended first, having written everything.
            let _ = finished.await;
        }
    }

    /// Writes what waits and the usage hints, and ends the background thread; waits 5 s at most.
    /// Other clones go on with what is in memory and on disk, and store nothing more on disk.
    pub async fn close(self) {
        self.shared.queue.close();
        let mut ended = self.shared.ended.subscribe();
        let _ = tokio::time::timeout(CLOSE_WAIT, ended.wait_for(|ended| *ended)).await;
    }

    /// The sizes now.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let (memory_objects, memory_bytes) = lock(&shared.memory).size();
        let (partial_objects, partial_bytes) = lock(&shared.parts).size();
        let ((disk_objects, disk_bytes), pinned_bytes) = {
            let index = lock(&shared.index);
            (index.size(), index.held_bytes())
        };
        let disk_limit = if shared.disk.is_some() { shared.disk_cap() } else { 0 };
        CacheStats {
            memory_objects,
            memory_bytes,
            memory_limit: shared.memory_cap,
            partial_objects,
            partial_bytes,
            disk_objects,
            disk_bytes,
            disk_limit,
            pinned_bytes,
            pinned_limit: pinned_share(disk_limit),
            queue_bytes: shared.queue.bytes(),
            scanning: !shared.scanned.load(Ordering::Acquire),
        }
    }
}

/// What of the disk tier pinned assets may take: a store that could not take in anything new would be none.
const fn pinned_share(disk_bytes: u64) -> u64 {
    disk_bytes / 2
}

/// Says that the writer has ended, also when it ended by a panic.
struct EndSignal(Arc<Shared>);

impl Drop for EndSignal {
    fn drop(&mut self) {
        self.0.queue.close();
        self.0.queue.lock().abandon();
        self.0.ended.send_replace(true);
    }
}

fn names_fit(key: &AssetKey, origin: &crate::grid::Origin) -> bool {
    key.grid.as_str().len() <= MAX_NAME && origin.as_str().len() <= MAX_NAME
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A panic elsewhere must not take the store down: every change under these locks is whole by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
