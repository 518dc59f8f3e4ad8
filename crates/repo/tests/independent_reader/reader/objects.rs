//! Frames of objects, `format`, roster and keyring.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::R;
use super::cbor::{self, Value};
use super::crypt::{Key, aead_open, hash, kdf, seal_open, seal_public, verify};
use super::keys::Identity;

/// A store in a directory: an object is the file of its name.
pub(crate) struct Store(pub PathBuf);

impl Store {
    /// The names of the objects whose names start with `prefix`, which ends with a slash.
    pub(crate) fn names(&self, prefix: &str) -> R<Vec<String>> {
        let dir = self.0.join(prefix);
        if !dir.is_dir() {
            return Ok(vec![]);
        }
        let mut names = Vec::new();
        for file in std::fs::read_dir(dir).map_err(|error| error.to_string())? {
            let name = file.map_err(|error| error.to_string())?.file_name();
            names.push(format!("{prefix}{}", name.to_str().ok_or("a name that is no text")?));
        }
        names.sort();
        Ok(names)
    }

    /// An object, whose bytes must hash to its name.
    pub(crate) fn get(&self, name: &str) -> R<Vec<u8>> {
        let bytes = self.get_unnamed(name)?;
        let digits = name.rsplit(['/', '-']).next().expect("a name");
        if hex::encode(hash(&bytes)) == digits { Ok(bytes) } else { Err(format!("{name} does not hash to its name")) }
    }

    pub(crate) fn get_unnamed(&self, name: &str) -> R<Vec<u8>> {
        std::fs::read(self.0.join(name)).map_err(|error| format!("{name}: {error}"))
    }

    pub(crate) fn stored_at(&self, name: &str) -> R<SystemTime> {
        let path: &Path = &self.0.join(name);
        path.metadata().and_then(|metadata| metadata.modified()).map_err(|error| format!("{name}: {error}"))
    }
}

pub(crate) fn header(kind: u8) -> [u8; 16] {
    let mut header = *b"LIFEBOAT\0\0\0\0\0\0\0\0";
    (header[8], header[9]) = (kind, 1);
    header
}

/// What follows the header.
pub(crate) fn open_header(kind: u8, bytes: &[u8]) -> R<&[u8]> {
    let (head, rest) = bytes.split_at_checked(16).ok_or("shorter than a header")?;
    if head[..9] == header(kind)[..9] && head[9] != 1 {
        return Err(format!("version {} of the format", head[9]));
    }
    if head == header(kind) { Ok(rest) } else { Err(format!("not the header of type {kind}")) }
}

/// Who signed an object, and its body.
pub(crate) fn open_signed(repository: &[u8; 16], kind: u8, bytes: &[u8]) -> R<(Key, Vec<u8>)> {
    let rest = open_header(kind, bytes)?;
    let length = rest.len().checked_sub(96).ok_or("shorter than a signature")?;
    let (signed, tail) = bytes.split_at(16 + length);
    let message = [b"lifeboat v1 object signature\0", &repository[..], &hash(signed)].concat();
    verify(&tail[..32], &message, &tail[32..])?;
    Ok((tail[..32].try_into().expect("32 bytes"), signed[16..].to_vec()))
}

/// Keys of a domain, made of its secret.
#[derive(Clone)]
pub(crate) struct Domain {
    pub(crate) id: [u8; 16],
    pub(crate) chunk_ids: Key,
    pub(crate) page_ids: Key,
    pub(crate) refs_ids: Key,
    pub(crate) index: Key,
}

impl Domain {
    fn new(id: [u8; 16], secret: &Key) -> Self {
        let index = kdf("lifeboat v1 index key", secret, &[]);
        Self {
            id,
            chunk_ids: kdf("lifeboat v1 chunk ids", secret, &[]),
            page_ids: kdf("lifeboat v1 page ids", secret, &[]),
            refs_ids: kdf("lifeboat v1 refs ids", &index, &[]),
            index,
        }
    }

    /// Opens the domain seal of an object of this type.
    pub(crate) fn open(&self, repository: &[u8; 16], kind: u8, sealed: &[u8]) -> R<Vec<u8>> {
        let (domain, salt) = (sealed.get(..16).ok_or("short")?, sealed.get(16..48).ok_or("short")?);
        if domain != self.id {
            return Err("sealed under another domain".into());
        }
        let key = kdf("lifeboat v1 domain seal", &self.index, &[repository, salt, &[kind]]);
        aead_open(&key, 0, &[&header(kind)[..], &self.id].concat(), &sealed[48..])
    }

    pub(crate) fn stack_tag(&self, stack: &str) -> Key {
        let key = kdf("lifeboat v1 tags", &self.index, &[]);
        super::crypt::mac(&key, format!("stack\0{stack}").as_bytes())
    }

    pub(crate) fn source_tag(&self, stack: &str, source: &str) -> Key {
        let key = kdf("lifeboat v1 tags", &self.index, &[]);
        super::crypt::mac(&key, format!("source\0{stack}/{source}").as_bytes())
    }

    pub(crate) fn system_tag(&self, fact: &str, value: &str) -> Key {
        let key = kdf("lifeboat v1 tags", &self.index, &[]);
        super::crypt::mac(&key, format!("system\0{fact}\0{value}").as_bytes())
    }
}

pub(crate) struct Writer {
    pub(crate) verify: Key,
    pub(crate) domain: [u8; 16],
    pub(crate) allowed: Vec<Key>,
}

pub(crate) struct Removed {
    pub(crate) verify: Key,
    pub(crate) domain: [u8; 16],
    pub(crate) heads: Vec<Key>,
}

/// Who may do what.
pub(crate) struct Roster {
    pub(crate) number: u64,
    pub(crate) grace_seconds: u64,
    pub(crate) writers: Vec<Writer>,
    pub(crate) maintainers: Vec<Key>,
    pub(crate) identities: Vec<Key>,
    pub(crate) removed: Vec<Removed>,
    /// Removed maintainers and identities, with what they signed and what stands.
    pub(crate) retired: Vec<(Key, Vec<Key>)>,
    /// Features that a reader has to know.
    pub(crate) features: Vec<String>,
    keyring: Key,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    RemovedWriter,
    Keeper,
}

impl Roster {
    /// The roster that holds, and what had to be passed over.
    pub(crate) fn newest(store: &Store, id: &Identity, passed_over: &mut Vec<String>) -> R<Self> {
        let mut best: Option<(u64, String, Vec<u8>)> = None;
        for name in store.names("roster/")? {
            let opened = store.get(&name).and_then(|bytes| open_signed(&id.repository, 2, &bytes));
            let (signer, body) = match opened {
                Ok(opened) => opened,
                Err(why) => {
                    passed_over.push(format!("{name}: {why}"));
                    continue;
                }
            };
            if signer != id.root {
                passed_over.push(format!("{name}: a stranger's"));
                continue;
            }
            let number = cbor::parse(&body)?.need(0)?.uint()?;
            if name[7..15] != format!("{number:08}") {
                return Err(format!("{name} is number {number}"));
            }
            let hash = name[16..].to_owned();
            if best.as_ref().is_none_or(|(most, least, _)| number > *most || number == *most && hash < *least) {
                best = Some((number, hash, body));
            }
        }
        let (_, _, body) = best.ok_or("no roster of this repository's root")?;
        Self::parse(&cbor::parse(&body)?)
    }

    fn parse(value: &Value) -> R<Self> {
        let list = |key: i128| value.get(key).map_or(Ok(&[][..]), Value::array);
        let keys = |value: &Value| value.array()?.iter().map(Value::fixed).collect::<R<Vec<Key>>>();
        let of = |item: &Value| Ok((item.need(0)?.fixed()?, item.need(1)?.fixed()?, keys(item.need(2)?)?));
        let writer = |item| of(item).map(|(verify, domain, allowed)| Writer { verify, domain, allowed });
        let removed = |item| of(item).map(|(verify, domain, heads)| Removed { verify, domain, heads });
        let key = |item: &Value| item.need(0)?.fixed::<32>();
        let retired = |item: &Value| R::Ok((key(item)?, item.get(2).map_or(Ok(vec![]), keys)?));
        Ok(Self {
            number: value.need(0)?.uint()?,
            grace_seconds: value.need(3)?.uint()?,
            writers: list(6)?.iter().map(writer).collect::<R<_>>()?,
            maintainers: list(7)?.iter().map(key).collect::<R<_>>()?,
            identities: list(8)?.iter().map(key).collect::<R<_>>()?,
            removed: list(9)?.iter().map(removed).collect::<R<_>>()?,
            retired: list(11)?.iter().map(retired).collect::<R<_>>()?,
            features: list(12)?.iter().map(|item| Ok(item.text()?.to_owned())).collect::<R<_>>()?,
            keyring: value.need(10)?.fixed()?,
        })
    }

    /// As what somebody signed the object of that type and name in a domain.
    pub(crate) fn role(&self, (kind, name): (u8, &str), signer: &Key, domain: &[u8; 16]) -> R<Role> {
        let (writers, keepers) = (matches!(kind, 7..=11 | 14), matches!(kind, 7 | 12..=17));
        let stands = self.writers.iter().any(|writer| writer.verify == *signer && writer.domain == *domain);
        let removed = self.removed.iter().any(|writer| writer.verify == *signer && writer.domain == *domain);
        let digits = name.rsplit('/').next().expect("a name");
        let listed = |words: &[Key]| words.iter().any(|word| hex::encode(word) == digits);
        let retired = self.retired.iter().any(|(verify, words)| verify == signer && listed(words));
        if writers && stands {
            Ok(Role::Writer)
        } else if writers && removed {
            Ok(Role::RemovedWriter)
        } else if keepers && (retired || self.maintainers.contains(signer) || self.identities.contains(signer)) {
            Ok(Role::Keeper)
        } else {
            Err("signed by somebody who may not".into())
        }
    }

    /// What the keyring that belongs to the roster has for this identity.
    pub(crate) fn secrets(&self, store: &Store, id: &Identity) -> R<Secrets> {
        let mut last = String::new();
        for copy in ["keyring", "keyring2"] {
            let name = format!("{copy}/{:08}-{}", self.number, hex::encode(self.keyring));
            let opened = store.get(&name).and_then(|bytes| open_signed(&id.repository, 3, &bytes));
            match opened.and_then(|(signer, body)| self.open_keyring(&signer, &body, id)) {
                Ok(secrets) => return Ok(secrets),
                Err(why) => last = why,
            }
        }
        Err(format!("no keyring opens: {last}"))
    }

    fn open_keyring(&self, signer: &Key, body: &[u8], id: &Identity) -> R<Secrets> {
        let keyring = cbor::parse(body)?;
        if *signer != id.root || keyring.need(0)?.uint()? != self.number {
            return Err("not the keyring of this roster".into());
        }
        let own = hash(&seal_public(&id.open)?);
        for part in keyring.need(1)?.array()? {
            let [recipient, encapsulation, sealed] = part.tuple::<3>()?;
            if recipient.bytes()? != own {
                continue;
            }
            let info = [b"lifeboat v1 keyring\0", &id.repository[..]].concat();
            let number = u32::try_from(self.number).map_err(|error| error.to_string())?.to_le_bytes();
            let plain = seal_open(&id.open, &info, &number, encapsulation.bytes()?, sealed.bytes()?)?;
            return Secrets::parse(&cbor::parse(&plain)?);
        }
        Err("this identity is not on the roster".into())
    }
}

/// What an identity finds in the keyring.
pub(crate) struct Secrets {
    /// X-Wing seeds by (1, epoch) and (2, maintenance key).
    pub(crate) readers: BTreeMap<(u8, u32), Key>,
    pub(crate) domains: BTreeMap<[u8; 16], Domain>,
}

impl Secrets {
    fn parse(value: &Value) -> R<Self> {
        let (mut readers, mut domains) = (BTreeMap::new(), BTreeMap::new());
        for (reader, field) in [(1, 0), (2, 1)] {
            for item in value.need(field)?.array()? {
                let [number, seed] = item.tuple::<2>()?;
                let number = u32::try_from(number.uint()?).map_err(|error| error.to_string())?;
                readers.insert((reader, number), seed.fixed()?);
            }
        }
        for item in value.need(2)?.array()? {
            let [id, secret] = item.tuple::<2>()?;
            domains.insert(id.fixed()?, Domain::new(id.fixed()?, &secret.fixed()?));
        }
        Ok(Self { readers, domains })
    }

    /// The run secret in an envelope.
    pub(crate) fn open_envelope(&self, repository: &[u8; 16], envelope: &[u8]) -> R<Key> {
        if envelope.len() != 1208 || envelope[1..4] != [0; 3] {
            return Err("not an envelope".into());
        }
        let (head, commitment) = (&envelope[..8], &envelope[8..40]);
        let generation = u32::from_le_bytes(head[4..].try_into().expect("4 bytes"));
        let seed = self.readers.get(&(head[0], generation)).ok_or("sealed to a key that we do not have")?;
        let info = [b"lifeboat v1 run secret\0", &repository[..], head].concat();
        let secret = seal_open(seed, &info, commitment, &envelope[40..1160], &envelope[1160..])?;
        let secret: Key = secret.try_into().map_err(|_| "a secret of another length")?;
        if kdf("lifeboat v1 secret commitment", &secret, &[repository]) == commitment {
            Ok(secret)
        } else {
            Err("an envelope that breaks its commitment".into())
        }
    }
}
