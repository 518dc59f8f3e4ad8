//! What each file of a source looked like at its last backup, and the chunks of its content, so that
//! an unchanged file need not be read.
//!
//! One file for each source: a header that binds it to repository, domain and source; records in the
//! order of their keys; every [`FENCE_BYTES`] or so a fence (key, offset); the
//! number of fences; keyed BLAKE3 of everything before. A record is
//! `key (16) || fingerprint (16) || length of head (u32) || length of ids (u64) || head || ids`; its key is
//! half a keyed hash of the directory and half one of the path, so that the files of a directory lie
//! side by side; its head is `length (u32) || content in CBOR || for each content page the
//! id of its reference page (32) and its number of chunk ids (u32)`; the ids are those of all pages.
//! A file that is damaged, torn or of another source counts as none.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use lifeboat_model::{ChunkId, Digest, EntryPath, Fingerprint};
use tempfile::NamedTempFile;

use crate::access::DomainKeys;
use crate::cache::{self, BOUND_HEADER_BYTES};
use crate::content::{ContentPage, IdFile, IdPlace};
use crate::crypt::Secret;
use crate::page::Content;
use crate::spill::Sorter;

const MAGIC: &[u8; 16] = b"lifeboat parent1";
const RECORD_HEAD_BYTES: usize = 16 + 16 + 4 + 8;
const FENCE_BYTES: usize = 8 << 10;
/// A fence: a key, an offset.
const FENCE_RECORD_BYTES: usize = 16 + 8;
/// What is read at a fence: all its records start in there, and short heads of the last one end there.
const BLOCK_BYTES: usize = FENCE_BYTES + 1024;
/// Blocks that are kept: as many directories may be gone through at once.
const BLOCKS_KEPT: usize = 16;
const PAGE_BYTES: usize = 32 + 4;
/// Heads above this length are not kept: their entries are read anew.
const HEAD_BYTES_MAX: usize = 16 << 20;

/// The keyed hash of a path: eight bytes of its directory's and eight of its own.
pub(crate) type PathKey = [u8; 16];

/// Names paths by keyed hashes and binds the file to its source.
#[derive(Clone, Debug)]
pub(crate) struct ParentKey {
    secret: Secret,
    binding: Digest,
}

impl ParentKey {
    pub(crate) fn new(keys: &DomainKeys, source_tag: &Digest) -> Self {
        let index = &keys.index;
        let secret =
            index.key.derive("lifeboat v1 parent cache", &[&index.repository.0, &index.domain.0, &source_tag.0]);
        let binding = secret.mac(&[b"binding"]);
        Self { secret, binding }
    }

    /// The secret of the source's caches.
    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// What binds a file to the source.
    pub(crate) fn binding(&self) -> &Digest {
        &self.binding
    }

    /// Names slices of streams.
    pub(crate) fn slices(&self) -> Secret {
        self.secret.derive("lifeboat v1 slices", &[])
    }

    /// The keyed hash of a path.
    pub(crate) fn key_of(&self, path: &EntryPath) -> PathKey {
        let (path, name) = (path.as_bytes(), path.name());
        let directory = self.secret.mac(&[b"directory\0", &path[..path.len() - name.len()]]);
        let own = self.secret.mac(&[b"path\0", path]);
        let mut key = PathKey::default();
        key[..8].copy_from_slice(&directory.0[..8]);
        key[8..].copy_from_slice(&own.0[..8]);
        key
    }
}

/// What the last backup knew of a file with this fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentEntry {
    pub(crate) content: Content,
    /// Reference page of each content page, and where its chunk ids lie in this file.
    pub(crate) pages: Vec<ContentPage>,
}

/// The last backup's file, checked and open.
#[derive(Debug)]
pub(crate) struct Parent {
    file: File,
    key: ParentKey,
    /// A key, where its record starts.
    fences: Vec<(PathKey, u64)>,
    records_end: u64,
    /// Blocks by the numbers of their fences, the newest last.
    kept: Mutex<VecDeque<(usize, Arc<[u8]>)>>,
}

fn damaged(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    let eight = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged("a number is cut off"))?;
    Ok(u64::from_le_bytes(*eight))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(|| damaged("a number is cut off"))?;
    Ok(u32::from_le_bytes(*four))
}

impl Parent {
    /// Opens the file after all of it was checked.
    ///
    /// # Errors
    /// Where it is missing, damaged or of another source: the caller goes on without.
    pub(crate) fn open(path: &Path, key: ParentKey) -> io::Result<Self> {
        let (file, signed) = cache::open_bound(path, MAGIC, &key.secret, &key.binding)?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, signed - 8)?;
        let fences_bytes = u64::from_le_bytes(count).checked_mul(FENCE_RECORD_BYTES as u64);
        let fences_bytes = fences_bytes.ok_or_else(|| damaged("too many fences"))?;
        let records_end = (signed - 8)
            .checked_sub(fences_bytes)
            .filter(|end| *end >= BOUND_HEADER_BYTES)
            .ok_or_else(|| damaged("too many fences"))?;
        let mut bytes = vec![0; usize::try_from(fences_bytes).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, records_end)?;
        let fence = |bytes: &[u8]| Ok((*bytes.first_chunk().expect("a whole fence"), u64_at(bytes, 16)?));
        let fences = bytes.chunks_exact(FENCE_RECORD_BYTES).map(fence).collect::<io::Result<_>>()?;
        Ok(Self { file, key, fences, records_end, kept: Mutex::default() })
    }

    /// Length of all records.
    pub(crate) fn bytes(&self) -> u64 {
        self.records_end
    }

    /// The first [`BLOCK_BYTES`] after a fence, or what there is up to the next.
    fn block(&self, fence: usize) -> io::Result<Arc<[u8]>> {
        let kept = |blocks: &VecDeque<(usize, Arc<[u8]>)>| blocks.iter().rev().find(|block| block.0 == fence).cloned();
        if let Some((_, block)) = kept(&self.kept.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(block);
        }
        let start = self.fences[fence].1;
        let end = self.fences.get(fence + 1).map_or(self.records_end, |next| next.1);
        let length = end.checked_sub(start).ok_or_else(|| damaged("fences out of order"))?.min(BLOCK_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, start)?;
        let block: Arc<[u8]> = bytes.into();
        let mut blocks = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.len() == BLOCKS_KEPT {
            blocks.pop_front();
        }
        blocks.push_back((fence, Arc::clone(&block)));
        Ok(block)
    }

    /// What is known of a path, if its fingerprint is the same.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn lookup(&self, path: &EntryPath, fingerprint: &Fingerprint) -> io::Result<Option<ParentEntry>> {
        let found = self.find(path)?.filter(|(known, _)| known == fingerprint);
        Ok(found.map(|(_, entry)| entry))
    }

    /// What is known of a path, with the fingerprint that it had.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn find(&self, path: &EntryPath) -> io::Result<Option<(Fingerprint, ParentEntry)>> {
        let wanted = self.key.key_of(path);
        let Some(fence) = self.fences.partition_point(|fence| fence.0 <= wanted).checked_sub(1) else {
            return Ok(None);
        };
        let (start, block) = (self.fences[fence].1, self.block(fence)?);
        let mut at = 0;
        while at < block.len() {
            let record = block.get(at..at + RECORD_HEAD_BYTES).ok_or_else(|| damaged("a record is cut off"))?;
            let (head_len, ids_len) = (u32_at(record, 32)?, u64_at(record, 36)?);
            let body = at + RECORD_HEAD_BYTES;
            match record[..16].cmp(&wanted[..]) {
                std::cmp::Ordering::Less => {
                    let next = (body as u64).saturating_add(u64::from(head_len)).saturating_add(ids_len);
                    at = usize::try_from(next).unwrap_or(usize::MAX);
                }
                std::cmp::Ordering::Greater => return Ok(None),
                std::cmp::Ordering::Equal => {
                    let known = Fingerprint(*record[16..].first_chunk().expect("a whole record head"));
                    let here = block.get(body..body + head_len as usize);
                    let entry = self.read(start + body as u64, head_len, here)?;
                    return Ok(Some((known, entry)));
                }
            }
        }
        Ok(None)
    }

    /// The entry whose head starts at `body`; `here` is the head where it is in memory already.
    fn read(&self, body: u64, head_len: u32, here: Option<&[u8]>) -> io::Result<ParentEntry> {
        let mut read = Vec::new();
        let head = if let Some(here) = here {
            here
        } else if head_len as usize > HEAD_BYTES_MAX {
            return Err(damaged("a head is too long"));
        } else {
            read.resize(head_len as usize, 0);
            self.file.read_exact_at(&mut read, body)?;
            &read[..]
        };
        let content_len = u32_at(head, 0)? as usize;
        let (content, pages) =
            head[4..].split_at_checked(content_len).ok_or_else(|| damaged("a head is shorter than its content"))?;
        let mut start = body + u64::from(head_len);
        let mut uses = Vec::new();
        for page in pages.chunks_exact(PAGE_BYTES) {
            let ids = IdPlace { start, count: u32_at(page, 32)? };
            start = start.saturating_add(u64::from(ids.count) * 32);
            let refs: [u8; 32] = page[..32].try_into().expect("32 bytes");
            uses.push(ContentPage { refs: refs.into(), ids });
        }
        let content = Content::decode(content).map_err(io::Error::other)?;
        Ok(ParentEntry { content, pages: uses })
    }

    /// The chunk ids of a content page.
    ///
    /// # Errors
    /// Of the disk.
    pub(crate) fn ids(&self, place: IdPlace) -> io::Result<Vec<ChunkId>> {
        let mut bytes = vec![0; place.count as usize * 32];
        self.file.read_exact_at(&mut bytes, place.start)?;
        Ok(bytes.as_chunks::<32>().0.iter().map(|id| ChunkId::from(*id)).collect())
    }
}

/// Collects what the next run will want to know.
#[derive(Debug)]
pub(crate) struct ParentWriter {
    key: ParentKey,
    sorter: Sorter,
}

impl ParentWriter {
    /// Keeps about `limit_bytes` in memory, the rest in `scratch`.
    pub(crate) fn new(key: ParentKey, scratch: &Path, limit_bytes: usize) -> Self {
        Self { key, sorter: Sorter::new(scratch, limit_bytes) }
    }

    /// Adds an entry.
    pub(crate) fn add(
        &mut self,
        path: &EntryPath,
        fingerprint: &Fingerprint,
        content: &Content,
        pages: &[ContentPage],
    ) -> io::Result<()> {
        let content = content.encode();
        if content.len() + pages.len() * PAGE_BYTES + 4 > HEAD_BYTES_MAX {
            return Ok(());
        }
        let mut value = fingerprint.0.to_vec();
        value.extend_from_slice(&u32::try_from(content.len()).map_err(io::Error::other)?.to_le_bytes());
        value.extend_from_slice(&content);
        for page in pages {
            value.extend_from_slice(page.refs.bytes());
            value.extend_from_slice(&page.ids.count.to_le_bytes());
            value.extend_from_slice(&page.ids.start.to_le_bytes());
        }
        self.sorter.push(&self.key.key_of(path), &value)
    }

    /// Writes the file and puts it into the place of the one before. `ids` holds the chunk ids of
    /// long content.
    pub(crate) fn finish(self, path: &Path, ids: &IdFile) -> io::Result<()> {
        let directory: PathBuf = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let mut out = Writing::start(NamedTempFile::new_in(&directory)?, &self.key)?;
        let mut sorted = self.sorter.finish()?;
        while let Some(written) = sorted.next(|key, value| out.record(key, value, ids))? {
            written?;
        }
        out.finish()?.persist(path).map_err(|error| error.error)?;
        Ok(())
    }
}

/// A file that is being written, with its checksum so far.
struct Writing {
    out: BufWriter<NamedTempFile>,
    mac: blake3::Hasher,
    at: u64,
    fences: Vec<u8>,
    last_fence: Option<u64>,
}

impl Writing {
    fn start(file: NamedTempFile, key: &ParentKey) -> io::Result<Self> {
        let mut this = Self {
            out: BufWriter::with_capacity(256 << 10, file),
            mac: blake3::Hasher::new_keyed(&key.secret.0),
            at: 0,
            fences: Vec::new(),
            last_fence: None,
        };
        this.bytes(MAGIC)?;
        this.bytes(&key.binding.0)?;
        Ok(this)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.mac.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// `value` as [`ParentWriter::add`] made it.
    fn record(&mut self, key: &[u8], value: &[u8], ids: &IdFile) -> io::Result<()> {
        if self.last_fence.is_none_or(|fence| self.at >= fence + FENCE_BYTES as u64) {
            self.last_fence = Some(self.at);
            self.fences.extend_from_slice(key);
            self.fences.extend_from_slice(&self.at.to_le_bytes());
        }
        let (fingerprint, rest) = value.split_at_checked(16).ok_or_else(|| damaged("a value is cut off"))?;
        let content_end = 4 + u32_at(rest, 0)? as usize;
        let (content, pages) = rest.split_at_checked(content_end).ok_or_else(|| damaged("a value is cut off"))?;
        let mut head = content.to_vec();
        let mut places = Vec::new();
        for page in pages.chunks_exact(PAGE_BYTES + 8) {
            head.extend_from_slice(&page[..PAGE_BYTES]);
            places.push(IdPlace { start: u64_at(page, PAGE_BYTES)?, count: u32_at(page, 32)? });
        }
        let ids_len: u64 = places.iter().map(|place| u64::from(place.count) * 32).sum();
        self.bytes(key)?;
        self.bytes(fingerprint)?;
        self.bytes(&u32::try_from(head.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.bytes(&ids_len.to_le_bytes())?;
        self.bytes(&head)?;
        for place in places {
            self.bytes(&ids.read(place)?)?;
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<NamedTempFile> {
        let fences = std::mem::take(&mut self.fences);
        self.bytes(&fences)?;
        self.bytes(&((fences.len() / FENCE_RECORD_BYTES) as u64).to_le_bytes())?;
        let mac = self.mac.finalize();
        self.out.write_all(mac.as_bytes())?;
        let mut file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::object::{DomainId, RepositoryId};
    use crate::page::Extent;

    fn keys(domain: u8) -> DomainKeys {
        DomainKeys::from_secret(RepositoryId([1; 16]), DomainId([domain; 16]), &Secret([domain; 32]))
    }

    fn key(source: u8) -> ParentKey {
        ParentKey::new(&keys(1), &Digest([source; 32]))
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text).expect("a path")
    }

    fn inline(seed: u32) -> Content {
        let id = ChunkId::from([u8::try_from(seed % 251).expect("small"); 32]);
        // Heads of 40 bytes, and of several KiB that end outside of their block.
        let extents = if seed.is_multiple_of(40) { 64 } else { 1 };
        Content::Inline((0..extents).map(|offset| Extent::Chunk { id, offset, len: seed + 1 }).collect())
    }

    fn write(file: &Path, count: u32) -> IdFile {
        let scratch = file.parent().expect("a directory");
        let ids = IdFile::create(scratch).expect("a file");
        let mut writer = ParentWriter::new(key(7), scratch, 20_000);
        for number in 0..count {
            let fingerprint = Fingerprint::of(&number.to_le_bytes());
            writer
                .add(&path(&format!("dir-{}/file-{number}", number % 5)), &fingerprint, &inline(number), &[])
                .expect("added");
        }
        writer.finish(file, &ids).expect("written");
        ids
    }

    #[test]
    fn an_unchanged_file_is_found_and_a_changed_or_unknown_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("parent");
        write(&file, 3000);
        let parent = Parent::open(&file, key(7)).expect("opened");
        assert!(parent.fences.len() > 10, "{} fences", parent.fences.len());
        for number in 0..3000u32 {
            let fingerprint = Fingerprint::of(&number.to_le_bytes());
            let found = parent.lookup(&path(&format!("dir-{}/file-{number}", number % 5)), &fingerprint).expect("read");
            assert_eq!(found, Some(ParentEntry { content: inline(number), pages: Vec::new() }), "{number}");
        }
        let fingerprint = Fingerprint::of(&1u32.to_le_bytes());
        assert_eq!(parent.lookup(&path("dir-2/file-2"), &fingerprint).expect("read"), None);
        for number in 0..500 {
            assert_eq!(parent.lookup(&path(&format!("other-{number}")), &fingerprint).expect("read"), None);
        }
    }

    #[test]
    fn files_of_one_directory_lie_side_by_side() {
        let key = key(7);
        let mut keys: Vec<_> = (0..60).map(|n| (key.key_of(&path(&format!("d{}/f{n}", n % 3))), n % 3)).collect();
        keys.sort_unstable();
        keys.dedup_by_key(|(_, directory)| *directory);
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn chunk_ids_of_long_content_come_back_page_by_page() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("parent");
        let ids = IdFile::create(directory.path()).expect("a file");
        let lists: Vec<Vec<ChunkId>> =
            (1..4u8).map(|page| (0..page * 50).map(|n| ChunkId::from([n ^ page; 32])).collect()).collect();
        let pages: Vec<ContentPage> = lists
            .iter()
            .map(|list| ContentPage { refs: [9; 32].into(), ids: ids.append(list).expect("appended") })
            .collect();
        let content = Content::Pages((1..4u8).map(|page| (ChunkId::from([page; 32]), 1 << 30)).collect());
        let fingerprint = Fingerprint([5; 16]);
        let mut writer = ParentWriter::new(key(7), directory.path(), 1 << 20);
        for name in ["a", "big", "z"] {
            writer.add(&path(name), &fingerprint, &content, &pages).expect("added");
        }
        writer.finish(&file, &ids).expect("written");
        let parent = Parent::open(&file, key(7)).expect("opened");
        for name in ["a", "big", "z"] {
            let entry = parent.lookup(&path(name), &fingerprint).expect("read").expect("found");
            assert_eq!(entry.content, content);
            let back: Vec<_> = entry.pages.iter().map(|page| parent.ids(page.ids).expect("read")).collect();
            assert_eq!(back, lists);
        }
    }

    #[test]
    fn a_file_of_another_source_or_domain_counts_as_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("parent");
        write(&file, 3);
        assert!(Parent::open(&file, key(8)).is_err());
        assert!(Parent::open(&file, ParentKey::new(&keys(2), &Digest([7; 32]))).is_err());
        assert!(Parent::open(&directory.path().join("nothing"), key(7)).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn a_damaged_or_torn_file_counts_as_none(at in any::<prop::sample::Index>(), cut in any::<bool>()) {
            let directory = tempfile::tempdir().expect("a directory");
            let file = directory.path().join("parent");
            write(&file, 40);
            let mut bytes = std::fs::read(&file).expect("read");
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= 4 }
            let mut out = File::create(&file).expect("made");
            out.write_all(&bytes).expect("written");
            prop_assert!(Parent::open(&file, key(7)).is_err());
        }
    }

    #[test]
    fn names_do_not_lie_in_the_state_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("parent");
        write(&file, 10);
        let bytes = std::fs::read(&file).expect("read");
        assert!(!bytes.windows(5).any(|part| part == b"file-"));
    }
}
