//! Every setting of the agent, defined once.
//!
//! [`Partial`] is the definition: its fields are the flags, the `EBBTIDE_…` variables and the keys of the file, and
//! their doc comments are the help and `docs/config.md`. Layers (`layer.rs`, `file.rs`) are merged into one `Partial`,
//! which [`Partial::resolve`] checks and completes into [`Settings`], the only form the rest of the agent sees.

pub mod file;
pub mod fleet;
pub mod layer;
pub mod quantity;
pub mod reference;
pub mod value;
pub mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ebbtide_proto::{NodeId, Power, WorkloadKind};
use serde::{Deserialize, Serialize};

pub use crate::attribution::IdlePolicy;
use crate::host::HostRoot;
use crate::source::SourceKind;
use crate::usage::Choice;
pub use file::ConfigError;
pub use fleet::{Fleet, FleetAddress, SpoolSize, Stream, Token, Wall};
pub use layer::{Layer, Origin, Surroundings};
use quantity::{Floor, Period, Watts};
use value::{FilePath, HttpUrl, Listen, StateDir};
pub use value::{LogFilter, Processes};
pub use words::{Label, NameStyle};
use words::{One, Pick, Word};

/// Where totals are kept on a machine whose administrator runs the agent.
pub const SYSTEM_STATE: &str = "/var/lib/ebbtide-agent";

/// The settings that one layer gives; what it leaves out is `None`.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Partial {
    /// Root of the measured machine's file systems: /proc, /sys, /run and /etc are read below it. In a container,
    /// where the host's / is mounted.
    #[arg(long, value_name = "DIR", help_heading = "Measuring")]
    pub root: Option<FilePath>,

    /// Name of this node in metrics and JSON. The default is the host name.
    #[arg(long, value_name = "NAME", help_heading = "Measuring", value_parser = NodeId::new)]
    pub node_name: Option<NodeId>,

    /// Time between two samples, from 50ms to 1h.
    #[arg(long, value_name = "DURATION", help_heading = "Measuring")]
    pub interval: Option<Period<50, 3_600_000>>,

    /// Time between two readings of sensors that tell power only, from 10ms to 10s. Not longer than the interval,
    /// which is the default if it is shorter than 100ms.
    #[arg(long, value_name = "DURATION", help_heading = "Measuring")]
    pub fast_interval: Option<Period<10, 10_000>>,

    /// How long a zone that stops answering keeps its last figures, marked as stale; after that it is absent. From
    /// 100ms to 24h and not shorter than the interval. The default is three intervals if those are longer than 10s.
    #[arg(long, value_name = "DURATION", help_heading = "Measuring")]
    pub stale_after: Option<Period<100, 86_400_000>>,

    /// Kinds of sensors that may be used.
    #[arg(long, value_name = "LIST", help_heading = "Measuring", value_delimiter = ',',
          value_parser = words::pick::<SourceKind>())]
    pub sources: Option<Vec<Pick<SourceKind>>>,

    /// How the agent learns who ran: from the kernel by BPF, or from /proc. "auto" takes BPF where the kernel and the
    /// agent's rights allow it; ebbtide-agent check says what is missing where they don't.
    #[arg(long, value_name = "METHOD", help_heading = "Measuring", value_parser = words::one::<Choice>())]
    pub usage: Option<One<Choice>>,

    /// Count cycles, instructions and cache misses of each task and weigh by them, where the processor has counters.
    /// Needs BPF, and costs a fraction of a microsecond at each context switch.
    #[arg(long, value_name = "BOOL", help_heading = "Measuring", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub counters: Option<bool>,

    /// Tell the threads of a process apart also where /proc is read, so that it is charged for each package it ran on.
    /// Costs more CPU time. BPF always tells them apart.
    #[arg(long, value_name = "BOOL", help_heading = "Measuring", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub threads: Option<bool>,

    /// Power of the whole machine when it is idle, for machines without a sensor. Replaces the built-in load curve;
    /// needs model-full.
    #[arg(long, value_name = "WATTS", help_heading = "Measuring")]
    pub model_idle: Option<Watts>,

    /// Power of the whole machine when all processors are busy. Needs model-idle, which must be less.
    #[arg(long, value_name = "WATTS", help_heading = "Measuring")]
    pub model_full: Option<Watts>,

    /// Who carries the energy that flows while nobody works: nobody (it is shown as idle), or the workloads in
    /// proportion to their active energy, in proportion to what was reserved for them, or all alike.
    #[arg(long, value_name = "POLICY", help_heading = "Attribution", value_parser = words::one::<IdlePolicy>())]
    pub idle_policy: Option<One<IdlePolicy>>,

    /// Power that a zone draws when the machine is idle, by name of the zone. A zone that is not named here has its
    /// floor learned.
    #[arg(long, value_name = "ZONE=WATTS", help_heading = "Attribution", value_delimiter = ',')]
    #[serde(deserialize_with = "quantity::floors_from_toml", serialize_with = "quantity::floors_to_toml")]
    pub idle_floor: Option<Vec<Floor>>,

    /// Address and port of the metrics page. ":9883" is every address of the machine.
    #[arg(long, value_name = "ADDRESS", help_heading = "Metrics page")]
    pub listen: Option<Listen>,

    /// File with certificates and passwords for the metrics page, in the web configuration format of Prometheus
    /// exporters. Without it the page is plain HTTP and open to whoever reaches it.
    #[arg(long, value_name = "FILE", help_heading = "Metrics page")]
    pub web_config: Option<FilePath>,

    /// Compress the page for readers that accept gzip.
    #[arg(long, value_name = "BOOL", help_heading = "Metrics page", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub gzip: Option<bool>,

    /// Whose metric names are on the page; several may be given.
    #[arg(long, value_name = "LIST", help_heading = "Metrics page", value_delimiter = ',',
          value_parser = words::one::<NameStyle>())]
    pub names: Option<Vec<One<NameStyle>>>,

    /// Kinds of workloads that get series. Processes are not among them: they have the setting processes.
    #[arg(long, value_name = "LIST", help_heading = "Metrics page", value_delimiter = ',',
          value_parser = words::pick::<WorkloadKind>())]
    pub levels: Option<Vec<Pick<WorkloadKind>>>,

    /// Which processes get series of their own: "all", "off" or "top:N" for the N that draw most, with the rest as
    /// one so that the sum is kept.
    #[arg(long, value_name = "WHICH", help_heading = "Metrics page")]
    pub processes: Option<Processes>,

    /// Labels that series with native names carry besides those that tell them apart.
    #[arg(long, value_name = "LIST", help_heading = "Metrics page", value_delimiter = ',',
          value_parser = words::pick::<Label>())]
    pub labels: Option<Vec<Pick<Label>>>,

    /// The most series that processes may have on the page; 0 is no limit. Further processes are left off the page;
    /// the workloads that contain them count them all the same.
    #[arg(long, value_name = "NUMBER", help_heading = "Metrics page")]
    pub series_budget: Option<u32>,

    /// How long a workload stays on the page after it ended, so that its last value is scraped; up to 24h. Should
    /// cover two scrapes.
    #[arg(long, value_name = "DURATION", help_heading = "Metrics page")]
    pub retention: Option<Period<0, 86_400_000>>,

    /// Address of the kubelet, which is asked for the names of pods. Without it the kubelet is not asked.
    #[arg(long, value_name = "URL", help_heading = "Kubernetes")]
    pub kubelet_url: Option<HttpUrl>,

    /// File with the certificate authority of the kubelet. Needed for https, unless kubelet-insecure is set.
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub kubelet_ca: Option<FilePath>,

    /// File with the token that is shown to the kubelet, over https only. It is read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Kubernetes")]
    pub kubelet_token: Option<FilePath>,

    /// Accept any certificate from the kubelet. Whoever can answer in its place then learns the token.
    #[arg(long, value_name = "BOOL", help_heading = "Kubernetes", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub kubelet_insecure: Option<bool>,

    /// Address of the fleet daemon, which is told all that is measured: "fleet.example" or "fleet.example:9884";
    /// "http://" on this machine only. Without it nobody is told. ebbtide-agent join gets the certificates.
    #[arg(long, value_name = "ADDRESS", help_heading = "Fleet")]
    pub fleet: Option<FleetAddress>,

    /// File with the certificate authority of the fleet daemon. The default is identity/ca.pem in the state folder.
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    pub fleet_ca: Option<FilePath>,

    /// File with this node's certificate for the fleet. The default is identity/cert.pem in the state folder.
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    pub fleet_cert: Option<FilePath>,

    /// File with the key of fleet-cert. The default is identity/key.pem in the state folder.
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    pub fleet_key: Option<FilePath>,

    /// Send all that is measured in plain text to a fleet daemon that is not on this machine. Whoever is on the way
    /// can read it, and anybody can tell that daemon what they like.
    #[arg(long, value_name = "BOOL", help_heading = "Fleet", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub fleet_insecure: Option<bool>,

    /// Let the fleet daemon shut this machine down, after everything on it has left. For machines without a BMC that
    /// something else can wake. Whoever may give that daemon orders can then power this machine off.
    #[arg(long, value_name = "BOOL", help_heading = "Fleet", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub fleet_may_shut_down: Option<bool>,

    /// Program that shuts this machine down, called without arguments. The default is systemctl poweroff.
    #[arg(long, value_name = "FILE", help_heading = "Fleet")]
    pub shut_down_program: Option<FilePath>,

    /// Time between two moments of the node and its zones in the fleet, from 100ms to 1h. Not shorter than the
    /// interval, which is the default if it is longer than 1s. The fleet may ask for another.
    #[arg(long, value_name = "DURATION", help_heading = "Fleet")]
    pub fleet_node_interval: Option<Period<100, 3_600_000>>,

    /// Time between two moments of workloads in the fleet, from 100ms to 1h; also the time between two messages. Not
    /// shorter than fleet-node-interval. The fleet may ask for another.
    #[arg(long, value_name = "DURATION", help_heading = "Fleet")]
    pub fleet_workload_interval: Option<Period<100, 3_600_000>>,

    /// Kinds of workloads that the fleet is told of.
    #[arg(long, value_name = "LIST", help_heading = "Fleet", value_delimiter = ',',
          value_parser = words::pick::<WorkloadKind>())]
    pub fleet_levels: Option<Vec<Pick<WorkloadKind>>>,

    /// Take what the fleet reads at this machine's outlets or its BMC. It becomes the zone wall; what no other zone
    /// counts is shown as the rest, and a machine without a sensor is modelled so that it adds up to it.
    #[arg(long, value_name = "CHOICE", help_heading = "Fleet", value_parser = words::one::<Wall>())]
    pub wall: Option<One<Wall>>,

    /// File that says which outlets or BMC this machine hangs on, for agents without a fleet that reads them: outlets =
    /// ["pdu/3"], bmc = "name", and the tables device of docs/devices.md. Then the fleet's readings are not taken.
    #[arg(long, value_name = "FILE", help_heading = "Measuring")]
    pub wall_devices: Option<FilePath>,

    /// Disk space for what the fleet could not be told yet, from 1MiB to 1024GiB, in the folder spool of the state
    /// folder. The oldest goes first, and the fleet is told how much. "none" keeps an hour or so in memory.
    #[arg(long, value_name = "SIZE", help_heading = "Fleet")]
    pub spool_size: Option<SpoolSize>,

    /// How long it is kept, from 1m to 8760h.
    #[arg(long, value_name = "DURATION", help_heading = "Fleet")]
    pub spool_age: Option<Period<60_000, 31_536_000_000>>,

    /// Folder in which totals survive a restart of the agent; "none" keeps none. The default is
    /// /var/lib/ebbtide-agent where that can be written, else ebbtide-agent in $XDG_STATE_HOME or ~/.local/state.
    #[arg(long, value_name = "DIR", help_heading = "Program")]
    pub state: Option<StateDir>,

    /// What is logged: error, warn, info, debug, trace, off, or directives such as "info,ebbtide_agent=debug".
    #[arg(long, value_name = "LEVEL", help_heading = "Program", global = true)]
    pub log_level: Option<LogFilter>,
}

/// What the agent runs with: checked, complete, no more texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The measured machine.
    pub root: HostRoot,
    /// Its name.
    pub node_name: NodeId,
    /// Time between two samples.
    pub interval: Duration,
    /// Time between two readings of power-only sensors; at most `interval`.
    pub fast_interval: Duration,
    /// How long a silent zone counts as stale rather than absent; at least `interval`.
    pub stale_after: Duration,
    /// Kinds of sensors that may be used; never empty.
    pub sources: BTreeSet<SourceKind>,
    /// How usage is read.
    pub usage: Choice,
    /// Whether hardware counters are used.
    pub counters: bool,
    /// Whether threads are told apart in `/proc`.
    pub threads: bool,
    /// The operator's load curve.
    pub model: Option<ModelLoad>,
    /// Who carries idle energy.
    pub idle_policy: IdlePolicy,
    /// Idle floors by name of the zone; other zones' floors are learned.
    pub idle_floor: BTreeMap<String, Power>,
    /// Where the page is.
    pub listen: SocketAddr,
    /// TLS and passwords of the page.
    pub web_config: Option<PathBuf>,
    /// Whether the page may be compressed.
    pub gzip: bool,
    /// Whose names are on it; never empty.
    pub names: BTreeSet<NameStyle>,
    /// Kinds of workloads with series; never holds [`WorkloadKind::Process`].
    pub levels: BTreeSet<WorkloadKind>,
    /// Processes with series.
    pub processes: Processes,
    /// Optional labels of workload series.
    pub labels: BTreeSet<Label>,
    /// The most series that processes may have on the page; 0 is no limit.
    pub series_budget: u32,
    /// How long ended workloads stay on the page.
    pub retention: Duration,
    /// The kubelet, if it is to be asked.
    pub kubelet: Option<Kubelet>,
    /// The fleet daemon, if there is one.
    pub fleet: Option<Fleet>,
    /// What it is told, and what is kept for it.
    pub stream: Stream,
    /// File with the devices that feed this machine.
    pub wall_devices: Option<PathBuf>,
    /// Where totals are kept, if at all.
    pub state: Option<PathBuf>,
    /// What is logged.
    pub log_level: LogFilter,
}

/// Two points of a machine's power that replace the built-in load curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelLoad {
    /// Nothing runs.
    pub idle: Power,
    /// All processors are busy; more than `idle`.
    pub full: Power,
}

/// How the kubelet is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubelet {
    /// `http://` or `https://`, no slash at the end.
    pub url: String,
    /// File with its certificate authority.
    pub ca: Option<PathBuf>,
    /// File with our token.
    pub token: Option<PathBuf>,
    /// Accept any certificate.
    pub insecure: bool,
}

/// Settings that don't go together. Names the key to look at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// A key that was set.
    pub key: &'static str,
    /// What is wrong with it.
    pub why: String,
    /// What to do.
    pub fix: &'static str,
}

impl Partial {
    /// These settings where they are given, else those of `lower`. Lists and tables are replaced, not joined.
    #[must_use]
    pub fn or(self, lower: Self) -> Self {
        Self {
            root: self.root.or(lower.root),
            node_name: self.node_name.or(lower.node_name),
            interval: self.interval.or(lower.interval),
            fast_interval: self.fast_interval.or(lower.fast_interval),
            stale_after: self.stale_after.or(lower.stale_after),
            sources: self.sources.or(lower.sources),
            usage: self.usage.or(lower.usage),
            counters: self.counters.or(lower.counters),
            threads: self.threads.or(lower.threads),
            model_idle: self.model_idle.or(lower.model_idle),
            model_full: self.model_full.or(lower.model_full),
            idle_policy: self.idle_policy.or(lower.idle_policy),
            idle_floor: self.idle_floor.or(lower.idle_floor),
            listen: self.listen.or(lower.listen),
            web_config: self.web_config.or(lower.web_config),
            gzip: self.gzip.or(lower.gzip),
            names: self.names.or(lower.names),
            levels: self.levels.or(lower.levels),
            processes: self.processes.or(lower.processes),
            labels: self.labels.or(lower.labels),
            series_budget: self.series_budget.or(lower.series_budget),
            retention: self.retention.or(lower.retention),
            kubelet_url: self.kubelet_url.or(lower.kubelet_url),
            kubelet_ca: self.kubelet_ca.or(lower.kubelet_ca),
            kubelet_token: self.kubelet_token.or(lower.kubelet_token),
            kubelet_insecure: self.kubelet_insecure.or(lower.kubelet_insecure),
            fleet: self.fleet.or(lower.fleet),
            fleet_ca: self.fleet_ca.or(lower.fleet_ca),
            fleet_cert: self.fleet_cert.or(lower.fleet_cert),
            fleet_key: self.fleet_key.or(lower.fleet_key),
            fleet_insecure: self.fleet_insecure.or(lower.fleet_insecure),
            fleet_may_shut_down: self.fleet_may_shut_down.or(lower.fleet_may_shut_down),
            shut_down_program: self.shut_down_program.or(lower.shut_down_program),
            fleet_node_interval: self.fleet_node_interval.or(lower.fleet_node_interval),
            fleet_workload_interval: self.fleet_workload_interval.or(lower.fleet_workload_interval),
            fleet_levels: self.fleet_levels.or(lower.fleet_levels),
            wall: self.wall.or(lower.wall),
            wall_devices: self.wall_devices.or(lower.wall_devices),
            spool_size: self.spool_size.or(lower.spool_size),
            spool_age: self.spool_age.or(lower.spool_age),
            state: self.state.or(lower.state),
            log_level: self.log_level.or(lower.log_level),
        }
    }

    /// Completes what is given with the defaults and checks that it goes together.
    pub fn resolve(self, around: &Surroundings) -> Result<Settings, Conflict> {
        let model = self.model()?;
        let kubelet = self.kubelet()?;
        let idle_floor = floors(self.idle_floor.as_deref().unwrap_or_default())?;
        let interval = self.interval.map_or(Duration::from_secs(1), Period::get);
        let fast_interval = self.fast_interval.map_or(interval.min(Duration::from_millis(100)), Period::get);
        if fast_interval > interval {
            return conflict("fast-interval", "is longer than interval", "make it shorter or leave it out");
        }
        let stale_after = self.stale_after.map_or((interval * 3).max(Duration::from_secs(10)), Period::get);
        if stale_after < interval {
            return conflict("stale-after", "is shorter than interval", "make it longer or leave it out");
        }
        let sources = picked("sources", self.sources.as_deref())?;
        if sources.is_empty() {
            return conflict("sources", "leaves no sensor at all", "name at least one, or \"all\"");
        }
        let usage = self.usage.map_or(Choice::Auto, |one| one.0);
        let counters = self.counters.unwrap_or(false);
        if counters && usage == Choice::Procfs {
            return conflict("counters", "needs BPF, but usage is \"procfs\"", "set usage to \"auto\" or \"bpf\"");
        }
        let names: BTreeSet<NameStyle> = match &self.names {
            Some(names) => names.iter().map(|one| one.0).collect(),
            None => BTreeSet::from([NameStyle::Native]),
        };
        if names.is_empty() {
            return conflict("names", "is empty: the page would be, too", "name at least one, such as \"native\"");
        }
        let state = match &self.state {
            Some(StateDir::Off) => None,
            Some(StateDir::In(folder)) => path(Some(folder.clone())),
            None => around.state.clone(),
        };
        let fleet = fleet::fleet(&self, state.is_some())?;
        let stream = fleet::stream(&self, interval)?;
        Ok(Settings {
            root: HostRoot::new(path(self.root).unwrap_or_else(|| "/".into())),
            node_name: self.node_name.unwrap_or_else(|| around.host_name.clone()),
            interval,
            fast_interval,
            stale_after,
            sources,
            usage,
            counters,
            threads: self.threads.unwrap_or(false),
            model,
            idle_policy: self.idle_policy.map_or(IdlePolicy::Unallocated, |one| one.0),
            idle_floor,
            listen: self.listen.map_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 9883)), |listen| listen.0),
            web_config: path(self.web_config),
            gzip: self.gzip.unwrap_or(true),
            names,
            levels: picked("levels", self.levels.as_deref())?,
            processes: self.processes.unwrap_or(Processes::Top(50)),
            labels: picked("labels", self.labels.as_deref())?,
            series_budget: self.series_budget.unwrap_or(200_000),
            retention: self.retention.map_or(Duration::from_secs(60), Period::get),
            kubelet,
            fleet,
            stream,
            wall_devices: path(self.wall_devices),
            state,
            log_level: self.log_level.unwrap_or_default(),
        })
    }

    fn model(&self) -> Result<Option<ModelLoad>, Conflict> {
        match (self.model_idle, self.model_full) {
            (None, None) => Ok(None),
            (Some(Watts(idle)), Some(Watts(full))) if idle < full => Ok(Some(ModelLoad { idle, full })),
            (Some(_), Some(_)) => conflict("model-full", "is not more than model-idle", "give the power at full load"),
            (Some(_), None) => conflict("model-idle", "needs model-full", "give both or none"),
            (None, Some(_)) => conflict("model-full", "needs model-idle", "give both or none"),
        }
    }

    fn kubelet(&self) -> Result<Option<Kubelet>, Conflict> {
        let insecure = self.kubelet_insecure.unwrap_or(false);
        let Some(url) = &self.kubelet_url else {
            let alone = [
                ("kubelet-ca", self.kubelet_ca.is_some()),
                ("kubelet-token", self.kubelet_token.is_some()),
                ("kubelet-insecure", insecure),
            ];
            return match alone.into_iter().find(|(_, set)| *set) {
                Some((key, _)) => conflict(key, "has no effect without kubelet-url", "set kubelet-url or leave it out"),
                None => Ok(None),
            };
        };
        if insecure && self.kubelet_ca.is_some() {
            return conflict("kubelet-insecure", "makes kubelet-ca meaningless", "leave one of them out");
        }
        if !insecure && self.kubelet_ca.is_none() && url.as_str().starts_with("https://") {
            return conflict(
                "kubelet-url",
                "can't be trusted without kubelet-ca",
                "set kubelet-ca or kubelet-insecure",
            );
        }
        if self.kubelet_token.is_some() && url.as_str().starts_with("http://") {
            return conflict("kubelet-token", "would be sent in plain text", "use an https address in kubelet-url");
        }
        let (ca, token) = (path(self.kubelet_ca.clone()), path(self.kubelet_token.clone()));
        Ok(Some(Kubelet { url: url.as_str().to_owned(), ca, token, insecure }))
    }
}

/// What runs if nothing is set, in default [`Surroundings`].
impl Default for Settings {
    fn default() -> Self {
        #[allow(clippy::expect_used, reason = "no input at all; every test would fail")]
        Partial::default().resolve(&Surroundings::default()).expect("defaults go together")
    }
}

/// The text forms of settings: `Partial::from(&settings).resolve(_)` gives them back.
impl From<&Settings> for Partial {
    fn from(s: &Settings) -> Self {
        let known = |path: &PathBuf| FilePath::known(path);
        let kubelet = s.kubelet.as_ref();
        let fleet = s.fleet.as_ref();
        Self {
            root: Some(FilePath::known(s.root.path())),
            node_name: Some(s.node_name.clone()),
            interval: Some(Period::clamped(s.interval)),
            fast_interval: Some(Period::clamped(s.fast_interval)),
            stale_after: Some(Period::clamped(s.stale_after)),
            sources: Some(Pick::list(&s.sources)),
            usage: Some(One(s.usage)),
            counters: Some(s.counters),
            threads: Some(s.threads),
            model_idle: s.model.map(|m| Watts(m.idle)),
            model_full: s.model.map(|m| Watts(m.full)),
            idle_policy: Some(One(s.idle_policy)),
            idle_floor: Some(s.idle_floor.iter().map(|(z, w)| Floor { zone: z.clone(), watts: Watts(*w) }).collect()),
            listen: Some(Listen(s.listen)),
            web_config: s.web_config.as_ref().map(known),
            gzip: Some(s.gzip),
            names: Some(NameStyle::ALL.iter().filter(|n| s.names.contains(n)).map(|n| One(*n)).collect()),
            levels: Some(Pick::list(&s.levels)),
            processes: Some(s.processes),
            labels: Some(Pick::list(&s.labels)),
            series_budget: Some(s.series_budget),
            retention: Some(Period::clamped(s.retention)),
            kubelet_url: kubelet.and_then(|k| k.url.parse().ok()),
            kubelet_ca: kubelet.and_then(|k| k.ca.as_ref()).map(known),
            kubelet_token: kubelet.and_then(|k| k.token.as_ref()).map(known),
            kubelet_insecure: Some(kubelet.is_some_and(|k| k.insecure)),
            fleet: fleet.map(|f| f.address.clone()),
            fleet_ca: fleet.and_then(|f| f.ca.as_ref()).map(known),
            fleet_cert: fleet.and_then(|f| f.cert.as_ref()).map(known),
            fleet_key: fleet.and_then(|f| f.key.as_ref()).map(known),
            fleet_insecure: Some(fleet.is_some_and(|f| f.insecure)),
            fleet_may_shut_down: Some(fleet.is_some_and(|f| f.may_shut_down)),
            shut_down_program: fleet.and_then(|f| f.shut_down_program.as_ref()).map(known),
            fleet_node_interval: Some(Period::clamped(s.stream.node_interval)),
            fleet_workload_interval: Some(Period::clamped(s.stream.workload_interval)),
            fleet_levels: Some(Pick::list(&s.stream.levels)),
            wall: Some(One(s.stream.wall)),
            wall_devices: s.wall_devices.as_ref().map(known),
            spool_size: Some(s.stream.spool_size),
            spool_age: Some(Period::clamped(s.stream.spool_age)),
            state: Some(s.state.as_ref().map_or(StateDir::Off, |folder| StateDir::In(known(folder)))),
            log_level: Some(s.log_level.clone()),
        }
    }
}

fn conflict<T>(key: &'static str, why: &str, fix: &'static str) -> Result<T, Conflict> {
    Err(Conflict { key, why: why.to_owned(), fix })
}

fn path(path: Option<FilePath>) -> Option<PathBuf> {
    path.as_ref().map(FilePath::as_path).map(Path::to_owned)
}

fn picked<T: Word>(key: &'static str, picks: Option<&[Pick<T>]>) -> Result<BTreeSet<T>, Conflict> {
    Pick::set(picks.unwrap_or(&[Pick::All])).map_err(|e| Conflict {
        key,
        why: format!("is a mix: {e}"),
        fix: "name the words, or only \"all\" or \"none\"",
    })
}

fn floors(given: &[Floor]) -> Result<BTreeMap<String, Power>, Conflict> {
    let mut floors = BTreeMap::new();
    for floor in given {
        if floors.insert(floor.zone.clone(), floor.watts.0).is_some() {
            let why = format!("names zone {:?} twice", value::excerpt(&floor.zone));
            return Err(Conflict { key: "idle-floor", why, fix: "give each zone once" });
        }
    }
    Ok(floors)
}
