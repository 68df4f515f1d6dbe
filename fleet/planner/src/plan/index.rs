//! Open nodes by kind and by how much room they have, so that looking for a place doesn't look at every node.

use std::collections::BTreeSet;

use super::bound::{ALMOST_NONE, Market, bits};
use super::pack::Pack;
use super::problem::{CPU, N, Problem, W};
use crate::policy::{Basis, Margin};

/// Nodes that have room and are compared with each other.
const COMPARED: usize = 24;
/// Nodes that are looked at for them.
const LOOKED_AT: usize = 160;
/// The same for one kind of node: these differ in what is free only.
const COMPARED_OF_KIND: usize = 6;
const LOOKED_AT_OF_KIND: usize = 48;

/// Open nodes in the order of free room, by kind: first those that are worth being on, then the others.
///
/// With forecasts, requests say nothing of what is needed: all nodes are of one kind, and all are worth being on.
pub(crate) struct Index {
    forecast: bool,
    kind_of: Vec<usize>,
    /// The scarcest resource of each kind.
    dims: Vec<usize>,
    kept: Vec<bool>,
    trees: Vec<[BTreeSet<(u64, N)>; 2]>,
    keys: Vec<Option<u64>>,
}

impl Index {
    /// All open nodes of `pack`.
    pub(crate) fn new(pack: &Pack<'_, '_>, market: &Market) -> Self {
        let problem = pack.problem;
        let forecast = problem.policy.basis == Basis::Forecast;
        let kinds = if forecast { 1 } else { market.kinds.len().max(1) };
        let dims: Vec<usize> = (0..kinds).map(|k| if forecast { CPU } else { market.scarcest(k) }).collect();
        let mut index = Self {
            forecast,
            kind_of: market.kind_of.iter().map(|k| if forecast { 0 } else { k.unwrap_or(0) }).collect(),
            kept: if forecast { vec![true; problem.nodes.len()] } else { kept(problem, pack, market, &dims) },
            dims,
            trees: vec![[BTreeSet::new(), BTreeSet::new()]; kinds],
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
        let key = pack.open[n].then(|| self.room(pack, n));
        if key == self.keys[n] {
            return;
        }
        let trees = &mut self.trees[self.kind_of[n]];
        if let Some(key) = self.keys[n].take() {
            trees[tree].remove(&(key, n));
        }
        if let Some(key) = key {
            trees[tree].insert((key, n));
        }
        self.keys[n] = key;
    }

    fn room(&self, pack: &Pack<'_, '_>, n: N) -> u64 {
        if self.forecast {
            return whole(pack.fillable(n) - pack.demand(n, None, None, pack.margins.fit));
        }
        let d = self.dims[self.kind_of[n]];
        pack.problem.nodes[n].room[d].saturating_sub(pack.loads[n].used[d])
    }

    /// Whether the node is worth being on.
    pub(crate) fn keeps(&self, n: N) -> bool {
        self.kept[n]
    }

    /// Nodes of a kind with the most room, those first that are worth being on.
    pub(crate) fn roomiest(&self, kind: usize, most: usize) -> Vec<N> {
        self.trees[kind].iter().flat_map(|tree| tree.iter().rev()).take(most).map(|&(_, n)| n).collect()
    }

    /// Nodes where the workload fits with margin `z`, the fullest first; not all, but enough to choose from. They are
    /// of one kind: the one that it is meant for where it is charged least, if any of that has room.
    pub(crate) fn candidates(&self, pack: &mut Pack<'_, '_>, market: &Market, w: W, z: Margin) -> Vec<N> {
        let mut found = Vec::new();
        if self.forecast {
            // errors that cancel out may let a workload in where its level alone has no room
            let need = whole(pack.problem.work[w].level * 0.5);
            look(&self.trees[0][0], pack, w, z, need, (LOOKED_AT, COMPARED), &mut found);
            return found;
        }
        let kinds = market.by_cost(pack.problem, w);
        for tree in 0..2 {
            for &k in &kinds {
                let need = pack.problem.work[w].need[self.dims[k]];
                let effort = (LOOKED_AT_OF_KIND, COMPARED_OF_KIND);
                look(&self.trees[k][tree], pack, w, z, need, effort, &mut found);
                if !found.is_empty() {
                    return found;
                }
            }
        }
        found
    }

    /// Nodes where the workload fits and takes fewer watts than `slope` per thousandth of a CPU, whatever their room
    /// is worth, the best of each kind.
    pub(crate) fn flatter(&self, pack: &mut Pack<'_, '_>, market: &Market, w: W, z: Margin, slope: f64) -> Vec<N> {
        let mut found = Vec::new();
        for k in bits(market.meant(w)).filter(|&k| market.kinds[k].slope < slope) {
            let need = pack.problem.work[w].need[self.dims[k]];
            for tree in &self.trees[k] {
                let before = found.len();
                look(tree, pack, w, z, need, (LOOKED_AT_OF_KIND, before + 1), &mut found);
            }
        }
        found
    }
}

fn look(
    tree: &BTreeSet<(u64, N)>,
    pack: &mut Pack<'_, '_>,
    w: W,
    z: Margin,
    need: u64,
    (most, enough): (usize, usize),
    found: &mut Vec<N>,
) {
    for &(_, n) in tree.range((need, 0)..).take(most) {
        if pack.effort == 0 || found.len() >= enough {
            return;
        }
        if pack.place[w] != Some(n) && pack.fits(w, n, z).is_ok() {
            found.push(n);
        }
    }
}

/// As many nodes of each kind as the relaxation has on: first those that are on, the fullest first.
fn kept(problem: &Problem<'_>, pack: &Pack<'_, '_>, market: &Market, dims: &[usize]) -> Vec<bool> {
    let mut kept = vec![false; problem.nodes.len()];
    let mut order: Vec<(usize, bool, u64, N)> = Vec::new();
    for n in 0..problem.nodes.len() {
        if let Some(k) = market.kind_of[n] {
            let d = dims[k];
            let free = problem.nodes[n].room[d].saturating_sub(pack.loads[n].used[d]);
            order.push((k, !problem.nodes[n].lit, free, n));
        }
    }
    order.sort_unstable();
    let mut left = market.on.clone();
    for (k, _, _, n) in order {
        kept[n] = left[k] > ALMOST_NONE;
        left[k] -= 1.0;
    }
    kept
}

#[allow(clippy::cast_possible_truncation, reason = "thousandths of a CPU")]
fn whole(v: f64) -> u64 {
    v.max(0.0) as u64
}
