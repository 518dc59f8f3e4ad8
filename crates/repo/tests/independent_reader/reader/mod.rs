//! A reader of repositories made from `docs/format.md` alone: public crates, none of ours. Where it
//! and the product disagree, one of them or the page is wrong.

mod cbor;
mod chunks;
mod crypt;
pub(crate) mod describe;
mod keys;
mod objects;
mod snapshots;

use std::path::Path;

use chunks::Chunks;
use keys::Identity;
use objects::{Roster, Secrets, Store, open_signed};
use serde_json::Value as Json;
use snapshots::{Content, referenced};

pub(crate) type R<T> = Result<T, String>;

/// An opened repository.
pub(crate) struct Repository {
    store: Store,
    id: Identity,
    roster: Roster,
    secrets: Secrets,
    /// What was left out, and why.
    pub(crate) told: Vec<String>,
}

/// Features of `format` that this reader knows.
const KNOWN_FEATURES: [&str; 0] = [];

impl Repository {
    /// Opens the store in a directory with the text of an identity's or owner's key file, or of a
    /// recovery sheet.
    pub(crate) fn open(store: &Path, key: &str, passphrase: Option<&str>) -> R<Self> {
        let (store, id) = (Store(store.to_owned()), keys::read(key, passphrase)?);
        let (signer, body) = open_signed(&id.repository, 1, &store.get_unnamed("format")?)?;
        let format = cbor::parse(&body)?;
        if signer != id.root || format.need(0)?.fixed::<16>()? != id.repository {
            return Err("another repository".into());
        }
        for feature in format.need(2)?.array()? {
            if !KNOWN_FEATURES.contains(&feature.text()?) {
                return Err(format!("the feature {} is unknown", feature.text()?));
            }
        }
        let mut told = Vec::new();
        let roster = Roster::newest(&store, &id, &mut told)?;
        if let Some(feature) = roster.features.iter().find(|feature| !KNOWN_FEATURES.contains(&feature.as_str())) {
            return Err(format!("the feature {feature} is unknown"));
        }
        if !roster.identities.contains(&crypt::sign_public(&id.sign)?) {
            return Err("the identity is not on the roster".into());
        }
        let secrets = roster.secrets(&store, &id)?;
        Ok(Self { store, id, roster, secrets, told })
    }

    /// Everything in the repository: each snapshot with what is said of it and its entries. Those
    /// that were forgotten or are void are told without entries.
    pub(crate) fn read(&mut self) -> R<Json> {
        let mut told = std::mem::take(&mut self.told);
        let chunks = Chunks::load(&self.store, self.id.repository, &self.roster, &self.secrets)?;
        told.extend(chunks.damaged.iter().cloned());
        let (mut all, mut logs, mut level, mut parts) = (Vec::new(), Vec::new(), 0, 0);
        for root in self.logs()? {
            let content = Content::read(&chunks, &root)?;
            if content.needed != referenced(&chunks, &root)? {
                return Err(format!("{}: its references differ from its manifest", hex::encode(root.id)));
            }
            logs.push(describe::log(&root, &content.entries)?);
        }
        for snapshot in self.snapshots(&mut told)? {
            if !snapshot.counts() {
                all.push(describe::snapshot(&snapshot, &[])?);
                continue;
            }
            let content = Content::read(&chunks, &snapshot)?;
            if content.needed != referenced(&chunks, &snapshot)? {
                return Err(format!("{}: its references differ from its manifest", hex::encode(snapshot.id)));
            }
            (level, parts) = (level.max(content.level), parts + content.parts);
            for (name, count) in snapshot.body.need(5)?.texts()? {
                let counted = match name {
                    "entries" => content.entries.len() as u64,
                    "bytes" => content.bytes,
                    _ => continue,
                };
                if count.uint()? != counted {
                    return Err(format!("{}: {name} is counted wrongly", hex::encode(snapshot.id)));
                }
            }
            all.push(describe::snapshot(&snapshot, &content.entries)?);
        }
        all.sort_by_key(|snapshot| format!("{} {:>9}", snapshot["source"], snapshot["sequence"]));
        let copies = chunks.copies();
        self.told = told;
        Ok(serde_json::json!({ "snapshots": all, "logs": logs, "copies": copies, "level": level, "parts": parts }))
    }
}
