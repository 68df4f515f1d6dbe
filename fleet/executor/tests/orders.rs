//! One order at a time, on a bench where every look and every answer is chosen.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use ebbtide_executor::Executor;
use ebbtide_executor::command::{Command, Effect, Generation, Mark, Way};
use ebbtide_executor::event::{Answer, Ask, Cordon, Event, Sight};
use ebbtide_executor::journal::Record;
use ebbtide_executor::operation::{Free, Operation, OperationId, State};
use ebbtide_executor::settings::{Mode, Rung, Settings, Ways};
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::policy::{Interlock, Policy, Selector};
use ebbtide_planner::state::event::Event as Fact;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::{NodeId, WorkloadId};

struct Bench {
    core: Executor,
    fleet: FleetState,
    policy: Policy,
    now: Time,
    sights: BTreeMap<NodeId, Sight>,
    effects: Vec<(NodeId, Effect)>,
    records: Vec<Record>,
    replans: usize,
    operation: Option<OperationId>,
    /// Machines that are told to shut down do.
    obedient: bool,
    /// Machines that are told to wake do.
    wakeful: bool,
    evictions_refused: bool,
    /// What was asked to leave stays for a while.
    evictions_slow: bool,
}

fn node(n: usize) -> NodeId {
    NodeId::new(&format!("n{n}")).unwrap()
}

fn settings() -> Settings {
    let rung = |way, tries| Rung { way, patience_s: 60, tries };
    let on = vec![rung(Way::Bmc, 2), rung(Way::Wol, 1), rung(Way::Outlet, 1)];
    let ways = Ways { off: vec![Way::Agent, Way::Bmc], on, cut: true };
    Settings { ways: (0..5).map(|n| (node(n), ways.clone())).collect(), ..Settings::default() }
}

impl Bench {
    fn new() -> Self {
        let now = Time::from_secs(1_000_000);
        let mut fleet = FleetState::new();
        for n in 0..5 {
            let mut known = Node::new(node(n), Resources::new(4000, 1 << 34), PowerCurve::line(60.0, 140.0));
            known.circuit = Some("c".to_owned());
            fleet.apply(Time::from_secs(1), Fact::NodeSeen(Box::new(known)));
        }
        fleet.apply(Time::from_secs(1), Fact::Synced);
        let sight = Sight {
            cordon: Some(Cordon::Open),
            ready: Some(true),
            held: None,
            workloads: Some(Vec::new()),
            agent_ago_s: Some(1.0),
            bmc: PowerState::On,
            outlet: PowerState::On,
            outlet_w: Some(100.0),
        };
        Self {
            core: Executor::resume(&[], now, Generation(1), settings()).unwrap(),
            fleet,
            policy: Policy::default(),
            now,
            sights: (0..5).map(|n| (node(n), sight.clone())).collect(),
            effects: Vec::new(),
            records: Vec::new(),
            replans: 0,
            operation: None,
            obedient: true,
            wakeful: true,
            evictions_refused: false,
            evictions_slow: false,
        }
    }

    fn tell(&mut self, event: Event) {
        let mut events = std::collections::VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for command in self.core.step(self.now, &self.fleet, &self.policy, event) {
                match command {
                    Command::Journal { generation, record } => {
                        events.push_back(Event::Journalled { generation, seq: record.seq });
                        self.records.push(*record);
                    }
                    Command::Look { node, look, .. } => {
                        let sight = Box::new(self.sights[&node].clone());
                        events.push_back(Event::Seen { node, look: Some(look), sight });
                    }
                    Command::Do { generation, key, node, effect, .. } => {
                        let answer = self.carry_out(&node, &effect);
                        self.effects.push((node, effect));
                        events.push_back(Event::Answered { generation, key, answer });
                    }
                    Command::Replan { .. } => self.replans += 1,
                    Command::Accepted { operation, .. } => self.operation = Some(operation),
                    Command::Audit(_) | Command::Changed(_) => {}
                }
            }
        }
    }

    fn carry_out(&mut self, node: &NodeId, effect: &Effect) -> Answer {
        let sight = self.sights.get_mut(node).unwrap();
        match effect {
            Effect::Cordon { mark: Mark::Operation(id) } => sight.cordon = Some(Cordon::Ours(*id)),
            Effect::Cordon { mark: Mark::Lock } => sight.cordon = Some(Cordon::Locked),
            Effect::Uncordon { .. } => sight.cordon = Some(Cordon::Open),
            Effect::Evict { .. } if self.evictions_refused => {
                return Answer::Refused { why: "429".to_owned(), retry_after_s: Some(10) };
            }
            Effect::Evict { .. } if self.evictions_slow => {}
            Effect::Evict { workload, .. } => {
                let fact = Fact::WorkloadBound { workload: workload.clone(), node: Some(NodeId::new("n4").unwrap()) };
                self.fleet.apply(self.now, fact);
            }
            Effect::Shutdown { .. } if self.obedient => {
                (sight.bmc, sight.outlet_w) = (PowerState::Off, Some(1.0));
                (sight.ready, sight.agent_ago_s) = (Some(false), Some(1000.0));
            }
            Effect::OutletOff => sight.outlet = PowerState::Off,
            Effect::PowerOn { .. } if self.wakeful => {
                (sight.bmc, sight.outlet_w) = (PowerState::On, Some(100.0));
                (sight.ready, sight.agent_ago_s) = (Some(true), Some(1.0));
            }
            _ => {}
        }
        Answer::Done
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds / 2 {
            self.now = self.now.plus_secs(2);
            for n in 0..5 {
                let heard = Fact::NodeHeard { node: node(n) };
                self.fleet.apply(self.now, heard);
            }
            self.tell(Event::Tick);
        }
    }

    fn ask(&mut self, what: Ask) -> OperationId {
        self.run(2);
        self.tell(Event::Asked { ticket: 1, by: "ada".to_owned(), why: String::new(), what });
        self.operation.unwrap()
    }

    fn op(&self, id: OperationId) -> &Operation {
        self.core.operation(id).unwrap()
    }

    fn words(&self, n: usize) -> Vec<&'static str> {
        let word = |e: &Effect| match e {
            Effect::Cordon { mark: Mark::Lock } => "lock",
            Effect::Cordon { .. } => "close",
            Effect::Uncordon { .. } => "open",
            Effect::Evict { .. } => "evict",
            Effect::Place { .. } => "place",
            Effect::TellGoodbye => "goodbye",
            Effect::Shutdown { way: Way::Agent } => "shutdown",
            Effect::Shutdown { .. } => "shutdown by BMC",
            Effect::OutletOff => "cut",
            Effect::PowerOn { way: Way::Bmc } => "wake by BMC",
            Effect::PowerOn { way: Way::Wol } => "wake by LAN",
            Effect::PowerOn { .. } => "wake by outlet",
        };
        self.effects.iter().filter(|(id, _)| *id == node(n)).map(|(_, e)| word(e)).collect()
    }

    fn put(&mut self, n: usize) -> WorkloadId {
        self.put_as(n, n, None)
    }

    fn put_as(&mut self, n: usize, name: usize, group: Option<&str>) -> WorkloadId {
        let id: WorkloadId = format!("pod/p{name}").parse().unwrap();
        let mut work = Workload::new(id.clone(), Resources::new(500, 1));
        (work.node, work.group) = (Some(node(n)), group.map(str::to_owned));
        self.fleet.apply(Time::from_secs(1), Fact::WorkloadSeen(Box::new(work)));
        id
    }
}

#[test]
fn a_node_is_emptied_said_goodbye_shut_down_proven_off_cut_and_opened() {
    let mut b = Bench::new();
    b.put(0);
    let id = b.ask(Ask::PowerOff { node: node(0) });
    b.run(300);
    assert_eq!(b.words(0), ["close", "evict", "goodbye", "shutdown", "cut", "open"]);
    assert_eq!(b.op(id).state, State::Done, "{}", b.op(id).words);
    assert!(b.op(id).words.contains("its BMC says off"), "{}", b.op(id).words);
    // each record can be read back, and a leader that begins with them has nothing left to do
    let json = serde_json::to_string(&b.records).unwrap();
    let records: Vec<Record> = serde_json::from_str(&json).unwrap();
    let core = Executor::resume(&records, b.now, Generation(2), settings()).unwrap();
    assert!(core.operations().all(|o| !o.is_live()) && core.operations().any(|o| o.id == id && o.steps.len() == 6));
    assert!(Executor::resume(&records, b.now, Generation(1), settings()).is_err());
}

#[test]
fn what_must_stay_on_is_not_touched() {
    type Break = fn(&mut Bench);
    let cases: [(&str, Break); 7] = [
        ("seen it wake", |b| b.fleet.nodes.get_mut(&node(0)).unwrap().wake_proven = false),
        ("interlock quorum", |b| {
            let nodes = Selector { node: Some("n0".to_owned()), ..Selector::default() };
            b.policy.interlocks.push(Interlock { name: "quorum".to_owned(), nodes, keep: None });
        }),
        ("somebody else closed it", |b| b.sights.get_mut(&node(0)).unwrap().cordon = Some(Cordon::Foreign)),
        ("held by kured", |b| b.sights.get_mut(&node(0)).unwrap().held = Some("kured".to_owned())),
        ("nothing can power it", |b| b.fleet.nodes.get_mut(&node(0)).unwrap().switchable = false),
        ("must not be disturbed", |b| {
            let id = b.put(0);
            b.fleet.workloads.get_mut(&id).unwrap().stays = true;
        }),
        ("switched", |b| b.fleet.nodes.get_mut(&node(0)).unwrap().switched.push(b.now)),
    ];
    for (why, broken) in cases {
        let mut b = Bench::new();
        broken(&mut b);
        let id = b.ask(Ask::PowerOff { node: node(0) });
        b.run(60);
        assert_eq!((b.op(id).state, b.effects.len()), (State::Refused, 0), "{why}: {}", b.op(id).words);
        assert!(b.op(id).words.contains(why), "{why}: {}", b.op(id).words);
    }
}

#[test]
fn a_pod_that_comes_at_the_last_moment_stops_the_shutdown() {
    let mut b = Bench::new();
    let id = b.ask(Ask::PowerOff { node: node(0) });
    b.run(6);
    b.sights.get_mut(&node(0)).unwrap().workloads = Some(vec!["pod/late".parse().unwrap()]);
    b.run(1900);
    assert_eq!(b.words(0), ["close", "open"], "{}", b.op(id).words);
    assert_eq!(b.op(id).state, State::RolledBack);
}

#[test]
fn contradicting_signals_mean_quarantine_and_no_cut() {
    let mut b = Bench::new();
    b.obedient = false;
    let id = b.ask(Ask::PowerOff { node: node(0) });
    b.run(14);
    b.sights.get_mut(&node(0)).unwrap().bmc = PowerState::Off;
    b.run(900);
    assert_eq!(b.op(id).state, State::Quarantined, "{}", b.op(id).words);
    assert!(!b.words(0).contains(&"cut") && !b.words(0).contains(&"open"), "{:?}", b.words(0));
    assert!(b.core.quarantined().contains_key(&node(0)) && b.replans > 0);
    // it is left alone until a person says otherwise
    let off = b.ask(Ask::PowerOff { node: node(0) });
    b.run(10);
    assert_eq!(b.op(off).state, State::Refused);
    let unlock = b.ask(Ask::Unlock { node: node(0) });
    b.run(10);
    assert_eq!((b.op(unlock).state, b.core.quarantined().len()), (State::Done, 0));
}

#[test]
fn a_node_that_does_not_wake_is_tried_rung_by_rung_and_replaced() {
    let mut b = Bench::new();
    b.wakeful = false;
    let s = b.sights.get_mut(&node(0)).unwrap();
    (s.bmc, s.ready, s.agent_ago_s, s.outlet_w) = (PowerState::Off, Some(false), Some(9999.0), Some(1.0));
    let id = b.ask(Ask::PowerOn { node: node(0) });
    b.run(600);
    assert_eq!(b.words(0), ["wake by BMC", "wake by BMC", "wake by LAN", "wake by outlet"]);
    assert_eq!((b.op(id).state, b.replans), (State::Quarantined, 1));
}

#[test]
fn boots_on_a_circuit_are_staggered() {
    let mut b = Bench::new();
    b.wakeful = false;
    for n in 0..4 {
        let s = b.sights.get_mut(&node(n)).unwrap();
        (s.bmc, s.ready, s.agent_ago_s, s.outlet_w) = (PowerState::Off, Some(false), Some(9999.0), Some(1.0));
        b.ask(Ask::PowerOn { node: node(n) });
    }
    b.run(30);
    assert_eq!(b.effects.len(), 2, "{:?}", b.effects);
}

#[test]
fn a_drain_that_cannot_end_is_undone_at_its_deadline() {
    let mut b = Bench::new();
    b.put(0);
    b.evictions_refused = true;
    let id = b.ask(Ask::Evacuate { node: node(0), lock: true });
    b.run(1700);
    assert!(b.op(id).is_live());
    b.run(300);
    assert_eq!(b.op(id).state, State::RolledBack, "{}", b.op(id).words);
    assert_eq!(b.words(0).last(), Some(&"open"));
}

#[test]
fn several_workloads_leave_at_once_but_of_a_group_only_as_many_as_it_may_lack() {
    let mut b = Bench::new();
    b.evictions_slow = true;
    let all: Vec<WorkloadId> = (0..7).map(|n| b.put_as(0, n, (n < 3).then_some("web"))).collect();
    let id = b.ask(Ask::Evacuate { node: node(0), lock: false });
    b.run(60);
    let evicted = |b: &Bench| -> Vec<WorkloadId> {
        let evict = |(_, e): &(NodeId, Effect)| match e {
            Effect::Evict { workload, .. } => Some(workload.clone()),
            _ => None,
        };
        b.effects.iter().filter_map(evict).collect()
    };
    assert_eq!(evicted(&b), [&all[0], &all[3], &all[4], &all[5]].map(Clone::clone), "{}", b.op(id).words);
    let leaves = |b: &mut Bench, n: usize| {
        b.fleet.apply(b.now, Fact::WorkloadBound { workload: all[n].clone(), node: Some(node(4)) });
        b.run(20);
    };
    leaves(&mut b, 3);
    assert_eq!(evicted(&b).last(), Some(&all[6]), "another of the group waits");
    leaves(&mut b, 0);
    assert_eq!(evicted(&b).last(), Some(&all[1]));
    for n in [4, 5, 6] {
        leaves(&mut b, n);
    }
    assert_eq!(evicted(&b).len(), 6);
    assert!(b.op(id).is_live());
    leaves(&mut b, 1);
    leaves(&mut b, 2);
    b.run(20);
    assert_eq!((b.op(id).state, evicted(&b).len()), (State::Done, 7), "{}", b.op(id).words);
}

#[test]
fn evacuate_and_lock_leaves_it_locked_and_unlock_opens_it() {
    let mut b = Bench::new();
    b.put(0);
    let id = b.ask(Ask::Evacuate { node: node(0), lock: true });
    b.run(60);
    assert_eq!(b.words(0), ["close", "evict", "lock"]);
    assert_eq!(b.op(id).state, State::Done);
    b.ask(Ask::Unlock { node: node(0) });
    b.run(10);
    assert_eq!(b.words(0).last(), Some(&"open"));
}

#[test]
fn pools_are_observed_by_default_and_recommendations_wait_for_approval() {
    let mut b = Bench::new();
    b.run(2);
    b.policy.min_on_s = 0;
    let plan = ebbtide_planner::plan::plan(&b.fleet, &b.policy, b.now).unwrap();
    assert!(!plan.is_empty());
    b.tell(Event::Planned(Box::new(plan.clone())));
    b.run(60);
    assert!(b.effects.is_empty());
    b.tell(Event::Mode { pool: String::new(), mode: Mode::Recommend });
    b.run(2);
    // a stale one is not taken up
    b.tell(Event::Planned(Box::new(plan_of_old(&b))));
    let last = b.core.operations().last().unwrap();
    assert_eq!(last.state, State::Refused, "{}", last.words);
    let plan = ebbtide_planner::plan::plan(&b.fleet, &b.policy, b.now).unwrap();
    b.tell(Event::Planned(Box::new(plan)));
    b.run(60);
    assert!(b.effects.is_empty());
    let waiting = b.core.operations().find(|o| o.is_live()).unwrap().id;
    b.ask(Ask::Approve { plan: waiting });
    b.run(20);
    assert!(!b.effects.is_empty());
    // one at a time: what is planned meanwhile is no operation
    let before = b.core.operations().count();
    let now = ebbtide_planner::plan::plan(&b.fleet, &b.policy, b.now).unwrap();
    assert!(!now.is_empty());
    b.tell(Event::Planned(Box::new(now)));
    assert_eq!(b.core.operations().count(), before);
}

#[test]
fn in_a_closed_time_plans_wait_for_approval_and_what_is_under_way_is_finished() {
    let mut b = Bench::new();
    b.policy.min_on_s = 0;
    b.tell(Event::Mode { pool: String::new(), mode: Mode::Auto });
    b.tell(Event::Window { pool: String::new(), open: false });
    b.run(2);
    let put_forward = |b: &mut Bench| {
        let plan = ebbtide_planner::plan::plan(&b.fleet, &b.policy, b.now).unwrap();
        b.tell(Event::Planned(Box::new(plan)));
    };
    put_forward(&mut b);
    put_forward(&mut b);
    b.run(60);
    assert!(b.effects.is_empty());
    assert_eq!(b.core.operations().count(), 1, "the same plan is put forward once");
    // an operator's order is carried out at any time
    let order = b.ask(Ask::PowerOff { node: node(4) });
    b.run(200);
    assert_eq!(b.op(order).state, State::Done, "{}", b.op(order).words);
    b.tell(Event::Window { pool: String::new(), open: true });
    put_forward(&mut b);
    b.run(4);
    let begun: Vec<usize> = (0..4).filter(|n| !b.words(*n).is_empty()).collect();
    assert!(!begun.is_empty());
    b.tell(Event::Window { pool: String::new(), open: false });
    b.run(400);
    let finished = |n: &usize| b.words(*n).contains(&"shutdown") && b.words(*n).last() == Some(&"open");
    assert!(begun.iter().all(finished), "{:?}", b.effects);
    assert!((0..4).all(|n| begun.contains(&n) || b.words(n).is_empty()), "{:?}", b.effects);

    let mut b = Bench::new();
    b.policy.min_on_s = 0;
    b.tell(Event::Mode { pool: String::new(), mode: Mode::Auto });
    b.tell(Event::Window { pool: String::new(), open: false });
    b.run(2);
    put_forward(&mut b);
    let waiting = b.core.operations().find(|o| o.is_live()).unwrap().id;
    b.ask(Ask::Approve { plan: waiting });
    b.run(20);
    assert!(!b.effects.is_empty(), "an operator has said so");
}

fn plan_of_old(b: &Bench) -> ebbtide_planner::plan::action::Plan {
    let mut plan = ebbtide_planner::plan::plan(&b.fleet, &b.policy, b.now).unwrap();
    plan.at = Time::from_secs(10);
    plan
}

#[test]
fn a_part_of_a_node_is_kept_for_its_time_over_a_restart_until_it_is_said_anew_or_cleared() {
    let mut b = Bench::new();
    let part = |cpu_milli| Free { cpu_milli: Some(cpu_milli), memory: None };
    let set = |cpu_milli, for_s| Ask::SetCapacity { node: node(0), free: part(cpu_milli), for_s };
    let first = b.ask(set(1000, Some(600)));
    b.run(100);
    assert!(b.op(first).is_live() && b.effects.is_empty());
    let second = b.ask(set(2000, Some(600)));
    assert_eq!((b.op(first).state, b.op(second).is_live()), (State::Done, true), "{}", b.op(first).words);
    let records: Vec<Record> = serde_json::from_str(&serde_json::to_string(&b.records).unwrap()).unwrap();
    b.core = Executor::resume(&records, b.now, Generation(2), settings()).unwrap();
    b.run(400);
    assert!(b.op(second).is_live());
    b.run(300);
    assert_eq!((b.op(second).state, b.op(second).words.as_str()), (State::Done, "its time is over"));
    let ever = b.ask(set(500, None));
    b.run(100_000);
    assert!(b.op(ever).is_live());
    let cleared = b.ask(Ask::ClearCapacity { node: node(0) });
    assert_eq!((b.op(ever).state, b.op(cleared).state), (State::Done, State::Done));
    let nothing = b.ask(Ask::ClearCapacity { node: node(0) });
    assert_eq!(b.op(nothing).state, State::Refused, "{}", b.op(nothing).words);
    let given_up = b.ask(set(500, None));
    b.ask(Ask::Cancel { operation: given_up });
    assert_eq!(b.op(given_up).state, State::Cancelled);
}

#[test]
fn paused_or_deposed_it_begins_nothing() {
    let mut b = Bench::new();
    let off = b.ask(Ask::PowerOff { node: node(0) });
    b.ask(Ask::Pause);
    b.run(60);
    assert_eq!((b.words(0), b.op(off).state), (vec!["close", "open"], State::RolledBack));
    let again = b.ask(Ask::PowerOff { node: node(1) });
    b.run(60);
    assert!(b.words(1).is_empty() && b.op(again).is_live(), "{}", b.op(again).words);
    b.ask(Ask::Resume);
    b.tell(Event::LeaseLost);
    b.run(60);
    assert!(b.words(1).len() <= 1 && !b.core.is_leading(), "{:?}", b.words(1));
}
