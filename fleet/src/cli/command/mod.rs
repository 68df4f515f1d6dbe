//! What the commands of `ebbtide` do. Each file is one command; this one holds what they share.

pub(super) mod context;
pub(super) mod control;
pub(super) mod device;
pub(super) mod doctor;
pub(super) mod energy;
pub(super) mod export;
pub(super) mod node;
pub(super) mod nodes;
pub(super) mod pki;
pub(super) mod plan;
pub(super) mod status;
pub(super) mod token;
pub(super) mod top;
pub(super) mod watch;
pub(super) mod workloads;
pub(super) mod zones;

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use ebbtide_proto::v1;
use serde::Serialize;

use super::args::{Cli, MANUAL};
use super::failure::{Exit, Failure};
use super::output::{Answer, Output, Sheet, print};
use super::table::Tint;

/// Prints the completion script of a shell.
pub(super) fn completion(shell: Shell, _: &Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ebbtide", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Writes the manual pages.
pub(super) fn manual(folder: &Path) -> Result<Exit, Failure> {
    match ebbtide_runtime::manual::write(Cli::command(), MANUAL, folder) {
        Ok(()) => Ok(Exit::Ok),
        Err(error) => Err(Failure::new(format!("can't write manual pages into {}: {error}", folder.display()))),
    }
}

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

impl Answer for Version {
    fn table(&self, _: &Output) -> String {
        format!("ebbtide {}\n", self.version)
    }

    fn csv(&self) -> Sheet {
        let mut sheet = Sheet::new(&["version"]);
        sheet.row([self.version.to_owned()]);
        sheet
    }
}

/// Prints this program's version.
pub(super) fn version(output: &Output) -> Result<Exit, Failure> {
    output.show(&Version { version: env!("CARGO_PKG_VERSION") })?;
    Ok(Exit::Ok)
}

/// The colour of a node's state.
fn state_tint(state: i32) -> Tint {
    match v1::NodeState::try_from(state) {
        Ok(v1::NodeState::Live) => Tint::Good,
        Ok(v1::NodeState::CatchingUp) => Tint::Plain,
        Ok(v1::NodeState::Stale) => Tint::Doubtful,
        Ok(v1::NodeState::Gone) => Tint::Quiet,
        Ok(v1::NodeState::Refused | v1::NodeState::Unspecified) | Err(_) => Tint::Bad,
    }
}

/// What a node used today; a node that was never heard of used nobody knows what.
fn today(node: &v1::Node, quality: i32) -> String {
    super::figure::energy((node.last_ms > 0).then_some(node.today_uj), quality)
}

/// The sum of what is known; `None` if nothing is.
fn sum(figures: impl IntoIterator<Item = Option<u64>>) -> Option<u64> {
    figures.into_iter().flatten().reduce(u64::saturating_add)
}

/// `1 node`, `2 nodes`.
fn counted(n: usize, one: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{} {one}s", super::figure::count(n as u64)),
    }
}

/// The worst of some qualities, as it is on the wire.
fn worst(qualities: impl IntoIterator<Item = i32>) -> i32 {
    qualities.into_iter().max().unwrap_or_default()
}
