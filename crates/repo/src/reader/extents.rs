//! The extents of an entry, one after the other, however many there are.

use std::collections::VecDeque;
use std::sync::Arc;

use lifeboat_model::flow::ReadError;
use lifeboat_model::{ChunkId, EntryPath};

use super::{damaged, hurt};
use crate::fetch::{Ahead, Fetcher};
use crate::object::ObjectError;
use crate::page::{Content, Extent, decode_content_page};

/// Extents in order; content pages are fetched one ahead.
#[derive(Debug)]
pub(crate) struct Extents<'e> {
    fetcher: Arc<Fetcher>,
    path: &'e EntryPath,
    here: VecDeque<Extent>,
    pages: VecDeque<(ChunkId, u64)>,
    next: Option<(Ahead, u64)>,
}

impl<'e> Extents<'e> {
    pub(crate) fn new(fetcher: &Arc<Fetcher>, path: &'e EntryPath, content: Content) -> Self {
        let (here, pages) = match content {
            Content::Inline(extents) => (extents.into(), VecDeque::new()),
            Content::Pages(pages) => (VecDeque::new(), pages.into()),
        };
        Self { fetcher: Arc::clone(fetcher), path, here, pages, next: None }
    }

    fn fetch_ahead(&mut self) {
        if self.next.is_none() {
            self.next = self.pages.pop_front().map(|(id, bytes)| (self.fetcher.ahead(id), bytes));
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<Extent>, ReadError> {
        while self.here.is_empty() {
            self.fetch_ahead();
            let Some((page, bytes)) = self.next.take() else { return Ok(None) };
            self.fetch_ahead();
            let plain = page.plain().await.map_err(|error| hurt(self.path, error))?;
            let extents = decode_content_page(&plain).map_err(|why| damaged(self.path, why))?;
            let total = extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes()));
            if total != Some(bytes) {
                let why = ObjectError::malformed("a content page of another length than its entry says");
                return Err(damaged(self.path, why));
            }
            self.here = extents.into();
        }
        Ok(self.here.pop_front())
    }
}
