//! The store against a simple model: steps between samples, added up.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::store::samples::LONGEST_STEP_MS;

/// What happens to the store.
#[derive(Clone, Debug)]
enum Event {
    /// A node tells a frame.
    Frame(Told),
    /// The last frames of a node come again, over a new connection.
    Again { node: usize, frames: usize },
    /// What is ripe is sealed, or everything.
    Seal { all: bool, later_ms: u64 },
    /// The store is closed and opened.
    Restart,
    /// Somebody asks.
    Ask { by: usize, step: usize, node: Option<usize> },
}

#[derive(Clone, Debug)]
struct Told {
    node: usize,
    /// Frames that are lost before it.
    lost: u64,
    /// The machine boots, a new spool begins, or counters fall.
    boots: bool,
    respools: bool,
    falls: bool,
    /// How far the clock moves to the first moment.
    moves_ms: i64,
    steps: Vec<u64>,
    /// By series: whether it is told, from which moment on, and what it grows by.
    series: Vec<Option<(usize, Vec<u32>)>>,
    /// Labels of the workloads change.
    label: u8,
}

const SERIES: usize = 6;
const KINDS: [GroupBy; 9] = [
    GroupBy::Fleet,
    GroupBy::Node,
    GroupBy::Zone,
    GroupBy::Component,
    GroupBy::Namespace,
    GroupBy::Pod,
    GroupBy::Unit,
    GroupBy::App,
    GroupBy::User,
];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let rare = |p: f64| prop::bool::weighted(p);
    let moves = prop_oneof![
        12 => 1i64..3000,
        2 => 3000i64..900_000,
        1 => -100_000i64..=0,
        1 => Just(LONGEST_STEP_MS as i64),
        1 => 3_000_000i64..40_000_000,
    ];
    let series = prop::option::weighted(0.8, (0usize..3, prop::collection::vec(0u32..3_000_000, 6)));
    let told = (
        (0usize..3, prop_oneof![9 => Just(0u64), 1 => 1u64..5], rare(0.04), rare(0.03), rare(0.04), moves),
        prop::collection::vec(prop_oneof![8 => Just(1000u64), 1 => 1u64..20_000, 1 => 100_000u64..800_000], 0..6),
        prop::collection::vec(series, SERIES),
        prop_oneof![9 => Just(0u8), 1 => 0u8..3],
    )
        .prop_map(|((node, lost, boots, respools, falls, moves_ms), steps, series, label)| {
            Event::Frame(Told { node, lost, boots, respools, falls, moves_ms, steps, series, label })
        });
    let event = prop_oneof![
        12 => told,
        1 => (0usize..3, 1usize..4).prop_map(|(node, frames)| Event::Again { node, frames }),
        2 => (rare(0.3), 0u64..300_000).prop_map(|(all, later_ms)| Event::Seal { all, later_ms }),
        1 => Just(Event::Restart),
        3 => (0..KINDS.len(), 0usize..5, prop::option::of(0usize..3))
            .prop_map(|(by, step, node)| Event::Ask { by, step, node }),
    ];
    prop::collection::vec(event, 1..60)
}

/// A node and what it ever told.
struct Machine {
    connection: Connection,
    spool: u64,
    seq: u64,
    boot: u128,
    at: u64,
    counters: [u64; SERIES],
    label: u8,
    told: Vec<Batch>,
    /// Frames that never came.
    lost: u64,
    /// By series: its last sample.
    last: HashMap<usize, (u64, u64, u128)>,
    /// Series, moment and energy of each step that is known.
    steps: Vec<(usize, u64, u64)>,
}

fn series(n: usize, label: u8) -> (Arc<ZoneInfo>, Option<Arc<WorkloadInfo>>) {
    let package = zone("package-0", ZoneKind::Package, true);
    let label = format!("{label}");
    match n {
        0 => (package, None),
        1 => (zone("dram", ZoneKind::Dram, true), None),
        2 => (zone("core", ZoneKind::Core, false), None),
        3 => (package, Some(workload(WorkloadKind::Namespace, "shop", &[]))),
        4 => {
            let labels = [("name", "web-0"), ("namespace", "shop"), ("x", &*label)];
            (package, Some(workload(WorkloadKind::Pod, "uid-1", &labels)))
        }
        _ => (package, Some(workload(WorkloadKind::Unit, "getty@tty1.service", &[("x", &*label)]))),
    }
}

fn names(by: GroupBy, node: &str, n: usize) -> Option<String> {
    let name = match (by, n) {
        (GroupBy::Fleet, 0 | 1) => "fleet",
        (GroupBy::Node, 0 | 1) => node,
        (GroupBy::Zone, 0..=2) => return Some(format!("{node}/{}", ["package-0", "dram", "core"][n])),
        (GroupBy::Component, 0) => "cpu",
        (GroupBy::Component, 1) => "dram",
        (GroupBy::Namespace, 3) => "shop",
        (GroupBy::Pod, 4) => "shop/web-0",
        (GroupBy::App, 4) => "web",
        (GroupBy::App, 5) => "getty.service",
        (GroupBy::Unit, 5) => "getty@tty1.service",
        _ => return None,
    };
    Some(name.to_owned())
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Machine {
    fn new(store: &Store, n: usize) -> Self {
        Self {
            connection: Connection::new(store, NAMES[n], 1),
            spool: 1,
            seq: 0,
            boot: 1,
            at: START,
            counters: [1_000_000_000; SERIES],
            label: 0,
            told: Vec::new(),
            lost: 0,
            last: HashMap::new(),
            steps: Vec::new(),
        }
    }

    fn frame(&mut self, store: &Store, told: &Told) {
        let name = NAMES[told.node];
        if told.boots {
            self.boot += 1;
            self.counters = [0; SERIES];
        }
        if told.respools {
            self.spool += 1;
            self.seq = 0;
            self.told.clear();
            self.connection = Connection::new(store, name, self.spool);
        }
        if told.falls {
            self.counters = self.counters.map(|counter| counter / 2);
        }
        if told.label > 0 {
            self.label = told.label;
        }
        self.seq += 1 + told.lost;
        self.at = self.at.saturating_add_signed(told.moves_ms);
        let mut ticks = vec![self.at];
        for step in &told.steps {
            self.at += step;
            ticks.push(self.at);
        }
        let mut batch = batch(self.seq, self.boot, ticks.clone());
        for (n, grows) in told.series.iter().enumerate() {
            let Some((first, grows)) = grows else { continue };
            let Some(moments) = ticks.get(*first..).filter(|moments| !moments.is_empty()) else { continue };
            let mut values = Vec::new();
            for (at, by) in moments.iter().zip(grows) {
                self.counters[n] += u64::from(*by);
                let value = self.counters[n];
                values.push(value);
                if let Some((before, was, boot)) = self.last.insert(n, (*at, value, self.boot))
                    && boot == self.boot
                    && *at > before
                    && *at - before <= LONGEST_STEP_MS
                    && value >= was
                {
                    self.steps.push((n, *at, value - was));
                }
            }
            let (zone, workload) = series(n, self.label);
            tell(&mut batch, &zone, workload.as_ref(), *first, &values);
        }
        let record = self.connection.record(&batch);
        let committed = store.commit(&[record]).unwrap();
        assert_eq!((committed.outcomes, committed.lost), (vec![Outcome::Accepted], told.lost));
        self.told.push(batch);
        self.lost += told.lost;
    }
}

fn model(machines: &[Machine], only: Option<usize>, by: GroupBy, from: u64, until: u64, step: u64) -> Told2 {
    let mut groups = Told2::new();
    for (n, machine) in machines.iter().enumerate().filter(|(n, _)| only.is_none_or(|only| *n == only)) {
        for (series, at, energy) in machine.steps.iter().filter(|(_, at, _)| (from..until).contains(at)) {
            if let Some(name) = names(by, NAMES[n], *series) {
                *groups.entry((name, (at - from) / step)).or_default() += energy;
            }
        }
    }
    groups.retain(|_, energy| *energy > 0);
    groups
}

/// Energy by group and bucket.
type Told2 = BTreeMap<(String, u64), u64>;

fn check(store: &Store, machines: &[Machine], only: Option<usize>, by: GroupBy, step: u64) {
    // clocks may have been set back since
    let told = machines.iter().flat_map(|m| m.steps.iter().map(|(_, at, _)| *at));
    let now = told.chain(machines.iter().map(|machine| machine.at)).max().unwrap() + 1;
    let first = machines.iter().flat_map(|m| m.steps.iter().map(|(_, at, _)| *at)).min().unwrap_or(START);
    let mut request = ask(by, first - 1234, now, step);
    // seconds are kept for two days, and 11,000 of them are told
    if step > 0 && step <= 60_000 {
        request.from_ms = request.from_ms.max(now.saturating_sub(step * 10_000));
    }
    request.node = only.map(|n| NAMES[n].to_owned()).unwrap_or_default();
    let answer = match store.energy(&request, now) {
        Err(QueryError::NotFound { .. }) => return assert!(machines[only.unwrap()].seq == 0),
        answer => answer.unwrap(),
    };
    assert!(answer.other.is_none());
    let mut found = Told2::new();
    for group in &answer.groups {
        for (bucket, energy) in (0u64..).zip(&group.energy_uj) {
            found.insert((group.name.clone(), bucket), *energy);
            let covered = group.covered_ms[usize::try_from(bucket).unwrap()];
            assert!(covered <= answer.step_ms && (*energy == 0 || covered > 0), "{group:?}");
        }
    }
    found.retain(|_, energy| *energy > 0);
    let until = answer.from_ms + answer.step_ms * u64::from(answer.buckets);
    let want = model(machines, only, by, answer.from_ms, until, answer.step_ms);
    assert_eq!(found, want, "{by:?} of {only:?} each {step}");
}

fn sound(dir: &Path) {
    let report = verify(dir).unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

fn run(events: &[Event]) {
    let dir = scratch();
    let options = Options::default();
    let mut store = Some(Store::open(dir.path(), options.clone()).unwrap());
    let mut machines: Vec<Machine> = (0..3).map(|n| Machine::new(store.as_ref().unwrap(), n)).collect();
    let steps = [0, 1000, 10_000, 60_000, 3_600_000];
    for event in events {
        let open = store.as_ref().unwrap();
        match event {
            Event::Frame(told) => machines[told.node].frame(open, told),
            Event::Again { node, frames } => {
                let machine = &mut machines[*node];
                machine.connection = Connection::new(open, NAMES[*node], machine.spool);
                let from = machine.told.len().saturating_sub(*frames);
                let records: Vec<Record> =
                    machine.told[from..].iter().map(|batch| machine.connection.record(batch)).collect();
                let committed = open.commit(&records).unwrap();
                assert!(committed.outcomes.iter().all(|it| *it == Outcome::Duplicate));
                assert_eq!(machine.connection.stream.acked(), machine.seq);
            }
            Event::Seal { all, later_ms } => {
                let now = machines.iter().map(|machine| machine.at).max().unwrap() + later_ms;
                if *all {
                    open.seal_all(now).unwrap();
                }
                while open.seal(now, 2).unwrap().more {}
            }
            Event::Restart => {
                let told: Vec<u64> = machines.iter().map(|machine| machine.connection.stream.acked()).collect();
                let olds: Vec<Machine> = std::mem::take(&mut machines);
                drop(store.take());
                // connections hold the store
                let parts: Vec<_> = olds
                    .into_iter()
                    .map(|m| (m.spool, m.seq, m.boot, m.at, m.counters, m.label, m.told, m.lost, m.last, m.steps))
                    .collect();
                let open = Store::open(dir.path(), options.clone()).unwrap();
                for (n, (spool, seq, boot, at, counters, label, told, lost, last, steps)) in
                    parts.into_iter().enumerate()
                {
                    let connection = Connection::new(&open, NAMES[n], spool);
                    machines.push(Machine {
                        connection,
                        spool,
                        seq,
                        boot,
                        at,
                        counters,
                        label,
                        told,
                        lost,
                        last,
                        steps,
                    });
                }
                assert_eq!(told, machines.iter().map(|m| m.connection.stream.acked()).collect::<Vec<_>>());
                store = Some(open);
            }
            Event::Ask { by, step, node } => check(open, &machines, *node, KINDS[*by], steps[*step]),
        }
    }
    for sealed in [false, true] {
        let open = store.as_ref().unwrap();
        if sealed {
            open.seal_all(START).unwrap();
        }
        sound(dir.path());
        let lost = machines.iter().map(|machine| machine.lost).sum::<u64>();
        assert_eq!(open.stats().unwrap().lost, lost);
        for by in KINDS {
            for step in steps {
                check(open, &machines, None, by, step);
            }
        }
        check(open, &machines, Some(0), GroupBy::Component, 60_000);
    }
}

proptest! {
    // a case is a store with all that happens to it; PROPTEST_CASES asks for more
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").map_or(8, |cases| cases.parse().unwrap()),
        ..ProptestConfig::default()
    })]
    #[test]
    fn energy_is_the_sum_of_known_steps(events in events()) {
        run(&events);
    }
}
