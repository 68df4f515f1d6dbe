//! How a machine, or the outlet that feeds it, stands.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether something has power. Only [`PowerState::Off`] is off: unknown is never read as off, nor leads to an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerState {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// It was told to go on and is not yet.
    TurningOn,
    /// It was told to go off and is not yet.
    TurningOff,
    /// It doesn't say, or says what can't be understood.
    #[default]
    Unknown,
}

impl PowerState {
    /// The name in metrics, JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::TurningOn => "turning-on",
            Self::TurningOff => "turning-off",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
