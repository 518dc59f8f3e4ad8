//! Secrets in a key file sealed by a passphrase: Argon2id and AES-256-GCM.
//! `docs/format.md`, section "Key files".

use argon2::{Algorithm, Argon2, Params, Version};
use zeroize::Zeroizing;

use crate::crypt::{Aead, Secret, random};
use crate::keyfile::KeyFileError;
use crate::keytext::KeyText;

const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// What this program is ready to spend on a file that names its own cost.
const MEMORY_KIB_MAX: u32 = 128 << 10;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

/// A passphrase, wiped when dropped and never printed.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// What a person typed, without the end of the line.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Whether nothing was typed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

fn stretch(passphrase: &Passphrase, salt: &[u8], cost: &Cost) -> Result<Secret, KeyFileError> {
    let bad = |_| KeyFileError::Field { name: "kdf", why: "names a cost that cannot be" };
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(bad)?;
    let mut key = Secret([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.0.as_bytes(), salt, &mut key.0)
        .map_err(bad)?;
    Ok(key)
}

/// Puts `plain` into `text`, sealed and bound to `binding`.
pub(crate) fn seal(text: &mut KeyText, passphrase: &Passphrase, binding: &[u8], plain: &[u8]) {
    let salt = random::<16>();
    let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES };
    let key = stretch(passphrase, &salt, &cost).expect("the cost is one that Argon2 knows");
    text.put("kdf", "argon2id");
    text.put("memory_kib", cost.memory_kib.to_string());
    text.put("passes", cost.passes.to_string());
    text.put("lanes", cost.lanes.to_string());
    text.put_hex("salt", &salt);
    text.put_hex("sealed", &Aead::new(&key).seal(0, binding, plain));
}

/// What [`seal`] put into `text`.
pub(crate) fn open(
    text: &mut KeyText,
    ask: &mut dyn FnMut() -> Option<Passphrase>,
    binding: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    if text.take("kdf")?.as_str() != "argon2id" {
        return Err(KeyFileError::Field { name: "kdf", why: "names a function that this program does not know" });
    }
    let cost =
        Cost { memory_kib: text.number("memory_kib")?, passes: text.number("passes")?, lanes: text.number("lanes")? };
    if cost.memory_kib > MEMORY_KIB_MAX || cost.passes > PASSES_MAX || cost.lanes > LANES_MAX {
        return Err(KeyFileError::Field { name: "kdf", why: "names a cost that is too high" });
    }
    let (salt, sealed) = (text.fixed::<16>("salt")?, text.bytes("sealed")?);
    let passphrase = ask().ok_or(KeyFileError::PassphraseNeeded)?;
    let key = stretch(&passphrase, &salt, &cost)?;
    // The checksum of the file held, so what does not open has another passphrase.
    Aead::new(&key).open(0, binding, &sealed).map(Zeroizing::new).map_err(|_| KeyFileError::WrongPassphrase)
}
