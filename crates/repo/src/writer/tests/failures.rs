//! Nothing that fails leaves a snapshot.

use std::ops::Range;
use std::sync::Mutex as PlainMutex;

use futures::stream::BoxStream;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, StoreError};
use lifeboat_testkit::eventually;

use super::*;

impl Host {
    fn roots(&self) -> impl Future<Output = usize> {
        let memory = self.memory.clone();
        async move {
            let listed: Vec<_> = futures::TryStreamExt::try_collect(memory.list("roots/")).await.expect("listed");
            listed.len()
        }
    }

    /// A store of the same objects that fails the puts that `fails` names; it counts from 0.
    fn failing(&self, fails: impl Fn(u64, &Call) -> bool + Send + Sync + 'static) -> Arc<dyn Store> {
        let puts = AtomicU64::new(0);
        let plan = move |call: &Call| {
            let is_put = call.operation == Operation::Put;
            let fails = is_put && fails(puts.fetch_add(1, Ordering::SeqCst), call);
            fails.then_some(Fault::Before(StoreErrorKind::Full))
        };
        Arc::new(Faulty::new(Arc::new(self.memory.clone()), plan))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_store_that_has_failed() {
    let host = Host::new().await;
    let store = host.failing(|_, call| call.key.starts_with("data/"));
    let context = RunContext { memory_budget_bytes: 64 << 20, ..host.context() };
    let writer = Arc::new(host.begin_on(store, context).await.expect("a run"));
    let puts = (0..8u8).map(|seed| {
        let writer = Arc::clone(&writer);
        tokio::spawn(async move {
            let pieces = (0..30u8).map(|part| Piece::Data(noise(seed * 30 + part, 1 << 20))).collect::<Vec<_>>();
            put(&writer, &format!("f{seed}"), stream(Shape::Stream, pieces)).await
        })
    });
    let results: Vec<_> = futures::future::join_all(puts).await.into_iter().map(|done| done.expect("done")).collect();
    assert!(results.iter().all(Result::is_err));
    assert!(results.iter().any(|result| matches!(result, Err(SinkError::Repository { .. }))), "{results:?}");
    let late = put(&writer, "late", Body::Empty).await.expect_err("poisoned");
    assert!(late.to_string().contains("an injected fault"), "{late}");
    let error = Arc::into_inner(writer).expect("the only one").seal(point()).await.expect_err("refused");
    assert_eq!(error.kind(), crate::RepoErrorKind::Failed);
    assert_eq!(host.roots().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_poisons_the_writer() {
    let host = Host::new().await;
    let writer = host.begin().await;
    let pieces = VecDeque::from([Ok(Piece::Data(noise(1, 1 << 20))), Err("pg_dump ended with status 1")]);
    let body = Body::Stream { from: Box::new(Pieces(pieces)), shape: Shape::Rows };
    let error = put(&writer, "dump", body).await.expect_err("failed");
    assert!(matches!(&error, SinkError::Body { source, .. } if source.to_string().contains("pg_dump")), "{error:?}");
    assert!(matches!(put(&writer, "next", Body::Empty).await, Err(SinkError::Poisoned(_))));
    assert!(matches!(writer.skip(&path("x"), "why").await, Err(SinkError::Poisoned(_))));
    let error = writer.seal(point()).await.expect_err("refused");
    assert_eq!(error.to_string(), "the snapshot was given up: reading dump failed: pg_dump ended with status 1");
    assert_eq!(host.roots().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_is_dropped_half_way_poisons_the_writer() {
    let host = Host::new().await;
    let writer = host.begin().await;
    let endless = std::iter::repeat_with(|| Ok(Piece::Data(noise(1, 1000)))).take(100_000).collect();
    let body = Body::Stream { from: Box::new(Pieces(endless)), shape: Shape::Rows };
    tokio::select! {
        biased;
        () = tokio::task::yield_now() => {}
        done = put(&writer, "dropped", body) => panic!("it cannot be done: {done:?}"),
    }
    let error = writer.seal(point()).await.expect_err("refused");
    assert!(error.to_string().contains("storing dropped was given up half-way"), "{error}");
    assert_eq!(host.roots().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_run_takes_nothing_more_and_cannot_be_sealed() {
    let host = Host::new().await;
    let context = host.context();
    let writer = host.begin_on(Arc::new(host.memory.clone()), context.clone()).await.expect("a run");
    put(&writer, "a", Body::Bytes(Bytes::from_static(b"a"))).await.expect("stored");
    context.cancel.cancel();
    assert!(matches!(put(&writer, "b", Body::Empty).await, Err(SinkError::Poisoned(_))));
    let error = writer.seal(point()).await.expect_err("refused");
    assert_eq!(error.to_string(), "the snapshot was given up: the run was cancelled");
    assert_eq!(host.roots().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_dropped_tells_that_the_run_is_over() {
    let host = Host::new().await;
    let writer = host.begin().await;
    put(&writer, "a", Body::Bytes(noise(1, 500_000))).await.expect("stored");
    drop(writer);
    eventually("the last renewal", || host.calls.count(Operation::Put, "renewal/") > 0).await;
    assert!(host.small::<Renewal>().await.iter().any(|renewal| renewal.ended));
    assert_eq!(host.roots().await, 0);
    let scratch = std::fs::read_dir(host.context().scratch).expect("listed");
    assert_eq!(scratch.count(), 0);
}

#[tokio::test]
async fn without_a_writer_key_there_is_no_run() {
    let host = Host::new().await;
    let access = host.repository.maintainer.clone();
    let opened =
        Repository::open(Arc::new(host.memory.clone()), access, &host.state().join("cache")).await.expect("opened");
    let error = opened.writer(head(), WriteOptions::default(), host.context()).await.expect_err("refused");
    assert_eq!(error.kind(), crate::RepoErrorKind::Key);
}

/// Counts the bytes of puts that are under way at the same time.
#[derive(Debug)]
struct Congested {
    inner: MemoryStore,
    under_way: PlainMutex<(u64, u64)>,
}

impl std::fmt::Display for Congested {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("congested")
    }
}

#[async_trait]
impl Store for Congested {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        let length = body.len() as u64;
        let change = |more: u64, less: u64| {
            let mut state = self.under_way.lock().expect("no panic");
            state.0 = state.0 + more - less;
            state.1 = state.1.max(state.0);
        };
        change(length, 0);
        for _ in 0..2000 {
            tokio::task::yield_now().await;
        }
        change(0, length);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_that_are_alive_keep_to_their_budget_and_have_their_size() {
    let host = Host::new().await;
    let store = Arc::new(Congested { inner: host.memory.clone(), under_way: PlainMutex::default() });
    let limits = Limits::of(64 << 20);
    let context = RunContext { memory_budget_bytes: 64 << 20, ..host.context() };
    let writer = host.begin_on(Arc::clone(&store) as _, context).await.expect("a run");
    let pieces = (0..100u8).map(|seed| Piece::Data(noise(seed, 1 << 20))).collect::<Vec<_>>();
    put(&writer, "big", stream(Shape::Stream, pieces)).await.expect("stored");
    let sealed = writer.seal(point()).await.expect("sealed");
    let (_, most) = *store.under_way.lock().expect("no panic");
    assert!(most <= limits.alive_bytes as u64 + (1 << 20), "{most} bytes under way");
    // 100 MiB in packs of 8 MiB, two of them not full, one of pages and one of references.
    assert!((14..=16).contains(&sealed.stats.packs), "{} packs", sealed.stats.packs);
    let listed: Vec<_> = futures::TryStreamExt::try_collect(host.memory.list("data/")).await.expect("listed");
    assert!(listed.iter().all(|meta| meta.bytes <= limits.data_pack_bytes as u64 + (2 << 20)));
    assert!(host.reader().await.files(sealed.id).await[&path("big")].len() == 100 << 20);
}

#[tokio::test]
async fn a_source_that_the_roster_gives_to_others_is_refused_before_anything_is_put() {
    let host = Host::new().await;
    let before = host.memory.object_count();
    let stack = lifeboat_model::StackName::new("another-stack").expect("a name");
    let repository = host.open_on(Arc::clone(&host.calls) as _).await.expect("opened");
    let head = SnapshotHead { stack, ..head() };
    let refused = repository.writer(head, WriteOptions::default(), host.context()).await.expect_err("refused");
    assert!(matches!(refused, RepoError::NotAllowed { .. }), "{refused}");
    assert_eq!(host.memory.object_count(), before);
}
