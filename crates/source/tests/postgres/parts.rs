//! Parts of a server: one database, one schema, one table, with what they need.

use std::collections::BTreeMap;

use lifeboat_source::postgres::PostgresTarget;
use lifeboat_source::{RestoreOptions, SourceError, Target, TargetInventory};
use lifeboat_testkit::postgres::PostgresServer;
use lifeboat_testkit::snapshot::FakeSnapshot;

use crate::fixture::{back_up, config, dump_text, versions};
use crate::restore::{differences, only, replacing, restore};

/// A registry as a civil registration system has it, and a second database.
const REGISTRY: &str = "
  CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO reader;
  CREATE TYPE app.kind AS ENUM ('birth', 'death'); COMMENT ON TYPE app.kind IS 'of an event';
  CREATE SEQUENCE app.numbers START 50;
  CREATE FUNCTION app.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
  CREATE TABLE app.places (id int PRIMARY KEY, name text);
  CREATE TABLE app.births (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number int DEFAULT nextval('app.numbers'),
    kind app.kind, place int REFERENCES app.places, near int CONSTRAINT near REFERENCES app.places);
  CREATE TABLE app.letters (birth int REFERENCES app.births, line text);
  CREATE VIEW app.named AS SELECT b.id, p.name FROM app.births b JOIN app.places p ON p.id = b.place;
  CREATE VIEW app.counted AS SELECT count(*) FROM app.named;
  INSERT INTO app.places SELECT i, 'place ' || i FROM generate_series(1, 20) i;
  INSERT INTO app.births (kind, place, near) SELECT 'birth', 1 + i % 20, 1 FROM generate_series(1, 500) i;
  INSERT INTO app.letters SELECT 1 + i % 500, 'dear' FROM generate_series(1, 900) i;
  ALTER TABLE app.births OWNER TO app; GRANT SELECT ON app.births TO reader; GRANT SELECT ON app.births TO PUBLIC;
  ALTER TABLE app.births ENABLE ROW LEVEL SECURITY;
  CREATE POLICY mine ON app.births TO reader, app USING (true); CREATE POLICY theirs ON app.births TO reader USING (true);
  CREATE TABLE app.log (at int, line text) PARTITION BY RANGE (at);
  CREATE TABLE app.log_1 PARTITION OF app.log FOR VALUES FROM (0) TO (10);
  CREATE TABLE app.log_2 PARTITION OF app.log FOR VALUES FROM (10) TO (20);
  ALTER TABLE app.log ADD PRIMARY KEY (at, line); CREATE INDEX ON app.log (line);
  INSERT INTO app.log SELECT i, 'line' FROM generate_series(0, 19) i;
  CREATE TABLE births (a int); CREATE SCHEMA \"births\"; CREATE TABLE other (b int); INSERT INTO other VALUES (7);";

fn registry(test: &str, major: u32) -> Option<PostgresServer> {
    let server = PostgresServer::start(test, major)?;
    server.sql(
        "postgres",
        "CREATE ROLE app; CREATE ROLE reader; CREATE DATABASE events OWNER app; CREATE DATABASE small",
    );
    server.sql("events", REGISTRY);
    server.sql("small", "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    Some(server)
}

/// A second server without the roles.
fn bare(test: &str, major: u32) -> PostgresServer {
    PostgresServer::start(test, major).expect("the same")
}

async fn look(
    server: &PostgresServer,
    snapshot: &FakeSnapshot,
    options: &RestoreOptions,
) -> Result<TargetInventory, SourceError> {
    PostgresTarget::new(config(server)).expect("good").inventory(snapshot, options).await
}

fn renaming(pairs: &[(&str, &str)], only: RestoreOptions) -> RestoreOptions {
    let rename = pairs.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect::<BTreeMap<_, _>>();
    RestoreOptions { rename, ..only }
}

#[tokio::test]
async fn the_short_forms_mean_a_database_a_schema_and_a_table() {
    let test = "the_short_forms_mean";
    let Some(server) = registry(test, 15) else { return };
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let other = bare(test, 15);
    // A database comes with the roles that are missing, and alone.
    let restored = restore(&other, &snapshot, &only(&["events"])).await.expect("restored");
    assert_eq!(restored.problems, [""; 0]);
    assert_eq!(dump_text(&other, "events"), dump_text(&server, "events"));
    assert_eq!(other.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'small'"), "0");
    other.sql("postgres", "DROP DATABASE events");
    restore(&other, &snapshot, &only(&["events/app"])).await.expect("restored");
    let tables =
        "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname IN ('app', 'public') AND relkind IN ('r', 'v')";
    assert_eq!(other.sql("events", tables), "births counted letters log_1 log_2 named places");
    other.sql("postgres", "DROP DATABASE events");
    restore(&other, &snapshot, &only(&["events/other"])).await.expect("restored");
    assert_eq!(other.sql("events", tables), "other");
    for (word, complaint, hint) in [
        ("events/births", "is a schema and a table", "events/births.* for the schema, events/"),
        (
            "events/nosuch",
            "\"events/nosuch\": the snapshot has no such schema or table",
            "the schemas app, births, public",
        ),
        ("events/nosuch.*", "no such schema", "DATABASE/SCHEMA.TABLE"),
        ("events/app.nosuch", "no such table", "DATABASE/SCHEMA.TABLE"),
        ("nosuch*", "\"nosuch*\" names no database", "the databases events, postgres, small"),
    ] {
        let error = look(&other, &snapshot, &only(&[word])).await.expect_err(word);
        assert!(error.to_string().contains(complaint), "{word}: {error}");
        assert!(error.hint().is_some_and(|text| text.contains(hint)), "{word}: {error:?}");
    }
}

#[tokio::test]
async fn a_rename_alone_selects_what_it_names_and_never_means_nothing() {
    let Some(server) = registry("a_rename_alone", 15) else { return };
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let options = renaming(&[("events", "copy")], RestoreOptions::default());
    let seen = look(&server, &snapshot, &options).await.expect("looked at");
    assert_eq!(seen.occupied, [""; 0], "the other databases are not in the way");
    assert!(seen.steps.iter().any(|step| step.starts_with("leave out postgres, small: ")), "{:?}", seen.steps);
    server.sql("small", "INSERT INTO t VALUES (2)");
    restore(&server, &snapshot, &RestoreOptions { replace: true, ..options.clone() }).await.expect("restored");
    assert_eq!(dump_text(&server, "copy"), dump_text(&server, "events"));
    assert_eq!(server.sql("small", "SELECT count(*) FROM t"), "2", "it was not named");
    assert_eq!(differences(&server, &snapshot, &options).await, [""; 0]);
    let error =
        look(&server, &snapshot, &renaming(&[("events", "x")], only(&["small"]))).await.expect_err("not selected");
    assert!(error.to_string().contains("--rename events=x has nothing to rename"), "{error}");
}

#[tokio::test]
async fn what_a_table_needs_is_taken_along_and_what_is_only_tied_to_it_is_left_out_and_told() {
    let test = "what_a_table_needs";
    for major in [15, 18] {
        let Some(server) = registry(test, major) else { return };
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let other = bare(test, major);
        other.sql("postgres", "CREATE ROLE app; CREATE DATABASE events");
        let options = only(&["events/app.births"]);
        let seen = look(&other, &snapshot, &options).await.expect("looked at");
        assert_eq!(seen.refusals, [], "PostgreSQL {major}");
        for needed in ["schema app", "type app.kind", "sequence app.numbers"] {
            assert!(seen.steps.contains(&format!("take along {needed}, which is needed")), "{:?}", seen.steps);
        }
        let restored = restore(&other, &snapshot, &options).await.expect("restored");
        let told = restored.problems.join("\n");
        for problem in [
            "foreign key app.births births_place_fkey is left out: table app.places is not there",
            "foreign key app.births near is left out",
            "role \"reader\" is not on the server: 2 grants are left out, 2 policies are without it",
        ] {
            assert!(told.contains(problem), "PostgreSQL {major}: {told}");
        }
        assert_eq!(restored.problems.len(), 3, "{told}");
        assert_eq!(other.sql("events", "SELECT count(*), max(number), max(id) FROM app.births"), "500|549|500");
        let facts = "SELECT relowner::regrole, relacl, (SELECT string_agg(polname || polroles::regrole[]::text, ' ') FROM pg_policy),
            obj_description('app.kind'::regtype, 'pg_type') FROM pg_class WHERE oid = 'app.births'::regclass";
        let facts = other.sql("events", facts);
        assert!(facts.starts_with("app|{") && !facts.contains("reader"), "{facts}");
        assert!(facts.contains("=r/app") && facts.ends_with("|mine{app}|of an event"), "{facts}");
        // With both sides the foreign keys come too.
        other.sql("postgres", "DROP DATABASE events");
        let restored = restore(&other, &snapshot, &only(&["events/app.births", "events/app.places"])).await;
        assert_eq!(restored.expect("restored").problems.len(), 1, "the role");
        assert_eq!(other.sql("events", "SELECT count(*) FROM pg_constraint WHERE contype = 'f'"), "2");
        // What cannot be without another table is refused before anything is touched.
        let before = dump_text(&other, "events");
        let seen = look(&other, &snapshot, &only(&["events/app.counted"])).await.expect("looked at");
        let [refusal] = seen.refusals.as_slice() else { panic!("{:?}", seen.refusals) };
        assert!(refusal.what.contains("view app.counted needs view app.named, which is neither"), "{refusal:?}");
        assert_eq!(refusal.hint.as_deref(), Some("take it along: add --only 'events/app.named'"));
        let error = restore(&other, &snapshot, &only(&["events/app.counted"])).await.expect_err("no named");
        assert!(error.to_string().contains("needs view app.named"), "{error}");
        assert_eq!(dump_text(&other, "events"), before);
    }
}

#[tokio::test]
async fn a_replacement_that_something_else_depends_on_is_refused_by_the_dry_run() {
    let test = "a_replacement_that_something_else";
    for major in [13, 15, 18] {
        let Some(server) = registry(test, major) else { continue };
        let snapshot = back_up(config(&server)).await.expect("a backup");
        server.sql("events", "CREATE FUNCTION near(app.places) RETURNS int LANGUAGE sql AS 'SELECT $1.id'");
        for (part, dependents) in [
            (
                "events/app.births",
                &["view app.named depends on table app.births", "letters_birth_fkey on table app.letters"][..],
            ),
            ("events/app.named", &["view app.counted depends on view app.named"]),
            ("events/app.places", &["function public.near(app.places)", "births_place_fkey", "view app.named"]),
        ] {
            let options = RestoreOptions { replace: true, ..only(&[part]) };
            let seen = look(&server, &snapshot, &options).await.expect("looked at");
            let told: Vec<&str> = seen.refusals.iter().map(|refusal| refusal.what.as_str()).collect();
            for dependent in dependents {
                assert!(told.iter().any(|what| what.contains(dependent)), "PostgreSQL {major}: {told:?}");
            }
            assert!(seen.refusals.iter().all(|refusal| refusal.hint.is_some()));
            let seen = look(&server, &snapshot, &only(&[part])).await.expect("looked at");
            assert_eq!(seen.refusals, [], "nothing is dropped without --replace");
        }
        // Selected together they go and come back together, whatever refers to whatever.
        server.sql(
            "events",
            "DROP FUNCTION near; CREATE TABLE app.log_3 PARTITION OF app.log FOR VALUES FROM (20) TO (30)",
        );
        let before = dump_text(&server, "events");
        server.sql("events", "CREATE OR REPLACE FUNCTION app.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 3'");
        server.sql("events", "DROP TABLE app.log_3; UPDATE app.letters SET line = 'x'; ALTER TABLE app.places ADD back int REFERENCES app.births");
        let options = RestoreOptions { replace: true, ..only(&["events/app"]) };
        let seen = look(&server, &snapshot, &options).await.expect("looked at");
        assert_eq!(seen.refusals, []);
        for stays in ["schema app", "type app.kind"] {
            assert!(seen.steps.contains(&format!("leave {stays} as it is there")), "{:?}", seen.steps);
        }
        assert_eq!(restore(&server, &snapshot, &options).await.expect("restored").problems, [""; 0]);
        server.sql("events", "CREATE TABLE app.log_3 PARTITION OF app.log FOR VALUES FROM (20) TO (30)");
        assert_eq!(dump_text(&server, "events"), before, "PostgreSQL {major}");
        // A partition that is newer than the snapshot goes with its table, and is told.
        let seen = look(&server, &snapshot, &RestoreOptions { replace: true, ..only(&["events/log"]) }).await;
        let occupied = seen.expect("looked at").occupied;
        assert!(occupied.contains(&"events: app.log_3 (a partition that is not selected)".to_owned()), "{occupied:?}");
    }
}

#[tokio::test]
async fn a_materialized_view_and_a_check_that_read_a_view_come_back_with_their_schema() {
    for server in versions("a_materialized_view_and_a_check") {
        server.sql("postgres", "CREATE DATABASE events");
        server.sql(
            "events",
            "CREATE SCHEMA app; CREATE TABLE app.t (a int); CREATE VIEW app.v AS SELECT sum(a) AS a FROM app.t;
             CREATE FUNCTION app.seen() RETURNS bool LANGUAGE sql AS 'SELECT count(*) >= 0 FROM app.v';
             CREATE TABLE app.checked (a int CHECK (app.seen())); INSERT INTO app.checked VALUES (1);
             INSERT INTO app.t VALUES (3), (4); CREATE MATERIALIZED VIEW app.mv AS SELECT a FROM app.v;",
        );
        let (before, version) = (dump_text(&server, "events"), server.major());
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let mended = async |change: &str, parts: &[&str], replace: bool| {
            server.sql(if change.contains("DATABASE") { "postgres" } else { "events" }, change);
            let options = RestoreOptions { replace, ..only(parts) };
            assert_eq!(restore(&server, &snapshot, &options).await.expect(change).problems, [""; 0]);
            assert_eq!(server.sql("events", "SELECT a FROM app.mv"), "7", "PostgreSQL {version}");
            assert_eq!(dump_text(&server, "events"), before, "PostgreSQL {version}");
        };
        mended("DROP SCHEMA app CASCADE", &["events/app"], false).await;
        mended("DROP DATABASE events", &["events"], false).await;
        let three = ["events/app.t", "events/app.v", "events/app.mv"];
        mended("DELETE FROM app.t; REFRESH MATERIALIZED VIEW app.mv", &three, true).await;
    }
}

#[tokio::test]
async fn one_partition_comes_back_into_its_table_or_alone() {
    let test = "one_partition_comes_back";
    for major in [13, 15, 18] {
        let Some(server) = registry(test, major) else { continue };
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let before = dump_text(&server, "events");
        server.sql("events", "DELETE FROM app.log");
        let options = RestoreOptions { replace: true, ..only(&["events/log_1"]) };
        assert_eq!(restore(&server, &snapshot, &options).await.expect("restored").problems, [""; 0]);
        assert_eq!(server.sql("events", "SELECT count(*), max(at) FROM app.log"), "10|9", "PostgreSQL {major}");
        let options = RestoreOptions { replace: true, ..only(&["events/log_2"]) };
        restore(&server, &snapshot, &options).await.expect("restored");
        assert_eq!(dump_text(&server, "events"), before, "PostgreSQL {major}");
        let options = renaming(&[("events", "alone")], only(&["events/log_2"]));
        let restored = restore(&server, &snapshot, &options).await.expect("restored");
        assert_eq!(server.sql("alone", "SELECT count(*) FROM app.log_2"), "10");
        assert_eq!(restored.problems, ["partition's place app.log_2 is left out: table app.log is not there"]);
    }
}

#[tokio::test]
async fn an_extension_that_the_server_does_not_have_is_found_before_anything_is_touched() {
    let Some(server) = PostgresServer::start("an_extension_that_the_server", 15) else { return };
    server.sql("postgres", "CREATE DATABASE events");
    server.sql("events", "CREATE TABLE t (a int)");
    let mut snapshot = back_up(config(&server)).await.expect("a backup");
    let toc = snapshot.entries.get_mut(&crate::fixture::entry("events/toc.dat")).expect("there");
    let mut parsed = lifeboat_source::postgres::toc::Toc::parse(&toc.content()).expect("good");
    let mut extension = parsed.entries.iter().find(|entry| entry.is("TABLE")).expect("a table").clone();
    extension.desc = Some(b"EXTENSION".as_slice().into());
    extension.tag = Some(b"postgis".as_slice().into());
    parsed.entries.push(extension);
    toc.pieces = vec![lifeboat_model::flow::Piece::Data(parsed.to_directory().into())];
    let seen = look(&server, &snapshot, &replacing()).await.expect("looked at");
    assert_eq!(seen.refusals.len(), 1, "{:?}", seen.refusals);
    assert_eq!(seen.refusals[0].what, "extension \"postgis\" is not installed on the server");
}
