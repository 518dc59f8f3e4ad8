use super::*;

fn file() -> EntryMeta {
    EntryMeta { mode: Some(0o644), mtime: Some((1, 0)), ..EntryMeta::new(EntryKind::File) }
}

fn link(kind: EntryKind, to: &str) -> EntryMeta {
    EntryMeta { link: Some(to.as_bytes().to_vec()), ..EntryMeta::new(kind) }
}

#[tokio::test]
async fn a_link_in_the_snapshot_does_not_lead_what_follows_it_out_of_the_target() {
    for options in [RestoreOptions::default(), replace()] {
        let bench = Bench::new();
        let outside = bench.dir.path().join("outside");
        fs::create_dir(&outside).expect("make");
        let mut snapshot = FakeSnapshot::default();
        snapshot.insert("a", link(EntryKind::Symlink, outside.to_str().expect("text")), b"");
        snapshot.insert("a/passwd", file(), b"owned");
        // Whatever comes of it, it stays inside.
        let _ = bench.restore(&snapshot, &options).await;
        assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    }
}

#[tokio::test]
async fn a_link_that_stands_in_the_target_is_not_followed() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).expect("make");
    fs::create_dir(bench.out()).expect("make");
    symlink(&outside, bench.out().join("srv")).expect("link");
    let mut snapshot = FakeSnapshot::default();
    snapshot.insert("srv", EntryMeta::new(EntryKind::Dir), b"");
    snapshot.insert("srv/file", file(), b"content");
    let inventory = bench.target().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert_eq!(inventory.occupied, ["/srv is no directory"]);
    assert!(bench.restore(&snapshot, &RestoreOptions::default()).await.is_err());
    bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!(fs::read_dir(&outside).expect("list").count(), 0);
    assert_eq!(fs::read(bench.out().join("srv/file")).expect("read"), b"content");
    assert!(bench.out().join("srv.lifeboat-aside").is_symlink());
}

#[tokio::test]
async fn a_file_is_never_written_through_a_link_in_its_place() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("victim");
    put(&outside, b"untouched");
    fs::create_dir(bench.out()).expect("make");
    symlink(&outside, bench.out().join("f")).expect("link");
    let mut snapshot = FakeSnapshot::default();
    snapshot.insert("f", file(), b"content");
    assert!(bench.restore(&snapshot, &RestoreOptions::default()).await.is_err());
    bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!(fs::read(&outside).expect("read"), b"untouched");
    assert_eq!(fs::read(bench.out().join("f")).expect("read"), b"content");
}

#[tokio::test]
async fn hard_links_to_what_is_not_a_file_of_the_snapshot_are_refused() {
    for origin in ["../outside", "/etc/passwd", "standing", "dir", "other", ""] {
        let bench = Bench::new();
        fs::create_dir(bench.out()).expect("make");
        put(bench.out().join("standing"), b"not of the snapshot");
        let mut snapshot = FakeSnapshot::default();
        snapshot.insert("dir", EntryMeta::new(EntryKind::Dir), b"");
        snapshot.insert("other", link(EntryKind::Hardlink, "name"), b"");
        snapshot.insert("name", link(EntryKind::Hardlink, origin), b"");
        let error = bench.restore(&snapshot, &RestoreOptions::default()).await.expect_err(origin);
        assert!(error.to_string().contains("could not be restored"), "{error}");
        assert!(!bench.out().join("name").exists());
    }
}

#[tokio::test]
async fn odd_metadata_is_an_error_or_a_problem_and_never_a_panic() {
    let bench = Bench::new();
    let mut snapshot = FakeSnapshot::default();
    let odd = EntryMeta {
        mode: Some(u32::MAX),
        mtime: Some((i64::MIN, u32::MAX)),
        xattrs: vec![lifeboat_model::Xattr { name: b"no\0name".to_vec(), value: vec![0; 100_000] }],
        ..EntryMeta::new(EntryKind::File)
    };
    snapshot.insert("odd", odd, b"x");
    snapshot.insert("nowhere", EntryMeta::new(EntryKind::Symlink), b"");
    let _ = bench.restore(&snapshot, &RestoreOptions::default()).await;
    snapshot.entries.remove(&EntryPath::new("nowhere").expect("a path"));
    let restored = bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert!(!restored.problems.is_empty());
    assert_eq!(fs::read(bench.out().join("odd")).expect("read"), b"x");
}

#[tokio::test]
async fn a_name_that_is_too_long_for_the_target_is_an_error_that_names_it() {
    let bench = Bench::new();
    let mut snapshot = FakeSnapshot::default();
    snapshot.insert(&"n".repeat(300), file(), b"x");
    let error = bench.restore(&snapshot, &RestoreOptions::default()).await.expect_err("too long");
    assert!(error.to_string().contains("nnnn"), "{error}");
}

#[tokio::test]
async fn a_set_uid_bit_is_not_given_to_another_owner() {
    let bench = Bench::new();
    let mut snapshot = FakeSnapshot::default();
    let meta = EntryMeta {
        mode: Some(0o4755),
        owner: Some(lifeboat_model::entry::Principal { id: 0, name: Some("no-such-user-here".to_owned()) }),
        ..EntryMeta::new(EntryKind::File)
    };
    snapshot.insert("tool", meta, b"x");
    let restored = bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    assert!(restored.problems.iter().any(|problem| problem.contains("no-such-user-here")), "{:?}", restored.problems);
    let mode = fs::metadata(bench.out().join("tool")).expect("look").mode() & 0o7777;
    assert_eq!(mode, if is_root() { 0o4755 } else { 0o755 });
}
