//! Index objects: where chunks lie. `docs/format.md`, section "Index".

use std::collections::HashMap;

use bytes::Bytes;
use lifeboat_model::ObjectHash;

use crate::access::Access;
use crate::cbor::{Build, Parse, required};
use crate::crypt::SignKey;
use crate::object::{Envelope, IndexKey, ObjectError, ObjectType};
use crate::pack::record::records;
use crate::pack::trailer::{origins, origins_field};
use crate::pack::{FinishedPack, Origin, PackId, PackKind, RECORD_BYTES, Record};
use crate::sealed::{self, Signed};

mod location;
mod segment;
mod set;
mod trailers;

pub use location::Location;
pub use set::{DamagedObject, IndexSet};
pub(crate) use set::{OBJECT_BYTES_MAX, blocking, hash_of};

/// The most records of one index object.
pub const INDEX_RECORDS_MAX: usize = 262_144;
/// The most packs of one index object: records name them by 16 bits.
pub const INDEX_PACKS_MAX: usize = 1 << 16;

/// A pack as an index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexPack {
    /// The hash that names it.
    pub hash: ObjectHash,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it holds.
    pub kind: PackKind,
}

/// What an index object says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IndexObject {
    /// Packs; [`Record::pack`] counts in this list.
    pub packs: Vec<IndexPack>,
    /// Origins with the places of their envelopes; [`Record::origin`] counts in this list.
    pub origins: Vec<(PackId, u32)>,
    /// Sealed run secrets.
    pub envelopes: Vec<Envelope>,
    /// Records in the order of their ids.
    pub records: Vec<Record>,
}

impl IndexObject {
    /// The object's name and bytes, ready to be put.
    #[must_use]
    pub fn encode(&self, key: &IndexKey, signer: &SignKey) -> (ObjectHash, Bytes) {
        sealed::make(key, ObjectType::Index, &self.plain(), signer)
    }

    fn plain(&self) -> Vec<u8> {
        let mut records = Vec::with_capacity(self.records.len() * RECORD_BYTES);
        for record in &self.records {
            records.extend_from_slice(&record.encode());
        }
        Build::record(|map| {
            map.field(0).list(self.packs.iter(), |out, pack| {
                out.array(3).bytes(pack.hash.bytes()).uint(pack.bytes).uint(pack.kind as u8)
            });
            origins_field(map, 1, &self.origins);
            map.field(2).list(self.envelopes.iter(), |out, envelope| out.bytes(envelope.bytes()));
            map.field(3).bytes(&records);
        })
    }

    /// Opens an index object after hash, signature and the signer's right were checked.
    ///
    /// # Errors
    /// As [`sealed::open`].
    pub fn decode(access: &Access, hash: ObjectHash, bytes: &[u8]) -> Result<Signed<Self>, ObjectError> {
        sealed::open(access, ObjectType::Index, hash, bytes)?.try_map(|plain| Self::parse(plain))
    }

    fn parse(plain: &[u8]) -> Result<Self, ObjectError> {
        let (mut packs, mut places, mut envelopes, mut bytes) = (None, None, None, None);
        Parse::whole(plain, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => packs = Some(value.list(index_pack)?),
                    1 => places = Some(origins(value)?),
                    2 => {
                        let read = |item: &mut Parse<'_>| Envelope::from_bytes(item.bytes()?);
                        envelopes = Some(value.list(read)?);
                    }
                    3 => bytes = Some(value.bytes()?),
                    _ => value.skip()?,
                }
                Ok(())
            })
        })?;
        let bytes = required(bytes, "records")?;
        if bytes.len() > INDEX_RECORDS_MAX * RECORD_BYTES {
            return Err(ObjectError::malformed("more records than an index may hold"));
        }
        let object = Self {
            packs: required(packs, "packs")?,
            origins: required(places, "origins")?,
            envelopes: required(envelopes, "envelopes")?,
            records: records(bytes)?.collect::<Result<_, _>>()?,
        };
        object.check()?;
        Ok(object)
    }

    /// Everything that is named by its place is there, and records lie inside of their packs.
    fn check(&self) -> Result<(), ObjectError> {
        let envelopes_there = self.origins.iter().all(|(_, envelope)| (*envelope as usize) < self.envelopes.len());
        let sorted = self.records.is_sorted_by_key(|record| record.id);
        let records_fit = self.records.iter().all(|record| {
            (record.origin as usize) < self.origins.len()
                && self
                    .packs
                    .get(usize::from(record.pack))
                    .is_some_and(|pack| pack.kind == record.kind && record.end() <= pack.bytes)
        });
        if self.packs.len() <= INDEX_PACKS_MAX && envelopes_there && sorted && records_fit {
            Ok(())
        } else {
            Err(ObjectError::malformed("an index whose records do not fit its packs"))
        }
    }
}

fn index_pack(parse: &mut Parse<'_>) -> Result<IndexPack, ObjectError> {
    parse.tuple(3)?;
    Ok(IndexPack {
        hash: parse.fixed::<32>()?.into(),
        bytes: parse.u64()?,
        kind: PackKind::from_number(parse.u8()?).ok_or_else(|| ObjectError::malformed("unknown type of pack"))?,
    })
}

/// Collects the records of finished packs until an index object is full.
#[derive(Debug, Default)]
pub struct IndexBuilder {
    object: IndexObject,
    origins: HashMap<PackId, u32>,
    envelopes: HashMap<Envelope, u32>,
}

fn place(length: usize) -> u32 {
    u32::try_from(length).expect("an index holds far fewer than 2^32 of anything")
}

impl IndexBuilder {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many records it holds.
    #[must_use]
    pub fn records(&self) -> usize {
        self.object.records.len()
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.object.packs.is_empty()
    }

    /// Whether `pack` would not fit any more: finish this one first.
    #[must_use]
    pub fn is_full_for(&self, pack: &FinishedPack) -> bool {
        !self.has_room_for(pack.records.len())
    }

    /// Whether one more pack with so many records fits.
    #[must_use]
    pub fn has_room_for(&self, records: usize) -> bool {
        self.records() + records <= INDEX_RECORDS_MAX && self.object.packs.len() < INDEX_PACKS_MAX
    }

    /// Adds a pack that is in the store.
    ///
    /// # Panics
    /// Where [`IndexBuilder::is_full_for`] said so.
    pub fn add(&mut self, pack: &FinishedPack) {
        let named = IndexPack { hash: pack.hash, bytes: pack.bytes.len() as u64, kind: pack.kind };
        self.add_pack(named, &pack.origins, &pack.records);
    }

    /// Adds a pack that is in the store; [`Record::origin`] counts in `origins`.
    ///
    /// # Panics
    /// Where [`IndexBuilder::has_room_for`] denied it.
    pub fn add_pack(&mut self, pack: IndexPack, origins: &[Origin], records: &[Record]) {
        assert!(self.has_room_for(records.len()), "the index is full");
        let object = &mut self.object;
        let number = u16::try_from(object.packs.len()).expect("it is not full");
        object.packs.push(pack);
        let origins: Vec<u32> = origins
            .iter()
            .map(|origin| {
                let envelope = *self.envelopes.entry(origin.envelope.clone()).or_insert_with(|| {
                    object.envelopes.push(origin.envelope.clone());
                    place(object.envelopes.len() - 1)
                });
                *self.origins.entry(origin.pack).or_insert_with(|| {
                    object.origins.push((origin.pack, envelope));
                    place(object.origins.len() - 1)
                })
            })
            .collect();
        for record in records {
            object.records.push(Record { pack: number, origin: origins[record.origin as usize], ..*record });
        }
    }

    /// The index object of everything that was added.
    #[must_use]
    pub fn finish(mut self) -> IndexObject {
        self.object.records.sort_by_key(|record| record.id);
        self.object
    }
}

#[cfg(test)]
mod tests;
