//! Redfish: mockups of the DMTF with figures that are known, and sushy-emulator, whose machine can be switched.

use std::process::Command;
use std::time::Duration;

use ebbtide_devices::redfish::{Redfish, RedfishConfig};
use ebbtide_devices::{DeviceError, Driver, OutletId, PowerState, Switch};
use ebbtide_proto::Ratio;
use serde_json::{Value, json};

use crate::peers::web::{Asked, Reply, Web};
use crate::peers::{Peer, free_port, program, wait_for_port};
use crate::{kwh, until_state, watts};

/// Two seconds after the sensors of `public-rackmount1` were read.
const FRESH: &str = "Mon, 12 Aug 2019 22:14:35 GMT";
const LATER: &str = "Mon, 12 Aug 2019 23:14:35 GMT";

const SYSTEM: &str = "/redfish/v1/Systems/437XR1138R2";

fn driver(web: &Web) -> Redfish {
    Redfish::new(RedfishConfig::at(&web.url())).unwrap()
}

fn as_is(_: &Asked) -> Option<Reply> {
    None
}

/// A document instead of the mockup's own.
fn instead(path: &'static str, document: Value) -> impl Fn(&Asked) -> Option<Reply> + Send + Sync {
    move |asked| (asked.target == path).then(|| Reply::json(&document))
}

#[tokio::test]
async fn a_server_tells_watts_with_time_and_error_of_its_sensor() {
    let web = Web::mockup("public-rackmount1", FRESH, as_is).await;
    let mut bmc = driver(&web);
    let report = bmc.read().await.unwrap();
    let power = report.total.power.as_ref().unwrap();
    assert_eq!((power.value.watts(), &*power.source), (374.0, "EnvironmentMetrics.PowerWatts"));
    // 0.2 % of the sensor and half a watt
    assert_eq!(power.error, Ratio::from_ppm(2_000 + 1_337));
    let now = ebbtide_runtime::clock::now();
    assert!(now.since(power.at) >= Duration::from_secs(2), "the sensor was read two seconds before the answer");
    let [system] = report.outlets.as_slice() else { panic!("{report:?}") };
    assert_eq!((system.id.as_str(), system.name.as_deref()), ("system", Some("web483")));
    assert_eq!((system.state, system.switchable), (PowerState::On, true));
    assert_eq!(watts(&system.feed), Some(374.0));
    assert!(report.missing.is_empty(), "{:?}", report.missing);
    let identity = bmc.identify().await.unwrap();
    assert_eq!((identity.vendor.as_deref(), identity.model.as_deref()), (Some("Contoso"), Some("3500")));
    // what was found once isn't looked for again
    web.asked();
    bmc.read().await.unwrap();
    let paths: Vec<String> = web.asked().into_iter().map(|a| a.target).collect();
    assert_eq!(paths.len(), 3, "{paths:?}");
}

#[tokio::test]
async fn a_stale_sensor_is_no_figure_and_the_next_source_is_taken() {
    let web = Web::mockup("public-rackmount1", LATER, as_is).await;
    let report = driver(&web).read().await.unwrap();
    let power = report.total.power.as_ref().unwrap();
    assert_eq!((power.value.watts(), &*power.source), (344.0, "Power.PowerControl"));
    assert!(report.missing.iter().any(|m| m.contains("is stale") && m.contains("3602 s ago")), "{:?}", report.missing);
}

#[tokio::test]
async fn power_supplies_are_summed_only_if_all_of_them_tell() {
    let without_power = |asked: &Asked| {
        let gone =
            asked.target.ends_with("/Chassis/1U/Power") || asked.target.ends_with("/Chassis/1U/EnvironmentMetrics");
        gone.then(|| Reply::status(404))
    };
    let web = Web::mockup("public-rackmount1", FRESH, without_power).await;
    let report = driver(&web).read().await.unwrap();
    assert_eq!(watts(&report.total), Some(937.4), "one supply of two is there");
    let silent = move |asked: &Asked| {
        let second = asked.target.ends_with("/PowerSupplies/Bay2");
        second.then(|| Reply::json(&json!({"Status": {"State": "Enabled"}}))).or_else(|| without_power(asked))
    };
    let web = Web::mockup("public-rackmount1", FRESH, silent).await;
    let report = driver(&web).read().await.unwrap();
    assert_eq!(watts(&report.total), None);
    assert!(report.missing.iter().any(|m| m.contains("a power supply doesn't tell")), "{:?}", report.missing);
}

#[tokio::test]
async fn a_pdu_tells_its_outlets_at_once_where_it_can() {
    let web = Web::mockup("public-pdu", FRESH, as_is).await;
    let mut pdu = driver(&web);
    let report = pdu.read().await.unwrap();
    // its summary says 6438 W, but the sensor that this is from says 2734.8, and when
    assert_eq!((watts(&report.total), kwh(&report.total)), (Some(2734.8), Some(56438.0)));
    let names: Vec<&str> = report.outlets.iter().map(|o| o.id.as_str()).collect();
    assert_eq!(names, ["A1", "A2", "A3", "A4", "A5", "B1", "B2", "B3", "C1", "C2", "C3"]);
    let a1 = &report.outlets[0];
    assert_eq!((watts(&a1.feed), kwh(&a1.feed), a1.state), (Some(197.4), Some(36166.0), PowerState::On));
    assert_eq!(a1.feed.current_ma.as_ref().map(|c| c.value), Some(1680));
    assert_eq!(a1.feed.voltage_mv.as_ref().map(|v| v.value), Some(117_500));
    let step = a1.feed.energy_step.map(|s| s.joules());
    assert_eq!(step, Some(3.6e6), "its counters have no decimals");
    let lines: Vec<_> = report.phases.iter().map(|(name, feed)| (name.as_str(), watts(feed).unwrap())).collect();
    assert_eq!(lines, [("L1", 198.4), ("L2", 231.5), ("L3", 58.1)]);
    let expanded = web.asked().iter().filter(|a| a.target.contains("/Outlets/")).count();
    assert_eq!(expanded, 0, "all outlets came with their collection");

    let plain = |asked: &Asked| asked.target.contains("$expand").then(|| Reply::status(501));
    let web = Web::mockup("public-pdu", FRESH, plain).await;
    let again = driver(&web).read().await.unwrap();
    assert_eq!(watts(&again.outlets[0].feed), Some(197.4));
    assert_eq!(again.outlets.len(), 11);
    assert_eq!(web.asked().iter().filter(|a| a.target.contains("/Outlets/")).count(), 11);
}

#[tokio::test]
async fn an_outlet_is_told_by_its_own_action() {
    let took = |asked: &Asked| (asked.method == "POST").then(|| Reply::status(204));
    let web = Web::mockup("public-pdu", FRESH, took).await;
    let mut pdu = driver(&web);
    pdu.switch(&OutletId::new("A1"), Switch::Off).await.unwrap();
    let asked = web.asked();
    let post = asked.iter().find(|a| a.method == "POST").unwrap();
    assert_eq!(post.target, "/redfish/v1/PowerEquipment/RackPDUs/1/Outlets/A1/Outlet.PowerControl");
    assert_eq!(post.body, r#"{"PowerState":"Off"}"#);
    let soft = pdu.switch(&OutletId::new("A1"), Switch::SoftOff).await.unwrap_err();
    assert!(matches!(soft, DeviceError::Unable { .. }), "{soft}");
    let none = pdu.switch(&OutletId::new("Z9"), Switch::Off).await.unwrap_err().to_string();
    assert!(none.contains("has no outlet Z9; it has A1, A2"), "{none}");
}

#[tokio::test]
async fn a_reset_is_one_that_the_system_allows() {
    let took = |asked: &Asked| (asked.method == "POST").then(|| Reply::status(204));
    let web = Web::mockup("public-rackmount1", FRESH, took).await;
    let (mut bmc, system) = (driver(&web), OutletId::new("system"));
    for to in [Switch::On, Switch::Off, Switch::SoftOff, Switch::Cycle] {
        bmc.switch(&system, to).await.unwrap();
    }
    let asked = web.asked();
    let told: Vec<&str> = asked.iter().filter(|a| a.method == "POST").map(|a| a.body.as_str()).collect();
    // it offers no PowerCycle
    let words = ["On", "ForceOff", "GracefulShutdown", "ForceRestart"].map(|w| format!(r#"{{"ResetType":"{w}"}}"#));
    assert_eq!(told, words);

    let action = json!({"target": "/reset", "@Redfish.ActionInfo": "/info"});
    let document = json!({"Id": "1", "PowerState": "On", "Actions": {"#ComputerSystem.Reset": action}});
    let info = json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "PushPowerButton"]}]});
    let web = Web::mockup("public-rackmount1", FRESH, move |asked| {
        instead(SYSTEM, document.clone())(asked).or_else(|| instead("/info", info.clone())(asked))
    });
    let web = web.await;
    let cannot = driver(&web).switch(&system, Switch::SoftOff).await.unwrap_err().to_string();
    assert!(cannot.ends_with("can't do soft-off with system; it can On, PushPowerButton"), "{cannot}");
}

#[tokio::test]
async fn a_machine_behind_sushy_emulator_is_switched_and_comes_back() {
    let Some(sushy) = program("sushy-emulator") else { return };
    let port = free_port();
    let _peer = Peer::start(Command::new(sushy).args(["--fake", "-i", "127.0.0.1", "-p", &port.to_string()]));
    wait_for_port(port);
    let mut bmc = Redfish::new(RedfishConfig::at(&format!("http://127.0.0.1:{port}"))).unwrap();
    let report = bmc.read().await.unwrap();
    assert!(report.total.is_empty(), "it has no meter: {report:?}");
    let [system] = report.outlets.as_slice() else { panic!("{report:?}") };
    let (id, before) = (system.id.clone(), system.state);
    assert!(matches!(before, PowerState::On | PowerState::Off), "{before}");
    bmc.switch(&id, Switch::On).await.unwrap();
    until_state(&mut bmc, &id, PowerState::On).await;
    bmc.switch(&id, Switch::SoftOff).await.unwrap();
    until_state(&mut bmc, &id, PowerState::Off).await;
    bmc.switch(&id, Switch::Off).await.unwrap();
    assert_eq!(bmc.state(&id).await.unwrap(), PowerState::Off, "off twice is off");
    bmc.close().await.unwrap();
}
