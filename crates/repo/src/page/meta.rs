//! Fields 1 to 10 of a stored entry.

use lifeboat_model::entry::Principal;
use lifeboat_model::{EntryKind, EntryMeta, Xattr};

use crate::cbor::{Build, Fields, Parse, required};
use crate::object::ObjectError;

pub(super) fn write(meta: &EntryMeta, map: &mut Fields<'_>) {
    map.field(1).uint(meta.kind as u8);
    map.some(2, meta.mode, |out, mode| out.uint(mode));
    map.some(3, meta.owner.as_ref(), principal);
    map.some(4, meta.group.as_ref(), principal);
    map.some(5, meta.mtime, |out, (seconds, nanoseconds)| out.array(2).int(seconds).uint(nanoseconds));
    map.some(6, meta.link.as_ref(), |out, link| out.bytes(link));
    map.some(7, meta.device, |out, (major, minor)| out.array(2).uint(major).uint(minor));
    if !meta.xattrs.is_empty() {
        map.field(8).list(meta.xattrs.iter(), |out, xattr| out.array(2).bytes(&xattr.name).bytes(&xattr.value));
    }
    map.some(9, meta.why.as_ref(), |out, why| out.text(why));
    if !meta.extra.is_empty() {
        map.field(10).text_map(&meta.extra, |out, text| out.text(text));
    }
}

fn principal<'b>(out: &'b mut Build, principal: &Principal) -> &'b mut Build {
    out.array(2).uint(principal.id);
    match &principal.name {
        Some(name) => out.text(name),
        None => out.null(),
    }
}

#[derive(Default)]
pub(super) struct MetaFields {
    kind: Option<EntryKind>,
    rest: Option<EntryMeta>,
}

impl MetaFields {
    pub(super) fn field(&mut self, key: u64, value: &mut Parse<'_>) -> Result<(), ObjectError> {
        if key == 1 {
            let number = value.u8()?;
            self.kind = EntryKind::from_number(number);
            return match self.kind {
                Some(_) => Ok(()),
                None => Err(ObjectError::malformed(format_args!("unknown kind of entry {number}"))),
            };
        }
        let meta = self.rest.get_or_insert_with(|| EntryMeta::new(EntryKind::File));
        match key {
            2 => meta.mode = Some(value.u32()?),
            3 => meta.owner = Some(read_principal(value)?),
            4 => meta.group = Some(read_principal(value)?),
            5 => meta.mtime = Some(read_mtime(value)?),
            6 => meta.link = Some(value.bytes()?.to_vec()),
            7 => {
                value.tuple(2)?;
                meta.device = Some((value.u32()?, value.u32()?));
            }
            8 => meta.xattrs = value.list(read_xattr)?,
            9 => meta.why = Some(value.text()?.to_owned()),
            10 => meta.extra = value.text_map(|text| Ok(text.text()?.to_owned()))?,
            _ => value.skip()?,
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<EntryMeta, ObjectError> {
        let kind = required(self.kind, "kind")?;
        Ok(match self.rest {
            Some(meta) => EntryMeta { kind, ..meta },
            None => EntryMeta::new(kind),
        })
    }
}

fn read_principal(parse: &mut Parse<'_>) -> Result<Principal, ObjectError> {
    parse.tuple(2)?;
    Ok(Principal { id: parse.u32()?, name: parse.nullable(|name| Ok(name.text()?.to_owned()))? })
}

fn read_mtime(parse: &mut Parse<'_>) -> Result<(i64, u32), ObjectError> {
    parse.tuple(2)?;
    let (seconds, nanoseconds) = (parse.i64()?, parse.u32()?);
    if nanoseconds < 1_000_000_000 {
        Ok((seconds, nanoseconds))
    } else {
        Err(ObjectError::malformed("nanoseconds beyond a second"))
    }
}

fn read_xattr(parse: &mut Parse<'_>) -> Result<Xattr, ObjectError> {
    parse.tuple(2)?;
    Ok(Xattr { name: parse.bytes()?.to_vec(), value: parse.bytes()?.to_vec() })
}
