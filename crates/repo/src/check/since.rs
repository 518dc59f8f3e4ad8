//! A check that reads the data that nobody read before, and a share of what was read longest ago.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_model::ObjectHash;
use lifeboat_model::flow::RunContext;

use super::packs::{self, BadPacks};
use super::{CheckReport, Reading, survey};
use crate::error::RepoError;
use crate::remember::RememberedHead;
use crate::repository::Repository;
use crate::scan::Scan;

/// When this host read each pack last and found it sound.
pub type ReadBefore = HashMap<ObjectHash, Timestamp>;

/// How much of what was read before is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// This share of the bytes of all packs, in hundredths.
    Percent(u8),
    /// For so long.
    Time(Duration),
}

impl Default for Budget {
    fn default() -> Self {
        Self::Percent(5)
    }
}

/// Packs that are read between two looks at the clock.
const BATCH: usize = 8;

/// What such a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// What any check tells.
    pub report: CheckReport,
    /// Packs that were read and are sound.
    pub sound: Vec<ObjectHash>,
    /// Packs that were read before and are gone from the store.
    pub gone: Vec<ObjectHash>,
    /// How many of the sound ones were read for the first time.
    pub first_read: u64,
}

/// Looks at everything, and of the packs reads those that `before` does not know, then those that were
/// read longest ago, within the budget.
///
/// # Errors
/// As [`super::check`].
pub async fn check_since(
    repository: &Repository,
    before: &ReadBefore,
    budget: Budget,
    remembered: &[RememberedHead],
    ctx: &RunContext,
) -> Result<Since, RepoError> {
    let found = survey(repository, &Reading::Since(before, budget), remembered, ctx).await?;
    let there: HashSet<ObjectHash> = found.scan.packs.iter().map(|pack| pack.hash).collect();
    let gone = before.keys().filter(|pack| !there.contains(pack)).copied().collect();
    let first_read = found.sound.iter().filter(|pack| !before.contains_key(pack)).count() as u64;
    Ok(Since { report: found.report, sound: found.sound, gone, first_read })
}

pub(super) async fn read(
    repository: &Repository,
    scan: &Scan,
    (before, budget): (&ReadBefore, Budget),
    bad: &mut BadPacks,
    report: &mut CheckReport,
    ctx: &RunContext,
) -> Result<Vec<ObjectHash>, RepoError> {
    let began = ctx.clock.monotonic();
    let (new, old) = order(scan, before);
    let mut sound = packs::read(repository, scan, &new, bad, report, ctx).await?;
    match budget {
        Budget::Percent(share) => {
            let old = share_of(scan, &old, share);
            sound.extend(packs::read(repository, scan, old, bad, report, ctx).await?);
        }
        Budget::Time(length) => {
            for batch in old.chunks(BATCH) {
                if ctx.cancel.is_cancelled() || ctx.clock.monotonic().saturating_sub(began) >= length {
                    break;
                }
                sound.extend(packs::read(repository, scan, batch, bad, report, ctx).await?);
            }
        }
    }
    Ok(sound)
}

/// Packs that were never read, and the others with the one that was read longest ago first.
fn order(scan: &Scan, before: &ReadBefore) -> (Vec<u32>, Vec<u32>) {
    let when = |number: &u32| before.get(&scan.packs[*number as usize].hash);
    let (new, mut old): (Vec<u32>, Vec<u32>) =
        (0u32..).take(scan.packs.len()).partition(|number| when(number).is_none());
    old.sort_by_key(|number| (when(number).copied(), scan.packs[*number as usize].hash));
    (new, old)
}

/// The first of `old` that together have at least this share of all bytes.
fn share_of<'o>(scan: &Scan, old: &'o [u32], percent: u8) -> &'o [u32] {
    let total: u64 = scan.packs.iter().map(|pack| pack.bytes).sum();
    let mut left = u128::from(total) * u128::from(percent) / 100;
    let mut count = 0;
    for number in old {
        if left == 0 {
            break;
        }
        left = left.saturating_sub(u128::from(scan.packs[*number as usize].bytes));
        count += 1;
    }
    &old[..count]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lifeboat_store::memory::MemoryStore;
    use lifeboat_store::wrap::{Operation, Record};
    use lifeboat_store::{PutMode, Store};
    use lifeboat_testkit::context::FakeClock;

    use super::*;
    use crate::testing::TestRepository;
    use crate::tiny::{Chain, backup, context, files, open};

    /// Bytes of these packs do not matter here; a whole pack is read without a range, so each get counts.
    fn packs_read(record: &Record) -> usize {
        let whole = ["data/", "meta/", "refs/"].map(|prefix| record.count(Operation::Get, prefix));
        record.clear();
        whole.iter().sum()
    }

    #[tokio::test]
    async fn new_packs_are_read_at_once_and_old_ones_in_turn() {
        let clock = FakeClock::at(TestRepository::start());
        let memory = MemoryStore::new(Arc::clone(&clock) as _);
        let record = Arc::new(Record::new(Arc::new(memory.clone())));
        let store: Arc<dyn Store> = Arc::clone(&record) as _;
        let scratch = tempfile::tempdir().expect("a directory");
        let ctx = context(scratch.path(), Arc::clone(&clock));
        let test = TestRepository::create(Arc::clone(&store)).await;
        let (mut chain, mut before) = (Chain::default(), ReadBefore::new());
        let mut first = Vec::new();
        // References are read to know what is needed, whatever is checked.
        let needed = async |before: &ReadBefore| {
            let repository = open(&store, &test.identity, &ctx).await;
            record.clear();
            check_since(&repository, before, Budget::Percent(0), &[], &ctx).await.expect("checked");
            packs_read(&record)
        };
        for round in 1..=4u32 {
            backup(&store, &test.writer, &files(u64::from(round), &["a"], 3), &mut chain, &ctx)
                .await
                .expect("a backup");
            clock.advance(Duration::from_mins(1));
            let repository = open(&store, &test.identity, &ctx).await;
            let found = check_since(&repository, &before, Budget::Percent(0), &[], &ctx).await.expect("checked");
            assert!(found.report.is_clean(), "{:?}", found.report);
            assert_eq!((found.sound.len(), found.first_read), (3, 3), "round {round}");
            if round == 1 {
                first.clone_from(&found.sound);
            }
            before.extend(found.sound.iter().map(|pack| (*pack, ctx.clock.now())));
        }
        let walked = needed(&before).await;
        let repository = open(&store, &test.identity, &ctx).await;
        let shared = check_since(&repository, &before, Budget::Percent(5), &[], &ctx).await.expect("checked");
        assert!(!shared.sound.is_empty() && shared.sound.iter().all(|pack| first.contains(pack)), "the oldest first");
        assert_eq!(shared.first_read, 0);
        record.clear();
        for (budget, read) in [(Duration::ZERO, 0), (Duration::from_mins(1), 12)] {
            let repository = open(&store, &test.identity, &ctx).await;
            record.clear();
            let found = check_since(&repository, &before, Budget::Time(budget), &[], &ctx).await.expect("checked");
            assert_eq!((found.sound.len(), packs_read(&record) - walked), (read, read), "{budget:?}");
        }

        // A pack that rots is found when its turn comes, and is sound for nobody.
        let mut bytes = memory.get(&data_key(&repository, &first), None).await.expect("got").to_vec();
        bytes[60] ^= 1;
        memory.put(&data_key(&repository, &first), bytes.into(), PutMode::Replace).await.expect("put");
        let mut days = 0;
        loop {
            let repository = open(&store, &test.identity, &ctx).await;
            let found = check_since(&repository, &before, Budget::Percent(5), &[], &ctx).await.expect("checked");
            before.extend(found.sound.iter().map(|pack| (*pack, ctx.clock.now())));
            clock.advance(Duration::from_hours(24));
            if !found.report.is_clean() {
                break;
            }
            days += 1;
            assert!(days < 12, "every pack has its turn");
        }
    }

    fn data_key(repository: &Repository, among: &[ObjectHash]) -> lifeboat_store::Key {
        let packs = repository.index().packs();
        let data = packs.iter().find(|pack| pack.kind == crate::pack::PackKind::Data && among.contains(&pack.hash));
        crate::object::ObjectType::DataPack.key(data.expect("a data pack").hash)
    }
}
