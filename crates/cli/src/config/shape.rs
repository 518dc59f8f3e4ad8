//! The shape of `lifeboat.yaml`: what may stand where. Its doc comments become the descriptions of
//! the JSON schema.

use std::collections::BTreeMap;
use std::str::FromStr;

use lifeboat_model::retention::{RetentionPolicy, Window};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::typed::At;

/// A stack that Lifeboat backs up and restores. In every value, `${NAME}` is the environment
/// variable NAME and `$$` a dollar. Paths are relative to this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(title = "lifeboat.yaml")]
pub(crate) struct StackShape {
    /// Name of the stack: letters, digits, `-`, `_` and `.`.
    pub(crate) stack: At<String>,
    /// What this machine is for. `both` lets one machine destroy what it backs up.
    pub(crate) role: RoleShape,
    /// Where days begin, and the zone of times without an offset, such as `Africa/Lusaka`.
    #[schemars(extend("default" = "UTC"))]
    pub(crate) time_zone: Option<At<String>>,
    /// Directory of the catalog, the cache and scratch files. Default: `/var/lib/lifeboat` for
    /// root, else `lifeboat` under `$XDG_STATE_HOME` or `~/.local/state`.
    pub(crate) state_dir: Option<At<String>>,
    /// Memory that Lifeboat may take, such as `256MiB`.
    #[schemars(with = "Option<String>", extend("default" = "256MiB"))]
    pub(crate) memory_budget: Option<At<ByteSize>>,
    /// Where snapshots are kept, by name.
    pub(crate) repositories: At<BTreeMap<String, At<RepositoryShape>>>,
    /// What is backed up, by name.
    #[serde(default)]
    pub(crate) sources: BTreeMap<String, At<SourceShape>>,
}

/// What a machine is for.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleShape {
    /// It backs up. It does not restore over its own stack.
    Backup,
    /// It restores. It does not back up.
    Restore,
    /// It does all.
    Both,
}

/// A repository and the keys that this machine has for it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct RepositoryShape {
    /// Where its store is: `file:///srv/lifeboat`.
    pub(crate) url: At<String>,
    /// Key of a host that backs up: adds, cannot read or delete.
    pub(crate) writer_key_file: Option<At<String>>,
    /// Key of the host where retention runs: forgets and prunes, cannot read.
    pub(crate) maintainer_key_file: Option<At<String>>,
    /// Key that reads. Only on machines that restore.
    pub(crate) identity_file: Option<At<String>>,
    /// What `forget` keeps of sources that say nothing themselves. Absent: everything.
    pub(crate) retention_policy: Option<At<PolicyShape>>,
    /// Compression level of zstd.
    #[schemars(with = "Option<i32>", range(min = -7, max = 22), extend("default" = 1))]
    pub(crate) zstd_level: Option<At<i32>>,
    /// SSH: private key of the account on the server. Default: what `~/.ssh/config` says, the agent,
    /// `~/.ssh/id_ed25519`, `id_ecdsa`, `id_rsa`.
    pub(crate) private_key_file: Option<At<String>>,
    /// SSH: file that holds the passphrase of the private key and nothing else.
    pub(crate) private_key_passphrase_file: Option<At<String>>,
    /// SSH: file of known hosts. Default: `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub(crate) known_hosts_file: Option<At<String>>,
    /// SSH: the server's public key, such as `ssh-ed25519 AAAA...`, in place of a file of known hosts.
    pub(crate) host_key: Option<At<String>>,
}

/// What is kept: a recovery window such as `30d`, `4w`, `12m`, `1y`, or rules that add up.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub(crate) enum PolicyShape {
    /// Everything that is younger, and the newest snapshot before.
    Window(#[schemars(regex(pattern = r"^[0-9]+[dwmy]$"))] String),
    /// Rules that add up: what any of them keeps stays.
    Rules(RulesShape),
}

/// Rules that add up: what any of them keeps stays.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
#[derive(Default)]
pub(crate) struct RulesShape {
    /// The newest so many snapshots.
    pub(crate) keep_last: u32,
    /// The newest snapshot of each of so many hours.
    pub(crate) keep_hourly: u32,
    /// The newest snapshot of each of so many days.
    pub(crate) keep_daily: u32,
    /// The newest snapshot of each of so many weeks.
    pub(crate) keep_weekly: u32,
    /// The newest snapshot of each of so many months.
    pub(crate) keep_monthly: u32,
    /// The newest snapshot of each of so many years.
    pub(crate) keep_yearly: u32,
    /// Everything that is younger than `30d`, `4w`, `12m`, `1y`.
    #[schemars(with = "Option<String>")]
    pub(crate) window: Option<Word<Window>>,
}

impl PolicyShape {
    /// The policy, or why the window is none.
    pub(crate) fn policy(&self) -> Result<RetentionPolicy, String> {
        match self {
            Self::Window(text) => text
                .parse()
                .map(RetentionPolicy::window)
                .map_err(|bad: lifeboat_model::retention::BadWindow| bad.to_string()),
            Self::Rules(rules) => Ok(RetentionPolicy {
                keep_last: rules.keep_last,
                keep_hourly: rules.keep_hourly,
                keep_daily: rules.keep_daily,
                keep_weekly: rules.keep_weekly,
                keep_monthly: rules.keep_monthly,
                keep_yearly: rules.keep_yearly,
                window: rules.window.as_ref().map(|word| word.0),
            }),
        }
    }
}

impl<'de> Deserialize<'de> for PolicyShape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PolicyVisitor;
        impl<'de> Visitor<'de> for PolicyVisitor {
            type Value = PolicyShape;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a window such as 30d, or a map of keepLast, keepDaily and so on")
            }

            fn visit_str<E>(self, text: &str) -> Result<PolicyShape, E> {
                Ok(PolicyShape::Window(text.to_owned()))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<PolicyShape, E> {
                Err(E::custom(format!("{number} of what? write {number}d for days, or w, m, y")))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PolicyShape, A::Error> {
                RulesShape::deserialize(MapAccessDeserializer::new(map)).map(PolicyShape::Rules)
            }
        }
        deserializer.deserialize_any(PolicyVisitor)
    }
}

/// One datastore that is backed up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(tag = "kind")]
#[expect(clippy::large_enum_variant, reason = "a configuration has a handful of sources")]
pub(crate) enum SourceShape {
    /// File trees of this host.
    Files(FilesShape),
    /// A PostgreSQL server, version 13 to 18.
    Postgres(PostgresShape),
}

/// File trees of this host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct FilesShape {
    /// Files and directories.
    pub(crate) paths: At<Vec<At<String>>>,
    /// Globs of what is left out. One without `/` matches a name at any depth.
    #[serde(default)]
    pub(crate) exclude: Vec<At<String>>,
    /// Globs of files that are changed in place, page by page: disks of virtual machines, files of
    /// databases that are stopped. A changed page of 8 KiB then costs its own size.
    #[serde(default)]
    pub(crate) paged: Vec<At<String>>,
    /// Leave out file systems that are mounted below the paths.
    #[serde(default)]
    pub(crate) one_file_system: bool,
    /// Leave out directories that hold a valid `CACHEDIR.TAG`, but for the tag.
    #[serde(default)]
    pub(crate) exclude_caches: bool,
    /// When it is backed up: cron with five fields, or six with seconds first, or `@daily`.
    pub(crate) schedule: Option<At<String>>,
    /// Name of the repository; may be left out when there is one.
    pub(crate) repository: Option<At<String>>,
    /// What `forget` keeps, where it differs from the repository's policy.
    pub(crate) retention_policy: Option<At<PolicyShape>>,
}

/// A PostgreSQL server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PostgresShape {
    /// `postgres://user@host:port/?sslmode=...&sslrootcert=...&sslcert=...&sslkey=...`. A password
    /// comes from a variable, `PGPASSWORD`, `passfile` or `passwordFile`.
    pub(crate) url: At<String>,
    /// Databases to back up. Absent: every one that is found at each run.
    pub(crate) databases: Option<At<Vec<At<String>>>>,
    /// File that holds the password and nothing else.
    pub(crate) password_file: Option<At<String>>,
    /// File in the format of `~/.pgpass`. Default: `$PGPASSFILE`.
    pub(crate) passfile: Option<At<String>>,
    /// How it is read.
    #[serde(default)]
    pub(crate) backup: PostgresBackupShape,
    /// What becomes of the passwords of roles. `keep` needs a superuser.
    #[serde(default)]
    pub(crate) role_passwords: RolePasswordsShape,
    /// Directory of `pg_dump`, `pg_restore` and `psql`. Default: found by the server's version.
    pub(crate) tools_dir: Option<At<String>>,
    /// When it is backed up: cron with five fields, or six with seconds first, or `@daily`.
    pub(crate) schedule: Option<At<String>>,
    /// Name of the repository; may be left out when there is one.
    pub(crate) repository: Option<At<String>>,
    /// What `forget` keeps, where it differs from the repository's policy.
    pub(crate) retention_policy: Option<At<PolicyShape>>,
}

/// How a PostgreSQL server is read.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(tag = "type")]
pub(crate) enum PostgresBackupShape {
    /// One consistent logical dump for each database.
    Dump(DumpShape),
}

impl Default for PostgresBackupShape {
    fn default() -> Self {
        Self::Dump(DumpShape::default())
    }
}

/// A logical dump.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct DumpShape {
    /// Tables that are read at the same time.
    #[schemars(with = "Option<u32>", range(min = 1, max = 64), extend("default" = 2))]
    pub(crate) jobs: Option<At<u32>>,
}

/// What becomes of the passwords of roles.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RolePasswordsShape {
    /// Their hashes are in the backup.
    #[default]
    Keep,
    /// They are left out.
    Omit,
}

/// A value that is written as one word.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Word<T>(pub(crate) T);

impl<'de, T: FromStr<Err: std::fmt::Display>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Word).map_err(serde::de::Error::custom)
    }
}

/// A number of bytes: `256MiB`, `1GiB`, `500MB` or a plain number.
pub(crate) type ByteSize = Word<Bytes>;

/// The number behind a [`ByteSize`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let factor: u64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "kb" => 1_000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            _ => return Err(format!("{text:?} is not a size; write a number and KiB, MiB or GiB")),
        };
        let number: u64 = digits.trim().parse().map_err(|_| format!("{text:?} is not a size; write 256MiB"))?;
        number.checked_mul(factor).map(Self).ok_or_else(|| format!("{text:?} is too large"))
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The JSON schema of the configuration.
pub(crate) fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(StackShape);
    // Values may be variables, which editors would else mark as wrong numbers and patterns.
    schema.insert("$comment".to_owned(), "lifeboat resolves ${NAME} before it checks".into());
    schema.to_value()
}
