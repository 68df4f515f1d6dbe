//! `node`: one node, its zones and what runs on it.

use std::time::Duration;

use ebbtide_proto::series::{Component, ZoneKind};
use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use super::{counted, state_tint, workloads, zones};
use crate::cli::args::NodeArgs;
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{UNKNOWN, ago, cpu, energy, power, span};
use crate::cli::output::{Answer, Output, Sheet, maybe};
use crate::cli::record::{Record, quality, state, zone_kind};
use crate::cli::table::{Cell, Column, Table, Tint, fit};

struct Answered {
    limit: usize,
    answer: v1::GetNodeResponse,
}

/// Shows it.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &NodeArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::GetNodeRequest { name: args.name.clone() };
    let answer = fleet.answer("asking for the node", fleet.client().get_node(request)).await;
    let answer = answer.map_err(|status| {
        let failure = fleet.refused(&status);
        match status.code() {
            tonic::Code::NotFound => failure.next("see which there are: ebbtide nodes"),
            _ => failure,
        }
    })?;
    output.show(&Answered { limit: args.limit, answer })?;
    Ok(Exit::Ok)
}

impl Serialize for Answered {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.answer).serialize(s)
    }
}

impl Answer for Answered {
    fn table(&self, output: &Output) -> String {
        let node = self.answer.node.clone().unwrap_or_default();
        let now = self.answer.now_ms;
        let mut out = String::new();
        for (text, tint) in head(&node, now) {
            let text = crate::cli::failure::printable(&text);
            let text = output.look.width.map_or_else(|| text.clone(), |width| fit(&text, width));
            out.push_str(&tint.paint(&text, output.look.colour));
            out.push('\n');
        }
        if !node.zones.is_empty() {
            out.push('\n');
            out.push_str(&zone_table(&node.zones).render(output.look));
        }
        let all = &self.answer.workloads;
        if !all.is_empty() {
            let table = workloads::table("WORKLOAD", all.iter().take(self.limit), false);
            out.push('\n');
            out.push_str(&table.render(output.look));
            let more = all.len().saturating_sub(self.limit);
            if more > 0 {
                out.push_str(&format!("{} more: --limit {}\n", counted(more, "workload"), all.len()));
            }
        }
        out
    }

    fn csv(&self) -> Sheet {
        let node = self.answer.node.clone().unwrap_or_default();
        let mut sheet = Sheet::new(&["what", "id", "name", "power_uw", "idle_uw", "energy_uj", "cpu_milli", "quality"]);
        sheet.row([
            "node".to_owned(),
            node.name.clone(),
            node.name.clone(),
            maybe(node.power_uw),
            maybe(node.idle_uw),
            String::new(),
            maybe(node.cpu_milli),
            quality(node.quality),
        ]);
        for z in &node.zones {
            let zone = z.zone.clone().unwrap_or_default();
            sheet.row([
                "zone".to_owned(),
                zone.id,
                zone.name,
                maybe(z.power_uw),
                maybe(z.idle_uw),
                z.energy_uj.to_string(),
                String::new(),
                quality(zone_quality(z)),
            ]);
        }
        for w in &self.answer.workloads {
            sheet.row([
                "workload".to_owned(),
                w.id.clone(),
                w.name.clone(),
                maybe(w.power_uw),
                maybe(w.idle_uw),
                String::new(),
                maybe(w.cpu_milli),
                quality(w.quality),
            ]);
        }
        sheet
    }
}

/// What is said of the node itself, line by line.
fn head(node: &v1::Node, now_ms: u64) -> Vec<(String, Tint)> {
    let or_unknown = |text: &str| if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() };
    let since = match node.since_ms {
        0 => String::new(),
        at => format!(" for {}", span(Duration::from_millis(now_ms.saturating_sub(at)))),
    };
    let heard = match node.last_ms {
        0 => "never heard".to_owned(),
        at => format!("heard {}", ago(at, now_ms)),
    };
    let tint = match state_tint(node.state) {
        Tint::Good => Tint::Bold,
        other => other,
    };
    let mut lines = vec![
        (format!("{} · {}{since} · {heard}", node.name, state(node.state)), tint),
        (ledger(node), Tint::Figure),
        (
            format!(
                " idle {} · CPU {} % · today {}{} · {}",
                power(node.idle_uw, node.quality),
                cpu(node.cpu_milli),
                super::today(node, node.quality),
                gap(node.gap_today_ms),
                counted(node.workloads as usize, "workload"),
            ),
            Tint::Plain,
        ),
    ];
    if let Some(machine) = &node.machine {
        let cpus = counted(machine.cpus as usize, "CPU");
        let sockets = counted(machine.sockets as usize, "socket");
        let (model, architecture) = (or_unknown(&machine.cpu_model), or_unknown(&machine.architecture));
        lines.push((format!(" {model} · {cpus} · {sockets} · {architecture}"), Tint::Plain));
    }
    let machine = node.machine.clone().unwrap_or_default();
    lines.push((
        format!(
            " agent {} · usage by {} · idle energy {} · at {}",
            or_unknown(&node.agent_version),
            or_unknown(&machine.usage_method),
            or_unknown(&machine.idle_policy),
            or_unknown(&node.address),
        ),
        Tint::Plain,
    ));
    if !node.trouble.is_empty() {
        lines.push((format!(" trouble: {}", node.trouble), Tint::Bad));
    }
    lines
}

fn gap(ms: u64) -> String {
    match ms {
        0 => String::new(),
        ms => format!(" ({} of it unknown)", span(Duration::from_millis(ms))),
    }
}

/// `212 W = cpu 141 W + dram 22 W + rest 49 W`: of the zones that count.
fn ledger(node: &v1::Node) -> String {
    let component = |z: &v1::ZonePower| {
        let zone = z.zone.as_ref().filter(|zone| zone.counts)?;
        Some(ZoneKind::from_wire(zone.kind).map_or(Component::Rest, ZoneKind::component))
    };
    let part = |wanted: Component| {
        let mut of = node.zones.iter().filter(|z| component(z) == Some(wanted)).peekable();
        of.peek()?;
        Some(format!("{} {}", wanted.as_str(), power(super::sum(of.map(|z| z.power_uw)), 1)))
    };
    let parts: Vec<_> = Component::ALL.into_iter().filter_map(part).collect();
    let whole = power(node.power_uw, node.quality);
    match parts.len() {
        0 | 1 => format!(" {whole}"),
        _ => format!(" {whole} = {}", parts.join(" + ")),
    }
}

fn zone_quality(z: &v1::ZonePower) -> i32 {
    if z.stale { v1::Quality::Stale.into() } else { z.zone.as_ref().map_or(0, |zone| zone.quality) }
}

fn zone_table(powers: &[v1::ZonePower]) -> Table {
    let mut table = Table::new(&[
        Column::text("ZONE"),
        Column::text("KIND"),
        Column::figure("W"),
        Column::figure("W idle").may_go(2),
        Column::figure("SINCE BOOT").may_go(1),
        Column::figure("ERROR").may_go(3),
        Column::text("COUNTS"),
        Column::text("SOURCE").wide(),
        Column::text("ID").wide(),
    ]);
    for z in powers {
        let zone = z.zone.clone().unwrap_or_default();
        let quality = zone_quality(z);
        table.row([
            Cell::from(&zone.name),
            zone_kind(zone.kind).into(),
            Cell::tinted(power(z.power_uw, quality), Tint::Figure),
            power(z.idle_uw, quality).into(),
            energy(Some(z.energy_uj), quality).into(),
            zones::error(&zone).into(),
            if zone.counts { "yes" } else { "no" }.into(),
            (&zone.source).into(),
            (&zone.id).into(),
        ]);
    }
    table
}
