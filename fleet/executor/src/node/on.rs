//! Powering a node on: one way after the other until it lives, then patience until it is a node again.

use ebbtide_planner::state::node::PowerState;

use super::{Next, View, is_power_on, is_within, way_of};
use crate::command::{Effect, Way};
use crate::event::{Answer, Cordon, Sight};
use crate::operation::{Operation, Phase, State};
use crate::settings::Rung;

/// Share of boots that patience allows for.
const BOOT_QUANTILE: f64 = 0.99;

pub(crate) fn next(op: &Operation, view: &View<'_>) -> Next {
    match op.phase {
        Phase::Begin => begin(op, view),
        Phase::Boot => boot(op, view),
        _ => back(op, view),
    }
}

/// Whether it is a node again: the cluster thinks it ready, and its agent speaks. Words of before it was woken don't
/// count.
fn is_back(op: &Operation, view: &View<'_>, sight: &Sight) -> bool {
    let woken = woken_ago_s(op, view);
    let streams = |ago: f64| woken.is_none_or(|w| ago < w) && ago <= view.settings.streams_s as f64;
    sight.ready == Some(true) && sight.agent_ago_s.is_some_and(streams)
}

/// Seconds since it was first told to wake.
fn woken_ago_s(op: &Operation, view: &View<'_>) -> Option<f64> {
    op.steps.iter().find(|s| is_power_on(&s.effect)).map(|s| op.waited(view.now, s.at))
}

fn begin(op: &Operation, view: &View<'_>) -> Next {
    let refuse = |why: &str| Next::End(State::Refused, why.to_owned());
    if let Some(why) = &op.cancelled {
        return Next::End(State::Cancelled, why.clone());
    }
    if view.late(op) {
        return refuse("its time was over before its turn came");
    }
    let Some(node) = view.known() else { return refuse("there is no such node") };
    if !node.switchable || view.ways().on.is_empty() {
        return refuse("nothing can power it on");
    }
    if let Some(why) = view.stop.clone().or_else(|| view.crowded.clone()) {
        return Next::Wait(format!("waiting: {why}"));
    }
    let Some(sight) = view.fresh(op) else { return Next::Look("looking at it first".to_owned()) };
    if is_back(op, view, sight) {
        return Next::End(State::Done, "it was on already".to_owned());
    }
    if let Some(who) = &sight.held {
        return Next::End(State::Refused, format!("it is held by {who}"));
    }
    match sight.cordon {
        None => Next::Look("the cluster can't be asked about it".to_owned()),
        Some(Cordon::Foreign) => refuse("somebody else closed it"),
        Some(_) => Next::Turn(Phase::Boot),
    }
}

/// Every try, in order. A node without current can't be woken otherwise, so its outlet comes first.
fn ladder(view: &View<'_>, by_outlet: bool) -> Vec<Rung> {
    let ways = view.ways().on;
    let mut all: Vec<Rung> = ways.iter().flat_map(|r| std::iter::repeat_n(*r, r.tries.clamp(1, 10) as usize)).collect();
    if by_outlet
        && ways.first().is_some_and(|r| r.way != Way::Outlet)
        && let Some(outlet) = ways.iter().find(|r| r.way == Way::Outlet)
    {
        all.insert(0, *outlet);
    }
    all
}

/// Whether the machine shows any sign of life since it was woken.
fn lives(op: &Operation, view: &View<'_>, sight: &Sight) -> bool {
    let woken = woken_ago_s(op, view).unwrap_or_default();
    let speaks = sight.agent_ago_s.is_some_and(|ago| ago < woken && ago <= view.settings.silent_s as f64);
    let draws = sight.outlet_w.is_some_and(|w| w > view.settings.off_w);
    speaks || draws || matches!(sight.bmc, PowerState::On | PowerState::TurningOn)
}

fn boot(op: &Operation, view: &View<'_>) -> Next {
    let last = op.here(is_power_on);
    let tries = op.tries(is_power_on);
    let Some(sight) = view.fresh(op).or_else(|| view.sight(op).filter(|_| last.is_some())) else {
        return Next::Look("looking at it first".to_owned());
    };
    // a ladder keeps its first rung, whatever the outlet says later
    let first = op.steps.iter().find_map(|s| way_of(&s.effect));
    let by_outlet = first.map_or(sight.outlet == PowerState::Off, |way| way == Way::Outlet);
    let ladder = ladder(view, by_outlet);
    if let Some(step) = last
        && let Some((at, answer)) = &step.answer
        && !matches!(answer, Answer::Withdrawn { .. })
    {
        if lives(op, view, sight) {
            return Next::Turn(Phase::Back);
        }
        let patience = ladder.get(tries.saturating_sub(1)).map_or(60, |r| r.patience_s);
        if answer.may_have_happened() && op.waited(view.now, *at) < patience as f64 {
            return Next::Look("waiting for a sign of life".to_owned());
        }
    }
    if let Some(why) = &op.cancelled {
        return match tries {
            0 => Next::End(State::Cancelled, why.clone()),
            _ => Next::Quarantine(format!("it showed no sign of life when the operation was cancelled: {why}")),
        };
    }
    match &view.stop {
        Some(why) if tries == 0 => return Next::End(State::RolledBack, format!("left off: {why}")),
        Some(why) if view.late(op) => return Next::Quarantine(format!("it showed no sign of life, and then: {why}")),
        Some(why) => return Next::Wait(format!("held: {why}")),
        None => {}
    }
    match ladder.get(tries) {
        Some(rung) => Next::Act(Effect::PowerOn { way: rung.way }, "waking it".to_owned()),
        None => Next::Quarantine(format!("it didn't wake after {tries} tries")),
    }
}

fn back(op: &Operation, view: &View<'_>) -> Next {
    let usual = view.known().map_or(300.0, |n| n.boot.seconds(BOOT_QUANTILE));
    let over = op.waited(view.now, op.since) >= usual + view.settings.boot_s as f64;
    match view.fresh(op) {
        Some(sight) if is_back(op, view, sight) => {
            Next::End(State::Done, "on: the cluster thinks it ready, and its agent streams".to_owned())
        }
        Some(sight) if over => {
            let ready = if sight.ready == Some(true) { "ready" } else { "not ready" };
            Next::Quarantine(format!(
                "it lives but didn't come back as a node: {ready}, and its agent is silent or late"
            ))
        }
        None if over && view.seen.is_none_or(|s| !is_within(view.now, s.at, 600)) => {
            Next::Quarantine("it was woken, and nothing can be asked about it".to_owned())
        }
        _ => Next::Look("waiting until it is ready and its agent streams".to_owned()),
    }
}
