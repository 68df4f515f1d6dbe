//! `nodes`: what each node draws, and whether it is well.

use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use super::{counted, state_tint, sum, today, worst};
use crate::cli::args::NodesArgs;
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{ago, cpu, energy, power};
use crate::cli::output::{Answer, Output, Sheet, maybe};
use crate::cli::record::{Record, quality, state};
use crate::cli::table::{Cell, Column, Table, Tint};

struct Nodes(v1::ListNodesResponse);

/// Lists them.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &NodesArgs, output: &Output) -> Result<Exit, Failure> {
    let request = v1::ListNodesRequest { search: args.search.clone() };
    let answer = fleet.ask("asking for nodes", fleet.client().list_nodes(request)).await?;
    let empty = answer.nodes.is_empty();
    let troubles: Vec<_> = answer
        .nodes
        .iter()
        .filter(|n| !n.trouble.is_empty())
        .map(|n| format!("{} ({}): {}", n.name, state(n.state), n.trouble))
        .collect();
    output.show(&Nodes(answer))?;
    troubles.iter().for_each(|trouble| output.note(trouble));
    match (empty, args.search.is_empty()) {
        (true, true) => output.note("no node has joined yet; let one: ebbtide token create --node NAME"),
        (true, false) => output.note("no node's name contains that"),
        _ => {}
    }
    Ok(Exit::Ok)
}

impl Serialize for Nodes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.0).serialize(s)
    }
}

impl Answer for Nodes {
    fn table(&self, output: &Output) -> String {
        let v1::ListNodesResponse { nodes, now_ms } = &self.0;
        let mut nodes: Vec<&v1::Node> = nodes.iter().collect();
        // the unknown last, and by name where watts don't decide
        nodes.sort_by(|a, b| b.power_uw.cmp(&a.power_uw).then_with(|| a.name.cmp(&b.name)));
        let mut table = Table::new(&[
            Column::text("NODE"),
            Column::text("STATE"),
            Column::figure("W"),
            Column::figure("W idle").may_go(2),
            Column::figure("CPU %").may_go(3),
            Column::figure("TODAY").may_go(4),
            Column::figure("LAST").may_go(1),
            Column::figure("WORKLOADS").wide(),
            Column::figure("CPUS").wide(),
            Column::text("AGENT").wide(),
            Column::text("QUALITY").wide(),
            Column::text("ADDRESS").wide(),
            Column::text("MACHINE").wide(),
        ]);
        for n in &nodes {
            let machine = n.machine.clone().unwrap_or_default();
            table.row([
                Cell::from(&n.name),
                Cell::tinted(state(n.state), state_tint(n.state)),
                Cell::tinted(power(n.power_uw, n.quality), Tint::Figure),
                power(n.idle_uw, n.quality).into(),
                cpu(n.cpu_milli).into(),
                today(n, n.quality).into(),
                ago(n.last_ms, *now_ms).into(),
                n.workloads.to_string().into(),
                machine.cpus.to_string().into(),
                (&n.agent_version).into(),
                quality(n.quality).into(),
                (&n.address).into(),
                (&machine.cpu_model).into(),
            ]);
        }
        if nodes.len() > 1 {
            let known = || nodes.iter().filter(|n| n.power_uw.is_some());
            let quality = worst(known().map(|n| n.quality));
            let heard = || nodes.iter().filter(|n| n.last_ms > 0);
            let today = sum(heard().map(|n| Some(n.today_uj)));
            table.row([
                Cell::tinted(counted(nodes.len(), "node"), Tint::Bold),
                "".into(),
                Cell::tinted(power(sum(nodes.iter().map(|n| n.power_uw)), quality), Tint::Figure),
                power(sum(nodes.iter().map(|n| n.idle_uw)), quality).into(),
                cpu(sum(nodes.iter().map(|n| n.cpu_milli))).into(),
                energy(today, worst(heard().map(|n| n.quality))).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "name",
            "state",
            "power_uw",
            "idle_uw",
            "quality",
            "cpu_milli",
            "today_uj",
            "gap_today_ms",
            "last_ms",
            "since_ms",
            "workloads",
            "cpus",
            "agent_version",
            "address",
            "cpu_model",
            "trouble",
        ]);
        for n in &self.0.nodes {
            let machine = n.machine.clone().unwrap_or_default();
            sheet.row([
                n.name.clone(),
                state(n.state),
                maybe(n.power_uw),
                maybe(n.idle_uw),
                quality(n.quality),
                maybe(n.cpu_milli),
                n.today_uj.to_string(),
                n.gap_today_ms.to_string(),
                n.last_ms.to_string(),
                n.since_ms.to_string(),
                n.workloads.to_string(),
                machine.cpus.to_string(),
                n.agent_version.clone(),
                n.address.clone(),
                machine.cpu_model,
                n.trouble.clone(),
            ]);
        }
        sheet
    }
}
