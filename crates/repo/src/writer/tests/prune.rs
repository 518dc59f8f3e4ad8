//! The rules W1 to W3 against a prune that is played by hand.

use super::*;
use crate::crypt::SignKey;
use crate::object::IndexKey;

impl Host {
    fn maintainer(&self) -> (IndexKey, SignKey) {
        let access = &self.repository.all;
        let keys = access.domains.values().next().expect("a domain");
        (keys.index.clone(), access.maintain.clone().expect("a maintainer"))
    }

    async fn put_small<T: small::Small>(&self, value: &T) -> ObjectHash {
        let (key, sign) = self.maintainer();
        let (name, bytes) = small::encode(value, &key, &sign);
        self.memory.put(&name, bytes, lifeboat_store::PutMode::CreateNew).await.expect("put");
        ObjectHash::from_hex(name.as_str().rsplit('/').next().expect("a name")).expect("a hash")
    }

    async fn data_packs(&self) -> Vec<ObjectHash> {
        let listed: Vec<_> = futures::TryStreamExt::try_collect(self.memory.list("data/")).await.expect("listed");
        let hash = |key: &str| ObjectHash::from_hex(key.rsplit('/').next().expect("a name")).expect("a hash");
        listed.iter().map(|meta| hash(meta.key.as_str())).collect()
    }

    /// Marks every data pack that there is.
    async fn mark_data(&self) -> (ObjectHash, Vec<ObjectHash>) {
        let packs = self.data_packs().await;
        let marked = packs.iter().map(|pack| (PackKind::Data, *pack)).collect();
        let mark = Mark { time: TestRepository::start(), packs: marked, indexes: Vec::new(), others: Vec::new() };
        (self.put_small(&mark).await, packs)
    }

    async fn delete_data(&self, packs: &[ObjectHash]) {
        for pack in packs {
            self.memory.delete(&ObjectType::DataPack.key(*pack)).await.expect("deleted");
        }
    }
}

const CONTENT: &[u8] = b"content that two snapshots share";

async fn put_shared(writer: &SnapshotWriter) -> u64 {
    put(writer, "a", Body::Bytes(Bytes::from_static(CONTENT))).await.expect("stored").new_bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_marked_before_a_run_is_not_used_by_it() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let (_, packs) = host.mark_data().await;
    let writer = host.begin().await;
    let kept = writer.keep(&path("a"), &file(), &Fingerprint::of(b"a")).await.expect("asked");
    assert_eq!(kept, Kept::No);
    assert_eq!(put_shared(&writer).await, CONTENT.len() as u64);
    let sealed = writer.seal(point()).await.expect("sealed");
    assert!(host.small::<Renewal>().await.iter().all(|renewal| renewal.pins.is_empty()));
    // The indexes name the old copy too; without its pack the new one must be the one that is read.
    host.delete_data(&packs).await;
    let reader = host.reader().await;
    assert_eq!(
        reader.copies(),
        reader.chunks(PackKind::Data) + reader.chunks(PackKind::Meta) + reader.chunks(PackKind::Refs) + 1
    );
    assert_eq!(sealed.stats.new_bytes, CONTENT.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_marked_during_a_run_is_pinned_if_used_and_avoided_if_not() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let used = host.data_packs().await;
    host.backup(&[("b", Bytes::from_static(b"of another pack"))]).await;
    let writer = host.begin().await;
    assert_eq!(put_shared(&writer).await, 0);
    let (mark, _) = host.mark_data().await;
    writer.run.renew(false).await.expect("renewed");
    let renewals = host.small::<Renewal>().await;
    let renewal = renewals.iter().find(|renewal| renewal.run == writer.run_id()).expect("renewed");
    assert_eq!((&renewal.marks_seen, &renewal.pins, renewal.ended), (&vec![mark], &used, false));
    let stats = put(&writer, "b", Body::Bytes(Bytes::from_static(b"of another pack"))).await.expect("stored");
    assert_eq!(stats.new_bytes, 15, "its pack was marked before it was used");
    writer.seal(point()).await.expect("sealed: nobody deletes what is pinned");
    let renewals = host.small::<Renewal>().await;
    let last = renewals.iter().filter(|renewal| renewal.run == renewals[0].run).max_by_key(|renewal| renewal.number);
    assert!(last.is_some_and(|last| last.ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_pack_is_being_deleted_is_void() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let writer = host.begin().await;
    assert_eq!(put_shared(&writer).await, 0);
    let (mark, _) = host.mark_data().await;
    host.put_small(&Deleting { mark, time: TestRepository::start(), kept: Vec::new() }).await;
    let error = writer.seal(point()).await.expect_err("refused");
    assert!(error.to_string().contains("a prune deletes the pack"), "{error}");
    let voids = host.small::<Void>().await;
    assert_eq!(voids.len(), 1);
    let roots: Vec<_> = futures::TryStreamExt::try_collect(host.memory.list("roots/")).await.expect("listed");
    assert!(roots.iter().any(|meta| meta.key == ObjectType::SnapshotRoot.key(ObjectHash(voids[0].snapshot.0))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_that_spares_what_is_pinned_does_not_void_the_snapshot() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let writer = host.begin().await;
    put_shared(&writer).await;
    let (mark, kept) = host.mark_data().await;
    host.put_small(&Deleting { mark, time: TestRepository::start(), kept }).await;
    writer.seal(point()).await.expect("sealed");
    assert!(host.small::<Void>().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_was_silent_too_long_looks_at_its_packs_before_it_seals() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let writer = host.begin().await;
    put_shared(&writer).await;
    host.clock.advance(Duration::from_secs(31));
    let sealed = writer.seal(point()).await.expect("all packs are there");
    assert_eq!(host.reader().await.files(sealed.id).await[&path("a")], CONTENT);

    let roots = host.memory.object_count();
    let writer = host.begin().await;
    put_shared(&writer).await;
    let (_, packs) = host.mark_data().await;
    host.delete_data(&packs).await;
    host.clock.advance(Duration::from_secs(31));
    let error = writer.seal(point()).await.expect_err("a pack is gone");
    assert!(error.to_string().contains("a prune deletes the pack"), "{error}");
    assert!(host.memory.object_count() > roots);
    assert_eq!(host.calls.count(Operation::Put, "roots/"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_in_quarantine_is_stored_anew() {
    let host = Host::new().await;
    let first = host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let reader = host.reader().await;
    let entries = reader.entries(first.id).await;
    let chunks = crate::content::chunk_ids(&reader.extents(&entries[0]).await);
    host.put_small(&small::Quarantine { time: TestRepository::start(), chunks, why: "bad".into() }).await;
    let writer = host.begin().await;
    assert_eq!(put_shared(&writer).await, CONTENT.len() as u64);
    assert_eq!(put_shared(&writer).await, 0);
    writer.seal(point()).await.expect("sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_is_renewed_in_the_background() {
    let host = Host::new().await;
    let writer = host.begin().await;
    host.clock.advance(Duration::from_secs(16));
    lifeboat_testkit::eventually("a renewal", || host.calls.count(Operation::Put, "renewal/") > 0).await;
    drop(writer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_sleeps_right_before_the_root_while_a_prune_comes_and_goes_voids_its_snapshot() {
    let host = Host::new().await;
    host.backup(&[("a", Bytes::from_static(CONTENT))]).await;
    let packs = host.data_packs().await;
    let (memory, clock) = (host.memory.clone(), Arc::clone(&host.clock));
    // Whoever marked the pack has deleted it, and tidied up behind it.
    let asleep = async move {
        for pack in packs {
            memory.delete(&ObjectType::DataPack.key(pack)).await.expect("deleted");
        }
        clock.advance(Duration::from_hours(1));
    };
    let store = crate::interrupted::Interrupted::by(&(Arc::new(host.memory.clone()) as _), "roots/", asleep);
    let writer = host.begin_on(store, host.context()).await.expect("a run");
    assert_eq!(put_shared(&writer).await, 0, "it builds on the pack that goes");
    let error = writer.seal(point()).await.expect_err("its pack is gone");
    assert!(error.to_string().contains("a prune deletes the pack"), "{error}");
    assert_eq!(host.small::<Void>().await.len(), 1);
}
