//! What every kind of device can do.

use std::pin::Pin;

use serde::{Deserialize, Serialize};

use crate::error::DeviceError;
use crate::report::{Identity, OutletId, PowerState, Report};

/// An answer that takes as long as the device, within the driver's deadline.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, DeviceError>> + Send + 'a>>;

/// What an outlet, or a machine behind a BMC, can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Give it power.
    On,
    /// Take its power, at once.
    Off,
    /// Ask the machine to shut down by itself. Only BMCs can.
    SoftOff,
    /// Off, a pause, on again.
    Cycle,
}

impl Switch {
    /// The name in commands and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::SoftOff => "soft-off",
            Self::Cycle => "cycle",
        }
    }
}

/// One device. Each call is bounded in time and leaves the driver usable, whatever the device does; a call that is
/// dropped half-way does too.
pub trait Driver: Send {
    /// What the device is.
    fn identify(&mut self) -> Answer<'_, Identity>;

    /// Everything the device tells, in as few requests as it allows.
    fn read(&mut self) -> Answer<'_, Report>;

    /// How one outlet stands, in the fewest requests, for waiting until it changes.
    fn state<'a>(&'a mut self, outlet: &'a OutletId) -> Answer<'a, PowerState>;

    /// Tells an outlet once what to do and returns when the device took it. That it was done is for the caller to
    /// see (`state`).
    fn switch<'a>(&'a mut self, outlet: &'a OutletId, to: Switch) -> Answer<'a, ()>;

    /// Ends sessions on the device. What fails doesn't matter: the device ends them in time.
    fn close(&mut self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
