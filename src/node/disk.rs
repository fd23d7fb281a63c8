//! The disk tier: sealed blobs, or pieces of large ones, byte for byte as they are in the store. Bounded,
//! found again after a restart, and never believed: whoever opens a file finds any damage, drops it and
//! asks the store again. So nothing here is synced, and a file that was half written does no harm.
//!
//! ```text
//!  DIR/ab/<name>-<piece>-<day>     piece: whole, head, or the number of a piece; day of fetching, from 1970
//!  DIR/lock                        held by the node that uses the folder
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::contents::Piece;
use crate::store::keys::BlobName;
use crate::support::files;

/// What a file costs beside its bytes: its inode, and the rest of its last block.
const FILE_BYTES: u64 = 4096;
/// No file is kept longer after it was fetched, however often it is read: what was taken down is gone
/// here too when it is destroyed in the hold.
const KEEP_DAYS: u32 = 30;
/// How exactly the last use is written to the file.
const USE_NOTED: Duration = Duration::from_secs(3600);

/// Why there is no disk tier.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another node has it.
    #[error("another node uses the hot folder {0}; give each its own with --hot-dir")]
    Taken(PathBuf),
    /// It cannot be read or written.
    #[error("cannot use the hot folder {path}: {source}; choose another with --hot-dir")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

type Key = (BlobName, Piece);

#[derive(Clone, Copy, Debug)]
struct Entry {
    bytes: u64,
    day: u32,
    used: u64,
    noted: SystemTime,
}

#[derive(Debug, Default)]
struct Index {
    entries: BTreeMap<Key, Entry>,
    order: BTreeMap<u64, Key>,
    bytes: u64,
    clock: u64,
}

impl Index {
    fn insert(&mut self, key: Key, bytes: u64, day: u32, noted: SystemTime) {
        self.remove(&key);
        self.clock += 1;
        let used = self.clock;
        self.entries.insert(key, Entry { bytes, day, used, noted });
        self.order.insert(used, key);
        self.bytes += bytes + FILE_BYTES;
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used);
        self.bytes -= entry.bytes + FILE_BYTES;
        Some(entry)
    }

    fn touch(&mut self, key: &Key) -> Option<&mut Entry> {
        self.clock += 1;
        let entry = self.entries.get_mut(key)?;
        self.order.remove(&entry.used);
        entry.used = self.clock;
        self.order.insert(entry.used, *key);
        Some(entry)
    }
}

/// The disk tier of a node.
#[derive(Debug)]
pub(super) struct DiskTier {
    folder: PathBuf,
    limit: u64,
    index: Mutex<Index>,
    /// Held as long as the node runs.
    _lock: File,
}

impl DiskTier {
    /// Opens the tier in a folder, which is made, and finds what is there.
    ///
    /// # Errors
    /// When the folder cannot be used, or another node uses it.
    pub(super) fn open(folder: &Path, limit: u64) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Io { path: folder.to_owned(), source };
        fs::create_dir_all(folder).map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DiskError::Taken(folder.to_owned())),
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        let tier = Self { folder: folder.to_owned(), limit, index: Mutex::default(), _lock: lock };
        let mut found = tier.scan(today()).map_err(failed)?;
        found.sort_by_key(|(noted, ..)| *noted);
        let mut index = tier.lock();
        for (noted, key, bytes, day) in found {
            index.insert(key, bytes, day, noted);
        }
        let surplus = tier.surplus(&mut index);
        drop(index);
        tier.delete(surplus);
        Ok(tier)
    }

    /// Every file that is one of ours. What else lies in a folder of ours was half written, or is too old.
    fn scan(&self, today: u32) -> io::Result<Vec<(SystemTime, Key, u64, u32)>> {
        let mut found = Vec::new();
        for shard in (0..=u8::MAX).map(|shard| self.folder.join(format!("{shard:02x}"))) {
            let entries = match fs::read_dir(&shard) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let Ok(about) = entry.metadata() else { continue };
                if !about.is_file() {
                    continue;
                }
                match entry.file_name().to_str().and_then(parse) {
                    Some((key, day)) if day.saturating_add(KEEP_DAYS) >= today => {
                        found.push((about.modified().unwrap_or(UNIX_EPOCH), key, about.len(), day));
                    }
                    _ => {
                        let _ = fs::remove_file(entry.path());
                    }
                }
            }
        }
        Ok(found)
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, key: &Key, day: u32) -> PathBuf {
        let name = key.0.to_string();
        let piece = match key.1 {
            Piece::Whole => "whole".to_owned(),
            Piece::Head => "head".to_owned(),
            Piece::Body(number) => number.to_string(),
        };
        self.folder.join(name.get(..2).unwrap_or_default()).join(format!("{name}-{piece}-{day}"))
    }

    /// A piece, sealed, as it was put here or damaged since.
    pub(super) fn get(&self, name: &BlobName, piece: Piece) -> Option<Vec<u8>> {
        let key = (*name, piece);
        let (day, noted) = {
            let mut index = self.lock();
            let entry = index.touch(&key)?;
            let noted = entry.noted;
            let now = SystemTime::now();
            let worth = now.duration_since(noted).is_ok_and(|since| since > USE_NOTED);
            if worth {
                entry.noted = now;
            }
            (entry.day, worth.then_some(now))
        };
        if day.saturating_add(KEEP_DAYS) < today() {
            self.drop_piece(&key);
            return None;
        }
        let path = self.path(&key, day);
        if let Some(now) = noted
            && let Ok(file) = File::options().append(true).open(&path)
        {
            // After a restart the order is as exact as this.
            let _ = file.set_modified(now);
        }
        let bytes = fs::read(path).ok();
        if bytes.is_none() {
            self.drop_piece(&key);
        }
        bytes
    }

    /// Keeps a piece. A disk that is full or fails keeps nothing, and nobody waits for it.
    pub(super) fn put(&self, name: &BlobName, piece: Piece, sealed: &[u8]) {
        let cost = sealed.len() as u64 + FILE_BYTES;
        if cost > self.limit {
            return;
        }
        let (key, day) = ((*name, piece), today());
        let path = self.path(&key, day);
        if let Err(error) = write(&path, sealed) {
            tracing::debug!(%error, "the disk tier keeps nothing");
            return;
        }
        let mut index = self.lock();
        let old = index.remove(&key).filter(|old| old.day != day).map(|old| self.path(&key, old.day));
        index.insert(key, sealed.len() as u64, day, SystemTime::now());
        let surplus = self.surplus(&mut index);
        drop(index);
        self.delete(old.into_iter().chain(surplus));
    }

    /// Drops all pieces of a blob.
    pub(super) fn drop_blob(&self, name: &BlobName) {
        let keys: Vec<Key> = {
            let all = (*name, Piece::Whole)..=(*name, Piece::Body(u16::MAX));
            self.lock().entries.range(all).map(|(key, _)| *key).collect()
        };
        keys.iter().for_each(|key| self.drop_piece(key));
    }

    /// Drops what was fetched too long ago, though nobody asked for it since.
    pub(super) fn sweep(&self) {
        let last = today().saturating_sub(KEEP_DAYS);
        let old: Vec<Key> =
            self.lock().entries.iter().filter(|(_, entry)| entry.day < last).map(|(key, _)| *key).collect();
        old.iter().for_each(|key| self.drop_piece(key));
    }

    fn drop_piece(&self, key: &Key) {
        let dropped = self.lock().remove(key);
        self.delete(dropped.map(|entry| self.path(key, entry.day)));
    }

    /// Takes what is too much out of the index, what was used longest ago first.
    fn surplus(&self, index: &mut Index) -> Vec<PathBuf> {
        let mut surplus = Vec::new();
        while index.bytes > self.limit {
            let Some(oldest) = index.order.values().next().copied() else { break };
            if let Some(entry) = index.remove(&oldest) {
                surplus.push(self.path(&oldest, entry.day));
            }
        }
        surplus
    }

    #[allow(clippy::unused_self)]
    fn delete(&self, paths: impl IntoIterator<Item = PathBuf>) {
        for path in paths {
            let _ = fs::remove_file(path);
        }
    }

    /// Bytes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().bytes
    }
}

fn today() -> u32 {
    let days = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    u32::try_from(days).unwrap_or(u32::MAX)
}

/// Writes a file whole or not at all; its temporary name is none of ours, so a scan removes it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("new-{:016x}", rand::random::<u64>()));
    let written = File::create_new(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| files::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn parse(file: &str) -> Option<(Key, u32)> {
    let mut parts = file.split('-');
    let (name, piece, day) = (parts.next()?, parts.next()?, parts.next()?);
    let piece = match piece {
        "whole" => Piece::Whole,
        "head" => Piece::Head,
        number => Piece::Body(number.parse().ok()?),
    };
    parts.next().is_none().then_some(((BlobName::parse(name)?, piece), day.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::{Path, PathBuf};

    use super::{BlobName, DiskError, DiskTier, FILE_BYTES, Piece, today};

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for shard in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if shard.is_dir() {
                all.extend(std::fs::read_dir(shard).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
        all
    }

    fn name(number: u8) -> BlobName {
        BlobName([number; 32])
    }

    #[test]
    fn what_is_put_is_found_again_after_a_restart_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let limit = 10 * (1000 + FILE_BYTES);
        let tier = DiskTier::open(folder.path(), limit).unwrap();
        assert!(matches!(DiskTier::open(folder.path(), limit), Err(DiskError::Taken(_))));
        for number in 0..10 {
            tier.put(&name(number), Piece::Whole, &[number; 1000]);
        }
        assert_eq!((tier.bytes(), files(folder.path()).len()), (limit, 10));
        assert_eq!(tier.get(&name(0), Piece::Whole).unwrap(), [0; 1000]);
        assert_eq!(tier.get(&name(0), Piece::Head), None);
        // The eleventh takes the place of what was used longest ago.
        tier.put(&name(10), Piece::Body(3), &[10; 1000]);
        assert!(tier.get(&name(0), Piece::Whole).is_some() && tier.get(&name(1), Piece::Whole).is_none());
        tier.put(&name(11), Piece::Whole, &vec![1; usize::try_from(limit).unwrap()]);
        assert_eq!((tier.bytes(), files(folder.path()).len()), (limit, 10), "what is too large is not kept");
        drop(tier);

        let old = folder.path().join("02").join(format!("{}-whole-{}", name(2), today() - 31));
        std::fs::rename(folder.path().join("02").join(format!("{}-whole-{}", name(2), today())), old)
            .unwrap();
        std::fs::write(folder.path().join("03").join("half.new-0000"), b"half").unwrap();
        let tier = DiskTier::open(folder.path(), 5 * (1000 + FILE_BYTES)).unwrap();
        assert_eq!((tier.bytes(), files(folder.path()).len()), (5 * (1000 + FILE_BYTES), 5));
        drop(tier);
        let tier = DiskTier::open(folder.path(), limit).unwrap();
        assert_eq!(tier.get(&name(2), Piece::Whole), None, "fetched too long ago");
        for piece in [Piece::Head, Piece::Body(0), Piece::Body(63), Piece::Whole] {
            tier.put(&name(40), piece, b"sealed");
        }
        tier.put(&name(41), Piece::Whole, b"another's");
        tier.drop_blob(&name(40));
        assert_eq!(tier.get(&name(40), Piece::Body(63)), None);
        assert!(tier.get(&name(41), Piece::Whole).is_some());
        let before = files(folder.path()).len();
        tier.put(&name(42), Piece::Whole, b"old");
        let young = tier.path(&(name(42), Piece::Whole), today());
        std::fs::rename(young, tier.path(&(name(42), Piece::Whole), today() - 31)).unwrap();
        tier.lock().entries.get_mut(&(name(42), Piece::Whole)).unwrap().day -= 31;
        tier.sweep();
        assert_eq!(files(folder.path()).len(), before, "swept without being asked for");
        std::fs::remove_dir_all(folder.path().join("29")).unwrap();
        assert_eq!(tier.get(&name(41), Piece::Whole), None, "somebody removed the file");
    }
}
