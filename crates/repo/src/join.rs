//! How a further host becomes a writer: it asks with a request, the owner answers with a grant.
//! No secret of the host leaves it, and the grant opens on that host only.
//! `docs/format.md`, section "Requests and grants".

use std::path::Path;
use std::sync::Arc;

use lifeboat_model::{SourceName, StackName};
use lifeboat_store::{Store, StoreErrorKind};
use lifeboat_wire::fs::Existing;
use zeroize::Zeroizing;

use crate::create::without_format;
use crate::crypt::{SealPublic, SealSecret, Secret, SignKey, VerifyKey};
use crate::error::RepoError;
use crate::format::Format;
use crate::keyfile::{KeyFile, KeyFileError, PendingKey, WriterKey};
use crate::keytext::KeyText;
use crate::object::{DomainId, RepositoryId};

/// What a writer may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The stack.
    pub stack: StackName,
    /// Sources of it; all of them where none is named.
    pub sources: Vec<SourceName>,
}

/// What a host asks the owner for. Not secret; who carries it must not change it, so the owner
/// compares [`Request::fingerprint`] with what the host shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The repository in the host's store.
    pub repository: RepositoryId,
    /// The root that signed that repository's `format`.
    pub root: VerifyKey,
    /// Will check the host's signatures.
    pub verify: VerifyKey,
    /// The grant is sealed to this.
    pub seal: SealPublic,
    /// What the host calls itself.
    pub host: String,
    /// What it would like to write.
    pub wish: Scope,
}

/// Makes the keys of a further writer and its request.
///
/// # Errors
/// [`RepoError::NoRepository`], [`RepoError::Object`] where `format` is damaged.
pub async fn request_writer(
    store: &Arc<dyn Store>,
    host: &str,
    wish: Scope,
) -> Result<(PendingKey, Request), RepoError> {
    let key = Format::key();
    let bytes = match store.get(&key, None).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Err(without_format(store).await),
        Err(error) => return Err(error.into()),
    };
    // Nobody has told this host the root yet; the owner refuses a request that names another.
    let (root, format) = Format::open(&bytes).map_err(|source| RepoError::object(&key, source))?;
    let (repository, sign, seal) = (format.repository, SignKey::random(), SealSecret::random());
    let request =
        Request { repository, root, verify: sign.verify_key(), seal: seal.public(), host: host.to_owned(), wish };
    Ok((PendingKey { repository, root, sign, seal }, request))
}

impl Request {
    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = KeyText::new("request");
        text.put_hex("repository", &self.repository.0);
        text.put_hex("root", &self.root.0);
        text.put_hex("verify", &self.verify.0);
        text.put_hex("seal_public", &self.seal.0[..]);
        text.put("host", self.host.as_str());
        text.put("stack", self.wish.stack.as_str());
        let sources: Vec<&str> = self.wish.sources.iter().map(SourceName::as_str).collect();
        text.put("sources", sources.join(","));
        text.encode().to_string()
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn decode(text: &str) -> Result<Self, KeyFileError> {
        let mut text = open_text(text, "request")?;
        let name = |name, why| KeyFileError::Field { name, why };
        let sources = text.take("sources")?;
        let sources = sources.split(',').filter(|source| !source.is_empty()).map(SourceName::new);
        let request = Self {
            repository: RepositoryId(text.fixed("repository")?),
            root: text.verify_key("root")?,
            verify: text.verify_key("verify")?,
            seal: text.seal_public("seal_public")?,
            host: text.take("host")?.chars().filter(|letter| !letter.is_control()).take(100).collect(),
            wish: Scope {
                stack: StackName::new(&text.take("stack")?).map_err(|_| name("stack", "is no name"))?,
                sources: sources.collect::<Result<_, _>>().map_err(|_| name("sources", "has what is no name"))?,
            },
        };
        text.finish()?;
        Ok(request)
    }

    /// Digits that the owner compares with what the host shows.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lifeboat v1 request\0").update(&self.repository.0).update(&self.root.0);
        hasher.update(&self.verify.0).update(&self.seal.0[..]);
        let groups: Vec<String> = hasher.finalize().as_bytes()[..12].chunks_exact(2).map(hex::encode).collect();
        groups.join(" ")
    }
}

/// The owner's answer: the secret of a domain, sealed to the host and signed by the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    repository: RepositoryId,
    root: VerifyKey,
    verify: VerifyKey,
    encapsulation: Vec<u8>,
    sealed: Vec<u8>,
    signature: [u8; 64],
}

impl Grant {
    /// Seals a domain's secret to the host that made `request`.
    pub(crate) fn seal(
        request: &Request,
        domain: DomainId,
        secret: &Secret,
        root: &SignKey,
    ) -> Result<Self, KeyFileError> {
        let Request { repository, verify, .. } = *request;
        let plain = Zeroizing::new([&domain.0[..], &secret.0[..]].concat());
        let (encapsulation, sealed) = request
            .seal
            .seal(&info(repository), &verify.0, &plain)
            .map_err(|_| KeyFileError::Field { name: "seal_public", why: "is no key" })?;
        let mut grant = Self { repository, root: root.verify_key(), verify, encapsulation, sealed, signature: [0; 64] };
        grant.signature = root.sign(&grant.message());
        Ok(grant)
    }

    fn message(&self) -> Vec<u8> {
        [&info(self.repository)[..], &self.verify.0, &self.encapsulation, &self.sealed].concat()
    }

    /// The text of the file.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = KeyText::new("grant");
        text.put_hex("repository", &self.repository.0);
        text.put_hex("root", &self.root.0);
        text.put_hex("verify", &self.verify.0);
        text.put_hex("encapsulation", &self.encapsulation);
        text.put_hex("sealed", &self.sealed);
        text.put_hex("signature", &self.signature);
        text.encode().to_string()
    }

    /// Reads the text of the file.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn decode(text: &str) -> Result<Self, KeyFileError> {
        let mut text = open_text(text, "grant")?;
        let grant = Self {
            repository: RepositoryId(text.fixed("repository")?),
            root: text.verify_key("root")?,
            verify: text.verify_key("verify")?,
            encapsulation: text.bytes("encapsulation")?.to_vec(),
            sealed: text.bytes("sealed")?.to_vec(),
            signature: text.fixed("signature")?,
        };
        text.finish()?;
        Ok(grant)
    }

    /// The complete key of the host that had asked.
    ///
    /// # Errors
    /// [`KeyFileError::Grant`] where it is for another repository or host, not the root's, or
    /// changed.
    ///
    /// # Panics
    /// Never: slices of checked length.
    pub fn accept(&self, pending: &PendingKey) -> Result<WriterKey, KeyFileError> {
        let no = |why| KeyFileError::Grant { why };
        if (self.repository, self.root) != (pending.repository, pending.root) {
            return Err(no("is for another repository"));
        }
        if self.verify != pending.sign.verify_key() {
            return Err(no("answers another host's request"));
        }
        self.root
            .verify(&self.message(), &self.signature)
            .map_err(|_| no("was not signed by the root of this repository"))?;
        let plain = pending
            .seal
            .open(&info(self.repository), &self.verify.0, &self.encapsulation, &self.sealed)
            .map(Zeroizing::new)
            .map_err(|_| no("does not open with this host's key"))?;
        let (domain, secret) = plain.split_at_checked(16).ok_or(no("is too short"))?;
        Ok(WriterKey {
            repository: self.repository,
            root: self.root,
            sign: pending.sign.clone(),
            domain: DomainId(domain.try_into().expect("16 bytes")),
            secret: Secret(secret.try_into().map_err(|_| no("has the wrong length"))?),
        })
    }
}

/// Makes the pending key file of this host a complete writer key file, in one step.
///
/// # Errors
/// [`RepoError::KeyFile`]; the file is then as it was.
pub fn accept_grant(path: &Path, grant: &Grant) -> Result<WriterKey, RepoError> {
    let at = |source| RepoError::KeyFile { path: path.to_owned(), source };
    let pending = match KeyFile::read(path, &mut || None)? {
        KeyFile::Pending(pending) => pending,
        other => return Err(at(KeyFileError::OtherRole { wanted: "pending-writer", found: other.role() })),
    };
    let key = grant.accept(&pending).map_err(at)?;
    KeyFile::Writer(key.clone()).write(path, None, Existing::Replace)?;
    Ok(key)
}

fn info(repository: RepositoryId) -> Vec<u8> {
    [b"lifeboat v1 grant\0", &repository.0[..]].concat()
}

fn open_text(text: &str, wanted: &'static str) -> Result<KeyText, KeyFileError> {
    let text = KeyText::decode(text)?;
    if text.what() == wanted { Ok(text) } else { Err(KeyFileError::NotA { wanted }) }
}
