//! Nodes that have outgrown what they have: as few workloads leave as will do.

use super::problem::{CPU, N, W};
use super::reason::{Need, Verdict};
use super::{Move, Planner};
use crate::policy::Basis;

/// Share of a node's room that shall be free after it was relieved: else it has to be relieved again soon.
const GOAL: f64 = 0.1;

impl Planner<'_, '_> {
    /// Relieves every node that has too much on it, the worst first.
    pub(crate) fn relieve(&mut self) {
        let mut hot: Vec<(f64, N)> = (0..self.problem.nodes.len())
            .filter(|&n| self.problem.nodes[n].open)
            .map(|n| (self.excess(n, None), n))
            .filter(|(excess, _)| *excess > 0.0)
            .collect();
        hot.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, n) in hot {
            // what is too much here shall not get more while it is being relieved
            let was_open = std::mem::replace(&mut self.pack.open[n], false);
            self.index.update(&self.pack, n);
            let moves = self.relieve_one(n);
            self.pack.open[n] = was_open;
            self.index.update(&self.pack, n);
            if self.excess(n, None) > 0.0 {
                self.hot.push(n);
            }
            self.verdicts[n] = Some(match moves {
                0 => Verdict::Overloaded,
                moves => Verdict::Relieved { moves },
            });
        }
    }

    /// By how much the node has too much, as a share of what it has, if `less` left; at most 0 if it hasn't.
    fn excess(&self, n: N, less: Option<W>) -> f64 {
        let (load, node) = (&self.pack.loads[n], &self.problem.nodes[n]);
        let forecast = self.problem.policy.basis == Basis::Forecast;
        let mut worst = f64::NEG_INFINITY;
        for d in 0..self.problem.dims {
            let gone = less.map_or(0, |w| self.problem.work[w].need[d]);
            let over = if d == CPU && forecast {
                let room = self.pack.fillable(n).max(1e-9);
                self.pack.demand(n, None, less, self.pack.margins.relieve) / room - 1.0
            } else {
                (load.used[d] as f64 - gone as f64 - node.room[d] as f64) / (node.room[d].max(1) as f64)
            };
            worst = worst.max(over);
        }
        worst
    }

    fn relieve_one(&mut self, n: N) -> u32 {
        let mut moves = 0;
        loop {
            let now = self.excess(n, None);
            if now <= 0.0 || self.moves_left == 0 || self.pack.effort == 0 {
                return moves;
            }
            // the one whose going suffices with the least fuss; else the one whose going helps most
            let mut options: Vec<(bool, f64, W)> = self.pack.loads[n]
                .on
                .iter()
                .copied()
                .filter(|&w| self.problem.work[w].movable && !self.pack.touched[w] && self.budget_used_up(w).is_none())
                .map(|w| {
                    let left = self.excess(n, Some(w));
                    let helps = now - left;
                    if left <= 0.0 { (true, self.fuss(w) + (left + GOAL).abs(), w) } else { (false, -helps, w) }
                })
                .filter(|(enough, score, _)| *enough || *score < 0.0)
                .collect();
            options.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
            let Some(done) = options.into_iter().find_map(|(_, _, w)| self.relieve_by(n, w)) else { return moves };
            self.pack.touched[done.w] = true;
            self.relief.push(done);
            self.moves_left -= 1;
            moves += 1;
        }
    }

    /// What moving the workload takes, in kilojoules: among those that will do, the one that is moved fastest.
    fn fuss(&self, w: W) -> f64 {
        self.problem.work[w].work.migration.energy_j() / 1000.0
    }

    fn relieve_by(&mut self, n: N, w: W) -> Option<Move> {
        let fit = self.pack.margins.fit;
        let to = match self.seek(w, fit).or_else(|| self.seek(w, self.pack.margins.squeeze)) {
            Some(to) => to,
            None => self.wake_for(w, || Need::Overload { node: self.problem.nodes[n].node.id.clone() })?,
        };
        Some(self.shift(w, n, to))
    }
}
