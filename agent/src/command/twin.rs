//! `twin`: plays a simulated machine into a folder, and `twin score`: measures the agent against it.

mod report;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::{Exit, print};
use crate::twin::score::{Score, score_with};
use crate::twin::{SCENARIOS, Scenario};

pub use report::{markdown, table};

/// Plays a scenario below `out`.
pub fn play(
    _scenario: &Path,
    _out: &Path,
    _seed: Option<u64>,
    _speed: f64,
    _duration: Option<Duration>,
) -> anyhow::Result<Exit> {
    Ok(Exit::Ok)
}

/// Plays scenarios in simulated time and prints how far the agent is from the truth.
///
/// [`Exit::Failed`] if a rule without tolerance was broken: a microjoule missing, a total that fell.
pub fn score(scenario: Option<&Path>, seed: Option<u64>, json: bool) -> anyhow::Result<Exit> {
    let scenarios = match scenario {
        Some(path) => vec![find(path)?],
        None => SCENARIOS.iter().map(|(_, text)| Ok(Scenario::parse(text)?)).collect::<anyhow::Result<_>>()?,
    };
    let mut scores = Vec::new();
    for (n, s) in scenarios.iter().enumerate() {
        scores.push(one(s, seed.unwrap_or(s.seed), (n + 1, scenarios.len()))?);
    }
    let text = if json { format!("{}\n", serde_json::to_string_pretty(&scores)?) } else { table(&scores) };
    print(&text)?;
    Ok(if scores.iter().all(Score::sound) { Exit::Ok } else { Exit::Failed })
}

fn one(scenario: &Scenario, seed: u64, (n, of): (usize, usize)) -> anyhow::Result<Score> {
    let mut err = std::io::stderr();
    let terminal = err.is_terminal();
    let mut told = Duration::ZERO;
    let score = score_with(scenario, seed, &mut |sample| {
        if terminal && sample.elapsed >= told {
            told = sample.elapsed + Duration::from_secs(10);
            let percent = 100.0 * sample.elapsed.as_secs_f64() / scenario.duration_s;
            // whoever closed stderr doesn't want to know
            write!(err, "\r\x1b[K{n}/{of} {} {percent:.0} %", scenario.name).ok();
        }
    });
    if terminal {
        write!(err, "\r\x1b[K").ok();
    }
    score.with_context(|| format!("scenario {}", scenario.name))
}

/// A scenario by the name of one that comes with the agent, or from a file.
fn find(name: &Path) -> anyhow::Result<Scenario> {
    if let Some((_, text)) = SCENARIOS.iter().find(|(n, _)| Path::new(n) == name) {
        return Ok(Scenario::parse(text)?);
    }
    let plain = name.components().count() == 1 && name.extension().is_none();
    if plain && !name.exists() {
        let known: Vec<&str> = SCENARIOS.iter().map(|(n, _)| *n).collect();
        bail!(
            "there is no scenario {:?} and no file of that name; built in are {}",
            name.display().to_string(),
            known.join(", ")
        );
    }
    Scenario::read(name).with_context(|| format!("scenario {}", name.display()))
}
