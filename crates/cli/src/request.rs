//! From what was typed to what is asked: every text is read and checked before anything is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lifeboat_engine::restore::To;
use lifeboat_engine::upkeep::Budget;
use lifeboat_model::config::{SecretUrl, StackConfig};
use lifeboat_model::snapshot::SnapshotRef;
use lifeboat_model::{EntryPath, SnapshotSummary, SourceName, StackName};

use crate::failure::Failure;

/// A snapshot and perhaps a path in it: `SNAPSHOT[:PATH]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) snapshot: SnapshotRef,
    pub(crate) path: Option<EntryPath>,
}

/// Reads `SNAPSHOT[:PATH]`. The colons of a time after `@` belong to the time.
pub(crate) fn part(text: &str) -> Result<Part, Failure> {
    let which = text.find('@').map_or(0, |at| at + 1);
    let split = text[which + time_length(&text[which..])..].find(':');
    let Some(colon) = split.map(|at| which + time_length(&text[which..]) + at) else {
        return Ok(Part { snapshot: snapshot(text)?, path: None });
    };
    let path = text[colon + 1..].trim_matches('/');
    let path = match path {
        "" | "." => None,
        path => Some(EntryPath::new(path).map_err(|bad| Failure::usage(bad.to_string()))?),
    };
    Ok(Part { snapshot: snapshot(&text[..colon])?, path })
}

/// How much of the beginning is a time such as `2026-02-05 03:00` or `2026-02-05T03:00:00+02:00`.
fn time_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let fits = |at: usize, form: &str| {
        let part = bytes.get(at..at + form.len());
        part.is_some_and(|part| {
            part.iter().zip(form.bytes()).all(|(b, f)| if f == b'0' { b.is_ascii_digit() } else { *b == f })
        })
    };
    if !fits(0, "0000-00-00") {
        return 0;
    }
    let mut at = 10;
    if !fits(at, " 00:00") && !fits(at, "T00:00") && !fits(at, "t00:00") {
        return at;
    }
    at += 6;
    if fits(at, ":00") {
        at += 3;
        if bytes.get(at) == Some(&b'.') {
            at += 1 + bytes[at + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        }
    }
    // Times are shown with a space before the offset.
    if fits(at, " +00:00") || fits(at, " -00:00") {
        at += 7;
    } else if fits(at, "+00:00") || fits(at, "-00:00") {
        at += 6;
    } else if fits(at, "Z") || fits(at, "z") {
        at += 1;
    }
    if bytes.get(at) == Some(&b'[') {
        at += text[at..].find(']').map_or(0, |end| end + 1);
    }
    at
}

/// Reads `[STACK/]SOURCE[@WHICH]` or an id.
pub(crate) fn snapshot(text: &str) -> Result<SnapshotRef, Failure> {
    SnapshotRef::parse(text).map_err(|bad| Failure::from(lifeboat_engine::JobError::from(bad)))
}

/// Reads the name of a stack.
pub(crate) fn stack(name: &str) -> Result<StackName, Failure> {
    StackName::new(name).map_err(|bad| Failure::usage(bad.to_string()))
}

/// Reads the beginning of a root object's hash, with or without the rest of its name.
pub(crate) fn root(text: &str) -> Result<String, Failure> {
    let digits = text.strip_prefix("roots/snapshot/").unwrap_or(text);
    if digits.len() < 6 || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Failure::usage(format!("{text:?} names no root object"))
            .hint("give 6 or more digits of its hash, as `lifeboat check` tells it"));
    }
    Ok(digits.to_owned())
}

/// Reads names of sources.
pub(crate) fn sources(names: &[String]) -> Result<Vec<SourceName>, Failure> {
    names.iter().map(|name| SourceName::new(name).map_err(|bad| Failure::usage(bad.to_string()))).collect()
}

/// A source, perhaps of one stack: `[STACK/]SOURCE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    stack: Option<StackName>,
    source: SourceName,
}

impl Group {
    /// Whether the configuration has this source.
    pub(crate) fn is_configured(&self, config: &StackConfig) -> bool {
        self.stack.as_ref().is_none_or(|stack| *stack == config.stack) && config.sources.contains_key(&self.source)
    }

    /// Whether the snapshot is of this source.
    pub(crate) fn holds(&self, snapshot: &SnapshotSummary) -> bool {
        snapshot.source.as_ref() == Some(&self.source) && (self.stack.is_none() || snapshot.stack == self.stack)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stack {
            Some(stack) => write!(f, "{stack}/{}", self.source),
            None => write!(f, "{}", self.source),
        }
    }
}

/// Reads `[STACK/]SOURCE`.
pub(crate) fn group(text: &str) -> Result<Group, Failure> {
    let (stack, source) = match text.split_once('/') {
        Some((stack, source)) => (Some(stack), source),
        None => (None, text),
    };
    let bad = |bad: lifeboat_model::id::BadName| Failure::usage(bad.to_string());
    Ok(Group {
        stack: stack.map(StackName::new).transpose().map_err(bad)?,
        source: SourceName::new(source).map_err(bad)?,
    })
}

/// Reads where a restore goes: `DIR|URL|origin`. A directory of the name `origin` is `./origin`.
pub(crate) fn to(text: &str) -> Result<To, Failure> {
    if text == "origin" {
        return Ok(To::Origin);
    }
    if text.contains("://") {
        if !SecretUrl::secret_ranges(text).is_empty() {
            return Err(Failure::usage("a password stands in the URL of --to, where every process can see it")
                .hint("use PGPASSWORD or PGPASSFILE"));
        }
        return Ok(To::Server(SecretUrl::new(text.to_owned())));
    }
    if text.is_empty() {
        return Err(Failure::usage("--to is empty"));
    }
    std::path::absolute(text).map(To::Dir).map_err(|error| Failure::of(crate::exit::Exit::Usage, &error))
}

/// Reads `OLD=NEW` pairs.
pub(crate) fn renames(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let mut renames = BTreeMap::new();
    for pair in pairs {
        let Some((old, new)) = pair.split_once('=').filter(|(old, new)| !old.is_empty() && !new.is_empty()) else {
            return Err(Failure::usage(format!("--rename {pair:?} is not OLD=NEW")));
        };
        if new.contains('=') {
            return Err(Failure::usage(format!("--rename {pair:?} is more than one OLD=NEW"))
                .hint("one pair each: --rename A=B --rename C=D"));
        }
        if renames.values().any(|taken| taken == new) || renames.insert(old.to_owned(), new.to_owned()).is_some() {
            return Err(Failure::usage(format!("--rename {pair:?} repeats a name")));
        }
    }
    Ok(renames)
}

/// Reads `5%` or `10m`.
pub(crate) fn budget(text: &str) -> Result<Budget, Failure> {
    let bad = || Failure::usage(format!("--budget {text:?} is no share and no time")).hint("write 5%, 10m or 2h");
    match text.strip_suffix('%') {
        Some(share) => {
            let share = share.parse().ok().filter(|share| *share <= 100 && !text.starts_with('+'));
            share.map(Budget::Percent).ok_or_else(bad)
        }
        None => length(text).map(Budget::Time).ok_or_else(bad),
    }
}

/// Reads `48h`, `30m`, `10s`, `2d`; at least one second.
pub(crate) fn grace(text: &str) -> Result<Duration, Failure> {
    length(text).ok_or_else(|| Failure::usage(format!("--grace {text:?} is not a time")).hint("write 48h, 30m or 10s"))
}

fn length(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(factor)?;
    Some(seconds).filter(|seconds| (1..=10 * 365 * 86_400).contains(seconds)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_colons_of_a_time_do_not_begin_a_path() {
        for (text, snapshot, path) in [
            ("documents", "documents", None),
            ("documents:", "documents", None),
            ("documents:/", "documents", None),
            ("documents:/srv/a:b", "documents", Some("srv/a:b")),
            ("far/documents@first:srv/", "far/documents@first", Some("srv")),
            ("documents@2026-02-05 03:00", "documents@2026-02-05 03:00", None),
            ("documents@2026-02-05 03:00:srv", "documents@2026-02-05 03:00", Some("srv")),
            ("documents@2026-02-05 03:00:07:srv", "documents@2026-02-05 03:00:07", Some("srv")),
            ("documents@2026-02-05T03:00:07.25+02:00:a@b", "documents@2026-02-05T03:00:07.25+02:00", Some("a@b")),
            ("documents@2026-02-05 03:00:07 +02:00:a", "documents@2026-02-05 03:00:07 +02:00", Some("a")),
            ("documents@2026-02-05T03:00Z:x", "documents@2026-02-05T03:00Z", Some("x")),
            ("documents@2026-02-05:x", "documents@2026-02-05", Some("x")),
            ("3f9a2c:events/toc.dat", "3f9a2c", Some("events/toc.dat")),
        ] {
            let got = part(text).expect(text);
            assert_eq!(got.snapshot.text, snapshot, "{text}");
            assert_eq!(got.path.map(|path| path.to_string()).as_deref(), path, "{text}");
        }
    }

    #[test]
    fn what_names_no_snapshot_is_wrong_usage() {
        for bad in ["", "@x", "a@", "a b", "a/b/c", ":srv", "documents:a/../b"] {
            assert_eq!(part(bad).expect_err(bad).exit, crate::exit::Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_destination_is_origin_a_url_or_a_directory() {
        assert_eq!(to("origin").expect("origin"), To::Origin);
        assert!(matches!(to("./origin"), Ok(To::Dir(dir)) if dir.is_absolute() && dir.ends_with("origin")));
        assert!(matches!(to("postgres://admin@h/"), Ok(To::Server(_))));
        let refused = to("postgres://admin:sesame@h/").expect_err("a password");
        assert!(!refused.to_string().contains("sesame"));
    }

    #[test]
    fn renames_are_pairs_and_do_not_repeat() {
        let pairs = |list: &[&str]| renames(&list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(pairs(&["a=b", "c=d"]).expect("pairs").len(), 2);
        for bad in [["a", "b=c"], ["=b", "c=d"], ["a=b", "a=c"], ["a=x", "b=x"], ["a=x,b=y", "c=d"]] {
            assert!(pairs(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_budget_is_a_share_or_a_time() {
        for (text, read) in [
            ("5%", Budget::Percent(5)),
            ("100%", Budget::Percent(100)),
            ("0%", Budget::Percent(0)),
            ("10m", Budget::Time(Duration::from_mins(10))),
        ] {
            assert_eq!(budget(text).expect(text), read);
        }
        for bad in ["", "%", "101%", "-1%", "+5%", "5", "5.5%", "m"] {
            assert_eq!(budget(bad).expect_err(bad).exit, crate::exit::Exit::Usage, "{bad}");
        }
    }

    #[test]
    fn a_grace_period_has_a_unit() {
        for (text, seconds) in [("48h", 172_800), ("30m", 1800), ("10s", 10), ("2d", 172_800)] {
            assert_eq!(grace(text).expect(text).as_secs(), seconds);
        }
        for bad in ["", "48", "h", "0s", "-1h", "1w", "99999999999999999999h"] {
            assert!(grace(bad).is_err(), "{bad}");
        }
    }
}
