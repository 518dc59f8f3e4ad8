use lifeboat_model::SnapshotId;
use lifeboat_model::config::RepositoryConfig;

use super::*;
use crate::testing::{config, day, summary};

fn tag(stack: &str, source: &str) -> Digest {
    Digest::of(format!("offsite {stack}/{source}").as_bytes())
}

/// The copy of a snapshot.
fn copy_of(original: &SnapshotSummary) -> SnapshotSummary {
    SnapshotSummary {
        id: SnapshotId(Digest::of(original.id.to_string().as_bytes())),
        original: Some(original.first_id()),
        countersigned_time: Some(original.stored_at),
        stored_at: day(300),
        time: day(300),
        source_tag: tag("farajaland", "documents"),
        ..original.clone()
    }
}

fn with_offsite(policy: Option<RetentionPolicy>) -> StackConfig {
    let mut config = config(std::path::Path::new("/nowhere"), &["documents"]);
    let main = config.repositories["main"].clone();
    let offsite = RepositoryConfig { name: "offsite".to_owned(), retention: policy, ..main };
    config.repositories.insert("offsite".to_owned(), offsite);
    config
}

fn keep_last(count: u32) -> RetentionPolicy {
    RetentionPolicy { keep_last: count, ..RetentionPolicy::default() }
}

fn decide(
    policy: Option<RetentionPolicy>,
    asked: &[SnapshotRef],
    from: &[SnapshotSummary],
    there: &[SnapshotSummary],
) -> Result<Plan, JobError> {
    let tag = |stack: &StackName, source: &SourceName| Some(tag(stack.as_str(), source.as_str()));
    let to = Destination { name: "offsite", tag: &tag };
    plan_copy(&with_offsite(policy), &to, asked, from, there, day(300))
}

/// Days of what is copied, how many are there, days of what is left out.
fn planned(
    policy: impl Into<Option<RetentionPolicy>>,
    asked: &[&str],
    from: &[SnapshotSummary],
    there: &[SnapshotSummary],
) -> (Vec<u64>, u64, Vec<u64>) {
    let asked: Vec<_> = asked.iter().map(|text| SnapshotRef::parse(text).expect("a reference")).collect();
    let plan = decide(policy.into(), &asked, from, there).expect("a plan");
    let days = |snapshots: Vec<SnapshotSummary>| snapshots.iter().map(|s| s.sequence).collect();
    let left = plan.left_out.into_iter().map(|left| left.snapshot).collect();
    (days(plan.copies), plan.there, days(left))
}

#[test]
fn what_the_other_lacks_and_would_keep_is_copied_oldest_first() {
    let mut from: Vec<_> = [5, 1, 3].map(|n| summary("farajaland", "documents", n)).into();
    from.push(summary("ocean", "cards", 2));
    let there = [copy_of(&from[1])];
    assert_eq!(planned(None, &[], &from, &[]), (vec![1, 2, 3, 5], 0, vec![]));
    assert_eq!(planned(None, &[], &from, &there), (vec![2, 3, 5], 1, vec![]));
    assert_eq!(planned(keep_last(2), &[], &from, &[]), (vec![2, 3, 5], 0, vec![1]), "other stacks have no policy");
    assert_eq!(planned(keep_last(1), &["documents"], &from, &there), (vec![5], 1, vec![3]));
    let short = from[1].id.short();
    assert_eq!(planned(keep_last(1), &[&format!("documents@{short}")], &from, &[]), (vec![1], 0, vec![]));
    assert_eq!(planned(keep_last(1), &["documents@latest", "ocean/cards"], &from, &[]), (vec![2, 5], 0, vec![]));
}

#[test]
fn after_a_forget_nothing_is_brought_back() {
    let from: Vec<_> = (1..=4).map(|n| summary("farajaland", "documents", n)).collect();
    let there: Vec<_> = from[2..].iter().map(copy_of).collect();
    assert_eq!(planned(keep_last(2), &[], &from, &there), (vec![], 2, vec![1, 2]));
    assert_eq!(planned(keep_last(3), &[], &from, &there), (vec![2], 2, vec![1]));
}

#[test]
fn a_copy_that_goes_home_finds_its_original() {
    let original = summary("farajaland", "documents", 1);
    let copies = [copy_of(&original)];
    assert_eq!(planned(None, &[], &copies, &[original]), (vec![], 1, vec![]));
}

#[test]
fn what_names_nothing_is_told() {
    let asked = [SnapshotRef::parse("cards@latest").expect("a reference")];
    let from = [summary("farajaland", "documents", 1)];
    let refused = decide(None, &asked, &from, &[]).expect_err("no such source");
    assert!(matches!(refused, JobError::Resolve(_)), "{refused}");
}
