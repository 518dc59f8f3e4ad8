use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

use super::{Call, Operation};
use crate::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind};

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The inner store never hears of it.
    Before(StoreErrorKind),
    /// The inner store does it, and the answer is lost.
    After(StoreErrorKind),
}

type Plan = dyn Fn(&Call) -> Option<Fault> + Send + Sync;

/// Fails the calls that a plan names. Immutability is that of the inner store.
pub struct Faulty {
    inner: Arc<dyn Store>,
    plan: Box<Plan>,
}

impl Faulty {
    /// Wraps `inner`; `plan` is asked once for each call.
    pub fn new(inner: Arc<dyn Store>, plan: impl Fn(&Call) -> Option<Fault> + Send + Sync + 'static) -> Self {
        Self { inner, plan: Box::new(plan) }
    }

    /// The error to give after the call, or the error to give instead of it.
    fn meet(
        &self,
        operation: Operation,
        name: &'static str,
        key: &str,
        bytes: usize,
    ) -> Result<Option<StoreError>, StoreError> {
        let call = Call { operation, key: key.to_owned(), bytes: bytes as u64 };
        let error = |kind| StoreError::new(kind, name, key, self, "an injected fault");
        match (self.plan)(&call) {
            None => Ok(None),
            Some(Fault::Before(kind)) => Err(error(kind)),
            Some(Fault::After(kind)) => Ok(Some(error(kind))),
        }
    }
}

fn then<T>(result: Result<T, StoreError>, after: Option<StoreError>) -> Result<T, StoreError> {
    match after {
        Some(error) => Err(error),
        None => result,
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({:?})", self.inner)
    }
}

#[async_trait]
impl Store for Faulty {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let after = self.meet(Operation::Put, "put", key.as_str(), body.len())?;
        then(self.inner.put(key, body, mode).await, after)
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let after = self.meet(Operation::Get, "get", key.as_str(), 0)?;
        then(self.inner.get(key, range).await, after)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        match self.meet(Operation::List, "list", prefix, 0) {
            Ok(None) => self.inner.list(prefix),
            Ok(Some(error)) | Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let after = self.meet(Operation::Delete, "delete", key.as_str(), 0)?;
        then(self.inner.delete(key).await, after)
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
    async fn it_keeps_the_contract_while_nothing_fails() {
        crate::conformance::run(Arc::new(Faulty::new(Arc::new(MemoryStore::default()), |_| None))).await;
    }

    #[tokio::test]
    async fn a_fault_comes_before_or_after_the_effect() {
        let plan = |call: &Call| match call.key.as_str() {
            "before" => Some(Fault::Before(StoreErrorKind::Full)),
            "after" => Some(Fault::After(StoreErrorKind::Transient)),
            _ => None,
        };
        let memory = MemoryStore::default();
        let store = Faulty::new(Arc::new(memory.clone()), plan);
        for (name, kind, there) in [("before", StoreErrorKind::Full, false), ("after", StoreErrorKind::Transient, true)]
        {
            let key = Key::new(name).expect("a key");
            let error = store.put(&key, Bytes::new(), PutMode::CreateNew).await.expect_err("injected");
            assert_eq!(error.kind, kind);
            assert_eq!(memory.get(&key, None).await.is_ok(), there);
        }
    }
}
