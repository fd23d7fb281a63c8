//! The body of an answer: parts in memory, and for large contents a stream of further ones.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes that follow an answer.
#[derive(Debug, Default)]
pub(super) struct Body {
    /// All group hashes, for whoever asked for groups.
    pub(super) hashes: Bytes,
    /// A content in memory.
    pub(super) bytes: Bytes,
    /// Or one that comes piece by piece.
    pub(super) stream: Option<Streamed>,
}

/// A content that is fetched while it is sent: whoever fetches it is never more than one piece ahead.
pub(super) struct Streamed {
    pieces: mpsc::Receiver<Bytes>,
    left: u64,
    kept: Vec<Box<dyn Send>>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("left", &self.left).finish_non_exhaustive()
    }
}

/// The stream ended before its end: the store failed, or the reader was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the content broke off")]
pub(super) struct Broken;

impl Streamed {
    /// A stream of `left` bytes out of what is sent to the other end of `pieces`.
    pub(super) const fn new(pieces: mpsc::Receiver<Bytes>, left: u64) -> Self {
        Self { pieces, left, kept: Vec::new() }
    }

    /// Keeps something alive until the stream is done.
    pub(super) fn keep(&mut self, what: impl Send + 'static) {
        self.kept.push(Box::new(what));
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When it breaks off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let piece = self.pieces.recv().await;
        self.took(piece)
    }

    fn took(&mut self, piece: Option<Bytes>) -> Result<Option<Bytes>, Broken> {
        match piece {
            Some(piece) => {
                self.left = self.left.checked_sub(piece.len() as u64).ok_or(Broken)?;
                Ok(Some(piece))
            }
            None if self.left == 0 => Ok(None),
            None => Err(Broken),
        }
    }
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.pieces
            .poll_recv(context)
            .map(|piece| self.took(piece).transpose().map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::{Broken, Streamed};
    use bytes::Bytes;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_stream_that_breaks_off_is_no_end() {
        let (send, receive) = mpsc::channel(2);
        send.send(Bytes::from_static(b"abc")).await.unwrap();
        send.send(Bytes::from_static(b"de")).await.unwrap();
        drop(send);
        let mut stream = Streamed::new(receive, 6);
        assert_eq!(stream.next().await.unwrap().unwrap(), "abc");
        assert_eq!(stream.next().await.unwrap().unwrap(), "de");
        assert_eq!(stream.next().await, Err(Broken));
        let (send, receive) = mpsc::channel(2);
        send.send(Bytes::from_static(b"too long")).await.unwrap();
        assert_eq!(Streamed::new(receive, 6).next().await, Err(Broken));
        let (_, receive) = mpsc::channel(1);
        assert_eq!(Streamed::new(receive, 0).next().await, Ok(None));
    }
}
