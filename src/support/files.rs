//! What differs between systems about files: replacing one that somebody looks at, and how a path is written
//! in an address.

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Virus scanners and indexers hold a fresh file open for some milliseconds; on Windows it can be neither
/// replaced nor removed meanwhile.
const RETRIES: [Duration; 3] =
    [Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(100)];

/// Gives a file another name, in place of one that may have it.
///
/// # Errors
/// What the file system says, on Windows after some tries.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| std::fs::rename(from, to))
}

/// Removes a file; one that is already gone is no error.
///
/// # Errors
/// As [`rename`].
pub fn remove(path: &Path) -> io::Result<()> {
    patiently(|| match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    })
}

fn patiently(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for pause in RETRIES {
        match operation() {
            Err(error) if cfg!(windows) && is_held(&error) => thread::sleep(pause),
            other => return other,
        }
    }
    operation()
}

/// Whether somebody else has the file open: access denied, or a sharing violation, which has no kind.
fn is_held(error: &io::Error) -> bool {
    const SHARING_VIOLATION: i32 = 32;
    error.kind() == io::ErrorKind::PermissionDenied || error.raw_os_error() == Some(SHARING_VIOLATION)
}

/// The folder that a store's address names: `file:///DIR`, or a path. `None` for stores elsewhere.
#[must_use]
pub fn folder(address: &str) -> Option<PathBuf> {
    match address.strip_prefix("file://") {
        Some(rest) => Some(local(rest).into()),
        None if address == "memory:" || address.contains("://") => None,
        None => Some(address.into()),
    }
}

/// What follows `file://` or `sqlite://` as a path of this system.
#[must_use]
pub fn local(rest: &str) -> &str {
    if cfg!(windows) { without_slash(rest) } else { rest }
}

/// `/C:/store`, as it stands in an address, is `C:/store`.
fn without_slash(rest: &str) -> &str {
    match rest.as_bytes() {
        [b'/', drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic() => {
            rest.strip_prefix('/').unwrap_or(rest)
        }
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{folder, without_slash};

    #[test]
    fn folders_are_told_from_stores_elsewhere() {
        assert_eq!(folder("file:///var/store").as_deref(), Some(Path::new("/var/store")));
        assert_eq!(folder("store").as_deref(), Some(Path::new("store")));
        assert_eq!(folder("file://C:\\Users\\me\\store").as_deref(), Some(Path::new("C:\\Users\\me\\store")));
        for elsewhere in ["memory:", "s3://bucket/prefix", "http://host/"] {
            assert_eq!(folder(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn a_drive_in_an_address_begins_no_path_with_a_slash() {
        for (rest, path) in [
            ("/C:/store", "C:/store"),
            ("/c:\\store", "c:\\store"),
            ("C:\\store", "C:\\store"),
            ("/store", "/store"),
            ("/C:store", "/C:store"),
            ("//host/share", "//host/share"),
            ("", ""),
        ] {
            assert_eq!(without_slash(rest), path);
        }
    }
}
