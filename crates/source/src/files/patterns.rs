//! Patterns over paths: what a backup leaves out by wish, what a restore is limited to.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use lifeboat_model::EntryPath;

use crate::SourceError;

/// The file that marks a directory as a cache, and how it starts
/// (Cache Directory Tagging Specification, <https://bford.info/cachedir/>).
pub(super) const CACHE_TAG: &[u8] = b"CACHEDIR.TAG";
pub(super) const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Patterns in the manner of `.gitignore`:
///
/// | pattern | meets |
/// |---|---|
/// | `*.tmp` (no slash) | whatever has a name that matches, at any depth |
/// | `/srv/documents/old` (leading slash) | what has this absolute path |
/// | `cache/thumbs` (slash inside) | what has a path that ends so |
/// | `build/` (trailing slash) | as the pattern without it, but only directories |
///
/// `*` and `?` stop at slashes, `**` does not, `[a-z]` and `{a,b}` are known, `\` takes the next
/// character as it is. What lies below a directory that is met goes with it. A pattern for a backup
/// never applies to a configured path itself, and nothing can be taken back (`!`).
#[derive(Debug, Default)]
pub(super) struct Patterns {
    names: GlobSet,
    paths: GlobSet,
    dir_names: GlobSet,
    dir_paths: GlobSet,
}

impl Patterns {
    pub(super) fn new(patterns: &[String]) -> Result<Self, SourceError> {
        let mut builders: [GlobSetBuilder; 4] = std::array::from_fn(|_| GlobSet::builder());
        for pattern in patterns {
            let (set, glob) = place(pattern)?;
            let glob = GlobBuilder::new(&glob)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| bad(pattern, &error.kind().to_string()))?;
            builders[set].add(glob);
        }
        let [names, paths, dir_names, dir_paths] = builders.map(|builder| builder.build());
        let done = |set: Result<GlobSet, globset::Error>| {
            set.map_err(|error| bad(&patterns.join(" "), &error.kind().to_string()))
        };
        Ok(Self { names: done(names)?, paths: done(paths)?, dir_names: done(dir_names)?, dir_paths: done(dir_paths)? })
    }

    /// Whether a pattern meets this path whatever it is.
    pub(super) fn hit(&self, path: &EntryPath) -> bool {
        is_hit(&self.names, &self.paths, path)
    }

    /// Whether a pattern for directories meets this path.
    pub(super) fn hit_dir(&self, path: &EntryPath) -> bool {
        is_hit(&self.dir_names, &self.dir_paths, path)
    }
}

fn is_hit(names: &GlobSet, paths: &GlobSet, path: &EntryPath) -> bool {
    (!names.is_empty() && names.is_match(as_path(path.name())))
        || (!paths.is_empty() && paths.is_match(as_path(path.as_bytes())))
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Which of the four sets a pattern belongs to, and its glob over entry paths (no leading slash).
fn place(pattern: &str) -> Result<(usize, String), SourceError> {
    if pattern.starts_with('!') {
        return Err(bad(pattern, "a pattern cannot take back in what another leaves out"));
    }
    let (body, of_dirs) = match pattern.strip_suffix('/') {
        Some(body) => (body, 2),
        None => (pattern, 0),
    };
    if body.trim_matches('/').is_empty() {
        return Err(bad(pattern, "it names nothing"));
    }
    Ok(match body.strip_prefix('/') {
        Some(anchored) => (of_dirs + 1, anchored.to_owned()),
        None if body.contains('/') => (of_dirs + 1, format!("{{{body},**/{body}}}")),
        None => (of_dirs, body.to_owned()),
    })
}

fn bad(pattern: &str, why: &str) -> SourceError {
    SourceError::Config {
        what: format!("the pattern {pattern:?} cannot be used: {why}"),
        hint: Some("examples: \"*.tmp\", \"/srv/documents/old\", \"build/\"".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves_out(patterns: &[&str], path: &str, is_dir: bool) -> bool {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        let excludes = Patterns::new(&patterns).expect("good patterns");
        let path = EntryPath::new(path).expect("a path");
        excludes.hit(&path) || (is_dir && excludes.hit_dir(&path))
    }

    #[test]
    fn patterns_match_as_their_table_says() {
        for (pattern, path, is_dir, expected) in [
            ("*.tmp", "srv/a.tmp", false, true),
            ("*.tmp", "srv/a.tmp.gz", false, false),
            ("*.tmp", "srv/deep/er/x.tmp", true, true),
            ("/srv/old", "srv/old", true, true),
            ("/srv/old", "mnt/srv/old", true, false),
            ("/srv/*/tmp", "srv/a/tmp", true, true),
            ("/srv/*/tmp", "srv/a/b/tmp", true, false),
            ("/srv/**/tmp", "srv/a/b/tmp", true, true),
            ("cache/thumbs", "home/eva/cache/thumbs", true, true),
            ("cache/thumbs", "cache/thumbs", false, true),
            ("cache/thumbs", "home/mycache/thumbs", false, false),
            ("build/", "srv/build", true, true),
            ("build/", "srv/build", false, false),
            ("/srv/build/", "srv/build", true, true),
            ("[ab]?.log", "x/b1.log", false, true),
            (r"\*.tmp", "x/a.tmp", false, false),
            (r"\*.tmp", "x/*.tmp", false, true),
        ] {
            assert_eq!(leaves_out(&[pattern], path, is_dir), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_that_cannot_work_is_refused_with_its_text() {
        for pattern in ["!keep", "/", "", "a[", "{a"] {
            let error = Patterns::new(&[pattern.to_owned()]).expect_err(pattern);
            assert!(error.to_string().contains(&format!("{pattern:?}")), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
