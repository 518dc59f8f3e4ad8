//! Frames of stored objects: header, signature, seal of a domain, envelope of a run's secret.
//! `docs/format.md`, section "Objects".

use std::cmp::Ordering;

use bytes::{Bytes, BytesMut};
use lifeboat_model::{Digest, ObjectHash};

use crate::crypt::{
    Aead, CryptError, SealPublic, SealSecret, Secret, SignKey, TAG_BYTES, VerifyKey, XWING_ENC_BYTES, random,
};

/// The version of the format that this program reads and writes.
pub const FORMAT_VERSION: u8 = 1;
const MAGIC: &[u8; 8] = b"LIFEBOAT";
/// Length of the header of every object.
pub const HEADER_BYTES: usize = 16;
/// Length of a signer's public key and signature behind a signed object.
pub const SIGNATURE_BYTES: usize = 32 + 64;

/// What an object is. The numbers are those of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[expect(missing_docs, reason = "docs/format.md, table of objects, tells what each one is")]
pub enum ObjectType {
    Format = 1,
    Roster = 2,
    Keyring = 3,
    DataPack = 4,
    MetaPack = 5,
    RefsPack = 6,
    Index = 7,
    Run = 8,
    Renewal = 9,
    SnapshotRoot = 10,
    LogRoot = 11,
    Forget = 12,
    Hold = 13,
    Void = 14,
    Mark = 15,
    Deleting = 16,
    Quarantine = 17,
}

impl ObjectType {
    /// Every type.
    pub const ALL: [Self; 17] = [
        Self::Format,
        Self::Roster,
        Self::Keyring,
        Self::DataPack,
        Self::MetaPack,
        Self::RefsPack,
        Self::Index,
        Self::Run,
        Self::Renewal,
        Self::SnapshotRoot,
        Self::LogRoot,
        Self::Forget,
        Self::Hold,
        Self::Void,
        Self::Mark,
        Self::Deleting,
        Self::Quarantine,
    ];

    /// The first part of the names of such objects, with its slash (`data/`).
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Roster => "roster/",
            Self::Keyring => "keyring/",
            Self::DataPack => "data/",
            Self::MetaPack => "meta/",
            Self::RefsPack => "refs/",
            Self::Index => "index/",
            Self::Run => "run/",
            Self::Renewal => "renewal/",
            Self::SnapshotRoot => "roots/snapshot/",
            Self::LogRoot => "roots/log/",
            Self::Forget => "forget/",
            Self::Hold => "hold/",
            Self::Void => "void/",
            Self::Mark => "mark/",
            Self::Deleting => "deleting/",
            Self::Quarantine => "quarantine/",
        }
    }

    /// The name of an object whose stored bytes have this hash.
    ///
    /// # Panics
    /// Never: prefix and hexadecimal digits are a key.
    #[must_use]
    pub fn key(self, hash: ObjectHash) -> lifeboat_store::Key {
        lifeboat_store::Key::new(format!("{}{hash}", self.prefix())).expect("a prefix and hex digits are a key")
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// The 16 random bytes that name a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryId(pub [u8; 16]);

impl std::fmt::Display for RepositoryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The 16 random bytes that name a domain of writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(pub [u8; 16]);

/// What is wrong with an object's bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// Shorter than its own lengths say, or a field that cannot be.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Its bytes do not hash to its name.
    #[error("its bytes do not hash to its name")]
    WrongHash,
    /// It says that it is of another type.
    #[error("it is a {found:?}, not a {wanted:?}")]
    WrongType {
        /// What its name promises.
        wanted: ObjectType,
        /// What its header says.
        found: ObjectType,
    },
    /// Written by a newer program.
    #[error("it is of format version {0}, newer than this program")]
    NewerVersion(u8),
    /// Written before the format was frozen.
    #[error("it is of format version {0}, from before the format was frozen, and this program does not read it")]
    OlderVersion(u8),
    /// Signed by a key that may not.
    #[error("it is signed by {0}, who is not on the roster for this")]
    Stranger(VerifyKey),
    /// Sealed under a domain whose key we do not have.
    #[error("it belongs to a domain whose key is not at hand")]
    ForeignDomain,
    /// Signed by a writer of the domain for a source that is not its own.
    #[error("it is signed by {0}, who may not write this source")]
    NotAllowed(VerifyKey),
    /// Decryption or signature failed.
    #[error(transparent)]
    Crypt(#[from] CryptError),
}

impl ObjectError {
    /// A malformed object, with the reason.
    #[must_use]
    pub fn malformed(why: impl std::fmt::Display) -> Self {
        Self::Malformed(why.to_string())
    }
}

/// The header that starts every object.
#[must_use]
pub fn header(kind: ObjectType) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8] = kind as u8;
    bytes[9] = FORMAT_VERSION;
    bytes
}

/// Checks the header and returns what follows it.
///
/// # Errors
/// [`ObjectError`] for anything that is not an object of type `wanted` and a known version.
pub fn open_header(wanted: ObjectType, bytes: &[u8]) -> Result<&[u8], ObjectError> {
    let (head, rest) =
        bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| ObjectError::malformed("shorter than a header"))?;
    if head[..8] != MAGIC[..] {
        return Err(ObjectError::malformed("it does not start with LIFEBOAT"));
    }
    match head[9].cmp(&FORMAT_VERSION) {
        Ordering::Less => return Err(ObjectError::OlderVersion(head[9])),
        Ordering::Equal => {}
        Ordering::Greater => return Err(ObjectError::NewerVersion(head[9])),
    }
    let found = ObjectType::from_number(head[8])
        .ok_or_else(|| ObjectError::malformed(format_args!("it is of the unknown type {}", head[8])))?;
    if found != wanted {
        return Err(ObjectError::WrongType { wanted, found });
    }
    if head[10..] != [0; 6] {
        return Err(ObjectError::malformed("reserved header bytes are not zero"));
    }
    Ok(rest)
}

fn signed_message(repository: RepositoryId, header_and_body: &[u8]) -> Vec<u8> {
    let mut message = b"lifeboat v1 object signature\0".to_vec();
    message.extend_from_slice(&repository.0);
    message.extend_from_slice(blake3::hash(header_and_body).as_bytes());
    message
}

/// `header || body || signer || signature`.
#[must_use]
pub fn sign(repository: RepositoryId, kind: ObjectType, body: &[u8], signer: &SignKey) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len() + SIGNATURE_BYTES);
    out.extend_from_slice(&header(kind));
    out.extend_from_slice(body);
    let signature = signer.sign(&signed_message(repository, &out));
    out.extend_from_slice(&signer.verify_key().0);
    out.extend_from_slice(&signature);
    out.into()
}

/// The signer and the body of what [`sign`] made. The caller decides whether the signer may.
///
/// # Errors
/// [`ObjectError`] for a wrong header or signature.
pub fn verify(repository: RepositoryId, kind: ObjectType, bytes: &[u8]) -> Result<(VerifyKey, &[u8]), ObjectError> {
    open_header(kind, bytes)?;
    let signer = signer(repository, bytes)?;
    Ok((signer, &bytes[HEADER_BYTES..bytes.len() - SIGNATURE_BYTES]))
}

/// Who signed an object of whatever type and version.
///
/// # Errors
/// [`ObjectError`] for a wrong signature.
pub fn signer(repository: RepositoryId, bytes: &[u8]) -> Result<VerifyKey, ObjectError> {
    let claimed = claimed_signer(bytes)?;
    let (signed, tail) = bytes.split_at(bytes.len() - SIGNATURE_BYTES);
    claimed.verify(&signed_message(repository, signed), &tail[32..])?;
    Ok(claimed)
}

/// Who an object says has signed it, unchecked.
///
/// # Errors
/// [`ObjectError::Malformed`] where it is too short.
///
/// # Panics
/// Never: slices of checked length.
pub fn claimed_signer(bytes: &[u8]) -> Result<VerifyKey, ObjectError> {
    let at = bytes
        .len()
        .checked_sub(SIGNATURE_BYTES)
        .filter(|at| *at >= HEADER_BYTES)
        .ok_or_else(|| ObjectError::malformed("shorter than a signature"))?;
    Ok(VerifyKey(bytes[at..at + 32].try_into().expect("32 bytes")))
}

/// The index key of a domain, with what it is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexKey {
    /// The repository.
    pub repository: RepositoryId,
    /// The domain.
    pub domain: DomainId,
    /// `K_idx`.
    pub key: Secret,
}

/// Bytes that the seal of a domain adds to what it seals.
pub const DOMAIN_SEAL_BYTES: usize = 16 + 32 + TAG_BYTES;

impl IndexKey {
    fn aead(&self, kind: ObjectType, salt: &[u8; 32]) -> Aead {
        Aead::new(&self.key.derive("lifeboat v1 domain seal", &[&self.repository.0, salt, &[kind as u8]]))
    }

    fn aad(&self, kind: ObjectType) -> Vec<u8> {
        [&header(kind)[..], &self.domain.0].concat()
    }

    /// `domain || salt || ciphertext`.
    #[must_use]
    pub fn seal(&self, kind: ObjectType, plain: &[u8]) -> Vec<u8> {
        let salt = random::<32>();
        let mut out = BytesMut::with_capacity(plain.len() + DOMAIN_SEAL_BYTES);
        out.extend_from_slice(&self.domain.0);
        out.extend_from_slice(&salt);
        let start = out.len();
        out.extend_from_slice(plain);
        self.aead(kind, &salt).seal_tail(0, &self.aad(kind), &mut out, start);
        out.into()
    }

    /// Opens what [`IndexKey::seal`] made for this type and domain.
    ///
    /// # Errors
    /// [`ObjectError`] for another domain, key or type, or changed bytes.
    ///
    /// # Panics
    /// Never: slices of checked length.
    pub fn open(&self, kind: ObjectType, sealed: &[u8]) -> Result<Vec<u8>, ObjectError> {
        if sealed_domain(sealed)? != self.domain {
            return Err(ObjectError::malformed("sealed under another domain"));
        }
        let salt: &[u8; 32] = sealed[16..48].try_into().expect("32 bytes");
        Ok(self.aead(kind, salt).open(0, &self.aad(kind), &sealed[48..])?)
    }
}

/// The domain under whose key these bytes are sealed.
///
/// # Errors
/// [`ObjectError::Malformed`] where they are too short.
///
/// # Panics
/// Never: slices of checked length.
pub fn sealed_domain(sealed: &[u8]) -> Result<DomainId, ObjectError> {
    if sealed.len() < DOMAIN_SEAL_BYTES {
        return Err(ObjectError::malformed("shorter than the seal of a domain"));
    }
    Ok(DomainId(sealed[..16].try_into().expect("16 bytes")))
}

/// To whom a run's secret is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reader {
    /// Content: identities, by the secret of an epoch.
    Epoch = 1,
    /// References: maintainers and identities, by the maintenance secret.
    Maintenance = 2,
}

/// A public key that run secrets are sealed to, with its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Which of the two.
    pub reader: Reader,
    /// The number of the epoch or of the maintenance key, from 1.
    pub generation: u32,
    /// The key.
    pub public: SealPublic,
}

/// Length of an envelope.
pub const ENVELOPE_BYTES: usize = 8 + 32 + XWING_ENC_BYTES + 32 + TAG_BYTES;

/// A run secret sealed to a recipient, with a commitment to the secret:
/// `reader u8 || 0 0 0 || generation u32 || commitment || encapsulation || ciphertext`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Envelope(Bytes);

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Envelope({:?} {})", self.reader(), self.generation())
    }
}

impl Envelope {
    fn info(repository: RepositoryId, head: &[u8]) -> Vec<u8> {
        [b"lifeboat v1 run secret\0", &repository.0[..], head].concat()
    }

    /// Seals `secret` to `recipient`.
    ///
    /// # Errors
    /// [`CryptError::Malformed`] where the recipient's key is no key.
    pub fn seal(repository: RepositoryId, recipient: &Recipient, secret: &Secret) -> Result<Self, CryptError> {
        let mut out = Vec::with_capacity(ENVELOPE_BYTES);
        out.extend_from_slice(&[recipient.reader as u8, 0, 0, 0]);
        out.extend_from_slice(&recipient.generation.to_le_bytes());
        let commitment = secret.derive("lifeboat v1 secret commitment", &[&repository.0]).0;
        let info = Self::info(repository, &out);
        let (enc, sealed) = recipient.public.seal(&info, &commitment, &secret.0)?;
        out.extend_from_slice(&commitment);
        out.extend_from_slice(&enc);
        out.extend_from_slice(&sealed);
        Ok(Self(out.into()))
    }

    /// Reads an envelope's bytes.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] for another length or an unknown reader.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ObjectError> {
        if bytes.len() == ENVELOPE_BYTES && matches!(bytes[0], 1 | 2) && bytes[1..4] == [0; 3] {
            // A copy: a slice would keep the whole pack or index that it came in alive.
            Ok(Self(Bytes::copy_from_slice(bytes)))
        } else {
            Err(ObjectError::malformed("not an envelope"))
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// To whom it is sealed.
    #[must_use]
    pub fn reader(&self) -> Reader {
        if self.0[0] == 1 { Reader::Epoch } else { Reader::Maintenance }
    }

    /// The number of the epoch or maintenance key.
    ///
    /// # Panics
    /// Never: the length was checked.
    #[must_use]
    pub fn generation(&self) -> u32 {
        u32::from_le_bytes(self.0[4..8].try_into().expect("4 bytes"))
    }

    /// Names the run secret without telling it: equal for envelopes of equal secrets.
    ///
    /// # Panics
    /// Never: the length was checked.
    #[must_use]
    pub fn commitment(&self) -> Digest {
        Digest(self.0[8..40].try_into().expect("32 bytes"))
    }

    /// The secret, if `key` is the recipient's.
    ///
    /// # Errors
    /// [`CryptError`] for another key, changed bytes, or a secret that breaks the commitment.
    pub fn open(&self, repository: RepositoryId, key: &SealSecret) -> Result<Secret, CryptError> {
        let info = Self::info(repository, &self.0[..8]);
        let commitment = self.commitment();
        let (enc, sealed) = self.0[40..].split_at(XWING_ENC_BYTES);
        let plain = key.open(&info, &commitment.0, enc, sealed)?;
        let secret = Secret(plain.try_into().map_err(|_| CryptError::Malformed)?);
        if secret.derive("lifeboat v1 secret commitment", &[&repository.0]).0 == commitment.0 {
            Ok(secret)
        } else {
            Err(CryptError::NotAuthentic)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPOSITORY: RepositoryId = RepositoryId([3; 16]);

    #[test]
    fn a_signed_object_opens_only_in_its_repository_type_and_unchanged() {
        let key = SignKey::random();
        let object = sign(REPOSITORY, ObjectType::Mark, b"body", &key);
        assert_eq!(verify(REPOSITORY, ObjectType::Mark, &object), Ok((key.verify_key(), &b"body"[..])));
        assert!(verify(RepositoryId([4; 16]), ObjectType::Mark, &object).is_err());
        assert!(verify(REPOSITORY, ObjectType::Forget, &object).is_err());
        for bit in 0..object.len() * 8 {
            let mut flipped = object.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(REPOSITORY, ObjectType::Mark, &flipped).is_err(), "bit {bit}");
        }
        for length in 0..object.len() {
            assert!(verify(REPOSITORY, ObjectType::Mark, &object[..length]).is_err());
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = header(ObjectType::Index).to_vec();
        bytes[9] = 9;
        assert_eq!(open_header(ObjectType::Index, &bytes), Err(ObjectError::NewerVersion(9)));
        bytes[9] = 0;
        assert_eq!(open_header(ObjectType::Index, &bytes), Err(ObjectError::OlderVersion(0)));
    }

    #[test]
    fn an_object_of_another_or_an_unknown_type_is_no_index() {
        let (wanted, found) = (ObjectType::Index, ObjectType::Run);
        assert_eq!(open_header(wanted, &header(found)), Err(ObjectError::WrongType { wanted, found }));
        let mut bytes = header(wanted).to_vec();
        bytes[8] = 18;
        let unknown = open_header(wanted, &bytes).expect_err("refused");
        assert!(unknown.to_string().contains("unknown type 18"), "{unknown}");
    }

    #[test]
    fn the_seal_of_a_domain_is_bound_to_domain_and_type() {
        let key = |domain| IndexKey { repository: REPOSITORY, domain: DomainId([domain; 16]), key: Secret([9; 32]) };
        let sealed = key(1).seal(ObjectType::Run, b"plain");
        assert_eq!(key(1).open(ObjectType::Run, &sealed), Ok(b"plain".to_vec()));
        assert!(key(2).open(ObjectType::Run, &sealed).is_err());
        assert!(key(1).open(ObjectType::Mark, &sealed).is_err());
    }

    #[test]
    fn an_envelope_gives_its_secret_to_its_recipient_only() {
        let seal = SealSecret::random();
        let recipient = Recipient { reader: Reader::Epoch, generation: 3, public: seal.public() };
        let secret = Secret::random();
        let envelope = Envelope::seal(REPOSITORY, &recipient, &secret).expect("sealed");
        assert_eq!(envelope.bytes().len(), ENVELOPE_BYTES);
        let read = Envelope::from_bytes(envelope.bytes()).expect("an envelope");
        assert_eq!((read.reader(), read.generation()), (Reader::Epoch, 3));
        assert_eq!(read.open(REPOSITORY, &seal), Ok(secret));
        assert!(read.open(REPOSITORY, &SealSecret::random()).is_err());
        let mut other = envelope.bytes().to_vec();
        other[4] = 4;
        let other = Envelope::from_bytes(&other).expect("an envelope in form");
        assert!(other.open(REPOSITORY, &seal).is_err());
    }
}
