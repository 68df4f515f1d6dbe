//! CloudSim's data centre and its books: how hosts share their MIPS, what a migration costs, what is energy and what
//! is a violation. A faithful copy of what CloudSim 3.0.3 computes, oddities included, so that figures can be compared
//! with published ones. (Beloglazov & Buyya, CCPE 24(13), 2012, doi 10.1002/cpe.1867; the reference code's
//! `PowerDatacenter`, `HostDynamicWorkload`, `VmSchedulerTimeSharedOverSubscription` and `Helper`.)
//!
//! Oddities that matter: nothing is spent before the first decision at 300 s; a host with load 0 draws 0 W and comes
//! back at once; memory binds at the first placement only; a VM that asks for nothing at the moment of a decision is
//! taken for finished and never comes back; while a VM moves, its target counts as overloaded.

use super::traces::Trace;

/// One of the two types of host.
#[derive(Clone, Debug)]
pub struct HostType {
    /// Name of the machine.
    pub name: &'static str,
    /// MIPS of one core.
    pub core_mips: f64,
    /// Cores.
    pub cores: f64,
    /// Memory in megabytes.
    pub memory_mb: f64,
    /// Watts at 0, 10, … 100 % load (SPECpower_ssj2008, www.spec.org).
    pub watts: [f64; 11],
}

/// The two hosts of the published experiments; host `i` is of type `i mod 2`.
pub const HOST_TYPES: [HostType; 2] = [
    HostType {
        name: "HP ProLiant ML110 G4",
        core_mips: 1860.0,
        cores: 2.0,
        memory_mb: 4096.0,
        watts: [86.0, 89.4, 92.6, 96.0, 99.5, 102.0, 106.0, 108.0, 112.0, 114.0, 117.0],
    },
    HostType {
        name: "HP ProLiant ML110 G5",
        core_mips: 2660.0,
        cores: 2.0,
        memory_mb: 4096.0,
        watts: [93.7, 97.0, 101.0, 105.0, 110.0, 116.0, 121.0, 125.0, 129.0, 133.0, 135.0],
    },
];

/// Megabytes per second that a migration moves: half of 1 Gbit/s.
const MIGRATION_MB_S: f64 = 62.5;
/// Share of its MIPS that a VM keeps while it moves.
const KEPT_AT_SOURCE: f64 = 0.9;
/// Share of its MIPS that a moving VM takes at its target.
const TAKEN_AT_TARGET: f64 = 0.1;
/// Most VMs that share a host's network at the first placement: 100 Mbit/s of 1 Gbit/s each.
const NETWORK_SLOTS: usize = 10;

/// Seconds of a boot at full power in the second score.
const BOOT_S: f64 = 120.0;
/// Seconds of a shutdown without load in the second score.
const SHUTDOWN_S: f64 = 30.0;

/// A decision: which VM goes to which host.
pub type Move = (usize, usize);

/// One VM as the world knows it.
#[derive(Clone, Debug)]
pub struct Vm {
    /// What it asks for.
    pub trace: Trace,
    /// Where it runs; `None` once finished.
    pub host: Option<usize>,
    /// Whether it is on the way to one or more hosts.
    pub moving: bool,
    /// MIPS that it asks for at the present moment.
    pub asked: f64,
    /// Utilisation at past decisions, the latest last.
    pub history: Vec<f64>,
    entry: Option<VmEntry>,
}

#[derive(Clone, Copy, Debug)]
struct VmEntry {
    at: f64,
    given: f64,
    asked: f64,
    moving: bool,
}

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Index into [`HOST_TYPES`].
    pub kind: usize,
    /// VMs in the order in which they came, those on the way in included.
    pub vms: Vec<usize>,
    /// VMs on the way in.
    pub incoming: Vec<usize>,
    /// MIPS in use as of the last look.
    pub used: f64,
    /// Times that it went on or off.
    pub switches: u64,
    entry: Option<HostEntry>,
}

#[derive(Clone, Copy, Debug)]
struct HostEntry {
    at: f64,
    given: f64,
    asked: f64,
    active: bool,
    was_active: bool,
}

impl Host {
    /// All MIPS it has.
    pub fn mips(&self) -> f64 {
        HOST_TYPES[self.kind].core_mips * HOST_TYPES[self.kind].cores
    }

    /// Load as of the last look, 0 to 1.
    pub fn load(&self) -> f64 {
        clamp_load(self.used / self.mips())
    }
}

fn clamp_load(load: f64) -> f64 {
    if load > 1.0 && load < 1.01 { 1.0 } else { load }
}

/// What the books say in the end.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Joules.
    pub joules: f64,
    /// Moves that were started.
    pub migrations: u64,
    /// Transitions of a host from load to none.
    pub shutdowns: u64,
    /// Transitions of a host from none to load.
    pub starts: u64,
    active_s: f64,
    violated_s: f64,
    given: f64,
    asked: f64,
    lost_moving: f64,
    boots: Boots,
}

/// What boots and shutdowns would have added to the books.
#[derive(Clone, Copy, Debug, Default)]
pub struct Boots {
    /// Joules.
    pub joules: f64,
    /// MIPS-seconds that would have waited.
    pub waiting: f64,
}

impl Books {
    /// Books a host's entry, which held until `now`.
    fn close_host(&mut self, e: &HostEntry, now: f64, kind: usize, mips: f64) -> u64 {
        if e.active {
            self.active_s += now - e.at;
            if e.given < e.asked {
                self.violated_s += now - e.at;
            }
        }
        match (e.was_active, e.active) {
            (true, false) => {
                self.shutdowns += 1;
                self.boots.joules += HOST_TYPES[kind].watts[0] * SHUTDOWN_S;
                1
            }
            (false, true) => {
                self.starts += 1;
                self.boots.joules += HOST_TYPES[kind].watts[10] * BOOT_S;
                // what it was woken for waits until it is up
                self.boots.waiting += e.asked.min(mips) * BOOT_S;
                1
            }
            _ => 0,
        }
    }

    /// What boots and shutdowns would have added.
    pub fn boots(&self) -> Boots {
        self.boots
    }

    /// Work not done over work asked for if `more` MIPS-seconds hadn't been done either, 0 to 1.
    pub fn unmet_with(&self, more: f64) -> f64 {
        ratio(self.asked - self.given + more, self.asked)
    }

    /// Time with less given than asked, over all time of active hosts, 0 to 1.
    pub fn slatah(&self) -> f64 {
        ratio(self.violated_s, self.active_s)
    }

    /// Work lost to migrations over work asked for, 0 to 1.
    pub fn pdm(&self) -> f64 {
        ratio(self.lost_moving, self.asked)
    }

    /// Work not done over work asked for, 0 to 1.
    pub fn unmet(&self) -> f64 {
        ratio(self.asked - self.given, self.asked)
    }
}

fn ratio(a: f64, b: f64) -> f64 {
    if b > 0.0 { a / b } else { 0.0 }
}

/// The data centre.
#[derive(Clone, Debug)]
pub struct World {
    /// Seconds.
    pub now: f64,
    /// All VMs; finished ones stay in the list.
    pub vms: Vec<Vm>,
    /// All hosts.
    pub hosts: Vec<Host>,
    /// The accounts so far.
    pub books: Books,
    /// Whether a VM that asks for nothing is taken for finished, as the reference does.
    pub finish_idle: bool,
    looked_at: f64,
    landing: Vec<(f64, Move)>,
}

impl World {
    /// `hosts` hosts and a VM for each trace, nothing placed yet, at 0 s.
    pub fn new(traces: Vec<Trace>, hosts: usize, finish_idle: bool) -> Self {
        let vms = traces
            .into_iter()
            .map(|trace| Vm { trace, host: None, moving: false, asked: 0.0, history: Vec::new(), entry: None })
            .collect();
        let hosts = (0..hosts)
            .map(|i| Host { kind: i % 2, vms: Vec::new(), incoming: Vec::new(), used: 0.0, switches: 0, entry: None })
            .collect();
        let books = Books::default();
        Self { now: 0.0, vms, hosts, books, finish_idle, looked_at: 0.0, landing: Vec::new() }
    }

    /// Watts of a host of `kind` at `load`. Interpolated in CloudSim's order of operations: its policies decide by
    /// differences of such figures, down to the last bit.
    pub fn watts(&self, kind: usize, load: f64) -> f64 {
        let watts = &HOST_TYPES[kind].watts;
        let tenths = (load * 10.0).clamp(0.0, 10.0);
        #[allow(clippy::cast_possible_truncation, reason = "0 to 10")]
        let (below, above) = (tenths as usize, tenths.ceil() as usize);
        if load % 0.1 == 0.0 {
            return watts[below];
        }
        watts[below] + (watts[above] - watts[below]) / 10.0 * (load - below as f64 / 10.0) * 100.0
    }

    /// Puts a VM where it starts. A VM starts with all that its type is sold as.
    pub fn start(&mut self, vm: usize, host: usize) {
        self.vms[vm].host = Some(host);
        self.vms[vm].asked = self.vms[vm].trace.mips;
        self.hosts[host].vms.push(vm);
    }

    /// Whether the VM could start on the host: cores fast enough, MIPS, memory and network left.
    pub fn can_start(&self, vm: usize, host: usize) -> bool {
        let (kind, want) = (&HOST_TYPES[self.hosts[host].kind], &self.vms[vm].trace);
        let on = &self.hosts[host].vms;
        let sum = |f: fn(&Trace) -> f64| on.iter().map(|&v| f(&self.vms[v].trace)).sum::<f64>();
        kind.core_mips >= want.mips
            && self.hosts[host].mips() - sum(|t| t.mips) >= want.mips
            && kind.memory_mb - sum(|t| t.memory_mb) >= want.memory_mb
            && on.len() < NETWORK_SLOTS
    }

    /// MIPS given to each of a host's VMs: all that is asked, or the same share of it for all.
    pub fn share(&self, host: usize) -> Vec<f64> {
        let h = &self.hosts[host];
        self.share_among(h.kind, h.vms.iter().map(|&v| (v, self.vms[v].asked)), &h.incoming)
    }

    /// The same for a list of VMs that needn't be the host's.
    pub fn share_among(&self, kind: usize, vms: impl Iterator<Item = (usize, f64)>, incoming: &[usize]) -> Vec<f64> {
        let core = HOST_TYPES[kind].core_mips;
        let total = core * HOST_TYPES[kind].cores;
        let asked: Vec<(usize, f64)> = vms.map(|(v, a)| (v, a.min(core))).collect();
        let weight = |v: usize, a: f64| if incoming.contains(&v) { a * TAKEN_AT_TARGET } else { a };
        let (mut left, mut over) = (total, false);
        for &(v, a) in &asked {
            let want = weight(v, a);
            if left >= want && !over {
                left -= want;
            } else {
                over = true;
            }
        }
        let scale = if over { total / asked.iter().map(|&(v, a)| weight(v, a)).sum::<f64>() } else { 1.0 };
        let given = |&(v, a): &(usize, f64)| {
            let part = if incoming.contains(&v) {
                a * TAKEN_AT_TARGET * scale
            } else if self.vms[v].moving {
                a * scale * KEPT_AT_SOURCE
            } else {
                a * scale
            };
            if over { part.floor() } else { part }
        };
        asked.iter().map(given).collect()
    }

    /// Looks at one host: shares MIPS anew and notes what was given.
    fn look(&mut self, host: usize) {
        let on = self.hosts[host].vms.clone();
        for &v in &on {
            let vm = &mut self.vms[v];
            vm.asked = vm.trace.at(self.now) * vm.trace.mips;
        }
        let given = self.share(host);
        let (mut used, mut asked_sum) = (0.0, 0.0);
        for (&v, &g) in on.iter().zip(&given) {
            let mut g = g;
            let asked = self.vms[v].asked;
            if !self.hosts[host].incoming.contains(&v) {
                self.note_vm(v, g, asked);
                if self.vms[v].moving {
                    g /= KEPT_AT_SOURCE;
                }
            }
            used += g;
            asked_sum += asked;
        }
        self.hosts[host].used = used;
        self.note_host(host, used, asked_sum);
    }

    fn note_vm(&mut self, v: usize, given: f64, asked: f64) {
        let now = self.now;
        let vm = &mut self.vms[v];
        if let Some(e) = vm.entry
            && e.at != now
        {
            let dt = now - e.at;
            self.books.given += e.given * dt;
            self.books.asked += e.asked * dt;
            if e.given < e.asked && e.moving {
                self.books.lost_moving += (e.asked - e.given) * dt;
            }
        }
        vm.entry = Some(VmEntry { at: now, given, asked, moving: vm.moving });
    }

    fn note_host(&mut self, host: usize, given: f64, asked: f64) {
        let now = self.now;
        let active = given > 0.0;
        let entry = self.hosts[host].entry;
        // several looks at one moment are one: the last counts
        let was_active = match entry {
            Some(e) if e.at == now => e.was_active,
            Some(e) => {
                let mips = self.hosts[host].mips();
                let kind = self.hosts[host].kind;
                self.hosts[host].switches += self.books.close_host(&e, now, kind, mips);
                e.active
            }
            None => active,
        };
        self.hosts[host].entry = Some(HostEntry { at: now, given, asked, active, was_active });
    }

    /// Looks at all hosts, books the energy since the last look, and lets idle VMs finish.
    fn look_at_all(&mut self) {
        let dt = self.now - self.looked_at;
        for host in 0..self.hosts.len() {
            let before = self.hosts[host].load();
            self.look(host);
            if dt > 0.0 && before != 0.0 {
                let kind = self.hosts[host].kind;
                let (a, b) = (self.watts(kind, before), self.watts(kind, self.hosts[host].load()));
                self.books.joules += (a + (b - a) / 2.0) * dt;
            }
        }
        if self.finish_idle {
            for host in &mut self.hosts {
                host.vms.retain(|&v| {
                    let done = !self.vms[v].moving && self.vms[v].asked == 0.0;
                    if done {
                        self.vms[v].host = None;
                    }
                    !done
                });
            }
        }
        self.looked_at = self.now;
    }

    /// Goes on to the decision at `t`; what lands in between lands.
    pub fn advance(&mut self, t: f64) {
        while let Some(&(at, _)) = self.landing.first() {
            if at > t {
                break;
            }
            self.land(at);
        }
        self.now = t;
        self.look_at_all();
        // CloudSim keeps a VM's history only where the clock, which has rounding errors, is a multiple of the interval
        let regular = (t - 0.1) % super::traces::INTERVAL_S == 0.0;
        for vm in self.vms.iter_mut().filter(|vm| vm.host.is_some() && regular) {
            vm.history.push(vm.trace.at(t));
        }
    }

    /// All moves that land at `at`.
    fn land(&mut self, at: f64) {
        self.now = at;
        self.look_at_all();
        let due = self.landing.iter().take_while(|(when, _)| *when == at).count();
        for (_, (v, to)) in self.landing.drain(..due).collect::<Vec<_>>() {
            if let Some(from) = self.vms[v].host {
                self.hosts[from].vms.retain(|&other| other != v);
            }
            self.hosts[to].incoming.retain(|&other| other != v);
            self.hosts[to].vms.retain(|&other| other != v);
            self.hosts[to].vms.push(v);
            self.vms[v].host = Some(to);
            self.vms[v].moving = false;
        }
        self.look_at_all();
    }

    /// Starts moves at the present moment.
    pub fn migrate(&mut self, moves: &[Move]) {
        for &(v, to) in moves {
            let Some(from) = self.vms[v].host else { continue };
            self.books.migrations += 1;
            self.vms[v].moving = true;
            if !self.hosts[to].incoming.contains(&v) {
                self.hosts[to].incoming.push(v);
                self.hosts[to].vms.push(v);
                self.look(to);
                self.look(from);
            }
            let at = self.now + self.vms[v].trace.memory_mb / MIGRATION_MB_S;
            let place = self.landing.partition_point(|(when, _)| *when <= at);
            self.landing.insert(place, (at, (v, to)));
        }
    }

    /// Lets moves that are still under way land, for the books at the end of the day.
    pub fn finish(&mut self) {
        while let Some(&(at, _)) = self.landing.first() {
            self.land(at);
        }
    }
}
