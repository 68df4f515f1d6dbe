//! The metric names of Scaphandre 1.0.
//!
//! Power in microwatts and energy in microjoules, as there. Not reproduced, since the agent doesn't look at them:
//! virtual memory and disk bytes of processes, disks of the host, labels of Docker images, and the figures of
//! Scaphandre's own buffers (`scaph_self_*_nb`).

use super::page::{Context, Family, Lines, Section, label_set, section};
use crate::host::{self, HostRoot};
use crate::snapshot::{RowView, TaskRow, ZoneView};
use crate::source::discover::Role;
use crate::source::{SourceKind, ZoneKind};
use crate::usage::table::TaskClass;

/// Place of this page's label sets in [`crate::snapshot::TaskLabels::rendered`].
const RENDERED: usize = 2;

/// Figures of the host that are no energy, read when the page is asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFigures {
    load: [Option<f64>; 3],
    /// `MemTotal`, `MemFree`, `MemAvailable`, `SwapTotal`, `SwapFree` in bytes.
    memory: [Option<u64>; 5],
    /// `processes`, `ctxt`, `procs_running`, `procs_blocked` of `/proc/stat`.
    stat: [Option<u64>; 4],
    /// Mean frequency of the CPUs in MHz.
    frequency: Option<u64>,
}

impl HostFigures {
    /// Reads `/proc/loadavg`, `/proc/meminfo`, `/proc/stat` and the frequency of the first CPU.
    pub fn read(host: &HostRoot) -> Self {
        let text = |name: &str| host::read_text(&host.proc(name)).unwrap_or_default();
        let (load, memory, stat) = (text("loadavg"), text("meminfo"), text("stat"));
        let mut words = load.split_whitespace().map(|w| w.parse().ok());
        let line = |text: &str, key: &str| -> Option<u64> {
            let rest = text.lines().find_map(|l| l.strip_prefix(key))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let kib = |key: &str| line(&memory, key).and_then(|n| n.checked_mul(1024));
        let khz = host::read_u64(&host.sys("devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")).ok();
        Self {
            load: [words.next().flatten(), words.next().flatten(), words.next().flatten()],
            memory: [kib("MemTotal:"), kib("MemFree:"), kib("MemAvailable:"), kib("SwapTotal:"), kib("SwapFree:")],
            stat: [
                line(&stat, "processes "),
                line(&stat, "ctxt "),
                line(&stat, "procs_running "),
                line(&stat, "procs_blocked "),
            ],
            frequency: khz.map(|k| k / 1000),
        }
    }
}

/// The sections of the page, in its order.
pub static SECTIONS: &[Section] = &[
    section!(
        "scaph_self_version",
        Gauge,
        "Version of the agent, major and minor.",
        [],
        Once(|_, f, o| o.start(f).float(1.0))
    ),
    section!(
        "scaph_self_cpu_usage_percent",
        Gauge,
        "CPU that the agent used in the last sample, in percent of a core.",
        [],
        Once(own_cpu)
    ),
    section!(
        "scaph_self_memory_bytes",
        Gauge,
        "Resident memory of the agent in bytes.",
        [],
        Once(|c, f, o| o.start(f).whole(c.snapshot.own.resident))
    ),
    section!(
        "scaph_host_power_microwatts",
        Gauge,
        "Power of the host in microwatts.",
        ["value_source"],
        Once(host_power)
    ),
    section!(
        "scaph_host_energy_microjoules",
        Counter,
        "Energy of the host in microjoules.",
        ["value_source"],
        Once(host_energy)
    ),
    section!(
        "scaph_socket_power_microwatts",
        Gauge,
        "Power of a socket in microwatts.",
        ["socket_id"],
        Once(|c, f, o| sockets(c, f, o, true))
    ),
    section!(
        "scaph_socket_energy_microjoules",
        Counter,
        "Energy of a socket in microjoules.",
        ["socket_id"],
        Once(|c, f, o| sockets(c, f, o, false))
    ),
    section!(
        "scaph_domain_power_microwatts",
        Gauge,
        "Power of a domain of a socket in microwatts.",
        ["domain_name", "domain_id", "socket_id"],
        Once(|c, f, o| domains(c, f, o, true))
    ),
    section!(
        "scaph_domain_energy_microjoules",
        Counter,
        "Energy of a domain of a socket in microjoules.",
        ["domain_name", "domain_id", "socket_id"],
        Once(|c, f, o| domains(c, f, o, false))
    ),
    section!(
        "scaph_process_power_consumption_microwatts",
        Gauge,
        "Power of a process in microwatts.",
        ["pid", "exe", "cmdline", "container_id?", "vmname?"],
        Tasks(process_power)
    ),
    section!(
        "scaph_process_cpu_usage_percentage",
        Gauge,
        "CPU that a process used, in percent of a core.",
        ["pid", "exe", "cmdline", "container_id?", "vmname?"],
        Tasks(process_cpu)
    ),
    section!(
        "scaph_process_memory_bytes",
        Gauge,
        "Resident memory of a process in bytes.",
        ["pid", "exe", "cmdline", "container_id?", "vmname?"],
        Tasks(process_memory)
    ),
    section!(
        "scaph_host_cpu_frequency",
        Gauge,
        "Frequency of the first CPU in MHz.",
        [],
        Once(|c, f, o| number(c.host.frequency, f, o))
    ),
    section!(
        "scaph_host_load_avg_one",
        Gauge,
        "Load average of one minute.",
        [],
        Once(|c, f, o| float(c.host.load[0], f, o))
    ),
    section!(
        "scaph_host_load_avg_five",
        Gauge,
        "Load average of five minutes.",
        [],
        Once(|c, f, o| float(c.host.load[1], f, o))
    ),
    section!(
        "scaph_host_load_avg_fifteen",
        Gauge,
        "Load average of fifteen minutes.",
        [],
        Once(|c, f, o| float(c.host.load[2], f, o))
    ),
    section!(
        "scaph_host_memory_total_bytes",
        Gauge,
        "Memory of the host in bytes.",
        [],
        Once(|c, f, o| number(c.host.memory[0], f, o))
    ),
    section!(
        "scaph_host_memory_free_bytes",
        Gauge,
        "Free memory of the host in bytes.",
        [],
        Once(|c, f, o| number(c.host.memory[1], f, o))
    ),
    section!(
        "scaph_host_memory_available_bytes",
        Gauge,
        "Available memory of the host in bytes.",
        [],
        Once(|c, f, o| number(c.host.memory[2], f, o))
    ),
    section!(
        "scaph_host_swap_total_bytes",
        Gauge,
        "Swap of the host in bytes.",
        [],
        Once(|c, f, o| number(c.host.memory[3], f, o))
    ),
    section!(
        "scaph_host_swap_free_bytes",
        Gauge,
        "Free swap of the host in bytes.",
        [],
        Once(|c, f, o| number(c.host.memory[4], f, o))
    ),
    section!(
        "scaph_forks_since_boot_total",
        Counter,
        "Forks since boot.",
        [],
        Once(|c, f, o| number(c.host.stat[0], f, o))
    ),
    section!(
        "scaph_context_switches_total",
        Counter,
        "Context switches since boot.",
        [],
        Once(|c, f, o| number(c.host.stat[1], f, o))
    ),
    section!(
        "scaph_processes_running_current",
        Gauge,
        "Threads that run or could.",
        [],
        Once(|c, f, o| number(c.host.stat[2], f, o))
    ),
    section!(
        "scaph_processes_blocked_current",
        Gauge,
        "Threads that wait for a disk.",
        [],
        Once(|c, f, o| number(c.host.stat[3], f, o))
    ),
];

fn number(n: Option<u64>, f: &Family, out: &mut Lines) {
    if let Some(n) = n {
        out.start(f).whole(n);
    }
}

fn float(v: Option<f64>, f: &Family, out: &mut Lines) {
    if let Some(v) = v {
        out.start(f).float(v);
    }
}

fn own_cpu(c: &Context, f: &Family, out: &mut Lines) {
    let dt = c.snapshot.dt.as_secs_f64();
    if dt > 0.0 {
        out.start(f).float(c.snapshot.own.sample_cpu.as_secs_f64() / dt * 100.0);
    }
}

/// Where the host's figure comes from, in Scaphandre's words.
fn value_source(c: &Context) -> &'static str {
    let total = c.snapshot.zones.iter().find(|z| z.role == Role::Total);
    match total.map(|z| (z.zone.source, z.zone.kind)) {
        Some((SourceKind::Powercap, ZoneKind::Psys)) => "powercap_rapl_psys",
        Some((SourceKind::Powercap, _)) => "powercap_rapl_pkg",
        Some((source, _)) => source.as_str(),
        None => "none",
    }
}

fn host_power(c: &Context, f: &Family, out: &mut Lines) {
    if let Some(power) = c.snapshot.node_power {
        out.start(f).label("value_source", value_source(c)).whole(power.uw());
    }
}

fn host_energy(c: &Context, f: &Family, out: &mut Lines) {
    if c.snapshot.zones.iter().any(|z| z.role == Role::Total) {
        out.start(f).label("value_source", value_source(c)).whole(c.snapshot.node_energy.uj());
    }
}

fn socket_id(z: &ZoneView) -> String {
    z.zone.socket.unwrap_or(0).to_string()
}

fn figure(z: &ZoneView, power: bool, out: &mut Lines) {
    out.whole(if power { z.power.map_or(0, |p| p.uw()) } else { z.account.total.uj() });
}

fn sockets(c: &Context, f: &Family, out: &mut Lines, power: bool) {
    for z in c.snapshot.zones.iter().filter(|z| z.shown() && z.zone.kind == ZoneKind::Package) {
        if !power || z.power.is_some() {
            figure(z, power, out.start(f).label("socket_id", &socket_id(z)));
        }
    }
}

fn domains(c: &Context, f: &Family, out: &mut Lines, power: bool) {
    let inside = |z: &&ZoneView| z.shown() && matches!(z.zone.kind, ZoneKind::Core | ZoneKind::Uncore | ZoneKind::Dram);
    for (id, z) in c.snapshot.zones.iter().filter(inside).enumerate() {
        if !power || z.power.is_some() {
            let lines = out
                .start(f)
                .label("domain_name", z.zone.kind.as_str())
                .label("domain_id", &id.to_string())
                .label("socket_id", &socket_id(z));
            figure(z, power, lines);
        }
    }
}

fn process_start<'a>(f: &Family, row: &TaskRow, out: &'a mut Lines) -> &'a mut Lines {
    let l = &row.labels;
    out.start(f);
    if let Some(slot) = l.rendered.get(RENDERED) {
        let labels = slot.get_or_init(|| {
            let exe = l.exe.rsplit('/').next().filter(|e| !e.is_empty()).unwrap_or(&l.comm);
            let mut set = vec![("pid", l.pid.as_str()), ("exe", exe), ("cmdline", &l.cmdline)];
            if !l.container.is_empty() {
                set.push(("container_id", &l.container));
            }
            if !l.vm.is_empty() {
                set.push(("vmname", &l.vm));
            }
            label_set(&set)
        });
        out.rendered(labels);
    }
    out
}

fn process_power(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    if c.snapshot.node_power.is_some() {
        let power = c.snapshot.power(c.snapshot.over_node(row.last)).map_or(0, |p| p.uw());
        process_start(f, row.row, out).whole(power);
    }
}

fn process_cpu(c: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    let dt = c.snapshot.dt.as_secs_f64();
    if dt > 0.0 && row.row.class != TaskClass::EndedChildren {
        process_start(f, row.row, out).float((row.row.cpu_last_ns as f64 / dt / 1e7 * 1e3).round() / 1e3);
    }
}

fn process_memory(_: &Context, f: &Family, row: RowView<'_, TaskRow>, out: &mut Lines) {
    if row.row.class == TaskClass::Process && !row.row.ended {
        process_start(f, row.row, out).whole(row.row.resident);
    }
}
