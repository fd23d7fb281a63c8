//! The shared caches at home that this proxy has joined, in `joined.json` in the data directory: tokens are
//! in it, so it is for its owner's eyes.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fetch::lan_plan::MAX_JOINED;
use crate::redact::Redacted;
use crate::support::private_file;
use crate::token::join::{JoinLine, Pin, is_home};
use crate::token::unverified_rights;

/// The file's name within the data directory.
pub const FILE_NAME: &str = "joined.json";
const VERSION: u32 = 1;
/// Sixteen tokens of half a kilobyte.
const MAX_FILE_BYTES: u64 = 256 << 10;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedServer {
    /// Where it was last, how it is recognised, and what lets us in.
    pub line: JoinLine,
    /// Whether the user shares with it what the grid sends; `None`: has not been asked.
    pub upload: Option<bool>,
}

impl JoinedServer {
    /// Whether it takes anything from us at all.
    #[must_use]
    pub fn takes_uploads(&self) -> bool {
        unverified_rights(self.line.token.reveal()).is_some_and(|rights| rights.write)
    }
}

/// Why what was joined cannot be read or remembered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinedError {
    /// The file cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file was written by something else. Its text is not shown.
    #[error("{0} is not what this version of rezcache writes; delete it, and join again")]
    Form(PathBuf),
    /// No more fit in.
    #[error(
        "this rezcache has joined {MAX_JOINED} servers already; forget one with `rezcache join --forget`"
    )]
    TooMany,
}

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    servers: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    address: SocketAddr,
    pin: String,
    token: String,
    #[serde(default)]
    upload: Option<bool>,
}

/// Reads what was joined.
///
/// # Errors
/// When the file cannot be read, or holds something else.
pub fn load(data_dir: &Path) -> Result<Vec<JoinedServer>, JoinedError> {
    let path = data_dir.join(FILE_NAME);
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Ok(found) if found.len() > MAX_FILE_BYTES => return Err(JoinedError::Form(path)),
        _ => {}
    }
    let text =
        fs::read_to_string(&path).map_err(|source| JoinedError::File { path: path.clone(), source })?;
    read(&text).ok_or(JoinedError::Form(path))
}

fn read(text: &str) -> Option<Vec<JoinedServer>> {
    let file: File = serde_json::from_str(text).ok().filter(|file: &File| file.version == VERSION)?;
    let server = |entry: Entry| {
        let pin: Pin = entry.pin.parse().ok()?;
        let line = JoinLine { address: entry.address, pin, token: Redacted::new(entry.token) };
        // Whatever is in the file is held to what a pasted line is held to.
        let line = line.reveal().parse().ok().filter(|read: &JoinLine| is_home(read.address.ip()))?;
        Some(JoinedServer { line, upload: entry.upload })
    };
    file.servers.into_iter().take(MAX_JOINED).map(server).collect()
}

fn save(data_dir: &Path, servers: &[JoinedServer]) -> Result<(), JoinedError> {
    let entry = |server: &JoinedServer| Entry {
        address: server.line.address,
        pin: server.line.pin.to_string(),
        token: server.line.token.reveal().clone(),
        upload: server.upload,
    };
    let file = File { version: VERSION, servers: servers.iter().map(entry).collect() };
    let path = data_dir.join(FILE_NAME);
    let text = serde_json::to_vec_pretty(&file).unwrap_or_default();
    fs::create_dir_all(data_dir)
        .and_then(|()| private_file::replace(&path, &text))
        .map_err(|source| JoinedError::File { path, source })
}

/// Remembers a server. One with the same key is the same server: its line and its address are new then, and
/// what the user has said of uploads stays unless it is said again.
///
/// # Errors
/// When there are too many, or the file cannot be used.
pub fn add(data_dir: &Path, line: JoinLine, upload: Option<bool>) -> Result<(), JoinedError> {
    let mut servers = load(data_dir)?;
    let full = servers.len() >= MAX_JOINED;
    match servers.iter_mut().find(|server| server.line.pin == line.pin) {
        Some(known) => {
            known.line = line;
            known.upload = upload.or(known.upload);
        }
        None if full => return Err(JoinedError::TooMany),
        None => servers.push(JoinedServer { line, upload }),
    }
    save(data_dir, &servers)
}

/// Changes what is remembered of a server; nothing of one that is not remembered.
///
/// # Errors
/// When the file cannot be used.
pub fn change(data_dir: &Path, pin: &Pin, change: impl FnOnce(&mut JoinedServer)) -> Result<(), JoinedError> {
    let mut servers = load(data_dir)?;
    let Some(known) = servers.iter_mut().find(|server| server.line.pin == *pin) else { return Ok(()) };
    let before = known.clone();
    change(known);
    if *known == before { Ok(()) } else { save(data_dir, &servers) }
}

/// Forgets the servers whose pin's digits begin like this; how many those were.
///
/// # Errors
/// When the file cannot be used.
pub fn forget(data_dir: &Path, digits: &str) -> Result<usize, JoinedError> {
    let mut servers = load(data_dir)?;
    let before = servers.len();
    let digits = digits.trim().trim_start_matches("sha256:").to_ascii_lowercase();
    servers.retain(|server| !server.line.pin.as_str().trim_start_matches("sha256:").starts_with(&digits));
    if servers.len() < before {
        save(data_dir, &servers)?;
    }
    Ok(before - servers.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(number: u8) -> JoinLine {
        // A token whose middle says {"sub":"join-pupil","rights":"read"}.
        let token = "e30.eyJzdWIiOiJqb2luLXB1cGlsIiwicmlnaHRzIjoicmVhZCJ9.c2ln";
        let pin = format!("{number:02x}").repeat(32);
        format!("rezcache://192.168.1.{number}:8443/#pin=sha256:{pin}&token={token}").parse().unwrap()
    }

    #[test]
    fn what_was_joined_is_remembered_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(load(folder.path()).unwrap(), []);
        add(folder.path(), line(1), Some(false)).unwrap();
        add(folder.path(), line(2), None).unwrap();
        let moved: SocketAddr = "10.0.0.9:9000".parse().unwrap();
        change(folder.path(), &line(1).pin, |server| server.line.address = moved).unwrap();
        change(folder.path(), &line(9).pin, |server| server.upload = Some(true)).unwrap();
        let known = load(folder.path()).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!((known[0].line.address, known[0].upload), (moved, Some(false)));
        assert!(!known[0].takes_uploads());
        add(folder.path(), line(1), None).unwrap();
        let again = load(folder.path()).unwrap();
        assert_eq!((again.len(), again[0].line.address, again[0].upload), (2, line(1).address, Some(false)));
        assert!(!private_file::is_exposed(&folder.path().join(FILE_NAME)));
        assert_eq!(forget(folder.path(), line(2).pin.short()).unwrap(), 1);
        assert_eq!(forget(folder.path(), line(2).pin.short()).unwrap(), 0);
        assert_eq!(load(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn so_many_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        for number in 1..=u8::try_from(MAX_JOINED).unwrap() {
            add(folder.path(), line(number), None).unwrap();
        }
        assert!(matches!(add(folder.path(), line(99), None), Err(JoinedError::TooMany)));
        add(folder.path(), line(1), Some(true)).unwrap();
    }

    #[test]
    fn a_file_of_something_else_is_named_and_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        add(folder.path(), line(1), None).unwrap();
        let path = folder.path().join(FILE_NAME);
        let good = fs::read_to_string(&path).unwrap();
        for wrong in [
            "hunter2".to_owned(),
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("192.168.1.1", "203.0.113.1"),
            good.replace("sha256:", "md5:"),
            format!("{good}{}", " ".repeat(300_000)),
        ] {
            fs::write(&path, &wrong).unwrap();
            let error = load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(FILE_NAME) && !error.contains("hunter2"), "{error}");
        }
    }
}
