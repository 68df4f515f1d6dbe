//! Durations and moments as people write them. Pure: now and the time zone are passed in.

use std::str::FromStr;
use std::time::Duration;

use ebbtide_runtime::length::milliseconds;
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

/// A length of time: `90s`, `15m`, `7d`, `1h30m`, `250ms`, `2w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Length(Duration);

impl Length {
    /// The duration.
    pub(super) const fn get(self) -> Duration {
        self.0
    }

    /// The duration in milliseconds.
    pub(super) fn ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// What a length looks like.
const LENGTHS: &str = "a duration with its unit (ms, s, m, h, d, w), such as 90s, 15m, 1h30m or 7d";

impl FromStr for Length {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ms = milliseconds(text.trim(), &UNITS).filter(|ms| (1..=MOST_MS).contains(ms));
        ms.map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| format!("expected {LENGTHS}"))
    }
}

/// A hundred years.
const MOST_MS: u64 = 100 * 365 * 86_400_000;

/// What each unit is in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 7 * 86_400_000),
];

/// A moment: `7d` (so long ago), `2026-11-01`, `2026-11-01T14:00`, RFC 3339, `now`, `today`, `yesterday`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// So long ago.
    Ago(Length),
    /// Just now.
    Now,
    /// At midnight so many days ago.
    Midnight(i64),
    /// At this time on the clock on the wall.
    Wall(civil::DateTime),
    /// At this moment.
    At(Timestamp),
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        match text {
            "now" => return Ok(Self::Now),
            "today" => return Ok(Self::Midnight(0)),
            "yesterday" => return Ok(Self::Midnight(1)),
            _ => {}
        }
        if let Ok(length) = text.parse() {
            return Ok(Self::Ago(length));
        }
        // an offset or Z makes it a moment; without, it is the local clock's
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        text.parse::<civil::DateTime>().map(Self::Wall).map_err(|_| {
            "expected a duration (7d: so long ago), 2026-11-01, 2026-11-01T14:00, RFC 3339, now, today or yesterday"
                .to_owned()
        })
    }
}

impl When {
    /// The moment in milliseconds since 1970; `None` if there is none, such as before 1970.
    pub(super) fn resolve(&self, now_ms: u64, zone: &TimeZone) -> Option<u64> {
        let now = || Some(Timestamp::from_millisecond(i64::try_from(now_ms).ok()?).ok()?.to_zoned(zone.clone()));
        let ms = |zoned: Zoned| u64::try_from(zoned.timestamp().as_millisecond()).ok();
        match self {
            Self::Ago(length) => now_ms.checked_sub(length.ms()),
            Self::Now => Some(now_ms),
            Self::Midnight(days) => ms(now()?.date().checked_sub(days.days()).ok()?.to_zoned(zone.clone()).ok()?),
            Self::Wall(wall) => ms(wall.to_zoned(zone.clone()).ok()?),
            Self::At(at) => u64::try_from(at.as_millisecond()).ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-22 14:00 UTC.
    const NOW: u64 = 1_795_356_000_000;

    #[test]
    fn lengths_have_units() {
        let ms = |text: &str| text.parse::<Length>().map(Length::ms);
        assert_eq!(ms("90s"), Ok(90_000));
        assert_eq!(ms(" 1h30m "), Ok(5_400_000));
        assert_eq!(ms("2w"), Ok(14 * 86_400_000));
        for bad in ["", "7", "0s", "d", "-1h", "1.5h", "1 h", "99999999999999999999s", "101y", "99999w"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_on_the_clock_of_whoever_asks() {
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        let at = |text: &str| {
            let ms = text.parse::<When>().unwrap().resolve(NOW, &zone).unwrap();
            Timestamp::from_millisecond(ms.try_into().unwrap()).unwrap().to_string()
        };
        assert_eq!(at("now"), "2026-11-22T14:00:00Z");
        assert_eq!(at("15m"), "2026-11-22T13:45:00Z");
        assert_eq!(at("today"), "2026-11-21T22:00:00Z");
        assert_eq!(at("yesterday"), "2026-11-20T22:00:00Z");
        assert_eq!(at("2026-11-01"), "2026-10-31T22:00:00Z");
        assert_eq!(at("2026-11-01T14:00"), "2026-11-01T12:00:00Z");
        assert_eq!(at("2026-11-01 14:00:30"), "2026-11-01T12:00:30Z");
        assert_eq!(at("2026-11-01T14:00:00Z"), "2026-11-01T14:00:00Z");
        assert_eq!(at("2026-11-01T14:00:00+05:00"), "2026-11-01T09:00:00Z");
        for bad in ["", "tomorrow?", "2026-13-01", "14:00", "last week"] {
            assert!(bad.parse::<When>().is_err(), "{bad}");
        }
        assert_eq!("1000w".parse::<When>().unwrap().resolve(1000, &zone), None, "before 1970");
        assert_eq!("1969-01-01".parse::<When>().unwrap().resolve(NOW, &zone), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,40}", now in any::<u64>()) {
            if let Ok(when) = text.parse::<When>() {
                when.resolve(now, &TimeZone::UTC);
            }
            prop_assert!(text.parse::<Length>().map_or(true, |length| length.ms() > 0));
        }
    }
}
