//! The command line. It is turned into a [`Parsed`] value from arguments and environment that are passed in; what the
//! commands do is elsewhere.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::layer::{Env, suspicious};
use crate::config::quantity::Period;
use crate::config::value::{Expected, FilePath};
use crate::config::{ConfigError, Layer, LogFilter, Origin, Partial, Settings, Surroundings, Token, file, reference};
use crate::host::HostRoot;

/// Measures where this machine's electricity goes: per process, container, pod, service and VM.
#[derive(Parser, Debug)]
#[command(name = "ebbtide-agent", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    settings: Partial,
    #[command(subcommand)]
    command: Option<Verb>,
}

const EXAMPLES: &str = "\
Examples:
  ebbtide-agent top                  watts per workload, live
  ebbtide-agent check                what works on this machine, and what would make it better
  ebbtide-agent run                  serve http://127.0.0.1:9883/metrics
  ebbtide-agent --dump-config        every setting with its value, as a file for --config

Settings: ebbtide-agent run --help. Each is also a key of the file and a variable EBBTIDE_….
Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 degraded (check), 4 not permitted.";

/// What the manual page says besides what help says.
pub const MANUAL: &str = "\
Files:
  /etc/ebbtide/agent.toml    settings of the service; ebbtide-agent --dump-config
                             prints those in force, and where each is from
  /var/lib/ebbtide-agent     totals, learned idle floors, what the fleet was not
                             told yet (spool), certificates (identity)
  journalctl -u ebbtide-agent   its log

See also: ebbtide-fleet(1), ebbtide(1)";

#[derive(Args, Debug)]
struct Global {
    /// Read settings from this TOML file [env: EBBTIDE_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<FilePath>,
    /// Print the configuration in force, and where each value came from, as TOML, and exit
    #[arg(long, global = true)]
    dump_config: bool,
    /// Log at debug level and print the causes of errors
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Measure and serve metrics until stopped
    #[command(after_help = "\
Examples:
  ebbtide-agent run --listen :9883 --names native,kepler
  ebbtide-agent run --config /etc/ebbtide/agent.toml
  EBBTIDE_INTERVAL=5s ebbtide-agent run --processes off

Exit codes: 0 stopped by a signal, 1 failed, 2 usage or configuration, 4 not permitted.")]
    Run {
        #[command(flatten)]
        settings: Box<Partial>,
    },
    /// Show watts per workload, live
    #[command(after_help = "\
Examples:
  ebbtide-agent top
  ebbtide-agent top --interval 5s --idle-policy by-usage
  ebbtide-agent top --once --json | jq .

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 4 not permitted.")]
    Top {
        #[command(flatten)]
        settings: Box<Partial>,
        /// Take one sample, print it and exit
        #[arg(long)]
        once: bool,
        /// Print JSON instead of a screen, one line per sample
        #[arg(long)]
        json: bool,
    },
    /// Tell what works on this machine, what doesn't, why it matters, and how to fix it
    #[command(after_help = "\
Examples:
  ebbtide-agent check
  ebbtide-agent check --json | jq .
  ebbtide-agent check --root /host

Exit codes: 0 ok, 1 nothing can be measured, 2 usage or configuration, 3 degraded: something is missing or modelled,
4 not permitted: all that is missing are rights.")]
    Check {
        #[command(flatten)]
        settings: Box<Partial>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the zones that tell energy, what was left out, and why
    #[command(after_help = "\
Examples:
  ebbtide-agent zones
  ebbtide-agent zones --json --sources hwmon,battery

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 4 not permitted.")]
    Zones {
        #[command(flatten)]
        settings: Box<Partial>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Get this node's certificate from the fleet daemon, in exchange for a token
    #[command(after_help = "\
Examples:
  ebbtide-agent join --fleet fleet.example --token TOKEN
  ebbtide-agent join --fleet fleet.example --token - < token

The key is made here and never leaves this machine. The token is from whoever runs the fleet: ebbtide-fleet or
ebbtide tells it once. The fleet is known by the fingerprint in it.

Exit codes: 0 joined, 1 failed, 2 usage or configuration, 4 not permitted: the token is unknown, used or expired, or
the state folder can't be written.")]
    Join {
        #[command(flatten)]
        settings: Box<Partial>,
        /// The token, or - to read it from standard input, where no other user can see it
        #[arg(long, value_name = "TOKEN", value_parser = token)]
        token: TokenArg,
    },
    /// Play a scenario on a fake machine whose true joules are known, or score the agent against it
    #[command(
        subcommand_negates_reqs = true,
        after_help = "\
Examples:
  ebbtide-agent twin --scenario idle-and-burst.toml --out /tmp/twin
  ebbtide-agent top --root /tmp/twin
  ebbtide-agent twin score
  ebbtide-agent twin score --scenario idle-and-burst.toml --json

Exit codes: 0 ok, 1 failed or a score out of its bounds, 2 usage or configuration."
    )]
    Twin(TwinArgs),
    /// Print a completion script for a shell
    #[command(after_help = "\
Examples:
  ebbtide-agent completion bash > /usr/share/bash-completion/completions/ebbtide-agent
  ebbtide-agent completion fish > ~/.config/fish/completions/ebbtide-agent.fish")]
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
}

#[derive(Args, Debug)]
struct TwinArgs {
    /// Scenario to play
    #[arg(long, value_name = "FILE", required = true)]
    scenario: Option<PathBuf>,
    /// Folder in which the fake /proc and /sys are written
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Seed of the noise; the default is the scenario's own
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// How many seconds of the scenario pass in one second
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Stop after this time of the scenario; the default is its end
    #[arg(long, value_name = "DURATION")]
    duration: Option<Period<1, { 30 * 86_400_000 }>>,
    #[command(subcommand)]
    command: Option<TwinVerb>,
}

#[derive(Subcommand, Debug)]
enum TwinVerb {
    /// Measure scenarios in virtual time and compare with the truth
    #[command(after_help = "\
Examples:
  ebbtide-agent twin score
  ebbtide-agent twin score --scenario mixed-instructions --counters
  ebbtide-agent twin score --scenario idle-and-burst.toml --seed 7 --json")]
    Score {
        /// Scenario to score, or all built-in ones
        #[arg(long, value_name = "FILE|all", default_value = "all")]
        scenario: PathBuf,
        /// Seed of the noise; the default is the scenario's own
        #[arg(long, value_name = "NUMBER")]
        seed: Option<u64>,
        /// Give every process exact hardware counters
        #[arg(long)]
        counters: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Parsed {
    /// What to do.
    pub command: Command,
    /// Whether errors are to be printed with their causes.
    pub verbose: bool,
    /// What to log.
    pub log_level: LogFilter,
    /// What should be logged as warnings first.
    pub warnings: Vec<String>,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Measure and serve.
    Run(Box<Settings>),
    /// Show a screen, or samples as JSON lines.
    Top {
        /// How to measure.
        settings: Box<Settings>,
        /// One sample only.
        once: bool,
        /// JSON.
        json: bool,
    },
    /// Tell what works.
    Check {
        /// How to measure.
        settings: Box<Settings>,
        /// JSON.
        json: bool,
    },
    /// List zones.
    Zones {
        /// How to measure.
        settings: Box<Settings>,
        /// JSON.
        json: bool,
    },
    /// Get a certificate from the fleet.
    Join {
        /// Where the fleet is, who we are, and where to keep it.
        settings: Box<Settings>,
        /// The token; `None` if standard input has it.
        token: Option<Token>,
    },
    /// Play a scenario into a folder.
    TwinPlay {
        /// File with the scenario.
        scenario: PathBuf,
        /// The folder.
        out: PathBuf,
        /// Seed, if not the scenario's.
        seed: Option<u64>,
        /// Scenario seconds per second; positive and finite.
        speed: f64,
        /// Scenario time after which to stop, if not at its end.
        duration: Option<Duration>,
    },
    /// Score the agent.
    TwinScore {
        /// File with the scenario; `None` is all built-in ones.
        scenario: Option<PathBuf>,
        /// Seed, if not the scenario's.
        seed: Option<u64>,
        /// Whether processes have hardware counters.
        counters: bool,
        /// JSON.
        json: bool,
    },
    /// Write the manual pages into this folder.
    Manual(PathBuf),
    /// Print this text to stdout and exit with 0.
    Print(String),
}

/// Why nothing is done. Help and version are failures, too, with exit code 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The arguments.
    #[error(transparent)]
    Usage(Box<clap::Error>),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl From<clap::Error> for Failure {
    fn from(e: clap::Error) -> Self {
        Self::Usage(Box::new(e))
    }
}

impl Failure {
    /// 0 for help and version, else 2.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(e) => u8::try_from(e.exit_code()).unwrap_or(2),
            Self::Config(_) => 2,
        }
    }

    /// Prints the help to stdout or the error to stderr, in colour where that is a terminal. A closed output is no
    /// reason to fail again.
    pub fn print(&self) {
        match self {
            Self::Usage(e) => drop(e.print()),
            Self::Config(e) => {
                use std::io::Write as _;
                drop(writeln!(std::io::stderr(), "error: {e}"));
            }
        }
    }
}

/// The definition of the command line, with defaults and variables in the help of each setting.
pub fn command() -> clap::Command {
    // The settings are accepted before the command, too, but one long list of them is enough.
    let top = Cli::command().mut_args(|arg| match arg.get_help_heading() {
        Some(_) if arg.get_long() != Some("log-level") => arg.hide(true),
        _ => arg,
    });
    let join = |command: clap::Command| match command.get_name() {
        // the others are accepted, so that one configuration does for all
        "join" => command.mut_args(|arg| match arg.get_help_heading() {
            Some(_) if !JOIN_SHOWS.contains(&arg.get_long().unwrap_or_default()) => arg.hide(true),
            _ => arg,
        }),
        _ => command,
    };
    reference::annotate(top).mut_subcommands(reference::annotate).mut_subcommands(join)
}

/// Settings that matter to `join`.
const JOIN_SHOWS: [&str; 4] = ["fleet", "state", "node-name", "log-level"];

/// Reads arguments (with the program's name first) and environment.
///
/// Reads the configuration file and looks at the machine for defaults if the command needs settings.
pub fn parse<A, E>(args: A, env: E) -> Result<Parsed, Failure>
where
    A: IntoIterator<Item = OsString>,
    E: IntoIterator<Item = (OsString, OsString)>,
{
    let env: Env = env.into_iter().collect();
    let cli = Cli::from_arg_matches(&command().try_get_matches_from(args)?)?;
    let Cli { global, settings: before, command: verb } = cli;
    let verbose = global.verbose;
    let mut warnings = suspicious(&env);
    let flags = before.clone();
    let measure = |after: Box<Partial>, command: &dyn Fn(Box<Settings>) -> Command| {
        let (settings, origins) = effective(after.or(before), &global, &env)?;
        if settings.state.is_none() && !origins.contains_key("state") {
            warnings.push("found no folder for totals, they start at zero with each start: set state".into());
        }
        let log_level = settings.log_level.clone();
        let command = match global.dump_config {
            true => Command::Print(reference::dump(&settings, &origins)),
            false => command(Box::new(settings)),
        };
        Ok(Parsed { command, verbose, log_level, warnings: std::mem::take(&mut warnings) })
    };
    let command = match verb {
        Some(Verb::Run { settings }) => return measure(settings, &Command::Run),
        Some(Verb::Top { settings, once, json }) => {
            return measure(settings, &|settings| Command::Top { settings, once, json });
        }
        Some(Verb::Check { settings, json }) => {
            return measure(settings, &|settings| Command::Check { settings, json });
        }
        Some(Verb::Zones { settings, json }) => {
            return measure(settings, &|settings| Command::Zones { settings, json });
        }
        Some(Verb::Join { settings, token }) => {
            return measure(settings, &|settings| Command::Join { settings, token: token.0.clone() });
        }
        _ if global.dump_config => return measure(Box::default(), &Command::Run),
        Some(Verb::Twin(args)) => twin(args)?,
        Some(Verb::Completion { shell }) => Command::Print(completion(shell)),
        Some(Verb::Manual { folder }) => Command::Manual(folder),
        None => {
            let why = "no command given: try `ebbtide-agent top`, `run`, `check` or `--help`";
            return Err(usage(ErrorKind::MissingSubcommand, why));
        }
    };
    Ok(Parsed { command, verbose, log_level: log_only(flags, verbose, &env)?, warnings })
}

fn completion(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "ebbtide-agent", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Merges flags, environment and file, and completes them with defaults.
fn effective(flags: Partial, global: &Global, env: &Env) -> Result<(Settings, BTreeMap<String, Origin>), Failure> {
    let mut layer = with_verbose(flags, global.verbose).over(Layer::env(env)?);
    if let Some(path) = config_file(global, env)? {
        layer = layer.over(file::read(&path)?);
    }
    let root = HostRoot::new(layer.values.root.as_ref().map_or("/".into(), |root| root.as_path().to_owned()));
    if !root.path().is_dir() {
        return Err(ConfigError::Root { path: root.path().to_owned() }.into());
    }
    let origins = layer.origins.clone();
    Ok((layer.resolve(&Surroundings::observe(&root, env))?, origins))
}

/// The flags as a layer; `--verbose` is a log level unless one is given.
fn with_verbose(flags: Partial, verbose: bool) -> Layer {
    let mut layer = Layer::flags(flags);
    if verbose && layer.values.log_level.is_none() {
        layer.values.log_level = Some(LogFilter::debug());
        layer.origins.insert("log-level".into(), Origin::Flag("--verbose".into()));
    }
    layer
}

/// The log level of commands that need no other setting, and so no file.
fn log_only(flags: Partial, verbose: bool, env: &Env) -> Result<LogFilter, Failure> {
    let only =
        env.iter().filter(|(name, _)| *name == "EBBTIDE_LOG_LEVEL").map(|(k, v)| (k.clone(), v.clone())).collect();
    let layer = with_verbose(flags, verbose).over(Layer::env(&only)?);
    Ok(layer.values.log_level.unwrap_or_default())
}

/// The file that is named by flag or environment.
fn config_file(global: &Global, env: &Env) -> Result<Option<PathBuf>, Failure> {
    let Some(value) = env.get(OsStr::new("EBBTIDE_CONFIG")).filter(|v| !v.is_empty() && global.config.is_none()) else {
        return Ok(global.config.as_ref().map(|path| path.as_path().to_owned()));
    };
    Ok(Some(PathBuf::from(value)))
}

fn usage(kind: ErrorKind, why: &str) -> Failure {
    command().error(kind, why).into()
}

fn twin(args: TwinArgs) -> Result<Command, Failure> {
    let TwinArgs { scenario, out, seed: play_seed, speed, duration, command } = args;
    match (command, scenario, out) {
        (Some(TwinVerb::Score { scenario, seed, counters, json }), None, None) => {
            let scenario = Some(scenario).filter(|s| s.as_os_str() != "all");
            Ok(Command::TwinScore { scenario, seed: seed.or(play_seed), counters, json })
        }
        (None, Some(scenario), Some(out)) => {
            let duration = duration.map(Period::get);
            Ok(Command::TwinPlay { scenario, out, seed: play_seed, speed, duration })
        }
        _ => Err(usage(ErrorKind::ArgumentConflict, "twin score takes its own flags: put them after `score`")),
    }
}

/// A token; `None` is `-`.
#[derive(Clone, Debug)]
struct TokenArg(Option<Token>);

fn token(text: &str) -> Result<TokenArg, Expected> {
    if text == "-" { Ok(TokenArg(None)) } else { text.parse().map(Some).map(TokenArg) }
}

fn speed(text: &str) -> Result<f64, String> {
    let ok = |x: &f64| x.is_finite() && (0.001..=100_000.0).contains(x);
    text.parse().ok().filter(ok).ok_or_else(|| "expected a factor from 0.001 to 100000, such as 10".into())
}
