//! From snapshots back to files.

use lifeboat_engine::JobError;
use lifeboat_engine::browse::{Depth, cat, ls};
use lifeboat_engine::recover::{bare_config, recover};
use lifeboat_engine::restore::{Answer, Mode, To, restore, verify};
use lifeboat_engine::snapshot::open_snapshot;
use lifeboat_engine::upkeep::check;
use lifeboat_engine::{Host, catalog::Catalog};
use lifeboat_model::EntryPath;
use lifeboat_model::config::Role;
use lifeboat_model::restore::PlanError;

use crate::site::{Site, asked, put, tree};

#[tokio::test]
async fn a_tree_comes_back_equal_beside_the_old_one() {
    let site = Site::new(&["documents"]).await;
    site.labelled(Some("first")).await.expect("a backup");
    let before = tree(&site.path("documents"));
    put(&site.path("documents").join("one.txt"), "changed\n");
    site.backup().await;
    let found = check(&site.host(), None, true).await.expect("checked").remove(0);
    assert_eq!((found.exit_code(), found.snapshots, found.notes.len()), (0, 2, 0), "{found:?}");
    let to = site.dir.path().join("back");
    let report = site.restore(&Site::ask("documents@first", To::Dir(to.clone()))).await.expect("restored");
    assert_eq!(report.exit_code(), 0, "{report:?}");
    assert_eq!(tree(&site.below(&to, "documents")), before);
    let same = verify(&site.host(), &Site::ask("documents@first", To::Dir(to.clone()))).await.expect("compared");
    assert_eq!(same.exit_code(), 0, "{same:?}");
    let other = verify(&site.host(), &Site::ask("documents", To::Dir(to))).await.expect("compared");
    assert_eq!(other.exit_code(), 1, "the latest snapshot differs");
}

#[tokio::test]
async fn what_stands_in_the_way_needs_replace_and_what_is_not_in_the_snapshot_stays() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    put(&site.path("documents").join("one.txt"), "newer than the backup\n");
    put(&site.path("documents").join("new.txt"), "not in the snapshot\n");
    let changed = tree(&site.path("documents"));
    let mut ask = Site::ask("documents", To::Origin);
    let error = site.restore(&ask).await.expect_err("occupied");
    assert!(matches!(error, JobError::Plan(PlanError::Occupied { .. })), "{error}");
    ask.options.replace = true;
    let plan = restore(&site.host(), &ask, Mode::DryRun).await.expect("a plan").plan;
    assert!(plan.destructive && plan.replaces_count > 0, "{plan:?}");
    let declined = restore(&site.host(), &ask, Mode::Run(&|_| Answer::No)).await.expect_err("declined");
    assert!(matches!(declined, JobError::Declined));
    assert_eq!(tree(&site.path("documents")), changed, "refused, planned or declined: nothing is touched");
    let report = site.restore(&ask).await.expect("restored");
    assert_eq!(report.exit_code(), 0, "{report:?}");
    let after = tree(&site.path("documents"));
    assert_eq!(after["one.txt"], "one of documents\n");
    assert_eq!(after["new.txt"], "not in the snapshot\n");
}

#[tokio::test]
async fn a_damaged_snapshot_replaces_nothing() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    put(&site.path("documents").join("one.txt"), "live data\n");
    let live = tree(&site.path("documents"));
    for pack in site.objects("data") {
        let mut bytes = std::fs::read(&pack).expect("a pack");
        let middle = bytes.len() / 4;
        bytes[48..middle.max(60)].iter_mut().for_each(|byte| *byte ^= 1);
        std::fs::remove_file(&pack).expect("removed");
        lifeboat_wire::fs::write_durable(&pack, &bytes, 0o644, lifeboat_wire::fs::Existing::Replace).expect("damaged");
    }
    let found = check(&site.host(), None, true).await.expect("checked").remove(0);
    assert_eq!(found.exit_code(), 1);
    assert!(
        found.errors.iter().any(|finding| finding.entries.iter().any(|entry| entry.ends_with("one.txt"))),
        "{found:?}"
    );
    let mut ask = Site::ask("documents", To::Origin);
    ask.options.replace = true;
    let error = site.restore(&ask).await.expect_err("damaged");
    assert_eq!(error.exit_code(), 1, "{}", error.chain());
    assert!(error.hint().is_some_and(|hint| hint.contains("check --read-data")), "{}", error.chain());
    assert_eq!(tree(&site.path("documents")), live);
}

#[tokio::test]
async fn a_backup_machine_does_not_restore_over_its_own_stack() {
    let mut site = Site::new(&["documents"]).await;
    site.backup().await;
    site.config.role = Role::Backup;
    let live = tree(&site.path("documents"));
    let mut over = vec![To::Dir("/".into()), To::Dir(site.path("documents"))];
    if site.catalog.facts_of(&site.config.stack).expect("facts").contains_key("machine.id") {
        over.push(To::Origin);
    }
    let link = site.dir.path().join("link");
    std::os::unix::fs::symlink("/", &link).expect("a link");
    over.push(To::Dir(link));
    for to in over {
        let mut ask = Site::ask("documents", to.clone());
        ask.options.replace = true;
        let error = site.restore(&ask).await.expect_err("refused");
        assert!(matches!(error, JobError::Plan(PlanError::OwnStack { .. })), "{to:?}: {error}");
    }
    assert_eq!(tree(&site.path("documents")), live);
    site.restore(&Site::ask("documents", To::Dir(site.dir.path().join("beside")))).await.expect("beside is allowed");
}

#[tokio::test]
async fn a_snapshot_can_be_listed_and_read() {
    let site = Site::new(&["documents"]).await;
    site.backup().await;
    let open = open_snapshot(&site.host(), &asked("documents"), None).await.expect("opened");
    assert_eq!(open.kind, "files");
    let base = EntryPath::new(site.path("documents").display().to_string().trim_start_matches('/').to_owned())
        .expect("a path");
    let mut names = Vec::new();
    let mut show = |line: lifeboat_engine::browse::Listed| {
        names.push(line.path.rsplit('/').next().unwrap_or_default().to_owned());
        Ok(())
    };
    ls(open.data.as_ref(), Some(&base), Depth::Children, &mut show).await.expect("listed");
    assert_eq!(names, ["deep", "one.txt"]);
    let mut content = Vec::new();
    cat(open.data.as_ref(), &base.join(b"one.txt").expect("a path"), &mut content).await.expect("read");
    assert_eq!(content, b"one of documents\n");
}

#[tokio::test]
async fn store_and_identity_alone_bring_everything_back() {
    let mut site = Site::new(&["documents", "registry"]).await;
    site.backup().await;
    let before = tree(&site.path("registry"));
    site.lose_state();
    let repository = &site.config.repositories["main"];
    let state = site.dir.path().join("recovery");
    let bare =
        bare_config(&repository.url, &repository.store, repository.identity_file.as_ref().expect("identity"), &state);
    let catalog = Catalog::open(&state, jiff::Timestamp::UNIX_EPOCH);
    let host = Host { config: &bare, catalog: &catalog, run: &site.run, passphrase: &|_| None };
    let report = recover(&host).await.expect("recovered");
    assert_eq!(report.stacks.len(), 1);
    let found = &report.stacks[0];
    assert_eq!(found.sources.keys().collect::<Vec<_>>(), ["documents", "registry"]);
    assert_eq!(found.config.as_deref(), Some(site.config.portable.yaml.as_str()));
    assert_eq!(found.supply, ["the variable PG_PASSWORD"]);
    let to = site.dir.path().join("recovered");
    let ask = Site::ask("farajaland/registry", To::Dir(to.clone()));
    restore(&host, &ask, Mode::Run(&|_| Answer::Unasked)).await.expect("restored");
    assert_eq!(tree(&site.below(&to, "registry")), before);
}
