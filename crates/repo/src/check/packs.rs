//! Packs: their sizes against the index, and with `read_data` their bytes and records.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash};
use lifeboat_store::StoreErrorKind;

use super::{CheckReport, ProblemKind};
use crate::access::Access;
use crate::crypt::Secret;
use crate::error::RepoError;
use crate::index::blocking;
use crate::object::{ObjectError, ObjectType};
use crate::pack::{PackContents, PackKey};
use crate::repository::Repository;
use crate::scan::{Claim, PackSeen, Scan};
use crate::sealed::check_hash;

/// The most packs without an index that are told by name.
const UNINDEXED_TOLD: usize = 10;

/// What of a pack is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum BadPart {
    /// Nobody can tell, so all of it.
    All,
    /// These records.
    Records(HashSet<ChunkId>),
    /// All but these records: where the bytes are not those of the name, what they say of themselves may
    /// be of another pack.
    AllBut(HashSet<ChunkId>),
}

/// Bad packs by their numbers in the scan.
pub(crate) type BadPacks = HashMap<u32, BadPart>;

impl BadPart {
    pub(super) fn hits(&self, id: &ChunkId) -> bool {
        match self {
            Self::All => true,
            Self::Records(ids) => ids.contains(id),
            Self::AllBut(ids) => !ids.contains(id),
        }
    }
}

/// Packs that are shorter or longer than an index says.
pub(super) fn sizes(scan: &Scan, report: &mut CheckReport) -> BadPacks {
    let mut bad = BadPacks::new();
    for (pack, _) in scan.indexes.iter().flat_map(|index| &index.packs) {
        let Some(number) = scan.number_of(pack.kind, &pack.hash) else { continue };
        let seen = &scan.packs[number as usize];
        if seen.bytes != pack.bytes && bad.insert(number, BadPart::All).is_none() {
            let what = format!("it has {} bytes, the index says {}", seen.bytes, pack.bytes);
            report.problem(ProblemKind::Damaged, seen.key(), what);
        }
    }
    bad
}

/// Packs that no index names: their index object is missing or damaged, or they are leftovers of runs
/// that died or new ones of runs that are open.
/// Those of `needed` hold chunks that snapshots need.
pub(super) fn unindexed(scan: &Scan, needed: &BTreeSet<u32>, report: &mut CheckReport) {
    let named: BTreeSet<_> =
        scan.indexes.iter().flat_map(|index| &index.packs).map(|(pack, _)| (pack.kind, pack.hash)).collect();
    let unindexed = (0u32..).zip(&scan.packs).filter(|(_, pack)| pack.claim == Claim::None);
    let unindexed = unindexed.filter(|(_, pack)| !named.contains(&(pack.kind, pack.hash)));
    let (needed, left): (Vec<_>, Vec<_>) = unindexed.partition(|(number, _)| needed.contains(number));
    let bytes = |packs: &[(u32, &PackSeen)]| packs.iter().map(|(_, pack)| pack.bytes).sum::<u64>();
    if !needed.is_empty() {
        let told: Vec<_> = needed.iter().take(UNINDEXED_TOLD).map(|(_, pack)| pack.key().to_string()).collect();
        let what = format!(
            "an index object is missing or damaged: {} packs ({} bytes) that snapshots need are in no index: {}{}. \
             Nothing is lost, they are found by their own trailers; `lifeboat repair`, or `lifeboat prune --identity FILE`, indexes them again",
            needed.len(),
            bytes(&needed),
            told.join(", "),
            if needed.len() > told.len() { ", ..." } else { "" }
        );
        report.problem(ProblemKind::Unindexed, ObjectType::Index.prefix(), what);
    }
    if !left.is_empty() {
        report.note(format!(
            "{} packs ({} bytes) are in no index; a prune deletes them when no run can need them",
            left.len(),
            bytes(&left)
        ));
    }
}

/// Reads these packs, two at a time; returns those that are sound.
pub(super) async fn read(
    repository: &Repository,
    scan: &Scan,
    wanted: &[u32],
    bad: &mut BadPacks,
    report: &mut CheckReport,
    ctx: &RunContext,
) -> Result<Vec<ObjectHash>, RepoError> {
    let total = wanted.iter().map(|number| scan.packs[*number as usize].bytes).sum();
    ctx.monitor.begin("reading packs", Some(total));
    let mut sound = Vec::new();
    let mut packs = stream::iter(wanted.iter().map(|number| (*number, scan.packs[*number as usize])))
        .map(|(number, pack)| async move { (number, pack, repository.store().get(&pack.key(), None).await) })
        .buffered(2);
    let mut secrets = HashMap::new();
    while let Some((number, pack, bytes)) = packs.next().await {
        if ctx.cancel.is_cancelled() {
            report.note("the check was stopped before every pack was read".to_owned());
            return Ok(sound);
        }
        let bytes = match bytes {
            Ok(bytes) => bytes,
            // Deleted since it was listed.
            Err(error) if error.kind == StoreErrorKind::NotFound => continue,
            Err(error) if error.kind == StoreErrorKind::Failed => {
                report.problem(ProblemKind::Damaged, pack.key(), &error.source);
                bad.insert(number, BadPart::All);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        report.bytes += bytes.len() as u64;
        ctx.monitor.bytes(bytes.len() as u64);
        let access = Arc::clone(repository.access());
        let known = std::mem::take(&mut secrets);
        let (found, known) = blocking(move || Ok(examine(&access, &pack, &bytes, known))).await?;
        secrets = known;
        match found {
            Some((what, part)) => {
                if bad.insert(number, part).is_none() {
                    report.problem(ProblemKind::Damaged, pack.key(), what);
                }
            }
            None => sound.push(pack.hash),
        }
    }
    Ok(sound)
}

pub(crate) type Secrets = HashMap<lifeboat_model::Digest, Option<Secret>>;
/// The most run secrets that are remembered.
const SECRETS_MAX: usize = 4096;

/// What is wrong with a pack, and what of it. All cores work on the one pack, so that no more than it and
/// those being fetched are in memory.
fn examine(
    access: &Access,
    pack: &PackSeen,
    bytes: &Bytes,
    mut secrets: Secrets,
) -> (Option<(String, BadPart)>, Secrets) {
    if secrets.len() > SECRETS_MAX {
        secrets.clear();
    }
    let key_of = |domain| access.domains.get(&domain).map(|keys| &keys.index);
    let contents = PackContents::parse(pack.kind, bytes, key_of);
    let (whole, records) = std::thread::scope(|scope| {
        let whole = scope.spawn(|| check_hash(pack.hash, bytes));
        let records =
            contents.as_ref().ok().and_then(|contents| bad_records(access, pack, bytes, contents, &mut secrets));
        (whole.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), records)
    });
    let found = match (whole, contents) {
        // Whose index key we lack is known by the hash alone.
        (Ok(()), Err(_)) if foreign(access, bytes) => None,
        (Ok(()), Err(why)) | (Err(why), Err(_)) => Some((why.to_string(), BadPart::All)),
        (whole, Ok(contents)) => match (whole, records) {
            (Ok(()), None) => None,
            (Ok(()), Some(ids)) if ids.is_empty() => None,
            (Ok(()), Some(ids)) => Some((format!("{} of its records do not open", ids.len()), BadPart::Records(ids))),
            // Without the key of the content nobody can tell which records are hurt.
            (Err(why), None) => Some((why.to_string(), BadPart::All)),
            (Err(why), Some(ids)) => {
                let records = &contents.trailer.records;
                let what = format!("{why}; {} of the {} records that it lists are hurt", ids.len(), records.len());
                let sound = records.iter().map(|record| record.id).filter(|id| !ids.contains(id)).collect();
                Some((what, BadPart::AllBut(sound)))
            }
        },
    };
    (found, secrets)
}

/// Whether a pack belongs to a domain whose key we do not have.
fn foreign(access: &Access, bytes: &Bytes) -> bool {
    let id: Option<[u8; 16]> = bytes.get(32..48).and_then(|id| id.try_into().ok());
    id.is_some_and(|id| !access.domains.contains_key(&crate::object::DomainId(id)))
}

/// Records that do not open or have another id; `None` where we lack the keys.
pub(crate) fn bad_records(
    access: &Access,
    pack: &PackSeen,
    bytes: &Bytes,
    contents: &PackContents,
    secrets: &mut Secrets,
) -> Option<HashSet<ChunkId>> {
    let keys = access.domains.get(&contents.trailer.domain)?;
    let mut opened = Vec::with_capacity(contents.trailer.origins.len());
    for origin in &contents.trailer.origins {
        let secret = secrets
            .entry(lifeboat_model::Digest::of(origin.envelope.bytes()))
            .or_insert_with(|| access.secret_of(&origin.envelope).ok().flatten());
        opened.push(secret.as_ref().map(|secret| PackKey::new(access.repository, secret, pack.kind, origin.pack)));
    }
    let reaches = match pack.kind.object_type() {
        ObjectType::RefsPack => !access.maintenance.is_empty(),
        _ => access.can_read() && keys.content.is_some(),
    };
    if !reaches {
        return None;
    }
    let sound = |record: &crate::pack::Record| -> Result<bool, ObjectError> {
        let Some(key) = &opened[record.origin as usize] else { return Ok(false) };
        let ciphertext = bytes[record.offset as usize..][..record.stored_len as usize].to_vec();
        let plain = key.open(record, ciphertext)?;
        Ok(pack.kind.id_of(keys, &plain) == Some(record.id))
    };
    let records = &contents.trailer.records;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bad_of = |part: &[crate::pack::Record]| -> Vec<ChunkId> {
        part.iter().filter(|record| !sound(record).unwrap_or(false)).map(|record| record.id).collect()
    };
    Some(std::thread::scope(|scope| {
        let parts: Vec<_> =
            records.chunks(records.len().div_ceil(cores).max(1)).map(|part| scope.spawn(|| bad_of(part))).collect();
        let joined = parts.into_iter().map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.flatten().collect()
    }))
}
