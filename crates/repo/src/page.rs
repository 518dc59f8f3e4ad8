//! Pages of a manifest, content pages and reference pages. `docs/format.md`, sections "Manifest"
//! and "References".

use lifeboat_model::{ChunkId, EntryMeta, EntryPath};

use crate::cbor::{Build, Fields, Parse, required};
use crate::object::ObjectError;
use crate::pack::PLAIN_BYTES_MAX;

mod meta;

/// The most levels of a manifest above its entries: pages with two children each would reach 2^16
/// pages with them, pages as writers make them far more than any repository holds.
pub const LEVELS_MAX: u8 = 16;

/// A stretch of an entry's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// This many zero bytes that the file system did not store.
    Hole(u64),
    /// Bytes of a chunk.
    Chunk {
        /// Which chunk.
        id: ChunkId,
        /// Where they start in its plain bytes.
        offset: u32,
        /// How many.
        len: u32,
    },
}

impl Extent {
    /// How many bytes of content it stands for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Hole(len) => *len,
            Self::Chunk { len, .. } => u64::from(*len),
        }
    }

    fn write<'b>(&self, out: &'b mut Build) -> &'b mut Build {
        match self {
            Self::Hole(len) => out.array(1).uint(*len),
            Self::Chunk { id, offset: 0, len } => out.array(2).bytes(id.bytes()).uint(*len),
            Self::Chunk { id, offset, len } => out.array(3).bytes(id.bytes()).uint(*offset).uint(*len),
        }
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let fields = parse.array()?;
        if fields == 1 {
            return match parse.u64()? {
                0 => Err(ObjectError::malformed("a hole of no bytes")),
                len => Ok(Self::Hole(len)),
            };
        }
        let id = ChunkId::from(parse.fixed::<32>()?);
        let (offset, len) = match fields {
            2 => (0, parse.u32()?),
            3 => (parse.u32()?, parse.u32()?),
            _ => return Err(ObjectError::malformed("an extent of no known shape")),
        };
        if len == 0 || u64::from(offset) + u64::from(len) > PLAIN_BYTES_MAX as u64 {
            return Err(ObjectError::malformed("an extent outside of its chunk"));
        }
        Ok(Self::Chunk { id, offset, len })
    }
}

/// Where an entry's content is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Its extents; none for an empty one. Writers keep at most 64 here.
    Inline(Vec<Extent>),
    /// Content pages with the bytes of content that each stands for.
    Pages(Vec<(ChunkId, u64)>),
}

impl Content {
    /// Length of the content, holes included; `None` where it is beyond all bounds.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Self::Inline(extents) => extents.iter().try_fold(0u64, |sum, extent| sum.checked_add(extent.bytes())),
            Self::Pages(pages) => pages.iter().try_fold(0u64, |sum, page| sum.checked_add(page.1)),
        }
    }

    fn write(&self, map: &mut Fields<'_>) {
        let bytes = self.bytes().unwrap_or(u64::MAX);
        if bytes > 0 {
            map.field(11).uint(bytes);
        }
        match self {
            Self::Inline(extents) if extents.is_empty() => {}
            Self::Inline(extents) => {
                map.field(12).list(extents.iter(), |out, extent| extent.write(out));
            }
            Self::Pages(pages) => {
                map.field(13).list(pages.iter(), |out, (id, bytes)| out.array(2).bytes(id.bytes()).uint(*bytes));
            }
        }
    }

    /// The stored form by itself, as the handle of [`lifeboat_model::flow::Entry`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Build::record(|map| self.write(map))
    }

    /// Reads what [`Content::encode`] wrote.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ObjectError> {
        Parse::whole(bytes, |parse| {
            let mut content = ContentFields::default();
            parse.map(|key, value| content.field(key, value))?;
            content.finish()
        })
    }
}

/// Fields 11 to 13 of an entry while they are read.
#[derive(Default)]
struct ContentFields {
    bytes: u64,
    extents: Option<Vec<Extent>>,
    pages: Option<Vec<(ChunkId, u64)>>,
}

impl ContentFields {
    fn field(&mut self, key: u64, value: &mut Parse<'_>) -> Result<(), ObjectError> {
        match key {
            11 => self.bytes = value.u64()?,
            12 => self.extents = Some(value.list(Extent::read)?),
            13 => self.pages = Some(value.list(content_page_ref)?),
            _ => value.skip()?,
        }
        Ok(())
    }

    fn finish(self) -> Result<Content, ObjectError> {
        let content = match (self.extents, self.pages) {
            (extents, None) => Content::Inline(extents.unwrap_or_default()),
            (None, Some(pages)) => Content::Pages(pages),
            (Some(_), Some(_)) => return Err(ObjectError::malformed("an entry with two contents")),
        };
        if content.bytes() == Some(self.bytes) {
            Ok(content)
        } else {
            Err(ObjectError::malformed("an entry whose extents are not as long as it says"))
        }
    }
}

fn content_page_ref(parse: &mut Parse<'_>) -> Result<(ChunkId, u64), ObjectError> {
    parse.tuple(2)?;
    Ok((parse.fixed::<32>()?.into(), parse.u64()?))
}

/// An entry as a manifest holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEntry {
    /// Where it is.
    pub path: EntryPath,
    /// All but the bytes.
    pub meta: EntryMeta,
    /// Where the bytes are.
    pub content: Content,
}

impl StoredEntry {
    /// Length of the content, holes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.content.bytes().unwrap_or(u64::MAX)
    }

    /// The stored form, an item of a page of level 0. Equal entries have equal forms.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Build::record(|map| {
            map.field(0).bytes(self.path.as_bytes());
            meta::write(&self.meta, map);
            self.content.write(map);
        })
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        let (mut path, mut meta, mut content) = (None, meta::MetaFields::default(), ContentFields::default());
        parse.map(|key, value| match key {
            0 => {
                path = Some(entry_path(value)?);
                Ok(())
            }
            1..=10 => meta.field(key, value),
            _ => content.field(key, value),
        })?;
        Ok(Self { path: required(path, "path")?, meta: meta.finish()?, content: content.finish()? })
    }
}

fn entry_path(parse: &mut Parse<'_>) -> Result<EntryPath, ObjectError> {
    EntryPath::new(parse.bytes()?).map_err(ObjectError::malformed)
}

/// A page below, as an inner page names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildPage {
    /// The first path below it.
    pub first: EntryPath,
    /// The page.
    pub id: ChunkId,
    /// How many entries are below it.
    pub entries: u64,
    /// How many bytes of content are below it.
    pub bytes: u64,
}

impl ChildPage {
    /// The stored form, an item of a page of level 1 or more.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Build::new();
        out.array(4).bytes(self.first.as_bytes()).bytes(self.id.bytes()).uint(self.entries).uint(self.bytes);
        out.finish()
    }

    fn read(parse: &mut Parse<'_>) -> Result<Self, ObjectError> {
        parse.tuple(4)?;
        Ok(Self {
            first: entry_path(parse)?,
            id: parse.fixed::<32>()?.into(),
            entries: parse.u64()?,
            bytes: parse.u64()?,
        })
    }
}

/// A page of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManifestPage {
    /// Level 0: entries in the order of their paths.
    Entries(Vec<StoredEntry>),
    /// Higher levels: pages in the order of their first paths.
    Pages {
        /// Their own level, from 1.
        level: u8,
        /// The pages below, all of the level below.
        children: Vec<ChildPage>,
    },
}

impl ManifestPage {
    /// The plain bytes of a page of `items`, each as [`StoredEntry::encode`] or
    /// [`ChildPage::encode`] made it.
    #[must_use]
    pub fn assemble<T: AsRef<[u8]>>(level: u8, items: &[T]) -> Vec<u8> {
        let mut head = Build::new();
        head.array(2).uint(level).array(items.len());
        let mut out = head.finish();
        out.reserve(items.iter().map(|item| item.as_ref().len()).sum());
        for item in items {
            out.extend_from_slice(item.as_ref());
        }
        out
    }

    /// Reads a page's plain bytes.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`], also where items are out of order.
    pub fn decode(plain: &[u8]) -> Result<Self, ObjectError> {
        Parse::whole(plain, |parse| {
            parse.tuple(2)?;
            let level = parse.u8()?;
            if level == 0 {
                let entries = parse.list(StoredEntry::read)?;
                ascending(entries.iter().map(|entry| &entry.path))?;
                return Ok(Self::Entries(entries));
            }
            let children = parse.list(ChildPage::read)?;
            ascending(children.iter().map(|child| &child.first))?;
            if level > LEVELS_MAX || children.is_empty() {
                return Err(ObjectError::malformed("a manifest page of an impossible level, or without pages below"));
            }
            Ok(Self::Pages { level, children })
        })
    }

    /// 0 for entries.
    #[must_use]
    pub fn level(&self) -> u8 {
        match self {
            Self::Entries(_) => 0,
            Self::Pages { level, .. } => *level,
        }
    }
}

fn ascending<'a>(paths: impl Iterator<Item = &'a EntryPath>) -> Result<(), ObjectError> {
    if paths.is_sorted_by(|a, b| a < b) { Ok(()) } else { Err(ObjectError::malformed("a page out of order")) }
}

/// The plain bytes of a content page.
#[must_use]
pub fn encode_content_page(extents: &[Extent]) -> Vec<u8> {
    let mut out = Build::new();
    out.list(extents.iter(), |out, extent| extent.write(out));
    out.finish()
}

/// Reads a content page's plain bytes.
///
/// # Errors
/// [`ObjectError::Malformed`].
pub fn decode_content_page(plain: &[u8]) -> Result<Vec<Extent>, ObjectError> {
    Parse::whole(plain, |parse| parse.list(Extent::read))
}

/// What a manifest or content page uses, without its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferencePage {
    /// The manifest or content page that it mirrors.
    pub page: ChunkId,
    /// The data chunks that the page uses.
    pub chunks: Vec<ChunkId>,
    /// The reference pages of the pages that it uses.
    pub pages: Vec<ChunkId>,
}

impl ReferencePage {
    /// The plain bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let joined = |ids: &[ChunkId]| ids.iter().flat_map(|id| *id.bytes()).collect::<Vec<u8>>();
        let mut out = Build::new();
        out.array(3).bytes(self.page.bytes()).bytes(joined(&self.chunks)).bytes(joined(&self.pages));
        out.finish()
    }

    /// Reads the plain bytes.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn decode(plain: &[u8]) -> Result<Self, ObjectError> {
        Parse::whole(plain, |parse| {
            parse.tuple(3)?;
            Ok(Self { page: parse.fixed::<32>()?.into(), chunks: ids(parse)?, pages: ids(parse)? })
        })
    }
}

fn ids(parse: &mut Parse<'_>) -> Result<Vec<ChunkId>, ObjectError> {
    let (ids, rest) = parse.bytes()?.as_chunks::<32>();
    if rest.is_empty() {
        Ok(ids.iter().map(|id| ChunkId::from(*id)).collect())
    } else {
        Err(ObjectError::malformed("ids are cut off"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
