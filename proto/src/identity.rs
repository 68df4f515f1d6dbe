//! Who somebody is, as their certificate says: a URI among its subject alternative names.
//!
//! | who | URI |
//! |---|---|
//! | a node's agent | `ebbtide://node/edge1` |
//! | a person or program | `ebbtide://operator/admin/alice` |
//! | the fleet daemon | `ebbtide://fleet` |

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{IdError, NodeId};

/// What an operator may do; each role may do what those before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look at everything.
    Viewer,
    /// Approve plans, drain, power nodes.
    Operator,
    /// Enrol nodes, change policy.
    Admin,
}

impl Role {
    /// All roles, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The name in certificates, configuration and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Why `name`, who has this role, may not do what needs another; `None` if they may.
    pub fn is_too_little(self, name: &str, needs: Self) -> Option<String> {
        (self < needs).then(|| format!("{name} has role {self}, this needs {needs}"))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form { what: "role", text: text.to_owned(), form: "viewer, operator or admin" };
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(form)
    }
}

/// Whose certificate it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The agent of this node.
    Node(NodeId),
    /// Somebody with a role; the name follows the rules of node names.
    Operator {
        /// What they may do.
        role: Role,
        /// Who it is.
        name: NodeId,
    },
    /// The fleet daemon.
    Fleet,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "ebbtide://node/{node}"),
            Self::Operator { role, name } => write!(f, "ebbtide://operator/{role}/{name}"),
            Self::Fleet => f.write_str("ebbtide://fleet"),
        }
    }
}

impl FromStr for Identity {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let form = || IdError::Form {
            what: "identity",
            text: text.to_owned(),
            form: "ebbtide://node/NAME, ebbtide://operator/ROLE/NAME or ebbtide://fleet",
        };
        let rest = text.strip_prefix("ebbtide://").ok_or_else(form)?;
        let parts: Vec<&str> = rest.split('/').collect();
        match parts.as_slice() {
            ["fleet"] => Ok(Self::Fleet),
            ["node", name] => Ok(Self::Node(NodeId::new(name)?)),
            ["operator", role, name] => Ok(Self::Operator { role: role.parse()?, name: NodeId::new(name)? }),
            _ => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_what_its_text_says() {
        for text in ["ebbtide://fleet", "ebbtide://node/edge1.site", "ebbtide://operator/admin/alice"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
        for bad in
            ["", "ebbtide://", "ebbtide://node", "ebbtide://node/a/b", "ebbtide://operator/root/eve", "http://fleet"]
        {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
        assert!(Role::Viewer < Role::Operator && Role::Operator < Role::Admin);
    }
}
