//! Bodies while they come: bounded in memory, on the disk, per caller and in time.
//!
//! A small body is kept in memory. A large one goes to a file without a name, in the system's folder for
//! temporary files, which ends with the process. Only when it has come whole is it read back to be checked:
//! validators need all of it at once. So what checking takes is bounded by [`CHECKING_KIB`], whatever how
//! many uploads there are and however slow they come; whoever finds it taken waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::contents::LARGE_BYTES;
use super::refusal::Refusal;
use super::shares::{Budget, CallerKey, Taken, kib};
use crate::asset::AssetKind;
use crate::wire::frame::Codec;

/// Small bodies that are coming, all together.
const COMING_KIB: usize = 64 << 10;
/// Large bodies that are coming, all together, on the disk.
const SPOOL_KIB: usize = 2 << 20;
/// Bodies that are checked, sealed and stored, all together: twice each, packed or sealed beside plain.
const CHECKING_KIB: usize = 256 << 10;
/// How long a body that has come whole waits to be checked.
const CHECKING_PATIENCE: Duration = Duration::from_secs(30);
/// A body that stands still for so long is given up.
const STALL: Duration = Duration::from_secs(10);
/// What a body must bring on average, in bytes a second, once [`GRACE`] is over.
const LEAST_RATE: u64 = 8 << 10;
const GRACE: Duration = Duration::from_secs(15);

/// All bodies that are coming or being checked.
pub(super) struct Uploads {
    coming: Budget,
    spool: Budget,
    checking: Arc<Semaphore>,
}

fn broken() -> Refusal {
    Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly or not whole")
}

impl Uploads {
    pub(super) fn new() -> Self {
        Self {
            coming: Budget::new(COMING_KIB),
            spool: Budget::new(SPOOL_KIB),
            checking: Arc::new(Semaphore::new(CHECKING_KIB)),
        }
    }

    /// What bodies hold in memory, coming or being checked.
    pub(super) fn memory_bytes(&self) -> u64 {
        let coming = self.coming.taken_kib();
        let checking = CHECKING_KIB.saturating_sub(self.checking.available_permits());
        (coming + checking) as u64 * 1024
    }

    /// For the load report.
    pub(super) fn report(&self) -> serde_json::Value {
        let spool = self.spool.taken_kib();
        serde_json::json!({
            "memory_bytes": self.memory_bytes(),
            "memory_limit": (COMING_KIB + CHECKING_KIB) as u64 * 1024,
            "disk_bytes": spool as u64 * 1024,
            "disk_limit": SPOOL_KIB as u64 * 1024,
        })
    }

    /// Makes room for a body of `length` bytes, which its kind allows.
    pub(super) async fn begin(
        &self,
        caller: CallerKey,
        kind: AssetKind,
        codec: Codec,
        length: u64,
    ) -> Result<Receiving, Refusal> {
        let large = length > LARGE_BYTES;
        let budget = if large { &self.spool } else { &self.coming };
        let taken = budget.take(caller, kib(length)).ok_or(Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many uploads at once",
            2,
        ))?;
        let place = if large {
            let file = tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(|_| broken())?;
            let file = file.map_err(|error| {
                tracing::warn!(%error, "no temporary file for an upload");
                Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "no room for an upload", 60)
            })?;
            Place::File(tokio::fs::File::from_std(file))
        } else {
            Place::Memory(BytesMut::new())
        };
        // Plain and packed or sealed at once. LZ4 packs 255 times at most.
        let plain = match codec {
            Codec::Raw => length,
            Codec::Lz4 => length.saturating_mul(255).min(kind.max_bytes()),
        };
        let checking = kib(plain.saturating_mul(2)).min(u32::try_from(CHECKING_KIB).unwrap_or(u32::MAX));
        let semaphore = Arc::clone(&self.checking);
        Ok(Receiving { place, taken, length, got: 0, begun: Instant::now(), checking, semaphore })
    }
}

enum Place {
    Memory(BytesMut),
    File(tokio::fs::File),
}

/// A body that is coming.
pub(super) struct Receiving {
    place: Place,
    taken: Taken,
    length: u64,
    got: u64,
    begun: Instant,
    checking: u32,
    semaphore: Arc<Semaphore>,
}

/// A body that has come, with leave to check it.
pub(super) struct Received {
    pub(super) bytes: Bytes,
    _checking: OwnedSemaphorePermit,
    _taken: Taken,
}

impl Receiving {
    /// How long the next bytes may take.
    pub(super) fn patience(&self) -> Duration {
        patience(self.got, self.begun.elapsed())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are more than was said, or there is no room.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.got += bytes.len() as u64;
        if self.got > self.length {
            return Err(broken());
        }
        match &mut self.place {
            Place::Memory(buffer) => buffer.extend_from_slice(bytes),
            Place::File(file) => file.write_all(bytes).await.map_err(|error| no_room(&error))?,
        }
        Ok(())
    }

    /// The whole body, when its turn to be checked comes.
    ///
    /// # Errors
    /// When it is not whole, or too many others are being checked.
    pub(super) async fn finish(self) -> Result<Received, Refusal> {
        if self.got != self.length {
            return Err(broken());
        }
        let waiting = self.semaphore.acquire_many_owned(self.checking);
        let Ok(Ok(checking)) = tokio::time::timeout(CHECKING_PATIENCE, waiting).await else {
            return Err(Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "too many uploads at once", 5));
        };
        let bytes = match self.place {
            Place::Memory(buffer) => buffer.freeze(),
            Place::File(mut file) => {
                let mut all = Vec::with_capacity(usize::try_from(self.length).map_err(|_| broken())?);
                let read = async {
                    file.flush().await?;
                    file.rewind().await?;
                    file.take(self.length).read_to_end(&mut all).await
                };
                read.await.map_err(|error| no_room(&error))?;
                Bytes::from(all)
            }
        };
        if bytes.len() as u64 != self.length {
            return Err(broken());
        }
        Ok(Received { bytes, _checking: checking, _taken: self.taken })
    }
}

fn no_room(error: &std::io::Error) -> Refusal {
    tracing::warn!(%error, "an upload cannot be kept");
    Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "no room for an upload", 60)
}

/// How long the next bytes of a body may take that has brought `got` bytes in this time; nothing when
/// it is too slow already.
fn patience(got: u64, elapsed: Duration) -> Duration {
    let allowed = GRACE.saturating_add(Duration::from_millis(got.saturating_mul(1000) / LEAST_RATE));
    allowed.saturating_sub(elapsed).min(STALL)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn caller(name: &str) -> CallerKey {
        (name.into(), [10, 0, 0, 1].into())
    }

    async fn begin(uploads: &Uploads, name: &str, length: u64) -> Result<Receiving, Refusal> {
        uploads.begin(caller(name), AssetKind::Mesh, Codec::Raw, length).await
    }

    #[test]
    fn who_trickles_is_given_up() {
        let seconds = Duration::from_secs;
        assert_eq!(patience(0, seconds(0)), STALL);
        assert_eq!(patience(0, seconds(10)), seconds(5));
        assert_eq!(patience(0, seconds(15)), Duration::ZERO);
        // A byte every nine seconds is never still, and yet ends.
        assert!((0..).map(|byte| patience(byte, seconds(9 * byte))).take(4).any(|wait| wait.is_zero()));
        // A slow home line goes on.
        assert!((0..600).all(|at| patience(at * 10_000, seconds(at)) >= seconds(10).min(GRACE)));
        // Who stops after a fast beginning gets the stall's time, and in the end no more.
        assert_eq!(patience(1 << 20, seconds(5)), STALL);
        assert_eq!(patience(1 << 20, seconds(200)), Duration::ZERO);
    }

    #[tokio::test]
    async fn one_caller_cannot_take_all_and_gives_back_what_it_had() {
        let uploads = Uploads::new();
        let mut held = Vec::new();
        while let Ok(receiving) = begin(&uploads, "greedy", LARGE_BYTES).await {
            held.push(receiving);
        }
        assert_eq!(held.len() * 2, COMING_KIB / 4 / 1024, "a quarter");
        assert!(begin(&uploads, "greedy", 100).await.is_err());
        assert!(begin(&uploads, "greedy", 40 << 20).await.is_ok(), "what goes to the disk has its own part");
        assert!(begin(&uploads, "other", LARGE_BYTES).await.is_ok());
        held.pop();
        assert!(begin(&uploads, "greedy", 100).await.is_ok());
        drop(held);
        assert_eq!(uploads.coming.taken_kib(), 0);
        assert_eq!(uploads.spool.taken_kib(), 0);
        // All of them together cannot take more than there is either.
        let mut all = Vec::new();
        for name in ["a", "b", "c", "d"] {
            while let Ok(receiving) = begin(&uploads, name, LARGE_BYTES).await {
                all.push(receiving);
            }
        }
        assert_eq!(uploads.coming.taken_kib(), COMING_KIB);
        assert!(begin(&uploads, "e", 1).await.is_err());
    }

    #[tokio::test]
    async fn a_body_is_what_came_whole() {
        let uploads = Uploads::new();
        for length in [0, 1, 5000, LARGE_BYTES, LARGE_BYTES + 1, 5 << 20] {
            let body: Vec<u8> = (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect();
            let mut receiving = begin(&uploads, "a", length).await.unwrap();
            assert_eq!(matches!(receiving.place, Place::File(_)), length > LARGE_BYTES);
            for part in body.chunks(70_001) {
                receiving.push(part).await.unwrap();
            }
            let received = receiving.finish().await.unwrap();
            assert!(received.bytes == body, "{length}");
            assert!(uploads.checking.available_permits() < CHECKING_KIB);
            drop(received);
            let mut receiving = begin(&uploads, "a", length).await.unwrap();
            assert!(receiving.push(&vec![0; body.len() + 1]).await.is_err(), "more than was said");
            if length > 0 {
                assert!(begin(&uploads, "a", length).await.unwrap().finish().await.is_err(), "less");
            }
        }
        assert_eq!(uploads.checking.available_permits(), CHECKING_KIB);
        assert_eq!(uploads.spool.taken_kib(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_checked_at_once() {
        let uploads = Uploads::new();
        let whole = |length: u64| {
            let uploads = &uploads;
            async move {
                let mut receiving = begin(uploads, "a", length).await.unwrap();
                receiving.checking = u32::try_from(CHECKING_KIB / 2).unwrap();
                receiving.push(&vec![1; usize::try_from(length).unwrap()]).await.unwrap();
                receiving
            }
        };
        let first = whole(1000).await.finish().await.unwrap();
        let _second = whole(1000).await.finish().await.unwrap();
        assert!(whole(1000).await.finish().await.is_err(), "nobody ends in time");
        let third = whole(1000).await;
        let (third, ()) = tokio::join!(third.finish(), async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            drop(first);
        });
        assert!(third.is_ok());
    }
}
