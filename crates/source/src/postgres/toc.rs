//! The table of contents of `pg_dump` archives.
//!
//! `pg_dump --format=custom` writes header and table of contents first, then the data; the same
//! table with file names in the place of offsets is `toc.dat` of the directory format. The layout
//! follows `WriteHead`, `WriteToc` and the `WriteExtraToc` of the two formats in PostgreSQL's
//! `src/bin/pg_dump/pg_backup_archiver.c`, `pg_backup_custom.c` and `pg_backup_directory.c`:
//! archive version 1.14 is written by `pg_dump` 13 to 15, 1.15 by 16, 1.16 by 17 and 18.

use std::fmt;

/// The largest table of contents that is read: some hundred thousand objects.
pub const TOC_BYTES_MAX: usize = 64 << 20;

const MAGIC: &[u8] = b"PGDMP";
const FORMAT_CUSTOM: u8 = 1;
/// The directory format shares its number with the tar format.
const FORMAT_DIRECTORY: u8 = 3;
const INT_BYTES: u8 = 4;
const OFFSET_BYTES: u8 = 8;

/// Text of the archive in the archive's encoding; `None` is stored apart from the empty one.
pub type Text = Option<Box<[u8]>>;

/// Header and entries, in the order in which they are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toc {
    /// Minor number of the archive version 1.x: 14 to 16.
    pub minor: u8,
    /// Third number of the archive version.
    pub revision: u8,
    /// Seconds, minutes, hours, day, month (from 0), year (from 1900) and daylight saving flag of
    /// the dump, local time.
    pub created: [i32; 7],
    /// Name of the database.
    pub database: Text,
    /// Version of the server, in words.
    pub server_version: Text,
    /// Version of `pg_dump`, in words.
    pub dump_version: Text,
    /// What there is to restore.
    pub entries: Vec<TocEntry>,
}

/// One object of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TocEntry {
    /// Its number in this archive, from 1.
    pub dump_id: i32,
    /// Whether data belongs to it.
    pub has_data: bool,
    /// System catalog of the object; 0 where it is none of its own, as for data.
    pub catalog: u32,
    /// Identifier in that catalog; for data that of the table.
    pub oid: u32,
    /// Name, or what the entry is attached to.
    pub tag: Text,
    /// Kind of object: `TABLE`, `TABLE DATA`, `BLOBS`.
    pub desc: Text,
    /// Part of the restore that it belongs to.
    pub section: Section,
    /// Statements that make it.
    pub definition: Text,
    /// Statements that remove it.
    pub drop: Text,
    /// `COPY ... FROM stdin;` of table data.
    pub copy: Text,
    /// Schema.
    pub schema: Text,
    /// Tablespace.
    pub tablespace: Text,
    /// Access method of a table.
    pub access_method: Text,
    /// `pg_class.relkind`; stored from archive version 1.16 on.
    pub relkind: i32,
    /// Owner.
    pub owner: Text,
    /// Numbers of the entries that have to be there before.
    pub dependencies: Vec<i32>,
    /// File of its data in the directory format.
    pub file: Option<String>,
}

/// When an entry is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Section(pub i32);

impl Section {
    /// With the entry before it.
    pub const NONE: Self = Self(1);
    /// Before the data.
    pub const PRE_DATA: Self = Self(2);
    /// Data.
    pub const DATA: Self = Self(3);
    /// After the data.
    pub const POST_DATA: Self = Self(4);
}

impl TocEntry {
    /// Whether the entry is of this kind.
    #[must_use]
    pub fn is(&self, desc: &str) -> bool {
        self.desc.as_deref() == Some(desc.as_bytes())
    }

    /// `schema.name` or the name, for people.
    #[must_use]
    pub fn label(&self) -> String {
        let tag = lossy(&self.tag);
        match &self.schema {
            Some(schema) if !schema.is_empty() => format!("{}.{tag}", String::from_utf8_lossy(schema)),
            _ => tag,
        }
    }

    /// The definition as text.
    ///
    /// # Errors
    /// [`TocError::NotUtf8`] where the archive is in an encoding that is no UTF-8.
    pub fn definition_text(&self) -> Result<&str, TocError> {
        text(&self.definition)
    }
}

/// The text, or nothing.
///
/// # Errors
/// [`TocError::NotUtf8`] where it is no UTF-8.
pub fn text(text: &Text) -> Result<&str, TocError> {
    std::str::from_utf8(text.as_deref().unwrap_or_default()).map_err(|_| TocError::NotUtf8(lossy(text)))
}

fn lossy(text: &Text) -> String {
    String::from_utf8_lossy(text.as_deref().unwrap_or_default()).into_owned()
}

/// Why bytes are no table of contents.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TocError {
    /// It does not begin like an archive of `pg_dump`.
    #[error("this is no pg_dump archive")]
    NotAnArchive,
    /// The archive is of a version that is not known here.
    #[error("pg_dump archive version {0}.{1} is not supported (1.14 to 1.16 are)")]
    Version(u8, u8),
    /// A field has a value that no `pg_dump` writes.
    #[error("the table of contents of the dump is damaged: {0}")]
    Damaged(&'static str),
    /// It ends too early.
    #[error("the table of contents of the dump ends too early")]
    Truncated,
    /// It is longer than [`TOC_BYTES_MAX`].
    #[error("the table of contents of the dump is larger than 64 MiB")]
    TooLarge,
    /// A name or statement that has to be UTF-8 is not.
    #[error("{0:?} is not UTF-8")]
    NotUtf8(String),
}

/// Takes the beginning of an archive piece by piece, until the table of contents is whole.
#[derive(Default)]
pub struct TocReader {
    buffer: Vec<u8>,
    /// Where the next unread field begins.
    position: usize,
    head: Option<(Toc, u8, usize)>,
}

impl fmt::Debug for TocReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TocReader").field("buffered", &self.buffer.len()).finish_non_exhaustive()
    }
}

impl TocReader {
    /// Takes the next bytes; answers with the table once it is whole and ignores what follows it.
    ///
    /// # Errors
    /// [`TocError`] where the bytes are no archive that is known here.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Toc>, TocError> {
        self.buffer.extend_from_slice(bytes);
        let mut fields = Fields { bytes: &self.buffer, position: self.position };
        let fed = advance(&mut fields, &mut self.head, &mut self.position);
        match fed {
            Err(TocError::Truncated) if self.buffer.len() > TOC_BYTES_MAX => Err(TocError::TooLarge),
            Err(TocError::Truncated) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(self.head.take().map(|(toc, ..)| toc)),
        }
    }
}

/// Reads as many whole fields as there are; [`TocError::Truncated`] asks for more.
fn advance(fields: &mut Fields<'_>, head: &mut Option<(Toc, u8, usize)>, position: &mut usize) -> Result<(), TocError> {
    if head.is_none() {
        *head = Some(fields.header()?);
        *position = fields.position;
    }
    let Some((toc, format, count)) = head else { return Err(TocError::Truncated) };
    while toc.entries.len() < *count {
        let entry = fields.entry(toc.minor, *format)?;
        *position = fields.position;
        toc.entries.push(entry);
    }
    Ok(())
}

impl Toc {
    /// Reads a whole `toc.dat`.
    ///
    /// # Errors
    /// [`TocError`] where it is damaged, cut short, or has bytes behind its end.
    pub fn parse(bytes: &[u8]) -> Result<Self, TocError> {
        if bytes.len() > TOC_BYTES_MAX {
            return Err(TocError::TooLarge);
        }
        let (mut head, mut position) = (None, 0);
        advance(&mut Fields { bytes, position: 0 }, &mut head, &mut position)?;
        if position != bytes.len() {
            return Err(TocError::Damaged("there are bytes behind the last entry"));
        }
        head.map(|(toc, ..)| toc).ok_or(TocError::Truncated)
    }

    /// The bytes of `toc.dat` in the directory format.
    #[must_use]
    pub fn to_directory(&self) -> Vec<u8> {
        let mut out = Encoder(Vec::with_capacity(self.entries.len() * 200));
        out.0.extend_from_slice(MAGIC);
        out.0.extend_from_slice(&[1, self.minor, self.revision, INT_BYTES, OFFSET_BYTES, FORMAT_DIRECTORY]);
        // No compression: a number up to 1.14, the number of an algorithm from 1.15 on.
        if self.minor >= 15 {
            out.0.push(0);
        } else {
            out.int(0);
        }
        for part in self.created {
            out.int(part);
        }
        for part in [&self.database, &self.server_version, &self.dump_version] {
            out.text(part.as_deref());
        }
        out.int(i32::try_from(self.entries.len()).unwrap_or(i32::MAX));
        for entry in &self.entries {
            out.entry(entry, self.minor);
        }
        out.0
    }

    /// Gives every entry that has data the file name that `pg_dump --format=directory` would.
    pub fn name_files(&mut self) {
        for entry in &mut self.entries {
            entry.file = match (entry.has_data, entry.is("BLOBS")) {
                (false, _) => None,
                (true, true) if self.minor < 16 => Some("blobs.toc".to_owned()),
                (true, true) => Some(format!("blobs_{}.toc", entry.dump_id)),
                (true, false) => Some(format!("{}.dat", entry.dump_id)),
            };
        }
    }

    /// The encoding of its texts and of the rows beside it, in the server's words.
    #[must_use]
    pub fn encoding(&self) -> &str {
        let entry = self.entries.iter().find(|entry| entry.is("ENCODING"));
        let statement = entry.and_then(|entry| entry.definition_text().ok()).unwrap_or_default();
        statement.split('\'').nth(1).unwrap_or("UTF8")
    }

    /// The major version of the `pg_dump` that wrote it.
    #[must_use]
    pub fn dump_major(&self) -> Option<u32> {
        let text = lossy(&self.dump_version);
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }

    /// The major version of the server that was dumped.
    #[must_use]
    pub fn server_major(&self) -> Option<u32> {
        let text = lossy(&self.server_version);
        text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

struct Fields<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], TocError> {
        let end = self.position.checked_add(length).ok_or(TocError::Truncated)?;
        let part = self.bytes.get(self.position..end).ok_or(TocError::Truncated)?;
        self.position = end;
        Ok(part)
    }

    fn byte(&mut self) -> Result<u8, TocError> {
        Ok(self.take(1)?[0])
    }

    /// A sign byte and four bytes, least significant first.
    fn int(&mut self) -> Result<i32, TocError> {
        let sign = self.byte()?;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        let value = i32::try_from(u32::from_le_bytes(bytes)).map_err(|_| TocError::Damaged("a number is too large"))?;
        Ok(if sign == 0 { value } else { -value })
    }

    fn text(&mut self) -> Result<Text, TocError> {
        let length = self.int()?;
        let Ok(length) = usize::try_from(length) else { return Ok(None) };
        if length > TOC_BYTES_MAX {
            return Err(TocError::TooLarge);
        }
        Ok(Some(self.take(length)?.into()))
    }

    fn number(&mut self) -> Result<Option<i64>, TocError> {
        let Some(text) = self.text()? else { return Ok(None) };
        let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or(TocError::Damaged("a number is none"))
    }

    fn oid(&mut self) -> Result<u32, TocError> {
        let number = self.number()?.and_then(|number| u32::try_from(number).ok());
        number.ok_or(TocError::Damaged("an object identifier is none"))
    }

    fn header(&mut self) -> Result<(Toc, u8, usize), TocError> {
        if self.take(MAGIC.len())? != MAGIC {
            return Err(TocError::NotAnArchive);
        }
        let (major, minor, revision) = (self.byte()?, self.byte()?, self.byte()?);
        if major != 1 || !(14..=16).contains(&minor) {
            return Err(TocError::Version(major, minor));
        }
        let sizes = (self.byte()?, self.byte()?);
        if sizes != (INT_BYTES, OFFSET_BYTES) {
            return Err(TocError::Damaged("its numbers are of an unknown size"));
        }
        let format = self.byte()?;
        if ![FORMAT_CUSTOM, FORMAT_DIRECTORY].contains(&format) {
            return Err(TocError::Damaged("it is neither of the custom nor of the directory format"));
        }
        let compression = if minor >= 15 { i32::from(self.byte()?) } else { self.int()? };
        if compression != 0 {
            return Err(TocError::Damaged("its data is compressed"));
        }
        let mut created = [0; 7];
        for part in &mut created {
            *part = self.int()?;
        }
        let (database, server_version, dump_version) = (self.text()?, self.text()?, self.text()?);
        let count = usize::try_from(self.int()?).map_err(|_| TocError::Damaged("it has less than no entries"))?;
        let toc = Toc { minor, revision, created, database, server_version, dump_version, entries: Vec::new() };
        Ok((toc, format, count))
    }

    fn entry(&mut self, minor: u8, format: u8) -> Result<TocEntry, TocError> {
        let dump_id = self.int()?;
        if dump_id <= 0 {
            return Err(TocError::Damaged("an entry has no number"));
        }
        let has_data = self.int()? != 0;
        let (catalog, oid) = (self.oid()?, self.oid()?);
        let (tag, desc) = (self.text()?, self.text()?);
        let section = Section(self.int()?);
        let (definition, drop, copy) = (self.text()?, self.text()?, self.text()?);
        let (schema, tablespace, access_method) = (self.text()?, self.text()?, self.text()?);
        let relkind = if minor >= 16 { self.int()? } else { 0 };
        let owner = self.text()?;
        if self.text()?.as_deref() != Some(b"false") {
            return Err(TocError::Damaged("a table has OIDs, which no supported version has"));
        }
        let mut dependencies = Vec::new();
        while let Some(number) = self.number()? {
            dependencies.push(i32::try_from(number).map_err(|_| TocError::Damaged("a dependency is no number"))?);
        }
        let file = if format == FORMAT_CUSTOM {
            // Where the data is in the file, not known yet while it is written to a pipe.
            self.take(1 + usize::from(OFFSET_BYTES))?;
            None
        } else {
            self.file_name()?
        };
        Ok(TocEntry {
            dump_id,
            has_data,
            catalog,
            oid,
            tag,
            desc,
            section,
            definition,
            drop,
            copy,
            schema,
            tablespace,
            access_method,
            relkind,
            owner,
            dependencies,
            file,
        })
    }

    /// The name of a data file, which must not lead anywhere else.
    fn file_name(&mut self) -> Result<Option<String>, TocError> {
        let name = text(&self.text()?)?.to_owned();
        let plain =
            name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_')) && !name.starts_with('.');
        match (name.is_empty(), plain) {
            (true, _) => Ok(None),
            (false, true) => Ok(Some(name)),
            (false, false) => Err(TocError::Damaged("a file name is none of pg_dump's")),
        }
    }
}

struct Encoder(Vec<u8>);

impl Encoder {
    fn int(&mut self, value: i32) {
        self.0.push(u8::from(value < 0));
        self.0.extend_from_slice(&value.unsigned_abs().to_le_bytes());
    }

    fn text(&mut self, text: Option<&[u8]>) {
        match text {
            None => self.int(-1),
            Some(text) => {
                self.int(i32::try_from(text.len()).expect("texts are bounded by TOC_BYTES_MAX"));
                self.0.extend_from_slice(text);
            }
        }
    }

    fn entry(&mut self, entry: &TocEntry, minor: u8) {
        self.int(entry.dump_id);
        self.int(i32::from(entry.has_data));
        self.text(Some(entry.catalog.to_string().as_bytes()));
        self.text(Some(entry.oid.to_string().as_bytes()));
        self.text(entry.tag.as_deref());
        self.text(entry.desc.as_deref());
        self.int(entry.section.0);
        let texts =
            [&entry.definition, &entry.drop, &entry.copy, &entry.schema, &entry.tablespace, &entry.access_method];
        for text in texts {
            self.text(text.as_deref());
        }
        if minor >= 16 {
            self.int(entry.relkind);
        }
        self.text(entry.owner.as_deref());
        self.text(Some(b"false"));
        for dependency in &entry.dependencies {
            self.text(Some(dependency.to_string().as_bytes()));
        }
        self.text(None);
        self.text(Some(entry.file.as_deref().unwrap_or_default().as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_text() -> impl Strategy<Value = Text> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..12).prop_map(Into::into))
    }

    prop_compose! {
        fn any_entry(minor: u8)(
            (dump_id, has_data, catalog, oid) in (1..i32::MAX, any::<bool>(), any::<u32>(), any::<u32>()),
            (tag, desc, definition, drop) in (any_text(), any_text(), any_text(), any_text()),
            (copy, schema, tablespace, access_method, owner) in
                (any_text(), any_text(), any_text(), any_text(), any_text()),
            (section, relkind) in (1..5, 0..200),
            dependencies in proptest::collection::vec(any::<i32>(), 0..4),
            file in proptest::option::of("[a-z0-9_]{1,8}\\.dat"),
        ) -> TocEntry {
            TocEntry {
                dump_id, has_data, catalog, oid, tag, desc, section: Section(section), definition, drop, copy,
                schema, tablespace, access_method, relkind: if minor >= 16 { relkind } else { 0 }, owner,
                dependencies, file,
            }
        }
    }

    fn any_toc() -> impl Strategy<Value = Toc> {
        (14..=16_u8).prop_flat_map(|minor| {
            let texts = (any_text(), any_text(), any_text());
            (texts, proptest::collection::vec(any_entry(minor), 0..5)).prop_map(move |(texts, entries)| Toc {
                minor,
                revision: 0,
                created: [1, 2, 3, 4, 5, 126, 0],
                database: texts.0,
                server_version: texts.1,
                dump_version: texts.2,
                entries,
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_in_any_pieces(toc in any_toc(), piece in 1_usize..50) {
            let bytes = toc.to_directory();
            prop_assert_eq!(&Toc::parse(&bytes), &Ok(toc.clone()));
            let mut reader = TocReader::default();
            let mut read = None;
            for part in bytes.chunks(piece) {
                prop_assert!(read.is_none());
                read = reader.feed(part).expect("a good table");
            }
            prop_assert_eq!(read, Some(toc));
        }

        #[test]
        fn a_table_that_is_cut_is_refused(toc in any_toc(), cut in any::<prop::sample::Index>()) {
            let bytes = toc.to_directory();
            let cut = cut.index(bytes.len());
            prop_assert_eq!(Toc::parse(&bytes[..cut]), Err(TocError::Truncated));
        }

        #[test]
        fn hostile_bytes_never_panic(toc in any_toc(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut bytes = toc.to_directory();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            Toc::parse(&bytes).ok();
        }
    }

    #[test]
    fn an_unknown_version_is_named() {
        let bytes = b"PGDMP\x01\x11\x00\x04\x08\x03\x00";
        let error = Toc::parse(bytes).expect_err("1.17 is unknown");
        assert_eq!(error.to_string(), "pg_dump archive version 1.17 is not supported (1.14 to 1.16 are)");
    }

    #[test]
    fn a_file_name_that_leads_elsewhere_is_refused() {
        for (name, good) in [("12.dat", true), ("../12.dat", false), ("/etc/passwd", false), (".x", false)] {
            let mut out = Encoder(Vec::new());
            out.text(Some(name.as_bytes()));
            let read = Fields { bytes: &out.0, position: 0 }.file_name();
            assert_eq!(read.is_ok(), good, "{name}");
        }
    }
}
