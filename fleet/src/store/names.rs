//! What series are of, as bytes, and back. Pure.
//!
//! Frames and blocks name series by numbers that the store gives, one after the other, per node and never twice. A
//! chunk of names says what some of those numbers stand for and needs no other chunk to be read.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use ebbtide_proto::series::{Metric, Quality, WorkloadInfo, ZoneInfo, ZoneKind};
use ebbtide_proto::{Ratio, WorkloadId, WorkloadKind, ZoneId};

use super::codec::{Damaged, Reader, put_text, put_varint};

/// The most series in one chunk.
const MAX_SERIES: usize = 1 << 20;

/// What a series counts, with all that is known of what it is of. A zone or workload that is described anew makes new
/// series: what was told before keeps its old description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// What is counted.
    pub metric: Metric,
    /// Of which zone.
    pub zone: Option<Arc<ZoneInfo>>,
    /// Of which workload; none: the node itself.
    pub workload: Option<Arc<WorkloadInfo>>,
}

/// A number's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What it stands for.
    pub definition: Definition,
    /// The number of the same series before it was described anew: counters go on from there.
    pub from: Option<u32>,
}

/// Series of one node by number.
pub type Names = BTreeMap<u32, Named>;

impl Definition {
    /// A figure for the series whatever is said of it, and one that changes with what is said.
    pub(super) fn fingerprints(&self, by: &impl BuildHasher) -> (u64, u32) {
        let mut identity = by.build_hasher();
        self.metric.hash(&mut identity);
        self.zone.as_ref().map(|zone| &zone.id).hash(&mut identity);
        self.workload.as_ref().map(|workload| &workload.id).hash(&mut identity);
        let mut whole = by.build_hasher();
        identity.finish().hash(&mut whole);
        if let Some(zone) = &self.zone {
            (&zone.name, zone.kind, zone.socket, &zone.source, zone.quality, zone.error, zone.counts).hash(&mut whole);
        }
        if let Some(workload) = &self.workload {
            workload.labels.hash(&mut whole);
        }
        // the upper half is as good as all of it: it is only compared with another of the same series
        (identity.finish(), u32::try_from(whole.finish() >> 32).unwrap_or(0))
    }
}

/// The series that this one goes on from, in any number of steps; itself if it is the first that is known.
pub(super) fn first_of(series: u32, names: &Names) -> u32 {
    // a series goes on from one with a lower number, so this ends
    let before = |series: &u32| names.get(series)?.from.filter(|from| from < series && names.contains_key(from));
    std::iter::successors(Some(series), before).last().unwrap_or(series)
}

/// A chunk that names these series, in ascending order.
pub fn put_chunk<'a>(series: impl Iterator<Item = (u32, &'a Named)>, to: &mut Vec<u8>) {
    let (mut zones, mut workloads) = (Table::default(), Table::default());
    let mut rows = Vec::new();
    let (mut count, mut before) = (0u64, 0u32);
    for (number, named) in series {
        put_varint(&mut rows, u64::from(number.wrapping_sub(before)));
        before = number;
        count += 1;
        rows.push(metric_code(named.definition.metric));
        let zone = named.definition.zone.as_ref();
        put_varint(&mut rows, zone.map_or(0, |zone| zones.number(zone, |to| put_zone(zone, to))));
        let workload = named.definition.workload.as_ref();
        put_varint(&mut rows, workload.map_or(0, |it| workloads.number(it, |to| put_workload(it, to))));
        put_varint(&mut rows, named.from.map_or(0, |from| u64::from(from) + 1));
    }
    for table in [&zones, &workloads] {
        put_varint(to, table.numbers.len() as u64);
        to.extend_from_slice(&table.bytes);
    }
    put_varint(to, count);
    to.extend_from_slice(&rows);
}

/// Adds what a chunk says.
pub fn read_chunk(bytes: &[u8], names: &mut Names) -> Result<(), Damaged> {
    let mut from = Reader::new(bytes);
    let mut zones = Vec::new();
    for _ in 0..from.count(bytes.len())? {
        zones.push(Arc::new(read_zone(&mut from)?));
    }
    let mut workloads = Vec::new();
    for _ in 0..from.count(bytes.len())? {
        workloads.push(Arc::new(read_workload(&mut from)?));
    }
    let mut number = 0u32;
    for _ in 0..from.count(MAX_SERIES)? {
        number = number.wrapping_add(from.u32()?);
        let metric = metric_of(from.byte()?)?;
        let zone = pick(&zones, from.varint()?)?;
        let workload = pick(&workloads, from.varint()?)?;
        let before = from.varint()?.checked_sub(1).and_then(|n| u32::try_from(n).ok());
        names.insert(number, Named { definition: Definition { metric, zone, workload }, from: before });
    }
    if from.is_empty() { Ok(()) } else { Err(Damaged("names go on after their end")) }
}

fn pick<T>(table: &[Arc<T>], number: u64) -> Result<Option<Arc<T>>, Damaged> {
    let Some(index) = number.checked_sub(1) else { return Ok(None) };
    let found = usize::try_from(index).ok().and_then(|index| table.get(index));
    found.map(|it| Some(Arc::clone(it))).ok_or(Damaged("a name is missing"))
}

/// Descriptions, each once.
#[derive(Default)]
struct Table {
    numbers: HashMap<Vec<u8>, u64>,
    seen: HashMap<usize, u64>,
    bytes: Vec<u8>,
}

impl Table {
    /// The number, from 1, of `it`.
    fn number<T>(&mut self, it: &Arc<T>, put: impl Fn(&mut Vec<u8>)) -> u64 {
        // the same allocation is the same description
        let place = Arc::as_ptr(it).cast::<()>().addr();
        if let Some(number) = self.seen.get(&place) {
            return *number;
        }
        let mut description = Vec::new();
        put(&mut description);
        let next = self.numbers.len() as u64 + 1;
        let number = match self.numbers.get(&description) {
            Some(number) => *number,
            None => {
                self.bytes.extend_from_slice(&description);
                self.numbers.insert(description, next);
                next
            }
        };
        self.seen.insert(place, number);
        number
    }
}

fn put_zone(zone: &ZoneInfo, to: &mut Vec<u8>) {
    put_text(to, zone.id.as_str());
    put_text(to, &zone.name);
    to.push(zone_kind_code(zone.kind));
    put_varint(to, zone.socket.map_or(0, |socket| u64::from(socket) + 1));
    put_text(to, &zone.source);
    to.push(quality_code(zone.quality));
    put_varint(to, u64::from(zone.error.ppm()));
    to.push(u8::from(zone.counts));
}

fn read_zone(from: &mut Reader<'_>) -> Result<ZoneInfo, Damaged> {
    let id = ZoneId::new(from.text()?).map_err(|_| Damaged("a zone's id is none"))?;
    let name = from.text()?.into();
    let kind = ZONE_KINDS.get(usize::from(from.byte()?)).copied().ok_or(Damaged("a zone's kind is not known"))?;
    let socket = from.varint()?.checked_sub(1).and_then(|socket| u32::try_from(socket).ok());
    let source = from.text()?.into();
    let quality = quality_of(from.byte()?)?;
    let error = Ratio::from_ppm(from.u32()?);
    Ok(ZoneInfo { id, name, kind, socket, source, quality, error, counts: from.byte()? != 0 })
}

fn put_workload(workload: &WorkloadInfo, to: &mut Vec<u8>) {
    let kind = WorkloadKind::ALL.iter().position(|kind| *kind == workload.id.kind()).unwrap_or(0);
    put_varint(to, kind as u64);
    put_text(to, workload.id.name());
    put_varint(to, workload.labels.len() as u64);
    for (name, text) in workload.labels.iter() {
        put_text(to, name);
        put_text(to, text);
    }
}

fn read_workload(from: &mut Reader<'_>) -> Result<WorkloadInfo, Damaged> {
    let kind = from.count(WorkloadKind::ALL.len())?;
    let kind = WorkloadKind::ALL.get(kind).ok_or(Damaged("a workload's kind is not known"))?;
    let id = WorkloadId::new(*kind, from.text()?).map_err(|_| Damaged("a workload's name is none"))?;
    let mut labels = Vec::new();
    for _ in 0..from.count(64)? {
        labels.push((from.text()?, from.text()?));
    }
    Ok(WorkloadInfo { id, labels: labels.into_iter().collect() })
}

/// The order is that of the files: it only grows.
const ZONE_KINDS: [ZoneKind; 9] = [
    ZoneKind::Psys,
    ZoneKind::Package,
    ZoneKind::Core,
    ZoneKind::Uncore,
    ZoneKind::Dram,
    ZoneKind::Gpu,
    ZoneKind::Board,
    ZoneKind::Wall,
    ZoneKind::Other,
];

const fn zone_kind_code(kind: ZoneKind) -> u8 {
    match kind {
        ZoneKind::Psys => 0,
        ZoneKind::Package => 1,
        ZoneKind::Core => 2,
        ZoneKind::Uncore => 3,
        ZoneKind::Dram => 4,
        ZoneKind::Gpu => 5,
        ZoneKind::Board => 6,
        ZoneKind::Wall => 7,
        ZoneKind::Other => 8,
    }
}

/// A quality in the store's files.
pub(super) const fn quality_code(quality: Quality) -> u8 {
    match quality {
        Quality::Measured => 0,
        Quality::Scaled => 1,
        Quality::Modelled => 2,
        Quality::Stale => 3,
    }
}

/// What [`quality_code`] stands for.
pub(super) const fn quality_of(code: u8) -> Result<Quality, Damaged> {
    match code {
        0 => Ok(Quality::Measured),
        1 => Ok(Quality::Scaled),
        2 => Ok(Quality::Modelled),
        3 => Ok(Quality::Stale),
        _ => Err(Damaged("a quality is not known")),
    }
}

const fn metric_code(metric: Metric) -> u8 {
    match metric {
        Metric::Energy => 1,
        Metric::IdleEnergy => 2,
        Metric::CpuTime => 3,
        Metric::Residual => 4,
        Metric::Gaps => 5,
        Metric::Unallocated => 6,
    }
}

const fn metric_of(code: u8) -> Result<Metric, Damaged> {
    match code {
        1 => Ok(Metric::Energy),
        2 => Ok(Metric::IdleEnergy),
        3 => Ok(Metric::CpuTime),
        4 => Ok(Metric::Residual),
        5 => Ok(Metric::Gaps),
        6 => Ok(Metric::Unallocated),
        _ => Err(Damaged("a metric is not known")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn definitions() -> impl Strategy<Value = Names> {
        let labels = prop::collection::vec(("[a-z]{1,4}", "[a-z0-9-]{0,8}"), 0..3);
        let zone = prop::option::of((0usize..9, 0u8..4, prop::option::of(0u32..3), any::<bool>()));
        let workload = prop::option::of((0usize..9, "[a-z]{1,6}", labels));
        let named = (0usize..6, zone, workload, prop::option::of(any::<u32>()));
        prop::collection::btree_map(any::<u32>(), named, 0..20).prop_map(|all| {
            let name = |(metric, zone, workload, from): (usize, Option<_>, Option<_>, _)| Named {
                definition: Definition {
                    metric: Metric::ALL[metric],
                    zone: zone.map(|(kind, quality, socket, counts): (usize, u8, _, _)| {
                        Arc::new(ZoneInfo {
                            id: ZoneId::new(&format!("rapl/{kind}")).unwrap(),
                            name: "n".into(),
                            kind: ZONE_KINDS[kind],
                            socket,
                            source: "powercap".into(),
                            quality: quality_of(quality).unwrap(),
                            error: Ratio::from_ppm(7),
                            counts,
                        })
                    }),
                    workload: workload.map(|(kind, name, labels): (usize, String, Vec<(String, String)>)| {
                        let id = WorkloadId::new(WorkloadKind::ALL[kind], &name).unwrap();
                        Arc::new(WorkloadInfo { id, labels: labels.into_iter().collect() })
                    }),
                },
                from,
            };
            all.into_iter().map(|(number, it)| (number, name(it))).collect()
        })
    }

    proptest! {
        #[test]
        fn names_round_trip(names in definitions()) {
            let mut bytes = Vec::new();
            put_chunk(names.iter().map(|(number, named)| (*number, named)), &mut bytes);
            let mut back = Names::new();
            read_chunk(&bytes, &mut back).unwrap();
            prop_assert_eq!(back, names);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut names = Names::new();
            if read_chunk(&bytes, &mut names).is_ok() {
                prop_assert!(names.len() <= bytes.len());
            }
        }
    }
}
