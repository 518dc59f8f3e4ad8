//! The history that a backup is about to go on with: whether it is that of the system that stands here,
//! and whether it is whole. Both are told by the headers of roots, which a writer can open.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_model::flow::RunContext;
use lifeboat_model::restore::{clone_refusal, other_system};
use lifeboat_model::target::{Finding, Verdict};
use lifeboat_model::{Digest, ObjectHash, SourceName};
use lifeboat_repo::snapshots::SnapshotList;

use crate::catalog::{Outcome, RunEnd};
use crate::datastore::source_of;
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::{OpenRepository, open_repository};

/// What the roots of a repository tell a host that writes.
#[derive(Debug)]
pub(crate) struct History {
    list: SnapshotList,
}

/// Whether a person said that the sources of this stack stand on another system by right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Yes,
    No,
}

impl History {
    /// Reads it.
    pub(crate) async fn read(repository: &OpenRepository) -> Result<Self, JobError> {
        Ok(Self { list: repository.inner().snapshots(repository.heads()).await? })
    }

    /// Promise 7: refuses a system that is not the one whose history this is: one that this machine
    /// knows as a clone, or one that is not that of the source's newest snapshot.
    pub(crate) fn refuse_other(
        &self,
        host: &Host<'_>,
        repository: &OpenRepository,
        source: &SourceName,
        identity: &BTreeMap<String, String>,
    ) -> Result<(), JobError> {
        let clones = host.remember(host.catalog.clones_of(host.stack())).unwrap_or_default();
        let known = clone_refusal(host.stack(), identity, &clones);
        let refusal = known.or_else(|| {
            let (keys, tag) = (repository.own_keys()?, repository.own_tag(host.stack(), source)?);
            let newest = self.list.newest_system(&tag)?;
            let here = keys.system_tags(identity);
            let same = here.iter().any(|tag| newest.header.systems.contains(tag));
            (!here.is_empty() && !same)
                .then(|| other_system(&host.label_of(source), identity, &newest.id, newest.header.time))
        });
        refusal.map_or(Ok(()), |what| Err(JobError::Forbidden { what, hint: way_out(host) }))
    }

    /// What is wrong with the chains of a source.
    pub(crate) fn troubles(&self, source: Option<Digest>) -> Vec<String> {
        let of_it = self.list.findings.iter().filter(|finding| Some(finding.source_tag) == source);
        let told: BTreeSet<String> = of_it.map(ToString::to_string).collect();
        told.into_iter().collect()
    }
}

fn way_out(host: &Host<'_>) -> String {
    let stack = host.stack();
    format!(
        "a copy of {stack} gets a stack name, and a writer key, of its own; where this system took the place of the \
         other for good (rebuilt, upgraded, moved), `lifeboat backup --moved {stack}` goes on with the history"
    )
}

/// What a backup would refuse, or find wrong, in the history of each source: nothing is changed.
///
/// # Errors
/// [`JobError`] where a repository cannot be opened for writing, or its roots not be read. A source that
/// cannot be reached is passed over.
pub async fn doctor(host: &Host<'_>) -> Result<Vec<(SourceName, Finding)>, JobError> {
    let mut found = Vec::new();
    let mut opened: BTreeMap<&str, (OpenRepository, History)> = BTreeMap::new();
    for source in host.config.sources.values() {
        let Some(config) = host.config.repository_of(source) else { continue };
        if !opened.contains_key(config.name.as_str()) {
            let repository = open_repository(host, config, Need::Write).await?;
            let history = History::read(&repository).await?;
            opened.insert(&config.name, (repository, history));
        }
        let (repository, history) = &opened[config.name.as_str()];
        let mut add = |verdict, what, hint| found.push((source.name.clone(), Finding { verdict, what, hint }));
        if let Some(identity) = identity_of(source, host.run).await {
            match history.refuse_other(host, repository, &source.name, &identity) {
                Ok(()) => {}
                Err(error) => add(Verdict::Bad, error.chain(), error.hint()),
            }
        }
        for trouble in history.troubles(repository.own_tag(host.stack(), &source.name)) {
            add(Verdict::Bad, trouble, Some("`lifeboat check` tells all that is missing".to_owned()));
        }
    }
    Ok(found)
}

/// Takes note that root objects are gone, or damaged, for good, each named by the beginning of its hash: `check`,
/// `backup` and lists on this machine then say nothing more of them.
///
/// # Errors
/// [`JobError::Usage`] where a name fits none of the roots that are gone, or several: nothing is noted then.
pub async fn accept_losses(
    host: &Host<'_>,
    repository: Option<&str>,
    names: &[String],
) -> Result<Vec<String>, JobError> {
    let mut opened = Vec::new();
    for config in host.repositories(repository)? {
        let repository = open_repository(host, config, Need::List).await?;
        let gone = repository.gone().await?;
        opened.push((repository, gone));
    }
    let all: BTreeSet<ObjectHash> = opened.iter().flat_map(|(_, gone)| gone.iter().copied()).collect();
    let mut accepted = BTreeSet::new();
    for name in names {
        let fits: Vec<&ObjectHash> = all.iter().filter(|root| root.to_string().starts_with(name.as_str())).collect();
        let [one] = fits.as_slice() else {
            let known: Vec<String> = all.iter().map(|root| root.short()).collect();
            let what = format!("{name:?} names {} of the root objects that are gone or damaged", fits.len());
            let hint = if known.is_empty() { "none is".to_owned() } else { format!("there is {}", known.join(", ")) };
            return Err(JobError::Usage { what, hint: Some(hint) });
        };
        accepted.insert(**one);
    }
    let run = host.begin("accept-loss", None);
    for (repository, gone) in &mut opened {
        repository.accept(host, accepted.intersection(gone).copied());
    }
    host.end(run, Outcome::Ok, &RunEnd::default());
    Ok(accepted.iter().map(ToString::to_string).collect())
}

async fn identity_of(
    source: &lifeboat_model::config::SourceConfig,
    run: &RunContext,
) -> Option<BTreeMap<String, String>> {
    source_of(source).ok()?.identity(run).await.ok()
}
