//! `doctor`: connects, and looks for what a backup needs.

use lifeboat_model::flow::RunContext;
use lifeboat_model::words::counted;

use super::PostgresConfig;
use super::backup::{Facts, choose_databases, closed_databases};
use super::client::{MAY_READ_ALL, MAY_READ_LARGE_OBJECTS, SEES_ALL_ROWS, Server, Session, literals};
use super::tool::Tools;
use super::{sql, swap};
use crate::{Finding, SourceError, Verdict};

/// How many names a finding lists.
const NAMES_SHOWN: usize = 20;

/// One line for each thing that was looked at.
pub(super) async fn look(config: &PostgresConfig, server: &Server, ctx: &RunContext) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut tell = |verdict, what: String, hint: Option<String>| findings.push(Finding { verdict, what, hint });
    let session = match server.connect(&server.url.database).await {
        Ok(session) => session,
        Err(error) => return vec![bad(&error)],
    };
    let facts = match Facts::of(&session).await {
        Ok(facts) => facts,
        Err(error) => return vec![bad(&error)],
    };
    tell(Verdict::Good, format!("PostgreSQL {} answers at {}", facts.version, server.url), None);
    match Tools::find(facts.major, &config.tool_dirs, &ctx.cancel).await {
        Ok(tools) => tell(Verdict::Good, format!("pg_dump {} in {}", tools.major, tools.bin.display()), None),
        Err(error) => tell(Verdict::Bad, error.to_string(), error.hint().map(str::to_owned)),
    }
    let tls = "SELECT coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl \
        WHERE pid = pg_catalog.pg_backend_pid()), false)::text";
    if let Ok(tls) = session.text(tls, "looking at the connection").await {
        let local = server.url.is_socket() || ["127.0.0.1", "::1", "localhost"].contains(&server.url.host.as_str());
        match tls.as_str() {
            "true" => tell(Verdict::Good, "the connection is encrypted".to_owned(), None),
            _ if local => tell(Verdict::Good, "the connection stays on this machine".to_owned(), None),
            _ => {
                let hint = Some("add ?sslmode=verify-full&sslrootcert=FILE to the url".to_owned());
                tell(Verdict::Warning, "the connection is not encrypted".to_owned(), hint);
            }
        }
    }
    match choose_databases(config, &session, ctx).await {
        Ok(databases) => {
            let names = literals(databases.iter().take(NAMES_SHOWN));
            tell(Verdict::Good, format!("{} to back up: {names}", counted(databases.len() as u64, "database")), None);
            match rights(server, &session, &databases).await {
                Ok(mut found) => findings.append(&mut found),
                Err(error) => findings.push(bad(&error)),
            }
        }
        Err(error) => findings.push(bad(&error)),
    }
    match closed_databases(&session).await {
        Ok(names) => findings.extend(names.into_iter().map(|name| Finding {
            verdict: Verdict::Warning,
            what: format!("database {name:?} allows no connections (datallowconn is false): no backup has it"),
            hint: Some(format!("ALTER DATABASE {} ALLOW_CONNECTIONS true, or drop it", sql::ident(&name))),
        })),
        Err(error) => findings.push(bad(&error)),
    }
    match left_by_restores(&session).await {
        Ok(mut found) => findings.append(&mut found),
        Err(error) => findings.push(bad(&error)),
    }
    session.close().await;
    findings
}

/// Databases that a restore made, which no longer runs.
async fn left_by_restores(session: &Session) -> Result<Vec<Finding>, SourceError> {
    let left = swap::leftovers(session).await?;
    if left.is_empty() || swap::restore_runs(session).await? {
        return Ok(Vec::new());
    }
    let finding = |swap::Leftover { name, marked }| {
        let drop = format!("DROP DATABASE {}", sql::ident(&name));
        let (what, hint) = if marked {
            let what = format!("database {name:?} was left by a restore that was ended in the middle");
            (what, format!("the next restore to this server removes it; so does {drop}"))
        } else {
            let what = format!("database {name:?} is named like one that a restore makes, but bears no mark of it");
            (what, format!("no backup takes it and no restore removes it; if it is nobody's: {drop}"))
        };
        Finding { verdict: Verdict::Warning, what, hint: Some(hint) }
    };
    Ok(left.into_iter().map(finding).collect())
}

fn bad(error: &SourceError) -> Finding {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Finding { verdict: Verdict::Bad, what: format!("{error}{cause}"), hint: error.hint().map(str::to_owned) }
}

/// Whether the role may read what `databases` hold.
async fn rights(server: &Server, session: &Session, databases: &[String]) -> Result<Vec<Finding>, SourceError> {
    let user = &server.url.user;
    let query = "SELECT rolsuper::text FROM pg_catalog.pg_roles WHERE rolname = current_user";
    if session.text(query, "looking at the role's rights").await? == "true" {
        return Ok(vec![Finding { verdict: Verdict::Good, what: format!("role {user:?} is superuser"), hint: None }]);
    }
    let (mut findings, mut all_readable) = (Vec::new(), true);
    for database in databases {
        let session = match server.connect(database).await {
            Ok(session) => session,
            Err(error) => {
                all_readable = false;
                findings.push(bad(&error));
                continue;
            }
        };
        for (query, complaint, hint) in [
            (UNREADABLE, "may not read", MAY_READ_ALL),
            (FILTERED, "sees only some rows, by row-level security, of", SEES_ALL_ROWS),
            (UNREADABLE_LARGE_OBJECTS, "may not read", MAY_READ_LARGE_OBJECTS),
        ] {
            let rows = session.rows(query, "looking at the role's rights").await?;
            let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            if let Some((first, others)) = names.split_first() {
                all_readable = false;
                let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
                let what = format!("role {user:?} {complaint} {first}{more} in database {database:?}");
                let hint =
                    Some(hint.replace("TO it", &format!("TO {user:?}")).replace("ROLE it", &format!("ROLE {user:?}")));
                findings.push(Finding { verdict: Verdict::Bad, what, hint });
            }
        }
        session.close().await;
    }
    if all_readable {
        let what = format!("role {user:?} reads all tables and large objects");
        findings.push(Finding { verdict: Verdict::Good, what, hint: None });
    }
    Ok(findings)
}

/// What a backup reads and this role may not: schemas, tables, sequences.
const UNREADABLE: &str = "SELECT CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
        THEN pg_catalog.format('schema %I', n.nspname) ELSE pg_catalog.format('%s %I.%I', \
          CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, n.nspname, c.relname) END \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' \
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
      AND NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND CASE c.relkind \
        WHEN 'S' THEN pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
        ELSE pg_catalog.has_table_privilege(c.oid, 'SELECT') END) \
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
        AND d.objid = c.oid AND d.deptype = 'e') \
    GROUP BY 1 ORDER BY 1";

/// Large objects that this role may not read, as one.
const UNREADABLE_LARGE_OBJECTS: &str = "SELECT CASE count(*) WHEN 1 THEN 'large object ' ELSE count(*) || ' large objects, such as ' END \
        || pg_catalog.min(m.oid) \
    FROM pg_catalog.pg_largeobject_metadata m \
    WHERE NOT pg_catalog.pg_has_role(m.lomowner, 'USAGE') AND pg_catalog.current_setting('lo_compat_privileges') = 'off' \
      AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a WHERE a.privilege_type = 'SELECT' \
        AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE'))) \
    HAVING count(*) > 0";

/// Tables that would give this role only some of their rows.
const FILTERED: &str = "SELECT pg_catalog.format('table %I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relrowsecurity AND pg_catalog.row_security_active(c.oid) ORDER BY 1";
