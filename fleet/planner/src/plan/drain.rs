//! Nodes whose workloads are better off elsewhere: emptied as a whole or not at all.

use super::pack::Load;
use super::problem::{N, W};
use super::reason::{Hold, Pin, Verdict};
use super::{Drained, Move, Planner, Step};

/// Nodes for which a plan lists what ruled all others out.
const TOLD: usize = 200;

impl Planner<'_, '_> {
    /// Nodes of pools of which some are woken stay on.
    pub(crate) fn hold_pools(&mut self) {
        let pools: Vec<&str> = self.woken.iter().map(|&n| self.problem.nodes[n].node.pool.as_str()).collect();
        for n in 0..self.problem.nodes.len() {
            let pool = self.problem.nodes[n].node.pool.as_str();
            if self.holds[n].is_none() && pools.contains(&pool) {
                self.holds[n] = Some(Hold::JustWoken { left_s: self.problem.policy.sleep_after_s });
            }
            if let (Some(hold), true, None) = (&self.holds[n], self.pack.lit[n], &self.verdicts[n]) {
                self.verdicts[n] = Some(Verdict::Held { by: hold.clone() });
            }
        }
    }

    /// Empties nodes, the cheapest to empty first, until a whole round has emptied none.
    pub(crate) fn drain(&mut self) {
        loop {
            let mut order: Vec<(f64, N)> = (0..self.problem.nodes.len())
                .filter(|&n| self.holds[n].is_none() && self.pack.open[n])
                .map(|n| (self.price_of_emptying(n), n))
                .collect();
            order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            let mut emptied = false;
            for (_, n) in order {
                if self.pack.effort == 0 {
                    return;
                }
                let verdict = self.try_to_empty(n);
                emptied |= matches!(verdict, Verdict::PowersOff { .. });
                if !matches!(self.verdicts[n], Some(Verdict::Relieved { .. } | Verdict::Overloaded))
                    || matches!(verdict, Verdict::PowersOff { .. })
                {
                    self.verdicts[n] = Some(verdict);
                }
            }
            if !emptied {
                return;
            }
        }
    }

    /// Joules of moving everything away, per watt of idling.
    fn price_of_emptying(&self, n: N) -> f64 {
        let moves: f64 = self.leaving(n).map(|w| self.move_cost(w)).sum();
        let price = moves / self.problem.nodes[n].node.curve.saves_at_least().max(1e-3);
        // those that are likely to be kept come last, whatever they hold now
        if self.index.keeps(n) { price + 1e12 } else { price }
    }

    /// Workloads that have to leave before the node can go dark.
    fn leaving(&self, n: N) -> impl Iterator<Item = W> {
        self.pack.loads[n].on.iter().copied().filter(|&w| !self.problem.work[w].of_node)
    }

    fn try_to_empty(&mut self, n: N) -> Verdict {
        let node = self.problem.nodes[n].node;
        if let Some(hold) = self.company_holds(n) {
            return Verdict::Held { by: hold };
        }
        let mut leaving: Vec<W> = self.leaving(n).collect();
        if leaving.len() > self.moves_left {
            return Verdict::Held { by: Hold::Receives };
        }
        for &w in &leaving {
            let work = &self.problem.work[w];
            if self.pack.touched[w] {
                return Verdict::Held { by: Hold::Receives };
            }
            if !work.movable {
                let why = if work.work.stays { Pin::Stays } else { Pin::JustMoved };
                return Verdict::Pinned { workload: work.work.id.clone(), why };
            }
            if let Some(group) = self.budget_used_up(w) {
                return Verdict::Held { by: Hold::Budget { group } };
            }
        }
        let saves = node.curve.saves_at_least() - node.off_watts;
        let moving: f64 = leaving.iter().map(|&w| self.move_cost(w)).sum();
        let cost_j = moving + node.boot.joules();
        let policy = self.problem.policy;
        let pays = |saved_w: f64| saved_w * policy.horizon_s as f64 >= policy.margin * cost_j && saved_w > 0.0;
        // moving its load elsewhere may save more than idling, but not more than all it draws
        if !pays(self.pack.watts(n) - node.off_watts) {
            return Verdict::NotWorth { saved_w: saves, cost_j };
        }
        let level = |w: &W| self.problem.work[*w].level;
        leaving.sort_by(|a, b| level(b).total_cmp(&level(a)).then(a.cmp(b)));

        let before = self.snapshot(n);
        self.pack.open[n] = false;
        self.index.update(&self.pack, n);
        let mut books: Vec<(N, Load)> = Vec::new();
        let mut moves: Vec<Move> = Vec::new();
        let z = self.pack.margins.drain;
        for &w in &leaving {
            let Some(to) = self.seek(w, z) else {
                self.roll_back(n, &before, books, &moves);
                // what ruled the others out is told for some: looking at all nodes for all nodes takes too long
                let ruled_out = if self.told < TOLD { self.ruled_out(w, z) } else { Vec::new() };
                self.told += 1;
                return Verdict::NoRoom { workload: self.problem.work[w].work.id.clone(), ruled_out };
            };
            if books.iter().all(|(known, _)| *known != to) {
                books.push((to, self.pack.loads[to].clone()));
            }
            moves.push(self.shift(w, n, to));
        }
        // what the node had room for is gone, and its load is with the others now
        if !self.reserve_holds() {
            self.roll_back(n, &before, books, &moves);
            return Verdict::Held { by: Hold::Reserve };
        }
        // emptied, the node is just what a workload that waits has been lacking
        if self.is_wanted(n) {
            self.roll_back(n, &before, books, &moves);
            return Verdict::Held { by: Hold::Receives };
        }
        let dynamic_w: f64 = moves.iter().map(|m| m.watts).sum();
        if !pays(saves - dynamic_w) {
            self.roll_back(n, &before, books, &moves);
            return Verdict::NotWorth { saved_w: saves - dynamic_w, cost_j };
        }
        let off_w = node.off_watts - self.pack.watts(n);
        self.pack.lit[n] = false;
        self.moves_left -= moves.len();
        for m in &moves {
            self.pack.touched[m.w] = true;
        }
        let count = u32::try_from(moves.len()).unwrap_or(u32::MAX);
        self.steps.push(Step::Empty(Drained { n, moves, off_w }));
        Verdict::PowersOff { moves: count, idle_w: saves, dynamic_w, cost_j }
    }

    /// Whether the node, empty as it is now, is just what a workload needs that found no place, or one that would have
    /// to leave an overloaded node.
    fn is_wanted(&mut self, n: N) -> bool {
        let z = self.pack.margins.fit;
        self.pack.open[n] = true;
        let fits = |p: &Self, w: W| p.pack.judge(w, n, z).is_ok();
        let waits = self.waiting.iter().any(|&w| self.pack.place[w].is_none() && fits(self, w));
        let leaves = |p: &Self, w: W| {
            p.problem.work[w].movable && !p.pack.touched[w] && p.budget_used_up(w).is_none() && fits(p, w)
        };
        let hot = self.hot.iter().any(|&h| self.pack.loads[h].on.iter().any(|&w| leaves(self, w)));
        self.pack.open[n] = false;
        waits || hot
    }

    fn snapshot(&self, n: N) -> Load {
        self.pack.loads[n].clone()
    }

    /// Takes an attempt back, to the last bit.
    fn roll_back(&mut self, n: N, before: &Load, books: Vec<(N, Load)>, moves: &[Move]) {
        for m in moves.iter().rev() {
            self.pack.lift(m.w);
            self.pack.put(m.w, n);
        }
        self.pack.open[n] = true;
        self.restore(books);
        self.restore([(n, before.clone())]);
    }

    /// Interlocks that want a number of nodes on.
    fn company_holds(&self, n: N) -> Option<Hold> {
        let node = self.problem.nodes[n].node;
        let locks = self.problem.policy.interlocks.iter().filter(|lock| lock.nodes.matches(node));
        for lock in locks {
            let on = (0..self.problem.nodes.len())
                .filter(|&m| self.pack.open[m] && lock.nodes.matches(self.problem.nodes[m].node))
                .count();
            if lock.keep.is_some_and(|keep| on <= keep as usize) {
                return Some(Hold::Interlock { name: lock.name.clone() });
            }
        }
        None
    }

    /// The workload's group, if so many of it are away already that none may leave.
    pub(crate) fn budget_used_up(&self, w: W) -> Option<String> {
        let group = self.problem.work[w].work.group.as_ref()?;
        let away = self.problem.away.get(group.as_str()).copied().unwrap_or(0);
        let allowed = self.problem.state.budgets.get(group).copied().unwrap_or(1);
        (away >= allowed).then(|| group.clone())
    }
}
