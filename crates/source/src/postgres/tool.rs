//! Finds PostgreSQL's own tools for a server's version.

use std::path::{Path, PathBuf};

use lifeboat_model::flow::Cancel;
use lifeboat_wire::process::Command;

use super::version::{TOOL_FOLDERS, client_package};
use crate::SourceError;

/// `pg_dump`, `pg_dumpall` and `pg_restore` of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Where they are.
    pub bin: PathBuf,
    /// Their major version.
    pub major: u32,
}

impl Tools {
    /// The tools for a server of `major`: of the same version if they are there, otherwise the
    /// nearest newer ones, because what those write needs tools of that age on the way back.
    /// Where `dirs` are named nothing else is looked at; otherwise the places where packages put them.
    ///
    /// # Errors
    /// [`SourceError::Config`] where a directory that is named has none; [`SourceError::Failed`] names
    /// the version that is needed, those that are there, and the package to install.
    pub async fn find(major: u32, dirs: &[PathBuf], cancel: &Cancel) -> Result<Self, SourceError> {
        let mut found = Vec::new();
        let places = if dirs.is_empty() { candidates() } else { dirs.to_vec() };
        for bin in places {
            match version_of(&bin, cancel).await {
                Some(have) => found.push(Self { bin, major: have }),
                None if dirs.is_empty() => {}
                None => {
                    let what = format!("toolsDir {} has no pg_dump and pg_restore that run", bin.display());
                    let hint = "name the directory that holds them (.../bin), or leave toolsDir out to have them found";
                    return Err(SourceError::Config { what, hint: Some(hint.to_owned()) });
                }
            }
        }
        let newest = found.iter().map(|tools| tools.major).max();
        let able = found.into_iter().filter(|tools| tools.major >= major).min_by_key(|tools| tools.major);
        able.ok_or_else(|| {
            let there = dirs.first().map_or_else(|| "here".to_owned(), |dir| format!("in toolsDir {}", dir.display()));
            let what = match newest {
                None => format!("pg_dump for PostgreSQL {major} is needed, and none was found"),
                Some(newest) => format!("PostgreSQL {major} is needed, but the newest pg_dump {there} is {newest}"),
            };
            let hint = format!("install {}, or name the directory of the tools as toolsDir", client_package(major));
            SourceError::Failed { what, hint: Some(hint), source: None }
        })
    }

    /// The path of one of them.
    #[must_use]
    pub fn path(&self, tool: &str) -> PathBuf {
        self.bin.join(tool)
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut all = Vec::new();
    for (folder, prefix, bin) in TOOL_FOLDERS {
        let mut of_folder: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(prefix));
                rest.is_some_and(|rest| rest.parse::<u32>().is_ok())
            })
            .map(|entry| entry.path().join(bin))
            .collect();
        of_folder.sort();
        all.append(&mut of_folder);
    }
    all.extend(["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from));
    all
}

/// The major version of the tools in a directory, or nothing where they cannot be run.
async fn version_of(bin: &Path, cancel: &Cancel) -> Option<u32> {
    let program = bin.join("pg_dump");
    if !program.exists() || !bin.join("pg_restore").exists() {
        return None;
    }
    let printed = Command::new(program).arg("--version").run(1000, cancel).await.ok()?;
    // pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
    let printed = String::from_utf8_lossy(&printed).into_owned();
    let version = printed.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn fake(dir: &Path, major: u32) -> PathBuf {
        let bin = dir.join(major.to_string());
        std::fs::create_dir_all(&bin).expect("a directory");
        for tool in ["pg_dump", "pg_restore"] {
            let mut file = std::fs::File::create(bin.join(tool)).expect("a file");
            let script = format!("#!/bin/sh\necho '{tool} (PostgreSQL) {major}.3 (Test)'\n");
            std::io::Write::write_all(&mut file, script.as_bytes()).expect("written");
            file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("executable");
        }
        bin
    }

    #[tokio::test]
    async fn the_same_version_is_preferred_and_the_nearest_newer_one_is_next() {
        let dir = tempfile::tempdir().expect("a directory");
        let dirs: Vec<_> = [97, 99, 95].map(|major| fake(dir.path(), major)).into();
        let cancel = Cancel::default();
        let major = async |wanted| Tools::find(wanted, &dirs, &cancel).await.expect("found").major;
        assert_eq!((major(97).await, major(96).await, major(98).await), (97, 97, 99));
    }

    #[tokio::test]
    async fn where_only_older_tools_are_there_both_versions_and_the_package_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = Tools::find(98, &[fake(dir.path(), 97)], &Cancel::default()).await.expect_err("too old");
        let text = error.to_string();
        assert!(text.starts_with("PostgreSQL 98 is needed, but the newest pg_dump in toolsDir "), "{text}");
        assert!(text.ends_with(" is 97"), "{text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("postgresql-client-98")), "{error:?}");
    }

    #[tokio::test]
    async fn a_directory_that_is_named_and_has_no_tools_is_refused_whatever_else_is_installed() {
        let dir = tempfile::tempdir().expect("a directory");
        for dirs in [vec![dir.path().to_owned()], vec![fake(dir.path(), 97), dir.path().join("nowhere")]] {
            let error = Tools::find(13, &dirs, &Cancel::default()).await.expect_err("no tools there");
            let named = dirs.last().expect("one").display().to_string();
            assert!(error.to_string().contains(&format!("toolsDir {named} has no pg_dump")), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("leave toolsDir out")), "{error:?}");
        }
    }
}
