//! Sums over the fleet by group, minute by minute, so that questions about all of it need not read each node. Pure.

use std::collections::HashMap;

use ebbtide_proto::series::Quality;
use ebbtide_proto::{NodeId, v1::GroupBy};

use super::codec::{Damaged, Reader, put_column, read_column};
use super::groups::{Described, group, quality};
use super::names::{Names, first_of, quality_code, quality_of};
use super::rollup::Rollup;

/// By what sums are kept: all that has few enough groups.
pub(super) const KINDS: [GroupBy; 8] = [
    GroupBy::Fleet,
    GroupBy::Node,
    GroupBy::Component,
    GroupBy::Namespace,
    GroupBy::Unit,
    GroupBy::Vm,
    GroupBy::User,
    GroupBy::App,
];

/// Minutes of a row.
const MINUTES: usize = 60;

/// Which group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SumKey {
    /// A [`GroupBy`].
    pub(super) kind: i32,
    pub(super) name: String,
}

/// The minutes of a group's hour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sum {
    /// In microjoules.
    pub(super) energy: Vec<u64>,
    /// The longest that any of the group's nodes is known.
    pub(super) covered_ms: Vec<u64>,
    /// The worst there was.
    pub(super) quality: Quality,
}

impl Default for Sum {
    fn default() -> Self {
        Self { energy: vec![0; MINUTES], covered_ms: vec![0; MINUTES], quality: Quality::Measured }
    }
}

impl Sum {
    /// Adds energies; what is known longer stays.
    pub(super) fn add(&mut self, other: &Self) {
        self.energy.iter_mut().zip(&other.energy).for_each(|(to, by)| *to = to.wrapping_add(*by));
        self.covered_ms.iter_mut().zip(&other.covered_ms).for_each(|(to, by)| *to = (*to).max(*by));
        self.quality = self.quality.max(other.quality);
    }

    /// The hour's energy, and how much of it is known.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.energy.iter().fold(0, |sum, by| sum.wrapping_add(*by)), self.covered_ms.iter().sum())
    }

    pub(super) fn quality_code(&self) -> u8 {
        quality_code(self.quality)
    }

    pub(super) fn put(&self, to: &mut Vec<u8>) {
        let mut residuals = Vec::new();
        put_column(&self.energy, &mut residuals, to);
        put_column(&self.covered_ms, &mut residuals, to);
    }

    pub(super) fn read(bytes: &[u8], quality: u8) -> Result<Self, Damaged> {
        let mut from = Reader::new(bytes);
        let mut sum = Self { energy: Vec::new(), covered_ms: Vec::new(), quality: quality_of(quality)? };
        read_column(&mut from, MINUTES, &mut sum.energy)?;
        read_column(&mut from, MINUTES, &mut sum.covered_ms)?;
        if from.is_empty() { Ok(sum) } else { Err(Damaged("a sum goes on after its end")) }
    }
}

/// Sums by hour and group.
pub(super) type Sums = HashMap<u32, HashMap<SumKey, Sum>>;

/// Adds what an hour of a node has in `new` to the sums. How much of its time is known is in `whole`, which also has
/// what was there before.
pub(super) fn add_hour(sums: &mut Sums, hour: u32, node: &NodeId, new: &Rollup, whole: &Rollup, names: &Names) {
    let sums = sums.entry(hour).or_default();
    let nobody = Described::default();
    // what is known of series that follow each other adds up
    let mut chains: HashMap<u32, Vec<u64>> = HashMap::new();
    for column in &whole.columns {
        let known = chains.entry(first_of(column.series, names)).or_insert_with(|| vec![0; column.covered_ms.len()]);
        known.iter_mut().zip(&column.covered_ms).for_each(|(known, ms)| *known += ms);
    }
    for column in &new.columns {
        let Some(named) = names.get(&column.series) else { continue };
        let Some(known) = chains.get(&first_of(column.series, names)) else { continue };
        for by in KINDS {
            let Some(name) = group(&named.definition, by, node, &nobody) else { continue };
            let sum = sums.entry(SumKey { kind: by.into(), name }).or_default();
            sum.energy.iter_mut().zip(&column.by).for_each(|(to, by)| *to = to.wrapping_add(*by));
            // only minutes that this has to do with, so that sums don't depend on what else was sealed
            for ((to, covered), new) in sum.covered_ms.iter_mut().zip(known).zip(&column.covered_ms) {
                *to = if *new > 0 { (*to).max(*covered) } else { *to };
            }
            sum.quality = sum.quality.max(quality(&named.definition));
        }
    }
}
