use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use lifeboat_model::flow::Clock;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};

/// How hard a store may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Puts, gets and deletes at the same time; at least 1.
    pub calls: usize,
    /// Bytes of bodies in a second, both ways together.
    pub bytes_per_second: Option<u64>,
}

/// Bounds how many calls are under way and how fast bytes flow. Immutability is that of the inner store.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Store>,
    calls: Semaphore,
    bytes_per_second: Option<u64>,
    /// The instant of the clock at which the line is free again.
    free_at: Mutex<Duration>,
    clock: Arc<dyn Clock>,
}

impl Limit {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self {
            inner,
            calls: Semaphore::new(limits.calls.max(1)),
            bytes_per_second: limits.bytes_per_second.filter(|rate| *rate > 0),
            free_at: Mutex::default(),
            clock,
        }
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.calls.acquire().await.expect("the semaphore is never closed")
    }

    /// Waits until these bytes have had their time on the line.
    async fn pass(&self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else { return };
        let nanos = (bytes as u128) * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = self.clock.monotonic();
        let until = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            *free_at = now.max(*free_at).saturating_add(takes);
            *free_at
        };
        tokio::time::sleep(until.saturating_sub(now)).await;
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for Limit {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        self.pass(body.len()).await;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let _turn = self.turn().await;
        let body = self.inner.get(key, range).await?;
        self.pass(body.len()).await;
        Ok(body)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        self.inner.delete(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use lifeboat_wire::clock::SystemClock;

    fn limit(calls: usize, bytes_per_second: Option<u64>) -> Limit {
        Limit::new(Arc::new(MemoryStore::default()), Limits { calls, bytes_per_second }, Arc::new(SystemClock))
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        crate::conformance::run(Arc::new(limit(1, None))).await;
    }

    #[tokio::test]
    async fn bytes_flow_no_faster_than_allowed() {
        let store = limit(4, Some(1_000_000));
        let before = SystemClock.monotonic();
        for name in ["a", "b", "c"] {
            let key = Key::new(name).expect("a key");
            store.put(&key, Bytes::from(vec![0; 20_000]), PutMode::Replace).await.expect("put");
        }
        assert!(SystemClock.monotonic().saturating_sub(before) >= Duration::from_millis(60));
    }
}
