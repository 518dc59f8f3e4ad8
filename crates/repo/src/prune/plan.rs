//! What a prune does, decided from what it saw of one domain: pure functions over facts and the
//! store's time. The table of who may do what beside whom is in `docs/format.md`, section "Prune".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_model::ObjectHash;
use lifeboat_store::Key;
use serde::{Serialize, Serializer};

use crate::pack::PackKind;
use crate::small::RunId;

/// What a prune saw of one domain. All times are the store's.
#[derive(Clone, Debug)]
pub struct View {
    /// The time of the store.
    pub now: Timestamp,
    /// G, of the roster.
    pub grace: Duration,
    /// For how long a list of the store may miss a change.
    pub list_staleness: Duration,
    /// Packs that are in the store, in the order of their times.
    pub packs: Vec<PackFacts>,
    /// Index objects that are in the store.
    pub indexes: Vec<IndexFacts>,
    /// Runs that left an object.
    pub runs: Vec<RunFacts>,
    /// Marks, with what came of them.
    pub marks: Vec<MarkFacts>,
    /// Root objects.
    pub roots: Vec<RootFacts>,
    /// Forget and void objects: name, snapshot, time.
    pub verdicts: Vec<VerdictFacts>,
}

/// A pack that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackFacts {
    /// Its name.
    pub hash: ObjectHash,
    /// What it holds.
    pub kind: PackKind,
    /// Its length.
    pub bytes: u64,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// Bytes of all records that indexes name in it; 0 where none does.
    pub record_bytes: u64,
    /// Bytes of the records that snapshots need from this very pack.
    pub live_bytes: u64,
}

/// An index object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexFacts {
    /// Its name.
    pub hash: ObjectHash,
    /// Its length.
    pub bytes: u64,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// Packs that it names, present or not, with the number of its records in them.
    pub packs: Vec<(ObjectHash, u32)>,
}

impl IndexFacts {
    /// How many records it has.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.packs.iter().map(|(_, records)| u64::from(*records)).sum()
    }
}

/// What is known of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// Which run.
    pub run: RunId,
    /// When the store took its first object.
    pub begun: Timestamp,
    /// When the store took its last one.
    pub last_sign: Timestamp,
    /// Whether it said that it has ended.
    pub ended: bool,
    /// Marks that it has seen.
    pub marks_seen: BTreeSet<ObjectHash>,
    /// Packs that it uses although they are marked.
    pub pins: BTreeSet<ObjectHash>,
    /// Its run and renewal objects.
    pub objects: Vec<Key>,
}

/// A mark and the `deleting` objects that name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkFacts {
    /// Its name.
    pub hash: ObjectHash,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// Packs that it names.
    pub packs: Vec<(PackKind, ObjectHash)>,
    /// Index objects that it names.
    pub indexes: Vec<ObjectHash>,
    /// Root objects that it names.
    pub others: Vec<Key>,
    /// `deleting` objects, and when the store took them.
    pub deleting: Vec<(Key, Timestamp)>,
}

/// Whether a root object is a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootState {
    /// It is.
    Live,
    /// A maintainer or an identity forgot it.
    Forgotten,
    /// It never became one.
    Void,
}

/// A root object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootFacts {
    /// Its name.
    pub key: Key,
    /// Its hash, which is the snapshot's id.
    pub hash: ObjectHash,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// Whether it is a snapshot.
    pub state: RootState,
    /// Writer and source in an encoding of their own, where the header could be read.
    pub chain: Option<Vec<u8>>,
    /// Its place in the chain.
    pub sequence: u64,
    /// The root before.
    pub previous: Option<ObjectHash>,
}

/// A forget or void object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictFacts {
    /// Its name.
    pub key: Key,
    /// The snapshot that it names.
    pub snapshot: ObjectHash,
    /// When the store took it.
    pub stored_at: Timestamp,
    /// Whether it is a void.
    pub void: bool,
}

/// What a person may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneOptions {
    /// A pack is packed anew when at least this share of its records' bytes is needed by nobody.
    pub waste_percent: u8,
    /// Decide and tell, but change nothing.
    pub dry_run: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { waste_percent: 20, dry_run: false }
    }
}

/// What is to be deleted on the strength of one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The mark.
    pub mark: ObjectHash,
    /// Roots, first to go.
    pub roots: Vec<Key>,
    /// Index objects that say nothing that others do not say.
    pub indexes: Vec<ObjectHash>,
    /// Packs that nobody needs.
    pub packs: Vec<(PackKind, ObjectHash)>,
    /// Forget and void objects that nothing needs once the roots are gone; last to go.
    pub verdicts: Vec<Key>,
    /// Packs of the mark that stay: a run pinned them, or a snapshot needs them again.
    pub kept: Vec<ObjectHash>,
}

impl Due {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.indexes.is_empty() && self.packs.is_empty()
    }
}

/// Why something is not deleted yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// A mark is younger than the grace period.
    Grace {
        /// The mark.
        mark: ObjectHash,
        /// From when on it may go, by the store's clock.
        until: Timestamp,
    },
    /// A run is open that has not told that it saw the mark.
    Run {
        /// The mark.
        mark: ObjectHash,
        /// The run.
        run: RunId,
        /// When the run counts as dead unless it gives a sign of life.
        until: Timestamp,
    },
}

impl Wait {
    /// When it ends at the latest, unless a run gives a sign of life.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        match self {
            Self::Grace { until, .. } | Self::Run { until, .. } => *until,
        }
    }

    /// In words, with its time as `shown` writes it.
    pub fn words(&self, shown: impl Fn(Timestamp) -> String) -> String {
        let until = shown(self.until());
        match self {
            Self::Grace { mark, .. } => {
                format!("what was marked before (mark {}) can be deleted from {until} on", mark.short())
            }
            Self::Run { mark, run, .. } => format!(
                "the open run {} has not seen the mark {}; without a sign of life it counts as dead from {until} on",
                hex::encode(&run.0[..4]),
                mark.short()
            ),
        }
    }
}

impl Serialize for Wait {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.words(|time| time.to_string()))
    }
}

/// What a prune of one domain does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Old marks that are ripe.
    pub due: Vec<Due>,
    /// Marks that are not.
    pub waits: Vec<Wait>,
    /// Small objects that nobody needs any more. Those of one group go in their order.
    pub stale: Vec<Vec<Key>>,
    /// Packs for a new mark that hold nothing that a snapshot needs.
    pub garbage: Vec<(PackKind, ObjectHash)>,
    /// Packs that hold nothing that a snapshot needs, and that a run may still be about to use: they are too
    /// young for a mark; with the time at which the store took them.
    pub young: Vec<(PackKind, ObjectHash, Timestamp)>,
    /// Packs for a new mark whose needed records are packed anew before.
    pub repack: Vec<(PackKind, ObjectHash)>,
    /// Index objects for a new mark; what they say of packs that stay is written anew before.
    pub supersede: Vec<ObjectHash>,
    /// Root objects for a new mark.
    pub roots: Vec<Key>,
}

impl Plan {
    /// Whether a new mark is to be put.
    #[must_use]
    pub fn marks(&self) -> bool {
        !(self.garbage.is_empty() && self.repack.is_empty() && self.supersede.is_empty() && self.roots.is_empty())
    }
}

/// From this many index objects of less than [`SMALL_INDEX_RECORDS`] on they are merged.
const SMALL_INDEXES: usize = 16;
/// A small index object.
const SMALL_INDEX_RECORDS: u64 = 65_536;
/// An index object is written anew when one in this many of its records is of no use.
const DEAD_INDEX_SHARE: u64 = 10;

/// `time + by`, or the end of time.
#[must_use]
pub fn later(time: Timestamp, by: Duration) -> Timestamp {
    time.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// Decides.
#[must_use]
pub fn plan(view: &View, options: &PruneOptions) -> Plan {
    let mut plan = Plan { stale: stale(view), ..Plan::default() };
    for mark in &view.marks {
        if !has_remains(view, mark) {
            continue;
        }
        match waits(view, mark) {
            waits if waits.is_empty() => plan.due.extend(Some(due(view, mark)).filter(|due| !due.is_empty())),
            waits => plan.waits.extend(waits),
        }
    }
    new_mark(view, *options, &mut plan);
    plan
}

impl View {
    fn is_open(&self, run: &RunFacts) -> bool {
        !run.ended && later(run.last_sign, self.grace) >= self.now
    }

    /// Runs that gave a sign of life within the grace period, ended or not: what an ended one has
    /// sealed may be too new for the list of roots.
    fn recent_runs(&self) -> impl Iterator<Item = &RunFacts> {
        self.runs.iter().filter(|run| later(run.last_sign, self.grace) >= self.now)
    }

    fn open_runs(&self) -> impl Iterator<Item = &RunFacts> {
        self.runs.iter().filter(|run| self.is_open(run))
    }

    /// Whether an object is older than the grace period and than every open run: nobody can be
    /// about to name it for the first time.
    fn is_settled(&self, stored_at: Timestamp) -> bool {
        let margin = later(stored_at, self.list_staleness);
        later(stored_at, self.grace) < self.now && self.open_runs().all(|run| margin < run.begun)
    }
}

/// Whether anything that a mark names is there.
fn has_remains(view: &View, mark: &MarkFacts) -> bool {
    let packs: BTreeSet<_> = mark.packs.iter().map(|(_, hash)| *hash).collect();
    let indexes: BTreeSet<_> = mark.indexes.iter().copied().collect();
    view.packs.iter().any(|pack| packs.contains(&pack.hash))
        || view.indexes.iter().any(|index| indexes.contains(&index.hash))
        || view.roots.iter().any(|root| mark.others.contains(&root.key))
}

/// What keeps a mark from being acted upon.
fn waits(view: &View, mark: &MarkFacts) -> Vec<Wait> {
    let ripe = later(later(mark.stored_at, view.grace), view.list_staleness);
    if ripe >= view.now {
        return vec![Wait::Grace { mark: mark.hash, until: ripe }];
    }
    view.open_runs()
        .filter(|run| !run.marks_seen.contains(&mark.hash))
        // A run that began later has listed the mark before it used anything.
        .filter(|run| run.begun <= later(mark.stored_at, view.list_staleness))
        .map(|run| Wait::Run { mark: mark.hash, run: run.run, until: later(run.last_sign, view.grace) })
        .collect()
}

/// What of a ripe mark goes, by what is true now.
fn due(view: &View, mark: &MarkFacts) -> Due {
    let pinned: BTreeSet<_> = view.recent_runs().flat_map(|run| run.pins.iter().copied()).collect();
    let present: BTreeMap<_, _> = view.packs.iter().map(|pack| (pack.hash, pack)).collect();
    let mut due = Due {
        mark: mark.hash,
        roots: Vec::new(),
        indexes: Vec::new(),
        packs: Vec::new(),
        verdicts: Vec::new(),
        kept: Vec::new(),
    };
    for (kind, hash) in &mark.packs {
        match present.get(hash) {
            Some(pack) if pack.live_bytes > 0 || pinned.contains(hash) => due.kept.push(*hash),
            Some(pack) if pack.kind == *kind => due.packs.push((*kind, *hash)),
            _ => {}
        }
    }
    due.roots = gone_roots(view, mark).map(|root| root.key.clone()).collect();
    due.verdicts = spent_verdicts(view, mark);
    let going: BTreeSet<_> = due.packs.iter().map(|(_, hash)| *hash).collect();
    let gone = |pack: &ObjectHash| going.contains(pack) || !present.contains_key(pack);
    due.indexes = superseded(view, &mark.indexes, gone);
    due
}

fn gone_roots<'a>(view: &'a View, mark: &'a MarkFacts) -> impl Iterator<Item = &'a RootFacts> {
    view.roots.iter().filter(|root| root.state != RootState::Live && mark.others.contains(&root.key))
}

/// Forget and void objects that explain nothing any more once a mark's roots are gone. A forget
/// stays while a root names its snapshot as the one before, or where its snapshot was the newest
/// of its chain: it tells a later check that nobody tore the chain.
fn spent_verdicts(view: &View, mark: &MarkFacts) -> Vec<Key> {
    let going: BTreeSet<_> = gone_roots(view, mark).map(|root| root.hash).collect();
    let staying: Vec<_> = view.roots.iter().filter(|root| !going.contains(&root.hash)).collect();
    let mut spent = BTreeSet::new();
    for root in view.roots.iter().filter(|root| going.contains(&root.hash)) {
        let follows = staying
            .iter()
            .any(|other| other.chain.is_some() && other.chain == root.chain && other.sequence > root.sequence);
        if root.state == RootState::Void || follows {
            spent.insert(root.hash);
            spent.extend(root.previous);
        }
    }
    for root in &staying {
        spent.remove(&root.hash);
        if let Some(previous) = root.previous {
            spent.remove(&previous);
        }
    }
    view.verdicts.iter().filter(|verdict| spent.contains(&verdict.snapshot)).map(|v| v.key.clone()).collect()
}

/// Which of these index objects say nothing of packs that stay that other index objects do not say
/// as well.
fn superseded(view: &View, named: &[ObjectHash], gone: impl Fn(&ObjectHash) -> bool) -> Vec<ObjectHash> {
    let unsafe_to_trust: BTreeSet<_> = view.marks.iter().flat_map(|mark| mark.indexes.iter().copied()).collect();
    let mut elsewhere: BTreeMap<ObjectHash, u32> = BTreeMap::new();
    for index in view.indexes.iter().filter(|index| !unsafe_to_trust.contains(&index.hash)) {
        for (pack, records) in &index.packs {
            let known = elsewhere.entry(*pack).or_default();
            *known = (*known).max(*records);
        }
    }
    let repeated =
        |(pack, records): &(ObjectHash, u32)| gone(pack) || elsewhere.get(pack).is_some_and(|n| n >= records);
    let present = |hash: &&ObjectHash| {
        view.indexes.iter().find(|index| index.hash == **hash).is_some_and(|index| index.packs.iter().all(repeated))
    };
    named.iter().filter(present).copied().collect()
}

/// Small objects that have done their duty.
fn stale(view: &View) -> Vec<Vec<Key>> {
    let long_ago = |time: Timestamp| later(later(time, view.grace), view.grace) < view.now;
    let mut stale = Vec::new();
    for run in view.runs.iter().filter(|run| !view.is_open(run) && long_ago(run.last_sign)) {
        stale.push(run.objects.clone());
    }
    let misleading = misleading_packs(view);
    for mark in view.marks.iter().filter(|mark| !has_work_left(view, mark)) {
        // The mark is what keeps writers from a pack that is gone while an index object still names it.
        if mark.packs.iter().any(|(_, hash)| misleading.contains(hash)) {
            continue;
        }
        let newest = mark.deleting.iter().map(|(_, time)| *time).fold(mark.stored_at, Timestamp::max);
        if long_ago(newest) {
            let name = crate::object::ObjectType::Mark.key(mark.hash);
            stale.push(std::iter::once(name).chain(mark.deleting.iter().map(|(key, _)| key.clone())).collect());
        }
    }
    // A void without a root: the root was deleted before, or never arrived.
    let roots: BTreeSet<_> = view.roots.iter().map(|root| root.hash).collect();
    let lost = view.verdicts.iter().filter(|v| v.void && !roots.contains(&v.snapshot) && long_ago(v.stored_at));
    stale.extend(lost.map(|verdict| vec![verdict.key.clone()]));
    stale
}

/// Packs that index objects name and that are not in the store.
fn misleading_packs(view: &View) -> BTreeSet<ObjectHash> {
    let present: BTreeSet<_> = view.packs.iter().map(|pack| pack.hash).collect();
    let named = view.indexes.iter().flat_map(|index| index.packs.iter().map(|(pack, _)| *pack));
    named.filter(|pack| !present.contains(pack)).collect()
}

/// Whether a mark still has something to delete; what is kept does not count.
fn has_work_left(view: &View, mark: &MarkFacts) -> bool {
    !due(view, mark).is_empty()
}

/// What goes into a new mark.
fn new_mark(view: &View, options: PruneOptions, plan: &mut Plan) {
    let marked: BTreeSet<_> = view.marks.iter().flat_map(|mark| mark.packs.iter().map(|(_, hash)| *hash)).collect();
    for pack in view.packs.iter().filter(|pack| !marked.contains(&pack.hash)) {
        if !view.is_settled(pack.stored_at) {
            // What no index names may belong to a run that has just begun.
            if pack.live_bytes == 0 && pack.record_bytes > 0 {
                plan.young.push((pack.kind, pack.hash, pack.stored_at));
            }
            continue;
        }
        let waste = pack.record_bytes.saturating_sub(pack.live_bytes);
        if pack.live_bytes == 0 {
            plan.garbage.push((pack.kind, pack.hash));
        } else if waste > 0
            && waste.saturating_mul(100) >= pack.record_bytes.saturating_mul(options.waste_percent.into())
        {
            plan.repack.push((pack.kind, pack.hash));
        }
    }
    let named: BTreeSet<_> = view.marks.iter().flat_map(|mark| mark.others.iter()).collect();
    plan.roots = view
        .roots
        .iter()
        .filter(|root| match root.state {
            RootState::Live => false,
            RootState::Forgotten => true,
            RootState::Void => view.is_settled(root.stored_at),
        })
        .filter(|root| !named.contains(&root.key))
        .map(|root| root.key.clone())
        .collect();
    plan.supersede = worn_indexes(view, plan, &marked);
}

/// Index objects that are worth being written anew.
fn worn_indexes(view: &View, plan: &Plan, marked: &BTreeSet<ObjectHash>) -> Vec<ObjectHash> {
    let going: BTreeSet<_> = plan.garbage.iter().chain(&plan.repack).map(|(_, hash)| *hash).collect();
    let present: BTreeSet<_> = view.packs.iter().map(|pack| pack.hash).collect();
    let dead = |pack: &ObjectHash| going.contains(pack) || marked.contains(pack) || !present.contains(pack);
    // Nothing tells writers that such a pack is gone.
    let misleads = |(pack, _): &(ObjectHash, u32)| !present.contains(pack) && !marked.contains(pack);
    let named: BTreeSet<_> = view.marks.iter().flat_map(|mark| mark.indexes.iter().copied()).collect();
    let settled: Vec<_> =
        view.indexes.iter().filter(|index| view.is_settled(index.stored_at) && !named.contains(&index.hash)).collect();
    let small = settled.iter().filter(|index| index.records() < SMALL_INDEX_RECORDS).count();
    settled
        .into_iter()
        .filter(|index| {
            let lost: u64 = index.packs.iter().filter(|(pack, _)| dead(pack)).map(|(_, n)| u64::from(*n)).sum();
            let worn = lost > 0 && lost.saturating_mul(DEAD_INDEX_SHARE) >= index.records();
            let worn = worn || index.packs.iter().any(misleads);
            worn || (small >= SMALL_INDEXES && index.records() < SMALL_INDEX_RECORDS)
        })
        .map(|index| index.hash)
        .collect()
}

#[cfg(test)]
mod tests;
