//! The twin with the machine's own clock, for agents that run as a process of their own.

use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Scenario, Truth, Twin};
use crate::clock;

/// The shortest time between two states of the tree.
const TICK: Duration = Duration::from_millis(20);

/// Plays `scenario` in real time below `out` until `stop` is set or the scenario's duration is over.
///
/// `out/proc` and `out/sys` are the tree, `out/truth.csv` and `out/truth.json` the truth: renewed every
/// second and at the end, each replaced as a whole. The tree's clocks are this machine's, so sleep
/// can't be played: a suspend event only counts as due. `progress` is called after each state.
///
/// `speed` scenario seconds pass in one second. If that isn't 1, the tree has clocks of its own, and whoever reads
/// it by this machine's clock sees `speed` times the watts and CPU time.
///
/// # Errors
/// As [`Twin::write`].
pub fn run_live(
    scenario: &Scenario,
    out: &Path,
    speed: f64,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Twin),
) -> io::Result<()> {
    let mut twin = Twin::starting_at(scenario, scenario.seed, clock::now());
    let mut told = twin.now();
    let mut last = twin.now();
    twin.write(out)?;
    while !stop.load(Ordering::Relaxed) && twin.elapsed() < scenario.duration() {
        let begun = clock::now();
        let passed = Duration::try_from_secs_f64(begun.since(last).as_secs_f64() * speed).unwrap_or(Duration::MAX);
        twin.step(passed.min(scenario.duration() - twin.elapsed()));
        last = begun;
        if speed == 1.0 {
            // no drift between the clocks, whatever was played or rounded
            twin.now = begun;
        }
        twin.write(out)?;
        if begun.since(told) >= Duration::from_secs(1) {
            write_truth(out, twin.truth())?;
            told = begun;
        }
        progress(&twin);
        // a slow disk may take at most a quarter of the time
        let took = clock::now().since(begun);
        std::thread::sleep(TICK.max(took * 4).saturating_sub(took));
    }
    write_truth(out, twin.truth())
}

fn write_truth(out: &Path, truth: &Truth) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(truth)?;
    for (name, text) in [("truth.csv", truth.to_csv().into_bytes()), ("truth.json", json)] {
        let part = out.join(format!(".{name}.part"));
        std::fs::File::create(&part)?.write_all(&text)?;
        std::fs::rename(part, out.join(name))?;
    }
    Ok(())
}
