//! The end of a pack: envelopes, and the sealed list of what is in it.

use bytes::Bytes;

use super::record::records;
use super::{Origin, PackId, PackKind, RECORDS_START, Record};
use crate::cbor::{Build, Fields, Parse, required};
use crate::object::{
    DOMAIN_SEAL_BYTES, DomainId, ENVELOPE_BYTES, Envelope, IndexKey, ObjectError, open_header, sealed_domain,
};

/// Length of the two numbers and the mark at the very end of a pack.
pub const FOOTER_BYTES: usize = 4 + 4 + 4;
const MARK: &[u8; 4] = b"LBPK";

pub(super) fn encode(origins: &[(PackId, u32)], records: &[Record]) -> Vec<u8> {
    let records: Vec<u8> = records.iter().flat_map(Record::encode).collect();
    Build::record(|map| {
        origins_field(map, 0, origins);
        map.field(1).bytes(&records);
    })
}

/// `[[pack id, number of envelope]]`, as trailers and indexes have it.
pub(crate) fn origins_field(map: &mut Fields<'_>, key: u8, origins: &[(PackId, u32)]) {
    map.field(key).list(origins.iter(), |out, (pack, envelope)| out.array(2).bytes(pack.0).uint(*envelope));
}

/// Reads what [`origins_field`] wrote.
pub(crate) fn origins(parse: &mut Parse<'_>) -> Result<Vec<(PackId, u32)>, ObjectError> {
    parse.list(|item| {
        item.tuple(2)?;
        Ok((PackId(item.fixed()?), item.u32()?))
    })
}

/// Packs with the places of their envelopes, and records.
type Plain = (Vec<(PackId, u32)>, Vec<Record>);

fn decode(plain: &[u8]) -> Result<Plain, ObjectError> {
    let (mut places, mut bytes) = (None, None);
    Parse::whole(plain, |parse| {
        parse.map(|key, value| {
            match key {
                0 => places = Some(origins(value)?),
                1 => bytes = Some(value.bytes()?),
                _ => value.skip()?,
            }
            Ok(())
        })
    })?;
    let records = records(required(bytes, "records")?)?.collect::<Result<Vec<_>, _>>()?;
    Ok((required(places, "origins")?, records))
}

pub(super) fn footer(envelopes: u32, sealed: u32) -> [u8; FOOTER_BYTES] {
    let mut out = [0; FOOTER_BYTES];
    out[..4].copy_from_slice(&envelopes.to_le_bytes());
    out[4..8].copy_from_slice(&sealed.to_le_bytes());
    out[8..].copy_from_slice(MARK);
    out
}

/// What a pack's trailer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The domain under whose key it is sealed.
    pub domain: DomainId,
    /// Origins of the records; [`Record::origin`] counts in this list.
    pub origins: Vec<Origin>,
    /// The records in the order of their offsets.
    pub records: Vec<Record>,
}

impl Trailer {
    /// How many bytes at the end of a pack hold envelopes, trailer and footer, from its last
    /// [`FOOTER_BYTES`].
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] where these are no footer.
    ///
    /// # Panics
    /// Never: slices of fixed length.
    pub fn tail_bytes(footer: &[u8; FOOTER_BYTES]) -> Result<u64, ObjectError> {
        let number = |at: usize| u64::from(u32::from_le_bytes(footer[at..at + 4].try_into().expect("4 bytes")));
        if footer[8..] != MARK[..] {
            return Err(ObjectError::malformed("a pack without its end"));
        }
        Ok(number(0) * ENVELOPE_BYTES as u64 + number(4) + FOOTER_BYTES as u64)
    }

    /// Reads the trailer from the end of a pack of `pack_bytes` bytes; `tail` are at least its last
    /// [`Trailer::tail_bytes`]. `key_of` gives the index key of a domain that we know.
    ///
    /// # Errors
    /// [`ObjectError`] where it is damaged, or sealed under a domain that we do not know.
    ///
    /// # Panics
    /// Never: slices of checked length.
    pub fn parse<'k>(
        kind: PackKind,
        pack_bytes: u64,
        tail: &Bytes,
        key_of: impl FnOnce(DomainId) -> Option<&'k IndexKey>,
    ) -> Result<Self, ObjectError> {
        let cut = || ObjectError::malformed("a pack with a cut trailer");
        let footer: &[u8; FOOTER_BYTES] = tail.last_chunk().ok_or_else(cut)?;
        let tail_bytes = Self::tail_bytes(footer)?;
        let records_end =
            pack_bytes.checked_sub(tail_bytes).filter(|end| *end >= RECORDS_START as u64).ok_or_else(cut)?;
        let start =
            usize::try_from(tail_bytes).ok().and_then(|length| tail.len().checked_sub(length)).ok_or_else(cut)?;
        let sealed_len = u32::from_le_bytes(footer[4..8].try_into().expect("4 bytes")) as usize;
        let sealed_start = tail.len() - FOOTER_BYTES - sealed_len;
        let sealed = &tail[sealed_start..tail.len() - FOOTER_BYTES];
        let envelopes = (start..sealed_start)
            .step_by(ENVELOPE_BYTES)
            .map(|at| Envelope::from_bytes(&tail[at..at + ENVELOPE_BYTES]))
            .collect::<Result<Vec<_>, _>>()?;
        if sealed.len() < DOMAIN_SEAL_BYTES {
            return Err(cut());
        }
        let domain = sealed_domain(sealed)?;
        let key = key_of(domain).ok_or(ObjectError::ForeignDomain)?;
        let opened = key.open(kind.object_type(), sealed)?;
        let (places, records) = decode(&opened)?;
        let origins = places
            .into_iter()
            .map(|(pack, envelope)| {
                let envelope = envelopes.get(envelope as usize).ok_or_else(cut)?.clone();
                Ok(Origin { pack, envelope })
            })
            .collect::<Result<Vec<_>, ObjectError>>()?;
        check_places(kind, &records, origins.len(), records_end)?;
        Ok(Self { domain, origins, records })
    }
}

/// Records lie one behind the other inside the pack, are of its kind and have an origin.
fn check_places(kind: PackKind, records: &[Record], origins: usize, records_end: u64) -> Result<(), ObjectError> {
    let mut free_from = RECORDS_START as u64;
    for record in records {
        let inside = u64::from(record.offset) >= free_from && record.end() <= records_end;
        if !inside || record.kind != kind || record.origin as usize >= origins || record.pack != 0 {
            return Err(ObjectError::malformed("a record outside of its pack"));
        }
        free_from = record.end();
    }
    Ok(())
}

/// A pack that was read whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackContents {
    /// Its own random id.
    pub pack_id: PackId,
    /// What its trailer says.
    pub trailer: Trailer,
}

impl PackContents {
    /// Reads a whole pack; the caller has compared its hash with its name.
    ///
    /// # Errors
    /// As [`Trailer::parse`], and where header or domain are not those of the trailer.
    ///
    /// # Panics
    /// Never: slices of checked length.
    pub fn parse<'k>(
        kind: PackKind,
        bytes: &Bytes,
        key_of: impl FnOnce(DomainId) -> Option<&'k IndexKey>,
    ) -> Result<Self, ObjectError> {
        let body = open_header(kind.object_type(), bytes)?;
        let (ids, _) =
            body.split_first_chunk::<32>().ok_or_else(|| ObjectError::malformed("a pack without its ids"))?;
        let trailer = Trailer::parse(kind, bytes.len() as u64, bytes, key_of)?;
        if trailer.domain.0 != ids[16..] {
            return Err(ObjectError::malformed("a pack of two domains"));
        }
        Ok(Self { pack_id: PackId(ids[..16].try_into().expect("16 bytes")), trailer })
    }
}
