//! Retention: which snapshots are kept and why, and dropping the others.

use jiff::Timestamp;
use lifeboat_model::config::StackConfig;
use lifeboat_model::retention::{RetentionPolicy, Verdict, apply_retention};
use lifeboat_model::{Digest, SnapshotId, SnapshotSummary, SourceName};
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd};
use crate::error::JobError;
use crate::host::Host;
use crate::keys::Need;
use crate::repository::{OpenRepository, open_repository};

/// What a `forget` would do or has done, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForgetReport {
    /// The repository's name in the configuration.
    pub repository: String,
    /// Sources of this stack that a policy was applied to.
    pub groups: Vec<Group>,
    /// Sources that were left alone, and why.
    pub untouched: Vec<Untouched>,
    /// How many snapshots the policies forget.
    pub forget_count: u64,
    /// Whether only the plan was made.
    pub dry_run: bool,
}

/// The snapshots of one source of one writer's domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// `stack/source`.
    pub source: String,
    /// The policy in words.
    pub policy: String,
    /// Each snapshot, oldest first.
    pub verdicts: Vec<Judged>,
}

/// What becomes of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// Whether it stays.
    pub keep: bool,
    /// Why it stays.
    pub reasons: Vec<String>,
    /// What is odd about its time.
    pub suspicion: Option<String>,
}

/// A group that no policy was applied to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Untouched {
    /// `stack/source`, or the beginning of its tag where the name is not known.
    pub source: String,
    /// How many snapshots it has.
    pub count: u64,
    /// Why it was left alone.
    pub why: &'static str,
}

/// What is to be forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForgetRequest {
    /// The repository, where the configuration has several; `None` = all of them.
    pub repository: Option<String>,
    /// Which sources; empty = all of the configuration.
    pub sources: Vec<SourceName>,
    /// Whether to plan only.
    pub dry_run: bool,
}

/// Applies the retention policies. `confirm` is shown each plan that forgets something.
///
/// # Errors
/// [`JobError`]: no maintainer key or identity, a policy that keeps nothing, [`JobError::Declined`].
pub async fn forget(
    host: &Host<'_>,
    request: &ForgetRequest,
    confirm: &(dyn Fn(&ForgetReport) -> bool + Send + Sync),
) -> Result<Vec<ForgetReport>, JobError> {
    let mut reports = Vec::new();
    for config in host.repositories(request.repository.as_deref())? {
        let mut repository = open_repository(host, config, Need::Maintain).await?;
        let listing = repository.list(host).await?;
        let mut report = plan_forget(host.config, &config.name, &listing.snapshots, &request.sources, host.now())?;
        report.dry_run = request.dry_run;
        if !request.dry_run && report.forget_count > 0 {
            if !confirm(&report) {
                return Err(JobError::Declined);
            }
            let run = host.begin("forget", None);
            let done = carry_out(host, &repository, &report).await;
            let outcome = if done.is_ok() { Outcome::Ok } else { Outcome::Failed };
            let error = done.as_ref().err().map(JobError::chain);
            host.end(run, outcome, &RunEnd { error, ..RunEnd::default() });
            done?;
        }
        reports.push(report);
    }
    Ok(reports)
}

async fn carry_out(host: &Host<'_>, repository: &OpenRepository, report: &ForgetReport) -> Result<(), JobError> {
    for group in &report.groups {
        let ids = group.forgotten();
        let why = format!("retention policy: {}", group.policy);
        repository.forget(host, &ids, &why).await?;
        for id in ids {
            host.remember(host.catalog.drop_snapshot(repository.id(), id));
        }
    }
    Ok(())
}

/// Judges all snapshots of a repository. `asked` narrows it to some sources and may name sources
/// of this stack that the configuration no longer has: those fall under the repository's policy.
/// Snapshots of other stacks are never judged.
///
/// # Errors
/// [`JobError::Usage`] for a policy that keeps nothing, and for an asked source that neither the
/// configuration nor the repository has.
pub fn plan_forget(
    config: &StackConfig,
    repository: &str,
    snapshots: &[SnapshotSummary],
    asked: &[SourceName],
    now: Timestamp,
) -> Result<ForgetReport, JobError> {
    let mut report = ForgetReport { repository: repository.to_owned(), dry_run: true, ..ForgetReport::default() };
    for group in groups_of(snapshots) {
        match policy_for(config, repository, &group, asked) {
            Ok(policy) => report.groups.push(judge(policy, &group, now, config)?),
            Err(why) => {
                report.untouched.push(Untouched { source: group[0].group(), count: group.len() as u64, why });
            }
        }
    }
    let ours = |name: &SourceName| {
        config.sources.contains_key(name)
            || snapshots.iter().any(|s| s.stack.as_ref() == Some(&config.stack) && s.source.as_ref() == Some(name))
    };
    if let Some(unknown) = asked.iter().find(|name| !ours(name)) {
        return Err(JobError::no_source(unknown.as_str(), config.sources.keys()));
    }
    report.forget_count = report.groups.iter().map(|group| group.forgotten().len() as u64).sum();
    Ok(report)
}

impl Group {
    /// The snapshots that no rule keeps.
    #[must_use]
    pub fn forgotten(&self) -> Vec<SnapshotId> {
        self.verdicts.iter().filter(|judged| !judged.keep).map(|judged| judged.snapshot.id).collect()
    }
}

/// Snapshots by source tag: equal tags are one source of one domain. Each group oldest first.
fn groups_of(snapshots: &[SnapshotSummary]) -> Vec<Vec<&SnapshotSummary>> {
    let mut groups: std::collections::BTreeMap<(String, Digest), Vec<&SnapshotSummary>> =
        std::collections::BTreeMap::new();
    for snapshot in snapshots {
        groups.entry((snapshot.group(), snapshot.source_tag)).or_default().push(snapshot);
    }
    let mut groups: Vec<Vec<&SnapshotSummary>> = groups.into_values().collect();
    for group in &mut groups {
        group.sort_by_key(|s| (s.stored_at, s.sequence, s.id));
    }
    groups
}

/// The policy of a group, or why it has none. Copies fall under that of the repository that they are
/// in, whatever the source's own repository does.
fn policy_for<'a>(
    config: &'a StackConfig,
    repository: &str,
    group: &[&SnapshotSummary],
    asked: &[SourceName],
) -> Result<&'a RetentionPolicy, &'static str> {
    let of = group[0];
    let own = || config.repositories.get(repository).and_then(|repository| repository.retention.as_ref());
    let (Some(stack), Some(source)) = (&of.stack, &of.source) else {
        return Err("its name is not known to this configuration");
    };
    if *stack != config.stack {
        return Err("it belongs to another stack");
    }
    if !asked.is_empty() && !asked.contains(source) {
        return Err("it was not asked for");
    }
    let policy = match config.sources.get(source) {
        Some(configured) if configured.repository == repository => config.retention_of(configured),
        Some(_) if group.iter().any(|snapshot| snapshot.original.is_some()) => own(),
        Some(_) => return Err("the configuration sends it to another repository"),
        None if asked.contains(source) => own(),
        None => return Err("the configuration no longer has it; name it to apply the repository's policy"),
    };
    policy.ok_or("it has no retention policy")
}

fn judge(
    policy: &RetentionPolicy,
    group: &[&SnapshotSummary],
    now: Timestamp,
    config: &StackConfig,
) -> Result<Group, JobError> {
    // What is listed is sealed and not void: as far as is known it can be restored.
    let candidates: Vec<_> = group.iter().map(|s| s.candidate(true)).collect();
    let judgements = apply_retention(policy, &candidates, now, &config.time_zone).map_err(|error| JobError::Usage {
        what: format!("{} is not forgotten by its policy: {error}", group[0].group()),
        hint: Some("set `retentionPolicy`, such as \"30d\"".to_owned()),
    })?;
    let judged = group.iter().zip(judgements).map(|(snapshot, judgement)| {
        let reasons = match judgement.verdict {
            Verdict::Keep(reasons) => reasons.iter().map(ToString::to_string).collect(),
            Verdict::Forget => Vec::new(),
        };
        let suspicion = judgement.suspicion.map(|suspicion| suspicion.to_string());
        Judged { snapshot: (*snapshot).clone(), keep: !reasons.is_empty(), reasons, suspicion }
    });
    Ok(Group { source: group[0].group(), policy: policy.to_string(), verdicts: judged.collect() })
}

#[cfg(test)]
mod tests;
