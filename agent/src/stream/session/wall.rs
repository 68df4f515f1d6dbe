//! What the fleet tells of the machine's input: believed only as far as it makes sense.

use std::time::Duration;

use ebbtide_proto::{Energy, Power, Ratio, v1};

use super::{Command, Session};
use crate::clock::Moment;
use crate::source::wall::{MOST, Told, UNTOLD_ERROR};

/// An older reading says nothing of now.
const OLDEST: Duration = Duration::from_secs(3600);
/// Length of what the meter is called.
const LONGEST_NAME: usize = 100;

impl Session {
    /// Takes a reading. One that makes no sense, or was not asked for, is counted and changes nothing.
    pub(super) fn told(&mut self, now: Moment, wall: &v1::Wall) {
        match reading(now, wall).filter(|_| self.options.takes_wall) {
            Some(told) => {
                self.figures.walls += 1;
                self.commands.push(Command::Wall(told));
            }
            None => self.figures.walls_ignored += 1,
        }
    }
}

/// The reading, if it is one.
fn reading(now: Moment, wall: &v1::Wall) -> Option<Told> {
    let age = Duration::from_millis(u64::from(wall.age_ms));
    let power = Power::from_uw(wall.power_uw);
    if age > OLDEST || power > MOST {
        return None;
    }
    let error = match wall.error_ppm {
        0 => UNTOLD_ERROR,
        ppm => Ratio::from_ppm(ppm.min(1_000_000)),
    };
    let meter: String = wall.source.chars().filter(|c| !c.is_control()).take(LONGEST_NAME).collect();
    let meter = if meter.trim().is_empty() { "a meter of the fleet".to_owned() } else { meter };
    let ns = u64::from(wall.age_ms).saturating_mul(1_000_000);
    let before = |clock: u64| clock.saturating_sub(ns);
    let at = Moment { mono: before(now.mono), boot: before(now.boot), wall: before(now.wall) };
    Some(Told { at, counter: Energy::from_uj(wall.energy_uj), power, error, meter })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn wall(change: impl FnOnce(&mut v1::Wall)) -> v1::Wall {
        let mut wall = v1::Wall {
            energy_uj: 7,
            power_uw: 212_000_000,
            age_ms: 1500,
            error_ppm: 10_000,
            source: "pdu-1/3 + pdu-2/3".into(),
        };
        change(&mut wall);
        wall
    }

    #[test]
    fn a_reading_is_as_old_as_it_says() {
        let now = Moment { mono: 10_000_000_000, boot: 20_000_000_000, wall: 1_000_000_000 };
        let told = reading(now, &wall(|_| {})).unwrap();
        assert_eq!(told.at, Moment { mono: 8_500_000_000, boot: 18_500_000_000, wall: 0 });
        assert_eq!((told.counter.uj(), told.power.uw(), told.error.ppm()), (7, 212_000_000, 10_000));
        assert_eq!(told.meter, "pdu-1/3 + pdu-2/3");
    }

    #[test]
    fn nonsense_is_refused_or_cut_to_size() {
        let read = |change: fn(&mut v1::Wall)| reading(Moment::default(), &wall(change));
        assert_eq!(read(|w| w.power_uw = u64::MAX), None);
        assert_eq!(read(|w| w.age_ms = 3_600_001), None);
        assert_eq!(read(|w| w.error_ppm = 0).unwrap().error, UNTOLD_ERROR);
        assert_eq!(read(|w| w.error_ppm = u32::MAX).unwrap().error.ppm(), 1_000_000);
        assert_eq!(read(|w| w.source = "a\u{1b}\n".repeat(500)).unwrap().meter, "a".repeat(LONGEST_NAME));
        assert_eq!(read(|w| w.source = " \n".into()).unwrap().meter, "a meter of the fleet");
    }
}
