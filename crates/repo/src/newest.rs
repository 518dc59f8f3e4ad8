//! Finding the newest valid roster and its keyring among whatever a store lists.

use std::sync::Arc;

use futures::StreamExt;
use lifeboat_model::{Digest, ObjectHash};
use lifeboat_store::{Key, Store, StoreErrorKind};

use crate::crypt::VerifyKey;
use crate::error::RepoError;
use crate::keyring::Keyring;
use crate::object::{ObjectError, ObjectType, RepositoryId, claimed_signer, signer};
use crate::roster::{KeyringCopy, Roster, numbered_key, parse_numbered_key};

/// Far more rosters than key commands are run; a store that lists more is filled on purpose.
const ROSTERS_MAX: usize = 10_000;
/// Larger than a roster of ten thousand hosts.
const ROSTER_BYTES_MAX: u64 = 32 << 20;

/// Something about the store that a person should know, though the repository opens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenWarning {
    /// A roster that this repository's root did not sign. It is not used.
    #[error("{object} is not signed by the root of this repository (it names the key {signer}); it is not used")]
    ForeignRoster {
        /// Its name in the store.
        object: String,
        /// Who it says has signed it.
        signer: VerifyKey,
    },
    /// A roster that cannot be read.
    #[error("{object} is damaged and not used: {why}")]
    DamagedRoster {
        /// Its name in the store.
        object: String,
        /// What is wrong.
        why: ObjectError,
    },
    /// Two key commands ran at once and one of them did not finish.
    #[error("there are {count} rosters number {number}: run the last key command again and look at its result")]
    Fork {
        /// The number.
        number: u32,
        /// How many bear it.
        count: usize,
    },
    /// The roster before the newest one is not in the store.
    #[error("{object}, which roster {number} names as the one before it, is not in the store")]
    PredecessorMissing {
        /// The newest roster.
        number: u32,
        /// The missing object.
        object: String,
    },
    /// One of the two copies of the keyring cannot be used.
    #[error("{object} cannot be used: {why}; another copy was")]
    KeyringCopy {
        /// Its name in the store.
        object: String,
        /// What is wrong.
        why: String,
    },
    /// Both copies of the newest keyring are bad, an older one was used.
    #[error("no copy of keyring {wanted} can be used; keyring {used} opened, which lacks what was added since")]
    OlderKeyring {
        /// The roster's.
        wanted: u32,
        /// The one that was used.
        used: u32,
    },
}

/// The newest rosters.
#[derive(Debug)]
pub(crate) struct Newest {
    /// The one that holds.
    pub(crate) roster: Roster,
    /// Others of its number, by hash.
    pub(crate) siblings: Vec<Roster>,
    /// What was found on the way.
    pub(crate) warnings: Vec<OpenWarning>,
    /// A damaged object in the place of the next roster: those who write must not pass over it, and
    /// nobody where the root signed it for a newer program.
    pub(crate) damaged: Option<(String, ObjectError)>,
}

enum Candidate {
    Valid(Box<Roster>),
    Foreign(VerifyKey),
    Damaged(ObjectError),
    TooLarge,
}

/// The valid roster with the highest number and, among those, the lowest hash.
pub(crate) async fn newest_roster(
    store: &Arc<dyn Store>,
    repository: RepositoryId,
    root: VerifyKey,
) -> Result<Newest, RepoError> {
    let names = list_rosters(store).await?;
    let mut warnings = Vec::new();
    let (mut valid, mut damaged, mut foreign) = (Vec::<Roster>::new(), Vec::new(), None);
    for name in &names {
        if valid.first().is_some_and(|found| found.number != name.number) {
            break;
        }
        let object = numbered_key(ObjectType::Roster.prefix(), name.number, name.hash).to_string();
        match read_candidate(store, repository, root, name).await? {
            Candidate::Valid(roster) => valid.push(*roster),
            // No owner writes such a thing, so nothing of ours is lost in it.
            Candidate::TooLarge => {
                let why = ObjectError::malformed("far larger than a roster");
                warnings.push(OpenWarning::DamagedRoster { object, why });
            }
            Candidate::Foreign(signer) => {
                // Number 1 is made by creation alone: what stands beside it was left by one that came to nothing.
                if name.number > 1 {
                    warnings.push(OpenWarning::ForeignRoster { object: object.clone(), signer });
                }
                foreign.get_or_insert((object, signer));
            }
            Candidate::Damaged(why) => {
                warnings.push(OpenWarning::DamagedRoster { object: object.clone(), why: why.clone() });
                damaged.push((name.number, object, why));
            }
        }
    }
    if valid.is_empty() {
        return Err(match (foreign, damaged.into_iter().next_back()) {
            (Some((object, found)), _) => RepoError::OtherRoot { object, wanted: root, found },
            (None, Some((_, object, source))) => RepoError::Object { object, source },
            (None, None) => RepoError::Missing { object: "the roster".into() },
        });
    }
    let roster = valid.remove(0);
    if !valid.is_empty() {
        warnings.push(OpenWarning::Fork { number: roster.number, count: valid.len() + 1 });
    }
    if let Some(previous) = roster.previous.filter(|hash| !names.iter().any(|name| name.hash == *hash)) {
        let object = numbered_key(ObjectType::Roster.prefix(), roster.number.saturating_sub(1), previous);
        warnings.push(OpenWarning::PredecessorMissing { number: roster.number, object: object.to_string() });
    }
    // Numbers have no gaps, so the newest roster stands there. What is further above is somebody's junk.
    let above = roster.number.checked_add(1);
    let damaged = damaged.into_iter().find(|(number, ..)| Some(*number) == above).map(|(_, object, why)| (object, why));
    Ok(Newest { roster, siblings: valid, warnings, damaged })
}

struct Name {
    number: u32,
    hash: ObjectHash,
    bytes: u64,
}

/// Names of rosters, highest number first, lowest hash first.
async fn list_rosters(store: &Arc<dyn Store>) -> Result<Vec<Name>, RepoError> {
    let mut names = Vec::new();
    let mut listed = store.list(ObjectType::Roster.prefix());
    while let Some(meta) = listed.next().await.transpose()? {
        let Some((number, hash)) = parse_numbered_key(ObjectType::Roster.prefix(), &meta.key) else { continue };
        if names.len() == ROSTERS_MAX {
            return Err(RepoError::TooMany { what: "rosters", store: store.to_string(), most: ROSTERS_MAX });
        }
        names.push(Name { number, hash, bytes: meta.bytes });
    }
    names.sort_by_key(|name| (std::cmp::Reverse(name.number), name.hash));
    Ok(names)
}

async fn read_candidate(
    store: &Arc<dyn Store>,
    repository: RepositoryId,
    root: VerifyKey,
    name: &Name,
) -> Result<Candidate, RepoError> {
    if name.bytes > ROSTER_BYTES_MAX {
        return Ok(Candidate::TooLarge);
    }
    let key = numbered_key(ObjectType::Roster.prefix(), name.number, name.hash);
    let bytes = match store.get(&key, None).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Ok(Candidate::Damaged(ObjectError::malformed("it is listed, but not there")));
        }
        Err(error) => return Err(error.into()),
    };
    if ObjectHash(Digest::of(&bytes)) != name.hash {
        return Ok(Candidate::Damaged(ObjectError::WrongHash));
    }
    let claimed = match claimed_signer(&bytes) {
        Ok(claimed) => claimed,
        Err(why) => return Ok(Candidate::Damaged(why)),
    };
    // Whole, but not the root's for this repository: put there by somebody else.
    if claimed != root || signer(repository, &bytes).is_err() {
        return Ok(Candidate::Foreign(claimed));
    }
    Ok(match Roster::open(repository, &bytes) {
        Ok((_, roster)) if roster.number != name.number => {
            Candidate::Damaged(ObjectError::malformed("its number is not that of its name"))
        }
        Ok((_, roster)) => Candidate::Valid(Box::new(roster)),
        Err(why) => Candidate::Damaged(why),
    })
}

/// What `open` finds in the keyring of the newest roster: in the first copy that is whole, or in
/// an older keyring where neither is. `None` where it is whole and holds nothing for this key.
pub(crate) async fn newest_keyring<T>(
    store: &Arc<dyn Store>,
    repository: RepositoryId,
    root: VerifyKey,
    newest: &mut Newest,
    open: impl Fn(&Keyring) -> Result<Option<T>, ObjectError>,
) -> Result<Option<T>, RepoError> {
    let wanted = newest.roster.number;
    let mut bad = Vec::new();
    for copy in KeyringCopy::ALL {
        let key = newest.roster.keyring_key(copy);
        match read_keyring(store, repository, root, &key, (wanted, newest.roster.keyring)).await?.and_then(|k| open(&k))
        {
            Ok(found) => {
                newest.warnings.extend(bad);
                return Ok(found);
            }
            Err(why) => bad.push(OpenWarning::KeyringCopy { object: key.to_string(), why: why.to_string() }),
        }
    }
    for (key, number, hash) in older_keyrings(store, wanted).await? {
        let found = read_keyring(store, repository, root, &key, (number, hash)).await?.and_then(|k| open(&k));
        if let Ok(Some(found)) = found {
            newest.warnings.push(OpenWarning::OlderKeyring { wanted, used: number });
            return Ok(Some(found));
        }
    }
    let why = bad.iter().map(|warning| match warning {
        OpenWarning::KeyringCopy { object, why } => format!("{object}: {why}"),
        other => other.to_string(),
    });
    Err(RepoError::KeyringLost { number: wanted, why: why.collect::<Vec<_>>().join("; ") })
}

type ReadKeyring = Result<Keyring, ObjectError>;

async fn read_keyring(
    store: &Arc<dyn Store>,
    repository: RepositoryId,
    root: VerifyKey,
    key: &Key,
    (number, hash): (u32, ObjectHash),
) -> Result<ReadKeyring, RepoError> {
    let bytes = match store.get(key, None).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            return Ok(Err(ObjectError::malformed("it is not in the store")));
        }
        Err(error) => return Err(error.into()),
    };
    if ObjectHash(Digest::of(&bytes)) != hash {
        return Ok(Err(ObjectError::WrongHash));
    }
    Ok(Keyring::open(repository, &bytes).and_then(|(signer, keyring)| {
        if signer != root {
            Err(ObjectError::Stranger(signer))
        } else if keyring.number != number {
            Err(ObjectError::malformed("its number is not that of its name"))
        } else {
            Ok(keyring)
        }
    }))
}

/// Names of keyrings older than `wanted` in both places, newest first.
async fn older_keyrings(store: &Arc<dyn Store>, wanted: u32) -> Result<Vec<(Key, u32, ObjectHash)>, RepoError> {
    let mut names = Vec::new();
    for copy in KeyringCopy::ALL {
        let mut listed = store.list(copy.prefix());
        while let Some(meta) = listed.next().await.transpose()? {
            let Some((number, hash)) = parse_numbered_key(copy.prefix(), &meta.key) else { continue };
            if names.len() == ROSTERS_MAX {
                return Err(RepoError::TooMany { what: "keyrings", store: store.to_string(), most: ROSTERS_MAX });
            }
            if number < wanted && meta.bytes <= ROSTER_BYTES_MAX {
                names.push((meta.key, number, hash));
            }
        }
    }
    names.sort_by_key(|(_, number, hash)| (std::cmp::Reverse(*number), *hash));
    Ok(names)
}
