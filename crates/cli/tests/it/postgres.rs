//! What bad things get where the source is a PostgreSQL server, and what a person types to bring
//! parts of it back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lifeboat_testkit::postgres::PostgresServer;

use crate::bad::Small;
use crate::harness::{Caller, Outcome, write};

/// A server with the database `events`, and a repository.
struct World {
    dir: tempfile::TempDir,
    caller: Caller,
    server: PostgresServer,
}

impl World {
    fn new(test: &str) -> Option<Self> {
        let server = PostgresServer::start(test, 15)?;
        server.sql("postgres", "CREATE ROLE weak LOGIN; CREATE DATABASE events");
        server.sql(
            "events",
            "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO weak; CREATE TABLE app.births (id int PRIMARY KEY, line text);
             INSERT INTO app.births SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 20000) i;
             CREATE VIEW app.named AS SELECT id FROM app.births",
        );
        let dir = tempfile::tempdir().unwrap();
        for below in ["keys", "store", "state", "tools"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        let world = Self { caller: Caller::new(&dir.path().join("lifeboat.yaml")), dir, server };
        world.configure("postgres", "");
        world.run(&["init"]).expect(0);
        Some(world)
    }

    fn configure(&self, role: &str, more: &str) {
        let (at, port) = (self.dir.path().display(), self.server.port());
        let yaml = format!(
            "stack: bad\nrole: both\nstateDir: {at}/state\nrepositories:\n  main:\n    url: file://{at}/store\n    \
             writerKeyFile: keys/writer.key\n    maintainerKeyFile: keys/maintainer.key\n    identityFile: keys/identity.key\n    \
             retentionPolicy: {{ keepLast: 1 }}\nsources:\n  registry: {{ kind: postgres, \
             url: 'postgres://{role}@127.0.0.1:{port}/events'{more} }}\n"
        );
        write(&self.dir.path().join("lifeboat.yaml"), yaml.as_bytes());
    }

    fn run(&self, args: &[&str]) -> Outcome {
        self.caller.run(args)
    }

    /// Fails with 1, names the cause with a hint, and leaves no snapshot.
    #[track_caller]
    fn no_snapshot(&self, done: Outcome, cause: &str, hint: &str) {
        let told = done.expect(1).err;
        let hinted = told.split_once("hint: ").unwrap_or_else(|| panic!("no hint: {told}")).1;
        assert!(told.contains(cause) && hinted.contains(hint), "{told}");
        let listing = self.run(&["--json", "snapshots"]).expect(0).json();
        assert_eq!(listing["snapshots"].as_array().unwrap().len(), 0, "{listing}");
    }

    fn births(&self) -> String {
        self.server.sql("events", "SELECT count(*), md5(string_agg(id || line, ',' ORDER BY id)) FROM app.births")
    }
}

#[test]
fn a_pg_dump_that_is_killed_leaves_no_snapshot() {
    let Some(world) = World::new("a_pg_dump_that_is_killed") else { return };
    let tools = world.dir.path().join("tools");
    for tool in ["pg_restore", "pg_dumpall"] {
        std::os::unix::fs::symlink(world.server.bin().join(tool), tools.join(tool)).unwrap();
    }
    let real = world.server.bin().join("pg_dump");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && exec {0} --version\n{0} \"$@\" | head -c 1000\nkill -9 $$\n",
        real.display()
    );
    write(&tools.join("pg_dump"), script.as_bytes());
    fs::set_permissions(tools.join("pg_dump"), fs::Permissions::from_mode(0o755)).unwrap();
    world.configure("postgres", &format!(", toolsDir: {}", tools.display()));
    let done = world.run(&["backup"]);
    world.no_snapshot(done, "signal: 9", "pg_dump was ended from outside");
    fs::remove_file(tools.join("pg_dump")).unwrap();
    let done = world.run(&["backup"]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.contains(&format!("toolsDir {} has no pg_dump", tools.display())), "{}", done.err);
}

#[test]
fn a_role_without_rights_is_told_what_it_lacks() {
    let Some(world) = World::new("a_role_without_rights_is_told") else { return };
    world.configure("weak", "");
    let done = world.run(&["backup"]);
    world.no_snapshot(done, "permission denied for table births", "GRANT pg_read_all_data");
    let looked = world.run(&["doctor"]).expect(1).out;
    assert!(looked.contains("may not read table app.births") && looked.contains("GRANT pg_read_all_data"), "{looked}");
    world.server.sql("postgres", "GRANT pg_read_all_data TO weak");
    world.run(&["doctor"]).expect(0);
    world.run(&["backup"]).expect(0);
}

#[test]
fn a_connection_that_is_ended_in_the_middle_of_a_table_leaves_no_snapshot() {
    let Some(world) = World::new("a_connection_that_is_ended") else { return };
    let told = world.dir.path().join("told");
    let mut child = world.caller.spawn_telling(&["backup"], &told);
    world.server.sql(
        "postgres",
        "DO $$ BEGIN FOR i IN 1..20000 LOOP PERFORM pg_stat_clear_snapshot();
           IF (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name = 'lifeboat' AND state = 'active' AND query LIKE 'COPY app.births % TO STDOUT') > 0 THEN RETURN; END IF;
           PERFORM pg_sleep(0.002); END LOOP; RAISE EXCEPTION 'it never read the table'; END $$",
    );
    let code = child.wait().unwrap().code().unwrap_or(-1);
    let err = fs::read_to_string(told).unwrap();
    let none = std::time::Duration::ZERO;
    let done = Outcome { code, out: String::new(), err, peak_kib: 0, took: none };
    world.no_snapshot(done, "reading table app.births of database \"events\" failed", "pg_terminate_backend");
    world.run(&["backup"]).expect(0);
}

#[test]
fn a_damaged_snapshot_leaves_the_live_database_as_it_was() {
    let Some(world) = World::new("a_damaged_snapshot_leaves") else { return };
    world.run(&["backup"]).expect(0);
    let mut dirs = vec![world.dir.path().join("store/data")];
    let mut packs = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.path().is_dir() { dirs.push(entry.path()) } else { packs.push(entry.path()) }
        }
    }
    let pack = packs.into_iter().max_by_key(|pack| fs::metadata(pack).unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(&pack, &bytes);
    world.server.sql("events", "UPDATE app.births SET line = 'newer' WHERE id < 10");
    let live = world.births();
    for part in [&[][..], &["--only", "events"], &["--only", "events/app"]] {
        let args = [&["restore", "registry", "--to", "origin", "--replace", "--yes"][..], part].concat();
        let refused = world.run(&args).expect(1);
        assert!(refused.err.contains("hint: nothing was replaced"), "{}", refused.err);
        assert_eq!(world.births(), live);
    }
}

#[test]
fn a_restore_without_room_anywhere_changes_nothing_and_one_without_room_for_its_state_goes_on() {
    let Some(world) = World::new("a_full_scratch_disk") else { return };
    world.run(&["backup"]).expect(0);
    let live = world.births();
    let state = world.dir.path().join("state");
    let Some(_small) = Small::mount("a_full_scratch_disk", &state, "1m") else { return };
    let mut filler = fs::File::create(state.join("filler")).unwrap();
    std::io::copy(&mut std::io::repeat(1), &mut filler).unwrap_err();
    let restore = ["restore", "registry", "--to", "origin", "--rename", "events=copy", "--yes"];
    let nowhere = world.caller.env("TMPDIR", state.to_str().unwrap());
    let refused = nowhere.run(&restore).expect(1);
    assert!(refused.err.contains("No space left") && refused.err.contains("/state"), "{}", refused.err);
    assert_eq!(world.births(), live);
    let copies = "SELECT count(*) FROM pg_database WHERE datname LIKE 'copy%'";
    assert_eq!(world.server.sql("postgres", copies), "0");
    // With room for temporary files it goes on.
    let done = world.run(&restore).expect(0);
    assert!(done.err.contains("cannot be written") && done.err.contains("remembers nothing"), "{}", done.err);
    assert_eq!(world.server.sql("postgres", copies), "1");
}

#[test]
fn parts_are_typed_as_a_person_would_and_a_dry_run_says_what_the_run_would() {
    let Some(world) = World::new("parts_are_typed") else { return };
    world.run(&["backup"]).expect(0);
    let restore = |more: &[&str]| world.run(&[&["restore", "registry", "--to", "origin", "--yes"][..], more].concat());
    for (more, code, told) in [
        (&["--only", "nosuch*"][..], 2, "--only \"nosuch*\" names no database"),
        (&["--only", "events/nosuch"], 2, "\"events/nosuch\": the snapshot has no such schema or table"),
        (&["--rename", "events=c,postgres=p2"], 2, "more than one OLD=NEW"),
        (&["--only", "postgres", "--rename", "events=c"], 2, "--rename events=c has nothing to rename"),
        (&["--only", "events/births", "--replace", "--dry-run"], 1, "view app.named depends on table app.births"),
        (&["--only", "events/births", "--replace"], 1, "view app.named depends on table app.births"),
    ] {
        let refused = restore(more).expect(code);
        assert!(refused.err.contains(told) && refused.err.contains("hint: "), "{more:?}: {}", refused.err);
    }
    let live = world.births();
    restore(&["--rename", "events=copy"]).expect(0);
    world.server.sql("events", "UPDATE app.births SET line = 'newer'");
    restore(&["--only", "events/app", "--replace"]).expect(0);
    assert_eq!(world.births(), live);
    world.server.sql("events", "DELETE FROM app.births");
    restore(&["--only", "events", "--replace"]).expect(0);
    assert_eq!(world.births(), live);
    let dir = world.dir.path().join("out").display().to_string();
    let refused = world.run(&["restore", "registry", "--to", &dir, "--rename", "events=x"]).expect(2);
    assert!(refused.err.contains("--rename events=x renames a database of a server"), "{}", refused.err);
}

#[test]
fn a_plan_names_the_roles_that_a_replacement_alters_and_a_restore_those_that_it_keeps() {
    let Some(world) = World::new("a_plan_names_the_roles") else { return };
    world.run(&["backup"]).expect(0);
    world.server.sql("postgres", "ALTER ROLE weak NOLOGIN CREATEDB");
    let restore = |more: &[&str]| world.run(&[&["restore", "registry", "--to", "origin"][..], more].concat());
    let alters = "  alters 1:\n    role \"weak\": NOCREATEDB, LOGIN\n";
    let dry = restore(&["--replace", "--dry-run"]).expect(0);
    assert!(dry.out.contains(alters) && dry.err.contains("1 thing of what exists will be altered"), "{dry:?}");
    let asked = restore(&["--replace"]).expect(2);
    assert!(asked.err.contains("role \"weak\": NOCREATEDB, LOGIN"), "{}", asked.err);
    world.server.sql("postgres", "DROP DATABASE events");
    let kept = restore(&["--yes"]).expect(3);
    assert!(
        kept.err.contains("role \"weak\" is kept as it is; in the snapshot it has NOCREATEDB, LOGIN"),
        "{}",
        kept.err
    );
    restore(&["--replace", "--yes"]).expect(0);
    assert_eq!(
        world.server.sql("postgres", "SELECT rolcanlogin, rolcreatedb FROM pg_roles WHERE rolname = 'weak'"),
        "t|f"
    );
    let same = world.run(&["verify", "registry"]).expect(0).out;
    assert!(
        same.contains("rows of 1 table, 0 large objects, ") && same.contains(" objects of the schema, 2 roles"),
        "{same}"
    );
    world.server.sql("events", "DROP VIEW app.named");
    let differs = world.run(&["verify", "registry"]).expect(1);
    assert!(differs.err.contains("database \"events\": view app.named is not there"), "{}", differs.err);
}

#[test]
fn the_tools_of_the_source_serve_a_restore_to_any_server() {
    let Some(world) = World::new("the_tools_of_the_source_serve") else { return };
    world.run(&["backup"]).expect(0);
    world.configure("postgres", &format!(", toolsDir: {}", world.dir.path().join("tools").display()));
    let url = format!("postgres://postgres@127.0.0.1:{}/", world.server.port());
    let refused = world.run(&["restore", "registry", "--to", &url, "--rename", "events=copy", "--yes"]).expect(1);
    assert!(refused.err.contains("has no pg_dump and pg_restore that run"), "{}", refused.err);
    assert_eq!(world.server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname LIKE 'copy%'"), "0");
}
