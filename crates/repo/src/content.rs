//! The content of one entry on its way into the manifest: extents, and pages of them for long ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use lifeboat_model::ChunkId;

use crate::pack::PackKind;
use crate::page::{Content, Extent, ReferencePage, encode_content_page};
use crate::pipeline::Pipeline;
use crate::pipeline::stop::Cause;
use crate::slices::Place;

/// The most extents that stand in an entry.
pub(crate) const INLINE_EXTENTS_MAX: usize = 64;
/// A content page ends after a chunk whose id starts with a u32 divisible by this.
const PAGE_DIVISOR: u32 = 1024;
/// The fewest extents of a content page that is not the last: several may be of one chunk.
const PAGE_EXTENTS_MIN: usize = 64;
/// The most extents of a content page.
const PAGE_EXTENTS_MAX: usize = 4096;

/// What a reference page needs to know of a content page, and where its chunk ids lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentPage {
    /// The reference page of the content page.
    pub(crate) refs: ChunkId,
    /// Its chunk ids in the run's [`IdFile`].
    pub(crate) ids: IdPlace,
}

/// An entry's content after all of it was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredContent {
    /// For the manifest.
    pub(crate) content: Content,
    /// One for each content page.
    pub(crate) pages: Vec<ContentPage>,
    /// Plain length of the chunks that were new.
    pub(crate) new_bytes: u64,
}

impl StoredContent {
    /// The content of what has none.
    pub(crate) fn empty() -> Self {
        Self { content: Content::Inline(Vec::new()), pages: Vec::new(), new_bytes: 0 }
    }
}

/// Chunk ids of a list of extents, sorted, each once.
pub(crate) fn chunk_ids(extents: &[Extent]) -> Vec<ChunkId> {
    let mut ids: Vec<ChunkId> = extents
        .iter()
        .filter_map(|extent| match extent {
            Extent::Chunk { id, .. } => Some(*id),
            Extent::Hole(_) => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Takes extents in order. Long lists become pages as they grow, so that no file is too large.
pub(crate) struct ContentBuilder<'a> {
    pipeline: &'a Pipeline,
    ids: &'a IdFile,
    /// Not in a page yet.
    extents: Vec<Extent>,
    /// How many of them were looked at for the end of a page.
    looked_at: usize,
    pages: Vec<(ChunkId, u64)>,
    uses: Vec<ContentPage>,
    new_bytes: u64,
}

impl<'a> ContentBuilder<'a> {
    pub(crate) fn new(pipeline: &'a Pipeline, ids: &'a IdFile) -> Self {
        Self { pipeline, ids, extents: Vec::new(), looked_at: 0, pages: Vec::new(), uses: Vec::new(), new_bytes: 0 }
    }

    /// Adds a chunk.
    pub(crate) async fn chunk(&mut self, id: ChunkId, len: u32, new: bool) -> Result<(), Cause> {
        self.new_bytes += if new { u64::from(len) } else { 0 };
        self.push(Extent::Chunk { id, offset: 0, len }).await
    }

    /// Adds a part of a chunk that was there before.
    pub(crate) async fn old(&mut self, place: Place) -> Result<(), Cause> {
        let Place { chunk: id, offset, len } = place;
        self.push(Extent::Chunk { id, offset, len }).await
    }

    /// Adds a part of a chunk that was stored for this content.
    pub(crate) async fn fresh(&mut self, place: Place, new: bool) -> Result<(), Cause> {
        self.new_bytes += if new { u64::from(place.len) } else { 0 };
        self.old(place).await
    }

    /// Adds a hole.
    pub(crate) async fn hole(&mut self, bytes: u64) -> Result<(), Cause> {
        self.push(Extent::Hole(bytes)).await
    }

    /// Adds an extent of any kind, none of whose bytes counts as new.
    pub(crate) async fn push(&mut self, extent: Extent) -> Result<(), Cause> {
        self.extents.push(extent);
        if self.pages.is_empty() && self.extents.len() <= INLINE_EXTENTS_MAX {
            return Ok(());
        }
        while let Some(end) = self.page_end() {
            self.page(end).await?;
        }
        Ok(())
    }

    /// How many extents the next page takes, if its end is there.
    fn page_end(&mut self) -> Option<usize> {
        while self.looked_at < self.extents.len() {
            let extent = &self.extents[self.looked_at];
            self.looked_at += 1;
            let ends = match extent {
                Extent::Chunk { id, .. } => ends_page(id.bytes(), PAGE_DIVISOR),
                Extent::Hole(_) => false,
            };
            if (ends && self.looked_at >= PAGE_EXTENTS_MIN) || self.looked_at == PAGE_EXTENTS_MAX {
                return Some(self.looked_at);
            }
        }
        None
    }

    async fn page(&mut self, extents: usize) -> Result<(), Cause> {
        let rest = self.extents.split_off(extents);
        let page = std::mem::replace(&mut self.extents, rest);
        self.looked_at = 0;
        let id = self.pipeline.store(PackKind::Meta, encode_content_page(&page).into()).await?.id;
        let chunks = chunk_ids(&page);
        let ids = self.ids.append(&chunks).map_err(|error| self.pipeline.scratch_failed(error))?;
        let refs = ReferencePage { page: id, chunks, pages: Vec::new() }.encode();
        let refs = self.pipeline.store(PackKind::Refs, Bytes::from(refs)).await?.id;
        self.pages.push((id, page.iter().map(Extent::bytes).sum()));
        self.uses.push(ContentPage { refs, ids });
        Ok(())
    }

    /// The content, with every chunk and page handed over.
    pub(crate) async fn finish(mut self) -> Result<StoredContent, Cause> {
        if self.pages.is_empty() && self.extents.len() <= INLINE_EXTENTS_MAX {
            let content = Content::Inline(self.extents);
            return Ok(StoredContent { content, pages: Vec::new(), new_bytes: self.new_bytes });
        }
        if !self.extents.is_empty() {
            self.page(self.extents.len()).await?;
        }
        Ok(StoredContent { content: Content::Pages(self.pages), pages: self.uses, new_bytes: self.new_bytes })
    }
}

/// The rule for the ends of pages: the first four bytes of a keyed hash, little-endian.
pub(crate) fn ends_page(hash: &[u8; 32], divisor: u32) -> bool {
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]).is_multiple_of(divisor)
}

/// Lists of chunk ids in an unnamed file of the scratch directory: those of long content, which
/// only the local cache wants again. Ids are keyed hashes and tell nothing.
#[derive(Debug)]
pub(crate) struct IdFile {
    file: File,
    end: Mutex<u64>,
}

/// Where a list lies in an [`IdFile`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdPlace {
    pub(crate) start: u64,
    pub(crate) count: u32,
}

impl IdFile {
    /// An empty file.
    pub(crate) fn create(scratch: &Path) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(scratch)?, end: Mutex::new(0) })
    }

    /// Adds a list.
    pub(crate) fn append(&self, ids: &[ChunkId]) -> io::Result<IdPlace> {
        let mut bytes = Vec::with_capacity(ids.len() * 32);
        for id in ids {
            bytes.extend_from_slice(id.bytes());
        }
        let start = {
            let mut end = self.end.lock().expect("no holder panics");
            let start = *end;
            *end += bytes.len() as u64;
            start
        };
        self.file.write_all_at(&bytes, start)?;
        Ok(IdPlace { start, count: u32::try_from(ids.len()).expect("a page holds few ids") })
    }

    /// Reads a list's bytes, 32 for each id.
    pub(crate) fn read(&self, place: IdPlace) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; place.count as usize * 32];
        self.file.read_exact_at(&mut bytes, place.start)?;
        Ok(bytes)
    }
}
