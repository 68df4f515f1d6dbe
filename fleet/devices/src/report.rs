//! What a device says at one time. What it doesn't say, says is absent, or can't mean, is not there: never 0.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

pub use ebbtide_proto::PowerState;
use ebbtide_proto::{Energy, Power, Ratio};
use ebbtide_runtime::clock::Moment;
use serde::{Deserialize, Serialize};

/// One figure of a device, with when and how well it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure<T> {
    /// The figure, in its unit.
    pub value: T,
    /// When the device measured it, where it tells; else when the answer came.
    pub at: Moment,
    /// Largest relative error that the device's resolution, accuracy class and sampling allow.
    pub error: Ratio,
    /// Where in the device it was read, as its protocol names it: `rPDU2DeviceStatusPower`, `EnvironmentMetrics`.
    /// Owned where the operator described the device.
    pub source: Cow<'static, str>,
}

/// Figures of one conductor: a whole device, a phase or an outlet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feed {
    /// Active power.
    pub power: Option<Figure<Power>>,
    /// The device's own counter of energy. It may start over; `ebbtide_runtime::counter` makes energy of it.
    pub energy: Option<Figure<Energy>>,
    /// The least by which that counter moves, where that is known. 0.1 kWh is usual, which is a minute of 6 kW: too
    /// coarse to see what a machine draws.
    pub energy_step: Option<Energy>,
    /// Current, RMS, in mA.
    pub current_ma: Option<Figure<u32>>,
    /// Voltage, RMS, in mV.
    pub voltage_mv: Option<Figure<u32>>,
}

impl Feed {
    /// Whether it holds no figure.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An outlet as its device counts it: `12`, `1.3`, `AA3`; of a BMC, the system: `system`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutletId(Arc<str>);

impl OutletId {
    /// An outlet by its name on the device.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name on the device.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OutletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One outlet of a PDU, or the machine behind a BMC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// What commands call it.
    pub id: OutletId,
    /// What the operator named it on the device.
    pub name: Option<String>,
    /// Its figures.
    pub feed: Feed,
    /// How it stands.
    pub state: PowerState,
    /// Whether the device lets it be switched, as far as is known.
    pub switchable: bool,
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// Maker.
    pub vendor: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Firmware version.
    pub firmware: Option<String>,
    /// The name that it was given.
    pub name: Option<String>,
}

/// All that a device says at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The device as a whole: what comes in at its inlets, or what a machine draws.
    pub total: Feed,
    /// By phase or bank, in the device's order, with its name: `L1`, `bank 1`.
    pub phases: Vec<(String, Feed)>,
    /// By outlet, in the device's order.
    pub outlets: Vec<Outlet>,
    /// What could not be read although the device should have it, for people.
    pub missing: Vec<String>,
}
