//! A store in memory, for tests and rehearsals.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use lifeboat_model::flow::Clock;
use lifeboat_wire::clock::SystemClock;

use crate::{
    Capabilities, Immutability, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind, check_size, clamp_range,
};

/// Objects in memory; clones share them. **Immutability: none.**
#[derive(Clone)]
pub struct MemoryStore {
    objects: Arc<Mutex<Objects>>,
    clock: Arc<dyn Clock>,
}

type Objects = BTreeMap<Key, (Bytes, Timestamp)>;

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

impl MemoryStore {
    /// An empty store that dates objects by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { objects: Arc::default(), clock }
    }

    /// An independent store with the same objects and dates.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { objects: Arc::new(Mutex::new(self.objects().clone())), clock: Arc::clone(&self.clock) }
    }

    /// The same as of now for a store that dates objects by `clock` from here on.
    #[must_use]
    pub fn fork_at(&self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, ..self.fork() }
    }

    /// How many objects there are.
    #[must_use]
    pub fn object_count(&self) -> usize {
        self.objects().len()
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        // No call leaves the map half changed.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStore({} objects)", self.object_count())
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        check_size("put", key, self, body.len() as u64)?;
        let now = self.clock.now();
        let mut objects = self.objects();
        if mode == PutMode::CreateNew && objects.contains_key(key) {
            return Err(StoreError::new(StoreErrorKind::Exists, "put", key, self, "the name is taken"));
        }
        objects.insert(key.clone(), (body, now));
        Ok(())
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let body = self.objects().get(key).map(|(body, _)| body.clone());
        let Some(body) = body else {
            return Err(StoreError::new(StoreErrorKind::NotFound, "get", key, self, "no such object"));
        };
        let Some(range) = range else { return Ok(body) };
        let range = clamp_range(key, self, &range, body.len() as u64)?;
        let bound = |at| usize::try_from(at).unwrap_or(body.len());
        Ok(body.slice(bound(range.start)..bound(range.end)))
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let listed: Vec<_> = self
            .objects()
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, (body, stored_at))| {
                Ok(ObjectMeta { key: key.clone(), bytes: body.len() as u64, stored_at: *stored_at })
            })
            .collect();
        futures::stream::iter(listed).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.objects().remove(key);
        Ok(())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { conditional_put: true, list_staleness: Duration::ZERO, immutability: Immutability::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        crate::conformance::run(Arc::new(MemoryStore::default())).await;
    }
}
