//! An open run: how a writer and a prune agree without locks. G is the grace period of the roster.
//!
//! - **W1, begin**: put `run`, then list indexes and marks. Use only packs that are indexed now and
//!   not marked.
//! - **W2, during**: every G/4 put a `renewal`: the marks that were seen (what they name is avoided
//!   from now on), and pins (packs that were used before they were marked).
//! - **W3, seal**: renew; if any gap was longer than G/2, look up every used pack again, or fail. Put
//!   the index, then the root; wait out the store's list staleness; look at `deleting` objects, and after
//!   such a gap at every used pack once more; if one is going or gone, put `void` and fail. Sealed means
//!   that this passed.
//!
//! Lists may lag. What a prune put before the root is seen after the wait; what it puts later finds the
//! root, since a prune waits as long between its `deleting` and its look at the roots. A list that lags
//! also shows packs that are gone, so it is not asked for them; and a renewal may be seen late, so that
//! the lag counts as silence.
//!
//! Times between two renewals are taken from both clocks, and the longer one counts: a suspended
//! machine stops one of them, a corrected clock makes the other jump. Too long a time costs a look at
//! every used pack, never a snapshot that lacks chunks.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use lifeboat_model::flow::Clock;
use lifeboat_model::{Digest, ObjectHash, SnapshotId};
use lifeboat_store::{Store, StoreErrorKind};
use tokio::sync::Mutex;

use crate::access::Access;
use crate::crypt::{SignKey, random};
use crate::error::RepoError;
use crate::object::{IndexKey, ObjectError, ObjectType};
use crate::pack::PackKind;
use crate::pipeline::known::Known;
use crate::pipeline::stop::{Stop, with_causes};
use crate::pipeline::upload::put_object;
use crate::small::{self, Deleting, Mark, Quarantine, Renewal, Run, RunId, Small};

/// The most objects of one kind of a prune's that a run reads. More than this is no prune.
const OBJECTS_MAX: usize = 100_000;
/// Gets at the same time.
const GETS_MAX: usize = 8;

/// With what a run reads and writes small objects.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) access: Arc<Access>,
    pub(crate) key: IndexKey,
    pub(crate) sign: SignKey,
}

/// The hash in the name of an object.
fn hash_of(name: &str) -> Option<ObjectHash> {
    ObjectHash::from_hex(name.rsplit('/').next()?).ok()
}

impl Link {
    async fn put<T: Small>(&self, value: &T) -> Result<(), RepoError> {
        let (name, bytes) = small::encode(value, &self.key, &self.sign);
        put_object(self.store.as_ref(), &name, bytes).await
    }

    /// Hashes of all objects of a type.
    pub(crate) async fn list(&self, kind: ObjectType) -> Result<Vec<ObjectHash>, RepoError> {
        let mut hashes = Vec::new();
        let mut listed = self.store.list(kind.prefix());
        while let Some(object) = listed.try_next().await? {
            hashes.extend(hash_of(object.key.as_str()));
            if hashes.len() > OBJECTS_MAX {
                let what = format!("{} holds more than {OBJECTS_MAX} objects", kind.prefix());
                return Err(RepoError::Usage {
                    what,
                    hint: Some("find out who wrote them and remove what is not a prune's"),
                });
            }
        }
        Ok(hashes)
    }

    /// One object; `None` where it is gone, of another domain, or signed by somebody who may not.
    ///
    /// # Errors
    /// Of the store; where the object is damaged or newer than this program, since what it names must
    /// not be guessed.
    async fn read<T: Small>(&self, hash: ObjectHash) -> Result<Option<T>, RepoError> {
        let name = T::TYPE.key(hash);
        let bytes = match self.store.get(&name, None).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        match small::decode::<T>(&self.access, hash, &bytes) {
            Ok(signed) if signed.domain == self.key.domain => Ok(Some(signed.value)),
            Ok(_) | Err(ObjectError::ForeignDomain) => Ok(None),
            Err(error @ (ObjectError::Stranger(_) | ObjectError::NotAllowed(_))) => {
                tracing::warn!(object = %name, "ignored: {error}");
                Ok(None)
            }
            Err(error) => Err(RepoError::object(name, error)),
        }
    }

    async fn read_all<T: Small>(&self, hashes: Vec<ObjectHash>) -> Result<Vec<(ObjectHash, T)>, RepoError> {
        let reads = futures::stream::iter(hashes).map(async |hash| Ok((hash, self.read::<T>(hash).await?)));
        reads
            .buffer_unordered(GETS_MAX)
            .try_filter_map(async |(hash, value)| Ok(value.map(|value| (hash, value))))
            .try_collect()
            .await
    }
}

/// When something was, by both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    monotonic: Duration,
    wall: Timestamp,
}

impl Moment {
    fn now(clock: &dyn Clock) -> Self {
        Self { monotonic: clock.monotonic(), wall: clock.now() }
    }

    /// The longer of the two times that have passed.
    fn until(self, later: Self) -> Duration {
        let wall = Duration::try_from(later.wall.duration_since(self.wall)).unwrap_or_default();
        later.monotonic.saturating_sub(self.monotonic).max(wall)
    }
}

#[derive(Debug)]
struct Renewals {
    number: u64,
    last: Moment,
    longest_gap: Duration,
    /// Packs of every mark that was seen.
    marks: BTreeMap<ObjectHash, Vec<ObjectHash>>,
}

/// A run that a prune respects as long as it is renewed.
pub(crate) struct OpenRun {
    pub(crate) id: RunId,
    grace: Duration,
    link: Link,
    known: Arc<Known>,
    clock: Arc<dyn Clock>,
    renewals: Mutex<Renewals>,
}

impl OpenRun {
    /// The writer's key.
    pub(crate) fn sign(&self) -> &SignKey {
        &self.link.sign
    }

    /// W1, first half: puts the `run`. Whatever the caller lists afterwards is fresh enough, its own chain too:
    /// this machine may have died right after a root that it does not remember, so the lag is waited out.
    pub(crate) async fn announce(link: &Link, source_tag: Digest, clock: &dyn Clock) -> Result<RunId, RepoError> {
        let id = RunId(random());
        link.put(&Run { run: id, source_tag, time: clock.now() }).await?;
        tokio::time::sleep(link.store.capabilities().list_staleness).await;
        Ok(id)
    }

    /// W1, second half: reads what is marked and what is quarantined, so that it is not used.
    pub(crate) async fn begin(
        id: RunId,
        link: Link,
        known: Arc<Known>,
        clock: Arc<dyn Clock>,
        grace: Duration,
    ) -> Result<Self, RepoError> {
        let last = Moment::now(clock.as_ref());
        let renewals = Renewals { number: 0, last, longest_gap: Duration::ZERO, marks: BTreeMap::new() };
        let this = Self { id, grace, link, known, clock, renewals: Mutex::new(renewals) };
        let quarantines = this.link.list(ObjectType::Quarantine).await?;
        for (_, quarantine) in this.link.read_all::<Quarantine>(quarantines).await? {
            this.known.distrust(&quarantine.chunks);
        }
        let mut renewals = this.renewals.lock().await;
        this.read_marks(&mut renewals).await?;
        drop(renewals);
        Ok(this)
    }

    async fn read_marks(&self, renewals: &mut Renewals) -> Result<(), RepoError> {
        let mut unseen = self.link.list(ObjectType::Mark).await?;
        unseen.retain(|hash| !renewals.marks.contains_key(hash));
        for (hash, mark) in self.link.read_all::<Mark>(unseen).await? {
            let packs: Vec<ObjectHash> = mark.packs.iter().map(|(_, hash)| *hash).collect();
            self.known.avoid(&packs);
            renewals.marks.insert(hash, packs);
        }
        Ok(())
    }

    /// W2: tells which marks were seen and which marked packs are in use.
    pub(crate) async fn renew(&self, ended: bool) -> Result<(), RepoError> {
        let mut renewals = self.renewals.lock().await;
        let began = Moment::now(self.clock.as_ref());
        self.read_marks(&mut renewals).await?;
        renewals.number += 1;
        let pins = if ended { Vec::new() } else { self.known.pins() };
        let marks_seen = renewals.marks.keys().copied().collect();
        self.link.put(&Renewal { run: self.id, number: renewals.number, marks_seen, pins, ended }).await?;
        let gap = renewals.last.until(Moment::now(self.clock.as_ref()));
        renewals.longest_gap = renewals.longest_gap.max(gap);
        renewals.last = began;
        Ok(())
    }

    /// Renews in time until it is dropped or cannot.
    pub(crate) async fn keep_renewing(self: Arc<Self>, stop: Stop) {
        let due = self.grace / 4;
        // Looking more often than renewing finds out early that a machine was suspended.
        let look = (due / 8).clamp(Duration::from_millis(20), Duration::from_mins(1));
        while stop.cause().is_none() {
            tokio::time::sleep(look).await;
            let last = self.renewals.lock().await.last;
            if last.until(Moment::now(self.clock.as_ref())) < due {
                continue;
            }
            if let Err(error) = self.renew(false).await {
                // The store may be back before the seal, which then looks at every used pack.
                tracing::warn!(run = %hex::encode(self.id.0), "the run could not be renewed: {}", with_causes(&error));
            }
        }
    }

    /// W3, before the root: renews, and looks at every used pack if a prune may have taken the run
    /// for dead.
    pub(crate) async fn confirm(&self) -> Result<(), RepoError> {
        self.renew(false).await?;
        let silence = self.longest_silence().await;
        if silence <= self.grace / 2 {
            return Ok(());
        }
        tracing::warn!(
            "a prune may not have heard of the run for {} s, more than half of the grace period: looking at every used pack",
            silence.as_secs()
        );
        let lost = match self.missing_pack().await? {
            None => self.deleted_pack().await?,
            missing => missing,
        };
        lost.map_or(Ok(()), |pack| Err(Self::lost(pack)))
    }

    fn lost(pack: ObjectHash) -> RepoError {
        let why = format!("a prune deletes the pack {} that this run relies on; run it again", pack.short());
        RepoError::GivenUp { why, source: None }
    }

    /// A used pack that is not in the store.
    async fn missing_pack(&self) -> Result<Option<ObjectHash>, RepoError> {
        let mut missing: HashSet<ObjectHash> = self.known.used().into_iter().collect();
        for kind in PackKind::ALL.into_iter().filter(|_| self.staleness().is_zero()) {
            let mut listed = self.link.store.list(kind.object_type().prefix());
            while let Some(object) = listed.try_next().await? {
                if let Some(hash) = hash_of(object.key.as_str()) {
                    missing.remove(&hash);
                }
            }
        }
        let mut asked = futures::stream::iter(missing)
            .map(async |pack| Ok::<_, RepoError>((pack, self.is_there(pack).await?)))
            .buffer_unordered(GETS_MAX);
        while let Some((pack, is_there)) = asked.try_next().await? {
            if !is_there {
                return Ok(Some(pack));
            }
        }
        Ok(None)
    }

    /// For how long a prune may not have heard of the run, until now.
    async fn longest_silence(&self) -> Duration {
        let renewals = self.renewals.lock().await;
        let since = renewals.last.until(Moment::now(self.clock.as_ref()));
        renewals.longest_gap.max(since) + self.staleness()
    }

    /// For how long a list may miss a change.
    fn staleness(&self) -> Duration {
        self.link.store.capabilities().list_staleness
    }

    async fn is_there(&self, pack: ObjectHash) -> Result<bool, RepoError> {
        for kind in PackKind::ALL {
            match self.link.store.get(&kind.object_type().key(pack), Some(0..16)).await {
                Ok(_) => return Ok(true),
                Err(error) if error.kind == StoreErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// A used pack that somebody is deleting.
    async fn deleted_pack(&self) -> Result<Option<ObjectHash>, RepoError> {
        let deletings = self.link.list(ObjectType::Deleting).await?;
        let deletings = self.link.read_all::<Deleting>(deletings).await?;
        let mut renewals = self.renewals.lock().await;
        self.read_marks(&mut renewals).await?;
        let used: HashSet<ObjectHash> = self.known.used().into_iter().collect();
        for (_, deleting) in deletings {
            let packs = renewals.marks.get(&deleting.mark).map_or(&[][..], Vec::as_slice);
            if let Some(pack) = packs.iter().find(|pack| used.contains(pack) && !deleting.kept.contains(pack)) {
                return Ok(Some(*pack));
            }
        }
        Ok(None)
    }

    /// W3, after the root: a second look. Where a used pack is being deleted, the root is void.
    pub(crate) async fn second_look(&self, snapshot: SnapshotId) -> Result<(), RepoError> {
        tokio::time::sleep(self.staleness()).await;
        let lost = match self.deleted_pack().await? {
            // The word of a deletion is kept for 2 G only: a machine may have slept for longer since it confirmed.
            None if self.longest_silence().await > self.grace / 2 => self.missing_pack().await?,
            deleted => deleted,
        };
        let Some(pack) = lost else { return Ok(()) };
        let why = format!("its pack {} was deleted while it was sealed", pack.short());
        let time = self.clock.now();
        self.link.put(&small::Void { snapshot, why, time }).await?;
        Err(Self::lost(pack))
    }
}

#[cfg(test)]
mod tests;
