//! Frames: counters at some moments, as differences.
//!
//! An [`Encoder`] and a [`Decoder`] know what was defined and told before in the same stream, be it a connection or a
//! file. Both begin with nothing, so a stream can be read from its beginning without anything else. Pure; whatever
//! the bytes are, a decoder answers with an error and holds no more than its [`Limits`] allow.

mod message;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use self::message::{pack, unpack};
use crate::convert::WireError;
use crate::series::{Metric, SeriesKey, WorkloadInfo, ZoneInfo};
use crate::{BootId, WorkloadId, ZoneId, v1};

/// A series that has had no value in so many frames is forgotten.
const FORGET_AFTER: u64 = 32;

/// How much a stream may make a decoder hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series at a time; their numbers may not be larger.
    pub series: usize,
    /// Workloads, and zones, at a time; their numbers may not be larger.
    pub names: usize,
    /// Moments in a frame.
    pub ticks: usize,
    /// Values in a frame.
    pub values: usize,
    /// Bytes of one message after decompression.
    pub bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { series: 50_000, names: 20_000, ticks: 3600, values: 500_000, bytes: 4 << 20 }
    }
}

/// Why a frame can't be used. The stream it came from can't be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A definition is wrong.
    #[error("frame {seq}: {source}")]
    Definition {
        /// Of which frame.
        seq: u64,
        /// What is wrong.
        source: WireError,
    },
    /// Numbers, moments and values don't fit each other.
    #[error("frame {seq}: {what}")]
    Shape {
        /// Of which frame.
        seq: u64,
        /// What doesn't.
        what: &'static str,
    },
    /// More than the limits allow.
    #[error("frame {seq}: {found} {what}, more than the {max} that are allowed")]
    TooMuch {
        /// Of which frame.
        seq: u64,
        /// Of what.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much may be.
        max: usize,
    },
    /// Not zstd, or larger than it says.
    #[error("a message can't be decompressed to at most {max} bytes")]
    Compression {
        /// How much it may be.
        max: usize,
    },
    /// Not protobuf.
    #[error("a message is no protobuf: {0}")]
    Protobuf(String),
}

/// Values of one series at moments in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Of which series: an index of [`Batch::series`], or the number in a [`Decoder`].
    pub series: u32,
    /// Index of the first moment.
    pub first: u32,
    /// How many moments.
    pub len: u32,
}

/// Counters at some moments, with all that a reader needs to know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Number within the spool.
    pub seq: u64,
    /// The boot in which it was measured.
    pub boot: Option<BootId>,
    /// The moments, in milliseconds since 1970; they rise.
    pub ticks: Vec<u64>,
    /// Zones that [`Self::series`] names.
    pub zones: Vec<Arc<ZoneInfo>>,
    /// Workloads that [`Self::series`] names.
    pub workloads: Vec<Arc<WorkloadInfo>>,
    /// What is counted.
    pub series: Vec<SeriesKey>,
    /// Which of them has values when; each series at most once.
    pub columns: Vec<Column>,
    /// The values, column by column.
    pub values: Vec<u64>,
    /// What had to be given up before.
    pub dropped: Option<v1::Dropped>,
}

#[derive(Debug)]
struct Told {
    number: u32,
    last: u64,
    used: u64,
}

/// Turns batches into frames of one stream.
#[derive(Debug, Default)]
pub struct Encoder {
    boot: Option<BootId>,
    zones: HashMap<ZoneId, (u32, Arc<ZoneInfo>)>,
    workloads: HashMap<WorkloadId, (u32, Arc<WorkloadInfo>, u64)>,
    series: HashMap<SeriesKey, Told>,
    free_series: Vec<u32>,
    free_workloads: Vec<u32>,
    frames: u64,
}

impl Encoder {
    /// At the beginning of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next frame of the stream. Series of zones or workloads that the batch doesn't describe are left out.
    pub fn encode(&mut self, batch: &Batch) -> v1::Frame {
        self.frames += 1;
        let mut frame = v1::Frame { seq: batch.seq, dropped: batch.dropped.clone(), ..v1::Frame::default() };
        if let Some(boot) = batch.boot.filter(|_| batch.boot != self.boot) {
            frame.boot_id = boot.to_string();
            self.boot = batch.boot;
        }
        if let (Some(first), Some(rest)) = (batch.ticks.first(), batch.ticks.get(1..)) {
            frame.first_ms = *first;
            let step = |(a, b): (&u64, &u64)| u32::try_from(b.saturating_sub(*a)).unwrap_or(u32::MAX);
            frame.steps_ms = batch.ticks.iter().zip(rest).map(step).collect();
        }
        self.forget_old(&mut frame);
        self.name(batch, &mut frame);
        let mut columns = self.number(batch, &mut frame);
        columns.sort_unstable_by_key(|(number, ..)| *number);
        let whole = u32::try_from(batch.ticks.len()).unwrap_or(u32::MAX);
        let spans = columns.iter().any(|(_, column, _)| column.first != 0 || column.len != whole);
        let mut before = 0;
        for (number, column, at) in columns {
            let (Some(key), Some(values)) = (
                batch.series.get(column.series as usize),
                batch.values.get(at..).and_then(|rest| rest.get(..column.len as usize)),
            ) else {
                continue;
            };
            let Some(told) = self.series.get_mut(key) else { continue };
            frame.columns.push(number - before);
            before = number;
            if spans {
                frame.spans.extend([column.first, column.len]);
            }
            for &value in values {
                frame.values.push(value.wrapping_sub(told.last).cast_signed());
                told.last = value;
            }
        }
        frame
    }

    /// Series and workloads that nobody has told of for long make room for others.
    fn forget_old(&mut self, frame: &mut v1::Frame) {
        let Some(old) = self.frames.checked_sub(FORGET_AFTER) else { return };
        let free = &mut self.free_series;
        self.series.retain(|_, told| {
            let keep = told.used > old;
            if !keep {
                frame.forget.push(told.number);
                free.push(told.number);
            }
            keep
        });
        let free = &mut self.free_workloads;
        self.workloads.retain(|_, (number, _, used)| {
            let keep = *used > old;
            if !keep {
                free.push(*number);
            }
            keep
        });
    }

    /// Describes the zones and workloads of `batch` that are new or have changed.
    fn name(&mut self, batch: &Batch, frame: &mut v1::Frame) {
        for zone in &batch.zones {
            let next = number(self.zones.len());
            let (number, known) = self.zones.entry(zone.id.clone()).or_insert_with(|| (next, Arc::clone(zone)));
            let new = *number == next;
            if new || **known != **zone {
                *known = Arc::clone(zone);
                frame.zones.push(v1::Zone { r#ref: *number, ..v1::Zone::from(&**zone) });
            }
        }
        for workload in &batch.workloads {
            if let Some((number, known, used)) = self.workloads.get_mut(&workload.id) {
                *used = self.frames;
                if !Arc::ptr_eq(known, workload) && **known != **workload {
                    *known = Arc::clone(workload);
                    frame.workloads.push(v1::Workload { r#ref: *number, ..v1::Workload::from(&**workload) });
                }
                continue;
            }
            let number = self.free_workloads.pop().unwrap_or_else(|| number(self.workloads.len()));
            self.workloads.insert(workload.id.clone(), (number, Arc::clone(workload), self.frames));
            frame.workloads.push(v1::Workload { r#ref: number, ..v1::Workload::from(&**workload) });
        }
    }

    /// Gives a number to each series with values; each with its column and where its values begin.
    fn number(&mut self, batch: &Batch, frame: &mut v1::Frame) -> Vec<(u32, Column, usize)> {
        let mut columns = Vec::with_capacity(batch.columns.len());
        let mut at = 0;
        for column in &batch.columns {
            let begins = at;
            at += column.len as usize;
            let Some(key) = batch.series.get(column.series as usize) else { continue };
            if let Some(told) = self.series.get_mut(key) {
                told.used = self.frames;
                columns.push((told.number, *column, begins));
                continue;
            }
            let zone = match &key.zone {
                Some(id) => self.zones.get(id).map(|(number, _)| *number),
                None => Some(0),
            };
            let workload = match &key.workload {
                Some(id) => self.workloads.get(id).map(|(number, ..)| *number),
                None => Some(0),
            };
            let (Some(zone), Some(workload)) = (zone, workload) else { continue };
            let number = self.free_series.pop().unwrap_or_else(|| number(self.series.len()));
            self.series.insert(key.clone(), Told { number, last: 0, used: self.frames });
            frame.series.push(v1::Series {
                r#ref: number,
                metric: v1::Metric::from(key.metric).into(),
                zone,
                workload,
            });
            columns.push((number, *column, begins));
        }
        columns
    }
}

/// The number after `given` numbers from 1 are given.
fn number(given: usize) -> u32 {
    u32::try_from(given).unwrap_or(u32::MAX - 1) + 1
}

/// A series as a decoder knows it: little, since a fleet may have a million of them.
#[derive(Clone, Debug)]
struct Known {
    last: u64,
    /// Numbers of its zone and workload; 0: none.
    zone: u32,
    workload: u32,
    metric: Metric,
}

/// What a series of a [`Decoder`] is of, as it was described last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Of<'a> {
    /// What is counted.
    pub metric: Metric,
    /// Of which zone.
    pub zone: Option<&'a Arc<ZoneInfo>>,
    /// Of which workload; none: the node itself.
    pub workload: Option<&'a Arc<WorkloadInfo>>,
}

impl Of<'_> {
    /// The same without descriptions.
    pub fn key(&self) -> SeriesKey {
        SeriesKey {
            metric: self.metric,
            zone: self.zone.map(|zone| zone.id.clone()),
            workload: self.workload.map(|workload| workload.id.clone()),
        }
    }
}

/// What a frame says. Its memory can be used again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Number within the spool.
    pub seq: u64,
    /// The boot in which it was measured.
    pub boot: Option<BootId>,
    /// The moments, in milliseconds since 1970; they rise.
    pub ticks: Vec<u64>,
    /// Which series has values when; by number, ascending.
    pub columns: Vec<Column>,
    /// The values, column by column.
    pub values: Vec<u64>,
    /// Numbers of series that the frame defines, for the first time or anew.
    pub defined: Vec<u32>,
    /// Numbers of series that it gives up.
    pub forgotten: Vec<u32>,
    /// Workloads that it describes, for the first time or anew.
    pub described: Vec<Arc<WorkloadInfo>>,
    /// Zones that it describes, for the first time or anew.
    pub zones: Vec<Arc<ZoneInfo>>,
    /// What had to be given up before it.
    pub dropped: Option<v1::Dropped>,
}

/// Turns frames of one stream into what they say.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    boot: Option<BootId>,
    zones: Vec<Option<Arc<ZoneInfo>>>,
    workloads: Vec<Option<Arc<WorkloadInfo>>>,
    series: Vec<Option<Known>>,
}

impl Decoder {
    /// At the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, boot: None, zones: Vec::new(), workloads: Vec::new(), series: Vec::new() }
    }

    /// What the series of this number is of.
    pub fn series(&self, number: u32) -> Option<Of<'_>> {
        let known = self.series.get(number as usize)?.as_ref()?;
        let zone = self.zones.get(known.zone as usize).and_then(Option::as_ref);
        let workload = self.workloads.get(known.workload as usize).and_then(Option::as_ref);
        Some(Of { metric: known.metric, zone, workload })
    }

    /// The zone of this id.
    pub fn zone(&self, id: &ZoneId) -> Option<&Arc<ZoneInfo>> {
        self.zones.iter().flatten().find(|zone| zone.id == *id)
    }

    /// Reads the next frame of the stream into `to`. After an error the stream can't be read on.
    pub fn decode(&mut self, frame: &v1::Frame, to: &mut Decoded) -> Result<(), FrameError> {
        let seq = frame.seq;
        let shape = |what| FrameError::Shape { seq, what };
        if seq == 0 {
            return Err(shape("its number is 0"));
        }
        to.seq = seq;
        to.dropped = frame.dropped.clone();
        if !frame.boot_id.is_empty() {
            let boot = frame.boot_id.parse().map_err(|e| FrameError::Definition { seq, source: WireError::Id(e) })?;
            self.boot = Some(boot);
        }
        to.boot = self.boot;
        self.moments(frame, &mut to.ticks)?;
        self.forget(frame, to);
        self.define(frame, to)?;

        // columns and values
        self.fits(seq, "values", frame.values.len(), self.limits.values)?;
        to.columns.clear();
        to.values.clear();
        to.values.reserve(frame.values.len());
        let spanned = !frame.spans.is_empty();
        if spanned && frame.spans.len() != frame.columns.len().saturating_mul(2) {
            return Err(shape("spans and columns don't go together"));
        }
        let whole = u32::try_from(to.ticks.len()).map_err(|_| shape("too many moments"))?;
        let (mut series, mut values) = (0u32, frame.values.as_slice());
        for (i, step) in frame.columns.iter().enumerate() {
            series = series.checked_add(*step).filter(|_| *step > 0).ok_or(shape("columns don't ascend"))?;
            let (first, len) = match frame.spans.get(i * 2..i * 2 + 2) {
                Some([first, len]) if spanned => (*first, *len),
                _ => (0, whole),
            };
            if len == 0 || first.checked_add(len).is_none_or(|end| end > whole) {
                return Err(shape("a column has more values than there are moments"));
            }
            let known = self.series.get_mut(series as usize).and_then(Option::as_mut);
            let known = known.ok_or(shape("a column is of a series that was not defined"))?;
            let (own, rest) = values.split_at_checked(len as usize).ok_or(shape("values are missing"))?;
            values = rest;
            let mut last = known.last;
            to.values.extend(own.iter().map(|step| {
                last = last.wrapping_add(step.cast_unsigned());
                last
            }));
            known.last = last;
            to.columns.push(Column { series, first, len });
        }
        if !values.is_empty() {
            return Err(shape("there are more values than columns have"));
        }
        Ok(())
    }

    /// The frame as a batch that stands for itself.
    pub fn batch(&self, decoded: &Decoded) -> Batch {
        let mut batch = Batch {
            seq: decoded.seq,
            boot: decoded.boot,
            ticks: decoded.ticks.clone(),
            values: decoded.values.clone(),
            dropped: decoded.dropped.clone(),
            ..Batch::default()
        };
        let mut told = HashSet::new();
        for column in &decoded.columns {
            let Some(of) = self.series(column.series) else { continue };
            batch.columns.push(Column { series: number(batch.series.len()) - 1, ..*column });
            batch.series.push(of.key());
            if let Some(workload) = of.workload
                && told.insert(&workload.id)
            {
                batch.workloads.push(Arc::clone(workload));
            }
        }
        batch.zones = self.zones.iter().flatten().cloned().collect();
        batch
    }

    fn fits(&self, seq: u64, what: &'static str, found: usize, max: usize) -> Result<(), FrameError> {
        if found > max { Err(FrameError::TooMuch { seq, what, found, max }) } else { Ok(()) }
    }

    fn moments(&self, frame: &v1::Frame, ticks: &mut Vec<u64>) -> Result<(), FrameError> {
        let seq = frame.seq;
        ticks.clear();
        if frame.first_ms == 0 {
            let nothing = frame.steps_ms.is_empty() && frame.columns.is_empty();
            return if nothing { Ok(()) } else { Err(FrameError::Shape { seq, what: "it has no first moment" }) };
        }
        self.fits(seq, "moments", frame.steps_ms.len().saturating_add(1), self.limits.ticks)?;
        ticks.push(frame.first_ms);
        let mut at = frame.first_ms;
        for &step in &frame.steps_ms {
            at = at
                .checked_add(u64::from(step))
                .filter(|_| step > 0)
                .ok_or(FrameError::Shape { seq, what: "its moments don't rise" })?;
            ticks.push(at);
        }
        Ok(())
    }

    fn forget(&mut self, frame: &v1::Frame, to: &mut Decoded) {
        to.forgotten.clear();
        for &number in &frame.forget {
            if let Some(known) = self.series.get_mut(number as usize)
                && known.take().is_some()
            {
                to.forgotten.push(number);
            }
        }
    }

    /// A number is given to something else: what was counted of the former has ended.
    fn end_series(&mut self, to: &mut Decoded, of_former: impl Fn(&Known) -> bool) {
        for (number, place) in (0..).zip(&mut self.series) {
            if place.as_ref().is_some_and(&of_former) {
                *place = None;
                to.forgotten.push(number);
            }
        }
    }

    fn define(&mut self, frame: &v1::Frame, to: &mut Decoded) -> Result<(), FrameError> {
        let seq = frame.seq;
        let wrong = |source| FrameError::Definition { seq, source };
        to.defined.clear();
        to.described.clear();
        to.zones.clear();
        for zone in &frame.zones {
            let info = Arc::new(ZoneInfo::try_from(zone).map_err(wrong)?);
            let number = zone.r#ref;
            if self.zones.get(number as usize).and_then(Option::as_ref).is_some_and(|known| known.id != info.id) {
                self.end_series(to, |known| known.zone == number);
            }
            put(&mut self.zones, zone.r#ref, Arc::clone(&info), self.limits.names, "zones", seq)?;
            to.zones.push(info);
        }
        for workload in &frame.workloads {
            let info = Arc::new(WorkloadInfo::try_from(workload).map_err(wrong)?);
            let number = workload.r#ref;
            if self.workloads.get(number as usize).and_then(Option::as_ref).is_some_and(|known| known.id != info.id) {
                self.end_series(to, |known| known.workload == number);
            }
            put(&mut self.workloads, workload.r#ref, Arc::clone(&info), self.limits.names, "workloads", seq)?;
            to.described.push(info);
        }
        for series in &frame.series {
            if series.zone > 0 && self.zones.get(series.zone as usize).is_none_or(Option::is_none) {
                return Err(wrong(WireError::Missing("zone")));
            }
            if series.workload > 0 && self.workloads.get(series.workload as usize).is_none_or(Option::is_none) {
                return Err(wrong(WireError::Missing("workload")));
            }
            let metric = Metric::from_wire(series.metric).map_err(wrong)?;
            let known = Known { last: 0, zone: series.zone, workload: series.workload, metric };
            put(&mut self.series, series.r#ref, known, self.limits.series, "series", seq)?;
            to.defined.push(series.r#ref);
        }
        Ok(())
    }
}

fn put<T>(
    table: &mut Vec<Option<T>>,
    number: u32,
    value: T,
    max: usize,
    what: &'static str,
    seq: u64,
) -> Result<(), FrameError> {
    let index = number as usize;
    if index == 0 {
        return Err(FrameError::Shape { seq, what: "something is defined as number 0" });
    }
    if index > max {
        return Err(FrameError::TooMuch { seq, what, found: index, max });
    }
    // so that memory goes by what was sent, not by how large a number is
    if index > table.len().max(1) {
        return Err(FrameError::Shape { seq, what: "numbers are left out where something is defined" });
    }
    if table.len() <= index {
        if table.capacity() <= index {
            // an eighth more each time: tables are many and last long
            table.reserve_exact(index + 1 + table.len() / 8 - table.len());
        }
        table.resize_with(index + 1, || None);
    }
    if let Some(place) = table.get_mut(index) {
        *place = Some(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
