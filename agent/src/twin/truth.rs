//! What really happened: the energy of every process and zone, to the microjoule.
//!
//! The physical model counts nanojoules in *components* (cores, rest of the package and memory of each
//! socket). Settling turns them into whole microjoules by largest remainder; a zone is a sum
//! of components, so in each zone Σ processes + kernel + idle floor = total, exactly and at any time.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;

use ebbtide_proto::Energy;
use serde::Serialize;

use super::scenario::{Machine, Offered, Rapl};
use crate::clock::Moment;
use crate::source::ZoneKind;

/// Components per socket: cores, rest of the package, memory.
pub(super) const PER_SOCKET: usize = 3;

/// The cumulative truth since the start of the twin.
#[derive(Clone, Debug, Serialize)]
pub struct Truth {
    /// Simulated time, ns on the clocks of the twin.
    #[serde(serialize_with = "moment")]
    pub at: Moment,
    /// The zones; every `dynamic` list below is in this order.
    pub zones: Vec<ZoneTruth>,
    /// Interrupts.
    pub kernel: Share,
    /// Totals of each workload of the scenario, its ended processes included; in the scenario's order.
    pub workloads: Vec<WorkloadTruth>,
    /// Processes that live, and the last [`Truth::KEPT`] that ended, in the order in which they started.
    #[serde(serialize_with = "values")]
    pub processes: BTreeMap<u64, ProcessTruth>,
    #[serde(skip)]
    ended: VecDeque<u64>,
    /// Given out per component, µJ.
    #[serde(skip)]
    dynamic_uj: Vec<u64>,
}

/// The truth about one zone.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneTruth {
    /// Unique: `package-0`, `package-0/core`, `package-0/dram`, `psys`, `mmio/package-0`.
    pub id: String,
    /// The kernel's name, which several zones may share: `core`.
    pub name: String,
    /// Folder below `/sys/class/powercap`: `intel-rapl:0:1`.
    pub folder: String,
    /// What it covers.
    pub kind: ZoneKind,
    /// Its package; none for the platform.
    pub socket: Option<u32>,
    /// Idle floor + dynamic energy.
    pub total: Energy,
    /// The floor: what it would have drawn without any load.
    pub idle: Energy,
    /// What load drew: Σ processes + kernel.
    pub dynamic: Energy,
    /// Components that it sums.
    #[serde(skip)]
    pub(super) parts: Vec<usize>,
    /// Idle power, W.
    #[serde(skip)]
    pub(super) idle_w: f64,
    /// Nominal greatest power, W; what the limit files show.
    #[serde(skip)]
    pub(super) max_w: f64,
}

/// What one consumer used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// Dynamic energy per zone, in the order of [`Truth::zones`].
    pub dynamic: Vec<Energy>,
}

/// What hardware counters would have told of one process, for agents that can't be given real ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Core cycles while it ran.
    pub cycles: u64,
    /// Instructions retired.
    pub instructions: u64,
    /// Last-level cache misses: a million per traffic unit and CPU second.
    pub misses: u64,
    /// CPU time per socket, ns; Σ is the CPU time of the process.
    pub socket_ns: Vec<u64>,
}

/// The truth about one workload of the scenario.
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadTruth {
    /// Its name in the scenario.
    pub name: String,
    /// What its processes are called.
    #[serde(serialize_with = "text")]
    pub comm: Arc<str>,
    /// Their cgroup.
    #[serde(serialize_with = "text")]
    pub cgroup: Arc<str>,
    /// Processes started so far.
    pub started: u64,
    /// Of these, how many have ended.
    pub ended: u64,
    /// All of them together.
    #[serde(flatten)]
    pub share: Share,
}

/// The truth about one process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessTruth {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks since boot; with `pid` the identity of the process.
    pub start_ticks: u64,
    /// Its workload in [`Truth::workloads`]; none for `systemd` and `kthreadd`.
    pub workload: Option<usize>,
    /// What the kernel calls it.
    #[serde(serialize_with = "text")]
    pub comm: Arc<str>,
    /// Its cgroup.
    #[serde(serialize_with = "text")]
    pub cgroup: Arc<str>,
    /// When it ended, ns of running time since the start of the twin.
    pub ended_ns: Option<u64>,
    /// What hardware counters would say.
    pub counters: Counters,
    /// What it used.
    #[serde(flatten)]
    pub share: Share,
}

/// Energy that a process has drawn and that isn't in the truth yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Its key in [`Truth::processes`].
    pub(super) key: u64,
    /// CPU time so far, ns.
    pub(super) cpu_ns: u64,
    pub(super) counters: Counters,
    /// Per component, nJ; negative by less than 2 µJ where rounding gave too much.
    pub(super) pending: Vec<i64>,
    /// Whether anything was added since the last settlement.
    pub(super) dirty: bool,
    /// Whether this is the last settlement.
    pub(super) closing: bool,
}

impl Account {
    pub(super) fn new(key: u64, components: usize) -> Self {
        let counters = Counters { socket_ns: vec![0; components / PER_SOCKET], ..Counters::default() };
        Self { key, pending: vec![0; components], counters, ..Self::default() }
    }
}

impl Truth {
    /// How many ended processes are kept one by one. Older ones live on in [`Truth::workloads`].
    pub const KEPT: usize = 65_536;

    pub(super) fn new(machine: &Machine, rapl: &Rapl, at: Moment) -> Self {
        let zones = zones(machine, rapl);
        let kernel = Share { cpu_ns: 0, dynamic: vec![Energy::ZERO; zones.len()] };
        let dynamic_uj = vec![0; machine.sockets as usize * PER_SOCKET];
        Self {
            at,
            zones,
            kernel,
            workloads: Vec::new(),
            processes: BTreeMap::new(),
            ended: VecDeque::new(),
            dynamic_uj,
        }
    }

    pub(super) fn empty_share(&self) -> Share {
        Share { cpu_ns: 0, dynamic: vec![Energy::ZERO; self.zones.len()] }
    }

    /// The position of a zone by its id.
    pub fn zone(&self, id: &str) -> Option<usize> {
        self.zones.iter().position(|z| z.id == id)
    }

    /// The process with this pid that lives.
    pub fn living(&self, pid: u32) -> Option<&ProcessTruth> {
        self.processes.values().rev().find(|p| p.pid == pid && p.ended_ns.is_none())
    }

    /// Turns what is pending into whole microjoules. `idle_nj(w)` is the energy of `w` watts since the start.
    pub(super) fn settle(
        &mut self,
        at: Moment,
        elapsed_ns: u64,
        awake_ns: u64,
        kernel: &mut Account,
        open: &mut [&mut Account],
    ) {
        self.at = at;
        let mut column = Vec::with_capacity(open.len() + 1);
        for c in 0..self.dynamic_uj.len() {
            column.clear();
            column.extend(open.iter().map(|a| a.pending.get(c).copied().unwrap_or(0)));
            column.push(kernel.pending.get(c).copied().unwrap_or(0));
            let shares = whole_microjoules(&column);
            let (Some(given), Some((own, others))) = (self.dynamic_uj.get_mut(c), shares.split_last()) else {
                continue;
            };
            *given += shares.iter().sum::<u64>();
            for (account, uj) in open.iter_mut().zip(others) {
                book(account, c, *uj);
            }
            book(kernel, c, *own);
            for (zone, z) in self.zones.iter().enumerate().filter(|(_, z)| z.parts.contains(&c)) {
                debug_assert!(z.parts.len() <= self.dynamic_uj.len());
                for (account, uj) in open.iter().zip(others).filter(|(_, uj)| **uj > 0) {
                    let Some(p) = self.processes.get_mut(&account.key) else { continue };
                    add(&mut p.share, zone, *uj);
                    if let Some(w) = p.workload.and_then(|w| self.workloads.get_mut(w)) {
                        add(&mut w.share, zone, *uj);
                    }
                }
                add(&mut self.kernel, zone, *own);
            }
        }
        self.kernel.cpu_ns = kernel.cpu_ns;
        for account in open.iter_mut() {
            account.dirty = false;
            let Some(p) = self.processes.get_mut(&account.key) else { continue };
            let used = account.cpu_ns - p.share.cpu_ns;
            p.share.cpu_ns = account.cpu_ns;
            p.counters.clone_from(&account.counters);
            if let Some(w) = p.workload.and_then(|w| self.workloads.get_mut(w)) {
                w.share.cpu_ns += used;
                w.ended += u64::from(account.closing);
            }
            if account.closing {
                p.ended_ns = Some(elapsed_ns);
                self.ended.push_back(account.key);
                // the fraction of a microjoule that is left
                for (rest, k) in account.pending.iter_mut().zip(&mut kernel.pending) {
                    *k += std::mem::take(rest);
                }
            }
        }
        while self.ended.len() > Self::KEPT {
            if let Some(key) = self.ended.pop_front() {
                self.processes.remove(&key);
            }
        }
        for z in &mut self.zones {
            z.idle = Energy::from_uj(whole(z.idle_w * (awake_ns / 1000) as f64));
            z.dynamic = z.parts.iter().filter_map(|c| self.dynamic_uj.get(*c)).map(|uj| Energy::from_uj(*uj)).sum();
            z.total = z.idle + z.dynamic;
        }
    }

    /// One line per process, then per workload total, `kernel` and `idle`: who, CPU time, µJ per zone.
    pub fn to_csv(&self) -> String {
        let mut out = String::from("kind,pid,start_ticks,name,cgroup,ended_ns,cpu_ns");
        for z in &self.zones {
            line(&mut out, format_args!(",{}_uj", z.id));
        }
        out.push('\n');
        for p in self.processes.values() {
            let ended = p.ended_ns.map(|ns| ns.to_string()).unwrap_or_default();
            line(
                &mut out,
                format_args!("process,{},{},{},{},{ended}", p.pid, p.start_ticks, csv(&p.comm), csv(&p.cgroup)),
            );
            figures(&mut out, p.share.cpu_ns, &p.share.dynamic);
        }
        for w in &self.workloads {
            line(&mut out, format_args!("workload,,,{},{},", csv(&w.name), csv(&w.cgroup)));
            figures(&mut out, w.share.cpu_ns, &w.share.dynamic);
        }
        line(&mut out, format_args!("kernel,,,,,"));
        figures(&mut out, self.kernel.cpu_ns, &self.kernel.dynamic);
        for (kind, of) in [("idle", (|z| z.idle) as fn(&ZoneTruth) -> Energy), ("total", |z| z.total)] {
            line(&mut out, format_args!("{kind},,,,,"));
            figures(&mut out, 0, &self.zones.iter().map(of).collect::<Vec<_>>());
        }
        out
    }
}

fn book(account: &mut Account, component: usize, uj: u64) {
    if let Some(p) = account.pending.get_mut(component) {
        *p -= i64::try_from(uj).unwrap_or(i64::MAX / 2000).saturating_mul(1000);
    }
}

fn add(share: &mut Share, zone: usize, uj: u64) {
    if let Some(e) = share.dynamic.get_mut(zone) {
        *e += Energy::from_uj(uj);
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String can't fail
    out.write_fmt(text).unwrap_or_default();
}

fn figures(out: &mut String, cpu_ns: u64, energies: &[Energy]) {
    line(out, format_args!(",{cpu_ns}"));
    for e in energies {
        line(out, format_args!(",{}", e.uj()));
    }
    out.push('\n');
}

fn csv(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

fn moment<S: serde::Serializer>(at: &Moment, s: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Clocks {
        mono_ns: u64,
        boot_ns: u64,
        wall_ns: u64,
    }
    Clocks { mono_ns: at.mono, boot_ns: at.boot, wall_ns: at.wall }.serialize(s)
}

fn text<S: serde::Serializer>(text: &Arc<str>, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(text)
}

fn values<S: serde::Serializer>(map: &BTreeMap<u64, ProcessTruth>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(map.values())
}

/// `x` as a whole number, at least 0; what is beyond the range saturates.
pub(super) fn whole(x: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, reason = "dropping the fraction is meant; the cast saturates")]
    let n = x as u64;
    n
}

/// Shares in whole µJ of amounts in nJ: Σ shares = ⌊Σ amounts / 1000⌋ (0 if that is negative), each
/// its own floor or one more, by largest remainder; one less where debts of others demand it.
pub(super) fn whole_microjoules(nj: &[i64]) -> Vec<u64> {
    let mut shares: Vec<u64> = nj.iter().map(|n| u64::try_from(n.div_euclid(1000)).unwrap_or(0)).collect();
    let sum: i64 = nj.iter().sum();
    let goal = u64::try_from(sum.div_euclid(1000)).unwrap_or(0);
    let given: u64 = shares.iter().sum();
    if given == goal {
        return shares;
    }
    let mut order: Vec<usize> = (0..nj.len()).filter(|i| nj.get(*i).is_some_and(|n| *n > 0)).collect();
    let rest = |i: &usize| nj.get(*i).map_or(0, |n| n.rem_euclid(1000));
    order.sort_by_key(|i| std::cmp::Reverse(rest(i)));
    let mut left = goal.abs_diff(given);
    let up = goal > given;
    if !up {
        order.reverse();
    }
    while left > 0 && !order.is_empty() {
        for i in &order {
            let Some(s) = shares.get_mut(*i) else { continue };
            if left > 0 && (up || *s > 0) {
                *s = if up { *s + 1 } else { *s - 1 };
                left -= 1;
            }
        }
    }
    shares
}

/// The ids of the zones that a machine offers, in order.
pub(super) fn zone_ids(machine: &Machine, rapl: &Rapl) -> Vec<String> {
    zones(machine, rapl).into_iter().map(|z| z.id).collect()
}

fn zones(m: &Machine, rapl: &Rapl) -> Vec<ZoneTruth> {
    let offers = |z| rapl.zones.contains(&z);
    let mut out = Vec::new();
    let mut zone =
        |id: String, name: String, folder: String, kind, socket, parts: Vec<usize>, idle_w, dynamic_w: f64| {
            let [total, idle, dynamic] = [Energy::ZERO; 3];
            // headroom over the nominal figure, for turbo and odd instruction mixes
            let max_w = idle_w + 2.0 * dynamic_w;
            out.push(ZoneTruth { id, name, folder, kind, socket, total, idle, dynamic, parts, idle_w, max_w });
        };
    let cores_w = m.core_w * f64::from(m.cores) * (1.0 + m.smt_extra);
    let dram_w = m.dram_w * f64::from(m.cores * m.smt);
    for s in 0..m.sockets {
        let first = s as usize * PER_SOCKET;
        let package = format!("package-{s}");
        let folder = format!("intel-rapl:{s}");
        if offers(Offered::Package) {
            let parts = vec![first, first + 1];
            zone(
                package.clone(),
                package.clone(),
                folder.clone(),
                ZoneKind::Package,
                Some(s),
                parts,
                m.idle_w,
                cores_w + m.uncore_w,
            );
        }
        let mut sub = 0;
        if offers(Offered::Core) {
            zone(
                format!("{package}/core"),
                "core".into(),
                format!("{folder}:{sub}"),
                ZoneKind::Core,
                Some(s),
                vec![first],
                m.core_idle_w,
                cores_w,
            );
            sub += 1;
        }
        if offers(Offered::Dram) {
            zone(
                format!("{package}/dram"),
                "dram".into(),
                format!("{folder}:{sub}"),
                ZoneKind::Dram,
                Some(s),
                vec![first + 2],
                m.dram_idle_w,
                dram_w,
            );
        }
    }
    let sockets = f64::from(m.sockets);
    if offers(Offered::Psys) {
        let idle = m.board_w + sockets * (m.idle_w + m.dram_idle_w);
        let parts = (0..m.sockets as usize * PER_SOCKET).collect();
        zone(
            "psys".into(),
            "psys".into(),
            format!("intel-rapl:{}", m.sockets),
            ZoneKind::Psys,
            None,
            parts,
            idle,
            sockets * (cores_w + m.uncore_w + dram_w),
        );
    }
    if offers(Offered::Mmio) {
        for s in 0..m.sockets {
            let first = s as usize * PER_SOCKET;
            zone(
                format!("mmio/package-{s}"),
                format!("package-{s}"),
                format!("intel-rapl-mmio:{s}"),
                ZoneKind::Package,
                Some(s),
                vec![first, first + 1],
                m.idle_w,
                cores_w + m.uncore_w,
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_whole_and_add_up(nj in prop::collection::vec(-1999..5_000_000_i64, 0..40)) {
            let shares = whole_microjoules(&nj);
            let goal = nj.iter().sum::<i64>().div_euclid(1000).max(0);
            prop_assert_eq!(shares.iter().sum::<u64>(), u64::try_from(goal).unwrap());
            let debts = nj.iter().filter(|n| **n < 0).count() as u64;
            for (s, n) in shares.iter().zip(&nj) {
                let floor = u64::try_from(n / 1000).unwrap_or(0);
                prop_assert!(*s <= floor + 1 && *s + 2 * debts >= floor, "{s} of {n}");
            }
        }
    }

    #[test]
    fn the_largest_remainders_get_what_is_left() {
        assert_eq!(whole_microjoules(&[1_900, 1_500, 600]), [2, 1, 1]);
        assert_eq!(whole_microjoules(&[1_000, -1_500]), [0, 0]);
        assert!(whole_microjoules(&[]).is_empty());
    }

    #[test]
    fn text_with_commas_is_quoted() {
        assert_eq!(csv("a,\"b"), "\"a,\"\"b\"");
    }
}
