//! Settings whose values are words of a closed set, alone or in lists.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ebbtide_proto::WorkloadKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::value::{Expected, Text, deserialize};
use crate::attribution::IdlePolicy;
use crate::source::SourceKind;
use crate::usage::Choice;

/// A closed set of words.
pub trait Word: Copy + Ord + Send + Sync + 'static {
    /// Every word of the set, in the order of help texts.
    const ALL: &'static [Self];

    /// How it is written.
    fn word(self) -> &'static str;
}

/// Whose metric names are on the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameStyle {
    /// Ebbtide's own.
    Native,
    /// Those of Kepler.
    Kepler,
    /// Those of Scaphandre.
    Scaphandre,
}

impl Word for NameStyle {
    const ALL: &'static [Self] = &[Self::Native, Self::Kepler, Self::Scaphandre];

    fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Kepler => "kepler",
            Self::Scaphandre => "scaphandre",
        }
    }
}

impl Word for IdlePolicy {
    const ALL: &'static [Self] = &[Self::Unallocated, Self::ByUsage, Self::ByReservation, Self::Equal];

    fn word(self) -> &'static str {
        match self {
            Self::Unallocated => "unallocated",
            Self::ByUsage => "by-usage",
            Self::ByReservation => "by-reservation",
            Self::Equal => "equal",
        }
    }
}

/// A label of workload series that can be left out to save memory at the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// Name of the workload for people.
    Name,
    /// Kubernetes namespace.
    Namespace,
    /// Name of the pod.
    Pod,
    /// Container runtime.
    Runtime,
    /// Quality-of-service class of the pod.
    Qos,
    /// systemd slice.
    Slice,
    /// Short command name of a process.
    Comm,
}

impl Word for Label {
    const ALL: &'static [Self] =
        &[Self::Name, Self::Namespace, Self::Pod, Self::Runtime, Self::Qos, Self::Slice, Self::Comm];

    fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::Runtime => "runtime",
            Self::Qos => "qos",
            Self::Slice => "slice",
            Self::Comm => "comm",
        }
    }
}

/// The kinds that can be switched on and off; processes have a setting of their own.
impl Word for WorkloadKind {
    const ALL: &'static [Self] =
        &[Self::Container, Self::Pod, Self::Namespace, Self::Unit, Self::Slice, Self::Vm, Self::User, Self::System];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Word for Choice {
    const ALL: &'static [Self] = &[Self::Auto, Self::Bpf, Self::Procfs];

    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Bpf => "bpf",
            Self::Procfs => "procfs",
        }
    }
}

impl Word for SourceKind {
    const ALL: &'static [Self] = &[Self::Powercap, Self::Scmi, Self::PerfRapl, Self::Hwmon, Self::Battery, Self::Model];

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// One word of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct One<T>(pub T);

/// One entry of a list: a word of the set, or one that stands for a whole list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<T> {
    /// Every word; stands alone.
    All,
    /// No word; stands alone.
    None,
    /// This word.
    One(T),
}

impl<T: Word> Pick<T> {
    /// The set that `picks` describe. `all` and `none` next to other words are an error.
    pub(super) fn set(picks: &[Self]) -> Result<BTreeSet<T>, Expected> {
        match picks {
            [Self::All] => Ok(T::ALL.iter().copied().collect()),
            [Self::None] => Ok(BTreeSet::new()),
            words => words.iter().map(|pick| if let Self::One(word) = pick { Ok(*word) } else { Err(()) }).collect(),
        }
        .map_err(|()| Expected("\"all\" or \"none\" to stand alone in its list".into()))
    }

    /// The shortest list that describes `set`.
    pub(super) fn list(set: &BTreeSet<T>) -> Vec<Self> {
        if set.is_empty() {
            vec![Self::None]
        } else if T::ALL.iter().all(|word| set.contains(word)) {
            vec![Self::All]
        } else {
            T::ALL.iter().filter(|word| set.contains(word)).map(|word| Self::One(*word)).collect()
        }
    }
}

fn find<T: Word>(text: &str) -> Option<T> {
    T::ALL.iter().copied().find(|w| w.word() == text)
}

fn one_of<T: Word>(more: &[&'static str]) -> Expected {
    let words: Vec<&str> = more.iter().copied().chain(T::ALL.iter().map(|w| w.word())).collect();
    Expected(format!("one of {}", words.join(", ")))
}

impl<T: Word> FromStr for One<T> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        find(text).map(Self).ok_or_else(Self::expected)
    }
}

impl<T: Word> Text for One<T> {
    fn expected() -> Expected {
        one_of::<T>(&[])
    }
}

impl<T: Word> FromStr for Pick<T> {
    type Err = Expected;

    fn from_str(text: &str) -> Result<Self, Expected> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => find(text).map(Self::One).ok_or_else(Self::expected),
        }
    }
}

impl<T: Word> Text for Pick<T> {
    fn expected() -> Expected {
        one_of::<T>(&["all", "none"])
    }
}

impl<T: Word> fmt::Display for One<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.word())
    }
}

impl<T: Word> fmt::Display for Pick<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "all",
            Self::None => "none",
            Self::One(word) => word.word(),
        })
    }
}

macro_rules! word_in_toml {
    ($($t:ident),+) => {$(
        impl<'de, T: Word> Deserialize<'de> for $t<T> {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                deserialize(d)
            }
        }
        impl<T: Word> Serialize for $t<T> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
    )+};
}

word_in_toml!(One, Pick);

/// clap's parser of one word; the words show up in help and completion.
pub(super) fn one<T: Word>() -> impl TypedValueParser<Value = One<T>> {
    PossibleValuesParser::new(T::ALL.iter().map(|w| w.word())).try_map(|text| text.parse::<One<T>>())
}

/// clap's parser of one list entry.
pub(super) fn pick<T: Word>() -> impl TypedValueParser<Value = Pick<T>> {
    let words = ["all", "none"].into_iter().chain(T::ALL.iter().map(|w| w.word()));
    PossibleValuesParser::new(words).try_map(|text| text.parse::<Pick<T>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_are_distinct<T: Word>() {
        let words: BTreeSet<&str> = T::ALL.iter().map(|w| w.word()).collect();
        assert_eq!(words.len(), T::ALL.len());
        for word in T::ALL {
            assert!(find::<T>(word.word()) == Some(*word) && !matches!(word.word(), "all" | "none"));
        }
    }

    #[test]
    fn each_word_is_found_again() {
        words_are_distinct::<NameStyle>();
        words_are_distinct::<IdlePolicy>();
        words_are_distinct::<Label>();
        words_are_distinct::<WorkloadKind>();
        words_are_distinct::<SourceKind>();
        assert!(!<WorkloadKind as Word>::ALL.contains(&WorkloadKind::Process));
    }

    #[test]
    fn lists_and_sets_mean_the_same() {
        let set = |text: &str| -> Result<BTreeSet<Label>, Expected> {
            Pick::set(&text.split_whitespace().map(|t| t.parse().unwrap()).collect::<Vec<_>>())
        };
        assert_eq!(set("all").unwrap().len(), Label::ALL.len());
        assert!(set("none").unwrap().is_empty() && set("").unwrap().is_empty());
        assert!(set("all pod").is_err() && set("pod none").is_err());
        for text in ["all", "none", "pod qos"] {
            let set = set(text).unwrap();
            assert_eq!(Pick::set(&Pick::list(&set)).unwrap(), set);
        }
    }
}
