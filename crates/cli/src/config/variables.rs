//! `${NAME}` in values. Put in after parsing, so that a value can never change the structure.

use super::fault::Fault;
use super::yaml::{Node, Value};

/// What the process's environment holds, as far as the configuration may see it.
pub(crate) trait Environment {
    /// The value of a variable; `None` where it is not set or not UTF-8.
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Environment for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// Puts variables into every text of the tree.
pub(crate) fn resolve(node: &mut Node, environment: &dyn Environment) -> Result<(), Fault> {
    let place = node.place;
    match &mut node.value {
        Value::Text(text) => text.resolved = substitute(&text.raw, environment).map_err(|fault| fault.at(place))?,
        Value::List(list) => list.iter_mut().try_for_each(|item| resolve(item, environment))?,
        Value::Map(map) => map.iter_mut().try_for_each(|(_, item)| resolve(item, environment))?,
        Value::Null | Value::Bool { .. } | Value::Number(_) => {}
    }
    Ok(())
}

/// The names of variables in a text, in their order.
pub(crate) fn names(raw: &str) -> Vec<String> {
    parts(raw)
        .flatten()
        .filter_map(|part| match part {
            Part::Variable(name) => Some(name.to_owned()),
            Part::Plain(_) => None,
        })
        .collect()
}

/// Whether a text is nothing but variables.
pub(crate) fn is_variables_only(raw: &str) -> bool {
    parts(raw).all(|part| matches!(part, Ok(Part::Variable(_))))
}

fn substitute(raw: &str, environment: &dyn Environment) -> Result<String, Fault> {
    let mut out = String::new();
    for part in parts(raw) {
        match part? {
            Part::Plain(text) => out.push_str(text),
            Part::Variable(name) => match environment.get(name) {
                Some(value) => out.push_str(&value),
                None => {
                    return Err(Fault::new(format!("the environment variable {name} is not set"))
                        .hint(format!("set {name}, or write $${{{name}}} if the text itself is meant")));
                }
            },
        }
    }
    Ok(out)
}

enum Part<'a> {
    Plain(&'a str),
    Variable(&'a str),
}

/// Cuts a text at its variables. After a fault nothing more comes.
fn parts(raw: &str) -> impl Iterator<Item = Result<Part<'_>, Fault>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = rest.find('$').unwrap_or(rest.len());
        if at > 0 {
            let plain = &rest[..at];
            rest = &rest[at..];
            return Some(Ok(Part::Plain(plain)));
        }
        if let Some(after) = rest.strip_prefix("$$") {
            rest = after;
            return Some(Ok(Part::Plain("$")));
        }
        let name = rest.strip_prefix("${").and_then(|after| after.split_once('}')).filter(|(name, _)| is_name(name));
        if let Some((name, after)) = name {
            rest = after;
            return Some(Ok(Part::Variable(name)));
        }
        rest = "";
        Some(Err(Fault::new("a `$` that begins no variable").hint("write ${NAME} for a variable, $$ for a dollar")))
    })
}

fn is_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "USER").then(|| "ann: [x]".to_owned())
    }

    #[test]
    fn variables_are_put_in_and_two_dollars_make_one() {
        for (raw, expected) in [
            ("plain", "plain"),
            ("${USER}", "ann: [x]"),
            ("a${USER}b${USER}", "aann: [x]bann: [x]"),
            ("$${USER}", "${USER}"),
            ("5$$", "5$"),
            ("", ""),
        ] {
            assert_eq!(substitute(raw, &environment).expect(raw), expected);
        }
    }

    #[test]
    fn a_missing_variable_and_a_stray_dollar_are_refused() {
        for (raw, what) in [
            ("${NOPE}", "the environment variable NOPE is not set"),
            ("a$b", "a `$` that begins no variable"),
            ("$", "a `$` that begins no variable"),
            ("${", "a `$` that begins no variable"),
            ("${}", "a `$` that begins no variable"),
            ("${1A}", "a `$` that begins no variable"),
            ("${USER:-x}", "a `$` that begins no variable"),
        ] {
            assert_eq!(substitute(raw, &environment).expect_err(raw).what, what);
        }
    }

    #[test]
    fn names_are_found_where_they_stand() {
        assert_eq!(names("postgres://${U}:${P}@h/$${X}"), ["U", "P"]);
        assert!(is_variables_only("${A}${B}") && !is_variables_only("a${B}") && is_variables_only(""));
    }
}
