//! The machine that an operation runs on: its calls of stores are numbered, and at one of them something
//! happens to it.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use lifeboat_store::wrap::Retry;
use lifeboat_store::{Capabilities, Key, ObjectMeta, PutMode, Store, StoreError, StoreErrorKind};
use lifeboat_testkit::context::FakeClock;
use lifeboat_wire::backoff::BackoffPolicy;
use tokio::sync::watch;

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The process dies: neither the call nor a write that is under way beside it reaches the store.
    Dies,
    /// The call reaches the store and so does all that is under way; then the process dies.
    DiesAfter,
    /// The call reaches the store, what is under way beside it is lost; then the process dies.
    LosesOthers,
    /// The store never hears of the call and says so.
    Errs,
    /// The store does it and the answer is lost.
    ErrsAfter,
    /// The same below whoever tries again: nothing may be noticed.
    Retried,
    /// The machine, or the store, sleeps for longer than any grace period before the call.
    Sleeps,
    /// This list is as old as lists of the store may be; all others are exact.
    OldList,
    /// All lists lag, and the process dies after the call.
    DiesAmongOldLists,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::Dies,
        Self::DiesAfter,
        Self::LosesOthers,
        Self::Errs,
        Self::ErrsAfter,
        Self::Retried,
        Self::Sleeps,
        Self::OldList,
        Self::DiesAmongOldLists,
    ];

    /// Whether lists of the store may lag.
    pub(crate) const fn lags(self) -> bool {
        matches!(self, Self::OldList | Self::DiesAmongOldLists)
    }

    /// Whether the operation must succeed all the same.
    pub(crate) const fn is_harmless(self) -> bool {
        matches!(self, Self::Retried | Self::Sleeps | Self::OldList)
    }

    const fn kills(self) -> bool {
        matches!(self, Self::Dies | Self::DiesAfter | Self::LosesOthers | Self::DiesAmongOldLists)
    }

    const fn reaches_the_store(self) -> bool {
        !matches!(self, Self::Dies | Self::Errs)
    }

    const fn keeps_others(self) -> bool {
        matches!(self, Self::DiesAfter | Self::DiesAmongOldLists)
    }
}

/// How many turns of the scheduler a write takes: writes that are begun together are under way together.
const TURNS: usize = 3;
/// How [`Fault::Retried`] is tried again.
const AT_ONCE: BackoffPolicy =
    BackoffPolicy { first: Duration::from_nanos(1), longest: Duration::from_nanos(1), budget: Duration::from_secs(1) };
/// For how long [`Fault::Sleeps`] sleeps.
const SLEEP: Duration = Duration::from_secs(200);

/// A process on a machine, with as many stores as it talks to.
pub(crate) struct Machine {
    clock: Arc<FakeClock>,
    fault: Option<(Fault, u64)>,
    pause_at: u64,
    calls: AtomicU64,
    dead: AtomicBool,
    log: Mutex<Vec<Call>>,
    open: watch::Sender<bool>,
}

/// A call as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    what: &'static str,
    key: String,
    line: &'static str,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {}", self.what, self.key, self.line)
    }
}

impl Call {
    /// Whether this fault differs from others there. A death at a read leaves the stores as one at the
    /// next write does.
    pub(crate) fn minds(&self, fault: Fault) -> bool {
        match fault {
            Fault::OldList => self.what == "list",
            fault if fault.kills() => matches!(self.what, "put" | "delete"),
            _ => true,
        }
    }
}

impl Machine {
    /// One to which nothing happens.
    pub(crate) fn sound(clock: &Arc<FakeClock>) -> Arc<Self> {
        Self::new(clock, None, u64::MAX)
    }

    /// The next one after what happened: lists that lagged still do.
    pub(crate) fn next(&self) -> Arc<Self> {
        Self::new(&self.clock, self.is_among_old_lists().then_some((Fault::DiesAmongOldLists, u64::MAX)), u64::MAX)
    }

    /// One to which something happens at a call, counted from 0.
    pub(crate) fn with(clock: &Arc<FakeClock>, fault: Fault, at: u64) -> Arc<Self> {
        Self::new(clock, Some((fault, at)), u64::MAX)
    }

    /// One that is suspended before a call until it is resumed.
    pub(crate) fn suspended_at(clock: &Arc<FakeClock>, at: u64) -> Arc<Self> {
        Self::new(clock, None, at)
    }

    fn new(clock: &Arc<FakeClock>, fault: Option<(Fault, u64)>, pause_at: u64) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            fault,
            pause_at,
            calls: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            log: Mutex::default(),
            open: watch::Sender::new(true),
        })
    }

    /// The store as this machine reaches it. Its own lists may lag, those of `exact` do not.
    pub(crate) fn line(
        self: &Arc<Self>,
        name: &'static str,
        store: Arc<dyn Store>,
        exact: Arc<dyn Store>,
    ) -> Arc<dyn Store> {
        let line = Arc::new(Line { machine: Arc::clone(self), name, store, exact });
        match self.fault {
            Some((Fault::Retried, _)) => Arc::new(Retry::new(line, AT_ONCE, Arc::clone(&self.clock) as _)),
            _ => line,
        }
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.log.lock().expect("nobody panics with it").clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// Waits until it is suspended.
    pub(crate) async fn paused(&self) {
        let mut open = self.open.subscribe();
        open.wait_for(|open| !open).await.expect("the machine lives as long as it is waited for");
    }

    pub(crate) fn resume(&self) {
        self.open.send_replace(true);
    }

    /// Counts a call; what happens at it.
    async fn meet(&self, line: &Line, call: &'static str, key: &str) -> Result<Option<Fault>, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let made = Call { what: call, key: key.to_owned(), line: line.name };
        self.log.lock().expect("nobody panics with it").push(made);
        if number == self.pause_at {
            self.open.send_replace(false);
        }
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the machine lives as long as its calls");
        if self.is_dead() {
            return Err(line.error(call, key, StoreErrorKind::Failed));
        }
        let Some(fault) = self.fault.filter(|(_, at)| *at == number).map(|(fault, _)| fault) else { return Ok(None) };
        self.dead.store(fault.kills(), Ordering::SeqCst);
        if fault == Fault::Sleeps {
            self.clock.advance(SLEEP);
        }
        if fault.reaches_the_store() { Ok(Some(fault)) } else { Err(line.failed(call, key, fault)) }
    }

    fn is_among_old_lists(&self) -> bool {
        matches!(self.fault, Some((Fault::DiesAmongOldLists, _)))
    }

    /// Whether a write that was begun before still reaches the store.
    fn lets_through(&self) -> bool {
        !self.is_dead() || self.fault.is_some_and(|(fault, _)| fault.keeps_others())
    }
}

/// One store of a machine.
struct Line {
    machine: Arc<Machine>,
    name: &'static str,
    store: Arc<dyn Store>,
    exact: Arc<dyn Store>,
}

impl Line {
    fn error(&self, call: &'static str, key: &str, kind: StoreErrorKind) -> StoreError {
        StoreError::new(kind, call, key, self, "the test says so")
    }

    fn failed(&self, call: &'static str, key: &str, fault: Fault) -> StoreError {
        let kind = if fault.kills() { StoreErrorKind::Failed } else { StoreErrorKind::Transient };
        self.error(call, key, kind)
    }

    /// The answer that the machine gets.
    fn answer<T>(
        &self,
        (call, key): (&'static str, &str),
        fault: Option<Fault>,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match fault {
            None | Some(Fault::Sleeps | Fault::OldList) if self.machine.is_dead() => {
                Err(self.error(call, key, StoreErrorKind::Failed))
            }
            None | Some(Fault::Sleeps | Fault::OldList) => done,
            Some(fault) => Err(self.failed(call, key, fault)),
        }
    }

    async fn write(
        &self,
        (call, key): (&'static str, &Key),
        write: impl Future<Output = Result<(), StoreError>> + Send,
    ) -> Result<(), StoreError> {
        let fault = self.machine.meet(self, call, key.as_str()).await?;
        if fault.is_none() {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
        }
        let done = if fault.is_some() || self.machine.lets_through() { write.await } else { Ok(()) };
        self.answer((call, key.as_str()), fault, done)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[async_trait]
impl Store for Line {
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<(), StoreError> {
        self.write(("put", key), self.store.put(key, body, mode)).await
    }

    async fn get(&self, key: &Key, range: Option<Range<u64>>) -> Result<Bytes, StoreError> {
        let fault = self.machine.meet(self, "get", key.as_str()).await?;
        self.answer(("get", key.as_str()), fault, self.store.get(key, range).await)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<ObjectMeta, StoreError>> {
        let listed = async move {
            let fault = self.machine.meet(self, "list", prefix).await;
            let error = |error| futures::stream::iter([Err(error)]).boxed();
            match fault {
                Err(told) => error(told),
                Ok(None) if self.machine.is_among_old_lists() => self.store.list(prefix),
                Ok(Some(Fault::OldList)) => self.store.list(prefix),
                Ok(None | Some(Fault::Sleeps)) => self.exact.list(prefix),
                Ok(Some(fault)) => error(self.failed("list", prefix, fault)),
            }
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.write(("delete", key), self.store.delete(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }
}
