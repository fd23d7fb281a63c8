//! Sending one asset: attestation first, the body when the service wants it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Inner;
use crate::asset::{Asset, Digest};
use crate::cache::{Lookup, Scope};
use crate::client::{CallError, Grant, Pace, Way};
use crate::fetch::upload_plan::{Dropped, Entry, Number, Outcome};
use crate::fetch::upload_rules::may_hear;
use crate::support::metrics::Counter;
use crate::wire::OriginHash;
use crate::wire::frame::{Codec, Verdict};

/// About what an attestation takes on the line.
const ATTESTATION_BYTES: u64 = 400;
/// How long the service may take to answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);
/// How long one of its nodes is waited for before another is told.
const NODE_PATIENCE: Duration = Duration::from_secs(3);
/// The slowest line on which a body is not given up, in bytes a second.
const SLOWEST_LINE: u64 = 4096;
/// The smallest and the largest piece of a body.
const PIECE_BYTES: [usize; 2] = [1024, 16 << 10];
/// How soon a changed cap is noticed by what waits for the line.
const CAP_PATIENCE: Duration = Duration::from_millis(500);
/// Hashing and packing more than this takes long enough to leave the async threads.
const ASIDE_BYTES: usize = 256 << 10;
/// What a node says when its store is full and it does not say for how long.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// Sends an entry, and says how that ended.
pub(super) async fn send(inner: &Arc<Inner>, number: Number, entry: &Entry) -> Outcome {
    // The queue outlives the run that judged it.
    let client = inner.service.client();
    let host = &client.address().host;
    if !may_hear(&entry.key.grid, entry.resolved_private, host) {
        return Outcome::Drop(Dropped::NotForService);
    }
    let asset = match held(inner, entry).await {
        Ok(asset) => asset,
        Err(outcome) => return outcome,
    };
    let origin = Some(OriginHash::of(&entry.key.grid, &entry.origin));
    wait_for_line(inner, ATTESTATION_BYTES).await;
    if let Some(reason) = inner.doom(number) {
        return Outcome::Drop(reason);
    }
    let way = Way { central: entry.central, patience: NODE_PATIENCE };
    let attesting = client.attest_by(&way, &entry.key, origin, entry.digest, &asset.bytes);
    let verdict = match in_time(ANSWER_PATIENCE, attesting).await {
        Ok(verdict) => verdict,
        Err(error) => return failed(&error),
    };
    inner.metrics.count(Counter::UploadsAttested);
    match verdict {
        Verdict::Published | Verdict::Known | Verdict::Waiting { want_body: false } => return Outcome::Done,
        Verdict::Conflict => return Outcome::Drop(Dropped::Conflict),
        Verdict::Waiting { want_body: true } => {}
    }

    let (codec, body) = packed(asset.bytes).await;
    let length = body.len() as u64;
    // It may have shown itself as somebody's bake by now, or the grid's owner may have opted out.
    if let Some(reason) = inner.doom(number) {
        return Outcome::Drop(reason);
    }
    let rate = inner.state().bucket.rate().unwrap_or(SLOWEST_LINE).clamp(1, SLOWEST_LINE);
    let patience = ANSWER_PATIENCE + Duration::from_secs(4 * length / rate);
    let pace: Arc<dyn Pace> = Arc::new(Line(Arc::clone(inner)));
    let client = inner.service.client();
    let putting = client.put_by(&way, &entry.key, origin, entry.digest, (codec, body), Some(pace));
    let verdict = in_time(patience, putting).await;
    match verdict {
        Ok(Verdict::Conflict) => Outcome::Drop(Dropped::Conflict),
        Ok(Verdict::Published | Verdict::Known | Verdict::Waiting { .. }) => {
            inner.metrics.count(Counter::UploadsSent);
            Outcome::Done
        }
        Err(error) => failed(&error),
    }
}

/// The asset as it was queued, checked once more.
async fn held(inner: &Inner, entry: &Entry) -> Result<Asset, Outcome> {
    let scope = Scope { origin: entry.origin.clone(), central: entry.central };
    let asset = match inner.cache.get(&entry.key, &scope).await {
        Lookup::Hit { asset, .. } => asset,
        Lookup::Busy => return Err(Outcome::DiskBusy),
        Lookup::Partial(_) | Lookup::Miss => return Err(Outcome::Drop(Dropped::Missing)),
    };
    let bytes = asset.bytes.clone();
    let digest = aside(bytes.len(), move || Digest::of(&bytes)).await;
    if digest == Some(entry.digest) { Ok(asset) } else { Err(Outcome::Drop(Dropped::Changed)) }
}

/// The body as it travels: packed when that saves a twentieth.
async fn packed(bytes: Bytes) -> (Codec, Bytes) {
    let plain = bytes.clone();
    let smaller = aside(bytes.len(), move || {
        let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
        encoder.write_all(&plain).ok()?;
        let packed = encoder.finish().ok()?;
        (packed.len() <= plain.len() - plain.len().div_ceil(20)).then_some(packed)
    });
    match smaller.await.flatten() {
        Some(packed) => (Codec::Lz4, Bytes::from(packed)),
        None => (Codec::Raw, bytes),
    }
}

/// Does work on so many bytes, on a thread of its own when they are many. `None` when that broke off.
async fn aside<R: Send + 'static>(bytes: usize, work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    if bytes <= ASIDE_BYTES { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}

async fn in_time<R>(
    patience: Duration,
    call: impl Future<Output = Result<R, CallError>>,
) -> Result<R, CallError> {
    tokio::time::timeout(patience, call).await.unwrap_or(Err(CallError::Unreachable))
}

/// The line, shared by all that is sent.
struct Line(Arc<Inner>);

impl Pace for Line {
    /// An eighth of a second at the cap: small enough that a viewer's packet never waits long behind it,
    /// and that no piece keeps the service waiting.
    fn piece(&self) -> usize {
        let rate = self.0.state().bucket.rate();
        rate.map_or(PIECE_BYTES[1], |rate| {
            usize::try_from(rate / 8).unwrap_or(usize::MAX).clamp(PIECE_BYTES[0], PIECE_BYTES[1])
        })
    }

    fn grant(&self, bytes: usize) -> Grant {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            wait_for_line(&inner, bytes as u64).await;
            inner.metrics.add(Counter::UploadBytes, bytes as u64);
        })
    }
}

/// Waits until the cap lets this many bytes go.
async fn wait_for_line(inner: &Inner, bytes: u64) {
    loop {
        let now = Instant::now();
        let taken = inner.state().bucket.take(bytes, now);
        let Err(later) = taken else { return };
        tokio::time::sleep_until(later.min(now + CAP_PATIENCE).into()).await;
    }
}

/// What an error means for the queue.
fn failed(error: &CallError) -> Outcome {
    match *error {
        CallError::Busy { retry_after } => Outcome::Busy(Some(retry_after)),
        CallError::Refused { status, retry_after, .. } => match status {
            401 => Outcome::Unknown,
            403 => Outcome::Forbidden,
            409 => Outcome::Drop(Dropped::Conflict),
            410 | 451 => Outcome::Drop(Dropped::TakenDown),
            507 => Outcome::Busy(Some(retry_after.unwrap_or(FULL_PAUSE))),
            408 | 425 | 429 | 503 => Outcome::Busy(retry_after),
            500.. if retry_after.is_some() => Outcome::Busy(retry_after),
            500.. => Outcome::Trouble,
            _ => Outcome::Drop(Dropped::Refused),
        },
        // No token that may go there, which comes to the same as an unknown one.
        CallError::PlainToken | CallError::NotAToken => Outcome::Unknown,
        CallError::WrongBytes => Outcome::Trouble,
        CallError::Unreachable | CallError::NoEndpoint | CallError::Tls | CallError::Garbled => {
            Outcome::Unreachable
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read as _;

    use super::*;

    #[test]
    fn what_a_refusal_means() {
        let refused = |status, seconds: Option<u64>| {
            let retry_after = seconds.map(Duration::from_secs);
            failed(&CallError::Refused { status, reason: String::new(), retry_after })
        };
        let minute = Some(Duration::from_secs(60));
        for (status, seconds, outcome) in [
            (400, None, Outcome::Drop(Dropped::Refused)),
            (401, None, Outcome::Unknown),
            (403, None, Outcome::Forbidden),
            (409, None, Outcome::Drop(Dropped::Conflict)),
            (413, None, Outcome::Drop(Dropped::Refused)),
            (422, None, Outcome::Drop(Dropped::Refused)),
            (429, Some(60), Outcome::Busy(minute)),
            (429, None, Outcome::Busy(None)),
            (451, None, Outcome::Drop(Dropped::TakenDown)),
            (500, None, Outcome::Trouble),
            (502, Some(60), Outcome::Busy(minute)),
            (503, None, Outcome::Busy(None)),
            (507, None, Outcome::Busy(minute)),
        ] {
            assert_eq!(refused(status, seconds), outcome, "{status}");
        }
        assert_eq!(failed(&CallError::Garbled), Outcome::Unreachable);
    }

    #[tokio::test]
    async fn a_body_is_packed_when_that_is_worth_it() {
        let text = Bytes::from("<llsd><map><key>base</key></map></llsd>".repeat(50));
        let (codec, body) = packed(text.clone()).await;
        assert!(codec == Codec::Lz4 && body.len() < text.len() / 4);
        let mut plain = Vec::new();
        lz4_flex::frame::FrameDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, text);
        let mut state = 1_u32;
        let noise: Bytes = (0..500_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_be_bytes()[0]
            })
            .collect::<Vec<_>>()
            .into();
        assert_eq!(packed(noise.clone()).await, (Codec::Raw, noise));
        assert_eq!(packed(Bytes::from_static(b"x")).await.0, Codec::Raw);
    }
}
