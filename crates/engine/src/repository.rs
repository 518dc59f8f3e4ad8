//! A repository as jobs see it: opened with the least keys, watched against replay, its snapshots
//! listed under their names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::config::{RepositoryConfig, SecretUrl, StoreOptions};
use lifeboat_model::flow::EntryReader;
use lifeboat_model::{Digest, ObjectHash, SnapshotId, SourceName, StackName};
use lifeboat_repo::access::DomainKeys;
use lifeboat_repo::forget;
use lifeboat_repo::format::Format;
use lifeboat_repo::keyfile::KeyFileError;
use lifeboat_repo::object::RepositoryId;
use lifeboat_repo::root::RootBody;
use lifeboat_repo::snapshots::{SnapshotInfo, SnapshotList, Trouble};
use lifeboat_repo::writer::{Sealed, SnapshotHead, SnapshotWriter, WriteOptions};
use lifeboat_repo::{Access, Remembered, RememberedHead, RepoError, Repository, open_access, without_format};
use lifeboat_store::url::OpenError;
use lifeboat_store::{Store, StoreErrorKind};

use crate::catalog::SeenSnapshot;
use crate::error::JobError;
use crate::host::Host;
use crate::keys::{Need, load, without};
use crate::listing::{Listing, Names, complete, seen_of, summary_of};
use crate::snapshot::Word;

/// The name under which the catalog keeps what was seen of a repository.
const NEWEST: &str = "newest";

/// An opened repository.
#[derive(Debug)]
pub struct OpenRepository {
    name: String,
    id: String,
    zstd_level: i32,
    repository: Arc<Repository>,
    remembered: Remembered,
    /// Facts that snapshots of this machine's stack record, by key.
    own_facts: BTreeMap<String, BTreeSet<String>>,
}

/// Opens a repository of the configuration with the keys that `need` asks for. What this host
/// remembers of it is compared and brought up to date: an older roster than was seen before is
/// refused.
///
/// # Errors
/// [`JobError`]: the store, a key file, no repository, a wrong key, a roster that was set back.
pub async fn open_repository(
    host: &Host<'_>,
    config: &RepositoryConfig,
    need: Need,
) -> Result<OpenRepository, JobError> {
    let mut keys = match load(host, config, need) {
        Ok(keys) => keys,
        Err(error) => return Err(without_keys(config, need, error).await),
    };
    let store = open_store(config)?;
    let id = hex::encode(keys.home()?.0.0);
    let before = remembered(host, keys.home()?.0);
    let opened = loop {
        match open_access(&store, &keys, before.as_ref()).await {
            Ok(opened) => break opened,
            Err(RepoError::NoRepository { .. }) => return Err(not_initialised(config, None)),
            // A list does with what the other keys can do.
            Err(RepoError::WrongKey { role, key, why }) if need == Need::List && keys.drop_role(role) => {
                without(host, config, &RepoError::WrongKey { role, key, why }.into());
            }
            Err(error) => return Err(error.into()),
        }
    };
    for warning in &opened.warnings {
        host.run.monitor.note(&format!("{}: {warning}", config.name));
    }
    let repository = Repository::open(store, opened.access, &cache_dir(host, &id)).await?;
    let repository = repository.accepting(&opened.remembered.accepted);
    let repository = OpenRepository {
        repository: Arc::new(repository),
        name: config.name.clone(),
        id,
        zstd_level: config.zstd_level,
        remembered: opened.remembered,
        own_facts: BTreeMap::new(),
    };
    if before.as_ref() != Some(&repository.remembered) {
        repository.remember(host);
    }
    Ok(repository)
}

/// What this machine remembers of a repository.
#[must_use]
pub fn remembered(host: &Host<'_>, repository: RepositoryId) -> Option<Remembered> {
    let json = host.remember(host.catalog.memory(&hex::encode(repository.0), NEWEST)).flatten()?;
    let read = serde_json::from_str(&json);
    if let Err(error) = &read {
        let what = "what this machine remembers of the newest state cannot be read and is learned anew";
        host.run.monitor.note(&format!("{}: {what}: {error}", hex::encode(repository.0)));
    }
    read.ok()
}

/// Remembers what was seen of a repository, for [`remembered`].
///
/// # Panics
/// Never: what is remembered is always JSON.
pub fn remember(host: &Host<'_>, seen: &Remembered) {
    let json = serde_json::to_string(seen).expect("what is remembered is always JSON");
    host.remember(host.catalog.remember(&hex::encode(seen.repository.0), NEWEST, &json));
}

/// The object `format` of a repository that lost it, with its store, where this machine remembers it.
///
/// # Errors
/// [`JobError::Repository`]: no key of the repository; `lost` where nothing is remembered.
pub(crate) fn lost_format(
    host: &Host<'_>,
    config: &RepositoryConfig,
    lost: RepoError,
) -> Result<(Arc<dyn Store>, Bytes), JobError> {
    let store = open_store(config)?;
    let (id, root) = load(host, config, Need::List)?.home()?;
    match remembered(host, id).and_then(|remembered| remembered.format(root)) {
        Some(format) => Ok((store, format)),
        None => Err(lost.into()),
    }
}

/// The store of a repository that is there.
///
/// # Errors
/// [`JobError::NotInitialised`] where it holds none, [`JobError::Store`] for a bad URL, or what the
/// store said.
pub async fn find_repository(config: &RepositoryConfig) -> Result<Arc<dyn Store>, JobError> {
    let store = open_store(config)?;
    match store.get(&Format::key(), None).await {
        Ok(_) => Ok(store),
        Err(error) if error.kind == StoreErrorKind::NotFound => match without_format(&store).await {
            RepoError::NoRepository { .. } => Err(not_initialised(config, None)),
            error => Err(error.into()),
        },
        Err(error) => Err(RepoError::from(error).into()),
    }
}

/// The same for a repository that somebody named by its URL.
///
/// # Errors
/// As [`find_repository`]; [`RepoError::NoRepository`] where there is none.
pub async fn find_by_url(url: &SecretUrl, store: &StoreOptions) -> Result<Arc<dyn Store>, JobError> {
    find_repository(&bare(url, store)).await.map_err(elsewhere)
}

/// A repository of which nothing but the URL is known, which is its name as well.
pub(crate) fn bare(url: &SecretUrl, store: &StoreOptions) -> RepositoryConfig {
    RepositoryConfig {
        name: url.to_string(),
        url: url.clone(),
        writer_key_file: None,
        maintainer_key_file: None,
        identity_file: None,
        retention: None,
        zstd_level: 1,
        store: store.clone(),
    }
}

/// The same error without the advice to initialise: the repository was made elsewhere.
pub(crate) fn elsewhere(error: JobError) -> JobError {
    match error {
        JobError::NotInitialised { url, .. } => RepoError::NoRepository { store: url }.into(),
        JobError::NoKeyFile { key: path, .. } => {
            RepoError::KeyFile { path, source: KeyFileError::Read(std::io::ErrorKind::NotFound.into()) }.into()
        }
        other => other,
    }
}

fn open_store(config: &RepositoryConfig) -> Result<Arc<dyn Store>, JobError> {
    lifeboat_store::url::open_store(config.url.expose(), &config.store).map_err(|source| match source {
        OpenError::Store(error) if error.kind == StoreErrorKind::NotFound => not_initialised(config, None),
        source => JobError::Store { repository: config.name.clone(), source },
    })
}

fn not_initialised(config: &RepositoryConfig, key: Option<PathBuf>) -> JobError {
    JobError::NotInitialised { repository: config.name.clone(), url: config.url.to_string(), key }
}

/// Why there are no keys: nothing was made yet, or only this machine lacks its key file.
async fn without_keys(config: &RepositoryConfig, need: Need, error: JobError) -> JobError {
    let files = [&config.writer_key_file, &config.maintainer_key_file, &config.identity_file];
    let missing = match &error {
        JobError::Repository(RepoError::KeyFile { path, source: KeyFileError::Read(error) })
            if error.kind() == std::io::ErrorKind::NotFound =>
        {
            Some(path.clone())
        }
        JobError::Repository(RepoError::KeyMissing { .. }) => {
            files.into_iter().flatten().find(|path| !path.exists()).cloned()
        }
        _ => None,
    };
    let Some(key) = missing else { return error };
    if let Err(JobError::NotInitialised { .. }) = find_repository(config).await {
        return not_initialised(config, Some(key));
    }
    match error {
        // Of the keys that would do, none is configured.
        JobError::Repository(RepoError::KeyMissing { .. }) if need != Need::List => error,
        _ => JobError::NoKeyFile {
            repository: config.name.clone(),
            writer: config.writer_key_file.as_ref() == Some(&key),
            key,
        },
    }
}

fn cache_dir(host: &Host<'_>, id: &str) -> PathBuf {
    host.config.state_dir.join("repositories").join(id)
}

impl OpenRepository {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its id in hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The repository itself.
    #[must_use]
    pub fn inner(&self) -> &Repository {
        &self.repository
    }

    /// The same, to be held by several.
    pub(crate) fn shared(&self) -> Arc<Repository> {
        Arc::clone(&self.repository)
    }

    pub(crate) fn access(&self) -> &Access {
        self.repository.access()
    }

    /// The newest roots that this host has seen.
    pub(crate) fn heads(&self) -> &[RememberedHead] {
        &self.remembered.heads
    }

    /// Facts that snapshots of this machine's stack record, as far as they were listed and read.
    pub(crate) const fn own_facts(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.own_facts
    }

    /// Roots that are gone, or damaged without a copy here, as far as it is told.
    pub(crate) async fn gone(&self) -> Result<BTreeSet<ObjectHash>, JobError> {
        let found = self.repository.snapshots(&self.remembered.heads).await?;
        let mut gone = found.damaged();
        for info in &found.snapshots {
            gone.remove(&ObjectHash(info.id.0));
        }
        gone.extend(found.findings.iter().filter_map(|finding| finding.trouble.gone()));
        Ok(gone)
    }

    /// Takes note that roots are gone for good.
    pub(crate) fn accept(&mut self, host: &Host<'_>, roots: impl IntoIterator<Item = ObjectHash>) {
        roots.into_iter().for_each(|root| self.remembered.accept(root));
        self.remember(host);
    }

    /// Lists the snapshots that can be chosen, oldest first, and brings the catalog up to date.
    ///
    /// # Errors
    /// [`JobError::Repository`] where the store fails.
    pub async fn list(&mut self, host: &Host<'_>) -> Result<Listing, JobError> {
        let found = self.repository.snapshots(&self.remembered.heads).await?;
        let seen = host.remember(host.catalog.seen(&self.id)).unwrap_or_default();
        self.learn(host, &found, &seen);
        let names = self.names(host, &seen);
        let mut snapshots: Vec<_> =
            found.snapshots.iter().filter(|info| info.counts()).map(|info| summary_of(info, &names)).collect();
        complete(&mut snapshots, &seen);
        let refused = found.refused.iter().map(|refused| format!("{}: {}", refused.object, refused.why)).collect();
        // Damaged roots are among those that are refused.
        let findings = found.findings.iter().filter(|finding| !matches!(finding.trouble, Trouble::Damaged { .. }));
        let findings: Vec<String> = findings.map(ToString::to_string).collect();
        for finding in &findings {
            host.run.monitor.note(&format!("{}: {finding}", self.name));
        }
        Ok(Listing { repository: self.name.clone(), snapshots, refused, findings })
    }

    fn names(&self, host: &Host<'_>, seen: &BTreeMap<SnapshotId, SeenSnapshot>) -> Names {
        // Sources that left the configuration keep their names by what the catalog saw.
        let known: BTreeSet<(StackName, SourceName)> = seen.values().filter_map(|seen| seen.names.clone()).collect();
        Names::of(self.access(), host.config, &known)
    }

    /// Remembers heads and bodies that are new to this host.
    fn learn(&mut self, host: &Host<'_>, found: &SnapshotList, seen: &BTreeMap<SnapshotId, SeenSnapshot>) {
        for head in found.heads() {
            self.advance(head);
        }
        self.remember(host);
        for info in &found.snapshots {
            if let Some(body) = seen_of(info) {
                self.learn_facts(host, info, &body);
                if seen.get(&info.id) != Some(&body) {
                    host.remember(host.catalog.saw_snapshot(&self.id, info.id, &body));
                }
            }
        }
    }

    fn learn_facts(&mut self, host: &Host<'_>, info: &SnapshotInfo, body: &SeenSnapshot) {
        if info.summary.as_ref().is_some_and(|summary| summary.stack == *host.stack()) {
            for (key, value) in &body.facts {
                self.own_facts.entry(key.clone()).or_default().insert(value.clone());
            }
        }
    }

    /// Takes a newer head over. An older one never takes the place of a newer.
    fn advance(&mut self, head: RememberedHead) {
        let heads = &mut self.remembered.heads;
        match heads.iter_mut().find(|known| known.writer == head.writer && known.source == head.source) {
            Some(known) if known.sequence < head.sequence => *known = head,
            Some(_) => {}
            None => heads.push(head),
        }
    }

    fn remember(&self, host: &Host<'_>) {
        remember(host, &self.remembered);
    }

    /// A reader of a snapshot's entries, and what its body tells.
    ///
    /// # Errors
    /// [`JobError::Repository`]: no identity, or a root object that is gone, damaged or forged.
    pub(crate) async fn read(&self, id: SnapshotId) -> Result<(Box<dyn EntryReader>, RootBody), JobError> {
        let root = self.repository.root(&id).await?;
        let reader = self.repository.reader_of(&root)?;
        let missing = RepoError::KeyMissing { what: "reading a snapshot", needs: "an identity that opens it" };
        Ok((Box::new(reader), root.body.ok_or(missing)?))
    }

    /// Begins a snapshot.
    ///
    /// # Errors
    /// [`JobError::Repository`]: no writer key, the store.
    pub(crate) async fn writer(&self, host: &Host<'_>, head: SnapshotHead) -> Result<SnapshotWriter, JobError> {
        let options = self.write_options(&head.stack, &head.source);
        Ok(self.repository.writer(head, options, host.run.clone()).await?)
    }

    /// The keys of the writer's own domain.
    pub(crate) fn own_keys(&self) -> Option<&DomainKeys> {
        self.access().domains.get(&self.access().writer.as_ref()?.domain)
    }

    /// The tag of a source in the writer's own domain.
    pub(crate) fn own_tag(&self, stack: &StackName, source: &SourceName) -> Option<Digest> {
        Some(self.own_keys()?.source_tag(stack, source))
    }

    /// How to write a snapshot of a source: at the end of the chain that this host remembers.
    pub(crate) fn write_options(&self, stack: &StackName, source: &SourceName) -> WriteOptions {
        let writer = self.access().writer.as_ref().map(|writer| writer.sign.verify_key());
        let tag = self.own_tag(stack, source);
        let own = |head: &&RememberedHead| Some(head.writer) == writer && Some(head.source) == tag;
        let remembered = self.remembered.heads.iter().find(own).cloned();
        WriteOptions { zstd_level: self.zstd_level, remembered, ..WriteOptions::default() }
    }

    /// Takes note of a snapshot that this host sealed.
    pub(crate) fn sealed(&mut self, host: &Host<'_>, sealed: &Sealed) {
        self.advance(sealed.head.clone());
        self.remember(host);
    }

    /// Drops snapshots by a signed word about each.
    ///
    /// # Errors
    /// [`JobError::Repository`]: no maintainer key or identity, no such snapshot, the store.
    pub(crate) async fn forget(&self, host: &Host<'_>, ids: &[SnapshotId], why: &str) -> Result<(), JobError> {
        Ok(forget::forget(&self.repository, ids, why, host.run).await?)
    }

    /// Says a signed word about a snapshot.
    ///
    /// # Errors
    /// [`JobError::Repository`]: no maintainer key or identity, no such snapshot, the store.
    pub(crate) async fn say(&self, host: &Host<'_>, id: SnapshotId, word: &Word) -> Result<(), JobError> {
        match word {
            Word::Hold(why) => forget::hold(&self.repository, id, why, host.run).await?,
            Word::Release(why) => forget::release(&self.repository, id, why, host.run).await?,
        }
        Ok(())
    }
}
