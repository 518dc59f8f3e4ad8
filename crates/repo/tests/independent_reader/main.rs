//! `docs/format.md` is enough to write a reader: this one is made of it and of public crates only, and
//! reads everything that the product stored, now and in `testdata/repo`.

#![expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]

mod fixture;
mod house;
mod items;
mod logs;
mod made;
mod reader;
mod upkeep;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use house::{Made, PASSPHRASE};
use made::everything;
use reader::Repository;
use serde_json::Value as Json;

/// Keys that read, and their passphrases.
pub(crate) const READING: [(&str, Option<&str>); 3] =
    [("identity.key", None), ("sheet.txt", None), ("owner.key", Some(PASSPHRASE))];

/// Frozen versions, each with the hash of its list of hashes: a new one gets a line of its own, and no line
/// ever changes.
const FROZEN: [(&str, &str); 1] = [("v1", "aeaa8233a68d4da6c7d5da0a95ea4baf0f94e36816794b4aed62e8de6fbc4e54")];

fn objects(store: &Path, prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(store.join(prefix)).expect("a directory").map(|file| file.expect("a file").path());
    files.collect()
}

/// Reads everything with a key, compares it with what was put, and returns what had to be left out.
fn reads(made: &Made, key: &str, passphrase: Option<&str>) -> Vec<String> {
    same(made.dir.path(), &made.keys[key], passphrase, (&made.expected, &made.logs))
}

/// The same of a store in a directory.
fn same(store: &Path, key: &str, passphrase: Option<&str>, (snapshots, logs): (&Json, &Json)) -> Vec<String> {
    let mut repository = Repository::open(store, key, passphrase).expect("opened");
    let found = repository.read().expect("read");
    assert_eq!(found["logs"], *logs);
    let (found, expected) = (found["snapshots"].as_array().expect("a list"), snapshots.as_array().expect("a list"));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let entries = |told: &Json| told["entries"].as_array().expect("a list").clone();
        assert_eq!(entries(found).len(), entries(expected).len(), "{}", expected["source"]);
        for (found, expected) in entries(found).iter().zip(&entries(expected)) {
            assert_eq!(found, expected);
        }
        assert_eq!(found, expected);
    }
    repository.told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_made_from_the_format_page_reads_all_that_was_put() {
    let made = everything().await;
    let store = made.dir.path();
    for (key, passphrase) in READING {
        assert_eq!(reads(&made, key, passphrase), made.refused, "{key}");
    }
    assert!(Repository::open(store, &made.keys["owner.key"], Some("wrong horse")).is_err());

    // Either copy of the keyring will do.
    fs::remove_dir_all(store.join("keyring")).expect("removed");
    assert_eq!(reads(&made, "identity.key", None), made.refused);

    // A damaged index is told, and trailers tell the same; without any index as well.
    let index = objects(store, "index").swap_remove(0);
    let name = format!("index/{}", index.file_name().expect("a name").to_str().expect("a text"));
    let mut bytes = fs::read(&index).expect("read");
    bytes[200] ^= 1;
    fs::write(&index, bytes).expect("written");
    let told = reads(&made, "identity.key", None);
    assert_eq!(told[..], [format!("{name}: {name} does not hash to its name"), made.refused[0].clone()]);
    fs::remove_dir_all(store.join("index")).expect("removed");
    assert_eq!(reads(&made, "identity.key", None), made.refused);

    // What is hurt is not read.
    for prefix in ["data", "meta"] {
        let packs = objects(store, prefix);
        let whole: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).expect("read")).collect();
        for (pack, bytes) in packs.iter().zip(&whole) {
            let mut hurt = bytes.clone();
            hurt[60] ^= 1;
            fs::write(pack, hurt).expect("written");
        }
        Repository::open(store, &made.keys["identity.key"], None).expect("opened").read().expect_err("damaged");
        for (pack, bytes) in packs.iter().zip(&whole) {
            fs::write(pack, bytes).expect("written");
        }
    }
}

/// Whether a repository really has some of everything, so that reading it proves something.
fn has_everything(store: &Path, keys: &dyn Fn(&str) -> String) {
    let found = Repository::open(store, &keys("identity.key"), None).expect("opened").read().expect("read");
    let snapshots = found["snapshots"].as_array().expect("a list");
    let entries = snapshots.iter().flat_map(|snapshot| snapshot["entries"].as_array().expect("a list"));
    let kinds: BTreeSet<u64> = entries.map(|entry| entry["kind"].as_u64().expect("a number")).collect();
    assert_eq!(kinds, (0..9).collect(), "every kind of entry");
    assert!(found["level"].as_u64() >= Some(1), "pages above pages");
    assert!(found["parts"].as_u64() >= Some(1), "parts of chunks");
    let some = |what: &dyn Fn(&Json) -> bool| assert!(snapshots.iter().any(what));
    some(&|snapshot| snapshot["original"].is_string());
    for state in ["held", "forgotten", "void"] {
        some(&|snapshot| snapshot[state] == true);
    }
    let prefixes = ["data", "meta", "refs", "index", "run", "renewal", "roots/snapshot", "forget", "hold", "void"];
    for prefix in prefixes.into_iter().chain(["mark", "deleting"]) {
        assert!(!objects(store, prefix).is_empty(), "{prefix}");
    }
    assert!(objects(store, "roster").len() >= 5, "changes of the roster");
    // Two envelopes in one pack: it holds records of another.
    let envelopes = |pack: &PathBuf| {
        let bytes = fs::read(pack).expect("read");
        u32::from_le_bytes(*bytes[bytes.len() - 12..].first_chunk().expect("4 bytes"))
    };
    let packs = ["data", "meta", "refs"].map(|prefix| objects(store, prefix)).concat();
    assert!(packs.iter().all(|pack| envelopes(pack) > 0) && packs.iter().any(|pack| envelopes(pack) > 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maker_of_the_repository_really_made_some_of_everything() {
    let made = everything().await;
    has_everything(made.dir.path(), &|key| made.keys[key].clone());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_made_now_is_read_by_both_readers_with_every_key() {
    let new = tempfile::tempdir().expect("a directory");
    for made in made::all().await {
        let dir = new.path().join(made.name);
        fixture::write(&made, &dir);
        fixture::read(&dir).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_of_every_frozen_version_are_read_by_both_readers_with_every_key() {
    let all = fixture::all();
    assert_eq!(all.len(), 3, "version 1 has three");
    for dir in all {
        fixture::read(&dir).await;
    }
    let fixture = fixture::Fixture::open(&fixture::home().join("v1/everything"));
    has_everything(&fixture.store, &|key| fixture.text(key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_of_every_frozen_version_are_backed_up_into_pruned_copied_and_mended() {
    for dir in fixture::all() {
        upkeep::goes_on(&dir).await;
    }
}

#[test]
fn fixtures_of_frozen_versions_were_never_edited() {
    for (version, hash) in FROZEN {
        let dir = fixture::home().join(version);
        let listed = fs::read_to_string(dir.join("HASHES")).expect("a list");
        assert_eq!(fixture::hashes(&dir), listed, "a file of a frozen version was edited, added or removed");
        assert_eq!(blake3::hash(listed.as_bytes()).to_hex().as_str(), hash, "{version}/HASHES");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes testdata/repo/next, to be renamed when a version of the format is frozen"]
async fn make_the_fixtures() {
    let dir = fixture::home().join("next");
    for made in made::all().await {
        fixture::write(&made, &dir.join(made.name));
    }
    fs::write(dir.join("HASHES"), fixture::hashes(&dir)).expect("written");
}
