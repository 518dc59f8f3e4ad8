//! Copies in a second repository, with other keys and another retention.

use lifeboat_testkit::bench_data::Numbers;
use serde_json::Value;

use crate::harness::{Caller, Place, TWO_PLACES, write};

const COPY: [&str; 5] = ["copy", "--from", "main", "--to", "offsite"];

/// Two repositories, the first with snapshots of these labels.
fn place(labels: &[&str]) -> Place {
    let place = Place::with_config(TWO_PLACES);
    place.write("documents/same.txt", "the same letter\n");
    place.run(&["init"]).good();
    for label in labels {
        place.write("documents/letter.txt", &format!("the {label} letter\n"));
        place.run(&["backup", "--label", label]).good();
    }
    place
}

fn json(place: &Place, args: &[&str]) -> Value {
    let said = place.run(&[args, &["--json"]].concat()).good();
    serde_json::from_str(&said.out).expect("one JSON object")
}

/// The snapshots of a repository by label.
fn listed(place: &Place, repository: &str) -> Vec<(String, Value)> {
    let list = json(place, &["snapshots", "--from", repository]);
    let list = list["snapshots"].as_array().expect("a list").clone();
    list.into_iter().map(|one| (one["label"].as_str().expect("a label").to_owned(), one)).collect()
}

fn labels(place: &Place, repository: &str) -> Vec<String> {
    listed(place, repository).into_iter().map(|(label, _)| label).collect()
}

#[test]
fn what_is_lost_in_the_one_comes_back_from_the_other_by_its_old_id() {
    let place = place(&["first", "second"]);
    let dry = place.run(&[&COPY[..], &["--dry-run"]].concat()).good();
    assert!(dry.out.contains("would copy 2 snapshots"), "{dry:?}");
    assert_eq!(labels(&place, "offsite"), [""; 0]);
    let report = json(&place, &COPY);
    let copies = report["copies"][0]["copies"].as_array().expect("a list");
    assert_eq!(copies.len(), 2, "{report}");
    assert!(copies.iter().all(|copy| copy["copy"].is_string() && copy["error"].is_null()), "{report}");
    place.run(&["check", "--read-data"]).good();

    let (originals, made) = (listed(&place, "main"), listed(&place, "offsite"));
    for ((label, original), (_, copy)) in originals.iter().zip(&made) {
        assert_eq!(copy["original"], original["id"], "{label}");
        assert_eq!(copy["countersigned_time"], original["stored_at"], "{label}");
        assert_eq!(copy["recovery_point"], original["recovery_point"], "{label}");
        assert_ne!(copy["id"], original["id"]);
    }
    std::fs::remove_dir_all(place.path("main")).expect("lost");
    let id = originals[0].1["id"].as_str().expect("an id");
    for (number, what) in [format!("documents@{}", &id[..8]), id.to_owned()].iter().enumerate() {
        let to = format!("out{number}");
        place.run(&["restore", what, "--from", "offsite", "--to", &to]).good();
        let home = place.path("documents");
        let letter = place.path(&to).join(home.strip_prefix("/").expect("absolute")).join("letter.txt");
        assert_eq!(std::fs::read_to_string(letter).expect("the letter"), "the first letter\n");
    }
}

#[test]
fn copying_twice_makes_nothing_and_retention_counts_by_the_original_time() {
    let place = place(&["one", "two", "three"]);
    let copied = |place: &Place| json(place, &COPY)["copies"][0]["copies"].as_array().map(Vec::len);
    assert_eq!(copied(&place), Some(2), "offsite keeps two");
    assert_eq!(labels(&place, "offsite"), ["two", "three"]);
    let stored = place.run(&["check", "--from", "offsite"]).good().out;
    assert_eq!(copied(&place), Some(0));
    assert_eq!(place.run(&["check", "--from", "offsite"]).good().out, stored, "not an object was added");

    // Copied last, and the oldest all the same.
    place.run(&["copy", "documents@one", "--from", "main", "--to", "offsite"]).good();
    assert_eq!(labels(&place, "offsite"), ["one", "two", "three"]);
    place.run(&["forget", "--yes"]).good();
    assert_eq!(labels(&place, "offsite"), ["two", "three"]);
    assert_eq!(labels(&place, "main"), ["one", "two", "three"], "main has no policy");
    assert_eq!(copied(&place), Some(0), "what was forgotten is not brought back");
}

#[test]
fn what_does_not_go_is_refused_with_its_code() {
    let place = place(&["first"]);
    for (args, code, word) in [
        (&["copy", "--from", "main", "--to", "main"][..], 2, "the same repository"),
        (&["copy", "--from", "main", "--to", "nowhere"], 2, "nowhere"),
        (&["copy", "documents@nothing", "--from", "main", "--to", "offsite"], 2, "documents@nothing"),
    ] {
        let said = place.run(args);
        assert_eq!(said.code, code, "{said:?}");
        assert!(said.err.contains(word) && said.err.contains("hint: "), "{said:?}");
    }
    for key in ["main-identity", "off-writer", "off-identity"] {
        let (from, aside) = (place.path(&format!("keys/{key}.key")), place.path("aside"));
        std::fs::rename(&from, &aside).expect("moved");
        assert_eq!(place.run(&COPY).code, 12, "{key}");
        std::fs::rename(&aside, &from).expect("moved");
    }
    assert_eq!(labels(&place, "offsite"), [""; 0]);
    let foreign = Place::with_config(&TWO_PLACES.replace("farajaland", "ocean"));
    foreign.run(&["init"]).good();
    let off = format!("file://{}/offsite", foreign.path("").display());
    let config = TWO_PLACES.replace("file://${HOME}/offsite", off.trim_end_matches('/'));
    place.write("lifeboat.yaml", &config);
    for key in ["off-writer", "off-identity"] {
        let name = format!("keys/{key}.key");
        std::fs::copy(foreign.path(&name), place.path(&name)).expect("a key");
    }
    let said = place.run(&COPY);
    assert_eq!(said.code, 12, "{said:?}");
    assert!(said.err.contains("may not write farajaland/documents"), "{said:?}");
}

#[test]
fn two_repositories_are_compared_snapshot_by_snapshot() {
    let place = place(&["one", "two", "three"]);
    let against = ["check", "--from", "main", "--against", "offsite", "--read-data"];
    let missing = place.run(&against);
    assert_eq!(missing.code, 3, "{missing:?}");
    assert_eq!(missing.err.matches("offsite lacks").count(), 3, "{missing:?}");
    let turned = ["check", "--from", "offsite", "--against", "main", "--read-data"];
    let same = place.run(&turned);
    assert_eq!((same.code, same.err.matches("offsite lacks").count()), (3, 3), "{same:?}");
    place.run(&COPY).good();
    let equal = json(&place, &against);
    let equal = &equal["comparisons"][0];
    assert_eq!((&equal["compared"], &equal["differs"]), (&Value::from(2), &Value::Array(vec![])), "{equal}");
    assert!(equal["bytes_read"].as_u64() > Some(0), "{equal}");
    assert!(equal["lacks"][0]["why"].as_str().is_some_and(|why| why.contains("retention policy")), "{equal}");

    // What the offsite's retention keeps and the main one lost is named, and is no problem.
    place.write(
        "lifeboat.yaml",
        &TWO_PLACES.replace("main-identity.key\n", "main-identity.key\n    retentionPolicy: { keepLast: 1 }\n"),
    );
    place.run(&["forget", "--yes"]).good();
    for args in [&against, &turned] {
        let after = place.run(args).good();
        assert!(after.err.contains("main lacks") && after.err.contains("retention policy of main"), "{after:?}");
    }
    // What it would keep and does not have is one, whichever is named first.
    place.write("lifeboat.yaml", TWO_PLACES);
    for args in [&against, &turned] {
        let after = place.run(args).expect(3);
        assert_eq!(after.err.matches("main lacks").count(), 1, "{after:?}");
    }

    // A pack that is gone in either is a difference with a name.
    let packs: Vec<_> = std::fs::read_dir(place.path("offsite/data")).expect("packs").flatten().collect();
    let mut open: Vec<_> = packs.into_iter().map(|entry| entry.path()).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).expect("a directory").flatten().map(|entry| entry.path()));
        } else {
            std::fs::remove_file(&path).expect("removed");
        }
    }
    let damaged = place.run(&against);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(damaged.err.contains("differ in 1 places") && damaged.err.contains("no good copy"), "{damaged:?}");
}

/// How many packs of content a repository holds.
fn packs(place: &Place, repository: &str) -> usize {
    let data = place.path(&format!("{repository}/data"));
    std::fs::read_dir(data).map_or(0, |packs| packs.flatten().filter(|pack| pack.path().is_file()).count())
}

#[test]
fn a_copy_that_was_killed_goes_on_from_what_it_had_stored() {
    const BYTES: usize = 160 << 20;
    let place = place(&[]);
    let mut bytes = vec![0; BYTES];
    Numbers::new(1).fill(&mut bytes);
    write(&place.path("documents/large"), &bytes);
    place.run(&["backup", "--label", "large"]).good();
    let text = |below: &str| place.path(below).to_str().expect("UTF-8").to_owned();
    let env = vec![("HOME".to_owned(), text("")), ("LIFEBOAT_STATE_DIR".to_owned(), text("state"))];
    let caller = Caller { env, ..Caller::new(&place.path("lifeboat.yaml")) };
    let mut child = caller.spawn(&COPY);
    // Four packs get an index, and four more may be on their way.
    while packs(&place, "offsite") < 9 {
        assert!(child.try_wait().expect("ours").is_none(), "it ended before it could be killed");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    child.kill().expect("killed");
    child.wait().expect("ours");
    assert_eq!(labels(&place, "offsite"), [""; 0], "half a copy is none");
    let report = json(&place, &COPY);
    let brought = report["copies"][0]["copies"][0]["new_bytes"].as_u64().expect("a count");
    assert!(brought <= (BYTES - (30 << 20)) as u64, "{brought} of {BYTES} bytes were brought again");
    place.run(&["check", "--from", "main", "--against", "offsite", "--read-data"]).good();
    place.run(&["check", "--from", "offsite", "--read-data"]).good();
}

#[test]
fn protected_identities_are_opened_by_a_file() {
    let place = Place::with_config(TWO_PLACES);
    place.write("documents/letter.txt", "a letter\n");
    place.secret("passphrase", "correct horse\n");
    place.run(&["init", "--passphrase-file", "passphrase"]).good();
    place.run(&["backup", "--label", "first"]).good();
    assert_eq!(place.run(&COPY).code, 12, "nobody can be asked");
    place.run(&[&COPY[..], &["--passphrase-file", "passphrase"]].concat()).good();
    place.run(&["check", "--from", "main", "--against", "offsite", "--passphrase-file", "passphrase"]).good();
}
