//! The session over a network that breaks, with a fleet that crashes and an agent that is killed.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ebbtide_proto::frame::{Decoded, Decoder, Limits as FrameLimits, unpack};
use proptest::prelude::*;

use super::super::random::Random;
use super::super::spool::tests::{Disk, boot, frame};
use super::super::spool::{Limits, Spool};
use super::*;
use crate::source::wall::WallFeed;

const SECOND: u64 = 1_000_000_000;

fn options() -> Options {
    Options {
        node: NodeId::new("edge1").unwrap(),
        boot: boot(1),
        machine: v1::Machine::default(),
        version: "0.1.0".into(),
        takes_curve: false,
        takes_wall: true,
        shuts_down: true,
    }
}

/// A connection as the network and the fleet see it.
struct Line {
    number: u64,
    /// The agent still listens.
    open: bool,
    /// Something was lost on it, and so is all after that.
    broken: bool,
    spool_id: u64,
    decoder: Decoder,
    /// When the last message arrives, in either direction.
    up: u64,
    down: u64,
    /// Frames that came and are not committed yet.
    pending: Vec<(u64, u64, u64)>,
}

#[derive(Clone, Debug)]
enum What {
    Append,
    Agent(Event),
    ToAgent(usize, Event),
    ToFleet(usize, v1::AgentMessage),
    Commit(usize),
    Fault(usize),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The network is down for so many seconds.
    Partition(u64),
    /// All connections end now.
    Break,
    FleetCrash,
    AgentKilled,
    Directive(u32),
}

struct World {
    now: Moment,
    random: Random,
    queue: BTreeMap<(u64, u64), What>,
    queued: u64,
    disk: Disk,
    spool: Spool,
    session: Session,
    starts: u64,
    alarm: Option<u64>,
    down_until: u64,
    lines: Vec<Line>,
    faults: Vec<(u64, Fault)>,
    appended: u64,
    appends_until: u64,
    /// By spool id: the last number that is committed.
    stored: HashMap<u64, u64>,
    delivered: Vec<u64>,
    told: u64,
    notices: Vec<Notice>,
    said: Vec<v1::agent_message::Kind>,
    walls: Vec<Told>,
    /// How often the machine was told to shut down, and what comes of it.
    shut_downs: usize,
    shut_down: Option<Result<String, String>>,
    done: bool,
}

impl World {
    fn new(seed: u64, limits: Limits, faults: Vec<(u64, Fault)>) -> Self {
        let disk = Disk::default();
        let mut world = Self {
            now: Moment { mono: SECOND, boot: SECOND, wall: 1_700_000_000 * SECOND },
            random: Random::new(seed),
            queue: BTreeMap::new(),
            queued: 0,
            spool: Spool::open(Some(Box::new(disk.clone())), limits, boot(1), seed),
            disk,
            session: Session::new(options(), seed),
            starts: 0,
            alarm: None,
            down_until: 0,
            lines: Vec::new(),
            faults,
            appended: 0,
            appends_until: 3600 * SECOND,
            stored: HashMap::new(),
            delivered: Vec::new(),
            told: 0,
            notices: Vec::new(),
            said: Vec::new(),
            walls: Vec::new(),
            shut_downs: 0,
            shut_down: Some(Ok("it does".to_owned())),
            done: false,
        };
        for n in 0..world.faults.len() {
            world.put(world.faults[n].0 * SECOND, What::Fault(n));
        }
        world.put(SECOND, What::Append);
        let position = world.spool.position();
        world.step(Event::Spool(position));
        world
    }

    fn put(&mut self, at: u64, what: What) {
        self.queued += 1;
        self.queue.insert((at.max(self.now.mono), self.queued), what);
    }

    fn later(&mut self, most_ms: u64) -> u64 {
        self.now.mono + self.random.up_to(most_ms) * 1_000_000
    }

    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for command in self.session.step(self.now, event) {
                assert!(!self.done, "{command:?} after the end");
                self.command(command, &mut events);
            }
        }
    }

    fn command(&mut self, command: Command, events: &mut VecDeque<Event>) {
        match command {
            Command::Connect(number) => {
                let at = self.later(300);
                if self.now.mono < self.down_until {
                    let ended = Ended { code: None, text: "unreachable".into() };
                    return self.put(at, What::Agent(Event::Ended(number, ended)));
                }
                self.lines.push(Line {
                    number,
                    open: true,
                    broken: false,
                    spool_id: 0,
                    decoder: Decoder::new(FrameLimits::default()),
                    up: 0,
                    down: 0,
                    pending: Vec::new(),
                });
                self.put(at, What::ToAgent(self.lines.len() - 1, Event::Connected(number)));
            }
            Command::Send(number, message) => {
                let at = self.later(200);
                let line = self.lines.iter().rposition(|l| l.number == number).unwrap();
                self.said.extend(message.kind.clone());
                let at = at.max(self.lines[line].up);
                self.lines[line].up = at;
                self.lines[line].broken |= self.now.mono < self.down_until;
                if self.lines[line].open && !self.lines[line].broken {
                    self.put(at, What::ToFleet(line, *message));
                }
            }
            Command::Disconnect(number) => {
                self.lines.iter_mut().filter(|l| l.number == number).for_each(|l| l.open = false);
            }
            Command::Read { connection, from, frames, bytes } => {
                let batches = self.spool.read(from, frames, bytes);
                events.push_back(Event::Spool(self.spool.position()));
                events.push_back(Event::Frames(connection, batches));
            }
            Command::Release { spool_id, seq } => {
                self.spool.release(spool_id, seq);
                events.push_back(Event::Spool(self.spool.position()));
            }
            Command::Renew => {
                self.spool.renew();
                events.push_back(Event::Spool(self.spool.position()));
            }
            Command::WakeAt(at) => self.alarm = Some(at),
            Command::Flush => {
                self.append();
                events.push_back(Event::Flushed(self.spool.position()));
            }
            Command::Tell(notice) => self.notices.push(notice),
            Command::Done => self.done = true,
            Command::Wall(told) => self.walls.push(told),
            Command::ShutDown(id) => {
                self.shut_downs += 1;
                events.extend(self.shut_down.clone().map(|result| Event::Applied(id, result)));
            }
            Command::Intervals { .. } | Command::Curve(..) => {}
        }
    }

    fn append(&mut self) {
        self.appended += 1;
        self.spool.append(frame(self.appended, self.random.bits() % 1000), self.now);
    }

    fn say(&mut self, line: usize, kind: v1::fleet_message::Kind) {
        let at = self.later(200).max(self.lines[line].down);
        self.lines[line].down = at;
        let number = self.lines[line].number;
        let message = v1::FleetMessage { kind: Some(kind) };
        self.lines[line].broken |= self.now.mono < self.down_until;
        if !self.lines[line].broken {
            self.put(at, What::ToAgent(line, Event::Message(number, message)));
        }
    }

    /// The fleet hears something; it may be from a connection that the agent has given up.
    fn fleet(&mut self, line: usize, message: v1::AgentMessage) {
        use v1::agent_message::Kind;
        match message.kind.unwrap() {
            Kind::Hello(hello) => {
                assert_ne!(hello.spool_id, 0);
                self.lines[line].spool_id = hello.spool_id;
                let acked_seq = self.stored.get(&hello.spool_id).copied().unwrap_or(0);
                let now_ms = self.now.wall / 1_000_000;
                let config = v1::Config { window_frames: 40, ..v1::Config::default() };
                let welcome = v1::Welcome { acked_seq, config: Some(config), now_ms, version: "1".into() };
                self.say(line, v1::fleet_message::Kind::Welcome(welcome));
            }
            Kind::Frames(frames) => {
                let mut decoded = Decoded::default();
                for frame in unpack(frames, 4 << 20).unwrap() {
                    self.lines[line].decoder.decode(&frame, &mut decoded).unwrap();
                    let label = decoded.values[0];
                    let dropped = frame.dropped.as_ref().map_or(0, |d| d.frames);
                    self.lines[line].pending.push((frame.seq, label, dropped));
                }
                assert!(self.lines[line].pending.len() <= 40);
                let at = self.later(500);
                self.put(at, What::Commit(line));
            }
            Kind::Result(_) | Kind::Goodbye(_) => {}
        }
    }

    fn commit(&mut self, line: usize) {
        let id = self.lines[line].spool_id;
        for (seq, label, dropped) in std::mem::take(&mut self.lines[line].pending) {
            let last = self.stored.entry(id).or_insert(0);
            if seq > *last {
                assert!(seq == *last + 1 || dropped > 0, "frame {seq} after {last}, and no word of those between");
                *last = seq;
                self.delivered.push(label);
                self.told += dropped;
            }
        }
        // acks get lost, too
        if self.random.up_to(9) > 0 {
            let seq = self.stored.get(&id).copied().unwrap_or(0);
            self.say(line, v1::fleet_message::Kind::Ack(v1::Ack { seq, ..v1::Ack::default() }));
        }
    }

    fn break_lines(&mut self) {
        for line in 0..self.lines.len() {
            let number = self.lines[line].number;
            self.lines[line].broken = true;
            if self.lines[line].open {
                let at = self.later(100);
                let ended = Ended { code: Some(Code::Unavailable), text: "reset".into() };
                self.put(at, What::ToAgent(line, Event::Ended(number, ended)));
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Partition(seconds) => self.down_until = self.now.mono + seconds * SECOND,
            Fault::Break => self.break_lines(),
            Fault::FleetCrash => {
                self.break_lines();
                self.lines.iter_mut().for_each(|l| l.pending.clear());
                self.queue.retain(|_, what| !matches!(what, What::ToFleet(..) | What::Commit(_)));
            }
            Fault::AgentKilled => {
                self.starts += 1;
                self.lines.iter_mut().for_each(|l| l.open = false);
                // numbers of connections begin anew: the old ones are somebody else's
                self.lines.iter_mut().for_each(|l| l.number = u64::MAX);
                self.queue.retain(|_, what| !matches!(what, What::Agent(_) | What::ToAgent(..)));
                self.alarm = None;
                let seed = self.random.bits();
                self.spool = Spool::open(Some(Box::new(self.disk.clone())), Limits::default(), boot(1), seed);
                self.session = Session::new(options(), seed);
                let position = self.spool.position();
                self.step(Event::Spool(position));
            }
            Fault::Directive(within_ms) => {
                if let Some(line) = self.lines.iter().rposition(|l| l.open && l.spool_id != 0) {
                    let kind = v1::directive::Kind::Reconnect(v1::Reconnect { within_ms });
                    let directive = v1::Directive { id: 7, kind: Some(kind) };
                    self.say(line, v1::fleet_message::Kind::Directive(directive));
                }
            }
        }
    }

    /// Lets time pass until `until` seconds.
    fn run(&mut self, until: u64) {
        let until = until * SECOND;
        loop {
            let next = self.queue.keys().next().copied();
            let alarm = self.alarm.filter(|at| next.is_none_or(|(t, _)| *at < t));
            let at = alarm.or(next.map(|(t, _)| t)).unwrap_or(u64::MAX);
            if at > until {
                self.now = self.now.plus(Duration::from_nanos(until.saturating_sub(self.now.mono)));
                return;
            }
            self.now = self.now.plus(Duration::from_nanos(at.saturating_sub(self.now.mono)));
            if alarm.is_some() {
                self.alarm = None;
                self.step(Event::Tick);
                continue;
            }
            match next.and_then(|key| self.queue.remove(&key)).unwrap() {
                What::Append => {
                    self.append();
                    let position = self.spool.position();
                    self.step(Event::Spool(position));
                    if self.now.mono < self.appends_until {
                        self.put(self.now.mono + 10 * SECOND, What::Append);
                    }
                }
                What::Agent(event) => self.step(event),
                What::ToAgent(line, event) => {
                    if self.lines[line].open {
                        self.step(event);
                    }
                }
                What::ToFleet(line, message) => self.fleet(line, message),
                What::Commit(line) => self.commit(line),
                What::Fault(n) => self.fault(self.faults[n].1),
            }
        }
    }
}

fn faults() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    let fault = prop_oneof![
        3 => (1u64..1500).prop_map(Fault::Partition),
        3 => Just(Fault::Break),
        2 => Just(Fault::FleetCrash),
        2 => Just(Fault::AgentKilled),
        1 => (0u32..60_000).prop_map(Fault::Directive),
    ];
    prop::collection::vec((1u64..3600, fault), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// An hour of frames over a network that breaks: each arrives once, in order, within ten minutes after it is well.
    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(seed in any::<u64>(), faults in faults()) {
        let mut world = World::new(seed, Limits::default(), faults);
        world.run(2 * 3600);
        prop_assert_eq!(world.told, 0);
        prop_assert_eq!(&world.delivered, &(1..=world.appended).collect::<Vec<_>>());
        prop_assert!(world.appended > 360);
        prop_assert_eq!(world.spool.stock().frames, 0);
    }

    /// With a spool that is too small for the worst of it, what is missing is told.
    #[test]
    fn what_a_small_spool_gives_up_is_counted(seed in any::<u64>(), from in 1u64..600, length in 600u64..3000) {
        let small = Limits { bytes: 3000, segment: 700, ..Limits::default() };
        let mut world = World::new(seed, small, vec![(from, Fault::Partition(length))]);
        world.run(2 * 3600);
        prop_assert!(world.told > 0 && world.delivered.is_sorted());
        prop_assert_eq!(world.delivered.len() as u64 + world.told, world.appended);
        // some may have arrived, whose acks were lost
        prop_assert!(world.spool.stock().dropped >= world.told);
    }
}

#[test]
fn a_fleet_that_forgot_everything_is_told_from_here_on() {
    let mut world = World::new(4, Limits { segment: 700, ..Limits::default() }, Vec::new());
    world.run(600);
    assert!(world.delivered.len() > 50);
    world.stored.clear();
    world.delivered.clear();
    world.break_lines();
    world.run(900);
    // it gets what is still in the spool, and is told of the rest
    assert!(world.told > 30);
    assert_eq!(world.delivered, (world.told + 1..=world.appended).collect::<Vec<_>>());
}

#[test]
fn a_machine_that_is_to_be_powered_off_says_all_it_has_and_goodbye() {
    let mut world = World::new(5, Limits::default(), Vec::new());
    world.run(95);
    let kind =
        v1::directive::Kind::PrepareForPowerOff(v1::PrepareForPowerOff { deadline_ms: 1_700_000_200_000, stay: false });
    world.say(0, v1::fleet_message::Kind::Directive(v1::Directive { id: 3, kind: Some(kind) }));
    world.run(99);
    let [.., v1::agent_message::Kind::Frames(_), result, goodbye] = world.said.as_slice() else {
        panic!("{:?}", world.said)
    };
    assert!(matches!(result, v1::agent_message::Kind::Result(r) if r.id == 3 && r.done), "{result:?}");
    assert!(matches!(goodbye, v1::agent_message::Kind::Goodbye(g) if g.reason == "power-off"), "{goodbye:?}");
    assert_eq!(world.delivered.len() as u64, world.appended);
    assert!(world.notices.contains(&Notice::PoweringOff) && !world.session.figures().connected);
    // it stays quiet until the machine should long be off, then goes on where it was
    world.run(250);
    assert_eq!(world.session.figures().reconnects, 0);
    world.run(300);
    assert_eq!(world.session.figures().reconnects, 1);
    assert_eq!(world.delivered.len() as u64, world.appended);
}

fn order(id: u64, kind: v1::directive::Kind) -> v1::fleet_message::Kind {
    v1::fleet_message::Kind::Directive(v1::Directive { id, kind: Some(kind) })
}

fn answers(world: &World) -> Vec<(u64, bool, String)> {
    let result = |said: &v1::agent_message::Kind| match said {
        v1::agent_message::Kind::Result(r) => Some((r.id, r.done, r.text.clone())),
        _ => None,
    };
    world.said.iter().filter_map(result).collect()
}

#[test]
fn an_agent_that_may_shuts_its_machine_down_once_all_is_delivered() {
    use v1::directive::Kind;
    let mut world = World::new(7, Limits::default(), Vec::new());
    world.run(95);
    let deliver = v1::PrepareForPowerOff { deadline_ms: 1_700_000_200_000, stay: true };
    world.say(0, order(3, Kind::PrepareForPowerOff(deliver)));
    world.run(99);
    assert!(world.session.figures().connected && world.shut_downs == 0);
    world.say(0, order(4, Kind::ShutDown(v1::ShutDown { deadline_ms: 1_700_000_200_000 })));
    world.run(103);
    assert_eq!(world.shut_downs, 1);
    assert_eq!(answers(&world).iter().map(|a| (a.0, a.1)).collect::<Vec<_>>(), [(3, true), (4, true)]);
    let last = world.said.last().unwrap();
    assert!(matches!(last, v1::agent_message::Kind::Goodbye(g) if g.reason == "power-off"), "{last:?}");
    assert!(world.notices.contains(&Notice::PoweringOff) && !world.session.figures().connected);
    world.run(600);
    assert!(world.session.figures().connected && world.shut_downs == 1, "it is up, and goes on");
}

#[test]
fn a_machine_that_may_not_or_cannot_be_shut_down_stays_up_and_says_why() {
    use v1::directive::Kind;
    let shut_down = || order(4, Kind::ShutDown(v1::ShutDown { deadline_ms: 1_700_000_130_000 }));
    let mut world = World::new(8, Limits::default(), Vec::new());
    world.session = Session::new(Options { shuts_down: false, ..options() }, 8);
    let position = world.spool.position();
    world.step(Event::Spool(position));
    world.run(95);
    world.say(0, shut_down());
    world.run(99);
    let said = answers(&world);
    assert!(said.len() == 1 && !said[0].1 && said[0].2.contains("fleet-may-shut-down = true"), "{said:?}");
    assert!(world.session.figures().connected && world.shut_downs == 0);

    for result in [Some(Err("no such program".to_owned())), None] {
        let mut world = World::new(9, Limits::default(), Vec::new());
        world.shut_down = result.clone();
        world.run(95);
        world.say(0, shut_down());
        world.run(99);
        let said = answers(&world);
        assert_eq!(said.len(), usize::from(result.is_some()), "{said:?}");
        assert!(said.iter().all(|a| !a.1 && a.2 == "no such program"));
        world.run(400);
        assert!(world.session.figures().connected && world.shut_downs == 1);
        assert!(world.delivered.len() as u64 + 2 > world.appended, "it goes on as before");
    }

    // who can't deliver in time is not shut down later
    let mut world = World::new(10, Limits::default(), Vec::new());
    world.run(95);
    world.say(0, order(4, Kind::ShutDown(v1::ShutDown { deadline_ms: 1_700_000_090_000 })));
    world.run(600);
    let said = answers(&world);
    assert!(said.len() == 1 && !said[0].1 && said[0].2.contains("could not be delivered in time"), "{said:?}");
    assert_eq!(world.shut_downs, 0);
}

#[test]
fn at_its_end_an_agent_says_what_it_has_if_somebody_listens() {
    for (reachable, seconds) in [(true, 3), (false, 0)] {
        let faults = if reachable { Vec::new() } else { vec![(0, Fault::Partition(1000))] };
        let mut world = World::new(6, Limits::default(), faults);
        world.run(95);
        world.step(Event::Stop);
        world.run(95 + seconds);
        assert!(world.done);
        let goodbye =
            world.said.iter().filter(|s| matches!(s, v1::agent_message::Kind::Goodbye(g) if g.reason == "stopped"));
        assert_eq!(goodbye.count(), usize::from(reachable));
        assert_eq!(world.delivered.len() as u64, if reachable { world.appended } else { 0 });
        assert_eq!(world.session.step(world.now, Event::Tick), []);
    }
}

/// How the waits grow, and how often the operator hears of it.
#[test]
fn refusals_are_told_once_and_slow_the_agent_down() {
    let mut waits: HashMap<Option<Code>, Vec<u64>> = HashMap::new();
    for code in [None, Some(Code::Unavailable), Some(Code::PermissionDenied), Some(Code::AlreadyExists)] {
        let mut session = Session::new(options(), 1);
        let mut now = Moment { mono: SECOND, boot: SECOND, wall: 0 };
        let spool = Position { spool_id: 1, first_seq: 1, next_seq: 1, ended: false };
        let mut commands = session.step(now, Event::Spool(spool));
        let mut told = 0;
        for _ in 0..200 {
            let Some(Command::Connect(number)) = commands.first().cloned() else { panic!("{commands:?}") };
            let ended = Ended { code, text: "no".into() };
            commands = session.step(now, Event::Ended(number, ended));
            told += commands.iter().filter(|c| matches!(c, Command::Tell(Notice::Trouble(_)))).count();
            let Some(Command::WakeAt(at)) = commands.last() else { panic!("{commands:?}") };
            waits.entry(code).or_default().push(at - now.mono);
            now.mono = *at;
            commands = session.step(now, Event::Tick);
        }
        assert_eq!(told, 1);
    }
    for (code, longest) in [(None, 60), (Some(Code::PermissionDenied), 300)] {
        let waits = &waits[&code];
        assert!(waits[0] <= if code.is_none() { SECOND / 2 } else { 5 * SECOND });
        let (most, mean) = (waits.iter().max().unwrap(), waits[20..].iter().sum::<u64>() / 180);
        assert!((longest * 9 / 10 * SECOND..=longest * SECOND).contains(most), "{most}");
        assert!((longest * 4 / 10 * SECOND..longest * 6 / 10 * SECOND).contains(&mean), "{mean}");
    }
    assert_eq!(waits[&None], waits[&Some(Code::Unavailable)]);
    assert_eq!(waits[&Some(Code::AlreadyExists)], waits[&Some(Code::PermissionDenied)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Whatever the fleet says and whenever, a session neither panics nor asks for more than its window.
    #[test]
    fn a_fleet_may_say_anything(said in prop::collection::vec((any::<u8>(), any::<u64>(), any::<u32>()), 1..60)) {
        let mut world = World::new(9, Limits::default(), Vec::new());
        for (n, (what, number, small)) in said.into_iter().enumerate() {
            world.run(n as u64 * 7);
            use v1::directive::Kind as D;
            use v1::fleet_message::Kind as K;
            let config = v1::Config {
                node_interval_ms: small,
                workload_interval_ms: small.rotate_left(7),
                window_frames: small % 100,
                max_message_bytes: small.rotate_left(13),
            };
            let directive = |kind| K::Directive(v1::Directive { id: number, kind });
            let kind = match what % 10 {
                0 => K::Welcome(v1::Welcome { acked_seq: number % 50, config: Some(config), now_ms: number, ..Default::default() }),
                1 => K::Ack(v1::Ack { seq: number, refused: small, reason: "\u{1b}[2J".into() }),
                2 => K::Ack(v1::Ack { seq: number % 40, ..Default::default() }),
                3 => directive(Some(D::Intervals(config))),
                4 => directive(Some(D::Reconnect(v1::Reconnect { within_ms: small }))),
                5 => directive(Some(D::PrepareForPowerOff(v1::PrepareForPowerOff { deadline_ms: number, stay: number % 2 == 0 }))),
                6 => directive(Some(D::PowerCurve(v1::PowerCurve { load_uw: vec![number; small as usize % 20], ..Default::default() }))),
                7 => K::Wall(v1::Wall { energy_uj: number, power_uw: number, age_ms: small, error_ppm: small, source: "\u{7}pdu".into() }),
                _ => directive(None),
            };
            let message = v1::FleetMessage { kind: (what < 250).then_some(kind) };
            let number = world.session.connection;
            if let Some(line) = world.lines.iter().position(|l| l.number == number) {
                world.put(world.now.mono, What::ToAgent(line, Event::Message(number, message)));
            }
        }
        world.run(1200);
        prop_assert!(world.walls.iter().all(|told| told.meter == "pdu" && told.error.ppm() <= 1_000_000));
    }

    /// Readings of the machine's input in any order, more than once, over connections that break: who looks at the feed
    /// finds the youngest of those that arrived, and frames go on as if nothing had been said.
    #[test]
    fn the_wall_is_told_beside_the_frames(seed in any::<u64>(), ages in prop::collection::vec(0u64..70, 1..60), faults in faults()) {
        let mut world = World::new(seed, Limits::default(), faults);
        for (n, age) in (4..).zip(&ages) {
            world.run(n * 20);
            let line = world.lines.len() - 1;
            let read_at = n * 20 - age;
            let wall = v1::Wall {
                energy_uj: 1000 * read_at,
                power_uw: 1000,
                age_ms: u32::try_from(age * 1000).unwrap(),
                ..v1::Wall::default()
            };
            if world.lines[line].spool_id != 0 {
                world.say(line, v1::fleet_message::Kind::Wall(wall));
            }
        }
        world.run(2 * 3600);
        let figures = world.session.figures();
        prop_assert_eq!(figures.walls_ignored, 0);
        let feed = WallFeed::default();
        for told in &world.walls {
            feed.tell(told.clone());
            // it was read before it came, and came within a quarter of a second and what others took
            prop_assert!(told.at.mono / SECOND * 1000 >= told.counter.uj() && told.meter == "a meter of the fleet");
        }
        if let Some(youngest) = world.walls.iter().max_by_key(|told| told.at) {
            let found = feed.read(youngest.at).unwrap().told.counter;
            prop_assert_eq!(found, youngest.counter);
        }
        prop_assert_eq!(&world.delivered, &(1..=world.appended).collect::<Vec<_>>());
    }
}
