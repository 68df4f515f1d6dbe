//! Why, in watts and in words: for a plan, an action, a node, a workload — and for each that was left alone.
//!
//! The same plan gives the same text. All figures come from the plan's reasons; nothing is computed anew.

use ebbtide_proto::units::{Energy, Power};
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::plan::action::{Action, Do, Plan};
use crate::plan::reason::{Hold, Need, Pin, Reason, RuledOut, Verdict};
use crate::state::FleetState;
use crate::state::node::PowerState;

/// An answer: one sentence, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Explanation {
    /// The answer.
    pub headline: String,
    /// The terms and alternatives, one a line.
    pub because: Vec<String>,
    /// The same for programs, where a reason was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.headline)?;
        self.because.iter().try_for_each(|line| write!(f, "\n {line}"))
    }
}

fn watts(w: f64) -> String {
    let text = Power::from_watts(w.abs()).unwrap_or_default().to_string();
    if w < 0.0 { format!("−{text}") } else { text }
}

fn joules(j: f64) -> String {
    #[allow(clippy::cast_possible_truncation, reason = "saturates")]
    Energy::from_uj((j.max(0.0) * 1e6) as u64).to_string()
}

fn seconds(s: f64) -> String {
    if s < 120.0 { format!("{s:.0} s") } else { format!("{:.0} min", s / 60.0) }
}

/// The whole plan.
pub fn plan(plan: &Plan) -> Explanation {
    let saved = plan.before_w - plan.after_w;
    let gap = format!("bound {}, gap {:.1} %", watts(plan.bound_w), plan.gap() * 100.0);
    let change = format!("{} → {}", watts(plan.before_w), watts(plan.after_w));
    let headline = if plan.is_empty() {
        format!("nothing to do: {} ({gap})", watts(plan.before_w))
    } else if saved >= 0.0 {
        format!("saves {} ({change}, {gap})", watts(saved))
    } else {
        format!("costs {} ({change}, {gap})", watts(-saved))
    };
    let mut because: Vec<String> =
        plan.actions.iter().filter(|a| !matches!(a.what, Do::Cordon { .. })).map(step).collect();
    if let Some(s) = plan.pays_back_s().filter(|_| !plan.is_empty()) {
        because.push(format!("pays back in {} (moves and boots {})", seconds(s), joules(plan.cost_j)));
    }
    if let Some(w) = plan.weighed {
        let figures = [w.before_w, w.after_w, w.bound_w].map(watts);
        let [before, after, bound] = figures;
        because.push(format!(
            "with what euros and grams of CO2 count for in each zone: {before} → {after} (bound {bound})"
        ));
    }
    if !plan.unplaced.is_empty() {
        because.push(format!("{} workloads find no node", plan.unplaced.len()));
    }
    if plan.cut_short {
        because.push("planning stopped at its effort limit: there may be a better plan".to_owned());
    }
    Explanation { headline, because, reason: None }
}

fn step(a: &Action) -> String {
    let what = match &a.what {
        Do::PowerOn { node } => format!("power   {node} on"),
        Do::Place { workload, to } => format!("place   {workload} → {to}"),
        Do::Cordon { node } => format!("cordon  {node}"),
        Do::Move { workload, from, to } => format!("move    {workload} {from} → {to}"),
        Do::PowerOff { node } => format!("power   {node} off"),
    };
    let sign = if a.watts > 0.0 { "+" } else { "" };
    format!("{:>3}  {what}  {sign}{}", a.id, watts(a.watts))
}

/// One action of a plan; `None` if there is no such.
pub fn action(plan: &Plan, id: u32) -> Option<Explanation> {
    let a = plan.actions.iter().find(|a| a.id == id)?;
    let subject = match &a.what {
        Do::PowerOn { node } | Do::PowerOff { node } | Do::Cordon { node } => node,
        Do::Move { from, .. } => from,
        Do::Place { to, .. } => to,
    };
    let reason = node_reason(plan, subject).cloned();
    let mut because = reason.as_ref().map(|r| verdict_of(r).1).unwrap_or_default();
    if !a.needs.is_empty() {
        because.push(format!("waits for {}", list(a.needs.iter().map(ToString::to_string))));
    }
    because.push(format!("has {} from the start of the plan", seconds(a.deadline_s as f64)));
    Some(Explanation { headline: step(a).trim_start().to_owned(), because, reason })
}

/// What was decided about a node; `None` if the state doesn't know it.
pub fn node(plan: &Plan, state: &FleetState, id: &NodeId) -> Option<Explanation> {
    let known = state.nodes.get(id)?;
    let Some(reason) = node_reason(plan, id) else {
        let headline = match known.power {
            PowerState::Off => format!("{id} stays off: nothing can power it on"),
            PowerState::On => format!("{id} stays on: it was not looked at in this plan"),
            _ => format!("{id} is left alone: it is not known to be on or off"),
        };
        return Some(Explanation { headline, because: Vec::new(), reason: None });
    };
    let (what, because) = verdict_of(reason);
    Some(Explanation { headline: format!("{id} {what}"), because, reason: Some(reason.clone()) })
}

/// What was decided about a workload; `None` if the state doesn't know it.
pub fn workload(plan: &Plan, state: &FleetState, id: &WorkloadId) -> Option<Explanation> {
    let known = state.workloads.get(id)?;
    for reason in &plan.reasons {
        if matches!(reason, Reason::Workload { workload, .. } if workload == id) {
            let (what, because) = verdict_of(reason);
            return Some(Explanation { headline: format!("{id} {what}"), because, reason: Some(reason.clone()) });
        }
    }
    for a in &plan.actions {
        let (headline, subject) = match &a.what {
            Do::Move { workload, from, to } if workload == id => {
                (format!("{id} moves from {from} to {to}: {}", watts(a.watts)), from)
            }
            Do::Place { workload, to } if workload == id => (format!("{id} starts on {to}: {}", watts(a.watts)), to),
            _ => continue,
        };
        let reason = node_reason(plan, subject).cloned();
        let because = reason.as_ref().map(|r| {
            let (what, mut lines) = verdict_of(r);
            lines.insert(0, format!("{subject} {what}"));
            lines
        });
        return Some(Explanation { headline, because: because.unwrap_or_default(), reason });
    }
    let place = known.node.as_ref()?;
    let mut answer = node(plan, state, place)?;
    answer.because.insert(0, answer.headline.clone());
    answer.headline = format!("{id} stays on {place}");
    Some(answer)
}

fn node_reason<'p>(plan: &'p Plan, id: &NodeId) -> Option<&'p Reason> {
    plan.reasons.iter().find(|r| matches!(r, Reason::Node { node, .. } if node == id))
}

/// A verdict in words, such as `stays on: emptying it is not worth it`.
pub fn verdict(verdict: &Verdict) -> String {
    verdict_words(verdict).0
}

/// The answer and its terms.
fn verdict_of(reason: &Reason) -> (String, Vec<String>) {
    let (Reason::Node { verdict, .. } | Reason::Workload { verdict, .. }) = reason;
    verdict_words(verdict)
}

fn verdict_words(verdict: &Verdict) -> (String, Vec<String>) {
    match verdict {
        Verdict::PowersOff { moves: 0, idle_w, cost_j, .. } => (
            "goes off: it is empty, and no demand is pending that needs it".to_owned(),
            vec![format!("idling costs {} at least; waking it again costs {}", watts(*idle_w), joules(*cost_j))],
        ),
        Verdict::PowersOff { moves, idle_w, dynamic_w, cost_j } => (
            format!("goes off: its {moves} workloads fit elsewhere for {}", watts(*dynamic_w)),
            vec![
                format!("idling ends: −{} at least", watts(*idle_w)),
                format!("its work elsewhere instead of here: {}", watts(*dynamic_w)),
                format!("moving, disruption and a later boot: {}", joules(*cost_j)),
            ],
        ),
        Verdict::PowersOn { for_whom, idle_w, boot_s } => {
            let (why, mut because) = need(for_whom);
            because.push(format!(
                "it idles at {} and is up after {} in 95 of 100 boots",
                watts(*idle_w),
                seconds(*boot_s)
            ));
            (format!("is powered on: {why}"), because)
        }
        Verdict::Held { by } => (format!("stays as it is: {}", hold(by)), Vec::new()),
        Verdict::Pinned { workload, why } => {
            let why = match why {
                Pin::Stays => "must not be disturbed",
                Pin::JustMoved => "was moved a short while ago",
            };
            (format!("stays on: {workload} {why}"), Vec::new())
        }
        Verdict::NotWorth { saved_w, cost_j } => (
            "stays on: emptying it is not worth it".to_owned(),
            vec![format!(
                "it would save {} and cost {} in moves, disruption and a later boot",
                watts(*saved_w),
                joules(*cost_j)
            )],
        ),
        Verdict::NoRoom { workload, ruled_out: out } => {
            (format!("stays on: {workload} fits nowhere else"), ruled_out(out))
        }
        Verdict::Relieved { moves } => {
            (format!("is relieved of {moves} workloads: they don't fit it any more"), Vec::new())
        }
        Verdict::Overloaded => ("has too much on it, and nothing of it fits elsewhere".to_owned(), Vec::new()),
        Verdict::NotNeeded => ("stays off: nothing needs it".to_owned(), Vec::new()),
        Verdict::Waits { ruled_out: out } => ("waits: no node has room for it".to_owned(), ruled_out(out)),
    }
}

fn need(n: &Need) -> (String, Vec<String>) {
    match n {
        Need::Waiting { workloads, ruled_out: out } => {
            let mut because = ruled_out(out);
            if because.is_empty() {
                because.push("no other node is on".to_owned());
            }
            (format!("{workloads} workloads wait that fit no node that is on"), because)
        }
        Need::Overload { node } => (format!("{node} has too much on it"), Vec::new()),
        Need::Reserve => ("the reserve would be too small".to_owned(), Vec::new()),
        Need::Foreseen { cpu_milli } => {
            (format!("{} CPUs more are usually asked for soon", *cpu_milli as f64 / 1000.0), Vec::new())
        }
        Need::Cheaper { workloads } => {
            (format!("{workloads} workloads take fewer watts there, by enough to pay for it"), Vec::new())
        }
        Need::Interlock { name } => (format!("interlock {name} wants more nodes on"), Vec::new()),
    }
}

fn ruled_out(out: &[RuledOut]) -> Vec<String> {
    out.iter()
        .map(|r| {
            let names = list(r.such_as.iter().map(ToString::to_string));
            let more = (r.nodes as usize).saturating_sub(r.such_as.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("{}: {names}{more}", r.by)
        })
        .collect()
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn hold(h: &Hold) -> String {
    match h {
        Hold::NotSwitchable => "nothing can power it off and on".to_owned(),
        Hold::WakeUnproven => "nobody has seen it wake; prove its wake path first".to_owned(),
        Hold::NotOn => "it isn't known to be on".to_owned(),
        Hold::Cordoned => "somebody closed it".to_owned(),
        Hold::Silent { seconds: s } => format!("nothing was heard of it for {s} s"),
        Hold::MinOn { left_s } => format!("it isn't known to be on for long, {left_s} s to go"),
        Hold::Payback { left_s } => format!("it was switched a short while ago, which takes {left_s} s more to pay"),
        Hold::JustWoken { left_s } => format!("a node of its pool was powered on a short while ago, {left_s} s to go"),
        Hold::SwitchBudget => "it was switched too often in the last 24 h".to_owned(),
        Hold::Interlock { name } => format!("interlock {name}"),
        Hold::Reserve => "without it the reserve would be too small".to_owned(),
        Hold::Budget { group } => format!("group {group} can spare none of its workloads"),
        Hold::Receives => "it takes workloads in this plan".to_owned(),
    }
}
