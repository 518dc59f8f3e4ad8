//! Putting a new roster and keyring, also where two owners do it at once.
//! `docs/format.md`, section "Changing the roster".

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_store::{PutMode, Store};
use tokio::time::sleep;

use crate::crypt::{SealPublic, SealSecret, SignKey};
use crate::error::RepoError;
use crate::keyfile::OwnerKey;
use crate::keyring::{Keyring, RepositorySecrets};
use crate::newest::{Newest, OpenWarning, newest_roster};
use crate::object::{ObjectError, RepositoryId};
use crate::open::{known, open_identity, read_format, refuse_older};
use crate::remember::Remembered;
use crate::roster::{KeyringCopy, Roster};

/// More owners than can be at work at once.
const ROUNDS: usize = 8;

/// A roster with the secrets of its keyring, on the way to the next.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) roster: Roster,
    pub(crate) secrets: RepositorySecrets,
}

/// Whether a change was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The draft was changed.
    Changed,
    /// The draft was already as wanted.
    Already,
}

/// The roster after a change.
#[derive(Clone, Debug)]
pub struct Changed {
    /// It holds now.
    pub roster: Roster,
    /// What the caller remembers from now on; heads as they were given.
    pub remembered: Remembered,
    /// What a person should be told.
    pub warnings: Vec<OpenWarning>,
}

/// The one who decides who may do what, at work on a repository.
#[derive(Clone, Debug)]
pub struct Owner<'a> {
    /// Where the repository lives.
    pub store: &'a Arc<dyn Store>,
    /// Root and identity.
    pub key: &'a OwnerKey,
    /// What was seen of the repository before.
    pub remembered: Option<&'a Remembered>,
    /// Goes on from what the store shows although a newer roster was seen before: the next roster is
    /// then newer than that one too, so that nobody who remembers it refuses.
    pub forget_roster: bool,
    /// The time.
    pub now: Timestamp,
    /// Secrets from an export, where the keyring is lost or lacks them.
    pub exported: Option<RepositorySecrets>,
}

impl Owner<'_> {
    /// Puts what `apply` makes of the newest roster, and again on top of whatever another owner
    /// puts meanwhile, until every newest roster has it. `apply` must say when there is nothing to
    /// do, and make no new secret when it is called again.
    pub(crate) async fn change(
        &self,
        mut apply: impl FnMut(&mut Draft) -> Result<Applied, RepoError>,
    ) -> Result<Changed, RepoError> {
        let identity = &self.key.identity;
        read_format(self.store, identity.repository, identity.root, true).await?;
        let (mut tops, warnings) = self.load().await?;
        if let Some(top) = tops.first().filter(|_| !self.forget_roster) {
            refuse_older(self.store, self.remembered, &top.roster)?;
        }
        let mut mine: Option<Draft> = None;
        for _ in 0..ROUNDS {
            // A fork that was there before is ended, though all have the change. One that two owners make at
            // once is left: each would make the next.
            let ends_fork = mine.is_none() && tops.len() > 1;
            let Some(base) = self.missing(&tops, mine.as_ref(), ends_fork, &mut apply)? else {
                let roster = tops.swap_remove(0).roster;
                let remembered = Remembered::next(self.remembered, identity.repository, &roster);
                return Ok(Changed { roster, remembered, warnings });
            };
            mine = Some(self.put(base).await?);
            sleep(self.store.capabilities().list_staleness).await;
            tops = self.load().await?.0;
        }
        Err(RepoError::Busy { what: "the roster".into() })
    }

    /// The next draft, on top of a newest roster that lacks the change; `None` where all have it
    /// and no secret that was put is left behind. To end a fork there is always one.
    fn missing(
        &self,
        tops: &[Draft],
        mine: Option<&Draft>,
        ends_fork: bool,
        apply: &mut impl FnMut(&mut Draft) -> Result<Applied, RepoError>,
    ) -> Result<Option<Draft>, RepoError> {
        for top in tops {
            let mut draft = top.clone();
            for secrets in self.exported.iter().chain(mine.map(|mine| &mine.secrets)) {
                draft.secrets.merge(secrets);
            }
            let kept = draft.secrets == top.secrets;
            if apply(&mut draft)? == Applied::Changed || !kept {
                check_complete(&draft)?;
                return Ok(Some(draft));
            }
        }
        let first = tops.first().filter(|_| ends_fork).cloned();
        first.map(|draft| check_complete(&draft).map(|()| draft)).transpose()
    }

    /// The newest rosters, the one that holds first, each with everything that any of them knows.
    async fn load(&self) -> Result<(Vec<Draft>, Vec<OpenWarning>), RepoError> {
        let identity = &self.key.identity;
        let mut newest = newest_roster(self.store, identity.repository, identity.root).await?;
        if let Some((object, source)) = newest.damaged.take_if(|(_, why)| matches!(why, ObjectError::NewerVersion(_))) {
            return Err(RepoError::Object { object, source });
        }
        for roster in std::iter::once(&newest.roster).chain(&newest.siblings) {
            known(roster.unknown_feature(true))?;
        }
        let secrets = match open_identity(self.store, identity, &mut newest).await {
            Err(RepoError::KeyringLost { .. }) if self.exported.is_some() => RepositorySecrets::default(),
            other => other?,
        };
        let Newest { roster, siblings, warnings, .. } = newest;
        let tops = std::iter::once(roster).chain(siblings);
        Ok((tops.map(|roster| Draft { roster, secrets: secrets.clone() }).collect(), warnings))
    }

    async fn put(&self, draft: Draft) -> Result<Draft, RepoError> {
        let Draft { mut roster, secrets } = draft;
        let (repository, root) = (self.key.identity.repository, &self.key.root);
        roster.previous = Some(roster.hash);
        let outrun = self.remembered.filter(|_| self.forget_roster).map_or(0, |remembered| remembered.roster);
        roster.number = roster.number.max(outrun) + 1;
        roster.time = self.now.max(roster.time);
        let (roster, objects) = seal_roster(roster, &secrets, repository, root)?;
        put_roster(self.store, &roster, objects).await?;
        Ok(Draft { roster, secrets })
    }
}

/// The objects of a roster.
pub(crate) struct RosterObjects {
    keyring: Bytes,
    roster: Bytes,
}

/// Seals the keyring for everybody on the roster, and signs both.
pub(crate) fn seal_roster(
    mut roster: Roster,
    secrets: &RepositorySecrets,
    repository: RepositoryId,
    root: &SignKey,
) -> Result<(Roster, RosterObjects), RepoError> {
    let keyring = Keyring::seal(repository, roster.number, secrets, &roster.identities, &roster.maintainers)
        .map_err(|error| RepoError::object("the new keyring", ObjectError::Crypt(error)))?;
    let (hash, keyring) = keyring.sign(repository, root);
    roster.keyring = hash;
    roster.hash = ObjectHash(Digest([0; 32]));
    let (roster, object) = roster.sign(repository, root);
    Ok((roster, RosterObjects { keyring, roster: object }))
}

/// Puts the keyring twice and then the roster that names it.
pub(crate) async fn put_roster(
    store: &Arc<dyn Store>,
    roster: &Roster,
    objects: RosterObjects,
) -> Result<(), RepoError> {
    for copy in KeyringCopy::ALL {
        store.put(&roster.keyring_key(copy), objects.keyring.clone(), PutMode::Replace).await?;
    }
    store.put(&roster.key(), objects.roster, PutMode::Replace).await?;
    Ok(())
}

/// Refuses to seal a keyring that lacks what the roster needs: it would take the older one's place.
fn check_complete(draft: &Draft) -> Result<(), RepoError> {
    let Draft { roster, secrets } = draft;
    let has = |number: &u32, public: &SealPublic, among: &BTreeMap<u32, SealSecret>| {
        among.get(number).is_some_and(|secret| secret.public() == *public)
    };
    let domains =
        roster.writers.iter().map(|writer| writer.domain).chain(roster.removed.iter().map(|writer| writer.domain));
    let lacks = if !has(&roster.epoch.0, &roster.epoch.1, &secrets.epochs) {
        "the secret of the newest epoch"
    } else if !has(&roster.maintenance.0, &roster.maintenance.1, &secrets.maintenance) {
        "the secret of the newest maintenance key"
    } else if domains.into_iter().any(|domain| !secrets.domains.contains_key(&domain)) {
        "the secret of a domain"
    } else {
        return Ok(());
    };
    Err(RepoError::KeyringLost { number: roster.number, why: format!("what opened lacks {lacks}") })
}
