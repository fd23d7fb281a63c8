//! The key file: one service secret, from which names are made and which never changes, and the
//! master keys, of which the newest seals and all open.
//!
//! ```text
//!  rezcache keys 1
//!  secret <64 hexadecimal digits>
//!  key <id> <64 hexadecimal digits>        one line per master key; the last one seals
//! ```

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::asset::Digest;
use crate::redact::Redacted;
use crate::support::private_file;

const FIRST_LINE: &str = "rezcache keys 1";

/// Names a master key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

/// The name of a blob: a keyed hash of its digest, so that equal content has one blob per service,
/// and its name tells a stranger nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobName(pub [u8; 32]);

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl BlobName {
    /// Reads what `Display` writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

/// The keys of a service.
#[derive(Clone)]
pub struct KeyRing {
    secret: Redacted<[u8; 32]>,
    keys: BTreeMap<KeyId, Redacted<[u8; 32]>>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("ids", &self.ids().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file is not there.
    #[error("there is no key file {path}; name the right one with --key-file, or restore it from its backup")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner can read the file.
    #[error("others can read the key file {path}; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// There is a file with other keys.
    #[error("there is a key file {path} with other keys already; choose another name, or move it away first")]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The file is not a key file.
    #[error("{path} is no key file (line {line}); restore it from its backup")]
    Form {
        /// The file.
        path: PathBuf,
        /// The line that cannot be read.
        line: usize,
    },
}

impl KeyRing {
    /// New keys of this random material.
    #[must_use]
    pub fn new(secret: [u8; 32], key: [u8; 32]) -> Self {
        Self { secret: Redacted::new(secret), keys: BTreeMap::from([(KeyId(1), Redacted::new(key))]) }
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// When it is missing, unreadable, readable by others, or none.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        if private_file::is_exposed(path) {
            return Err(KeyError::Exposed { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => KeyError::Missing { path: path.to_owned() },
            _ => KeyError::Io { path: path.to_owned(), source },
        })?;
        Self::parse(&text).map_err(|line| KeyError::Form { path: path.to_owned(), line })
    }

    /// Makes a key file with new keys. Of several who try at once one wins, and all read its keys.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path) -> Result<Self, KeyError> {
        let ring = Self::new(rand::random(), rand::random());
        private_file::create(path, ring.text().as_bytes())
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        Self::read(path)
    }

    /// Puts these keys into the file, in place of those there: whoever reads it meanwhile reads all of
    /// the old or all of the new.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn replace(&self, path: &Path) -> Result<(), KeyError> {
        private_file::replace(path, self.text().as_bytes())
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })
    }

    /// Makes a file with these keys.
    ///
    /// # Errors
    /// When it cannot be written, or there is one with other keys.
    pub fn write_new(&self, path: &Path) -> Result<(), KeyError> {
        private_file::create(path, self.text().as_bytes())
            .map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
        match Self::read(path)?.text() == self.text() {
            true => Ok(()),
            false => Err(KeyError::Occupied { path: path.to_owned() }),
        }
    }

    /// Whether all of the other's keys are in here, under the same secret.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.secret.reveal() == other.secret.reveal()
            && other.keys.iter().all(|(id, key)| self.key(*id) == Some(key.reveal()))
    }

    /// The text of the key file. A secret.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\nsecret {}\n", hex(self.secret.reveal()));
        for (id, key) in &self.keys {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "key {} {}", id.0, hex(key.reveal()));
        }
        text
    }

    /// Reads the text of a key file; on failure the number of the line.
    ///
    /// # Errors
    /// The first line that cannot be read.
    pub fn parse(text: &str) -> Result<Self, usize> {
        let mut lines = (1..).zip(text.lines());
        let Some((_, FIRST_LINE)) = lines.next() else { return Err(1) };
        let (mut secret, mut keys) = (None, BTreeMap::new());
        for (number, line) in lines {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                [] => {}
                ["secret", value] if secret.is_none() => secret = Some(unhex(value).ok_or(number)?),
                ["key", id, value] => {
                    let id = KeyId(id.parse().map_err(|_| number)?);
                    let known = keys.insert(id, Redacted::new(unhex(value).ok_or(number)?));
                    if known.is_some() {
                        return Err(number);
                    }
                }
                _ => return Err(number),
            }
        }
        match secret {
            Some(secret) if !keys.is_empty() => Ok(Self { secret: Redacted::new(secret), keys }),
            _ => Err(text.lines().count()),
        }
    }

    /// The ids of the master keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.keys.keys().copied()
    }

    /// The key that seals.
    #[must_use]
    pub fn current(&self) -> Option<(KeyId, &[u8; 32])> {
        self.keys.last_key_value().map(|(id, key)| (*id, key.reveal()))
    }

    /// A key that opens.
    #[must_use]
    pub fn key(&self, id: KeyId) -> Option<&[u8; 32]> {
        self.keys.get(&id).map(Redacted::reveal)
    }

    /// The same ring with a further key, which seals from now on.
    #[must_use]
    pub fn with_new_key(mut self, key: [u8; 32]) -> Self {
        let next = self.keys.keys().last().map_or(1, |id| id.0.saturating_add(1));
        self.keys.insert(KeyId(next), Redacted::new(key));
        self
    }

    /// A hash that only this service can make, for one purpose.
    #[must_use]
    pub fn keyed_hash(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut key = blake3::Hasher::new_derive_key("rezcache service secret v1");
        key.update(self.secret.reveal()).update(purpose.as_bytes());
        let mut hasher = blake3::Hasher::new_keyed(key.finalize().as_bytes());
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        *hasher.finalize().as_bytes()
    }

    /// What the blob of this content is called.
    #[must_use]
    pub fn blob_name(&self, digest: Digest) -> BlobName {
        BlobName(self.keyed_hash("blob name", &[&digest.0]))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?, 16)
            .ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{BlobName, KeyError, KeyId, KeyRing};
    use crate::asset::Digest;

    #[test]
    fn a_key_file_is_read_as_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.key");
        assert!(matches!(KeyRing::read(&path), Err(KeyError::Missing { .. })));
        let made = KeyRing::create(&path).unwrap();
        let again = KeyRing::create(&path).unwrap();
        assert_eq!(made.text(), again.text(), "the loser of a race reads the winner's");
        let rotated = again.with_new_key([7; 32]);
        assert_eq!(KeyRing::parse(&rotated.text()).unwrap().text(), rotated.text());
        assert_eq!(rotated.current(), Some((KeyId(2), &[7; 32])));
        assert_eq!(rotated.blob_name(Digest([1; 32])), made.blob_name(Digest([1; 32])));
        let name = made.blob_name(Digest([1; 32]));
        assert_eq!(BlobName::parse(&name.to_string()), Some(name));
        rotated.replace(&path).unwrap();
        assert_eq!(KeyRing::read(&path).unwrap().text(), rotated.text());
        assert!(rotated.contains(&made) && !made.contains(&rotated));
        assert!(matches!(made.write_new(&path), Err(KeyError::Occupied { .. })));
        rotated.write_new(&path).unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            for exposed in [0o640, 0o604, 0o620, 0o666] {
                mode(exposed);
                let told = KeyRing::read(&path).unwrap_err().to_string();
                assert!(told.contains("chmod 600") && told.contains("store.key"), "{told}");
            }
            mode(0o600);
        }
        std::fs::write(&path, "rezcache keys 1\nsecret 00\n").unwrap();
        assert!(matches!(KeyRing::read(&path), Err(KeyError::Form { line: 2, .. })));
        assert!(!format!("{made:?}").contains(&made.text()[30..50]));
    }
}
