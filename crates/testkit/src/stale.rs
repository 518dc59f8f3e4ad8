//! A store whose lists lag behind.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use lifeboat_model::flow::Clock;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError};

/// Lists show objects only when they are as old as the staleness by `clock`, and deleted ones for
/// as long after the delete. Gets are exact, as they are on object stores.
pub struct StaleStore {
    inner: Arc<dyn Store>,
    staleness: Duration,
    clock: Arc<dyn Clock>,
    changes: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    put: HashMap<Key, Duration>,
    deleted: HashMap<Key, (Duration, ObjectMeta)>,
}

impl StaleStore {
    /// Wraps `inner`; what is in it already is listed at once.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, staleness: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { inner, staleness, clock, changes: Mutex::default() }
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().expect("nobody panicked")
    }

    /// Whether a change at that time is not to be seen yet.
    fn is_fresh(&self, changed: Duration) -> bool {
        self.clock.monotonic().saturating_sub(changed) < self.staleness
    }
}

impl fmt::Display for StaleStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for StaleStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StaleStore({:?})", self.inner)
    }
}

#[async_trait]
impl Store for StaleStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.inner.put(key, body, mode).await?;
        let now = self.clock.monotonic();
        let mut changes = self.changes();
        changes.deleted.remove(key);
        changes.put.insert(key.clone(), now);
        Ok(())
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.inner.get(key, range).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let gone: Vec<_> = self
            .changes()
            .deleted
            .iter()
            .filter(|(key, (at, _))| key.as_str().starts_with(prefix) && self.is_fresh(*at))
            .map(|(_, (_, object))| Ok(object.clone()))
            .collect();
        let seen = |object: &ObjectMeta| !self.changes().put.get(&object.key).is_some_and(|at| self.is_fresh(*at));
        let inner = self.inner.list(prefix).try_filter(move |object| futures::future::ready(seen(object)));
        stream::iter(gone).chain(inner).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let listed: Vec<_> = self.inner.list(key.as_str()).try_collect().await?;
        self.inner.delete(key).await?;
        let now = self.clock.monotonic();
        let mut changes = self.changes();
        let was_fresh = changes.put.remove(key).is_some_and(|at| self.is_fresh(at));
        if let Some(object) = listed.into_iter().find(|object| object.key == *key && !was_fresh) {
            changes.deleted.insert(key.clone(), (now, object));
        }
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { list_staleness: self.staleness, ..self.inner.capabilities() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::FakeClock;
    use lifeboat_store::memory::MemoryStore;

    #[tokio::test]
    async fn without_staleness_it_keeps_the_whole_contract() {
        let clock = FakeClock::at(jiff::Timestamp::UNIX_EPOCH);
        let store = StaleStore::new(Arc::new(MemoryStore::default()), Duration::ZERO, clock);
        lifeboat_store::conformance::run(Arc::new(store)).await;
    }

    #[tokio::test]
    async fn a_list_shows_puts_and_deletes_only_after_a_while() {
        let clock = FakeClock::at(jiff::Timestamp::UNIX_EPOCH);
        let staleness = Duration::from_secs(10);
        let store = StaleStore::new(Arc::new(MemoryStore::default()), staleness, Arc::clone(&clock) as Arc<dyn Clock>);
        let key = Key::new("data/00").expect("a key");
        let count = async || store.list("data/").try_collect::<Vec<_>>().await.expect("listed").len();
        store.put(&key, Bytes::new(), PutMode::CreateNew).await.expect("put");
        assert_eq!(count().await, 0);
        assert!(store.get(&key, None).await.is_ok());
        clock.advance(staleness);
        assert_eq!(count().await, 1);
        store.delete(&key).await.expect("deleted");
        assert_eq!(count().await, 1);
        clock.advance(staleness);
        assert_eq!(count().await, 0);
    }
}
