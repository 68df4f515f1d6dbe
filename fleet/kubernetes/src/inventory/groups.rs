//! What concerns siblings together: their group, its budget, whom they avoid, how they are spread.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ebbtide_planner::state::workload::{Over, Spread};
use ebbtide_proto::NodeId;

use super::{Inventory, Template};
use crate::convert::pod::{Across, Owner, Phase};

/// What all pods of a template are told with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Siblings {
    /// Their group.
    pub(super) group: Option<String>,
    /// Groups that they must not meet.
    pub(super) avoid: Vec<String>,
    /// How they are spread.
    pub(super) spread: Vec<Spread>,
    /// Whether they may only be moved within their zone.
    pub(super) keep_zone: bool,
    /// Why they can't be moved.
    pub(super) stays: Option<&'static str>,
}

/// The group of a template's pods.
pub(super) fn group(template: &Template) -> Option<String> {
    match &template.owner {
        Owner::Controller(kind, name) => Some(format!("{}/{kind}/{name}", template.namespace)),
        Owner::Node | Owner::Nobody => None,
    }
}

impl Inventory {
    /// Templates that are in use, and by namespace.
    pub(super) fn in_use(&mut self) -> Vec<(u64, Arc<Template>)> {
        // one copy is in the map
        self.templates.retain(|_, t| Arc::strong_count(t) > 1);
        let mut all: Vec<(u64, Arc<Template>)> = self.templates.iter().map(|(k, t)| (*k, Arc::clone(t))).collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    /// How many of each group may be away. A budget over several groups is shared out among them, so that together they
    /// never exceed it.
    pub(super) fn away(&self, templates: &[(u64, Arc<Template>)]) -> BTreeMap<String, u32> {
        let mut away: BTreeMap<String, u32> = BTreeMap::new();
        for budget in self.budgets.values() {
            let covered: BTreeSet<String> = templates
                .iter()
                .filter(|(_, t)| t.namespace == budget.namespace && budget.picks.takes(&t.labels))
                .filter_map(|(_, t)| group(t))
                .collect();
            let shares = u32::try_from(covered.len()).unwrap_or(u32::MAX).max(1);
            let mut left = budget.allowed % shares;
            for group in covered {
                let one = u32::from(left > 0);
                left -= one;
                let share = budget.allowed / shares + one;
                let most = away.entry(group).or_insert(share);
                *most = share.min(*most);
            }
        }
        away
    }

    /// The most pods of a group on one node, for groups that have to be even.
    fn most_on_a_node(&self, groups: &BTreeSet<String>) -> HashMap<String, u32> {
        let mut counts: HashMap<(String, &NodeId), u32> = HashMap::new();
        if !groups.is_empty() {
            for known in self.pods.values() {
                let (Phase::On(node) | Phase::Ending(node)) = &known.pod.phase else { continue };
                if known.template.even.is_empty() {
                    continue;
                }
                if let Some(group) = group(&known.template).filter(|g| groups.contains(g)) {
                    *counts.entry((group, node)).or_default() += 1;
                }
            }
        }
        let mut most: HashMap<String, u32> = HashMap::new();
        for ((group, _), count) in counts {
            let have = most.entry(group).or_default();
            *have = (*have).max(count);
        }
        most
    }

    /// What the pods of each template are told with.
    pub(super) fn siblings(&self, templates: &[(u64, Arc<Template>)]) -> HashMap<u64, Siblings> {
        let mut in_namespace: HashMap<&str, Vec<&Arc<Template>>> = HashMap::new();
        for (_, t) in templates {
            in_namespace.entry(&t.namespace).or_default().push(t);
        }
        let even = templates.iter().filter(|(_, t)| t.even.iter().any(|e| e.across == Across::Nodes));
        let most = self.most_on_a_node(&even.filter_map(|(_, t)| group(t)).collect());
        let mut found: HashMap<u64, Siblings> = HashMap::new();
        // what one keeps away from has to keep away from it as well
        let mut mutual: Vec<(String, String)> = Vec::new();
        let mut keep_zone: BTreeSet<String> = BTreeSet::new();
        for (at, t) in templates {
            let own = group(t);
            let mut told = Siblings { group: own.clone(), stays: t.stays, ..Siblings::default() };
            for apart in &t.apart {
                let here = [t.namespace.clone()];
                let spaces: &[String] = if apart.namespaces.is_empty() { &here } else { &apart.namespaces };
                let others = spaces.iter().filter_map(|ns| in_namespace.get(ns.as_str())).flatten();
                for other in others.filter(|o| apart.from.takes(&o.labels)) {
                    let theirs = group(other);
                    match (&own, theirs, apart.across) {
                        // whoever can't be moved needn't be told where to
                        (None, _, _) => {}
                        (Some(own), Some(theirs), across) if *own == theirs => told.spread.push(Spread {
                            over: if across == Across::Nodes { Over::Node } else { Over::Zone },
                            at_most: 1,
                        }),
                        (Some(own), Some(theirs), Across::Nodes) => mutual.push((own.clone(), theirs)),
                        (Some(_), Some(theirs), Across::Zones) => {
                            told.keep_zone = true;
                            keep_zone.insert(theirs);
                        }
                        // pods without a group can't be named
                        (Some(_), None, _) => told.stays = told.stays.or(Some("it keeps apart from single pods")),
                    }
                }
            }
            for even in &t.even {
                match (even.across, &own) {
                    // within its zone a pod changes no count
                    (Across::Zones, _) => told.keep_zone = true,
                    // a node that is off counts as one with none, so nowhere may be more than the skew
                    (Across::Nodes, Some(own)) if even.of.takes(&t.labels) => {
                        if most.get(own).copied().unwrap_or(0) > even.skew {
                            told.stays = told.stays.or(Some("moving it would make its group uneven"));
                        } else {
                            told.spread.push(Spread { over: Over::Node, at_most: even.skew.max(1) });
                        }
                    }
                    _ => told.stays = told.stays.or(Some("it is spread by pods of others")),
                }
            }
            let covers = self.budgets.values().filter(|b| b.namespace == t.namespace && b.picks.takes(&t.labels));
            match covers.count() {
                // the server refuses to evict such pods at all
                2.. => told.stays = told.stays.or(Some("two disruption budgets are for it")),
                0 if self.rules.kept_namespaces.contains(&t.namespace) && !t.safe => {
                    told.stays = told.stays.or(Some("its namespace is kept, and no budget says how many may be away"));
                }
                _ => {}
            }
            told.spread.sort();
            told.spread.dedup();
            found.insert(*at, told);
        }
        for (at, t) in templates {
            let (Some(own), Some(told)) = (group(t), found.get_mut(at)) else { continue };
            let mut avoid = BTreeSet::new();
            for (a, b) in &mutual {
                if *a == own {
                    avoid.insert(b.clone());
                } else if *b == own {
                    avoid.insert(a.clone());
                }
            }
            told.avoid = avoid.into_iter().collect();
            told.keep_zone |= keep_zone.contains(&own);
        }
        found
    }
}
