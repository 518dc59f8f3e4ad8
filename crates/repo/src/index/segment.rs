//! A part of the index on the local disk: a table of records, and what they refer to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use lifeboat_model::{ChunkId, ObjectHash};

use super::{IndexObject, IndexPack, Location};
use crate::cbor::{Build, Parse, required};
use crate::crypt::{VerifyKey, random};
use crate::object::{DomainId, Envelope, ObjectError, RepositoryId};
use crate::pack::trailer::{origins, origins_field};
use crate::pack::{Origin, PackId, PackKind, Record};
use crate::table::{Merge, RowKey, Table, TableError, TableWriter};

/// Offset, stored length, plain length, number, origin, pack (u32 each), codec, kind (u8 each).
const VALUE_BYTES: usize = 26;
/// Copies of one chunk that are looked at in one domain; more come from a broken writer only.
const COPIES_MAX: usize = 64;
const EXTENSION: &str = "index";

/// An index object whose records are in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) hash: ObjectHash,
    pub(super) domain: DomainId,
    pub(super) signer: VerifyKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentPack {
    pub(super) hash: ObjectHash,
    bytes: u64,
    kind: PackKind,
    domain: DomainId,
    rows: u64,
    /// Which index objects name it, by their places; none for a pack whose trailer was read.
    sources: Vec<u32>,
    /// Whether any of them is still in the store.
    pub(super) live: bool,
    /// Whether any of them is good enough for a writer to build on.
    sure: bool,
}

/// What the records of a segment refer to by place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lists {
    pub(super) sources: Vec<Source>,
    pub(super) packs: Vec<SegmentPack>,
    origins: Vec<(PackId, u32)>,
    envelopes: Vec<Envelope>,
    /// Index objects of domains that we have no keys of, so that they are not fetched again.
    pub(super) foreign: Vec<(ObjectHash, DomainId)>,
}

fn place(length: usize) -> u32 {
    u32::try_from(length).expect("a segment holds far fewer than 2^32 of anything")
}

/// Collects records of several index objects or trailers for one segment.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) lists: Lists,
    /// By domain too: what the index of another says of a pack must not get in its own domain's way.
    pack_places: HashMap<(ObjectHash, DomainId), u32>,
    /// By envelope too, for the same reason.
    origin_places: HashMap<(PackId, u32), u32>,
    envelope_places: HashMap<Envelope, u32>,
    rows: Vec<(RowKey, [u8; VALUE_BYTES])>,
}

/// Records of one pack as an index or a trailer gives them.
pub(super) struct PackFacts {
    pub(super) hash: ObjectHash,
    pub(super) bytes: u64,
    pub(super) kind: PackKind,
    pub(super) domain: DomainId,
}

impl Collector {
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing worth a segment.
    pub(super) fn is_empty(&self) -> bool {
        self.lists.sources.is_empty() && self.lists.foreign.is_empty() && self.rows.is_empty()
    }

    fn pack(&mut self, facts: &PackFacts) -> u32 {
        *self.pack_places.entry((facts.hash, facts.domain)).or_insert_with(|| {
            let &PackFacts { hash, bytes, kind, domain } = facts;
            let (live, sure) = (true, false);
            self.lists.packs.push(SegmentPack { hash, bytes, kind, domain, rows: 0, sources: Vec::new(), live, sure });
            place(self.lists.packs.len() - 1)
        })
    }

    fn origin(&mut self, pack: PackId, envelope: &Envelope) -> u32 {
        let lists = &mut self.lists;
        let envelope = *self.envelope_places.entry(envelope.clone()).or_insert_with(|| {
            lists.envelopes.push(envelope.clone());
            place(lists.envelopes.len() - 1)
        });
        *self.origin_places.entry((pack, envelope)).or_insert_with(|| {
            lists.origins.push((pack, envelope));
            place(lists.origins.len() - 1)
        })
    }

    fn row(&mut self, record: &Record, pack: u32, origin: u32) {
        self.lists.packs[pack as usize].rows += 1;
        self.rows.push((*record.id.bytes(), encode_value(record, pack, origin)));
    }

    /// Takes an index object that was checked.
    pub(super) fn object(&mut self, source: Source, object: &IndexObject) {
        let number = place(self.lists.sources.len());
        self.lists.sources.push(source);
        let packs: Vec<u32> = object
            .packs
            .iter()
            .map(|pack| {
                let domain = source.domain;
                let place = self.pack(&PackFacts { hash: pack.hash, bytes: pack.bytes, kind: pack.kind, domain });
                self.lists.packs[place as usize].sources.push(number);
                place
            })
            .collect();
        let origins: Vec<u32> = object
            .origins
            .iter()
            .map(|(pack, envelope)| self.origin(*pack, &object.envelopes[*envelope as usize]))
            .collect();
        for record in &object.records {
            self.row(record, packs[usize::from(record.pack)], origins[record.origin as usize]);
        }
    }

    /// Takes what a pack's trailer says.
    pub(super) fn trailer(&mut self, facts: &PackFacts, origins: &[Origin], records: &[Record]) {
        let pack = self.pack(facts);
        let origins: Vec<u32> = origins.iter().map(|origin| self.origin(origin.pack, &origin.envelope)).collect();
        for record in records {
            self.row(record, pack, origins[record.origin as usize]);
        }
    }

    /// Writes the segment into `directory` under a new name.
    pub(super) fn write(mut self, directory: &Path, repository: RepositoryId) -> Result<Segment, TableError> {
        self.rows.sort_unstable();
        let mut table = TableWriter::create(&new_path(directory), VALUE_BYTES, self.rows.len() as u64)?;
        for (key, value) in &self.rows {
            table.push(key, value)?;
        }
        let table = table.finish(&self.lists.encode(repository))?;
        Ok(Segment { table, lists: self.lists })
    }
}

fn new_path(directory: &Path) -> PathBuf {
    directory.join(format!("{}.{EXTENSION}", hex::encode(random::<8>())))
}

/// Files of segments in a directory.
pub(super) fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A table of records with what they refer to.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) table: Table,
    pub(super) lists: Lists,
}

impl SegmentPack {
    pub(super) fn facts(&self) -> IndexPack {
        IndexPack { hash: self.hash, bytes: self.bytes, kind: self.kind }
    }
}

impl Segment {
    pub(super) fn open(path: &Path, repository: RepositoryId) -> Result<Self, TableError> {
        let mut table = Table::open(path, VALUE_BYTES)?;
        let note = table.take_note();
        let lists = Lists::decode(&note, repository)
            .map_err(|_| TableError::Damaged { path: path.to_owned(), why: "its note is not of this repository" })?;
        Ok(Self { table, lists })
    }

    /// Decides which packs count, by the index objects that are in the store and who may sign.
    pub(super) fn judge(&mut self, live: &BTreeSet<ObjectHash>, stands: impl Fn(&Source) -> bool) {
        let live: Vec<bool> = self.lists.sources.iter().map(|source| live.contains(&source.hash)).collect();
        let stands: Vec<bool> = self.lists.sources.iter().map(stands).collect();
        for pack in &mut self.lists.packs {
            pack.live = pack.sources.iter().any(|source| live[*source as usize]);
            pack.sure = pack.sources.iter().any(|source| live[*source as usize] && stands[*source as usize]);
        }
    }

    /// Rows of packs that count.
    pub(super) fn live_rows(&self) -> u64 {
        self.lists.packs.iter().filter(|pack| pack.live).map(|pack| pack.rows).sum()
    }

    /// Adds the copies of a chunk that lie in packs that count.
    pub(super) fn find(&self, id: &ChunkId, out: &mut Vec<Location>) -> Result<(), TableError> {
        let mut damaged = false;
        self.table.find(id.bytes(), |value| match self.location(id, value) {
            Some((true, location)) if has_room_for(out, &location) => {
                out.push(location);
            }
            Some(_) => {}
            None => damaged = true,
        })?;
        if damaged {
            let path = self.table.path().to_owned();
            return Err(TableError::Damaged { path, why: "a row refers to what is not there" });
        }
        Ok(())
    }

    fn location(&self, id: &ChunkId, value: &[u8]) -> Option<(bool, Location)> {
        let (record, pack) = decode_value(id, value)?;
        let pack = self.lists.packs.get(pack as usize)?;
        let (origin, envelope) = *self.lists.origins.get(record.origin as usize)?;
        let envelope = self.lists.envelopes.get(envelope as usize)?.clone();
        let location = Location {
            pack: pack.hash,
            pack_bytes: pack.bytes,
            domain: pack.domain,
            record: Record { origin: 0, ..record },
            origin: Origin { pack: origin, envelope },
            sure: pack.sure,
        };
        Some((pack.live, location))
    }
}

/// Whether a location is new among those that its domain tells of the chunk, and these are not too many.
fn has_room_for(found: &[Location], new: &Location) -> bool {
    let own = || found.iter().filter(|known| known.domain == new.domain);
    own().count() < COPIES_MAX && !own().any(|known| known.pack == new.pack && known.record.offset == new.record.offset)
}

/// Joins segments into one, without what is gone from the store.
pub(super) fn merge(
    segments: &[&Segment],
    directory: &Path,
    repository: RepositoryId,
    live: &BTreeSet<ObjectHash>,
) -> Result<Segment, TableError> {
    let mut joined = Collector::default();
    let mut maps = Vec::with_capacity(segments.len());
    for segment in segments {
        maps.push(joined.absorb(&segment.lists, live));
    }
    let expected = segments.iter().map(|segment| segment.live_rows()).sum();
    let mut table = TableWriter::create(&new_path(directory), VALUE_BYTES, expected)?;
    let rows = segments.iter().map(|segment| Box::new(segment.table.rows()) as Box<dyn Iterator<Item = _>>);
    let mut here: (RowKey, BTreeSet<(u32, u32)>) = ([0; 32], BTreeSet::new());
    for row in Merge::new(rows.collect()) {
        let (source, (key, value)) = row?;
        let path = || segments[source].table.path().to_owned();
        let bad = || TableError::Damaged { path: path(), why: "a row refers to what is not there" };
        let (record, pack) = decode_value(&ChunkId::from(key), &value).ok_or_else(bad)?;
        let (packs, origins) = &maps[source];
        let pack = packs.get(pack as usize).ok_or_else(bad)?;
        let origin = *origins.get(record.origin as usize).ok_or_else(bad)?;
        let Some(pack) = *pack else { continue };
        if here.0 != key {
            here = (key, BTreeSet::new());
        }
        if here.1.insert((pack, record.offset)) {
            joined.lists.packs[pack as usize].rows += 1;
            table.push(&key, &encode_value(&record, pack, origin))?;
        }
    }
    let table = table.finish(&joined.lists.encode(repository))?;
    Ok(Segment { table, lists: joined.lists })
}

/// New places of a segment's packs (none for those that are gone) and origins.
type Places = (Vec<Option<u32>>, Vec<u32>);

impl Collector {
    fn absorb(&mut self, lists: &Lists, live: &BTreeSet<ObjectHash>) -> Places {
        let known: BTreeMap<ObjectHash, u32> =
            self.lists.sources.iter().enumerate().map(|(at, source)| (source.hash, place(at))).collect();
        let sources: Vec<Option<u32>> = lists
            .sources
            .iter()
            .map(|source| {
                known.get(&source.hash).copied().or_else(|| {
                    live.contains(&source.hash).then(|| {
                        self.lists.sources.push(*source);
                        place(self.lists.sources.len() - 1)
                    })
                })
            })
            .collect();
        let packs = lists
            .packs
            .iter()
            .map(|pack| {
                let named: Vec<u32> = pack.sources.iter().filter_map(|source| sources[*source as usize]).collect();
                if named.is_empty() {
                    return None;
                }
                let &SegmentPack { hash, bytes, kind, domain, .. } = pack;
                let at = self.pack(&PackFacts { hash, bytes, kind, domain });
                let into = &mut self.lists.packs[at as usize];
                into.sure |= pack.sure;
                into.sources.extend(named);
                into.sources.sort_unstable();
                into.sources.dedup();
                Some(at)
            })
            .collect();
        let origins = lists
            .origins
            .iter()
            .map(|(pack, envelope)| self.origin(*pack, &lists.envelopes[*envelope as usize]))
            .collect();
        for foreign in &lists.foreign {
            if live.contains(&foreign.0) && !self.lists.foreign.contains(foreign) {
                self.lists.foreign.push(*foreign);
            }
        }
        (packs, origins)
    }
}

fn encode_value(record: &Record, pack: u32, origin: u32) -> [u8; VALUE_BYTES] {
    let mut out = [0; VALUE_BYTES];
    let numbers = [record.offset, record.stored_len, record.plain_len, record.number, origin, pack];
    for (place, number) in out.chunks_exact_mut(4).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    out[24] = record.codec as u8;
    out[25] = record.kind as u8;
    out
}

/// The record, with its origin's place, and the place of its pack.
fn decode_value(id: &ChunkId, value: &[u8]) -> Option<(Record, u32)> {
    let value: &[u8; VALUE_BYTES] = value.try_into().ok()?;
    let number = |at: usize| Some(u32::from_le_bytes(*value[at * 4..].first_chunk()?));
    let record = Record {
        id: *id,
        offset: number(0)?,
        stored_len: number(1)?,
        plain_len: number(2)?,
        number: number(3)?,
        origin: number(4)?,
        pack: 0,
        codec: crate::pack::Codec::from_number(value[24])?,
        kind: PackKind::from_number(value[25])?,
    };
    Some((record, number(5)?))
}

impl Lists {
    fn encode(&self, repository: RepositoryId) -> Vec<u8> {
        Build::record(|map| {
            map.field(0).bytes(repository.0);
            map.field(1).list(self.sources.iter(), |out, source| {
                out.array(3).bytes(source.hash.bytes()).bytes(source.domain.0).bytes(source.signer.0)
            });
            map.field(2).list(self.packs.iter(), |out, pack| {
                out.array(6).bytes(pack.hash.bytes()).uint(pack.bytes).uint(pack.kind as u8).bytes(pack.domain.0);
                out.uint(pack.rows).list(pack.sources.iter(), |out, source| out.uint(*source))
            });
            origins_field(map, 3, &self.origins);
            map.field(4).list(self.envelopes.iter(), |out, envelope| out.bytes(envelope.bytes()));
            map.field(5)
                .list(self.foreign.iter(), |out, (hash, domain)| out.array(2).bytes(hash.bytes()).bytes(domain.0));
        })
    }

    fn decode(note: &[u8], repository: RepositoryId) -> Result<Self, ObjectError> {
        let (mut lists, mut of) = (Self::default(), None);
        Parse::whole(note, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => of = Some(RepositoryId(value.fixed()?)),
                    1 => lists.sources = value.list(read_source)?,
                    2 => lists.packs = value.list(read_pack)?,
                    3 => lists.origins = origins(value)?,
                    4 => {
                        let read = |item: &mut Parse<'_>| Envelope::from_bytes(item.bytes()?);
                        lists.envelopes = value.list(read)?;
                    }
                    5 => lists.foreign = value.list(read_foreign)?,
                    _ => value.skip()?,
                }
                Ok(())
            })
        })?;
        let places_hold =
            lists.packs.iter().all(|pack| pack.sources.iter().all(|source| (*source as usize) < lists.sources.len()))
                && lists.origins.iter().all(|(_, envelope)| (*envelope as usize) < lists.envelopes.len());
        if required(of, "repository")? == repository && places_hold {
            Ok(lists)
        } else {
            Err(ObjectError::malformed("a segment of another repository"))
        }
    }
}

fn read_source(item: &mut Parse<'_>) -> Result<Source, ObjectError> {
    item.tuple(3)?;
    Ok(Source { hash: item.fixed::<32>()?.into(), domain: DomainId(item.fixed()?), signer: VerifyKey(item.fixed()?) })
}

fn read_pack(item: &mut Parse<'_>) -> Result<SegmentPack, ObjectError> {
    item.tuple(6)?;
    Ok(SegmentPack {
        hash: item.fixed::<32>()?.into(),
        bytes: item.u64()?,
        kind: PackKind::from_number(item.u8()?).ok_or_else(|| ObjectError::malformed("unknown type of pack"))?,
        domain: DomainId(item.fixed()?),
        rows: item.u64()?,
        sources: item.list(Parse::u32)?,
        live: false,
        sure: false,
    })
}

fn read_foreign(item: &mut Parse<'_>) -> Result<(ObjectHash, DomainId), ObjectError> {
    item.tuple(2)?;
    Ok((item.fixed::<32>()?.into(), DomainId(item.fixed()?)))
}
