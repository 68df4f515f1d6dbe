//! Samples of a node's series in the order in which they were told, and what counters moved by between them. Pure.
//!
//! A step is what a counter moved by from one sample to the next of the same series; it belongs to the moment of the
//! later one. Where a step can't be known (another boot, a counter that fell, a clock that was set back, a silence
//! longer than the limit) it is a gap: counted, and nothing is made up. Every sum in the store is a sum of these steps.

use std::collections::HashMap;

use super::codec::{Damaged, Reader, put_column, put_signed, put_varint, read_column};

/// Silence of a series beyond which its next step is a gap, in milliseconds.
pub const LONGEST_STEP_MS: u64 = 5 * 60_000;

/// How many descriptions a series goes back to find its last sample.
pub(super) const LONGEST_CHAIN: usize = 8;

/// The most moments, and the most values, that are held at a time.
const MAX_TICKS: usize = 8 << 20;
const MAX_VALUES: usize = 16 << 20;
/// First byte of a frame's body.
const VERSION: u8 = 1;

/// What a counter moved by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// There is no sample before.
    #[default]
    First,
    /// It can't be known.
    Gap,
    /// By so much, in so many milliseconds.
    Known {
        /// How much.
        by: u64,
        /// In which time.
        ms: u64,
    },
}

/// What a counter was at some moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// The counter.
    pub value: u64,
    /// In which boot.
    pub boot: Boot,
}

/// The 128 bits of a boot's id, if it is known.
pub type Boot = Option<u128>;

impl Sample {
    /// The step from here to `next`.
    pub fn step_to(&self, next: &Self) -> Step {
        let ms = next.at.wrapping_sub(self.at);
        if self.boot != next.boot || next.at <= self.at || ms > LONGEST_STEP_MS || next.value < self.value {
            return Step::Gap;
        }
        Step::Known { by: next.value - self.value, ms }
    }
}

/// Samples of one series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Its number.
    pub series: u32,
    /// The step to its first sample.
    pub opening: Step,
    /// Indices of moments in a row, as the first and how many.
    pub runs: Vec<(u32, u32)>,
    /// A value for each.
    pub values: Vec<u64>,
}

/// Samples of a node's series, in the order in which they were told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Samples {
    /// The moments, in milliseconds since 1970. They rise unless a clock was set back.
    pub ticks: Vec<u64>,
    /// From which moment on which boot, from index 0 on.
    pub boots: Vec<(u32, Boot)>,
    /// The series.
    pub columns: Vec<Column>,
}

/// Writes the bodies of frames.
#[derive(Debug, Default)]
pub(super) struct BodyWriter {
    residuals: Vec<u64>,
}

impl BodyWriter {
    /// A body with these moments and columns; each column is the number of its series, the index of its first moment,
    /// and its values.
    pub(super) fn write<'a>(
        &mut self,
        ticks: &[u64],
        boot: Boot,
        columns: impl ExactSizeIterator<Item = (u32, u32, &'a [u64])>,
        to: &mut Vec<u8>,
    ) {
        to.push(VERSION);
        match boot {
            None => to.push(0),
            Some(boot) => {
                to.push(1);
                to.extend_from_slice(&boot.to_le_bytes());
            }
        }
        put_varint(to, ticks.len() as u64);
        put_column(ticks, &mut self.residuals, to);
        put_varint(to, columns.len() as u64);
        let mut before = 0;
        for (series, first, values) in columns {
            put_signed(to, i64::from(series) - i64::from(before));
            before = series;
            if first == 0 && values.len() == ticks.len() {
                put_varint(to, 0);
            } else {
                put_varint(to, u64::from(first) + 1);
                put_varint(to, values.len() as u64);
            }
            put_column(values, &mut self.residuals, to);
        }
    }
}

/// Puts the bodies of frames together.
#[derive(Debug, Default)]
pub struct Gatherer {
    samples: Samples,
    /// Where the column of a series is.
    places: HashMap<u32, usize>,
    values: usize,
    /// How many frames will come, about.
    frames: usize,
}

impl Gatherer {
    /// The most values of a series, and the most series, that memory is taken for before they are there.
    const FORESEEN: usize = 1024;

    /// For so many frames, about.
    pub fn new(frames: usize) -> Self {
        Self { frames, ..Self::default() }
    }

    /// Adds the next frame. Of one that is damaged, what comes before the damage.
    pub fn add(&mut self, body: &[u8]) -> Result<(), Damaged> {
        let mut from = Reader::new(body);
        if from.byte()? != VERSION {
            return Err(Damaged("a frame is of another version"));
        }
        let boot = match from.byte()? {
            0 => None,
            _ => {
                let bytes = from.bytes(16)?.try_into().map_err(|_| Damaged("a boot is cut off"))?;
                Some(u128::from_le_bytes(bytes))
            }
        };
        let samples = &mut self.samples;
        let base = samples.ticks.len();
        let ticks = from.count(MAX_TICKS - base)?;
        read_column(&mut from, ticks, &mut samples.ticks)?;
        let base = u32::try_from(base).map_err(|_| Damaged("it has too much"))?;
        if samples.boots.last().is_none_or(|(_, last)| *last != boot) {
            samples.boots.push((base, boot));
        }
        let columns = from.count(body.len())?;
        let frames = self.frames;
        let (mut series, mut likely) = (0i64, 0usize);
        for _ in 0..columns {
            series = series.wrapping_add(from.signed()?);
            let number = u32::try_from(series).map_err(|_| Damaged("a series has no number"))?;
            let (first, len) = match from.varint()? {
                0 => (0, ticks),
                n => (usize::try_from(n - 1).unwrap_or(usize::MAX), from.count(ticks)?),
            };
            if len == 0 || first.checked_add(len).is_none_or(|end| end > ticks) {
                return Err(Damaged("a column has more values than there are moments"));
            }
            self.values += len;
            if self.values > MAX_VALUES {
                return Err(Damaged("it has too many values"));
            }
            // columns come in the same order in each frame
            let place = match samples.columns.get(likely) {
                Some(column) if column.series == number => likely,
                _ => *self.places.entry(number).or_insert_with(|| {
                    let frames = if samples.columns.len() < Self::FORESEEN { frames } else { 1 };
                    let values = Vec::with_capacity((len * frames).min(Self::FORESEEN));
                    samples.columns.push(Column { series: number, values, ..Column::default() });
                    samples.columns.len() - 1
                }),
            };
            likely = place + 1;
            let Some(column) = samples.columns.get_mut(place) else { continue };
            let first = base + u32::try_from(first).map_err(|_| Damaged("it has too much"))?;
            if column.runs.last().is_some_and(|(begin, count)| begin + count > first) {
                return Err(Damaged("a series is in a frame twice"));
            }
            read_column(&mut from, len, &mut column.values)?;
            let len = u32::try_from(len).map_err(|_| Damaged("it has too much"))?;
            match column.runs.last_mut() {
                Some((begin, count)) if *begin + *count == first => *count += len,
                _ => column.runs.push((first, len)),
            }
        }
        if from.is_empty() { Ok(()) } else { Err(Damaged("a frame goes on after its end")) }
    }

    /// How many values were added.
    pub fn len(&self) -> usize {
        self.values
    }

    /// Whether no value was.
    pub fn is_empty(&self) -> bool {
        self.values == 0
    }

    /// How many moments were added.
    pub fn ticks(&self) -> usize {
        self.samples.ticks.len()
    }

    /// All that was added.
    pub fn finish(self) -> Samples {
        self.samples
    }
}

impl Samples {
    /// Finds the step to the first sample of each series. `before` knows the last sample of a series before all of
    /// these, `from` the series that one goes on from.
    pub fn open(&mut self, before: impl Fn(u32) -> Option<Sample>, from: impl Fn(u32) -> Option<u32>) {
        let mut openings = Vec::with_capacity(self.columns.len());
        let places: HashMap<u32, &Column> = self.columns.iter().map(|column| (column.series, column)).collect();
        for column in &self.columns {
            let Some((tick, value)) = column.runs.first().map(|(tick, _)| *tick).zip(column.values.first()) else {
                openings.push(Step::First);
                continue;
            };
            // a series that was described anew goes on from where it was
            let mut chain = std::iter::successors(Some(column.series), |series| from(*series)).take(LONGEST_CHAIN);
            let at = self.ticks.get(tick as usize).copied().unwrap_or(0);
            let sample = Sample { at, value: *value, boot: boot_at(&self.boots, tick) };
            let before = chain.find_map(|series| {
                places.get(&series).and_then(|column| self.before(column, tick)).or_else(|| before(series))
            });
            openings.push(before.map_or(Step::First, |before| before.step_to(&sample)));
        }
        self.columns.iter_mut().zip(openings).for_each(|(column, opening)| column.opening = opening);
    }

    /// Cuts where `key` changes from one moment to the next; it is told their index and time.
    pub fn split<K: Copy + PartialEq>(self, mut key: impl FnMut(u32, u64) -> K) -> Vec<(K, Self)> {
        let mut parts: Vec<(K, u32, Self)> = Vec::new();
        for (tick, at) in (0u32..).zip(&self.ticks) {
            let key = key(tick, *at);
            if parts.last().is_none_or(|(last, ..)| *last != key) {
                parts.push((key, tick, Self { boots: vec![(0, boot_at(&self.boots, tick))], ..Self::default() }));
            }
            if let Some((_, first, part)) = parts.last_mut() {
                let boot = boot_at(&self.boots, tick);
                if part.boots.last().is_some_and(|(_, last)| *last != boot) {
                    part.boots.push((tick - *first, boot));
                }
                part.ticks.push(*at);
            }
        }
        if let [(key, ..)] = parts.as_slice() {
            return vec![(*key, self)];
        }
        for column in &self.columns {
            let (mut place, mut values) = (0, column.values.as_slice());
            let mut before: Option<Sample> = None;
            for &(mut first, mut len) in &column.runs {
                while len > 0 {
                    while parts.get(place + 1).is_some_and(|(_, begins, _)| *begins <= first) {
                        place += 1;
                    }
                    let end = parts.get(place + 1).map_or(u32::MAX, |(_, begins, _)| *begins);
                    let own = len.min(end - first);
                    let Some((_, begins, part)) = parts.get_mut(place) else { break };
                    let (these, rest) = values.split_at(values.len().min(own as usize));
                    values = rest;
                    let at = |tick: u32| self.ticks.get(tick as usize).copied().unwrap_or(0);
                    let sample = |tick: u32, value: Option<&u64>| Sample {
                        at: at(tick),
                        value: value.copied().unwrap_or(0),
                        boot: boot_at(&self.boots, tick),
                    };
                    if part.columns.last().is_none_or(|last| last.series != column.series) {
                        let opening = before.map_or(column.opening, |b| b.step_to(&sample(first, these.first())));
                        part.columns.push(Column { series: column.series, opening, ..Column::default() });
                    }
                    if let Some(to) = part.columns.last_mut() {
                        to.runs.push((first - *begins, own));
                        to.values.extend_from_slice(these);
                    }
                    before = Some(sample(first + own - 1, these.last()));
                    first += own;
                    len -= own;
                }
            }
        }
        parts.into_iter().map(|(key, _, part)| (key, part)).collect()
    }

    /// The last sample of a column before a moment.
    fn before(&self, column: &Column, tick: u32) -> Option<Sample> {
        let mut found = None;
        let mut values = column.values.as_slice();
        for &(first, len) in column.runs.iter().take_while(|(first, _)| *first < tick) {
            let own = len.min(tick - first);
            let last = first + own.checked_sub(1)?;
            let value = *values.get((own - 1) as usize)?;
            values = values.get(len as usize..)?;
            found = Some(Sample { at: *self.ticks.get(last as usize)?, value, boot: boot_at(&self.boots, last) });
        }
        found
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.columns.iter().map(|column| column.values.len()).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.columns.iter().all(|column| column.values.is_empty())
    }

    /// The last sample of a column.
    pub fn last(&self, column: &Column) -> Option<Sample> {
        let (first, len) = column.runs.last()?;
        let tick = first + len.checked_sub(1)?;
        let at = *self.ticks.get(tick as usize)?;
        Some(Sample { at, value: *column.values.last()?, boot: boot_at(&self.boots, tick) })
    }

    /// Whether each moment's step from the one before can be known, in milliseconds; 0: it can't.
    pub fn tick_steps(&self) -> Vec<u32> {
        let mut steps: Vec<u32> = Vec::with_capacity(self.ticks.len());
        let mut before = None;
        for tick in &self.ticks {
            let ms = before.and_then(|before| tick.checked_sub(before)).filter(|ms| *ms <= LONGEST_STEP_MS);
            steps.push(ms.and_then(|ms| u32::try_from(ms).ok()).unwrap_or(0));
            before = Some(*tick);
        }
        for (first, _) in &self.boots {
            if let Some(step) = steps.get_mut(*first as usize) {
                *step = 0;
            }
        }
        steps
    }

    /// Tells each run of a column: the index of its first moment, the step to its first value, and its values.
    pub fn runs(&self, column: &Column, mut tell: impl FnMut(u32, Step, &[u64])) {
        let mut values = column.values.as_slice();
        let mut before: Option<Sample> = None;
        let sample = |tick: u32, value: u64| {
            let at = self.ticks.get(tick as usize).copied().unwrap_or(0);
            Sample { at, value, boot: boot_at(&self.boots, tick) }
        };
        for &(first, len) in &column.runs {
            let Some((own, rest)) = values.split_at_checked(len as usize) else { return };
            values = rest;
            let (Some(value), Some(last)) = (own.first(), own.last()) else { continue };
            let step = before.map_or(column.opening, |before| before.step_to(&sample(first, *value)));
            tell(first, step, own);
            before = Some(sample(first + len - 1, *last));
        }
    }
}

/// The boot of a moment.
fn boot_at(boots: &[(u32, Boot)], tick: u32) -> Boot {
    boots.iter().rev().find(|(first, _)| *first <= tick).and_then(|(_, boot)| *boot)
}
