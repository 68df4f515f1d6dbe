//! How far plans are from the best that there is, on fleets small enough to look at everything.
#![allow(clippy::unwrap_used, reason = "tests")]

use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::plan::plan;
use ebbtide_planner::policy::Policy;
use ebbtide_planner::sim::generate::{START, Shape, fleet};
use ebbtide_planner::state::FleetState;

/// A node: room for CPU and memory, watts idle, watts by thousandth of a CPU.
struct Bin {
    room: [f64; 2],
    idle: f64,
    slope: f64,
}

/// Looks for a placement below `limit` watts.
struct Search {
    bins: Vec<Bin>,
    items: Vec<[f64; 2]>,
    left: u64,
}

impl Search {
    fn new(state: &FleetState) -> Self {
        let bin = |n: &ebbtide_planner::state::node::Node| Bin {
            room: [n.capacity.cpu_milli as f64, n.capacity.memory as f64],
            idle: n.curve.idle(),
            slope: (n.curve.full() - n.curve.idle()) / n.capacity.cpu_milli as f64,
        };
        let mut bins: Vec<Bin> = state.nodes.values().map(bin).collect();
        bins.sort_by(|a, b| a.slope.total_cmp(&b.slope));
        let mut items: Vec<[f64; 2]> =
            state.workloads.values().map(|w| [w.requests.cpu_milli as f64, w.requests.memory as f64]).collect();
        items.sort_by(|a, b| b[0].total_cmp(&a[0]));
        Self { bins, items, left: 20_000_000 }
    }

    /// The least watts below `limit`, to within a thousandth; `None` if there are none.
    fn below(&mut self, mut limit: f64) -> Option<f64> {
        let mut found = None;
        for set in 1_u32..1 << self.bins.len() {
            let on: Vec<usize> = (0..self.bins.len()).filter(|i| set >> i & 1 == 1).collect();
            let idle: f64 = on.iter().map(|&i| self.bins[i].idle).sum();
            let mut rooms: Vec<[f64; 2]> = on.iter().map(|&i| self.bins[i].room).collect();
            while let Some(watts) = self.fill(&on, &mut rooms, 0, idle, limit) {
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
            return (watts < limit).then_some(watts);
        }
        let needs: [f64; 2] = std::array::from_fn(|d| rest.iter().map(|i| i[d]).sum());
        let room = |d: usize| rooms.iter().map(|r: &[f64; 2]| r[d]).sum::<f64>();
        if needs[0] > room(0) || needs[1] > room(1) {
            return None;
        }
        let (mut cpu, mut least) = (needs[0], watts);
        for (slot, &i) in on.iter().enumerate() {
            let here = cpu.min(rooms[slot][0]);
            least += here * self.bins[i].slope;
            cpu -= here;
        }
        if least >= limit {
            return None;
        }
        let item = self.items[next];
        let mut tried: Vec<[f64; 4]> = Vec::new();
        for (slot, &i) in on.iter().enumerate() {
            let slope = self.bins[i].slope;
            let same = [rooms[slot][0], rooms[slot][1], slope, self.bins[i].idle];
            if rooms[slot][0] < item[0] || rooms[slot][1] < item[1] || tried.contains(&same) {
                continue;
            }
            tried.push(same);
            rooms[slot] = [rooms[slot][0] - item[0], rooms[slot][1] - item[1]];
            let done = self.fill(on, rooms, next + 1, watts + slope * item[0], limit);
            rooms[slot] = [rooms[slot][0] + item[0], rooms[slot][1] + item[1]];
            if done.is_some() {
                return done;
            }
        }
        None
    }
}

#[test]
fn small_fleets_end_up_within_a_hundredth_of_the_best() {
    let mut worst = Vec::new();
    for seed in 0..200_u64 {
        let nodes = 2 + (seed % 8) as u32;
        let shape = Shape { nodes, workloads: 3 + (seed * 7 % 10) as u32, asked: 0.3 + 0.3 * (seed % 3) as f64 / 3.0, special: 0.0, placed: seed % 2 == 0 };
        let mut state = fleet(&shape, seed).unwrap();
        for node in state.nodes.values_mut() {
            node.boot = BootModel::guess(1.0, 0.0, 0.0);
        }
        for w in state.workloads.values_mut() {
            w.migration.joules = 0.0;
            w.requests.named.clear();
        }
        let p = plan(&state, &Policy { disruption_j: 0.0, ..Policy::default() }, START).unwrap();
        if !p.unplaced.is_empty() {
            continue;
        }
        let mut search = Search::new(&state);
        let best = search.below(p.after_w * 0.9999).unwrap_or(p.after_w);
        worst.push((p.after_w / best - 1.0, seed));
    }
    worst.sort_by(|a, b| b.0.total_cmp(&a.0));
    let over = worst.iter().filter(|w| w.0 > 0.01).count();
    assert!(over == 0, "{over} of {}: {:?}", worst.len(), &worst[..20]);
}
