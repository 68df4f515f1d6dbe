//! What the configuration says about devices: `[[device]]` tables, one per device, and `[[pdu-model]]` tables for PDUs
//! that Ebbtide doesn't know.
//!
//! Keys that every device has are here; those of a kind are in the module of that kind. Messages name the device and
//! the key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::Power;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

use crate::command::{CommandConfig, CommandDevice};
use crate::driver::Driver;
use crate::error::DeviceError;
use crate::http_json::{HttpJson, HttpJsonConfig};
use crate::ipmi::{Ipmi, IpmiConfig};
use crate::modbus::{Modbus, ModbusConfig};
use crate::mqtt::{Mqtt, MqttConfig};
use crate::period::Period;
use crate::redfish::{Redfish, RedfishConfig};
use crate::report::OutletId;
use crate::snmp::SnmpPdu;
use crate::snmp::config::SnmpPduConfig;
use crate::snmp::model::PduModel;
use crate::wol::{WakeOnLan, WakeOnLanConfig};

/// All devices of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Devices {
    /// The devices, with different names.
    pub device: Vec<DeviceConfig>,
    /// PDUs that the operator described.
    pub pdu_model: Vec<PduModel>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct DeviceConfig {
    /// What it is called in commands, metrics and messages.
    pub name: String,
    /// How often it is read.
    pub interval: Period,
    /// From this age on a reading is no longer one. Three intervals if left out.
    pub stale_after: Option<Period>,
    /// More than this the whole device can't carry, in watts; bounds what its counters are believed.
    pub max_watts: u32,
    /// What is known about single outlets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outlets: BTreeMap<OutletId, OutletConfig>,
    /// What kind of device it is, with the keys of that kind.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What is known about an outlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OutletConfig {
    /// More than this it can't carry, in watts. 3680 (16 A at 230 V) if left out.
    pub max_watts: Option<u32>,
    /// Up to this it counts as off, in watts: what standby supplies and the meter's own error come to. 5 if left out.
    pub off_watts: Option<u32>,
}

/// A kind of device. Each has its keys in a struct of its own module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A PDU that speaks SNMP.
    SnmpPdu(Box<SnmpPduConfig>),
    /// A management controller or PDU that speaks Redfish.
    Redfish(Box<RedfishConfig>),
    /// A management controller that speaks IPMI.
    Ipmi(Box<IpmiConfig>),
    /// A meter that speaks Modbus TCP.
    Modbus(ModbusConfig),
    /// A plug or meter behind an MQTT broker.
    Mqtt(Box<MqttConfig>),
    /// A plug, PDU or meter that tells JSON over HTTP.
    HttpJson(Box<HttpJsonConfig>),
    /// Any program.
    Command(CommandConfig),
    /// A machine that is woken by a magic packet.
    WakeOnLan(WakeOnLanConfig),
}

/// Opens a device. Nothing is sent until it is asked something.
///
/// # Errors
/// If a secret can't be read or the configuration contradicts itself; the message names the device.
pub fn open(config: &DeviceConfig) -> Result<Box<dyn Driver>, DeviceError> {
    let driver: Result<Box<dyn Driver>, DeviceError> = match &config.kind {
        Kind::SnmpPdu(snmp) => SnmpPdu::new((**snmp).clone()).map(|d| Box::new(d) as _),
        Kind::Redfish(redfish) => Redfish::new((**redfish).clone()).map(|d| Box::new(d) as _),
        Kind::Ipmi(ipmi) => Ipmi::new((**ipmi).clone()).map(|d| Box::new(d) as _),
        Kind::Modbus(modbus) => Modbus::new(modbus.clone()).map(|d| Box::new(d) as _),
        Kind::Mqtt(mqtt) => Mqtt::new((**mqtt).clone()).map(|d| Box::new(d) as _),
        Kind::HttpJson(http) => HttpJson::new((**http).clone()).map(|d| Box::new(d) as _),
        Kind::Command(command) => CommandDevice::new(command.clone()).map(|d| Box::new(d) as _),
        Kind::WakeOnLan(wol) => WakeOnLan::new(wol.clone()).map(|d| Box::new(d) as _),
    };
    driver.map_err(|error| match error {
        DeviceError::Config(why) => DeviceError::Config(format!("device {:?}: {why}", config.name)),
        other => other,
    })
}

impl Devices {
    /// These devices, which may use these models besides those that Ebbtide knows.
    ///
    /// # Errors
    /// If two devices have the same name, or a model isn't sound.
    pub fn new(mut device: Vec<DeviceConfig>, pdu_model: Vec<PduModel>) -> Result<Self, String> {
        for model in &pdu_model {
            model.check().map_err(|e| e.to_string())?;
        }
        let models: Arc<[PduModel]> = pdu_model.clone().into();
        let mut names = BTreeSet::new();
        for config in &mut device {
            if !names.insert(config.name.clone()) {
                return Err(format!("there are two devices named {:?}", config.name));
            }
            if let Kind::SnmpPdu(snmp) = &mut config.kind {
                snmp.models = models.clone();
            }
        }
        Ok(Self { device, pdu_model })
    }
}

impl DeviceConfig {
    /// A device with everything else left out.
    pub fn new(name: &str, kind: Kind) -> Self {
        Self {
            name: name.to_owned(),
            interval: Period::new(Duration::from_secs(10)),
            stale_after: None,
            max_watts: 50_000,
            outlets: BTreeMap::new(),
            kind,
        }
    }

    /// From this age on a reading is no longer one.
    pub fn stale_after(&self) -> Duration {
        self.stale_after.map_or_else(|| self.interval.get().saturating_mul(3), Period::get)
    }

    /// More than this an outlet can't carry.
    pub fn outlet_limit(&self, outlet: &OutletId) -> Power {
        watts(self.outlets.get(outlet).and_then(|o| o.max_watts).unwrap_or(3680))
    }

    /// Up to this an outlet counts as off.
    pub fn off_power(&self, outlet: &OutletId) -> Power {
        watts(self.outlets.get(outlet).and_then(|o| o.off_watts).unwrap_or(5))
    }

    /// More than this the whole device can't carry.
    pub fn limit(&self) -> Power {
        watts(self.max_watts)
    }

    /// Looks for what serde can't see.
    ///
    /// # Errors
    /// Says which key is wrong and why.
    pub fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || !self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err("name has to be of letters, digits, -, _ and .".to_owned());
        }
        if self.interval.get() < Duration::from_millis(100) {
            return Err("interval is less than 100ms".to_owned());
        }
        if self.stale_after.is_some_and(|s| s < self.interval) {
            return Err("stale-after is less than interval: every reading would be too old".to_owned());
        }
        match &self.kind {
            Kind::SnmpPdu(snmp) => snmp.check(),
            Kind::Command(command) => command.check(),
            Kind::Modbus(modbus) => modbus.check(),
            Kind::Redfish(_) | Kind::Ipmi(_) | Kind::Mqtt(_) | Kind::HttpJson(_) | Kind::WakeOnLan(_) => Ok(()),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        device(toml::Table::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Devices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields)]
        struct File {
            #[serde(default)]
            device: Vec<DeviceConfig>,
            #[serde(default)]
            pdu_model: Vec<PduModel>,
        }
        let File { device, pdu_model } = File::deserialize(deserializer)?;
        Self::new(device, pdu_model).map_err(D::Error::custom)
    }
}

/// A `[[device]]` table: common keys here, the others are those of the kind.
fn device(mut table: toml::Table) -> Result<DeviceConfig, String> {
    let name =
        take::<String>(&mut table, "name").and_then(|n| n.ok_or_else(|| "a [[device]] has no name".to_owned()))?;
    let named = |why: String| format!("device {name:?}: {why}");
    let read = |mut table: toml::Table| {
        let interval = take::<Period>(&mut table, "interval")?;
        let stale_after = take::<Period>(&mut table, "stale-after")?;
        let max_watts = take::<u32>(&mut table, "max-watts")?;
        let outlets = take::<BTreeMap<OutletId, OutletConfig>>(&mut table, "outlets")?;
        let kind = Kind::deserialize(toml::Value::Table(table)).map_err(|e| clear(&e.to_string()))?;
        let mut config = DeviceConfig::new(&name, kind);
        config.interval = interval.unwrap_or(config.interval);
        config.stale_after = stale_after;
        config.max_watts = max_watts.unwrap_or(config.max_watts);
        config.outlets = outlets.unwrap_or_default();
        config.check()?;
        Ok(config)
    };
    read(table).map_err(named)
}

fn take<T: DeserializeOwned>(table: &mut toml::Table, key: &str) -> Result<Option<T>, String> {
    let value = table.remove(key).map(T::deserialize).transpose();
    value.map_err(|e: toml::de::Error| format!("{key}: {}", clear(&e.to_string())))
}

/// serde's words, with what was probably meant where a name is not known.
fn clear(message: &str) -> String {
    let message = message.trim().replace("unknown field", "unknown key").replace("missing field", "missing key");
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    if let [wrong, known @ ..] = names.as_slice()
        && message.starts_with("unknown")
        && let Some(near) = known
            .iter()
            .filter(|k| strsim::damerau_levenshtein(k, wrong) <= 3)
            .min_by_key(|k| strsim::damerau_levenshtein(k, wrong))
    {
        return format!("{message}; did you mean `{near}`?");
    }
    message
}

fn watts(w: u32) -> Power {
    Power::from_uw(u64::from(w) * 1_000_000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Devices, String> {
        toml::from_str::<Devices>(text).map_err(|e| e.message().to_owned())
    }

    #[test]
    fn a_device_needs_a_name_a_kind_and_an_address() {
        let devices = read("[[device]]\nname = \"rack3\"\nkind = \"snmp-pdu\"\naddress = \"10.0.0.3\"").unwrap();
        let [device] = devices.device.as_slice() else { panic!("one device") };
        assert_eq!(device.interval.get(), Duration::from_secs(10));
        assert_eq!(device.stale_after(), Duration::from_secs(30));
        assert_eq!(device.outlet_limit(&OutletId::new("7")), watts(3680));
        assert!(open(device).is_ok());
        let again = read(&toml::to_string(&devices).unwrap()).unwrap();
        assert_eq!(again, devices, "what is written out can be read");
    }

    #[test]
    fn the_examples_of_the_manual_are_right() {
        let manual = include_str!("../../../docs/devices.md");
        let examples: Vec<_> = manual.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(examples.len() >= 5);
        for example in examples {
            read(example).unwrap_or_else(|e| panic!("{e}:\n{example}"));
        }
        for model in crate::snmp::model::known() {
            assert!(manual.contains(model.vendor.as_str()), "{} is not in the manual", model.name);
        }
    }

    #[test]
    fn messages_name_the_device_and_the_key() {
        let wrong = |keys: &str| read(&format!("[[device]]\nname = \"rack3\"\n{keys}")).unwrap_err();
        let snmp = |keys: &str| wrong(&format!("kind = \"snmp-pdu\"\naddress = \"a\"\n{keys}"));
        assert!(snmp("comunity = { env = \"X\" }").contains("device \"rack3\": unknown key `comunity`"));
        assert!(snmp("comunity = { env = \"X\" }").ends_with("did you mean `community`?"));
        assert!(snmp("community = \"public\"").contains("rack3"));
        assert!(snmp("interval = \"10\"").contains("interval: \"10\" is not a duration"));
        assert!(snmp("interval = \"10s\"\nstale-after = \"5s\"").contains("stale-after is less than interval"));
        assert!(snmp("version = \"3\"").contains("needs a user"));
        assert!(snmp("user = \"x\"").contains("user needs version = \"3\""));
        assert!(snmp("outlets.7.max-wats = 3").contains("outlets: unknown key `max-wats`"));
        assert!(wrong("kind = \"snmp-pud\"\naddress = \"a\"").contains("did you mean `snmp-pdu`?"));
        assert!(wrong("kind = \"snmp-pdu\"").contains("missing key `address`"));
        assert!(wrong("address = \"a\"").contains("kind"));
        assert!(read("[[device]]\nkind = \"snmp-pdu\"").unwrap_err().contains("has no name"));
        let twice = "[[device]]\nname = \"a\"\nkind = \"snmp-pdu\"\naddress = \"a\"\n";
        assert!(read(&format!("{twice}{twice}")).unwrap_err().contains("two devices named \"a\""));
    }

    #[test]
    fn every_kind_has_its_keys_and_no_others() {
        let kinds = [
            r#"kind = "redfish"
url = "https://bmc1"
user = "reader"
password = { env = "BMC" }
login = "basic"
system = "1""#,
            r#"kind = "ipmi"
host = "bmc1"
cipher-suite = 3
privilege = "user""#,
            r#"kind = "modbus"
host = "meter1"
preset = "eastron-sdm630"
registers = [{ function = "holding", address = 40, type = "u32", words = "little", scale = 0.1, unit = "kWh", phase = "L1" }]"#,
            r#"kind = "mqtt"
host = "broker"
device = { tasmota = { topic = "plug1", relays = 2 } }
heard-within = "5m""#,
            r#"kind = "mqtt"
host = "broker"
[device.device.generic]
numbers."home/meter" = [{ pointer = "/p", scale = 1000, unit = "W" }]
state = { topic = "home/relay", word = { on = "ON", off = "OFF" } }
command = { topic = "home/relay/set", on = "ON", off = "OFF" }
gone = { topic = "home/status", word = "offline" }"#,
            r#"kind = "http-json"
url = "http://pdu1"
device = "netio""#,
            r#"kind = "http-json"
url = "http://meter1"
[device.device.generic]
path = "/status"
numbers = [{ pointer = "/emeters/0/power", unit = "W" }]
state = { pointer = "/on", on = true, off = false }
on = { path = "/relay", body = { on = true } }
off = { path = "/relay?off" }"#,
        ];
        for kind in kinds {
            let text = format!("[[device]]\nname = \"x\"\n{kind}");
            let devices = read(&text).unwrap();
            let again = read(&toml::to_string(&devices).unwrap()).unwrap();
            assert_eq!(again, devices, "what is written out can be read");
            let strange = text.replacen("url =", "ulr =", 1).replacen("host =", "hots =", 1);
            assert!(read(&strange).unwrap_err().contains("unknown key"), "{strange}");
        }
        for strange in [
            "kind = \"mqtt\"\nhost = \"b\"\ndevice = { tasmota = { topic = \"p\", relay = 2 } }",
            "kind = \"mqtt\"\nhost = \"b\"\n[device.device.generic]\nnumbers.t = [{ pointr = \"/p\", unit = \"W\" }]",
            "kind = \"http-json\"\nurl = \"http://b\"\ndevice = { shelly2 = { relays = 1 } }",
            "kind = \"modbus\"\nhost = \"m\"\nregisters = [{ address = 1, type = \"u16\", unit = \"W\", skale = 2 }]",
            "kind = \"modbus\"\nhost = \"m\"\nregisters = [{ address = 1, type = \"u16\", unit = \"VA\" }]",
        ] {
            assert!(read(&format!("[[device]]\nname = \"x\"\n{strange}")).is_err(), "{strange}");
        }
    }

    #[test]
    fn a_secret_that_is_missing_is_a_clear_error() {
        let devices = read(
            "[[device]]\nname = \"rack3\"\nkind = \"snmp-pdu\"\naddress = \"a\"\ncommunity = { file = \"/nonexistent/pdu\" }",
        );
        let error = open(&devices.unwrap().device[0]).err().unwrap().to_string();
        assert!(error.starts_with("device \"rack3\": can't read /nonexistent/pdu"), "{error}");
    }
}
