//! What the extender knows of nodes, and what it concludes. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::plan::action::{Do, Plan};
use ebbtide_planner::state::FleetState;
use ebbtide_planner::state::node::PowerState;
use ebbtide_planner::state::resources::Resources;
use ebbtide_proto::NodeId;

use super::account::Account;
use super::wire::HostPriority;

/// The best score: `MaxExtenderPriority`.
const BEST: i64 = 10;
/// A view that is older, in milliseconds, says nothing.
const STALE_MS: u64 = 120_000;

/// One node.
#[derive(Clone, Debug)]
struct NodeView {
    curve: PowerCurve,
    cpu_milli: u64,
    /// Thousandths of a CPU that are expected to be used.
    used_milli: f64,
    /// Whether it could be powered off if nothing came to it, so that its idle watts are to be had.
    spare: bool,
    off_watts: f64,
    /// What of it is left, if an external actor has withdrawn a part.
    left: Option<Resources>,
    /// Whether it is about to be powered off.
    leaves: bool,
}

/// What a pod asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// What is set aside for it.
    pub requests: Resources,
    /// Its group, by which a plan knows it.
    pub group: Option<String>,
    /// Whether it belongs to its node and goes there anyway.
    pub per_node: bool,
}

/// Whether a node takes a pod, as far as is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does, or nothing is known.
    Fits,
    /// It has no room.
    Full(String),
    /// It is about to go.
    Leaves(String),
}

/// What is known at a moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    nodes: BTreeMap<String, NodeView>,
    /// By group, the nodes that a plan means its pods to come to.
    targets: BTreeMap<String, BTreeSet<String>>,
    made_ms: Option<u64>,
}

impl View {
    /// What a state and the plan that is being carried out say. `withdrawn` are nodes of which an external actor has
    /// taken a part, which Kubernetes doesn't know of. `mono_ms` is now.
    pub fn of(state: &FleetState, plan: Option<&Plan>, withdrawn: &BTreeSet<NodeId>, mono_ms: u64) -> Self {
        let used = state.expected_use();
        let mut nodes: BTreeMap<String, NodeView> = BTreeMap::new();
        for (id, node) in &state.nodes {
            let movable = state.places.on(id).filter_map(|w| state.workloads.get(w)).any(|w| !w.per_node);
            let left = withdrawn.contains(id).then(|| node.allocatable().saturating_sub(state.places.used(id)));
            let view = NodeView {
                curve: node.curve,
                cpu_milli: node.capacity.cpu_milli,
                used_milli: used.get(id).copied().unwrap_or(0.0) + node.reserved_use_milli as f64,
                spare: !movable && node.switchable && node.wake_proven,
                off_watts: node.off_watts,
                left,
                leaves: matches!(node.power, PowerState::TurningOff | PowerState::Off),
            };
            nodes.insert(id.to_string(), view);
        }
        let mut targets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for action in plan.iter().flat_map(|p| &p.actions) {
            match &action.what {
                Do::PowerOff { node } | Do::Cordon { node } => {
                    if let Some(view) = nodes.get_mut(node.as_str()) {
                        view.leaves = true;
                    }
                }
                Do::Move { workload, to, .. } | Do::Place { workload, to } => {
                    if let Some(group) = state.workloads.get(workload).and_then(|w| w.group.clone()) {
                        targets.entry(group).or_default().insert(to.to_string());
                    }
                }
                Do::PowerOn { .. } => {}
            }
        }
        Self { nodes, targets, made_ms: Some(mono_ms) }
    }

    /// When it was made, in milliseconds of the monotonic clock, if it was.
    pub fn made_ms(&self) -> Option<u64> {
        self.made_ms
    }

    /// Whether it is too old, or was never made.
    pub fn is_stale(&self, mono_ms: u64) -> bool {
        self.made_ms.is_none_or(|made| mono_ms.saturating_sub(made) > STALE_MS)
    }

    /// Which of the nodes take the pod.
    pub fn verdicts(&self, account: &Account, asked: &Asked, names: &[String], mono_ms: u64) -> Vec<Verdict> {
        let stale = self.is_stale(mono_ms);
        let left = |name: &str, left: &Resources| match account.of(name) {
            Some(directed) => left.saturating_sub(directed),
            None => left.clone(),
        };
        let verdict = |name: &String| match self.nodes.get(name) {
            // what belongs to a node comes and goes with it
            _ if stale || asked.per_node => Verdict::Fits,
            None => Verdict::Fits,
            Some(node) if node.leaves => Verdict::Leaves("it is about to be powered off".to_owned()),
            Some(node) => match node.left.as_ref().and_then(|l| asked.requests.lacks(&left(name, l))) {
                Some(what) => Verdict::Full(format!("an external actor has taken its {what}")),
                None => Verdict::Fits,
            },
        };
        names.iter().map(verdict).collect()
    }

    /// Watts that the pod adds to the fleet's if it goes to `node`, where others were directed already.
    fn costs(node: &NodeView, directed: Option<&Resources>, milli: f64) -> f64 {
        if node.cpu_milli == 0 {
            return f64::INFINITY;
        }
        let used = node.used_milli + directed.map_or(0.0, |d| d.cpu_milli as f64);
        let load = |milli: f64| milli / node.cpu_milli as f64;
        let after = node.curve.costs_at_most(load(used + milli));
        // of a node that would otherwise be powered off, all of its watts are on account of the pod
        let spare = node.spare && directed.is_none();
        let before = if spare { node.off_watts } else { node.curve.costs_at_most(load(used)) };
        (after - before).max(0.0)
    }

    /// Scores from 0 to 10: 10 for a plan's target, up to 9 for the others by their watts. All the same where nothing is
    /// known; a node that isn't known is never the best among others that are.
    pub fn scores(&self, account: &Account, asked: &Asked, names: &[String], mono_ms: u64) -> Vec<HostPriority> {
        let same = || names.iter().map(|name| HostPriority { host: name.clone(), score: 0 }).collect();
        if self.is_stale(mono_ms) || asked.per_node {
            return same();
        }
        // a pod that asks for nothing uses something
        let milli = (asked.requests.cpu_milli as f64).max(10.0);
        let cost = |n: &String| self.nodes.get(n).map(|node| Self::costs(node, account.of(n), milli));
        let costs: Vec<Option<f64>> = names.iter().map(cost).collect();
        let known = || costs.iter().flatten().copied().filter(|c| c.is_finite());
        let (least, most) = known().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), c| (a.min(c), b.max(c)));
        if least > most {
            return same();
        }
        let targets = asked.group.as_ref().and_then(|g| self.targets.get(g));
        let score = |(name, cost): (&String, &Option<f64>)| {
            let leaves = self.nodes.get(name).is_some_and(|n| n.leaves);
            let score = match cost {
                _ if leaves => 0,
                Some(_) if targets.is_some_and(|t| t.contains(name)) => BEST,
                Some(cost) if cost.is_finite() && most > least => tenth((most - cost) / (most - least)),
                Some(cost) if cost.is_finite() => BEST - 1,
                _ => 0,
            };
            HostPriority { host: name.clone(), score }
        };
        names.iter().zip(&costs).map(score).collect()
    }
}

/// A share of one as a score, below the best.
#[allow(clippy::cast_possible_truncation, reason = "0 to 9")]
fn tenth(share: f64) -> i64 {
    (share * (BEST - 1) as f64).round() as i64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use ebbtide_planner::state::Time;
    use ebbtide_planner::state::event::Event;
    use ebbtide_planner::state::node::Node;
    use ebbtide_planner::state::workload::Workload;

    fn fleet() -> FleetState {
        let mut state = FleetState::new();
        let mut apply = |e| assert!(state.apply(Time::from_secs(1), e));
        for (name, idle, full) in [("busy", 80.0, 160.0), ("thrifty", 20.0, 60.0), ("empty", 20.0, 60.0)] {
            let curve = PowerCurve::line(idle, full);
            let node = Node::new(NodeId::new(name).unwrap(), Resources::new(8000, 1 << 34), curve);
            apply(Event::NodeSeen(Box::new(node)));
        }
        for (id, node) in [("pod/a", "busy"), ("pod/b", "thrifty")] {
            let mut w = Workload::new(id.parse().unwrap(), Resources::new(1000, 1 << 20));
            w.node = Some(NodeId::new(node).unwrap());
            w.group = Some("shop/Deployment/web".to_owned());
            apply(Event::WorkloadSeen(Box::new(w)));
        }
        state
    }

    fn asked() -> Asked {
        Asked { requests: Resources::new(1000, 0), group: Some("shop/Deployment/web".to_owned()), per_node: false }
    }

    fn names() -> Vec<String> {
        ["busy", "thrifty", "empty", "unknown"].map(str::to_owned).to_vec()
    }

    #[test]
    fn the_least_watts_win_and_an_empty_node_counts_as_a_whole() {
        let view = View::of(&fleet(), None, &BTreeSet::new(), 1000);
        let scores = |v: &View, ms| {
            v.scores(&Account::default(), &asked(), &names(), ms).iter().map(|s| s.score).collect::<Vec<_>>()
        };
        // 10 W, 5 W, and 25 W as its 20 W idle could be saved
        assert_eq!(scores(&view, 1000), [7, 9, 0, 0]);
        assert_eq!(scores(&view, 1000 + STALE_MS + 1), [0; 4]);
        assert_eq!(scores(&View::default(), 0), [0; 4]);
    }

    #[test]
    fn what_was_directed_a_moment_ago_counts() {
        let mut state = fleet();
        let id = NodeId::new("thrifty").unwrap();
        let taken = Event::NodeReserved { node: id.clone(), reserved: Resources::new(5500, 0), used_milli: 0 };
        assert!(state.apply(Time::from_secs(2), taken));
        let view = View::of(&state, None, &[id].into(), 1000);
        let mut account = Account::default();
        let of = |account: &Account| {
            let score = view.scores(account, &asked(), &names(), 1000)[2].score;
            (score, view.verdicts(account, &asked(), &names(), 1000)[1] == Verdict::Fits)
        };
        assert_eq!(of(&account), (0, true));
        // one more, and the empty node is empty no longer; half a core is left on the thrifty one
        account.direct("p", "empty", &Resources::new(1000, 0), 1000);
        account.direct("q", "thrifty", &Resources::new(1000, 0), 1000);
        assert_eq!(of(&account), (BEST - 1, false));
    }

    #[test]
    fn what_leaves_and_what_is_taken_is_filtered_and_a_plan_is_followed() {
        let mut state = fleet();
        let id = |n: &str| NodeId::new(n).unwrap();
        let taken = Event::NodeReserved { node: id("thrifty"), reserved: Resources::new(6500, 0), used_milli: 6000 };
        assert!(state.apply(Time::from_secs(2), taken));
        let policy = ebbtide_planner::policy::Policy::default();
        let mut plan = ebbtide_planner::plan::plan(
            &{
                let mut synced = state.clone();
                synced.apply(Time::from_secs(2), Event::Synced);
                synced
            },
            &policy,
            Time::from_secs(2),
        )
        .unwrap();
        let action = |at, what| ebbtide_planner::plan::action::Action {
            id: at,
            what,
            needs: Vec::new(),
            deadline_s: 60,
            watts: 0.0,
            undo: ebbtide_planner::plan::action::Undo::Nothing,
        };
        plan.actions = vec![
            action(1, Do::Cordon { node: id("busy") }),
            action(2, Do::Move { workload: "pod/a".parse().unwrap(), from: id("busy"), to: id("empty") }),
        ];
        let view = View::of(&state, Some(&plan), &[id("thrifty")].into(), 1000);
        let verdicts = view.verdicts(&Account::default(), &asked(), &names(), 1000);
        assert!(matches!(verdicts[0], Verdict::Leaves(_)) && matches!(verdicts[1], Verdict::Full(_)), "{verdicts:?}");
        assert_eq!(verdicts[2..], [Verdict::Fits, Verdict::Fits]);
        let scores = view.scores(&Account::default(), &asked(), &names(), 1000);
        assert_eq!((scores[0].score, scores[2].score), (0, BEST));
        let daemon = Asked { per_node: true, ..asked() };
        assert!(view.verdicts(&Account::default(), &daemon, &names(), 1000).iter().all(|v| *v == Verdict::Fits));
    }
}
