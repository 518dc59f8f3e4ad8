//! The machine's clock. Everything else takes a [`Clock`] from its caller.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use lifeboat_model::flow::Clock;

/// The clock of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

static START: OnceLock<Instant> = OnceLock::new();

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the real clock")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Duration {
        let start = *START.get_or_init(Instant::now);
        Instant::now().saturating_duration_since(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let readings: Vec<Duration> = (0..1000).map(|_| SystemClock.monotonic()).collect();
        assert!(readings.is_sorted());
    }
}
