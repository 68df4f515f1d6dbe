//! What may be said on the command line, and the help to it.

mod admin;
mod control;
mod device;
mod plan;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ebbtide_proto::v1;

pub(super) use self::admin::{ContextArgs, ContextVerb, Folder, Issue, PkiArgs, PkiVerb, TokenArgs, TokenVerb};
pub(super) use self::control::{
    ApproveArgs, AuditArgs, CancelArgs, CapacityArgs, CapacityVerb, EvacuateArgs, Follow, LockArgs, OperationsArgs,
    PauseArgs, PoolArgs, PoolVerb, PowerArgs, PowerVerb, UnlockArgs,
};
pub(super) use self::device::{DeviceArgs, DeviceVerb, To};
pub(super) use self::plan::{ExplainArgs, PlanArgs, ReplayArgs, ReplayVerb, Subject, WhatIfArgs};
use super::when::{Length, When};

/// Shows where a fleet's electricity goes
///
/// ebbtide asks a fleet daemon (ebbtide-fleet) what its nodes draw, which workloads it goes into, and what they used
/// over time. It also makes certificates and join tokens, and tells what is wrong.
#[derive(Parser, Debug)]
#[command(name = "ebbtide", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(after_help = EXAMPLES, after_long_help = LONG_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

const EXAMPLES: &str = "\
Examples:
  ebbtide top                                  the fleet, live
  ebbtide nodes                                watts per node
  ebbtide workloads --by namespace             watts per namespace
  ebbtide energy --since 7d --by app           kWh of the last week
  ebbtide doctor                               what is wrong, and how to fix it

Exit codes: 0 ok, 1 failed, 2 usage, 3 degraded (doctor), 4 not permitted.";

const LONG_HELP: &str = "\
Examples:
  ebbtide top                                  the fleet, live
  ebbtide nodes                                watts per node
  ebbtide workloads --by namespace             watts per namespace
  ebbtide energy --since 7d --by app           kWh of the last week
  ebbtide nodes -o json | jq '.nodes[].name'   for programs
  ebbtide doctor                               what is wrong, and how to fix it

Whom to ask:
  The first of: --fleet, EBBTIDE_FLEET, --context, EBBTIDE_CONTEXT, the current
  context (ebbtide context use), http://127.0.0.1:9884. Contexts are kept in
  EBBTIDE_CONFIG, or else in $XDG_CONFIG_HOME/ebbtide/config.toml. Plain text
  (http) is spoken to this machine only, unless --insecure says otherwise.

Figures:
   63.1 W  measured      ~63.1 W  scaled or modelled: no sensor counted it
  ?63.1 W  stale: the last figure known       –  not known
  CPU % counts 100 for one CPU that is always busy.

Output:
  table fits the terminal (80 columns in a pipe); wide shows all and cuts
  nothing. json, yaml and csv hold the numbers as the fleet told them, with the
  unit in the name: _uj microjoules, _uw microwatts, _ms milliseconds (times:
  since 1970 UTC), _milli thousandths. What is not known is null or empty, never
  0. Data goes to stdout, talk to stderr. Colour is used on terminals only, and
  not if NO_COLOR is set.

Exit codes:
  0 ok, 1 failed, 2 usage, 3 degraded (doctor), 4 not permitted, 130 interrupted";

/// What the manual page says besides what help says.
pub(super) const MANUAL: &str = "\
Files:
  ~/.config/ebbtide/config.toml   contexts: which fleets there are, and which one
                                  is meant

See also: ebbtide-fleet(1), ebbtide-agent(1)";

/// What every command understands.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Options of all commands")]
pub(super) struct Global {
    /// Fleet daemon to ask, such as https://fleet.example:9884 [env: EBBTIDE_FLEET]
    #[arg(long, value_name = "URL", global = true)]
    pub fleet: Option<String>,
    /// Context to use instead of the current one [env: EBBTIDE_CONTEXT]
    #[arg(long, value_name = "NAME", global = true)]
    pub context: Option<String>,
    /// Certificate of the authority that the fleet's certificate is from, PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub ca: Option<PathBuf>,
    /// Certificate to show, PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", global = true)]
    pub key: Option<PathBuf>,
    /// Speak plain text to other machines too: anybody on the way can read and change what is said
    #[arg(long, global = true)]
    pub insecure: bool,
    /// How long to wait for the connection, and for an answer
    #[arg(long, value_name = "DURATION", default_value = "30s", global = true)]
    pub timeout: Length,
    /// Form of the output
    #[arg(short, long, value_name = "FORMAT", global = true)]
    pub output: Option<Format>,
    /// Print the causes of errors
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// Form of the output.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// For people, as wide as the terminal
    Table,
    /// For people, with all columns, nothing cut
    Wide,
    /// For programs: one document; one per line where there are several
    Json,
    /// For programs
    Yaml,
    /// For spreadsheets: one line of heads, then one per row
    Csv,
}

#[derive(Subcommand, Debug)]
pub(super) enum Verb {
    /// List nodes: what each draws, and whether it is well
    #[command(after_help = "\
Examples:
  ebbtide nodes
  ebbtide nodes --search edge -o wide
  ebbtide nodes -o json | jq '.nodes[] | select(.state != \"live\") | .name'

States: live, catching-up (its agent tells what is past), stale (nothing came
for a while), gone (it said goodbye), refused (its agent is turned away; the
reason is printed below the table).")]
    Nodes(NodesArgs),
    /// Show one node: its zones and what runs on it
    #[command(after_help = "\
Examples:
  ebbtide node edge1
  ebbtide node edge1 -o json | jq '.node.zones[] | {id: .zone.id, power_uw}'")]
    Node(NodeArgs),
    /// List what draws power now
    #[command(after_help = "\
Examples:
  ebbtide workloads
  ebbtide workloads --by namespace
  ebbtide workloads --by pod --node edge1 --search inference
  ebbtide workloads --by unit --limit 10 -o csv")]
    Workloads(WorkloadsArgs),
    /// Add up energy over time
    #[command(after_help = "\
Examples:
  ebbtide energy --since 7d
  ebbtide energy --since yesterday --until today --by namespace
  ebbtide energy --since 2026-11-01 --step 1d --by app
  ebbtide energy --since 1h --step 1m --node edge1 --by component -o csv

KNOWN is the part of the time for which energy is known: 90 % says that a tenth
of it is missing in the sum.")]
    Energy(EnergyArgs),
    /// List zones: everything in the fleet whose energy is counted
    #[command(after_help = "\
Examples:
  ebbtide zones
  ebbtide zones --node edge1 -o wide

COUNTS says whether a zone is one of those whose sum is the node's energy;
others are parts of these, or see the same energy from elsewhere.")]
    Zones(ZonesArgs),
    /// Show the fleet, live
    #[command(after_help = "\
Examples:
  ebbtide top
  ebbtide top --by namespace --interval 5s
  ebbtide top --once | mail -s 'the fleet' ops@example.org

Keys: ? explains all of them, q quits.")]
    Top(TopArgs),
    /// Follow the fleet: one line per update
    #[command(after_help = "\
Examples:
  ebbtide watch
  ebbtide watch --interval 10s
  ebbtide watch -o json | jq '.totals.power_uw'
  ebbtide watch --by namespace --count 1 -o json

With -o json each update is one line. The first has all nodes, later ones those
that changed.

Exit codes: 0 --count is reached or nobody reads on, 1 the fleet went away,
130 interrupted.")]
    Watch(WatchArgs),
    /// Write energy over time for other programs
    #[command(after_help = "\
Examples:
  ebbtide export --since 30d > november.csv
  ebbtide export --since 2026-11-01 --until 2026-12-01 --by namespace --to nov.csv
  ebbtide export --since 1d --step 1m -o json | jq -s 'map(.energy_uj) | add'

Columns: from, until (RFC 3339, UTC), group, node, energy_uj, covered_ms,
quality. energy_uj is empty where covered_ms is 0: nothing is known of that
time. With -o json each row is one line, its times from_ms and until_ms. Long
ranges are asked for in pieces, so that there is no limit but patience.")]
    Export(ExportArgs),
    /// Tell what is wrong between here and every node, and how to fix it
    #[command(after_help = "\
Examples:
  ebbtide doctor
  ebbtide doctor --context prod -o json | jq '.rows[] | select(.level != \"ok\")'

Exit codes: 0 all is well, 3 degraded: it works, but something should be seen
to, 1 failed: it doesn't work, 2 usage, 4 not permitted.")]
    Doctor,
    /// Tell how the fleet daemon is doing
    #[command(after_help = "\
Examples:
  ebbtide status
  ebbtide status -o json | jq .commit_p99_us")]
    Status,
    /// Read and switch power hardware: PDUs, BMCs, meters; find and prove what wakes nodes
    #[command(after_help = "\
Examples:
  ebbtide device list
  ebbtide device read pdu-1 --watch
  ebbtide device switch pdu-1 3 off --yes")]
    Device(DeviceArgs),
    /// Show which nodes the fleet needs, and what should be done about the others
    #[command(after_help = "\
Examples:
  ebbtide plan
  ebbtide plan --pool edge
  ebbtide plan --list
  ebbtide plan -o json | jq '.actions[] | select(.kind == \"power-off\") | .node'

Showing a plan does nothing. BOUND is what no placement whatever can be below:
the gap to it is the most that could still be won.")]
    Plan(PlanArgs),
    /// Say why something was decided, in watts and in words
    #[command(after_help = "\
Examples:
  ebbtide explain node edge1
  ebbtide explain workload shop/web-0
  ebbtide explain plan
  ebbtide explain action 3")]
    Explain(ExplainArgs),
    /// Show the plan that would be made if something were different
    #[command(after_help = "\
Examples:
  ebbtide what-if --remove-node edge1
  ebbtide what-if --add-node new-servers.toml
  ebbtide what-if --policy careful.toml
  ebbtide what-if --price 0.40 --carbon 45")]
    WhatIf(WhatIfArgs),
    /// Do again what was done, to see that the same comes out
    #[command(after_help = "\
Examples:
  ebbtide replay decision 17")]
    Replay(ReplayArgs),
    /// Say what may be done in a pool without being asked
    #[command(after_help = "\
Examples:
  ebbtide pool list
  ebbtide pool set-mode edge auto")]
    Pool(PoolArgs),
    /// Carry out a plan that was put forward. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide plan && ebbtide approve
  ebbtide approve 17 --no-wait")]
    Approve(ApproveArgs),
    /// Begin nothing new anywhere; what can't be left half done is brought to an end. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide pause --why 'network maintenance'")]
    Pause(PauseArgs),
    /// Go on after a pause. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide resume")]
    Resume,
    /// Power a node on or off
    #[command(after_help = "\
Examples:
  ebbtide power off rack1-n07
  ebbtide power on rack1-n07")]
    Power(PowerArgs),
    /// Move everything off a node. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide evacuate rack1-n07 --lock")]
    Evacuate(EvacuateArgs),
    /// Keep plans and new work away from a node. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide lock rack1-n07 --why 'fan is replaced'")]
    Lock(LockArgs),
    /// Open a node that was locked, or left alone because something went wrong. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide unlock rack1-n07")]
    Unlock(UnlockArgs),
    /// Say how much of a node workloads may use, or list it
    #[command(after_help = "\
Examples:
  ebbtide capacity list
  ebbtide capacity set ru2 --cpu 4 --memory 8GiB --for 2h")]
    Capacity(CapacityArgs),
    /// Plan now rather than when it is due. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide reorchestrate")]
    Reorchestrate,
    /// List what is being done and was done lately, or show one operation with its steps
    #[command(after_help = "\
Examples:
  ebbtide operations --running
  ebbtide operations 7 --watch
  ebbtide operations 7 -o json | jq '.steps[].what'")]
    Operations(OperationsArgs),
    /// Give an operation up: what it did is undone where it can be. Needs the role operator
    #[command(after_help = "\
Examples:
  ebbtide cancel 7")]
    Cancel(CancelArgs),
    /// Show who did what, why, and what came of it
    #[command(after_help = "\
Examples:
  ebbtide audit
  ebbtide audit --node rack1-n07 --since 7d -o csv")]
    Audit(AuditArgs),
    /// Make, list and revoke join tokens, by which nodes get their certificates
    Token(TokenArgs),
    /// Say which fleets there are, and which one is meant
    Context(ContextArgs),
    /// Make certificates: an authority of your own, the fleet daemon's, nodes', operators'
    Pki(PkiArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  ebbtide completion bash > /usr/share/bash-completion/completions/ebbtide
  ebbtide completion zsh > \"${fpath[1]}/_ebbtide\"
  ebbtide completion fish > ~/.config/fish/completions/ebbtide.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a folder, for packages
    #[command(hide = true)]
    Manual {
        /// The folder; made if it isn't there
        folder: PathBuf,
    },
    /// Print the version of this program
    Version,
}

/// What nodes to list.
#[derive(Args, Debug)]
pub(super) struct NodesArgs {
    /// Only nodes whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub search: String,
}

/// Which node to show.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    /// Its name
    pub name: String,
    /// Workloads to list at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    pub limit: usize,
}

/// By what workloads are told apart.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Kubernetes namespaces
    Namespace,
    /// Kubernetes pods
    Pod,
    /// Containers of any runtime
    Container,
    /// systemd units
    Unit,
    /// Virtual machines
    Vm,
    /// Users
    User,
    /// Applications: the label app of pods, else the name without what makes it unique
    App,
}

impl Kind {
    /// As it is on the wire.
    pub(super) const fn wire(self) -> v1::GroupBy {
        match self {
            Self::Namespace => v1::GroupBy::Namespace,
            Self::Pod => v1::GroupBy::Pod,
            Self::Container => v1::GroupBy::Container,
            Self::Unit => v1::GroupBy::Unit,
            Self::Vm => v1::GroupBy::Vm,
            Self::User => v1::GroupBy::User,
            Self::App => v1::GroupBy::App,
        }
    }

    /// The head of a column of them.
    pub(super) const fn head(self) -> &'static str {
        match self {
            Self::Namespace => "NAMESPACE",
            Self::Pod => "POD",
            Self::Container => "CONTAINER",
            Self::Unit => "UNIT",
            Self::Vm => "VM",
            Self::User => "USER",
            Self::App => "APP",
        }
    }
}

/// By what energy is told apart.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// All in one sum
    Fleet,
    /// Nodes
    Node,
    /// Zones of nodes
    Zone,
    /// cpu, dram, gpu, rest
    Component,
    /// Kubernetes namespaces
    Namespace,
    /// Kubernetes pods
    Pod,
    /// Containers of any runtime
    Container,
    /// systemd units
    Unit,
    /// Virtual machines
    Vm,
    /// Users
    User,
    /// Applications: the label app of pods, else the name without what makes it unique
    App,
}

impl By {
    /// As it is on the wire.
    pub(super) const fn wire(self) -> v1::GroupBy {
        match self {
            Self::Fleet => v1::GroupBy::Fleet,
            Self::Node => v1::GroupBy::Node,
            Self::Zone => v1::GroupBy::Zone,
            Self::Component => v1::GroupBy::Component,
            Self::Namespace => v1::GroupBy::Namespace,
            Self::Pod => v1::GroupBy::Pod,
            Self::Container => v1::GroupBy::Container,
            Self::Unit => v1::GroupBy::Unit,
            Self::Vm => v1::GroupBy::Vm,
            Self::User => v1::GroupBy::User,
            Self::App => v1::GroupBy::App,
        }
    }

    /// The head of a column of them.
    pub(super) const fn head(self) -> &'static str {
        match self {
            Self::Fleet => "FLEET",
            Self::Node => "NODE",
            Self::Zone => "ZONE",
            Self::Component => "COMPONENT",
            Self::Namespace => "NAMESPACE",
            Self::Pod => "POD",
            Self::Container => "CONTAINER",
            Self::Unit => "UNIT",
            Self::Vm => "VM",
            Self::User => "USER",
            Self::App => "APP",
        }
    }
}

/// What workloads to list.
#[derive(Args, Debug)]
pub(super) struct WorkloadsArgs {
    /// What they are told apart by. Without it: applications, for people else what there is
    #[arg(long, value_name = "KIND")]
    pub by: Option<Kind>,
    /// Only those on this node
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub node: String,
    /// Only those whose id, name or a label contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub search: String,
    /// At most so many, those that draw the most; 0: 1,000
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub limit: u32,
}

/// Which time, of what.
#[derive(Args, Debug)]
pub(super) struct Range {
    /// From when: 7d (so long ago), 2026-11-01, 2026-11-01T14:00 (your clock), RFC 3339, today, yesterday
    #[arg(long, value_name = "WHEN", default_value = "24h")]
    pub since: When,
    /// Until when, likewise
    #[arg(long, value_name = "WHEN", default_value = "now")]
    pub until: When,
    /// What it is told apart by
    #[arg(long, value_name = "WHAT", default_value = "node")]
    pub by: By,
    /// Only of this node
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub node: String,
    /// Only groups whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub search: String,
}

/// What energy to add up.
#[derive(Args, Debug)]
pub(super) struct EnergyArgs {
    #[command(flatten)]
    pub range: Range,
    /// Also tell it apart by time, in steps of this length (rounded up to 1 s, 10 s, 1 min or hours)
    #[arg(long, value_name = "DURATION")]
    pub step: Option<Length>,
    /// At most so many groups, those with the most energy; the rest is one sum. 0: 100
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub limit: u32,
}

/// What energy to write.
#[derive(Args, Debug)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    pub range: Range,
    /// Length of the steps (rounded up to 1 s, 10 s, 1 min or hours)
    #[arg(long, value_name = "DURATION", default_value = "1h")]
    pub step: Length,
    /// At most so many groups per piece, those with the most energy; the rest is the group "other"
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    pub limit: u32,
    /// Write this file, once all of it is there, instead of stdout
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
}

/// What zones to list.
#[derive(Args, Debug)]
pub(super) struct ZonesArgs {
    /// Only those of this node
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub node: String,
}

/// What to show live.
#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// What rows to begin with: nodes, or workloads by this
    #[arg(long, value_name = "KIND")]
    pub by: Option<Kind>,
    /// Time between two looks, at least 250ms
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub interval: Length,
    /// Print the table once instead of a screen
    #[arg(long)]
    pub once: bool,
}

/// What to follow.
#[derive(Args, Debug)]
pub(super) struct WatchArgs {
    /// Time between two updates, at least 250ms
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub interval: Length,
    /// With -o json: also workloads, by this
    #[arg(long, value_name = "KIND")]
    pub by: Option<Kind>,
    /// With --by: at most so many workloads; 0: 50
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub limit: u32,
    /// End after so many updates; 0: never
    #[arg(long, value_name = "NUMBER", default_value_t = 0, hide_default_value = true)]
    pub count: u64,
}
