//! What operators want. Every order becomes an operation, also one that is over at once.

use ebbtide_proto::NodeId;

use super::{Executor, World};
use crate::command::Command;
use crate::event::Ask;
use crate::journal::Change;
use crate::operation::{Operation, OperationId, State, Task, Then, Who};

impl Executor {
    pub(super) fn take_order(&mut self, world: World<'_>, ticket: u64, by: String, why: String, what: Ask) {
        let why = if why.is_empty() { format!("{by} wants it") } else { why };
        let empty = |node, then| Task::Empty { node, moves: None, close: true, then };
        let task = match what.clone() {
            Ask::PowerOn { node } => Task::PowerOn { node },
            Ask::PowerOff { node } => empty(node, Then::Off),
            Ask::Evacuate { node, lock } => empty(node, if lock { Then::Lock } else { Then::Open }),
            Ask::Lock { node } => Task::Lock { node },
            Ask::Unlock { node } => Task::Unlock { node },
            Ask::SetCapacity { node, free, for_s } => {
                self.end_capacity(world, &node, &format!("{by} said it anew"));
                Task::Capacity { node, free, for_s }
            }
            ask => Task::Word { ask },
        };
        let seconds = match &task {
            Task::Capacity { for_s, .. } => for_s.unwrap_or(u64::MAX),
            _ => self.settings.drain_s,
        };
        let id = self.begin(world, task, Who::Operator(by.clone()), why, seconds, None);
        self.out.push(Command::Accepted { ticket, operation: id });
        let (state, words) = match what {
            Ask::Approve { plan } => self.approve(world, plan, &by),
            Ask::Reorchestrate => {
                self.last_replan = None;
                self.replan(world.now, format!("{by} wants a new plan"));
                (State::Done, "a new plan will be made".to_owned())
            }
            Ask::ClearCapacity { node } => match self.end_capacity(world, &node, &format!("{by} cleared it")) {
                true => (State::Done, format!("workloads may use all of {node} again")),
                false => (State::Refused, format!("workloads may use all of {node} already")),
            },
            Ask::Cancel { operation } => self.cancel(world, operation, format!("{by} cancelled it")),
            Ask::Pause => self.pause(world, Some(format!("{by} has paused everything"))),
            Ask::Resume => self.pause(world, None),
            _ => return,
        };
        self.end(world, id, state, words);
    }

    /// Ends what keeps workloads to a part of a node. Returns whether anything did.
    fn end_capacity(&mut self, world: World<'_>, node: &NodeId, words: &str) -> bool {
        let keeps = |o: &&Operation| o.is_live() && matches!(&o.task, Task::Capacity { node: n, .. } if n == node);
        let found: Vec<OperationId> = self.ops.values().filter(keeps).map(|o| o.id).collect();
        for id in &found {
            self.end(world, *id, State::Done, words.to_owned());
        }
        !found.is_empty()
    }

    /// Whether workloads are still to be kept to a part of a node.
    pub(super) fn keep_capacity(&mut self, world: World<'_>, id: OperationId) {
        let Some(op) = self.ops.get(&id) else { return };
        match &op.cancelled {
            Some(why) => self.end(world, id, State::Cancelled, why.clone()),
            None if world.now >= op.deadline => self.end(world, id, State::Done, "its time is over".to_owned()),
            None => self.say(id, "plans go by it".to_owned()),
        }
    }

    fn pause(&mut self, world: World<'_>, why: Option<String>) -> (State, String) {
        let words = if why.is_some() { "nothing new is begun" } else { "operations go on" };
        self.write(world.now, Change::Paused { why: why.clone() });
        self.paused = why;
        (State::Done, words.to_owned())
    }

    pub(super) fn cancel(&mut self, world: World<'_>, id: OperationId, why: String) -> (State, String) {
        match self.ops.get_mut(&id) {
            None => return (State::Refused, format!("there is no {id}")),
            Some(op) if !op.is_live() => return (State::Refused, format!("{id} is over")),
            Some(op) if matches!(op.task, Task::CleanUp { .. }) => {
                return (State::Refused, format!("{id} only puts a node back as it was"));
            }
            Some(op) => op.cancelled = Some(why.clone()),
        }
        self.write(world.now, Change::Cancelled { operation: id, why: why.clone() });
        let part = |o: &&Operation| o.is_live() && o.part_of.is_some_and(|(plan, _)| plan == id);
        let parts: Vec<OperationId> = self.ops.values().filter(part).map(|o| o.id).collect();
        for part in parts {
            self.cancel(world, part, why.clone());
        }
        (State::Done, format!("{id} ends as soon as that is safe"))
    }
}
