//! An asset that was found: its bytes as they come, each checked before it goes on. Where a node breaks off, another
//! goes on, where there is one.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::nodes::Running;
use super::{CallError, Inner, Way, unexpected};
use crate::asset::{AssetKey, Digest};
use crate::wire::frame::{Call, Found, Reply};
use crate::wire::{OriginHash, groups};

/// Pieces of a body that are taken from its stream in one visit.
const CHUNKS_AT_ONCE: usize = 32;
/// Room made for a body of a length that was only announced.
const ON_PROMISE: usize = 1 << 20;
/// Room made for the groups of a large body, several at once.
const READ_AHEAD: usize = 4 * groups::GROUP_BYTES;

/// How much of a body has come, and when the last of it came.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// Bytes, group hashes included.
    pub bytes: u64,
    /// When the last ones came.
    pub at: Instant,
    /// Another node was asked to go on with it.
    pub moved: bool,
}

pub(super) enum Body {
    Quic(quinn::RecvStream),
    Http(hyper::body::Incoming),
}

impl Body {
    /// Adds what has come to `buffer` and says how much that is; `None` at the end.
    async fn append(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, CallError> {
        let before = buffer.len();
        match self {
            Self::Quic(stream) => {
                // A chunk is what one datagram held. Each visit to the stream takes its connection's lock,
                // which the thread that receives wants too.
                let mut chunks: [Bytes; CHUNKS_AT_ONCE] = Default::default();
                let read = stream.read_chunks(&mut chunks).await.map_err(|_| CallError::Unreachable)?;
                let Some(number) = read else { return Ok(None) };
                chunks.iter().take(number).for_each(|chunk| buffer.extend_from_slice(chunk));
            }
            Self::Http(body) => {
                let Some(frame) = http_body_util::BodyExt::frame(body).await else { return Ok(None) };
                if let Ok(data) = frame.map_err(|_| CallError::Unreachable)?.into_data() {
                    buffer.extend_from_slice(&data);
                }
            }
        }
        Ok(Some(buffer.len() - before))
    }
}

enum Progress {
    Start,
    Groups { next: u64, rest: BytesMut },
    Done,
}

/// An asset that was found, of which only checked bytes come out.
pub struct FoundBody {
    found: Found,
    body: Body,
    groups: Option<Arc<groups::Groups>>,
    state: Progress,
    receipt: Arc<Mutex<Receipt>>,
    /// Until the last byte has come.
    running: Option<Running>,
    again: Option<Again>,
    /// How long nothing may come before another node is asked.
    patience: Duration,
}

/// The question, to ask it once more elsewhere.
struct Again {
    client: Arc<Inner>,
    way: Way,
    key: AssetKey,
    origin: Option<OriginHash>,
    range: Option<(u64, u64)>,
}

impl Inner {
    /// See [`super::ServiceClient::read`].
    pub(super) async fn read(
        self: &Arc<Self>,
        way: &Way,
        key: &AssetKey,
        origin: Option<OriginHash>,
        range: Option<(u64, u64)>,
    ) -> Result<Option<FoundBody>, CallError> {
        let route = way.route(&key.grid, Some(key.id), origin);
        let call = Call::Read { key: key.clone(), origin, range, head_only: false };
        let answer = self.call(&route, way.patience, call, None).await?;
        match answer.reply {
            Reply::Found(found) if found.total <= key.kind.max_bytes() => {
                let receipt = Arc::new(Mutex::new(Receipt { bytes: 0, at: Instant::now(), moved: false }));
                let again = self.nodes.have_choice().then(|| Again {
                    client: Arc::clone(self),
                    way: *way,
                    key: key.clone(),
                    origin,
                    range,
                });
                Ok(Some(FoundBody {
                    found,
                    body: answer.body,
                    groups: None,
                    state: Progress::Start,
                    receipt,
                    patience: body_patience(way.patience, answer.running.asked().elapsed()),
                    running: Some(answer.running),
                    again,
                }))
            }
            Reply::Absent => Ok(None),
            other => Err(unexpected(other)),
        }
    }
}

/// How long a body may stand still before another node is asked, when its header took `header` of the `patience`
/// with the node: what that has taken the body does not get again, but for the time of a round trip. So the other
/// one is asked before whoever waits gives up both.
fn body_patience(patience: Duration, header: Duration) -> Duration {
    patience.saturating_sub(header * 2 / 3).max(header.min(patience))
}

/// The node has not delivered what it had begun.
fn broken(mut running: Running, error: &CallError) {
    if *error == CallError::Unreachable {
        running.failed();
    } else {
        tracing::warn!(node = %running.at(), %error, "a node of the cache service is left for others");
        running.wrong();
    }
}

impl FoundBody {
    /// What the service says it is.
    #[must_use]
    pub const fn found(&self) -> &Found {
        &self.found
    }

    /// How the body is coming along, for whoever watches while another waits for it.
    #[must_use]
    pub fn receipt(&self) -> Arc<Mutex<Receipt>> {
        Arc::clone(&self.receipt)
    }

    /// The group hashes that the digest was checked to be made of; `None` for bodies that come whole,
    /// and until the first bytes have come.
    #[must_use]
    pub fn groups(&self) -> Option<Arc<groups::Groups>> {
        self.groups.clone()
    }

    /// Whether another node was asked to go on with it.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        self.receipt.lock().unwrap_or_else(PoisonError::into_inner).moved
    }

    /// The body does not go on as it should; whoever says so does not wait for it any more.
    pub fn stalled(&mut self) {
        if let Some(running) = &mut self.running {
            running.stalled();
        }
    }

    /// The next checked bytes, in order from [`Found::first`] on; `None` after the last.
    ///
    /// # Errors
    /// When the body breaks off and nobody else goes on with it, or its bytes are not those of the digest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        let mut next = self.step_in_time().await;
        // Once for each body; how long all of it may take is the caller's to say.
        if matches!(next, None | Some(Err(_)))
            && let Some(again) = self.again.take()
        {
            let before = self.running.take();
            let beside = before.as_ref().map(Running::at);
            match (before, &next) {
                (Some(mut running), None) => running.stalled(),
                (Some(running), Some(Err(error))) => broken(running, error),
                _ => {}
            }
            let went_on = self.go_on(again, beside).await;
            match (went_on, &next) {
                (Ok(()), _) => next = Some(self.step().await),
                // That bytes were wrong says more than that nobody else has them.
                (Err(_), Some(Err(error))) if *error != CallError::Unreachable => {}
                (Err(error), _) => next = Some(Err(error)),
            }
        }
        let next = next.unwrap_or(Err(CallError::Unreachable));
        match &next {
            Err(error) => {
                if let Some(running) = self.running.take() {
                    broken(running, error);
                }
                self.state = Progress::Done;
            }
            Ok(Some(_)) if !matches!(self.state, Progress::Done) => {
                // What sends bytes is there, and is no slower than its header has shown.
                if let Some(running) = &mut self.running {
                    running.heard();
                }
            }
            _ => self.running = None,
        }
        next
    }

    /// `None`: nothing has come for so long that another node may be sooner, if there is one.
    async fn step_in_time(&mut self) -> Option<Result<Option<Bytes>, CallError>> {
        let Some(client) = self.again.as_ref().map(|again| Arc::clone(&again.client)) else {
            return Some(self.step().await);
        };
        let patience = self.patience;
        let receipt = self.receipt();
        let mut last = Instant::now();
        let mut step = std::pin::pin!(self.step());
        loop {
            tokio::select! {
                biased;
                next = &mut step => return Some(next),
                () = tokio::time::sleep_until((last + patience).into()) => {
                    let came = receipt.lock().unwrap_or_else(PoisonError::into_inner).at;
                    if came > last {
                        last = came;
                    } else if client.nodes.may_hedge() {
                        return None;
                    } else {
                        last = Instant::now();
                    }
                }
            }
        }
    }

    /// Asks for what is still missing once more. It has to be of the same content.
    async fn go_on(&mut self, again: Again, beside: Option<SocketAddr>) -> Result<(), CallError> {
        let end = self.found.first + self.found.length;
        {
            // What came of a group or body that was not finished does not count, and comes again; so do the hashes.
            let had = match &self.state {
                Progress::Groups { next, .. } => {
                    (next * groups::GROUP_BYTES as u64).min(end) - self.found.first
                }
                Progress::Start | Progress::Done => 0,
            };
            let mut receipt = self.receipt.lock().unwrap_or_else(PoisonError::into_inner);
            (receipt.bytes, receipt.moved) = (had, true);
        }
        let (first, range) = match &self.state {
            Progress::Start => (self.found.first, again.range),
            Progress::Groups { next, .. } => {
                let first = next * groups::GROUP_BYTES as u64;
                (first, Some((first, end)))
            }
            Progress::Done => return Err(CallError::Unreachable),
        };
        let route = again.way.route(&again.key.grid, Some(again.key.id), again.origin);
        let call = Call::Read { key: again.key, origin: again.origin, range, head_only: false };
        let answer = again.client.call_beside(beside, &route, again.way.patience, call, None).await?;
        let Reply::Found(found) = answer.reply else { return Err(CallError::Unreachable) };
        let same = found.digest == self.found.digest
            && (found.total, found.grouped) == (self.found.total, self.found.grouped)
            && (found.first, found.first.saturating_add(found.length)) == (first, end);
        if !same {
            return Err(CallError::Unreachable);
        }
        self.body = answer.body;
        self.running = Some(answer.running);
        if let Progress::Groups { next, .. } = self.state {
            let mut rest = BytesMut::new();
            // The hashes are known already, and were checked.
            let hashes = self.hashes()?;
            self.fill(&mut rest, hashes).await?;
            let rest = rest.split_off(hashes);
            self.state = Progress::Groups { next, rest };
        }
        Ok(())
    }

    /// Bytes of the hashes of all groups.
    fn hashes(&self) -> Result<usize, CallError> {
        let count = usize::try_from(groups::count(self.found.total)).map_err(|_| CallError::Garbled)?;
        Ok(count * 32)
    }

    async fn step(&mut self) -> Result<Option<Bytes>, CallError> {
        match &mut self.state {
            Progress::Done => Ok(None),
            Progress::Start if !self.found.grouped => {
                let mut whole = BytesMut::new();
                let length = usize::try_from(self.found.length).map_err(|_| CallError::Garbled)?;
                self.fill(&mut whole, length).await?;
                let whole = whole.freeze();
                if self.found.length != self.found.total || Digest::of(&whole) != self.found.digest {
                    return Err(CallError::WrongBytes);
                }
                self.state = Progress::Done;
                Ok(Some(whole))
            }
            Progress::Start => {
                let length = self.hashes()?;
                let mut rest = BytesMut::new();
                self.fill(&mut rest, length).await?;
                let hashes =
                    rest.split_to(length).chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect();
                let groups = groups::Groups::verified(hashes, self.found.total, self.found.digest)
                    .ok_or(CallError::WrongBytes)?;
                if !self.found.first.is_multiple_of(groups::GROUP_BYTES as u64) {
                    return Err(CallError::Garbled);
                }
                let next = self.found.first / groups::GROUP_BYTES as u64;
                self.groups = Some(Arc::new(groups));
                self.state = Progress::Groups { next, rest };
                self.group().await
            }
            Progress::Groups { .. } => self.group().await,
        }
    }

    async fn group(&mut self) -> Result<Option<Bytes>, CallError> {
        let Progress::Groups { next, rest } = &mut self.state else { return Ok(None) };
        // Where this ends before the group is whole, another node goes on at its beginning.
        let (next, mut rest) = (*next, std::mem::take(rest));
        let end = self.found.first + self.found.length;
        let start = next * groups::GROUP_BYTES as u64;
        if start >= end {
            self.state = Progress::Done;
            return Ok(None);
        }
        let length = usize::try_from((end - start).min(groups::GROUP_BYTES as u64)).unwrap_or(0);
        self.fill(&mut rest, length).await?;
        let group = rest.split_to(length).freeze();
        if !self.groups.as_ref().is_some_and(|groups| groups.check(next, &group)) {
            return Err(CallError::WrongBytes);
        }
        self.state = Progress::Groups { next: next + 1, rest };
        Ok(Some(group))
    }

    /// Reads until `buffer` holds `length` bytes.
    async fn fill(&mut self, buffer: &mut BytesMut, length: usize) -> Result<(), CallError> {
        // In one piece, so that nothing is copied when the buffer grows; but not more on a mere promise
        // than a body has that comes whole.
        let ahead = if self.found.grouped { READ_AHEAD } else { 0 };
        if buffer.capacity() < length {
            buffer.reserve((length - buffer.len()).min(ON_PROMISE).max(ahead));
        }
        while buffer.len() < length {
            let more = self.body.append(buffer).await?.ok_or(CallError::Unreachable)?;
            let mut receipt = self.receipt.lock().unwrap_or_else(PoisonError::into_inner);
            receipt.bytes += more as u64;
            receipt.at = Instant::now();
        }
        if !self.found.grouped && buffer.len() > length {
            return Err(CallError::Garbled);
        }
        Ok(())
    }
}
