//! What the fleet tells of this machine's outlets or BMC: the last reading, and whether it is fresh.
//!
//! The stream puts readings in, sources look at the last one. Readings may come late, twice, in any order, and from a
//! daemon that started over: what is older than the last one, or says the same again, changes nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ebbtide_proto::{Energy, Power, Ratio};

use crate::clock::Moment;

/// More than any single machine draws.
pub const MOST: Power = Power::from_uw(100_000_000_000);

/// What a meter whose error is not told may be off by: cheap plugs and BMCs are about this good.
pub const UNTOLD_ERROR: Ratio = Ratio::from_percent(5);

/// Silence is no sign of trouble for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Readings are not expected further apart than this.
const LONGEST: Duration = Duration::from_secs(600);
/// The same reading told again may seem this much younger, for the network's sake.
const JITTER: Duration = Duration::from_secs(1);

/// One reading of the whole machine's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When the meter was read.
    pub at: Moment,
    /// Energy since some time in the past; starts over with the fleet daemon.
    pub counter: Energy,
    /// Power at that moment.
    pub power: Power,
    /// Largest relative error.
    pub error: Ratio,
    /// Which meter, for people: `pdu-1/3 + pdu-2/3`.
    pub meter: String,
}

/// Why there is no fresh reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing was ever told.
    Never,
    /// The last reading is this old.
    Stale(Duration),
}

/// A reading that can be relied on, and how far apart readings are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fresh {
    /// The last reading.
    pub told: Arc<Told>,
    /// Usual time from one reading to the next; zero until there were two.
    pub apart: Duration,
}

/// Where readings are put and found. Cloning gives another handle on the same place.
#[derive(Clone, Debug, Default)]
pub struct WallFeed(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    last: Option<Arc<Told>>,
    /// When the meter last said what `last` says.
    confirmed: Moment,
    apart: Duration,
}

impl WallFeed {
    /// Takes a reading; whether it was news.
    pub fn tell(&self, told: Told) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = state.last.clone() else {
            state.confirmed = told.at;
            state.last = Some(Arc::new(told));
            return true;
        };
        // a counter that stands still while power flows is the same reading, or counts in steps that are larger
        let same = told.counter == last.counter && told.power > Power::ZERO;
        if told.at.boot <= last.at.boot || (same && told.at.boot <= state.confirmed.boot) {
            return false;
        }
        let passed = told.at.since_with_sleep(state.confirmed);
        state.confirmed = state.confirmed.max(told.at);
        if !same || passed > JITTER {
            state.note(passed);
        }
        if !same {
            state.last = Some(Arc::new(told));
        }
        !same
    }

    /// The last reading, if it can be relied on at `now`: not older than three times what is usual, or 30 seconds.
    pub fn read(&self, now: Moment) -> Result<Fresh, Silence> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let told = state.last.as_ref().ok_or(Silence::Never)?;
        let age = now.since_with_sleep(state.confirmed);
        if age > PATIENCE.max(state.apart * 3) {
            return Err(Silence::Stale(age));
        }
        Ok(Fresh { told: Arc::clone(told), apart: state.apart })
    }
}

impl State {
    /// Readings came this far apart: one long silence doesn't change what is usual by much.
    fn note(&mut self, passed: Duration) {
        self.apart = match self.apart {
            Duration::ZERO => passed.min(LONGEST),
            usual => (usual * 3 + passed.min(usual * 4)) / 4,
        };
        self.apart = self.apart.min(LONGEST);
    }
}

/// A reading for tests: so many seconds after the epoch of the clocks, so many microjoules, watts.
#[cfg(test)]
pub(crate) fn told(ms: u64, uj: u64, watts: u64) -> Told {
    Told {
        at: Moment::default().plus(Duration::from_millis(ms)),
        counter: Energy::from_uj(uj),
        power: Power::from_uw(watts * 1_000_000),
        error: Ratio::from_percent(2),
        meter: "pdu-1/3".into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Moment {
        Moment::default().plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_reading_is_fresh_for_thirty_seconds_or_three_times_the_usual() {
        let feed = WallFeed::default();
        assert_eq!(feed.read(at(0)), Err(Silence::Never));
        assert!(feed.tell(told(10_000, 100, 5)));
        assert!(feed.read(at(40_000)).is_ok());
        assert_eq!(feed.read(at(40_001)), Err(Silence::Stale(Duration::from_millis(30_001))));
        // one each 20 s
        assert!(feed.tell(told(30_000, 200, 5)) && feed.tell(told(50_000, 300, 5)));
        let fresh = feed.read(at(110_000)).unwrap();
        assert_eq!((fresh.apart, fresh.told.counter.uj()), (Duration::from_secs(20), 300));
        assert!(feed.read(at(110_001)).is_err());
        // after a day of silence a day is not what is usual
        assert!(feed.tell(told(86_400_000, 400, 5)));
        assert_eq!(feed.read(at(86_400_000)).unwrap().apart, Duration::from_secs(35));
    }

    #[test]
    fn a_meter_that_counts_in_large_steps_is_not_silent() {
        let feed = WallFeed::default();
        for s in 0..30 {
            // a step of 0.1 kWh after 200 s
            assert_eq!(feed.tell(told(s * 10_000, 360_000_000_000 * (1 + s / 20), 1800)), s % 20 == 0);
        }
        let fresh = feed.read(at(310_000)).unwrap();
        assert_eq!((fresh.told.at, fresh.apart), (at(200_000), Duration::from_secs(10)));
        // the same answer told over and over grows old
        feed.tell(told(290_100, 720_000_000_000, 1800));
        assert!(feed.read(at(290_100 + 30_001)).is_err());
    }

    proptest! {
        /// Whatever the order in which readings come, and how often: the youngest is the last.
        #[test]
        fn order_and_repetition_do_not_matter(
            order in prop::collection::vec(0..20u64, 1..60),
        ) {
            let feed = WallFeed::default();
            for n in &order {
                feed.tell(told(n * 1000, 7_000_000 * n, 7));
            }
            let youngest = order.iter().max().unwrap();
            let fresh = feed.read(at(youngest * 1000)).unwrap();
            prop_assert_eq!(fresh.told.counter.uj(), 7_000_000 * youngest);
        }
    }
}
