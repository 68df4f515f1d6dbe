//! A window of samples as bytes, and back. Pure.
//!
//! A block is a head, which tells of each series how many samples there are and what they sum up to, and a body: the
//! moments, which series has values at which of them, and the values in planes. Series are named by number.

use std::io;

use super::codec::{Damaged, Planes, PlanesReader, Reader, Zip, put_column, put_varint, read_column};
use super::samples::{Boot, Column, Samples, Step};

/// First byte of a body.
const VERSION: u8 = 1;
/// The most bytes that a part of a body may have when decompressed.
const MAX_PART: usize = 32 << 20;
/// The most moments, runs, series and values of a block.
const MAX_TICKS: usize = 1 << 20;
const MAX_SERIES: usize = 1 << 18;
const MAX_VALUES: usize = 16 << 20;

/// What there is of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its number.
    pub series: u32,
    /// How many samples.
    pub samples: u64,
    /// The sum of all steps that are known, in the series' unit.
    pub sum: u64,
    /// The time of these steps in milliseconds.
    pub covered_ms: u64,
}

/// A head with these summaries.
pub fn put_head(series: &[Summary], to: &mut Vec<u8>) {
    let mut residuals = Vec::new();
    put_varint(to, series.len() as u64);
    let mut column = |of: fn(&Summary) -> u64| {
        put_column(&series.iter().map(of).collect::<Vec<u64>>(), &mut residuals, to);
    };
    column(|it| u64::from(it.series));
    column(|it| it.samples);
    column(|it| it.covered_ms);
    for it in series {
        put_varint(to, it.sum);
    }
}

/// What [`put_head`] wrote.
pub fn read_head(bytes: &[u8]) -> Result<Vec<Summary>, Damaged> {
    let mut from = Reader::new(bytes);
    let count = from.count(bytes.len().min(MAX_SERIES))?;
    let mut columns = [Vec::new(), Vec::new(), Vec::new()];
    for column in &mut columns {
        read_column(&mut from, count, column)?;
    }
    let [series, samples, covered] = columns;
    let mut out = Vec::with_capacity(count);
    for ((series, samples), covered_ms) in series.into_iter().zip(samples).zip(covered) {
        let series = u32::try_from(series).map_err(|_| Damaged("a series has no number"))?;
        out.push(Summary { series, samples, sum: from.varint()?, covered_ms });
    }
    Ok(out)
}

/// A body with these samples.
pub fn put_body(samples: &Samples, planes: &mut Planes, zip: &mut Zip, to: &mut Vec<u8>) -> io::Result<()> {
    let mut meta = vec![VERSION];
    put_varint(&mut meta, samples.ticks.len() as u64);
    put_column(&samples.ticks, &mut Vec::new(), &mut meta);
    put_varint(&mut meta, samples.boots.len() as u64);
    for (first, boot) in &samples.boots {
        put_varint(&mut meta, u64::from(*first));
        meta.push(u8::from(boot.is_some()));
        meta.extend_from_slice(&boot.unwrap_or(0).to_le_bytes());
    }
    // most series have values at the same moments
    let mut patterns: Vec<&[(u32, u32)]> = Vec::new();
    let mut of = Vec::with_capacity(samples.columns.len());
    let mut known = std::collections::HashMap::new();
    for column in &samples.columns {
        if let (Some(last), true) = (of.last().copied(), patterns.last().is_some_and(|last| *last == column.runs))
            && last + 1 == patterns.len()
        {
            of.push(last);
            continue;
        }
        let next = patterns.len();
        let pattern = *known.entry(column.runs.as_slice()).or_insert(next);
        if pattern == next {
            patterns.push(&column.runs);
        }
        of.push(pattern);
    }
    put_varint(&mut meta, patterns.len() as u64);
    for pattern in patterns {
        put_varint(&mut meta, pattern.len() as u64);
        let mut end = 0;
        for (first, len) in pattern {
            put_varint(&mut meta, u64::from(first - end));
            put_varint(&mut meta, u64::from(*len));
            end = first + len;
        }
    }
    put_varint(&mut meta, samples.columns.len() as u64);
    planes.clear();
    let mut before = 0;
    for (column, pattern) in samples.columns.iter().zip(of) {
        put_varint(&mut meta, u64::from(column.series.wrapping_sub(before)));
        before = column.series;
        put_varint(&mut meta, pattern as u64);
        match column.opening {
            Step::First => meta.push(0),
            Step::Gap => meta.push(1),
            Step::Known { by, ms } => {
                meta.push(2);
                put_varint(&mut meta, by);
                put_varint(&mut meta, ms);
            }
        }
        planes.put(&column.values, &mut meta);
    }
    planes.finish(&meta, zip, to)
}

/// What [`put_body`] wrote, as far as series are wanted.
pub fn read_body(bytes: &[u8], zip: &mut Zip, wanted: impl Fn(u32) -> bool) -> Result<Samples, Damaged> {
    let mut from = Reader::new(bytes);
    let (mut planes, meta) = PlanesReader::new(&mut from, zip, MAX_PART)?;
    if !from.is_empty() {
        return Err(Damaged("a block goes on after its end"));
    }
    let mut meta = Reader::new(&meta);
    if meta.byte()? != VERSION {
        return Err(Damaged("a block is of another version"));
    }
    let mut samples = Samples::default();
    let ticks = meta.count(MAX_TICKS)?;
    read_column(&mut meta, ticks, &mut samples.ticks)?;
    for _ in 0..meta.count(ticks.saturating_add(1))? {
        samples.boots.push(read_boot(&mut meta)?);
    }
    let patterns = read_patterns(&mut meta, ticks)?;
    let (mut series, mut values) = (0u32, 0usize);
    for _ in 0..meta.count(MAX_SERIES)? {
        series = series.wrapping_add(meta.u32()?);
        let (runs, len) = patterns.get(meta.count(patterns.len())?).ok_or(Damaged("a pattern is missing"))?;
        let opening = match meta.byte()? {
            0 => Step::First,
            1 => Step::Gap,
            2 => Step::Known { by: meta.varint()?, ms: meta.varint()? },
            _ => return Err(Damaged("a series begins in no way that is known")),
        };
        if !wanted(series) {
            planes.skip(&mut meta, *len)?;
            continue;
        }
        values = values.saturating_add(*len);
        if values > MAX_VALUES {
            return Err(Damaged("it has too many values"));
        }
        let mut column = Column { series, opening, runs: runs.clone(), values: Vec::with_capacity(*len) };
        planes.read(&mut meta, *len, &mut column.values)?;
        samples.columns.push(column);
    }
    if meta.is_empty() { Ok(samples) } else { Err(Damaged("a block goes on after its end")) }
}

fn read_boot(from: &mut Reader<'_>) -> Result<(u32, Boot), Damaged> {
    let first = from.u32()?;
    let known = from.byte()? != 0;
    let boot = from.bytes(16)?.try_into().map_err(|_| Damaged("a boot is cut off"))?;
    Ok((first, known.then_some(u128::from_le_bytes(boot))))
}

/// Runs of moments, and how many moments that is.
type Pattern = (Vec<(u32, u32)>, usize);

fn read_patterns(from: &mut Reader<'_>, ticks: usize) -> Result<Vec<Pattern>, Damaged> {
    let mut patterns = Vec::new();
    let mut runs_left = MAX_TICKS;
    for _ in 0..from.count(MAX_SERIES)? {
        let count = from.count(runs_left)?;
        runs_left -= count;
        let mut runs = Vec::new();
        let (mut end, mut len) = (0usize, 0usize);
        for _ in 0..count {
            let first = end.saturating_add(from.count(ticks)?);
            let own = from.count(ticks)?;
            end = first.saturating_add(own);
            len += own;
            if end > ticks || own == 0 {
                return Err(Damaged("a column has more values than there are moments"));
            }
            let part = |n: usize| u32::try_from(n).map_err(|_| Damaged("it has too many moments"));
            runs.push((part(first)?, part(own)?));
        }
        patterns.push((runs, len));
    }
    Ok(patterns)
}
