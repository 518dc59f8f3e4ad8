//! Two stacks in one repository.

use lifeboat_engine::forget::{ForgetRequest, forget};
use lifeboat_engine::restore::To;
use lifeboat_engine::snapshot::{Word, hold};
use lifeboat_engine::upkeep::prune;
use lifeboat_model::StackName;
use lifeboat_model::restore::{ResolveError, at_home, resolve};

use crate::site::{Has, Site, asked, put};

#[tokio::test]
async fn stacks_in_one_repository_never_share_chunks() {
    let site = Site::new(&["documents"]).await;
    let other = site.joined("ocean", &["documents"]).await;
    let text = "the same letter in both stacks\n".repeat(200);
    put(&site.path("documents").join("same.txt"), &text);
    put(&other.path("documents").join("same.txt"), &text);
    site.backup().await;
    let report = other.backup().await;
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert!(report.backups[0].new_bytes >= text.len() as u64, "stored anew: {report:?}");
    assert_eq!(other.backup().await.backups[0].new_bytes, 0, "and deduplicated inside the domain");
}

#[tokio::test]
async fn a_stack_does_not_forget_anothers_snapshots() {
    let mut site = Site::new(&["documents"]).await;
    let mut other = site.joined("ocean", &["documents"]).await;
    for _ in 0..3 {
        site.backup().await;
        other.backup().await;
    }
    // With nothing but a maintainer key: no names of the other stack, no content.
    site.only(&[Has::Maintainer]);
    let dry = ForgetRequest { dry_run: true, ..ForgetRequest::default() };
    let plan = forget(&site.host(), &dry, &|_| true).await.expect("a plan").remove(0);
    assert_eq!((plan.forget_count, plan.groups.len(), plan.untouched.len()), (2, 1, 1), "{plan:?}");
    assert_eq!(site.list().await.snapshots.len(), 6, "a dry run forgets nothing");
    let declined = forget(&site.host(), &ForgetRequest::default(), &|_| false).await;
    assert!(declined.is_err());
    assert_eq!(site.list().await.snapshots.len(), 6);
    forget(&site.host(), &ForgetRequest::default(), &|_| true).await.expect("forgotten");
    assert_eq!(site.list().await.snapshots.len(), 4);
    let pruned = prune(&site.host(), None, false).await.expect("pruned").remove(0);
    assert_eq!((pruned.done.refused, pruned.done.problems), (vec![], vec![]));
    other.only(&[Has::Identity]);
    let left = other.list().await;
    assert_eq!(left.snapshots.iter().filter(|s| s.group() == "ocean/documents").count(), 3);
    assert_eq!(left.findings, Vec::<String>::new(), "signed forgets explain what is gone");
    let report = forget(&site.host(), &ForgetRequest::default(), &|_| panic!("nothing to confirm")).await;
    assert_eq!(report.expect("nothing left to do")[0].forget_count, 0);
}

#[tokio::test]
async fn a_held_snapshot_outlives_its_policy_until_it_is_released() {
    let site = Site::new(&["documents"]).await;
    for _ in 0..2 {
        site.backup().await;
    }
    let oldest = site.list().await.snapshots[0].clone();
    let name = [asked(&oldest.id.to_string()[..8])];
    hold(&site.host(), &name, None, &Word::Hold("court case".to_owned())).await.expect("held");
    forget(&site.host(), &ForgetRequest::default(), &|_| true).await.expect("nothing");
    assert_eq!(site.list().await.snapshots[0].held.as_deref(), Some("court case"));
    site.clock.advance(std::time::Duration::from_secs(1));
    hold(&site.host(), &name, None, &Word::Release("closed".to_owned())).await.expect("released");
    forget(&site.host(), &ForgetRequest::default(), &|_| true).await.expect("forgotten");
    let left = site.list().await.snapshots;
    assert!(left.len() == 1 && left[0].id != oldest.id);
}

#[tokio::test]
async fn a_second_stack_in_the_repository_does_not_change_what_a_source_means() {
    let site = Site::new(&["documents"]).await;
    let other = site.joined("ocean", &["documents"]).await;
    site.backup().await;
    other.backup().await;
    let listed = site.list().await.snapshots;
    assert_eq!(listed.len(), 2);
    let home = at_home(&asked("documents"), &site.config.stack, &listed);
    let away = at_home(&asked("documents"), &StackName::new("bare").expect("a name"), &listed);
    let zone = jiff::tz::TimeZone::UTC;
    assert_eq!(resolve(&home, &listed, &zone).expect("its own").group(), "farajaland/documents");
    let Err(ResolveError::SeveralStacks { stacks, .. }) = resolve(&away, &listed, &zone) else { panic!("refused") };
    assert_eq!(stacks, ["farajaland", "ocean"]);
    let to = |name: &str| To::Dir(site.dir.path().join(name));
    site.restore(&Site::ask("documents", to("own"))).await.expect("restored");
    site.restore(&Site::ask("ocean/documents", to("foreign"))).await.expect("restored");
}
