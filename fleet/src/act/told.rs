//! Operations, the audit and how everything stands, in the words of the API.

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Mark, TakeBack};
use ebbtide_executor::operation::{Free, Operation, State, Step, Task, Then};
use ebbtide_executor::settings::Mode;
use ebbtide_executor::words;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::{NodeId, v1};

use super::Board;
use crate::decide::Plans;
use crate::decide::withheld::{self as decide, Withheld};

/// An operation.
pub fn operation(op: &Operation) -> v1::Operation {
    let state = match op.state {
        State::Live if op.cancelled.is_some() => v1::OperationState::Ending,
        State::Live => v1::OperationState::Live,
        State::Done => v1::OperationState::Done,
        State::RolledBack => v1::OperationState::RolledBack,
        State::Refused => v1::OperationState::Refused,
        State::Cancelled => v1::OperationState::Cancelled,
        State::Failed => v1::OperationState::Failed,
        State::Quarantined => v1::OperationState::Quarantined,
    };
    v1::Operation {
        id: op.id.0,
        what: words::task(&op.task),
        why: op.why.clone(),
        by: op.by.to_string(),
        state: state.into(),
        began_ms: op.at.ms(),
        ended_ms: op.ended.map_or(0, |at| at.ms()),
        deadline_ms: if matches!(op.task, Task::Capacity { for_s: None, .. }) { 0 } else { op.deadline.ms() },
        node: op.task.node().map(ToString::to_string).unwrap_or_default(),
        words: op.words.clone(),
        steps: op.steps.iter().map(step).collect(),
        part_of: op.part_of.map_or(0, |(plan, _)| plan.0),
    }
}

fn step(step: &Step) -> v1::OperationStep {
    v1::OperationStep {
        number: step.number,
        at_ms: step.at.ms(),
        what: words::effect(&step.effect, &step.node),
        answered_ms: step.answer.as_ref().map_or(0, |(at, _)| at.ms()),
        answer: step.answer.as_ref().map(|(_, answer)| words::answer(answer)).unwrap_or_default(),
        undo: match step.effect.undo() {
            TakeBack::By(effect) => words::effect(&effect, &step.node),
            TakeBack::No(why) => format!("not undone: {why}"),
        },
    }
}

/// A line of the audit.
pub fn audit(entry: AuditEntry) -> v1::AuditEntry {
    v1::AuditEntry {
        at_ms: entry.at.ms(),
        who: entry.who.to_string(),
        what: entry.what,
        why: entry.why,
        node: entry.node.map(|node| node.to_string()).unwrap_or_default(),
        operation: entry.operation.0,
        result: entry.result.unwrap_or_default(),
    }
}

/// A pool's mode on the wire.
pub fn mode(mode: Mode) -> v1::PoolMode {
    match mode {
        Mode::Observe => v1::PoolMode::Observe,
        Mode::Recommend => v1::PoolMode::Recommend,
        Mode::Auto => v1::PoolMode::Auto,
    }
}

/// A mode that somebody asked for; `None` if none was said.
pub fn wanted(mode: v1::PoolMode) -> Option<Mode> {
    match mode {
        v1::PoolMode::Unspecified => None,
        v1::PoolMode::Observe => Some(Mode::Observe),
        v1::PoolMode::Recommend => Some(Mode::Recommend),
        v1::PoolMode::Auto => Some(Mode::Auto),
    }
}

/// Why, in an operator's own words.
fn said(op: &Operation) -> String {
    let own = Some(&op.why).filter(|why| !why.starts_with(&op.by.to_string()));
    own.map(|why| format!(": {why}")).unwrap_or_default()
}

/// A moment, as in `until 2026-11-23T14:00:00Z`.
fn moment(at: Time) -> String {
    let at = i64::try_from(at.ms()).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "the end of time".to_owned(), |at| at.strftime("%FT%TZ").to_string())
}

impl Board {
    /// The operations that keep workloads to a part of their node.
    fn capacities(&self) -> impl Iterator<Item = (&NodeId, &Operation, &Free, Option<Time>)> {
        self.operations.values().filter(|op| op.is_live()).filter_map(|op| match &op.task {
            Task::Capacity { node, free, for_s } => Some((node, &**op, free, for_s.map(|_| op.deadline))),
            _ => None,
        })
    }

    /// What is kept from plans.
    pub fn withheld(&self) -> Withheld {
        let closed = self.closed.iter().map(|(node, mark)| (node.clone(), self.closed_by(node, *mark)));
        let free = self.capacities().map(|(node, op, part, until)| {
            let until = until.map_or("until it is cleared".to_owned(), |at| format!("until {}", moment(at)));
            let why =
                format!("{} lets workloads use {} of it {until} ({}{})", op.by, words::free(part), op.id, said(op));
            (node.clone(), decide::Free { cpu_milli: part.cpu_milli, memory: part.memory, why })
        });
        Withheld { closed: closed.collect(), free: free.collect() }
    }

    fn closed_by(&self, node: &NodeId, mark: Mark) -> String {
        let locks = |op: &&Operation| match &op.task {
            Task::Lock { node: n } | Task::Empty { node: n, then: Then::Lock, .. } => n == node,
            _ => false,
        };
        match (mark, self.quarantined.get(node)) {
            (_, Some(why)) => format!("it is left alone until somebody has looked: {why}; ebbtide unlock {node}"),
            (Mark::Operation(id), None) => format!("{id} works on it"),
            (Mark::Lock, None) => match self.newest().find(locks) {
                Some(op) => format!("{} locked it ({}{}); ebbtide unlock {node}", op.by, op.id, said(op)),
                None => format!("an operator locked it; ebbtide unlock {node}"),
            },
        }
    }

    /// What nodes of `fleet` have, and what of it is for workloads.
    pub fn capacity(&self, fleet: &FleetState) -> v1::ListCapacityResponse {
        let kept: std::collections::BTreeMap<&NodeId, _> =
            self.capacities().map(|(node, op, free, until)| (node, (op, free, until))).collect();
        let nodes = fleet.nodes.values().map(|node| {
            let (free, used) = (node.allocatable(), fleet.places.used(&node.id));
            let mut shown = v1::NodeCapacity {
                node: node.id.to_string(),
                pool: node.pool.clone(),
                cpu_milli: node.capacity.cpu_milli,
                memory_bytes: Some(node.capacity.memory).filter(|bytes| *bytes > 0),
                allocatable_cpu_milli: free.cpu_milli,
                allocatable_memory_bytes: Some(free.memory).filter(|_| node.capacity.memory > 0),
                requested_cpu_milli: used.cpu_milli,
                requested_memory_bytes: used.memory,
                ..v1::NodeCapacity::default()
            };
            if let Some((op, part, until)) = kept.get(&node.id) {
                (shown.set_cpu_milli, shown.set_memory_bytes) = (part.cpu_milli, part.memory);
                (shown.operation, shown.by, shown.why) = (op.id.0, op.by.to_string(), op.why.clone());
                shown.until_ms = until.map_or(0, Time::ms);
            }
            shown
        });
        v1::ListCapacityResponse { nodes: nodes.collect() }
    }

    /// How everything stands in `fleet`.
    pub fn state(&self, plans: &Plans) -> v1::ControlState {
        let fleet = plans.state();
        let mut pools: std::collections::BTreeMap<&str, u32> = self.modes.keys().map(|p| (p.as_str(), 0)).collect();
        for node in fleet.nodes.values() {
            *pools.entry(&node.pool).or_default() += 1;
        }
        let pool = |(name, nodes): (&str, u32)| {
            let mode = mode(self.modes.get(name).copied().unwrap_or_default());
            let hours = self.hours.get(name);
            v1::PoolControl {
                name: name.to_owned(),
                mode: mode.into(),
                nodes,
                open: hours.map(|hours| hours.open),
                until_ms: hours.and_then(|hours| hours.until).map_or(0, Time::ms),
            }
        };
        let quarantine = |(node, why): (&ebbtide_proto::NodeId, &String)| v1::Quarantine {
            node: node.to_string(),
            why: why.clone(),
        };
        let locked = self.closed.iter().filter(|(_, mark)| **mark == Mark::Lock);
        v1::ControlState {
            paused: self.paused.clone(),
            pools: pools.into_iter().map(pool).collect(),
            operations: u32::try_from(self.operations.values().filter(|op| op.is_live()).count()).unwrap_or(u32::MAX),
            quarantined: self.quarantined.iter().map(quarantine).collect(),
            locked: locked.map(|(node, _)| node.to_string()).collect(),
            leads: self.leads,
            generation: self.generation.0,
            cluster: plans.cluster().map(|cluster| cluster.to_string()),
        }
    }

    /// Operations, the newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().rev().map(|op| &**op)
    }

    /// The operation that carries out the plan with this digest, if it goes on.
    pub fn of_plan(&self, digest: &str) -> Option<&Operation> {
        let carries =
            |op: &&Operation| op.is_live() && matches!(&op.task, Task::Plan { plan } if plan.inputs == digest);
        self.newest().find(carries)
    }
}
