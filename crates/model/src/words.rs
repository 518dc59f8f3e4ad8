//! How numbers of things are said.

/// `1 snapshot`, `2 snapshots`, `3 entries`: for nouns that take an s.
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    match noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u'])) {
        _ if count == 1 => format!("1 {noun}"),
        Some(stem) => format!("{count} {stem}ies"),
        None => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_things() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "thing")), ["0 things", "1 thing", "2 things"]);
        assert_eq!([counted(2, "entry"), counted(1, "entry"), counted(2, "key")], ["2 entries", "1 entry", "2 keys"]);
    }
}
