//! What the machine remembers, and what it costs when that is gone.

use std::collections::BTreeMap;

use lifeboat_engine::catalog::{Catalog, FILE, RestoreDone};

use crate::site::{Has, Site, no_machine_id, source};

#[tokio::test]
async fn a_lost_catalog_costs_no_backup_and_is_filled_again_by_a_list() {
    let mut site = Site::new(&["documents"]).await;
    site.labelled(Some("first")).await.expect("a backup");
    site.lose_state();
    assert_eq!(site.backup().await.exit_code(), 0);
    assert_eq!(site.list().await.snapshots.len(), 2);
    let error = site.labelled(Some("first")).await.expect_err("the label is known again");
    assert_eq!(error.exit_code(), 2);
}

#[tokio::test]
async fn a_damaged_catalog_stops_no_backup() {
    let mut site = Site::new(&["documents"]).await;
    site.backup().await;
    site.catalog = Catalog::open(&site.dir.path().join("elsewhere"), jiff::Timestamp::UNIX_EPOCH);
    let path = site.config.state_dir.join(FILE);
    lifeboat_wire::fs::write_durable(&path, &[7; 9000], 0o600, lifeboat_wire::fs::Existing::Replace).expect("damaged");
    site.catalog = Catalog::open(&site.config.state_dir, jiff::Timestamp::UNIX_EPOCH);
    assert!(site.catalog.note().is_some_and(|note| note.contains("damaged")));
    assert_eq!(site.backup().await.exit_code(), 0);
    assert_eq!(site.list().await.snapshots.len(), 2);
}

#[tokio::test]
async fn a_root_that_was_seen_and_is_gone_is_told() {
    let mut site = Site::new(&["documents"]).await;
    site.backup().await;
    let one = site.objects("roots");
    site.backup().await;
    assert_eq!(site.list().await.exit_code(), 0);
    for root in site.objects("roots") {
        if !one.contains(&root) {
            std::fs::remove_file(root).expect("withheld");
        }
    }
    let listing = site.list().await;
    assert_eq!((listing.snapshots.len(), listing.exit_code()), (1, 1));
    assert!(listing.findings[0].contains("was seen before and is gone"), "{:?}", listing.findings);
    assert!(site.told.notes.lock().expect("notes").iter().any(|note| note.contains("is gone")));
    site.lose_state();
    site.only(&[Has::Identity]);
    assert_eq!(site.list().await.exit_code(), 0, "from the store alone nobody can tell");
}

#[tokio::test]
async fn a_clone_does_not_write_its_origins_history() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    let seen = site.catalog.seen_of(&site.config.stack, &source("documents")).expect("seen").remove(0);
    let Some(id) = seen.facts.get("machine.id") else {
        return no_machine_id("a_clone_does_not_write_its_origins_history");
    };
    let done = RestoreDone {
        time: jiff::Timestamp::UNIX_EPOCH,
        snapshot: site.list().await.snapshots[0].id,
        stack: site.config.stack.clone(),
        source: source("documents"),
        destination: "origin".to_owned(),
        identity: BTreeMap::from([("machine.id".to_owned(), id.clone())]),
        clone: true,
    };
    site.catalog.restored(&done).expect("recorded");
    let report = site.backup().await;
    let error = report.backups[0].error.as_deref().unwrap_or_default();
    assert!(error.contains("it is a clone"), "{error}");
    assert_eq!((report.exit_code(), site.objects("roots").len()), (2, 1));
}
