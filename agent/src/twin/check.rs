//! What can be wrong with a scenario, said with the line, what was given and what is allowed.

use std::path::PathBuf;

use ebbtide_proto::{BootId, NodeId};

use super::scenario::{Event, Machine, Offered, Pattern, Rapl, What, Workload};

/// Why a scenario can't be used; the text is a sentence that names the line.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file can't be read.
    #[error("can't read the scenario {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key that no scenario has.
    #[error("line {line}: there is no key `{key}` here{}", suggest(.nearest))]
    UnknownKey {
        /// Line of the key, from 1.
        line: usize,
        /// The key as written.
        key: String,
        /// The key that is spelled most like it.
        nearest: Option<String>,
    },
    /// Not TOML, or a value of the wrong type.
    #[error("line {line}: {why}")]
    Syntax {
        /// Line from 1.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A figure that can't be simulated.
    #[error("line {line}: {why}")]
    Value {
        /// Line from 1 of the value, or of the table that holds it.
        line: usize,
        /// What is wrong and what is allowed.
        why: String,
    },
}

fn suggest(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default()
}

/// The key that serde didn't know and the one it may have meant, from either wording of the parser.
pub(super) fn unknown_key(message: &str) -> Option<(String, Option<String>)> {
    let (key, known): (&str, Vec<&str>) = match message.strip_prefix("unexpected keys in table: ") {
        Some(rest) => {
            let (keys, known) = rest.split_once(", available keys: ")?;
            (keys.split(", ").next()?, known.split(", ").collect())
        }
        None => {
            let rest = message.strip_prefix("unknown field `").or(message.strip_prefix("unknown variant `"))?;
            let mut quoted = rest.split('`');
            (quoted.next()?, quoted.skip(1).step_by(2).collect())
        }
    };
    let like = |k: &str| strsim::jaro_winkler(k, key);
    let nearest = known.into_iter().max_by(|a, b| like(a).total_cmp(&like(b)));
    Some((key.to_owned(), nearest.filter(|n| like(n) > 0.7).map(str::to_owned)))
}

pub(super) fn within(what: &str, value: f64, min: f64, max: f64) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{what} is {value}, it must be between {min} and {max}"))
}

impl Machine {
    pub(super) fn check(&self) -> Result<(), String> {
        within("sockets", f64::from(self.sockets), 1.0, 8.0)?;
        within("cores", f64::from(self.cores), 1.0, 128.0)?;
        within("smt", f64::from(self.smt), 1.0, 2.0)?;
        within("min_mhz", f64::from(self.min_mhz), 1.0, f64::from(self.base_mhz))?;
        within("base_mhz", f64::from(self.base_mhz), 1.0, f64::from(self.turbo_mhz))?;
        within("turbo_mhz", f64::from(self.turbo_mhz), 1.0, 20_000.0)?;
        within("min_volts", self.min_volts, 0.1, self.max_volts)?;
        within("max_volts", self.max_volts, 0.1, 5.0)?;
        for (what, w) in [
            ("idle_w", self.idle_w),
            ("core_w", self.core_w),
            ("uncore_w", self.uncore_w),
            ("dram_idle_w", self.dram_idle_w),
            ("dram_w", self.dram_w),
            ("board_w", self.board_w),
        ] {
            within(what, w, 0.0, 10_000.0)?;
        }
        within("core_idle_w", self.core_idle_w, 0.0, self.idle_w)?;
        within("smt_extra", self.smt_extra, 0.0, 1.0)?;
        within("irq_util", self.irq_util, 0.0, 0.5)?;
        within("uptime_s", self.uptime_s, 0.0, 1e9)?;
        within("mem_mib", self.mem_mib as f64, 1.0, 1e9)?;
        self.boot_id.parse::<BootId>().map_err(|e| e.to_string())?;
        NodeId::new(&self.hostname).map_err(|e| e.to_string())?;
        one_line("model", &self.model)
    }
}

impl Rapl {
    pub(super) fn check(&self) -> Result<(), String> {
        within("quantum_nj", self.quantum_nj as f64, 1.0, 1e9)?;
        within("update_us", f64::from(self.update_us), 0.0, 1e6)?;
        within("jitter_us", f64::from(self.jitter_us), 0.0, 1e6)?;
        within("noise_ppm", f64::from(self.noise_ppm), 0.0, 100_000.0)?;
        within("range_uj", self.range_uj as f64, 1000.0, 1e15)?;
        within("start_uj", self.start_uj as f64, 0.0, self.range_uj as f64)?;
        let mut seen = Vec::new();
        for zone in &self.zones {
            if seen.contains(zone) {
                return Err(format!("zones lists {zone:?} twice"));
            }
            seen.push(*zone);
        }
        let needs = |z: Offered| self.zones.contains(&z) && !self.zones.contains(&Offered::Package);
        if needs(Offered::Core) || needs(Offered::Dram) {
            return Err("zones has core or dram without package, which contains them".into());
        }
        Ok(())
    }
}

fn one_line(what: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err(format!("{what} is {text:?}, it must be one line of text"));
    }
    Ok(())
}

impl Workload {
    pub(super) fn check(&self, machine: &Machine) -> Result<(), String> {
        self.check_figures(machine).map_err(|e| format!("workload {:?}: {e}", self.name))
    }

    fn check_figures(&self, machine: &Machine) -> Result<(), String> {
        one_line("name", &self.name)?;
        let comm = self.comm.as_deref().unwrap_or("x");
        one_line("comm", comm)?;
        within("the length of comm", comm.len() as f64, 1.0, 15.0)?;
        one_line("cgroup", &self.cgroup)?;
        if !self.cgroup.starts_with('/') {
            return Err(format!("cgroup is {:?}, it must start with /", self.cgroup));
        }
        within("count", f64::from(self.count), 0.0, 100_000.0)?;
        within("threads", f64::from(self.threads), 1.0, 4096.0)?;
        within("activity", self.activity, 0.0, 10.0)?;
        within("ipc", self.ipc.unwrap_or(1.0), 0.0, 10.0)?;
        within("traffic", self.traffic, 0.0, 1000.0)?;
        within("sys", self.sys, 0.0, 1.0)?;
        within("rss_mib", self.rss_mib as f64, 0.0, 1e9)?;
        within("start_s", self.start_s, 0.0, 1e7)?;
        within("stop_s", self.stop_s.unwrap_or(1e7), self.start_s, 1e7)?;
        for cpu in &self.cpus {
            within("cpus", f64::from(*cpu), 0.0, machine.cpus() as f64 - 1.0)?;
        }
        match &self.pattern {
            Pattern::Idle => Ok(()),
            Pattern::Steady { util } => within("util", *util, 0.0, 1.0),
            Pattern::Bursty { on_ms, off_ms, util, jitter } => {
                within("on_ms", *on_ms, 1.0, 1e9)?;
                within("off_ms", *off_ms, 0.0, 1e9)?;
                within("util", *util, 0.0, 1.0)?;
                within("jitter", *jitter, 0.0, 1.0)
            }
            Pattern::Diurnal { min, max, period_s, phase } => {
                within("min", *min, 0.0, 1.0)?;
                within("max", *max, *min, 1.0)?;
                within("period_s", *period_s, 1e-3, 1e9)?;
                within("phase", *phase, 0.0, 1.0)
            }
            Pattern::RandomWalk { min, max } => {
                within("min", *min, 0.0, 1.0)?;
                within("max", *max, *min, 1.0)
            }
            Pattern::Storm { burn_ms, gap_ms, chains } => {
                within("burn_ms", *burn_ms, 1.0, 1e9)?;
                within("gap_ms", *gap_ms, 0.0, 1e9)?;
                within("chains", f64::from(*chains), 1.0, 1024.0)
            }
        }
    }
}

impl Event {
    pub(super) fn check(&self, machine: &Machine, zones: &[String]) -> Result<(), String> {
        within("at_s", self.at_s, 0.0, 1e7)?;
        let last = machine.cpus() as f64 - 1.0;
        match &self.what {
            What::Suspend { for_s, .. } => within("for_s", *for_s, 0.0, 1e8),
            What::CpuOffline { cpu } => within("cpu", f64::from(*cpu), 1.0, last.max(1.0)),
            What::CpuOnline { cpu } => within("cpu", f64::from(*cpu), 0.0, last),
            What::CounterReset { zone, .. } | What::Unlink { zone } | What::Relink { zone } => {
                if zones.contains(zone) {
                    return Ok(());
                }
                Err(format!("there is no zone {zone:?}, this machine has {}", zones.join(", ")))
            }
            What::AgentRestart { down_s } => within("down_s", *down_s, 0.0, 1e6),
        }
    }
}
