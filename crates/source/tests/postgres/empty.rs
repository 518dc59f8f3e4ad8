//! What counts as something in the way of a database without tables.

use lifeboat_source::postgres::PostgresTarget;
use lifeboat_source::{RestoreOptions, Target};

use crate::fixture::{back_up, config, extensions, versions};
use crate::restore::{only, restore};

#[tokio::test]
async fn a_database_without_tables_that_holds_something_else_is_not_empty() {
    for server in versions("a_database_without_tables") {
        server.sql("postgres", "CREATE DATABASE events");
        server.sql("events", "CREATE TABLE t (a int); INSERT INTO t VALUES (7)");
        let (snapshot, options) = (back_up(config(&server)).await.expect("a backup"), only(&["events"]));
        server
            .sql("template1", "CREATE SCHEMA given; CREATE FUNCTION given.f() RETURNS int LANGUAGE sql AS 'SELECT 1'");
        let target = PostgresTarget::new(config(&server)).expect("good");
        let again = |statement: &str| {
            server.sql("postgres", "DROP DATABASE events WITH (FORCE)");
            server.sql("postgres", "CREATE DATABASE events");
            server.sql("events", statement);
        };
        let extension =
            extensions(&server).first().map(|name| (format!("CREATE EXTENSION {name}"), format!("extension {name}")));
        let made = [
            ("CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f(integer)"),
            ("CREATE SCHEMA mine", "schema mine"),
            ("CREATE TYPE mood AS ENUM ('sad')", "type public.mood"),
            ("CREATE FOREIGN DATA WRAPPER far", "foreign-data wrapper far"),
            ("CREATE PUBLICATION all_of_it FOR ALL TABLES", "publication all_of_it"),
        ];
        let made = made.map(|(statement, named)| (statement.to_owned(), named.to_owned()));
        for (statement, named) in made.into_iter().chain(extension) {
            again(&statement);
            let seen = target.inventory(&snapshot, &options).await.expect("looked at");
            assert_eq!(seen.occupied, [format!("events: {named}")], "PostgreSQL {}", server.major());
            let error = restore(&server, &snapshot, &options).await.expect_err("not empty");
            assert!(error.to_string().contains(&format!("1 thing in the way, such as events: {named}")), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("--replace")), "{error:?}");
        }
        let replacing = RestoreOptions { replace: true, ..options.clone() };
        let plan = target.inventory(&snapshot, &replacing).await.expect("looked at").steps.join("\n");
        assert!(plan.contains("end all connections to the old one, then replace and drop it"), "{plan}");
        // What template1 gave is nobody's work.
        again("SELECT given.f()");
        restore(&server, &snapshot, &options).await.expect("restored");
        assert_eq!(server.sql("events", "SELECT a FROM t"), "7");
    }
}
