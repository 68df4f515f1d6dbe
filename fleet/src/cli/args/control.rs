//! What may be said about acting.

use clap::{Args, Subcommand, ValueEnum};
use ebbtide_proto::v1;

use crate::cli::when::{Length, When};

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

/// What of nodes is for workloads.
#[derive(Args, Debug)]
#[command(disable_help_subcommand = true)]
pub(in crate::cli) struct CapacityArgs {
    #[command(subcommand)]
    pub verb: CapacityVerb,
}

#[derive(Subcommand, Debug)]
pub(in crate::cli) enum CapacityVerb {
    /// List what nodes have, what of it workloads may use, and who said so
    #[command(after_help = "\
Examples:
  ebbtide capacity list
  ebbtide capacity list -o json | jq '.nodes[] | select(.operation > 0)'")]
    List,
    /// Say how much of a node workloads may use, for whoever needs the rest. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide capacity set ru2 --cpu 4 --memory 8GiB --for 2h --why 'busy hour'
  ebbtide capacity set ru2 --cpu 500m

Plans are made anew at once: what doesn't fit any more moves, and a node is woken
for it if need be. What is said again replaces what was said before; `ebbtide
operations` shows it until it is over.")]
    Set {
        /// The node
        node: String,
        /// CPUs that workloads may use: 4, 0.5, 500m
        #[arg(long, value_name = "CPUS", value_parser = milli, required_unless_present = "memory")]
        cpu: Option<u64>,
        /// Memory that workloads may use: 8GiB, 512MiB
        #[arg(long, value_name = "SIZE", value_parser = bytes)]
        memory: Option<u64>,
        /// For how long: 2h, 30m. Until it is cleared if left out
        #[arg(long = "for", value_name = "DURATION")]
        lasts: Option<Length>,
        /// Why, for others who look
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        why: String,
    },
    /// Let workloads use all of a node again. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide capacity clear ru2")]
    Clear {
        /// The node
        node: String,
    },
}

/// CPUs, as `4`, `0.5` or `500m`, in thousandths.
fn milli(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no number of CPUs; write 4, 0.5 or 500m");
    let text = text.trim();
    if let Some(milli) = text.strip_suffix('m') {
        return milli.parse().map_err(|_| wrong());
    }
    let cpus: f64 = text.parse().map_err(|_| wrong())?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a number of CPUs")]
    let milli = (0.0..=1e6).contains(&cpus).then(|| (cpus * 1000.0).round() as u64);
    milli.ok_or_else(wrong)
}

/// Bytes, as `8GiB` or `512MiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it as 8GiB, with B, KiB, MiB, GiB or TiB");
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "Ki" => 10,
        "MiB" | "Mi" => 20,
        "GiB" | "Gi" => 30,
        "TiB" | "Ti" => 40,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)).ok_or_else(wrong)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_or_refused_with_an_example() {
        assert_eq!((milli("4"), milli("0.5"), milli("500m"), milli("0")), (Ok(4000), Ok(500), Ok(500), Ok(0)));
        assert_eq!((bytes("8GiB"), bytes("512 Mi"), bytes("77")), (Ok(8 << 30), Ok(512 << 20), Ok(77)));
        for wrong in ["", "-1", "four", "1e9", "NaN", "inf", "-5m", "1.5m"] {
            assert!(milli(wrong).unwrap_err().contains("write 4, 0.5 or 500m"), "{wrong}");
        }
        for wrong in ["", "-1", "8GB", "GiB", "1.5GiB", "99999999999TiB"] {
            assert!(bytes(wrong).unwrap_err().contains("8GiB"), "{wrong}");
        }
    }
}
