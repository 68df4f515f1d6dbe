//! What breaks, and who interferes.

use ebbtide_executor::event::{Ask, Cordon};
use ebbtide_executor::operation::{OperationId, State, Task};

use super::truth::Power;
use super::{Happening, World};

impl World {
    /// One thing goes wrong, or somebody does something.
    pub(crate) fn trouble(&mut self) {
        if !self.busy() {
            return;
        }
        let delay = self.rng.range(5_000, 60_000);
        self.at(delay, Happening::Trouble);
        let n = self.rng.below(self.machines.len() as u64) as usize;
        let until = self.now + self.rng.range(10_000, 600_000);
        let id = self.machines[n].id.clone();
        match self.rng.below(26) {
            0 => self.fault("BMC hangs", n, |f| f.bmc_dead = until),
            1 => self.fault("BMC lies off", n, |f| f.bmc_says_off = until),
            2 => self.fault("BMC lies on", n, |f| f.bmc_says_on = until),
            3 => self.fault("meter dead", n, |f| f.meter_dead = until),
            4 => self.fault("outlet stuck", n, |f| f.outlet_stuck = until),
            5 => self.fault("agent silent", n, |f| f.agent_silent = until),
            6 => self.fault("node doesn't wake", n, |f| f.never_wakes = until),
            7 => self.fault("node doesn't go down", n, |f| f.never_goes_down = until),
            8 => {
                self.count("API unreachable");
                self.api_down = self.now + self.rng.range(5_000, 120_000);
            }
            9 => self.die(),
            10 => self.two_daemons(),
            11 => {
                self.count("clock jump");
                self.skew += if self.rng.below(2) == 0 { 1 } else { -1 } * self.rng.range(10_000, 3_600_000) as i64;
            }
            12 | 13 => self.bind_rogue(n),
            14 => self.close_by_hand(n),
            15 => self.hold(n, until),
            16 => self.ask(Ask::PowerOff { node: id }),
            17 | 18 => self.ask(Ask::PowerOn { node: id }),
            19 => {
                let lock = self.rng.below(2) == 0;
                self.ask(Ask::Evacuate { node: id, lock });
            }
            20 => self.ask(Ask::Lock { node: id }),
            21 => self.ask(Ask::Unlock { node: id }),
            22 => self.cancel_one(),
            23 => self.pause_or_resume(),
            24 => self.approve_one(),
            _ => self.scale(),
        }
    }

    fn fault(&mut self, name: &'static str, n: usize, set: impl Fn(&mut super::truth::Faults)) {
        self.count(name);
        self.note(format!("{name}: {}", self.machines[n].id));
        set(&mut self.machines[n].faults);
    }

    /// A machine that was told to shut down goes on running; mostly without its agent, and at times nobody can ask its
    /// BMC and its outlet either.
    pub(crate) fn hangs_on_the_way_down(&mut self, n: usize) {
        let until = self.machines[n].faults.never_goes_down;
        match self.rng.below(5) {
            0 | 1 => self.fault("hangs, agent ended", n, |f| f.agent_silent = until),
            2 => self.fault("hangs, agent ended, BMC says off", n, |f| {
                (f.agent_silent, f.bmc_says_off) = (until, until);
            }),
            3 => self.fault("hangs, nothing is heard", n, |f| {
                (f.agent_silent, f.bmc_dead, f.meter_dead) = (until, until, until);
            }),
            _ => self.count("hangs"),
        }
    }

    fn die(&mut self) {
        if let Some(daemon) = self.leader() {
            self.count("killed at any time");
            self.kill(daemon);
        }
    }

    /// Another daemon takes the lease while this one goes on for a while.
    fn two_daemons(&mut self) {
        let Some(old) = self.leader() else { return };
        self.count("two daemons");
        self.happen(Happening::Starts);
        if self.rng.below(2) == 0 {
            let delay = self.rng.range(1000, 300_000);
            self.at(delay, Happening::Deposed { daemon: old });
        }
    }

    /// Somebody puts a workload on a node past the scheduler, or another one arrives just there.
    fn bind_rogue(&mut self, n: usize) {
        let draining = (0..self.machines.len()).find(|&n| matches!(self.machines[n].cordon, Cordon::Ours(_)));
        let n = draining.unwrap_or(n);
        if self.machines[n].power != Power::On || self.used(n) + super::POD > 4000 || self.pods.len() > 24 {
            return;
        }
        self.count("pod bound past the scheduler");
        let group = "rogue".to_owned();
        *self.replicas.entry(group.clone()).or_default() += 1;
        let id = self.new_pod(&group, false);
        self.note(format!("{id} comes to {} past the scheduler", self.machines[n].id));
        self.put(&id, n);
    }

    fn close_by_hand(&mut self, n: usize) {
        if self.api_down > self.now {
            return;
        }
        self.count("closed or opened by hand");
        let to = if self.machines[n].cordon == Cordon::Open { Cordon::Foreign } else { Cordon::Open };
        self.close(n, to);
        self.machines[n].by_hand = true;
    }

    fn hold(&mut self, n: usize, until: u64) {
        self.count("held by somebody");
        self.machines[n].held = Some(("maintenance".to_owned(), self.now, until));
    }

    fn live_ops(&self) -> Vec<(OperationId, bool)> {
        let Some(daemon) = self.leader() else { return Vec::new() };
        let core = &self.daemons[daemon].core;
        core.operations()
            .filter(|o| o.state == State::Live)
            .map(|o| (o.id, matches!(o.task, Task::Plan { .. })))
            .collect()
    }

    fn cancel_one(&mut self) {
        let live = self.live_ops();
        if let Some((id, _)) = live.get(self.rng.below(live.len() as u64) as usize) {
            self.count("cancelled");
            self.ask(Ask::Cancel { operation: *id });
        }
    }

    fn approve_one(&mut self) {
        if let Some((plan, _)) = self.live_ops().into_iter().find(|(_, plan)| *plan) {
            self.ask(Ask::Approve { plan });
        }
    }

    fn pause_or_resume(&mut self) {
        self.count("paused or resumed");
        self.ask(if self.paused { Ask::Resume } else { Ask::Pause });
    }

    /// A group grows or shrinks.
    fn scale(&mut self) {
        let groups: Vec<String> = self.replicas.keys().cloned().collect();
        let group = groups[self.rng.below(groups.len() as u64) as usize].clone();
        let grow = self.rng.below(2) == 0;
        if grow && self.pods.len() < 20 {
            *self.replicas.entry(group.clone()).or_default() += 1;
            self.new_pod(&group, false);
        } else if !grow
            && self.replicas[&group] > 1
            && let Some(id) =
                self.pods.values().find(|p| p.work.group.as_ref() == Some(&group)).map(|p| p.work.id.clone())
        {
            *self.replicas.entry(group).or_default() -= 1;
            self.pods.remove(&id);
            self.learn(ebbtide_planner::state::event::Event::WorkloadGone { workload: id });
        }
    }

    /// Everything works again, and nobody interferes.
    pub(crate) fn calm_down(&mut self) {
        self.api_down = 0;
        for m in &mut self.machines {
            m.faults = super::truth::Faults::default();
            m.held = None;
        }
        if self.paused {
            self.ask(Ask::Resume);
        }
    }
}
