//! CBOR as `docs/format.md` wants it: definite lengths, keys that ascend, nothing behind a record.

use super::R;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Value {
    Int(i128),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Bool(bool),
    Null,
}

/// Deeper than any record of the format.
const DEPTH_MAX: usize = 16;

/// Reads one record that fills `bytes`.
pub(crate) fn parse(bytes: &[u8]) -> R<Value> {
    let mut rest = bytes;
    let value = item(&mut rest, 0)?;
    if rest.is_empty() { Ok(value) } else { Err("bytes are left over behind a record".into()) }
}

fn take<'b>(rest: &mut &'b [u8], length: u64) -> R<&'b [u8]> {
    let length = usize::try_from(length).map_err(|_| "a length beyond all bounds")?;
    let (head, tail) = rest.split_at_checked(length).ok_or("a record is cut off")?;
    *rest = tail;
    Ok(head)
}

fn item(rest: &mut &[u8], depth: usize) -> R<Value> {
    if depth > DEPTH_MAX {
        return Err("a record that is nested too deep".into());
    }
    let first = take(rest, 1)?[0];
    let (major, low) = (first >> 5, first & 31);
    let argument = match low {
        0..=23 => u64::from(low),
        24..=27 => take(rest, 1 << (low - 24))?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        _ => return Err("an indefinite or reserved length".into()),
    };
    Ok(match major {
        0 => Value::Int(argument.into()),
        1 => Value::Int(-1 - i128::from(argument)),
        2 => Value::Bytes(take(rest, argument)?.to_vec()),
        3 => Value::Text(String::from_utf8(take(rest, argument)?.to_vec()).map_err(|error| error.to_string())?),
        4 => {
            let mut items = Vec::new();
            for _ in 0..argument {
                items.push(item(rest, depth + 1)?);
            }
            Value::Array(items)
        }
        5 => {
            let mut fields: Vec<(Value, Value)> = Vec::new();
            for _ in 0..argument {
                let key = item(rest, depth + 1)?;
                if fields.last().is_some_and(|(last, _)| *last >= key) {
                    return Err("keys repeat or descend".into());
                }
                fields.push((key, item(rest, depth + 1)?));
            }
            Value::Map(fields)
        }
        7 if first == 0xf4 || first == 0xf5 => Value::Bool(first == 0xf5),
        7 if first == 0xf6 => Value::Null,
        _ => return Err(format!("an item of no known kind: {first:#x}")),
    })
}

impl Value {
    pub(crate) fn get(&self, key: i128) -> Option<&Value> {
        let Value::Map(fields) = self else { return None };
        fields.iter().find(|(known, _)| *known == Value::Int(key)).map(|(_, value)| value)
    }

    pub(crate) fn need(&self, key: i128) -> R<&Value> {
        self.get(key).ok_or_else(|| format!("field {key} is missing in {self:?}"))
    }

    pub(crate) fn uint(&self) -> R<u64> {
        let Value::Int(number) = self else { return Err(format!("no integer: {self:?}")) };
        u64::try_from(*number).map_err(|error| error.to_string())
    }

    pub(crate) fn int(&self) -> R<i64> {
        let Value::Int(number) = self else { return Err(format!("no integer: {self:?}")) };
        i64::try_from(*number).map_err(|error| error.to_string())
    }

    pub(crate) fn bytes(&self) -> R<&[u8]> {
        let Value::Bytes(bytes) = self else { return Err(format!("no bytes: {self:?}")) };
        Ok(bytes)
    }

    pub(crate) fn fixed<const N: usize>(&self) -> R<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| format!("not {N} bytes"))
    }

    pub(crate) fn text(&self) -> R<&str> {
        let Value::Text(text) = self else { return Err(format!("no text: {self:?}")) };
        Ok(text)
    }

    pub(crate) fn bool(&self) -> R<bool> {
        let Value::Bool(is) = self else { return Err(format!("neither true nor false: {self:?}")) };
        Ok(*is)
    }

    pub(crate) fn array(&self) -> R<&[Value]> {
        let Value::Array(items) = self else { return Err(format!("no array: {self:?}")) };
        Ok(items)
    }

    pub(crate) fn tuple<const N: usize>(&self) -> R<&[Value; N]> {
        self.array()?.try_into().map_err(|_| format!("no array of {N}"))
    }

    pub(crate) fn time(&self) -> R<(i64, u64)> {
        let [seconds, nanoseconds] = self.tuple::<2>()?;
        Ok((seconds.int()?, nanoseconds.uint()?))
    }

    /// A map from texts.
    pub(crate) fn texts(&self) -> R<Vec<(&str, &Value)>> {
        let Value::Map(fields) = self else { return Err(format!("no map: {self:?}")) };
        fields.iter().map(|(key, value)| Ok((key.text()?, value))).collect()
    }
}
