//! A repository in the making, by the product, and what a reader has to find in it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use jiff::Timestamp;
use lifeboat_model::flow::{Body, Clock, EntrySink, Piece, RunContext, Shape};
use lifeboat_model::{EntryKind, EntryPath, Fingerprint, RecoveryPoint, SnapshotId, SourceName, StackName};
use lifeboat_repo::copy::Copier;
use lifeboat_repo::keyfile::{IdentityKey, WriterKey};
use lifeboat_repo::owner::DomainChoice;
use lifeboat_repo::small::RunId;
use lifeboat_repo::{
    CreateOptions, Creation, KeyFile, Keys, Owner, Passphrase, Repository, Scope, SnapshotHead, WriteOptions, export,
    join, open_access, recovery_sheet,
};
use lifeboat_store::Store;
use lifeboat_store::memory::MemoryStore;
use lifeboat_testkit::context::{FakeClock, run_context};
use serde_json::{Value as Json, json};

use crate::items::{Item, Pieces, documents};

/// Of the owner's key.
pub(crate) const PASSPHRASE: &str = "correct horse";

/// A repository in a directory, the texts of key files that read it, and what they read.
pub(crate) struct Made {
    /// What it shows.
    pub(crate) name: &'static str,
    /// The store.
    pub(crate) dir: tempfile::TempDir,
    /// The texts of keys by the names of their files. The owner's is under [`PASSPHRASE`].
    pub(crate) keys: BTreeMap<&'static str, String>,
    /// The snapshots.
    pub(crate) expected: Json,
    /// The log roots.
    pub(crate) logs: Json,
    /// Roots of a writer that was removed before.
    pub(crate) refused: Vec<String>,
}

/// A repository in the making.
pub(crate) struct House {
    pub(crate) clock: Arc<FakeClock>,
    memory: MemoryStore,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) made: Creation,
    scratch: tempfile::TempDir,
    pub(crate) expected: Vec<Json>,
    pub(crate) logs: Vec<Json>,
    pub(crate) refused: Vec<String>,
}

pub(crate) fn stack() -> StackName {
    StackName::new("office").expect("a name")
}

impl House {
    pub(crate) async fn new() -> Self {
        let clock = FakeClock::at("2026-11-21T03:00:00.25Z".parse().expect("a time"));
        let memory = MemoryStore::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let store: Arc<dyn Store> = Arc::new(memory.clone());
        let made = Creation::new(CreateOptions { now: clock.now(), grace_seconds: 60, stack: stack() });
        made.put(&store).await.expect("made");
        let scratch = tempfile::tempdir().expect("a directory");
        Self { clock, memory, store, made, scratch, expected: vec![], logs: vec![], refused: vec![] }
    }

    pub(crate) fn writer(&self) -> Keys {
        Keys { writer: Some(self.made.writer.clone()), ..Keys::default() }
    }

    pub(crate) fn maintainer(&self) -> Keys {
        Keys { maintainer: Some(self.made.maintainer.clone()), ..Keys::default() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn context(&self) -> RunContext {
        RunContext { clock: Arc::clone(&self.clock) as _, ..run_context(self.scratch.path()) }
    }

    pub(crate) async fn open(&self, keys: Keys) -> Repository {
        let access = open_access(&self.store, &keys, None).await.expect("opened").access;
        let cache = tempfile::tempdir_in(self.scratch.path()).expect("a directory").keep();
        Repository::open(Arc::clone(&self.store), access, &cache).await.expect("opened")
    }

    pub(crate) fn as_owner(&self) -> Owner<'_> {
        Owner {
            store: &self.store,
            key: &self.made.owner,
            remembered: None,
            forget_roster: false,
            now: self.now(),
            exported: None,
        }
    }

    /// Backs up and notes what a reader has to find.
    pub(crate) async fn backup(
        &mut self,
        repository: &Repository,
        source: &str,
        sequence: u64,
        items: &[Item],
    ) -> SnapshotId {
        self.clock.advance(Duration::from_secs(2));
        let (labelled, joined) = (sequence == 2, source == "documents");
        let facts = BTreeMap::from([("machine.id".to_owned(), format!("m{sequence}"))]);
        let point = RecoveryPoint { time: self.now(), consistency: "each file by itself".into(), facts: facts.clone() };
        let head = SnapshotHead {
            stack: stack(),
            source: SourceName::new(source).expect("a name"),
            kind: "files".into(),
            label: labelled.then(|| "before the move".into()),
            config: format!("stack: office # {sequence}\n"),
            stack_run: joined.then_some(RunId([7; 16])),
            system: facts.clone(),
        };
        let options = WriteOptions { zstd_level: 3, ..WriteOptions::default() };
        let writer = repository.writer(head, options, self.context()).await.expect("a run");
        let mut found = Vec::new();
        for item in items {
            let path = EntryPath::new(item.path.as_slice()).expect("a path");
            let body = match item.pieces.as_slice() {
                [] => Body::Empty,
                [Piece::Data(bytes)] => Body::Bytes(bytes.clone()),
                pieces => Body::Stream { from: Box::new(Pieces(pieces.iter().cloned().collect())), shape: Shape::Rows },
            };
            writer.put(&path, &item.meta, Some(Fingerprint([1; 16])), body).await.expect("stored");
            found.push((path, item.expected()));
        }
        let (secret, busy) = (EntryPath::new("a-secret").expect("a path"), EntryPath::new("srv/big").expect("a path"));
        writer.skip(&secret, "permission denied").await.expect("taken");
        writer.problem(&busy, "it changed while it was read").await.expect("taken");
        let skipped =
            Item::new("a-secret", EntryKind::Skipped).with(|meta| meta.why = Some("permission denied".into()));
        found.push((secret, skipped.expected()));
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let sealed = writer.seal(point.clone()).await.expect("sealed");
        let time = (point.time.as_second(), point.time.subsec_nanosecond());
        self.expected.push(json!({
            "id": sealed.id.to_string(),
            "stack": "office",
            "source": source,
            "kind": "files",
            "sequence": sequence,
            "original": null,
            "point": [time, "each file by itself", facts],
            "system": ["machine.id"],
            "config": format!("stack: office # {sequence}\n"),
            "label": labelled.then_some("before the move"),
            "problems": [["a-secret", "permission denied"], ["srv/big", "it changed while it was read"]],
            "stack_run": joined.then(|| hex::encode([7; 16])),
            "forgotten": false,
            "held": false,
            "void": false,
            "entries": found.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
        }));
        sealed.id
    }

    pub(crate) fn note(&mut self, id: SnapshotId, what: &str) {
        let told = self.expected.iter_mut().find(|told| told["id"] == id.to_string()).expect("sealed");
        told[what] = true.into();
        if what != "held" {
            told["entries"] = json!([]);
        }
    }

    /// A second host with a domain of its own that may write `mail` only.
    pub(crate) async fn second_writer(&self) -> WriterKey {
        let wish = Scope { stack: stack(), sources: vec![SourceName::new("mail").expect("a name")] };
        let (pending, request) = join::request_writer(&self.store, "second", wish.clone()).await.expect("a request");
        let granted = self.as_owner().add_writer(&request, DomainChoice::New, &[wish]).await.expect("added");
        granted.0.accept(&pending).expect("a grant")
    }

    /// A snapshot that was made in another repository and copied into this one; an identity vouches.
    pub(crate) async fn copied(&mut self, vouches: &IdentityKey) {
        let elsewhere: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::clone(&self.clock) as Arc<dyn Clock>));
        let from = Creation::new(CreateOptions { now: self.now(), grace_seconds: 60, stack: stack() });
        from.put(&elsewhere).await.expect("made");
        let keys = Keys { writer: Some(from.writer), identity: Some(from.owner.identity), ..Keys::default() };
        let access = open_access(&elsewhere, &keys, None).await.expect("opened").access;
        let cache = tempfile::tempdir_in(self.scratch.path()).expect("a directory").keep();
        let from = Repository::open(elsewhere, access, &cache).await.expect("opened");
        let original = self.backup(&from, "archive", 1, &documents()[..14]).await;
        let (writer, identity) = (Some(self.made.writer.clone()), Some(vouches.clone()));
        let to = self.open(Keys { writer, identity, ..Keys::default() }).await;
        let ctx = self.context();
        let mut copier = Copier::new(Arc::new(from), Arc::new(to), &ctx).await.expect("two repositories");
        let options = WriteOptions::default();
        let sealed = copier.copy(&original, self.now(), options, &ctx).await.expect("copied");
        let told = self.expected.last_mut().expect("it was backed up");
        told["id"] = sealed.id.to_string().into();
        told["original"] = original.to_string().into();
    }

    /// Writes the objects as files with the times at which the store took them.
    async fn write_to(&self, dir: &Path) {
        let objects: Vec<_> = self.store.list("").try_collect().await.expect("listed");
        for object in objects {
            let path = dir.join(object.key.as_str());
            std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            std::fs::write(&path, self.memory.get(&object.key, None).await.expect("got")).expect("written");
            let file = std::fs::File::options().write(true).open(&path).expect("opened");
            file.set_modified(object.stored_at.into()).expect("dated");
        }
    }

    /// Ends it: the objects as files, the keys as texts.
    pub(crate) async fn done(mut self, name: &'static str, identity: IdentityKey) -> Made {
        let dir = tempfile::tempdir().expect("a directory");
        self.write_to(dir.path()).await;
        self.expected.sort_by_key(|told| format!("{} {:>9}", told["source"], told["sequence"]));
        let text = |key: KeyFile, passphrase: Option<&Passphrase>| key.encode(passphrase).expect("a file").to_string();
        let owner = &self.made.owner;
        let exported = export::export_secrets(&self.store, &owner.identity, None).await.expect("exported");
        let keys = BTreeMap::from([
            ("writer.key", text(KeyFile::Writer(self.made.writer.clone()), None)),
            ("maintainer.key", text(KeyFile::Maintainer(self.made.maintainer.clone()), None)),
            ("identity.key", text(KeyFile::Identity(identity), None)),
            ("owner.key", text(KeyFile::Owner(owner.clone()), Some(&Passphrase::new(PASSPHRASE)))),
            ("sheet.txt", recovery_sheet::print(owner, "file:///store", self.now()).to_string()),
            ("secrets.key", exported.to_string()),
        ]);
        let (expected, logs, refused) = (self.expected.into(), self.logs.into(), self.refused);
        Made { name, dir, keys, expected, logs, refused }
    }
}
