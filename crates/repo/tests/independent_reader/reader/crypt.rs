//! The primitives of `docs/format.md`.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, Serializable, single_shot_open};

use super::R;

pub(crate) type Key = [u8; 32];

pub(crate) fn hash(bytes: &[u8]) -> Key {
    *blake3::hash(bytes).as_bytes()
}

pub(crate) fn mac(key: &Key, bytes: &[u8]) -> Key {
    *blake3::keyed_hash(key, bytes).as_bytes()
}

pub(crate) fn kdf(context: &str, secret: &Key, parts: &[&[u8]]) -> Key {
    blake3::derive_key(context, &[&secret[..], &parts.concat()].concat())
}

pub(crate) fn aead_open(key: &Key, number: u64, aad: &[u8], sealed: &[u8]) -> R<Vec<u8>> {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).map_err(|error| error.to_string())?);
    let mut buffer = sealed.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer);
    let length = opened.map_err(|_| "it does not open with this key")?.len();
    buffer.truncate(length);
    Ok(buffer)
}

/// The public half of an X-Wing seed.
pub(crate) fn seal_public(seed: &Key) -> R<Vec<u8>> {
    let private = <XWing as Kem>::PrivateKey::from_bytes(seed).map_err(|error| error.to_string())?;
    Ok(XWing::sk_to_pk(&private).to_bytes().to_vec())
}

/// Opens what `SEAL(pk, info, aad, x)` made.
pub(crate) fn seal_open(seed: &Key, info: &[u8], aad: &[u8], encapsulation: &[u8], sealed: &[u8]) -> R<Vec<u8>> {
    let private = <XWing as Kem>::PrivateKey::from_bytes(seed).map_err(|error| error.to_string())?;
    let encapsulated = <XWing as Kem>::EncappedKey::from_bytes(encapsulation).map_err(|error| error.to_string())?;
    single_shot_open::<AesGcm256, HkdfSha256, XWing>(&OpModeR::Base, &private, &encapsulated, info, sealed, aad)
        .map_err(|error| error.to_string())
}

pub(crate) fn verify(public: &[u8], message: &[u8], signature: &[u8]) -> R<()> {
    UnparsedPublicKey::new(&ED25519, public).verify(message, signature).map_err(|_| "a wrong signature".into())
}

/// The public half of an Ed25519 seed.
pub(crate) fn sign_public(seed: &Key) -> R<Key> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|error| error.to_string())?;
    pair.public_key().as_ref().try_into().map_err(|_| "a public key of another length".into())
}
