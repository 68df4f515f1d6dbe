//! Open nodes by how much room they have, so that looking for a place doesn't look at every node.

use std::collections::BTreeSet;

use super::pack::Pack;
use super::problem::{CPU, N, Problem, W};
use crate::policy::{Basis, Margin};

/// Nodes that have room and are compared with each other.
const COMPARED: usize = 24;
/// Nodes that are looked at for them.
const LOOKED_AT: usize = 160;
/// Room of the nodes that are likely to be kept, as a multiple of what is needed.
const KEPT: f64 = 1.1;

/// Open nodes in the order of free room, in the resource that is scarcest over all: first those that are likely to
/// stay on, because what they have costs the fewest watts, then the others.
pub(crate) struct Index {
    dim: usize,
    forecast: bool,
    kept: Vec<bool>,
    trees: [BTreeSet<(u64, N)>; 2],
    keys: Vec<Option<u64>>,
}

impl Index {
    /// All open nodes of `pack`.
    pub(crate) fn new(pack: &Pack<'_, '_>) -> Self {
        let problem = pack.problem;
        let dim = scarcest(problem);
        let mut index = Self {
            dim,
            forecast: problem.policy.basis == Basis::Forecast,
            kept: kept(problem, dim),
            trees: [BTreeSet::new(), BTreeSet::new()],
            keys: vec![None; problem.nodes.len()],
        };
        for n in 0..problem.nodes.len() {
            index.update(pack, n);
        }
        index
    }

    /// Takes note of a change of node `n`.
    pub(crate) fn update(&mut self, pack: &Pack<'_, '_>, n: N) {
        let tree = usize::from(!self.kept[n]);
        if let Some(key) = self.keys[n].take() {
            self.trees[tree].remove(&(key, n));
        }
        if pack.open[n] {
            let key = self.room(pack, n);
            self.trees[tree].insert((key, n));
            self.keys[n] = Some(key);
        }
    }

    fn room(&self, pack: &Pack<'_, '_>, n: N) -> u64 {
        if self.forecast {
            whole(pack.fillable(n) - pack.demand(n, None, None, pack.margins.fit))
        } else {
            pack.problem.nodes[n].room[self.dim].saturating_sub(pack.loads[n].used[self.dim])
        }
    }

    /// Whether the node is likely to be kept.
    pub(crate) fn keeps(&self, n: N) -> bool {
        self.kept[n]
    }

    /// Nodes where the workload fits with margin `z`, the fullest first; not all, but enough to choose from.
    pub(crate) fn candidates(&self, pack: &mut Pack<'_, '_>, w: W, z: Margin) -> Vec<N> {
        let work = &pack.problem.work[w];
        // errors that cancel out may let a workload in where its level alone has no room
        let need = if self.forecast { whole(work.level * 0.5) } else { work.need[self.dim] };
        let mut found = Vec::new();
        for tree in &self.trees {
            for &(_, n) in tree.range((need, 0)..).take(LOOKED_AT) {
                if pack.effort == 0 || found.len() >= COMPARED {
                    break;
                }
                if pack.place[w] != Some(n) && pack.fits(w, n, z).is_ok() {
                    found.push(n);
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        found
    }
}

/// The nodes that do the most per watt, until they have room for everything, and all that can't be powered off.
fn kept(problem: &Problem<'_>, dim: usize) -> Vec<bool> {
    let need: f64 = problem.work.iter().map(|w| w.need[dim] as f64).sum();
    let per_watt = |n: N| {
        let node = &problem.nodes[n];
        node.node.curve.costs_at_most(1.0) / (node.room[dim] as f64).max(1e-9)
    };
    let mut order: Vec<N> = (0..problem.nodes.len()).filter(|&n| problem.nodes[n].lit).collect();
    order.sort_by(|&a, &b| per_watt(a).total_cmp(&per_watt(b)).then(a.cmp(&b)));
    let mut kept: Vec<bool> = problem.nodes.iter().map(|n| !n.node.switchable).collect();
    let mut room: f64 = (0..kept.len()).filter(|&n| kept[n]).map(|n| problem.nodes[n].room[dim] as f64).sum();
    for n in order {
        if room >= KEPT * need {
            break;
        }
        if !kept[n] {
            kept[n] = true;
            room += problem.nodes[n].room[dim] as f64;
        }
    }
    // with forecasts, requests say nothing of what is needed: all are alike
    if problem.policy.basis == Basis::Forecast {
        kept.fill(true);
    }
    kept
}

/// The resource of which most is in use, as a share of all there is.
fn scarcest(problem: &Problem<'_>) -> usize {
    let share = |d: usize| {
        let need: f64 = problem.work.iter().map(|w| w.need[d] as f64).sum();
        let room: f64 = problem.nodes.iter().filter(|n| n.lit).map(|n| n.room[d] as f64).sum();
        if room > 0.0 { need / room } else { 0.0 }
    };
    (0..problem.dims).max_by(|&a, &b| share(a).total_cmp(&share(b)).then(b.cmp(&a))).unwrap_or(CPU)
}

#[allow(clippy::cast_possible_truncation, reason = "thousandths of a CPU")]
fn whole(v: f64) -> u64 {
    v.max(0.0) as u64
}
