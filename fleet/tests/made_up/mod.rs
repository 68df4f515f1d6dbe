//! A made-up fleet: five nodes in five states, forty workloads, a day of energy with gaps. Its figures follow a clock
//! and nothing else, so that the same moment always looks the same.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "tests and an example share it; made-up figures are small"
)]

pub mod control;
pub mod plans;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use ebbtide_fleet::query::{Queries, QueryError};
use ebbtide_proto::v1::*;

const W: u64 = 1_000_000;
const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// 2026-05-12 14:02:11 UTC.
pub const THEN: u64 = 1_778_594_531_000;

/// The clock of tests: it stands still.
pub fn then() -> u64 {
    THEN
}

pub struct MadeUp {
    pub clock: fn() -> u64,
    /// Nothing has ever spoken to the daemon.
    pub empty: AtomicBool,
}

struct Machine {
    name: &'static str,
    state: NodeState,
    quality: Quality,
    /// What it draws when idle and at most, in watts.
    idle: u64,
    most: u64,
    cpus: u32,
    model: &'static str,
    /// Zones that count, with their part of the power in percent.
    zones: &'static [(&'static str, ZoneKind, &'static str, u64)],
    trouble: &'static str,
}

const MACHINES: [Machine; 5] = [
    Machine {
        name: "edge1",
        state: NodeState::Live,
        quality: Quality::Measured,
        idle: 96,
        most: 310,
        cpus: 64,
        model: "Intel(R) Xeon(R) Gold 6338N CPU @ 2.20GHz",
        zones: &[
            ("package-0", ZoneKind::Package, "powercap", 46),
            ("package-1", ZoneKind::Package, "powercap", 38),
            ("dram-0", ZoneKind::Dram, "powercap", 9),
            ("dram-1", ZoneKind::Dram, "powercap", 7),
        ],
        trouble: "",
    },
    Machine {
        name: "ru1",
        state: NodeState::Live,
        quality: Quality::Modelled,
        idle: 7,
        most: 15,
        cpus: 4,
        model: "Cortex-A53",
        zones: &[("node", ZoneKind::Board, "model", 100)],
        trouble: "",
    },
    Machine {
        name: "ru2",
        state: NodeState::Stale,
        quality: Quality::Scaled,
        idle: 8,
        most: 17,
        cpus: 4,
        model: "Cortex-A53",
        zones: &[("soc", ZoneKind::Board, "hwmon", 100)],
        trouble: "",
    },
    Machine {
        name: "ru3",
        state: NodeState::Refused,
        quality: Quality::Unspecified,
        idle: 0,
        most: 0,
        cpus: 4,
        model: "Cortex-A53",
        zones: &[],
        trouble: "its clock is 2 h 14 min behind; on the node: timedatectl set-ntp true",
    },
    Machine {
        name: "win-build",
        state: NodeState::Gone,
        quality: Quality::Measured,
        idle: 31,
        most: 120,
        cpus: 16,
        model: "AMD Ryzen 9 5950X 16-Core Processor",
        zones: &[("package-0", ZoneKind::Package, "powercap", 100)],
        trouble: "",
    },
];

/// Kind, name, namespace, application, parts of a thousand of the node's active power.
const RUNS: [(&str, &str, &str, &str, u64); 10] = [
    ("pod", "ran/du-0", "ran", "du", 220),
    ("pod", "ran/du-1", "ran", "du", 180),
    ("pod", "mec/inference-7c9", "mec", "inference", 140),
    ("pod", "mec/inference-8d1", "mec", "inference", 90),
    ("unit", "postgresql.service", "", "postgresql", 80),
    ("vm", "win-build", "", "win-build", 70),
    ("container", "registry", "", "registry", 40),
    ("unit", "nginx.service", "", "nginx", 30),
    ("user", "1000", "", "", 25),
    ("pod", "web/<script>alert(1)</script>", "web", "\"><img src=x onerror=alert(1)>", 12),
];

impl Machine {
    /// Power in microwatts; `None` where nothing is known.
    fn power(&self, ms: u64) -> Option<u64> {
        let day = ms % DAY;
        let known = match self.name {
            "ru1" => !(11 * HOUR..11 * HOUR + 40 * MINUTE).contains(&day),
            "ru2" => ms < THEN - 21 * MINUTE,
            "ru3" => false,
            "win-build" => day < 13 * HOUR + 35 * MINUTE,
            _ => true,
        };
        // Between 03:10 and 03:25 nobody kept anything.
        if !known || (3 * HOUR + 10 * MINUTE..3 * HOUR + 25 * MINUTE).contains(&day) {
            return None;
        }
        let load =
            (600 * wave(ms, DAY, 5 * HOUR) + 250 * wave(ms, 47 * MINUTE, 0) + 150 * wave(ms, 13 * SECOND, 0)) / 1000;
        Some(self.idle * W + (self.most - self.idle) * W / 1000 * load)
    }

    /// Energy in microjoules of a step, and for how much of it energy is known.
    fn energy(&self, from: u64, step: u64, now: u64) -> (u64, u64) {
        let parts = 4;
        let each = step / parts;
        let mut sum = (0, 0);
        for i in 0..parts {
            let at = from + i * each;
            if at < now
                && let Some(uw) = self.power(at + each / 2)
            {
                sum = (sum.0 + uw / 1000 * each, sum.1 + each);
            }
        }
        sum
    }

    fn node(&self, now: u64) -> Node {
        let last = match self.state {
            NodeState::Live => now - now % SECOND,
            NodeState::Stale => THEN - 21 * MINUTE,
            NodeState::Gone => now - now % DAY + 13 * HOUR + 35 * MINUTE,
            _ => 0,
        };
        let power = self.power(if self.state == NodeState::Stale { last - MINUTE } else { now });
        let today = (0..now % DAY / MINUTE).map(|i| self.energy(now - now % DAY + i * MINUTE, MINUTE, now));
        let (uj, known) = today.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let gone = self.state == NodeState::Gone;
        Node {
            name: self.name.into(),
            state: self.state.into(),
            power_uw: power.filter(|_| !gone),
            idle_uw: power.filter(|_| !gone).map(|_| self.idle * W),
            quality: self.quality.into(),
            cpu_milli: power
                .filter(|_| !gone)
                .map(|uw| u64::from(self.cpus) * 800 * (uw - self.idle * W) / ((self.most - self.idle) * W)),
            machine: Some(self::ebbtide_machine(self)),
            last_ms: last,
            since_ms: if last == 0 { now - 3 * HOUR } else { last - 2 * DAY },
            agent_version: "0.1.0".into(),
            boot_id: "6b2f0c9e-0f3b-4b1e-9a54-5a4b0d3c1e11".into(),
            zones: self.zones(power),
            workloads: u32::try_from(self.runs(now).len()).unwrap(),
            today_uj: uj,
            gap_today_ms: (now % DAY).saturating_sub(known),
            trouble: self.trouble.into(),
            address: "192.0.2.17:48122".into(),
        }
    }

    fn zones(&self, power: Option<u64>) -> Vec<ZonePower> {
        let zone = |name: &str, kind: ZoneKind, source: &str, counts: bool, permille: u64| ZonePower {
            zone: Some(Zone {
                id: format!("{source}/{name}"),
                name: name.into(),
                kind: kind.into(),
                source: source.into(),
                quality: self.quality.into(),
                error_ppm: if self.quality == Quality::Modelled { 150_000 } else { 20_000 },
                counts,
                ..Zone::default()
            }),
            power_uw: power.map(|uw| uw / 1000 * permille),
            idle_uw: power.map(|_| self.idle * W / 1000 * permille),
            energy_uj: 7_314_000_000_000 / 1000 * permille,
            stale: self.state == NodeState::Stale,
        };
        let mut zones: Vec<ZonePower> = self.zones.iter().map(|z| zone(z.0, z.1, z.2, true, z.3 * 10)).collect();
        if self.name == "edge1" {
            zones.push(zone("outlet-7", ZoneKind::Wall, "pdu", false, 1290));
        }
        zones
    }

    fn runs(&self, now: u64) -> Vec<WorkloadPower> {
        if matches!(self.state, NodeState::Refused | NodeState::Gone) {
            return Vec::new();
        }
        let power = self.power(if self.state == NodeState::Stale { THEN - 22 * MINUTE } else { now });
        let quality = if self.state == NodeState::Stale { Quality::Stale } else { self.quality };
        let of = |i: usize| {
            let (kind, name, namespace, app, permille) = RUNS[i % RUNS.len()];
            let round = i / RUNS.len();
            let name = if round == 0 { name.to_owned() } else { format!("{name}-{round}") };
            let permille = permille * 10 / (10 + 9 * round as u64 + u64::from(round > 0));
            let label = |name: &str, value: &str| Label { name: name.into(), value: value.into() };
            let labels = [("namespace", namespace), ("app", app)];
            WorkloadPower {
                id: format!("{kind}/{}-{name}", self.name),
                name,
                node: self.name.into(),
                power_uw: power.map(|uw| (uw - self.idle * W) / 1000 * permille),
                idle_uw: (self.quality != Quality::Modelled).then_some(self.idle * W / 4000 * permille),
                cpu_milli: Some(u64::from(self.cpus) * permille / 2),
                quality: quality.into(),
                labels: labels.into_iter().filter(|l| !l.1.is_empty()).map(|l| label(l.0, l.1)).collect(),
                nodes: 1,
                members: 1,
            }
        };
        (0..if self.name == "edge1" { 20 } else { 10 }).map(of).collect()
    }
}

fn ebbtide_machine(machine: &Machine) -> ebbtide_proto::v1::Machine {
    ebbtide_proto::v1::Machine {
        cpu_model: machine.model.into(),
        cpus: machine.cpus,
        sockets: if machine.cpus > 16 { 2 } else { 1 },
        architecture: if machine.cpus == 4 { "aarch64" } else { "x86_64" }.into(),
        idle_policy: "unallocated".into(),
        usage_method: "bpf".into(),
    }
}

/// From 0 to 1000 and back in each `period`.
fn wave(ms: u64, period: u64, shift: u64) -> u64 {
    let at = (ms + shift) % period * 2000 / period;
    if at < 1000 { at } else { 2000 - at }
}

fn group_of(by: GroupBy, run: &WorkloadPower) -> Option<String> {
    let label = |name: &str| run.labels.iter().find(|l| l.name == name).map(|l| l.value.clone());
    let kind = run.id.split('/').next().unwrap();
    match by {
        GroupBy::Namespace => label("namespace"),
        GroupBy::App => label("app"),
        GroupBy::Pod => (kind == "pod").then(|| run.name.clone()),
        GroupBy::Container => (kind == "container").then(|| run.name.clone()),
        GroupBy::Unit => (kind == "unit").then(|| run.name.clone()),
        GroupBy::Vm => None,
        GroupBy::User => (kind == "user").then(|| run.name.clone()),
        _ => Some(run.id.clone()),
    }
}

impl MadeUp {
    fn now(&self) -> u64 {
        (self.clock)()
    }

    fn is_empty(&self) -> bool {
        self.empty.load(Ordering::Relaxed)
    }

    fn all(&self) -> Vec<Node> {
        if self.is_empty() { Vec::new() } else { MACHINES.iter().map(|m| m.node(self.now())).collect() }
    }
}

impl Queries for MadeUp {
    fn nodes(&self, request: &ListNodesRequest) -> ListNodesResponse {
        let mut nodes = self.all();
        nodes.retain(|n| n.name.contains(&request.search));
        ListNodesResponse { nodes, now_ms: self.now() }
    }

    fn node(&self, request: &GetNodeRequest) -> Result<GetNodeResponse, QueryError> {
        let missing = || QueryError::NotFound { what: "node", name: request.name.clone() };
        let machine = MACHINES.iter().find(|m| m.name == request.name && !self.is_empty()).ok_or_else(missing)?;
        let mut workloads = machine.runs(self.now());
        workloads.sort_by_key(|w| std::cmp::Reverse(w.power_uw));
        Ok(GetNodeResponse { node: Some(machine.node(self.now())), workloads, now_ms: self.now() })
    }

    fn workloads(&self, request: &ListWorkloadsRequest) -> Result<ListWorkloadsResponse, QueryError> {
        let mut groups: BTreeMap<String, WorkloadPower> = BTreeMap::new();
        for run in MACHINES.iter().filter(|_| !self.is_empty()).flat_map(|m| m.runs(self.now())) {
            let Some(name) = group_of(request.by(), &run).filter(|name| name.contains(&request.search)) else {
                continue;
            };
            let group = groups.entry(name.clone()).or_insert_with(|| WorkloadPower {
                id: name.clone(),
                name,
                node: run.node.clone(),
                labels: run.labels.clone(),
                ..WorkloadPower::default()
            });
            let add = |a: Option<u64>, b: Option<u64>| a.zip(b).map(|(a, b)| a + b).or(a).or(b);
            group.power_uw = add(group.power_uw, run.power_uw);
            group.idle_uw = add(group.idle_uw, run.idle_uw);
            group.cpu_milli = add(group.cpu_milli, run.cpu_milli);
            group.quality = group.quality.max(run.quality);
            group.members += 1;
            group.nodes = if group.node == run.node { group.nodes.max(1) } else { group.nodes.max(1) + 1 };
            if group.node != run.node {
                group.node = String::new();
            }
        }
        let mut workloads: Vec<_> = groups.into_values().collect();
        workloads.sort_by_key(|w| std::cmp::Reverse(w.power_uw));
        let total = u32::try_from(workloads.len()).unwrap();
        workloads.truncate(request.limit as usize);
        Ok(ListWorkloadsResponse { workloads, total, now_ms: self.now() })
    }

    fn energy(&self, request: &QueryEnergyRequest) -> Result<QueryEnergyResponse, QueryError> {
        let now = self.now();
        let until = if request.until_ms == 0 { now } else { request.until_ms };
        let step = if request.step_ms == 0 { until - request.from_ms } else { request.step_ms };
        let from = request.from_ms / step * step;
        let buckets = (until - from).div_ceil(step);
        let mut groups: BTreeMap<String, EnergyGroup> = BTreeMap::new();
        for machine in
            MACHINES.iter().filter(|m| !self.is_empty() && (request.node.is_empty() || m.name == request.node))
        {
            let parts: Vec<(String, u64)> = match request.by() {
                GroupBy::Node => vec![(machine.name.into(), 1000)],
                GroupBy::Component => machine
                    .zones
                    .iter()
                    .map(|z| {
                        let name = match z.1 {
                            ZoneKind::Package => "cpu",
                            ZoneKind::Dram => "dram",
                            _ => "rest",
                        };
                        (name.to_owned(), z.3 * 10)
                    })
                    .collect(),
                by => {
                    let runs = machine.runs(THEN);
                    let all: u64 = runs.iter().filter_map(|r| r.power_uw).sum::<u64>().max(1);
                    let share = |r: &WorkloadPower| 600 * r.power_uw.unwrap_or(0) / all;
                    runs.iter().filter_map(|r| Some((group_of(by, r)?, share(r)))).collect()
                }
            };
            for (name, permille) in parts.into_iter().filter(|p| p.0.contains(&request.search)) {
                let empty = || EnergyGroup {
                    name: name.clone(),
                    energy_uj: vec![0; buckets as usize],
                    covered_ms: vec![0; buckets as usize],
                    quality: machine.quality.into(),
                    ..EnergyGroup::default()
                };
                let group = groups.entry(name.clone()).or_insert_with(empty);
                for i in 0..buckets {
                    let (uj, ms) = machine.energy(from + i * step, step, now);
                    group.energy_uj[i as usize] += uj / 1000 * permille;
                    group.covered_ms[i as usize] = group.covered_ms[i as usize].max(ms);
                    group.total_uj += uj / 1000 * permille;
                }
            }
        }
        let mut groups: Vec<_> = groups.into_values().filter(|g| g.covered_ms.iter().any(|ms| *ms > 0)).collect();
        groups.sort_by_key(|g| std::cmp::Reverse(g.total_uj));
        let most = if request.limit == 0 { 100 } else { request.limit as usize };
        groups.truncate(most);
        let buckets = u32::try_from(buckets).unwrap();
        Ok(QueryEnergyResponse { from_ms: from, step_ms: step, buckets, groups, other: None, now_ms: now })
    }

    fn zones(&self, _: &ListZonesRequest) -> ListZonesResponse {
        ListZonesResponse::default()
    }

    fn totals(&self) -> Totals {
        let nodes = self.all();
        let live: Vec<&Node> = nodes.iter().filter(|n| n.state() == NodeState::Live).collect();
        let sum = |of: fn(&Node) -> Option<u64>| live.iter().filter_map(|n| of(n)).reduce(|a, b| a + b);
        let power = sum(|n| n.power_uw);
        let cpu = live.iter().find(|n| n.name == "edge1").and_then(|n| n.power_uw).unwrap_or(0);
        let part = |component: &str, power_uw: u64| ComponentPower { component: component.into(), power_uw };
        let count = |state: NodeState| u32::try_from(nodes.iter().filter(|n| n.state() == state).count()).unwrap();
        Totals {
            power_uw: power,
            idle_uw: sum(|n| n.idle_uw),
            today_uj: nodes.iter().map(|n| n.today_uj).sum(),
            nodes: u32::try_from(nodes.len()).unwrap(),
            live: count(NodeState::Live),
            stale: count(NodeState::Stale),
            troubled: count(NodeState::Refused),
            workloads: nodes.iter().map(|n| n.workloads).sum(),
            quality: if self.is_empty() { Quality::Unspecified } else { Quality::Modelled }.into(),
            components: match power {
                Some(all) => {
                    vec![part("cpu", cpu / 100 * 84), part("dram", cpu / 100 * 16), part("rest", all - cpu / 100 * 100)]
                }
                None => Vec::new(),
            },
        }
    }

    fn status(&self) -> GetStatusResponse {
        let now = self.now();
        let count = |n: u64| if self.is_empty() { 0 } else { n };
        GetStatusResponse {
            version: "0.1.0".into(),
            started_ms: now - 26 * HOUR,
            now_ms: now,
            nodes: if self.is_empty() { 0 } else { 5 },
            connected: if self.is_empty() { 0 } else { 2 },
            samples: count(48_211_904),
            frames: count(18_731),
            duplicates: count(12),
            dropped_frames: count(3),
            refusals: match self.is_empty() {
                true => Vec::new(),
                false => vec![
                    Refusals { reason: "clock".into(), count: 812 },
                    Refusals { reason: "<b>bad</b> certificate".into(), count: 1 },
                ],
            },
            commit_p99_us: count(4_310),
            store_bytes: 5 << 20,
            unsealed_frames: count(120),
            oldest_ms: count(now - 9 * DAY),
            encrypted: false,
            data_dir: "/var/lib/ebbtide-fleet".into(),
            your_role: "viewer".into(),
            troubles: match self.is_empty() {
                true => Vec::new(),
                false => {
                    vec!["the disk of /var/lib/ebbtide-fleet is 92 % full; see retention in the configuration".into()]
                }
            },
        }
    }
}
