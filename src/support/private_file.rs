//! Files that hold secrets: made once, for the owner's eyes only.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

/// Writes a file unless there is one already; nobody ever sees half of it. Of several who try at
/// once one wins, and none is told which: read the file afterwards.
///
/// # Errors
/// When it cannot be written.
pub fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("new-{:032x}", rand::random::<u128>()));
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    let written = file.write_all(text).and_then(|()| file.sync_all());
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // File systems without hard links; `copy` keeps the permissions.
        Err(_) if !path.exists() => fs::copy(&temporary, path).map(|_| ()),
        other => other,
    });
    let _ = fs::remove_file(&temporary);
    linked
}
