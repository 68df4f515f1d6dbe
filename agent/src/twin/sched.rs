//! Who runs where and for how long: processes, their wishes and a scheduler, in steps of some ms.
//!
//! Within a step a thread wants a share of the time; it is placed on an idle physical core first,
//! then on an idle SMT sibling, then shares a CPU, and may move now and then. Time that a crowded CPU
//! can't give is shared max-min fairly and the unmet wish is lost (only a storm's children catch up).
//! CPU time is counted in whole ns, so that Σ threads + interrupts = busy time of each CPU, exactly.

use std::sync::Arc;

use super::process::{Mode, NS_PER_MS, Process, Used};
use super::rng::Rng;
use super::scenario::{Machine, Pattern, Workload};
use super::truth::{Account, PER_SOCKET, ProcessTruth, Truth, WorkloadTruth, whole};

/// Length of a clock tick (`USER_HZ` is 100), ns.
pub(super) const TICK_NS: u64 = 10_000_000;

/// One logical CPU.
#[derive(Clone, Debug)]
pub(super) struct Cpu {
    pub(super) socket: usize,
    /// Physical core, counted over the whole machine.
    pub(super) core: usize,
    pub(super) sibling: Option<usize>,
    pub(super) online: bool,
    pub(super) user_ns: u64,
    pub(super) sys_ns: u64,
    pub(super) irq_ns: u64,
    pub(super) idle_ns: u64,
    /// In this step: busy with threads or interrupts.
    pub(super) busy: u64,
    /// In this step: interrupts alone.
    pub(super) irq: u64,
    /// In this step: wanted by threads.
    want: u64,
}

/// A thread that may want to run.
#[derive(Clone, Debug)]
pub(super) struct Thread {
    /// Slot of its process.
    pub(super) process: usize,
    /// Which thread of the process.
    number: usize,
    pub(super) cpu: usize,
    placed: bool,
    want: u64,
    /// Time run in this step, ns.
    pub(super) run: u64,
}

/// The scheduler and all it schedules.
#[derive(Clone, Debug)]
pub(super) struct Sched {
    pub(super) cpus: Vec<Cpu>,
    pub(super) processes: Vec<Option<Process>>,
    pub(super) threads: Vec<Thread>,
    /// Interrupts.
    pub(super) kernel: Account,
    pub(super) forks: u64,
    pub(super) switches: u64,
    workloads: Vec<Plan>,
    free: Vec<usize>,
    /// Slots of processes that ended since the last settlement.
    closing: Vec<usize>,
    /// Slots of storm children whose work was done in this step.
    done: Vec<usize>,
    active: Vec<usize>,
    irq_util: f64,
    cores_per_socket: f64,
    socket_load: Vec<f64>,
    load: Vec<f64>,
    crowd: Vec<Vec<usize>>,
    next_pid: u32,
    next_key: u64,
    seed: u64,
    rng: Rng,
    interrupts: Rng,
}

#[derive(Clone, Debug)]
struct Plan {
    workload: Workload,
    comm: Arc<str>,
    cgroup: Arc<str>,
    /// CPUs allowed; all if empty.
    cpus: Vec<usize>,
    start: u64,
    stop: u64,
    started: bool,
    stopped: bool,
    slots: Vec<usize>,
}

/// The kernel shows at most 15 bytes.
fn comm(text: &str) -> Arc<str> {
    let end = (0..=text.len().min(15)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text.get(..end).unwrap_or(text).into()
}

fn seconds(s: f64) -> u64 {
    whole(s * 1e9)
}

impl Sched {
    pub(super) fn new(machine: &Machine, workloads: &[Workload], seed: u64, truth: &mut Truth) -> Self {
        let cores = machine.sockets as usize * machine.cores as usize;
        // as on most machines: first one thread of each core, then the siblings
        let cpus: Vec<Cpu> = (0..machine.cpus())
            .map(|n| Cpu {
                socket: n % cores / machine.cores as usize,
                core: n % cores,
                sibling: (machine.smt == 2).then_some((n + cores) % (2 * cores)),
                online: true,
                user_ns: 0,
                sys_ns: 0,
                irq_ns: 0,
                idle_ns: 0,
                busy: 0,
                irq: 0,
                want: 0,
            })
            .collect();
        let plans: Vec<Plan> = workloads
            .iter()
            .map(|w| Plan {
                comm: comm(w.comm.as_deref().unwrap_or(&w.name)),
                cgroup: w.cgroup.as_str().into(),
                cpus: w.cpus.iter().map(|c| *c as usize).collect(),
                start: seconds(w.start_s),
                stop: w.stop_s.map_or(u64::MAX, seconds),
                started: false,
                stopped: false,
                slots: Vec::new(),
                workload: w.clone(),
            })
            .collect();
        truth.workloads = plans
            .iter()
            .map(|p| WorkloadTruth {
                name: p.workload.name.clone(),
                comm: p.comm.clone(),
                cgroup: p.cgroup.clone(),
                started: 0,
                ended: 0,
                share: truth.empty_share(),
            })
            .collect();
        let components = machine.sockets as usize * PER_SOCKET;
        let n = cpus.len();
        let mut it = Self {
            cpus,
            processes: Vec::new(),
            threads: Vec::new(),
            kernel: Account::new(0, components),
            forks: 0,
            switches: 0,
            workloads: plans,
            free: Vec::new(),
            closing: Vec::new(),
            done: Vec::new(),
            active: Vec::new(),
            irq_util: machine.irq_util,
            cores_per_socket: f64::from(machine.cores),
            socket_load: vec![0.0; machine.sockets as usize],
            load: vec![0.0; n],
            crowd: vec![Vec::new(); n],
            next_pid: 1,
            next_key: 1,
            seed,
            rng: Rng::stream(seed, "sched", 0),
            interrupts: Rng::stream(seed, "interrupts", 0),
        };
        for (name, cgroup) in [("systemd", "/init.scope"), ("kthreadd", "/")] {
            let process = it.blank(0, name.into(), cgroup.into(), 1);
            it.admit(process, truth);
        }
        it.next_pid = 800;
        it
    }

    /// One step of `dt` ns that begins at `elapsed` ns of running time and at `boot` ns since boot.
    pub(super) fn step(&mut self, dt: u64, elapsed: u64, boot: u64, truth: &mut Truth) {
        self.start_and_stop(elapsed, boot, truth);
        self.fork(elapsed, boot, truth);
        for slot in &self.active {
            if let Some(p) = self.processes.get_mut(*slot).and_then(Option::as_mut) {
                let pattern = p.workload.and_then(|w| self.workloads.get(w)).map(|w| &w.workload.pattern);
                p.wish(pattern, dt, elapsed);
            }
        }
        self.place(dt);
        self.run(dt);
        self.account(dt);
    }

    fn start_and_stop(&mut self, elapsed: u64, boot: u64, truth: &mut Truth) {
        for w in 0..self.workloads.len() {
            let Some(plan) = self.workloads.get_mut(w) else { continue };
            if !plan.started && elapsed >= plan.start {
                plan.started = true;
                let (name, is_storm) = (plan.comm.clone(), matches!(plan.workload.pattern, Pattern::Storm { .. }));
                let (count, threads) = (plan.workload.count, if is_storm { 1 } else { plan.workload.threads });
                // the suffix stays even where the name is long
                let stem: String = name.chars().take(10).filter(char::is_ascii).collect();
                let name = if is_storm { comm(&format!("{stem}-root")) } else { name };
                for _ in 0..count {
                    let process = self.spawn(w, 1, name.clone(), threads, boot, Mode::Idle);
                    let slot = self.admit(process, truth);
                    if let Some(plan) = self.workloads.get_mut(w) {
                        plan.slots.push(slot);
                    }
                }
            }
            let Some(plan) = self.workloads.get_mut(w) else { continue };
            if plan.started && !plan.stopped && elapsed >= plan.stop {
                plan.stopped = true;
                let slots = std::mem::take(&mut plan.slots);
                let children: Vec<usize> = self.active.iter().copied().filter(|s| self.child_of(*s, &slots)).collect();
                for slot in children.into_iter().chain(slots) {
                    self.end(slot, elapsed);
                }
            }
        }
    }

    fn child_of(&self, slot: usize, roots: &[usize]) -> bool {
        matches!(self.processes.get(slot), Some(Some(Process { mode: Mode::Child { root, .. }, .. })) if roots.contains(root))
    }

    /// Lets the storms fork the children that are due.
    fn fork(&mut self, elapsed: u64, boot: u64, truth: &mut Truth) {
        for i in 0..self.active.len() {
            let Some(&root) = self.active.get(i) else { continue };
            let Some(p) = self.processes.get_mut(root).and_then(Option::as_mut) else { continue };
            let (pid, workload) = (p.pid, p.workload);
            let Mode::Root { chains } = &mut p.mode else { continue };
            let due: Vec<usize> = (0..chains.len())
                .filter(|c| chains.get_mut(*c).is_some_and(|at| at.take_if(|t| *t <= elapsed).is_some()))
                .collect();
            let Some((w, plan)) = workload.and_then(|w| self.workloads.get(w).map(|plan| (w, plan))) else { continue };
            let Pattern::Storm { burn_ms, .. } = plan.workload.pattern else { continue };
            let name = plan.comm.clone();
            for chain in due {
                let mode = Mode::Child { root, chain, left: whole(burn_ms * NS_PER_MS) };
                let child = self.spawn(w, pid, name.clone(), 1, boot, mode);
                self.admit(child, truth);
            }
        }
    }

    fn blank(&mut self, ppid: u32, comm: Arc<str>, cgroup: Arc<str>, threads: u32) -> Process {
        let (pid, key) = (self.next_pid, self.next_key);
        self.next_pid = if self.next_pid > 4_190_000 { 800 } else { self.next_pid + threads };
        self.next_key += 1;
        self.forks += u64::from(threads);
        Process {
            pid,
            ppid,
            start_ticks: 0,
            workload: None,
            comm,
            cgroup,
            uid: 0,
            rss_mib: 8,
            activity: 1.0,
            traffic: 0.0,
            ipc: 1.0,
            sys: 0.1,
            account: Account::new(key, self.kernel.pending.len()),
            threads: vec![Used::default(); threads as usize],
            running: false,
            reaped: (0, 0),
            mode: Mode::Idle,
            level: 0.0,
            rng: Rng::stream(self.seed, "workload", key),
        }
    }

    fn spawn(&mut self, w: usize, ppid: u32, name: Arc<str>, threads: u32, boot: u64, mode: Mode) -> Process {
        let cgroup = self.workloads.get(w).map_or_else(|| "/".into(), |p| p.cgroup.clone());
        let mut p = self.blank(ppid, name, cgroup, threads);
        p.workload = Some(w);
        p.start_ticks = boot / TICK_NS;
        let Some(plan) = self.workloads.get(w) else { return p };
        let work = &plan.workload;
        (p.uid, p.rss_mib, p.activity, p.traffic, p.sys) =
            (work.uid, work.rss_mib, work.activity, work.traffic, work.sys);
        p.ipc = work.ipc.unwrap_or(work.activity);
        p.mode = match (&work.pattern, mode) {
            (_, child @ Mode::Child { .. }) => child,
            (Pattern::Idle, _) => Mode::Idle,
            (Pattern::Steady { util }, _) => {
                p.level = *util;
                Mode::Steady
            }
            // somewhere in the first period, so that processes aren't in step
            (Pattern::Bursty { on_ms, off_ms, .. }, _) => {
                let at = p.rng.unit() * (on_ms + off_ms);
                Mode::Bursty {
                    on: at < *on_ms,
                    left: (if at < *on_ms { on_ms - at } else { on_ms + off_ms - at }) * NS_PER_MS,
                }
            }
            (Pattern::Diurnal { .. }, _) => Mode::Diurnal,
            (Pattern::RandomWalk { min, max }, _) => {
                p.level = min + p.rng.unit() * (max - min);
                Mode::Walk { left: 0.0 }
            }
            (Pattern::Storm { chains, .. }, _) => Mode::Root { chains: vec![Some(0); *chains as usize] },
        };
        p
    }

    fn admit(&mut self, process: Process, truth: &mut Truth) -> usize {
        truth.processes.insert(
            process.account.key,
            ProcessTruth {
                pid: process.pid,
                start_ticks: process.start_ticks,
                workload: process.workload,
                comm: process.comm.clone(),
                cgroup: process.cgroup.clone(),
                ended_ns: None,
                counters: process.account.counters.clone(),
                share: truth.empty_share(),
            },
        );
        if let Some(w) = process.workload.and_then(|w| truth.workloads.get_mut(w)) {
            w.started += 1;
        }
        let (idle, runs) = (matches!(process.mode, Mode::Idle), !matches!(process.mode, Mode::Root { .. }));
        let threads = process.threads.len();
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.processes.push(None);
                self.processes.len() - 1
            }
        };
        if let Some(place) = self.processes.get_mut(slot) {
            *place = Some(process);
        }
        if !idle {
            self.active.push(slot);
            if runs {
                let new = |number| Thread { process: slot, number, cpu: 0, placed: false, want: 0, run: 0 };
                self.threads.extend((0..threads).map(new));
            }
        }
        slot
    }

    fn end(&mut self, slot: usize, elapsed: u64) {
        let Some(p) = self.processes.get_mut(slot).and_then(Option::as_mut) else { return };
        if p.account.closing {
            return;
        }
        p.account.closing = true;
        p.account.dirty = true;
        let (user, sys) = p.times();
        if let Mode::Child { root, chain, .. } = p.mode {
            let workload = p.workload.and_then(|w| self.workloads.get(w));
            let gap = match workload.map(|w| &w.workload.pattern) {
                Some(Pattern::Storm { gap_ms, .. }) => whole(gap_ms * NS_PER_MS),
                _ => 0,
            };
            if let Some(Some(parent)) = self.processes.get_mut(root) {
                parent.reaped.0 += user;
                parent.reaped.1 += sys;
                if let Mode::Root { chains } = &mut parent.mode
                    && let Some(next) = chains.get_mut(chain)
                {
                    *next = Some(elapsed + gap);
                }
            }
        }
        self.active.retain(|s| *s != slot);
        self.threads.retain(|t| t.process != slot);
        self.closing.push(slot);
    }

    fn place(&mut self, dt: u64) {
        self.load.fill(0.0);
        self.socket_load.fill(0.0);
        let step = dt as f64;
        for t in &mut self.threads {
            let Some(Some(p)) = self.processes.get(t.process) else { continue };
            t.want = match p.mode {
                Mode::Child { left, .. } => left.min(dt),
                _ => whole(p.level * step).min(dt),
            };
            t.placed &= t.want > 0 && self.cpus.get(t.cpu).is_some_and(|c| c.online);
            if t.placed {
                charge(&self.cpus, &mut self.load, &mut self.socket_load, t.cpu, t.want as f64 / step);
            }
        }
        for i in 0..self.threads.len() {
            if self.threads.get(i).is_some_and(|t| !t.placed && t.want > 0) {
                self.move_thread(i, step, 0.01, None);
            }
        }
        // a look at one thread now and then: repairs what crowded moments left, and stirs a little
        if !self.threads.is_empty() {
            let i = self.rng.below(self.threads.len());
            let stir = (self.rng.below(200) == 0).then(|| self.rng.below(self.cpus.len()));
            if self.threads.get(i).is_some_and(|t| t.placed) {
                self.move_thread(i, step, if stir.is_some() { -0.02 } else { 0.3 }, stir);
            }
        }
    }

    /// Moves a thread to the CPU with the least cost, or to `only` that one, if it is better than its own by `margin`.
    fn move_thread(&mut self, i: usize, step: f64, margin: f64, only: Option<usize>) {
        let Some(t) = self.threads.get_mut(i) else { return };
        let share = t.want as f64 / step;
        if t.placed {
            charge(&self.cpus, &mut self.load, &mut self.socket_load, t.cpu, -share);
        }
        let cost = |n: usize| {
            let cpu = self.cpus.get(n).filter(|c| c.online)?;
            let own = self.load.get(n)?;
            let beside = cpu.sibling.and_then(|s| self.load.get(s)).copied().unwrap_or(0.0);
            // a busy CPU is worse than a busy sibling, which is worse than a busy socket
            Some(4.0 * own + beside + 0.2 * self.socket_load.get(cpu.socket)? / self.cores_per_socket)
        };
        let workload = self.processes.get(t.process).and_then(Option::as_ref).and_then(|p| p.workload);
        let allowed = workload.and_then(|w| self.workloads.get(w)).map_or(&[][..], |w| &w.cpus);
        let permitted = |n: usize| allowed.is_empty() || allowed.contains(&n);
        let mut best = (t.cpu, cost(t.cpu).filter(|_| permitted(t.cpu)).unwrap_or(f64::INFINITY));
        let own = best.1;
        let better = |best: (usize, f64), n: usize| match cost(n) {
            Some(c) if c < own - margin && (only.is_some() || c < best.1 - 1e-6) => (n, c),
            _ => best,
        };
        best = match only {
            Some(n) if permitted(n) => better(best, n),
            Some(_) => best,
            None if allowed.is_empty() => (0..self.cpus.len()).fold(best, better),
            None => allowed.iter().copied().fold(best, better),
        };
        if best.1.is_infinite() {
            // all allowed CPUs are offline: the kernel breaks the affinity
            best = (0..self.cpus.len()).fold(best, better);
        }
        t.cpu = best.0;
        t.placed = best.1.is_finite();
        if t.placed {
            charge(&self.cpus, &mut self.load, &mut self.socket_load, t.cpu, share);
        }
    }

    /// Gives every thread its time of this step.
    fn run(&mut self, dt: u64) {
        for cpu in &mut self.cpus {
            let jitter = if self.irq_util > 0.0 { self.interrupts.unit() * 2.0 } else { 0.0 };
            cpu.irq = if cpu.online { whole(self.irq_util * jitter * dt as f64).min(dt / 2) } else { 0 };
            (cpu.want, cpu.busy) = (0, cpu.irq);
        }
        for t in &mut self.threads {
            t.run = 0;
            if let Some(cpu) = self.cpus.get_mut(t.cpu).filter(|_| t.placed) {
                cpu.want += t.want;
            }
        }
        let mut crowded = false;
        for (i, t) in self.threads.iter_mut().enumerate() {
            let Some(cpu) = self.cpus.get_mut(t.cpu).filter(|_| t.placed) else { continue };
            if cpu.want + cpu.irq <= dt {
                t.run = t.want;
                cpu.busy += t.run;
            } else if let Some(crowd) = self.crowd.get_mut(t.cpu) {
                crowd.push(i);
                crowded = true;
            }
        }
        if !crowded {
            return;
        }
        for (cpu, crowd) in self.cpus.iter_mut().zip(&mut self.crowd) {
            // max-min: whoever wants least first, the rest in equal parts
            let threads = &mut self.threads;
            crowd.sort_by_key(|i| threads.get(*i).map_or(0, |t| t.want));
            let (mut left, mut n) = (dt - cpu.irq, crowd.len() as u64);
            for t in crowd.drain(..) {
                if let Some(t) = threads.get_mut(t) {
                    t.run = t.want.min(left / n.max(1));
                    left -= t.run;
                    cpu.busy += t.run;
                }
                n -= 1;
            }
        }
    }

    /// Books the time of this step.
    fn account(&mut self, dt: u64) {
        for t in &self.threads {
            let Some(Some(p)) = self.processes.get_mut(t.process) else { continue };
            let Some(used) = p.threads.get_mut(t.number) else { continue };
            if t.want == 0 {
                p.running = false;
                continue;
            }
            p.running = true;
            used.run_ns += t.run;
            used.wait_ns += t.want - t.run;
            used.slices += 1;
            used.cpu = t.cpu;
            self.switches += 2;
            p.account.cpu_ns += t.run;
            p.account.dirty = true;
            if let Some(cpu) = self.cpus.get_mut(t.cpu) {
                let sys = whole(t.run as f64 * p.sys);
                cpu.sys_ns += sys;
                cpu.user_ns += t.run - sys;
            }
            if let Mode::Child { left, .. } = &mut p.mode {
                *left = left.saturating_sub(t.run);
                if *left == 0 {
                    self.done.push(t.process);
                }
            }
        }
        for cpu in self.cpus.iter_mut().filter(|c| c.online) {
            cpu.irq_ns += cpu.irq;
            cpu.idle_ns += dt.saturating_sub(cpu.busy);
            self.kernel.cpu_ns += cpu.irq;
        }
    }

    /// Ends the processes whose work was done in the last step, once their energy is booked.
    pub(super) fn reap(&mut self, elapsed: u64) {
        for slot in std::mem::take(&mut self.done) {
            self.end(slot, elapsed);
        }
    }

    /// The accounts with something to settle, the ones that end included.
    pub(super) fn open(&mut self) -> (&mut Account, Vec<&mut Account>) {
        let dirty = self.processes.iter_mut().flatten().map(|p| &mut p.account).filter(|a| a.dirty);
        (&mut self.kernel, dirty.collect())
    }

    /// Forgets the processes that ended; their accounts are settled.
    pub(super) fn bury(&mut self) {
        for slot in std::mem::take(&mut self.closing) {
            if let Some(place) = self.processes.get_mut(slot) {
                *place = None;
                self.free.push(slot);
            }
        }
    }

    /// Threads that ran in the last step.
    pub(super) fn running(&self) -> f64 {
        self.threads.iter().filter(|t| t.run > 0).count() as f64
    }

    /// The pid given last.
    pub(super) fn last_pid(&self) -> u32 {
        self.next_pid.saturating_sub(1)
    }

    /// Switches a CPU on or off.
    pub(super) fn set_online(&mut self, cpu: usize, online: bool) {
        if let Some(c) = self.cpus.get_mut(cpu) {
            c.online = online;
        }
    }
}

fn charge(cpus: &[Cpu], load: &mut [f64], sockets: &mut [f64], cpu: usize, share: f64) {
    let Some(c) = cpus.get(cpu) else { return };
    for l in [load.get_mut(cpu), sockets.get_mut(c.socket)].into_iter().flatten() {
        *l += share;
    }
}
