//! The slice maps of one source: a file for each stream, by the keyed hash of its path.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use lifeboat_model::EntryPath;
use lifeboat_model::flow::Shape;
use tempfile::TempPath;

use super::{SliceMap, SliceMapWriter, Slicer, Window};
use crate::chunker::Cutter;
use crate::parent::{ParentKey, PathKey};

/// Maps of the last backup, and those that this one makes.
#[derive(Debug)]
pub(crate) struct SliceMaps {
    directory: PathBuf,
    key: ParentKey,
    present: HashSet<PathKey>,
    /// Streams of this backup; with a map where it is a new one.
    seen: Mutex<HashMap<PathKey, Option<TempPath>>>,
}

fn unusable(what: &str, error: &io::Error) {
    tracing::warn!("{what}, a change to its stream costs more this time: {error}");
}

impl SliceMaps {
    /// The maps below `directory`, which need not exist.
    pub(crate) fn open(directory: PathBuf, key: ParentKey) -> Self {
        let names = std::fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut present = HashSet::new();
        for name in names {
            let mut path_key = PathKey::default();
            if name.to_str().is_some_and(|name| hex::decode_to_slice(name, &mut path_key).is_ok()) {
                present.insert(path_key);
            }
        }
        Self { directory, key, present, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<PathKey, Option<TempPath>>> {
        self.seen.lock().expect("no holder panics")
    }

    fn file(&self, path_key: &PathKey) -> PathBuf {
        self.directory.join(hex::encode(path_key))
    }

    /// Cuts the slices of this source's streams.
    pub(crate) fn slicer(&self, cutter: &Cutter, shape: Shape) -> Slicer {
        Slicer::new(cutter.clone(), self.key.slices(), shape)
    }

    /// What the last backup knew of a stream.
    pub(crate) fn old(&self, path: &EntryPath) -> Option<Window> {
        let path_key = self.key.key_of(path);
        if !self.present.contains(&path_key) {
            return None;
        }
        SliceMap::open(&self.file(&path_key), self.key.secret(), self.key.binding())
            .inspect_err(|error| unusable("a slice map of the last backup is of no use", error))
            .ok()
            .map(Window::new)
    }

    /// Begins the map of a stream.
    pub(crate) fn create(&self) -> Option<SliceMapWriter> {
        let made = crate::cache::make_private(&self.directory)
            .and_then(|()| SliceMapWriter::create(&self.directory, self.key.secret(), self.key.binding()));
        made.inspect_err(|error| unusable("a slice map cannot be made", error)).ok()
    }

    /// Keeps the map of a stream that was stored whole. The last one of a path counts.
    pub(crate) fn put(&self, path: &EntryPath, map: SliceMapWriter) {
        match map.finish() {
            Ok(map) => drop(self.seen().insert(self.key.key_of(path), Some(map))),
            Err(error) => unusable("a slice map cannot be written", &error),
        }
    }

    /// The stream is as it was, and so is its map.
    pub(crate) fn keep(&self, path: &EntryPath) {
        if self.present.is_empty() {
            return;
        }
        let path_key = self.key.key_of(path);
        if self.present.contains(&path_key) {
            self.seen().entry(path_key).or_default();
        }
    }

    /// Makes the new maps those of the next backup, and removes those of streams that are gone.
    pub(crate) fn finish(&self) -> io::Result<()> {
        let seen = std::mem::take(&mut *self.seen());
        let gone: Vec<_> = self.present.iter().filter(|path_key| !seen.contains_key(*path_key)).collect();
        for path_key in gone {
            std::fs::remove_file(self.file(path_key))?;
        }
        for (path_key, map) in seen {
            if let Some(map) = map {
                map.persist(self.file(&path_key)).map_err(|error| error.error)?;
            }
        }
        Ok(())
    }
}
