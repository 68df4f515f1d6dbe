//! How far attributed energy is from the truth, on simulated machines whose truth is known.
//!
//! The same figures as `ebbtide-agent twin score`, for those of its scenarios that have a target.

use anyhow::{Context as _, bail};
use ebbtide_agent::source::ZoneKind;
use ebbtide_agent::twin::score::{Score, score};
use ebbtide_agent::twin::{SCENARIOS, Scenario};

use crate::report::Table;

/// Limits for one scenario, in percent; absent where there is none.
struct Limits {
    scenario: &'static str,
    /// Mean error of processes in the packages.
    cpu: Option<f64>,
    /// Error of the idle floor after ten minutes, of the worst zone of each kind.
    floor: Option<f64>,
    /// Energy of short-lived children that is not under their name, and error of who runs beside them.
    storm: Option<[f64; 2]>,
}

const LIMITS: [Limits; 5] = [
    Limits { scenario: "steady-mix", cpu: Some(8.0), floor: Some(3.0), storm: None },
    Limits { scenario: "never-idle", cpu: Some(8.0), floor: Some(3.0), storm: None },
    Limits { scenario: "never-idle-smt", cpu: Some(8.0), floor: Some(3.0), storm: None },
    Limits { scenario: "fork-storm", cpu: None, floor: None, storm: Some([1.0, 2.0]) },
    // its limits are those of hardware counters, which tell apart what instructions cost
    Limits { scenario: "mixed-instructions", cpu: None, floor: None, storm: None },
];

/// Plays the scenarios; only the first if it is to be `quick`.
pub(crate) fn measure(quick: bool) -> anyhow::Result<Table> {
    let mut table = Table::new(
        "Accuracy",
        "Mean error of the dynamic energy of processes on simulated machines, by CPU time alone (no hardware counters), in \
         the packages and in memory; in brackets the same of Kepler's formula on the same samples. The error of the learned \
         idle floor after ten minutes, of packages and of memory. Of processes of 50 ms: how much of their energy is not under their name, and \
         the largest error of a steady process beside them. `ebbtide-agent twin score` has more of it.",
        &[
            "scenario",
            "processes",
            "target",
            "(Kepler)",
            "memory",
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
        let score = score(&scenario, scenario.seed).with_context(|| format!("scenario {name}"))?;
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
    let mut row = vec![limits.scenario.to_owned()];
    let mut judged = |row: &mut Vec<String>, what: &str, error: Option<f64>, limit: Option<f64>| match error {
        Some(error) => {
            row.extend(table.judge(&format!("{}, {what}", limits.scenario), 100.0 * error.abs(), "%", limit));
        }
        None => row.extend(["–".to_owned(), "–".to_owned()]),
    };
    judged(&mut row, "processes", score.agent.cpu.mape, limits.cpu);
    row.extend([percent(score.kepler.cpu.mape), percent(score.agent.dram.mape), percent(score.kepler.dram.mape)]);
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
