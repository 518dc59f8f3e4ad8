//! Values that the tests of this crate share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_model::config::{
    FilesConfig, PortableConfig, RepositoryConfig, Role, SecretUrl, SourceConfig, SourceKind, StackConfig, StoreOptions,
};
use lifeboat_model::retention::RetentionPolicy;
use lifeboat_model::{Digest, SnapshotId, SnapshotSummary, SourceName, StackName};

pub(crate) fn stack(text: &str) -> StackName {
    StackName::new(text).expect("a name")
}

pub(crate) fn source(text: &str) -> SourceName {
    SourceName::new(text).expect("a name")
}

/// Day `n` of 2026.
pub(crate) fn day(n: u16) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + (i64::from(n) - 1) * 86_400).expect("a time")
}

/// The snapshot of `of/name` of day `n` of 2026.
pub(crate) fn summary(of: &str, name: &str, n: u16) -> SnapshotSummary {
    SnapshotSummary {
        id: SnapshotId(Digest::of(format!("{of}/{name} {n}").as_bytes())),
        original: None,
        stack: Some(stack(of)),
        source: Some(source(name)),
        kind: Some("files".to_owned()),
        time: day(n),
        recovery_point: Some(day(n)),
        stored_at: day(n),
        label: None,
        bytes: Some(8),
        new_bytes: Some(8),
        entries: Some(2),
        problems: Some(0),
        held: None,
        sequence: u64::from(n),
        countersigned_time: None,
        writer: "aa".to_owned(),
        clock_drift: false,
        stack_tag: Digest::of(of.as_bytes()),
        source_tag: Digest::of(format!("{of}/{name}").as_bytes()),
    }
}

/// A configuration of the stack `farajaland` with the repository `main` below `dir` and sources
/// of kind `files` that read `dir/NAME`.
pub(crate) fn config(dir: &Path, sources: &[&str]) -> StackConfig {
    let repository = RepositoryConfig {
        name: "main".to_owned(),
        url: SecretUrl::new(format!("file://{}", dir.join("store").display())),
        writer_key_file: Some(dir.join("writer.key")),
        maintainer_key_file: Some(dir.join("maintainer.key")),
        identity_file: Some(dir.join("identity.key")),
        retention: Some(RetentionPolicy { keep_last: 2, ..RetentionPolicy::default() }),
        zstd_level: 1,
        store: StoreOptions::default(),
    };
    StackConfig {
        stack: stack("farajaland"),
        role: Role::Both,
        time_zone: TimeZone::UTC,
        state_dir: dir.join("state"),
        memory_budget_bytes: 256 << 20,
        repositories: BTreeMap::from([("main".to_owned(), repository)]),
        sources: sources.iter().map(|name| (source(name), files_source(name, vec![dir.join(name)]))).collect(),
        portable: PortableConfig { yaml: "stack: farajaland\n".to_owned(), supply: Vec::new() },
    }
}

pub(crate) fn files_source(name: &str, paths: Vec<PathBuf>) -> SourceConfig {
    let kind =
        FilesConfig { paths, exclude: Vec::new(), paged: Vec::new(), one_file_system: false, exclude_caches: false };
    SourceConfig {
        name: source(name),
        repository: "main".to_owned(),
        retention: None,
        schedule: None,
        kind: SourceKind::Files(kind),
    }
}
