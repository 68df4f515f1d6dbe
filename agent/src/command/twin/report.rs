//! Scores as text.

use std::fmt::Write as _;

use ebbtide_proto::Energy;

use crate::attribution::floor::FloorKind;
use crate::source::ZoneKind;
use crate::source::discover::Role;
use crate::twin::score::{Accuracy, FloorScore, Score, ZoneScore};

/// A plain table of 80 columns.
pub fn table(scores: &[Score]) -> String {
    let mut out = String::from("error of dynamic energy       processes            workloads   beside\n");
    let head = ["SCENARIO", "CPU", "WORST", "DRAM", "NODE", "MAPE", "SUM", "STORM", "STORM"];
    row(&mut out, head);
    for s in scores {
        accuracy(&mut out, &s.scenario, &s.agent);
        accuracy(&mut out, "  Kepler's formula", &s.kepler);
    }
    let _ = writeln!(
        out,
        "\n{:<19} {:<16} {:>9} {:>9} {:>11} {:>11}",
        "idle floor", "ZONE", "10 MIN", "END", "IDLE ENERGY", "(KEPLER)"
    );
    for s in scores {
        let mut name = s.scenario.as_str();
        for z in s.zones.iter().filter(|z| z.role == Role::Total || z.kind == ZoneKind::Psys) {
            let _ = writeln!(
                out,
                "{:<19} {:<16} {:>9} {:>9} {:>11} {:>11}",
                name,
                z.zone,
                floor(z.floor_at_10_min.as_ref()),
                floor(z.floor.as_ref()),
                signed(z.idle_error),
                signed(z.kepler_idle_error),
            );
            name = "";
        }
    }
    let _ =
        writeln!(out, "\n{:<19} {:<16} {:>9} {:>10} {:>9}  {}", "energy", "ZONE", "TRUTH", "ERROR", "RESIDUAL", "GAPS");
    for s in scores {
        let mut name = s.scenario.as_str();
        for z in s.zones.iter().filter(|z| z.role == Role::Total || z.kind == ZoneKind::Psys) {
            let truth = joules(z.truth_j);
            let _ = writeln!(
                out,
                "{:<19} {:<16} {:>9} {:>10} {:>9}  {}",
                name,
                z.zone,
                truth,
                format!("{:+.1} J", z.error_j),
                joules(z.residual_j),
                gaps(z)
            );
            name = "";
        }
    }
    out.push_str(
        "\nCPU, DRAM, NODE: mean error of processes in packages, memory, all. SUM: weighted by\n\
         energy. ~ marks a floor that is mostly the class of machine, not learned yet.\n",
    );
    for s in scores {
        if s.sound() {
            continue;
        }
        let _ = writeln!(out, "\n{}: {} breaches of what must always hold:", s.scenario, s.breaches);
        for b in &s.broken {
            let _ = writeln!(out, "  {b}");
        }
    }
    if scores.iter().all(Score::sound) {
        let samples: u64 = scores.iter().map(|s| s.samples).sum();
        let _ = writeln!(out, "{samples} samples: every microjoule accounted for at every level, no total fell.");
    }
    out
}

fn row(out: &mut String, c: [&str; 9]) {
    let _ = writeln!(
        out,
        "{:<19} {:>6} {:>7} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6}",
        c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    );
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
    row(out, [name, &c[0], &c[1], &c[2], &c[3], &c[4], &c[5], &c[6], &c[7]]);
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
    let mut all: Vec<String> = z.gaps.iter().map(|(why, n)| format!("{n} {why}")).collect();
    if z.wraps > 0 {
        all.push(format!("({} wraps)", z.wraps));
    }
    if all.is_empty() { "–".into() } else { all.join(" ") }
}

/// The figures as a page of documentation.
pub fn markdown(scores: &[Score]) -> String {
    format!("```\n{}```\n", table(scores))
}
