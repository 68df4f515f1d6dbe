//! The state of the twin as files of `/proc` and `/sys`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use super::fakeroot::{FakeProcess, FakeRoot, FakeThread, FakeZone};
use super::physics::{Physics, Register};
use super::process::Process;
use super::scenario::{CgroupVersion, Governor, Machine, Scenario};
use super::sched::{Sched, TICK_NS};
use super::truth::{ZoneTruth, whole};
use crate::clock::Moment;

/// A file at the top of the folder that tells a twin's tree from anything else.
const MARK: &str = ".ebbtide-twin";

/// A tree on disk and what was last written to it.
#[derive(Debug)]
pub(super) struct Tree {
    fake: FakeRoot,
    seen: BTreeMap<u64, Seen>,
    online: Vec<bool>,
}

/// What changes about a process; files are written only when this does.
#[derive(Debug, PartialEq)]
struct Seen {
    pid: u32,
    cpu_ns: u64,
    running: bool,
    reaped: (u64, u64),
}

/// What is shown.
pub(super) struct View<'a> {
    pub(super) scenario: &'a Scenario,
    pub(super) now: Moment,
    pub(super) sched: &'a Sched,
    pub(super) physics: &'a Physics,
    pub(super) zones: &'a [ZoneTruth],
    pub(super) registers: &'a mut [Register],
    /// Load averages over 1, 5 and 15 minutes.
    pub(super) load: [f64; 3],
}

impl Tree {
    /// A new tree below `root`. The tree of an earlier twin is removed, any other refused.
    pub(super) fn create(root: &Path, s: &Scenario) -> io::Result<Self> {
        let mark = root.join(MARK);
        for part in ["proc", "sys"].map(|p| root.join(p)) {
            match (part.exists(), mark.exists()) {
                (true, true) => std::fs::remove_dir_all(&part)?,
                (true, false) => {
                    let why = format!("{} exists and no twin made it; choose an empty folder", part.display());
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
                }
                (false, _) => {}
            }
        }
        let mut it = Self { fake: FakeRoot::new(PathBuf::from(root)), seen: BTreeMap::new(), online: Vec::new() };
        it.fake.put(MARK, format!("{}\n", s.name))?;
        it.machine(&s.machine)?;
        Ok(it)
    }

    pub(super) fn root(&self) -> &Path {
        self.fake.path()
    }

    /// What never changes.
    fn machine(&mut self, m: &Machine) -> io::Result<()> {
        let fake = &mut self.fake;
        fake.put("proc/sys/kernel/hostname", format!("{}\n", m.hostname))?;
        fake.put("proc/sys/kernel/random/boot_id", format!("{}\n", m.boot_id))?;
        fake.put("proc/sys/kernel/osrelease", "6.12.0-twin\n")?;
        fake.put("proc/sys/kernel/pid_max", "4194304\n")?;
        let controllers = "cpuset cpu io memory pids\n";
        match m.cgroup {
            CgroupVersion::V1 => fake.put("sys/fs/cgroup/cpu,cpuacct/cgroup.procs", "")?,
            CgroupVersion::Hybrid => fake.put("sys/fs/cgroup/unified/cgroup.controllers", "")?,
            CgroupVersion::V2 => fake.put("sys/fs/cgroup/cgroup.controllers", controllers)?,
        }
        let all = format!("{}\n", ranges(&vec![true; m.cpus()]));
        fake.put("sys/devices/system/cpu/present", &all)?;
        fake.put("sys/devices/system/cpu/possible", &all)
    }

    /// Brings the tree to the state of the twin.
    pub(super) fn write(&mut self, v: &mut View<'_>) -> io::Result<()> {
        // energy first and together: whoever samples while we write sees all counters at one time
        for (zone, register) in v.zones.iter().zip(v.registers.iter_mut()) {
            let uj = register.show();
            if !register.linked {
                self.fake.unlink_energy(&zone.folder)?;
            } else if self.online.is_empty() {
                self.fake.zone(&FakeZone {
                    folder: zone.folder.clone(),
                    name: zone.name.clone(),
                    energy_uj: uj,
                    range_uj: v.scenario.rapl.range_uj,
                    max_power_uw: whole(zone.max_w * 1e6),
                })?;
            } else {
                self.fake.energy(&zone.folder, uj)?;
            }
        }
        self.stat(v)?;
        self.processes(v)?;
        self.cpus(v)
    }

    fn stat(&mut self, v: &View<'_>) -> io::Result<()> {
        let ticks = |ns: u64| ns / TICK_NS;
        let mut per_cpu = String::new();
        let mut sum = [0; 4];
        for (n, c) in v.sched.cpus.iter().enumerate() {
            let own = [c.user_ns, c.sys_ns, c.idle_ns, c.irq_ns];
            for (s, ns) in sum.iter_mut().zip(own) {
                *s += ns;
            }
            if c.online {
                let [u, s, i, q] = own.map(ticks);
                put(&mut per_cpu, format_args!("cpu{n} {u} 0 {s} {i} 0 0 {q} 0 0 0\n"));
            }
        }
        let [u, s, i, q] = sum.map(ticks);
        let running = v.sched.threads.iter().filter(|t| t.run > 0).count();
        let btime = (v.now.wall.saturating_sub(v.now.boot)) / 1_000_000_000;
        self.fake.put(
            "proc/stat",
            format!(
                "cpu  {u} 0 {s} {i} 0 0 {q} 0 0 0\n{per_cpu}intr 0\nctxt {}\nbtime {btime}\nprocesses {}\n\
                 procs_running {running}\nprocs_blocked 0\nsoftirq 0 0 0 0 0 0 0 0 0 0 0\n",
                v.sched.switches, v.sched.forks,
            ),
        )?;
        let [up, idle] = [v.now.boot, sum[2]].map(|ns| ns / 10_000_000);
        self.fake.put("proc/uptime", format!("{}.{:02} {}.{:02}\n", up / 100, up % 100, idle / 100, idle % 100))?;
        let [a, b, c] = v.load;
        let last = v.sched.last_pid();
        let tasks: usize = v.sched.processes.iter().flatten().map(|p| p.threads.len()).sum();
        self.fake.put("proc/loadavg", format!("{a:.2} {b:.2} {c:.2} {running}/{tasks} {last}\n"))?;
        let total = v.scenario.machine.mem_mib * 1024;
        let used: u64 = v.sched.processes.iter().flatten().map(|p| p.rss_mib * 1024).sum();
        let free = total.saturating_sub(used);
        self.fake.put(
            "proc/meminfo",
            format!(
                "MemTotal:       {total:>8} kB\nMemFree:        {free:>8} kB\nMemAvailable:   {free:>8} kB\n\
                 Buffers:               0 kB\nCached:                0 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n"
            ),
        )
    }

    fn processes(&mut self, v: &View<'_>) -> io::Result<()> {
        let mut before = std::mem::take(&mut self.seen);
        let living: BTreeSet<u64> = v.sched.processes.iter().flatten().map(|p| p.account.key).collect();
        // first, as a new process may have got the pid of one that is gone
        before.iter().filter(|(key, _)| !living.contains(key)).try_for_each(|(_, gone)| self.fake.end(gone.pid))?;
        for p in v.sched.processes.iter().flatten() {
            let now = Seen { pid: p.pid, cpu_ns: p.account.cpu_ns, running: p.running, reaped: p.reaped };
            match before.remove(&p.account.key) {
                Some(was) if was == now => {}
                Some(_) => self.fake.process_times(&shown(p, v.scenario))?,
                None => self.fake.process(&shown(p, v.scenario))?,
            }
            self.seen.insert(p.account.key, now);
        }
        Ok(())
    }

    fn cpus(&mut self, v: &View<'_>) -> io::Result<()> {
        let m = &v.scenario.machine;
        let online: Vec<bool> = v.sched.cpus.iter().map(|c| c.online).collect();
        if online != self.online {
            self.fake.put("sys/devices/system/cpu/online", format!("{}\n", ranges(&online)))?;
            let offline: Vec<bool> = online.iter().map(|o| !o).collect();
            self.fake.put("sys/devices/system/cpu/offline", format!("{}\n", ranges(&offline)))?;
            self.fake.put("proc/cpuinfo", cpuinfo(v.sched, m))?;
            for (n, _) in v.sched.cpus.iter().enumerate() {
                self.topology(v, n)?;
            }
            self.online = online;
        }
        for (n, cpu) in v.sched.cpus.iter().enumerate().filter(|(_, c)| c.online) {
            let khz = v.physics.khz(cpu.core);
            self.fake.put(&format!("sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq"), format!("{khz}\n"))?;
        }
        Ok(())
    }

    fn topology(&mut self, v: &View<'_>, n: usize) -> io::Result<()> {
        let m = &v.scenario.machine;
        let Some(cpu) = v.sched.cpus.get(n) else { return Ok(()) };
        let dir = format!("sys/devices/system/cpu/cpu{n}");
        if n > 0 {
            self.fake.put(&format!("{dir}/online"), format!("{}\n", u8::from(cpu.online)))?;
        }
        if !cpu.online {
            self.fake.remove(&format!("{dir}/cpufreq"))?;
            return self.fake.remove(&format!("{dir}/topology"));
        }
        let on = |keep: &dyn Fn(usize, usize) -> bool| {
            let cpus = v.sched.cpus.iter().map(|c| c.online && keep(c.socket, c.core)).collect::<Vec<_>>();
            format!("{}\n", ranges(&cpus))
        };
        let core = on(&|_, c| c == cpu.core);
        let core_id = cpu.core % m.cores as usize;
        for (name, text) in [
            ("physical_package_id", format!("{}\n", cpu.socket)),
            ("die_id", "0\n".to_owned()),
            ("core_id", format!("{core_id}\n")),
            ("thread_siblings_list", core.clone()),
            ("core_cpus_list", core),
            ("core_siblings_list", on(&|s, _| s == cpu.socket)),
        ] {
            self.fake.put(&format!("{dir}/topology/{name}"), text)?;
        }
        let governor = match m.governor {
            Governor::Performance => "performance",
            Governor::Schedutil => "schedutil",
        };
        for (name, mhz) in
            [("cpuinfo_min_freq", m.min_mhz), ("cpuinfo_max_freq", m.turbo_mhz), ("base_frequency", m.base_mhz)]
        {
            self.fake.put(&format!("{dir}/cpufreq/{name}"), format!("{}\n", u64::from(mhz) * 1000))?;
        }
        self.fake.put(&format!("{dir}/cpufreq/scaling_governor"), format!("{governor}\n"))
    }
}

fn shown(p: &Process, s: &Scenario) -> FakeProcess {
    let (user, sys) = p.times();
    let path = &p.cgroup;
    let v1 = || {
        let names = ["cpuset", "cpu,cpuacct", "memory", "pids", "name=systemd"];
        let lines = names.iter().enumerate().rev().map(|(n, name)| format!("{}:{name}:{path}\n", n + 1));
        lines.collect::<String>()
    };
    let cgroup = match s.machine.cgroup {
        CgroupVersion::V1 => v1(),
        CgroupVersion::Hybrid => format!("{}0::{path}\n", v1()),
        CgroupVersion::V2 => format!("0::{path}\n"),
    };
    let kernel_thread = &*p.comm == "kthreadd";
    let exe = if kernel_thread { String::new() } else { format!("/usr/bin/{}", p.comm) };
    FakeProcess {
        pid: p.pid,
        ppid: p.ppid,
        comm: p.comm.to_string(),
        state: if p.running { 'R' } else { 'S' },
        uid: p.uid,
        utime: user / TICK_NS,
        stime: sys / TICK_NS,
        cutime: p.reaped.0 / TICK_NS,
        cstime: p.reaped.1 / TICK_NS,
        start_ticks: p.start_ticks,
        vsize: p.rss_mib << 22,
        rss_pages: p.rss_mib * 256,
        cgroup,
        cmdline: exe.clone(),
        exe,
        threads: p
            .threads
            .iter()
            .zip(p.pid..)
            .map(|(t, tid)| FakeThread { tid, run_ns: t.run_ns, wait_ns: t.wait_ns, slices: t.slices, cpu: t.cpu })
            .collect(),
    }
}

/// `0-3,8` for the CPUs that are `true`.
fn ranges(on: &[bool]) -> String {
    let mut out = String::new();
    let mut n = 0;
    while n < on.len() {
        let run = on.iter().skip(n).take_while(|o| **o).count();
        let comma = if out.is_empty() { "" } else { "," };
        match run {
            0 => {}
            1 => put(&mut out, format_args!("{comma}{n}")),
            _ => put(&mut out, format_args!("{comma}{n}-{}", n + run - 1)),
        }
        n += run.max(1);
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a String can't fail
    out.write_fmt(text).unwrap_or_default();
}

fn cpuinfo(sched: &Sched, m: &Machine) -> String {
    let mut out = String::new();
    for (n, c) in sched.cpus.iter().enumerate().filter(|(_, c)| c.online) {
        put(
            &mut out,
            format_args!(
                "processor\t: {n}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nmodel name\t: {}\n\
                 stepping\t: 6\ncpu MHz\t\t: {}.000\nphysical id\t: {}\nsiblings\t: {}\ncore id\t\t: {}\ncpu cores\t: {}\n\
                 apicid\t\t: {n}\nflags\t\t: fpu msr ht\n\n",
                m.model,
                m.base_mhz,
                c.socket,
                m.cores * m.smt,
                c.core % m.cores as usize,
                m.cores,
            ),
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_ranges() {
        let on = |text: &str| text.chars().map(|c| c == '1').collect::<Vec<_>>();
        assert_eq!(ranges(&on("11101")), "0-2,4");
        assert_eq!(ranges(&on("0110")), "1-2");
        assert_eq!(ranges(&on("1")), "0");
        assert_eq!(ranges(&on("000")), "");
    }

    #[test]
    fn a_folder_that_no_twin_made_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("proc")).unwrap();
        let s = Scenario::parse("name = \"x\"").unwrap();
        let e = Tree::create(dir.path(), &s).unwrap_err();
        assert!(e.to_string().contains("no twin made it"), "{e}");
        assert!(dir.path().join("proc").exists());
    }
}
