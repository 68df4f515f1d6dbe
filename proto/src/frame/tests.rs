//! Whatever is encoded is decoded; whatever else comes is refused.

use proptest::prelude::*;
use prost::Message as _;

use super::*;
use crate::series::{Quality, ZoneKind};
use crate::{Ratio, WorkloadKind};

fn zone(n: u8) -> Arc<ZoneInfo> {
    Arc::new(ZoneInfo {
        id: ZoneId::new(&format!("rapl/package-{n}")).unwrap(),
        name: format!("package-{n}").into(),
        kind: ZoneKind::Package,
        socket: Some(u32::from(n)),
        source: "powercap".into(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counts: true,
    })
}

fn workload(n: u8, label: u8) -> Arc<WorkloadInfo> {
    let id = WorkloadId::new(WorkloadKind::Unit, &format!("svc-{n}.service")).unwrap();
    Arc::new(WorkloadInfo { id, labels: [("unit", format!("{label}"))].into_iter().collect() })
}

/// A made-up sample: some workloads, each with values at some moments.
fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let column = (0u8..12, 0u8..2, 0u32..5, 1u32..6, any::<[u64; 5]>(), 0u8..2);
    let batch = (any::<u32>(), prop::collection::vec(1u32..5000, 4), prop::collection::vec(column, 0..10), 0u128..3);
    prop::collection::vec(batch, 1..60).prop_map(|all| {
        let mut out = Vec::new();
        for (seq, (start, steps, columns, boot)) in all.into_iter().enumerate() {
            let mut ticks = vec![1_700_000_000_000 + u64::from(start)];
            for step in steps {
                ticks.push(ticks.last().unwrap() + u64::from(step));
            }
            let boot = format!("00000000-0000-0000-0000-00000000000{boot}").parse().unwrap();
            let mut batch = Batch { seq: seq as u64 + 1, boot: Some(boot), ticks, ..Batch::default() };
            for (w, z, first, len, values, label) in columns {
                let key = SeriesKey {
                    metric: if z == 0 { Metric::Energy } else { Metric::IdleEnergy },
                    zone: Some(zone(z).id.clone()),
                    workload: (w > 0).then(|| workload(w, 0).id.clone()),
                };
                if batch.series.contains(&key) {
                    continue;
                }
                batch.zones.extend((!batch.zones.contains(&zone(z))).then(|| zone(z)));
                if w > 0 && !batch.workloads.iter().any(|known| known.id == workload(w, 0).id) {
                    batch.workloads.push(workload(w, label));
                }
                let len = len.min(5 - first);
                batch.columns.push(Column { series: number(batch.series.len()) - 1, first, len });
                batch.series.push(key);
                batch.values.extend(&values[..len as usize]);
            }
            out.push(batch);
        }
        out
    })
}

type Value = (String, u64, u64);

/// What a batch says, without the order in which it says it.
fn told(batch: &Batch) -> Vec<Value> {
    let mut values = batch.values.iter();
    let mut all = Vec::new();
    for column in &batch.columns {
        for i in 0..column.len {
            let tick = batch.ticks[(column.first + i) as usize];
            all.push((batch.series[column.series as usize].to_string(), tick, *values.next().unwrap()));
        }
    }
    all.sort();
    all
}

fn over_the_wire(frame: v1::Frame) -> v1::Frame {
    let mut frames = unpack(pack(vec![frame], 1), 1 << 20).unwrap();
    assert_eq!(frames.len(), 1);
    frames.pop().unwrap()
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(batches in batches()) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new(Limits::default()));
        let mut decoded = Decoded::default();
        for batch in &batches {
            decoder.decode(&over_the_wire(encoder.encode(batch)), &mut decoded).unwrap();
            let back = decoder.batch(&decoded);
            prop_assert_eq!((back.seq, back.boot, &back.ticks), (batch.seq, batch.boot, &batch.ticks));
            prop_assert_eq!(told(&back), told(batch));
            for workload in &batch.workloads {
                prop_assert!(back.workloads.contains(workload), "{:?} in {:?}", workload, back.workloads);
            }
        }
    }

    #[test]
    fn no_bytes_panic_or_are_believed_to_be_large(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        use v1::frame_batch::Body;
        for body in [Body::Zstd(bytes.clone()), Body::Plain(v1::Frames::decode(bytes.as_slice()).unwrap_or_default())] {
            let Ok(frames) = unpack(v1::FrameBatch { body: Some(body) }, 1 << 16) else { continue };
            let mut decoder = Decoder::new(Limits { series: 10, names: 10, ticks: 10, values: 10, bytes: 1 << 16 });
            let mut decoded = Decoded::default();
            for frame in &frames {
                if decoder.decode(frame, &mut decoded).is_err() {
                    break;
                }
                prop_assert!(decoded.values.len() <= 10 && decoded.ticks.len() <= 10);
                prop_assert!(decoded.ticks.is_sorted());
            }
        }
    }
}

fn plain() -> v1::Frame {
    v1::Frame {
        seq: 1,
        zones: vec![v1::Zone { r#ref: 1, ..v1::Zone::from(&*zone(0)) }],
        series: vec![v1::Series { r#ref: 1, metric: v1::Metric::Energy.into(), zone: 1, workload: 0 }],
        first_ms: 1000,
        steps_ms: vec![1000],
        columns: vec![1],
        values: vec![5, 6],
        ..v1::Frame::default()
    }
}

#[test]
fn frames_that_contradict_themselves_are_refused() {
    type Spoil = fn(&mut v1::Frame);
    let cases: [(&str, Spoil); 14] = [
        ("its number is 0", |f| f.seq = 0),
        ("boot id", |f| f.boot_id = "now".into()),
        ("it has no first moment", |f| f.first_ms = 0),
        ("its moments don't rise", |f| f.steps_ms = vec![0]),
        ("its moments don't rise", |f| f.first_ms = u64::MAX),
        ("columns don't ascend", |f| f.columns = vec![0]),
        ("a series that was not defined", |f| f.columns = vec![2]),
        ("values are missing", |f| f.values = vec![1]),
        ("more values than columns", |f| f.values = vec![1, 2, 3]),
        ("spans and columns", |f| f.spans = vec![0]),
        ("more values than there are moments", |f| f.spans = vec![1, 2]),
        ("defined as number 0", |f| f.series[0].r#ref = 0),
        ("zone is missing", |f| f.series[0].zone = 9),
        ("numbers are left out", |f| f.series[0].r#ref = 40_000),
    ];
    let mut decoded = Decoded::default();
    assert_eq!(Decoder::new(Limits::default()).decode(&plain(), &mut decoded), Ok(()));
    for (says, spoil) in cases {
        let mut frame = plain();
        spoil(&mut frame);
        let error = Decoder::new(Limits::default()).decode(&frame, &mut decoded).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn a_message_that_swells_is_refused() {
    let swollen = zstd::bulk::compress(&vec![0; 10 << 20], 19).unwrap();
    assert!(swollen.len() < 10_000);
    let batch = v1::FrameBatch { body: Some(v1::frame_batch::Body::Zstd(swollen)) };
    assert_eq!(unpack(batch, 1 << 20), Err(FrameError::Compression { max: 1 << 20 }));
}

#[test]
fn who_is_not_heard_of_any_more_makes_room() {
    let mut encoder = Encoder::new();
    let mut decoder = Decoder::new(Limits { series: 60, names: 60, ..Limits::default() });
    let mut decoded = Decoded::default();
    let mut forgotten = 0;
    for n in 0..200u8 {
        let it = workload(n, 0);
        let batch = Batch {
            seq: u64::from(n) + 1,
            ticks: vec![1000 + u64::from(n)],
            series: vec![SeriesKey { metric: Metric::CpuTime, zone: None, workload: Some(it.id.clone()) }],
            workloads: vec![it],
            columns: vec![Column { series: 0, first: 0, len: 1 }],
            values: vec![u64::from(n)],
            ..Batch::default()
        };
        decoder.decode(&encoder.encode(&batch), &mut decoded).unwrap();
        assert_eq!(decoder.batch(&decoded).workloads, batch.workloads);
        forgotten += decoded.forgotten.len();
    }
    assert!(forgotten >= 160, "{forgotten}");
}
