//! Where a node has contents from: memory, else its disk, else the store. Small contents are read and
//! kept whole; of large ones only the pieces that somebody wants.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};

use super::body::Streamed;
use super::counters::{Count, Counters};
use super::disk::DiskTier;
use super::hot::{Held, HotTier};
use super::refusal::Refusal;
use super::turns::Turns;
use crate::asset::{AssetKind, Digest};
use crate::store::blobs::Blobs;
use crate::store::keys::{BlobName, KeyRing};
use crate::store::sealed::{self, Head, SealError};
use crate::wire::groups::{self, GROUP_BYTES, GroupHash};

/// Contents of more bytes are read and sent piece by piece.
pub(super) const LARGE_BYTES: u64 = 2 << 20;
/// Bytes of a piece, whole groups.
pub(super) const PIECE_BYTES: u64 = 1 << 20;
/// Large contents being sent at once. Each holds three pieces at most: one being fetched, one waiting, one
/// being sent.
const MAX_STREAMS: usize = 96;
/// How long a large content waits for one of the others to end.
const STREAM_PATIENCE: Duration = Duration::from_secs(5);
/// A reader who does not take a piece within this is given up.
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// A part of a content as it is kept: in memory opened, on the disk sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Piece {
    /// All of a small one.
    Whole,
    /// Header, digest and group values of a large one.
    Head,
    /// Bytes of a large one from this many pieces on.
    Body(u16),
}

/// A small content.
pub(super) struct Content {
    pub(super) bytes: Bytes,
    groups: OnceLock<Vec<GroupHash>>,
}

impl Content {
    pub(super) const fn new(bytes: Bytes) -> Self {
        Self { bytes, groups: OnceLock::new() }
    }

    pub(super) fn group_hashes(&self) -> Bytes {
        Bytes::copy_from_slice(self.groups.get_or_init(|| groups::of(&self.bytes)).as_flattened())
    }
}

/// A content that is there.
#[derive(Clone)]
pub(super) enum Source {
    Small(Arc<Content>),
    Large(Large),
}

/// Why bytes that should be there are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Trouble {
    /// The store fails; later it may not.
    #[error("the store fails")]
    Store,
    /// They are not there, or damaged: counted and logged already.
    #[error("the blob is missing or damaged")]
    Gone,
}

impl From<Trouble> for Refusal {
    fn from(_: Trouble) -> Self {
        Self::unavailable()
    }
}

/// The contents of a service.
pub(super) struct Contents {
    pub(super) blobs: Blobs,
    pub(super) ring: KeyRing,
    pub(super) hot: HotTier,
    pub(super) disk: Option<Arc<DiskTier>>,
    counters: Arc<Counters>,
    turns: Turns<([u8; 32], Piece)>,
    streams: Arc<Semaphore>,
}

/// The largest content of any kind.
fn limit() -> u64 {
    AssetKind::ALL.iter().map(|kind| kind.max_bytes()).max().unwrap_or(0)
}

impl Contents {
    pub(super) fn new(
        blobs: Blobs,
        ring: KeyRing,
        hot: HotTier,
        disk: Option<DiskTier>,
        counters: Arc<Counters>,
    ) -> Self {
        let disk = disk.map(Arc::new);
        let streams = Arc::new(Semaphore::new(MAX_STREAMS));
        Self { blobs, ring, hot, disk, counters, turns: Turns::default(), streams }
    }

    /// A content of `size` bytes. `None` when it is not there or damaged, which is counted.
    ///
    /// # Errors
    /// When the store fails.
    pub(super) async fn get(self: &Arc<Self>, digest: Digest, size: u64) -> Result<Option<Source>, Trouble> {
        let found = if size <= LARGE_BYTES {
            self.whole(digest).await.map(Source::Small)
        } else {
            match self.head(digest, size, None).await {
                // Packed: there are no parts.
                Ok(head) if !head.has_parts() => self.whole(digest).await.map(Source::Small),
                Ok(head) => Ok(Source::Large(Large { contents: Arc::clone(self), head })),
                Err(trouble) => Err(trouble),
            }
        };
        match found {
            Ok(source) => Ok(Some(source)),
            Err(Trouble::Gone) => Ok(None),
            Err(Trouble::Store) => Err(Trouble::Store),
        }
    }

    /// Keeps a small content that has just been stored.
    pub(super) fn keep(&self, digest: Digest, content: Arc<Content>) {
        if content.bytes.len() as u64 <= LARGE_BYTES {
            self.hot.put(digest, Piece::Whole, Held::Whole(content));
        }
    }

    /// Forgets a content, in memory and on the disk.
    pub(super) async fn forget(&self, digest: Digest) {
        self.hot.drop_content(digest);
        self.drop_files(self.ring.blob_name(digest)).await;
    }

    async fn whole(&self, digest: Digest) -> Result<Arc<Content>, Trouble> {
        let held = || match self.hot.get(digest, Piece::Whole) {
            Some(Held::Whole(content)) => Some(content),
            _ => None,
        };
        if let Some(content) = held() {
            return Ok(content);
        }
        let _turn = self.turns.wait((digest.0, Piece::Whole)).await;
        if let Some(content) = held() {
            return Ok(content);
        }
        let (ring, name) = (self.ring.clone(), self.ring.blob_name(digest));
        let open =
            move |blob: Vec<u8>| sealed::open_owned(&ring, &name, blob, limit()).map(|(_, bytes)| bytes);
        let bytes = match self.read_disk(name, Piece::Whole, open.clone()).await {
            Some(bytes) => bytes,
            None => self.fetch(name, Piece::Whole, None, open).await?.map_err(|e| self.damaged(&name, e))?,
        };
        let content = Arc::new(Content::new(bytes));
        self.hot.put(digest, Piece::Whole, Held::Whole(Arc::clone(&content)));
        Ok(content)
    }

    /// The head of a large content; a fresh one from the store when `stale` is what did not fit.
    async fn head(&self, digest: Digest, size: u64, stale: Option<&Arc<Head>>) -> Result<Arc<Head>, Trouble> {
        let held = || match self.hot.get(digest, Piece::Head) {
            Some(Held::Head(head)) if stale.is_none_or(|stale| !Arc::ptr_eq(stale, &head)) => Some(head),
            _ => None,
        };
        if let Some(head) = held() {
            return Ok(head);
        }
        let _turn = self.turns.wait((digest.0, Piece::Head)).await;
        if let Some(head) = held() {
            return Ok(head);
        }
        let (ring, name) = (self.ring.clone(), self.ring.blob_name(digest));
        let open = move |start: Vec<u8>| {
            Head::open(&ring, &name, &start, limit()).and_then(|head| {
                // The catalog's word; a range is placed by it.
                if head.plain_bytes() == size { Ok(Arc::new(head)) } else { Err(SealError::Damaged) }
            })
        };
        let on_disk = match stale {
            None => self.read_disk(name, Piece::Head, open.clone()).await,
            Some(_) => {
                self.drop_files(name).await;
                None
            }
        };
        let head = match on_disk {
            Some(head) => head,
            None => {
                let range = 0..sealed::head_bytes(size);
                let opened = self.fetch(name, Piece::Head, Some(range), open).await?;
                opened.map_err(|error| self.damaged(&name, error))?
            }
        };
        self.hot.put(digest, Piece::Head, Held::Head(Arc::clone(&head)));
        Ok(head)
    }

    /// One piece of a large content.
    async fn piece(&self, head: &Arc<Head>, number: u16) -> Result<Bytes, Trouble> {
        let (digest, piece) = (head.digest(), Piece::Body(number));
        let held = || match self.hot.get(digest, piece) {
            Some(Held::Bytes(bytes)) => Some(bytes),
            _ => None,
        };
        if let Some(bytes) = held() {
            return Ok(bytes);
        }
        let _turn = self.turns.wait((digest.0, piece)).await;
        if let Some(bytes) = held() {
            return Ok(bytes);
        }
        let name = self.ring.blob_name(digest);
        let bytes = match self.read_disk(name, piece, opener(head, number)).await {
            Some(bytes) => bytes,
            None => self.fetch_piece(name, head, number).await?,
        };
        self.hot.put(digest, piece, Held::Bytes(bytes.clone()));
        Ok(bytes)
    }

    async fn fetch_piece(&self, name: BlobName, head: &Arc<Head>, number: u16) -> Result<Bytes, Trouble> {
        let place = |head: &Head| head.place(piece_range(head, number)).ok_or(Trouble::Gone);
        let piece = Piece::Body(number);
        if let Ok(bytes) = self.fetch(name, piece, Some(place(head)?), opener(head, number)).await? {
            return Ok(bytes);
        }
        // Somebody has written the same content anew: its chunks belong to another head.
        self.counters.count(Count::HeadsRenewed);
        let fresh = self.head(head.digest(), head.plain_bytes(), Some(head)).await?;
        let opened = self.fetch(name, piece, Some(place(&fresh)?), opener(&fresh, number)).await?;
        opened.map_err(|error| self.damaged(&name, error))
    }

    fn damaged(&self, name: &BlobName, error: SealError) -> Trouble {
        self.counters.count(Count::BlobsDamaged);
        tracing::error!(%error, blob = %name, "a blob cannot be opened; `rezcache store verify` tells more");
        Trouble::Gone
    }

    /// What the disk tier has, opened; what cannot be is dropped.
    async fn read_disk<T: Send + 'static>(
        &self,
        name: BlobName,
        piece: Piece,
        open: impl FnOnce(Vec<u8>) -> Result<T, SealError> + Send + 'static,
    ) -> Option<T> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let reading = move || disk.get(&name, piece).map(open);
        match tokio::task::spawn_blocking(reading).await.ok()?? {
            Ok(opened) => {
                self.counters.count(Count::DiskHits);
                Some(opened)
            }
            Err(error) => {
                self.counters.count(Count::DiskDamaged);
                tracing::warn!(%error, blob = %name, "a file of the disk tier cannot be opened; it is fetched again");
                self.drop_files(name).await;
                None
            }
        }
    }

    async fn drop_files(&self, name: BlobName) {
        if let Some(disk) = self.disk.clone() {
            let _ = tokio::task::spawn_blocking(move || disk.drop_blob(&name)).await;
        }
    }

    /// What the store has, opened, and kept on the disk.
    async fn fetch<T: Send + 'static>(
        &self,
        name: BlobName,
        piece: Piece,
        range: Option<Range<u64>>,
        open: impl FnOnce(Vec<u8>) -> Result<T, SealError> + Send + 'static,
    ) -> Result<Result<T, SealError>, Trouble> {
        let read = match range {
            None => self.blobs.get(&name).await,
            Some(range) => self.blobs.get_range(&name, range).await,
        };
        let blob = read.map_err(|error| {
            tracing::warn!(%error, "a blob cannot be read");
            Trouble::Store
        })?;
        let Some(blob) = blob else {
            // The catalog names a blob that is not there: the scrub tells; the reader has the grid.
            self.counters.count(Count::BlobsMissing);
            return Err(Trouble::Gone);
        };
        self.counters.add(Count::StoreBytesIn, blob.len() as u64);
        let disk = self.disk.clone();
        let opening = move || {
            let kept = disk.is_some().then(|| blob.clone());
            let opened = open(Vec::from(blob))?;
            if let (Some(disk), Some(kept)) = (disk, kept) {
                disk.put(&name, piece, &kept);
            }
            Ok(opened)
        };
        tokio::task::spawn_blocking(opening).await.map_err(|_| Trouble::Store)
    }
}

fn opener(head: &Arc<Head>, number: u16) -> impl FnOnce(Vec<u8>) -> Result<Bytes, SealError> + Send + use<> {
    let head = Arc::clone(head);
    move |sealed| {
        let range = piece_range(&head, number);
        let opened = head.open_groups(range.start / GROUP_BYTES as u64, sealed)?;
        if opened.len() as u64 == range.end - range.start { Ok(opened) } else { Err(SealError::Damaged) }
    }
}

fn piece_range(head: &Head, number: u16) -> Range<u64> {
    let start = u64::from(number).saturating_mul(PIECE_BYTES);
    start..start.saturating_add(PIECE_BYTES).min(head.plain_bytes())
}

/// A content of which only the head has been read.
#[derive(Clone)]
pub(super) struct Large {
    contents: Arc<Contents>,
    head: Arc<Head>,
}

impl Large {
    pub(super) fn group_hashes(&self) -> Bytes {
        Bytes::copy_from_slice(self.head.groups().as_flattened())
    }

    /// Hashes the content piece by piece, keyed.
    ///
    /// # Errors
    /// When a piece is not to be had.
    pub(super) async fn proof(&self, key: &[u8; 32]) -> Result<[u8; 32], Trouble> {
        let mut hasher = blake3::Hasher::new_keyed(key);
        for (number, _) in pieces(0..self.head.plain_bytes()) {
            hasher.update(&self.contents.piece(&self.head, number).await?);
        }
        Ok(*hasher.finalize().as_bytes())
    }

    /// Sends a range, piece by piece.
    ///
    /// # Errors
    /// When too many are being sent already.
    pub(super) async fn stream(self, range: Range<u64>) -> Result<Streamed, Refusal> {
        let waiting = Arc::clone(&self.contents.streams).acquire_owned();
        let place = tokio::time::timeout(STREAM_PATIENCE, waiting).await;
        let Ok(Ok(place)) = place else {
            return Err(Refusal::later(http::StatusCode::SERVICE_UNAVAILABLE, "too many large assets", 2));
        };
        let length = range.end.saturating_sub(range.start);
        let (send, receive) = mpsc::channel(1);
        tokio::spawn(async move {
            for (number, part) in pieces(range) {
                // The stream ends too early then, which its reader sees.
                let Ok(bytes) = self.contents.piece(&self.head, number).await else { break };
                let sending = send.send(bytes.slice(part));
                if !matches!(tokio::time::timeout(READER_PATIENCE, sending).await, Ok(Ok(()))) {
                    break;
                }
            }
            drop(place);
        });
        Ok(Streamed::new(receive, length))
    }
}

/// The pieces that a range touches, and what of each.
fn pieces(range: Range<u64>) -> impl Iterator<Item = (u16, Range<usize>)> {
    let numbers = range.start / PIECE_BYTES..range.end.div_ceil(PIECE_BYTES);
    numbers.filter_map(move |number| {
        let start = number * PIECE_BYTES;
        let within = |offset: u64| usize::try_from(offset.clamp(start, start + PIECE_BYTES) - start).ok();
        Some((u16::try_from(number).ok()?, within(range.start)?..within(range.end)?))
    })
}

#[cfg(test)]
mod tests;
