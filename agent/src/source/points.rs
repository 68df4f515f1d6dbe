//! A growing counter at moments of the past, for what is told late. Pure.

use std::collections::VecDeque;

/// How many are kept, and how far they are apart at least: two minutes and more.
const MOST: usize = 256;
const APART: u64 = 500_000_000;

/// Values of a counter by time; both only grow.
#[derive(Clone, Debug, Default)]
pub struct Points {
    kept: VecDeque<(u64, u64)>,
    last: Option<(u64, u64)>,
}

impl Points {
    /// Notes that the counter is at `value` at this time, in nanoseconds.
    pub fn push(&mut self, time: u64, value: u64) {
        self.last = Some((time, value));
        if self.kept.back().is_none_or(|p| time.saturating_sub(p.0) >= APART) {
            if self.kept.len() == MOST {
                self.kept.pop_front();
            }
            self.kept.push_back((time, value));
        }
    }

    /// The last time and value.
    pub fn last(&self) -> Option<(u64, u64)> {
        self.last
    }

    /// The value at a time: on the line between the points around it, that of the nearest one before the first and
    /// after the last. `None` if there is no point.
    pub fn at(&self, time: u64) -> Option<u64> {
        let after = self.kept.partition_point(|p| p.0 <= time);
        let right = self.kept.get(after).copied().or(self.last)?;
        let Some(left) = after.checked_sub(1).and_then(|i| self.kept.get(i)) else { return Some(right.1) };
        let (span, rise) = (right.0.saturating_sub(left.0), right.1.saturating_sub(left.1));
        let part = u128::from(time.min(right.0).saturating_sub(left.0)) * u128::from(rise);
        Some(match part.checked_div(u128::from(span)) {
            Some(part) => left.1.saturating_add(u64::try_from(part).unwrap_or(rise)),
            None => right.1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The values rise with time, and those that were noted come back.
        #[test]
        fn values_rise_with_time(steps in prop::collection::vec((1..3_000_000_000u64, 0..1u64 << 40), 1..400), ask in prop::collection::vec(0..1u64 << 41, 2..20)) {
            let mut points = Points::default();
            prop_assert_eq!(points.at(7), None);
            let (mut time, mut value) = (0, 0);
            for (dt, rise) in steps {
                (time, value) = (time + dt, value + rise);
                points.push(time, value);
                prop_assert_eq!((points.at(time), points.at(u64::MAX), points.last()), (Some(value), Some(value), Some((time, value))));
            }
            let mut ask = ask;
            ask.sort_unstable();
            let told: Vec<u64> = ask.iter().map(|t| points.at(*t).unwrap()).collect();
            prop_assert!(told.is_sorted());
        }
    }

    #[test]
    fn between_two_points_is_a_line() {
        let mut points = Points::default();
        points.push(1_000_000_000, 100);
        points.push(3_000_000_000, 300);
        let told = [0, 1_000_000_000, 1_500_000_000, 3_000_000_000, 9_000_000_000].map(|t| points.at(t));
        assert_eq!(told, [100, 100, 150, 300, 300].map(Some));
    }
}
