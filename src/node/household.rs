//! What makes a node the server of a household or a classroom without an operator: a key that signs, and
//! the tokens in its join lines. All of it lies in one folder of the data directory, for its owner's eyes.
//!
//! A join token only brings proxies in: each shows it once, with a key of its own, and is known by that key
//! from then on. So thirty pupils with one line are thirty principals, each with a budget; and a token that
//! runs out, or is renewed, puts nobody out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::redact::Redacted;
use crate::support::private_file;
use crate::token::{self, Budgets, Claims, KeyFormError, Rights, SigningKey};

/// The tenant that all who join belong to. Its members believe one another.
pub const TENANT: &str = "household";
/// The folder within the data directory.
const FOLDER: &str = "lan";
const KEY: &str = "signing.key";
const PUBLIC: &str = "signing.key.pub";
const TOKENS: &str = "join-tokens.json";
const VERSION: u32 = 1;
const DAY: u64 = 86_400;
/// How long a join line can be used.
const LIFE: u64 = 180 * DAY;
/// With less than this left a new one is made. The old one holds to its end.
const RENEW: u64 = 30 * DAY;
/// Some tokens of half a kilobyte.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// Tokens that may be valid at once; the oldest make room.
const MAX_TOKENS: usize = 64;

/// For whom a join line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everybody reads and writes.
    Everybody,
    /// Reads.
    Pupil,
    /// Reads and writes.
    Teacher,
}

impl Role {
    const fn rights(self) -> Rights {
        let write = !matches!(self, Self::Pupil);
        Rights { read: true, write, vouch: false, observe: false, admin: false }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Everybody => "everybody",
            Self::Pupil => "pupil",
            Self::Teacher => "teacher",
        }
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Issued {
    role: Role,
    id: String,
    expires: u64,
    token: String,
}

#[derive(Default, Serialize, Deserialize)]
struct File {
    version: u32,
    tokens: Vec<Issued>,
}

/// The token of one join line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// For whom.
    pub role: Role,
    /// The token.
    pub token: Redacted<String>,
}

/// What holds now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The tokens to print lines for.
    pub tokens: Vec<JoinToken>,
    /// Ids of tokens that must not hold any more: lines of before, by which everybody could write.
    pub withdraw: Vec<String>,
}

/// Why a household has no tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HouseholdError {
    /// A file cannot be read or made.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else. The text is not shown.
    #[error("{path} {source}")]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyFormError,
    },
    /// The tokens were written by something else, or by a later version.
    #[error("{0} is not what this version of rezcache writes; delete it to have new join lines made")]
    Form(PathBuf),
}

/// The key and the tokens of a household.
pub struct Household {
    folder: PathBuf,
    key: SigningKey,
    audience: String,
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> HouseholdError {
    let path = path.to_owned();
    |source| HouseholdError::File { path, source }
}

impl Household {
    /// Reads what an earlier start has made, or makes it.
    ///
    /// # Errors
    /// When a file cannot be read or written, or holds something else.
    pub fn open(data_dir: &Path, audience: &str) -> Result<Self, HouseholdError> {
        let folder = data_dir.join(FOLDER);
        let path = folder.join(KEY);
        let form = |source| HouseholdError::Key { path: path.clone(), source };
        if !path.exists() {
            let made = SigningKey::from_seed(&rand::random()).map_err(form)?;
            private_file::create(&path, made.pem().reveal().as_bytes()).map_err(file_error(&path))?;
        }
        if private_file::is_exposed(&path) {
            tracing::warn!(file = %path.display(), "others on this machine can read the household's key");
        }
        let key =
            SigningKey::from_pem(&fs::read_to_string(&path).map_err(file_error(&path))?).map_err(form)?;
        let public = folder.join(PUBLIC);
        private_file::replace(&public, key.public_pem().as_bytes()).map_err(file_error(&public))?;
        Ok(Self { folder, key, audience: audience.to_owned() })
    }

    /// The file with the key that nodes verify with.
    #[must_use]
    pub fn public_key(&self) -> PathBuf {
        self.folder.join(PUBLIC)
    }

    /// The tokens that hold now. Makes what is missing, and what will run out soon anew.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn joining(&self, teacher_writes: bool, now: u64) -> Result<Joining, HouseholdError> {
        let mut file = read(&self.folder)?;
        let before = file.tokens.len();
        file.tokens.retain(|issued| issued.expires > now);
        let mut changed = file.tokens.len() != before;
        let roles: &[Role] = if teacher_writes { &[Role::Pupil, Role::Teacher] } else { &[Role::Everybody] };
        let mut tokens = Vec::new();
        for role in roles {
            let newest =
                file.tokens.iter().filter(|issued| issued.role == *role).max_by_key(|issued| issued.expires);
            let issued = match newest {
                Some(known) if known.expires > now + RENEW => known.clone(),
                _ => {
                    changed = true;
                    let made = self.issue(*role, now);
                    file.tokens.push(made.clone());
                    made
                }
            };
            tokens.push(JoinToken { role: *role, token: Redacted::new(issued.token) });
        }
        if changed {
            let surplus = file.tokens.len().saturating_sub(MAX_TOKENS);
            file.tokens.drain(..surplus);
            write(&self.folder, &file)?;
        }
        let stale = |issued: &&Issued| teacher_writes && issued.role == Role::Everybody;
        let withdraw = file.tokens.iter().filter(stale).map(|issued| issued.id.clone()).collect();
        Ok(Joining { tokens, withdraw })
    }

    fn issue(&self, role: Role, now: u64) -> Issued {
        let id = format!("{:032x}", rand::random::<u128>());
        let claims = Claims {
            id: id.as_str().into(),
            subject: format!("join-{}", role.name()).into(),
            tenant: TENANT.into(),
            audience: self.audience.clone(),
            grids: None,
            rights: role.rights(),
            issued_at: now,
            expires: now.saturating_add(LIFE),
            budgets: Budgets::default(),
        };
        Issued { role, id, expires: claims.expires, token: token::sign(&self.key, &claims) }
    }
}

/// The ids of all join tokens of a data directory that may still hold.
///
/// # Errors
/// When the file cannot be read.
pub fn issued(data_dir: &Path) -> Result<Vec<String>, HouseholdError> {
    Ok(read(&data_dir.join(FOLDER))?.tokens.into_iter().map(|issued| issued.id).collect())
}

/// Forgets join tokens, so that others are made in their place.
///
/// # Errors
/// When the file cannot be read or written.
pub fn forget(data_dir: &Path, ids: &[String]) -> Result<(), HouseholdError> {
    let folder = data_dir.join(FOLDER);
    let mut file = read(&folder)?;
    file.tokens.retain(|issued| !ids.contains(&issued.id));
    write(&folder, &file)
}

fn read(folder: &Path) -> Result<File, HouseholdError> {
    let path = folder.join(TOKENS);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Ok(found) if found.len() > MAX_FILE_BYTES => return Err(HouseholdError::Form(path)),
        _ => {}
    }
    let text = fs::read_to_string(&path).map_err(file_error(&path))?;
    // The cause would show a piece of the text.
    let file = serde_json::from_str::<File>(&text).ok().filter(|file| file.version == VERSION);
    file.ok_or(HouseholdError::Form(path))
}

fn write(folder: &Path, file: &File) -> Result<(), HouseholdError> {
    let path = folder.join(TOKENS);
    let file = File { version: VERSION, tokens: file.tokens.clone() };
    let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
    private_file::replace(&path, &text).map_err(file_error(&path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::token::Keys;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn the_line_is_stable_while_it_is_good_and_renewed_before_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Household::open(folder.path(), "rezcache").unwrap();
        let first = open().joining(false, NOW).unwrap();
        assert_eq!(first.tokens.len(), 1);
        assert_eq!(open().joining(false, NOW + LIFE - RENEW - 1).unwrap(), first, "after a restart too");
        let renewed = open().joining(false, NOW + LIFE - RENEW).unwrap();
        assert_ne!(renewed.tokens, first.tokens);
        assert!(renewed.withdraw.is_empty(), "the old one holds to its end");
        assert_eq!(issued(folder.path()).unwrap().len(), 2);
        open().joining(false, NOW + LIFE).unwrap();
        assert_eq!(issued(folder.path()).unwrap().len(), 1, "what has expired is forgotten");
    }

    #[test]
    fn the_tokens_are_the_households_and_never_an_administrators() {
        let folder = tempfile::tempdir().unwrap();
        let household = Household::open(folder.path(), "rezcache").unwrap();
        let mut keys = Keys::default();
        keys.add_pem(&fs::read_to_string(household.public_key()).unwrap()).unwrap();
        let rights = |teacher_writes| -> Vec<String> {
            let joining = household.joining(teacher_writes, NOW).unwrap();
            let verified = joining.tokens.iter().map(|token| {
                let verified = keys.verify(token.token.reveal(), "rezcache", NOW).unwrap();
                assert_eq!(&*verified.claims.tenant, TENANT);
                verified.claims.rights.to_string()
            });
            verified.collect()
        };
        assert_eq!(rights(false), ["read,write"]);
        assert_eq!(rights(true), ["read", "read,write"]);
        #[cfg(unix)]
        for name in [KEY, TOKENS] {
            assert!(!private_file::is_exposed(&folder.path().join(FOLDER).join(name)), "{name}");
        }
    }

    #[test]
    fn when_only_teachers_are_to_write_the_line_of_everybody_is_withdrawn() {
        let folder = tempfile::tempdir().unwrap();
        let household = Household::open(folder.path(), "rezcache").unwrap();
        household.joining(false, NOW).unwrap();
        let everybody = issued(folder.path()).unwrap();
        assert_eq!(household.joining(true, NOW).unwrap().withdraw, everybody);
        forget(folder.path(), &everybody).unwrap();
        assert!(household.joining(true, NOW).unwrap().withdraw.is_empty());
        let all = issued(folder.path()).unwrap();
        forget(folder.path(), &all).unwrap();
        let again = household.joining(true, NOW).unwrap();
        assert!(issued(folder.path()).unwrap().iter().all(|id| !all.contains(id)));
        assert_eq!(again.tokens.len(), 2);
    }

    #[test]
    fn a_damaged_file_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let household = Household::open(folder.path(), "rezcache").unwrap();
        household.joining(false, NOW).unwrap();
        let path = folder.path().join(FOLDER).join(TOKENS);
        for text in ["hunter2".to_owned(), "{\"version\":9,\"tokens\":[]}".to_owned(), "x".repeat(300_000)] {
            fs::write(&path, &text).unwrap();
            let error = household.joining(false, NOW).unwrap_err().to_string();
            assert!(error.contains(TOKENS) && !error.contains("hunter2"), "{error}");
        }
    }
}
