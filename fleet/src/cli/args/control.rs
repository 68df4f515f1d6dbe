//! What may be said about acting.

use clap::{Args, Subcommand, ValueEnum};
use ebbtide_proto::v1;

use crate::cli::when::When;

/// Pools.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct PoolArgs {
    #[command(subcommand)]
    pub verb: PoolVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum PoolVerb {
    /// List pools: what each may do by itself, and what is going on
    #[command(after_help = "\
Examples:
  ebbtide pool list
  ebbtide pool list -o json | jq '.quarantined'")]
    List,
    /// Say what may be done in a pool without being asked. Needs the role admin
    #[command(after_help = "\
Examples:
  ebbtide pool set-mode edge recommend
  ebbtide pool set-mode edge auto

observe: nothing. recommend: plans that somebody approves (ebbtide approve).
auto: plans, as they are made. Orders of operators are carried out in every mode.")]
    SetMode {
        /// The pool
        pool: String,
        /// The mode
        mode: PoolMode,
    },
}

/// What may be done in a pool without being asked.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum PoolMode {
    /// Nothing
    Observe,
    /// Plans that somebody approves
    Recommend,
    /// Plans
    Auto,
}

impl PoolMode {
    /// As it is on the wire.
    pub(in crate::cli) const fn wire(self) -> v1::PoolMode {
        match self {
            Self::Observe => v1::PoolMode::Observe,
            Self::Recommend => v1::PoolMode::Recommend,
            Self::Auto => v1::PoolMode::Auto,
        }
    }
}

/// Orders that become an operation.
#[derive(Args, Debug, Clone, Copy)]
pub(in crate::cli) struct Follow {
    /// Don't wait until it is over
    #[arg(long)]
    pub no_wait: bool,
}

/// A pause.
#[derive(Args, Debug)]
pub(in crate::cli) struct PauseArgs {
    /// Why, for others who look
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
}

/// Approval of a plan.
#[derive(Args, Debug)]
pub(in crate::cli) struct ApproveArgs {
    /// The plan's number; the one that stands if left out
    #[arg(default_value_t = 0, hide_default_value = true)]
    pub plan: u64,
    #[command(flatten)]
    pub follow: Follow,
}

/// A node to be emptied.
#[derive(Args, Debug)]
pub(in crate::cli) struct EvacuateArgs {
    /// The node
    pub node: String,
    /// Keep it closed afterwards
    #[arg(long)]
    pub lock: bool,
    #[command(flatten)]
    pub follow: Follow,
}

/// A node to be closed.
#[derive(Args, Debug)]
pub(in crate::cli) struct LockArgs {
    /// The node
    pub node: String,
    /// Why, for others who look
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub why: String,
}

/// A node to be opened.
#[derive(Args, Debug)]
pub(in crate::cli) struct UnlockArgs {
    /// The node
    pub node: String,
}

/// A node to be switched.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct PowerArgs {
    #[command(subcommand)]
    pub verb: PowerVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum PowerVerb {
    /// Power a node on, and wait until its agent streams again. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide power on rack1-n07
  ebbtide power on rack1-n07 --no-wait")]
    On {
        /// The node
        node: String,
        #[command(flatten)]
        follow: Follow,
    },
    /// Empty a node and power it off. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide power off rack1-n07

Refused if its wake was never proven (ebbtide device test-wake), an interlock or
the reserve needs it, or nothing was heard of it lately. What runs on it leaves
first, or the node is opened again.")]
    Off {
        /// The node
        node: String,
        #[command(flatten)]
        follow: Follow,
    },
}

/// Which operations to list.
#[derive(Args, Debug)]
pub(in crate::cli) struct OperationsArgs {
    /// Only this one, with its steps
    pub id: Option<u64>,
    /// Only those that go on
    #[arg(long, conflicts_with = "id")]
    pub running: bool,
    /// Follow it until it is over
    #[arg(long, requires = "id")]
    pub watch: bool,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: u32,
}

/// Which operation to give up.
#[derive(Args, Debug)]
pub(in crate::cli) struct CancelArgs {
    /// Its number
    pub id: u64,
}

/// Which lines of the audit to show.
#[derive(Args, Debug)]
pub(in crate::cli) struct AuditArgs {
    /// Only about this node
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub node: String,
    /// From when: 7d (so long ago), 2026-11-01, RFC 3339, today, yesterday
    #[arg(long, value_name = "WHEN")]
    pub since: Option<When>,
    /// At most so many
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: u32,
}
