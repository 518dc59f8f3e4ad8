//! Every parser of stored bytes, from the bytes that an attacker who has a key could have sealed.

use std::sync::Arc;

use bytes::Bytes;
use lifeboat_model::{ChunkId, Digest, ObjectHash, SnapshotId, StackName};
use lifeboat_repo::access::{Access, DomainKeys};
use lifeboat_repo::crypt::{Aead, SealSecret, Secret, SignKey};
use lifeboat_repo::export::decode_secrets;
use lifeboat_repo::format::Format;
use lifeboat_repo::index::IndexObject;
use lifeboat_repo::keyfile::{IdentityKey, MaintainerKey, OwnerKey, WriterKey};
use lifeboat_repo::keyring::Keyring;
use lifeboat_repo::object::{DomainId, Envelope, ObjectType, RepositoryId, header, sign};
use lifeboat_repo::pack::{Codec, PackBuilder, PackContents, PackKey, PackKind, Trailer};
use lifeboat_repo::page::{Content, ManifestPage, ReferencePage, decode_content_page};
use lifeboat_repo::roster::Roster;
use lifeboat_repo::small::{self, Deleting, Forget, Hold, Mark, Quarantine, Renewal, Run, RunId, Void};
use lifeboat_repo::{
    CreateOptions, Creation, Grant, KeyFile, Keys, Request, join, open_access, recovery_sheet, root, sealed,
};
use lifeboat_store::Store;
use lifeboat_store::memory::MemoryStore;

/// Whether a parser took the bytes.
type Parse = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A way in, with its name in the corpus.
pub(crate) struct Parser {
    pub(crate) name: &'static str,
    /// Memory that it may take whatever its input is.
    pub(crate) slack_bytes: usize,
    pub(crate) parse: Parse,
}

/// What sealing and signing the input takes, beside the parser.
const SLACK_BYTES: usize = 256 << 10;
/// A record is decompressed to at most this.
const PLAIN_BYTES_MAX: usize = 8 << 20;

/// A repository with keys that are always the same, so that its tags are.
pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) memory: MemoryStore,
    pub(crate) made: Creation,
    pub(crate) access: Access,
    pub(crate) content: (Secret, Envelope),
    pub(crate) references: (Secret, Envelope),
}

pub(crate) fn stack() -> StackName {
    StackName::new("test").expect("a name")
}

/// The run of every root in the corpus.
pub(crate) const RUN: RunId = RunId([9; 16]);

impl World {
    pub(crate) fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let memory = MemoryStore::default();
            let store: Arc<dyn Store> = Arc::new(memory.clone());
            let (repository, sign) = (RepositoryId([1; 16]), |seed| SignKey(Secret([seed; 32])));
            let root = sign(2).verify_key();
            let identity = IdentityKey { repository, root, seed: Secret([3; 32]) };
            let (domain, secret) = (DomainId([4; 16]), Secret([5; 32]));
            let writer = WriterKey { repository, root, sign: sign(6), domain, secret };
            let maintainer = MaintainerKey { repository, root, sign: sign(7), seal: SealSecret(Secret([8; 32])) };
            let now = "2026-11-21T03:00:00Z".parse().expect("a time");
            let options = CreateOptions { now, grace_seconds: 60, stack: stack() };
            let owner = OwnerKey { root: sign(2), identity };
            let made = Creation::with_keys(options, owner, Some(writer), Some(maintainer));
            made.put(&store).await.expect("made");
            let mut access = open_access(&store, &Self::keys(&made), None).await.expect("opened").access;
            let [epoch, maintenance] = [10, 11].map(|seed| SealSecret(Secret([seed; 32])));
            access.roster.epoch = (1, epoch.public());
            access.roster.maintenance = (1, maintenance.public());
            access.epochs.insert(1, epoch);
            access.maintenance.insert(1, maintenance);
            let secret = |seed, recipient| {
                let secret = Secret([seed; 32]);
                let envelope = Envelope::seal(repository, &recipient, &secret).expect("sealed");
                (secret, envelope)
            };
            let (content, references) =
                (secret(12, access.epoch_recipient()), secret(13, access.maintenance_recipient()));
            Self { store, memory, made, access, content, references }
        })
    }

    pub(crate) fn keys(made: &Creation) -> Keys {
        Keys {
            writer: Some(made.writer.clone()),
            maintainer: Some(made.maintainer.clone()),
            identity: Some(made.owner.identity.clone()),
        }
    }

    pub(crate) fn domain(&self) -> &DomainKeys {
        &self.access.domains[&self.made.writer.domain]
    }

    /// Seals and signs a record as an object of this type.
    fn object(&self, kind: ObjectType, plain: &[u8]) -> (ObjectHash, Bytes) {
        let writes = matches!(kind, ObjectType::Run | ObjectType::Renewal | ObjectType::LogRoot);
        let signer = if writes { &self.made.writer.sign } else { &self.made.maintainer.sign };
        sealed::make(&self.domain().index, kind, plain, signer)
    }

    /// A root object of these parts, sealed for `run`.
    fn root(&self, kind: ObjectType, a: &[u8], b: &[u8], c: &[u8]) -> Vec<u8> {
        let a = self.domain().index.seal(kind, a);
        let aad = [&header(kind)[..], blake3::hash(&a).as_bytes()].concat();
        let part = |(secret, envelope): &(Secret, Envelope), name: &[u8], plain: &[u8]| {
            let key = Aead::new(&secret.derive("lifeboat v1 root part", &[name, &RUN.0]));
            [&envelope.bytes()[..], &key.seal(0, &aad, plain)].concat()
        };
        let parts = [part(&self.references, b"B", b), part(&self.content, b"C", c)];
        let mut body = Vec::new();
        for part in [&a, &parts[0], &parts[1]] {
            body.extend_from_slice(&u32::try_from(part.len()).expect("short").to_le_bytes());
            body.extend_from_slice(part);
        }
        body
    }

    fn decode_root(&self, body: &[u8]) -> bool {
        let bytes = sign(self.access.repository, ObjectType::SnapshotRoot, body, &self.made.writer.sign);
        root::decode(&self.access, SnapshotId(Digest::of(&bytes)), &bytes).is_ok()
    }

    fn decode_log_root(&self, plain: &[u8]) -> bool {
        let [a, b, _] = crate::corpus::root_parts();
        let body = self.root(ObjectType::LogRoot, &a, &b, plain);
        let bytes = sign(self.access.repository, ObjectType::LogRoot, &body, &self.made.writer.sign);
        root::log::decode(&self.access, ObjectHash(Digest::of(&bytes)), &bytes).is_ok()
    }

    /// A pack whose trailer is `plain`.
    fn with_trailer(&self, plain: &[u8]) -> Bytes {
        let kind = PackKind::Data;
        let sealed = self.domain().index.seal(kind.object_type(), plain);
        let mut pack = [&header(kind.object_type())[..], &[7; 16], &self.made.writer.domain.0].concat();
        pack.resize(pack.len() + 4096, 1);
        pack.extend_from_slice(self.content.1.bytes());
        pack.extend_from_slice(&sealed);
        pack.extend_from_slice(&1u32.to_le_bytes());
        pack.extend_from_slice(&u32::try_from(sealed.len()).expect("short").to_le_bytes());
        pack.extend_from_slice(b"LBPK");
        pack.into()
    }

    /// A record: codec, plain length in 4 bytes, stored form.
    fn open_record(&self, input: &[u8]) -> bool {
        let Some(([codec, length @ ..], stored)) = input.split_first_chunk::<5>() else { return false };
        let (Some(codec), length) = (Codec::from_number(*codec), u32::from_le_bytes(*length) as usize) else {
            return false;
        };
        if length > PLAIN_BYTES_MAX {
            return false;
        }
        let (secret, envelope) = &self.content;
        let (kind, repository) = (PackKind::Data, self.access.repository);
        let mut pack = PackBuilder::new(kind, repository, self.made.writer.domain, secret, envelope.clone(), 1 << 12);
        let record = *pack.push(ChunkId::from([1; 32]), stored, length, codec);
        let (key, pack) = (PackKey::new(repository, secret, kind, pack.pack_id()), pack.finish(&self.domain().index));
        let end = usize::try_from(record.end()).expect("short");
        key.open(&record, pack.bytes[record.offset as usize..end].to_vec()).is_ok()
    }

    /// Whatever an object claims to be, unsealed and unsigned.
    fn any_object(&self, bytes: &[u8]) -> bool {
        let (hash, repository, access) = (ObjectHash(Digest::of(bytes)), self.access.repository, &self.access);
        let whole = Bytes::copy_from_slice(bytes);
        let key = |domain| access.domains.get(&domain).map(|keys| &keys.index);
        let packs = PackKind::ALL.map(|kind| PackContents::parse(kind, &whole, key).is_ok());
        let mut taken = packs.contains(&true);
        taken |= Format::open(bytes).is_ok() || Roster::open(repository, bytes).is_ok();
        taken |= Keyring::open(repository, bytes).is_ok() || IndexObject::decode(access, hash, bytes).is_ok();
        taken |= root::decode(access, SnapshotId(hash.0), bytes).is_ok();
        taken |=
            small::decode::<Run>(access, hash, bytes).is_ok() || small::decode::<Mark>(access, hash, bytes).is_ok();
        taken
    }

    /// The keyring's secrets, sealed to the identity and to the maintainer alike.
    fn open_secrets(&self, plain: &[u8], maintainers: bool) -> bool {
        let repository = self.access.repository;
        let seal = if maintainers { self.made.maintainer.seal.clone() } else { self.made.owner.identity.seal() };
        let info = [b"lifeboat v1 keyring\0", &repository.0[..]].concat();
        let public = seal.public();
        let (encapsulation, sealed) = public.seal(&info, &1u32.to_le_bytes(), plain).expect("sealed");
        let slot = |out: &mut lifeboat_repo::cbor::Build| {
            out.array(1).array(3).bytes(public.digest().0).bytes(&encapsulation).bytes(&sealed);
        };
        let body = lifeboat_repo::cbor::Build::record(|map| {
            map.field(0).uint(1u32);
            slot(map.field(1));
            slot(map.field(2));
        });
        let bytes = sign(repository, ObjectType::Keyring, &body, &self.made.owner.root);
        let (_, keyring) = Keyring::open(repository, &bytes).expect("a keyring");
        if maintainers {
            keyring.open_maintainer(repository, &seal).is_ok()
        } else {
            keyring.open_identity(repository, &seal).is_ok()
        }
    }
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// The text of a key file; where it is one at all, with the checksum that its fields have now.
fn rechecked(input: &[u8]) -> String {
    let text = text(input);
    let Ok(mut fields) = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) else { return text };
    fields.remove("checksum");
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"lifeboat v1 key file\0");
    for (name, value) in &fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        hasher.update(format!("{name}\0{value}\0").as_bytes());
    }
    fields.insert("checksum".into(), hex::encode(&hasher.finalize().as_bytes()[..4]).into());
    serde_json::Value::from(fields).to_string()
}

fn plain(name: &'static str, parse: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Parser {
    Parser { name, slack_bytes: SLACK_BYTES, parse: Box::new(parse) }
}

/// Every parser.
pub(crate) fn all(world: &Arc<World>) -> Vec<Parser> {
    let with = |name, parse: fn(&World, &[u8]) -> bool| {
        let world = Arc::clone(world);
        plain(name, move |input| parse(&world, input))
    };
    let mut all = vec![
        with("object", World::any_object),
        with("format", |world, input| {
            Format::open(&sign(RepositoryId([1; 16]), ObjectType::Format, input, &world.made.owner.root)).is_ok()
        }),
        with("roster", |world, input| {
            let bytes = sign(world.access.repository, ObjectType::Roster, input, &world.made.owner.root);
            Roster::open(world.access.repository, &bytes).is_ok()
        }),
        with("keyring", |world, input| {
            let bytes = sign(world.access.repository, ObjectType::Keyring, input, &world.made.owner.root);
            Keyring::open(world.access.repository, &bytes).is_ok()
        }),
        with("secrets-identity", |world, input| world.open_secrets(input, false)),
        with("secrets-maintainer", |world, input| world.open_secrets(input, true)),
        with("envelope", |world, input| {
            Envelope::from_bytes(input).is_ok_and(|it| world.access.secret_of(&it).is_ok())
        }),
        with("index", |world, input| {
            let (hash, bytes) = world.object(ObjectType::Index, input);
            IndexObject::decode(&world.access, hash, &bytes).is_ok()
        }),
        with("pack", |world, input| {
            let key = |domain| world.access.domains.get(&domain).map(|keys| &keys.index);
            PackContents::parse(PackKind::Data, &Bytes::copy_from_slice(input), key).is_ok()
        }),
        with("trailer", |world, input| {
            let pack = world.with_trailer(input);
            Trailer::parse(PackKind::Data, pack.len() as u64, &pack, |_| Some(&world.domain().index)).is_ok()
        }),
        with("root", World::decode_root),
        with("root-header", |world, input| {
            let [_, b, c] = crate::corpus::root_parts();
            world.decode_root(&world.root(ObjectType::SnapshotRoot, input, &b, &c))
        }),
        with("root-references", |world, input| {
            let [a, _, c] = crate::corpus::root_parts();
            world.decode_root(&world.root(ObjectType::SnapshotRoot, &a, input, &c))
        }),
        with("root-body", |world, input| {
            let [a, b, _] = crate::corpus::root_parts();
            world.decode_root(&world.root(ObjectType::SnapshotRoot, &a, &b, input))
        }),
        with("log-root-body", World::decode_log_root),
        plain("page", |input| ManifestPage::decode(input).is_ok()),
        plain("content-page", |input| decode_content_page(input).is_ok()),
        plain("reference-page", |input| ReferencePage::decode(input).is_ok()),
        plain("content", |input| Content::decode(input).is_ok()),
        plain("key-file", |input| KeyFile::decode(&rechecked(input), &mut || None).is_ok()),
        plain("raw-key-file", |input| KeyFile::decode(&text(input), &mut || None).is_ok()),
        plain("recovery-sheet", |input| recovery_sheet::parse(&text(input)).is_ok()),
        plain("request", |input| Request::decode(&rechecked(input)).is_ok()),
        plain("grant", |input| Grant::decode(&rechecked(input)).is_ok()),
        with("export", |world, input| {
            let key = &world.made.owner.identity;
            decode_secrets(&rechecked(input), key.repository, key.root).is_ok()
        }),
        small_object::<Run>(world, "run"),
        small_object::<Renewal>(world, "renewal"),
        small_object::<Forget>(world, "forget"),
        small_object::<Hold>(world, "hold"),
        small_object::<Void>(world, "void"),
        small_object::<Mark>(world, "mark"),
        small_object::<Deleting>(world, "deleting"),
        small_object::<Quarantine>(world, "quarantine"),
    ];
    let record = with("record", World::open_record);
    all.push(Parser { slack_bytes: SLACK_BYTES + 2 * PLAIN_BYTES_MAX, ..record });
    all
}

fn small_object<T: small::Small + 'static>(world: &Arc<World>, name: &'static str) -> Parser {
    let world = Arc::clone(world);
    plain(name, move |input| {
        let (hash, bytes) = world.object(T::TYPE, input);
        small::decode::<T>(&world.access, hash, &bytes).is_ok()
    })
}

/// A host's request and the owner's answer, as texts.
pub(crate) async fn request_and_grant(world: &World) -> [String; 2] {
    let wish = join::Scope { stack: stack(), sources: vec![] };
    let (_, request) = join::request_writer(&world.store, "second", wish.clone()).await.expect("a request");
    let owner = lifeboat_repo::Owner {
        store: &world.store,
        key: &world.made.owner,
        remembered: None,
        forget_roster: false,
        now: "2026-11-21T03:00:00Z".parse().expect("a time"),
        exported: None,
    };
    let choice = lifeboat_repo::owner::DomainChoice::New;
    let (grant, _) = owner.add_writer(&request, choice, &[wish]).await.expect("added");
    [request.encode(), grant.encode()]
}
