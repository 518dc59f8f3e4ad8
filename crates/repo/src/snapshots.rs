//! Which snapshots there are, which of them count, and whether some were taken away.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash, RecoveryPoint, SnapshotId, SourceName, StackName};
use lifeboat_store::Store;

use crate::access::Access;
use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::local::{Loaded, LocalObjects};
use crate::object::{DomainId, ObjectError, ObjectType};
use crate::remember::RememberedHead;
use crate::root::{Root, RootHeader};
use crate::small::RunId;

mod chain;
mod verdicts;

pub use chain::{ChainFinding, Trouble};
use verdicts::Verdicts;
pub(crate) use verdicts::void_counts;

/// The part of a root's body that a list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The stack.
    pub stack: StackName,
    /// The source.
    pub source: SourceName,
    /// What kind of source.
    pub kind: String,
    /// The view that the snapshot holds.
    pub recovery_point: RecoveryPoint,
    /// Counts by name.
    pub stats: BTreeMap<String, u64>,
    /// What the person called it.
    pub label: Option<String>,
    /// How many problems it has; the root object lists them.
    pub problems: u64,
    /// Joins the snapshots that one command made of a stack.
    pub stack_run: Option<RunId>,
}

/// A snapshot, as far as our keys show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The hash of its root object.
    pub id: SnapshotId,
    /// Who made it.
    pub writer: VerifyKey,
    /// The writer's domain.
    pub domain: DomainId,
    /// What everybody of the domain sees.
    pub header: RootHeader,
    /// When the store took it, by the store's clock.
    pub stored_at: Timestamp,
    /// What identities see.
    pub summary: Option<Summary>,
    /// Why it was forgotten.
    pub forgotten: Option<String>,
    /// Why it is held.
    pub held: Option<String>,
    /// Why it is no snapshot although its root object is there.
    pub void: Option<String>,
}

impl SnapshotInfo {
    /// The time that retention counts by: that of an identity's countersignature, else the store's.
    #[must_use]
    pub fn dated(&self) -> Timestamp {
        self.header.countersigned.as_ref().map_or(self.stored_at, |countersigned| countersigned.time)
    }

    /// When it was made by what is signed; a clock that was ahead of the store's counts for no more than
    /// the store's.
    fn made(&self) -> Timestamp {
        let own = || self.header.time.min(self.stored_at);
        self.header.countersigned.as_ref().map_or_else(own, |countersigned| countersigned.time)
    }

    /// By how many seconds the writer's clock was ahead of the store's; negative where behind. The
    /// run's own length counts as behind.
    #[must_use]
    pub fn skew_seconds(&self) -> i64 {
        self.header.time.as_second() - self.stored_at.as_second()
    }

    /// Whether it can be chosen: neither forgotten nor void.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.forgotten.is_none() && self.void.is_none()
    }
}

/// An object that is left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its name in the store.
    pub object: String,
    /// What is wrong with it.
    pub why: ObjectError,
}

/// What a list of snapshots found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotList {
    /// Sound snapshots, oldest first; forgotten and void ones among them.
    pub snapshots: Vec<SnapshotInfo>,
    /// Forged or damaged objects; what this machine keeps a whole copy of is among the snapshots too.
    pub refused: Vec<Refused>,
    /// Signs that roots were taken away, or that a chain was forked.
    pub findings: Vec<ChainFinding>,
    /// Hashes of all root objects in the store whose domain we know, refused ones included: nobody
    /// may delete what these may need.
    pub roots: BTreeSet<ObjectHash>,
}

impl SnapshotList {
    /// The newest root of a source that tells of which system it is, whoever made it: of the roots that
    /// one writer made the last in its chain, of the ends of several chains and of copies the one that
    /// was made last by what its signature covers. The store's time alone decides nothing: damage to an
    /// object, or a store that was copied, changes it.
    #[must_use]
    pub fn newest_system(&self, source: &Digest) -> Option<&SnapshotInfo> {
        let telling = || {
            let tells = |info: &&SnapshotInfo| info.header.source_tag == *source && !info.header.systems.is_empty();
            self.snapshots.iter().filter(tells)
        };
        let mut ends: HashMap<VerifyKey, u64> = HashMap::new();
        for info in telling().filter(|info| info.header.countersigned.is_none()) {
            let end = ends.entry(info.writer).or_default();
            *end = info.header.sequence.max(*end);
        }
        let is_end = |info: &&SnapshotInfo| {
            info.header.countersigned.is_some() || ends.get(&info.writer) == Some(&info.header.sequence)
        };
        telling().filter(is_end).max_by_key(|info| (info.made(), info.id))
    }

    /// Roots whose bytes in the store are not those that their names seal.
    #[must_use]
    pub fn damaged(&self) -> BTreeSet<ObjectHash> {
        let wrong = self.refused.iter().filter(|refused| refused.why == ObjectError::WrongHash);
        let name = |refused: &Refused| {
            let hash = refused.object.strip_prefix(ObjectType::SnapshotRoot.prefix())?;
            ObjectHash::from_hex(hash).ok()
        };
        wrong.filter_map(name).collect()
    }

    /// The newest root of every chain, to be remembered.
    #[must_use]
    pub fn heads(&self) -> Vec<RememberedHead> {
        let mut heads: HashMap<(VerifyKey, Digest), &SnapshotInfo> = HashMap::new();
        for snapshot in &self.snapshots {
            let chain = (snapshot.writer, snapshot.header.source_tag);
            let newest = heads.entry(chain).or_insert(snapshot);
            if newest.header.sequence < snapshot.header.sequence {
                *newest = snapshot;
            }
        }
        let head = |info: &SnapshotInfo| RememberedHead {
            writer: info.writer,
            source: info.header.source_tag,
            sequence: info.header.sequence,
            root: ObjectHash(info.id.0),
        };
        let mut heads: Vec<RememberedHead> = heads.into_values().map(head).collect();
        heads.sort_by_key(|head| (head.writer, head.source));
        heads
    }
}

/// Lists the snapshots of the domains that we know.
///
/// `remembered` are heads that were seen before, and roots of whose loss a person took note: what is missing
/// of the first and not among the second is told.
///
/// # Errors
/// [`RepoError::Store`] where the store fails. Forged or damaged objects are no errors: they are in
/// [`SnapshotList::refused`].
pub(crate) async fn list(
    store: &dyn Store,
    access: &Access,
    local: &LocalObjects,
    remembered: (&[RememberedHead], &BTreeSet<ObjectHash>),
) -> Result<SnapshotList, RepoError> {
    let mut out = SnapshotList::default();
    let mut found: Vec<(Root, Timestamp)> = Vec::new();
    let kind = ObjectType::SnapshotRoot;
    let roots = local.each(store, kind, |Loaded { listed, bytes, damage }| {
        let decoded = bytes.and_then(|bytes| crate::root::decode(access, SnapshotId(listed.hash.0), &bytes));
        if !matches!(decoded, Err(ObjectError::ForeignDomain)) {
            out.roots.insert(listed.hash);
        }
        match decoded {
            Ok(root) => {
                found.push((slim(root), listed.stored_at));
                out.refused.extend(damage.map(|why| Refused { object: kind.key(listed.hash).to_string(), why }));
            }
            Err(ObjectError::ForeignDomain) => {}
            Err(why) => out.refused.push(Refused { object: kind.key(listed.hash).to_string(), why }),
        }
    });
    roots.await?;
    refuse_after_removal(access, &mut found, &mut out.refused);
    let verdicts = Verdicts::load(store, access, local, &mut out.refused).await?;
    let grace_seconds = access.roster.grace_seconds;
    out.snapshots = found.into_iter().map(|(root, at)| verdicts.apply(root, at, grace_seconds)).collect();
    date_by_successors(&mut out.snapshots);
    out.snapshots.sort_by_key(|info| (info.dated(), info.header.sequence, info.id));
    out.findings = chain::examine(&out, &verdicts, remembered, &access.roster);
    Ok(out)
}

/// Drops what a list does not show, so that many roots need little memory.
fn slim(mut root: Root) -> Root {
    if let Some(body) = &mut root.body {
        body.config = String::new();
        for problem in &mut body.problems {
            *problem = Default::default();
        }
    }
    root
}

/// No root came after one that names it as the one before: the store dates anew what was damaged, put
/// back or copied.
fn date_by_successors(snapshots: &mut [SnapshotInfo]) {
    let places: HashMap<SnapshotId, usize> =
        snapshots.iter().enumerate().map(|(place, info)| (info.id, place)).collect();
    let mut newest_first: Vec<usize> = (0..snapshots.len()).collect();
    newest_first.sort_by_key(|place| std::cmp::Reverse(snapshots[*place].header.sequence));
    for place in newest_first {
        let SnapshotInfo { writer, stored_at, ref header, .. } = snapshots[place];
        let before = header.previous.and_then(|hash| places.get(&SnapshotId(hash.0)));
        if let Some(before) = before.map(|before| &mut snapshots[*before]).filter(|before| before.writer == writer) {
            before.stored_at = before.stored_at.min(stored_at);
        }
    }
}

/// Of a removed writer only the roots count that were known when it was removed, and what is before them.
fn refuse_after_removal(access: &Access, found: &mut Vec<(Root, Timestamp)>, refused: &mut Vec<Refused>) {
    let previous: HashMap<ObjectHash, Option<ObjectHash>> =
        found.iter().map(|(root, _)| (ObjectHash(root.id.0), root.header.previous)).collect();
    let mut known: BTreeSet<ObjectHash> = BTreeSet::new();
    for root in access.roster.removed.iter().flat_map(|writer| &writer.roots) {
        let mut next = Some(*root);
        while let Some(hash) = next.filter(|hash| !known.contains(hash)) {
            next = previous.get(&hash).copied().flatten();
            known.insert(hash);
        }
    }
    found.retain(|(root, _)| {
        let counts = root.writer_stands || known.contains(&ObjectHash(root.id.0));
        if !counts {
            let object = ObjectType::SnapshotRoot.key(ObjectHash(root.id.0)).to_string();
            refused.push(Refused { object, why: ObjectError::Stranger(root.writer) });
        }
        counts
    });
}

#[cfg(test)]
mod tests;
