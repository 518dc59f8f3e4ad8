//! A store whose client dies.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind};

/// What becomes of the writes that are under way when the process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// None of them reaches the store.
    Lost,
    /// All of them reach it.
    Kept,
}

/// Lets writes (puts and deletes) through until the n-th; that one and every call after it fail,
/// as if the process had died there. A death at a read leaves the store as one at the next write
/// does, so reads are not counted.
///
/// Each write stays under way for a few turns of the scheduler, so that writes that the client
/// starts together are under way together.
pub struct CrashStore {
    inner: Arc<dyn Store>,
    dies_at: u64,
    in_flight: InFlight,
    writes: AtomicU64,
}

/// How many turns of the scheduler a write takes.
const TURNS: usize = 3;

impl CrashStore {
    /// Dies at write number `dies_at`, counted from 1. With `u64::MAX` it never dies and counts.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, dies_at: u64, in_flight: InFlight) -> Arc<Self> {
        Arc::new(Self { inner, dies_at, in_flight, writes: AtomicU64::new(0) })
    }

    /// Writes that were begun, the fatal one and those after it included.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Whether the process is dead.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.writes() >= self.dies_at
    }

    fn dead(&self, operation: &'static str, key: &str) -> StoreError {
        StoreError::new(StoreErrorKind::Failed, operation, key, self, "the process died")
    }

    fn alive(&self, operation: &'static str, key: &str) -> Result<(), StoreError> {
        if self.is_dead() { Err(self.dead(operation, key)) } else { Ok(()) }
    }

    /// Whether a write that begins now reaches the store.
    async fn write_reaches(&self) -> bool {
        let number = self.writes.fetch_add(1, Ordering::SeqCst) + 1;
        if number < self.dies_at {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            !self.is_dead() || self.in_flight == InFlight::Kept
        } else {
            number == self.dies_at && self.in_flight == InFlight::Kept
        }
    }
}

impl fmt::Display for CrashStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for CrashStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CrashStore({} of {} writes)", self.writes(), self.dies_at)
    }
}

#[async_trait]
impl Store for CrashStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let result = if self.write_reaches().await { self.inner.put(key, body, mode).await } else { Ok(()) };
        self.alive("put", key.as_str())?;
        result
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.alive("get", key.as_str())?;
        self.inner.get(key, range).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        match self.alive("list", prefix) {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let result = if self.write_reaches().await { self.inner.delete(key).await } else { Ok(()) };
        self.alive("delete", key.as_str())?;
        result
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_store::memory::MemoryStore;

    fn key(name: &str) -> Key {
        Key::new(name).expect("a key")
    }

    #[tokio::test]
    async fn it_keeps_the_contract_while_it_lives() {
        lifeboat_store::conformance::run(CrashStore::new(Arc::new(MemoryStore::default()), u64::MAX, InFlight::Lost))
            .await;
    }

    #[tokio::test]
    async fn the_fatal_write_fails_and_reaches_the_store_or_not_as_told() {
        for (in_flight, there) in [(InFlight::Lost, false), (InFlight::Kept, true)] {
            let memory = MemoryStore::default();
            let store = CrashStore::new(Arc::new(memory.clone()), 2, in_flight);
            store.put(&key("a"), Bytes::new(), PutMode::CreateNew).await.expect("alive");
            store.put(&key("b"), Bytes::new(), PutMode::CreateNew).await.expect_err("dies");
            assert_eq!(memory.get(&key("b"), None).await.is_ok(), there);
            store.get(&key("a"), None).await.expect_err("dead");
            store.delete(&key("a")).await.expect_err("dead");
            assert!(memory.get(&key("a"), None).await.is_ok(), "what was acknowledged stays");
        }
    }

    #[tokio::test]
    async fn what_was_put_together_with_the_fatal_write_is_lost_with_it() {
        let memory = MemoryStore::default();
        let store = CrashStore::new(Arc::new(memory.clone()), 4, InFlight::Lost);
        let puts = ["a", "b", "c", "d", "e"].map(|name| {
            let store = Arc::clone(&store);
            async move { store.put(&key(name), Bytes::new(), PutMode::CreateNew).await }
        });
        assert!(futures::future::join_all(puts).await.iter().all(Result::is_err));
        assert_eq!(memory.object_count(), 0);
    }
}
