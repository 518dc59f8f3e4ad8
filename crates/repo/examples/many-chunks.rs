//! Fills a repository with as many chunks as are wanted, through the writer that backups use, for
//! `benches/repository/chunks.sh`:
//! `many-chunks STORE WRITER_KEY CACHE SCRATCH STACK SOURCE CHUNKS SNAPSHOTS`.
//!
//! Each file has one chunk of 40 to 79 bytes that follow from its number and the source. Each snapshot goes on where the
//! one before ended and still holds one in four of the files that were new in that one: when old snapshots
//! go, some packs are of no use and others are partly.

#![expect(clippy::print_stdout, reason = "it tells how far it is")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use lifeboat_model::flow::{Body, Cancel, Clock, EntrySink, RunContext, Silent};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, SourceName, StackName};
use lifeboat_repo::remember::RememberedHead;
use lifeboat_repo::{KeyFile, Keys, Repository, Sealed, SnapshotHead, SnapshotWriter, WriteOptions, open_access};
use lifeboat_store::Store;
use lifeboat_store::local::LocalStore;
use lifeboat_wire::clock::SystemClock;

const FILES_PER_FOLDER: u64 = 1000;
const TASKS: u64 = 2;
/// Where the files are said to have been.
const ROOT: &str = "srv/many";

/// What the command line names.
struct Plan {
    store: Arc<dyn Store>,
    keys: Keys,
    cache: String,
    scratch: String,
    stack: StackName,
    source: SourceName,
    chunks: u64,
    snapshots: u64,
}

impl Plan {
    fn read(arguments: &[String]) -> Option<Self> {
        let [store, key, cache, scratch, stack, source, chunks, snapshots] = arguments else { return None };
        let key = KeyFile::read(Path::new(key), &mut || None).expect("a key file without a passphrase");
        Some(Self {
            store: Arc::new(LocalStore::open(Path::new(store)).expect("a store")),
            keys: Keys { writer: Some(key.into_writer().expect("a writer key")), ..Keys::default() },
            cache: cache.clone(),
            scratch: scratch.clone(),
            stack: StackName::new(stack.as_str()).expect("a stack"),
            source: SourceName::new(source.as_str()).expect("a source"),
            chunks: chunks.parse().expect("a number of chunks"),
            snapshots: snapshots.parse().expect("a number of snapshots"),
        })
    }

    /// Files that are new in a snapshot.
    fn fresh(&self, snapshot: u64) -> Range<u64> {
        let each = self.chunks / self.snapshots;
        snapshot * each..(snapshot + 1) * each
    }

    async fn write(&self, snapshot: u64, remembered: Option<RememberedHead>) -> Sealed {
        let writer = Arc::new(self.writer(remembered).await);
        let fresh = self.fresh(snapshot);
        folders(&writer, &fresh).await;
        let before = snapshot.checked_sub(1).map_or(0..0, |before| self.fresh(before));
        let tasks = (0..TASKS).map(|task| {
            let (writer, source) = (Arc::clone(&writer), self.source.clone());
            let (before, fresh) = (before.clone(), fresh.clone());
            tokio::spawn(async move {
                let kept = before.filter(|number| number % 4 == 3);
                for number in kept.chain(fresh).filter(|number| number % TASKS == task) {
                    file(&writer, &source, number).await;
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.expect("files are put");
        }
        let point = RecoveryPoint { time: SystemClock.now(), consistency: String::new(), facts: BTreeMap::new() };
        Arc::into_inner(writer).expect("the tasks are done").seal(point).await.expect("sealed")
    }

    async fn writer(&self, remembered: Option<RememberedHead>) -> SnapshotWriter {
        let opened = open_access(&self.store, &self.keys, None).await.expect("opened");
        let repository = Repository::open(Arc::clone(&self.store), opened.access, Path::new(&self.cache)).await;
        let context = RunContext {
            clock: Arc::new(SystemClock),
            monitor: Arc::new(Silent),
            cancel: Cancel::default(),
            scratch: Path::new(&self.scratch).to_owned(),
            memory_budget_bytes: 256 << 20,
        };
        let head = SnapshotHead {
            stack: self.stack.clone(),
            source: self.source.clone(),
            kind: "files".to_owned(),
            label: None,
            config: String::new(),
            stack_run: None,
            system: BTreeMap::new(),
        };
        let options = WriteOptions { remembered, ..WriteOptions::default() };
        repository.expect("a repository").writer(head, options, context).await.expect("a run")
    }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a path")
}

fn folder(number: u64) -> String {
    format!("{ROOT}/{:06}", number / FILES_PER_FOLDER)
}

async fn folders(writer: &SnapshotWriter, fresh: &Range<u64>) {
    let meta = EntryMeta { mode: Some(0o755), mtime: Some((1, 0)), ..EntryMeta::new(EntryKind::Dir) };
    // Those of the snapshot before hold as many files at most.
    let first = fresh.start.saturating_sub(fresh.end - fresh.start) / FILES_PER_FOLDER;
    let made = (first..=fresh.end / FILES_PER_FOLDER).map(|number| folder(number * FILES_PER_FOLDER));
    for name in ["srv".to_owned(), ROOT.to_owned()].into_iter().chain(made) {
        writer.put(&path(&name), &meta, None, Body::Empty).await.expect("a folder is put");
    }
}

async fn file(writer: &SnapshotWriter, source: &SourceName, number: u64) {
    let mut content = vec![0; 40 + usize::try_from(number % 40).expect("less than 40")];
    blake3::Hasher::new()
        .update(source.as_str().as_bytes())
        .update(&number.to_le_bytes())
        .finalize_xof()
        .fill(&mut content);
    let meta = EntryMeta { mode: Some(0o644), mtime: Some((1, 0)), ..EntryMeta::new(EntryKind::File) };
    let name = path(&format!("{}/{number:09}", folder(number)));
    writer.put(&name, &meta, None, Body::Bytes(content.into())).await.expect("a file is put");
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let plan = Plan::read(&arguments);
    let plan = plan.expect("usage: many-chunks STORE WRITER_KEY CACHE SCRATCH STACK SOURCE CHUNKS SNAPSHOTS");
    let mut remembered = None;
    for snapshot in 0..plan.snapshots {
        let sealed = plan.write(snapshot, remembered.take()).await;
        println!("{}: {} entries, {} packs", sealed.id.short(), sealed.stats.entries, sealed.stats.packs);
        remembered = Some(sealed.head);
    }
}
