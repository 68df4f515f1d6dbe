//! Times at which plans are acted upon, or are not. Pure: the moment is passed in.
//!
//! A window is told by the clock on the wall: one from 22:00 that lasts 8 h ends at 06:00 also in the night in which the
//! clock is set, and one that begins in the hour that is left out begins at that hour's end.

use std::collections::BTreeSet;

use cronexpr::{Crontab, MakeTimestamp};
use ebbtide_planner::state::Time;
use ebbtide_runtime::length::milliseconds;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp, civil};
use serde::{Deserialize, Serialize};

/// Units of how long a window lasts.
const UNITS: [(&str, u64); 3] = [("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// A window lasts at most a week.
const LONGEST_MS: u64 = 7 * 86_400_000;
/// Openings and closings that are looked at to say when it changes.
const STEPS: usize = 200;
/// Beginnings that are looked at to find the last.
const BEGUN: usize = 20;

/// Whether pools act within a window, or outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Acts {
    /// Only within it, or another such window.
    Only,
    /// Never within it.
    Never,
}

/// Times at which plans are acted upon, or are not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct WindowConfig {
    /// The pools that it is about; all, if left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<String>,
    /// "only": plans are acted upon within it only. "never": they aren't within it.
    pub acts: Acts,
    /// When it begins: minute, hour, day of the month, month, day of the week, as in a crontab.
    pub cron: String,
    /// How long it lasts on the clock on the wall, up to 7d, such as "8h" or "1h30m".
    pub lasts: String,
    /// The time zone of `cron`, such as "Europe/Berlin".
    pub time_zone: String,
}

/// A window that is understood.
#[derive(Clone, Debug)]
struct Window {
    pools: BTreeSet<String>,
    acts: Acts,
    /// In the clock on the wall, which knows no zone.
    cron: Crontab,
    lasts: SignedDuration,
    zone: TimeZone,
}

/// All windows.
#[derive(Clone, Debug, Default)]
pub struct Windows(Vec<Window>);

/// Whether it is time to act in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// Whether it is.
    pub open: bool,
    /// Until when; `None` if that isn't in sight.
    pub until: Option<Time>,
}

impl Windows {
    /// Understands what was written down.
    ///
    /// # Errors
    /// What is wrong with it, in words that go on after "window N".
    pub fn new(windows: &[WindowConfig]) -> Result<Self, String> {
        let window =
            |(n, config): (usize, &WindowConfig)| Window::new(config).map_err(|why| format!("number {} {why}", n + 1));
        windows.iter().enumerate().map(window).collect::<Result<_, _>>().map(Self)
    }

    /// Whether it is time to act in a pool; `None` if no window says so.
    pub fn hours(&self, pool: &str, now: Time) -> Option<Hours> {
        let about = self.about(pool);
        if about.is_empty() {
            return None;
        }
        let at = timestamp(now)?;
        let open = is_open(&about, at);
        let mut then = at;
        let until = (0..STEPS).find_map(|_| {
            then = about.iter().filter_map(|w| w.changes(then)).min()?;
            (is_open(&about, then) != open).then_some(then)
        });
        let until = until.and_then(|at| u64::try_from(at.as_millisecond()).ok()).map(Time::from_ms);
        Some(Hours { open, until })
    }

    /// Whether plans may be acted upon in a pool.
    pub fn is_open(&self, pool: &str, now: Time) -> bool {
        timestamp(now).is_none_or(|at| is_open(&self.about(pool), at))
    }

    /// Whether there are none: then it is always time.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn about(&self, pool: &str) -> Vec<&Window> {
        self.0.iter().filter(|w| w.pools.is_empty() || w.pools.contains(pool)).collect()
    }
}

fn timestamp(at: Time) -> Option<Timestamp> {
    i64::try_from(at.ms()).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok())
}

fn is_open(windows: &[&Window], at: Timestamp) -> bool {
    let within = |acts: Acts| windows.iter().any(|w| w.acts == acts && w.is_within(w.wall(at)));
    let bounded = windows.iter().any(|w| w.acts == Acts::Only);
    !within(Acts::Never) && (!bounded || within(Acts::Only))
}

impl Window {
    fn new(config: &WindowConfig) -> Result<Self, String> {
        let WindowConfig { cron, lasts, time_zone, .. } = config;
        let zone = TimeZone::get(time_zone).map_err(|_| {
            format!("names the time zone {time_zone:?}, which isn't known; write one such as Europe/Berlin")
        })?;
        let lasts_ms = milliseconds(lasts, &UNITS).filter(|ms| (60_000..=LONGEST_MS).contains(ms));
        let lasts_ms = lasts_ms.and_then(|ms| i64::try_from(ms).ok());
        let lasts_ms = lasts_ms.ok_or_else(|| format!("lasts {lasts:?}; write 1m to 7d, such as 8h or 1h30m"))?;
        if cron.split_whitespace().count() != 5 {
            return Err(format!("has cron {cron:?}, which isn't five fields: minute, hour, day, month, weekday"));
        }
        let cron = cronexpr::parse_crontab(&format!("{cron} UTC"))
            .map_err(|error| format!("has cron {cron:?}, which can't be read: {}", error.to_string().trim()))?;
        if cron.find_next(MakeTimestamp(Timestamp::UNIX_EPOCH)).is_err() {
            return Err(format!("has cron {:?}, which never comes", config.cron));
        }
        let pools = config.pools.iter().cloned().collect();
        Ok(Self { pools, acts: config.acts, cron, lasts: SignedDuration::from_millis(lasts_ms), zone })
    }

    /// The clock on the wall, as if it were that of UTC.
    fn wall(&self, at: Timestamp) -> Timestamp {
        let wall = self.zone.to_datetime(at);
        TimeZone::UTC.to_timestamp(wall).unwrap_or(at)
    }

    /// The first beginning after a moment on the clock on the wall.
    fn begins(&self, wall: Timestamp) -> Option<Timestamp> {
        self.cron.find_next(MakeTimestamp(wall)).ok().map(|begin| begin.timestamp())
    }

    fn is_within(&self, wall: Timestamp) -> bool {
        let first = wall.checked_sub(self.lasts).ok().and_then(|since| self.begins(since));
        first.is_some_and(|begin| begin <= wall)
    }

    /// When it begins or ends next after `at`; a little early does no harm.
    fn changes(&self, at: Timestamp) -> Option<Timestamp> {
        let wall = self.wall(at);
        let next = match self.is_within(wall) {
            false => self.begins(wall)?,
            true => {
                let mut begun = self.begins(wall.checked_sub(self.lasts).ok()?)?;
                // another begins before this one ends
                for _ in 0..BEGUN {
                    match self.begins(begun).filter(|next| *next <= wall) {
                        Some(next) => begun = next,
                        None => break,
                    }
                }
                begun.checked_add(self.lasts).ok()?
            }
        };
        let wall: civil::DateTime = TimeZone::UTC.to_datetime(next);
        let moment = self.zone.to_ambiguous_timestamp(wall);
        let first = match moment.offset() {
            // the clock jumps over it
            AmbiguousOffset::Gap { .. } => {
                let before = moment.earlier().ok()?;
                self.zone.following(before).next().map(|jump| jump.timestamp())
            }
            // in the hour that comes twice, the second is meant once the first is over
            AmbiguousOffset::Fold { .. } => moment.earlier().ok().filter(|found| *found > at).or(moment.later().ok()),
            AmbiguousOffset::Unambiguous { .. } => moment.compatible().ok(),
        };
        first.filter(|found| *found > at).or_else(|| at.checked_add(SignedDuration::from_mins(1)).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn window(acts: Acts, cron: &str, lasts: &str) -> WindowConfig {
        WindowConfig {
            pools: vec!["edge".to_owned()],
            acts,
            cron: cron.to_owned(),
            lasts: lasts.to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
        }
    }

    fn at(text: &str) -> Time {
        Time::from_ms(u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap())
    }

    fn shown(windows: &Windows, now: &str) -> (bool, String) {
        let hours = windows.hours("edge", at(now)).unwrap();
        assert_eq!(hours.open, windows.is_open("edge", at(now)));
        let until = hours.until.unwrap();
        let until = Timestamp::from_millisecond(i64::try_from(until.ms()).unwrap()).unwrap();
        (hours.open, until.to_string())
    }

    #[test]
    fn a_night_ends_at_the_same_hour_also_when_the_clock_is_set() {
        let nights = Windows::new(&[window(Acts::Only, "0 22 * * *", "8h")]).unwrap();
        assert_eq!(nights.hours("other", at("2026-01-01T00:00:00Z")), None);
        for (now, open, until) in [
            ("2026-01-10T20:59:59Z", false, "2026-01-10T21:00:00Z"),
            ("2026-01-10T21:00:00Z", true, "2026-01-11T05:00:00Z"),
            ("2026-01-11T05:00:00Z", false, "2026-01-11T21:00:00Z"),
            // forward on 29 March: seven hours, until 06:00 in summer time
            ("2026-03-28T21:00:00Z", true, "2026-03-29T04:00:00Z"),
            ("2026-03-29T04:00:00Z", false, "2026-03-29T20:00:00Z"),
            // back on 25 October: nine hours
            ("2026-10-24T20:00:00Z", true, "2026-10-25T05:00:00Z"),
            ("2026-10-25T04:59:59Z", true, "2026-10-25T05:00:00Z"),
            ("2026-10-25T05:00:00Z", false, "2026-10-25T21:00:00Z"),
        ] {
            assert_eq!(shown(&nights, now), (open, until.to_owned()), "{now}");
        }
    }

    #[test]
    fn what_begins_in_the_hour_that_is_left_out_begins_at_its_end() {
        let early = Windows::new(&[window(Acts::Never, "15 2 * * *", "2h")]).unwrap();
        assert_eq!(shown(&early, "2026-03-29T00:59:59Z"), (true, "2026-03-29T01:00:00Z".to_owned()));
        assert_eq!(shown(&early, "2026-03-29T01:00:00Z"), (false, "2026-03-29T02:15:00Z".to_owned()));
        assert_eq!(shown(&early, "2026-03-29T02:15:00Z"), (true, "2026-03-30T00:15:00Z".to_owned()));
    }

    #[test]
    fn windows_add_up_and_never_wins() {
        let windows = Windows::new(&[
            window(Acts::Only, "0 20 * * 1-5", "4h"),
            window(Acts::Only, "0 0 * * *", "6h"),
            window(Acts::Never, "0 2 * * *", "30m"),
        ])
        .unwrap();
        // 20:00 to 24:00 and 0:00 to 2:00 are one
        assert_eq!(shown(&windows, "2026-01-12T19:00:00Z"), (true, "2026-01-13T01:00:00Z".to_owned()));
        assert_eq!(shown(&windows, "2026-01-13T01:00:00Z"), (false, "2026-01-13T01:30:00Z".to_owned()));
        assert_eq!(shown(&windows, "2026-01-13T01:30:00Z"), (true, "2026-01-13T05:00:00Z".to_owned()));
        assert_eq!(shown(&windows, "2026-01-10T19:00:00Z"), (false, "2026-01-10T23:00:00Z".to_owned()), "Saturday");
        let always = Windows::new(&[window(Acts::Only, "0 0 * * *", "1d")]).unwrap();
        assert_eq!(always.hours("edge", at("2026-01-12T19:00:00Z")), Some(Hours { open: true, until: None }));
    }

    #[test]
    fn nonsense_is_refused_with_what_to_write() {
        type Spoil = fn(&mut WindowConfig);
        let cases: [(&str, Spoil); 7] = [
            ("Europe/Berlin", |w| w.time_zone = "Europa/Berlin".to_owned()),
            ("such as 8h", |w| w.lasts = "8".to_owned()),
            ("such as 8h", |w| w.lasts = "8d".to_owned()),
            ("five fields", |w| w.cron = "0 22 * *".to_owned()),
            ("five fields", |w| w.cron = "0 22 * * * UTC".to_owned()),
            ("can't be read", |w| w.cron = "0 25 * * *".to_owned()),
            ("never comes", |w| w.cron = "0 0 31 2 *".to_owned()),
        ];
        for (says, spoil) in cases {
            let mut config = window(Acts::Only, "0 22 * * *", "8h");
            spoil(&mut config);
            let error = Windows::new(&[window(Acts::Never, "0 1 * * *", "1h"), config]).unwrap_err();
            assert!(error.starts_with("number 2 ") && error.contains(says), "{error}");
        }
    }

    proptest! {
        // one year in New York, by the minute: as the clock on the wall says, and nothing changes before it is said to
        #[test]
        fn a_window_is_what_the_wall_clock_says(
            minute in prop_oneof![0u64..525_600, 95_000u64..97_000, 437_000u64..440_000],
            begin in 0i64..96,
            lasts in 1i64..96,
        ) {
            let (hour, quarter) = (begin / 4, begin % 4 * 15);
            let mut config = window(Acts::Only, &format!("{quarter} {hour} * * *"), &format!("{}m", lasts * 15));
            config.time_zone = "America/New_York".to_owned();
            let windows = Windows::new(&[config]).unwrap();
            let now = Time::from_secs(1_767_225_600 + minute * 60);
            let zone = TimeZone::get("America/New_York").unwrap();
            let stamp = Timestamp::from_millisecond(i64::try_from(now.ms()).unwrap()).unwrap();
            let wall = zone.to_datetime(stamp);
            let quarters_in = (i64::from(wall.hour()) * 4 + i64::from(wall.minute()) / 15 - begin).rem_euclid(96);
            let told = windows.hours("edge", now).unwrap();
            prop_assert_eq!(told.open, quarters_in < lasts);
            let until = told.until.unwrap();
            prop_assert!(until > now && windows.is_open("edge", until) != told.open);
            let just_before = Time::from_ms(until.ms() - 1);
            prop_assert_eq!(windows.is_open("edge", just_before), told.open);
        }

        #[test]
        fn no_text_panics(cron in "\\PC{0,40}", lasts in "\\PC{0,10}", zone in "\\PC{0,20}") {
            let config = WindowConfig { time_zone: zone, ..window(Acts::Only, &cron, &lasts) };
            drop(Windows::new(&[config]));
            let in_place = ["*/7 3-5 L * 1#2", "1,2 * 15W * *"].map(|c| window(Acts::Never, c, "90m"));
            prop_assert!(Windows::new(&in_place).is_ok());
        }
    }
}
