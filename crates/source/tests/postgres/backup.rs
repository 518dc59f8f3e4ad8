//! What a backup of a real server holds.

use lifeboat_source::RestoreOptions;
use lifeboat_source::postgres::toc::Toc;
use lifeboat_testkit::postgres::PostgresServer;

use crate::fixture::{ODD, back_up, config, dump_text, entry, files, fill, versions, write_files};
use crate::restore::{differences, restore, roles};

#[tokio::test]
async fn entries_are_those_of_pg_dump_byte_for_byte_and_plain_pg_restore_takes_them() {
    for server in versions("entries_are_those_of_pg_dump") {
        fill(&server);
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        write_files(&snapshot, dir.path());
        let theirs = server.path().join("theirs");
        let conninfo = format!("dbname='{ODD}'");
        let theirs_text = theirs.display().to_string();
        let args = ["-Fd", "-Z0", "-j2", "--no-sync", "-f", &theirs_text, "-d", &conninfo];
        let _ = server.tool_output("pg_dump", &args);

        let (mut ours, mut theirs) = (files(&dir.path().join(ODD)), files(&theirs));
        ours.remove("lifeboat.json").expect("our counts");
        let tables = (ours.remove("toc.dat").expect("a toc"), theirs.remove("toc.dat").expect("a toc"));
        let (mut a, b) = (Toc::parse(&tables.0).expect("good"), Toc::parse(&tables.1).expect("good"));
        a.created = b.created;
        assert_eq!(a, b, "PostgreSQL {}", server.major());
        assert_eq!(a.to_directory(), tables.1, "PostgreSQL {}", server.major());
        let names = |files: &std::collections::BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "PostgreSQL {}", server.major());
        for (name, content) in &ours {
            assert!(*content == theirs[name], "{name} differs on PostgreSQL {}", server.major());
        }
        restore_with_plain_tools(&server, dir.path());
    }
}

fn restore_with_plain_tools(server: &PostgresServer, dir: &std::path::Path) {
    let want = dump_text(server, ODD);
    server.sql("postgres", "DROP DATABASE \"Odd \"\"db\"\" ä\"");
    let copy = server.path().join("copy");
    std::fs::create_dir(&copy).expect("a directory");
    std::fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    for (name, content) in files(&dir.join(ODD)) {
        let mut file = std::fs::File::create(copy.join(name)).expect("a file");
        std::io::Write::write_all(&mut file, &content).expect("written");
    }
    let copy = copy.display().to_string();
    if server.bin().join("pg_restore").exists() {
        let args = ["--create", "--exit-on-error", "-j2", "-d", "dbname=postgres", &copy];
        let _ = server.tool_output("pg_restore", &args);
    } else {
        // Newer tools make databases with options that this server does not know.
        server.sql("postgres", "CREATE DATABASE \"Odd \"\"db\"\" ä\" OWNER app TEMPLATE template0");
        let _ = server.tool_output("pg_restore", &["--exit-on-error", "-j2", "-d", &format!("dbname='{ODD}'"), &copy]);
    }
    assert_eq!(dump_text(server, ODD), want, "PostgreSQL {}", server.major());
}

#[tokio::test]
async fn the_recovery_point_and_the_counts_tell_what_was_read() {
    let Some(server) = PostgresServer::start("the_recovery_point", 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let point = snapshot.point.as_ref().expect("a point");
    assert_eq!(point.facts["postgres.databases"], r#"["Odd \"db\" ä","postgres","small"]"#);
    assert_eq!(
        point.facts["postgres.system_identifier"],
        server.sql("postgres", "SELECT system_identifier FROM pg_control_system()")
    );
    assert!(point.facts["postgres.version"].starts_with("15."), "{:?}", point.facts);
    let counts: serde_json::Value =
        serde_json::from_slice(&snapshot.entries[&entry("small/lifeboat.json")].content()).expect("json");
    let tables = counts["tables"].as_object().expect("tables");
    assert_eq!(tables.len(), 1);
    let (file, table) = tables.iter().next().expect("one");
    assert_eq!((table["table"].as_str(), table["rows"].as_u64()), (Some("public.t"), Some(100)));
    assert!(snapshot.entries.contains_key(&entry(&format!("small/{file}"))));
}

#[tokio::test]
async fn psql_takes_the_roles_on_a_fresh_cluster_without_an_error_and_again() {
    for major in [15, 17, 18] {
        let test = "psql_takes_the_roles";
        let Some(server) = PostgresServer::start(test, major) else { continue };
        fill(&server);
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let other = PostgresServer::start(test, major).expect("the same");
        let script = String::from_utf8(snapshot.entries[&entry("globals.sql")].content()).expect("text");
        for _ in 0..2 {
            // Stops at the first error.
            other.sql("postgres", &script);
            assert_eq!(roles(&other), roles(&server), "PostgreSQL {major}");
        }
    }
}

/// An extension may keep tables of which only what the person added belongs to a dump.
#[tokio::test]
async fn of_an_extensions_own_tables_only_the_rows_that_it_lets_go_are_kept() {
    let Some(server) = PostgresServer::start("of_an_extensions_own_tables", 18) else { return };
    let folder = server.path().join("share/extension");
    std::fs::create_dir_all(&folder).expect("ours");
    for path in [server.path(), &server.path().join("share"), &folder] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("ours");
    }
    for (name, text) in [
        ("settings.control", "default_version = '1.0'\nrelocatable = false\nschema = public\n"),
        (
            "settings--1.0.sql",
            "CREATE TABLE setting (name text, standard bool); INSERT INTO setting VALUES ('given', true);\n\
             SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE NOT standard');\n\
             CREATE TABLE more (name text); SELECT pg_catalog.pg_extension_config_dump('more', '');\n\
             CREATE TABLE inside (name text); INSERT INTO inside VALUES ('given');\n",
        ),
    ] {
        let mut file = std::fs::File::create(folder.join(name)).expect("a file");
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
    }
    let path = server.path().join("share").display().to_string();
    server.sql("postgres", &format!("ALTER SYSTEM SET extension_control_path = '{path}:$system'"));
    server.sql("postgres", "SELECT pg_reload_conf(); CREATE DATABASE events");
    server.sql("events", "CREATE EXTENSION settings; INSERT INTO setting VALUES ('mine', false), ('also mine', false)");
    server.sql("events", "INSERT INTO more VALUES ('mine'); INSERT INTO inside VALUES ('not kept')");
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let rename = [("events".to_owned(), "again".to_owned())].into();
    let options = RestoreOptions { rename, ..RestoreOptions::default() };
    assert_eq!(restore(&server, &snapshot, &options).await.expect("restored").problems, [""; 0]);
    let all = "SELECT string_agg(name, ', ' ORDER BY name) FROM ";
    let rows = |table: &str| server.sql("again", &format!("{all}{table}"));
    assert_eq!(
        (rows("setting").as_str(), rows("more").as_str(), rows("inside").as_str()),
        ("also mine, given, mine", "mine", "given")
    );
    assert_eq!(differences(&server, &snapshot, &options).await, [""; 0]);
}
