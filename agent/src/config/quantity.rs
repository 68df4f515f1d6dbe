//! Durations and watts, and the table of idle floors.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use ebbtide_proto::Power;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::{Expected, Text, deserialize, text_in_toml};

text_in_toml!([MIN, MAX] Period<MIN, MAX>, [] Watts);

/// A duration of whole milliseconds between `MIN` and `MAX`, always written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Period<MIN, MAX> {
    /// The duration.
    pub const fn get(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// `duration` in whole milliseconds, moved into the range.
    pub fn clamped(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_millis()).unwrap_or(MAX).clamp(MIN, MAX))
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Period<MIN, MAX> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        parse_millis(text).filter(|ms| (MIN..=MAX).contains(ms)).map(Self).ok_or_else(Self::expected)
    }
}

impl<const MIN: u64, const MAX: u64> Text for Period<MIN, MAX> {
    fn expected() -> Expected {
        let example = 1000.clamp(MIN, MAX);
        Expected(format!(
            "a duration from {} to {} with its unit (ms, s, m, h), such as \"{}\"",
            Self(MIN),
            Self(MAX),
            Self(example)
        ))
    }
}

/// In the largest unit that needs no decimals.
impl<const MIN: u64, const MAX: u64> fmt::Display for Period<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("0s"),
            ms if ms % 3_600_000 == 0 => write!(f, "{}h", ms / 3_600_000),
            ms if ms % 60_000 == 0 && ms > 60_000 => write!(f, "{}m", ms / 60_000),
            ms if ms % 1000 == 0 => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

/// Milliseconds of `1s`, `250 ms`, `1.5h`, `1m30s`; `None` for anything else, or if not whole milliseconds.
fn parse_millis(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit() && c != '.')?);
        let tail = tail.trim_start();
        let (unit, tail) = tail.split_at(tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len()));
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return None,
        };
        total = total.checked_add(exact(number, factor)?)?;
        rest = tail.trim_start();
    }
    Some(total)
}

/// `number * factor`, if `number` is digits with at most one point and the product is whole.
fn exact(number: &str, factor: u64) -> Option<u64> {
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = match number.split_once('.') {
        Some((_, "")) => return None,
        Some((whole, fraction)) => (whole, fraction.trim_end_matches('0')),
        None => (number, ""),
    };
    if whole.is_empty() || fraction.len() > 12 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let scale = 10u64.pow(u32::try_from(fraction.len()).ok()?);
    let part = fraction.parse::<u64>().unwrap_or(0).checked_mul(factor)?;
    if part % scale != 0 {
        return None;
    }
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(part / scale)
}

/// A power from 0 to 1 MW; a plain number is watts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watts(pub Power);

/// More than any node draws; catches figures given in milli- or microwatts.
const MOST_MICROWATTS: u64 = 1_000_000_000_000;

impl FromStr for Watts {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        let (number, factor) = [("mW", 1000), ("kW", 1_000_000_000), ("W", 1_000_000)]
            .into_iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?.trim_end(), factor)))
            .unwrap_or((text, 1_000_000));
        let uw = exact(number, factor).filter(|uw| *uw <= MOST_MICROWATTS);
        uw.map(|uw| Self(Power::from_uw(uw))).ok_or_else(Self::expected)
    }
}

impl Text for Watts {
    fn expected() -> Expected {
        Expected("a power from 0 W to 1000 kW, such as \"12 W\", \"850 mW\" or 12.5 (watts)".into())
    }

    fn from_number(watts: f64) -> Option<Self> {
        Power::from_watts(watts).filter(|p| !watts.is_sign_negative() && p.uw() <= MOST_MICROWATTS).map(Self)
    }
}

/// Exact, in watts.
impl fmt::Display for Watts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0.uw() / 1_000_000, self.0.uw() % 1_000_000);
        write!(f, "{} W", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// One entry of `idle-floor`: a zone and what it draws when the machine is idle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Name or id of the zone.
    pub zone: String,
    /// Its floor.
    pub watts: Watts,
}

impl Floor {
    fn new(zone: &str, watts: Watts) -> Result<Self, Expected> {
        let ok = !zone.trim().is_empty() && zone.len() <= 200 && !zone.chars().any(char::is_control);
        ok.then(|| Self { zone: zone.trim().to_owned(), watts }).ok_or_else(Self::expected)
    }

    fn expected() -> Expected {
        Expected("a zone and its watts, such as package-0=12".into())
    }
}

impl FromStr for Floor {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let (zone, watts) = text.rsplit_once('=').ok_or_else(Self::expected)?;
        Self::new(zone, watts.parse()?)
    }
}

/// Reads the table of floors; with [`floors_to_toml`] for a field of [`super::Partial`].
pub(super) fn floors_from_toml<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Floor>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Table(BTreeMap<String, Watts>);
    let floors: Result<Vec<Floor>, Expected> =
        Table::deserialize(d)?.0.into_iter().map(|(zone, watts)| Floor::new(&zone, watts)).collect();
    floors.map(Some).map_err(|e| D::Error::custom(format!("found a zone without a proper name, {e}")))
}

/// Writes the table of floors.
pub(super) fn floors_to_toml<S: Serializer>(floors: &Option<Vec<Floor>>, s: S) -> Result<S::Ok, S::Error> {
    match floors {
        Some(floors) => s.collect_map(floors.iter().map(|f| (&f.zone, f.watts))),
        None => s.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Any = Period<0, { u64::MAX }>;

    #[test]
    fn durations_need_a_unit_and_a_sensible_size() {
        let ms = |t: &str| t.parse::<Any>().map(|p| p.0).ok();
        for (text, want) in [
            ("1s", 1000),
            ("100ms", 100),
            (" 250 ms ", 250),
            ("1.5s", 1500),
            ("0.0005h", 1800),
            ("1m30s", 90_000),
            ("1h 30min", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(ms(text), Some(want), "{text}");
        }
        for bad in
            ["", "1", "s", "-1s", "1.s", ".5s", "1..5s", "1e3s", "0.5ms", "1d", "1S", "1s2", "99999999999999999h"]
        {
            assert_eq!(ms(bad), None, "{bad}");
        }
        assert!("49ms".parse::<Period<50, 100>>().is_err() && "101ms".parse::<Period<50, 100>>().is_err());
        let said = "1".parse::<Period<50, 3_600_000>>().unwrap_err().to_string();
        assert_eq!(said, "expected a duration from 50ms to 1h with its unit (ms, s, m, h), such as \"1s\"");
    }

    #[test]
    fn watts_may_go_without_a_unit() {
        let uw = |t: &str| t.parse::<Watts>().map(|w| w.0.uw()).ok();
        for (text, want) in [
            ("12", 12_000_000),
            ("12W", 12_000_000),
            ("12 W", 12_000_000),
            ("0.25", 250_000),
            ("850 mW", 850_000),
            ("1.2kW", 1_200_000_000),
            ("0", 0),
        ] {
            assert_eq!(uw(text), Some(want), "{text}");
        }
        for bad in ["", "W", "-1", "1e3", "nan", "inf", "12w", "12 J", "1000001", "0.0000001", "1 000"] {
            assert_eq!(uw(bad), None, "{bad}");
        }
        let number = |watts: f64| Watts::from_number(watts).map(|w| w.0.uw());
        assert_eq!((number(12.0), number(0.3)), (Some(12_000_000), Some(300_000)));
        for bad in [-1.0, -0.0, f64::NAN, f64::INFINITY, 2e6] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_floor_is_zone_and_watts() {
        let floor: Floor = "a=b=1.5 W".parse().unwrap();
        assert_eq!((floor.zone.as_str(), floor.watts.0.uw()), ("a=b", 1_500_000));
        assert!("=1".parse::<Floor>().is_err() && "package-0".parse::<Floor>().is_err());
    }

    proptest! {
        #[test]
        fn durations_print_what_they_parse(ms in 0..=u64::MAX) {
            let shown = Period::<0, { u64::MAX }>(ms).to_string();
            prop_assert_eq!(shown.parse::<Any>().unwrap().0, ms);
        }

        #[test]
        fn watts_print_what_they_parse(uw in 0..=MOST_MICROWATTS) {
            let watts = Watts(Power::from_uw(uw));
            prop_assert_eq!(watts.to_string().parse::<Watts>().unwrap(), watts);
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), near in "[0-9. ]{0,12}(ms|s|m|h|W|kW|=)?[0-9. ]{0,4}") {
            for text in [&text, &near] {
                if let Ok(p) = text.parse::<Period<50, 3_600_000>>() {
                    prop_assert!((50..=3_600_000).contains(&p.0));
                }
                if let Ok(w) = text.parse::<Watts>() {
                    prop_assert!(w.0.uw() <= MOST_MICROWATTS);
                }
                if let Ok(f) = text.parse::<Floor>() {
                    prop_assert!(!f.zone.is_empty());
                }
            }
        }
    }
}
