//! Runs a scenario and says what came of it, beside what would have come of doing nothing.

use std::fmt;
use std::path::PathBuf;

use ebbtide_proto::id::IdError;
use serde::{Deserialize, Serialize};

use super::carbon::{CarbonError, Footprint, footprint};
use super::load::Loaded;
use super::planetlab::traces::{self, TraceError};
use super::scenario::WorkKind;
use super::world::setup::Setup;
use super::world::{Moment, Score, Who, World};
use crate::plan::Refusal;

/// What came of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// Where randomness began.
    pub seed: u64,
    /// Hours that passed.
    pub hours: f64,
    /// Nodes.
    pub nodes: usize,
    /// With the planner.
    pub planner: Score,
    /// With all nodes on and work spread evenly.
    pub all_on: Score,
    /// Energy saved against all on, in per cent.
    pub saved_pct: f64,
    /// Energy above the bound, in per cent of the bound.
    pub above_bound_pct: f64,
    /// What the sites emitted, if the scenario has grid intensity.
    pub carbon: Option<Footprint>,
    /// Mean watts between plans.
    pub series: Vec<Sample>,
}

/// Mean watts from a moment until the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Seconds since the start.
    pub at_s: u64,
    /// With the planner.
    pub watts: f64,
    /// With all nodes on.
    pub all_on_w: f64,
    /// What nothing can be below.
    pub bound_w: f64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A name that isn't one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The planner refused.
    #[error("no plan: {0}")]
    Plan(#[from] Refusal),
    /// Grid intensity can't be used.
    #[error(transparent)]
    Carbon(#[from] CarbonError),
    /// Traces can't be used.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// Traces are needed and nobody said where they are.
    #[error("the scenario needs traces: name their folder with --traces, or as `traces` in the file")]
    NoTraces,
}

/// Runs a scenario; `traces` overrules the folder that it names. `progress` is told seconds simulated and of how many.
///
/// # Errors
/// [`RunError`] if the scenario can't be run.
pub fn run(
    loaded: &Loaded,
    seed: u64,
    traces: Option<PathBuf>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Report, RunError> {
    let scenario = &loaded.scenario;
    let recorded = if scenario.work.iter().any(|w| w.kind == WorkKind::Trace) {
        traces::read(&traces.or_else(|| scenario.traces.clone()).ok_or(RunError::NoTraces)?)?
    } else {
        Vec::new()
    };
    let setup = Setup::of(scenario, seed, &recorded)?;
    let nodes = setup.machines.len();
    let mut planned = World::new(setup.clone(), seed, Who::Planner)?;
    let mut idle = World::new(setup, seed, Who::AllOn)?;
    while !planned.is_over() {
        let (now, of) = planned.progress();
        progress(now, of);
        planned.step()?;
        idle.step()?;
    }
    let carbon = match &loaded.intensity {
        Some(intensity) => Some(footprint(intensity, &planned.site_kwh(), &idle.site_kwh())?),
        None => None,
    };
    Ok(report(loaded.name.clone(), seed, nodes, &planned, &idle, carbon))
}

pub(super) fn report(
    scenario: String,
    seed: u64,
    nodes: usize,
    planned: &World,
    idle: &World,
    carbon: Option<Footprint>,
) -> Report {
    let (planner, all_on) = (planned.score(), idle.score());
    let both = planned.moments().iter().zip(idle.moments());
    let sample =
        |(p, i): (&Moment, &Moment)| Sample { at_s: p.at_s, watts: p.watts, all_on_w: i.watts, bound_w: p.bound_w };
    let percent = |a: f64, b: f64| if b > 0.0 { a / b * 100.0 } else { 0.0 };
    Report {
        scenario,
        seed,
        hours: planned.progress().0 as f64 / 3600.0,
        nodes,
        saved_pct: percent(all_on.energy_kwh - planner.energy_kwh, all_on.energy_kwh),
        above_bound_pct: percent(planner.energy_kwh - planner.bound_kwh, planner.bound_kwh),
        planner,
        all_on,
        carbon,
        series: both.map(sample).collect(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (p, a) = (&self.planner, &self.all_on);
        writeln!(
            f,
            "{} · seed {} · {} nodes · {:.0} h · {} workloads",
            self.scenario, self.seed, self.nodes, self.hours, p.workloads
        )?;
        writeln!(f)?;
        writeln!(f, "{:<22}{:>10}{:>10}{:>14}", "", "kWh", "unmet %", "wait mean/max")?;
        let row = |f: &mut fmt::Formatter<'_>, name: &str, kwh: f64, s: &Score| {
            let wait = format!("{:.0}/{} s", s.wait_mean_s, s.wait_max_s);
            writeln!(f, "{name:<22}{kwh:>10.2}{:>10.2}{wait:>14}", s.unmet_pct)
        };
        row(f, "all on", a.energy_kwh, a)?;
        row(f, "planner", p.energy_kwh, p)?;
        writeln!(f, "{:<22}{:>10.2}", "clairvoyant, for free", p.oracle_kwh)?;
        writeln!(f, "{:<22}{:>10.2}", "bound", p.bound_kwh)?;
        writeln!(f)?;
        writeln!(f, "saves {:.1} %, {:.1} % above the bound", self.saved_pct, self.above_bound_pct)?;
        writeln!(
            f,
            "{} of {} workloads served, {} wait at the end · {} migrations ({:.2} per workload and day, {:.2} kWh)",
            p.served, p.workloads, p.waiting, p.migrations, p.churn, p.migration_kwh
        )?;
        writeln!(
            f,
            "{} on, {} off · switches per node {:.1}, at most {} · {} boots failed, {} nodes given up for a while",
            p.power_ons, p.power_offs, p.switches_mean, p.switches_max, p.wake_failures, p.given_up
        )?;
        writeln!(
            f,
            "{} plans, {} with nothing to do · mean gap {:.1} % · {} violations · {} actions dropped · {} frames lost",
            p.plans, p.plans_empty, p.gap_mean_pct, p.violations, p.dropped, p.lost_frames
        )?;
        for what in &p.found {
            writeln!(f, "violation: {what}")?;
        }
        let Some(c) = &self.carbon else { return Ok(()) };
        writeln!(f)?;
        writeln!(f, "{:<6}{:>10}{:>12}{:>14}{:>10}", "site", "kWh", "kgCO2", "all on kgCO2", "g/kWh")?;
        for s in &c.sites {
            writeln!(
                f,
                "{:<6}{:>10.1}{:>12.1}{:>14.1}{:>10.0}",
                s.site, s.energy_kwh, s.co2_kg, s.all_on_co2_kg, s.mean_g_per_kwh
            )?;
        }
        writeln!(
            f,
            "{:.1} kgCO2 in all. Shifting could have saved at most, knowing the future and without limits:",
            c.co2_kg
        )?;
        writeln!(
            f,
            "{:.1} kg between sites, {:.1} kg within each day, {:.1} kg by both",
            c.shift_space_kg, c.shift_time_kg, c.shift_both_kg
        )
    }
}
