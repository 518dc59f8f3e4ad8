use lifeboat_model::Digest;

use super::*;

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + second).expect("a time")
}

fn id(text: &str) -> SnapshotId {
    SnapshotId(Digest::of(text.as_bytes()))
}

fn stack(text: &str) -> StackName {
    StackName::new(text).expect("a name")
}

fn seen() -> SeenSnapshot {
    SeenSnapshot {
        names: Some((stack("farajaland"), SourceName::new("registry").expect("a name"))),
        kind: Some("postgres".to_owned()),
        recovery_point: Some(time(5)),
        label: Some("before".to_owned()),
        bytes: Some(100),
        new_bytes: Some(7),
        entries: Some(3),
        problems: Some(0),
        facts: BTreeMap::from([("postgres.system_identifier".to_owned(), "42".to_owned())]),
    }
}

#[test]
fn runs_are_listed_newest_first_with_how_they_ended() {
    let dir = tempfile::tempdir().expect("a directory");
    let catalog = Catalog::open(dir.path(), time(0));
    assert_eq!(catalog.note(), None);
    let first = catalog.begin_run("backup", Some("farajaland/registry"), time(1)).expect("begin");
    let second = catalog.begin_run("forget", None, time(2)).expect("begin");
    let end = RunEnd { snapshot: Some(id("a")), bytes: Some(9), new_bytes: Some(1), error: None };
    catalog.end_run(first, time(3), Outcome::Problems, &end).expect("end");
    let runs = catalog.runs(10).expect("runs");
    assert_eq!(runs.iter().map(|run| run.id).collect::<Vec<_>>(), [second, first]);
    assert_eq!(runs[0].outcome, None, "a run that was killed has no outcome");
    assert_eq!(runs[1].outcome.as_deref(), Some("problems"));
    assert_eq!(runs[1].started, "2026-01-01T00:00:01.000000000Z");
    assert_eq!((runs[1].bytes, runs[1].new_bytes), (Some(9), Some(1)));
    assert_eq!(catalog.runs(1).expect("runs").len(), 1);
}

#[test]
fn what_was_remembered_is_there_after_opening_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let catalog = Catalog::open(dir.path(), time(0));
    catalog.saw_snapshot("repo", id("a"), &seen()).expect("saved");
    catalog.saw_snapshot("other", id("b"), &seen()).expect("saved");
    catalog.remember("repo", "roster", "one").expect("saved");
    catalog.remember("repo", "roster", "two").expect("saved");
    drop(catalog);
    let catalog = Catalog::open(dir.path(), time(0));
    assert_eq!(catalog.seen("repo").expect("read"), BTreeMap::from([(id("a"), seen())]));
    assert_eq!(catalog.memory("repo", "roster").expect("read").as_deref(), Some("two"));
    assert_eq!(catalog.memory("other", "roster").expect("read"), None);
    catalog.drop_snapshot("repo", id("a")).expect("dropped");
    assert!(catalog.seen("repo").expect("read").is_empty());
}

#[test]
fn only_clones_of_the_asked_stack_are_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let catalog = Catalog::open(dir.path(), time(0));
    let identity = |n: &str| BTreeMap::from([("machine.id".to_owned(), n.to_owned())]);
    for (of, n, clone) in [("a", "1", true), ("a", "2", false), ("b", "3", true)] {
        let done = RestoreDone {
            time: time(1),
            snapshot: id("s"),
            stack: stack(of),
            source: SourceName::new("registry").expect("a name"),
            destination: "postgres://scratch".to_owned(),
            identity: identity(n),
            clone,
        };
        catalog.restored(&done).expect("saved");
    }
    assert_eq!(catalog.clones_of(&stack("a")).expect("read"), [identity("1")]);
}

/// Damages a catalog in some way and opens it.
fn reopened_after(damage: impl FnOnce(&Path)) -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().expect("a directory");
    let catalog = Catalog::open(dir.path(), time(0));
    for n in 0..200 {
        catalog.saw_snapshot("repo", id(&n.to_string()), &seen()).expect("saved");
    }
    drop(catalog);
    damage(&dir.path().join(FILE));
    let catalog = Catalog::open(dir.path(), time(9));
    (dir, catalog)
}

fn write(path: &Path, bytes: &[u8]) {
    lifeboat_wire::fs::write_durable(path, bytes, 0o600, lifeboat_wire::fs::Existing::Replace).expect("written");
}

#[test]
fn a_damaged_catalog_is_set_aside_and_begun_anew() {
    type Damage = fn(&Path);
    let damages: [Damage; 4] = [
        |path| write(path, b"this is no database, and long enough to have a header of its own"),
        |path| {
            let mut bytes = std::fs::read(path).expect("the catalog");
            let half = bytes.len() / 2;
            bytes[half..].fill(0xff);
            write(path, &bytes);
        },
        |path| {
            let mut bytes = std::fs::read(path).expect("the catalog");
            bytes[100..4096].fill(0);
            write(path, &bytes);
        },
        |path| {
            let connection = Connection::open(path).expect("opened");
            connection.execute_batch("DROP TABLE restores").expect("dropped");
        },
    ];
    for damage in damages {
        let (dir, catalog) = reopened_after(damage);
        let note = catalog.note().expect("a note");
        assert!(note.contains("damaged") && note.contains("a new one begun"), "{note}");
        catalog.saw_snapshot("repo", id("a"), &seen()).expect("the new one works");
        assert_eq!(catalog.seen("repo").expect("read").len(), 1);
        let kept = std::fs::read_dir(dir.path()).expect("listed").flatten();
        let names: Vec<String> = kept.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().any(|name| name.starts_with("catalog.sqlite3.damaged-")), "{names:?}");
        drop(catalog);
        assert_eq!(Catalog::open(dir.path(), time(10)).note(), None, "told once");
    }
}

#[test]
fn a_newer_catalog_is_left_alone() {
    let (dir, catalog) = reopened_after(|path| {
        let connection = Connection::open(path).expect("opened");
        connection.pragma_update(None, "user_version", 99).expect("set");
    });
    assert!(catalog.note().is_some_and(|note| note.contains("newer version 99")), "{:?}", catalog.note());
    catalog.begin_run("backup", None, time(1)).expect("works in memory");
    let version: u32 = Connection::open(dir.path().join(FILE))
        .and_then(|connection| connection.pragma_query_value(None, "user_version", |row| row.get(0)))
        .expect("still there");
    assert_eq!(version, 99);
}

#[test]
fn a_state_directory_that_cannot_be_used_costs_the_memory_and_not_the_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    std::fs::File::create(&file).expect("a file");
    let catalog = Catalog::open(&file, time(0));
    assert!(catalog.note().is_some_and(|note| note.contains("remembers nothing")));
    catalog.begin_run("backup", None, time(1)).expect("works in memory");
}

#[test]
fn two_processes_write_one_catalog_without_losing_a_run() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |_| {
        let catalog = Catalog::open(dir.path(), time(0));
        for _ in 0..50 {
            catalog.begin_run("backup", None, time(1)).expect("begin");
        }
        catalog.note().map(str::to_owned)
    };
    let notes: Vec<Option<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|n| scope.spawn(move || write(n))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert_eq!(notes, [None, None]);
    assert_eq!(Catalog::open(dir.path(), time(0)).runs(1000).expect("runs").len(), 100);
}

#[test]
fn facts_that_cannot_be_read_are_told_and_never_taken_for_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let catalog = Catalog::open(dir.path(), time(0));
    catalog.saw_snapshot("repo", id("a"), &seen()).expect("saved");
    catalog.lock().execute("UPDATE snapshots SET facts = '{'", []).expect("damaged");
    assert!(catalog.facts_of(&stack("farajaland")).is_err());
    assert!(catalog.seen("repo").is_err());
}
