//! A writer for the tests of upkeep: it follows the rules of a run step by step, so that a test can
//! stop between any two of them, with few and tiny objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lifeboat_model::flow::{Clock, EntryReader, RunContext};
use lifeboat_model::{ChunkId, EntryKind, EntryMeta, EntryPath, ObjectHash, RecoveryPoint, SnapshotId, SourceName};
use lifeboat_store::Store;
use lifeboat_testkit::content::{content, contents};

use crate::access::{Access, DomainKeys};
use crate::crypt::{Secret, random};
use crate::error::RepoError;
use crate::forget::put;
use crate::index::{IndexBuilder, IndexObject};
use crate::inventory;
use crate::object::{Envelope, ObjectType, Recipient};
use crate::pack::{Codec, FinishedPack, PackBuilder, PackKind};
use crate::page::{ChildPage, Content, Extent, ManifestPage, ReferencePage, StoredEntry};
use crate::repository::Repository;
use crate::root::{self, RootBody, RootHeader, RootKeys, RootRefs, RunSecret};
use crate::small::{self, Deleting, Mark, Renewal, Run, RunId};
use crate::testing::TestRepository;

/// Files by their paths.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Bytes of a chunk.
const CHUNK_BYTES: usize = 1000;

/// Files whose content is told apart by `seed`; each has `chunks` chunks.
pub(crate) fn files(seed: u64, names: &[&str], chunks: usize) -> Files {
    names
        .iter()
        .map(|name| {
            let mut bytes = vec![0; chunks * CHUNK_BYTES];
            blake3::Hasher::new().update(&seed.to_le_bytes()).update(name.as_bytes()).finalize_xof().fill(&mut bytes);
            ((*name).to_owned(), bytes)
        })
        .collect()
}

/// A run of the first writer.
pub(crate) struct TinyRun {
    store: Arc<dyn Store>,
    access: Access,
    keys: DomainKeys,
    run: RunId,
    source: String,
    secrets: [RunSecret; 2],
    known: HashMap<ChunkId, ObjectHash>,
    seen: BTreeMap<ObjectHash, Mark>,
    used: BTreeSet<ObjectHash>,
    renewals: u64,
    clock: Arc<dyn Clock>,
    last_sign: Duration,
    longest_gap: Duration,
    builders: BTreeMap<PackKind, PackBuilder>,
    fresh: BTreeSet<ChunkId>,
    index: IndexBuilder,
}

fn run_secret(access: &Access, recipient: &Recipient) -> RunSecret {
    let secret = Secret::random();
    let envelope = Envelope::seal(access.repository, recipient, &secret).expect("sealed");
    RunSecret { secret, envelope }
}

impl TinyRun {
    /// W1: the run object first, then indexes and marks.
    pub(crate) async fn begin(
        store: &Arc<dyn Store>,
        access: &Access,
        source: &str,
        ctx: &RunContext,
    ) -> Result<Self, RepoError> {
        let writer = access.writer.clone().expect("a writer");
        let keys = access.domains[&writer.domain].clone();
        let mut run = Self {
            store: Arc::clone(store),
            access: access.clone(),
            run: RunId(random()),
            source: source.to_owned(),
            secrets: [
                run_secret(access, &access.epoch_recipient()),
                run_secret(access, &access.maintenance_recipient()),
            ],
            known: HashMap::new(),
            seen: BTreeMap::new(),
            used: BTreeSet::new(),
            renewals: 0,
            clock: Arc::clone(&ctx.clock),
            last_sign: ctx.clock.monotonic(),
            longest_gap: Duration::ZERO,
            builders: BTreeMap::new(),
            fresh: BTreeSet::new(),
            index: IndexBuilder::new(),
            keys,
        };
        let tag = run.keys.source_tag(&TestRepository::stack(), &run.source_name());
        let word = Run { run: run.run, source_tag: tag, time: TestRepository::start() };
        run.put_small(&word).await?;
        run.look_at_marks().await?;
        let doomed: BTreeSet<_> = run.seen.values().flat_map(|m| m.packs.iter().map(|(_, hash)| *hash)).collect();
        let listed = inventory::list(store, ObjectType::Index.prefix()).await?;
        let decode = |hash, bytes: &bytes::Bytes| IndexObject::decode(access, hash, bytes);
        for (_, index) in inventory::read_all(store, ObjectType::Index, listed, decode).await? {
            let Ok(index) = index else { continue };
            for record in &index.value.records {
                let pack = index.value.packs[usize::from(record.pack)].hash;
                if !doomed.contains(&pack) {
                    run.known.insert(record.id, pack);
                }
            }
        }
        Ok(run)
    }

    fn source_name(&self) -> SourceName {
        SourceName::new(&self.source).expect("a name")
    }

    async fn put_small<T: small::Small>(&self, word: &T) -> Result<(), RepoError> {
        let sign = &self.access.writer.as_ref().expect("a writer").sign;
        let (name, bytes) = small::encode(word, &self.keys.index, sign);
        put(&self.store, &name, bytes).await
    }

    async fn look_at_marks(&mut self) -> Result<(), RepoError> {
        for (_, mark) in inventory::small::<Mark>(&self.store, &self.access).await? {
            if let Ok(mark) = mark {
                self.seen.insert(mark.hash, mark.value);
            }
        }
        Ok(())
    }

    /// W2: tells which marks it has seen and pins what it used of them.
    pub(crate) async fn renew(&mut self, ended: bool) -> Result<(), RepoError> {
        self.look_at_marks().await?;
        self.renewals += 1;
        let marked =
            |pack: &&ObjectHash| self.seen.values().any(|mark| mark.packs.iter().any(|(_, hash)| hash == *pack));
        let word = Renewal {
            run: self.run,
            number: self.renewals,
            marks_seen: self.seen.keys().copied().collect(),
            pins: self.used.iter().filter(marked).copied().collect(),
            ended,
        };
        self.put_small(&word).await?;
        let now = self.clock.monotonic();
        self.longest_gap = self.longest_gap.max(now.saturating_sub(self.last_sign));
        self.last_sign = now;
        Ok(())
    }

    /// After a gap of more than half the grace period: whether every used pack is still there.
    async fn look_up_used(&self) -> Result<(), RepoError> {
        let staleness = self.store.capabilities().list_staleness;
        let since = self.clock.monotonic().saturating_sub(self.last_sign);
        if self.longest_gap.max(since) + staleness <= Duration::from_secs(self.access.roster.grace_seconds) / 2 {
            return Ok(());
        }
        for pack in &self.used {
            let mut found = false;
            for kind in PackKind::ALL.map(PackKind::object_type) {
                found |= self.store.get(&kind.key(*pack), None).await.is_ok();
            }
            if !found {
                return Err(RepoError::Missing { object: format!("the pack {pack}, which the run uses") });
            }
        }
        Ok(())
    }

    fn chunk(&mut self, kind: PackKind, plain: &[u8]) -> ChunkId {
        let id = kind.id_of(&self.keys, plain).expect("a writer has the keys");
        if let Some(pack) = self.known.get(&id) {
            self.used.insert(*pack);
            return id;
        }
        if !self.fresh.insert(id) {
            return id;
        }
        let secret = &self.secrets[usize::from(kind == PackKind::Refs)];
        let (repository, domain) = (self.access.repository, self.keys.index.domain);
        let builder = self.builders.entry(kind).or_insert_with(|| {
            PackBuilder::new(kind, repository, domain, &secret.secret, secret.envelope.clone(), 4096)
        });
        builder.push(id, plain, plain.len(), Codec::Plain);
        id
    }

    /// Stores entries; returns the top page and its reference page.
    pub(crate) fn add(&mut self, files: &Files) -> (ChunkId, ChunkId) {
        let mut entries = Vec::new();
        for (path, bytes) in files {
            let extents: Vec<_> = bytes
                .chunks(CHUNK_BYTES)
                .map(|chunk| {
                    let id = self.chunk(PackKind::Data, chunk);
                    Extent::Chunk { id, offset: 0, len: u32::try_from(chunk.len()).expect("short") }
                })
                .collect();
            let path = EntryPath::new(path.as_str()).expect("a path");
            entries.push(StoredEntry {
                path,
                meta: EntryMeta::new(EntryKind::File),
                content: Content::Inline(extents),
            });
        }
        let mut children = Vec::new();
        for leaf in entries.chunks(2) {
            let items: Vec<Vec<u8>> = leaf.iter().map(StoredEntry::encode).collect();
            let id = self.chunk(PackKind::Meta, &ManifestPage::assemble(0, &items));
            let extents = leaf.iter().flat_map(|entry| match &entry.content {
                Content::Inline(extents) => extents.clone(),
                Content::Pages(_) => Vec::new(),
            });
            let chunks = extents.filter_map(|extent| match extent {
                Extent::Chunk { id, .. } => Some(id),
                Extent::Hole(_) => None,
            });
            let refs = ReferencePage { page: id, chunks: chunks.collect(), pages: Vec::new() };
            let refs = self.chunk(PackKind::Refs, &refs.encode());
            let bytes = leaf.iter().map(StoredEntry::bytes).sum();
            let child = ChildPage { first: leaf[0].path.clone(), id, entries: leaf.len() as u64, bytes };
            children.push((child, refs));
        }
        let items: Vec<Vec<u8>> = children.iter().map(|(child, _)| child.encode()).collect();
        let top = self.chunk(PackKind::Meta, &ManifestPage::assemble(1, &items));
        let pages = children.iter().map(|(_, refs)| *refs).collect();
        let refs = ReferencePage { page: top, chunks: Vec::new(), pages };
        (top, self.chunk(PackKind::Refs, &refs.encode()))
    }

    /// Puts the packs that are open.
    pub(crate) async fn flush(&mut self) -> Result<Vec<ObjectHash>, RepoError> {
        let mut hashes = Vec::new();
        let packs: Vec<FinishedPack> =
            std::mem::take(&mut self.builders).into_values().map(|builder| builder.finish(&self.keys.index)).collect();
        let puts = packs
            .iter()
            .map(|pack| async { put(&self.store, &pack.kind.object_type().key(pack.hash), pack.bytes.clone()).await });
        futures::future::try_join_all(puts).await?;
        for pack in &packs {
            self.index.add(pack);
            // A run uses its own packs as well: they may be marked when it was silent for too long.
            self.used.insert(pack.hash);
            hashes.push(pack.hash);
        }
        Ok(hashes)
    }

    /// Puts the index of what was flushed.
    pub(crate) async fn put_index(&mut self) -> Result<(), RepoError> {
        let builder = std::mem::take(&mut self.index);
        if builder.is_empty() {
            return Ok(());
        }
        let sign = &self.access.writer.as_ref().expect("a writer").sign;
        let (hash, bytes) = builder.finish().encode(&self.keys.index, sign);
        put(&self.store, &ObjectType::Index.key(hash), bytes).await
    }

    /// W3: renews, puts index and root, looks at the marks again.
    pub(crate) async fn seal(
        mut self,
        (top, refs): (ChunkId, ChunkId),
        chain: &mut Chain,
    ) -> Result<SnapshotId, RepoError> {
        self.flush().await?;
        self.renew(false).await?;
        self.look_up_used().await?;
        self.put_index().await?;
        let stack = TestRepository::stack();
        let header = RootHeader {
            stack_tag: self.keys.stack_tag(&stack),
            source_tag: self.keys.source_tag(&stack, &self.source_name()),
            sequence: chain.sequence + 1,
            previous: chain.newest,
            time: TestRepository::start(),
            roster_number: self.access.roster.number,
            roster_hash: self.access.roster.hash,
            run: self.run,
            original: None,
            countersigned: None,
            systems: vec![],
        };
        let body = RootBody {
            stack,
            source: self.source_name(),
            kind: "test".to_owned(),
            recovery_point: RecoveryPoint {
                time: TestRepository::start(),
                consistency: "one view".to_owned(),
                facts: BTreeMap::new(),
            },
            top: Some(top),
            stats: BTreeMap::new(),
            config: String::new(),
            label: None,
            problems: Vec::new(),
            stack_run: None,
        };
        let sign = &self.access.writer.as_ref().expect("a writer").sign;
        let [content, references] = &self.secrets;
        let keys = RootKeys { index: &self.keys.index, content, references, sign };
        let (id, bytes) = root::encode(&header, &RootRefs { top: Some(refs) }, &body, &keys);
        put(&self.store, &ObjectType::SnapshotRoot.key(ObjectHash(id.0)), bytes).await?;
        tokio::time::sleep(self.store.capabilities().list_staleness).await;
        self.look_at_marks().await?;
        for (_, word) in inventory::small::<Deleting>(&self.store, &self.access).await? {
            let Ok(word) = word else { continue };
            let doomed = |pack| self.seen.get(&word.value.mark).is_some_and(|mark| word.value.dooms(mark, pack));
            if self.used.iter().any(doomed) {
                let why = "a pack that it uses is being deleted".to_owned();
                self.put_small(&small::Void { snapshot: id, why, time: TestRepository::start() }).await?;
                return Err(RepoError::Busy { what: "a pack that the run uses".to_owned() });
            }
        }
        if let Err(error) = self.look_up_used().await {
            let why = "a pack that it uses was deleted".to_owned();
            self.put_small(&small::Void { snapshot: id, why, time: TestRepository::start() }).await?;
            return Err(error);
        }
        self.renew(true).await?;
        chain.sequence += 1;
        chain.newest = Some(ObjectHash(id.0));
        Ok(id)
    }
}

impl Chain {
    /// What the store tells of the chain of a source.
    pub(crate) fn of(list: &crate::snapshots::SnapshotList, writer: &Access, source: &str) -> Self {
        let domain = writer.writer.as_ref().expect("a writer").domain;
        let tag =
            writer.domains[&domain].source_tag(&TestRepository::stack(), &SourceName::new(source).expect("a name"));
        let newest =
            list.snapshots.iter().filter(|info| info.header.source_tag == tag).max_by_key(|i| i.header.sequence);
        newest.map_or_else(Self::default, |info| Self {
            sequence: info.header.sequence,
            newest: Some(ObjectHash(info.id.0)),
        })
    }
}

/// Where a chain of roots stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chain {
    pub(crate) sequence: u64,
    newest: Option<ObjectHash>,
}

/// A whole run.
pub(crate) async fn backup(
    store: &Arc<dyn Store>,
    access: &Access,
    files: &Files,
    chain: &mut Chain,
    ctx: &RunContext,
) -> Result<SnapshotId, RepoError> {
    let mut run = TinyRun::begin(store, access, "files", ctx).await?;
    let pages = run.add(files);
    run.seal(pages, chain).await
}

/// Opens with a fresh cache.
pub(crate) async fn open(store: &Arc<dyn Store>, access: &Access, ctx: &RunContext) -> Repository {
    let cache = tempfile::tempdir_in(&ctx.scratch).expect("a directory").keep();
    Repository::open(Arc::clone(store), access.clone(), &cache).await.expect("opened")
}

/// Everything in a snapshot.
pub(crate) async fn restore(repository: &Repository, id: SnapshotId) -> Result<Files, RepoError> {
    let broken =
        |error: &dyn std::error::Error| RepoError::Missing { object: format!("{error}: {:?}", error.source()) };
    let reader = repository.reader(&id).await?;
    let all = contents(&reader).await.map_err(|error| broken(&error))?;
    Ok(all
        .into_iter()
        .map(|(entry, bytes)| (String::from_utf8_lossy(entry.path.as_bytes()).into_owned(), bytes))
        .collect())
}

/// The content of one entry.
pub(crate) async fn restore_each(repository: &Repository, id: SnapshotId, path: &str) -> Result<Vec<u8>, String> {
    let path = EntryPath::new(path).expect("a path");
    let reader = repository.reader(&id).await.map_err(|error| error.to_string())?;
    let entry = reader.entry(&path).await.map_err(|error| error.to_string())?.ok_or("no such entry")?;
    content(&reader, &entry).await.map_err(|error| error.to_string())
}

/// A context whose scratch is `scratch`, with that clock.
pub(crate) fn context(scratch: &Path, clock: Arc<lifeboat_testkit::context::FakeClock>) -> RunContext {
    RunContext { clock, ..lifeboat_testkit::context::run_context(scratch) }
}
