//! The bodies of data entries: tables as `COPY` writes them, large objects.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use lifeboat_model::flow::{Body, BodyError, BodyRead, Cancel, Monitor, PIECE_BYTES_MAX, Piece, Shape};
use tokio_postgres::{Client, CopyOutStream};

use super::client::ServerError;
use super::sql::literal;

/// What `pg_dump` writes behind the rows of a table in the directory format.
pub(super) const TABLE_END: &[u8] = b"\\.\n\n\n";
/// How much of a large object one query asks for.
pub(super) const LARGE_OBJECT_PIECE: i32 = 1 << 20;

/// Something that was being read failed.
#[derive(Debug, thiserror::Error)]
#[error("reading {what} failed")]
pub(super) struct ReadingFailed {
    pub(super) what: String,
    #[source]
    pub(super) source: ServerError,
}

/// A `COPY` whose rows are in this encoding; without a word of it they are in that of our sessions.
pub(super) fn copy_in(copy: String, encoding: &str) -> String {
    if encoding == "UTF8" { copy } else { format!("{copy} WITH (ENCODING {})", literal(encoding)) }
}

/// The body of bytes that are in memory, whatever their length.
pub(super) fn shaped(bytes: Bytes) -> Body {
    match bytes.len() {
        0 => Body::Empty,
        1..=PIECE_BYTES_MAX => Body::Bytes(bytes),
        _ => Body::Stream { from: Box::new(InMemory(bytes)), shape: Shape::Rows },
    }
}

struct InMemory(Bytes);

#[async_trait]
impl BodyRead for InMemory {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        let length = self.0.len().min(PIECE_BYTES_MAX);
        Ok((length > 0).then(|| Piece::Data(self.0.split_to(length))))
    }
}

/// Whom a body tells how far it is, and who may stop it.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) cancel: Cancel,
    pub(super) monitor: Arc<dyn Monitor>,
}

impl Watch {
    /// Counts bytes that are about to be handed on.
    pub(super) fn count(&self, bytes: &[u8]) -> Result<(), BodyError> {
        if self.cancel.is_cancelled() {
            return Err("stopped by request".into());
        }
        self.monitor.bytes(bytes.len() as u64);
        Ok(())
    }

    fn passed(&self, piece: Bytes) -> Result<Option<Piece>, BodyError> {
        self.count(&piece)?;
        Ok(Some(Piece::Data(piece)))
    }
}

/// The rows of a table on their way out of the server.
pub(super) struct TableBody {
    pub(super) rows: Pin<Box<CopyOutStream>>,
    /// For errors: `table X of database Y`.
    pub(super) what: String,
    pub(super) watch: Watch,
    /// Counts the rows; whole once the body has ended.
    pub(super) count: Arc<AtomicU64>,
    buffer: BytesMut,
    ended: bool,
}

impl TableBody {
    pub(super) fn new(rows: CopyOutStream, what: String, watch: Watch, count: Arc<AtomicU64>) -> Self {
        Self { rows: Box::pin(rows), what, watch, count, buffer: BytesMut::new(), ended: false }
    }
}

#[async_trait]
impl BodyRead for TableBody {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        while !self.ended && self.buffer.len() < PIECE_BYTES_MAX {
            match self.rows.next().await {
                Some(Ok(row)) => {
                    // A newline inside of a value is escaped, so that each one ends a row.
                    self.count.fetch_add(newlines(&row), Ordering::Relaxed);
                    if self.buffer.capacity() < self.buffer.len() + row.len() {
                        self.buffer.reserve(PIECE_BYTES_MAX.max(row.len()));
                    }
                    self.buffer.extend_from_slice(&row);
                }
                Some(Err(error)) => {
                    return Err(Box::new(ReadingFailed { what: self.what.clone(), source: error.into() }));
                }
                None => {
                    self.ended = true;
                    self.buffer.extend_from_slice(TABLE_END);
                }
            }
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let length = self.buffer.len().min(PIECE_BYTES_MAX);
        self.watch.passed(self.buffer.split_to(length).freeze())
    }
}

/// How many rows end in these bytes.
pub(super) fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// A large object of more than one piece.
pub(super) struct LargeObjectBody {
    pub(super) client: Arc<Client>,
    pub(super) oid: u32,
    pub(super) what: String,
    pub(super) watch: Watch,
    /// The piece that was read to see that there are more.
    pub(super) first: Option<Bytes>,
    pub(super) offset: i64,
}

#[async_trait]
impl BodyRead for LargeObjectBody {
    async fn next(&mut self) -> Result<Option<Piece>, BodyError> {
        let piece = match self.first.take() {
            Some(first) => first,
            None => large_object_piece(&self.client, self.oid, self.offset, &self.what).await?,
        };
        self.offset += i64::from(LARGE_OBJECT_PIECE);
        if piece.is_empty() { Ok(None) } else { self.watch.passed(piece) }
    }
}

/// The bytes of a large object from `offset` on, at most [`LARGE_OBJECT_PIECE`].
pub(super) async fn large_object_piece(
    client: &Client,
    oid: u32,
    offset: i64,
    what: &str,
) -> Result<Bytes, ReadingFailed> {
    let failed = |error: tokio_postgres::Error| ReadingFailed { what: what.to_owned(), source: error.into() };
    let query = "SELECT pg_catalog.lo_get($1, $2, $3)";
    let row = client.query_one(query, &[&oid, &offset, &LARGE_OBJECT_PIECE]).await.map_err(failed)?;
    row.try_get::<_, Vec<u8>>(0).map(Bytes::from).map_err(failed)
}
