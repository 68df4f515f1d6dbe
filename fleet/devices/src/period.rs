//! Durations in the configuration, always with their unit: `10s`, `500ms`, `1m30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ebbtide_runtime::length::milliseconds;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration of whole milliseconds, at most a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

/// What isn't a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration up to 24h with its unit (ms, s, m, h), such as \"10s\"")]
pub struct NoPeriod(String);

const DAY_MS: u64 = 86_400_000;
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];

impl Period {
    /// A duration, cut to milliseconds.
    pub const fn new(duration: Duration) -> Self {
        Self(duration)
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = NoPeriod;

    fn from_str(text: &str) -> Result<Self, NoPeriod> {
        milliseconds(text.trim(), &UNITS)
            .filter(|&ms| ms <= DAY_MS)
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| NoPeriod(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_millis() {
            ms if ms > 0 && ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms > 60_000 && ms % 60_000 == 0 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("10s", 10_000), ("500ms", 500), ("1m30s", 90_000), ("24h", DAY_MS), ("0s", 0)] {
            let period: Period = text.parse().unwrap();
            assert_eq!(period.get(), Duration::from_millis(ms));
            assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
        }
        for wrong in ["", "10", "s", "25h", "-1s", "1.5s", "10 s", "99999999999999999999s"] {
            assert!(wrong.parse::<Period>().is_err(), "{wrong}");
        }
    }
}
