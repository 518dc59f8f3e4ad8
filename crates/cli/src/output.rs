//! What goes to standard output: one JSON object or a table, and how sizes and times are written.

use std::io::Write;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use lifeboat_model::SnapshotSummary;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::exit::Exit;
use crate::failure::Failure;

/// The version of every JSON object that this program prints. It counts up when a field changes
/// its meaning or goes; new fields may come at any time.
const SCHEMA_VERSION: u32 = 1;

/// Writes `{"schema_version":1,"<plural>":[...]}` on one line: the shape of all that is printed with
/// `--json`.
pub(crate) fn json<T: Serialize>(plural: &'static str, list: &[T]) -> Result<(), Failure> {
    let object = serde_json::to_string(&Versioned { plural, list });
    text(&object.map_err(|error| Failure::of(Exit::Failed, &error))?)
}

/// A list under its plural noun, after the version.
struct Versioned<'a, T> {
    plural: &'static str,
    list: &'a [T],
}

impl<T: Serialize> Serialize for Versioned<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("schema_version", &SCHEMA_VERSION)?;
        map.serialize_entry(self.plural, self.list)?;
        map.end()
    }
}

/// Writes lines. A reader that went away (`| head`) ends the command without an error.
pub(crate) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    written(writeln!(out, "{}", text.trim_end_matches('\n')).and_then(|()| out.flush()))
}

/// The outcome of writing to standard output.
pub(crate) fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::of(Exit::Failed, &error).while_doing("writing to standard output failed"))
        }
        _ => Ok(()),
    }
}

/// How a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Left(&'static str),
    Right(&'static str),
}

/// A table without lines around its cells: easy to read, easy to cut.
pub(crate) fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| match column {
        Column::Left(name) | Column::Right(name) => *name,
    }));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    for (at, column) in columns.iter().enumerate() {
        if let Some(drawn) = table.column_mut(at) {
            drawn.set_padding((0, 2));
            if matches!(column, Column::Right(_)) {
                drawn.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A text without line breaks and terminal commands: names come from anywhere.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

/// A size for people, such as `1.4 GiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let mut value = bytes as f64 / 1024.0;
    let mut at = 0;
    while value >= 1023.95 && at + 1 < units.len() {
        value /= 1024.0;
        at += 1;
    }
    format!("{value:.1} {}", units[at])
}

/// A size that may not be known.
pub(crate) fn maybe_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "?".to_owned(), size)
}

/// A time for people, with the offset of its zone.
pub(crate) fn time(time: Timestamp, zone: &TimeZone) -> String {
    lifeboat_model::snapshot::time_shown(time, zone)
}

/// A snapshot for people, in one line.
pub(crate) fn snapshot(snapshot: &SnapshotSummary, zone: &TimeZone) -> String {
    one_line(&snapshot.shown(zone))
}

/// [`duration`] of seconds.
pub(crate) fn seconds(seconds: f64) -> String {
    duration(std::time::Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A duration for people, such as `1 h 04 min`, `2 min 10 s`, `3.2 s`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_durations_are_written_for_people() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1 << 20, "1.0 MiB"),
            ((1 << 30) - 1, "1.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
        for (millis, shown) in [(3_210, "3.2 s"), (130_000, "2 min 10 s"), (3_840_000, "1 h 04 min")] {
            assert_eq!(duration(Duration::from_millis(millis)), shown);
        }
    }

    #[test]
    fn a_table_lines_up_and_shows_no_terminal_commands() {
        let table = table(
            &[Column::Left("NAME"), Column::Right("BYTES")],
            [vec!["a\u{1b}[2J".into(), "1".into()], vec!["long name".into(), "12345".into()]],
        );
        assert_eq!(table, "NAME        BYTES\na\\u{1b}[2J      1\nlong name   12345");
    }

    #[test]
    fn times_are_shown_with_their_zone() {
        let zone = TimeZone::get("Africa/Lusaka").expect("a zone");
        assert_eq!(time("2026-02-05T01:00:00Z".parse().expect("a time"), &zone), "2026-02-05 03:00:00 +02:00");
    }
}
