//! Repositories as files that every later version has to read: `testdata/repo/VERSION/NAME`, with the store,
//! the keys, what is in it, and the times at which the store took its objects. Once a version is frozen its
//! files are never edited.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_model::{Digest, SnapshotId};
use lifeboat_repo::check::{CheckScope, check};
use lifeboat_repo::{KeyFile, Keys, Passphrase, Repository, export, join, open_access};
use lifeboat_store::Store;
use lifeboat_store::local::LocalStore;
use lifeboat_testkit::content::contents;
use lifeboat_testkit::context::run_context;
use serde_json::Value as Json;

use crate::house::{Made, PASSPHRASE};
use crate::reader::describe::shown;
use crate::{READING, same};

/// Where fixtures are.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/repo")
}

/// Every fixture of every frozen version.
pub(crate) fn all() -> Vec<PathBuf> {
    let below = |dir: PathBuf| {
        let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let mut all: Vec<PathBuf> = below(home()).into_iter().flat_map(below).collect();
    all.sort();
    all
}

/// Files below a directory, by their names from there.
fn files(dir: &Path, name: &str, found: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry")) {
        let name = format!("{name}{}", entry.file_name().to_str().expect("a text"));
        if entry.path().is_dir() {
            files(&entry.path(), &format!("{name}/"), found);
        } else {
            found.insert(name, entry.path());
        }
    }
}

fn all_files(dir: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    files(dir, "", &mut found);
    found
}

/// A line for each file of a version: its hash and its name.
pub(crate) fn hashes(dir: &Path) -> String {
    let mut out = String::new();
    for (name, path) in all_files(dir).into_iter().filter(|(name, _)| name != "HASHES") {
        let hash = blake3::hash(&fs::read(path).expect("read")).to_hex();
        writeln!(out, "{hash}  {name}").expect("written");
    }
    out
}

/// Writes what was made as a fixture.
pub(crate) fn write(made: &Made, dir: &Path) {
    let mut times = BTreeMap::new();
    for (name, path) in all_files(made.dir.path()) {
        let copy = dir.join("store").join(&name);
        fs::create_dir_all(copy.parent().expect("a directory")).expect("made");
        fs::copy(&path, copy).expect("copied");
        let time = Timestamp::try_from(path.metadata().and_then(|it| it.modified()).expect("a time")).expect("a time");
        times.insert(name, time.to_string());
    }
    for (name, text) in &made.keys {
        fs::write(dir.join(name), text).expect("written");
    }
    let written = |name: &str, value: &dyn Fn() -> serde_json::Result<String>| {
        fs::write(dir.join(name), value().expect("JSON")).expect("written");
    };
    written("snapshots.json", &|| serde_json::to_string(&made.expected));
    written("logs.json", &|| serde_json::to_string_pretty(&made.logs));
    written("refused.json", &|| serde_json::to_string_pretty(&made.refused));
    written("times.json", &|| serde_json::to_string_pretty(&times));
}

/// A copy of a fixture whose files have the times that the store gave them, which a version control does not keep.
pub(crate) struct Fixture {
    dir: PathBuf,
    pub(crate) scratch: tempfile::TempDir,
    pub(crate) store: PathBuf,
    /// When the store took each object.
    pub(crate) times: BTreeMap<String, Timestamp>,
}

impl Fixture {
    pub(crate) fn open(dir: &Path) -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let times = fs::read_to_string(dir.join("times.json")).expect("a file");
        let times: BTreeMap<String, String> = serde_json::from_str(&times).expect("JSON");
        let fixture = Self {
            dir: dir.to_owned(),
            store: scratch.path().join("store"),
            scratch,
            times: times.into_iter().map(|(name, time)| (name, time.parse().expect("a time"))).collect(),
        };
        let files = all_files(&dir.join("store"));
        assert!(files.keys().eq(fixture.times.keys()), "a time for each object");
        for (name, path) in files {
            let copy = fixture.store.join(&name);
            fs::create_dir_all(copy.parent().expect("a directory")).expect("made");
            fs::copy(path, &copy).expect("copied");
            let file = fs::File::options().write(true).open(&copy).expect("opened");
            file.set_modified(fixture.times[&name].into()).expect("dated");
        }
        fixture
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).expect("a file")
    }

    pub(crate) fn json(&self, name: &str) -> Json {
        serde_json::from_str(&self.text(name)).expect("JSON")
    }

    pub(crate) fn key(&self, name: &str) -> KeyFile {
        KeyFile::decode(&self.text(name), &mut || Some(Passphrase::new(PASSPHRASE))).expect("a key")
    }

    pub(crate) fn writer(&self) -> Keys {
        let KeyFile::Writer(writer) = self.key("writer.key") else { panic!("a writer's") };
        Keys { writer: Some(writer), ..Keys::default() }
    }

    pub(crate) fn maintainer(&self) -> Keys {
        Keys {
            maintainer: Some(self.key("maintainer.key").into_maintainer().expect("a maintainer's")),
            ..Keys::default()
        }
    }

    pub(crate) fn identity(&self, name: &str) -> Keys {
        Keys { identity: Some(self.key(name).into_identity().expect("an identity")), ..Keys::default() }
    }

    /// What a reader has to find in each snapshot that counts: hashes of content by path, empty where there is none.
    pub(crate) fn contents(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let snapshots = self.json("snapshots.json");
        let mut all = BTreeMap::new();
        for told in snapshots.as_array().expect("a list").iter().filter(|t| t["forgotten"] != true && t["void"] != true)
        {
            let hash = |entry: &Json| (entry["path"].to_string(), entry["hash"].as_str().unwrap_or("").to_owned());
            let entries = told["entries"].as_array().expect("a list").iter().map(hash).collect();
            all.insert(told["id"].as_str().expect("an id").to_owned(), entries);
        }
        all
    }
}

/// Opens a repository of the product.
pub(crate) async fn open(store: &Arc<dyn Store>, keys: &Keys, scratch: &Path) -> Repository {
    let opened = open_access(store, keys, None).await.expect("opened");
    assert_eq!(opened.warnings, []);
    let cache = tempfile::tempdir_in(scratch).expect("a directory").keep();
    Repository::open(Arc::clone(store), opened.access, &cache).await.expect("opened")
}

/// Reads a fixture with each of its keys, by the reader made from the page and by the product.
pub(crate) async fn read(dir: &Path) {
    let fixture = Fixture::open(dir);
    let [snapshots, logs, refused] = ["snapshots.json", "logs.json", "refused.json"].map(|name| fixture.json(name));
    for (key, passphrase) in READING {
        let told = same(&fixture.store, &fixture.text(key), passphrase, (&snapshots, &logs));
        assert_eq!(Json::from(told), refused, "{key}");
    }
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&fixture.store).expect("a store"));
    for (key, _) in READING {
        let repository = open(&store, &fixture.identity(key), fixture.scratch.path()).await;
        let list = repository.snapshots(&[]).await.expect("listed");
        assert_eq!(list.refused.len(), refused.as_array().expect("a list").len());
        let (list, told) = (list.snapshots, snapshots.as_array().expect("a list"));
        assert_eq!(list.len(), told.len());
        for info in &list {
            let told = told.iter().find(|told| told["id"] == info.id.to_string()).expect("expected");
            let states = [info.forgotten.is_some(), info.held.is_some(), info.void.is_some()];
            assert_eq!(states, ["forgotten", "held", "void"].map(|state| told[state].as_bool().expect("a state")));
        }
    }
    let repository = open(&store, &fixture.identity("identity.key"), fixture.scratch.path()).await;
    for (id, entries) in fixture.contents() {
        assert_eq!(restored(&repository, SnapshotId::from_hex(&id).expect("an id")).await, entries);
    }
    sound(&repository, &fixture).await;
    for keys in [fixture.writer(), fixture.maintainer()] {
        let list = open(&store, &keys, fixture.scratch.path()).await.snapshots(&[]).await.expect("listed");
        assert!(!list.snapshots.is_empty());
    }
    other_files(&fixture);
}

/// Reads every byte and finds nothing wrong but what the fixture says.
pub(crate) async fn sound(repository: &Repository, fixture: &Fixture) {
    let ctx = run_context(fixture.scratch.path());
    let report = check(repository, CheckScope { read_data: true }, &[], &ctx).await.expect("a check");
    let refused = fixture.json("refused.json");
    let known = |object: &str| refused.as_array().expect("a list").iter().any(|it| it.to_string().contains(object));
    let wrong: Vec<_> = report.problems.iter().filter(|problem| !known(&problem.object)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Exported secrets, and the files of a host that waits for its grant.
fn other_files(fixture: &Fixture) {
    let identity = fixture.key("identity.key").into_identity().expect("an identity");
    let (repository, root) = (identity.repository, identity.root);
    let secrets = export::decode_secrets(&fixture.text("secrets.key"), repository, root).expect("secrets");
    assert!(!secrets.domains.is_empty());
    if !fixture.dir.join("pending.key").exists() {
        return;
    }
    let KeyFile::Pending(pending) = fixture.key("pending.key") else { panic!("a host that waits") };
    let request = join::Request::decode(&fixture.text("request.key")).expect("a request");
    assert_eq!(request.verify, pending.sign.verify_key());
    let grant = join::Grant::decode(&fixture.text("grant.key")).expect("a grant");
    let writer = grant.accept(&pending).expect("it is for this host");
    assert_eq!(secrets.domains[&writer.domain], writer.secret);
}

/// Hashes of content by path, as the product restores them; empty where there is none.
pub(crate) async fn restored(repository: &Repository, id: SnapshotId) -> BTreeMap<String, String> {
    let reader = repository.reader(&id).await.expect("a reader");
    let mut hashes = BTreeMap::new();
    for (entry, bytes) in contents(&reader).await.expect("read") {
        let hash = if bytes.is_empty() { String::new() } else { hex::encode(Digest::of(&bytes).0) };
        hashes.insert(Json::from(shown(entry.path.as_bytes())).to_string(), hash);
    }
    hashes
}
