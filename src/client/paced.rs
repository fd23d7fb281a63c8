//! Bodies that go out piece by piece, as fast as they may.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Resolves when a piece may go.
pub type Grant = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Lets a body go out piece by piece.
pub trait Pace: Send + Sync {
    /// The most bytes of a piece; at least 1.
    fn piece(&self) -> usize;
    /// Asks to send so many bytes.
    fn grant(&self, bytes: usize) -> Grant;
}

/// A body, and who says when its next piece may go; without, it goes at once.
pub(super) struct PacedBody {
    rest: Bytes,
    pace: Option<Arc<dyn Pace>>,
    waiting: Option<(Bytes, Grant)>,
}

impl PacedBody {
    pub(super) fn new(body: Bytes, pace: Option<Arc<dyn Pace>>) -> Self {
        Self { rest: body, pace, waiting: None }
    }

    /// The next piece, when it may go.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.waiting.is_none() {
            if self.rest.is_empty() {
                return Poll::Ready(None);
            }
            let Some(pace) = &self.pace else {
                return Poll::Ready(Some(std::mem::take(&mut self.rest)));
            };
            let piece = self.rest.split_to(pace.piece().clamp(1, self.rest.len()));
            let grant = pace.grant(piece.len());
            self.waiting = Some((piece, grant));
        }
        if let Some((_, grant)) = &mut self.waiting {
            ready!(grant.as_mut().poll(cx));
        }
        Poll::Ready(self.waiting.take().map(|(piece, _)| piece))
    }

    fn length(&self) -> u64 {
        let waiting = self.waiting.as_ref().map_or(0, |(piece, _)| piece.len());
        (self.rest.len() + waiting) as u64
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_next(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length())
    }
}
