//! Room for a workload that waits and may go to few nodes: another that waited, and may go to others, gives way.

use super::Planner;
use super::problem::{N, W};
use super::reason::Need;
use crate::policy::{Basis, Margin};

/// Nodes of each kind on which somebody may give way.
const LOOKED_AT: usize = 6;
/// Workloads for which somebody is looked for.
const MOST: usize = 2000;

impl Planner<'_, '_> {
    /// Places workloads that found no room where others of those that waited give way, be it to nodes that are woken.
    pub(crate) fn place_by_displacing(&mut self, unplaced: &[W]) {
        if self.problem.policy.basis == Basis::Forecast {
            return;
        }
        let z = self.pack.margins.fit;
        for &w in unplaced.iter().take(MOST) {
            let kinds = self.market.by_cost(self.problem, w);
            let nodes: Vec<N> = kinds.into_iter().flat_map(|k| self.index.roomiest(k, LOOKED_AT)).collect();
            for n in nodes {
                if self.pack.effort == 0 {
                    return;
                }
                if self.problem.admits(w, n) && self.place_instead(w, n, z) {
                    break;
                }
            }
        }
    }

    /// Places a workload on a node that another leaves.
    fn place_instead(&mut self, w: W, n: N, z: Margin) -> bool {
        let Some(x) = self.who_gives_way(w, n) else { return false };
        let before = [(n, self.pack.loads[n].clone())];
        self.pack.lift(x);
        let to = if self.pack.fits(w, n, z).is_ok() { self.place_beside(x, n, z) } else { None };
        let Some(to) = to else {
            self.pack.put(x, n);
            self.restore(before);
            return false;
        };
        for (w, n) in [(x, to), (w, n)] {
            self.pack.put(w, n);
            self.index.update(&self.pack, n);
        }
        true
    }

    /// Where a workload can be but on `n`; a node is woken if it must.
    fn place_beside(&mut self, x: W, n: N, z: Margin) -> Option<N> {
        let was_open = std::mem::replace(&mut self.pack.open[n], false);
        self.index.update(&self.pack, n);
        let to = self.seek(x, z);
        self.pack.open[n] = was_open;
        self.index.update(&self.pack, n);
        to.or_else(|| self.wake_for(x, || Need::Waiting { workloads: 1, ruled_out: Vec::new() }))
    }

    /// The smallest workload on a node that waited, whose going lets `w` in, and that may go where `w` may not.
    fn who_gives_way(&mut self, w: W, n: N) -> Option<W> {
        self.pack.effort = self.pack.effort.saturating_sub(1);
        let (problem, load) = (self.problem, &self.pack.loads[n]);
        let (need, room) = (&problem.work[w].need, &problem.nodes[n].room);
        let lacks = |d: usize| if need[d] == 0 { 0 } else { (load.used[d] + need[d]).saturating_sub(room[d]) };
        let lacks: Vec<u64> = (0..problem.dims).map(lacks).collect();
        let only = self.market.allowed(w);
        let gives_way = |&x: &W| {
            let work = &problem.work[x];
            work.home.is_none()
                && self.market.allowed(x) & !only != 0
                && work.need.iter().zip(&lacks).all(|(has, lacks)| has >= lacks)
        };
        let level = |x: W| problem.work[x].level;
        load.on.iter().copied().filter(gives_way).min_by(|&a, &b| level(a).total_cmp(&level(b)).then(a.cmp(&b)))
    }
}
