//! Effects, orders and answers in plain English.

use ebbtide_proto::NodeId;

use crate::command::{Effect, Mark, Way};
use crate::event::{Answer, Ask};
use crate::operation::{Free, Operation, State, Task, Then};
use crate::settings::Mode;

/// A way, as in "by its BMC".
pub fn way(way: Way) -> &'static str {
    match way {
        Way::Agent => "its agent",
        Way::Bmc => "its BMC",
        Way::Wol => "wake-on-LAN",
        Way::Outlet => "its outlet",
    }
}

/// An effect on a node.
pub fn effect(effect: &Effect, node: &NodeId) -> String {
    match effect {
        Effect::Cordon { mark: Mark::Operation(id) } => format!("close {node} for {id}"),
        Effect::Cordon { mark: Mark::Lock } => format!("lock {node}"),
        Effect::Uncordon { .. } => format!("open {node}"),
        Effect::Evict { workload, to: Some(to), .. } => format!("move {workload} from {node} to {to}"),
        Effect::Evict { workload, to: None, .. } => format!("move {workload} off {node}"),
        Effect::Place { workload } => format!("place {workload} on {node}"),
        Effect::TellGoodbye => format!("let the agent of {node} deliver what it has"),
        Effect::Shutdown { way: w } => format!("shut {node} down by {}", way(*w)),
        Effect::OutletOff => format!("switch the outlet of {node} off"),
        Effect::PowerOn { way: w } => format!("power {node} on by {}", way(*w)),
    }
}

/// What an operation is about.
pub fn task(task: &Task) -> String {
    match task {
        Task::Plan { plan } => format!("carry out a plan of {} actions", plan.actions.len()),
        Task::PowerOn { node } => format!("power {node} on"),
        Task::Empty { node, then: Then::Off, .. } => format!("empty {node} and power it off"),
        Task::Empty { node, then: Then::Lock, .. } => format!("empty {node} and lock it"),
        Task::Empty { node, then: Then::Open, close: true, .. } => format!("empty {node}"),
        Task::Empty { node, .. } => format!("relieve {node}"),
        Task::Place { workload, to } => format!("place {workload} on {to}"),
        Task::Lock { node } => format!("lock {node}"),
        Task::Unlock { node } => format!("unlock {node}"),
        Task::CleanUp { node, left_by } => format!("open {node}, which {left_by} left closed"),
        Task::Capacity { node, free: part, .. } => format!("keep workloads on {node} to {}", free(part)),
        Task::Word { ask } => match ask {
            Ask::ClearCapacity { node } => format!("give workloads all of {node} again"),
            Ask::Approve { plan } => format!("approve {plan}"),
            Ask::Cancel { operation } => format!("cancel {operation}"),
            Ask::Reorchestrate => "plan anew".to_owned(),
            Ask::Pause => "pause".to_owned(),
            Ask::Resume => "go on".to_owned(),
            _ => "an order".to_owned(),
        },
    }
}

/// A part of a node: `4 CPUs and 8 GiB`.
pub fn free(free: &Free) -> String {
    let cpus = free.cpu_milli.map(|milli| format!("{} CPUs", milli as f64 / 1000.0));
    let memory = free.memory.map(bytes);
    let parts: Vec<String> = cpus.into_iter().chain(memory).collect();
    parts.join(" and ")
}

/// Bytes in the largest unit that there is at least one of.
pub fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, shift)| bytes >> shift > 0);
    unit.map_or_else(
        || format!("{bytes} B"),
        |(unit, shift)| {
            let text = format!("{:.1}", bytes as f64 / (1u64 << shift) as f64);
            format!("{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
        },
    )
}

/// An answer.
pub fn answer(answer: &Answer) -> String {
    match answer {
        Answer::Done => "done".to_owned(),
        Answer::Refused { why, retry_after_s: Some(s) } => format!("refused: {why}; again in {s} s"),
        Answer::Refused { why, .. } => format!("refused: {why}"),
        Answer::Gone => "it doesn't exist any more".to_owned(),
        Answer::Failed { why } => format!("failed: {why}"),
        Answer::Unknown { why } => format!("unknown: {why}"),
        Answer::Withdrawn { why } => format!("not sent: {why}"),
    }
}

/// What a pool may do, in a word.
pub const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Recommend => "recommend",
        Mode::Auto => "auto",
    }
}

/// How an operation stands, in a word.
pub const fn state(state: State) -> &'static str {
    match state {
        State::Live => "live",
        State::Done => "done",
        State::RolledBack => "rolled back",
        State::Refused => "refused",
        State::Cancelled => "cancelled",
        State::Failed => "failed",
        State::Quarantined => "quarantined",
    }
}

/// An operation in a line: `op-7 empty n3 and power it off for the planner: done, off: …`.
pub fn operation(op: &Operation) -> String {
    format!("{} {} for {}: {}, {}", op.id, task(&op.task), op.by, state(op.state), op.words)
}
