//! The loop closed: a rack in memory behind a real SNMP agent. Switching an outlet off makes the machine's agent fall
//! silent and the outlet's watts drop, and switching says that it saw both; and what happens if a PDU lies.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_devices::switching::Signals;
use ebbtide_devices::{Device, Devices, Limits, Outcome, OutletId, PowerState, Switch, Verdict, open};
use ebbtide_runtime::tasks::Tasks;

use crate::rack::{Faults, Rack};

/// Long enough for two commands to a device that lies.
const SOON: Duration = Duration::from_secs(2);

/// A rack with its PDU, read all the time.
struct Site {
    rack: Rack,
    pdu: Device,
    tasks: Tasks,
}

async fn site(watts: &[u32]) -> Site {
    let rack = Rack::new(watts);
    let mut tasks = Tasks::new();
    let address = crate::agent::start(&mut tasks, "public", Arc::new(rack.clone())).await;
    let text = format!(
        "[[device]]\nname = \"rack1\"\nkind = \"snmp-pdu\"\naddress = \"{address}\"\ninterval = \"100ms\"\nstale-after = \"5s\"\ngap = \"0s\""
    );
    let devices: Devices = toml::from_str(&text).unwrap();
    let config = devices.device[0].clone();
    let (pdu, poller) = Device::new(config.clone(), open(&config).unwrap());
    tasks.spawn("rack1", poller.run(tasks.shutdown()));
    Site { rack, pdu, tasks }
}

impl Site {
    async fn switch(&self, outlet: usize, to: Switch, signals: u32) -> Outcome {
        self.switch_within(Duration::from_secs(30), outlet, to, signals).await
    }

    async fn switch_within(&self, deadline: Duration, outlet: usize, to: Switch, signals: u32) -> Outcome {
        let limits = Limits {
            deadline,
            interval: Duration::from_millis(30),
            patience: deadline / 4,
            signals,
            ..Limits::default()
        };
        self.pdu.switch(&OutletId::new(&outlet.to_string()), to, limits, || self.rack.agent(outlet)).await
    }

    /// Waits until the last report says so.
    async fn until(&self, says: impl Fn(&[(PowerState, Option<u64>)]) -> bool) {
        let mut watch = self.pdu.watch();
        let wait = watch.wait_for(|latest| {
            let report = latest.report.as_ref();
            report.is_some_and(|r| {
                let watts = |o: &ebbtide_devices::Outlet| o.feed.power.as_ref().map(|p| p.value.uw() / 1_000_000);
                says(&r.outlets.iter().map(|o| (o.state, watts(o))).collect::<Vec<_>>())
            })
        });
        tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap().map(drop).unwrap();
    }
}

#[tokio::test]
async fn an_outlet_that_goes_off_takes_its_watts_and_its_machine_along() {
    let site = site(&[120, 80, 60]).await;
    site.until(|o| o == [(PowerState::On, Some(120)), (PowerState::On, Some(80)), (PowerState::On, Some(60))]).await;
    let off = site.switch(2, Switch::Off, 3).await;
    assert_eq!(off.verdict, Verdict::Confirmed, "{off:?}");
    assert_eq!(off.signals, Signals { state: true, outlet_watts: true, agent: true });
    site.until(|o| o == [(PowerState::On, Some(120)), (PowerState::Off, Some(0)), (PowerState::On, Some(60))]).await;
    assert_eq!(site.pdu.latest().report.as_ref().unwrap().total.power.as_ref().unwrap().value.uw(), 180_000_000);
    let again = site.switch(2, Switch::Off, 3).await;
    assert_eq!((again.verdict, site.rack.commands()), (Verdict::Already, 1));
    let on = site.switch(2, Switch::On, 3).await;
    assert_eq!((on.verdict, on.signals.count()), (Verdict::Confirmed, 3));
    site.until(|o| o[1] == (PowerState::On, Some(80))).await;
    crate::agent::stop(site.tasks).await;
}

#[tokio::test]
async fn a_pdu_that_lies_is_found_out() {
    let site = site(&[120, 80]).await;
    site.rack.misbehave(Faults { stuck_relays: true, ..Faults::default() });
    let stuck = site.switch_within(SOON, 1, Switch::Off, 1).await;
    assert_eq!(stuck.verdict, Verdict::Contradicted { by: "the outlet still draws 120 W".into() }, "{stuck:?}");
    site.rack.misbehave(Faults { deaf: true, ..Faults::default() });
    let deaf = site.switch_within(SOON, 2, Switch::Off, 1).await;
    assert!(matches!(&deaf.verdict, Verdict::Unconfirmed { last } if last.starts_with("state on, 80.0 W")), "{deaf:?}");
    assert_eq!(deaf.commands, 2, "it was told twice");
    crate::agent::stop(site.tasks).await;
}

#[tokio::test]
async fn a_wrong_outlet_and_a_wrong_command_fail_at_once_with_the_reason() {
    let site = site(&[120, 80]).await;
    let outcome = site.switch(7, Switch::Off, 1).await;
    let Verdict::Failed { why } = outcome.verdict else { panic!("{outcome:?}") };
    assert!(why.ends_with("has no outlet 7; it has 1, 2"), "{why}");
    let outcome = site.switch(1, Switch::SoftOff, 1).await;
    let Verdict::Failed { why } = outcome.verdict else { panic!("{outcome:?}") };
    assert!(why.contains("can't ask a machine to shut down"), "{why}");
    assert_eq!(site.rack.commands(), 0);
    crate::agent::stop(site.tasks).await;
}

#[tokio::test]
async fn a_pdu_that_restarts_adds_no_energy_and_loses_none() {
    let site = site(&[1000]).await;
    site.until(|o| o.len() == 1).await;
    let energy = || site.pdu.latest().total.map(|m| m.energy.uj());
    let polls = site.pdu.latest().polls;
    site.pdu.watch().wait_for(|l| l.polls > polls + 2).await.map(drop).unwrap();
    let before = energy();
    site.rack.restart();
    let polls = site.pdu.latest().polls;
    site.pdu.watch().wait_for(|l| l.polls > polls + 3 && l.report.is_some()).await.map(drop).unwrap();
    let latest = site.pdu.latest();
    assert_eq!(latest.errors, 0);
    assert!(energy() >= before);
    // A kilowatt for at most the seconds that this took, whatever the counter of 0.1 kWh did meanwhile.
    assert!(latest.total.unwrap().energy.uj() < 100_000_000_000, "{:?}", latest.total);
    crate::agent::stop(site.tasks).await;
}
