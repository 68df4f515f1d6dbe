//! From raw readings of an energy counter to energy: wraps, resets, sleep and silence told apart. Pure.
//!
//! What can't be known becomes a [`Gap`] with a reason, never energy that nobody measured:
//!
//! | what happened | what comes out |
//! |---|---|
//! | the value rose by no more than the zone can draw | that much energy |
//! | it fell, and a wrap explains it | energy up to the wrap and on |
//! | it fell, and no wrap explains it (driver reload, migration, hibernation) | gap, no energy |
//! | it jumped by more than the zone can draw | gap, no energy |
//! | so much time passed that it may have wrapped more than once | gap, and the least energy that explains it |
//! | the machine slept meanwhile | gap, and the energy if the counter went on |

use std::time::Duration;

use ebbtide_proto::{Energy, Power};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;

/// How a counter behaves; what tells a wrap from a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CounterShape {
    /// The largest value before the counter starts over at zero; `None` if it is not known or nonsense.
    pub range: Option<Energy>,
    /// More than this can't be drawn; bounds wraps and rejects jumps.
    pub max_power: Power,
}

/// The value of a counter at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// When it was read.
    pub at: Moment,
    /// The raw counter: energy since some time in the past, wrapping as its shape says.
    pub counter: Energy,
}

/// Why some time or energy of a zone is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gap {
    /// The counter started over: driver reload, migration, hibernation.
    Reset,
    /// The counter jumped ahead by more than the zone can draw.
    Jump,
    /// It may have wrapped more than once; the energy is a lower bound.
    Wraps,
    /// The machine slept.
    Sleep,
    /// The zone could not be read for a while.
    Silence,
    /// The agent did not run.
    AgentDown,
}

impl Gap {
    /// All reasons, in the order of [`Gap::index`].
    pub const ALL: [Self; 6] = [Self::Reset, Self::Jump, Self::Wraps, Self::Sleep, Self::Silence, Self::AgentDown];

    /// The name in metrics and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Jump => "jump",
            Self::Wraps => "wraps",
            Self::Sleep => "sleep",
            Self::Silence => "silence",
            Self::AgentDown => "agent-down",
        }
    }

    /// Its place in [`Gap::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// What one reading adds to a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Energy since the last reading.
    pub energy: Energy,
    /// Time since the last reading, sleep included.
    pub dt: Duration,
    /// Set if some of that time or energy is not known.
    pub gap: Option<Gap>,
    /// Whether the counter started over at its range.
    pub wrapped: bool,
}

/// Follows one zone's counter.
#[derive(Clone, Debug)]
pub struct Counter {
    shape: CounterShape,
    last: Option<Reading>,
    /// Why the next step is a gap whatever it says.
    interrupted: Option<Gap>,
}

impl Counter {
    /// A counter of this shape that was never read.
    pub fn new(shape: CounterShape) -> Self {
        Self { shape, last: None, interrupted: None }
    }

    /// Goes on from a reading that an earlier run of the agent took during this boot.
    pub fn resume(shape: CounterShape, last: Reading) -> Self {
        Self { shape, last: Some(last), interrupted: Some(Gap::AgentDown) }
    }

    /// The last reading.
    pub fn last(&self) -> Option<Reading> {
        self.last
    }

    /// Notes that the zone could not be read: the next step is a gap.
    pub fn interrupt(&mut self) {
        if self.last.is_some() {
            self.interrupted.get_or_insert(Gap::Silence);
        }
    }

    /// Takes a reading. The first one gives nothing to count, nor does one as old as the last.
    pub fn step(&mut self, reading: Reading) -> Option<Step> {
        let Some(last) = self.last else {
            self.last = Some(reading);
            return None;
        };
        let dt = reading.at.since_with_sleep(last.at);
        if dt.is_zero() {
            return None;
        }
        let slept = reading.at.slept_since(last.at) > Duration::from_millis(100);
        let interrupted = self.interrupted.take().or(slept.then_some(Gap::Sleep));
        self.last = Some(reading);
        let mut step = self.judge(last.counter, reading.counter, dt, interrupted == Some(Gap::Sleep));
        step.gap = step.gap.or(interrupted);
        Some(step)
    }

    fn judge(&self, before: Energy, now: Energy, dt: Duration, slept: bool) -> Step {
        // short intervals are judged as 100 ms, so that late register updates don't look like jumps
        let most = self.shape.max_power.over(dt.max(Duration::from_millis(100)));
        let period = self.period(before.max(now));
        let gap = |gap, energy| Step { energy, dt, gap: Some(gap), wrapped: false };
        let (energy, wrapped) = match (now.checked_sub(before), period) {
            (Some(rise), _) => (rise, false),
            (None, Some(period)) if !slept => (period.saturating_sub(before) + now, true),
            (None, _) => return gap(Gap::Reset, Energy::ZERO),
        };
        if energy > most {
            return gap(if wrapped { Gap::Reset } else { Gap::Jump }, Energy::ZERO);
        }
        if period.is_some_and(|p| energy + p <= most) {
            return gap(Gap::Wraps, energy);
        }
        Step { energy, dt, gap: None, wrapped }
    }

    /// Energy from zero to the next zero; `None` if unknown or contradicted by a value above the range.
    ///
    /// The kernel states the largest value, which is `2³² - 1` register units; the period is one unit more.
    fn period(&self, highest: Energy) -> Option<Energy> {
        let range = self.shape.range.filter(|&r| r > Energy::ZERO && highest <= r)?;
        let unit = (range.uj() / u64::from(u32::MAX)).max(1);
        range.checked_add(Energy::from_uj(unit))
    }
}

/// The mean power of a step, if it covers any time.
pub fn mean_power(step: &Step) -> Option<Power> {
    step.energy.over(step.dt)
}

/// A moment at which nothing is known yet, for counters restored from a state file.
pub fn reading(at: Moment, counter: Energy) -> Reading {
    Reading { at, counter }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const J: u64 = 1_000_000;

    fn shape(range_j: Option<u64>, max_w: u64) -> CounterShape {
        CounterShape { range: range_j.map(|j| Energy::from_uj(j * J)), max_power: Power::from_uw(max_w * J) }
    }

    fn at(ms: u64) -> Moment {
        Moment::default().plus(Duration::from_millis(ms))
    }

    fn run(shape: CounterShape, readings: &[(u64, u64)]) -> Vec<(u64, Option<Gap>)> {
        let mut c = Counter::new(shape);
        readings
            .iter()
            .filter_map(|&(s, j)| c.step(reading(at(s * 1000), Energy::from_uj(j * J))))
            .map(|s| (s.energy.uj() / J, s.gap))
            .collect()
    }

    #[test]
    fn a_wrap_is_energy_and_a_reset_is_a_gap() {
        assert_eq!(run(shape(Some(600), 300), &[(0, 590), (1, 20)]), [(30, None)]);
        assert_eq!(run(shape(Some(600), 300), &[(0, 500), (1, 400)]), [(0, Some(Gap::Reset))]);
        assert_eq!(
            run(shape(Some(262_143), 300), &[(0, 5_000), (1, 4_900), (2, 4_930)]),
            [(0, Some(Gap::Reset)), (30, None)]
        );
        assert_eq!(run(shape(None, 300), &[(0, 500), (1, 400)]), [(0, Some(Gap::Reset))]);
    }

    #[test]
    fn a_jump_ahead_is_a_gap() {
        assert_eq!(run(shape(None, 300), &[(0, 0), (1, 262_000), (2, 262_030)]), [(0, Some(Gap::Jump)), (30, None)]);
    }

    #[test]
    fn a_long_silence_may_hide_wraps() {
        // 65,532 J at 400 W is passed in 164 s
        assert_eq!(run(shape(Some(65_532), 400), &[(0, 0), (100, 9_000)]), [(9_000, None)]);
        assert_eq!(run(shape(Some(65_532), 400), &[(0, 0), (600, 9_000)]), [(9_000, Some(Gap::Wraps))]);
    }

    #[test]
    fn a_value_above_the_range_makes_the_range_worthless() {
        let got = run(shape(Some(262_143), 300), &[(0, 60_293_987), (1, 60_294_000), (2, 5)]);
        assert_eq!(got, [(13, None), (0, Some(Gap::Reset))]);
    }

    #[test]
    fn sleep_and_silence_are_gaps_that_keep_plausible_energy() {
        let mut c = Counter::new(shape(Some(262_143), 300));
        c.step(reading(at(0), Energy::from_uj(100 * J)));
        let mut awake = at(1000);
        awake.boot += 3_600_000_000_000;
        let s = c.step(reading(awake, Energy::from_uj(110 * J))).unwrap();
        assert_eq!((s.energy.uj(), s.gap), (10 * J, Some(Gap::Wraps)), "an hour may hide four wraps");
        let mut c = Counter::new(shape(Some(262_143), 300));
        c.step(reading(at(0), Energy::from_uj(100 * J)));
        let mut awake = at(1000);
        awake.boot += 60_000_000_000;
        let s = c.step(reading(awake, Energy::from_uj(110 * J))).unwrap();
        assert_eq!((s.energy.uj(), s.gap), (10 * J, Some(Gap::Sleep)));
        c.interrupt();
        let s = c.step(reading(awake.plus(Duration::from_secs(20)), Energy::from_uj(400 * J))).unwrap();
        assert_eq!((s.energy.uj(), s.gap), (290 * J, Some(Gap::Silence)));
        assert_eq!(s.dt, Duration::from_secs(20));
    }

    #[test]
    fn a_restart_counts_the_downtime_as_a_gap() {
        let mut c = Counter::resume(shape(Some(262_143), 300), reading(at(0), Energy::from_uj(100 * J)));
        let s = c.step(reading(at(5000), Energy::from_uj(200 * J))).unwrap();
        assert_eq!((s.energy.uj(), s.gap), (100 * J, Some(Gap::AgentDown)));
        assert_eq!(c.step(reading(at(6000), Energy::from_uj(230 * J))).unwrap().gap, None);
    }

    proptest! {
        /// Any plausible load through any number of wraps comes out to the microjoule.
        #[test]
        fn wraps_lose_nothing(start in 0..600 * J, steps in prop::collection::vec(0..200 * J, 1..200)) {
            let mut c = Counter::new(shape(Some(600), 300));
            let period = 600 * J + 1;
            let (mut truth, mut counted) = (start, 0);
            for (i, step) in (0u64..).zip(std::iter::once(0).chain(steps)) {
                truth += step;
                if let Some(s) = c.step(reading(at(i * 1000), Energy::from_uj(truth % period))) {
                    prop_assert_eq!(s.gap, None);
                    counted += s.energy.uj();
                }
            }
            prop_assert_eq!(counted, truth - start);
        }

        /// No sequence of values makes more energy than the zone can draw.
        #[test]
        fn nothing_is_invented(values in prop::collection::vec((1..100_000u64, any::<u64>()), 2..50), range in prop::option::of(any::<u64>())) {
            let shape = CounterShape { range: range.map(Energy::from_uj), max_power: Power::from_uw(500 * J) };
            let mut c = Counter::new(shape);
            let mut ms = 0;
            for (dt, v) in values {
                ms += dt;
                if let Some(s) = c.step(reading(at(ms), Energy::from_uj(v))) {
                    prop_assert!(s.energy <= shape.max_power.over(Duration::from_millis(dt.max(100))));
                }
            }
        }
    }
}
