//! Which nodes a workload may be on, by their labels: Kubernetes' required node affinity.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a label must be like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Wish {
    /// One of these values.
    In {
        /// The values.
        values: Vec<String>,
    },
    /// None of these values; a node without the label will do.
    NotIn {
        /// The values.
        values: Vec<String>,
    },
    /// There, whatever its value.
    Exists,
    /// Not there.
    DoesNotExist,
    /// A whole number above this.
    Gt {
        /// The number.
        than: i64,
    },
    /// A whole number below this.
    Lt {
        /// The number.
        than: i64,
    },
}

/// A wish about one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// What it must be like.
    #[serde(flatten)]
    pub wish: Wish,
}

impl Requirement {
    /// Whether a node with these labels has it.
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.wish {
            Wish::In { values } => value.is_some_and(|v| values.contains(v)),
            Wish::NotIn { values } => value.is_none_or(|v| !values.contains(v)),
            Wish::Exists => value.is_some(),
            Wish::DoesNotExist => value.is_none(),
            Wish::Gt { than } => number().is_some_and(|n| n > *than),
            Wish::Lt { than } => number().is_some_and(|n| n < *than),
        }
    }
}

/// Sets of requirements: a node will do if it has all of any set. Without any set, every node will do; a set without
/// requirements matches none, as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Affinity(pub Vec<Vec<Requirement>>);

impl Affinity {
    /// Whether a node with these labels will do.
    pub fn admits(&self, labels: &BTreeMap<String, String>) -> bool {
        let all = |set: &Vec<Requirement>| !set.is_empty() && set.iter().all(|r| r.holds(labels));
        self.0.is_empty() || self.0.iter().any(all)
    }

    /// Labels that it asks for.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|r| r.key.as_str())
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(key: &str, wish: Wish) -> Requirement {
        Requirement { key: key.to_owned(), wish }
    }

    #[test]
    fn labels_are_judged_as_kubernetes_does() {
        let labels = BTreeMap::from([("disk".to_owned(), "ssd".to_owned()), ("slots".to_owned(), "4".to_owned())]);
        let values = |v: &[&str]| v.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>();
        let cases = [
            (need("disk", Wish::In { values: values(&["hdd", "ssd"]) }), true),
            (need("disk", Wish::In { values: values(&["hdd"]) }), false),
            (need("gone", Wish::In { values: values(&["hdd"]) }), false),
            (need("disk", Wish::NotIn { values: values(&["ssd"]) }), false),
            (need("gone", Wish::NotIn { values: values(&["ssd"]) }), true),
            (need("disk", Wish::Exists), true),
            (need("gone", Wish::Exists), false),
            (need("gone", Wish::DoesNotExist), true),
            (need("slots", Wish::Gt { than: 3 }), true),
            (need("slots", Wish::Gt { than: 4 }), false),
            (need("slots", Wish::Lt { than: 5 }), true),
            (need("disk", Wish::Lt { than: 5 }), false),
        ];
        for (requirement, holds) in cases {
            assert_eq!(requirement.holds(&labels), holds, "{requirement:?}");
        }
        assert!(Affinity::default().admits(&labels));
        assert!(!Affinity(vec![vec![]]).admits(&labels), "a set without requirements matches nothing");
        let either = Affinity(vec![vec![need("gone", Wish::Exists)], vec![need("disk", Wish::Exists)]]);
        assert!(either.admits(&labels));
    }

    #[test]
    fn it_is_written_as_one_would() {
        let text = r#"[[{"key":"disk","op":"not-in","values":["hdd"]},{"key":"gpu","op":"does-not-exist"}]]"#;
        let affinity: Affinity = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&affinity).unwrap(), text);
    }
}
