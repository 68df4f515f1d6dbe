//! Operations, the audit and how everything stands, in the words of the API.

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Mark, TakeBack};
use ebbtide_executor::operation::{Operation, State, Step, Task};
use ebbtide_executor::settings::Mode;
use ebbtide_executor::words;
use ebbtide_planner::state::FleetState;
use ebbtide_proto::v1;

use super::Board;

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
        deadline_ms: op.deadline.ms(),
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

impl Board {
    /// How everything stands in `fleet`.
    pub fn state(&self, fleet: &FleetState) -> v1::ControlState {
        let mut pools: std::collections::BTreeMap<&str, u32> = self.modes.keys().map(|p| (p.as_str(), 0)).collect();
        for node in fleet.nodes.values() {
            *pools.entry(&node.pool).or_default() += 1;
        }
        let pool = |(name, nodes): (&str, u32)| {
            let mode = mode(self.modes.get(name).copied().unwrap_or_default());
            v1::PoolControl { name: name.to_owned(), mode: mode.into(), nodes }
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
            cluster: None,
        }
    }

    /// The operation that carries out the plan with this digest, if it goes on.
    pub fn of_plan(&self, digest: &str) -> Option<&Operation> {
        let carries = |op: &&std::sync::Arc<Operation>| {
            op.is_live() && matches!(&op.task, Task::Plan { plan } if plan.inputs == digest)
        };
        self.operations.values().rev().find(carries).map(|op| &**op)
    }
}
