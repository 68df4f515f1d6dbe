//! Energy of a conductor since it was first read: a monotone number of microjoules, out of what its device tells. Pure.
//!
//! A device's own counter sees what happens between two readings, so it is used where it is fine enough; a counter that
//! moves by more than a watt-hour at once shows nothing for minutes, so there power is integrated instead, if it is
//! told. Both add to the same sum, and time that nothing is known of is a counted gap, never energy.

use std::time::Duration;

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;
use ebbtide_runtime::counter::{Counter, CounterShape, Gap, Reading};
use ebbtide_runtime::trapezoid::Trapezoid;
use serde::Serialize;

use crate::report::Feed;

/// A counter with a coarser step than this is only used if no power is told.
const FINE: Energy = Energy::from_uj(3_600_000_000);

/// What energy was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// The device's own counter.
    Counter,
    /// Power, integrated between readings.
    Power,
}

/// Energy so far, and how well it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metered {
    /// Energy since the first reading. Never falls.
    pub energy: Energy,
    /// What it was made of last.
    pub basis: Basis,
    /// How far it may be off. Of a counter: its accuracy and one step. Of power: its accuracy, and half of each change
    /// between two readings, as nobody saw when it happened.
    pub error: Ratio,
    /// How often time or energy was lost: device restarts, silence, nonsense.
    pub gaps: u64,
}

/// Follows one conductor.
#[derive(Clone, Debug)]
pub struct Meter {
    limit: Power,
    interval: Duration,
    counter: Option<Counter>,
    /// The counter's step, with which it was made.
    step: Energy,
    trapezoid: Trapezoid,
    last_power: Option<(Moment, Power)>,
    energy: Energy,
    /// Energy by which the sum may be off, in µJ, a step of the counter aside.
    uncertain: u128,
    basis: Option<Basis>,
    gaps: u64,
}

impl Meter {
    /// A conductor that can't carry more than `limit`, read every `interval`; silence is bridged up to `bridge`.
    pub fn new(limit: Power, interval: Duration, bridge: Duration) -> Self {
        Self {
            limit,
            interval: interval.max(Duration::from_millis(100)),
            counter: None,
            step: Energy::ZERO,
            trapezoid: Trapezoid::bridging(bridge),
            last_power: None,
            energy: Energy::ZERO,
            uncertain: 0,
            basis: None,
            gaps: 0,
        }
    }

    /// Takes what was read. A feed without figures, or with nonsense, adds nothing.
    pub fn push(&mut self, feed: &Feed) {
        let fine = feed.energy_step.is_none_or(|step| step <= FINE);
        match (&feed.energy, &feed.power) {
            (Some(energy), power) if fine || power.is_none() => {
                let reading = Reading { at: energy.at, counter: energy.value };
                self.gaps += u64::from(self.last_power.take().is_some());
                self.trapezoid.interrupt();
                self.count(reading, feed.energy_step.unwrap_or(Energy::ZERO), energy.error);
            }
            (_, Some(power)) if power.value <= self.limit => {
                // What is integrated from here on must not be counted again.
                self.gaps += u64::from(self.counter.take().is_some());
                self.integrate(power.at, power.value, power.error);
            }
            _ => self.silence(),
        }
    }

    /// Nothing was read.
    pub fn silence(&mut self) {
        if let Some(counter) = &mut self.counter {
            counter.interrupt();
        }
    }

    /// Energy so far; `None` as long as nothing was read.
    pub fn metered(&self) -> Option<Metered> {
        let basis = self.basis?;
        let step = if basis == Basis::Counter { u128::from(self.step.uj()) } else { 0 };
        let error = match self.energy.uj() {
            0 => 1_000_000,
            uj => (self.uncertain + step).saturating_mul(1_000_000) / u128::from(uj),
        };
        let error = Ratio::from_ppm(u32::try_from(error.min(1_000_000)).unwrap_or(1_000_000));
        Some(Metered { energy: self.energy, basis, error, gaps: self.gaps })
    }

    fn count(&mut self, reading: Reading, step: Energy, error: Ratio) {
        self.basis = Some(Basis::Counter);
        let counter = match &mut self.counter {
            Some(counter) if self.step == step => counter,
            other => {
                self.step = step;
                // A coarse counter moves by a whole step in one interval, however little is drawn.
                let jump = step.over(self.interval).unwrap_or_default();
                let shape = CounterShape { range: None, max_power: self.limit.saturating_add(jump) };
                other.insert(Counter::new(shape))
            }
        };
        // A reading that is older than the last says nothing; a device's clock may have been set.
        if counter.last().is_some_and(|last| reading.at <= last.at) {
            return;
        }
        let Some(moved) = counter.step(reading) else { return };
        self.gaps += u64::from(moved.gap.is_some_and(|gap| gap != Gap::Silence));
        self.energy += moved.energy;
        self.uncertain += share(moved.energy, error);
    }

    fn integrate(&mut self, at: Moment, power: Power, error: Ratio) {
        self.basis = Some(Basis::Power);
        if self.last_power.is_some_and(|(last, _)| at <= last) {
            return;
        }
        let before = self.trapezoid.total();
        let after = self.trapezoid.push(at, power);
        let moved = after.saturating_sub(before);
        if let Some((last, was)) = self.last_power {
            let dt = at.since_with_sleep(last);
            let change = Power::from_uw(was.uw().abs_diff(power.uw()));
            if moved == Energy::ZERO && was.uw() + power.uw() > 0 {
                self.gaps += 1;
            } else {
                self.uncertain += u128::from(change.over(dt).uj()) / 2;
            }
        }
        self.energy += moved;
        self.uncertain += share(moved, error);
        self.last_power = Some((at, power));
    }
}

fn share(energy: Energy, error: Ratio) -> u128 {
    u128::from(energy.uj()) * u128::from(error.ppm()) / 1_000_000
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::borrow::Cow;

    use crate::report::Figure;
    use proptest::prelude::*;

    const W: u64 = 1_000_000;
    const WH: u64 = 3_600_000_000;

    fn at(s: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(s))
    }

    fn figure<T>(value: T, s: u64) -> Option<Figure<T>> {
        Some(Figure { value, at: at(s), error: Ratio::from_percent(1), source: Cow::Borrowed("test") })
    }

    fn power(w: u64, s: u64) -> Feed {
        Feed { power: figure(Power::from_uw(w * W), s), ..Feed::default() }
    }

    fn counter(uj: u64, step: u64, s: u64) -> Feed {
        Feed { energy: figure(Energy::from_uj(uj), s), energy_step: Some(Energy::from_uj(step)), ..Feed::default() }
    }

    fn meter() -> Meter {
        Meter::new(Power::from_uw(3680 * W), Duration::from_secs(10), Duration::from_secs(30))
    }

    #[test]
    fn a_fine_counter_is_used_and_a_coarse_one_only_without_power() {
        let mut m = meter();
        for s in [0, 10, 20] {
            let both = Feed { power: power(360, s).power, ..counter(WH * (1000 + s / 10), WH, s) };
            m.push(&both);
        }
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.basis), (2 * WH, Basis::Counter));
        let mut m = meter();
        for s in [0, 10, 20] {
            m.push(&Feed { power: power(360, s).power, ..counter(WH * 1000, 100 * WH, s) });
        }
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.basis), (2 * WH, Basis::Power));
        assert_eq!(got.error, Ratio::from_percent(1), "a steady load is as well known as its watts");
    }

    #[test]
    fn a_step_of_a_coarse_counter_is_no_jump() {
        let mut m = meter();
        for s in 0..200u64 {
            // 360 W: a step of 0.1 kWh every 1000 s
            m.push(&counter(100 * WH * (s * 10 / 1000), 100 * WH, s * 10));
        }
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.gaps), (100 * WH, 0));
        assert_eq!(got.error, Ratio::from_ppm(1_000_000), "one step of which the half may lie before the start");
    }

    #[test]
    fn a_device_that_restarts_or_is_reset_adds_no_energy() {
        let mut m = meter();
        for (s, wh) in [(0, 5000), (10, 5001), (20, 0), (30, 1)] {
            m.push(&counter(wh * WH, WH, s));
        }
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.gaps), (2 * WH, 1));
        m.push(&counter(500_000 * WH, WH, 40));
        assert_eq!(m.metered().unwrap().energy.uj(), 2 * WH, "more than the outlet can carry");
    }

    #[test]
    fn silence_is_bridged_by_a_counter_but_not_by_power() {
        let mut m = meter();
        m.push(&counter(0, WH, 0));
        m.silence();
        m.push(&counter(50 * WH, WH, 600));
        assert_eq!(m.metered().unwrap().energy.uj(), 50 * WH);
        let mut m = meter();
        m.push(&power(300, 0));
        m.push(&power(300, 10));
        m.push(&power(300, 600));
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.gaps), (3000 * W, 1));
    }

    #[test]
    fn a_load_that_changes_between_readings_is_known_less_well() {
        let mut m = meter();
        m.push(&power(100, 0));
        m.push(&power(300, 10));
        let got = m.metered().unwrap();
        assert_eq!(got.energy.uj(), 2000 * W);
        assert_eq!(got.error, Ratio::from_ppm(510_000), "1000 of 2000 J, and one percent");
    }

    #[test]
    fn a_device_that_tells_now_this_and_now_that_is_not_counted_twice() {
        let mut m = meter();
        m.push(&counter(0, WH, 0));
        m.push(&counter(WH, WH, 10));
        m.push(&power(360, 20));
        m.push(&power(360, 30));
        m.push(&counter(3 * WH, WH, 40));
        m.push(&counter(4 * WH, WH, 50));
        let got = m.metered().unwrap();
        assert_eq!((got.energy.uj(), got.gaps), (3 * WH, 2));
    }

    #[test]
    fn nothing_read_is_nothing_and_not_zero() {
        let mut m = meter();
        m.push(&Feed::default());
        assert_eq!(m.metered(), None);
        m.push(&power(1_000_000, 10));
        assert_eq!(m.metered(), None, "more than the outlet can carry is nonsense");
    }

    proptest! {
        /// Whatever a device says, energy never falls and never exceeds what the conductor can carry.
        #[test]
        fn energy_is_monotone_and_bounded(says in prop::collection::vec((0u64..60, prop::option::of(any::<u64>()), prop::option::of(any::<u64>()), prop::option::of(0u64..400 * WH)), 1..60)) {
            let mut m = meter();
            let (mut s, mut last, mut steps) = (0, 0, 0u64);
            for (dt, energy, power, step) in says {
                s += dt;
                let feed = Feed {
                    energy: energy.and_then(|e| figure(Energy::from_uj(e), s)),
                    power: power.and_then(|p| figure(Power::from_uw(p), s)),
                    energy_step: step.map(Energy::from_uj),
                    ..Feed::default()
                };
                m.push(&feed);
                steps += 1;
                if let Some(got) = m.metered() {
                    prop_assert!(got.energy.uj() >= last);
                    last = got.energy.uj();
                }
            }
            // each counted stretch may be up to the limit plus one step of the counter in each interval
            let carried = u128::from(3680 * W) * u128::from(s + steps);
            let stepped = u128::from(400 * WH) * u128::from(s / 10 + steps + 1);
            prop_assert!(u128::from(last) <= carried + stepped);
        }
    }
}
