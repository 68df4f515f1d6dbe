//! Scenario files: a fleet, its work, its faults and its policy, in TOML.
//!
//! Keys end in their unit, as those of the policy do. Keys that nobody knows are refused, and so are figures that make
//! no sense; an error says which key it is about and what to write instead.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::curve::{CurveSpec, PowerCurve};
use crate::policy::Policy;
use crate::state::node::Taint;
use crate::state::workload::Toleration;

/// What a file describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A fleet over time.
    #[default]
    World,
    /// The Alibaba GPU cluster of 2023, all pods at once.
    Openb,
}

/// How the fleet is found at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// All nodes are on and share the work that is there evenly.
    #[default]
    Spread,
    /// The planner has placed the work that is there on nodes that were all off.
    Packed,
    /// All nodes are off, and all work waits.
    Off,
    /// Nodes are as their description says; for recorded history, not for files.
    #[serde(skip)]
    AsTold,
}

/// A scenario.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// What it shows, in a sentence.
    pub about: String,
    /// What the file describes.
    #[serde(default)]
    pub kind: Kind,
    /// Seconds that pass.
    #[serde(default = "day")]
    pub duration_s: u64,
    /// Seconds of a step: power and demand don't change within one, and everything takes whole steps.
    #[serde(default = "half_a_minute")]
    pub step_s: u64,
    /// Seconds between two plans.
    #[serde(default = "five_minutes")]
    pub plan_every_s: u64,
    /// Seconds between two frames of a node's telemetry.
    #[serde(default = "minute")]
    pub telemetry_every_s: u64,
    /// How the fleet is found.
    #[serde(default)]
    pub start: Start,
    /// Nodes, by type.
    #[serde(default)]
    pub nodes: Vec<NodeType>,
    /// Work, by generator.
    #[serde(default)]
    pub work: Vec<Work>,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Faults,
    /// What the planner is told.
    #[serde(default)]
    pub policy: Policy,
    /// Grid intensity by site.
    #[serde(default)]
    pub carbon: Option<Carbon>,
    /// A folder with traces: of `kind = "trace"`, or of openb. `--traces` overrules it.
    #[serde(default)]
    pub traces: Option<PathBuf>,
}

/// Nodes that are alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeType {
    /// Its name; nodes are called by it and a number.
    #[serde(rename = "type")]
    pub name: String,
    /// How many there are.
    pub count: u32,
    /// CPUs of each.
    pub cpu: f64,
    /// Memory of each, in GiB.
    pub memory_gib: f64,
    /// Other resources of each, by name.
    #[serde(default)]
    pub resources: BTreeMap<String, u64>,
    /// Watts at no and at full load, or at 0, 10, … 100 %.
    pub watts: Vec<f64>,
    /// Watts while off.
    #[serde(default)]
    pub off_watts: f64,
    /// How far machines of a type differ in watts: a standard deviation, as a share.
    #[serde(default)]
    pub spread: f64,
    /// Relative error that the planner is told the curve has, before it has measured any.
    #[serde(default = "tenth")]
    pub curve_error: f64,
    /// The pool that they belong to.
    #[serde(default)]
    pub pool: String,
    /// The failure zone that they stand in.
    #[serde(default)]
    pub zone: Option<String>,
    /// The site that they stand at: for grid intensity, and as label `site` for work to select by.
    #[serde(default)]
    pub site: Option<String>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// Whether anything can switch them.
    #[serde(default = "yes")]
    pub switchable: bool,
    /// How long they take to boot.
    #[serde(default)]
    pub boot: Boot,
}

/// How long boots take. They follow a bell curve that ends at a third and at four times the mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// Seconds on average.
    pub mean_s: f64,
    /// Standard deviation in seconds.
    pub spread_s: f64,
    /// Watts meanwhile; those of full load if not given.
    pub watts: Option<f64>,
    /// Seconds from the order to shut down until the power is off, at idle watts.
    pub shutdown_s: f64,
}

impl Default for Boot {
    fn default() -> Self {
        Self { mean_s: 120.0, spread_s: 15.0, watts: None, shutdown_s: 30.0 }
    }
}

/// How work comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkKind {
    /// `count` workloads from start to end.
    Steady,
    /// `count` workloads from start to end, whose use has a daily wave of `swing` around `use`, highest at `peak_h`.
    Daily,
    /// Between `low` and `count` workloads, most at `peak_h`: replicas that are scaled with demand.
    Scaled,
    /// `per_hour` workloads on average, each for about `life_s`; with `swing`, more of them around `peak_h`.
    Poisson,
    /// Every day at `at_h`, `count` jobs within `over_s`, each with work for `run_s`.
    Batch,
    /// A workload for each file in the scenario's `traces`: PlanetLab's form, a day of per cent every 300 s.
    Trace,
}

/// A generator of workloads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Work {
    /// Its name; workloads are called by it and a number.
    pub name: String,
    /// How they come about.
    pub kind: WorkKind,
    /// How many there are, at most, or each day.
    #[serde(default)]
    pub count: u32,
    /// Least number of `kind = "scaled"`.
    #[serde(default)]
    pub low: u32,
    /// CPUs that each asks for.
    #[serde(default = "one")]
    pub cpu: f64,
    /// Memory that each asks for, in GiB.
    #[serde(default)]
    pub memory_gib: f64,
    /// Other resources that each asks for, by name.
    #[serde(default)]
    pub resources: BTreeMap<String, u64>,
    /// Share of its CPUs that each really uses, on average.
    #[serde(default = "half", rename = "use")]
    pub used: f64,
    /// How far that wavers from minute to minute: a standard deviation, as a share of its CPUs.
    #[serde(default)]
    pub noise: f64,
    /// Height of the daily wave: as a share of its CPUs, or of the rate of arrivals.
    #[serde(default)]
    pub swing: f64,
    /// Hour of day of the highest demand.
    #[serde(default = "early_afternoon")]
    pub peak_h: f64,
    /// Arrivals per hour.
    #[serde(default)]
    pub per_hour: f64,
    /// Mean seconds that one lives.
    #[serde(default)]
    pub life_s: f64,
    /// Hour of day at which a batch begins.
    #[serde(default)]
    pub at_h: f64,
    /// Seconds within which its jobs arrive.
    #[serde(default)]
    pub over_s: f64,
    /// Seconds that a job runs when nothing slows it down.
    #[serde(default)]
    pub run_s: f64,
    /// Labels a node must have.
    #[serde(default)]
    pub selector: BTreeMap<String, String>,
    /// The site that it has to run at.
    #[serde(default)]
    pub site: Option<String>,
    /// Taints that it puts up with.
    #[serde(default)]
    pub tolerations: Vec<Toleration>,
    /// Most of them on one node; any number if not given.
    #[serde(default)]
    pub per_node: Option<u32>,
    /// How many of them may be away at once while nodes are emptied, where `per_node` makes them a group.
    #[serde(default = "one_away")]
    pub away: u32,
    /// Larger is placed first.
    #[serde(default)]
    pub priority: i32,
    /// Megabytes that a live migration copies; 0 means that a move is a restart.
    #[serde(default)]
    pub migrate_mb: f64,
    /// Seconds that a restart elsewhere takes.
    #[serde(default = "ten")]
    pub restart_s: f64,
}

/// What goes wrong, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Faults {
    /// Share of boots that fail: the node draws power for as long, and is off after.
    pub wake_failure: f64,
    /// Boots that are tried before a node is given up.
    pub wake_tries: u32,
    /// Seconds that a node which was given up is left alone.
    pub quarantine_s: u64,
    /// Share of frames that are lost.
    pub lost_frames: f64,
    /// Seconds by which inventory tells late what came and went.
    pub stale_s: u64,
    /// How far readings of power are off: a standard deviation, as a share.
    pub meter_noise: f64,
}

impl Default for Faults {
    fn default() -> Self {
        Self { wake_failure: 0.0, wake_tries: 3, quarantine_s: 3600, lost_frames: 0.0, stale_s: 0, meter_noise: 0.01 }
    }
}

/// Grams of CO2 per kilowatt-hour of grid power, by site and hour; begun anew when they are over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Carbon {
    /// Hourly figures, by site.
    pub hourly: BTreeMap<String, Vec<f64>>,
    /// A file with a column of hours and one for each site; beside the scenario file.
    pub file: Option<PathBuf>,
    /// The first hour to use, as the file's first column has it; its first line if not given.
    pub from: Option<String>,
}

/// Why a scenario can't be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// Not TOML, or with keys that nobody knows.
    #[error("{0}")]
    Toml(String),
    /// A key whose figure makes no sense.
    #[error("{key} = {is}: {wants}")]
    Key {
        /// The key, with what it belongs to.
        key: String,
        /// What it is set to.
        is: String,
        /// What to write instead.
        wants: &'static str,
    },
}

impl Scenario {
    /// Reads and checks a scenario.
    ///
    /// # Errors
    /// [`ScenarioError`], which names the key or the line and says what to do.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self =
            toml::from_str(text).map_err(|e| ScenarioError::Toml(e.to_string().trim_end().to_owned()))?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), ScenarioError> {
        /// A year: longer than anybody waits for.
        const LONGEST_S: u64 = 366 * 86_400;
        let whole = "a number of seconds above 0 and at most a year";
        for (key, s) in [
            ("duration-s", self.duration_s),
            ("step-s", self.step_s),
            ("plan-every-s", self.plan_every_s),
            ("telemetry-every-s", self.telemetry_every_s),
        ] {
            require(key, s, (1..=LONGEST_S).contains(&s), whole)?;
        }
        let steps = "a multiple of step-s: everything happens at the start of a step";
        for (key, s) in [("plan-every-s", self.plan_every_s), ("telemetry-every-s", self.telemetry_every_s)] {
            require(key, s, s % self.step_s == 0, steps)?;
        }
        if self.kind == Kind::World {
            let some = "at least one [[nodes]] with a count; without nodes nothing can run";
            require("nodes", self.nodes.len(), self.nodes.iter().any(|n| n.count > 0), some)?;
        }
        self.nodes.iter().try_for_each(NodeType::check)?;
        self.work.iter().try_for_each(Work::check)?;
        self.faults.check()?;
        self.policy.validate().map_err(|e| ScenarioError::Toml(format!("[policy] {e}")))?;
        let named = |site: &str| self.nodes.iter().any(|n| n.site.as_deref() == Some(site));
        for site in self.work.iter().filter_map(|w| w.site.as_deref()) {
            require("work.site", site, named(site), "the `site` of some [[nodes]]; nobody else could run it")?;
        }
        Ok(())
    }
}

fn require(key: &str, is: impl ToString, holds: bool, wants: &'static str) -> Result<(), ScenarioError> {
    if holds { Ok(()) } else { Err(ScenarioError::Key { key: key.to_owned(), is: is.to_string(), wants }) }
}

impl NodeType {
    fn check(&self) -> Result<(), ScenarioError> {
        let key = |name: &str| format!("nodes.{}.{name}", self.name);
        let letters = "letters, digits, '-', '.' and '_' only: nodes are called by it";
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        require("nodes.type", &self.name, !self.name.is_empty() && self.name.chars().all(named), letters)?;
        require(&key("count"), self.count, self.count <= 100_000, "at most 100000")?;
        require(&key("cpu"), self.cpu, (0.001..=1e6).contains(&self.cpu), "CPUs of one node, such as 32")?;
        let gib = "GiB of one node, such as 128";
        require(&key("memory-gib"), self.memory_gib, (0.0..=1e7).contains(&self.memory_gib), gib)?;
        self.curve().map_err(|e| ScenarioError::Toml(format!("{}: {e}", key("watts"))))?;
        let less = "watts while off, less than when idle";
        require(&key("off-watts"), self.off_watts, (0.0..=self.watts[0]).contains(&self.off_watts), less)?;
        let fifth = "a share from 0 to 0.2";
        require(&key("spread"), self.spread, (0.0..=0.2).contains(&self.spread), fifth)?;
        let share = "a share from 0 to 1";
        require(&key("curve-error"), self.curve_error, (0.0..=1.0).contains(&self.curve_error), share)?;
        let b = &self.boot;
        let hour = "seconds from 1 to 1700";
        require(&key("boot.mean-s"), b.mean_s, (1.0..=1700.0).contains(&b.mean_s), hour)?;
        let half = "at most half of boot.mean-s";
        require(&key("boot.spread-s"), b.spread_s, (0.0..=b.mean_s / 2.0).contains(&b.spread_s), half)?;
        require(
            &key("boot.shutdown-s"),
            b.shutdown_s,
            (0.0..=3600.0).contains(&b.shutdown_s),
            "seconds from 0 to 3600",
        )?;
        let w = b.watts.unwrap_or(self.watts[0]);
        require(&key("boot.watts"), w, (self.watts[0]..=PowerCurve::MAX_WATTS).contains(&w), "at least the idle watts")
    }

    /// Watts by load, as the type's data sheet has them.
    ///
    /// # Errors
    /// If the figures are no curve.
    pub fn curve(&self) -> Result<PowerCurve, crate::model::curve::CurveError> {
        PowerCurve::try_from(CurveSpec { watts: self.watts.clone(), error: self.curve_error })
    }
}

impl Work {
    /// Workloads from traces, with nothing else said about them.
    pub fn traces(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            kind: WorkKind::Trace,
            count: 0,
            low: 0,
            cpu: one(),
            memory_gib: 0.0,
            resources: BTreeMap::new(),
            used: half(),
            noise: 0.0,
            swing: 0.0,
            peak_h: early_afternoon(),
            per_hour: 0.0,
            life_s: 0.0,
            at_h: 0.0,
            over_s: 0.0,
            run_s: 0.0,
            selector: BTreeMap::new(),
            site: None,
            tolerations: Vec::new(),
            per_node: None,
            away: one_away(),
            priority: 0,
            migrate_mb: 0.0,
            restart_s: ten(),
        }
    }

    fn check(&self) -> Result<(), ScenarioError> {
        let key = |name: &str| format!("work.{}.{name}", self.name);
        let short = "a name of 1 to 100 characters";
        require("work.name", &self.name, (1..=100).contains(&self.name.chars().count()), short)?;
        require(&key("cpu"), self.cpu, (0.0..=1e6).contains(&self.cpu), "CPUs that one asks for, such as 0.5")?;
        let gib = "GiB that one asks for, such as 2";
        require(&key("memory-gib"), self.memory_gib, (0.0..=1e7).contains(&self.memory_gib), gib)?;
        for (name, v) in [("use", self.used), ("noise", self.noise), ("swing", self.swing)] {
            require(&key(name), v, (0.0..=1.0).contains(&v), "a share from 0 to 1")?;
        }
        for (name, v) in [("peak-h", self.peak_h), ("at-h", self.at_h)] {
            require(&key(name), v, (0.0..24.0).contains(&v), "an hour of the day, from 0 to below 24")?;
        }
        let positive = |name: &str, v: f64, wants| require(&key(name), v, v > 0.0 && v < 1e9, wants);
        match self.kind {
            WorkKind::Poisson => {
                positive("per-hour", self.per_hour, "arrivals per hour, above 0, for kind = \"poisson\"")?;
                positive("life-s", self.life_s, "mean seconds that one lives, above 0, for kind = \"poisson\"")?;
            }
            WorkKind::Batch => {
                positive("run-s", self.run_s, "seconds that a job runs, above 0, for kind = \"batch\"")?;
                positive("use", self.used, "above 0 for kind = \"batch\": a job that uses nothing never ends")?;
            }
            _ => {}
        }
        let counted = !matches!(self.kind, WorkKind::Poisson | WorkKind::Trace);
        require(&key("count"), self.count, !counted || (1..=1_000_000).contains(&self.count), "from 1 to 1000000")?;
        require(&key("low"), self.low, self.low <= self.count, "at most `count`")?;
        // a key of another kind is a slip: it would be ignored without a word
        let foreign = [
            ("low", self.low > 0, matches!(self.kind, WorkKind::Scaled)),
            ("per-hour", self.per_hour > 0.0, matches!(self.kind, WorkKind::Poisson)),
            ("life-s", self.life_s > 0.0, matches!(self.kind, WorkKind::Poisson)),
            ("at-h", self.at_h > 0.0, matches!(self.kind, WorkKind::Batch)),
            ("over-s", self.over_s > 0.0, matches!(self.kind, WorkKind::Batch)),
            ("run-s", self.run_s > 0.0, matches!(self.kind, WorkKind::Batch)),
            ("swing", self.swing > 0.0, matches!(self.kind, WorkKind::Daily | WorkKind::Poisson)),
        ];
        for (name, given, belongs) in foreign {
            require(&key(name), "given", !given || belongs, "take it out: this kind of work doesn't have it")?;
        }
        require(&key("per-node"), "0", self.per_node != Some(0), "at least 1, or leave it out")?;
        require(
            &key("migrate-mb"),
            self.migrate_mb,
            (0.0..1e9).contains(&self.migrate_mb),
            "megabytes, 0 for a restart",
        )?;
        require(&key("restart-s"), self.restart_s, (0.0..=3600.0).contains(&self.restart_s), "seconds from 0 to 3600")
    }
}

impl Faults {
    fn check(&self) -> Result<(), ScenarioError> {
        let share = "a share from 0 to 0.95; with more than that nothing ever works";
        require("faults.wake-failure", self.wake_failure, (0.0..=0.95).contains(&self.wake_failure), share)?;
        require("faults.lost-frames", self.lost_frames, (0.0..=0.95).contains(&self.lost_frames), share)?;
        require("faults.meter-noise", self.meter_noise, (0.0..=0.5).contains(&self.meter_noise), "from 0 to 0.5")?;
        require("faults.wake-tries", self.wake_tries, (1..=20).contains(&self.wake_tries), "from 1 to 20")?;
        require("faults.stale-s", self.stale_s, self.stale_s <= 3600, "at most 3600")?;
        require("faults.quarantine-s", self.quarantine_s, self.quarantine_s <= 86_400 * 7, "at most a week")
    }
}

fn day() -> u64 {
    86_400
}
fn half_a_minute() -> u64 {
    30
}
fn minute() -> u64 {
    60
}
fn five_minutes() -> u64 {
    300
}
fn tenth() -> f64 {
    0.1
}
fn yes() -> bool {
    true
}
fn one() -> f64 {
    1.0
}
fn one_away() -> u32 {
    1
}
fn half() -> f64 {
    0.5
}
fn ten() -> f64 {
    10.0
}
fn early_afternoon() -> f64 {
    14.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const SMALL: &str = "about = 'x'\n[[nodes]]\ntype = 'a'\ncount = 2\ncpu = 8\nmemory-gib = 32\nwatts = [40, 90]\n";

    fn error(more: &str) -> String {
        Scenario::parse(&format!("{SMALL}{more}")).unwrap_err().to_string()
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused_with_its_place_and_those_that_are_known() {
        let said = error("wats = 3\n");
        assert!(
            said.contains("line 8") && said.contains("unknown field `wats`") && said.contains("`off-watts`"),
            "{said}"
        );
        let said = error("[policy]\nhorizon = 3\n");
        assert!(said.contains("unknown field `horizon`") && said.contains("`horizon-s`"), "{said}");
    }

    #[test]
    fn figures_that_make_no_sense_are_refused_by_name_and_with_what_to_write() {
        let work = "[[work]]\nname = 'w'\nkind = ";
        for (more, says) in [
            ("spread = 0.5\n", "nodes.a.spread = 0.5: a share from 0 to 0.2"),
            ("off-watts = 50\n", "nodes.a.off-watts = 50: watts while off, less than when idle"),
            ("[faults]\nwake-failure = 1.0\n", "faults.wake-failure = 1: a share"),
            (&format!("{work}'poisson'\nper-hour = 3\n"), "work.w.life-s = 0: mean seconds"),
            (&format!("{work}'steady'\ncount = 3\nper-hour = 3\n"), "work.w.per-hour = given: take it out"),
            (&format!("{work}'steady'\n"), "work.w.count = 0: from 1"),
            (&format!("{work}'steady'\ncount = 1\nsite = 'x'\n"), "work.site = x: the `site` of some [[nodes]]"),
            ("[policy]\nmargin = -1.0\n", "[policy] margin = -1 makes no sense"),
        ] {
            let said = error(more);
            assert!(said.starts_with(says), "{said}\nshould be\n{says}");
        }
        let said = Scenario::parse("about = 'x'\nstep-s = 7\n").unwrap_err().to_string();
        assert_eq!(said, "plan-every-s = 300: a multiple of step-s: everything happens at the start of a step");
    }
}
