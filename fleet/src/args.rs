//! The daemon's command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Keeps what the agents of a fleet measure, answers where its energy goes, and serves the dashboard.
///
/// Exit codes: 0 all went well, 1 something failed, 2 the command line or configuration is wrong, 3 it works but
/// something is wrong (verify).
#[derive(Debug, Parser)]
#[command(name = "ebbtide-fleet", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Show the whole chain of causes of an error.
    #[arg(long, global = true)]
    pub verbose: bool,
}

/// What the manual page says besides what help says.
pub const MANUAL: &str = "\
Files:
  /etc/ebbtide/fleet.toml    settings of the service; ebbtide-fleet serve
                             --dump-config prints all that there are
  /etc/ebbtide/pki           the authority, if ebbtide pki init made one here
  /var/lib/ebbtide-fleet     the store: measurements, join tokens, who did what
  journalctl -u ebbtide-fleet   its log

See also: ebbtide(1), ebbtide-agent(1)";

/// What the daemon can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take in what agents send, until SIGINT or SIGTERM.
    Serve(Serve),
    /// Check that everything in a store is whole. The daemon may run meanwhile.
    Verify(Folder),
    /// Copy a store while the daemon runs; the copy is checked.
    Backup(Backup),
    /// Write measurements as CSV to standard output.
    Export(Export),
    /// Tell what a policy would have saved, had it been on: runs it over what is in a store.
    #[command(after_help = "\
Examples:
  ebbtide-fleet backup /tmp/copy && ebbtide-fleet replay --from /tmp/copy --inventory inventory.toml
  ebbtide-fleet replay --from /tmp/copy --inventory inventory.toml --policy careful.toml --since 2026-11-01T00:00:00Z --json")]
    Replay(Replay),
    /// Run the planner on a virtual clock: a scenario from a file, or a shipped one.
    Sim {
        /// The scenario.
        #[command(flatten)]
        what: Sim,
    },
    /// Measure what the daemon costs on this machine.
    Bench {
        /// Of what.
        #[command(subcommand)]
        what: Bench,
    },
    /// Print a script for completion in a shell.
    Completion {
        /// bash, zsh, fish, elvish or powershell.
        shell: Shell,
    },
    /// Write the manual pages into a folder, for packages.
    #[command(hide = true)]
    Manual {
        /// The folder; made if it isn't there.
        folder: PathBuf,
    },
}

/// `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// File with settings; flags go before it. Without it the defaults are used.
    #[arg(long, value_name = "FILE", env = "EBBTIDE_FLEET_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder of the store; made if it isn't there. [default: /var/lib/ebbtide-fleet]
    #[arg(long, value_name = "DIR", env = "EBBTIDE_FLEET_DATA")]
    pub data: Option<PathBuf>,
    /// Where agents and operators connect. [default: 127.0.0.1:9884]
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_FLEET_GRPC")]
    pub grpc: Option<SocketAddr>,
    /// Where dashboard and metrics are. [default: 127.0.0.1:9885]
    #[arg(long, value_name = "ADDR", env = "EBBTIDE_FLEET_HTTP")]
    pub http: Option<SocketAddr>,
    /// Serve unencrypted beyond this machine: whoever can connect can read everything, and speak as any node.
    #[arg(long)]
    pub insecure: bool,
    /// What is logged: error, warn, info, debug, trace, off, or directives. [default: info]
    #[arg(long, value_name = "LEVEL", env = "EBBTIDE_FLEET_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// Print the settings that result, and don't run.
    #[arg(long)]
    pub dump_config: bool,
}

/// A store.
#[derive(Debug, Args)]
pub struct Folder {
    /// Folder of the store.
    #[arg(long, value_name = "DIR", env = "EBBTIDE_FLEET_DATA", default_value = "/var/lib/ebbtide-fleet")]
    pub data: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// Folder of the store.
    #[arg(long, value_name = "DIR", env = "EBBTIDE_FLEET_DATA", default_value = "/var/lib/ebbtide-fleet")]
    pub data: PathBuf,
    /// Folder of the copy; must not exist yet, or be empty.
    #[arg(value_name = "TO")]
    pub to: PathBuf,
}

/// `export`.
#[derive(Debug, Args)]
pub struct Export {
    /// Folder of the store.
    #[arg(long, value_name = "DIR", env = "EBBTIDE_FLEET_DATA", default_value = "/var/lib/ebbtide-fleet")]
    pub data: PathBuf,
    /// From when, such as 2026-11-01T00:00:00Z. [default: a day before --until]
    #[arg(long, value_name = "TIME")]
    pub since: Option<jiff::Timestamp>,
    /// Until when. [default: now]
    #[arg(long, value_name = "TIME")]
    pub until: Option<jiff::Timestamp>,
    /// Only this node.
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

/// `replay`.
#[derive(Debug, Args)]
pub struct Replay {
    /// Folder of a store that no daemon uses: a backup.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// Nodes and workloads, as for the daemon; each node with its cpus.
    #[arg(long, value_name = "FILE")]
    pub inventory: PathBuf,
    /// The policy. [default: that which holds without a file]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// From when, such as 2026-11-01T00:00:00Z. [default: a week before --until]
    #[arg(long, value_name = "TIME")]
    pub since: Option<jiff::Timestamp>,
    /// Until when. [default: now]
    #[arg(long, value_name = "TIME")]
    pub until: Option<jiff::Timestamp>,
    /// Chance of boots and moves.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// Starts a daemon on a scratch folder and made-up agents that connect to it over TLS; prints what the daemon
    /// alone cost. Takes the seconds asked for and about a minute more.
    Ingest(BenchIngest),
    /// Makes up days of a fleet in a scratch folder, asks about them, and starts a daemon on them. Takes about a minute.
    Query(BenchQuery),
    /// Plans a made-up fleet as a whole and around one changed node, and smaller ones against their bounds. Takes some
    /// seconds.
    Plan(BenchPlan),
}

/// `sim`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[group(skip)]
pub struct Sim {
    /// A scenario of its own kind, or one that is no file.
    #[command(subcommand)]
    pub what: Option<SimWhat>,
    /// The scenario to run.
    #[command(flatten)]
    pub scenario: SimScenario,
}

/// `sim FILE`.
#[derive(Clone, Debug, Args)]
pub struct SimScenario {
    /// A scenario file, or the name of a shipped scenario: office, batch-night, flaky, openb, carbon.
    #[arg(value_name = "FILE", required = true)]
    pub file: Option<String>,
    /// Where randomness begins: the same seed gives the same report.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Folder with the traces that the scenario needs.
    #[arg(long, value_name = "DIR")]
    pub traces: Option<PathBuf>,
    /// Draw watts over time into this file: with all nodes on, with the planner, and the bound.
    #[arg(long, value_name = "SVG")]
    pub plot: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What else can be simulated.
#[derive(Debug, Subcommand)]
pub enum SimWhat {
    /// List the shipped scenarios.
    List,
    /// Radio units and an edge server: the planner turns the server on when it is needed, and off again.
    Edgelimit {
        /// Where randomness begins. This scenario leaves nothing to chance.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A day of PlanetLab's traces on 800 hosts, in CloudSim's accounting, with published policies or the planner.
    Planetlab(Planetlab),
}

/// `sim planetlab`.
#[derive(Clone, Debug, Args)]
pub struct Planetlab {
    /// Folder with one file per VM.
    #[arg(long, value_name = "DIR")]
    pub traces: PathBuf,
    /// Who decides: npa, dvfs, thr-mmt-0.8, lr-mmt-1.2 or ebbtide.
    #[arg(long, default_value = "ebbtide")]
    pub policy: ebbtide_planner::sim::planetlab::Who,
    /// How much unmet demand the planner risks for energy.
    #[arg(long, default_value = "low")]
    pub risk: SimRisk,
    /// The second score: boots take 120 s at full power, shutdowns 30 s, and hosts stay on for 15 minutes at least. With
    /// the planner only.
    #[arg(long)]
    pub real: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How much is risked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SimRisk {
    /// Little.
    Low,
    /// More.
    High,
}

/// `bench query`.
#[derive(Clone, Debug, Args)]
pub struct BenchQuery {
    /// Nodes.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub nodes: u32,
    /// Series of each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub series: u32,
    /// Days up to now.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub days: u32,
    /// Time between two values of a series, in milliseconds.
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1000..=60_000))]
    pub interval_ms: u32,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bench plan`.
#[derive(Clone, Debug, Args)]
pub struct BenchPlan {
    /// Nodes.
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub nodes: u32,
    /// Workloads.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub workloads: u32,
    /// Where randomness begins.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `bench ingest`.
#[derive(Clone, Debug, Args)]
pub struct BenchIngest {
    /// Agents.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub agents: u32,
    /// Series of each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub series: u32,
    /// How long.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub seconds: u64,
    /// Time between two values of a series, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..=60_000))]
    pub interval_ms: u32,
    /// Values of a series in a frame.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub frame: u32,
    /// What the counters do: steady (half of them grow evenly, half like a sine, as scraped exporters in other
    /// benchmarks do) or noisy (most workloads idle, some small, a few busy, all with noise).
    #[arg(long, default_value = "steady")]
    pub load: Load,
    /// Without TLS.
    #[arg(long)]
    pub plain: bool,
    /// Folder for the store instead of a temporary one; kept.
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What made-up counters do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Load {
    /// Even growth and sines.
    Steady,
    /// Idle, small and busy workloads with noise.
    Noisy,
}
