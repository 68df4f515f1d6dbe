//! Ebbtide's own metric names.

use super::page::{Context, Family, Lines, Section, label_set, section};
use crate::config::Label;
use crate::counter::Gap;
use crate::snapshot::{GroupRow, RowView, TaskRow, ZoneState};
use crate::source::discover::Role;
use ebbtide_proto::{Energy, Power, WorkloadKind};

/// Place of this page's label sets in [`crate::snapshot::TaskLabels::rendered`].
const RENDERED: usize = 0;

/// The sections of the page, in its order.
pub static SECTIONS: &[Section] = &[
    section!("ebbtide_build_info", Gauge, "Always 1; the labels tell which agent this is.", ["version"], Once(build)),
    section!(
        "ebbtide_node_info",
        Gauge,
        "Always 1; the labels tell what is measured.",
        ["node", "cpu", "idle_policy"],
        Once(node)
    ),
    section!(
        "ebbtide_zone_info",
        Gauge,
        "Always 1; the labels tell what each zone is, where it is read, whether it answers (state) and how good its figures are (quality).",
        ["zone", "kind", "source", "role", "state", "quality", "path"],
        Once(zone_info)
    ),
    section!(
        "ebbtide_zone_error_ratio",
        Gauge,
        "Relative error that a zone's figures are known or estimated to have.",
        ["zone"],
        Once(zone_error)
    ),
    section!(
        "ebbtide_node_energy_joules_total",
        Counter,
        "Energy of a zone in joules.",
        ["zone", "kind", "source"],
        Once(node_energy)
    ),
    section!(
        "ebbtide_node_power_watts",
        Gauge,
        "Mean power of a zone over the last interval in watts.",
        ["zone", "kind", "source"],
        Once(node_power)
    ),
    section!(
        "ebbtide_node_idle_joules_total",
        Counter,
        "Of a zone's energy, the part it would have drawn idle, in joules, whoever was given it.",
        ["zone"],
        Once(idle)
    ),
    section!(
        "ebbtide_node_unattributed_joules_total",
        Counter,
        "Energy of a zone in joules that no workload was given: idle (by policy) or residual (nobody could be found for it).",
        ["zone", "part"],
        Once(unattributed)
    ),
    section!(
        "ebbtide_node_idle_floor_watts",
        Gauge,
        "Power of a zone in watts when nothing runs: set, learned, or still the prior of its class.",
        ["zone", "from"],
        Once(floor)
    ),
    section!(
        "ebbtide_node_idle_floor_error_watts",
        Gauge,
        "Standard error of the idle floor in watts.",
        ["zone"],
        Once(floor_error)
    ),
    section!(
        "ebbtide_node_total_energy_joules_total",
        Counter,
        "Energy of the node in joules: the sum of the zones whose role is total.",
        [],
        Once(total_energy)
    ),
    section!(
        "ebbtide_node_total_power_watts",
        Gauge,
        "Mean power of the node over the last interval in watts.",
        [],
        Once(total_power)
    ),
    section!(
        "ebbtide_node_rest_joules_total",
        Counter,
        "Energy in joules at the machine's input beyond the zones whose role is total: board, fans, disks, losses of the power supply. Where the zone wall is read and the node is not modelled; starts over with the agent.",
        [],
        Once(rest_energy)
    ),
    section!(
        "ebbtide_node_rest_watts",
        Gauge,
        "Mean power of that between the last two readings of the machine's input in watts. Missing while the zones claim more than the input and the errors leave.",
        ["quality"],
        Once(rest_power)
    ),
    section!(
        "ebbtide_node_rest_error_watts",
        Gauge,
        "Error of that in watts: of the input and of the zones together.",
        [],
        Once(rest_error)
    ),
    section!(
        "ebbtide_node_cpu_usage_ratio",
        Gauge,
        "Share of CPU time in which something ran over the last interval.",
        [],
        Once(usage)
    ),
    section!(
        "ebbtide_zone_gaps_total",
        Counter,
        "Intervals of a zone in which energy or time is not known.",
        ["zone", "reason"],
        Once(gaps)
    ),
    section!(
        "ebbtide_zone_gap_seconds_total",
        Counter,
        "Time of those intervals in seconds.",
        ["zone", "reason"],
        Once(gap_seconds)
    ),
    section!(
        "ebbtide_zone_wraps_total",
        Counter,
        "Times a zone's counter started over at its range; nothing is lost by that.",
        ["zone"],
        Once(wraps)
    ),
    section!(
        "ebbtide_workload_energy_joules_total",
        Counter,
        "Energy of a workload in joules, its share of idle energy by the node's policy included. A joule is counted once in each kind.",
        ["kind", "id", "name?", "namespace?", "pod?", "runtime?", "qos?", "slice?", "zone"],
        Groups(group_energy)
    ),
    section!(
        "ebbtide_workload_idle_joules_total",
        Counter,
        "Of a workload's energy, its share of idle energy in joules. Only under a policy that gives idle energy to workloads.",
        ["kind", "id", "name?", "namespace?", "pod?", "runtime?", "qos?", "slice?", "zone"],
        Groups(group_idle)
    ),
    section!(
        "ebbtide_workload_power_watts",
        Gauge,
        "Mean power of a workload over the last interval in watts, over the zones that make up the node.",
        ["kind", "id", "name?", "namespace?", "pod?", "runtime?", "qos?", "slice?"],
        Groups(group_power)
    ),
    section!(
        "ebbtide_workload_cpu_seconds_total",
        Counter,
        "CPU time of a workload in seconds.",
        ["kind", "id", "name?", "namespace?", "pod?", "runtime?", "qos?", "slice?"],
        Groups(group_cpu)
    ),
    section!(
        "ebbtide_process_energy_joules_total",
        Counter,
        "Energy of a process in joules. A pid of `412+` stands for children of 412 that lived and ended between two samples. With top:N: since it is among the top.",
        ["pid", "comm?", "zone"],
        Tasks(task_energy)
    ),
    section!(
        "ebbtide_process_other_energy_joules_total",
        Counter,
        "Energy in joules of processes while they have no series of their own.",
        ["zone"],
        Once(other)
    ),
];

fn build(_: &Context, f: &Family, out: &mut Lines) {
    out.start(f).label("version", env!("CARGO_PKG_VERSION")).whole(1);
}

fn node(c: &Context, f: &Family, out: &mut Lines) {
    let n = &c.snapshot.node;
    out.start(f)
        .label("node", n.name.as_str())
        .label("cpu", &n.cpu_model)
        .label("idle_policy", n.idle_policy.as_str())
        .whole(1);
}

fn zone_info(c: &Context, f: &Family, out: &mut Lines) {
    for z in &c.snapshot.zones {
        let state = match z.state {
            ZoneState::Starting => "starting",
            ZoneState::Live => "live",
            ZoneState::Stale => "stale",
            ZoneState::Absent => "absent",
        };
        out.start(f)
            .label("zone", &z.zone.name)
            .label("kind", z.zone.kind.as_str())
            .label("source", z.zone.source.as_str())
            .label("role", z.role.as_str())
            .label("state", state)
            .label("quality", z.quality().as_str())
            .label("path", &z.zone.path)
            .whole(1);
    }
}

fn zone_error(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown()) {
        out.start(f).label("zone", &z.zone.name).millionths(u64::from(z.zone.error.ppm()));
    }
}

fn node_energy(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown()) {
        out.start(f)
            .label("zone", &z.zone.name)
            .label("kind", z.zone.kind.as_str())
            .label("source", z.zone.source.as_str())
            .joules(z.account.total);
    }
}

fn node_power(c: &Context, f: &Family, out: &mut Lines) {
    for z in &c.snapshot.zones {
        let Some(power) = z.power else { continue };
        out.start(f)
            .label("zone", &z.zone.name)
            .label("kind", z.zone.kind.as_str())
            .label("source", z.zone.source.as_str())
            .millionths(power.uw());
    }
}

fn idle(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown()) {
        out.start(f).label("zone", &z.zone.name).joules(z.account.idle);
    }
}

fn unattributed(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown()) {
        for (part, energy) in [("idle", z.account.unallocated), ("residual", z.account.residual)] {
            out.start(f).label("zone", &z.zone.name).label("part", part).joules(energy);
        }
    }
}

fn floor(c: &Context, f: &Family, out: &mut Lines) {
    for z in &c.snapshot.zones {
        let Some(floor) = z.floor else { continue };
        let from = match floor.kind {
            crate::attribution::floor::FloorKind::Set => "set",
            crate::attribution::floor::FloorKind::Learned => "learned",
            crate::attribution::floor::FloorKind::Prior => "prior",
        };
        out.start(f).label("zone", &z.zone.name).label("from", from).millionths(floor.power.uw());
    }
}

fn floor_error(c: &Context, f: &Family, out: &mut Lines) {
    for z in &c.snapshot.zones {
        let Some(floor) = z.floor else { continue };
        out.start(f).label("zone", &z.zone.name).millionths(floor.error.uw());
    }
}

fn total_energy(c: &Context, f: &Family, out: &mut Lines) {
    if c.snapshot.zones.iter().any(|z| z.role == Role::Total) {
        out.start(f).joules(c.snapshot.node_energy);
    }
}

fn total_power(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(power) = c.snapshot.node_power {
        out.start(f).millionths(power.uw());
    }
}

fn rest_energy(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(rest) = c.snapshot.rest {
        out.start(f).joules(rest.energy);
    }
}

fn rest_power(c: &Context, f: &Family, out: &mut Lines) {
    if let Some((rest, power)) = c.snapshot.rest.and_then(|r| Some((r, r.power?))) {
        out.start(f).label("quality", rest.quality.as_str()).millionths(power.uw());
    }
}

fn rest_error(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(rest) = c.snapshot.rest {
        out.start(f).millionths(rest.error.uw());
    }
}

fn usage(c: &Context, f: &Family, out: &mut Lines) {
    if c.snapshot.seq > 1 {
        out.start(f).float(c.snapshot.utilisation);
    }
}

fn gaps(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.has_account()) {
        for (gap, n) in Gap::ALL.iter().zip(z.account.gaps) {
            out.start(f).label("zone", &z.zone.name).label("reason", gap.as_str()).whole(n);
        }
    }
}

fn gap_seconds(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.has_account()) {
        for (gap, ns) in Gap::ALL.iter().zip(z.account.gap_ns) {
            out.start(f).label("zone", &z.zone.name).label("reason", gap.as_str()).nanoseconds(ns);
        }
    }
}

fn wraps(c: &Context, f: &Family, out: &mut Lines) {
    for z in c.snapshot.zones.iter().filter(|z| z.has_account()) {
        out.start(f).label("zone", &z.zone.name).whole(z.account.wraps);
    }
}

/// The zones whose energy workloads and processes are shown for: those that make up the node.
fn zones<'a>(c: &'a Context, by_zone: &'a [Energy]) -> impl Iterator<Item = (&'a str, Energy)> {
    c.snapshot
        .zones
        .iter()
        .zip(by_zone)
        .filter(|(z, _)| z.role == Role::Total && z.shown())
        .map(|(z, e)| (z.zone.name.as_str(), *e))
}

fn group_labels<'a>(c: &Context, row: &'a GroupRow) -> &'a str {
    row.rendered.get_or_init(|| {
        let mut set = vec![("kind", row.id.kind().as_str()), ("id", row.id.name())];
        // the order of the reference
        let optional = [
            ("name", Label::Name),
            ("namespace", Label::Namespace),
            ("pod", Label::Pod),
            ("runtime", Label::Runtime),
            ("qos", Label::Qos),
            ("slice", Label::Slice),
        ];
        for (name, _) in optional.into_iter().filter(|(_, l)| c.view.labels.contains(l)) {
            if let Some((_, value)) = row.labels.iter().find(|(n, _)| *n == name) {
                set.push((name, value));
            }
        }
        label_set(&set)
    })
}

fn group_energy(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines) {
    let labels = group_labels(c, row.row);
    for (zone, energy) in zones(c, row.energy) {
        out.start(f).rendered(labels).label("zone", zone).joules(energy);
    }
}

fn group_idle(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines) {
    use crate::attribution::IdlePolicy;
    if c.snapshot.node.idle_policy == IdlePolicy::Unallocated || row.row.id.kind() == WorkloadKind::System {
        return;
    }
    let labels = group_labels(c, row.row);
    for (zone, energy) in zones(c, row.idle) {
        out.start(f).rendered(labels).label("zone", zone).joules(energy);
    }
}

fn group_power(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines) {
    if c.snapshot.node_power.is_none() {
        return;
    }
    let power = c.snapshot.power(c.snapshot.over_node(row.last)).unwrap_or(Power::ZERO);
    out.start(f).rendered(group_labels(c, row.row)).millionths(power.uw());
}

fn group_cpu(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines) {
    out.start(f).rendered(group_labels(c, row.row)).nanoseconds(row.row.cpu_ns);
}

fn task_energy(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    let l = &row.row.labels;
    let Some(slot) = l.rendered.get(RENDERED) else { return };
    let labels = slot.get_or_init(|| {
        let mut set = vec![("pid", l.pid.as_str())];
        if c.view.labels.contains(&Label::Comm) {
            set.push(("comm", &l.comm));
        }
        label_set(&set)
    });
    for (zone, energy) in zones(c, row.energy) {
        out.start(f).rendered(labels).label("zone", zone).joules(energy);
    }
}

fn other(c: &Context, f: &Family, out: &mut Lines) {
    if matches!(c.view.processes, crate::config::Processes::Top(_)) {
        for (zone, energy) in zones(c, &c.snapshot.other_tasks) {
            out.start(f).label("zone", zone).joules(energy);
        }
    }
}
