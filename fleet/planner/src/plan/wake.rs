//! Places what waits, and wakes the nodes that are needed for it: those that do the most work per watt.

use std::collections::BTreeMap;

use super::bound::Market;
use super::hold::can_wake;
use super::index::Index;
use super::problem::{N, W};
use super::reason::{Hold, Need, Verdict};
use super::{Planner, Step};

/// Workloads that wait from which on the relaxation says which nodes to wake.
const FEW: usize = 50;

impl Planner<'_, '_> {
    /// Places all workloads that wait: first on nodes that are on, then on nodes that are woken for them.
    pub(crate) fn place_waiting(&mut self) {
        // what is on stays on while others are woken: for now, only what it costs to wake counts
        if self.pack.lit.contains(&true) {
            self.trade(|_, _| true);
        }
        let worth: Vec<f64> = (0..self.problem.work.len())
            .map(|w| if self.problem.work[w].home.is_none() { self.market.worth(self.problem, w) } else { 0.0 })
            .collect();
        let mut waiting: Vec<W> =
            (0..self.problem.work.len()).filter(|&w| self.problem.work[w].home.is_none()).collect();
        let first = |w: &W| -i64::from(self.problem.work[*w].work.priority);
        waiting.sort_by(|a, b| first(a).cmp(&first(b)).then(worth[*b].total_cmp(&worth[*a])).then(a.cmp(b)));
        waiting.retain(|&w| !self.problem.work[w].of_node);
        self.waiting.clone_from(&waiting);
        waiting.retain(|&w| !self.place_on_cheap(w));
        if waiting.len() > FEW {
            self.wake_by_relaxation(&waiting);
            waiting.retain(|&w| !self.place_on_cheap(w));
        }
        while !waiting.is_empty() && self.pack.effort > 0 {
            let Some(n) = self.most_work_per_watt(&waiting, &worth) else { break };
            let whom = self.ruled_out(waiting[0], self.pack.margins.fit);
            self.light(n);
            let goes = self.fill(&waiting, &worth, n);
            waiting.retain(|w| !goes.contains(w));
            self.index.update(&self.pack, n);
            let workloads = u32::try_from(goes.len()).unwrap_or(u32::MAX);
            self.say_woken(n, Need::Waiting { workloads, ruled_out: whom });
        }
        waiting.retain(|&w| !self.place_on_open(w));
        self.place_by_displacing(&waiting);
        self.choose_wakes();
        if self.woken.is_empty() && self.pack.lit.contains(&true) {
            self.trade(|holds, n| holds[n].is_some());
        }
    }

    /// Finds prices anew, with some nodes taken to stay on.
    fn trade(&mut self, held: impl Fn(&[Option<Hold>], N) -> bool) {
        self.market = Market::new(self.problem, |n| held(&self.holds, n), true);
        self.index = Index::new(&self.pack, &self.market);
    }

    /// Wakes the nodes that the relaxation has on as a whole: only with many workloads is it near the truth.
    fn wake_by_relaxation(&mut self, waiting: &[W]) {
        let whom = self.ruled_out(waiting[0], self.pack.margins.fit);
        let mut left: Vec<f64> = self.market.on.clone();
        for n in 0..self.problem.nodes.len() {
            let Some(k) = self.market.kind_of[n] else { continue };
            if self.pack.lit[n] {
                left[k] -= 1.0;
            }
        }
        for n in 0..self.problem.nodes.len() {
            let Some(k) = self.market.kind_of[n] else { continue };
            if !self.pack.lit[n] && left[k] >= 1.0 && can_wake(self.problem, n) {
                left[k] -= 1.0;
                self.light(n);
                self.say_woken(n, Need::Waiting { workloads: 0, ruled_out: whom.clone() });
            }
        }
    }

    /// Puts on a node what waits and is worth more than the watts that it adds there, the best first; returns whom.
    fn fill(&mut self, waiting: &[W], worth: &[f64], n: N) -> Vec<W> {
        let slope = self.market.kind_of[n].map_or(0.0, |k| self.market.kinds[k].slope);
        let room = &self.problem.nodes[n].room;
        let gain = |w: W| {
            let work = &self.problem.work[w];
            let share = |d: usize| work.need[d] as f64 / (room[d] as f64).max(1e-9);
            let size = (0..self.problem.dims).map(share).fold(1e-9, f64::max);
            (worth[w] - slope * work.level) / size
        };
        let mut order: Vec<(i64, f64, W)> =
            waiting.iter().map(|&w| (-i64::from(self.problem.work[w].work.priority), gain(w), w)).collect();
        order.retain(|(_, gain, _)| *gain > 0.0);
        order.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)).then(a.2.cmp(&b.2)));
        if order.is_empty() {
            order.extend(waiting.iter().map(|&w| (0, 0.0, w)));
        }
        let mut filled = Vec::new();
        for (_, _, w) in order {
            if self.pack.fits(w, n, self.pack.margins.fit).is_ok() {
                self.pack.put(w, n);
                filled.push(w);
            }
        }
        filled
    }

    /// Places what found no room at first, now that others have moved.
    pub(crate) fn place_late(&mut self) {
        for w in self.waiting.clone() {
            if self.pack.place[w].is_none()
                && self.place_on_open(w)
                && let Some(n) = self.pack.place[w]
            {
                self.steps.push(Step::Place(w, n));
            }
        }
    }

    fn place_on_open(&mut self, w: W) -> bool {
        let n = self.seek(w, self.pack.margins.fit);
        self.place_on(w, n)
    }

    fn place_on_cheap(&mut self, w: W) -> bool {
        let n = self.seek_cheap(w);
        self.place_on(w, n)
    }

    fn place_on(&mut self, w: W, n: Option<N>) -> bool {
        let Some(n) = n else { return false };
        self.pack.put(w, n);
        self.index.update(&self.pack, n);
        true
    }

    /// The node that is off and, filled with what waits, does the most per watt. Looks at one node of each kind.
    fn most_work_per_watt(&mut self, waiting: &[W], worth: &[f64]) -> Option<N> {
        let mut kinds: BTreeMap<(usize, &[u64], [u64; 3]), N> = BTreeMap::new();
        for n in 0..self.problem.nodes.len() {
            let node = &self.problem.nodes[n];
            if !self.pack.lit[n] && can_wake(self.problem, n) {
                let watts = [node.node.curve.idle(), node.node.curve.full(), node.node.boot.joules()].map(f64::to_bits);
                kinds.entry((node.class, &node.room, watts)).or_insert(n);
            }
        }
        let mut best: Option<(f64, N)> = None;
        for n in kinds.into_values() {
            self.pack.open[n] = true;
            let mut filled = self.fill(waiting, worth, n);
            let worth: f64 = filled.iter().map(|&w| worth[w].max(1e-9)).sum();
            self.pack.lit[n] = true;
            let watts = self.pack.watts(n) * (1.0 + self.problem.nodes[n].node.curve.error());
            self.pack.lit[n] = false;
            for w in filled.drain(..).rev() {
                self.pack.lift(w);
            }
            self.pack.open[n] = false;
            let score = watts / worth;
            if worth > 0.0 && best.is_none_or(|(least, _)| score < least) {
                best = Some((score, n));
            }
        }
        best.map(|(_, n)| n)
    }

    /// The cheapest node that is off and has room for the workload: woken.
    pub(crate) fn wake_for(&mut self, w: W, need: impl FnOnce() -> Need) -> Option<N> {
        let mut best: Option<(f64, N)> = None;
        for n in 0..self.problem.nodes.len() {
            if self.pack.lit[n] || !can_wake(self.problem, n) {
                continue;
            }
            self.pack.open[n] = true;
            let fits = self.pack.fits(w, n, self.pack.margins.fit).is_ok();
            self.pack.open[n] = false;
            // what a node does per watt when it is full: more will follow
            let node = self.problem.nodes[n].node;
            let score = node.curve.costs_at_most(1.0) / node.capacity.cpu_milli.max(1) as f64;
            if fits && best.is_none_or(|(least, _)| score < least) {
                best = Some((score, n));
            }
        }
        let (_, n) = best?;
        let need = need();
        self.light(n);
        self.say_woken(n, need);
        Some(n)
    }

    /// Wakes nodes until the reserve and the interlocks hold.
    pub(crate) fn keep_reserve(&mut self) {
        while !self.reserve_holds() && self.pack.effort > 0 {
            let need = if self.reserve_holds_beside(0.0) { self.foreseen() } else { Need::Reserve };
            if !self.wake_cheapest(|_| true, need) {
                break;
            }
        }
        for lock in &self.problem.policy.interlocks {
            let matching = |n: N| lock.nodes.matches(self.problem.nodes[n].node);
            let all = (0..self.problem.nodes.len()).filter(|&n| matching(n)).count();
            let wanted = lock.keep.map_or(0, |keep| (keep as usize).min(all));
            while (0..self.problem.nodes.len()).filter(|&n| matching(n) && self.pack.lit[n]).count() < wanted {
                if !self.wake_cheapest(matching, Need::Interlock { name: lock.name.clone() }) {
                    break;
                }
            }
        }
    }

    /// What is foreseen, as what a node is needed for.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an amount of CPU")]
    pub(crate) fn foreseen(&self) -> Need {
        Need::Foreseen { cpu_milli: self.problem.foreseen.round() as u64 }
    }

    fn wake_cheapest(&mut self, matching: impl Fn(N) -> bool, need: Need) -> bool {
        let idle = |n: N| self.problem.nodes[n].node.curve.costs_at_most(0.0);
        let off =
            (0..self.problem.nodes.len()).filter(|&n| !self.pack.lit[n] && can_wake(self.problem, n) && matching(n));
        let Some(n) = off.min_by(|&a, &b| idle(a).total_cmp(&idle(b))) else { return false };
        self.light(n);
        self.say_woken(n, need);
        true
    }

    fn light(&mut self, n: N) {
        self.pack.lit[n] = true;
        self.pack.open[n] = true;
        self.index.update(&self.pack, n);
        self.woken.push(n);
    }

    pub(crate) fn say_woken(&mut self, n: N, for_whom: Need) {
        let node = self.problem.nodes[n].node;
        let idle_w = node.curve.costs_at_most(0.0);
        self.verdicts[n] = Some(Verdict::PowersOn { for_whom, idle_w, boot_s: node.boot.seconds(0.95) });
    }

    /// Nodes that were woken for what waits, and whose load fits on the others after all, stay dark.
    pub(crate) fn cancel_wakes(&mut self) {
        let fits_elsewhere = |p: &Self, n: N| p.pack.loads[n].on.iter().all(|&w| p.problem.work[w].home.is_none());
        let mut order = self.woken.clone();
        order.sort_by(|&a, &b| self.pack.slack(b).total_cmp(&self.pack.slack(a)).then(a.cmp(&b)));
        for n in order {
            if !matches!(self.verdicts[n], Some(Verdict::PowersOn { for_whom: Need::Waiting { .. }, .. }))
                || !fits_elsewhere(self, n)
            {
                continue;
            }
            let before = self.pack.total_watts();
            let items = self.pack.loads[n].on.clone();
            self.pack.open[n] = false;
            self.index.update(&self.pack, n);
            let gone = items
                .iter()
                .take_while(|&&w| self.seek(w, self.pack.margins.fit).map(|to| self.shift(w, n, to)).is_some())
                .count();
            self.pack.lit[n] = false;
            if gone == items.len() && self.pack.total_watts() < before && self.reserve_holds() {
                self.woken.retain(|&other| other != n);
                self.verdicts[n] = None;
                continue;
            }
            for &w in items.iter().take(gone) {
                let at = self.pack.place[w];
                self.pack.lift(w);
                self.pack.put(w, n);
                if let Some(at) = at {
                    self.index.update(&self.pack, at);
                }
            }
            self.pack.open[n] = true;
            self.pack.lit[n] = true;
            self.index.update(&self.pack, n);
        }
    }
}
