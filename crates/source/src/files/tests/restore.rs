use super::*;

#[tokio::test]
async fn a_tree_with_everything_in_it_comes_back_equal() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions::default()).expect("make");
    let snapshot = bench.backup().await;
    assert_eq!(snapshot.problems, vec![]);
    let restored = bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    assert_eq!(restored.problems, Vec::<String>::new());
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();

    let verified =
        bench.target().verify(&snapshot, &RestoreOptions::default(), Scope::Whole, &bench.ctx).await.expect("verify");
    assert_eq!(verified.differences, Vec::<String>::new());
    let above = entry_of(&bench.tree()).components().count() - 1;
    assert_eq!(verified.compared, (snapshot.entries.len() - above) as u64);
}

#[tokio::test]
async fn a_second_restore_without_replace_finds_everything_in_place_and_touches_nothing() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 60, ..TreeOptions::default() }).expect("make");
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    let inode = |path: &str| fs::symlink_metadata(bench.restored(path)).expect("look").ino();
    let before = inode("large/whole.bin");
    let inventory = bench.target().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert_eq!(inventory.occupied, Vec::<String>::new());
    assert_eq!(inventory.needed_bytes, 0);
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a second restore");
    assert_eq!(inode("large/whole.bin"), before);
    bench.restore(&snapshot, &replace()).await.expect("a third restore");
    assert_eq!(inode("large/whole.bin"), before, "what is equal to the byte is not written again");
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
}

#[tokio::test]
async fn newer_data_is_refused_without_replace_and_written_over_with_it() {
    let bench = Bench::new();
    bench.write("a", b"old");
    bench.write("dir/b", b"old");
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    put(bench.restored("dir/b"), b"newer");
    put(bench.restored("dir/own"), b"not in the snapshot");

    let inventory = bench.target().inventory(&snapshot, &RestoreOptions::default()).await.expect("inventory");
    assert_eq!(inventory.occupied_count, 1);
    assert_eq!(inventory.occupied, [format!("/{} differs", bench.entry("dir/b"))]);
    let error = bench.restore(&snapshot, &RestoreOptions::default()).await.expect_err("a refusal");
    assert!(error.to_string().contains("dir/b is there already"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--replace")));
    assert_eq!(fs::read(bench.restored("dir/b")).expect("read"), b"newer");

    bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!(fs::read(bench.restored("dir/b")).expect("read"), b"old");
    assert_eq!(fs::read(bench.restored("dir/own")).expect("read"), b"not in the snapshot");
}

#[tokio::test]
async fn what_looks_the_same_and_holds_other_bytes_is_kept_and_told_and_with_replace_written_anew() {
    let bench = Bench::new();
    let mut sparse = vec![0; 3 << 20];
    sparse[2 << 20..].fill(7);
    for (path, content) in [("small", vec![1; 5000]), ("large", sparse), ("equal", vec![2; 5000])] {
        bench.write(path, &content);
    }
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    let inode = |path: &str| fs::metadata(bench.restored(path)).expect("look").ino();
    let equal = inode("equal");
    for (path, at) in [("small", 4_999), ("large", (3 << 20) - 1)] {
        let file = File::options().write(true).open(bench.restored(path)).expect("open");
        let before = file.metadata().expect("look").modified().expect("a time");
        file.write_all_at(b"!", at).expect("write");
        file.set_modified(before).expect("set");
    }
    let kept = bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    assert!(kept.problems.len() == 1 && kept.problems[0].contains("--replace"), "{:?}", kept.problems);
    assert!(kept.problems[0].ends_with("and 1 more"), "{:?}", kept.problems);
    assert_eq!((kept.entries, kept.unchanged, kept.bytes), (0, 2, 0), "the equal file and the directory");
    assert_eq!(fs::read(bench.restored("small")).expect("read").last(), Some(&b'!'));

    let written = bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!((written.problems, written.unchanged), (vec![], 1));
    compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
    assert_eq!(inode("equal"), equal);
}

#[tokio::test]
async fn what_is_of_another_kind_is_moved_aside_and_kept() {
    let bench = Bench::new();
    bench.write("file", b"content");
    bench.write("dir/inside", b"content");
    let snapshot = bench.backup().await;
    fs::create_dir_all(bench.restored("file")).expect("make");
    put(bench.restored("file/precious"), b"mine");
    put(bench.restored("dir"), b"also mine");
    assert!(bench.restore(&snapshot, &RestoreOptions::default()).await.is_err());

    let restored = bench.restore(&snapshot, &replace()).await.expect("a restore");
    assert_eq!(restored.problems.len(), 1, "{:?}", restored.problems);
    assert_eq!(fs::read(bench.restored("file")).expect("read"), b"content");
    assert_eq!(fs::read(bench.restored("file.lifeboat-aside/precious")).expect("read"), b"mine");
    assert_eq!(fs::read(bench.restored("dir/inside")).expect("read"), b"content");
    assert_eq!(fs::read(bench.restored("dir.lifeboat-aside")).expect("read"), b"also mine");
}

#[tokio::test]
async fn a_part_comes_back_with_the_directories_above_it_and_nothing_else() {
    let bench = Bench::new();
    make(&bench.tree(), TreeOptions { small_files: 60, ..TreeOptions::default() }).expect("make");
    let snapshot = bench.backup().await;
    let part = format!("/{}/", bench.entry("odd/a"));
    bench.restore(&snapshot, &only(&[&part])).await.expect("a restore");
    compare(&bench.tree().join("odd/a"), &bench.restored("odd/a")).expect("compare").assert_equal();
    let mode = |path: &Path| fs::metadata(path).expect("look").mode();
    assert_eq!(mode(&bench.restored("odd")), mode(&bench.tree().join("odd")));
    assert_eq!(fs::read_dir(bench.restored("")).expect("list").count(), 1);
    assert_eq!(fs::read_dir(bench.restored("odd")).expect("list").count(), 1);
}

#[tokio::test]
async fn patterns_choose_files_and_an_unknown_path_is_an_error() {
    let bench = Bench::new();
    for path in ["a/one.pdf", "a/two.txt", "b/c/three.pdf", "d/four.txt"] {
        bench.write(path, path.as_bytes());
    }
    let snapshot = bench.backup().await;
    let restored = bench.restore(&snapshot, &only(&["*.pdf"])).await.expect("a restore");
    assert_eq!(restored.entries, 2);
    assert!(bench.restored("a/one.pdf").exists() && bench.restored("b/c/three.pdf").exists());
    assert!(!bench.restored("a/two.txt").exists() && !bench.restored("d").exists());
    let mode = fs::metadata(bench.restored("b/c")).expect("look").mode();
    assert_eq!(mode, fs::metadata(bench.tree().join("b/c")).expect("look").mode(), "{mode:o}");
    for unknown in ["/nowhere", "*.nothing"] {
        let error = bench.restore(&snapshot, &only(&[unknown])).await.expect_err(unknown);
        assert!(matches!(error, SourceError::Config { .. }), "{error}");
    }
}

#[tokio::test]
async fn links_whose_first_name_was_not_asked_for_get_the_content_and_stay_one_file() {
    let bench = Bench::new();
    let first = bench.write("a/first", b"shared");
    fs::create_dir(bench.tree().join("b")).expect("make");
    fs::hard_link(&first, bench.tree().join("b/second")).expect("link");
    fs::hard_link(&first, bench.tree().join("b/third")).expect("link");
    let snapshot = bench.backup().await;
    let options = only(&[&bench.entry("b").to_string()]);
    bench.restore(&snapshot, &options).await.expect("a restore");
    let inode = |path: &str| fs::metadata(bench.restored(path)).expect("look").ino();
    assert_eq!(fs::read(bench.restored("b/second")).expect("read"), b"shared");
    assert_eq!(inode("b/second"), inode("b/third"));
    assert!(!bench.restored("a").exists());
    let verified = bench.target().verify(&snapshot, &options, Scope::Whole, &bench.ctx).await.expect("verify");
    assert_eq!((verified.compared, verified.differences), (3, vec![]));
}

#[tokio::test]
async fn a_damaged_entry_is_named_and_all_others_come_back() {
    let bench = Bench::new();
    bench.write("bad", b"damaged");
    bench.write("big", &vec![1; 3 << 20]);
    bench.write("good", b"whole");
    let mut snapshot = bench.backup().await;
    bench.restore(&snapshot, &only(&[&bench.entry("big").to_string()])).await.expect("a part");
    snapshot.damaged = [bench.entry("bad"), bench.entry("big")].into();
    let error = bench.restore(&snapshot, &RestoreOptions::default()).await.expect_err("damage");
    assert!(error.to_string().contains("and 1 more could not be restored"), "{error}");
    assert_eq!(fs::read(bench.restored("good")).expect("read"), b"whole");
    let names: Vec<_> = fs::read_dir(bench.restored("")).expect("list").collect();
    assert_eq!(names.len(), 2, "temporary files stay: {names:?}");
}

#[tokio::test]
async fn a_restore_that_is_cut_at_any_point_ends_equal_when_it_is_run_again() {
    for cut in [0, 1, 5, 40, 90] {
        let bench = Bench::new();
        make(&bench.tree(), TreeOptions { small_files: 60, ..TreeOptions::default() }).expect("make");
        let mut snapshot = bench.backup().await;
        let calls = std::sync::atomic::AtomicU64::new(0);
        let cancel = bench.ctx.cancel.clone();
        snapshot.on_content = Some(Box::new(move |_, _| {
            if calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == cut {
                cancel.cancel();
            }
        }));
        let cut_short = bench.restore(&snapshot, &RestoreOptions::default()).await;
        assert!(matches!(cut_short, Err(SourceError::Cancelled)), "{cut_short:?}");
        // What a killed run would have left beside.
        fs::create_dir_all(bench.restored("large")).expect("make");
        put(bench.restored("large/.lifeboat-tmp-00000000-000000000001"), b"half");
        snapshot.on_content = None;
        let ctx = run_context(bench.dir.path());
        bench.target().apply(&snapshot, &RestoreOptions::default(), &ctx).await.expect("the second run");
        compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
    }
}

#[tokio::test]
async fn verify_tells_every_kind_of_difference_and_changes_nothing() {
    let bench = Bench::new();
    for path in ["content", "gone", "mode", "same", "kind"] {
        bench.write(path, b"as it was");
    }
    symlink("same", bench.tree().join("link")).expect("link");
    let snapshot = bench.backup().await;
    bench.restore(&snapshot, &RestoreOptions::default()).await.expect("a restore");
    let content = File::options().write(true).open(bench.restored("content")).expect("open");
    let before = content.metadata().expect("look").modified().expect("a time");
    content.write_all_at(b"AS", 0).expect("write");
    content.set_modified(before).expect("set");
    fs::remove_file(bench.restored("gone")).expect("remove");
    fs::set_permissions(bench.restored("mode"), fs::Permissions::from_mode(0o600)).expect("set");
    fs::remove_file(bench.restored("kind")).expect("remove");
    symlink("same", bench.restored("kind")).expect("link");
    fs::remove_file(bench.restored("link")).expect("remove");
    symlink("mode", bench.restored("link")).expect("link");

    let verified =
        bench.target().verify(&snapshot, &RestoreOptions::default(), Scope::Whole, &bench.ctx).await.expect("verify");
    let seen = verified.differences.join("\n");
    for expected in [
        "content: its content differs",
        "gone: it is missing",
        "mode: its permissions are 0600",
        "kind: it is a symlink, not a file",
        "it leads elsewhere",
    ] {
        assert!(seen.contains(expected), "{expected} is not in\n{seen}");
    }
    assert!(!seen.contains("same:"), "{seen}");
}

/// A file system of eight MiB that is gone with the value.
struct Small(PathBuf);

impl Small {
    fn mount(at: &Path) -> Option<Self> {
        fs::create_dir_all(at).expect("make");
        let options = std::ffi::CString::new("size=8m").expect("no NUL");
        if !is_root() {
            return None;
        }
        rustix::mount::mount("tmpfs", at, "tmpfs", rustix::mount::MountFlags::empty(), options.as_c_str()).ok()?;
        Some(Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("unmount");
    }
}

#[tokio::test]
async fn a_full_target_gets_a_clear_error_and_keeps_what_it_had() {
    let bench = Bench::new();
    bench.write("a-small", b"fits");
    bench.write("big", &vec![7; 12 << 20]);
    let snapshot = bench.backup().await;
    let Some(small) = Small::mount(&bench.out()) else {
        return skipped("a_full_target", "needs root and mount(2)");
    };
    fs::create_dir_all(bench.restored("")).expect("make");
    put(bench.restored("big"), b"what was there");
    let inventory = bench.target().inventory(&snapshot, &replace()).await.expect("inventory");
    assert!(inventory.needed_bytes > 11 << 20 && inventory.free_bytes.is_some_and(|free| free < 9 << 20));
    assert!(inventory.refusals.iter().any(|finding| finding.what.contains("bytes below")), "{inventory:?}");

    let error = bench.restore(&snapshot, &replace()).await.expect_err("a full disk");
    assert!(error.to_string().contains("big failed"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("make room")));
    assert_eq!(fs::read(bench.restored("big")).expect("read"), b"what was there");
    let names: Vec<_> = fs::read_dir(bench.restored("")).expect("list").flatten().map(|e| e.file_name()).collect();
    assert!(names.iter().all(|name| !name.as_bytes().starts_with(b".lifeboat")), "{names:?}");
    drop(small);
}

/// A small tree of whatever: paths that may be in each other's way, kinds, content and permissions.
fn any_tree() -> impl proptest::strategy::Strategy<Value = Vec<(String, u8, Vec<u8>, u32)>> {
    use proptest::prelude::*;
    let name = prop::sample::select(vec!["a", "b", "a-b", "a!", "z z", "\u{e9}", ".x"]);
    let path = prop::collection::vec(name, 1..5).prop_map(|names| names.join("/"));
    let content = prop::collection::vec(any::<u8>(), 0..200);
    prop::collection::vec((path, 0..6_u8, content, 0..0o10000_u32), 1..30)
}

fn grow(bench: &Bench, tree: Vec<(String, u8, Vec<u8>, u32)>) {
    let mut files: Vec<PathBuf> = Vec::new();
    for (path, kind, content, mode) in tree {
        let path = bench.tree().join(path);
        if path.symlink_metadata().is_ok() || fs::create_dir_all(path.parent().expect("a parent")).is_err() {
            continue;
        }
        // Through a link it may be in place now.
        let _ = match kind {
            0 => fs::create_dir(&path),
            1 => symlink(
                String::from_utf8_lossy(&content[..content.len().min(20)]).replace(['\0', '/'], "_") + "x",
                &path,
            ),
            2 if !files.is_empty() => {
                fs::hard_link(&files[usize::from(content.first().copied().unwrap_or(0)) % files.len()], &path)
            }
            3 => File::create(&path).and_then(|file| {
                file.set_len(u64::from(mode) * 100)?;
                file.write_all_at(&content, u64::from(mode) * 50)
            }),
            _ => {
                put(&path, &content);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o400)).expect("set");
                files.push(path);
                Ok(())
            }
        };
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 24, ..Default::default() })]

    #[test]
    fn any_tree_comes_back_equal_the_first_time_and_over_itself(tree in any_tree()) {
        let bench = Bench::new();
        grow(&bench, tree);
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let snapshot = bench.backup().await;
            for options in [RestoreOptions::default(), RestoreOptions::default(), replace()] {
                bench.restore(&snapshot, &options).await.expect("a restore");
                compare(&bench.tree(), &bench.restored("")).expect("compare").assert_equal();
            }
        });
    }
}
