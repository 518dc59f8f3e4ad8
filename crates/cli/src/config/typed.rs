//! Reads the YAML tree into types. Faults know the place and the nearest known word.

use std::fmt;

use lifeboat_model::nearest::nearest;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, Expected, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, Deserializer};

use super::fault::{Fault, Place};
use super::yaml::{Key, Node, Value};

/// Reads a tree into a type.
pub(crate) fn read<'de, T: Deserialize<'de>>(node: &'de Node) -> Result<T, Fault> {
    T::deserialize(node)
}

/// A value with its place and, where it is a text, the text as it was written.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
    pub(crate) raw: Option<String>,
}

impl<T> At<T> {
    pub(crate) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::new(what).at(self.place)
    }
}

const AT: &str = "lifeboat private: value with its place";

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AtVisitor<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for AtVisitor<T> {
            type Value = At<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<At<T>, A::Error> {
                let missing = || de::Error::custom("a value without its place");
                let (line, column, length) = parts.next_element()?.ok_or_else(missing)?;
                let raw = parts.next_element()?.ok_or_else(missing)?;
                let value = parts.next_element()?.ok_or_else(missing)?;
                Ok(At { value, place: Place { line, column, length }, raw })
            }
        }
        deserializer.deserialize_newtype_struct(AT, AtVisitor(std::marker::PhantomData))
    }
}

fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(what: T) -> Self {
        Self::new(what.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", in_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", in_words(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let fault = Self::new(format!("`{variant}` is not one of {}", expected.join(", ")));
        match nearest(variant, expected.iter().copied()) {
            Some(near) => fault.hint(format!("did you mean `{near}`?")),
            None => fault,
        }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("unknown key `{field}`")).hint(suggestion(field, expected))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("`{field}` is missing"))
    }
}

/// Texts are not repeated: they may be secrets.
fn in_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(_) => "a text".to_owned(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Unsigned(value) => value.to_string(),
        Unexpected::Signed(value) => value.to_string(),
        Unexpected::Float(_) => "a broken number".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        other => other.to_string(),
    }
}

impl Node {
    /// The text of a scalar, variables put in.
    fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(&text.resolved),
            Value::Number(text) | Value::Bool { text, .. } => Some(text),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    fn raw(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(&text.raw),
            _ => self.scalar(),
        }
    }

    /// The scalar as a number or `true` and `false`: where it is one, or became one by a variable.
    fn plain(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) if text.raw != text.resolved => Some(&text.resolved),
            Value::Number(text) | Value::Bool { text, .. } => Some(text),
            _ => None,
        }
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match &self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool { value, .. } => Unexpected::Bool(*value),
            Value::Number(text) => text
                .parse()
                .map(Unexpected::Unsigned)
                .or_else(|_| text.parse().map(Unexpected::Signed))
                .or_else(|_| text.parse().map(Unexpected::Float))
                .unwrap_or(Unexpected::Other("a number")),
            Value::Text(text) => Unexpected::Str(&text.resolved),
            Value::List(_) => Unexpected::Seq,
            Value::Map(_) => Unexpected::Map,
        }
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            match self.plain().and_then(|text| text.parse::<$type>().ok()) {
                Some(number) => visitor.$visit(number),
                None => Err(de::Error::invalid_type(self.unexpected(), &"a whole number")),
            }
            .map_err(|fault: Fault| fault.at(self.place))
        }
    )*};
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool { value, .. } => visitor.visit_bool(*value),
            Value::Number(text) => match (text.parse(), text.parse(), text.parse()) {
                (Ok(number), _, _) => visitor.visit_u64(number),
                (_, Ok(number), _) => visitor.visit_i64(number),
                (_, _, Ok(number)) => visitor.visit_f64(number),
                _ => visitor.visit_str(text),
            },
            Value::Text(text) => visitor.visit_borrowed_str(&text.resolved),
            Value::List(list) => visitor.visit_seq(Items(list.iter())),
            Value::Map(map) => visitor.visit_map(Entries::new(map, None)),
        }
        .map_err(|fault: Fault| fault.at(self.place))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.plain() {
            Some("true") => visitor.visit_bool(true),
            Some("false") => visitor.visit_bool(false),
            _ => Err(match self.scalar().map(str::to_lowercase).as_deref() {
                Some("yes" | "on" | "y") => Fault::new("expected true or false").hint("write true"),
                Some("no" | "off" | "n") => Fault::new("expected true or false").hint("write false"),
                _ => Fault::new("expected true or false"),
            }),
        }
        .map_err(|fault| fault.at(self.place))
    }

    numbers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.scalar() {
            Some(text) => visitor.visit_borrowed_str(text),
            None => Err(de::Error::invalid_type(self.unexpected(), &"a text")),
        }
        .map_err(|fault: Fault| fault.at(self.place))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        if name == AT { visitor.visit_seq(PlaceRawValue(self, 0)) } else { visitor.visit_newtype_struct(self) }
            .map_err(|fault: Fault| fault.at(self.place))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::List(list) => visitor.visit_seq(Items(list.iter())),
            _ => Err(de::Error::invalid_type(self.unexpected(), &"a list")),
        }
        .map_err(|fault: Fault| fault.at(self.place))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(map) => visitor.visit_map(Entries::new(map, None)),
            _ => Err(de::Error::invalid_type(self.unexpected(), &"a map")),
        }
        .map_err(|fault: Fault| fault.at(self.place))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_map(visitor)
    }

    /// A text is a variant without content; a map names its variant under `kind` or `type`.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.value {
            Value::Map(map) => match map.iter().find(|(key, _)| TAGS.contains(&key.name.as_str())) {
                Some((key, tag)) => visitor.visit_enum(Variant { tag, content: Some((self, &key.name)) }),
                None => Err(Fault::new(format!("`kind` is missing; it is one of {}", variants.join(", ")))),
            },
            _ => visitor.visit_enum(Variant { tag: self, content: None }),
        }
        .map_err(|fault: Fault| fault.at(self.place))
    }

    serde::forward_to_deserialize_any! {
        f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

const TAGS: [&str; 2] = ["kind", "type"];

/// The three parts of an [`At`].
struct PlaceRawValue<'de>(&'de Node, u8);

impl<'de> SeqAccess<'de> for PlaceRawValue<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        use serde::de::IntoDeserializer;
        use serde::de::value::{SeqDeserializer, U64Deserializer};
        let Place { line, column, length } = self.0.place;
        self.1 += 1;
        match self.1 {
            1 => {
                let numbers =
                    [line, column, length].map(|n| -> U64Deserializer<Fault> { (n as u64).into_deserializer() });
                seed.deserialize(SeqDeserializer::new(numbers.into_iter()))
            }
            2 => seed.deserialize(Maybe(self.0.raw())),
            3 => seed.deserialize(self.0),
            _ => return Ok(None),
        }
        .map(Some)
    }
}

struct Maybe<'de>(Option<&'de str>);

impl<'de> Deserializer<'de> for Maybe<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            Some(text) => visitor.visit_some(StrDeserializer::new(text)),
            None => visitor.visit_none(),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct Items<'de>(std::slice::Iter<'de, Node>);

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        self.0.next().map(|item| seed.deserialize(item).map_err(|fault| fault.at(item.place))).transpose()
    }
}

struct Entries<'de> {
    left: std::slice::Iter<'de, (Key, Node)>,
    /// A key that was read already: the tag of a variant.
    without: Option<&'de str>,
    value: Option<&'de Node>,
}

impl<'de> Entries<'de> {
    fn new(map: &'de [(Key, Node)], without: Option<&'de str>) -> Self {
        Self { left: map.iter(), without, value: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let without = self.without;
        let Some((key, value)) = self.left.find(|(key, _)| Some(key.name.as_str()) != without) else { return Ok(None) };
        self.value = Some(value);
        let name: StrDeserializer<'de, Fault> = StrDeserializer::new(&key.name);
        seed.deserialize(name).map(Some).map_err(|fault| fault.at(key.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        match self.value.take() {
            Some(value) => seed.deserialize(value).map_err(|fault| fault.at(value.place)),
            None => Err(Fault::new("a value without a key")),
        }
    }
}

struct Variant<'de> {
    tag: &'de Node,
    content: Option<(&'de Node, &'de str)>,
}

impl<'de> EnumAccess<'de> for Variant<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Fault> {
        let Some(tag) = self.tag.scalar() else { return Err(Fault::new("expected a word").at(self.tag.place)) };
        let name: StrDeserializer<'de, Fault> = StrDeserializer::new(tag);
        let variant = seed.deserialize(name).map_err(|fault| fault.at(self.tag.place))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        seed.deserialize(Content(&self))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        Content(&self).deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        Content(&self).deserialize_any(visitor)
    }
}

/// The map of a variant without its tag.
struct Content<'a, 'de>(&'a Variant<'de>);

impl<'de> Deserializer<'de> for Content<'_, 'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let nothing: &'de [(Key, Node)] = &[];
        let (place, entries) = match self.0.content {
            Some((node, tag)) => match &node.value {
                Value::Map(map) => (node.place, Entries::new(map, Some(tag))),
                _ => (node.place, Entries::new(nothing, None)),
            },
            None => (self.0.tag.place, Entries::new(nothing, None)),
        };
        visitor.visit_map(entries).map_err(|fault| fault.at(place))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}
