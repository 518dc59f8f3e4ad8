//! The simplest reader that `docs/format.md` allows: everything in memory, no cache, no index set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_model::flow::Piece;
use lifeboat_model::{ChunkId, EntryPath, ObjectHash, SnapshotId};
use lifeboat_store::Store;

use crate::access::Access;
use crate::index::IndexObject;
use crate::object::{Envelope, ObjectType};
use crate::pack::{PackId, PackKey, PackKind, Record};
use crate::page::{Content, Extent, ManifestPage, ReferencePage, StoredEntry, decode_content_page};
use crate::root::{self, Root};

struct Copy {
    pack: ObjectHash,
    record: Record,
    origin: PackId,
    envelope: Envelope,
}

pub(super) struct PlainReader {
    store: Arc<dyn Store>,
    access: Access,
    copies: BTreeMap<ChunkId, Vec<Copy>>,
}

async fn names(store: &dyn Store, kind: ObjectType) -> Vec<ObjectHash> {
    let listed: Vec<_> = store.list(kind.prefix()).try_collect().await.expect("listed");
    let hash = |key: &str| ObjectHash::from_hex(key.rsplit('/').next().expect("a name")).expect("a hash");
    listed.iter().map(|meta| hash(meta.key.as_str())).collect()
}

impl PlainReader {
    pub(super) async fn open(store: Arc<dyn Store>, access: &Access) -> Self {
        let mut copies: BTreeMap<ChunkId, Vec<Copy>> = BTreeMap::new();
        for hash in names(store.as_ref(), ObjectType::Index).await {
            let bytes = store.get(&ObjectType::Index.key(hash), None).await.expect("got");
            let index = IndexObject::decode(access, hash, &bytes).expect("an index").value;
            for record in index.records {
                let (origin, envelope) = index.origins[record.origin as usize];
                let envelope = index.envelopes[envelope as usize].clone();
                let pack = index.packs[usize::from(record.pack)].hash;
                copies.entry(record.id).or_default().push(Copy { pack, record, origin, envelope });
            }
        }
        Self { store, access: access.clone(), copies }
    }

    /// How many copies of a chunk the indexes name.
    pub(super) fn copies(&self) -> usize {
        self.copies.values().map(Vec::len).sum()
    }

    pub(super) fn chunks(&self, kind: PackKind) -> usize {
        self.copies.values().filter(|copies| copies[0].record.kind == kind).count()
    }

    pub(super) async fn chunk(&self, kind: PackKind, id: &ChunkId) -> Bytes {
        let copy = &self.copies.get(id).unwrap_or_else(|| panic!("{kind:?} {id} is in no index"))[0];
        assert_eq!(copy.record.kind, kind);
        let range = u64::from(copy.record.offset)..u64::from(copy.record.offset + copy.record.stored_len);
        let sealed = self.store.get(&kind.object_type().key(copy.pack), Some(range)).await.expect("got");
        let secret = self.access.open_envelope(&copy.envelope).expect("an envelope for us");
        let key = PackKey::new(self.access.repository, &secret, kind, copy.origin);
        let plain = key.open(&copy.record, sealed.to_vec()).expect("opened");
        let keys = self.access.domains.values().next().expect("a domain");
        assert_eq!(kind.id_of(keys, &plain).as_ref(), Some(id));
        plain
    }

    pub(super) async fn root(&self, id: SnapshotId) -> Root {
        let bytes = self.store.get(&ObjectType::SnapshotRoot.key(ObjectHash(id.0)), None).await.expect("got");
        root::decode(&self.access, id, &bytes).expect("a root")
    }

    /// Every entry, in order; checks the counts that inner pages give.
    pub(super) async fn entries(&self, id: SnapshotId) -> Vec<StoredEntry> {
        let top = self.root(id).await.body.expect("an identity reads the body").top;
        let mut entries = Vec::new();
        if let Some(top) = top {
            Box::pin(self.page(top, None, &mut entries)).await;
        }
        assert!(entries.is_sorted_by(|a, b| a.path < b.path));
        entries
    }

    async fn page(&self, id: ChunkId, level: Option<u8>, out: &mut Vec<StoredEntry>) {
        let page = ManifestPage::decode(&self.chunk(PackKind::Meta, &id).await).expect("a page");
        assert!(level.is_none_or(|level| level == page.level()));
        match page {
            ManifestPage::Entries(entries) => out.extend(entries),
            ManifestPage::Pages { level, children } => {
                for child in children {
                    let before = out.len();
                    Box::pin(self.page(child.id, Some(level - 1), out)).await;
                    let below = &out[before..];
                    assert_eq!(child.entries, below.len() as u64);
                    assert_eq!(child.bytes, below.iter().map(StoredEntry::bytes).sum::<u64>());
                    assert_eq!(child.first, below[0].path);
                }
            }
        }
    }

    pub(super) async fn extents(&self, entry: &StoredEntry) -> Vec<Extent> {
        match &entry.content {
            Content::Inline(extents) => extents.clone(),
            Content::Pages(pages) => {
                let mut all = Vec::new();
                for (id, bytes) in pages {
                    let extents = decode_content_page(&self.chunk(PackKind::Meta, id).await).expect("a content page");
                    assert_eq!(*bytes, extents.iter().map(Extent::bytes).sum::<u64>());
                    all.extend(extents);
                }
                all
            }
        }
    }

    /// Content with holes as they are stored.
    pub(super) async fn pieces(&self, entry: &StoredEntry) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for extent in self.extents(entry).await {
            pieces.push(match extent {
                Extent::Hole(bytes) => Piece::Hole(bytes),
                Extent::Chunk { id, offset, len } => {
                    let plain = self.chunk(PackKind::Data, &id).await;
                    Piece::Data(plain.slice(offset as usize..(offset + len) as usize))
                }
            });
        }
        pieces
    }

    /// All of the snapshot: bytes by path, holes as zeros.
    pub(super) async fn files(&self, id: SnapshotId) -> BTreeMap<EntryPath, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in self.entries(id).await {
            let mut bytes = Vec::new();
            for piece in self.pieces(&entry).await {
                match piece {
                    Piece::Data(data) => bytes.extend_from_slice(&data),
                    Piece::Hole(len) => bytes.resize(bytes.len() + usize::try_from(len).expect("small"), 0),
                }
            }
            files.insert(entry.path, bytes);
        }
        files
    }

    /// What a maintainer finds by following references: pages and data chunks.
    pub(super) async fn referenced(&self, id: SnapshotId) -> BTreeSet<ChunkId> {
        let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let top = self.root(id).await.refs.expect("a maintainer reads the references").top;
        let mut todo: Vec<ChunkId> = top.into_iter().collect();
        while let Some(refs) = todo.pop() {
            if !seen.insert(refs) {
                continue;
            }
            let page = ReferencePage::decode(&self.chunk(PackKind::Refs, &refs).await).expect("a reference page");
            found.insert(page.page);
            found.extend(page.chunks);
            todo.extend(page.pages);
        }
        found
    }

    /// What reading the manifest finds: the same, if the writer is right.
    pub(super) async fn needed(&self, id: SnapshotId) -> BTreeSet<ChunkId> {
        let mut needed = BTreeSet::new();
        let mut todo: Vec<ChunkId> = self.root(id).await.body.expect("a body").top.into_iter().collect();
        while let Some(page) = todo.pop() {
            needed.insert(page);
            if let ManifestPage::Pages { children, .. } =
                ManifestPage::decode(&self.chunk(PackKind::Meta, &page).await).expect("a page")
            {
                todo.extend(children.iter().map(|child| child.id));
            }
        }
        for entry in self.entries(id).await {
            if let Content::Pages(pages) = &entry.content {
                needed.extend(pages.iter().map(|page| page.0));
            }
            needed.extend(crate::content::chunk_ids(&self.extents(&entry).await));
        }
        needed
    }
}
