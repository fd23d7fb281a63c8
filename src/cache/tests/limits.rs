//! The cap, the queue's bound, the deadline, and a store that opens at once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::{DISK_ONLY, LARGE, Moody, asset, at, body, bytes_in, config, key, open, open_on, whole};
use crate::cache::files::{FileId, Files, RealFiles, Stem};
use crate::cache::{LocalCache, Lookup};
use crate::support::metrics::{Counter, Metrics};

/// Measures the directory after every change.
struct Measured {
    root: PathBuf,
    most: AtomicU64,
}

impl Measured {
    fn measure(&self) {
        self.most.fetch_max(bytes_in(&self.root), Ordering::SeqCst);
    }
}

impl Files for Measured {
    fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        RealFiles.read(path, limit)
    }

    fn write(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
        let done = RealFiles.write(path, pieces);
        self.measure();
        done
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let done = RealFiles.rename(from, to);
        self.measure();
        done
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
}

#[tokio::test]
async fn the_directory_never_takes_more_than_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    let cap = 400 << 10;
    let files = Arc::new(Measured { root: dir.path().to_owned(), most: AtomicU64::new(0) });
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..3 {
        let (cache, metrics) = open_on(dir.path(), cap, DISK_ONLY, files.clone());
        for _ in 0..150 {
            let number = random.random_range(0..60);
            let len = random.random_range(1..50_000_usize);
            let origin = if random.random_bool(0.5) { "a" } else { "b" };
            if random.random_bool(0.3) {
                let extents = [(random.random_range(0..1000), body(number, len))];
                cache.add_partial(&key(number), &at(origin), 60_000, &extents);
            } else {
                cache.put(key(number), &at(origin), asset(number, len));
            }
        }
        cache.flush().await;
        assert!(metrics.get(Counter::StoreEvictions) > 0, "the cap was put to the test");
        assert_eq!(cache.stats().disk_bytes, bytes_in(dir.path()), "the account is right");
        cache.close().await;
    }
    let most = files.most.load(Ordering::SeqCst);
    assert!(most <= cap, "{most} bytes at one time, {cap} allowed");
    assert!(most > cap / 2, "{most} bytes: the room is used");
}

#[tokio::test]
async fn a_smaller_cap_is_kept_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    for number in 0..50 {
        cache.put(key(number), &at("a"), asset(number, 8000));
    }
    cache.flush().await;
    cache.set_disk_bytes(100 << 10);
    cache.flush().await;
    assert!(bytes_in(dir.path()) <= 100 << 10);
    cache.close().await;
    let (cache, _) = open(dir.path(), 50 << 10, DISK_ONLY);
    cache.flush().await;
    assert!(bytes_in(dir.path()) <= 50 << 10);
    assert!(cache.stats().disk_objects > 0);
}

#[tokio::test]
async fn what_is_over_a_quarter_of_the_cap_is_not_stored() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, metrics) = open(dir.path(), 100 << 10, LARGE);
    cache.put(key(1), &at("a"), asset(1, 26 << 10));
    cache.put(key(2), &at("a"), asset(2, 10 << 10));
    cache.flush().await;
    assert_eq!(metrics.get(Counter::StoreWritesSkipped), 1);
    assert_eq!(cache.stats().disk_objects, 1);
    assert!(cache.get_memory(&key(1), &at("a")).is_some());
}

#[tokio::test]
async fn a_full_queue_skips_writes_and_forgets_what_they_would_have_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.close().await;

    let files = Arc::new(Moody::default());
    files.set_stuck(true);
    let metrics = Arc::new(Metrics::default());
    let mut config = config(dir.path(), LARGE, DISK_ONLY);
    config.queue_bytes = 20_000;
    let cache = LocalCache::open_on(config, Arc::clone(&metrics), files.clone()).unwrap();
    for number in 10..20 {
        cache.put(key(number), &at("a"), asset(number, 5000));
    }
    cache.put(key(1), &at("a"), asset(2, 5000));
    assert!(cache.stats().queue_bytes <= 20_000);
    files.set_stuck(false);
    cache.flush().await;
    assert_eq!(metrics.get(Counter::StoreWritesSkipped), 8);
    assert_eq!(metrics.get(Counter::StoreWrites), 3);
    assert_eq!(whole(&cache, 1, &at("a")).await, None, "its origin says something else now");
}

#[tokio::test]
async fn a_stuck_disk_is_a_miss_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    for number in 0..8 {
        cache.put(key(number), &at("a"), asset(number, 100));
    }
    cache.close().await;

    let files = Arc::new(Moody::default());
    let metrics = Arc::new(Metrics::default());
    let mut config = config(dir.path(), LARGE, LARGE);
    config.read_deadline = Duration::from_millis(20);
    config.reads = 4;
    let cache = LocalCache::open_on(config, Arc::clone(&metrics), files.clone()).unwrap();
    cache.flush().await;
    files.set_stuck(true);
    for number in 0..8 {
        assert!(matches!(cache.get(&key(number), &at("a")).await, Lookup::Busy));
    }
    assert_eq!(metrics.get(Counter::StoreBusy), 8);
    assert!(matches!(cache.get(&key(99), &at("a")).await, Lookup::Miss), "absence needs no disk");
    files.set_stuck(false);
    // A read that came too late still brings its asset into memory.
    while cache.get_memory(&key(0), &at("a")).is_none() {
        tokio::task::yield_now().await;
    }
    while matches!(cache.get(&key(7), &at("a")).await, Lookup::Busy) {}
    assert_eq!(cache.get_memory(&key(7), &at("a")).unwrap().bytes, body(7, 100));
}

#[tokio::test]
async fn a_large_store_serves_before_it_has_been_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, _) = open(dir.path(), LARGE, DISK_ONLY);
    cache.put(key(1), &at("a"), asset(1, 100));
    cache.add_partial(&key(2), &at("a"), 1000, &[(0, body(2, 10))]);
    cache.close().await;
    for number in 0..5_000_u32 {
        let mut stem = [0; 16];
        blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut stem);
        let path = FileId::whole(Stem(stem), 0).path(dir.path());
        RealFiles.write(&path, &[b"anything"]).unwrap();
    }
    // The scan starts with the usage file; it is held there.
    let files = Arc::new(HeldUsage::default());
    let (cache, _) = open_on(dir.path(), 1 << 30, DISK_ONLY, files.clone());
    assert_eq!(whole(&cache, 1, &at("a")).await, Some(body(1, 100)));
    assert!(matches!(cache.get(&key(2), &at("a")).await, Lookup::Partial(_)));
    assert!(whole(&cache, 3, &at("a")).await.is_none());
    cache.put(key(3), &at("a"), asset(3, 100));
    assert!(whole(&cache, 3, &at("a")).await.is_some());
    assert!(cache.stats().scanning);
    files.0.set_stuck(false);
    cache.flush().await;
    assert!(!cache.stats().scanning);
    assert_eq!(cache.stats().disk_objects, 5_003);
    assert_eq!(cache.stats().disk_bytes, bytes_in(dir.path()));
    assert!(fs::exists(FileId::whole(Stem::of(&key(3)), 0).path(dir.path())).unwrap());
}

/// Holds whoever reads the usage file until told otherwise.
struct HeldUsage(Moody);

impl Default for HeldUsage {
    fn default() -> Self {
        let moody = Moody::default();
        moody.set_stuck(true);
        Self(moody)
    }
}

impl Files for HeldUsage {
    fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        if path.ends_with("usage") { self.0.read(path, limit) } else { RealFiles.read(path, limit) }
    }

    fn write(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
        RealFiles.write(path, pieces)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
}

#[tokio::test]
async fn pinned_assets_outlive_a_flood_and_a_restart_up_to_half_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    // Each file takes 8 KiB: 30 of them are the whole store, 15 may be pinned.
    let cap = 240 << 10;
    let pinned: Vec<_> = (0..6).map(key).collect();
    let (cache, metrics) = open(dir.path(), cap, DISK_ONLY);
    // Some are pinned before they are here.
    cache.put(key(0), &at("a"), asset(0, 8000));
    cache.flush().await;
    cache.pin(&pinned);
    for number in (1..6).chain(1000..1100) {
        cache.put(key(number), &at("a"), asset(number, 8000));
        cache.flush().await;
    }
    assert!(metrics.get(Counter::StoreEvictions) > 60, "the cap was put to the test");
    assert_eq!(cache.size_of(&pinned).0, 6);
    let stats = cache.stats();
    assert_eq!((stats.pinned_bytes, stats.pinned_limit), (cache.size_of(&pinned).1, cap / 2));
    cache.close().await;

    let (cache, _) = open(dir.path(), cap, DISK_ONLY);
    cache.pin(&pinned);
    cache.flush().await;
    let many: Vec<_> = (0..6).chain(2000..2030).map(key).collect();
    cache.pin(&many);
    for number in 2000..2100 {
        cache.put(key(number), &at("a"), asset(number, 8000));
        cache.flush().await;
    }
    let stats = cache.stats();
    assert!(stats.pinned_bytes <= cap / 2, "{stats:?}");
    assert_eq!(cache.size_of(&pinned).0, 6, "those that were there first");
    assert!(whole(&cache, 2099, &at("a")).await.is_some(), "there is room for what is new");
    cache.set_disk_bytes(100 << 10);
    cache.flush().await;
    assert!(bytes_in(dir.path()) <= 100 << 10 && cache.stats().pinned_bytes <= 50 << 10);
    cache.pin(&[]);
    assert_eq!(cache.stats().pinned_bytes, 0);
}
