//! What `~/.ssh/config` says of a host: `ssh_config(5)`, as far as a backup needs it.
//!
//! The first value that is found holds. Read are `Host`, `Match all|host|originalhost`, `Include`,
//! `HostName`, `Port`, `User`, `IdentityFile`, `IdentityAgent`, `UserKnownHostsFile`, `HostKeyAlias`,
//! `ProxyJump` and `ProxyCommand`; a `Match` with another condition never holds.

use std::path::{Path, PathBuf};

/// How deep files may include others.
const DEPTH_MAX: usize = 8;

/// What the configuration says of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostConfig {
    /// Where it really is.
    pub host_name: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The account there.
    pub user: Option<String>,
    /// Private keys, in the order in which they are tried.
    pub identity_files: Vec<PathBuf>,
    /// Socket of the agent; `none` = no agent.
    pub identity_agent: Option<String>,
    /// Files of host keys.
    pub known_hosts: Vec<PathBuf>,
    /// The name under which its key is looked up.
    pub host_key_alias: Option<String>,
    /// Over which hosts or programs it is reached.
    pub proxy: Option<String>,
}

/// Reads what the user's file says of `host`; a file that is not there says nothing.
///
/// # Errors
/// In words: a file that cannot be read, or a line that cannot be understood.
pub fn read(home: &Path, host: &str) -> Result<HostConfig, String> {
    let mut reader = Reader { home, host, found: HostConfig::default() };
    reader.file(&home.join(".ssh/config"), true, 0)?;
    let mut found = reader.found;
    if let Some(name) = &mut found.host_name {
        *name = name.replace("%h", host).replace("%%", "%");
    }
    Ok(found)
}

struct Reader<'a> {
    home: &'a Path,
    host: &'a str,
    found: HostConfig,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, mut applies: bool, depth: usize) -> Result<(), String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("{} cannot be read: {error}", path.display())),
        };
        let outside = applies;
        for (number, line) in text.lines().enumerate() {
            let words = words(line);
            let Some((keyword, values)) = words.split_first() else { continue };
            let wrong = |what: &str| format!("{}, line {}: {what}", path.display(), number + 1);
            let first = values.first().ok_or_else(|| wrong("the value is missing"))?;
            match keyword.to_ascii_lowercase().as_str() {
                "host" => applies = outside && matches_any(values, self.host),
                "match" => applies = outside && self.matches(values),
                _ if !applies => {}
                "include" if depth >= DEPTH_MAX => return Err(wrong("files include each other")),
                "include" => {
                    for pattern in values {
                        for file in included(&self.path(pattern, &self.home.join(".ssh"))) {
                            self.file(&file, true, depth + 1)?;
                        }
                    }
                }
                "port" => {
                    let port = first.parse().map_err(|_| wrong("this is not a port"))?;
                    self.found.port.get_or_insert(port);
                }
                keyword => self.set(keyword, first, values),
            }
        }
        Ok(())
    }

    fn set(&mut self, keyword: &str, first: &str, values: &[String]) {
        let paths: Vec<PathBuf> = values.iter().map(|text| self.path(text, self.home)).collect();
        match keyword {
            "identityfile" => self.found.identity_files.extend(paths),
            "userknownhostsfile" if self.found.known_hosts.is_empty() => self.found.known_hosts = paths,
            "identityagent" => {
                let is_word = matches!(first, "none" | "SSH_AUTH_SOCK");
                let socket = if is_word { first.to_owned() } else { paths[0].display().to_string() };
                self.found.identity_agent.get_or_insert(socket);
            }
            "hostname" => set(&mut self.found.host_name, first),
            "user" => set(&mut self.found.user, first),
            "hostkeyalias" => set(&mut self.found.host_key_alias, first),
            "proxyjump" => set(&mut self.found.proxy, &format!("ProxyJump {first}")),
            "proxycommand" => set(&mut self.found.proxy, &format!("ProxyCommand {}", values.join(" "))),
            _ => {}
        }
    }

    fn matches(&self, conditions: &[String]) -> bool {
        let mut conditions = conditions.iter();
        while let Some(condition) = conditions.next() {
            let holds = match condition.to_ascii_lowercase().as_str() {
                "all" => true,
                "originalhost" => conditions.next().is_some_and(|list| matches_list(list, self.host)),
                "host" => {
                    let name = self.found.host_name.as_deref().unwrap_or(self.host);
                    conditions.next().is_some_and(|list| matches_list(list, name))
                }
                _ => false,
            };
            if !holds {
                return false;
            }
        }
        true
    }

    /// A path with `~`, `%d` and `%h` put in.
    fn path(&self, text: &str, base: &Path) -> PathBuf {
        let text = text.replace("%d", &self.home.to_string_lossy()).replace("%h", self.host);
        match text.strip_prefix("~/") {
            Some(below) => self.home.join(below),
            None => base.join(text),
        }
    }
}

fn set(place: &mut Option<String>, value: &str) {
    place.get_or_insert_with(|| value.to_owned());
}

/// The words of a line: separated by spaces or one `=`, in quotes where they hold spaces.
fn words(line: &str) -> Vec<String> {
    let line = line.trim();
    if line.starts_with('#') {
        return Vec::new();
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(line.len());
    let rest = line[end..].trim_start();
    let mut rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let mut words: Vec<String> =
        [&line[..end]].into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(char::is_whitespace).unwrap_or((rest, "")),
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// Whether a name fits one of the patterns and none that begins with `!`.
pub(super) fn matches_any<T: AsRef<str>>(patterns: &[T], name: &str) -> bool {
    let mut fits = false;
    for pattern in patterns {
        match pattern.as_ref().strip_prefix('!') {
            Some(not) if matches_glob(not, name) => return false,
            Some(_) => {}
            None => fits |= matches_glob(pattern.as_ref(), name),
        }
    }
    fits
}

fn matches_list(list: &str, name: &str) -> bool {
    matches_any(&list.split(',').collect::<Vec<_>>(), name)
}

/// `*` is any text, `?` any character; letters count alike in both cases.
fn matches_glob(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.to_ascii_lowercase().into_bytes(), name.to_ascii_lowercase().into_bytes());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// The files that a path with wildcards in its last part means, in order.
fn included(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if !name.contains(['*', '?']) {
        return vec![pattern.to_owned()];
    }
    let entries = pattern.parent().and_then(|dir| std::fs::read_dir(dir).ok()).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.filter(|e| matches_glob(&name, &e.file_name().to_string_lossy())).map(|e| e.path()).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(files: &[(&str, &str)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            let path = home.path().join(".ssh").join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("created");
            std::fs::File::create(path)
                .and_then(|mut f| std::io::Write::write_all(&mut f, text.as_bytes()))
                .expect("written");
        }
        home
    }

    #[test]
    fn the_first_value_of_a_matching_host_holds() {
        let home = home(&[(
            "config",
            "# ours\nHost nas backup-*\n  HostName %h.example\n  Port=2222\n  IdentityFile ~/.ssh/one\nHost !nas *\n  User other\n\
             Host *\n  User \"back up\"\n  Port 22\n  IdentityFile keys/two\n  UserKnownHostsFile ~/k1 ~/k2\n",
        )]);
        let found = read(home.path(), "nas").expect("read");
        assert_eq!(found.host_name.as_deref(), Some("nas.example"));
        assert_eq!((found.port, found.user.as_deref()), (Some(2222), Some("back up")));
        assert_eq!(found.identity_files, [home.path().join(".ssh/one"), home.path().join("keys/two")]);
        assert_eq!(found.known_hosts, [home.path().join("k1"), home.path().join("k2")]);
        assert_eq!(read(home.path(), "else").expect("read").user.as_deref(), Some("other"));
    }

    #[test]
    fn files_are_included_and_matches_are_judged() {
        let home = home(&[
            (
                "config",
                "Include config.d/*.conf\nMatch originalhost nas\n Port 7\nMatch exec true\n User x\nMatch all\n ProxyJump gate\n",
            ),
            ("config.d/a.conf", "Host nas\n User first\n"),
            ("config.d/b.conf", "User second\n"),
        ]);
        let found = read(home.path(), "nas").expect("read");
        assert_eq!((found.user.as_deref(), found.port), (Some("first"), Some(7)));
        assert_eq!(found.proxy.as_deref(), Some("ProxyJump gate"));
        assert_eq!(read(home.path(), "b").expect("read").user.as_deref(), Some("second"));
    }

    #[test]
    fn no_file_says_nothing_and_bad_lines_are_named() {
        let empty = home(&[]);
        assert_eq!(read(empty.path(), "nas").expect("read"), HostConfig::default());
        for (text, why) in [("Port ssh\n", "line 1"), ("\nUser\n", "line 2"), ("Include config\n", "each other")] {
            let error = read(home(&[("config", text)]).path(), "nas").expect_err(text);
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn globs_match_as_in_openssh() {
        for (pattern, name, fits) in [
            ("*", "x", true),
            ("*.example", "a.b.example", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b", "abc", false),
            ("NAS", "nas", true),
            ("", "", true),
        ] {
            assert_eq!(matches_glob(pattern, name), fits, "{pattern} {name}");
        }
    }
}
