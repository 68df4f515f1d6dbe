//! What operators want. Every order becomes an operation, also one that is over at once.

use super::{Executor, World};
use crate::command::Command;
use crate::event::Ask;
use crate::journal::Change;
use crate::operation::{OperationId, State, Task, Then, Who};

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
            ask => Task::Word { ask },
        };
        let id = self.begin(world, task, Who::Operator(by.clone()), why, self.settings.drain_s, None);
        self.out.push(Command::Accepted { ticket, operation: id });
        let (state, words) = match what {
            Ask::Approve { plan } => self.approve(world, plan, &by),
            Ask::Reorchestrate => {
                self.last_replan = None;
                self.replan(world.now, format!("{by} wants a new plan"));
                (State::Done, "a new plan will be made".to_owned())
            }
            Ask::Cancel { operation } => self.cancel(world, operation, format!("{by} cancelled it")),
            Ask::Pause => self.pause(world, Some(format!("{by} has paused everything"))),
            Ask::Resume => self.pause(world, None),
            _ => return,
        };
        self.end(world, id, state, words);
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
        let part = |o: &&crate::operation::Operation| o.is_live() && o.part_of.is_some_and(|(plan, _)| plan == id);
        let parts: Vec<OperationId> = self.ops.values().filter(part).map(|o| o.id).collect();
        for part in parts {
            self.cancel(world, part, why.clone());
        }
        (State::Done, format!("{id} ends as soon as that is safe"))
    }
}
