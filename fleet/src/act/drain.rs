//! Emptying plain hosts by the operator's commands.
//!
//! A command that drains a node is part of closing it: until it has ended, it isn't known if the node is closed. What was
//! drained is noted, and once the node is open again and its agent streams, work is let onto it again: at once if an
//! operation was undone, after the wake if the node was powered off.

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::Mark;
use ebbtide_executor::event::{Answer, Cordon};
use ebbtide_executor::operation::{OperationId, Who};
use ebbtide_planner::state::Time;
use ebbtide_proto::{NodeId, WorkloadId};
use ebbtide_runtime::clock;

use super::hooks::{Job, Progress};
use super::hosts::{Hosts, failed};
use super::journal::{Journal, JournalError};

/// What is noted, for the log.
const NOTE: &str = "note what is drained";
/// A workload that doesn't leave yet is asked for again after so long.
const MOVES_S: u64 = 10;
/// One that wants to be asked later, after so long.
const LATER_S: u64 = 30;

impl Hosts {
    /// Closes a node, and lets the command for that empty it.
    pub(super) async fn drain(&self, node: &NodeId, mark: Mark) -> Answer {
        let closed = self.mark(node, mark, true).await;
        if closed != Answer::Done {
            return closed;
        }
        let id = node.clone();
        if let Err(error) = self.journal.with(NOTE, move |journal| journal.drain(&id, Some(false))).await {
            return failed(error.to_string());
        }
        match self.hooks.ask(&Job::Drain(node.clone())).await {
            Progress::Runs => Answer::Unknown { why: "it is being drained".to_owned() },
            Progress::Later(why) => Answer::Unknown { why: format!("it can't be drained yet: {why}") },
            Progress::Done(_) => self.emptied(node).await.map_or_else(|e| failed(e.to_string()), |()| Answer::Done),
            Progress::Failed(why) => {
                self.mark(node, mark, false).await;
                failed(format!("it can't be drained: {why}"))
            }
        }
    }

    async fn emptied(&self, node: &NodeId) -> Result<(), JournalError> {
        let id = node.clone();
        self.journal.with(NOTE, move |journal| journal.drain(&id, Some(true))).await?;
        self.live.left(node, None);
        Ok(())
    }

    /// Who closed a node that carries the mark of an operation; `None` as long as a command drains it.
    pub(super) async fn draining(&self, node: &NodeId, by: OperationId) -> Option<Cordon> {
        if !self.hooks.drains(node) {
            return Some(Cordon::Ours(by));
        }
        let asked = match self.journal.with(NOTE, Journal::drained).await {
            Ok(drained) => drained.get(node).copied(),
            Err(_) => return None,
        };
        if asked != Some(false) {
            return Some(Cordon::Ours(by));
        }
        let job = Job::Drain(node.clone());
        // what can't be drained yet is tried again, and a result is taken
        let progress = match self.hooks.look(&job) {
            Some(Progress::Later(_) | Progress::Done(_)) => Some(self.hooks.ask(&job).await),
            other => other,
        };
        match progress {
            Some(Progress::Runs | Progress::Later(_)) => None,
            Some(Progress::Done(_)) => self.emptied(node).await.ok().map(|()| Cordon::Ours(by)),
            // it failed, which is told to whoever closes it again, or nobody runs it any more
            Some(Progress::Failed(_)) | None => {
                let opened = self.mark(node, Mark::Operation(by), false).await;
                (opened == Answer::Done).then_some(Cordon::Open)
            }
        }
    }

    /// Asks a workload to leave.
    pub(super) async fn evict(&self, node: &NodeId, workload: &WorkloadId, to: Option<&NodeId>) -> Answer {
        let refused = |why: String, s| Answer::Refused { why, retry_after_s: Some(s) };
        if !self.hooks.moves(node) {
            return match self.hooks.drains(node) {
                true => refused("it is drained, and its agent still tells of it".to_owned(), MOVES_S),
                false => refused("no [[act.hook]] says how work is moved off it".to_owned(), LATER_S),
            };
        }
        let chosen = || self.hooks.target(&self.plans.state(), node, workload);
        // what is on its way goes where it was sent first
        let Some(to) = self.hooks.moving(node, workload).or_else(|| to.cloned()).or_else(chosen) else {
            return refused("no node with the same [[act.hook]] has room".to_owned(), LATER_S);
        };
        match self.hooks.ask(&Job::Move(node.clone(), workload.clone(), to.clone())).await {
            Progress::Runs => refused(format!("on its way to {to}"), MOVES_S),
            Progress::Later(why) => refused(why, LATER_S),
            Progress::Failed(why) => failed(why),
            Progress::Done(_) => {
                self.live.left(node, Some(workload));
                Answer::Done
            }
        }
    }

    /// Lets work onto nodes again that were drained, are open, and stream.
    pub(super) async fn undrain(&self) -> Result<(), JournalError> {
        let (drained, closed) = self.journal.with(NOTE, |journal| Ok((journal.drained()?, journal.closed()?))).await?;
        for node in drained.into_keys().filter(|node| !closed.contains_key(node)) {
            let streams = self.live.heard(&node).is_some_and(|(connected, _)| connected);
            if !streams || self.hooks.look(&Job::Drain(node.clone())) == Some(Progress::Runs) {
                continue;
            }
            let said = match self.hooks.undrains(&node) {
                false => None,
                true => match self.hooks.ask(&Job::Undrain(node.clone())).await {
                    Progress::Done(said) => Some(said),
                    Progress::Runs | Progress::Later(_) | Progress::Failed(_) => continue,
                },
            };
            let entry = said.map(|said| AuditEntry {
                at: Time::from_ms(clock::now().wall / 1_000_000),
                who: Who::Executor,
                what: format!("let work onto {node} again"),
                why: "it was drained, and is open again".to_owned(),
                node: Some(node.clone()),
                operation: OperationId(0),
                result: Some(if said.is_empty() { "done".to_owned() } else { format!("done: {said}") }),
            });
            let note = move |journal: &Journal| {
                journal.drain(&node, None)?;
                entry.map_or(Ok(()), |entry| journal.audit(&entry))
            };
            self.journal.with(NOTE, note).await?;
        }
        Ok(())
    }
}
