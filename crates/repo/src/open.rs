//! Opening a repository: from a store and key files to an [`Access`]. Nothing is written.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::Digest;
use lifeboat_store::{Store, StoreErrorKind};

use crate::access::{Access, DomainKeys, WriterAccess};
use crate::create::without_format;
use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::format::{Format, ToRead};
use crate::keyfile::{IdentityKey, MaintainerKey, WriterKey};
use crate::keyring::{Keyring, MaintainerSecrets, RepositorySecrets};
use crate::newest::{Newest, OpenWarning, newest_keyring, newest_roster};
use crate::object::{IndexKey, ObjectError, RepositoryId};
use crate::remember::Remembered;
use crate::roster::Roster;

/// The keys at hand; at least one.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// To add snapshots.
    pub writer: Option<WriterKey>,
    /// To forget and prune.
    pub maintainer: Option<MaintainerKey>,
    /// To read.
    pub identity: Option<IdentityKey>,
}

impl Keys {
    /// Goes without the key of a role; `false` where no other would be left.
    pub fn drop_role(&mut self, role: &str) -> bool {
        let left = [
            role != "writer" && self.writer.is_some(),
            role != "maintainer" && self.maintainer.is_some(),
            role != "identity" && self.identity.is_some(),
        ];
        if !left.contains(&true) {
            return false;
        }
        match role {
            "writer" => self.writer.take().is_some(),
            "maintainer" => self.maintainer.take().is_some(),
            "identity" => self.identity.take().is_some(),
            _ => false,
        }
    }

    /// The repository and root that all of them name.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] where there is none, [`RepoError::KeysDiffer`] where they disagree.
    pub fn home(&self) -> Result<(RepositoryId, VerifyKey), RepoError> {
        let mut homes = [
            self.writer.as_ref().map(|key| (key.repository, key.root)),
            self.maintainer.as_ref().map(|key| (key.repository, key.root)),
            self.identity.as_ref().map(|key| (key.repository, key.root)),
        ]
        .into_iter()
        .flatten();
        let home =
            homes.next().ok_or(RepoError::KeyMissing { what: "opening a repository", needs: "a key file of it" })?;
        if homes.all(|other| other == home) { Ok(home) } else { Err(RepoError::KeysDiffer) }
    }

    fn writes(&self) -> bool {
        self.writer.is_some() || self.maintainer.is_some()
    }
}

/// An opened repository.
#[derive(Debug)]
pub struct Opened {
    /// What the keys allow.
    pub access: Access,
    /// What the caller remembers from now on; heads as they were given.
    pub remembered: Remembered,
    /// What a person should be told.
    pub warnings: Vec<OpenWarning>,
}

/// Opens the repository with any combination of keys.
///
/// # Errors
/// By [`RepoError::kind`]: no repository; a key that is wrong, not on the roster or of another
/// repository; an object that is damaged, forged or of a newer version; a roster older than
/// `remembered`.
pub async fn open_access(
    store: &Arc<dyn Store>,
    keys: &Keys,
    remembered: Option<&Remembered>,
) -> Result<Opened, RepoError> {
    let (repository, root) = keys.home()?;
    let (bytes, format) = read_format(store, repository, root, keys.writes()).await?;
    let mut newest = newest_roster(store, repository, root).await?;
    let stops = |why: &ObjectError| keys.writes() || matches!(why, ObjectError::NewerVersion(_));
    if let Some((object, source)) = newest.damaged.take_if(|(_, why)| stops(why)) {
        return Err(RepoError::Object { object, source });
    }
    let remembered = remembered.filter(|remembered| remembered.repository == repository);
    refuse_older(store, remembered, &newest.roster)?;
    known(newest.roster.unknown_feature(keys.writes()))?;
    let read_only = format.unknown_feature(true).or_else(|| newest.roster.unknown_feature(true));
    let mut access = Access {
        repository,
        roster: newest.roster.clone(),
        domains: BTreeMap::new(),
        writer: None,
        maintain: None,
        identity: None,
        epochs: BTreeMap::new(),
        maintenance: BTreeMap::new(),
        read_only: read_only.map(|(feature, _)| feature.to_owned()),
    };
    if let Some(key) = &keys.maintainer {
        let secrets = open_maintainer(store, root, key, &mut newest).await?;
        access.admit_maintainer(key, secrets);
    }
    if let Some(key) = &keys.identity {
        let secrets = open_identity(store, key, &mut newest).await?;
        access.admit_identity(key, &secrets);
    }
    if let Some(key) = &keys.writer {
        check_writer(key, &newest.roster)?;
        access.admit_writer(key);
    }
    let remembered =
        Remembered { format: Some(hex::encode(&bytes)), ..Remembered::next(remembered, repository, &newest.roster) };
    Ok(Opened { access, remembered, warnings: newest.warnings })
}

/// Reads `format` and checks that it is the wanted repository, of a version and with features that
/// this program knows.
pub(crate) async fn read_format(
    store: &Arc<dyn Store>,
    repository: RepositoryId,
    root: VerifyKey,
    writes: bool,
) -> Result<(Bytes, Format), RepoError> {
    let key = Format::key();
    let bytes = match store.get(&key, None).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Err(without_format(store).await),
        Err(error) => return Err(error.into()),
    };
    let (signer, format) = Format::open(&bytes).map_err(|source| RepoError::object(&key, source))?;
    if format.repository != repository {
        return Err(RepoError::OtherRepository {
            store: store.to_string(),
            wanted: repository,
            found: format.repository,
        });
    }
    if signer != root {
        return Err(RepoError::OtherRoot { object: key.to_string(), wanted: root, found: signer });
    }
    known(format.unknown_feature(writes))?;
    Ok((bytes, format))
}

/// Refuses a feature that this program would have to know.
pub(crate) fn known(unknown: Option<(&str, ToRead)>) -> Result<(), RepoError> {
    match unknown {
        Some((feature, to_read)) => {
            Err(RepoError::UnknownFeature { feature: feature.to_owned(), to_read: to_read == ToRead::Needed })
        }
        None => Ok(()),
    }
}

/// Refuses a roster older than the remembered one.
pub(crate) fn refuse_older(
    store: &Arc<dyn Store>,
    remembered: Option<&Remembered>,
    roster: &Roster,
) -> Result<(), RepoError> {
    match remembered.filter(|remembered| !remembered.allows(roster)) {
        Some(remembered) => Err(RepoError::OlderRoster {
            store: store.to_string(),
            remembered: remembered.roster,
            found: roster.number,
        }),
        None => Ok(()),
    }
}

fn wrong(role: &'static str, key: VerifyKey, why: &'static str) -> RepoError {
    RepoError::WrongKey { role, key: Digest(key.0).short(), why }
}

/// Why the key of a writer that was removed opens nothing.
pub(crate) const REMOVED: &str = "it was removed from the roster";

fn check_writer(key: &WriterKey, roster: &Roster) -> Result<(), RepoError> {
    let verify = key.sign.verify_key();
    match roster.writer(verify) {
        Some(writer) if writer.domain == key.domain => Ok(()),
        Some(_) => Err(wrong("writer", verify, "the roster has it in another domain")),
        None if roster.removed.iter().any(|removed| removed.verify == verify) => Err(wrong("writer", verify, REMOVED)),
        None => Err(wrong("writer", verify, "it is not on the roster")),
    }
}

async fn open_maintainer(
    store: &Arc<dyn Store>,
    root: VerifyKey,
    key: &MaintainerKey,
    newest: &mut Newest,
) -> Result<MaintainerSecrets, RepoError> {
    let (own, seal) = (key.roster_key(), &key.seal);
    if !newest.roster.maintainers.contains(&own) {
        return Err(wrong("maintainer", own.verify, "it is not on the roster"));
    }
    let open = |keyring: &Keyring| keyring.open_maintainer(key.repository, seal);
    newest_keyring(store, key.repository, root, newest, open)
        .await?
        .ok_or_else(|| wrong("maintainer", own.verify, "the keyring holds nothing for it"))
}

/// Everything that the keyring holds; that of rosters with the same number too, so that nothing
/// which was sealed while two key commands ran at once stays closed.
pub(crate) async fn open_identity(
    store: &Arc<dyn Store>,
    key: &IdentityKey,
    newest: &mut Newest,
) -> Result<RepositorySecrets, RepoError> {
    let (own, seal) = (key.roster_key(), key.seal());
    if !newest.roster.identities.contains(&own) {
        return Err(wrong("identity", own.verify, "it is not on the roster"));
    }
    let open = |keyring: &Keyring| keyring.open_identity(key.repository, &seal);
    let mut secrets = newest_keyring(store, key.repository, key.root, newest, open)
        .await?
        .ok_or_else(|| wrong("identity", own.verify, "the keyring holds nothing for it"))?;
    for sibling in newest.siblings.clone() {
        let mut beside = Newest { roster: sibling, siblings: vec![], warnings: vec![], damaged: None };
        if let Ok(Some(more)) = newest_keyring(store, key.repository, key.root, &mut beside, open).await {
            secrets.merge(&more);
        }
        newest.warnings.append(&mut beside.warnings);
    }
    Ok(secrets)
}

impl Access {
    fn admit_writer(&mut self, key: &WriterKey) {
        self.domains
            .entry(key.domain)
            .and_modify(|keys| {
                if keys.content.is_none() {
                    *keys = DomainKeys::from_secret(key.repository, key.domain, &key.secret);
                }
            })
            .or_insert_with(|| DomainKeys::from_secret(key.repository, key.domain, &key.secret));
        self.writer = Some(WriterAccess { sign: key.sign.clone(), domain: key.domain });
    }

    fn admit_maintainer(&mut self, key: &MaintainerKey, secrets: MaintainerSecrets) {
        for (domain, index_key) in secrets.index_keys {
            let index = IndexKey { repository: key.repository, domain, key: index_key };
            self.domains.insert(domain, DomainKeys { index, content: None });
        }
        self.maintenance = secrets.maintenance;
        self.maintain = Some(key.sign.clone());
    }

    fn admit_identity(&mut self, key: &IdentityKey, secrets: &RepositorySecrets) {
        for (domain, secret) in &secrets.domains {
            self.domains.insert(*domain, DomainKeys::from_secret(key.repository, *domain, secret));
        }
        self.epochs = secrets.epochs.clone();
        self.maintenance.extend(secrets.maintenance.iter().map(|(number, secret)| (*number, secret.clone())));
        self.maintain.get_or_insert_with(|| key.sign());
        self.identity = Some(key.sign());
    }
}

#[cfg(test)]
mod tests;
