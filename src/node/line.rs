//! One connection of the HTTP face: what is being answered on it, and when it is given up.
//!
//! An answer counts until the last of its bytes has left the node's own memory, not until hyper has taken
//! it: in HTTP/2 a reader with a window of nothing leaves all of it with us, and its pings keep the
//! connection alive.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

use super::body::{Broken, Streamed};
use super::sending::patience;
use super::service::Running;

/// Bytes in memory, or a large asset piece by piece.
pub(super) type Body = Either<Full<Bytes>, Streamed>;

/// How often a connection is looked at, at least.
const LOOK: Duration = Duration::from_secs(60);
/// Whoever connects has something to ask, and has asked it by then.
const FIRST: Duration = Duration::from_secs(20);

/// A connection.
pub(super) struct Line {
    state: Mutex<State>,
}

struct State {
    next: u64,
    /// Requests that are not answered and sent yet, and until when they must be.
    answers: BTreeMap<u64, Option<Instant>>,
    /// When the last of them ended.
    quiet: Instant,
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nobody asks for anything.
    Idle,
    /// The reader takes its answers too slowly, or not at all.
    Overdue,
}

/// A request that is being answered on a connection. The node does not go before it has ended.
pub(super) struct Answering {
    line: Arc<Line>,
    number: u64,
    running: Option<Running>,
}

impl Line {
    pub(super) fn new() -> Arc<Self> {
        let state = State { next: 0, answers: BTreeMap::new(), quiet: Instant::now() };
        Arc::new(Self { state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.answers.insert(number, None);
        Answering { line: Arc::clone(self), number, running: None }
    }

    /// Resolves when an answer is overdue, or when none was asked for in `idle`.
    pub(super) async fn ended(&self, idle: Duration) -> End {
        loop {
            let (now, mut until) = (Instant::now(), Instant::now() + LOOK.min(idle));
            {
                let state = self.state();
                let idle = if state.next == 0 { idle.min(FIRST) } else { idle };
                let due = state.answers.values().flatten().min();
                if due.is_some_and(|due| *due <= now) {
                    return End::Overdue;
                }
                until = until.min(due.copied().unwrap_or(until));
                if state.answers.is_empty() {
                    if state.quiet + idle <= now {
                        return End::Idle;
                    }
                    until = until.min(state.quiet + idle);
                }
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Answering {
    /// The request is one that the node waits for.
    pub(super) fn runs(&mut self, running: Running) {
        self.running = Some(running);
    }

    /// From now on the answer is sent, and its reader must take it.
    pub(super) fn sends(self, body: Body) -> Sent {
        let length = body.size_hint().exact().unwrap_or(0);
        self.line.state().answers.insert(self.number, Some(Instant::now() + patience(length)));
        Sent { body, answering: Arc::new(self) }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        let mut state = self.line.state();
        state.answers.remove(&self.number);
        state.quiet = Instant::now();
    }
}

/// The body of an answer; each piece of it holds the answer open until its bytes are gone.
pub(super) struct Sent {
    body: Body,
    answering: Arc<Answering>,
}

struct Piece {
    bytes: Bytes,
    _answering: Arc<Answering>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let answering = Arc::clone(&self.answering);
        let held = |bytes| Bytes::from_owner(Piece { bytes, _answering: answering });
        match &mut self.body {
            Either::Left(full) => Pin::new(full)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(held)).map_err(|_| Broken))),
            Either::Right(stream) => Pin::new(stream)
                .poll_frame(context)
                .map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(held)))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
