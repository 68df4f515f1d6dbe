//! What if: the same planner on an edited state or under another policy.

use ebbtide_proto::NodeId;
use serde::{Deserialize, Serialize};

use crate::plan::action::Plan;
use crate::plan::{Refusal, plan};
use crate::policy::Policy;
use crate::state::event::Event;
use crate::state::node::Node;
use crate::state::{FleetState, Time};

/// A change to think through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "edit", rename_all = "kebab-case")]
pub enum Edit {
    /// The node is taken away; what ran there needs another place.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// A node is added.
    AddNode {
        /// What it is.
        node: Box<Node>,
    },
    /// Another policy holds.
    Policy {
        /// Which.
        policy: Box<Policy>,
    },
    /// A kilowatt-hour costs so many euro.
    Price {
        /// Euro per kilowatt-hour.
        price: f64,
    },
    /// A kilowatt-hour emits so many grams of CO2.
    Carbon {
        /// Grams per kilowatt-hour.
        carbon: f64,
    },
}

/// Both sides of the question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhatIf {
    /// The plan as things are.
    pub now: Plan,
    /// The plan as they would be.
    pub then: Plan,
    /// The fleet that it is for.
    #[serde(skip)]
    pub edited: FleetState,
    /// Watts after the plan that would be more (or, negative, less).
    pub watts: f64,
    /// Euro in a year at the price of each side, more or less.
    pub euro_per_year: f64,
    /// Kilograms of CO2 in a year, more or less.
    pub kg_co2_per_year: f64,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WhatIfError {
    /// The planner refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A node to be removed doesn't exist, or one to be added does.
    #[error("{0} can't be removed or added: it isn't there, or is there already")]
    Node(NodeId),
}

/// Hours of a year.
const HOURS: f64 = 8766.0;

/// Plans as things are, and as they would be after `edits`.
///
/// # Errors
/// [`WhatIfError::Node`] for an edit that makes no sense, [`WhatIfError::Refused`] if the planner refuses.
pub fn what_if(state: &FleetState, policy: &Policy, now: Time, edits: &[Edit]) -> Result<WhatIf, WhatIfError> {
    let (mut other, mut rules) = (state.clone(), policy.clone());
    for edit in edits {
        match edit {
            Edit::RemoveNode { node } => remove(&mut other, node, now)?,
            Edit::AddNode { node } => {
                if other.nodes.contains_key(&node.id) {
                    return Err(WhatIfError::Node(node.id.clone()));
                }
                other.apply(now, Event::NodeSeen(node.clone()));
            }
            Edit::Policy { policy } => rules = (**policy).clone(),
            Edit::Price { price } => rules.worth.price = *price,
            Edit::Carbon { carbon } => rules.worth.carbon = *carbon,
        }
    }
    let (as_is, then) = (plan(state, policy, now)?, plan(&other, &rules, now)?);
    let yearly = |p: &Plan, per_kwh: f64| p.after_w / 1000.0 * HOURS * per_kwh;
    Ok(WhatIf {
        watts: then.after_w - as_is.after_w,
        euro_per_year: yearly(&then, rules.worth.price) - yearly(&as_is, policy.worth.price),
        kg_co2_per_year: (yearly(&then, rules.worth.carbon) - yearly(&as_is, policy.worth.carbon)) / 1000.0,
        now: as_is,
        then,
        edited: other,
    })
}

fn remove(state: &mut FleetState, node: &NodeId, now: Time) -> Result<(), WhatIfError> {
    let there: Vec<_> = state.places.on(node).cloned().collect();
    for workload in there {
        let bound_to_it = state.workloads.get(&workload).is_some_and(|w| w.per_node);
        let event =
            if bound_to_it { Event::WorkloadGone { workload } } else { Event::WorkloadBound { workload, node: None } };
        state.apply(now, event);
    }
    if state.apply(now, Event::NodeGone { node: node.clone() }) { Ok(()) } else { Err(WhatIfError::Node(node.clone())) }
}
