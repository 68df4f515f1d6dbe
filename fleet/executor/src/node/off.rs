//! Powering an empty node off: goodbye, shutdown, proof, and only then the outlet.

use ebbtide_planner::state::Time;
use ebbtide_planner::state::node::PowerState;

use super::signals::{Signals, listen};
use super::{Next, Tried, View, is_shutdown, is_within, roll_back, tried};
use crate::command::Effect;
use crate::event::{Answer, Cordon, Sight};
use crate::operation::{Operation, Phase, State};

/// Times that the agent is told goodbye, and that an outlet is switched.
const TRIES: usize = 2;
/// Times that a machine is told to shut down.
const SHUTDOWNS: usize = 2;

/// The agent delivers what it has. Without it there is no telemetry, and without telemetry nothing is powered off.
pub(crate) fn goodbye(op: &Operation, view: &View<'_>) -> Next {
    if let Some(next) = turn_back(op, view) {
        return next;
    }
    let step = op.here(|e| *e == Effect::TellGoodbye);
    let tries = op.tries(|e| *e == Effect::TellGoodbye);
    match tried(step) {
        Tried::Not => Next::Act(Effect::TellGoodbye, "its agent delivers what it has".to_owned()),
        Tried::Done => Next::Turn(Phase::Shutdown),
        _ if tries < TRIES => Next::Act(Effect::TellGoodbye, "its agent is asked once more".to_owned()),
        Tried::Again(_, why) => {
            roll_back(op, State::RolledBack, format!("undone: its agent didn't deliver what it had: {why}"))
        }
        Tried::Unknown => {
            roll_back(op, State::RolledBack, "undone: its agent didn't deliver what it had in time".to_owned())
        }
    }
}

/// What speaks against going on, as long as there is a way back.
fn turn_back(op: &Operation, view: &View<'_>) -> Option<Next> {
    if let Some(why) = &view.stop {
        return Some(roll_back(op, State::RolledBack, format!("undone: {why}")));
    }
    view.late(op)
        .then(|| roll_back(op, State::RolledBack, "undone at its deadline, before it was shut down".to_owned()))
}

/// The machine is told, by the first way that takes the order.
pub(crate) fn shutdown(op: &Operation, view: &View<'_>) -> Next {
    let last = op.here(is_shutdown);
    if let Some((_, answer)) = last.and_then(|s| s.answer.as_ref()) {
        if answer.may_have_happened() {
            return Next::Turn(Phase::Confirm);
        }
        if let Answer::Withdrawn { why } | Answer::Refused { why, .. } = answer {
            return roll_back(op, State::RolledBack, format!("undone: {why}"));
        }
    }
    if let Some(next) = turn_back(op, view) {
        return next;
    }
    let failed = op.steps.iter().skip(op.steps_before).filter(|s| is_shutdown(&s.effect)).count();
    match view.ways().off.get(failed) {
        Some(way) => Next::Act(Effect::Shutdown { way: *way }, "shutting it down".to_owned()),
        None => {
            let why = match last.and_then(|s| s.answer.as_ref()) {
                Some((_, Answer::Failed { why })) => format!(": {why}"),
                _ => String::new(),
            };
            roll_back(op, State::Failed, format!("undone: nothing could shut it down{why}"))
        }
    }
}

/// Seconds since the machine was last told to shut down.
fn told_ago_s(op: &Operation, now: Time) -> f64 {
    op.waited(now, op.steps.iter().rfind(|s| is_shutdown(&s.effect)).map_or(op.at, |s| s.at))
}

fn signals(op: &Operation, view: &View<'_>, sight: &Sight) -> Signals {
    listen(sight, told_ago_s(op, view.now), view.settings)
}

/// Whether the machine was seen off and is on again, by somebody else's doing.
pub(crate) fn came_back(op: &Operation, view: &View<'_>, sight: &Sight) -> bool {
    sight.ready == Some(true) && signals(op, view, sight).is_on()
}

/// Two signals of three, and none against.
pub(crate) fn confirm(op: &Operation, view: &View<'_>) -> Next {
    let usual = view.known().map_or(60.0, |n| n.boot.shutdown_s);
    let over = op.waited(view.now, op.since) >= usual + view.settings.confirm_s as f64;
    let Some(sight) = view.fresh(op) else {
        let words = "it was told to shut down, and nothing can be asked about it";
        return if over && !can_look(view) { Next::Quarantine(words.to_owned()) } else { Next::Look(words.to_owned()) };
    };
    let heard = signals(op, view, sight);
    if heard.is_off() {
        return match view.ways().cut {
            true => Next::Turn(Phase::Cut),
            false => done(heard.words(), "left on"),
        };
    }
    if !over {
        return Next::Look(format!("waiting for proof that it is off: {}", heard.words()));
    }
    let tries = op.steps.iter().filter(|s| is_shutdown(&s.effect)).count();
    if heard.is_on() && tries < SHUTDOWNS && view.stop.is_none() && !view.late(op) {
        return Next::Turn(Phase::Verify);
    }
    Next::Quarantine(format!("it was told to shut down and isn't off for sure: {}", heard.words()))
}

/// Whether looks are answered at all: without an answer for this long the deadline counts.
fn can_look(view: &View<'_>) -> bool {
    view.seen.is_some_and(|s| is_within(view.now, s.at, view.settings.confirm_s))
}

fn done(signals: String, outlet: &str) -> Next {
    let words = format!("off: {signals}; its outlet is {outlet}");
    Next::Turn(Phase::Open { state: State::Done, words })
}

/// The outlet, if the policy wants that.
pub(crate) fn cut(op: &Operation, view: &View<'_>) -> Next {
    let step = op.here(|e| *e == Effect::OutletOff);
    let Some(sight) = view.fresh(op) else { return Next::Look("looking at its outlet".to_owned()) };
    let heard = signals(op, view, sight);
    if !heard.is_off() {
        let tried = op.tries(|e| *e == Effect::OutletOff) > 0;
        let over = op.waited(view.now, op.since) >= view.settings.confirm_s as f64;
        return match step {
            _ if !tried => Next::Turn(Phase::Confirm),
            Some(_) if heard.on.is_empty() && (sight.outlet == PowerState::Off || over) => done(
                format!("it was before its outlet was switched off; now: {}", heard.words()),
                sight.outlet.as_str(),
            ),
            Some(_) if !heard.on.is_empty() => {
                Next::Quarantine(format!("its outlet was switched off, but: {}", heard.words()))
            }
            _ => Next::Look("its outlet was switched off; looking".to_owned()),
        };
    }
    if let Some(why) = &view.stop {
        return done(heard.words(), &format!("left as it is: {why}"));
    }
    if let Some((_, Answer::Withdrawn { why })) = step.and_then(|s| s.answer.as_ref()) {
        return done(heard.words(), &format!("left as it is: {why}"));
    }
    match tried(step) {
        Tried::Not => Next::Act(Effect::OutletOff, "switching its outlet off".to_owned()),
        Tried::Done if sight.outlet == PowerState::Off => done(heard.words(), "off"),
        Tried::Done => done(heard.words(), "said to be off, which nothing confirms"),
        Tried::Unknown | Tried::Again(..) if op.tries(|e| *e == Effect::OutletOff) < TRIES => {
            Next::Act(Effect::OutletOff, "switching its outlet off once more".to_owned())
        }
        Tried::Unknown => done(heard.words(), "in an unknown state"),
        Tried::Again(_, why) => done(heard.words(), &format!("left on, as it couldn't be switched: {why}")),
    }
}

/// What speaks against the shutdown, or against cutting the power, as the node is seen at the last moment.
pub(crate) fn last_look(op: &Operation, effect: &Effect, sight: &Sight, view: &View<'_>) -> Result<(), String> {
    if let Some(who) = &sight.held {
        return Err(format!("it is now held by {who}"));
    }
    match sight.cordon {
        Some(Cordon::Ours(id)) if id == op.id => {}
        None => return Err("the cluster can't be asked who closed it".to_owned()),
        Some(_) => return Err("it isn't closed by this operation any more".to_owned()),
    }
    match effect {
        Effect::Shutdown { .. } => {
            match &sight.workloads {
                None => return Err("the cluster can't be asked if it is empty".to_owned()),
                Some(there) => {
                    if let Some(id) = there.first() {
                        return Err(format!("{id} came to it since"));
                    }
                }
            }
            match sight.agent_ago_s {
                Some(ago) if ago <= view.settings.streams_s as f64 => {}
                _ => return Err("its agent has fallen silent".to_owned()),
            }
            view.against_off.clone().map_or(Ok(()), Err)
        }
        Effect::OutletOff => {
            // if all signals are wrong, work that has come is the last sign that it runs
            if let Some(id) = sight.workloads.iter().flatten().next() {
                return Err(format!("{id} came to it since"));
            }
            let heard = signals(op, view, sight);
            if heard.is_off() { Ok(()) } else { Err(format!("it isn't off for sure: {}", heard.words())) }
        }
        _ => Ok(()),
    }
}
