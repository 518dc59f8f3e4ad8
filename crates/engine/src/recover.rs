//! Everything that a repository holds, from nothing but its store and an identity.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::tz::TimeZone;
use lifeboat_model::config::{PortableConfig, RepositoryConfig, Role, SecretUrl, StackConfig, StoreOptions};
use lifeboat_model::{SnapshotSummary, StackName};
use serde::Serialize;

use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::{bare, elsewhere, open_repository};

/// What a repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoverReport {
    /// The repository's id.
    pub repository: String,
    /// Its stacks by name.
    pub stacks: Vec<RecoveredStack>,
    /// Root objects that do not count, and why.
    pub refused: Vec<String>,
}

/// One stack of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecoveredStack {
    /// Its name.
    pub stack: StackName,
    /// Its sources with their restore points, oldest first.
    pub sources: BTreeMap<String, Vec<SnapshotSummary>>,
    /// The configuration that its newest snapshot carries, without secrets.
    pub config: Option<String>,
    /// What a person has to supply before that configuration works again.
    pub supply: Vec<String>,
}

/// A configuration that leads to a repository and knows nothing else. With it every reading job
/// works: list, restore to a directory or a server, check.
///
/// # Panics
/// Never: the stack's stand-in is a name.
#[must_use]
pub fn bare_config(url: &SecretUrl, store: &StoreOptions, identity_file: &Path, state_dir: &Path) -> StackConfig {
    let repository = RepositoryConfig { identity_file: Some(identity_file.to_owned()), ..bare(url, store) };
    StackConfig {
        stack: StackName::new("recover").expect("the word is a name"),
        role: Role::Restore,
        time_zone: TimeZone::UTC,
        state_dir: state_dir.to_owned(),
        memory_budget_bytes: 256 << 20,
        repositories: BTreeMap::from([(repository.name.clone(), repository)]),
        sources: BTreeMap::new(),
        portable: PortableConfig::default(),
    }
}

/// Lists stacks, sources and restore points of the only repository of `host` (see
/// [`bare_config`]), with the configuration of each stack.
///
/// # Errors
/// [`JobError`] where the repository cannot be opened with the identity, or a body cannot be read.
pub async fn recover(host: &Host<'_>) -> Result<RecoverReport, JobError> {
    let config = host.repository(None)?;
    let mut repository = open_repository(host, config, Need::Read).await.map_err(elsewhere)?;
    let listing = repository.list(host).await?;
    let mut stacks: BTreeMap<StackName, BTreeMap<String, Vec<SnapshotSummary>>> = BTreeMap::new();
    for snapshot in listing.snapshots {
        let (Some(stack), Some(source)) = (snapshot.stack.clone(), snapshot.source.clone()) else { continue };
        stacks.entry(stack).or_default().entry(source.to_string()).or_default().push(snapshot);
    }
    let mut report =
        RecoverReport { repository: repository.id().to_owned(), stacks: Vec::new(), refused: listing.refused };
    for (stack, sources) in stacks {
        let newest = sources.values().flatten().max_by_key(|snapshot| (snapshot.instant(), snapshot.id));
        let config = match newest {
            Some(snapshot) => Some(repository.read(snapshot.id).await?.1.config).filter(|text| !text.is_empty()),
            None => None,
        };
        let supply = config.as_deref().map(supply_of).unwrap_or_default();
        report.stacks.push(RecoveredStack { stack, sources, config, supply });
    }
    Ok(report)
}

/// The variables and files that a configuration names.
fn supply_of(yaml: &str) -> Vec<String> {
    let mut supply = BTreeSet::new();
    for line in yaml.lines() {
        // `$$` is a dollar and begins no variable.
        let mut rest = &line.replace("$$", "")[..];
        while let Some((_, after)) = rest.split_once("${") {
            let Some((name, behind)) = after.split_once('}') else { break };
            supply.insert(format!("the variable {name}"));
            rest = behind;
        }
        if let Some((key, value)) = line.trim_start_matches([' ', '-', '{']).split_once(':') {
            let key = key.trim();
            let file = value.trim().trim_matches(['"', '\'']);
            // The repository's own key files are those of the host that is gone.
            if ["passwordFile", "passfile"].contains(&key) && !file.is_empty() && !file.contains("${") {
                supply.insert(format!("the file {file} ({key})"));
            }
        }
    }
    supply.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_tells_which_secrets_it_needs() {
        let yaml = "stack: a\nrepositories:\n  main:\n    writerKeyFile: /etc/lifeboat/writer.key\n    note: costs $${NOT_THIS}\n\
                    sources:\n  registry:\n    url: postgres://b:${PG_PASSWORD}@${PG_HOST}/\n    passfile: \"/etc/pgpass\"\n";
        assert_eq!(
            supply_of(yaml),
            ["the file /etc/pgpass (passfile)", "the variable PG_HOST", "the variable PG_PASSWORD",]
        );
        assert!(supply_of("a: ${unfinished\n").is_empty());
    }
}
