//! The sealed secrets of a repository. `docs/format.md`, section "format, roster, keyring".

use std::collections::BTreeMap;

use bytes::Bytes;
use lifeboat_model::{Digest, ObjectHash};
use zeroize::Zeroizing;

use crate::cbor::{Build, Parse, required};
use crate::crypt::{CryptError, SealSecret, Secret, SignKey, VerifyKey};
use crate::object::{self, DomainId, ObjectError, ObjectType, RepositoryId};
use crate::roster::RosterKey;

/// Everything that identities have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositorySecrets {
    /// Secrets of the epochs; they open content.
    pub epochs: BTreeMap<u32, SealSecret>,
    /// Secrets of the maintenance keys; they open references.
    pub maintenance: BTreeMap<u32, SealSecret>,
    /// D of every domain.
    pub domains: BTreeMap<DomainId, Secret>,
}

impl RepositorySecrets {
    /// The part that maintainers have.
    #[must_use]
    pub fn for_maintainers(&self) -> MaintainerSecrets {
        MaintainerSecrets {
            maintenance: self.maintenance.clone(),
            index_keys: self
                .domains
                .iter()
                .map(|(domain, secret)| (*domain, secret.derive("lifeboat v1 index key", &[])))
                .collect(),
        }
    }

    /// Adds what `other` has and this has not.
    pub fn merge(&mut self, other: &Self) {
        for (number, secret) in &other.epochs {
            self.epochs.entry(*number).or_insert_with(|| secret.clone());
        }
        for (number, secret) in &other.maintenance {
            self.maintenance.entry(*number).or_insert_with(|| secret.clone());
        }
        for (domain, secret) in &other.domains {
            self.domains.entry(*domain).or_insert_with(|| secret.clone());
        }
    }
}

/// What maintainers have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaintainerSecrets {
    /// Secrets of the maintenance keys; they open references.
    pub maintenance: BTreeMap<u32, SealSecret>,
    /// `K_idx` of every domain.
    pub index_keys: BTreeMap<DomainId, Secret>,
}

/// The object: the secrets, sealed once for every identity and in part for every maintainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyring {
    /// That of the roster to which it belongs.
    pub number: u32,
    identities: Vec<Slot>,
    maintainers: Vec<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    recipient: Digest,
    encapsulation: Vec<u8>,
    sealed: Vec<u8>,
}

impl Keyring {
    /// Seals `secrets` to everybody who may have them.
    ///
    /// # Errors
    /// [`CryptError::Malformed`] where a recipient's key is no key.
    pub fn seal(
        repository: RepositoryId,
        number: u32,
        secrets: &RepositorySecrets,
        identities: &[RosterKey],
        maintainers: &[RosterKey],
    ) -> Result<Self, CryptError> {
        let whole = Zeroizing::new(encode_whole(secrets));
        let part = Zeroizing::new(encode_part(&secrets.for_maintainers()));
        let slots = |keys: &[RosterKey], plain: &[u8]| {
            keys.iter().map(|key| Slot::seal(repository, number, key, plain)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self { number, identities: slots(identities, &whole)?, maintainers: slots(maintainers, &part)? })
    }

    /// The object, signed by the root, and its hash.
    #[must_use]
    pub fn sign(&self, repository: RepositoryId, root: &SignKey) -> (ObjectHash, Bytes) {
        let object = object::sign(repository, ObjectType::Keyring, &self.encode(), root);
        (ObjectHash(Digest::of(&object)), object)
    }

    /// Reads a keyring's object and tells who signed it. It is valid only where that is the root.
    ///
    /// # Errors
    /// [`ObjectError`] for damaged bytes.
    pub fn open(repository: RepositoryId, bytes: &[u8]) -> Result<(VerifyKey, Self), ObjectError> {
        let (signer, body) = object::verify(repository, ObjectType::Keyring, bytes)?;
        Ok((signer, Self::decode(body)?))
    }

    /// The secrets for identities; `None` where it holds nothing for this one.
    ///
    /// # Errors
    /// [`ObjectError`] where what it holds for this one does not open.
    pub fn open_identity(
        &self,
        repository: RepositoryId,
        key: &SealSecret,
    ) -> Result<Option<RepositorySecrets>, ObjectError> {
        self.open_slot(&self.identities, repository, key)?.map(|plain| decode_whole(&plain)).transpose()
    }

    /// The secrets for maintainers; `None` where it holds nothing for this one.
    ///
    /// # Errors
    /// [`ObjectError`] where what it holds for this one does not open.
    pub fn open_maintainer(
        &self,
        repository: RepositoryId,
        key: &SealSecret,
    ) -> Result<Option<MaintainerSecrets>, ObjectError> {
        self.open_slot(&self.maintainers, repository, key)?.map(|plain| decode_part(&plain)).transpose()
    }

    fn open_slot(
        &self,
        slots: &[Slot],
        repository: RepositoryId,
        key: &SealSecret,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, ObjectError> {
        let recipient = key.public().digest();
        let Some(slot) = slots.iter().find(|slot| slot.recipient == recipient) else { return Ok(None) };
        let aad = self.number.to_le_bytes();
        Ok(Some(Zeroizing::new(key.open(&info(repository), &aad, &slot.encapsulation, &slot.sealed)?)))
    }

    fn encode(&self) -> Vec<u8> {
        let slots = |out: &mut Build, slots: &[Slot]| {
            out.list(slots.iter(), |out, slot| {
                out.array(3).bytes(slot.recipient.0).bytes(&slot.encapsulation).bytes(&slot.sealed)
            });
        };
        Build::record(|map| {
            map.field(0).uint(self.number);
            slots(map.field(1), &self.identities);
            slots(map.field(2), &self.maintainers);
        })
    }

    fn decode(body: &[u8]) -> Result<Self, ObjectError> {
        let (mut number, mut identities, mut maintainers) = (None, Vec::new(), Vec::new());
        Parse::whole(body, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => number = Some(value.u32()?),
                    1 => identities = value.list(Slot::read)?,
                    2 => maintainers = value.list(Slot::read)?,
                    _ => value.skip()?,
                }
                Ok(())
            })
        })?;
        Ok(Self { number: required(number, "number")?, identities, maintainers })
    }
}

fn info(repository: RepositoryId) -> Vec<u8> {
    [b"lifeboat v1 keyring\0", &repository.0[..]].concat()
}

impl Slot {
    fn seal(repository: RepositoryId, number: u32, key: &RosterKey, plain: &[u8]) -> Result<Self, CryptError> {
        let (encapsulation, sealed) = key.seal.seal(&info(repository), &number.to_le_bytes(), plain)?;
        Ok(Self { recipient: key.seal.digest(), encapsulation, sealed })
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        parse.tuple(3)?;
        Ok(Self {
            recipient: Digest(parse.fixed()?),
            encapsulation: parse.bytes()?.to_vec(),
            sealed: parse.bytes()?.to_vec(),
        })
    }
}

/// Enough for the secrets of `entries` keys, so that no copy is left behind by a growing buffer.
fn secret_buffer(entries: usize) -> Build {
    Build::with_capacity(64 + entries * 64)
}

fn put_seals(out: &mut Build, seals: &BTreeMap<u32, SealSecret>) {
    out.list(seals.iter(), |out, (number, secret)| out.array(2).uint(*number).bytes(secret.0.0));
}

fn put_domains(out: &mut Build, domains: &BTreeMap<DomainId, Secret>) {
    out.list(domains.iter(), |out, (domain, secret)| out.array(2).bytes(domain.0).bytes(secret.0));
}

fn encode_whole(secrets: &RepositorySecrets) -> Vec<u8> {
    let mut out = secret_buffer(secrets.epochs.len() + secrets.maintenance.len() + secrets.domains.len());
    out.map(|map| {
        put_seals(map.field(0), &secrets.epochs);
        put_seals(map.field(1), &secrets.maintenance);
        put_domains(map.field(2), &secrets.domains);
    });
    out.finish()
}

fn encode_part(secrets: &MaintainerSecrets) -> Vec<u8> {
    let mut out = secret_buffer(secrets.maintenance.len() + secrets.index_keys.len());
    out.map(|map| {
        put_seals(map.field(1), &secrets.maintenance);
        put_domains(map.field(3), &secrets.index_keys);
    });
    out.finish()
}

fn read_seals(parse: &mut Parse<'_>) -> Result<BTreeMap<u32, SealSecret>, ObjectError> {
    let pairs = parse.list(|pair| {
        pair.tuple(2)?;
        Ok((pair.u32()?, SealSecret(Secret(pair.fixed()?))))
    })?;
    Ok(pairs.into_iter().collect())
}

fn read_domains(parse: &mut Parse<'_>) -> Result<BTreeMap<DomainId, Secret>, ObjectError> {
    let pairs = parse.list(|pair| {
        pair.tuple(2)?;
        Ok((DomainId(pair.fixed()?), Secret(pair.fixed()?)))
    })?;
    Ok(pairs.into_iter().collect())
}

fn decode_whole(plain: &[u8]) -> Result<RepositorySecrets, ObjectError> {
    let mut out = RepositorySecrets::default();
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => out.epochs = read_seals(value)?,
                1 => out.maintenance = read_seals(value)?,
                2 => out.domains = read_domains(value)?,
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    Ok(out)
}

fn decode_part(plain: &[u8]) -> Result<MaintainerSecrets, ObjectError> {
    let mut out = MaintainerSecrets::default();
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                1 => out.maintenance = read_seals(value)?,
                3 => out.index_keys = read_domains(value)?,
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId([3; 16]);

    fn secrets() -> RepositorySecrets {
        RepositorySecrets {
            epochs: BTreeMap::from([(1, SealSecret::random()), (7, SealSecret::random())]),
            maintenance: BTreeMap::from([(1, SealSecret::random())]),
            domains: BTreeMap::from([(DomainId([1; 16]), Secret::random()), (DomainId([2; 16]), Secret::random())]),
        }
    }

    fn roster_key(seal: &SealSecret) -> RosterKey {
        RosterKey { verify: SignKey::random().verify_key(), seal: seal.public() }
    }

    #[test]
    fn identities_get_everything_and_maintainers_their_part_only() {
        let (identity, maintainer, stranger) = (SealSecret::random(), SealSecret::random(), SealSecret::random());
        let all = secrets();
        let keyring =
            Keyring::seal(REPOSITORY, 4, &all, &[roster_key(&identity)], &[roster_key(&maintainer)]).expect("sealed");
        let root = SignKey::random();
        let (hash, bytes) = keyring.sign(REPOSITORY, &root);
        assert_eq!(hash, ObjectHash(Digest::of(&bytes)));
        let (signer, read) = Keyring::open(REPOSITORY, &bytes).expect("open");
        assert_eq!((signer, &read), (root.verify_key(), &keyring));
        assert_eq!(read.open_identity(REPOSITORY, &identity), Ok(Some(all.clone())));
        assert_eq!(read.open_maintainer(REPOSITORY, &maintainer), Ok(Some(all.for_maintainers())));
        assert_eq!(read.open_identity(REPOSITORY, &maintainer), Ok(None));
        assert_eq!(read.open_maintainer(REPOSITORY, &identity), Ok(None));
        assert_eq!(read.open_identity(REPOSITORY, &stranger), Ok(None));
        assert!(read.open_identity(RepositoryId([4; 16]), &identity).is_err(), "bound to its repository");
        let renamed = Keyring { number: 5, ..read };
        assert!(renamed.open_identity(REPOSITORY, &identity).is_err(), "bound to its number");
        assert!(renamed.open_maintainer(REPOSITORY, &maintainer).is_err(), "bound to its number");
    }

    #[test]
    fn what_maintainers_get_holds_no_domain_secret() {
        let all = secrets();
        let part = encode_part(&all.for_maintainers());
        for secret in all.domains.values().chain(all.epochs.values().map(|epoch| &epoch.0)) {
            assert!(!part.windows(32).any(|window| window == secret.0));
        }
    }

    #[test]
    fn a_keyring_with_any_byte_changed_or_cut_is_refused() {
        let identity = SealSecret::random();
        let keyring = Keyring::seal(REPOSITORY, 1, &secrets(), &[roster_key(&identity)], &[]).expect("sealed");
        let (_, bytes) = keyring.sign(REPOSITORY, &SignKey::random());
        for at in 0..bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << (at % 8);
            assert!(Keyring::open(REPOSITORY, &flipped).is_err(), "byte {at}");
            assert!(Keyring::open(REPOSITORY, &bytes[..at]).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoders_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Keyring::decode(&bytes);
            let _ = decode_whole(&bytes);
            let _ = decode_part(&bytes);
        }
    }
}
