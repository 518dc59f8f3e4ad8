//! The names that a directory holds.

use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

/// Names of a directory in order, packed.
#[derive(Default)]
pub(super) struct NameList {
    bytes: Vec<u8>,
    /// Start, length, whether it is a directory as far as the list tells.
    spans: Vec<(u32, u16, bool)>,
}

impl NameList {
    pub(super) fn push(&mut self, name: &[u8], is_dir: bool) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::TOOBIG)?;
        let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.spans.push((start, length, is_dir));
        Ok(())
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        let (start, length, _) = *self.spans.get(index)?;
        Some(&self.bytes[start as usize..start as usize + usize::from(length)])
    }

    /// Whether it is a directory: what says no may be one, and what says yes may have been replaced.
    pub(super) fn is_dir(&self, index: usize) -> bool {
        self.spans.get(index).is_some_and(|span| span.2)
    }

    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Only after [`NameList::sort`].
    pub(super) fn contains(&self, wanted: &[u8]) -> bool {
        let name = |span: &(u32, u16, bool)| &self.bytes[span.0 as usize..span.0 as usize + usize::from(span.1)];
        self.spans.binary_search_by(|span| name(span).cmp(wanted)).is_ok()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |span: &(u32, u16, bool)| &bytes[span.0 as usize..span.0 as usize + usize::from(span.1)];
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
                names.push(name, entry.file_type() == FileType::Directory)?;
            }
        }
        Ok(())
    });
    names.sort();
    (names, broken.err())
}
