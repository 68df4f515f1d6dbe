//! Who is where, and who fits where: the books that planning works on.
//!
//! Every change is noted, so that an attempt that doesn't lead anywhere is taken back exactly.

use super::problem::{CPU, N, Problem, W};
use crate::model::demand::ERRORS;
use crate::policy::{Basis, Margin, Margins};

/// Why a workload can't be on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misfit {
    /// Closed: off, cordoned, silent, or being emptied.
    Closed,
    /// Labels or taints forbid it.
    Admission,
    /// Too little of the resource with this index.
    Room(usize),
    /// Forecasts with their margin don't fit.
    Forecast,
    /// Too many of its group on the node or in the zone.
    Spread,
    /// A group that it avoids is there, or one there avoids it.
    Avoid,
}

/// One node's books.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Who is there.
    pub(crate) on: Vec<W>,
    /// Sum of needs, by resource.
    pub(crate) used: Vec<u64>,
    /// Sum of levels in thousandths of a CPU: what power goes by.
    pub(crate) level: f64,
    /// Sum of the latest samples.
    latest: f64,
    /// Sums of forecast errors at the same moments, the latest last.
    errors: [f32; ERRORS],
    recent: [f32; ERRORS],
    /// Joules of moving everything off again.
    anchor: f64,
    /// Sum of assumed variances.
    doubt: f64,
    /// Most samples that any of the errors has.
    known: u32,
}

/// The state of packing.
#[derive(Clone)]
pub(crate) struct Pack<'p, 'a> {
    pub(crate) problem: &'p Problem<'a>,
    pub(crate) margins: Margins,
    pub(crate) loads: Vec<Load>,
    /// Where everyone is now.
    pub(crate) place: Vec<Option<N>>,
    /// Nodes that take workloads.
    pub(crate) open: Vec<bool>,
    /// Nodes that draw power.
    pub(crate) lit: Vec<bool>,
    /// Workloads that were moved or placed already: each at most once in a plan, so that every prefix of it holds.
    pub(crate) touched: Vec<bool>,
    /// Fits that may still be looked at.
    pub(crate) effort: u64,
    /// Members of each group by zone, for groups with rules.
    by_zone: Vec<Vec<u32>>,
    forecast: bool,
}

impl<'p, 'a> Pack<'p, 'a> {
    /// Everyone at home.
    pub(crate) fn new(problem: &'p Problem<'a>) -> Self {
        let empty = Load {
            on: Vec::new(),
            used: vec![0; problem.dims],
            level: 0.0,
            latest: 0.0,
            errors: [0.0; ERRORS],
            recent: [0.0; ERRORS],
            anchor: 0.0,
            doubt: 0.0,
            known: 0,
        };
        let mut pack = Self {
            problem,
            margins: problem.policy.risk.margins(),
            loads: vec![empty; problem.nodes.len()],
            place: vec![None; problem.work.len()],
            open: problem.nodes.iter().map(|n| n.open).collect(),
            lit: problem.nodes.iter().map(|n| n.lit).collect(),
            touched: vec![false; problem.work.len()],
            effort: problem.policy.effort,
            by_zone: vec![vec![0; problem.zones]; problem.groups.len()],
            forecast: problem.policy.basis == Basis::Forecast,
        };
        for (w, work) in problem.work.iter().enumerate() {
            if let Some(n) = work.home {
                pack.put(w, n);
            }
        }
        pack
    }

    /// Puts a workload that is nowhere on a node, whether it fits or not.
    pub(crate) fn put(&mut self, w: W, n: N) {
        self.book(w, n, true);
        self.loads[n].on.push(w);
        self.place[w] = Some(n);
    }

    /// Takes a workload off the node that it is on.
    pub(crate) fn lift(&mut self, w: W) {
        if let Some(n) = self.place[w].take() {
            self.book(w, n, false);
            if let Some(i) = self.loads[n].on.iter().position(|&other| other == w) {
                self.loads[n].on.remove(i);
            }
        }
    }

    fn book(&mut self, w: W, n: N, add: bool) {
        let work = &self.problem.work[w];
        let load = &mut self.loads[n];
        for (used, need) in load.used.iter_mut().zip(work.need.iter()) {
            *used = if add { used.saturating_add(*need) } else { used.saturating_sub(*need) };
        }
        let sign: f32 = if add { 1.0 } else { -1.0 };
        let wide = f64::from(sign);
        load.level += wide * work.level;
        load.anchor += wide * work.move_j;
        load.doubt += wide * work.doubt;
        match &work.forecast {
            Some(f) => {
                load.latest += wide * f64::from(f.latest);
                for (sum, e) in load.errors.iter_mut().zip(&f.errors) {
                    *sum += sign * e;
                }
                for (sum, e) in load.recent.iter_mut().zip(&f.recent) {
                    *sum += sign * e;
                }
                load.known = load.known.max(f.known);
            }
            None => load.latest += wide * work.level,
        }
        if let Some(g) = work.group {
            let count = &mut self.by_zone[g][self.problem.nodes[n].zone];
            *count = if add { *count + 1 } else { count.saturating_sub(1) };
        }
        if load.on.is_empty() && add {
            return;
        }
        if !add && load.on.len() <= 1 {
            // the last one leaves: no rounding errors stay behind
            load.level = 0.0;
            load.latest = 0.0;
            load.anchor = 0.0;
            load.doubt = 0.0;
            load.errors = [0.0; ERRORS];
            load.recent = [0.0; ERRORS];
            load.known = 0;
        }
    }

    /// Thousandths of a CPU that the node may need by forecast, with a margin of `z` standard deviations, and no
    /// less than it would have needed lately, if `extra` came or `less` left.
    pub(crate) fn demand(&self, n: N, extra: Option<W>, less: Option<W>, margin: Margin) -> f64 {
        let Margin { z, peaks } = margin;
        let load = &self.loads[n];
        let (mut level, mut latest, mut doubt, mut known) = (load.level, load.latest, load.doubt, load.known);
        let mut errors = load.errors;
        let mut recent = load.recent;
        for (w, sign) in extra.map(|w| (w, 1.0)).into_iter().chain(less.map(|w| (w, -1.0))) {
            let work = &self.problem.work[w];
            let wide = f64::from(sign);
            level += wide * work.level;
            doubt += wide * work.doubt;
            match &work.forecast {
                Some(f) => {
                    latest += wide * f64::from(f.latest);
                    for (sum, e) in errors.iter_mut().zip(&f.errors) {
                        *sum += sign * e;
                    }
                    for (sum, e) in recent.iter_mut().zip(&f.recent) {
                        *sum += sign * e;
                    }
                    known = known.max(f.known);
                }
                None => latest += wide * work.level,
            }
        }
        let squares: f32 = errors.iter().map(|e| e * e).sum();
        let prior = self.problem.prior_samples;
        let variance = (f64::from(squares) + prior * doubt.max(0.0)) / (f64::from(known) + prior).max(1.0);
        // what is used now is used; a level lags behind a rise
        let likely = level.max(latest) + z * variance.sqrt();
        match peaks {
            None => likely,
            Some(k) => {
                let k = (k as usize).min(ERRORS - 1);
                recent.sort_unstable_by(|a, b| b.total_cmp(a));
                likely.max(f64::from(recent[k]))
            }
        }
    }

    /// Thousandths of a CPU that forecasts may fill.
    pub(crate) fn fillable(&self, n: N) -> f64 {
        self.problem.nodes[n].room[CPU] as f64 * self.margins.fill
    }

    /// Whether the workload may be on the node, with a margin of `z` for forecasts; what stands against it if not.
    pub(crate) fn fits(&mut self, w: W, n: N, z: Margin) -> Result<(), Misfit> {
        self.effort = self.effort.saturating_sub(1);
        self.judge(w, n, z)
    }

    /// The same without counting as work, for explanations.
    pub(crate) fn judge(&self, w: W, n: N, z: Margin) -> Result<(), Misfit> {
        let (work, node) = (&self.problem.work[w], &self.problem.nodes[n]);
        if !self.open[n] {
            return Err(Misfit::Closed);
        }
        let load = &self.loads[n];
        let first = if self.forecast { CPU + 1 } else { CPU };
        for d in first..self.problem.dims {
            if work.need[d] > 0 && load.used[d].saturating_add(work.need[d]) > node.room[d] {
                return Err(Misfit::Room(d));
            }
        }
        if !self.problem.admits(w, n) {
            return Err(Misfit::Admission);
        }
        self.company(w, n)?;
        if self.forecast && self.demand(n, Some(w), None, z) > self.fillable(n) {
            return Err(Misfit::Forecast);
        }
        Ok(())
    }

    /// Rules about who is beside whom.
    fn company(&self, w: W, n: N) -> Result<(), Misfit> {
        let (work, node) = (&self.problem.work[w], &self.problem.nodes[n]);
        if let Some(g) = work.group {
            if work.per_node != u32::MAX {
                let same = self.loads[n].on.iter().filter(|&&o| self.problem.work[o].group == Some(g)).count();
                if same >= work.per_node as usize {
                    return Err(Misfit::Spread);
                }
            }
            let mut in_zone = self.by_zone[g][node.zone];
            if self.place[w].is_some_and(|h| self.problem.nodes[h].zone == node.zone) {
                in_zone = in_zone.saturating_sub(1);
            }
            if in_zone >= work.per_zone {
                return Err(Misfit::Spread);
            }
        }
        let clash = |&o: &W| {
            let other = &self.problem.work[o];
            other.group.is_some_and(|g| work.avoid.contains(&g)) || work.group.is_some_and(|g| other.avoid.contains(&g))
        };
        let rules = !work.avoid.is_empty() || work.group.is_some();
        if rules && self.loads[n].on.iter().any(clash) {
            return Err(Misfit::Avoid);
        }
        Ok(())
    }

    /// Watts of a node with what is on it.
    pub(crate) fn watts(&self, n: N) -> f64 {
        let node = self.problem.nodes[n].node;
        if self.lit[n] { node.watts(self.loads[n].level) } else { node.off_watts }
    }

    /// Watts of the fleet.
    pub(crate) fn total_watts(&self) -> f64 {
        (0..self.loads.len()).map(|n| self.watts(n)).sum()
    }

    /// Watts that a workload adds to a node that is on, if the curve errs to our disadvantage.
    pub(crate) fn marginal(&self, w: W, n: N) -> f64 {
        let node = self.problem.nodes[n].node;
        let level = self.loads[n].level;
        let more = self.problem.work[w].level;
        node.curve.costs_at_most(node.load(level + more)) - node.curve.costs_at_most(node.load(level))
    }

    /// Share of the node's scarcest resource that is free, 0 to 1.
    pub(crate) fn slack(&self, n: N) -> f64 {
        let z = self.margins.fit;
        let (load, node) = (&self.loads[n], &self.problem.nodes[n]);
        let mut slack: f64 = 1.0;
        for d in 0..self.problem.dims {
            if node.room[d] == 0 {
                continue;
            }
            let free = if d == CPU && self.forecast {
                1.0 - self.demand(n, None, None, z) / self.fillable(n).max(1e-9)
            } else {
                1.0 - load.used[d] as f64 / node.room[d] as f64
            };
            slack = slack.min(free);
        }
        slack.max(0.0)
    }

    /// The best node for a workload among `candidates`, where it fits: fewest watts, where room that is left over counts as the idle
    /// watts that it ties up.
    pub(crate) fn best(&self, w: W, candidates: &[N], z: Margin) -> Option<N> {
        let mut best: Option<(f64, N)> = None;
        for &n in candidates {
            let score = self.marginal(w, n) + self.leftover(w, n, z) - self.anchored(n);
            if best.is_none_or(|(least, _)| score < least) {
                best = Some((score, n));
            }
        }
        best.map(|(_, n)| n)
    }

    /// Watts that moving everything off the node again would cost over the horizon: what is dear to empty is likely to
    /// stay, and the right place for newcomers.
    fn anchored(&self, n: N) -> f64 {
        self.loads[n].anchor / self.problem.policy.horizon_s.max(1) as f64
    }

    /// Idle watts of the share of a node that stays free if the workload comes.
    fn leftover(&self, w: W, n: N, z: Margin) -> f64 {
        let node = &self.problem.nodes[n];
        let mut slack: f64 = 1.0;
        for d in 0..self.problem.dims {
            if node.room[d] == 0 {
                continue;
            }
            let free = if d == CPU && self.forecast {
                1.0 - self.demand(n, Some(w), None, z) / self.fillable(n).max(1e-9)
            } else {
                1.0 - (self.loads[n].used[d] + self.problem.work[w].need[d]) as f64 / node.room[d] as f64
            };
            slack = slack.min(free);
        }
        slack.max(0.0) * node.node.curve.idle()
    }
}
