//! `ebbtide-fleet bench plan`: a made-up fleet is planned as a whole and around a change, and many small ones against
//! their bounds.

use anyhow::{Context as _, ensure};
use ebbtide_planner::check::check;
use ebbtide_planner::plan::{plan, plan_around};
use ebbtide_planner::policy::Policy;
use ebbtide_planner::sim::generate::{START, Shape, fleet};
use ebbtide_planner::state::FleetState;
use ebbtide_runtime::clock;
use serde::Serialize;

use crate::args::BenchPlan;
use crate::fields;

/// Nodes that are changed one after the other, each planned around.
const CHANGES: usize = 25;
/// Fleets whose gaps are averaged.
const FLEETS: u64 = 24;

/// What was measured.
#[derive(Debug, Serialize)]
struct Result {
    nodes: u32,
    workloads: u32,
    whole_ms: f64,
    /// What the checker takes for that plan.
    check_ms: f64,
    whole_actions: usize,
    whole_saved_pct: f64,
    whole_gap_pct: f64,
    /// The median of changes.
    around_ms: f64,
    around_worst_ms: f64,
    peak_mib: u64,
    /// Fleets of 60 to 300 nodes.
    fleets: u64,
    gap_mean_pct: f64,
    gap_worst_pct: f64,
    /// What the checker said against any of the plans.
    violations: usize,
}

/// Runs the benchmark.
///
/// # Errors
/// If a fleet can't be made up or planned.
pub fn measure(bench: &BenchPlan) -> anyhow::Result<()> {
    let policy = Policy::default();
    let shape = Shape { nodes: bench.nodes, workloads: bench.workloads, ..Shape::default() };
    let mut state = fleet(&shape, bench.seed)?;
    let (whole_ms, whole) = timed(|| plan(&state, &policy, START))?;
    let (check_ms, found) = timed(|| Ok::<_, std::convert::Infallible>(check(&whole, &state, &policy)))?;
    let mut violations = found.len();
    // as the daemon meets it: the fleet is as the plan left it, and then one node changes
    for event in whole.effects() {
        state.apply(START, event);
    }
    let mut around = Vec::new();
    let step = (state.nodes.len() / CHANGES).max(1);
    let changed: Vec<_> = state.nodes.keys().step_by(step).take(CHANGES).cloned().collect();
    for node in changed {
        let (ms, part) = timed(|| plan_around(&state, &policy, START, std::slice::from_ref(&node)))?;
        violations += check(&part, &state, &policy).len();
        around.push(ms);
    }
    around.sort_by(f64::total_cmp);
    let peak_mib = peak_kib()? / 1024;
    drop(state);
    let mut gaps = Vec::new();
    for seed in 0..FLEETS {
        let nodes = 60 + u32::try_from(seed)? * 10;
        let asked = 0.25 + 0.05 * (seed % 8) as f64;
        let shape = Shape { nodes, workloads: nodes * 15, asked, special: 0.1, placed: seed.is_multiple_of(2) };
        let state: FleetState = fleet(&shape, bench.seed.wrapping_add(seed))?;
        let made = plan(&state, &policy, START)?;
        violations += check(&made, &state, &policy).len();
        ensure!(made.after_w >= made.bound_w, "a plan is below its bound: the bound is wrong");
        gaps.push(made.gap() * 100.0);
    }
    let result = Result {
        nodes: bench.nodes,
        workloads: bench.workloads,
        whole_ms,
        check_ms,
        whole_actions: whole.actions.len(),
        whole_saved_pct: (1.0 - whole.after_w / whole.before_w) * 100.0,
        whole_gap_pct: whole.gap() * 100.0,
        around_ms: around.get(around.len() / 2).copied().unwrap_or_default(),
        around_worst_ms: around.last().copied().unwrap_or_default(),
        peak_mib,
        fleets: FLEETS,
        gap_mean_pct: gaps.iter().sum::<f64>() / gaps.len() as f64,
        gap_worst_pct: gaps.iter().copied().fold(0.0, f64::max),
        violations,
    };
    fields::show(&result, bench.json)
}

fn timed<T, E>(work: impl FnOnce() -> std::result::Result<T, E>) -> std::result::Result<(f64, T), E> {
    let begun = clock::now();
    let done = work()?;
    Ok((clock::now().since(begun).as_secs_f64() * 1e3, done))
}

/// The most memory that this process ever had, in KiB.
fn peak_kib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("can't read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM in it")?;
    line.trim().trim_end_matches(" kB").parse().context("VmHWM is no number")
}
