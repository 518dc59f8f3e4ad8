//! What a person does in the first hour, command after command, on files.

use crate::harness::Place;

#[test]
fn snapshots_are_listed_with_the_promised_fields() {
    let place = Place::backed_up();
    place.run(&["backup"]).good();
    let list = place.json(&["snapshots"]);
    let list = list["snapshots"].as_array().expect("a list");
    assert_eq!(list.len(), 2);
    for field in ["id", "source", "time", "recovery_point", "bytes", "new_bytes", "problems"] {
        assert!(!list[0][field].is_null(), "{field}: {}", list[0]);
    }
    assert_eq!((list[0]["label"].as_str(), list[0]["bytes"].as_u64()), (Some("first"), Some(21)));
    assert!(list[0]["time"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_eq!(list[1]["new_bytes"], 0, "nothing changed");
    let table = place.run(&["snapshots"]).good().out;
    assert!(table.contains("farajaland/documents") && table.contains("+02:00"), "{table}");
}

#[test]
fn entries_are_listed_and_printed() {
    let place = Place::backed_up();
    let documents = place.text("documents");
    let listed = place.run(&["ls", &format!("documents@first:{documents}")]).good().out;
    assert!(listed.contains("letter.txt") && listed.contains("sub") && !listed.contains("births"), "{listed}");
    let all = place.json(&["ls", "-R", &format!("documents@first:{documents}")]);
    assert_eq!(all["entries"].as_array().map(Vec::len), Some(3), "{all}");
    let content = place.run(&["cat", &format!("documents:{documents}/sub/births.csv")]).good();
    assert_eq!(content.out, "1,2,3\n");
    let missing = place.run(&["cat", &format!("documents:{documents}/nothing")]);
    assert_eq!((missing.code, missing.out.as_str()), (2, ""), "{missing:?}");
    assert_eq!(place.run(&["cat", &format!("documents:{documents}")]).code, 2, "a directory has no content");
}

#[test]
fn a_restore_shows_its_plan_and_asks_before_it_writes_home() {
    let place = Place::backed_up();
    let dry = place.run(&["restore", "documents@first", "--to", "out", "--dry-run"]).good();
    assert!(dry.out.contains("restore") && dry.out.contains("write 2 files"), "{dry:?}");
    assert!(!place.path("out").exists());
    place.run(&["restore", "documents@first", "--to", "out"]).good();
    let back = place.path("out").join(place.text("documents").trim_start_matches('/')).join("letter.txt");
    assert_eq!(std::fs::read_to_string(back).expect("the file"), "dear registrar\n");
    let home = place.run(&["restore", "documents@first", "--to", "origin"]);
    assert_eq!(home.code, 2, "{home:?}");
    assert!(home.err.contains("--yes"), "{home:?}");
    place.write("documents/letter.txt", "newer\n");
    let refused = place.run(&["restore", "documents@first", "--to", "origin", "--yes"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("--replace"), "{refused:?}");
    assert_eq!(std::fs::read_to_string(place.path("documents/letter.txt")).expect("the file"), "newer\n");
    place.run(&["restore", "documents@first", "--to", "origin", "--replace", "--yes"]).good();
    assert_eq!(std::fs::read_to_string(place.path("documents/letter.txt")).expect("the file"), "dear registrar\n");
}

#[test]
fn forget_gives_reasons_and_leaves_what_is_held() {
    let place = Place::backed_up();
    place.run(&["backup", "--label", "second"]).good();
    place.run(&["backup", "--label", "third"]).good();
    place.run(&["hold", "documents@first", "--reason", "court case 12"]).good();
    let plan = place.run(&["forget", "--dry-run"]).good().out;
    assert!(plan.contains("held: court case 12") && plan.contains("would forget 1 snapshot\n"), "{plan}");
    let unasked = place.run(&["forget"]);
    assert_eq!(unasked.code, 2, "{unasked:?}");
    assert_eq!(place.json(&["snapshots"])["snapshots"].as_array().map(Vec::len), Some(3));
    place.run(&["forget", "--yes"]).good();
    let left = place.json(&["snapshots"]);
    let labels: Vec<_> = left["snapshots"].as_array().expect("a list").iter().map(|s| s["label"].clone()).collect();
    assert_eq!(labels, ["first", "third"]);
}

#[test]
fn a_bare_machine_needs_the_store_and_the_identity_only() {
    let place = Place::backed_up();
    let bare = Place::new();
    let url = format!("file://{}", place.text("repository"));
    let identity = place.text("keys/identity.key");
    let recover = ["recover", &url, "--identity", &identity, "--write-config", "recovered.yaml"];
    let said = bare.run(&recover).good();
    assert!(said.out.contains("farajaland/documents"), "{said:?}");
    assert_eq!(bare.run(&recover).code, 2, "a file that is there is not written over");
    bare.run(&["--config", "recovered.yaml", "restore", "documents", "--to", "out", "--yes"]).good();
    let back = bare.path("out").join(place.text("documents").trim_start_matches('/')).join("sub/births.csv");
    assert_eq!(std::fs::read_to_string(back).expect("the file"), "1,2,3\n");
    assert_eq!(bare.run(&["--config", "recovered.yaml", "backup"]).code, 2, "role: restore does not back up");
    assert!(bare.run(&["key", "test", &identity, "--url", &url]).good().out.contains("owner key"));
}

#[test]
fn a_label_is_taken_once_and_a_source_that_fails_is_told_once() {
    let place = Place::backed_up();
    let taken = place.run(&["backup", "--label", "first"]);
    assert_eq!(taken.code, 2, "{taken:?}");
    std::fs::remove_dir_all(place.path("documents")).expect("removed");
    let failed = place.run(&["backup"]);
    assert_ne!(failed.code, 0, "{failed:?}");
    assert!(failed.err.matches("error: ").count() <= 1, "{failed:?}");
    assert_eq!(place.json(&["snapshots"])["snapshots"].as_array().map(Vec::len), Some(1));
}

#[test]
fn every_time_that_is_shown_names_its_snapshot() {
    let place = Place::backed_up();
    let documents = place.text("documents");
    let table = place.run(&["snapshots"]).good().out;
    let line = table.lines().find(|line| line.contains("first")).expect("the snapshot");
    let at = line.find(" +02:00").expect("its time");
    let shown = &line[at - 19..at + 7];
    let list = place.json(&["snapshots"]);
    let exact = list["snapshots"][0]["recovery_point"].as_str().expect("a time").to_owned();
    let joined = shown.replacen(' ', "T", 1).replace(' ', "");
    for time in [shown, &shown[..19], &shown[..16], &shown[..10], &exact, &joined] {
        let listed = place.run(&["ls", &format!("documents@{time}:{documents}")]).good().out;
        assert!(listed.contains("letter.txt"), "{time}: {listed}");
    }
}
