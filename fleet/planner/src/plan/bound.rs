//! What no plan can be below, and what room is worth: a linear relaxation of the packing problem and its prices.
//!
//! Nodes of a kind are one variable (how many are on, whole or not), workloads that may go to the same kinds one demand
//! that may be split. Power is `idle + least_slope · load`, which lies nowhere above the curve. The program says how
//! many nodes of each kind are worth being on; its prices are found by steps along subgradients towards its value
//! (Polyak 1969).
//!
//! The bound doesn't come from the program but from the prices: whatever these are, watts are at least
//! `Σ workloads min over kinds (slope · use + price · need) + Σ nodes min(0, idle − price · room)`, workload by workload
//! and node by node (Lagrange). What stands in the way of powering a node off, or of moving a workload, is counted in:
//! the gap is what could be won now, not what could be won if there were no rules.

use std::collections::{BTreeMap, BTreeSet};

use microlp::{ComparisonOp, OptimizationDirection, Problem as Lp, Variable};

use super::hold::can_wake;
use super::problem::{CPU, N, PWork, Problem, W};
use crate::policy::Basis;

/// Most kinds of node: sets of them are bits of a number.
const KINDS: usize = 64;
/// Kinds of workload in the program from which on they are told apart less finely.
const DEMANDS: usize = 80;
/// Steps towards the prices: so many products by workload, but at least some steps and at most many.
const PRODUCTS: usize = 80;
const LEAST_PRODUCTS: usize = 60_000;
const STEPS: (usize, usize) = (100, 2000);
/// Share of a demand, or of a node, that is the program's rounding.
pub(crate) const ALMOST_NONE: f64 = 1e-3;
/// Share by which sums may be off.
const ROUNDING: f64 = 1e-9;
/// What leaving demand out costs in the program, as a multiple of the dearest way to serve it.
const LEFT_OUT: f64 = 20.0;

/// Nodes that are alike.
#[derive(Clone)]
pub(crate) struct Kind {
    count: f64,
    class: usize,
    pub(crate) room: Vec<f64>,
    /// Watts of being on without workloads, more than of being off.
    on_w: f64,
    /// Watts of a thousandth of a CPU.
    pub(crate) slope: f64,
    /// Can't be powered off.
    fixed: bool,
}

/// Workloads that may go to the same kinds and need resources in about the same proportion.
struct Demand {
    need: Vec<f64>,
    level: f64,
    kinds: u64,
    /// Watts that leaving it out counts for.
    left_out: f64,
    who: Vec<W>,
}

/// What the program says.
struct Relaxed {
    /// Watts, without what is drawn anyway; `None` if it has no solution.
    watts: Option<f64>,
    /// Nodes of each kind that are on.
    on: Vec<f64>,
    /// Kinds that serve each demand, as bits.
    meant: Vec<u64>,
}

/// Kinds of node, how many of each are worth being on, and what their room is worth.
pub(crate) struct Market {
    pub(crate) kinds: Vec<Kind>,
    /// The kind of each node; `None` if it can't be used.
    pub(crate) kind_of: Vec<Option<usize>>,
    /// Nodes of each kind that are on in the relaxation.
    pub(crate) on: Vec<f64>,
    /// Watts that a unit of each resource is worth, by kind.
    prices: Vec<Vec<f64>>,
    /// Room of each node in the bound: what it has, or what is on it if that is more.
    single: Vec<Option<Kind>>,
    constant: f64,
    /// Use that each workload is charged for at least.
    charged: Vec<f64>,
    /// Kinds that each workload may be on, as bits.
    allowed: Vec<u64>,
    /// Those of them that the relaxation has workloads of its sort on; all if that isn't known.
    meant: Vec<u64>,
    forecast: bool,
}

impl Market {
    /// Finds kinds and, if `priced`, prices; `held` says which nodes stay on.
    pub(crate) fn new(problem: &Problem<'_>, held: impl Fn(N) -> bool, priced: bool) -> Self {
        let (single, charged, constant) = singles(problem, held);
        let (kinds, kind_of) = kinds(&single);
        let pairs: BTreeSet<(usize, usize)> =
            kind_of.iter().zip(&problem.nodes).filter_map(|(k, p)| Some((p.class, (*k)?))).collect();
        let work_classes = problem.work.iter().map(|w| w.class + 1).max().unwrap_or(0);
        let mut admits = vec![0; work_classes];
        for (class, mask) in admits.iter_mut().enumerate() {
            let open = pairs.iter().filter(|(node_class, _)| problem.class_admits(class, *node_class));
            *mask = open.fold(0, |mask, (_, k)| mask | 1 << k);
        }
        let forecast = problem.policy.basis == Basis::Forecast;
        // with forecasts, what is asked for of CPUs may be more than there is
        let asked = if forecast { CPU + 1 } else { CPU };
        let tightest: Vec<f64> =
            (asked..problem.dims).map(|d| kinds.iter().map(|k| k.room[d]).fold(f64::INFINITY, f64::min)).collect();
        let allowed = |work: &PWork<'_>| {
            let home = work.home.and_then(|n| kind_of[n]).map_or(0, |k: usize| 1 << k);
            if home != 0 && !work.movable {
                return home;
            }
            let need = &work.need[asked..];
            let within = |room: &[f64]| need.iter().zip(room).all(|(need, room)| *need == 0 || *need as f64 <= *room);
            if within(&tightest) {
                return home | admits[work.class];
            }
            bits(admits[work.class]).filter(|k| within(&kinds[*k].room[asked..])).fold(home, |mask, k| mask | 1 << k)
        };
        let mut market = Self {
            meant: vec![u64::MAX; problem.work.len()],
            allowed: problem.work.iter().map(allowed).collect(),
            prices: vec![vec![0.0; problem.dims]; kinds.len()],
            on: vec![0.0; kinds.len()],
            kinds,
            kind_of,
            single,
            constant,
            charged,
            forecast,
        };
        if !priced {
            return market;
        }
        let demands = market.demands(problem);
        let relaxed = market.solve(problem.dims, &demands);
        market.on = relaxed.on;
        for (demand, meant) in demands.iter().zip(&relaxed.meant) {
            for &w in &demand.who {
                // what runs somewhere is better off anywhere cheap than moved by the letter of the program
                if problem.work[w].home.is_none() {
                    market.meant[w] = *meant;
                }
            }
        }
        market.find_prices(problem.dims, &demands, relaxed.watts);
        market
    }

    /// Watts that a workload is charged for on a kind: what it uses, and the worth of the room that it takes.
    pub(crate) fn cost(&self, problem: &Problem<'_>, w: W, k: usize) -> f64 {
        let rent: f64 = self.prices[k].iter().zip(problem.work[w].need.iter()).map(|(p, n)| p * *n as f64).sum();
        self.kinds[k].slope * problem.work[w].level + rent
    }

    /// Kinds that the workload may be on, as bits.
    pub(crate) fn allowed(&self, w: W) -> u64 {
        self.allowed[w]
    }

    /// Kinds that the workload may be on: first those that it is meant for, by what it is charged there.
    pub(crate) fn by_cost(&self, problem: &Problem<'_>, w: W) -> Vec<usize> {
        let of = |k: usize| (self.meant[w] >> k & 1 == 0, self.cost(problem, w, k), k);
        let mut kinds: Vec<(bool, f64, usize)> = bits(self.allowed[w]).map(of).collect();
        kinds.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
        kinds.into_iter().map(|(_, _, k)| k).collect()
    }

    /// Kinds that the workload may be on and is meant for, as bits.
    pub(crate) fn meant(&self, w: W) -> u64 {
        self.allowed[w] & self.meant[w]
    }

    /// The resource of a kind whose room is worth most.
    pub(crate) fn scarcest(&self, k: usize) -> usize {
        if self.kinds.is_empty() {
            return CPU;
        }
        let worth = |d: usize| self.prices[k][d] * self.kinds[k].room[d];
        (0..self.prices[k].len()).max_by(|&a, &b| worth(a).total_cmp(&worth(b)).then(b.cmp(&a))).unwrap_or(CPU)
    }

    /// The least that a workload is charged, over the kinds it may be on.
    pub(crate) fn worth(&self, problem: &Problem<'_>, w: W) -> f64 {
        let costs = bits(self.allowed[w]).map(|k| self.cost(problem, w, k));
        let least = costs.fold(f64::INFINITY, f64::min);
        if least.is_finite() { least } else { 0.0 }
    }

    /// Watts that no plan is below that places all workloads but those `left_out`.
    pub(crate) fn bound(&self, problem: &Problem<'_>, left_out: &[bool]) -> f64 {
        let forecast = self.forecast;
        let mut watts = self.constant;
        for (w, work) in problem.work.iter().enumerate() {
            if left_out[w] || problem.is_dark(w) {
                continue;
            }
            let charged = self.charged[w];
            let least = bits(self.allowed[w])
                .map(|k| {
                    let need = |d: usize| if d == CPU && forecast { charged } else { work.need[d] as f64 };
                    let rent: f64 = self.prices[k].iter().enumerate().map(|(d, p)| p * need(d)).sum();
                    self.kinds[k].slope * charged + rent
                })
                .fold(f64::INFINITY, f64::min);
            watts += if least.is_finite() { least } else { 0.0 };
        }
        for (node, k) in self.single.iter().zip(&self.kind_of) {
            let (Some(node), Some(k)) = (node, k) else { continue };
            let rent: f64 = self.prices[*k].iter().zip(&node.room).map(|(p, r)| p * r).sum();
            watts += if node.fixed { node.on_w - rent } else { (node.on_w - rent).min(0.0) };
        }
        (watts * (1.0 - ROUNDING)).max(0.0)
    }

    /// What is asked for, in as many sorts as the program can bear.
    fn demands(&self, problem: &Problem<'_>) -> Vec<Demand> {
        let bands = [(5.0, DEMANDS), (2.5, DEMANDS), (1.0, DEMANDS), (0.0, usize::MAX)];
        let found = bands.into_iter().find_map(|(grain, most)| self.demands_in_bands(problem, grain, most));
        let mut demands = found.unwrap_or_default();
        for demand in &mut demands {
            let dear = |k: usize| {
                let kind = &self.kinds[k];
                kind.slope * demand.level + share(&demand.need, &kind.room) * kind.on_w
            };
            demand.left_out = LEFT_OUT * bits(demand.kinds).map(dear).fold(1.0, f64::max);
        }
        demands
    }

    /// `None` if there are more sorts than `most`.
    fn demands_in_bands(&self, problem: &Problem<'_>, grain: f64, most: usize) -> Option<Vec<Demand>> {
        let forecast = self.forecast;
        let mut by: BTreeMap<(u64, u32), Demand> = BTreeMap::new();
        for (w, work) in problem.work.iter().enumerate() {
            let mask = self.allowed[w];
            if mask == 0 || problem.is_dark(w) {
                continue;
            }
            let need = |d: usize| if d == CPU && forecast { self.charged[w] } else { work.need[d] as f64 };
            // where there is no choice, proportions decide nothing
            let band = if mask.is_power_of_two() { 0 } else { band(need(CPU), need(CPU + 1), grain) };
            let empty =
                || Demand { need: vec![0.0; problem.dims], level: 0.0, kinds: mask, left_out: 0.0, who: Vec::new() };
            let known = by.entry((mask, band)).or_insert_with(empty);
            for d in 0..problem.dims {
                known.need[d] += need(d);
            }
            known.level += self.charged[w];
            known.who.push(w);
            if by.len() > most {
                return None;
            }
        }
        Some(by.into_values().collect())
    }

    /// Solves the program.
    fn solve(&self, dims: usize, demands: &[Demand]) -> Relaxed {
        let mut lp = Lp::new(OptimizationDirection::Minimize);
        // those that can't be powered off are no question: their number is a constant
        let on: Vec<Option<Variable>> =
            self.kinds.iter().map(|k| (!k.fixed).then(|| lp.add_var(k.on_w, (0.0, k.count)))).collect();
        let mut filled: Vec<Vec<Vec<(Variable, f64)>>> = vec![vec![Vec::new(); dims]; self.kinds.len()];
        let mut parts: Vec<Vec<(usize, Variable)>> = Vec::new();
        for demand in demands {
            let mut shares = Vec::new();
            let mut served = Vec::new();
            for k in bits(demand.kinds) {
                let watts = self.kinds[k].slope * demand.level;
                let part = lp.add_var(watts, (0.0, f64::INFINITY));
                shares.push((part, 1.0));
                served.push((k, part));
                for d in (0..dims).filter(|&d| demand.need[d] > 0.0) {
                    filled[k][d].push((part, demand.need[d] / self.kinds[k].room[d].max(1e-9)));
                }
            }
            shares.push((lp.add_var(demand.left_out, (0.0, f64::INFINITY)), 1.0));
            lp.add_constraint(shares, ComparisonOp::Eq, 1.0);
            parts.push(served);
        }
        for (k, rows) in filled.into_iter().enumerate() {
            for mut row in rows.into_iter().filter(|row| !row.is_empty()) {
                row.extend(on[k].map(|on| (on, -1.0)));
                let there = if self.kinds[k].fixed { self.kinds[k].count } else { 0.0 };
                lp.add_constraint(row, ComparisonOp::Le, there);
            }
        }
        match lp.solve() {
            Ok(solution) if solution.objective() > 0.0 => {
                let on = on.iter().zip(&self.kinds).map(|(v, k)| v.map_or(k.count, |v| *solution.var_value(v)));
                let serves = |&&(_, part): &&(usize, Variable)| *solution.var_value(part) > ALMOST_NONE;
                let meant =
                    |served: &Vec<(usize, Variable)>| served.iter().filter(serves).fold(0, |m, (k, _)| m | 1 << k);
                Relaxed {
                    watts: Some(solution.objective()),
                    on: on.collect(),
                    meant: parts.iter().map(meant).collect(),
                }
            }
            _ => Relaxed {
                watts: None,
                on: self.kinds.iter().map(|k| k.count).collect(),
                meant: vec![u64::MAX; demands.len()],
            },
        }
    }

    /// Prices under which the relaxation's dual value comes near `target`; if that isn't known, a little above the best
    /// so far.
    fn find_prices(&mut self, dims: usize, demands: &[Demand], target: Option<f64>) {
        // prices are in watts of a whole node's room, so that bytes and thousandths of CPUs are alike
        let mut prices: Vec<f64> = self
            .kinds
            .iter()
            .flat_map(|k| (0..dims).map(move |d| if d <= CPU + 1 && !k.fixed { k.on_w / 2.0 } else { 0.0 }))
            .collect();
        let mut best = (f64::NEG_INFINITY, prices.clone());
        let (mut slope, mut along) = (vec![0.0; prices.len()], vec![0.0; prices.len()]);
        let inverse: Vec<f64> =
            self.kinds.iter().flat_map(|k| k.room.iter().map(|r| if *r > 0.0 { 1.0 / r } else { 0.0 })).collect();
        let products: usize = demands.iter().map(|d| d.kinds.count_ones() as usize * dims).sum();
        let steps = (PRODUCTS * self.charged.len()).max(LEAST_PRODUCTS) / products.max(1);
        for _ in 0..steps.clamp(STEPS.0, STEPS.1) {
            let value = self.dual(dims, demands, &prices, &inverse, &mut slope);
            if value > best.0 {
                best = (value, prices.clone());
            }
            let missing = target.unwrap_or(best.0 + best.0.abs() * 0.005 + 1.0) - value;
            if missing <= 1e-4 * value.abs() {
                break;
            }
            // half of the step before goes on: it swings less from side to side
            for (a, s) in along.iter_mut().zip(&slope) {
                *a = 0.5 * *a + s;
            }
            let norm: f64 = along.iter().map(|a| a * a).sum();
            if norm <= 0.0 {
                break;
            }
            for (p, a) in prices.iter_mut().zip(&along) {
                *p = (*p + missing / norm * a).max(0.0);
            }
        }
        for (k, kind) in self.kinds.iter().enumerate() {
            for d in 0..dims {
                self.prices[k][d] = if kind.room[d] > 0.0 { best.1[k * dims + d] / kind.room[d] } else { 0.0 };
            }
        }
    }

    /// The value of prices, and the direction in which it rises.
    fn dual(&self, dims: usize, demands: &[Demand], prices: &[f64], inverse: &[f64], slope: &mut [f64]) -> f64 {
        slope.fill(0.0);
        let mut value = 0.0;
        for (k, kind) in self.kinds.iter().enumerate() {
            let at = k * dims..(k + 1) * dims;
            let rent: f64 = (at.clone()).filter(|i| kind.room[i % dims] > 0.0).map(|i| prices[i]).sum();
            let net = if kind.fixed { -rent } else { kind.on_w - rent };
            if kind.fixed || net < 0.0 {
                value += kind.count * net;
                for i in at {
                    slope[i] -= kind.count;
                }
            }
        }
        let unit: Vec<f64> = prices.iter().zip(inverse).map(|(p, i)| p * i).collect();
        for demand in demands {
            let mut least = (f64::INFINITY, 0);
            for k in bits(demand.kinds) {
                let rent: f64 = unit[k * dims..(k + 1) * dims].iter().zip(&demand.need).map(|(p, n)| p * n).sum();
                let cost = self.kinds[k].slope * demand.level + rent;
                if cost < least.0 {
                    least = (cost, k);
                }
            }
            // leaving it out costs something, too: prices don't rise without end where there is too little room
            if least.0 >= demand.left_out {
                value += demand.left_out;
                continue;
            }
            value += least.0;
            let at = least.1 * dims;
            for d in 0..dims {
                slope[at + d] += demand.need[d] * inverse[at + d];
            }
        }
        value
    }
}

/// The places of the bits that are set.
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let k = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(k)
    })
}

fn share(need: &[f64], room: &[f64]) -> f64 {
    need.iter().zip(room).map(|(n, r)| if *r > 0.0 { n / r } else { 0.0 }).fold(0.0, f64::max)
}

/// Every node that may be used as a kind of its own, what each workload is charged for, and the watts that are drawn
/// whatever is decided.
fn singles(problem: &Problem<'_>, held: impl Fn(N) -> bool) -> (Vec<Option<Kind>>, Vec<f64>, f64) {
    let forecast = problem.policy.basis == Basis::Forecast;
    // a workload that uses more than it asked for is charged for what was set aside: that surely fits
    let charge = |w: &PWork<'_>| if forecast { w.level } else { w.level.min(w.need[CPU] as f64) };
    let mut charged: Vec<f64> = problem.work.iter().map(charge).collect();
    let mut used: Vec<Vec<f64>> = vec![vec![0.0; problem.dims]; problem.nodes.len()];
    let mut pinned = vec![false; problem.nodes.len()];
    for (w, work) in problem.work.iter().enumerate() {
        let Some(n) = work.home else { continue };
        for (d, sum) in used[n].iter_mut().enumerate() {
            *sum += if d == CPU && forecast { charged[w] } else { work.need[d] as f64 };
        }
        pinned[n] |= !work.movable && !work.of_node;
    }
    for (w, work) in problem.work.iter().enumerate() {
        // on a node that has outgrown its CPUs, watts end at full load
        if let Some(n) = work.home {
            charged[w] *= (problem.nodes[n].room[CPU] as f64 / used[n][CPU].max(1e-9)).min(1.0);
        }
    }
    let mut constant = 0.0;
    let mut single = Vec::new();
    for (n, p) in problem.nodes.iter().enumerate() {
        if !p.lit && !can_wake(problem, n) {
            constant += p.node.off_watts;
            single.push(None);
            continue;
        }
        let fixed = p.lit && (pinned[n] || held(n));
        let off = if fixed { 0.0 } else { p.node.off_watts };
        constant += off;
        let slope = p.node.curve.least_slope() / p.node.capacity.cpu_milli.max(1) as f64;
        let base = p.node.curve.idle() + slope * p.node.reserved_use_milli.min(p.node.reserved.cpu_milli) as f64;
        let room = p.room.iter().zip(&used[n]).map(|(r, u)| (*r as f64).max(*u)).collect();
        single.push(Some(Kind { count: 1.0, class: p.class, room, on_w: (base - off).max(0.0), slope, fixed }));
    }
    (single, charged, constant)
}

/// Merges nodes that are alike, or nearly, if there are too many kinds.
fn kinds(single: &[Option<Kind>]) -> (Vec<Kind>, Vec<Option<usize>>) {
    let grains = [0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 100.0];
    for grain in grains {
        let mut known: BTreeMap<(usize, bool, Vec<i64>), usize> = BTreeMap::new();
        let mut kinds: Vec<Kind> = Vec::new();
        let kind_of = single.iter().map(|kind| {
            let kind = kind.as_ref()?;
            let figures = kind.room.iter().copied().chain([kind.on_w, kind.slope * 1e6]);
            // beyond the coarsest grain, classes are merged, too
            let class = if grain >= 100.0 { 0 } else { kind.class };
            let key = (class, kind.fixed, figures.map(|v| bucket(v, grain)).collect());
            let k = *known.entry(key).or_insert_with(|| {
                kinds.push(Kind { count: 0.0, ..kind.clone() });
                kinds.len() - 1
            });
            let all = &mut kinds[k];
            all.count += 1.0;
            for (a, b) in all.room.iter_mut().zip(&kind.room) {
                *a = a.max(*b);
            }
            all.on_w += (kind.on_w - all.on_w) / all.count;
            all.slope = all.slope.min(kind.slope);
            Some(k)
        });
        let kind_of: Vec<Option<usize>> = kind_of.collect();
        if kinds.len() <= KINDS || grain >= 100.0 {
            return (kinds, kind_of);
        }
    }
    (Vec::new(), vec![None; single.len()])
}

#[allow(clippy::cast_possible_truncation, reason = "only equality matters")]
fn bucket(v: f64, grain: f64) -> i64 {
    if grain <= 0.0 { v.to_bits().cast_signed() } else { ((v + 1e-9).ln() / grain).floor() as i64 }
}

/// The band of a workload: memory per CPU, with `grain` steps where it grows by e; workloads without CPU are in one of
/// their own.
fn band(cpu: f64, memory: f64, grain: f64) -> u32 {
    if cpu <= 0.0 {
        return u32::MAX;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a few dozen bands")]
    let step = ((memory / cpu + 1.0).ln() * grain) as u32;
    step
}
