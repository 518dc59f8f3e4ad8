//! The primitives, each used in one way only. `docs/format.md`, section "Primitives".

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use bytes::BytesMut;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use lifeboat_model::{ChunkId, Digest};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of an AES-256-GCM tag.
pub const TAG_BYTES: usize = 16;
/// Length of an X-Wing public key.
pub const XWING_PUBLIC_BYTES: usize = 1216;
/// Length of an X-Wing encapsulation.
pub const XWING_ENC_BYTES: usize = 1120;

/// 32 secret bytes, wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub [u8; 32]);

impl Secret {
    /// A new random secret.
    ///
    /// # Panics
    /// Where the operating system has no randomness to give: nothing safe can be done then.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// A key for one purpose: `KDF(context, self || parts)`, that is BLAKE3 in key derivation mode.
    #[must_use]
    pub fn derive(&self, context: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        for part in parts {
            hasher.update(part);
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// Keyed BLAKE3 of the parts' concatenation.
    #[must_use]
    pub fn mac(&self, parts: &[&[u8]]) -> Digest {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        Digest(*hasher.finalize().as_bytes())
    }

    /// The id of a chunk under this id key.
    #[must_use]
    pub fn chunk_id(&self, plain: &[u8]) -> ChunkId {
        ChunkId(Digest(*blake3::keyed_hash(&self.0, plain).as_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// `N` random bytes of the operating system.
///
/// # Panics
/// Where the operating system has no randomness to give.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// What failed; no detail, since none may leak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CryptError {
    /// The bytes were not made with this key and these associated data, or were changed since.
    #[error("the bytes do not open with this key, or were changed")]
    NotAuthentic,
    /// A public key or an encapsulation that no key pair yields.
    #[error("malformed public key or encapsulation")]
    Malformed,
}

/// AES-256-GCM under one key. Callers give each nonce number once for each key.
pub struct Aead(LessSafeKey);

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aead(..)")
    }
}

impl Aead {
    /// The cipher under `key`.
    ///
    /// # Panics
    /// Never: a key of 32 bytes fits.
    #[must_use]
    pub fn new(key: &Secret) -> Self {
        Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key.0).expect("32 bytes are a key")))
    }

    fn nonce(number: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(bytes)
    }

    /// Encrypts everything in `buffer` from `start` on and appends the tag.
    ///
    /// # Panics
    /// Never for buffers under 64 GiB.
    pub fn seal_tail(&self, number: u64, aad: &[u8], buffer: &mut BytesMut, start: usize) {
        let tag = self
            .0
            .seal_in_place_separate_tag(Self::nonce(number), Aad::from(aad), &mut buffer[start..])
            .expect("AES-GCM takes buffers of this size");
        buffer.extend_from_slice(tag.as_ref());
    }

    /// `plain` encrypted, with its tag.
    #[must_use]
    pub fn seal(&self, number: u64, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut buffer = BytesMut::with_capacity(plain.len() + TAG_BYTES);
        buffer.extend_from_slice(plain);
        self.seal_tail(number, aad, &mut buffer, 0);
        buffer.into()
    }

    /// What [`Aead::seal`] was given; decrypts in place.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`].
    pub fn open_in_place<'a>(&self, number: u64, aad: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], CryptError> {
        self.0.open_in_place(Self::nonce(number), Aad::from(aad), sealed).map_err(|_| CryptError::NotAuthentic)
    }

    /// What [`Aead::seal`] was given.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`].
    pub fn open(&self, number: u64, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptError> {
        let mut buffer = sealed.to_vec();
        let length = self.open_in_place(number, aad, &mut buffer)?.len();
        buffer.truncate(length);
        Ok(buffer)
    }
}

/// The public half of an X-Wing key pair (X25519 and ML-KEM-768): who has it can seal, not open.
#[derive(Clone, PartialEq, Eq)]
pub struct SealPublic(pub Box<[u8; XWING_PUBLIC_BYTES]>);

impl fmt::Debug for SealPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealPublic({:?})", self.digest())
    }
}

impl SealPublic {
    /// Reads the 1,216 bytes.
    ///
    /// # Errors
    /// [`CryptError::Malformed`] for another length.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, CryptError> {
        let array: [u8; XWING_PUBLIC_BYTES] = bytes.try_into().map_err(|_| CryptError::Malformed)?;
        Ok(Self(Box::new(array)))
    }

    /// Hash by which rosters and keyrings name the key.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0[..])
    }

    /// HPKE base mode, single shot (RFC 9180): encapsulation (1,120 bytes) and ciphertext.
    ///
    /// # Errors
    /// [`CryptError::Malformed`] where the key is no X-Wing public key.
    pub fn seal(&self, info: &[u8], aad: &[u8], plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CryptError> {
        let public = <XWing as Kem>::PublicKey::from_bytes(&self.0[..]).map_err(|_| CryptError::Malformed)?;
        let (enc, sealed) = single_shot_seal::<AesGcm256, HkdfSha256, XWing>(&OpModeS::Base, &public, info, plain, aad)
            .map_err(|_| CryptError::Malformed)?;
        Ok((enc.to_bytes().to_vec(), sealed))
    }
}

/// The seed of an X-Wing key pair: who has it opens what was sealed to the public half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealSecret(pub Secret);

impl SealSecret {
    /// A new key pair's seed.
    #[must_use]
    pub fn random() -> Self {
        Self(Secret::random())
    }

    fn private(&self) -> <XWing as Kem>::PrivateKey {
        <XWing as Kem>::PrivateKey::from_bytes(&self.0.0).expect("any 32 bytes are a seed")
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: every seed has one.
    #[must_use]
    pub fn public(&self) -> SealPublic {
        SealPublic::from_slice(&XWing::sk_to_pk(&self.private()).to_bytes()).expect("a public key has its length")
    }

    /// Opens what [`SealPublic::seal`] made.
    ///
    /// # Errors
    /// [`CryptError`] where it was made for another key, or changed.
    pub fn open(&self, info: &[u8], aad: &[u8], enc: &[u8], sealed: &[u8]) -> Result<Vec<u8>, CryptError> {
        let enc = <XWing as Kem>::EncappedKey::from_bytes(enc).map_err(|_| CryptError::Malformed)?;
        single_shot_open::<AesGcm256, HkdfSha256, XWing>(&OpModeR::Base, &self.private(), &enc, info, sealed, aad)
            .map_err(|_| CryptError::NotAuthentic)
    }
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerifyKey(pub [u8; 32]);

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({})", hex::encode(&self.0[..4]))
    }
}

impl fmt::Display for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl VerifyKey {
    /// Checks a signature.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`].
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), CryptError> {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, signature).map_err(|_| CryptError::NotAuthentic)
    }
}

/// The seed of an Ed25519 key pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignKey(pub Secret);

impl SignKey {
    /// A new key pair's seed.
    #[must_use]
    pub fn random() -> Self {
        Self(Secret::random())
    }

    fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&self.0.0).expect("any 32 bytes are a seed")
    }

    /// The public half.
    ///
    /// # Panics
    /// Never: an Ed25519 public key has 32 bytes.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.pair().public_key().as_ref().try_into().expect("32 bytes"))
    }

    /// The 64 bytes of a signature.
    ///
    /// # Panics
    /// Never: an Ed25519 signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.pair().sign(message).as_ref().try_into().expect("64 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_only_unchanged_and_with_its_own_number_and_data() {
        let aead = Aead::new(&Secret::random());
        let sealed = aead.seal(7, b"aad", b"plain");
        assert_eq!(aead.open(7, b"aad", &sealed), Ok(b"plain".to_vec()));
        assert!(aead.open(8, b"aad", &sealed).is_err());
        assert!(aead.open(7, b"aae", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(aead.open(7, b"aad", &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn only_the_seed_opens_what_was_sealed_to_its_public_half() {
        let secret = SealSecret::random();
        let (enc, sealed) = secret.public().seal(b"info", b"aad", b"run secret").expect("sealed");
        assert_eq!(enc.len(), XWING_ENC_BYTES);
        assert_eq!(secret.open(b"info", b"aad", &enc, &sealed), Ok(b"run secret".to_vec()));
        assert!(SealSecret::random().open(b"info", b"aad", &enc, &sealed).is_err());
        assert!(secret.open(b"other", b"aad", &enc, &sealed).is_err());
    }

    #[test]
    fn a_signature_holds_for_its_message_and_key_only() {
        let key = SignKey::random();
        let signature = key.sign(b"message");
        assert_eq!(key.verify_key().verify(b"message", &signature), Ok(()));
        assert!(key.verify_key().verify(b"massage", &signature).is_err());
        assert!(SignKey::random().verify_key().verify(b"message", &signature).is_err());
    }

    #[test]
    fn a_secret_is_never_printed() {
        assert_eq!(format!("{:?}", SignKey(Secret([7; 32]))), "SignKey(Secret(..))");
    }
}
