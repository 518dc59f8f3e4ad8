//! Damage of a repository that is mended: from what is left, from a copy, by the next backup.

use std::path::PathBuf;

use serde_json::Value;

use crate::harness::{Place, TWO_PLACES, write};

const REPAIR: [&str; 4] = ["repair", "--repository", "main", "--yes"];
const CHECK: [&str; 4] = ["check", "--from", "main", "--read-data"];

/// A place with two snapshots, of which the first has a letter that is gone from the source.
fn place() -> Place {
    let place = Place::with_config(TWO_PLACES);
    place.write("documents/same.txt", "the same letter\n");
    place.write("documents/old.txt", "an old letter\n");
    place.run(&["init"]).good();
    place.run(&["backup", "--label", "first"]).good();
    std::fs::remove_file(place.path("documents/old.txt")).expect("removed");
    place.write("documents/new.txt", "a new letter\n");
    place.run(&["backup", "--label", "second"]).good();
    place
}

/// Files of the store below a folder.
fn objects(place: &Place, below: &str) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![place.path(below)]);
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory").flatten() {
            let list = if entry.path().is_dir() { &mut open } else { &mut found };
            list.push(entry.path());
        }
    }
    found
}

fn lose(place: &Place, below: &str) {
    for object in objects(place, below) {
        std::fs::remove_file(object).expect("removed");
    }
}

fn restored(place: &Place, label: &str, only: &str) -> i32 {
    let (what, only) = (format!("documents@{label}"), place.path(&format!("documents/{only}")));
    let to = format!("out-{label}-{}", only.file_name().expect("a name").display());
    let only = only.to_str().expect("UTF-8");
    place.run(&["restore", &what, "--from", "main", "--only", only, "--to", &to]).code
}

fn json(place: &Place, args: &[&str], code: i32) -> Value {
    let said = place.run(&[args, &["--json"]].concat());
    assert_eq!(said.code, code, "{said:?}");
    let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
    report["repairs"][0].clone()
}

#[test]
fn a_second_repository_gives_back_what_was_lost() {
    let place = place();
    place.run(&["copy", "--from", "main", "--to", "offsite"]).good();
    lose(&place, "main/data");
    lose(&place, "main/index");
    assert_eq!(place.run(&CHECK).code, 1);
    let planned = place.run(&["repair", "--repository", "main", "--from", "offsite", "--dry-run"]);
    assert_eq!(planned.code, 1, "{planned:?}");
    assert!(planned.out.contains("is refilled from its copy in offsite"), "{planned:?}");
    let unasked = place.run(&["repair", "--repository", "main", "--from", "offsite"]);
    assert!(unasked.code == 2 && unasked.err.contains("--yes"), "{unasked:?}");
    let done = json(&place, &[&REPAIR[..], &["--from", "offsite"]].concat(), 0);
    assert_eq!((&done["lost"], &done["lost_chunks"]), (&Value::Array(vec![]), &done["refilled"]), "{done}");
    place.run(&CHECK).good();
    assert_eq!((restored(&place, "first", "old.txt"), restored(&place, "second", "new.txt")), (0, 0));
    assert!(place.run(&REPAIR).good().out.contains("nothing to repair"));
}

#[test]
fn the_next_backup_brings_what_the_source_has_and_the_rest_is_named_and_forgotten_only_when_told() {
    let place = place();
    lose(&place, "main/data");
    let first = json(&place, &REPAIR, 1);
    assert_eq!(first["lost"].as_array().map(Vec::len), Some(2), "{first}");
    place.run(&["backup", "--label", "third"]).good();
    let second = json(&place, &REPAIR, 1);
    let lost = second["lost"].as_array().expect("a list");
    assert_eq!((lost.len(), lost[0]["snapshot"]["label"].as_str()), (1, Some("first")), "{second}");
    assert_eq!(lost[0]["entry_count"], 1, "{second}");
    assert!(lost[0]["entries"][0].as_str().is_some_and(|path| path.ends_with("old.txt")), "{second}");
    assert_eq!((restored(&place, "first", "same.txt"), restored(&place, "first", "old.txt")), (0, 1));
    assert_eq!(restored(&place, "second", "new.txt"), 0);

    let done = json(&place, &[&REPAIR[..], &["--forget-lost"]].concat(), 0);
    assert_eq!(done["lost"][0]["forgotten"], true, "{done}");
    place.run(&CHECK).good();
    let left = place.run(&["snapshots", "--from", "main"]).good().out;
    assert!(!left.contains("first") && left.contains("second") && left.contains("third"), "{left}");
}

#[test]
fn what_other_objects_tell_is_mended_from_them() {
    // Packs without an index are found by their trailers, so all of it can be restored.
    for (below, code) in [("main/index", 3), ("main/refs", 1), ("main/keyring2", 1)] {
        let place = place();
        lose(&place, below);
        let found = place.run(&CHECK).expect(code);
        let says = found.out.contains("everything restores, and a repair is due");
        assert_eq!(says && found.err.contains("Nothing is lost"), code == 3, "{found:?}");
        assert!(found.err.contains("lifeboat repair"), "{found:?}");
        let done = json(&place, &REPAIR, 0);
        assert_eq!(done["lost"], Value::Array(vec![]), "{below}: {done}");
        place.run(&CHECK).good();
    }
}

#[test]
fn a_check_since_the_last_one_reads_what_is_new_and_a_share_of_the_rest() {
    let place = place();
    let check = |budget: &str, code: i32| {
        let args = ["check", "--from", "main", "--since-last", "--budget", budget, "--json"];
        let said = place.run(&args);
        assert_eq!(said.code, code, "{said:?}");
        let report: Value = serde_json::from_str(&said.out).expect("one JSON object");
        let since = &report["checks"][0]["since_last"];
        (since["first_read"].as_u64().unwrap(), since["read_again"].as_u64().unwrap())
    };
    assert_eq!(check("0%", 0), (6, 0));
    assert_eq!(check("0%", 0), (0, 0));
    place.write("documents/third.txt", "a third letter\n");
    place.run(&["backup"]).good();
    assert_eq!(check("0%", 0), (3, 0));
    assert_eq!(check("100%", 0), (0, 9));
    assert_eq!(check("10m", 0), (0, 9));
    for pack in objects(&place, "main/data") {
        let mut bytes = std::fs::read(&pack).expect("a pack");
        bytes[100] ^= 1;
        std::fs::remove_file(&pack).expect("removed");
        write(&pack, &bytes);
    }
    assert_eq!(check("0%", 0), (0, 0));
    assert_eq!(check("100%", 1), (0, 6));
    for (args, word) in [
        (&["check", "--since-last", "--budget", "5"][..], "--budget"),
        (&["check", "--budget", "5%"], "--since-last"),
        (&["check", "--since-last", "--read-data"], "--read-data"),
    ] {
        let said = place.run(args);
        assert!(said.code == 2 && said.err.contains(word), "{said:?}");
    }
}

/// Flips one bit of each file.
fn damage(objects: &[PathBuf]) {
    for object in objects {
        let mut bytes = std::fs::read(object).expect("it");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::remove_file(object).expect("removed");
        write(object, &bytes);
    }
}

fn hash(root: &std::path::Path) -> &str {
    root.file_name().and_then(|name| name.to_str()).expect("a hash")
}

#[test]
fn a_damaged_root_is_put_back_from_what_a_machine_keeps_or_given_up() {
    let place = place();
    let roots = objects(&place, "main/roots/snapshot");
    let whole: Vec<Vec<u8>> = roots.iter().map(|root| std::fs::read(root).expect("it")).collect();
    damage(&roots);
    let told = place.run(&["backup", "--label", "third"]).expect(3);
    assert!(roots.iter().all(|root| told.err.contains(hash(root))), "{}", told.err);
    let found = place.run(&CHECK).expect(1);
    assert!(found.err.contains("`lifeboat repair` puts a damaged root back"), "{}", found.err);
    let planned = place.run(&["repair", "--repository", "main", "--dry-run"]).expect(1);
    assert!(planned.out.contains("put back, as this machine keeps it,"), "{}", planned.out);
    assert!(place.run(&REPAIR).good().out.contains("2 roots put back"));
    assert_eq!(roots.iter().map(|root| std::fs::read(root).expect("it")).collect::<Vec<_>>(), whole);
    place.run(&CHECK).good();
    place.run(&["backup"]).good();
    assert_eq!(restored(&place, "first", "old.txt"), 0);

    // A machine that keeps no copy.
    let elsewhere = |args: &[&str]| place.run(&[args, &["--state-dir", &place.text("elsewhere")]].concat());
    damage(&roots[..1]);
    let left = elsewhere(&REPAIR).expect(1);
    assert!(left.out.contains("nothing that a repair could mend"), "{}", left.out);
    let accept = format!("--accept-loss {}", &hash(&roots[0])[..12]);
    assert!(left.err.contains(hash(&roots[0])) && left.err.contains(&accept), "{}", left.err);
    assert!(roots[0].exists());
    elsewhere(&["check", "--from", "main", "--accept-loss", &hash(&roots[0])[..12]]).expect(1);
    assert!(roots[0].exists(), "nothing goes before it was asked for");
    let unasked = elsewhere(&["repair", "--repository", "main"]).expect(2);
    assert!(unasked.err.contains(&format!("delete the damaged roots/snapshot/{}", hash(&roots[0]))), "{}", unasked.err);
    elsewhere(&REPAIR).good();
    assert!(!roots[0].exists());
    // Nobody misses it, this machine neither.
    for run in [&elsewhere as &dyn Fn(&[&str]) -> crate::harness::Outcome, &|args: &[&str]| place.run(args)] {
        run(&CHECK).good();
        run(&["backup"]).good();
    }
}

#[test]
fn a_damaged_format_is_put_back() {
    let place = place();
    let format = [place.path("main/format")];
    let whole = std::fs::read(&format[0]).expect("it");
    damage(&format);
    let told = place.run(&CHECK).expect(1);
    assert!(told.err.contains("`lifeboat repair` puts it back"), "{}", told.err);
    let elsewhere = place.run(&[&REPAIR[..], &["--state-dir", &place.text("elsewhere")]].concat()).expect(1);
    assert!(elsewhere.err.contains("format"), "{}", elsewhere.err);
    place.run(&REPAIR).good();
    assert_eq!(std::fs::read(&format[0]).expect("it"), whole);
    place.run(&CHECK).good();
}
