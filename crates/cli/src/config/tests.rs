use std::fmt::Write as _;

use lifeboat_model::config::{PostgresBackup, RolePasswords, SourceKind};

use super::shape::Bytes;
use super::*;

fn environment(name: &str) -> Option<String> {
    match name {
        "PGPW" => Some("hunter2,{x:1}\"".to_owned()),
        "ODD" => Some("hunter2@x".to_owned()),
        "JOBS" => Some("7".to_owned()),
        "ZONE" => Some("Africa/Lusaka".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<StackConfig, ConfigError> {
    let around = Surroundings {
        directory: Path::new("/etc/lifeboat"),
        state_dir: StateDir::Usual(Some(PathBuf::from("/var/lib/lifeboat"))),
        environment: &environment,
    };
    parse(text, &around).map_err(|fault| ConfigError::bad(Path::new("lifeboat.yaml"), text, fault))
}

/// The configuration of the documentation, which is a contract.
const CONTRACT: &str = r#"stack: farajaland
role: backup                      # backup | restore | both
timeZone: Africa/Lusaka           # default UTC
repositories:
  main:
    url: file:///srv/lifeboat
    writerKeyFile: /etc/lifeboat/writer.key
    maintainerKeyFile: /etc/lifeboat/maintainer.key
    identityFile: /media/key/identity.key
    retentionPolicy: "30d"
sources:
  documents:
    kind: files
    paths: [/srv/documents]
    exclude: ["*.tmp"]
    schedule: "0 1 * * *"
  registry:
    kind: postgres
    url: postgres://backup@127.0.0.1:5432/?sslmode=prefer
    databases: [events]
    repository: main
    backup: { type: dump, jobs: 2 }
"#;

#[test]
fn the_documented_configuration_is_read() {
    let config = read(CONTRACT).expect("the contract");
    assert_eq!(config.stack.as_str(), "farajaland");
    assert_eq!(config.role, Role::Backup);
    assert_eq!(config.time_zone.iana_name(), Some("Africa/Lusaka"));
    assert_eq!(config.state_dir, Path::new("/var/lib/lifeboat"));
    assert_eq!(config.memory_budget_bytes, 256 << 20);
    let main = &config.repositories["main"];
    assert_eq!(main.url.expose(), "file:///srv/lifeboat");
    assert_eq!(main.writer_key_file.as_deref(), Some(Path::new("/etc/lifeboat/writer.key")));
    assert_eq!(main.retention.as_ref().map(ToString::to_string).as_deref(), Some("window 30d"));
    assert_eq!(main.zstd_level, 1);
    let sources: Vec<_> = config.sources.values().collect();
    let (SourceKind::Files(files), SourceKind::Postgres(postgres)) = (&sources[0].kind, &sources[1].kind) else {
        panic!("a kind is wrong: {sources:?}")
    };
    assert_eq!(files.paths, [Path::new("/srv/documents")]);
    assert_eq!(files.exclude, ["*.tmp"]);
    assert_eq!(sources[0].repository, "main", "the only repository need not be named");
    assert_eq!(sources[0].schedule.as_ref().map(ToString::to_string).as_deref(), Some("0 1 * * *"));
    assert_eq!(postgres.databases.as_deref(), Some(["events".to_owned()].as_slice()));
    assert_eq!(postgres.backup, PostgresBackup::Dump { jobs: 2 });
    assert_eq!(postgres.role_passwords, RolePasswords::Keep);
    assert!(config.retention_of(sources[1]).is_some());
}

const EVERYTHING: &str = r#"stack: 2024
role: both
timeZone: ${ZONE}
stateDir: state
memoryBudget: 512MiB
repositories:
  main:
    url: file:///srv/$$odd
    retentionPolicy: { keepLast: 3, keepHourly: 4, keepDaily: 7, keepWeekly: 4, keepMonthly: 12, keepYearly: 2, window: 4w }
    zstdLevel: -3
    writerKeyFile: keys/./writer.key
  far:
    url: file:///srv/far
sources:
  no:
    kind: files
    paths: [documents, /srv/a/b, /srv/a]
    oneFileSystem: false
    excludeCaches: true
    repository: far
    schedule: "@daily"
  registry:
    kind: postgres
    url: postgres://backup:${PGPW}@db/?sslmode=require
    databases: [no, 007, events]
    passwordFile: pg.password
    backup: { type: dump, jobs: "${JOBS}" }
    rolePasswords: omit
    toolsDir: /usr/lib/postgresql/16/bin
    repository: main
    retentionPolicy: 1y
"#;

#[test]
fn every_key_is_read_and_paths_start_at_the_file() {
    let config = read(EVERYTHING).expect("everything");
    assert_eq!(config.stack.as_str(), "2024");
    assert_eq!(config.time_zone.iana_name(), Some("Africa/Lusaka"));
    assert_eq!(config.state_dir, Path::new("/etc/lifeboat/state"));
    assert_eq!(config.memory_budget_bytes, 512 << 20);
    let main = &config.repositories["main"];
    assert_eq!(main.url.expose(), "file:///srv/$odd");
    assert_eq!(main.zstd_level, -3);
    assert_eq!(main.writer_key_file.as_deref(), Some(Path::new("/etc/lifeboat/keys/writer.key")));
    assert_eq!(
        main.retention.as_ref().map(ToString::to_string).as_deref(),
        Some("window 4w, last 3, hourly 4, daily 7, weekly 4, monthly 12, yearly 2")
    );
    let sources: Vec<_> = config.sources.values().collect();
    let (SourceKind::Files(files), SourceKind::Postgres(postgres)) = (&sources[0].kind, &sources[1].kind) else {
        panic!("a kind is wrong: {sources:?}")
    };
    assert_eq!(files.paths, [Path::new("/etc/lifeboat/documents"), Path::new("/srv/a")]);
    assert!(files.exclude_caches && !files.one_file_system);
    assert_eq!(postgres.databases.clone().expect("a list"), ["no", "007", "events"]);
    assert_eq!(postgres.backup, PostgresBackup::Dump { jobs: 7 });
    assert_eq!(postgres.url.expose(), "postgres://backup:hunter2,{x:1}\"@db/?sslmode=require");
    assert_eq!(config.retention_of(sources[1]).map(ToString::to_string).as_deref(), Some("window 1y"));
}

#[test]
fn a_snapshot_gets_the_configuration_without_secrets() {
    let config = read(EVERYTHING).expect("everything");
    assert!(!config.portable.yaml.contains("hunter2"));
    insta::assert_snapshot!(format!("{}---\n{}\n", config.portable.yaml, config.portable.supply.join("\n")));
    // What is restored from a snapshot is the same configuration again.
    let again = read(&config.portable.yaml).expect("the portable text");
    assert_eq!(again.portable, config.portable);
    assert_eq!(again.sources.len(), 2);
}

#[test]
fn no_debug_output_shows_a_secret() {
    let config = read(EVERYTHING).expect("everything");
    assert!(!format!("{config:?}").contains("hunter2"));
}

/// The contract with one line put in the place of another.
fn changed(from: &str, to: &str) -> String {
    assert!(CONTRACT.contains(from), "{from}");
    CONTRACT.replacen(from, to, 1)
}

#[test]
fn what_is_wrong_is_shown_with_its_place_and_the_nearest_word() {
    let cases = [
        changed("    paths: [", "    path: ["),
        changed("    paths: [/srv/documents]\n", ""),
        changed("retentionPolicy", "retention"),
        changed("role: backup ", "role: bakcup "),
        changed("kind: files", "kind: file"),
        changed("    kind: files\n", ""),
        changed("stack: farajaland", "stack: fara/jaland"),
        changed("stack: farajaland", "stack: [farajaland]"),
        changed("stack: farajaland\n", ""),
        changed("Africa/Lusaka", "Africa/Lusake"),
        changed("\"30d\"", "30"),
        changed("\"30d\"", "{ keepLast: 0 }"),
        changed("\"30d\"", "{ keepDialy: 7 }"),
        changed("\"30d\"", "{ keepLast: many }"),
        changed("\"30d\"", "{ window: 3x }"),
        changed("\"0 1 * * *\"", "\"0 1 * *\""),
        changed("\"0 1 * * *\"", "\"0 25 * * *\""),
        changed("repository: main", "repository: mian"),
        changed("jobs: 2", "jobs: two"),
        changed("jobs: 2", "jobs: 0"),
        changed("type: dump", "type: basebackup"),
        changed("backup@127", "backup:sesame@127"),
        changed("backup@127", "backup:${NOPE}@127"),
        changed("backup@127", "backup:${ODD}@127"),
        changed("[/srv/documents]", "[\"$HOME/documents\"]"),
        changed("[/srv/documents]", "/srv/documents"),
        changed("[/srv/documents]", "[../documents]"),
        changed("[/srv/documents]", "[~/documents]"),
        changed("[\"*.tmp\"]", "[\"[\"]"),
        changed("[\"*.tmp\"]", "[\"*.tmp\"]\n    oneFileSystem: yes"),
        changed("file:///srv/lifeboat", "ftp://host/srv"),
        changed("file:///srv/lifeboat", "file://srv"),
        changed("file:///srv/lifeboat", "/srv/lifeboat"),
        changed("postgres://", "mysql://"),
        changed("databases: [events]", "databases: []"),
        changed("    url: file", "    url: file:///a\n    url: file"),
        changed("  main:\n", "  main: &a\n    <<: *a\n"),
        changed("exclude: [", "exclude: [").replace("\"*.tmp\"]", "\"*.tmp\""),
        changed("sources:", "\tsources:"),
        changed("    retentionPolicy", "  \tretentionPolicy"),
        changed("role: backup ", "memoryBudget: 1MiB\nrole: backup "),
        changed("role: backup ", "memoryBudget: lots\nrole: backup "),
        changed("role: backup ", "---\nrole: backup "),
        "stack: a\nrole: both\nrepositories: {}\n".to_owned(),
        String::new(),
        "just a text".to_owned(),
    ];
    let mut shown = String::new();
    for case in cases {
        let error = read(&case).expect_err(&case);
        writeln!(shown, "{error}").expect("a string takes it");
        if let Some(hint) = error.hint() {
            writeln!(shown, "hint: {hint}").expect("a string takes it");
        }
        shown.push('\n');
    }
    assert!(!shown.contains("sesame"), "a password is shown:\n{shown}");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (from, to) in "abcdefghi".chars().zip("bcdefghij".chars()) {
        writeln!(text, "{to}: &{to} [{}]", vec![format!("*{from}"); 10].join(", ")).expect("a string takes it");
    }
    assert!(read(&text).is_err());
    assert!(read(&"[".repeat(100_000)).is_err());
}

#[test]
fn the_schema_names_every_key_of_the_documented_configuration() {
    let schema = serde_json::to_string(&schema()).expect("JSON");
    for key in ["timeZone", "writerKeyFile", "retentionPolicy", "keepMonthly", "oneFileSystem", "rolePasswords", "jobs"]
    {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&super::schema()).expect("JSON"));
}

#[test]
fn sizes_are_read_with_their_units() {
    for (text, bytes) in [("256MiB", 256 << 20), ("1GiB", 1 << 30), ("500 MB", 500_000_000), ("42", 42), ("3k", 3072)] {
        assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)));
    }
    for bad in ["", "MiB", "1TiBs", "-1", "99999999999GiB"] {
        assert!(bad.parse::<Bytes>().is_err(), "{bad}");
    }
}

#[test]
fn a_repository_behind_ssh_has_a_key_and_a_host_that_is_known() {
    let read_with = |lines: &str| {
        read(&format!(
            "stack: s\nrole: backup\nrepositories:\n  main:\n    url: sftp://backup@nas:2222/lifeboat\n{lines}"
        ))
    };
    let config =
        read_with("    privateKeyFile: ssh.key\n    knownHostsFile: /etc/known\n    hostKey: ssh-ed25519 AAAA\n");
    let ssh = config.expect("read").repositories["main"].store.ssh.clone();
    assert_eq!(ssh.private_key_file.as_deref(), Some(Path::new("/etc/lifeboat/ssh.key")));
    assert_eq!(ssh.known_hosts_file.as_deref(), Some(Path::new("/etc/known")));
    assert_eq!(ssh.host_key.as_deref(), Some("ssh-ed25519 AAAA"));
    for (lines, why) in [("    hostKey: AAAA\n", "public host key"), ("    privateKeyFile: ~/k\n", "${HOME}")] {
        let error = read_with(lines).expect_err(lines);
        assert!(error.to_string().contains(why) || format!("{:?}", error.hint()).contains(why), "{error}");
    }
}
