//! Every command of the README is run, in order, in an empty directory.

use std::path::Path;

use crate::harness::{binary, write};

/// The fenced blocks of this language.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}");
    let mut found = Vec::new();
    let mut current: Option<String> = None;
    for line in markdown.lines() {
        match &mut current {
            None if line == opening => current = Some(String::new()),
            None => {}
            Some(_) if line == "```" => found.extend(current.take()),
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    found
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test plays the reader's shell")]
fn the_commands_of_the_readme_do_what_it_says() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md")).unwrap();
    let blocks = blocks(&readme, "sh");
    assert!(blocks.len() >= 4, "the README lost its commands");
    let dir = tempfile::tempdir().unwrap();
    let script = dir.path().join("readme.sh");
    write(
        &script,
        format!("set -euo pipefail\nlifeboat() {{ '{}' \"$@\"; }}\n{}", binary().display(), blocks.join("\n"))
            .as_bytes(),
    );
    let work = dir.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let ran = std::process::Command::new("bash")
        .arg(&script)
        .current_dir(&work)
        .env_remove("LIFEBOAT_CONFIG")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "stdout:\n{out}\nstderr:\n{err}");
    let back = format!("bare-machine{}/documents/letter.txt", work.display());
    assert_eq!(std::fs::read_to_string(work.join(back)).unwrap(), "the first letter\n", "{out}\n{err}");
}
