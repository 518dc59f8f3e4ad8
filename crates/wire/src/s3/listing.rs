//! Answers of S3 that list something.

use jiff::Timestamp;
use serde::Deserialize;

use crate::http::RequestError;

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its whole name in the bucket.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When the server took it.
    pub stored_at: Timestamp,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// What it holds.
    pub objects: Vec<Listed>,
    /// How to ask for the next one.
    pub next: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListBucketResult {
    /// Always there: what lacks it is another answer.
    is_truncated: bool,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
    #[serde(default)]
    contents: Vec<Contents>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Contents {
    key: String,
    size: u64,
    last_modified: String,
}

/// Reads the answer to a list.
pub(super) fn page(xml: &[u8]) -> Result<Page, RequestError> {
    let read: ListBucketResult = read(xml)?;
    let url_encoded = read.encoding_type.as_deref() == Some("url");
    let objects = read.contents.into_iter().map(|found| {
        let key = if url_encoded { decoded(&found.key)? } else { found.key };
        let stored_at = found.last_modified.parse();
        let stored_at =
            stored_at.map_err(|_| RequestError::Strange(format!("{:?} is no time", found.last_modified)))?;
        Ok(Listed { key, bytes: found.size, stored_at })
    });
    let next = match (read.is_truncated, read.next_continuation_token) {
        (false, _) => None,
        (true, Some(token)) if !token.is_empty() => Some(token),
        (true, _) => return Err(RequestError::Strange("a list goes on and does not say where".to_owned())),
    };
    Ok(Page { objects: objects.collect::<Result<_, RequestError>>()?, next })
}

pub(super) fn read<'de, T: Deserialize<'de>>(xml: &'de [u8]) -> Result<T, RequestError> {
    let text = std::str::from_utf8(xml).map_err(|_| RequestError::Strange("an answer is not UTF-8".to_owned()))?;
    quick_xml::de::from_str(text).map_err(|error| {
        let start: String = text.chars().take(80).collect();
        RequestError::Strange(format!("{error} in {start:?}"))
    })
}

pub(super) fn decoded(key: &str) -> Result<String, RequestError> {
    let strange = || RequestError::Strange(format!("the name {key:?} is badly encoded"));
    let mut out = Vec::with_capacity(key.len());
    let mut bytes = key.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
                let (high, low) = (digit().ok_or_else(strange)?, digit().ok_or_else(strange)?);
                out.push(u8::try_from(high << 4 | low).map_err(|_| strange())?);
            }
            other => out.push(other),
        }
    }
    String::from_utf8(out).map_err(|_| strange())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">";

    fn read_page(body: &str) -> Result<Page, RequestError> {
        page(format!("{HEAD}{body}</ListBucketResult>").as_bytes())
    }

    #[test]
    fn a_page_tells_names_lengths_times_and_how_it_goes_on() {
        let object = "<Contents><Key>a%2Fb+c%25</Key><LastModified>2026-11-22T01:02:03.456Z</LastModified><ETag>&quot;e&quot;</ETag><Size>7</Size></Contents>";
        let read = read_page(&format!(
            "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>{object}<CommonPrefixes><Prefix>x</Prefix></CommonPrefixes>\
             <Contents><Key>d</Key><LastModified>2026-11-22T01:02:03Z</LastModified><Size>0</Size></Contents><NextContinuationToken>T</NextContinuationToken>"
        ));
        let read = read.expect("a page");
        assert_eq!(read.next.as_deref(), Some("T"));
        assert_eq!(read.objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a/b c%", "d"]);
        assert_eq!((read.objects[0].bytes, read.objects[0].stored_at.as_millisecond() % 1000), (7, 456));
        let plain = read_page(&format!("<IsTruncated>false</IsTruncated>{}", object.replace("a%2Fb+c%25", "a/b+c%")))
            .expect("a page");
        assert_eq!(plain.objects[0].key, "a/b+c%", "only what says so is encoded");
    }

    #[test]
    fn what_is_no_page_is_no_empty_page() {
        for bad in
            ["<IsTruncated>true</IsTruncated>", "<IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents>", ""]
        {
            assert!(read_page(bad).is_err(), "{bad}");
        }
        for bad in [&b"<html>"[..], b"", b"<Error><Code>X</Code></Error>", b"\xff"] {
            assert!(page(bad).is_err(), "{bad:?}");
        }
    }
}
