//! Making repositories and keys, joining, leaving.

use crate::bad::until;
use crate::harness::{CONFIG, Place};

fn place() -> Place {
    let place = Place::with_config(CONFIG);
    place.write("documents/letter.txt", "dear registrar");
    place
}

fn mode(place: &Place, below: &str) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(place.path(below)).expect("a file").permissions().mode() & 0o7777
}

#[test]
fn init_makes_repository_and_keys_once_and_tells_where_the_secret_went() {
    let place = place();
    let said = place.run(&["init"]).good();
    assert_eq!(said.out, "", "talk goes to standard error");
    assert!(said.err.contains("without it nothing can be restored, by anybody"), "{}", said.err);
    assert!(said.err.contains("keys/identity.key"), "{}", said.err);
    for key in ["identity", "writer", "maintainer"] {
        assert_eq!(mode(&place, &format!("keys/{key}.key")), 0o600);
        assert!(place.run(&["key", "test", &format!("keys/{key}.key")]).good().out.contains("on the roster"));
    }
    assert_eq!(mode(&place, "keys"), 0o700);
    let before = std::fs::read(place.path("keys/identity.key")).expect("the key");
    let again = &place.json(&["init"])["repositories"][0];
    assert_eq!((&again["name"], &again["state"]), (&"main".into(), &"there already".into()));
    let keys = again["keys"].as_array().expect("a list");
    assert!(keys.len() == 3 && keys.iter().all(|key| key["state"] == "there already"), "{again}");
    assert_eq!(std::fs::read(place.path("keys/identity.key")).expect("the key"), before);
}

#[test]
fn a_host_that_backs_up_keeps_no_identity() {
    let place = Place::with_config(
        &CONFIG.replace("role: both", "role: backup").replace("    identityFile: keys/identity.key\n", ""),
    );
    let refused = place.run(&["init"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("hint: --identity FILE: on a USB stick"), "{}", refused.err);
    assert!(!place.path("keys").exists(), "nothing is made before a place is named");
    let unmounted = place.run(&["init", "--identity", "stick/identity.key"]).expect(2);
    assert!(unmounted.err.contains("is the medium mounted?") && !place.path("stick").exists(), "{}", unmounted.err);
    assert!(!place.path("keys").exists(), "nothing is made before the place is there");
    std::fs::create_dir(place.path("stick")).expect("a directory");
    place.run(&["init", "--identity", "stick/identity.key"]).good();
    let kept: Vec<_> =
        std::fs::read_dir(place.path("keys")).expect("keys").flatten().map(|key| key.file_name()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    place.run(&["key", "test", "stick/identity.key"]).good();
    for args in
        [vec!["ls", "documents"], vec!["cat", "documents:x"], vec!["restore", "documents", "--to", "x", "--yes"]]
    {
        assert_eq!(place.run(&args).code, 12, "{args:?}");
    }
}

#[test]
fn a_writer_whose_store_is_empty_is_asked_for_its_disk_and_not_told_to_drop_its_key() {
    let place = Place::with_config(
        &CONFIG.replace("role: both", "role: backup").replace("    identityFile: keys/identity.key\n", ""),
    );
    place.write("documents/letter.txt", "dear registrar");
    std::fs::create_dir(place.path("stick")).expect("a directory");
    place.run(&["init", "--identity", "stick/identity.key"]).good();
    place.run(&["backup"]).good();
    std::fs::rename(place.path("repository"), place.path("elsewhere")).expect("unmounted");
    std::fs::create_dir(place.path("repository")).expect("a mount point");
    std::fs::create_dir(place.path("other")).expect("a directory");
    for more in [&[][..], &["--forget-remembered-roster"], &["--identity", "other/identity.key"]] {
        let refused = place.run(&[&["init"][..], more].concat()).expect(1);
        assert!(refused.err.contains("is empty") && refused.err.contains("is its disk mounted"), "{}", refused.err);
    }
    assert_eq!(std::fs::read_dir(place.path("repository")).expect("a directory").count(), 0);
    assert!(!place.path("other/identity.key").exists());
    std::fs::remove_dir(place.path("repository")).expect("removed");
    std::fs::rename(place.path("elsewhere"), place.path("repository")).expect("mounted");
    place.run(&["backup"]).good();
}

#[test]
fn a_protected_identity_opens_with_its_passphrase_only() {
    let place = place();
    place.secret("passphrase", "correct horse\n");
    place.secret("wrong", "battery\n");
    place.run(&["init", "--passphrase-file", "passphrase"]).good();
    let test = |extra: &[&str]| place.run(&[&["key", "test", "keys/identity.key"], extra].concat()).code;
    assert_eq!(
        (test(&["--passphrase-file", "passphrase"]), test(&["--passphrase-file", "wrong"]), test(&[])),
        (0, 12, 12)
    );
    assert_eq!(
        place.run(&["init", "--repository", "main", "--passphrase"]).code,
        2,
        "nobody is asked without a terminal"
    );
}

#[test]
fn the_recovery_sheet_is_a_key_that_can_be_typed_in() {
    let place = place();
    let sheet = place.run(&["init", "--recovery-sheet"]).good().out;
    assert!(sheet.contains("LIFEBOAT RECOVERY SHEET"), "{sheet}");
    place.write("typed", &sheet);
    std::fs::set_permissions(place.path("typed"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    assert!(place.run(&["key", "test", "typed"]).good().out.contains("owner key"));
}

#[test]
fn a_further_host_asks_and_is_granted() {
    let owner = place();
    owner.run(&["init"]).good();
    let repository = owner.path("repository");
    let config = CONFIG
        .replace("${HOME}/repository", repository.to_str().expect("UTF-8"))
        .replace("    maintainerKeyFile: keys/maintainer.key\n    identityFile: keys/identity.key\n", "")
        .replace("farajaland", "second");
    let host = Place::with_config(&config);
    let asked = host.run(&["init"]).good();
    assert!(asked.err.contains("keys/writer.key.request"), "{}", asked.err);
    let waiting = host.run(&["backup"]);
    assert_eq!(waiting.code, 12, "{waiting:?}");
    let request = host.path("keys/writer.key.request");
    let request = request.to_str().expect("UTF-8");
    let unasked = owner.run(&["key", "add", request]);
    assert_eq!(unasked.code, 2);
    assert!(unasked.err.contains("--yes") && unasked.err.contains("fingerprint"), "{}", unasked.err);
    owner.run(&["key", "add", request, "--grant", "grant", "--yes"]).good();
    let grant = owner.path("grant");
    host.run(&["init", "--grant", grant.to_str().expect("UTF-8")]).good();
    let told = host.json(&["key", "test", "keys/writer.key"]);
    let key = told["keys"][0]["key"].as_str().expect("an id").to_owned();
    let removed = owner.run(&["key", "remove", &key[..12], "--yes"]).good();
    assert!(removed.out.contains("writer"), "{removed:?}");
    assert_eq!(host.run(&["key", "test", "keys/writer.key"]).code, 12, "it is off the roster");
}

#[test]
fn what_a_removed_writer_left_is_no_forgery_and_a_prune_clears_it_away() {
    let place = place();
    place.run(&["init", "--grace", "1s"]).good();
    place.run(&["backup"]).good();
    let told = place.json(&["key", "test", "keys/writer.key"]);
    let key = told["keys"][0]["key"].as_str().expect("an id").to_owned();
    place.run(&["key", "remove", &key[..12], "--yes"]).good();
    std::fs::remove_file(place.path("keys/writer.key")).expect("its host is gone");
    place.run(&["check", "--read-data"]).good();
    let left = || ["run", "renewal"].map(|kind| place.path(&format!("repository/{kind}"))).map(files_below);
    assert!(left().iter().sum::<usize>() > 1, "the run told of itself");
    until("a prune clears it away", || {
        place.run(&["prune", "--yes"]).good();
        left() == [0, 0]
    });
    place.run(&["check", "--read-data"]).good();
    place.run(&["restore", "documents", "--to", "out"]).good();
}

fn files_below(dir: std::path::PathBuf) -> usize {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(entry.path()) } else { 1 }).sum()
}

#[test]
fn a_writer_key_that_is_removed_or_pending_stops_no_command_that_reads() {
    let place = place();
    place.run(&["init"]).good();
    place.run(&["backup"]).good();
    let told = place.json(&["key", "test", "keys/writer.key"]);
    let key = told["keys"][0]["key"].as_str().expect("an id").to_owned();
    place.run(&["key", "remove", &key[..12], "--yes"]).good();
    let removed = place.run(&["backup"]).expect(12);
    assert!(removed.err.contains("key generate writer --out FILE"), "{}", removed.err);
    let reads = |why: &str, hint: &str| {
        for args in [&["check", "--read-data"][..], &["snapshots"], &["repair", "--dry-run"]] {
            let said = place.run(args).good();
            assert!(said.err.contains(why) && said.err.contains(hint), "{args:?}: {}", said.err);
        }
    };
    reads("removed from the roster", "key generate writer");
    place.run(&["key", "generate", "writer", "--out", "keys/new.key"]).good();
    std::fs::rename(place.path("keys/new.key"), place.path("keys/writer.key")).expect("in its place");
    place.run(&["backup"]).expect(12);
    reads("pending-writer", "key add REQUEST");
    // Where no other key is at hand, it is the error.
    for key in ["maintainer", "identity"] {
        std::fs::remove_file(place.path(&format!("keys/{key}.key"))).expect("removed");
    }
    place.run(&["snapshots"]).expect(12);
}

#[test]
fn the_owner_makes_further_readers_and_maintainers() {
    let place = place();
    place.run(&["init"]).good();
    for role in ["identity", "maintainer"] {
        let out = format!("more/{role}.key");
        let refused = place.run(&["key", "generate", role, "--out", &out]);
        assert_eq!((refused.code, place.path(&out).exists()), (12, false), "{refused:?}");
        place.run(&["key", "generate", role, "--out", &out, "--identity", "keys/identity.key"]).good();
        assert!(place.run(&["key", "test", &out]).good().out.contains(role));
    }
}

#[test]
fn a_wrong_key_ends_with_12_and_no_repository_with_10() {
    let (one, other) = (place(), place());
    one.run(&["init"]).good();
    other.run(&["init"]).good();
    let foreign = other.path("keys/identity.key");
    let said = one.run(&["key", "test", foreign.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 12, "{said:?}");
    std::fs::remove_dir_all(one.path("repository")).expect("removed");
    let gone = one.run(&["snapshots"]);
    assert_eq!(gone.code, 10, "{gone:?}");
    assert!(gone.err.contains("hint: "), "{gone:?}");
}

#[test]
fn doctor_looks_at_everything_and_changes_nothing() {
    let place = place();
    place.run(&["init"]).good();
    let findings = place.json(&["doctor"]);
    let findings = findings["findings"].as_array().expect("a list");
    let has = |verdict: &str, what: &str| {
        findings.iter().any(|f| f["verdict"] == verdict && f["what"].as_str().is_some_and(|text| text.contains(what)))
    };
    assert!(has("good", "holds a repository") && has("good", "roster 1") && has("warning", "holds the root"));
    std::fs::remove_file(place.path("keys/writer.key")).expect("removed");
    let bad = place.run(&["doctor"]);
    assert_eq!(bad.code, 1);
    assert!(bad.out.contains("writerKeyFile") && bad.out.contains("is missing"), "{}", bad.out);
}

#[test]
fn secrets_are_exported_only_by_who_can_read() {
    let place = place();
    place.run(&["init"]).good();
    assert!(place.run(&["key", "export"]).good().out.contains("\"secrets\""));
    assert!(place.run(&["key", "export", "--sheet"]).good().out.contains("LIFEBOAT RECOVERY SHEET"));
    let said = place.caller.run(&["key", "export", "--identity", "keys/writer.key"]);
    assert_eq!((said.code, said.out.as_str()), (12, ""), "{said:?}");
}
