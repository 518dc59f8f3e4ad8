//! What snapshots need against what is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lifeboat_model::flow::RunContext;
use lifeboat_model::{ChunkId, ObjectHash};
use lifeboat_store::Key;

use super::packs::{self, BadPacks};
use super::{CheckReport, ProblemKind};
use crate::error::RepoError;
use crate::inventory;
use crate::object::ObjectType;
use crate::refs;
use crate::repository::Repository;
use crate::root::Root;
use crate::scan::{Joined, Scan, join, scratch_error};
use crate::small::{Deleting, Mark};
use crate::spill::Sorter;

/// Chunks of which no good copy is left, each with the numbers of the problems that it belongs to.
pub(super) type Hurt = HashMap<ChunkId, Vec<usize>>;

/// The most hurt chunks that are followed to their entries.
const HURT_MAX: usize = 100_000;

/// Follows every snapshot's references and compares them with the packs.
pub(super) async fn follow(
    repository: &Repository,
    scan: &mut Scan,
    roots: &[Root],
    bad: &BadPacks,
    report: &mut CheckReport,
    ctx: &RunContext,
) -> Result<Hurt, RepoError> {
    if repository.access().maintenance.is_empty() {
        report.note("what snapshots need was not followed: that takes a maintainer or identity key".to_owned());
        packs::unindexed(scan, &BTreeSet::new(), report);
        return Ok(Hurt::new());
    }
    let mut tops = Vec::new();
    for root in roots {
        let name = ObjectType::SnapshotRoot.key(ObjectHash(root.id.0));
        match (&root.refs, scan.domain_number(root.domain)) {
            (Some(refs), Some(domain)) => tops.extend(refs.top.map(|top| (domain, top))),
            _ => report.note(format!("{name}: the key that opens its references is not at hand")),
        }
    }
    let walked = refs::walk(repository, tops, ctx).await?;
    for (_, error) in &walked.lost {
        let object = match error {
            RepoError::Chunk { id, .. } => format!("reference page {id}"),
            _ => "reference page".to_owned(),
        };
        report.problem(ProblemKind::Missing, object, error);
    }
    let records = std::mem::replace(&mut scan.records, Sorter::new(&ctx.scratch, 0));
    let failed = || scratch_error(&ctx.scratch);
    let mut lost: Vec<(u16, ChunkId)> = Vec::new();
    let mut lost_count = 0u64;
    join(records.finish().map_err(failed())?, walked.live, |chunk: &Joined<'_>| {
        let good = |(pack, _): &(u32, u32)| !bad.get(pack).is_some_and(|part| part.hits(&chunk.id));
        if chunk.live && !chunk.copies.iter().any(good) {
            lost_count += 1;
            if lost.len() < HURT_MAX {
                lost.push((chunk.domain, chunk.id));
            }
        }
        Ok(())
    })
    .map_err(failed())?;
    if lost_count > lost.len() as u64 {
        report.note(format!("{lost_count} chunks are lost; only {HURT_MAX} of them were followed to their entries"));
    }
    let (lost, unindexed) = without_unindexed(repository, scan, lost, bad).await?;
    packs::unindexed(scan, &unindexed, report);
    name_objects(repository, scan, &lost, report).await
}

/// Lost chunks, without those that lie in good packs that no index names, and the numbers of these packs.
async fn without_unindexed(
    repository: &Repository,
    scan: &Scan,
    lost: Vec<(u16, ChunkId)>,
    bad: &BadPacks,
) -> Result<(Vec<(u16, ChunkId)>, BTreeSet<u32>), RepoError> {
    let mut unindexed = BTreeSet::new();
    let mut left = Vec::new();
    for (domain, id) in lost {
        let found = repository.index().search(repository.store().as_ref(), &id).await?;
        let good = found.iter().find_map(|location| {
            let number = scan.number_of(location.record.kind, &location.pack)?;
            let whole = scan.packs[number as usize].bytes == location.pack_bytes;
            (whole && !bad.get(&number).is_some_and(|part| part.hits(&id))).then_some(number)
        });
        match good {
            Some(number) => drop(unindexed.insert(number)),
            None => left.push((domain, id)),
        }
    }
    Ok((left, unindexed))
}

/// Which objects the lost chunks were in: packs that are bad are told already, those that are missing are
/// told now.
async fn name_objects(
    repository: &Repository,
    scan: &Scan,
    lost: &[(u16, ChunkId)],
    report: &mut CheckReport,
) -> Result<Hurt, RepoError> {
    let mut told: BTreeMap<String, usize> =
        report.problems.iter().enumerate().map(|(number, problem)| (problem.object.clone(), number)).collect();
    let mut hurt = Hurt::new();
    let doomed = if lost.is_empty() { BTreeSet::new() } else { being_deleted(repository).await? };
    for (_, id) in lost {
        let locations = repository.index().locate(id);
        let mut numbers = Vec::new();
        for location in &locations {
            let name = location.pack_key();
            let number = *told.entry(name.to_string()).or_insert_with(|| {
                let number = report.problems.len();
                if scan.number_of(location.record.kind, &location.pack).is_some() {
                    report.problem(ProblemKind::Damaged, &name, "it does not hold what the index says");
                } else if doomed.contains(&location.pack) {
                    let what = "a prune deleted it while a run that needed it was silent: the run's snapshot is void";
                    report.problem(ProblemKind::Void, &name, what);
                } else {
                    report.problem(ProblemKind::Missing, &name, "a snapshot needs it, and it is not in the store");
                }
                number
            });
            numbers.push(number);
        }
        if locations.is_empty() {
            let name = format!("chunk {id}");
            let number = *told.entry(name.clone()).or_insert_with(|| {
                report.problem(ProblemKind::Missing, &name, "a snapshot needs it, and no pack that is left holds it");
                report.problems.len().saturating_sub(1)
            });
            numbers.push(number);
        }
        hurt.insert(*id, numbers);
    }
    Ok(hurt)
}

/// Packs that a prune said it deletes.
async fn being_deleted(repository: &Repository) -> Result<BTreeSet<ObjectHash>, RepoError> {
    let (store, access) = (repository.store(), repository.access());
    let marks: Vec<(Key, Mark, ObjectHash)> = inventory::small::<Mark>(store, access)
        .await?
        .into_iter()
        .filter_map(|(object, mark)| mark.ok().map(|mark| (object.key, mark.value, mark.hash)))
        .collect();
    let mut doomed = BTreeSet::new();
    for (_, word) in inventory::small::<Deleting>(store, access).await? {
        let Ok(word) = word else { continue };
        let mark = marks.iter().find(|(_, _, hash)| *hash == word.value.mark);
        let packs = mark.into_iter().flat_map(|(_, mark, _)| mark.packs.iter().map(|(_, hash)| *hash));
        doomed.extend(packs.filter(|pack| !word.value.kept.contains(pack)));
    }
    Ok(doomed)
}
