//! Power against load as eleven points joined by straight lines. Pure.
//!
//! Eleven points because published results have them, and because `idle + k · load` would be wrong by
//! a fifth in the middle: the curves of AMD servers are concave, those of Intel servers convex.

use ebbtide_proto::{Power, Ratio};

/// Number of points: loads of 0, 10, … 100 %.
pub const POINTS: usize = 11;

/// The load as a fraction of two counts, so that no precision is lost: `busy` out of `total`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// CPU time in use, in any unit.
    pub busy: u64,
    /// CPU time there was, in the same unit.
    pub total: u64,
}

/// Power at loads of 0, 10, … 100 %; never falling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Curve([u64; POINTS]);

/// Shares of full power at loads of 0, 10, … 100 % in per mille; never falling, the last one is 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape([u16; POINTS]);

impl Curve {
    /// Power never falls with load: a point below the one before is lifted to it.
    pub fn new(points: [Power; POINTS]) -> Self {
        let mut uw = points.map(Power::uw);
        lift(&mut uw);
        Self(uw)
    }

    /// The eleven points.
    pub fn points(&self) -> [Power; POINTS] {
        self.0.map(Power::from_uw)
    }

    /// Power without load.
    pub fn idle(&self) -> Power {
        let [idle, ..] = self.0;
        Power::from_uw(idle)
    }

    /// Power at full load.
    pub fn full(&self) -> Power {
        let [.., full] = self.0;
        Power::from_uw(full)
    }

    /// Power at `load` between 0 and 1; beyond these, and for what is no number, the nearer end.
    pub fn power_at(&self, load: f64) -> Power {
        const TOTAL: u64 = 1 << 40;
        let load = if load.is_nan() { 0.0 } else { load.clamp(0.0, 1.0) };
        #[allow(clippy::cast_possible_truncation, reason = "between 0 and 2^40")]
        self.at(Load { busy: (load * TOTAL as f64).round() as u64, total: TOTAL })
    }

    /// Power at a load given as a fraction, rounded down to the microwatt. A load without any time is idle.
    pub fn at(&self, load: Load) -> Power {
        if load.total == 0 {
            return self.idle();
        }
        let total = u128::from(load.total);
        let tenths = u128::from(load.busy.min(load.total)) * (POINTS as u128 - 1);
        let (step, rest) = (usize::try_from(tenths / total).unwrap_or(0), tenths % total);
        match (self.0.get(step), self.0.get(step + 1)) {
            (Some(&a), Some(&b)) => {
                // both factors are below 2^64, so the product fits; the result is below b - a
                let up = u128::from(b.saturating_sub(a)) * rest / total;
                Power::from_uw(a.saturating_add(u64::try_from(up).unwrap_or(u64::MAX)))
            }
            _ => self.full(),
        }
    }

    /// Every point times `times / of`, rounded down; `of` = 0 leaves the curve as it is.
    #[must_use]
    pub fn scaled(&self, times: u64, of: u64) -> Self {
        if of == 0 {
            return self.clone();
        }
        let scale = |uw: u64| u64::try_from(u128::from(uw) * u128::from(times) / u128::from(of)).unwrap_or(u64::MAX);
        Self(self.0.map(scale))
    }
}

impl Shape {
    /// Power proportional to load between idle and full: for boards of which only these two are known.
    pub const STRAIGHT: Self = Self([0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]);

    /// Shares in per mille of the last one, which must not be zero.
    pub fn new(mut shares: [u16; POINTS]) -> Option<Self> {
        lift(&mut shares);
        let [.., full] = shares;
        (full == 1000).then_some(Self(shares))
    }

    /// Power without load as a share of full power.
    pub fn idle_share(&self) -> Ratio {
        let [idle, ..] = self.0;
        Ratio::from_ppm(u32::from(idle) * 1000)
    }

    /// The curve whose full power is `full`.
    pub fn curve(&self, full: Power) -> Curve {
        let uw = |share: u16| u64::try_from(u128::from(full.uw()) * u128::from(share) / 1000).unwrap_or(u64::MAX);
        Curve(self.0.map(uw))
    }

    /// This shape stretched so that it starts at `idle` and ends at `full`; the greater of the two is full.
    pub fn between(&self, idle: Power, full: Power) -> Curve {
        let [first, ..] = self.0;
        let (idle, full) = (idle.uw().min(full.uw()), idle.uw().max(full.uw()));
        let span = u128::from(1000 - first.min(999));
        let uw = |share: u16| {
            let up = u128::from(full - idle) * u128::from(share.saturating_sub(first)) / span;
            idle.saturating_add(u64::try_from(up).unwrap_or(u64::MAX)).min(full)
        };
        let mut points = self.0.map(uw);
        let [.., last] = &mut points;
        *last = full;
        Curve(points)
    }
}

/// Lifts each point that lies below the one before.
fn lift<T: Ord + Copy>(points: &mut [T; POINTS]) {
    let [mut highest, ..] = *points;
    for p in points {
        highest = highest.max(*p);
        *p = highest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn watts(w: u64) -> Power {
        Power::from_uw(w * 1_000_000)
    }

    #[test]
    fn lines_join_the_points() {
        let c = Curve::new([10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 100].map(watts));
        assert_eq!(c.power_at(0.0), watts(10));
        assert_eq!(c.power_at(0.05), watts(15));
        assert_eq!(c.power_at(0.5), watts(60));
        assert_eq!(c.power_at(0.9375), Power::from_uw(96_875_000));
        assert_eq!(c.power_at(1.0), watts(100));
        assert_eq!(c.at(Load { busy: 1, total: 3 }), Power::from_uw(43_333_333));
        assert_eq!(c.at(Load { busy: 5, total: 0 }), watts(10));
        assert_eq!(c.at(Load { busy: 7, total: 5 }), watts(100));
        assert_eq!([f64::NAN, -1.0, 7.0].map(|l| c.power_at(l)), [watts(10), watts(10), watts(100)]);
    }

    #[test]
    fn a_dent_is_lifted() {
        let c = Curve::new([10, 20, 15, 40, 50, 60, 70, 80, 90, 95, 80].map(watts));
        assert_eq!(c.points()[2], watts(20));
        assert_eq!(c.full(), watts(95));
        assert_eq!(Shape::new([0; POINTS]), None);
    }

    #[test]
    fn a_shape_is_stretched_between_two_powers() {
        let c = Shape::STRAIGHT.between(watts(3), watts(8));
        assert_eq!((c.idle(), c.power_at(0.5), c.full()), (watts(3), Power::from_uw(5_500_000), watts(8)));
        assert_eq!(Shape::STRAIGHT.between(watts(8), watts(3)), c, "the greater one is full");
        assert_eq!(c.scaled(1, 4).full(), watts(2));
        assert_eq!(c.scaled(1, 0), c);
    }

    fn any_curve() -> impl Strategy<Value = Curve> {
        any::<[u64; POINTS]>().prop_map(|p| Curve::new(p.map(Power::from_uw)))
    }

    proptest! {
        #[test]
        fn more_load_never_takes_less_power(c in any_curve(), a in any::<f64>(), b in any::<f64>()) {
            let (lo, hi) = if a < b { (a, b) } else { (b, a) };
            if !lo.is_nan() && !hi.is_nan() {
                prop_assert!(c.power_at(lo) <= c.power_at(hi));
            }
            prop_assert!((c.idle()..=c.full()).contains(&c.power_at(a)));
        }

        #[test]
        fn fractions_are_monotone_bounded_and_exact_at_the_points(
            c in any_curve(), total in 1..u64::MAX / 10, x in any::<u64>(), y in any::<u64>(), step in 0..POINTS,
        ) {
            let (lo, hi) = ((x % (total + 1)).min(y % (total + 1)), (x % (total + 1)).max(y % (total + 1)));
            let (p, q) = (c.at(Load { busy: lo, total }), c.at(Load { busy: hi, total }));
            prop_assert!(c.idle() <= p && p <= q && q <= c.full());
            let at_point = c.at(Load { busy: total * step as u64, total: total.saturating_mul(10) });
            prop_assert_eq!(at_point, c.points()[step]);
        }

        #[test]
        fn stretching_keeps_both_ends(shares in any::<[u16; 10]>(), a in any::<u64>(), b in any::<u64>()) {
            let mut all = [1000; POINTS];
            for (to, from) in all.iter_mut().zip(shares) {
                *to = from % 1001;
            }
            all[10] = 1000;
            let c = Shape::new(all).unwrap().between(Power::from_uw(a), Power::from_uw(b));
            prop_assert_eq!((c.idle().uw(), c.full().uw()), (a.min(b), a.max(b)));
            prop_assert!(c.points().windows(2).all(|w| w[0] <= w[1]));
            let share = c.scaled(3, 7);
            prop_assert_eq!(u128::from(share.full().uw()), u128::from(a.max(b)) * 3 / 7);
            prop_assert!(share.points().windows(2).all(|w| w[0] <= w[1]));
        }
    }
}
