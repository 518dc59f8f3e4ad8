//! The small objects: run, renewal, forget, hold, void, mark, deleting, quarantine.
//! `docs/format.md`, section "Small objects".

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::{ChunkId, Digest, ObjectHash, SnapshotId};
use lifeboat_store::Key;

use crate::access::Access;
use crate::cbor::{Build, Fields, Parse, required};
use crate::crypt::SignKey;
use crate::object::{IndexKey, ObjectError, ObjectType};
use crate::pack::PackKind;
use crate::sealed::{self, Signed};

/// The 16 random bytes that name a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub [u8; 16]);

/// One of the small objects.
pub trait Small: Sized {
    /// Its type.
    const TYPE: ObjectType;

    /// Writes its fields.
    fn write(&self, map: &mut Fields<'_>);

    /// Reads its fields.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError>;
}

/// An object's name and bytes, ready to be put.
#[must_use]
pub fn encode<T: Small>(value: &T, key: &IndexKey, signer: &SignKey) -> (Key, Bytes) {
    let (hash, bytes) = sealed::make(key, T::TYPE, &Build::record(|map| value.write(map)), signer);
    (T::TYPE.key(hash), bytes)
}

/// Opens an object after hash, signature and the signer's right were checked.
///
/// # Errors
/// As [`sealed::open`].
pub fn decode<T: Small>(access: &Access, hash: ObjectHash, bytes: &[u8]) -> Result<Signed<T>, ObjectError> {
    sealed::open(access, T::TYPE, hash, bytes)?.try_map(|plain| Parse::whole(plain, T::read))
}

/// A run is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which run.
    pub run: RunId,
    /// What it backs up.
    pub source_tag: Digest,
    /// When it began, by the writer's clock.
    pub time: Timestamp,
}

/// A run is still open, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// Which run.
    pub run: RunId,
    /// Counts up.
    pub number: u64,
    /// Marks that the run has seen and avoids.
    pub marks_seen: Vec<ObjectHash>,
    /// Packs that it uses although they were marked since.
    pub pins: Vec<ObjectHash>,
    /// Whether the run has ended.
    pub ended: bool,
}

/// A snapshot is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Which one.
    pub snapshot: SnapshotId,
    /// Why, for people.
    pub why: String,
    /// When, by the clock of who forgot it.
    pub time: Timestamp,
}

/// A snapshot is kept whatever the retention policy says, until it is released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which one.
    pub snapshot: SnapshotId,
    /// Why, for people.
    pub why: String,
    /// When, by the clock of who holds it. The newest of a snapshot's holds decides.
    pub time: Timestamp,
    /// Whether this ends an earlier hold.
    pub release: bool,
}

/// A root object is no snapshot: what it needs may have been deleted while it was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void {
    /// Which one.
    pub snapshot: SnapshotId,
    /// Why, for people.
    pub why: String,
    /// When, by the clock of who voided it.
    pub time: Timestamp,
}

/// What a prune is going to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When, by the pruner's clock.
    pub time: Timestamp,
    /// Packs that nobody needs.
    pub packs: Vec<(PackKind, ObjectHash)>,
    /// Index objects that go with them.
    pub indexes: Vec<ObjectHash>,
    /// Other objects that go, by name.
    pub others: Vec<Key>,
}

/// What a mark names is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deleting {
    /// Which mark.
    pub mark: ObjectHash,
    /// When, by the pruner's clock.
    pub time: Timestamp,
    /// Packs of the mark that stay, because a run pinned them or a snapshot needs them again.
    pub kept: Vec<ObjectHash>,
}

impl Deleting {
    /// Whether a pack of the mark that this names is being deleted: a run that uses it must not seal.
    #[must_use]
    pub fn dooms(&self, mark: &Mark, pack: &ObjectHash) -> bool {
        mark.packs.iter().any(|(_, hash)| hash == pack) && !self.kept.contains(pack)
    }
}

/// Chunks that a check found bad in every copy: writers store them anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantine {
    /// When, by the checker's clock.
    pub time: Timestamp,
    /// Which chunks.
    pub chunks: Vec<ChunkId>,
    /// Why, for people.
    pub why: String,
}

fn hash(parse: &mut Parse<'_>) -> Result<ObjectHash, ObjectError> {
    Ok(parse.fixed::<32>()?.into())
}

fn hashes(parse: &mut Parse<'_>) -> Result<Vec<ObjectHash>, ObjectError> {
    parse.list(hash)
}

fn put_hashes(map: &mut Fields<'_>, key: u8, hashes: &[ObjectHash]) {
    map.field(key).list(hashes.iter(), |out, hash| out.bytes(hash.bytes()));
}

impl Small for Run {
    const TYPE: ObjectType = ObjectType::Run;

    fn write(&self, map: &mut Fields<'_>) {
        map.field(0).bytes(self.run.0);
        map.field(1).bytes(self.source_tag.0);
        map.field(2).time(self.time);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut run, mut tag, mut time) = (None, None, None);
        parse.map(|key, value| {
            match key {
                0 => run = Some(RunId(value.fixed()?)),
                1 => tag = Some(Digest(value.fixed()?)),
                2 => time = Some(value.time()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { run: required(run, "run")?, source_tag: required(tag, "source tag")?, time: required(time, "time")? })
    }
}

impl Small for Renewal {
    const TYPE: ObjectType = ObjectType::Renewal;

    fn write(&self, map: &mut Fields<'_>) {
        map.field(0).bytes(self.run.0);
        map.field(1).uint(self.number);
        put_hashes(map, 2, &self.marks_seen);
        put_hashes(map, 3, &self.pins);
        map.field(4).bool(self.ended);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut run, mut number, mut ended) = (None, None, None);
        let (mut marks_seen, mut pins) = (None, None);
        parse.map(|key, value| {
            match key {
                0 => run = Some(RunId(value.fixed()?)),
                1 => number = Some(value.u64()?),
                2 => marks_seen = Some(hashes(value)?),
                3 => pins = Some(hashes(value)?),
                4 => ended = Some(value.bool()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            run: required(run, "run")?,
            number: required(number, "number")?,
            marks_seen: required(marks_seen, "marks seen")?,
            pins: required(pins, "pins")?,
            ended: required(ended, "ended")?,
        })
    }
}

/// The fields that forget, hold and void share.
struct Verdict {
    snapshot: SnapshotId,
    why: String,
    time: Timestamp,
    release: bool,
}

fn write_verdict(map: &mut Fields<'_>, snapshot: &SnapshotId, why: &str, time: Timestamp) {
    map.field(0).bytes(snapshot.bytes());
    map.field(1).text(why);
    map.field(2).time(time);
}

fn read_verdict(parse: &mut Parse<'_>) -> Result<Verdict, ObjectError> {
    let (mut snapshot, mut why, mut time, mut release) = (None, None, None, false);
    parse.map(|key, value| {
        match key {
            0 => snapshot = Some(SnapshotId::from(value.fixed::<32>()?)),
            1 => why = Some(value.text()?.to_owned()),
            2 => time = Some(value.time()?),
            3 => release = value.bool()?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(Verdict {
        snapshot: required(snapshot, "snapshot")?,
        why: required(why, "why")?,
        time: required(time, "time")?,
        release,
    })
}

impl Small for Forget {
    const TYPE: ObjectType = ObjectType::Forget;

    fn write(&self, map: &mut Fields<'_>) {
        write_verdict(map, &self.snapshot, &self.why, self.time);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let Verdict { snapshot, why, time, .. } = read_verdict(parse)?;
        Ok(Self { snapshot, why, time })
    }
}

impl Small for Hold {
    const TYPE: ObjectType = ObjectType::Hold;

    fn write(&self, map: &mut Fields<'_>) {
        write_verdict(map, &self.snapshot, &self.why, self.time);
        if self.release {
            map.field(3).bool(true);
        }
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let Verdict { snapshot, why, time, release } = read_verdict(parse)?;
        Ok(Self { snapshot, why, time, release })
    }
}

impl Small for Void {
    const TYPE: ObjectType = ObjectType::Void;

    fn write(&self, map: &mut Fields<'_>) {
        write_verdict(map, &self.snapshot, &self.why, self.time);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let Verdict { snapshot, why, time, .. } = read_verdict(parse)?;
        Ok(Self { snapshot, why, time })
    }
}

impl Small for Mark {
    const TYPE: ObjectType = ObjectType::Mark;

    fn write(&self, map: &mut Fields<'_>) {
        map.field(0).time(self.time);
        map.field(1).list(self.packs.iter(), |out, (kind, hash)| out.array(2).uint(*kind as u8).bytes(hash.bytes()));
        put_hashes(map, 2, &self.indexes);
        map.field(3).list(self.others.iter(), |out, name| out.text(name.as_str()));
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut time, mut packs, mut indexes, mut others) = (None, None, None, None);
        parse.map(|key, value| {
            match key {
                0 => time = Some(value.time()?),
                1 => packs = Some(value.list(marked_pack)?),
                2 => indexes = Some(hashes(value)?),
                3 => others = Some(value.list(|item| Key::new(item.text()?).map_err(ObjectError::malformed))?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            time: required(time, "time")?,
            packs: required(packs, "packs")?,
            indexes: required(indexes, "index objects")?,
            others: required(others, "other objects")?,
        })
    }
}

fn marked_pack(parse: &mut Parse<'_>) -> Result<(PackKind, ObjectHash), ObjectError> {
    parse.tuple(2)?;
    let kind = PackKind::from_number(parse.u8()?).ok_or_else(|| ObjectError::malformed("unknown type of pack"))?;
    Ok((kind, hash(parse)?))
}

impl Small for Deleting {
    const TYPE: ObjectType = ObjectType::Deleting;

    fn write(&self, map: &mut Fields<'_>) {
        map.field(0).bytes(self.mark.bytes());
        map.field(1).time(self.time);
        put_hashes(map, 2, &self.kept);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut mark, mut time, mut kept) = (None, None, None);
        parse.map(|key, value| {
            match key {
                0 => mark = Some(hash(value)?),
                1 => time = Some(value.time()?),
                2 => kept = Some(hashes(value)?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(Self {
            mark: required(mark, "mark")?,
            time: required(time, "time")?,
            kept: required(kept, "packs that are kept")?,
        })
    }
}

impl Small for Quarantine {
    const TYPE: ObjectType = ObjectType::Quarantine;

    fn write(&self, map: &mut Fields<'_>) {
        map.field(0).time(self.time);
        map.field(1).list(self.chunks.iter(), |out, id| out.bytes(id.bytes()));
        map.field(2).text(&self.why);
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut time, mut chunks, mut why) = (None, None, None);
        parse.map(|key, value| {
            match key {
                0 => time = Some(value.time()?),
                1 => chunks = Some(value.list(|item| Ok(ChunkId::from(item.fixed::<32>()?)))?),
                2 => why = Some(value.text()?.to_owned()),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(Self { time: required(time, "time")?, chunks: required(chunks, "chunks")?, why: required(why, "why")? })
    }
}

#[cfg(test)]
mod tests;
