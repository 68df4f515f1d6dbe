//! Whole numbers as bytes, and back. Pure.
//!
//! A column of numbers is written as the residuals of whichever of three predictions leaves the fewest bits: none, the
//! number before, or the line through the two before. Residuals are counted from their smallest, so that a counter
//! that grows evenly, or not at all, takes no bytes beyond its beginning, and one with noise takes the bytes of its
//! noise. Residuals are laid out as planes, all lowest bytes first: where many columns share planes, what is random
//! stays apart from what compresses.
//!
//! Whatever the bytes are, reading them ends in an error or in no more numbers than the caller allows.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

/// The most bytes that a section may have once it is decompressed.
pub const MAX_SECTION: usize = 64 << 20;
/// zstd's level for what is kept long. Higher ones cost more and gain next to nothing on planes.
const LEVEL: i32 = 3;
/// Planes that together are no longer than this share a section: each has tables of its own, which take time and bytes.
const SHORT: usize = 16 << 10;
/// Sections shorter than this are not worth a zstd frame.
const WORTH_COMPRESSING: usize = 48;

/// Why bytes can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged: {0}")]
pub struct Damaged(pub &'static str);

/// Appends `value` in seven bits per byte, lowest first.
pub fn put_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    to.push(low_byte(value));
}

/// Appends `value` so that small figures of either sign are short.
pub fn put_signed(to: &mut Vec<u8>, value: i64) {
    put_varint(to, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends a text with its length.
pub fn put_text(to: &mut Vec<u8>, text: &str) {
    put_varint(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
}

#[allow(clippy::cast_possible_truncation, reason = "the lowest byte is what is wanted")]
const fn low_byte(value: u64) -> u8 {
    value as u8
}

/// Bytes that are read from the front.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// At the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all is read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, Damaged> {
        let (&first, rest) = self.0.split_first().ok_or(Damaged("it ends early"))?;
        self.0 = rest;
        Ok(first)
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (these, rest) = self.0.split_at_checked(count).ok_or(Damaged("it ends early"))?;
        self.0 = rest;
        Ok(these)
    }

    /// What [`put_varint`] wrote.
    pub fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0u64;
        for (i, &byte) in self.0.iter().enumerate().take(10) {
            let part = u64::from(byte & 0x7f);
            if i == 9 && part > 1 {
                break;
            }
            value |= part << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = self.0.get(i + 1..).unwrap_or_default();
                return Ok(value);
            }
        }
        Err(Damaged("a number is cut off or too long"))
    }

    /// What [`put_signed`] wrote.
    pub fn signed(&mut self) -> Result<i64, Damaged> {
        let coded = self.varint()?;
        Ok((coded >> 1).cast_signed() ^ -((coded & 1).cast_signed()))
    }

    /// A count of things, at most `max`.
    pub fn count(&mut self, max: usize) -> Result<usize, Damaged> {
        let count = self.varint()?;
        usize::try_from(count).ok().filter(|count| *count <= max).ok_or(Damaged("it says that it has too much"))
    }

    /// A figure of 32 bits.
    pub fn u32(&mut self) -> Result<u32, Damaged> {
        u32::try_from(self.varint()?).map_err(|_| Damaged("a number is too large"))
    }

    /// What [`put_text`] wrote.
    pub fn text(&mut self) -> Result<&'a str, Damaged> {
        let len = self.count(self.0.len())?;
        std::str::from_utf8(self.bytes(len)?).map_err(|_| Damaged("a text is not UTF-8"))
    }
}

/// How a column is written: what its residuals are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// What is predicted: 0 nothing, 1 the number before, 2 the line through the two before.
    order: u8,
    /// Bytes of a residual.
    width: u8,
    /// The first number, for orders 1 and 2.
    first: u64,
    /// The step from the first to the second, for order 2.
    step: u64,
    /// The smallest residual.
    base: u64,
}

impl Shape {
    /// Bytes of a residual, 0 to 8.
    pub fn width(&self) -> usize {
        usize::from(self.width)
    }

    /// How many residuals a column of `len` numbers has.
    pub fn residuals(&self, len: usize) -> usize {
        len.saturating_sub(usize::from(self.order))
    }

    /// The cheapest shape for `values`, and their residuals.
    pub fn choose(values: &[u64], residuals: &mut Vec<u64>) -> Self {
        residuals.clear();
        let (Some(&first), Some(&second)) = (values.first(), values.get(1)) else {
            return Self { base: values.first().copied().unwrap_or(0), ..Self::default() };
        };
        let step = second.wrapping_sub(first);
        // the ranges of steps, and of the steps' steps; either may have any sign
        let (mut low1, mut high1) = (step.cast_signed(), step.cast_signed());
        let (mut low2, mut high2) = (i64::MAX, i64::MIN);
        let (mut last, mut last_step) = (second, step);
        for &value in values.get(2..).unwrap_or_default() {
            let step = value.wrapping_sub(last);
            let bend = step.wrapping_sub(last_step).cast_signed();
            (low1, high1) = (low1.min(step.cast_signed()), high1.max(step.cast_signed()));
            (low2, high2) = (low2.min(bend), high2.max(bend));
            (last, last_step) = (value, step);
        }
        let count = values.len() as u64;
        // what doesn't fall, nor goes round, begins with its smallest: counters are that
        let most = high1.cast_unsigned().checked_mul(count);
        let rises = low1 >= 0 && most.is_some_and(|most| first.checked_add(most).is_some());
        let (low, high) = if rises {
            (first, last)
        } else {
            values.iter().fold((first, first), |(low, high), value| (low.min(*value), high.max(*value)))
        };
        let bits = |range: u64| u64::from(64 - range.leading_zeros());
        let costs = [
            bits(high - low) * count,
            bits(high1.wrapping_sub(low1).cast_unsigned()) * (count - 1) + 8,
            if values.len() > 2 { bits(high2.wrapping_sub(low2).cast_unsigned()) * (count - 2) + 16 } else { u64::MAX },
        ];
        let bytes = |range: u64| low_byte(bits(range).div_ceil(8));
        if costs[0] <= costs[1] && costs[0] <= costs[2] {
            residuals.extend(values.iter().map(|value| value.wrapping_sub(low)));
            Self { order: 0, width: bytes(high - low), base: low, first: 0, step: 0 }
        } else if costs[1] <= costs[2] {
            let base = low1.cast_unsigned();
            residuals
                .extend(values.iter().zip(values.iter().skip(1)).map(|(a, b)| b.wrapping_sub(*a).wrapping_sub(base)));
            Self { order: 1, width: bytes(high1.wrapping_sub(low1).cast_unsigned()), first, step: 0, base }
        } else {
            let base = low2.cast_unsigned();
            residuals.extend(values.windows(3).map(|three| match three {
                [a, b, c] => c.wrapping_sub(*b).wrapping_sub(b.wrapping_sub(*a)).wrapping_sub(base),
                _ => 0,
            }));
            Self { order: 2, width: bytes(high2.wrapping_sub(low2).cast_unsigned()), first, step, base }
        }
    }

    /// Appends the shape.
    pub fn put(&self, to: &mut Vec<u8>) {
        to.push(self.order | self.width << 2);
        if self.order == 0 {
            put_varint(to, self.base);
            return;
        }
        put_varint(to, self.first);
        if self.order == 2 {
            put_signed(to, self.step.cast_signed());
        }
        put_signed(to, self.base.cast_signed());
    }

    /// What [`Self::put`] wrote.
    pub fn read(from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let head = from.byte()?;
        let (order, width) = (head & 3, head >> 2);
        if order > 2 || width > 8 {
            return Err(Damaged("a column has no shape that is known"));
        }
        if order == 0 {
            return Ok(Self { order, width, base: from.varint()?, ..Self::default() });
        }
        let first = from.varint()?;
        let step = if order == 2 { from.signed()?.cast_unsigned() } else { 0 };
        Ok(Self { order, width, first, step, base: from.signed()?.cast_unsigned() })
    }

    /// Turns the residuals at the end of `values`, from `at` on, into the numbers they stand for.
    fn restore(&self, at: usize, values: &mut [u64]) {
        let Some(own) = values.get_mut(at..) else { return };
        match self.order {
            0 => own.iter_mut().for_each(|value| *value = value.wrapping_add(self.base)),
            1 => {
                let mut last = self.first;
                for value in own.iter_mut() {
                    let next = last;
                    last = last.wrapping_add(*value).wrapping_add(self.base);
                    *value = next;
                }
            }
            _ => {
                let (mut last, mut step) = (self.first, self.step);
                for value in own.iter_mut() {
                    let next = last;
                    last = last.wrapping_add(step);
                    step = step.wrapping_add(*value).wrapping_add(self.base);
                    *value = next;
                }
            }
        }
    }
}

/// Appends a column, its planes one after the other.
pub fn put_column(values: &[u64], residuals: &mut Vec<u64>, to: &mut Vec<u8>) {
    let shape = Shape::choose(values, residuals);
    shape.put(to);
    for plane in 0..shape.width() {
        to.extend(residuals.iter().map(|residual| low_byte(residual >> (8 * plane))));
    }
}

/// Appends the `len` numbers that [`put_column`] wrote to `values`, or none. The caller bounds `len`.
pub fn read_column(from: &mut Reader<'_>, len: usize, values: &mut Vec<u64>) -> Result<(), Damaged> {
    let shape = Shape::read(from)?;
    let at = values.len();
    values.resize(at + len, 0);
    let count = shape.residuals(len);
    for plane in 0..shape.width() {
        match from.bytes(count) {
            Ok(bytes) => add_plane(bytes, plane, values.get_mut(at..).unwrap_or_default()),
            Err(damaged) => {
                values.truncate(at);
                return Err(damaged);
            }
        }
    }
    shape.restore(at, values);
    Ok(())
}

fn add_plane(bytes: &[u8], plane: usize, values: &mut [u64]) {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value |= u64::from(*byte) << (8 * plane);
    }
}

/// Writes many columns whose planes are kept and compressed apart.
#[derive(Debug, Default)]
pub struct Planes {
    planes: [Vec<u8>; 8],
    residuals: Vec<u64>,
}

impl Planes {
    /// Empty, with the memory of before.
    pub fn clear(&mut self) {
        self.planes.iter_mut().for_each(Vec::clear);
    }

    /// Adds a column; its shape goes to `meta`.
    pub fn put(&mut self, values: &[u64], meta: &mut Vec<u8>) {
        let shape = Shape::choose(values, &mut self.residuals);
        shape.put(meta);
        for (number, plane) in self.planes.iter_mut().enumerate().take(shape.width()) {
            plane.extend(self.residuals.iter().map(|residual| low_byte(residual >> (8 * number))));
        }
    }

    /// Appends `meta` and what was put: together if they are short, else each plane as a section of its own, so that
    /// what is random stays apart from what compresses.
    pub fn finish(&self, meta: &[u8], zip: &mut Zip, to: &mut Vec<u8>) -> io::Result<()> {
        let used = self.planes.iter().take_while(|plane| !plane.is_empty()).count();
        let planes = || self.planes.iter().take(used);
        put_varint(to, used as u64);
        put_varint(to, meta.len() as u64);
        planes().for_each(|plane| put_varint(to, plane.len() as u64));
        if planes().map(Vec::len).sum::<usize>() + meta.len() > SHORT {
            zip.put_section(meta, to)?;
            return planes().try_for_each(|plane| zip.put_section(plane, to));
        }
        let mut all = Vec::with_capacity(SHORT);
        all.extend_from_slice(meta);
        planes().for_each(|plane| all.extend_from_slice(plane));
        zip.put_section(&all, to)
    }
}

/// Reads what [`Planes`] wrote.
#[derive(Debug)]
pub struct PlanesReader {
    planes: Vec<(Vec<u8>, usize)>,
}

impl PlanesReader {
    /// Decompresses the planes. Also what [`Planes::finish`] was given as `meta`.
    pub fn new(from: &mut Reader<'_>, zip: &mut Zip, max: usize) -> Result<(Self, Vec<u8>), Damaged> {
        let used = from.count(8)?;
        let mut lens = Vec::with_capacity(used + 1);
        for _ in 0..=used {
            lens.push(from.count(max)?);
        }
        let all: usize = lens.iter().sum();
        let mut parts = Vec::with_capacity(lens.len());
        if all > SHORT {
            for len in lens {
                let part = zip.read_section(from, max)?;
                if part.len() != len {
                    return Err(Damaged("a plane has another length than it says"));
                }
                parts.push(part);
            }
        } else {
            let together = zip.read_section(from, SHORT)?;
            let mut rest = Reader::new(&together);
            for len in lens {
                parts.push(rest.bytes(len)?.to_vec());
            }
            if !rest.is_empty() {
                return Err(Damaged("planes go on after their end"));
            }
        }
        let meta = parts.remove(0);
        Ok((Self { planes: parts.into_iter().map(|plane| (plane, 0)).collect() }, meta))
    }

    /// Appends the next column, of `len` numbers, whose shape is in `meta`. The caller bounds `len`.
    pub fn read(&mut self, meta: &mut Reader<'_>, len: usize, values: &mut Vec<u64>) -> Result<(), Damaged> {
        let shape = Shape::read(meta)?;
        let at = values.len();
        values.resize(at + len, 0);
        self.each(&shape, len, |plane, bytes| add_plane(bytes, plane, values.get_mut(at..).unwrap_or_default()))?;
        shape.restore(at, values);
        Ok(())
    }

    /// Passes over the next column.
    pub fn skip(&mut self, meta: &mut Reader<'_>, len: usize) -> Result<(), Damaged> {
        let shape = Shape::read(meta)?;
        self.each(&shape, len, |_, _| {})
    }

    fn each(&mut self, shape: &Shape, len: usize, mut take: impl FnMut(usize, &[u8])) -> Result<(), Damaged> {
        let count = shape.residuals(len);
        for number in 0..shape.width() {
            let (bytes, at) = self.planes.get_mut(number).ok_or(Damaged("a plane is missing"))?;
            let own = bytes.get(*at..).and_then(|rest| rest.get(..count)).ok_or(Damaged("a plane ends early"))?;
            *at += count;
            take(number, own);
        }
        Ok(())
    }
}

/// Compresses and decompresses; its memory is used again.
pub struct Zip {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
}

impl std::fmt::Debug for Zip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Zip")
    }
}

impl Zip {
    /// Fails only where memory does.
    pub fn new() -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, decompressor: Decompressor::new()? })
    }

    /// Calls `work` with this thread's own: its memory is large, for what is small.
    ///
    /// # Errors
    /// If memory is short.
    pub fn shared<T>(work: impl FnOnce(&mut Self) -> T) -> io::Result<T> {
        thread_local! {
            static KEPT: RefCell<Option<Zip>> = const { RefCell::new(None) };
        }
        KEPT.with_borrow_mut(|kept| {
            let zip = match kept {
                Some(zip) => zip,
                None => kept.insert(Self::new()?),
            };
            Ok(work(zip))
        })
    }

    /// Appends `bytes`, compressed where that helps.
    pub fn put_section(&mut self, bytes: &[u8], to: &mut Vec<u8>) -> io::Result<()> {
        put_varint(to, bytes.len() as u64);
        if bytes.len() >= WORTH_COMPRESSING {
            let smaller = self.compressor.compress(bytes)?;
            if smaller.len() < bytes.len() {
                put_varint(to, smaller.len() as u64);
                to.extend_from_slice(&smaller);
                return Ok(());
            }
        }
        put_varint(to, 0);
        to.extend_from_slice(bytes);
        Ok(())
    }

    /// What [`Self::put_section`] wrote, at most `max` bytes of it.
    pub fn read_section(&mut self, from: &mut Reader<'_>, max: usize) -> Result<Vec<u8>, Damaged> {
        let len = from.count(max.min(MAX_SECTION))?;
        let stored = from.count(MAX_SECTION)?;
        if stored == 0 {
            return Ok(from.bytes(len)?.to_vec());
        }
        let bytes = from.bytes(stored)?;
        let plain = self.decompressor.decompress(bytes, len).map_err(|_| Damaged("a section can't be decompressed"))?;
        if plain.len() == len { Ok(plain) } else { Err(Damaged("a section has another length than it says")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers as counters are: even, with noise, at rest, and not at all like that.
    fn columns() -> impl Strategy<Value = Vec<Vec<u64>>> {
        let counter = (any::<u32>(), 0u64..1 << 40, 1u64..1 << 20, prop::collection::vec(any::<u64>(), 0..200))
            .prop_map(|(start, rate, noise, steps)| {
                let mut value = u64::from(start);
                steps
                    .iter()
                    .map(|step| {
                        value += rate + step % noise;
                        value
                    })
                    .collect()
            });
        let column = prop_oneof![
            prop::collection::vec(any::<u64>(), 0..50),
            prop::collection::vec(prop_oneof![Just(0), Just(u64::MAX), Just(1 << 63)], 0..50),
            counter,
        ];
        prop::collection::vec(column, 0..10)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(columns in columns()) {
            let (mut alone, mut meta, mut residuals) = (Vec::new(), Vec::new(), Vec::new());
            let (mut zip, mut planes, mut shared) = (Zip::new().unwrap(), Planes::default(), Vec::new());
            for column in &columns {
                put_column(column, &mut residuals, &mut alone);
                planes.put(column, &mut meta);
            }
            planes.finish(&meta, &mut zip, &mut shared).unwrap();
            let mut from = Reader::new(&shared);
            let (mut planes, meta_again) = PlanesReader::new(&mut from, &mut zip, MAX_SECTION).unwrap();
            let (mut again, _) = PlanesReader::new(&mut Reader::new(&shared), &mut zip, MAX_SECTION).unwrap();
            prop_assert_eq!(&meta_again, &meta);
            let (mut alone, mut meta) = (Reader::new(&alone), Reader::new(&meta));
            let mut skipped = meta;
            prop_assert!(from.is_empty());
            for (n, column) in columns.iter().enumerate() {
                let mut values = vec![7];
                read_column(&mut alone, column.len(), &mut values).unwrap();
                planes.read(&mut meta, column.len(), &mut values).unwrap();
                prop_assert_eq!(&values[1..=column.len()], &column[..]);
                prop_assert_eq!(&values[1 + column.len()..], &column[..]);
                if n + 1 < columns.len() {
                    again.skip(&mut skipped, column.len()).unwrap();
                } else {
                    values.clear();
                    again.read(&mut skipped, column.len(), &mut values).unwrap();
                    prop_assert_eq!(&values, column);
                }
            }
            prop_assert!(alone.is_empty() && meta.is_empty());
        }

        #[test]
        fn numbers_and_texts_round_trip(value in any::<u64>(), text in any::<String>()) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            put_signed(&mut bytes, value.cast_signed());
            put_text(&mut bytes, &text);
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.signed(), Ok(value.cast_signed()));
            prop_assert_eq!(reader.text(), Ok(&*text));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn no_bytes_panic_or_swell(bytes in prop::collection::vec(any::<u8>(), 0..200), len in 0usize..1000) {
            let mut zip = Zip::new().unwrap();
            let mut values = Vec::new();
            let column = read_column(&mut Reader::new(&bytes), len, &mut values);
            prop_assert!(values.len() <= len && (column.is_err() || values.len() == len));
            let mut reader = Reader::new(&bytes);
            if let Ok((mut planes, meta)) = PlanesReader::new(&mut reader, &mut zip, 1000) {
                prop_assert!(meta.len() <= 1000 && planes.planes.iter().all(|(plane, _)| plane.len() <= 1000));
                values.clear();
                while planes.read(&mut reader, len, &mut values).is_ok() && values.len() < 10_000 && len > 0 {}
            }
        }
    }

    #[test]
    fn an_even_counter_takes_next_to_nothing_and_noise_its_own_bytes() {
        let size = |values: &[u64]| {
            let mut to = Vec::new();
            put_column(values, &mut Vec::new(), &mut to);
            to.len()
        };
        let even: Vec<u64> = (0..600).map(|n| 123_456_789_000 + n * 10_000_000).collect();
        assert!(size(&even) < 16);
        assert!(size(&[42; 600]) < 4);
        let noisy: Vec<u64> = (0..600).map(|n| 5_000_000_000 + n * 10_000_000 + (n * 7919) % 251).collect();
        assert!(size(&noisy) < 16 + 2 * 600);
        // a plane of zeros is no plane
        assert!(size(&[0, 1, 0, 200, 3]) == 2 + 5);
    }
}
