//! What the twin simulates: a machine, the work on it and what happens to it, as a TOML file.
//!
//! Every key has a default that makes a plain one-socket server, so that a scenario only spells out
//! what it is about. Unknown keys and impossible figures are refused with the line they stand on.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

pub use super::check::ScenarioError;
use super::check::{unknown_key, within};

/// A whole scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Scenario {
    /// Short name, as in file names and tables.
    pub name: String,
    /// One sentence on what it is for.
    pub about: String,
    /// How long the scenario runs, seconds of running time.
    pub duration_s: f64,
    /// Time step of the model, ms, 1 to 10.
    pub step_ms: u32,
    /// Seed used where none is given.
    pub seed: u64,
    /// The hardware.
    pub machine: Machine,
    /// Its energy counters.
    pub rapl: Rapl,
    /// What runs on it.
    pub workloads: Vec<Workload>,
    /// What happens to it.
    pub events: Vec<Event>,
}

/// The file's own form: as [`Scenario`], with lines remembered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default = "ten_minutes")]
    duration_s: Spanned<f64>,
    #[serde(default = "ten")]
    step_ms: Spanned<u32>,
    #[serde(default = "one")]
    seed: u64,
    #[serde(default = "no_machine")]
    machine: Spanned<Machine>,
    #[serde(default = "no_rapl")]
    rapl: Spanned<Rapl>,
    #[serde(default)]
    workload: Vec<Spanned<Workload>>,
    #[serde(default)]
    event: Vec<Spanned<Event>>,
}

fn ten_minutes() -> Spanned<f64> {
    Spanned::new(0..0, 600.0)
}
fn ten() -> Spanned<u32> {
    Spanned::new(0..0, 10)
}
fn one() -> u64 {
    1
}
fn no_machine() -> Spanned<Machine> {
    Spanned::new(0..0, Machine::default())
}
fn no_rapl() -> Spanned<Rapl> {
    Spanned::new(0..0, Rapl::default())
}

/// How frequency follows load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Governor {
    /// Always the highest frequency that the number of busy cores allows.
    Performance,
    /// 1.25 times the core's recent utilisation of the highest, as the kernel's governor of that name.
    Schedutil,
}

/// Which cgroup hierarchy `/proc/PID/cgroup` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupVersion {
    /// One line per controller.
    V1,
    /// Both.
    Hybrid,
    /// The single `0::` line.
    V2,
}

/// The hardware and its power.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Machine {
    /// `/proc/sys/kernel/hostname`.
    pub hostname: String,
    /// `model name` of `/proc/cpuinfo`.
    pub model: String,
    /// Processor packages, 1 to 8.
    pub sockets: u32,
    /// Physical cores per package, 1 to 128.
    pub cores: u32,
    /// Threads per core, 1 or 2.
    pub smt: u32,
    /// Lowest frequency, MHz.
    pub min_mhz: u32,
    /// Frequency at which `core_w` is stated, MHz.
    pub base_mhz: u32,
    /// Highest frequency with one busy core, MHz; with all busy it is `base_mhz`, linear between.
    pub turbo_mhz: u32,
    /// How frequency follows load.
    pub governor: Governor,
    /// Core voltage at `min_mhz`, volts; linear to `max_volts`.
    pub min_volts: f64,
    /// Core voltage at `turbo_mhz`, volts.
    pub max_volts: f64,
    /// Idle floor of one package, watts, its cores included.
    pub idle_w: f64,
    /// The part of `idle_w` that the core zone counts, watts.
    pub core_idle_w: f64,
    /// Dynamic power of one busy core at base frequency and activity 1, watts.
    pub core_w: f64,
    /// What two busy siblings draw beyond one, as a fraction.
    pub smt_extra: f64,
    /// Dynamic power of the rest of the package (mesh, caches) with all cores busy, watts.
    pub uncore_w: f64,
    /// Idle floor of one socket's memory, watts.
    pub dram_idle_w: f64,
    /// Power of one traffic unit per CPU second and second, watts.
    pub dram_w: f64,
    /// What psys counts beyond packages and memory, watts.
    pub board_w: f64,
    /// Share of each CPU's time that interrupts take.
    pub irq_util: f64,
    /// Memory, MiB.
    pub mem_mib: u64,
    /// cgroup hierarchy.
    pub cgroup: CgroupVersion,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// Uptime at the start, seconds.
    pub uptime_s: f64,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            hostname: "twin".into(),
            model: "Ebbtide Twin CPU @ 2.40GHz".into(),
            sockets: 1,
            cores: 8,
            smt: 2,
            min_mhz: 800,
            base_mhz: 2400,
            turbo_mhz: 2400,
            governor: Governor::Performance,
            min_volts: 0.70,
            max_volts: 1.05,
            idle_w: 18.0,
            core_idle_w: 4.0,
            core_w: 7.0,
            smt_extra: 0.15,
            uncore_w: 8.0,
            dram_idle_w: 3.0,
            dram_w: 0.8,
            board_w: 25.0,
            irq_util: 0.002,
            mem_mib: 65_536,
            cgroup: CgroupVersion::V2,
            boot_id: "5b1f0f4e-6f2c-4c55-9a0e-3a4c1c7d9e21".into(),
            uptime_s: 86_400.0,
        }
    }
}

impl Machine {
    /// Logical CPUs.
    pub fn cpus(&self) -> usize {
        self.sockets as usize * self.cores as usize * self.smt as usize
    }
}

/// Which counters the machine offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offered {
    /// One per package.
    Package,
    /// The cores of each package.
    Core,
    /// The memory of each socket.
    Dram,
    /// The platform.
    Psys,
    /// The packages once more, through memory-mapped registers.
    Mmio,
}

/// The energy counters.
///
/// Defaults are the facts of Intel's manual (SDM vol. 3B, 15.10): a 32-bit register in units of
/// 61 µJ, updated about every millisecond (also Hähnel et al. 2012, "Measuring energy consumption
/// for short code paths using RAPL").
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rapl {
    /// Counters offered.
    pub zones: Vec<Offered>,
    /// One unit of the register, nJ.
    pub quantum_nj: u64,
    /// Time between two updates of the register, µs.
    pub update_us: u32,
    /// How much later an update may be, µs.
    pub jitter_us: u32,
    /// Standard deviation of each step's energy, parts per million.
    pub noise_ppm: u32,
    /// `max_energy_range_uj`.
    pub range_uj: u64,
    /// Value at the start, µJ.
    pub start_uj: u64,
}

impl Default for Rapl {
    fn default() -> Self {
        Self {
            zones: vec![Offered::Package, Offered::Core, Offered::Dram],
            quantum_nj: 61_035,
            update_us: 1000,
            jitter_us: 50,
            noise_ppm: 2000,
            range_uj: 262_143_328_850,
            start_uj: 123_456_789,
        }
    }
}

/// When a workload's processes want to run. Utilisations are per thread, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Pattern {
    /// Never.
    Idle,
    /// Always the same share.
    Steady {
        /// Share of time wanted.
        util: f64,
    },
    /// On and off.
    Bursty {
        /// Mean length of a burst, ms.
        on_ms: f64,
        /// Mean length of a pause, ms.
        off_ms: f64,
        /// Share of time wanted in a burst.
        #[serde(default = "full")]
        util: f64,
        /// Spread of both lengths as a fraction, evenly distributed.
        #[serde(default)]
        jitter: f64,
    },
    /// A sine between two levels.
    Diurnal {
        /// Least share.
        min: f64,
        /// Greatest share.
        max: f64,
        /// Time from peak to peak, seconds.
        period_s: f64,
        /// Where in the period it begins, 0 (the least share) to 1.
        #[serde(default)]
        phase: f64,
    },
    /// Wanders between two levels.
    RandomWalk {
        /// Least share.
        min: f64,
        /// Greatest share.
        max: f64,
    },
    /// A parent `NAME-root` whose children `NAME` burn CPU time, end and are reaped.
    Storm {
        /// CPU time of one child, ms.
        burn_ms: f64,
        /// Pause before the next child of the chain, ms.
        #[serde(default)]
        gap_ms: f64,
        /// Chains of children side by side.
        #[serde(default = "one_chain")]
        chains: u32,
    },
}

fn full() -> f64 {
    1.0
}
fn one_chain() -> u32 {
    1
}

/// Processes that do the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Name in the truth; `comm` is its first 15 bytes unless given.
    pub name: String,
    /// The kernel's name of the process, at most 15 bytes.
    #[serde(default)]
    pub comm: Option<String>,
    /// Path in the cgroup hierarchy.
    #[serde(default = "root_group")]
    pub cgroup: String,
    /// User.
    #[serde(default)]
    pub uid: u32,
    /// Processes.
    #[serde(default = "one_chain")]
    pub count: u32,
    /// Threads of each.
    #[serde(default = "one_chain")]
    pub threads: u32,
    /// When they want to run.
    pub pattern: Pattern,
    /// CPUs they may run on; all if empty.
    #[serde(default)]
    pub cpus: Vec<u32>,
    /// Watts per CPU second against the average instruction mix.
    #[serde(default = "full")]
    pub activity: f64,
    /// Instructions per cycle alone on a core; as `activity` if absent.
    #[serde(default)]
    pub ipc: Option<f64>,
    /// Memory traffic units per CPU second.
    #[serde(default = "full")]
    pub traffic: f64,
    /// Resident memory of each, MiB.
    #[serde(default = "rss")]
    pub rss_mib: u64,
    /// Share of CPU time spent in the kernel.
    #[serde(default = "tenth")]
    pub sys: f64,
    /// When they start, seconds of running time.
    #[serde(default)]
    pub start_s: f64,
    /// When they end; never if absent.
    #[serde(default)]
    pub stop_s: Option<f64>,
}

fn root_group() -> String {
    "/system.slice/twin.service".into()
}
fn rss() -> u64 {
    64
}
fn tenth() -> f64 {
    0.1
}

/// Something that happens to the machine or to the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// When, seconds of running time.
    pub at_s: f64,
    /// What.
    pub what: What,
}

/// The kinds of [`Event`]. Zones are named as in the truth: `package-0`, `package-0/core`, `psys`, `mmio/package-0`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// The machine sleeps; running time stands still, nothing is drawn.
    Suspend {
        /// How long, seconds.
        for_s: f64,
        /// Whether the counters start at zero afterwards.
        #[serde(default)]
        resets: bool,
    },
    /// A CPU goes away.
    CpuOffline {
        /// Its number; CPU 0 stays.
        cpu: u32,
    },
    /// A CPU comes back.
    CpuOnline {
        /// Its number.
        cpu: u32,
    },
    /// A counter goes back.
    CounterReset {
        /// Its zone.
        zone: String,
        /// By how much, µJ; to zero if absent.
        #[serde(default)]
        by_uj: Option<u64>,
    },
    /// A zone's `energy_uj` disappears.
    Unlink {
        /// Its zone.
        zone: String,
    },
    /// A zone's `energy_uj` comes back.
    Relink {
        /// Its zone.
        zone: String,
    },
    /// For whoever drives the agent: stop it, start it again.
    AgentRestart {
        /// How long it is down, seconds.
        down_s: f64,
    },
}

impl Scenario {
    /// Reads a scenario file.
    pub fn read(path: &Path) -> Result<Self, ScenarioError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Parses and checks a scenario.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let line = |at: usize| 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let file: File = toml::from_str(text).map_err(|e| {
            let line = line(e.span().map_or(0, |s| s.start));
            match unknown_key(e.message()) {
                Some((key, nearest)) => ScenarioError::UnknownKey { line, key, nearest },
                None => ScenarioError::Syntax { line, why: e.message().replace('\n', ", ") },
            }
        })?;
        let at = |span: std::ops::Range<usize>, e: String| ScenarioError::Value { line: line(span.start), why: e };
        let span = file.duration_s.span();
        within("duration_s", *file.duration_s.get_ref(), 1e-3, 1e7).map_err(|e| at(span, e))?;
        let span = file.step_ms.span();
        within("step_ms", f64::from(*file.step_ms.get_ref()), 1.0, 10.0).map_err(|e| at(span, e))?;
        let machine = file.machine.get_ref();
        machine.check().map_err(|e| at(file.machine.span(), e))?;
        file.rapl.get_ref().check().map_err(|e| at(file.rapl.span(), e))?;
        let mut processes = 0_u64;
        for w in &file.workload {
            w.get_ref().check(machine).map_err(|e| at(w.span(), e))?;
            processes += u64::from(w.get_ref().count) * u64::from(w.get_ref().threads);
            if processes > MAX_THREADS {
                return Err(at(
                    w.span(),
                    format!("up to here these are {processes} threads, at most {MAX_THREADS} fit"),
                ));
            }
        }
        let zones = super::truth::zone_ids(machine, file.rapl.get_ref());
        for e in &file.event {
            e.get_ref().check(machine, &zones).map_err(|why| at(e.span(), why))?;
        }
        let mut events: Vec<Event> = file.event.into_iter().map(Spanned::into_inner).collect();
        events.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        Ok(Self {
            name: file.name,
            about: file.about,
            duration_s: file.duration_s.into_inner(),
            step_ms: file.step_ms.into_inner(),
            seed: file.seed,
            machine: file.machine.into_inner(),
            rapl: file.rapl.into_inner(),
            workloads: file.workload.into_iter().map(Spanned::into_inner).collect(),
            events,
        })
    }

    /// How long the scenario runs.
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration_s)
    }
}

/// The most threads that one scenario may have.
const MAX_THREADS: u64 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        Scenario::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let w = "name = \"x\"\n[[workload]]\nname = \"w\"\n";
        let cases = [
            (
                "name = \"x\"\n[machine]\nsokets = 2\n".to_owned(),
                "line 3: there is no key `sokets` here; did you mean `sockets`?",
            ),
            (
                format!("{w}pattern = {{ steddy = {{ util = 1 }} }}\n"),
                "line 4: there is no key `steddy` here; did you mean `steady`?",
            ),
            (
                format!("{w}pattern = {{ steady = {{ utl = 1.0 }} }}\n"),
                "line 4: there is no key `utl` here; did you mean `util`?",
            ),
            ("name = \"x\"\nqqq = 1\n".to_owned(), "line 2: there is no key `qqq` here"),
            (
                format!("{w}pattern = {{ steady = {{ util = 1.5 }} }}\n"),
                "line 2: workload \"w\": util is 1.5, it must be between 0 and 1",
            ),
            ("name = \"x\"\nstep_ms = 20\n".to_owned(), "line 2: step_ms is 20, it must be between 1 and 10"),
            (
                "name = \"x\"\n[[event]]\nat_s = 1\nwhat = { unlink = { zone = \"dram\" } }".to_owned(),
                "line 2: there is no zone \"dram\", this machine has package-0, package-0/core, package-0/dram",
            ),
            (
                "name = \"x\"\n[machine]\nsockets = \"2\"\n".to_owned(),
                "line 3: invalid type: string \"2\", expected u32",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(error(&text), expected, "{text}");
        }
    }

    #[test]
    fn events_come_in_order_of_time() {
        let event = |s: f64| format!("[[event]]\nat_s = {s}\nwhat = {{ agent_restart = {{ down_s = 1 }} }}\n");
        let text = format!("name = \"x\"\n{}{}", event(5.5), event(2.0));
        let at: Vec<f64> = Scenario::parse(&text).unwrap().events.iter().map(|e| e.at_s).collect();
        assert_eq!(at, [2.0, 5.5]);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_passes_is_in_range(tail in "[a-z_=0-9.\\[\\]{}\" \n-]{0,60}", cores in any::<u32>(), util in any::<f64>()) {
            let text = format!("name = \"x\"\n[machine]\ncores = {cores}\n[[workload]]\nname=\"w\"\npattern.steady.util = {util:?}\n{tail}");
            match Scenario::parse(&text) {
                Ok(s) => {
                    prop_assert!((1..=128).contains(&s.machine.cores));
                    prop_assert!(s.workloads.iter().all(|w| w.activity.is_finite()));
                }
                Err(e) => prop_assert!(e.to_string().starts_with("line ")),
            }
        }
    }
}
