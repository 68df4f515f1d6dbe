//! Energy per task, per workload and per zone since the first sample of this boot. Pure; it only ever grows.
//!
//! Tasks and workloads are rows of plain columns, one figure per zone. A workload's row grows by exactly what its
//! tasks' rows grow by, so that sums agree at every level to the microjoule, ended tasks included.

use ebbtide_proto::Energy;
use serde::{Deserialize, Serialize};

use crate::counter::{Gap, Step};

/// One figure per row and zone.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    zones: usize,
    /// Energy so far, idle share included.
    energy: Vec<Energy>,
    /// Of that, shares of idle energy.
    idle: Vec<Energy>,
    /// What the last interval added to `energy`.
    last: Vec<Energy>,
}

impl Columns {
    /// No rows, for this many zones.
    pub fn new(zones: usize) -> Self {
        Self { zones, ..Self::default() }
    }

    /// Makes room for `rows` rows and forgets what the last interval added.
    pub fn begin(&mut self, rows: usize) {
        let n = rows * self.zones;
        if n > self.energy.len() {
            self.energy.resize(n, Energy::ZERO);
            self.idle.resize(n, Energy::ZERO);
        }
        self.last.clear();
        self.last.resize(self.energy.len(), Energy::ZERO);
    }

    /// Adds to one figure.
    pub fn add(&mut self, row: usize, zone: usize, active: Energy, idle: Energy) {
        if zone >= self.zones {
            return;
        }
        let i = row * self.zones + zone;
        let sum = active + idle;
        if let (Some(e), Some(d), Some(l)) = (self.energy.get_mut(i), self.idle.get_mut(i), self.last.get_mut(i)) {
            *e += sum;
            *d += idle;
            *l += sum;
        }
    }

    /// Sets a row to figures kept by an earlier run of the agent; missing zones are zero.
    pub fn restore(&mut self, row: usize, energy: &[Energy], idle: &[Energy]) {
        for z in 0..self.zones {
            let i = row * self.zones + z;
            if let (Some(e), Some(d)) = (self.energy.get_mut(i), self.idle.get_mut(i)) {
                *e = energy.get(z).copied().unwrap_or_default();
                *d = idle.get(z).copied().unwrap_or_default();
            }
        }
    }

    /// Empties a row for its next user.
    pub fn clear(&mut self, row: usize) {
        self.restore(row, &[], &[]);
        for z in 0..self.zones {
            if let Some(l) = self.last.get_mut(row * self.zones + z) {
                *l = Energy::ZERO;
            }
        }
    }

    /// Energy of a row by zone.
    pub fn energy(&self, row: usize) -> &[Energy] {
        self.slice(&self.energy, row)
    }

    /// Idle share of a row by zone.
    pub fn idle(&self, row: usize) -> &[Energy] {
        self.slice(&self.idle, row)
    }

    /// What the last interval added to a row, by zone.
    pub fn last(&self, row: usize) -> &[Energy] {
        self.slice(&self.last, row)
    }

    fn slice<'a>(&self, column: &'a [Energy], row: usize) -> &'a [Energy] {
        column.get(row * self.zones..(row + 1) * self.zones).unwrap_or_default()
    }
}

/// A zone's account. `total = Σ tasks + unallocated + residual`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneAccount {
    /// All its energy so far.
    pub total: Energy,
    /// The part it would have drawn idle, whoever was given it.
    pub idle: Energy,
    /// Idle energy given to nobody.
    pub unallocated: Energy,
    /// Energy that nobody could be found for.
    pub residual: Energy,
    /// Wraps of its counter.
    pub wraps: u64,
    /// Gaps by [`Gap::index`]: how many.
    pub gaps: [u64; Gap::ALL.len()],
    /// Gaps by [`Gap::index`]: how long, in nanoseconds.
    pub gap_ns: [u64; Gap::ALL.len()],
}

impl ZoneAccount {
    /// Books what a step of the counter says of gaps and wraps.
    pub fn note(&mut self, step: &Step) {
        self.wraps += u64::from(step.wrapped);
        if let Some(gap) = step.gap {
            if let Some(n) = self.gaps.get_mut(gap.index()) {
                *n += 1;
            }
            if let Some(ns) = self.gap_ns.get_mut(gap.index()) {
                *ns = ns.saturating_add(u64::try_from(step.dt.as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Rows never fall, and growing the table leaves them alone.
        #[test]
        fn rows_only_grow(adds in prop::collection::vec((0..20usize, 0..4usize, 0..1u64 << 40, 0..1u64 << 40), 1..100)) {
            let mut c = Columns::new(3);
            let mut truth = std::collections::BTreeMap::<(usize, usize), u64>::new();
            for (row, zone, active, idle) in adds {
                c.begin(row + 1);
                let before: Vec<_> = (0..=row).map(|r| c.energy(r).to_vec()).collect();
                c.add(row, zone, Energy::from_uj(active), Energy::from_uj(idle));
                if zone < 3 {
                    *truth.entry((row, zone)).or_default() += active + idle;
                }
                for (r, was) in before.iter().enumerate() {
                    for (z, was) in was.iter().enumerate() {
                        prop_assert!(c.energy(r)[z] >= *was && c.energy(r)[z] >= c.idle(r)[z]);
                    }
                }
            }
            for ((row, zone), uj) in truth {
                prop_assert_eq!(c.energy(row)[zone].uj(), uj);
            }
        }
    }

    #[test]
    fn a_cleared_row_starts_at_zero() {
        let mut c = Columns::new(2);
        c.begin(2);
        c.add(1, 0, Energy::from_uj(5), Energy::from_uj(2));
        assert_eq!(c.energy(1), [Energy::from_uj(7), Energy::ZERO]);
        assert_eq!(c.last(1)[0].uj(), 7);
        c.clear(1);
        assert_eq!((c.energy(1)[0], c.last(1)[0]), (Energy::ZERO, Energy::ZERO));
        assert_eq!(c.energy(9), &[] as &[Energy]);
    }
}
