//! Energy, power and ratios as integers.
//!
//! | type | unit | why |
//! |---|---|---|
//! | [`Energy`] | microjoule | what RAPL and hwmon count; `u64` holds 584 years at 1 kW |
//! | [`Power`]  | microwatt  | what hwmon and SCMI report |
//! | [`Ratio`]  | part per million | relative errors and shares |
//!
//! `Display` is for people: three significant digits and a unit that fits
//! (`63.1 W`, `5.80 kJ`, `3.10 kWh`).

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An amount of energy in microjoules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Energy(u64);

/// A power in microwatts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Power(u64);

/// A ratio in parts per million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(u32);

impl Energy {
    /// No energy at all.
    pub const ZERO: Self = Self(0);

    /// `uj` microjoules.
    pub const fn from_uj(uj: u64) -> Self {
        Self(uj)
    }

    /// The number of microjoules.
    pub const fn uj(self) -> u64 {
        self.0
    }

    /// Joules as a float; for display and fits, never for sums.
    pub fn joules(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// `self + other`, or `None` where it doesn't fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `self - other`, or `None` where it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// `self - other`, at least zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Mean power over `dt`; `None` if `dt` is zero.
    pub fn over(self, dt: Duration) -> Option<Power> {
        let ns = dt.as_nanos();
        if ns == 0 {
            return None;
        }
        Some(Power(saturate(u128::from(self.0) * 1_000_000_000 / ns)))
    }

    /// Joules with all six decimals (`12.000345`), exact: the form of the metrics page.
    pub fn as_joules_exact(self) -> ExactJoules {
        ExactJoules(self)
    }
}

/// Displays an [`Energy`] as joules with six decimals, without rounding.
#[derive(Clone, Copy, Debug)]
pub struct ExactJoules(Energy);

impl fmt::Display for ExactJoules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.0 / 1_000_000, self.0.0 % 1_000_000)
    }
}

impl Power {
    /// No power at all.
    pub const ZERO: Self = Self(0);

    /// `uw` microwatts.
    pub const fn from_uw(uw: u64) -> Self {
        Self(uw)
    }

    /// `w` watts; `None` for a negative or non-finite figure, or one beyond the range.
    pub fn from_watts(w: f64) -> Option<Self> {
        let uw = w * 1e6;
        if uw.is_finite() && (0.0..=u64::MAX as f64).contains(&uw) {
            #[allow(clippy::cast_possible_truncation, reason = "checked against the range above")]
            return Some(Self(uw.round() as u64));
        }
        None
    }

    /// The number of microwatts.
    pub const fn uw(self) -> u64 {
        self.0
    }

    /// Watts as a float; for display and fits.
    pub fn watts(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Energy that this power amounts to over `dt`, rounded down.
    pub fn over(self, dt: Duration) -> Energy {
        Energy(saturate(u128::from(self.0) * dt.as_nanos() / 1_000_000_000))
    }

    /// `self + other`, at most the largest power there is.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Ratio {
    /// `ppm` parts per million.
    pub const fn from_ppm(ppm: u32) -> Self {
        Self(ppm)
    }

    /// `percent` percent.
    pub const fn from_percent(percent: u32) -> Self {
        Self(percent.saturating_mul(10_000))
    }

    /// Parts per million.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// As a fraction of one.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

fn saturate(v: u128) -> u64 {
    u64::try_from(v).unwrap_or(u64::MAX)
}

/// Sums saturate: a total that no longer fits stays at the largest figure rather than start over.
impl Add for Energy {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Energy {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Energy {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

impl Sum for Power {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Joules up to 10 kJ, then watt-hours, then kilowatt-hours and on.
impl fmt::Display for Energy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let j = self.joules();
        if j < 1e4 { si(f, j, "J", 1) } else { si(f, j / 3600.0, "Wh", 0) }
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        si(f, self.watts(), "W", 1)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} %", three_digits(self.fraction() * 100.0)))
    }
}

/// Writes `value` with three significant digits and an SI prefix; `small` steps below one are allowed.
fn si(f: &mut fmt::Formatter<'_>, value: f64, unit: &str, small: usize) -> fmt::Result {
    const PREFIX: [&str; 7] = ["m", "", "k", "M", "G", "T", "P"];
    let (mut v, mut p) = (value, 1);
    if v != 0.0 && v < 0.9995 && small > 0 {
        v *= 1e3;
        p = 0;
    }
    while v >= 999.5 && p + 1 < PREFIX.len() {
        v /= 1e3;
        p += 1;
    }
    let prefix = PREFIX.get(p).copied().unwrap_or("");
    f.pad(&format!("{} {prefix}{unit}", three_digits(v)))
}

/// `v` with three significant digits and no exponent.
fn three_digits(v: f64) -> String {
    if v == 0.0 || v >= 99.95 {
        format!("{v:.0}")
    } else if v >= 9.995 {
        format!("{v:.1}")
    } else {
        format!("{v:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shows_three_digits_and_a_unit_that_fits() {
        let e = |j: f64| Energy::from_uj(format!("{:.0}", j * 1e6).parse().unwrap()).to_string();
        assert_eq!(e(0.0), "0 J");
        assert_eq!(e(0.0012), "1.20 mJ");
        assert_eq!(e(5.8), "5.80 J");
        assert_eq!(e(999.6), "1.00 kJ");
        assert_eq!(e(5800.0), "5.80 kJ");
        assert_eq!(e(36_000.0), "10.0 Wh");
        assert_eq!(e(3.1 * 3.6e6), "3.10 kWh");
        let p = |w: f64| Power::from_watts(w).unwrap().to_string();
        assert_eq!(p(212.4), "212 W");
        assert_eq!(p(63.14), "63.1 W");
        assert_eq!(p(6.31), "6.31 W");
        assert_eq!(p(0.25), "250 mW");
        assert_eq!(p(1_250.0), "1.25 kW");
        assert_eq!(Ratio::from_percent(8).to_string(), "8.00 %");
    }

    #[test]
    fn refuses_what_is_not_a_power() {
        for w in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(Power::from_watts(w), None, "{w}");
        }
    }

    proptest! {
        #[test]
        fn exact_joules_lose_nothing(uj in any::<u64>()) {
            let text = Energy::from_uj(uj).as_joules_exact().to_string();
            let (whole, frac) = text.split_once('.').unwrap();
            prop_assert_eq!(frac.len(), 6);
            let back = whole.parse::<u128>().unwrap() * 1_000_000 + frac.parse::<u128>().unwrap();
            prop_assert_eq!(back, u128::from(uj));
        }

        #[test]
        fn power_and_energy_are_inverse_to_the_rounding(uw in 0..1_000_000_000_000u64, ms in 1..100_000u64) {
            let dt = Duration::from_millis(ms);
            let back = Power::from_uw(uw).over(dt).over(dt).unwrap().uw();
            // rounding down twice costs less than one microjoule over `dt`, and one microwatt
            prop_assert!(back <= uw && uw - back <= 1000 / ms + 1, "{uw} {back}");
        }

        #[test]
        fn no_sum_wraps(a in any::<u64>(), b in any::<u64>()) {
            let sum = Energy::from_uj(a) + Energy::from_uj(b);
            prop_assert!(sum >= Energy::from_uj(a) && sum >= Energy::from_uj(b));
            prop_assert_eq!(Energy::from_uj(a).checked_add(Energy::from_uj(b)).is_none(), a.checked_add(b).is_none());
        }

        #[test]
        fn display_never_panics_and_names_a_unit(uj in any::<u64>()) {
            prop_assert!(Energy::from_uj(uj).to_string().contains(' '));
            prop_assert!(Power::from_uw(uj).to_string().ends_with('W'));
        }
    }
}
