//! Input, zones and what is between them.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::{Ratio, ZoneId};
use proptest::prelude::*;

use super::*;
use crate::counter::{Counter, Reading};
use crate::ledger::ZoneAccount;
use crate::source::{CounterShape, Quality, Zone};

fn zone(source: SourceKind, kind: ZoneKind, role: Role) -> ZoneView {
    let zone = Zone {
        id: ZoneId::new(&format!("{}/{}", source.as_str(), kind.as_str())).unwrap(),
        name: kind.as_str().to_owned(),
        kind,
        parent: None,
        socket: None,
        source,
        path: String::new(),
        quality: Quality::Measured,
        error: Ratio::from_percent(2),
        counter: CounterShape { range: None, max_power: Power::from_uw(1_000_000_000_000) },
        idle: None,
    };
    let account = ZoneAccount::default();
    ZoneView { zone: Arc::new(zone), role, state: ZoneState::Live, account, power: None, floor: None }
}

/// A machine with two zones that count and an outlet.
struct Machine {
    now: Moment,
    zones: Vec<ZoneView>,
    counter: Counter,
    read: Option<Moment>,
    rest: Rest,
    told: Option<snapshot::Rest>,
}

impl Machine {
    fn new() -> Self {
        let zones = vec![
            zone(SourceKind::Powercap, ZoneKind::Package, Role::Total),
            zone(SourceKind::Powercap, ZoneKind::Dram, Role::Total),
            zone(SourceKind::Outlet, ZoneKind::Wall, Role::Platform),
        ];
        let counter = Counter::new(zones[2].zone.counter);
        let now = Moment::default().plus(Duration::from_secs(1000));
        Self { now, zones, counter, read: None, rest: Rest::default(), told: None }
    }

    /// A second passes in which the zones count this much; the outlet is at `wall` if it is read.
    fn pass(&mut self, parts: [u64; 2], wall: Option<u64>) {
        self.now = self.now.plus(Duration::from_secs(1));
        for (zone, uj) in self.zones.iter_mut().zip(parts) {
            zone.account.total += Energy::from_uj(uj);
            zone.power = Some(Power::from_uw(uj));
        }
        let step = wall.and_then(|uj| {
            self.read = Some(self.now);
            let step = self.counter.step(Reading { at: self.now, counter: Energy::from_uj(uj) })?;
            self.zones[2].power = step.energy.over(step.dt);
            Some(step)
        });
        let input = input(&self.zones).zip(self.read).map(|(i, at)| (i, (at, step)));
        self.told = self.rest.step(self.now, &self.zones, input);
    }
}

const W: u64 = 1_000_000;

#[test]
fn the_rest_is_the_input_less_the_zones() {
    let mut m = Machine::new();
    for second in 0..=20 {
        m.pass([60 * W, 10 * W], (second % 10 == 0).then_some(second * 100 * W));
        assert_eq!(m.told.is_some(), second >= 10, "{second}");
    }
    let rest = m.told.unwrap();
    assert_eq!((rest.power, rest.energy.uj(), rest.quality), (Power::from_watts(30.0), 600 * W, Quality::Measured));
    // 2 % of 100 W, 60 W and 10 W
    assert_eq!(rest.error, Power::from_watts(3.4).unwrap());
    // a zone whose figures are old, or a gap: nothing is known
    m.zones[1].state = ZoneState::Stale;
    m.pass([60 * W, 0], None);
    assert_eq!(m.told, None);
    m.zones[1].state = ZoneState::Live;
    m.zones[0].account.gaps[0] += 1;
    m.pass([60 * W, 10 * W], Some(2_200 * W));
    m.pass([60 * W, 10 * W], None);
    assert_eq!(m.told, None);
    m.pass([60 * W, 10 * W], Some(2_400 * W));
    assert_eq!(m.told.unwrap().energy.uj(), 660 * W);
}

#[test]
fn zones_that_claim_more_than_the_input_leave_no_rest() {
    let mut m = Machine::new();
    m.pass([0, 0], Some(0));
    m.pass([60 * W, 41 * W], Some(100 * W));
    assert_eq!(m.told.unwrap().power, Some(Power::ZERO), "within the error");
    m.pass([60 * W, 90 * W], Some(200 * W));
    assert_eq!((m.told.unwrap().power, m.told.unwrap().energy), (None, Energy::ZERO));
    // what they claimed too much comes first
    m.pass([0, 0], Some(251 * W));
    m.pass([0, 0], Some(256 * W));
    assert_eq!(m.told.unwrap().energy.uj(), 5 * W);
}

#[test]
fn a_modelled_node_and_one_of_two_supplies_have_no_rest() {
    let mut m = Machine::new();
    m.zones[0] = zone(SourceKind::Model, ZoneKind::Package, Role::Total);
    for second in 0..3 {
        m.pass([60 * W, 10 * W], Some(second * 100 * W));
        assert_eq!(m.told, None);
    }
    let supply = || zone(SourceKind::Hwmon, ZoneKind::Wall, Role::Platform);
    assert_eq!(input(&[supply()]), Some(0));
    assert_eq!(input(&[supply(), supply()]), None);
    assert_eq!(input(&[supply(), supply(), m.zones[2].clone()]), Some(2));
    m.zones[2].state = ZoneState::Absent;
    assert_eq!(input(&m.zones), None);
}

proptest! {
    /// Over any time between two readings: input = zones + rest, to the microjoule, once what was claimed too much is
    /// made up for. It never falls.
    #[test]
    fn it_adds_up(seconds in prop::collection::vec((0..100 * W, 0..100 * W, 0..300 * W, any::<bool>()), 2..100)) {
        let mut m = Machine::new();
        let (mut wall, mut before) = (0, 0);
        let mut sums = None;
        for (a, b, w, read) in seconds {
            wall += w;
            m.pass([a, b], read.then_some(wall));
            let parts: u64 = m.zones[..2].iter().map(|z| z.account.total.uj()).sum();
            if read {
                let (wall_then, parts_then) = *sums.get_or_insert((wall, parts));
                let (input, zones) = (wall - wall_then, parts - parts_then);
                prop_assert_eq!(m.rest.total + zones, input + m.rest.owed);
            }
            prop_assert!(m.rest.total >= before);
            before = m.rest.total;
        }
    }
}
