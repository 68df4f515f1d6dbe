//! Machines as they truly are: their power, their boots, what is really on them.

use super::setup::MachineSpec;
use super::{Seconds, to_milli};
use crate::sim::rng::Rng;
use crate::sim::stream::{normal, stream};
use crate::state::node::PowerState;
use crate::state::resources::Resources;

/// One machine.
pub(super) struct Machine {
    pub(super) spec: MachineSpec,
    pub(super) power: PowerState,
    /// Closed by the executor: it is being emptied, or was given up for a while.
    pub(super) closed: bool,
    /// What is set aside on it, work on the way in included.
    pub(super) held: Resources,
    /// Workloads on it or on the way in.
    pub(super) tenants: usize,
    /// Thousandths of a CPU that were asked for, and given, in the last step.
    pub(super) asked: f64,
    pub(super) given: f64,
    /// Watts of the last step.
    pub(super) watts: f64,
    pub(super) joules: f64,
    pub(super) switches: u64,
    boots: Rng,
    pub(super) meter: Rng,
    pub(super) frames: Rng,
}

/// One try to boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub(super) seconds: f64,
    pub(super) joules: f64,
    pub(super) works: bool,
}

impl Machine {
    pub(super) fn new(spec: MachineSpec, seed: u64) -> Self {
        let name = spec.node.id.as_str();
        let of = |concern| stream(seed, concern, name);
        let (boots, meter, frames) = (of("boot"), of("meter"), of("frames"));
        let power = spec.node.power;
        Self {
            spec,
            power,
            closed: false,
            held: Resources::default(),
            tenants: 0,
            asked: 0.0,
            given: 0.0,
            watts: 0.0,
            joules: 0.0,
            switches: 0,
            boots,
            meter,
            frames,
        }
    }

    /// Thousandths of a CPU that it has for work.
    pub(super) fn room_milli(&self) -> f64 {
        self.spec.node.allocatable().cpu_milli as f64
    }

    /// Draws how the next boot goes. Three numbers of the stream are used whatever comes of it.
    pub(super) fn draw_boot(&mut self, failure: f64) -> Boot {
        let (mean, spread) = self.spec.boot_s;
        let seconds = (mean + spread * normal(&mut self.boots)).clamp(mean / 3.0, mean * 4.0);
        let works = self.boots.unit() >= failure;
        Boot { seconds, joules: seconds * self.spec.boot_watts, works }
    }

    /// Watts in its present state, with `given` thousandths of a CPU in use.
    pub(super) fn draws(&self, given: f64) -> f64 {
        match self.power {
            PowerState::Off => self.spec.node.off_watts,
            PowerState::TurningOn => self.spec.boot_watts,
            PowerState::TurningOff => self.spec.truth.idle(),
            PowerState::On | PowerState::Unknown => self.spec.truth.watts(self.spec.node.load(given)),
        }
    }

    /// Whether what is set aside leaves room for `more`; CPU counts only where requests are gone by.
    pub(super) fn fits(&self, more: &Resources, by_requests: bool) -> bool {
        let mut all = self.held.clone();
        all.add(more);
        if !by_requests {
            all.cpu_milli = 0;
        }
        all.lacks(&self.spec.node.allocatable()).is_none()
    }

    pub(super) fn take_in(&mut self, what: &Resources) {
        self.held.add(what);
        self.tenants += 1;
    }

    pub(super) fn let_go(&mut self, what: &Resources) {
        self.held = self.held.saturating_sub(what);
        self.tenants = self.tenants.saturating_sub(1);
    }

    /// Seconds of a shutdown, in whole steps.
    pub(super) fn shutdown_s(&self, step_s: u64) -> Seconds {
        whole_steps(self.spec.shutdown_s, step_s)
    }
}

/// Seconds rounded up to whole steps; at least one step unless it takes no time at all.
pub(super) fn whole_steps(seconds: f64, step_s: u64) -> Seconds {
    to_milli(seconds.max(0.0).ceil()).div_ceil(step_s) * step_s
}
