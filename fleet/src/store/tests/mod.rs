//! Whatever nodes tell, and however it is kept, energy adds up.

mod bench;
mod crash;
mod model;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use ebbtide_proto::frame::{Batch, Column, Decoded, Decoder, Encoder, Limits};
use ebbtide_proto::series::{Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::v1::{self, GroupBy, QueryEnergyRequest};
use ebbtide_proto::{NodeId, Ratio, WorkloadId, WorkloadKind, ZoneId};

use super::*;
use crate::query::QueryError;

/// A Tuesday, 23:30 UTC: what is told soon after is of two days.
pub(super) const START: u64 = 1_700_004_600_000;

/// A folder in memory, where there is such a thing: what the disk does is not what is tested.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(super) fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

pub(super) fn zone(name: &str, kind: ZoneKind, counts: bool) -> Arc<ZoneInfo> {
    Arc::new(ZoneInfo {
        id: ZoneId::new(&format!("rapl/{name}")).unwrap(),
        name: name.into(),
        kind,
        socket: None,
        source: "powercap".into(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counts,
    })
}

pub(super) fn workload(kind: WorkloadKind, name: &str, labels: &[(&str, &str)]) -> Arc<WorkloadInfo> {
    let labels = labels.iter().copied().collect();
    Arc::new(WorkloadInfo { id: WorkloadId::new(kind, name).unwrap(), labels })
}

/// A batch to which series are added.
pub(super) fn batch(seq: u64, boot: u128, ticks: Vec<u64>) -> Batch {
    let boot = format!("00000000-0000-0000-0000-{boot:012x}").parse().unwrap();
    Batch { seq, boot: Some(boot), ticks, ..Batch::default() }
}

/// Adds a series of energy with values from the `first` moment on.
pub(super) fn tell(
    batch: &mut Batch,
    zone: &Arc<ZoneInfo>,
    workload: Option<&Arc<WorkloadInfo>>,
    first: usize,
    values: &[u64],
) {
    if !batch.zones.iter().any(|known| known.id == zone.id) {
        batch.zones.push(Arc::clone(zone));
    }
    if let Some(workload) = workload
        && !batch.workloads.iter().any(|known| known.id == workload.id)
    {
        batch.workloads.push(Arc::clone(workload));
    }
    let small = |n: usize| u32::try_from(n).unwrap();
    batch.columns.push(Column { series: small(batch.series.len()), first: small(first), len: small(values.len()) });
    batch.series.push(SeriesKey {
        metric: Metric::Energy,
        zone: Some(zone.id.clone()),
        workload: workload.map(|it| it.id.clone()),
    });
    batch.values.extend_from_slice(values);
}

/// An agent's connection, all of it in this process.
pub(super) struct Connection {
    encoder: Encoder,
    decoder: Decoder,
    decoded: Decoded,
    pub(super) stream: Stream,
}

impl Connection {
    pub(super) fn new(store: &Store, name: &str, spool: u64) -> Self {
        Self {
            encoder: Encoder::new(),
            decoder: Decoder::new(Limits::default()),
            decoded: Decoded::default(),
            stream: store.stream(&node(name), spool).unwrap(),
        }
    }

    pub(super) fn record(&mut self, batch: &Batch) -> Record {
        self.decoder.decode(&self.encoder.encode(batch), &mut self.decoded).unwrap();
        self.stream.record(&self.decoder, &self.decoded)
    }
}

pub(super) fn ask(by: GroupBy, from: u64, until: u64, step: u64) -> QueryEnergyRequest {
    let (from_ms, until_ms, step_ms) = (from, until, step);
    QueryEnergyRequest { from_ms, until_ms, step_ms, by: by.into(), limit: 1000, ..QueryEnergyRequest::default() }
}

/// Totals by group.
pub(super) fn totals(store: &Store, request: &QueryEnergyRequest, now: u64) -> BTreeMap<String, u64> {
    let answer = store.energy(request, now).unwrap();
    assert!(answer.groups.iter().all(|g| g.total_uj == g.energy_uj.iter().sum::<u64>()));
    answer.groups.into_iter().map(|group| (group.name, group.total_uj)).collect()
}

#[test]
fn what_is_committed_is_told_before_and_after_sealing_and_over_a_restart() {
    let dir = scratch();
    let package = zone("package-0", ZoneKind::Package, true);
    let core = zone("core", ZoneKind::Core, false);
    let pod = workload(WorkloadKind::Pod, "uid-1", &[("name", "web-7d4b9c6f5d-x2x7k"), ("namespace", "shop")]);
    let shop = workload(WorkloadKind::Namespace, "shop", &[]);
    let mut store = Store::open(dir.path(), Options::default()).unwrap();
    assert!(matches!(Store::open(dir.path(), Options::default()), Err(StoreError::Locked { .. })));
    let mut connection = Connection::new(&store, "a", 9);
    let mut records = Vec::new();
    // 45 minutes in frames of 10 s, 1 W and the half of it in the pod: over midnight
    for seq in 1..=270 {
        let ticks: Vec<u64> = (0..10).map(|n| START + (seq - 1) * 10_000 + n * 1000).collect();
        let values: Vec<u64> = ticks.iter().map(|at| 5_000_000 + (at - START) * 1000).collect();
        let mut batch = batch(seq, 1, ticks);
        tell(&mut batch, &package, None, 0, &values);
        tell(&mut batch, &core, None, 0, &values);
        let half: Vec<u64> = values.iter().map(|value| value / 2).collect();
        tell(&mut batch, &package, Some(&pod), 0, &half);
        tell(&mut batch, &package, Some(&shop), 9, &half[9..]);
        records.push(connection.record(&batch));
    }
    let committed = store.commit(&records).unwrap();
    assert_eq!(committed.samples, 270 * 31);
    assert_eq!(connection.stream.acked(), 270);
    assert_eq!(store.commit(&records).unwrap().outcomes, vec![Outcome::Duplicate; 270]);
    let end = START + 2_700_000;
    for round in 0..4 {
        match round {
            1 => assert_eq!(store.seal(end, 10).unwrap().nodes, 1),
            2 => assert_eq!(store.seal_all(end).unwrap().nodes, 1),
            3 => {
                drop(connection);
                drop(store);
                store = Store::open(dir.path(), Options::default()).unwrap();
                connection = Connection::new(&store, "a", 9);
                assert_eq!(connection.stream.acked(), 270);
            }
            _ => {}
        }
        for step in [0, 1000, 10_000, 60_000, 3_600_000] {
            let all = |by| totals(&store, &ask(by, START, end, step), end);
            let package = 2_699_000_000;
            assert_eq!(all(GroupBy::Fleet), [("fleet".to_owned(), package)].into(), "{round} {step}");
            assert_eq!(all(GroupBy::Node), [("a".to_owned(), package)].into());
            assert_eq!(all(GroupBy::Component), [("cpu".to_owned(), package)].into());
            assert_eq!(
                all(GroupBy::Zone),
                [("a/core".to_owned(), package), ("a/package-0".to_owned(), package)].into()
            );
            assert_eq!(all(GroupBy::Pod), [("shop/web-7d4b9c6f5d-x2x7k".to_owned(), package / 2)].into());
            assert_eq!(all(GroupBy::App), [("web".to_owned(), package / 2)].into());
            // its first value is at the end of the first frame
            assert_eq!(all(GroupBy::Namespace), [("shop".to_owned(), package / 2 - 4_500_000)].into());
        }
        let request = QueryEnergyRequest { node: "a".into(), ..ask(GroupBy::Node, START, end, 60_000) };
        let answer = store.energy(&request, end).unwrap();
        assert_eq!((answer.buckets, answer.step_ms), (45, 60_000));
        assert_eq!(answer.groups[0].energy_uj, [vec![59_000_000], vec![60_000_000; 44]].concat(), "{round}");
        assert_eq!(answer.groups[0].covered_ms, [vec![59_000], vec![60_000; 44]].concat());
    }
    let error = store.energy(&QueryEnergyRequest { node: "b".into(), ..ask(GroupBy::Node, 1, 2, 0) }, end).unwrap_err();
    assert!(matches!(error, QueryError::NotFound { .. }));
}

/// One node with a series, for as many frames of ten minutes in minutes.
fn some_hours(store: &Store, name: &str, frames: u64) {
    let package = zone("package-0", ZoneKind::Package, true);
    let mut connection = Connection::new(store, name, 1);
    let mut records = Vec::new();
    for seq in 1..=frames {
        let ticks: Vec<u64> = (0..10).map(|n| START + ((seq - 1) * 10 + n) * 60_000).collect();
        let values: Vec<u64> = ticks.iter().map(|at| (at - START) * 10).collect();
        let mut batch = batch(seq, 1, ticks);
        tell(&mut batch, &package, None, 0, &values);
        records.push(connection.record(&batch));
    }
    store.commit(records).unwrap();
}

#[test]
fn a_backup_is_the_store_as_it_was() {
    let dir = scratch();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let store = Store::open(&data, Options::default()).unwrap();
    some_hours(&store, "a", 30);
    store.seal(START, 10).unwrap();
    some_hours(&store, "b", 5);
    let now = START + 20 * HOUR;
    let request = ask(GroupBy::Node, START, now, 60_000);
    let was = store.energy(&request, now).unwrap();
    assert_eq!(was.groups.len(), 2);
    let report = store.backup(&copy).unwrap();
    assert!(report.is_clean() && report.frames > 0 && report.blocks > 0, "{report:?}");
    assert!(store.backup(&copy).is_err());
    some_hours(&store, "c", 5);
    let copied = Store::open(&copy, Options::default()).unwrap();
    assert_eq!(copied.energy(&request, now).unwrap(), was);
    // a flipped bit is found
    drop(copied);
    let day = std::fs::read_dir(copy.join("day")).unwrap().next().unwrap().unwrap().path();
    let db = rusqlite::Connection::open(day).unwrap();
    let flip = "UPDATE raw SET body = cast(substr(body, 1, length(body) - 1) || x'ff' AS BLOB) WHERE id = 1";
    assert_eq!(db.execute(flip, []).unwrap(), 1);
    drop(db);
    let report = verify(&copy).unwrap();
    assert!(report.problems > 0 && report.details[0].contains("check sum"), "{report:?}");
}

const HOUR: u64 = 60 * 60_000;

#[test]
fn what_is_old_goes_and_energy_by_the_hour_stays() {
    let dir = scratch();
    let retention = Retention { raw_ms: 24 * HOUR, tens_ms: 48 * HOUR, minutes_ms: 72 * HOUR, hours_ms: 240 * HOUR };
    let store = Store::open(dir.path(), Options { retention }).unwrap();
    some_hours(&store, "a", 300);
    store.seal_all(START).unwrap();
    let all = || ask(GroupBy::Node, START, START + 50 * HOUR, 6 * HOUR);
    let total = BTreeMap::from([("a".to_owned(), 2999 * 600_000)]);
    let table = |day: &str, what: &str| -> i64 {
        let db = rusqlite::Connection::open(dir.path().join("day").join(format!("{day}.db"))).unwrap();
        db.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
    };
    // the days end half an hour, 24.5 and 48.5 hours after the start, and later
    for (hours, raw, tens, minutes) in
        [(20, true, true, true), (26, false, true, true), (50, false, false, true), (74, false, false, false)]
    {
        let now = START + hours * HOUR;
        store.retain(now).unwrap();
        assert_eq!(store.retain(now).unwrap(), Retained::default());
        assert_eq!(table("2023-11-14", "raw") > 0, raw, "{hours}");
        assert_eq!(table("2023-11-14", "tens") > 0, tens, "{hours}");
        assert_eq!(table("2023-11-14", "minutes WHERE body IS NOT NULL") > 0, minutes, "{hours}");
        assert_eq!(table("2023-11-14", "sums WHERE body IS NOT NULL") > 0, minutes, "{hours}");
        assert_eq!(totals(&store, &all(), now), total, "{hours}");
        let one = QueryEnergyRequest { node: "a".into(), ..all() };
        assert_eq!(totals(&store, &one, now), total, "{hours}");
        assert!(verify(dir.path()).unwrap().is_clean());
    }
    let now = START + 241 * HOUR;
    assert_eq!(store.retain(now).unwrap(), Retained { removed: 1, thinned: 3 });
    assert_eq!(totals(&store, &all(), now), [("a".to_owned(), 2999 * 600_000 - 29 * 600_000)].into());
}

#[test]
fn an_export_has_each_sample_once() {
    let dir = scratch();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    some_hours(&store, "a", 12);
    store.seal(START, 10).unwrap();
    let mut export = Export { from_ms: START, until_ms: START + 90 * 60_000, node: None, resolution: Resolution::Raw };
    let mut text = Vec::new();
    assert_eq!(store.export(&export, &mut text).unwrap(), 90);
    let text = String::from_utf8(text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "time_ms,node,metric,zone,workload,value,covered_ms");
    for (n, line) in (0u64..).zip(&lines[1..]) {
        assert_eq!(*line, format!("{},a,energy_uj,rapl/package-0,,{},", START + n * 60_000, n * 600_000));
    }
    export.resolution = Resolution::Minute;
    let mut text = Vec::new();
    assert_eq!(store.export(&export, &mut text).unwrap(), 89);
    assert!(String::from_utf8(text).unwrap().ends_with(",600000,60000\n"));
    export.node = Some(node("nobody"));
    assert!(matches!(store.export(&export, &mut Vec::new()), Err(ExportError::Query(_))));
}

#[test]
fn a_node_with_ever_new_workloads_stays_small() {
    let dir = scratch();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let package = zone("package-0", ZoneKind::Package, true);
    let mut connection = Connection::new(&store, "a", 1);
    // 8 new workloads each ten minutes, each for an hour
    for seq in 1..=120u64 {
        let ticks: Vec<u64> = (0..10).map(|n| START + ((seq - 1) * 10 + n) * 60_000).collect();
        let mut batch = batch(seq, 1, ticks.clone());
        tell(&mut batch, &package, None, 0, &ticks);
        for n in 8 * seq.saturating_sub(5)..8 * (seq + 1) {
            tell(&mut batch, &package, Some(&workload(WorkloadKind::Unit, &format!("run-{n}.scope"), &[])), 0, &ticks);
        }
        let record = connection.record(&batch);
        store.commit([record]).unwrap();
        if seq % 3 == 0 {
            store.seal(START, 10).unwrap();
        }
    }
    let series = store.stats().unwrap().series;
    assert!((48..500).contains(&series), "{series}");
    assert!(verify(dir.path()).unwrap().is_clean());
    let end = START + 1200 * 60_000;
    let units = totals(&store, &QueryEnergyRequest { limit: 10_000, ..ask(GroupBy::Unit, START, end, 0) }, end);
    assert_eq!(units.len(), 8 * 121);
    assert_eq!(units["run-400.scope"], 59 * 60_000);
}

#[test]
fn a_series_under_two_numbers_is_told_once() {
    let dir = scratch();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let mut connection = Connection::new(&store, "a", 1);
    let zone = zone("package-0", ZoneKind::Package, true);
    let series = |number| v1::Series { r#ref: number, metric: v1::Metric::Energy.into(), zone: 1, workload: 0 };
    let mut frame = v1::Frame {
        seq: 1,
        zones: vec![v1::Zone { r#ref: 1, ..v1::Zone::from(&*zone) }],
        series: vec![series(1), series(2)],
        first_ms: START,
        steps_ms: vec![1000],
        columns: vec![1, 1],
        values: vec![0, 5, 100, 7],
        ..v1::Frame::default()
    };
    for seq in 1..=3 {
        frame.seq = seq;
        frame.first_ms = START + seq * 2000;
        connection.decoder.decode(&frame, &mut connection.decoded).unwrap();
        let record = connection.stream.record(&connection.decoder, &connection.decoded);
        store.commit([record]).unwrap();
        (frame.zones, frame.series, frame.values) = (Vec::new(), Vec::new(), vec![1, 1, 10, 20]);
    }
    for _ in 0..2 {
        let now = START + 60_000;
        assert_eq!(totals(&store, &ask(GroupBy::Node, START, now, 0), now)["a"], 7 + 2 * 30);
        store.seal_all(START).unwrap();
        assert!(verify(dir.path()).unwrap().is_clean());
    }
}

#[test]
fn a_number_that_is_given_to_another_series_is_that_series() {
    let dir = scratch();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let mut connection = Connection::new(&store, "a", 1);
    let zones = [zone("package-0", ZoneKind::Package, true), zone("dram-0", ZoneKind::Dram, true)];
    let wire = |number: u32| v1::Zone { r#ref: number, ..v1::Zone::from(&*zones[number as usize - 1]) };
    let series = |number, zone| v1::Series { r#ref: number, metric: v1::Metric::Energy.into(), zone, workload: 0 };
    let first = v1::Frame {
        seq: 1,
        zones: vec![wire(1), wire(2)],
        series: vec![series(1, 1)],
        first_ms: START,
        columns: vec![1],
        values: vec![100],
        ..v1::Frame::default()
    };
    // number 1 is given to another series without a word, and what had it comes back as number 2
    let second = v1::Frame {
        seq: 2,
        series: vec![series(1, 2), series(2, 1)],
        first_ms: START + 1000,
        steps_ms: vec![1000],
        columns: vec![1, 1],
        values: vec![500, 7, 150, 1],
        ..v1::Frame::default()
    };
    for frame in [first, second] {
        connection.decoder.decode(&frame, &mut connection.decoded).unwrap();
        let record = connection.stream.record(&connection.decoder, &connection.decoded);
        store.commit([record]).unwrap();
    }
    let now = START + 60_000;
    let found = totals(&store, &ask(GroupBy::Zone, START, now, 0), now);
    assert_eq!((found["a/package-0"], found["a/dram-0"]), (51, 7));
}

#[test]
fn what_is_known_of_a_series_adds_up_over_changes_of_its_description() {
    let dir = scratch();
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let mut connection = Connection::new(&store, "a", 9);
    // 90 minutes in frames of 10 s; each says something else of how far off the zone may be
    let frames = (1..=540).map(|seq| {
        let ticks: Vec<u64> = (0..10).map(|n| START + (seq - 1) * 10_000 + n * 1000).collect();
        let values: Vec<u64> = ticks.iter().map(|at| 5_000_000 + (at - START) * 1000).collect();
        let error = Ratio::from_ppm(20_000 + u32::try_from(seq).unwrap());
        let package = Arc::new(ZoneInfo { error, ..(*zone("package-0", ZoneKind::Package, true)).clone() });
        let mut batch = batch(seq, 1, ticks);
        tell(&mut batch, &package, None, 0, &values);
        connection.record(&batch)
    });
    store.commit(frames.collect::<Vec<_>>()).unwrap();
    let end = START + 5_400_000;
    for round in ["fresh", "some in days", "all in days"] {
        match round {
            "fresh" => {}
            "some in days" => drop(store.seal(end, 10).unwrap()),
            _ => drop(store.seal_all(end).unwrap()),
        }
        for by in [GroupBy::Fleet, GroupBy::Node, GroupBy::Component, GroupBy::Zone] {
            for (step, whole) in [(60_000, 89), (1_800_000, 2), (0, 0)] {
                let answer = store.energy(&ask(by, START, end, step), end).unwrap();
                let group = &answer.groups[0];
                let first = if whole == 0 { 5_399_000 } else { step - 1000 };
                let known: Vec<u64> = std::iter::once(first).chain(std::iter::repeat_n(step, whole)).collect();
                assert_eq!(group.covered_ms, known, "{round}, {by:?} each {step}");
                assert_eq!(group.total_uj, 5_399_000_000);
            }
        }
    }
}
