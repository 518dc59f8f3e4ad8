//! Which snapshot a person means, and what bringing it back would do: decided from data alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Serialize, Serializer};

use crate::snapshot::{is_id_prefix, parse_time};
use crate::target::{Finding, RestoreOptions, TargetInventory};
use crate::words::counted;
use crate::{EntryPath, RecoveryPoint, Role, SnapshotId, SnapshotRef, SnapshotSummary, StackName};

/// Candidates that an error lists at most.
const CANDIDATES_MAX: usize = 20;

/// Problems of a snapshot that a plan names; `ls` marks all.
const PROBLEMS_MAX: usize = 5;

/// No snapshot, or not just one, fits what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Several stacks of the repository have a source of this name.
    #[error("{asked:?} is a source of several stacks: {}", stacks.join(", "))]
    SeveralStacks {
        /// What was given.
        asked: String,
        /// The stacks.
        stacks: Vec<String>,
    },
    /// Nothing of this name.
    #[error("no snapshot fits {asked:?}{}", among(known))]
    NoMatch {
        /// What was given.
        asked: String,
        /// The sources that have snapshots, or the snapshots of the source.
        known: Vec<String>,
    },
    /// More than one snapshot.
    #[error("{asked:?} fits several snapshots: {}", candidates.join("; "))]
    Ambiguous {
        /// What was given.
        asked: String,
        /// At most 20 of them, oldest first.
        candidates: Vec<String>,
    },
}

fn among(known: &[String]) -> String {
    if known.is_empty() { "; there is none at all".to_owned() } else { format!("; there are: {}", known.join(", ")) }
}

impl ResolveError {
    /// What the person could try next.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::SeveralStacks { .. } => "write STACK/SOURCE",
            Self::NoMatch { .. } => "`lifeboat snapshots` lists what is there",
            Self::Ambiguous { .. } => "write more digits of the id",
        }
    }
}

/// What is asked on a machine that serves `stack`: where no stack is named and that one has such a
/// source, it is meant, whatever other stacks the repository holds.
#[must_use]
pub fn at_home(asked: &SnapshotRef, stack: &StackName, snapshots: &[SnapshotSummary]) -> SnapshotRef {
    let own = |s: &SnapshotSummary| s.stack.as_ref() == Some(stack) && s.source == asked.source;
    let mut asked = asked.clone();
    if asked.stack.is_none() && asked.source.is_some() && snapshots.iter().any(own) {
        asked.stack = Some(stack.clone());
    }
    asked
}

/// The one snapshot that `asked` names among `snapshots`.
///
/// After `@` the first that fits counts: `latest`; a time (the newest at or before it, read in
/// `zone` where it has no offset); an id prefix of 6 digits or more; a label. Without `@` a source
/// means its latest snapshot, and a text that is no source may be an id prefix.
///
/// # Errors
/// [`ResolveError`] where nothing fits, or more than one.
pub fn resolve<'a>(
    asked: &SnapshotRef,
    snapshots: &'a [SnapshotSummary],
    zone: &TimeZone,
) -> Result<&'a SnapshotSummary, ResolveError> {
    let of_stack = |s: &&SnapshotSummary| asked.stack.is_none() || s.stack == asked.stack;
    let Some(source) = &asked.source else {
        return by_id(asked, asked.which.as_deref().unwrap_or_default(), snapshots.iter(), zone);
    };
    let mine: Vec<&SnapshotSummary> =
        snapshots.iter().filter(of_stack).filter(|s| s.source.as_ref() == Some(source)).collect();
    if asked.which.is_none() && is_id_prefix(source.as_str()) {
        let ids: Vec<&SnapshotSummary> = with_prefix(source.as_str(), snapshots.iter()).collect();
        if !ids.is_empty() {
            return if mine.is_empty() {
                by_id(asked, source.as_str(), snapshots.iter(), zone)
            } else {
                Err(ambiguous(asked, ids, zone))
            };
        }
    }
    let stacks: BTreeSet<&StackName> = mine.iter().filter_map(|s| s.stack.as_ref()).collect();
    if stacks.len() > 1 {
        let stacks = stacks.into_iter().map(ToString::to_string).collect();
        return Err(ResolveError::SeveralStacks { asked: asked.text.clone(), stacks });
    }
    if mine.is_empty() {
        let known: BTreeSet<String> = snapshots.iter().map(SnapshotSummary::group).collect();
        return Err(no_match(asked, known.into_iter()));
    }
    let newest = |snapshots: &mut dyn Iterator<Item = &'a SnapshotSummary>| {
        snapshots.max_by_key(|s| (s.instant(), s.time, s.id))
    };
    let none = || no_match(asked, mine.iter().map(|s| s.shown(zone)));
    let which = asked.which.as_deref().unwrap_or("latest");
    if which == "latest" {
        return newest(&mut mine.iter().copied()).ok_or_else(none);
    }
    if let Some(time) = parse_time(which, zone) {
        return newest(&mut mine.iter().copied().filter(|s| s.instant() <= time)).ok_or_else(none);
    }
    if is_id_prefix(which) && with_prefix(which, mine.iter().copied()).next().is_some() {
        return by_id(asked, which, mine.iter().copied(), zone);
    }
    one_of(asked, mine.iter().copied().filter(|s| s.label.as_deref() == Some(which)).collect(), zone, none)
}

fn by_id<'a>(
    asked: &SnapshotRef,
    prefix: &str,
    snapshots: impl Iterator<Item = &'a SnapshotSummary> + Clone,
    zone: &TimeZone,
) -> Result<&'a SnapshotSummary, ResolveError> {
    let hits = with_prefix(prefix, snapshots.clone()).collect();
    one_of(asked, hits, zone, || no_match(asked, snapshots.map(|s| s.shown(zone))))
}

fn with_prefix<'a>(
    prefix: &str,
    snapshots: impl Iterator<Item = &'a SnapshotSummary>,
) -> impl Iterator<Item = &'a SnapshotSummary> {
    snapshots.filter(move |s| {
        s.id.to_string().starts_with(prefix) || s.original.is_some_and(|id| id.to_string().starts_with(prefix))
    })
}

fn one_of<'a>(
    asked: &SnapshotRef,
    hits: Vec<&'a SnapshotSummary>,
    zone: &TimeZone,
    none: impl FnOnce() -> ResolveError,
) -> Result<&'a SnapshotSummary, ResolveError> {
    match hits.as_slice() {
        [] => Err(none()),
        [one] => Ok(one),
        _ => Err(ambiguous(asked, hits, zone)),
    }
}

fn ambiguous(asked: &SnapshotRef, hits: Vec<&SnapshotSummary>, zone: &TimeZone) -> ResolveError {
    let candidates = hits.into_iter().take(CANDIDATES_MAX).map(|s| s.shown(zone)).collect();
    ResolveError::Ambiguous { asked: asked.text.clone(), candidates }
}

fn no_match(asked: &SnapshotRef, known: impl Iterator<Item = String>) -> ResolveError {
    ResolveError::NoMatch { asked: asked.text.clone(), known: known.take(CANDIDATES_MAX).collect() }
}

/// Where a snapshot is restored to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A directory: files with their absolute path below it, other kinds as raw entries.
    Dir(PathBuf),
    /// A server, shown without its secrets.
    Server(String),
    /// Where it came from, by this machine's configuration.
    Origin,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(dir) => write!(f, "{}", dir.display()),
            Self::Server(url) => f.write_str(url),
            Self::Origin => f.write_str("origin"),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What this machine is, for the refusals that keep live data and restored copies apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its role.
    pub role: Role,
    /// The stack that it backs up. `None` where there is no configuration.
    pub stack: Option<StackName>,
    /// Every identity that snapshots of that stack record, by the keys of
    /// [`RecoveryPoint::facts`], such as `postgres.system_identifier`.
    pub own: BTreeMap<String, BTreeSet<String>>,
    /// Paths that its own sources of kind `files` read.
    pub own_paths: Vec<PathBuf>,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct RestoreRequest<'a> {
    /// The snapshot.
    pub snapshot: &'a SnapshotSummary,
    /// What it captured.
    pub point: &'a RecoveryPoint,
    /// What it records of entries that are left out or not sound, as far as it lists them.
    pub problems: &'a [(EntryPath, String)],
    /// Where to.
    pub to: &'a Destination,
    /// What of it and how.
    pub options: &'a RestoreOptions,
}

/// What a restore will do: shown by `--dry-run`, confirmed by a person, then carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestorePlan {
    /// The snapshot.
    pub snapshot: SnapshotSummary,
    /// Where to.
    pub to: Destination,
    /// What of it and how.
    pub options: RestoreOptions,
    /// What the target will do, one line each.
    pub steps: Vec<String>,
    /// What the person should know before saying yes.
    pub warnings: Vec<String>,
    /// What will be replaced, at most 100 examples.
    pub replaces: Vec<String>,
    /// How much will be replaced in all.
    pub replaces_count: u64,
    /// What will be altered where it stands, with what will be other, at most 100 examples.
    pub alters: Vec<String>,
    /// How much will be altered in all.
    pub alters_count: u64,
    /// Room that is needed.
    pub needed_bytes: u64,
    /// Room that there is, where it can be told.
    pub free_bytes: Option<u64>,
    /// What the target told of itself.
    pub identity: BTreeMap<String, String>,
    /// Whether something that exists is replaced or altered. Everything is then read and checked first.
    pub destructive: bool,
    /// Whether what comes of it is a clone: a system other than the one that the snapshot came
    /// from. It may not be backed up under the origin's name.
    pub clone: bool,
}

impl RestorePlan {
    /// Whether a yes to `shown` is a yes to this plan: it replaces and alters the same things of the
    /// same system.
    #[must_use]
    pub fn destroys_the_same(&self, shown: &Self) -> bool {
        let deed = |plan: &Self| (plan.destructive, plan.clone, plan.replaces_count, plan.alters_count);
        let things = |plan: &Self| (plan.replaces.clone(), plan.alters.clone(), plan.identity.clone());
        deed(self) == deed(shown) && things(self) == things(shown)
    }
}

/// Why a restore is refused before anything is touched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Promise 7: a machine that backs up may not write over the stack that it backs up.
    #[error("this machine has the role backup and {to} is the stack {stack} itself: {why}")]
    OwnStack {
        /// Where to.
        to: Destination,
        /// The stack.
        stack: String,
        /// By what it was recognised.
        why: String,
    },
    /// Something stands there already.
    #[error("{to} holds {} that the restore would replace: {}", counted(*count, "thing"), examples(occupied))]
    Occupied {
        /// Where to.
        to: Destination,
        /// At most 100 of them.
        occupied: Vec<String>,
        /// How many in all.
        count: u64,
    },
    /// Too little room.
    #[error("{to} has room for {free_bytes} bytes and the restore needs {needed_bytes}")]
    NoSpace {
        /// Where to.
        to: Destination,
        /// What is needed.
        needed_bytes: u64,
        /// What is there.
        free_bytes: u64,
    },
    /// The target cannot take it, whatever is allowed.
    #[error("{to} cannot take this snapshot: {}", reasons(findings))]
    Refused {
        /// Where to.
        to: Destination,
        /// What was found.
        findings: Vec<Finding>,
    },
}

fn examples(occupied: &[String]) -> String {
    let shown = occupied.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    if occupied.len() > 5 { format!("{shown}, ...") } else { shown }
}

fn reasons(findings: &[Finding]) -> String {
    findings.iter().map(|f| f.what.as_str()).collect::<Vec<_>>().join("; ")
}

impl PlanError {
    /// What the person could try next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::OwnStack { .. } => {
                Some("restore from a machine with `role: restore`, or `--to` another place".to_owned())
            }
            Self::Occupied { .. } => Some(
                "`--replace` restores beside and then takes their place; `--to` another place leaves them".to_owned(),
            ),
            Self::NoSpace { .. } => Some("free some space, or restore a part with `--only`".to_owned()),
            Self::Refused { findings, .. } => findings.iter().find_map(|f| f.hint.clone()),
        }
    }
}

/// What the restore would do, or why it may not.
///
/// # Errors
/// [`PlanError`]: the own stack of a machine that backs up, an occupied target without `replace`, too
/// little room, or what the target refuses.
pub fn plan_restore(
    request: &RestoreRequest<'_>,
    inventory: &TargetInventory,
    machine: &Machine,
) -> Result<RestorePlan, PlanError> {
    let RestoreRequest { snapshot, point, to, options, .. } = *request;
    if machine.role == Role::Backup
        && let Some(why) = own_stack(request, inventory, machine)
    {
        let stack = machine.stack.as_ref().or(snapshot.stack.as_ref()).map_or_else(String::new, ToString::to_string);
        return Err(PlanError::OwnStack { to: to.clone(), stack, why });
    }
    if !inventory.refusals.is_empty() {
        return Err(PlanError::Refused { to: to.clone(), findings: inventory.refusals.clone() });
    }
    if inventory.occupied_count > 0 && !options.replace {
        let (occupied, count) = (inventory.occupied.clone(), inventory.occupied_count);
        return Err(PlanError::Occupied { to: to.clone(), occupied, count });
    }
    if let Some(free_bytes) = inventory.free_bytes
        && free_bytes < inventory.needed_bytes
    {
        return Err(PlanError::NoSpace { to: to.clone(), needed_bytes: inventory.needed_bytes, free_bytes });
    }
    Ok(RestorePlan {
        snapshot: snapshot.clone(),
        to: to.clone(),
        options: options.clone(),
        steps: inventory.steps.clone(),
        warnings: warnings(request, inventory, machine),
        replaces: inventory.occupied.clone(),
        replaces_count: inventory.occupied_count,
        alters: inventory.alters.clone(),
        alters_count: inventory.alters_count,
        needed_bytes: inventory.needed_bytes,
        free_bytes: inventory.free_bytes,
        identity: inventory.identity.clone(),
        destructive: options.replace && inventory.occupied_count + inventory.alters_count > 0,
        clone: makes_clone(to, machine.role) && is_clone(&point.facts, &inventory.identity),
    })
}

/// Whether a restore to there can make a clone at all. The place of origin of a machine that backs
/// up is the stack itself, rebuilt perhaps after a disaster: its history goes on.
const fn makes_clone(to: &Destination, role: Role) -> bool {
    match to {
        Destination::Dir(_) => false,
        Destination::Origin => matches!(role, Role::Restore),
        Destination::Server(_) => true,
    }
}

/// By what the target is known to be the stack that this machine backs up.
fn own_stack(request: &RestoreRequest<'_>, inventory: &TargetInventory, machine: &Machine) -> Option<String> {
    if let Destination::Dir(dir) = request.to {
        // A directory beside the live data is on the same machine and yet not over it.
        let over = |own: &&PathBuf| dir.starts_with(own) || own.starts_with(dir);
        return machine.own_paths.iter().find(over).map(|own| format!("a source reads {}", own.display()));
    }
    let recorded = |key: &str, value: &str| {
        machine.own.get(key).is_some_and(|values| values.contains(value))
            || (request.snapshot.stack == machine.stack
                && request.point.facts.get(key).is_some_and(|known| known == value))
    };
    let same = inventory.identity.iter().find(|(key, value)| recorded(key, value));
    same.map(|(key, value)| format!("its {key} is {value}"))
}

/// Whether what both sides tell of themselves differs: a system other than the snapshot's origin.
#[must_use]
pub fn is_clone(origin: &BTreeMap<String, String>, target: &BTreeMap<String, String>) -> bool {
    let mut shared = target.iter().filter_map(|(key, value)| origin.get(key).map(|known| known != value));
    shared.any(|differs| differs)
}

fn warnings(request: &RestoreRequest<'_>, inventory: &TargetInventory, machine: &Machine) -> Vec<String> {
    let mut warnings = Vec::new();
    if machine.role == Role::Both {
        warnings.push(
            "this machine has the role both: nothing keeps a restore from the live data but this plan".to_owned(),
        );
    }
    if request.options.replace && inventory.occupied_count > 0 {
        let count = counted(inventory.occupied_count, "thing");
        warnings.push(format!("{count} of what exists will be replaced"));
    }
    if inventory.alters_count > 0 {
        warnings.push(format!("{} of what exists will be altered in place", counted(inventory.alters_count, "thing")));
    }
    if let Some(problems) = request.snapshot.problems.filter(|count| *count > 0) {
        warnings.push(format!(
            "the snapshot records {}: what was left out then is not in it, and what changed while it was read may \
             not be whole",
            counted(problems, "problem")
        ));
        let listed = request.problems.iter().take(PROBLEMS_MAX).map(|(path, what)| format!("{path}: {what}"));
        warnings.extend(listed);
        let more = problems.saturating_sub(PROBLEMS_MAX as u64);
        if more > 0 {
            warnings.push(format!("and {}; `lifeboat ls -R` marks the entries", counted(more, "more problem")));
        }
    }
    if request.snapshot.clock_drift {
        warnings.push("the writer's clock and the store's were more than an hour apart".to_owned());
    }
    if inventory.free_bytes.is_none() && inventory.needed_bytes > 0 {
        warnings.push(format!("free space cannot be told there; {} bytes are needed", inventory.needed_bytes));
    }
    warnings
}

/// Promise 7: why a source may not be backed up as `stack`, or `None` where it may. `clones` are the
/// identities of systems into which this machine's catalog saw a snapshot of that stack restored.
#[must_use]
pub fn clone_refusal(
    stack: &StackName,
    identity: &BTreeMap<String, String>,
    clones: &[BTreeMap<String, String>],
) -> Option<String> {
    let same = |clone: &&BTreeMap<String, String>| clone.iter().any(|(key, value)| identity.get(key) == Some(value));
    clones.iter().find(same).map(|clone| {
        let by = clone.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ");
        format!(
            "this system ({by}) was restored from a snapshot of {stack}: it is a clone and may not write its history"
        )
    })
}

/// Promise 7, where no catalog remembers a restore: the system is not that of the newest snapshot.
#[must_use]
pub fn other_system(source: &str, identity: &BTreeMap<String, String>, newest: &SnapshotId, time: Timestamp) -> String {
    let by = identity.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", ");
    format!(
        "this system ({by}) is not the one of which the newest snapshot of {source} was made ({}, {time}): a clone may \
         not write the history of its origin",
        newest.short()
    )
}

#[cfg(test)]
mod tests;
