//! The history that a backup goes on with: whose it is, and whether it is whole.

use std::fs;

use lifeboat_testkit::postgres::PostgresServer;

use crate::harness::{Outcome, Place};

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
