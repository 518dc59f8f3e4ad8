//! The names that a directory holds.

use std::os::fd::OwnedFd;

use rustix::fs::Dir;
use rustix::io::Errno;

/// Names of a directory in order, packed.
#[derive(Default)]
pub(super) struct NameList {
    bytes: Vec<u8>,
    /// Start and length.
    spans: Vec<(u32, u16)>,
}

impl NameList {
    pub(super) fn push(&mut self, name: &[u8]) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::TOOBIG)?;
        let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.spans.push((start, length));
        Ok(())
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, length) = *self.spans.get(index)?;
        Some(&self.bytes[start as usize..start as usize + usize::from(length)])
    }

    /// Only after [`NameList::sort`].
    pub(super) fn contains(&self, wanted: &[u8]) -> bool {
        let name = |span: &(u32, u16)| &self.bytes[span.0 as usize..span.0 as usize + usize::from(span.1)];
        self.spans.binary_search_by(|span| name(span).cmp(wanted)).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |span: &(u32, u16)| &bytes[span.0 as usize..span.0 as usize + usize::from(span.1)];
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }
}

/// All names in order, and the error that ended the list early.
pub(super) fn list(fd: &OwnedFd) -> (NameList, Option<Errno>) {
    let mut names = NameList::default();
    let broken = Dir::read_from(fd).and_then(|mut dir| {
        while let Some(entry) = dir.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name)?;
            }
        }
        Ok(())
    });
    names.sort();
    (names, broken.err())
}
