//! What a host remembers of a repository between runs, so that it notices when a store shows less.

use bytes::Bytes;
use lifeboat_model::{Digest, ObjectHash};
use serde::{Deserialize, Serialize};

use crate::crypt::VerifyKey;
use crate::format::Format;
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
    /// Roots that are gone and of which a person said so: nothing more is told of them.
    #[serde(default)]
    pub accepted: Vec<AcceptedLoss>,
    /// The bytes of the object `format` in hexadecimal digits, to put it back should it be lost.
    #[serde(default)]
    pub format: Option<String>,
}

/// A root whose loss a person accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedLoss {
    /// The root object.
    #[serde(with = "text")]
    pub root: ObjectHash,
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
    /// What is known of a repository that shows this roster, after what was known before.
    #[must_use]
    pub fn next(before: Option<&Self>, repository: RepositoryId, roster: &Roster) -> Self {
        Self {
            repository,
            roster: roster.number,
            roster_hash: roster.hash,
            heads: before.map(|before| before.heads.clone()).unwrap_or_default(),
            accepted: before.map(|before| before.accepted.clone()).unwrap_or_default(),
            format: before.and_then(|before| before.format.clone()),
        }
    }

    /// Takes note that a root is gone for good.
    pub fn accept(&mut self, root: ObjectHash) {
        if !self.accepted.iter().any(|accepted| accepted.root == root) {
            self.accepted.push(AcceptedLoss { root });
        }
    }

    /// The object `format`, where it is remembered and is this repository's.
    #[must_use]
    pub fn format(&self, root: VerifyKey) -> Option<Bytes> {
        let bytes = Bytes::from(hex::decode(self.format.as_ref()?).ok()?);
        let (signer, format) = Format::open(&bytes).ok()?;
        (signer == root && format.repository == self.repository).then_some(bytes)
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
            accepted: vec![AcceptedLoss { root: ObjectHash::from([6; 32]) }],
            format: Some("07".to_owned()),
        };
        let json = serde_json::to_string(&remembered).expect("json");
        assert_eq!(serde_json::from_str::<Remembered>(&json).expect("read"), remembered);
        assert!(serde_json::from_str::<Remembered>(&json.replace("0303", "03")).is_err());
    }
}
