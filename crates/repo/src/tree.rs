//! The manifest: sorted entries become pages, pages become a tree, and references mirror it.
//! `docs/format.md`, sections "Manifest" and "References".

use std::io;
use std::path::Path;

use lifeboat_model::{ChunkId, EntryMeta, EntryPath, Fingerprint};

use crate::content::{ContentPage, IdPlace, StoredContent, chunk_ids, ends_page};
use crate::crypt::Secret;
use crate::page::{ChildPage, Content, ManifestPage, ReferencePage, StoredEntry};
use crate::spill::{Sorted, Sorter};

/// A page of entries ends after a path whose keyed hash starts with a u32 divisible by this.
const LEAF_DIVISOR: u32 = 256;
/// A page of pages ends after a page whose id starts with a u32 divisible by this.
const INNER_DIVISOR: u32 = 128;
/// A page ends when it has reached this length.
const PAGE_BYTES: usize = 256 << 10;

/// An entry between its `put` and the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TreeEntry {
    pub(crate) path: EntryPath,
    /// As [`StoredEntry::encode`] made it.
    pub(crate) encoded: Vec<u8>,
    pub(crate) content: Content,
    pub(crate) pages: Vec<ContentPage>,
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// Where a record's two parts end and how many pages it has: three u32, then whether there is a
/// fingerprint, and it.
const HEAD_BYTES: usize = 12 + 1 + 16;
const PAGE_RECORD_BYTES: usize = 32 + 8 + 4;

impl TreeEntry {
    fn value(meta: &EntryMeta, path: &EntryPath, fingerprint: Option<Fingerprint>, stored: StoredContent) -> Vec<u8> {
        let content = stored.content.encode();
        let entry = StoredEntry { path: path.clone(), meta: meta.clone(), content: stored.content }.encode();
        let mut out =
            Vec::with_capacity(HEAD_BYTES + entry.len() + content.len() + stored.pages.len() * PAGE_RECORD_BYTES);
        for length in [entry.len(), content.len(), stored.pages.len()] {
            out.extend_from_slice(&u32::try_from(length).expect("an entry is short").to_le_bytes());
        }
        out.push(u8::from(fingerprint.is_some()));
        out.extend_from_slice(&fingerprint.unwrap_or(Fingerprint([0; 16])).0);
        out.extend_from_slice(&entry);
        out.extend_from_slice(&content);
        for page in &stored.pages {
            out.extend_from_slice(page.refs.bytes());
            out.extend_from_slice(&page.ids.start.to_le_bytes());
            out.extend_from_slice(&page.ids.count.to_le_bytes());
        }
        out
    }

    fn read(key: &[u8], value: &[u8]) -> Option<Self> {
        let path = key.iter().map(|byte| if *byte == 0 { b'/' } else { *byte }).collect::<Vec<u8>>();
        let (head, rest) = value.split_at_checked(HEAD_BYTES)?;
        let length = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
        let (encoded, rest) = rest.split_at_checked(length(0)?)?;
        let (content, pages) = rest.split_at_checked(length(4)?)?;
        let fingerprint = (head[12] == 1).then_some(Fingerprint(head[13..].try_into().ok()?));
        let page = |bytes: &[u8]| {
            Some(ContentPage {
                refs: <[u8; 32]>::try_from(&bytes[..32]).ok()?.into(),
                ids: IdPlace {
                    start: u64::from_le_bytes(bytes[32..40].try_into().ok()?),
                    count: u32::from_le_bytes(bytes[40..].try_into().ok()?),
                },
            })
        };
        Some(Self {
            path: EntryPath::new(path).ok()?,
            encoded: encoded.to_vec(),
            content: Content::decode(content).ok()?,
            pages: pages.chunks_exact(PAGE_RECORD_BYTES).map(page).collect::<Option<_>>()?,
            fingerprint,
        })
    }
}

/// Takes entries in any order; the last one of a path counts.
#[derive(Debug)]
pub(crate) struct EntrySorter(Sorter);

impl EntrySorter {
    /// Keeps about `limit_bytes` in memory.
    pub(crate) fn new(scratch: &Path, limit_bytes: usize) -> Self {
        Self(Sorter::new(scratch, limit_bytes))
    }

    /// Whether the next entry may have to wait for the disk.
    pub(crate) fn is_nearly_full(&self) -> bool {
        self.0.is_nearly_full()
    }

    /// Writes what is in memory to the disk.
    pub(crate) fn spill(mut self) -> io::Result<Self> {
        self.0.spill()?;
        Ok(self)
    }

    /// Adds an entry.
    pub(crate) fn push(
        &mut self,
        path: &EntryPath,
        meta: &EntryMeta,
        fingerprint: Option<Fingerprint>,
        stored: StoredContent,
    ) -> io::Result<()> {
        // '/' sorts below every other byte of a path, as NUL does, which no path holds.
        let key: Vec<u8> = path.as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte }).collect();
        self.0.push(&key, &TreeEntry::value(meta, path, fingerprint, stored))
    }

    /// Entries in the order of their paths.
    pub(crate) fn finish(self) -> io::Result<SortedEntries> {
        Ok(SortedEntries(self.0.finish()?))
    }
}

/// Entries in the order of their paths.
#[derive(Debug)]
pub(crate) struct SortedEntries(Sorted);

impl SortedEntries {
    /// The next entry.
    pub(crate) fn next(&mut self) -> io::Result<Option<TreeEntry>> {
        match self.0.next(TreeEntry::read)? {
            None => Ok(None),
            Some(Some(entry)) => Ok(Some(entry)),
            Some(None) => Err(io::Error::new(io::ErrorKind::InvalidData, "an entry came back broken from scratch")),
        }
    }
}

/// Where pages go.
pub(crate) trait PageStore {
    /// What stops it.
    type Error;
    /// Stores a manifest page and returns its id.
    fn page(&mut self, plain: &[u8]) -> Result<ChunkId, Self::Error>;
    /// Stores a reference page and returns its id.
    fn refs(&mut self, plain: &[u8]) -> Result<ChunkId, Self::Error>;
}

/// The top of a finished tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Top page and its reference page; `None` for no entries.
    pub(crate) top: Option<(ChunkId, ChunkId)>,
    /// Entries in it.
    pub(crate) entries: u64,
    /// Bytes of content, holes included.
    pub(crate) bytes: u64,
}

/// One page that is being filled.
#[derive(Default)]
struct OpenPage {
    items: Vec<Vec<u8>>,
    item_bytes: usize,
    first: Option<EntryPath>,
    chunks: Vec<ChunkId>,
    refs: Vec<ChunkId>,
    entries: u64,
    bytes: u64,
    /// Its only child, in case that this is the top and has no other.
    only: Option<(ChunkId, ChunkId)>,
}

impl OpenPage {
    fn add(&mut self, path: &EntryPath, item: Vec<u8>) {
        self.first.get_or_insert_with(|| path.clone());
        self.item_bytes += item.len();
        self.items.push(item);
    }
}

/// Builds pages bottom-up. Equal entries make equal pages, whatever run made them.
pub(crate) struct TreeBuilder<'a, S> {
    store: &'a mut S,
    boundaries: &'a Secret,
    levels: Vec<OpenPage>,
}

impl<'a, S: PageStore> TreeBuilder<'a, S> {
    /// `boundaries` is `K_cdc`.
    pub(crate) fn new(store: &'a mut S, boundaries: &'a Secret) -> Self {
        Self { store, boundaries, levels: vec![OpenPage::default()] }
    }

    /// Adds the next entry in the order of paths.
    pub(crate) fn push(&mut self, entry: TreeEntry) -> Result<(), S::Error> {
        let page = &mut self.levels[0];
        page.entries += 1;
        page.bytes = page.bytes.saturating_add(entry.content.bytes().unwrap_or(u64::MAX));
        if let Content::Inline(extents) = &entry.content {
            page.chunks.extend(chunk_ids(extents));
        }
        page.refs.extend(entry.pages.iter().map(|page| page.refs));
        page.add(&entry.path, entry.encoded);
        let hash = self.boundaries.mac(&[entry.path.as_bytes()]);
        if page.item_bytes >= PAGE_BYTES || ends_page(&hash.0, LEAF_DIVISOR) {
            self.close(0)?;
        }
        Ok(())
    }

    /// Stores the open page of a level and names it one level higher.
    fn close(&mut self, level: usize) -> Result<(), S::Error> {
        let mut page = std::mem::take(&mut self.levels[level]);
        let Some(first) = page.first.take() else { return Ok(()) };
        let number = u8::try_from(level).expect("a tree is not that high");
        let id = self.store.page(&ManifestPage::assemble(number, &page.items))?;
        for ids in [&mut page.chunks, &mut page.refs] {
            ids.sort_unstable();
            ids.dedup();
        }
        let refs = ReferencePage { page: id, chunks: page.chunks, pages: page.refs }.encode();
        let refs = self.store.refs(&refs)?;
        if self.levels.len() == level + 1 {
            self.levels.push(OpenPage::default());
        }
        let parent = &mut self.levels[level + 1];
        let item = ChildPage { first: first.clone(), id, entries: page.entries, bytes: page.bytes }.encode();
        parent.only = parent.items.is_empty().then_some((id, refs));
        parent.entries += page.entries;
        parent.bytes = parent.bytes.saturating_add(page.bytes);
        parent.refs.push(refs);
        parent.add(&first, item);
        if parent.item_bytes >= PAGE_BYTES || ends_page(id.bytes(), INNER_DIVISOR) && parent.items.len() > 1 {
            self.close(level + 1)?;
        }
        Ok(())
    }

    /// Closes every level. The top is the one page that holds all others.
    pub(crate) fn finish(mut self) -> Result<Tree, S::Error> {
        let mut level = 0;
        loop {
            let page = &self.levels[level];
            let is_highest = level + 1 == self.levels.len();
            if is_highest && level > 0 && page.items.len() == 1 {
                return Ok(Tree { top: page.only, entries: page.entries, bytes: page.bytes });
            }
            if is_highest && page.items.is_empty() {
                return Ok(Tree::default());
            }
            self.close(level)?;
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lifeboat_model::EntryKind;
    use proptest::prelude::*;

    use super::*;
    use crate::page::Extent;

    /// Pages by id.
    #[derive(Default)]
    struct Memory(BTreeMap<ChunkId, Vec<u8>>);

    impl PageStore for Memory {
        type Error = std::convert::Infallible;

        fn page(&mut self, plain: &[u8]) -> Result<ChunkId, Self::Error> {
            let id = Secret([1; 32]).chunk_id(plain);
            self.0.insert(id, plain.to_vec());
            Ok(id)
        }

        fn refs(&mut self, plain: &[u8]) -> Result<ChunkId, Self::Error> {
            let id = Secret([2; 32]).chunk_id(plain);
            self.0.insert(id, plain.to_vec());
            Ok(id)
        }
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).expect("a path")
    }

    fn entry(text: &str) -> TreeEntry {
        let id = Secret([3; 32]).chunk_id(text.as_bytes());
        let content = Content::Inline(vec![Extent::Chunk { id, offset: 0, len: 7 }]);
        let meta = EntryMeta::new(EntryKind::File);
        let encoded = StoredEntry { path: path(text), meta, content: content.clone() }.encode();
        TreeEntry { path: path(text), encoded, content, pages: Vec::new(), fingerprint: None }
    }

    fn build(names: impl IntoIterator<Item = String>) -> (Tree, Memory) {
        let mut memory = Memory::default();
        let boundaries = Secret([4; 32]);
        let mut tree = TreeBuilder::new(&mut memory, &boundaries);
        for name in names {
            let Ok(()) = tree.push(entry(&name));
        }
        let Ok(tree) = tree.finish();
        (tree, memory)
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("srv/{number:06}")).collect()
    }

    fn level(tree: &Tree, memory: &Memory) -> u8 {
        let (top, _) = tree.top.expect("a top");
        ManifestPage::decode(&memory.0[&top]).expect("a page").level()
    }

    #[test]
    fn a_tree_is_as_low_as_it_can_be_and_counts_what_is_below() {
        assert_eq!(build(names(0)).0, Tree::default());
        for (count, expected) in [(1, 0..=0), (2_000, 1..=1), (60_000, 2..=2)] {
            let (tree, memory) = build(names(count));
            assert!(expected.contains(&level(&tree, &memory)), "{count} entries: level {}", level(&tree, &memory));
            assert_eq!((tree.entries, tree.bytes), (count as u64, 7 * count as u64));
        }
    }

    #[test]
    fn one_more_entry_changes_the_pages_above_it_only() {
        let (_, before) = build(names(30_000));
        let mut more = names(30_000);
        more.insert(12_345, "srv/012344a".into());
        let (_, after) = build(more);
        let fresh = after.0.keys().filter(|id| !before.0.contains_key(id)).count();
        assert!((4..=8).contains(&fresh), "{fresh} new pages and reference pages of {}", after.0.len());
    }

    proptest! {
        #[test]
        fn an_entry_survives_its_way_through_the_sorter(
            name in "[a-z]{1,9}(/[a-z]{1,9}){0,4}",
            fingerprint in prop::option::of(any::<[u8; 16]>()),
            pages in prop::collection::vec((any::<[u8; 32]>(), any::<u64>(), any::<u32>()), 0..5),
        ) {
            let pages: Vec<ContentPage> = pages
                .into_iter()
                .map(|(refs, start, count)| ContentPage { refs: refs.into(), ids: IdPlace { start, count } })
                .collect();
            let content = Content::Pages(pages.iter().map(|page| (page.refs, 9)).collect());
            let stored = StoredContent { content: content.clone(), pages: pages.clone(), new_bytes: 0 };
            let fingerprint = fingerprint.map(Fingerprint);
            let meta = EntryMeta::new(EntryKind::File);
            let scratch = tempfile::tempdir().expect("a directory");
            let mut sorter = EntrySorter::new(scratch.path(), 1000);
            sorter.push(&path(&name), &meta, fingerprint, stored).expect("pushed");
            let back = sorter.finish().expect("sorted").next().expect("read").expect("an entry");
            let encoded = StoredEntry { path: path(&name), meta, content: content.clone() }.encode();
            prop_assert_eq!(back, TreeEntry { path: path(&name), encoded, content, pages, fingerprint });
        }
    }
}
