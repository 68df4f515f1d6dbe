//! What plans ordered and is not over yet: each action waits for what it needs, for room, or for the time it takes.
//!
//! Plans are made from what is known, and that may be late. So the executor looks at the truth before it acts, as a
//! cluster's own admission would: no workload is put where it doesn't fit, no machine is switched off that isn't
//! empty. What can't be done by its deadline is dropped, with all that waits for it, and a closed machine is opened
//! again.

use std::collections::BTreeSet;

use ebbtide_proto::{NodeId, WorkloadId};

use super::machine::whole_steps;
use super::{Seconds, World};
use crate::plan::action::{Do, Plan};
use crate::state::event::Event;
use crate::state::node::PowerState;

/// How far an action is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    /// Not begun.
    Held,
    /// A workload is on its way; it arrives then.
    Moving(Seconds),
    /// A machine boots: when that is over, whether it works, tries left, seconds and joules of this try.
    Booting { until: Seconds, works: bool, tries: u32, seconds: f64, joules: f64 },
    /// A machine shuts down until then.
    Stopping(Seconds),
}

/// An action under way.
#[derive(Clone, Debug)]
pub(super) struct Task {
    plan: u64,
    id: u32,
    pub(super) what: Do,
    needs: Vec<u32>,
    deadline: Seconds,
    phase: Phase,
}

/// What a look at an action came to.
enum Turn {
    Waits,
    Goes(Phase),
    Done,
    Dropped,
}

/// All actions under way.
#[derive(Default)]
pub(super) struct Tasks {
    pub(super) list: Vec<Task>,
    done: BTreeSet<(u64, u32)>,
    /// Nodes that are about to be powered on.
    waking: BTreeSet<NodeId>,
    plans: u64,
}

impl Tasks {
    /// Takes in the actions of a plan.
    pub(super) fn take(&mut self, plan: &Plan, now: Seconds) {
        self.plans += 1;
        self.list.extend(plan.actions.iter().map(|a| Task {
            plan: self.plans,
            id: a.id,
            what: a.what.clone(),
            needs: a.needs.clone(),
            deadline: now.saturating_add(a.deadline_s),
            phase: Phase::Held,
        }));
    }
}

impl World {
    /// Goes through all actions once, in the order in which they were planned.
    pub(super) fn work_on_tasks(&mut self) {
        let list = std::mem::take(&mut self.tasks.list);
        let mut kept = Vec::with_capacity(list.len());
        let mut open: BTreeSet<(u64, u32)> = list.iter().map(|t| (t.plan, t.id)).collect();
        let woken = |t: &Task| if let Do::PowerOn { node } = &t.what { Some(node.clone()) } else { None };
        self.tasks.waking = list.iter().filter_map(woken).collect();
        for mut task in list {
            let key = (task.plan, task.id);
            let turn = match task.phase {
                Phase::Held => self.try_begin(&task, &open),
                going => self.go_on(&task, going),
            };
            match turn {
                Turn::Waits => kept.push(task),
                Turn::Goes(phase) => {
                    task.phase = phase;
                    kept.push(task);
                }
                Turn::Done => {
                    open.remove(&key);
                    self.tasks.done.insert(key);
                }
                Turn::Dropped => {
                    open.remove(&key);
                    if let Do::PowerOn { node } = &task.what {
                        self.tasks.waking.remove(node);
                    }
                    self.books.dropped += 1;
                    self.undo(&task);
                }
            }
        }
        // plans that are over need no memory of what was done
        let plans: BTreeSet<u64> = kept.iter().map(|t| t.plan).collect();
        self.tasks.done.retain(|(plan, _)| plans.contains(plan));
        self.tasks.list = kept;
    }

    fn try_begin(&mut self, task: &Task, open: &BTreeSet<(u64, u32)>) -> Turn {
        let met = |id: &u32| self.tasks.done.contains(&(task.plan, *id));
        let lost = |id: &u32| !met(id) && !open.contains(&(task.plan, *id));
        if task.needs.iter().any(lost) || self.now > task.deadline {
            return Turn::Dropped;
        }
        if !task.needs.iter().all(met) {
            return Turn::Waits;
        }
        match &task.what {
            Do::PowerOn { node } => self.begin_boot(node),
            Do::Place { workload, to } => self.begin_place(workload, to),
            Do::Cordon { node } => {
                let Some(m) = self.machine(node) else { return Turn::Dropped };
                self.machines[m].closed = true;
                self.tell(Event::NodeCordoned { node: node.clone(), cordoned: true });
                Turn::Done
            }
            Do::Move { workload, from, to } => self.begin_move(workload, from, to),
            Do::PowerOff { node } => {
                let Some(m) = self.machine(node) else { return Turn::Dropped };
                match self.machines[m].power {
                    PowerState::On if self.machines[m].tenants == 0 => {
                        self.machines[m].power = PowerState::TurningOff;
                        self.tell(Event::NodePower { node: node.clone(), power: PowerState::TurningOff });
                        Turn::Goes(Phase::Stopping(self.now + self.machines[m].shutdown_s(self.step_s)))
                    }
                    PowerState::On => Turn::Waits,
                    _ => Turn::Dropped,
                }
            }
        }
    }

    fn begin_boot(&mut self, node: &NodeId) -> Turn {
        let Some(m) = self.machine(node) else { return Turn::Dropped };
        match self.machines[m].power {
            PowerState::Off if !self.machines[m].closed => {
                self.tell(Event::NodePower { node: node.clone(), power: PowerState::TurningOn });
                Turn::Goes(self.boot(m, self.faults.wake_tries))
            }
            PowerState::On => Turn::Done,
            _ => Turn::Waits,
        }
    }

    /// Begins a try to boot; `tries` are left, this one included.
    fn boot(&mut self, m: usize, tries: u32) -> Phase {
        let boot = self.machines[m].draw_boot(self.faults.wake_failure);
        self.machines[m].power = PowerState::TurningOn;
        let until = self.now + whole_steps(boot.seconds, self.step_s);
        Phase::Booting { until, works: boot.works, tries, seconds: boot.seconds, joules: boot.joules }
    }

    fn begin_place(&mut self, workload: &WorkloadId, to: &NodeId) -> Turn {
        let Some(w) = self.present(workload) else { return self.gone(workload) };
        if self.crew.all[w].on.is_some() {
            return Turn::Done;
        }
        let Some(m) = self.machine(to) else { return Turn::Dropped };
        if !self.takes(m, w) {
            return self.wait_for(m);
        }
        self.put(w, m);
        Turn::Done
    }

    fn begin_move(&mut self, workload: &WorkloadId, from: &NodeId, to: &NodeId) -> Turn {
        let Some(w) = self.present(workload) else { return self.gone(workload) };
        let (Some(a), Some(b)) = (self.machine(from), self.machine(to)) else { return Turn::Dropped };
        if self.crew.all[w].on != Some(a) {
            return Turn::Dropped;
        }
        if self.crew.all[w].to.is_some() || !self.takes(b, w) {
            return self.wait_for(b);
        }
        let migration = self.crew.all[w].job.workload.migration;
        let requests = self.crew.all[w].job.workload.requests.clone();
        self.machines[b].take_in(&requests);
        self.crew.all[w].to = Some(b);
        // a live migration goes on working while it copies; a restart stands still
        self.crew.all[w].paused = migration.megabytes <= 0.0;
        self.machines[b].joules += migration.energy_j();
        self.books.move_j += migration.energy_j();
        self.books.migrations += 1;
        Turn::Goes(Phase::Moving(self.now + whole_steps(migration.seconds, self.step_s)))
    }

    /// What is planned for a machine waits for it, unless it is dark and nobody wakes it any more.
    fn wait_for(&self, m: usize) -> Turn {
        let machine = &self.machines[m];
        let dark = matches!(machine.power, PowerState::Off | PowerState::TurningOff);
        if dark && !self.tasks.waking.contains(&machine.spec.node.id) { Turn::Dropped } else { Turn::Waits }
    }

    /// A workload ended before inventory said so: whoever wants to act on it finds that out.
    fn gone(&mut self, workload: &WorkloadId) -> Turn {
        self.tell(Event::WorkloadGone { workload: workload.clone() });
        Turn::Done
    }

    fn go_on(&mut self, task: &Task, phase: Phase) -> Turn {
        match (&task.what, phase) {
            (Do::Move { workload, to, .. }, Phase::Moving(until)) => {
                let Some(w) = self.present(workload) else { return self.gone(workload) };
                if self.now < until {
                    return Turn::Waits;
                }
                self.arrive(w);
                self.tell(Event::WorkloadBound { workload: workload.clone(), node: Some(to.clone()) });
                Turn::Done
            }
            (Do::PowerOn { node }, Phase::Booting { until, works, tries, seconds, joules }) => {
                let Some(m) = self.machine(node) else { return Turn::Dropped };
                if self.now < until {
                    return Turn::Waits;
                }
                if works {
                    self.machines[m].power = PowerState::On;
                    self.machines[m].switches += 1;
                    self.books.power_ons += 1;
                    self.tell(Event::NodePower { node: node.clone(), power: PowerState::On });
                    self.tell(Event::NodeBooted { node: node.clone(), seconds, joules });
                    return Turn::Done;
                }
                self.books.wake_failures += 1;
                if tries > 1 {
                    return Turn::Goes(self.boot(m, tries - 1));
                }
                // given up for a while: others do its work
                self.machines[m].power = PowerState::Off;
                self.machines[m].closed = true;
                self.tell(Event::NodePower { node: node.clone(), power: PowerState::Off });
                self.tell(Event::NodeCordoned { node: node.clone(), cordoned: true });
                self.given_up.push((self.now.saturating_add(self.faults.quarantine_s), m));
                self.books.given_up += 1;
                Turn::Dropped
            }
            (Do::PowerOff { node }, Phase::Stopping(until)) => {
                let Some(m) = self.machine(node) else { return Turn::Dropped };
                if self.now < until {
                    return Turn::Waits;
                }
                self.machines[m].power = PowerState::Off;
                self.machines[m].closed = false;
                self.machines[m].switches += 1;
                self.books.power_offs += 1;
                self.tell(Event::NodePower { node: node.clone(), power: PowerState::Off });
                self.tell(Event::NodeCordoned { node: node.clone(), cordoned: false });
                Turn::Done
            }
            _ => Turn::Dropped,
        }
    }

    /// A machine that was closed to be emptied is opened again when that won't happen.
    fn undo(&mut self, task: &Task) {
        let Do::PowerOff { node } = &task.what else { return };
        let Some(m) = self.machine(node) else { return };
        if self.machines[m].closed && self.machines[m].power == PowerState::On {
            self.machines[m].closed = false;
            self.tell(Event::NodeCordoned { node: node.clone(), cordoned: false });
        }
    }

    /// Machines that were given up are tried again.
    pub(super) fn forgive(&mut self) {
        let now = self.now;
        let due: Vec<usize> = self.given_up.iter().filter(|(at, _)| *at <= now).map(|(_, m)| *m).collect();
        self.given_up.retain(|(at, _)| *at > now);
        for m in due {
            self.machines[m].closed = false;
            let node = self.machines[m].spec.node.id.clone();
            self.tell(Event::NodeCordoned { node, cordoned: false });
        }
    }

    /// Whether the machine truly has room and is up.
    pub(super) fn takes(&self, m: usize, w: usize) -> bool {
        let machine = &self.machines[m];
        machine.power == PowerState::On
            && !machine.closed
            && machine.fits(&self.crew.all[w].job.workload.requests, self.by_requests)
    }

    /// What is known once all actions under way are over.
    pub(super) fn foreseen(&self) -> crate::state::FleetState {
        let mut state = self.known.clone();
        let at = self.moment();
        for event in self.tasks.list.iter().flat_map(|t| t.what.effects()) {
            state.apply(at, event);
        }
        state
    }
}
