//! What must not become a snapshot.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lifeboat_model::flow::RunContext;
use lifeboat_source::postgres::{PostgresConfig, PostgresSource};
use lifeboat_source::{Source, SourceError, Verdict};
use lifeboat_testkit::context::{Recorder, run_context};
use lifeboat_testkit::eventually;
use lifeboat_testkit::postgres::{PostgresServer, ServerOptions};
use lifeboat_testkit::snapshot::{FakeSink, SinkFaults};

use crate::fixture::{ODD, back_up, config, entry, fill};

/// The error with all of its causes.
pub(crate) fn story(error: &SourceError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

pub(crate) async fn fails(config: PostgresConfig) -> String {
    let error = back_up(config).await.expect_err("this backup cannot be whole");
    story(&error)
}

/// Tools whose `pg_dump` is this script; the rest is the server's own.
fn tools_with(server: &PostgresServer, dir: &Path, script: &str) -> PostgresConfig {
    for tool in ["pg_restore", "pg_dumpall"] {
        std::os::unix::fs::symlink(server.client_bin().join(tool), dir.join(tool)).expect("a link");
    }
    let mut file = std::fs::File::create(dir.join("pg_dump")).expect("a file");
    let real = server.client_bin().join("pg_dump");
    let script =
        format!("#!/bin/sh\n[ \"$1\" = --version ] && exec {0} --version\nREAL={0}\n{script}\n", real.display());
    std::io::Write::write_all(&mut file, script.as_bytes()).expect("written");
    file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("ours");
    PostgresConfig { tool_dirs: vec![dir.to_owned()], ..config(server) }
}

#[tokio::test]
async fn a_pg_dump_that_dies_half_way_makes_no_snapshot() {
    let Some(server) = PostgresServer::start("a_pg_dump_that_dies", 15) else { return };
    fill(&server);
    for (script, complaint) in [
        ("$REAL \"$@\" | head -c 3000; kill -9 $$", "signal: 9"),
        ("$REAL \"$@\" | head -c 3000; echo 'no more' >&2; exit 1", "no more"),
        ("$REAL \"$@\" | head -c 3000; exit 0", "ended before its table of contents"),
        ("head -c 100000 /dev/zero", "no pg_dump archive"),
    ] {
        let dir = tempfile::tempdir().expect("a directory");
        let text = fails(tools_with(&server, dir.path(), script)).await;
        assert!(text.contains("structure of database \"Odd \\\"db\\\" ä\" failed"), "{script}: {text}");
        assert!(text.contains(complaint), "{script}: {text}");
    }
}

#[tokio::test]
async fn a_server_that_crashes_in_the_middle_of_a_table_makes_no_snapshot() {
    let Some(server) = PostgresServer::start("a_server_that_crashes", 15) else { return };
    server.sql("postgres", "CREATE DATABASE big");
    server.sql(
        "big",
        "CREATE TABLE long (t text); INSERT INTO long SELECT repeat('x', 1000) FROM generate_series(1, 60000)",
    );
    let server = Arc::new(server);
    let stopped = Arc::new(AtomicBool::new(false));
    let sink = FakeSink::new().on_content(Box::new({
        let (server, stopped) = (Arc::clone(&server), Arc::clone(&stopped));
        move |path, offset| {
            if path.to_string().starts_with("big/") && offset > 2_000_000 && !stopped.swap(true, Ordering::SeqCst) {
                server.stop("immediate");
            }
        }
    }));
    let scratch = tempfile::tempdir().expect("a directory");
    let source = PostgresSource::new(config(&server)).expect("good");
    let error = source.backup(Arc::new(sink), &run_context(scratch.path())).await.expect_err("the server is gone");
    let text = story(&error);
    assert!(stopped.load(Ordering::SeqCst) && text.contains("table public.long of database \"big\""), "{text}");
    server.restart();
    back_up(PostgresConfig { databases: Some(vec!["big".to_owned()]), ..config(&server) })
        .await
        .expect("it works again");
}

#[tokio::test]
async fn a_role_without_rights_is_told_which_table_it_may_not_read() {
    let Some(server) = PostgresServer::start("a_role_without_rights", 15) else { return };
    fill(&server);
    let as_role = |role: &str| PostgresConfig {
        url: server.url_of(role, "x"),
        databases: Some(vec!["small".to_owned()]),
        ..config(&server)
    };
    server.sql("postgres", "CREATE ROLE weak LOGIN; CREATE ROLE strong LOGIN; GRANT pg_read_all_data TO strong; GRANT CONNECT ON DATABASE small TO weak, strong");
    let found = async |config: PostgresConfig| {
        let scratch = tempfile::tempdir().expect("a directory");
        let source = PostgresSource::new(config).expect("good");
        source.doctor(&run_context(scratch.path())).await.expect("looked")
    };
    let worst = async |config: PostgresConfig| -> (Vec<String>, String) {
        let bad: Vec<_> = found(config).await.into_iter().filter(|found| found.verdict == Verdict::Bad).collect();
        let hints = bad.iter().filter_map(|found| found.hint.clone()).collect();
        (bad.into_iter().map(|found| found.what).collect(), hints)
    };
    let error = back_up(as_role("weak")).await.expect_err("it may not");
    let text = story(&error);
    assert!(text.contains("database \"small\"") && text.contains("permission denied for table t"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("GRANT pg_read_all_data")), "{error:?}");
    let (bad, hint) = worst(as_role("weak")).await;
    assert_eq!(bad, ["role \"weak\" may not read table public.t in database \"small\""]);
    assert!(hint.contains("GRANT pg_read_all_data TO \"weak\""), "{hint}");
    assert_eq!(worst(as_role("strong")).await.0, [""; 0]);
    let snapshot = back_up(as_role("strong")).await.expect("a backup");
    assert_eq!(snapshot.problems, [], "pg_read_all_data reads pg_authid too");
    // Enough rights for the data, not for passwords: told, not failed.
    server.sql("small", "GRANT SELECT ON t TO weak");
    let snapshot = back_up(as_role("weak")).await.expect("a backup");
    let told = snapshot.problems.iter().map(|(path, what)| format!("{path}: {what}")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("globals.sql: passwords of roles are not in the backup"), "{told:?}");
    // Row-level security would hide rows: refused.
    server.sql("small", "ALTER TABLE t ENABLE ROW LEVEL SECURITY");
    let error = back_up(as_role("strong")).await.expect_err("some rows are hidden");
    assert!(story(&error).contains("row-level security"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("BYPASSRLS")), "{error:?}");
    let (bad, hint) = worst(as_role("strong")).await;
    assert!(
        bad[0].contains("by row-level security, of table public.t") && hint.contains("ROLE \"strong\" BYPASSRLS"),
        "{bad:?} {hint}"
    );
    // Large objects of others have rights of their own.
    server.sql("small", "ALTER TABLE t DISABLE ROW LEVEL SECURITY; SELECT lo_create(4711), lo_create(4712)");
    let error = back_up(as_role("strong")).await.expect_err("a large object");
    assert!(story(&error).contains("permission denied for large object 4711"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("GRANT SELECT ON LARGE OBJECT")), "{error:?}");
    let (bad, hint) = worst(as_role("strong")).await;
    assert_eq!(bad, ["role \"strong\" may not read 2 large objects, such as 4711 in database \"small\""]);
    assert!(hint.contains("GRANT SELECT ON LARGE OBJECT"), "{hint}");
    server.sql("small", "GRANT SELECT ON LARGE OBJECT 4711 TO PUBLIC; ALTER LARGE OBJECT 4712 OWNER TO strong");
    assert_eq!(worst(as_role("strong")).await.0, [""; 0]);
    back_up(as_role("strong")).await.expect("a backup");
    server.sql("small", "SELECT lo_unlink(4711), lo_unlink(4712)");
    // A schema, a sequence, a database that it may not enter.
    server.sql(
        "small",
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY; CREATE SCHEMA inner_; CREATE TABLE inner_.u (a serial)",
    );
    let text = fails(as_role("weak")).await;
    assert!(text.contains("permission denied for schema inner_"), "{text}");
    assert_eq!(worst(as_role("weak")).await.0, ["role \"weak\" may not read schema inner_ in database \"small\""]);
    server.sql("small", "GRANT USAGE ON SCHEMA inner_ TO weak; GRANT SELECT ON inner_.u TO weak");
    let error = back_up(as_role("weak")).await.expect_err("the sequence");
    assert!(
        story(&error).contains("permission denied for sequence")
            && error.hint().is_some_and(|hint| hint.contains("GRANT")),
        "{error:?}"
    );
    assert!(worst(as_role("weak")).await.0[0].contains("may not read sequence inner_.u_a_seq"));
    server.sql("postgres", "REVOKE CONNECT ON DATABASE small FROM weak");
    assert!(worst(as_role("weak")).await.0[0].contains("permission denied for database"));
    let nowhere = PostgresConfig { tool_dirs: vec!["/nowhere/bin".into()], ..as_role("strong") };
    assert!(worst(nowhere.clone()).await.0[0].contains("toolsDir /nowhere/bin has no pg_dump"));
    let text = fails(nowhere).await;
    assert!(text.contains("toolsDir /nowhere/bin has no pg_dump"), "{text}");
    let text = fails(PostgresConfig { databases: Some(vec!["nowhere".to_owned()]), ..as_role("strong") }).await;
    assert!(text.contains("database \"nowhere\" is not on the server"), "{text}");
}

#[tokio::test]
async fn a_sink_that_fails_and_a_request_to_stop_end_the_backup() {
    let Some(server) = PostgresServer::start("a_sink_that_fails", 15) else { return };
    fill(&server);
    let scratch = tempfile::tempdir().expect("a directory");
    let source = PostgresSource::new(config(&server)).expect("good");
    let faults = SinkFaults { after_bytes: Some(200_000), ..SinkFaults::default() };
    let sink = Arc::new(FakeSink::new().failing(faults));
    let error =
        source.backup(Arc::clone(&sink) as _, &run_context(scratch.path())).await.expect_err("the sink is full");
    assert!(matches!(error, SourceError::Sink(_)), "{error:?}");
    assert!(Arc::into_inner(sink).is_some(), "no task of the backup is left");
    let context = run_context(scratch.path());
    let cancel = context.cancel.clone();
    let sink = FakeSink::new().on_content(Box::new(move |path, _| {
        if path.to_string().starts_with(ODD) {
            cancel.cancel();
        }
    }));
    let error = source.backup(Arc::new(sink), &context).await.expect_err("asked to stop");
    assert!(matches!(error, SourceError::Cancelled), "{error:?}");
    eventually("the server has no client of ours any more", || {
        server
            .sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('lifeboat', 'pg_dump')")
            == "0"
    })
    .await;
}

#[tokio::test]
async fn a_table_cannot_be_emptied_or_dropped_between_snapshot_and_read() {
    let Some(server) = PostgresServer::start("a_table_cannot_be_emptied", 15) else { return };
    server.sql("postgres", "CREATE DATABASE busy");
    server.sql("busy", "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a SELECT generate_series(1, 1000); INSERT INTO b TABLE a");
    let server = Arc::new(server);
    let refused = Arc::new(AtomicBool::new(false));
    let sink = FakeSink::new().on_content(Box::new({
        let (server, refused) = (Arc::clone(&server), Arc::clone(&refused));
        move |path, _| {
            if path.to_string() == "busy/toc.dat" {
                let tried = ["TRUNCATE a", "DROP TABLE b"].map(|statement| {
                    server.try_sql("postgres", "x", "busy", &format!("SET lock_timeout = 100; {statement}"))
                });
                refused.store(tried.iter().all(Result::is_err), Ordering::SeqCst);
                server.sql("busy", "INSERT INTO a VALUES (0); DELETE FROM b");
            }
        }
    }));
    let scratch = tempfile::tempdir().expect("a directory");
    let source = PostgresSource::new(config(&server)).expect("good");
    let sink = Arc::new(sink);
    let point = source.backup(Arc::clone(&sink) as _, &run_context(scratch.path())).await.expect("a backup");
    assert!(refused.load(Ordering::SeqCst));
    let snapshot = Arc::into_inner(sink).expect("the source let go of it").seal(point);
    let counts = String::from_utf8(snapshot.entries[&entry("busy/lifeboat.json")].content()).expect("text");
    assert_eq!(counts.matches("\"rows\":1000").count(), 2, "{counts}");
}

#[tokio::test]
async fn databases_that_are_not_in_the_list_are_told_and_doctor_sees_what_is_wrong() {
    let options = ServerOptions { passwords: true, ..ServerOptions::default() };
    let Some(server) = PostgresServer::start_with("databases_that_are_not_in_the_list", 15, &options) else { return };
    fill(&server);
    let scratch = tempfile::tempdir().expect("a directory");
    let recorder = Arc::new(Recorder::default());
    let context = RunContext { monitor: Arc::clone(&recorder) as _, ..run_context(scratch.path()) };
    let listed = PostgresConfig { databases: Some(vec!["small".to_owned()]), ..config(&server) };
    let source = PostgresSource::new(listed.clone()).expect("good");
    source.backup(Arc::new(FakeSink::new()), &context).await.expect("a backup");
    let notes = recorder.notes.lock().expect("no panic").clone();
    assert_eq!(notes, ["database \"Odd \\\"db\\\" ä\" is on the server but not in `databases`: not backed up"]);
    assert!(recorder.bytes.load(Ordering::Relaxed) > 500 && recorder.entries.load(Ordering::Relaxed) >= 4);

    server.sql("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false");
    source.backup(Arc::new(FakeSink::new()), &context).await.expect("a backup");
    let told = "database \"closed\" allows no connections (datallowconn is false): ";
    assert!(recorder.notes.lock().expect("no panic").contains(&format!("{told}not backed up")));
    let findings = source.doctor(&context).await.expect("looked");
    let warned: Vec<_> = findings.iter().filter(|finding| finding.verdict != Verdict::Good).collect();
    assert!(matches!(warned[..], [one] if one.what == format!("{told}no backup has it")), "{warned:?}");
    server.sql("postgres", "DROP DATABASE closed");
    let findings = source.doctor(&context).await.expect("looked");
    assert!(findings.iter().all(|finding| finding.verdict == Verdict::Good), "{findings:?}");
    let identity = source.identity(&context).await.expect("an identity");
    assert!(identity["postgres.system_identifier"].len() > 10);
    let wrong = PostgresConfig { url: server.url_of("app", "wrong"), ..listed };
    let findings = PostgresSource::new(wrong).expect("good").doctor(&context).await.expect("looked");
    assert!(findings.iter().any(|finding| finding.verdict == Verdict::Bad && finding.what.contains("password")));
}

#[tokio::test]
async fn passwords_come_from_files_and_the_socket_serves_too() {
    let options = ServerOptions { passwords: true, ..ServerOptions::default() };
    let Some(server) = PostgresServer::start_with("passwords_come_from_files", 15, &options) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str, text: &str| {
        let mut file = std::fs::File::create(dir.path().join(name)).expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
        dir.path().join(name)
    };
    let socket = server.path().display().to_string().replace('/', "%2F");
    let url = format!("postgres://postgres@{socket}:{}/", server.port());
    let none = PostgresConfig { url, ..config(&server) };
    assert!(fails(none.clone()).await.contains("password"));
    let password_file = Some(file("password", "postgres\n"));
    back_up(PostgresConfig { password_file, ..none.clone() }).await.expect("a backup");
    let passfile = Some(file("pgpass", "localhost:*:*:postgres:postgres\n"));
    back_up(PostgresConfig { passfile, ..none.clone() }).await.expect("a backup");
    let password = Some("postgres".to_owned().into());
    back_up(PostgresConfig { password, ..none }).await.expect("a backup");
}
