//! What the commands of `ebbtide-agent` do. Each file is one command; this one holds what they share.

pub mod check;
pub mod join;
pub mod outlets;
mod rights;
pub mod run;
pub mod top;
pub mod twin;
pub mod zones;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use crate::cli;
use crate::config::Settings;
use crate::host::{self, HostRoot};
use crate::sampler::Options;
use crate::source::discover::{DiscoverOptions, Discovery, discover};
use crate::source::integrate::ProbeMode;
use crate::source::model;
use crate::source::wall::WallFeed;
use crate::usage::{self, Opened, Wish};

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All is well.
    Ok,
    /// It failed.
    Failed,
    /// It works, but not as well as it could (`check`).
    Degraded,
    /// The kernel does not permit it.
    NotPermitted,
}

impl Exit {
    /// How an error ends a command.
    pub fn of(error: &anyhow::Error) -> Self {
        let denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
        let refused = error.is::<join::TokenRefused>();
        if refused || error.chain().any(|c| c.downcast_ref::<io::Error>().is_some_and(denied)) {
            Self::NotPermitted
        } else {
            Self::Failed
        }
    }

    /// The process's exit code. 2 is for usage and configuration, before any command runs.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Degraded => 3,
            Self::NotPermitted => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Prints `text` to stdout. That nobody reads it to its end is no failure.
pub fn print(text: &str) -> anyhow::Result<Exit> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(Exit::Ok),
    }
}

/// Writes the manual pages.
pub fn manual(folder: &Path) -> anyhow::Result<Exit> {
    let written = ebbtide_runtime::manual::write(cli::command(), cli::MANUAL, folder);
    written.with_context(|| format!("can't write manual pages into {}", folder.display()))?;
    Ok(Exit::Ok)
}

/// Finds the sources that the settings allow; `wall` is where the fleet tells what the machine draws.
pub fn sources(settings: &Settings, wall: Option<&WallFeed>) -> Discovery {
    let options = DiscoverOptions {
        probes: ProbeMode::Threaded(settings.fast_interval),
        kinds: settings.sources.clone(),
        model: settings.model.map(|m| model::ModelOverride { idle: m.idle, full: m.full }),
        wall: wall.cloned(),
    };
    discover(&settings.root, &options)
}

/// Opens the reader of usage that the settings ask for.
pub fn usage_reader(settings: &Settings) -> anyhow::Result<Opened> {
    let wish = Wish { choice: settings.usage, counters: settings.counters, threads: settings.threads };
    Ok(usage::open(&settings.root, wish)?)
}

/// What the sampler is told.
pub fn sampler_options(settings: &Settings) -> Options {
    use crate::config::NameStyle;
    Options {
        node: settings.node_name.clone(),
        idle_policy: settings.idle_policy,
        idle_floor: settings.idle_floor.clone(),
        processes: settings.processes,
        retention: settings.retention,
        stale_after: settings.stale_after,
        full_names: settings.names.contains(&NameStyle::Kepler) || settings.names.contains(&NameStyle::Scaphandre),
        idle_share: idle_share(&settings.root),
        state: settings.state.clone(),
        learned: None,
    }
}

/// Idle power over full power that packages of this machine's class have.
pub fn idle_share(host: &HostRoot) -> f64 {
    let text = host::read_text(&host.proc("cpuinfo")).unwrap_or_default();
    model::idle_share_prior(&model::CpuInfo::parse(&text))
}
