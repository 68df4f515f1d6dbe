//! What plugs say in JSON, whatever it came over: Tasmota, Shelly from the second generation on, and anything whose
//! numbers a JSON pointer finds. Pure.

use std::borrow::Cow;

use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::quantity::{Origin, Step, Unit};
use crate::report::{Feed, Figure, PowerState};

/// What plugs with an HLW8012, BL0937 or CSE7766 are good for once calibrated.
pub(crate) const ACCURACY: Ratio = Ratio::from_percent(2);

/// A number in a JSON document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Number {
    /// Where it is (RFC 6901): `/emeters/0/power`. Without one, the document is the number.
    #[serde(default)]
    pub pointer: String,
    /// What it is multiplied by to be in `unit`.
    #[serde(default = "one")]
    pub scale: f64,
    /// The unit, which says what is measured.
    pub unit: Unit,
}

const fn one() -> f64 {
    1.0
}

impl Number {
    /// Puts the number, if it is there and one, into the feed.
    pub(crate) fn put(&self, document: &Value, feed: &mut Feed, at: Moment) -> bool {
        let Some(value) = document.pointer(&self.pointer).and_then(number) else { return false };
        let origin = Origin { at, accuracy: ACCURACY, step: Step::Digits(self.scale.abs()), source: "JSON pointer" };
        self.unit.put(feed, value * self.scale, &origin)
    }
}

/// How an outlet stands, in a JSON document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Word {
    /// Where it is (RFC 6901). Without one, the document is the word.
    #[serde(default)]
    pub pointer: String,
    /// What it is when the outlet is on: `true`, `1`, `"ON"`.
    pub on: Value,
    /// What it is when the outlet is off.
    pub off: Value,
}

impl Word {
    /// The state; anything else than the two words is unknown.
    pub(crate) fn state(&self, document: &Value) -> PowerState {
        match document.pointer(&self.pointer) {
            Some(said) if *said == self.on => PowerState::On,
            Some(said) if *said == self.off => PowerState::Off,
            _ => PowerState::Unknown,
        }
    }
}

/// A payload as JSON; what is none is a text.
pub(crate) fn document(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(payload).trim()))
}

/// A number, also one that is written as text.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// `ENERGY` of Tasmota: W, kWh, V, A; arrays where it measures several outlets. One that measures all outlets
/// together tells of the whole.
pub(crate) fn tasmota_energy(sensor: &Value, total: &mut Feed, outlets: &mut [&mut Feed], at: Moment) {
    let Some(energy) = sensor.get("ENERGY") else { return };
    let keys = [
        ("Power", Unit::Watt, Step::Digits(1.0), "ENERGY.Power"),
        ("Total", Unit::KilowattHour, Step::Known(0.001), "ENERGY.Total"),
        ("Current", Unit::Ampere, Step::Digits(1.0), "ENERGY.Current"),
        ("Voltage", Unit::Volt, Step::Digits(1.0), "ENERGY.Voltage"),
    ];
    for (key, unit, step, source) in keys {
        let put = |feed: &mut Feed, value: &Value| {
            if let Some(value) = value.as_f64() {
                unit.put(feed, value, &Origin { at, accuracy: ACCURACY, step, source });
            }
        };
        match (energy.get(key), &mut *outlets) {
            (Some(Value::Array(values)), outlets) => {
                for (feed, value) in outlets.iter_mut().zip(values) {
                    put(feed, value);
                }
            }
            (Some(value), [only]) => {
                put(only, value);
                put(total, value);
            }
            (Some(value), _) => put(total, value),
            (None, _) => {}
        }
    }
}

/// `POWER` or `POWERn` of Tasmota, for relay `n` from 1 on; one alone may be called either.
pub(crate) fn tasmota_state(document: &Value, relay: usize) -> PowerState {
    let own = document.get(format!("POWER{relay}"));
    match own.or_else(|| document.get("POWER").filter(|_| relay == 1)).and_then(Value::as_str) {
        Some("ON") => PowerState::On,
        Some("OFF") => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

/// Status of a `Switch` component of Shelly (Gen2 API): W, Wh, V, A and whether it is on.
pub(crate) fn shelly_switch(status: &Value, feed: &mut Feed, at: Moment) -> PowerState {
    let numbers = [
        ("/apower", Unit::Watt, 0.1, "Switch.apower"),
        ("/aenergy/total", Unit::WattHour, 0.001, "Switch.aenergy.total"),
        ("/current", Unit::Ampere, 0.001, "Switch.current"),
        ("/voltage", Unit::Volt, 0.1, "Switch.voltage"),
    ];
    for (pointer, unit, step, source) in numbers {
        if let Some(value) = status.pointer(pointer).and_then(Value::as_f64) {
            unit.put(feed, value, &Origin { at, accuracy: ACCURACY, step: Step::Known(step), source });
        }
    }
    match status.get("output") {
        Some(Value::Bool(true)) => PowerState::On,
        Some(Value::Bool(false)) => PowerState::Off,
        _ => PowerState::Unknown,
    }
}

/// The sum of outlets as the whole, of what all of them tell.
pub(crate) fn sum<'a>(outlets: impl Iterator<Item = &'a Feed> + Clone) -> Feed {
    let all = |figure: fn(&Feed) -> Option<(u64, Moment, Ratio)>| {
        let told: Option<Vec<_>> = outlets.clone().map(figure).collect();
        let told = told.filter(|t| !t.is_empty())?;
        let oldest = told.iter().map(|(_, at, _)| *at).min()?;
        let worst = told.iter().map(|(_, _, error)| *error).max()?;
        Some((told.iter().fold(0_u64, |sum, (v, _, _)| sum.saturating_add(*v)), oldest, worst))
    };
    let power = all(|f| f.power.as_ref().map(|p| (p.value.uw(), p.at, p.error)));
    let energy = all(|f| f.energy.as_ref().map(|e| (e.value.uj(), e.at, e.error)));
    let source = Cow::Borrowed("sum of outlets");
    let energy_step = outlets.clone().filter_map(|f| f.energy_step).max().filter(|_| energy.is_some());
    Feed {
        energy_step,
        power: power.map(|(uw, at, error)| Figure { value: Power::from_uw(uw), at, error, source: source.clone() }),
        energy: energy.map(|(uj, at, error)| Figure { value: Energy::from_uj(uj), at, error, source }),
        ..Feed::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn tasmota_tells_kilowatt_hours() {
        let sensor = json!({"Time": "2024-01-01T00:00:00", "ENERGY": {"Total": 3.185, "Today": 0.1, "Power": 51,
            "ApparentPower": 60, "Factor": 0.85, "Voltage": 231, "Current": 0.26}});
        let (mut total, mut one) = (Feed::default(), Feed::default());
        tasmota_energy(&sensor, &mut total, &mut [&mut one], Moment::default());
        assert_eq!(total, one);
        assert_eq!(one.power.unwrap().value.uw(), 51_000_000);
        assert_eq!(one.energy.unwrap().value.uj(), 11_466_000_000_000);
        assert_eq!((one.current_ma.unwrap().value, one.voltage_mv.unwrap().value), (260, 231_000));
        let two = json!({"ENERGY": {"Power": [51, 7], "Total": 3, "Voltage": 231}});
        let (mut total, mut a, mut b) = (Feed::default(), Feed::default(), Feed::default());
        tasmota_energy(&two, &mut total, &mut [&mut a, &mut b], Moment::default());
        let uw = |f: &Feed| f.power.as_ref().unwrap().value.uw();
        assert_eq!((uw(&a), uw(&b)), (51_000_000, 7_000_000));
        assert!(a.energy.is_none() && total.energy.is_some() && total.power.is_none());
        assert_eq!(sum([&a, &b].into_iter()).power.unwrap().value.uw(), 58_000_000);
        assert!(sum([&a, &b, &Feed::default()].into_iter()).is_empty(), "a sum without a part is none");
    }

    #[test]
    fn shelly_tells_watt_hours() {
        let status = json!({"id": 0, "output": true, "apower": 8.9, "voltage": 237.5, "current": 0.041,
            "aenergy": {"total": 6.532, "by_minute": [45.199]}});
        let mut feed = Feed::default();
        assert_eq!(shelly_switch(&status, &mut feed, Moment::default()), PowerState::On);
        assert_eq!(feed.energy.unwrap().value.uj(), 23_515_200_000);
        assert_eq!(feed.power.unwrap().value.uw(), 8_900_000);
        let mut none = Feed::default();
        assert_eq!(
            shelly_switch(&json!({"output": "on", "apower": null}), &mut none, Moment::default()),
            PowerState::Unknown
        );
        assert!(none.is_empty());
    }

    #[test]
    fn states_are_only_the_words_that_say_so() {
        let word = Word { pointer: "/relay".to_owned(), on: json!(1), off: json!(0) };
        assert_eq!(word.state(&json!({"relay": 1})), PowerState::On);
        assert_eq!(word.state(&json!({"relay": 0})), PowerState::Off);
        assert_eq!(word.state(&json!({"relay": false})), PowerState::Unknown);
        assert_eq!(word.state(&json!({})), PowerState::Unknown);
        assert_eq!(tasmota_state(&json!({"POWER": "OFF"}), 1), PowerState::Off);
        assert_eq!(tasmota_state(&json!({"POWER": "OFF"}), 2), PowerState::Unknown);
        assert_eq!(tasmota_state(&json!({"POWER1": "ON", "POWER2": "OFF"}), 2), PowerState::Off);
    }

    proptest! {
        #[test]
        fn a_number_is_found_or_absent(payload in "[-0-9a-z.\"{}:,\\[\\] ]{0,24}", pointer in "(/[a-z0-9]{0,2}){0,2}") {
            let number = Number { pointer, scale: 1.0, unit: Unit::Watt };
            let mut feed = Feed::default();
            let found = number.put(&document(payload.as_bytes()), &mut feed, Moment::default());
            prop_assert_eq!(found, feed.power.is_some());
            prop_assert!(!found || payload.contains(|c: char| c.is_ascii_digit()));
        }
    }
}
