//! Temporary databases, and how one takes the place of another.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::client::{Server, Session, failure};
use super::done::Done;
use super::layout::{TEMPORARY, is_temporary};
use super::restore::Work;
use super::sql::{ident, literal};
use crate::SourceError;

/// What the comment of a database begins with that a restore may drop.
const MARK: &str = "lifeboat: ";
/// PostgreSQL cuts names at this length.
const NAME_BYTES_MAX: usize = 63;
/// The lock that says that a restore runs on a server: `life` and `boat` in ASCII.
const RESTORE_LOCK: &str = "1818846821, 1651466612";
/// How many names of things in the way are read.
const NAMES_MAX: usize = 10_000;
/// Objects with a lower number are made by `initdb`.
const FIRST_OF_USERS: u32 = 16384;
/// The catalogs of what can be in a database and is neither a relation nor a part of one.
const OTHERS: [&str; 21] = [
    "pg_namespace",
    "pg_extension",
    "pg_proc",
    "pg_type",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_cast",
    "pg_publication",
    "pg_event_trigger",
    "pg_operator",
    "pg_opfamily",
    "pg_opclass",
    "pg_collation",
    "pg_conversion",
    "pg_language",
    "pg_am",
    "pg_transform",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_ts_parser",
    "pg_ts_template",
];
/// How often the rename is tried while clients connect again and again.
const RENAME_ATTEMPTS: usize = 5;

/// Makes sure that no other restore works on this server, and removes what a killed one left. The
/// lock holds as long as the session.
///
/// # Errors
/// [`SourceError::Failed`] where another restore runs.
pub(super) async fn begin(admin: &Session) -> Result<(), SourceError> {
    let query = format!("SELECT pg_catalog.pg_try_advisory_lock({RESTORE_LOCK})::text");
    // Of two that begin together both may see the other one; then neither goes on.
    let locked = admin.text(&query, "locking the server for a restore").await? == "true";
    if !locked || restore_runs(admin).await? {
        return Err(SourceError::Failed {
            what: "another restore to this server is running".to_owned(),
            hint: Some("wait until it has ended".to_owned()),
            source: None,
        });
    }
    for left in leftovers(admin).await? {
        if left.marked {
            drop_database(admin, &left.name).await?;
        }
    }
    Ok(())
}

/// Whether another session restores to this server. The lock itself holds within one database; the list
/// of locks is of all of them.
pub(super) async fn restore_runs(session: &Session) -> Result<bool, SourceError> {
    let query = format!(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted \
           AND (classid::int8, objid::int8) = ({RESTORE_LOCK}) AND objsubid = 2 \
           AND pid <> pg_catalog.pg_backend_pid())::text"
    );
    Ok(session.text(&query, "looking for another restore").await? == "true")
}

/// A database that is named like one that a restore makes before it gives it its place.
pub(super) struct Leftover {
    pub(super) name: String,
    /// Whether its comment says that a restore made it or put it aside: what may be dropped where none
    /// runs.
    pub(super) marked: bool,
}

/// What restores that were ended in the middle left, and what looks like it.
pub(super) async fn leftovers(session: &Session) -> Result<Vec<Leftover>, SourceError> {
    let query = format!(
        "SELECT datname::text, coalesce(pg_catalog.shobj_description(oid, 'pg_database') LIKE {}, false) \
         FROM pg_catalog.pg_database ORDER BY 1",
        literal(&format!("{MARK}%"))
    );
    let rows = session.rows(&query, "looking for what a killed restore left").await?;
    let all = rows.iter().map(|row| Leftover { name: row.get(0), marked: row.get(1) });
    Ok(all.filter(|left| is_temporary(&left.name)).collect())
}

/// The names of all databases.
pub(super) async fn databases(admin: &Session) -> Result<BTreeSet<String>, SourceError> {
    let rows = admin.rows("SELECT datname::text FROM pg_catalog.pg_database", "listing the databases").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The extensions that databases of the server can have.
pub(super) async fn extensions(admin: &Session) -> Result<BTreeSet<String>, SourceError> {
    let rows =
        admin.rows("SELECT name::text FROM pg_catalog.pg_available_extensions", "listing the extensions").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The relations of users in a database, and its large objects as one.
pub(super) async fn tables(session: &Session) -> Result<Vec<String>, SourceError> {
    let query = format!(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
          WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_' \
            AND n.nspname <> 'information_schema' AND NOT EXISTS ( \
              SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                 AND d.objid = c.oid AND d.deptype = 'e') \
          UNION ALL SELECT 'large objects' WHERE EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata) \
          ORDER BY 1 LIMIT {NAMES_MAX}"
    );
    let rows = session.rows(&query, "looking for tables").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What else of users a database holds: schemas, functions, types, servers and the like, without what it
/// was made with from `template1` and what belongs to an extension that is named itself.
pub(super) async fn others(server: &Server, session: &Session) -> Result<Vec<String>, SourceError> {
    let mut found = objects(session).await?;
    // Who may not look into the template takes all for somebody's.
    if !found.is_empty()
        && let Ok(template) = server.connect("template1").await
    {
        template.prepare_exact_values().await?;
        let given = objects(&template).await?;
        template.close().await;
        found = found.difference(&given).cloned().collect();
    }
    Ok(found.into_iter().collect())
}

/// What is no relation and was not made by `initdb`, in words.
async fn objects(session: &Session) -> Result<BTreeSet<String>, SourceError> {
    let all: Vec<String> = OTHERS
        .iter()
        .map(|catalog| {
            format!("SELECT 'pg_catalog.{catalog}'::pg_catalog.regclass::oid, oid FROM pg_catalog.{catalog}")
        })
        .collect();
    let query = format!(
        "SELECT pg_catalog.pg_describe_object(o.classid, o.oid, 0) FROM ({}) o (classid, oid) \
          WHERE o.oid >= {FIRST_OF_USERS} AND NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n \
              WHERE n.oid = o.oid AND n.nspname ~ '^pg_(toast_)?temp_') \
            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d \
              WHERE d.classid = o.classid AND d.objid = o.oid AND d.deptype IN ('e', 'i')) \
          ORDER BY 1 LIMIT {NAMES_MAX}",
        all.join(" UNION ALL ")
    );
    let rows = session.rows(&query, "looking for objects of users").await?;
    Ok(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)).collect())
}

/// A name that no other database has, told from others by [`is_temporary`].
pub(super) fn temporary_name(of: &str) -> Result<String, SourceError> {
    let mut random = [0_u8; 6];
    getrandom::fill(&mut random).map_err(|error| SourceError::Failed {
        what: "the system gives no random numbers".to_owned(),
        hint: None,
        source: Some(error.to_string().into()),
    })?;
    let number = random.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let mut end = of.len().min(NAME_BYTES_MAX - TEMPORARY.len() - 2 * random.len());
    while !of.is_char_boundary(end) {
        end -= 1;
    }
    Ok(format!("{}{TEMPORARY}{number:012x}", &of[..end]))
}

/// Says in the comment of a database that a restore may drop it.
pub(super) async fn mark(admin: &Session, name: &str, why: &str) -> Result<(), SourceError> {
    let statement = format!("COMMENT ON DATABASE {} IS {}", ident(name), literal(&format!("{MARK}{why}")));
    admin.run(&statement, "marking a temporary database").await
}

/// Drops a temporary database, whoever is connected to it.
pub(super) async fn drop_database(admin: &Session, name: &str) -> Result<(), SourceError> {
    if !databases(admin).await?.contains(name) {
        return Ok(());
    }
    admin.run(&format!("ALTER DATABASE {} IS_TEMPLATE false", ident(name)), "releasing a database").await?;
    admin.run(&format!("DROP DATABASE {} WITH (FORCE)", ident(name)), "dropping a temporary database").await
}

/// Gives the temporary database the name `to`. What has that name now loses it in the same
/// transaction and is dropped after it. `comment` is the statement that sets the comment in the
/// end.
///
/// # Errors
/// [`SourceError::Failed`] where the names could not be changed; everything is as it was then.
pub(super) async fn place(
    work: &Work<'_>,
    temporary: &str,
    old: Option<&str>,
    to: &str,
    comment: Option<&str>,
    out: &mut Done,
) -> Result<(), SourceError> {
    let aside = temporary_name(to)?;
    let uncomment = format!("COMMENT ON DATABASE {} IS NULL", ident(to));
    let rename = |from: &str, to: &str| format!("ALTER DATABASE {} RENAME TO {}", ident(from), ident(to));
    let mut statements = vec!["BEGIN".to_owned()];
    if let Some(old) = old {
        statements.push(rename(old, &aside));
        let why = format!("{MARK}replaced by a restore");
        statements.push(format!("COMMENT ON DATABASE {} IS {}", ident(&aside), literal(&why)));
    }
    statements
        .extend([rename(temporary, to), comment.unwrap_or(&uncomment).trim_end().trim_end_matches(';').to_owned()]);
    statements.push("COMMIT".to_owned());
    rename_all(work, &statements.join("; "), [old, Some(temporary)]).await.map_err(|error| SourceError::Failed {
        what: format!("putting the restored database in the place of {to:?} failed"),
        hint: Some("clients may hold it: stop them, then run the restore again; nothing was replaced".to_owned()),
        source: Some(Box::new(error)),
    })?;
    if old.is_some()
        && let Err(error) = drop_database(work.admin, &aside).await
    {
        out.problems.push(format!("the replaced database is still there as {aside:?}: {error}"));
    }
    Ok(())
}

/// Runs the transaction while a second session ends those who are connected. Once the rename holds
/// its lock nobody new gets in.
async fn rename_all(work: &Work<'_>, transaction: &str, databases: [Option<&str>; 2]) -> Result<(), SourceError> {
    let second = work.server.connect(work.admin.database()).await?;
    let names = super::client::literals(databases.into_iter().flatten());
    let end_clients = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE datname IN ({names}) AND pid <> pg_catalog.pg_backend_pid()"
    );
    let mut attempt = 1;
    loop {
        second.run(&end_clients, "ending the clients of a database").await?;
        let renaming = work.admin.client().batch_execute(transaction);
        tokio::pin!(renaming);
        let renamed = loop {
            tokio::select! {
                renamed = &mut renaming => break renamed,
                () = tokio::time::sleep(Duration::from_millis(100)) => {
                    second.run(&end_clients, "ending the clients of a database").await?;
                }
            }
        };
        let Err(error) = renamed else { break };
        work.admin.run("ROLLBACK", "taking a rename back").await?;
        if attempt == RENAME_ATTEMPTS {
            return Err(failure("renaming the databases failed".to_owned(), None, error));
        }
        attempt += 1;
    }
    second.close().await;
    Ok(())
}

/// Room on the disk of the server, where it is this machine's and the role may know its directory.
pub(super) async fn free_bytes(admin: &Session, server: &Server) -> Option<u64> {
    let local = server.url.is_socket() || ["127.0.0.1", "::1", "localhost"].contains(&server.url.host.as_str());
    let directory = admin.text("SHOW data_directory", "asking for the data directory").await.ok()?;
    if !local || !Path::new(&directory).join("PG_VERSION").exists() {
        return None;
    }
    let disk = rustix::fs::statvfs(&directory).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_temporary_name_is_short_enough_and_known_as_one(of in ".{1,70}") {
            let name = temporary_name(&of).expect("a name");
            prop_assert!(name.len() <= NAME_BYTES_MAX && is_temporary(&name), "{name}");
            prop_assert!(!is_temporary(&of));
        }
    }
}
