//! A look at a store from outside, which takes nothing away and locks nobody out: how large it is,
//! whether somebody uses it, and whether some of its files are as they were written.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::disk::{Disk, ReadFault};
use super::files::{FileId, Part, RealFiles, on_disk, shard_name};
use super::format::{Header, MAX_HEADER};

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Files that hold assets.
    pub files: u64,
    /// Bytes they take, rounded up to 4 KiB each.
    pub bytes: u64,
    /// Whether all were counted in the time there was.
    pub complete: bool,
    /// Files read whole and checked.
    pub checked: u64,
    /// Of these, files whose bytes are not those that were written.
    pub damaged: u64,
    /// Of these, files that the system does not let us read.
    pub unreadable: u64,
}

/// Whether a process uses the store in this directory now.
///
/// # Errors
/// When the directory, or its lock, cannot be opened for another reason than not being there.
pub fn is_in_use(dir: &Path) -> io::Result<bool> {
    let lock = match File::open(dir.join("lock")) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    Ok(matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Counts the store's files, and checks at most `samples` of them whole, spread over all of it. Ends after
/// `limit` in any case.
///
/// # Errors
/// When the directory cannot be read.
pub fn inspect(dir: &Path, samples: u64, limit: Duration) -> io::Result<Inspection> {
    let until = Instant::now() + limit;
    let mut found = Inspection { complete: true, ..Inspection::default() };
    if let Err(error) = fs::read_dir(dir) {
        return if error.kind() == io::ErrorKind::NotFound { Ok(found) } else { Err(error) };
    }
    let disk = Disk { root: dir.to_owned(), files: std::sync::Arc::new(RealFiles) };
    // A few of each shard: names are hashes, so that any few are a fair choice.
    let share = samples.div_ceil(256);
    for shard in 0..=u8::MAX {
        let Ok(entries) = fs::read_dir(dir.join(shard_name(shard))) else { continue };
        let mut here = 0;
        for entry in entries.flatten() {
            if Instant::now() > until {
                found.complete = false;
                return Ok(found);
            }
            let Some(id) = entry.file_name().to_str().and_then(FileId::from_name) else { continue };
            let Ok(about) = entry.metadata() else { continue };
            found.files += 1;
            found.bytes = found.bytes.saturating_add(on_disk(about.len()));
            if here < share && found.checked < samples && matches!(id.part, Part::Whole(_)) {
                here += 1;
                check(&disk, id, &mut found);
            }
        }
    }
    Ok(found)
}

fn check(disk: &Disk, id: FileId, found: &mut Inspection) {
    let read = disk.files.read(&id.path(&disk.root), MAX_HEADER as u64).map_err(ReadFault::from).and_then(
        |(bytes, _)| {
            let (header, _) = Header::decode(&bytes)?;
            disk.read_whole(id, &header.key).map(drop)
        },
    );
    match read {
        // Evicted meanwhile.
        Err(ReadFault::Missing) => return,
        Err(ReadFault::Rotten(_)) => found.damaged += 1,
        Err(ReadFault::Unreadable(_)) => found.unreadable += 1,
        Ok(()) | Err(ReadFault::Foreign) => {}
    }
    found.checked += 1;
}
