//! Names and identifiers.

use std::fmt;

use serde::{Serialize, Serializer};

/// 32 bytes of a BLAKE3 hash, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The unkeyed BLAKE3 hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`BadId`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, BadId> {
        let mut out = [0; 32];
        hex::decode_to_slice(text, &mut out).map_err(|_| BadId(text.to_owned()))?;
        Ok(Self(out))
    }

    /// 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The first eight hexadecimal digits, for people.
    #[must_use]
    pub fn short(self) -> String {
        hex::encode(&self.0[..4])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// A text that is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id of 64 hexadecimal digits")]
pub struct BadId(pub String);

macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Digest);

        impl $name {
            /// The 32 bytes.
            #[must_use]
            pub const fn bytes(&self) -> &[u8; 32] {
                &self.0.0
            }

            /// Reads 64 hexadecimal digits.
            ///
            /// # Errors
            /// [`BadId`] for anything else.
            pub fn from_hex(text: &str) -> Result<Self, BadId> {
                Digest::from_hex(text).map(Self)
            }

            /// The first eight hexadecimal digits, for people.
            #[must_use]
            pub fn short(self) -> String {
                self.0.short()
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(Digest(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.0)
            }
        }
    };
}

digest_newtype!(
    /// The keyed BLAKE3 hash of a chunk's plain bytes.
    ChunkId
);
digest_newtype!(
    /// The BLAKE3 hash of an object's stored bytes, which is its name in the store.
    ObjectHash
);
digest_newtype!(
    /// The hash of a snapshot's root object.
    SnapshotId
);

/// Why a name of a stack or a source was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to 63 letters, digits, '-', '_' or '.', starting with a letter or digit")]
pub struct BadName(pub String);

fn checked_name(text: &str) -> Result<String, BadName> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let all = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if first && all && text.len() <= 63 { Ok(text.to_owned()) } else { Err(BadName(text.to_owned())) }
}

macro_rules! name_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and makes a name of it.
            ///
            /// # Errors
            /// [`BadName`] where `text` is not 1 to 63 letters, digits, `-`, `_` or `.` after a
            /// leading letter or digit.
            pub fn new(text: &str) -> Result<Self, BadName> {
                checked_name(text).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name_newtype!(
    /// The name of a stack: sources that are restored together.
    StackName
);
name_newtype!(
    /// The name of one source of a stack.
    SourceName
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_reads_what_it_writes() {
        let digest = Digest::of(b"lifeboat");
        assert_eq!(Digest::from_hex(&digest.to_hex()), Ok(digest));
        assert!(Digest::from_hex("12").is_err());
    }

    #[test]
    fn names_with_slashes_or_nothing_are_refused() {
        for bad in ["", "a/b", "-a", ".a", "a b", &"x".repeat(64)] {
            assert!(StackName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["farajaland", "a", "registry-2", "v1.9", "9"] {
            assert!(SourceName::new(good).is_ok(), "{good:?}");
        }
    }
}
