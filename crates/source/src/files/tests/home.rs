//! Back in place: what is above the configured paths, what may be written, and what is told.

use std::collections::BTreeMap;
use std::os::unix::fs::chown;

use lifeboat_model::flow::Monitor;
use lifeboat_model::target::{RestoreOptions, Scope};
use rustix::fs::{FileType, Mode};

use super::backup::as_nobody_else;
use super::*;

fn home() -> FilesTarget {
    FilesTarget { root: None, machine_id: None }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

fn mode_and_time(path: &Path) -> (u32, i64, i64) {
    let meta = fs::metadata(path).expect("look");
    (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec())
}

#[tokio::test]
async fn what_only_leads_to_a_configured_path_is_made_where_it_is_missing_and_else_left_alone() {
    let bench = Bench::new();
    bench.write("way/inner/docs/file", b"content");
    let config = FilesConfig { paths: vec![bench.tree().join("way/inner/docs")], ..bench.config() };
    let (way, inner) = (bench.tree().join("way"), bench.tree().join("way/inner"));
    set_mode(&way, 0o710);
    set_mode(&inner, 0o751);
    let made = mode_and_time(&inner).0;
    let snapshot = bench.backup_into(&config, FakeSink::new()).await.expect("a backup");

    put(way.join("other"), b"changes the time of its directory");
    set_mode(&way, 0o755);
    let before = mode_and_time(&way);
    for options in [RestoreOptions::default(), replace(), RestoreOptions { only: vec!["*".to_owned()], ..replace() }] {
        home().apply(&snapshot, &options, &bench.ctx).await.expect("a restore");
        assert_eq!(mode_and_time(&way), before, "{options:?}");
        let verified = home().verify(&snapshot, &options, Scope::Whole, &bench.ctx).await.expect("verify");
        assert_eq!((verified.compared, verified.differences), (2, vec![]), "{options:?}");
    }
    fs::remove_dir_all(&inner).expect("remove");
    home().apply(&snapshot, &RestoreOptions::default(), &bench.ctx).await.expect("a restore");
    assert_eq!(mode_and_time(&inner).0, made);
}

#[tokio::test]
async fn a_link_on_the_way_to_a_configured_path_is_told_before_anything_is_written() {
    let bench = Bench::new();
    bench.write("way/docs/a", b"1");
    bench.write("way/docs/sub/b", b"2");
    let config = FilesConfig { paths: vec![bench.tree().join("way/docs")], ..bench.config() };
    let snapshot = bench.backup_into(&config, FakeSink::new()).await.expect("a backup");
    fs::rename(bench.tree().join("way"), bench.tree().join("moved")).expect("move");
    symlink("moved", bench.tree().join("way")).expect("link");
    let inventory = home().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert_eq!(inventory.occupied, [format!("{} is no directory", bench.tree().join("way").display())]);
}

#[test]
fn a_user_restores_its_own_tree_in_place_and_what_it_may_not_write_is_named() {
    if !is_root() {
        return skipped("a_user_restores_its_own_tree", "needs root, to become another user");
    }
    let bench = Bench::new();
    for path in ["mine/kept", "mine/sub/gone", "theirs/kept", "theirs/gone"] {
        let path = bench.write(path, b"content");
        if path.starts_with(bench.tree().join("mine")) {
            for path in [path.as_path(), path.parent().expect("a parent")] {
                chown(path, Some(12_345), Some(12_345)).expect("give");
            }
        }
    }
    // May be gone through, and neither read nor written to.
    set_mode(bench.dir.path(), 0o711);
    set_mode(&bench.tree(), 0o711);
    let (mine, theirs) = (bench.tree().join("mine"), bench.tree().join("theirs"));
    let config = FilesConfig { paths: vec![mine.clone(), theirs.clone()], ..bench.config() };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let snapshot = runtime.block_on(bench.backup_into(&config, FakeSink::new())).expect("a backup");
    fs::remove_dir_all(mine.join("sub")).expect("remove");
    as_nobody_else(|runtime| {
        let options = RestoreOptions::default();
        let refusals = |options: &RestoreOptions| {
            let inventory = runtime.block_on(home().inventory(&snapshot, options)).expect("inventory");
            inventory.refusals.into_iter().map(|finding| finding.what).collect::<Vec<_>>()
        };
        assert_eq!(refusals(&options), Vec::<String>::new());
        let restored = runtime.block_on(home().apply(&snapshot, &options, &bench.ctx)).expect("a restore");
        assert_eq!(restored.problems, Vec::<String>::new());
        assert_eq!(fs::read(mine.join("sub/gone")).expect("read"), b"content");

        let closed = format!("the restore writes to {} (Permission denied), which it may not", theirs.display());
        assert_eq!(refusals(&replace()), [closed]);
        let part = RestoreOptions { only: vec![mine.display().to_string()], ..replace() };
        assert_eq!(refusals(&part), Vec::<String>::new());
        runtime.block_on(home().apply(&snapshot, &part, &bench.ctx)).expect("a restore");
    });
    fs::remove_file(theirs.join("gone")).expect("remove");
    fs::remove_dir_all(&mine).expect("remove");
    as_nobody_else(|runtime| {
        let inventory = runtime.block_on(home().inventory(&snapshot, &RestoreOptions::default())).expect("inventory");
        let what = &inventory.refusals[0].what;
        for closed in [bench.tree(), theirs.clone()] {
            assert!(what.contains(&format!("{} (Permission denied)", closed.display())), "{what}");
        }
        assert!(inventory.refusals[0].hint.as_ref().is_some_and(|hint| hint.contains("as root")));
    });
}

#[tokio::test]
async fn sockets_are_counted_and_left_out() {
    let bench = Bench::new();
    let socket = |path: &str| {
        let path = bench.tree().join(path);
        rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Socket, Mode::from_raw_mode(0o600), 0).expect("make");
        path
    };
    bench.write("file", b"x");
    let first = socket("a.sock");
    fs::hard_link(&first, bench.tree().join("b.sock")).expect("link");
    let sink = Arc::new(FakeSink::new());
    let point = FilesSource::new(&bench.config())
        .expect("config")
        .backup(Arc::clone(&sink) as _, &bench.ctx)
        .await
        .expect("a backup");
    assert_eq!(point.facts["files.sockets"], "2");
    let mut snapshot = Arc::into_inner(sink).expect("the source let go of it").seal(point);
    assert_eq!(snapshot.problems, vec![]);
    assert!(snapshot.entries.keys().all(|path| !path.name().ends_with(b".sock")));

    // Snapshots of before listed them.
    snapshot.insert("old.sock", EntryMeta::new(EntryKind::Socket), b"");
    let inventory = bench.target().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert!(inventory.steps.iter().any(|step| step.contains("leave out 1 socket:")), "{:?}", inventory.steps);
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    assert!(!bench.out().join("old.sock").exists());

    let config = FilesConfig { paths: vec![first], ..bench.config() };
    let error = bench.backup_into(&config, FakeSink::new()).await.expect_err("nothing to back up");
    assert!(matches!(error, SourceError::Config { .. }) && error.to_string().contains("is a socket"), "{error}");
    let findings = FilesSource::new(&config).expect("config").doctor(&bench.ctx).await.expect("doctor");
    assert!(findings.iter().any(|finding| finding.what.contains("is a socket")), "{findings:?}");
}

#[tokio::test]
async fn new_names_are_refused_by_all_that_know_only_paths() {
    let bench = Bench::new();
    bench.write("file", b"x");
    let snapshot = bench.backup().await;
    let rename = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let options = RestoreOptions { rename, ..RestoreOptions::default() };
    let target = bench.target();
    for refused in [
        target.inventory(&snapshot, &options).await.map(|_| ()),
        target.apply(&snapshot, &options, &bench.ctx).await.map(|_| ()),
        target.verify(&snapshot, &options, Scope::Whole, &bench.ctx).await.map(|_| ()),
    ] {
        let error = refused.expect_err("a refusal");
        assert!(matches!(error, SourceError::Config { .. }) && error.to_string().contains("--rename a=b"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("--to DIR")));
    }
    assert!(!bench.out().exists());
}

/// Remembers what was begun.
#[derive(Default)]
struct Begun(std::sync::Mutex<Vec<String>>);

impl Monitor for Begun {
    fn begin(&self, what: &str, _total_bytes: Option<u64>) {
        self.0.lock().expect("no panic").push(what.to_owned());
    }
    fn bytes(&self, _count: u64) {}
    fn entries(&self, _count: u64) {}
    fn note(&self, _text: &str) {}
}

#[tokio::test]
async fn the_total_that_the_caller_told_is_not_hidden_by_a_new_beginning() {
    let mut bench = Bench::new();
    let begun = Arc::new(Begun::default());
    bench.ctx.monitor = Arc::clone(&begun) as Arc<dyn Monitor>;
    bench.write("file", b"x");
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    bench.target().verify(&snapshot, &RestoreOptions::default(), Scope::Whole, &bench.ctx).await.expect("verify");
    assert_eq!(*begun.0.lock().expect("no panic"), Vec::<String>::new());
}

#[tokio::test]
async fn more_files_than_wait_together_are_replaced_and_each_is_whole() {
    let bench = Bench::new();
    for number in 0..700 {
        bench.write(&format!("{}/{number}", number % 7), format!("content {number}").as_bytes());
    }
    bench.write("3/large", &vec![7; 3 << 20]);
    fs::hard_link(bench.tree().join("0/0"), bench.tree().join("6/link")).expect("link");
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    for number in 0..700 {
        put(bench.restored(&format!("{}/{number}", number % 7)), b"newer");
    }
    let restored = bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!(restored.problems, Vec::<String>::new());
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
    bench.write("0/0", b"linked once more");
    let snapshot = bench.backup().await;
    let part = RestoreOptions { only: vec![bench.entry("6").to_string()], ..replace() };
    bench.restore(&snapshot, &part).await.expect("a restore of a further name alone");
    assert_eq!(fs::read(bench.restored("6/link")).expect("read"), b"linked once more");
}

#[tokio::test]
async fn files_that_wait_when_a_restore_ends_early_leave_nothing_and_touch_nothing() {
    let bench = Bench::new();
    for number in 0..200 {
        bench.write(&number.to_string(), b"old");
    }
    let mut snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    for number in 0..200 {
        put(bench.restored(&number.to_string()), b"newer");
    }
    let calls = std::sync::atomic::AtomicU64::new(0);
    let cancel = bench.ctx.cancel.clone();
    snapshot.on_content = Some(Box::new(move |_, _| {
        if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 150 {
            cancel.cancel();
        }
    }));
    // One after the other: the last batch has not begun when the stop comes.
    let cut_short = bench.restore(&snapshot, &RestoreOptions { jobs: 1, ..replace() }).await;
    assert!(matches!(cut_short, Err(SourceError::Cancelled)), "{cut_short:?}");
    let names: Vec<_> = fs::read_dir(bench.restored("")).expect("list").collect();
    assert_eq!(names.len(), 200, "temporary files stay: {names:?}");
    for number in 0..200 {
        assert_eq!(fs::read(bench.restored(&number.to_string())).expect("read"), b"newer");
    }
}
