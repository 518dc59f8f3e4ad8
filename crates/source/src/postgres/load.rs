//! Puts the data of an archive into a database whose tables and large objects are there and empty.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::SinkExt;
use futures::future::try_join_all;
use lifeboat_model::flow::{BodyError, ContentSink, PIECE_BYTES_MAX, Piece, RunContext};
use tokio_postgres::CopyInSink;

use super::archive::Archive;
use super::client::{Server, ServerError, Session, failure};
use super::data::{Watch, copy_in};
use super::toc::{TocEntry, text};
use crate::SourceError;

/// How many large objects a worker takes at once.
const LARGE_OBJECT_BATCH: usize = 200;

/// What was put in.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
}

enum Task<'a> {
    Table(&'a TocEntry),
    LargeObjects(Vec<(u32, String)>),
}

/// Loads the data entries that `wanted` chooses with `jobs` sessions.
pub(super) async fn all(
    server: &Server,
    archive: &Archive<'_>,
    database: &str,
    jobs: usize,
    ctx: &RunContext,
) -> Result<Loaded, SourceError> {
    let loaded = Loaded::default();
    let tables: Vec<&TocEntry> =
        archive.toc.entries.iter().filter(|entry| entry.has_data && entry.is("TABLE DATA")).collect();
    for round in rounds(&tables) {
        let mut sized = Vec::with_capacity(round.len());
        for entry in round {
            let bytes = archive.file(entry.file.as_deref().unwrap_or_default()).await?.bytes;
            sized.push((bytes, Task::Table(entry)));
        }
        sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let tasks = sized.into_iter().map(|(_, task)| task).collect();
        work(server, archive, database, jobs, tasks, &loaded, ctx).await?;
    }
    for blobs in archive.toc.entries.iter().filter(|entry| entry.has_data && entry.is("BLOBS")) {
        let objects = archive.large_objects(blobs).await?;
        let tasks = objects.chunks(LARGE_OBJECT_BATCH).map(|batch| Task::LargeObjects(batch.to_vec())).collect();
        work(server, archive, database, jobs, tasks, &loaded, ctx).await?;
    }
    Ok(loaded)
}

/// Divides data entries so that each round needs only what the rounds before it brought.
fn rounds<'a>(tables: &[&'a TocEntry]) -> Vec<Vec<&'a TocEntry>> {
    let numbers: HashSet<i32> = tables.iter().map(|entry| entry.dump_id).collect();
    let mut waiting: HashMap<i32, &TocEntry> = tables.iter().map(|entry| (entry.dump_id, *entry)).collect();
    let mut rounds = Vec::new();
    while !waiting.is_empty() {
        let free = |entry: &TocEntry| {
            let held = |number: &i32| numbers.contains(number) && waiting.contains_key(number);
            !entry.dependencies.iter().any(|number| *number != entry.dump_id && held(number))
        };
        let mut round: Vec<&TocEntry> =
            tables.iter().copied().filter(|e| waiting.contains_key(&e.dump_id) && free(e)).collect();
        if round.is_empty() {
            // A circle, which only a damaged table has: any order is as good.
            round = tables.iter().copied().filter(|entry| waiting.contains_key(&entry.dump_id)).collect();
        }
        for entry in &round {
            waiting.remove(&entry.dump_id);
        }
        rounds.push(round);
    }
    rounds
}

#[expect(clippy::too_many_arguments, reason = "one call site; a struct of these would have no other use")]
async fn work(
    server: &Server,
    archive: &Archive<'_>,
    database: &str,
    jobs: usize,
    tasks: VecDeque<Task<'_>>,
    loaded: &Loaded,
    ctx: &RunContext,
) -> Result<(), SourceError> {
    let jobs = jobs.min(tasks.len());
    let queue = Mutex::new(tasks);
    let workers = (0..jobs).map(|_| async {
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
        let Some(mut task) = next() else { return Ok(()) };
        let session = server.connect(database).await?;
        session.prepare_exact_values().await?;
        loop {
            match task {
                Task::Table(entry) => table(&session, archive, entry, loaded, ctx).await?,
                Task::LargeObjects(objects) => {
                    for (oid, file) in objects {
                        large_object(&session, archive, oid, &file, loaded, ctx).await?;
                    }
                }
            }
            match next() {
                Some(following) => task = following,
                None => break,
            }
        }
        session.close().await;
        Ok(())
    });
    try_join_all(workers).await.map(|_: Vec<()>| ())
}

/// Puts the rows of a table in and compares their number with the one that was recorded.
pub(super) async fn table(
    session: &Session,
    archive: &Archive<'_>,
    entry: &TocEntry,
    loaded: &Loaded,
    ctx: &RunContext,
) -> Result<(), SourceError> {
    let what = format!("table {} of database {:?}", entry.label(), archive.database);
    let failed = |error| failure(format!("restoring {what} failed"), None, error);
    let statement = text(&entry.copy).map_err(|error| SourceError::at(&archive.root, error))?;
    let statement = copy_in(statement.trim_end().trim_end_matches(';').to_owned(), archive.toc.encoding());
    let rows = session.client().copy_in(&statement).await.map_err(failed)?;
    let watch = Watch { cancel: ctx.cancel.clone(), monitor: std::sync::Arc::clone(&ctx.monitor) };
    let mut target = Rows { rows: Box::pin(rows), watch };
    let file = entry.file.as_deref().unwrap_or_default();
    let bytes = archive.content(file, &mut target).await.map_err(|error| match error {
        SourceError::Read(source) => {
            SourceError::Failed { what: format!("restoring {what} failed"), hint: None, source: Some(Box::new(source)) }
        }
        error => error,
    })?;
    let count = target.rows.as_mut().finish().await.map_err(failed)?;
    loaded.entries.fetch_add(1, Ordering::Relaxed);
    loaded.bytes.fetch_add(bytes, Ordering::Relaxed);
    ctx.monitor.entries(1);
    match archive.counts.tables.get(file) {
        Some(recorded) if recorded.rows != count => Err(SourceError::Failed {
            what: format!("{what} has {count} rows, {} were backed up", recorded.rows),
            hint: None,
            source: None,
        }),
        _ => Ok(()),
    }
}

async fn large_object(
    session: &Session,
    archive: &Archive<'_>,
    oid: u32,
    file: &str,
    loaded: &Loaded,
    ctx: &RunContext,
) -> Result<(), SourceError> {
    let watch = Watch { cancel: ctx.cancel.clone(), monitor: std::sync::Arc::clone(&ctx.monitor) };
    let mut target = LargeObject { session, oid, offset: 0, watch };
    let bytes = archive.content(file, &mut target).await.map_err(|error| SourceError::Failed {
        what: format!("restoring large object {oid} of database {:?} failed", archive.database),
        hint: None,
        source: Some(Box::new(error)),
    })?;
    loaded.entries.fetch_add(1, Ordering::Relaxed);
    loaded.bytes.fetch_add(bytes, Ordering::Relaxed);
    ctx.monitor.entries(1);
    Ok(())
}

struct Rows {
    rows: Pin<Box<CopyInSink<Bytes>>>,
    watch: Watch,
}

#[async_trait]
impl ContentSink for Rows {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        let Piece::Data(bytes) = piece else { return Err("there is a hole in the rows of a table".into()) };
        self.watch.count(&bytes)?;
        self.rows.send(bytes).await.map_err(|error| Box::new(ServerError::from(error)).into())
    }
}

struct LargeObject<'a> {
    session: &'a Session,
    oid: u32,
    offset: i64,
    watch: Watch,
}

impl LargeObject<'_> {
    async fn put(&mut self, bytes: &[u8]) -> Result<(), BodyError> {
        let query = "SELECT pg_catalog.lo_put($1, $2, $3)";
        let put = self.session.client().execute(query, &[&self.oid, &self.offset, &bytes]).await;
        put.map_err(|error| Box::new(ServerError::from(error)))?;
        self.offset += i64::try_from(bytes.len())?;
        Ok(())
    }
}

#[async_trait]
impl ContentSink for LargeObject<'_> {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        match piece {
            Piece::Data(bytes) => {
                self.watch.count(&bytes)?;
                self.put(&bytes).await
            }
            Piece::Hole(mut length) => {
                let zeros = vec![0; PIECE_BYTES_MAX.min(usize::try_from(length).unwrap_or(PIECE_BYTES_MAX))];
                while length > 0 {
                    let part = length.min(zeros.len() as u64);
                    self.put(&zeros[..usize::try_from(part)?]).await?;
                    length -= part;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::toc::Section;
    use super::*;

    fn data(dump_id: i32, dependencies: &[i32]) -> TocEntry {
        TocEntry {
            dump_id,
            has_data: true,
            catalog: 0,
            oid: 0,
            tag: None,
            desc: Some(b"TABLE DATA".as_slice().into()),
            section: Section::DATA,
            definition: None,
            drop: None,
            copy: None,
            schema: None,
            tablespace: None,
            access_method: None,
            relkind: 0,
            owner: None,
            dependencies: dependencies.to_vec(),
            file: None,
        }
    }

    #[test]
    fn data_waits_for_the_data_that_it_depends_on_and_a_circle_ends() {
        let all = [data(1, &[2, 900]), data(2, &[3]), data(3, &[]), data(4, &[4])];
        let numbers = |all: &[TocEntry]| -> Vec<Vec<i32>> {
            let all: Vec<&TocEntry> = all.iter().collect();
            rounds(&all).iter().map(|round| round.iter().map(|entry| entry.dump_id).collect()).collect()
        };
        assert_eq!(numbers(&all), [vec![3, 4], vec![2], vec![1]]);
        assert_eq!(numbers(&[data(1, &[2]), data(2, &[1])]), [vec![1, 2]]);
    }
}
