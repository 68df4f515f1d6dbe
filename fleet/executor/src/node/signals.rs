//! What says that a machine is off, and what says that it isn't.
//!
//! Three parties that know nothing of each other: the agent, the BMC, the outlet (its state or its watts). Two of them
//! have to say off and none on. Who can't be asked says neither.

use ebbtide_planner::state::node::PowerState;

use crate::event::Sight;
use crate::settings::Settings;

/// What the parties say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// Those for off, one a party.
    pub(crate) off: Vec<&'static str>,
    /// Those for on.
    pub(crate) on: Vec<&'static str>,
}

/// Listens to all parties. The machine was told to shut down `told_ago_s` ago: what its agent said before counts
/// for nothing.
pub(crate) fn listen(sight: &Sight, told_ago_s: f64, settings: &Settings) -> Signals {
    let mut s = Signals::default();
    if let Some(ago) = sight.agent_ago_s {
        let patience = settings.silent_s as f64;
        if ago.min(told_ago_s) > patience {
            s.off.push("its agent fell silent");
        } else if ago < told_ago_s && ago <= patience {
            s.on.push("its agent still speaks");
        }
    }
    match sight.bmc {
        PowerState::Off => s.off.push("its BMC says off"),
        PowerState::On | PowerState::TurningOn | PowerState::TurningOff => s.on.push("its BMC says on"),
        PowerState::Unknown => {}
    }
    match sight.outlet_w {
        Some(w) if w.is_finite() && w <= settings.off_w => s.off.push("its outlet gives no power"),
        Some(_) => s.on.push("its outlet gives power"),
        None if sight.outlet == PowerState::Off => s.off.push("its outlet is off"),
        None => {}
    }
    s
}

impl Signals {
    /// Whether the machine is off, for sure.
    pub(crate) fn is_off(&self) -> bool {
        self.off.len() >= 2 && self.on.is_empty()
    }

    /// Whether the machine is on, for sure.
    pub(crate) fn is_on(&self) -> bool {
        self.on.len() >= 2 && self.off.is_empty()
    }

    /// All of them in words.
    pub(crate) fn words(&self) -> String {
        let all: Vec<&str> = self.off.iter().chain(&self.on).copied().collect();
        if all.is_empty() { "nothing is heard of it".to_owned() } else { all.join(", ") }
    }
}
