//! Two parties at one store, for tests of who comes between.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};
use tokio::sync::Barrier;

/// A store that lets something else happen right before its client's first put below a prefix.
pub(crate) struct Interrupted {
    inner: Arc<dyn Store>,
    prefix: &'static str,
    before: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl Interrupted {
    pub(crate) fn by(
        inner: &Arc<dyn Store>,
        prefix: &'static str,
        before: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<dyn Store> {
        Arc::new(Self { inner: Arc::clone(inner), prefix, before: Mutex::new(Some(Box::pin(before))) })
    }

    /// Two clients who meet there: both have read the same, and neither sees what the other puts.
    pub(crate) fn pair(inner: &Arc<dyn Store>, prefix: &'static str) -> [Arc<dyn Store>; 2] {
        let barrier = Arc::new(Barrier::new(2));
        [(); 2].map(|()| {
            let barrier = Arc::clone(&barrier);
            Self::by(inner, prefix, async move {
                barrier.wait().await;
            })
        })
    }
}

impl std::fmt::Debug for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.inner)
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.inner)
    }
}

#[async_trait]
impl Store for Interrupted {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        if key.as_str().starts_with(self.prefix) {
            let before = self.before.lock().expect("nobody panics with it").take();
            if let Some(before) = before {
                before.await;
            }
        }
        self.inner.put(key, body, mode).await
    }
    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        self.inner.list(prefix)
    }
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}
