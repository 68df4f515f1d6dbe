//! The way of every effect: its intent is written, then safe on disk, then checked once more, then sent, then answered.

use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;

use super::{Executor, LOOK_TIMEOUT_S, World};
use crate::audit::AuditEntry;
use crate::command::{Command, Effect, Key};
use crate::event::Answer;
use crate::journal::Change;
use crate::node::{is_within, off};
use crate::operation::{Operation, OperationId, Step};
use crate::words;

/// An effect between decision and answer.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    pub(super) key: Key,
    pub(super) node: NodeId,
    pub(super) effect: Effect,
    stage: Stage,
    /// Since when it is at this stage.
    pub(super) since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until this record is safe.
    Journal(u64),
    /// Until this look is answered.
    Look(u64),
    /// Until it is answered.
    Sent,
}

impl Flight {
    pub(super) fn is_sent(&self) -> bool {
        self.stage == Stage::Sent
    }
}

impl Executor {
    /// Writes down what an operation is about to do.
    pub(super) fn intend(&mut self, world: World<'_>, id: OperationId, node: &NodeId, effect: Effect) {
        let Some(op) = self.ops.get_mut(&id) else { return };
        let number = u32::try_from(op.steps.len() + 1).unwrap_or(u32::MAX);
        let key = Key { operation: id, step: number };
        op.steps.push(Step { number, at: world.now, node: node.clone(), effect: effect.clone(), answer: None });
        let seq = self.write(world.now, Change::Intends { key, node: node.clone(), effect: effect.clone() });
        let flight = Flight { key, node: node.clone(), effect, stage: Stage::Journal(seq), since: world.now };
        self.flights.insert(id, flight);
        self.out.push(Command::Changed(id));
    }

    /// Everything up to this record is safe.
    pub(super) fn journalled(&mut self, world: World<'_>, seq: u64) {
        let safe = |f: &&Flight| matches!(f.stage, Stage::Journal(s) if s <= seq);
        let ready: Vec<OperationId> = self.flights.values().filter(safe).map(|f| f.key.operation).collect();
        for id in ready {
            let Some(flight) = self.flights.get(&id) else { continue };
            if flight.effect.irreversible() {
                let node = flight.node.clone();
                let look = self.ask_to_look(world.now, &node);
                self.at_stage(id, Stage::Look(look), world.now);
            } else {
                self.gate(world, id);
            }
        }
    }

    /// A look was answered: effects that waited for it are decided.
    pub(super) fn looked(&mut self, world: World<'_>, node: &NodeId, look: u64) {
        let waits = |f: &&Flight| matches!(f.stage, Stage::Look(l) if l <= look) && f.node == *node;
        let ready: Vec<OperationId> = self.flights.values().filter(waits).map(|f| f.key.operation).collect();
        for id in ready {
            self.gate(world, id);
        }
    }

    fn at_stage(&mut self, id: OperationId, stage: Stage, now: Time) {
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.stage = stage;
            flight.since = now;
        }
    }

    /// The last moment at which an effect can be left.
    fn gate(&mut self, world: World<'_>, id: OperationId) {
        let (Some(flight), Some(op)) = (self.flights.get(&id), self.ops.get(&id)) else { return };
        let (key, node, effect) = (flight.key, flight.node.clone(), flight.effect.clone());
        match self.may_go(world, op, &node, &effect) {
            Err(why) => self.resolve(world, key, Answer::Withdrawn { why }),
            Ok(()) => {
                self.at_stage(id, Stage::Sent, world.now);
                if effect.switches() {
                    self.switches.note(&node, world.now);
                }
                self.audit(world.now, key, None);
                self.out.push(Command::Do { generation: self.generation, key, node, effect, at: world.now });
            }
        }
    }

    fn may_go(&self, world: World<'_>, op: &Operation, node: &NodeId, effect: &Effect) -> Result<(), String> {
        self.look_at(world, op, node, |view| {
            if let Some(why) = view.stop.as_ref().filter(|_| !effect.restores()) {
                return Err(why.clone());
            }
            if !effect.irreversible() {
                return Ok(());
            }
            let sight = view.fresh(op).ok_or_else(|| "it couldn't be looked at".to_owned())?;
            off::last_look(op, effect, sight, view)
        })
    }

    /// What became of an effect that was sent.
    pub(super) fn answered(&mut self, world: World<'_>, key: Key, answer: Answer) {
        let expected = self.flights.get(&key.operation).is_some_and(|f| f.key == key && f.is_sent());
        if expected {
            self.resolve(world, key, answer);
        }
    }

    /// Effects of which nothing was heard for too long.
    pub(super) fn give_up_waiting(&mut self, world: World<'_>) {
        let over = |since: Time, s: u64| !is_within(world.now, since, s);
        let late: Vec<(Key, Answer)> = self
            .flights
            .values()
            .filter_map(|f| match f.stage {
                Stage::Sent if over(f.since, self.settings.answer_s) => {
                    Some((f.key, Answer::Unknown { why: "no answer".to_owned() }))
                }
                Stage::Look(_) if over(f.since, LOOK_TIMEOUT_S) => {
                    Some((f.key, Answer::Withdrawn { why: "it couldn't be looked at".to_owned() }))
                }
                _ => None,
            })
            .collect();
        for (key, answer) in late {
            self.resolve(world, key, answer);
        }
    }

    fn resolve(&mut self, world: World<'_>, key: Key, answer: Answer) {
        self.flights.remove(&key.operation);
        self.write(world.now, Change::Happened { key, answer: answer.clone() });
        let look_from = self.next_look;
        let Some(op) = self.ops.get_mut(&key.operation) else { return };
        // what is not known is looked at, and only what was seen afterwards counts
        op.look_from = look_from;
        if let Some(step) = op.steps.iter_mut().find(|s| s.number == key.step) {
            step.answer = Some((world.now, answer.clone()));
        }
        self.audit(world.now, key, Some(words::answer(&answer)));
        self.out.push(Command::Changed(key.operation));
    }

    fn audit(&mut self, now: Time, key: Key, result: Option<String>) {
        let Some(op) = self.ops.get(&key.operation) else { return };
        let Some(step) = op.steps.iter().find(|s| s.number == key.step) else { return };
        self.out.push(Command::Audit(AuditEntry {
            at: now,
            who: op.by.clone(),
            what: words::effect(&step.effect, &step.node),
            why: format!("{}: {}", words::task(&op.task), op.why),
            node: Some(step.node.clone()),
            operation: op.id,
            result,
        }));
    }
}
