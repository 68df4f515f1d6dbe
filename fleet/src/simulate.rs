//! `ebbtide-fleet sim`: runs the planner on a virtual clock and prints what came of it.

use std::process::ExitCode;

use anyhow::Context as _;
use ebbtide_planner::policy::Risk;
use ebbtide_planner::sim::{edgelimit, planetlab};
use ebbtide_runtime::clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Planetlab, Sim, SimRisk};
use crate::fields;

/// Runs a scenario.
///
/// # Errors
/// If traces can't be read.
pub fn run(what: &Sim) -> anyhow::Result<ExitCode> {
    match what {
        Sim::Edgelimit { seed, json } => edge(*seed, *json),
        Sim::Planetlab(options) => traces(options),
    }
}

fn edge(seed: u64, json: bool) -> anyhow::Result<ExitCode> {
    let report = edgelimit::run(seed)?;
    if json {
        println!("{}", serde_json::to_string(&report)?);
        return Ok(ExitCode::SUCCESS);
    }
    for step in &report.timeline {
        println!("{:>3}  {:>6.1} W  {}", step.t, step.total_w, step.event);
    }
    println!("\n{} power-on, {} power-off, {} moves", report.power_on, report.power_off, report.moves);
    Ok(ExitCode::SUCCESS)
}

fn traces(options: &Planetlab) -> anyhow::Result<ExitCode> {
    let policy = options.policy.parse()?;
    let risk = if options.risk == SimRisk::High { Risk::High } else { Risk::Low };
    let start = clock::now();
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} decisions, {eta}")?);
    let progress = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let clock = || clock::now().since(start).as_secs_f64() * 1e3;
    let report = planetlab::run(&planetlab::Options { traces: options.traces.clone(), policy, risk }, progress, clock)
        .with_context(|| format!("can't run the traces in {}", options.traces.display()))?;
    bar.finish_and_clear();
    fields::show(&report, options.json)?;
    Ok(ExitCode::SUCCESS)
}
