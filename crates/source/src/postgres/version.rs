//! Differences between the versions of PostgreSQL, as data.

/// The oldest and the newest server that is known to work.
pub const SERVER_MAJORS: std::ops::RangeInclusive<u32> = 13..=18;

/// Folders that hold `bin` directories by major version, in the way of the distributions: prefix
/// of the folder's name, then the number.
pub const TOOL_FOLDERS: [(&str, &str, &str); 4] = [
    // Debian, Ubuntu
    ("/usr/lib/postgresql", "", "bin"),
    // PGDG packages for Red Hat
    ("/usr", "pgsql-", "bin"),
    // Alpine
    ("/usr/libexec", "postgresql", ""),
    // Homebrew
    ("/opt/homebrew/opt", "postgresql@", "bin"),
];

/// The package that brings the client tools of a version, where Debian's names hold.
#[must_use]
pub fn client_package(major: u32) -> String {
    format!("postgresql-client-{major}")
}

/// `server_version_num` divided: 150018 is 15.
#[must_use]
pub fn major_of(server_version_num: u32) -> u32 {
    server_version_num / 10_000
}
