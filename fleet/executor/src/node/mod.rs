//! What an operation on a node does next: functions of the operation, of what is known of the node and of the time.
//! Nothing here has an effect, remembers anything or knows of the journal.

pub(crate) mod drain;
pub(crate) mod lock;
pub(crate) mod off;
pub(crate) mod on;
pub(crate) mod signals;

use std::collections::BTreeMap;

use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::NodeId;

use crate::command::{Effect, Way};
use crate::event::{Answer, Sight};
use crate::operation::{Operation, Phase, State, Step, Task};
use crate::settings::{Settings, Ways};

/// A sight, and when it came to which look.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) look: u64,
    pub(crate) at: Time,
    pub(crate) sight: Sight,
}

/// Everything a decision about one operation may depend on.
pub(crate) struct View<'a> {
    pub(crate) now: Time,
    pub(crate) fleet: &'a FleetState,
    pub(crate) settings: &'a Settings,
    pub(crate) node: &'a NodeId,
    /// The node as it was seen last.
    pub(crate) seen: Option<&'a Seen>,
    /// Why nothing new may be begun, if so.
    pub(crate) stop: Option<String>,
    /// Why the operation has to wait for its turn, if so.
    pub(crate) crowded: Option<String>,
    /// What speaks against powering the node off now.
    pub(crate) against_off: Option<String>,
    /// Actions of the plan that are over, and whether they were done.
    pub(crate) settled: Option<&'a BTreeMap<u32, bool>>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Next {
    /// Nothing; for this reason.
    Wait(String),
    /// Nothing before the node was looked at again; for this reason.
    Look(String),
    /// This effect; for this reason.
    Act(Effect, String),
    /// Go on to this phase.
    Turn(Phase),
    /// An action of the plan is over.
    Settle(u32, bool),
    /// The operation is over.
    End(State, String),
    /// The operation is over and the node left alone until a person has looked.
    Quarantine(String),
}

impl<'a> View<'a> {
    /// The node as the fleet's state has it.
    pub(crate) fn known(&self) -> Option<&'a Node> {
        self.fleet.nodes.get(self.node)
    }

    /// What was seen since the operation last had reason to look.
    pub(crate) fn sight(&self, op: &Operation) -> Option<&'a Sight> {
        self.seen.filter(|s| s.look >= op.look_from).map(|s| &s.sight)
    }

    /// The same, if it is new enough to act upon.
    pub(crate) fn fresh(&self, op: &Operation) -> Option<&'a Sight> {
        let seen = self.seen.filter(|s| s.look >= op.look_from)?;
        is_within(self.now, seen.at, self.settings.look_age_s).then_some(&seen.sight)
    }

    /// By what the node is switched.
    pub(crate) fn ways(&self) -> Ways {
        self.settings.ways.get(self.node).cloned().unwrap_or_default()
    }

    /// Whether the operation's time is over.
    pub(crate) fn late(&self, op: &Operation) -> bool {
        self.now >= op.deadline
    }
}

/// Whether `at` was at most `seconds` ago. What is stamped in the future isn't: a clock was set.
pub(crate) fn is_within(now: Time, at: Time, seconds: u64) -> bool {
    at <= now.plus_secs(5) && now.since(at) <= seconds as f64
}

/// What the operation does next.
pub(crate) fn next(op: &Operation, view: &View<'_>) -> Next {
    if let Phase::Open { state, words } = &op.phase {
        return drain::open(op, view, *state, words);
    }
    match &op.task {
        Task::Empty { moves, close, then, .. } => {
            let job = drain::Job { moves: moves.as_deref(), close: *close, then: *then };
            match op.phase {
                Phase::Goodbye => off::goodbye(op, view),
                Phase::Shutdown => off::shutdown(op, view),
                Phase::Confirm => off::confirm(op, view),
                Phase::Cut => off::cut(op, view),
                _ => drain::next(op, view, &job),
            }
        }
        Task::PowerOn { .. } => on::next(op, view),
        Task::Lock { .. } => lock::lock(op, view),
        Task::Unlock { .. } => lock::unlock(op, view),
        Task::CleanUp { left_by, .. } => lock::clean_up(op, view, *left_by),
        Task::Place { workload, .. } => drain::place(op, view, workload),
        Task::Plan { .. } | Task::Capacity { .. } | Task::Word { .. } => Next::Wait(String::new()),
    }
}

/// Undoes what was done so far, as far as that is safe.
pub(crate) fn roll_back(op: &Operation, state: State, words: String) -> Next {
    if op.committed() {
        return Next::Quarantine(format!("{words}; it may have been told to shut down, so it stays closed"));
    }
    let closed = op.may_have(|e| matches!(e, Effect::Cordon { .. }));
    if closed { Next::Turn(Phase::Open { state, words }) } else { Next::End(state, words) }
}

/// What became of a step that can simply be tried again.
pub(crate) enum Tried {
    /// Not tried in this phase.
    Not,
    /// It was done.
    Done,
    /// Nobody knows.
    Unknown,
    /// It wasn't done; try again from this moment on.
    Again(Time, String),
}

/// Seconds after a failure until the next try.
const RETRY_S: u64 = 10;

pub(crate) fn tried(step: Option<&Step>) -> Tried {
    let Some(Step { answer: Some((at, answer)), .. }) = step else { return Tried::Not };
    match answer {
        Answer::Done | Answer::Gone => Tried::Done,
        Answer::Unknown { .. } => Tried::Unknown,
        Answer::Refused { why, retry_after_s } => {
            Tried::Again(at.plus_secs(retry_after_s.unwrap_or(RETRY_S).max(1)), why.clone())
        }
        Answer::Failed { why } | Answer::Withdrawn { why } => Tried::Again(at.plus_secs(RETRY_S), why.clone()),
    }
}

pub(crate) fn is_shutdown(effect: &Effect) -> bool {
    matches!(effect, Effect::Shutdown { .. })
}

pub(crate) fn is_power_on(effect: &Effect) -> bool {
    matches!(effect, Effect::PowerOn { .. })
}

pub(crate) fn way_of(effect: &Effect) -> Option<Way> {
    match effect {
        Effect::Shutdown { way } | Effect::PowerOn { way } => Some(*way),
        _ => None,
    }
}
