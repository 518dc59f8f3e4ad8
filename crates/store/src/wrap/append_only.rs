use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind};

/// Refuses to delete and to put over what is there with other bytes. It guards this process
/// against its own mistakes, not the store against a thief: immutability is that of the inner
/// store.
#[derive(Debug)]
pub struct AppendOnly {
    inner: Arc<dyn Store>,
}

impl AppendOnly {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner }
    }

    async fn is_there(&self, key: &Key, body: &Bytes) -> Result<bool, StoreError> {
        match self.inner.get(key, None).await {
            Ok(stored) if stored == *body => Ok(true),
            Ok(_) => Err(StoreError::new(StoreErrorKind::Denied, "put", key, self, "it would replace an object")),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl fmt::Display for AppendOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for AppendOnly {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if mode == PutMode::Replace && self.is_there(key, &body).await? {
            return Ok(());
        }
        match self.inner.put(key, body.clone(), PutMode::CreateNew).await {
            // Someone else was faster.
            Err(error) if error.kind == StoreErrorKind::Exists && mode == PutMode::Replace => {
                self.is_there(key, &body).await.map(|_| ())
            }
            done => done,
        }
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        Err(StoreError::new(StoreErrorKind::Denied, "delete", key, self, "the store is used append-only"))
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
    async fn it_keeps_the_contract_but_for_deletes_and_replaces() {
        let store = Arc::new(AppendOnly::new(Arc::new(MemoryStore::default())));
        crate::conformance::run_append_only(store).await;
    }
}
