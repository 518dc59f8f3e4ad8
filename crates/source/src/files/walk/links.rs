//! Files with several names, of which some are still to come.

use std::collections::HashMap;

use lifeboat_model::EntryPath;

use super::Inode;

/// Memory for files with several names of which some were not met yet.
const LINK_BYTES_MAX: usize = 32 << 20;

/// The first names that were met, in bounded memory.
#[derive(Default)]
pub(super) struct Links {
    first: HashMap<Inode, FirstName>,
    bytes: usize,
    is_full: bool,
}

/// The first name of a file with several, and how many names are still to come.
struct FirstName {
    path: EntryPath,
    left: u64,
}

impl Links {
    /// Whether a name could not be remembered.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// The path under which a file with `names` names was met first, if this is not the first.
    pub(super) fn first_name(&mut self, inode: Inode, names: u64, path: &EntryPath) -> Option<EntryPath> {
        if let Some(first) = self.first.get_mut(&inode) {
            let known = first.path.clone();
            first.left = first.left.saturating_sub(1);
            if first.left == 0 {
                self.first.remove(&inode);
                self.bytes = self.bytes.saturating_sub(link_cost(&known));
            }
            return Some(known);
        }
        let cost = link_cost(path);
        if self.bytes + cost > LINK_BYTES_MAX {
            self.is_full = true;
            return None;
        }
        self.bytes += cost;
        self.first.insert(inode, FirstName { path: path.clone(), left: names - 1 });
        None
    }
}

/// What a remembered first name takes: its bytes, its place in the map and the allocator's share.
fn link_cost(path: &EntryPath) -> usize {
    path.as_bytes().len() + 96
}
