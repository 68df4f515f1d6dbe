//! Brings a target into an order of steps of which every prefix is harmless: nothing goes where there is no room yet, and
//! nothing moves twice.

use super::pack::Pack;
use super::problem::{N, W};
use super::reason::{Need, Verdict};
use super::{Drained, Move, Planner, Step};

impl Planner<'_, '_> {
    /// Decides to wake and power off these nodes and to put workloads in these places, as far as there is room for each
    /// step: nodes that are emptied as a whole first if `whole`, else everyone in the order given. Returns a workload that waits for room that never comes, if there is one.
    pub(crate) fn carry_over(&mut self, woken: Vec<N>, mut off: Vec<N>, places: &[(W, N)], whole: bool) -> Option<W> {
        self.light_up(woken, places);
        let mut left: Vec<(W, N)> = places.iter().copied().filter(|(w, n)| self.pack.place[*w] != Some(*n)).collect();
        let moves = |p: &Self, n: N| left.iter().filter(|(w, _)| p.pack.place[*w] == Some(n)).count();
        let leaving: Vec<(N, usize)> = off.iter().map(|&n| (n, moves(self, n))).collect();
        if !whole {
            self.follow(&mut left);
        }
        loop {
            let before = (left.len(), off.len());
            self.place_what_fits(&mut left);
            // nodes whose workloads all fit elsewhere by now are emptied as a whole
            for n in off.clone() {
                let count = leaving.iter().find(|(m, _)| *m == n).map_or(0, |(_, count)| *count);
                if self.empty_now(n, &mut left, count) {
                    off.retain(|other| *other != n);
                }
            }
            if (left.len(), off.len()) == before && !self.move_one(&mut left, &off) {
                break;
            }
        }
        left.first().map(|(w, _)| *w)
    }

    fn light_up(&mut self, woken: Vec<N>, places: &[(W, N)]) {
        let whom = places.iter().find(|(w, n)| self.pack.place[*w].is_none() && woken.contains(n));
        let ruled_out = whom.map(|(w, _)| self.ruled_out(*w, self.pack.margins.fit)).unwrap_or_default();
        for &n in &woken {
            let count = |waits: bool| {
                let comes = places.iter().filter(|(w, to)| *to == n && self.pack.place[*w].is_none() == waits);
                u32::try_from(comes.count()).unwrap_or(u32::MAX)
            };
            let (waiting, moved) = (count(true), count(false));
            let mut locks = self.problem.policy.interlocks.iter();
            let lock = locks.find(|lock| lock.keep.is_some() && lock.nodes.matches(self.problem.nodes[n].node));
            let need = match lock {
                _ if waiting > 0 => Need::Waiting { workloads: waiting, ruled_out: ruled_out.clone() },
                _ if moved > 0 => Need::Cheaper { workloads: moved },
                Some(lock) => Need::Interlock { name: lock.name.clone() },
                None if self.problem.foreseen > 0.0 => self.foreseen(),
                None => Need::Reserve,
            };
            self.say_woken(n, need);
        }
        for &n in &woken {
            self.pack.lit[n] = true;
            self.pack.open[n] = true;
            self.steps.push(Step::Wake(n));
        }
        self.woken = woken;
    }

    /// Places what waits where there is room now.
    fn place_what_fits(&mut self, left: &mut Vec<(W, N)>) {
        left.retain(|&(w, n)| {
            let now = self.pack.place[w].is_none() && self.pack.fits(w, n, self.pack.margins.fit).is_ok();
            if now {
                self.pack.put(w, n);
                self.steps.push(Step::Place(w, n));
            }
            !now
        });
    }

    /// Places and moves in this order, as far as there is room.
    fn follow(&mut self, left: &mut Vec<(W, N)>) {
        left.retain(|&(w, to)| {
            let fits = self.pack.fits(w, to, self.pack.margins.fit).is_ok();
            match self.pack.place[w] {
                _ if !fits => {}
                None => {
                    self.pack.put(w, to);
                    self.steps.push(Step::Place(w, to));
                }
                Some(from) => {
                    let done = transfer(&mut self.pack, w, from, to);
                    self.pack.touched[w] = true;
                    self.steps.push(Step::Move(done));
                }
            }
            !fits
        });
    }

    /// Moves the first one that has room where it goes, those first that are on nodes that stay on.
    fn move_one(&mut self, left: &mut Vec<(W, N)>, off: &[N]) -> bool {
        for stays_on in [true, false] {
            for i in 0..left.len() {
                let (w, to) = left[i];
                let Some(from) = self.pack.place[w] else { continue };
                if off.contains(&from) == stays_on || self.pack.fits(w, to, self.pack.margins.drain).is_err() {
                    continue;
                }
                let done = transfer(&mut self.pack, w, from, to);
                self.pack.touched[w] = true;
                self.steps.push(Step::Move(done));
                left.remove(i);
                return true;
            }
        }
        false
    }

    /// Empties a node and powers it off if everything on it has room where it goes; `leaving` workloads leave it in all.
    fn empty_now(&mut self, n: N, left: &mut Vec<(W, N)>, leaving: usize) -> bool {
        let problem = self.problem;
        let mut pack = self.pack.clone();
        pack.open[n] = false;
        let mut moves: Vec<Move> = Vec::new();
        for &(w, to) in left.iter().filter(|(w, _)| self.pack.place[*w] == Some(n)) {
            if pack.fits(w, to, pack.margins.drain).is_err() {
                return false;
            }
            moves.push(transfer(&mut pack, w, n, to));
        }
        if pack.loads[n].on.iter().any(|&w| !problem.work[w].of_node) {
            return false;
        }
        let node = problem.nodes[n].node;
        let off_w = node.off_watts - pack.watts(n);
        pack.lit[n] = false;
        let before = std::mem::replace(&mut self.pack, pack);
        if !self.reserve_holds() {
            self.pack = before;
            return false;
        }
        for m in &moves {
            self.pack.touched[m.w] = true;
        }
        left.retain(|(w, _)| moves.iter().all(|m| m.w != *w));
        let moved = |s: &Step| match s {
            Step::Move(m) if m.from == n => Some(*m),
            _ => None,
        };
        let all: Vec<Move> = self.steps.iter().filter_map(moved).chain(moves.iter().copied()).collect();
        let cost: f64 = all.iter().map(|m| self.move_cost(m.w)).sum();
        self.verdicts[n] = Some(Verdict::PowersOff {
            moves: u32::try_from(leaving).unwrap_or(u32::MAX),
            idle_w: node.curve.saves_at_least() - node.off_watts,
            dynamic_w: all.iter().map(|m| m.watts).sum(),
            cost_j: cost + node.boot.joules(),
        });
        self.steps.push(Step::Empty(Drained { n, moves, off_w }));
        true
    }
}

/// Moves a workload on the books and says what that changes.
fn transfer(pack: &mut Pack<'_, '_>, w: W, from: N, to: N) -> Move {
    let before = pack.watts(from) + pack.watts(to);
    pack.lift(w);
    pack.put(w, to);
    Move { w, from, to, watts: pack.watts(from) + pack.watts(to) - before }
}
