//! `snapshots`.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use lifeboat_engine::JobError;
use lifeboat_engine::listing::{Listing, snapshots};
use lifeboat_model::SnapshotSummary;
use lifeboat_model::config::StackConfig;

use crate::args::SnapshotsArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::request::{self, Group};
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: SnapshotsArgs) -> Result<Exit, Failure> {
    let asked = args.sources.iter().map(|text| request::group(text)).collect::<Result<Vec<_>, _>>()?;
    let running = session.host_to_read(&args.identity)?;
    let listings = running.done(snapshots(&running.host(), args.from.as_deref()).await)?;
    refuse_unknown(&running.config, &asked, &listings)?;
    let shown = |summary: &&SnapshotSummary| asked.is_empty() || asked.iter().any(|group| group.holds(summary));
    let mut all: Vec<(&str, &SnapshotSummary)> = listings
        .iter()
        .flat_map(|listing| listing.snapshots.iter().filter(shown).map(|s| (listing.repository.as_str(), s)))
        .collect();
    all.sort_by_key(|(_, summary)| (summary.instant(), summary.time, summary.id));
    if session.json() {
        output::json("snapshots", &all.iter().map(|(_, summary)| *summary).collect::<Vec<_>>())?;
    } else if all.is_empty() {
        session.talk.note("no snapshots");
    } else {
        output::text(&table(&all, listings.len() > 1, &running.config.time_zone))?;
    }
    Ok(tell_refused(session, &listings))
}

/// A name that neither the configuration nor a repository knows is a slip of the pen.
fn refuse_unknown(config: &StackConfig, asked: &[Group], listings: &[Listing]) -> Result<(), Failure> {
    let listed = listings.iter().flat_map(|listing| &listing.snapshots);
    let listed: Vec<&SnapshotSummary> = listed.collect();
    let configured = |group: &Group| group.is_configured(config);
    let Some(unknown) = asked.iter().find(|group| !configured(group) && !listed.iter().any(|one| group.holds(one)))
    else {
        return Ok(());
    };
    let mut known: BTreeSet<String> = config.sources.keys().map(ToString::to_string).collect();
    known.extend(listed.iter().filter_map(|one| {
        let source = one.source.as_ref()?;
        let ours = one.stack.as_ref() == Some(&config.stack);
        Some(if ours { source.to_string() } else { format!("{}/{source}", one.stack.as_ref()?) })
    }));
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    let what = format!("neither the configuration nor the repository has a source {unknown}");
    Err(JobError::unknown(what, &unknown.to_string(), &known).into())
}

/// Root objects that do not count are never passed over in silence.
fn tell_refused(session: &Session, listings: &[Listing]) -> Exit {
    let refused: Vec<String> = listings
        .iter()
        .flat_map(|listing| listing.refused.iter().map(|why| format!("{}: {why}", listing.repository)))
        .collect();
    for why in &refused {
        session.talk.warn(&output::one_line(why));
    }
    if refused.is_empty() { Exit::Ok } else { Exit::Problems }
}

/// A table of snapshots, oldest first.
pub(crate) fn table(all: &[(&str, &SnapshotSummary)], with_repository: bool, zone: &TimeZone) -> String {
    let mut columns = vec![
        Column::Left("ID"),
        Column::Left("SOURCE"),
        Column::Left("RECOVERY POINT"),
        Column::Left("LABEL"),
        Column::Right("BYTES"),
        Column::Right("NEW"),
        Column::Right("PROBLEMS"),
        Column::Left("NOTES"),
    ];
    if with_repository {
        columns.push(Column::Left("REPOSITORY"));
    }
    let rows = all.iter().map(|(repository, summary)| {
        let mut row = vec![
            summary.id.short(),
            summary.group(),
            output::time(summary.instant(), zone),
            summary.label.clone().unwrap_or_default(),
            output::maybe_size(summary.bytes),
            output::maybe_size(summary.new_bytes),
            summary.problems.map_or_else(|| "?".to_owned(), |count| count.to_string()),
            notes(summary),
        ];
        if with_repository {
            row.push((*repository).to_owned());
        }
        row
    });
    output::table(&columns, rows)
}

fn notes(summary: &SnapshotSummary) -> String {
    let mut notes = Vec::new();
    match summary.held.as_deref() {
        Some("") => notes.push("held".to_owned()),
        Some(why) => notes.push(format!("held: {why}")),
        None => {}
    }
    if let Some(original) = &summary.original {
        notes.push(format!("copy of {}", original.short()));
    }
    if summary.clock_drift {
        notes.push("clocks differ".to_owned());
    }
    notes.join(", ")
}
