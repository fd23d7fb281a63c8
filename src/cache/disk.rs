//! Reading the disk tier: every byte is checked before anybody sees it, and nobody waits long.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::claims::Claim;
use super::files::{FileId, Files, Part};
use super::format::{Content, FormatError, Header, MAX_HEADER};
use super::partial::PartialAsset;
use crate::asset::{AssetKey, Digest};
use crate::grid::Origin;

/// Why a file gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadFault {
    #[error("the file is gone")]
    Missing,
    #[error("the file is damaged: {0}")]
    Rotten(#[from] FormatError),
    /// It may be there and well: too many open files, a scanner holding it, a bad sector.
    #[error("the file cannot be read: {0}")]
    Unreadable(io::Error),
    /// A sound file, but about something else: two names fell together.
    #[error("the file is about another asset")]
    Foreign,
}

impl From<io::Error> for ReadFault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing,
            _ => Self::Unreadable(error),
        }
    }
}

/// The directory, and the way to its files.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) root: PathBuf,
    pub(super) files: Arc<dyn Files>,
}

impl Disk {
    fn header(&self, id: FileId, key: &AssetKey, limit: u64) -> Result<(Header, Bytes), ReadFault> {
        let (bytes, len) = self.files.read(&id.path(&self.root), limit)?;
        let (header, body_at) = Header::decode(&bytes)?;
        if header.key != *key {
            return Err(ReadFault::Foreign);
        }
        if (body_at as u64).checked_add(header.body_len()) != Some(len) {
            return Err(FormatError::Length.into());
        }
        Ok((header, Bytes::from(bytes).slice(body_at..)))
    }

    /// Who supplied what a file holds; reads the header only.
    pub(super) fn read_claim(&self, id: FileId, key: &AssetKey) -> Result<Claim, ReadFault> {
        let (header, _) = self.header(id, key, MAX_HEADER as u64)?;
        claim_of(header)
    }

    /// A whole asset, its bytes checked against its digest.
    pub(super) fn read_whole(&self, id: FileId, key: &AssetKey) -> Result<(Claim, Bytes), ReadFault> {
        let limit = key.kind.max_bytes() + MAX_HEADER as u64;
        let (header, body) = self.header(id, key, limit)?;
        let claim = claim_of(header)?;
        if Digest::of(&body) != claim.digest {
            return Err(FormatError::BodyChecksum.into());
        }
        Ok((claim, body))
    }

    /// An origin's parts, every extent checked.
    pub(super) fn read_parts(
        &self,
        id: FileId,
        key: &AssetKey,
        origin: &Origin,
    ) -> Result<PartialAsset, ReadFault> {
        let limit = key.kind.max_bytes() + MAX_HEADER as u64;
        let (header, body) = self.header(id, key, limit)?;
        if !header.origins.contains(origin) {
            return Err(ReadFault::Foreign);
        }
        let Content::Parts(extents) = header.content else {
            return Err(FormatError::Field("the content").into());
        };
        let mut parts = PartialAsset::new(header.total);
        let mut at = 0_usize;
        for extent in extents {
            let length = usize::try_from(extent.length).map_err(|_| FormatError::Length)?;
            let end = at.checked_add(length).filter(|end| *end <= body.len()).ok_or(FormatError::Length)?;
            let bytes = body.slice(at..end);
            if Digest::of(&bytes) != extent.digest || parts.add(extent.offset, &bytes).is_err() {
                return Err(FormatError::BodyChecksum.into());
            }
            at = end;
        }
        Ok(parts)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }
}

fn claim_of(header: Header) -> Result<Claim, ReadFault> {
    match header.content {
        Content::Whole(digest) => Ok(Claim { digest, origins: header.origins, stored: header.stored }),
        Content::Parts(_) => Err(FormatError::Field("the content").into()),
    }
}

/// Whether a damaged file of this name may be removed. A parts file that is about another origin
/// is not damaged: 32 bits of a host name's hash can fall together.
pub(super) fn is_condemned(id: FileId, fault: &ReadFault) -> bool {
    match fault {
        ReadFault::Missing | ReadFault::Rotten(_) => true,
        ReadFault::Foreign => matches!(id.part, Part::Whole(_)),
        ReadFault::Unreadable(_) => false,
    }
}

const RUNNING: u8 = 0;
const OVERDUE: u8 = 1;
const DONE: u8 = 2;

/// Bounds the reads in flight and the time anybody waits for one.
///
/// Waiting for a turn counts against the deadline, so a burst of requests on a sound disk is
/// served in turn. Once a read has missed its deadline and all turns are taken, the disk is
/// stuck: nobody queues behind it any more.
#[derive(Debug)]
pub(super) struct Gate {
    turns: Arc<Semaphore>,
    overdue: Arc<AtomicI64>,
    deadline: Duration,
}

impl Gate {
    pub(super) fn new(reads: usize, deadline: Duration) -> Self {
        Self { turns: Arc::new(Semaphore::new(reads.max(1))), overdue: Arc::new(AtomicI64::new(0)), deadline }
    }

    /// Runs a read. `None`: not within the deadline; the read itself goes on.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let deadline = Instant::now() + self.deadline;
        if self.turns.available_permits() == 0 && self.overdue.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await.ok()?.ok()?;
        let state = Arc::new(AtomicU8::new(RUNNING));
        let overdue = Arc::clone(&self.overdue);
        let inside = Arc::clone(&state);
        let task = tokio::task::spawn_blocking(move || {
            let answer = read();
            if inside.swap(DONE, Ordering::AcqRel) == OVERDUE {
                overdue.fetch_sub(1, Ordering::Relaxed);
            }
            drop(turn);
            answer
        });
        if let Ok(answer) = timeout_at(deadline, task).await {
            return answer.ok();
        }
        if state.swap(OVERDUE, Ordering::AcqRel) == RUNNING {
            self.overdue.fetch_add(1, Ordering::Relaxed);
        }
        None
    }
}
