//! Log roots: a stretch of a source's log. `docs/format.md`, section "Log root". No datastore writes
//! them yet; they keep their place in the format.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use lifeboat_model::{ChunkId, ObjectHash, SourceName, StackName};

use super::{RootHeader, RootKeys, RootRefs, fields, open_parts, seal_parts};
use crate::access::Access;
use crate::cbor::{Build, Parse, required};
use crate::crypt::VerifyKey;
use crate::object::{DomainId, ObjectError, ObjectType};

/// One segment of a log. Its bytes and facts are the entry of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Unique within its log.
    pub name: String,
    /// The position in the log where it begins, as the datastore writes it.
    pub begins: String,
    /// Where it ends: the next one begins there.
    pub ends: String,
}

/// Part C of a log root, for identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBody {
    /// The stack.
    pub stack: StackName,
    /// The source.
    pub source: SourceName,
    /// What kind of source.
    pub kind: String,
    /// Which log of the source: a timeline, a shard.
    pub log: String,
    /// The manifest's top page; none for a stretch without segments.
    pub top: Option<ChunkId>,
    /// In the order of the log, which need not be that of the manifest.
    pub segments: Vec<Segment>,
    /// What the source tells of the stretch, such as the times between which it lies.
    pub facts: BTreeMap<String, String>,
}

/// A log root, checked and opened as far as our keys reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRoot {
    /// The hash of the object.
    pub hash: ObjectHash,
    /// Who signed it.
    pub writer: VerifyKey,
    /// The writer's domain.
    pub domain: DomainId,
    /// Part A; sequence and previous root are of the writer's log roots of the source.
    pub header: RootHeader,
    /// Part B, where we have the maintenance key of its generation.
    pub refs: Option<RootRefs>,
    /// Part C, where we have the epoch key of its generation.
    pub body: Option<LogBody>,
}

/// A log root's hash and bytes, ready to be put.
#[must_use]
pub fn encode(head: &RootHeader, refs: &RootRefs, body: &LogBody, keys: &RootKeys<'_>) -> (ObjectHash, Bytes) {
    seal_parts(ObjectType::LogRoot, head, refs, &write_body(body), keys)
}

/// Checks hash, signature, the writer's right to the source, and opens what our keys open.
///
/// # Errors
/// As [`super::decode`].
pub fn decode(access: &Access, hash: ObjectHash, bytes: &[u8]) -> Result<LogRoot, ObjectError> {
    let parts = open_parts(access, ObjectType::LogRoot, hash, bytes)?;
    let refs = parts.refs.as_deref().map(fields::read_refs).transpose()?;
    let body = parts.body.as_deref().map(read_body).transpose()?;
    if let Some(body) = &body {
        parts.names(access, &body.stack, &body.source)?;
    }
    Ok(LogRoot { hash, writer: parts.writer, domain: parts.domain, header: parts.header, refs, body })
}

fn write_body(body: &LogBody) -> Vec<u8> {
    Build::record(|map| {
        map.field(0).text(body.stack.as_str());
        map.field(1).text(body.source.as_str());
        map.field(2).text(&body.kind);
        map.field(3).text(&body.log);
        map.some(4, body.top.as_ref(), |out, id| out.bytes(id.bytes()));
        map.field(5).list(body.segments.iter(), |out, segment| {
            out.map(|map| {
                map.field(0).text(&segment.name);
                map.field(1).text(&segment.begins);
                map.field(2).text(&segment.ends);
            })
        });
        map.field(6).text_map(&body.facts, |out, text| out.text(text));
    })
}

fn read_body(plain: &[u8]) -> Result<LogBody, ObjectError> {
    let (mut stack, mut source, mut kind, mut log, mut top) = (None, None, None, None, None);
    let (mut segments, mut facts) = (None, None);
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => stack = Some(StackName::new(value.text()?).map_err(ObjectError::malformed)?),
                1 => source = Some(SourceName::new(value.text()?).map_err(ObjectError::malformed)?),
                2 => kind = Some(value.text()?.to_owned()),
                3 => log = Some(value.text()?.to_owned()),
                4 => top = Some(ChunkId::from(value.fixed::<32>()?)),
                5 => segments = Some(value.list(read_segment)?),
                6 => facts = Some(value.text_map(|text| Ok(text.text()?.to_owned()))?),
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    let segments: Vec<Segment> = required(segments, "segments")?;
    let names: BTreeSet<&str> = segments.iter().map(|segment| segment.name.as_str()).collect();
    if names.len() < segments.len() {
        return Err(ObjectError::malformed("two segments of one name"));
    }
    Ok(LogBody {
        stack: required(stack, "stack")?,
        source: required(source, "source")?,
        kind: required(kind, "kind")?,
        log: required(log, "log")?,
        top,
        segments,
        facts: required(facts, "facts")?,
    })
}

fn read_segment(parse: &mut Parse<'_>) -> Result<Segment, ObjectError> {
    let (mut name, mut begins, mut ends) = (None, None, None);
    parse.map(|key, value| {
        match key {
            0 => name = Some(value.text()?.to_owned()),
            1 => begins = Some(value.text()?.to_owned()),
            2 => ends = Some(value.text()?.to_owned()),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(Segment { name: required(name, "name")?, begins: required(begins, "begin")?, ends: required(ends, "end")? })
}

/// A place where a log cannot be followed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tear {
    /// Roots are missing between two that are there, or one of them is of another history.
    Roots {
        /// The sequence of the one before.
        after: u64,
        /// The sequence of the one behind.
        next: u64,
    },
    /// A segment does not begin where the one before it ended.
    Segments {
        /// The one before.
        after: String,
        /// The one behind.
        next: String,
    },
}

/// Where the logs of a source are torn. `roots` are all log roots of one writer and source, opened with an
/// identity, in the order of their sequences; those of several logs may alternate.
#[must_use]
pub fn tears(roots: &[LogRoot]) -> Vec<Tear> {
    let mut tears = Vec::new();
    for (root, next) in roots.iter().zip(roots.iter().skip(1)) {
        let (after, next_sequence) = (root.header.sequence, next.header.sequence);
        if after.checked_add(1) != Some(next_sequence) || next.header.previous != Some(root.hash) {
            tears.push(Tear::Roots { after, next: next_sequence });
        }
    }
    let mut ends: BTreeMap<&str, &Segment> = BTreeMap::new();
    for body in roots.iter().filter_map(|root| root.body.as_ref()) {
        for segment in &body.segments {
            let before = ends.insert(&body.log, segment);
            if let Some(before) = before.filter(|before| before.ends != segment.begins) {
                tears.push(Tear::Segments { after: before.name.clone(), next: segment.name.clone() });
            }
        }
    }
    tears
}

#[cfg(test)]
mod tests;
