//! The secrets of a repository as a text for escrow, for the day when both keyrings are lost.
//! `docs/format.md`, section "Exported secrets".

use std::sync::Arc;

use lifeboat_store::Store;
use zeroize::Zeroizing;

use crate::crypt::{SealSecret, VerifyKey};
use crate::error::RepoError;
use crate::keyfile::{IdentityKey, KeyFileError};
use crate::keyring::RepositorySecrets;
use crate::keytext::KeyText;
use crate::newest::newest_roster;
use crate::object::{DomainId, RepositoryId};
use crate::open::{known, open_identity, read_format, refuse_older};
use crate::remember::Remembered;

/// All secrets of the keyring as a text. Whoever has it reads everything that was written until
/// now; it opens no roster and signs nothing.
///
/// # Errors
/// As [`crate::open_access`] with an identity.
pub async fn export_secrets(
    store: &Arc<dyn Store>,
    identity: &IdentityKey,
    remembered: Option<&Remembered>,
) -> Result<Zeroizing<String>, RepoError> {
    let (repository, root) = (identity.repository, identity.root);
    read_format(store, repository, root, false).await?;
    let mut newest = newest_roster(store, repository, root).await?;
    refuse_older(store, remembered, &newest.roster)?;
    known(newest.roster.unknown_feature(false))?;
    let secrets = open_identity(store, identity, &mut newest).await?;
    Ok(encode(repository, root, &secrets))
}

fn encode(repository: RepositoryId, root: VerifyKey, secrets: &RepositorySecrets) -> Zeroizing<String> {
    let mut text = KeyText::new("secrets");
    text.put_hex("repository", &repository.0);
    text.put_hex("root", &root.0);
    for (number, secret) in &secrets.epochs {
        text.put_hex(&format!("epoch-{number}"), &secret.0.0);
    }
    for (number, secret) in &secrets.maintenance {
        text.put_hex(&format!("maintenance-{number}"), &secret.0.0);
    }
    for (domain, secret) in &secrets.domains {
        text.put_hex(&format!("domain-{}", hex::encode(domain.0)), &secret.0);
    }
    text.encode()
}

/// Reads what [`export_secrets`] made for this repository and root.
///
/// # Errors
/// [`KeyFileError`], also for the export of another repository.
pub fn decode_secrets(
    text: &str,
    repository: RepositoryId,
    root: VerifyKey,
) -> Result<RepositorySecrets, KeyFileError> {
    let mut text = KeyText::decode(text)?;
    if text.what() != "secrets" {
        return Err(KeyFileError::NotA { wanted: "export of secrets" });
    }
    if (RepositoryId(text.fixed("repository")?), text.verify_key("root")?) != (repository, root) {
        return Err(KeyFileError::Field { name: "repository", why: "is another repository's" });
    }
    let mut out = RepositorySecrets::default();
    let bad = KeyFileError::UnknownField;
    for name in text.names("epoch-") {
        let number = name["epoch-".len()..].parse().map_err(|_| bad(name.clone()))?;
        out.epochs.insert(number, SealSecret(text.secret_named(&name)?));
    }
    for name in text.names("maintenance-") {
        let number = name["maintenance-".len()..].parse().map_err(|_| bad(name.clone()))?;
        out.maintenance.insert(number, SealSecret(text.secret_named(&name)?));
    }
    for name in text.names("domain-") {
        let mut domain = [0; 16];
        hex::decode_to_slice(&name["domain-".len()..], &mut domain).map_err(|_| bad(name.clone()))?;
        out.domains.insert(DomainId(domain), text.secret_named(&name)?);
    }
    text.finish()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use lifeboat_store::memory::MemoryStore;

    use super::*;
    use crate::testing::TestRepository;

    #[tokio::test]
    async fn exported_secrets_come_back_and_belong_to_their_repository_only() {
        let repository = TestRepository::create(Arc::new(MemoryStore::default())).await;
        let identity = &repository.owner.identity;
        let text = export_secrets(&repository.store, identity, None).await.expect("exported");
        let secrets = decode_secrets(&text, identity.repository, identity.root).expect("read");
        assert_eq!(secrets.epochs, repository.identity.epochs);
        assert_eq!(secrets.maintenance, repository.identity.maintenance);
        assert_eq!(secrets.domains[&repository.writer_key.domain], repository.writer_key.secret);
        assert!(decode_secrets(&text, RepositoryId([0; 16]), identity.root).is_err());
        let typo = text.replacen("epoch-1", "epoch-2", 1);
        assert!(matches!(decode_secrets(&typo, identity.repository, identity.root), Err(KeyFileError::Checksum)));
    }
}
