//! When a job runs next.

use std::fmt;
use std::str::FromStr;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A cron expression: five fields (minute, hour, day of month, month, day of week), six with
/// seconds first, or one of `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
///
/// Times are those of the wall in a zone. A time that a clock change skips runs right after the
/// gap; one that comes twice runs once, unless the expression repeats within the hour.
#[derive(Clone, PartialEq, Eq)]
pub struct Schedule {
    text: String,
    cron: Cron,
}

/// A text that is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a schedule: {why}")]
pub struct BadSchedule {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub why: String,
}

const NICKNAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

impl Schedule {
    /// The expression as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The expression in English words.
    #[must_use]
    pub fn describe(&self) -> String {
        self.cron.describe()
    }

    /// The first time after `after`; `None` where there is none before the year 5000.
    #[must_use]
    pub fn first_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let from = after.to_zoned(zone.clone());
        self.cron.find_next_occurrence(&from, false).ok().map(|next| next.timestamp())
    }
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Self, BadSchedule> {
        let bad = |why: &str| BadSchedule { text: text.to_owned(), why: why.to_owned() };
        let fields = text.split_whitespace().count();
        if text.trim_start().starts_with('@') {
            if !NICKNAMES.contains(&text.trim().to_ascii_lowercase().as_str()) {
                return Err(bad("use @hourly, @daily, @weekly, @monthly or @yearly, or five or six fields"));
            }
        } else if fields != 5 && fields != 6 {
            return Err(bad(&format!("it has {fields} fields; five are needed, or six with seconds first")));
        }
        let cron = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build()
            .parse(text)
            .map_err(|why| bad(&plain_words(&why.to_string())))?;
        let schedule = Self { text: text.trim().to_owned(), cron };
        if schedule.first_after(Timestamp::UNIX_EPOCH, &TimeZone::UTC).is_none() {
            return Err(bad("no day matches it"));
        }
        Ok(schedule)
    }
}

/// The parser's words without its type names and full stop.
fn plain_words(why: &str) -> String {
    let starts =
        ["Invalid pattern: ", "Component error: ", "Pattern contains illegal characters: CronPattern contains "];
    let why = starts.iter().find_map(|start| why.strip_prefix(start)).unwrap_or(why);
    let mut letters = why.trim_end_matches('.').chars();
    letters.next().map_or(String::new(), |first| first.to_lowercase().chain(letters).collect())
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// When a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextRun {
    /// When to start: `now` where a run was missed.
    pub at: Timestamp,
    /// The earliest time that passed since the last run without one.
    pub missed: Option<Timestamp>,
}

/// When a job whose last run began at `last` starts again. A run that was missed (the machine was
/// off) is made up for once, at `now`; a job that never ran waits for its first time after `now`.
/// `None` where the schedule never comes again.
#[must_use]
pub fn next_run(schedule: &Schedule, last: Option<Timestamp>, now: Timestamp, zone: &TimeZone) -> Option<NextRun> {
    // A last run in the future is a clock that was set back: it must not keep the job from running.
    let from = last.map_or(now, |last| last.min(now));
    let first = schedule.first_after(from, zone)?;
    Some(if first <= now { NextRun { at: now, missed: Some(first) } } else { NextRun { at: first, missed: None } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().expect("a good schedule")
    }

    fn time(text: &str) -> Timestamp {
        text.parse().expect("a good time")
    }

    /// The next three times after `from`, in the zone.
    fn three(text: &str, zone: &str, from: &str) -> Vec<String> {
        let zone = TimeZone::get(zone).expect("a known zone");
        let mut at = time(from);
        (0..3)
            .map(|_| {
                at = schedule(text).first_after(at, &zone).expect("a next time");
                at.to_zoned(zone.clone()).strftime("%F %T %:z").to_string()
            })
            .collect()
    }

    #[test]
    fn times_follow_the_wall_clock_through_clock_changes() {
        for (text, zone, from, expected) in [
            (
                "0 1 * * *",
                "Africa/Lusaka",
                "2026-02-05T00:00:00Z",
                ["2026-02-06 01:00:00 +02:00", "2026-02-07 01:00:00 +02:00", "2026-02-08 01:00:00 +02:00"],
            ),
            // 02:30 does not exist on 8 March in New York.
            (
                "30 2 * * *",
                "America/New_York",
                "2026-03-07T12:00:00Z",
                ["2026-03-08 03:00:00 -04:00", "2026-03-09 02:30:00 -04:00", "2026-03-10 02:30:00 -04:00"],
            ),
            // 01:30 comes twice on 1 November.
            (
                "30 1 * * *",
                "America/New_York",
                "2026-10-31T12:00:00Z",
                ["2026-11-01 01:30:00 -04:00", "2026-11-02 01:30:00 -05:00", "2026-11-03 01:30:00 -05:00"],
            ),
            // Midnight does not exist in Cairo on 24 April.
            (
                "0 0 * * *",
                "Africa/Cairo",
                "2026-04-23T12:00:00Z",
                ["2026-04-24 01:00:00 +03:00", "2026-04-25 00:00:00 +03:00", "2026-04-26 00:00:00 +03:00"],
            ),
            // Six fields: seconds first.
            (
                "15 0 2 * * *",
                "UTC",
                "2026-01-01T00:00:00Z",
                ["2026-01-01 02:00:15 +00:00", "2026-01-02 02:00:15 +00:00", "2026-01-03 02:00:15 +00:00"],
            ),
            (
                "0 3 29 2 *",
                "UTC",
                "2026-01-01T00:00:00Z",
                ["2028-02-29 03:00:00 +00:00", "2032-02-29 03:00:00 +00:00", "2036-02-29 03:00:00 +00:00"],
            ),
            (
                "0 3 31 * *",
                "UTC",
                "2026-01-31T03:00:00Z",
                ["2026-03-31 03:00:00 +00:00", "2026-05-31 03:00:00 +00:00", "2026-07-31 03:00:00 +00:00"],
            ),
            (
                "@daily",
                "Asia/Dhaka",
                "2026-01-01T00:00:00Z",
                ["2026-01-02 00:00:00 +06:00", "2026-01-03 00:00:00 +06:00", "2026-01-04 00:00:00 +06:00"],
            ),
        ] {
            assert_eq!(three(text, zone, from), expected, "{text} in {zone}");
        }
    }

    #[test]
    fn a_missed_run_is_made_up_for_once() {
        let daily = schedule("0 1 * * *");
        let now = time("2026-02-05T09:00:00Z");
        let next = |last: Option<&str>| next_run(&daily, last.map(time), now, &TimeZone::UTC).expect("a next run");
        let tomorrow = NextRun { at: time("2026-02-06T01:00:00Z"), missed: None };
        assert_eq!(next(None), tomorrow);
        assert_eq!(next(Some("2026-02-05T01:00:00Z")), tomorrow);
        assert_eq!(next(Some("2026-02-02T01:00:03Z")), NextRun { at: now, missed: Some(time("2026-02-03T01:00:00Z")) });
        assert_eq!(next(Some("2031-01-01T00:00:00Z")), tomorrow, "a last run in the future does not stop the job");
    }

    #[test]
    fn what_is_no_schedule_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "it has 0 fields; five are needed, or six with seconds first"),
            ("1 2 3 4", "it has 4 fields; five are needed, or six with seconds first"),
            ("0 0 1 1 * 2 2027", "it has 7 fields; five are needed, or six with seconds first"),
            ("@nightly", "use @hourly, @daily, @weekly, @monthly or @yearly, or five or six fields"),
            ("0 0 30 2 *", "no day matches it"),
        ] {
            assert_eq!(text.parse::<Schedule>().expect_err("a bad schedule").why, why, "{text}");
        }
        for bad in ["61 * * * *", "* * * * MOO", "5/5 * * * *", "* 24 * * *"] {
            let error = bad.parse::<Schedule>().expect_err(bad);
            assert!(!error.why.is_empty() && !error.why.contains("Cron"), "{error}");
        }
    }
}
