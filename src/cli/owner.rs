//! One proxy for each data directory: who runs it, and where the others find it.
//!
//! The lock is what counts; the note beside it says where the control port is, and is believed only while
//! somebody holds the lock, so that nobody shows the control token to a stranger.

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::support::private_file;

/// The lock's file within the data directory.
const LOCK_NAME: &str = "proxy.lock";
/// The note's file within the data directory.
const NOTE_NAME: &str = "running.json";
/// The lock around changes of files that several starts may make at once.
const CHANGES_NAME: &str = "changes.lock";

/// Held by whoever runs the proxy.
#[derive(Debug)]
pub(super) struct Owner {
    note: PathBuf,
    /// Its end ends the lock. `None` where the file system knows no locks.
    _lock: Option<File>,
}

/// Where the running proxy is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    version: u32,
    /// Its control port. `None`: it has none, and cannot be asked anything.
    pub(super) control: Option<SocketAddr>,
}

impl Owner {
    /// Becomes the owner, unless there is one.
    pub(super) fn try_take(data_dir: &Path) -> io::Result<Option<Self>> {
        let file = open(&data_dir.join(LOCK_NAME))?;
        let lock = match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                tracing::debug!(%error, "the data directory cannot be locked");
                None
            }
        };
        let owner = Self { note: data_dir.join(NOTE_NAME), _lock: lock };
        owner.forget();
        Ok(Some(owner))
    }

    /// Tells the others where the control port is.
    pub(super) fn announce(&self, control: Option<SocketAddr>) -> io::Result<()> {
        let note = serde_json::to_vec(&Note { version: 1, control }).map_err(io::Error::other)?;
        private_file::replace(&self.note, &note)
    }

    fn forget(&self) {
        // There usually is none.
        let _ = std::fs::remove_file(&self.note);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Where the running proxy is, as its owner says. To be asked only while somebody else has the lock.
pub(super) fn running(data_dir: &Path) -> Option<Note> {
    let note: Note = serde_json::from_slice(&std::fs::read(data_dir.join(NOTE_NAME)).ok()?).ok()?;
    (note.version == 1).then_some(note)
}

/// Keeps other starts from changing files of the data directory as long as it is kept. Waits for them: they
/// are at it for a moment only.
pub(super) fn changes(data_dir: &Path) -> Option<File> {
    let file = open(&data_dir.join(CHANGES_NAME)).ok()?;
    file.lock().ok().map(|()| file)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Owner, running};

    #[test]
    fn there_is_one_owner_at_a_time_and_its_note_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let owner = Owner::try_take(dir.path()).unwrap().unwrap();
        assert!(Owner::try_take(dir.path()).unwrap().is_none());
        assert_eq!(running(dir.path()), None);
        let control = Some("127.0.0.1:9079".parse().unwrap());
        owner.announce(control).unwrap();
        assert_eq!(running(dir.path()).unwrap().control, control);
        drop(owner);
        assert_eq!(running(dir.path()), None);
        assert!(Owner::try_take(dir.path()).unwrap().is_some());
    }

    #[test]
    fn what_a_killed_owner_left_behind_goes_when_another_begins() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("running.json"), r#"{"version":1,"control":"127.0.0.1:1"}"#).unwrap();
        let _owner = Owner::try_take(dir.path()).unwrap().unwrap();
        assert_eq!(running(dir.path()), None);
    }
}
