//! Finding, reading and showing the configuration.

use crate::harness::Place;

const CONFIG: &str = r#"stack: farajaland
role: both
timeZone: Africa/Lusaka
repositories:
  main:
    url: file:///srv/lifeboat
    identityFile: keys/identity.key
    retentionPolicy: { keepDaily: 7, window: 30d }
sources:
  documents:
    kind: files
    paths: [/srv/documents]
    schedule: "0 1 * * *"
  registry:
    kind: postgres
    url: postgres://backup:${SECRET}@127.0.0.1:5432/
"#;

#[test]
fn show_fills_in_defaults_and_next_runs_and_hides_secrets() {
    let place = Place::with_config(CONFIG);
    let said = place.caller.env("SECRET", "sesame").env("PGPASSWORD", "sesame").run(&["config", "show"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.err.contains("warning: role: both"), "{}", said.err);
    for line in [
        "url: postgres://backup:***@127.0.0.1:5432/",
        "retentionPolicy: window 30d, daily 7",
        "scheduleInWords: At 01:00",
        "01:00:00 +02:00",
        "memoryBudget: 256.0 MiB",
        "environment variable SECRET, for sources.registry.url",
        "environment variable PGPASSWORD, for sources of kind postgres",
    ] {
        assert!(said.out.contains(line), "{line} is missing:\n{}", said.out);
    }
    assert!(!said.out.contains("sesame") && !said.err.contains("sesame"));

    let json = place.caller.env("SECRET", "sesame").run(&["config", "show", "--json"]).good();
    let object: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(object["schema_version"], 1);
    assert_eq!(object["configurations"][0]["sources"]["documents"]["nextRuns"].as_array().map(Vec::len), Some(3));
    assert_eq!(object["configurations"][0]["stateDir"], place.path("state").to_str().expect("UTF-8"));
}

#[test]
fn a_wrong_key_is_shown_with_its_place() {
    let place = Place::with_config(&CONFIG.replace("paths:", "path:"));
    let said = place.caller.env("SECRET", "x").run(&["backup"]);
    assert_eq!(said.code, 2);
    assert_eq!(
        said.err,
        "error: lifeboat.yaml:12:5: unknown key `path`\n   |\n12 |     path: [/srv/documents]\n   |     ^^^^\n\
         hint: did you mean `paths`?\n"
    );
}

#[test]
fn the_file_is_named_by_flag_or_variable_or_found_at_the_usual_place() {
    let place = Place::new();
    let nowhere = place.run(&["config", "show"]);
    if !std::path::Path::new("/etc/lifeboat/lifeboat.yaml").exists() {
        assert_eq!(nowhere.code, 2);
        assert!(nowhere.err.contains("lifeboat.yaml and /etc/lifeboat/lifeboat.yaml not found"), "{nowhere:?}");
    }
    place.write(
        "else/where.yaml",
        "stack: there\nrole: backup\nrepositories: {m: {url: 'file:///a', writerKeyFile: w}}\n",
    );
    let shown = place.run(&["config", "show", "--config", "else/where.yaml"]).good().out;
    assert!(shown.contains(&format!("writerKeyFile: {}", place.path("else/w").display())), "{shown}");
    let by_variable = place.caller.env("LIFEBOAT_CONFIG", "else/where.yaml").run(&["config", "show"]).good();
    assert_eq!(by_variable.out, shown);
    let missing = place.run(&["config", "show", "--config", "no.yaml"]);
    assert_eq!(missing.code, 2);
    assert!(missing.err.contains("no.yaml cannot be read"), "{missing:?}");
}

#[test]
fn the_schema_is_a_json_document() {
    let said = Place::new().run(&["config", "schema"]).good();
    let schema: serde_json::Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(schema["title"], "lifeboat.yaml");
}
