//! Tests of the whole store, over real directories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use bytes::Bytes;
use uuid::Uuid;

use super::files::{Files, RealFiles};
use super::{CacheConfig, LocalCache, Lookup, Scope};
use crate::asset::{Asset, AssetId, AssetKey, AssetKind, Digest};
use crate::grid::{GridId, Origin};
use crate::support::metrics::Metrics;

mod contract;
mod damage;
mod fixture;
mod kill;
mod limits;
mod model;
mod parts;

/// No memory to speak of: every answer comes from disk.
const DISK_ONLY: u64 = 0;
const LARGE: u64 = 64 << 20;

fn key(number: u32) -> AssetKey {
    AssetKey {
        grid: GridId::new("grid.example"),
        kind: AssetKind::ALL[number as usize % AssetKind::ALL.len()],
        id: AssetId(Uuid::from_u128(u128::from(number) << 7)),
    }
}

fn at(origin: &str) -> Scope {
    Scope { origin: Origin::new(origin), central: false }
}

/// Bytes that are told by their number alone.
fn body(number: u32, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

fn asset(number: u32, len: usize) -> Asset {
    let bytes = body(number, len);
    Asset { digest: Digest::of(&bytes), bytes }
}

fn config(dir: &Path, disk_bytes: u64, memory_bytes: u64) -> CacheConfig {
    let mut config = CacheConfig::new(dir, disk_bytes, memory_bytes);
    // The machine of a test may be busy; only the test of the deadline wants a short one.
    config.read_deadline = std::time::Duration::from_secs(30);
    config
}

fn open(dir: &Path, disk_bytes: u64, memory_bytes: u64) -> (LocalCache, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (LocalCache::open(config(dir, disk_bytes, memory_bytes), Arc::clone(&metrics)).unwrap(), metrics)
}

fn open_on(
    dir: &Path,
    disk_bytes: u64,
    memory_bytes: u64,
    files: Arc<dyn Files>,
) -> (LocalCache, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let config = config(dir, disk_bytes, memory_bytes);
    (LocalCache::open_on(config, Arc::clone(&metrics), files).unwrap(), metrics)
}

async fn whole(cache: &LocalCache, number: u32, scope: &Scope) -> Option<Bytes> {
    match cache.get(&key(number), scope).await {
        Lookup::Hit { asset, .. } => {
            assert_eq!(Digest::of(&asset.bytes), asset.digest);
            Some(asset.bytes)
        }
        Lookup::Partial(_) | Lookup::Miss => None,
        Lookup::Busy => panic!("nothing is slow here"),
    }
}

/// All files below a directory.
fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_in(&entry.path())),
            Ok(_) => files.push(entry.path()),
            Err(_) => {}
        }
    }
    files
}

/// The files of assets and parts.
fn stored_files(dir: &Path) -> Vec<PathBuf> {
    files_in(dir).into_iter().filter(|path| path.parent() != Some(dir)).collect()
}

/// What the files take, counted as the cap counts them.
fn bytes_in(dir: &Path) -> u64 {
    let sizes = files_in(dir).into_iter().filter_map(|path| fs::metadata(path).ok());
    sizes.map(|data| data.len().div_ceil(4096) * 4096).sum()
}

/// A file system that can be full, or stuck.
#[derive(Default)]
struct Moody {
    full: AtomicBool,
    stuck: Mutex<bool>,
    moved: Condvar,
}

impl Moody {
    fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn set_stuck(&self, stuck: bool) {
        *self.stuck.lock().unwrap() = stuck;
        self.moved.notify_all();
    }
}

impl Files for Moody {
    fn read(&self, path: &Path, limit: u64) -> io::Result<(Vec<u8>, u64)> {
        drop(self.moved.wait_while(self.stuck.lock().unwrap(), |stuck| *stuck).unwrap());
        RealFiles.read(path, limit)
    }

    fn write(&self, path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            // As a full disk does it: a part is written first.
            RealFiles.write(path, &pieces[..1])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        RealFiles.write(path, pieces)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealFiles.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealFiles.remove(path)
    }
}
