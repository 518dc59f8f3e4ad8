//! Reads a server: structure by `pg_dump`, data by parallel `COPY` on one exported snapshot.
//!
//! For each database a leading session exports a snapshot and locks every table against being
//! dropped or emptied. `pg_dump` is started on that snapshot in the custom format, which begins
//! with the table of contents; once that is read, `pg_dump` is stopped. The data entries of the
//! table are then read by our own sessions under the same snapshot, the largest table first.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::flow::{Body, EntrySink, RunContext, Shape, SinkError};
use lifeboat_model::{EntryKind, EntryMeta, EntryPath, RecoveryPoint};

use super::client::{MAY_READ_LARGE_OBJECTS, Server, Session, denied, failure};
use super::data::{
    LARGE_OBJECT_PIECE, LargeObjectBody, ReadingFailed, TableBody, Watch, copy_in, large_object_piece, shaped,
};
use super::layout::{self, Counts, TableCount};
use super::toc::{Toc, TocEntry};
use super::tool::Tools;
use super::version::{SERVER_MAJORS, major_of};
use super::{PostgresConfig, globals, structure};
use crate::SourceError;
use crate::workers::Workers;

/// How many tables one statement locks.
const LOCK_BATCH: usize = 200;
/// How many large objects a worker takes at once.
const LARGE_OBJECT_BATCH: usize = 200;
/// What `relpages` counts; servers are built with another size very seldom, and this only guides
/// the order of work and the progress bar.
const PAGE_BYTES: u64 = 8192;

/// What identifies a server.
pub(super) struct Facts {
    pub(super) version: String,
    pub(super) major: u32,
    pub(super) system_identifier: String,
    pub(super) timeline: String,
}

impl Facts {
    pub(super) async fn of(session: &Session) -> Result<Self, SourceError> {
        let query = "SELECT pg_catalog.current_setting('server_version'), \
            pg_catalog.current_setting('server_version_num'), s.system_identifier::text, c.timeline_id::text \
            FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c";
        let rows = session.rows(query, "asking the server who it is").await?;
        let text = |at: usize| rows.first().and_then(|row| row.try_get::<_, String>(at).ok()).unwrap_or_default();
        let major = text(1).parse().map(major_of).unwrap_or_default();
        if !SERVER_MAJORS.contains(&major) {
            let what = format!("the server is PostgreSQL {}; 13 to 18 are supported", text(0));
            return Err(SourceError::Config { what, hint: None });
        }
        Ok(Self { version: text(0), major, system_identifier: text(2), timeline: text(3) })
    }

    /// What tells this server from every other one.
    pub(super) fn identity(&self) -> BTreeMap<String, String> {
        BTreeMap::from([("postgres.system_identifier".to_owned(), self.system_identifier.clone())])
    }
}

pub(super) async fn run(
    config: &PostgresConfig,
    server: &Server,
    sink: &Arc<dyn EntrySink>,
    ctx: &RunContext,
) -> Result<RecoveryPoint, SourceError> {
    let session = server.connect(&server.url.database).await?;
    session.prepare_reading().await?;
    let facts = Facts::of(&session).await?;
    let tools = Tools::find(facts.major, &config.tool_dirs, &ctx.cancel).await?;
    let databases = choose_databases(config, &session, ctx).await?;
    for name in closed_databases(&session).await? {
        ctx.monitor.note(&format!("database {name:?} allows no connections (datallowconn is false): not backed up"));
    }
    globals::back_up(server, &session, &tools, config.role_passwords, sink.as_ref(), ctx).await?;
    session.close().await;
    let mut time: Option<Timestamp> = None;
    for database in &databases {
        let (server, sink) = (server.clone(), Arc::clone(sink));
        let dump = Arc::new(Dump { server, database: database.clone(), sink, ctx: ctx.clone() });
        let exported = dump.run(&tools, config.jobs).await?;
        time = Some(time.map_or(exported, |earlier| earlier.min(exported)));
    }
    let facts = BTreeMap::from([
        ("postgres.version".to_owned(), facts.version),
        ("postgres.system_identifier".to_owned(), facts.system_identifier),
        ("postgres.timeline".to_owned(), facts.timeline),
        ("postgres.databases".to_owned(), serde_json::json!(databases).to_string()),
        ("postgres.dump_tools".to_owned(), tools.major.to_string()),
    ]);
    let consistency = "one snapshot per database".to_owned();
    Ok(RecoveryPoint { time: time.unwrap_or_else(|| ctx.clock.now()), consistency, facts })
}

/// The databases to read, in the order of their names. One that was asked for and is not there is
/// an error; one that is there and was not asked for is told.
pub(super) async fn choose_databases(
    config: &PostgresConfig,
    session: &Session,
    ctx: &RunContext,
) -> Result<Vec<String>, SourceError> {
    // -2 marks a database whose removal was interrupted; nobody can connect to it.
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE datallowconn AND datconnlimit <> -2 \
        AND datname NOT IN ('template0', 'template1') ORDER BY 1";
    let rows = session.rows(query, "listing the databases").await?;
    let mut present: BTreeSet<String> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
    for name in present.iter().filter(|name| layout::is_temporary(name)) {
        ctx.monitor.note(&format!("database {name:?} is not backed up: it is named like one that a restore makes"));
    }
    present.retain(|name| !layout::is_temporary(name));
    let Some(wanted) = &config.databases else { return Ok(present.into_iter().collect()) };
    let wanted: BTreeSet<String> = wanted.iter().cloned().collect();
    if let Some(missing) = wanted.difference(&present).next() {
        let what = format!("database {missing:?} is not on the server or allows no connections");
        let hint = Some("remove it from `databases`, or leave `databases` out to back up all there are".to_owned());
        return Err(SourceError::Config { what, hint });
    }
    for other in present.difference(&wanted) {
        if other != "postgres" {
            ctx.monitor.note(&format!("database {other:?} is on the server but not in `databases`: not backed up"));
        }
    }
    Ok(wanted.into_iter().collect())
}

/// The databases that nobody can read, as they allow no connections.
pub(super) async fn closed_databases(session: &Session) -> Result<Vec<String>, SourceError> {
    let query = "SELECT datname::text FROM pg_catalog.pg_database WHERE NOT datallowconn AND datconnlimit <> -2 \
        AND datname NOT IN ('template0', 'template1') ORDER BY 1";
    let rows = session.rows(query, "listing the databases").await?;
    Ok(rows.iter().map(|row| row.get::<_, String>(0)).filter(|name| !layout::is_temporary(name)).collect())
}

/// One database on its way into the sink; shared by the tasks that read it.
struct Dump {
    server: Server,
    database: String,
    sink: Arc<dyn EntrySink>,
    ctx: RunContext,
}

/// What the tasks that read one database share beside it.
struct Reading {
    root: EntryPath,
    snapshot: String,
    queue: Mutex<VecDeque<Task>>,
    counts: Mutex<BTreeMap<String, TableCount>>,
}

/// A table as the catalog of the snapshot has it.
struct Table {
    /// Quoted where SQL needs it.
    name: String,
    bytes: u64,
    columns: Option<String>,
    /// `WHERE ...` of an extension that lets only some of its rows be dumped.
    condition: Option<String>,
    lockable: bool,
}

/// What a worker takes at once.
enum Task {
    Table { file: String, name: String, copy: String },
    LargeObjects(Vec<u32>),
}

impl Dump {
    async fn run(self: &Arc<Self>, tools: &Tools, jobs: usize) -> Result<Timestamp, SourceError> {
        let leader = self.server.connect(&self.database).await?;
        leader.prepare_reading().await?;
        leader.run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "starting a transaction").await?;
        let exported = self.ctx.clock.now();
        let snapshot = leader.text("SELECT pg_catalog.pg_export_snapshot()", "exporting a snapshot").await?;
        let tables = self.tables(&leader).await?;
        self.lock(&leader, &tables).await?;
        let mut toc = structure::read(&self.server, tools, &leader, &snapshot, &self.ctx).await?;
        toc.name_files();

        let root = layout::directory(&self.database).map_err(|error| SourceError::Config {
            what: format!("database {:?} cannot be stored: {error}", self.database),
            hint: None,
        })?;
        let mut dir = EntryMeta::new(EntryKind::Dir);
        dir.mode = Some(0o700);
        self.sink.put(&root, &dir, None, Body::Empty).await?;
        let encoded = Bytes::from(toc.to_directory());
        self.put(&root, layout::TOC, BTreeMap::new(), shaped(encoded)).await?;

        let (tasks, large_objects, bytes) = self.tasks(&root, &toc, &tables).await?;
        drop(toc);
        self.ctx.monitor.begin(&format!("database {}", self.database), Some(bytes));
        let counts = self.read(root.clone(), snapshot, tasks, jobs).await?;

        let size = "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())::text";
        let counts = Counts {
            version: 1,
            database: self.database.clone(),
            database_bytes: leader.text(size, "asking for the size").await?.parse().unwrap_or_default(),
            tables: counts,
            large_objects,
        };
        let json = serde_json::to_vec(&counts).map_err(|error| SourceError::at(&root, error))?;
        self.put(&root, layout::COUNTS, BTreeMap::new(), shaped(json.into())).await?;
        leader.run("COMMIT", "ending the transaction").await?;
        leader.close().await;
        Ok(exported)
    }

    async fn put(
        &self,
        root: &EntryPath,
        file: &str,
        extra: BTreeMap<String, String>,
        body: Body,
    ) -> Result<(), SourceError> {
        let path = root.join(file.as_bytes()).map_err(|error| SourceError::at(root, error))?;
        let mut meta = EntryMeta::new(EntryKind::File);
        meta.mode = Some(0o600);
        meta.extra = extra;
        self.sink.put(&path, &meta, None, body).await?;
        self.ctx.monitor.entries(1);
        Ok(())
    }

    async fn tables(&self, leader: &Session) -> Result<HashMap<u32, Table>, SourceError> {
        let query = "SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
                c.relpages::int8 + coalesce(t.relpages, 0)::int8, \
                (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) \
                   FROM pg_catalog.pg_attribute a \
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), \
                x.condition, \
                n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND (x.oid IS NOT NULL OR NOT EXISTS ( \
                  SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                    AND d.objid = c.oid AND d.deptype = 'e')) \
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
            LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid \
            LEFT JOIN (SELECT pg_catalog.unnest(extconfig) AS oid, pg_catalog.unnest(extcondition) AS condition \
                         FROM pg_catalog.pg_extension) x ON x.oid = c.oid \
            WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'";
        let rows = leader.rows(query, "listing the tables").await?;
        let tables = rows.iter().map(|row| {
            let pages = u64::try_from(row.get::<_, i64>(2)).unwrap_or_default();
            let table = Table {
                name: row.get(1),
                bytes: pages * PAGE_BYTES,
                columns: row.get(3),
                condition: row.get::<_, Option<String>>(4).filter(|condition| !condition.is_empty()),
                lockable: row.get(5),
            };
            (row.get(0), table)
        });
        Ok(tables.collect())
    }

    /// Locks the tables as `pg_dump` does. It has to be ours: `pg_dump` gives its locks back when it
    /// ends, and a table that is emptied by `TRUNCATE` is empty under an older snapshot too.
    async fn lock(&self, leader: &Session, tables: &HashMap<u32, Table>) -> Result<(), SourceError> {
        let mut names: Vec<&str> =
            tables.values().filter(|table| table.lockable).map(|table| table.name.as_str()).collect();
        names.sort_unstable();
        for batch in names.chunks(LOCK_BATCH) {
            let list: Vec<String> = batch.iter().map(|name| format!("ONLY {name}")).collect();
            let statement = format!("LOCK TABLE {} IN ACCESS SHARE MODE", list.join(", "));
            leader.client().batch_execute(&statement).await.map_err(|error| {
                let what = format!("locking the tables of database {:?} against being dropped failed", self.database);
                failure(what, denied(&error), error)
            })?;
        }
        Ok(())
    }

    /// What has to be read, the largest table first, how many large objects there are, and about
    /// how many bytes.
    async fn tasks(
        &self,
        root: &EntryPath,
        toc: &Toc,
        tables: &HashMap<u32, Table>,
    ) -> Result<(VecDeque<Task>, u64, u64), SourceError> {
        let (mut sized, mut large_objects) = (Vec::new(), Vec::new());
        let mut total = 0;
        for entry in toc.entries.iter().filter(|entry| entry.has_data) {
            let Some(file) = entry.file.clone() else { continue };
            if entry.is("BLOBS") {
                let oids = oids_of(toc, entry);
                let mut list = String::new();
                for oid in &oids {
                    writeln!(list, "{oid} blob_{oid}.dat").expect("a string takes everything");
                }
                self.put(root, &file, BTreeMap::new(), shaped(list.into())).await?;
                large_objects.extend(oids);
                continue;
            }
            let table = tables.get(&entry.oid).filter(|_| entry.is("TABLE DATA"));
            let table = table.ok_or_else(|| SourceError::Failed {
                what: format!("pg_dump lists data of {} in database {:?}", entry.label(), self.database),
                hint: Some("this kind of data is not known here: report it".to_owned()),
                source: None,
            })?;
            total += table.bytes;
            sized.push((
                table.bytes,
                Task::Table { file, name: table.name.clone(), copy: table.copy_statement(toc.encoding()) },
            ));
        }
        sized.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let count = large_objects.len() as u64;
        let batches = large_objects.chunks(LARGE_OBJECT_BATCH).map(|batch| Task::LargeObjects(batch.to_vec()));
        Ok((sized.into_iter().map(|(_, task)| task).chain(batches).collect(), count, total))
    }

    /// Reads everything, each session in a task of its own, so that they use as many cores. None of the
    /// tasks is there any more when this returns.
    async fn read(
        self: &Arc<Self>,
        root: EntryPath,
        snapshot: String,
        tasks: VecDeque<Task>,
        jobs: usize,
    ) -> Result<BTreeMap<String, TableCount>, SourceError> {
        let jobs = jobs.clamp(1, tasks.len().max(1));
        let reading = Arc::new(Reading { root, snapshot, queue: Mutex::new(tasks), counts: Mutex::default() });
        let mut workers = Workers::default();
        for _ in 0..jobs {
            workers.spawn(Arc::clone(self).work(Arc::clone(&reading)));
        }
        workers.all().await?;
        Ok(std::mem::take(&mut *locked(&reading.counts)))
    }

    /// Takes tasks from the queue until it is empty, on a session of its own.
    async fn work(self: Arc<Self>, reading: Arc<Reading>) -> Result<(), SourceError> {
        let (root, next) = (&reading.root, || locked(&reading.queue).pop_front());
        let Some(mut task) = next() else { return Ok(()) };
        let session = self.server.connect(&self.database).await?;
        session.prepare_reading().await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET TRANSACTION SNAPSHOT {}",
            super::sql::literal(&reading.snapshot)
        );
        session.run(&begin, "joining the snapshot").await?;
        loop {
            match task {
                Task::Table { file, name, copy } => {
                    let rows = self.table(root, &session, &file, &name, &copy).await?;
                    locked(&reading.counts).insert(file, TableCount { table: name, rows });
                }
                Task::LargeObjects(oids) => {
                    for oid in oids {
                        self.large_object(root, &session, oid).await?;
                    }
                }
            }
            match next() {
                Some(following) => task = following,
                None => break,
            }
        }
        session.run("COMMIT", "ending the transaction").await?;
        session.close().await;
        Ok(())
    }

    fn watch(&self) -> Watch {
        Watch { cancel: self.ctx.cancel.clone(), monitor: Arc::clone(&self.ctx.monitor) }
    }

    async fn table(
        &self,
        root: &EntryPath,
        session: &Session,
        file: &str,
        name: &str,
        copy: &str,
    ) -> Result<u64, SourceError> {
        let what = format!("table {name} of database {:?}", self.database);
        let rows = session.client().copy_out(copy).await;
        let rows = rows.map_err(|error| failure(format!("reading {what} failed"), denied(&error), error))?;
        let count = Arc::new(AtomicU64::new(0));
        let from = Box::new(TableBody::new(rows, what, self.watch(), Arc::clone(&count)));
        let extra = BTreeMap::from([("postgres.table".to_owned(), name.to_owned())]);
        self.put(root, file, extra, Body::Stream { from, shape: Shape::Rows }).await.map_err(of_server)?;
        Ok(count.load(Ordering::Relaxed))
    }

    async fn large_object(&self, root: &EntryPath, session: &Session, oid: u32) -> Result<(), SourceError> {
        let what = format!("large object {oid} of database {:?}", self.database);
        let first = large_object_piece(session.client(), oid, 0, &what).await;
        let first = first.map_err(|error| SourceError::Failed {
            what: error.to_string(),
            hint: error.source.is_denied().then(|| MAY_READ_LARGE_OBJECTS.to_owned()),
            source: Some(Box::new(error.source)),
        })?;
        let whole = i32::try_from(first.len()).is_ok_and(|length| length < LARGE_OBJECT_PIECE);
        let body = if whole {
            self.ctx.monitor.bytes(first.len() as u64);
            shaped(first)
        } else {
            let client = Arc::clone(session.client());
            let from = LargeObjectBody { client, oid, what, watch: self.watch(), first: Some(first), offset: 0 };
            Body::Stream { from: Box::new(from), shape: Shape::Stream }
        };
        self.put(root, &format!("blob_{oid}.dat"), BTreeMap::new(), body).await.map_err(of_server)
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The failure of the server in the place of the one of the sink that it came through.
fn of_server(error: SourceError) -> SourceError {
    let SourceError::Sink(SinkError::Body { path, source }) = error else { return error };
    match source.downcast::<ReadingFailed>() {
        Ok(failed) => SourceError::Failed {
            what: failed.to_string(),
            hint: failed.source.hint().map(str::to_owned),
            source: Some(Box::new(failed.source)),
        },
        Err(source) => SinkError::Body { path, source }.into(),
    }
}

impl Table {
    /// The statement that `pg_dump` would read it with.
    fn copy_statement(&self, encoding: &str) -> String {
        let columns = self.columns.as_deref().unwrap_or_default();
        let copy = match (&self.condition, columns.is_empty()) {
            (Some(condition), _) => format!("COPY (SELECT {columns} FROM {} {condition}) TO STDOUT", self.name),
            (None, true) => format!("COPY {} TO STDOUT", self.name),
            (None, false) => format!("COPY {} ({columns}) TO STDOUT", self.name),
        };
        copy_in(copy, encoding)
    }
}

/// The large objects whose content belongs to a `BLOBS` entry. Up to archive version 1.15 there is
/// one such entry for all; later ones name theirs in the metadata entry that they depend on.
fn oids_of(toc: &Toc, blobs: &TocEntry) -> Vec<u32> {
    let mut oids: Vec<u32> = if toc.minor < 16 {
        toc.entries.iter().filter(|entry| entry.is("BLOB")).map(|entry| entry.oid).collect()
    } else {
        let metadata =
            toc.entries.iter().filter(|entry| entry.is("BLOB METADATA") && blobs.dependencies.contains(&entry.dump_id));
        metadata
            .flat_map(|entry| entry.definition_text().unwrap_or_default().lines())
            .filter_map(|line| line.trim().parse().ok())
            .collect()
    };
    oids.sort_unstable();
    oids
}
