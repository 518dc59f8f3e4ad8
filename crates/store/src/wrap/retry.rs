use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_model::flow::Clock;
use lifeboat_wire::backoff::{Backoff, BackoffPolicy};

use crate::{Capabilities, Examination, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind};

/// Tries again what failed with [`StoreErrorKind::Transient`], with the same bytes. Lists are tried
/// again only while they have yielded nothing. What the store asks to
/// wait is waited at least. Immutability is that of the inner store.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Store>,
    policy: BackoffPolicy,
    clock: Arc<dyn Clock>,
}

impl Retry {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, policy: BackoffPolicy, clock: Arc<dyn Clock>) -> Self {
        Self { inner, policy, clock }
    }

    async fn retried<T, F: Future<Output = Result<T, StoreError>> + Send>(
        &self,
        mut call: impl FnMut(u32) -> F + Send,
    ) -> Result<T, StoreError> {
        let mut backoff = Backoff::start(self.policy, &*self.clock);
        let mut tries = 0;
        loop {
            match call(tries).await {
                Err(error) if error.kind == StoreErrorKind::Transient => {
                    let Some(wait) = backoff.next_wait_of(error.retry_after().unwrap_or_default()) else {
                        return Err(error);
                    };
                    tracing::debug!(%error, source = %error.source, ?wait, "the store is tried again");
                    tokio::time::sleep(wait).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    async fn put_once(&self, key: &Key, body: Bytes, mode: PutMode, tries: u32) -> Result<(), StoreError> {
        match self.inner.put(key, body.clone(), mode).await {
            // An earlier try may have reached the store although its answer did not reach us.
            Err(error) if error.kind == StoreErrorKind::Exists && tries > 0 => {
                if self.inner.get(key, None).await? == body { Ok(()) } else { Err(error) }
            }
            done => done,
        }
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl Store for Retry {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.retried(|tries| self.put_once(key, body.clone(), mode, tries)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        self.retried(|_| self.inner.get(key, range.clone())).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let first = self.retried(move |_| async move {
            let mut stream = self.inner.list(prefix);
            match stream.next().await {
                Some(Err(error)) => Err(error),
                Some(Ok(first)) => Ok(futures::stream::iter([Ok(first)]).chain(stream).boxed()),
                // A stream that ended may not be asked again.
                None => Ok(futures::stream::empty().boxed()),
            }
        });
        futures::stream::once(first)
            .flat_map(|opened| match opened {
                Ok(stream) => stream,
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.retried(|_| self.inner.delete(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn examine(&self) -> Result<Examination, StoreError> {
        self.retried(|_| self.inner.examine()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::wrap::{Fault, Faulty};
    use lifeboat_wire::clock::SystemClock;
    use lifeboat_wire::http::{Answer, RequestError};
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn retry(inner: Arc<dyn Store>) -> Retry {
        let policy = BackoffPolicy {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(2),
            budget: Duration::from_secs(5),
        };
        Retry::new(inner, policy, Arc::new(SystemClock))
    }

    fn fails_first(times: u32, fault: Fault) -> Arc<dyn Store> {
        let calls = AtomicU32::new(0);
        let plan = move |_: &crate::wrap::Call| (calls.fetch_add(1, Ordering::SeqCst) < times).then_some(fault);
        Arc::new(Faulty::new(Arc::new(MemoryStore::default()), plan))
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        crate::conformance::run(Arc::new(retry(Arc::new(MemoryStore::default())))).await;
    }

    #[tokio::test]
    async fn it_keeps_the_contract_over_a_store_that_fails_every_third_call() {
        let calls = AtomicU32::new(0);
        let plan = move |_: &crate::wrap::Call| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            (call.is_multiple_of(3)).then_some(if call.is_multiple_of(6) {
                Fault::Before(StoreErrorKind::Transient)
            } else {
                Fault::After(StoreErrorKind::Transient)
            })
        };
        crate::conformance::run(Arc::new(retry(Arc::new(Faulty::new(Arc::new(MemoryStore::default()), plan))))).await;
    }

    #[tokio::test]
    async fn a_put_whose_answer_was_lost_is_not_taken_for_a_collision() {
        let store = retry(fails_first(1, Fault::After(StoreErrorKind::Transient)));
        let key = Key::new("data/00").expect("a key");
        store.put(&key, Bytes::from_static(b"one"), PutMode::CreateNew).await.expect("put");
        let error = store.put(&key, Bytes::from_static(b"two"), PutMode::CreateNew).await.expect_err("taken");
        assert_eq!(error.kind, StoreErrorKind::Exists);
    }

    #[tokio::test]
    async fn what_will_not_pass_is_not_tried_again() {
        for kind in [StoreErrorKind::Denied, StoreErrorKind::Full, StoreErrorKind::Failed] {
            let store = retry(fails_first(1, Fault::Before(kind)));
            let key = Key::new("data/00").expect("a key");
            let error = store.put(&key, Bytes::new(), PutMode::Replace).await.expect_err("failed");
            assert_eq!(error.kind, kind);
        }
    }

    #[tokio::test]
    async fn it_waits_as_long_as_the_store_asks_and_not_beyond_the_budget() {
        let asked = |wait| {
            let (code, message) = ("SlowDown".to_owned(), String::new());
            let answer = Answer { status: 503, code, message, region: None, retry_after: Some(wait) };
            StoreError::new(StoreErrorKind::Transient, "get", "x", &"memory", RequestError::Answer(answer))
        };
        let store = retry(Arc::new(MemoryStore::default()));
        let started = tokio::time::Instant::now();
        let wait = Duration::from_millis(60);
        store.retried(|tries| async move { if tries == 0 { Err(asked(wait)) } else { Ok(()) } }).await.expect("passes");
        assert!(started.elapsed() >= wait);
        let beyond = store.retried(|_| async { Err::<(), _>(asked(Duration::from_hours(1))) }).await;
        assert_eq!(beyond.expect_err("the budget is 5 seconds").kind, StoreErrorKind::Transient);
        assert!(started.elapsed() < Duration::from_secs(5), "it does not wait in vain");
    }

    #[tokio::test]
    async fn it_gives_up_when_the_budget_is_spent() {
        let inner = fails_first(u32::MAX, Fault::Before(StoreErrorKind::Transient));
        let policy = BackoffPolicy {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(1),
            budget: Duration::from_millis(20),
        };
        let store = Retry::new(inner, policy, Arc::new(SystemClock));
        let error = store.get(&Key::new("x").expect("a key"), None).await.expect_err("failed");
        assert_eq!(error.kind, StoreErrorKind::Transient);
    }

    /// Lists nothing, by a stream that panics where it is asked again after its end.
    #[derive(Debug)]
    struct Bare;

    impl fmt::Display for Bare {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bare")
        }
    }

    #[async_trait]
    impl Store for Bare {
        async fn put(&self, _: &Key, _: Bytes, _: PutMode) -> Result<(), StoreError> {
            Ok(())
        }

        async fn get(&self, _: &Key, _: Option<Range<u64>>) -> Result<Bytes, StoreError> {
            Ok(Bytes::new())
        }

        fn list<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
            futures::stream::unfold((), |()| std::future::ready(None)).boxed()
        }

        async fn delete(&self, _: &Key) -> Result<(), StoreError> {
            Ok(())
        }

        fn capabilities(&self) -> Capabilities {
            MemoryStore::default().capabilities()
        }
    }

    #[tokio::test]
    async fn a_list_that_ended_is_not_asked_again() {
        let store = retry(Arc::new(Bare));
        let listed: Vec<_> = store.list("").collect().await;
        assert!(listed.is_empty());
    }
}
