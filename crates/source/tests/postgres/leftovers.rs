//! Databases that a restore made and did not live to rename or remove.

use std::sync::Arc;

use lifeboat_source::postgres::{PostgresSource, PostgresTarget};
use lifeboat_source::{Source, Target, Verdict};
use lifeboat_testkit::context::{Recorder, run_context};
use lifeboat_testkit::postgres::PostgresServer;

use crate::fixture::{back_up, config};
use crate::restore::only;

#[tokio::test]
async fn what_a_killed_restore_left_is_named_and_only_what_is_marked_is_removed_while_no_other_runs() {
    let Some(server) = PostgresServer::start("what_a_killed_restore_left", 15) else { return };
    server.sql("postgres", "CREATE DATABASE small");
    server.sql("small", "CREATE TABLE t AS SELECT 1 AS a");
    let snapshot = back_up(config(&server)).await.expect("a backup");
    server.sql(
        "postgres",
        "CREATE DATABASE ours_lifeboat_0123456789ab; CREATE DATABASE theirs_lifeboat_0123456789ab; DROP DATABASE small;
         COMMENT ON DATABASE ours_lifeboat_0123456789ab IS 'lifeboat: restore of small under way'",
    );
    let scratch = tempfile::tempdir().expect("a directory");
    let recorder = Arc::new(Recorder::default());
    let mut ctx = run_context(scratch.path());
    ctx.monitor = Arc::clone(&recorder) as _;
    let source = PostgresSource::new(config(&server)).expect("good");
    let warned = async || -> Vec<String> {
        let found = source.doctor(&ctx).await.expect("looked");
        let warnings = found.into_iter().filter(|finding| finding.verdict == Verdict::Warning);
        warnings.map(|finding| format!("{}; {}", finding.what, finding.hint.unwrap_or_default())).collect()
    };
    let found = warned().await;
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("database \"ours_lifeboat_0123456789ab\" was left by a restore"), "{found:?}");
    assert!(found[0].contains("the next restore to this server removes it"), "{found:?}");
    assert!(found[1].contains("bears no mark of it; no backup takes it"), "{found:?}");
    let notes = recorder.notes.lock().expect("no panic").clone();
    assert!(notes.iter().any(|note| note.contains("\"theirs_lifeboat_0123456789ab\" is not backed up")), "{notes:?}");

    let target = PostgresTarget::new(config(&server)).expect("good");
    let options = only(&["small"]);
    let steps = target.inventory(&snapshot, &options).await.expect("looked at").steps;
    assert!(steps.iter().any(|step| step.starts_with("remove database \"ours_lifeboat_")), "{steps:?}");
    assert!(steps.iter().any(|step| step.starts_with("leave database \"theirs_lifeboat_")), "{steps:?}");

    // Another restore holds its lock in another database: what is marked may be its own.
    let mut login: tokio_postgres::Config = server.url().parse().expect("a url");
    let (other, connection) = login.dbname("template1").connect(tokio_postgres::NoTls).await.expect("connected");
    let connection = tokio::spawn(connection);
    other.batch_execute("SELECT pg_advisory_lock(1818846821, 1651466612)").await.expect("locked");
    assert_eq!(warned().await, [""; 0]);
    let error = target.apply(&snapshot, &options, &ctx).await.expect_err("another restore runs");
    assert_eq!(error.to_string(), "another restore to this server is running");
    let left =
        || server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE '%\\_lifeboat\\_%' ORDER BY 1");
    assert_eq!(left(), "ours_lifeboat_0123456789ab\ntheirs_lifeboat_0123456789ab");
    drop(other);
    connection.await.expect("no panic").expect("closed");
    lifeboat_testkit::eventually("the lock is gone", || {
        server.sql("postgres", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
    })
    .await;
    target.apply(&snapshot, &options, &ctx).await.expect("restored");
    assert_eq!(left(), "theirs_lifeboat_0123456789ab");
}
