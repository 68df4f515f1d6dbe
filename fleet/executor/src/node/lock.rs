//! Closing nodes for operators, opening them, and opening what an operation of the past left closed.

use super::{Next, Tried, View, tried};
use crate::command::{Effect, Mark};
use crate::event::Cordon;
use crate::operation::{Operation, OperationId, State};

/// Makes the operation's own cordon an operator's lock.
pub(crate) fn keep(op: &Operation, view: &View<'_>) -> Next {
    mark(op, view, "emptied and locked")
}

/// Closes the node for an operator.
pub(crate) fn lock(op: &Operation, view: &View<'_>) -> Next {
    if let Some(next) = not_yet(op, view) {
        return next;
    }
    let next = mark(op, view, "locked");
    match (&next, &op.cancelled) {
        (Next::Act(..), Some(why)) => Next::End(State::Cancelled, why.clone()),
        (Next::Act(..), None) if view.late(op) => Next::End(State::Failed, "it could not be locked in time".to_owned()),
        _ => next,
    }
}

fn mark(op: &Operation, view: &View<'_>, words: &str) -> Next {
    let Some(sight) = view.fresh(op) else { return Next::Look("looking at it first".to_owned()) };
    match sight.cordon {
        None => Next::Look("the cluster can't be asked about it".to_owned()),
        Some(Cordon::Foreign) => Next::End(State::Refused, "somebody else closed it".to_owned()),
        Some(Cordon::Locked) => Next::End(State::Done, words.to_owned()),
        Some(Cordon::Open | Cordon::Ours(_)) => {
            let locks = |e: &Effect| *e == Effect::Cordon { mark: Mark::Lock };
            match tried(op.here(locks)) {
                Tried::Again(at, why) if view.now < at => Next::Wait(format!("it can't be closed yet: {why}")),
                _ => Next::Act(Effect::Cordon { mark: Mark::Lock }, "locking it".to_owned()),
            }
        }
    }
}

/// What ends, or holds up, an operator's order that has had no effect.
fn not_yet(op: &Operation, view: &View<'_>) -> Option<Next> {
    if op.may_have(|_| true) {
        return None;
    }
    if let Some(why) = &op.cancelled {
        return Some(Next::End(State::Cancelled, why.clone()));
    }
    if view.late(op) {
        return Some(Next::End(State::Failed, "its time was over".to_owned()));
    }
    if view.known().is_none() {
        return Some(Next::End(State::Refused, "there is no such node".to_owned()));
    }
    let why = view.stop.as_ref().or(view.crowded.as_ref())?;
    Some(Next::Wait(format!("waiting: {why}")))
}

/// Opens a node that was locked, or left closed by a quarantine.
pub(crate) fn unlock(op: &Operation, view: &View<'_>) -> Next {
    if let Some(next) = not_yet(op, view) {
        return next;
    }
    let Some(sight) = view.fresh(op) else { return Next::Look("looking at it first".to_owned()) };
    match sight.cordon {
        None => Next::Look("the cluster can't be asked about it".to_owned()),
        Some(Cordon::Open) => Next::End(State::Done, "open".to_owned()),
        Some(Cordon::Foreign) => {
            Next::End(State::Refused, "somebody else closed it, who has to open it again".to_owned())
        }
        Some(Cordon::Locked) => remove(op, view, Mark::Lock),
        Some(Cordon::Ours(id)) => remove(op, view, Mark::Operation(id)),
    }
}

/// Opens a node that carries the mark of an operation that is no more.
pub(crate) fn clean_up(op: &Operation, view: &View<'_>, left_by: OperationId) -> Next {
    if op.steps.is_empty()
        && let Some(why) = &view.crowded
    {
        return Next::Wait(format!("waiting: {why}"));
    }
    let Some(sight) = view.fresh(op) else { return Next::Look("looking whose mark it carries".to_owned()) };
    match sight.cordon {
        None => Next::Look("the cluster can't be asked about it".to_owned()),
        Some(Cordon::Ours(id)) if id == left_by => remove(op, view, Mark::Operation(id)),
        Some(_) => Next::End(State::Done, format!("the mark of {left_by} is gone")),
    }
}

fn remove(op: &Operation, view: &View<'_>, mark: Mark) -> Next {
    match tried(op.here(|e| e.restores())) {
        Tried::Again(at, why) if view.now < at => Next::Wait(format!("it can't be opened yet: {why}")),
        _ => Next::Act(Effect::Uncordon { mark }, "opening it".to_owned()),
    }
}
