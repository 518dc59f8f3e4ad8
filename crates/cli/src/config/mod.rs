//! The configuration file: found, read, checked, shown.
//!
//! `yaml` parses into a tree with places, `variables` puts `${NAME}` in, `typed` reads the tree
//! into `shape`, and `check` makes the [`StackConfig`] that the rest of the program works with.

mod check;
mod fault;
mod portable;
mod shape;
mod typed;
mod variables;
mod yaml;

use std::path::{Path, PathBuf};

use lifeboat_model::config::{Role, StackConfig};

pub(crate) use check::usual_ssh;
pub(crate) use check::{StateDir, Surroundings};
pub(crate) use fault::ConfigError;
pub(crate) use shape::schema;
pub(crate) use variables::Environment;

/// A configuration and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) path: PathBuf,
    pub(crate) config: StackConfig,
    /// What a person should know though it is allowed.
    pub(crate) warnings: Vec<String>,
}

/// Reads and checks the file at `path`.
pub(crate) fn load(path: &Path, state_dir: StateDir, environment: &dyn Environment) -> Result<Loaded, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(unreadable)?;
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    let config = parse(&text, &Surroundings { directory, state_dir, environment })
        .map_err(|fault| ConfigError::bad(path, &text, fault))?;
    let warnings = warnings(&config);
    Ok(Loaded { path: path.to_owned(), config, warnings })
}

/// A value as YAML.
pub(crate) fn to_yaml(value: &impl serde::Serialize) -> Result<String, ConfigError> {
    yaml::write(value).map_err(|fault| ConfigError::bad(Path::new("standard output"), "", fault))
}

/// The configuration that a snapshot carries, for a machine that only restores: its role, and the
/// store and identity that were just used in place of those of the old host. Its state directory
/// is not this machine's.
pub(crate) fn for_restore(text: &str, url: &str, identity: &Path) -> Result<String, ConfigError> {
    let bad = |fault| ConfigError::bad(Path::new("the snapshot's configuration"), text, fault);
    let mut tree = yaml::parse(text).map_err(bad)?;
    tree.set("role", "restore");
    tree.remove("stateDir");
    let escape = |text: &str| text.replace('$', "$$");
    if let Some(repositories) = tree.get_mut("repositories") {
        let one = repositories.children().count() == 1;
        for repository in repositories.children() {
            for key in ["writerKeyFile", "maintainerKeyFile", "identityFile"] {
                repository.remove(key);
            }
            if one || repository.text("url") == Some(url) {
                repository.set("url", &escape(url));
                repository.set("identityFile", &escape(&identity.to_string_lossy()));
            }
        }
    }
    yaml::write(&tree).map_err(bad)
}

fn parse(text: &str, around: &Surroundings<'_>) -> Result<StackConfig, fault::Fault> {
    let mut tree = yaml::parse(text)?;
    let portable = portable::portable(&tree, around.environment)?;
    variables::resolve(&mut tree, around.environment)?;
    let shape: shape::StackShape = typed::read(&tree)?;
    check::check(&shape, portable, around)
}

fn warnings(config: &StackConfig) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.role == Role::Both {
        warnings.push(
            "role: both lets this machine read and destroy what it backs up; on a production host use role: backup"
                .to_owned(),
        );
    }
    if config.role == Role::Restore && config.sources.values().any(|source| source.schedule.is_some()) {
        warnings.push("role: restore runs no schedules".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests;
