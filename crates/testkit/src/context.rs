//! What a run is given, without a real clock.

use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_model::flow::{Cancel, Clock, Monitor, RunContext, Silent};

/// A clock that moves only when it is told to, or also with tokio's time where a test has paused it.
#[derive(Debug)]
pub struct FakeClock {
    start: Timestamp,
    passed_ms: AtomicU64,
    tokio_since: Option<tokio::time::Instant>,
}

impl FakeClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn at(start: Timestamp) -> Arc<Self> {
        Arc::new(Self { start, passed_ms: AtomicU64::new(0), tokio_since: None })
    }

    /// A clock that begins at `start` and goes with tokio's time: for tests that pause it, so that who
    /// waits costs nothing and is seen to have waited.
    #[must_use]
    pub fn with_tokio(start: Timestamp) -> Arc<Self> {
        Arc::new(Self { start, passed_ms: AtomicU64::new(0), tokio_since: Some(tokio::time::Instant::now()) })
    }

    /// Moves both the wall time and the monotonic time; parts of a millisecond are lost.
    ///
    /// # Panics
    /// Where `by` has more milliseconds than fit 64 bits.
    pub fn advance(&self, by: Duration) {
        self.passed_ms.fetch_add(u64::try_from(by.as_millis()).expect("a sane duration"), Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.start.checked_add(self.monotonic()).expect("a time that can be written")
    }

    fn monotonic(&self) -> Duration {
        let waited = self.tokio_since.map(|since| since.elapsed()).unwrap_or_default();
        Duration::from_millis(self.passed_ms.load(Ordering::SeqCst)) + waited
    }
}

/// The clock of a store: it goes with another one, but for its jumps.
#[derive(Debug)]
pub struct JumpingClock {
    inner: Arc<FakeClock>,
    ahead_seconds: AtomicI64,
}

impl JumpingClock {
    /// A clock that is right until it jumps.
    #[must_use]
    pub fn new(inner: Arc<FakeClock>) -> Arc<Self> {
        Arc::new(Self { inner, ahead_seconds: AtomicI64::new(0) })
    }

    /// Jumps ahead, or back where negative.
    pub fn jump(&self, seconds: i64) {
        self.ahead_seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        self.inner.now() + jiff::SignedDuration::from_secs(self.ahead_seconds.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
}

/// A context with a clock at 2026-01-02 03:04:05 UTC, a silent monitor and that directory for
/// scratch files.
///
/// # Panics
/// Never: the time is a valid one.
#[must_use]
pub fn run_context(scratch: &Path) -> RunContext {
    RunContext {
        clock: FakeClock::at("2026-01-02T03:04:05Z".parse().expect("a time")),
        monitor: Arc::new(Silent),
        cancel: Cancel::default(),
        scratch: scratch.to_owned(),
        memory_budget_bytes: 256 << 20,
    }
}

/// A monitor that remembers.
#[derive(Debug, Default)]
pub struct Recorder {
    /// The notes so far.
    pub notes: Mutex<Vec<String>>,
    /// When it wants to know how much there is in all.
    pub total_after: Option<Duration>,
    /// How much there is in all, where that was told.
    pub total: AtomicU64,
    /// Bytes so far.
    pub bytes: AtomicU64,
    /// Entries so far.
    pub entries: AtomicU64,
}

impl Monitor for Recorder {
    fn begin(&self, _what: &str, _total_bytes: Option<u64>) {}

    fn total_after(&self) -> Option<Duration> {
        self.total_after
    }

    fn total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    fn entries(&self, count: u64) {
        self.entries.fetch_add(count, Ordering::Relaxed);
    }

    fn note(&self, text: &str) {
        self.notes.lock().expect("no note panicked").push(text.to_owned());
    }
}
