use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream that fails where the other side neither sends nor takes anything for too long. Keep-alive
/// messages see to it that a sound connection is never that still.
pub(super) struct Watched<S> {
    inner: S,
    read: Patience,
    write: Patience,
}

struct Patience {
    limit: Duration,
    until: Pin<Box<Sleep>>,
    waiting: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, until: Box::pin(tokio::time::sleep(limit)), waiting: false }
    }

    /// Hands on what the stream said, or that it took too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, said: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if said.is_ready() {
            self.waiting = false;
            return said;
        }
        if !self.waiting {
            self.waiting = true;
            let until = tokio::time::Instant::from_std(now()) + self.limit;
            self.until.as_mut().reset(until);
        }
        match self.until.as_mut().poll(context) {
            Poll::Ready(()) => {
                let what = format!("the connection stood still for {} seconds", self.limit.as_secs());
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, what)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a timer counts from the present")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, limit: Duration) -> Self {
        Self { inner, read: Patience::new(limit), write: Patience::new(limit) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_read(context, buf);
        self.read.judge(context, said)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let said = Pin::new(&mut self.inner).poll_write(context, buf);
        self.write.judge(context, said)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_flush(context);
        self.write.judge(context, said)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let said = Pin::new(&mut self.inner).poll_shutdown(context);
        self.write.judge(context, said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMIT: Duration = Duration::from_millis(80);

    #[tokio::test]
    async fn a_silent_side_and_one_that_takes_nothing_end_the_stream() {
        let (near, mut far) = tokio::io::duplex(16);
        let mut near = Watched::new(near, LIMIT);
        for _ in 0..4 {
            tokio::time::sleep(LIMIT / 2).await;
            far.write_all(b"x").await.expect("written");
            near.read_u8().await.expect("something came in time");
        }
        assert_eq!(near.read_u8().await.expect_err("nothing came").kind(), io::ErrorKind::TimedOut);
        assert_eq!(near.write_all(&[0; 99]).await.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
    }
}
