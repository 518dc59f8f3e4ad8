//! `ls` and `cat`.

use std::io::Write;

use jiff::tz::TimeZone;
use lifeboat_engine::browse::{self, Depth, Listed};
use lifeboat_engine::snapshot::open_snapshot;
use lifeboat_model::EntryPath;
use lifeboat_model::words::counted;

use crate::args::{CatArgs, LsArgs};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output;
use crate::request;
use crate::session::Session;

/// A snapshot may have more entries than fit in memory: lines go out as they are read.
pub(crate) async fn ls(session: &Session, args: LsArgs) -> Result<Exit, Failure> {
    let part = request::part(&args.what)?;
    let running = session.host_to_read(&args.identity)?;
    let opened = running.done(open_snapshot(&running.host(), &part.snapshot, args.from.as_deref()).await)?;
    let depth = if args.recursive { Depth::All } else { Depth::Children };
    let mut out = std::io::BufWriter::new(std::io::stdout());
    let json = session.json();
    let mut first = true;
    let mut show = |entry: Listed| {
        if json {
            let comma = if std::mem::take(&mut first) { r#"{"schema_version":1,"entries":["# } else { "," };
            out.write_all(comma.as_bytes())?;
            serde_json::to_writer(&mut out, &entry)?;
            return Ok(());
        }
        writeln!(out, "{}", line(&entry, &running.config.time_zone))
    };
    let walked = browse::ls(opened.data.as_ref(), part.path.as_ref(), depth, &mut show).await;
    if json && walked.is_ok() {
        let end = if first { r#"{"schema_version":1,"entries":[]}"# } else { "]}" };
        output::written(writeln!(out, "{end}"))?;
    }
    output::written(out.flush())?;
    match walked {
        Err(lifeboat_engine::JobError::Io { source, .. }) if source.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(Exit::Ok)
        }
        walked => {
            tell_hidden(session, args.recursive, &running.done(walked)?);
            let asked_for = opened.data.problems().iter().any(|(at, _)| part.path.as_ref() == Some(at));
            Ok(if asked_for { Exit::Problems } else { Exit::Ok })
        }
    }
}

/// Problems of entries that were not listed.
fn tell_hidden(session: &Session, recursive: bool, hidden: &[(EntryPath, String)]) {
    if recursive {
        for (path, what) in hidden {
            session.talk.warn(&output::one_line(&format!("{path}: {what}")));
        }
    } else if !hidden.is_empty() {
        let count = counted(hidden.len() as u64, "problem");
        session.talk.warn(&format!("{count} of entries further down: `lifeboat ls -R` marks them"));
    }
}

/// `-rw-r----- root root  1.2 KiB 2026-02-05 03:00:00 +02:00 path -> target`
fn line(entry: &Listed, zone: &TimeZone) -> String {
    let letter = match entry.kind {
        "directory" => 'd',
        "symlink" => 'l',
        "hardlink" => 'h',
        "fifo" => 'p',
        "char-device" => 'c',
        "block-device" => 'b',
        "socket" => 's',
        "skipped" => '!',
        _ => '-',
    };
    let mode = entry.mode.map_or_else(|| "?????????".to_owned(), permissions);
    let owner = format!("{} {}", entry.owner.as_deref().unwrap_or("-"), entry.group.as_deref().unwrap_or("-"));
    let time = entry.mtime.map_or_else(|| "-".to_owned(), |time| output::time(time, zone));
    let note = entry.note.as_ref().map_or_else(String::new, |note| format!(" -> {}", output::one_line(note)));
    // Why something was left out stands there already.
    let problems = entry.problems.iter().filter(|problem| entry.note.as_ref() != Some(*problem));
    let problems: Vec<_> = problems.map(|problem| format!(" [problem: {}]", output::one_line(problem))).collect();
    let problems = problems.concat();
    format!(
        "{letter}{mode} {owner:<17} {:>10} {time:<26} {}{note}{problems}",
        output::size(entry.bytes),
        output::one_line(&entry.path)
    )
}

fn permissions(mode: u32) -> String {
    let mut text = String::new();
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub(crate) async fn cat(session: &Session, args: CatArgs) -> Result<Exit, Failure> {
    let part = request::part(&args.what)?;
    let Some(path) = part.path else {
        return Err(
            Failure::usage("no path is given").hint("write SNAPSHOT:PATH; `lifeboat ls SNAPSHOT` lists the paths")
        );
    };
    let running = session.host_to_read(&args.identity)?;
    let opened = running.done(open_snapshot(&running.host(), &part.snapshot, args.from.as_deref()).await)?;
    let out = rustix::io::dup(std::io::stdout()).map_err(|error| Failure::of(Exit::Failed, &error))?;
    let mut out = tokio::fs::File::from_std(std::fs::File::from(out));
    let done = browse::cat(opened.data.as_ref(), &path, &mut out).await;
    // What was cut off by `| head` is no failure.
    let gone = done.as_ref().is_err_and(|error| error.chain().contains("Broken pipe"));
    if !gone {
        running.done(done)?;
    }
    let mut exit = Exit::Ok;
    for (_, what) in opened.data.problems().iter().filter(|(at, _)| *at == path) {
        session.talk.warn(&output::one_line(&format!("{path}: {what}")));
        exit = Exit::Problems;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_written_as_ls_writes_them() {
        for (mode, text) in [(0o644, "rw-r--r--"), (0o4755, "rwsr-xr-x"), (0o1777, "rwxrwxrwt"), (0o2640, "rw-r-S---")]
        {
            assert_eq!(permissions(mode), text);
        }
    }
}
