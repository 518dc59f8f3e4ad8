//! Words that people know from other tools lead to ours.

use lifeboat_model::nearest::nearest;

use crate::failure::Failure;

/// Their words, and ours.
const ELSEWHERE: [(&str, &str); 32] = [
    ("expire", "forget"),
    ("purge", "forget"),
    ("delete", "forget"),
    ("remove", "forget"),
    ("rm", "forget"),
    ("retention", "forget"),
    ("list", "snapshots"),
    ("list-backups", "snapshots"),
    ("list-backup", "snapshots"),
    ("backups", "snapshots"),
    ("archives", "snapshots"),
    ("history", "snapshots"),
    ("info", "snapshots"),
    ("gc", "prune"),
    ("compact", "prune"),
    ("cleanup", "prune"),
    ("garbage-collect", "prune"),
    ("create", "backup"),
    ("save", "backup"),
    ("dump", "cat"),
    ("extract", "restore"),
    ("checkout", "restore"),
    ("download", "restore"),
    ("protect", "hold"),
    ("pin", "hold"),
    ("stanza-create", "init"),
    ("rcreate", "init"),
    ("repo-create", "init"),
    ("fsck", "check"),
    ("scrub", "check"),
    ("diff", "verify"),
    ("test", "doctor"),
];

/// What to say to a command that there is not.
pub(crate) fn unknown_command(word: &str, ours: &[&str]) -> Failure {
    let failure = Failure::usage(format!("there is no command `{word}`"));
    let lower = word.to_ascii_lowercase();
    let known = ELSEWHERE.iter().find(|(theirs, _)| *theirs == lower).map(|(_, ours)| *ours);
    match known.or_else(|| nearest(word, ours.iter().copied())) {
        Some(near) => failure.hint(format!("did you mean `lifeboat {near}`?")),
        None => failure.hint("`lifeboat help` lists the commands"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn every_word_leads_to_a_command_that_there_is() {
        let command = crate::args::Cli::command();
        let ours: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        for (theirs, to) in ELSEWHERE {
            assert!(ours.contains(&to), "{theirs} leads to {to}");
            assert!(!ours.contains(&theirs), "{theirs} is a command of ours");
        }
    }

    #[test]
    fn the_nearest_word_is_offered_and_nonsense_gets_the_list() {
        let hint = |word: &str| unknown_command(word, &["backup", "restore", "snapshots"]).hint.expect("a hint");
        assert_eq!(hint("expire"), "did you mean `lifeboat forget`?");
        assert_eq!(hint("bakcup"), "did you mean `lifeboat backup`?");
        assert_eq!(hint("snapshot"), "did you mean `lifeboat snapshots`?");
        assert_eq!(hint("xyzzy"), "`lifeboat help` lists the commands");
    }
}
