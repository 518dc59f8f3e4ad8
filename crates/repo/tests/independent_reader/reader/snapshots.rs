//! Roots, what is said of them, and the tree of entries below each.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::json;

use super::cbor::{self, Value};
use super::chunks::Chunks;
use super::crypt::{Key, aead_open, hash, kdf, verify};
use super::describe::shown;
use super::objects::{Domain, Role, header, open_signed};
use super::{R, Repository};

/// A root object, opened.
pub(crate) struct Snapshot {
    pub(crate) id: Key,
    pub(crate) header: Value,
    pub(crate) references: Value,
    pub(crate) body: Value,
    pub(crate) forgotten: bool,
    pub(crate) held: bool,
    pub(crate) void: bool,
    writer: Key,
    role: Role,
    pub(crate) domain: Domain,
}

impl Snapshot {
    pub(crate) fn counts(&self) -> bool {
        !self.forgotten && !self.void
    }
}

fn part<'b>(rest: &mut &'b [u8]) -> R<&'b [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>().ok_or("a root that is cut off")?;
    let (part, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or("a root that is cut off")?;
    *rest = tail;
    Ok(part)
}

impl Repository {
    /// Every snapshot, void and forgotten ones among them; roots that are no good are told.
    pub(crate) fn snapshots(&self, refused: &mut Vec<String>) -> R<Vec<Snapshot>> {
        let mut all = Vec::new();
        for name in self.store.names("roots/snapshot/")? {
            match self.root(10, &name) {
                Ok(snapshot) => all.push(snapshot),
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        self.drop_later_than_removal(&mut all, refused);
        for snapshot in &mut all {
            self.judge(snapshot, refused)?;
        }
        all.sort_by_key(|snapshot| snapshot.header.need(2).and_then(Value::uint));
        Ok(all)
    }

    /// Every log root, in the order of its chain.
    pub(crate) fn logs(&self) -> R<Vec<Snapshot>> {
        let names = self.store.names("roots/log/")?;
        let mut all = names.iter().map(|name| self.root(11, name)).collect::<R<Vec<_>>>()?;
        all.sort_by_key(|root| root.header.need(2).and_then(Value::uint));
        for (root, next) in all.iter().zip(all.iter().skip(1)) {
            if next.header.need(3)?.fixed::<32>()? != root.id {
                return Err("a log root is missing".into());
            }
        }
        Ok(all)
    }

    /// A snapshot root (type 10) or a log root (type 11).
    fn root(&self, kind: u8, name: &str) -> R<Snapshot> {
        let bytes = self.store.get(name)?;
        let (writer, parts) = open_signed(&self.id.repository, kind, &bytes)?;
        let mut rest = &parts[..];
        let (a, b, c) = (part(&mut rest)?, part(&mut rest)?, part(&mut rest)?);
        let id: [u8; 16] = a.get(..16).ok_or("short")?.try_into().expect("16 bytes");
        let role = self.roster.role((kind, name), &writer, &id)?;
        let domain = self.secrets.domains.get(&id).ok_or("an unknown domain")?;
        let opened = cbor::parse(&domain.open(&self.id.repository, kind, a)?)?;
        let run = opened.need(7)?.fixed::<16>()?;
        let bound = [&header(kind)[..], &hash(a)].concat();
        let open = |part: &[u8], letter: &[u8]| {
            let (envelope, sealed) = part.split_at_checked(1208).ok_or("a part without its envelope")?;
            let secret = self.secrets.open_envelope(&self.id.repository, envelope)?;
            cbor::parse(&aead_open(&kdf("lifeboat v1 root part", &secret, &[letter, &run]), 0, &bound, sealed)?)
        };
        let (references, body) = (open(b, b"B")?, open(c, b"C")?);
        let (stack, source) = (body.need(0)?.text()?, body.need(1)?.text()?);
        let tags = [domain.stack_tag(stack), domain.source_tag(stack, source)];
        if [opened.need(0)?.fixed()?, opened.need(1)?.fixed()?] != tags {
            return Err("header and body name different sources".into());
        }
        let allows = |writer: &&super::objects::Writer| tags.iter().any(|tag| writer.allowed.contains(tag));
        let own = |known: &&super::objects::Writer| known.verify == writer && known.domain == id;
        if role == Role::Writer && !self.roster.writers.iter().filter(own).any(|writer| allows(&writer)) {
            return Err("its writer may not write this source".into());
        }
        self.countersignature(&opened, run, [b, c])?;
        let (header, domain) = (opened, domain.clone());
        let (forgotten, held, void) = (false, false, false);
        Ok(Snapshot { id: hash(&bytes), header, references, body, forgotten, held, void, writer, role, domain })
    }

    fn countersignature(&self, head: &Value, run: [u8; 16], envelopes: [&[u8]; 2]) -> R<()> {
        let Some(field) = head.get(9) else { return Ok(()) };
        let [time, signer, signature] = field.tuple::<3>()?;
        let vouches: Key = signer.fixed()?;
        if !self.roster.identities.contains(&vouches)
            && !self.roster.retired.iter().any(|(verify, _)| *verify == vouches)
        {
            return Err("countersigned by a stranger".into());
        }
        let original = head.get(8).map_or(Ok([0; 32]), Value::fixed::<32>)?;
        let (seconds, nanoseconds) = time.time()?;
        let tag = head.need(1)?.fixed::<32>()?;
        let message = [
            &b"lifeboat v1 countersignature\0"[..],
            &self.id.repository,
            &tag,
            &run,
            &envelopes[0][8..40],
            &envelopes[1][8..40],
            &original,
            &time_as_cbor(seconds, nanoseconds),
        ];
        verify(signer.bytes()?, &message.concat(), signature.bytes()?)
    }

    /// Of a removed writer only the heads that the roster names count, and what is before them.
    fn drop_later_than_removal(&self, all: &mut Vec<Snapshot>, refused: &mut Vec<String>) {
        let before = |snapshot: &Snapshot| snapshot.header.get(3).and_then(|hash| hash.fixed::<32>().ok());
        let previous: BTreeMap<Key, Option<Key>> = all.iter().map(|snapshot| (snapshot.id, before(snapshot))).collect();
        let mut known = BTreeSet::new();
        for head in self.roster.removed.iter().flat_map(|writer| &writer.heads) {
            let mut next = Some(*head);
            while let Some(root) = next.filter(|root| known.insert(*root)) {
                next = previous.get(&root).copied().flatten();
            }
        }
        all.retain(|snapshot| {
            let counts = snapshot.role == Role::Writer || known.contains(&snapshot.id);
            if !counts {
                refused.push(format!("roots/snapshot/{}: made after its writer was removed", hex::encode(snapshot.id)));
            }
            counts
        });
    }

    /// The small objects of a type that name a snapshot: name, signer, role, fields.
    fn words(&self, kind: u8, prefix: &str, id: &Key, refused: &mut Vec<String>) -> R<Vec<(String, Key, Role, Value)>> {
        let mut words = Vec::new();
        for name in self.store.names(prefix)? {
            let word = (|| {
                let (signer, body) = open_signed(&self.id.repository, kind, &self.store.get(&name)?)?;
                let domain: [u8; 16] = body.get(..16).ok_or("short")?.try_into().expect("16 bytes");
                let role = self.roster.role((kind, &name), &signer, &domain)?;
                let domain = self.secrets.domains.get(&domain).ok_or("an unknown domain")?;
                R::Ok((signer, role, cbor::parse(&domain.open(&self.id.repository, kind, &body)?)?))
            })();
            match word {
                Ok((signer, role, word)) if word.need(0)?.bytes()? == id => words.push((name, signer, role, word)),
                Ok(_) => {}
                Err(why) => refused.push(format!("{name}: {why}")),
            }
        }
        Ok(words)
    }

    fn judge(&self, snapshot: &mut Snapshot, refused: &mut Vec<String>) -> R<()> {
        snapshot.forgotten = !self.words(12, "forget/", &snapshot.id, refused)?.is_empty();
        let mut newest = None;
        for (_, _, _, hold) in self.words(13, "hold/", &snapshot.id, refused)? {
            let released = hold.get(3).map_or(Ok(false), Value::bool)?;
            newest = newest.max(Some((hold.need(2)?.time()?, !released)));
        }
        snapshot.held = newest.is_some_and(|(_, held)| held);
        let root = self.store.stored_at(&format!("roots/snapshot/{}", hex::encode(snapshot.id)))?;
        for (name, signer, role, _) in self.words(14, "void/", &snapshot.id, refused)? {
            let in_time = self.store.stored_at(&name)? <= root + Duration::from_secs(self.roster.grace_seconds);
            snapshot.void |= role == Role::Keeper || signer == snapshot.writer && in_time;
        }
        Ok(())
    }
}

fn time_as_cbor(seconds: i64, nanoseconds: u64) -> Vec<u8> {
    let number = |major: u8, value: u64| {
        let bytes = value.to_be_bytes();
        let (low, length) = match value {
            0..=23 => return vec![(major << 5) | bytes[7]],
            24..=0xff => (24, 1),
            0x100..=0xffff => (25, 2),
            0x1_0000..=0xffff_ffff => (26, 4),
            _ => (27, 8),
        };
        [&[(major << 5) | low], &bytes[8 - length..]].concat()
    };
    let seconds = if seconds < 0 { number(1, seconds.unsigned_abs() - 1) } else { number(0, seconds.unsigned_abs()) };
    [vec![0x82], seconds, number(0, nanoseconds)].concat()
}

/// The content of a snapshot: entries in their order, and the ids that it needs.
#[derive(Default)]
pub(crate) struct Content {
    pub(crate) entries: Vec<serde_json::Value>,
    pub(crate) bytes: u64,
    pub(crate) needed: BTreeSet<Key>,
    /// The highest level of its pages.
    pub(crate) level: u64,
    /// Extents that are parts of chunks, from the middle of them.
    pub(crate) parts: u64,
    last_path: Vec<u8>,
}

impl Content {
    pub(crate) fn read(chunks: &Chunks<'_>, snapshot: &Snapshot) -> R<Self> {
        let mut content = Self::default();
        if let Some(top) = snapshot.body.get(4) {
            content.page(chunks, &snapshot.domain, &top.fixed()?, None)?;
        }
        Ok(content)
    }

    fn page(&mut self, chunks: &Chunks<'_>, domain: &Domain, id: &Key, level: Option<u64>) -> R<()> {
        self.needed.insert(*id);
        let page = cbor::parse(&chunks.get(domain, 5, id)?)?;
        let [own, items] = page.tuple::<2>()?;
        let own = own.uint()?;
        self.level = self.level.max(own);
        if level.is_some_and(|level| level != own) {
            return Err("a page of the wrong level".into());
        }
        for item in items.array()? {
            if own == 0 {
                self.entry(chunks, domain, item)?;
                continue;
            }
            let [first, child, entries, bytes] = item.tuple::<4>()?;
            let before = (self.entries.len(), self.bytes);
            self.page(chunks, domain, &child.fixed()?, Some(own - 1))?;
            if self.entries.get(before.0).map(|entry| &entry["path"]) != Some(&shown(first.bytes()?).into()) {
                return Err("a page that does not begin where it should".into());
            }
            let below = ((self.entries.len() - before.0) as u64, self.bytes - before.1);
            if below != (entries.uint()?, bytes.uint()?) {
                return Err("a page that counts wrongly what is below it".into());
            }
        }
        Ok(())
    }

    fn entry(&mut self, chunks: &Chunks<'_>, domain: &Domain, entry: &Value) -> R<()> {
        let path = entry.need(0)?;
        if !self.last_path.is_empty() && !follows(&self.last_path, path)? {
            return Err("entries out of order".into());
        }
        self.last_path = path.bytes()?.to_vec();
        let bad = |part: &[u8]| matches!(part, b"" | b"." | b"..") || part.contains(&0);
        if self.last_path.len() > 8192 || self.last_path.split(|byte| *byte == b'/').any(bad) {
            return Err("a path that is none".into());
        }
        let (mut bytes, mut holes) = (Vec::new(), Vec::new());
        let mut extents = entry.get(12).map_or(Ok(&[][..]), Value::array)?.to_vec();
        for page in entry.get(13).map_or(Ok(&[][..]), Value::array)? {
            let [id, _bytes] = page.tuple::<2>()?;
            self.needed.insert(id.fixed()?);
            extents.extend_from_slice(cbor::parse(&chunks.get(domain, 5, &id.fixed()?)?)?.array()?);
        }
        for extent in &extents {
            let number = |value: &Value| usize::try_from(value.uint()?).map_err(|error| error.to_string());
            let (id, offset, length) = match extent.array()? {
                [length] => {
                    holes.push(json!([bytes.len(), length.uint()?]));
                    bytes.resize(bytes.len() + number(length)?, 0);
                    continue;
                }
                [id, length] => (id, 0, number(length)?),
                [id, offset, length] => {
                    self.parts += 1;
                    (id, number(offset)?, number(length)?)
                }
                other => return Err(format!("no extent: {other:?}")),
            };
            self.needed.insert(id.fixed()?);
            let chunk = chunks.get(domain, 4, &id.fixed()?)?;
            bytes.extend_from_slice(chunk.get(offset..offset + length).ok_or("an extent outside of its chunk")?);
        }
        if bytes.len() as u64 != entry.get(11).map_or(Ok(0), Value::uint)? {
            return Err("an entry of another length than it says".into());
        }
        self.bytes += bytes.len() as u64;
        self.entries.push(super::describe::entry(entry, &bytes, holes)?);
        Ok(())
    }
}

/// Whether a path comes behind another: bytes compared with `/` as the lowest.
fn follows(before: &[u8], path: &Value) -> R<bool> {
    let key = |path: &[u8]| path.iter().map(|byte| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 }).collect();
    let (before, after): (Vec<u16>, Vec<u16>) = (key(before), key(path.bytes()?));
    Ok(before < after)
}

/// Ids that the references of a snapshot lead to: pages and data chunks.
pub(crate) fn referenced(chunks: &Chunks<'_>, snapshot: &Snapshot) -> R<BTreeSet<Key>> {
    let (mut found, mut seen, mut todo) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    todo.extend(snapshot.references.get(0).map(Value::fixed::<32>).transpose()?);
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        let page = cbor::parse(&chunks.get(&snapshot.domain, 6, &id)?)?;
        let [page, data, below] = page.tuple::<3>()?;
        found.insert(page.fixed()?);
        found.extend(data.bytes()?.as_chunks::<32>().0);
        todo.extend(below.bytes()?.as_chunks::<32>().0);
    }
    Ok(found)
}
