//! The whole life of a repository, by three Unix users whose keys are disjoint, in bounded memory:
//! backup, kill -9, backup, forget, prune; then configuration and all local state are lost, and
//! `recover` brings everything back from the store and one key.
//!
//! Small in `make test`; 2 GB of database and 300,000 files in `make test-long`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifeboat_testkit::bench_data::Numbers;
use lifeboat_testkit::postgres::PostgresServer;

use crate::harness::{Caller, Outcome, describe, is_root, long, write};

const WRITER: u32 = 61_001;
const MAINTAINER: u32 = 61_002;
const IDENTITY: u32 = 61_003;
/// The group that shares the store's directory.
const STORE: u32 = 61_000;
/// What one process may have at most: 256 MiB.
const PEAK_KIB_MAX: u64 = 256 * 1024;

struct Scene {
    dir: tempfile::TempDir,
    server: PostgresServer,
    highest_kib: u64,
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn caller(&self, uid: u32, home: &str) -> Caller {
        Caller {
            uid: Some(uid),
            group: Some(STORE),
            config: Some(self.path(home).join("lifeboat.yaml")),
            dir: None,
            env: vec![("HOME".to_owned(), self.path(home).display().to_string())],
        }
    }

    /// Runs a command and remembers how much memory it took.
    #[track_caller]
    fn run(&mut self, caller: &Caller, args: &[&str], code: i32) -> Outcome {
        let outcome = caller.run(args).expect(code);
        println!("{args:?}: {:.1} s, {} MiB", outcome.took.as_secs_f64(), outcome.peak_kib / 1024);
        self.highest_kib = self.highest_kib.max(outcome.peak_kib);
        outcome
    }

    /// A home that only its user can enter.
    fn home(&self, name: &str, uid: u32, yaml: &str) {
        let home = self.path(name);
        fs::create_dir_all(home.join("keys")).unwrap();
        write(&home.join("lifeboat.yaml"), yaml.as_bytes());
        give(&home, uid);
    }

    fn yaml(&self, role: &str, home: &str, keys: &str) -> String {
        format!(
            "stack: closing\nrole: {role}\nstateDir: {home}/state\nrepositories:\n  main:\n    url: file://{store}\n{keys}    \
             retentionPolicy: {{ keepLast: 2 }}\nsources:\n  documents:\n    kind: files\n    paths: [{documents}]\n  registry:\n    \
             kind: postgres\n    url: postgres://postgres@127.0.0.1:{port}/?sslmode=prefer\n    databases: [events]\n    \
             backup: {{ type: dump, jobs: 2 }}\n",
            home = self.path(home).display(),
            store = self.path("store").display(),
            documents = self.path("documents").display(),
            port = self.server.port(),
        )
    }
}

/// Makes `uid` the owner of everything below `path`; nobody else may enter.
fn give(path: &Path, uid: u32) {
    let mut all = vec![path.to_path_buf()];
    while let Some(path) = all.pop() {
        chown(&path, Some(uid), Some(STORE)).unwrap();
        if path.is_dir() {
            all.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
}

fn fill_documents(root: &Path, files: u64, numbers: &mut Numbers) {
    for number in 0..files {
        let dir = root.join(format!("{:03}", number / 500));
        if number % 500 == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        let mut bytes = vec![0; usize::try_from(100 + numbers.below(3000)).unwrap()];
        numbers.fill(&mut bytes);
        write(&dir.join(format!("letter-{number}")), &bytes);
    }
}

/// Rewrites one file in a hundred and removes another.
fn change_documents(root: &Path, files: u64, numbers: &mut Numbers) {
    for _ in 0..files / 100 {
        let number = numbers.below(files);
        let path = root.join(format!("{:03}/letter-{number}", number / 500));
        if numbers.below(2) == 0 {
            let _it_may_be_gone = fs::remove_file(path);
        } else {
            write(&path, format!("changed to {}", numbers.next()).as_bytes());
            chown(&path, Some(WRITER), Some(STORE)).unwrap();
        }
    }
}

fn content(server: &PostgresServer) -> String {
    server.sql("events", "SELECT count(*), sum(hashtextextended(b::text, 0)::numeric) FROM births b")
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story, told in its order")]
fn three_users_with_disjoint_keys_back_up_lose_everything_and_recover() {
    if !is_root() {
        println!("SKIPPED closing: needs root to become three users");
        return;
    }
    let Some(server) = PostgresServer::start("closing", 15) else { return };
    let (rows, files) = if long() { (4_000_000_u64, 300_000) } else { (60_000, 6_000) };
    let dir = tempfile::Builder::new().prefix("lifeboat-closing").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut scene = Scene { dir, server, highest_kib: 0 };
    let mut numbers = Numbers::new(11);

    // What is to be protected.
    scene
        .server
        .sql("postgres", "CREATE ROLE registrar LOGIN PASSWORD 'clipboard'; CREATE DATABASE events OWNER registrar");
    scene.server.sql(
        "events",
        &format!(
            "CREATE TABLE births (id bigint PRIMARY KEY, name text, record jsonb, photo bytea);
             INSERT INTO births SELECT n, md5(n::text), jsonb_build_object('place', md5((n % 500)::text), 'weight', n % 4000),
               decode(repeat(md5((n * 7)::text), 10), 'hex') FROM generate_series(1, {rows}) n;
             GRANT SELECT ON births TO registrar; SELECT lo_from_bytea(0, 'a large object');"
        ),
    );
    let documents = scene.path("documents");
    fs::create_dir(&documents).unwrap();
    fill_documents(&documents, files, &mut numbers);
    give(&documents, WRITER);

    // The store is shared by a group; each home belongs to its user alone.
    let store = scene.path("store");
    fs::create_dir(&store).unwrap();
    chown(&store, Some(IDENTITY), Some(STORE)).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o2770)).unwrap();
    let own = "    writerKeyFile: keys/writer.key\n    maintainerKeyFile: keys/maintainer.key\n    identityFile: keys/identity.key\n";
    scene.home("identity", IDENTITY, &scene.yaml("restore", "identity", own));
    scene.home("writer", WRITER, &scene.yaml("backup", "writer", "    writerKeyFile: keys/writer.key\n"));
    scene.home(
        "maintainer",
        MAINTAINER,
        &scene.yaml("backup", "maintainer", "    maintainerKeyFile: keys/maintainer.key\n"),
    );
    let (writer, maintainer, identity) =
        (scene.caller(WRITER, "writer"), scene.caller(MAINTAINER, "maintainer"), scene.caller(IDENTITY, "identity"));
    scene.run(&identity, &["init", "--grace", "2s"], 0);
    for (key, uid) in [("writer", WRITER), ("maintainer", MAINTAINER)] {
        let to = scene.path(key).join(format!("keys/{key}.key"));
        fs::rename(scene.path(&format!("identity/keys/{key}.key")), &to).unwrap();
        chown(&to, Some(uid), Some(STORE)).unwrap();
    }

    // The writer backs up, is killed, and backs up again.
    scene.run(&writer, &["backup", "--label", "first"], 0);
    change_documents(&documents, files, &mut numbers);
    scene.server.sql("events", "UPDATE births SET name = upper(name) WHERE id % 100 = 0");
    let mut child = writer.spawn(&["backup", "--label", "killed"]);
    std::thread::sleep(Duration::from_millis(if long() { 8_000 } else { 150 }));
    let _it_may_have_ended = child.kill();
    child.wait().unwrap();
    scene.run(&writer, &["backup", "--label", "second"], 0);
    change_documents(&documents, files, &mut numbers);
    scene.run(&writer, &["backup", "--label", "third"], 0);
    let (tree, table) = (describe(&documents), content(&scene.server));

    // The writer can list, but neither read nor delete.
    scene.run(&writer, &["snapshots"], 0);
    scene.run(&writer, &["ls", "documents@third"], 12);
    scene.run(&writer, &["forget", "--yes"], 12);
    // The maintainer forgets and prunes, but cannot read.
    scene.run(&maintainer, &["ls", "documents@latest"], 12);
    scene.run(&maintainer, &["forget", "--yes"], 0);
    scene.run(&maintainer, &["prune", "--yes"], 0);
    std::thread::sleep(Duration::from_secs(3));
    scene.run(&maintainer, &["prune", "--yes"], 0);
    scene.run(&maintainer, &["check", "--read-data"], 0);

    // The hosts burn down: databases, tree, configuration and state are gone.
    scene.server.sql("postgres", "DROP DATABASE events");
    scene.server.sql("postgres", "DROP ROLE registrar");
    for lost in ["documents", "writer", "maintainer", "identity/state", "identity/lifeboat.yaml"] {
        let path = scene.path(lost);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else if path.exists() {
            fs::remove_file(path).unwrap();
        }
    }
    let url = format!("file://{}", store.display());
    let key = scene.path("identity/keys/identity.key").display().to_string();
    let config = scene.path("identity/recovered.yaml");
    let bare = Caller { config: None, ..identity };
    scene.run(&bare, &["recover", &url, "--identity", &key], 0);
    scene.run(&bare, &["recover", &url, "--identity", &key, "--write-config", config.to_str().unwrap()], 0);
    let recovered = Caller { config: Some(config), ..bare };
    let to = scene.path("identity/back");
    scene.run(&recovered, &["check", "--read-data"], 0);
    scene.run(&recovered, &["restore", "documents", "--to", to.to_str().unwrap(), "--yes"], 3);
    let origin = scene.server.url_of("postgres", "postgres");
    let origin = origin.replace(":postgres@", "@");
    scene.run(&recovered, &["restore", "registry", "--to", &origin, "--yes"], 0);

    assert_eq!(describe(&to.join(documents.strip_prefix("/").unwrap())), tree, "the tree came back different");
    assert_eq!(content(&scene.server), table, "the table came back different");
    assert_eq!(
        scene.server.sql("events", "SELECT convert_from(lo_get(oid), 'UTF8') FROM pg_largeobject_metadata"),
        "a large object"
    );
    assert!(scene.server.try_sql("registrar", "clipboard", "events", "SELECT count(*) FROM births").is_ok());
    println!("highest peak of our process: {} MiB", scene.highest_kib / 1024);
    assert!(scene.highest_kib <= PEAK_KIB_MAX, "a process took {} KiB", scene.highest_kib);
}
