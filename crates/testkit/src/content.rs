//! Everything that a reader gives, to be compared.

use async_trait::async_trait;
use lifeboat_model::flow::{BodyError, ContentSink, Entry, EntryReader, EntryVisitor, Piece, ReadError};

/// Takes entries, and content with its holes as zeros.
#[derive(Default)]
struct Taken {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[async_trait]
impl EntryVisitor for Taken {
    async fn visit(&mut self, entry: Entry) -> Result<(), BodyError> {
        self.entries.push(entry);
        Ok(())
    }
}

#[async_trait]
impl ContentSink for Taken {
    async fn piece(&mut self, piece: Piece) -> Result<(), BodyError> {
        match piece {
            Piece::Data(bytes) => self.bytes.extend_from_slice(&bytes),
            Piece::Hole(length) => self.bytes.resize(self.bytes.len() + usize::try_from(length)?, 0),
        }
        Ok(())
    }
}

/// The content of one entry.
///
/// # Errors
/// Of the reader.
pub async fn content(reader: &dyn EntryReader, entry: &Entry) -> Result<Vec<u8>, ReadError> {
    let mut taken = Taken::default();
    reader.content(entry, &mut taken).await?;
    Ok(taken.bytes)
}

/// All entries in the order of their paths, each with its content.
///
/// # Errors
/// Of the reader.
pub async fn contents(reader: &dyn EntryReader) -> Result<Vec<(Entry, Vec<u8>)>, ReadError> {
    let mut taken = Taken::default();
    reader.walk(None, &mut taken).await?;
    let mut all = Vec::new();
    for entry in taken.entries {
        let bytes = content(reader, &entry).await?;
        all.push((entry, bytes));
    }
    Ok(all)
}
