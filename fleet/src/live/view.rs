//! Answers about now.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ebbtide_proto::series::{Component, Quality, WorkloadInfo, ZoneInfo};
use ebbtide_proto::{NodeId, WorkloadId, v1};

use super::node::Figures;
use super::registry::{Entry, Live};
use crate::groups;

/// Workloads by what was asked for, before they are sorted and cut.
#[derive(Debug, Default)]
struct Found {
    /// Figures by name, each with the node that was added last.
    groups: HashMap<String, (v1::WorkloadPower, String)>,
}

/// A node as plans are made from it.
#[derive(Debug)]
pub struct Load {
    /// The node.
    pub node: v1::Node,
    /// What runs on it, with busy CPUs in thousandths.
    pub workloads: Vec<(Arc<WorkloadInfo>, Option<u64>)>,
    /// What has left it, as whoever moved it says.
    pub left: Vec<WorkloadId>,
    /// Whether its agent may shut the machine down; `None` if it isn't connected.
    pub shuts_down: Option<bool>,
}

/// What was moved off a node may be told of for so long, for the last it did is told after its end. In milliseconds.
const LAST_WORDS_MS: u64 = 15_000;

impl Live {
    /// Shows all nodes with what runs on them, by name.
    pub fn loads(&self, now_ms: u64, mut look: impl FnMut(&NodeId, Load)) {
        self.each(|id, entry| {
            let left = |info: &WorkloadInfo, last_ms: u64| {
                entry.left.get(&info.id).is_some_and(|told_ms| last_ms <= told_ms.saturating_add(LAST_WORDS_MS))
            };
            let (gone, here): (Vec<_>, Vec<_>) =
                entry.figures.workloads().into_iter().partition(|(info, f)| left(info, f.last_ms));
            let connected = entry.presence.connected.is_some();
            look(
                id,
                Load {
                    node: self.node_of(id, entry, now_ms),
                    workloads: here.into_iter().map(|(info, f)| (info, f.cpu_milli)).collect(),
                    left: gone.into_iter().map(|(info, _)| info.id.clone()).collect(),
                    shuts_down: connected.then_some(entry.presence.shuts_down),
                },
            );
        });
    }

    /// All nodes whose name contains `search`, by name.
    pub fn nodes(&self, search: &str, now_ms: u64) -> Vec<v1::Node> {
        let mut nodes = Vec::new();
        self.each(|id, entry| {
            if id.as_str().contains(search) {
                nodes.push(self.node_of(id, entry, now_ms));
            }
        });
        nodes
    }

    /// One node and its workloads, the most power first.
    pub fn node(&self, id: &NodeId, now_ms: u64) -> Option<(v1::Node, Vec<v1::WorkloadPower>)> {
        self.one(id, |entry| {
            let node = self.node_of(id, entry, now_ms);
            let quality = node.quality;
            let all = entry.figures.workloads();
            let mut workloads: Vec<_> = all.iter().map(|(info, f)| workload(id, info, f, quality)).collect();
            sort(&mut workloads);
            (node, workloads)
        })
    }

    /// The zones of all nodes, or of one.
    pub fn zones(&self, of: &str) -> Vec<v1::NodeZone> {
        let mut zones = Vec::new();
        self.each(|id, entry| {
            if of.is_empty() || id.as_str() == of {
                let zone = |z: &Arc<ZoneInfo>| v1::NodeZone { node: id.to_string(), zone: Some((&**z).into()) };
                zones.extend(entry.figures.zones().iter().map(|(z, _)| zone(z)));
            }
        });
        zones
    }

    /// What draws power now, told apart by `by`; only what contains `search`, the most first.
    pub fn workloads(&self, by: v1::GroupBy, of: &str, search: &str, now_ms: u64) -> Vec<v1::WorkloadPower> {
        let mut found = Found::default();
        self.each(|id, entry| {
            if !of.is_empty() && id.as_str() != of {
                return;
            }
            let node = self.node_of(id, entry, now_ms);
            if !matches!(node.state(), v1::NodeState::Live | v1::NodeState::CatchingUp) {
                return;
            }
            for (info, figures) in entry.figures.workloads() {
                let Some(name) = groups::of_workload(by, &info) else { continue };
                if !search.is_empty() && !matches(&info, &name, search) {
                    continue;
                }
                found.add(name, workload(id, &info, &figures, node.quality));
            }
        });
        let mut all: Vec<_> = found.groups.into_values().map(|(group, _)| group).collect();
        sort(&mut all);
        all
    }

    /// The fleet in one line. Nodes that are silent don't count towards the power.
    pub fn totals(&self, now_ms: u64) -> v1::Totals {
        let mut totals = v1::Totals::default();
        let mut components = [None::<u64>; Component::ALL.len()];
        let mut worst = None;
        self.each(|id, entry| {
            let node = self.node_of(id, entry, now_ms);
            totals.nodes += 1;
            totals.today_uj = totals.today_uj.saturating_add(node.today_uj);
            totals.troubled += u32::from(!node.trouble.is_empty());
            match node.state() {
                v1::NodeState::Live | v1::NodeState::CatchingUp => totals.live += 1,
                v1::NodeState::Stale => totals.stale += 1,
                _ => {}
            }
            let Some(power) = node.power_uw else { return };
            totals.workloads += node.workloads;
            totals.power_uw = Some(totals.power_uw.unwrap_or(0).saturating_add(power));
            if let Some(idle) = node.idle_uw {
                totals.idle_uw = Some(totals.idle_uw.unwrap_or(0).saturating_add(idle));
            }
            worst = worst.max(Some(node.quality));
            for (zone, figures) in entry.figures.zones().iter().filter(|(zone, _)| zone.counts) {
                let place = Component::ALL.iter().position(|c| *c == zone.kind.component());
                if let (Some(sum), Some(power)) = (place.and_then(|p| components.get_mut(p)), figures.power_uw) {
                    *sum = Some(sum.unwrap_or(0).saturating_add(power));
                }
            }
        });
        totals.quality = worst.unwrap_or_default();
        let named = Component::ALL.iter().zip(components);
        totals.components = named
            .filter_map(|(c, p)| Some(v1::ComponentPower { component: c.as_str().to_owned(), power_uw: p? }))
            .collect();
        totals
    }

    /// Microjoules that each namespace used since the daemon started, by name.
    pub fn namespaces(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::<String, u64>::new();
        self.each(|_, entry| {
            for (name, uj) in entry.figures.namespaces() {
                let sum = all.entry(name.to_owned()).or_default();
                *sum = sum.saturating_add(uj);
            }
        });
        all
    }

    fn node_of(&self, id: &NodeId, entry: &Entry, now_ms: u64) -> v1::Node {
        let Entry { presence, figures, .. } = entry;
        let silent = now_ms.saturating_sub(presence.heard_ms) >= self.staleness.after_ms;
        let behind = now_ms.saturating_sub(figures.last_ms) >= self.staleness.behind_ms;
        let state = match (&presence.connected, &presence.goodbye, &presence.trouble) {
            (Some(_), ..) if silent => v1::NodeState::Stale,
            (Some(_), ..) if behind => v1::NodeState::CatchingUp,
            (Some(_), ..) => v1::NodeState::Live,
            (None, Some(_), _) => v1::NodeState::Gone,
            (None, None, Some(_)) if presence.heard_ms == 0 => v1::NodeState::Refused,
            // who only just lost the connection is still known
            (None, None, _) if !silent && !behind => v1::NodeState::Live,
            (None, None, Some(_)) => v1::NodeState::Refused,
            (None, None, None) => v1::NodeState::Stale,
        };
        let now = matches!(state, v1::NodeState::Live);
        let zones = figures.zones();
        let latest = zones.iter().map(|(_, f)| f.last_ms).max().unwrap_or(0);
        let stale = |f: &Figures| latest.saturating_sub(f.last_ms) >= self.staleness.behind_ms;
        let counting = || zones.iter().filter(|(zone, f)| zone.counts && !stale(f));
        let sum = |of: fn(&Figures) -> Option<u64>| {
            let mut known = counting().filter_map(|(_, f)| of(f)).peekable();
            (now && known.peek().is_some()).then(|| known.fold(0, u64::saturating_add))
        };
        let worst = zones.iter().filter(|(zone, _)| zone.counts).map(|(zone, f)| quality(zone, now && !stale(f))).max();
        let (today_uj, gap_today_ms) = figures.today(now_ms);
        v1::Node {
            name: id.to_string(),
            state: state.into(),
            power_uw: sum(|f| f.power_uw),
            idle_uw: sum(|f| f.idle_uw),
            quality: worst.map_or(0, |q| v1::Quality::from(q).into()),
            cpu_milli: figures.cpu_milli().filter(|_| now),
            machine: presence.machine.as_deref().cloned(),
            last_ms: figures.last_ms,
            since_ms: presence.goodbye.as_ref().map_or(presence.since_ms, |(at, _)| *at),
            agent_version: presence.version.to_string(),
            boot_id: figures.boot().or(presence.boot).map(|b| b.to_string()).unwrap_or_default(),
            zones: zones
                .iter()
                .map(|(zone, f)| v1::ZonePower {
                    zone: Some((&**zone).into()),
                    power_uw: f.power_uw.filter(|_| now && !stale(f)),
                    idle_uw: f.idle_uw.filter(|_| now && !stale(f)),
                    energy_uj: f.energy_uj,
                    stale: !now || stale(f),
                })
                .collect(),
            workloads: u32::try_from(figures.workload_count()).unwrap_or(u32::MAX),
            today_uj,
            gap_today_ms,
            trouble: presence.trouble.as_ref().map(|t| t.text.clone()).unwrap_or_default(),
            address: presence.address.map(|a| a.to_string()).unwrap_or_default(),
        }
    }
}

fn quality(zone: &ZoneInfo, fresh: bool) -> Quality {
    if fresh { zone.quality } else { Quality::Stale }
}

fn workload(node: &NodeId, info: &WorkloadInfo, figures: &Figures, quality: i32) -> v1::WorkloadPower {
    v1::WorkloadPower {
        id: info.id.to_string(),
        name: groups::shown(info),
        node: node.to_string(),
        power_uw: figures.power_uw,
        idle_uw: figures.idle_uw,
        cpu_milli: figures.cpu_milli,
        quality,
        labels: v1::Workload::from(info).labels,
        nodes: 1,
        members: 1,
    }
}

fn matches(info: &WorkloadInfo, name: &str, search: &str) -> bool {
    name.contains(search)
        || info.id.name().contains(search)
        || info.labels.iter().any(|(_, value)| value.contains(search))
}

fn sort(all: &mut [v1::WorkloadPower]) {
    all.sort_by(|a, b| b.power_uw.cmp(&a.power_uw).then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id)));
}

impl Found {
    fn add(&mut self, name: String, one: v1::WorkloadPower) {
        let Some((group, last)) = self.groups.get_mut(&name) else {
            let node = one.node.clone();
            self.groups.insert(name.clone(), (v1::WorkloadPower { name, ..one }, node));
            return;
        };
        let add = |to: &mut Option<u64>, more: Option<u64>| {
            if let Some(more) = more {
                *to = Some(to.unwrap_or(0).saturating_add(more));
            }
        };
        add(&mut group.power_uw, one.power_uw);
        add(&mut group.idle_uw, one.idle_uw);
        add(&mut group.cpu_milli, one.cpu_milli);
        group.quality = group.quality.max(one.quality);
        group.members += 1;
        if *last != one.node {
            // nodes come one after the other, so each is new exactly once
            group.nodes += 1;
            group.node = String::new();
            *last = one.node;
        }
        group.labels.retain(|label| one.labels.contains(label));
    }
}
