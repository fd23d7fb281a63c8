//! Our entries in viewers' grid files: put in with a backup beside, and taken out again.
//!
//! What was done is noted in the data directory before it is done. If nobody else has changed the file since,
//! undoing brings the old one back, or none where there was none; else it takes our entries out.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::cli::owner;
use crate::support::private_file;
use crate::viewers::grid_file::{self, GridEntry};

/// The note's name within the data directory.
const NOTE_NAME: &str = "grid-files.json";
const VERSION: u32 = 1;
/// What is added to the name of a file for its backup.
const BACKUP_ENDING: &str = ".before-rezcache";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    version: u32,
    files: Vec<Changed>,
}

/// A file that we have changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Changed {
    path: PathBuf,
    /// The file as it was before. `None`: there was none.
    backup: Option<PathBuf>,
    /// What we left, by its digest. `None`: somebody else has changed it between two changes of ours.
    left: Option<String>,
    /// The entries that are ours.
    keys: Vec<String>,
}

/// What came of undoing, for the user.
pub(super) struct Undone {
    pub(super) lines: Vec<String>,
    pub(super) failed: bool,
}

/// Sees to it that the file has the entry. Whether it had to be changed.
pub(super) fn put(data_dir: &Path, path: &Path, entry: &GridEntry) -> anyhow::Result<bool> {
    let _changes = owner::changes(data_dir);
    // A link stays one.
    let path = &std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let before = read(path)?;
    let about = || format!("{} is left as it is", shown(path));
    let Some(after) = grid_file::with_entry(before.as_deref(), entry).with_context(about)? else {
        return Ok(false);
    };
    let mut note = load(data_dir)?;
    let known = note.files.iter().position(|changed| changed.path == *path);
    let mut changed = match known {
        Some(index) => note.files.swap_remove(index),
        None => {
            let backup = before.as_deref().map(|before| back_up(path, before)).transpose()?;
            let left = Some(digest(before.as_deref().unwrap_or_default()));
            Changed { path: path.clone(), backup, left, keys: Vec::new() }
        }
    };
    let ours = before.is_some() || known.is_none();
    let untouched = ours && changed.left.as_deref() == Some(&*digest(before.as_deref().unwrap_or_default()));
    changed.left = untouched.then(|| digest(&after));
    if !changed.keys.contains(&entry.key) {
        changed.keys.push(entry.key.clone());
    }
    note.files.push(changed);
    save(data_dir, &note)?;
    write(path, &after).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

/// Takes everything back.
pub(super) fn undo(data_dir: &Path) -> anyhow::Result<Undone> {
    let _changes = owner::changes(data_dir);
    let mut note = load(data_dir)?;
    let mut undone = Undone { lines: Vec::new(), failed: false };
    note.files.retain(|changed| match undo_one(changed) {
        Ok(line) => {
            undone.lines.push(format!("{}: {line}", shown(&changed.path)));
            false
        }
        Err(error) => {
            undone.lines.push(format!("{}: {error:#}", shown(&changed.path)));
            undone.failed = true;
            true
        }
    });
    if note.files.is_empty() {
        match std::fs::remove_file(data_dir.join(NOTE_NAME)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    } else {
        save(data_dir, &note)?;
    }
    Ok(undone)
}

/// A path as people write it: Windows marks those that it has resolved.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    text.strip_prefix(r"\\?\").map_or_else(|| text.clone(), str::to_owned)
}

fn undo_one(changed: &Changed) -> anyhow::Result<&'static str> {
    let Some(now) = read(&changed.path)? else {
        forget_backup(changed);
        return Ok("it is gone already");
    };
    let untouched = changed.left.as_deref() == Some(&*digest(&now));
    let line = match &changed.backup {
        None if untouched => {
            std::fs::remove_file(&changed.path)?;
            "removed, as there was none before"
        }
        Some(backup) if untouched && let Some(before) = read(backup)? => {
            write(&changed.path, &before)?;
            "as it was before"
        }
        _ => match grid_file::without(&now, &changed.keys)? {
            Some((_, false)) if changed.backup.is_none() => {
                std::fs::remove_file(&changed.path)?;
                "removed, as there was none before"
            }
            Some((rest, _)) => {
                write(&changed.path, &rest)?;
                "rezcache's entries removed; your own changes stay"
            }
            None => "nothing of rezcache's was in it any more",
        },
    };
    forget_backup(changed);
    Ok(line)
}

fn forget_backup(changed: &Changed) {
    if let Some(backup) = &changed.backup {
        // Left over, it does no harm.
        let _ = std::fs::remove_file(backup);
    }
}

/// A copy beside the file, under a name that nothing has yet.
fn back_up(path: &Path, text: &[u8]) -> anyhow::Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for number in 1..100 {
        let number = if number == 1 { String::new() } else { format!("-{number}") };
        let backup = path.with_file_name(format!("{name}{BACKUP_ENDING}{number}"));
        let mut options = std::fs::OpenOptions::new();
        match options.write(true).create_new(true).open(&backup) {
            Ok(mut file) => {
                file.write_all(text).and_then(|()| file.sync_all())?;
                return Ok(backup);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot write the backup {}", backup.display()));
            }
        }
    }
    anyhow::bail!("there are too many backups beside {}", path.display())
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match std::fs::metadata(path) {
        Ok(found) if found.len() > grid_file::MAX_BYTES as u64 => {
            return Err(grid_file::GridFileError::TooLarge.into());
        }
        _ => {}
    }
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// In place of the old file; nobody ever sees half of it.
fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().context("the file is in no folder")?;
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::Builder::new().prefix(".rezcache-").tempfile_in(folder)?;
    file.write_all(text)?;
    if let Ok(found) = std::fs::metadata(path) {
        file.as_file().set_permissions(found.permissions())?;
    }
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn load(data_dir: &Path) -> anyhow::Result<Note> {
    let path = data_dir.join(NOTE_NAME);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(Note { version: VERSION, files: Vec::new() });
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let note: Note =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    if note.version != VERSION {
        anyhow::bail!("{} was written by another version of rezcache", path.display());
    }
    Ok(note)
}

fn save(data_dir: &Path, note: &Note) -> anyhow::Result<()> {
    let path = data_dir.join(NOTE_NAME);
    private_file::replace(&path, &serde_json::to_vec_pretty(note)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
#[path = "grid_files/tests.rs"]
mod tests;
