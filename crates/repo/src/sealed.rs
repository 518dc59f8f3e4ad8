//! Objects that are sealed under a domain and signed, and who may sign what. `docs/format.md`,
//! section "Objects".

use bytes::Bytes;
use lifeboat_model::{Digest, ObjectHash};

use crate::access::Access;
use crate::crypt::{SignKey, VerifyKey};
use crate::object::{DomainId, IndexKey, ObjectError, ObjectType, sealed_domain, sign, verify};
use crate::roster::Roster;

/// As what somebody stands on the roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A writer of the object's domain.
    Writer,
    /// A writer of the object's domain until it was removed.
    RemovedWriter,
    /// A maintainer.
    Maintainer,
    /// An identity.
    Identity,
    /// A maintainer or identity until it was removed: what the roster lists of it stands.
    Retired,
}

/// As what `signer` may act in `domain`; `None` for strangers and writers of other domains.
#[must_use]
pub fn role_of(roster: &Roster, signer: &VerifyKey, domain: DomainId) -> Option<Role> {
    if roster.writers.iter().any(|writer| writer.verify == *signer && writer.domain == domain) {
        Some(Role::Writer)
    } else if roster.maintainers.iter().any(|key| key.verify == *signer) {
        Some(Role::Maintainer)
    } else if roster.identities.iter().any(|key| key.verify == *signer) {
        Some(Role::Identity)
    } else if roster.removed.iter().any(|writer| writer.verify == *signer && writer.domain == domain) {
        Some(Role::RemovedWriter)
    } else {
        None
    }
}

/// Whether `role` may sign objects of this type. What a removed writer signed still stands, since it may be
/// from before; readers check an index and a void against what they name, and take its runs as ended.
#[must_use]
pub const fn may_sign(role: Role, kind: ObjectType) -> bool {
    match kind {
        ObjectType::Index | ObjectType::Void => true,
        ObjectType::Run | ObjectType::Renewal | ObjectType::SnapshotRoot | ObjectType::LogRoot => {
            matches!(role, Role::Writer | Role::RemovedWriter)
        }
        ObjectType::Forget | ObjectType::Hold | ObjectType::Mark | ObjectType::Deleting | ObjectType::Quarantine => {
            matches!(role, Role::Maintainer | Role::Identity | Role::Retired)
        }
        _ => false,
    }
}

/// A signed and sealed object, opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    /// What it says.
    pub value: T,
    /// The hash that names it.
    pub hash: ObjectHash,
    /// Who signed it.
    pub signer: VerifyKey,
    /// As what.
    pub role: Role,
    /// Under which domain it is sealed.
    pub domain: DomainId,
}

/// Seals `plain` under the domain, signs it, and names it.
#[must_use]
pub fn make(key: &IndexKey, kind: ObjectType, plain: &[u8], signer: &SignKey) -> (ObjectHash, Bytes) {
    let bytes = sign(key.repository, kind, &key.seal(kind, plain), signer);
    (ObjectHash(Digest::of(&bytes)), bytes)
}

/// Checks that `bytes` hash to their name.
///
/// # Errors
/// [`ObjectError::WrongHash`].
pub fn check_hash(hash: ObjectHash, bytes: &[u8]) -> Result<(), ObjectError> {
    if Digest::of(bytes) == hash.0 { Ok(()) } else { Err(ObjectError::WrongHash) }
}

/// Opens what [`make`] made, after its hash, its signature and the signer's right were checked.
///
/// # Errors
/// [`ObjectError::ForeignDomain`] where we lack the domain's key; any other means damage or forgery.
pub fn open(access: &Access, kind: ObjectType, hash: ObjectHash, bytes: &[u8]) -> Result<Signed<Vec<u8>>, ObjectError> {
    check_hash(hash, bytes)?;
    let (signer, sealed) = verify(access.repository, kind, bytes)?;
    let domain = sealed_domain(sealed)?;
    let retired = || access.roster.is_word_of_retired(&signer, &hash).then_some(Role::Retired);
    let role = role_of(&access.roster, &signer, domain)
        .or_else(retired)
        .filter(|role| may_sign(*role, kind))
        .ok_or(ObjectError::Stranger(signer))?;
    let keys = access.domains.get(&domain).ok_or(ObjectError::ForeignDomain)?;
    let value = keys.index.open(kind, sealed)?;
    Ok(Signed { value, hash, signer, role, domain })
}

impl<T> Signed<T> {
    /// The same with what `read` makes of the value.
    pub(crate) fn try_map<U>(self, read: impl FnOnce(&T) -> Result<U, ObjectError>) -> Result<Signed<U>, ObjectError> {
        let value = read(&self.value)?;
        Ok(Signed { value, hash: self.hash, signer: self.signer, role: self.role, domain: self.domain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::tests::roster;

    #[test]
    fn each_role_signs_its_own_types_and_writers_only_in_their_domain() {
        use ObjectType as T;
        let roster = roster();
        let (own, other, of_removed) = (DomainId([1; 16]), DomainId([9; 16]), DomainId([4; 16]));
        let writers = [T::Index, T::Run, T::Renewal, T::SnapshotRoot, T::LogRoot, T::Void];
        let keepers = [T::Index, T::Forget, T::Hold, T::Void, T::Mark, T::Deleting, T::Quarantine];
        let table = [
            (1, own, Some(Role::Writer), &writers[..]),
            (1, other, None, &[]),
            (4, of_removed, Some(Role::RemovedWriter), &writers),
            (4, own, None, &[]),
            (2, own, Some(Role::Maintainer), &keepers),
            (3, own, Some(Role::Identity), &keepers),
            (5, own, None, &[]),
            (7, own, None, &[]),
        ];
        for (signer, domain, role, may) in table {
            let found = role_of(&roster, &VerifyKey([signer; 32]), domain);
            assert_eq!(found, role, "{signer}");
            for kind in T::ALL {
                assert_eq!(found.is_some_and(|role| may_sign(role, kind)), may.contains(&kind), "{signer} {kind:?}");
            }
        }
        assert!(T::ALL.into_iter().filter(|kind| may_sign(Role::Retired, *kind)).eq(keepers), "what was listed of it");
    }
}
