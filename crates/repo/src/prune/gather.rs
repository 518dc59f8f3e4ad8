//! From the objects of the store to the facts that a plan is made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash, SnapshotId};
use lifeboat_store::{Key, ObjectMeta, Store, StoreErrorKind};

use super::plan::{IndexFacts, MarkFacts, PackFacts, RootFacts, RootState, RunFacts, VerdictFacts, View, later};
use super::{PruneReport, chain};
use crate::access::Access;
use crate::error::RepoError;
use crate::inventory::{self, Found};
use crate::object::{DomainId, HEADER_BYTES, ObjectError, ObjectType};
use crate::root::{self, Root};
use crate::scan::{Claim, PackSeen, Scan};
use crate::sealed::{Role, Signed};
use crate::small::{Deleting, Forget, Mark, Renewal, Run, RunId, Void};
use crate::snapshots::void_counts;

/// All that a prune knows before it decides.
pub(super) struct Gathered {
    pub(super) scan: Scan,
    /// By the number of the domain; facts of packs are complete when [`super::live`] is done.
    pub(super) views: BTreeMap<u16, View>,
    /// Numbers of each view's packs in the scan, in the same order.
    pub(super) numbers: BTreeMap<u16, Vec<u32>>,
    /// Reference pages from which the walk starts.
    pub(super) tops: Vec<(u16, ChunkId)>,
    /// To which domain each pack of the scan belongs, as far as it was looked up.
    pub(super) owners: Vec<Option<u16>>,
    /// Packs that a mark names.
    pub(super) marked: BTreeSet<ObjectHash>,
    /// Root objects that were there.
    pub(super) roots: BTreeSet<String>,
    /// Lengths of all objects but packs and indexes.
    pub(super) lengths: HashMap<Key, u64>,
    /// Run and renewal objects that cannot be read and are so old that they tell nothing: a run that gave
    /// no other sign since counts as dead.
    pub(super) spent: Vec<Key>,
    /// Domains that must be left alone, and why.
    pub(super) refusals: BTreeMap<u16, String>,
}

impl Gathered {
    /// Leaves a domain alone; the first reason is told.
    pub(super) fn refuse(&mut self, domain: u16, why: String) {
        self.refusals.entry(domain).or_insert(why);
    }

    fn refuse_all(&mut self, why: &str) {
        for domain in self.views.keys().copied().collect::<Vec<_>>() {
            self.refuse(domain, why.to_owned());
        }
    }
}

/// Reads everything. Roots come first: what they need is indexed when the indexes are read, and a
/// run that seals later has told of itself before.
pub(super) async fn gather(
    store: &Arc<dyn Store>,
    access: &Access,
    now: Timestamp,
    report: &mut PruneReport,
    ctx: &RunContext,
) -> Result<Gathered, RepoError> {
    let all_roots = inventory::list(store, "roots/").await?;
    let mut spent = Vec::new();
    let is_old = |object: &ObjectMeta| {
        let grace = Duration::from_secs(access.roster.grace_seconds) + store.capabilities().list_staleness;
        later(object.stored_at, grace) < now
    };
    let words = Words::read(store, access, (&is_old, &mut spent), report).await?;
    let scan = Scan::read(store, access, ctx).await?;
    for (key, error) in &scan.bad {
        if !matches!(error, ObjectError::ForeignDomain) {
            report.problem(format!("{key}: {error}"));
        }
    }
    let view = |_| View {
        now,
        grace: Duration::from_secs(access.roster.grace_seconds),
        list_staleness: store.capabilities().list_staleness,
        packs: Vec::new(),
        indexes: Vec::new(),
        runs: Vec::new(),
        marks: Vec::new(),
        roots: Vec::new(),
        verdicts: Vec::new(),
    };
    let views = (0..).take(scan.domains.len()).map(|number: u16| (number, view(number))).collect();
    let mut gathered = Gathered {
        owners: vec![None; scan.packs.len()],
        scan,
        views,
        numbers: BTreeMap::new(),
        tops: Vec::new(),
        marked: words.marks.iter().flat_map(|(_, m)| m.value.packs.iter().map(|(_, hash)| *hash)).collect(),
        roots: all_roots.iter().map(|object| object.key.to_string()).collect(),
        lengths: all_roots
            .iter()
            .chain(&spent)
            .map(|object| (object.key.clone(), object.bytes))
            .chain(words.lengths())
            .collect(),
        spent: spent.into_iter().map(|object| object.key).collect(),
        refusals: BTreeMap::new(),
    };
    roots(&mut gathered, store, access, all_roots, &words).await?;
    words.into_views(&mut gathered);
    indexes(&mut gathered);
    packs(&mut gathered, store, access, now).await?;
    Ok(gathered)
}

/// The small objects.
struct Words {
    runs: Vec<(ObjectMeta, Signed<Run>)>,
    renewals: Vec<(ObjectMeta, Signed<Renewal>)>,
    marks: Vec<(ObjectMeta, Signed<Mark>)>,
    deleting: Vec<(ObjectMeta, Signed<Deleting>)>,
    forgets: Vec<(ObjectMeta, Signed<Forget>)>,
    voids: Vec<(ObjectMeta, Signed<Void>)>,
}

/// Those that could be read; the others are told, but for those of domains that are not ours.
fn good<T>(found: Vec<Found<T>>, report: &mut PruneReport) -> Vec<(ObjectMeta, T)> {
    let mut values = Vec::new();
    for (object, value) in found {
        match value {
            Ok(value) => values.push((object, value)),
            Err(ObjectError::ForeignDomain) => {}
            Err(error) => report.problem(format!("{}: {error}", object.key)),
        }
    }
    values
}

/// The same, without those that are damaged and old.
fn good_or_spent<T>(
    mut found: Vec<Found<T>>,
    (is_old, spent): (&impl Fn(&ObjectMeta) -> bool, &mut Vec<ObjectMeta>),
    report: &mut PruneReport,
) -> Vec<(ObjectMeta, T)> {
    let is_spent = |(object, value): &mut Found<T>| matches!(value, Err(ObjectError::WrongHash)) && is_old(object);
    spent.extend(found.extract_if(.., is_spent).map(|(object, _)| object));
    good(found, report)
}

impl Words {
    async fn read(
        store: &Arc<dyn Store>,
        access: &Access,
        (is_old, spent): (&impl Fn(&ObjectMeta) -> bool, &mut Vec<ObjectMeta>),
        report: &mut PruneReport,
    ) -> Result<Self, RepoError> {
        Ok(Self {
            // Marks before runs: a run that saw a mark told so before.
            marks: good(inventory::small(store, access).await?, report),
            deleting: good(inventory::small(store, access).await?, report),
            runs: good_or_spent(inventory::small(store, access).await?, (is_old, spent), report),
            renewals: good_or_spent(inventory::small(store, access).await?, (is_old, spent), report),
            forgets: good(inventory::small(store, access).await?, report),
            voids: good(inventory::small(store, access).await?, report),
        })
    }

    /// The length of each.
    fn lengths(&self) -> impl Iterator<Item = (Key, u64)> {
        let runs = self.runs.iter().map(|(object, _)| object).chain(self.renewals.iter().map(|(object, _)| object));
        let marks = self.marks.iter().map(|(object, _)| object).chain(self.deleting.iter().map(|(object, _)| object));
        let verdicts = self.forgets.iter().map(|(object, _)| object).chain(self.voids.iter().map(|(object, _)| object));
        runs.chain(marks).chain(verdicts).map(|object| (object.key.clone(), object.bytes))
    }

    fn into_views(self, gathered: &mut Gathered) {
        type Signer = (DomainId, Role);
        let mut runs: BTreeMap<(u16, RunId), RunFacts> = BTreeMap::new();
        let mut sign = |scan: &Scan, (domain, role): Signer, run, object: &ObjectMeta, renewal: Option<&Renewal>| {
            let Some(number) = scan.domain_number(domain) else { return };
            let facts = runs.entry((number, run)).or_insert_with(|| RunFacts {
                run,
                begun: object.stored_at,
                last_sign: object.stored_at,
                ended: false,
                marks_seen: BTreeSet::new(),
                pins: BTreeSet::new(),
                objects: Vec::new(),
            });
            facts.begun = facts.begun.min(object.stored_at);
            facts.last_sign = facts.last_sign.max(object.stored_at);
            // What a removed writer had open can make no snapshot any more, and may hold up nobody.
            facts.ended |= role == Role::RemovedWriter;
            facts.objects.push(object.key.clone());
            if let Some(renewal) = renewal.filter(|_| role == Role::Writer) {
                facts.ended |= renewal.ended;
                facts.marks_seen.extend(&renewal.marks_seen);
                facts.pins.extend(&renewal.pins);
            }
        };
        for (object, run) in &self.runs {
            sign(&gathered.scan, (run.domain, run.role), run.value.run, object, None);
        }
        for (object, renewal) in &self.renewals {
            let signer = (renewal.domain, renewal.role);
            sign(&gathered.scan, signer, renewal.value.run, object, Some(&renewal.value));
        }
        for ((domain, _), facts) in runs {
            gathered.views.entry(domain).and_modify(|view| view.runs.push(facts));
        }
        let mut deleting: HashMap<ObjectHash, Vec<(lifeboat_store::Key, Timestamp)>> = HashMap::new();
        for (object, word) in self.deleting {
            deleting.entry(word.value.mark).or_default().push((object.key, object.stored_at));
        }
        for (object, mark) in self.marks {
            let Some(domain) = gathered.scan.domain_number(mark.domain) else { continue };
            let facts = MarkFacts {
                hash: mark.hash,
                stored_at: object.stored_at,
                packs: mark.value.packs,
                indexes: mark.value.indexes,
                others: mark.value.others,
                deleting: deleting.remove(&mark.hash).unwrap_or_default(),
            };
            gathered.views.entry(domain).and_modify(|view| view.marks.push(facts));
        }
        let forgets = self.forgets.into_iter().map(|(o, f)| (o, f.domain, f.value.snapshot, false));
        let voids = self.voids.into_iter().map(|(o, v)| (o, v.domain, v.value.snapshot, true));
        for (object, domain, snapshot, void) in forgets.chain(voids) {
            let Some(domain) = gathered.scan.domain_number(domain) else { continue };
            let (key, stored_at) = (object.key, object.stored_at);
            let facts = VerdictFacts { key, snapshot: ObjectHash(snapshot.0), stored_at, void };
            gathered.views.entry(domain).and_modify(|view| view.verdicts.push(facts));
        }
    }

    /// Whether a root is a snapshot.
    fn state(&self, root: &Root, stored_at: Timestamp, grace_seconds: u64) -> RootState {
        if self.forgets.iter().any(|(_, forget)| forget.value.snapshot == root.id) {
            return RootState::Forgotten;
        }
        let counts = |(object, void): &(ObjectMeta, Signed<Void>)| {
            let word = (void.role, void.signer, object.stored_at);
            void.value.snapshot == root.id && void_counts(word, root, stored_at, grace_seconds)
        };
        if self.voids.iter().any(counts) { RootState::Void } else { RootState::Live }
    }
}

/// Root objects, and the pages where their references begin.
async fn roots(
    gathered: &mut Gathered,
    store: &Arc<dyn Store>,
    access: &Access,
    listed: Vec<ObjectMeta>,
    words: &Words,
) -> Result<(), RepoError> {
    let kind = ObjectType::SnapshotRoot;
    let (snapshots, unknown): (Vec<_>, Vec<_>) =
        listed.into_iter().partition(|object| object.key.as_str().starts_with(kind.prefix()));
    if let Some(object) = unknown.first() {
        gathered.refuse_all(&format!("{} is a root of a kind that this program does not know", object.key));
    }
    let decode = |hash: ObjectHash, bytes: &bytes::Bytes| root::decode(access, SnapshotId(hash.0), bytes);
    for (object, root) in inventory::read_all(store, kind, snapshots, decode).await? {
        let hash = inventory::hash_of(kind, &object);
        match (hash, root) {
            (Ok(hash), Ok(root)) => sound_root(gathered, words, object, hash, &root),
            (_, Err(ObjectError::ForeignDomain)) => {}
            (hash, Err(error)) => bad_root(gathered, words, object, hash.ok(), &error),
            (Err(error), Ok(_)) => bad_root(gathered, words, object, None, &error),
        }
    }
    Ok(())
}

fn sound_root(gathered: &mut Gathered, words: &Words, object: ObjectMeta, hash: ObjectHash, root: &Root) {
    let Some(domain) = gathered.scan.domain_number(root.domain) else { return };
    let state = words.state(root, object.stored_at, gathered.views[&domain].grace.as_secs());
    if state == RootState::Live {
        match &root.refs {
            Some(refs) => gathered.tops.extend(refs.top.map(|top| (domain, top))),
            None => gathered.refuse(domain, format!("the key that opens the references of {} is missing", object.key)),
        }
    }
    let facts = RootFacts {
        key: object.key,
        hash,
        stored_at: object.stored_at,
        state,
        chain: Some(chain(root)),
        sequence: root.header.sequence,
        previous: root.header.previous,
    };
    gathered.views.entry(domain).and_modify(|view| view.roots.push(facts));
}

/// A root that cannot be read may need anything, unless somebody who may has forgotten it.
fn bad_root(gathered: &mut Gathered, words: &Words, object: ObjectMeta, hash: Option<ObjectHash>, why: &ObjectError) {
    let forget = words.forgets.iter().find(|(_, f)| hash.is_some_and(|hash| f.value.snapshot.0 == hash.0));
    let Some((_, forget)) = forget else {
        gathered.refuse_all(&format!(
            "{} cannot be read ({why}) and may need anything: nothing goes until it is whole again, or no longer in the \
             store",
            object.key
        ));
        return;
    };
    let (Some(domain), Some(hash)) = (gathered.scan.domain_number(forget.domain), hash) else { return };
    let facts = RootFacts {
        key: object.key,
        hash,
        stored_at: object.stored_at,
        state: RootState::Forgotten,
        chain: None,
        sequence: 0,
        previous: None,
    };
    gathered.views.entry(domain).and_modify(|view| view.roots.push(facts));
}

fn indexes(gathered: &mut Gathered) {
    for index in &gathered.scan.indexes {
        let facts = IndexFacts {
            hash: index.hash,
            bytes: index.bytes,
            stored_at: index.stored_at,
            packs: index.packs.iter().map(|(pack, records)| (pack.hash, *records)).collect(),
        };
        gathered.views.entry(index.domain).and_modify(|view| view.indexes.push(facts));
    }
}

/// Gives each pack to its domain. Whose a pack is stands in its own header, which its name seals: an
/// index of another domain that names it changes nothing.
async fn packs(
    gathered: &mut Gathered,
    store: &Arc<dyn Store>,
    access: &Access,
    now: Timestamp,
) -> Result<(), RepoError> {
    let grace = Duration::from_secs(access.roster.grace_seconds);
    // While an index object cannot be read, nobody knows what is in packs that no other names.
    let blind = gathered.scan.bad.iter().any(|(_, error)| !matches!(error, ObjectError::ForeignDomain));
    for (number, pack) in (0u32..).zip(&gathered.scan.packs) {
        let domain = match pack.claim {
            Claim::Domain(domain) => Some(domain),
            Claim::None if blind || later(pack.stored_at, grace) >= now => None,
            Claim::None | Claim::Several => {
                let domain = domain_in_header(store, pack).await?;
                domain.and_then(|domain| gathered.scan.domain_number(domain))
            }
        };
        let Some(domain) = domain else { continue };
        let facts = PackFacts {
            hash: pack.hash,
            kind: pack.kind,
            bytes: pack.bytes,
            stored_at: pack.stored_at,
            record_bytes: 0,
            live_bytes: 0,
        };
        if let Some(view) = gathered.views.get_mut(&domain) {
            view.packs.push(facts);
            gathered.owners[number as usize] = Some(domain);
            gathered.numbers.entry(domain).or_default().push(number);
        }
    }
    Ok(())
}

/// The domain that a pack's own header names; `None` where the pack is gone or has no header.
pub(super) async fn domain_in_header(store: &Arc<dyn Store>, pack: &PackSeen) -> Result<Option<DomainId>, RepoError> {
    let start = HEADER_BYTES as u64 + 16;
    match store.get(&pack.key(), Some(start..start + 16)).await {
        Ok(bytes) => Ok(<[u8; 16]>::try_from(&bytes[..]).ok().map(DomainId)),
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::BadRange) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
