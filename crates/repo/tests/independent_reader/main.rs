//! `docs/format.md` is enough to write a reader: this one is made of it and of public crates, and
//! reads everything that the product stored.

#![expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]

mod fixture;
mod made;
mod reader;

use std::fs;
use std::path::{Path, PathBuf};

use made::{Made, make};
use reader::Repository;

fn objects(store: &Path, prefix: &str) -> Vec<PathBuf> {
    let files = fs::read_dir(store.join(prefix)).expect("a directory").map(|file| file.expect("a file").path());
    files.collect()
}

/// Reads everything with a key, compares it with what was put, and returns what had to be left out.
fn reads(made: &Made, key: &str, passphrase: Option<&str>) -> Vec<String> {
    same(made.dir.path(), key, passphrase, &made.expected)
}

fn same(store: &Path, key: &str, passphrase: Option<&str>, expected: &serde_json::Value) -> Vec<String> {
    let mut repository = Repository::open(store, key, passphrase).expect("opened");
    let found = repository.read().expect("read");
    let (found, expected) = (found["snapshots"].as_array().expect("a list"), expected.as_array().expect("a list"));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let entries = |told: &serde_json::Value| told["entries"].as_array().expect("a list").clone();
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
    let made = make().await;
    let store = made.dir.path();
    let refused = [format!("{}: made after its writer was removed", made.refused)];
    assert_eq!(reads(&made, &made.identity, None), refused);
    assert_eq!(reads(&made, &made.sheet, None), refused);
    assert_eq!(reads(&made, &made.owner, Some("correct horse")), refused);
    assert!(Repository::open(store, &made.owner, Some("wrong horse")).is_err());

    // Either copy of the keyring will do.
    fs::remove_dir_all(store.join("keyring")).expect("removed");
    assert_eq!(reads(&made, &made.identity, None), refused);

    // A damaged index is told, and trailers tell the same; without any index as well.
    let index = objects(store, "index").swap_remove(0);
    let name = format!("index/{}", index.file_name().expect("a name").to_str().expect("a text"));
    let mut bytes = fs::read(&index).expect("read");
    bytes[200] ^= 1;
    fs::write(&index, bytes).expect("written");
    let told = reads(&made, &made.identity, None);
    assert_eq!(told[..], [format!("{name}: {name} does not hash to its name"), refused[0].clone()]);
    fs::remove_dir_all(store.join("index")).expect("removed");
    assert_eq!(reads(&made, &made.identity, None), refused);

    // What is hurt is not read.
    for prefix in ["data", "meta"] {
        let packs = objects(store, prefix);
        let whole: Vec<Vec<u8>> = packs.iter().map(|pack| fs::read(pack).expect("read")).collect();
        for (pack, bytes) in packs.iter().zip(&whole) {
            let mut hurt = bytes.clone();
            hurt[60] ^= 1;
            fs::write(pack, hurt).expect("written");
        }
        Repository::open(store, &made.identity, None).expect("opened").read().expect_err("damaged");
        for (pack, bytes) in packs.iter().zip(&whole) {
            fs::write(pack, bytes).expect("written");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_maker_of_the_repository_really_made_some_of_everything() {
    let made = make().await;
    let store = made.dir.path();
    let entries = |at: usize| made.expected[at]["entries"].as_array().expect("a list").clone();
    let kinds: std::collections::BTreeSet<u64> =
        entries(0).iter().map(|entry| entry["kind"].as_u64().expect("a number")).collect();
    assert_eq!(kinds, (0..9).collect(), "every kind of entry");
    for prefix in ["data", "meta", "refs", "index", "run", "renewal", "roots/snapshot", "forget", "hold", "void"] {
        assert!(!objects(store, prefix).is_empty(), "{prefix}");
    }
    assert!(objects(store, "roster").len() >= 5, "changes of the roster");
    // Two envelopes in one pack: it holds records of another.
    let envelopes = |pack: &PathBuf| {
        let bytes = fs::read(pack).expect("read");
        u32::from_le_bytes(*bytes[bytes.len() - 12..].first_chunk().expect("4 bytes"))
    };
    assert!(objects(store, "meta").len() > 2 && objects(store, "data").iter().all(|pack| envelopes(pack) > 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fixtures_are_read_by_both_readers_with_every_key() {
    let new = tempfile::tempdir().expect("a directory");
    fixture::write(&make().await, new.path());
    fixture::read(new.path()).await;
    let frozen = fs::read_dir(fixture::home()).into_iter().flatten();
    for dir in frozen.map(|entry| entry.expect("an entry").path()) {
        fixture::read(&dir).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes testdata/repo/next, to be renamed when a version of the format is frozen"]
async fn make_the_fixture() {
    let dir = fixture::home().join("next");
    fs::create_dir_all(&dir).expect("made");
    fixture::write(&make().await, &dir);
}
