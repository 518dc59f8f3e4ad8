//! A stream whose changes are looked for inside of its chunks.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use lifeboat_model::flow::Shape;
use lifeboat_model::{ChunkId, EntryPath};

use super::SnapshotWriter;
use super::body::length_u32;
use crate::chunker::Cut;
use crate::content::{ContentBuilder, StoredContent};
use crate::pack::PackKind;
use crate::pipeline::stop::Cause;
use crate::pipeline::{Looked, Pending};
use crate::slices::{Part, Place, Plan, Segment, Slice, SliceMapWriter, Slicer, Window};

/// Plain bytes of one stream that are looked at ahead of the chunk that is placed.
const LOOKING_BYTES_MAX: usize = 2 << 20;
/// Chunks of one stream that are placed and may be with the workers.
const PLACING_MAX: usize = 64;
/// Shorter files are not worth a map.
const FILE_BYTES_MIN: u64 = 8 << 20;

/// A stretch that a worker looks at.
enum Looking {
    Hole(u64),
    Chunk(Bytes, Pending<Looked>),
}

/// A stretch of which is known how it is stored.
enum Placing {
    Hole(u64),
    Chunk { id: ChunkId, slices: Vec<Slice>, parts: Vec<Part>, fresh: Option<Pending> },
}

/// A stream on its way, with the map of the last backup and that of this one.
pub(super) struct Sliced<'a> {
    writer: &'a SnapshotWriter,
    slicer: Slicer,
    old: Option<Window>,
    new: Option<SliceMapWriter>,
    content: ContentBuilder<'a>,
    looking: VecDeque<Looking>,
    looking_bytes: usize,
    placing: VecDeque<Placing>,
}

impl SnapshotWriter {
    /// Whether slices are looked for: in dumps and files of pages always, in others when they are
    /// long and changed.
    pub(super) async fn sliced(&self, path: &EntryPath, shape: Shape) -> Option<Sliced<'_>> {
        let changed = || {
            let found = self.parent.as_ref().and_then(|parent| parent.find(path).ok().flatten());
            found.and_then(|(_, entry)| entry.content.bytes()).is_some_and(|bytes| bytes >= FILE_BYTES_MIN)
        };
        if shape == Shape::Stream && !changed() {
            return None;
        }
        let (maps, wanted) = (std::sync::Arc::clone(&self.maps), path.clone());
        let opened = tokio::task::spawn_blocking(move || (maps.old(&wanted), maps.create())).await;
        let (old, new) = opened.unwrap_or_default();
        Some(Sliced {
            writer: self,
            slicer: self.maps.slicer(&self.cutter, shape),
            old,
            new,
            content: ContentBuilder::new(self.pipeline(), &self.ids),
            looking: VecDeque::new(),
            looking_bytes: 0,
            placing: VecDeque::new(),
        })
    }
}

impl Sliced<'_> {
    /// Takes the next stretch of the stream.
    pub(super) async fn take(&mut self, cut: Cut) -> Result<(), Cause> {
        match cut {
            Cut::Hole(bytes) => self.looking.push_back(Looking::Hole(bytes)),
            Cut::Chunk(plain) => {
                self.looking_bytes += plain.len();
                let looked = self.writer.pipeline().look(&self.slicer, plain.clone()).await?;
                self.looking.push_back(Looking::Chunk(plain, looked));
            }
        }
        while self.looking_bytes > LOOKING_BYTES_MAX {
            self.place_first().await?;
        }
        Ok(())
    }

    /// Decides how the first stretch is stored, and hands over what of it is new.
    async fn place_first(&mut self) -> Result<(), Cause> {
        let Some(first) = self.looking.pop_front() else { return Ok(()) };
        let placing = match first {
            Looking::Hole(bytes) => Placing::Hole(bytes),
            Looking::Chunk(plain, looked) => {
                self.looking_bytes -= plain.len();
                let looked = looked.wait().await?;
                let id = looked.id;
                let Plan { parts, slices } = self.plan(looked, &plain);
                let fresh = fresh_bytes(&plain, &parts);
                let fresh = match fresh {
                    Some(fresh) => Some(self.writer.pipeline().submit(PackKind::Data, fresh).await?),
                    None => None,
                };
                Placing::Chunk { id, slices, parts, fresh }
            }
        };
        self.placing.push_back(placing);
        if self.placing.len() > PLACING_MAX { self.settle_first().await } else { Ok(()) }
    }

    fn plan(&mut self, Looked { id, at_hand, slices }: Looked, plain: &Bytes) -> Plan {
        let len = length_u32(plain);
        let whole = if at_hand { Part::Old(Place { chunk: id, offset: 0, len }) } else { Part::Fresh(len) };
        let planned = match &mut self.old {
            Some(old) if at_hand => old.met(&id).map(|()| None),
            Some(old) => {
                old.plan(&self.slicer, (&id, plain), &slices, |chunk| self.writer.known.has_all([chunk])).map(Some)
            }
            None => Ok(None),
        };
        let planned = planned.unwrap_or_else(|error| {
            tracing::warn!("a slice map cannot be read, a change to its stream costs more this time: {error}");
            self.old = None;
            None
        });
        planned.unwrap_or_else(|| Plan { parts: vec![whole], slices })
    }

    /// Adds the first placed stretch to the content and to the map.
    async fn settle_first(&mut self) -> Result<(), Cause> {
        match self.placing.pop_front() {
            None => Ok(()),
            Some(Placing::Hole(bytes)) => self.content.hole(bytes).await,
            Some(Placing::Chunk { id, slices, parts, fresh }) => {
                let fresh = match fresh {
                    Some(pending) => Some(pending.wait().await?),
                    None => None,
                };
                let (mut places, mut at) = (Vec::with_capacity(parts.len()), 0);
                for part in parts {
                    match (part, fresh) {
                        (Part::Fresh(len), Some(stored)) => {
                            let place = Place { chunk: stored.id, offset: at, len };
                            at += len;
                            self.content.fresh(place, stored.new).await?;
                            places.push(place);
                        }
                        (Part::Old(place), _) => {
                            self.content.old(place).await?;
                            places.push(place);
                        }
                        (Part::Fresh(_), None) => unreachable!("what is fresh was handed over"),
                    }
                }
                self.remember(&Segment { chunk: id, places, slices });
                Ok(())
            }
        }
    }

    fn remember(&mut self, segment: &Segment) {
        let Some(new) = &mut self.new else { return };
        if let Err(error) = new.segment(segment) {
            tracing::warn!("a slice map cannot be written, the next change to its stream costs more: {error}");
            self.new = None;
        }
    }

    /// The content, with all of it handed over.
    pub(super) async fn finish(mut self, path: &EntryPath) -> Result<StoredContent, Cause> {
        while !self.looking.is_empty() {
            self.place_first().await?;
        }
        while !self.placing.is_empty() {
            self.settle_first().await?;
        }
        let stored = self.content.finish().await?;
        if let Some(new) = self.new {
            self.writer.maps.put(path, new);
        }
        Ok(stored)
    }
}

/// The bytes of the fresh parts, one behind the other.
fn fresh_bytes(plain: &Bytes, parts: &[Part]) -> Option<Bytes> {
    if let [Part::Fresh(_)] = parts {
        return Some(plain.clone());
    }
    let (mut out, mut at) = (BytesMut::new(), 0);
    for part in parts {
        let end = at + part.len() as usize;
        if let Part::Fresh(_) = part {
            out.extend_from_slice(&plain[at..end]);
        }
        at = end;
    }
    (!out.is_empty()).then(|| out.freeze())
}
