//! Numbers with a unit made into figures. Pure. What is no number, negative, or beyond the range makes none.

use std::borrow::Cow;

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};

use crate::report::{Feed, Figure};

/// The unit of a number that a device tells, as it is configured: `"W"`, `"kWh"`, `"Wmin"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Unit {
    /// Milliwatts.
    #[serde(rename = "mW")]
    Milliwatt,
    /// Watts.
    #[serde(rename = "W")]
    Watt,
    /// Kilowatts.
    #[serde(rename = "kW")]
    Kilowatt,
    /// Joules.
    #[serde(rename = "J")]
    Joule,
    /// Watt-minutes, 60 J.
    #[serde(rename = "Wmin")]
    WattMinute,
    /// Watt-hours, 3.6 kJ.
    #[serde(rename = "Wh")]
    WattHour,
    /// Kilowatt-hours, 3.6 MJ.
    #[serde(rename = "kWh")]
    KilowattHour,
    /// Milliamperes.
    #[serde(rename = "mA")]
    Milliampere,
    /// Amperes.
    #[serde(rename = "A")]
    Ampere,
    /// Millivolts.
    #[serde(rename = "mV")]
    Millivolt,
    /// Volts.
    #[serde(rename = "V")]
    Volt,
}

/// How good the numbers of a device are, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Origin {
    /// When the number was true.
    pub at: Moment,
    /// Relative error of the measurement, by the device's class.
    pub accuracy: Ratio,
    /// The step of the number; half of it is added to the error.
    pub step: Step,
    /// The name of the number in the device's protocol.
    pub source: &'static str,
}

/// By how much a number moves at least, in its unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// By this.
    Known(f64),
    /// By what its last digit suggests: 1 for whole numbers, then a tenth and so on to a thousandth, times this.
    Digits(f64),
}

impl Step {
    /// Its size, for a number of this value.
    pub(crate) fn size(self, value: f64) -> f64 {
        match self {
            Self::Known(step) => step,
            Self::Digits(scale) => {
                let raw = value / scale;
                let is_step = |step: &f64| (raw / step - (raw / step).round()).abs() < 1e-6;
                [1.0, 0.1, 0.01].into_iter().find(is_step).unwrap_or(0.001) * scale.abs()
            }
        }
    }
}

impl Unit {
    /// Puts `value` in this unit into `feed`, where it is a figure; else leaves the feed as it is. Whether it was.
    pub fn put(self, feed: &mut Feed, value: f64, origin: &Origin) -> bool {
        match self {
            Self::Milliwatt => set(&mut feed.power, power(value / 1e3), value, origin),
            Self::Watt => set(&mut feed.power, power(value), value, origin),
            Self::Kilowatt => set(&mut feed.power, power(value * 1e3), value, origin),
            Self::Joule => put_energy(feed, 1.0, value, origin),
            Self::WattMinute => put_energy(feed, 60.0, value, origin),
            Self::WattHour => put_energy(feed, 3.6e3, value, origin),
            Self::KilowattHour => put_energy(feed, 3.6e6, value, origin),
            Self::Milliampere => set(&mut feed.current_ma, thousandths(value / 1e3), value, origin),
            Self::Ampere => set(&mut feed.current_ma, thousandths(value), value, origin),
            Self::Millivolt => set(&mut feed.voltage_mv, thousandths(value / 1e3), value, origin),
            Self::Volt => set(&mut feed.voltage_mv, thousandths(value), value, origin),
        }
    }
}

fn set<T>(place: &mut Option<Figure<T>>, figure: Option<T>, value: f64, origin: &Origin) -> bool {
    let Some(figure) = figure else { return false };
    *place = Some(Figure {
        value: figure,
        at: origin.at,
        error: error(value, origin),
        source: Cow::Borrowed(origin.source),
    });
    true
}

/// A counter, with the step by which it moves, where it has one.
fn put_energy(feed: &mut Feed, joules: f64, value: f64, origin: &Origin) -> bool {
    let is_figure = set(&mut feed.energy, energy(value * joules), value, origin);
    if let (true, Step::Known(step)) = (is_figure, origin.step) {
        feed.energy_step = energy(step * joules).filter(|step| *step > Energy::ZERO);
    }
    is_figure
}

/// Accuracy and half a step of the number, as a part of the number; a number of zero has the whole of itself.
fn error(value: f64, origin: &Origin) -> Ratio {
    let half_step = if value > 0.0 { origin.step.size(value) / 2.0 / value } else { 1.0 };
    let ppm = (f64::from(origin.accuracy.ppm()) + half_step.clamp(0.0, 1.0) * 1e6).min(1e6);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10⁶ by the line above")]
    Ratio::from_ppm(ppm.ceil() as u32)
}

/// A part of a feed of at least 1 GW is a device that doesn't know.
fn power(watts: f64) -> Option<Power> {
    Power::from_watts(watts).filter(|p| p.uw() < 1_000_000_000_000_000)
}

fn energy(joules: f64) -> Option<Energy> {
    let uj = joules * 1e6;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range")]
    (uj.is_finite() && (0.0..1.8e19).contains(&uj)).then(|| Energy::from_uj(uj.round() as u64))
}

fn thousandths(value: f64) -> Option<u32> {
    let thousandths = value * 1e3;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked against the range")]
    (thousandths.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&thousandths)).then(|| thousandths.round() as u32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ORIGIN: Origin = Origin {
        at: Moment { mono: 1, boot: 1, wall: 1 },
        accuracy: Ratio::from_percent(1),
        step: Step::Known(1.0),
        source: "test",
    };

    fn fed(unit: Unit, value: f64) -> Feed {
        let mut feed = Feed::default();
        assert_eq!(unit.put(&mut feed, value, &ORIGIN), !feed.is_empty());
        feed
    }

    #[test]
    fn units_are_what_they_say() {
        let uj = |unit| fed(unit, 2.0).energy.unwrap().value.uj();
        assert_eq!(uj(Unit::Joule), 2_000_000);
        assert_eq!(uj(Unit::WattMinute), 120_000_000);
        assert_eq!(uj(Unit::WattHour), 7_200_000_000);
        assert_eq!(uj(Unit::KilowattHour), 7_200_000_000_000);
        let uw = |unit| fed(unit, 2.0).power.unwrap().value.uw();
        assert_eq!([uw(Unit::Milliwatt), uw(Unit::Watt), uw(Unit::Kilowatt)], [2_000, 2_000_000, 2_000_000_000]);
        assert_eq!(fed(Unit::Ampere, 1.68).current_ma.unwrap().value, 1680);
        assert_eq!(fed(Unit::Millivolt, 230_100.0).voltage_mv.unwrap().value, 230_100);
    }

    #[test]
    fn digits_tell_the_step() {
        assert_eq!([344.0, 197.4, 1.68, 0.1234].map(|v| Step::Digits(1.0).size(v)), [1.0, 0.1, 0.01, 0.001]);
        assert_eq!(fed(Unit::WattHour, 7.0).energy_step, Some(Energy::from_uj(3_600_000_000)));
    }

    #[test]
    fn a_coarse_number_has_a_large_error() {
        assert_eq!(fed(Unit::Watt, 50.0).power.unwrap().error, Ratio::from_percent(2));
        assert_eq!(fed(Unit::Watt, 0.0).power.unwrap().error, Ratio::from_percent(100));
    }

    proptest! {
        #[test]
        fn what_is_no_figure_is_absent(value in any::<f64>()) {
            for unit in [Unit::Milliwatt, Unit::Watt, Unit::Kilowatt, Unit::Joule, Unit::KilowattHour, Unit::Ampere, Unit::Millivolt] {
                let feed = fed(unit, value);
                prop_assert!(feed.is_empty() || (value.is_finite() && value >= 0.0));
                if let Some(power) = feed.power {
                    // a figure of zero is a number that rounds to zero, never one that was refused
                    prop_assert!(power.value.uw() > 0 || value < 1e-3);
                }
            }
        }
    }
}
