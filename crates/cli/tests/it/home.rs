//! Files back in place: by their owner, compared afterwards, and what is not theirs left alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use rustix::fs::{FileType, Mode};

use crate::harness::{Caller, is_root, write};

/// A user that owns its documents and nothing above them.
const USER: u32 = 61_010;

#[test]
fn an_owner_who_is_not_root_restores_in_place_and_verify_finds_no_difference() {
    if !is_root() {
        println!("SKIPPED an_owner_who_is_not_root_restores_in_place: needs root, to become another user");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path();
    let docs = root.join("srv/docs");
    fs::create_dir_all(docs.join("sub")).expect("make");
    fs::create_dir(root.join("home")).expect("make");
    write(&docs.join("letter.txt"), b"dear registrar\n");
    write(&docs.join("sub/births.csv"), b"1,2,3\n");
    let yaml = format!(
        "stack: farajaland\nrole: both\nstateDir: {0}/home/state\nrepositories:\n  main:\n    url: file://{0}/home/repository\n    \
         writerKeyFile: {0}/home/writer.key\n    maintainerKeyFile: {0}/home/maintainer.key\n    \
         identityFile: {0}/home/identity.key\nsources:\n  documents: {{ kind: files, paths: [\"{0}/srv/docs\"] }}\n",
        root.display()
    );
    write(&root.join("home/lifeboat.yaml"), yaml.as_bytes());
    for path in
        ["home", "home/lifeboat.yaml", "srv/docs", "srv/docs/sub", "srv/docs/letter.txt", "srv/docs/sub/births.csv"]
    {
        chown(root.join(path), Some(USER), Some(USER)).expect("give");
    }
    for path in ["", "srv"] {
        // The way through is enough: nobody but root may list what is above.
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(0o711)).expect("set");
    }
    let user = Caller { uid: Some(USER), ..Caller::new(&root.join("home/lifeboat.yaml")) };
    user.run(&["init"]).expect(0);
    let socket = docs.join("sub/server.sock");
    rustix::fs::mknodat(rustix::fs::CWD, &socket, FileType::Socket, Mode::from_raw_mode(0o600), 0).expect("make");
    let told = user.run(&["backup", "--json"]).expect(0).json();
    let note = told["backups"][0]["notes"][0].as_str().unwrap_or_default();
    assert!(note.starts_with("farajaland/documents: 1 socket left out"), "{told}");

    // What is above changes; a file is lost, another is newer.
    write(&root.join("srv/other"), b"not of the source");
    fs::set_permissions(root.join("srv"), fs::Permissions::from_mode(0o751)).expect("set");
    fs::remove_file(docs.join("sub/births.csv")).expect("remove");
    user.run(&["verify", "documents", "--to", "origin"]).expect(1);
    user.run(&["restore", "documents", "--to", "origin", "--yes"]).expect(0);
    assert_eq!(fs::read(docs.join("sub/births.csv")).expect("read"), b"1,2,3\n");
    write(&docs.join("letter.txt"), b"newer");
    user.run(&["restore", "documents", "--to", "origin", "--replace", "--yes"]).expect(0);
    let verified = user.run(&["verify", "documents", "--to", "origin", "--json"]).expect(0).json();
    assert_eq!(verified["verifications"][0]["verified"]["compared"], 4, "{verified}");
    let mode = fs::metadata(root.join("srv")).expect("look").permissions().mode() & 0o7777;
    assert_eq!(mode, 0o751, "what is above the configured path is not the snapshot's to change");

    // What it may not write to is named before anything is written.
    fs::remove_dir_all(&docs).expect("remove");
    let refused = user.run(&["restore", "documents", "--to", "origin", "--yes"]).expect(1);
    assert!(refused.err.contains(&format!("{}/srv (Permission denied)", root.display())), "{}", refused.err);
    let refused = user.run(&["restore", "documents", "--to", "origin", "--rename", "a=b", "--yes"]).expect(2);
    assert!(refused.err.contains("--rename") && refused.err.contains("hint: "), "{}", refused.err);
}
