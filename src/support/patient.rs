//! A TCP connection whose peer must take what it has asked for, and can: it is closed only when the peer has had the
//! time to. Closed at once, with something of the peer's unread or still to come, it would be reset, and the last
//! of an answer that is on its way would be thrown away with it.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// So long a peer may take nothing, all together, before the connection is given up. What it takes gives it
/// time back.
const STALL: Duration = Duration::from_secs(60);
/// So long a peer may send nothing more before a connection that has ended is closed, and all in all.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_ALL: Duration = Duration::from_secs(60);
/// Bytes that give back a second.
const LEAST_RATE: u64 = 8 << 10;

/// The connection; writing fails once the peer has taken too little for too long.
pub(crate) struct Patient<S> {
    stream: S,
    /// What is left of [`STALL`].
    left: Duration,
    /// Since when something waits to be taken.
    waiting: Option<Instant>,
    limit: Option<Pin<Box<Sleep>>>,
    ending: Option<Ending>,
}

/// Everything is sent, and the peer has yet to say that it has it.
struct Ending {
    until: Instant,
    quiet: Pin<Box<Sleep>>,
}

impl<S> Patient<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, left: STALL, waiting: None, limit: None, ending: None }
    }

    fn watched(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = polled {
            if let Some(since) = self.waiting.take() {
                self.left = self.left.saturating_sub(since.elapsed());
            }
            let bytes = u64::try_from(*written.as_ref().unwrap_or(&0)).unwrap_or(u64::MAX);
            let earned = Duration::from_millis(bytes.saturating_mul(1000) / LEAST_RATE);
            self.left = self.left.saturating_add(earned).min(STALL);
            return Poll::Ready(written);
        }
        let limit = self.limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL)));
        if self.waiting.is_none() {
            self.waiting = Some(Instant::now());
            limit.as_mut().reset(Instant::now() + self.left);
        }
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Reads and forgets what the peer still sends, until it ends too or has been silent for long enough.
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let ending = self.ending.get_or_insert_with(|| Ending {
            until: Instant::now() + LINGER_ALL,
            quiet: Box::pin(tokio::time::sleep(LINGER)),
        });
        let mut forgotten = [std::mem::MaybeUninit::uninit(); 4096];
        // Whoever sends without end is not listened to for longer than this either.
        for _ in 0..64 {
            let mut buffer = ReadBuf::uninit(&mut forgotten);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    ending.quiet.as_mut().reset((Instant::now() + LINGER).min(ending.until));
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return ending.quiet.as_mut().poll(context),
            }
        }
        if Instant::now() >= ending.until {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watched(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watched(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        self.poll_ended(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (Patient<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Patient::new(listener.accept().await.unwrap().0), far)
    }

    #[tokio::test]
    async fn who_reads_nothing_is_given_up_and_who_reads_is_not() {
        let (mut near, _far) = pair().await;
        // The clock jumps ahead whenever everything waits.
        tokio::time::pause();
        let written = near.write_all(&vec![0; 64 << 20]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        tokio::time::resume();

        let (mut near, mut far) = pair().await;
        let writing = tokio::spawn(async move { near.write_all(&vec![0; 64 << 20]).await });
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(all.len(), 64 << 20);
    }
    #[tokio::test(start_paused = true)]
    async fn who_takes_a_byte_now_and_then_is_given_up_and_who_is_slow_is_not() {
        for (every, bytes, served) in [(20, 1, false), (20, 400_000, true), (50, 450_000, true)] {
            let (near, mut far) = tokio::io::duplex(bytes);
            let mut near = Patient::new(near);
            let reading = tokio::spawn(async move {
                let mut buffer = vec![0; bytes];
                loop {
                    tokio::time::sleep(Duration::from_secs(every)).await;
                    if far.read_exact(&mut buffer).await.is_err() {
                        return;
                    }
                }
            });
            let length = bytes * 50;
            let written = near.write_all(&vec![0; length]).await;
            assert_eq!(written.is_ok(), served, "{bytes} bytes every {every} s: {written:?}");
            reading.abort();
        }
    }
}
