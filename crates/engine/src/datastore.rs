//! From the configuration to sources and targets.

use std::path::{Path, PathBuf};

use lifeboat_model::config::{
    FilesConfig, PostgresBackup, PostgresConfig, RolePasswords, SecretText, SecretUrl, SourceConfig, SourceKind,
};
use lifeboat_source::files::{self, FilesSource, FilesTarget};
use lifeboat_source::postgres::{self, PostgresSource, PostgresTarget};
use lifeboat_source::{Source, SourceError, Target};
use zeroize::Zeroizing;

use crate::restore::To;

/// What is needed to log in to a server that a restore names by URL, beside the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerAccess {
    /// Password from `PGPASSWORD`.
    pub password: Option<SecretText>,
    /// File in the format of `.pgpass`.
    pub passfile: Option<PathBuf>,
}

/// The source that the configuration describes. Connects to nothing.
///
/// # Errors
/// [`SourceError::Config`] for what the source cannot be.
pub fn source_of(config: &SourceConfig) -> Result<Box<dyn Source>, SourceError> {
    Ok(match &config.kind {
        SourceKind::Files(config) => Box::new(FilesSource::new(&files_config(config))?),
        SourceKind::Postgres(config) => Box::new(PostgresSource::new(postgres_config(config))?),
    })
}

/// The target for a snapshot of this kind. `origin` is the source of this machine's configuration
/// that the snapshot came from.
///
/// # Errors
/// [`SourceError::Config`] where such a snapshot cannot go there.
pub fn target_of(
    kind: &str,
    to: &To,
    origin: Option<&SourceConfig>,
    access: &ServerAccess,
) -> Result<Box<dyn Target>, SourceError> {
    let origin = origin.map(|source| &source.kind);
    Ok(match (kind, to, origin) {
        // Entries of any kind become files: what PostgreSQL's own programs take, for one.
        (_, To::Dir(dir), _) => Box::new(FilesTarget { root: Some(dir.clone()), machine_id: None }),
        ("files", To::Origin, _) => Box::new(FilesTarget { root: None, machine_id: None }),
        ("postgres", To::Origin, Some(SourceKind::Postgres(config))) => {
            Box::new(PostgresTarget::new(postgres_config(config))?)
        }
        ("postgres", To::Server(url), _) => Box::new(PostgresTarget::new(server_config(url, access, origin))?),
        (_, To::Origin, None) => {
            return Err(refused(
                "the configuration has no source of this name that could be the origin",
                "name the place with --to DIR or --to URL",
            ));
        }
        (_, To::Origin, Some(other)) => {
            let what = format!("the snapshot is of kind {kind} and the configured source of kind {}", other.as_str());
            return Err(refused(what, "name the place with --to DIR or --to URL"));
        }
        (_, To::Server(url), _) => {
            let what = format!("a snapshot of kind {kind} cannot be restored to the server {url}");
            return Err(refused(what, "--to DIR writes its entries as files"));
        }
    })
}

fn refused(what: impl Into<String>, hint: &str) -> SourceError {
    SourceError::Config { what: what.into(), hint: Some(hint.to_owned()) }
}

fn files_config(config: &FilesConfig) -> files::FilesConfig {
    files::FilesConfig {
        paths: config.paths.clone(),
        exclude: config.exclude.clone(),
        paged: config.paged.clone(),
        one_file_system: config.one_file_system,
        exclude_caches: config.exclude_caches,
        machine_id: None,
    }
}

fn postgres_config(config: &PostgresConfig) -> postgres::PostgresConfig {
    let PostgresBackup::Dump { jobs } = config.backup;
    postgres::PostgresConfig {
        url: config.url.expose().to_owned(),
        password: config.password.as_ref().map(secret),
        password_file: config.password_file.clone(),
        passfile: config.passfile.clone(),
        databases: config.databases.clone(),
        jobs,
        role_passwords: match config.role_passwords {
            RolePasswords::Keep => postgres::RolePasswords::Keep,
            RolePasswords::Omit => postgres::RolePasswords::Omit,
        },
        tool_dirs: tool_dirs(config.tools_dir.as_deref()),
    }
}

/// A server that the configuration does not know; the tools are those that the source is set to use.
fn server_config(url: &SecretUrl, access: &ServerAccess, origin: Option<&SourceKind>) -> postgres::PostgresConfig {
    let tools_dir = match origin {
        Some(SourceKind::Postgres(config)) => config.tools_dir.as_deref(),
        _ => None,
    };
    postgres::PostgresConfig {
        url: url.expose().to_owned(),
        password: access.password.as_ref().map(secret),
        passfile: access.passfile.clone(),
        tool_dirs: tool_dirs(tools_dir),
        ..postgres::PostgresConfig::default()
    }
}

fn secret(text: &SecretText) -> Zeroizing<String> {
    Zeroizing::new(text.expose().to_owned())
}

fn tool_dirs(dir: Option<&Path>) -> Vec<PathBuf> {
    dir.map(Path::to_owned).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::files_source;

    fn why(kind: &str, to: &To, origin: Option<&SourceConfig>) -> String {
        match target_of(kind, to, origin, &ServerAccess::default()) {
            Ok(_) => "accepted".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn any_kind_goes_to_a_directory_and_files_back_in_place() {
        let dir = To::Dir(PathBuf::from("/scratch"));
        assert_eq!(why("postgres", &dir, None), "accepted");
        assert_eq!(why("mongodb", &dir, None), "accepted");
        assert_eq!(why("files", &To::Origin, None), "accepted");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let url = To::Server(SecretUrl::new("postgres://u:secret@h/".to_owned()));
        let refusal = why("files", &url, None);
        assert!(refusal.contains("cannot be restored to the server") && !refusal.contains("secret"), "{refusal}");
        assert!(why("postgres", &To::Origin, None).contains("no source of this name"));
        let files = files_source("registry", vec![PathBuf::from("/srv")]);
        assert!(why("postgres", &To::Origin, Some(&files)).contains("configured source of kind files"));
    }
}
