//! Between the executor and the world: an honest driver over lines that are slow and break.

use ebbtide_executor::command::{Command, Effect, Key, Way};
use ebbtide_executor::event::{Answer, Cordon, Event};
use ebbtide_executor::journal::Record;
use ebbtide_proto::NodeId;

use super::truth::Power;
use super::{Happening, World};

impl World {
    /// Something reaches a daemon, which reacts.
    pub(crate) fn tell(&mut self, daemon: usize, event: Event) {
        if !self.daemons[daemon].alive {
            return;
        }
        let asked_to_pause = match &event {
            Event::Asked { what: ebbtide_executor::event::Ask::Pause, .. } => Some(true),
            Event::Asked { what: ebbtide_executor::event::Ask::Resume, .. } => Some(false),
            _ => None,
        };
        let deposed = self.daemons[daemon].told_deposed;
        let clock = self.clock();
        if let Event::Planned(plan) = &event {
            self.note(format!("plan of {} actions", plan.actions.len()));
        }
        let commands = self.daemons[daemon].core.step(clock, &self.state, &self.policy, event);
        if deposed && !commands.is_empty() {
            self.violate(format!("{} goes on after it lost the lease", self.daemons[daemon].generation));
        }
        if let (Some(paused), true) = (asked_to_pause, self.daemons[daemon].generation == self.lease) {
            self.paused = paused;
        }
        self.carry(daemon, commands);
    }

    /// A command on its way.
    pub(crate) fn command(&mut self, daemon: usize, command: Command) {
        let mine = self.daemons[daemon].generation;
        let leads = mine == self.lease;
        match command {
            Command::Journal { generation, record } => {
                if generation != mine || record.generation != mine {
                    self.violate(format!("{mine} writes as {generation}"));
                }
                // one writer, in order
                let delay = self.rng.range(1, 20);
                self.last_write = self.last_write.max(self.now) + delay;
                let delay = self.last_write - self.now;
                self.at(delay, Happening::Written { daemon, record });
            }
            Command::Do { generation, key, node, effect, .. } => {
                if generation != mine {
                    self.violate(format!("{mine} acts as {generation}"));
                }
                if !leads {
                    // the driver looks at the lease before it sends anything
                    self.count("fenced");
                    return;
                }
                self.judge_command(daemon, key, &node, &effect);
                let slow = self.options.faults && self.rng.below(20) == 0;
                let delay = if slow { self.rng.range(5000, 25_000) } else { self.rng.range(20, 1500) };
                self.note(format!("{key} {node} {effect:?}"));
                self.at(delay, Happening::Lands { daemon, key, node, effect });
            }
            Command::Look { node, look, .. } => {
                if self.options.faults && self.busy() && self.rng.below(25) == 0 {
                    self.count("look lost");
                    return;
                }
                let delay = self.rng.range(20, 1500);
                self.at(delay, Happening::Looks { daemon, node, look });
            }
            Command::Replan { .. } => {
                if leads && self.busy() {
                    self.at(3000, Happening::Plan { again: false });
                }
            }
            Command::Audit(entry) => self.audit.push(entry),
            Command::Accepted { .. } => {}
            Command::Changed(id) => {
                if let Some(op) = self.daemons[daemon].core.operation(id) {
                    let line = format!("  {} [{:?}]", ebbtide_executor::words::operation(op), op.phase);
                    if self.log.last().is_none_or(|l| !l.ends_with(&line)) {
                        self.note(line);
                    }
                }
            }
        }
    }

    pub(crate) fn written(&mut self, daemon: usize, record: Record) {
        let generation = self.daemons[daemon].generation;
        if generation != self.lease {
            self.count("fenced record");
            return;
        }
        let seq = record.seq;
        if self.journal.last().is_some_and(|r| r.seq + 1 != seq) {
            self.violate(format!("record {seq} is out of order"));
        }
        self.journal.push(record);
        if self.options.faults && self.busy() && self.rng.below(2500) == 0 {
            self.count("killed between record and answer");
            self.kill(daemon);
            return;
        }
        let delay = self.rng.range(1, 5);
        self.at(delay, Happening::Tell { daemon, event: Event::Journalled { generation, seq } });
    }

    /// A daemon dies: what it has sent may land, what it has written last may be lost.
    pub(crate) fn kill(&mut self, daemon: usize) {
        if !self.daemons[daemon].alive {
            return;
        }
        self.daemons[daemon].alive = false;
        let leads = self.daemons[daemon].generation == self.lease;
        self.note(format!("{} dies", self.daemons[daemon].generation));
        let ids: Vec<u64> = self.happenings.keys().copied().collect();
        let mut lost = false;
        for id in ids {
            let drop = match self.happenings.get(&id) {
                Some(Happening::Written { daemon: d, .. }) if *d == daemon => {
                    lost |= !leads || self.rng.below(2) == 0;
                    lost
                }
                Some(Happening::Lands { daemon: d, .. }) if *d == daemon => self.rng.below(2) == 0,
                _ => false,
            };
            if drop {
                self.happenings.remove(&id);
            }
        }
        // what isn't lost is on disk by the time that the next one reads it
        let written: Vec<u64> = self
            .happenings
            .iter()
            .filter(|(_, h)| matches!(h, Happening::Written { daemon: d, .. } if *d == daemon))
            .map(|(id, _)| *id)
            .collect();
        for id in written {
            if let Some(Happening::Written { record, .. }) = self.happenings.remove(&id) {
                self.journal.push(*record);
            }
        }
        if !leads {
            return;
        }
        self.last_write = self.now;
        let delay = self.rng.range(100, 20_000);
        self.at(delay, Happening::Starts);
    }

    pub(crate) fn looks(&mut self, daemon: usize, node: NodeId, look: u64) {
        let n = self.index(&node);
        let api = self.api_down <= self.now;
        let sight = Box::new(self.machines[n].sight(self.now, api, self.on(n)));
        let delay = self.rng.range(10, 800);
        self.at(delay, Happening::Tell { daemon, event: Event::Seen { node, look: Some(look), sight } });
    }

    /// A command has reached what it is for.
    pub(crate) fn lands(&mut self, daemon: usize, key: Key, node: NodeId, effect: Effect) {
        let n = self.index(&node);
        let lost = self.options.faults && self.rng.below(25) == 0;
        let answer = if lost && self.rng.below(2) == 0 {
            self.count("command lost");
            None
        } else {
            let answer = self.effect(key, n, &effect);
            if answer == Answer::Done {
                self.landed.push((key, node, effect));
            }
            Some(answer)
        };
        match answer {
            Some(_) if lost => self.count("answer lost"),
            Some(answer) => self.answer(daemon, key, answer),
            None => {}
        }
    }

    fn effect(&mut self, key: Key, n: usize, effect: &Effect) -> Answer {
        let failed = |why: &str| Answer::Failed { why: why.to_owned() };
        let refused = |why: String| Answer::Refused { why, retry_after_s: None };
        let api = self.api_down <= self.now;
        let now = self.now;
        match effect {
            Effect::Cordon { .. } | Effect::Uncordon { .. } | Effect::Evict { .. } | Effect::Place { .. } if !api => {
                failed("the API server doesn't answer")
            }
            Effect::Cordon { mark } => match self.machines[n].cordon {
                Cordon::Foreign => refused("somebody else closed it".to_owned()),
                _ => {
                    self.close(n, Self::mark_of(*mark));
                    Answer::Done
                }
            },
            Effect::Uncordon { mark } => {
                if self.machines[n].cordon == Self::mark_of(*mark) {
                    self.close(n, Cordon::Open);
                    Answer::Done
                } else {
                    refused("it carries another mark".to_owned())
                }
            }
            Effect::Evict { workload, .. } => self.evict_api(n, workload),
            Effect::Place { .. } => Answer::Done,
            Effect::TellGoodbye => {
                let m = &self.machines[n];
                if m.power == Power::On && m.faults.agent_silent <= now { Answer::Done } else { failed("no agent") }
            }
            Effect::Shutdown { way } => self.shut_down(key, n, *way),
            Effect::OutletOff => self.outlet_off(n),
            Effect::PowerOn { way } => self.power_on(key, n, *way),
        }
    }

    fn evict_api(&mut self, n: usize, id: &ebbtide_proto::WorkloadId) -> Answer {
        let Some(pod) = self.pods.get(id) else { return Answer::Gone };
        if pod.node != Some(n) {
            return Answer::Gone;
        }
        let away = self.pods.values().filter(|p| p.work.group == pod.work.group && p.node.is_none()).count();
        if pod.guarded || away >= 1 {
            self.count("eviction refused");
            let why = "its disruption budget allows none now".to_owned();
            return Answer::Refused { why, retry_after_s: Some(5) };
        }
        self.evict(id);
        Answer::Done
    }

    fn shut_down(&mut self, key: Key, n: usize, way: Way) -> Answer {
        let now = self.now;
        let on = self.on(n);
        if let Some(id) = on.first() {
            self.count("shutdown refused by the driver");
            return Answer::Refused { why: format!("{id} runs on it"), retry_after_s: None };
        }
        let clock = self.clock();
        let m = &mut self.machines[n];
        let dead = match way {
            Way::Agent => m.faults.agent_silent > now,
            _ => m.faults.bmc_dead > now || !m.outlet_on,
        };
        if dead {
            return Answer::Failed { why: "it doesn't answer".to_owned() };
        }
        if m.power == Power::On {
            m.switched.push((clock, key.operation.0));
            if m.faults.never_goes_down <= now {
                m.power = Power::GoesDown { until: now + 10_000 + now % 25_000 };
                self.powered(n);
            } else {
                self.hangs_on_the_way_down(n);
            }
        }
        Answer::Done
    }

    fn outlet_off(&mut self, n: usize) -> Answer {
        let now = self.now;
        let m = &mut self.machines[n];
        if m.faults.outlet_stuck > now {
            return Answer::Failed { why: "the relay doesn't move".to_owned() };
        }
        m.outlet_on = false;
        Answer::Done
    }

    fn power_on(&mut self, key: Key, n: usize, way: Way) -> Answer {
        let now = self.now;
        let delay = 30_000 + self.rng.below(40_000);
        let clock = self.clock();
        let m = &mut self.machines[n];
        if way == Way::Outlet {
            if m.faults.outlet_stuck > now {
                return Answer::Failed { why: "the relay doesn't move".to_owned() };
            }
            m.outlet_on = true;
        }
        if way == Way::Bmc && (m.faults.bmc_dead > now || !m.outlet_on) {
            return Answer::Failed { why: "the BMC doesn't answer".to_owned() };
        }
        if m.power == Power::Off && m.outlet_on && m.faults.never_wakes <= now {
            m.switched.push((clock, key.operation.0));
            m.power = Power::Boots { until: now + delay };
            self.powered(n);
        }
        Answer::Done
    }
}
