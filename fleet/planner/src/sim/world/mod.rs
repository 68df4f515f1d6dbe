//! A fleet on a virtual clock: machines with true power curves and boots, work that comes, varies and ends, and what
//! goes wrong. The production code decides: events go into [`FleetState::apply`], plans come out of `plan`, each is
//! run through `check` before anything of it is done.
//!
//! Everything happens at the start of a step, and nothing changes within one, so energy is a plain sum. The planner is
//! told of its own actions as they end, of all else by inventory (late, if so wished) and by frames (some lost). It
//! plans for the state as it will be once all actions under way are over.
//!
//! `setup.rs` makes the world, `machine.rs` and `crew.rs` are the truth, `tasks.rs` carries plans out, `books.rs` keeps
//! accounts, `yardstick.rs` knows what could have been.

mod books;
mod crew;
mod machine;
pub mod setup;
mod tasks;
#[cfg(test)]
mod tests;
mod yardstick;

use std::collections::{BTreeMap, VecDeque};

use ebbtide_proto::{NodeId, WorkloadId};

use books::Books;
pub(crate) use books::KWH;
pub use books::{Moment, Score};
use crew::Crew;
use machine::Machine;
use setup::Setup;
use tasks::Tasks;
use yardstick::{Item, Yardstick};

use super::scenario::{Faults, Start};
use super::stream::normal;
use crate::check::check;
use crate::model::learn::Reading;
use crate::plan::{Refusal, plan, plan_around};
use crate::policy::{Basis, Policy};
use crate::state::event::Event;
use crate::state::node::PowerState;
use crate::state::{FleetState, Time};

/// The moment at which worlds begin: midnight, ten days after the start of time, so that nothing was just switched.
pub const START: Time = Time::from_secs(864_000);

/// Share of its work that a workload gets done while it is copied to another machine: what CloudSim takes (Beloglazov &
/// Buyya, CCPE 24(13), 2012).
const KEPT_WHILE_MOVING: f64 = 0.9;

/// Seconds since the world began.
pub(crate) type Seconds = u64;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The production planner.
    Planner,
    /// Nobody: all nodes are on, work is spread evenly when it comes, as clusters do without a planner.
    AllOn,
}

/// A running world.
pub struct World {
    machines: Vec<Machine>,
    index: BTreeMap<NodeId, usize>,
    crew: Crew,
    coming: VecDeque<setup::Job>,
    known: FleetState,
    policy: Policy,
    faults: Faults,
    tasks: Tasks,
    given_up: Vec<(Seconds, usize)>,
    /// What inventory will tell, and when.
    mail: VecDeque<(Seconds, Event)>,
    /// Work that waits became known since the last plan.
    urgent: bool,
    books: Books,
    yardstick: Yardstick,
    by_requests: bool,
    who: Who,
    now: Seconds,
    step_s: u64,
    plan_every_s: u64,
    telemetry_every_s: u64,
    duration_s: u64,
    seed: u64,
}

impl World {
    /// The world at its beginning.
    ///
    /// # Errors
    /// If the planner refuses the policy.
    pub fn new(mut setup: Setup, seed: u64, who: Who) -> Result<Self, Refusal> {
        setup.policy.validate().map_err(Refusal::Policy)?;
        let by_requests = setup.policy.basis == Basis::Requests;
        let yardstick = Yardstick::new(&setup, by_requests);
        let lit = who == Who::AllOn || setup.start == Start::Spread;
        let mut known = FleetState::new();
        let mut machines = Vec::new();
        for mut spec in std::mem::take(&mut setup.machines) {
            let found_on = setup.start == Start::AsTold && spec.node.power == PowerState::On;
            let on = lit || found_on || !spec.node.switchable;
            spec.node.power = if on { PowerState::On } else { PowerState::Off };
            known.apply(Time::ZERO, Event::NodeSeen(Box::new(spec.node.clone())));
            machines.push(Machine::new(spec, seed));
        }
        for (group, away) in setup.budgets {
            known.apply(Time::ZERO, Event::Budget { group, away });
        }
        known.apply(Time::ZERO, Event::Synced);
        let index = machines.iter().enumerate().map(|(m, x)| (x.spec.node.id.clone(), m)).collect();
        let mut world = Self {
            machines,
            index,
            crew: Crew::default(),
            coming: setup.jobs.into(),
            known,
            policy: setup.policy,
            faults: setup.faults,
            tasks: Tasks::default(),
            given_up: Vec::new(),
            mail: VecDeque::new(),
            urgent: false,
            books: Books::default(),
            yardstick,
            by_requests,
            who,
            now: 0,
            step_s: setup.step_s.max(1),
            plan_every_s: setup.plan_every_s.max(1),
            telemetry_every_s: setup.telemetry_every_s.max(1),
            duration_s: setup.duration_s,
            seed,
        };
        world.begin(setup.start)?;
        Ok(world)
    }

    /// Puts the work that is there from the start where the start says.
    fn begin(&mut self, start: Start) -> Result<(), Refusal> {
        let late = std::mem::take(&mut self.faults.stale_s);
        self.arrivals();
        self.faults.stale_s = late;
        self.deliver();
        for m in 0..self.machines.len() {
            let node = self.machines[m].spec.node.id.clone();
            self.tell(Event::NodeHeard { node });
        }
        if self.who == Who::Planner && start == Start::Packed {
            let first = plan(&self.known, &self.policy, self.moment())?;
            for event in first.effects() {
                match &event {
                    Event::NodePower { node, power } => {
                        if let Some(m) = self.machine(node) {
                            self.machines[m].power = *power;
                        }
                        self.tell(event);
                    }
                    Event::WorkloadBound { workload, node: Some(node) } => {
                        if let (Some(w), Some(m)) = (self.present(workload), self.machine(node)) {
                            self.put(w, m);
                        }
                    }
                    _ => {}
                }
            }
        } else if self.who == Who::AllOn || start == Start::Spread {
            self.spread();
        }
        self.known.settle();
        Ok(())
    }

    /// Whether time is over.
    pub fn is_over(&self) -> bool {
        self.now >= self.duration_s
    }

    /// Seconds since the world began, and seconds that it lasts.
    pub fn progress(&self) -> (Seconds, Seconds) {
        (self.now, self.duration_s)
    }

    /// Goes on to the end. `progress` is told seconds simulated and of how many.
    ///
    /// # Errors
    /// As [`World::step`].
    pub fn run(&mut self, mut progress: impl FnMut(Seconds, Seconds)) -> Result<(), Refusal> {
        while !self.is_over() {
            let (now, of) = self.progress();
            progress(now, of);
            self.step()?;
        }
        Ok(())
    }

    /// Goes on by one step.
    ///
    /// # Errors
    /// If the planner refuses; it has no reason to.
    pub fn step(&mut self) -> Result<(), Refusal> {
        self.deliver();
        if self.now > 0 && self.now.is_multiple_of(self.telemetry_every_s) {
            self.frames();
        }
        self.departures();
        self.arrivals();
        self.deliver();
        self.forgive();
        self.work_on_tasks();
        match self.who {
            Who::Planner => self.decide()?,
            Who::AllOn => self.spread(),
        }
        self.live();
        self.now += self.step_s;
        Ok(())
    }

    /// What came of it.
    pub fn score(&self) -> Score {
        self.books.score(&self.machines, &self.crew, self.now)
    }

    /// Mean watts between plans.
    pub fn moments(&self) -> &[Moment] {
        &self.books.moments
    }

    /// Kilowatt-hours of each site, by hour; moves are not in it.
    pub fn site_kwh(&self) -> BTreeMap<String, Vec<f64>> {
        let kwh = |joules: &Vec<f64>| joules.iter().map(|j| j / books::KWH).collect();
        self.books.sites.iter().map(|(site, hours)| (site.clone(), kwh(hours))).collect()
    }

    /// What is wrong with the truth itself; nothing, whatever was planned: no workload is lost or in two places, and
    /// none is on a machine that isn't on.
    pub fn audit(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut tenants = vec![0; self.machines.len()];
        for &w in &self.crew.here {
            let member = &self.crew.all[w];
            for m in [member.on, member.to].into_iter().flatten() {
                tenants[m] += 1;
                if self.machines[m].power != PowerState::On {
                    let node = &self.machines[m].spec.node.id;
                    wrong.push(format!("{} is on {node}, which isn't on", member.job.workload.id));
                }
            }
            if member.on.is_none()
                && self.known.workloads.get(&member.job.workload.id).is_some_and(|k| k.node.is_some())
            {
                wrong.push(format!("{} waits, but is known to run", member.job.workload.id));
            }
        }
        for (m, machine) in self.machines.iter().enumerate() {
            if machine.tenants != tenants[m] {
                wrong.push(format!("{} counts {} tenants of {}", machine.spec.node.id, machine.tenants, tenants[m]));
            }
            if !machine.fits(&crate::state::resources::Resources::default(), self.by_requests) {
                wrong.push(format!("{} holds more than it has", machine.spec.node.id));
            }
        }
        if self.books.came != self.books.ended + self.crew.here.len() as u64 {
            wrong.push("workloads are lost".to_owned());
        }
        wrong
    }

    fn moment(&self) -> Time {
        START.plus_secs(self.now)
    }

    fn machine(&self, node: &NodeId) -> Option<usize> {
        self.index.get(node).copied()
    }

    /// The workload if it is still there.
    fn present(&self, id: &WorkloadId) -> Option<usize> {
        self.crew.find(id).filter(|&w| !self.crew.all[w].gone)
    }

    /// Tells the planner's side at once.
    fn tell(&mut self, event: Event) {
        let at = self.moment();
        self.known.apply(at, event);
    }

    /// Lets inventory tell it when it gets to it.
    fn post(&mut self, event: Event) {
        self.mail.push_back((self.now.saturating_add(self.faults.stale_s), event));
    }

    fn deliver(&mut self) {
        while let Some((due, _)) = self.mail.front()
            && *due <= self.now
            && let Some((_, event)) = self.mail.pop_front()
        {
            self.urgent |= matches!(event, Event::WorkloadSeen(_));
            self.tell(event);
        }
    }

    fn arrivals(&mut self) {
        while self.coming.front().is_some_and(|j| j.comes_s <= self.now)
            && let Some(job) = self.coming.pop_front()
        {
            let home = job.workload.node.as_ref().and_then(|node| self.machine(node));
            let mut told = job.workload.clone();
            told.node = None;
            let w = self.crew.come(job, self.seed);
            self.books.came += 1;
            self.post(Event::WorkloadSeen(Box::new(told.clone())));
            // recorded work begins where it was, if that is up
            if let Some(m) = home
                && self.takes(m, w)
            {
                // where it runs is told with it: nobody has to find that out
                self.mail.pop_back();
                self.tell(Event::WorkloadSeen(Box::new(told)));
                self.put(w, m);
            }
        }
    }

    fn departures(&mut self) {
        for w in self.crew.leave(self.now) {
            let requests = self.crew.all[w].job.workload.requests.clone();
            let member = &mut self.crew.all[w];
            let (on, to) = (member.on.take(), member.to.take());
            for m in [on, to].into_iter().flatten() {
                self.machines[m].let_go(&requests);
            }
            self.books.ended += 1;
            let workload = self.crew.all[w].job.workload.id.clone();
            self.post(Event::WorkloadGone { workload });
        }
    }

    /// Puts a workload that waits on a machine.
    fn put(&mut self, w: usize, m: usize) {
        let member = &mut self.crew.all[w];
        self.machines[m].take_in(&member.job.workload.requests);
        member.on = Some(m);
        member.placed.get_or_insert(self.now);
        let bound = Event::WorkloadBound {
            workload: member.job.workload.id.clone(),
            node: Some(self.machines[m].spec.node.id.clone()),
        };
        self.tell(bound);
    }

    /// A workload has come where it moved to.
    fn arrive(&mut self, w: usize) {
        let member = &mut self.crew.all[w];
        if let (Some(from), Some(to)) = (member.on, member.to.take()) {
            self.machines[from].let_go(&member.job.workload.requests);
            member.on = Some(to);
            member.paused = false;
        }
    }

    /// Puts what waits on machines that are on, each on the emptiest that takes it.
    fn spread(&mut self) {
        let waiting: Vec<usize> = self.crew.here.iter().copied().filter(|&w| self.crew.all[w].on.is_none()).collect();
        for w in waiting {
            let workload = &self.crew.all[w].job.workload;
            let share = |m: &Machine| {
                let room = m.spec.node.allocatable();
                (m.held.cpu_milli as f64 / room.cpu_milli.max(1) as f64)
                    .max(m.held.memory as f64 / room.memory.max(1) as f64)
            };
            let crowded = |m: usize| {
                let same = |o: &&usize| {
                    let other = &self.crew.all[**o];
                    other.on == Some(m) && other.job.workload.group == workload.group
                };
                workload.spread.iter().any(|s| self.crew.here.iter().filter(same).count() >= s.at_most as usize)
            };
            let best = (0..self.machines.len())
                .filter(|&m| self.takes(m, w) && workload.admits(&self.machines[m].spec.node) && !crowded(m))
                .min_by(|&a, &b| share(&self.machines[a]).total_cmp(&share(&self.machines[b])).then(a.cmp(&b)));
            if let Some(m) = best {
                self.put(w, m);
            }
        }
    }

    /// Frames of all machines that are on: what they drew, and what their workloads asked for.
    fn frames(&mut self) {
        let heard: Vec<bool> = (0..self.machines.len()).map(|m| self.frame(m)).collect();
        // forecasts look from plan to plan: one sample for each
        let due = self.now.is_multiple_of(self.plan_every_s);
        for i in 0..self.crew.here.len() {
            let w = self.crew.here[i];
            let member = &mut self.crew.all[w];
            let (sum, seconds) = std::mem::take(&mut member.told);
            if due && seconds > 0.0 && member.on.is_some_and(|m| heard[m]) {
                let workload = member.job.workload.id.clone();
                self.tell(Event::WorkloadUsed { workload, cpu_milli: sum / seconds });
            }
        }
    }

    /// One machine's frame; whether it was heard.
    fn frame(&mut self, m: usize) -> bool {
        let machine = &mut self.machines[m];
        if machine.power != PowerState::On {
            return false;
        }
        // drawn for every frame, so that losing more of them changes nothing else
        let (luck, off_by) = (machine.frames.unit(), normal(&mut machine.meter));
        if luck < self.faults.lost_frames {
            self.books.lost_frames += 1;
            return false;
        }
        let reading = Reading {
            watts: machine.watts * (1.0 + self.faults.meter_noise * off_by),
            load: machine.spec.node.load(machine.given),
            error: self.faults.meter_noise,
        };
        let node = machine.spec.node.id.clone();
        self.tell(Event::NodeHeard { node: node.clone() });
        self.tell(Event::NodeRead { node, reading });
        true
    }

    /// Plans for the whole fleet when it is time to, and around what has come in between: new work doesn't wait for
    /// the clock.
    fn decide(&mut self) -> Result<(), Refusal> {
        let due = self.now.is_multiple_of(self.plan_every_s);
        if !due && !std::mem::take(&mut self.urgent) {
            return Ok(());
        }
        self.urgent = false;
        let (state, at) = (self.foreseen(), self.moment());
        let plan = if due { plan(&state, &self.policy, at)? } else { plan_around(&state, &self.policy, at, &[])? };
        let found = check(&plan, &state, &self.policy);
        self.books.plan(&plan, &found);
        if found.is_empty() {
            self.tasks.take(&plan, self.now);
            self.work_on_tasks();
        }
        Ok(())
    }

    /// Lets a step pass: draws demand, shares machines among what runs on them, keeps the books.
    fn live(&mut self) {
        for machine in &mut self.machines {
            machine.asked = 0.0;
            machine.given = 0.0;
        }
        for &w in &self.crew.here {
            let member = &mut self.crew.all[w];
            member.draw(self.now, self.step_s);
            if let (Some(m), false) = (member.on, member.paused) {
                self.machines[m].asked += member.asks;
            }
        }
        let mut needs = self.yardstick.nothing();
        let (mut asked, mut given_all) = (0.0, 0.0);
        for i in 0..self.crew.here.len() {
            let w = self.crew.here[i];
            let member = &mut self.crew.all[w];
            let (on, patient) = (member.on, member.patient());
            let given = match on {
                Some(m) if !member.paused => {
                    let machine = &self.machines[m];
                    let keeps = if member.to.is_some() { KEPT_WHILE_MOVING } else { 1.0 };
                    keeps * member.asks * (machine.room_milli() / machine.asked.max(1e-9)).min(1.0)
                }
                _ => 0.0,
            };
            if let Some(m) = on {
                self.machines[m].given += given;
                self.yardstick.add(&mut needs, self.yardstick.class(w), &member.job.workload.requests, given);
            }
            if !patient {
                asked += member.asks;
                given_all += given;
            }
            member.lived(given, self.step_s);
        }
        let mut watts = 0.0;
        for machine in &mut self.machines {
            machine.watts = machine.draws(machine.given);
            machine.joules += machine.watts * self.step_s as f64;
            watts += machine.watts;
        }
        let bound = self.yardstick.bound(needs);
        if self.now.is_multiple_of(self.plan_every_s) {
            self.books.oracle_w = self.clairvoyant();
        }
        self.books.step(&self.machines, self.now, self.step_s, self.plan_every_s, (watts, bound), (asked, given_all));
    }

    /// Watts of a clairvoyant: all that is asked for is packed anew for free, or left as it is with empty machines off
    /// at once, whichever is less.
    fn clairvoyant(&self) -> f64 {
        let items: Vec<Item<'_>> = self
            .crew
            .here
            .iter()
            .map(|&w| Item {
                class: self.yardstick.class(w),
                needs: &self.crew.all[w].job.workload.requests,
                milli: self.crew.all[w].asks,
            })
            .collect();
        let packed = self.yardstick.packed(&self.machines, &items);
        if self.crew.here.iter().any(|&w| self.crew.all[w].on.is_none() || self.crew.all[w].paused) {
            return packed;
        }
        let left = |m: &Machine| match m.tenants {
            0 if m.spec.node.switchable => m.spec.node.off_watts,
            _ => m.spec.truth.watts(m.spec.node.load(m.given)),
        };
        packed.min(self.machines.iter().map(left).sum())
    }
}

/// The whole number nearest below, of what is never negative.
#[allow(clippy::cast_possible_truncation, reason = "amounts and spans of time far below the largest number")]
pub(crate) fn to_milli(v: f64) -> u64 {
    v.max(0.0) as u64
}
