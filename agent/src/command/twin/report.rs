//! Scores as text: the table of `twin score` and the figures of the page on accuracy.

use ebbtide_proto::Energy;

use crate::attribution::floor::FloorKind;
use crate::source::ZoneKind;
use crate::source::discover::Role;
use crate::twin::score::{Accuracy, FloorScore, Score, ZoneScore};

/// Plain tables of 80 columns.
pub fn table(scores: &[Score]) -> String {
    let mut out = String::from("error of dynamic energy       processes            workloads    storms\n");
    errors(&mut out, ["SCENARIO", "CPU", "WORST", "DRAM", "NODE", "MAPE", "SUM", "NAMED", "BESIDE"]);
    for s in scores {
        accuracy(&mut out, &s.scenario, &s.agent);
        accuracy(&mut out, "  Kepler's formula", &s.kepler);
    }
    out.push_str("\nidle floor against the truth\n");
    floors(&mut out, ["SCENARIO", "ZONE", "10 MIN", "END", "IDLE ENERGY", "(KEPLER)"]);
    for (name, z) in zones(scores) {
        let [ten, end] = [&z.floor_at_10_min, &z.floor].map(|f| floor(f.as_ref()));
        floors(&mut out, [name, &z.zone, &ten, &end, &signed(z.idle_error), &signed(z.kepler_idle_error)]);
    }
    out.push_str("\nenergy of zones\n");
    energies(&mut out, ["SCENARIO", "ZONE", "TRUTH", "ERROR", "RESIDUAL", "GAPS"]);
    for (name, z) in zones(scores) {
        let [truth, residual] = [z.truth_j, z.residual_j].map(joules);
        energies(&mut out, [name, &z.zone, &truth, &format!("{:+.1} J", z.error_j), &residual, &gaps(z)]);
    }
    out.push_str(LEGEND);
    for s in scores.iter().filter(|s| !s.sound()) {
        out.push_str(&format!("\n{}: {} breaches of what must always hold\n", s.scenario, s.breaches));
        for b in &s.broken {
            out.push_str(&format!("  {b}\n"));
        }
    }
    if scores.iter().all(Score::sound) {
        let samples: u64 = scores.iter().map(|s| s.samples).sum();
        out.push_str(&format!("\n{samples} samples: every microjoule accounted for at every level, no total fell\n"));
    }
    out
}

const LEGEND: &str = "
CPU, DRAM, NODE  mean error of processes in packages, in memory, in the node
WORST            largest error of a process in packages
SUM              error of workloads weighted by energy
NAMED            energy of short-lived children found under their name
BESIDE           largest error of a steady process beside them
~                mostly the class of machine, not learned yet
–                nobody large enough to be judged, or shorter than that
";

fn errors(out: &mut String, c: [&str; 9]) {
    let [name, rest @ ..] = c;
    let cells: String = rest.iter().map(|c| format!(" {c:>6}")).collect();
    out.push_str(&format!("{name:<20}{cells}\n"));
}

fn floors(out: &mut String, [scenario, zone, ten, end, idle, kepler]: [&str; 6]) {
    out.push_str(&format!("{scenario:<19} {zone:<15} {ten:>9} {end:>9} {idle:>12} {kepler:>9}\n"));
}

fn energies(out: &mut String, [scenario, zone, truth, error, residual, gaps]: [&str; 6]) {
    out.push_str(&format!("{scenario:<18} {zone:<14} {truth:>7} {error:>8} {residual:>8}  {gaps}\n"));
}

/// The zones that make up the node, and the platform's; the scenario's name beside its first.
fn zones(scores: &[Score]) -> impl Iterator<Item = (&str, &ZoneScore)> {
    scores.iter().flat_map(|s| {
        let shown = s.zones.iter().filter(|z| z.role == Role::Total || z.kind == ZoneKind::Psys);
        shown.enumerate().map(|(n, z)| (if n == 0 { s.scenario.as_str() } else { "" }, z))
    })
}

fn accuracy(out: &mut String, name: &str, a: &Accuracy) {
    let c = [
        percent(a.cpu.mape),
        signed(a.cpu.worst),
        percent(a.dram.mape),
        percent(a.node.mape),
        percent(a.workloads.mape),
        percent(a.workloads.weighted),
        percent(a.storm),
        signed(a.beside_storm),
    ];
    errors(out, [name, &c[0], &c[1], &c[2], &c[3], &c[4], &c[5], &c[6], &c[7]]);
}

fn percent(x: Option<f64>) -> String {
    x.map_or("–".into(), |x| format!("{:.1}%", 100.0 * x))
}

fn signed(x: Option<f64>) -> String {
    x.map_or("–".into(), |x| format!("{:+.1}%", 100.0 * x))
}

fn floor(f: Option<&FloorScore>) -> String {
    f.map_or("–".into(), |f| {
        let mark = if f.kind == FloorKind::Prior { "~" } else { "" };
        format!("{mark}{:+.1}%", 100.0 * f.error())
    })
}

fn joules(j: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
    let uj = (j * 1e6) as u64;
    if uj == 0 { "0 J".into() } else { Energy::from_uj(uj).to_string() }
}

fn gaps(z: &ZoneScore) -> String {
    let counted = |(why, n): &(&str, u64)| if *n == 1 { (*why).to_owned() } else { format!("{n} {why}") };
    if z.gaps.is_empty() { "–".into() } else { z.gaps.iter().map(counted).collect::<Vec<_>>().join(", ") }
}

/// Errors of processes and floors only, the agent's.
fn brief(scores: &[Score]) -> String {
    let mut out = String::from("error of dynamic energy       processes            workloads    storms\n");
    errors(&mut out, ["SCENARIO", "CPU", "WORST", "DRAM", "NODE", "MAPE", "SUM", "NAMED", "BESIDE"]);
    for s in scores {
        accuracy(&mut out, &s.scenario, &s.agent);
    }
    out.push_str("\nidle floor against the truth\n");
    floors(&mut out, ["SCENARIO", "ZONE", "10 MIN", "END", "IDLE ENERGY", ""]);
    for (name, z) in zones(scores) {
        let [ten, end] = [&z.floor_at_10_min, &z.floor].map(|f| floor(f.as_ref()));
        floors(&mut out, [name, &z.zone, &ten, &end, &signed(z.idle_error), ""]);
    }
    out.lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

/// The page on accuracy: what was measured and how, and the figures, by time and with hardware counters.
pub fn markdown(scores: &[Score], counted: &[Score]) -> String {
    let mut list = String::new();
    for s in scores {
        list.push_str(&format!("| `{}` | {} | {:.0} s | {} |\n", s.scenario, s.about, s.seconds, s.seed));
    }
    format!("{HEAD}{list}{FIGURES}```\n{}```\n{COUNTED}```\n{}```\n", table(scores), brief(counted))
}

const HEAD: &str = "\
# Accuracy

The figures on this page are made by `ebbtide-agent twin score`; `EBBTIDE_BLESS=1 cargo test -p ebbtide-agent
--test twin -- --ignored` writes the page anew. Same scenario and seed, same figures: no machine's noise is in them.

## What is measured

The node twin simulates a machine down to the joule of each process and shows it as a fake `/proc` and `/sys`. The
agent reads those as it would a real machine's, once per simulated second, in its default configuration (idle energy
unallocated): once from `/proc` alone, with CPU time as the key, and once with hardware counters. What it says is
compared with the truth of the simulation:

- **Error of a process**: |agent − truth| / truth of its dynamic energy, the idle floor left out, over all the time in
  which the counter could be read without a gap. The mean is over processes with at least 0.5 % of all dynamic energy
  and at least 10 s of CPU time. The same for workloads by name, with their ended processes.
- **Idle floor**: what the agent believes that the zone draws when nothing runs, against the simulated floor, after
  ten minutes and at the end; and the idle energy that was booked over all the time without gap.
- **Energy of zones**: the agent's total against the truth over the whole run. What a counter lost when it was set
  back can't be known and is missing; it is counted as a gap. Energy of gaps is `RESIDUAL`: drawn, but by whom is not
  known.
- **Without tolerance**, at every sample: in each zone Σ processes + kernel + interrupts + unseen + idle + residual is
  what the zone drew; Σ users + system is Σ processes, kernel, interrupts and unseen; no kind of workload has more;
  each total is the last one plus what was added. A single microjoule makes `twin score` fail.

For comparison the formula that Kepler publishes is applied to the same samples: active energy is the zone's times
the node's CPU usage, the rest is idle; a process gets of it its part of the CPU time of all processes seen at the
sample. It is the formula that is compared, not that program.

## What the twin is not

A model, not a machine. Its processors follow α·C·f·V², two busy siblings draw 15 % more than one, memory draws by
traffic; what real ones do beyond that (sleep states, temperature, shared caches, prefetching, leakage that rises
with load) is not in it, and energy of memory depends on traffic alone, never on resident size. Its hardware counters
are exact, are there for every process that lives and start with it; real ones are multiplexed when others use them,
miss what runs before they are set up, and count misses of the last-level cache where the twin's count traffic itself:
its error in memory is the best that can be hoped for. Its scheduler is fair and simple. Each scenario says for
one thing whether the agent gets it right; a small error here is necessary for a small one on a machine, not
sufficient.

## Scenarios

| scenario | what for | length | seed |
|---|---|--:|--:|
";

const FIGURES: &str = "
## Figures, by CPU time

";

const COUNTED: &str = "
## Figures, with hardware counters

`ebbtide-agent twin score --counters`. Tasks weigh what their time, cycles, instructions and misses cost, and the floor
is learned from the same ([ADR 7](adr/0007-weights-by-counters.md)). What was aimed at for `mixed-instructions`, 4 % in
packages, is not reached: how long two siblings were busy together is estimated from how long each was, which is too
much for short work that the scheduler puts on free cores, and a price per instruction is less than wide vectors draw.

";
