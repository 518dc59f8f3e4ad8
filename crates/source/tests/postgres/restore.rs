//! What comes back of a backup, and what stays when it cannot.

use std::collections::BTreeMap;

use lifeboat_source::postgres::{PostgresConfig, PostgresTarget, RolePasswords};
use lifeboat_source::{RestoreOptions, Restored, Scope, SourceError, Target};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::{PostgresServer, ServerOptions};
use lifeboat_testkit::snapshot::FakeSnapshot;

use crate::fixture::{ODD, back_up, config, dump_text, entry, fill, versions};

pub(crate) async fn restore(
    server: &PostgresServer,
    snapshot: &FakeSnapshot,
    options: &RestoreOptions,
) -> Result<Restored, SourceError> {
    let scratch = tempfile::tempdir().expect("a directory");
    let target = PostgresTarget::new(config(server)).expect("a good configuration");
    let done = target.apply(snapshot, options, &run_context(scratch.path())).await;
    assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 0, "nothing is left in scratch");
    let left = server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE '%\\_lifeboat\\_%'");
    assert_eq!(left, "", "no temporary database is left");
    done
}

pub(crate) async fn differences(
    server: &PostgresServer,
    snapshot: &FakeSnapshot,
    options: &RestoreOptions,
) -> Vec<String> {
    differences_of(config(server), snapshot, options).await
}

pub(crate) async fn differences_of(
    config: PostgresConfig,
    snapshot: &FakeSnapshot,
    options: &RestoreOptions,
) -> Vec<String> {
    let scratch = tempfile::tempdir().expect("a directory");
    let target = PostgresTarget::new(config).expect("a good configuration");
    let verified =
        target.verify(snapshot, options, Scope::Whole, &run_context(scratch.path())).await.expect("compared");
    assert!(verified.compared > 0);
    verified.differences
}

pub(crate) fn replacing() -> RestoreOptions {
    RestoreOptions { replace: true, ..RestoreOptions::default() }
}

pub(crate) fn only(parts: &[&str]) -> RestoreOptions {
    RestoreOptions { only: parts.iter().map(|&part| part.to_owned()).collect(), ..RestoreOptions::default() }
}

/// Roles and tablespaces without what changes from call to call.
pub(crate) fn roles(server: &PostgresServer) -> String {
    let all = server.tool_output("pg_dumpall", &["--globals-only"]);
    all.lines().filter(|line| !line.starts_with('\\') && !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

fn database_properties(server: &PostgresServer) -> String {
    server.sql(
        "postgres",
        "SELECT datname, pg_get_userbyid(datdba), datconnlimit, \
                (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a), shobj_description(d.oid, 'pg_database'), \
                pg_encoding_to_char(encoding), datcollate, (SELECT array_agg(setrole::regrole::text || setconfig::text \
                ORDER BY 1) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
           FROM pg_database d WHERE datname NOT LIKE 'template%' ORDER BY 1",
    )
}

#[tokio::test]
async fn everything_comes_back_on_an_empty_server_of_every_version() {
    let options = ServerOptions { passwords: true, ..ServerOptions::default() };
    for server in versions("everything_comes_back") {
        fill(&server);
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let other = PostgresServer::start_with("everything_comes_back", server.major(), &options).expect("the same");
        let restored = restore(&other, &snapshot, &RestoreOptions::default()).await.expect("restored");
        let version = server.major();
        assert_eq!(restored.problems, [""; 0], "PostgreSQL {version}");
        for database in [ODD, "small"] {
            assert_eq!(dump_text(&other, database), dump_text(&server, database), "PostgreSQL {version}");
        }
        assert_eq!(database_properties(&other), database_properties(&server), "PostgreSQL {version}");
        // The superuser of the new server keeps its own password.
        let other_roles = |server| roles(server).lines().filter(|l| !l.contains(" postgres")).collect::<String>();
        assert_eq!(other_roles(&other), other_roles(&server), "PostgreSQL {version}");
        other.try_sql("app", "'app secret'", "small", "SELECT 1").expect("the restored role logs in");
        assert!(other.try_sql("app", "wrong", "small", "SELECT 1").is_err(), "passwords are asked for");
        let objects =
            "SELECT loid, md5(string_agg(data, ''::bytea ORDER BY pageno)) FROM pg_largeobject GROUP BY 1 ORDER BY 1";
        assert_eq!(other.sql(ODD, objects), server.sql(ODD, objects), "PostgreSQL {version}");
        assert_eq!(differences(&other, &snapshot, &RestoreOptions::default()).await, [""; 0], "PostgreSQL {version}");
    }
}

#[tokio::test]
async fn a_dump_goes_into_a_newer_server_and_is_refused_by_an_older_one() {
    let test = "a_dump_goes_into_a_newer_server";
    let (Some(old), Some(new)) = (PostgresServer::start(test, 15), PostgresServer::start(test, 18)) else { return };
    fill(&old);
    old.sql(ODD, "DROP EXTENSION pgcrypto");
    let snapshot = back_up(config(&old)).await.expect("a backup");
    restore(&new, &snapshot, &RestoreOptions::default()).await.expect("restored");
    assert_eq!(differences(&new, &snapshot, &RestoreOptions::default()).await, [""; 0]);
    let snapshot = back_up(config(&new)).await.expect("a backup");
    let target = PostgresTarget::new(config(&old)).expect("good");
    let inventory = target.inventory(&snapshot, &replacing()).await.expect("looked at");
    assert_eq!(inventory.refusals.len(), 1, "told once, not for each database");
    assert!(inventory.refusals[0].what.contains("the backup is of PostgreSQL 18"), "{:?}", inventory.refusals);
    let error = restore(&old, &snapshot, &replacing()).await.expect_err("older");
    assert!(error.to_string().contains("which is older"), "{error}");
}

#[tokio::test]
async fn the_tools_of_a_newer_version_serve_an_older_server_too() {
    let test = "the_tools_of_a_newer_version";
    let (Some(server), Some(newer)) = (PostgresServer::start(test, 14), lifeboat_testkit::postgres::binaries(test, 15))
    else {
        return;
    };
    fill(&server);
    let config = || PostgresConfig { tool_dirs: vec![newer.clone()], ..config(&server) };
    let snapshot = back_up(config()).await.expect("a backup");
    server.sql("postgres", "DROP DATABASE small");
    let scratch = tempfile::tempdir().expect("a directory");
    let target = PostgresTarget::new(config()).expect("good");
    let options = only(&["small/*"]);
    target.apply(&snapshot, &options, &run_context(scratch.path())).await.expect("restored");
    assert_eq!(differences(&server, &snapshot, &options).await, [""; 0]);
}

#[tokio::test]
async fn tools_that_are_too_old_are_found_before_anything_is_touched() {
    let test = "tools_that_are_too_old";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let other = PostgresServer::start(test, 15).expect("the same");
    let dir = tempfile::tempdir().expect("a directory");
    for tool in ["pg_dump", "pg_restore"] {
        let mut file = std::fs::File::create(dir.path().join(tool)).expect("a file");
        std::io::Write::write_all(&mut file, b"#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.9'\n").expect("written");
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    }
    let config = PostgresConfig { tool_dirs: vec![dir.path().to_owned()], ..config(&other) };
    let (before, target) = (roles(&other), PostgresTarget::new(config).expect("good"));
    let inventory = target.inventory(&snapshot, &RestoreOptions::default()).await.expect("looked at");
    assert_eq!(inventory.refusals.len(), 1, "{:?}", inventory.refusals);
    assert!(inventory.refusals[0].what.contains("PostgreSQL 15 is needed, but the newest"), "{:?}", inventory.refusals);
    let done = target.apply(&snapshot, &RestoreOptions::default(), &run_context(dir.path())).await;
    assert!(done.expect_err("too old").hint().is_some_and(|hint| hint.contains("postgresql-client-15")));
    assert_eq!(roles(&other), before);
}

#[tokio::test]
async fn a_database_with_tables_is_replaced_only_when_told_to_and_clients_do_not_stop_it() {
    let Some(server) = PostgresServer::start("a_database_with_tables_is_replaced", 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let (before, properties) = (dump_text(&server, ODD), database_properties(&server));
    server
        .sql(ODD, "DELETE FROM secret; CREATE TABLE newer (a int); DROP TABLE quick; ALTER TABLE people ADD extra int");
    server.sql("postgres", "ALTER DATABASE small SET work_mem = '9MB'");
    let error = restore(&server, &snapshot, &RestoreOptions::default()).await.expect_err("in the way");
    assert!(error.to_string().contains("in the way"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--replace")), "{error:?}");
    let found = differences(&server, &snapshot, &RestoreOptions::default()).await;
    let expected = [
        "database \"Odd \\\"db\\\" ä\": table public.people: the definition differs",
        "database \"Odd \\\"db\\\" ä\": table public.quick is not there",
        "database \"Odd \\\"db\\\" ä\": table public.newer is not in the snapshot",
        "database \"Odd \\\"db\\\" ä\": table public.secret: 0 rows, 2 in the snapshot",
        "database \"small\": settings of database small: the definition differs",
    ];
    assert_eq!(found, expected);

    // A client that holds the old database open.
    let url = server.url();
    let client = tokio::spawn(async move {
        let mut config: tokio_postgres::Config = url.parse().expect("a url");
        let (client, connection) = config.dbname("small").connect(tokio_postgres::NoTls).await.expect("connected");
        tokio::spawn(connection);
        client.batch_execute("BEGIN; SELECT * FROM t; SELECT pg_sleep(600)").await
    });
    lifeboat_testkit::eventually("the client sleeps", || {
        server.sql(
            "postgres",
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'
            AND datname = 'small'",
        ) == "1"
    })
    .await;
    let target = PostgresTarget::new(config(&server)).expect("good");
    let inventory = target.inventory(&snapshot, &replacing()).await.expect("looked at");
    assert!(inventory.occupied.iter().any(|one| one == "small: public.t"), "{:?}", inventory.occupied);
    assert!(inventory.free_bytes.is_some_and(|free| free > 0) && inventory.needed_bytes > 0);
    restore(&server, &snapshot, &replacing()).await.expect("replaced");
    assert!(client.await.expect("no panic").is_err(), "the client was ended");
    assert_eq!(dump_text(&server, ODD), before);
    assert_eq!(database_properties(&server), properties);
    assert_eq!(differences(&server, &snapshot, &RestoreOptions::default()).await, [""; 0]);
}

#[tokio::test]
async fn a_damaged_snapshot_leaves_the_live_database_as_it_was() {
    let Some(server) = PostgresServer::start("a_damaged_snapshot", 15) else { return };
    fill(&server);
    let mut snapshot = back_up(config(&server)).await.expect("a backup");
    let (before, properties) = (dump_text(&server, "small"), database_properties(&server));
    let tables: serde_json::Value =
        serde_json::from_slice(&snapshot.entries[&entry("small/lifeboat.json")].content()).expect("json");
    let file = tables["tables"].as_object().and_then(|tables| tables.keys().next()).expect("a table");
    let file = entry(&format!("small/{file}"));
    let options = RestoreOptions { only: vec!["small/*".to_owned()], ..replacing() };
    let good = snapshot.entries[&file].pieces.clone();

    snapshot.damaged.insert(file.clone());
    let error = restore(&server, &snapshot, &options).await.expect_err("damaged");
    assert!(error.to_string().contains("table public.t of database \"small\""), "{error}");

    snapshot.damaged.clear();
    let half = lifeboat_model::flow::Piece::Data(bytes::Bytes::from_static(b"1\trow 1\n\\.\n\n\n"));
    snapshot.entries.get_mut(&file).expect("there").pieces = vec![half];
    let error = restore(&server, &snapshot, &options).await.expect_err("rows are missing");
    assert!(error.to_string().contains("has 1 rows, 100 were backed up"), "{error}");

    let nonsense = lifeboat_model::flow::Piece::Data(bytes::Bytes::from_static(b"no number\tx\n\\.\n\n\n"));
    snapshot.entries.get_mut(&file).expect("there").pieces = vec![nonsense];
    let error = restore(&server, &snapshot, &options).await.expect_err("no number");
    let cause = std::error::Error::source(&error).expect("the server's words").to_string();
    assert!(cause.contains("invalid input syntax"), "{error}: {cause}");
    snapshot.entries.get_mut(&file).expect("there").pieces = good;

    // A constraint that cannot be made is named by pg_restore.
    let toc = snapshot.entries.get_mut(&entry("small/toc.dat")).expect("there");
    let mut parsed = lifeboat_source::postgres::toc::Toc::parse(&toc.content()).expect("good");
    let constraint = parsed.entries.iter_mut().find(|entry| entry.is("CONSTRAINT")).expect("a primary key");
    constraint.definition = Some(b"ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey CHECK (a < 0);".as_slice().into());
    toc.pieces = vec![lifeboat_model::flow::Piece::Data(parsed.to_directory().into())];
    let error = restore(&server, &snapshot, &options).await.expect_err("the check fails");
    let cause = std::error::Error::source(&error).expect("pg_restore's words").to_string();
    assert!(cause.contains("ADD CONSTRAINT t_pkey"), "{cause}");

    assert_eq!(dump_text(&server, "small"), before);
    assert_eq!(database_properties(&server), properties);
}

#[tokio::test]
async fn a_database_comes_back_under_another_name_and_what_a_killed_restore_left_is_removed() {
    let Some(server) = PostgresServer::start("a_database_comes_back_under_another_name", 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    server.sql(
        "postgres",
        "CREATE DATABASE small_lifeboat_0123456789ab;
         COMMENT ON DATABASE small_lifeboat_0123456789ab IS 'lifeboat: restore of small under way'",
    );
    let rename = BTreeMap::from([("small".to_owned(), "Copy of \"small\"".to_owned())]);
    let options = RestoreOptions { rename, only: vec!["small/*".to_owned()], ..RestoreOptions::default() };
    restore(&server, &snapshot, &options).await.expect("restored");
    assert_eq!(server.sql("Copy of \"small\"", "SELECT count(*), max(b) FROM t"), "100|row 99");
    let settings = "SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = setdatabase
        WHERE datname = 'Copy of \"small\"' ORDER BY 1";
    assert_eq!(server.sql("postgres", settings), "{\"search_path=a, \\\"b'c\\\"\"}\n{work_mem=7MB}");
    let comment = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = 'Copy of \"small\"'";
    assert_eq!(server.sql("postgres", comment), "DATABASE small; is small");
    let rename = BTreeMap::from([("nothing".to_owned(), "x".to_owned())]);
    let options = RestoreOptions { rename, ..RestoreOptions::default() };
    assert!(
        restore(&server, &snapshot, &options)
            .await
            .expect_err("unknown")
            .to_string()
            .contains("no database \"nothing\"")
    );
}

#[tokio::test]
async fn one_table_or_schema_comes_back_alone_and_all_or_nothing() {
    let servers = [13, 15, 18].map(|major| PostgresServer::start("one_table_or_schema_comes_back", major));
    for server in servers.into_iter().flatten() {
        fill(&server);
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let (before, version) = (dump_text(&server, ODD), server.major());
        let parts =
            only(&[&format!("{ODD}/\"Tab.le $1 %s\""), &format!("{ODD}/public.secret"), &format!("{ODD}/events")]);
        let error = restore(&server, &snapshot, &parts).await.expect_err("they are there");
        assert!(error.to_string().contains("in the way"), "{error}");
        server.sql(
            ODD,
            "DROP TABLE events; UPDATE secret SET line = 'changed'; DROP SCHEMA \"Odd \"\"schema\"\" ä.x\" CASCADE",
        );
        assert!(!differences(&server, &snapshot, &parts).await.is_empty());
        let replaced = restore(&server, &snapshot, &RestoreOptions { replace: true, ..parts.clone() }).await;
        assert_eq!(replaced.expect("restored").problems, [""; 0], "PostgreSQL {version}");
        assert_eq!(differences(&server, &snapshot, &parts).await, [""; 0], "PostgreSQL {version}");
        assert_eq!(dump_text(&server, ODD), before, "PostgreSQL {version}");

        // Something else depends on it: nothing changes.
        server.sql(ODD, "UPDATE people SET name = 'changed' WHERE id = 1");
        let changed = dump_text(&server, ODD);
        let options = RestoreOptions { replace: true, ..only(&[&format!("{ODD}/people")]) };
        let error = restore(&server, &snapshot, &options).await.expect_err("a view depends on it");
        assert!(error.to_string().contains("people"), "{error}");
        assert_eq!(dump_text(&server, ODD), changed, "PostgreSQL {version}");
    }
}

#[tokio::test]
async fn a_part_goes_into_a_new_database_with_what_it_needs() {
    let Some(server) = PostgresServer::start("a_part_goes_into_a_new_database", 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let rename = BTreeMap::from([(ODD.to_owned(), "part".to_owned())]);
    let options = RestoreOptions { rename, ..only(&[&format!("{ODD}/public.people"), &format!("{ODD}/events")]) };
    restore(&server, &snapshot, &options).await.expect("restored");
    assert_eq!(server.sql("part", "SELECT count(*) FROM people JOIN events ON person = id"), "5000");
    // The publication does not come along with its tables.
    let told =
        ["events", "people"].map(|t| format!("database \"part\": publication of public.everything {t} is not there"));
    assert_eq!(differences(&server, &snapshot, &options).await, told);
    let error = restore(&server, &snapshot, &only(&[&format!("{ODD}/nothing_like_it")])).await;
    assert!(
        error
            .expect_err("unknown")
            .to_string()
            .contains("/nothing_like_it\": the snapshot has no such schema or table")
    );
}

#[tokio::test]
async fn passwords_are_left_out_by_choice_and_roles_that_are_there_stay() {
    let test = "passwords_are_left_out_by_choice";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    fill(&server);
    let config = PostgresConfig { role_passwords: RolePasswords::Omit, ..config(&server) };
    let snapshot = back_up(config).await.expect("a backup");
    let script = String::from_utf8(snapshot.entries[&entry("globals.sql")].content()).expect("text");
    assert!(script.contains("CREATE ROLE app") && !script.contains("SCRAM"), "{script}");
    let other = PostgresServer::start(test, 15).expect("the same");
    other.sql("postgres", "CREATE ROLE reader LOGIN CREATEDB; CREATE ROLE keeper; GRANT keeper TO reader");
    restore(&other, &snapshot, &RestoreOptions::default()).await.expect("restored");
    let query = "SELECT rolname, rolcanlogin, rolcreatedb, rolpassword IS NULL FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY 1";
    let expected = "Odd \"role\" ä; --|t|t|t\napp|t|f|t\nkeeper|f|f|t\npostgres|t|t|f\nreader|t|t|t";
    assert_eq!(other.sql("postgres", query), expected);
    restore(&other, &snapshot, &replacing()).await.expect("restored");
    assert_eq!(other.sql("postgres", query), expected.replace("reader|t|t", "reader|f|f"));
}

#[tokio::test]
async fn a_tablespace_whose_directory_is_missing_is_a_problem_and_no_failure() {
    let test = "a_tablespace_whose_directory_is_missing";
    let Some(origin) = PostgresServer::start(test, 15) else { return };
    let directory = origin.path().join("space");
    let shown = directory.display();
    origin.sql("postgres", &format!("COPY (SELECT 1) TO PROGRAM 'mkdir {shown}'"));
    origin.sql("postgres", &format!("CREATE TABLESPACE space LOCATION '{shown}'"));
    origin.sql("postgres", "CREATE DATABASE far TABLESPACE space");
    origin.sql("far", "CREATE TABLE t AS SELECT 1 AS a; CREATE DATABASE unused");
    let snapshot = back_up(config(&origin)).await.expect("a backup");
    let other = PostgresServer::start(test, 15).expect("the same");
    drop(origin);
    let restored = restore(&other, &snapshot, &RestoreOptions::default()).await.expect("restored");
    assert_eq!(restored.problems.len(), 1, "{:?}", restored.problems);
    assert!(restored.problems[0].contains("tablespace \"space\" could not be made"), "{:?}", restored.problems);
    assert_eq!(other.sql("far", "SELECT a FROM t"), "1");
}
