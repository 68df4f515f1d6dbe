//! `ebbtide-fleet replay`: had a policy been on, what would have come of what is in the store?

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::{Context as _, ensure};
use ebbtide_planner::sim::history::{self, History, NodeHistory, WorkloadHistory};
use ebbtide_proto::series::Metric;
use ebbtide_proto::{NodeId, WorkloadId, v1};
use ebbtide_runtime::clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Replay;
use crate::decide::inventory::Inventory;
use crate::decide::observe::is_placed;
use crate::decide::read_policy;
use crate::query::QueryError;
use crate::store::names::Definition;
use crate::store::{Export, Options, Resolution, Sink, Store};
use crate::{fields, groups};

/// Steps of the record.
const STEP_MS: u64 = 300_000;

/// Runs a policy over what is in the store.
///
/// # Errors
/// If the store or a file can't be used, or nothing in the store can be replayed.
pub fn run(what: &Replay) -> anyhow::Result<()> {
    let inventory = Inventory::load(&what.inventory)?;
    let policy = what.policy.as_deref().map(read_policy).transpose()?.unwrap_or_default();
    let now_ms = clock::now().wall / 1_000_000;
    let until_ms = what.until.map_or(now_ms, |at| at.as_millisecond().unsigned_abs());
    let from_ms = what.since.map_or(until_ms.saturating_sub(7 * 86_400_000), |at| at.as_millisecond().unsigned_abs());
    ensure!(from_ms < until_ms, "--since is not before --until");
    let store = open(&what.from)?;
    let history = recorded(&store, &inventory, from_ms - from_ms % STEP_MS, until_ms)?;
    let bar = ProgressBar::new(0).with_style(ProgressStyle::with_template("{bar:30} {percent} %, {eta}")?);
    let replayed = history::replay(&history, &policy, what.seed, |done, of| {
        bar.set_length(of);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    if what.json {
        return fields::show(&replayed, true);
    }
    println!(
        "{:.1} h of {} nodes and {} workloads: {:.3} kWh as it was, {:.3} kWh with this policy: {:+.3} kWh ({:+.1} %)",
        replayed.hours,
        history.nodes.len(),
        history.workloads.len(),
        replayed.as_it_was_kwh,
        replayed.would_be_kwh,
        -replayed.saved_kwh,
        -replayed.saved_pct,
    );
    println!(
        "{:.0} % of it was measured; the learned curves are off by {:+.1} %",
        replayed.measured_pct, replayed.model_error_pct
    );
    println!("taken for granted:");
    replayed.assumptions.iter().for_each(|line| println!("  {line}"));
    Ok(())
}

fn open(folder: &Path) -> anyhow::Result<Store> {
    ensure!(folder.join("hot.db").is_file(), "{} is no folder of a store", folder.display());
    Store::open(folder, Options::default()).with_context(|| {
        format!(
            "can't use {}; of a daemon that runs, make a copy first: ebbtide-fleet backup --data {} --to COPY",
            folder.display(),
            folder.display()
        )
    })
}

/// What the store knows of the nodes of the inventory.
fn recorded(store: &Store, inventory: &Inventory, from_ms: u64, until_ms: u64) -> anyhow::Result<History> {
    let steps = usize::try_from((until_ms - from_ms).div_ceil(STEP_MS))?;
    let known: BTreeSet<NodeId> = store.nodes().into_iter().collect();
    let mut nodes = Vec::new();
    for entry in &inventory.node {
        let id = NodeId::new(&entry.name)?;
        if !known.contains(&id) {
            eprintln!("{id} is left out: nothing of it is in the store");
            continue;
        }
        ensure!(entry.cpus.is_some(), "node {id} has no cpus in the inventory; say how many, the store doesn't know");
        let mut node = entry.node(None, "").map_err(anyhow::Error::msg)?;
        (node.switchable, node.wake_proven) = (entry.switchable.unwrap_or(true), true);
        nodes.push(NodeHistory { node, watts: watts(store, &id, from_ms, steps)? });
    }
    ensure!(!nodes.is_empty(), "no node of the inventory is in the store");
    let mut used = Used { from_ms, steps, nodes: BTreeMap::new(), workloads: BTreeMap::new(), of: None };
    for n in &nodes {
        let what = Export { from_ms, until_ms, node: Some(n.node.id.clone()), resolution: Resolution::Minute };
        store.hand_out(&what, &mut used)?;
    }
    for n in &mut nodes {
        let on_it = used.workloads.values().filter_map(|seen| seen.by_node.get(&n.node.id));
        let theirs: u64 = on_it.flatten().sum();
        let all: u64 = used.nodes.get(&n.node.id).map_or(0, |ns| ns.iter().sum());
        // what belongs to the node goes on wherever workloads are
        let own = all.saturating_sub(theirs) / (STEP_MS * 1000 * steps as u64).max(1);
        n.node.reserved_use_milli = own;
        n.node.reserved.cpu_milli = n.node.reserved.cpu_milli.max(own);
    }
    Ok(History { step_s: STEP_MS / 1000, nodes, workloads: workloads(&used.workloads, inventory, steps) })
}

/// Mean watts of each step; `None` where less than half of it is known.
fn watts(store: &Store, node: &NodeId, from_ms: u64, steps: usize) -> Result<Vec<Option<f64>>, QueryError> {
    let mut all = vec![None; steps];
    // a day at a time: answers have an end
    let day = 86_400_000 / STEP_MS;
    for first in (0..steps as u64).step_by(usize::try_from(day).unwrap_or(usize::MAX)) {
        let last = (first + day).min(steps as u64);
        let question = v1::QueryEnergyRequest {
            from_ms: from_ms + first * STEP_MS,
            until_ms: from_ms + last * STEP_MS,
            step_ms: STEP_MS,
            by: v1::GroupBy::Node.into(),
            node: node.to_string(),
            ..v1::QueryEnergyRequest::default()
        };
        let answer = store.energy(&question, from_ms + steps as u64 * STEP_MS)?;
        let offset = answer.from_ms.saturating_sub(from_ms) / STEP_MS;
        for group in &answer.groups {
            for (i, (uj, covered_ms)) in (offset..).zip(group.energy_uj.iter().zip(&group.covered_ms)) {
                if let Some(place) = usize::try_from(i).ok().and_then(|i| all.get_mut(i))
                    && *covered_ms >= STEP_MS / 2
                {
                    *place = Some(*uj as f64 / 1e3 / *covered_ms as f64);
                }
            }
        }
    }
    Ok(all)
}

/// Workloads with their use in each step.
fn workloads(seen: &BTreeMap<WorkloadId, Seen>, inventory: &Inventory, steps: usize) -> Vec<WorkloadHistory> {
    let mut all = Vec::new();
    for (id, Seen { name, by_node }) in seen {
        let mut samples = vec![None; steps];
        for (node, ns) in by_node {
            let (first, last) = (ns.iter().position(|n| *n > 0), ns.iter().rposition(|n| *n > 0));
            let (Some(first), Some(last)) = (first, last) else { continue };
            for (sample, ns) in samples.iter_mut().zip(ns).take(last + 1).skip(first) {
                let cpu_milli = *ns as f64 / (STEP_MS as f64 * 1e3);
                *sample = Some(history::Seen { node: Some(node.clone()), cpu_milli });
            }
        }
        let most = samples.iter().flatten().map(|s| s.cpu_milli).reduce(f64::max);
        all.extend(most.map(|most| WorkloadHistory { workload: inventory.described(id, name, most), samples }));
    }
    all
}

/// A workload: as it is shown, and nanoseconds of CPU time by node and step.
struct Seen {
    name: String,
    by_node: BTreeMap<NodeId, Vec<u64>>,
}

/// Takes CPU time out of the store, in nanoseconds by step.
struct Used {
    from_ms: u64,
    steps: usize,
    /// Of whole nodes.
    nodes: BTreeMap<NodeId, Vec<u64>>,
    workloads: BTreeMap<WorkloadId, Seen>,
    /// What the values are of that come now.
    of: Option<(NodeId, Option<WorkloadId>)>,
}

impl Sink for Used {
    fn series(&mut self, node: &NodeId, of: Option<&Definition>) -> bool {
        self.of = None;
        let Some(of) = of.filter(|of| of.metric == Metric::CpuTime) else { return false };
        let workload = of.workload.as_ref().map(|info| (&info.id, groups::shown(info), is_placed(info)));
        self.of = match workload {
            None => Some((node.clone(), None)),
            Some((id, name, true)) => {
                self.workloads.entry(id.clone()).or_insert_with(|| Seen { name, by_node: BTreeMap::new() });
                Some((node.clone(), Some(id.clone())))
            }
            Some((.., false)) => None,
        };
        self.of.is_some()
    }

    fn value(&mut self, at_ms: u64, value: u64, _: Option<u64>) -> io::Result<()> {
        let Some((node, workload)) = &self.of else { return Ok(()) };
        let by_node = match workload {
            None => &mut self.nodes,
            Some(id) => match self.workloads.get_mut(id) {
                Some(seen) => &mut seen.by_node,
                None => return Ok(()),
            },
        };
        if !by_node.contains_key(node) {
            by_node.insert(node.clone(), vec![0; self.steps]);
        }
        let step = usize::try_from(at_ms.saturating_sub(self.from_ms) / STEP_MS).unwrap_or(usize::MAX);
        if let Some(sum) = by_node.get_mut(node).and_then(|steps| steps.get_mut(step)) {
            *sum += value;
        }
        Ok(())
    }
}
