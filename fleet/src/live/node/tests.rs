//! Figures of a node against frames that were told of it.

use std::collections::BTreeMap;

use ebbtide_proto::frame::{Batch, Column, Encoder, Limits};
use ebbtide_proto::series::{Labels, Quality, SeriesKey, ZoneKind};
use ebbtide_proto::{Ratio, ZoneId};

use super::*;

const NOON: u64 = 1_780_012_800_000 / DAY_MS * DAY_MS + DAY_MS / 2;

/// A zone, and namespaces with so many microjoules each, at some moments.
fn batch(seq: u64, ticks: &[u64], zone_uj: &[u64], namespaces: &[(&str, u64)]) -> Batch {
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
    let mut batch = Batch { seq, ticks: ticks.to_vec(), zones: vec![Arc::clone(&zone)], ..Batch::default() };
    let len = u32::try_from(ticks.len()).unwrap();
    let add = |batch: &mut Batch, workload: Option<WorkloadId>, values: &[u64]| {
        let series = u32::try_from(batch.series.len()).unwrap();
        let len = u32::try_from(values.len()).unwrap();
        batch.columns.push(Column { series, first: u32::try_from(ticks.len()).unwrap() - len, len });
        batch.series.push(SeriesKey { metric: Metric::Energy, zone: Some(zone.id.clone()), workload });
        batch.values.extend(values);
    };
    assert_eq!(len as usize, zone_uj.len());
    add(&mut batch, None, zone_uj);
    for (name, uj) in namespaces {
        let id = WorkloadId::new(WorkloadKind::Namespace, name).unwrap();
        batch.workloads.push(Arc::new(WorkloadInfo { id: id.clone(), labels: Labels::default() }));
        add(&mut batch, Some(id), &[*uj]);
    }
    batch
}

struct Wire {
    encoder: Encoder,
    decoder: Decoder,
    decoded: Decoded,
    numbers: Rejoined,
}

impl Wire {
    fn new() -> Self {
        Self {
            encoder: Encoder::new(),
            decoder: Decoder::new(Limits::default()),
            decoded: Decoded::default(),
            numbers: Rejoined::default(),
        }
    }

    fn tell(&mut self, node: &mut NodeLive, batch: &Batch) {
        self.decoder.decode(&self.encoder.encode(batch), &mut self.decoded).unwrap();
        node.take(9, &self.decoder, &self.decoded, &mut self.numbers);
    }
}

fn namespaces(node: &NodeLive) -> Vec<(String, u64)> {
    let mut all: Vec<_> = node.namespaces().map(|(name, uj)| (name.to_owned(), uj)).collect();
    all.sort();
    all
}

#[test]
fn power_is_that_of_the_last_interval_and_energy_that_of_the_day() {
    let (mut wire, mut node) = (Wire::new(), NodeLive::default());
    wire.tell(&mut node, &batch(1, &[NOON, NOON + 1000], &[100, 5_000_100], &[("a", 7)]));
    let (zone, figures) = &node.zones()[0];
    assert_eq!((&*zone.name, figures.power_uw, figures.energy_uj), ("package-0", Some(5_000_000), 5_000_100));
    assert_eq!(node.workloads()[0].1.power_uw, None, "one value alone is no power");
    wire.tell(&mut node, &batch(2, &[NOON + 2000, NOON + 3000], &[6_000_100, 9_000_100], &[("a", 2_000_007)]));
    assert_eq!(node.zones()[0].1.power_uw, Some(3_000_000));
    assert_eq!(node.workloads()[0].1.power_uw, Some(1_000_000), "over the two seconds between its values");
    assert_eq!(node.today(NOON + 3000), (9_000_000, 0));
    assert_eq!(namespaces(&node), [("a".to_owned(), 2_000_000)]);
    // the same frame again, over another connection
    let mut again = Wire::new();
    again.tell(&mut node, &batch(2, &[NOON + 2000, NOON + 3000], &[6_000_100, 9_000_100], &[("a", 2_000_007)]));
    assert_eq!(node.today(NOON + 3000), (9_000_000, 0));
    // ten minutes of silence: what was used meanwhile is not known
    let later = NOON + 600_000;
    again.tell(&mut node, &batch(3, &[later], &[99_000_100], &[("a", 50_000_007)]));
    assert_eq!(node.zones()[0].1.power_uw, None);
    assert_eq!(node.today(later), (9_000_000, 597_000));
    assert_eq!(namespaces(&node), [("a".to_owned(), 2_000_000)]);
    // a new day begins at zero
    let tomorrow = NOON / DAY_MS * DAY_MS + DAY_MS;
    assert_eq!(node.today(tomorrow), (0, 0));
}

#[test]
fn who_comes_back_after_being_forgotten_is_itself_again() {
    let (mut wire, mut node) = (Wire::new(), NodeLive::default());
    let at = |minute: u64| NOON + minute * 60_000;
    wire.tell(&mut node, &batch(1, &[at(0)], &[0], &[("old", 10), ("other", 20)]));
    // minutes without `old`: its place is given to `new`, while the connection still has its number
    for minute in 1..6 {
        wire.tell(&mut node, &batch(minute + 1, &[at(minute)], &[minute], &[("other", 20 + minute), ("new", 30)]));
    }
    assert_eq!(node.workload_count(), 2);
    wire.tell(&mut node, &batch(7, &[at(6)], &[7], &[("old", 11), ("other", 99), ("new", 1030)]));
    let figures: BTreeMap<_, _> =
        node.workloads().into_iter().map(|(info, f)| (info.id.name().to_owned(), f.energy_uj)).collect();
    let want = [("old", 11), ("other", 99), ("new", 1030)].map(|(n, uj)| (n.to_owned(), uj));
    assert_eq!(figures, want.into());
}
