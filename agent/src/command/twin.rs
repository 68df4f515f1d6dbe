//! `twin`: plays a simulated machine into a folder, and `twin score`: measures the agent against it.

mod report;

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ebbtide_proto::{Energy, Power};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, print};
use crate::source::ZoneKind;
use crate::twin::score::{Score, ScoreError, Setup, score_with};
use crate::twin::{SCENARIOS, Scenario, Truth, Twin, run_live};

pub use report::{markdown, table};

/// Plays a scenario below `out` until its end, or until SIGINT or SIGTERM.
pub fn play(
    scenario: &Path,
    out: &Path,
    seed: Option<u64>,
    speed: f64,
    duration: Option<Duration>,
) -> anyhow::Result<Exit> {
    let mut scenario = find(scenario)?;
    scenario.seed = seed.unwrap_or(scenario.seed);
    scenario.duration_s = duration.map_or(scenario.duration_s, |d| d.as_secs_f64());
    let mut line = StatusLine::new();
    line.say(&format!("plays {} below {} for {:.0} s", scenario.name, out.display(), scenario.duration_s));
    line.say(&format!("measure it:  ebbtide-agent run --root {}", out.display()));
    if speed != 1.0 {
        line.say(&format!(
            "time runs {speed} times as fast: so do the counters, and watts read there are as many times"
        ));
    }
    let end = scenario.duration_s;
    let (mut before, mut told) = (Energy::ZERO, Duration::ZERO);
    until_stopped(|stop| {
        run_live(&scenario, out, speed, stop, &mut |twin: &Twin| {
            let passed = twin.elapsed().saturating_sub(told);
            if passed < Duration::from_secs(1) {
                return;
            }
            let drawn = node_energy(twin.truth());
            let watts = drawn.saturating_sub(before).over(passed).unwrap_or(Power::ZERO);
            line.show(&format!("{:.0} of {end:.0} s  {watts}", twin.elapsed().as_secs_f64()));
            (before, told) = (drawn, twin.elapsed());
        })
    })?
    .with_context(|| format!("can't play below {}", out.display()))?;
    line.clear();
    line.say(&format!("the truth is in {}", out.join("truth.csv").display()));
    Ok(Exit::Ok)
}

/// Packages and memory, each once.
fn node_energy(truth: &Truth) -> Energy {
    let counts = |kind| matches!(kind, ZoneKind::Package | ZoneKind::Dram);
    truth.zones.iter().filter(|z| counts(z.kind) && !z.id.starts_with("mmio/")).map(|z| z.total).sum()
}

/// Plays scenarios in simulated time and prints how far the agent is from the truth.
///
/// [`Exit::Failed`] if a rule without tolerance was broken: a microjoule missing, a total that fell.
pub fn score(scenario: Option<&Path>, seed: Option<u64>, counters: bool, json: bool) -> anyhow::Result<Exit> {
    let scenarios = match scenario {
        Some(path) => vec![find(path)?],
        None => SCENARIOS.iter().map(|(_, text)| Ok(Scenario::parse(text)?)).collect::<anyhow::Result<_>>()?,
    };
    let setup = Setup { counters, ..Setup::default() };
    let mut line = StatusLine::new();
    let scores = until_stopped(|stop| {
        let all = scenarios.iter().enumerate();
        all.map(|(n, s)| one(s, seed.unwrap_or(s.seed), setup, (n + 1, scenarios.len()), &mut line, stop))
            .collect::<anyhow::Result<Vec<Score>>>()
    })??;
    line.clear();
    let text = if json { format!("{}\n", serde_json::to_string_pretty(&scores)?) } else { table(&scores) };
    print(&text)?;
    Ok(if scores.iter().all(Score::sound) { Exit::Ok } else { Exit::Failed })
}

fn one(
    scenario: &Scenario,
    seed: u64,
    setup: Setup,
    (n, of): (usize, usize),
    line: &mut StatusLine,
    stop: &AtomicBool,
) -> anyhow::Result<Score> {
    let mut told = Duration::ZERO;
    let score = score_with(scenario, seed, setup, &mut |sample| {
        if sample.elapsed >= told {
            told = sample.elapsed + Duration::from_secs(10);
            let percent = 100.0 * sample.elapsed.as_secs_f64() / scenario.duration_s;
            line.show(&format!("{n} of {of}  {}  {percent:.0} %", scenario.name));
        }
        if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    match score {
        Err(ScoreError::Stopped) => bail!("stopped before the end of {}", scenario.name),
        other => other.with_context(|| format!("can't score {}", scenario.name)),
    }
}

/// A scenario by the name of one that comes with the agent, or from a file.
fn find(name: &Path) -> anyhow::Result<Scenario> {
    if let Some((_, text)) = SCENARIOS.iter().find(|(n, _)| Path::new(n) == name) {
        return Ok(Scenario::parse(text)?);
    }
    let plain = name.components().count() == 1 && name.extension().is_none();
    if plain && !name.exists() {
        let known: Vec<&str> = SCENARIOS.iter().map(|(n, _)| *n).collect();
        let (name, known) = (name.display(), known.join(", "));
        bail!("there is no scenario {name} and no file of that name; these come with the agent: {known}");
    }
    Scenario::read(name).with_context(|| format!("can't use {}", name.display()))
}

/// Runs `work` on a thread and sets its flag at SIGINT or SIGTERM; returns when it has ended.
fn until_stopped<T: Send>(work: impl FnOnce(&AtomicBool) -> T + Send) -> anyhow::Result<T> {
    let stop = AtomicBool::new(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut int, mut term) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::scope(|scope| {
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        let stop = &stop;
        let worker = scope.spawn(move || {
            // dropped at the end, also of a panic
            let _done = done;
            work(stop)
        });
        runtime.block_on(async {
            tokio::select! {
                _ = int.recv() => stop.store(true, Ordering::Relaxed),
                _ = term.recv() => stop.store(true, Ordering::Relaxed),
                _ = ended => {}
            }
        });
        worker.join().map_err(|_| anyhow::anyhow!("the thread that plays panicked"))
    })
}

/// One line on stderr that is written again and again, if that is a terminal. That nobody reads it is no failure.
struct StatusLine {
    terminal: bool,
}

impl StatusLine {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        writeln!(std::io::stderr(), "{text}").ok();
    }

    fn show(&mut self, text: &str) {
        if self.terminal {
            write!(std::io::stderr(), "\r\x1b[K{text}").ok();
        }
    }

    fn clear(&mut self) {
        self.show("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_lists_those_there_are() {
        let e = find(Path::new("stedy-mix")).unwrap_err().to_string();
        assert!(e.contains("no scenario stedy-mix") && e.contains("steady-mix, suspend"), "{e}");
        assert_eq!(find(Path::new("steady-mix")).unwrap().name, "steady-mix");
        let e = format!("{:#}", find(Path::new("/nowhere/x.toml")).unwrap_err());
        assert!(e.contains("/nowhere/x.toml") && e.contains("No such file"), "{e}");
    }

    #[test]
    fn a_table_has_at_most_80_columns_and_every_scenario() {
        let scores = [("fork-storm", 30.0), ("suspend", 210.0)].map(|(name, seconds)| {
            let mut s = find(Path::new(name)).unwrap();
            s.duration_s = seconds;
            crate::twin::score::score(&s, 1).unwrap()
        });
        let text = table(&scores);
        assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
        assert!(text.contains("\nfork-storm ") && text.contains("\n242 samples: every microjoule"), "{text}");
        assert!(markdown(&scores, &scores).contains("| `fork-storm` | "));
    }
}
