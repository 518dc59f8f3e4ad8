//! Backing up sources, each into a snapshot of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use lifeboat_model::config::{SourceConfig, SourceKind};
use lifeboat_model::snapshot::label_refusal;
use lifeboat_model::words::counted;
use lifeboat_model::{RecoveryPoint, Role, SnapshotId, SourceName, StackName};
use lifeboat_repo::crypt::random;
use lifeboat_repo::small::RunId;
use lifeboat_repo::writer::{Sealed, SnapshotHead};
use serde::Serialize;

use crate::catalog::{Outcome, RunEnd, SeenSnapshot};
use crate::datastore::source_of;
use crate::error::JobError;
use crate::history::{History, Moved};
use crate::host::Host;
use crate::keys::Need;
use crate::lock::Lock;
use crate::repository::{OpenRepository, open_repository};

/// The fact that lists a server's databases as a JSON array of names.
const DATABASES: &str = "postgres.databases";
/// Problems that a report lists at most for each source.
const PROBLEMS_MAX: usize = 100;

/// What is to be backed up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackupRequest {
    /// Which sources; empty = all of the configuration.
    pub sources: Vec<SourceName>,
    /// A name for the snapshots.
    pub label: Option<String>,
    /// The stack whose sources a person says stand on another system by right; it must be this machine's.
    pub moved: Option<StackName>,
}

/// What a backup did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BackupReport {
    /// Each source in turn.
    pub backups: Vec<SourceBackup>,
}

/// The backup of one source.
#[derive(Clone, Debug, Serialize)]
pub struct SourceBackup {
    /// `stack/source`.
    pub source: String,
    /// Kind of the source.
    pub kind: &'static str,
    /// The snapshot; missing where there is none.
    pub snapshot: Option<SnapshotId>,
    /// The instant of its view.
    #[serde(serialize_with = "lifeboat_model::snapshot::rfc3339_or_null")]
    pub recovery_point: Option<Timestamp>,
    /// How many entries it has.
    pub entries: u64,
    /// Length of all content.
    pub bytes: u64,
    /// Plain length of the chunks that the repository did not hold yet.
    pub new_bytes: u64,
    /// Length of the packs and indexes that were put for it.
    pub stored_bytes: u64,
    /// Entries that were taken over without reading.
    pub kept: u64,
    /// How long it took.
    pub seconds: f64,
    /// What was left out.
    pub skips: u64,
    /// What is in it and not sound.
    pub problems: u64,
    /// The first hundred skips and problems, `path: why`.
    pub examples: Vec<String>,
    /// What the person should know: new databases, another system than before.
    pub notes: Vec<String>,
    /// What is wrong with the history that the snapshot goes on with: roots that were seen and are gone.
    pub history: Vec<String>,
    /// Why there is no snapshot, with all that caused it.
    pub error: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// 0, 3 with skips or problems, else that of the error.
    pub exit_code: u8,
}

impl BackupReport {
    /// 0 where all is well; 3 with skips or problems; where a source failed 1, or the code that all
    /// sources failed with.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let codes: BTreeSet<u8> = self.backups.iter().map(|backup| backup.exit_code).collect();
        let failed = |code: &u8| !matches!(code, 0 | 3);
        match codes.iter().copied().collect::<Vec<_>>().as_slice() {
            [] => 0,
            [one] => *one,
            _ if codes.iter().any(failed) => 1,
            _ => 3,
        }
    }
}

/// Backs up the sources one after the other. One that fails does not stop the others.
///
/// # Errors
/// Before anything is read: the machine's role, an unknown source, a label that cannot be given.
/// What fails later is told in the report.
pub async fn backup(host: &Host<'_>, request: &BackupRequest) -> Result<BackupReport, JobError> {
    if host.config.role == Role::Restore {
        return Err(JobError::role(host.config.role));
    }
    let sources = wanted(host, &request.sources)?;
    if let Some(label) = &request.label {
        for source in &sources {
            check_label(host, source, label)?;
        }
    }
    let moved = moved(host, request)?;
    let mut report = BackupReport::default();
    let mut opened = Repositories::new();
    let stack_run = RunId(random());
    for source in sources {
        let began = host.run.clock.monotonic();
        let run = host.begin("backup", Some(&source.name));
        let mut one = SourceBackup::of(host, source);
        let job = SourceJob { host, source, label: request.label.as_deref(), stack_run, moved };
        match job.run(&mut opened, &mut one).await {
            Ok(()) => {}
            Err(error) => one.fail(&host.stopped_or(error)),
        }
        one.seconds = host.run.clock.monotonic().saturating_sub(began).as_secs_f64();
        host.end(run, one.outcome(), &one.run_end());
        report.backups.push(one);
    }
    Ok(report)
}

/// Repositories by their names, with what their roots told before this command added to them.
type Repositories<'a> = BTreeMap<&'a str, (OpenRepository, History)>;

/// Whether another system than before may go on with the history: only where its stack was named.
fn moved(host: &Host<'_>, request: &BackupRequest) -> Result<Moved, JobError> {
    match &request.moved {
        None => Ok(Moved::No),
        Some(stack) if stack == host.stack() => Ok(Moved::Yes),
        Some(stack) => Err(JobError::Usage {
            what: format!("--moved {stack} is not the stack of this configuration"),
            hint: Some(format!("this machine backs up {}; is it the one that moved?", host.stack())),
        }),
    }
}

fn wanted<'a>(host: &Host<'a>, names: &[SourceName]) -> Result<Vec<&'a SourceConfig>, JobError> {
    let all = host.config.sources.values();
    let sources: Vec<&SourceConfig> = if names.is_empty() {
        all.collect()
    } else {
        let unique: BTreeSet<&SourceName> = names.iter().collect();
        unique.into_iter().map(|name| host.source(name)).collect::<Result<_, _>>()?
    };
    if sources.is_empty() {
        let hint = Some("add one under `sources:`".to_owned());
        return Err(JobError::Usage { what: "the configuration has no sources".to_owned(), hint });
    }
    Ok(sources)
}

/// A label is unique among what this host has seen of the source.
fn check_label(host: &Host<'_>, source: &SourceConfig, label: &str) -> Result<(), JobError> {
    let mut taken = Vec::new();
    for seen in host.remember(host.catalog.seen_of(host.stack(), &source.name)).unwrap_or_default() {
        taken.extend(seen.label);
    }
    match label_refusal(label, &host.config.time_zone, taken.iter().map(String::as_str)) {
        None => Ok(()),
        Some(why) => Err(JobError::Usage {
            what: format!("{} cannot be labelled \"{label}\": {why}", host.label_of(&source.name)),
            hint: Some("choose another label, such as before-upgrade-2".to_owned()),
        }),
    }
}

/// The backup of one source with what it needs.
struct SourceJob<'a> {
    host: &'a Host<'a>,
    source: &'a SourceConfig,
    label: Option<&'a str>,
    stack_run: RunId,
    moved: Moved,
}

impl<'a> SourceJob<'a> {
    async fn run(&self, opened: &mut Repositories<'a>, one: &mut SourceBackup) -> Result<(), JobError> {
        let (host, source) = (self.host, self.source);
        if host.run.cancel.is_cancelled() {
            return Err(JobError::Cancelled);
        }
        let _lock = Lock::take(&host.config.state_dir, &host.lock_name(&source.name))?;
        let datastore = source_of(source).map_err(JobError::source(format!("backing up {}", one.source)))?;
        let name = source.repository.as_str();
        if !opened.contains_key(name) {
            let config = host.config.repository_of(source).ok_or_else(|| JobError::Usage {
                what: format!("the configuration has no repository {name}"),
                hint: None,
            })?;
            tracing::info!("{}: opening the repository {name} at {}", one.source, config.url);
            let repository = open_repository(host, config, Need::Write).await?;
            let history = History::read(&repository).await?;
            opened.insert(name, (repository, history));
        }
        let (repository, history) = opened.get_mut(name).expect("it was just opened");
        tracing::info!("{}: reaching the source, of kind {}", one.source, one.kind);
        let identity =
            datastore.identity(host.run).await.map_err(JobError::source(format!("reaching {}", one.source)))?;
        self.refuse_other(repository, history, &identity)?;
        let head = SnapshotHead {
            stack: host.stack().clone(),
            source: source.name.clone(),
            kind: source.kind.as_str().to_owned(),
            label: self.label.map(str::to_owned),
            config: host.config.portable.yaml.clone(),
            stack_run: Some(self.stack_run),
            system: identity.clone(),
        };
        host.run.monitor.begin(&format!("backing up {}", one.source), None);
        let writer = Arc::new(repository.writer(host, head).await?);
        tracing::info!("{}: reading it as run {}", one.source, hex::encode(&writer.run_id().0[..4]));
        let failed = JobError::source(format!("backing up {}", one.source));
        let point = datastore.backup(Arc::clone(&writer) as _, host.run).await.map_err(failed)?;
        if identity.iter().any(|(key, value)| point.facts.get(key).is_some_and(|now| now != value)) {
            return Err(JobError::Forbidden {
                what: format!("{} became another system while it was read", one.source),
                hint: "run the backup again".to_owned(),
            });
        }
        one.notes = self.compare(&point);
        for note in &one.notes {
            host.run.monitor.note(note);
        }
        tracing::info!("{}: read to its end, recovery point {}; sealing", one.source, point.time);
        let writer = Arc::into_inner(writer).expect("a source lets go of its sink before it returns");
        let sealed = writer.seal(point.clone()).await?;
        one.history = history.troubles(repository.own_tag(host.stack(), &source.name));
        one.seal(&point, &sealed);
        if self.moved == Moved::Yes {
            host.remember(host.catalog.adopted(host.stack(), &identity));
        }
        let (entries, kept) = (one.entries, one.kept);
        tracing::info!(
            "{}: sealed as {}: {entries} entries, {kept} of them kept unread",
            one.source,
            sealed.id.short()
        );
        repository.sealed(host, &sealed);
        let seen = self.seen(&point, &sealed);
        host.remember(host.catalog.saw_snapshot(repository.id(), sealed.id, &seen));
        Ok(())
    }
}

impl SourceJob<'_> {
    /// Promise 7, unless a person said that the system moved.
    fn refuse_other(
        &self,
        repository: &OpenRepository,
        history: &History,
        identity: &BTreeMap<String, String>,
    ) -> Result<(), JobError> {
        match (history.refuse_other(self.host, repository, &self.source.name, identity), self.moved) {
            (Err(JobError::Forbidden { what, .. }), Moved::Yes) => {
                self.host.run.monitor.note(&format!("{what}; it goes on because of --moved"));
                Ok(())
            }
            (result, _) => result,
        }
    }

    /// What is new against the newest snapshot of the source that this host remembers, and what the
    /// source leaves out by its nature.
    fn compare(&self, point: &RecoveryPoint) -> Vec<String> {
        let host = self.host;
        let seen = host.remember(host.catalog.seen_of(host.stack(), &self.source.name)).unwrap_or_default();
        let source = host.label_of(&self.source.name);
        let wanted = match &self.source.kind {
            SourceKind::Postgres(config) => config.databases.as_deref(),
            SourceKind::Files(_) => None,
        };
        let mut notes = seen.last().map_or_else(Vec::new, |last| differences(&source, &last.facts, point, wanted));
        if let Some(count) = point.facts.get("files.sockets").filter(|count| *count != "0") {
            let sockets = count.parse().map_or_else(|_| count.clone(), |count| counted(count, "socket"));
            notes.push(format!("{source}: {sockets} left out: who listens there makes them anew"));
        }
        notes
    }

    fn seen(&self, point: &RecoveryPoint, sealed: &Sealed) -> SeenSnapshot {
        SeenSnapshot {
            names: Some((self.host.stack().clone(), self.source.name.clone())),
            kind: Some(self.source.kind.as_str().to_owned()),
            recovery_point: Some(point.time),
            label: self.label.map(str::to_owned),
            bytes: Some(sealed.stats.bytes),
            new_bytes: Some(sealed.stats.new_bytes),
            entries: Some(sealed.stats.entries),
            problems: Some(sealed.stats.skips + sealed.stats.problems),
            facts: point.facts.clone(),
        }
    }
}

/// What a person should know of how a source changed since it was last seen. A database that is not
/// among `wanted` any more is not gone; the source tells that it is left out.
fn differences(
    source: &str,
    before: &BTreeMap<String, String>,
    point: &RecoveryPoint,
    wanted: Option<&[String]>,
) -> Vec<String> {
    let mut notes = Vec::new();
    for key in ["postgres.system_identifier", "machine.id"] {
        if let (Some(old), Some(new)) = (before.get(key), point.facts.get(key))
            && old != new
        {
            notes.push(format!("{source} is another system than at the last backup: its {key} was {old} and is {new}"));
        }
    }
    let names = |facts: &BTreeMap<String, String>| -> Option<BTreeSet<String>> {
        serde_json::from_str(facts.get(DATABASES)?).ok()
    };
    if let (Some(old), Some(new)) = (names(before), names(&point.facts)) {
        notes.extend(new.difference(&old).map(|name| format!("{source} has a new database: {name}")));
        let meant = |name: &&String| wanted.is_none_or(|wanted| wanted.contains(*name));
        let gone = old.difference(&new).filter(meant);
        notes.extend(gone.map(|name| format!("{source} no longer has the database {name}")));
    }
    notes
}

impl SourceBackup {
    fn of(host: &Host<'_>, source: &SourceConfig) -> Self {
        Self {
            source: host.label_of(&source.name),
            kind: source.kind.as_str(),
            snapshot: None,
            recovery_point: None,
            entries: 0,
            bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            kept: 0,
            seconds: 0.0,
            skips: 0,
            problems: 0,
            examples: Vec::new(),
            notes: Vec::new(),
            history: Vec::new(),
            error: None,
            hint: None,
            exit_code: 0,
        }
    }

    fn seal(&mut self, point: &RecoveryPoint, sealed: &Sealed) {
        let stats = sealed.stats;
        self.snapshot = Some(sealed.id);
        self.recovery_point = Some(point.time);
        self.entries = stats.entries;
        self.bytes = stats.bytes;
        self.new_bytes = stats.new_bytes;
        self.stored_bytes = stats.stored_bytes;
        self.kept = stats.kept;
        self.skips = stats.skips;
        self.problems = stats.problems;
        self.examples = sealed.problems.iter().take(PROBLEMS_MAX).map(|(path, why)| format!("{path}: {why}")).collect();
        self.exit_code = if stats.skips + stats.problems > 0 || !self.history.is_empty() { 3 } else { 0 };
    }

    fn fail(&mut self, error: &JobError) {
        self.error = Some(error.chain());
        self.hint = error.hint();
        self.exit_code = error.exit_code();
    }

    const fn outcome(&self) -> Outcome {
        match self.exit_code {
            0 => Outcome::Ok,
            3 => Outcome::Problems,
            _ => Outcome::Failed,
        }
    }

    fn run_end(&self) -> RunEnd {
        let known = |count: u64| self.snapshot.map(|_| count);
        RunEnd {
            snapshot: self.snapshot,
            bytes: known(self.bytes),
            new_bytes: known(self.new_bytes),
            error: self.error.clone(),
        }
    }
}
