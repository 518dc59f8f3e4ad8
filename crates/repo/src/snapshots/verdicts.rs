//! What forget, hold and void objects say of snapshots.

use std::collections::HashMap;

use jiff::Timestamp;
use lifeboat_model::SnapshotId;
use lifeboat_store::Store;

use super::{Refused, SnapshotInfo, Summary};
use crate::access::Access;
use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::local::{Loaded, LocalObjects};
use crate::object::ObjectError;
use crate::root::{Root, RootBody};
use crate::sealed::{Role, Signed};
use crate::small::{Forget, Hold, Small, Void, decode};

/// Every verdict in the store, by snapshot.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    forgets: HashMap<SnapshotId, String>,
    holds: HashMap<SnapshotId, Hold>,
    voids: HashMap<SnapshotId, Vec<VoidFacts>>,
}

#[derive(Debug)]
struct VoidFacts {
    why: String,
    signer: VerifyKey,
    role: Role,
    stored_at: Timestamp,
}

impl Verdicts {
    pub(super) async fn load(
        store: &dyn Store,
        access: &Access,
        local: &LocalObjects,
        refused: &mut Vec<Refused>,
    ) -> Result<Self, RepoError> {
        let mut all = Self::default();
        each::<Forget>(store, access, local, refused, |forget, _| {
            all.forgets.insert(forget.value.snapshot, forget.value.why);
        })
        .await?;
        each::<Hold>(store, access, local, refused, |hold, _| {
            let newest = all.holds.entry(hold.value.snapshot).or_insert_with(|| hold.value.clone());
            // Of two at one time the one that keeps it.
            if (newest.time, !newest.release) < (hold.value.time, !hold.value.release) {
                *newest = hold.value;
            }
        })
        .await?;
        each::<Void>(store, access, local, refused, |void, stored_at| {
            let facts = VoidFacts { why: void.value.why, signer: void.signer, role: void.role, stored_at };
            all.voids.entry(void.value.snapshot).or_default().push(facts);
        })
        .await?;
        Ok(all)
    }

    pub(super) fn forgotten(&self, id: &SnapshotId) -> bool {
        self.forgets.contains_key(id)
    }

    pub(super) fn apply(&self, root: Root, stored_at: Timestamp, grace_seconds: u64) -> SnapshotInfo {
        let void = self
            .voids
            .get(&root.id)
            .into_iter()
            .flatten()
            .find(|void| void_counts((void.role, void.signer, void.stored_at), &root, stored_at, grace_seconds));
        let hold = self.holds.get(&root.id).filter(|hold| !hold.release);
        SnapshotInfo {
            id: root.id,
            writer: root.writer,
            domain: root.domain,
            stored_at,
            forgotten: self.forgets.get(&root.id).cloned(),
            held: hold.map(|hold| hold.why.clone()),
            void: void.map(|void| void.why.clone()),
            header: root.header,
            summary: root.body.map(summary),
        }
    }
}

/// A writer voids only its own roots, and only while it seals them: a key that was stolen later must
/// not make history vanish. Times are the store's.
pub(crate) fn void_counts(
    (role, signer, voided_at): (Role, VerifyKey, Timestamp),
    root: &Root,
    stored_at: Timestamp,
    grace_seconds: u64,
) -> bool {
    match role {
        Role::Maintainer | Role::Identity | Role::Retired => true,
        Role::Writer | Role::RemovedWriter => {
            let grace_seconds = i64::try_from(grace_seconds).unwrap_or(i64::MAX);
            signer == root.writer && voided_at.as_second() - stored_at.as_second() <= grace_seconds
        }
    }
}

fn summary(body: RootBody) -> Summary {
    Summary {
        stack: body.stack,
        source: body.source,
        kind: body.kind,
        recovery_point: body.recovery_point,
        stats: body.stats,
        label: body.label,
        problems: body.problems.len() as u64,
        stack_run: body.stack_run,
    }
}

async fn each<T: Small>(
    store: &dyn Store,
    access: &Access,
    local: &LocalObjects,
    refused: &mut Vec<Refused>,
    mut take: impl FnMut(Signed<T>, Timestamp),
) -> Result<(), RepoError> {
    let all = local.each(store, T::TYPE, |Loaded { listed, bytes, damage }| {
        match bytes.and_then(|bytes| decode::<T>(access, listed.hash, &bytes)) {
            Ok(signed) => {
                take(signed, listed.stored_at);
                refused.extend(damage.map(|why| Refused { object: T::TYPE.key(listed.hash).to_string(), why }));
            }
            Err(ObjectError::ForeignDomain) => {}
            Err(why) => refused.push(Refused { object: T::TYPE.key(listed.hash).to_string(), why }),
        }
    });
    all.await
}
