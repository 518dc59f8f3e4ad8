//! The text form that key files, requests and grants share: one flat JSON object with a checksum.
//! `docs/format.md`, section "Key files".

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use zeroize::Zeroizing;

use crate::crypt::{SealPublic, Secret, VerifyKey};
use crate::keyfile::KeyFileError;

/// Larger than any key file, request or grant.
pub(crate) const TEXT_BYTES_MAX: usize = 64 << 10;
const VERSION: u64 = 1;
const WHAT: &str = "lifeboat_key";

/// Fields by name; values are texts or numbers.
#[derive(Default)]
pub(crate) struct KeyText {
    fields: BTreeMap<String, Zeroizing<String>>,
}

impl KeyText {
    pub(crate) fn new(what: &str) -> Self {
        let mut new = Self::default();
        new.put(WHAT, what.to_owned());
        new.put("version", VERSION.to_string());
        new
    }

    pub(crate) fn put(&mut self, name: &str, value: impl Into<String>) {
        self.fields.insert(name.to_owned(), Zeroizing::new(value.into()));
    }

    pub(crate) fn put_hex(&mut self, name: &str, bytes: &[u8]) {
        self.put(name, hex::encode(bytes));
    }

    /// The JSON, with the checksum as its last field.
    pub(crate) fn encode(&self) -> Zeroizing<String> {
        let length: usize = self.fields.iter().map(|(name, value)| name.len() + 2 * value.len() + 16).sum();
        let mut out = Zeroizing::new(String::with_capacity(length + 64));
        out.push_str("{\n");
        let first = [WHAT, "version"];
        let rest = self.fields.keys().map(String::as_str).filter(|name| !first.contains(name));
        for name in first.into_iter().chain(rest) {
            let value = &self.fields[name];
            let is_number = NUMBERS.contains(&name);
            let plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let _ = match (is_number, plain) {
                (true, _) => writeln!(out, "  \"{name}\": {},", value.as_str()),
                (false, true) => writeln!(out, "  \"{name}\": \"{}\",", value.as_str()),
                (false, false) => writeln!(out, "  \"{name}\": {},", serde_json::Value::from(value.as_str())),
            };
        }
        let _ = write!(out, "  \"checksum\": \"{}\"\n}}\n", self.checksum());
        out
    }

    /// Reads what [`KeyText::encode`] made.
    pub(crate) fn decode(text: &str) -> Result<Self, KeyFileError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(KeyFileError::TooLarge);
        }
        // The parser's own words could repeat a secret that stands in the wrong place.
        let mut read: Self = serde_json::from_str(text)
            .map_err(|error| KeyFileError::NotJson { line: error.line(), column: error.column() })?;
        if !read.fields.contains_key(WHAT) {
            return Err(KeyFileError::NotAKeyFile);
        }
        let version: u64 = read.number("version")?;
        match version.cmp(&VERSION) {
            Ordering::Less => return Err(KeyFileError::OlderVersion(version)),
            Ordering::Equal => {}
            Ordering::Greater => return Err(KeyFileError::NewerVersion(version)),
        }
        let checksum = read.take("checksum")?;
        read.put("version", VERSION.to_string());
        if checksum.to_ascii_lowercase() == read.checksum() { Ok(read) } else { Err(KeyFileError::Checksum) }
    }

    /// The first four bytes of a hash over all other fields in the order of their names.
    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lifeboat v1 key file\0");
        for (name, value) in &self.fields {
            for part in [name.as_bytes(), &[0], value.as_bytes(), &[0]] {
                hasher.update(part);
            }
        }
        hex::encode(&hasher.finalize().as_bytes()[..4])
    }

    pub(crate) fn what(&self) -> &str {
        self.fields.get(WHAT).map_or("", |what| what.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.contains_key(name)
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Result<Zeroizing<String>, KeyFileError> {
        self.fields.remove(name).ok_or(KeyFileError::Field { name, why: "is missing" })
    }

    pub(crate) fn number<T: std::str::FromStr>(&mut self, name: &'static str) -> Result<T, KeyFileError> {
        self.take(name)?.parse().map_err(|_| KeyFileError::Field { name, why: "is not such a number" })
    }

    pub(crate) fn bytes(&mut self, name: &'static str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        let text = self.take(name)?;
        hex::decode(text.as_bytes())
            .map(Zeroizing::new)
            .map_err(|_| KeyFileError::Field { name, why: "is not made of hexadecimal digits" })
    }

    pub(crate) fn fixed<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], KeyFileError> {
        let bytes = self.bytes(name)?;
        bytes.as_slice().try_into().map_err(|_| KeyFileError::Field { name, why: "has the wrong length" })
    }

    pub(crate) fn secret(&mut self, name: &'static str) -> Result<Secret, KeyFileError> {
        self.fixed(name).map(Secret)
    }

    /// Names of fields that start with `prefix`.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        self.fields.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// A secret in a field whose name is data.
    pub(crate) fn secret_named(&mut self, name: &str) -> Result<Secret, KeyFileError> {
        let text = self.fields.remove(name);
        let mut out = Secret([0; 32]);
        text.and_then(|text| hex::decode_to_slice(text.as_bytes(), &mut out.0).ok())
            .map(|()| out)
            .ok_or_else(|| KeyFileError::UnknownField(name.to_owned()))
    }

    pub(crate) fn verify_key(&mut self, name: &'static str) -> Result<VerifyKey, KeyFileError> {
        self.fixed(name).map(VerifyKey)
    }

    pub(crate) fn seal_public(&mut self, name: &'static str) -> Result<SealPublic, KeyFileError> {
        let bytes = self.bytes(name)?;
        SealPublic::from_slice(&bytes).map_err(|_| KeyFileError::Field { name, why: "is no key" })
    }

    /// Refuses fields that nobody took.
    pub(crate) fn finish(mut self) -> Result<(), KeyFileError> {
        self.fields.remove(WHAT);
        self.fields.remove("version");
        match self.fields.into_iter().next() {
            Some((name, _)) => Err(KeyFileError::UnknownField(name)),
            None => Ok(()),
        }
    }
}

/// Fields that are written as JSON numbers.
const NUMBERS: [&str; 4] = ["version", "memory_kib", "passes", "lanes"];

impl<'de> Deserialize<'de> for KeyText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = KeyText;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a flat JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<KeyText, A::Error> {
        let mut out = KeyText::default();
        while let Some((name, Scalar(value))) = map.next_entry::<String, Scalar>()? {
            if out.fields.insert(name, value).is_some() {
                return Err(A::Error::custom("a field stands twice"));
            }
        }
        Ok(out)
    }
}

struct Scalar(Zeroizing<String>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a whole number")
            }
            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(Zeroizing::new(value.to_owned())))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(Zeroizing::new(value.to_string())))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> KeyText {
        let mut text = KeyText::new("request");
        text.put_hex("sign", &[0xab; 32]);
        text.put("host", "büro \"3\"");
        text
    }

    #[test]
    fn fields_come_back_in_whatever_order_and_layout_the_json_has() {
        let json = text().encode();
        let mut read = KeyText::decode(&json).expect("read");
        assert_eq!(read.what(), "request");
        assert_eq!(read.fixed::<32>("sign").expect("there"), [0xab; 32]);
        assert_eq!(read.take("host").expect("there").as_str(), "büro \"3\"");
        read.finish().expect("nothing is left");
        let value: serde_json::Value = serde_json::from_str(&json).expect("json");
        assert!(KeyText::decode(&serde_json::to_string(&value).expect("json")).is_ok());
    }

    #[test]
    fn one_wrong_digit_is_told_from_a_wrong_key() {
        let json = text().encode().replacen("abab", "abac", 1);
        assert!(matches!(KeyText::decode(&json), Err(KeyFileError::Checksum)));
    }

    #[test]
    fn unknown_repeated_and_missing_fields_are_named() {
        let mut read = KeyText::decode(&text().encode()).expect("read");
        assert!(matches!(read.take("root"), Err(KeyFileError::Field { name: "root", .. })));
        let left = read.finish().expect_err("fields are left");
        assert!(matches!(left, KeyFileError::UnknownField(name) if name == "host"));
        let twice = r#"{"lifeboat_key": "a", "lifeboat_key": "b"}"#;
        assert!(matches!(KeyText::decode(twice), Err(KeyFileError::NotJson { .. })));
        assert!(matches!(KeyText::decode("{}"), Err(KeyFileError::NotAKeyFile)));
        let newer = r#"{"lifeboat_key": "writer", "version": 7}"#;
        assert!(matches!(KeyText::decode(newer), Err(KeyFileError::NewerVersion(7))));
        let older = r#"{"lifeboat_key": "writer", "version": 0}"#;
        assert!(matches!(KeyText::decode(older), Err(KeyFileError::OlderVersion(0))));
    }

    #[test]
    fn an_error_never_repeats_what_stands_in_the_file() {
        let misplaced = format!(r#"{{"lifeboat_key": "writer", "version": "{}"}}"#, "5ec2e7".repeat(10));
        let error = KeyText::decode(&misplaced).err().expect("refused");
        assert!(!format!("{error} {error:?}").contains("5ec2e7"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            let _ = KeyText::decode(&text);
        }
    }
}
