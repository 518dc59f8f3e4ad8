//! The process dies at every write of a backup, a forget and a prune.

use lifeboat_testkit::crash::{CrashStore, InFlight};

use super::*;
use crate::error::RepoError;

/// A repository with a forgotten snapshot, one that shares some of its packs, and one of its own.
async fn house_with_history() -> (House, Vec<(SnapshotId, Files)>) {
    let mut house = House::new().await;
    let both = files(1, &["a", "b", "c", "d"], 4);
    let forgotten = house.backup(&both).await;
    let half: Files = both.iter().take(2).map(|(name, bytes)| (name.clone(), bytes.clone())).collect();
    let other = files(2, &["a", "e"], 3);
    let kept = vec![(house.backup(&half).await, half), (house.backup(&other).await, other)];
    house.forget(forgotten).await;
    (house, kept)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Backup,
    Forget,
    Prune,
}

async fn act(act: Act, house: &House, store: &Arc<dyn Store>, newest: SnapshotId) -> Result<(), RepoError> {
    let maintainer = &house.repository.maintainer;
    match act {
        Act::Backup => {
            let content = files(3, &["a", "f"], 3);
            let writer = &house.repository.writer;
            let cache = tempfile::tempdir_in(&house.ctx.scratch).expect("a directory");
            let repository = Repository::open(Arc::clone(store), writer.clone(), cache.path()).await?;
            let mut chain = Chain::of(&repository.snapshots(&[]).await?, writer, "files");
            backup(store, writer, &content, &mut chain, &house.ctx).await.map(|_| ())
        }
        Act::Forget => {
            let cache = tempfile::tempdir_in(&house.ctx.scratch).expect("a directory");
            let repository = Repository::open(Arc::clone(store), maintainer.clone(), cache.path()).await?;
            forget(&repository, &[newest], "a test", &house.ctx).await
        }
        Act::Prune => {
            let cache = tempfile::tempdir_in(&house.ctx.scratch).expect("a directory");
            let repository = Repository::open(Arc::clone(store), maintainer.clone(), cache.path()).await?;
            prune(&repository, &PruneOptions::default(), &house.ctx).await.map(|_| ())
        }
    }
}

/// Every snapshot that is listed restores, and those that were there before are listed unless
/// forgotten.
async fn all_is_well(house: &House, store: &Arc<dyn Store>, known: &[(SnapshotId, Files)], at: &str) {
    let repository = open(store, &house.repository.identity, &house.ctx).await;
    let list = repository.snapshots(&[]).await.expect("listed");
    assert_eq!(list.refused, [], "{at}");
    assert_eq!(list.findings, [], "{at}");
    for snapshot in list.snapshots.iter().filter(|snapshot| snapshot.counts()) {
        let restored = restore(&repository, snapshot.id).await.unwrap_or_else(|error| panic!("{at}: {error}"));
        if let Some((_, files)) = known.iter().find(|(id, _)| *id == snapshot.id) {
            assert_eq!(restored, *files, "{at}");
        }
    }
    for (id, _) in known {
        assert!(list.snapshots.iter().any(|snapshot| snapshot.id == *id), "{at}: {} is gone", id.short());
    }
}

async fn dies_everywhere(house: &House, known: &[(SnapshotId, Files)], what: Act, phase: &str) -> u64 {
    let newest = known.last().expect("one").0;
    for in_flight in [InFlight::Lost, InFlight::Kept] {
        for dies_at in 1.. {
            let memory: Arc<dyn Store> = Arc::new(house.memory.fork());
            let crash = CrashStore::new(Arc::clone(&memory), dies_at, in_flight);
            let outcome = act(what, house, &(Arc::clone(&crash) as Arc<dyn Store>), newest).await;
            let at = format!("{what:?} {phase} dies at write {dies_at}, {in_flight:?}");
            all_is_well(house, &memory, known, &at).await;
            if !crash.is_dead() {
                outcome.unwrap_or_else(|error| panic!("{at}: {error}"));
                if in_flight == InFlight::Kept {
                    return dies_at - 1;
                }
                break;
            }
            assert!(outcome.is_err(), "{at}");
            // The next ones succeed without repair.
            for next in [Act::Backup, Act::Prune] {
                act(next, house, &memory, newest).await.unwrap_or_else(|error| panic!("{at}, then {next:?}: {error}"));
            }
            all_is_well(house, &memory, known, &at).await;
        }
    }
    0
}

#[tokio::test]
async fn a_death_at_any_write_of_a_backup_or_a_forget_loses_no_snapshot() {
    let (house, known) = house_with_history().await;
    assert!(dies_everywhere(&house, &known, Act::Backup, "").await >= 8);
    assert_eq!(dies_everywhere(&house, &known, Act::Forget, "").await, 1);
}

#[tokio::test]
async fn a_death_at_any_write_of_a_prune_loses_no_snapshot() {
    let (house, known) = house_with_history().await;
    house.wait();
    let marking = dies_everywhere(&house, &known, Act::Prune, "that marks").await;
    assert!(marking >= 6, "{marking} writes");
    assert!(house.prune().await.repacked_packs > 0);
    house.wait();
    let deleting = dies_everywhere(&house, &known, Act::Prune, "that deletes").await;
    assert!(deleting >= 8, "{deleting} writes");
    house.prune().await;
    house.wait();
    house.wait();
    house.wait();
    dies_everywhere(&house, &known, Act::Prune, "that tidies").await;
}
