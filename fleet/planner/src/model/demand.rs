//! What a workload will use: a level from its recent past, a daily season once two days are known, and how far such
//! forecasts were off lately.
//!
//! Errors are kept as a series, not as a variance. What matters is how far the forecast for a *node* is off, and that
//! is the sum of its workloads' errors at the same moments: workloads whose peaks don't coincide cancel out, those
//! that rise together add up. Everything here is linear in the samples, so sums of forecasts are forecasts of sums.

use serde::{Deserialize, Serialize};

use crate::state::Time;

/// Samples that are kept.
pub const WINDOW: usize = 36;

/// Errors that a forecast looks back on.
pub const ERRORS: usize = 24;

/// Weight of the latest sample in the level.
const ALPHA: f64 = 0.35;

/// Milliseconds of an hour.
const HOUR_MS: u64 = 3_600_000;

/// Seconds that a rise is looked for ahead at the most: further than that, nodes would idle for most of an hour.
const MOST_AHEAD_S: f64 = 1800.0;

/// Seconds after the hour for which a rise that is late is waited for.
const LATE_S: f64 = 900.0;

/// Hours of a day.
const HOURS: usize = 24;

/// More CPU than any machine has, in thousandths.
const NONSENSE_MILLI: f64 = 1e8;

/// Recent use of CPU, in thousandths, at regular intervals.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demand {
    /// Samples, the latest last.
    recent: Vec<f32>,
    /// When the latest was taken.
    at: Time,
    /// What each hour of the day had in the past.
    #[serde(skip_serializing_if = "Option::is_none")]
    season: Option<Box<Season>>,
}

/// Mean by hour of the day.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Season {
    /// Mean of each hour, older days less and less.
    mean: [f32; HOURS],
    /// Days that each hour was seen on.
    days: [u16; HOURS],
    /// The hour that is being added up: index since the epoch, sum, count.
    open: (u64, f64, u32),
}

/// A forecast for the next sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forecast {
    /// Expected use, in thousandths of a CPU.
    pub level: f32,
    /// The latest sample.
    pub latest: f32,
    /// What forecasts of the past lacked (positive: more was used than forecast), the latest last; 0 where there was
    /// none.
    pub errors: [f32; ERRORS],
    /// Samples of the past, the latest last; the earliest again where there are fewer.
    pub recent: [f32; ERRORS],
    /// How many of the errors are real.
    pub known: u32,
}

impl Demand {
    /// A use that is known not to change.
    pub fn steady(cpu_milli: f32) -> Self {
        Self { recent: vec![cpu_milli], ..Self::default() }
    }

    /// Takes in a sample; refuses what is no amount of CPU, and what is older than the latest.
    pub fn observe(&mut self, at: Time, cpu_milli: f64) -> bool {
        if !(0.0..NONSENSE_MILLI).contains(&cpu_milli) || at < self.at {
            return false;
        }
        if self.recent.len() >= WINDOW {
            self.recent.remove(0);
        }
        self.recent.push(narrow(cpu_milli));
        self.at = at;
        self.season.get_or_insert_default().observe(at, cpu_milli);
        true
    }

    /// How many samples there are, at most [`WINDOW`].
    pub fn samples(&self) -> usize {
        self.recent.len()
    }

    /// Expected use, in thousandths of a CPU; `None` before the first sample.
    pub fn level(&self) -> Option<f64> {
        let (&first, rest) = self.recent.split_first()?;
        let smooth = |level: f64, v: &f32| level + ALPHA * (f64::from(*v) - level);
        let level = rest.iter().fold(f64::from(first), smooth);
        Some((level + self.season.as_ref().map_or(0.0, |s| s.change_ahead(self.at))).max(0.0))
    }

    /// The forecast with its errors; `None` before the first sample.
    pub fn forecast(&self) -> Option<Forecast> {
        let (&first, rest) = self.recent.split_first()?;
        let mut smooth = f64::from(first);
        let mut errors = [0.0; ERRORS];
        let skip = rest.len().saturating_sub(ERRORS);
        let known = rest.len() - skip;
        for (i, &v) in rest.iter().enumerate() {
            let error = f64::from(v) - smooth;
            if i >= skip {
                errors[ERRORS - known + i - skip] = narrow(error);
            }
            smooth += ALPHA * error;
        }
        let latest = rest.last().copied().unwrap_or(first);
        let ahead = self.season.as_ref().map_or(0.0, |s| s.change_ahead(self.at));
        let known = u32::try_from(known).unwrap_or(u32::MAX);
        Some(Forecast {
            level: narrow((smooth + ahead).max(0.0)),
            latest,
            errors,
            recent: std::array::from_fn(|i| {
                self.recent[(self.recent.len() + i).saturating_sub(ERRORS).min(self.recent.len() - 1)]
            }),
            known,
        })
    }
}

impl Season {
    /// Whether nothing was taken in yet.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes in a sample.
    pub fn observe(&mut self, at: Time, cpu_milli: f64) {
        let hour = at.ms() / HOUR_MS;
        let (open, sum, count) = self.open;
        if count > 0 && hour != open {
            let slot = hour_of_day(open);
            let mean = sum / f64::from(count);
            // the first days weigh alike, later ones a quarter
            let weight = (1.0 / (f64::from(self.days[slot]) + 1.0)).max(0.25);
            self.mean[slot] += narrow(weight * (mean - f64::from(self.mean[slot])));
            self.days[slot] = self.days[slot].saturating_add(1);
            self.open = (hour, 0.0, 0);
        } else if count == 0 {
            self.open.0 = hour;
        }
        self.open.1 += cpu_milli;
        self.open.2 += 1;
    }

    /// How much more the next hour usually has than this one; 0 before both were seen on two days.
    fn change_ahead(&self, at: Time) -> f64 {
        self.change_after(at.ms() / HOUR_MS)
    }

    /// How much more the hour after `hour` usually has.
    fn change_after(&self, hour: u64) -> f64 {
        let (now, next) = (hour_of_day(hour), hour_of_day(hour + 1));
        if self.days[now] < 2 || self.days[next] < 2 {
            return 0.0;
        }
        f64::from(self.mean[next] - self.mean[now])
    }

    /// How much more than `level` there usually is `ahead_s` from now, if that is about the time at which an hour
    /// begins that has more than the one before. Never more than what the hour usually adds: on a quiet day a rise is
    /// no larger than on others.
    pub fn rise(&self, now: Time, ahead_s: f64, level: f64) -> f64 {
        let ahead_s = ahead_s.clamp(0.0, MOST_AHEAD_S);
        let then_ms = now.ms() as f64 + ahead_s * 1000.0;
        let hour = (then_ms / HOUR_MS as f64).floor();
        // it is waited for that long after the hour has begun
        if then_ms - hour * HOUR_MS as f64 > (ahead_s + LATE_S) * 1000.0 || hour < 1.0 {
            return 0.0;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an hour since 1970")]
        let hour = hour as u64;
        let usual = f64::from(self.mean[hour_of_day(hour)]);
        self.change_after(hour - 1).min(usual - level).max(0.0)
    }
}

fn hour_of_day(hour: u64) -> usize {
    usize::try_from(hour % HOURS as u64).unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation, reason = "seven digits are more than any forecast has")]
fn narrow(v: f64) -> f32 {
    v as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nonsense_and_the_past_are_refused() {
        let mut demand = Demand::default();
        assert_eq!(demand.level(), None);
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e12] {
            assert!(!demand.observe(Time::from_secs(1), bad));
        }
        assert!(demand.observe(Time::from_secs(10), 5.0));
        assert!(!demand.observe(Time::from_secs(9), 5.0));
        assert_eq!(demand.samples(), 1);
    }

    #[test]
    fn a_daily_rise_is_foreseen_once_two_days_were_seen() {
        let mut demand = Demand::default();
        let use_at = |minute: u64| if (minute / 60) % 24 >= 8 { 1000.0 } else { 100.0 };
        let mut minute = 0;
        let mut run_to = |demand: &mut Demand, end: u64| {
            while minute <= end {
                assert!(demand.observe(Time::from_secs(minute * 60), use_at(minute)));
                minute += 5;
            }
        };
        run_to(&mut demand, 7 * 60 + 55);
        assert!(demand.level().unwrap() < 110.0, "nothing is known of a season on the first day");
        run_to(&mut demand, 3 * 24 * 60 + 7 * 60 + 55);
        assert!(demand.level().unwrap() > 900.0, "{:?}", demand.level());
    }

    #[test]
    fn a_rise_is_told_from_a_boot_before_its_hour_until_it_is_late() {
        let mut season = Season::default();
        let asks = |hour: u64| if (8..18).contains(&(hour % 24)) { 30_000.0 } else { 10_000.0 };
        let at = |day: u64, minute: u64| Time::from_secs(day * 86_400 + minute * 60);
        for minute in 0..2 * 1440 {
            season.observe(at(0, minute), asks(minute / 60));
            assert!(season.rise(at(0, minute), 300.0, 10_000.0) == 0.0, "two days are known at the end of the second");
        }
        for minute in 0..=9 * 60 {
            season.observe(at(2, minute), asks(minute / 60));
        }
        let rise = |minute: u64, level: f64| season.rise(at(3, minute), 300.0, level);
        assert_eq!(rise(7 * 60 + 54, 10_000.0), 0.0);
        assert_eq!(rise(7 * 60 + 55, 10_000.0), 20_000.0);
        assert_eq!(rise(8 * 60 + 5, 10_000.0), 20_000.0, "it is late");
        assert_eq!(rise(8 * 60 + 5, 25_000.0), 5000.0, "a part has come");
        assert_eq!(rise(8 * 60 + 5, 35_000.0), 0.0);
        assert_eq!(rise(8 * 60 + 16, 10_000.0), 0.0, "it doesn't come today");
        assert_eq!(rise(7 * 60 + 58, 2000.0), 20_000.0, "a quiet day rises by no more than others");
        assert_eq!(rise(17 * 60 + 58, 30_000.0), 0.0, "a fall is no rise");
    }

    proptest! {
        #[test]
        fn the_forecast_of_a_sum_is_the_sum_of_forecasts(pairs in prop::collection::vec((0.0..4000.0f64, 0.0..4000.0f64), 1..60)) {
            let (mut a, mut b, mut both) = (Demand::default(), Demand::default(), Demand::default());
            for (i, (x, y)) in pairs.iter().enumerate() {
                let at = Time::from_secs(300 * i as u64);
                prop_assert!(a.observe(at, *x) && b.observe(at, *y) && both.observe(at, x + y));
            }
            let (a, b, both) = (a.forecast().unwrap(), b.forecast().unwrap(), both.forecast().unwrap());
            prop_assert!((a.level + b.level - both.level).abs() < 1.0);
            for i in 0..ERRORS {
                prop_assert!((a.errors[i] + b.errors[i] - both.errors[i]).abs() < 1.0);
            }
        }
    }
}
