//! A repository on a server whose account has SFTP and nothing else.

use lifeboat_testkit::sshd::{Account, SshServer};

use crate::harness::{Place, describe};

/// A machine that does everything, with its repository on a server.
fn place_of(server: &SshServer) -> Place {
    let place = Place::with_config(&format!(
        r#"stack: farajaland
role: both
repositories:
  main:
    url: {}
    privateKeyFile: {}
    knownHostsFile: known_hosts
    writerKeyFile: keys/writer.key
    maintainerKeyFile: keys/maintainer.key
    identityFile: keys/identity.key
    retentionPolicy: {{ keepLast: 1 }}
sources:
  documents: {{ kind: files, paths: ["${{HOME}}/documents"] }}
"#,
        server.url("sftp"),
        server.path("key").display(),
    ));
    place.write("documents/letter.txt", "dear registrar\n");
    place.write("documents/sub/births.csv", "1,2,3\n");
    place
}

#[test]
fn the_whole_life_of_a_repository_behind_a_chrooted_login() {
    let test = "the_whole_life_of_a_repository_behind_a_chrooted_login";
    let Some(server) = SshServer::start(test, Account::Chroot) else { return };
    let place = place_of(&server);
    let unknown = place.run(&["init"]);
    assert_eq!(unknown.code, 1, "{unknown:?}");
    assert!(unknown.err.contains("SHA256:") && unknown.err.contains("echo '[127.0.0.1]:"), "{}", unknown.err);
    assert!(!place.path("keys").exists(), "no key is made for a server that nobody knows");
    place.write("known_hosts", &format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key()));
    place.run(&["init"]).good();
    place.run(&["backup", "--label", "first"]).good();
    let before = describe(&place.path("documents"));
    let large: Vec<String> = (0..200_000).map(|n: u32| n.to_string()).collect();
    place.write("documents/large.txt", &large.join(" "));
    place.run(&["backup", "--label", "second"]).good();
    place.run(&["check", "--read-data"]).good();
    std::fs::remove_dir_all(place.path("documents")).expect("removed");
    place.run(&["restore", "documents@first", "--to", "origin", "--yes"]).good();
    assert_eq!(describe(&place.path("documents")), before);
    place.run(&["forget", "--yes"]).good();
    place.run(&["prune", "--yes"]).good();
    assert_eq!(place.json(&["snapshots"])["snapshots"].as_array().map(Vec::len), Some(1));
    place.run(&["check", "--read-data"]).good();
    let doctor = place.run(&["doctor"]);
    assert!(doctor.out.contains("holds a repository") && doctor.out.contains(" free"), "{}", doctor.out);
    let carried = place.json(&["snapshots"]).to_string();
    assert!(!carried.contains("PRIVATE KEY"), "{carried}");
}

#[test]
fn what_is_wrong_with_a_server_is_told_once_with_what_to_do() {
    let Some(mut server) = SshServer::start("what_is_wrong_with_a_server_is_told_once", Account::Plain) else { return };
    let place = place_of(&server);
    place.write("known_hosts", &format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key()));
    place.run(&["init"]).good();
    server.authorize("other_key");
    let refused = place.run(&["backup"]);
    assert!(refused.code != 0 && refused.err.contains("authorized_keys"), "{refused:?}");
    let doctor = place.run(&["doctor"]);
    assert!(doctor.code == 1 && doctor.out.contains("authorized_keys"), "{doctor:?}");
    server.authorize("key");
    server.change_host_key();
    let changed = place.run(&["backup"]);
    assert!(changed.code != 0 && changed.err.contains("ssh-keygen -R"), "{changed:?}");
    server.kill();
    let gone = place.run(&["backup"]);
    assert!(gone.code != 0 && gone.err.contains("cannot be reached") && gone.err.contains("hint"), "{gone:?}");
    assert!(gone.took.as_secs() < 60, "it does not try for minutes: {gone:?}");
}

#[test]
fn a_bare_machine_recovers_from_a_server_that_its_user_knows() {
    let Some(server) = SshServer::start("a_bare_machine_recovers_from_a_server", Account::Plain) else { return };
    let place = place_of(&server);
    let known = format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key());
    place.write("known_hosts", &known);
    place.run(&["init"]).good();
    place.run(&["backup", "--label", "first"]).good();
    let bare = Place::new();
    bare.write(".ssh/known_hosts", &known);
    bare.secret(".ssh/id_ed25519", &std::fs::read_to_string(server.path("key")).expect("the key"));
    let (url, identity) = (server.url("sftp"), place.text("keys/identity.key"));
    let found = bare.run(&["recover", &url, "--identity", &identity]).good();
    assert!(found.out.contains("documents"), "{found:?}");
}
