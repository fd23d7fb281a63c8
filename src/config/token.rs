//! The random tokens that keep other programs and web pages of this machine from reading assets through
//! us, and from pausing uploads. Made once per installation, readable by its owner only.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::support::files;

/// The file of the token in the paths of mode `VIEWERASSET`, within the data directory.
pub const FILE_NAME: &str = "asset-token";
/// The file of the token that the control port's actions ask for.
pub const CONTROL_FILE_NAME: &str = "control-token";

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The file cannot be read or made.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else. The text is not shown.
    #[error("{0} does not hold 32 hexadecimal digits; delete it to have a new one made")]
    NotAToken(PathBuf),
}

/// Reads the token, or makes it: 128 random bits as 32 hexadecimal digits.
///
/// # Errors
/// When the file cannot be used, or holds no token.
pub fn read_or_make(data_dir: &Path, file_name: &str) -> Result<String, TokenError> {
    let path = data_dir.join(file_name);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let token = text.trim_end();
            let is_token = token.len() == 32 && token.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if is_token { Ok(token.to_owned()) } else { Err(TokenError::NotAToken(path)) }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let token = format!("{:032x}", rand::random::<u128>());
            match write(&path, &token) {
                Ok(()) => Ok(token),
                Err(source) => Err(TokenError::File { path, source }),
            }
        }
        Err(source) => Err(TokenError::File { path, source }),
    }
}

fn write(path: &Path, token: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(token.as_bytes())?;
    file.sync_all()?;
    files::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_may_read_it() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let token = read_or_make(dir.path(), FILE_NAME).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(read_or_make(dir.path(), FILE_NAME).unwrap(), token);
        assert_ne!(read_or_make(other.path(), FILE_NAME).unwrap(), token);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(
                &std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions(),
            );
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn anything_else_in_its_file_is_refused_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "hunter2").unwrap();
        let error = read_or_make(dir.path(), FILE_NAME).unwrap_err().to_string();
        assert!(error.contains("asset-token") && !error.contains("hunter2"), "{error}");
    }
}
