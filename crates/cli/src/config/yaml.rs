//! YAML as a tree that remembers where everything stands. The only module that knows the YAML
//! parser.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_saphyr::Spanned;

use super::fault::{Fault, Place};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What a [`Node`] holds. Plain scalars keep their text, so that `007` can still become a name.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool { value: bool, text: String },
    Number(String),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A text before and after its variables were put in.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) raw: String,
    pub(crate) resolved: String,
}

/// A key of a map.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) place: Place,
    pub(crate) name: String,
}

impl Node {
    /// What stands under a key of a map.
    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Self> {
        let Value::Map(map) = &mut self.value else { return None };
        map.iter_mut().find(|(found, _)| found.name == key).map(|(_, value)| value)
    }

    /// The values of a map.
    pub(crate) fn children(&mut self) -> impl Iterator<Item = &mut Self> {
        let map = match &mut self.value {
            Value::Map(map) => map.as_mut_slice(),
            _ => &mut [],
        };
        map.iter_mut().map(|(_, value)| value)
    }

    /// The text under a key, as it was written.
    pub(crate) fn text(&mut self, key: &str) -> Option<&str> {
        match &self.get_mut(key)?.value {
            Value::Text(text) => Some(&text.raw),
            _ => None,
        }
    }

    /// Puts a text under a key, in place of what is there.
    pub(crate) fn set(&mut self, key: &str, raw: &str) {
        let place = self.place;
        let value = Value::Text(Text { raw: raw.to_owned(), resolved: raw.to_owned() });
        if let Some(there) = self.get_mut(key) {
            there.value = value;
        } else if let Value::Map(map) = &mut self.value {
            map.push((Key { place, name: key.to_owned() }, Self { place, value }));
        }
    }

    /// Takes a key out of a map.
    pub(crate) fn remove(&mut self, key: &str) {
        if let Value::Map(map) = &mut self.value {
            map.retain(|(found, _)| found.name != key);
        }
    }
}

/// Deeper configurations than this are refused; ours needs six.
const DEPTH_MAX: usize = 32;

/// Reads one YAML document. Keys that stand twice, merge keys and unknown tags are refused;
/// `no` and `on` stay texts.
pub(crate) fn parse(text: &str) -> Result<Node, Fault> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::options::MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    let parsed: Spanned<Parsed> =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| syntax(&error, text))?;
    node(parsed, text, 0)
}

/// A value as YAML; of a tree, variables as they were written.
pub(crate) fn write(value: &impl Serialize) -> Result<String, Fault> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options)
        .map_err(|why| Fault::new(format!("the configuration cannot be written as YAML: {why}")))
}

fn syntax(error: &serde_saphyr::Error, text: &str) -> Fault {
    let what = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
    // The parser repeats the place, which is shown with the line anyway.
    let what = what.split(" at line ").next().unwrap_or_default().trim_end().to_owned();
    if what.contains("tab")
        && let Some(place) = tab(text, error.location().map_or(1, |location| place(location).line))
    {
        return Fault::new("a tab stands in the indentation").at(place).hint("indent with blanks");
    }
    let fault = Fault::new(what);
    match error.location() {
        Some(location) => fault.at(place(location)),
        None => fault,
    }
}

/// The first indentation with a tab at or below a line: the parser tells the value before it.
fn tab(text: &str, from_line: usize) -> Option<Place> {
    let indented = |line: &str| line.find(|c| c != ' ').filter(|at| line[*at..].starts_with('\t'));
    let mut lines = text.lines().enumerate().skip(from_line.saturating_sub(1));
    lines.find_map(|(at, line)| Some(Place { line: at + 1, column: indented(line)? + 1, length: 1 }))
}

fn place(location: serde_saphyr::Location) -> Place {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Place { line: number(location.line()), column: number(location.column()), length: number(location.span().len()) }
}

/// The text of a plain scalar as it stands in the file.
fn source(location: serde_saphyr::Location, text: &str) -> Option<String> {
    let from = usize::try_from(location.span().byte_offset()?).ok()?;
    let length = usize::try_from(location.span().byte_len()?).ok()?;
    text.get(from..from.checked_add(length)?).map(|slice| slice.trim().to_owned())
}

fn node(parsed: Spanned<Parsed>, text: &str, depth: usize) -> Result<Node, Fault> {
    let location = parsed.referenced;
    let place = place(location);
    if depth > DEPTH_MAX {
        return Err(Fault::new("the configuration is nested too deeply").at(place));
    }
    let value = match parsed.value {
        Parsed::Null => Value::Null,
        Parsed::Bool(value) => {
            Value::Bool { value, text: source(parsed.defined, text).unwrap_or_else(|| value.to_string()) }
        }
        Parsed::Number(number) => Value::Number(source(parsed.defined, text).unwrap_or(number)),
        Parsed::Text(raw) => Value::Text(Text { resolved: raw.clone(), raw }),
        Parsed::List(list) => {
            Value::List(list.into_iter().map(|item| node(item, text, depth + 1)).collect::<Result<_, _>>()?)
        }
        Parsed::Map(map) => Value::Map(
            map.into_iter()
                .map(|(name, item)| {
                    let key = Key { place: self::place(name.referenced), name: name.value };
                    node(item, text, depth + 1).map(|item| (key, item))
                })
                .collect::<Result<_, _>>()?,
        ),
    };
    Ok(Node { place, value })
}

/// What the parser hands over.
enum Parsed {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Spanned<Parsed>>),
    Map(Vec<(Spanned<String>, Spanned<Parsed>)>),
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ParsedVisitor)
    }
}

struct ParsedVisitor;

impl<'de> Visitor<'de> for ParsedVisitor {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_none<E>(self) -> Result<Parsed, E> {
        Ok(Parsed::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parsed, E> {
        Ok(Parsed::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parsed, E> {
        Ok(Parsed::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Parsed, E> {
        Ok(Parsed::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Parsed, E> {
        Ok(Parsed::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Parsed::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Parsed, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = items.next_entry()? {
            map.push(entry);
        }
        Ok(Parsed::Map(map))
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool { value, .. } => serializer.serialize_bool(*value),
            Value::Number(text) => match text.parse::<i64>() {
                Ok(number) if number.to_string() == *text => serializer.serialize_i64(number),
                _ => serializer.serialize_str(text),
            },
            Value::Text(text) => serializer.serialize_str(&text.raw),
            Value::List(list) => {
                let mut out = serializer.serialize_seq(Some(list.len()))?;
                for item in list {
                    out.serialize_element(item)?;
                }
                out.end()
            }
            Value::Map(map) => {
                let mut out = serializer.serialize_map(Some(map.len()))?;
                for (key, item) in map {
                    out.serialize_entry(&key.name, item)?;
                }
                out.end()
            }
        }
    }
}
