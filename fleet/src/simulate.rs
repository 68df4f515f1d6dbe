//! `ebbtide-fleet sim`: runs the planner on a virtual clock and prints what came of it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use ebbtide_planner::policy::Risk;
use ebbtide_planner::sim::load::{self, Loaded, SHIPPED};
use ebbtide_planner::sim::planetlab::{self, Who, real, traces as vms};
use ebbtide_planner::sim::scenario::Kind;
use ebbtide_planner::sim::{edgelimit, openb, plot, report};
use ebbtide_runtime::clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::{Planetlab, Sim, SimRisk, SimScenario, SimWhat};
use crate::fields;

/// Exit code of a scenario that can't be used: what was asked for is wrong, not the run.
const USAGE: u8 = 2;
/// Exit code of a run in which the checker refused a plan.
const REFUSED: u8 = 3;

/// Runs a scenario.
///
/// # Errors
/// If the scenario or its traces can't be read, or the plot can't be written.
pub fn run(what: &Sim) -> anyhow::Result<ExitCode> {
    match &what.what {
        None => scenario(&what.scenario),
        Some(SimWhat::List) => list(),
        Some(SimWhat::Edgelimit { seed, json }) => edge(*seed, *json),
        Some(SimWhat::Planetlab(options)) => traces(options),
    }
}

fn list() -> anyhow::Result<ExitCode> {
    for (name, _) in SHIPPED {
        println!("{name:<12}  {}", load::load(name)?.scenario.about);
    }
    println!("{:<12}  Radio units and an edge server that is switched off and on again.", "edgelimit");
    println!("{:<12}  A day of PlanetLab's traces on 800 hosts, beside published policies.", "planetlab");
    Ok(ExitCode::SUCCESS)
}

fn scenario(options: &SimScenario) -> anyhow::Result<ExitCode> {
    let loaded = match load::load(options.file.as_deref().unwrap_or_default()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    if loaded.scenario.kind == Kind::Openb {
        return gpus(&loaded, options);
    }
    let bar = progress("{msg} {bar:30} {percent} %, {eta} left")?;
    bar.set_message(loaded.name.clone());
    let report = report::run(&loaded, options.seed, options.traces.clone(), |now, of| {
        bar.set_length(of);
        bar.set_position(now);
    })?;
    bar.finish_and_clear();
    if let Some(to) = &options.plot {
        draw(to, &plot::svg(&report))?;
    }
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(verdict(report.planner.violations > 0))
}

fn verdict(refused: bool) -> ExitCode {
    if refused { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS }
}

fn draw(to: &Path, svg: &str) -> anyhow::Result<()> {
    std::fs::write(to, svg).with_context(|| format!("can't write the plot to {}", to.display()))
}

fn gpus(loaded: &Loaded, options: &SimScenario) -> anyhow::Result<ExitCode> {
    let Some(folder) = options.traces.as_ref().or(loaded.scenario.traces.as_ref()) else {
        bail!("{} needs traces: name the folder of the two openb_*.csv with --traces", loaded.name);
    };
    if options.plot.is_some() {
        bail!("{} is one moment: there is nothing to plot over time", loaded.name);
    }
    let bar = progress("{msg} {bar:30} round {pos} of at most {len}")?;
    bar.set_message(loaded.name.clone());
    let report = openb::run(folder, &loaded.scenario.policy, |round, of| {
        bar.set_length(of);
        bar.set_position(round);
    })?;
    bar.finish_and_clear();
    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(verdict(report.violations > 0))
}

/// A bar on standard error; nothing where that is no terminal.
fn progress(template: &str) -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::new(0).with_style(ProgressStyle::with_template(template)?))
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
    let policy = options.policy;
    let risk = if options.risk == SimRisk::High { Risk::High } else { Risk::Low };
    if options.real {
        return second_score(options, policy, risk);
    }
    let start = clock::now();
    let bar = progress("{bar:30} {pos}/{len} decisions, {eta} left")?;
    let told = |done: usize, of: usize| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    };
    let clock = || clock::now().since(start).as_secs_f64() * 1e3;
    let report = planetlab::run(&planetlab::Options { traces: options.traces.clone(), policy, risk }, told, clock)
        .with_context(|| format!("can't run the traces in {}", options.traces.display()))?;
    bar.finish_and_clear();
    fields::show(&report, options.json)?;
    Ok(ExitCode::SUCCESS)
}

fn second_score(options: &Planetlab, policy: Who, risk: Risk) -> anyhow::Result<ExitCode> {
    if policy != Who::Ebbtide {
        bail!("--real is for the planner: published policies know no boots; leave out --policy");
    }
    let from = || format!("can't run the traces in {}", options.traces.display());
    let day = vms::read(&options.traces).with_context(from)?;
    let bar = progress("{bar:30} {percent} %, {eta} left")?;
    let report = real::run(&day, risk, 1, |now, of| {
        bar.set_length(of);
        bar.set_position(now);
    })
    .with_context(from)?;
    bar.finish_and_clear();
    fields::show(&report, options.json)?;
    Ok(verdict(report.violations > 0))
}
