//! What is so, whether anybody knows it or not: machines, workloads, the cluster's beliefs.

use ebbtide_executor::event::{Cordon, Sight};
use ebbtide_planner::state::Time;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::workload::Workload;
use ebbtide_proto::{NodeId, WorkloadId};

/// What a machine does. Times are the world's, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    Off,
    Boots { until: u64 },
    On,
    GoesDown { until: u64 },
}

/// What is wrong with a machine, until when.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) bmc_dead: u64,
    pub(crate) bmc_says_off: u64,
    pub(crate) bmc_says_on: u64,
    pub(crate) meter_dead: u64,
    pub(crate) outlet_stuck: u64,
    pub(crate) agent_silent: u64,
    pub(crate) never_wakes: u64,
    pub(crate) never_goes_down: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) id: NodeId,
    pub(crate) power: Power,
    pub(crate) outlet_on: bool,
    /// What the cluster believes.
    pub(crate) ready: bool,
    /// When the cluster changes its belief.
    pub(crate) believes_at: Option<u64>,
    pub(crate) cordon: Cordon,
    pub(crate) closed_at: u64,
    /// Whether a person closed or opened it last.
    pub(crate) by_hand: bool,
    /// By whom, since when and until when.
    pub(crate) held: Option<(String, u64, u64)>,
    pub(crate) spoke: Option<u64>,
    pub(crate) faults: Faults,
    /// Switches by the executor: by the daemons' clock, with the operation.
    pub(crate) switched: Vec<(Time, u64)>,
    pub(crate) known: Node,
}

#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) work: Workload,
    pub(crate) node: Option<usize>,
    /// Since when it is on its node.
    pub(crate) since: u64,
    /// A binding that is under way.
    pub(crate) bound_to: Option<usize>,
    /// Its disruption budget never allows an eviction.
    pub(crate) guarded: bool,
}

impl Machine {
    pub(crate) fn runs(&self) -> bool {
        matches!(self.power, Power::On | Power::GoesDown { .. })
    }

    pub(crate) fn draws(&self) -> bool {
        self.outlet_on && self.power != Power::Off
    }

    /// What the planner is told of its power.
    pub(crate) fn told_power(&self) -> PowerState {
        match self.power {
            Power::Off => PowerState::Off,
            Power::Boots { .. } => PowerState::TurningOn,
            Power::On => PowerState::On,
            Power::GoesDown { .. } => PowerState::TurningOff,
        }
    }

    /// Whether a machine that runs had to be taken for one that is off: two parties lied in the same way, and the third
    /// couldn't be asked.
    pub(crate) fn all_lied(&self, since: u64) -> bool {
        let f = &self.faults;
        f.bmc_says_off > since && f.agent_silent > since && f.meter_dead > since
    }

    pub(crate) fn sight(&self, now: u64, api: bool, on_it: Vec<WorkloadId>) -> Sight {
        let honest = if self.power == Power::Off { PowerState::Off } else { PowerState::On };
        let bmc = match () {
            () if self.faults.bmc_dead > now || !self.outlet_on => PowerState::Unknown,
            () if self.faults.bmc_says_off > now => PowerState::Off,
            () if self.faults.bmc_says_on > now => PowerState::On,
            () => honest,
        };
        Sight {
            cordon: api.then_some(self.cordon),
            ready: api.then_some(self.ready),
            held: self.held.as_ref().filter(|_| api).map(|h| h.0.clone()),
            workloads: api.then_some(on_it),
            agent_ago_s: self.spoke.map(|at| (now - at) as f64 / 1000.0),
            bmc,
            outlet: if self.outlet_on { PowerState::On } else { PowerState::Off },
            outlet_w: (self.faults.meter_dead <= now).then(|| if self.draws() { 120.0 } else { 1.5 }),
        }
    }
}
