#![allow(clippy::unwrap_used, reason = "tests")]

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};

use ebbtide_proto::Ratio;
use ebbtide_runtime::tasks::Tasks;
use tokio::sync::Notify;

use super::*;
use crate::config::Kind;
use crate::period::Period;
use crate::report::Outlet;
use crate::wol::WakeOnLanConfig;

const W: u64 = 1_000_000;

fn at(s: u64) -> Moment {
    Moment::default().plus(Duration::from_secs(s))
}

fn config(name: &str, interval: Duration) -> DeviceConfig {
    let wol: WakeOnLanConfig = toml::from_str("mac = \"52:54:00:12:34:56\"").unwrap();
    let mut config = DeviceConfig::new(name, Kind::WakeOnLan(wol));
    config.interval = Period::new(interval);
    config
}

fn watts(w: u64, at: Moment) -> Feed {
    let figure =
        Figure { value: Power::from_uw(w * W), at, error: Ratio::from_percent(1), source: Cow::Borrowed("test") };
    Feed { power: Some(figure), ..Feed::default() }
}

fn report(w: u64, at: Moment) -> Report {
    let outlet =
        Outlet { id: OutletId::new("1"), name: None, feed: watts(w, at), state: PowerState::On, switchable: true };
    Report { total: watts(w + 5, at), outlets: vec![outlet], ..Report::default() }
}

fn silent() -> DeviceError {
    DeviceError::Timeout { device: "pdu".into(), after: Duration::from_secs(1), hint: "is it on?".into() }
}

#[test]
fn a_reading_gets_old_and_is_then_no_reading() {
    let mut polling = Polling::new(&config("pdu", Duration::from_secs(10)), at(0));
    polling.answered(at(0), Ok(report(100, at(0))));
    assert!(polling.latest(at(29)).report.is_some());
    assert_eq!(polling.stale_in(at(29)), Some(Duration::from_secs(1)));
    assert!(polling.latest(at(30)).report.is_none(), "three intervals");
    assert_eq!(polling.stale_in(at(30)), None);
    // An answer of now with a figure of long ago.
    let mut mixed = report(100, at(31));
    mixed.total = watts(105, at(1));
    polling.answered(at(31), Ok(mixed));
    let latest = polling.latest(at(31)).report.unwrap();
    assert!(latest.total.power.is_none() && latest.outlets[0].feed.power.is_some());
}

#[test]
fn a_device_that_fails_is_asked_less_and_less_often_and_then_as_before() {
    let mut polling = Polling::new(&config("pdu", Duration::from_secs(10)), at(0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        polling.answered(at(100), Err(silent()));
        waits.push(polling.due_in(at(100)).as_secs());
    }
    for (wait, planned) in waits.iter().zip([20, 40, 80, 160, 300, 300, 300, 300]) {
        assert!((planned * 9 / 10..=planned * 11 / 10).contains(wait), "{waits:?}");
    }
    let latest = polling.latest(at(100));
    assert_eq!((latest.errors, latest.polls), (8, 8));
    assert!(latest.error.unwrap().contains("is it on?"));
    polling.answered(at(200), Ok(report(1, at(200))));
    assert!((9..=11).contains(&polling.due_in(at(200)).as_secs()));
    assert!(polling.latest(at(200)).error.is_none());
}

#[test]
fn energy_adds_up_by_outlet_and_in_total_and_never_falls() {
    let mut polling = Polling::new(&config("pdu", Duration::from_secs(10)), at(0));
    for s in 0..=6 {
        polling.answered(at(s * 10), Ok(report(100, at(s * 10))));
    }
    let latest = polling.latest(at(60));
    assert_eq!(latest.total.unwrap().energy.uj(), 105 * 60 * W);
    assert_eq!(latest.outlets[&OutletId::new("1")].energy.uj(), 100 * 60 * W);
    polling.answered(at(70), Err(silent()));
    polling.answered(at(600), Ok(report(100, at(600))));
    let after = polling.latest(at(600)).total.unwrap();
    assert_eq!((after.energy.uj(), after.gaps), (105 * 60 * W, 1), "nobody knows what was drawn meanwhile");
}

#[test]
fn devices_are_not_all_asked_at_once() {
    let first = |name: &str| Polling::new(&config(name, Duration::from_secs(10)), at(0)).due_in(at(0)).as_millis();
    let mut times: Vec<_> = (0..50).map(|i| first(&format!("pdu{i}")) / 1000).collect();
    times.sort_unstable();
    times.dedup();
    assert!(times.len() >= 8, "{times:?}");
}

/// A device that hangs when told to, and counts requests in flight.
struct Fake {
    hang: watch::Receiver<bool>,
    flying: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    asked: Arc<Notify>,
}

impl Fake {
    async fn answer<T>(&mut self, value: impl FnOnce() -> T) -> Result<T, DeviceError> {
        let now = self.flying.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.asked.notify_one();
        tokio::task::yield_now().await;
        drop(self.hang.wait_for(|hang| !hang).await);
        self.flying.fetch_sub(1, Ordering::SeqCst);
        Ok(value())
    }
}

impl Driver for Fake {
    fn identify(&mut self) -> Answer<'_, Identity> {
        Box::pin(self.answer(Identity::default))
    }

    fn read(&mut self) -> Answer<'_, Report> {
        Box::pin(self.answer(|| report(100, clock::now())))
    }

    fn state<'a>(&'a mut self, _: &'a OutletId) -> Answer<'a, PowerState> {
        Box::pin(self.answer(|| PowerState::On))
    }

    fn switch<'a>(&'a mut self, _: &'a OutletId, _: Switch) -> Answer<'a, ()> {
        Box::pin(self.answer(|| ()))
    }
}

#[tokio::test]
async fn a_device_that_hangs_holds_up_nobody_and_its_readings_get_old() {
    let (hang, held) = watch::channel(false);
    let (flying, most, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let fake = Fake { hang: held, flying, most: most.clone(), asked: asked.clone() };
    let free =
        Fake { hang: watch::channel(false).1, flying: Arc::default(), most: Arc::default(), asked: Arc::default() };
    let mut tasks = Tasks::new();
    let (device, poller) = Device::new(config("hangs", Duration::from_millis(100)), Box::new(fake));
    let (other, other_poller) = Device::new(config("works", Duration::from_millis(100)), Box::new(free));
    tasks.spawn("hangs", poller.run(tasks.shutdown()));
    tasks.spawn("works", other_poller.run(tasks.shutdown()));
    let within = |work| tokio::time::timeout(Duration::from_secs(30), work);
    within(Box::pin(async {
        device.watch().wait_for(|l| l.report.is_some() && l.identity.is_some()).await.map(drop).unwrap();
        let outlet = OutletId::new("1");
        let on = || device.switch(&outlet, Switch::On, Limits::default(), || None);
        let (a, b, c) = tokio::join!(on(), on(), on());
        assert!(a.is_success() && b.is_success() && c.is_success());
        hang.send_replace(true);
        asked.notified().await;
        device.watch().wait_for(|l| l.report.is_none()).await.map(drop).unwrap();
        let seen = other.latest().polls;
        other.watch().wait_for(|l| l.polls > seen + 2).await.map(drop).unwrap();
        assert!(other.latest().report.is_some());
        hang.send_replace(false);
        device.watch().wait_for(|l| l.report.is_some()).await.map(drop).unwrap();
    }) as std::pin::Pin<Box<dyn Future<Output = ()> + Send>>)
    .await
    .unwrap();
    assert_eq!(most.load(Ordering::SeqCst), 1, "one request at a time");
    assert_eq!(tasks.finish(Duration::from_secs(10)).await.len(), 2);
}

#[tokio::test]
async fn after_a_command_the_device_is_read_at_once() {
    // It tells neither state nor watts: any command stays unconfirmed.
    let wol: WakeOnLanConfig =
        toml::from_str("mac = \"52:54:00:12:34:56\"\nbroadcast = \"127.0.0.1\"\npackets = 1").unwrap();
    let mut hourly = config("woken", Duration::from_hours(1));
    hourly.kind = Kind::WakeOnLan(wol.clone());
    let driver = crate::wol::WakeOnLan::new(wol).unwrap();
    let mut tasks = Tasks::new();
    let (device, poller) = Device::new(hourly, Box::new(driver));
    tasks.spawn("woken", poller.run(tasks.shutdown()));
    let limits =
        Limits { deadline: Duration::from_millis(50), interval: Duration::from_millis(10), ..Limits::default() };
    for polls in 1..=3 {
        let outcome = device.switch(&OutletId::new("system"), Switch::On, limits, || None).await;
        assert_eq!((outcome.commands, outcome.is_success()), (1, false));
        let mut watch = device.watch();
        let read = watch.wait_for(|l| l.polls >= polls);
        tokio::time::timeout(Duration::from_secs(30), read).await.unwrap().map(drop).unwrap();
    }
    tasks.finish(Duration::from_secs(10)).await;
}
