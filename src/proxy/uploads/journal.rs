//! The upload queue on disk: one file of records, of which the last word on an entry counts.
//! All numbers are little-endian.
//!
//! ```text
//!  file     "rezupldq" | version u16, 2 | service 32 | records
//!  record   a5 'R' 'Z' 'U' | kind u8 | length u16 | payload | first 8 bytes of BLAKE3(kind … payload)
//!  1 queued number u64 | queued u64 | size u64 | kind u8 | flags u8 | id 16 | digest 32 |
//!           grid u8+ | origin u8+
//!  2 gone   number u64
//! ```
//!
//! `service` is BLAKE3 of the host and port of the service that the queue is for: a queue is given to no
//! other, since whether a grid's assets may be told to a service was judged for that one, and the user's
//! consent was for that one. Flags: 1, the grid is one operator's; 2, its host turned out to be in a
//! private network. Version 1 named no service, so that nobody gets what is in it.
//!
//! The entries' bytes are in the local store, under the name and digest that the entry has. A record
//! that is cut or damaged is skipped: reading goes on at the next beginning of a record. Records are
//! written without being forced to the platter: an upload lost to a power cut is learnt again.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::asset::{AssetId, AssetKey, AssetKind, Digest};
use crate::fetch::upload_plan::{Entry, Number};
use crate::grid::{GridId, Origin};
use crate::support::files;

const MAGIC: &[u8; 8] = b"rezupldq";
const VERSION: u16 = 2;
/// Magic, version, service.
const HEADER: usize = 8 + 2 + 32;
const CENTRAL: u8 = 1;
const RESOLVED_PRIVATE: u8 = 2;
const MARK: [u8; 4] = [0xA5, b'R', b'Z', b'U'];
const QUEUED: u8 = 1;
const GONE: u8 = 2;
const CHECKSUM: usize = 8;
/// Mark, kind, length and checksum.
const FRAME: usize = 4 + 1 + 2 + CHECKSUM;
/// More was never written by us.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Records beyond twice the living ones that are not worth a compaction.
const SLACK_RECORDS: usize = 4096;
/// How long the process that used the queue before may take to be gone: it is being restarted.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// The queue's file within its folder.
pub(super) const FILE_NAME: &str = "queue";

/// What is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Queued(Number, Entry),
    Gone(Number),
}

/// Where records go: a file, or in tests one that has no room.
pub(super) trait Sink: Write + Send {
    /// Cuts off what was half written.
    fn cut(&mut self, len: u64) -> io::Result<()>;
}

/// A file open for appending, which Windows lets nobody shorten: that takes it opened anew.
struct Appended {
    file: File,
    path: PathBuf,
}

impl Appended {
    fn open(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }
}

impl Write for Appended {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Sink for Appended {
    fn cut(&mut self, len: u64) -> io::Result<()> {
        fs::OpenOptions::new().write(true).open(&self.path)?.set_len(len)
    }
}

/// The queue's file, open for appending.
pub(super) struct Journal {
    folder: PathBuf,
    service: Service,
    sink: Box<dyn Sink>,
    /// Bytes of whole records.
    length: u64,
    records: usize,
    _lock: Option<File>,
}

/// What an earlier run left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Entries, oldest first.
    pub(super) entries: Vec<(Number, Entry)>,
    /// Damaged places that were skipped.
    pub(super) corrupt: u64,
    /// Entries that were for another service, and are no more.
    pub(super) elsewhere: u64,
}

/// What a service is called in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Service([u8; 32]);

impl Service {
    fn at(address: &str) -> Self {
        Self(*blake3::hash(address.as_bytes()).as_bytes())
    }
}

/// Why there is no queue on disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    #[error("another process uses the upload queue")]
    InUse,
    #[error("the folder of the upload queue cannot be used: {0}")]
    Io(#[from] io::Error),
}

impl Journal {
    /// Opens the queue in a folder, which is made when missing, and reads what is there for the service at
    /// `address`, host and port. At most `most` entries are taken, the latest ones.
    pub(super) fn open(folder: &Path, address: &str, most: usize) -> Result<(Self, Found), JournalError> {
        let service = Service::at(address);
        fs::create_dir_all(folder)?;
        let lock = File::create(folder.join("lock"))?;
        let lock = match patiently_lock(&lock) {
            Ok(()) => Some(lock),
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse),
            // Some network file systems have no locks; the queue works without.
            Err(TryLockError::Error(_)) => None,
        };
        let path = folder.join(FILE_NAME);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => drop(file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let (mut found, records, whose) = read(&bytes, service);
        if whose == Whose::Unknown && !bytes.is_empty() {
            // Of a later version, perhaps: it is left for whoever can read it.
            fs::rename(&path, folder.join(format!("{FILE_NAME}.bad")))?;
        }
        let excess = found.entries.len().saturating_sub(most);
        found.entries.drain(..excess);
        let ours = whose == Whose::Ours;
        let length = if ours { bytes.len() as u64 } else { 0 };
        let sink = Box::new(Appended::open(&path)?);
        let mut journal = Self { folder: folder.to_owned(), service, sink, length, records, _lock: lock };
        // Without what is no longer of use; a disk without room leaves the file as it was.
        let living = found.entries.iter().map(|(number, entry)| (*number, entry));
        match journal.rewrite(living) {
            Ok(()) => {}
            Err(error) if ours => tracing::debug!(%error, "the upload queue is not compacted"),
            Err(_) => journal.begin()?,
        }
        Ok((journal, found))
    }

    /// The beginning of a file, of which nothing stays.
    fn begin(&mut self) -> io::Result<()> {
        self.sink.cut(0)?;
        let header = header(self.service);
        self.sink.write_all(&header)?;
        self.length = header.len() as u64;
        self.records = 0;
        Ok(())
    }

    /// Writes changes down, all or none of them.
    pub(super) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(changes.len() * 160);
        for change in changes {
            change.encode(&mut bytes);
        }
        let written = self.sink.write_all(&bytes).and_then(|()| self.sink.flush());
        match written {
            Ok(()) => {
                self.length += bytes.len() as u64;
                self.records += changes.len();
            }
            // Were it left, the next record would still be found by its mark.
            Err(_) => drop(self.sink.cut(self.length)),
        }
        written
    }

    /// Whether most of the file is of no use any more.
    pub(super) const fn is_worth_rewriting(&self, living: usize) -> bool {
        self.records > 2 * living + SLACK_RECORDS
    }

    /// Replaces the file by one with these entries alone.
    pub(super) fn rewrite<'a>(
        &mut self,
        living: impl Iterator<Item = (Number, &'a Entry)>,
    ) -> io::Result<()> {
        let mut bytes = header(self.service);
        let mut records = 0;
        for (number, entry) in living {
            encode_queued(number, entry, &mut bytes);
            records += 1;
        }
        let (fresh, path) = (self.folder.join("queue.new"), self.folder.join(FILE_NAME));
        let mut file = File::create(&fresh)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        if let Err(error) = written.and_then(|()| files::rename(&fresh, &path)) {
            let _ = fs::remove_file(&fresh);
            return Err(error);
        }
        self.sink = Box::new(Appended::open(&path)?);
        self.length = bytes.len() as u64;
        self.records = records;
        Ok(())
    }

    #[cfg(test)]
    fn set_sink(&mut self, sink: Box<dyn Sink>) {
        self.sink = sink;
    }
}

fn patiently_lock(lock: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

fn header(service: Service) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&service.0);
    bytes
}

impl Change {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Queued(number, entry) => encode_queued(*number, entry, out),
            Self::Gone(number) => record(GONE, &number.0.to_le_bytes(), out),
        }
    }

    /// `None` for a payload that nobody of ours wrote.
    fn decode(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut input = Input(payload);
        let number = Number(input.u64()?);
        let change = match kind {
            GONE => Self::Gone(number),
            QUEUED => {
                let (queued, size) = (input.u64()?, input.u64()?);
                let kind = input.byte()?;
                let kind = AssetKind::ALL.into_iter().find(|known| *known as u8 == kind)?;
                let flags = input.byte()?;
                if flags & !(CENTRAL | RESOLVED_PRIVATE) != 0 {
                    return None;
                }
                let (central, resolved_private) = (flags & CENTRAL != 0, flags & RESOLVED_PRIVATE != 0);
                let id = AssetId(Uuid::from_bytes(input.array()?));
                let digest = Digest(input.array()?);
                let (grid, origin) = (GridId::new(input.text()?), Origin::new(input.text()?));
                let key = AssetKey { grid, kind, id };
                Self::Queued(number, Entry { key, origin, central, digest, size, queued, resolved_private })
            }
            _ => return None,
        };
        input.0.is_empty().then_some(change)
    }
}

fn encode_queued(number: Number, entry: &Entry, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(128);
    for field in [number.0, entry.queued, entry.size] {
        payload.extend_from_slice(&field.to_le_bytes());
    }
    let central = if entry.central { CENTRAL } else { 0 };
    let resolved_private = if entry.resolved_private { RESOLVED_PRIVATE } else { 0 };
    payload.extend_from_slice(&[entry.key.kind as u8, central | resolved_private]);
    payload.extend_from_slice(entry.key.id.0.as_bytes());
    payload.extend_from_slice(&entry.digest.0);
    for text in [entry.key.grid.as_str(), entry.origin.as_str()] {
        // The store takes no longer names, and what the store does not have is not uploaded.
        let text = text.as_bytes().get(..text.len().min(255)).unwrap_or_default();
        payload.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        payload.extend_from_slice(text);
    }
    record(QUEUED, &payload, out);
}

fn record(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&MARK);
    let checked_from = out.len();
    out.push(kind);
    out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(payload);
    let checksum = checksum(out.get(checked_from..).unwrap_or_default());
    out.extend_from_slice(&checksum);
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut sum = [0; CHECKSUM];
    sum.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(cell, byte)| *cell = *byte);
    sum
}

/// Whose queue a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    /// Another service's, or nobody's in particular.
    Elsewhere,
    /// It is none that we can read.
    Unknown,
}

/// Whose queue a file holds, and its records.
fn begins(bytes: &[u8], service: Service) -> Option<(Whose, &[u8])> {
    let (version, rest) = bytes.strip_prefix(MAGIC)?.split_first_chunk()?;
    match u16::from_le_bytes(*version) {
        1 => Some((Whose::Elsewhere, rest)),
        VERSION => {
            let (said, rest) = rest.split_first_chunk()?;
            debug_assert_eq!(bytes.len() - rest.len(), HEADER);
            Some((if *said == service.0 { Whose::Ours } else { Whose::Elsewhere }, rest))
        }
        _ => None,
    }
}

/// Reads a file: what is in the queue for this service, how many records that took, and whose it is.
fn read(bytes: &[u8], service: Service) -> (Found, usize, Whose) {
    let mut found = Found::default();
    let Some((whose, mut rest)) = begins(bytes, service) else {
        found.corrupt = u64::from(!bytes.is_empty());
        return (found, 0, Whose::Unknown);
    };
    let mut entries = BTreeMap::new();
    let mut records = 0;
    let mut damaged = false;
    while !rest.is_empty() {
        if let Some((change, after)) = first_record(rest) {
            match change {
                Change::Queued(number, entry) => drop(entries.insert(number, entry)),
                Change::Gone(number) => drop(entries.remove(&number)),
            }
            records += 1;
            rest = after;
            damaged = false;
            continue;
        }
        // One place, however long it is.
        found.corrupt += u64::from(!std::mem::replace(&mut damaged, true));
        let after = rest.get(1..).unwrap_or_default();
        let next = after.windows(MARK.len()).position(|window| window == MARK);
        rest = next.and_then(|at| after.get(at..)).unwrap_or_default();
    }
    if whose == Whose::Ours {
        found.entries = entries.into_iter().collect();
    } else {
        found.elsewhere = entries.len() as u64;
    }
    (found, records, whose)
}

/// The record that `bytes` begins with, and what follows it.
fn first_record(bytes: &[u8]) -> Option<(Change, &[u8])> {
    let checked = bytes.strip_prefix(&MARK)?;
    let (&kind, rest) = checked.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let payload = rest.get(..length)?;
    let (sum, after) = rest.get(length..)?.split_first_chunk::<CHECKSUM>()?;
    if *sum != checksum(checked.get(..3 + length)?) {
        return None;
    }
    debug_assert_eq!(bytes.len() - after.len(), FRAME + length);
    Some((Change::decode(kind, payload)?, after))
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let text = self.0.get(..length)?;
        self.0 = self.0.get(length..)?;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
#[path = "journal/tests.rs"]
mod tests;
