//! Energy out of power: trapezoids between readings, summed as integers. Pure.

use std::time::Duration;

use ebbtide_proto::{Energy, Power};

use crate::clock::Moment;

/// Integrates power over time with the trapezoid rule, carrying the fraction of a microjoule.
#[derive(Clone, Copy, Debug)]
pub struct Trapezoid {
    /// A longer silence than this is not bridged: what happened meanwhile is unknown.
    longest: Duration,
    last: Option<(Moment, Power)>,
    total: Energy,
    /// What was left over, in units of 1/(2·10⁹) µJ.
    carry: u128,
}

/// Twice the number of nanoseconds in a second: `(a + b) · dt / 2` has this denominator.
const UNITS_PER_UJ: u128 = 2_000_000_000;

impl Default for Trapezoid {
    /// Bridges up to ten seconds.
    fn default() -> Self {
        Self::bridging(Duration::from_secs(10))
    }
}

impl Trapezoid {
    /// Bridges silences up to `longest`.
    pub fn bridging(longest: Duration) -> Self {
        Self { longest, last: None, total: Energy::ZERO, carry: 0 }
    }

    /// Takes the reading `power` at `at` and returns the energy since the start.
    pub fn push(&mut self, at: Moment, power: Power) -> Energy {
        if let Some((before, was)) = self.last {
            let dt = at.since_with_sleep(before);
            if dt <= self.longest {
                let sum = u128::from(was.uw()) + u128::from(power.uw());
                let units = sum * dt.as_nanos() + self.carry;
                self.total += Energy::from_uj(u64::try_from(units / UNITS_PER_UJ).unwrap_or(u64::MAX));
                self.carry = units % UNITS_PER_UJ;
            }
        }
        self.last = Some((at, power));
        self.total
    }

    /// Forgets the last reading, so that the time until the next one isn't bridged.
    pub fn interrupt(&mut self) {
        self.last = None;
    }

    /// Energy so far.
    pub fn total(&self) -> Energy {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Moment {
        Moment::default().plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_ramp_is_integrated_exactly() {
        let mut t = Trapezoid::default();
        for s in 0..=10 {
            t.push(at(s * 1000), Power::from_uw(s * 2_000_000));
        }
        assert_eq!(t.total(), Energy::from_uj(100_000_000));
    }

    #[test]
    fn silence_is_not_bridged() {
        let mut t = Trapezoid::default();
        t.push(at(0), Power::from_uw(5_000_000));
        t.push(at(60_000), Power::from_uw(5_000_000));
        assert_eq!(t.total(), Energy::ZERO);
        t.interrupt();
        t.push(at(61_000), Power::from_uw(5_000_000));
        assert_eq!(t.total(), Energy::ZERO);
        t.push(at(62_000), Power::from_uw(5_000_000));
        assert_eq!(t.total(), Energy::from_uj(5_000_000));
    }

    proptest! {
        #[test]
        fn steps_of_any_size_lose_less_than_a_microjoule(power in 0..1_000_000_000u64, steps in prop::collection::vec(1..5_000u64, 1..50)) {
            let mut t = Trapezoid::default();
            let mut ms = 0;
            t.push(at(0), Power::from_uw(power));
            for s in steps {
                ms += s;
                t.push(at(ms), Power::from_uw(power));
            }
            prop_assert_eq!(u128::from(t.total().uj()), u128::from(power) * u128::from(ms) / 1000);
        }
    }
}
