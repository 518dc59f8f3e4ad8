//! The bytes that are changed: small, of every kind, kept in the tree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use bytes::Bytes;
use futures::TryStreamExt;
use lifeboat_model::entry::Principal;
use lifeboat_model::{
    ChunkId, Digest, EntryKind, EntryMeta, EntryPath, ObjectHash, RecoveryPoint, SnapshotId, SourceName, Xattr,
};
use lifeboat_repo::KeyFile;
use lifeboat_repo::access::DomainKeys;
use lifeboat_repo::cbor::Build;
use lifeboat_repo::crypt::{Aead, Secret};
use lifeboat_repo::index::IndexBuilder;
use lifeboat_repo::object::{DOMAIN_SEAL_BYTES, ENVELOPE_BYTES, ObjectType, header, verify};
use lifeboat_repo::pack::{Codec, FinishedPack, PackBuilder, PackKind};
use lifeboat_repo::page::{ChildPage, Content, Extent, ManifestPage, ReferencePage, StoredEntry, encode_content_page};
use lifeboat_repo::root::{self, Countersign, RootBody, RootHeader, RootKeys, RootRefs, RunSecret};
use lifeboat_repo::small::{Deleting, Forget, Hold, Mark, Quarantine, Renewal, Run, RunId, Small, Void};
use lifeboat_repo::{export, recovery_sheet};
use lifeboat_store::Store;

use crate::parsers::{RUN, World, request_and_grant, stack};

/// One file of the corpus.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) valid: bool,
    pub(crate) bytes: Vec<u8>,
}

/// The corpus of a parser.
pub(crate) fn files(parser: &str) -> Vec<File> {
    let dir = crate::corpus_dir().join(parser);
    let list = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut files: Vec<File> = list
        .map(|file| {
            let path = file.expect("a file").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            File { valid: name.starts_with("valid-"), bytes: std::fs::read(path).expect("read"), name }
        })
        .collect();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    files
}

/// Valid parts of a root, while another of them is attacked.
pub(crate) fn root_parts() -> [Vec<u8>; 3] {
    static PARTS: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
        ["root-header", "root-references", "root-body"].map(|parser| files(parser).swap_remove(0).bytes)
    });
    PARTS.clone()
}

struct Maker<'w> {
    world: &'w World,
    made: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

fn time() -> jiff::Timestamp {
    "2026-11-21T03:00:00.5Z".parse().expect("a time")
}

fn id(n: u8) -> ChunkId {
    ChunkId::from([n; 32])
}

fn hash(n: u8) -> ObjectHash {
    ObjectHash::from([n; 32])
}

impl Maker<'_> {
    fn add(&mut self, parser: &'static str, bytes: impl Into<Vec<u8>>) {
        self.made.entry(parser).or_default().push(bytes.into());
    }

    fn keys(&self) -> &DomainKeys {
        self.world.domain()
    }

    fn small<T: Small>(&mut self, parser: &'static str, value: &T) {
        self.add(parser, Build::record(|map| value.write(map)));
    }

    fn small_objects(&mut self) {
        let (snapshot, why, time) = (SnapshotId::from([5; 32]), "a reason".to_owned(), time());
        self.small("run", &Run { run: RUN, source_tag: Digest([1; 32]), time });
        let renewal =
            Renewal { run: RUN, number: 3, marks_seen: vec![hash(1), hash(2)], pins: vec![hash(3)], ended: true };
        self.small("renewal", &Renewal { marks_seen: vec![], pins: vec![], ended: false, ..renewal.clone() });
        self.small("renewal", &renewal);
        self.small("forget", &Forget { snapshot, why: why.clone(), time });
        self.small("hold", &Hold { snapshot, why: why.clone(), time, release: false });
        self.small("hold", &Hold { snapshot, why: why.clone(), time, release: true });
        self.small("void", &Void { snapshot, why: why.clone(), time });
        let packs = vec![(PackKind::Data, hash(1)), (PackKind::Refs, hash(2))];
        let others = vec![ObjectType::SnapshotRoot.key(hash(9))];
        self.small("mark", &Mark { time, packs, indexes: vec![hash(3)], others });
        self.small("deleting", &Deleting { mark: hash(1), time, kept: vec![hash(2)] });
        self.small("quarantine", &Quarantine { time, chunks: vec![id(1), id(2)], why });
    }

    fn entries() -> Vec<StoredEntry> {
        let entry =
            |path: &[u8], meta, content| StoredEntry { path: EntryPath::new(path).expect("a path"), meta, content };
        let file = EntryMeta {
            mode: Some(0o644),
            owner: Some(Principal { id: 1000, name: Some("ada".into()) }),
            group: Some(Principal { id: 7, name: None }),
            mtime: Some((-5, 999_999_999)),
            xattrs: vec![Xattr { name: b"user.a".to_vec(), value: vec![0, 255] }],
            extra: BTreeMap::from([("a".into(), "1".into()), ("b".into(), "2".into())]),
            ..EntryMeta::new(EntryKind::File)
        };
        let link = EntryMeta { link: Some(b"../x".to_vec()), ..EntryMeta::new(EntryKind::Symlink) };
        let device = EntryMeta { device: Some((8, 1)), ..EntryMeta::new(EntryKind::BlockDevice) };
        let skipped = EntryMeta { why: Some("permission denied".into()), ..EntryMeta::new(EntryKind::Skipped) };
        let extents = vec![
            Extent::Hole(1 << 40),
            Extent::Chunk { id: id(1), offset: 0, len: 262_144 },
            Extent::Chunk { id: id(2), offset: 5, len: 100 },
        ];
        vec![
            entry(b"a", file.clone(), Content::Inline(extents)),
            entry(b"a/caf\xe9", file, Content::Pages(vec![(id(3), 1 << 33), (id(4), 5)])),
            entry(b"b", link, Content::Inline(vec![])),
            entry(b"c", device, Content::Inline(vec![])),
            entry(b"d", skipped, Content::Inline(vec![])),
        ]
    }

    fn pages(&mut self) {
        let entries = Self::entries();
        let encoded: Vec<Vec<u8>> = entries.iter().map(StoredEntry::encode).collect();
        self.add("page", ManifestPage::assemble(0, &encoded));
        let child = |n: usize| ChildPage { first: entries[n].path.clone(), id: id(7), entries: 3, bytes: 1 << 35 };
        self.add("page", ManifestPage::assemble(2, &[child(0).encode(), child(2).encode()]));
        for entry in &entries[..3] {
            self.add("content", entry.content.encode());
        }
        let Content::Inline(extents) = &entries[0].content else { unreachable!("the first has extents") };
        self.add("content-page", encode_content_page(extents));
        let page = ReferencePage { page: id(1), chunks: vec![id(2), id(3)], pages: vec![id(4)] };
        self.add("reference-page", page.encode());
    }

    fn pack(&self, kind: PackKind, chunks: &[&[u8]]) -> FinishedPack {
        let (secret, envelope) = &self.world.content;
        let (repository, domain) = (self.world.access.repository, self.world.made.writer.domain);
        let mut pack = PackBuilder::new(kind, repository, domain, secret, envelope.clone(), 1 << 12);
        for plain in chunks {
            let stored = zstd::bulk::compress(plain, 3).expect("compressed");
            pack.push(kind.id_of(self.keys(), plain).expect("our keys"), &stored, plain.len(), Codec::Zstd);
        }
        pack.finish(&self.keys().index)
    }

    fn packs(&mut self) {
        let packs = [
            self.pack(PackKind::Data, &[b"one chunk of some bytes", &[7; 900]]),
            self.pack(PackKind::Meta, &[b"a page"]),
        ];
        for (chunk, codec) in [(&packs[0].records[0], 0), (&packs[0].records[1], 1)] {
            let plain: &[u8] = if codec == 0 { b"as it is" } else { &[7; 900] };
            let stored = if codec == 0 { plain.to_vec() } else { zstd::bulk::compress(plain, 3).expect("compressed") };
            assert!(chunk.plain_len > 0);
            let length = u32::try_from(plain.len()).expect("short").to_le_bytes();
            self.add("record", [&[codec][..], &length, &stored].concat());
        }
        let mut index = IndexBuilder::new();
        for pack in &packs {
            index.add(pack);
        }
        let (_, bytes) = index.finish().encode(&self.keys().index, &self.world.made.writer.sign);
        let plain = self.plain(ObjectType::Index, &bytes);
        self.add("index", plain);
        let pack = &packs[0].bytes;
        let length = |at: usize| u32::from_le_bytes(*pack[pack.len() - at..].first_chunk().expect("4 bytes")) as usize;
        let sealed = &pack[pack.len() - 12 - length(8)..pack.len() - 12];
        assert!(sealed.len() > DOMAIN_SEAL_BYTES);
        let plain = self.keys().index.open(ObjectType::DataPack, sealed).expect("opened");
        self.add("trailer", plain);
        self.add("pack", pack.to_vec());
        self.add("object", packs[1].bytes.to_vec());
        self.add("envelope", self.world.content.1.bytes().to_vec());
    }

    fn plain(&self, kind: ObjectType, object: &[u8]) -> Vec<u8> {
        let (_, sealed) = verify(self.world.access.repository, kind, object).expect("signed");
        self.keys().index.open(kind, sealed).expect("sealed")
    }

    fn roots(&mut self) {
        let (world, run) = (self.world, |(secret, envelope): &(Secret, _)| RunSecret {
            secret: secret.clone(),
            envelope: lifeboat_repo::object::Envelope::clone(envelope),
        });
        let source = SourceName::new("documents").expect("a name");
        let mut head = RootHeader {
            stack_tag: self.keys().stack_tag(&stack()),
            source_tag: self.keys().source_tag(&stack(), &source),
            sequence: 2,
            previous: Some(hash(1)),
            time: time(),
            roster_number: 1,
            roster_hash: hash(2),
            run: RUN,
            original: Some(SnapshotId::from([3; 32])),
            countersigned: None,
            systems: vec![Digest([5; 32])],
        };
        let (repository, envelopes) = (world.access.repository, [&world.references.1, &world.content.1]);
        head.countersigned =
            Some(Countersign::make(repository, &head, envelopes, time(), &world.made.owner.identity.sign()));
        let body = RootBody {
            stack: stack(),
            source,
            kind: "files".into(),
            recovery_point: RecoveryPoint {
                time: time(),
                consistency: "each file by itself".into(),
                facts: BTreeMap::from([("machine.id".into(), "m1".into())]),
            },
            top: Some(id(1)),
            stats: BTreeMap::from([("bytes".into(), 9), ("entries".into(), 3)]),
            config: "stack: test\n".into(),
            label: Some("before the move".into()),
            problems: vec![(b"caf\xe9".to_vec(), "it kept changing".into())],
            stack_run: Some(RunId([8; 16])),
        };
        let (content, references) = (run(&world.content), run(&world.references));
        let keys = RootKeys {
            index: &self.keys().index,
            content: &content,
            references: &references,
            sign: &world.made.writer.sign,
        };
        let (_, bytes) = root::encode(&head, &RootRefs { top: Some(id(2)) }, &body, &keys);
        let (_, parts) = verify(world.access.repository, ObjectType::SnapshotRoot, &bytes).expect("signed");
        self.add("root", parts);
        let mut rest = parts;
        let [a, b, c] = [(); 3].map(|()| {
            let (length, tail) = rest.split_first_chunk::<4>().expect("a length");
            let (part, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            rest = tail;
            part
        });
        let plain = self.keys().index.open(ObjectType::SnapshotRoot, a).expect("opened");
        self.add("root-header", plain);
        let aad = [&header(ObjectType::SnapshotRoot)[..], blake3::hash(a).as_bytes()].concat();
        for (parser, letter, part, run) in [("root-references", b"B", b, &references), ("root-body", b"C", c, &content)]
        {
            let key = Aead::new(&run.secret.derive("lifeboat v1 root part", &[letter, &RUN.0]));
            self.add(parser, key.open(0, &aad, &part[ENVELOPE_BYTES..]).expect("opened"));
        }
    }

    fn log_root(&mut self) {
        let log = [("a", "0/1", "0/2"), ("b", "0/2", "0/3")];
        self.add(
            "log-root-body",
            Build::record(|map| {
                map.field(0).text("test");
                map.field(1).text("documents");
                map.field(2).text("postgres");
                map.field(3).text("timeline 1");
                map.field(4).bytes(id(1).bytes());
                map.field(5).list(log.iter(), |out, segment| {
                    out.map(|map| {
                        map.field(0).text(segment.0);
                        map.field(1).text(segment.1);
                        map.field(2).text(segment.2);
                    })
                });
                map.field(6).text_map(&BTreeMap::from([("a".into(), "1".into())]), |out, text: &String| out.text(text));
            }),
        );
    }

    /// `format`, roster and keyring of the repository, as they are and without their frames.
    async fn keys_of_the_repository(&mut self) {
        for (prefix, kind) in
            [("format", ObjectType::Format), ("roster/", ObjectType::Roster), ("keyring/", ObjectType::Keyring)]
        {
            let parser = prefix.trim_end_matches('/');
            let listed: Vec<_> = self.world.store.list(prefix).try_collect().await.expect("listed");
            let bytes: Bytes = self.world.memory.get(&listed[0].key, None).await.expect("got");
            let (_, body) = verify(self.world.access.repository, kind, &bytes).expect("signed");
            self.add(parser, body);
            if kind == ObjectType::Format {
                self.add("object", bytes.to_vec());
            }
        }
        let seals = |out: &mut Build| {
            out.array(2).array(2).uint(1u32).bytes([1; 32]).array(2).uint(77u32).bytes([2; 32]);
        };
        let domains = |out: &mut Build| {
            out.array(1).array(2).bytes([3; 16]).bytes([4; 32]);
        };
        self.add(
            "secrets-identity",
            Build::record(|map| {
                seals(map.field(0));
                seals(map.field(1));
                domains(map.field(2));
            }),
        );
        self.add(
            "secrets-maintainer",
            Build::record(|map| {
                seals(map.field(1));
                domains(map.field(3));
            }),
        );
    }

    async fn key_files(&mut self) {
        let made = &self.world.made;
        let files = [
            KeyFile::Writer(made.writer.clone()),
            KeyFile::Maintainer(made.maintainer.clone()),
            KeyFile::Identity(made.owner.identity.clone()),
            KeyFile::Owner(made.owner.clone()),
        ];
        let sheet = recovery_sheet::print(&made.owner, "file:///store", time());
        self.add("recovery-sheet", sheet.as_bytes());
        for file in files {
            let text = file.encode(None).expect("a key file");
            self.add("key-file", text.as_bytes());
            self.add("raw-key-file", text.as_bytes());
        }
        let export = export::export_secrets(&self.world.store, &self.world.made.owner.identity, None).await;
        self.add("export", export.expect("exported").as_bytes());
        let [request, grant] = request_and_grant(self.world).await;
        self.add("request", request);
        self.add("grant", grant);
    }
}

/// Writes the valid files of the corpus anew.
#[expect(clippy::disallowed_methods, reason = "a file of a test need not survive a power cut")]
pub(crate) fn make(world: &World) {
    let mut maker = Maker { world, made: BTreeMap::new() };
    maker.small_objects();
    maker.pages();
    maker.packs();
    maker.roots();
    maker.log_root();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        maker.keys_of_the_repository().await;
        maker.key_files().await;
    });
    for (parser, all) in maker.made {
        let dir: &Path = &crate::corpus_dir().join(parser);
        std::fs::create_dir_all(dir).expect("made");
        for (number, bytes) in all.iter().enumerate() {
            std::fs::write(dir.join(format!("valid-{number}")), bytes).expect("written");
        }
    }
}
