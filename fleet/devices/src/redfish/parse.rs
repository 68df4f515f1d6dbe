//! What Redfish documents say (DSP0266, DSP2046). Pure: from JSON to values, absent where a document is silent.

use serde_json::Value;

use crate::driver::Switch;
use crate::report::{Identity, PowerState};

/// More members of a collection are not looked at.
pub(crate) const MOST_MEMBERS: usize = 256;

/// A number with where its sensor is: the excerpt form of `EnvironmentMetrics`, `Outlet` and others.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Excerpt {
    pub(crate) reading: Option<f64>,
    pub(crate) sensor: Option<String>,
}

/// A sensor's reading and how good it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sensed {
    pub(crate) reading: Option<f64>,
    /// When, by the device's clock, seconds since 1970.
    pub(crate) at: Option<i64>,
    /// Relative error in percent.
    pub(crate) accuracy: Option<f64>,
    /// Time between readings, s.
    pub(crate) interval: Option<f64>,
}

/// Which reset of a system does what is wanted, in order of preference.
pub(crate) const fn reset_types(to: Switch) -> &'static [&'static str] {
    match to {
        Switch::On => &["On", "ForceOn"],
        Switch::Off => &["ForceOff"],
        // PushPowerButton is not among them: it turns an idle machine on as well.
        Switch::SoftOff => &["GracefulShutdown"],
        Switch::Cycle => &["PowerCycle", "ForceRestart"],
    }
}

/// What an outlet is told; outlets have no soft off.
pub(crate) const fn outlet_power(to: Switch) -> &'static [&'static str] {
    match to {
        Switch::On => &["On"],
        Switch::Off => &["Off"],
        Switch::Cycle => &["PowerCycle"],
        Switch::SoftOff => &[],
    }
}

/// The link under `key`.
pub(crate) fn link<'a>(document: &'a Value, key: &str) -> Option<&'a str> {
    document.get(key)?.get("@odata.id")?.as_str()
}

/// The links in an array of references.
pub(crate) fn links(array: Option<&Value>) -> Vec<&str> {
    let members = array.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    members.iter().take(MOST_MEMBERS).filter_map(|m| m.get("@odata.id")?.as_str()).collect()
}

/// A text that says something.
pub(crate) fn text(document: &Value, key: &str) -> Option<String> {
    let text = document.get(key)?.as_str()?.trim();
    (!text.is_empty()).then(|| text.chars().filter(|c| !c.is_control()).take(128).collect())
}

/// The excerpt under `key`.
pub(crate) fn excerpt(document: &Value, key: &str) -> Excerpt {
    let at = document.get(key);
    Excerpt {
        reading: at.and_then(|e| e.get("Reading")).and_then(Value::as_f64),
        sensor: at.and_then(|e| e.get("DataSourceUri")).and_then(Value::as_str).map(ToOwned::to_owned),
    }
}

/// A `Sensor`. One that is not enabled has no reading.
pub(crate) fn sensed(document: &Value) -> Sensed {
    if !is_enabled(document) {
        return Sensed::default();
    }
    let number = |key| document.get(key).and_then(Value::as_f64).filter(|n| *n >= 0.0);
    let reading = document.get("Reading").and_then(Value::as_f64);
    // `ReadingAccuracy` is in the sensor's unit, the older `Accuracy` in percent
    let in_units = number("ReadingAccuracy").zip(reading.filter(|r| *r > 0.0)).map(|(a, r)| 100.0 * a / r);
    Sensed {
        reading,
        at: document.get("ReadingTime").and_then(Value::as_str).and_then(seconds),
        accuracy: in_units.or_else(|| number("Accuracy")),
        interval: document.get("SensingInterval").and_then(Value::as_str).and_then(duration_s),
    }
}

/// A time of ISO 8601 as seconds since 1970.
fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_second())
}

/// A duration of ISO 8601 without years and months, in seconds.
fn duration_s(text: &str) -> Option<f64> {
    let span: jiff::SignedDuration = text.parse().ok()?;
    Some(span.as_secs_f64()).filter(|s| *s >= 0.0)
}

/// Whether `Status.State` lets its readings count; a document without status does.
pub(crate) fn is_enabled(document: &Value) -> bool {
    let state = document.get("Status").and_then(|s| s.get("State")).and_then(Value::as_str);
    !matches!(state, Some("Absent" | "Disabled" | "UnavailableOffline" | "StandbyOffline" | "Deferring"))
}

/// `PowerState` of a system or outlet.
pub(crate) fn power_state(document: &Value) -> PowerState {
    match document.get("PowerState").and_then(Value::as_str) {
        Some("On") => PowerState::On,
        Some("Off") => PowerState::Off,
        Some("PoweringOn") => PowerState::TurningOn,
        Some("PoweringOff") => PowerState::TurningOff,
        _ => PowerState::Unknown,
    }
}

/// What a system, PDU or chassis says of itself.
pub(crate) fn identity(document: &Value) -> Identity {
    Identity {
        vendor: text(document, "Manufacturer"),
        model: text(document, "Model"),
        serial: text(document, "SerialNumber"),
        firmware: text(document, "FirmwareVersion").or_else(|| text(document, "BiosVersion")),
        name: text(document, "HostName").or_else(|| text(document, "Name")),
    }
}

/// An action of a resource: where it is sent, and what it accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) target: String,
    /// What the parameter may be, where the document itself tells.
    pub(crate) allowed: Option<Vec<String>>,
    /// Where else it is told.
    pub(crate) info: Option<String>,
}

/// The action called `name` (`#ComputerSystem.Reset`) with its one parameter that matters.
pub(crate) fn action(document: &Value, name: &str, parameter: &str) -> Option<Action> {
    let action = document.get("Actions")?.get(name)?;
    Some(Action {
        target: action.get("target")?.as_str()?.to_owned(),
        allowed: action.get(format!("{parameter}@Redfish.AllowableValues")).and_then(strings),
        info: action.get("@Redfish.ActionInfo").and_then(Value::as_str).map(ToOwned::to_owned),
    })
}

/// What `ActionInfo` lets a parameter be.
pub(crate) fn action_info(document: &Value, parameter: &str) -> Option<Vec<String>> {
    let parameters = document.get("Parameters")?.as_array()?;
    let named = |p: &&Value| p.get("Name").and_then(Value::as_str) == Some(parameter);
    strings(parameters.iter().find(named)?.get("AllowableValues")?)
}

fn strings(array: &Value) -> Option<Vec<String>> {
    Some(array.as_array()?.iter().take(64).filter_map(Value::as_str).map(ToOwned::to_owned).collect())
}

/// The watts of the member of `Power.PowerControl` that is the system's, or why none is.
///
/// Members of one chassis may be subsystems, or one may be a part of another: the right one is named in the
/// configuration, or says by `RelatedItem` that it is about the system or else its chassis, or is the only one and
/// says nothing. Never merely the first, never the sum.
pub(crate) fn power_control(power: &Value, about: &[&str], chosen: Option<&str>) -> Result<f64, String> {
    let members = power.get("PowerControl").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let watts = |member: &Value| {
        let enabled = is_enabled(member).then(|| member.get("PowerConsumedWatts").and_then(Value::as_f64));
        enabled.flatten().ok_or_else(|| "PowerControl tells no PowerConsumedWatts".to_owned())
    };
    if let Some(id) = chosen {
        let found = members.iter().find(|m| m.get("MemberId").and_then(Value::as_str) == Some(id));
        return found.map_or_else(|| Err(format!("PowerControl has no member {id}")), watts);
    }
    for item in about {
        let related = |m: &&Value| links(m.get("RelatedItem")).iter().any(|l| same(l, item));
        let mut matching = members.iter().filter(related);
        match (matching.next(), matching.next()) {
            (Some(only), None) => return watts(only),
            (Some(_), Some(_)) => {
                return Err(format!(
                    "several members of PowerControl are about {item}; set power-control to one's MemberId"
                ));
            }
            (None, _) => {}
        }
    }
    match members {
        [only] if links(only.get("RelatedItem")).is_empty() => watts(only),
        [] => Err("Power has no PowerControl".to_owned()),
        _ => {
            Err("no member of PowerControl says that it is the system's; set power-control to one's MemberId"
                .to_owned())
        }
    }
}

/// Whether two links are the same but for a slash at the end.
fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

/// What a refusal says, for people: the first extended message, shortened.
pub(crate) fn refusal(body: &[u8]) -> Option<String> {
    let document: Value = serde_json::from_slice(body).ok()?;
    let error = document.get("error")?;
    let extended = error.get("@Message.ExtendedInfo").and_then(|e| e.get(0)).and_then(|m| text(m, "Message"));
    extended.or_else(|| text(error, "message"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// A CEEMS test document in short: two members of one name in one chassis.
    fn two(related: [&str; 2]) -> Value {
        let member = |id: &str, watts: u32, about: &str| {
            json!({"MemberId": id, "Name": "System Power Control", "PowerConsumedWatts": watts,
                   "RelatedItem": [{"@odata.id": about}]})
        };
        json!({"PowerControl": [member("0", 53, related[0]), member("1", 344, related[1])]})
    }

    #[test]
    fn the_right_power_control_is_neither_the_first_nor_the_sum() {
        let about = ["/redfish/v1/Systems/1", "/redfish/v1/Chassis/1"];
        let right = two(["/redfish/v1/Systems/1/Processors/1", "/redfish/v1/Systems/1/"]);
        assert_eq!(power_control(&right, &about, None), Ok(344.0));
        let by_chassis = two(["/redfish/v1/Chassis/2", "/redfish/v1/Chassis/1"]);
        assert_eq!(power_control(&by_chassis, &about, None), Ok(344.0));
        let both = two(["/redfish/v1/Systems/1", "/redfish/v1/Systems/1"]);
        assert!(power_control(&both, &about, None).unwrap_err().contains("several"));
        assert_eq!(power_control(&both, &about, Some("1")), Ok(344.0));
        assert!(power_control(&both, &about, Some("2")).is_err());
        let neither = two(["/redfish/v1/Chassis/7", "/redfish/v1/Chassis/8"]);
        assert!(power_control(&neither, &about, None).is_err());
        let silent = json!({"PowerControl": [{"PowerConsumedWatts": 7}]});
        assert_eq!(power_control(&silent, &about, None), Ok(7.0));
        for none in [json!({}), json!({"PowerControl": []}), json!({"PowerControl": [{"PowerConsumedWatts": null}]})] {
            assert!(power_control(&none, &about, None).is_err(), "{none}");
        }
    }

    #[test]
    fn a_sensor_says_when_and_how_well() {
        let sensor = json!({"Reading": 374, "ReadingTime": "2019-08-13T04:14:33+06:00", "Accuracy": 0.2,
                            "SensingInterval": "PT0.25S", "Status": {"State": "Enabled"}});
        let got = sensed(&sensor);
        assert_eq!((got.reading, got.at), (Some(374.0), Some(1_565_648_073)));
        assert_eq!((got.accuracy, got.interval), (Some(0.2), Some(0.25)));
        assert_eq!(sensed(&json!({"Reading": 200, "ReadingAccuracy": 4})).accuracy, Some(2.0));
        assert_eq!(sensed(&json!({"Reading": 0, "Status": {"State": "Absent"}})), Sensed::default());
    }

    #[test]
    fn only_off_is_off() {
        for (said, state) in [("On", PowerState::On), ("Off", PowerState::Off), ("PoweringOff", PowerState::TurningOff)]
        {
            assert_eq!(power_state(&json!({"PowerState": said})), state);
        }
        for document in
            [json!({}), json!({"PowerState": null}), json!({"PowerState": "Paused"}), json!([]), json!("Off")]
        {
            assert_eq!(power_state(&document), PowerState::Unknown, "{document}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_devices_words() {
        let body =
            json!({"error": {"message": "see more", "@Message.ExtendedInfo": [{"Message": "The value Nmi\n is no"}]}});
        assert_eq!(refusal(body.to_string().as_bytes()).unwrap(), "The value Nmi is no");
        assert_eq!(refusal(b"<html>"), None);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let names = "Reading|PowerControl|PowerConsumedWatts|Status|State|RelatedItem|@odata.id|Actions|PowerState|error|target|Off|PowerWatts|ReadingTime|SensingInterval|Accuracy";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            names.prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 64, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(names, inner, 0..6).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_document_panics_or_makes_zero_of_nothing(document in any_json()) {
            let has_number = document.to_string().contains(|c: char| c.is_ascii_digit());
            let excerpt = excerpt(&document, "PowerWatts");
            let sensed = sensed(&document);
            let control = power_control(&document, &["/redfish/v1/Systems/1"], None);
            prop_assert!(has_number || (excerpt.reading.is_none() && sensed.reading.is_none() && control.is_err()));
            if power_state(&document) == PowerState::Off {
                prop_assert_eq!(document.get("PowerState"), Some(&Value::from("Off")));
            }
            identity(&document);
            action(&document, "#ComputerSystem.Reset", "ResetType");
            action_info(&document, "ResetType");
            refusal(document.to_string().as_bytes());
            links(Some(&document));
        }
    }
}
