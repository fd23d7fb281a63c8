//! An answer's body, put together from what is held and what is being fetched.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::Frame;

use super::fetcher::Reader;
use super::upstream::BodyError;

/// An answer's body: bytes held here, then bytes of a fetch, then bytes held here.
pub(super) struct StitchedBody {
    pub(super) before: VecDeque<Bytes>,
    pub(super) fetched: Option<Reader>,
    pub(super) after: VecDeque<Bytes>,
    pub(super) on_end: Option<Box<dyn FnOnce(u64) + Send>>,
    pub(super) sent: u64,
}

impl hyper::body::Body for StitchedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let mut next = this.before.pop_front();
        if next.is_none()
            && let Some(reader) = &mut this.fetched
        {
            match reader.poll_bytes(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(bytes))) => next = Some(bytes),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => this.fetched = None,
            }
        }
        let next = next.or_else(|| this.after.pop_front());
        if let Some(bytes) = &next {
            this.sent += bytes.len() as u64;
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Drop for StitchedBody {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end(self.sent);
        }
    }
}
