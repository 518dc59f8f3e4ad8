//! What bad things get: full disks, wrong and missing keys, damaged and forged objects, signals.
//! Each ends with its exit code and a named cause, and loses nothing that was there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use lifeboat_testkit::bench_data::Numbers;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{CONFIG, Caller, Outcome, Place, describe, is_root, now, write};

/// A tree with a configuration, keys and a repository.
struct World(Place);

impl World {
    fn new() -> Self {
        let yaml = CONFIG.replace("farajaland", "bad").replace("documents", "tree").replace("repository", "store");
        let place = Place::with_config(&yaml);
        for below in ["keys", "tree", "store", "state"] {
            fs::create_dir(place.path(below)).unwrap();
        }
        Self(place)
    }

    /// With a repository, two files and a snapshot of each: `alpha` alone, then both.
    fn backed_up() -> Self {
        let world = Self::new();
        world.run(&["init"]).expect(0);
        world.fill("alpha", 300_000, 1);
        world.run(&["backup", "--label", "first"]).expect(0);
        world.fill("beta", 300_000, 2);
        world.run(&["backup", "--label", "second"]).expect(0);
        world
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.0.run(args)
    }

    fn path(&self, below: &str) -> PathBuf {
        self.0.path(below)
    }

    fn text(&self, below: &str) -> String {
        self.0.text(below)
    }

    fn fill(&self, name: &str, bytes: usize, seed: u64) {
        let mut content = vec![0; bytes];
        Numbers::new(seed).fill(&mut content);
        write(&self.path("tree").join(name), &content);
    }

    fn labels(&self) -> Vec<String> {
        let listing = self.run(&["--json", "snapshots"]).json();
        let all = listing["snapshots"].as_array().unwrap();
        all.iter().map(|snapshot| snapshot["label"].as_str().unwrap_or("").to_owned()).collect()
    }

    /// Where a file of the tree is in the directory `out` after a restore.
    fn restored(&self, name: &str) -> PathBuf {
        self.path("out").join(self.path("tree").strip_prefix("/").unwrap()).join(name)
    }

    /// The names of all objects of the store, in order.
    fn objects(&self) -> Vec<String> {
        let store = self.path("store");
        let (mut dirs, mut names) = (vec![store.clone()], Vec::new());
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    names.push(path.strip_prefix(&store).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        names.sort();
        names
    }

    fn of(&self, kind: &str) -> Vec<String> {
        self.objects().into_iter().filter(|name| name.starts_with(kind)).collect()
    }

    /// The data packs that a further backup adds.
    fn packs_of(&self, label: &str) -> Vec<String> {
        let before = self.of("data/");
        self.run(&["backup", "--label", label]).expect(0);
        self.of("data/").into_iter().filter(|name| !before.contains(name)).collect()
    }

    fn read(&self, object: &str) -> Vec<u8> {
        fs::read(self.path("store").join(object)).unwrap()
    }

    fn put(&self, object: &str, bytes: &[u8]) {
        write(&self.path("store").join(object), bytes);
    }

    fn flip(&self, object: &str) {
        let mut bytes = self.read(object);
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.put(object, &bytes);
    }
}

/// A small file system of its own, gone when dropped.
pub(crate) struct Small(PathBuf);

impl Small {
    /// `None`, with a mark for the script that runs the tests, where it cannot be had.
    pub(crate) fn mount(test: &str, at: &Path, size: &str) -> Option<Self> {
        if !is_root() {
            println!("SKIPPED {test}: needs root and mount(2)");
            return None;
        }
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        match rustix::mount::mount("lifeboat-test", at, "tmpfs", rustix::mount::MountFlags::empty(), Some(&*options)) {
            Ok(()) => Some(Self(at.to_owned())),
            Err(error) => {
                println!("SKIPPED {test}: mount failed: {error} [cannot be had]");
                None
            }
        }
    }

    fn fill(&self) {
        let mut filler = fs::File::create(self.0.join("filler")).unwrap();
        std::io::copy(&mut std::io::repeat(1), &mut filler).unwrap_err();
    }

    /// Nobody may write there any more.
    fn lock(&self) {
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::RDONLY, "").unwrap();
    }

    fn grow(&self, size: &str) {
        let options = std::ffi::CString::new(format!("size={size}")).unwrap();
        rustix::mount::mount_remount(&self.0, rustix::mount::MountFlags::empty(), &*options).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _it_may_be_busy = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Waits for what the program does next.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = now() + Duration::from_secs(20);
    while !holds() {
        assert!(now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until this very process holds the lock of a source.
fn until_locked(world: &World, child: &mut Child) {
    let told = format!("process {}", child.id());
    until("the backup holds its lock", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was seen");
        let locks = fs::read_dir(world.path("state/locks")).into_iter().flatten().flatten();
        locks.map(|lock| fs::read_to_string(lock.path()).unwrap_or_default()).any(|holder| holder.trim() == told)
    });
}

#[test]
fn a_store_that_is_full_gets_no_snapshot_and_the_next_run_succeeds() {
    let world = World::new();
    let Some(small) = Small::mount("a_store_that_is_full", &world.path("store"), "2m") else { return };
    world.run(&["init"]).expect(0);
    world.fill("alpha", 100_000, 1);
    world.run(&["backup", "--label", "first"]).expect(0);
    world.fill("big", 6_000_000, 2);
    let full = world.run(&["backup", "--label", "second"]).expect(1);
    assert!(full.err.contains(": put ") && full.err.contains("No space left"), "{}", full.err);
    assert!(full.err.contains("hint: make space in the store"), "{}", full.err);
    assert_eq!(world.labels(), ["first"]);
    world.run(&["check", "--read-data"]).expect(0);
    small.grow("32m");
    world.run(&["backup", "--label", "third"]).expect(0);
    assert_eq!(world.labels(), ["first", "third"]);
    world.run(&["restore", "tree", "--to", &world.text("out"), "--yes"]).expect(0);
    assert_eq!(describe(&world.restored("")), describe(&world.path("tree")));
}

/// The state directory has scratch files, cache and catalog: whichever of them finds the disk full,
/// the backup either is whole or is none.
#[test]
fn a_scratch_disk_that_is_full_at_any_page_makes_no_half_snapshot() {
    let world = World::new();
    let Some(_small) = Small::mount("a_scratch_disk_that_is_full", &world.path("state"), "8m") else { return };
    world.run(&["init"]).expect(0);
    world.fill("alpha", 100_000, 1);
    world.run(&["backup", "--label", "0"]).expect(0);
    let (filler, mut sealed, mut refused) = (world.path("state/filler"), vec!["0".to_owned()], 0);
    for free in (0..=96_u64).step_by(8) {
        let mut file = fs::File::create(&filler).unwrap();
        let written = std::io::copy(&mut std::io::repeat(1), &mut file);
        assert_eq!(written.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        let pages = file.metadata().unwrap().len() / 4096 * 4096;
        file.set_len(pages.saturating_sub(free * 1024)).unwrap();
        world.fill("beta", 50_000, free + 2);
        let label = format!("with-{free}");
        let done = world.run(&["backup", "--label", &label]);
        match done.code {
            0 => sealed.push(label),
            1 => {
                refused += 1;
                assert!(done.err.contains("No space left"), "{}", done.err);
                assert!(done.err.contains("state/"), "it names the place: {}", done.err);
            }
            other => panic!("{other}: {}", done.err),
        }
        let left = fs::read_dir(world.path("state/scratch")).into_iter().flatten().flatten();
        assert!(left.map(|entry| entry.file_name()).all(|name| name == ".lock"), "scratch files are left");
        fs::remove_file(&filler).unwrap();
    }
    assert!(refused > 0, "the disk was never full");
    world.run(&["backup", "--label", "roomy"]).expect(0);
    sealed.push("roomy".to_owned());
    // The catalog may have had no room for a label; the repository knows every snapshot.
    let listed = world.labels();
    assert_eq!(listed, sealed);
    world.run(&["check", "--read-data"]).expect(0);
    world.run(&["restore", "tree", "--to", &world.text("out"), "--yes"]).expect(0);
    assert_eq!(describe(&world.restored("")), describe(&world.path("tree")));
}

#[test]
fn a_target_that_is_too_small_is_told_and_keeps_what_it_had() {
    let world = World::backed_up();
    world.fill("gamma", 4_000_000, 3);
    world.run(&["backup"]).expect(0);
    fs::create_dir(world.path("out")).unwrap();
    let Some(small) = Small::mount("a_target_that_is_too_small", &world.path("out"), "3m") else { return };
    fs::create_dir_all(world.restored("")).unwrap();
    write(&world.restored("gamma"), b"what was there");
    write(&world.restored("other"), b"not in the snapshot");
    let live = describe(&world.path("out"));
    let restore = ["restore", "tree", "--to", &world.text("out"), "--replace", "--yes"];
    let refused = world.run(&restore).expect(1);
    assert!(refused.err.contains("bytes below") && refused.err.contains("hint: "), "{}", refused.err);
    assert_eq!(describe(&world.path("out")), live, "refused before anything is written");
    small.grow("32m");
    world.run(&restore).expect(0);
    assert_eq!(fs::read(world.restored("gamma")).unwrap(), fs::read(world.path("tree/gamma")).unwrap());
    assert_eq!(fs::read(world.restored("other")).unwrap(), b"not in the snapshot");
}

#[test]
fn a_state_directory_that_cannot_be_written_stops_nobody_who_brings_data_back() {
    let world = World::backed_up();
    let state = world.path("state");
    let Some(small) = Small::mount("a_state_directory_that_cannot_be_written", &state, "1m") else { return };
    let told = |done: Outcome| assert!(done.err.contains("cannot be written"), "{}", done.err);
    let bring = |out: &str| {
        told(world.run(&["restore", "tree", "--to", &world.text(out), "--yes"]).expect(0));
        for args in [&["ls", "tree"][..], &["snapshots"], &["verify", "tree", "--to", &world.text(out)]] {
            told(world.run(args).expect(0));
        }
    };
    small.fill();
    bring("out");
    assert_eq!(fs::metadata(world.restored("alpha")).unwrap().len(), 300_000);
    world.run(&["backup"]).expect(1);
    small.lock();
    bring("again");
}

#[test]
fn a_wrong_identity_ends_with_12_before_anything_is_touched() {
    let (world, other) = (World::backed_up(), World::new());
    other.run(&["init"]).expect(0);
    write(&world.path("tree/alpha"), b"live data");
    let (live, stored) = (describe(&world.path("tree")), describe(&world.path("store")));
    let foreign = other.text("keys/identity.key");
    let alpha = format!("tree:{}", world.text("tree/alpha"));
    for args in [
        vec!["restore", "tree", "--to", "origin", "--replace", "--yes"],
        vec!["ls", "tree"],
        vec!["cat", &alpha],
        vec!["check", "--read-data"],
    ] {
        let refused = world.run(&[args.as_slice(), &["--identity", &foreign]].concat()).expect(12);
        assert!(refused.err.contains("hint: ") && refused.out.is_empty(), "{args:?}: {refused:?}");
    }
    assert_eq!((describe(&world.path("tree")), describe(&world.path("store"))), (live, stored));
    let bare = Caller { config: None, ..world.0.caller.clone() };
    let url = format!("file://{}", world.text("store"));
    bare.run(&["--state-dir", &world.text("state"), "recover", &url, "--identity", &foreign]).expect(12);
}

#[test]
fn without_a_writer_key_there_is_no_backup() {
    let world = World::backed_up();
    let stored = describe(&world.path("store"));
    fs::remove_file(world.path("keys/writer.key")).unwrap();
    let refused = world.run(&["backup"]).expect(12);
    assert!(refused.err.contains("keys/writer.key") && refused.err.contains("hint: "), "{}", refused.err);
    // A key of another role does not do either.
    fs::copy(world.path("keys/maintainer.key"), world.path("keys/writer.key")).unwrap();
    let refused = world.run(&["backup"]).expect(12);
    assert!(refused.err.contains("writer"), "{}", refused.err);
    assert_eq!(describe(&world.path("store")), stored);
}

#[test]
fn a_configuration_that_cannot_be_read_ends_with_2_and_is_named() {
    let world = World::backed_up();
    let stored = describe(&world.path("store"));
    let (gone, binary) = (world.path("gone.yaml"), world.path("binary.yaml"));
    write(&binary, b"stack: \xff\xfe\n");
    for config in [&gone, &world.path("tree"), &binary] {
        let refused = Caller::new(config).run(&["backup"]).expect(2);
        assert!(refused.err.contains(config.to_str().unwrap()), "{}", refused.err);
        assert!(refused.err.contains("cannot be read\n  because: "), "{}", refused.err);
    }
    assert_eq!(describe(&world.path("store")), stored);
    if !is_root() {
        println!("SKIPPED a_configuration_that_cannot_be_read: needs root to become another user");
        return;
    }
    let stranger = Caller { uid: Some(61_009), ..world.0.caller.clone() };
    fs::set_permissions(world.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(world.path("lifeboat.yaml"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let refused = stranger.run(&["backup"]).expect(2);
    assert!(refused.err.contains("Permission denied") && refused.err.contains("hint: "), "{}", refused.err);
}

/// Every command that opens the repository.
fn commands(out: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["backup"],
        vec!["snapshots"],
        vec!["ls", "tree"],
        vec!["cat", "tree:/x"],
        vec!["restore", "tree", "--to", out, "--yes"],
        vec!["check"],
        vec!["forget", "--yes"],
        vec!["hold", "tree@latest", "--reason", "x"],
        vec!["prune", "--yes"],
    ]
}

#[test]
fn where_there_is_no_repository_every_command_ends_with_10_and_makes_none() {
    let world = World::backed_up();
    let (store, aside, out) = (world.path("store"), world.path("aside"), world.text("out"));
    fs::rename(&store, &aside).unwrap();
    for empty in [false, true] {
        if empty {
            fs::create_dir(&store).unwrap();
        }
        for args in commands(&out) {
            let refused = world.run(&args).expect(10);
            assert!(refused.err.contains("hint: ") && refused.err.contains(store.to_str().unwrap()), "{refused:?}");
            let made = fs::read_dir(&store).is_ok_and(|mut dir| dir.next().is_some());
            assert!(!made, "{args:?} made something");
        }
    }
    assert!(!world.path("out").exists());
    fs::remove_dir(&store).unwrap();
    fs::rename(aside, store).unwrap();
    world.run(&["check", "--read-data"]).expect(0);
}

/// Of a repository of another version of the format every command tells, and leaves it alone.
fn of_version(version: u8, told: &str, hint: &str) {
    let world = World::backed_up();
    let out = world.text("out");
    let mut format = world.read("format");
    assert_eq!(std::mem::replace(&mut format[9], version), 1, "what `init` writes");
    world.put("format", &format);
    let stored = describe(&world.path("store"));
    for args in commands(&out).into_iter().chain([vec!["init"]]) {
        let refused = world.run(&args).expect(1);
        assert!(refused.err.contains(told) && refused.err.contains(hint), "{args:?}: {}", refused.err);
    }
    assert_eq!(describe(&world.path("store")), stored);
    assert!(!world.path("out").exists());
}

#[test]
fn a_repository_of_a_newer_version_is_told_and_left_alone() {
    of_version(2, "newer than this program", "hint: use a newer lifeboat");
}

#[test]
fn a_repository_from_before_the_freeze_is_refused_and_left_alone() {
    of_version(0, "format version 0, from before the format was frozen", "`lifeboat init` makes a new repository");
}

#[test]
fn a_damaged_pack_is_named_with_its_entries_and_everything_else_restores() {
    let world = World::backed_up();
    world.fill("gamma", 200_000, 9);
    let packs = world.packs_of("third");
    let [pack] = packs.as_slice() else { panic!("one pack holds the new file: {packs:?}") };
    world.flip(pack);
    write(&world.path("tree/alpha"), b"live data");
    let live = describe(&world.path("tree"));
    let found = world.run(&["--json", "check", "--read-data"]).expect(1);
    let report = found.json();
    let errors = report["checks"][0]["errors"].as_array().unwrap();
    assert_eq!((errors.len(), errors[0]["object"].as_str()), (1, Some(pack.as_str())), "{report}");
    let hit: Vec<_> = errors[0]["entries"].as_array().unwrap().iter().map(|entry| entry.as_str().unwrap()).collect();
    assert!(!hit.is_empty() && hit.iter().all(|entry| entry.ends_with("tree/gamma")), "{hit:?}");
    // Nothing live is touched.
    let refused = world.run(&["restore", "tree", "--to", "origin", "--replace", "--yes"]).expect(1);
    assert!(refused.err.contains("tree/gamma") && refused.err.contains(pack.as_str()), "{}", refused.err);
    assert!(refused.err.contains("hint: nothing was replaced"), "{}", refused.err);
    assert_eq!(describe(&world.path("tree")), live);
    // What is whole comes back beside it.
    let partly = world.run(&["restore", "tree", "--to", &world.text("out"), "--yes"]).expect(1);
    assert!(partly.err.contains("tree/gamma could not be restored"), "{}", partly.err);
    assert_eq!(fs::read(world.restored("beta")).unwrap(), fs::read(world.path("tree/beta")).unwrap());
    assert_eq!(fs::metadata(world.restored("alpha")).unwrap().len(), 300_000);
    assert!(!world.restored("gamma").exists());
    world.run(&["restore", "tree@second", "--to", &world.text("older"), "--yes"]).expect(0);
}

#[test]
fn objects_of_another_owner_are_refused_and_named() {
    let (world, other) = (World::backed_up(), World::backed_up());
    let key = other.text("more.key");
    let identity = other.text("keys/identity.key");
    other.run(&["key", "generate", "maintainer", "--out", &key, "--identity", &identity]).expect(0);
    let forged = other.of("roots/snapshot/").remove(0);
    world.put(&forged, &other.read(&forged));
    let found = world.run(&["check"]).expect(1);
    assert!(found.err.contains(&forged), "{}", found.err);
    assert_eq!(world.labels(), ["first", "second"], "it is no snapshot of ours");
    world.run(&["restore", "tree", "--to", &world.text("out"), "--yes"]).expect(0);
    fs::remove_file(world.path("store").join(&forged)).unwrap();
    // A roster that claims to be newer than ours.
    let roster = other.of("roster/").into_iter().find(|name| name.starts_with("roster/00000002")).unwrap();
    world.put(&roster, &other.read(&roster));
    let found = world.run(&["check"]).expect(1);
    assert!(found.err.contains(&roster), "{}", found.err);
    // It stops nobody: our own roster stays in force, and the stranger's is told.
    let told = world.run(&["backup", "--label", "third"]).expect(0);
    assert!(told.err.contains(&roster), "{}", told.err);
    assert_eq!(world.labels(), ["first", "second", "third"]);
}

#[test]
fn a_store_that_was_set_back_is_told_by_whoever_remembers() {
    let world = World::backed_up();
    let newest: Vec<_> = world.of("roots/snapshot/");
    world.fill("gamma", 1000, 3);
    world.run(&["backup", "--label", "third"]).expect(0);
    let third = world.of("roots/snapshot/").into_iter().find(|name| !newest.contains(name)).unwrap();
    let bytes = world.read(&third);
    fs::remove_file(world.path("store").join(&third)).unwrap();
    let found = world.run(&["check"]).expect(1);
    assert!(found.err.contains(&third) && found.err.contains("set back"), "{}", found.err);
    world.put(&third, &bytes);
    // The same with a roster.
    let (key, identity) = (world.text("more.key"), world.text("keys/identity.key"));
    world.run(&["key", "generate", "maintainer", "--out", &key, "--identity", &identity]).expect(0);
    let second = world.of("roster/").into_iter().find(|name| name.starts_with("roster/00000002")).unwrap();
    fs::remove_file(world.path("store").join(second)).unwrap();
    let stored = describe(&world.path("store"));
    let third = world.text("third.key");
    let generate = ["key", "generate", "maintainer", "--out", &third, "--identity", &identity];
    for args in [
        &["backup"][..],
        &["check"],
        &["forget", "--yes"],
        &["init"],
        &["key", "test", &identity],
        &["key", "export"],
        &["key", "remove", "123456", "--identity", &identity, "--yes"],
        &generate,
    ] {
        let refused = world.run(args).expect(1);
        assert!(refused.err.contains("roster 2 was seen before"), "{args:?}: {}", refused.err);
    }
    let looked = world.run(&["doctor"]).expect(1);
    assert!(looked.out.contains("roster 2 was seen before"), "{}", looked.out);
    assert_eq!(describe(&world.path("store")), stored);
    // The owner may go on from what is there, and nobody who remembers more refuses then.
    assert!(!Path::new(&third).exists(), "nothing was made in vain");
    world.run(&[&generate[..], &["--forget-remembered-roster"]].concat()).expect(0);
    world.run(&["backup", "--label", "fourth"]).expect(0);
    assert!(world.of("roster/").iter().any(|name| name.starts_with("roster/00000003")), "{:?}", world.of("roster/"));
}

#[test]
fn of_two_backups_at_once_the_second_ends_with_11() {
    let world = World::new();
    world.run(&["init"]).expect(0);
    world.fill("big", 24_000_000, 1);
    let mut first = world.0.caller.spawn(&["backup", "--label", "first"]);
    until_locked(&world, &mut first);
    send(&first, Signal::STOP);
    let second = world.run(&["backup", "--label", "second"]);
    send(&first, Signal::CONT);
    let ended = first.wait().unwrap();
    let second = second.expect(11);
    assert!(second.err.contains(&format!("process {}", first.id())), "{}", second.err);
    assert!(second.err.contains("hint: try again when it has ended"), "{}", second.err);
    assert_eq!(ended.code(), Some(0), "the first goes on undisturbed");
    assert_eq!(world.labels(), ["first"]);
}

#[test]
fn a_backup_that_is_asked_to_stop_seals_nothing_and_cleans_up() {
    let world = World::new();
    world.run(&["init"]).expect(0);
    world.fill("big", 48_000_000, 1);
    for signal in [Signal::TERM, Signal::INT] {
        let told = world.path("told");
        let mut child = world.0.caller.spawn_telling(&["backup"], &told);
        until_locked(&world, &mut child);
        send(&child, signal);
        let code = child.wait().unwrap().code();
        let told = fs::read_to_string(told).unwrap();
        assert_eq!(code, Some(1), "{told}");
        assert!(told.contains("stopped by request"), "{told}");
        assert!(world.labels().is_empty());
        let left = fs::read_dir(world.path("state/scratch")).unwrap().flatten();
        assert!(left.map(|entry| entry.file_name()).all(|name| name == ".lock"), "scratch files are left");
    }
    world.run(&["backup"]).expect(0);
    world.run(&["check", "--read-data"]).expect(0);
}

#[test]
fn a_restore_that_is_asked_to_stop_leaves_whole_files_only_and_can_be_run_again() {
    let world = World::new();
    world.run(&["init"]).expect(0);
    for seed in 0..40_u64 {
        world.fill(&format!("{seed:02}"), 1_000_000, seed + 1);
    }
    world.run(&["backup"]).expect(0);
    let out = world.text("out");
    let restore = ["restore", "tree", "--to", &out, "--yes"];
    let told = world.path("told");
    // A restore that ends before the signal comes is tried again.
    let mut stopped = false;
    for _ in 0..10 {
        let _it_may_not_be_there = fs::remove_dir_all(world.path("out"));
        let mut child = world.0.caller.spawn_telling(&restore, &told);
        until("the restore has begun to write", || world.restored("").exists());
        send(&child, Signal::TERM);
        let code = child.wait().unwrap().code();
        let told = fs::read_to_string(&told).unwrap();
        stopped = code == Some(1) && told.contains("stopped by request");
        assert!(stopped || code == Some(0), "{code:?}: {told}");
        if stopped {
            break;
        }
    }
    assert!(stopped, "no restore was slow enough to be stopped");
    for entry in fs::read_dir(world.restored("")).unwrap().flatten() {
        let there = fs::read(entry.path()).unwrap();
        let whole = fs::read(world.path("tree").join(entry.file_name())).unwrap_or_default();
        assert!(there == whole, "{} is half a file", entry.path().display());
    }
    world.run(&restore).expect(0);
    assert_eq!(describe(&world.restored("")), describe(&world.path("tree")));
}

#[test]
fn a_database_server_that_is_gone_leaves_no_snapshot_and_stops_no_other_source() {
    let world = World::new();
    let config = world.path("lifeboat.yaml");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut yaml = fs::read_to_string(&config).unwrap();
    let registry = format!("  registry: {{ kind: postgres, url: 'postgres://backup@127.0.0.1:{free}/' }}\n");
    yaml.push_str(&registry);
    write(&config, yaml.as_bytes());
    world.run(&["init"]).expect(0);
    world.fill("alpha", 1000, 1);
    let failed = world.run(&["backup"]).expect(1);
    assert!(failed.err.contains("bad/registry") && failed.err.contains(&free.to_string()), "{}", failed.err);
    let listing = world.run(&["--json", "snapshots"]).expect(0).json();
    assert_eq!(listing["snapshots"].as_array().unwrap().len(), 1, "{listing}");
    assert_eq!(listing["snapshots"][0]["source"], "tree");
}
