//! What each key allows, and what happens without it.

use lifeboat_engine::restore::To;
use lifeboat_engine::snapshot::open_snapshot;
use lifeboat_repo::{CreateOptions, Creation, KeyFile};

use crate::site::{Has, Site, asked, put, stack, tree};

#[tokio::test]
async fn a_writer_lists_headers_and_reads_nothing() {
    let mut site = Site::new(&["documents"]).await;
    site.only(&[Has::Writer]);
    assert_eq!(site.labelled(Some("first")).await.expect("a backup").exit_code(), 0);
    let listing = site.list().await;
    let snapshot = &listing.snapshots[0];
    assert_eq!(snapshot.group(), "farajaland/documents", "named by its tag");
    assert!(snapshot.bytes.is_some() && snapshot.label.as_deref() == Some("first"), "from the catalog: {snapshot:?}");
    for refused in [
        open_snapshot(&site.host(), &asked("documents"), None).await.map(|_| ()).expect_err("no identity"),
        site.restore(&Site::ask("documents", To::Dir(site.dir.path().join("x")))).await.expect_err("no identity"),
    ] {
        assert_eq!(refused.exit_code(), 12, "{refused}");
        assert!(refused.to_string().contains("identity"), "{refused}");
    }
    site.lose_state();
    let listing = site.list().await;
    let snapshot = &listing.snapshots[0];
    assert_eq!(snapshot.group(), "farajaland/documents");
    assert_eq!((snapshot.bytes, snapshot.label.as_deref(), snapshot.recovery_point), (None, None, None));
}

#[tokio::test]
async fn the_identity_of_another_repository_is_refused_before_anything_is_touched() {
    let mut site = Site::new(&["documents"]).await;
    site.backup().await;
    put(&site.path("documents").join("one.txt"), "live data\n");
    let live = tree(&site.path("documents"));
    let other = Creation::new(CreateOptions {
        now: jiff::Timestamp::UNIX_EPOCH,
        grace_seconds: 60,
        stack: stack("farajaland"),
    });
    let path = site.dir.path().join("keys/other.key");
    KeyFile::Identity(other.owner.identity).write_new(&path, None).expect("a key file");
    site.config.repositories.get_mut("main").expect("main").identity_file = Some(path);
    let mut ask = Site::ask("documents", To::Origin);
    ask.options.replace = true;
    let error = site.restore(&ask).await.expect_err("a wrong key");
    assert_eq!(error.exit_code(), 12, "{}", error.chain());
    assert_eq!(tree(&site.path("documents")), live);
}

#[tokio::test]
async fn missing_keys_and_missing_repositories_have_exit_codes_of_their_own() {
    let mut site = Site::new(&["documents"]).await;
    site.only(&[Has::Identity]);
    assert_eq!(site.backup().await.exit_code(), 12, "no writer key");
    let mut nowhere = Site::new(&["documents"]).await;
    std::fs::remove_dir_all(nowhere.dir.path().join("store")).expect("removed");
    assert_eq!(nowhere.backup().await.exit_code(), 10, "no repository");
    std::fs::create_dir(nowhere.dir.path().join("store")).expect("an empty directory");
    let report = nowhere.backup().await;
    assert_eq!(report.exit_code(), 10, "{report:?}");
    nowhere.lose_state();
}
