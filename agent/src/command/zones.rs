//! `zones`: what tells energy on this machine.

use serde::Serialize;

use super::{Exit, print, sources};
use crate::config::{Settings, Wall};
use crate::source::discover::{Role, node_zones};
use crate::source::{Quality, Skipped, SourceKind, ZoneKind};

#[derive(Serialize)]
struct Report {
    zones: Vec<Row>,
    skipped: Vec<Skipped>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    id: String,
    kind: ZoneKind,
    source: SourceKind,
    role: Role,
    quality: Quality,
    /// Relative error, 0 to 1.
    error: f64,
    parent: Option<String>,
    socket: Option<u32>,
    /// Counter range in joules, if it wraps.
    range_j: Option<f64>,
    path: String,
}

/// Lists the zones.
pub fn run(settings: Settings, json: bool) -> anyhow::Result<Exit> {
    let discovery = sources(&settings, None);
    let zones = discovery.zones();
    let rows: Vec<Row> = zones
        .iter()
        .zip(node_zones(&zones))
        .map(|(z, role)| Row {
            name: z.name.clone(),
            id: z.id.to_string(),
            kind: z.kind,
            source: z.source,
            role,
            quality: z.quality,
            error: z.error.fraction(),
            parent: z.parent.as_ref().map(ToString::to_string),
            socket: z.socket,
            range_j: z.counter.range.map(|r| r.joules()),
            path: z.path.clone(),
        })
        .collect();
    let mut skipped = discovery.skipped;
    if settings.fleet.is_some() && settings.stream.wall == Wall::Auto {
        skipped.push(Skipped {
            what: "wall".to_owned(),
            why: "the fleet tells it only to the agent that runs, whose page has it".to_owned(),
            fix: None,
        });
    }
    let report = Report { zones: rows, skipped };
    if json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&report)?));
    }
    print(&table(&report))
}

fn table(report: &Report) -> String {
    let mut out = String::new();
    let line = |out: &mut String, c: [&str; 6]| {
        out.push_str(&format!("{:<22} {:<8} {:<9} {:<9} {:<9} {:>6}\n", c[0], c[1], c[2], c[3], c[4], c[5]));
    };
    line(&mut out, ["ZONE", "KIND", "SOURCE", "ROLE", "QUALITY", "ERROR"]);
    for z in &report.zones {
        let error = format!("±{:.0} %", z.error * 100.0);
        line(&mut out, [&z.name, z.kind.as_str(), z.source.as_str(), z.role.as_str(), z.quality.as_str(), &error]);
    }
    if report.zones.is_empty() {
        out.push_str("nothing tells energy here\n");
    }
    for s in &report.skipped {
        out.push_str(&format!("not used: {s}\n"));
    }
    out
}
