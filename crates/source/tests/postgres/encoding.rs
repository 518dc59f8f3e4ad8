//! Databases in other encodings than UTF-8, and in none.

use lifeboat_source::RestoreOptions;
use lifeboat_testkit::postgres::PostgresServer;

use crate::failure::story;
use crate::fixture::{back_up, config, versions};
use crate::restore::{differences, only, replacing, restore};

/// What the texts of the databases are, byte by byte.
const BYTES: &str = "SELECT encode(string_agg(convert_to(t, getdatabaseencoding()), ' '), 'hex') FROM
    (SELECT t FROM t UNION ALL SELECT obj_description('t'::regclass, 'pg_class') UNION ALL SELECT said()) x (t)";

fn make(server: &PostgresServer, database: &str, encoding: &str, text: &str) {
    server.sql(
        "postgres",
        &format!("CREATE DATABASE {database} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    );
    let body = format!(
        "CREATE TABLE t (t text);
         DO $do$ BEGIN
           EXECUTE E'INSERT INTO t VALUES (''{text}''), (''plain'')'; EXECUTE E'COMMENT ON TABLE t IS ''{text}''';
           EXECUTE E'CREATE FUNCTION said() RETURNS text LANGUAGE sql AS ''SELECT ''''{text}''''::text''';
         END $do$"
    );
    server.sql(database, &body);
}

#[tokio::test]
async fn bytes_of_no_encoding_and_texts_of_others_come_back_as_they_were() {
    for server in versions("bytes_of_no_encoding") {
        let all = [
            ("bytes", "SQL_ASCII", r"caf\xe9"),
            ("latin", "LATIN1", r"caf\xe9"),
            ("kanji", "EUC_JP", r"\xc6\xfc\xcb\xdc"),
        ];
        for (database, encoding, text) in all {
            make(&server, database, encoding, text);
        }
        let before = all.map(|(database, ..)| server.sql(database, BYTES));
        assert!(before[0].starts_with("636166e9"), "{before:?}");
        let snapshot = back_up(config(&server)).await.expect("a backup");
        assert_eq!(differences(&server, &snapshot, &RestoreOptions::default()).await, [""; 0]);
        server.sql("bytes", r"UPDATE t SET t = E'caf\xe8' WHERE t <> 'plain'; DROP FUNCTION said");
        let found = differences(&server, &snapshot, &RestoreOptions::default()).await.join("\n");
        assert!(
            found.contains("public.t: some of the 2 rows differ") && found.contains("said() is not there"),
            "{found}"
        );
        assert_eq!(restore(&server, &snapshot, &replacing()).await.expect("restored").problems, [""; 0]);
        let version = server.major();
        assert_eq!(all.map(|(database, ..)| server.sql(database, BYTES)), before, "PostgreSQL {version}");
        assert_eq!(differences(&server, &snapshot, &RestoreOptions::default()).await, [""; 0], "PostgreSQL {version}");

        // A part whose definition we cannot read is refused in words, and nothing is lost.
        let options = RestoreOptions { replace: true, ..only(&["bytes/t"]) };
        let error = restore(&server, &snapshot, &options).await.expect_err("the comment");
        assert!(error.to_string().contains("holds what is no UTF-8, in database \"bytes\""), "{error}");
        assert_eq!(server.sql("bytes", BYTES), before[0]);
    }
}

#[tokio::test]
async fn a_name_that_is_no_utf_8_names_its_database() {
    let Some(server) = PostgresServer::start("a_name_that_is_no_utf_8", 15) else { return };
    make(&server, "bytes", "SQL_ASCII", "x");
    server.sql("bytes", r#"DO $do$ BEGIN EXECUTE E'CREATE TABLE "\xe9" (a int)'; END $do$"#);
    let error = back_up(config(&server)).await.expect_err("the name");
    let text = story(&error);
    assert!(text.contains("listing the tables in database \"bytes\" failed") && text.contains("0xe9"), "{text}");
    assert!(error.hint().is_some_and(|hint| hint.contains("rename what bears it")), "{error:?}");
}
