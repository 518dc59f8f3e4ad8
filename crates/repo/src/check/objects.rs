//! Everything but packs and indexes: signed objects, each read whole from the store.

use std::collections::BTreeSet;

use bytes::Bytes;
use lifeboat_model::{Digest, ObjectHash, SnapshotId};
use lifeboat_store::StoreErrorKind;

use super::{CheckReport, ProblemKind};
use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::format::Format;
use crate::inventory;
use crate::object::{ObjectError, ObjectType, verify};
use crate::remember::RememberedHead;
use crate::repository::Repository;
use crate::root::{self, Root};
use crate::roster::{KeyringCopy, Roster, numbered_key, parse_numbered_key};
use crate::small::{Deleting, Forget, Hold, Mark, Quarantine, Renewal, Run, Small, Void};
use crate::snapshots::Trouble;

/// `format`, rosters and both copies of the keyrings.
pub(super) async fn keys(repository: &Repository, report: &mut CheckReport) -> Result<(), RepoError> {
    let Some(bytes) = get(repository, &Format::key(), report).await? else { return Ok(()) };
    let root = match Format::open(&bytes) {
        Ok((root, format)) if format.repository == repository.access().repository => root,
        Ok(_) => {
            report.problem(ProblemKind::Forged, Format::key(), "it is the format of another repository");
            return Ok(());
        }
        Err(why) => {
            report.bad_object(Format::key(), &why);
            return Ok(());
        }
    };
    rosters(repository, root, report).await?;
    for copy in KeyringCopy::ALL {
        keyrings(repository, root, copy, report).await?;
    }
    Ok(())
}

async fn get(
    repository: &Repository,
    key: &lifeboat_store::Key,
    report: &mut CheckReport,
) -> Result<Option<Bytes>, RepoError> {
    match repository.store().get(key, None).await {
        Ok(bytes) => {
            report.bytes += bytes.len() as u64;
            Ok(Some(bytes))
        }
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            report.problem(ProblemKind::Missing, key, "it is not in the store");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Checks a numbered object's name; the bytes if they belong to it.
async fn numbered(
    repository: &Repository,
    prefix: &str,
    key: &lifeboat_store::Key,
    report: &mut CheckReport,
) -> Result<Option<(u32, ObjectHash, Bytes)>, RepoError> {
    let Some((number, hash)) = parse_numbered_key(prefix, key) else {
        report.note(format!("{key} has no number and hash for a name"));
        return Ok(None);
    };
    let Some(bytes) = get(repository, key, report).await? else { return Ok(None) };
    if Digest::of(&bytes) == hash.0 {
        return Ok(Some((number, hash, bytes)));
    }
    report.bad_object(key, &ObjectError::WrongHash);
    Ok(None)
}

async fn rosters(repository: &Repository, root: VerifyKey, report: &mut CheckReport) -> Result<(), RepoError> {
    let prefix = ObjectType::Roster.prefix();
    let listed = inventory::list(repository.store(), prefix).await?;
    let names: BTreeSet<_> = listed.iter().filter_map(|o| parse_numbered_key(prefix, &o.key)).map(|n| n.1).collect();
    for object in &listed {
        let Some((number, _, bytes)) = numbered(repository, prefix, &object.key, report).await? else { continue };
        match Roster::open(repository.access().repository, &bytes) {
            Ok((signer, roster)) if signer == root && roster.number == number => {
                if let Some(previous) = roster.previous.filter(|previous| !names.contains(previous)) {
                    let what = format!("the roster before it, {previous}, is gone");
                    report.problem(ProblemKind::Chain, &object.key, what);
                }
            }
            // What stands beside the first one was left by a creation that came to nothing.
            Ok((signer, _)) if signer != root && number == 1 => {
                report.note(format!("{} is signed by {signer}, not by the root", object.key));
            }
            Ok((signer, _)) if signer != root => {
                report.problem(ProblemKind::Forged, &object.key, format!("it is signed by {signer}, not by the root"));
            }
            Ok(_) => report.problem(ProblemKind::Damaged, &object.key, "it has another number than its name"),
            Err(why) => report.bad_object(&object.key, &why),
        }
    }
    let newest = repository.access().roster.key();
    if !listed.iter().any(|object| object.key == newest) {
        report.problem(ProblemKind::Missing, newest, "the newest roster is gone");
    }
    Ok(())
}

async fn keyrings(
    repository: &Repository,
    root: VerifyKey,
    copy: KeyringCopy,
    report: &mut CheckReport,
) -> Result<(), RepoError> {
    let listed = inventory::list(repository.store(), copy.prefix()).await?;
    for object in &listed {
        let Some((number, _, bytes)) = numbered(repository, copy.prefix(), &object.key, report).await? else {
            continue;
        };
        match verify(repository.access().repository, ObjectType::Keyring, &bytes) {
            Ok((signer, _)) if signer == root => {}
            Ok((signer, _)) if number == 1 => {
                report.note(format!("{} is signed by {signer}, not by the root", object.key));
            }
            Ok((signer, _)) => {
                report.problem(ProblemKind::Forged, &object.key, format!("it is signed by {signer}, not by the root"));
            }
            Err(why) => report.bad_object(&object.key, &why),
        }
    }
    let needed = repository.access().roster.keyring_key(copy);
    if !listed.iter().any(|object| object.key == needed) {
        report.problem(
            ProblemKind::Missing,
            needed,
            "a copy of the keyring is gone; `lifeboat key export` keeps its secrets safe",
        );
    }
    Ok(())
}

/// Run, renewal, forget, hold, void, mark, deleting, quarantine.
pub(super) async fn small(repository: &Repository, report: &mut CheckReport) -> Result<(), RepoError> {
    of_type::<Run>(repository, report).await?;
    of_type::<Renewal>(repository, report).await?;
    of_type::<Forget>(repository, report).await?;
    of_type::<Hold>(repository, report).await?;
    of_type::<Void>(repository, report).await?;
    of_type::<Mark>(repository, report).await?;
    of_type::<Deleting>(repository, report).await?;
    of_type::<Quarantine>(repository, report).await?;
    logs(repository, report).await
}

/// Log roots: whether they are what they say. What they need is not followed.
async fn logs(repository: &Repository, report: &mut CheckReport) -> Result<(), RepoError> {
    let kind = ObjectType::LogRoot;
    let listed = inventory::list(repository.store(), kind.prefix()).await?;
    let decode = |hash: ObjectHash, bytes: &Bytes| root::log::decode(repository.access(), hash, bytes);
    let mut sound = 0;
    for (object, root) in inventory::read_all(repository.store(), kind, listed, decode).await? {
        report.bytes += object.bytes;
        match root {
            Ok(_) => sound += 1,
            Err(why) => report.bad_object(&object.key, &why),
        }
    }
    if sound > 0 {
        report.note(format!("{sound} stretches of a log are here; this program neither reads nor prunes them"));
    }
    Ok(())
}

async fn of_type<T: Small + Send>(repository: &Repository, report: &mut CheckReport) -> Result<(), RepoError> {
    for (object, value) in inventory::small::<T>(repository.store(), repository.access()).await? {
        report.bytes += object.bytes;
        if let Err(why) = value {
            report.bad_object(&object.key, &why);
        }
    }
    Ok(())
}

/// Root objects and their chains. Returns those that are snapshots, and the names of those that are damaged.
pub(super) async fn roots(
    repository: &Repository,
    remembered: &[RememberedHead],
    report: &mut CheckReport,
) -> Result<(Vec<Root>, BTreeSet<ObjectHash>), RepoError> {
    let kind = ObjectType::SnapshotRoot;
    let listed = inventory::list(repository.store(), kind.prefix()).await?;
    let access = repository.access();
    let decode = |hash: ObjectHash, bytes: &Bytes| root::decode(access, SnapshotId(hash.0), bytes);
    let found = inventory::read_all(repository.store(), kind, listed, decode).await?;
    let list = repository.snapshots(remembered).await?;
    let dropped: BTreeSet<_> = list.snapshots.iter().filter(|info| !info.counts()).map(|info| info.id).collect();
    let mut bad = BTreeSet::new();
    let mut roots = Vec::new();
    for (object, root) in found {
        report.bytes += object.bytes;
        match root {
            Ok(root) if dropped.contains(&root.id) => {}
            Ok(root) => roots.push(root),
            Err(why) => {
                report.bad_object(&object.key, &why);
                bad.insert(object.key.to_string());
            }
        }
    }
    // Roots that are sound and still do not count, such as those of a writer that was removed before.
    for refused in list.refused.iter().filter(|refused| refused.object.starts_with(kind.prefix())) {
        if !bad.contains(&refused.object) {
            report.bad_object(&refused.object, &refused.why);
            roots.retain(|root| kind.key(ObjectHash(root.id.0)).as_str() != refused.object);
        }
    }
    for finding in &list.findings {
        match finding.trouble {
            Trouble::NewerRoster { cited: (number, hash), .. } => {
                let roster = numbered_key(ObjectType::Roster.prefix(), number, hash);
                report.problem(ProblemKind::Missing, roster, finding);
            }
            Trouble::Fork { .. } => {
                report.problem(ProblemKind::Chain, format!("chain of writer {}", finding.writer), finding);
            }
            // Told above.
            Trouble::Damaged { .. } => {}
            Trouble::Missing { root: gone, .. } | Trouble::Gap { missing: gone, .. } => {
                report.problem(ProblemKind::Chain, kind.key(gone), finding);
            }
        }
    }
    report.snapshots = roots.len() as u64;
    Ok((roots, list.damaged()))
}
