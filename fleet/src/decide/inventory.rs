//! What agents don't know: a file of nodes and of what is known about workloads.
//!
//! Only nodes in it are managed. About workloads it says what they need and whether they may move; one that it doesn't
//! name stays where it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ebbtide_planner::model::boot::BootModel;
use ebbtide_planner::model::curve::PowerCurve;
use ebbtide_planner::model::migration::Migration;
use ebbtide_planner::state::node::{Node, Taint};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::{Over, Spread, Toleration, Workload};
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

/// Largest amount of CPUs and of bytes that is believed.
const MOST_CPUS: f64 = 1e6;
const MOST_BYTES: u64 = 1 << 50;
/// What nobody said a workload needs, it is taken to need in steps of this, in thousandths of a CPU.
const STEP_MILLI: f64 = 100.0;
/// How far a curve may be off that somebody wrote down.
const WRITTEN_DOWN: f64 = 0.15;

/// The file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Inventory {
    /// Nodes that are managed.
    pub node: Vec<NodeEntry>,
    /// What is known of workloads; the first that matches counts.
    pub workload: Vec<WorkloadEntry>,
    /// Groups of workloads, and how many of each may be away at a time. One, if it isn't said.
    pub away: BTreeMap<String, u32>,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NodeEntry {
    /// Its name, as `ebbtide nodes` shows it.
    pub name: String,
    /// The pool it belongs to.
    pub pool: String,
    /// The failure zone it stands in.
    pub zone: Option<String>,
    /// CPUs; as its agent says if left out.
    pub cpus: Option<f64>,
    /// Bytes of memory: a number, or a text such as "64GiB".
    pub memory: Size,
    /// Everything else that it has, such as `"nvidia.com/gpu" = 4`.
    pub resources: BTreeMap<String, u64>,
    /// CPUs that are not for workloads.
    pub reserved_cpus: f64,
    /// Memory that is not for workloads.
    pub reserved_memory: Size,
    /// Labels that workloads select by.
    pub labels: BTreeMap<String, String>,
    /// Taints, as `KEY` or `KEY=VALUE`.
    pub taints: Vec<String>,
    /// The circuit that feeds it.
    pub circuit: Option<String>,
    /// Nodes with the same text are of the same hardware; the processor's model if left out.
    pub twin: Option<String>,
    /// Watts at the outlet, idle and busy, or at 0, 10, … 100 % load, until its agent has told better.
    pub watts: Vec<f64>,
    /// Watts while it is off.
    pub off_watts: f64,
    /// Seconds that a boot takes, until boots were seen.
    pub boot_s: Option<f64>,
    /// Seconds from the order to shut down until it is off.
    pub shutdown_s: Option<f64>,
    /// False: it is never to be powered off. True: it can be, although no device is known that does it. If left out:
    /// if a `[[feed]]` says what switches it.
    pub switchable: Option<bool>,
    /// Somebody has seen it wake; `ebbtide device test-wake` finds out by itself.
    pub wake_proven: bool,
}

/// What is known of workloads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WorkloadEntry {
    /// Which: a name as `ebbtide workloads` shows it, or its id such as `pod/shop/web-0`. `*` stands for anything.
    pub name: String,
    /// CPUs that are set aside for it; what it uses if left out.
    pub cpus: Option<f64>,
    /// Memory that is set aside for it.
    pub memory: Size,
    /// Everything else that it needs.
    pub resources: BTreeMap<String, u64>,
    /// Its siblings are those of the same group.
    pub group: Option<String>,
    /// Labels that its node must have.
    pub selector: BTreeMap<String, String>,
    /// Taints that it puts up with, as `KEY`, `KEY=VALUE`, or `*` for all.
    pub tolerates: Vec<String>,
    /// At most so many of its group on a node.
    pub per_node: Option<u32>,
    /// At most so many of its group in a zone.
    pub per_zone: Option<u32>,
    /// Groups that must not be on the same node.
    pub avoid: Vec<String>,
    /// Larger is placed first.
    pub priority: i32,
    /// Whether it may be moved.
    pub movable: bool,
    /// Megabytes that moving it copies; 0: it is started anew.
    pub move_megabytes: f64,
    /// Seconds that moving it takes.
    pub move_s: f64,
}

/// Bytes, written as a number or with a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "u64")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

impl TryFrom<Written> for Size {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Bytes(bytes) => return Ok(Self(bytes)),
            Written::Text(text) => text,
        };
        let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" | "Ki" => 10,
            "MiB" | "Mi" => 20,
            "GiB" | "Gi" => 30,
            "TiB" | "Ti" => 40,
            _ => return Err(format!("{text:?} is no size; write it as \"64GiB\", with B, KiB, MiB, GiB or TiB")),
        };
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is no size; write it as \"64GiB\""))
    }
}

/// Why an inventory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The file can't be read.
    #[error("can't read the inventory {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It isn't what it should be.
    #[error("{what}: {text}")]
    Content {
        /// The file, or what it is otherwise.
        what: String,
        /// What is wrong, and where.
        text: String,
    },
}

impl Inventory {
    /// Reads a file.
    ///
    /// # Errors
    /// If it can't be read or makes no sense; says where.
    pub fn load(path: &Path) -> Result<Self, InventoryError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| InventoryError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &format!("inventory {}", path.display()))
    }

    /// Reads a text; `what` names it in errors.
    ///
    /// # Errors
    /// If it makes no sense; says where.
    pub fn parse(text: &str, what: &str) -> Result<Self, InventoryError> {
        let wrong = |text: String| InventoryError::Content { what: what.to_owned(), text };
        let inventory: Self = crate::toml_text::read(text).map_err(wrong)?;
        let mut names = std::collections::BTreeSet::new();
        for node in &inventory.node {
            node.check().map_err(|why| wrong(format!("node {:?} {why}", node.name)))?;
            if !names.insert(&node.name) {
                return Err(wrong(format!("node {:?} is there twice; describe each node once", node.name)));
            }
        }
        for workload in &inventory.workload {
            workload.check().map_err(|why| wrong(format!("workload {:?} {why}", workload.name)))?;
        }
        Ok(inventory)
    }

    /// What is known of a workload that is shown as `name`.
    pub fn workload(&self, id: &WorkloadId, name: &str) -> Option<&WorkloadEntry> {
        let id = id.to_string();
        self.workload.iter().find(|entry| matches(&entry.name, &id) || matches(&entry.name, name))
    }

    /// A workload that was seen to use `most_milli` thousandths of a CPU at the most: as it is described, or else one
    /// that needs about that much and stays where it is.
    pub fn described(&self, id: &WorkloadId, name: &str, most_milli: f64) -> Workload {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and it saturates")]
        let needs = ((most_milli / STEP_MILLI).ceil().max(1.0) * STEP_MILLI).round() as u64;
        let mut workload = Workload::new(id.clone(), Resources::new(needs, 0));
        workload.stays = true;
        if let Some(entry) = self.workload(id, name) {
            entry.describe(&mut workload);
        }
        workload
    }
}

impl NodeEntry {
    fn check(&self) -> Result<(), String> {
        NodeId::new(&self.name).map_err(|e| format!("can't be called that: {e}"))?;
        if self.cpus.is_some_and(|n| !(n > 0.0 && n <= MOST_CPUS)) {
            return Err("has cpus that are no number of CPUs".to_owned());
        }
        if !(0.0..=MOST_CPUS).contains(&self.reserved_cpus) {
            return Err("has reserved-cpus that are no number of CPUs".to_owned());
        }
        if self.memory.0 > MOST_BYTES || self.reserved_memory.0 > MOST_BYTES {
            return Err("has more than a pebibyte of memory".to_owned());
        }
        if !(0.0..=PowerCurve::MAX_WATTS).contains(&self.off_watts) {
            return Err("has off-watts that are no power".to_owned());
        }
        if self.boot_s.is_some_and(|s| !(s > 0.0 && s <= 7200.0)) {
            return Err("has a boot-s that is not between 0 and 7200".to_owned());
        }
        if self.shutdown_s.is_some_and(|s| !(0.0..=7200.0).contains(&s)) {
            return Err("has a shutdown-s that is not between 0 and 7200".to_owned());
        }
        self.curve().map(|_| ()).map_err(|e| format!("has watts that can't be: {e}"))
    }

    /// The curve that was written down, if one was.
    fn curve(&self) -> Result<Option<PowerCurve>, ebbtide_planner::model::curve::CurveError> {
        if self.watts.is_empty() {
            return Ok(None);
        }
        let spec = ebbtide_planner::model::curve::CurveSpec { watts: self.watts.clone(), error: WRITTEN_DOWN };
        PowerCurve::try_from(spec).map(Some)
    }

    /// The node as the planner knows it. `machine` is what its agent said: CPUs and model.
    ///
    /// # Errors
    /// If it is nothing that a node can be, which [`Inventory::parse`] would have said.
    pub fn node(&self, cpus: Option<u32>, model: &str) -> Result<Node, String> {
        self.check()?;
        let id = NodeId::new(&self.name).map_err(|e| e.to_string())?;
        let cpus = self.cpus.or(cpus.map(f64::from)).unwrap_or(0.0);
        let named = |mut r: Resources| {
            r.named.clone_from(&self.resources);
            r
        };
        let curve = self.curve().map_err(|e| e.to_string())?.unwrap_or_else(|| usual(cpus));
        let mut node = Node::new(id, named(Resources::new(milli(cpus), self.memory.0)), curve);
        node.reserved = Resources::new(milli(self.reserved_cpus), self.reserved_memory.0);
        node.pool.clone_from(&self.pool);
        node.zone.clone_from(&self.zone);
        node.labels.clone_from(&self.labels);
        node.taints = self.taints.iter().map(|t| taint(t)).collect();
        node.circuit.clone_from(&self.circuit);
        node.twin = self.twin.clone().or_else(|| (!model.is_empty()).then(|| format!("{model} x{cpus}")));
        node.off_watts = self.off_watts;
        if let Some(seconds) = self.boot_s {
            node.boot = BootModel::guess(seconds, seconds * node.curve.full(), node.boot.shutdown_s);
        }
        if let Some(seconds) = self.shutdown_s {
            node.boot.shutdown_s = seconds;
        }
        Ok(node)
    }
}

/// What a server of so many CPUs is taken for that nobody described: near the low end of servers that were measured
/// idle, so that nothing is hoped for from powering it off, and unsure.
pub(super) fn usual(cpus: f64) -> PowerCurve {
    PowerCurve::line(10.0 + cpus, 20.0 + 4.0 * cpus).with_error(0.5)
}

impl WorkloadEntry {
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() {
            return Err("has no name; write one as `ebbtide workloads` shows it, or with * in it".to_owned());
        }
        if self.cpus.is_some_and(|n| !(0.0..=MOST_CPUS).contains(&n)) {
            return Err("has cpus that are no number of CPUs".to_owned());
        }
        if !(0.0..=1e9).contains(&self.move_megabytes) || !(0.0..=86_400.0).contains(&self.move_s) {
            return Err("has move-megabytes or move-s that can't be".to_owned());
        }
        if self.memory.0 > MOST_BYTES {
            return Err("has more than a pebibyte of memory".to_owned());
        }
        Ok(())
    }

    /// Puts into `workload` what is known.
    fn describe(&self, workload: &mut Workload) {
        if let Some(cpus) = self.cpus {
            workload.requests.cpu_milli = milli(cpus);
        }
        workload.requests.memory = self.memory.0;
        workload.requests.named.clone_from(&self.resources);
        workload.group.clone_from(&self.group);
        workload.selector.clone_from(&self.selector);
        workload.tolerations = self.tolerates.iter().map(|t| toleration(t)).collect();
        let spread = |over, at_most: Option<u32>| at_most.map(|at_most| Spread { over, at_most });
        workload.spread =
            [spread(Over::Node, self.per_node), spread(Over::Zone, self.per_zone)].into_iter().flatten().collect();
        workload.avoid.clone_from(&self.avoid);
        workload.priority = self.priority;
        workload.stays = !self.movable;
        workload.migration = Migration { megabytes: self.move_megabytes, seconds: self.move_s, ..Migration::default() };
    }
}

fn taint(text: &str) -> Taint {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    Taint { key: key.to_owned(), value: value.to_owned() }
}

fn toleration(text: &str) -> Toleration {
    match text.split_once('=') {
        _ if text == "*" => Toleration { key: String::new(), value: None },
        Some((key, value)) => Toleration { key: key.to_owned(), value: Some(value.to_owned()) },
        None => Toleration { key: text.to_owned(), value: None },
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a number of CPUs")]
fn milli(cpus: f64) -> u64 {
    (cpus * 1000.0).round() as u64
}

/// Whether `text` is what `pattern` says, where `*` stands for anything.
pub fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = rest.get(at + part.len()..).unwrap_or(""),
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_is_what_its_entry_and_its_agent_say() {
        let text = r#"
            [[node]]
            name = "n1"
            pool = "compute"
            memory = "64GiB"
            resources = { "nvidia.com/gpu" = 2 }
            reserved-cpus = 0.5
            taints = ["gpu=yes"]
            watts = [80, 200]
            boot-s = 90

            [[workload]]
            name = "pod/shop/*"
            cpus = 0.25
            memory = "1GiB"
            movable = true
            tolerates = ["gpu"]
            per-node = 1
            group = "shop"
        "#;
        let inventory = Inventory::parse(text, "a text").unwrap();
        let node = inventory.node[0].node(Some(8), "EPYC").unwrap();
        assert_eq!((node.capacity.cpu_milli, node.capacity.memory), (8000, 64 << 30));
        assert_eq!(node.allocatable().cpu_milli, 7500);
        assert_eq!(node.capacity.named["nvidia.com/gpu"], 2);
        assert_eq!(node.twin.as_deref(), Some("EPYC x8"));
        assert!((node.curve.watts(0.5) - 140.0).abs() < 1e-9);
        assert!((node.boot.seconds(0.5) - 90.0).abs() < 1e-9);
        let id: WorkloadId = "pod/shop/web-0".parse().unwrap();
        let workload = inventory.described(&id, "shop/web-0", 7000.0);
        assert_eq!((workload.requests.cpu_milli, workload.stays), (250, false));
        assert!(workload.admits(&node));
        assert!(inventory.workload(&"pod/other/web-0".parse().unwrap(), "other/web-0").is_none());
    }

    #[test]
    fn what_makes_no_sense_is_told_with_its_place() {
        for (text, says) in [
            ("[[node]]\nname = \"a b\"", "node \"a b\" can't be called that"),
            ("[[node]]\nnam = \"a\"", "line 2: unknown field `nam`"),
            ("[[node]]\nname = \"a\"\nwatts = [5, 4]", "falls from 5 W to 4 W"),
            ("[[node]]\nname = \"a\"\nmemory = \"5 apples\"", "is no size"),
            ("[[node]]\nname = \"a\"\ncpus = -1", "cpus that are no number"),
            ("[[node]]\nname = \"a\"\n[[node]]\nname = \"a\"", "is there twice"),
            ("[[workload]]\ncpus = 1", "has no name"),
        ] {
            let error = Inventory::parse(text, "inventory x").unwrap_err().to_string();
            assert!(error.starts_with("inventory x: ") && error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn a_star_stands_for_anything(a in "[ab]{0,4}", b in "[ab]{0,4}", c in "[ab]{1,4}") {
            let text = format!("{a}{b}{c}");
            let starred = format!("{a}*{c}");
            let longer = format!("{text}x");
            prop_assert!(matches(&starred, &text) && matches("*", &text) && matches(&text, &text));
            prop_assert!(!matches(&text, &longer) && !matches(&starred, &longer));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            drop(Inventory::parse(&text, "x"));
        }
    }
}
