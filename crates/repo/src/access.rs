//! What an opened repository lets this process do, by the keys that it was given.

use std::collections::BTreeMap;

use lifeboat_model::{ChunkId, Digest, SourceName, StackName};

use crate::crypt::{CryptError, SealSecret, Secret, SignKey};
use crate::error::RepoError;
use crate::object::{DomainId, Envelope, IndexKey, Reader, Recipient, RepositoryId};
use crate::roster::Roster;

/// Keys of one domain. Maintainers have the index key only.
#[derive(Clone, Debug)]
pub struct DomainKeys {
    /// Which domain, with `K_idx`.
    pub index: IndexKey,
    /// Keys that only writers of the domain and identities have.
    pub content: Option<ContentKeys>,
}

/// Keys that make chunk ids and chunk boundaries.
#[derive(Clone, Debug)]
pub struct ContentKeys {
    /// `K_id`, ids of data chunks.
    pub chunk_ids: Secret,
    /// `K_page`, ids of manifest and content pages.
    pub page_ids: Secret,
    /// `K_cdc`, the chunker's table and the boundaries of pages.
    pub chunker: Secret,
}

impl DomainKeys {
    /// All keys of a domain, from its secret D.
    #[must_use]
    pub fn from_secret(repository: RepositoryId, domain: DomainId, secret: &Secret) -> Self {
        Self {
            index: IndexKey { repository, domain, key: secret.derive("lifeboat v1 index key", &[]) },
            content: Some(ContentKeys {
                chunk_ids: secret.derive("lifeboat v1 chunk ids", &[]),
                page_ids: secret.derive("lifeboat v1 page ids", &[]),
                chunker: secret.derive("lifeboat v1 chunker", &[]),
            }),
        }
    }

    /// `K_refs` applied to a reference page.
    #[must_use]
    pub fn refs_id(&self, plain: &[u8]) -> ChunkId {
        self.index.key.derive("lifeboat v1 refs ids", &[]).chunk_id(plain)
    }

    /// The tag by which root headers and rosters name a stack.
    #[must_use]
    pub fn stack_tag(&self, stack: &StackName) -> Digest {
        self.tags().mac(&[b"stack\0", stack.as_str().as_bytes()])
    }

    /// The tag by which root headers and rosters name a source.
    #[must_use]
    pub fn source_tag(&self, stack: &StackName, source: &SourceName) -> Digest {
        self.tags().mac(&[b"source\0", stack.as_str().as_bytes(), b"/", source.as_str().as_bytes()])
    }

    /// The tags by which root headers tell of which system a source is: one for each fact.
    #[must_use]
    pub fn system_tags(&self, identity: &BTreeMap<String, String>) -> Vec<Digest> {
        let mut tags: Vec<Digest> = identity.iter().map(|(key, value)| self.system_tag(key, value)).collect();
        tags.sort_unstable();
        tags
    }

    /// The tag of one fact by which systems are told apart.
    #[must_use]
    pub fn system_tag(&self, key: &str, value: &str) -> Digest {
        self.tags().mac(&[b"system\0", key.as_bytes(), b"\0", value.as_bytes()])
    }

    fn tags(&self) -> Secret {
        self.index.key.derive("lifeboat v1 tags", &[])
    }
}

/// Everything that the given keys opened.
#[derive(Clone, Debug)]
pub struct Access {
    /// The repository.
    pub repository: RepositoryId,
    /// The newest valid roster.
    pub roster: Roster,
    /// Domains whose keys are at hand: the writer's own, or all of them for maintainers and
    /// identities.
    pub domains: BTreeMap<DomainId, DomainKeys>,
    /// Present where a writer key was given.
    pub writer: Option<WriterAccess>,
    /// Present where a maintainer or identity key was given: signs forget, hold, mark, index.
    pub maintain: Option<SignKey>,
    /// Present with an identity: vouches for the age of what was copied.
    pub identity: Option<SignKey>,
    /// Secrets of the epochs: present with an identity. They open content.
    pub epochs: BTreeMap<u32, SealSecret>,
    /// Secrets of the maintenance keys: present with a maintainer or an identity. They open references.
    pub maintenance: BTreeMap<u32, SealSecret>,
    /// A feature of the repository that this program would have to know to change anything: an identity
    /// reads all the same.
    pub read_only: Option<String>,
}

/// What a writer signs with and for which domain.
#[derive(Clone, Debug)]
pub struct WriterAccess {
    /// Signs indexes, runs and roots.
    pub sign: SignKey,
    /// The writer's domain.
    pub domain: DomainId,
}

impl Access {
    /// The recipient of new content: the newest epoch of the roster.
    #[must_use]
    pub fn epoch_recipient(&self) -> Recipient {
        Recipient { reader: Reader::Epoch, generation: self.roster.epoch.0, public: self.roster.epoch.1.clone() }
    }

    /// The recipient of new references.
    #[must_use]
    pub fn maintenance_recipient(&self) -> Recipient {
        Recipient {
            reader: Reader::Maintenance,
            generation: self.roster.maintenance.0,
            public: self.roster.maintenance.1.clone(),
        }
    }

    /// Refuses where the writer at hand may not write this source: nobody would take its snapshots.
    ///
    /// # Errors
    /// [`RepoError::KeyMissing`] without a writer key, [`RepoError::NotAllowed`].
    pub fn check_may_write(&self, stack: &StackName, source: &SourceName) -> Result<(), RepoError> {
        let missing = RepoError::KeyMissing { what: "writing a snapshot", needs: "a writer key" };
        let Some(writer) = &self.writer else { return Err(missing) };
        let Some(keys) = self.domains.get(&writer.domain) else { return Err(missing) };
        let verify = writer.sign.verify_key();
        let known = self.roster.writer(verify).filter(|known| known.domain == writer.domain);
        if known.is_some_and(|known| known.allows(keys.stack_tag(stack), keys.source_tag(stack, source))) {
            return Ok(());
        }
        Err(RepoError::NotAllowed { key: Digest(verify.0).short(), source_name: format!("{stack}/{source}") })
    }

    /// Whether content can be read.
    #[must_use]
    pub fn can_read(&self) -> bool {
        !self.epochs.is_empty()
    }

    /// The run secret in an envelope; `None` where we do not have the key of its generation.
    ///
    /// # Errors
    /// [`CryptError`] where the envelope was changed.
    pub fn secret_of(&self, envelope: &Envelope) -> Result<Option<Secret>, CryptError> {
        let keys = match envelope.reader() {
            Reader::Epoch => &self.epochs,
            Reader::Maintenance => &self.maintenance,
        };
        keys.get(&envelope.generation()).map(|key| envelope.open(self.repository, key)).transpose()
    }

    /// The run secret in an envelope, if one of our keys opens it.
    ///
    /// # Errors
    /// [`CryptError::NotAuthentic`] where we lack the key of its generation, or it was changed.
    pub fn open_envelope(&self, envelope: &Envelope) -> Result<Secret, CryptError> {
        self.secret_of(envelope)?.ok_or(CryptError::NotAuthentic)
    }
}
