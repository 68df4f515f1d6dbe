//! How far attributed energy is from the truth, on simulated machines whose truth is known.
//!
//! The same figures as `ebbtide-agent twin score`, for those of its scenarios that have a target.

use std::ops::ControlFlow;

use anyhow::{Context as _, bail};
use ebbtide_agent::source::ZoneKind;
use ebbtide_agent::twin::score::{Score, Setup, score_with};
use ebbtide_agent::twin::{SCENARIOS, Scenario};

use crate::report::Table;

/// Limits for one scenario, in percent; absent where there is none.
struct Limits {
    scenario: &'static str,
    /// Whether the machine has hardware counters and the agent uses them.
    counters: bool,
    /// Mean error of processes in the packages.
    cpu: Option<f64>,
    /// The same in memory.
    dram: Option<f64>,
    /// Error of the idle floor after ten minutes, of the worst zone of each kind.
    floor: Option<f64>,
    /// Energy of short-lived children that is not under their name, and error of who runs beside them.
    storm: Option<[f64; 2]>,
}

/// By CPU time, to which `limits` add what is asked for.
const fn by_time(scenario: &'static str, limits: Limits) -> Limits {
    Limits { scenario, ..limits }
}

const NONE: Limits = Limits { scenario: "", counters: false, cpu: None, dram: None, floor: None, storm: None };
const EQUAL_MIX: Limits = Limits { cpu: Some(8.0), floor: Some(3.0), ..NONE };

const LIMITS: [Limits; 8] = [
    by_time("steady-mix", EQUAL_MIX),
    by_time("never-idle", EQUAL_MIX),
    by_time("never-idle-smt", EQUAL_MIX),
    by_time("fork-storm", Limits { storm: Some([1.0, 2.0]), ..NONE }),
    // what instructions cost can't be told by time
    by_time("mixed-instructions", NONE),
    Limits { scenario: "mixed-instructions", counters: true, cpu: Some(4.0), dram: Some(15.0), ..NONE },
    by_time("schedutil", NONE),
    Limits { scenario: "schedutil", counters: true, ..NONE },
];

/// Plays the scenarios; only the first if it is to be `quick`.
pub(crate) fn measure(quick: bool) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "Accuracy",
        "Mean error of the dynamic energy of processes on simulated machines, by CPU time alone or with hardware counters, in \
         the packages and in memory; in brackets the same of Kepler's formula on the same samples. The error of the learned \
         idle floor after ten minutes, of packages and of memory. Of processes of 50 ms: how much of their energy is not under their name, and \
         the largest error of a steady process beside them. `ebbtide-agent twin score` has more of it.",
        &[
            "scenario",
            "processes",
            "target",
            "(Kepler)",
            "memory",
            "target",
            "(Kepler)",
            "package floor",
            "target",
            "memory floor",
            "target",
            "storm",
            "target",
            "beside",
            "target",
        ],
    );
    let scenarios = if quick { &LIMITS[..1] } else { &LIMITS[..] };
    for limits in scenarios {
        let name = limits.scenario;
        let (_, text) = SCENARIOS.iter().find(|(n, _)| *n == name).with_context(|| format!("no scenario {name}"))?;
        let scenario = Scenario::parse(text)?;
        let setup = Setup { counters: limits.counters, ..Setup::default() };
        let score = score_with(&scenario, scenario.seed, setup, &mut |_| ControlFlow::Continue(()));
        let score = score.with_context(|| format!("scenario {name}"))?;
        if !score.sound() {
            bail!(
                "scenario {name}: {} rules without tolerance were broken: {}",
                score.breaches,
                score.broken.join("; ")
            );
        }
        add(&mut table, limits, &score);
    }
    Ok(table)
}

fn add(table: &mut Table, limits: &Limits, score: &Score) {
    let name = format!("{}{}", limits.scenario, if limits.counters { ", counters" } else { "" });
    let mut row = vec![name.clone()];
    let mut judged = |row: &mut Vec<String>, what: &str, error: Option<f64>, limit: Option<f64>| match error {
        Some(error) => {
            row.extend(table.judge(&format!("{name}, {what}"), 100.0 * error.abs(), "%", limit));
        }
        None => row.extend(["–".to_owned(), "–".to_owned()]),
    };
    judged(&mut row, "processes", score.agent.cpu.mape, limits.cpu);
    row.push(percent(score.kepler.cpu.mape));
    judged(&mut row, "memory", score.agent.dram.mape, limits.dram);
    row.push(percent(score.kepler.dram.mape));
    for (kind, what) in [(ZoneKind::Package, "package floor"), (ZoneKind::Dram, "memory floor")] {
        let errors = score.counted(kind).filter_map(|z| Some(z.floor_at_10_min.as_ref()?.error().abs()));
        judged(&mut row, what, errors.max_by(f64::total_cmp), limits.floor);
    }
    judged(&mut row, "not under its name", score.agent.storm.map(|s| 1.0 - s), limits.storm.map(|s| s[0]));
    judged(&mut row, "beside the storm", score.agent.beside_storm, limits.storm.map(|s| s[1]));
    table.rows.push(row);
}

fn percent(error: Option<f64>) -> String {
    error.map_or_else(|| "–".to_owned(), |e| format!("{:.1} %", 100.0 * e))
}
