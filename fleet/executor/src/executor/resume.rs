//! Beginning anew from the journal, after a crash at any moment or as a new leader.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::state::Time;

use super::Executor;
use super::plans::{PlanRun, plan_of};
use crate::command::Generation;
use crate::event::Answer;
use crate::journal::{Change, Record};
use crate::leases::Leases;
use crate::operation::{Operation, Phase, Step};
use crate::settings::Settings;
use crate::switches::Switches;

/// Why there is no beginning anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// Somebody with a higher number has led since.
    #[error("{own} can't lead: {found} has written to the journal")]
    OldGeneration {
        /// The number that was to lead.
        own: Generation,
        /// The highest in the journal.
        found: Generation,
    },
}

impl Executor {
    /// Begins anew: from an empty journal the first time. Effects of which the journal doesn't say what became are
    /// looked at, once they have landed or never will.
    ///
    /// # Errors
    /// [`ResumeError::OldGeneration`] if the journal has records of this generation or a later one.
    pub fn resume(
        records: &[Record],
        now: Time,
        generation: Generation,
        settings: Settings,
    ) -> Result<Self, ResumeError> {
        if let Some(found) = records.iter().map(|r| r.generation).max().filter(|g| *g >= generation) {
            return Err(ResumeError::OldGeneration { own: generation, found });
        }
        let mut executor = Self {
            generation,
            settings,
            leading: true,
            next_seq: records.last().map_or(1, |r| r.seq + 1),
            next_op: 1,
            next_look: 1,
            ops: BTreeMap::new(),
            flights: BTreeMap::new(),
            plans: BTreeMap::new(),
            leases: Leases::default(),
            switches: Switches::default(),
            seen: BTreeMap::new(),
            asked: BTreeMap::new(),
            quarantined: BTreeMap::new(),
            paused: None,
            modes: BTreeMap::new(),
            closed_windows: BTreeSet::new(),
            last_replan: None,
            last_step: None,
            out: Vec::new(),
        };
        for record in records {
            executor.read(record);
        }
        executor.settle_down(now);
        Ok(executor)
    }

    /// Takes in one record.
    fn read(&mut self, record: &Record) {
        let at = record.at;
        match record.change.clone() {
            Change::Began(op) => {
                self.next_op = self.next_op.max(op.id.0 + 1);
                if let Some(plan) = plan_of(&op) {
                    let mut run = PlanRun::new(plan, op.at);
                    run.inherited = true;
                    self.plans.insert(op.id, run);
                }
                self.ops.insert(op.id, *op);
            }
            Change::Intends { key, node, effect } => {
                if let Some(op) = self.ops.get_mut(&key.operation) {
                    op.steps.push(Step { number: key.step, at, node, effect, answer: None });
                }
            }
            Change::Happened { key, answer } => {
                let step =
                    self.ops.get_mut(&key.operation).and_then(|o| o.steps.iter_mut().find(|s| s.number == key.step));
                if let Some(step) = step {
                    step.answer = Some((at, answer));
                }
            }
            Change::Turned { operation, phase } => {
                if let Some(op) = self.ops.get_mut(&operation) {
                    op.turn(phase, at);
                }
            }
            Change::Ended { operation, state, words } => {
                self.plans.remove(&operation);
                if let Some(op) = self.ops.get_mut(&operation) {
                    op.state = state;
                    op.words = words;
                    op.ended = Some(at);
                }
            }
            Change::Settled { plan, action, done } => {
                if let Some(run) = self.plans.get_mut(&plan) {
                    run.settled.insert(action, done);
                }
            }
            Change::Approved { plan, .. } => {
                if let Some(run) = self.plans.get_mut(&plan) {
                    run.approved = true;
                    run.started = at;
                }
            }
            Change::Cancelled { operation, why } => {
                if let Some(op) = self.ops.get_mut(&operation) {
                    op.cancelled = Some(why);
                }
            }
            Change::Quarantined { node, why } => {
                self.quarantined.insert(node, why);
            }
            Change::Freed { node } => {
                self.quarantined.remove(&node);
            }
            Change::Paused { why } => self.paused = why,
        }
    }

    /// Makes a beginning of what was read.
    fn settle_down(&mut self, now: Time) {
        let quiet = now.plus_secs(self.settings.answer_s);
        for op in self.ops.values_mut() {
            // whether a clock was set meanwhile isn't known
            op.clock_set = Some(now);
            for step in &mut op.steps {
                let happened = step.answer.as_ref().is_none_or(|(_, a)| a.may_have_happened());
                if step.effect.switches() && happened {
                    self.switches.note(&step.node, step.at);
                }
                if step.answer.is_none() && op.state == crate::operation::State::Live {
                    let why = "whoever led before didn't write down what became of it".to_owned();
                    step.answer = Some((now, Answer::Unknown { why }));
                    op.quiet_until = Some(quiet);
                }
            }
        }
        let holds =
            |o: &&Operation| o.is_live() && o.task.is_exclusive() && (o.phase != Phase::Begin || !o.steps.is_empty());
        let held: Vec<_> =
            self.ops.values().filter(holds).filter_map(|o| Some((o.id, o.task.node()?.clone()))).collect();
        for (id, node) in held {
            self.leases.take(&node, id);
        }
        let parts: Vec<_> = self.ops.values().filter_map(|o| Some((o.part_of?, o.is_live(), o.state))).collect();
        for ((plan, part), live, state) in parts {
            if let Some(run) = self.plans.get_mut(&plan) {
                run.found(part, (!live).then_some(state == crate::operation::State::Done));
            }
        }
    }
}
