use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifeboat_model::Xattr;
use lifeboat_model::flow::{Monitor, Piece};
use lifeboat_testkit::context::Recorder;

use super::*;

fn count(snapshot: &FakeSnapshot, kind: EntryKind) -> usize {
    snapshot.entries.values().filter(|entry| entry.meta.kind == kind).count()
}

#[tokio::test]
async fn unchanged_files_are_kept_without_being_read() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 60, ..TreeOptions::default() }).expect("make");
    let first = bench.backup().await;
    let files = count(&first, EntryKind::File) as u64;
    let changed = File::options().write(true).open(bench.tree().join("attributes/user")).expect("open");
    changed.write_all_at(b"!", 0).expect("write");

    let sink = Arc::new(FakeSink::with_parent(Arc::new(first)));
    let point = FilesSource::new(&bench.config())
        .expect("config")
        .backup(Arc::clone(&sink) as _, &bench.ctx)
        .await
        .expect("a backup");
    assert_eq!(sink.calls().kept, files - 1);
    assert_eq!(point.facts["machine.id"], "m");
    assert_eq!(point.facts["files.files"], files.to_string());
    let second = Arc::into_inner(sink).expect("the source let go of it").seal(point);
    bench.restore(&second, &RestoreOptions::default()).await.expect("a restore");
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
}

#[tokio::test]
async fn a_file_without_attributes_is_asked_for_once_and_one_that_gets_some_is_put_with_them() {
    let bench = Bench::new();
    if !super::super::meta::dates_attributes(File::open(bench.tree()).expect("open").as_fd()) {
        return skipped("attributes of bare files", "this file system does not date them [cannot be had]");
    }
    for name in ["bare", "dressed", "undressed"] {
        bench.write(name, name.as_bytes());
    }
    xattr::set(bench.tree().join("undressed"), "user.note", b"old").expect("set");
    let first = bench.backup().await;
    let second = FakeSink::with_parent(Arc::new(first));
    let second = bench.backup_into(&bench.config(), second).await.expect("a backup");
    assert!(["bare", "dressed", "undressed"].iter().all(|name| second.entries[&bench.entry(name)].kept));

    xattr::set(bench.tree().join("dressed"), "user.note", b"new").expect("set");
    xattr::remove(bench.tree().join("undressed"), "user.note").expect("removed");
    let sink = FakeSink::with_parent(Arc::new(second));
    let third = bench.backup_into(&bench.config(), sink).await.expect("a backup");
    let entry = |name| &third.entries[&bench.entry(name)];
    assert_eq!((entry("bare").kept, entry("dressed").kept, entry("undressed").kept), (true, false, false));
    assert_eq!(entry("dressed").meta.xattrs, [Xattr { name: b"user.note".to_vec(), value: b"new".to_vec() }]);
    assert_eq!(entry("undressed").meta.xattrs, []);

    let last = Arc::new(FakeSink::with_parent(Arc::new(third)));
    FilesSource::new(&bench.config()).expect("config").backup(Arc::clone(&last) as _, &bench.ctx).await.expect("done");
    assert_eq!((last.calls().kept, last.calls().not_kept), (3, 1), "only the one with attributes is asked for twice");
}

#[tokio::test]
async fn what_lies_beside_a_path_changes_nothing_of_its_snapshot() {
    let bench = Bench::new();
    bench.write("file", b"x");
    let entries = |snapshot: FakeSnapshot| snapshot.entries.into_iter().map(|(path, entry)| (path, entry.meta));
    let first: Vec<_> = entries(bench.backup().await).collect();
    put(bench.tree().with_file_name("beside"), b"x");
    let second: Vec<_> = entries(bench.backup().await).collect();
    assert_eq!(first, second);
}

#[tokio::test]
async fn holes_are_told_and_not_read() {
    let bench = Bench::new();
    File::create(bench.tree().join("hole")).expect("create").set_len(1 << 40).expect("set");
    let snapshot = bench.backup().await;
    let entry = &snapshot.entries[&bench.entry("hole")];
    assert_eq!(entry.pieces, [Piece::Hole(1 << 40)]);
    assert_eq!(entry.meta.extra[super::super::meta::ALLOCATED], "0");
    let inventory = bench.target().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert!(inventory.needed_bytes < 1 << 20 && inventory.refusals.is_empty(), "{inventory:?}");
}

#[tokio::test]
async fn excluded_names_cache_directories_and_leftovers_are_not_in_the_snapshot() {
    let bench = Bench::new();
    let tag = b"Signature: 8a477f597d28d172789f06886806bc55\n# a cache";
    for path in ["keep.txt", "a.tmp", "deep/b.tmp", "deep/keep", "build/x", "old/y", "cache/thing", "fake/CACHEDIR.TAG"]
    {
        bench.write(path, b"x");
    }
    bench.write("cache/CACHEDIR.TAG", tag);
    bench.write(".lifeboat-tmp-01234567-0123456789ab", b"x");
    let mut config = bench.config();
    config.exclude = vec!["*.tmp".to_owned(), "build/".to_owned(), format!("{}/old", bench.tree().display())];
    let snapshot = bench.backup_into(&config, FakeSink::new()).await.expect("a backup");
    let top = bench.entry("x").as_bytes().len() - 1;
    let below = snapshot.entries.keys().filter(|path| path.as_bytes().len() > top);
    let names: Vec<String> = below.map(|path| String::from_utf8_lossy(&path.as_bytes()[top..]).into_owned()).collect();
    assert_eq!(names, ["cache", "cache/CACHEDIR.TAG", "deep", "deep/keep", "fake", "fake/CACHEDIR.TAG", "keep.txt"]);
    assert_eq!(snapshot.problems, vec![]);
    config.exclude_caches = false;
    let snapshot = bench.backup_into(&config, FakeSink::new()).await.expect("a backup");
    assert!(snapshot.entries.contains_key(&bench.entry("cache/thing")));
}

#[tokio::test]
async fn a_missing_path_fails_the_backup_and_an_empty_one_is_a_problem() {
    let bench = Bench::new();
    let snapshot = bench.backup().await;
    assert_eq!(snapshot.problems.len(), 1, "{:?}", snapshot.problems);
    let mut config = bench.config();
    config.paths.push(bench.tree().join("unmounted"));
    config.paths.remove(0);
    let error = bench.backup_into(&config, FakeSink::new()).await.expect_err("a missing path");
    assert!(error.to_string().contains("unmounted cannot be read"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("mounted")));
}

#[tokio::test]
async fn a_path_through_a_link_is_refused_with_the_real_one() {
    let bench = Bench::new();
    bench.write("real/file", b"x");
    symlink("real", bench.tree().join("link")).expect("link");
    for path in ["link", "link/file"] {
        let config = FilesConfig { paths: vec![bench.tree().join(path)], ..FilesConfig::default() };
        let error = bench.backup_into(&config, FakeSink::new()).await.expect_err("a link");
        assert!(matches!(error, SourceError::Config { .. }), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("tree/real")), "{error:?}");
    }
}

#[tokio::test]
async fn paths_within_others_are_walked_once_and_single_files_are_taken() {
    let bench = Bench::new();
    bench.write("a/one", b"1");
    bench.write("b", b"2");
    let paths = ["a/one", "a", "a/./one", "b"].map(|path| bench.tree().join(path)).to_vec();
    let config = FilesConfig { paths, ..FilesConfig::default() };
    let sink = Arc::new(FakeSink::new());
    FilesSource::new(&config).expect("config").backup(Arc::clone(&sink) as _, &bench.ctx).await.expect("a backup");
    let parents = entry_of(&bench.tree()).components().count() as u64;
    assert_eq!(sink.calls().put, parents + 3, "the directories above, a, a/one and b");
    for bad in [vec![], vec![PathBuf::from("relative")], vec![PathBuf::from("/a/../b")]] {
        let config = FilesConfig { paths: bad, ..FilesConfig::default() };
        assert!(matches!(FilesSource::new(&config), Err(SourceError::Config { .. })));
    }
}

/// Changes a file whenever its content is asked for, as often as told.
fn changing(path: PathBuf, times: u64) -> FakeSink {
    let calls = AtomicU64::new(0);
    let wanted = entry_of(&path);
    FakeSink::new().on_content(Box::new(move |entry, offset| {
        if *entry == wanted && offset > 0 && offset < 2 << 20 && calls.fetch_add(1, Ordering::Relaxed) < times {
            let file = File::options().append(true).open(&path).expect("open");
            std::io::Write::write_all(&mut &file, b"more").expect("write");
        }
    }))
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_read_again() {
    let bench = Bench::new();
    let path = bench.write("busy", &vec![1; 3 << 20]);
    let sink = changing(path.clone(), 2);
    let snapshot = bench.backup_into(&bench.config(), sink).await.expect("a backup");
    assert_eq!(snapshot.problems, vec![]);
    assert_eq!(snapshot.entries[&bench.entry("busy")].content(), fs::read(&path).expect("read"));
}

#[tokio::test]
async fn a_file_that_never_rests_is_stored_as_last_read_with_a_problem() {
    let bench = Bench::new();
    let path = bench.write("busy", &vec![1; 3 << 20]);
    let snapshot = bench.backup_into(&bench.config(), changing(path, u64::MAX)).await.expect("a backup");
    let problems: Vec<_> = snapshot.problems.iter().map(|(path, _)| path.clone()).collect();
    assert_eq!(problems, [bench.entry("busy")]);
    assert!(snapshot.entries[&bench.entry("busy")].bytes() >= 3 << 20);
}

#[tokio::test]
async fn a_large_file_that_shrinks_or_vanishes_while_it_is_read_does_not_kill_the_backup() {
    for shrink in [true, false] {
        let bench = Bench::new();
        bench.write("other", b"whole");
        let path = bench.write("going", &vec![1; 5 << 20]);
        let (entry, victim) = (bench.entry("going"), path.clone());
        let sink = FakeSink::new().on_content(Box::new(move |path, offset| {
            if *path == entry && offset == 1 << 20 {
                if shrink {
                    File::options().write(true).open(&victim).expect("open").set_len(10).expect("set");
                } else {
                    let _ = fs::remove_file(&victim);
                }
            }
        }));
        let snapshot = bench.backup_into(&bench.config(), sink).await.expect("a backup");
        let going = &snapshot.entries[&bench.entry("going")];
        if shrink {
            assert_eq!(going.bytes(), 10);
        } else {
            assert_eq!(going.meta.kind, EntryKind::Skipped);
            assert!(snapshot.problems[0].1.contains("vanished"), "{:?}", snapshot.problems);
        }
        assert_eq!(snapshot.entries[&bench.entry("other")].content(), b"whole");
    }
}

/// A file bound to another place, and no longer when the value is dropped.
struct Bound(PathBuf);

impl Bound {
    fn new(from: &Path, at: PathBuf) -> Option<Self> {
        if !is_root() || rustix::mount::mount_bind(from, &at).is_err() {
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    }
}

/// The speed of the loopback interface is a file of 4,096 bytes that opens well and fails when it
/// is read.
#[tokio::test]
async fn a_file_whose_read_fails_is_skipped_with_its_reason() {
    let bench = Bench::new();
    bench.write("good", b"x");
    let Some(_bound) = Bound::new(Path::new("/sys/class/net/lo/speed"), bench.write("broken", b"")) else {
        return skipped("a_file_whose_read_fails", "needs root, mount(2) and sysfs");
    };
    let snapshot = bench.backup().await;
    assert_eq!(snapshot.entries[&bench.entry("broken")].meta.kind, EntryKind::Skipped);
    let whys: Vec<&str> = snapshot.problems.iter().map(|(_, why)| why.as_str()).collect();
    assert_eq!(whys, ["it cannot be read: Invalid argument"]);
    assert_eq!(snapshot.entries[&bench.entry("good")].content(), b"x");
}

/// Runs on a thread that is user and group 12,345; its helpers are started by it and are, too.
pub(super) fn as_nobody_else<T: Send>(work: impl FnOnce(&tokio::runtime::Runtime) -> T + Send) -> T {
    std::thread::scope(|scope| {
        let run = || {
            rustix::thread::set_thread_groups(&[]).expect("no groups");
            rustix::thread::set_thread_gid(rustix::fs::Gid::from_raw(12_345)).expect("a group");
            rustix::thread::set_thread_uid(rustix::fs::Uid::from_raw(12_345)).expect("a user");
            work(&tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime"))
        };
        scope.spawn(run).join().expect("no panic")
    })
}

#[test]
fn another_user_backs_up_what_it_may_read_and_restores_without_owners() {
    if !is_root() {
        return skipped("another_user_backs_up", "needs root, to become another user");
    }
    let bench = Bench::new();
    for (path, mode) in [("open", 0o644), ("secret", 0o600), ("tool", 0o4755), ("closed/inside", 0o644)] {
        let path = bench.write(path, path.as_bytes());
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }
    fs::set_permissions(bench.tree().join("closed"), fs::Permissions::from_mode(0o700)).expect("set");
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o777)).expect("set");
    as_nobody_else(|runtime| {
        let snapshot = runtime.block_on(bench.backup());
        let kind = |path: &str| snapshot.entries[&bench.entry(path)].meta.kind;
        assert_eq!([kind("open"), kind("tool")], [EntryKind::File; 2]);
        assert_eq!([kind("secret"), kind("closed")], [EntryKind::Skipped; 2]);
        assert!(snapshot.problems.iter().all(|(_, why)| why.contains("Permission denied")), "{:?}", snapshot.problems);

        for _again in 0..2 {
            let restored = runtime.block_on(bench.restore(&snapshot, &RestoreOptions::default())).expect("a restore");
            assert!(restored.problems.len() <= 3, "{:?}", restored.problems);
            let mode = fs::metadata(bench.restored("tool")).expect("look").mode() & 0o7777;
            assert_eq!(mode, 0o755, "set-uid of another owner");
            assert_eq!(fs::read(bench.restored("open")).expect("read"), b"open");
            fs::remove_file(bench.restored("tool")).expect("remove");
        }
    });
}

#[tokio::test]
async fn a_sink_that_fails_fails_the_backup_with_its_cause() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 100, ..TreeOptions::default() }).expect("make");
    for call in [0, 3, 50, 120] {
        let sink = Arc::new(FakeSink::new().failing(SinkFaults { from_call: Some(call), ..SinkFaults::default() }));
        let error = FilesSource::new(&bench.config()).expect("config").backup(Arc::clone(&sink) as _, &bench.ctx).await;
        assert!(matches!(error, Err(SourceError::Sink(_))), "{error:?}");
    }
    let cancelled = run_context(bench.dir.path());
    cancelled.cancel.cancel();
    let error = FilesSource::new(&bench.config()).expect("config").backup(Arc::new(FakeSink::new()), &cancelled).await;
    assert!(matches!(error, Err(SourceError::Cancelled)), "{error:?}");
}

#[tokio::test]
async fn a_tree_deeper_than_the_walk_keeps_open_is_walked_to_its_end() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 0, depth: 300, ..TreeOptions::default() }).expect("make");
    // Something after each way down, so that closed directories are opened again.
    let mut path = bench.tree().join("deep");
    for level in 0..300 {
        put(path.join("zz-after"), b"x");
        path.push(format!("d{level}"));
    }
    let snapshot = bench.backup().await;
    assert_eq!(snapshot.problems, vec![]);
    assert_eq!(snapshot.entries.keys().filter(|path| path.name() == b"zz-after").count(), 300);
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
}

#[tokio::test]
async fn a_first_name_that_vanishes_before_it_is_read_does_not_take_its_links_with_it() {
    let bench = Bench::new();
    // The stream of the first large file stops the run long enough for the walk to have met all.
    bench.write("a-large", &vec![1; 2 << 20]);
    let first = bench.write("b-first", &vec![2; 2 << 20]);
    fs::hard_link(&first, bench.tree().join("c-second")).expect("link");
    fs::hard_link(&first, bench.tree().join("d-third")).expect("link");
    let trigger = bench.entry("a-large");
    let sink = FakeSink::new().on_content(Box::new(move |path, _| {
        if *path == trigger {
            let _ = fs::remove_file(&first);
        }
    }));
    let snapshot = bench.backup_into(&bench.config(), sink).await.expect("a backup");
    let kind = |name: &str| snapshot.entries[&bench.entry(name)].meta.kind;
    assert_eq!(
        (kind("b-first"), kind("c-second"), kind("d-third")),
        (EntryKind::Skipped, EntryKind::File, EntryKind::Hardlink)
    );
    assert_eq!(
        snapshot.entries[&bench.entry("d-third")].meta.link.as_deref(),
        Some(bench.entry("c-second").as_bytes())
    );
}

#[tokio::test]
async fn other_file_systems_are_left_out_when_asked_for() {
    let bench = Bench::new();
    bench.write("here", b"x");
    let point = bench.tree().join("mounted");
    fs::create_dir(&point).expect("make");
    if !is_root() || rustix::mount::mount("tmpfs", &point, "tmpfs", rustix::mount::MountFlags::empty(), None).is_err() {
        return skipped("other_file_systems", "needs root and mount(2)");
    }
    let mounted = Bound(point.clone());
    put(point.join("there"), b"x");
    let all = bench.backup().await;
    let config = FilesConfig { one_file_system: true, ..bench.config() };
    let one = bench.backup_into(&config, FakeSink::new()).await;
    drop(mounted);
    let one = one.expect("a backup");
    assert!(all.entries.contains_key(&bench.entry("mounted/there")));
    assert!(one.entries.contains_key(&bench.entry("mounted")));
    assert!(!one.entries.contains_key(&bench.entry("mounted/there")));
}

#[tokio::test]
async fn doctor_tells_what_is_missing_empty_or_a_link() {
    use crate::Verdict;
    let bench = Bench::new();
    bench.write("good/file", b"x");
    fs::create_dir(bench.tree().join("empty")).expect("make");
    symlink("good", bench.tree().join("link")).expect("link");
    let paths = ["empty", "good", "link", "missing"].map(|path| bench.tree().join(path)).to_vec();
    let source = FilesSource::new(&FilesConfig { paths, ..FilesConfig::default() }).expect("config");
    let findings = source.doctor(&bench.ctx).await.expect("doctor");
    let verdicts: Vec<Verdict> = findings[1..].iter().map(|finding| finding.verdict).collect();
    assert_eq!(verdicts, [Verdict::Good, Verdict::Warning, Verdict::Good, Verdict::Bad, Verdict::Bad], "{findings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_backup_tells_how_much_there_is_and_how_much_of_a_large_file_was_read() {
    let mut bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 60, ..TreeOptions::default() }).expect("make");
    let told = Arc::new(Recorder { total_after: Some(Duration::ZERO), ..Recorder::default() });
    bench.ctx.monitor = Arc::clone(&told) as Arc<dyn Monitor>;
    let (watched, large) = (Arc::clone(&told), bench.entry("large/whole.bin"));
    let sink = FakeSink::new().on_content(Box::new(move |path, offset| {
        // The backup goes on when it knows how much there is.
        tokio::task::block_in_place(|| {
            while watched.total.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
        });
        assert!(*path != large || watched.bytes.load(Ordering::Relaxed) >= offset, "{offset}");
    }));
    let source = FilesSource::new(&bench.config()).expect("a source");
    let point = source.backup(Arc::new(sink), &bench.ctx).await.expect("a backup");
    let bytes: u64 = point.facts["files.bytes"].parse().expect("a number");
    assert_eq!(told.total.load(Ordering::Relaxed), bytes);
    assert_eq!(told.bytes.load(Ordering::Relaxed), bytes);
}
