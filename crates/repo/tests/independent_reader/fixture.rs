//! A repository as files that every later version has to read: `testdata/repo/VERSION`, with the store, the
//! keys and what is in it. Once a version is frozen its files are never edited.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_model::{Digest, SnapshotId};
use lifeboat_repo::{KeyFile, Keys, Repository, open_access};
use lifeboat_store::Store;
use lifeboat_store::local::LocalStore;
use lifeboat_testkit::content::contents;
use serde_json::Value as Json;

use crate::made::Made;
use crate::reader::describe::shown;
use crate::same;

const PASSPHRASE: &str = "correct horse";

/// Where fixtures are.
pub(crate) fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/repo")
}

/// Writes what was made as a fixture.
pub(crate) fn write(made: &Made, dir: &Path) {
    copy_tree(made.dir.path(), &dir.join("store"));
    let expected = serde_json::to_string(&made.expected).expect("JSON");
    let files = [("identity.key", &made.identity), ("owner.key", &made.owner), ("sheet.txt", &made.sheet)];
    for (name, text) in files.into_iter().chain([("expected.json", &expected)]) {
        fs::write(dir.join(name), text).expect("written");
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &copy);
        } else {
            fs::copy(&path, &copy).expect("copied");
        }
    }
}

/// Reads a fixture with each of its keys, by the reader made from the page and by the product.
pub(crate) async fn read(dir: &Path) {
    let text = |name: &str| fs::read_to_string(dir.join(name)).expect("a file");
    let expected: Json = serde_json::from_str(&text("expected.json")).expect("JSON");
    let store = dir.join("store");
    for (key, passphrase) in [("identity.key", None), ("sheet.txt", None), ("owner.key", Some(PASSPHRASE))] {
        same(&store, &text(key), passphrase, &expected);
    }
    let identity = KeyFile::decode(&text("identity.key"), &mut || None).expect("a key").into_identity();
    let keys = Keys { identity: Some(identity.expect("an identity")), ..Keys::default() };
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&store).expect("a store"));
    let access = open_access(&store, &keys, None).await.expect("opened").access;
    let cache = tempfile::tempdir().expect("a directory");
    let repository = Repository::open(store, access, cache.path()).await.expect("opened");
    let list = repository.snapshots(&[]).await.expect("listed").snapshots;
    assert_eq!(list.len(), expected.as_array().expect("a list").len());
    for info in list {
        let told = expected.as_array().expect("a list").iter().find(|told| told["id"] == info.id.to_string());
        let told = told.expect("expected");
        let states = [info.forgotten.is_some(), info.held.is_some(), info.void.is_some()];
        assert_eq!(states, ["forgotten", "held", "void"].map(|state| told[state].as_bool().expect("a state")));
        if info.counts() {
            let hashes = told["entries"].as_array().expect("a list").iter();
            let hash = |entry: &Json| (entry["path"].to_string(), entry["hash"].as_str().unwrap_or("").to_owned());
            assert_eq!(restored(&repository, info.id).await, hashes.map(hash).collect());
        }
    }
}

/// Hashes of content by path, as the product restores them; empty where there is none.
async fn restored(repository: &Repository, id: SnapshotId) -> BTreeMap<String, String> {
    let reader = repository.reader(&id).await.expect("a reader");
    let mut hashes = BTreeMap::new();
    for (entry, bytes) in contents(&reader).await.expect("read") {
        let hash = if bytes.is_empty() { String::new() } else { hex::encode(Digest::of(&bytes).0) };
        hashes.insert(Json::from(shown(entry.path.as_bytes())).to_string(), hash);
    }
    hashes
}
