//! Key files of identities and owners, and the recovery sheet.

use argon2::{Algorithm, Argon2, Params, Version};
use serde_json::{Map, Value};

use super::R;
use super::crypt::{Key, aead_open, hash, kdf, sign_public};

/// What a reader needs of a key file.
pub(crate) struct Identity {
    pub(crate) repository: [u8; 16],
    pub(crate) root: Key,
    pub(crate) sign: Key,
    pub(crate) open: Key,
}

/// Reads the text of a key file or of a recovery sheet.
pub(crate) fn read(text: &str, passphrase: Option<&str>) -> R<Identity> {
    let (repository, root, seed) =
        if text.trim_start().starts_with('{') { key_file(text, passphrase)? } else { sheet(text)? };
    let part = |context| kdf(context, &seed, &[]);
    Ok(Identity { repository, root, sign: part("lifeboat v1 identity sign"), open: part("lifeboat v1 identity seal") })
}

fn text_of(fields: &Map<String, Value>, name: &str) -> R<String> {
    match fields.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) if number.is_u64() => Ok(number.to_string()),
        other => Err(format!("{name}: {other:?}")),
    }
}

fn hex_of<const N: usize>(fields: &Map<String, Value>, name: &str) -> R<[u8; N]> {
    let bytes = hex::decode(text_of(fields, name)?).map_err(|error| format!("{name}: {error}"))?;
    bytes.try_into().map_err(|_| format!("{name} has not {N} bytes"))
}

fn number_of(fields: &Map<String, Value>, name: &str, max: u32) -> R<u32> {
    let number = text_of(fields, name)?.parse().map_err(|_| format!("{name} is no number"))?;
    if number <= max { Ok(number) } else { Err(format!("{name} is too large")) }
}

type Found = ([u8; 16], Key, Key);

fn key_file(text: &str, passphrase: Option<&str>) -> R<Found> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut checked = b"lifeboat v1 key file\0".to_vec();
    let mut names: Vec<&String> = fields.keys().filter(|name| *name != "checksum").collect();
    names.sort();
    for name in names {
        checked.extend_from_slice(format!("{name}\0{}\0", text_of(&fields, name)?).as_bytes());
    }
    if hash(&checked)[..4] != hex_of::<4>(&fields, "checksum")? {
        return Err("the checksum of the key file is wrong".into());
    }
    if text_of(&fields, "version")? != "1" {
        return Err("a key file of another version".into());
    }
    let (role, repository, root) =
        (text_of(&fields, "lifeboat_key")?, hex_of::<16>(&fields, "repository")?, hex_of::<32>(&fields, "root")?);
    let seeds = if fields.contains_key("sealed") {
        let passphrase = passphrase.ok_or("a passphrase is needed")?;
        sealed_seeds(&fields, &role, &[&repository[..], &root].concat(), passphrase)?
    } else {
        let root_seed = if role == "owner" { hex_of::<32>(&fields, "root_seed")?.to_vec() } else { vec![] };
        [root_seed, hex_of::<32>(&fields, "seed")?.to_vec()].concat()
    };
    let seed = match (role.as_str(), seeds.len()) {
        ("identity", 32) => &seeds[..],
        ("owner", 64) if sign_public(&seeds[..32].try_into().expect("32 bytes"))? == root => &seeds[32..],
        _ => return Err(format!("no key that reads: {role}")),
    };
    Ok((repository, root, seed.try_into().expect("32 bytes")))
}

fn sealed_seeds(fields: &Map<String, Value>, role: &str, home: &[u8], passphrase: &str) -> R<Vec<u8>> {
    if text_of(fields, "kdf")? != "argon2id" {
        return Err("an unknown way to stretch a passphrase".into());
    }
    let params = Params::new(
        number_of(fields, "memory_kib", 128 << 10)?,
        number_of(fields, "passes", 64)?,
        number_of(fields, "lanes", 16)?,
        Some(32),
    );
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|error| error.to_string())?);
    let mut key = [0; 32];
    argon
        .hash_password_into(passphrase.as_bytes(), &hex_of::<16>(fields, "salt")?, &mut key)
        .map_err(|error| error.to_string())?;
    let aad = [b"lifeboat v1 key file\0", role.as_bytes(), b"\0", home].concat();
    let sealed = hex::decode(text_of(fields, "sealed")?).map_err(|error| error.to_string())?;
    aead_open(&key, 0, &aad, &sealed)
}

/// `NN: xxxx xxxx xxxx xxxx / yyyy`, eleven times.
fn sheet(text: &str) -> R<Found> {
    let mut lines: [Option<[u8; 8]>; 11] = [None; 11];
    for line in text.lines() {
        let Some((number, rest)) = line.split_once(':') else { continue };
        let Ok(number @ 1..=11) = number.trim().parse::<u8>() else { continue };
        let digits: String = rest
            .chars()
            .filter(|digit| !matches!(digit, ' ' | '/' | '-' | '\t'))
            .map(|digit| match digit.to_ascii_lowercase() {
                'o' => '0',
                'i' | 'l' => '1',
                other => other,
            })
            .collect();
        let bytes = hex::decode(&digits).map_err(|error| format!("line {number}: {error}"))?;
        let (bytes, check) = bytes.split_first_chunk::<8>().ok_or_else(|| format!("line {number} is short"))?;
        let wanted = hash(&[b"lifeboat v1 recovery sheet line\0", &[number][..], bytes].concat());
        if check != &wanted[..2] {
            return Err(format!("line {number} is wrong"));
        }
        if lines[usize::from(number) - 1].replace(*bytes).is_some() {
            return Err(format!("line {number} is there twice"));
        }
    }
    let mut all = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        all.extend_from_slice(line.as_ref().ok_or_else(|| format!("line {} is missing", at + 1))?);
    }
    let (body, check) = all.split_at(80);
    if check != &hash(&[b"lifeboat v1 recovery sheet\0", body].concat())[..8] {
        return Err("the sheet is wrong as a whole".into());
    }
    let root = sign_public(&body[..32].try_into().expect("32 bytes"))?;
    Ok((body[64..].try_into().expect("16 bytes"), root, body[32..64].try_into().expect("32 bytes")))
}
