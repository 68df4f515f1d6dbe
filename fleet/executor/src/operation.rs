//! Operations: everything that the executor does is part of one.

use std::fmt;

use ebbtide_planner::plan::action::Plan;
use ebbtide_planner::state::Time;
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::command::Effect;
use crate::event::Answer;

/// Number of an operation; rises by one and is never used again once an effect bore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(pub u64);

/// On whose behalf something is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// A plan.
    Planner,
    /// A person, or a program that speaks for one.
    Operator(String),
    /// The executor itself: putting right what was left over.
    Executor,
}

/// A move that a plan wants of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Number of the action.
    pub action: u32,
    /// Which workload.
    pub workload: WorkloadId,
    /// Where it shall be.
    pub to: NodeId,
    /// Actions that have to be done before.
    pub needs: Vec<u32>,
}

/// What of a node workloads may use, where somebody outside said so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Free {
    /// Thousandths of a CPU; `None`: as many as otherwise.
    pub cpu_milli: Option<u64>,
    /// Bytes of memory; `None`: as many as otherwise.
    pub memory: Option<u64>,
}

/// What becomes of a node that was emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It is open as before.
    Open,
    /// It stays closed.
    Lock,
    /// It is powered off.
    Off,
}

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Carrying out a plan by operations of its own.
    Plan {
        /// The plan.
        plan: Box<Plan>,
    },
    /// Powering a node on until work can run on it.
    PowerOn {
        /// Which.
        node: NodeId,
    },
    /// Moving workloads off a node.
    Empty {
        /// Which.
        node: NodeId,
        /// These workloads, each to its place; `None` for everything that is on it.
        moves: Option<Vec<Planned>>,
        /// Whether the node is closed first.
        close: bool,
        /// What comes after.
        then: Then,
    },
    /// Putting a workload that waits on a node.
    Place {
        /// Which.
        workload: WorkloadId,
        /// Where.
        to: NodeId,
    },
    /// Closing a node until it is unlocked.
    Lock {
        /// Which.
        node: NodeId,
    },
    /// Opening a node that was locked or quarantined.
    Unlock {
        /// Which.
        node: NodeId,
    },
    /// Opening a node that an operation left closed which is no more.
    CleanUp {
        /// Which.
        node: NodeId,
        /// The operation whose mark it carries.
        left_by: OperationId,
    },
    /// Keeping workloads to a part of a node. Has no effects: it lasts until its deadline, if it has one, and whoever
    /// plans goes by it for so long.
    Capacity {
        /// Which.
        node: NodeId,
        /// The part.
        free: Free,
        /// For how long, in seconds; `None` until it is cleared.
        for_s: Option<u64>,
    },
    /// An order that is over at once: approve, cancel, pause, resume, reorchestrate, clear a capacity.
    Word {
        /// The order.
        ask: crate::event::Ask,
    },
}

impl Task {
    /// The node that it is about, if it is about one.
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::PowerOn { node }
            | Self::Empty { node, .. }
            | Self::Lock { node }
            | Self::Unlock { node }
            | Self::CleanUp { node, .. }
            | Self::Capacity { node, .. } => Some(node),
            Self::Place { to, .. } => Some(to),
            Self::Plan { .. } | Self::Word { .. } => None,
        }
    }

    /// Whether no other operation may be about the same node meanwhile.
    pub const fn is_exclusive(&self) -> bool {
        !matches!(self, Self::Plan { .. } | Self::Place { .. } | Self::Capacity { .. } | Self::Word { .. })
    }
}

/// How an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Under way, or waiting for its turn.
    Live,
    /// What it was about is so.
    Done,
    /// It was begun and undone.
    RolledBack,
    /// It was not begun: something spoke against it.
    Refused,
    /// It was cancelled before it had an effect.
    Cancelled,
    /// It could not be done, wholly or in part.
    Failed,
    /// Its node is in a state that a person has to look at.
    Quarantined,
}

/// Where an operation on a node stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing was done yet.
    Begin,
    /// The node is being closed.
    Close,
    /// What was bound to it just before it was closed may still arrive.
    Settle,
    /// Workloads leave.
    Move,
    /// The node is looked at: is it empty?
    Verify,
    /// The agent delivers what it has.
    Goodbye,
    /// The machine is told to shut down.
    Shutdown,
    /// Signals are awaited that it is off.
    Confirm,
    /// Its outlet is switched off.
    Cut,
    /// The machine is told to power on.
    Boot,
    /// It lives, and is awaited as a node.
    Back,
    /// The node is opened again, then the operation ends like this.
    Open {
        /// As what.
        state: State,
        /// In these words.
        words: String,
    },
}

/// One effect of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number, from 1.
    pub number: u32,
    /// When it was decided.
    pub at: Time,
    /// On which node.
    pub node: NodeId,
    /// What.
    pub effect: Effect,
    /// What became of it, and when that was known.
    pub answer: Option<(Time, Answer)>,
}

/// Something that is carried out, from the order to its end in words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its number.
    pub id: OperationId,
    /// What it is about.
    pub task: Task,
    /// On whose behalf.
    pub by: Who,
    /// Why, in words.
    pub why: String,
    /// When it was taken on.
    pub at: Time,
    /// When it has to be done, or is undone.
    pub deadline: Time,
    /// The plan that it is part of, and its place among the parts.
    pub part_of: Option<(OperationId, usize)>,
    /// How it stands.
    pub state: State,
    /// Where it stands.
    pub phase: Phase,
    /// Since when it stands there.
    pub since: Time,
    /// Steps that were taken in the phases before.
    pub steps_before: usize,
    /// When it ended.
    pub ended: Option<Time>,
    /// What it does or waits for now; how it ended, once it has.
    pub words: String,
    /// Its effects, in order.
    pub steps: Vec<Step>,
    /// Why it shall end early, if it shall.
    pub cancelled: Option<String>,
    /// Nothing is done or concluded before: what an earlier leader sent may still land.
    pub quiet_until: Option<Time>,
    /// When a clock was last seen to be set: stamps of before can't be compared with those of after.
    pub clock_set: Option<Time>,
    /// Only looks from this one on say something about it.
    pub look_from: u64,
}

impl Operation {
    /// Whether it isn't over.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Seconds since something that was stamped `at`, or since the clock was set, whichever is less.
    pub(crate) fn waited(&self, now: Time, at: Time) -> f64 {
        now.since(self.clock_set.map_or(at, |set| if at <= now { at.max(set) } else { set }))
    }

    /// Whether the machine may have been told to shut down: from then on there is no simple way back.
    pub fn committed(&self) -> bool {
        self.may_have(|e| matches!(e, Effect::Shutdown { .. }))
    }

    /// Whether an effect of a kind may have happened.
    pub fn may_have(&self, kind: impl Fn(&Effect) -> bool) -> bool {
        self.steps.iter().any(|s| kind(&s.effect) && s.answer.as_ref().is_none_or(|(_, a)| a.may_have_happened()))
    }

    /// The latest effect of a kind since the operation is in its phase.
    pub(crate) fn here(&self, kind: impl Fn(&Effect) -> bool) -> Option<&Step> {
        self.steps.iter().skip(self.steps_before).rfind(|s| kind(&s.effect))
    }

    /// Goes on to a phase.
    pub(crate) fn turn(&mut self, phase: Phase, now: Time) {
        self.phase = phase;
        self.since = now;
        self.clock_set = None;
        self.steps_before = self.steps.len();
    }

    /// How often an effect of a kind was tried; what was withdrawn at the last moment wasn't.
    pub(crate) fn tries(&self, kind: impl Fn(&Effect) -> bool) -> usize {
        let withdrawn = |s: &Step| matches!(s.answer, Some((_, Answer::Withdrawn { .. })));
        self.steps.iter().filter(|s| kind(&s.effect) && !withdrawn(s)).count()
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op-{}", self.0)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planner => f.write_str("the planner"),
            Self::Operator(name) => f.write_str(name),
            Self::Executor => f.write_str("the executor"),
        }
    }
}
