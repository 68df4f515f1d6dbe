//! What may be said about power hardware.

use clap::{Args, Subcommand, ValueEnum};
use ebbtide_proto::v1;

use crate::cli::when::Length;

/// Power hardware.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct DeviceArgs {
    #[command(subcommand)]
    pub verb: DeviceVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum DeviceVerb {
    /// List devices: what each draws, and whether it answers
    #[command(after_help = "\
Examples:
  ebbtide device list
  ebbtide device list -o json | jq '.devices[] | select(.trouble != \"\")'")]
    List,
    /// Show all that a device tells: total, phases, outlets
    #[command(after_help = "\
Examples:
  ebbtide device read pdu-1
  ebbtide device read pdu-1 --watch
  ebbtide device read pdu-1 -o csv > outlets.csv")]
    Read {
        /// The device
        name: String,
        /// Again each time that it tells something new, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// Switch an outlet, and wait until it is known what became of it. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide device switch pdu-1 3 off --yes
  ebbtide device switch bmc-edge1 system soft-off --yes

An outlet that stands so already is left alone, and that is a success. An outlet
of a node whose agent streams is not taken off without --force.

Exit codes: 0 it is so, 1 it is not, or nobody knows.")]
    Switch {
        /// The device
        name: String,
        /// Its outlet; `system` for the machine behind a BMC
        outlet: String,
        /// What to do
        to: To,
        /// Yes, really
        #[arg(long)]
        yes: bool,
        /// Also if the outlet feeds a node that runs
        #[arg(long)]
        force: bool,
        /// How long to wait for a confirmation
        #[arg(long, value_name = "DURATION", default_value = "60s")]
        deadline: Length,
    },
    /// Look what seems to speak at an address, and print configuration for it. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide device scan 192.0.2.17

The fleet daemon asks, for it is what has to reach the device: SNMP with the
community public, Redfish, IPMI, Netio, Shelly, Tasmota, Modbus TCP.")]
    Scan {
        /// Name or address
        host: String,
    },
    /// Compare watts to find out which outlet feeds which node
    #[command(after_help = "\
Examples:
  ebbtide device map

Watts of nodes and outlets that rise and fall together belong together. Wait some
minutes with changing load after the daemon's start; the surer, the closer to 1.")]
    Map,
    /// Shut a node down and wake it again, to prove that it can be. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide device test-wake edge1 --yes

What runs on the node is interrupted. How it ended, the boot's time and its energy
are kept: ebbtide device wakes.")]
    TestWake {
        /// The node
        node: String,
        /// Yes, really
        #[arg(long)]
        yes: bool,
        /// For the shutdown and for the boot, each
        #[arg(long, value_name = "DURATION", default_value = "10m")]
        deadline: Length,
    },
    /// List which nodes are proven to wake, by what, in what time
    #[command(after_help = "\
Examples:
  ebbtide device wakes")]
    Wakes,
}

/// What an outlet can be told.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum To {
    /// Give it power
    On,
    /// Take its power, at once
    Off,
    /// Let the machine shut down by itself; only BMCs can
    SoftOff,
    /// Off, and on again
    Cycle,
}

impl To {
    pub(in crate::cli) fn wire(self) -> v1::Switch {
        match self {
            Self::On => v1::Switch::On,
            Self::Off => v1::Switch::Off,
            Self::SoftOff => v1::Switch::SoftOff,
            Self::Cycle => v1::Switch::Cycle,
        }
    }

    pub(in crate::cli) const fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::SoftOff => "soft-off",
            Self::Cycle => "cycle",
        }
    }
}
