//! What devices that tell JSON over HTTP are asked, and what they answer. Pure.

use ebbtide_proto::Ratio;
use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::driver::Switch;
use crate::plug::{self, Number, Word};
use crate::quantity::{Origin, Step, Unit};
use crate::report::{Feed, Identity, Outlet, OutletId, PowerState, Report};

/// Seconds without power in a cycle, long enough for power supplies to run empty.
const CYCLE_S: u32 = 5;

/// Netio states 1 % for its meters.
const NETIO_ACCURACY: Ratio = Ratio::from_percent(1);

/// A kind of device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Dialect {
    /// Netio PowerBOX, PowerPDU, PowerCable (JSON M2M API).
    Netio,
    /// Shelly from the second generation on.
    #[serde(rename_all = "kebab-case")]
    Shelly2 {
        /// How many switches it has.
        #[serde(default = "one")]
        switches: u8,
    },
    /// Tasmota.
    #[serde(rename_all = "kebab-case")]
    Tasmota {
        /// How many relays it has.
        #[serde(default = "one")]
        relays: u8,
    },
    /// Anything else.
    Generic(Box<Generic>),
}

const fn one() -> u8 {
    1
}

/// A device with a document of its own. It has one outlet, `1`, if it tells a state or can be switched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Generic {
    /// Path of the document: `/status`.
    pub path: String,
    /// Its numbers.
    #[serde(default)]
    pub numbers: Vec<Number>,
    /// Whether it is on, in the same document.
    #[serde(default)]
    pub state: Option<Word>,
    /// What turns it on.
    #[serde(default)]
    pub on: Option<Ask>,
    /// What turns it off.
    #[serde(default)]
    pub off: Option<Ask>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ask {
    /// Its path, with its query.
    pub path: String,
    /// What is posted as JSON; without it, the path is got.
    #[serde(default)]
    pub body: Option<Value>,
}

impl Ask {
    fn get(path: String) -> Self {
        Self { path, body: None }
    }
}

impl Dialect {
    /// How many outlets it has; `None` if it tells by itself.
    fn outlets(&self) -> Option<usize> {
        match self {
            Self::Netio => None,
            Self::Shelly2 { switches: n } | Self::Tasmota { relays: n } => Some(usize::from((*n).max(1))),
            Self::Generic(g) => Some(usize::from(g.state.is_some() || g.on.is_some() || g.off.is_some())),
        }
    }

    /// Whether `outlet` is one of its, as far as is known without asking.
    pub(crate) fn number(&self, outlet: &OutletId) -> Option<usize> {
        let number: usize = outlet.as_str().parse().ok().filter(|n| (1..=255).contains(n))?;
        self.outlets().is_none_or(|most| number <= most).then_some(number)
    }

    /// The outlets, for messages.
    pub(crate) fn known(&self) -> String {
        let Some(most) = self.outlets() else { return "those in its /netio.json".to_owned() };
        (1..=most).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The documents that tell everything.
    pub(crate) fn documents(&self) -> Vec<String> {
        match self {
            Self::Netio => vec!["/netio.json".to_owned()],
            Self::Shelly2 { .. } => {
                (0..self.outlets().unwrap_or(1)).map(|n| format!("/rpc/Switch.GetStatus?id={n}")).collect()
            }
            // Status 10 is the sensors, Status 11 the state
            Self::Tasmota { .. } => vec!["/cm?cmnd=Status%2010".to_owned(), "/cm?cmnd=Status%2011".to_owned()],
            Self::Generic(generic) => vec![generic.path.clone()],
        }
    }

    /// What the documents say.
    pub(crate) fn report(&self, documents: &[Value], at: Moment) -> Report {
        match self {
            Self::Netio => netio(documents.first().unwrap_or(&Value::Null), at),
            Self::Shelly2 { .. } => {
                let outlets: Vec<Outlet> = documents
                    .iter()
                    .enumerate()
                    .map(|(i, status)| {
                        let mut feed = Feed::default();
                        let state = plug::shelly_switch(status, &mut feed, at);
                        outlet(i, feed, state)
                    })
                    .collect();
                Report { total: plug::sum(outlets.iter().map(|o| &o.feed)), outlets, ..Report::default() }
            }
            Self::Tasmota { .. } => self.tasmota(documents, at),
            Self::Generic(generic) => {
                let document = documents.first().unwrap_or(&Value::Null);
                let mut report = Report::default();
                for number in &generic.numbers {
                    if !number.put(document, &mut report.total, at) {
                        report.missing.push(format!("{} has no figure at {:?}", generic.path, number.pointer));
                    }
                }
                if self.outlets() == Some(1) {
                    let state = generic.state.as_ref().map(|s| s.state(document)).unwrap_or_default();
                    let switchable = generic.on.is_some() || generic.off.is_some();
                    let feed = report.total.clone();
                    report.outlets.push(Outlet { switchable, ..outlet(0, feed, state) });
                }
                report
            }
        }
    }

    fn tasmota(&self, documents: &[Value], at: Moment) -> Report {
        let count = self.outlets().unwrap_or(1);
        let (mut total, mut feeds) = (Feed::default(), vec![Feed::default(); count]);
        let mut states = vec![PowerState::Unknown; count];
        for document in documents {
            if let Some(sensors) = document.get("StatusSNS") {
                plug::tasmota_energy(sensors, &mut total, &mut feeds.iter_mut().collect::<Vec<_>>(), at);
            }
            if let Some(status) = document.get("StatusSTS") {
                states = (1..=count).map(|relay| plug::tasmota_state(status, relay)).collect();
            }
        }
        if total.is_empty() {
            total = plug::sum(feeds.iter());
        }
        let outlets = feeds.into_iter().zip(states).enumerate().map(|(i, (feed, state))| outlet(i, feed, state));
        Report { total, outlets: outlets.collect(), ..Report::default() }
    }

    /// What tells outlet `number` to do something; `None` if it can't.
    pub(crate) fn tell(&self, number: usize, to: Switch) -> Option<Ask> {
        let on = to == Switch::On;
        match (self, to) {
            (_, Switch::SoftOff) => None,
            (Self::Netio, _) => {
                let action = match to {
                    Switch::On => 1,
                    Switch::Cycle => 2,
                    _ => 0,
                };
                let body = json!({"Outputs": [{"ID": number, "Action": action}]});
                Some(Ask { path: "/netio.json".to_owned(), body: Some(body) })
            }
            (Self::Shelly2 { .. }, _) => {
                let after = if to == Switch::Cycle { format!("&toggle_after={CYCLE_S}") } else { String::new() };
                Some(Ask::get(format!("/rpc/Switch.Set?id={}&on={on}{after}", number - 1)))
            }
            (Self::Tasmota { .. }, Switch::Cycle) => {
                let delay = CYCLE_S * 10;
                Some(Ask::get(format!("/cm?cmnd=Backlog%20Power{number}%20OFF%3BDelay%20{delay}%3BPower{number}%20ON")))
            }
            (Self::Tasmota { .. }, _) => {
                Some(Ask::get(format!("/cm?cmnd=Power{number}%20{}", if on { "ON" } else { "OFF" })))
            }
            (Self::Generic(_), Switch::Cycle) => None,
            (Self::Generic(generic), _) => if on { &generic.on } else { &generic.off }.clone(),
        }
    }

    /// Why the device, which answered 200, did not take a command.
    pub(crate) fn refusal(&self, answer: &Value) -> Option<String> {
        let said = |pointer| answer.pointer(pointer).and_then(Value::as_str);
        match self {
            Self::Tasmota { .. } if said("/WARNING").is_some() => Some("it wants user and password".to_owned()),
            Self::Tasmota { .. } if said("/Command").is_some() => Some("it doesn't know the command".to_owned()),
            _ => None,
        }
    }

    /// What the documents say of the device.
    pub(crate) fn identity(&self, documents: &[Value]) -> Identity {
        let text = |pointer: &str| {
            let found = documents.iter().find_map(|d| d.pointer(pointer)?.as_str());
            found.filter(|t| !t.is_empty()).map(|t| t.chars().filter(|c| !c.is_control()).take(128).collect())
        };
        let vendor = |name: &str| Some(name.to_owned());
        match self {
            Self::Netio => Identity {
                vendor: vendor("Netio"),
                model: text("/Agent/Model"),
                serial: text("/Agent/SerialNumber"),
                firmware: text("/Agent/Version"),
                name: text("/Agent/DeviceName"),
            },
            Self::Shelly2 { .. } => Identity { vendor: vendor("Shelly"), ..Identity::default() },
            Self::Tasmota { .. } => Identity { vendor: vendor("Tasmota"), ..Identity::default() },
            Self::Generic(_) => Identity::default(),
        }
    }
}

fn outlet(index: usize, feed: Feed, state: PowerState) -> Outlet {
    Outlet { id: OutletId::new(&(index + 1).to_string()), name: None, feed, state, switchable: true }
}

/// `/netio.json`: W, Wh, mA, V (Netio, "JSON M2M API protocol", 2.4).
fn netio(document: &Value, at: Moment) -> Report {
    let put = |feed: &mut Feed, from: &Value, keys: [(&str, Unit, f64, &'static str); 4]| {
        for (key, unit, step, source) in keys {
            if let Some(value) = from.get(key).and_then(Value::as_f64) {
                unit.put(feed, value, &Origin { at, accuracy: NETIO_ACCURACY, step: Step::Known(step), source });
            }
        }
    };
    let mut report = Report::default();
    let whole = document.get("GlobalMeasure").unwrap_or(&Value::Null);
    let keys = [
        ("TotalLoad", Unit::Watt, 1.0, "GlobalMeasure.TotalLoad"),
        ("TotalEnergy", Unit::WattHour, 1.0, "GlobalMeasure.TotalEnergy"),
        ("TotalCurrent", Unit::Milliampere, 1.0, "GlobalMeasure.TotalCurrent"),
        ("Voltage", Unit::Volt, 0.1, "GlobalMeasure.Voltage"),
    ];
    put(&mut report.total, whole, keys);
    let outputs = document.get("Outputs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for output in outputs.iter().take(64) {
        let Some(id) = output.get("ID").and_then(Value::as_u64) else { continue };
        let mut feed = Feed::default();
        let keys = [
            ("Load", Unit::Watt, 1.0, "Outputs.Load"),
            ("Energy", Unit::WattHour, 1.0, "Outputs.Energy"),
            ("Current", Unit::Milliampere, 1.0, "Outputs.Current"),
            ("Voltage", Unit::Volt, 0.1, "Outputs.Voltage"),
        ];
        put(&mut feed, output, keys);
        let state = match output.get("State").and_then(Value::as_u64) {
            Some(0) => PowerState::Off,
            Some(1) => PowerState::On,
            _ => PowerState::Unknown,
        };
        let name = output.get("Name").and_then(Value::as_str).filter(|n| !n.is_empty());
        report.outlets.push(Outlet {
            id: OutletId::new(&id.to_string()),
            name: name.map(|n| n.chars().filter(|c| !c.is_control()).take(64).collect()),
            feed,
            state,
            switchable: true,
        });
    }
    if outputs.is_empty() {
        report.missing.push("its /netio.json has no Outputs".to_owned());
    }
    report
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn netio_document() -> Value {
        json!({
            "Agent": {"Model": "NETIO 4C", "Version": "3.4.0", "DeviceName": "rack", "SerialNumber": "24:A4", "NumOutputs": 2},
            "GlobalMeasure": {"Voltage": 236.1, "Frequency": 50, "TotalCurrent": 70, "TotalLoad": 16, "TotalEnergy": 4150},
            "Outputs": [
                {"ID": 1, "Name": "node1", "State": 1, "Action": 6, "Delay": 2020, "Current": 70, "PowerFactor": 0.9, "Load": 16, "Energy": 4100},
                {"ID": 2, "Name": "", "State": 0, "Action": 6, "Delay": 2020, "Current": 0, "Load": 0, "Energy": 50},
            ]
        })
    }

    #[test]
    fn netio_tells_watts_and_watt_hours() {
        let report = Dialect::Netio.report(&[netio_document()], Moment::default());
        assert_eq!(report.total.power.as_ref().unwrap().value.watts(), 16.0);
        assert_eq!(report.total.energy.as_ref().unwrap().value.uj(), 14_940_000_000_000);
        let [one, two] = report.outlets.as_slice() else { panic!("{report:?}") };
        assert_eq!((one.name.as_deref(), one.state, two.state), (Some("node1"), PowerState::On, PowerState::Off));
        assert_eq!(one.feed.current_ma.as_ref().unwrap().value, 70);
        let told = two.feed.power.as_ref().unwrap();
        assert_eq!(told.value.uw(), 0, "an outlet that is off and says 0 draws 0");
        assert_eq!(Dialect::Netio.identity(&[netio_document()]).model.as_deref(), Some("NETIO 4C"));
    }

    #[test]
    fn commands_are_those_of_the_device() {
        let ask = |d: &Dialect, to| d.tell(1, to).map(|a| a.path);
        assert_eq!(
            Dialect::Netio.tell(2, Switch::Cycle).unwrap().body.unwrap(),
            json!({"Outputs": [{"ID": 2, "Action": 2}]})
        );
        let shelly = Dialect::Shelly2 { switches: 1 };
        assert_eq!(ask(&shelly, Switch::Off).unwrap(), "/rpc/Switch.Set?id=0&on=false");
        assert_eq!(ask(&shelly, Switch::Cycle).unwrap(), "/rpc/Switch.Set?id=0&on=false&toggle_after=5");
        assert_eq!(ask(&Dialect::Tasmota { relays: 1 }, Switch::On).unwrap(), "/cm?cmnd=Power1%20ON");
        assert_eq!(ask(&shelly, Switch::SoftOff), None);
        assert!(shelly.number(&OutletId::new("2")).is_none() && shelly.number(&OutletId::new("0")).is_none());
    }

    proptest! {
        #[test]
        fn documents_that_tell_nothing_give_nothing(text in "[\\[\\]{}\":,a-zA-Z ]{0,60}") {
            let document: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
            let generic = Generic {
                path: "/".to_owned(),
                numbers: vec![Number { pointer: "/a".to_owned(), scale: 1.0, unit: Unit::Watt }],
                state: None,
                on: None,
                off: None,
            };
            let all = [Dialect::Netio, Dialect::Shelly2 { switches: 1 }, Dialect::Tasmota { relays: 2 }, Dialect::Generic(Box::new(generic))];
            for dialect in all {
                let report = dialect.report(&[document.clone(), document.clone()], Moment::default());
                prop_assert!(report.total.is_empty());
                prop_assert!(report.outlets.iter().all(|o| o.feed.is_empty() && o.state == PowerState::Unknown));
            }
        }
    }
}
