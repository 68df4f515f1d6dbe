//! How far plans are from the best that there is, on fleets small enough to look at everything: the best placement that
//! can be reached in an order in which everyone moves at most once and finds room.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::HashSet;

use ebbtide_planner::check::check;
use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::plan::action::{Do, Plan};
use ebbtide_planner::plan::plan;
use ebbtide_planner::policy::Policy;
use ebbtide_planner::sim::generate::{START, Shape, fleet};
use ebbtide_planner::state::FleetState;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_proto::NodeId;

/// A node: room for CPU and memory, watts idle, watts by thousandth of a CPU.
struct Bin {
    id: NodeId,
    room: [f64; 2],
    idle: f64,
    slope: f64,
    lit: bool,
    /// Watts that switching it counts for.
    boot: f64,
}

/// A workload: CPU and memory, where it is, watts that moving it counts for.
struct Item {
    need: [f64; 2],
    home: Option<usize>,
    cost: f64,
}

/// Looks for a placement below a limit in watts, with costs spread over the horizon.
struct Search {
    bins: Vec<Bin>,
    items: Vec<Item>,
    /// Where each workload is put.
    at: Vec<usize>,
    left: u64,
}

fn per_joule(policy: &Policy) -> f64 {
    policy.margin / policy.horizon_s as f64
}

/// What a plan leads to, with all that it costs spread over the horizon.
fn net(plan: &Plan, policy: &Policy) -> f64 {
    let moves = plan.actions.iter().filter(|a| matches!(a.what, Do::Move { .. })).count();
    plan.after_w + per_joule(policy) * (plan.cost_j + moves as f64 * policy.disruption_j)
}

impl Search {
    fn new(state: &FleetState, policy: &Policy) -> Self {
        let bin = |n: &Node| Bin {
            id: n.id.clone(),
            room: [n.capacity.cpu_milli as f64, n.capacity.memory as f64],
            idle: n.curve.idle(),
            slope: (n.curve.full() - n.curve.idle()) / n.capacity.cpu_milli as f64,
            lit: n.power == PowerState::On,
            boot: per_joule(policy) * n.boot.joules(),
        };
        let mut bins: Vec<Bin> = state.nodes.values().map(bin).collect();
        bins.sort_by(|a, b| a.slope.total_cmp(&b.slope));
        let item = |w: &ebbtide_planner::state::workload::Workload| Item {
            need: [w.requests.cpu_milli as f64, w.requests.memory as f64],
            home: w.node.as_ref().and_then(|id| bins.iter().position(|b| b.id == *id)),
            cost: per_joule(policy) * (w.migration.energy_j() + policy.disruption_j),
        };
        let mut items: Vec<Item> = state.workloads.values().map(item).collect();
        items.sort_by(|a, b| b.need[0].total_cmp(&a.need[0]));
        Self { at: vec![0; items.len()], bins, items, left: 30_000_000 }
    }

    /// The least watts below `limit`, to within a thousandth; `None` if there are none.
    fn below(&mut self, mut limit: f64) -> Option<f64> {
        let mut found = None;
        let lit = (0..self.bins.len()).fold(0_u32, |bits, i| bits | u32::from(self.bins[i].lit) << i);
        for set in 1_u32..1 << self.bins.len() {
            // all are of one pool: while one of it is woken, none goes off
            if set & !lit != 0 && lit & !set != 0 {
                continue;
            }
            let on: Vec<usize> = (0..self.bins.len()).filter(|i| set >> i & 1 == 1).collect();
            let idle: f64 = on.iter().map(|&i| self.bins[i].idle).sum();
            let switched = (0..self.bins.len()).filter(|i| (set ^ lit) >> i & 1 == 1);
            let boots: f64 = switched.map(|i| self.bins[i].boot).sum();
            let mut rooms: Vec<[f64; 2]> = on.iter().map(|&i| self.bins[i].room).collect();
            while let Some(watts) = self.fill(&on, &mut rooms, 0, idle + boots, limit) {
                found = Some(watts);
                limit = watts * 0.999;
            }
        }
        found
    }

    fn fill(&mut self, on: &[usize], rooms: &mut [[f64; 2]], next: usize, watts: f64, limit: f64) -> Option<f64> {
        self.left = self.left.checked_sub(1).expect("the search is small enough");
        let rest = &self.items[next..];
        if rest.is_empty() {
            return (watts < limit && self.is_reachable()).then_some(watts);
        }
        let needs: [f64; 2] = std::array::from_fn(|d| rest.iter().map(|i| i.need[d]).sum());
        let room = |d: usize| rooms.iter().map(|r: &[f64; 2]| r[d]).sum::<f64>();
        if needs[0] > room(0) || needs[1] > room(1) {
            return None;
        }
        // those whose node is off have to move; the others may be lucky
        let moves: f64 = rest.iter().filter(|i| i.home.is_some_and(|h| !on.contains(&h))).map(|i| i.cost).sum();
        let (mut cpu, mut least) = (needs[0], watts + moves);
        for (slot, &i) in on.iter().enumerate() {
            let here = cpu.min(rooms[slot][0]);
            least += here * self.bins[i].slope;
            cpu -= here;
        }
        if least >= limit {
            return None;
        }
        let Item { need, home, cost } = self.items[next];
        let mut tried: Vec<([f64; 4], bool)> = Vec::new();
        for (slot, &i) in on.iter().enumerate() {
            let slope = self.bins[i].slope;
            let others = self.items[next..].iter().any(|o| o.cost > 0.0 && o.home == Some(i));
            let same = ([rooms[slot][0], rooms[slot][1], slope, self.bins[i].idle], others);
            if rooms[slot][0] < need[0] || rooms[slot][1] < need[1] || !others && tried.contains(&same) {
                continue;
            }
            tried.push(same);
            self.at[next] = i;
            let moving = if home.is_some_and(|h| h != i) { cost } else { 0.0 };
            rooms[slot] = [rooms[slot][0] - need[0], rooms[slot][1] - need[1]];
            let done = self.fill(on, rooms, next + 1, watts + slope * need[0] + moving, limit);
            rooms[slot] = [rooms[slot][0] + need[0], rooms[slot][1] + need[1]];
            if done.is_some() {
                return done;
            }
        }
        None
    }
}

impl Search {
    /// Whether there is an order in which everyone gets where it shall be by one move and always finds room: all orders
    /// are tried.
    fn is_reachable(&self) -> bool {
        let mut room: Vec<[f64; 2]> = self.bins.iter().map(|b| b.room).collect();
        for (item, home) in self.items.iter().filter_map(|i| Some((i, i.home?))) {
            (0..2).for_each(|d| room[home][d] -= item.need[d]);
        }
        let left = (0..self.items.len()).filter(|&i| self.items[i].home != Some(self.at[i]));
        self.order(&mut room, left.fold(0, |bits, i| bits | 1 << i), &mut HashSet::new())
    }

    fn order(&self, room: &mut [[f64; 2]], left: u32, dead: &mut HashSet<u32>) -> bool {
        if left == 0 {
            return true;
        }
        if !dead.insert(left) {
            return false;
        }
        for i in (0..self.items.len()).filter(|i| left >> i & 1 == 1) {
            let (item, to) = (&self.items[i], self.at[i]);
            if (0..2).any(|d| room[to][d] < item.need[d]) {
                continue;
            }
            let before = room.to_vec();
            (0..2).for_each(|d| room[to][d] -= item.need[d]);
            item.home.into_iter().for_each(|h| (0..2).for_each(|d| room[h][d] += item.need[d]));
            let done = self.order(room, left & !(1 << i), dead);
            room.copy_from_slice(&before);
            if done {
                return true;
            }
        }
        false
    }
}

/// A fleet of up to nine nodes, all on with workloads scattered over them, or all off with workloads that wait.
fn small(seed: u64) -> FleetState {
    let nodes = 2 + u32::try_from(seed % 8).unwrap();
    let workloads = 3 + u32::try_from(seed * 7 % 10).unwrap();
    let asked = 0.3 + 0.1 * (seed % 3) as f64;
    let mut state =
        fleet(&Shape { nodes, workloads, asked, special: 0.0, placed: seed.is_multiple_of(2) }, seed).unwrap();
    for w in state.workloads.values_mut() {
        w.requests.named.clear();
    }
    state
}

/// Plans so many fleets and compares each with the best that there is; returns how many found all a place.
fn compare(seeds: std::ops::Range<u64>, policy: &Policy, make: impl Fn(u64) -> FleetState) -> usize {
    let mut gaps = Vec::new();
    for seed in seeds {
        let state = make(seed);
        let p = plan(&state, policy, START).unwrap();
        let wrong = check(&p, &state, policy);
        assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
        if !p.unplaced.is_empty() {
            continue;
        }
        let is = net(&p, policy);
        let best = Search::new(&state, policy).below(is * 0.9999).unwrap_or(is);
        gaps.push((is / best - 1.0, seed));
    }
    gaps.sort_by(|a, b| b.0.total_cmp(&a.0));
    let over = gaps.iter().filter(|g| g.0 > 0.01).count();
    assert!(over == 0, "{over} of {}: {:?}", gaps.len(), &gaps[..(over + 3).min(gaps.len())]);
    gaps.len()
}

#[test]
fn without_costs_small_fleets_end_up_within_a_hundredth_of_the_best() {
    let free = |seed| {
        let mut state = small(seed);
        state.nodes.values_mut().for_each(|n| n.boot = BootModel::guess(1.0, 0.0, 0.0));
        state.workloads.values_mut().for_each(|w| w.migration.joules = 0.0);
        state
    };
    assert!(compare(0..200, &Policy { disruption_j: 0.0, ..Policy::default() }, free) > 150);
}

#[test]
fn costs_of_moves_and_boots_are_weighed_as_well_as_can_be() {
    assert!(compare(200..400, &Policy::default(), small) > 150);
}

#[test]
fn fleets_of_which_a_part_is_on_and_a_part_waits_end_up_near_the_best() {
    let mixed = |seed: u64| {
        let mut state = small(2 * seed);
        let off: Vec<NodeId> = state.nodes.keys().skip(1).step_by(3).cloned().collect();
        for node in off {
            let there: Vec<_> = state.places.on(&node).cloned().collect();
            for workload in there {
                state.apply(START, Event::WorkloadBound { workload, node: None });
            }
            state.nodes.get_mut(&node).unwrap().power = PowerState::Off;
        }
        state
    };
    assert!(compare(200..400, &Policy::default(), mixed) > 100);
}
