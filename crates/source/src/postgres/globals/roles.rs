//! What a script of `pg_dumpall` says of each role, and how a server differs from it.

use std::collections::BTreeMap;

use lifeboat_model::words::counted;

use super::made_unless_there;
use crate::postgres::rights::Rights;
use crate::postgres::sql::{self, Token};

/// How many roles a note names.
const NAMES_SHOWN: usize = 20;
/// What a role is right after `CREATE ROLE`.
const NEW: [&str; 7] =
    ["NOSUPERUSER", "INHERIT", "NOCREATEROLE", "NOCREATEDB", "NOLOGIN", "NOREPLICATION", "NOBYPASSRLS"];

/// One thing that a script says of a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::postgres) enum Trait {
    /// `LOGIN` for it and for `NOLOGIN`; `CONNECTION LIMIT`; `VALID UNTIL`.
    Attribute(String),
    /// Its hash is never shown.
    Password,
    /// A parameter that its sessions begin with.
    Setting(String),
    /// The comment.
    Comment,
    /// The security label of a provider.
    Label(String),
    /// Rights on a parameter of the server.
    Parameter(String),
    /// That it is a member of the role.
    Member(String),
    /// That it may make others members of the role.
    Admin(String),
    /// Whether it has the rights of the role without `SET ROLE`; told from PostgreSQL 16 on.
    Inherits(String),
    /// Whether it may `SET ROLE`; told from PostgreSQL 16 on where it may not.
    Sets(String),
}

impl Trait {
    /// The role that it is about, where it is one of a membership.
    fn of_membership(&self) -> Option<&str> {
        match self {
            Self::Member(of) | Self::Admin(of) | Self::Inherits(of) | Self::Sets(of) => Some(of),
            _ => None,
        }
    }

    fn shown(&self, value: &str) -> String {
        match self {
            Self::Attribute(_) => value.to_owned(),
            Self::Password => "another password".to_owned(),
            Self::Setting(name) => format!("setting {name}"),
            Self::Comment => "another comment".to_owned(),
            Self::Label(provider) => format!("another security label of {provider}"),
            Self::Parameter(parameter) => format!("rights on parameter {parameter}"),
            Self::Member(of) => format!("membership in {of:?}"),
            Self::Admin(of) => format!("administration of {of:?}"),
            Self::Inherits(of) => format!("INHERIT {value} for {of:?}"),
            Self::Sets(of) => format!("SET {value} for {of:?}"),
        }
    }
}

/// The roles of a script. Holds hashes of passwords and is therefore never printed.
#[derive(Clone, Default)]
pub(in crate::postgres) struct Roles {
    roles: BTreeMap<String, BTreeMap<Trait, String>>,
    /// Whether the script could tell passwords.
    with_passwords: bool,
}

/// Which traits of roles that are there a restore may change.
#[derive(Clone, Debug)]
pub(in crate::postgres) struct Leave {
    /// The role that restores: it is never altered, so that it cannot lock itself out.
    pub(in crate::postgres) own: String,
    /// Whether roles that are there get back what the snapshot has of them.
    pub(in crate::postgres) alter: bool,
    /// What the role that restores may do.
    pub(in crate::postgres) rights: Rights,
}

impl Leave {
    /// Whether a trait of a role is set: of one that the restore makes, of any other one only where
    /// that is allowed. Who belongs to a role that it makes belongs to it again.
    pub(in crate::postgres) fn sets(&self, role: &str, of_it: &Trait, is_made: impl Fn(&str) -> bool) -> bool {
        let membership = of_it.of_membership();
        let may = || match membership {
            Some(of) => self.rights.may_alter(of),
            None => role != self.own && self.rights.may_alter(role),
        };
        is_made(role) || membership.is_some_and(is_made) || self.alter && may()
    }
}

impl Roles {
    /// Reads a script of `pg_dumpall --globals-only`.
    pub(in crate::postgres) fn parse(script: &str, with_passwords: bool) -> Self {
        let mut roles = BTreeMap::<String, BTreeMap<Trait, String>>::new();
        for statement in sql::statements(script) {
            let statement = made_unless_there(&sql::words(&statement)).unwrap_or(statement);
            for (role, of_it, value) in said(&sql::words(&statement)) {
                roles.entry(role).or_default().insert(of_it, value);
            }
        }
        Self { roles, with_passwords }
    }

    /// Whether `role` has this member.
    pub(in crate::postgres) fn has_member(&self, role: &str, member: &str) -> bool {
        self.roles.get(member).is_some_and(|traits| traits.contains_key(&Trait::Member(role.to_owned())))
    }

    /// Notes that a role was just made.
    pub(in crate::postgres) fn made(&mut self, role: &str) {
        self.roles.insert(role.to_owned(), new_role().collect());
    }

    /// Whether setting the trait would change the role.
    pub(in crate::postgres) fn differs(&self, role: &str, of_it: &Trait, value: &str) -> bool {
        let now = self.roles.get(role).and_then(|traits| traits.get(of_it));
        !now.is_some_and(|now| now == value || instant(now).is_some_and(|at| instant(value) == Some(at)))
    }

    /// What of a role of `wanted` is otherwise here.
    fn differing<'a>(&self, wanted: &'a Self, role: &str) -> Vec<(&'a Trait, String)> {
        let traits = wanted.roles.get(role).into_iter().flatten();
        let differing = traits.filter(|(of_it, value)| self.differs(role, of_it, value));
        let shown = |(of_it, value): (&'a Trait, &'a String)| match of_it {
            Trait::Password if !self.with_passwords => (of_it, "a password, if it is another one".to_owned()),
            _ => (of_it, of_it.shown(value)),
        };
        differing.map(shown).collect()
    }
}

/// What a restore of roles will do, in words.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::postgres) struct RolesPlan {
    /// Roles that it makes.
    pub(in crate::postgres) make: Vec<String>,
    /// Roles that are there and will be altered, with what will be other.
    pub(in crate::postgres) alter: Vec<String>,
    /// Roles that are there and become members of roles that it makes.
    pub(in crate::postgres) join: Vec<String>,
    /// Roles that are there, differ and stay as they are.
    pub(in crate::postgres) keep: Vec<String>,
    /// The same of the role that restores.
    pub(in crate::postgres) own: Option<String>,
}

/// Decides for each role of `wanted` on a server that has `now`; `is_there` knows every role of it.
pub(in crate::postgres) fn plan(
    wanted: &Roles,
    now: &Roles,
    leave: &Leave,
    is_there: impl Fn(&str) -> bool,
) -> RolesPlan {
    let mut plan = RolesPlan::default();
    let is_made = |role: &str| wanted.roles.contains_key(role) && !is_there(role);
    for role in wanted.roles.keys() {
        if is_made(role) {
            plan.make.push(role.clone());
            continue;
        }
        let (mut set, mut joins, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        for (of_it, shown) in now.differing(wanted, role) {
            match of_it.of_membership().filter(|of| is_made(of)) {
                Some(of) if matches!(of_it, Trait::Member(_)) => joins.push(format!("{of:?}")),
                Some(_) => {}
                None if leave.sets(role, of_it, is_made) => set.push(shown),
                // What cannot be read is no difference that is known of.
                None if *of_it == Trait::Password && !now.with_passwords => {}
                None => kept.push(shown),
            }
        }
        if !set.is_empty() {
            plan.alter.push(format!("role {role:?}: {}", set.join(", ")));
        }
        if !joins.is_empty() {
            plan.join.push(format!("role {role:?} becomes a member of {} again", joins.join(", ")));
        }
        if !kept.is_empty() {
            let kept = kept.join(", ");
            if *role == leave.own {
                let what = format!("role {role:?}, which restores, is kept as it is; in the snapshot it has {kept}");
                plan.own = Some(what);
            } else {
                plan.keep.push(format!("role {role:?} is kept as it is; in the snapshot it has {kept}"));
            }
        }
    }
    plan
}

/// How the roles of a server compare with a snapshot's.
#[derive(Debug, Default)]
pub(in crate::postgres) struct Compared {
    /// How many roles were looked at.
    pub(in crate::postgres) count: u64,
    /// What is otherwise.
    pub(in crate::postgres) differences: Vec<String>,
    /// What was not compared, or differs and may.
    pub(in crate::postgres) notes: Vec<String>,
}

/// Compares in both directions. `own` may differ, as no restore alters it.
pub(in crate::postgres) fn compare(
    wanted: &Roles,
    now: &Roles,
    own: &str,
    is_there: impl Fn(&str) -> bool,
) -> Compared {
    let mut out = Compared::default();
    let told = |roles: &Roles| roles.roles.values().any(|traits| traits.contains_key(&Trait::Password));
    if !(now.with_passwords && told(wanted)) {
        out.notes.push("passwords of roles were not compared: the snapshot or the role may not know them".to_owned());
    }
    let grants_in_full = |roles: &Roles| roles.roles.values().flatten().any(|(t, _)| matches!(t, Trait::Inherits(_)));
    let in_full = grants_in_full(wanted);
    for (role, traits) in &wanted.roles {
        out.count += 1;
        if !is_there(role) {
            out.differences.push(format!("role {role:?} is not there"));
            continue;
        }
        let mut differing = now.differing(wanted, role);
        differing.retain(|(of_it, _)| **of_it != Trait::Password || now.with_passwords);
        let more = now.roles.get(role).into_iter().flatten().filter(|(of_it, _)| {
            let unknown = matches!(of_it, Trait::Inherits(_) | Trait::Sets(_)) && !in_full;
            !traits.contains_key(of_it) && **of_it != Trait::Password && !unknown
        });
        let more: Vec<String> = more.map(|(of_it, value)| of_it.shown(value)).collect();
        let mut parts = Vec::new();
        if !differing.is_empty() {
            let shown: Vec<String> = differing.into_iter().map(|(_, shown)| shown).collect();
            parts.push(format!("the snapshot has it with {}", shown.join(", ")));
        }
        if !more.is_empty() {
            parts.push(format!("the snapshot has it without {}", more.join(", ")));
        }
        if parts.is_empty() {
            continue;
        }
        let what = format!("role {role:?}: {}", parts.join("; "));
        if role == own {
            out.notes.push(format!("{what}; it is the role that compares, which no restore alters"));
        } else {
            out.differences.push(what);
        }
    }
    let more: Vec<&String> = now.roles.keys().filter(|role| !wanted.roles.contains_key(*role)).collect();
    if !more.is_empty() {
        let names: Vec<String> = more.iter().take(NAMES_SHOWN).map(|role| format!("{role:?}")).collect();
        let (are, dots) =
            (if more.len() == 1 { "is" } else { "are" }, if more.len() > NAMES_SHOWN { ", ..." } else { "" });
        let roles = counted(more.len() as u64, "role");
        out.notes.push(format!("{roles} {are} on the server and not in the snapshot: {}{dots}", names.join(", ")));
    }
    out
}

/// The time of a `VALID UNTIL`, which servers write each in their own zone.
fn instant(value: &str) -> Option<jiff::Timestamp> {
    value.strip_prefix("VALID UNTIL '")?.strip_suffix('\'')?.parse().ok()
}

fn new_role() -> impl Iterator<Item = (Trait, String)> {
    NEW.iter().map(|word| (attribute(word), (*word).to_owned()))
}

fn attribute(word: &str) -> Trait {
    Trait::Attribute(word.strip_prefix("NO").unwrap_or(word).to_owned())
}

/// What a statement says of which role; nothing where it is about none.
pub(in crate::postgres) fn said(words: &[Token<'_>]) -> Vec<(String, Trait, String)> {
    let raw = |at: usize| words.get(at).map(|word| word.raw().to_ascii_uppercase()).unwrap_or_default();
    let name = |at: usize| words.get(at).and_then(|word| word.name()).unwrap_or_default();
    let rest = |at: usize| words.iter().skip(at).map(|word| word.raw()).collect::<Vec<_>>().join(" ");
    let find = |wanted: &str| (0..words.len()).find(|&at| raw(at) == wanted);
    match (raw(0).as_str(), raw(1).as_str()) {
        ("CREATE", "ROLE") => new_role().map(|(of_it, value)| (name(2), of_it, value)).collect(),
        ("ALTER", "ROLE") if raw(3) == "WITH" => {
            attributes(&words[4..]).into_iter().map(|(of_it, value)| (name(2), of_it, value)).collect()
        }
        ("ALTER", "ROLE") if raw(3) == "SET" => vec![(name(2), Trait::Setting(name(4)), rest(6))],
        ("COMMENT", "ON") if raw(2) == "ROLE" => vec![(name(3), Trait::Comment, rest(5))],
        ("SECURITY", "LABEL") if raw(5) == "ROLE" => vec![(name(6), Trait::Label(name(3)), rest(8))],
        ("GRANT", _) => match (find("ON"), find("TO")) {
            (Some(on), Some(to)) if raw(on + 1) == "PARAMETER" => {
                let rights = words[1..on].iter().map(|word| word.raw()).collect::<String>();
                let parameter = words[on + 2..to].iter().map(|word| word.raw()).collect::<String>();
                vec![(name(to + 1), Trait::Parameter(parameter), format!("{rights} {}", rest(to + 2)))]
            }
            (None, Some(to)) => membership(&name(1), &words[to..]),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// The clauses of `ALTER ROLE ... WITH`, each as it is written.
fn attributes(words: &[Token<'_>]) -> Vec<(Trait, String)> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(word) = words.get(at) {
        let length = match word.raw() {
            "CONNECTION" | "VALID" => 3,
            "PASSWORD" => 2,
            _ => 1,
        };
        let clause: Vec<&str> = words[at..].iter().take(length).map(|word| word.raw()).collect();
        let of_it = match length {
            3 => Trait::Attribute(clause[..2].join(" ")),
            2 => Trait::Password,
            _ => attribute(word.raw()),
        };
        out.push((of_it, clause.join(" ")));
        at += length;
    }
    out
}

/// `TO member WITH ADMIN OPTION, INHERIT TRUE GRANTED BY grantor`; who granted it is no matter.
fn membership(of: &str, words: &[Token<'_>]) -> Vec<(String, Trait, String)> {
    let member = words.get(1).and_then(|word| word.name()).unwrap_or_default();
    let raw: Vec<String> = words.iter().skip(2).map(|word| word.raw().to_ascii_uppercase()).collect();
    let mut out = vec![(member.clone(), Trait::Member(of.to_owned()), String::new())];
    for pair in raw.windows(2) {
        match [pair[0].as_str(), pair[1].as_str()] {
            ["GRANTED", _] => break,
            ["ADMIN", "OPTION" | "TRUE"] => out.push((member.clone(), Trait::Admin(of.to_owned()), String::new())),
            ["INHERIT", value] => out.push((member.clone(), Trait::Inherits(of.to_owned()), value.to_owned())),
            ["SET", value] => out.push((member.clone(), Trait::Sets(of.to_owned()), value.to_owned())),
            _ => {}
        }
    }
    out
}
