//! How hard tests try.

use std::ops::Range;

/// Times as many where `LIFEBOAT_LONG` is set.
const LONG: u64 = 25;

#[expect(clippy::disallowed_methods, reason = "a test is told by its environment what to run")]
fn asked() -> (Option<String>, bool) {
    (std::env::var("LIFEBOAT_SEEDS").ok(), std::env::var_os("LIFEBOAT_LONG").is_some())
}

/// The seeds that a test with random steps goes through: `usual` of them, the same ones each time;
/// 25 times as many where `LIFEBOAT_LONG` is set. `LIFEBOAT_SEEDS` names them instead: `7` or `100..900`.
///
/// # Panics
/// Where the variable holds something else.
#[must_use]
pub fn seeds(usual: u64) -> Range<u64> {
    let (named, long) = asked();
    match named {
        None => 0..if long { usual * LONG } else { usual },
        Some(named) => {
            read(&named).unwrap_or_else(|| panic!("LIFEBOAT_SEEDS is {named:?}: name them as 7 or 100..900"))
        }
    }
}

/// Whether a test that goes through many cases by their numbers tries this one: usually each `usual`-th, with
/// others for each `shift`, and the same ones each time; all where `LIFEBOAT_LONG` is set. `LIFEBOAT_SEEDS` names
/// them instead.
///
/// # Panics
/// As [`seeds`].
#[must_use]
pub fn is_tried(number: u64, shift: u64, usual: u64) -> bool {
    let (named, long) = asked();
    if named.is_some() { seeds(0).contains(&number) } else { long || (number + shift).is_multiple_of(usual) }
}

fn read(named: &str) -> Option<Range<u64>> {
    match named.split_once("..") {
        Some((first, end)) => Some(first.parse().ok()?..end.parse().ok()?),
        None => named.parse().ok().map(|one| one..one + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_named_one_by_one_or_as_a_range() {
        assert_eq!(read("7"), Some(7..8));
        assert_eq!(read("100..900"), Some(100..900));
        assert_eq!((read("many"), read("1..")), (None, None));
    }
}
