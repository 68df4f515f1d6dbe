//! What no placement can be below: the linear relaxation of the packing problem.
//!
//! Nodes of a kind are one variable (how many are on, whole or not), workloads that may go to the same kinds are one
//! demand vector, and every resource flows on its own. What is left out — whole workloads, spread, budgets, margins,
//! costs of moving — only makes real placements dearer. Power is `idle + least_slope · load`, which lies nowhere above
//! the curve. Where there are too many kinds, similar ones are merged into one that is better than each.

use std::collections::BTreeMap;

use microlp::{ComparisonOp, OptimizationDirection, Problem as Lp, Variable};

use super::hold::can_wake;
use super::problem::{CPU, N, PWork, Problem};
use crate::policy::Basis;

/// Most kinds of node in the program.
const KINDS: usize = 32;
/// Most kinds of workload in the program.
const DEMANDS: usize = 60;
/// Share by which the solver's arithmetic may be off.
const ROUNDING: f64 = 1e-7;

/// What a unit of each resource is worth, where scarce: for putting workloads in order of size.
pub(crate) struct Prices(Vec<f64>);

impl Prices {
    /// Worth of all that the workload needs, in nodes.
    pub(crate) fn of(&self, work: &PWork<'_>) -> f64 {
        self.0.iter().zip(&work.need).map(|(price, need)| price * *need as f64).sum()
    }
}

/// The bound and what it teaches.
pub(crate) struct Bound {
    /// Watts that no placement is below.
    pub(crate) watts: f64,
    /// Worth of resources.
    pub(crate) prices: Prices,
}

/// Nodes that are alike.
#[derive(Clone)]
struct Kind {
    count: f64,
    room: Vec<f64>,
    /// Watts of being on without workloads, more than of being off.
    on_w: f64,
    /// Watts of a thousandth of a CPU.
    slope: f64,
    /// Can't be powered off.
    fixed: bool,
    example: N,
}

/// Workloads that may go to the same kinds.
struct DemandOf {
    need: Vec<f64>,
    /// Share of the CPU needed that is surely used.
    used: f64,
    /// Least of each resource per unit of CPU among its members.
    tied: Vec<f64>,
    kinds: Vec<bool>,
}

/// Solves the relaxation for all workloads that are not `left_out`.
pub(crate) fn lower_bound(problem: &Problem<'_>, left_out: &[bool]) -> Bound {
    let (kinds, constant) = kinds(problem);
    let demands = demands(problem, &kinds, left_out);
    let cheapest = kinds.iter().map(|k| k.slope).fold(f64::INFINITY, f64::min);
    let level: f64 = placed(problem, left_out).map(|w| w.level).sum();
    let charged: f64 = demands.iter().map(|d| d.need[CPU] * d.used).sum();
    let rest = if cheapest.is_finite() { (level - charged).max(0.0) * cheapest } else { 0.0 };
    let fixed: f64 = kinds.iter().filter(|k| k.fixed).map(|k| k.count * k.on_w).sum();
    let (solved, on) = solve(problem.dims, &kinds, &demands).unwrap_or_else(|| (0.0, vec![1.0; kinds.len()]));
    let prices = (0..problem.dims)
        .map(|d| {
            let need: f64 = demands.iter().map(|k| k.need[d]).sum();
            let room: f64 = kinds.iter().zip(&on).map(|(k, y)| k.room[d] * y.max(k.count * 1e-6)).sum();
            let mean =
                kinds.iter().map(|k| k.room[d] * k.count).sum::<f64>() / kinds.iter().map(|k| k.count).sum::<f64>();
            // a resource that is half empty where the scarcest is full hardly decides who fits
            if mean > 0.0 { (need / room.max(1e-9)).min(1.0).powi(4) / mean } else { 0.0 }
        })
        .collect();
    Bound { watts: (constant + fixed + rest + solved * (1.0 - ROUNDING)).max(0.0), prices: Prices(prices) }
}

fn placed<'p>(problem: &'p Problem<'_>, left_out: &'p [bool]) -> impl Iterator<Item = &'p PWork<'p>> {
    problem.work.iter().enumerate().filter(|(w, _)| !left_out.get(*w).copied().unwrap_or(false)).map(|(_, work)| work)
}

/// The kinds of node that may be used, and watts that are drawn whatever is decided.
fn kinds(problem: &Problem<'_>) -> (Vec<Kind>, f64) {
    let mut constant = 0.0;
    let mut single = Vec::new();
    for (n, p) in problem.nodes.iter().enumerate() {
        if !p.lit && !can_wake(problem, n) {
            constant += p.node.off_watts;
            continue;
        }
        constant += if p.node.switchable { p.node.off_watts } else { 0.0 };
        let slope = p.node.curve.least_slope() / p.node.capacity.cpu_milli.max(1) as f64;
        let base = p.node.curve.idle() + slope * p.node.reserved_use_milli as f64;
        let off = if p.node.switchable { p.node.off_watts } else { 0.0 };
        single.push((
            p.class,
            Kind {
                count: 1.0,
                room: p.room.iter().map(|r| *r as f64).collect(),
                on_w: (base - off).max(0.0),
                slope,
                fixed: !p.node.switchable,
                example: n,
            },
        ));
    }
    for grain in [0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 100.0] {
        let merged = merge(&single, grain);
        if merged.len() <= KINDS || grain >= 100.0 {
            return (merged, constant);
        }
    }
    (Vec::new(), constant)
}

/// Merges nodes whose figures are the same but for a factor of `exp(grain)`.
fn merge(single: &[(usize, Kind)], grain: f64) -> Vec<Kind> {
    let mut buckets: BTreeMap<(usize, bool, Vec<i64>), Kind> = BTreeMap::new();
    for (class, kind) in single {
        let figures = kind.room.iter().copied().chain([kind.on_w, kind.slope * 1e6]);
        let key = figures.map(|v| bucket(v, grain)).collect();
        buckets
            .entry((*class, kind.fixed, key))
            .and_modify(|k| {
                k.count += 1.0;
                for (a, b) in k.room.iter_mut().zip(&kind.room) {
                    *a = a.max(*b);
                }
                // what can't be powered off is paid for in full: means, not minima
                k.on_w = if k.fixed { k.on_w + (kind.on_w - k.on_w) / k.count } else { k.on_w.min(kind.on_w) };
                k.slope = k.slope.min(kind.slope);
            })
            .or_insert_with(|| kind.clone());
    }
    buckets.into_values().collect()
}

#[allow(clippy::cast_possible_truncation, reason = "only equality matters")]
fn bucket(v: f64, grain: f64) -> i64 {
    if grain <= 0.0 { v.to_bits().cast_signed() } else { ((v + 1e-9).ln() / grain).floor() as i64 }
}

/// The band of a workload: memory per CPU in steps of a fifth; workloads without CPU are in one of their own.
fn band(cpu: f64, memory: f64) -> u32 {
    if cpu <= 0.0 {
        return u32::MAX;
    }
    #[allow(clippy::cast_possible_truncation, reason = "a few dozen bands")]
    let step = ((memory / cpu + 1.0).ln() * 5.0) as u32;
    step
}

fn demands(problem: &Problem<'_>, kinds: &[Kind], left_out: &[bool]) -> Vec<DemandOf> {
    let forecast = problem.policy.basis == Basis::Forecast;
    let mut by_kinds: BTreeMap<(Vec<bool>, u32), DemandOf> = BTreeMap::new();
    let mut admits: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
    for (w, work) in problem.work.iter().enumerate() {
        if left_out.get(w).copied().unwrap_or(false) {
            continue;
        }
        let allowed = admits.entry(work.class).or_insert_with(|| {
            kinds.iter().map(|k| problem.class_admits(work.class, problem.nodes[k.example].class)).collect()
        });
        let need = |d: usize| if d == CPU && forecast { work.level } else { work.need[d] as f64 };
        let known = by_kinds.entry((allowed.clone(), band(need(CPU), need(CPU + 1)))).or_insert_with(|| DemandOf {
            need: vec![0.0; problem.dims],
            used: 1.0,
            tied: vec![f64::INFINITY; problem.dims],
            kinds: allowed.clone(),
        });
        for d in 0..problem.dims {
            known.need[d] += need(d);
            if need(CPU) > 0.0 {
                known.tied[d] = known.tied[d].min(need(d) / need(CPU));
            }
        }
        if !forecast && work.need[CPU] > 0 {
            known.used = known.used.min(work.level / work.need[CPU] as f64);
        }
    }
    let mut demands: Vec<DemandOf> = by_kinds.into_values().collect();
    demands.sort_by(|a, b| b.need[CPU].total_cmp(&a.need[CPU]));
    while demands.len() > DEMANDS {
        let (Some(small), Some(next)) = (demands.pop(), demands.last_mut()) else { break };
        for (a, b) in next.need.iter_mut().zip(&small.need) {
            *a += b;
        }
        next.used = next.used.min(small.used);
        for (a, b) in next.tied.iter_mut().zip(&small.tied) {
            *a = a.min(*b);
        }
        for (a, b) in next.kinds.iter_mut().zip(&small.kinds) {
            *a |= b;
        }
    }
    demands
}

/// Least watts above those that are drawn anyway, and how many of each kind are on for it; `None` if the solver gives
/// up, which it does where the demand doesn't fit.
fn solve(dims: usize, kinds: &[Kind], demands: &[DemandOf]) -> Option<(f64, Vec<f64>)> {
    let mut lp = Lp::new(OptimizationDirection::Minimize);
    // amounts are scaled to nodes, so that bytes and thousandths of CPUs don't meet in one matrix
    let scale: Vec<f64> = (0..dims).map(|d| kinds.iter().map(|k| k.room[d]).fold(0.0, f64::max).max(1e-9)).collect();
    let on: Vec<Variable> = kinds
        .iter()
        .map(|k| lp.add_var(if k.fixed { 0.0 } else { k.on_w }, (if k.fixed { k.count } else { 0.0 }, k.count)))
        .collect();
    let mut filled: Vec<Vec<Vec<(Variable, f64)>>> = vec![vec![Vec::new(); dims]; kinds.len()];
    for demand in demands {
        let may = |k: usize, d: usize| demand.kinds[k] && kinds[k].room[d] > 0.0;
        let mut carried = vec![0.0; dims];
        if demand.need[CPU] > 0.0 {
            let mut flows = Vec::new();
            for k in (0..kinds.len()).filter(|&k| (0..dims).all(|d| may(k, d) || tied(demand, d) == 0.0)) {
                let flow = lp.add_var(kinds[k].slope * demand.used * scale[CPU], (0.0, f64::INFINITY));
                flows.push((flow, 1.0));
                for d in 0..dims {
                    let along = if d == CPU { 1.0 } else { tied(demand, d) * scale[CPU] / scale[d] };
                    if along > 0.0 {
                        filled[k][d].push((flow, along));
                    }
                }
            }
            lp.add_constraint(flows, ComparisonOp::Ge, demand.need[CPU] / scale[CPU] * (1.0 - 1e-9));
            for (d, c) in carried.iter_mut().enumerate() {
                *c = if d == CPU { demand.need[CPU] } else { tied(demand, d) * demand.need[CPU] };
            }
        }
        for d in 0..dims {
            let rest = demand.need[d] - carried[d];
            if rest <= demand.need[d] * 1e-9 {
                continue;
            }
            let mut flows = Vec::new();
            for k in (0..kinds.len()).filter(|&k| may(k, d)) {
                let flow = lp.add_var(0.0, (0.0, f64::INFINITY));
                flows.push((flow, 1.0));
                filled[k][d].push((flow, 1.0));
            }
            lp.add_constraint(flows, ComparisonOp::Ge, rest / scale[d] * (1.0 - 1e-9));
        }
    }
    for (k, kind) in kinds.iter().enumerate() {
        for d in 0..dims {
            if !filled[k][d].is_empty() {
                let mut row = std::mem::take(&mut filled[k][d]);
                row.push((on[k], -kind.room[d] / scale[d]));
                lp.add_constraint(row, ComparisonOp::Le, 0.0);
            }
        }
    }
    let solution = lp.solve().ok()?;
    let on_counts = on.iter().map(|&v| *solution.var_value(v)).collect();
    Some((solution.objective(), on_counts))
}

fn tied(demand: &DemandOf, d: usize) -> f64 {
    if demand.tied[d].is_finite() { demand.tied[d] } else { 0.0 }
}
