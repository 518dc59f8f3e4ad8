//! What was there before: repositories on which a prune has something to do at each of its steps.

use std::time::Duration;

use futures::TryStreamExt;
use lifeboat_repo::check::{CheckScope, check};
use lifeboat_store::PutMode;

use crate::acts::{Act, copied, spare};
use crate::machine::Machine;
use crate::site::{Site, files};

/// How far a prune has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is something to mark.
    Unmarked,
    /// There is something to delete.
    Marked,
    /// There are old marks and words to tidy away.
    Deleted,
    /// A pack and an index object are damaged, a copy of the keyring is gone.
    Damaged,
}

/// A history: snapshots of three writers, one of them forgotten, and copies of which one is forgotten.
pub(crate) async fn history(stage: Stage) -> Site {
    let mut site = Site::new().await;
    let big = files(1, &["a", "b", "c", "d"]);
    let (store, people) = (site.home.truth(), site.home.people.clone());
    for (writer, source, content) in [
        (&people.writer, "files", &big),
        (&people.writer, "files", &copied()),
        (&people.writer, "files", &spare()),
        (&people.neighbour, "other", &files(5, &["p"])),
        (&people.stranger, "third", &files(6, &["q"])),
    ] {
        site.clock.advance(Duration::from_secs(1));
        let sealed = site.backup(&store, writer, source, content).await.expect("sealed");
        site.home.heads.insert(sealed.head.writer, sealed.head);
        site.home.made.insert(sealed.id, content.clone());
    }
    let machine = Machine::sound(&site.clock);
    let wanted = if stage == Stage::Damaged { copied() } else { files(5, &["p"]) };
    for content in [&big, &wanted] {
        let sealed = site.copy(&machine, content).await.expect("a copy");
        site.away.made.insert(sealed.id, content.clone());
    }
    for house in [&site.home, &site.away] {
        site.forget(house, &house.truth(), &big).await.expect("forgotten");
    }
    for house in [&mut site.home, &mut site.away] {
        house.sealed = house.made.clone();
        house.sealed.retain(|_, content| *content != big);
    }
    site.wait();
    for house in [&site.home, &site.away] {
        match stage {
            Stage::Unmarked | Stage::Damaged => {}
            Stage::Marked => {
                let report = site.prune(house, &house.truth()).await.expect("a prune");
                assert!(report.marked_packs > 0, "{report:?}");
            }
            Stage::Deleted => {
                let reports = site.prune_to_the_end(house, &house.truth()).await.expect("prunes");
                assert!(reports.iter().any(|report| report.deleted_objects > 0), "{reports:?}");
            }
        }
    }
    match stage {
        Stage::Unmarked => {}
        Stage::Marked => site.wait(),
        Stage::Deleted => {
            site.wait();
            site.wait();
        }
        Stage::Damaged => damage(&site).await,
    }
    for house in [&mut site.home, &mut site.away] {
        house.keeper = house.people.maintainer.clone();
    }
    site
}

/// Damages a pack of what was copied, and loses an index object and a copy of the keyring.
async fn damage(site: &Site) {
    let store = site.home.truth();
    let keys = async |prefix: &str| -> Vec<_> {
        let listed: Vec<_> = store.list(prefix).try_collect().await.expect("listed");
        listed.into_iter().map(|object| object.key).collect()
    };
    let whole = async |site: &Site| {
        let reader = site.open(&site.home.truth(), &site.home.people.identity(), "whole").await.expect("opened");
        check(&reader, CheckScope { read_data: true }, &[], &site.ctx).await.expect("checked").is_clean()
    };
    let mut damaged = false;
    for key in keys("data/").await {
        let mut bytes = store.get(&key, None).await.expect("got").to_vec();
        bytes[100] ^= 1;
        let tried = site.fork(false);
        tried.home.truth().put(&key, bytes.clone().into(), PutMode::Replace).await.expect("put");
        let hurts = !whole(&tried).await;
        let mended = Act::Repair.run(&tried, &Machine::sound(&tried.clock)).await.is_ok() && whole(&tried).await;
        if hurts && mended {
            store.put(&key, bytes.into(), PutMode::Replace).await.expect("put");
            damaged = true;
            break;
        }
    }
    assert!(damaged, "there is a pack that a copy gives back");
    store.delete(&keys("index/").await[0]).await.expect("deleted");
    store.delete(keys("keyring2/").await.last().expect("one")).await.expect("deleted");
}
