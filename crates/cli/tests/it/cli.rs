//! Arguments, help, exit codes, and what is said where.

use std::fmt::Write as _;

use crate::harness::{Place, binary};

#[test]
fn words_of_other_tools_lead_home() {
    let place = Place::new();
    for (word, ours) in [("expire", "forget"), ("list", "snapshots"), ("gc", "prune"), ("bakcup", "backup")] {
        let said = place.run(&[word]);
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{word}");
        assert_eq!(said.err, format!("error: there is no command `{word}`\nhint: did you mean `lifeboat {ours}`?\n"));
    }
}

/// Every command by the words that reach it, as the program itself lists them.
fn commands(place: &Place) -> Vec<Vec<String>> {
    let listed = |above: &[String]| -> Vec<Vec<String>> {
        let args: Vec<&str> = above.iter().map(String::as_str).chain(["--help"]).collect();
        let help = place.run(&args).good().out;
        let Some((_, list)) = help.split_once("\nCommands:\n") else { return vec![] };
        let names = list.lines().take_while(|line| !line.is_empty());
        // A line that goes on is indented further.
        let names = names.filter_map(|line| line.strip_prefix("  ")?.split(' ').next().filter(|name| !name.is_empty()));
        names.filter(|name| *name != "help").map(|name| [above, &[name.to_owned()]].concat()).collect()
    };
    let top = listed(&[]);
    let below: Vec<_> = top.iter().flat_map(|above| listed(above)).collect();
    [top, below].concat()
}

#[test]
fn help_goes_to_standard_output_and_names_the_exit_codes() {
    let said = Place::new().run(&["--help"]).good();
    assert_eq!(said.err, "");
    assert!(said.out.contains("Exit codes:") && said.out.contains("12  wrong or missing key"), "{}", said.out);
}

#[test]
fn every_command_explains_itself() {
    let place = Place::new();
    let commands = commands(&place);
    assert!(commands.len() > 20, "{commands:?}");
    let mut all = place.run(&["--help"]).good().out;
    for command in &commands {
        let args: Vec<&str> = command.iter().map(String::as_str).chain(["--help"]).collect();
        let help = place.run(&args).good().out;
        // What every command takes is told once, above.
        let (own, rest) = help.split_once("\nOptions of every command:\n").expect("the options of every command");
        let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
        write!(all, "\n---- {}\n{own}{after}", command.join(" ")).unwrap();
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
#[expect(clippy::disallowed_methods, reason = "the test plays the shell")]
fn a_reader_that_goes_away_is_no_error() {
    let script = format!("{} config schema | true; echo ${{PIPESTATUS:-0}}", binary().display());
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
