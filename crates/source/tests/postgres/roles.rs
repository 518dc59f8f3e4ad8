//! Roles that are there: what a plan says of them, what a restore alters and what it keeps.

use lifeboat_source::postgres::{PostgresConfig, PostgresTarget};
use lifeboat_source::{RestoreOptions, Target, TargetInventory};
use lifeboat_testkit::context::run_context;
use lifeboat_testkit::postgres::PostgresServer;
use lifeboat_testkit::snapshot::FakeSnapshot;

use crate::fixture::{back_up, config, fill};
use crate::restore::{only, replacing, restore, roles};

async fn look(server: &PostgresServer, snapshot: &FakeSnapshot, options: &RestoreOptions) -> TargetInventory {
    let target = PostgresTarget::new(config(server)).expect("good");
    let inventory = target.inventory(snapshot, options).await.expect("looked at");
    assert!(!format!("{inventory:?}").contains("SCRAM"), "{inventory:?}");
    inventory
}

const KEPT_READER: &str =
    "role \"reader\" is kept as it is; in the snapshot it has NOCREATEDB, NOLOGIN, another comment";
const ALTERED: [&str; 2] = [
    "role \"app\": CONNECTION LIMIT 7, VALID UNTIL '2040-01-01 00:00:00+00', another password, setting work_mem, \
     membership in \"reader\", administration of \"reader\"",
    "role \"reader\": NOCREATEDB, NOLOGIN, another comment",
];

#[tokio::test]
async fn roles_that_are_there_are_altered_only_when_told_to_and_named_before() {
    let test = "roles_that_are_there_are_altered_only";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let other = PostgresServer::start(test, 15).expect("the same");
    other.sql("postgres", "CREATE ROLE reader LOGIN CREATEDB; CREATE ROLE app LOGIN PASSWORD 'mine'; CREATE ROLE more");
    let hash = || other.sql("postgres", "SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'");
    let (own, before) = (hash(), roles(&other));

    let plan = look(&other, &snapshot, &RestoreOptions::default()).await;
    assert_eq!(plan.alters_count, 0, "{plan:?}");
    let said = |plan: &TargetInventory, line: &str| plan.steps.iter().any(|step| step.contains(line));
    assert!(said(&plan, "make 1 missing role (\"Odd \\\"role\\\" ä; --\")"), "{plan:?}");
    let own_line = "role \"postgres\", which restores, is kept as it is; in the snapshot it has another password";
    assert!(said(&plan, KEPT_READER) && said(&plan, "role \"app\" is kept") && said(&plan, own_line), "{plan:?}");

    // Who asks for one database is told, and gets no problem of it.
    let restored = restore(&other, &snapshot, &only(&["small"])).await.expect("restored");
    assert_eq!(restored.problems, [""; 0]);
    other.sql("postgres", "DROP DATABASE small");
    let restored = restore(&other, &snapshot, &RestoreOptions::default()).await.expect("restored");
    assert_eq!(restored.problems.len(), 2, "{:?}", restored.problems);
    assert!(restored.problems.contains(&KEPT_READER.to_owned()), "{:?}", restored.problems);
    let kept = |all: String| all.lines().filter(|l| l.contains(" app") || l.contains(" reader")).collect::<String>();
    assert_eq!(kept(roles(&other)), kept(before));

    let plan = look(&other, &snapshot, &replacing()).await;
    assert_eq!((plan.alters.as_slice(), plan.alters_count), (ALTERED.map(str::to_owned).as_slice(), 2));
    assert!(said(&plan, own_line), "{plan:?}");
    let restored = restore(&other, &snapshot, &replacing()).await.expect("replaced");
    assert_eq!(restored.problems, [""; 0]);
    let shared =
        |all: String| all.lines().filter(|l| !l.contains(" postgres") && !l.contains(" more")).collect::<String>();
    assert_eq!(shared(roles(&other)), shared(roles(&server)));
    assert_eq!(hash(), own, "the role that restores keeps its password");
    assert_eq!(look(&other, &snapshot, &replacing()).await.alters, [""; 0], "everything is as it was");
}

#[tokio::test]
async fn a_membership_of_a_role_that_comes_back_is_named_and_comes_back_too() {
    let test = "a_membership_of_a_role_that_comes_back";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    fill(&server);
    let snapshot = back_up(config(&server)).await.expect("a backup");
    let other = PostgresServer::start(test, 15).expect("the same");
    other.sql("postgres", "CREATE ROLE app LOGIN");
    let plan = look(&other, &snapshot, &RestoreOptions::default()).await;
    let line = "role \"app\" becomes a member of \"reader\" again";
    assert!(plan.steps.iter().any(|step| step == line), "{plan:?}");
    restore(&other, &snapshot, &RestoreOptions::default()).await.expect("restored");
    assert_eq!(other.sql("postgres", "SELECT pg_has_role('app', 'reader', 'MEMBER')"), "t");
}

#[tokio::test]
async fn a_role_that_may_not_give_objects_to_their_owners_is_told_before_anything_is_touched() {
    for server in crate::fixture::versions("a_role_that_may_not_give") {
        let test = "a_role_that_may_not_give";
        server.sql("postgres", "CREATE ROLE app; CREATE ROLE weak LOGIN; CREATE DATABASE events OWNER app");
        server.sql("events", "CREATE TABLE t (a int); ALTER TABLE t OWNER TO app; CREATE TABLE u (a int)");
        let snapshot = back_up(config(&server)).await.expect("a backup");
        let other = PostgresServer::start(test, server.major()).expect("the same");
        other.sql("postgres", "CREATE ROLE weak LOGIN; CREATE ROLE app LOGIN");
        let target = || {
            let url = other.url_of("weak", "x");
            PostgresTarget::new(PostgresConfig { url, ..config(&other) }).expect("good")
        };
        let told = async |options: &RestoreOptions| {
            let seen = target().inventory(&snapshot, options).await.expect("looked at");
            let lines = |all: Vec<lifeboat_source::Finding>| {
                all.into_iter().map(|one| (one.what, one.hint.expect("a hint"))).collect::<Vec<_>>()
            };
            (lines(seen.refusals), seen.alters)
        };
        let (refusals, _) = told(&only(&["events"])).await;
        assert_eq!(refusals.len(), 2, "PostgreSQL {}: {refusals:?}", server.major());
        assert!(refusals[0].0.contains("\"weak\" may not make databases"), "{refusals:?}");
        let belongs = "role \"weak\" may not restore database \"events\": objects of it belong to \"app\", \"postgres\", \
                       of which it is no member";
        assert_eq!(refusals[1].0, belongs);
        assert!(refusals[1].1.ends_with("GRANT \"app\", \"postgres\" TO \"weak\""), "{refusals:?}");

        // Of a part only its own owners count; what it may not alter no plan promises.
        other.sql("postgres", "ALTER ROLE weak CREATEDB; GRANT app TO weak");
        assert_eq!(told(&only(&["events/t"])).await.0, []);
        let (refusals, alters) = told(&replacing()).await;
        assert_eq!(alters, [""; 0], "it may not alter \"app\"");
        assert!(
            refusals.iter().any(|(what, _)| what.contains("may not replace database \"postgres\"")),
            "{refusals:?}"
        );
        let scratch = tempfile::tempdir().expect("a directory");
        target().apply(&snapshot, &only(&["events/t"]), &run_context(scratch.path())).await.expect("restored");
        let owner = "SELECT relowner::regrole FROM pg_class WHERE oid = 't'::regclass";
        assert_eq!(other.sql("events", owner), "app");
        // A role that the restore makes is not its member either.
        other.sql("postgres", "DROP DATABASE events; DROP ROLE app; ALTER ROLE weak CREATEROLE");
        let (refusals, _) = told(&only(&["events"])).await;
        assert!(refusals.iter().any(|(what, _)| what == belongs), "{refusals:?}");
    }
}

#[tokio::test]
async fn what_a_role_may_not_restore_is_told_once_with_names() {
    let test = "what_a_role_may_not_restore";
    let Some(server) = PostgresServer::start(test, 15) else { return };
    server.sql(
        "postgres",
        "CREATE ROLE weak LOGIN CREATEDB CREATEROLE; CREATE ROLE chief SUPERUSER; CREATE ROLE a LOGIN PASSWORD 'a secret';
         CREATE ROLE b REPLICATION; CREATE ROLE c BYPASSRLS; CREATE ROLE d; GRANT chief TO d;
         ALTER ROLE a SET log_statement = 'all'; ALTER ROLE b SET log_statement = 'all'; ALTER ROLE c SET log_statement = 'all';
         CREATE DATABASE mine OWNER weak",
    );
    server.try_sql("weak", "", "mine", "CREATE TABLE t AS SELECT 1 AS a").expect("made");
    let config = |server: &PostgresServer| PostgresConfig {
        url: server.url_of("weak", "x"),
        databases: Some(vec!["mine".to_owned()]),
        ..config(server)
    };
    let snapshot = back_up(PostgresConfig { url: server.url(), ..config(&server) }).await.expect("a backup");
    let other = PostgresServer::start(test, 15).expect("the same");
    other.sql("postgres", "CREATE ROLE weak LOGIN CREATEDB CREATEROLE");
    let scratch = tempfile::tempdir().expect("a directory");
    let target = PostgresTarget::new(config(&other)).expect("good");
    let options = RestoreOptions::default();
    let restored = target.apply(&snapshot, &options, &run_context(scratch.path())).await.expect("restored");
    let expected = "role \"weak\" may not restore 6 things, which are not as they were: role \"b\", role \"c\", \
                    role \"chief\", setting log_statement of role \"a\", setting log_statement of role \"b\" \
                    and 1 more; a superuser may";
    assert_eq!(restored.problems, [expected]);
    assert_eq!(other.sql("mine", "SELECT a FROM t"), "1");
    // What it may is done, though pg_dumpall writes it beside what it may not.
    other.sql(
        "postgres",
        "SELECT 1 / count(*) FROM pg_authid WHERE rolname = 'a' AND rolcanlogin AND rolpassword IS NOT NULL",
    );
}
