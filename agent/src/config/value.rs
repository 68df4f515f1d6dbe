//! How single values are written: what is common to all, and addresses, paths, limits.
//!
//! Each type is read from text (flag, environment) and from TOML by the same parser, checks its own range, and
//! prints a text that parses back to itself. Durations and watts are in `quantity.rs`, closed sets of words in `words.rs`.

use std::fmt;
use std::marker::PhantomData;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Visitor;
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
    let mut shown = String::new();
    for c in text.chars().take(60) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
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

/// Reads and writes each `[const parameters] type` in TOML as its text.
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
pub(super) use text_in_toml;

text_in_toml!(
    [] Processes,
    [] Listen,
    [] StateDir,
    [] FilePath,
    [] HttpUrl,
    [] LogFilter,
);

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

    #[test]
    fn each_form_takes_what_it_should() {
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
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Ok(p) = text.parse::<FilePath>() {
                prop_assert_eq!(p.to_string(), text.as_str());
            }
            if let Ok(f) = text.parse::<LogFilter>() {
                prop_assert_eq!(f.to_string().parse::<LogFilter>(), Ok(f));
            }
            if let Ok(u) = text.parse::<HttpUrl>() {
                prop_assert_eq!(u.to_string().parse::<HttpUrl>(), Ok(u));
            }
            if let Ok(l) = text.parse::<Listen>() {
                prop_assert_eq!(l.to_string().parse::<Listen>(), Ok(l));
            }
            let shown = excerpt(&text);
            prop_assert!(!shown.contains(char::is_control));
        }
    }
}
