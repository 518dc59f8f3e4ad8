//! A server with a stack's worth of odd things in it, and what the tests ask of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lifeboat_model::EntryPath;
use lifeboat_source::postgres::{PostgresConfig, PostgresSource};
use lifeboat_source::{Source, SourceError};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::PostgresServer;
use lifeboat_testkit::snapshot::{FakeSink, FakeSnapshot};

/// The database that holds everything of `fill.sql`.
pub(crate) const ODD: &str = "Odd \"db\" ä";
const FILL: &str = include_str!("fill.sql");

/// Which extensions this server can have.
pub(crate) fn extensions(server: &PostgresServer) -> Vec<&'static str> {
    let available = server.sql("postgres", "SELECT name FROM pg_available_extensions");
    ["pgcrypto", "hstore", "pg_trgm"].into_iter().filter(|name| available.lines().any(|line| line == *name)).collect()
}

/// Roles, tablespace settings and two databases.
pub(crate) fn fill(server: &PostgresServer) {
    server.sql(
        "postgres",
        r#"SET password_encryption = 'scram-sha-256';
           CREATE ROLE app LOGIN PASSWORD 'app secret' CONNECTION LIMIT 7 VALID UNTIL '2040-01-01';
           CREATE ROLE reader NOLOGIN; CREATE ROLE "Odd ""role"" ä; --" LOGIN PASSWORD 'x''y' CREATEDB;
           GRANT reader TO app WITH ADMIN OPTION;
           ALTER ROLE app SET work_mem = '5MB'; COMMENT ON ROLE reader IS 'reads; only';
           CREATE DATABASE "Odd ""db"" ä" OWNER app; CREATE DATABASE small;
           COMMENT ON DATABASE small IS 'DATABASE small; is small';
           ALTER DATABASE small SET work_mem = '7MB'; ALTER ROLE app IN DATABASE small SET search_path = 'a', 'b''c';
           REVOKE CONNECT ON DATABASE small FROM PUBLIC; GRANT CONNECT, CREATE ON DATABASE small TO app;
           ALTER DATABASE small CONNECTION LIMIT 11;"#,
    );
    for extension in extensions(server) {
        server.sql(ODD, &format!("CREATE EXTENSION {extension}"));
    }
    server.sql(ODD, FILL);
    server.sql("small", "CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 100) i");
}

pub(crate) fn config(server: &PostgresServer) -> PostgresConfig {
    PostgresConfig { url: server.url(), tool_dirs: vec![server.client_bin()], ..PostgresConfig::default() }
}

/// Backs up into memory.
pub(crate) async fn back_up(config: PostgresConfig) -> Result<FakeSnapshot, SourceError> {
    let scratch = tempfile::tempdir().expect("a directory");
    let sink = Arc::new(FakeSink::new());
    let point = PostgresSource::new(config)?.backup(Arc::clone(&sink) as _, &run_context(scratch.path())).await?;
    assert_eq!(std::fs::read_dir(scratch.path()).expect("readable").count(), 0, "nothing is left on the disk");
    Ok(Arc::into_inner(sink).expect("the source let go of it").seal(point))
}

/// What a database is made of, as `pg_dump` writes it, rows sorted.
pub(crate) fn dump_text(server: &PostgresServer, database: &str) -> String {
    let conninfo = format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"));
    let dump = server.tool_output("pg_dump", &["--inserts", "--no-sync", "-d", &conninfo]);
    let mut lines: Vec<&str> = dump.lines().filter(|line| !line.starts_with("\\restrict")).collect();
    lines.retain(|line| !line.starts_with("\\unrestrict") && !line.starts_with("-- Dumped"));
    lines.sort_unstable();
    lines.join("\n")
}

/// Writes the entries below a directory as files.
pub(crate) fn write_files(snapshot: &FakeSnapshot, dir: &Path) {
    for (path, entry) in &snapshot.entries {
        let file = dir.join(path.to_string());
        if entry.meta.kind == lifeboat_model::EntryKind::Dir {
            std::fs::create_dir_all(&file).expect("a directory");
        } else {
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            let mut out = std::fs::File::create(&file).expect("a file");
            std::io::Write::write_all(&mut out, &entry.content()).expect("written");
        }
    }
}

/// The files of a directory with their content.
pub(crate) fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let list = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").path());
    let name = |path: &PathBuf| path.file_name().expect("a name").to_string_lossy().into_owned();
    list.map(|path| (name(&path), std::fs::read(&path).expect("readable"))).collect()
}

pub(crate) fn entry(path: &str) -> EntryPath {
    EntryPath::new(path).expect("a good path")
}

/// Every version whose server is here, with the first one that must be.
pub(crate) fn versions(test: &str) -> Vec<PostgresServer> {
    [13, 14, 15, 16, 17, 18].into_iter().filter_map(|major| PostgresServer::start(test, major)).collect()
}
