//! The configuration after it was read and checked: plain data, free of YAML.
//!
//! Every path is absolute, every `${VARIABLE}` is resolved, every default is filled in.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use jiff::tz::TimeZone;
use zeroize::Zeroizing;

use crate::retention::RetentionPolicy;
use crate::schedule::Schedule;
use crate::{SourceName, StackName};

/// One stack with all that belongs to it: the content of a `lifeboat.yaml`.
#[derive(Clone, Debug)]
pub struct StackConfig {
    /// Name of the stack.
    pub stack: StackName,
    /// What this machine is for.
    pub role: Role,
    /// Where days begin and in which zone times without an offset are read. UTC by default.
    pub time_zone: TimeZone,
    /// Where the catalog, the cache and the scratch directory live. They cost time when lost,
    /// never a backup.
    pub state_dir: PathBuf,
    /// Memory that the whole process may take: 256 MiB by default.
    pub memory_budget_bytes: u64,
    /// At least one, by name.
    pub repositories: BTreeMap<String, RepositoryConfig>,
    /// What is backed up, by name. A restore host may have none.
    pub sources: BTreeMap<SourceName, SourceConfig>,
    /// The configuration as YAML without secrets and with `${VARIABLE}` unresolved: what every
    /// snapshot carries.
    pub portable: PortableConfig,
}

impl StackConfig {
    /// Where snapshots of this source go.
    #[must_use]
    pub fn repository_of(&self, source: &SourceConfig) -> Option<&RepositoryConfig> {
        self.repositories.get(&source.repository)
    }

    /// The policy of this source: its own, else its repository's. `None` keeps everything.
    #[must_use]
    pub fn retention_of<'a>(&'a self, source: &'a SourceConfig) -> Option<&'a RetentionPolicy> {
        source.retention.as_ref().or_else(|| self.repository_of(source)?.retention.as_ref())
    }
}

/// The configuration as it may be stored next to the data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortableConfig {
    /// YAML text. Literal passwords, where any could stand, are `***`.
    pub yaml: String,
    /// What a person has to supply before the text works again, one line each: variables and
    /// files.
    pub supply: Vec<String>,
}

/// What a machine may do (promise 7 of the architecture).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Backs up; does not restore over its own stack.
    Backup,
    /// Restores; does not back up.
    Restore,
    /// Does all.
    Both,
}

impl Role {
    /// The word that stands in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Both => "both",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A repository and the keys that this machine has for it.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Its name in the configuration.
    pub name: String,
    /// Where its store is.
    pub url: SecretUrl,
    /// Key of a host that backs up.
    pub writer_key_file: Option<PathBuf>,
    /// Key of the host where retention runs.
    pub maintainer_key_file: Option<PathBuf>,
    /// Key that reads; only where restores happen.
    pub identity_file: Option<PathBuf>,
    /// What `forget` keeps of sources that say nothing themselves.
    pub retention: Option<RetentionPolicy>,
    /// Compression level of zstd, -7 to 22; 1 by default.
    pub zstd_level: i32,
    /// How its store is reached.
    pub store: StoreOptions,
}

/// How a store is reached, beside its URL.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// For servers behind SSH.
    pub ssh: SshOptions,
}

/// Who logs in at an SSH server, and by what the server is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SshOptions {
    /// Private key; `None` = those of `~/.ssh/config`, the agent's, and the usual files in `~/.ssh`.
    pub private_key_file: Option<PathBuf>,
    /// File that holds the passphrase of the private key.
    pub passphrase_file: Option<PathBuf>,
    /// File of host keys; `None` = `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts_file: Option<PathBuf>,
    /// The host's public key as `ssh-ed25519 AAAA...`; goes before every file.
    pub host_key: Option<String>,
    /// Where `.ssh` is.
    pub home: Option<PathBuf>,
    /// Socket of the agent.
    pub agent_socket: Option<PathBuf>,
    /// Who logs in where neither the URL nor `~/.ssh/config` says it.
    pub local_user: Option<String>,
}

/// One datastore that is backed up.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// Its name in the configuration.
    pub name: SourceName,
    /// Name of the repository that takes its snapshots; it is one of the configuration's.
    pub repository: String,
    /// What `forget` keeps, where it differs from the repository's policy.
    pub retention: Option<RetentionPolicy>,
    /// When it is backed up.
    pub schedule: Option<Schedule>,
    /// What it is.
    pub kind: SourceKind,
}

/// What a source is and how it is reached.
#[derive(Clone, Debug)]
pub enum SourceKind {
    /// File trees of this host.
    Files(FilesConfig),
    /// A PostgreSQL server.
    Postgres(PostgresConfig),
}

impl SourceKind {
    /// The value of `kind:`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Files(_) => "files",
            Self::Postgres(_) => "postgres",
        }
    }
}

/// File trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// Absolute paths of files and directories; none lies below another unless
    /// [`FilesConfig::one_file_system`] is set.
    pub paths: Vec<PathBuf>,
    /// Globs of what is left out. One without `/` matches the name at any depth; one with `/`
    /// matches the absolute path.
    pub exclude: Vec<String>,
    /// Globs in the same manner: files of pages that are changed in place, such as a database's own
    /// files or disks of virtual machines. A changed page of 8 KiB then costs its own size.
    pub paged: Vec<String>,
    /// Whether other file systems mounted below the paths are left out. False by default.
    pub one_file_system: bool,
    /// Whether directories with a valid `CACHEDIR.TAG` are left out but for the tag. False by
    /// default.
    pub exclude_caches: bool,
}

/// A PostgreSQL server.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// `postgres://user@host:port/?sslmode=...&sslrootcert=...`. A password in it is allowed only
    /// from a variable.
    pub url: SecretUrl,
    /// Databases to back up; `None` = every one that is found at each run.
    pub databases: Option<Vec<String>>,
    /// File that holds the password and nothing else (a final line end is cut off).
    pub password_file: Option<PathBuf>,
    /// File in the format of `.pgpass`, from the configuration or `PGPASSFILE`.
    pub passfile: Option<PathBuf>,
    /// Password from `PGPASSWORD`, where that is set.
    pub password: Option<SecretText>,
    /// How it is read.
    pub backup: PostgresBackup,
    /// What becomes of the passwords of roles.
    pub role_passwords: RolePasswords,
    /// Directory of `pg_dump`, `pg_restore` and `psql`; `None` = found by the server's version.
    pub tools_dir: Option<PathBuf>,
}

/// How a PostgreSQL server is backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresBackup {
    /// Logical: one consistent dump for each database.
    Dump {
        /// Tables that are read at the same time: 2 by default.
        jobs: usize,
    },
}

/// What becomes of the passwords of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolePasswords {
    /// Their hashes are in the backup; restored roles can log in. Needs a superuser.
    #[default]
    Keep,
    /// They are left out; restored roles cannot log in by password.
    Omit,
}

/// A text that is never shown and is zeroed when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself: for the one place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// A URL that may hold a password. Shown, the password is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(SecretText);

impl SecretUrl {
    /// Takes the text over as it is; what the scheme asks for is checked by who connects.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(SecretText::new(text))
    }

    /// The whole URL: for the one place that connects.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }

    /// What stands before `:`, in lower case; nothing where there is none.
    #[must_use]
    pub fn scheme(&self) -> String {
        self.expose().split_once(':').map_or(String::new(), |(scheme, _)| scheme.to_ascii_lowercase())
    }

    /// The places of secrets in the text: the password before `@` and the values of query
    /// parameters whose names sound like a secret.
    #[must_use]
    pub fn secret_ranges(text: &str) -> Vec<std::ops::Range<usize>> {
        let mut ranges = Vec::new();
        let Some(start) = text.find("://").map(|at| at + 3) else { return ranges };
        let query = text[start..].find(['?', '#']).map_or(text.len(), |at| start + at);
        // A password may itself hold '/', '@', '?' or '#' where somebody forgot to encode it: the
        // last '@' before the query ends it, or the last of all.
        if let Some(at) = text[start..query].rfind('@').or_else(|| text[start..].rfind('@')).map(|at| start + at)
            && let Some(colon) = text[start..at].find(':').map(|colon| start + colon)
        {
            ranges.push(colon + 1..at);
        }
        let mut from = query;
        while from < text.len() {
            let parameter = from + 1;
            let end = text[parameter..].find('&').map_or(text.len(), |at| parameter + at);
            if let Some(equals) = text[parameter..end].find('=').map(|at| parameter + at) {
                let name = text[parameter..equals].to_ascii_lowercase();
                if ["password", "secret", "token", "sig", "accesskey", "access_key"]
                    .iter()
                    .any(|word| name.contains(word))
                {
                    ranges.push(equals + 1..end);
                }
            }
            from = end;
        }
        ranges.retain(|range| !range.is_empty());
        ranges
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.expose();
        let mut from = 0;
        for range in Self::secret_ranges(text) {
            write!(f, "{}***", &text[from..range.start])?;
            from = range.end;
        }
        f.write_str(&text[from..])
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_never_shows_its_password() {
        for (url, shown) in [
            ("postgres://backup@127.0.0.1:5432/?sslmode=prefer", "postgres://backup@127.0.0.1:5432/?sslmode=prefer"),
            ("postgres://backup:pa:ss@h/", "postgres://backup:***@h/"),
            ("postgres://backup:p@ss/w@h/", "postgres://backup:***@h/"),
            ("postgres://h/db?user=a&password=b&sslpassword=c", "postgres://h/db?user=a&password=***&sslpassword=***"),
            ("postgres://backup:p#ss?@h/", "postgres://backup:***@h/"),
            ("postgres://u:@h/", "postgres://u:@h/"),
            ("file:///srv/lifeboat", "file:///srv/lifeboat"),
            ("https://x.blob/c?sv=1&sig=abc%2F", "https://x.blob/c?sv=1&sig=***"),
            ("no url at all", "no url at all"),
        ] {
            let url = SecretUrl::new(url.to_owned());
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("\"{shown}\""));
        }
        assert_eq!(format!("{:?}", SecretText::new("hush".to_owned())), "<secret>");
    }
}
