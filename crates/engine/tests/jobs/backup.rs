//! What a backup refuses, reports and leaves behind.

use std::collections::BTreeSet;
use std::sync::Arc;

use lifeboat_engine::backup::{BackupRequest, backup};
use lifeboat_engine::lock::Lock;
use lifeboat_model::SnapshotSummary;
use lifeboat_model::config::{Role, SourceKind};
use lifeboat_model::flow::{Cancel, Monitor};

use crate::site::{Site, no_machine_id, put, source};

#[tokio::test]
async fn each_source_becomes_a_snapshot_and_the_second_one_costs_what_changed() {
    let site = Site::new(&["documents", "registry"]).await;
    let first = site.backup().await;
    assert_eq!(first.exit_code(), 0, "{first:?}");
    assert_eq!(
        first.backups.iter().map(|one| one.source.as_str()).collect::<Vec<_>>(),
        ["farajaland/documents", "farajaland/registry"]
    );
    assert!(first.backups.iter().all(|one| one.snapshot.is_some() && one.new_bytes > 0));
    put(&site.path("documents").join("three.txt"), "a third letter\n");
    let second = site.backup().await;
    assert_eq!(second.backups[0].new_bytes, "a third letter\n".len() as u64);
    assert_eq!(second.backups[1].new_bytes, 0);
    assert_eq!(second.backups[1].kept, 2, "unchanged files are not read");
    let listing = site.list().await;
    assert_eq!(listing.snapshots.len(), 4);
    assert_eq!(listing.exit_code(), 0, "{listing:?}");
    let runs = site.catalog.runs(10).expect("runs");
    assert!(runs.iter().all(|run| run.outcome.as_deref() == Some("ok") && run.snapshot.is_some()), "{runs:?}");
}

#[tokio::test]
async fn an_unchanged_backup_stores_its_root_and_no_pack() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    let stored = || ["data", "meta", "refs", "index"].map(|kind| site.objects(kind));
    let before = (stored(), site.objects("roots").len());
    let second = site.backup().await;
    assert_eq!((second.backups[0].kept, second.backups[0].stored_bytes), (2, 0), "{second:?}");
    assert_eq!((stored(), site.objects("roots").len() - 1), before);
}

#[tokio::test]
async fn a_source_that_fails_leaves_no_snapshot_and_does_not_stop_the_others() {
    let mut site = Site::new(&["documents", "gone", "registry"]).await;
    std::fs::remove_dir_all(site.path("gone")).expect("removed");
    let report = site.backup().await;
    assert_eq!(report.exit_code(), 1);
    let failed = &report.backups[1];
    assert!(
        failed.snapshot.is_none() && failed.error.as_ref().is_some_and(|error| error.contains("gone")),
        "{failed:?}"
    );
    assert!(report.backups[0].snapshot.is_some() && report.backups[2].snapshot.is_some());
    let sources: BTreeSet<String> = site.list().await.snapshots.iter().map(SnapshotSummary::group).collect();
    let whole = ["farajaland/documents", "farajaland/registry"].map(str::to_owned);
    assert_eq!(sources, BTreeSet::from(whole));
    let runs = site.catalog.runs(10).expect("runs");
    assert_eq!(runs.iter().filter(|run| run.outcome.as_deref() == Some("failed")).count(), 1);
    site.config.sources.retain(|name, _| name.as_str() == "gone");
    assert_eq!(site.backup().await.exit_code(), 1, "the only source failed");
}

#[tokio::test]
async fn an_empty_directory_is_backed_up_with_a_problem_and_exit_3() {
    let site = Site::new(&["documents", "unmounted"]).await;
    std::fs::remove_dir_all(site.path("unmounted")).expect("removed");
    std::fs::create_dir(site.path("unmounted")).expect("an empty directory");
    let report = site.backup().await;
    assert_eq!(report.exit_code(), 3, "{report:?}");
    let odd = &report.backups[1];
    assert!(odd.snapshot.is_some() && odd.skips + odd.problems == 1 && odd.examples.len() == 1, "{odd:?}");
    assert_eq!(site.list().await.snapshots.iter().filter_map(|s| s.problems).max(), Some(1));
}

#[tokio::test]
async fn a_restore_host_does_not_back_up() {
    let mut site = Site::new(&["documents"]).await;
    site.config.role = Role::Restore;
    let error = site.labelled(None).await.expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("role restore"), "{error}");
    assert!(site.objects("roots").is_empty());
}

#[tokio::test]
async fn a_label_is_given_once_and_never_reads_like_something_else() {
    let site = Site::new(&["documents"]).await;
    let first = site.labelled(Some("before-upgrade")).await.expect("a label");
    assert_eq!(first.exit_code(), 0, "{first:?}");
    for bad in ["before-upgrade", "latest", "2026-02-05", "abcdef"] {
        let error = site.labelled(Some(bad)).await.expect_err(bad);
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert_eq!(site.list().await.snapshots.len(), 1, "nothing was begun");
}

#[tokio::test]
async fn an_unknown_source_is_refused_before_any_is_read() {
    let site = Site::new(&["documents"]).await;
    let request = BackupRequest { sources: vec![source("documents"), source("nowhere")], label: None, moved: None };
    let error = backup(&site.host(), &request).await.expect_err("refused");
    assert_eq!(error.exit_code(), 2);
    assert!(error.hint().is_some_and(|hint| hint.contains("documents")));
    assert!(site.objects("roots").is_empty());
}

#[tokio::test]
async fn a_second_backup_of_the_same_source_is_busy() {
    let site = Site::new(&["documents", "registry"]).await;
    let held = Lock::take(&site.config.state_dir, "source-farajaland+documents").expect("free");
    let report = site.backup().await;
    assert_eq!((report.backups[0].exit_code, report.backups[1].exit_code), (11, 0), "{report:?}");
    drop(held);
    assert_eq!(site.backup().await.exit_code(), 0);
}

#[tokio::test]
async fn a_cancelled_backup_seals_nothing() {
    let site = Site::new(&["documents"]).await;
    site.run.cancel.cancel();
    assert_eq!(site.backup().await.exit_code(), 1);
    assert!(site.objects("roots").is_empty());
}

#[tokio::test]
async fn another_system_than_last_time_is_told() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    let SourceKind::Files(_) = &site.config.sources[&source("documents")].kind else { panic!("files") };
    let mut seen = site.catalog.seen_of(&site.config.stack, &source("documents")).expect("seen").remove(0);
    if seen.facts.insert("machine.id".to_owned(), "another".to_owned()).is_none() {
        return no_machine_id("another_system_than_last_time_is_told");
    }
    let (repository, id) = (repository_id(&site), site.list().await.snapshots[0].id);
    site.catalog.saw_snapshot(&repository, id, &seen).expect("saved");
    let report = site.backup().await;
    assert!(report.backups[0].notes.iter().any(|note| note.contains("another system")), "{report:?}");
}

fn repository_id(site: &Site) -> String {
    let dirs = std::fs::read_dir(site.config.state_dir.join("repositories")).expect("a cache");
    dirs.flatten().next().expect("one repository").file_name().to_string_lossy().into_owned()
}

/// Asks the run to stop when it tells this for the first time.
struct StopAt(&'static str, Cancel);

impl StopAt {
    fn told(&self, what: &str) {
        if self.0 == what {
            self.1.cancel();
        }
    }
}

impl Monitor for StopAt {
    fn begin(&self, _: &str, _: Option<u64>) {
        self.told("begin");
    }

    fn bytes(&self, _: u64) {
        self.told("bytes");
    }

    fn entries(&self, _: u64) {
        self.told("entries");
    }

    fn note(&self, _: &str) {}
}

#[tokio::test]
async fn a_backup_that_is_stopped_says_so_wherever_it_was() {
    for moment in ["begin", "bytes", "entries"] {
        let mut site = Site::new(&["documents"]).await;
        site.run.monitor = Arc::new(StopAt(moment, site.run.cancel.clone()));
        let report = site.backup().await;
        let told = (report.exit_code(), report.backups[0].error.as_deref());
        assert_eq!(told, (1, Some("stopped by request")), "{moment}");
        site.run.cancel = Cancel::default();
        assert!(site.list().await.snapshots.is_empty(), "{moment}");
    }
}
