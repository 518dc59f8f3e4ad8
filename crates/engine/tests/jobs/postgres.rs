//! The same jobs on a real PostgreSQL server.

use std::os::unix::fs::PermissionsExt;

use lifeboat_engine::restore::{Answer, Mode, To, restore};
use lifeboat_engine::{Host, JobError};
use lifeboat_model::config::{
    PostgresBackup, PostgresConfig, Role, RolePasswords, SecretUrl, SourceConfig, SourceKind,
};
use lifeboat_model::restore::PlanError;
use lifeboat_testkit::postgres::PostgresServer;

use crate::site::{Site, source};

/// A site whose only source is a server with one database, `events`.
async fn site(server: &PostgresServer) -> Site {
    let mut site = Site::new(&[]).await;
    let config = PostgresConfig {
        url: SecretUrl::new(server.url()),
        databases: None,
        password_file: None,
        passfile: None,
        password: None,
        backup: PostgresBackup::Dump { jobs: 2 },
        role_passwords: RolePasswords::Keep,
        tools_dir: Some(server.client_bin()),
    };
    let registry = SourceConfig {
        name: source("registry"),
        repository: "main".to_owned(),
        retention: None,
        schedule: None,
        kind: SourceKind::Postgres(config),
    };
    site.config.sources.insert(source("registry"), registry);
    server.sql("postgres", "CREATE DATABASE events");
    server.sql("events", "CREATE TABLE births (id int PRIMARY KEY, name text)");
    server.sql("events", "INSERT INTO births SELECT i, 'child ' || i FROM generate_series(1, 1000) i");
    site
}

fn births(server: &PostgresServer) -> String {
    server.sql("events", "SELECT count(*), md5(string_agg(id || name, ',' ORDER BY id)) FROM births")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_destroyed_and_comes_back_in_its_place() {
    let Some(server) = PostgresServer::start("engine_origin", 15) else { return };
    let site = site(&server).await;
    assert_eq!(site.labelled(Some("whole")).await.expect("a backup").exit_code(), 0);
    let before = births(&server);
    server.sql("events", "DELETE FROM births WHERE id > 10");
    server.sql("postgres", "CREATE DATABASE fresh");
    let second = site.backup().await;
    assert_eq!(second.exit_code(), 0, "{second:?}");
    assert!(second.backups[0].notes.iter().any(|note| note.ends_with("new database: fresh")), "{second:?}");
    let mut ask = Site::ask("registry@whole", To::Origin);
    let error = site.restore(&ask).await.expect_err("occupied");
    assert!(matches!(error, JobError::Plan(PlanError::Occupied { .. })), "{}", error.chain());
    ask.options.replace = true;
    let report = site.restore(&ask).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert!(report.verified.is_some_and(|verified| verified.compared > 0));
    assert_eq!(births(&server), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_excluded_is_told_as_left_out_and_one_that_is_dropped_as_gone() {
    let Some(server) = PostgresServer::start("engine_excluded", 15) else { return };
    let mut site = site(&server).await;
    server.sql("postgres", "CREATE DATABASE fresh");
    assert_eq!(site.backup().await.exit_code(), 0);
    let SourceKind::Postgres(config) = &mut site.config.sources.get_mut(&source("registry")).expect("it").kind else {
        panic!("postgres")
    };
    config.databases = Some(vec!["events".to_owned()]);
    assert_eq!(site.backup().await.backups[0].notes, [""; 0]);
    let SourceKind::Postgres(config) = &mut site.config.sources.get_mut(&source("registry")).expect("it").kind else {
        panic!("postgres")
    };
    config.databases = None;
    assert_eq!(site.backup().await.exit_code(), 0);
    server.sql("postgres", "DROP DATABASE fresh");
    let notes = site.backup().await.backups[0].notes.clone();
    assert!(notes.len() == 1 && notes[0].ends_with("no longer has the database fresh"), "{notes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_server_is_known_by_its_identifier_whatever_the_url() {
    let Some(server) = PostgresServer::start("engine_own", 15) else { return };
    let mut site = site(&server).await;
    assert_eq!(site.backup().await.exit_code(), 0);
    let before = births(&server);
    site.config.role = Role::Backup;
    // Another spelling of the same server.
    let url = server.url().replace("127.0.0.1", "localhost");
    let mut ask = Site::ask("registry", To::Server(SecretUrl::new(url)));
    ask.options.replace = true;
    let error = site.restore(&ask).await.expect_err("the own stack");
    assert!(matches!(error, JobError::Plan(PlanError::OwnStack { .. })), "{}", error.chain());
    assert_eq!(births(&server), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_on_another_server_may_not_write_the_history_of_its_origin() {
    let Some(server) = PostgresServer::start("engine_origin_of_clone", 15) else { return };
    let Some(scratch) = PostgresServer::start("engine_clone", 15) else { return };
    let mut site = site(&server).await;
    assert_eq!(site.backup().await.exit_code(), 0);
    let ask = Site::ask("registry", To::Server(SecretUrl::new(scratch.url())));
    let report = site.restore(&ask).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(report.plan.clone, "{report:?}");
    assert_eq!(births(&scratch), births(&server));
    assert_eq!(site.backup().await.exit_code(), 0, "the origin goes on");
    let SourceKind::Postgres(config) = &mut site.config.sources.get_mut(&source("registry")).expect("it").kind else {
        panic!("postgres")
    };
    config.url = SecretUrl::new(scratch.url());
    let report = site.backup().await;
    assert!(report.backups[0].error.as_deref().is_some_and(|error| error.contains("it is a clone")), "{report:?}");
    assert_eq!(site.objects("roots").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_goes_to_a_directory_as_plain_files() {
    let Some(server) = PostgresServer::start("engine_dir", 15) else { return };
    let site = site(&server).await;
    assert_eq!(site.backup().await.exit_code(), 0);
    let to = site.dir.path().join("dump");
    let host: Host<'_> = site.host();
    let ask = Site::ask("registry", To::Dir(to.clone()));
    restore(&host, &ask, Mode::Run(&|_| Answer::Unasked)).await.unwrap_or_else(|error| panic!("{}", error.chain()));
    assert!(to.join("globals.sql").exists() && to.join("events/toc.dat").exists());
    // The server's programs run as another user than the tests.
    for path in [site.dir.path(), &to, &to.join("events")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    }
    std::fs::set_permissions(to.join("events/toc.dat"), std::fs::Permissions::from_mode(0o644)).expect("mode");
    let toc = server.tool_output("pg_restore", &["--list", &to.join("events").display().to_string()]);
    assert!(toc.contains("TABLE DATA public births"), "{toc}");
}
