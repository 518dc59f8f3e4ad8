//! What a person is told when something is not as it should be: what, where, why, and what to try;
//! and what a script is told, always in one shape.

use crate::harness::{CONFIG, Place};

/// What is typed, the exit code, what standard error has to tell.
type Case<'a> = (&'a [&'a str], i32, &'a [&'a str]);

#[track_caller]
fn told(place: &Place, cases: &[Case<'_>]) {
    for (args, code, words) in cases {
        let said = place.run(args);
        assert_eq!(said.code, *code, "{args:?}: {said:#?}");
        for word in *words {
            assert!(said.err.contains(word), "{args:?} does not tell {word:?}:\n{}", said.err);
        }
        assert!(said.err.contains("\nhint: "), "{args:?} tells no hint:\n{}", said.err);
        assert!(!said.err.contains("  in "), "an empty name is told:\n{}", said.err);
    }
}

#[test]
fn before_init_every_command_names_what_is_missing_and_leads_to_init() {
    let place = Place::with_config(CONFIG);
    place.write("documents/letter.txt", "dear registrar\n");
    let (url, writer) = (format!("file://{}", place.text("repository")), place.text("keys/writer.key"));
    let (identity, maintainer) = (place.text("keys/identity.key"), place.text("keys/maintainer.key"));
    let both = |key| [&*url, key, "main is not initialised", "hint: `lifeboat init` makes both"];
    let url_only = [&*url, "main is not initialised", "`lifeboat init` makes a repository where"];
    let cases: &[Case<'_>] = &[
        (&["backup"], 10, &both(&writer)),
        (&["snapshots"], 10, &both(&writer)),
        (&["check"], 10, &both(&writer)),
        (&["ls", "documents"], 10, &both(&identity)),
        (&["cat", "documents:a"], 10, &both(&identity)),
        (&["restore", "documents", "--to", "x", "--yes"], 10, &both(&identity)),
        (&["verify", "documents"], 10, &both(&identity)),
        (&["forget", "--yes"], 10, &both(&maintainer)),
        (&["prune", "--yes"], 10, &both(&maintainer)),
        (&["hold", "documents@latest"], 10, &both(&maintainer)),
        (&["key", "generate", "writer", "--out", "w"], 10, &url_only),
    ];
    told(&place, cases);
    let doctor = place.run(&["doctor"]).expect(1);
    assert!(doctor.out.contains("main is not initialised") && doctor.out.contains("`lifeboat init`"), "{doctor:?}");
    // The repository is there, and one key is not.
    place.run(&["init"]).good();
    for (key, args) in
        [(&writer, &["backup"] as &[&str]), (&identity, &["ls", "documents"]), (&maintainer, &["prune", "--yes"])]
    {
        std::fs::rename(key, place.path("aside")).unwrap();
        told(&place, &[(args, 12, &[key, "not initialised for the repository main", "`lifeboat init`"])]);
        std::fs::rename(place.path("aside"), key).unwrap();
    }
}

#[test]
fn a_key_that_waits_for_its_grant_says_who_has_to_do_what() {
    let owner = Place::with_config(CONFIG);
    owner.run(&["init"]).good();
    let config = CONFIG
        .replace("${HOME}/repository", &owner.text("repository"))
        .replace("    maintainerKeyFile: keys/maintainer.key\n    identityFile: keys/identity.key\n", "");
    let host = Place::with_config(&config);
    host.write("documents/letter.txt", "dear registrar\n");
    host.run(&["init"]).good();
    let words: &[&str] = &["writer", "owner", "lifeboat key add", "lifeboat key accept GRANT"];
    told(&host, &[(&["key", "test", "keys/writer.key"], 12, words), (&["backup"], 12, words)]);
    let doctor = host.run(&["doctor"]).expect(1).out;
    assert!(doctor.contains("waits for the owner's grant") && doctor.contains("lifeboat key accept"), "{doctor}");
    // What is asked without a terminal names what there is, and no flag that there is not.
    let request = host.text("keys/writer.key.request");
    let removed: String = owner.json(&["key", "test", "keys/writer.key"])["keys"][0]["key"].as_str().unwrap().into();
    for args in [&["key", "add", &request] as &[&str], &["-q", "key", "add", &request], &["key", "remove", &removed]] {
        let said = owner.run(args).expect(2);
        assert!(said.err.contains("--yes") && !said.err.contains("--dry-run"), "{args:?}: {}", said.err);
        assert!(said.err.contains("fingerprint") || said.err.contains("off the roster"), "{args:?}: {}", said.err);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_may_be() {
    let place = Place::backed_up();
    place.write("taken", "mine\n");
    let url = format!("file://{}", place.text("repository"));
    let nowhere = format!("file://{}", place.text("nowhere"));
    let known = "there is documents";
    told(
        &place,
        &[
            (&["snapshots", "nosuch"], 2, &["no", "source nosuch", known]),
            (&["snapshots", "documents", "docments"], 2, &["docments", "did you mean documents?"]),
            (&["snapshots", "other/documents"], 2, &["source other/documents"]),
            (&["backup", "document"], 2, &["no source document", "did you mean documents?"]),
            (&["forget", "nosuch", "--dry-run"], 2, &["no source nosuch", known]),
            (&["snapshots", "--from", "mian"], 2, &["no repository mian", "did you mean main?"]),
            (&["restore", "nosuch", "--to", "out"], 2, &["\"nosuch\"", "farajaland/documents"]),
            (&["ls", "nosuch"], 2, &["\"nosuch\""]),
            (&["verify", "nosuch"], 2, &["\"nosuch\""]),
            (&["hold", "nosuch@latest"], 2, &["\"nosuch@latest\""]),
            (&["ls", "documents@2020-01-01"], 2, &[" +02:00 \"first\""]),
            (&["forget", "documents@first"], 2, &["names one snapshot", "retentionPolicy", "lifeboat hold"]),
            (&["init", "--identity", "new.key"], 2, &["there already", "new.key was not written"]),
            (&["restore", "documents", "--to", "out", "--only", "a/b.c"], 2, &["a/b.c", "restore to a server only"]),
            (&["ls", "documents", "--passphrase-file", "nowhere"], 12, &["the passphrase file nowhere", "mounted"]),
            (&["ls", "documents", "--passphrase-file", "taken"], 12, &["every user", "mode 644", "chmod 600"]),
            (&["init", "--repository", "mian"], 2, &["no repository mian", "did you mean main?"]),
            (&["--config", "/nonexistent.yaml", "snapshots"], 2, &["/nonexistent.yaml", "--config"]),
            (&["key", "add", "/nonexistent"], 2, &["the request /nonexistent cannot be read", "No such file"]),
            (&["key", "accept", "/nonexistent"], 2, &["the grant /nonexistent cannot be read"]),
            (&["init", "--grant", "/nonexistent"], 2, &["the grant /nonexistent cannot be read"]),
            (
                &["recover", &url, "--identity", "keys/identity.key", "--write-config", "taken"],
                2,
                &["taken exists already", "another path"],
            ),
            (&["recover", &nowhere, "--identity", "keys/identity.key"], 10, &[&nowhere, "check the URL"]),
            (&["recover", &url, "--identity", "nowhere.key"], 12, &["nowhere.key", "mounted"]),
            (&["recover", &url, "--identity", "keys/identity.key", "--stack", "faraja"], 2, &["mean farajaland?"]),
            (&["key", "test", "keys/writer.key", "--url", &nowhere], 10, &[&nowhere]),
        ],
    );
    let said = place.run(&["recover", &nowhere, "--identity", "keys/identity.key"]);
    assert!(!said.err.contains("init") && !said.err.contains("\"recover\""), "{}", said.err);
    assert_eq!(place.json(&["snapshots", "farajaland/documents"])["snapshots"].as_array().unwrap().len(), 1);
    let doctor = place.run(&["doctor"]).good().out;
    assert!(doctor.contains("key generate identity --out FILE --identity /"), "{doctor}");
    assert!(doctor.contains(", 1 source\n") && !place.run(&["--help"]).good().out.contains("  20  "), "{doctor}");
    std::fs::remove_dir_all(place.path("documents")).unwrap();
    assert!(place.json(&["snapshots", "documents"])["snapshots"][0]["id"].is_string());
}

#[test]
fn every_json_is_one_object_with_the_version_and_a_list_under_its_noun() {
    let place = Place::backed_up();
    place.run(&["backup", "--label", "second"]).good();
    let url = format!("file://{}", place.text("repository"));
    let letter = format!("documents:{}", place.text("documents/letter.txt"));
    let cases: &[(&[&str], &str, usize)] = &[
        (&["init"], "repositories", 1),
        (&["doctor"], "findings", 5),
        (&["backup", "--label", "third"], "backups", 1),
        (&["snapshots"], "snapshots", 3),
        (&["ls", &letter], "entries", 1),
        (&["restore", "documents", "--to", "out", "--dry-run"], "restores", 1),
        (&["restore", "documents", "--to", "out"], "restores", 1),
        (&["verify", "documents", "--to", "out"], "verifications", 1),
        (&["check"], "checks", 1),
        (&["hold", "documents@first"], "holds", 1),
        (&["forget", "--dry-run"], "forgets", 1),
        (&["forget", "--yes"], "forgets", 1),
        (&["prune", "--dry-run"], "prunes", 1),
        (&["prune", "--yes"], "prunes", 1),
        (&["recover", &url, "--identity", "keys/identity.key"], "stacks", 1),
        (&["key", "test", "keys/writer.key"], "keys", 1),
        (&["key", "generate", "writer", "--out", "w"], "keys", 1),
        (&["key", "generate", "maintainer", "--out", "m", "--identity", "keys/identity.key"], "keys", 1),
        (&["key", "add", "w.request", "--yes"], "keys", 1),
        (&["key", "export"], "exports", 1),
        (&["key", "export", "--sheet"], "exports", 1),
        (&["config", "show"], "configurations", 1),
        (&["config", "schema"], "schemas", 1),
        (&["completions", "bash"], "completions", 1),
    ];
    for (args, noun, least) in cases {
        let value = place.json(args);
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(2), "{args:?}: {value}");
        let list = value[noun].as_array();
        assert!(list.is_some_and(|list| list.len() >= *least), "{args:?}: {value}");
        assert!(list.unwrap().iter().all(serde_json::Value::is_object), "{args:?}: {value}");
    }
}

#[test]
fn a_prune_tells_when_what_it_marked_can_go_in_the_configured_zone() {
    let place = Place::backed_up();
    place.write("documents/letter.txt", &"another letter\n".repeat(10_000));
    place.run(&["backup", "--label", "second"]).good();
    let nothing = place.run(&["prune", "--yes"]).good().out;
    assert!(!nothing.contains("after") && !nothing.contains("waits"), "nothing is marked:\n{nothing}");
    place.run(&["forget", "--yes"]).good();
    let plan = place.run(&["prune", "--dry-run"]).good();
    assert!(plan.out.contains("would delete 0 objects") && plan.out.contains("first prune after"), "{}", plan.out);
    let asked = place.run(&["prune"]).expect(2);
    assert!(asked.err.contains("first prune after 20"), "{}", asked.err);
    let marked = place.run(&["prune", "--yes"]).good();
    assert!(marked.out.contains("first prune after"), "{}", marked.out);
    assert!(!marked.out.contains("(0 B), repacked"), "a root has a length: {}", marked.out);
    assert!(marked.out.contains("that nothing needs are too young for a mark"), "{}", marked.out);
    let waiting = place.run(&["prune", "--yes"]).good();
    assert!(waiting.out.contains("waits: what was marked before"), "{}", waiting.out);
    assert!(!waiting.out.contains("first prune after"), "nothing more was marked:\n{}", waiting.out);
    for said in [&plan.out, &marked.out, &waiting.out] {
        let time = said.find(" 20").and_then(|at| said.get(at + 1..at + 27)).unwrap();
        assert!(time.ends_with(" +02:00"), "not to the second in Africa/Lusaka: {time}\n{said}");
    }
    let prune = &place.json(&["prune", "--dry-run"])["prunes"][0];
    assert_eq!(prune["waits"].as_array().map(Vec::len), Some(1));
    assert!(prune["can_go_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{prune}");
    let listed = place.run(&["ls", "-R", "documents"]).good().out;
    // Nothing is recorded of when the directories above changed.
    let mut below = listed.lines().filter(|line| line.contains("/documents"));
    assert!(below.all(|line| line.contains(" +02:00 ")), "{listed}");
}

#[test]
fn quiet_is_quiet_and_verbose_tells_the_steps() {
    let place = Place::backed_up();
    let quiet = place.run(&["-q", "restore", "documents", "--to", "out"]).good();
    assert!(quiet.err.lines().all(|line| line.starts_with("warning: ")), "{}", quiet.err);
    let dry = place.run(&["-q", "restore", "documents", "--to", "elsewhere", "--dry-run"]).good();
    assert!(dry.out.contains("write 2 files") && !dry.err.contains("write"), "the plan was asked for: {dry:?}");
    let asked = place.run(&["-q", "restore", "documents", "--to", "origin", "--replace"]).expect(2);
    assert!(asked.err.contains("restore") && asked.err.contains("needs"), "what it asks about: {asked:?}");
    let plain = place.run(&["backup"]).good();
    let verbose = place.run(&["-v", "backup"]).good();
    for step in ["opening the repository main", "reaching the source", "reading it", "sealed as"] {
        let told = verbose.err.lines().any(|line| line.starts_with("farajaland/documents: ") && line.contains(step));
        assert!(told && !plain.err.contains(step), "{step}: {}", verbose.err);
    }
    let json = place.run(&["-v", "--json", "backup"]).good();
    assert!(json.err.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "{}", json.err);
}
