//! How long to wait before the next try.

use std::time::Duration;

use lifeboat_model::flow::Clock;

/// How a failed call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// The longest wait before the second try. Each further wait may be twice as long.
    pub first: Duration,
    /// No single wait is longer.
    pub longest: Duration,
    /// How long the tries may go on in all, counted from [`Backoff::start`].
    pub budget: Duration,
}

impl Default for BackoffPolicy {
    /// Half a second at first, 30 seconds at most, five minutes in all.
    fn default() -> Self {
        Self { first: Duration::from_millis(500), longest: Duration::from_secs(30), budget: Duration::from_mins(5) }
    }
}

/// The waits of one call: exponential, each drawn evenly from half to the whole of its bound, so
/// that many clients that failed together do not come back together.
#[derive(Debug)]
pub struct Backoff<'a> {
    policy: BackoffPolicy,
    clock: &'a dyn Clock,
    started: Duration,
    bound: Duration,
}

impl<'a> Backoff<'a> {
    /// Starts the budget.
    #[must_use]
    pub fn start(policy: BackoffPolicy, clock: &'a dyn Clock) -> Self {
        Self { policy, clock, started: clock.monotonic(), bound: policy.first.min(policy.longest) }
    }

    /// The next wait, or `None` when it would end after the budget.
    pub fn next_wait(&mut self) -> Option<Duration> {
        self.next_wait_of(Duration::ZERO)
    }

    /// The same, and at least `least`, which the other side asked for.
    pub fn next_wait_of(&mut self, least: Duration) -> Option<Duration> {
        let wait = jittered(self.bound).max(least);
        self.bound = self.bound.saturating_mul(2).min(self.policy.longest);
        let ends = self.clock.monotonic().saturating_sub(self.started).saturating_add(wait);
        (ends <= self.policy.budget).then_some(wait)
    }
}

fn jittered(bound: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the wait is the whole bound, which is only less polite.
    if getrandom::fill(&mut random).is_err() {
        return bound;
    }
    let part = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
    bound.mul_f64(0.5 + part / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    fn policy(budget_ms: u64) -> BackoffPolicy {
        BackoffPolicy {
            first: Duration::from_millis(100),
            longest: Duration::from_millis(250),
            budget: Duration::from_millis(budget_ms),
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_keep_half_of_their_bound() {
        let mut backoff = Backoff::start(policy(1000), &Stopped);
        for bound in [100, 200, 250, 250] {
            let wait = backoff.next_wait().expect("within the budget");
            assert!(
                wait <= Duration::from_millis(bound) && wait >= Duration::from_millis(bound / 2),
                "{wait:?} {bound}"
            );
        }
    }

    #[test]
    fn no_wait_goes_beyond_the_budget() {
        assert_eq!(Backoff::start(policy(49), &Stopped).next_wait(), None);
    }
}
