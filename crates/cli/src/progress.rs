//! How far a run is: a bar on a terminal, a line a minute elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lifeboat_model::flow::{Clock, Monitor};

use crate::output;
use crate::talk::Talk;

/// How often a line is written where no bar can be drawn.
const LINE_EVERY: Duration = Duration::from_mins(1);
/// How long a backup takes at least for a bar to want to know how much there is.
const BAR_TOTAL_AFTER: Duration = Duration::from_secs(5);

/// Tells the person who started the command.
pub(crate) struct Progress {
    talk: Talk,
    clock: Arc<dyn Clock>,
    bytes: AtomicU64,
    entries: AtomicU64,
    /// When the next line is due, in milliseconds of the monotonic clock.
    due_ms: AtomicU64,
    now: Mutex<Now>,
    bar: Option<ProgressBar>,
}

/// What is being worked on.
#[derive(Default)]
struct Now {
    what: String,
    total_bytes: Option<u64>,
    began: Duration,
}

impl Progress {
    pub(crate) fn new(talk: &Talk) -> Self {
        let bar = (talk.is_terminal() && !talk.quiet).then(|| {
            // Ten times a second: drawing never costs what the run could use.
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
            talk.set_bar(Some(bar.clone()));
            bar
        });
        let clock = Arc::clone(&talk.clock);
        Self {
            talk: talk.clone(),
            clock,
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            due_ms: AtomicU64::new(u64::MAX),
            now: Mutex::default(),
            bar,
        }
    }

    /// Takes the bar off the terminal.
    pub(crate) fn end(&self) {
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            self.talk.set_bar(None);
        }
    }

    /// Looks `every` so often whether a line is due, however quiet the run itself is.
    pub(crate) fn tick(self: &Arc<Self>, every: Duration) {
        if self.bar.is_some() {
            return;
        }
        let progress = Arc::downgrade(self);
        tokio::spawn(async move {
            while let Some(progress) = progress.upgrade() {
                progress.line_if_due();
                drop(progress);
                tokio::time::sleep(every).await;
            }
        });
    }

    fn line_if_due(&self) {
        let now_ms = millis(self.clock.monotonic());
        let due = self.due_ms.load(Ordering::Relaxed);
        let next = now_ms.saturating_add(millis(LINE_EVERY));
        // Where the run ends or begins anew at this moment, that counts.
        if now_ms >= due && self.due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.talk.note(&self.line());
        }
    }

    fn line(&self) -> String {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = self.bytes.load(Ordering::Relaxed);
        let elapsed = self.clock.monotonic().saturating_sub(now.began);
        let rate = u64::try_from(u128::from(bytes) * 1000 / elapsed.as_millis().max(1)).unwrap_or(u64::MAX);
        let entries = self.entries.load(Ordering::Relaxed);
        let total = now.total_bytes.map_or_else(String::new, |total| format!(" of {}", output::size(total)));
        let left = now.total_bytes.and_then(|total| total.saturating_sub(bytes).checked_div(rate));
        let left =
            left.map_or_else(String::new, |left| format!(", {} left", output::duration(Duration::from_secs(left))));
        format!("{}: {}{total}, {entries} entries, {}/s{left}", now.what, output::size(bytes), output::size(rate))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn draw(bar: &ProgressBar, total_bytes: Option<u64>) {
    let template = if let Some(total) = total_bytes {
        bar.set_length(total);
        "{spinner} {wide_msg} {bar:24} {binary_bytes} of {binary_total_bytes} {binary_bytes_per_sec} {eta} left"
    } else {
        bar.unset_length();
        "{spinner} {wide_msg} {binary_bytes} {binary_bytes_per_sec} {elapsed}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Monitor for Progress {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        let began = self.clock.monotonic();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Now { what: what.to_owned(), total_bytes, began };
        self.bytes.store(0, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
        self.due_ms.store(millis(began).saturating_add(millis(LINE_EVERY)), Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            self.talk.set_bar(Some(bar.clone()));
            bar.reset();
            draw(bar, total_bytes);
            bar.set_message(output::one_line(what));
        }
    }

    fn total_after(&self) -> Option<Duration> {
        let after = if self.bar.is_some() { BAR_TOTAL_AFTER } else { LINE_EVERY / 2 };
        (!self.talk.quiet).then_some(after)
    }

    fn total(&self, bytes: u64) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).total_bytes = Some(bytes);
        if let Some(bar) = &self.bar {
            draw(bar, Some(bytes));
        }
    }

    fn bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(count);
        }
    }

    fn entries(&self, count: u64) {
        self.entries.fetch_add(count, Ordering::Relaxed);
    }

    fn note(&self, text: &str) {
        self.talk.note(text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use jiff::Timestamp;
    use lifeboat_testkit::eventually;

    use super::*;

    #[derive(Debug, Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn nobody_counts_what_there_is_where_nobody_is_told() {
        let progress = |quiet| Progress::new(&Talk::new(true, quiet, Arc::new(Hand::default())));
        assert_eq!(progress(true).total_after(), None);
        assert!(progress(false).total_after().is_some_and(|after| after < LINE_EVERY), "before the first line");
    }

    #[tokio::test]
    async fn a_line_comes_once_a_minute_by_the_clock_and_tells_rate_and_time_left() {
        let clock = Arc::new(Hand::default());
        let progress = Arc::new(Progress::new(&Talk::new(true, true, Arc::clone(&clock) as Arc<dyn Clock>)));
        progress.begin("documents", None);
        progress.total(400 << 20);
        progress.bytes(100 << 20);
        progress.entries(7);
        progress.tick(Duration::from_millis(1));
        let due = || progress.due_ms.load(Ordering::Relaxed);
        clock.0.store(59, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(due(), 60_000, "not yet");
        // The run reports nothing more.
        clock.0.store(100, Ordering::Relaxed);
        eventually("the line of the minute", || due() == 160_000).await;
        assert_eq!(progress.line(), "documents: 100.0 MiB of 400.0 MiB, 7 entries, 1.0 MiB/s, 5 min 00 s left");
    }
}
