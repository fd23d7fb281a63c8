//! The data directory and the store in it.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{CheckResult, Setup};
use crate::cache::inspect::{self, Inspection};
use crate::support::status::human_bytes;

/// Files that are read whole to see whether the store is sound.
const SAMPLES: u64 = 256;
/// How long the store is looked at.
const STORE_LIMIT: Duration = Duration::from_secs(5);
/// With less than this the disk is all but full.
const LITTLE_SPACE: u64 = 64 << 20;
/// What a disk must take and give back.
const TRIAL_BYTES: usize = 64 << 10;

/// What was seen of the data directory.
#[derive(Debug, PartialEq, Eq)]
enum Folder {
    /// It is not there, but can be made.
    NotYet,
    /// It is there, and takes what it is given.
    Works,
    /// Something else has its name.
    Occupied(PathBuf),
    /// It does not work.
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// We may not write there.
    Forbidden,
    /// The disk takes no writes.
    ReadOnly,
    /// There is no room.
    Full,
    /// What was read is not what was written.
    Forgetful,
    /// Anything else.
    Other(io::ErrorKind),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::Forbidden,
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full
            }
            other => Self::Other(other),
        }
    }
}

/// Looks at the data directory, its disk, and the store. Blocks.
pub(super) fn look(setup: &Setup, page_answers: Option<bool>) -> Vec<CheckResult> {
    let dir = &setup.data_dir;
    let folder = folder(dir);
    let sound = matches!(folder, Folder::Works);
    let mut results = vec![judge_folder(dir, &folder)];
    let existing = nearest(dir);
    let free = existing.as_ref().and_then(|at| fs4::available_space(at).ok());
    let store = dir.join("assets");
    let seen = if sound { inspect::inspect(&store, SAMPLES, STORE_LIMIT) } else { Ok(Inspection::default()) };
    let stored = seen.as_ref().map_or(0, |seen| seen.bytes);
    results.push(judge_space(free, setup.cache_bytes, stored));
    if sound {
        let place = store.symlink_metadata().ok().filter(|found| !found.is_dir() && !store.is_dir());
        results.push(match place {
            Some(_) => judge_store(&store, None, setup.cache_bytes),
            None => judge_store(&store, Some(&seen), setup.cache_bytes),
        });
        results.push(judge_use(inspect::is_in_use(&store).ok(), setup.inside, page_answers, setup));
    } else {
        let why = if folder == Folder::NotYet {
            "There is no store yet."
        } else {
            "The data folder does not work."
        };
        results.push(CheckResult::skipped("store", why));
        results.push(CheckResult::skipped("data_dir_use", why));
    }
    results
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(dir: &Path) -> Option<PathBuf> {
    dir.ancestors()
        .find(|place| place.exists() || place.as_os_str().is_empty())
        .map(|place| if place.as_os_str().is_empty() { PathBuf::from(".") } else { place.to_owned() })
}

fn folder(dir: &Path) -> Folder {
    let Some(existing) = nearest(dir) else { return Folder::Fault(Fault::Other(io::ErrorKind::NotFound)) };
    if !existing.is_dir() {
        return Folder::Occupied(existing);
    }
    match trial(&existing) {
        Ok(()) if existing == dir => Folder::Works,
        Ok(()) => Folder::NotYet,
        Err(fault) => Folder::Fault(fault),
    }
}

/// Writes a file, gives it another name, reads it back, and takes it away again.
fn trial(dir: &Path) -> Result<(), Fault> {
    let name = format!(".rezcache-check-{:016x}", rand::random::<u64>());
    let (first, second) = (dir.join(&name), dir.join(name + ".renamed"));
    // No two bytes in a row that a disk could make up, or a compressing one shrink.
    let mut bytes = vec![0; TRIAL_BYTES];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    let result = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&first)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&first, &second)?;
        let mut back = Vec::new();
        fs::File::open(&second)?.take(TRIAL_BYTES as u64 * 2).read_to_end(&mut back)?;
        if back == bytes { Ok(()) } else { Err(Fault::Forgetful) }
    })();
    for path in [&first, &second] {
        let _ = fs::remove_file(path);
    }
    result
}

fn judge_folder(dir: &Path, seen: &Folder) -> CheckResult {
    const NAME: &str = "data_dir";
    let dir = dir.display();
    let elsewhere = "or choose another folder with --data-dir.";
    let fault = match seen {
        Folder::Works => {
            return CheckResult::ok(NAME, format!("The data folder {dir} takes what is written to it."));
        }
        Folder::NotYet => {
            return CheckResult::ok(
                NAME,
                format!("The data folder {dir} is not there yet; the first start makes it."),
            );
        }
        Folder::Occupied(place) => {
            let seen = format!("{} is no folder, so nothing can be kept in {dir}.", place.display());
            return CheckResult::failed(
                NAME,
                seen,
                format!("Move or rename {}, {elsewhere}", place.display()),
            );
        }
        Folder::Fault(fault) => *fault,
    };
    let (seen, advice) = match fault {
        Fault::Forbidden => (
            format!("Nothing may be written to the data folder {dir}."),
            format!("Give your user the right to write there, {elsewhere}"),
        ),
        Fault::ReadOnly => (
            format!("The disk that holds the data folder {dir} is read-only."),
            format!("Make the disk writable, {elsewhere}"),
        ),
        Fault::Full => (
            format!("The disk that holds the data folder {dir} is full."),
            format!("Delete something there, {elsewhere}"),
        ),
        Fault::Forgetful => (
            format!("What is written to the data folder {dir} does not come back as it was."),
            "Have the disk checked: it loses data. Until then choose a folder on another disk with --data-dir.".to_owned(),
        ),
        Fault::Other(kind) => (
            format!("The data folder {dir} does not work: {kind}."),
            format!("See whether its disk is there and works, {elsewhere}"),
        ),
    };
    CheckResult::failed(NAME, seen, advice)
}

fn judge_space(free: Option<u64>, cache_bytes: u64, stored: u64) -> CheckResult {
    const NAME: &str = "disk_space";
    let Some(free) = free else {
        return CheckResult::skipped(NAME, "This system does not say how much room the disk has.");
    };
    let wanted = cache_bytes.saturating_sub(stored);
    let (room, size) = (human_bytes(free), human_bytes(cache_bytes));
    if free < LITTLE_SPACE {
        let seen = format!("The disk of the data folder is all but full: {room} are free.");
        return CheckResult::failed(
            NAME,
            seen,
            "Delete something on that disk, or choose a folder on another one with --data-dir.",
        );
    }
    if free < wanted {
        let seen =
            format!("{room} are free on the disk of the data folder, but the store may grow to {size}.");
        let advice = "Free some room, or give the store less with --cache-size; a full disk can trouble other programs.";
        return CheckResult::warning(NAME, seen, advice);
    }
    CheckResult::ok(
        NAME,
        format!("{room} are free on the disk of the data folder; the store may take {size}."),
    )
}

/// `seen` is `None` when something that is no folder has the store's place.
fn judge_store(store: &Path, seen: Option<&io::Result<Inspection>>, cache_bytes: u64) -> CheckResult {
    const NAME: &str = "store";
    let path = store.display();
    let away = format!("End rezcache, and move {path} away; it is made anew.");
    let seen = match seen {
        None => {
            return CheckResult::failed(NAME, format!("{path} is in the way: it should be a folder."), away);
        }
        Some(Err(error)) => {
            let seen = format!("The store {path} cannot be opened: {}.", error.kind());
            return CheckResult::failed(NAME, seen, format!("Give your user the right to read it. {away}"));
        }
        Some(Ok(seen)) => seen,
    };
    let size = human_bytes(seen.bytes);
    if seen.damaged + seen.unreadable > 0 {
        let bad = seen.damaged + seen.unreadable;
        let told = format!("Of {} stored assets that were looked at, {bad} are damaged.", seen.checked);
        if bad * 20 <= seen.checked {
            let advice = "They are found and fetched anew when they are needed. If it happens again, have the disk checked.";
            return CheckResult::warning(NAME, told, advice);
        }
        return CheckResult::failed(NAME, told, format!("Have the disk checked: it loses data. {away}"));
    }
    // The scan of a start brings it down; a little over is a write in progress.
    if seen.bytes > cache_bytes.saturating_add(cache_bytes / 20).saturating_add(1 << 20) {
        let told = format!("The store takes {size}, more than the {} it may.", human_bytes(cache_bytes));
        return CheckResult::warning(NAME, told, "Start the proxy; it removes what is too much.");
    }
    let about = if seen.complete { "" } else { "at least " };
    CheckResult::ok(
        NAME,
        format!(
            "The store holds {about}{} assets in {size}; {} were read and are sound.",
            seen.files, seen.checked
        ),
    )
}

/// `page` is whether our own proxy answers on the control port; `None` without a control port.
fn judge_use(in_use: Option<bool>, inside: bool, page: Option<bool>, setup: &Setup) -> CheckResult {
    const NAME: &str = "data_dir_use";
    let control = setup.control.map(|control| control.to_string()).unwrap_or_default();
    match (in_use, inside || page == Some(true)) {
        (None, _) => CheckResult::skipped(NAME, "It cannot be seen whether the store is in use."),
        (Some(true), false) if page.is_none() => {
            CheckResult::ok(NAME, "A running proxy uses the data folder; it has no page that could be asked.")
        }
        (Some(true), true) => {
            CheckResult::ok(NAME, "The running proxy uses the data folder, and nobody else.")
        }
        (Some(false), false) => CheckResult::ok(NAME, "No other program uses the data folder."),
        (Some(true), false) => CheckResult::warning(
            NAME,
            format!("Another rezcache uses the data folder, but it does not answer on {control}."),
            "End the other one, or give this one a folder of its own with --data-dir: without it nothing can be kept on disk.",
        ),
        (Some(false), true) => CheckResult::warning(
            NAME,
            "A proxy is running, but it does not use this data folder.",
            "If you gave it another folder, give the same --data-dir here. Otherwise it could not open the store: start it again.",
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checks::Outcome;

    #[test]
    fn the_trial_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(folder(dir.path()), Folder::Works);
        assert_eq!(folder(&dir.path().join("a/b")), Folder::NotYet);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("file"), "").unwrap();
        assert_eq!(folder(&dir.path().join("file/b")), Folder::Occupied(dir.path().join("file")));
    }

    #[test]
    fn room_is_held_against_what_the_store_may_still_take() {
        let of = |free, cache, stored| judge_space(Some(free), cache, stored).outcome;
        assert_eq!(of(20 << 30, 10 << 30, 0), Outcome::Ok);
        assert_eq!(of(5 << 30, 10 << 30, 0), Outcome::Warning);
        assert_eq!(of(5 << 30, 10 << 30, 6 << 30), Outcome::Ok);
        assert_eq!(of(1 << 20, 10 << 30, 10 << 30), Outcome::Failed);
        assert_eq!(judge_space(None, 1, 0).outcome, Outcome::Skipped);
    }

    #[test]
    fn a_few_damaged_files_are_no_failure_and_many_are() {
        let of = |checked, damaged, bytes| {
            let seen = Inspection { files: 900, bytes, complete: true, checked, damaged, unreadable: 0 };
            judge_store(Path::new("s"), Some(&Ok(seen)), 1 << 30).outcome
        };
        assert_eq!(of(200, 0, 1 << 29), Outcome::Ok);
        assert_eq!(of(200, 1, 1 << 29), Outcome::Warning);
        assert_eq!(of(200, 100, 1 << 29), Outcome::Failed);
        assert_eq!(of(200, 0, 1 << 31), Outcome::Warning);
        assert_eq!(judge_store(Path::new("s"), None, 1).outcome, Outcome::Failed);
    }
}
