//! The metric names of Kepler 0.10 and later, and of the older releases as far as dashboards still use them.
//!
//! Names, types, labels and label values are Kepler's; the figures are Ebbtide's: they only grow and survive a
//! restart. As in Kepler, zones of several sockets are added up under one name. Of the names before 0.10 those of
//! nodes and containers are there (`kepler_node_*_joules_total`, `kepler_container_*_joules_total`).

use super::page::{Context, Family, Lines, Section, label_set, section};
use crate::host::{self, HostRoot};
use crate::snapshot::{GroupRow, RowView, Snapshot, TaskRow};
use crate::source::{SourceKind, ZoneKind};
use crate::usage::table::TaskClass;
use ebbtide_proto::{Energy, WorkloadKind};

/// Place of this page's label sets in [`crate::snapshot::TaskLabels::rendered`].
const RENDERED: usize = 1;

/// Zones that go under one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneGroup {
    /// `package`, `core`, `uncore`, `dram`, `psys`, or a sensor's name.
    pub name: String,
    /// Where it is read, or `aggregated-<name>`.
    pub path: String,
    /// Indices of the zones.
    pub members: Vec<usize>,
}

/// One logical CPU as `/proc/cpuinfo` tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processor {
    processor: String,
    vendor: String,
    model: String,
    physical: String,
    core: String,
}

/// The zones of a snapshot by the names that Kepler gives them.
pub fn zone_groups(snapshot: &Snapshot) -> Vec<ZoneGroup> {
    let mut groups: Vec<ZoneGroup> = Vec::new();
    for (i, z) in snapshot.zones.iter().enumerate().filter(|(_, z)| z.shown()) {
        let name = match z.zone.kind {
            ZoneKind::Package | ZoneKind::Core | ZoneKind::Uncore | ZoneKind::Dram | ZoneKind::Psys
                if z.zone.source != SourceKind::Hwmon =>
            {
                z.zone.kind.as_str().to_owned()
            }
            _ => z.zone.name.clone(),
        };
        match groups.iter_mut().find(|g| g.name == name) {
            Some(g) => {
                g.members.push(i);
                g.path = format!("aggregated-{name}");
            }
            None => groups.push(ZoneGroup { name, path: z.zone.path.clone(), members: vec![i] }),
        }
    }
    groups
}

/// Reads `/proc/cpuinfo`.
pub fn processors(host: &HostRoot) -> Vec<Processor> {
    let text = host::read_text(&host.proc("cpuinfo")).unwrap_or_default();
    let mut out: Vec<Processor> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().to_owned();
        if key.trim() == "processor" {
            out.push(Processor { processor: value, ..Processor::default() });
            continue;
        }
        let Some(last) = out.last_mut() else { continue };
        match key.trim() {
            "vendor_id" => last.vendor = value,
            "model name" => last.model = value,
            "physical id" => last.physical = value,
            "core id" => last.core = value,
            _ => {}
        }
    }
    out
}

/// The sections of the page, in its order.
pub static SECTIONS: &[Section] = &[
    section!(
        "kepler_build_info",
        Gauge,
        "Always 1; the labels tell which agent this is.",
        ["node_name", "arch", "branch", "revision", "version", "goversion"],
        Once(build)
    ),
    section!(
        "kepler_node_cpu_info",
        Gauge,
        "Always 1; the labels describe a logical CPU.",
        ["node_name", "processor", "vendor_id", "model_name", "physical_id", "core_id"],
        Once(cpu_info)
    ),
    section!(
        "kepler_node_cpu_usage_ratio",
        Gauge,
        "Share of CPU time in which something ran.",
        ["node_name"],
        Once(usage)
    ),
    section!(
        "kepler_node_cpu_joules_total",
        Counter,
        "Energy of a zone in joules.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node(c, f, o, Part::All))
    ),
    section!(
        "kepler_node_cpu_active_joules_total",
        Counter,
        "Energy of a zone above idle in joules.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node(c, f, o, Part::Active))
    ),
    section!(
        "kepler_node_cpu_idle_joules_total",
        Counter,
        "Idle energy of a zone in joules.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node(c, f, o, Part::Idle))
    ),
    section!(
        "kepler_node_cpu_watts",
        Gauge,
        "Power of a zone in watts.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node_watts(c, f, o, Part::All))
    ),
    section!(
        "kepler_node_cpu_active_watts",
        Gauge,
        "Power of a zone above idle in watts.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node_watts(c, f, o, Part::Active))
    ),
    section!(
        "kepler_node_cpu_idle_watts",
        Gauge,
        "Idle power of a zone in watts.",
        ["node_name", "zone", "path"],
        Once(|c, f, o| node_watts(c, f, o, Part::Idle))
    ),
    section!(
        "kepler_process_cpu_joules_total",
        Counter,
        "Energy of a process in joules.",
        ["node_name", "pid", "comm", "exe", "type", "container_id", "vm_id", "state", "zone"],
        Tasks(process_joules)
    ),
    section!(
        "kepler_process_cpu_watts",
        Gauge,
        "Power of a process in watts.",
        ["node_name", "pid", "comm", "exe", "type", "container_id", "vm_id", "state", "zone"],
        Tasks(process_watts)
    ),
    section!(
        "kepler_process_cpu_seconds_total",
        Counter,
        "CPU time of a process in seconds.",
        ["node_name", "pid", "comm", "exe", "type", "container_id", "vm_id"],
        Tasks(process_seconds)
    ),
    section!(
        "kepler_container_cpu_joules_total",
        Counter,
        "Energy of a container in joules.",
        ["node_name", "container_id", "container_name", "runtime", "pod_id", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Container, Figure::Joules))
    ),
    section!(
        "kepler_container_cpu_watts",
        Gauge,
        "Power of a container in watts.",
        ["node_name", "container_id", "container_name", "runtime", "pod_id", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Container, Figure::Watts))
    ),
    section!(
        "kepler_container_cpu_seconds_total",
        Counter,
        "CPU time of a container in seconds.",
        ["node_name", "container_id", "container_name", "runtime", "pod_id"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Container, Figure::Seconds))
    ),
    section!(
        "kepler_vm_cpu_joules_total",
        Counter,
        "Energy of a virtual machine in joules.",
        ["node_name", "vm_id", "vm_name", "hypervisor", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Vm, Figure::Joules))
    ),
    section!(
        "kepler_vm_cpu_watts",
        Gauge,
        "Power of a virtual machine in watts.",
        ["node_name", "vm_id", "vm_name", "hypervisor", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Vm, Figure::Watts))
    ),
    section!(
        "kepler_pod_cpu_joules_total",
        Counter,
        "Energy of a pod in joules.",
        ["node_name", "pod_id", "pod_name", "pod_namespace", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Pod, Figure::Joules))
    ),
    section!(
        "kepler_pod_cpu_watts",
        Gauge,
        "Power of a pod in watts.",
        ["node_name", "pod_id", "pod_name", "pod_namespace", "state", "zone"],
        Groups(|c, f, r, o| group(c, f, r, o, WorkloadKind::Pod, Figure::Watts))
    ),
    section!(
        "kepler_node_info",
        Gauge,
        "Always 1; the labels tell where figures come from (name before 0.10).",
        ["cpu_architecture", "components_power_source", "platform_power_source", "source"],
        Once(old_info)
    ),
    section!(
        "kepler_node_package_joules_total",
        Counter,
        "Energy of packages in joules (name before 0.10).",
        ["instance", "package", "mode", "source"],
        Once(|c, f, o| old_node(c, f, o, "package"))
    ),
    section!(
        "kepler_node_core_joules_total",
        Counter,
        "Energy of cores in joules (name before 0.10).",
        ["instance", "package", "mode", "source"],
        Once(|c, f, o| old_node(c, f, o, "core"))
    ),
    section!(
        "kepler_node_uncore_joules_total",
        Counter,
        "Energy of uncore in joules (name before 0.10).",
        ["instance", "package", "mode", "source"],
        Once(|c, f, o| old_node(c, f, o, "uncore"))
    ),
    section!(
        "kepler_node_dram_joules_total",
        Counter,
        "Energy of memory in joules (name before 0.10).",
        ["instance", "package", "mode", "source"],
        Once(|c, f, o| old_node(c, f, o, "dram"))
    ),
    section!(
        "kepler_container_package_joules_total",
        Counter,
        "Package energy of a container in joules (name before 0.10).",
        ["container_id", "pod_name", "container_name", "container_namespace", "mode", "source"],
        Groups(|c, f, r, o| old_container(c, f, r, o, &["package"]))
    ),
    section!(
        "kepler_container_core_joules_total",
        Counter,
        "Core energy of a container in joules (name before 0.10).",
        ["container_id", "pod_name", "container_name", "container_namespace", "mode", "source"],
        Groups(|c, f, r, o| old_container(c, f, r, o, &["core"]))
    ),
    section!(
        "kepler_container_uncore_joules_total",
        Counter,
        "Uncore energy of a container in joules (name before 0.10).",
        ["container_id", "pod_name", "container_name", "container_namespace", "mode", "source"],
        Groups(|c, f, r, o| old_container(c, f, r, o, &["uncore"]))
    ),
    section!(
        "kepler_container_dram_joules_total",
        Counter,
        "Memory energy of a container in joules (name before 0.10).",
        ["container_id", "pod_name", "container_name", "container_namespace", "mode", "source"],
        Groups(|c, f, r, o| old_container(c, f, r, o, &["dram"]))
    ),
    section!(
        "kepler_container_joules_total",
        Counter,
        "Package and memory energy of a container in joules (name before 0.10).",
        ["container_id", "pod_name", "container_name", "container_namespace", "mode", "source"],
        Groups(|c, f, r, o| old_container(c, f, r, o, &["package", "dram"]))
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    All,
    Active,
    Idle,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Figure {
    Joules,
    Watts,
    Seconds,
}

fn sum(group: &ZoneGroup, by_zone: &[Energy]) -> Energy {
    group.members.iter().filter_map(|&i| by_zone.get(i).copied()).sum()
}

fn build(c: &Context, f: &Family, out: &mut Lines) {
    out.start(f)
        .label("node_name", c.snapshot.node.name.as_str())
        .label("arch", std::env::consts::ARCH)
        .label("branch", "")
        .label("revision", "")
        .label("version", concat!("ebbtide-", env!("CARGO_PKG_VERSION")))
        .label("goversion", "")
        .whole(1);
}

fn cpu_info(c: &Context, f: &Family, out: &mut Lines) {
    for p in &c.view.processors {
        out.start(f)
            .label("node_name", c.snapshot.node.name.as_str())
            .label("processor", &p.processor)
            .label("vendor_id", &p.vendor)
            .label("model_name", &p.model)
            .label("physical_id", &p.physical)
            .label("core_id", &p.core)
            .whole(1);
    }
}

fn usage(c: &Context, f: &Family, out: &mut Lines) {
    if c.snapshot.seq > 1 {
        out.start(f).label("node_name", c.snapshot.node.name.as_str()).float(c.snapshot.utilisation);
    }
}

fn node_start<'a>(c: &Context, f: &Family, group: &ZoneGroup, out: &'a mut Lines) -> &'a mut Lines {
    out.start(f).label("node_name", c.snapshot.node.name.as_str()).label("zone", &group.name).label("path", &group.path)
}

fn node(c: &Context, f: &Family, out: &mut Lines, part: Part) {
    for group in &c.zone_groups {
        let accounts = || group.members.iter().filter_map(|&i| Some(&c.snapshot.zones.get(i)?.account));
        let energy: Energy = match part {
            Part::All => accounts().map(|a| a.total).sum(),
            Part::Idle => accounts().map(|a| a.idle).sum(),
            Part::Active => accounts().map(|a| a.total.saturating_sub(a.idle)).sum(),
        };
        node_start(c, f, group, out).joules(energy);
    }
}

fn node_watts(c: &Context, f: &Family, out: &mut Lines, part: Part) {
    for group in &c.zone_groups {
        let (mut all, mut idle, mut known) = (0u64, 0u64, false);
        for z in group.members.iter().filter_map(|&i| c.snapshot.zones.get(i)) {
            let Some(power) = z.power else { continue };
            known = true;
            all += power.uw();
            idle += z.floor.map_or(0, |f| f.power.uw()).min(power.uw());
        }
        if known {
            let uw = match part {
                Part::All => all,
                Part::Idle => idle,
                Part::Active => all - idle,
            };
            node_start(c, f, group, out).millionths(uw);
        }
    }
}

fn process_start<'a>(c: &Context, f: &Family, row: &TaskRow, out: &'a mut Lines) -> &'a mut Lines {
    let l = &row.labels;
    out.start(f);
    if let Some(slot) = l.rendered.get(RENDERED) {
        let labels = slot.get_or_init(|| {
            let kind = match () {
                () if !l.vm.is_empty() => "vm",
                () if !l.container.is_empty() => "container",
                () => "regular",
            };
            label_set(&[
                ("node_name", c.snapshot.node.name.as_str()),
                ("pid", &l.pid),
                ("comm", &l.comm),
                ("exe", &l.exe),
                ("type", kind),
                ("container_id", &l.container),
                ("vm_id", &l.vm),
            ])
        });
        out.rendered(labels);
    }
    out
}

fn state(ended: bool) -> &'static str {
    if ended { "terminated" } else { "running" }
}

fn process_joules(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    for group in &c.zone_groups {
        process_start(c, f, row.row, out)
            .label("state", state(row.row.ended))
            .label("zone", &group.name)
            .joules(sum(group, row.energy));
    }
}

fn process_watts(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    if c.snapshot.seq < 2 {
        return;
    }
    for group in &c.zone_groups {
        let power = c.snapshot.power(sum(group, row.last)).map_or(0, |p| p.uw());
        process_start(c, f, row.row, out)
            .label("state", state(row.row.ended))
            .label("zone", &group.name)
            .millionths(power);
    }
}

fn process_seconds(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    if row.row.class != TaskClass::EndedChildren {
        process_start(c, f, row.row, out).nanoseconds(row.row.cpu_ns);
    }
}

fn find<'a>(row: &'a GroupRow, name: &str) -> &'a str {
    row.labels.iter().find(|(n, _)| *n == name).map_or("", |(_, v)| v)
}

fn group_start<'a>(c: &Context, f: &Family, row: &GroupRow, out: &'a mut Lines) -> &'a mut Lines {
    let id = row.id.name();
    out.start(f).label("node_name", c.snapshot.node.name.as_str());
    match row.id.kind() {
        WorkloadKind::Container => out
            .label("container_id", id)
            .label("container_name", find(row, "name"))
            .label("runtime", if find(row, "runtime") == "crio" { "crio" } else { find(row, "runtime") })
            .label("pod_id", find(row, "pod_id")),
        WorkloadKind::Vm => {
            out.label("vm_id", id).label("vm_name", find(row, "name")).label("hypervisor", find(row, "hypervisor"))
        }
        _ => {
            out.label("pod_id", id).label("pod_name", find(row, "name")).label("pod_namespace", find(row, "namespace"))
        }
    }
}

fn group(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines, kind: WorkloadKind, figure: Figure) {
    if row.row.id.kind() != kind {
        return;
    }
    if figure == Figure::Seconds {
        group_start(c, f, row.row, out).nanoseconds(row.row.cpu_ns);
        return;
    }
    for group in &c.zone_groups {
        let lines = group_start(c, f, row.row, out).label("state", state(row.row.ended)).label("zone", &group.name);
        match figure {
            Figure::Joules => lines.joules(sum(group, row.energy)),
            _ => lines.millionths(c.snapshot.power(sum(group, row.last)).map_or(0, |p| p.uw())),
        }
    }
}

fn old_source(c: &Context) -> &'static str {
    match c.snapshot.zones.iter().find(|z| z.shown()).map(|z| z.zone.source) {
        Some(SourceKind::Powercap) => "rapl-sysfs",
        Some(SourceKind::PerfRapl) => "rapl-msr",
        Some(SourceKind::Model) => "estimator",
        Some(s) => s.as_str(),
        None => "none",
    }
}

fn old_info(c: &Context, f: &Family, out: &mut Lines) {
    let platform =
        c.snapshot.zones.iter().find(|z| matches!(z.zone.kind, ZoneKind::Psys | ZoneKind::Wall | ZoneKind::Board));
    out.start(f)
        .label("cpu_architecture", std::env::consts::ARCH)
        .label("components_power_source", old_source(c))
        .label("platform_power_source", platform.map_or("none", |z| z.zone.source.as_str()))
        .label("source", "os")
        .whole(1);
}

fn old_node(c: &Context, f: &Family, out: &mut Lines, kind: &str) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown() && z.zone.kind.as_str() == kind) {
        let package = z.zone.socket.unwrap_or(0).to_string();
        let idle = z.account.idle;
        for (mode, energy) in [("dynamic", z.account.total.saturating_sub(idle)), ("idle", idle)] {
            out.start(f)
                .label("instance", c.snapshot.node.name.as_str())
                .label("package", &package)
                .label("mode", mode)
                .label("source", old_source(c))
                .joules(energy);
        }
    }
}

fn old_container(c: &Context, f: &Family, row: RowView<'_, GroupRow>, out: &mut Lines, kinds: &[&str]) {
    if row.row.id.kind() != WorkloadKind::Container {
        return;
    }
    let groups = || c.zone_groups.iter().filter(|g| kinds.contains(&g.name.as_str()));
    if groups().next().is_none() {
        return;
    }
    let all: Energy = groups().map(|g| sum(g, row.energy)).sum();
    let idle: Energy = groups().map(|g| sum(g, row.idle)).sum();
    for (mode, energy) in [("dynamic", all.saturating_sub(idle)), ("idle", idle)] {
        out.start(f)
            .label("container_id", row.row.id.name())
            .label("pod_name", find(row.row, "pod"))
            .label("container_name", find(row.row, "name"))
            .label("container_namespace", find(row.row, "namespace"))
            .label("mode", mode)
            .label("source", old_source(c))
            .joules(energy);
    }
}
