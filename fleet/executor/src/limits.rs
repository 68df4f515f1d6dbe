//! How much happens at once: by pool, by failure zone, by circuit.

use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

use crate::operation::{Operation, Phase, Task};
use crate::settings::{Limit, Settings};
use crate::switches::Switches;

/// What goes on in the fleet.
pub(crate) struct Traffic<'a> {
    pub(crate) now: Time,
    pub(crate) fleet: &'a FleetState,
    pub(crate) settings: &'a Settings,
    pub(crate) switches: &'a Switches,
    /// Operations that have their nodes.
    pub(crate) active: Vec<&'a Operation>,
    /// Nodes of which a switch is decided but not yet sent.
    pub(crate) about_to: Vec<&'a NodeId>,
}

impl Traffic<'_> {
    /// Why another operation has to wait; `None` if it needn't.
    pub(crate) fn full(&self, op: &Operation) -> Option<String> {
        let id = op.task.node().filter(|_| counts(op))?;
        let boots = |o: &&&Operation| matches!(o.phase, Phase::Boot | Phase::Back);
        let to_boot = matches!(op.task, Task::PowerOn { .. });
        self.scopes(id).into_iter().find_map(|(limit, name, same)| {
            let inside = || {
                self.active.iter().filter(|o| o.id != op.id && counts(o)).filter(|o| o.task.node().is_some_and(&same))
            };
            if inside().count() >= limit.at_once {
                return Some(format!("{} operations are under way in {name}", inside().count()));
            }
            let booting = inside().filter(boots).count();
            (to_boot && booting >= limit.boots).then(|| format!("{booting} nodes boot in {name}"))
        })
    }

    /// Why a switch has to wait; `None` if it needn't.
    pub(crate) fn too_fast(&self, id: &NodeId) -> Option<String> {
        self.scopes(id).into_iter().find_map(|(limit, name, same)| {
            let lately = self.switches.lately(self.now, &*same);
            let soon = self.about_to.iter().filter(|&&n| same(n)).count();
            (lately + soon >= limit.per_minute)
                .then(|| format!("{lately} nodes of {name} were switched within a minute"))
        })
    }

    /// The pool, zone and circuit of a node: the limit, the name, and who else is in it.
    #[allow(clippy::type_complexity, reason = "three of a kind, used at once")]
    fn scopes(&self, id: &NodeId) -> Vec<(Limit, String, Box<dyn Fn(&NodeId) -> bool + '_>)> {
        let Some(node) = self.fleet.nodes.get(id) else { return Vec::new() };
        let like = |f: fn(&Node, &Node) -> bool| -> Box<dyn Fn(&NodeId) -> bool + '_> {
            Box::new(move |n| self.fleet.nodes.get(n).is_some_and(|other| f(node, other)))
        };
        let mut scopes = vec![(self.settings.pool, format!("pool {:?}", node.pool), like(|a, b| a.pool == b.pool))];
        if let Some(zone) = &node.zone {
            scopes.push((self.settings.zone, format!("zone {zone}"), like(|a, b| a.zone == b.zone)));
        }
        if let Some(circuit) = &node.circuit {
            scopes.push((self.settings.circuit, format!("circuit {circuit}"), like(|a, b| a.circuit == b.circuit)));
        }
        scopes
    }
}

/// Whether an operation takes one of the places.
fn counts(op: &Operation) -> bool {
    matches!(op.task, Task::PowerOn { .. } | Task::Empty { close: true, .. })
}
