//! `backup`.

use lifeboat_engine::backup::{BackupReport, BackupRequest, SourceBackup};

use crate::args::BackupArgs;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, Column};
use crate::request;
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: BackupArgs) -> Result<Exit, Failure> {
    let sources = request::sources(&args.sources)?;
    let moved = args.moved.as_deref().map(request::stack).transpose()?;
    let running = session.host()?;
    let asked = BackupRequest { sources, label: args.label, moved };
    let report = running.done(lifeboat_engine::backup::backup(&running.host(), &asked).await)?;
    if session.json() {
        output::json("backups", &report.backups)?;
    } else {
        output::text(&table(&report))?;
    }
    tell(session, &report);
    Ok(Exit::from_code(report.exit_code()))
}

fn table(report: &BackupReport) -> String {
    let columns = [
        Column::Left("SOURCE"),
        Column::Left("SNAPSHOT"),
        Column::Right("ENTRIES"),
        Column::Right("BYTES"),
        Column::Right("NEW"),
        Column::Right("STORED"),
        Column::Right("TIME"),
        Column::Right("PROBLEMS"),
    ];
    output::table(&columns, report.backups.iter().map(row))
}

fn row(backup: &SourceBackup) -> Vec<String> {
    let Some(id) = backup.snapshot else {
        return vec![backup.source.clone(), "failed".to_owned()];
    };
    vec![
        backup.source.clone(),
        id.short(),
        backup.entries.to_string(),
        output::size(backup.bytes),
        output::size(backup.new_bytes),
        output::size(backup.stored_bytes),
        output::seconds(backup.seconds),
        (backup.skips + backup.problems).to_string(),
    ]
}

/// What went wrong, source by source, each with what can be done.
fn tell(session: &Session, report: &BackupReport) {
    for backup in &report.backups {
        for example in &backup.examples {
            session.talk.warn(&format!("{}: {}", backup.source, output::one_line(example)));
        }
        let more = (backup.skips + backup.problems).saturating_sub(backup.examples.len() as u64);
        if more > 0 {
            session.talk.warn(&format!("{}: and {more} more", backup.source));
        }
        for trouble in &backup.history {
            session.talk.warn(&format!("{}: {}", backup.source, output::one_line(trouble)));
        }
        if !backup.history.is_empty() {
            session.talk.warn(&format!(
                "{}: the snapshot was made, and the history that it goes on with is not whole\nhint: `lifeboat check` \
                 tells all that is missing or damaged",
                backup.source
            ));
        }
        if let Some(error) = &backup.error {
            let what =
                if error.contains(&backup.source) { error.clone() } else { format!("{}: {error}", backup.source) };
            let failure = Failure::new(Exit::from_code(backup.exit_code), what);
            session.talk.fail(&failure.maybe_hint(backup.hint.clone()));
        }
    }
}
