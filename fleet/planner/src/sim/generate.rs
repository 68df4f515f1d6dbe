//! Fleets out of a seed: for tests, benchmarks and scenarios without a trace.

use ebbtide_proto::id::{IdError, WorkloadKind};
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use super::rng::Rng;
use crate::model::curve::PowerCurve;
use crate::state::event::Event;
use crate::state::node::{Node, PowerState, Taint};
use crate::state::resources::Resources;
use crate::state::workload::{Over, Spread, Toleration, Workload};
use crate::state::{FleetState, Time};

/// Bytes of a gibibyte.
const GIB: u64 = 1 << 30;

/// A machine type: CPUs, GiB, GPUs, idle and full watts.
const TYPES: [(u64, u64, u64, f64, f64); 6] = [
    (16, 64, 0, 58.0, 180.0),
    (32, 128, 0, 95.0, 310.0),
    (48, 384, 0, 130.0, 420.0),
    (64, 256, 0, 120.0, 450.0),
    (96, 768, 0, 210.0, 760.0),
    (64, 512, 8, 380.0, 2600.0),
];

/// What a fleet looks like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Shape {
    /// Nodes.
    pub nodes: u32,
    /// Workloads.
    pub workloads: u32,
    /// Share of all CPUs that is asked for, 0 to 1.
    pub asked: f64,
    /// Share of nodes and workloads with labels, taints and spread.
    pub special: f64,
    /// Whether workloads run already, scattered over all nodes; else all wait and all nodes are off.
    pub placed: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self { nodes: 50, workloads: 600, asked: 0.4, special: 0.1, placed: true }
    }
}

/// A fleet of that shape, at [`START`].
///
/// # Errors
/// None in practice: names are made of digits.
pub fn fleet(shape: &Shape, seed: u64) -> Result<FleetState, IdError> {
    let (mut kinds, mut sizes, mut rules) = (Rng::new(seed, 1), Rng::new(seed, 2), Rng::new(seed, 3));
    let mut state = FleetState::new();
    let mut cpus = 0;
    for i in 0..shape.nodes {
        // the first sockets of a kind are common, GPU machines rare
        let pick = if kinds.unit() < 0.05 { 5 } else { kinds.below(5) };
        let (cpu, gib, gpus, idle, full) = TYPES[usize::try_from(pick).unwrap_or(0)];
        let room = Resources::new(cpu * 1000, gib * GIB).with("gpu", gpus).with("pods", 110);
        let mut node = Node::new(NodeId::new(&format!("n{i:05}"))?, room, PowerCurve::line(idle, full));
        node.power = if shape.placed { PowerState::On } else { PowerState::Off };
        node.zone = Some(format!("z{}", kinds.below(3)));
        if rules.unit() < shape.special {
            node.labels.insert("disk".to_owned(), "ssd".to_owned());
        }
        if rules.unit() < shape.special {
            node.taints.push(Taint { key: "dedicated".to_owned(), value: "batch".to_owned() });
        }
        cpus += cpu * 1000;
        state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
    }
    let mean = cpus as f64 * shape.asked / f64::from(shape.workloads.max(1));
    let mut group = 0;
    for i in 0..shape.workloads {
        let cpu = milli(mean * (0.2 + 1.6 * sizes.unit()));
        let memory = cpu * GIB / 1000 * sizes.range(1, 6);
        let mut needs = Resources::new(cpu, memory).with("pods", 1);
        if sizes.unit() < 0.005 {
            needs = needs.with("gpu", 1);
        }
        let mut w = Workload::new(WorkloadId::new(WorkloadKind::Pod, &format!("w{i:06}"))?, needs);
        if rules.unit() < shape.special {
            if i % 10 == 0 {
                group += 1;
            }
            w.group = Some(format!("g{group}"));
            w.spread.push(Spread { over: Over::Node, at_most: 2 });
        }
        if rules.unit() < shape.special {
            w.selector.insert("disk".to_owned(), "ssd".to_owned());
        }
        if rules.unit() < shape.special {
            w.tolerations.push(Toleration { key: "dedicated".to_owned(), value: None });
        }
        w.stays = rules.unit() < shape.special / 10.0;
        state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(w)));
    }
    if shape.placed {
        scatter(&mut state, &mut Rng::new(seed, 4));
    }
    for node in state.nodes.values_mut() {
        node.heard = START;
    }
    state.apply(START, Event::Synced);
    Ok(state)
}

/// The moment that generated fleets are at: long after anything was switched.
pub const START: Time = Time::from_secs(100_000);

/// Puts every workload on a node that has room, chosen at random; what finds none in many tries waits.
fn scatter(state: &mut FleetState, rng: &mut Rng) {
    let nodes: Vec<NodeId> = state.nodes.keys().cloned().collect();
    let ids: Vec<WorkloadId> = state.workloads.keys().cloned().collect();
    for workload in ids {
        for _ in 0..64 {
            let Some(id) = usize::try_from(rng.below(nodes.len() as u64)).ok().and_then(|i| nodes.get(i)) else {
                break;
            };
            let (Some(node), Some(w)) = (state.nodes.get(id), state.workloads.get(&workload)) else { break };
            let mut used = state.places.used(id).clone();
            used.add(&w.requests);
            let same =
                |o: &&WorkloadId| state.workloads.get(*o).is_some_and(|o| o.group.is_some() && o.group == w.group);
            let crowded = w.spread.iter().any(|s| state.places.on(id).filter(same).count() >= s.at_most as usize);
            if w.admits(node) && used.lacks(&node.allocatable()).is_none() && !crowded {
                state.apply(Time::ZERO, Event::WorkloadBound { workload: workload.clone(), node: Some(id.clone()) });
                break;
            }
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "thousandths of a CPU")]
fn milli(v: f64) -> u64 {
    v.max(1.0) as u64
}
