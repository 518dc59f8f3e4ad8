//! Packs: many encrypted records in one object. `docs/format.md`, section "Packs".

use std::cell::RefCell;
use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use lifeboat_model::{ChunkId, ObjectHash};

use crate::access::DomainKeys;
use crate::crypt::{Aead, Secret, TAG_BYTES, random};
use crate::object::{
    DOMAIN_SEAL_BYTES, DomainId, ENVELOPE_BYTES, Envelope, HEADER_BYTES, IndexKey, ObjectError, ObjectType,
    RepositoryId, header,
};

pub(crate) mod record;
pub(crate) mod trailer;

pub use record::{RECORD_BYTES, Record};
pub use trailer::{FOOTER_BYTES, PackContents, Trailer};

/// The longest plain bytes of a record.
pub const PLAIN_BYTES_MAX: usize = 8 << 20;
/// Where the first record of a pack starts: behind header, pack id and domain id.
pub const RECORDS_START: usize = HEADER_BYTES + 16 + 16;

/// Which kind of chunks a pack holds. The numbers are those of the objects' types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PackKind {
    /// Content of entries.
    Data = 4,
    /// Manifest and content pages.
    Meta = 5,
    /// Reference pages.
    Refs = 6,
}

impl PackKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Data, Self::Meta, Self::Refs];

    /// The type of such packs as objects.
    #[must_use]
    pub const fn object_type(self) -> ObjectType {
        match self {
            Self::Data => ObjectType::DataPack,
            Self::Meta => ObjectType::MetaPack,
            Self::Refs => ObjectType::RefsPack,
        }
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }

    /// The id that these plain bytes have in a pack of this kind; `None` where we lack the key.
    #[must_use]
    pub fn id_of(self, keys: &DomainKeys, plain: &[u8]) -> Option<ChunkId> {
        match self {
            Self::Data => keys.content.as_ref().map(|content| content.chunk_ids.chunk_id(plain)),
            Self::Meta => keys.content.as_ref().map(|content| content.page_ids.chunk_id(plain)),
            Self::Refs => Some(keys.refs_id(plain)),
        }
    }
}

/// How a record's plain bytes are stored. The numbers are those of the stored format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As they are.
    Plain = 0,
    /// As one zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Plain, Self::Zstd].into_iter().find(|codec| *codec as u8 == number)
    }
}

/// The 16 random bytes that name a pack before its hash is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PackId(pub [u8; 16]);

impl std::fmt::Debug for PackId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackId({})", hex::encode(&self.0[..4]))
    }
}

/// Where a record was encrypted first: its key hangs on it for good.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The pack.
    pub pack: PackId,
    /// The run secret of that pack, sealed.
    pub envelope: Envelope,
}

/// The key of all records that come from one origin.
#[derive(Debug)]
pub struct PackKey {
    aead: Aead,
    repository: RepositoryId,
    kind: PackKind,
    origin: PackId,
}

impl PackKey {
    /// Derives it from the run secret in the origin's envelope.
    #[must_use]
    pub fn new(repository: RepositoryId, run_secret: &Secret, kind: PackKind, origin: PackId) -> Self {
        let key = run_secret.derive("lifeboat v1 pack key", &[&[kind as u8], &origin.0]);
        Self { aead: Aead::new(&key), repository, kind, origin }
    }

    fn aad(&self, number: u32, id: &ChunkId, plain_len: u32, codec: Codec) -> Vec<u8> {
        [
            &b"lifeboat v1 record"[..],
            &self.repository.0,
            &[self.kind as u8],
            &self.origin.0,
            &number.to_le_bytes(),
            id.bytes(),
            &plain_len.to_le_bytes(),
            &[codec as u8],
        ]
        .concat()
    }

    /// The plain bytes of a record of this origin. Does not check the chunk id: see
    /// [`PackKind::id_of`].
    ///
    /// # Errors
    /// [`ObjectError`] where the ciphertext is not this record's, or does not decompress to the
    /// plain length.
    pub fn open(&self, record: &Record, mut ciphertext: Vec<u8>) -> Result<Bytes, ObjectError> {
        record.check()?;
        let aad = self.aad(record.number, &record.id, record.plain_len, record.codec);
        let length = self.aead.open_in_place(u64::from(record.number), &aad, &mut ciphertext)?.len();
        let plain_len = record.plain_len as usize;
        let plain = match record.codec {
            Codec::Plain => {
                ciphertext.truncate(length);
                ciphertext
            }
            Codec::Zstd => decompress(&ciphertext[..length], plain_len)?,
        };
        if plain.len() == plain_len {
            Ok(plain.into())
        } else {
            Err(ObjectError::malformed("a record of another length than it says"))
        }
    }
}

/// Decompresses one frame to at most `plain_len` bytes, which callers have bounded.
fn decompress(stored: &[u8], plain_len: usize) -> Result<Vec<u8>, ObjectError> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    DECOMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(zstd::bulk::Decompressor::new().map_err(ObjectError::malformed)?);
        }
        let decompressor = slot.as_mut().expect("it was just made");
        decompressor.decompress(stored, plain_len).map_err(ObjectError::malformed)
    })
}

/// A finished pack, ready to be put.
#[derive(Clone, Debug)]
pub struct FinishedPack {
    /// What it holds.
    pub kind: PackKind,
    /// The domain that it belongs to.
    pub domain: DomainId,
    /// Its own random id.
    pub pack_id: PackId,
    /// The hash of its bytes, which is its name.
    pub hash: ObjectHash,
    /// The object.
    pub bytes: Bytes,
    /// Origins of its records; [`Record::origin`] counts in this list.
    pub origins: Vec<Origin>,
    /// Its records in the order of their offsets, with pack number 0.
    pub records: Vec<Record>,
}

/// What the two ways to make a pack share.
#[derive(Debug)]
struct Frame {
    kind: PackKind,
    domain: DomainId,
    pack_id: PackId,
    buffer: BytesMut,
    origins: Vec<Origin>,
    records: Vec<Record>,
}

fn offset_u32(length: usize) -> u32 {
    u32::try_from(length).expect("a pack stays far below 4 GiB")
}

impl Frame {
    fn new(kind: PackKind, domain: DomainId, capacity_bytes: usize) -> Self {
        let pack_id = PackId(random());
        let mut buffer = BytesMut::with_capacity(capacity_bytes);
        buffer.extend_from_slice(&header(kind.object_type()));
        buffer.extend_from_slice(&pack_id.0);
        buffer.extend_from_slice(&domain.0);
        Self { kind, domain, pack_id, buffer, origins: Vec::new(), records: Vec::new() }
    }

    /// Length of the pack if it were finished now, within some bytes.
    fn bytes(&self) -> usize {
        let origins = self.origins.len() * (ENVELOPE_BYTES + 24);
        self.buffer.len() + origins + self.records.len() * RECORD_BYTES + DOMAIN_SEAL_BYTES + FOOTER_BYTES + 32
    }

    fn finish(mut self, key: &IndexKey) -> FinishedPack {
        let mut envelopes: Vec<&Envelope> = Vec::new();
        let mut origins = Vec::with_capacity(self.origins.len());
        for origin in &self.origins {
            let number = envelopes.iter().position(|known| *known == &origin.envelope).unwrap_or_else(|| {
                envelopes.push(&origin.envelope);
                envelopes.len() - 1
            });
            origins.push((origin.pack, offset_u32(number)));
        }
        for envelope in &envelopes {
            self.buffer.extend_from_slice(envelope.bytes());
        }
        let sealed = key.seal(self.kind.object_type(), &trailer::encode(&origins, &self.records));
        self.buffer.extend_from_slice(&sealed);
        self.buffer.extend_from_slice(&trailer::footer(offset_u32(envelopes.len()), offset_u32(sealed.len())));
        let bytes = self.buffer.freeze();
        FinishedPack {
            kind: self.kind,
            domain: self.domain,
            pack_id: self.pack_id,
            hash: ObjectHash(lifeboat_model::Digest::of(&bytes)),
            bytes,
            origins: self.origins,
            records: self.records,
        }
    }
}

/// Makes a pack of new chunks. Every record is encrypted where it will lie.
#[derive(Debug)]
pub struct PackBuilder {
    frame: Frame,
    key: PackKey,
}

impl PackBuilder {
    /// An empty pack under a run's secret; `envelope` holds that secret. `capacity_bytes` are set
    /// aside at once.
    #[must_use]
    pub fn new(
        kind: PackKind,
        repository: RepositoryId,
        domain: DomainId,
        run_secret: &Secret,
        envelope: Envelope,
        capacity_bytes: usize,
    ) -> Self {
        let mut frame = Frame::new(kind, domain, capacity_bytes);
        let origin = frame.pack_id;
        frame.origins.push(Origin { pack: origin, envelope });
        Self { frame, key: PackKey::new(repository, run_secret, kind, origin) }
    }

    /// Adds a chunk: `stored` is what `codec` made of the `plain_len` plain bytes.
    ///
    /// # Panics
    /// Where the plain bytes are longer than [`PLAIN_BYTES_MAX`], or the pack than 4 GiB.
    pub fn push(&mut self, id: ChunkId, stored: &[u8], plain_len: usize, codec: Codec) -> &Record {
        assert!(plain_len <= PLAIN_BYTES_MAX, "a chunk of {plain_len} bytes is too long for a record");
        let frame = &mut self.frame;
        let start = frame.buffer.len();
        let number = offset_u32(frame.records.len());
        let plain_len = offset_u32(plain_len);
        frame.buffer.reserve(stored.len() + TAG_BYTES);
        frame.buffer.extend_from_slice(stored);
        let aad = self.key.aad(number, &id, plain_len, codec);
        self.key.aead.seal_tail(u64::from(number), &aad, &mut frame.buffer, start);
        let stored_len = offset_u32(frame.buffer.len() - start);
        let kind = frame.kind;
        frame.records.push(Record {
            id,
            offset: offset_u32(start),
            stored_len,
            plain_len,
            number,
            origin: 0,
            pack: 0,
            codec,
            kind,
        });
        frame.records.last().expect("it was just pushed")
    }

    /// Its own random id.
    #[must_use]
    pub fn pack_id(&self) -> PackId {
        self.frame.pack_id
    }

    /// Length of the pack if it were finished now, within some bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.bytes()
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> usize {
        self.frame.records.len()
    }

    /// Closes the pack: envelopes, sealed trailer, hash.
    #[must_use]
    pub fn finish(self, key: &IndexKey) -> FinishedPack {
        self.frame.finish(key)
    }
}

/// Makes a pack of records of other packs, which stay as they are encrypted.
#[derive(Debug)]
pub struct Repacker {
    frame: Frame,
    places: HashMap<PackId, u32>,
}

impl Repacker {
    /// An empty pack.
    #[must_use]
    pub fn new(kind: PackKind, domain: DomainId, capacity_bytes: usize) -> Self {
        Self { frame: Frame::new(kind, domain, capacity_bytes), places: HashMap::new() }
    }

    /// Adds a record with its ciphertext as it lies in another pack, and its origin.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] where the ciphertext has another length or kind than the record
    /// says, or the origin another envelope than it had before.
    pub fn push_foreign(&mut self, record: &Record, ciphertext: &[u8], origin: &Origin) -> Result<(), ObjectError> {
        record.check()?;
        let frame = &mut self.frame;
        if record.kind != frame.kind || ciphertext.len() != record.stored_len as usize {
            return Err(ObjectError::malformed("a record of another kind or length than its index says"));
        }
        let place = *self.places.entry(origin.pack).or_insert_with(|| {
            frame.origins.push(origin.clone());
            offset_u32(frame.origins.len() - 1)
        });
        if frame.origins[place as usize].envelope.commitment() != origin.envelope.commitment() {
            return Err(ObjectError::malformed("two envelopes for one origin"));
        }
        let offset = offset_u32(frame.buffer.len());
        frame.buffer.extend_from_slice(ciphertext);
        frame.records.push(Record { offset, origin: place, pack: 0, ..*record });
        Ok(())
    }

    /// Length of the pack if it were finished now, within some bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.bytes()
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> usize {
        self.frame.records.len()
    }

    /// Closes the pack: envelopes, sealed trailer, hash.
    #[must_use]
    pub fn finish(self, key: &IndexKey) -> FinishedPack {
        self.frame.finish(key)
    }
}

#[cfg(test)]
mod tests;
