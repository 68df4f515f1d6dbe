//! `workloads`: what draws power now.

use ebbtide_proto::v1;
use serde::{Serialize, Serializer};

use super::{sum, worst};
use crate::cli::args::{Kind, WorkloadsArgs};
use crate::cli::connect::Fleet;
use crate::cli::failure::{Exit, Failure};
use crate::cli::figure::{count, cpu, power};
use crate::cli::output::{Answer, Output, Sheet, maybe};
use crate::cli::record::{Record, quality};
use crate::cli::table::{Cell, Column, Table, Tint};

struct Workloads {
    by: Kind,
    answer: v1::ListWorkloadsResponse,
}

/// Lists them.
pub(in crate::cli) async fn run(fleet: &Fleet, args: &WorkloadsArgs, output: &Output) -> Result<Exit, Failure> {
    let mut by = args.by.unwrap_or(Kind::App);
    let mut answer = ask(fleet, args, by).await?;
    if args.by.is_none() && output.is_for_people() {
        // a machine without pods and units has something else
        for other in [Kind::Container, Kind::Vm, Kind::User] {
            if answer.workloads.is_empty() {
                (by, answer) = (other, ask(fleet, args, other).await?);
            }
        }
    }
    let empty = answer.workloads.is_empty();
    output.show(&Workloads { by, answer })?;
    if empty {
        let narrowed = !args.search.is_empty() || !args.node.is_empty();
        output.note(match narrowed {
            true => "nothing that was asked for draws power",
            false if args.by.is_none() => "nothing is known to draw power; do nodes tell of any? ebbtide nodes -o wide",
            false => "nothing of this kind is known; try another: --by pod, container, unit, vm, user or app",
        });
    }
    Ok(Exit::Ok)
}

async fn ask(fleet: &Fleet, args: &WorkloadsArgs, by: Kind) -> Result<v1::ListWorkloadsResponse, Failure> {
    let request = v1::ListWorkloadsRequest {
        by: by.wire().into(),
        node: args.node.clone(),
        search: args.search.clone(),
        limit: args.limit,
    };
    fleet.ask("asking for workloads", fleet.client().list_workloads(request)).await
}

/// The name for people, or else the id.
pub(super) fn name(workload: &v1::WorkloadPower) -> &str {
    if workload.name.is_empty() { &workload.id } else { &workload.name }
}

/// Where it runs, for people.
pub(super) fn place(workload: &v1::WorkloadPower) -> String {
    match (workload.node.as_str(), workload.nodes) {
        ("", n) => format!("{n} nodes"),
        (node, _) => node.to_owned(),
    }
}

impl Serialize for Workloads {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Record(&self.answer).serialize(s)
    }
}

impl Answer for Workloads {
    fn table(&self, output: &Output) -> String {
        let v1::ListWorkloadsResponse { workloads, total, .. } = &self.answer;
        let mut table = table(self.by.head(), workloads.iter(), true);
        if workloads.len() > 1 {
            let missing = (*total as usize).saturating_sub(workloads.len());
            let name = if missing == 0 {
                format!("{} in all", count(workloads.len() as u64))
            } else {
                format!("{} of {} ({} draw less)", workloads.len(), count((*total).into()), count(missing as u64))
            };
            let quality = worst(workloads.iter().filter(|w| w.power_uw.is_some()).map(|w| w.quality));
            table.row([
                Cell::tinted(name, Tint::Bold),
                "".into(),
                Cell::tinted(power(sum(workloads.iter().map(|w| w.power_uw)), quality), Tint::Figure),
                power(sum(workloads.iter().map(|w| w.idle_uw)), quality).into(),
                cpu(sum(workloads.iter().map(|w| w.cpu_milli))).into(),
            ]);
        }
        table.render(output.look)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&[
            "id",
            "name",
            "node",
            "power_uw",
            "idle_uw",
            "cpu_milli",
            "quality",
            "nodes",
            "members",
            "labels",
        ]);
        for w in &self.answer.workloads {
            let labels: Vec<_> = w.labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
            sheet.row([
                w.id.clone(),
                w.name.clone(),
                w.node.clone(),
                maybe(w.power_uw),
                maybe(w.idle_uw),
                maybe(w.cpu_milli),
                quality(w.quality),
                w.nodes.to_string(),
                w.members.to_string(),
                labels.join(";"),
            ]);
        }
        sheet
    }
}

/// A table of workloads, where they run beside them if `with_place`.
pub(super) fn table<'a>(
    head: &'static str,
    workloads: impl Iterator<Item = &'a v1::WorkloadPower>,
    with_place: bool,
) -> Table {
    let place_column = Column::text("NODE").may_go(3);
    let mut table = Table::new(&[
        Column::text(head),
        if with_place { place_column } else { place_column.wide() },
        Column::figure("W"),
        Column::figure("W idle").may_go(2),
        Column::figure("CPU %").may_go(1),
        Column::figure("MEMBERS").wide(),
        Column::text("QUALITY").wide(),
        Column::text("ID").wide(),
    ]);
    for w in workloads {
        table.row([
            Cell::from(name(w)),
            place(w).into(),
            Cell::tinted(power(w.power_uw, w.quality), Tint::Figure),
            power(w.idle_uw, w.quality).into(),
            cpu(w.cpu_milli).into(),
            w.members.to_string().into(),
            quality(w.quality).into(),
            (&w.id).into(),
        ]);
    }
    table
}
