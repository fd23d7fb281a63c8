//! Files that hold secrets: made once, for the owner's eyes only.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Whether others than the owner may do anything with a file. Not known on Windows, where a profile's
/// folders are private.
#[must_use]
pub fn is_exposed(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        fs::metadata(path).is_ok_and(|found| found.mode() & 0o077 != 0)
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// A whole file beside `path`, for the owner's eyes only.
fn beside(path: &Path, text: &[u8]) -> io::Result<std::path::PathBuf> {
    let temporary = path.with_extension(format!("new-{:032x}", rand::random::<u128>()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    match file.write_all(text).and_then(|()| file.sync_all()) {
        Ok(()) => Ok(temporary),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

/// Writes a file in place of one that may be there; nobody ever sees half of it.
///
/// # Errors
/// When it cannot be written; the old one is then as it was.
pub fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = beside(path, text)?;
    let renamed = super::files::rename(&temporary, path);
    if renamed.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    renamed
}

/// Writes a file unless there is one already; nobody ever sees half of it. Of several who try at
/// once one wins, and none is told which: read the file afterwards.
///
/// # Errors
/// When it cannot be written.
pub fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let temporary = beside(path, text)?;
    let linked = match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // File systems without hard links; `copy` keeps the permissions.
        Err(_) if !path.exists() => fs::copy(&temporary, path).map(|_| ()),
        other => other,
    };
    let _ = fs::remove_file(&temporary);
    linked
}
