//! The 56 bytes that tell where a chunk lies and how to open it.

use lifeboat_model::ChunkId;

use super::{Codec, PLAIN_BYTES_MAX, PackKind, RECORDS_START};
use crate::crypt::TAG_BYTES;
use crate::object::ObjectError;

/// Length of an encoded record.
pub const RECORD_BYTES: usize = 56;

/// Where a chunk lies and how to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The chunk.
    pub id: ChunkId,
    /// Where its ciphertext starts in the pack, in bytes.
    pub offset: u32,
    /// Length of the ciphertext with its tag.
    pub stored_len: u32,
    /// Length of the plain bytes.
    pub plain_len: u32,
    /// Its number in the pack that it was encrypted for.
    pub number: u32,
    /// That pack, by its place in the list of origins.
    pub origin: u32,
    /// The pack that it lies in, by its place in an index's list; 0 in a trailer.
    pub pack: u16,
    /// How it is stored.
    pub codec: Codec,
    /// What the pack holds.
    pub kind: PackKind,
}

impl Record {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..32].copy_from_slice(self.id.bytes());
        let numbers = [self.offset, self.stored_len, self.plain_len, self.number, self.origin];
        for (place, number) in out[32..52].chunks_exact_mut(4).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        out[52..54].copy_from_slice(&self.pack.to_le_bytes());
        out[54] = self.codec as u8;
        out[55] = self.kind as u8;
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] for an unknown codec or kind, or lengths that cannot be.
    ///
    /// # Panics
    /// Never: slices of fixed length.
    pub fn decode(bytes: &[u8; RECORD_BYTES]) -> Result<Self, ObjectError> {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let id: [u8; 32] = bytes[..32].try_into().expect("32 bytes");
        let record = Self {
            id: id.into(),
            offset: number(32),
            stored_len: number(36),
            plain_len: number(40),
            number: number(44),
            origin: number(48),
            pack: u16::from_le_bytes([bytes[52], bytes[53]]),
            codec: Codec::from_number(bytes[54])
                .ok_or_else(|| ObjectError::malformed(format_args!("unknown codec {}", bytes[54])))?,
            kind: PackKind::from_number(bytes[55])
                .ok_or_else(|| ObjectError::malformed(format_args!("unknown type of pack {}", bytes[55])))?,
        };
        record.check()?;
        Ok(record)
    }

    /// Where the ciphertext ends in the pack.
    #[must_use]
    pub fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.stored_len)
    }

    pub(super) fn check(&self) -> Result<(), ObjectError> {
        let (stored, plain) = (self.stored_len as usize, self.plain_len as usize);
        let good = plain <= PLAIN_BYTES_MAX
            && self.offset as usize >= RECORDS_START
            && stored >= TAG_BYTES
            && match self.codec {
                Codec::Plain => stored - TAG_BYTES == plain,
                Codec::Zstd => stored - TAG_BYTES <= zstd::zstd_safe::compress_bound(PLAIN_BYTES_MAX),
            };
        if good { Ok(()) } else { Err(ObjectError::malformed("a record with lengths that cannot be")) }
    }
}

/// Splits a byte string into records.
///
/// # Errors
/// [`ObjectError::Malformed`] where it is no whole number of records or one of them is bad.
pub(crate) fn records(bytes: &[u8]) -> Result<impl Iterator<Item = Result<Record, ObjectError>>, ObjectError> {
    let (records, rest) = bytes.as_chunks::<RECORD_BYTES>();
    if rest.is_empty() {
        Ok(records.iter().map(Record::decode))
    } else {
        Err(ObjectError::malformed("records are cut off"))
    }
}
