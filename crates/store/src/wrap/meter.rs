use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};

/// What went through a [`Meter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `put`.
    pub puts: u64,
    /// Bytes of bodies that were put with success.
    pub put_bytes: u64,
    /// Calls of `get`.
    pub gets: u64,
    /// Bytes of bodies that were got.
    pub get_bytes: u64,
    /// Calls of `list`.
    pub lists: u64,
    /// Objects that lists yielded.
    pub listed: u64,
    /// Calls of `delete`.
    pub deletes: u64,
    /// Calls that failed, whatever they were.
    pub failures: u64,
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    get_bytes: AtomicU64,
    lists: AtomicU64,
    listed: AtomicU64,
    deletes: AtomicU64,
    failures: AtomicU64,
}

/// Counts calls and bytes. Immutability is that of the inner store.
#[derive(Debug)]
pub struct Meter {
    inner: Arc<dyn Store>,
    counters: Counters,
}

impl Meter {
    /// Wraps `inner`, counting from zero.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, counters: Counters::default() }
    }

    /// What went through until now.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let c = &self.counters;
        Counts {
            puts: read(&c.puts),
            put_bytes: read(&c.put_bytes),
            gets: read(&c.gets),
            get_bytes: read(&c.get_bytes),
            lists: read(&c.lists),
            listed: read(&c.listed),
            deletes: read(&c.deletes),
            failures: read(&c.failures),
        }
    }

    fn failed<T>(&self, result: &Result<T, StoreError>) {
        if result.is_err() {
            add(&self.counters.failures, 1);
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for Meter {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        add(&self.counters.puts, 1);
        let bytes = body.len();
        let result = self.inner.put(key, body, mode).await;
        add(&self.counters.put_bytes, if result.is_ok() { bytes } else { 0 });
        self.failed(&result);
        result
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        add(&self.counters.gets, 1);
        let result = self.inner.get(key, range).await;
        add(&self.counters.get_bytes, result.as_ref().map_or(0, Bytes::len));
        self.failed(&result);
        result
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        add(&self.counters.lists, 1);
        let seen = |result: &Result<ObjectMeta, StoreError>| match result {
            Ok(_) => add(&self.counters.listed, 1),
            Err(_) => add(&self.counters.failures, 1),
        };
        self.inner.list(prefix).inspect(seen).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        add(&self.counters.deletes, 1);
        let result = self.inner.delete(key).await;
        self.failed(&result);
        result
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use futures::TryStreamExt;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        crate::conformance::run(Arc::new(Meter::new(Arc::new(MemoryStore::default())))).await;
    }

    #[tokio::test]
    async fn it_counts_calls_bytes_and_failures() {
        let store = Meter::new(Arc::new(MemoryStore::default()));
        let key = Key::new("a").expect("a key");
        store.put(&key, Bytes::from_static(b"12345"), PutMode::CreateNew).await.expect("put");
        store.put(&key, Bytes::from_static(b"12345"), PutMode::CreateNew).await.expect_err("taken");
        store.get(&key, Some(1..3)).await.expect("got");
        store.list("").try_collect::<Vec<_>>().await.expect("listed");
        store.delete(&key).await.expect("deleted");
        let expected =
            Counts { puts: 2, put_bytes: 5, gets: 1, get_bytes: 2, lists: 1, listed: 1, deletes: 1, failures: 1 };
        assert_eq!(store.counts(), expected);
    }
}
