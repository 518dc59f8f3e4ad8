//! Bodies that tell when they move.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use object_store::client::{HttpError, HttpErrorKind, HttpRequestBody, HttpResponseBody};
use tokio::time::{Instant, Sleep};

use super::RequestError;

/// When something moved last, in milliseconds since the start.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    moved_ms: AtomicU64,
}

impl Progress {
    pub(super) fn start() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), moved_ms: AtomicU64::new(0) })
    }

    fn moved(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(now, Ordering::Relaxed);
    }

    /// Runs `work` until it ends or nothing moved for `stall`, which is `None`.
    pub(super) async fn watch<T>(&self, stall: Duration, work: impl Future<Output = T>) -> Option<T> {
        let watchdog = async {
            loop {
                let last = self.started + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
                if last + stall <= Instant::now() {
                    return;
                }
                tokio::time::sleep_until(last + stall).await;
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = watchdog => None,
        }
    }
}

/// A request's body that notes when a part of it is taken.
pub(super) struct Watched {
    inner: HttpRequestBody,
    progress: Arc<Progress>,
}

impl Watched {
    pub(super) const fn new(inner: HttpRequestBody, progress: Arc<Progress>) -> Self {
        Self { inner, progress }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.moved();
        Pin::new(&mut self.inner).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body of which each part has to come within `stall`.
pub(super) fn timed(inner: reqwest::Body, stall: Duration) -> HttpResponseBody {
    HttpResponseBody::new(Timed { inner, stall, alarm: Box::pin(tokio::time::sleep(stall)) })
}

struct Timed {
    inner: reqwest::Body,
    stall: Duration,
    alarm: Pin<Box<Sleep>>,
}

impl Body for Timed {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            this.alarm.as_mut().reset(Instant::now() + this.stall);
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| failed(RequestError::of(error)))));
        }
        this.alarm.as_mut().poll(context).map(|()| Some(Err(failed(RequestError::Stalled(this.stall)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn failed(error: RequestError) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, error)
}

/// The first bytes of a body; empty where it cannot be read.
pub(super) async fn read_at_most(body: reqwest::Body, most: usize, stall: Duration) -> Bytes {
    let mut body = timed(body, stall);
    let mut read = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            read.extend_from_slice(&data[..data.len().min(most - read.len())]);
        }
        if read.len() == most {
            break;
        }
    }
    read.into()
}
