//! Contents on their way to readers: bounded in memory, per caller, and in time.
//!
//! What is sent stays in memory until the reader has taken it, whatever the hot tier drops meanwhile. So
//! each content that is being sent is charged to its reader, until the last of it has left: over QUIC until
//! it is acknowledged, over TCP until the system has it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::refusal::Refusal;
use super::shares::{Budget, CallerKey, Taken, kib};

/// What is being sent, all together.
const SENDING_KIB: usize = 512 << 10;
/// Of a large content: what a connection holds unacknowledged, and two pieces before that.
pub(super) const STREAM_BYTES: u64 = SEND_WINDOW as u64 + (2 << 20);
/// What a QUIC connection holds that is not acknowledged.
pub(super) const SEND_WINDOW: u32 = 4 << 20;
/// What a reader must take on average, in bytes a second, once [`GRACE`] is over.
const LEAST_RATE: u64 = 8 << 10;
const GRACE: Duration = Duration::from_secs(20);

/// All contents that are being sent.
pub(super) struct Sending(Budget);

/// Bytes, and what they are charged as.
struct Charged {
    bytes: Bytes,
    _taken: Taken,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Sending {
    pub(super) fn new() -> Self {
        Self(Budget::new(SENDING_KIB))
    }

    /// Charges `size` bytes for as long as what is returned is kept.
    ///
    /// # Errors
    /// When too much is on its way already, to this reader or to all.
    pub(super) fn charge(&self, caller: CallerKey, size: u64) -> Result<Taken, Refusal> {
        self.0.take(caller, kib(size)).ok_or(Refusal::later(
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is being sent already; read faster, or ask for less at once",
            1,
        ))
    }

    /// Bytes of memory that is kept for readers.
    pub(super) fn bytes(&self) -> u64 {
        self.0.taken_kib() as u64 * 1024
    }
}

/// These bytes, which hold what they are charged as until nobody has them any more.
pub(super) fn charged(bytes: Bytes, taken: Taken) -> Bytes {
    Bytes::from_owner(Charged { bytes, _taken: taken })
}

/// How long a reader may take over so many bytes.
pub(super) fn patience(bytes: u64) -> Duration {
    GRACE + Duration::from_secs(bytes / LEAST_RATE)
}
