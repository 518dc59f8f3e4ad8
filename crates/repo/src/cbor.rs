//! Records of stored objects: CBOR in definite lengths. `docs/format.md`, section "Terms".
//!
//! [`Parse`] is for hostile bytes: it allocates nothing from a stored length, refuses what
//! follows the record, keys that repeat or descend, and indefinite lengths.

use std::collections::BTreeMap;

use jiff::Timestamp;
use minicbor::{Decoder, Encoder};

use crate::object::ObjectError;

/// Writes one record. Methods chain.
pub struct Build(Encoder<Vec<u8>>);

impl std::fmt::Debug for Build {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Build({} bytes)", self.0.writer().len())
    }
}

impl Default for Build {
    fn default() -> Self {
        Self::new()
    }
}

const INFALLIBLE: &str = "writing to memory cannot fail";

impl Build {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(0)
    }

    /// An empty record with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self(Encoder::new(Vec::with_capacity(bytes)))
    }

    /// A record that is one map; see [`Build::map`].
    #[must_use]
    pub fn record(fields: impl FnOnce(&mut Fields<'_>)) -> Vec<u8> {
        let mut out = Self::new();
        out.map(fields);
        out.finish()
    }

    /// The bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.into_writer()
    }

    /// A map; its fields must be put in ascending order of their keys.
    ///
    /// # Panics
    /// Where the fields are more than 23, or out of order: a mistake in the program.
    pub fn map(&mut self, fields: impl FnOnce(&mut Fields<'_>)) -> &mut Self {
        let at = self.0.writer().len();
        self.0.writer_mut().push(0xa0);
        let mut into = Fields { out: self, count: 0, last: None };
        fields(&mut into);
        let count = into.count;
        assert!(count < 24, "a map of a record has at most 23 fields");
        self.0.writer_mut()[at] = 0xa0 | count;
        self
    }

    /// Starts an array of `length` items, which must follow.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn array(&mut self, length: usize) -> &mut Self {
        self.0.array(length as u64).expect(INFALLIBLE);
        self
    }

    /// An array with one item for each of `items`.
    pub fn list<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut put: impl for<'x> FnMut(&'x mut Self, T) -> &'x mut Self,
    ) -> &mut Self {
        self.array(items.len());
        for item in items {
            put(self, item);
        }
        self
    }

    /// A map from texts, in their order.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn text_map<T>(
        &mut self,
        values: &BTreeMap<String, T>,
        mut put: impl for<'x> FnMut(&'x mut Self, &T) -> &'x mut Self,
    ) -> &mut Self {
        self.0.map(values.len() as u64).expect(INFALLIBLE);
        for (key, value) in values {
            self.text(key);
            put(self, value);
        }
        self
    }

    /// An unsigned integer.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn uint(&mut self, value: impl Into<u64>) -> &mut Self {
        self.0.u64(value.into()).expect(INFALLIBLE);
        self
    }

    /// A signed integer.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn int(&mut self, value: impl Into<i64>) -> &mut Self {
        self.0.i64(value.into()).expect(INFALLIBLE);
        self
    }

    /// A byte string.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn bytes(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        self.0.bytes(value.as_ref()).expect(INFALLIBLE);
        self
    }

    /// A text.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn text(&mut self, value: &str) -> &mut Self {
        self.0.str(value).expect(INFALLIBLE);
        self
    }

    /// True or false.
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.0.bool(value).expect(INFALLIBLE);
        self
    }

    /// Null, where the format page says "or null".
    ///
    /// # Panics
    /// Never: memory takes it.
    pub fn null(&mut self) -> &mut Self {
        self.0.null().expect(INFALLIBLE);
        self
    }

    /// A time: `[seconds since 1970, nanoseconds 0..10^9]`.
    ///
    /// # Panics
    /// Never: nanoseconds after the floor of the second fit.
    pub fn time(&mut self, time: Timestamp) -> &mut Self {
        let (mut seconds, mut nanoseconds) = (time.as_second(), time.subsec_nanosecond());
        if nanoseconds < 0 {
            seconds -= 1;
            nanoseconds += 1_000_000_000;
        }
        self.array(2).int(seconds).uint(u32::try_from(nanoseconds).expect("0 to 999,999,999"))
    }
}

/// The fields of a map that is being written.
#[derive(Debug)]
pub struct Fields<'a> {
    out: &'a mut Build,
    count: u8,
    last: Option<u8>,
}

impl Fields<'_> {
    /// The next field; exactly one item must be written behind it.
    ///
    /// # Panics
    /// Where `key` is not above the one before: a mistake in the program.
    pub fn field(&mut self, key: u8) -> &mut Build {
        assert!(self.last < Some(key), "the fields of a record ascend");
        self.last = Some(key);
        self.count += 1;
        self.out.uint(key)
    }

    /// A field that is left out where there is nothing to say.
    pub fn some<T>(&mut self, key: u8, value: Option<T>, put: impl for<'x> FnOnce(&'x mut Build, T) -> &'x mut Build) {
        if let Some(value) = value {
            put(self.field(key), value);
        }
    }
}

/// Reads one record out of hostile bytes.
#[derive(Debug)]
pub struct Parse<'b>(Decoder<'b>);

type Parsed<T> = Result<T, ObjectError>;

fn bad(error: impl std::fmt::Display) -> ObjectError {
    ObjectError::malformed(format_args!("CBOR: {error}"))
}

impl<'b> Parse<'b> {
    /// A reader over a record and what may follow it.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self(Decoder::new(bytes))
    }

    /// Reads a record that fills `bytes`.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`], also where bytes are left over.
    pub fn whole<T>(bytes: &'b [u8], read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        let mut parse = Self::new(bytes);
        let value = read(&mut parse)?;
        if parse.left() == 0 { Ok(value) } else { Err(bad("bytes are left over behind the record")) }
    }

    /// Bytes that were not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.input().len() - self.0.position()
    }

    /// Calls `field` for every key of a map. It reads the value, or [`Parse::skip`]s what it does
    /// not know.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`], also where keys repeat or descend.
    pub fn map(&mut self, mut field: impl FnMut(u64, &mut Self) -> Parsed<()>) -> Parsed<()> {
        let fields = self.0.map().map_err(bad)?;
        let mut last = None;
        for _ in 0..self.bounded(fields)? {
            let key = self.u64()?;
            if last >= Some(key) {
                return Err(bad("a map's keys do not ascend"));
            }
            last = Some(key);
            field(key, self)?;
        }
        Ok(())
    }

    /// Passes over one item of any shape.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn skip(&mut self) -> Parsed<()> {
        self.0.skip().map_err(bad)
    }

    /// The number of items of an array, at most the bytes that are left.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn array(&mut self) -> Parsed<usize> {
        let items = self.0.array().map_err(bad)?;
        self.bounded(items)
    }

    /// An array of exactly `items`, which the caller then reads.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn tuple(&mut self, items: usize) -> Parsed<()> {
        match self.array()? {
            found if found == items => Ok(()),
            found => Err(bad(format_args!("an array of {found} where {items} belong"))),
        }
    }

    /// All items of an array. Grows with what is really there.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        let count = self.array()?;
        let mut out = Vec::new();
        for _ in 0..count {
            out.push(item(self)?);
        }
        Ok(out)
    }

    /// A map from texts.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`], also where keys repeat or descend.
    pub fn text_map<T>(&mut self, mut value: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<BTreeMap<String, T>> {
        let fields = self.0.map().map_err(bad)?;
        let mut out: BTreeMap<String, T> = BTreeMap::new();
        for _ in 0..self.bounded(fields)? {
            let key = self.text()?.to_owned();
            if out.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(bad("a map's keys do not ascend"));
            }
            let value = value(self)?;
            out.insert(key, value);
        }
        Ok(out)
    }

    fn bounded(&self, count: Option<u64>) -> Parsed<usize> {
        let count = count.ok_or_else(|| bad("an indefinite length"))?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= self.left())
            .ok_or_else(|| bad(format_args!("{count} items cannot stand in {} bytes", self.left())))
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn u64(&mut self) -> Parsed<u64> {
        self.0.u64().map_err(bad)
    }

    /// An unsigned integer that fits.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn u32(&mut self) -> Parsed<u32> {
        self.0.u32().map_err(bad)
    }

    /// An unsigned integer that fits.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn u8(&mut self) -> Parsed<u8> {
        self.0.u8().map_err(bad)
    }

    /// A signed integer.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn i64(&mut self) -> Parsed<i64> {
        self.0.i64().map_err(bad)
    }

    /// A byte string, not copied.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn bytes(&mut self) -> Parsed<&'b [u8]> {
        self.0.bytes().map_err(bad)
    }

    /// A byte string of this length.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn fixed<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let bytes = self.bytes()?;
        bytes.try_into().map_err(|_| bad(format_args!("{} bytes where {N} belong", bytes.len())))
    }

    /// A text, not copied.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn text(&mut self) -> Parsed<&'b str> {
        self.0.str().map_err(bad)
    }

    /// True or false.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn bool(&mut self) -> Parsed<bool> {
        self.0.bool().map_err(bad)
    }

    /// What `read` reads, or `None` for null.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`].
    pub fn nullable<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<Option<T>> {
        if matches!(self.0.datatype(), Ok(minicbor::data::Type::Null)) {
            self.0.null().map_err(bad)?;
            Ok(None)
        } else {
            read(self).map(Some)
        }
    }

    /// A time: `[seconds since 1970, nanoseconds 0..10^9]`.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`], also for a time outside of the years -9999 to 9999.
    pub fn time(&mut self) -> Parsed<Timestamp> {
        self.tuple(2)?;
        let (seconds, nanoseconds) = (self.i64()?, self.u32()?);
        i32::try_from(nanoseconds)
            .ok()
            .filter(|nanoseconds| *nanoseconds < 1_000_000_000)
            .and_then(|nanoseconds| Timestamp::new(seconds, nanoseconds).ok())
            .ok_or_else(|| bad("a time that no calendar has"))
    }
}

/// The value of a field that must be there.
///
/// # Errors
/// [`ObjectError::Malformed`] with the field's name.
pub fn required<T>(value: Option<T>, name: &str) -> Result<T, ObjectError> {
    value.ok_or_else(|| bad(format_args!("the field {name} is missing")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unknown_keys_are_passed_over_and_known_ones_read() {
        let bytes = Build::record(|map| {
            map.field(0).uint(7u8);
            map.field(5).array(2).text("later").bytes([1, 2]);
            map.field(9).bool(true);
        });
        let mut seen = (None, None);
        Parse::whole(&bytes, |parse| {
            parse.map(|key, value| {
                match key {
                    0 => seen.0 = Some(value.u32()?),
                    9 => seen.1 = Some(value.bool()?),
                    _ => value.skip()?,
                }
                Ok(())
            })
        })
        .expect("read");
        assert_eq!(seen, (Some(7), Some(true)));
    }

    #[test]
    fn a_stored_length_above_the_input_is_refused_before_anything_is_allocated() {
        let huge_array = [0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00];
        assert!(Parse::new(&huge_array).list(Parse::u64).is_err());
        let huge_bytes = [0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00];
        assert!(Parse::new(&huge_bytes).bytes().is_err());
        let huge_map = [0xbb, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00];
        assert!(Parse::new(&huge_map).map(|_, value| value.skip()).is_err());
    }

    #[test]
    fn indefinite_lengths_repeated_keys_and_left_over_bytes_are_refused() {
        assert!(Parse::new(&[0x9f, 0x01, 0xff]).array().is_err());
        assert!(Parse::new(&[0x5f, 0x41, 0x01, 0xff]).bytes().is_err());
        assert!(Parse::new(&[0xa2, 0x01, 0x01, 0x01, 0x02]).map(|_, value| value.skip()).is_err());
        assert!(Parse::whole(&[0x01, 0x02], Parse::u64).is_err());
    }

    proptest! {
        #[test]
        fn times_come_back_as_they_were(seconds in -300_000_000_000i64..250_000_000_000, nanoseconds in 0i32..1_000_000_000) {
            let time = Timestamp::new(seconds, nanoseconds).expect("in the calendar");
            let mut out = Build::new();
            out.time(time);
            prop_assert_eq!(Parse::whole(&out.finish(), Parse::time).expect("read"), time);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Parse::new(&bytes).map(|_, value| value.skip());
            let _ = Parse::new(&bytes).list(|item| item.nullable(Parse::time));
            let _ = Parse::new(&bytes).text();
        }
    }
}
