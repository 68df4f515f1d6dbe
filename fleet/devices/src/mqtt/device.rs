//! The devices behind a broker: which topics they use and how they are told. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::driver::Switch;
use crate::plug::{Number, Word};
use crate::report::OutletId;

/// Seconds without power in a cycle, long enough for power supplies to run empty.
const CYCLE_S: u32 = 5;

/// A kind of device and its name on the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum MqttDevice {
    /// Tasmota, with its topics in the usual order (`%prefix%/%topic%/`).
    #[serde(rename_all = "kebab-case")]
    Tasmota {
        /// Its topic: `plug1`.
        topic: String,
        /// How many relays it has.
        #[serde(default = "one")]
        relays: u8,
    },
    /// Shelly of the first generation: energy in watt-minutes.
    #[serde(rename_all = "kebab-case")]
    Shelly1 {
        /// Its id: `shellyplug-s-1A2B3C`.
        id: String,
        /// How many relays it has.
        #[serde(default = "one")]
        relays: u8,
    },
    /// Shelly from the second generation on, by RPC over MQTT.
    #[serde(rename_all = "kebab-case")]
    Shelly2 {
        /// Its topic prefix: `shellyplusplugs-1a2b3c4d5e6f`.
        prefix: String,
        /// How many switches it has.
        #[serde(default = "one")]
        switches: u8,
    },
    /// Anything else.
    Generic(Box<Generic>),
}

const fn one() -> u8 {
    1
}

/// A device with topics of its own. It has one outlet, `1`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Generic {
    /// Its numbers, by the topic whose messages they are in.
    #[serde(default)]
    pub numbers: BTreeMap<String, Vec<Number>>,
    /// Whether it is on.
    #[serde(default)]
    pub state: Option<State>,
    /// How it is switched.
    #[serde(default)]
    pub command: Option<Command>,
    /// Where it or its last will says that it is gone, and with which word.
    #[serde(default)]
    pub gone: Option<Gone>,
}

/// How a generic device says whether it is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct State {
    /// The topic.
    pub topic: String,
    /// The words in its messages.
    pub word: Word,
}

/// How a generic device is switched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Command {
    /// Where commands go.
    pub topic: String,
    /// The message for on.
    pub on: String,
    /// The message for off.
    pub off: String,
}

/// How a generic device is known to be gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Gone {
    /// The topic of its last will.
    pub topic: String,
    /// The message that says it is gone.
    pub word: String,
}

/// A message to be sent.
pub(crate) type Send = (String, String);

impl MqttDevice {
    /// How many outlets it has.
    pub(crate) fn outlets(&self) -> usize {
        match self {
            Self::Tasmota { relays: n, .. } | Self::Shelly1 { relays: n, .. } | Self::Shelly2 { switches: n, .. } => {
                usize::from((*n).max(1))
            }
            Self::Generic(generic) => usize::from(generic.state.is_some() || generic.command.is_some()),
        }
    }

    /// The number of an outlet, from 0.
    pub(crate) fn index(&self, outlet: &OutletId) -> Option<usize> {
        let number: usize = outlet.as_str().parse().ok()?;
        number.checked_sub(1).filter(|i| *i < self.outlets())
    }

    /// The outlets, for messages.
    pub(crate) fn known(&self) -> String {
        (1..=self.outlets()).map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
    }

    /// What is wrong with its names.
    pub(crate) fn problem(&self) -> Option<String> {
        let topics = self.topics("x");
        let bad =
            topics.iter().find(|t| t.is_empty() || t.contains(['#', '+', '\0']) || t.split('/').any(str::is_empty));
        if topics.is_empty() {
            return Some("the device has no topics: nothing could be heard".to_owned());
        }
        bad.map(|topic| format!("{topic:?} is no topic: it has no wildcards and no empty levels"))
    }

    /// What to listen to; `own` is the client's name, for answers.
    pub(crate) fn topics(&self, own: &str) -> Vec<String> {
        match self {
            Self::Tasmota { topic, .. } => [
                "tele/{}/SENSOR",
                "tele/{}/STATE",
                "tele/{}/LWT",
                "stat/{}/RESULT",
                "stat/{}/STATUS10",
                "stat/{}/STATUS11",
            ]
            .map(|form| form.replace("{}", topic))
            .to_vec(),
            Self::Shelly1 { id, .. } => {
                let relays = (0..self.outlets())
                    .flat_map(|n| ["", "/power", "/energy"].map(|figure| format!("shellies/{id}/relay/{n}{figure}")));
                relays.chain([format!("shellies/{id}/online")]).collect()
            }
            Self::Shelly2 { prefix, .. } => {
                let switches = (0..self.outlets()).map(|n| format!("{prefix}/status/switch:{n}"));
                switches.chain([format!("{prefix}/online"), format!("{own}/rpc")]).collect()
            }
            Self::Generic(generic) => {
                let mut topics: Vec<String> = generic.numbers.keys().cloned().collect();
                topics.extend(generic.state.iter().map(|s| s.topic.clone()));
                topics.extend(generic.gone.iter().map(|g| g.topic.clone()));
                topics.sort();
                topics.dedup();
                topics
            }
        }
    }

    /// What makes it tell how it stands now; nothing if it can't be asked.
    pub(crate) fn ask(&self, own: &str, number: u64) -> Vec<Send> {
        match self {
            Self::Tasmota { topic, .. } => {
                ["10", "11"].map(|which| (format!("cmnd/{topic}/Status"), which.to_owned())).to_vec()
            }
            Self::Shelly1 { id, .. } => vec![(format!("shellies/{id}/command"), "update".to_owned())],
            Self::Shelly2 { prefix, .. } => (0..self.outlets())
                .map(|n| (format!("{prefix}/rpc"), rpc(own, number, "Switch.GetStatus", &json!({ "id": n }))))
                .collect(),
            Self::Generic(_) => Vec::new(),
        }
    }

    /// What tells outlet `index` to do something; `None` if it can't.
    pub(crate) fn tell(&self, index: usize, to: Switch, own: &str, number: u64) -> Option<Send> {
        let relay = index + 1;
        match (self, to) {
            (_, Switch::SoftOff) => None,
            (Self::Tasmota { topic, .. }, Switch::Cycle) => {
                let steps = format!("Power{relay} OFF; Delay {}; Power{relay} ON", CYCLE_S * 10);
                Some((format!("cmnd/{topic}/Backlog"), steps))
            }
            (Self::Tasmota { topic, .. }, _) => Some((format!("cmnd/{topic}/Power{relay}"), word(to, "ON", "OFF"))),
            (Self::Shelly1 { .. }, Switch::Cycle) => None,
            (Self::Shelly1 { id, .. }, _) => {
                Some((format!("shellies/{id}/relay/{index}/command"), word(to, "on", "off")))
            }
            (Self::Shelly2 { prefix, .. }, _) => {
                let mut set = json!({"id": index, "on": to == Switch::On});
                if let (Switch::Cycle, Some(set)) = (to, set.as_object_mut()) {
                    set.insert("toggle_after".to_owned(), CYCLE_S.into());
                }
                Some((format!("{prefix}/rpc"), rpc(own, number, "Switch.Set", &set)))
            }
            (Self::Generic(_), Switch::Cycle) => None,
            (Self::Generic(generic), _) => {
                let command = generic.command.as_ref()?;
                Some((command.topic.clone(), word(to, &command.on, &command.off)))
            }
        }
    }

    /// Whether a message says that the device is gone (`Some(true)`) or there (`Some(false)`).
    pub(crate) fn gone(&self, topic: &str, payload: &[u8]) -> Option<bool> {
        let (wills, word) = match self {
            Self::Tasmota { topic, .. } => (format!("tele/{topic}/LWT"), "Offline"),
            Self::Shelly1 { id, .. } => (format!("shellies/{id}/online"), "false"),
            Self::Shelly2 { prefix, .. } => (format!("{prefix}/online"), "false"),
            Self::Generic(generic) => {
                let gone = generic.gone.as_ref()?;
                (gone.topic.clone(), gone.word.as_str())
            }
        };
        (topic == wills).then(|| payload == word.as_bytes())
    }
}

fn word(to: Switch, on: &str, off: &str) -> String {
    if to == Switch::On { on } else { off }.to_owned()
}

/// A request of Shelly's RPC; the answer goes to `own` + `/rpc`.
fn rpc(own: &str, number: u64, method: &str, params: &Value) -> String {
    json!({"id": number, "src": own, "method": method, "params": params}).to_string()
}
