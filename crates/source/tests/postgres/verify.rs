//! What a comparison sees besides rows.

use std::collections::BTreeMap;

use lifeboat_source::postgres::PostgresTarget;
use lifeboat_source::{RestoreOptions, Scope, Target, Verified};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::PostgresServer;
use lifeboat_testkit::snapshot::FakeSnapshot;

use crate::fixture::{ODD, back_up, config, fill};
use crate::restore::{only, restore};

async fn verify(server: &PostgresServer, snapshot: &FakeSnapshot, options: &RestoreOptions, scope: Scope) -> Verified {
    let scratch = tempfile::tempdir().expect("a directory");
    let target = PostgresTarget::new(config(server)).expect("good");
    target.verify(snapshot, options, scope, &run_context(scratch.path())).await.expect("compared")
}

#[tokio::test]
async fn every_kind_of_object_that_is_otherwise_is_named() {
    let Some(server) = PostgresServer::start("every_kind_of_object", 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let all = RestoreOptions::default();
    let same = verify(&server, &snapshot, &all, Scope::Whole).await;
    assert_eq!((same.differences.as_slice(), same.notes.as_slice()), (&[][..], &[][..]));
    assert!(same.of[2].ends_with(" objects of the schema") && same.of[3] == "4 roles", "{:?}", same.of);

    for (statement, told) in [
        ("SELECT nextval('counter')", "sequence public.counter: at 114, 107 in the snapshot"),
        ("DROP INDEX people_name", "index public.people_name is not there"),
        ("CREATE INDEX more ON people (age)", "index public.more is not in the snapshot"),
        (
            "ALTER TABLE events DROP CONSTRAINT events_person_fkey",
            "foreign key public.events events_person_fkey is not there",
        ),
        (
            "CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 3 * $1'",
            "function public.twice(integer): the definition differs",
        ),
        (
            "CREATE OR REPLACE VIEW adults AS SELECT id, name FROM people WHERE age >= 21",
            "view public.adults: the definition differs",
        ),
        ("REVOKE SELECT ON adults FROM PUBLIC", "rights on TABLE adults (schema public) are not there"),
        ("GRANT INSERT ON people TO reader", "rights on TABLE people (schema public) are not in the snapshot"),
        ("COMMENT ON TABLE people IS 'other'", "comment on TABLE people (schema public): the definition differs"),
        ("ALTER TABLE secret OWNER TO app", "table public.secret: belongs to \"app\", \"postgres\" in the snapshot"),
        ("ALTER TABLE secret DISABLE ROW LEVEL SECURITY", "row-level security of public.secret is not there"),
    ] {
        server.sql(ODD, statement);
        let found = verify(&server, &snapshot, &all, Scope::Whole).await;
        let told = format!("database {ODD:?}: {told}");
        assert_eq!(found.difference_count, found.differences.len() as u64);
        assert!(found.differences.contains(&told), "{statement}: {:?}", found.differences);
    }
    let found = verify(&server, &snapshot, &only(&[&format!("{ODD}/public.secret")]), Scope::Whole).await;
    assert_eq!(found.differences.len(), 2, "of the parts alone: {:?}", found.differences);
    let content = verify(&server, &snapshot, &all, Scope::Content).await;
    assert_eq!(content.differences, [""; 0]);

    server.sql(
        "postgres",
        "ALTER ROLE app NOLOGIN CONNECTION LIMIT -1 PASSWORD 'new'; REVOKE reader FROM app; CREATE ROLE more",
    );
    let found = verify(&server, &snapshot, &only(&["small"]), Scope::Whole).await;
    assert_eq!(found.differences, [""; 0]);
    assert_eq!(found.notes, ["roles were not compared: they belong to the whole server"]);
    let found = verify(&server, &snapshot, &all, Scope::Whole).await;
    let told = "role \"app\": the snapshot has it with CONNECTION LIMIT 7, LOGIN, another password, \
                membership in \"reader\", administration of \"reader\"";
    assert!(found.differences.contains(&told.to_owned()), "{:?}", found.differences);
    assert_eq!(found.notes, ["1 role is on the server and not in the snapshot: \"more\""]);
}

#[tokio::test]
async fn a_restored_copy_is_the_same_under_another_name_and_on_a_newer_server_by_name() {
    let test = "a_restored_copy_is_the_same";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    fill(&server);
    server.sql(ODD, "DROP EXTENSION IF EXISTS pgcrypto, hstore, pg_trgm");
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let rename = BTreeMap::from([("small".to_owned(), "Copy \"x\"".to_owned())]);
    let copy = RestoreOptions { rename, ..RestoreOptions::default() };
    restore(&server, &snapshot, &copy).await.expect("restored");
    let found = verify(&server, &snapshot, &copy, Scope::Whole).await;
    assert_eq!((found.differences, found.of.len()), (Vec::new(), 3));

    for major in [16, 17, 18] {
        let Some(newer) = PostgresServer::start(test, major) else { continue };
        restore(&newer, &snapshot, &RestoreOptions::default()).await.expect("restored");
        let found = verify(&newer, &snapshot, &RestoreOptions::default(), Scope::Whole).await;
        assert_eq!(found.differences, [""; 0], "PostgreSQL {major}");
        let by_name = "was compared by names of objects alone: the snapshot is of PostgreSQL 15, read by pg_dump 15";
        assert!(found.notes.iter().any(|note| note.contains(by_name)), "{:?}", found.notes);
        assert!(found.notes.iter().any(|note| note.starts_with("role \"postgres\"")), "{:?}", found.notes);
        newer.sql(ODD, "DROP INDEX people_name; SELECT nextval('counter')");
        let found = verify(&newer, &snapshot, &RestoreOptions::default(), Scope::Whole).await;
        assert_eq!(found.differences.len(), 2, "PostgreSQL {major}: {:?}", found.differences);
    }
}
