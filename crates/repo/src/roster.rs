//! The signed list of who may do what. `docs/format.md`, section "format, roster, keyring".

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_store::Key;

use crate::cbor::{Build, Parse, required};
use crate::crypt::{SealPublic, SignKey, VerifyKey};
use crate::format::{self, ToRead};
use crate::object::{self, DomainId, ObjectError, ObjectType, RepositoryId};

/// Who may do what, as the root signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// Counts up by one from 1.
    pub number: u32,
    /// Hash of this roster's object.
    pub hash: ObjectHash,
    /// Hash of the roster before.
    pub previous: Option<ObjectHash>,
    /// When it was signed, by the owner's clock.
    pub time: Timestamp,
    /// G: how long a prune waits and a run may be silent, in seconds.
    pub grace_seconds: u64,
    /// Number and public key of the epoch that new content is sealed to.
    pub epoch: (u32, SealPublic),
    /// Number and public key that new references are sealed to.
    pub maintenance: (u32, SealPublic),
    /// Who may add snapshots.
    pub writers: Vec<RosterWriter>,
    /// Who may forget and prune.
    pub maintainers: Vec<RosterKey>,
    /// Who may read.
    pub identities: Vec<RosterKey>,
    /// Who may no longer add snapshots, with what they had added until then.
    pub removed: Vec<RemovedWriter>,
    /// The keyring object that belongs to it.
    pub keyring: ObjectHash,
    /// Maintainers and identities that were taken off it.
    pub retired: Vec<RetiredKey>,
    /// Features without which nobody may use the repository, beside those that `format` names.
    pub incompatible: Vec<String>,
    /// Features without which nobody may write to it.
    pub read_only_compatible: Vec<String>,
}

/// A writer on the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterWriter {
    /// Checks its signatures.
    pub verify: VerifyKey,
    /// Its domain.
    pub domain: DomainId,
    /// Tags of the stacks and sources that it may write.
    pub allowed: Vec<Digest>,
    /// Since when.
    pub added: Timestamp,
}

impl RosterWriter {
    /// Whether it may add snapshots of the source with these tags, made under its domain's key.
    #[must_use]
    pub fn allows(&self, stack: Digest, source: Digest) -> bool {
        self.allowed.contains(&stack) || self.allowed.contains(&source)
    }
}

/// A maintainer or an identity on the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterKey {
    /// Checks its signatures.
    pub verify: VerifyKey,
    /// Its part of the keyring is sealed to this.
    pub seal: SealPublic,
}

/// A maintainer or identity that was taken off the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredKey {
    /// Checked its signatures. What an identity vouched for stands: nobody else could tell again how old
    /// a copy is.
    pub verify: VerifyKey,
    /// Since when it is off, by the owner's clock.
    pub removed: Timestamp,
    /// What it had signed by then (indexes, forgets, holds, marks and the like), in ascending order; anything
    /// else by it is refused.
    pub words: Vec<ObjectHash>,
}

/// A writer that was taken off the roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedWriter {
    /// Checked its signatures.
    pub verify: VerifyKey,
    /// Its domain.
    pub domain: DomainId,
    /// Its root objects when it was removed; others are refused. All of them, since a prune may take
    /// any out of the chain later.
    pub roots: Vec<ObjectHash>,
}

/// The name of a numbered object: `roster/00000001-<hash>`.
pub(crate) fn numbered_key(prefix: &str, number: u32, hash: ObjectHash) -> Key {
    Key::new(format!("{prefix}{number:08}-{hash}")).expect("a prefix, digits and hex digits are a key")
}

/// Number and hash out of the name of a numbered object; `None` for what only looks like one.
pub(crate) fn parse_numbered_key(prefix: &str, key: &Key) -> Option<(u32, ObjectHash)> {
    let (number, hash) = key.as_str().strip_prefix(prefix)?.split_once('-')?;
    let (number, hash) = (number.parse().ok()?, ObjectHash::from_hex(hash).ok()?);
    (numbered_key(prefix, number, hash) == *key).then_some((number, hash))
}

impl Roster {
    /// Its object, signed by the root; the returned roster knows the object's hash.
    #[must_use]
    pub fn sign(mut self, repository: RepositoryId, root: &SignKey) -> (Self, Bytes) {
        let object = object::sign(repository, ObjectType::Roster, &self.encode(), root);
        self.hash = ObjectHash(Digest::of(&object));
        (self, object)
    }

    /// Reads a roster's object and tells who signed it. It is valid only where that is the root.
    ///
    /// # Errors
    /// [`ObjectError`] for damaged bytes.
    pub fn open(repository: RepositoryId, bytes: &[u8]) -> Result<(VerifyKey, Self), ObjectError> {
        let (signer, body) = object::verify(repository, ObjectType::Roster, bytes)?;
        Ok((signer, Self::decode(body, ObjectHash(Digest::of(bytes)))?))
    }

    /// Its name in the store.
    #[must_use]
    pub fn key(&self) -> Key {
        numbered_key(ObjectType::Roster.prefix(), self.number, self.hash)
    }

    /// Whether this is what a maintainer or identity signed before it was removed.
    #[must_use]
    pub fn is_word_of_retired(&self, signer: &VerifyKey, hash: &ObjectHash) -> bool {
        self.retired.iter().any(|key| key.verify == *signer && key.words.binary_search(hash).is_ok())
    }

    /// The name of its keyring, or of the second copy.
    #[must_use]
    pub fn keyring_key(&self, copy: KeyringCopy) -> Key {
        numbered_key(copy.prefix(), self.number, self.keyring)
    }

    /// The writer of this key, if it is on the roster.
    #[must_use]
    pub fn writer(&self, verify: VerifyKey) -> Option<&RosterWriter> {
        self.writers.iter().find(|w| w.verify == verify)
    }

    /// The first of its features that this program would have to know, to read or also to write.
    #[must_use]
    pub fn unknown_feature(&self, writes: bool) -> Option<(&str, ToRead)> {
        format::unknown_feature(&self.incompatible, &self.read_only_compatible, writes)
    }

    fn encode(&self) -> Vec<u8> {
        let generation = |out: &mut Build, (number, public): &(u32, SealPublic)| {
            out.array(2).uint(*number).bytes(&public.0[..]);
        };
        Build::record(|map| {
            map.field(0).uint(self.number);
            map.some(1, self.previous, |out, hash| out.bytes(hash.bytes()));
            map.field(2).time(self.time);
            map.field(3).uint(self.grace_seconds);
            generation(map.field(4), &self.epoch);
            generation(map.field(5), &self.maintenance);
            map.field(6).list(self.writers.iter(), |out, writer| {
                out.map(|map| {
                    map.field(0).bytes(writer.verify.0);
                    map.field(1).bytes(writer.domain.0);
                    map.field(2).list(writer.allowed.iter(), |out, tag| out.bytes(tag.0));
                    map.field(3).time(writer.added);
                })
            });
            map.field(7).list(self.maintainers.iter(), put_key);
            map.field(8).list(self.identities.iter(), put_key);
            map.field(9).list(self.removed.iter(), |out, writer| {
                out.map(|map| {
                    map.field(0).bytes(writer.verify.0);
                    map.field(1).bytes(writer.domain.0);
                    map.field(2).list(writer.roots.iter(), |out, root| out.bytes(root.bytes()));
                })
            });
            map.field(10).bytes(self.keyring.bytes());
            map.some(11, Some(&self.retired).filter(|retired| !retired.is_empty()), |out, retired| {
                out.list(retired.iter(), |out, key| {
                    out.map(|map| {
                        map.field(0).bytes(key.verify.0);
                        map.field(1).time(key.removed);
                        let words = Some(&key.words).filter(|words| !words.is_empty());
                        map.some(2, words, |out, words| out.list(words.iter(), |out, word| out.bytes(word.bytes())));
                    })
                })
            });
            for (key, features) in [(12, &self.incompatible), (13, &self.read_only_compatible)] {
                let some = Some(features).filter(|features| !features.is_empty());
                map.some(key, some, |out, features| out.list(features.iter(), |out, feature| out.text(feature)));
            }
        })
    }

    fn decode(body: &[u8], hash: ObjectHash) -> Result<Self, ObjectError> {
        let mut fields = Parts::default();
        Parse::whole(body, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => fields.number = Some(value.u32()?),
                    1 => fields.previous = Some(value.fixed()?.into()),
                    2 => fields.time = Some(value.time()?),
                    3 => fields.grace_seconds = Some(value.u64()?),
                    4 => fields.epoch = Some(read_generation(value)?),
                    5 => fields.maintenance = Some(read_generation(value)?),
                    6 => fields.writers = value.list(read_writer)?,
                    7 => fields.maintainers = value.list(read_key)?,
                    8 => fields.identities = value.list(read_key)?,
                    9 => fields.removed = value.list(read_removed)?,
                    10 => fields.keyring = Some(value.fixed()?.into()),
                    11 => fields.retired = value.list(read_retired)?,
                    12 => fields.incompatible = format::features(value)?,
                    13 => fields.read_only_compatible = format::features(value)?,
                    _ => value.skip()?,
                }
                Ok(())
            })
        })?;
        Ok(Self {
            number: required(fields.number, "number")?,
            hash,
            previous: fields.previous,
            time: required(fields.time, "time")?,
            grace_seconds: required(fields.grace_seconds, "grace")?,
            epoch: required(fields.epoch, "epoch")?,
            maintenance: required(fields.maintenance, "maintenance")?,
            writers: fields.writers,
            maintainers: fields.maintainers,
            identities: fields.identities,
            removed: fields.removed,
            keyring: required(fields.keyring, "keyring")?,
            retired: fields.retired,
            incompatible: fields.incompatible,
            read_only_compatible: fields.read_only_compatible,
        })
    }
}

/// Which of the two equal copies of a keyring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyringCopy {
    /// `keyring/`.
    First,
    /// `keyring2/`.
    Second,
}

impl KeyringCopy {
    /// Both, in the order in which they are tried.
    pub const ALL: [Self; 2] = [Self::First, Self::Second];

    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::First => "keyring/",
            Self::Second => "keyring2/",
        }
    }
}

#[derive(Default)]
struct Parts {
    number: Option<u32>,
    previous: Option<ObjectHash>,
    time: Option<Timestamp>,
    grace_seconds: Option<u64>,
    epoch: Option<(u32, SealPublic)>,
    maintenance: Option<(u32, SealPublic)>,
    writers: Vec<RosterWriter>,
    maintainers: Vec<RosterKey>,
    identities: Vec<RosterKey>,
    removed: Vec<RemovedWriter>,
    keyring: Option<ObjectHash>,
    retired: Vec<RetiredKey>,
    incompatible: Vec<String>,
    read_only_compatible: Vec<String>,
}

fn put_key<'x>(out: &'x mut Build, key: &RosterKey) -> &'x mut Build {
    out.map(|map| {
        map.field(0).bytes(key.verify.0);
        map.field(1).bytes(&key.seal.0[..]);
    })
}

fn read_generation(parse: &mut Parse<'_>) -> Result<(u32, SealPublic), ObjectError> {
    parse.tuple(2)?;
    Ok((parse.u32()?, SealPublic::from_slice(parse.bytes()?)?))
}

fn read_key(parse: &mut Parse<'_>) -> Result<RosterKey, ObjectError> {
    let (mut verify, mut seal) = (None, None);
    parse.map(|key, value| {
        match key {
            0 => verify = Some(VerifyKey(value.fixed()?)),
            1 => seal = Some(SealPublic::from_slice(value.bytes()?)?),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(RosterKey { verify: required(verify, "verify key")?, seal: required(seal, "X-Wing key")? })
}

fn read_writer(parse: &mut Parse<'_>) -> Result<RosterWriter, ObjectError> {
    let (mut verify, mut domain, mut allowed, mut added) = (None, None, Vec::new(), None);
    parse.map(|key, value| {
        match key {
            0 => verify = Some(VerifyKey(value.fixed()?)),
            1 => domain = Some(DomainId(value.fixed()?)),
            2 => allowed = value.list(|tag| tag.fixed().map(Digest))?,
            3 => added = Some(value.time()?),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(RosterWriter {
        verify: required(verify, "verify key")?,
        domain: required(domain, "domain")?,
        allowed,
        added: required(added, "time added")?,
    })
}

fn read_retired(parse: &mut Parse<'_>) -> Result<RetiredKey, ObjectError> {
    let (mut verify, mut removed, mut words) = (None, None, Vec::new());
    parse.map(|key, value| {
        match key {
            0 => verify = Some(VerifyKey(value.fixed()?)),
            1 => removed = Some(value.time()?),
            2 => words = value.list(|word| word.fixed().map(ObjectHash::from))?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    if !words.is_sorted() {
        return Err(ObjectError::malformed("words of a removed key that do not ascend"));
    }
    Ok(RetiredKey { verify: required(verify, "verify key")?, removed: required(removed, "time removed")?, words })
}

fn read_removed(parse: &mut Parse<'_>) -> Result<RemovedWriter, ObjectError> {
    let (mut verify, mut domain, mut roots) = (None, None, Vec::new());
    parse.map(|key, value| {
        match key {
            0 => verify = Some(VerifyKey(value.fixed()?)),
            1 => domain = Some(DomainId(value.fixed()?)),
            2 => roots = value.list(|root| root.fixed().map(ObjectHash::from))?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(RemovedWriter { verify: required(verify, "verify key")?, domain: required(domain, "domain")?, roots })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypt::{SealSecret, Secret};

    const REPOSITORY: RepositoryId = RepositoryId([3; 16]);

    fn public() -> SealPublic {
        SealSecret(Secret([5; 32])).public()
    }

    pub(crate) fn roster() -> Roster {
        let verify = |n| VerifyKey([n; 32]);
        Roster {
            number: 3,
            hash: ObjectHash::from([0; 32]),
            previous: Some(ObjectHash::from([2; 32])),
            time: "2026-11-21T03:00:00.5Z".parse().expect("a time"),
            grace_seconds: 172_800,
            epoch: (1, public()),
            maintenance: (2, public()),
            writers: vec![RosterWriter {
                verify: verify(1),
                domain: DomainId([1; 16]),
                allowed: vec![Digest([8; 32])],
                added: "1969-12-31T23:59:59.25Z".parse().expect("a time"),
            }],
            maintainers: vec![RosterKey { verify: verify(2), seal: public() }],
            identities: vec![RosterKey { verify: verify(3), seal: public() }],
            removed: vec![RemovedWriter {
                verify: verify(4),
                domain: DomainId([4; 16]),
                roots: vec![ObjectHash::from([6; 32])],
            }],
            keyring: ObjectHash::from([9; 32]),
            retired: vec![RetiredKey {
                verify: verify(5),
                removed: "2026-11-21T03:00:00Z".parse().expect("a time"),
                words: vec![ObjectHash::from([1; 32]), ObjectHash::from([2; 32])],
            }],
            incompatible: vec!["tape".into()],
            read_only_compatible: vec!["bloom".into(), "tides".into()],
        }
    }

    #[test]
    fn a_roster_comes_back_as_it_was_signed() {
        let root = SignKey::random();
        let (signed, bytes) = roster().sign(REPOSITORY, &root);
        assert_eq!(Roster::open(REPOSITORY, &bytes), Ok((root.verify_key(), signed.clone())));
        assert_eq!(
            parse_numbered_key("roster/", &signed.key()),
            Some((3, ObjectHash(Digest::of(&bytes)))),
            "its name tells number and hash"
        );
    }

    #[test]
    fn a_roster_with_any_bit_flipped_or_cut_anywhere_is_refused() {
        let (_, bytes) = roster().sign(REPOSITORY, &SignKey::random());
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(Roster::open(REPOSITORY, &flipped).is_err(), "byte {at}");
            assert!(Roster::open(REPOSITORY, &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn names_that_only_look_like_a_roster_are_none() {
        let hash = ObjectHash::from([7; 32]);
        let key = |text: String| Key::new(text).expect("a key");
        assert_eq!(parse_numbered_key("roster/", &key(format!("roster/00000012-{hash}"))), Some((12, hash)));
        for text in [format!("roster/12-{hash}"), format!("roster/0000001a-{hash}"), "roster/00000012-aa".into()] {
            assert_eq!(parse_numbered_key("roster/", &key(text.clone())), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Roster::decode(&bytes, ObjectHash::from([0; 32]));
        }

        #[test]
        fn no_change_of_a_body_makes_the_decoder_panic(at in 0usize..4000, to in any::<u8>()) {
            let mut body = roster().encode();
            let at = at % body.len();
            body[at] = to;
            let _ = Roster::decode(&body, ObjectHash::from([0; 32]));
        }
    }
}
