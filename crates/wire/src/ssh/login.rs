//! Whom to reach, by what to know it, and with which keys to log in: options before `~/.ssh/config`
//! before what is usual.

use std::path::{Path, PathBuf};

use lifeboat_model::config::SshOptions;
use russh::client::{AuthResult, Handle};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{Algorithm, HashAlg, PrivateKeyWithHashAlg, PublicKey};

use super::connection::Guard;
use super::key::{LoadedKey, load, usual_files};
use super::known_hosts::{KnownHosts, text_of};
use super::{Address, SshError, SshErrorKind, config};

/// Keys of an agent that are tried; servers hang up after six.
const AGENT_KEYS_MAX: usize = 5;

/// Everything that was found out before a connection is opened.
pub(super) struct Login {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) known: KnownHosts,
    keys: Vec<PathBuf>,
    passphrase_file: Option<PathBuf>,
    agent: Option<PathBuf>,
    /// Whether the keys were named by a person: then no others are tried.
    named: bool,
}

impl Login {
    pub(super) fn find(address: &Address, options: &SshOptions) -> Result<Self, SshError> {
        let setup = |what: String| SshError::new(SshErrorKind::Setup, what);
        let home = options.home.as_deref();
        let config = home.map(|home| config::read(home, &address.host)).transpose().map_err(setup)?.unwrap_or_default();
        if let Some(proxy) = &config.proxy
            && proxy != "ProxyJump none"
            && proxy != "ProxyCommand none"
        {
            let what = format!("~/.ssh/config reaches {} by `{proxy}`, which lifeboat does not do", address.host);
            return Err(setup(what).hinting(format!(
                "open a tunnel with `ssh -N -L 2222:localhost:22 {0}` and use localhost:2222, or give {0} a host alias without it",
                address.host
            )));
        }
        let host = config.host_name.unwrap_or_else(|| address.host.clone());
        let port = address.port.or(config.port).unwrap_or(22);
        let user = address.user.clone().or(config.user).or_else(|| options.local_user.clone());
        let user = user.ok_or_else(|| {
            setup(format!("nobody says who logs in at {host}"))
                .hinting(format!("write sftp://USER@{}/...", address.host))
        })?;
        let known = match (&options.host_key, &options.known_hosts_file) {
            (Some(key), _) => KnownHosts::pinned(key, &host, port)?,
            (None, file) => {
                let files = match file {
                    Some(file) => vec![file.clone()],
                    None if !config.known_hosts.is_empty() => config.known_hosts,
                    None => home.map(|home| home.join(".ssh/known_hosts")).into_iter().chain(global_hosts()).collect(),
                };
                match &config.host_key_alias {
                    Some(alias) => KnownHosts::read(&files, alias, 22)?,
                    None => KnownHosts::read(&files, &host, port)?,
                }
            }
        };
        let agent = match config.identity_agent.as_deref() {
            Some("none") => None,
            Some("SSH_AUTH_SOCK") | None => options.agent_socket.clone(),
            Some(path) => Some(PathBuf::from(path)),
        };
        let mut keys: Vec<PathBuf> = options.private_key_file.iter().cloned().collect();
        let named = !keys.is_empty();
        if !named {
            keys = config.identity_files.into_iter().filter(|path| path.exists()).collect();
        }
        if keys.is_empty() {
            keys = home.map(usual_files).unwrap_or_default();
        }
        Ok(Self { host, port, user, known, keys, passphrase_file: options.passphrase_file.clone(), agent, named })
    }

    /// Logs in with the first key that the server takes.
    pub(super) async fn log_in(&self, handle: &mut Handle<Guard>) -> Result<(), SshError> {
        let lost = |error: russh::Error| SshError::new(SshErrorKind::Lost, format!("the login broke off: {error}"));
        let hash = handle.best_supported_rsa_hash().await.map_err(lost)?.flatten().or(Some(HashAlg::Sha512));
        let mut tried: Vec<PublicKey> = Vec::new();
        let mut locked = None;
        for path in &self.keys {
            let key = match load(path, self.passphrase_file.as_deref()) {
                Ok(key) => key,
                Err(error) if self.named => return Err(error),
                // One of the usual files; another one or the agent may do.
                Err(_) => continue,
            };
            let public = key.public().clone();
            let result = match key {
                LoadedKey::Locked(_) => {
                    if self.agent_has(&public, handle, hash).await? {
                        return Ok(());
                    }
                    locked.get_or_insert((path, public));
                    continue;
                }
                LoadedKey::Plain(key) => {
                    let key = PrivateKeyWithHashAlg::new(key, None);
                    handle.authenticate_publickey(&self.user, key).await.map_err(lost)?
                }
                LoadedKey::Rsa(public, mut signer) => handle
                    .authenticate_publickey_with(&self.user, public, hash, &mut signer)
                    .await
                    .map_err(|error| SshError::new(SshErrorKind::Setup, error.to_string()))?,
            };
            if accepted(&result)? {
                return Ok(());
            }
            // The library tells a line that broke during the login as a refusal.
            if handle.is_closed() {
                return Err(SshError::new(SshErrorKind::Lost, "the connection broke during the login"));
            }
            tried.push(public);
        }
        if !self.named {
            for public in self.agent_keys().await.into_iter().take(AGENT_KEYS_MAX) {
                if !tried.contains(&public) {
                    if self.agent_has(&public, handle, hash).await? {
                        return Ok(());
                    }
                    tried.push(public);
                }
            }
        }
        Err(match (tried.is_empty(), locked) {
            (true, Some((path, _))) => locked_error(path),
            _ => self.refused(&tried),
        })
    }

    fn refused(&self, tried: &[PublicKey]) -> SshError {
        let Some(first) = tried.first() else {
            let what = format!("there is no key to log in as {} at {}", self.user, self.host);
            return SshError::new(SshErrorKind::Setup, what)
                .hinting("`ssh-keygen -t ed25519` makes one; name it with privateKeyFile");
        };
        let names: Vec<String> =
            tried.iter().map(|key| format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256))).collect();
        let what = format!("{} lets {} not log in with {}", self.host, self.user, names.join(" or "));
        SshError::new(SshErrorKind::Login, what).hinting(format!(
            "the server needs this line in the authorized_keys of {}:\n  {}",
            self.user,
            text_of(first)
        ))
    }

    async fn agent(&self) -> Option<AgentClient<tokio::net::UnixStream>> {
        AgentClient::connect_uds(self.agent.as_ref()?).await.ok()
    }

    async fn agent_keys(&self) -> Vec<PublicKey> {
        let Some(mut agent) = self.agent().await else { return Vec::new() };
        let held = agent.request_identities().await.unwrap_or_default();
        let public = |held: AgentIdentity| match held {
            AgentIdentity::PublicKey { key, .. } => Some(key),
            AgentIdentity::Certificate { .. } => None,
        };
        held.into_iter().filter_map(public).collect()
    }

    /// Logs in with a key of the agent; false where the agent has it not or the server does not take it.
    async fn agent_has(
        &self,
        public: &PublicKey,
        handle: &mut Handle<Guard>,
        hash: Option<HashAlg>,
    ) -> Result<bool, SshError> {
        let held = self.agent_keys().await;
        let Some(key) = held.into_iter().find(|key| key.key_data() == public.key_data()) else { return Ok(false) };
        let Some(mut agent) = self.agent().await else { return Ok(false) };
        let hash = if matches!(key.algorithm(), Algorithm::Rsa { .. }) { hash } else { None };
        match handle.authenticate_publickey_with(&self.user, key, hash, &mut agent).await {
            Ok(result) => accepted(&result),
            // The agent does not sign; another key may do.
            Err(_) => Ok(false),
        }
    }
}

fn global_hosts() -> [PathBuf; 1] {
    [PathBuf::from("/etc/ssh/ssh_known_hosts")]
}

fn accepted(result: &AuthResult) -> Result<bool, SshError> {
    match result {
        AuthResult::Success => Ok(true),
        AuthResult::Failure { partial_success: true, remaining_methods } => {
            let more: Vec<&str> = remaining_methods.iter().map(Into::into).collect();
            let what = format!("the server takes the key and asks for more: {}", more.join(", "));
            Err(SshError::new(SshErrorKind::Login, what)
                .hinting("let the account log in with its key alone (AuthenticationMethods publickey)"))
        }
        AuthResult::Failure { .. } => Ok(false),
    }
}

fn locked_error(path: &Path) -> SshError {
    let what = format!("the private key {} is protected by a passphrase", path.display());
    SshError::new(SshErrorKind::Setup, what).hinting(format!(
        "`ssh-add {}` gives it to the agent, or name a file with the passphrase in privateKeyPassphraseFile",
        path.display()
    ))
}
