//! The last sample of each series of a node, as far as it is in days, as bytes and back. Pure.
//!
//! It is what the next step is counted from. Samples that nothing can be counted from any more are left out, so it
//! stays as small as what a node tells at a time.

use std::collections::{BTreeMap, HashMap};

use super::codec::{Damaged, Reader, put_column, put_varint, read_column};
use super::samples::{Boot, LONGEST_STEP_MS, Sample, Samples};

/// How long a silent series is remembered beyond the longest step, in milliseconds: as long as its next value is
/// counted as a gap and not as a first one.
const REMEMBERED_MS: u64 = 60 * 60_000;
const MAX_SERIES: usize = 1 << 20;

/// The last samples, by the number of the series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tail(BTreeMap<u32, Sample>);

impl Tail {
    /// The last sample of a series.
    pub(super) fn of(&self, series: u32) -> Option<Sample> {
        self.0.get(&series).copied()
    }

    /// Goes on to the end of `samples`.
    pub(super) fn advance(&mut self, samples: &Samples) {
        for column in &samples.columns {
            if let Some(sample) = samples.last(column) {
                self.0.insert(column.series, sample);
            }
        }
        let newest = samples.ticks.iter().copied().max().unwrap_or(0);
        let oldest = newest.saturating_sub(LONGEST_STEP_MS + REMEMBERED_MS);
        self.0.retain(|_, sample| sample.at >= oldest);
    }

    /// The series that it has.
    pub(super) fn series(&self) -> impl ExactSizeIterator<Item = u32> {
        self.0.keys().copied()
    }

    /// Appends it.
    pub fn put(&self, to: &mut Vec<u8>) {
        let mut residuals = Vec::new();
        let mut boots: Vec<Boot> = Vec::new();
        let mut places: HashMap<Boot, u64> = HashMap::new();
        for sample in self.0.values() {
            places.entry(sample.boot).or_insert_with(|| {
                boots.push(sample.boot);
                boots.len() as u64 - 1
            });
        }
        put_varint(to, boots.len() as u64);
        for boot in &boots {
            to.push(u8::from(boot.is_some()));
            to.extend_from_slice(&boot.unwrap_or(0).to_le_bytes());
        }
        put_varint(to, self.0.len() as u64);
        let mut column = |values: Vec<u64>| put_column(&values, &mut residuals, to);
        column(self.0.keys().map(|series| u64::from(*series)).collect());
        column(self.0.values().map(|sample| places.get(&sample.boot).copied().unwrap_or(0)).collect());
        column(self.0.values().map(|sample| sample.at).collect());
        // values have nothing to do with each other
        for sample in self.0.values() {
            put_varint(to, sample.value);
        }
    }

    /// What [`Self::put`] wrote; nothing for no bytes.
    pub fn read(bytes: &[u8]) -> Result<Self, Damaged> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut from = Reader::new(bytes);
        let mut boots = Vec::new();
        for _ in 0..from.count(bytes.len())? {
            let known = from.byte()? != 0;
            let boot = from.bytes(16)?.try_into().map_err(|_| Damaged("a boot is cut off"))?;
            boots.push(known.then_some(u128::from_le_bytes(boot)));
        }
        let count = from.count(bytes.len().min(MAX_SERIES))?;
        let mut columns = [Vec::new(), Vec::new(), Vec::new()];
        for column in &mut columns {
            read_column(&mut from, count, column)?;
        }
        let [series, places, at] = columns;
        let mut tail = BTreeMap::new();
        for ((series, place), at) in series.into_iter().zip(places).zip(at) {
            let series = u32::try_from(series).map_err(|_| Damaged("a series has no number"))?;
            let boot =
                usize::try_from(place).ok().and_then(|place| boots.get(place)).ok_or(Damaged("a boot is missing"))?;
            tail.insert(series, Sample { at, value: from.varint()?, boot: *boot });
        }
        if from.is_empty() { Ok(Self(tail)) } else { Err(Damaged("a tail goes on after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tail_round_trips(
            all in prop::collection::btree_map(any::<u32>(), (any::<u64>(), any::<u64>(), prop::option::of(0u128..3)), 0..30)
        ) {
            let sample = |(series, (at, value, boot))| (series, Sample { at, value, boot });
            let tail = Tail(all.into_iter().map(sample).collect());
            let mut bytes = Vec::new();
            tail.put(&mut bytes);
            prop_assert_eq!(Tail::read(&bytes), Ok(tail));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Tail::read(&bytes).map_or(0, |tail| tail.0.len()) <= bytes.len());
        }
    }
}
