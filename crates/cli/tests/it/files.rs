//! Files: what stands in the place of a restore, what a backup could not read whole.

use std::fs::{File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{CONFIG, Place, is_root};

/// Writes other bytes into a document and leaves its length and time of change as they were.
fn falsify(place: &Place, below: &str, text: &str) {
    let file = File::options().write(true).open(place.path(below)).expect("the document");
    let before = file.metadata().and_then(|meta| meta.modified()).expect("a time");
    file.write_all_at(text.as_bytes(), 0).expect("written");
    file.set_modified(before).expect("set");
}

#[test]
fn a_file_that_only_looks_the_same_is_told_and_kept_until_replace_is_said() {
    let place = Place::backed_up();
    falsify(&place, "documents/letter.txt", "DEAR REGISTRAR\n");
    let letter = || std::fs::read_to_string(place.path("documents/letter.txt")).expect("the document");
    let home = ["restore", "documents", "--to", "origin", "--yes"];
    let kept = place.run(&home).expect(3);
    assert!(kept.err.contains("letter.txt") && kept.err.contains("--replace writes it anew"), "{}", kept.err);
    assert!(kept.out.contains("0 entries, 0 B; 3 there already, unchanged"), "{}", kept.out);
    assert_eq!(letter(), "DEAR REGISTRAR\n", "newer data are never written over unasked");
    let json = place.run(&[&home[..], &["--json"]].concat()).expect(3).json();
    let restored = &json["restores"][0]["restored"];
    assert_eq!((&restored["entries"], &restored["unchanged"]), (&0.into(), &3.into()), "{restored}");
    let written = place.run(&[&home[..], &["--replace"]].concat()).good();
    assert_eq!(letter(), "dear registrar\n", "{}", written.err);
    place.run(&["verify", "documents"]).good();
}

/// Backs up while another thread writes to a log, until a backup read it torn each time.
fn torn() -> Place {
    let place = Place::with_config(CONFIG);
    place.write("documents/sub/letter.txt", "dear registrar\n");
    place.write("documents/sub/busy.log", &"a line of a log\n".repeat(2 << 20));
    place.run(&["init"]).good();
    let log = File::options().append(true).open(place.path("documents/sub/busy.log")).expect("the log");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                (&log).write_all(b"x").expect("written");
            }
        });
        let torn = (0..20).any(|_| place.run(&["backup"]).code == 3);
        stop.store(true, Ordering::Relaxed);
        assert!(torn, "no backup met a change each of the three times");
    });
    place
}

#[test]
fn a_file_that_was_torn_is_named_by_every_later_command() {
    let place = torn();
    let changed = "it changed each of the three times that it was read";
    let list = place.json(&["snapshots"]);
    let newest = list["snapshots"].as_array().and_then(|all| all.last()).expect("a snapshot");
    assert_eq!(newest["problems"], 1, "{newest}");
    let below = format!("documents:{}", place.text("documents/sub"));
    let listed = place.run(&["ls", &below]).good().out;
    let marked: Vec<&str> = listed.lines().filter(|line| line.contains(changed)).collect();
    assert!(marked.len() == 1 && marked[0].contains("busy.log [problem: "), "{listed}");
    let json = place.json(&["ls", &below]);
    let problems = |name: &str| {
        let all = json["entries"].as_array().expect("a list");
        let entry = all.iter().find(|entry| entry["path"].as_str().is_some_and(|path| path.ends_with(name)));
        entry.and_then(|entry| entry["problems"].as_array()).map(Vec::len)
    };
    assert_eq!((problems("busy.log"), problems("letter.txt")), (Some(1), Some(0)), "{json}");
    let top = place.run(&["ls", "documents"]).good();
    assert!(top.err.contains("1 problem of entries further down: `lifeboat ls -R`"), "{}", top.err);
    for command in ["ls", "cat"] {
        place.run(&[command, &format!("{below}/busy.log")]).expect(3);
        place.run(&[command, &format!("{below}/letter.txt")]).good();
        place.run(&[command, &format!("{below}/nothing")]).expect(2);
    }

    let back = place.run(&["restore", "documents", "--to", "out"]).expect(3);
    for told in
        ["the snapshot records 1 problem: ", "may not be whole", "busy.log: it changed", "back as it was stored"]
    {
        assert!(back.err.contains(told), "{told}: {}", back.err);
    }
    let letter = place.text("documents/sub/letter.txt");
    place.run(&["restore", "documents", "--to", "part", "--only", &letter]).good();
}

#[test]
fn what_was_left_out_is_named_with_its_reason_by_every_later_command() {
    let place = Place::with_config(CONFIG);
    place.write("documents/letter.txt", "dear registrar\n");
    place.write("documents/closed.txt", "not for everybody\n");
    let shut = |path: &str, mode| std::fs::set_permissions(place.path(path), Permissions::from_mode(mode));
    let mut user = place.caller.clone();
    if is_root() {
        user.uid = Some(4711);
        for path in ["", "documents"] {
            std::os::unix::fs::chown(place.path(path), Some(4711), Some(4711)).expect("given away");
        }
    }
    shut("documents/closed.txt", 0o000).expect("closed");
    user.run(&["init"]).good();
    user.run(&["backup"]).expect(3);
    let listed = user.run(&["ls", "-R", "documents"]).good().out;
    assert!(listed.contains("closed.txt -> it cannot be read: Permission denied"), "{listed}");
    let back = user.run(&["restore", "documents", "--to", "out"]).expect(3);
    assert!(back.err.contains("left out of the backup: it cannot be read: Permission denied: "), "{}", back.err);
    if is_root() {
        // The letter belongs to root, and this user cannot give it to anybody.
        assert!(back.err.contains("the owner could not be set"), "{}", back.err);
        let compared = user.run(&["verify", "documents", "--to", "out"]).expect(3);
        assert!(compared.out.contains(" 0 differ"), "{}", compared.out);
        assert!(compared.err.contains("the owner or group differs, which only root can set: "), "{}", compared.err);
        let json = user.run(&["verify", "documents", "--to", "out", "--json"]).expect(3).json();
        assert_eq!(json["verifications"][0]["verified"]["problems"].as_array().map(Vec::len), Some(1), "{json}");
    }
}
