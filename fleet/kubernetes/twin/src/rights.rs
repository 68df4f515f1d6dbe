//! Who may do what: bearer tokens and rules as RBAC has them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::failure::Failure;
use crate::kinds::Kind;

/// One rule: verbs on resources of groups, `*` for all. Resources may have a subresource: `pods/eviction`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Verbs such as `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verbs: Vec<String>,
    /// API groups; empty text is the core.
    pub groups: Vec<String>,
    /// Plurals.
    pub resources: Vec<String>,
}

impl Rule {
    /// Everything.
    pub fn all() -> Self {
        let star = || vec!["*".to_owned()];
        Self { verbs: star(), groups: star(), resources: star() }
    }

    /// A rule as a `ClusterRole` writes it.
    pub fn of(written: &Value) -> Self {
        let list = |key: &str| {
            written[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self { verbs: list("verbs"), groups: list("apiGroups"), resources: list("resources") }
    }

    fn allows(&self, verb: &str, group: &str, resource: &str) -> bool {
        let has = |list: &[String], one: &str| list.iter().any(|v| v == "*" || v == one);
        has(&self.verbs, verb) && has(&self.groups, group) && has(&self.resources, resource)
    }
}

/// Whoever is known, by token.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    users: BTreeMap<String, (String, Vec<Rule>)>,
}

impl Rights {
    /// Lets whoever has `token` in under a name and with these rules.
    pub fn grant(&mut self, token: &str, user: &str, rules: Vec<Rule>) {
        self.users.insert(token.to_owned(), (user.to_owned(), rules));
    }

    /// The user that `token` belongs to.
    ///
    /// # Errors
    /// If nobody has it. Without a token one is anonymous.
    pub fn user(&self, token: Option<&str>) -> Result<(String, &[Rule]), Failure> {
        match token {
            None => Ok(("system:anonymous".to_owned(), &[])),
            Some(token) => {
                let (user, rules) = self.users.get(token).ok_or_else(Failure::unauthorized)?;
                Ok((user.clone(), rules))
            }
        }
    }
}

/// Whether `rules` allow a verb on a resource.
pub fn allows(rules: &[Rule], verb: &str, kind: &Kind, sub: Option<&str>) -> bool {
    let resource = sub.map_or_else(|| kind.plural.to_owned(), |s| format!("{}/{s}", kind.plural));
    rules.iter().any(|r| r.allows(verb, kind.group, &resource))
}
