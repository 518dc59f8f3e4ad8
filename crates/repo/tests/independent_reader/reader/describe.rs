//! What was read, as JSON that can be compared and kept beside a fixture.

use serde_json::{Map, Value as Json, json};

use super::R;
use super::cbor::Value;
use super::crypt::hash;
use super::snapshots::Snapshot;

/// Bytes that are mostly text, so that people can read them.
pub(crate) fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// A text, or how long it is and what it hashes to.
pub(crate) fn short(text: &str) -> String {
    if text.len() < 100 {
        text.to_owned()
    } else {
        format!("{} bytes {}", text.len(), hex::encode(hash(text.as_bytes())))
    }
}

fn owner(value: &Value) -> R<Json> {
    let [id, name] = value.tuple::<2>()?;
    let name = if *name == Value::Null { None } else { Some(name.text()?) };
    Ok(json!([id.uint()?, name]))
}

fn texts(value: &Value) -> R<Json> {
    let mut map = Map::new();
    for (key, text) in value.texts()? {
        map.insert(key.into(), short(text.text()?).into());
    }
    Ok(map.into())
}

pub(crate) fn entry(entry: &Value, bytes: &[u8], holes: Vec<Json>) -> R<Json> {
    let mut out = Map::new();
    out.insert("path".into(), shown(entry.need(0)?.bytes()?).into());
    out.insert("kind".into(), entry.need(1)?.uint()?.into());
    let mut field = |key, name: &str, read: &dyn Fn(&Value) -> R<Json>| {
        if let Some(value) = entry.get(key) {
            out.insert(name.into(), read(value)?);
        }
        R::Ok(())
    };
    field(2, "mode", &|value| Ok(value.uint()?.into()))?;
    field(3, "owner", &owner)?;
    field(4, "group", &owner)?;
    field(5, "mtime", &|value| value.time().map(|time| json!(time)))?;
    field(6, "link", &|value| Ok(shown(value.bytes()?).into()))?;
    field(7, "device", &|value| {
        let [major, minor] = value.tuple::<2>()?;
        Ok(json!([major.uint()?, minor.uint()?]))
    })?;
    field(8, "xattrs", &|value| {
        let pair = |item: &Value| {
            let [name, value] = item.tuple::<2>()?;
            Ok(json!([shown(name.bytes()?), shown(value.bytes()?)]))
        };
        Ok(value.array()?.iter().map(pair).collect::<R<Vec<Json>>>()?.into())
    })?;
    field(9, "why", &|value| Ok(value.text()?.into()))?;
    field(10, "extra", &texts)?;
    if !bytes.is_empty() {
        out.insert("bytes".into(), bytes.len().into());
        out.insert("hash".into(), hex::encode(hash(bytes)).into());
    }
    if !holes.is_empty() {
        out.insert("holes".into(), holes.into());
    }
    Ok(out.into())
}

/// The facts by which the header says which system the source is.
fn system(snapshot: &Snapshot, facts: &Value) -> R<Json> {
    let Some(tags) = snapshot.header.get(10) else { return Ok(json!([])) };
    let tags = tags.array()?.iter().map(Value::fixed::<32>).collect::<R<Vec<_>>>()?;
    let mut told = Vec::new();
    for (fact, value) in facts.texts()? {
        if tags.contains(&snapshot.domain.system_tag(fact, value.text()?)) {
            told.push(fact);
        }
    }
    Ok(json!(told))
}

/// A log root and the segments below it, in the order of the log.
pub(crate) fn log(root: &Snapshot, entries: &[Json]) -> R<Json> {
    let mut segments = Vec::new();
    for segment in root.body.need(5)?.array()? {
        let [name, begins, ends] = [segment.need(0)?.text()?, segment.need(1)?.text()?, segment.need(2)?.text()?];
        let entry = entries.iter().find(|entry| entry["path"] == name).ok_or("a segment without an entry")?;
        segments.push(json!([name, begins, ends, entry["hash"]]));
    }
    Ok(json!({
        "id": hex::encode(root.id),
        "source": root.body.need(1)?.text()?,
        "sequence": root.header.need(2)?.uint()?,
        "log": root.body.need(3)?.text()?,
        "facts": texts(root.body.need(6)?)?,
        "segments": segments,
    }))
}

pub(crate) fn snapshot(snapshot: &Snapshot, entries: &[Json]) -> R<Json> {
    let (head, body) = (&snapshot.header, &snapshot.body);
    let problem = |item: &Value| {
        let [path, what] = item.tuple::<2>()?;
        Ok(json!([shown(path.bytes()?), what.text()?]))
    };
    let bytes = |value: Option<&Value>| value.map(|value| value.bytes().map(hex::encode)).transpose();
    let point = body.need(3)?;
    Ok(json!({
        "id": hex::encode(snapshot.id),
        "stack": body.need(0)?.text()?,
        "source": body.need(1)?.text()?,
        "kind": body.need(2)?.text()?,
        "sequence": head.need(2)?.uint()?,
        "original": bytes(head.get(8))?,
        "point": [json!(point.need(0)?.time()?), json!(point.need(1)?.text()?), texts(point.need(2)?)?],
        "system": system(snapshot, point.need(2)?)?,
        "config": body.need(6)?.text()?,
        "label": body.get(7).map(Value::text).transpose()?,
        "problems": body.need(8)?.array()?.iter().map(problem).collect::<R<Vec<Json>>>()?,
        "stack_run": bytes(body.get(9))?,
        "forgotten": snapshot.forgotten,
        "held": snapshot.held,
        "void": snapshot.void,
        "entries": entries,
    }))
}
