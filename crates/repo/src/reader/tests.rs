use std::sync::Arc;
use std::sync::atomic::Ordering;

use lifeboat_model::EntryPath;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, EntryReader, EntryVisitor, Piece, ReadError, Silent};
use lifeboat_store::wrap::{Operation, Record};
use lifeboat_store::{Key, Store};
use lifeboat_testkit::context::Recorder;

use crate::Repository;
use crate::hand::Hand;
use crate::object::ObjectType;
use crate::pack::{FinishedPack, PackKind};
use crate::page::StoredEntry;
use crate::reader::SnapshotReader;

/// A snapshot of a few files, with what each of them holds.
struct Built {
    hand: Hand,
    files: Vec<(String, Vec<Vec<u8>>)>,
    data: FinishedPack,
    id: lifeboat_model::SnapshotId,
}

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut out);
    out
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).expect("a path")
}

async fn built() -> Built {
    let hand = Hand::new().await;
    let names = ["a", "a/b", "a/b/c", "a/d", "a-b", "big", "e/f", "e/g", "z"];
    let files: Vec<(String, Vec<Vec<u8>>)> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let number = u8::try_from(number).expect("few");
            let lengths: &[usize] = if *name == "big" { &[2_500_000, 700, 1_100_000] } else { &[30, 5000] };
            let chunks = lengths.iter().zip(0..).map(|(length, at)| noise(number * 10 + at, *length)).collect();
            ((*name).to_owned(), chunks)
        })
        .collect();
    let mut pages = Vec::new();
    let mut entries: Vec<StoredEntry> = Vec::new();
    for (name, chunks) in &files {
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let (entry, more) = hand.file(name, &chunks, name == "big");
        entries.push(entry);
        pages.extend(more);
    }
    let (top, more) = hand.manifest(&entries);
    pages.extend(more);
    let data = hand.pack(PackKind::Data, &files.iter().flat_map(|file| &file.1).collect::<Vec<_>>());
    let meta = hand.pack(PackKind::Meta, &pages);
    hand.put_pack(&data).await;
    hand.put_pack(&meta).await;
    hand.put_index(&[&data, &meta]).await;
    let id = hand.put_root(&hand.header(1, None), &Hand::body(Some(top)), hand.writer()).await;
    Built { hand, files, data, id }
}

impl Built {
    async fn reader(&self) -> SnapshotReader {
        self.hand.open(&self.hand.test.identity).await.reader(&self.id).await.expect("a reader")
    }

    fn content(&self, name: &str) -> Vec<u8> {
        let chunks = &self.files.iter().find(|file| file.0 == name).expect("a file").1;
        let first = &chunks[0];
        [chunks.concat(), vec![0; 5000], first[first.len() - 3..].to_vec()].concat()
    }

    fn data_key(&self) -> Key {
        ObjectType::DataPack.key(self.data.hash)
    }

    /// Flips a bit in the middle of the chunk's ciphertext.
    async fn flip(&self, plain: &[u8]) {
        let id = self.hand.id(PackKind::Data, plain);
        let record = self.data.records.iter().find(|record| record.id == id).expect("a record");
        let mut bytes = self.hand.store.get(&self.data_key(), None).await.expect("there").to_vec();
        bytes[record.offset as usize + record.stored_len as usize / 2] ^= 1;
        self.hand.put(&self.data_key(), bytes.into()).await;
    }
}

#[derive(Default)]
struct Collected(Vec<u8>);

#[async_trait::async_trait]
impl ContentSink for Collected {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        match piece {
            Piece::Data(bytes) => {
                assert!(bytes.len() <= lifeboat_model::flow::PIECE_BYTES_MAX);
                self.0.extend_from_slice(&bytes);
            }
            Piece::Hole(length) => self.0.resize(self.0.len() + usize::try_from(length).expect("small"), 0),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Listed(Vec<Entry>);

#[async_trait::async_trait]
impl EntryVisitor for Listed {
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError> {
        self.0.push(entry);
        Ok(())
    }
}

async fn walk(reader: &SnapshotReader, under: Option<&str>) -> Vec<Entry> {
    let mut listed = Listed::default();
    reader.walk(under.map(path).as_ref(), &mut listed).await.expect("walked");
    listed.0
}

async fn read(reader: &SnapshotReader, name: &str) -> Result<Vec<u8>, ReadError> {
    let entry = reader.entry(&path(name)).await?.ok_or_else(|| ReadError::NoEntry { path: path(name) })?;
    let mut collected = Collected::default();
    let bytes = reader.content(&entry, &mut collected).await?;
    assert_eq!((bytes, bytes), (collected.0.len() as u64, entry.bytes));
    Ok(collected.0)
}

fn chain_text(error: &ReadError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn every_entry_is_listed_found_and_read_byte_for_byte() {
    let built = built().await;
    let reader = built.reader().await;
    let all = walk(&reader, None).await;
    let names: Vec<String> = all.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(names, ["a", "a/b", "a/b/c", "a/d", "a-b", "big", "e/f", "e/g", "z"]);
    for name in &names {
        assert_eq!(read(&reader, name).await.expect("read"), built.content(name), "{name}");
    }
    for absent in ["0", "a/b/d", "a/z", "zz", "a-"] {
        assert!(reader.entry(&path(absent)).await.expect("looked up").is_none(), "{absent}");
    }
    let told = Recorder::default();
    reader.preflight(None, &told).await.expect("all is there");
    let bytes: u64 = all.iter().map(|entry| entry.bytes).sum();
    assert_eq!(told.bytes.load(Ordering::Relaxed), bytes, "content that occurs twice counts twice, as in a restore");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_below_a_path_lists_it_and_what_it_holds() {
    let built = built().await;
    let reader = built.reader().await;
    for (under, expected) in [
        ("a", vec!["a", "a/b", "a/b/c", "a/d"]),
        ("a/b", vec!["a/b", "a/b/c"]),
        ("e", vec!["e/f", "e/g"]),
        ("z", vec!["z"]),
        ("a/b/c/d", vec![]),
        ("0", vec![]),
        ("zz", vec![]),
    ] {
        let names: Vec<String> = walk(&reader, Some(under)).await.iter().map(|entry| entry.path.to_string()).collect();
        assert_eq!(names, expected, "under {under}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_names_pack_and_entry_and_spares_the_others() {
    let built = built().await;
    built.flip(&built.files[3].1[1]).await;
    let reader = built.reader().await;
    let error = read(&reader, "a/d").await.expect_err("damaged");
    let text = chain_text(&error);
    assert!(text.contains("a/d") && text.contains(built.data_key().as_str()), "{text}");
    for name in ["a", "a/b", "big", "z"] {
        assert_eq!(read(&reader, name).await.expect("read"), built.content(name), "{name}");
    }
    let error = reader.preflight(None, &Silent).await.expect_err("damaged");
    assert!(matches!(&error, ReadError::Damaged { what, .. } if what == "a/d"), "{error}");
    reader.preflight(Some(&path("e")), &Silent).await.expect("what it needs is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_copy_is_read_where_the_first_is_damaged_or_missing() {
    let built = built().await;
    let copy = built.hand.pack(PackKind::Data, &built.files.iter().flat_map(|file| &file.1).collect::<Vec<_>>());
    built.hand.put_pack(&copy).await;
    built.hand.put_index(&[&copy]).await;
    for (_, chunks) in &built.files {
        built.flip(&chunks[0]).await;
    }
    assert_eq!(read(&built.reader().await, "big").await.expect("read"), built.content("big"));
    built.hand.store.delete(&built.data_key()).await.expect("deleted");
    let reader = built.reader().await;
    reader.preflight(None, &Silent).await.expect("all is in the copy");
    assert_eq!(read(&reader, "big").await.expect("read"), built.content("big"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_is_gone_is_asked_for_once_where_other_copies_serve() {
    let built = built().await;
    let chunks: Vec<&Vec<u8>> = built.files.iter().flat_map(|file| &file.1).collect();
    // Each chunk in a pack of its own, so that no read finds two of them.
    for chunk in &chunks {
        let copy = built.hand.pack(PackKind::Data, &[chunk]);
        built.hand.put_pack(&copy).await;
        built.hand.put_index(&[&copy]).await;
    }
    let gone = built.data_key();
    built.hand.store.delete(&gone).await.expect("deleted");
    let store = Arc::new(Record::new(Arc::new(built.hand.store.clone())));
    let cache = tempfile::tempdir().expect("a directory");
    let opened = Repository::open(store.clone(), built.hand.test.identity.clone(), cache.path()).await;
    let reader = opened.expect("opened").reader(&built.id).await.expect("a reader");
    for (name, _) in &built.files {
        assert_eq!(read(&reader, name).await.expect("read"), built.content(name));
    }
    assert!(chunks.len() > 3 && store.count(Operation::Get, gone.as_str()) <= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_no_index_names_is_found_by_its_trailer() {
    let built = built().await;
    let copy = built.hand.pack(PackKind::Data, &built.files.iter().flat_map(|file| &file.1).collect::<Vec<_>>());
    built.hand.put_pack(&copy).await;
    built.hand.store.delete(&built.data_key()).await.expect("deleted");
    let reader = built.reader().await;
    assert_eq!(read(&reader, "a/d").await.expect("read"), built.content("a/d"));
    reader.preflight(None, &Silent).await.expect("all is in the copy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_pack_is_named() {
    let built = built().await;
    built.hand.store.delete(&built.data_key()).await.expect("deleted");
    let error = read(&built.reader().await, "a").await.expect_err("missing");
    assert!(chain_text(&error).contains(built.data_key().as_str()), "{}", chain_text(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_gives_up_ends_the_read() {
    struct Full;
    #[async_trait::async_trait]
    impl ContentSink for Full {
        async fn piece(&mut self, _piece: Piece) -> Result<(), BodyError> {
            Err("the disk is full".into())
        }
    }
    let built = built().await;
    let reader = built.reader().await;
    let entry = reader.entry(&path("big")).await.expect("looked up").expect("there");
    let error = reader.content(&entry, &mut Full).await.expect_err("given up");
    assert!(matches!(error, ReadError::Receiver(_)));
    assert_eq!(reader.ahead.available_permits(), super::AHEAD_BYTES, "no room stays taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reads_at_once_fetch_what_they_share_once() {
    let built = built().await;
    let counted = Arc::new(lifeboat_store::wrap::Record::new(Arc::new(built.hand.store.clone())));
    let repository =
        crate::Repository::open(counted.clone(), built.hand.test.identity.clone(), built.hand.cache.path());
    let reader = repository.await.expect("opened").reader(&built.id).await.expect("a reader");
    let names = ["a", "a/b", "a/b/c", "a/d", "a-b", "e/f", "e/g", "z", "big"];
    let names = [&names[..], &["a", "big"]].concat();
    let reads = names.iter().map(|name| read(&reader, name));
    for (name, content) in names.iter().zip(futures::future::join_all(reads).await) {
        assert_eq!(content.expect("read"), built.content(name));
    }
    let gets = counted.count(lifeboat_store::wrap::Operation::Get, "data/");
    let stretches = |record: &crate::pack::Record| record.stored_len.div_ceil(1 << 20) as usize;
    assert_eq!(gets, built.data.records.iter().map(stretches).sum::<usize>(), "each chunk once");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_identity_nothing_is_read() {
    let built = built().await;
    for access in [&built.hand.test.writer, &built.hand.test.maintainer] {
        let error = built.hand.open(access).await.reader(&built.id).await.expect_err("refused");
        assert_eq!(error.kind(), crate::RepoErrorKind::Key);
    }
}

#[tokio::test]
async fn an_empty_snapshot_has_no_entries() {
    let hand = Hand::new().await;
    let id = hand.put_root(&hand.header(1, None), &Hand::body(None), hand.writer()).await;
    let reader = hand.open(&hand.test.identity).await.reader(&id).await.expect("a reader");
    assert!(walk(&reader, None).await.is_empty());
    assert!(reader.entry(&path("a")).await.expect("looked up").is_none());
    reader.preflight(None, &Silent).await.expect("nothing is needed");
}

/// A snapshot that the real writer made: many small files, and a large one with a hole.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_writer_stored_is_read_back_byte_for_byte() {
    use lifeboat_model::flow::{Body, EntrySink};
    let hand = Hand::new().await;
    let scratch = hand.cache.path().join("scratch");
    std::fs::create_dir_all(&scratch).expect("made");
    let head = crate::writer::SnapshotHead {
        stack: crate::testing::TestRepository::stack(),
        source: lifeboat_model::SourceName::new("documents").expect("a name"),
        kind: "files".into(),
        label: None,
        config: "stack: test\n".into(),
        stack_run: None,
        system: std::collections::BTreeMap::new(),
    };
    let run_context = lifeboat_testkit::context::run_context(&scratch);
    let options = crate::writer::WriteOptions::default();
    let run = hand.open(&hand.test.writer).await.writer(head, options, run_context).await.expect("a run");
    let meta = lifeboat_model::EntryMeta::new(lifeboat_model::EntryKind::File);
    let name = |number: usize| format!("d{}/f{number}", number % 7);
    for number in 0..1500usize {
        let body = Body::Bytes(number.to_string().repeat(number % 50).into());
        run.put(&path(&name(number)), &meta, None, body).await.expect("stored");
    }
    let large = noise(1, 30 << 20);
    for (at, part) in large.chunks(1 << 20).enumerate() {
        let body = Body::Bytes(part.to_vec().into());
        run.put(&path(&format!("large/{at:02}")), &meta, None, body).await.expect("stored");
    }
    let point = Hand::body(None).recovery_point;
    let sealed = run.seal(point).await.expect("sealed");
    let repository = hand.open(&hand.test.identity).await;
    assert_eq!(repository.snapshots(&[]).await.expect("listed").snapshots[0].id, sealed.id);
    let reader = repository.reader(&sealed.id).await.expect("a reader");
    assert_eq!(walk(&reader, None).await.len(), 1530);
    assert_eq!(walk(&reader, Some("d3")).await.len(), (0..1500).filter(|number| number % 7 == 3).count());
    for number in (0..1500usize).step_by(13) {
        let content = read(&reader, &name(number)).await.expect("read");
        assert_eq!(content, number.to_string().repeat(number % 50).into_bytes(), "{}", name(number));
    }
    for (at, part) in large.chunks(1 << 20).enumerate() {
        assert_eq!(read(&reader, &format!("large/{at:02}")).await.expect("read"), part);
    }
    reader.preflight(None, &Silent).await.expect("all is there");
}

/// A dump that changed a little each day: its content alternates between an old chunk and small new ones.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_many_parts_is_read_back_and_each_chunk_is_opened_about_once() {
    use lifeboat_model::flow::{Body, BodyRead, EntrySink, Shape};
    struct Rows(std::vec::IntoIter<Vec<u8>>);
    #[async_trait::async_trait]
    impl BodyRead for Rows {
        async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
            Ok(self.0.next().map(|bytes| Piece::Data(bytes.into())))
        }
    }
    let hand = Hand::new().await;
    let scratch = hand.cache.path().join("scratch");
    std::fs::create_dir_all(&scratch).expect("made");
    let rows = |day: usize| -> Vec<u8> {
        let row = |number: usize| {
            let version = (1..=day).filter(|day| number % 150 == day * 11).count();
            format!("{number}\t{}\n", blake3::hash(format!("{number}-{version}").as_bytes())).into_bytes()
        };
        (0..30_000).flat_map(row).collect()
    };
    let mut last = None;
    for day in 0..6 {
        let head = crate::writer::SnapshotHead {
            stack: crate::testing::TestRepository::stack(),
            source: lifeboat_model::SourceName::new("registry").expect("a name"),
            kind: "postgres".into(),
            label: None,
            config: "stack: test\n".into(),
            stack_run: None,
            system: std::collections::BTreeMap::new(),
        };
        let context = lifeboat_testkit::context::run_context(&scratch);
        let writer = hand.open(&hand.test.writer).await;
        let run = writer.writer(head, crate::writer::WriteOptions::default(), context).await.expect("a run");
        let pieces: Vec<_> = rows(day).chunks(1 << 20).map(<[u8]>::to_vec).collect();
        let body = Body::Stream { from: Box::new(Rows(pieces.into_iter())), shape: Shape::Rows };
        let meta = lifeboat_model::EntryMeta::new(lifeboat_model::EntryKind::File);
        run.put(&path("events/1.dat"), &meta, None, body).await.expect("stored");
        last = Some(run.seal(Hand::body(None).recovery_point).await.expect("sealed"));
    }
    let last = last.expect("six days");
    assert!(last.stats.new_bytes < 600_000, "{}", last.stats.new_bytes);
    let reader = hand.open(&hand.test.identity).await.reader(&last.id).await.expect("a reader");
    let name = path("events/1.dat");
    let entry = reader.entry(&name).await.expect("looked up").expect("there");
    let content = crate::reader::content_of(&entry).expect("content");
    let mut extents = crate::reader::extents::Extents::new(&reader.fetcher, &name, content);
    let (mut count, mut chunks) = (0, std::collections::HashSet::new());
    while let Some(extent) = extents.next().await.expect("an extent") {
        if let crate::page::Extent::Chunk { id, .. } = extent {
            count += 1;
            chunks.insert(id);
        }
    }
    assert!(count > 2 * chunks.len(), "{count} parts of {} chunks", chunks.len());
    let opened = reader.fetcher.opened();
    assert!(read(&reader, "events/1.dat").await.expect("read") == rows(5));
    let opened = usize::try_from(reader.fetcher.opened() - opened).expect("few");
    assert!(opened <= chunks.len() * 5 / 4, "{opened} opened for {} chunks, {count} parts", chunks.len());
    reader.preflight(None, &Silent).await.expect("all is there");
}

mod one_file;
