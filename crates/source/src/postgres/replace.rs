//! Tables that parts of a database take the place of: which there are, who uses them, and how they go.

use super::client::{Session, failure};
use super::only::{RELATIONS, kind_in, name_of};
use super::sql::ident;
use super::toc::{Toc, TocEntry};
use crate::{Finding, SourceError, Verdict};

pub(super) fn quoted(entry: &TocEntry) -> String {
    let (schema, tag) = name_of(entry);
    if schema.is_empty() { ident(tag) } else { format!("{}.{}", ident(schema), ident(tag)) }
}

/// The relations of a selection, as an array of their names.
fn names(selected: &Toc) -> Vec<String> {
    selected.entries.iter().filter(|entry| kind_in(entry, &RELATIONS)).map(quoted).collect()
}

/// What a replacement would drop: the named relations that there are, and what goes with them.
const GONE: &str = "WITH RECURSIVE named AS (SELECT pg_catalog.to_regclass(name)::oid AS oid \
      FROM pg_catalog.unnest($1::text[]) name WHERE pg_catalog.to_regclass(name) IS NOT NULL), \
    gone AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM gone JOIN pg_catalog.pg_inherits i ON i.inhparent = gone.oid \
      JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relispartition) ";

/// The relations of a selection that are in the database already, and the partitions that would go
/// with them.
pub(super) async fn existing(session: &Session, selected: &Toc) -> Result<Vec<String>, SourceError> {
    let query = format!(
        "{GONE} SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) || CASE WHEN c.oid IN (SELECT oid FROM named) \
           THEN '' ELSE ' (a partition that is not selected)' END \
         FROM gone JOIN pg_catalog.pg_class c USING (oid) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         ORDER BY 1"
    );
    texts(session, &query, selected).await
}

async fn texts(session: &Session, query: &str, selected: &Toc) -> Result<Vec<String>, SourceError> {
    let rows = session.client().query(query, &[&names(selected)]).await;
    let rows = rows.map_err(|error| failure("looking at the tables that are there failed".to_owned(), None, error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What is not selected and depends on what a replacement would drop.
pub(super) async fn in_use(session: &Session, selected: &Toc) -> Result<Vec<Finding>, SourceError> {
    let query = format!(
        "{GONE}, held AS (SELECT d.classid, d.objid, d.refclassid, d.refobjid, CASE d.classid \
           WHEN 'pg_catalog.pg_rewrite'::pg_catalog.regclass THEN (SELECT ev_class FROM pg_catalog.pg_rewrite r WHERE r.oid = d.objid) \
           WHEN 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN (SELECT conrelid FROM pg_catalog.pg_constraint r WHERE r.oid = d.objid) \
           WHEN 'pg_catalog.pg_attrdef'::pg_catalog.regclass THEN (SELECT adrelid FROM pg_catalog.pg_attrdef r WHERE r.oid = d.objid) \
           WHEN 'pg_catalog.pg_policy'::pg_catalog.regclass THEN (SELECT polrelid FROM pg_catalog.pg_policy r WHERE r.oid = d.objid) \
           WHEN 'pg_catalog.pg_trigger'::pg_catalog.regclass THEN (SELECT tgrelid FROM pg_catalog.pg_trigger r WHERE r.oid = d.objid) \
           WHEN 'pg_catalog.pg_class'::pg_catalog.regclass \
             THEN coalesce((SELECT indrelid FROM pg_catalog.pg_index r WHERE r.indexrelid = d.objid), d.objid) END AS holder \
         FROM pg_catalog.pg_depend d WHERE d.deptype = 'n' AND ( \
           d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid IN (SELECT oid FROM gone) OR \
           d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (SELECT t.oid FROM pg_catalog.pg_type t \
             JOIN pg_catalog.pg_class c ON c.reltype IN (t.oid, t.typelem) WHERE c.reltype <> 0 AND c.oid IN (SELECT oid FROM gone)))) \
         SELECT DISTINCT CASE WHEN coalesce(holder, 0) = 0 THEN pg_catalog.pg_describe_object(classid, objid, 0) \
           WHEN classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass THEN pg_catalog.pg_describe_object(classid, objid, 0) \
           ELSE pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, holder, 0) END \
           || ' depends on ' || pg_catalog.pg_describe_object(refclassid, refobjid, 0) \
         FROM held WHERE coalesce(holder, 0) NOT IN (SELECT oid FROM gone) ORDER BY 1"
    );
    let database = session.database();
    let found = texts(session, &query, selected).await?;
    let hint = format!(
        "select it too with a further --only if the snapshot has it, or restore beside it and move the rows: \
         --rename {database}={database}_copy"
    );
    let finding = |what: String| Finding {
        verdict: Verdict::Bad,
        what: format!("{what}, which would be replaced"),
        hint: Some(hint.clone()),
    };
    Ok(found.into_iter().map(finding).collect())
}

/// Drops the relations in the way: views one by one in whatever order they let themselves be dropped,
/// then all tables together, since they may refer to one another.
pub(super) async fn drop_existing(session: &Session, selected: &Toc) -> Result<(), SourceError> {
    let query = "SELECT c.relkind::text, pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.unnest($1::text[]) name \
        JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name) JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";
    let rows = session.client().query(query, &[&names(selected)]).await;
    let rows = rows.map_err(|error| failure("looking for tables to replace failed".to_owned(), None, error))?;
    let of_kind = |kinds: &str| -> Vec<(String, String)> {
        let all = rows.iter().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)));
        all.filter(|(kind, _)| kinds.contains(kind.as_str())).collect()
    };
    let mut views = of_kind("vm");
    while !views.is_empty() {
        let mut held = Vec::new();
        let (count, mut refusal) = (views.len(), None);
        for (kind, name) in views {
            let word = if kind == "v" { "VIEW" } else { "MATERIALIZED VIEW" };
            session.run("SAVEPOINT drop_", "setting a savepoint").await?;
            if let Err(error) = drop_all(session, word, &name).await {
                session.run("ROLLBACK TO SAVEPOINT drop_", "going back to a savepoint").await?;
                refusal = Some(error);
                held.push((kind, name));
            }
        }
        if let Some(error) = refusal.filter(|_| held.len() == count) {
            return Err(error);
        }
        views = held;
    }
    for (kinds, word) in [("rp", "TABLE"), ("f", "FOREIGN TABLE"), ("S", "SEQUENCE IF EXISTS")] {
        let list: Vec<String> = of_kind(kinds).into_iter().map(|(_, name)| name).collect();
        if !list.is_empty() {
            drop_all(session, word, &list.join(", ")).await?;
        }
    }
    Ok(())
}

async fn drop_all(session: &Session, word: &str, names: &str) -> Result<(), SourceError> {
    let ran = session.client().batch_execute(&format!("DROP {word} {names}")).await;
    ran.map_err(|error| {
        let what = format!("dropping {names}, to be replaced, failed in database {:?}", session.database());
        let hint = "nothing was changed: select what depends on it too, or restore beside with --rename";
        failure(what, Some(hint), error)
    })
}
