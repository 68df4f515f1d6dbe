//! How single values are written: durations, watts, addresses, paths, limits.
//!
//! Each type is read from text (flag, environment) and from TOML by the same parser, checks its own range, and
//! prints a text that parses back to itself. Closed sets of words are in `words.rs`.

use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ebbtide_proto::Power;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a value should have been. The place that reports it says which value and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {0}")]
pub struct Expected(pub String);

/// A value that is written as text; TOML of another type is refused with what was expected.
pub trait Text: FromStr<Err = Expected> {
    /// What texts this value has.
    fn expected() -> Expected;

    /// Reads a TOML number. Nothing but text is allowed unless a type says so.
    fn from_number(_: f64) -> Option<Self> {
        None
    }
}

/// At most 60 characters of `text`, on one line, for messages.
pub(crate) fn excerpt(text: &str) -> String {
    let mut shown: String = text.chars().take(60).flat_map(|c| if c == '"' { vec![c] } else { escaped(c) }).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
}

fn escaped(c: char) -> Vec<char> {
    if c.is_control() { c.escape_debug().collect() } else { vec![c] }
}

/// Reads a [`Text`] from TOML.
pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Text>(d: D) -> Result<T, D::Error> {
    d.deserialize_any(TextVisitor(PhantomData))
}

/// Reports from inside the value, so that an error has the line of the value even in a list.
struct TextVisitor<T>(PhantomData<T>);

impl<T: Text> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&T::expected().0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|e: Expected| E::custom(format!("found \"{}\", {e}", excerpt(text))))
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<T, E> {
        T::from_number(n as f64).ok_or_else(|| E::custom(format!("found {n}, {}", T::expected())))
    }

    fn visit_f64<E: serde::de::Error>(self, x: f64) -> Result<T, E> {
        T::from_number(x).ok_or_else(|| E::custom(format!("found {x}, {}", T::expected())))
    }
}

macro_rules! text_in_toml {
    ($([$($n:ident),*] $t:ty),+ $(,)?) => {$(
        impl<'de, $(const $n: u64),*> Deserialize<'de> for $t {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                deserialize(d)
            }
        }
        impl<$(const $n: u64),*> Serialize for $t {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )+};
}

text_in_toml!(
    [MIN, MAX] Period<MIN, MAX>,
    [] Watts,
    [] Processes,
    [] Listen,
    [] StateDir,
    [] FilePath,
    [] HttpUrl,
    [] LogFilter,
);

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
    struct Table(std::collections::BTreeMap<String, Watts>);
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

/// Which processes get series of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processes {
    /// Every process.
    All,
    /// The `n` that drew most, and the rest as one; at least one.
    Top(u32),
    /// None: processes are counted in what contains them only.
    Off,
}

impl FromStr for Processes {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.trim() {
            "all" => Ok(Self::All),
            "off" => Ok(Self::Off),
            text => {
                let digits = text.strip_prefix("top:").filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
                let n = digits.and_then(|n| n.parse().ok()).filter(|n| *n > 0);
                n.map(Self::Top).ok_or_else(Self::expected)
            }
        }
    }
}

impl Text for Processes {
    fn expected() -> Expected {
        Expected("\"all\", \"off\" or \"top:N\" with N of at least 1, such as \"top:50\"".into())
    }
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Top(n) => write!(f, "top:{n}"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// An address and port to listen on; `:9883` is every address of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl FromStr for Listen {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        let everywhere = || {
            let port = text.strip_prefix(':')?.parse().ok()?;
            Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        };
        text.parse().ok().or_else(everywhere).map(Self).ok_or_else(Self::expected)
    }
}

impl Text for Listen {
    fn expected() -> Expected {
        Expected("an IP address and a port, such as \"127.0.0.1:9883\", \"[::1]:9883\" or \":9883\"".into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A file or folder; not empty, UTF-8, no control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePath(PathBuf);

impl FilePath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path, without a check; for paths that were checked before.
    pub(super) fn known(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl FromStr for FilePath {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let ok = !text.trim().is_empty() && !text.chars().any(char::is_control);
        ok.then(|| Self(text.into())).ok_or_else(Self::expected)
    }
}

impl Text for FilePath {
    fn expected() -> Expected {
        Expected("the path of a file or folder".into())
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// Where totals are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateDir {
    /// Nowhere: totals start at zero with each start.
    Off,
    /// In this folder.
    In(FilePath),
}

impl FromStr for StateDir {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text.trim() {
            "none" => Ok(Self::Off),
            _ => text.parse().map(Self::In).map_err(|_| Self::expected()),
        }
    }
}

impl Text for StateDir {
    fn expected() -> Expected {
        Expected("the path of a folder, or \"none\"".into())
    }
}

impl fmt::Display for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("none"),
            Self::In(path) => path.fmt(f),
        }
    }
}

/// An `http://` or `https://` address with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(String);

impl HttpUrl {
    /// The address, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HttpUrl {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim().trim_end_matches('/');
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let host = rest.map(|r| r.split(['/', '?', '#']).next().unwrap_or_default());
        let ok = host.is_some_and(|h| !h.is_empty() && !h.starts_with(':') && !h.contains('@'))
            && text.chars().all(|c| c.is_ascii_graphic());
        ok.then(|| Self(text.to_owned())).ok_or_else(Self::expected)
    }
}

impl Text for HttpUrl {
    fn expected() -> Expected {
        Expected("an http or https address without a password, such as \"https://127.0.0.1:10250\"".into())
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is logged: a level, or comma-separated `target=level` directives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as `tracing_subscriber::EnvFilter` reads it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What `--verbose` means.
    pub(crate) fn debug() -> Self {
        Self("debug".into())
    }
}

impl Default for LogFilter {
    fn default() -> Self {
        Self("info".into())
    }
}

impl FromStr for LogFilter {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        let text = text.trim();
        // A filter takes any lone word for the name of a target; here it is more likely a level with a typo.
        let plain = |d: &str| !d.contains(['=', '[', ']', '{', '}']);
        let level = |d: &str| matches!(d, "off" | "error" | "warn" | "info" | "debug" | "trace");
        let words = !text.is_empty() && text.split(',').all(|d| !plain(d) || level(d));
        let valid = words
            && !text.chars().any(char::is_control)
            && tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
        valid.then(|| Self(text.to_owned())).ok_or_else(Self::expected)
    }
}

impl Text for LogFilter {
    fn expected() -> Expected {
        Expected("off, error, warn, info, debug, trace or a filter such as \"info,ebbtide_agent=debug\"".into())
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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
    fn small_forms() {
        let floor: Floor = "a=b=1.5 W".parse().unwrap();
        assert_eq!((floor.zone.as_str(), floor.watts.0.uw()), ("a=b", 1_500_000));
        assert!("=1".parse::<Floor>().is_err() && "package-0".parse::<Floor>().is_err());
        assert_eq!("top:50".parse(), Ok(Processes::Top(50)));
        for bad in ["top:0", "top:", "top", "top:+5", "none", "top:99999999999"] {
            assert!(bad.parse::<Processes>().is_err(), "{bad}");
        }
        assert_eq!(":9883".parse::<Listen>().unwrap().to_string(), "[::]:9883");
        for bad in ["localhost:9883", "9883", "127.0.0.1", ":", "1.2.3.4:99999"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
        assert_eq!("none".parse(), Ok(StateDir::Off));
        assert_eq!("https://[::1]:10250/".parse::<HttpUrl>().unwrap().as_str(), "https://[::1]:10250");
        for bad in ["10.0.0.1:10250", "https://", "ftp://x", "https://:1", "https://a b", "http://u:p@x"] {
            assert!(bad.parse::<HttpUrl>().is_err(), "{bad}");
        }
        for good in ["info", "off", "warn,ebbtide_agent=debug", "ebbtide_agent[read]=trace"] {
            assert!(good.parse::<LogFilter>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "debug,inof", "ebbtide=loud", "INFO "] {
            assert!(bad.parse::<LogFilter>().is_err(), "{bad}");
        }
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
                if let Ok(p) = text.parse::<FilePath>() {
                    prop_assert_eq!(p.to_string(), text.as_str());
                }
                if let Ok(f) = text.parse::<LogFilter>() {
                    prop_assert_eq!(f.to_string().parse::<LogFilter>(), Ok(f));
                }
                if let Ok(u) = text.parse::<HttpUrl>() {
                    prop_assert_eq!(u.to_string().parse::<HttpUrl>(), Ok(u));
                }
                prop_assert!(excerpt(text).lines().count() <= 1);
            }
        }
    }
}
