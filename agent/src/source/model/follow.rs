//! A modelled counter that follows the machine's input. Pure.
//!
//! The wall tells exact energy, but seldom and late; the curve tells at once, but roughly. So the curve is scaled to
//! what the wall told lately, and whatever it was off by is made up for until the next reading is due:
//!
//! `total → base + wall + scale · (curve now - curve at the wall's reading)`
//!
//! `base` is set when the first two readings have told the scale, and stays for as long as the wall is followed: the
//! total goes up by what the wall goes up by, to the microjoule. It never steps back: after too high a guess it stands still until the wall has caught up. Where the
//! wall starts over or falls silent, its energy is not known and the scaled curve stands for it.

use std::time::Duration;

use ebbtide_proto::{Energy, Power};

use crate::clock::Moment;
use crate::source::points::Points;
use crate::source::wall::{Fresh, MOST};

/// The curve is not scaled up by more than this; what a machine draws beyond is made up for reading by reading.
const MOST_SCALE: u128 = 16;
/// Time in which a difference is made up for.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Follows the wall.
#[derive(Debug, Default)]
pub(super) struct Follow {
    /// What was told to the sampler.
    total: u64,
    /// What it should be, by all that is known.
    target: i128,
    /// The curve's energy by time (with sleep), for readings that come late.
    curve: Points,
    anchor: Option<Anchor>,
    scale: Scale,
    /// Until when the difference is to be made up for.
    due: u64,
}

/// The wall's last reading.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: u64,
    wall: u64,
    /// The curve's energy at that time.
    curve: u64,
    /// Ours less the wall's.
    base: i128,
    /// Whether there was a reading before it, so that the scale is known.
    counts: bool,
}

/// The wall's energy over the curve's, the older the lighter; one if nothing is known.
#[derive(Clone, Copy, Debug, Default)]
struct Scale {
    wall: u128,
    curve: u128,
}

impl Scale {
    fn learn(&mut self, wall: u64, curve: u64) {
        if curve > 0 {
            let curve = self.curve / 2 + u128::from(curve);
            let wall = self.wall / 2 + u128::from(wall);
            *self = Self { wall: wall.min(curve * MOST_SCALE), curve };
        }
    }

    fn of(self, curve: u64) -> u64 {
        let scaled = (u128::from(curve) * self.wall).checked_div(self.curve);
        scaled.map_or(curve, |s| u64::try_from(s).unwrap_or(u64::MAX))
    }
}

impl Follow {
    /// Moves on to `now`, at which the curve's energy is `curve` and the wall says `wall`, if that is fresh.
    pub(super) fn step(&mut self, now: Moment, curve: Energy, wall: Option<&Fresh>) {
        let (now, curve) = (now.boot, curve.uj());
        let (before, was) = self.curve.last().unwrap_or((now, curve));
        self.curve.push(now, curve);
        match wall {
            None => self.anchor = None,
            Some(fresh) if self.anchor.is_none_or(|a| a.at < fresh.told.at.boot) => {
                self.take(fresh, curve, was);
                let window = u64::try_from(fresh.apart.clamp(SHORTEST, LONGEST).as_nanos()).unwrap_or(u64::MAX);
                self.due = before.saturating_add(window);
            }
            Some(_) => {}
        }
        let guess = self.guess(curve, was);
        self.target = match self.anchor {
            Some(anchor) => self.at_anchor(anchor, curve),
            None => self.target + guess,
        };
        let owed = self.target - guess - i128::from(self.total);
        let passed = i128::from(now.saturating_sub(before));
        let pay = if now >= self.due { owed } else { owed * passed / i128::from((self.due - before).max(1)) };
        self.total = self.total.saturating_add(u64::try_from(guess + pay).unwrap_or(0));
    }

    /// Energy so far.
    pub(super) fn total(&self) -> Energy {
        Energy::from_uj(self.total)
    }

    /// Whether the wall's energy, and not only the curve's, is in what was added last.
    pub(super) fn follows(&self) -> bool {
        self.anchor.is_some_and(|a| a.counts)
    }

    /// `power` of the curve as the wall has it.
    pub(super) fn scaled(&self, power: Power) -> Power {
        Power::from_uw(self.scale.of(power.uw()))
    }

    /// What the total should be, with the curve standing for the time since the wall was read.
    fn at_anchor(&self, anchor: Anchor, curve: u64) -> i128 {
        let since = self.scale.of(curve.saturating_sub(anchor.curve));
        anchor.base + i128::from(anchor.wall) + i128::from(since)
    }

    /// What the scaled curve says of a step.
    fn guess(&self, curve: u64, was: u64) -> i128 {
        i128::from(self.scale.of(curve)) - i128::from(self.scale.of(was.min(curve)))
    }

    /// Takes a new reading, in a step in which the curve goes from `was` to `curve`.
    fn take(&mut self, fresh: &Fresh, curve: u64, was: u64) {
        let (at, wall) = (fresh.told.at.boot, fresh.told.counter.uj());
        let then = self.curve.at(at).unwrap_or(curve);
        // it started over, or is not what it was
        let plausible = |a: &Anchor| {
            let most = MOST.over(Duration::from_nanos(at - a.at));
            wall.checked_sub(a.wall).is_some_and(|added| added <= most.uj())
        };
        let known = self.anchor.filter(plausible);
        if let Some(last) = known {
            self.scale.learn(wall - last.wall, then.saturating_sub(last.curve));
        }
        let mut anchor = Anchor { at, wall, curve: then, base: 0, counts: known.is_some() };
        anchor.base = match known {
            Some(last) if last.counts => last.base,
            // from here on: what the curve said so far can't be mended
            _ => self.target + self.guess(curve, was) - self.at_anchor(anchor, curve),
        };
        self.anchor = Some(anchor);
    }
}

#[cfg(test)]
mod tests;
