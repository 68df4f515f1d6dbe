//! What was heard of a device behind a broker, with when. Pure.

use std::time::Duration;

use ebbtide_runtime::clock::Moment;
use serde_json::Value;

use crate::mqtt::device::{Generic, MqttDevice};
use crate::plug::{self, ACCURACY};
use crate::quantity::{Origin, Step, Unit};
use crate::report::{Feed, Outlet, OutletId, PowerState, Report};

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
        if let Some(gone) = device.gone(topic, payload) {
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
        for number in generic.numbers.get(topic).into_iter().flatten() {
            number.put(document, &mut self.total, at);
        }
        if let (Some(state), Some(outlet)) = (&generic.state, self.outlets.first_mut())
            && state.topic == topic
        {
            outlet.stands(state.word.state(document), at);
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STALE: Duration = Duration::from_secs(60);

    fn at(s: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(s))
    }

    fn shelly() -> MqttDevice {
        MqttDevice::Shelly1 { id: "plug".to_owned(), relays: 2 }
    }

    fn heard(device: &MqttDevice, messages: &[(&str, &str, bool)]) -> Memory {
        let mut memory = Memory::new(device);
        for (topic, payload, retained) in messages {
            memory.take(device, "own", topic, payload.as_bytes(), *retained, at(100));
        }
        memory
    }

    #[test]
    fn the_first_shelly_counts_watt_minutes() {
        let messages = [
            ("shellies/plug/relay/0/power", "51.3", false),
            ("shellies/plug/relay/0/energy", "60", false),
            ("shellies/plug/relay/0", "on", false),
            ("shellies/plug/relay/1/power", "1.7", false),
            ("shellies/plug/relay/1", "overpower", false),
            ("shellies/plug/relay/2/power", "99", false),
            ("shellies/other/relay/0/power", "99", false),
        ];
        let report = heard(&shelly(), &messages).report(&shelly(), at(101), STALE);
        let [first, second] = report.outlets.as_slice() else { panic!("{report:?}") };
        assert_eq!(first.feed.energy.as_ref().unwrap().value.uj(), 3_600_000_000, "60 W-min are a watt-hour");
        assert_eq!((first.state, second.state), (PowerState::On, PowerState::Off));
        assert_eq!(report.total.power.as_ref().unwrap().value.uw(), 53_000_000);
        assert!(report.total.energy.is_none(), "one of two outlets didn't tell its energy");
    }

    #[test]
    fn stale_retained_and_gone_are_absent() {
        let power = ("shellies/plug/relay/0/power", "51.3", false);
        let state = ("shellies/plug/relay/0", "off", false);
        let memory = heard(&shelly(), &[power, state]);
        assert!(!memory.report(&shelly(), at(160), STALE).outlets[0].feed.is_empty());
        let old = memory.report(&shelly(), at(161), STALE);
        assert_eq!((old.outlets[0].feed.is_empty(), old.outlets[0].state), (true, PowerState::Unknown));
        let retained = heard(&shelly(), &[(power.0, power.1, true), (state.0, state.1, true)]);
        assert!(retained.is_empty());
        let gone = heard(&shelly(), &[power, state, ("shellies/plug/online", "false", true)]);
        let report = gone.report(&shelly(), at(100), STALE);
        assert_eq!((report.outlets[0].state, report.missing.len()), (PowerState::Unknown, 1));
        let back = heard(
            &shelly(),
            &[("shellies/plug/online", "false", true), ("shellies/plug/online", "true", false), power],
        );
        assert!(!back.is_gone() && !back.is_empty());
    }

    #[test]
    fn an_answer_belongs_to_its_request() {
        let device = MqttDevice::Shelly2 { prefix: "plug".to_owned(), switches: 1 };
        let error = r#"{"id":7,"src":"plug","error":{"code":-103,"message":"Invalid argument"}}"#;
        let memory = heard(&device, &[("own/rpc", error, false)]);
        assert_eq!(memory.answer_to(7), Some(Some("Invalid argument".to_owned())));
        assert_eq!(memory.answer_to(8), None);
        let (topic, ask) = device.tell(0, crate::driver::Switch::Cycle, "own", 9).unwrap();
        let ask: Value = serde_json::from_str(&ask).unwrap();
        assert_eq!(
            (topic.as_str(), &ask["params"]),
            ("plug/rpc", &serde_json::json!({"id": 0, "on": false, "toggle_after": 5}))
        );
    }

    proptest! {
        #[test]
        fn no_message_panics_or_makes_zero_of_nothing(
            topic in "(tele/p/SENSOR|stat/p/STATUS1[01]|shellies/p/relay/[0-2](/power|/energy)?|p/status/switch:0|own/rpc|a)",
            payload in "(ENERGY|Power|StatusSNS|apower|result|id|[-{}\\[\\]\":,. nul]){0,20}",
        ) {
            let generic = Generic { numbers: [("a".to_owned(), vec![crate::plug::Number { pointer: String::new(), scale: 1.0, unit: Unit::Watt }])].into(), ..Generic::default() };
            for device in [
                MqttDevice::Tasmota { topic: "p".to_owned(), relays: 2 },
                MqttDevice::Shelly1 { id: "p".to_owned(), relays: 2 },
                MqttDevice::Shelly2 { prefix: "p".to_owned(), switches: 1 },
                MqttDevice::Generic(Box::new(generic)),
            ] {
                let memory = heard(&device, &[(&topic, &payload, false)]);
                let report = memory.report(&device, at(100), STALE);
                // there is no digit in it
                prop_assert!(report.total.is_empty() && report.outlets.iter().all(|o| o.feed.is_empty()));
            }
        }
    }
}
