//! What a host remembers of a repository between runs, so that it notices when a store shows less.

use lifeboat_model::{Digest, ObjectHash};
use serde::{Deserialize, Serialize};

use crate::crypt::VerifyKey;
use crate::object::RepositoryId;
use crate::roster::Roster;

/// The newest that was seen of a repository. Kept by the caller, as JSON or in the catalog.
/// Losing it loses the power to notice a store that was set back, nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Which repository.
    #[serde(with = "text")]
    pub repository: RepositoryId,
    /// The newest roster's number.
    pub roster: u32,
    /// Its hash.
    #[serde(with = "text")]
    pub roster_hash: ObjectHash,
    /// The newest root of every chain.
    #[serde(default)]
    pub heads: Vec<RememberedHead>,
}

/// The newest root that was seen of one writer and source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedHead {
    /// Who signed it.
    #[serde(with = "text")]
    pub writer: VerifyKey,
    /// The source's tag.
    #[serde(with = "text")]
    pub source: Digest,
    /// Its place in the chain.
    pub sequence: u64,
    /// The root object.
    #[serde(with = "text")]
    pub root: ObjectHash,
}

impl Remembered {
    /// What is known of a repository at first sight.
    #[must_use]
    pub fn first(repository: RepositoryId, roster: &Roster) -> Self {
        Self { repository, roster: roster.number, roster_hash: roster.hash, heads: Vec::new() }
    }

    /// Whether `roster` is as new as the remembered one, or newer. Of two with one number the one
    /// with the lower hash holds, so it counts as the newer.
    #[must_use]
    pub fn allows(&self, roster: &Roster) -> bool {
        roster.number > self.roster || (roster.number == self.roster && roster.hash <= self.roster_hash)
    }
}

/// 32 or 16 bytes as hexadecimal digits.
mod text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Digest, ObjectHash, RepositoryId, VerifyKey};

    pub(super) trait Hex: Sized {
        fn bytes(&self) -> &[u8];
        fn from_bytes(bytes: &[u8]) -> Option<Self>;
    }

    macro_rules! hex_text {
        ($type:ty, |$this:ident| $bytes:expr, |$array:ident| $make:expr) => {
            impl Hex for $type {
                fn bytes(&self) -> &[u8] {
                    let $this = self;
                    &$bytes[..]
                }
                fn from_bytes(bytes: &[u8]) -> Option<Self> {
                    let $array = bytes.try_into().ok()?;
                    Some($make)
                }
            }
        };
    }

    hex_text!(RepositoryId, |id| id.0, |array| Self(array));
    hex_text!(VerifyKey, |key| key.0, |array| Self(array));
    hex_text!(Digest, |digest| digest.0, |array| Self(array));
    hex_text!(ObjectHash, |hash| hash.0.0, |array| Self(Digest(array)));

    pub(super) fn serialize<T: Hex, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(value.bytes()))
    }

    pub(super) fn deserialize<'de, T: Hex, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(&text)
            .ok()
            .and_then(|bytes| T::from_bytes(&bytes))
            .ok_or_else(|| D::Error::custom("not hexadecimal digits of the right length"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_comes_back_from_its_json() {
        let remembered = Remembered {
            repository: RepositoryId([1; 16]),
            roster: 3,
            roster_hash: ObjectHash::from([2; 32]),
            heads: vec![RememberedHead {
                writer: VerifyKey([3; 32]),
                source: Digest([4; 32]),
                sequence: 9,
                root: ObjectHash::from([5; 32]),
            }],
        };
        let json = serde_json::to_string(&remembered).expect("json");
        assert_eq!(serde_json::from_str::<Remembered>(&json).expect("read"), remembered);
        assert!(serde_json::from_str::<Remembered>(&json.replace("0303", "03")).is_err());
    }
}
