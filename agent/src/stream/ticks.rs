//! Moments on the wire: milliseconds of the wall clock that rise even where that clock is set back.
//!
//! Moments follow the wall clock when it is ahead. When it is behind, because somebody set it back, they go on with
//! the clock that nobody sets, a hundredth slower, until the wall clock has caught up: power is off by one per cent at
//! most meanwhile. A clock that was set back by more than [`TOO_FAR`] was plainly wrong before: moments begin anew.

use std::time::Duration;

use crate::clock::Moment;

/// Further than this moments don't stay ahead of the wall clock: the fleet would take them for wrong.
pub const TOO_FAR: Duration = Duration::from_secs(240);

/// Makes moments.
#[derive(Debug, Default)]
pub struct Ticks {
    /// The last one in nanoseconds, and when it was.
    last: Option<(u64, Moment)>,
}

impl Ticks {
    /// Whether the moment of `now` would be so far ahead that moments have to begin anew.
    pub fn must_restart(&self, now: Moment) -> bool {
        let too_far = u64::try_from(TOO_FAR.as_nanos()).unwrap_or(u64::MAX);
        self.held(now).is_some_and(|held| held.saturating_sub(now.wall) > too_far)
    }

    /// The moment of `now`, at least a millisecond after the one before.
    pub fn next(&mut self, now: Moment) -> u64 {
        let at = match self.held(now) {
            Some(held) if !self.must_restart(now) => held.max(now.wall),
            _ => now.wall.max(1_000_000),
        };
        self.last = Some((at, now));
        at / 1_000_000
    }

    /// Where moments are by the clock that nobody sets.
    fn held(&self, now: Moment) -> Option<u64> {
        let (last, at) = self.last?;
        let passed = now.boot.saturating_sub(at.boot);
        Some(last.saturating_add((passed - passed / 100).max(1_000_000)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moment(boot_ms: u64, wall_ms: u64) -> Moment {
        Moment { mono: boot_ms * 1_000_000, boot: boot_ms * 1_000_000, wall: wall_ms * 1_000_000 }
    }

    #[test]
    fn a_clock_that_was_set_back_is_waited_for() {
        let mut ticks = Ticks::default();
        assert_eq!(ticks.next(moment(0, 100_000)), 100_000);
        assert_eq!(ticks.next(moment(1000, 101_000)), 101_000);
        // three seconds back
        assert_eq!(ticks.next(moment(2000, 99_000)), 101_990);
        // caught up after five minutes
        assert_eq!(ticks.next(moment(402_000, 499_000)), 499_000);
        // and an hour ahead
        assert_eq!(ticks.next(moment(403_000, 4_099_000)), 4_099_000);
    }

    #[test]
    fn a_clock_that_was_a_year_ahead_is_not() {
        let year = 365 * 86_400_000;
        let mut ticks = Ticks::default();
        ticks.next(moment(0, year + 1000));
        assert!(ticks.must_restart(moment(1000, 2000)));
        assert_eq!(ticks.next(moment(1000, 2000)), 2000);
    }

    proptest! {
        /// Whatever the wall clock does within minutes, moments rise, and stay near it.
        #[test]
        fn moments_rise(steps in prop::collection::vec((0u64..5000, -100_000i64..100_000), 1..100)) {
            let mut ticks = Ticks::default();
            let (mut boot, mut before) = (0, 0);
            for (step, off) in steps {
                boot += step;
                let now = moment(boot, (10_000_000 + boot).saturating_add_signed(off));
                prop_assert!(!ticks.must_restart(now));
                let at = ticks.next(now);
                prop_assert!(at > before && at >= now.wall / 1_000_000 && at < now.wall / 1_000_000 + 240_000);
                before = at;
            }
        }
    }
}
