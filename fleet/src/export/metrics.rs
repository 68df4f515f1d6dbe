//! The fleet's metrics page: text format 0.0.4. Joules and watts are floats here, made of exact integers.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use ebbtide_devices::Latest;
use ebbtide_executor::command::Mark;
use ebbtide_executor::words;
use ebbtide_proto::{Energy, v1};

use crate::act::Board;
use crate::decide::{Mode, Plans};
use crate::ingest::Counts;
use crate::live::Live;
use crate::power::Rack;

/// The media type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A metric on the page.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// What it tells, with its unit.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $name:literal, $kind:literal, $help:literal;)*) => {
        $(const $id: Metric = Metric { name: $name, kind: $kind, help: $help };)*
        /// All metrics, in the order of the page.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    NODE_ENERGY = "ebbtide_fleet_node_energy_joules_total", "counter", "Energy of a node's zone since its first sample of the boot.";
    NODE_POWER = "ebbtide_fleet_node_power_watts", "gauge", "Mean power of a node over its last interval; absent while it is silent.";
    NODE_IDLE = "ebbtide_fleet_node_idle_power_watts", "gauge", "Of that, what the node draws when nothing runs.";
    NODE_STATE = "ebbtide_fleet_node_state", "gauge", "1 for the state that a node is in: live, catching-up, stale, gone or refused.";
    NODE_AGE = "ebbtide_fleet_node_last_sample_age_seconds", "gauge", "Time since the last moment that a node told.";
    NODE_GAP = "ebbtide_fleet_node_gap_today_seconds", "gauge", "Time since 00:00 UTC in which a node's energy is not known.";
    NAMESPACE_ENERGY = "ebbtide_fleet_namespace_energy_joules_total", "counter", "Energy of a namespace on all nodes since the daemon started.";
    NAMESPACE_POWER = "ebbtide_fleet_namespace_power_watts", "gauge", "Power of a namespace on all nodes.";
    APP_POWER = "ebbtide_fleet_app_power_watts", "gauge", "Power of an application on all nodes, the 100 with the most.";
    DEVICE_UP = "ebbtide_fleet_device_up", "gauge", "1 if the last attempt to read a device succeeded.";
    DEVICE_AGE = "ebbtide_fleet_device_reading_age_seconds", "gauge", "Time since a device was last read.";
    DEVICE_ERRORS = "ebbtide_fleet_device_errors_total", "counter", "Attempts to read a device that failed.";
    DEVICE_POWER = "ebbtide_fleet_device_power_watts", "gauge", "Power of a whole device; absent while it doesn't tell.";
    DEVICE_ENERGY = "ebbtide_fleet_device_energy_joules_total", "counter", "Energy of a whole device since the daemon read it first.";
    OUTLET_POWER = "ebbtide_fleet_outlet_power_watts", "gauge", "Power of an outlet, with the node that it feeds.";
    OUTLET_ENERGY = "ebbtide_fleet_outlet_energy_joules_total", "counter", "Energy of an outlet since the daemon read it first.";
    OUTLET_STATE = "ebbtide_fleet_outlet_state", "gauge", "1 for the state that an outlet is in: on, off, turning-on, turning-off or unknown.";
    WALL_POWER = "ebbtide_fleet_node_wall_power_watts", "gauge", "Power of a node at its outlets, or else at its BMC.";
    PLAN_POWER = "ebbtide_fleet_plan_power_watts", "gauge", "Power by the nodes' curves: now, once the plan is done, and what no placement can be below.";
    PLAN_ACTIONS = "ebbtide_fleet_plan_actions", "gauge", "Actions of the plan that stands, by what they do.";
    PLAN_UNPLACED = "ebbtide_fleet_plan_unplaced_workloads", "gauge", "Workloads that no node has room for.";
    PLAN_VIOLATIONS = "ebbtide_fleet_plan_violations", "gauge", "What the checker holds against the plan; anything but 0 is a fault of the planner.";
    PLAN_AGE = "ebbtide_fleet_plan_age_seconds", "gauge", "Time since the plan was last found to hold; absent while there is none.";
    PLAN_TIME = "ebbtide_fleet_plan_duration_seconds", "gauge", "What the last planning took.";
    PLAN_RECOMMENDED = "ebbtide_fleet_plan_recommended", "gauge", "1 if the plan that stands is put forward and has something to do.";
    LEADS = "ebbtide_fleet_leads", "gauge", "1 if this daemon acts; of several in a cluster, one does.";
    OPERATIONS = "ebbtide_fleet_operations", "gauge", "Operations that go on.";
    OPERATIONS_ENDED = "ebbtide_fleet_operations_ended_total", "counter", "Operations that ended since the daemon started, by how: done, rolled-back, refused, cancelled, failed or quarantined.";
    PAUSED = "ebbtide_fleet_paused", "gauge", "1 while an operator lets nothing new begin.";
    QUARANTINED = "ebbtide_fleet_quarantined_nodes", "gauge", "Nodes that are left alone until somebody has looked.";
    LOCKED = "ebbtide_fleet_locked_nodes", "gauge", "Nodes that operators have locked.";
    POOL_MODE = "ebbtide_fleet_pool_mode", "gauge", "1 for the mode of a pool: observe, recommend or auto; pools of which nothing was said are only observed.";
    CLUSTER_UP = "ebbtide_fleet_kubernetes_up", "gauge", "1 while everything of the cluster is listed and watched.";
    CLUSTER_NODES = "ebbtide_fleet_kubernetes_nodes", "gauge", "Nodes of the cluster.";
    CLUSTER_PODS = "ebbtide_fleet_kubernetes_pods", "gauge", "Pods of the cluster that are known.";
    CLUSTER_BREAKS = "ebbtide_fleet_kubernetes_watch_breaks_total", "counter", "How often watches of the cluster broke.";
    NODES = "ebbtide_fleet_nodes", "gauge", "Nodes that are known.";
    CONNECTED = "ebbtide_fleet_connected_agents", "gauge", "Agents that are connected.";
    SAMPLES = "ebbtide_fleet_samples_total", "counter", "Values taken from agents since the daemon started.";
    FRAMES = "ebbtide_fleet_frames_total", "counter", "Frames taken from agents.";
    DUPLICATES = "ebbtide_fleet_duplicate_frames_total", "counter", "Frames that were here already.";
    DROPPED = "ebbtide_fleet_dropped_frames_total", "counter", "Frames that agents had to give up before they could send them.";
    REFUSED_FRAMES = "ebbtide_fleet_refused_frames_total", "counter", "Frames that were refused for good.";
    REFUSED = "ebbtide_fleet_refusals_total", "counter", "Connections and frames that were refused, by reason.";
    BYTES = "ebbtide_fleet_received_bytes_total", "counter", "Bytes of frames, compressed as they came.";
    COMMIT = "ebbtide_fleet_commit_seconds", "histogram", "Time from a frame's arrival until it was safe on disk.";
    UNSEALED = "ebbtide_fleet_unsealed_frames", "gauge", "Frames that are safe but not yet in blocks.";
    STORE = "ebbtide_fleet_store_bytes", "gauge", "Bytes of the store's files.";
    BUILD = "ebbtide_fleet_build_info", "gauge", "1, with the daemon's version.";
}

/// Nodes beyond this have no series of their own; `ebbtide_fleet_nodes` still counts them.
const MOST_NODES: usize = 20_000;

struct Page(String);

impl Page {
    fn head(&mut self, metric: Metric) {
        let Metric { name, kind, help } = metric;
        self.0.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (i, (label, text)) in labels.iter().enumerate() {
            self.0.push(if i == 0 { '{' } else { ',' });
            self.0.push_str(label);
            self.0.push_str("=\"");
            for c in text.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.0.push_str(&format!(" {value}\n"));
    }

    /// The plan that stands; heads only while there is none.
    fn plan(&mut self, plans: &Plans, now_ms: u64) {
        let standing = plans.standing();
        let plan = standing.as_ref().map(|standing| &standing.decision.plan);
        self.head(PLAN_POWER);
        for (of, watts) in plan.iter().flat_map(|p| [("now", p.before_w), ("planned", p.after_w), ("bound", p.bound_w)])
        {
            self.sample(PLAN_POWER.name, &[("of", of)], watts);
        }
        self.head(PLAN_ACTIONS);
        for kind in ["power-on", "place", "cordon", "move", "power-off"] {
            if let Some(plan) = plan {
                let n = plan.actions.iter().filter(|action| action.what.word() == kind).count();
                self.sample(PLAN_ACTIONS.name, &[("do", kind)], n);
            }
        }
        let recommended = plan.map(|p| u8::from(plans.mode() == Mode::Recommend && !p.is_empty()));
        for (metric, value) in [
            (PLAN_UNPLACED, plan.map(|p| p.unplaced.len().to_string())),
            (PLAN_VIOLATIONS, standing.as_ref().map(|s| s.violations.len().to_string())),
            (PLAN_AGE, standing.as_ref().map(|s| (now_ms.saturating_sub(s.confirmed_ms) as f64 / 1e3).to_string())),
            (PLAN_TIME, standing.as_ref().map(|s| (s.took_us as f64 / 1e6).to_string())),
            (PLAN_RECOMMENDED, recommended.map(|r| r.to_string())),
        ] {
            self.head(metric);
            if let Some(value) = value {
                self.sample(metric.name, &[], value);
            }
        }
    }

    /// What devices tell.
    fn devices(&mut self, rack: &Rack, now_ms: u64) {
        let all: Vec<_> = rack.devices().map(|device| (device.name(), device.latest())).collect();
        let total = |latest: &Latest| Some(latest.report.as_ref()?.total.power.as_ref()?.value.watts());
        type Figure<'a> = &'a dyn Fn(&Latest) -> Option<String>;
        let of_devices: [(Metric, Figure<'_>); 5] = [
            (DEVICE_UP, &|it| Some(u8::from(it.error.is_none() && it.report.is_some()).to_string())),
            (DEVICE_AGE, &|it| Some((now_ms.saturating_sub(it.read_at?.wall / 1_000_000) as f64 / 1e3).to_string())),
            (DEVICE_ERRORS, &|it| Some(it.errors.to_string())),
            (DEVICE_POWER, &|it| total(it).map(|w| w.to_string())),
            (DEVICE_ENERGY, &|it| Some(it.total?.energy.as_joules_exact().to_string())),
        ];
        for (metric, figure) in of_devices {
            self.head(metric);
            for (name, latest) in &all {
                if let Some(value) = figure(latest) {
                    self.sample(metric.name, &[("device", name)], value);
                }
            }
        }
        for metric in [OUTLET_POWER, OUTLET_ENERGY, OUTLET_STATE] {
            self.head(metric);
            for (name, latest) in &all {
                for outlet in latest.report.iter().flat_map(|report| &report.outlets) {
                    let node = rack.node_of(name, &outlet.id).unwrap_or_default();
                    let place = [("device", *name), ("outlet", outlet.id.as_str()), ("node", node)];
                    if metric.name == OUTLET_STATE.name {
                        let [device, id, node] = place;
                        self.sample(metric.name, &[device, id, node, ("state", outlet.state.as_str())], 1);
                    } else if metric.name == OUTLET_POWER.name {
                        let power = outlet.feed.power.as_ref();
                        power.into_iter().for_each(|power| self.sample(metric.name, &place, power.value.watts()));
                    } else if let Some(metered) = latest.outlets.get(&outlet.id) {
                        self.sample(metric.name, &place, metered.energy.as_joules_exact());
                    }
                }
            }
        }
        self.head(WALL_POWER);
        for feed in rack.feeds() {
            if let Some(wall) = rack.wall(&feed.node) {
                self.sample(WALL_POWER.name, &[("node", &feed.node)], wall.power.watts());
            }
        }
    }

    /// What is done.
    fn deeds(&mut self, board: &Board) {
        self.one(LEADS, u8::from(board.leads));
        self.one(OPERATIONS, board.operations.values().filter(|op| op.is_live()).count());
        self.head(OPERATIONS_ENDED);
        for (how, count) in &board.ended {
            self.sample(OPERATIONS_ENDED.name, &[("how", &how.replace(' ', "-"))], count);
        }
        self.one(PAUSED, u8::from(board.paused.is_some()));
        self.one(QUARANTINED, board.quarantined.len());
        self.one(LOCKED, board.closed.values().filter(|mark| **mark == Mark::Lock).count());
        self.head(POOL_MODE);
        for (pool, mode) in &board.modes {
            self.sample(POOL_MODE.name, &[("pool", pool), ("mode", words::mode(*mode))], 1);
        }
    }

    /// How the cluster is heard; heads only without one.
    fn cluster(&mut self, plans: &Plans) {
        let heard = plans.cluster();
        for (metric, value) in [
            (CLUSTER_UP, heard.as_ref().map(|h| u64::from(h.missing.is_empty()))),
            (CLUSTER_NODES, heard.as_ref().map(|h| h.nodes as u64)),
            (CLUSTER_PODS, heard.as_ref().map(|h| h.pods as u64)),
            (CLUSTER_BREAKS, heard.as_ref().map(|h| h.breaks)),
        ] {
            self.head(metric);
            if let Some(value) = value {
                self.sample(metric.name, &[], value);
            }
        }
    }

    fn one(&mut self, metric: Metric, value: impl std::fmt::Display) {
        self.head(metric);
        self.sample(metric.name, &[], value);
    }
}

fn watts(uw: u64) -> f64 {
    uw as f64 / 1e6
}

/// The name of a state in metrics and tables.
fn state(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Live => "live",
        v1::NodeState::CatchingUp => "catching-up",
        v1::NodeState::Stale => "stale",
        v1::NodeState::Gone => "gone",
        v1::NodeState::Refused => "refused",
        v1::NodeState::Unspecified => "unknown",
    }
}

/// What the page is made from beside nodes and counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreFigures {
    /// Frames that are safe but not yet in blocks.
    pub unsealed_frames: u64,
    /// Bytes of the store's files.
    pub bytes: u64,
}

/// The page at `now_ms`.
pub fn page(
    live: &Live,
    rack: &Rack,
    counts: &Counts,
    plans: &Plans,
    board: &Board,
    store: Option<StoreFigures>,
    now_ms: u64,
) -> String {
    let nodes = live.nodes("", now_ms);
    let mut page = Page(String::with_capacity(nodes.len() * 800 + 4096));
    let shown = || nodes.iter().take(MOST_NODES);
    page.head(NODE_ENERGY);
    for node in shown() {
        for zone in &node.zones {
            let Some(about) = &zone.zone else { continue };
            let counts = if about.counts { "true" } else { "false" };
            let quality = quality(about.quality());
            let labels =
                [("node", node.name.as_str()), ("zone", about.name.as_str()), ("counts", counts), ("quality", quality)];
            page.sample(NODE_ENERGY.name, &labels, Energy::from_uj(zone.energy_uj).as_joules_exact());
        }
    }
    for (metric, figure) in [(NODE_POWER, (|n| n.power_uw) as fn(&v1::Node) -> Option<u64>), (NODE_IDLE, |n| n.idle_uw)]
    {
        page.head(metric);
        for node in shown() {
            if let Some(uw) = figure(node) {
                let labels = [("node", node.name.as_str()), ("quality", quality(node.quality()))];
                page.sample(metric.name, &labels, watts(uw));
            }
        }
    }
    page.head(NODE_STATE);
    for node in shown() {
        page.sample(NODE_STATE.name, &[("node", &node.name), ("state", state(node.state()))], 1);
    }
    page.head(NODE_AGE);
    for node in shown().filter(|node| node.last_ms > 0) {
        page.sample(NODE_AGE.name, &[("node", &node.name)], now_ms.saturating_sub(node.last_ms) as f64 / 1e3);
    }
    page.head(NODE_GAP);
    for node in shown() {
        page.sample(NODE_GAP.name, &[("node", &node.name)], node.gap_today_ms as f64 / 1e3);
    }
    page.head(NAMESPACE_ENERGY);
    let namespaces: BTreeMap<String, u64> = live.namespaces();
    for (namespace, uj) in &namespaces {
        let value = Energy::from_uj(*uj).as_joules_exact();
        page.sample(NAMESPACE_ENERGY.name, &[("namespace", namespace)], value);
    }
    for (metric, label, by, most) in
        [(NAMESPACE_POWER, "namespace", v1::GroupBy::Namespace, usize::MAX), (APP_POWER, "app", v1::GroupBy::App, 100)]
    {
        page.head(metric);
        for group in live.workloads(by, "", "", now_ms).iter().take(most) {
            if let Some(uw) = group.power_uw {
                page.sample(metric.name, &[(label, &group.name)], watts(uw));
            }
        }
    }
    page.devices(rack, now_ms);
    page.plan(plans, now_ms);
    page.deeds(board);
    page.cluster(plans);
    page.one(NODES, live.len());
    page.one(CONNECTED, live.connected());
    for (metric, n) in [
        (SAMPLES, &counts.samples),
        (FRAMES, &counts.frames),
        (DUPLICATES, &counts.duplicates),
        (DROPPED, &counts.dropped),
        (REFUSED_FRAMES, &counts.refused_frames),
        (BYTES, &counts.bytes),
    ] {
        page.one(metric, n.load(Ordering::Relaxed));
    }
    page.head(REFUSED);
    for refusals in counts.refusals() {
        page.sample(REFUSED.name, &[("reason", &refusals.reason)], refusals.count);
    }
    page.head(COMMIT);
    let (buckets, sum, count) = counts.histogram();
    for (bound, below) in buckets {
        page.sample("ebbtide_fleet_commit_seconds_bucket", &[("le", &bound.to_string())], below);
    }
    page.sample("ebbtide_fleet_commit_seconds_bucket", &[("le", "+Inf")], count);
    page.sample("ebbtide_fleet_commit_seconds_sum", &[], sum);
    page.sample("ebbtide_fleet_commit_seconds_count", &[], count);
    if let Some(store) = store {
        page.one(UNSEALED, store.unsealed_frames);
        page.one(STORE, store.bytes);
    }
    page.head(BUILD);
    page.sample(BUILD.name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    page.0
}

fn quality(quality: v1::Quality) -> &'static str {
    ebbtide_proto::series::Quality::try_from(quality).map_or("unknown", ebbtide_proto::series::Quality::as_str)
}
