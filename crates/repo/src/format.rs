//! The object `format`: which repository this is and what a program must know to use it.
//! `docs/format.md`, section "format, roster, keyring".

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_store::Key;

use crate::cbor::{Build, Parse, required};
use crate::crypt::{SignKey, VerifyKey};
use crate::object::{self, ObjectError, ObjectType, RepositoryId};

/// What `format` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The repository's id.
    pub repository: RepositoryId,
    /// When it was made, by the owner's clock.
    pub created: Timestamp,
    /// Features without which nobody may use it.
    pub incompatible: Vec<String>,
    /// Features without which nobody may write to it.
    pub read_only_compatible: Vec<String>,
    /// Features that need not be known.
    pub compatible: Vec<String>,
}

/// Features of [`Format::incompatible`] that this program knows.
const KNOWN_INCOMPATIBLE: &[&str] = &[];
/// Features of [`Format::read_only_compatible`] that this program knows.
const KNOWN_READ_ONLY_COMPATIBLE: &[&str] = &[];

impl Format {
    /// Its name in every store.
    ///
    /// # Panics
    /// Never: the name is a key.
    #[must_use]
    pub fn key() -> Key {
        Key::new("format").expect("a word is a key")
    }

    /// The format of a new repository.
    #[must_use]
    pub fn new(repository: RepositoryId, created: Timestamp) -> Self {
        Self { repository, created, incompatible: vec![], read_only_compatible: vec![], compatible: vec![] }
    }

    /// The object, signed by the root.
    #[must_use]
    pub fn sign(&self, root: &SignKey) -> Bytes {
        let body = Build::record(|map| {
            map.field(0).bytes(self.repository.0);
            map.field(1).time(self.created);
            for (key, features) in [(2, &self.incompatible), (3, &self.read_only_compatible), (4, &self.compatible)] {
                map.field(key).list(features.iter(), |out, feature| out.text(feature));
            }
        });
        object::sign(self.repository, ObjectType::Format, &body, root)
    }

    /// Reads the object and tells who signed it. It is valid only where that is the root.
    ///
    /// # Errors
    /// [`ObjectError`] for damaged bytes or a newer version.
    pub fn open(bytes: &[u8]) -> Result<(VerifyKey, Self), ObjectError> {
        let rest = object::open_header(ObjectType::Format, bytes)?;
        let body = rest
            .len()
            .checked_sub(object::SIGNATURE_BYTES)
            .ok_or_else(|| ObjectError::malformed("shorter than a signature"))?;
        // The signature covers the repository's id, which only the body tells.
        let format = Self::decode(&rest[..body])?;
        let (signer, _) = object::verify(format.repository, ObjectType::Format, bytes)?;
        Ok((signer, format))
    }

    /// The first feature that this program would have to know, to read or also to write.
    #[must_use]
    pub fn unknown_feature(&self, writes: bool) -> Option<(&str, ToRead)> {
        unknown_feature(&self.incompatible, &self.read_only_compatible, writes)
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let (mut repository, mut created) = (None, None);
        let mut features = [const { Vec::new() }; 3];
        Parse::whole(body, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => repository = Some(RepositoryId(value.fixed()?)),
                    1 => created = Some(value.time()?),
                    2 => features[0] = self::features(value)?,
                    3 => features[1] = self::features(value)?,
                    4 => features[2] = self::features(value)?,
                    _ => value.skip()?,
                }
                Ok(())
            })
        })?;
        let [incompatible, read_only_compatible, compatible] = features;
        Ok(Self {
            repository: required(repository, "repository id")?,
            created: required(created, "creation time")?,
            incompatible,
            read_only_compatible,
            compatible,
        })
    }
}

/// Reads a list of features.
pub(crate) fn features(parse: &mut Parse<'_>) -> Result<Vec<String>, ObjectError> {
    parse.list(|text| text.text().map(str::to_owned))
}

/// The first feature that this program would have to know, to read or also to write.
pub(crate) fn unknown_feature<'f>(
    incompatible: &'f [String],
    read_only_compatible: &'f [String],
    writes: bool,
) -> Option<(&'f str, ToRead)> {
    let unknown = |features: &'f [String], known: &[&str]| {
        features.iter().map(String::as_str).find(|feature| !known.contains(feature))
    };
    let to_read = unknown(incompatible, KNOWN_INCOMPATIBLE).map(|feature| (feature, ToRead::Needed));
    let to_write = || unknown(read_only_compatible, KNOWN_READ_ONLY_COMPATIBLE).map(|f| (f, ToRead::NotNeeded));
    to_read.or_else(|| if writes { to_write() } else { None })
}

/// Whether a feature must be known to read, or to write only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToRead {
    /// Nobody may use the repository without it.
    Needed,
    /// Readers may go without.
    NotNeeded,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format() -> Format {
        Format::new(RepositoryId([7; 16]), "2026-11-21T03:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn format_comes_back_as_it_was_signed_and_not_with_any_byte_changed() {
        let root = SignKey::random();
        let bytes = format().sign(&root);
        assert_eq!(Format::open(&bytes), Ok((root.verify_key(), format())));
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(Format::open(&flipped).is_err(), "byte {at}");
            assert!(Format::open(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn unknown_features_are_named_by_what_they_forbid() {
        let mut format = format();
        format.compatible = vec!["sparkles".into()];
        assert_eq!(format.unknown_feature(true), None);
        format.read_only_compatible = vec!["bloom".into()];
        assert_eq!(format.unknown_feature(false), None);
        assert_eq!(format.unknown_feature(true), Some(("bloom", ToRead::NotNeeded)));
        format.incompatible = vec!["tape".into()];
        assert_eq!(format.unknown_feature(false), Some(("tape", ToRead::Needed)));
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Format::decode(&bytes);
        }
    }
}
