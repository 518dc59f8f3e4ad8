use lifeboat_model::Digest;

use super::*;
use crate::testing::{config, day, source, summary};

fn plan(snapshots: &[SnapshotSummary], asked: &[&str]) -> Result<ForgetReport, JobError> {
    let config = config(std::path::Path::new("/nowhere"), &["documents", "registry"]);
    let asked: Vec<SourceName> = asked.iter().map(|name| source(name)).collect();
    plan_forget(&config, "main", snapshots, &asked, day(100))
}

fn history(stack: &str, name: &str, days: u16) -> Vec<SnapshotSummary> {
    (1..=days).rev().map(|n| summary(stack, name, n)).collect()
}

fn forgotten(report: &ForgetReport) -> Vec<SnapshotId> {
    report.groups.iter().flat_map(Group::forgotten).collect()
}

#[test]
fn each_source_is_judged_alone_and_each_verdict_has_its_reasons() {
    let mut snapshots = history("farajaland", "documents", 3);
    snapshots.extend(history("farajaland", "registry", 2));
    let report = plan(&snapshots, &[]).expect("a plan");
    assert_eq!(
        report.groups.iter().map(|g| g.source.as_str()).collect::<Vec<_>>(),
        ["farajaland/documents", "farajaland/registry"]
    );
    assert_eq!(report.groups[0].policy, "last 2");
    assert_eq!(forgotten(&report), [summary("farajaland", "documents", 1).id]);
    let newest = report.groups[0].verdicts.last().expect("three verdicts");
    assert_eq!(newest.snapshot.id, summary("farajaland", "documents", 3).id, "oldest first");
    assert!(newest.reasons.contains(&"last".to_owned()), "{:?}", newest.reasons);
}

#[test]
fn another_stacks_snapshots_are_never_judged_even_when_named() {
    let snapshots = history("ocean", "documents", 9);
    let report = plan(&snapshots, &[]).expect("a plan");
    assert_eq!((report.groups.len(), report.forget_count), (0, 0));
    assert_eq!(report.untouched[0].why, "it belongs to another stack");
    let report = plan(&snapshots, &["documents"]).expect("a plan");
    assert_eq!(report.forget_count, 0);
}

#[test]
fn one_name_in_two_domains_is_two_sources() {
    let mut snapshots = history("farajaland", "documents", 2);
    let mut other = history("farajaland", "documents", 2);
    for snapshot in &mut other {
        snapshot.source_tag = Digest::of(b"another domain");
        snapshot.id = SnapshotId(Digest::of(snapshot.id.bytes()));
    }
    snapshots.extend(other);
    let report = plan(&snapshots, &[]).expect("a plan");
    assert_eq!((report.groups.len(), report.forget_count), (2, 0));
}

#[test]
fn what_has_no_known_name_is_left_alone() {
    let mut snapshots = history("farajaland", "documents", 5);
    for snapshot in &mut snapshots {
        snapshot.stack = None;
        snapshot.source = None;
    }
    let report = plan(&snapshots, &[]).expect("a plan");
    assert!(report.groups.is_empty());
    assert!(report.untouched[0].source.starts_with("unknown-"));
    assert_eq!(report.untouched[0].count, 5);
}

#[test]
fn a_source_that_left_the_configuration_is_judged_only_when_named() {
    let snapshots = history("farajaland", "old", 5);
    let report = plan(&snapshots, &[]).expect("a plan");
    assert!(report.groups.is_empty() && report.untouched[0].why.contains("no longer has it"));
    let report = plan(&snapshots, &["old"]).expect("a plan");
    assert_eq!(report.forget_count, 3);
    assert!(matches!(plan(&snapshots, &["nowhere"]), Err(JobError::Usage { .. })));
}

#[test]
fn what_was_not_asked_for_is_left_alone() {
    let mut snapshots = history("farajaland", "documents", 5);
    snapshots.extend(history("farajaland", "registry", 5));
    let report = plan(&snapshots, &["registry"]).expect("a plan");
    assert_eq!(report.groups.len(), 1);
    assert_eq!((report.untouched[0].source.as_str(), report.untouched[0].count), ("farajaland/documents", 5));
}

#[test]
fn a_held_snapshot_stays() {
    let mut snapshots = history("farajaland", "documents", 5);
    let oldest = snapshots.last_mut().expect("five");
    oldest.held = Some("court case".to_owned());
    let id = oldest.id;
    let report = plan(&snapshots, &[]).expect("a plan");
    assert!(!forgotten(&report).contains(&id));
    assert_eq!(report.groups[0].verdicts[0].reasons, ["held: court case"]);
}

#[test]
fn without_a_policy_nothing_is_forgotten() {
    let mut config = config(std::path::Path::new("/nowhere"), &["documents"]);
    config.repositories.get_mut("main").expect("main").retention = None;
    let report = plan_forget(&config, "main", &history("farajaland", "documents", 9), &[], day(100)).expect("a plan");
    assert_eq!(report.untouched[0].why, "it has no retention policy");
    config.repositories.get_mut("main").expect("main").retention = Some(RetentionPolicy::default());
    let error = plan_forget(&config, "main", &history("farajaland", "documents", 9), &[], day(100));
    assert_eq!(error.expect_err("keeps nothing").exit_code(), 2);
}
