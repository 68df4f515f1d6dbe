//! The devices behind a broker: which topics they use, what their messages mean, how they are told. Pure.

use std::time::Duration;

use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::driver::Switch;
use crate::plug::{self, ACCURACY, Number, Word};
use crate::quantity::{Origin, Step, Unit};
use crate::report::{Feed, Outlet, OutletId, PowerState, Report};

/// Seconds without power in a cycle, long enough for power supplies to run empty.
const CYCLE_S: u32 = 5;

/// A kind of device and its name on the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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
    /// Its numbers, by topic.
    #[serde(default)]
    pub numbers: Vec<On<Number>>,
    /// Whether it is on.
    #[serde(default)]
    pub state: Option<On<Word>>,
    /// How it is switched.
    #[serde(default)]
    pub command: Option<Command>,
    /// Where it or its last will says that it is gone, and with which word.
    #[serde(default)]
    pub gone: Option<Gone>,
}

/// Something in the messages of one topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct On<T> {
    /// The topic, without wildcards.
    pub topic: String,
    /// What is in its messages.
    #[serde(flatten)]
    pub what: T,
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

/// What was heard of one outlet.
#[derive(Clone, Debug, Default)]
struct Held {
    feed: Feed,
    state: PowerState,
    state_at: Moment,
}

/// What was heard of a device, with when.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    total: Feed,
    outlets: Vec<Held>,
    gone: bool,
    /// The last answer to a request by number: what was wrong, if anything was.
    answer: Option<(u64, Option<String>)>,
}

impl MqttDevice {
    fn outlets(&self) -> usize {
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
                let mut topics: Vec<String> = generic.numbers.iter().map(|n| n.topic.clone()).collect();
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
}

fn word(to: Switch, on: &str, off: &str) -> String {
    if to == Switch::On { on } else { off }.to_owned()
}

/// A request of Shelly's RPC; the answer goes to `own` + `/rpc`.
fn rpc(own: &str, number: u64, method: &str, params: &Value) -> String {
    json!({"id": number, "src": own, "method": method, "params": params}).to_string()
}

impl Memory {
    /// Nothing heard yet.
    pub(crate) fn new(device: &MqttDevice) -> Self {
        Self { outlets: vec![Held::default(); device.outlets()], ..Self::default() }
    }

    /// Takes a message. A retained one is of unknown age: only last wills count then.
    pub(crate) fn take(
        &mut self,
        device: &MqttDevice,
        own: &str,
        topic: &str,
        payload: &[u8],
        retained: bool,
        at: Moment,
    ) {
        if let Some(gone) = gone(device, topic, payload) {
            self.gone = gone;
            if gone {
                self.forget();
            }
            return;
        }
        if retained {
            return;
        }
        let document = plug::document(payload);
        match device {
            MqttDevice::Tasmota { .. } => self.tasmota(&document, at),
            MqttDevice::Shelly1 { id, .. } => self.shelly1(id, topic, &document, at),
            MqttDevice::Shelly2 { .. } if topic.strip_suffix("/rpc") == Some(own) => self.answer(&document, at),
            MqttDevice::Shelly2 { .. } => self.shelly2(&document, at),
            MqttDevice::Generic(generic) => self.generic(generic, topic, &document, at),
        }
    }

    /// Nothing that was heard holds any more.
    pub(crate) fn forget(&mut self) {
        self.total = Feed::default();
        self.outlets.fill(Held::default());
    }

    fn tasmota(&mut self, document: &Value, at: Moment) {
        // The answers to Status wrap what is told by itself.
        let sensor = document.get("StatusSNS").unwrap_or(document);
        let state = document.get("StatusSTS").unwrap_or(document);
        let mut feeds: Vec<&mut Feed> = self.outlets.iter_mut().map(|o| &mut o.feed).collect();
        plug::tasmota_energy(sensor, &mut self.total, &mut feeds, at);
        for (i, outlet) in self.outlets.iter_mut().enumerate() {
            outlet.stands(plug::tasmota_state(state, i + 1), at);
        }
    }

    fn shelly1(&mut self, id: &str, topic: &str, document: &Value, at: Moment) {
        let place =
            topic.strip_prefix("shellies/").and_then(|t| t.strip_prefix(id)).and_then(|t| t.strip_prefix("/relay/"));
        let Some(place) = place else { return };
        let (number, figure) = place.split_once('/').unwrap_or((place, ""));
        let outlet = number.parse().ok().and_then(|n: usize| self.outlets.get_mut(n));
        let Some(outlet) = outlet else { return };
        let (unit, source) = match figure {
            "power" => (Unit::Watt, "relay/power"),
            "energy" => (Unit::WattMinute, "relay/energy"),
            _ => {
                let state = match document.as_str() {
                    Some("on") => PowerState::On,
                    // It switched itself off, and is off.
                    Some("off" | "overpower" | "overtemperature") => PowerState::Off,
                    _ => PowerState::Unknown,
                };
                outlet.stands(state, at);
                return;
            }
        };
        if let Some(value) = document.as_f64() {
            unit.put(
                &mut outlet.feed,
                value,
                &Origin {
                    at,
                    accuracy: ACCURACY,
                    step: if unit == Unit::WattMinute { Step::Known(1.0) } else { Step::Digits(1.0) },
                    source,
                },
            );
        }
    }

    fn shelly2(&mut self, status: &Value, at: Moment) {
        let index = status.get("id").and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
        let Some(outlet) = index.and_then(|i| self.outlets.get_mut(i)) else { return };
        let state = plug::shelly_switch(status, &mut outlet.feed, at);
        outlet.stands(state, at);
    }

    fn answer(&mut self, document: &Value, at: Moment) {
        let Some(number) = document.get("id").and_then(Value::as_u64) else { return };
        let error = document.get("error").map(|e| {
            e.get("message").and_then(Value::as_str).unwrap_or("an error without a message").chars().take(200).collect()
        });
        self.answer = Some((number, error));
        if let Some(result) = document.get("result") {
            self.shelly2(result, at);
        }
    }

    fn generic(&mut self, generic: &Generic, topic: &str, document: &Value, at: Moment) {
        for number in generic.numbers.iter().filter(|n| n.topic == topic) {
            number.what.put(document, &mut self.total, at);
        }
        if let (Some(state), Some(outlet)) = (&generic.state, self.outlets.first_mut())
            && state.topic == topic
        {
            outlet.stands(state.what.state(document), at);
        }
    }

    /// Whether it said that it is gone.
    pub(crate) const fn is_gone(&self) -> bool {
        self.gone
    }

    /// The answer to request `number`: what was wrong, if anything was.
    pub(crate) fn answer_to(&self, number: u64) -> Option<Option<String>> {
        self.answer.as_ref().filter(|(n, _)| *n == number).map(|(_, error)| error.clone())
    }

    /// How an outlet stands, if that was told at `since` or later.
    pub(crate) fn state_since(&self, index: usize, since: Moment) -> Option<PowerState> {
        let told = |held: &&Held| held.state != PowerState::Unknown && held.state_at.mono >= since.mono;
        self.outlets.get(index).filter(told).map(|held| held.state)
    }

    /// Whether watts and every state were told at `since` or later.
    pub(crate) fn is_complete_since(&self, since: Moment) -> bool {
        let watts = |feed: &Feed| feed.power.as_ref().is_some_and(|p| p.at.mono >= since.mono);
        let states = (0..self.outlets.len()).all(|i| self.state_since(i, since).is_some());
        states && (watts(&self.total) || self.outlets.iter().any(|o| watts(&o.feed)))
    }

    /// Whether anything was heard.
    pub(crate) fn is_empty(&self) -> bool {
        let silent = |held: &Held| held.feed.is_empty() && held.state == PowerState::Unknown;
        self.total.is_empty() && self.outlets.iter().all(silent)
    }

    /// What holds now: nothing that was heard longer than `stale` ago.
    pub(crate) fn report(&self, device: &MqttDevice, now: Moment, stale: Duration) -> Report {
        let switchable = !matches!(device, MqttDevice::Generic(g) if g.command.is_none());
        let is_fresh = |at: Moment| now.since_with_sleep(at) <= stale;
        let outlets: Vec<Outlet> = self
            .outlets
            .iter()
            .enumerate()
            .map(|(i, held)| Outlet {
                id: OutletId::new(&(i + 1).to_string()),
                name: None,
                feed: fresh(&held.feed, is_fresh),
                state: if is_fresh(held.state_at) { held.state } else { PowerState::Unknown },
                switchable,
            })
            .collect();
        let mut total = fresh(&self.total, is_fresh);
        if total.is_empty() {
            total = plug::sum(outlets.iter().map(|o| &o.feed));
        }
        let missing = if self.gone {
            vec!["it is off the network, says the broker".to_owned()]
        } else if total.power.is_none() {
            vec![format!("no watts were heard within {} s", stale.as_secs())]
        } else {
            Vec::new()
        };
        Report { total, outlets, missing, ..Report::default() }
    }
}

impl Held {
    /// Notes a state that was told; a message that tells none leaves the last.
    fn stands(&mut self, state: PowerState, at: Moment) {
        if state != PowerState::Unknown {
            (self.state, self.state_at) = (state, at);
        }
    }
}

fn fresh(feed: &Feed, is_fresh: impl Fn(Moment) -> bool) -> Feed {
    let mut feed = feed.clone();
    feed.power.take_if(|f| !is_fresh(f.at));
    feed.energy.take_if(|f| !is_fresh(f.at));
    feed.energy_step.take_if(|_| feed.energy.is_none());
    feed.current_ma.take_if(|f| !is_fresh(f.at));
    feed.voltage_mv.take_if(|f| !is_fresh(f.at));
    feed
}

/// Whether a message says that the device is gone (`Some(true)`) or there (`Some(false)`).
fn gone(device: &MqttDevice, topic: &str, payload: &[u8]) -> Option<bool> {
    let (wills, word) = match device {
        MqttDevice::Tasmota { topic, .. } => (format!("tele/{topic}/LWT"), "Offline"),
        MqttDevice::Shelly1 { id, .. } => (format!("shellies/{id}/online"), "false"),
        MqttDevice::Shelly2 { prefix, .. } => (format!("{prefix}/online"), "false"),
        MqttDevice::Generic(generic) => {
            let gone = generic.gone.as_ref()?;
            (gone.topic.clone(), gone.word.as_str())
        }
    };
    (topic == wills).then(|| payload == word.as_bytes())
}
