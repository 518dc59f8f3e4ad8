use super::*;

fn zone() -> TimeZone {
    TimeZone::fixed(jiff::tz::offset(2))
}

fn at(text: &str) -> Option<String> {
    parse_time(text, &zone()).map(|time| time.to_string())
}

#[test]
fn a_time_means_the_end_of_what_was_written_and_without_offset_the_configured_zone() {
    for (text, time) in [
        ("2026-02-05", "2026-02-05T21:59:59.999999999Z"),
        ("2026-02-05 03", "2026-02-05T01:59:59.999999999Z"),
        ("2026-02-05 03:00", "2026-02-05T01:00:59.999999999Z"),
        ("2026-02-05T03:00:30", "2026-02-05T01:00:30.999999999Z"),
        ("2026-02-05T03:00:30.25", "2026-02-05T01:00:30.25Z"),
        ("2026-02-05T03:00:00Z", "2026-02-05T03:00:00.999999999Z"),
        ("2026-02-05 03:00+05:00", "2026-02-04T22:00:59.999999999Z"),
        ("2026-02-05 03:00:30 +05:00", "2026-02-04T22:00:30.999999999Z"),
        ("2026-02-05 03:00:30 -05:00", "2026-02-05T08:00:30.999999999Z"),
    ] {
        assert_eq!(at(text).as_deref(), Some(time), "{text}");
    }
}

#[test]
fn a_time_that_is_shown_is_read_as_the_second_that_it_was_in() {
    let time: Timestamp = "2026-11-21T16:34:20.123456789Z".parse().expect("a time");
    let read = parse_time(&time_shown(time, &zone()), &zone()).expect("a time");
    assert!(read >= time && read.duration_since(time).as_secs() == 0, "{read}");
    assert_eq!(parse_time(&time.to_string(), &zone()), Some(time), "as JSON has it");
}

#[test]
fn ids_and_labels_are_not_taken_for_times() {
    for text in ["20260205", "202602", "2026-02-05-before-upgrade", "latest", "", "2026", "2026-13-01"] {
        assert_eq!(at(text), None, "{text}");
    }
}

#[test]
fn a_reference_has_stack_source_and_which() {
    let full = SnapshotRef::parse("farajaland/registry@2026-02-05 03:00").expect("a reference");
    assert_eq!(full.stack.as_ref().map(StackName::as_str), Some("farajaland"));
    assert_eq!(full.source.as_ref().map(SourceName::as_str), Some("registry"));
    assert_eq!(full.which.as_deref(), Some("2026-02-05 03:00"));
    let bare = SnapshotRef::parse("registry").expect("a reference");
    assert_eq!((bare.stack, bare.which), (None, None));
    let id = SnapshotRef::parse(&"a".repeat(64)).expect("an id");
    assert_eq!((id.source, id.which), (None, Some("a".repeat(64))));
}

#[test]
fn an_incomplete_reference_is_refused() {
    for bad in ["", "@latest", "registry@", "/registry", "a/b/c", "-x"] {
        assert!(SnapshotRef::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_label_that_could_mean_something_else_is_refused() {
    for bad in ["", "latest", "2026-02-05", "abcdef", "a@b", "a/b", "taken", "line\nbreak"] {
        assert!(label_refusal(bad, &zone(), ["taken"].into_iter()).is_some(), "{bad:?}");
    }
    for good in ["before-upgrade", "abcde", "release 1.9", "2026-02-05-before", "ABCDEF12"] {
        assert_eq!(label_refusal(good, &zone(), ["taken"].into_iter()), None, "{good:?}");
    }
}
