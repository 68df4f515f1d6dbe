//! The whole machine at its outlets or its BMC, as the fleet reads it and tells it over the stream.

use ebbtide_proto::ZoneId;

use super::wall::{MOST, Silence, WallFeed};
use super::{CounterShape, Found, Quality, ReadError, Reading, Source, SourceKind, Zone, ZoneKind};
use crate::clock::Moment;

/// What stands for the meter as long as none is known.
const NOBODY: &str = "the fleet";

/// The wall as the fleet tells it.
pub struct Outlet {
    feed: WallFeed,
    zones: [Zone; 1],
}

impl Outlet {
    /// Of what `feed` is told. Fails only if the name of the zone were refused.
    fn new(feed: WallFeed) -> Result<Self, ebbtide_proto::id::IdError> {
        let zone = Zone {
            id: ZoneId::new("outlet/wall")?,
            name: "wall".into(),
            kind: ZoneKind::Wall,
            parent: None,
            socket: None,
            source: SourceKind::Outlet,
            path: NOBODY.into(),
            quality: Quality::Measured,
            error: super::wall::UNTOLD_ERROR,
            counter: CounterShape { range: None, max_power: MOST },
            idle: None,
        };
        Ok(Self { feed, zones: [zone] })
    }
}

impl Source for Outlet {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// The reading keeps its time until there is a new one.
    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        let [zone] = &mut self.zones;
        let why = match self.feed.read(now) {
            Ok(fresh) => {
                zone.error = fresh.told.error;
                if zone.path != fresh.told.meter {
                    zone.path.clone_from(&fresh.told.meter);
                }
                out.push(Ok(Reading { at: fresh.told.at, counter: fresh.told.counter }));
                return;
            }
            Err(Silence::Never) => {
                "it told nothing yet; give this node an outlet or a BMC in the fleet daemon's configuration".to_owned()
            }
            Err(Silence::Stale(age)) => {
                format!("its last reading is {} s old; is the stream up, does the PDU or BMC answer?", age.as_secs())
            }
        };
        out.push(Err(ReadError::Absent { path: zone.path.clone(), why }));
    }
}

/// The zone as discovery reports it.
pub fn discover(feed: &WallFeed) -> Found {
    let mut found = Found::default();
    match Outlet::new(feed.clone()) {
        Ok(outlet) => found.sources.push(Box::new(outlet)),
        Err(e) => found.skip("outlet", e.to_string(), None),
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::super::wall::told;
    use super::*;
    use crate::counter::{Counter, Gap};

    fn read(outlet: &mut dyn Source, ms: u64) -> Result<Reading, String> {
        let mut out = Vec::new();
        outlet.read(Moment::default().plus(Duration::from_millis(ms)), &mut out);
        assert_eq!(out.len(), 1);
        out.remove(0).map_err(|e| e.to_string())
    }

    #[test]
    fn it_is_absent_until_it_is_told_and_when_that_gets_old() {
        let feed = WallFeed::default();
        let mut outlet = discover(&feed).sources.remove(0);
        let said = read(&mut *outlet, 0).unwrap_err();
        assert!(
            said.starts_with("the fleet has no figure now: it told nothing yet; give this node an outlet"),
            "{said}"
        );
        feed.tell(told(1000, 500, 7));
        let first = read(&mut *outlet, 2000).unwrap();
        assert_eq!((first.at.mono, first.counter.uj()), (1_000_000_000, 500));
        assert_eq!(read(&mut *outlet, 3000).unwrap(), first, "the same until a new one comes");
        let zone = &outlet.zones()[0];
        assert_eq!((zone.path.as_str(), zone.error.ppm(), zone.quality), ("pdu-1/3", 20_000, Quality::Measured));
        let said = read(&mut *outlet, 95_000).unwrap_err();
        assert!(said.starts_with("pdu-1/3 has no figure now: its last reading is 94 s old"), "{said}");
    }

    #[test]
    fn a_fleet_that_starts_over_is_a_gap_and_no_energy() {
        let feed = WallFeed::default();
        let mut outlet = discover(&feed).sources.remove(0);
        let mut counter = Counter::new(outlet.zones()[0].counter);
        let mut steps = Vec::new();
        for (s, joules) in [(0, 900), (5, 950), (10, 5), (15, 60)] {
            feed.tell(told(s * 1000, joules * 1_000_000, 10));
            for late in [100, 2100] {
                steps.extend(counter.step(read(&mut *outlet, s * 1000 + late).unwrap()));
            }
        }
        let told: Vec<_> = steps.iter().map(|s| (s.energy.uj() / 1_000_000, s.gap)).collect();
        assert_eq!(told, [(50, None), (0, Some(Gap::Reset)), (55, None)]);
    }
}
