//! By what rules a node takes a pod: selectors, affinity, tolerations.

use std::collections::BTreeMap;

use ebbtide_planner::state::workload::Toleration;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// What a label must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Must {
    /// One of these.
    In(Vec<String>),
    /// There, and none of these, or not there.
    NotIn(Vec<String>),
    /// There.
    Exist,
    /// Not there.
    NotExist,
    /// A number above.
    Above(i64),
    /// A number below.
    Below(i64),
    /// Something that isn't known; never so.
    Unknown,
}

/// A label, or the node's name, and what it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label; `None`: the node's name.
    pub label: Option<String>,
    /// What it must be.
    pub must: Must,
}

/// One term: all requirements hold. An empty one holds nowhere.
pub type Term = Vec<Requirement>;

/// Several lists of terms: of each list, one term must hold.
pub type Affinity = Vec<Vec<Term>>;

fn must(operator: &str, values: Option<&Vec<String>>) -> Must {
    let values = values.cloned().unwrap_or_default();
    let number = || values.first().and_then(|v| v.parse().ok());
    match operator {
        "In" => Must::In(values),
        "NotIn" => Must::NotIn(values),
        "Exists" => Must::Exist,
        "DoesNotExist" => Must::NotExist,
        "Gt" => number().map_or(Must::Unknown, Must::Above),
        "Lt" => number().map_or(Must::Unknown, Must::Below),
        _ => Must::Unknown,
    }
}

/// The terms of a node selector.
pub fn terms(selector: &v1::NodeSelector) -> Vec<Term> {
    let term = |t: &v1::NodeSelectorTerm| {
        let labels = t.match_expressions.iter().flatten();
        let fields = t.match_fields.iter().flatten();
        let label = |r: &v1::NodeSelectorRequirement| Requirement {
            label: Some(r.key.clone()),
            must: must(&r.operator, r.values.as_ref()),
        };
        let field = |r: &v1::NodeSelectorRequirement| {
            let of_name = r.key == "metadata.name";
            Requirement {
                label: None,
                must: if of_name { must(&r.operator, r.values.as_ref()) } else { Must::Unknown },
            }
        };
        labels.map(label).chain(fields.map(field)).collect()
    };
    selector.node_selector_terms.iter().map(term).collect()
}

/// The nodes that a pod requires.
pub fn required(spec: &v1::PodSpec) -> Affinity {
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let selector = affinity.and_then(|n| n.required_during_scheduling_ignored_during_execution.as_ref());
    selector.map(terms).into_iter().collect()
}

impl Must {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match self {
            Self::In(list) => value.is_some_and(|v| list.iter().any(|l| l == v)),
            Self::NotIn(list) => value.is_none_or(|v| list.iter().all(|l| l != v)),
            Self::Exist => value.is_some(),
            Self::NotExist => value.is_none(),
            Self::Above(n) => number().is_some_and(|v| v > *n),
            Self::Below(n) => number().is_some_and(|v| v < *n),
            Self::Unknown => false,
        }
    }
}

/// Whether a node of this name with these labels is allowed.
pub fn allows(affinity: &Affinity, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let value = |r: &Requirement| match &r.label {
        Some(label) => r.must.holds(labels.get(label).map(String::as_str)),
        None => r.must.holds(Some(name)),
    };
    affinity.iter().all(|list| list.iter().any(|term| !term.is_empty() && term.iter().all(value)))
}

/// Which pods a selector takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Picks(Option<Term>);

impl Picks {
    /// Reads a selector; none at all takes no pod, an empty one takes all.
    pub fn of(selector: Option<&LabelSelector>) -> Self {
        Self(selector.map(|s| {
            let equal = s
                .match_labels
                .iter()
                .flatten()
                .map(|(key, value)| Requirement { label: Some(key.clone()), must: Must::In(vec![value.clone()]) });
            let more = s
                .match_expressions
                .iter()
                .flatten()
                .map(|r| Requirement { label: Some(r.key.clone()), must: must(&r.operator, r.values.as_ref()) });
            equal.chain(more).collect()
        }))
    }

    /// Whether pods with these labels are taken.
    pub fn takes(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds =
            |r: &Requirement| r.must.holds(r.label.as_ref().and_then(|key| labels.get(key)).map(String::as_str));
        self.0.as_ref().is_some_and(|term| term.iter().all(holds))
    }
}

/// Tolerations in the planner's words, for taints whose key is `KEY:EFFECT`. One that can't be said is left out, so
/// that the pod isn't sent where it may not stay.
pub fn tolerations(spec: &v1::PodSpec) -> Vec<Toleration> {
    let mut told = Vec::new();
    for t in spec.tolerations.iter().flatten() {
        // for a while is not for good
        if t.toleration_seconds.is_some() {
            continue;
        }
        let value = match t.operator.as_deref() {
            None | Some("" | "Equal") => Some(t.value.clone().unwrap_or_default()),
            Some("Exists") => None,
            Some(_) => continue,
        };
        let effects: &[&str] = match t.effect.as_deref() {
            None | Some("") => &["NoSchedule", "NoExecute"],
            Some("NoSchedule") => &["NoSchedule"],
            Some("NoExecute") => &["NoExecute"],
            Some(_) => continue,
        };
        match t.key.as_deref() {
            None | Some("") if effects.len() == 2 && value.is_none() => {
                told.push(Toleration { key: String::new(), value: None });
            }
            None | Some("") => {}
            Some(key) => told.extend(
                effects.iter().map(|effect| Toleration { key: format!("{key}:{effect}"), value: value.clone() }),
            ),
        }
    }
    told.sort();
    told.dedup();
    told
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    #[test]
    fn each_operator_means_what_the_scheduler_means() {
        let labels: BTreeMap<String, String> =
            [("gen", "7"), ("arch", "arm64")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for (key, operator, values, holds) in [
            ("arch", "In", json!(["arm64", "amd64"]), true),
            ("arch", "NotIn", json!(["arm64"]), false),
            ("gone", "NotIn", json!(["x"]), true),
            ("arch", "Exists", json!([]), true),
            ("gone", "DoesNotExist", json!([]), true),
            ("gen", "Gt", json!(["6"]), true),
            ("gen", "Lt", json!(["7"]), false),
            ("arch", "Gt", json!(["1"]), false),
            ("arch", "Like", json!(["a"]), false),
        ] {
            let selector = json!({"nodeSelectorTerms": [{"matchExpressions":
                [{"key": key, "operator": operator, "values": values}]}]});
            let affinity = vec![terms(&serde_json::from_value(selector).unwrap())];
            assert_eq!(allows(&affinity, "n1", &labels), holds, "{key} {operator}");
        }
        let by_name = json!({"nodeSelectorTerms": [{"matchFields":
            [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}, {}]});
        let affinity = vec![terms(&serde_json::from_value(by_name).unwrap())];
        assert!(allows(&affinity, "n1", &labels) && !allows(&affinity, "n2", &labels));
        assert!(allows(&Vec::new(), "n1", &labels));
    }

    #[test]
    fn tolerations_are_those_that_last() {
        let spec = json!({"containers": [], "tolerations": [
            {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "value": "a"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300},
            {"operator": "Exists", "effect": "NoExecute"}]});
        let told = tolerations(&serde_json::from_value(spec).unwrap());
        let said: Vec<_> = told.iter().map(|t| (t.key.as_str(), t.value.as_deref())).collect();
        assert_eq!(said, [("gpu:NoSchedule", None), ("team:NoExecute", Some("a")), ("team:NoSchedule", Some("a"))]);
        let all = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
        assert_eq!(tolerations(&serde_json::from_value(all).unwrap())[0].key, "");
    }
}
