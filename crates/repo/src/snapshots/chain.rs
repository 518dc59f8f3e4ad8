//! Whether the chains of roots are whole.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lifeboat_model::{Digest, ObjectHash, SnapshotId};

use super::verdicts::Verdicts;
use super::{SnapshotInfo, SnapshotList};
use crate::crypt::VerifyKey;
use crate::remember::RememberedHead;
use crate::roster::Roster;

/// Something is wrong with the chain of a writer and source, or with what it tells of the rosters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainFinding {
    /// Who signs the chain.
    pub writer: VerifyKey,
    /// The source's tag.
    pub source_tag: Digest,
    /// What is wrong.
    pub trouble: Trouble,
}

/// What is wrong with a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A root that was seen before is gone, and nobody forgot it.
    Missing {
        /// The root.
        root: ObjectHash,
        /// Its place in the chain.
        sequence: u64,
        /// Whether nothing newer is left: the store may have been set back.
        newest: bool,
    },
    /// A root names one before it that is gone, and nobody forgot it.
    Gap {
        /// The root that is there.
        after: SnapshotId,
        /// The one that is gone.
        missing: ObjectHash,
    },
    /// A root is in the store, and its bytes are not what was written.
    Damaged {
        /// The root.
        root: ObjectHash,
    },
    /// A root cites a newer roster than any that the store shows.
    NewerRoster {
        /// The root that is there.
        root: SnapshotId,
        /// Number and hash of the roster that it cites.
        cited: (u32, ObjectHash),
        /// The number of the newest that was seen.
        newest: u32,
    },
    /// Several roots have one place: the writer's key is used twice, or its state was set back.
    Fork {
        /// The place.
        sequence: u64,
        /// The roots.
        roots: Vec<SnapshotId>,
    },
}

impl Trouble {
    /// The root that is gone, where that is the trouble.
    #[must_use]
    pub const fn gone(&self) -> Option<ObjectHash> {
        match self {
            Self::Missing { root, .. } => Some(*root),
            Self::Gap { missing, .. } => Some(*missing),
            Self::Damaged { .. } | Self::NewerRoster { .. } | Self::Fork { .. } => None,
        }
    }
}

impl fmt::Display for ChainFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.trouble {
            Trouble::Missing { root, sequence, newest } => {
                let set_back = if *newest { "; nothing newer is left, the store may have been set back" } else { "" };
                write!(
                    f,
                    "the root roots/snapshot/{root} (number {sequence} of its source) was seen before and is gone, and nobody forgot it{set_back}"
                )
            }
            Trouble::Gap { after, missing } => {
                write!(f, "the snapshot {after} follows roots/snapshot/{missing}, which is gone, and nobody forgot it")
            }
            Trouble::Damaged { root } => {
                write!(
                    f,
                    "roots/snapshot/{root} is damaged in the store; `lifeboat repair` mends it or tells what to do"
                )
            }
            Trouble::NewerRoster { root, cited: (number, hash), newest } => {
                write!(
                    f,
                    "roster/{number:08}-{hash} is cited by the snapshot {}, the newest roster that was seen is {newest}: rolled back or missing",
                    root.short()
                )
            }
            Trouble::Fork { sequence, roots } => {
                let roots: Vec<String> = roots.iter().map(|root| root.short()).collect();
                write!(
                    f,
                    "the snapshots {} are all number {sequence} of one source: its writer key is in use twice, or the writer's state was set back",
                    roots.join(", ")
                )
            }
        }
    }
}

/// The finding of the newest roster that a root cites, where it is newer than the one that was opened.
/// Of two with one number the one with the lower hash holds, so it is the newer.
fn newer_roster(list: &SnapshotList, roster: &Roster) -> Option<ChainFinding> {
    let age = |info: &&SnapshotInfo| (info.header.roster_number, Reverse(info.header.roster_hash));
    let info = list.snapshots.iter().max_by_key(age)?;
    (age(&info) > (roster.number, Reverse(roster.hash))).then_some(ChainFinding {
        writer: info.writer,
        source_tag: info.header.source_tag,
        trouble: Trouble::NewerRoster {
            root: info.id,
            cited: (info.header.roster_number, info.header.roster_hash),
            newest: roster.number,
        },
    })
}

pub(super) fn examine(
    list: &SnapshotList,
    verdicts: &Verdicts,
    (remembered, accepted): (&[RememberedHead], &BTreeSet<ObjectHash>),
    roster: &Roster,
) -> Vec<ChainFinding> {
    let mut chains: BTreeMap<(VerifyKey, Digest), BTreeMap<u64, Vec<&SnapshotInfo>>> = BTreeMap::new();
    for info in &list.snapshots {
        let chain = chains.entry((info.writer, info.header.source_tag)).or_default();
        chain.entry(info.header.sequence).or_default().push(info);
    }
    let gone = |hash: &ObjectHash| {
        !list.roots.contains(hash) && !verdicts.forgotten(&SnapshotId(hash.0)) && !accepted.contains(hash)
    };
    let damaged = list.damaged();
    let mut findings: Vec<_> = newer_roster(list, roster).into_iter().collect();
    for (&(writer, source_tag), chain) in &chains {
        let mut add = |trouble| findings.push(ChainFinding { writer, source_tag, trouble });
        let infos = || chain.values().flatten();
        let heads = remembered.iter().filter(|head| (head.writer, head.source) == (writer, source_tag));
        let known = infos().flat_map(|info| [Some(ObjectHash(info.id.0)), info.header.previous]).flatten();
        let known: BTreeSet<ObjectHash> = known.chain(heads.map(|head| head.root)).collect();
        let told = |root: &ObjectHash| !verdicts.forgotten(&SnapshotId(root.0)) && !accepted.contains(root);
        for root in known.intersection(&damaged).copied().filter(told) {
            add(Trouble::Damaged { root });
        }
        for (&sequence, infos) in chain {
            if infos.len() > 1 {
                add(Trouble::Fork { sequence, roots: infos.iter().map(|info| info.id).collect() });
            }
            for info in infos {
                if let Some(missing) = info.header.previous.filter(gone) {
                    add(Trouble::Gap { after: info.id, missing });
                }
            }
        }
    }
    for head in remembered.iter().filter(|head| gone(&head.root)) {
        let chain = chains.get(&(head.writer, head.source));
        let newest = chain.and_then(|chain| chain.keys().next_back()).is_none_or(|newest| *newest < head.sequence);
        let trouble = Trouble::Missing { root: head.root, sequence: head.sequence, newest };
        findings.push(ChainFinding { writer: head.writer, source_tag: head.source, trouble });
    }
    findings
}
