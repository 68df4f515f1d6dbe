//! Units of a device's integers: `10 W`, `0.1 kWh`, `0.01 A`. From a raw number to µW, µJ, mA or mV in integers. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::oid::decimal;

/// What is measured, and so the unit of the scaled integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quantity {
    /// Active power, in µW.
    Power,
    /// Apparent power, in µVA: no less than the active power.
    Apparent,
    /// Energy, in µJ.
    Energy,
    /// Current, in mA.
    Current,
    /// Voltage, in mV.
    Voltage,
    /// A share, in millionths: power factors.
    Share,
}

/// The unit that a device counts in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    quantity: Quantity,
    /// One count is `numerator / denominator` of the quantity's integer unit.
    numerator: i128,
    denominator: i128,
    text: String,
}

/// What isn't a unit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a unit: a number if it isn't 1, a space, and one of W, kW, VA, Wh, kWh, J, kJ, A, mA, V, mV, %")]
pub struct NoUnit(String);

/// A number in a quantity's integer unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scaled {
    /// The number, rounded to the nearest.
    pub value: i128,
    /// The least by which the device can tell two numbers apart, rounded up.
    pub step: i128,
}

/// Units by name, with the integer units in one.
const UNITS: [(&str, Quantity, i128); 13] = [
    ("W", Quantity::Power, 1_000_000),
    ("mW", Quantity::Power, 1_000),
    ("kW", Quantity::Power, 1_000_000_000),
    ("VA", Quantity::Apparent, 1_000_000),
    ("Wh", Quantity::Energy, 3_600_000_000),
    ("kWh", Quantity::Energy, 3_600_000_000_000),
    ("J", Quantity::Energy, 1_000_000),
    ("kJ", Quantity::Energy, 1_000_000_000),
    ("A", Quantity::Current, 1_000),
    ("mA", Quantity::Current, 1),
    ("V", Quantity::Voltage, 1_000),
    ("mV", Quantity::Voltage, 1),
    ("%", Quantity::Share, 10_000),
];

impl Quantity {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Power => "power",
            Self::Apparent => "apparent power",
            Self::Energy => "energy",
            Self::Current => "current",
            Self::Voltage => "voltage",
            Self::Share => "a share",
        }
    }
}

impl Unit {
    /// What it measures.
    pub const fn quantity(&self) -> Quantity {
        self.quantity
    }

    /// `raw` counts, of which the last `digits` decimal digits are decimals. `None` where that doesn't fit.
    pub fn scale(&self, raw: i128, digits: u32) -> Option<Scaled> {
        let divisor = self.denominator.checked_mul(10i128.checked_pow(digits)?)?;
        let doubled = raw.checked_mul(self.numerator)?.checked_mul(2)?;
        let value = doubled.checked_add(divisor)?.div_euclid(divisor.checked_mul(2)?);
        let step = self.numerator.checked_add(divisor - 1)?.div_euclid(divisor).max(1);
        Some(Scaled { value, step })
    }
}

impl FromStr for Unit {
    type Err = NoUnit;

    fn from_str(text: &str) -> Result<Self, NoUnit> {
        let wrong = || NoUnit(text.chars().take(40).collect());
        let trimmed = text.trim();
        let (factor, name) = trimmed.rsplit_once(' ').unwrap_or(("1", trimmed));
        let (mantissa, decimals) = decimal(factor.trim()).filter(|&(m, d)| m > 0 && d <= 9).ok_or_else(wrong)?;
        let &(_, quantity, one) = UNITS.iter().find(|(n, ..)| *n == name).ok_or_else(wrong)?;
        let numerator = one.checked_mul(mantissa).ok_or_else(wrong)?;
        Ok(Self { quantity, numerator, denominator: 10i128.pow(decimals), text: trimmed.to_owned() })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Unit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scaled(unit: &str, raw: i128, digits: u32) -> (i128, i128) {
        let s = unit.parse::<Unit>().unwrap().scale(raw, digits).unwrap();
        (s.value, s.step)
    }

    #[test]
    fn units_of_the_field() {
        assert_eq!(scaled("10 W", 117, 0), (1_170_000_000, 10_000_000));
        assert_eq!(scaled("0.1 kWh", 706, 0), (70_600 * 3_600_000_000, 360_000_000_000));
        assert_eq!(scaled("Wh", 74_057_676, 0), (74_057_676 * 3_600_000_000, 3_600_000_000));
        assert_eq!(scaled("A", 7467, 3), (7467, 1));
        assert_eq!(scaled("0.01 A", 95, 0), (950, 10));
        assert_eq!(scaled("10 J", 360, 0), (3_600_000_000, 10_000_000), "360 deca-watt-seconds are a watt-hour");
        assert_eq!(scaled("0.01 %", 9_900, 0), (990_000, 100));
        assert_eq!(scaled("mA", 1, 1), (0, 1), "rounds to the nearest, and the step is never 0");
    }

    #[test]
    fn what_is_no_unit_is_refused() {
        for wrong in ["", "W h", "0 W", "-1 W", "x W", "w", "10W", "KW", "0.0000000001 W"] {
            assert!(wrong.parse::<Unit>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn scaling_is_monotone_and_never_panics(a: i64, b: i64, digits in 0u32..40) {
            let unit: Unit = "0.1 kWh".parse().unwrap();
            if let (Some(x), Some(y)) = (unit.scale(i128::from(a), digits), unit.scale(i128::from(b), digits)) {
                prop_assert!(a > b || x.value <= y.value);
                prop_assert!(x.step >= 1);
            }
        }
    }
}
