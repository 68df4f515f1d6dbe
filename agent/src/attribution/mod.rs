//! Whose energy it was. Pure: `attribute(&Interval) -> Attribution`, integers throughout.
//!
//! `split` shares out an amount exactly, `floor` learns what a zone draws when nothing runs, `weights` says how
//! much of a zone each task stands for, `mix` learns what hardware events cost. Nothing here reads a file or keeps a total.
//!
//! For each zone and interval, to the microjoule:
//! `Σ shares of tasks + idle nobody was given + residual = energy of the zone`.

pub mod floor;
pub mod mix;
pub mod split;
pub mod weights;

use ebbtide_proto::Energy;
use serde::{Deserialize, Serialize};

use split::{Scratch, Weight, by_largest_remainder};

/// What is done with the energy that a zone draws when nothing runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IdlePolicy {
    /// It stays the node's.
    #[default]
    Unallocated,
    /// Shared like the active part.
    ByUsage,
    /// Shared by the CPU weight that was reserved (`cpu.weight`, `cpu.shares`).
    ByReservation,
    /// The same for each workload.
    Equal,
}

impl IdlePolicy {
    /// The name in configuration, metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unallocated => "unallocated",
            Self::ByUsage => "by-usage",
            Self::ByReservation => "by-reservation",
            Self::Equal => "equal",
        }
    }
}

/// What a zone's energy is shared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// CPU time on one package.
    Socket(usize),
    /// CPU time anywhere.
    Machine,
    /// CPU time mixed with resident memory, on one package or anywhere.
    Memory(Option<usize>),
    /// Nothing that is known here tells who used it.
    Nobody,
}

impl Basis {
    /// The package whose work counts, or none if all of them do; `None` if nobody's does.
    pub fn socket(self) -> Option<Option<usize>> {
        match self {
            Self::Socket(s) => Some(Some(s)),
            Self::Machine => Some(None),
            Self::Memory(s) => Some(s),
            Self::Nobody => None,
        }
    }
}

/// One zone in one interval.
#[derive(Clone, Copy, Debug)]
pub struct ZoneInterval {
    /// What it drew.
    pub energy: Energy,
    /// What it would have drawn had nothing run.
    pub floor: Energy,
    /// What it is shared by.
    pub basis: Basis,
    /// The interval has a gap: who used the energy is not known.
    pub gap: bool,
    /// What hardware events cost there, if that is known.
    pub prices: Option<mix::Prices>,
}

/// Everything that [`attribute`] looks at.
pub struct Interval<'a> {
    /// The zones.
    pub zones: &'a [ZoneInterval],
    /// How much each task ran.
    pub loads: &'a weights::Loads,
    /// What is done with idle energy.
    pub policy: IdlePolicy,
    /// Who gets idle energy under [`IdlePolicy::ByReservation`] and [`IdlePolicy::Equal`].
    pub reservations: &'a [Weight],
}

/// One zone's energy, shared out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneShares {
    /// Per task of [`weights::Loads::tasks`]: what it used.
    pub active: Vec<Energy>,
    /// Per task of [`weights::Loads::tasks`] under [`IdlePolicy::ByUsage`], per entry of
    /// [`Interval::reservations`] under the policies that use them, else empty: its share of idle energy.
    pub idle: Vec<Energy>,
    /// The idle part as a whole.
    pub idle_total: Energy,
    /// Idle energy that was given to nobody.
    pub unallocated: Energy,
    /// Energy above idle that nobody could be found for.
    pub residual: Energy,
}

/// The result, by zone. Its memory can be used again.
#[derive(Default)]
pub struct Attribution {
    /// As many as [`Interval::zones`].
    pub zones: Vec<ZoneShares>,
    scratch: Scratch,
    weights: Vec<Weight>,
}

/// Shares out the energy of an interval into `to`.
pub fn attribute(interval: &Interval<'_>, to: &mut Attribution) {
    let Attribution { zones, scratch, weights } = to;
    zones.resize_with(interval.zones.len(), ZoneShares::default);
    for (zone, out) in interval.zones.iter().zip(zones) {
        if zone.gap {
            out.active.clear();
            out.active.resize(interval.loads.tasks.len(), Energy::ZERO);
            out.idle.clear();
            (out.idle_total, out.unallocated, out.residual) = (Energy::ZERO, Energy::ZERO, zone.energy);
            continue;
        }
        let idle = zone.floor.min(zone.energy);
        let active = zone.energy.saturating_sub(idle);
        interval.loads.weigh(zone.basis, zone.prices.as_ref(), weights);
        out.residual = by_largest_remainder(active, weights, scratch, &mut out.active);
        out.idle_total = idle;
        out.unallocated = match interval.policy {
            IdlePolicy::Unallocated => {
                out.idle.clear();
                idle
            }
            IdlePolicy::ByUsage => by_largest_remainder(idle, weights, scratch, &mut out.idle),
            IdlePolicy::ByReservation | IdlePolicy::Equal => {
                by_largest_remainder(idle, interval.reservations, scratch, &mut out.idle)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::weights::{Load, Loads};
    use super::*;
    use crate::usage::table::TaskIx;
    use proptest::prelude::*;

    fn policy() -> impl Strategy<Value = IdlePolicy> {
        prop_oneof![
            Just(IdlePolicy::Unallocated),
            Just(IdlePolicy::ByUsage),
            Just(IdlePolicy::ByReservation),
            Just(IdlePolicy::Equal)
        ]
    }

    fn basis() -> impl Strategy<Value = Basis> {
        prop_oneof![
            (0..3usize).prop_map(Basis::Socket),
            Just(Basis::Machine),
            prop::option::of(0..3usize).prop_map(Basis::Memory),
            Just(Basis::Nobody)
        ]
    }

    fn loads(rows: &[(u64, u64, u64)]) -> Loads {
        let mut loads = Loads::new(2);
        for (i, &(a, b, rss)) in rows.iter().enumerate() {
            let task = TaskIx::test(i);
            loads.push(Load { task, order: i as u64, rss_pages: rss }, &[a, b]);
        }
        loads
    }

    proptest! {
        /// Conservation to the microjoule for any input whatever.
        #[test]
        fn every_microjoule_is_somewhere(
            rows in prop::collection::vec((0..1u64 << 40, 0..1u64 << 40, 0..1u64 << 30), 0..40),
            zones in prop::collection::vec((any::<u64>(), any::<u64>(), basis(), any::<bool>()), 1..5),
            reserved in prop::collection::vec(0..10_000u64, 0..20),
            policy in policy(),
        ) {
            let loads = loads(&rows);
            let zones: Vec<ZoneInterval> = zones.into_iter().map(|(e, f, basis, gap)| ZoneInterval {
                energy: Energy::from_uj(e), floor: Energy::from_uj(f), basis, gap, prices: None,
            }).collect();
            let reservations: Vec<Weight> = (0..).zip(reserved).map(|(key, weight)| Weight { key, weight }).collect();
            let mut out = Attribution::default();
            attribute(&Interval { zones: &zones, loads: &loads, policy, reservations: &reservations }, &mut out);
            for (zone, shares) in zones.iter().zip(&out.zones) {
                let sum: u128 = shares.active.iter().chain(&shares.idle).chain([&shares.unallocated, &shares.residual])
                    .map(|e| u128::from(e.uj())).sum();
                prop_assert_eq!(sum, u128::from(zone.energy.uj()));
                prop_assert_eq!(shares.active.len(), rows.len());
                if zone.gap {
                    prop_assert_eq!(shares.residual, zone.energy);
                }
            }
        }

        /// The order in which tasks come makes no difference, and who did nothing gets nothing.
        #[test]
        fn order_and_idlers_do_not_matter(rows in prop::collection::vec((0..1u64 << 30, 0..1u64 << 30, 0..1u64 << 20), 1..30), energy in any::<u64>()) {
            let zone = [ZoneInterval { energy: Energy::from_uj(energy), floor: Energy::from_uj(energy / 3), basis: Basis::Machine, gap: false, prices: None }];
            let run = |rows: &[(usize, (u64, u64, u64))]| {
                let mut loads = Loads::new(2);
                for &(i, (a, b, rss)) in rows {
                    loads.push(Load { task: TaskIx::test(i), order: i as u64, rss_pages: rss }, &[a, b]);
                }
                let mut out = Attribution::default();
                attribute(&Interval { zones: &zone, loads: &loads, policy: IdlePolicy::ByUsage, reservations: &[] }, &mut out);
                let mut all: Vec<_> = rows.iter().map(|r| r.0).zip(out.zones[0].active.clone()).collect();
                all.sort_unstable();
                all
            };
            let forth: Vec<_> = rows.iter().copied().enumerate().collect();
            let back: Vec<_> = forth.iter().rev().copied().collect();
            let shares = run(&forth);
            prop_assert_eq!(&shares, &run(&back));
            for (row, (_, share)) in rows.iter().zip(shares) {
                prop_assert!(row.0 + row.1 > 0 || share == Energy::ZERO);
            }
        }
    }

    #[test]
    fn a_zone_below_its_floor_is_all_idle() {
        let zone = [ZoneInterval {
            energy: Energy::from_uj(5),
            floor: Energy::from_uj(9),
            basis: Basis::Machine,
            gap: false,
            prices: None,
        }];
        let loads = loads(&[(1, 1, 1)]);
        let mut out = Attribution::default();
        attribute(
            &Interval { zones: &zone, loads: &loads, policy: IdlePolicy::Unallocated, reservations: &[] },
            &mut out,
        );
        assert_eq!(out.zones[0].unallocated, Energy::from_uj(5));
        assert_eq!(out.zones[0].active, [Energy::ZERO]);
    }
}
