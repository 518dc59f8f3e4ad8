//! Which bytes of which pack snapshots need.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use lifeboat_model::ChunkId;
use lifeboat_model::flow::RunContext;

use super::PruneReport;
use super::gather::Gathered;
use crate::error::RepoError;
use crate::refs;
use crate::repository::Repository;
use crate::scan::{Joined, join, scratch_error};
use crate::spill::{Sorted, Sorter};

/// The most missing chunks of a domain that are remembered.
const MISSING_MAX: usize = 100_000;

/// The needed records of each pack, in the order of domain, kind, pack, chunk.
pub(super) struct LiveRecords(Mutex<Rows>);

struct Rows {
    sorted: Sorted,
    held: Option<Row>,
}

/// A needed record.
#[derive(Clone, Copy)]
pub(super) struct LiveRecord {
    pub(super) pack: u32,
    pub(super) id: ChunkId,
}

impl LiveRecords {
    /// The next record of a domain. Domains are asked for in the order of their numbers; records of
    /// those that are passed over are dropped.
    pub(super) fn next_of(&self, domain: u16) -> io::Result<Option<LiveRecord>> {
        let mut rows = self.0.lock().map_err(|_| io::Error::other("a thread died"))?;
        loop {
            let row = match rows.held.take() {
                Some(row) => Some(row),
                None => rows.sorted.next(|key, _| parse(key))?.flatten(),
            };
            match row {
                Some((other, ..)) if other < domain => {}
                Some((other, pack, id)) if other > domain => {
                    rows.held = Some((other, pack, id));
                    return Ok(None);
                }
                Some((_, pack, id)) => return Ok(Some(LiveRecord { pack, id })),
                None => return Ok(None),
            }
        }
    }
}

/// Domain, pack, chunk.
type Row = (u16, u32, ChunkId);

fn parse(key: &[u8]) -> Option<Row> {
    let (head, id) = key.split_first_chunk::<7>()?;
    let id: [u8; 32] = id.try_into().ok()?;
    let pack = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    Some((u16::from_be_bytes([head[0], head[1]]), pack, id.into()))
}

/// Chunks that snapshots need and that no index finds in a pack, by domain; at most
/// [`MISSING_MAX`] of each.
pub(super) type Missing = BTreeMap<u16, Vec<ChunkId>>;

/// Walks from every snapshot and fills the facts of packs. A chunk counts in the newest pack that no
/// mark names; where all of its packs are marked it counts in all of them.
pub(super) async fn find(
    repository: &Repository,
    gathered: &mut Gathered,
    report: &mut PruneReport,
    ctx: &RunContext,
) -> Result<(LiveRecords, Missing), RepoError> {
    let failed = || scratch_error(&ctx.scratch);
    // What was indexed since the repository was opened is needed as well.
    repository.index().refresh(repository.store().as_ref()).await?;
    let tops = std::mem::take(&mut gathered.tops);
    let walked = refs::walk(repository, tops, ctx).await?;
    for (domain, error) in &walked.lost {
        report.problem(error.to_string());
        gathered.refuse(*domain, format!("references of snapshots cannot be read: {error}"));
    }
    let records = std::mem::replace(&mut gathered.scan.records, Sorter::new(&ctx.scratch, 0));
    let records = records.finish().map_err(failed())?;
    let mut live_bytes = vec![0u64; gathered.scan.packs.len()];
    let mut record_bytes = vec![0u64; gathered.scan.packs.len()];
    let mut missing = Missing::new();
    let mut rows = Sorter::within(ctx);
    let scan = &gathered.scan;
    let (owners, marked) = (&gathered.owners, &gathered.marked);
    join(records, walked.live, |chunk: &Joined<'_>| {
        let own = |pack: u32| owners[pack as usize] == Some(chunk.domain);
        for (pack, length) in chunk.copies.iter().filter(|(pack, _)| own(*pack)) {
            record_bytes[*pack as usize] += u64::from(*length);
        }
        if !chunk.live {
            return Ok(());
        }
        let is_marked = |pack: u32| marked.contains(&scan.packs[pack as usize].hash);
        let present = || chunk.copies.iter().filter(|(pack, _)| own(*pack));
        let newest = present().rfind(|(pack, _)| !is_marked(*pack));
        if let Some((pack, length)) = newest {
            live_bytes[*pack as usize] += u64::from(*length);
            let kind = scan.packs[*pack as usize].kind as u8;
            let mut key = Vec::with_capacity(7 + 32);
            key.extend_from_slice(&chunk.domain.to_be_bytes());
            key.push(kind);
            key.extend_from_slice(&pack.to_be_bytes());
            key.extend_from_slice(chunk.id.bytes());
            return rows.push(&key, &[]);
        }
        let mut any = false;
        for (pack, length) in present() {
            live_bytes[*pack as usize] += u64::from(*length);
            any = true;
        }
        if !any {
            let ids = missing.entry(chunk.domain).or_default();
            if ids.len() < MISSING_MAX {
                ids.push(chunk.id);
            }
        }
        Ok(())
    })
    .map_err(failed())?;
    for (domain, ids) in &missing {
        let (count, id) = (ids.len(), ids[0]);
        gathered.refuse(
            *domain,
            format!("{count} chunks that snapshots need are in no index, {id} among them; `lifeboat check` tells more"),
        );
    }
    for (domain, numbers) in &gathered.numbers {
        let Some(view) = gathered.views.get_mut(domain) else { continue };
        for (facts, number) in view.packs.iter_mut().zip(numbers) {
            facts.live_bytes = live_bytes[*number as usize];
            facts.record_bytes = record_bytes[*number as usize];
        }
    }
    let sorted = rows.finish().map_err(failed())?;
    Ok((LiveRecords(Mutex::new(Rows { sorted, held: None })), missing))
}
