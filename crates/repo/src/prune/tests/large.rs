//! Random games with the real writer, whose index objects name many packs: one of which little is dead is not
//! written anew, and goes on naming what a prune deleted. A second repository is filled by copies.

use std::path::PathBuf;

use bytes::Bytes;
use lifeboat_model::flow::{Body, EntrySink};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint, SourceName};
use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::effort;

use super::*;
use crate::access::Access;
use crate::copy::Copier;
use crate::remember::RememberedHead;
use crate::writer::{Sealed, SnapshotHead, WriteOptions};

/// Files that never change, so that what changes is a small part of the first index object.
const FILES: usize = 40;

/// A repository with what is in it, and the machine that writes to it.
struct Side {
    name: &'static str,
    repository: TestRepository,
    head: Option<RememberedHead>,
    sealed: Vec<(SnapshotId, Files)>,
}

struct Game {
    clock: Arc<FakeClock>,
    ctx: RunContext,
    scratch: tempfile::TempDir,
    random: Numbers,
    sides: [Side; 2],
    deleted: u64,
    log: Vec<String>,
}

/// What a machine holds whose last file is of this version.
fn state(version: u64) -> Files {
    let mut all: Files = (0..FILES).map(|n| (format!("file-{n:02}"), format!("content {n}").into_bytes())).collect();
    if version > 0 {
        all.insert("last".to_owned(), format!("version {version}").into_bytes());
    }
    all
}

impl Game {
    async fn new(seed: u64) -> Self {
        let clock = FakeClock::at(TestRepository::start());
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let memory = || Arc::new(MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>)) as Arc<dyn Store>;
        let side = async |name| {
            let repository = TestRepository::create(memory()).await;
            Side { name, repository, head: None, sealed: Vec::new() }
        };
        let sides = [side("first").await, side("second").await];
        Self { ctx, scratch, random: Numbers::new(seed), sides, clock, deleted: 0, log: vec![format!("seed {seed}")] }
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.random.below(bound as u64)).expect("small")
    }

    async fn open(&self, side: usize, access: &Access, machine: &str) -> Repository {
        let Side { name, repository, .. } = &self.sides[side];
        let cache: PathBuf = self.scratch.path().join(format!("{name}-{machine}"));
        Repository::open(Arc::clone(&repository.store), access.clone(), &cache).await.expect("opened")
    }

    async fn step(&mut self) {
        match self.below(11) {
            0 | 1 => {
                let seconds = [20, 61, 130][self.below(3)];
                self.pass(seconds);
            }
            2..=4 => self.back_up().await,
            5 => self.copy().await,
            6 | 7 => self.forget().await,
            8 => {
                let side = self.below(2);
                self.prune(side).await;
            }
            // Until all is at rest: marked, deleted, and the marks that are old enough are gone.
            _ => {
                let side = self.below(2);
                for seconds in [61, 61, 130] {
                    self.pass(seconds);
                    self.prune(side).await;
                }
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.log.push(format!("{seconds} s pass"));
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn options(&self, side: usize) -> WriteOptions {
        WriteOptions { remembered: self.sides[side].head.clone(), ..WriteOptions::default() }
    }

    async fn back_up(&mut self) {
        let version = self.random.below(3);
        let files = state(version);
        self.clock.advance(Duration::from_secs(1));
        let repository = self.open(0, &self.sides[0].repository.writer, "writer").await;
        let head = SnapshotHead {
            stack: TestRepository::stack(),
            source: SourceName::new("files").expect("a name"),
            kind: "files".into(),
            label: None,
            config: "stack: test\n".into(),
            stack_run: None,
            system: std::collections::BTreeMap::new(),
        };
        let writer = repository.writer(head, self.options(0), self.ctx.clone()).await.expect("a run");
        for (name, content) in &files {
            let (path, meta) = (EntryPath::new(name.as_str()).expect("a path"), EntryMeta::new(EntryKind::File));
            writer.put(&path, &meta, None, Body::Bytes(Bytes::from(content.clone()))).await.expect("stored");
        }
        let point = RecoveryPoint {
            time: self.clock.now(),
            consistency: "one view".into(),
            facts: std::collections::BTreeMap::new(),
        };
        let sealed = writer.seal(point).await.expect("sealed");
        self.sealed(0, sealed, files, &format!("version {version} is backed up")).await;
    }

    async fn copy(&mut self) {
        let known: Vec<_> = self.sides[0].sealed.clone();
        if known.is_empty() {
            return;
        }
        let (id, files) = known[self.below(known.len())].clone();
        self.clock.advance(Duration::from_secs(1));
        let from = Arc::new(self.open(0, &self.sides[0].repository.identity, "reader").await);
        let to = Arc::new(self.open(1, &self.sides[1].repository.all, "writer").await);
        let mut copier = Copier::new(from, to, &self.ctx).await.expect("a copier");
        let sealed = copier.copy(&id, self.clock.now(), self.options(1), &self.ctx).await.expect("a copy");
        self.sealed(1, sealed, files, &format!("{} is copied", id.short())).await;
    }

    /// Every snapshot that was made and not forgotten restores.
    async fn sealed(&mut self, side: usize, sealed: Sealed, files: Files, what: &str) {
        self.log.push(format!("{what}: {} of the {} repository", sealed.id.short(), self.sides[side].name));
        self.sides[side].head = Some(sealed.head);
        self.sides[side].sealed.push((sealed.id, files));
        let reader = self.open(side, &self.sides[side].repository.identity, "reader").await;
        for (id, files) in &self.sides[side].sealed {
            match restore(&reader, *id).await {
                Ok(restored) => assert_eq!(restored, *files, "{:#?}", self.log),
                Err(error) => panic!("{}: {error}\n{:#?}", id.short(), self.log),
            }
        }
    }

    /// One of them, or all but the newest: then a prune finds much that only they had.
    async fn forget(&mut self) {
        let side = self.below(2);
        // One stays, so that what all share is never garbage.
        let Some(others) = self.sides[side].sealed.len().checked_sub(1).filter(|others| *others > 0) else { return };
        let going = if self.below(2) == 0 {
            let number = self.below(others);
            number..number + 1
        } else {
            0..others
        };
        let ids: Vec<_> = self.sides[side].sealed.drain(going).map(|(id, _)| id).collect();
        let names: Vec<_> = ids.iter().map(|id| id.short()).collect();
        self.log.push(format!("{} of the {} repository are forgotten", names.join(", "), self.sides[side].name));
        let repository = self.open(side, &self.sides[side].repository.maintainer, "maintainer").await;
        forget(&repository, &ids, "a test", &self.ctx).await.expect("forgotten");
    }

    async fn prune(&mut self, side: usize) {
        let repository = self.open(side, &self.sides[side].repository.maintainer, "maintainer").await;
        let report = prune(&repository, &PruneOptions::default(), &self.ctx).await.expect("a prune");
        assert!(report.refused.is_empty(), "{report:?}\n{:#?}", self.log);
        self.deleted += report.deleted_objects;
        self.log.push(format!("a prune of the {} repository: {report:?}", self.sides[side].name));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_index_object_that_goes_on_naming_what_is_gone_misleads_a_writer_or_a_copy() {
    let (mut sealed, mut deleted, mut games) = (0, 0, 0);
    for seed in effort::seeds(8) {
        let mut game = Game::new(seed).await;
        for _ in 0..120 {
            game.step().await;
        }
        (deleted, games) = (deleted + game.deleted, games + 1);
        sealed += game.sides.iter().map(|side| side.sealed.len()).sum::<usize>();
    }
    assert!(sealed > games && deleted > 10 * games as u64, "{sealed} sealed, {deleted} deleted: it tests nothing");
}
