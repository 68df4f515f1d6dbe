//! Drives the production planner in CloudSim's world: what hosts and VMs do becomes events, what is planned becomes
//! migrations. The planner sees only the past.

use std::collections::BTreeMap;

use ebbtide_proto::id::{IdError, WorkloadKind};
use ebbtide_proto::{NodeId, WorkloadId};

use super::world::{HOST_TYPES, Move, World};
use crate::model::boot::BootModel;
use crate::model::curve::PowerCurve;
use crate::model::migration::Migration;
use crate::plan::action::{Do, Plan};
use crate::plan::{Refusal, plan};
use crate::policy::Policy;
use crate::state::event::Event;
use crate::state::node::{Node, PowerState};
use crate::state::resources::Resources;
use crate::state::workload::Workload;
use crate::state::{FleetState, Time};

/// Bytes of a megabyte.
const MB: u64 = 1 << 20;
/// The resource that stands for a host's network at the first placement.
const NETWORK: &str = "network";

/// The planner's side of the world.
pub struct Driver {
    /// What the planner knows.
    pub state: FleetState,
    /// What it is told to do.
    pub policy: Policy,
    nodes: Vec<NodeId>,
    node_index: BTreeMap<NodeId, usize>,
    vms: Vec<WorkloadId>,
    vm_index: BTreeMap<WorkloadId, usize>,
    gone: Vec<bool>,
}

/// One decision.
pub struct Decided {
    /// The plan.
    pub plan: Plan,
    /// Its moves in the world's terms.
    pub moves: Vec<Move>,
    /// What it was made from.
    pub known: FleetState,
}

/// Why the world can't be driven.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// A name that isn't one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The planner refused.
    #[error("no plan: {0}")]
    Plan(#[from] Refusal),
}

impl Driver {
    /// Describes all hosts, off, and all VMs, waiting.
    pub fn new(world: &World, policy: Policy, boot: BootModel) -> Result<Self, DriveError> {
        let mut state = FleetState::new();
        let mut nodes = Vec::new();
        for (i, host) in world.hosts.iter().enumerate() {
            let kind = &HOST_TYPES[host.kind];
            let id = NodeId::new(&format!("host-{i:03}"))?;
            let room = Resources::new(mips(kind.core_mips * kind.cores), mips(kind.memory_mb) * MB).with(NETWORK, 10);
            let mut node = Node::new(id.clone(), room, PowerCurve::eleven(kind.watts));
            node.power = PowerState::Off;
            node.boot = boot.clone();
            node.twin = Some(kind.name.to_owned());
            state.apply(Time::ZERO, Event::NodeSeen(Box::new(node)));
            nodes.push(id);
        }
        let mut vms = Vec::new();
        for (i, vm) in world.vms.iter().enumerate() {
            let id = WorkloadId::new(WorkloadKind::Vm, &format!("vm-{i:04}"))?;
            let needs = Resources::new(mips(vm.trace.mips), mips(vm.trace.memory_mb) * MB).with(NETWORK, 1);
            state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(Self::vm(id.clone(), needs, vm.trace.memory_mb))));
            vms.push(id);
        }
        state.apply(Time::ZERO, Event::Synced);
        let node_index = nodes.iter().cloned().enumerate().map(|(i, id)| (id, i)).collect();
        let vm_index = vms.iter().cloned().enumerate().map(|(i, id)| (id, i)).collect();
        let gone = vec![false; vms.len()];
        Ok(Self { state, policy, nodes, node_index, vms, vm_index, gone })
    }

    fn vm(id: WorkloadId, needs: Resources, megabytes: f64) -> Workload {
        let mut w = Workload::new(id, needs);
        w.migration = Migration::live(megabytes, 62.5);
        w
    }

    /// The first placement: each VM with all that it was sold as.
    pub fn start(&mut self, world: &mut World) -> Result<(), DriveError> {
        let first = plan(&self.state, &self.policy, Time::ZERO)?;
        self.adopt(&first, Time::ZERO);
        for (w, h) in self.places() {
            world.start(w, h);
        }
        // hosts are found on with their VMs: that was no switch
        for node in self.state.nodes.values_mut() {
            node.switched.clear();
        }
        // in this accounting neither memory nor network bind any more
        for (i, vm) in world.vms.iter().enumerate() {
            if let Some(known) = self.state.workloads.get(&self.vms[i]) {
                let mut w = Self::vm(self.vms[i].clone(), Resources::new(mips(vm.trace.mips), 0), vm.trace.memory_mb);
                w.node.clone_from(&known.node);
                self.state.apply(Time::ZERO, Event::WorkloadSeen(Box::new(w)));
            }
        }
        Ok(())
    }

    fn places(&self) -> Vec<Move> {
        let of = |w: &Workload| Some((*self.vm_index.get(&w.id)?, *self.node_index.get(w.node.as_ref()?)?));
        self.state.workloads.values().filter_map(of).collect()
    }

    /// One decision: tells the planner what VMs used, and carries out what it says.
    pub fn decide(&mut self, world: &World) -> Result<Decided, DriveError> {
        let now = Time::from_ms(ms(world.now));
        for (i, vm) in world.vms.iter().enumerate() {
            if self.gone[i] {
                continue;
            }
            let workload = self.vms[i].clone();
            if vm.host.is_none() {
                self.gone[i] = true;
                self.state.apply(now, Event::WorkloadGone { workload });
            } else {
                self.state.apply(now, Event::WorkloadUsed { workload, cpu_milli: vm.asked });
            }
        }
        for node in &self.nodes {
            self.state.apply(now, Event::NodeHeard { node: node.clone() });
        }
        let plan = plan(&self.state, &self.policy, now)?;
        let known = self.state.clone();
        self.adopt(&plan, now);
        let moves = plan
            .actions
            .iter()
            .filter_map(|a| match &a.what {
                Do::Move { workload, to, .. } => Some((*self.vm_index.get(workload)?, *self.node_index.get(to)?)),
                _ => None,
            })
            .collect();
        Ok(Decided { plan, moves, known })
    }

    /// What the plan says has happened: hosts switch at once in this accounting.
    fn adopt(&mut self, plan: &Plan, now: Time) {
        for event in plan.effects() {
            self.state.apply(now, event);
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "whole numbers of MIPS and megabytes")]
fn mips(v: f64) -> u64 {
    v as u64
}

#[allow(clippy::cast_possible_truncation, reason = "milliseconds of a day")]
fn ms(s: f64) -> u64 {
    (s * 1000.0).round() as u64
}
