//! Which nodes to wake, for few nodes and few workloads: looks at every node more, less, or instead of another.
//!
//! With many, the relaxation knows; with few, it is whole nodes that decide.

use super::Planner;
use super::hold::can_wake;
use super::problem::{N, W};
use super::reason::Need;
use crate::policy::Basis;

/// Most nodes and workloads that wait.
const NODES: usize = 12;
const WAITING: usize = 40;

/// Where everyone who waits would be, how many find no place, and the watts of the fleet.
struct Choice {
    unplaced: usize,
    watts: f64,
    places: Vec<Option<N>>,
}

impl Planner<'_, '_> {
    /// Wakes other nodes than those that were chosen one by one, if that takes fewer watts.
    pub(crate) fn choose_wakes(&mut self) {
        let few = self.problem.nodes.len() <= NODES && self.waiting.len() <= WAITING;
        if self.woken.is_empty() || !few || self.problem.policy.basis != Basis::Requests {
            return;
        }
        let mut order = self.waiting.clone();
        order.retain(|&w| !self.problem.work[w].of_node);
        let places: Vec<Option<N>> = order.iter().map(|&w| self.pack.place[w]).collect();
        let unplaced = places.iter().filter(|p| p.is_none()).count();
        let mut best = Choice { unplaced, watts: self.pack.total_watts(), places };
        let mut set = self.woken.clone();
        for &w in &order {
            self.pack.lift(w);
        }
        let first = set.clone();
        self.switch(&first, false);
        loop {
            let off: Vec<N> =
                (0..self.problem.nodes.len()).filter(|&n| can_wake(self.problem, n) && !set.contains(&n)).collect();
            let mut next: Option<(Vec<N>, Choice)> = None;
            for less in set.iter().copied().map(Some).chain([None]) {
                for more in off.iter().copied().map(Some).chain([None]) {
                    let other: Vec<N> = set.iter().copied().filter(|&n| Some(n) != less).chain(more).collect();
                    let choice = self.try_wakes(&order, &other);
                    let least = next.as_ref().map_or(&best, |(_, c)| c);
                    if (choice.unplaced, choice.watts + 1e-6) < (least.unplaced, least.watts) {
                        next = Some((other, choice));
                    }
                }
            }
            let Some((other, choice)) = next else { break };
            (set, best) = (other, choice);
        }
        for &n in first.iter().filter(|n| !set.contains(n)) {
            self.verdicts[n] = None;
        }
        self.switch(&set, true);
        for (&w, place) in order.iter().zip(&best.places) {
            if let Some(n) = place {
                self.pack.put(w, *n);
            }
        }
        for n in 0..self.problem.nodes.len() {
            self.index.update(&self.pack, n);
        }
        for &n in set.iter().filter(|n| !first.contains(n)) {
            let workloads = u32::try_from(self.pack.loads[n].on.len()).unwrap_or(u32::MAX);
            self.say_woken(n, Need::Waiting { workloads, ruled_out: Vec::new() });
        }
        self.woken = set;
    }

    fn switch(&mut self, nodes: &[N], on: bool) {
        for &n in nodes {
            self.pack.lit[n] = on;
            self.pack.open[n] = on;
        }
    }

    /// Everyone where they add the fewest watts, with these nodes awake; leaves the books as they were.
    fn try_wakes(&mut self, order: &[W], set: &[N]) -> Choice {
        let z = self.pack.margins.fit;
        self.switch(set, true);
        let mut places = Vec::with_capacity(order.len());
        for &w in order {
            let mut best: Option<(f64, f64, N)> = None;
            for n in 0..self.problem.nodes.len() {
                if self.pack.fits(w, n, z).is_ok() {
                    let score = (self.pack.marginal(w, n), self.pack.slack(n));
                    if best.is_none_or(|(watts, slack, _)| score < (watts - 1e-9, slack)) {
                        best = Some((score.0, score.1, n));
                    }
                }
            }
            if let Some((_, _, n)) = best {
                self.pack.put(w, n);
            }
            places.push(best.map(|(_, _, n)| n));
        }
        let choice =
            Choice { unplaced: places.iter().filter(|p| p.is_none()).count(), watts: self.pack.total_watts(), places };
        for &w in order.iter().rev() {
            self.pack.lift(w);
        }
        self.switch(set, false);
        choice
    }
}
