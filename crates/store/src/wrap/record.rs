use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};

/// The four calls of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are the methods of Store")]
pub enum Operation {
    Put,
    Get,
    List,
    Delete,
}

/// One call of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Which method.
    pub operation: Operation,
    /// The object, or the prefix of a list.
    pub key: String,
    /// Length of the body of a put, or of what a get gave.
    pub bytes: u64,
}

/// The most calls that a [`Record`] keeps.
const CALLS_MAX: usize = 100_000;

/// Remembers the calls in their order, so that tests count work instead of time. Immutability is
/// that of the inner store.
#[derive(Debug)]
pub struct Record {
    inner: Arc<dyn Store>,
    calls: Mutex<Vec<Call>>,
}

impl Record {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, calls: Mutex::default() }
    }

    /// The first 100,000 calls since the start or since the last [`Record::clear`].
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().clone()
    }

    /// How many calls of this kind hit objects with this prefix.
    #[must_use]
    pub fn count(&self, operation: Operation, prefix: &str) -> usize {
        self.lock().iter().filter(|call| call.operation == operation && call.key.starts_with(prefix)).count()
    }

    /// The length of what such calls brought or gave, in bytes.
    #[must_use]
    pub fn bytes(&self, operation: Operation, prefix: &str) -> u64 {
        let of = |call: &&Call| call.operation == operation && call.key.starts_with(prefix);
        self.lock().iter().filter(of).map(|call| call.bytes).sum()
    }

    /// Forgets the calls.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, operation: Operation, key: &str, bytes: usize) {
        let mut calls = self.lock();
        if calls.len() < CALLS_MAX {
            calls.push(Call { operation, key: key.to_owned(), bytes: bytes as u64 });
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for Record {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.note(Operation::Put, key.as_str(), body.len());
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let got = self.inner.get(key, range).await;
        self.note(Operation::Get, key.as_str(), got.as_ref().map_or(0, Bytes::len));
        got
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.note(Operation::List, prefix, 0);
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.note(Operation::Delete, key.as_str(), 0);
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

    #[tokio::test]
    async fn it_keeps_the_contract_and_remembers_the_calls() {
        let store = Arc::new(Record::new(Arc::new(MemoryStore::default())));
        crate::conformance::run(Arc::clone(&store) as Arc<dyn Store>).await;
        assert!(store.count(Operation::Put, "conformance/") > 0);
        store.clear();
        let key = Key::new("b").expect("a key");
        store.put(&key, Bytes::from_static(b"12345"), PutMode::Replace).await.expect("put");
        store.get(&key, Some(1..3)).await.expect("got");
        assert_eq!((store.bytes(Operation::Put, "b"), store.bytes(Operation::Get, "b")), (5, 2));
        store.clear();
        store.delete(&Key::new("a").expect("a key")).await.expect("deleted");
        assert_eq!(store.calls(), [Call { operation: Operation::Delete, key: "a".to_owned(), bytes: 0 }]);
    }
}
