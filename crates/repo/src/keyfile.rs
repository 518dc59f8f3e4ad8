//! Key files: what each role keeps outside of the repository. `docs/format.md`, section "Key files".
//!
//! Reading and writing them blocks, also for the tenth of a second that a passphrase costs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use lifeboat_wire::fs::{Existing, FsError, write_durable};
use zeroize::Zeroizing;

use crate::crypt::{SealSecret, Secret, SignKey, VerifyKey};
use crate::error::RepoError;
use crate::keytext::{KeyText, TEXT_BYTES_MAX};
use crate::object::{DomainId, RepositoryId};
use crate::passphrase::{self, Passphrase};
use crate::recovery_sheet;
use crate::roster::RosterKey;

/// What a host that backs up keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// Signs runs, indexes and roots.
    pub sign: SignKey,
    /// The writer's domain.
    pub domain: DomainId,
    /// D of that domain.
    pub secret: Secret,
}

/// What a host keeps that has asked to become a writer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingKey {
    /// The repository to which it shall belong.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// Will sign runs, indexes and roots.
    pub sign: SignKey,
    /// Opens the grant.
    pub seal: SealSecret,
}

/// What a host that forgets and prunes keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintainerKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// Signs what maintainers put.
    pub sign: SignKey,
    /// Opens the maintainers' part of the keyring.
    pub seal: SealSecret,
}

/// What whoever may read keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityKey {
    /// The repository to which it belongs.
    pub repository: RepositoryId,
    /// The root that signs that repository's roster.
    pub root: VerifyKey,
    /// The identity's two keys come from it.
    pub seed: Secret,
}

/// What the owner keeps: the root, and an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerKey {
    /// Signs the roster.
    pub root: SignKey,
    /// Reads.
    pub identity: IdentityKey,
}

impl MaintainerKey {
    /// A new key for a repository; the owner puts its [`MaintainerKey::roster_key`] on the roster.
    #[must_use]
    pub fn random(repository: RepositoryId, root: VerifyKey) -> Self {
        Self { repository, root, sign: SignKey::random(), seal: SealSecret::random() }
    }

    /// How the roster names it.
    #[must_use]
    pub fn roster_key(&self) -> RosterKey {
        RosterKey { verify: self.sign.verify_key(), seal: self.seal.public() }
    }
}

impl IdentityKey {
    /// A new key for a repository; the owner puts its [`IdentityKey::roster_key`] on the roster.
    #[must_use]
    pub fn random(repository: RepositoryId, root: VerifyKey) -> Self {
        Self { repository, root, seed: Secret::random() }
    }

    /// Signs what identities put.
    #[must_use]
    pub fn sign(&self) -> SignKey {
        SignKey(self.seed.derive("lifeboat v1 identity sign", &[]))
    }

    /// Opens the identities' part of the keyring.
    #[must_use]
    pub fn seal(&self) -> SealSecret {
        SealSecret(self.seed.derive("lifeboat v1 identity seal", &[]))
    }

    /// How the roster names it.
    #[must_use]
    pub fn roster_key(&self) -> RosterKey {
        RosterKey { verify: self.sign().verify_key(), seal: self.seal().public() }
    }
}

/// A key of any role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFile {
    /// Adds snapshots.
    Writer(WriterKey),
    /// Has asked to become a writer.
    Pending(PendingKey),
    /// Forgets and prunes.
    Maintainer(MaintainerKey),
    /// Reads.
    Identity(IdentityKey),
    /// Reads and signs who is who.
    Owner(OwnerKey),
}

impl KeyFile {
    /// `writer`, `pending-writer`, `maintainer`, `identity`, `owner`.
    #[must_use]
    pub fn role(&self) -> &'static str {
        match self {
            Self::Writer(_) => "writer",
            Self::Pending(_) => "pending-writer",
            Self::Maintainer(_) => "maintainer",
            Self::Identity(_) => "identity",
            Self::Owner(_) => "owner",
        }
    }

    /// The repository and the root that the key names.
    #[must_use]
    pub fn home(&self) -> (RepositoryId, VerifyKey) {
        match self {
            Self::Writer(key) => (key.repository, key.root),
            Self::Pending(key) => (key.repository, key.root),
            Self::Maintainer(key) => (key.repository, key.root),
            Self::Identity(key) | Self::Owner(OwnerKey { identity: key, .. }) => (key.repository, key.root),
        }
    }

    /// The text of the file. With a passphrase the secrets are sealed.
    ///
    /// # Errors
    /// [`KeyFileError::NoPassphrase`] for a role whose file a program reads unattended.
    pub fn encode(&self, passphrase: Option<&Passphrase>) -> Result<Zeroizing<String>, KeyFileError> {
        let (repository, root) = self.home();
        let mut text = KeyText::new(self.role());
        text.put_hex("repository", &repository.0);
        text.put_hex("root", &root.0);
        match (self, passphrase) {
            (Self::Identity(key), Some(passphrase)) => {
                passphrase::seal(&mut text, passphrase, &self.binding(), &key.seed.0);
            }
            (Self::Owner(key), Some(passphrase)) => {
                let both = Zeroizing::new([key.root.0.0, key.identity.seed.0].concat());
                passphrase::seal(&mut text, passphrase, &self.binding(), &both);
            }
            (_, Some(_)) => return Err(KeyFileError::NoPassphrase { role: self.role() }),
            (Self::Writer(key), None) => {
                text.put_hex("sign", &key.sign.0.0);
                text.put_hex("domain", &key.domain.0);
                text.put_hex("domain_secret", &key.secret.0);
            }
            (
                Self::Pending(PendingKey { sign, seal, .. }) | Self::Maintainer(MaintainerKey { sign, seal, .. }),
                None,
            ) => {
                text.put_hex("sign", &sign.0.0);
                text.put_hex("seal", &seal.0.0);
            }
            (Self::Identity(key), None) => text.put_hex("seed", &key.seed.0),
            (Self::Owner(key), None) => {
                text.put_hex("root_seed", &key.root.0.0);
                text.put_hex("seed", &key.identity.seed.0);
            }
        }
        Ok(text.encode())
    }

    /// Reads the text of a file, or of a recovery sheet. `ask` is called where a passphrase is
    /// needed.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn decode(text: &str, ask: &mut dyn FnMut() -> Option<Passphrase>) -> Result<Self, KeyFileError> {
        if !text.trim_start().starts_with('{') {
            return recovery_sheet::parse(text).map(Self::Owner);
        }
        let mut text = KeyText::decode(text)?;
        let what = text.what().to_owned();
        let repository = RepositoryId(text.fixed("repository")?);
        let root = text.verify_key("root")?;
        let key = match what.as_str() {
            "writer" => Self::Writer(WriterKey {
                repository,
                root,
                sign: SignKey(text.secret("sign")?),
                domain: DomainId(text.fixed("domain")?),
                secret: text.secret("domain_secret")?,
            }),
            "pending-writer" => Self::Pending(PendingKey {
                repository,
                root,
                sign: SignKey(text.secret("sign")?),
                seal: SealSecret(text.secret("seal")?),
            }),
            "maintainer" => Self::Maintainer(MaintainerKey {
                repository,
                root,
                sign: SignKey(text.secret("sign")?),
                seal: SealSecret(text.secret("seal")?),
            }),
            "identity" => {
                let [seed] = seeds(&mut text, ["seed"], &binding("identity", repository, root), ask)?;
                Self::Identity(IdentityKey { repository, root, seed })
            }
            "owner" => {
                let names = ["root_seed", "seed"];
                let [root_seed, seed] = seeds(&mut text, names, &binding("owner", repository, root), ask)?;
                let sign = SignKey(root_seed);
                if sign.verify_key() != root {
                    return Err(KeyFileError::Field { name: "root", why: "is not the public half of the root key" });
                }
                Self::Owner(OwnerKey { root: sign, identity: IdentityKey { repository, root, seed } })
            }
            _ => return Err(KeyFileError::UnknownRole(what)),
        };
        text.finish()?;
        Ok(key)
    }

    fn binding(&self) -> Vec<u8> {
        let (repository, root) = self.home();
        binding(self.role(), repository, root)
    }

    /// Writes a new file that only its owner can read. It survives a power cut.
    ///
    /// # Errors
    /// [`RepoError::KeyFile`], with [`KeyFileError::Exists`] where there is a file already.
    pub fn write_new(&self, path: &Path, passphrase: Option<&Passphrase>) -> Result<(), RepoError> {
        self.write(path, passphrase, Existing::Refuse)
    }

    pub(crate) fn write(
        &self,
        path: &Path,
        passphrase: Option<&Passphrase>,
        existing: Existing,
    ) -> Result<(), RepoError> {
        let at = |source| RepoError::KeyFile { path: path.to_owned(), source };
        let text = self.encode(passphrase).map_err(at)?;
        write_durable(path, text.as_bytes(), 0o600, existing).map_err(|error| {
            at(if error.kind() == std::io::ErrorKind::AlreadyExists {
                KeyFileError::Exists
            } else {
                KeyFileError::Write(error)
            })
        })
    }

    /// Reads a file; `ask` is called where it wants a passphrase.
    ///
    /// # Errors
    /// [`RepoError::KeyFile`], also where others than its owner and group may read the file.
    pub fn read(path: &Path, ask: &mut dyn FnMut() -> Option<Passphrase>) -> Result<Self, RepoError> {
        let text = read_private(path).map_err(|source| RepoError::KeyFile { path: path.to_owned(), source })?;
        Self::decode(&text, ask).map_err(|source| RepoError::KeyFile { path: path.to_owned(), source })
    }

    /// The writer key.
    ///
    /// # Errors
    /// [`KeyFileError::OtherRole`].
    pub fn into_writer(self) -> Result<WriterKey, KeyFileError> {
        match self {
            Self::Writer(key) => Ok(key),
            other => Err(KeyFileError::OtherRole { wanted: "writer", found: other.role() }),
        }
    }

    /// The maintainer key.
    ///
    /// # Errors
    /// [`KeyFileError::OtherRole`].
    pub fn into_maintainer(self) -> Result<MaintainerKey, KeyFileError> {
        match self {
            Self::Maintainer(key) => Ok(key),
            other => Err(KeyFileError::OtherRole { wanted: "maintainer", found: other.role() }),
        }
    }

    /// The identity; an owner's file has one too.
    ///
    /// # Errors
    /// [`KeyFileError::OtherRole`].
    pub fn into_identity(self) -> Result<IdentityKey, KeyFileError> {
        match self {
            Self::Identity(key) | Self::Owner(OwnerKey { identity: key, .. }) => Ok(key),
            other => Err(KeyFileError::OtherRole { wanted: "identity", found: other.role() }),
        }
    }

    /// The owner's key.
    ///
    /// # Errors
    /// [`KeyFileError::OtherRole`].
    pub fn into_owner(self) -> Result<OwnerKey, KeyFileError> {
        match self {
            Self::Owner(key) => Ok(key),
            other => Err(KeyFileError::OtherRole { wanted: "owner", found: other.role() }),
        }
    }
}

/// What sealed secrets are bound to.
fn binding(role: &str, repository: RepositoryId, root: VerifyKey) -> Vec<u8> {
    [b"lifeboat v1 key file\0", role.as_bytes(), b"\0", &repository.0, &root.0].concat()
}

/// The seeds, clear or sealed by a passphrase.
fn seeds<const N: usize>(
    text: &mut KeyText,
    names: [&'static str; N],
    binding: &[u8],
    ask: &mut dyn FnMut() -> Option<Passphrase>,
) -> Result<[Secret; N], KeyFileError> {
    let mut out = [const { Secret([0; 32]) }; N];
    if text.has("kdf") {
        let plain = passphrase::open(text, ask, binding)?;
        if plain.len() != N * 32 {
            return Err(KeyFileError::Field { name: "sealed", why: "has the wrong length" });
        }
        for (secret, bytes) in out.iter_mut().zip(plain.chunks_exact(32)) {
            secret.0.copy_from_slice(bytes);
        }
    } else {
        for (secret, name) in out.iter_mut().zip(names) {
            *secret = text.secret(name)?;
        }
    }
    Ok(out)
}

/// Reads a small file that others must not be able to read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let mut file = File::open(path).map_err(KeyFileError::Read)?;
    let meta = file.metadata().map_err(KeyFileError::Read)?;
    if !meta.is_file() {
        return Err(KeyFileError::NotAFile);
    }
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(KeyFileError::TooOpen { mode });
    }
    if mode & 0o070 != 0 {
        tracing::warn!(file = %path.display(), group = meta.gid(), "the file's group can read this key");
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(TEXT_BYTES_MAX + 1));
    file.by_ref().take(TEXT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(KeyFileError::Read)?;
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(KeyFileError::TooLarge);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::NotAKeyFile)?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// What is wrong with a key file. Never tells a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    /// It cannot be written.
    #[error("it cannot be written")]
    Write(#[source] FsError),
    /// A directory, a device.
    #[error("it is not a file")]
    NotAFile,
    /// There is one already.
    #[error("it exists already and is not overwritten")]
    Exists,
    /// Others can read it.
    #[error("every user of this machine can read it (mode {mode:03o})")]
    TooOpen {
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than any key file.
    #[error("it is far larger than a key file")]
    TooLarge,
    /// Broken JSON.
    #[error("its text breaks off or is garbled at line {line}, column {column}")]
    NotJson {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// Something else.
    #[error("it is not a key file of lifeboat")]
    NotAKeyFile,
    /// Written by a newer program.
    #[error("it is of version {0}, newer than this program")]
    NewerVersion(u64),
    /// Written before the format was frozen.
    #[error("it is of version {0}, from before the format was frozen, and this program does not read it")]
    OlderVersion(u64),
    /// A word that is no role.
    #[error("it is for the unknown role {0:?}")]
    UnknownRole(String),
    /// A field.
    #[error("its field {name:?} {why}")]
    Field {
        /// Which.
        name: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// A field that does not belong there.
    #[error("it has an unknown field {0:?}")]
    UnknownField(String),
    /// The checksum does not fit.
    #[error("its checksum does not fit: at least one character is wrong")]
    Checksum,
    /// A grant that does not serve here.
    #[error("the grant {why}")]
    Grant {
        /// What is wrong.
        why: &'static str,
    },
    /// Another kind of file.
    #[error("it is not a {wanted}")]
    NotA {
        /// `request`, `grant`.
        wanted: &'static str,
    },
    /// A line of a recovery sheet.
    #[error("line {line:02} {why}")]
    Line {
        /// The number printed before the line.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// Another role than asked for.
    #[error("it is a key of the role {found}, not {wanted}")]
    OtherRole {
        /// Asked for.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A passphrase is wanted and there is none.
    #[error("it is protected by a passphrase, and none was given")]
    PassphraseNeeded,
    /// The passphrase does not open it.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Programs read this role's file unattended.
    #[error("a key of the role {role} cannot have a passphrase, since runs use it unattended")]
    NoPassphrase {
        /// Which role.
        role: &'static str,
    },
}

impl KeyFileError {
    /// What a person can do.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Read(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path in the configuration; is the medium that holds the key mounted?")
            }
            Self::Read(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("run the command as the user to whom the key file belongs")
            }
            Self::Exists => Some("give another path, or move the old file away if it is not needed"),
            Self::TooOpen { .. } => Some("chmod 600 the file; if others may have read it, make a new key"),
            Self::NotJson { .. } | Self::NotAKeyFile | Self::Checksum | Self::Field { .. } => {
                Some("take another copy of the file, or compare it with this one")
            }
            Self::NewerVersion(_) | Self::UnknownRole(_) => Some("use a newer lifeboat"),
            Self::OlderVersion(_) => Some(crate::error::BEFORE_THE_FREEZE),
            Self::Line { .. } => Some("compare that line with the sheet, digit by digit"),
            Self::OtherRole { found: "pending-writer", .. } => Some(
                "bring this host's request to the owner, who runs `lifeboat key add REQUEST`; then here `lifeboat key accept GRANT`",
            ),
            Self::Grant { .. } => Some("ask the owner to run `lifeboat key add` with this host's own request"),
            Self::OtherRole { .. } => Some("name the file of the role in the configuration"),
            Self::PassphraseNeeded => {
                Some("run the command on a terminal, or give a file that holds it by --passphrase-file")
            }
            Self::WrongPassphrase => Some("try again; nothing was changed"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
