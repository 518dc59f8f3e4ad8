//! What the owner can do: let writers, maintainers and identities in, and take them off the roster.

use futures::stream::{self, StreamExt, TryStreamExt};
use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_store::StoreErrorKind;

use crate::access::DomainKeys;
use crate::change::{Applied, Changed, Draft, Owner};
use crate::crypt::{SealPublic, SealSecret, Secret, VerifyKey, random};
use crate::error::RepoError;
use crate::inventory;
use crate::join::{Grant, Request, Scope};
use crate::object::{DomainId, ObjectType, SIGNATURE_BYTES};
use crate::roster::{RemovedWriter, RetiredKey, Roster, RosterKey, RosterWriter};
use crate::sealed::{Role, may_sign};

/// Objects that are read at once.
const READS: usize = 16;

/// The domain of a new writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainChoice {
    /// One of its own: nobody else can harm it, nothing is shared.
    New,
    /// An existing one: its writers deduplicate against each other and must trust each other.
    Join(DomainId),
}

/// What removing a reader does not do; to be told to the person who asked for it.
pub const REMOVED_READER_NOTICE: &str = "only what is written from now on is hidden: whoever has the removed key and \
     can reach the store still reads what was written before, and whatever was copied is gone";

impl Owner<'_> {
    /// Puts the host of `request` on the roster and makes its grant. For a host that is on it
    /// already, its scopes are replaced and the grant is made anew.
    ///
    /// # Errors
    /// [`RepoError::Usage`] where the request is for another repository, names a key that is on
    /// the roster in another role or domain, or the domain is unknown; what reading and putting
    /// the roster may yield.
    ///
    /// # Panics
    /// Never: a change ends only after it was applied.
    pub async fn add_writer(
        &self,
        request: &Request,
        domain: DomainChoice,
        scopes: &[Scope],
    ) -> Result<(Grant, Changed), RepoError> {
        let identity = &self.key.identity;
        if (request.repository, request.root) != (identity.repository, identity.root) {
            return Err(usage(
                "the request is for another repository, or its host saw another root key",
                "make a new request on the host and compare its url with the owner's",
            ));
        }
        if scopes.is_empty() {
            return Err(usage("a writer without a stack may write nothing", "name a stack"));
        }
        let fresh = (DomainId(random()), Secret::random());
        let mut granted = None;
        let changed = self
            .change(|draft| {
                let (domain, secret) = match (draft.roster.writer(request.verify).map(|w| w.domain), domain) {
                    (Some(own), DomainChoice::New) => (own, known(draft, own)?),
                    (Some(own), DomainChoice::Join(wanted)) if own != wanted => {
                        return Err(usage("the host is a writer of another domain", "make a new request on the host"));
                    }
                    (_, DomainChoice::Join(wanted)) => (wanted, known(draft, wanted)?),
                    (None, DomainChoice::New) => {
                        draft.secrets.domains.insert(fresh.0, fresh.1.clone());
                        fresh.clone()
                    }
                };
                granted = Some((domain, secret.clone()));
                let keys = DomainKeys::from_secret(identity.repository, domain, &secret);
                put_writer(draft, request.verify, domain, tags(&keys, scopes), self.now)
            })
            .await?;
        let (domain, secret) = granted.expect("a change that was applied has a domain");
        let grant = Grant::seal(request, domain, &secret, &self.key.root)
            .map_err(|error| RepoError::Usage { what: format!("the request is damaged: {error}"), hint: None })?;
        Ok((grant, changed))
    }

    /// Takes a writer off the roster. `roots` are all its root objects: they stay, everything else that
    /// it signs is refused from now on.
    ///
    /// # Errors
    /// [`RepoError::Usage`] where the roster does not know the writer.
    pub async fn remove_writer(&self, verify: VerifyKey, roots: &[ObjectHash]) -> Result<Changed, RepoError> {
        self.change(|draft| {
            let roster = &mut draft.roster;
            let Some(at) = roster.writers.iter().position(|writer| writer.verify == verify) else {
                let removed = roster.removed.iter().any(|writer| writer.verify == verify);
                return if removed { Ok(Applied::Already) } else { Err(unknown_writer()) };
            };
            let domain = roster.writers.remove(at).domain;
            roster.removed.push(RemovedWriter { verify, domain, roots: roots.to_vec() });
            Ok(Applied::Changed)
        })
        .await
    }

    /// Puts a maintainer on the roster and the maintainers' secrets into the keyring for it.
    ///
    /// # Errors
    /// What reading and putting the roster may yield.
    pub async fn add_maintainer(&self, key: &RosterKey) -> Result<Changed, RepoError> {
        self.change(|draft| put_key(&mut draft.roster, key, |roster| &mut roster.maintainers)).await
    }

    /// Puts an identity on the roster and all secrets into the keyring for it: it reads everything
    /// that was ever written.
    ///
    /// # Errors
    /// What reading and putting the roster may yield.
    pub async fn add_identity(&self, key: &RosterKey) -> Result<Changed, RepoError> {
        self.change(|draft| put_key(&mut draft.roster, key, |roster| &mut roster.identities)).await
    }

    /// Takes a maintainer off the roster and begins a new maintenance key. It keeps the index keys
    /// that it had: see [`REMOVED_READER_NOTICE`]. What it signed until now stands, but nobody deduplicates
    /// against its indexes. One that is not on the roster is left at that: it may
    /// be an earlier try that was cut off after its roster was put.
    ///
    /// # Errors
    /// What reading and putting the roster may yield.
    pub async fn remove_maintainer(&self, verify: VerifyKey) -> Result<Changed, RepoError> {
        let (maintenance, words) = (Generation::new(), self.words_of(verify).await?);
        self.change(|draft| {
            if !take_key(&mut draft.roster, |roster| &mut roster.maintainers, verify, self.now, &words) {
                return Ok(Applied::Already);
            }
            draft.roster.maintenance = maintenance.begin(&mut draft.secrets.maintenance);
            Ok(Applied::Changed)
        })
        .await
    }

    /// Takes an identity off the roster and begins a new epoch and a new maintenance key: see
    /// [`REMOVED_READER_NOTICE`]. One that is not on the roster is left at that, as a maintainer is.
    ///
    /// # Errors
    /// [`RepoError::Usage`] where it is the owner's own: without it nobody could change the roster.
    pub async fn remove_identity(&self, verify: VerifyKey) -> Result<Changed, RepoError> {
        if verify == self.key.identity.roster_key().verify {
            return Err(usage(
                "the owner's own identity cannot be removed: nobody could change the roster any more",
                "make a new repository and copy the snapshots if the owner's key was lost to somebody",
            ));
        }
        let (epoch, maintenance) = (Generation::new(), Generation::new());
        let words = self.words_of(verify).await?;
        self.change(|draft| {
            if !take_key(&mut draft.roster, |roster| &mut roster.identities, verify, self.now, &words) {
                return Ok(Applied::Already);
            }
            draft.roster.epoch = epoch.begin(&mut draft.secrets.epochs);
            draft.roster.maintenance = maintenance.begin(&mut draft.secrets.maintenance);
            Ok(Applied::Changed)
        })
        .await
    }

    /// What a maintainer or identity signed and what is in the store, as far as the name of a signer at the end of
    /// an object tells: whoever reads it checks the signature.
    async fn words_of(&self, verify: VerifyKey) -> Result<Vec<ObjectHash>, RepoError> {
        let mut words = Vec::new();
        for kind in ObjectType::ALL.into_iter().filter(|kind| may_sign(Role::Retired, *kind)) {
            let listed = inventory::list(self.store, kind.prefix()).await?;
            let reads =
                listed.into_iter().filter(|object| object.bytes > SIGNATURE_BYTES as u64).map(|object| async move {
                    let end = object.bytes - SIGNATURE_BYTES as u64;
                    let signer = match self.store.get(&object.key, Some(end..end + 32)).await {
                        Ok(signer) => signer,
                        // Somebody tidied up.
                        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
                        Err(error) => return Err(RepoError::from(error)),
                    };
                    Ok(inventory::hash_of(kind, &object).ok().filter(|_| signer[..] == verify.0))
                });
            let read: Vec<_> = stream::iter(reads).buffer_unordered(READS).try_collect().await?;
            words.extend(read.into_iter().flatten());
        }
        words.sort_unstable();
        Ok(words)
    }

    /// Changes the grace period.
    ///
    /// # Errors
    /// What reading and putting the roster may yield.
    pub async fn set_grace(&self, seconds: u64) -> Result<Changed, RepoError> {
        self.change(|draft| {
            let before = std::mem::replace(&mut draft.roster.grace_seconds, seconds);
            Ok(if before == seconds { Applied::Already } else { Applied::Changed })
        })
        .await
    }

    /// Writes roster and keyring again, as they are: repairs damaged ones, and takes over secrets
    /// of an export that the keyring lacks.
    ///
    /// # Errors
    /// [`RepoError::KeyringLost`] where keyring and export together lack a secret.
    pub async fn renew(&self) -> Result<Changed, RepoError> {
        let mut put = false;
        self.change(|_| Ok(if std::mem::replace(&mut put, true) { Applied::Already } else { Applied::Changed })).await
    }
}

/// A new key of an epoch or of maintenance. Its number is drawn at random, so that two owners at
/// work at once never give one number to two keys.
struct Generation {
    number: u32,
    secret: SealSecret,
}

impl Generation {
    fn new() -> Self {
        let number = u32::from_le_bytes(random()).max(2);
        Self { number, secret: SealSecret::random() }
    }

    fn begin(&self, among: &mut std::collections::BTreeMap<u32, SealSecret>) -> (u32, SealPublic) {
        among.insert(self.number, self.secret.clone());
        (self.number, self.secret.public())
    }
}

fn usage(what: &str, hint: &'static str) -> RepoError {
    RepoError::Usage { what: what.to_owned(), hint: Some(hint) }
}

fn unknown_writer() -> RepoError {
    usage("the roster knows no such writer", "`lifeboat key test FILE` shows how the roster names a key")
}

fn known(draft: &Draft, domain: DomainId) -> Result<Secret, RepoError> {
    draft.secrets.domains.get(&domain).cloned().ok_or_else(|| {
        usage("the repository has no such domain", "`lifeboat key test FILE` shows the domain of a writer")
    })
}

fn tags(keys: &DomainKeys, scopes: &[Scope]) -> Vec<Digest> {
    let mut tags: Vec<Digest> = scopes
        .iter()
        .flat_map(|scope| {
            let whole = scope.sources.is_empty().then(|| keys.stack_tag(&scope.stack));
            whole.into_iter().chain(scope.sources.iter().map(|source| keys.source_tag(&scope.stack, source)))
        })
        .collect();
    tags.sort_unstable();
    tags.dedup();
    tags
}

fn put_writer(
    draft: &mut Draft,
    verify: VerifyKey,
    domain: DomainId,
    allowed: Vec<Digest>,
    now: Timestamp,
) -> Result<Applied, RepoError> {
    let roster = &mut draft.roster;
    if roster.maintainers.iter().chain(&roster.identities).any(|key| key.verify == verify) {
        return Err(another_role());
    }
    if roster.removed.iter().any(|writer| writer.verify == verify) {
        return Err(usage("this writer was removed and does not come back", "make a new request on the host"));
    }
    if let Some(writer) = roster.writers.iter_mut().find(|writer| writer.verify == verify) {
        if writer.allowed == allowed {
            return Ok(Applied::Already);
        }
        writer.allowed = allowed;
        return Ok(Applied::Changed);
    }
    roster.writers.push(RosterWriter { verify, domain, allowed, added: now });
    Ok(Applied::Changed)
}

fn put_key(
    roster: &mut Roster,
    key: &RosterKey,
    role: impl Fn(&mut Roster) -> &mut Vec<RosterKey>,
) -> Result<Applied, RepoError> {
    if role(roster).contains(key) {
        return Ok(Applied::Already);
    }
    let writers = roster.writers.iter().map(|w| w.verify).chain(roster.removed.iter().map(|w| w.verify));
    let others = roster.maintainers.iter().chain(&roster.identities).map(|key| key.verify);
    if writers.chain(others).any(|verify| verify == key.verify) {
        return Err(another_role());
    }
    role(roster).push(key.clone());
    roster.retired.retain(|retired| retired.verify != key.verify);
    Ok(Applied::Changed)
}

fn another_role() -> RepoError {
    usage("the key is on the roster in another role", "make a new key")
}

fn take_key(
    roster: &mut Roster,
    role: impl Fn(&mut Roster) -> &mut Vec<RosterKey>,
    verify: VerifyKey,
    now: Timestamp,
    words: &[ObjectHash],
) -> bool {
    let keys = role(roster);
    let before = keys.len();
    keys.retain(|key| key.verify != verify);
    let taken = keys.len() < before;
    if taken {
        roster.retired.push(RetiredKey { verify, removed: now, words: words.to_vec() });
    }
    taken
}

#[cfg(test)]
mod tests;
