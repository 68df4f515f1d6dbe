//! The node twin: a machine simulated down to the joule of each process, shown as a fake `/proc` and `/sys`.
//!
//! `scenario` (checked by `check`) says what to simulate; `sched` and `process` decide who runs, `physics`
//! what that draws and what the counters show; `truth` adds it up; `fakeroot` and `tree` write the files;
//! `live` runs it with the clock. Nothing of these knows how an agent measures; `score` alone sets the agent
//! beside the truth. Same scenario and seed, same world.

mod check;
pub mod fakeroot;
mod live;
mod physics;
mod process;
pub mod rng;
pub mod scenario;
mod sched;
pub mod score;
mod tree;
pub mod truth;

use std::io;
use std::path::Path;
use std::time::Duration;

pub use live::run_live;
pub use scenario::{Scenario, ScenarioError};
pub use truth::Truth;

use crate::clock::Moment;
use physics::{Physics, Register};
use scenario::{Event, What};
use sched::Sched;
use tree::{Tree, View};
use truth::whole;

/// The scenarios that come with the agent: name and TOML text.
pub const SCENARIOS: [(&str, &str); 14] = [
    ("agent-restart", include_str!("../../scenarios/agent-restart.toml")),
    ("bursty", include_str!("../../scenarios/bursty.toml")),
    ("fork-storm", include_str!("../../scenarios/fork-storm.toml")),
    ("full-load-hour", include_str!("../../scenarios/full-load-hour.toml")),
    ("hotplug", include_str!("../../scenarios/hotplug.toml")),
    ("idle-machine", include_str!("../../scenarios/idle-machine.toml")),
    ("mixed-instructions", include_str!("../../scenarios/mixed-instructions.toml")),
    ("never-idle", include_str!("../../scenarios/never-idle.toml")),
    ("never-idle-smt", include_str!("../../scenarios/never-idle-smt.toml")),
    ("schedutil", include_str!("../../scenarios/schedutil.toml")),
    ("steady-mix", include_str!("../../scenarios/steady-mix.toml")),
    ("suspend", include_str!("../../scenarios/suspend.toml")),
    ("two-sockets", include_str!("../../scenarios/two-sockets.toml")),
    ("wrap-each-minute", include_str!("../../scenarios/wrap-each-minute.toml")),
];

/// Wall clock at the start of a simulated run: 2025-01-01T00:00:00Z, ns since 1970.
const START_WALL: u64 = 1_735_689_600_000_000_000;

/// A simulated machine.
#[derive(Debug)]
pub struct Twin {
    scenario: Scenario,
    sched: Sched,
    physics: Physics,
    registers: Vec<Register>,
    truth: Truth,
    now: Moment,
    /// Running time since the start, ns.
    elapsed: u64,
    next_event: usize,
    due: Vec<Event>,
    load: [f64; 3],
    tree: Option<Tree>,
}

impl Twin {
    /// The machine of `scenario` at its start. Its clocks begin at the scenario's uptime.
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let up = whole(scenario.machine.uptime_s * 1e9);
        Self::starting_at(scenario, seed, Moment { mono: up, boot: up, wall: START_WALL })
    }

    /// As [`Twin::new`], with its clocks at `now`.
    pub fn starting_at(scenario: &Scenario, seed: u64, now: Moment) -> Self {
        let (machine, rapl) = (&scenario.machine, &scenario.rapl);
        let mut truth = Truth::new(machine, rapl, now);
        let mut sched = Sched::new(machine, &scenario.workloads, seed, &mut truth);
        for cpu in &mut sched.cpus {
            cpu.idle_ns = now.mono;
        }
        // a package shown twice is one register: both draw from the same stream
        let stream = |id: &str| truth.zone(id.trim_start_matches("mmio/")).unwrap_or(truth.zones.len()) as u64;
        let registers = truth.zones.iter().map(|z| Register::new(rapl, seed, stream(&z.id))).collect();
        Self {
            physics: Physics::new(machine),
            registers,
            sched,
            truth,
            now,
            elapsed: 0,
            next_event: 0,
            due: Vec::new(),
            load: [0.0; 3],
            tree: None,
            scenario: scenario.clone(),
        }
    }

    /// Lets `dt` of running time pass. What is due in it happens on time (at the
    /// very end of it: at the next call); sleep comes on top of `dt`.
    pub fn step(&mut self, dt: Duration) {
        let end = self.elapsed.saturating_add(u64::try_from(dt.as_nanos()).unwrap_or(u64::MAX));
        let longest = u64::from(self.scenario.step_ms) * 1_000_000;
        while self.elapsed < end {
            self.happen();
            let next = self.scenario.events.get(self.next_event).map_or(u64::MAX, at);
            let part = longest.min(end - self.elapsed).min(next - self.elapsed);
            self.sched.step(part, self.elapsed, self.now.boot, &mut self.truth);
            self.physics.step(&mut self.sched, part);
            self.elapsed += part;
            self.sched.reap(self.elapsed);
            for (register, zone) in self.registers.iter_mut().zip(&self.truth.zones) {
                register.step(zone, &self.physics, self.elapsed, part);
            }
            self.now = self.now.plus(Duration::from_nanos(part));
            let running = self.sched.running();
            for (load, minutes) in self.load.iter_mut().zip([1.0, 5.0, 15.0]) {
                *load += (running - *load) * (part as f64 / (minutes * 60e9)).min(1.0);
            }
        }
        let (kernel, mut open) = self.sched.open();
        self.truth.settle(self.now, self.elapsed, self.elapsed, kernel, &mut open);
        self.sched.bury();
    }

    /// Lets the events happen whose time has come.
    fn happen(&mut self) {
        while let Some(event) = self.scenario.events.get(self.next_event).filter(|e| at(e) <= self.elapsed) {
            self.next_event += 1;
            match &event.what {
                What::Suspend { for_s, resets } => {
                    let slept = whole(for_s * 1e9);
                    self.now.boot += slept;
                    self.now.wall += slept;
                    if *resets {
                        self.registers.iter_mut().for_each(|r| r.reset(None));
                    }
                }
                What::CpuOffline { cpu } => self.sched.set_online(*cpu as usize, false),
                What::CpuOnline { cpu } => self.sched.set_online(*cpu as usize, true),
                What::CounterReset { zone, by_uj } => {
                    if let Some(r) = self.truth.zone(zone).and_then(|z| self.registers.get_mut(z)) {
                        r.reset(*by_uj);
                    }
                }
                What::Unlink { zone } | What::Relink { zone } => {
                    if let Some(r) = self.truth.zone(zone).and_then(|z| self.registers.get_mut(z)) {
                        r.linked = matches!(event.what, What::Relink { .. });
                    }
                }
                What::AgentRestart { .. } => {}
            }
            self.due.push(event.clone());
        }
    }

    /// The simulated clocks.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Running time since the start.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed)
    }

    /// What really happened until [`Twin::now`].
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// The scenario that it plays.
    pub fn scenario(&self) -> &Scenario {
        &self.scenario
    }

    /// Events that happened since the last call, in order.
    pub fn events_due(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.due)
    }

    /// Brings the files below `root` to the present state. The tree of an earlier twin there is replaced.
    ///
    /// # Errors
    /// `AlreadyExists` where `root` holds a `proc` or `sys` that no twin made; otherwise what the system says.
    pub fn write(&mut self, root: &Path) -> io::Result<()> {
        let mut tree = match self.tree.take().filter(|t| t.root() == root) {
            Some(tree) => tree,
            None => Tree::create(root, &self.scenario)?,
        };
        tree.write(&mut View {
            scenario: &self.scenario,
            now: self.now,
            sched: &self.sched,
            physics: &self.physics,
            zones: &self.truth.zones,
            registers: &mut self.registers,
            load: self.load,
        })?;
        self.tree = Some(tree);
        Ok(())
    }
}

fn at(event: &Event) -> u64 {
    whole(event.at_s * 1e9)
}

#[cfg(test)]
mod tests;
