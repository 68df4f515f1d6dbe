//! PDUs of which there is no recording of outlets: their traps, with objects made up by the makers' MIBs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_snmp::{Oid, Value};
use ebbtide_devices::snmp::SnmpPdu;
use ebbtide_devices::snmp::config::{SnmpPduConfig, Version};
use ebbtide_devices::{DeviceError, Driver as _, Figure, OutletId, Period, PowerState, Report, Switch};
use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::tasks::Tasks;

use crate::agent::{self, Device, Objects};

/// Objects that take any number, and remember in which order.
#[derive(Default)]
struct Pdu {
    objects: Mutex<Objects>,
    sets: Mutex<Vec<(String, i32)>>,
}

impl Device for Pdu {
    fn objects(&self) -> Arc<Objects> {
        Arc::new(self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn set(&self, oid: &Oid, value: i32) -> bool {
        self.sets.lock().unwrap().push((oid.to_string(), value));
        true
    }
}

/// A made-up device and its driver.
struct Bench {
    pdu: Arc<Pdu>,
    driver: SnmpPdu,
    tasks: Tasks,
}

fn oid(text: &str) -> Oid {
    Oid::parse(text).unwrap()
}

impl Bench {
    /// A device with this sysObjectID and these objects below `base`.
    async fn new(object_id: &str, base: &str, objects: &[(&str, Value)]) -> Self {
        let pdu = Arc::new(Pdu::default());
        {
            let mut all = pdu.objects.lock().unwrap();
            all.insert(oid("1.3.6.1.2.1.1.2.0"), Value::ObjectIdentifier(oid(object_id)));
            all.extend(objects.iter().map(|(rest, value)| (oid(&format!("{base}.{rest}")), value.clone())));
        }
        let mut tasks = Tasks::new();
        let mut config = SnmpPduConfig::at(&agent::start(&mut tasks, "public", pdu.clone()).await);
        config.version = Version::V2c;
        config.gap = Period::new(Duration::ZERO);
        Self { pdu, driver: SnmpPdu::new(config).unwrap(), tasks }
    }

    async fn read(&mut self) -> Report {
        self.driver.read().await.unwrap()
    }

    /// What is set for this command, below `base`.
    async fn sets(&mut self, outlet: &str, to: Switch, base: &str) -> Result<Vec<(String, i32)>, DeviceError> {
        self.pdu.sets.lock().unwrap().clear();
        self.driver.switch(&OutletId::new(outlet), to).await?;
        let below = |(oid, value): &(String, i32)| (oid.strip_prefix(base).unwrap().to_owned(), *value);
        Ok(self.pdu.sets.lock().unwrap().iter().map(below).collect())
    }

    async fn end(self) {
        agent::stop(self.tasks).await;
    }
}

fn watts(figure: Option<&Figure<Power>>) -> Option<f64> {
    figure.map(|f| f.value.uw() as f64 / 1e6)
}

fn watt_hours(figure: Option<&Figure<Energy>>) -> Option<f64> {
    figure.map(|f| f.value.uj() as f64 / 3.6e9)
}

fn set(object: &str, value: i32) -> (String, i32) {
    (object.to_owned(), value)
}

#[tokio::test]
async fn apc_metered_outlets_say_minus_one_for_what_they_do_not_have() {
    const APC: &str = "1.3.6.1.4.1.318.1.1";
    let int = Value::Integer;
    let objects = [
        ("26.9.2.3.1.5.1", int(2)),
        ("26.9.2.3.1.5.2", int(1)),
        ("26.9.4.3.1.7.1", int(93)),
        ("26.9.4.3.1.7.2", int(-1)),
        ("26.9.4.3.1.11.1", int(417)),
        ("26.9.4.3.1.11.2", int(-1)),
        ("12.1.16.0", int(-1)),
        ("26.4.3.1.5.1", int(-1)),
    ];
    let mut bench = Bench::new("1.3.6.1.4.1.318.1.3.4.6", APC, &objects).await;
    let report = bench.read().await;
    let feed = &report.outlets[0].feed;
    assert_eq!((watts(feed.power.as_ref()), watt_hours(feed.energy.as_ref())), (Some(93.0), Some(41_700.0)));
    assert!(report.outlets[1].feed.is_empty() && report.total.is_empty(), "{report:?}");
    assert_eq!((report.outlets[0].state, report.outlets[1].state), (PowerState::On, PowerState::Off));
    assert_eq!(bench.sets("2", Switch::On, APC).await.unwrap(), [set(".26.9.2.4.1.5.2", 1)]);
    assert_eq!(bench.sets("2", Switch::Cycle, APC).await.unwrap(), [set(".26.9.2.4.1.5.2", 3)]);
    bench.end().await;
}

#[tokio::test]
async fn eaton_has_an_object_for_each_command() {
    const EATON: &str = "1.3.6.1.4.1.534.6.6.7";
    let int = Value::Integer;
    let objects = [
        ("3.5.1.4.0.1", int(730)),
        ("3.5.1.5.0.1", Value::Gauge32(4_000_000_000)),
        ("6.5.1.3.0.7", int(55)),
        ("6.5.1.4.0.7", Value::Gauge32(1234)),
        ("6.6.1.2.0.7", int(1)),
        ("6.6.1.2.0.8", int(2)),
        ("6.6.1.2.0.9", int(9)),
    ];
    let mut bench = Bench::new("1.3.6.1.4.1.534.6.6.7.99", EATON, &objects).await;
    let report = bench.read().await;
    assert_eq!(
        (watts(report.total.power.as_ref()), watt_hours(report.total.energy.as_ref())),
        (Some(730.0), Some(4e9))
    );
    let states: Vec<_> = report.outlets.iter().map(|o| (o.id.as_str(), o.state)).collect();
    assert_eq!(
        states,
        [("0.7", PowerState::On), ("0.8", PowerState::TurningOff), ("0.9", PowerState::Unknown)],
        "a number that the MIB doesn't have is unknown"
    );
    assert_eq!(bench.sets("0.7", Switch::Off, EATON).await.unwrap(), [set(".6.6.1.3.0.7", 0)]);
    assert_eq!(bench.sets("0.7", Switch::On, EATON).await.unwrap(), [set(".6.6.1.4.0.7", 0)]);
    assert_eq!(bench.sets("0.7", Switch::Cycle, EATON).await.unwrap(), [set(".6.6.1.5.0.7", 0)]);
    bench.end().await;
}

#[tokio::test]
async fn schleifenbauer_multiplies_and_unlocks() {
    const BUS: &str = "1.3.6.1.4.1.31034.12.1.1.2";
    let int = Value::Integer;
    // 230.00 V × 2.50 A × 92.00 % = 529 W; the device's own VA of 575 is the coarser figure.
    let objects = [
        ("6.1.1.7.1.1", int(23_000)),
        ("6.1.1.5.1.1", int(250)),
        ("6.1.1.4.1.1", int(9_200)),
        ("6.1.1.9.1.1", int(575)),
        ("6.1.1.2.1.1", int(77)),
        ("7.2.1.7.1.3", int(23_000)),
        ("7.2.1.5.1.3", int(10)),
        ("7.3.1.2.1.3", int(1)),
    ];
    let mut bench = Bench::new("1.3.6.1.4.1.31034.1", BUS, &objects).await;
    let report = bench.read().await;
    assert_eq!(
        (watts(report.total.power.as_ref()), watt_hours(report.total.energy.as_ref())),
        (Some(529.0), Some(77_000.0))
    );
    let outlet = &report.outlets[0];
    assert_eq!((outlet.id.as_str(), outlet.feed.current_ma.as_ref().unwrap().value), ("1.3", 100));
    assert_eq!(outlet.feed.power, None, "without a power factor there is no product");
    assert_eq!(bench.sets("1.3", Switch::Off, BUS).await.unwrap(), [set(".7.3.1.4.1.3", 1), set(".7.3.1.2.1.3", 0)]);
    assert!(matches!(bench.sets("1.3", Switch::Cycle, BUS).await, Err(DeviceError::Unable { .. })));
    bench.end().await;
}

#[tokio::test]
async fn chatsworth_has_octets_in_its_index_volt_amperes_and_tens_of_watt_seconds() {
    const CPI: &str = "1.3.6.1.4.1.30932.1.10.1";
    let mac = "0.14.211.0.1.121";
    let named = |rest: &str| format!("{rest}.{mac}.4");
    let (power, energy, state) = (named("4.10.1.8"), named("4.10.1.10"), named("4.10.1.11"));
    let branches = [format!("3.110.1.6.{mac}.1"), format!("3.110.1.6.{mac}.2")];
    let objects = [
        (power.as_str(), Value::Integer(100)),
        (energy.as_str(), Value::Counter64(36_000)),
        (state.as_str(), Value::Integer(1)),
        (branches[0].as_str(), Value::Integer(400)),
        (branches[1].as_str(), Value::Integer(150)),
    ];
    let mut bench = Bench::new("1.3.6.1.4.1.30932.1", CPI, &objects).await;
    let report = bench.read().await;
    assert_eq!(watts(report.total.power.as_ref()), Some(550.0), "the branches together");
    let outlet = &report.outlets[0];
    assert_eq!((outlet.id.as_str(), outlet.state), ("000ed3000179.4", PowerState::On));
    assert_eq!(watt_hours(outlet.feed.energy.as_ref()), Some(100.0), "36000 × 10 Ws");
    let power = outlet.feed.power.as_ref().unwrap();
    assert!(power.error >= Ratio::from_percent(50), "100 VA may be no more than half in watts: {power:?}");
    let sets = bench.sets("000ed3000179.4", Switch::Off, CPI).await.unwrap();
    assert_eq!(sets, [set(&format!(".4.10.1.11.{mac}.4"), 0)]);
    bench.end().await;
}

#[tokio::test]
async fn states_and_commands_have_different_numbers() {
    let int = Value::Integer;
    for (object_id, base, state, command, on, off) in [
        ("1.3.6.1.4.1.38446", "1.3.6.1.4.1.38446.1", "5.4.1.4", "5.5.1.4", (1, 2), (0, 1)),
        ("1.3.6.1.4.1.21239.42.1", "1.3.6.1.4.1.21239.5.2", "3.5.1.4", "3.5.1.6", (1, 2), (2, 4)),
        ("1.3.6.1.4.1.3808.1.1.6", "1.3.6.1.4.1.3808.1.1", "6.6.1.4.1.5", "6.6.1.5.1.5", (1, 1), (2, 2)),
        ("1.3.6.1.4.1.1718.4", "1.3.6.1.4.1.1718.4.1", "8.3.1.1", "8.5.1.2", (1, 1), (2, 2)),
        ("1.3.6.1.4.1.1718.3", "1.3.6.1.4.1.1718.3", "2.3.1.5", "2.3.1.11", (1, 1), (0, 2)),
        ("1.3.6.1.4.1.13742.6", "1.3.6.1.4.1.13742.6", "4.1.2.1.3", "4.1.2.1.2", (7, 1), (8, 0)),
    ] {
        // Objects by which Vertiv's and CyberPower's are told from others with the same sysObjectID.
        let (first, second) = (format!("{state}.1.1"), format!("{state}.1.2"));
        let objects = [
            (first.as_str(), int(on.0)),
            (second.as_str(), int(off.0)),
            ("3.1.1.9.1", int(10)),
            ("3.2.3.1.1.7.1", int(10)),
        ];
        let mut bench = Bench::new(object_id, base, &objects).await;
        let report = bench.read().await;
        let stand: Vec<_> = report.outlets.iter().map(|o| (o.id.as_str(), o.state, o.switchable)).collect();
        assert_eq!(stand, [("1.1", PowerState::On, true), ("1.2", PowerState::Off, true)], "{object_id}");
        let sets =
            [bench.sets("1.2", Switch::On, base).await.unwrap(), bench.sets("1.1", Switch::Off, base).await.unwrap()];
        assert_eq!(
            sets.concat(),
            [set(&format!(".{command}.1.2"), on.1), set(&format!(".{command}.1.1"), off.1)],
            "{object_id}"
        );
        bench.end().await;
    }
}

#[tokio::test]
async fn figures_that_do_not_fit_are_absent() {
    const RNX: &str = "1.3.6.1.4.1.55108.1.3.1.1";
    let objects = [
        ("4.1.1", Value::Counter64(u64::MAX)),
        ("7.1.1", Value::Integer(i32::MAX)),
        ("11.1.1", Value::Counter64(u64::from(u32::MAX) + 1)),
        ("10.1.1", Value::OctetString("n/a".into())),
    ];
    let mut bench = Bench::new("1.3.6.1.4.1.55108.1.0", RNX, &objects).await;
    let report = bench.read().await;
    let feed = &report.outlets[0].feed;
    assert_eq!(
        watts(feed.power.as_ref()),
        Some(f64::from(i32::MAX)),
        "the poller rejects more than an outlet can carry"
    );
    assert!(feed.energy.is_none() && feed.current_ma.is_none() && feed.voltage_mv.is_none(), "{feed:?}");
    bench.end().await;
}
