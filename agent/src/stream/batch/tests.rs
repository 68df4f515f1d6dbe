//! Whatever a machine does, frames say it, and say nothing else.

use std::collections::BTreeMap;

use ebbtide_proto::frame::{Decoded, Decoder, Encoder, Limits};
use ebbtide_proto::{NodeId, Power, Ratio, ZoneId};
use proptest::prelude::*;

use super::*;
use crate::attribution::IdlePolicy;
use crate::clock::Moment;
use crate::ledger::ZoneAccount;
use crate::snapshot::{NodeInfo, Rows};
use crate::source::{CounterShape, Quality, SourceKind, ZoneKind};

fn zone(name: &str, role: Role) -> (Arc<Zone>, Role) {
    let zone = Zone {
        id: ZoneId::new(&format!("powercap/{name}")).unwrap(),
        name: name.to_owned(),
        kind: ZoneKind::Package,
        parent: None,
        socket: Some(0),
        source: SourceKind::Powercap,
        path: String::new(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counter: CounterShape { range: None, max_power: Power::from_uw(1_000_000) },
        idle: None,
    };
    (Arc::new(zone), role)
}

/// What a made-up machine does in one second.
#[derive(Clone, Debug)]
struct Second {
    silent: [bool; 3],
    joules: [u64; 3],
    /// Workloads that run, by bit.
    run: u8,
    late_ms: u64,
    wall_step_ms: i64,
}

fn seconds() -> impl Strategy<Value = Vec<Second>> {
    let mostly = |p: f64| prop::bool::weighted(p);
    let second = (
        [mostly(0.05), mostly(0.05), mostly(0.05)],
        [0u64..100, 0u64..100, 0u64..100],
        any::<u8>(),
        prop_oneof![9 => 0u64..100, 1 => 0u64..90_000],
        prop_oneof![20 => Just(0i64), 1 => -20_000i64..20_000],
    );
    prop::collection::vec(second, 1..120).prop_map(|all| {
        let second =
            |(silent, joules, run, late_ms, wall_step_ms)| Second { silent, joules, run, late_ms, wall_step_ms };
        all.into_iter().map(second).collect()
    })
}

/// The machine: three zones of which one is a part, and eight workloads.
struct Machine {
    zones: [(Arc<Zone>, Role); 3],
    node: Arc<NodeInfo>,
    at: Moment,
    snapshot: Snapshot,
    /// By workload: its CPU time, energy by zone, and the samples since its end.
    workloads: BTreeMap<u8, (u64, [u64; 3], Option<u32>)>,
}

impl Machine {
    fn new() -> Self {
        let node = Arc::new(NodeInfo {
            name: NodeId::new("edge1").unwrap(),
            boot: "0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().ok(),
            cpu_model: String::new(),
            cpus: 4,
            sockets: 1,
            idle_policy: IdlePolicy::Unallocated,
        });
        Self {
            zones: [zone("package-0", Role::Total), zone("dram", Role::Total), zone("core", Role::Part)],
            snapshot: Snapshot::empty(Arc::clone(&node)),
            node,
            at: Moment { mono: 5_000_000_000, boot: 5_000_000_000, wall: 1_700_000_000_000_000_000 },
            workloads: BTreeMap::new(),
        }
    }

    fn pass(&mut self, second: &Second) -> Arc<Snapshot> {
        let dt = Duration::from_millis(1000 + second.late_ms);
        self.at = self.at.plus(dt);
        self.at.wall = self.at.wall.saturating_add_signed(second.wall_step_ms * 1_000_000);
        let before = std::mem::replace(&mut self.snapshot, Snapshot::empty(Arc::clone(&self.node)));
        let s = &mut self.snapshot;
        (s.seq, s.at, s.dt) = (before.seq + 1, self.at, dt);
        s.busy_ns = before.busy_ns + 1_000_000;
        for (z, (zone, role)) in self.zones.iter().enumerate() {
            let mut account = before.zones.get(z).map_or_else(ZoneAccount::default, |view| view.account.clone());
            if !second.silent[z] {
                account.total += Energy::from_uj(second.joules[z]);
                account.residual += Energy::from_uj(second.joules[z] / 7);
            }
            let state = if second.silent[z] { ZoneState::Stale } else { ZoneState::Live };
            s.zones.push(ZoneView { zone: Arc::clone(zone), role: *role, state, account, power: None, floor: None });
        }
        for w in 0..8u8 {
            if second.run & 1 << w != 0 {
                let entry = self.workloads.entry(w).or_insert((0, [0; 3], None));
                entry.0 += 1_000;
                entry.1.iter_mut().zip(second.joules).for_each(|(e, j)| *e += j);
                entry.2 = None;
            } else if let Some(entry) = self.workloads.get_mut(&w) {
                *entry.2.get_or_insert(0) += 1;
            }
        }
        s.groups = Rows::new(3);
        // rows of what ended are there once, as with the shortest retention
        for (w, (cpu_ns, energy, ended)) in self.workloads.iter().filter(|(_, w)| w.2.is_none_or(|n| n < 2)) {
            let row = GroupRow {
                id: WorkloadId::new(WorkloadKind::Unit, &format!("svc-{w}.service")).unwrap(),
                labels: Arc::new(vec![("name", "a\u{7}b".repeat(100))]),
                ended: ended.is_some(),
                tasks: 1,
                cpu_ns: *cpu_ns,
                cpu_last_ns: 0,
                rendered: Arc::default(),
            };
            let energy = energy.map(Energy::from_uj);
            s.groups.push(row, &energy, &[Energy::ZERO; 3], &energy);
        }
        Arc::new(self.snapshot.clone())
    }
}

/// Values by series and moment.
type Told = BTreeMap<(String, u64), u64>;

fn told(batch: &Batch, to: &mut Told) {
    let mut values = batch.values.iter();
    for column in &batch.columns {
        for tick in &batch.ticks[column.first as usize..][..column.len as usize] {
            let key = (batch.series[column.series as usize].to_string(), *tick);
            assert_eq!(to.insert(key, *values.next().unwrap()), None, "told twice");
        }
    }
}

proptest! {
    /// What is told is what was so at that moment; moments rise; the end of a workload is told, once; and a reader
    /// takes all of it.
    #[test]
    fn frames_say_what_was_so(seconds in seconds()) {
        let mut machine = Machine::new();
        let mut batcher = Batcher::new(Options::default());
        let (mut encoder, mut decoder, mut decoded) = (Encoder::new(), Decoder::new(Limits::default()), Decoded::default());
        let mut snapshots: Vec<Arc<Snapshot>> = Vec::new();
        let mut batches = Vec::new();
        for second in &seconds {
            let snapshot = machine.pass(second);
            batches.extend(batcher.take(&snapshot));
            snapshots.push(snapshot);
        }
        batches.extend(batcher.flush());
        prop_assert_eq!(batcher.flush(), None);

        let (mut all, mut moments, mut samples) = (Told::new(), 0, snapshots.iter());
        for (n, batch) in batches.iter_mut().enumerate() {
            batch.seq = n as u64 + 1;
            decoder.decode(&encoder.encode(batch), &mut decoded).unwrap();
            prop_assert_eq!(&decoded.ticks, &batch.ticks);
            prop_assert_eq!(decoded.values.len(), batch.values.len());
            told(batch, &mut all);
            for tick in &batch.ticks {
                prop_assert!(*tick > moments);
                moments = *tick;
                // at this interval each sample is a moment
                let sample = samples.next().unwrap();
                for view in &sample.zones {
                    let found = all.get(&(format!("node {} Energy", view.zone.id), *tick)).copied();
                    let want = (view.state == ZoneState::Live).then_some(view.account.total.uj());
                    prop_assert_eq!(found, want, "{} at {}", view.zone.id, tick);
                }
                prop_assert_eq!(all[&("node CpuTime".to_owned(), *tick)], sample.busy_ns);
            }
        }
        prop_assert!(samples.next().is_none());

        // figures of these workloads grow at each sample of their lives: the same again is their end, told once
        for w in 0..8u8 {
            let series = format!("unit/svc-{w}.service CpuTime");
            let values: Vec<u64> = all.range((series.clone(), 0)..=(series, u64::MAX)).map(|(_, v)| *v).collect();
            prop_assert!(values.is_sorted() && values.windows(3).all(|v| v[0] < v[2]), "{:?}", values);
            let name = format!("svc-{w}.service");
            let rows = |s: &Snapshot| s.groups.rows.iter().find(|r| r.id.name() == name).map(|r| (r.cpu_ns, r.ended));
            for (n, sample) in snapshots.iter().enumerate() {
                let Some((last, true)) = rows(sample) else { continue };
                let again = snapshots[n..].iter().filter_map(|s| rows(s)).find(|(_, ended)| !ended);
                if again.is_none_or(|_| snapshots[n..].iter().take(12).all(|s| rows(s).is_none_or(|(_, ended)| ended))) {
                    prop_assert!(values.contains(&last), "{}: {} of {:?}", name, last, values);
                }
            }
            if let Some((now, false)) = rows(snapshots.last().unwrap()) {
                prop_assert_eq!(values.last().copied(), Some(now));
            }
        }
    }
}

#[test]
fn frames_are_as_long_as_the_interval_and_only_zones_that_count_are_shared_out() {
    let mut machine = Machine::new();
    let mut batcher = Batcher::new(Options::default());
    let second = Second { silent: [false; 3], joules: [10, 20, 5], run: 3, late_ms: 0, wall_step_ms: 0 };
    let batches: Vec<Batch> = (0..35).filter_map(|_| batcher.take(&machine.pass(&second))).collect();
    // the first frame has to begin somewhere
    assert_eq!(batches.iter().map(|b| b.ticks.len()).collect::<Vec<_>>(), [1, 10, 10, 10]);
    let workload =
        |b: &Batch| b.series.iter().filter(|s| s.workload.is_some()).map(ToString::to_string).collect::<Vec<_>>();
    let each = ["CpuTime", "powercap/dram Energy", "powercap/package-0 Energy"];
    let want: Vec<String> = (0..2).flat_map(|w| each.map(|s| format!("unit/svc-{w}.service {s}"))).collect();
    let mut found = workload(&batches[3]);
    found.sort();
    assert_eq!(found, want);
    assert!(batches[3].workloads[0].labels.iter().next().unwrap().1.len() <= 253);

    batcher.set_intervals(Duration::from_secs(5), Duration::from_secs(30));
    let batches: Vec<Batch> = (0..95).filter_map(|_| batcher.take(&machine.pass(&second))).collect();
    assert_eq!(batches.last().unwrap().ticks.len(), 6);
}

#[test]
fn an_expected_error_that_moves_a_little_makes_no_new_series() {
    let mut machine = Machine::new();
    let mut batcher = Batcher::new(Options::default());
    let second = Second { silent: [false; 3], joules: [1; 3], run: 0, late_ms: 0, wall_step_ms: 0 };
    let mut told = |ppm: u32| {
        let mut zone = (*machine.zones[0].0).clone();
        zone.error = Ratio::from_ppm(ppm);
        machine.zones[0].0 = Arc::new(zone);
        batcher.note_zones(&machine.pass(&second));
        let (known, info) = &batcher.zones[0];
        assert_eq!(known.error.ppm(), ppm, "the zone itself is followed");
        info.error.ppm()
    };
    let steps = [20_000, 20_500, 23_900, 16_100, 25_000, 24_000, 500_000];
    assert_eq!(steps.map(&mut told), [20_000, 20_000, 20_000, 20_000, 25_000, 25_000, 500_000]);
}
