//! `ebbtide-fleet replay`: had a policy been on, what would have come of what is in the store?

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, ensure};
use ebbtide_planner::sim::history::{self, History, NodeHistory, Seen, WorkloadHistory};
use ebbtide_planner::state::resources::Resources;
use ebbtide_planner::state::workload::Workload;
use ebbtide_proto::{NodeId, WorkloadId, WorkloadKind, v1};
use ebbtide_runtime::clock;
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Replay;
use crate::decide::inventory::Inventory;
use crate::decide::read_policy;
use crate::fields;
use crate::query::QueryError;
use crate::store::{Export, Options, Resolution, Store};

/// Steps of the record.
const STEP_MS: u64 = 300_000;
/// What nobody said a workload needs, it is taken to need in steps of this, in thousandths of a CPU.
const STEP_MILLI: f64 = 100.0;

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
    let names: BTreeSet<&NodeId> = nodes.iter().map(|n| &n.node.id).collect();
    let mut used = Used { from_ms, steps, line: Vec::new(), nodes: BTreeMap::new(), workloads: BTreeMap::new() };
    for name in names {
        let what = Export { from_ms, until_ms, node: Some(name.clone()), resolution: Resolution::Minute };
        store.export(&what, &mut used)?;
    }
    let Used { nodes: busy, workloads: seen, .. } = used;
    for n in &mut nodes {
        let theirs = seen.iter().filter(|((node, _), _)| *node == n.node.id).flat_map(|(_, ns)| ns).sum::<u64>();
        let all = busy.get(&n.node.id).map_or(0, |ns| ns.iter().sum::<u64>());
        // what belongs to the node goes on wherever workloads are
        let own = all.saturating_sub(theirs) / (STEP_MS * 1000 * steps as u64).max(1);
        n.node.reserved_use_milli = own;
        n.node.reserved.cpu_milli = n.node.reserved.cpu_milli.max(own);
    }
    Ok(History { step_s: STEP_MS / 1000, nodes, workloads: workloads(&seen, inventory, steps) })
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
fn workloads(
    seen: &BTreeMap<(NodeId, WorkloadId), Vec<u64>>,
    inventory: &Inventory,
    steps: usize,
) -> Vec<WorkloadHistory> {
    let mut all: BTreeMap<&WorkloadId, Vec<Option<Seen>>> = BTreeMap::new();
    for ((node, id), ns) in seen {
        let samples = all.entry(id).or_insert_with(|| vec![None; steps]);
        let (first, last) = (ns.iter().position(|n| *n > 0), ns.iter().rposition(|n| *n > 0));
        let (Some(first), Some(last)) = (first, last) else { continue };
        for (sample, ns) in samples.iter_mut().zip(ns).take(last + 1).skip(first) {
            *sample = Some(Seen { node: Some(node.clone()), cpu_milli: *ns as f64 / (STEP_MS as f64 * 1e3) });
        }
    }
    all.into_iter()
        .filter(|(_, samples)| samples.iter().any(Option::is_some))
        .map(|(id, samples)| {
            let most = samples.iter().flatten().map(|s| s.cpu_milli).fold(0.0, f64::max);
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and it saturates"
            )]
            let needs = ((most / STEP_MILLI).ceil().max(1.0) * STEP_MILLI) as u64;
            let mut workload = Workload::new(id.clone(), Resources::new(needs, 0));
            workload.stays = true;
            if let Some(entry) = inventory.workload(id, id.name()) {
                entry.describe(&mut workload);
            }
            WorkloadHistory { workload, samples }
        })
        .collect()
}

/// Takes in an export: nanoseconds of CPU time by step, of nodes and of workloads on them.
struct Used {
    from_ms: u64,
    steps: usize,
    line: Vec<u8>,
    nodes: BTreeMap<NodeId, Vec<u64>>,
    workloads: BTreeMap<(NodeId, WorkloadId), Vec<u64>>,
}

impl Used {
    fn take(&mut self, line: &str) -> Option<()> {
        let mut fields = line.split(',');
        let (at_ms, node, metric) = (fields.next()?.parse::<u64>().ok()?, fields.next()?, fields.next()?);
        if metric != "cpu_time_ns" {
            return None;
        }
        let rest: Vec<&str> = fields.collect();
        // names that had to be quoted have commas; nothing that is placed does
        let [_, workload, value, _] = rest.as_slice() else { return None };
        let (node, ns) = (NodeId::new(node).ok()?, value.parse::<u64>().ok()?);
        let step = usize::try_from(at_ms.checked_sub(self.from_ms)? / STEP_MS).ok()?;
        let series = if workload.is_empty() {
            self.nodes.entry(node)
        } else {
            let id: WorkloadId = workload.parse().ok()?;
            if !matches!(id.kind(), WorkloadKind::Pod | WorkloadKind::Container | WorkloadKind::Vm) {
                return None;
            }
            return self.add(step, ns, (node, id));
        };
        let series = series.or_insert_with(|| vec![0; self.steps]);
        *series.get_mut(step)? += ns;
        Some(())
    }

    fn add(&mut self, step: usize, ns: u64, key: (NodeId, WorkloadId)) -> Option<()> {
        let steps = self.steps;
        *self.workloads.entry(key).or_insert_with(|| vec![0; steps]).get_mut(step)? += ns;
        Some(())
    }
}

impl Write for Used {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                // the head, and lines about something else, are passed over
                let _taken = std::str::from_utf8(&line).ok().and_then(|line| self.take(line.trim_end()));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
