//! Where chunks are, by indexes and by trailers, and what is in them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::R;
use super::cbor;
use super::crypt::{Key, aead_open, kdf, mac};
use super::objects::{Domain, Roster, Secrets, Store, open_header, open_signed};

const PLAIN_BYTES_MAX: u32 = 8 << 20;
/// The directory of each type of pack.
const PACKS: [(u8, &str); 3] = [(4, "data/"), (5, "meta/"), (6, "refs/")];

struct Copy {
    pack: String,
    offset: usize,
    stored: usize,
    plain: u32,
    number: u32,
    codec: u8,
    origin: [u8; 16],
    envelope: Vec<u8>,
}

/// All chunks of a repository.
pub(crate) struct Chunks<'r> {
    store: &'r Store,
    repository: [u8; 16],
    secrets: &'r Secrets,
    /// By domain, type of pack and id.
    copies: BTreeMap<([u8; 16], u8, Key), Vec<Copy>>,
    packs: RefCell<HashMap<String, Vec<u8>>>,
    opened: RefCell<HashMap<Vec<u8>, Key>>,
    pub(crate) damaged: Vec<String>,
}

/// Envelopes and origins of an index or a trailer.
struct Origins {
    origins: Vec<([u8; 16], usize)>,
    envelopes: Vec<Vec<u8>>,
}

impl<'r> Chunks<'r> {
    pub(crate) fn load(store: &'r Store, repository: [u8; 16], roster: &Roster, secrets: &'r Secrets) -> R<Self> {
        let (copies, packs, opened) = (BTreeMap::new(), RefCell::default(), RefCell::default());
        let mut all = Self { store, repository, secrets, copies, packs, opened, damaged: vec![] };
        let mut named = BTreeSet::new();
        for name in store.names("index/")? {
            if let Err(why) = all.index(&name, roster, &mut named) {
                all.damaged.push(format!("{name}: {why}"));
            }
        }
        for (kind, prefix) in PACKS {
            for name in store.names(prefix)? {
                if named.contains(&name) {
                    continue;
                }
                if let Err(why) = all.trailer(&name, kind) {
                    all.damaged.push(format!("{name}: {why}"));
                }
            }
        }
        Ok(all)
    }

    fn index(&mut self, name: &str, roster: &Roster, named: &mut BTreeSet<String>) -> R<()> {
        let (signer, body) = open_signed(&self.repository, 7, &self.store.get(name)?)?;
        let id: [u8; 16] = body.get(..16).ok_or("short")?.try_into().expect("16 bytes");
        roster.role((7, name), &signer, &id)?;
        let domain = self.secrets.domains.get(&id).ok_or("an unknown domain")?;
        let index = cbor::parse(&domain.open(&self.repository, 7, &body)?)?;
        let mut packs = Vec::new();
        for pack in index.need(0)?.array()? {
            let [hash, _size, kind] = pack.tuple::<3>()?;
            let kind = kind.uint()?;
            let (kind, prefix) = PACKS.iter().find(|known| u64::from(known.0) == kind).ok_or("an unknown pack")?;
            packs.push((format!("{prefix}{}", hex::encode(hash.fixed::<32>()?)), *kind));
        }
        let envelopes = index.need(2)?.array()?.iter().map(|item| Ok(item.bytes()?.to_vec())).collect::<R<_>>()?;
        let origins = Origins { origins: origins_of(index.need(1)?)?, envelopes };
        self.records(id, &packs, &origins, index.need(3)?.bytes()?)?;
        named.extend(packs.into_iter().map(|pack| pack.0));
        Ok(())
    }

    fn trailer(&mut self, name: &str, kind: u8) -> R<()> {
        let pack = self.store.get(name)?;
        let body = open_header(kind, &pack)?;
        let (rest, footer) = body.split_last_chunk::<12>().ok_or("short")?;
        let number = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().expect("4 bytes")) as usize;
        if &footer[8..] != b"LBPK" {
            return Err("a pack without its end".into());
        }
        let (rest, sealed) = rest.split_at_checked(rest.len().wrapping_sub(number(4))).ok_or("cut")?;
        let (_, envelopes) = rest.split_at_checked(rest.len().wrapping_sub(number(0) * 1208)).ok_or("cut")?;
        let id: [u8; 16] = body.get(16..32).ok_or("short")?.try_into().expect("16 bytes");
        let domain = self.secrets.domains.get(&id).ok_or("an unknown domain")?;
        let trailer = cbor::parse(&domain.open(&self.repository, kind, sealed)?)?;
        let envelopes = envelopes.chunks(1208).map(<[u8]>::to_vec).collect();
        let origins = Origins { origins: origins_of(trailer.need(0)?)?, envelopes };
        self.records(id, &[(name.to_owned(), kind)], &origins, trailer.need(1)?.bytes()?)
    }

    fn records(&mut self, domain: [u8; 16], packs: &[(String, u8)], origins: &Origins, records: &[u8]) -> R<()> {
        let (records, rest) = records.as_chunks::<56>();
        if !rest.is_empty() {
            return Err("records are cut off".into());
        }
        for record in records {
            let number = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("4 bytes"));
            let pack = usize::from(u16::from_le_bytes([record[52], record[53]]));
            let (pack, kind) = packs.get(pack).ok_or("a record of no pack")?;
            let (origin, envelope) = *origins.origins.get(number(48) as usize).ok_or("a record of no origin")?;
            let envelope = origins.envelopes.get(envelope).ok_or("an origin without envelope")?.clone();
            if *kind != record[55] || number(40) > PLAIN_BYTES_MAX {
                return Err("a record of another type, or too long".into());
            }
            let copy = Copy {
                pack: pack.clone(),
                offset: number(32) as usize,
                stored: number(36) as usize,
                plain: number(40),
                number: number(44),
                codec: record[54],
                origin,
                envelope,
            };
            let id: Key = record[..32].try_into().expect("32 bytes");
            self.copies.entry((domain, *kind, id)).or_default().push(copy);
        }
        Ok(())
    }

    /// The plain bytes of a chunk: the first copy that opens and has the id.
    pub(crate) fn get(&self, domain: &Domain, kind: u8, id: &Key) -> R<Vec<u8>> {
        let mut why = format!("no pack is known to hold {}", hex::encode(id));
        for copy in self.copies.get(&(domain.id, kind, *id)).into_iter().flatten() {
            match self.open(domain, kind, id, copy) {
                Ok(plain) => return Ok(plain),
                Err(error) => why = format!("{}: {error}", copy.pack),
            }
        }
        Err(why)
    }

    fn open(&self, domain: &Domain, kind: u8, id: &Key, copy: &Copy) -> R<Vec<u8>> {
        let mut packs = self.packs.borrow_mut();
        if !packs.contains_key(&copy.pack) {
            packs.insert(copy.pack.clone(), self.store.get(&copy.pack)?);
        }
        let pack = &packs[&copy.pack];
        let sealed = pack.get(copy.offset..copy.offset + copy.stored).ok_or("a record outside of its pack")?;
        let known = self.opened.borrow().get(&copy.envelope).copied();
        let secret = match known {
            Some(secret) => secret,
            None => self.secrets.open_envelope(&self.repository, &copy.envelope)?,
        };
        self.opened.borrow_mut().insert(copy.envelope.clone(), secret);
        let key = kdf("lifeboat v1 pack key", &secret, &[&[kind], &copy.origin]);
        let aad = [
            &b"lifeboat v1 record"[..],
            &self.repository,
            &[kind],
            &copy.origin,
            &copy.number.to_le_bytes(),
            id,
            &copy.plain.to_le_bytes(),
            &[copy.codec],
        ]
        .concat();
        let stored = aead_open(&key, copy.number.into(), &aad, sealed)?;
        let plain = match copy.codec {
            0 => stored,
            1 => zstd::bulk::decompress(&stored, copy.plain as usize).map_err(|error| error.to_string())?,
            other => return Err(format!("an unknown codec {other}")),
        };
        let ids = [&domain.chunk_ids, &domain.page_ids, &domain.refs_ids][usize::from(kind - 4)];
        if plain.len() == copy.plain as usize && mac(ids, &plain) == *id {
            Ok(plain)
        } else {
            Err("it does not have the id that it should".into())
        }
    }

    /// How many copies of chunks are known.
    pub(crate) fn copies(&self) -> usize {
        self.copies.values().map(Vec::len).sum()
    }
}

fn origins_of(value: &cbor::Value) -> R<Vec<([u8; 16], usize)>> {
    let origin = |item: &cbor::Value| {
        let [pack, envelope] = item.tuple::<2>()?;
        Ok((pack.fixed()?, usize::try_from(envelope.uint()?).map_err(|error| error.to_string())?))
    };
    value.array()?.iter().map(origin).collect()
}
