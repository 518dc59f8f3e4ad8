//! The configuration as every snapshot carries it: no secrets, and what a person has to supply.

use std::collections::BTreeMap;

use lifeboat_model::config::{PortableConfig, SecretUrl};

use super::fault::Fault;
use super::variables::{self, Environment};
use super::yaml::{self, Node, Text, Value};

/// Keys whose values name files that a new machine does not have.
const FILE_KEYS: [&str; 8] = [
    "writerKeyFile",
    "maintainerKeyFile",
    "identityFile",
    "passwordFile",
    "passfile",
    "privateKeyFile",
    "privateKeyPassphraseFile",
    "knownHostsFile",
];

/// The tree as text with variables unresolved. A literal password, which [`super::check`] refuses,
/// would be left out here all the same.
pub(crate) fn portable(tree: &Node, environment: &dyn Environment) -> Result<PortableConfig, Fault> {
    let mut tree = tree.clone();
    let mut supply = Supply::default();
    supply.walk(&mut tree, &mut Vec::new());
    if environment.get("PGPASSWORD").is_some() && supply.has_postgres {
        supply.add("environment variable PGPASSWORD".to_owned(), "sources of kind postgres".to_owned());
    }
    Ok(PortableConfig {
        yaml: yaml::write(&tree)?,
        supply: supply.what.into_iter().map(|(what, users)| format!("{what}, for {}", users.join(", "))).collect(),
    })
}

#[derive(Default)]
struct Supply {
    /// What to supply, and the keys that need it.
    what: BTreeMap<String, Vec<String>>,
    has_postgres: bool,
}

impl Supply {
    fn add(&mut self, what: String, user: String) {
        self.what.entry(what).or_default().push(user);
    }

    fn walk(&mut self, node: &mut Node, path: &mut Vec<String>) {
        match &mut node.value {
            Value::Text(text) => self.text(text, path),
            Value::List(list) => list.iter_mut().for_each(|item| self.walk(item, path)),
            Value::Map(map) => {
                for (key, item) in map {
                    path.push(key.name.clone());
                    self.walk(item, path);
                    path.pop();
                }
            }
            Value::Null | Value::Bool { .. } | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &mut Text, path: &[String]) {
        let user = path.join(".");
        for name in variables::names(&text.raw) {
            self.add(format!("environment variable {name}"), user.clone());
        }
        if path.last().is_some_and(|key| FILE_KEYS.contains(&key.as_str())) {
            self.add(format!("file {}", text.raw), user);
        }
        self.has_postgres |= path.last().is_some_and(|key| key == "kind") && text.raw == "postgres";
        for range in SecretUrl::secret_ranges(&text.raw).into_iter().rev() {
            if !variables::is_variables_only(&text.raw[range.clone()]) {
                text.raw.replace_range(range, "***");
            }
        }
    }
}
