//! The path of an entry inside a snapshot.

use std::cmp::Ordering;
use std::fmt;

/// A relative path of raw bytes: one or more components joined by `/`, none of them empty, `.` or
/// `..`, none holding NUL. It can never lead out of the directory under which it is restored.
///
/// Paths order by component, so that a directory comes right before what it holds: `a`, `a/b`,
/// `a-b`. This is the order of entries in a manifest.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EntryPath(Box<[u8]>);

/// A byte string that is no entry path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{:?} is not an entry path: {why}", String::from_utf8_lossy(path))]
pub struct BadPath {
    /// What was given.
    pub path: Vec<u8>,
    /// Which rule it breaks.
    pub why: &'static str,
}

/// The longest path in bytes: that of Linux (`PATH_MAX`) is 4,096; object keys of S3 end at 1,024.
pub const PATH_BYTES_MAX: usize = 8192;

impl EntryPath {
    /// Checks `bytes` and makes a path of them.
    ///
    /// # Errors
    /// [`BadPath`] names the rule that is broken.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, BadPath> {
        let path: Vec<u8> = bytes.into();
        let why = if path.is_empty() {
            Some("it is empty")
        } else if path.len() > PATH_BYTES_MAX {
            Some("it is longer than 8192 bytes")
        } else if path.contains(&0) {
            Some("it holds a NUL byte")
        } else {
            path.split(|b| *b == b'/').find_map(|part| match part {
                b"" => Some("it has an empty component"),
                b"." | b".." => Some("it has a component . or .."),
                _ => None,
            })
        };
        match why {
            None => Ok(Self(path.into_boxed_slice())),
            Some(why) => Err(BadPath { path, why }),
        }
    }

    /// The path below this one that ends in the component `name`.
    ///
    /// # Errors
    /// [`BadPath`] where `name` is no component.
    pub fn join(&self, name: &[u8]) -> Result<Self, BadPath> {
        let mut bytes = self.0.to_vec();
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self::new(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The components, first to last.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/')
    }

    /// The last component.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.components().last().unwrap_or(&self.0)
    }

    /// Whether this is `other` or lies below it.
    #[must_use]
    pub fn is_within(&self, other: &Self) -> bool {
        self.0.strip_prefix(other.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // '/' sorts below every other byte that a path can hold.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_could_leave_its_directory_is_refused() {
        for bad in ["", "/etc", "a//b", "a/", ".", "..", "a/../b", "a/./b", "a\0b"] {
            assert!(EntryPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(EntryPath::new(b"caf\xe9/..x".to_vec()).is_ok());
    }

    #[test]
    fn a_directory_comes_right_before_what_it_holds() {
        let path = |p: &str| EntryPath::new(p).expect("a good path");
        let mut paths = [path("a-b"), path("a/b"), path("a"), path("a/b/c"), path("a!")];
        paths.sort();
        let texts: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["a", "a/b", "a/b/c", "a!", "a-b"]);
        assert!(path("a/b").is_within(&path("a")));
        assert!(!path("a-b").is_within(&path("a")));
    }
}
