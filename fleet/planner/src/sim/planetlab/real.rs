//! The second score on PlanetLab's traces: hosts that take 120 s to boot at full power and 30 s to shut down, stay on for
//! a while once they are, and moves that take their time. Runs in the simulator's own world, where nothing is free.
//!
//! What differs from CloudSim's accounting beside: an idle host draws its idle watts, a VM may use more than one core's
//! worth of its host, the planner is told the mean use of the last 30 s. Memory doesn't bind here either.

use serde::{Deserialize, Serialize};

use super::traces::{INTERVAL_S, Trace};
use super::world::{HOST_TYPES, HostType};
use super::{HOSTS, PlanetlabError, bound, policy};
use crate::policy::{Policy, Risk};
use crate::sim::scenario::{Boot, Kind, NodeType, Scenario, Start, Work};
use crate::sim::world::setup::Setup;
use crate::sim::world::{Who, World, to_milli};

/// Seconds of a boot, at full power.
const BOOT_S: f64 = 120.0;
/// Seconds of a shutdown, without load.
const SHUTDOWN_S: f64 = 30.0;
/// Seconds that a host stays on at least.
const MIN_ON_S: u64 = 900;
/// Times that a host may be switched in a day.
const SWITCHES: u32 = 12;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Kilowatt-hours, boots, shutdowns and moves included.
    pub energy_kwh: f64,
    /// Kilowatt-hours if all demand ran on full hosts of the best type.
    pub bound_kwh: f64,
    /// Work not done, in per cent of work asked for.
    pub unmet_pct: f64,
    /// Moves that were begun.
    pub migrations: u64,
    /// Times that a host went on.
    pub power_ons: u64,
    /// Times that a host went off.
    pub power_offs: u64,
    /// Times that a host went on or off, on average.
    pub switches_per_host: f64,
    /// Times that the most switched host did.
    pub switches_worst_host: u64,
    /// Plans.
    pub plans: u64,
    /// What the checker found in them; nothing.
    pub violations: u64,
    /// VMs.
    pub vms: usize,
}

/// Runs a day with the production planner. `progress` is told seconds simulated and of how many.
///
/// # Errors
/// If the traces or the planner's policy can't be used.
pub fn run(traces: &[Trace], risk: Risk, seed: u64, progress: impl FnMut(u64, u64)) -> Result<Report, PlanetlabError> {
    let setup = Setup::of(&scenario(risk), seed, traces).map_err(super::DriveError::from)?;
    let mut world = World::new(setup, seed, Who::Planner).map_err(super::DriveError::from)?;
    world.run(progress).map_err(super::DriveError::from)?;
    let score = world.score();
    Ok(Report {
        energy_kwh: score.energy_kwh,
        bound_kwh: bound(traces),
        unmet_pct: score.unmet_pct,
        migrations: score.migrations,
        power_ons: score.power_ons,
        power_offs: score.power_offs,
        switches_per_host: score.switches_mean,
        switches_worst_host: score.switches_max,
        plans: score.plans,
        violations: score.violations,
        vms: traces.len(),
    })
}

fn scenario(risk: Risk) -> Scenario {
    let told = Policy { min_on_s: MIN_ON_S, switches_per_day: SWITCHES, ..policy(risk) };
    Scenario {
        about: String::new(),
        kind: Kind::World,
        duration_s: 86_400,
        step_s: 30,
        plan_every_s: to_milli(INTERVAL_S),
        telemetry_every_s: 30,
        start: Start::Packed,
        nodes: HOST_TYPES.iter().enumerate().map(|(i, kind)| hosts(i, kind)).collect(),
        work: vec![Work::traces("vm")],
        faults: crate::sim::scenario::Faults { meter_noise: 0.0, ..Default::default() },
        policy: told,
        carbon: None,
        traces: None,
    }
}

fn hosts(i: usize, kind: &HostType) -> NodeType {
    NodeType {
        name: format!("g{}", i + 4),
        count: u32::try_from(HOSTS / HOST_TYPES.len()).unwrap_or(0),
        cpu: kind.core_mips * kind.cores / 1000.0,
        memory_gib: kind.memory_mb / 1024.0,
        resources: std::collections::BTreeMap::new(),
        watts: kind.watts.to_vec(),
        off_watts: 0.0,
        spread: 0.0,
        curve_error: 0.0,
        pool: String::new(),
        zone: None,
        site: None,
        labels: std::collections::BTreeMap::new(),
        taints: Vec::new(),
        switchable: true,
        boot: Boot { mean_s: BOOT_S, spread_s: 0.0, watts: None, shutdown_s: SHUTDOWN_S },
    }
}
