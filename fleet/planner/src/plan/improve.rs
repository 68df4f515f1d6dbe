//! Single workloads that the same work takes fewer watts for elsewhere, by enough to pay for the move.

use super::problem::{N, W};
use super::{Planner, Step};
use crate::policy::Basis;

impl Planner<'_, '_> {
    /// Moves workloads off nodes that stay on but do their work dearly, the dearest first; off those only that are worth
    /// being on, if `first`: before others are emptied into the room that there is.
    pub(crate) fn improve(&mut self, first: bool) {
        if first && self.problem.policy.basis == Basis::Forecast {
            return;
        }
        let policy = self.problem.policy;
        let slope = |n: N| {
            let node = self.problem.nodes[n].node;
            (node.curve.full() - node.curve.idle()) / node.capacity.cpu_milli.max(1) as f64
        };
        let mut dear: Vec<(f64, N)> = (0..self.problem.nodes.len())
            .filter(|&n| self.pack.open[n] && (!first || self.index.keeps(n)))
            .map(|n| (slope(n), n))
            .collect();
        dear.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let Some(&(cheapest, _)) = dear.last() else { return };
        for (slope, n) in dear {
            let mut on: Vec<W> = self.pack.loads[n].on.clone();
            on.sort_by(|a, b| self.problem.work[*b].level.total_cmp(&self.problem.work[*a].level).then(a.cmp(b)));
            for w in on {
                let work = &self.problem.work[w];
                let most = (slope - cheapest) * work.level * policy.horizon_s as f64;
                let cost = policy.margin * self.move_cost(w);
                if most < cost || !work.movable || self.pack.touched[w] || self.budget_used_up(w).is_some() {
                    continue;
                }
                if self.moves_left == 0 || self.pack.effort == 0 {
                    return;
                }
                for to in self.cheaper(w, n, cost / policy.horizon_s.max(1) as f64) {
                    if self.improve_by(w, n, to) {
                        break;
                    }
                }
            }
        }
    }

    /// Moves a workload, and places what was waiting for its room; takes both back if that would use up the reserve. Says
    /// whether it moved.
    fn improve_by(&mut self, w: W, n: N, to: N) -> bool {
        let held = self.reserve_holds();
        let before = [(n, self.pack.loads[n].clone()), (to, self.pack.loads[to].clone())];
        let done = self.shift(w, n, to);
        let z = self.pack.margins.fit;
        let mut late = Vec::new();
        for i in 0..self.waiting.len() {
            let w = self.waiting[i];
            if self.pack.place[w].is_none() && self.pack.judge(w, n, z).is_ok() {
                self.pack.put(w, n);
                late.push(w);
            }
        }
        if held && !self.reserve_holds() {
            for w in late {
                self.pack.lift(w);
            }
            self.pack.lift(w);
            self.pack.put(w, n);
            self.restore(before);
            return false;
        }
        self.index.update(&self.pack, n);
        self.pack.touched[w] = true;
        self.moves_left -= 1;
        self.steps.push(Step::Move(done));
        self.steps.extend(late.into_iter().map(|w| Step::Place(w, n)));
        true
    }

    /// Puts what waited, and was just placed, where it takes fewer watts now that all nodes for it are chosen. Nothing
    /// was started yet, so this costs nothing.
    pub(crate) fn improve_waiting(&mut self) {
        for w in self.waiting.clone() {
            let Some(n) = self.pack.place[w] else { continue };
            if self.pack.effort == 0 {
                return;
            }
            for to in self.cheaper(w, n, 0.0) {
                let held = self.reserve_holds();
                let before = [n, to].map(|n| (n, self.pack.loads[n].clone()));
                self.shift(w, n, to);
                if !held || self.reserve_holds() {
                    break;
                }
                self.shift(w, to, n);
                self.restore(before);
            }
        }
    }

    /// Nodes where the workload takes fewer watts, by more than `least`; those first where it takes the fewest.
    fn cheaper(&mut self, w: W, n: N, least: f64) -> Vec<N> {
        let node = self.problem.nodes[n].node;
        let level = self.pack.loads[n].level;
        let here = node.watts(level) - node.watts(level - self.problem.work[w].level);
        let z = self.pack.margins.drain;
        let candidates = if self.problem.policy.basis == Basis::Forecast {
            self.index.candidates(&mut self.pack, &self.market, w, z)
        } else {
            let slope = self.market.kind_of[n].map_or(f64::INFINITY, |k| self.market.kinds[k].slope);
            self.index.flatter(&mut self.pack, &self.market, w, z, slope)
        };
        let mut costs: Vec<(f64, N)> = candidates.iter().map(|&to| (self.pack.marginal(w, to), to)).collect();
        costs.retain(|(there, _)| here - there > least);
        costs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        costs.into_iter().map(|(_, to)| to).collect()
    }
}
