//! From a body to chunks.

use std::collections::VecDeque;

use bytes::Bytes;
use lifeboat_model::EntryPath;
use lifeboat_model::flow::{Body, BodyRead, Piece, Shape, SinkError};

use super::SnapshotWriter;
use super::sliced::Sliced;
use crate::chunker::{Chunker, Cut, Profile};
use crate::content::{ContentBuilder, StoredContent};
use crate::pack::PackKind;
use crate::pipeline::Pending;
use crate::pipeline::stop::{Cause, with_causes};

/// Chunks of one stream that may be with the workers. What waits is bounded by bytes; this keeps
/// the order of results short.
const UNDER_WAY_MAX: usize = 64;

/// A stretch whose chunk may still be with a worker.
enum Step {
    Hole(u64),
    Chunk { len: u32, pending: Pending },
}

impl Step {
    async fn settle(self, content: &mut ContentBuilder<'_>) -> Result<(), Cause> {
        match self {
            Self::Hole(bytes) => content.hole(bytes).await,
            Self::Chunk { len, pending } => {
                let stored = pending.wait().await?;
                content.chunk(stored.id, len, stored.new).await
            }
        }
    }
}

/// How the chunks of a stream are stored.
enum Way<'a> {
    /// Each as it is cut.
    Whole(ContentBuilder<'a>, VecDeque<Step>),
    /// In parts where most of a chunk is at hand.
    Sliced(Box<Sliced<'a>>),
}

pub(super) fn length_u32(chunk: &Bytes) -> u32 {
    u32::try_from(chunk.len()).expect("a chunk is short")
}

impl SnapshotWriter {
    /// Stores a body to its end.
    pub(super) async fn store_body(&self, path: &EntryPath, body: Body) -> Result<StoredContent, SinkError> {
        match body {
            Body::Empty => Ok(StoredContent::empty()),
            Body::Bytes(bytes) => self.store_bytes(bytes).await.map_err(|cause| cause.for_entry(path)),
            Body::Stream { from, shape } => self.store_stream(path, from, shape).await,
        }
    }

    async fn store_bytes(&self, bytes: Bytes) -> Result<StoredContent, Cause> {
        let mut content = ContentBuilder::new(self.pipeline(), &self.ids);
        if bytes.len() <= Profile::of(Shape::Stream).min {
            if !bytes.is_empty() {
                let len = length_u32(&bytes);
                let stored = self.pipeline().store(PackKind::Data, bytes).await?;
                content.chunk(stored.id, len, stored.new).await?;
            }
            return content.finish().await;
        }
        let mut chunker = Chunker::new(self.cutter.clone(), Shape::Stream);
        let mut under_way = VecDeque::new();
        chunker.push(Piece::Data(bytes));
        chunker.finish();
        self.take_cuts(&mut chunker, &mut under_way, &mut content).await?;
        settle_all(under_way, content).await
    }

    async fn store_stream(
        &self,
        path: &EntryPath,
        mut from: Box<dyn BodyRead>,
        shape: Shape,
    ) -> Result<StoredContent, SinkError> {
        let mut chunker = Chunker::new(self.cutter.clone(), shape);
        let mut way = match self.sliced(path, shape).await {
            Some(sliced) => Way::Sliced(Box::new(sliced)),
            None => Way::Whole(ContentBuilder::new(self.pipeline(), &self.ids), VecDeque::new()),
        };
        let repo = |cause: Cause| cause.for_entry(path);
        loop {
            self.ready()?;
            match from.next().await {
                Ok(Some(piece)) => chunker.push(piece),
                Ok(None) => break,
                Err(source) => {
                    let what = format!("reading {path} failed: {}", with_causes(source.as_ref()));
                    self.stop.give_up(Cause::Body(what));
                    return Err(SinkError::Body { path: path.clone(), source });
                }
            }
            self.take_all(&mut chunker, &mut way).await.map_err(repo)?;
        }
        chunker.finish();
        self.take_all(&mut chunker, &mut way).await.map_err(repo)?;
        match way {
            Way::Whole(content, under_way) => settle_all(under_way, content).await.map_err(repo),
            Way::Sliced(sliced) => sliced.finish(path).await.map_err(repo),
        }
    }

    async fn take_all(&self, chunker: &mut Chunker, way: &mut Way<'_>) -> Result<(), Cause> {
        match way {
            Way::Whole(content, under_way) => self.take_cuts(chunker, under_way, content).await,
            Way::Sliced(sliced) => {
                while let Some(cut) = chunker.next_cut() {
                    sliced.take(cut).await?;
                }
                Ok(())
            }
        }
    }

    /// Hands what is cut to the workers.
    async fn take_cuts(
        &self,
        chunker: &mut Chunker,
        under_way: &mut VecDeque<Step>,
        content: &mut ContentBuilder<'_>,
    ) -> Result<(), Cause> {
        while let Some(cut) = chunker.next_cut() {
            under_way.push_back(match cut {
                Cut::Hole(bytes) => Step::Hole(bytes),
                Cut::Chunk(chunk) => Step::Chunk {
                    len: length_u32(&chunk),
                    pending: self.pipeline().submit(PackKind::Data, chunk).await?,
                },
            });
            if under_way.len() > UNDER_WAY_MAX
                && let Some(first) = under_way.pop_front()
            {
                first.settle(content).await?;
            }
        }
        Ok(())
    }
}

async fn settle_all(under_way: VecDeque<Step>, mut content: ContentBuilder<'_>) -> Result<StoredContent, Cause> {
    for step in under_way {
        step.settle(&mut content).await?;
    }
    content.finish().await
}
