//! Arguments, help, exit codes, and what is said where.

use crate::run::{Place, Said};

#[test]
fn words_of_other_tools_lead_home() {
    let place = Place::new();
    for (word, ours) in [("expire", "forget"), ("list", "snapshots"), ("gc", "prune"), ("bakcup", "backup")] {
        let said = place.run(&[word]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{word}");
        assert_eq!(said.err, format!("error: there is no command `{word}`\nhint: did you mean `lifeboat {ours}`?\n"));
    }
}

#[test]
fn help_goes_to_standard_output_and_names_the_exit_codes() {
    let said = Place::new().run(&["--help"]).good();
    assert_eq!(said.err, "");
    assert!(said.out.contains("Exit codes:") && said.out.contains("12  wrong or missing key"), "{}", said.out);
    for command in [
        "init",
        "doctor",
        "backup",
        "snapshots",
        "ls",
        "cat",
        "restore",
        "verify",
        "check",
        "copy",
        "forget",
        "hold",
        "prune",
        "recover",
        "key",
        "config",
        "completions",
    ] {
        assert!(said.out.contains(&format!("\n  {command} ")), "{command} is missing:\n{}", said.out);
    }
}

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    let mut all = String::new();
    for command in [
        "init",
        "backup",
        "snapshots",
        "ls",
        "cat",
        "restore",
        "verify",
        "check",
        "copy",
        "forget",
        "hold",
        "prune",
        "recover",
        "key",
        "config",
    ] {
        all.push_str(&place.run(&[command, "--help"]).good().out);
        all.push_str("\n----\n");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn wrong_usage_ends_with_2_and_says_nothing_on_standard_output() {
    let place = Place::with_config("stack: a\nrole: both\nrepositories: {m: {url: 'file:///nowhere/at/all'}}\n");
    for args in [
        vec![],
        vec!["restore"],
        vec!["restore", "documents"],
        vec!["restore", "a b", "--to", "x"],
        vec!["restore", "documents", "--to", "postgres://u:pw@h/"],
        vec!["restore", "documents", "--to", "x", "--rename", "a"],
        vec!["cat", "documents"],
        vec!["backup", "--no-such-flag"],
        vec!["key", "genarate"],
        vec!["init", "--grace", "soon"],
        vec!["--quiet", "--verbose", "snapshots"],
    ] {
        let said = place.run(&args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}: {said:?}");
        assert!(said.err.starts_with("error: "), "{args:?}: {said:?}");
        assert_eq!(said.err.matches("error").count(), 1, "told once: {said:?}");
    }
}

#[test]
fn errors_are_objects_where_json_is_asked_for() {
    let place = Place::new();
    for args in [vec!["--json", "expire"], vec!["--json", "snapshots"], vec!["snapshots", "--json", "--bad"]] {
        let said = place.run(&args);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{args:?}");
        let object: serde_json::Value = serde_json::from_str(&said.err).expect("one JSON object");
        assert_eq!(object["exit_code"], 2);
        assert_eq!(object["level"], "error");
        assert!(object["error"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(place.run(&["completions", shell]).good().out.contains("lifeboat"));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let said = Said::of(
        assert_cmd::Command::new("sh")
            .arg("-c")
            .arg(format!("{} config schema | true; echo ${{PIPESTATUS:-0}}", env!("CARGO_BIN_EXE_lifeboat"))),
    );
    assert_eq!(said.err, "");
}
