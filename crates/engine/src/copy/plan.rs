//! Which snapshots a copy brings: decided from two lists and the policy of the repository that they go to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use lifeboat_model::config::StackConfig;
use lifeboat_model::restore::{at_home, resolve};
use lifeboat_model::retention::{RetentionPolicy, Verdict, apply_retention};
use lifeboat_model::{Digest, SnapshotId, SnapshotRef, SnapshotSummary, SourceName, StackName};

use super::LeftOut;
use crate::error::JobError;

/// What a copy is going to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// What is copied, oldest first.
    pub(crate) copies: Vec<SnapshotSummary>,
    /// Those that were asked for one by one.
    pub(crate) named: BTreeSet<SnapshotId>,
    /// How many are there already.
    pub(crate) there: u64,
    /// What is not copied, and why.
    pub(crate) left_out: Vec<LeftOut>,
}

/// Where copies go, as far as the plan has to know.
pub(crate) struct Destination<'a> {
    /// Its name in the configuration.
    pub(crate) name: &'a str,
    /// The tag under which it files copies of a source.
    pub(crate) tag: &'a dyn Fn(&StackName, &SourceName) -> Option<Digest>,
}

/// Decides. What is asked for one by one is copied whatever the policy says; of sources, and of
/// everything, what `to` would forget at once is left out, so that a copy after a `forget` does not
/// bring it back.
pub(crate) fn plan_copy(
    config: &StackConfig,
    to: &Destination<'_>,
    asked: &[SnapshotRef],
    from: &[SnapshotSummary],
    there: &[SnapshotSummary],
    now: Timestamp,
) -> Result<Plan, JobError> {
    let mut plan = Plan::default();
    let wanted = wanted(config, asked, from, &mut plan.named)?;
    let known: BTreeSet<SnapshotId> = there.iter().map(SnapshotSummary::first_id).collect();
    let mut groups: BTreeMap<(StackName, SourceName), Vec<&SnapshotSummary>> = BTreeMap::new();
    for snapshot in from.iter().filter(|snapshot| wanted.contains(&snapshot.id)) {
        if known.contains(&snapshot.first_id()) {
            plan.there += 1;
        } else if let (Some(stack), Some(source)) = (&snapshot.stack, &snapshot.source) {
            groups.entry((stack.clone(), source.clone())).or_default().push(snapshot);
        } else {
            let why = "the identity does not open its body".to_owned();
            plan.left_out.push(LeftOut { snapshot: snapshot.clone(), why, problem: true });
        }
    }
    for ((stack, source), group) in groups {
        let policy = policy_in(config, to.name, &stack, &source);
        let tag = (to.tag)(&stack, &source);
        let beside: Vec<&SnapshotSummary> = there.iter().filter(|s| Some(s.source_tag) == tag).collect();
        let short_lived = policy.map_or_else(BTreeSet::new, |policy| short_lived(policy, &group, &beside, now, config));
        for snapshot in group {
            if short_lived.contains(&snapshot.id) && !plan.named.contains(&snapshot.id) {
                let policy = policy.map_or_else(String::new, ToString::to_string);
                let why = format!("the retention policy of {} ({policy}) would forget it", to.name);
                plan.left_out.push(LeftOut { snapshot: snapshot.clone(), why, problem: false });
            } else {
                plan.copies.push(snapshot.clone());
            }
        }
    }
    plan.copies.sort_by_key(|snapshot| (snapshot.candidate(true).dated(), snapshot.sequence, snapshot.id));
    Ok(plan)
}

/// Ids of what was asked for.
fn wanted(
    config: &StackConfig,
    asked: &[SnapshotRef],
    from: &[SnapshotSummary],
    named: &mut BTreeSet<SnapshotId>,
) -> Result<BTreeSet<SnapshotId>, JobError> {
    if asked.is_empty() {
        return Ok(from.iter().map(|snapshot| snapshot.id).collect());
    }
    let mut wanted = BTreeSet::new();
    for asked in asked {
        let asked = at_home(asked, &config.stack, from);
        let one = resolve(&asked, from, &config.time_zone)?;
        let is_source = asked.which.is_none() && asked.source.is_some() && one.source == asked.source;
        if is_source {
            let all = from.iter().filter(|s| s.stack == one.stack && s.source == one.source);
            wanted.extend(all.map(|snapshot| snapshot.id));
        } else {
            named.insert(one.id);
            wanted.insert(one.id);
        }
    }
    Ok(wanted)
}

/// The policy by which the repository that copies go to will judge them, where `forget` judges them at all.
fn policy_in<'a>(
    config: &'a StackConfig,
    repository: &str,
    stack: &StackName,
    source: &SourceName,
) -> Option<&'a RetentionPolicy> {
    if *stack != config.stack {
        return None;
    }
    let configured = config.sources.get(source)?;
    if configured.repository == repository {
        return config.retention_of(configured);
    }
    config.repositories.get(repository)?.retention.as_ref()
}

/// Those of `group` that the policy would forget beside what is there.
fn short_lived(
    policy: &RetentionPolicy,
    group: &[&SnapshotSummary],
    beside: &[&SnapshotSummary],
    now: Timestamp,
    config: &StackConfig,
) -> BTreeSet<SnapshotId> {
    let as_copy = |snapshot: &&SnapshotSummary| {
        let mut candidate = snapshot.candidate(true);
        candidate.countersigned_time = Some(candidate.dated());
        // Holds stay behind: they are words about the original.
        candidate.held = None;
        candidate
    };
    let mut candidates: Vec<_> = group.iter().map(as_copy).collect();
    candidates.extend(beside.iter().map(|snapshot| snapshot.candidate(true)));
    let judged = apply_retention(policy, &candidates, now, &config.time_zone).unwrap_or_default();
    let forgotten = judged.into_iter().filter(|judgement| judgement.verdict == Verdict::Forget);
    forgotten.map(|judgement| judgement.id).collect()
}

#[cfg(test)]
mod tests;
