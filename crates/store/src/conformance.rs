//! The contract of [`Store`] as a suite that every implementation and wrapper runs.
//!
//! Each function panics with the rule that is broken. Objects are put under `conformance/`, which
//! must be empty before.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::{Key, OBJECT_BYTES_MAX, ObjectMeta, PutMode, Store, StoreErrorKind};

/// Every rule. Leaves the store as it was.
///
/// # Panics
/// With the rule that is broken.
pub async fn run(store: Arc<dyn Store>) {
    run_reads_and_puts(&*store).await;
    replaces_on_demand(&*store).await;
    deletes(&*store).await;
    one_of_many_creators_wins(&store).await;
    for object in list(&*store, "conformance/").await {
        store.delete(&object.key).await.expect("deletes");
    }
    assert_eq!(list(&*store, "conformance/").await, [], "what was deleted is not listed");
}

/// The rules for a store that neither deletes nor replaces.
///
/// # Panics
/// With the rule that is broken.
pub async fn run_append_only(store: Arc<dyn Store>) {
    run_reads_and_puts(&*store).await;
    one_of_many_creators_wins(&store).await;
    let key = key("kept");
    put(&*store, &key, b"one", PutMode::CreateNew).await;
    let replaced = store.put(&key, Bytes::from_static(b"two"), PutMode::Replace).await;
    assert_eq!(replaced.expect_err("does not replace").kind, StoreErrorKind::Denied);
    put(&*store, &key, b"one", PutMode::Replace).await;
    assert_eq!(store.delete(&key).await.expect_err("does not delete").kind, StoreErrorKind::Denied);
    assert_eq!(store.get(&key, None).await.expect("is still there"), &b"one"[..]);
}

async fn run_reads_and_puts(store: &dyn Store) {
    gives_back_what_was_put(store).await;
    reads_ranges(store).await;
    tells_what_is_missing(store).await;
    refuses_a_taken_name(store).await;
    refuses_giants(store).await;
    lists_by_prefix(store).await;
}

fn key(name: &str) -> Key {
    Key::new(format!("conformance/{name}")).expect("a key")
}

async fn put(store: &dyn Store, key: &Key, body: &[u8], mode: PutMode) {
    store.put(key, Bytes::copy_from_slice(body), mode).await.unwrap_or_else(|error| panic!("puts {key}: {error:?}"));
}

async fn list(store: &dyn Store, prefix: &str) -> Vec<ObjectMeta> {
    let mut objects: Vec<_> = store.list(prefix).try_collect().await.expect("lists");
    objects.sort_by(|a, b| a.key.cmp(&b.key));
    objects
}

async fn gives_back_what_was_put(store: &dyn Store) {
    let large: Vec<u8> = (0..3_000_000u32).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
    for (name, body) in [("empty", &b""[..]), ("one", b"1"), ("large", &large), ("deep/er/and/deeper", b"x")] {
        put(store, &key(name), body, PutMode::CreateNew).await;
        assert_eq!(store.get(&key(name), None).await.expect("gets"), body, "{name}");
    }
}

async fn reads_ranges(store: &dyn Store) {
    let key = key("ranges");
    put(store, &key, b"0123456789", PutMode::CreateNew).await;
    for (range, expected) in [(0..1, "0"), (3..7, "3456"), (9..10, "9"), (8..100, "89"), (0..u64::MAX, "0123456789")] {
        let got = store.get(&key, Some(range.clone())).await.expect("gets a range");
        assert_eq!(got, expected.as_bytes(), "{range:?}");
    }
    for range in [10..11, 11..12, 4..4, u64::MAX - 1..u64::MAX] {
        let error = store.get(&key, Some(range.clone())).await.expect_err("a range without bytes is refused");
        assert_eq!(error.kind, StoreErrorKind::BadRange, "{range:?}: {error:?}");
    }
}

async fn tells_what_is_missing(store: &dyn Store) {
    for range in [None, Some(0..1)] {
        let error = store.get(&key("missing"), range).await.expect_err("not there");
        assert_eq!(error.kind, StoreErrorKind::NotFound);
        assert_eq!((error.operation, error.key.as_str()), ("get", "conformance/missing"));
        assert_eq!(error.store, store.to_string());
    }
    assert_eq!(list(store, "conformance/missing/").await, [], "a prefix without objects is an empty list");
    // The first component of a name is no object.
    let error = store.get(&key("deep"), None).await.expect_err("not an object");
    assert_eq!(error.kind, StoreErrorKind::NotFound);
}

async fn refuses_a_taken_name(store: &dyn Store) {
    if !store.capabilities().conditional_put {
        return;
    }
    let key = key("taken");
    put(store, &key, b"first", PutMode::CreateNew).await;
    let error = store.put(&key, Bytes::from_static(b"second"), PutMode::CreateNew).await.expect_err("taken");
    assert_eq!(error.kind, StoreErrorKind::Exists);
    assert_eq!(store.get(&key, None).await.expect("gets"), &b"first"[..], "the first stays");
}

async fn refuses_giants(store: &dyn Store) {
    let giant = Bytes::from(vec![0; OBJECT_BYTES_MAX + 1]);
    let error = store.put(&key("giant"), giant, PutMode::CreateNew).await.expect_err("too large");
    assert_eq!(error.kind, StoreErrorKind::Failed);
    assert_eq!(list(store, "conformance/giant").await, [], "a refused put leaves nothing");
}

async fn lists_by_prefix(store: &dyn Store) {
    let names: BTreeSet<String> = (0..600).map(|n| format!("conformance/list/{}/{n:03}", n % 7)).collect();
    for name in &names {
        put(store, &Key::new(name.clone()).expect("a key"), name.as_bytes(), PutMode::CreateNew).await;
    }
    for prefix in
        ["conformance/list/", "conformance/list/3/", "conformance/list/3", "conformance/list/3/01", "conformance/li"]
    {
        let listed = list(store, prefix).await;
        let expected: Vec<&String> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        let keys: Vec<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, expected, "{prefix}");
        assert!(listed.iter().all(|object| object.bytes == object.key.as_str().len() as u64), "sizes are true");
    }
    let all = list(store, "").await;
    assert!(
        names.iter().all(|name| all.iter().any(|object| object.key.as_str() == name)),
        "the empty prefix lists all"
    );
}

async fn replaces_on_demand(store: &dyn Store) {
    let key = key("replaced");
    for body in [&b"first"[..], b"second, longer", b"3"] {
        put(store, &key, body, PutMode::Replace).await;
        assert_eq!(store.get(&key, None).await.expect("gets"), body);
    }
    let listed = list(store, key.as_str()).await;
    assert_eq!(listed.iter().map(|object| object.bytes).collect::<Vec<_>>(), [1], "it is listed once, as it is now");
}

async fn deletes(store: &dyn Store) {
    let key = key("deleted");
    put(store, &key, b"x", PutMode::CreateNew).await;
    store.delete(&key).await.expect("deletes");
    store.delete(&key).await.expect("deletes what is not there");
    store.delete(&self::key("deep")).await.expect("the first component of a name is no object");
    assert_eq!(store.get(&key, None).await.expect_err("gone").kind, StoreErrorKind::NotFound);
    put(store, &key, b"y", PutMode::CreateNew).await;
    assert_eq!(store.get(&key, None).await.expect("put again"), &b"y"[..]);
}

async fn one_of_many_creators_wins(store: &Arc<dyn Store>) {
    if !store.capabilities().conditional_put {
        return;
    }
    let tries = (0..8u8).map(|n| {
        let store = Arc::clone(store);
        tokio::spawn(async move { store.put(&key("raced"), Bytes::from(vec![n; 1000]), PutMode::CreateNew).await })
    });
    let mut won = Vec::new();
    for (n, outcome) in futures::future::join_all(tries).await.into_iter().enumerate() {
        match outcome.expect("joined") {
            Ok(()) => won.push(n),
            Err(error) => assert_eq!(error.kind, StoreErrorKind::Exists),
        }
    }
    assert_eq!(won.len(), 1, "one creator wins");
    let stored = store.get(&key("raced"), None).await.expect("gets");
    assert!(
        stored.len() == 1000 && stored.iter().all(|byte| usize::from(*byte) == won[0]),
        "the winner's bytes, whole"
    );
}
