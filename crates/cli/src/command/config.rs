//! `config schema` and `config show`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_model::config::{
    FilesConfig, PostgresBackup, PostgresConfig, RepositoryConfig, RolePasswords, SourceConfig, SourceKind, StackConfig,
};
use lifeboat_model::retention::RetentionPolicy;
use lifeboat_model::schedule::{Schedule, next_run};
use serde::Serialize;

use crate::args::ConfigCommand;
use crate::config::{Loaded, schema, to_yaml};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::session::Session;

/// How many coming runs are shown.
const RUNS: usize = 3;

pub(crate) fn run(session: &Session, which: ConfigCommand) -> Result<Exit, Failure> {
    match which {
        ConfigCommand::Schema => {
            if session.json() {
                output::json("schemas", &[schema()])?;
            } else {
                let text = serde_json::to_string_pretty(&schema());
                output::text(&text.map_err(|error| Failure::of(Exit::Failed, &error))?)?;
            }
        }
        ConfigCommand::Show => {
            let loaded = session.load()?;
            for warning in &loaded.warnings {
                session.talk.warn(warning);
            }
            let shown = effective(&loaded, session.talk.clock.now());
            if session.json() {
                output::json("configurations", &[shown])?;
            } else {
                output::text(&to_yaml(&shown)?)?;
            }
        }
    }
    Ok(Exit::Ok)
}

/// The configuration with everything filled in, keys named as in the file.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Effective<'a> {
    file: &'a Path,
    stack: &'a str,
    role: &'static str,
    time_zone: &'a str,
    state_dir: &'a Path,
    memory_budget: String,
    repositories: BTreeMap<&'a str, ShownRepository<'a>>,
    sources: BTreeMap<&'a str, ShownSource<'a>>,
    /// What another machine has to have beside this file.
    supply: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownRepository<'a> {
    url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    writer_key_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maintainer_key_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity_file: Option<&'a Path>,
    retention_policy: String,
    zstd_level: i32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownSource<'a> {
    kind: &'static str,
    #[serde(flatten)]
    what: ShownKind<'a>,
    repository: &'a str,
    retention_policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_in_words: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_runs: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum ShownKind<'a> {
    Files {
        paths: &'a [PathBuf],
        exclude: &'a [String],
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        paged: &'a [String],
        one_file_system: bool,
        exclude_caches: bool,
    },
    Postgres {
        url: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        databases: Option<&'a [String]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        password_file: Option<&'a Path>,
        #[serde(skip_serializing_if = "Option::is_none")]
        passfile: Option<&'a Path>,
        backup: ShownBackup,
        role_passwords: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        tools_dir: Option<&'a Path>,
    },
}

#[derive(Serialize)]
struct ShownBackup {
    r#type: &'static str,
    jobs: usize,
}

fn effective(loaded: &Loaded, now: Timestamp) -> Effective<'_> {
    let config = &loaded.config;
    Effective {
        file: &loaded.path,
        stack: config.stack.as_str(),
        role: config.role.as_str(),
        time_zone: config.time_zone.iana_name().unwrap_or("UTC"),
        state_dir: &config.state_dir,
        memory_budget: output::size(config.memory_budget_bytes),
        repositories: config.repositories.iter().map(|(name, r)| (name.as_str(), repository(r))).collect(),
        sources: config.sources.iter().map(|(name, s)| (name.as_str(), source(config, s, now))).collect(),
        supply: &config.portable.supply,
    }
}

fn repository(repository: &RepositoryConfig) -> ShownRepository<'_> {
    ShownRepository {
        url: repository.url.to_string(),
        writer_key_file: repository.writer_key_file.as_deref(),
        maintainer_key_file: repository.maintainer_key_file.as_deref(),
        identity_file: repository.identity_file.as_deref(),
        retention_policy: policy(repository.retention.as_ref()),
        zstd_level: repository.zstd_level,
    }
}

fn policy(policy: Option<&RetentionPolicy>) -> String {
    policy.map_or_else(|| "keep everything".to_owned(), ToString::to_string)
}

fn source<'a>(config: &'a StackConfig, source: &'a SourceConfig, now: Timestamp) -> ShownSource<'a> {
    ShownSource {
        kind: source.kind.as_str(),
        what: match &source.kind {
            SourceKind::Files(files) => self::files(files),
            SourceKind::Postgres(postgres) => self::postgres(postgres),
        },
        repository: &source.repository,
        retention_policy: policy(config.retention_of(source)),
        schedule: source.schedule.as_ref().map(Schedule::as_str),
        schedule_in_words: source.schedule.as_ref().map(Schedule::describe),
        next_runs: source.schedule.as_ref().map_or_else(Vec::new, |schedule| runs(schedule, now, &config.time_zone)),
    }
}

fn runs(schedule: &Schedule, now: Timestamp, zone: &TimeZone) -> Vec<String> {
    let mut after = now;
    let next = || {
        after = next_run(schedule, None, after, zone)?.at;
        Some(output::time(after, zone))
    };
    std::iter::from_fn(next).take(RUNS).collect()
}

fn files(files: &FilesConfig) -> ShownKind<'_> {
    ShownKind::Files {
        paths: &files.paths,
        exclude: &files.exclude,
        paged: &files.paged,
        one_file_system: files.one_file_system,
        exclude_caches: files.exclude_caches,
    }
}

fn postgres(postgres: &PostgresConfig) -> ShownKind<'_> {
    let PostgresBackup::Dump { jobs } = postgres.backup;
    ShownKind::Postgres {
        url: postgres.url.to_string(),
        databases: postgres.databases.as_deref(),
        password_file: postgres.password_file.as_deref(),
        passfile: postgres.passfile.as_deref(),
        backup: ShownBackup { r#type: "dump", jobs },
        role_passwords: match postgres.role_passwords {
            RolePasswords::Keep => "keep",
            RolePasswords::Omit => "omit",
        },
        tools_dir: postgres.tools_dir.as_deref(),
    }
}
