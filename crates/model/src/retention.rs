//! Which snapshots of a source `forget` keeps, and why.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

use crate::SnapshotId;

/// What is kept. Rules add up: a snapshot that any of them keeps stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest so many.
    pub keep_last: u32,
    /// The newest of each of the newest so many hours that have one; likewise below.
    pub keep_hourly: u32,
    /// Days.
    pub keep_daily: u32,
    /// Weeks that begin on Monday.
    pub keep_weekly: u32,
    /// Months.
    pub keep_monthly: u32,
    /// Years.
    pub keep_yearly: u32,
    /// Everything of this stretch before now, and the newest before it.
    pub window: Option<Window>,
}

impl RetentionPolicy {
    /// A policy that is a recovery window alone.
    #[must_use]
    pub fn window(window: Window) -> Self {
        Self { window: Some(window), ..Self::default() }
    }

    /// Whether no rule keeps anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The counting rules in the order in which reasons are given.
    fn counts(&self) -> [(Reason, u32); 6] {
        [
            (Reason::Last, self.keep_last),
            (Reason::Hourly, self.keep_hourly),
            (Reason::Daily, self.keep_daily),
            (Reason::Weekly, self.keep_weekly),
            (Reason::Monthly, self.keep_monthly),
            (Reason::Yearly, self.keep_yearly),
        ]
    }
}

impl fmt::Display for RetentionPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.window.iter().map(|window| format!("window {window}")).collect();
        words.extend(
            self.counts().iter().filter(|(_, count)| *count > 0).map(|(rule, count)| format!("{rule} {count}")),
        );
        f.write_str(if words.is_empty() { "nothing" } else { "" })?;
        f.write_str(&words.join(", "))
    }
}

/// A stretch of calendar time that ends now: `30d`, `4w`, `12m`, `1y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many, at least one.
    pub count: u32,
    /// Of what.
    pub unit: WindowUnit,
}

/// The unit of a [`Window`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowUnit {
    /// `d`
    Days,
    /// `w`
    Weeks,
    /// `m`: calendar months. From the 31st it leads to the last day of a shorter month.
    Months,
    /// `y`
    Years,
}

/// A text that is no [`Window`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a window: write a number and d, w, m or y, such as 30d, 4w, 12m, 1y")]
pub struct BadWindow(pub String);

impl FromStr for Window {
    type Err = BadWindow;

    fn from_str(text: &str) -> Result<Self, BadWindow> {
        let bad = || BadWindow(text.to_owned());
        let (at, unit) = text.char_indices().last().ok_or_else(bad)?;
        let unit = match unit {
            'd' => WindowUnit::Days,
            'w' => WindowUnit::Weeks,
            'm' => WindowUnit::Months,
            'y' => WindowUnit::Years,
            _ => return Err(bad()),
        };
        if !text[..at].bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        let count = text[..at].parse().ok().filter(|count| (1..=99_999).contains(count)).ok_or_else(bad)?;
        Ok(Self { count, unit })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            WindowUnit::Days => 'd',
            WindowUnit::Weeks => 'w',
            WindowUnit::Months => 'm',
            WindowUnit::Years => 'y',
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl Window {
    /// Where the window begins when it ends at `now`; the beginning of time where it reaches
    /// further back than times go.
    fn begins(self, now: &Zoned) -> Timestamp {
        let count = i64::from(self.count);
        let span = match self.unit {
            WindowUnit::Days => Span::new().try_days(count),
            WindowUnit::Weeks => Span::new().try_weeks(count),
            WindowUnit::Months => Span::new().try_months(count),
            WindowUnit::Years => Span::new().try_years(count),
        };
        span.and_then(|span| now.checked_sub(span)).map_or(Timestamp::MIN, |begin| begin.timestamp())
    }
}

/// What retention knows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which one.
    pub id: SnapshotId,
    /// Its number in its writer's chain: orders what bears the same time.
    pub sequence: u64,
    /// When it was made, by the writer's clock.
    pub writer_time: Timestamp,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
    /// An earlier time that an identity signed (an import, a copy). It goes before both.
    pub countersigned_time: Option<Timestamp>,
    /// Why it is held, where it is.
    pub held: Option<String>,
    /// Whether it could be restored as far as is known: sealed, not void, nothing of it known to
    /// be lost.
    pub restorable: bool,
}

impl Candidate {
    /// The time by which it is judged.
    #[must_use]
    pub fn dated(&self) -> Timestamp {
        self.countersigned_time.unwrap_or(self.stored_at)
    }

    fn suspicion(&self, now: Timestamp) -> Option<Suspicion> {
        let ahead = self.dated().duration_since(now);
        if ahead > TOLERANCE {
            return Some(Suspicion::Future(ahead));
        }
        let apart = self.stored_at.duration_since(self.writer_time);
        (self.countersigned_time.is_none() && apart.abs() > TOLERANCE).then_some(Suspicion::Apart(apart))
    }
}

/// How far clocks may be apart before a snapshot is flagged.
pub const TOLERANCE: SignedDuration = SignedDuration::from_hours(1);

/// A time that cannot be right. A snapshot with one never makes another be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// The store dates it this far after now.
    Future(SignedDuration),
    /// The store dates it this much after (or, negative, before) its writer.
    Apart(SignedDuration),
}

impl fmt::Display for Suspicion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Future(by) => write!(f, "dated {by:#} in the future"),
            Self::Apart(by) if by.is_negative() => {
                write!(f, "its writer's clock is {:#} ahead of the store's", by.abs())
            }
            Self::Apart(by) => write!(f, "its writer's clock is {by:#} behind the store's"),
        }
    }
}

/// Why a snapshot is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `keepLast`.
    Last,
    /// `keepHourly`.
    Hourly,
    /// `keepDaily`.
    Daily,
    /// `keepWeekly`.
    Weekly,
    /// `keepMonthly`.
    Monthly,
    /// `keepYearly`.
    Yearly,
    /// It lies in the window.
    Window,
    /// It is the newest before the window: the state at the window's first moment.
    WindowStart,
    /// A person holds it, for this reason.
    Held(String),
    /// The newest snapshot that can be restored is never forgotten.
    NewestRestorable,
    /// No snapshot of the source can be restored, so none is forgotten.
    NothingRestorable,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Window => "in the window",
            Self::WindowStart => "newest before the window",
            Self::Held(why) if why.is_empty() => "held",
            Self::Held(why) => return write!(f, "held: {why}"),
            Self::NewestRestorable => "newest that can be restored",
            Self::NothingRestorable => "none can be restored",
        })
    }
}

/// What is to become of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays, for at least one reason.
    Keep(Vec<Reason>),
    /// No rule keeps it.
    Forget,
}

/// The verdict on one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Which one.
    pub id: SnapshotId,
    /// What is to become of it.
    pub verdict: Verdict,
    /// What is odd about its time.
    pub suspicion: Option<Suspicion>,
}

/// Why no verdicts were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RetentionError {
    /// The policy would forget everything.
    #[error("the retention policy keeps nothing")]
    KeepsNothing,
}

/// Judges the snapshots of one source; verdicts come in the order of `snapshots`.
///
/// Days, weeks, months and years begin in `zone`. Snapshots are dated by the store's clock. One
/// whose times cannot be right ([`Suspicion`]) takes no other's place: the rules are applied to the
/// others alone, then to all by the store's dates, then to all by the writers', and what any of
/// them keeps stays.
///
/// # Errors
/// [`RetentionError::KeepsNothing`] for an empty policy.
pub fn apply_retention(
    policy: &RetentionPolicy,
    snapshots: &[Candidate],
    now: Timestamp,
    zone: &TimeZone,
) -> Result<Vec<Judgement>, RetentionError> {
    if policy.is_empty() {
        return Err(RetentionError::KeepsNothing);
    }
    let now = now.to_zoned(zone.clone());
    let suspicions: Vec<Option<Suspicion>> = snapshots.iter().map(|s| s.suspicion(now.timestamp())).collect();
    let mut reasons: Vec<Vec<Reason>> =
        snapshots.iter().map(|s| s.held.iter().cloned().map(Reason::Held).collect()).collect();

    let all: Vec<usize> = (0..snapshots.len()).collect();
    let trusted: Vec<usize> = all.iter().copied().filter(|at| suspicions[*at].is_none()).collect();
    let mut passes = vec![newest_first(snapshots, &trusted, Candidate::dated)];
    if trusted.len() < all.len() {
        passes.push(newest_first(snapshots, &all, Candidate::dated));
        passes.push(newest_first(snapshots, &all, |s| s.countersigned_time.unwrap_or(s.writer_time)));
    }
    for order in &passes {
        for (at, reason) in keep_by_rules(policy, order, &now) {
            add(&mut reasons[at], reason);
        }
        if let Some((at, _)) = order.iter().find(|(at, _)| snapshots[*at].restorable) {
            add(&mut reasons[*at], Reason::NewestRestorable);
        }
    }
    if !snapshots.iter().any(|s| s.restorable) {
        for reasons in &mut reasons {
            add(reasons, Reason::NothingRestorable);
        }
    }

    let verdict = |reasons: Vec<Reason>| if reasons.is_empty() { Verdict::Forget } else { Verdict::Keep(reasons) };
    Ok(snapshots
        .iter()
        .zip(reasons)
        .zip(suspicions)
        .map(|((s, reasons), suspicion)| Judgement { id: s.id, verdict: verdict(reasons), suspicion })
        .collect())
}

fn add(reasons: &mut Vec<Reason>, reason: Reason) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}

/// A snapshot by its place in the input, with the time it is judged by.
type Dated = (usize, Timestamp);

fn newest_first(snapshots: &[Candidate], which: &[usize], date: impl Fn(&Candidate) -> Timestamp) -> Vec<Dated> {
    let mut order: Vec<Dated> = which.iter().map(|at| (*at, date(&snapshots[*at]))).collect();
    order.sort_by_key(|(at, time)| std::cmp::Reverse((*time, snapshots[*at].sequence, snapshots[*at].id)));
    order
}

/// What the rules keep of snapshots that come newest first.
fn keep_by_rules(policy: &RetentionPolicy, order: &[Dated], now: &Zoned) -> Vec<(usize, Reason)> {
    let mut kept = Vec::new();
    for (rule, count) in policy.counts() {
        let mut buckets = BTreeSet::new();
        for (place, (at, time)) in order.iter().enumerate() {
            let bucket = if rule == Reason::Last {
                place.to_string()
            } else {
                bucket_of(&rule, &time.to_zoned(now.time_zone().clone()))
            };
            if buckets.len() >= count as usize {
                break;
            }
            if buckets.insert(bucket) {
                kept.push((*at, rule.clone()));
            }
        }
    }
    if let Some(window) = policy.window {
        let begin = window.begins(now);
        kept.extend(order.iter().filter(|(_, time)| *time > begin).map(|(at, _)| (*at, Reason::Window)));
        kept.extend(order.iter().find(|(_, time)| *time <= begin).map(|(at, _)| (*at, Reason::WindowStart)));
    }
    kept
}

/// The name of the stretch of calendar time in which a rule keeps one snapshot.
fn bucket_of(rule: &Reason, time: &Zoned) -> String {
    // The offset tells the two hours apart that a clock change makes of one.
    let form = match rule {
        Reason::Hourly => "%F %H %z",
        Reason::Daily => "%F",
        Reason::Weekly => "%G-%V",
        Reason::Monthly => "%Y-%m",
        _ => "%Y",
    };
    time.strftime(form).to_string()
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
