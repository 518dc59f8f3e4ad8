//! The damage matrix: what is done to an object, times each kind of object. The table says what has to
//! come of it; whatever it is, everything that is not named restores, and a prune that meets the damage
//! makes nothing worse.

use std::fmt::Write;

use lifeboat_model::ChunkId;

use super::*;
use crate::forget::release;
use crate::keyfile::IdentityKey;
use crate::open::{Keys, open_access};
use crate::remember::{Remembered, RememberedHead};
use crate::small::{self, Quarantine, Void};

/// `N` the check names the object · `R` nobody opens the repository, the error names it · `M` only who
/// remembers newer roots or rosters can know, and is told · `s` nobody can know and nothing is hurt ·
/// `u` as `s`, but what the object said is undone · `-` cannot be done.
///
/// Head and middle: a bit flips there. Swap: another object of its kind under its name. Old: everything
/// of its kind is set back to an earlier day.
const TABLE: &str = "
object            delete  cut  head  middle  swap  old
format            R       R    R     R       -     -
roster, older     N       N    N     N       N     N
roster, newest    N       N    N     N       N     N
keyring, older    s       N    N     N       N     N
keyring, newest   N       N    N     N       N     N
keyring2, newest  N       N    N     N       N     N
data, needed      N       N    N     N       N     N
data, marked      s       N    N     N       N     N
meta              N       N    N     N       N     N
refs              N       N    N     N       N     N
index             N       N    N     N       N     N
root, first       N       N    N     N       N     M
root, held        N       N    N     N       N     M
root, forgotten   s       N    N     N       N     M
root, newest      M       N    N     N       N     M
hold              u       N    N     N       N     s
forget            u       N    N     N       N     u
release           u       N    N     N       N     s
run               s       N    N     N       N     s
renewal           s       N    N     N       N     s
void              u       N    N     N       -     u
mark              s       N    N     N       N     s
deleting          s       N    N     N       -     s
quarantine        s       N    N     N       -     s
";

const DAMAGES: [&str; 6] = ["delete", "cut", "head", "middle", "swap", "old"];

struct Matrix {
    house: House,
    /// Objects of an earlier day.
    early: BTreeMap<Key, Bytes>,
    objects: BTreeMap<Key, Bytes>,
    heads: Vec<RememberedHead>,
    remembered: Remembered,
    /// A row's name and its object.
    rows: Vec<(&'static str, Key)>,
}

/// What is found in a store: the outcome's letter, and the report if there is one.
struct Seen {
    letter: char,
    report: Option<CheckReport>,
}

impl House {
    fn keys(&self) -> [Keys; 3] {
        let repository = &self.repository;
        let (writer, maintainer) = (repository.writer_key.clone(), repository.maintainer_key.clone());
        [
            Keys { writer: Some(writer), ..Keys::default() },
            Keys { maintainer: Some(maintainer), ..Keys::default() },
            Keys { identity: Some(repository.owner.identity.clone()), ..Keys::default() },
        ]
    }

    async fn reopen(&mut self) {
        let [writer, maintainer, identity] = self.keys();
        let open = async |keys: Keys| open_access(&self.store, &keys, None).await.expect("opened").access;
        (self.repository.writer, self.repository.maintainer) = (open(writer).await, open(maintainer).await);
        self.repository.identity = open(identity).await;
    }

    async fn pruned(&self) {
        self.clock.advance(Duration::from_secs(100));
        let maintainer = open(&self.store, &self.repository.maintainer, &self.ctx).await;
        let report = prune(&maintainer, &PruneOptions::default(), &self.ctx).await.expect("pruned");
        assert_eq!(report.refused, [], "{report:?}");
    }

    async fn say<T: small::Small>(&self, word: &T) {
        let maintainer = &self.repository.maintainer;
        let domain = &maintainer.domains.values().next().expect("a domain").index;
        let (key, bytes) = small::encode(word, domain, maintainer.maintain.as_ref().expect("a maintainer"));
        self.store.put(&key, bytes, PutMode::CreateNew).await.expect("put");
    }

    /// Which entries restore, by snapshot.
    async fn restorable(&self, store: &Arc<dyn Store>) -> BTreeSet<(SnapshotId, String)> {
        let mut all = BTreeSet::new();
        let [.., keys] = self.keys();
        let Ok(opened) = open_access(store, &keys, None).await else { return all };
        let repository = open(store, &opened.access, &self.ctx).await;
        for (id, files) in &self.snapshots {
            for (path, bytes) in files {
                if restore_each(&repository, *id, path).await.is_ok_and(|restored| restored == *bytes) {
                    all.insert((*id, path.clone()));
                }
            }
        }
        all
    }
}

impl Matrix {
    async fn new() -> Self {
        let mut house = House::new().await;
        let early = house.objects().await;
        let more =
            IdentityKey::random(house.repository.writer_key.repository, house.repository.writer_key.root).roster_key();
        let owner = crate::change::Owner {
            store: &house.store,
            key: &house.repository.owner,
            remembered: None,
            forget_roster: false,
            now: TestRepository::start(),
            exported: None,
        };
        owner.add_identity(&more).await.expect("added");
        house.reopen().await;
        let [dropped, voided] = [files(3, &["d"], 2), files(4, &["e"], 2)];
        let dropped = house.backup(&dropped).await;
        let voided = house.backup(&voided).await;
        let newest = house.backup(&files(5, &["a", "f"], 3)).await;
        let (why, time) = ("a test".to_owned(), TestRepository::start());
        house.say(&Void { snapshot: voided, why: why.clone(), time }).await;
        house.say(&Quarantine { time, chunks: vec![ChunkId::from([1; 32])], why }).await;
        let maintainer = open(&house.store, &house.repository.maintainer, &house.ctx).await;
        forget(&maintainer, &[dropped], "a test", &house.ctx).await.expect("forgotten");
        hold(&maintainer, newest, "a test", &house.ctx).await.expect("held");
        house.clock.advance(Duration::from_secs(1));
        release(&maintainer, newest, "a test", &house.ctx).await.expect("released");
        house.pruned().await;
        house.snapshots.retain(|(id, _)| *id != dropped && *id != voided);
        let [.., keys] = house.keys();
        let remembered = open_access(&house.store, &keys, None).await.expect("opened").remembered;
        let identity = open(&house.store, &house.repository.identity, &house.ctx).await;
        let heads = identity.snapshots(&[]).await.expect("listed").heads();
        let objects = house.objects().await;
        let mut matrix = Self { house, early, objects, heads, remembered, rows: vec![] };
        let root = |id: SnapshotId| ObjectType::SnapshotRoot.key(ObjectHash(id.0));
        let (first, held) = (matrix.house.snapshots[0].0, matrix.house.snapshots[1].0);
        matrix.rows = vec![
            ("format", crate::format::Format::key()),
            ("roster, older", matrix.one("roster/00000001")),
            ("roster, newest", matrix.one("roster/00000002")),
            ("keyring, older", matrix.one("keyring/00000001")),
            ("keyring, newest", matrix.one("keyring/00000002")),
            ("keyring2, newest", matrix.one("keyring2/00000002")),
            ("data, needed", matrix.pack("data/", true)),
            ("data, marked", matrix.pack("data/", false)),
            ("meta", matrix.pack("meta/", true)),
            ("refs", matrix.pack("refs/", true)),
            ("index", matrix.index_of(&matrix.pack("data/", true))),
            ("root, first", root(first)),
            ("root, held", root(held)),
            ("root, forgotten", root(dropped)),
            ("root, newest", root(newest)),
            ("hold", matrix.said::<small::Hold>(|hold| hold.snapshot == held)),
            ("forget", matrix.said::<small::Forget>(|forget| forget.snapshot == dropped)),
            ("release", matrix.said::<small::Hold>(|hold| hold.release)),
        ];
        for kind in ["run/", "renewal/", "void/", "mark/", "deleting/", "quarantine/"] {
            let row = matrix.one(kind);
            matrix.rows.push((kind.trim_end_matches('/'), row));
        }
        matrix
    }

    fn one(&self, prefix: &str) -> Key {
        let mut of_kind = self.objects.keys().filter(|key| key.as_str().starts_with(prefix));
        of_kind.next().unwrap_or_else(|| panic!("the matrix lacks {prefix}")).clone()
    }

    /// The small object of a kind that says so.
    fn said<T: small::Small>(&self, so: impl Fn(&T) -> bool) -> Key {
        let access = &self.house.repository.identity;
        let mut of_kind = self.objects.iter().filter(|(key, _)| key.as_str().starts_with(T::TYPE.prefix()));
        let is_it = |(key, bytes): &(&Key, &Bytes)| {
            let hash = ObjectHash::from_hex(&key.as_str()[T::TYPE.prefix().len()..]).expect("a hash");
            so(&small::decode::<T>(access, hash, bytes).expect("decoded").value)
        };
        of_kind.find(is_it).expect("said").0.clone()
    }

    /// The index object that names a pack.
    fn index_of(&self, pack: &Key) -> Key {
        let access = &self.house.repository.identity;
        let mut of_kind = self.objects.iter().filter(|(key, _)| key.as_str().starts_with("index/"));
        let names_it = |(key, bytes): &(&Key, &Bytes)| {
            let hash = ObjectHash::from_hex(&key.as_str()["index/".len()..]).expect("a hash");
            let index = crate::index::IndexObject::decode(access, hash, bytes).expect("an index").value;
            index.packs.iter().any(|named| named.kind.object_type().key(named.hash) == *pack)
        };
        of_kind.find(names_it).expect("named").0.clone()
    }

    /// A pack that a mark names, or one that none does.
    fn pack(&self, prefix: &str, needed: bool) -> Key {
        let access = &self.house.repository.identity;
        let mut marked = BTreeSet::new();
        for (key, bytes) in self.objects.iter().filter(|(key, _)| key.as_str().starts_with("mark/")) {
            let hash = ObjectHash::from_hex(&key.as_str()["mark/".len()..]).expect("a hash");
            let mark = small::decode::<small::Mark>(access, hash, bytes).expect("a mark").value;
            marked.extend(mark.packs.iter().map(|(kind, hash)| kind.object_type().key(*hash)));
        }
        let mut of_kind = self.objects.keys().filter(|key| key.as_str().starts_with(prefix));
        of_kind.find(|key| marked.contains(*key) != needed).expect("a pack").clone()
    }

    /// The store after the damage; `None` where it cannot be done to this object.
    async fn hurt(&self, key: &Key, how: &str) -> Option<Arc<dyn Store>> {
        let store: Arc<dyn Store> = Arc::new(self.house.memory.fork());
        let prefix = key.as_str().rsplit_once('/').map_or("format", |(prefix, _)| prefix);
        let mut bytes = self.objects[key].to_vec();
        let middle = bytes.len() / 2;
        match how {
            "delete" => {
                store.delete(key).await.expect("deleted");
                return Some(store);
            }
            "old" => {
                let of_kind = |key: &Key| key.as_str().starts_with(prefix);
                let (then, now): (Vec<_>, Vec<_>) = (
                    self.early.iter().filter(|o| of_kind(o.0)).collect(),
                    self.objects.keys().filter(|k| of_kind(k)).collect(),
                );
                if then.iter().map(|object| object.0).eq(now.iter().copied()) {
                    return None;
                }
                for key in now.iter().filter(|key| !self.early.contains_key(key)) {
                    store.delete(key).await.expect("deleted");
                }
                for (key, bytes) in then {
                    store.put(key, bytes.clone(), PutMode::Replace).await.expect("put");
                }
                return Some(store);
            }
            "cut" => bytes.truncate(bytes.len() - 1),
            "head" => bytes[9] ^= 1,
            "middle" => bytes[middle] ^= 4,
            "swap" => {
                let mut others =
                    self.objects.iter().filter(|(other, _)| *other != key && other.as_str().starts_with(prefix));
                bytes = others.next()?.1.to_vec();
            }
            _ => unreachable!("no such damage"),
        }
        store.put(key, bytes.into(), PutMode::Replace).await.expect("put");
        Some(store)
    }

    /// What an identity finds, without and then with what it remembers.
    async fn see(&self, store: &Arc<dyn Store>, key: &Key, how: &str) -> Seen {
        let [.., keys] = self.house.keys();
        let prefix = key.as_str().split_once('/').map_or("format", |(prefix, _)| prefix);
        let name = if how == "old" { prefix } else { key.as_str().rsplit('-').next().expect("a name") };
        let opened = match open_access(store, &keys, None).await {
            Ok(opened) => opened,
            Err(error) => {
                let told = format!("{error}: {:?}", std::error::Error::source(&error));
                let letter = if told.contains(name) || key.as_str() == "format" { 'R' } else { '?' };
                return Seen { letter, report: None };
            }
        };
        let repository = open(store, &opened.access, &self.house.ctx).await;
        // Of index objects that are gone it can only say that there were some.
        let kind = format!("{prefix}/");
        let told = |report: &CheckReport| {
            let tells = |p: &Problem| p.object.contains(name) || p.what.contains(name) || p.object == kind;
            report.problems.iter().any(tells)
        };
        let report = check(&repository, READ_DATA, &[], &self.house.ctx).await.expect("a check");
        let mut letter = if told(&report) { 'N' } else { 's' };
        if letter == 's' {
            let older = open_access(store, &keys, Some(&self.remembered)).await.is_err();
            let with = check(&repository, READ_DATA, &self.heads, &self.house.ctx).await.expect("a check");
            if older || told(&with) || how == "old" && with.problem_count > report.problem_count {
                letter = 'M';
            } else if self.undone(&repository).await {
                letter = 'u';
            }
        }
        Seen { letter, report: Some(report) }
    }

    /// Whether a snapshot is judged otherwise than before.
    async fn undone(&self, repository: &Repository) -> bool {
        let judged = async |repository: &Repository| {
            let list = repository.snapshots(&[]).await.expect("listed").snapshots;
            list.into_iter().map(|info| (info.id, (info.forgotten, info.held, info.void))).collect::<BTreeMap<_, _>>()
        };
        let whole = open(&self.house.store, &self.house.repository.identity, &self.house.ctx).await;
        let before = judged(&whole).await;
        judged(repository).await.iter().any(|(id, judged)| before.get(id) != Some(judged))
    }

    async fn cell(&self, key: &Key, how: &str) -> char {
        let Some(store) = self.hurt(key, how).await else { return '-' };
        let at = format!("{how} {key}");
        let seen = self.see(&store, key, how).await;
        if how == "middle" && seen.letter == 'N' {
            let unread = self.house.check(&store, &self.house.repository.maintainer, READ_DATA).await;
            assert!(unread.problems.iter().any(|p| p.object == key.as_str()), "{at}, by a maintainer: {unread:#?}");
        }
        let before = self.house.restorable(&store).await;
        if let Some(report) = &seen.report {
            self.house.the_rest_restores(&store, report, &at).await;
        }
        // What restores still does after whatever a maintainer makes of it.
        let [_, keys, _] = self.house.keys();
        for _ in 0..2 {
            self.house.clock.advance(Duration::from_secs(100));
            let Ok(opened) = open_access(&store, &keys, None).await else { break };
            let repository = open(&store, &opened.access, &self.house.ctx).await;
            let _it_may_refuse = prune(&repository, &PruneOptions::default(), &self.house.ctx).await;
        }
        let after = self.house.restorable(&store).await;
        assert!(before.is_subset(&after), "{at}: a prune cost {:?}", before.difference(&after).collect::<Vec<_>>());
        seen.letter
    }
}

#[tokio::test]
async fn every_damage_of_every_kind_of_object_ends_as_the_table_says() {
    let matrix = Matrix::new().await;
    let mut found = String::from("\n");
    write!(found, "{:18}", "object").expect("written");
    for how in DAMAGES {
        write!(found, "{how}  ").expect("written");
    }
    found = format!("{}\n", found.trim_end());
    for (name, key) in &matrix.rows {
        write!(found, "{name:18}").expect("written");
        for how in DAMAGES {
            let cell = matrix.cell(key, how).await;
            write!(found, "{cell:width$}  ", width = how.len()).expect("written");
        }
        found = format!("{}\n", found.trim_end());
    }
    assert_eq!(found, TABLE, "{found}");
}

#[tokio::test]
async fn a_pack_that_holds_the_bytes_of_another_hurts_its_own_entries() {
    let mut house = House::new().await;
    // Packs of one length: a length would tell.
    for seed in [20, 21] {
        house.backup(&files(seed, &["alike"], 3)).await;
    }
    let objects = house.objects().await;
    for (key, _) in objects.iter().filter(|(key, _)| key.as_str().starts_with("data/")) {
        let others = objects.iter().filter(|(other, _)| *other != key && other.as_str().starts_with("data/"));
        for (other, bytes) in others {
            let store: Arc<dyn Store> = Arc::new(house.memory.fork());
            store.put(key, bytes.clone(), PutMode::Replace).await.expect("put");
            let report = house.check(&store, &house.repository.identity, READ_DATA).await;
            house.the_rest_restores(&store, &report, &format!("{key} holds {other}")).await;
        }
    }
}
