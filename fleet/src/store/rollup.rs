//! What counters moved by in buckets of time, as bytes and back. Pure.

use std::collections::HashMap;
use std::io;
use std::ops::Range;

use super::block::Summary;
use super::codec::{Damaged, Planes, PlanesReader, Reader, Zip, put_column, put_varint, read_column};
use super::samples::{Samples, Step};

/// First byte of a body.
const VERSION: u8 = 1;
const MAX_PART: usize = 32 << 20;
const MAX_SERIES: usize = 1 << 18;
const MAX_BUCKETS: usize = 3600;
const MAX_VALUES: usize = 16 << 20;

/// Buckets of the same length, one after the other, of some series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollup {
    /// When the first bucket begins, in milliseconds since 1970.
    pub start_ms: u64,
    /// How long each is.
    pub unit_ms: u64,
    /// How many there are.
    pub buckets: usize,
    /// The series, in the order of their numbers.
    pub columns: Vec<Buckets>,
}

/// The buckets of a series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Its number.
    pub series: u32,
    /// How many samples went into them.
    pub samples: u64,
    /// What its counter moved by in each.
    pub by: Vec<u64>,
    /// For how much of each that is known, in milliseconds. More than the bucket's length where a step reaches back.
    pub covered_ms: Vec<u64>,
}

/// The moments of some samples, by the bucket that they are in.
struct Ticks<'a> {
    at: &'a [u64],
    /// Whether the step from the moment before can be known, in milliseconds; 0: it can't.
    steps: Vec<u32>,
    /// For each moment, how many up to it have no such step.
    unknown: Vec<u32>,
    /// For each moment, its bucket.
    places: Vec<u32>,
    /// For each moment, the first after it that is in another bucket.
    ends: Vec<u32>,
}

impl<'a> Ticks<'a> {
    fn new(samples: &'a Samples, start_ms: u64, unit_ms: u64, buckets: usize) -> Self {
        let place = |at: &u64| {
            let bucket = at.checked_sub(start_ms).map_or(u64::MAX, |since| since / unit_ms);
            u32::try_from(bucket).ok().filter(|bucket| (*bucket as usize) < buckets).unwrap_or(u32::MAX)
        };
        let places: Vec<u32> = samples.ticks.iter().map(place).collect();
        let mut ends = vec![0; places.len()];
        let mut begin = 0;
        for same in places.chunk_by(|a, b| a == b) {
            let end = begin + same.len();
            if let Some(own) = ends.get_mut(begin..end) {
                own.fill(u32::try_from(end).unwrap_or(u32::MAX));
            }
            begin = end;
        }
        let steps = samples.tick_steps();
        let mut count = 0;
        let unknown = steps.iter().map(|ms| {
            count += u32::from(*ms == 0);
            count
        });
        Self { at: &samples.ticks, unknown: unknown.collect(), steps, places, ends }
    }

    fn place(&self, tick: u32) -> usize {
        self.places.get(tick as usize).map_or(usize::MAX, |place| *place as usize)
    }
}

impl Buckets {
    /// Adds a step; 1 if it is a gap.
    fn step(&mut self, place: usize, step: Step) -> u64 {
        if let Step::Known { by, ms } = step
            && let (Some(sum), Some(covered)) = (self.by.get_mut(place), self.covered_ms.get_mut(place))
        {
            *sum = sum.wrapping_add(by);
            *covered += ms;
        }
        u64::from(step == Step::Gap)
    }

    /// Adds the steps between values at moments in a row; how many of them are gaps.
    fn run(&mut self, ticks: &Ticks<'_>, first: u32, values: &[u64]) -> u64 {
        let begin = first as usize;
        let Some(end) = values.len().checked_sub(1).map(|more| begin + more) else { return 0 };
        let falls = values.iter().zip(values.iter().skip(1)).fold(false, |falls, (a, b)| falls | (b < a));
        if falls || ticks.unknown.get(begin) != ticks.unknown.get(end) {
            return self.run_step_by_step(ticks, first, values);
        }
        // all steps are known: what a bucket has is the difference between its last value and the one before it
        let (mut at, mut value) = (begin, 0);
        while let (Some(from), true) = (values.get(value), at < end) {
            let place = ticks.place(u32::try_from(at + 1).unwrap_or(u32::MAX));
            let last = ticks.ends.get(at + 1).map_or(end, |end| *end as usize - 1).min(end);
            let to = value + (last - at);
            if let (Some(sum), Some(covered)) = (self.by.get_mut(place), self.covered_ms.get_mut(place))
                && let (Some(value), Some(from_ms), Some(to_ms)) =
                    (values.get(to), ticks.at.get(at), ticks.at.get(last))
            {
                *sum = sum.wrapping_add(value.wrapping_sub(*from));
                *covered += to_ms.saturating_sub(*from_ms);
            }
            (at, value) = (last, to);
        }
        0
    }

    fn run_step_by_step(&mut self, ticks: &Ticks<'_>, first: u32, values: &[u64]) -> u64 {
        let mut gaps = 0;
        let within = (first + 1..).zip(ticks.steps.get(first as usize + 1..).unwrap_or_default());
        for ((tick, ms), (before, value)) in within.zip(values.iter().zip(values.iter().skip(1))) {
            let known = *ms > 0 && value >= before;
            let step = Step::Known { by: value.wrapping_sub(*before), ms: u64::from(*ms) };
            gaps += self.step(ticks.place(tick), if known { step } else { Step::Gap });
        }
        gaps
    }
}

impl Rollup {
    /// Rolls up `samples`; steps outside of the buckets are left out. Also how many steps could not be known.
    pub fn of(samples: &Samples, start_ms: u64, unit_ms: u64, buckets: usize) -> (Self, u64) {
        let ticks = Ticks::new(samples, start_ms, unit_ms.max(1), buckets);
        let mut gaps = 0;
        let mut columns = Vec::with_capacity(samples.columns.len());
        for column in &samples.columns {
            let mut to = Buckets {
                series: column.series,
                samples: column.values.len() as u64,
                by: vec![0; buckets],
                covered_ms: vec![0; buckets],
            };
            samples.runs(column, |first, step, values| {
                gaps += to.step(ticks.place(first), step);
                gaps += to.run(&ticks, first, values);
            });
            columns.push(to);
        }
        (Self { start_ms, unit_ms, buckets, columns }, gaps)
    }

    /// Adds what `finer` has in this one's buckets.
    pub fn add(&mut self, finer: &Self) {
        let known = self.columns.len();
        let buckets: Vec<Option<usize>> = (0..finer.buckets as u64)
            .map(|n| (finer.start_ms + n * finer.unit_ms).checked_sub(self.start_ms))
            .map(|since| usize::try_from(since? / self.unit_ms.max(1)).ok().filter(|bucket| *bucket < self.buckets))
            .collect();
        let used = finer.used();
        let buckets = buckets.get(used.clone()).unwrap_or_default();
        for from in &finer.columns {
            let sorted = self.columns.get(..known).unwrap_or_default();
            let place = sorted.binary_search_by_key(&from.series, |column| column.series).unwrap_or(self.columns.len());
            if place == self.columns.len() {
                let zeros = vec![0; self.buckets];
                self.columns.push(Buckets { series: from.series, samples: 0, by: zeros.clone(), covered_ms: zeros });
            }
            let Some(to) = self.columns.get_mut(place) else { continue };
            to.samples += from.samples;
            let own = from.by.iter().zip(&from.covered_ms).skip(used.start);
            for (bucket, (by, covered)) in buckets.iter().zip(own) {
                let Some(bucket) = bucket else { continue };
                if let (Some(sum), Some(known)) = (to.by.get_mut(*bucket), to.covered_ms.get_mut(*bucket)) {
                    *sum = sum.wrapping_add(*by);
                    *known += covered;
                }
            }
        }
        self.columns.sort_unstable_by_key(|column| column.series);
    }

    /// What each series sums up to, those that are known for no time included.
    pub fn summaries(&self) -> Vec<Summary> {
        let summary = |column: &Buckets| Summary {
            series: column.series,
            samples: column.samples,
            sum: column.by.iter().fold(0, |sum, by| sum.wrapping_add(*by)),
            covered_ms: column.covered_ms.iter().sum(),
        };
        self.columns.iter().map(summary).collect()
    }

    /// From the first to the last bucket that has anything.
    fn used(&self) -> Range<usize> {
        let (mut first, mut end) = (self.buckets, 0);
        for column in &self.columns {
            let has = |(by, covered): (&u64, &u64)| *by > 0 || *covered > 0;
            let mut each = column.by.iter().zip(&column.covered_ms);
            let Some(place) = each.position(has) else { continue };
            first = first.min(place);
            end = end.max(column.by.iter().zip(&column.covered_ms).rposition(has).map_or(0, |last| last + 1));
        }
        first.min(end)..end
    }

    /// A body with these buckets; which series it has is in the head.
    pub fn put_body(&self, planes: &mut Planes, zip: &mut Zip, to: &mut Vec<u8>) -> io::Result<()> {
        let mut meta = vec![VERSION];
        put_varint(&mut meta, self.start_ms);
        put_varint(&mut meta, self.unit_ms);
        put_varint(&mut meta, self.buckets as u64);
        // of an hour that has just begun there is little
        let used = self.used();
        put_varint(&mut meta, used.start as u64);
        put_varint(&mut meta, used.len() as u64);
        // most series are known at the same time
        let mut known: HashMap<&[u64], usize> = HashMap::new();
        let mut covered: Vec<&[u64]> = Vec::new();
        let mut of = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            let own = column.covered_ms.get(used.clone()).unwrap_or_default();
            if let (Some(last), true) = (of.last().copied(), covered.last().is_some_and(|last| *last == own))
                && last + 1 == covered.len()
            {
                of.push(last);
                continue;
            }
            let next = covered.len();
            let place = *known.entry(own).or_insert(next);
            if place == next {
                covered.push(own);
            }
            of.push(place);
        }
        let mut residuals = Vec::new();
        put_varint(&mut meta, covered.len() as u64);
        covered.iter().for_each(|column| put_column(column, &mut residuals, &mut meta));
        put_varint(&mut meta, self.columns.len() as u64);
        planes.clear();
        for (column, covered) in self.columns.iter().zip(of) {
            put_varint(&mut meta, covered as u64);
            planes.put(column.by.get(used.clone()).unwrap_or_default(), &mut meta);
        }
        planes.finish(&meta, zip, to)
    }

    /// What [`Self::put_body`] wrote, as far as series are wanted; `head` says which those are.
    pub fn read_body(
        head: &[Summary],
        bytes: &[u8],
        zip: &mut Zip,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<Self, Damaged> {
        let mut from = Reader::new(bytes);
        let (mut planes, meta) = PlanesReader::new(&mut from, zip, MAX_PART)?;
        if !from.is_empty() {
            return Err(Damaged("a roll-up goes on after its end"));
        }
        let mut meta = Reader::new(&meta);
        if meta.byte()? != VERSION {
            return Err(Damaged("a roll-up is of another version"));
        }
        let (start_ms, unit_ms) = (meta.varint()?, meta.varint()?);
        let buckets = meta.count(MAX_BUCKETS)?;
        let first = meta.count(buckets)?;
        let used = meta.count(buckets - first)?;
        let mut covered = Vec::new();
        for _ in 0..meta.count(MAX_VALUES / buckets.max(1))? {
            let mut column = Vec::with_capacity(buckets);
            column.resize(first, 0);
            read_column(&mut meta, used, &mut column)?;
            column.resize(buckets, 0);
            covered.push(column);
        }
        if meta.count(MAX_SERIES)? != head.len() {
            return Err(Damaged("head and body have different series"));
        }
        let mut columns = Vec::new();
        for summary in head {
            let place = meta.count(covered.len())?;
            if !wanted(summary.series) {
                planes.skip(&mut meta, used)?;
                continue;
            }
            if columns.len().saturating_mul(buckets) > MAX_VALUES {
                return Err(Damaged("it has too many values"));
            }
            let mut by = Vec::with_capacity(buckets);
            by.resize(first, 0);
            planes.read(&mut meta, used, &mut by)?;
            by.resize(buckets, 0);
            let covered_ms = covered.get(place).ok_or(Damaged("a time is missing"))?.clone();
            columns.push(Buckets { series: summary.series, samples: summary.samples, by, covered_ms });
        }
        if meta.is_empty() {
            Ok(Self { start_ms, unit_ms, buckets, columns })
        } else {
            Err(Damaged("a roll-up goes on after its end"))
        }
    }
}
