//! How busy each CPU was, and which CPUs share a core or a package.
//!
//! Busy is elapsed time less idle, I/O wait and stolen time: the kernel keeps those exactly, while its user and
//! system figures are sampled at ticks. All are told in whole ticks; sums are followed from the first sample on,
//! so that rounding never adds up.

use std::collections::BTreeMap;
use std::time::Duration;

use super::stat::MachineStat;
use crate::clock::Moment;
use crate::host::{self, HostRoot};

/// One logical CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's number for it.
    pub id: u32,
    /// Its package, counted from zero without holes.
    pub socket: u32,
    /// Index in [`Topology::cpus`] of another thread of the same core.
    pub sibling: Option<usize>,
}

/// The CPUs of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// By rising [`Cpu::id`].
    pub cpus: Vec<Cpu>,
    /// Number of packages.
    pub sockets: u32,
    /// The kernel's number of each package.
    pub packages: Vec<i64>,
}

impl Topology {
    /// Reads `/sys/devices/system/cpu`. CPUs without topology (old kernels, some ARM boards, containers without
    /// `/sys`) are cores of one package; `ids` names those that `/proc/stat` knows.
    pub fn read(host: &HostRoot, ids: &[u32]) -> Self {
        let topology = |id: u32, what: &str| {
            host::read_line(&host.sys(format!("devices/system/cpu/cpu{id}/topology/{what}"))).ok()?.parse::<i64>().ok()
        };
        let mut packages = BTreeMap::new();
        let mut first_of_core = BTreeMap::new();
        let mut cpus: Vec<Cpu> = Vec::new();
        for &id in ids {
            let package = topology(id, "physical_package_id").unwrap_or(0).max(0);
            let n = packages.len();
            let socket = *packages.entry(package).or_insert(n);
            let mut sibling = None;
            if let Some(core) = topology(id, "core_id") {
                let die = topology(id, "die_id").unwrap_or(0);
                match first_of_core.entry((package, die, core)) {
                    std::collections::btree_map::Entry::Vacant(e) => {
                        e.insert(cpus.len());
                    }
                    std::collections::btree_map::Entry::Occupied(e) => {
                        sibling = Some(*e.get());
                        let here = cpus.len();
                        if let Some(first) = cpus.get_mut(*e.get()) {
                            first.sibling.get_or_insert(here);
                        }
                    }
                }
            }
            cpus.push(Cpu { id, socket: u32::try_from(socket).unwrap_or(0), sibling });
        }
        let sockets = u32::try_from(packages.len().max(1)).unwrap_or(1);
        let mut numbers = vec![0; packages.len()];
        for (number, index) in packages {
            if let Some(n) = numbers.get_mut(index) {
                *n = number;
            }
        }
        Self { cpus, sockets, packages: numbers }
    }

    /// [`Cpu::socket`] of the package that the kernel gives this number; `None` if it has no CPU online.
    pub fn socket_of_package(&self, number: u32) -> Option<usize> {
        self.packages.iter().position(|&n| n == i64::from(number))
    }

    /// Index of the CPU with this number.
    pub fn position(&self, id: u32) -> Option<usize> {
        // nearly always the index itself
        if self.cpus.get(id as usize).is_some_and(|c| c.id == id) {
            return Some(id as usize);
        }
        self.cpus.binary_search_by_key(&id, |c| c.id).ok()
    }
}

/// Busy and interrupt time of one CPU in one interval, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuInterval {
    /// Something ran.
    pub busy_ns: u64,
    /// Of that, interrupts as the kernel sampled them.
    pub interrupts_ns: u64,
}

/// Follows `/proc/stat`.
#[derive(Clone, Debug)]
pub struct CpuMeter {
    tick_ns: u64,
    topology: Topology,
    rows: Vec<Row>,
    /// The last interval, by [`Topology::cpus`].
    pub last: Vec<CpuInterval>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    base: Option<Base>,
    /// Busy time told so far since `base`.
    told: u64,
}

#[derive(Clone, Copy, Debug)]
struct Base {
    at: Moment,
    not_run: u64,
    interrupts: u64,
}

impl CpuMeter {
    /// A meter of a machine whose clock ticks `ticks_per_second` times.
    pub fn new(topology: Topology, ticks_per_second: u64) -> Self {
        let n = topology.cpus.len();
        Self {
            tick_ns: 1_000_000_000 / ticks_per_second.max(1),
            topology,
            rows: vec![Row::default(); n],
            last: vec![CpuInterval::default(); n],
        }
    }

    /// Goes on with another set of CPUs; those that were there before keep their figures.
    pub fn adopt(&mut self, topology: Topology) {
        let old = std::mem::replace(&mut self.topology, topology);
        let rows = std::mem::take(&mut self.rows);
        let row = |id| old.position(id).and_then(|i| rows.get(i)).copied().unwrap_or_default();
        self.rows = self.topology.cpus.iter().map(|c| row(c.id)).collect();
        self.last = vec![CpuInterval::default(); self.rows.len()];
    }

    /// Whether `stat` tells of exactly the CPUs that are known.
    pub fn knows(&self, stat: &MachineStat) -> bool {
        stat.cpus.len() == self.topology.cpus.len()
            && stat.cpus.iter().zip(&self.topology.cpus).all(|(a, b)| a.cpu == b.id)
    }

    /// The machine's CPUs.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Takes what `/proc/stat` said at `now`; [`CpuMeter::last`] is the interval since the time before.
    pub fn step(&mut self, now: Moment, stat: &MachineStat, dt: Duration) {
        let dt_ns = u64::try_from(dt.as_nanos()).unwrap_or(u64::MAX);
        let mut seen = vec![false; self.rows.len()];
        for ticks in &stat.cpus {
            let Some(i) = self.topology.position(ticks.cpu) else { continue };
            let (Some(row), Some(out)) = (self.rows.get_mut(i), self.last.get_mut(i)) else { continue };
            if let Some(s) = seen.get_mut(i) {
                *s = true;
            }
            let base = *row.base.get_or_insert(Base { at: now, not_run: ticks.not_run, interrupts: ticks.interrupts });
            let elapsed = now.mono.saturating_sub(base.at.mono);
            let not_run = ticks.not_run.saturating_sub(base.not_run).saturating_mul(self.tick_ns);
            let busy = elapsed.saturating_sub(not_run);
            out.busy_ns = busy.saturating_sub(row.told).min(dt_ns);
            row.told += out.busy_ns;
            out.interrupts_ns =
                ticks.interrupts.saturating_sub(base.interrupts).saturating_mul(self.tick_ns).min(out.busy_ns);
            if let Some(b) = &mut row.base {
                b.interrupts = ticks.interrupts;
            }
        }
        // a CPU that went offline starts afresh when it returns
        for ((row, out), seen) in self.rows.iter_mut().zip(&mut self.last).zip(seen) {
            if !seen {
                *row = Row::default();
                *out = CpuInterval::default();
            }
        }
    }

    /// Mean busy share of all CPUs in the last interval, 0 to 1.
    pub fn utilisation(&self, dt: Duration) -> f64 {
        let busy: u64 = self.last.iter().map(|c| c.busy_ns).sum();
        let all = dt.as_secs_f64() * 1e9 * self.last.len().max(1) as f64;
        if all > 0.0 { (busy as f64 / all).clamp(0.0, 1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stat::CpuTicks;
    use super::*;
    use proptest::prelude::*;

    fn flat(n: u32) -> Topology {
        Topology {
            cpus: (0..n).map(|id| Cpu { id, socket: 0, sibling: None }).collect(),
            sockets: 1,
            packages: vec![0],
        }
    }

    fn stat(rows: &[(u32, u64)]) -> MachineStat {
        let cpus = rows.iter().map(|&(cpu, not_run)| CpuTicks { cpu, not_run, interrupts: 0 }).collect();
        MachineStat { cpus, forks: None }
    }

    #[test]
    fn an_offline_cpu_comes_back_without_a_jump() {
        let s = Duration::from_secs(1);
        let mut m = CpuMeter::new(flat(2), 100);
        let at = |n: u64| Moment::default().plus(Duration::from_secs(n));
        m.step(at(1), &stat(&[(0, 0), (1, 0)]), s);
        m.step(at(2), &stat(&[(0, 100), (1, 40)]), s);
        assert_eq!(m.last.iter().map(|c| c.busy_ns / 1_000_000).collect::<Vec<_>>(), [0, 600]);
        m.step(at(3), &stat(&[(0, 150)]), s);
        assert_eq!(m.last[1].busy_ns, 0);
        m.step(at(60), &stat(&[(0, 5850), (1, 41)]), s);
        m.step(at(61), &stat(&[(0, 5950), (1, 91)]), s);
        assert_eq!(m.last.iter().map(|c| c.busy_ns / 1_000_000).collect::<Vec<_>>(), [0, 500]);
    }

    #[test]
    fn cores_and_packages_are_read() {
        let dir = tempfile::tempdir().unwrap();
        for (cpu, package, core) in [(0, 0, 0), (1, 3, 0), (2, 0, 0), (3, 3, 0)] {
            let t = dir.path().join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
            std::fs::create_dir_all(&t).unwrap();
            std::fs::write(t.join("physical_package_id"), format!("{package}\n")).unwrap();
            std::fs::write(t.join("core_id"), format!("{core}\n")).unwrap();
        }
        let t = Topology::read(&HostRoot::new(dir.path()), &[0, 1, 2, 3, 9]);
        let got: Vec<_> = t.cpus.iter().map(|c| (c.socket, c.sibling)).collect();
        assert_eq!(got, [(0, Some(2)), (1, Some(3)), (0, Some(0)), (1, Some(1)), (0, None)]);
        assert_eq!((t.sockets, t.position(9), t.position(4)), (2, Some(4), None));
        assert_eq!((t.socket_of_package(3), t.socket_of_package(1)), (Some(1), None));
    }

    proptest! {
        /// Whatever the rounding to ticks, the sum stays within one tick of the truth.
        #[test]
        fn rounding_never_adds_up(steps in prop::collection::vec((1..3_000u64, 0..=1000u64), 1..100)) {
            let mut m = CpuMeter::new(flat(1), 100);
            let (mut now, mut idle_us, mut busy_us, mut told) = (Moment::default(), 0, 0, 0);
            m.step(now, &stat(&[(0, 0)]), Duration::ZERO);
            for (ms, permille) in steps {
                let dt = Duration::from_millis(ms);
                now = now.plus(dt);
                idle_us += ms * permille;
                busy_us += ms * (1000 - permille);
                m.step(now, &stat(&[(0, idle_us / 10_000)]), dt);
                prop_assert!(m.last[0].busy_ns <= ms * 1_000_000);
                told += m.last[0].busy_ns;
            }
            let error = (told / 1000).abs_diff(busy_us);
            prop_assert!(error <= 10_000, "{error} µs off");
        }
    }
}
