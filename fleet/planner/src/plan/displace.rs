//! Room for a workload that may go to few nodes: somebody who may go to others gives way.

use super::pack::Load;
use super::problem::{N, W};
use super::reason::Need;
use super::{Move, Planner};
use crate::policy::{Basis, Margin};

/// Nodes of each kind on which somebody may give way.
const LOOKED_AT: usize = 6;

/// Workloads for which that is tried in a round: it takes long, and finds something for few.
pub(crate) const MOST: usize = 300;

/// The same for workloads that wait: these gain more by it.
const MOST_WAITING: usize = 2000;

/// Two moves, the first of which makes room for the second.
pub(crate) struct Displaced {
    pub(crate) moves: [Move; 2],
    /// Books of the nodes concerned, as they were before.
    pub(crate) books: Vec<(N, Load)>,
}

impl Displaced {
    /// Watts that both change the fleet's power by.
    pub(crate) fn watts(&self) -> f64 {
        self.moves.iter().map(|m| m.watts).sum()
    }
}

impl Planner<'_, '_> {
    /// Moves `w` off `from` to a node of the kinds where it is charged least, from where another workload moves first: one
    /// that may go where `w` may not. Only kinds that are flatter than `slope` are looked at. `busy` has moved already.
    pub(crate) fn displace(&mut self, w: W, from: N, z: Margin, slope: f64, busy: &[Move]) -> Option<Displaced> {
        if self.problem.policy.basis == Basis::Forecast || self.displacing == 0 {
            return None;
        }
        self.displacing -= 1;
        for k in self.market.by_cost(self.problem, w) {
            if self.market.kinds[k].slope >= slope {
                continue;
            }
            for n in self.index.roomiest(k, LOOKED_AT) {
                if self.pack.effort == 0 {
                    return None;
                }
                if n == from || !self.problem.admits(w, n) {
                    continue;
                }
                let Some(x) = self.who_gives_way(w, n, busy) else { continue };
                if let Some(done) = self.displace_by(w, from, z, n, x) {
                    return Some(done);
                }
            }
        }
        None
    }

    /// The smallest workload on a node whose going lets `w` in, and that may go where `w` may not.
    fn who_gives_way(&mut self, w: W, n: N, busy: &[Move]) -> Option<W> {
        let (problem, pack) = (self.problem, &self.pack);
        let (need, room, used) = (&problem.work[w].need, &problem.nodes[n].room, &pack.loads[n].used);
        let short: Vec<u64> = (0..problem.dims)
            .map(|d| if need[d] == 0 { 0 } else { (used[d] + need[d]).saturating_sub(room[d]) })
            .collect();
        let only = self.market.allowed(w);
        // what waits may still go anywhere, if `w` waits, too
        let free = |x: W| problem.work[x].home.is_none() && problem.work[w].home.is_none();
        let gives_way = |&x: &W| {
            let work = &problem.work[x];
            self.market.allowed(x) & !only != 0
                && work.need.iter().zip(&short).all(|(has, short)| has >= short)
                && (free(x) || work.movable && !pack.touched[x])
                && !busy.iter().any(|m| m.w == x)
                && self.budget_used_up(x).is_none()
        };
        let level = |x: W| problem.work[x].level;
        let x = pack.loads[n]
            .on
            .iter()
            .copied()
            .filter(gives_way)
            .min_by(|&a, &b| level(a).total_cmp(&level(b)).then(a.cmp(&b)));
        self.pack.effort = self.pack.effort.saturating_sub(1);
        x
    }

    fn displace_by(&mut self, w: W, from: N, z: Margin, n: N, x: W) -> Option<Displaced> {
        let to = self.seek_beside(x, n, z).filter(|&to| to != from)?;
        let books: Vec<(N, Load)> = [from, n, to].into_iter().map(|n| (n, self.pack.loads[n].clone())).collect();
        let first = self.shift(x, n, to);
        if self.pack.fits(w, n, z).is_ok() {
            let second = self.shift(w, from, n);
            return Some(Displaced { moves: [first, second], books });
        }
        self.undo(books, &[first]);
        None
    }

    /// The best node for a workload but `n`.
    fn seek_beside(&mut self, x: W, n: N, z: Margin) -> Option<N> {
        let was_open = std::mem::replace(&mut self.pack.open[n], false);
        self.index.update(&self.pack, n);
        let to = self.seek(x, z);
        self.pack.open[n] = was_open;
        self.index.update(&self.pack, n);
        to
    }

    /// Places workloads that found no room where others of those that waited give way, be it to nodes that are woken.
    pub(crate) fn place_by_displacing(&mut self, unplaced: &[W]) {
        if self.problem.policy.basis == Basis::Forecast {
            return;
        }
        let z = self.pack.margins.fit;
        for &w in unplaced.iter().take(MOST_WAITING) {
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

    /// Places a workload on a node that another leaves, which waited as well.
    fn place_instead(&mut self, w: W, n: N, z: Margin) -> bool {
        let Some(x) = self.who_gives_way(w, n, &[]).filter(|&x| self.problem.work[x].home.is_none()) else {
            return false;
        };
        let before = self.pack.loads[n].clone();
        self.pack.lift(x);
        let fits = self.pack.fits(w, n, z).is_ok();
        self.pack.put(x, n);
        self.pack.loads[n] = before;
        if !fits {
            return false;
        }
        let to = match self.seek_beside(x, n, z) {
            Some(to) => to,
            None => match self.wake_for(x, || Need::Waiting { workloads: 1, ruled_out: Vec::new() }) {
                Some(to) => to,
                None => return false,
            },
        };
        self.shift(x, n, to);
        self.pack.put(w, n);
        self.index.update(&self.pack, n);
        true
    }

    /// Takes moves back, to the last bit.
    pub(crate) fn undo(&mut self, books: Vec<(N, Load)>, moves: &[Move]) {
        for m in moves.iter().rev() {
            self.pack.lift(m.w);
            self.pack.put(m.w, m.from);
        }
        for (n, load) in books {
            self.pack.loads[n] = load;
            self.index.update(&self.pack, n);
        }
    }
}
