//! Whatever nodes tell, and however it is kept, energy adds up.

mod model;

use std::collections::BTreeMap;
use std::sync::Arc;

use ebbtide_proto::frame::{Batch, Column, Decoded, Decoder, Encoder, Limits};
use ebbtide_proto::series::{Metric, Quality, SeriesKey, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::v1::{GroupBy, QueryEnergyRequest};
use ebbtide_proto::{NodeId, Ratio, WorkloadId, WorkloadKind, ZoneId};

use super::*;
use crate::query::QueryError;

/// A Tuesday, 23:30 UTC: what is told soon after is of two days.
pub(super) const START: u64 = 1_700_004_600_000;

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
    let mut labels: Vec<_> = labels.iter().map(|(n, t)| (Arc::from(*n), Arc::from(*t))).collect();
    labels.sort();
    Arc::new(WorkloadInfo { id: WorkloadId::new(kind, name).unwrap(), labels: labels.into() })
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
    let dir = tempfile::tempdir().unwrap();
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
