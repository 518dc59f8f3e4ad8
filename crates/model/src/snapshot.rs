//! What is told of a snapshot, and how a person names one.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};
use serde::{Serialize, Serializer};

use crate::id::BadName;
use crate::retention::Candidate;
use crate::{Digest, SnapshotId, SourceName, StackName};

/// What is told of a snapshot. Without an identity only the header can be read: what it does not
/// hold is then `None`, unless the catalog of this host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SnapshotSummary {
    /// Hash of its root object.
    pub id: SnapshotId,
    /// The id under which it was first sealed, where this is a copy. Both are accepted.
    pub original: Option<SnapshotId>,
    /// The stack, where its name is known.
    pub stack: Option<StackName>,
    /// The source, where its name is known.
    pub source: Option<SourceName>,
    /// Kind of the source, such as `postgres`.
    pub kind: Option<String>,
    /// When it was sealed, by the writer's clock.
    #[serde(serialize_with = "rfc3339")]
    pub time: Timestamp,
    /// The instant of the view that it holds.
    #[serde(serialize_with = "rfc3339_or_null")]
    pub recovery_point: Option<Timestamp>,
    /// When the store took the root object, by the store's clock.
    #[serde(serialize_with = "rfc3339")]
    pub stored_at: Timestamp,
    /// The name that a person gave it.
    pub label: Option<String>,
    /// Length of all content.
    pub bytes: Option<u64>,
    /// Plain length of the chunks that it added to the repository.
    pub new_bytes: Option<u64>,
    /// How many entries it has.
    pub entries: Option<u64>,
    /// How many skips and problems it records.
    pub problems: Option<u64>,
    /// Why retention may not forget it, where a person holds it.
    pub held: Option<String>,
    /// Its number in its writer's chain: orders what bears the same time.
    pub sequence: u64,
    /// An earlier time that an identity signed (an import, a copy).
    #[serde(serialize_with = "rfc3339_or_null")]
    pub countersigned_time: Option<Timestamp>,
    /// The public key of the writer that signed it, in hexadecimal digits.
    pub writer: String,
    /// Writer's and store's time are more than an hour apart.
    pub clock_drift: bool,
    /// The keyed tag of its stack. Equal tags are the same stack of the same domain.
    #[serde(skip)]
    pub stack_tag: Digest,
    /// The keyed tag of its source. Equal tags are the same source of the same domain, whether or
    /// not the name is known.
    #[serde(skip)]
    pub source_tag: Digest,
}

impl SnapshotSummary {
    /// The instant that a person means who asks for a time: the recovery point, or where that
    /// cannot be read the time of sealing, of a copy that of its original.
    #[must_use]
    pub fn instant(&self) -> Timestamp {
        self.recovery_point.or(self.countersigned_time).unwrap_or(self.time)
    }

    /// The id under which it was first sealed: equal for all copies of a snapshot.
    #[must_use]
    pub fn first_id(&self) -> SnapshotId {
        self.original.unwrap_or(self.id)
    }

    /// What retention judges it by. `restorable` is what is known of its state.
    #[must_use]
    pub fn candidate(&self, restorable: bool) -> Candidate {
        Candidate {
            id: self.id,
            sequence: self.sequence,
            writer_time: self.time,
            stored_at: self.stored_at,
            countersigned_time: self.countersigned_time,
            held: self.held.clone(),
            restorable,
        }
    }

    /// `stack/source`, or the beginning of its tag where the names are not known.
    #[must_use]
    pub fn group(&self) -> String {
        match (&self.stack, &self.source) {
            (Some(stack), Some(source)) => format!("{stack}/{source}"),
            (None, Some(source)) => source.to_string(),
            _ => format!("unknown-{}", self.source_tag.short()),
        }
    }

    /// It for people, in one line.
    #[must_use]
    pub fn shown(&self, zone: &TimeZone) -> String {
        let label = self.label.as_ref().map_or_else(String::new, |label| format!(" \"{label}\""));
        format!("{} {} of {}{label}", self.id.short(), self.group(), time_shown(self.instant(), zone))
    }
}

/// Writes a time as RFC 3339 in UTC.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// Writes a time as RFC 3339 in UTC, or nothing.
///
/// # Errors
/// Those of the serializer.
pub fn rfc3339_or_null<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}

/// How a person names a snapshot: `[STACK/]SOURCE[@WHICH]`, or a bare id prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRef {
    /// The text as given, for messages.
    pub text: String,
    /// Before a slash.
    pub stack: Option<StackName>,
    /// Before the `@`. A bare text may also be an id.
    pub source: Option<SourceName>,
    /// After the `@`: `latest`, a time, an id prefix or a label, in this order of precedence.
    pub which: Option<String>,
}

/// A text that names no snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRef {
    /// Nothing before or after the `@`.
    #[error("{0:?} does not name a snapshot: write SOURCE, SOURCE@WHICH, STACK/SOURCE@WHICH or an id")]
    Incomplete(String),
    /// The stack or source cannot be a name.
    #[error("{text:?} does not name a snapshot")]
    Name {
        /// What was given.
        text: String,
        /// Which part of it is no name.
        #[source]
        source: BadName,
    },
}

impl SnapshotRef {
    /// Reads `[STACK/]SOURCE[@WHICH]` or an id prefix.
    ///
    /// # Errors
    /// [`BadRef`] where a part is missing or cannot be a name.
    pub fn parse(text: &str) -> Result<Self, BadRef> {
        let incomplete = || BadRef::Incomplete(text.to_owned());
        let (who, which) = match text.split_once('@') {
            Some((_, "")) => return Err(incomplete()),
            Some((who, which)) => (who, Some(which.to_owned())),
            None => (text, None),
        };
        if who.is_empty() {
            return Err(incomplete());
        }
        // A whole id of 64 digits is too long for a name.
        if which.is_none() && is_id_prefix(who) && SourceName::new(who).is_err() {
            return Ok(Self { text: text.to_owned(), stack: None, source: None, which: Some(who.to_owned()) });
        }
        let name = |source: BadName| BadRef::Name { text: text.to_owned(), source };
        let (stack, source) = match who.split_once('/') {
            Some((stack, source)) => (Some(StackName::new(stack).map_err(name)?), source),
            None => (None, who),
        };
        let source = Some(SourceName::new(source).map_err(name)?);
        Ok(Self { text: text.to_owned(), stack, source, which })
    }
}

/// Whether `text` can be the beginning of an id: 6 to 64 lower-case hexadecimal digits.
#[must_use]
pub fn is_id_prefix(text: &str) -> bool {
    (6..=64).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The last instant that `text` names, so that "the newest at or before" includes it: a date means the
/// end of that day, `03:00` the end of that minute, `03:00:07` of that second, and a fraction itself.
/// Without an offset it is read in `zone`. `None` where it is no time.
#[must_use]
pub fn parse_time(text: &str, zone: &TimeZone) -> Option<Timestamp> {
    // Only the form with dashes: eight digits could be an id.
    if text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    // Times are shown with a space before the offset.
    let joined = match text.rsplit_once(' ') {
        Some((time, offset)) if time.len() > 10 && offset.starts_with(['+', '-']) => format!("{time}{offset}"),
        _ => text.to_owned(),
    };
    let begin = match (joined.parse::<Timestamp>(), joined.parse::<Zoned>()) {
        (Ok(time), _) => time,
        (_, Ok(zoned)) => zoned.timestamp(),
        _ => zone.to_zoned(joined.parse::<DateTime>().ok()?).ok()?.timestamp(),
    };
    let after = if joined.len() == 10 {
        zone.to_zoned(joined.parse::<Date>().ok()?.tomorrow().ok()?.at(0, 0, 0, 0)).ok()?.timestamp()
    } else {
        match (joined.as_bytes().get(13), joined.as_bytes().get(16), joined.as_bytes().get(19)) {
            (Some(b':'), Some(b':'), Some(b'.' | b',')) => return Some(begin),
            (Some(b':'), Some(b':'), _) => begin.checked_add(1.second()).ok()?,
            (Some(b':'), ..) => begin.checked_add(1.minute()).ok()?,
            _ => begin.checked_add(1.hour()).ok()?,
        }
    };
    after.checked_sub(1.nanosecond()).ok()
}

/// A time for people, with the offset of its zone. [`parse_time`] reads it.
#[must_use]
pub fn time_shown(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%F %T %:z").to_string()
}

/// Why a label cannot be given to a new snapshot, or `None` where it can. `taken` are the labels
/// of the source's snapshots that this host knows of.
#[must_use]
pub fn label_refusal<'a>(label: &str, zone: &TimeZone, mut taken: impl Iterator<Item = &'a str>) -> Option<String> {
    let why = if label.is_empty() || label.len() > 100 || label.chars().any(char::is_control) {
        "it needs 1 to 100 bytes without control characters"
    } else if label == "latest" {
        "it is the word for the newest snapshot"
    } else if parse_time(label, zone).is_some() {
        "it could be a time"
    } else if is_id_prefix(label) {
        "it could be the beginning of an id"
    } else if label.contains(['@', '/', ':']) {
        "it holds one of the characters @ / :"
    } else if taken.any(|other| other == label) {
        "an earlier snapshot of this source bears it"
    } else {
        return None;
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests;
