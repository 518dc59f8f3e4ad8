//! `copy`, and `check --against`.

use lifeboat_engine::compare::{Comparison, compare as compare_both};
use lifeboat_engine::copy::{Copied, CopyReport, CopyRequest};

use crate::args::{CheckArgs, CopyArgs, IdentityArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::request;
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: CopyArgs) -> Result<Exit, Failure> {
    let asked = args.what.iter().map(|text| request::snapshot(text)).collect::<Result<_, _>>()?;
    let request = CopyRequest { from: args.from, to: args.to, asked, dry_run: args.dry_run };
    let identity = IdentityArgs { identity: None, passphrase_file: args.passphrase_file };
    let running = session.host_with(&identity)?;
    let report = running.done(lifeboat_engine::copy::copy(&running.host(), &request).await)?;
    if session.json() {
        output::json("copies", &[&report])?;
    } else {
        output::text(&told(&report, &running.config.time_zone))?;
    }
    for left in &report.left_out {
        let what = format!("not copied: {}: {}", output::snapshot(&left.snapshot, &running.config.time_zone), left.why);
        if left.problem {
            session.talk.warn(&output::one_line(&what));
        } else {
            session.talk.note(&output::one_line(&what));
        }
    }
    for copied in &report.copies {
        if let Some(error) = &copied.error {
            let what = format!("copying {}: {error}", copied.snapshot.id.short());
            let failure = Failure::new(Exit::from_code(copied.exit_code), what);
            session.talk.fail(&failure.maybe_hint(copied.hint.clone()));
        }
    }
    Ok(Exit::from_code(report.exit_code()))
}

fn told(report: &CopyReport, zone: &jiff::tz::TimeZone) -> String {
    let done = report.copies.iter().filter(|copied| copied.copy.is_some()).count();
    let (verb, count) = if report.dry_run { ("would copy", report.copies.len()) } else { ("copied", done) };
    let sum = format!(
        "{} to {}: {verb} {count} snapshots; {} are there already, {} left out",
        report.from,
        report.to,
        report.there,
        report.left_out.len()
    );
    if report.copies.is_empty() { sum } else { format!("{}\n{sum}", table(report, zone)) }
}

fn table(report: &CopyReport, zone: &jiff::tz::TimeZone) -> String {
    let columns = [
        Column::Left("ID"),
        Column::Left("SOURCE"),
        Column::Left("RECOVERY POINT"),
        Column::Left("LABEL"),
        Column::Right("BYTES"),
        Column::Left("COPY"),
        Column::Right("NEW"),
        Column::Right("STORED"),
        Column::Right("TIME"),
    ];
    output::table(&columns, report.copies.iter().map(|copied| row(copied, report.dry_run, zone)))
}

fn row(copied: &Copied, dry_run: bool, zone: &jiff::tz::TimeZone) -> Vec<String> {
    let snapshot = &copied.snapshot;
    let mut row = vec![
        snapshot.id.short(),
        snapshot.group(),
        output::time(snapshot.instant(), zone),
        snapshot.label.clone().unwrap_or_default(),
        output::maybe_size(snapshot.bytes),
    ];
    match &copied.copy {
        None => row.push(if dry_run { "" } else { "failed" }.to_owned()),
        Some(id) => row.extend([
            id.short(),
            output::size(copied.new_bytes),
            output::size(copied.stored_bytes),
            output::seconds(copied.seconds),
        ]),
    }
    row
}

/// `check --against`.
pub(crate) async fn compare(session: &Session, args: &CheckArgs) -> Result<Exit, Failure> {
    let against = args.against.as_deref().unwrap_or_default();
    let running = session.host_with(&args.identity)?;
    let done = compare_both(&running.host(), args.from.as_deref(), against, args.read_data).await;
    let report = running.done(done)?;
    if session.json() {
        output::json("comparisons", &[&report])?;
    } else {
        output::text(&compared(&report))?;
    }
    let zone = &running.config.time_zone;
    for lack in &report.lacks {
        let why = lack.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        let what = format!("{} lacks {}{why}", lack.repository, output::snapshot(&lack.snapshot, zone));
        if lack.problem {
            session.talk.warn(&output::one_line(&what));
        } else {
            session.talk.note(&output::one_line(&what));
        }
    }
    for one in &report.differs {
        let copy = one.copy.short();
        let what = format!("{} and its copy {copy} differ in {} places", one.snapshot.id.short(), one.count);
        session.talk.bad(&what, &one.what);
    }
    Ok(Exit::from_code(report.exit_code()))
}

fn compared(report: &Comparison) -> String {
    format!(
        "{} and {}: {} snapshots are in both, {} of them differ; {} read",
        report.repository,
        report.against,
        report.compared,
        report.differs.len(),
        output::size(report.bytes_read)
    )
}
