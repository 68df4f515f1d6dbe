//! A fleet on a virtual clock in which everything breaks, driven by the production executor and planner. Everything
//! comes out of the seed.

pub(crate) mod driver;
pub(crate) mod faults;
pub(crate) mod invariants;
pub(crate) mod truth;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use ebbtide_executor::Executor;
use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Command, Effect, Generation, Key, Mark, Way};
use ebbtide_executor::event::{Answer, Ask, Cordon, Event};
use ebbtide_executor::journal::Record;
use ebbtide_executor::settings::{Limit, Mode, Rung, Settings, Ways};
use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::policy::{Interlock, Policy, Selector};
use ebbtide_planner::sim::rng::Rng;
use ebbtide_planner::state::event::Event as Fact;
use ebbtide_planner::state::node::Node;
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::{NodeId, WorkloadId};
use truth::{Machine, Pod, Power};

/// When the daemons' clock starts.
const EPOCH_MS: u64 = 1_700_000_000_000;
const POD: u64 = 500;

/// What happens at a moment.
#[derive(Clone, Debug)]
pub(crate) enum Happening {
    /// A step of physics, kubelets, agents and the scheduler.
    Second,
    Tick {
        daemon: usize,
    },
    /// Something reaches a daemon.
    Tell {
        daemon: usize,
        event: Event,
    },
    /// A record reaches the disk.
    Written {
        daemon: usize,
        record: Box<Record>,
    },
    /// A command reaches what it is for.
    Lands {
        daemon: usize,
        key: Key,
        node: NodeId,
        effect: Effect,
    },
    /// A look is taken.
    Looks {
        daemon: usize,
        node: NodeId,
        look: u64,
    },
    /// A binding takes effect.
    Binds {
        pod: WorkloadId,
        node: usize,
    },
    /// The planner's turn.
    Plan {
        again: bool,
    },
    /// Something breaks, or somebody does something.
    Trouble,
    /// A daemon comes up as the next generation.
    Starts,
    /// The old one learns that it doesn't lead.
    Deposed {
        daemon: usize,
    },
    /// The state that the planner knows changes.
    Known(Fact),
}

/// How a campaign's run is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    /// Whether anything breaks.
    pub(crate) faults: bool,
    /// The daemon dies right before the command with this number is carried out.
    pub(crate) kill_at: Option<u64>,
    /// Seconds until nothing breaks any more.
    pub(crate) busy_s: u64,
}

pub(crate) struct Daemon {
    pub(crate) core: Executor,
    pub(crate) generation: Generation,
    pub(crate) alive: bool,
    pub(crate) told_deposed: bool,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    /// Milliseconds that the daemons' clock is ahead.
    pub(crate) skew: i64,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next: u64,
    pub(crate) machines: Vec<Machine>,
    pub(crate) pods: BTreeMap<WorkloadId, Pod>,
    pub(crate) replicas: BTreeMap<String, usize>,
    pub(crate) state: FleetState,
    pub(crate) policy: Policy,
    pub(crate) settings: Settings,
    pub(crate) daemons: Vec<Daemon>,
    /// Who has the lease.
    pub(crate) lease: Generation,
    pub(crate) journal: Vec<Record>,
    pub(crate) last_write: u64,
    pub(crate) audit: Vec<AuditEntry>,
    pub(crate) landed: Vec<(Key, NodeId, Effect)>,
    pub(crate) api_down: u64,
    pub(crate) commands: u64,
    pub(crate) paused: bool,
    pub(crate) pods_made: u64,
    pub(crate) ticket: u64,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) violations: Vec<String>,
    pub(crate) log: Vec<String>,
    /// Records that turned out needless.
    pub(crate) forgotten: usize,
}

impl World {
    pub(crate) fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed, 1);
        let policy = Policy {
            min_on_s: 120,
            min_off_s: 60,
            sleep_after_s: 60,
            min_stay_s: 60,
            switches_per_day: 40,
            disruption_j: 10.0,
            effort: 200_000,
            interlocks: vec![Interlock {
                name: "last-of-a".to_owned(),
                nodes: Selector { pool: Some("a".to_owned()), ..Selector::default() },
                keep: Some(1),
            }],
            ..Policy::default()
        };
        let limit = Limit { at_once: 3, per_minute: 3, boots: 2 };
        let mut settings = Settings { pool: limit, zone: limit, circuit: limit, drain_s: 600, ..Settings::default() };
        let mut machines = Vec::new();
        for i in 0..rng.range(4, 7) {
            let id = NodeId::new(&format!("n{i}")).unwrap();
            let mut known = Node::new(id.clone(), Resources::new(4000, 16_000_000_000), PowerCurve::line(60.0, 140.0));
            known.pool = if i % 3 == 0 { "b" } else { "a" }.to_owned();
            known.circuit = Some(format!("c{}", i % 2));
            known.zone = Some(format!("z{}", i % 2));
            known.boot = BootModel::guess(90.0, 9000.0, 30.0);
            known.wake_proven = rng.below(8) != 0;
            known.off_watts = 2.0;
            let rung = |way, tries| Rung { way, patience_s: 60, tries };
            let on = vec![rung(Way::Bmc, 2), rung(Way::Wol, 1), rung(Way::Outlet, 1)];
            let ways = Ways { off: vec![Way::Agent, Way::Bmc], on, cut: rng.below(2) == 0 };
            settings.ways.insert(id.clone(), ways);
            machines.push(Machine {
                id,
                power: Power::On,
                outlet_on: true,
                ready: true,
                believes_at: None,
                cordon: Cordon::Open,
                closed_at: 0,
                by_hand: false,
                held: None,
                spoke: None,
                faults: truth::Faults::default(),
                switched: Vec::new(),
                known,
            });
        }
        let mut world = Self {
            options,
            rng,
            now: 0,
            skew: 0,
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            machines,
            pods: BTreeMap::new(),
            replicas: BTreeMap::new(),
            state: FleetState::new(),
            policy,
            settings,
            daemons: Vec::new(),
            lease: Generation(0),
            journal: Vec::new(),
            last_write: 0,
            audit: Vec::new(),
            landed: Vec::new(),
            api_down: 0,
            commands: 0,
            paused: false,
            pods_made: 0,
            ticket: 0,
            counts: BTreeMap::new(),
            violations: Vec::new(),
            log: Vec::new(),
            forgotten: 0,
        };
        world.furnish();
        world
    }

    fn furnish(&mut self) {
        let at = self.clock();
        for m in &self.machines {
            self.state.apply(at, Fact::NodeSeen(Box::new(m.known.clone())));
        }
        for g in 0..self.rng.range(3, 6) {
            let group = format!("g{g}");
            let size = self.rng.range(1, 4);
            self.replicas.insert(group.clone(), size as usize);
            let guarded = self.options.faults && self.rng.below(12) == 0;
            for _ in 0..size {
                let on = self.rng.below(self.machines.len() as u64) as usize;
                let id = self.new_pod(&group, guarded);
                self.put(&id, on);
            }
        }
        self.state.apply(at, Fact::Synced);
        self.state.settle();
        // the fleet stands like this for a day
        for node in self.state.nodes.values_mut() {
            node.since = Time::from_ms(EPOCH_MS - 86_400_000);
        }
        self.at(0, Happening::Second);
        self.at(0, Happening::Starts);
        self.at(20_000, Happening::Plan { again: true });
        if self.options.faults {
            self.at(5_000, Happening::Trouble);
        }
    }

    /// The daemons' clock.
    pub(crate) fn clock(&self) -> Time {
        Time::from_ms((EPOCH_MS as i64 + self.now as i64 + self.skew) as u64)
    }

    pub(crate) fn at(&mut self, delay: u64, what: Happening) {
        self.next += 1;
        self.queue.push(Reverse((self.now + delay, self.next)));
        self.happenings.insert(self.next, what);
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn violate(&mut self, what: String) {
        let line = format!("{:.1} s: {what}", self.now as f64 / 1000.0);
        self.note(format!("VIOLATION {what}"));
        self.violations.push(line);
    }

    pub(crate) fn note(&mut self, what: String) {
        if self.log.len() < 20_000 {
            self.log.push(format!("{:9.3} {what}", self.now as f64 / 1000.0));
        }
    }

    pub(crate) fn index(&self, node: &NodeId) -> usize {
        self.machines.iter().position(|m| m.id == *node).unwrap()
    }

    pub(crate) fn on(&self, n: usize) -> Vec<WorkloadId> {
        self.pods.values().filter(|p| p.node == Some(n)).map(|p| p.work.id.clone()).collect()
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        self.daemons.iter().position(|d| d.alive && d.generation == self.lease)
    }

    pub(crate) fn busy(&self) -> bool {
        self.now < self.options.busy_s * 1000
    }

    /// The planner learns something, a little later than it is so.
    pub(crate) fn learn(&mut self, fact: Fact) {
        // facts about one thing come in order: the same delay for all
        self.at(700, Happening::Known(fact));
    }

    fn new_pod(&mut self, group: &str, guarded: bool) -> WorkloadId {
        self.pods_made += 1;
        let id: WorkloadId = format!("pod/{group}-{}", self.pods_made).parse().unwrap();
        let mut work = Workload::new(id.clone(), Resources::new(POD, 500_000_000));
        work.group = Some(group.to_owned());
        let fact = Fact::WorkloadSeen(Box::new(work.clone()));
        if self.now == 0 {
            self.state.apply(self.clock(), fact);
        } else {
            self.learn(fact);
        }
        self.pods.insert(id.clone(), Pod { work, node: None, since: 0, bound_to: None, guarded });
        id
    }

    fn put(&mut self, id: &WorkloadId, n: usize) {
        let now = self.now;
        let node = self.machines[n].id.clone();
        let Some(pod) = self.pods.get_mut(id) else { return };
        pod.node = Some(n);
        pod.bound_to = None;
        pod.since = now;
        let fact = Fact::WorkloadBound { workload: id.clone(), node: Some(node) };
        if now == 0 {
            self.state.apply(self.clock(), fact);
        } else {
            self.learn(fact);
        }
    }

    /// An evicted workload: its controller makes another one, or the same again.
    pub(crate) fn evict(&mut self, id: &WorkloadId) {
        let Some(pod) = self.pods.remove(id) else { return };
        let group = pod.work.group.clone().unwrap_or_default();
        self.learn(Fact::WorkloadGone { workload: id.clone() });
        self.new_pod(&group, pod.guarded);
    }

    /// Runs until nothing can happen any more that matters.
    pub(crate) fn run(&mut self) {
        let end = self.options.busy_s * 1000 + 2 * 3_600_000;
        while let Some(Reverse((at, n))) = self.queue.pop() {
            self.now = at;
            if at > end {
                self.violate("it never comes to rest".to_owned());
                break;
            }
            let Some(what) = self.happenings.remove(&n) else { continue };
            self.happen(what);
            if !self.violations.is_empty() || (!self.busy() && self.at_rest()) {
                break;
            }
        }
        self.judge_end();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Second => {
                self.second();
                self.at(1000, Happening::Second);
            }
            Happening::Tick { daemon } => {
                if self.daemons[daemon].alive {
                    self.at(2000, Happening::Tick { daemon });
                    self.tell(daemon, Event::Tick);
                }
            }
            Happening::Tell { daemon, event } => self.tell(daemon, event),
            Happening::Written { daemon, record } => self.written(daemon, *record),
            Happening::Lands { daemon, key, node, effect } => self.lands(daemon, key, node, effect),
            Happening::Looks { daemon, node, look } => self.looks(daemon, node, look),
            Happening::Binds { pod, node } => self.binds(&pod, node),
            Happening::Plan { again } => self.plan(again),
            Happening::Trouble => self.trouble(),
            Happening::Starts => self.starts(),
            Happening::Deposed { daemon } => {
                if !self.daemons[daemon].told_deposed {
                    self.daemons[daemon].told_deposed = true;
                    self.tell(daemon, Event::LeaseLost);
                }
            }
            Happening::Known(fact) => {
                let at = self.clock();
                self.state.apply(at, fact);
            }
        }
    }

    /// A second of physics.
    fn second(&mut self) {
        let now = self.now;
        for n in 0..self.machines.len() {
            let before = self.machines[n].told_power();
            let m = &mut self.machines[n];
            match m.power {
                Power::Boots { until } if now >= until => m.power = Power::On,
                Power::GoesDown { until } if now >= until => m.power = Power::Off,
                _ => {}
            }
            if m.power != Power::Off && !m.outlet_on {
                m.power = Power::Off;
            }
            if m.held.as_ref().is_some_and(|h| now >= h.2) {
                m.held = None;
            }
            let after = m.told_power();
            let wants = m.power == Power::On;
            if m.ready != wants && m.believes_at.is_none() {
                m.believes_at = Some(now + if wants { 4000 } else { 40_000 });
            }
            if m.believes_at.is_some_and(|at| now >= at) {
                m.ready = wants;
                m.believes_at = None;
            }
            let speaks = m.runs() && m.faults.agent_silent <= now;
            if speaks && (now / 1000) % 5 == n as u64 % 5 {
                m.spoke = Some(now);
                let node = m.id.clone();
                self.learn(Fact::NodeHeard { node });
            }
            if before != after {
                self.powered(n);
            }
        }
        if (now / 1000).is_multiple_of(2) {
            self.schedule();
        }
    }

    /// A machine's power has changed.
    pub(crate) fn powered(&mut self, n: usize) {
        let m = &self.machines[n];
        let (node, power, off) = (m.id.clone(), m.told_power(), m.power == Power::Off);
        self.note(format!("{node} is {power:?}"));
        self.learn(Fact::NodePower { node, power });
        if off && !self.on(n).is_empty() {
            let on = self.on(n);
            self.violate(format!("{} went off with {on:?} on it", self.machines[n].id));
        }
    }

    pub(crate) fn close(&mut self, n: usize, cordon: Cordon) {
        let now = self.now;
        let m = &mut self.machines[n];
        m.cordon = cordon;
        m.closed_at = now;
        m.by_hand = false;
        let (node, cordoned) = (m.id.clone(), cordon != Cordon::Open);
        self.note(format!("{node} is {cordon:?}"));
        self.learn(Fact::NodeCordoned { node, cordoned });
        if let Some(daemon) = self.leader() {
            self.tell_mark(daemon, n);
        }
    }

    fn used(&self, n: usize) -> u64 {
        let there = |p: &&Pod| p.node == Some(n) || p.bound_to == Some(n);
        self.pods.values().filter(there).map(|p| p.work.requests.cpu_milli).sum()
    }

    /// Binds what waits to open, ready nodes. A binding takes a moment, in which the node may be closed.
    fn schedule(&mut self) {
        if self.api_down > self.now {
            return;
        }
        let waiting: Vec<WorkloadId> = self
            .pods
            .values()
            .filter(|p| p.node.is_none() && p.bound_to.is_none())
            .map(|p| p.work.id.clone())
            .collect();
        for id in waiting {
            let open: Vec<usize> = (0..self.machines.len())
                .filter(|&n| self.machines[n].ready && self.machines[n].cordon == Cordon::Open)
                .filter(|&n| self.used(n) + POD <= 4000)
                .collect();
            let Some(&n) = open.get(self.rng.below(open.len() as u64) as usize) else { continue };
            if let Some(pod) = self.pods.get_mut(&id) {
                pod.bound_to = Some(n);
            }
            let delay = self.rng.range(100, 3000);
            self.at(delay, Happening::Binds { pod: id, node: n });
        }
    }

    fn binds(&mut self, id: &WorkloadId, n: usize) {
        // a kubelet that shuts down, or doesn't run, takes nothing
        let admits = self.machines[n].power == Power::On;
        let expected = self.pods.get(id).is_some_and(|p| p.bound_to == Some(n));
        let off = matches!(self.machines[n].power, Power::Off | Power::Boots { .. });
        if off && expected && self.machines[n].cordon == Cordon::Open && !self.machines[n].by_hand {
            self.violate(format!("{id} is bound to {}, which is off and was opened", self.machines[n].id));
        }
        if admits && expected {
            self.put(id, n);
        } else if let Some(pod) = self.pods.get_mut(id) {
            pod.bound_to = None;
        }
    }

    fn plan(&mut self, again: bool) {
        if again && self.busy() {
            let delay = self.rng.range(60_000, 180_000);
            self.at(delay, Happening::Plan { again: true });
        }
        let Some(daemon) = self.leader() else { return };
        if !self.busy() {
            return;
        }
        if let Ok(mut plan) = ebbtide_planner::plan::plan(&self.state, &self.policy, self.clock()) {
            let mut delay = self.rng.range(100, 3000);
            if self.options.faults {
                match self.rng.below(12) {
                    0 => {
                        self.count("stale plan");
                        delay += 90_000;
                    }
                    1 if plan.actions.len() > 1 => {
                        self.count("damaged plan");
                        plan.actions.remove(0);
                    }
                    _ => {}
                }
            }
            self.at(delay, Happening::Tell { daemon, event: Event::Planned(Box::new(plan)) });
        }
    }

    /// A daemon takes the lease and begins anew.
    fn starts(&mut self) {
        self.lease = Generation(self.lease.0 + 1);
        let core = match Executor::resume(&self.journal, self.clock(), self.lease, self.settings.clone()) {
            Ok(core) => core,
            Err(why) => return self.violate(format!("can't begin anew: {why}")),
        };
        self.forgets(&core);
        self.paused = core.paused().is_some();
        self.note(format!("{} begins with {} records", self.lease, self.journal.len()));
        self.daemons.push(Daemon { core, generation: self.lease, alive: true, told_deposed: false });
        let daemon = self.daemons.len() - 1;
        let modes =
            [("a", Mode::Auto), ("b", if self.options.seed.is_multiple_of(3) { Mode::Recommend } else { Mode::Auto })];
        for (pool, mode) in modes {
            self.tell(daemon, Event::Mode { pool: pool.to_owned(), mode });
        }
        for n in 0..self.machines.len() {
            self.tell_mark(daemon, n);
        }
        self.at(500, Happening::Tick { daemon });
    }

    /// Inventory tells of a mark that it finds.
    fn tell_mark(&mut self, daemon: usize, n: usize) {
        if matches!(self.machines[n].cordon, Cordon::Ours(_)) {
            let sight = Box::new(self.machines[n].sight(self.now, true, self.on(n)));
            let node = self.machines[n].id.clone();
            self.at(1000, Happening::Tell { daemon, event: Event::Seen { node, look: None, sight } });
        }
    }

    pub(crate) fn ask(&mut self, what: Ask) {
        let Some(daemon) = self.leader() else { return };
        self.ticket += 1;
        let event = Event::Asked { ticket: self.ticket, by: "ada".to_owned(), why: String::new(), what };
        self.tell(daemon, event);
    }

    /// The mark on a machine, if it is an operation's.
    pub(crate) fn mark_of(mark: Mark) -> Cordon {
        match mark {
            Mark::Operation(id) => Cordon::Ours(id),
            Mark::Lock => Cordon::Locked,
        }
    }

    pub(crate) fn answer(&mut self, daemon: usize, key: Key, answer: Answer) {
        let generation = self.daemons[daemon].generation;
        let delay = self.rng.range(10, 500);
        self.at(delay, Happening::Tell { daemon, event: Event::Answered { generation, key, answer } });
    }

    /// Commands that have to be carried out now, for the driver.
    pub(crate) fn carry(&mut self, daemon: usize, commands: Vec<Command>) {
        for command in commands {
            self.commands += u64::from(!matches!(command, Command::Changed(_) | Command::Audit(_)));
            if self.options.kill_at == Some(self.commands) && self.daemons.len() == 1 {
                self.kill(daemon);
            }
            if self.options.faults && self.busy() && self.rng.below(2500) == 0 {
                self.count("killed between two commands");
                self.kill(daemon);
            }
            if !self.daemons[daemon].alive {
                return;
            }
            self.command(daemon, command);
        }
    }
}
