//! Many tables, many indexes: built at the same time, and never waiting for each other in a circle.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lifeboat_source::postgres::PostgresSource;
use lifeboat_source::{RestoreOptions, Source};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::PostgresServer;
use lifeboat_testkit::snapshot::FakeSink;

use crate::fixture::{back_up, config, dump_text};
use crate::restore::{differences, restore};

/// How often it is tried: a deadlock comes now and then.
const ROUNDS: usize = 5;
/// Trees of partitions, two levels deep, and plain tables, all with keys, indexes and foreign keys
/// to one another.
const TREES: &str = "DO $$ BEGIN
  FOR t IN 1..4 LOOP
    EXECUTE format('CREATE TABLE p%s (id int NOT NULL, k int NOT NULL, a text, b int, PRIMARY KEY (id, k)) PARTITION BY RANGE (k)', t);
    FOR i IN 0..5 LOOP
      EXECUTE format('CREATE TABLE p%s_%s PARTITION OF p%s FOR VALUES FROM (%s) TO (%s) PARTITION BY HASH (id)', t, i, t, i * 10, i * 10 + 10);
      FOR j IN 0..1 LOOP
        EXECUTE format('CREATE TABLE p%s_%s_%s PARTITION OF p%s_%s FOR VALUES WITH (MODULUS 2, REMAINDER %s)', t, i, j, t, i, j);
      END LOOP;
    END LOOP;
    EXECUTE format('CREATE INDEX ON p%s (a)', t); EXECUTE format('CREATE UNIQUE INDEX ON p%s (k, b, id)', t);
    EXECUTE format('CREATE INDEX ON p%s (lower(a)) WHERE b > 5', t);
    EXECUTE format('INSERT INTO p%s SELECT i, i %% 60, md5(i::text), i FROM generate_series(1, 1200) i', t);
    EXECUTE format('CREATE TABLE f%s (id int PRIMARY KEY, x int UNIQUE, p int, pk int, g int, FOREIGN KEY (p, pk) REFERENCES p%s)', t, t);
    EXECUTE format('INSERT INTO f%s SELECT i, i, i, i %% 60, 1 + i %% 100 FROM generate_series(1, 1200) i', t);
    EXECUTE format('CREATE INDEX clustered_%s ON f%s (g)', t, t); EXECUTE format('ALTER TABLE f%s CLUSTER ON clustered_%s', t, t);
    EXECUTE format('CREATE UNIQUE INDEX replica_%s ON f%s (id, x)', t, t);
    EXECUTE format('ALTER TABLE f%s ALTER x SET NOT NULL, REPLICA IDENTITY USING INDEX replica_%s', t, t);
  END LOOP;
  FOR t IN 1..4 LOOP
    EXECUTE format('ALTER TABLE f%s ADD FOREIGN KEY (g) REFERENCES f%s (id)', t, 1 + t % 4);
    EXECUTE format('ALTER TABLE f%s ADD FOREIGN KEY (x) REFERENCES f%s (x)', t, 1 + (t + 1) % 4);
    EXECUTE format('ALTER TABLE p%s ADD FOREIGN KEY (id) REFERENCES f%s (id)', t, t);
  END LOOP;
END $$;
CREATE FUNCTION told() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a restore fires no event trigger'; END $$;
COMMENT ON INDEX clustered_1 IS 'an index'; COMMENT ON CONSTRAINT f1_g_fkey ON f1 IS 'a foreign key';
CREATE EVENT TRIGGER last ON ddl_command_end EXECUTE FUNCTION told();";

#[tokio::test]
async fn indexes_and_constraints_of_trees_of_partitions_are_built_at_the_same_time_again_and_again() {
    for major in [15, 18] {
        let Some(server) = PostgresServer::start("indexes_and_constraints_of_trees", major) else { continue };
        server.sql("postgres", "CREATE DATABASE trees");
        server.sql("trees", TREES);
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let before = dump_text(&server, "trees");
        let rename = [("trees".to_owned(), "again".to_owned())].into();
        let options = RestoreOptions { rename, jobs: 8, replace: true, ..RestoreOptions::default() };
        for round in 0..ROUNDS {
            if let Err(error) = restore(&server, &snapshot, &options).await {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                panic!("PostgreSQL {major}, round {round}: {error}: {cause:?}\n{}", server.log());
            }
            assert!(!server.log().contains("deadlock"), "{}", server.log());
        }
        assert_eq!(dump_text(&server, "again"), before, "PostgreSQL {major}");
    }
}

#[tokio::test]
async fn hundreds_of_tables_are_backed_up_and_restored_in_time() {
    let Some(server) = PostgresServer::start("hundreds_of_tables", 15) else { return };
    server.sql("postgres", "CREATE DATABASE wide");
    server.sql(
        "wide",
        "DO $$ BEGIN FOR i IN 1..400 LOOP EXECUTE format('CREATE TABLE t%s AS SELECT %s AS a', i, i); END LOOP; END $$",
    );
    let wide =
        lifeboat_source::postgres::PostgresConfig { databases: Some(vec!["wide".to_owned()]), ..config(&server) };
    let both = async {
        let snapshot = back_up(wide).await.expect("a backup");
        let rename = [("wide".to_owned(), "again".to_owned())].into();
        let options = RestoreOptions { rename, ..RestoreOptions::default() };
        restore(&server, &snapshot, &options).await.expect("restored");
        assert_eq!(differences(&server, &snapshot, &options).await, [""; 0]);
        snapshot
    };
    let snapshot = tokio::time::timeout(std::time::Duration::from_mins(2), both).await.expect("in time");
    let files = snapshot.entries.keys().filter(|path| path.to_string().starts_with("wide/"));
    assert_eq!(files.count(), 402, "and toc.dat and lifeboat.json");
    assert_eq!(dump_text(&server, "again"), dump_text(&server, "wide"));
}

#[tokio::test]
async fn every_table_is_read_in_a_task_that_another_core_can_take() {
    let Some(server) = PostgresServer::start("every_table_is_read_in_a_task", 15) else { return };
    server.sql("postgres", "CREATE DATABASE two");
    server.sql("two", "CREATE TABLE a AS SELECT 1 AS n; CREATE TABLE b AS SELECT 2 AS n");
    let tasks = Arc::new(Mutex::new(BTreeMap::new()));
    let sink = FakeSink::new().on_content(Box::new({
        let tasks = Arc::clone(&tasks);
        move |path, _| {
            tasks.lock().expect("no panic").insert(path.to_string(), tokio::task::try_id());
        }
    }));
    let scratch = tempfile::tempdir().expect("a directory");
    let source = PostgresSource::new(config(&server)).expect("good");
    source.backup(Arc::new(sink), &run_context(scratch.path())).await.expect("a backup");
    let mut tasks = tasks.lock().expect("no panic").clone();
    tasks.retain(|path, _| path.starts_with("two/") && path != "two/toc.dat" && path != "two/lifeboat.json");
    assert!(tasks.len() == 2 && tasks.values().all(Option::is_some), "{tasks:?}");
}
