//! Object identifiers and values as the rest of `snmp` sees them, and the tree that a device shows.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More arcs than this are not allowed in an object identifier (RFC 3416, 4.1).
const LONGEST: usize = 128;

/// An object identifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oid(Vec<u32>);

/// What isn't an object identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an object identifier such as 1.3.6.1.4.1.318")]
pub struct NoOid(String);

/// What a device says an object is. Its refusals (`noSuchObject`, `noSuchInstance`) are not values: such an object is
/// not in the [`Tree`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number of any of SNMP's types.
    Number(i128),
    /// Octets: text, addresses, or numbers as text.
    Octets(Vec<u8>),
    /// An object identifier.
    Id(Oid),
}

/// Objects with their values, in SNMP's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<Oid, Value>);

impl Oid {
    /// An identifier of these arcs.
    pub fn new(arcs: impl Into<Vec<u32>>) -> Self {
        Self(arcs.into())
    }

    /// Its arcs.
    pub fn arcs(&self) -> &[u32] {
        &self.0
    }

    /// This one with `more` at its end.
    #[must_use]
    pub fn join(&self, more: &[u32]) -> Self {
        Self([&self.0, more].concat())
    }

    /// What follows `prefix`, if it begins with it.
    pub fn below(&self, prefix: &Self) -> Option<&[u32]> {
        self.0.strip_prefix(prefix.0.as_slice())
    }

    /// All but the last arc; `None` of the empty one.
    pub fn parent(&self) -> Option<Self> {
        self.0.split_last().map(|(_, rest)| Self(rest.to_vec()))
    }
}

/// With or without a dot in front.
impl FromStr for Oid {
    type Err = NoOid;

    fn from_str(text: &str) -> Result<Self, NoOid> {
        let wrong = || NoOid(text.chars().take(80).collect());
        let trimmed = text.trim();
        let arcs: Result<Vec<u32>, _> =
            trimmed.strip_prefix('.').unwrap_or(trimmed).split('.').map(str::parse).collect();
        arcs.ok().filter(|arcs| (2..=LONGEST).contains(&arcs.len())).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&dotted(&self.0))
    }
}

impl Serialize for Oid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Oid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Value {
    /// As a number with its decimals: `(1234, 2)` is 12.34. Text that is one counts, as some devices send that.
    pub fn number(&self) -> Option<(i128, u32)> {
        match self {
            Self::Number(n) => Some((*n, 0)),
            Self::Octets(bytes) => decimal(std::str::from_utf8(bytes).ok()?.trim()),
            Self::Id(_) => None,
        }
    }

    /// As text for people: printable, without spaces or zeros around it. `None` if nothing is left.
    pub fn text(&self) -> Option<String> {
        let text = match self {
            Self::Number(n) => n.to_string(),
            Self::Octets(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Id(id) => id.to_string(),
        };
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// As an object identifier, also where a device sends one as text.
    pub fn id(&self) -> Option<Oid> {
        match self {
            Self::Id(id) => Some(id.clone()),
            Self::Octets(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            Self::Number(_) => None,
        }
    }
}

impl Tree {
    /// The value of one object.
    pub fn get(&self, oid: &Oid) -> Option<&Value> {
        self.0.get(oid)
    }

    /// Sets the value of one object.
    pub fn insert(&mut self, oid: Oid, value: Value) {
        self.0.insert(oid, value);
    }

    /// What lies below a column: the index of each row with its value, in order.
    pub fn rows<'a>(&'a self, column: &'a Oid) -> impl Iterator<Item = (&'a [u32], &'a Value)> + 'a {
        self.0.range(column.clone()..).map_while(move |(oid, value)| Some((oid.below(column)?, value)))
    }

    /// The first object after `oid`.
    pub fn after(&self, oid: &Oid) -> Option<(&Oid, &Value)> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.0.range((Excluded(oid.clone()), Unbounded)).next()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in what another tree says, which is newer.
    pub fn update(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }
}

impl FromIterator<(Oid, Value)> for Tree {
    fn from_iter<I: IntoIterator<Item = (Oid, Value)>>(objects: I) -> Self {
        Self(objects.into_iter().collect())
    }
}

impl IntoIterator for Tree {
    type Item = (Oid, Value);
    type IntoIter = std::collections::btree_map::IntoIter<Oid, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Arcs with dots between them.
pub(crate) fn dotted(arcs: &[u32]) -> String {
    arcs.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
}

/// `-12.50` as `(-1250, 2)`; at most 18 digits, so that nothing overflows later.
pub(crate) fn decimal(text: &str) -> Option<(i128, u32)> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || digits.ends_with('.') || !plain(whole) || !plain(fraction) || digits.len() > 18 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some((sign * mantissa, u32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_are_read_with_and_without_a_dot_and_nothing_else() {
        assert_eq!(".1.3.6.1".parse::<Oid>().unwrap(), Oid::new([1, 3, 6, 1]));
        assert_eq!("1.3.6.1".parse::<Oid>().unwrap().to_string(), "1.3.6.1");
        for wrong in ["", "1", "1..3", "1.3.", "a.b", "1.3.4294967296", "sysDescr.0"] {
            assert!(wrong.parse::<Oid>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_come_as_text_too() {
        let number = |s: &str| Value::Octets(s.as_bytes().to_vec()).number();
        assert_eq!(number(" 12.50 "), Some((1250, 2)));
        assert_eq!(number("-3"), Some((-3, 0)));
        for wrong in ["", ".", "1.", ".5", "1e3", "12 W", "notsupported ", "1234567890123456789"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn text_is_fit_to_print() {
        assert_eq!(Value::Octets(vec![0; 8]).text(), None);
        assert_eq!(Value::Octets(b" rack\x1b[31m 7\0 ".to_vec()).text().as_deref(), Some("rack[31m 7"));
        assert_eq!(
            Value::Octets(b".1.3.6.1.4.1.232.165.11".to_vec()).id().unwrap().to_string(),
            "1.3.6.1.4.1.232.165.11"
        );
    }

    #[test]
    fn rows_are_those_below_a_column() {
        let tree: Tree = ["1.3.1.1", "1.3.1.2.5", "1.3.2", "1.3.10.1"]
            .into_iter()
            .map(|o| (o.parse().unwrap(), Value::Number(1)))
            .collect();
        let rows: Vec<_> = tree.rows(&"1.3.1".parse().unwrap()).map(|(i, _)| dotted(i)).collect();
        assert_eq!(rows, ["1", "2.5"]);
        assert_eq!(tree.after(&"1.3.2".parse().unwrap()).unwrap().0.to_string(), "1.3.10.1");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC{0,60}") {
            if let Ok(oid) = text.parse::<Oid>() {
                prop_assert_eq!(oid.to_string().parse::<Oid>().unwrap(), oid);
            }
            if let Some((mantissa, decimals)) = decimal(&text) {
                prop_assert!(mantissa.abs() < 10i128.pow(18) && decimals <= 18);
            }
        }
    }
}
