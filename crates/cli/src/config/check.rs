//! From the shape of the file to the checked configuration.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use jiff::tz::TimeZone;
use lifeboat_model::config::{
    FilesConfig, PortableConfig, PostgresBackup, PostgresConfig, RepositoryConfig, Role, RolePasswords, SecretText,
    SecretUrl, SourceConfig, SourceKind, SshOptions, StackConfig, StoreOptions,
};
use lifeboat_model::nearest::nearest;
use lifeboat_model::retention::RetentionPolicy;
use lifeboat_model::schedule::Schedule;
use lifeboat_model::{SourceName, StackName};

use super::fault::Fault;
use super::shape::{
    FilesShape, PolicyShape, PostgresBackupShape, PostgresShape, RepositoryShape, RolePasswordsShape, RoleShape,
    SourceShape, StackShape,
};
use super::typed::At;
use super::variables::{self, Environment};

/// What a configuration is read with beside its text.
pub(crate) struct Surroundings<'a> {
    /// Directory of the file; relative paths start here.
    pub(crate) directory: &'a Path,
    /// Where the state is, if not in the file.
    pub(crate) state_dir: StateDir,
    /// Variables.
    pub(crate) environment: &'a dyn Environment,
}

/// Where the state directory comes from.
#[derive(Clone, Debug)]
pub(crate) enum StateDir {
    /// The person said so; goes before the file.
    Given(PathBuf),
    /// The usual place, where there is one; the file goes before it.
    Usual(Option<PathBuf>),
}

/// 256 MiB.
pub(crate) const MEMORY_BUDGET_BYTES: u64 = 256 << 20;
const MEMORY_BUDGET_BYTES_MIN: u64 = 128 << 20;

/// Checks what the types cannot.
pub(crate) fn check(
    shape: &StackShape,
    portable: PortableConfig,
    around: &Surroundings<'_>,
) -> Result<StackConfig, Fault> {
    let repositories = repositories(shape, around)?;
    let sources = shape
        .sources
        .iter()
        .map(|(name, source)| {
            let name = SourceName::new(name).map_err(|bad| source.fault(bad.to_string()))?;
            let source =
                self::source(&name, &source.value, &repositories, around).map_err(|fault| fault.at(source.place))?;
            Ok((name, source))
        })
        .collect::<Result<_, Fault>>()?;
    Ok(StackConfig {
        stack: StackName::new(&shape.stack.value).map_err(|bad| shape.stack.fault(bad.to_string()))?,
        role: match shape.role {
            RoleShape::Backup => Role::Backup,
            RoleShape::Restore => Role::Restore,
            RoleShape::Both => Role::Both,
        },
        time_zone: shape.time_zone.as_ref().map_or(Ok(TimeZone::UTC), time_zone)?,
        state_dir: match (&around.state_dir, &shape.state_dir) {
            (StateDir::Usual(_), Some(path)) => local_path(path, around)?,
            (StateDir::Given(path) | StateDir::Usual(Some(path)), _) => path.clone(),
            (StateDir::Usual(None), None) => {
                return Err(Fault::new(
                    "no stateDir is set, and neither XDG_STATE_HOME nor HOME says where it usually is",
                )
                .hint("set stateDir, --state-dir or LIFEBOAT_STATE_DIR"));
            }
        },
        memory_budget_bytes: memory_budget(shape)?,
        repositories,
        sources,
        portable,
    })
}

fn time_zone(name: &At<String>) -> Result<TimeZone, Fault> {
    TimeZone::get(&name.value).map_err(|_| {
        let fault = name.fault(format!("{:?} is not a known time zone", name.value));
        let known: Vec<String> = jiff::tz::db().available().map(|name| name.to_string()).collect();
        match nearest(&name.value, known.iter().map(String::as_str)) {
            Some(near) => fault.hint(format!("did you mean `{near}`?")),
            None => fault.hint("write a name such as UTC, Africa/Lusaka, Asia/Dhaka"),
        }
    })
}

fn memory_budget(shape: &StackShape) -> Result<u64, Fault> {
    let Some(budget) = &shape.memory_budget else { return Ok(MEMORY_BUDGET_BYTES) };
    let bytes = budget.value.0.0;
    if bytes < MEMORY_BUDGET_BYTES_MIN {
        return Err(budget.fault("memoryBudget is less than 128 MiB").hint("leave it out for 256MiB"));
    }
    Ok(bytes)
}

fn repositories(shape: &StackShape, around: &Surroundings<'_>) -> Result<BTreeMap<String, RepositoryConfig>, Fault> {
    if shape.repositories.value.is_empty() {
        return Err(shape.repositories.fault("there is no repository"));
    }
    shape
        .repositories
        .value
        .iter()
        .map(|(name, repository)| {
            SourceName::new(name).map_err(|bad| repository.fault(bad.to_string()))?;
            self::repository(name, &repository.value, around)
                .map(|checked| (name.clone(), checked))
                .map_err(|fault| fault.at(repository.place))
        })
        .collect()
}

fn repository(name: &str, shape: &RepositoryShape, around: &Surroundings<'_>) -> Result<RepositoryConfig, Fault> {
    let file = |path: &Option<At<String>>| path.as_ref().map(|path| local_path(path, around)).transpose();
    let level = shape.zstd_level.as_ref().map_or(1, |level| level.value);
    if let Some(given) = &shape.zstd_level
        && !(-7..=22).contains(&level)
    {
        return Err(given.fault("zstdLevel is from -7 to 22"));
    }
    Ok(RepositoryConfig {
        name: name.to_owned(),
        url: store_url(&shape.url, around)?,
        writer_key_file: file(&shape.writer_key_file)?,
        maintainer_key_file: file(&shape.maintainer_key_file)?,
        identity_file: file(&shape.identity_file)?,
        retention: policy(shape.retention_policy.as_ref())?,
        zstd_level: level,
        store: StoreOptions { ssh: ssh(shape, around)? },
    })
}

/// What the environment says about SSH where the file says nothing.
pub(crate) fn usual_ssh(environment: &dyn Environment) -> SshOptions {
    let path = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    SshOptions {
        home: path("HOME"),
        agent_socket: path("SSH_AUTH_SOCK"),
        local_user: environment.get("USER").or_else(|| environment.get("LOGNAME")),
        ..SshOptions::default()
    }
}

fn ssh(shape: &RepositoryShape, around: &Surroundings<'_>) -> Result<SshOptions, Fault> {
    let file = |path: &Option<At<String>>| path.as_ref().map(|path| local_path(path, around)).transpose();
    if let Some(key) = &shape.host_key {
        let mut words = key.value.split_whitespace();
        let plain = words.next().is_some_and(|kind| kind.starts_with("ssh-") || kind.starts_with("ecdsa-"));
        if !plain || words.next().is_none() {
            let fault = key.fault("this is not a public host key");
            return Err(fault.hint("write its kind and its text: ssh-ed25519 AAAA..."));
        }
    }
    Ok(SshOptions {
        private_key_file: file(&shape.private_key_file)?,
        passphrase_file: file(&shape.private_key_passphrase_file)?,
        known_hosts_file: file(&shape.known_hosts_file)?,
        host_key: shape.host_key.as_ref().map(|key| key.value.clone()),
        ..usual_ssh(around.environment)
    })
}

fn store_url(url: &At<String>, around: &Surroundings<'_>) -> Result<SecretUrl, Fault> {
    let checked = secret_url(url, around)?;
    match checked.scheme().as_str() {
        "file" if url.value.starts_with("file:///") && url.value.len() > "file:///".len() => Ok(checked),
        "file" => Err(url.fault("a file URL needs an absolute path").hint("write file:///srv/lifeboat")),
        "sftp" => Ok(checked),
        "ssh" | "s3" | "azure" | "https" | "http" => Err(url
            .fault(format!("{}: stores are not supported by this version", checked.scheme()))
            .hint("use file:///DIRECTORY or sftp://USER@HOST/DIRECTORY")),
        _ if url.value.starts_with('/') => {
            Err(url.fault("a store is named by a URL").hint(format!("write file://{}", url.value)))
        }
        _ => Err(url
            .fault("this is not the URL of a store")
            .hint("write file:///DIRECTORY or sftp://USER@HOST/DIRECTORY")),
    }
}

/// A URL whose password, if it has one, comes from a variable and is encoded as URLs need it.
fn secret_url(url: &At<String>, around: &Surroundings<'_>) -> Result<SecretUrl, Fault> {
    let raw = url.raw.as_deref().unwrap_or_default();
    let hint = "use passwordFile, passfile or PGPASSWORD";
    for range in SecretUrl::secret_ranges(raw) {
        let secret = &raw[range];
        if !variables::is_variables_only(secret) {
            let fault = url.fault("a password stands in the URL");
            return Err(fault.hint(format!("write ${{VARIABLE}} in its place, or {hint}")));
        }
        for name in variables::names(secret) {
            let odd = |c: char| c.is_whitespace() || c.is_control() || "/?#[]@".contains(c);
            if around.environment.get(&name).is_some_and(|value| value.contains(odd)) {
                let fault = url.fault(format!("the value of {name} holds characters that a URL cannot hold"));
                return Err(fault.hint(format!("percent-encode it, or {hint}")));
            }
        }
    }
    Ok(SecretUrl::new(url.value.clone()))
}

fn policy(shape: Option<&At<PolicyShape>>) -> Result<Option<RetentionPolicy>, Fault> {
    let Some(shape) = shape else { return Ok(None) };
    let policy = shape.value.policy().map_err(|what| shape.fault(what))?;
    if policy.is_empty() {
        return Err(shape.fault("this policy keeps nothing").hint("leave it out to keep everything"));
    }
    Ok(Some(policy))
}

fn source(
    name: &SourceName,
    shape: &SourceShape,
    repositories: &BTreeMap<String, RepositoryConfig>,
    around: &Surroundings<'_>,
) -> Result<SourceConfig, Fault> {
    let (schedule, repository, retention, kind) = match shape {
        SourceShape::Files(files) => (
            &files.schedule,
            &files.repository,
            &files.retention_policy,
            SourceKind::Files(self::files(files, around)?),
        ),
        SourceShape::Postgres(postgres) => (
            &postgres.schedule,
            &postgres.repository,
            &postgres.retention_policy,
            SourceKind::Postgres(self::postgres(postgres, around)?),
        ),
    };
    Ok(SourceConfig {
        name: name.clone(),
        repository: chosen_repository(repository.as_ref(), repositories)?,
        retention: policy(retention.as_ref())?,
        schedule: schedule.as_ref().map(self::schedule).transpose()?,
        kind,
    })
}

fn chosen_repository(
    given: Option<&At<String>>,
    repositories: &BTreeMap<String, RepositoryConfig>,
) -> Result<String, Fault> {
    let known = || repositories.keys().map(String::as_str);
    let all = known().collect::<Vec<_>>().join(", ");
    match given {
        Some(name) if repositories.contains_key(&name.value) => Ok(name.value.clone()),
        Some(name) => {
            let fault = name.fault(format!("there is no repository {:?}", name.value));
            Err(fault.hint(
                nearest(&name.value, known())
                    .map_or_else(|| format!("repositories: {all}"), |near| format!("did you mean `{near}`?")),
            ))
        }
        None if repositories.len() == 1 => Ok(all),
        None => Err(Fault::new("`repository` is missing, and there are several").hint(format!("one of {all}"))),
    }
}

fn schedule(text: &At<String>) -> Result<Schedule, Fault> {
    text.value.parse().map_err(|bad: lifeboat_model::schedule::BadSchedule| {
        text.fault(bad.to_string()).hint("every day at one o'clock is \"0 1 * * *\": minute hour day month weekday")
    })
}

fn files(shape: &FilesShape, around: &Surroundings<'_>) -> Result<FilesConfig, Fault> {
    if shape.paths.value.is_empty() {
        return Err(shape.paths.fault("there is no path"));
    }
    let given = shape.paths.value.iter().map(|path| local_path(path, around)).collect::<Result<Vec<_>, _>>()?;
    let mut paths: Vec<PathBuf> = Vec::new();
    for path in &given {
        // What lies below another path is walked with it; a file system of its own may not be.
        let below = |other: &PathBuf| path != other && path.starts_with(other) && !shape.one_file_system;
        if !paths.contains(path) && !given.iter().any(below) {
            paths.push(path.clone());
        }
    }
    for glob in shape.exclude.iter().chain(&shape.paged) {
        globset::Glob::new(&glob.value).map_err(|bad| glob.fault(format!("this is not a glob: {}", bad.kind())))?;
    }
    Ok(FilesConfig {
        paths,
        exclude: shape.exclude.iter().map(|glob| glob.value.clone()).collect(),
        paged: shape.paged.iter().map(|glob| glob.value.clone()).collect(),
        one_file_system: shape.one_file_system,
        exclude_caches: shape.exclude_caches,
    })
}

fn postgres(shape: &PostgresShape, around: &Surroundings<'_>) -> Result<PostgresConfig, Fault> {
    let url = secret_url(&shape.url, around)?;
    if !matches!(url.scheme().as_str(), "postgres" | "postgresql") {
        return Err(shape
            .url
            .fault("this is not the URL of a PostgreSQL server")
            .hint("write postgres://user@host:5432/"));
    }
    let databases = match &shape.databases {
        Some(list) if list.value.is_empty() => {
            return Err(list.fault("there is no database").hint("leave `databases` out to back up every one"));
        }
        Some(list) => Some(list.value.iter().map(|name| name.value.clone()).collect()),
        None => None,
    };
    let PostgresBackupShape::Dump(dump) = &shape.backup;
    let jobs = dump.jobs.as_ref().map_or(2, |jobs| jobs.value);
    if let Some(given) = &dump.jobs
        && !(1..=64).contains(&jobs)
    {
        return Err(given.fault("jobs is from 1 to 64"));
    }
    let file = |path: &Option<At<String>>| path.as_ref().map(|path| local_path(path, around)).transpose();
    let from_environment = || around.environment.get("PGPASSFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(PostgresConfig {
        url,
        databases,
        password_file: file(&shape.password_file)?,
        passfile: file(&shape.passfile)?.or_else(from_environment),
        password: around.environment.get("PGPASSWORD").map(SecretText::new),
        backup: PostgresBackup::Dump { jobs: jobs as usize },
        role_passwords: match shape.role_passwords {
            RolePasswordsShape::Keep => RolePasswords::Keep,
            RolePasswordsShape::Omit => RolePasswords::Omit,
        },
        tools_dir: file(&shape.tools_dir)?,
    })
}

/// An absolute path without `.` and doubled slashes; `..` is refused, since links make it ambiguous.
fn local_path(text: &At<String>, around: &Surroundings<'_>) -> Result<PathBuf, Fault> {
    if text.value.is_empty() {
        return Err(text.fault("the path is empty"));
    }
    let path: PathBuf = around.directory.join(&text.value).components().collect();
    if Path::new(&text.value).components().any(|part| part == Component::ParentDir) {
        return Err(text.fault("the path holds `..`").hint("write where it leads"));
    }
    if text.value.starts_with('~') {
        return Err(text.fault("`~` is not put in").hint("write ${HOME}"));
    }
    Ok(path)
}
