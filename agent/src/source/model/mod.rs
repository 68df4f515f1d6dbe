//! A machine without a sensor: power modelled from its processors' load, always labelled as such.
//!
//! `machine` tells what it is, `estimate` which curve it follows and how far that may be off, with the
//! figures of `table`; `load` reads how busy it is. The one zone, `model/cpu`, is the integral of the
//! curve over the load. It stands for the whole machine as published results measured it at the wall
//! (processors, memory, board, fans, supply losses; no accelerators), or for a guest's share of that.
//! Where the fleet tells what the machine draws at its outlet, `follow` makes the zone add up to that.

pub mod cpu;
pub mod curve;
pub mod estimate;
mod follow;
pub mod load;
pub mod machine;
pub mod table;

use std::path::PathBuf;
use std::time::Duration;

use ebbtide_proto::{Energy, Power, ZoneId};
use serde::Deserialize;

pub use self::cpu::{CpuInfo, idle_share_prior};
pub use self::curve::Curve;
pub use self::estimate::Estimate;

use self::follow::Follow;
use self::load::CpuTimes;
use self::machine::Machine;
use super::wall::{self, WallFeed};
use super::{CounterShape, Found, Quality, ReadError, Reading, Source, SourceKind, Zone, ZoneKind};
use crate::clock::Moment;
use crate::host::{self, HostRoot};

/// What the operator knows of the machine: its power without load and at full load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelOverride {
    /// Power without load.
    pub idle: Power,
    /// Power with all CPUs busy.
    pub full: Power,
}

/// The modelled zone of a machine.
pub struct ModelSource {
    zones: Vec<Zone>,
    stat: PathBuf,
    estimate: Estimate,
    /// CPUs online at the start; the estimate is for these.
    cpus: usize,
    last: Option<(Moment, CpuTimes)>,
    integral: Integral,
    wall: Option<Wall>,
}

/// The machine's input, and what follows it.
struct Wall {
    feed: WallFeed,
    follow: Follow,
}

/// Energy as the sum of power times time, with what is less than a microjoule carried on.
#[derive(Clone, Copy, Debug, Default)]
struct Integral {
    total: Energy,
    /// In µW·ns, less than one microjoule.
    carry: u128,
}

/// A µJ in µW·ns.
const UNITS_PER_UJ: u128 = 1_000_000_000;

/// The ticks of `/proc/stat` come every 1 to 10 ms; if none has come for this long, they stand still.
const LONGEST_TICK: Duration = Duration::from_secs(1);

impl Integral {
    fn add(&mut self, power: Power, dt: Duration) {
        let units = u128::from(power.uw()).saturating_mul(dt.as_nanos()).saturating_add(self.carry);
        self.total += Energy::from_uj(u64::try_from(units / UNITS_PER_UJ).unwrap_or(u64::MAX));
        self.carry = units % UNITS_PER_UJ;
    }
}

impl ModelSource {
    /// The modelled zone of the machine below `host`, whose CPU times were `first`. Fails only if the
    /// name of the zone were refused.
    fn new(
        host: &HostRoot,
        estimate: Estimate,
        first: &CpuTimes,
        feed: Option<&WallFeed>,
    ) -> Result<Self, ebbtide_proto::id::IdError> {
        let stat = host.proc("stat");
        let by_curve = Power::from_uw(estimate.curve.full().uw().saturating_mul(2));
        let wall = feed.map(|feed| Wall { feed: feed.clone(), follow: Follow::default() });
        let zone = Zone {
            id: ZoneId::new("model/cpu")?,
            name: "cpu".to_owned(),
            kind: ZoneKind::Package,
            parent: None,
            socket: None,
            source: SourceKind::Model,
            path: stat.display().to_string(),
            quality: Quality::Modelled,
            error: estimate.error,
            // the wall may tell of more than the curve knows
            counter: CounterShape { range: None, max_power: if wall.is_some() { wall::MOST } else { by_curve } },
            idle: Some(estimate.curve.idle()),
        };
        let integral = Integral::default();
        Ok(Self { zones: vec![zone], stat, estimate, cpus: first.len(), last: None, integral, wall })
    }

    /// What was recognised and what power that gives.
    pub fn estimate(&self) -> &Estimate {
        &self.estimate
    }

    /// Moves on to `now`, at which the CPU times are `times`.
    ///
    /// Power is that of the mean load since the last reading; the curve is not straight, so that a load
    /// which swings from none to full between two readings is off by about a tenth.
    /// Time asleep doesn't count: what a sleeping machine draws is not on the curve.
    fn step(&mut self, now: Moment, times: CpuTimes) -> Result<Reading, ReadError> {
        if let Some((before, was)) = &self.last {
            let dt = now.since(*before);
            let load = times.load_since(was, self.cpus);
            if load.total == 0 {
                // too soon for a tick; the next reading covers this time too
                return if dt < LONGEST_TICK {
                    Ok(self.reading(now))
                } else {
                    Err(self.absent("CPU times stand still"))
                };
            }
            self.integral.add(self.estimate.curve.at(load), dt);
        }
        self.last = Some((now, times));
        self.follow(now);
        Ok(self.reading(now))
    }

    /// Lets the wall correct what the curve says, and says how good that is.
    fn follow(&mut self, now: Moment) {
        let (Some(Wall { feed, follow }), Some(zone)) = (&mut self.wall, self.zones.first_mut()) else { return };
        let fresh = feed.read(now).ok();
        follow.step(now, self.integral.total, fresh.as_ref());
        match fresh.filter(|_| follow.follows()) {
            Some(fresh) => {
                // idle power is learned: the curve's scale is not its shape
                (zone.quality, zone.error, zone.idle) = (Quality::Scaled, fresh.told.error, None);
            }
            None => {
                let idle = follow.scaled(self.estimate.curve.idle());
                (zone.quality, zone.error, zone.idle) = (Quality::Modelled, self.estimate.error, Some(idle));
            }
        }
    }

    fn reading(&self, at: Moment) -> Reading {
        Reading { at, counter: self.wall.as_ref().map_or(self.integral.total, |wall| wall.follow.total()) }
    }

    fn absent(&self, why: &str) -> ReadError {
        ReadError::Absent { path: self.stat.display().to_string(), why: why.to_owned() }
    }
}

impl Source for ModelSource {
    fn zones(&self) -> &[Zone] {
        &self.zones
    }

    /// A reading that fails costs no energy: the next good one covers the time since the last good one.
    fn read(&mut self, now: Moment, out: &mut Vec<Result<Reading, ReadError>>) {
        let result = match host::read_text(&self.stat) {
            Ok(text) => match CpuTimes::parse(&text) {
                times if times.is_empty() => Err(self.absent("it has no CPU times")),
                times => self.step(now, times),
            },
            Err(source) => Err(ReadError::Io { path: self.stat.display().to_string(), source }),
        };
        out.push(result);
    }
}

/// The modelled zone of the machine below `host`, or why there can be none. Needs `/proc/stat`; all else
/// that can't be read only makes the estimate wider. It follows `wall` while that is fresh.
pub fn source(host: &HostRoot, given: Option<ModelOverride>, wall: Option<&WallFeed>) -> Result<ModelSource, String> {
    let stat = host.proc("stat");
    let text = host::read_text(&stat).map_err(|e| format!("can't read {}: {e}", stat.display()))?;
    let first = CpuTimes::parse(&text);
    if first.is_empty() {
        return Err(format!("{} has no CPU times", stat.display()));
    }
    let estimate = estimate::estimate(&Machine::read(host, &first), given);
    ModelSource::new(host, estimate, &first, wall).map_err(|e| e.to_string())
}

/// The modelled zone as discovery reports it.
pub fn discover(host: &HostRoot, given: Option<ModelOverride>, wall: Option<&WallFeed>) -> Found {
    let mut found = Found::default();
    match source(host, given, wall) {
        Ok(model) => found.sources.push(Box::new(model)),
        Err(why) => found.skip("model", why, Some("make the host's /proc readable below the agent's root")),
    }
    found
}

/// One sentence for `zones` and `check`: what was recognised, and what power that gives.
pub fn describe(host: &HostRoot, given: Option<ModelOverride>) -> String {
    match source(host, given, None) {
        Ok(model) => model.estimate().to_string(),
        Err(why) => format!("no model: {why}"),
    }
}

#[cfg(test)]
mod tests;
