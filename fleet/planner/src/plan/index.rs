//! Open nodes by how much room they have, so that looking for a place doesn't look at every node.

use std::collections::BTreeSet;

use super::pack::Pack;
use super::problem::{CPU, N, Problem, W};
use crate::policy::Basis;

/// Nodes that have room and are compared with each other.
const COMPARED: usize = 32;
/// Nodes that are looked at for them.
const LOOKED_AT: usize = 512;

/// Open nodes in the order of free room, in the resource that is scarcest over all.
pub(crate) struct Index {
    dim: usize,
    forecast: bool,
    tree: BTreeSet<(u64, N)>,
    keys: Vec<Option<u64>>,
}

impl Index {
    /// All open nodes of `pack`.
    pub(crate) fn new(pack: &Pack<'_, '_>) -> Self {
        let problem = pack.problem;
        let mut index = Self {
            dim: scarcest(problem),
            forecast: problem.policy.basis == Basis::Forecast,
            tree: BTreeSet::new(),
            keys: vec![None; problem.nodes.len()],
        };
        for n in 0..problem.nodes.len() {
            index.update(pack, n);
        }
        index
    }

    /// Takes note of a change of node `n`.
    pub(crate) fn update(&mut self, pack: &Pack<'_, '_>, n: N) {
        if let Some(key) = self.keys[n].take() {
            self.tree.remove(&(key, n));
        }
        if pack.open[n] {
            let key = self.room(pack, n);
            self.tree.insert((key, n));
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

    /// Nodes where the workload fits with margin `z`, the fullest first; not all, but enough to choose from.
    pub(crate) fn candidates(&self, pack: &mut Pack<'_, '_>, w: W, z: f64) -> Vec<N> {
        let work = &pack.problem.work[w];
        // errors that cancel out may let a workload in where its level alone has no room
        let need = if self.forecast { whole(work.level * 0.5) } else { work.need[self.dim] };
        let mut found = Vec::new();
        for &(_, n) in self.tree.range((need, 0)..).take(LOOKED_AT) {
            if pack.effort == 0 || found.len() >= COMPARED {
                break;
            }
            if pack.place[w] != Some(n) && pack.fits(w, n, z).is_ok() {
                found.push(n);
            }
        }
        found
    }
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
