//! The history that a backup goes on with: whose it is, and whether it is whole.

use std::fs;

use lifeboat_testkit::postgres::PostgresServer;

use crate::harness::{Outcome, Place, write};

/// A place whose only source is this server.
fn point_at(place: &Place, server: &PostgresServer) {
    place.write(
        "lifeboat.yaml",
        &format!(
            "stack: farajaland\nrole: both\nrepositories:\n  main:\n    url: file://${{HOME}}/repository\n    \
             writerKeyFile: keys/writer.key\n    maintainerKeyFile: keys/maintainer.key\n    \
             identityFile: keys/identity.key\nsources:\n  registry: {{ kind: postgres, \
             url: 'postgres://postgres@127.0.0.1:{}/' }}\n",
            server.port()
        ),
    );
}

/// As a machine that remembers nothing of what was done before.
fn elsewhere(place: &Place, args: &[&str]) -> Outcome {
    place.run(&[args, &["--state-dir", &place.text("elsewhere")]].concat())
}

#[test]
fn a_clone_that_nobody_remembers_is_refused_until_a_person_says_that_the_stack_moved() {
    let test = "a_clone_that_nobody_remembers";
    let Some(origin) = PostgresServer::start("history_origin", 15) else { return };
    let Some(clone) = PostgresServer::start("history_clone", 15) else { return };
    let place = Place::new();
    point_at(&place, &origin);
    place.run(&["init"]).good();
    place.run(&["backup"]).good();
    point_at(&place, &clone);
    let roots = || fs::read_dir(place.path("repository/roots/snapshot")).expect(test).count();
    for run in [|place: &Place, args: &[&str]| place.run(args), elsewhere] {
        let refused = run(&place, &["backup"]).expect(2);
        assert!(refused.err.contains("is not the one of which the newest snapshot"), "{}", refused.err);
        assert!(refused.err.contains("hint: ") && refused.err.contains("--moved farajaland"), "{}", refused.err);
        let looked = run(&place, &["doctor"]).expect(1);
        assert!(looked.out.contains("is not the one of which"), "{}", looked.out);
    }
    assert_eq!(roots(), 1, "nothing was written");
    let slip = elsewhere(&place, &["backup", "--moved", "ocean"]).expect(2);
    assert!(slip.err.contains("not the stack of this configuration"), "{}", slip.err);
    elsewhere(&place, &["backup", "--moved", "farajaland"]).good();
    elsewhere(&place, &["backup"]).good();
    elsewhere(&place, &["doctor"]).good();
    // What it took the place of may not go on beside it.
    point_at(&place, &origin);
    place.run(&["backup"]).expect(2);
    assert_eq!(roots(), 3);
    // It took it back; damage to a root of the other, of which the store then says that it came last,
    // changes nothing.
    let theirs: Vec<_> = fs::read_dir(place.path("repository/roots/snapshot")).expect(test).flatten().collect();
    place.run(&["backup", "--moved", "farajaland"]).good();
    for root in theirs {
        damage(&root.path());
        point_at(&place, &clone);
        let refused = place.run(&["backup"]).expect(2);
        assert!(refused.err.contains("is not the one of which the newest snapshot"), "{}", refused.err);
        point_at(&place, &origin);
        let went_on = place.run(&["backup"]);
        assert!([0, 3].contains(&went_on.code), "{}", went_on.err);
    }
    assert_eq!(roots(), 7);
}

/// Flips one bit of a file.
fn damage(path: &std::path::Path) {
    let mut bytes = fs::read(path).expect("it");
    bytes[200] ^= 1;
    // Objects are read-only.
    fs::remove_file(path).expect("it goes");
    write(path, &bytes);
}

#[test]
fn a_backup_after_all_roots_are_gone_is_made_and_ends_with_3() {
    let place = Place::backed_up();
    place.run(&["backup"]).good();
    let gone = fs::read_dir(place.path("repository/roots/snapshot")).expect("roots");
    let gone: Vec<_> = gone.flatten().map(|root| root.path()).collect();
    for root in &gone {
        fs::remove_file(root).expect("removed");
    }
    let told = place.run(&["backup", "--label", "after"]).expect(3);
    assert!(told.err.contains("was seen before and is gone") && told.err.contains("lifeboat check"), "{}", told.err);
    assert!(gone.iter().any(|root| told.err.contains(root.file_name().and_then(|n| n.to_str()).expect("a name"))));
    place.run(&["restore", "documents@after", "--to", "out"]).good();
    // It stays wrong, for the new root names one before it that is gone.
    let again = place.run(&["backup"]).expect(3);
    assert!(again.err.contains("which is gone, and nobody forgot it"), "{}", again.err);
}

#[test]
fn a_store_that_was_set_back_is_noted_root_by_root_and_the_history_goes_on() {
    let place = Place::backed_up();
    let roots = || -> Vec<String> {
        let all = fs::read_dir(place.path("repository/roots/snapshot")).expect("roots").flatten();
        all.map(|root| root.file_name().into_string().expect("a name")).collect()
    };
    let first = roots();
    place.run(&["backup", "--label", "second"]).good();
    let second = roots().into_iter().find(|root| !first.contains(root)).expect("a second one");
    fs::remove_file(place.path("repository/roots/snapshot").join(&second)).expect("removed");
    let found = place.run(&["check"]).expect(1);
    assert!(found.err.contains(&format!("--accept-loss {}", &second[..12])), "{}", found.err);
    for (wrong, what) in [("abcdef", "names 0 of the root objects"), ("xyz", "names no root object")] {
        let refused = place.run(&["check", "--accept-loss", wrong]).expect(2);
        assert!(refused.err.contains(what) && refused.err.contains("hint: "), "{}", refused.err);
    }
    place.run(&["check"]).expect(1);
    place.run(&["check", "--accept-loss", &second[..12]]).good();
    place.run(&["backup", "--label", "third"]).good();
    place.run(&["check"]).good();
    place.run(&["snapshots"]).good();
    // A further loss is told all the same, and a machine that remembers nothing finds no gap.
    elsewhere(&place, &["check"]).good();
    fs::remove_file(place.path("repository/roots/snapshot").join(&first[0])).expect("removed");
    let found = place.run(&["check"]).expect(1);
    assert!(found.err.contains(&first[0]) && !found.err.contains(&second), "{}", found.err);
}

#[test]
fn a_lost_store_is_made_again_only_where_a_person_says_so() {
    let place = Place::backed_up();
    fs::remove_dir_all(place.path("repository")).expect("lost");
    fs::create_dir(place.path("repository")).expect("an empty disk");
    let refused = place.run(&["init"]).expect(1);
    assert!(refused.err.contains("init --forget-remembered-roster"), "{}", refused.err);
    assert_eq!(fs::read_dir(place.path("repository")).expect("it").count(), 0, "nothing was made");
    place.run(&["init", "--forget-remembered-roster"]).good();
    place.run(&["backup", "--label", "again"]).good();
    place.run(&["check", "--read-data"]).good();
    place.run(&["restore", "documents@again", "--to", "out"]).good();
    place.run(&["init"]).good();
}

#[test]
fn a_repository_that_lost_its_format_is_damaged_and_a_repair_puts_it_back() {
    let place = Place::backed_up();
    let format = place.path("repository/format");
    let bytes = fs::read(&format).expect("it");
    fs::remove_file(&format).expect("removed");
    for args in [&["backup"][..], &["snapshots"], &["init"], &["check"], &["doctor"], &["prune", "--yes"]] {
        let refused = place.run(args).expect(1);
        let all = format!("{}{}", refused.out, refused.err);
        assert!(all.contains("`format` is gone") && all.contains("lifeboat repair"), "{args:?}: {all}");
        assert!(!all.contains("lifeboat init"), "{args:?}: {all}");
    }
    let elsewhere = elsewhere(&place, &["repair", "--yes"]).expect(1);
    assert!(elsewhere.err.contains("from a copy of the store"), "{}", elsewhere.err);
    let planned = place.run(&["repair", "--dry-run"]).expect(1);
    assert!(planned.out.contains("put back the object `format`") && !format.exists(), "{}", planned.out);
    place.run(&["repair", "--yes"]).good();
    assert_eq!(fs::read(&format).expect("it is back"), bytes);
    place.run(&["backup"]).good();
    place.run(&["check", "--read-data"]).good();
}
