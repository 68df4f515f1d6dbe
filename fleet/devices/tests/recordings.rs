//! Every recording of a real PDU, read twice: by the decoder alone, and by the driver from a real SNMP agent that
//! answers as the device did. The expected figures were worked out by hand from the raw objects and the makers' MIBs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/snmprec.rs"]
mod snmprec;

use std::sync::Arc;

use ebbtide_devices::snmp::config::{SnmpPduConfig, Version};
use ebbtide_devices::snmp::decode::Decoder;
use ebbtide_devices::snmp::model::{PduModel, known};
use ebbtide_devices::snmp::oid::Oid;
use ebbtide_devices::snmp::{SnmpPdu, model};
use ebbtide_devices::{Driver as _, Feed, Identity, Outlet, PowerState, Report};
use ebbtide_runtime::clock::Moment;
use ebbtide_runtime::tasks::Tasks;

/// A feed in W, Wh, A and V with the decimals that matter; `-` is absent.
fn show(feed: &Feed) -> String {
    let power = feed.power.as_ref().map_or("-".to_owned(), |p| format!("{}", p.value.uw() as f64 / 1e6));
    let energy = feed.energy.as_ref().map_or("-".to_owned(), |e| format!("{}", e.value.uj() / 3_600_000_000));
    let current = feed.current_ma.as_ref().map_or("-".to_owned(), |c| format!("{}", f64::from(c.value) / 1e3));
    let voltage = feed.voltage_mv.as_ref().map_or("-".to_owned(), |v| format!("{}", f64::from(v.value) / 1e3));
    format!("{power} W, {energy} Wh, {current} A, {voltage} V")
}

fn phases(report: &Report) -> Vec<String> {
    report.phases.iter().map(|(name, feed)| format!("{name}: {}", show(feed))).collect()
}

fn outlet<'a>(report: &'a Report, id: &str) -> &'a Outlet {
    report.outlets.iter().find(|o| o.id.as_str() == id).unwrap_or_else(|| panic!("no outlet {id}: {:?}", ids(report)))
}

fn ids(report: &Report) -> Vec<&str> {
    report.outlets.iter().map(|o| o.id.as_str()).collect()
}

fn off(report: &Report) -> Vec<&str> {
    report.outlets.iter().filter(|o| o.state == PowerState::Off).map(|o| o.id.as_str()).collect()
}

fn percent(ratio: ebbtide_proto::Ratio) -> f64 {
    (f64::from(ratio.ppm()) / 1e3).round() / 10.0
}

/// What a recording says, by the decoder alone and by the driver over SNMP; both have to be the same.
async fn read(name: &str) -> (Identity, Report) {
    let records = snmprec::recording(name);
    let tree = snmprec::tree(&records);
    let id = tree.get(&"1.3.6.1.2.1.1.2.0".parse().unwrap()).unwrap().id().unwrap();
    let fits = |m: &&PduModel| {
        let there = |c: &model::Column| tree.rows(&c.of(m, &id)).next().is_some();
        m.object_ids.iter().any(|prefix| id.below(prefix).is_some()) && m.probe.as_ref().is_none_or(there)
    };
    let model = known().iter().find(fits).unwrap();
    let decoder = Decoder { model, device: &id, tree: &tree, at: Moment::default() };
    let (identity, report) = (decoder.identity(), decoder.report());

    let mut tasks = Tasks::new();
    let objects: agent::Objects =
        records.iter().map(|r| (async_snmp::Oid::from_slice(r.oid.arcs()), r.typed.clone())).collect();
    let address = agent::start(&mut tasks, "public", Arc::new(Arc::new(objects))).await;
    for version in [Version::V2c, Version::V1] {
        let mut config = SnmpPduConfig::at(&address);
        config.version = version;
        config.gap = ebbtide_devices::Period::new(std::time::Duration::ZERO);
        let mut pdu = SnmpPdu::new(config).unwrap();
        let first = pdu.read().await.unwrap();
        let second = pdu.read().await.unwrap();
        // Version 1 has no 64-bit counters: an agent leaves them out (RFC 3584, 4.2.2.1).
        let wide = name.starts_with("rnx");
        if version == Version::V2c || !wide {
            assert_eq!(without_time(&first), without_time(&report), "{name}: {version:?}, the first time");
            assert_eq!(without_time(&second), without_time(&report), "{name}: {version:?}, objects asked for again");
            let over_snmp = pdu.identify().await.unwrap();
            assert_eq!((over_snmp.vendor, over_snmp.serial), (identity.vendor.clone(), identity.serial.clone()));
        }
    }
    agent::stop(tasks).await;
    (identity, report)
}

fn without_time(report: &Report) -> Report {
    fn clear(feed: &mut Feed) {
        if let Some(f) = &mut feed.power {
            f.at = Moment::default();
        }
        if let Some(f) = &mut feed.energy {
            f.at = Moment::default();
        }
        for f in [&mut feed.current_ma, &mut feed.voltage_mv].into_iter().flatten() {
            f.at = Moment::default();
        }
    }
    let mut report = report.clone();
    clear(&mut report.total);
    report.phases.iter_mut().for_each(|(_, feed)| clear(feed));
    report.outlets.iter_mut().for_each(|o| clear(&mut o.feed));
    report
}

#[tokio::test]
async fn apc_ap8959eu3() {
    let (identity, report) = read("apc_ap8959eu3").await;
    assert_eq!(identity.model.as_deref(), Some("AP8959EU3"));
    assert_eq!(identity.serial.as_deref(), Some("5A1638E01463"));
    assert_eq!(identity.name.as_deref(), Some("SCP"));
    // 12.1.16 says 270 W, 26.4.3.1.5 says 27 times 10 W: the finer is taken. 26.4.3.1.9: 19677 × 0.1 kWh.
    assert_eq!(show(&report.total), "270 W, 1967700 Wh, - A, - V");
    assert_eq!(report.total.power.as_ref().unwrap().source, "rPDUIdentDevicePowerWatts");
    assert_eq!(report.total.energy_step.unwrap().uj(), 360_000_000_000, "0.1 kWh");
    assert_eq!(phases(&report), ["L1: 250 W, - Wh, 1.3 A, 231 V"]);
    assert_eq!((report.outlets.len(), off(&report)), (24, vec!["23"]));
    assert_eq!(outlet(&report, "17").name.as_deref(), Some("Outlet 17"));
    assert!(report.outlets.iter().all(|o| o.switchable && o.feed.is_empty()));
}

#[tokio::test]
async fn apc_apdu9959eu3() {
    let (_, report) = read("apc_apdu9959eu3").await;
    // 1160 W in the old table, 117 × 10 W in the new one.
    assert_eq!(show(&report.total), "1160 W, 70600 Wh, - A, - V");
    assert_eq!(percent(report.total.power.as_ref().unwrap().error), 1.0);
    assert_eq!(phases(&report), ["L1: 1160 W, - Wh, 5.4 A, 228 V"]);
    assert_eq!((report.outlets.len(), off(&report).len()), (24, 0));
}

#[tokio::test]
async fn apc_ap8853_is_metered_only() {
    let (_, report) = read("apc_ap8853").await;
    assert_eq!(show(&report.total), "1140 W, 3512800 Wh, - A, - V");
    assert_eq!(report.total.power.as_ref().unwrap().source, "rPDU2DeviceStatusPower");
    // 1140 W in steps of 10 W: half a step is 0.4 %, and 1 % for the meter.
    assert_eq!(percent(report.total.power.as_ref().unwrap().error), 1.4);
    assert_eq!(phases(&report), ["L1: 1140 W, - Wh, 4.9 A, 242 V"]);
    assert!(report.outlets.is_empty());
}

#[tokio::test]
async fn apc_ap7900b_has_no_meter() {
    let (_, report) = read("apc_ap7900b").await;
    // The new table says -1. The old one says 312 W, but reckons them from 120 V that were set: 12.1.15 is not -1.
    assert_eq!(show(&report.total), "312 W, - Wh, - A, - V");
    assert_eq!(percent(report.total.power.as_ref().unwrap().error), 51.2);
    assert_eq!(phases(&report), ["L1: - W, - Wh, 2.7 A, - V"]);
    assert_eq!((report.outlets.len(), off(&report).len()), (8, 0));
    assert_eq!(outlet(&report, "4").name.as_deref(), Some("Switch 2 PSU 1"));
    assert_eq!(outlet(&report, "4").state, PowerState::On);
}

#[tokio::test]
async fn raritan_px3() {
    let (identity, report) = read("raritan-pdu_px3").await;
    assert_eq!(identity.model.as_deref(), Some("PX3-5493U-K2"));
    assert_eq!(identity.firmware.as_deref(), Some("4.2.0.5-50274"));
    // Currents have three decimals, watts none: 6.3.3.4.1.7.1.1.1 is 3, …1.1.5 is 0.
    assert_eq!(show(&report.total), "1665 W, 74057676 Wh, 7.467 A, 229 V");
    assert_eq!(report.total.energy_step.unwrap().uj(), 3_600_000_000, "1 Wh");
    assert_eq!(report.outlets.len(), 24);
    assert_eq!(show(&outlet(&report, "1.1").feed), "143 W, 5812658 Wh, 0.633 A, 228 V");
    assert_eq!(show(&outlet(&report, "1.13").feed), "390 W, 12711248 Wh, 1.676 A, 228 V");
    assert_eq!(show(&outlet(&report, "1.24").feed), "550 W, 18327024 Wh, 2.44 A, 229 V");
    // An outlet that is on without a load draws 0 W, which was measured.
    assert_eq!(outlet(&report, "1.5").feed.power.as_ref().unwrap().value.uw(), 0);
    assert_eq!(percent(outlet(&report, "1.5").feed.power.as_ref().unwrap().error), 100.0);
    assert!(report.outlets.iter().all(|o| o.state == PowerState::On && o.switchable));
    let sum: u64 = report.outlets.iter().map(|o| o.feed.power.as_ref().unwrap().value.uw()).sum();
    assert_eq!(sum, 1_671_000_000, "the outlets' sum is the inlet's 1665 W but for rounding");
}

#[tokio::test]
async fn sentry3_switched_tells_amperes_only() {
    let (identity, report) = read("sentry3_switched").await;
    assert_eq!(identity.model.as_deref(), Some("CWG-30VDE455/CB"));
    assert_eq!(show(&report.total), "- W, - Wh, - A, - V");
    assert_eq!(
        phases(&report)[..3],
        ["AA: - W, - Wh, 3.09 A, 207 V", "AB: - W, - Wh, 3.92 A, 207.8 V", "AC: - W, - Wh, 4.34 A, 208.7 V"]
    );
    assert_eq!(show(&outlet(&report, "AB1").feed), "- W, - Wh, 0.81 A, - V");
    assert_eq!(outlet(&report, "AC3").name.as_deref(), Some("Outlet AC3"));
    // The recording has no states: nothing is known, and nothing is off.
    assert!(report.outlets.iter().all(|o| o.state == PowerState::Unknown && !o.switchable));
}

#[tokio::test]
async fn sentry3_three_phases() {
    let (_, report) = read("sentry3_3phase").await;
    assert_eq!(show(&report.total), "279 W, - Wh, - A, - V");
    assert_eq!(
        phases(&report),
        [
            "AA: 147 W, - Wh, 1.11 A, 230 V",
            "AB: 53 W, - Wh, 0.4 A, 230 V",
            "AC: 78 W, - Wh, 0.59 A, 230 V",
            "AD: - W, - Wh, 2.12 A, - V", // the neutral conductor: -1 W and -1 V
        ]
    );
}

#[tokio::test]
async fn vertiv_geist() {
    let (identity, report) = read("vertiv-pdu_mg02e4w1").await;
    assert_eq!(identity.serial.as_deref(), Some("ZY18120520"));
    assert_eq!(show(&report.total), "1017 W, 8483906 Wh, - A, - V");
    assert_eq!(
        phases(&report),
        [
            "Phase A: 198 W, 2353700 Wh, 0.95 A, 235 V",
            "Phase B: 436 W, 2262146 Wh, 1.87 A, 234.1 V",
            "Phase C: 382 W, 3868060 Wh, 1.7 A, 236.5 V",
        ]
    );
    assert!(report.outlets.is_empty());
}

#[tokio::test]
async fn gude_epc_1202() {
    let (identity, report) = read("gude-epc_1202").await;
    assert_eq!(identity.model.as_deref(), Some("Expert Power Control 1202-1"));
    assert_eq!(identity.firmware.as_deref(), Some("1.13.3"));
    assert_eq!(show(&report.total), "17 W, 2020584 Wh, 0.167 A, 227 V");
    assert_eq!((ids(&report), off(&report)), (vec!["1", "2", "3", "4"], vec!["2"]));
}

#[tokio::test]
async fn rnx_updu() {
    let (_, report) = read("rnx-updu_rn3214").await;
    assert_eq!(show(&report.total), "868 W, 12718314 Wh, 5.163 A, 232.32 V");
    assert_eq!(
        phases(&report)[..2],
        ["L1: 272 W, 4053607 Wh, 1.482 A, 230.364 V", "L2: 196 W, 3169065 Wh, 1.324 A, 230.743 V"]
    );
    assert_eq!(report.phases.len(), 3);
    // Sums of modules are not outlets.
    assert!(report.outlets.iter().all(|o| !o.id.as_str().ends_with(".0") && !o.id.as_str().starts_with("0.")));
    assert_eq!(show(&outlet(&report, "1.1").feed), "66 W, 799693 Wh, 0.329 A, 230.065 V");
    assert_eq!(outlet(&report, "1.1").name.as_deref(), Some("Outlet1.1"));
    let sum: u64 = report.outlets.iter().map(|o| o.feed.power.as_ref().unwrap().value.uw()).sum();
    assert_eq!(sum, 869_000_000, "the outlets' sum is the device's 868 W but for rounding");
    assert!(report.outlets.iter().all(|o| !o.switchable && o.state == PowerState::Unknown));
}

#[tokio::test]
async fn hpe_g3_says_its_sysobjectid_as_text_and_lists_outlets_that_are_not_there() {
    let (identity, report) = read("hpe-mapdu_pdu3").await;
    assert_eq!(identity.model.as_deref(), Some("P9S18A"));
    assert_eq!(show(&report.total), "154 W, - Wh, - A, - V");
    assert_eq!(phases(&report)[0], "L1: 154 W, - Wh, 0.65 A, 229.8 V");
    assert_eq!(report.outlets.len(), 24, "48 rows, of which 24 have state 0");
    assert_eq!(show(&outlet(&report, "1.21").feed), "65 W, - Wh, 0.26 A, - V");
    assert_eq!(show(&outlet(&report, "1.23").feed), "74 W, - Wh, 0.32 A, - V");
    assert_eq!(outlet(&report, "1.1").name.as_deref(), Some("OUTLET 1"));
    assert!(report.outlets.iter().all(|o| o.state == PowerState::On && !o.switchable));
}

#[tokio::test]
async fn dataprobe_iboot_has_the_sysobjectid_of_net_snmp() {
    let (identity, report) = read("iboot_pdu8-2n15").await;
    assert_eq!(identity.model.as_deref(), Some("iBoot-PDU8-2N15"));
    assert_eq!(show(&report.total), "- W, - Wh, - A, - V");
    assert_eq!(phases(&report), ["line 1: - W, - Wh, 6.21 A, - V"]);
    assert_eq!(ids(&report), ["1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(off(&report), ["3", "4", "6", "7", "8"]);
    assert_eq!(outlet(&report, "8").name.as_deref(), Some("Outlet-8"));
}

#[test]
fn numbers_without_their_decimals_are_no_figures() {
    let mut tree = snmprec::tree(&snmprec::recording("raritan-pdu_px3"));
    let digits: Oid = "1.3.6.1.4.1.13742.6.3.5.4.1.7".parse().unwrap();
    tree = tree.into_iter().filter(|(oid, _)| oid.below(&digits).is_none()).collect();
    let model = known().iter().find(|m| m.name == "raritan-px").unwrap();
    let device = "1.3.6.1.4.1.13742.6".parse().unwrap();
    let report = Decoder { model, device: &device, tree: &tree, at: Moment::default() }.report();
    assert!(report.outlets.iter().all(|o| o.feed.is_empty()), "633 could be 633 A or 0.633 A");
    assert_eq!(report.total.power.unwrap().value.uw(), 1_665_000_000);
}
