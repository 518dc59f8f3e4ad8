//! A store whose client's machine is suspended.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};
use tokio::sync::watch;

/// Lets calls through until it is told to pause: from then on they wait, as if the machine were
/// suspended before them, until it is resumed.
pub struct PauseStore {
    inner: Arc<dyn Store>,
    /// Calls until the pause; negative when it has begun.
    left: AtomicI64,
    open: watch::Sender<bool>,
}

impl PauseStore {
    /// A machine that runs.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, left: AtomicI64::new(i64::MAX), open: watch::Sender::new(true) })
    }

    /// Suspends it after so many more calls.
    ///
    /// # Panics
    /// Where the number is beyond all bounds.
    pub fn pause_after(&self, calls: u64) {
        self.left.store(i64::try_from(calls).expect("a sane number"), Ordering::SeqCst);
    }

    /// Whether a call waits.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        !*self.open.borrow()
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
        self.open.send_replace(true);
    }

    async fn pass(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            self.open.send_replace(false);
        }
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the store lives as long as its calls");
    }
}

impl fmt::Display for PauseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for PauseStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PauseStore({:?})", self.inner)
    }
}

#[async_trait]
impl Store for PauseStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.pass().await;
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.pass().await;
        self.inner.get(key, range).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        futures::stream::once(self.pass()).flat_map(move |()| self.inner.list(prefix)).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.pass().await;
        self.inner.delete(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_store::memory::MemoryStore;

    #[tokio::test]
    async fn it_keeps_the_contract_while_it_runs() {
        lifeboat_store::conformance::run(PauseStore::new(Arc::new(MemoryStore::default()))).await;
    }

    #[tokio::test]
    async fn a_call_waits_from_the_pause_until_it_goes_on() {
        let store = PauseStore::new(Arc::new(MemoryStore::default()));
        let put = |name: &str| {
            let (store, key) = (Arc::clone(&store), Key::new(name).expect("a key"));
            tokio::spawn(async move { store.put(&key, Bytes::new(), PutMode::CreateNew).await })
        };
        store.pause_after(1);
        put("a").await.expect("not paused yet").expect("put");
        let late = put("b");
        while !store.is_paused() {
            tokio::task::yield_now().await;
        }
        assert!(!late.is_finished());
        store.resume();
        late.await.expect("goes on").expect("put");
    }
}
