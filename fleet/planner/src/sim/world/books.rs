//! The accounts of a world.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Seconds;
use super::crew::Crew;
use super::machine::Machine;
use crate::check::Violation;
use crate::plan::action::Plan;

/// Joules of a kilowatt-hour.
pub(crate) const KWH: f64 = 3.6e6;

/// Violations that are told in words.
const KEPT: usize = 10;

/// Mean watts from a moment until the next.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Moment {
    /// Seconds since the world began.
    pub at_s: Seconds,
    /// Watts of all nodes.
    pub watts: f64,
    /// Watts that nothing can be below for the work that was done.
    pub bound_w: f64,
}

/// What came of one world.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// Kilowatt-hours of all nodes, boots and moves included.
    pub energy_kwh: f64,
    /// Kilowatt-hours that nothing can be below for the work that was done.
    pub bound_kwh: f64,
    /// Kilowatt-hours of a clairvoyant who packs all work anew at every plan, for free.
    pub oracle_kwh: f64,
    /// Share of what services asked for that they weren't given, in per cent.
    pub unmet_pct: f64,
    /// Workloads that came.
    pub workloads: u64,
    /// Those that ever ran.
    pub served: u64,
    /// Those that wait at the end.
    pub waiting: u64,
    /// Mean seconds that workloads waited for a node.
    pub wait_mean_s: f64,
    /// Longest wait in seconds.
    pub wait_max_s: u64,
    /// Moves that were begun.
    pub migrations: u64,
    /// Kilowatt-hours of moves.
    pub migration_kwh: f64,
    /// Moves per workload and day.
    pub churn: f64,
    /// Boots that worked.
    pub power_ons: u64,
    /// Shutdowns.
    pub power_offs: u64,
    /// Boots that failed.
    pub wake_failures: u64,
    /// Nodes given up for a while because no boot worked.
    pub given_up: u64,
    /// Times that a node went on or off, on average.
    pub switches_mean: f64,
    /// Times that the most switched node went on or off.
    pub switches_max: u64,
    /// Plans that were made.
    pub plans: u64,
    /// Those with nothing to do.
    pub plans_empty: u64,
    /// How far above their bound plans led, on average, in per cent.
    pub gap_mean_pct: f64,
    /// What the checker found in all plans; nothing.
    pub violations: u64,
    /// The first of these, in words.
    pub found: Vec<String>,
    /// Actions that came to nothing: what they needed failed, or the world had changed.
    pub dropped: u64,
    /// Frames that were lost.
    pub lost_frames: u64,
}

#[derive(Default)]
pub(super) struct Books {
    pub(super) came: u64,
    pub(super) ended: u64,
    pub(super) migrations: u64,
    pub(super) move_j: f64,
    pub(super) power_ons: u64,
    pub(super) power_offs: u64,
    pub(super) wake_failures: u64,
    pub(super) given_up: u64,
    pub(super) dropped: u64,
    pub(super) lost_frames: u64,
    /// Watts of the clairvoyant, as of the latest plan.
    pub(super) oracle_w: f64,
    bound_j: f64,
    oracle_j: f64,
    asked: f64,
    given: f64,
    plans: u64,
    empty: u64,
    gaps: f64,
    violations: u64,
    found: Vec<String>,
    /// Mean watts between plans.
    pub(super) moments: Vec<Moment>,
    /// Joules of each site by hour.
    pub(super) sites: BTreeMap<String, Vec<f64>>,
}

impl Books {
    pub(super) fn plan(&mut self, plan: &Plan, found: &[Violation]) {
        self.plans += 1;
        self.empty += u64::from(plan.is_empty());
        self.gaps += plan.gap();
        self.violations += found.len() as u64;
        self.found.extend(found.iter().take(KEPT.saturating_sub(self.found.len())).map(|v| v.what.clone()));
    }

    /// Books a step: watts and bound, and what services asked for and were given.
    pub(super) fn step(
        &mut self,
        machines: &[Machine],
        now: Seconds,
        step_s: u64,
        every_s: u64,
        (watts, bound_w): (f64, f64),
        (asked, given): (f64, f64),
    ) {
        let s = step_s as f64;
        self.bound_j += bound_w * s;
        self.oracle_j += self.oracle_w * s;
        self.asked += asked * s;
        self.given += given * s;
        if now.is_multiple_of(every_s) {
            self.moments.push(Moment { at_s: now, watts: 0.0, bound_w: 0.0 });
        }
        if let Some(last) = self.moments.last_mut() {
            let share = s / every_s as f64;
            last.watts += watts * share;
            last.bound_w += bound_w * share;
        }
        let hour = usize::try_from(now / 3600).unwrap_or(usize::MAX);
        for machine in machines {
            let Some(site) = &machine.spec.site else { continue };
            if !self.sites.contains_key(site) {
                self.sites.insert(site.clone(), Vec::new());
            }
            if let Some(hours) = self.sites.get_mut(site) {
                if hours.len() <= hour {
                    hours.resize(hour + 1, 0.0);
                }
                hours[hour] += machine.watts * s;
            }
        }
    }

    pub(super) fn score(&self, machines: &[Machine], crew: &Crew, now: Seconds) -> Score {
        let waits = || crew.all.iter().map(|m| m.waited_s);
        let count = crew.all.len().max(1) as f64;
        let switches = || machines.iter().map(|m| m.switches);
        let days = (now as f64 / 86_400.0).max(1e-9);
        let running = (crew.here.len().max(1)) as f64;
        Score {
            energy_kwh: machines.iter().map(|m| m.joules).sum::<f64>() / KWH,
            bound_kwh: self.bound_j / KWH,
            oracle_kwh: self.oracle_j / KWH,
            unmet_pct: if self.asked > 0.0 { (1.0 - self.given / self.asked).max(0.0) * 100.0 } else { 0.0 },
            workloads: self.came,
            served: crew.all.iter().filter(|m| m.placed.is_some()).count() as u64,
            waiting: crew.here.iter().filter(|&&w| crew.all[w].on.is_none()).count() as u64,
            wait_mean_s: waits().sum::<u64>() as f64 / count,
            wait_max_s: waits().max().unwrap_or(0),
            migrations: self.migrations,
            migration_kwh: self.move_j / KWH,
            churn: self.migrations as f64 / running / days,
            power_ons: self.power_ons,
            power_offs: self.power_offs,
            wake_failures: self.wake_failures,
            given_up: self.given_up,
            switches_mean: switches().sum::<u64>() as f64 / machines.len().max(1) as f64,
            switches_max: switches().max().unwrap_or(0),
            plans: self.plans,
            plans_empty: self.empty,
            gap_mean_pct: self.gaps / self.plans.max(1) as f64 * 100.0,
            violations: self.violations,
            found: self.found.clone(),
            dropped: self.dropped,
            lost_frames: self.lost_frames,
        }
    }
}
