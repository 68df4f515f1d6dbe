//! PlanetLab's traces in CloudSim's accounting: published policies as a yardstick, and the production planner beside
//! them on the same hosts.
//!
//! The published policies lose VMs, as the reference code does: one that asks for nothing at the moment of a decision
//! is taken for finished, with all that it would ask for later. The planner has no such relief: it serves all demand.

pub mod baseline;
pub mod driver;
pub mod real;
pub mod traces;
pub mod world;

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::check::check;
use crate::model::boot::BootModel;
use crate::policy::{Basis, Policy, Risk};
use baseline::{Overload, optimise, place_best_fit, place_first_fit};
use driver::{DriveError, Driver};
use traces::{INTERVAL_S, SAMPLES, Trace, TraceError};
use world::{HOST_TYPES, World};

/// Hosts of the published experiments.
const HOSTS: usize = 800;
/// Seconds at which VMs begin to work.
const START_S: f64 = 0.1;
/// Seconds of the experiment.
const END_S: f64 = 86_400.0;
/// Joules of a kilowatt-hour.
const KWH: f64 = 3.6e6;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    /// All hosts on at full power.
    Npa,
    /// First fit, no migration.
    Dvfs,
    /// Threshold 0.8, minimum migration time.
    #[serde(rename = "thr-mmt-0.8")]
    ThrMmt,
    /// Local regression 1.2, minimum migration time.
    #[serde(rename = "lr-mmt-1.2")]
    LrMmt,
    /// The production planner.
    Ebbtide,
}

/// A policy that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no policy {0:?}: npa, dvfs, thr-mmt-0.8, lr-mmt-1.2 and ebbtide are known")]
pub struct UnknownPolicy(String);

impl FromStr for Who {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "npa" => Ok(Self::Npa),
            "dvfs" => Ok(Self::Dvfs),
            "thr-mmt-0.8" => Ok(Self::ThrMmt),
            "lr-mmt-1.2" => Ok(Self::LrMmt),
            "ebbtide" => Ok(Self::Ebbtide),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder with one file per VM.
    pub traces: PathBuf,
    /// Who decides.
    pub policy: Who,
    /// How much demand may wait; for the planner.
    pub risk: Risk,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Kilowatt-hours in CloudSim's accounting.
    pub energy_kwh: f64,
    /// Migrations that were started.
    pub migrations: u64,
    /// SLATAH times PDM, in per cent.
    pub slav_pct: f64,
    /// Time of active hosts with less given than asked, in per cent.
    pub slatah_pct: f64,
    /// Work lost to migrations, in per cent of work asked for.
    pub pdm_pct: f64,
    /// Work not done, in per cent of work asked for.
    pub unmet_pct: f64,
    /// Kilowatt-hours if all demand ran on full hosts of the best type.
    pub bound_kwh: f64,
    /// Times that a host went on or off.
    pub switches: u64,
    /// Milliseconds that a decision took on average, if the caller measured them.
    pub decision_ms_mean: f64,
    /// What the checker found in all plans; nothing.
    pub violations: u64,
    /// VMs.
    pub vms: usize,
    /// VMs taken for finished before the end.
    pub finished: usize,
    /// The second score: kilowatt-hours if a boot takes 120 s at full power and a shutdown 30 s without load.
    pub energy_with_boots_kwh: f64,
    /// The second score: work not done, in per cent, if hosts take no work while they boot.
    pub unmet_with_boots_pct: f64,
    /// Times that the most switched host went on or off.
    pub switches_worst_host: u64,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum PlanetlabError {
    /// The traces can't be used.
    #[error(transparent)]
    Traces(#[from] TraceError),
    /// The planner can't be driven.
    #[error(transparent)]
    Drive(#[from] DriveError),
}

/// What the planner is told for these experiments: forecasts instead of requests, and windows as long as a few
/// decisions. Nothing in it was made for one day.
pub fn policy(risk: Risk) -> Policy {
    let low = risk == Risk::Low;
    Policy {
        basis: Basis::Forecast,
        risk,
        disruption_j: if low { 9000.0 } else { 4000.0 },
        min_on_s: 0,
        min_off_s: 0,
        sleep_after_s: if low { 300 } else { 600 },
        min_stay_s: 0,
        switches_per_day: 48,
        stale_after_s: 3600,
        ..Policy::default()
    }
}

/// Runs a day. `progress` is told the decisions made so far and of how many, before each; `clock` gives milliseconds
/// from any start and is only used to tell how long decisions take.
///
/// # Errors
/// [`PlanetlabError::Traces`] if the folder can't be used.
pub fn run(
    options: &Options,
    progress: impl FnMut(usize, usize),
    clock: impl FnMut() -> f64,
) -> Result<Report, PlanetlabError> {
    run_day(traces::read(&options.traces)?, options, progress, clock)
}

fn run_day(
    traces: Vec<Trace>,
    options: &Options,
    mut progress: impl FnMut(usize, usize),
    mut clock: impl FnMut() -> f64,
) -> Result<Report, PlanetlabError> {
    let bound_kwh = bound(&traces);
    let vms = traces.len();
    let reference = options.policy != Who::Ebbtide;
    let mut world = World::new(traces, HOSTS, reference);
    let overload = match options.policy {
        Who::ThrMmt => Some(Overload::Threshold(0.8)),
        Who::LrMmt => Some(Overload::Regression(1.2)),
        _ => None,
    };
    let mut driver = None;
    match (options.policy, overload) {
        (Who::Ebbtide, _) => {
            let policy = policy(options.risk);
            // hosts switch at once and for nothing in this accounting
            let mut own = Driver::new(&world, policy, BootModel::guess(0.1, 0.0, 0.0))?;
            own.start(&mut world)?;
            driver = Some(own);
        }
        (_, Some(overload)) => place_best_fit(&mut world, overload),
        _ => place_first_fit(&mut world),
    }
    let total = SAMPLES - 1;
    let (mut ms, mut decisions, mut violations) = (0.0, 0, 0);
    let mut now = START_S;
    loop {
        now += INTERVAL_S;
        if now > END_S {
            break;
        }
        progress(decisions, total);
        world.advance(now);
        let before = clock();
        let moves = match (&mut driver, overload) {
            (Some(own), _) => {
                let decision = own.decide(&world)?;
                ms += clock() - before;
                violations += check(&decision.plan, &decision.known, &own.policy).len() as u64;
                decision.moves
            }
            (None, Some(overload)) => optimise(&world, overload),
            (None, None) => Vec::new(),
        };
        if driver.is_none() {
            ms += clock() - before;
        }
        decisions += 1;
        world.migrate(&moves);
    }
    let last = world.now;
    world.finish();
    let books = &world.books;
    // hosts that are always on neither boot nor switch, whatever runs on them
    let all_on = (options.policy == Who::Npa).then(|| HOST_TYPES[0].watts[10] + HOST_TYPES[1].watts[10]);
    let joules = all_on.map_or(books.joules, |pair| pair * (HOSTS / 2) as f64 * last);
    let boots = if all_on.is_some() { world::Boots::default() } else { books.boots() };
    let switched = |times: u64| if all_on.is_some() { 0 } else { times };
    Ok(Report {
        energy_kwh: joules / KWH,
        migrations: books.migrations,
        slav_pct: books.slatah() * books.pdm() * 100.0,
        slatah_pct: books.slatah() * 100.0,
        pdm_pct: books.pdm() * 100.0,
        unmet_pct: books.unmet() * 100.0,
        bound_kwh,
        switches: switched(books.starts + books.shutdowns),
        decision_ms_mean: ms / f64::from(u32::try_from(decisions.max(1)).unwrap_or(1)),
        violations,
        vms,
        finished: world.vms.iter().filter(|v| v.host.is_none()).count(),
        energy_with_boots_kwh: (joules + boots.joules) / KWH,
        unmet_with_boots_pct: books.unmet_with(boots.waiting) * 100.0,
        switches_worst_host: switched(world.hosts.iter().map(|h| h.switches).max().unwrap_or(0)),
    })
}

/// Kilowatt-hours if, at each sample, all demand ran on full hosts of the type that does most per watt.
fn bound(traces: &[Trace]) -> f64 {
    let per_mips = |t: &world::HostType| t.watts[10] / (t.core_mips * t.cores);
    let best = HOST_TYPES.iter().map(per_mips).fold(f64::INFINITY, f64::min);
    let at = |k: usize| traces.iter().map(|t| t.points[k] * t.mips).sum::<f64>();
    (0..SAMPLES).map(at).sum::<f64>() * best * INTERVAL_S / KWH
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// A day of one VM of each type, each half busy.
    fn half_busy(policy: Who) -> Report {
        let traces = traces::typed(vec![vec![0.5; SAMPLES + 1]; 4]);
        let options = Options { traces: PathBuf::new(), policy, risk: Risk::Low };
        run_day(traces, &options, |_, _| {}, || 0.0).unwrap()
    }

    #[test]
    fn all_on_is_what_was_published_whatever_runs() {
        // 400 hosts of 117 W and 400 of 135 W until the last decision, at 86,100.1 s: 2410.80 kWh as CloudSim has it
        let report = half_busy(Who::Npa);
        assert!((report.energy_kwh - 252.0 * 400.0 * 86_100.1 / KWH).abs() < 1e-9, "{report:?}");
        assert!((report.energy_kwh - 2410.80).abs() < 0.005, "{report:?}");
        assert!((report.energy_with_boots_kwh - report.energy_kwh).abs() < 1e-9 && report.switches == 0, "{report:?}");
    }

    #[test]
    fn first_fit_draws_what_its_two_hosts_draw_at_their_loads() {
        let report = half_busy(Who::Dvfs);
        // the two large VMs need the faster cores of host 1, 2250 of 5320 MIPS: 42.3 % lies between 110 W and 116 W;
        // the small ones are on host 0, 750 of 3720 MIPS: 20.2 % lies between 92.6 W and 96 W
        let watts = 110.0 + 6.0 * (2250.0 / 532.0 - 4.0) + 92.6 + 3.4 * (750.0 / 372.0 - 2.0);
        // nothing is spent before the first decision, at 300.1 s
        assert!((report.energy_kwh - watts * 85_800.0 / KWH).abs() < 1e-6, "{report:?}");
        assert_eq!((report.migrations, report.vms), (0, 4));
        assert!(report.unmet_pct.abs() < 1e-9 && report.slav_pct.abs() < 1e-12, "{report:?}");
    }
}
