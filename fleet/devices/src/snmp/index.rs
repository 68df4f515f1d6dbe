//! Which rows of a table are meant, and which part of their index names an outlet. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::oid::dotted;

/// The form of a table's index, such as `*.*.5`.
///
/// | part | matches | part of the outlet's address |
/// |---|---|---|
/// | a number | that arc | no |
/// | `*` | any arc | yes |
/// | `+` | any arc but 0 | yes |
/// | `**` | one or more arcs; at most once | yes |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index(Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Fixed(u32),
    Any,
    NotZero,
    Rest,
}

/// What isn't the form of an index.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the form of an index: numbers, *, + and at most one **, with dots between them")]
pub struct NoIndex(String);

impl Default for Index {
    /// `**`: any row.
    fn default() -> Self {
        Self(vec![Part::Rest])
    }
}

impl Index {
    /// The parts of a row's index that are the outlet's address; `None` if the row isn't meant.
    pub fn address(&self, row: &[u32]) -> Option<Vec<u32>> {
        let free = (row.len() + 1).checked_sub(self.0.len());
        let mut address = Vec::with_capacity(row.len());
        let mut left = row;
        for part in &self.0 {
            let take = if *part == Part::Rest { free.filter(|&n| n > 0)? } else { 1 };
            let (arcs, rest) = left.split_at_checked(take)?;
            match (part, arcs) {
                (Part::Fixed(wanted), [arc]) if wanted != arc => return None,
                (Part::NotZero, [0]) => return None,
                (Part::Fixed(_), _) => {}
                _ => address.extend_from_slice(arcs),
            }
            left = rest;
        }
        left.is_empty().then_some(address)
    }

    /// The index of the row with this address; `None` if it has no such form.
    pub fn row(&self, address: &[u32]) -> Option<Vec<u32>> {
        let single = self.0.iter().filter(|p| matches!(p, Part::Any | Part::NotZero)).count();
        let free = address.len().checked_sub(single)?;
        let mut row = Vec::with_capacity(self.0.len() + free);
        let mut left = address;
        for part in &self.0 {
            let take = match part {
                Part::Fixed(arc) => {
                    row.push(*arc);
                    continue;
                }
                Part::Any | Part::NotZero => 1,
                Part::Rest => free.max(1),
            };
            let (arcs, rest) = left.split_at_checked(take)?;
            row.extend_from_slice(arcs);
            left = rest;
        }
        left.is_empty().then_some(row)
    }
}

impl FromStr for Index {
    type Err = NoIndex;

    fn from_str(text: &str) -> Result<Self, NoIndex> {
        let wrong = || NoIndex(text.chars().take(60).collect());
        let part = |part: &str| match part {
            "*" => Some(Part::Any),
            "+" => Some(Part::NotZero),
            "**" => Some(Part::Rest),
            number => number.parse().ok().map(Part::Fixed),
        };
        let parts = text.split('.').map(part).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        if parts.len() > 32 || parts.iter().filter(|p| **p == Part::Rest).count() > 1 {
            return Err(wrong());
        }
        Ok(Self(parts))
    }
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            match part {
                Part::Fixed(arc) => write!(f, "{arc}")?,
                Part::Any => f.write_str("*")?,
                Part::NotZero => f.write_str("+")?,
                Part::Rest => f.write_str("**")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Index {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An address as people write it: numbers with dots; octets in it, such as a unit's MAC address, as such.
pub fn name(address: &[u32]) -> String {
    let octet = |arcs: &[u32]| arcs.iter().map(|&a| u8::try_from(a).ok()).collect::<Option<Vec<u8>>>();
    // Octets of variable length have their number in front (RFC 2578, 7.7).
    if let [length, rest @ ..] = address
        && let Some((arcs, rest)) =
            usize::try_from(*length).ok().filter(|&n| n >= 6).and_then(|n| rest.split_at_checked(n))
        && let Some(bytes) = octet(arcs)
    {
        let text = if bytes.iter().all(u8::is_ascii_alphanumeric) {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            hex(&bytes)
        };
        return if rest.is_empty() { text } else { format!("{text}.{}", dotted(rest)) };
    }
    if address.len() > 6
        && let (arcs, rest) = address.split_at(6)
        && let Some(bytes) = octet(arcs)
    {
        return format!("{}.{}", hex(&bytes), dotted(rest));
    }
    dotted(address)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(index: &str, row: &[u32]) -> Option<Vec<u32>> {
        index.parse::<Index>().unwrap().address(row)
    }

    #[test]
    fn rows_are_picked_by_the_form_of_their_index() {
        assert_eq!(address("*.*.5", &[1, 7, 5]), Some(vec![1, 7]));
        assert_eq!(address("*.*.5", &[1, 7, 8]), None);
        assert_eq!(address("*.*.5", &[1, 7]), None);
        assert_eq!(address("+.+", &[0, 1]), None);
        assert_eq!(address("0.+", &[0, 3]), Some(vec![3]));
        assert_eq!(address("0.0", &[0, 0]), Some(vec![]));
        assert_eq!(address("**", &[1, 2, 3]), Some(vec![1, 2, 3]));
        assert_eq!(address("**", &[]), None);
        assert_eq!(address("**.1", &[4, 5, 1]), Some(vec![4, 5]));
        assert!("**.**".parse::<Index>().is_err() && "1.x".parse::<Index>().is_err() && "".parse::<Index>().is_err());
    }

    #[test]
    fn octets_in_an_index_are_shown_as_such() {
        assert_eq!(name(&[1, 7]), "1.7");
        assert_eq!(name(&[0, 14, 211, 0, 1, 121, 3]), "000ed3000179.3");
        assert_eq!(name(&[6, 0, 14, 211, 0, 1, 121, 3]), "000ed3000179.3");
        let ascii: Vec<u32> = [12].into_iter().chain("000ED3000179".bytes().map(u32::from)).chain([4]).collect();
        assert_eq!(name(&ascii), "000ED3000179.4");
    }

    proptest! {
        /// An address that was taken out of a row leads back to it.
        #[test]
        fn addresses_lead_back(
            form in prop::sample::select(vec!["*", "**", "*.*.5", "0.+", "+.+", "1.**.2", "**.*", "*.**"]),
            row in prop::collection::vec(0u32..9, 0..8),
        ) {
            let index: Index = form.parse().unwrap();
            if let Some(address) = index.address(&row) {
                prop_assert_eq!(index.row(&address), Some(row));
            }
        }
    }
}
