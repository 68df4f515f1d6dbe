//! Agents and a fleet over a network that breaks, with crashes of either side at any point.
//!
//! The agent's session and spool and the fleet's session and store are those that are shipped; only network and time are
//! made up, from a seed. In the end the fleet's totals are the agents' totals, or what is missing is counted.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ebbtide_agent::clock::Moment;
use ebbtide_agent::stream::random::Random;
use ebbtide_agent::stream::session::{self as agent, Command, Ended, Event};
use ebbtide_agent::stream::spool::{self, Spool};
use ebbtide_fleet::ingest::{Counts, Limits, Outcome, Peer, Session};
use ebbtide_fleet::live::{Live, Staleness};
use ebbtide_fleet::store::{Options, Record, Store};
use ebbtide_proto::frame::{Batch, Column};
use ebbtide_proto::series::{Labels, Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::{NodeId, Ratio, WorkloadId, WorkloadKind, ZoneId, v1};

const SECOND: u64 = 1_000_000_000;
const START_MS: u64 = 1_780_000_000_000;

/// What is going to happen.
#[derive(Debug)]
enum What {
    Measure(usize),
    ToAgent(usize, Event),
    ToFleet(usize, v1::AgentMessage),
    Wake(usize, u64),
    Commit,
    Seal,
    Fault,
}

/// An agent and the machine it is on.
struct Node {
    name: String,
    folder: PathBuf,
    limits: spool::Limits,
    spool: Spool,
    session: agent::Session,
    starts: u64,
    /// Its counter, the first value that it told, and the frames that it appended.
    uj: u64,
    first_uj: Option<u64>,
    frames: u64,
    /// Frames given up by spools of earlier starts.
    dropped: u64,
    alarm: u64,
}

/// The fleet's end of a connection.
struct Line {
    node: usize,
    number: u64,
    /// The fleet's side; none once it is gone.
    fleet: Option<Session>,
    /// The agent still listens.
    open: bool,
    /// When the last message arrives, up and down: a connection keeps the order.
    up: u64,
    down: u64,
}

struct World {
    at: u64,
    random: Random,
    queue: BTreeMap<(u64, u64), What>,
    queued: u64,
    nodes: Vec<Node>,
    lines: Vec<Line>,
    folder: PathBuf,
    store: Option<Store>,
    live: Arc<Live>,
    counts: Arc<Counts>,
    /// Sums over the fleet's crashes.
    dropped: u64,
    /// Frames that came and are not safe yet, with the line they came on.
    pending: Vec<(usize, Vec<Record>)>,
    measuring: bool,
    faults: u32,
}

impl World {
    fn new(seed: u64, folder: &Path, nodes: usize, limits: spool::Limits, faults: u32) -> Self {
        let store = Store::open(&folder.join("fleet"), Options::default()).unwrap();
        let mut world = Self {
            at: 0,
            random: Random::new(seed),
            queue: BTreeMap::new(),
            queued: 0,
            nodes: Vec::new(),
            lines: Vec::new(),
            folder: folder.to_owned(),
            store: Some(store),
            live: Arc::new(Live::new(Staleness::default())),
            counts: Arc::new(Counts::default()),
            dropped: 0,
            pending: Vec::new(),
            measuring: true,
            faults,
        };
        for n in 0..nodes {
            let name = format!("node{n}");
            let folder = folder.join(&name);
            let spool = open(&folder, limits, seed ^ n as u64);
            let session = agent::Session::new(options(&name), seed + n as u64);
            let alarm = u64::MAX;
            let (starts, uj, first_uj, frames, dropped) = (0, 0, None, 0, 0);
            world.nodes.push(Node {
                name,
                folder,
                limits,
                spool,
                session,
                starts,
                uj,
                first_uj,
                frames,
                dropped,
                alarm,
            });
            world.after(world.nodes.len() as u64 * 100, What::Measure(n));
            let position = world.nodes[n].spool.position();
            world.event(n, Event::Spool(position));
        }
        world.after(1, What::Commit);
        world.after(1, What::Seal);
        world.after(1, What::Fault);
        world
    }

    fn now(&self) -> Moment {
        Moment { mono: self.at, boot: self.at, wall: START_MS * 1_000_000 + self.at }
    }

    fn now_ms(&self) -> u64 {
        START_MS + self.at / 1_000_000
    }

    fn put(&mut self, at: u64, what: What) {
        self.queued += 1;
        self.queue.insert((at, self.queued), what);
    }

    /// Something happens some milliseconds from now.
    fn after(&mut self, ms: u64, what: What) {
        self.put(self.at + ms * 1_000_000, what);
    }

    fn run(&mut self, seconds: u64) {
        let until = self.at + seconds * SECOND;
        while let Some(((at, _), _)) = self.queue.first_key_value() {
            if *at > until {
                break;
            }
            let ((at, _), what) = self.queue.pop_first().unwrap();
            self.at = at;
            self.happen(what);
        }
        self.at = until;
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Measure(n) => self.measure(n),
            What::ToAgent(line, event) => {
                let Line { node, number, open, .. } = self.lines[line];
                let _ = number;
                if open {
                    if matches!(event, Event::Ended(..)) {
                        self.lines[line].open = false;
                    }
                    self.event(node, event);
                }
            }
            What::ToFleet(line, message) => self.arrive(line, message),
            What::Wake(n, at) => {
                if self.nodes[n].alarm == at {
                    self.nodes[n].alarm = u64::MAX;
                    self.event(n, Event::Tick);
                }
            }
            What::Commit => {
                self.commit();
                let wait = 50 + self.random.up_to(400);
                self.after(wait, What::Commit);
            }
            What::Seal => {
                let now_ms = self.now_ms();
                self.store.as_ref().unwrap().seal(now_ms, 8).unwrap();
                self.after(20_000, What::Seal);
            }
            What::Fault => self.fault(),
        }
    }

    /// Two moments of a node with one zone and one workload that has half of it.
    fn measure(&mut self, n: usize) {
        if !self.measuring {
            return;
        }
        let now_ms = self.now_ms();
        let (a, b) = (self.random.up_to(40_000_000), self.random.up_to(40_000_000));
        let now = self.now();
        let node = &mut self.nodes[n];
        let values = [node.uj + a, node.uj + a + b];
        node.uj = values[1];
        node.first_uj.get_or_insert(values[0]);
        node.frames += 1;
        node.spool.append(batch([now_ms - 1000, now_ms], values), now);
        let position = node.spool.position();
        self.event(n, Event::Spool(position));
        self.after(2000, What::Measure(n));
    }

    /// Hands an event to an agent and does what it wants.
    fn event(&mut self, n: usize, event: Event) {
        let now = self.now();
        let commands = self.nodes[n].session.step(now, event);
        for command in commands {
            match command {
                Command::Connect(number) => {
                    for line in self.lines.iter_mut().filter(|line| line.node == n) {
                        line.open = false;
                    }
                    self.lines.push(Line { node: n, number, fleet: None, open: true, up: self.at, down: self.at });
                    let line = self.lines.len() - 1;
                    let peer = Peer { address: None, encrypted: false, identity: None };
                    let session = Session::new(
                        peer,
                        Limits::default(),
                        Arc::clone(&self.live),
                        self.store.clone().unwrap(),
                        Arc::clone(&self.counts),
                    );
                    self.lines[line].fleet = Some(session);
                    let wait = 1 + self.random.up_to(50);
                    let number = self.lines[line].number;
                    self.after(wait, What::ToAgent(line, Event::Connected(number)));
                }
                Command::Send(number, message) => {
                    let Some(line) = self.lines.iter().position(|l| l.node == n && l.number == number && l.open) else {
                        continue;
                    };
                    let wait = self.random.up_to(200) * 1_000_000;
                    let at = (self.at + wait).max(self.lines[line].up);
                    self.lines[line].up = at;
                    self.put(at, What::ToFleet(line, *message));
                }
                Command::Disconnect(number) => {
                    for line in self.lines.iter_mut().filter(|l| l.node == n && l.number == number) {
                        line.open = false;
                    }
                }
                Command::Read { connection, from, frames, bytes } => {
                    let node = &mut self.nodes[n];
                    let batches = node.spool.read(from, frames, bytes);
                    let position = node.spool.position();
                    self.event(n, Event::Spool(position));
                    self.event(n, Event::Frames(connection, batches));
                }
                Command::Release { spool_id, seq } => {
                    let node = &mut self.nodes[n];
                    node.spool.release(spool_id, seq);
                    let position = node.spool.position();
                    self.event(n, Event::Spool(position));
                }
                Command::Renew => {
                    let node = &mut self.nodes[n];
                    node.spool.renew();
                    let position = node.spool.position();
                    self.event(n, Event::Spool(position));
                }
                Command::WakeAt(at) => {
                    self.nodes[n].alarm = at;
                    self.put(at.max(self.at), What::Wake(n, at));
                }
                Command::Flush => {
                    let position = self.nodes[n].spool.position();
                    self.event(n, Event::Flushed(position));
                }
                // no fleet here tells of outlets
                Command::Intervals { .. }
                | Command::Curve(..)
                | Command::ShutDown(_)
                | Command::Wall(_)
                | Command::Tell(_)
                | Command::Done => {}
            }
        }
    }

    fn arrive(&mut self, line: usize, message: v1::AgentMessage) {
        let now_ms = self.now_ms();
        let Some(session) = &mut self.lines[line].fleet else { return };
        match session.receive(message, now_ms) {
            Ok(Outcome::Reply(reply)) => self.answer(line, reply),
            Ok(Outcome::Commit(records)) => self.pending.push((line, records)),
            Ok(Outcome::Nothing | Outcome::Left) => {}
            Err(refusal) => panic!("{}: {refusal}", self.nodes[self.lines[line].node].name),
        }
    }

    fn answer(&mut self, line: usize, message: v1::FleetMessage) {
        let wait = self.random.up_to(200) * 1_000_000;
        let at = (self.at + wait).max(self.lines[line].down);
        self.lines[line].down = at;
        let number = self.lines[line].number;
        self.put(at, What::ToAgent(line, Event::Message(number, message)));
    }

    fn commit(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let (mut records, mut acks) = (Vec::new(), Vec::new());
        for (line, more) in pending {
            acks.extend(more.last().map(|record| (line, record.seq())));
            records.extend(more);
        }
        self.store.as_ref().unwrap().commit(&records).unwrap();
        for (line, seq) in acks {
            if let Some(session) = &mut self.lines[line].fleet {
                let ack = session.ack(seq);
                self.answer(line, ack);
            }
        }
    }

    fn fault(&mut self) {
        if self.faults == 0 {
            return;
        }
        self.faults -= 1;
        let n = usize::try_from(self.random.up_to(self.nodes.len() as u64 - 1)).unwrap();
        match self.random.up_to(5) {
            // a connection breaks; what is under way is lost, in both directions
            0 | 1 => self.cut(|line| line.node == n),
            // the network is gone for a while
            2 => {
                let until = self.at + self.random.up_to(60) * SECOND;
                self.cut(|_| true);
                let late: Vec<_> = self.queue.range(..(until, 0)).map(|(key, _)| *key).collect();
                for key in late {
                    let what = self.queue.remove(&key).unwrap();
                    let wire = matches!(what, What::ToAgent(..) | What::ToFleet(..));
                    if !wire {
                        self.put(key.0, what);
                    }
                }
            }
            3 => self.crash_of_the_fleet(),
            4 => self.kill(n),
            // both at once
            _ => {
                self.kill(n);
                self.crash_of_the_fleet();
            }
        }
        let wait = self.random.up_to(20_000);
        self.after(wait, What::Fault);
    }

    fn cut(&mut self, which: impl Fn(&Line) -> bool) {
        for n in 0..self.lines.len() {
            if !self.lines[n].open || !which(&self.lines[n]) {
                continue;
            }
            let now_ms = self.now_ms();
            if let Some(mut session) = self.lines[n].fleet.take() {
                session.end(now_ms);
            }
            let number = self.lines[n].number;
            let ended = Ended { code: None, text: "the connection broke".into() };
            self.after(1, What::ToAgent(n, Event::Ended(number, ended)));
        }
    }

    /// Whatever was not committed is gone.
    fn crash_of_the_fleet(&mut self) {
        self.pending.clear();
        self.cut(|_| true);
        self.lines.iter_mut().for_each(|line| line.fleet = None);
        self.dropped += self.counts.dropped.load(Ordering::Relaxed);
        self.live = Arc::new(Live::new(Staleness::default()));
        self.counts = Arc::new(Counts::default());
        self.store = None;
        self.store = Some(Store::open(&self.folder.join("fleet"), Options::default()).unwrap());
    }

    /// The agent's process is killed and started again; the ledger goes on.
    fn kill(&mut self, n: usize) {
        self.cut(|line| line.node == n);
        for line in self.lines.iter_mut().filter(|line| line.node == n) {
            line.open = false;
        }
        let seed = self.random.bits();
        let node = &mut self.nodes[n];
        node.starts += 1;
        node.dropped += node.spool.stock().dropped;
        // the old one lets go of its files first
        node.spool = Spool::open(None, node.limits, None, seed);
        node.spool = open(&node.folder, node.limits, seed);
        node.session = agent::Session::new(options(&node.name), seed);
        node.alarm = u64::MAX;
        let position = node.spool.position();
        self.event(n, Event::Spool(position));
    }

    /// Energy of each node, and of the workload of all, that the fleet knows.
    fn totals(&self) -> (BTreeMap<String, u64>, u64) {
        let ask = |by: v1::GroupBy| {
            let question = v1::QueryEnergyRequest { from_ms: START_MS - 60_000, by: by.into(), ..Default::default() };
            self.store.as_ref().unwrap().energy(&question, self.now_ms() + 1000).unwrap().groups
        };
        let nodes = ask(v1::GroupBy::Node).into_iter().map(|g| (g.name, g.total_uj)).collect();
        (nodes, ask(v1::GroupBy::Unit).into_iter().map(|g| g.total_uj).sum())
    }
}

fn open(folder: &Path, limits: spool::Limits, seed: u64) -> Spool {
    Spool::open(Some(Box::new(spool::files::Folder::new(folder))), limits, boot(), seed)
}

fn boot() -> Option<ebbtide_proto::BootId> {
    Some("0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().unwrap())
}

fn options(name: &str) -> agent::Options {
    agent::Options {
        node: NodeId::new(name).unwrap(),
        boot: boot(),
        machine: v1::Machine::default(),
        version: "0.1.0".into(),
        takes_curve: false,
        takes_wall: true,
        shuts_down: false,
    }
}

fn batch(ticks: [u64; 2], values: [u64; 2]) -> Batch {
    let zone = Arc::new(ZoneInfo {
        id: ZoneId::new("powercap/package-0").unwrap(),
        name: "package-0".into(),
        kind: ZoneKind::Package,
        socket: Some(0),
        source: "powercap".into(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counts: true,
    });
    let id = WorkloadId::new(WorkloadKind::Unit, "web.service").unwrap();
    let key =
        |workload: Option<WorkloadId>| SeriesKey { metric: Metric::Energy, zone: Some(zone.id.clone()), workload };
    Batch {
        boot: boot(),
        ticks: ticks.to_vec(),
        series: vec![key(None), key(Some(id.clone()))],
        zones: vec![Arc::clone(&zone)],
        workloads: vec![Arc::new(WorkloadInfo { id, labels: Labels::default() })],
        columns: vec![Column { series: 0, first: 0, len: 2 }, Column { series: 1, first: 0, len: 2 }],
        values: values.into_iter().chain(values).collect(),
        ..Batch::default()
    }
}

/// Where files are quick, for there are many commits.
fn scratch() -> tempfile::TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

#[test]
fn the_fleet_knows_what_the_agents_know() {
    for seed in 0..24 {
        let folder = scratch();
        let mut world = World::new(seed, folder.path(), 3, spool::Limits::default(), 25);
        world.run(300);
        world.faults = 0;
        world.measuring = false;
        // the longest pause between two tries is a minute
        world.run(200);
        let (nodes, workload) = world.totals();
        let truth: BTreeMap<_, _> = world.nodes.iter().map(|n| (n.name.clone(), n.uj - n.first_uj.unwrap())).collect();
        assert_eq!(nodes, truth, "seed {seed}");
        assert_eq!(workload, truth.values().sum::<u64>(), "seed {seed}");
        for node in &world.nodes {
            assert_eq!(node.spool.stock().frames, 0, "seed {seed}: {} still waits", node.name);
            assert_eq!(node.spool.stock().dropped + node.dropped, 0, "seed {seed}");
        }
        // also once all is in blocks
        let store = world.store.as_ref().unwrap();
        store.seal_all(world.now_ms() + 3_600_000).unwrap();
        assert_eq!(world.totals().0, truth, "seed {seed}: after sealing");
    }
}

#[test]
fn what_a_small_spool_gave_up_is_counted() {
    let mut gave_up = 0;
    for seed in 100..108 {
        let folder = scratch();
        let limits = spool::Limits { bytes: 1600, memory: 1600, segment: 400, age: Duration::from_secs(1 << 30) };
        let mut world = World::new(seed, folder.path(), 2, limits, 25);
        world.run(300);
        world.faults = 0;
        // frames that come now tell what was given up before them
        world.run(200);
        world.measuring = false;
        world.run(200);
        let (nodes, _) = world.totals();
        let dropped: u64 = world.nodes.iter().map(|n| n.dropped + n.spool.stock().dropped).sum();
        for node in &world.nodes {
            // steps over a hole of minutes are not invented, so no more than the truth, and most of it
            let truth = node.uj - node.first_uj.unwrap();
            assert!(nodes[&node.name] <= truth, "seed {seed}: {} of {truth}", nodes[&node.name]);
            if dropped == 0 {
                assert_eq!(nodes[&node.name], truth, "seed {seed}");
            }
        }
        gave_up += dropped;
    }
    assert!(gave_up > 0, "no spool was ever too small: nothing was tested");
}
