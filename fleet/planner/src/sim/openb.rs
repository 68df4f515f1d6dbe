//! The GPU cluster that Alibaba published in 2023 (Weng et al., "Beware of Fragmentation", USENIX ATC 2023; the traces
//! of the repository `alibaba/clusterdata`, `cluster-trace-gpu-v2023`): all nodes off, all pods at once, one plan.
//!
//! A GPU is a thousand of the resource `gpu`. A pod may ask for a part of one, or for several whole ones. Planning goes
//! by sums; whether parts really fit on cards is looked at after, and what doesn't is taken off and planned anew, with
//! the room that can't be used set aside. The model a pod asks for is a label of the nodes that have it.
//!
//! Watts are assumptions, see [`ASSUMPTIONS`]: the traces have none. The planner goes by those of idle nodes and of CPUs;
//! what busy GPUs draw on top is added in the report, by the cards that pods really got.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use ebbtide_proto::id::{IdError, WorkloadKind};
use ebbtide_proto::{NodeId, WorkloadId};
use serde::{Deserialize, Serialize};

use super::cards::stranded;
use crate::check::check;
use crate::model::curve::PowerCurve;
use crate::plan::action::Do;
use crate::plan::{Refusal, plan};
use crate::policy::Policy;
use crate::state::event::Event;
use crate::state::node::{Node, PowerState};
use crate::state::resources::Resources;
use crate::state::workload::Workload;
use crate::state::{FleetState, Time};

/// The resource, in thousandths of a card.
const GPU: &str = "gpu";
/// Thousandths of a card.
const CARD: u64 = 1000;
/// Bytes of a mebibyte.
const MIB: u64 = 1 << 20;
/// Most rounds of planning, looking at cards, and planning what didn't fit on them.
const ROUNDS: usize = 12;

/// Idle and highest watts of a card, by the names in the traces. Boards' power limits are those of public data sheets;
/// what is behind the traces' names G2 and G3 is not published and taken for an A10 and an A100; idle watts are what such
/// cards are usually seen to draw without a context.
const CARDS: [(&str, f64, f64); 7] = [
    ("T4", 10.0, 70.0),
    ("P100", 26.0, 250.0),
    ("V100M16", 40.0, 300.0),
    ("V100M32", 40.0, 300.0),
    ("A10", 20.0, 150.0),
    ("G2", 20.0, 150.0),
    ("G3", 50.0, 400.0),
];
/// Idle and highest watts of a hardware thread, Skylake servers (Cloud Carbon Footprint's coefficients, from
/// SPECpower_ssj2008).
const THREAD_W: (f64, f64) = (0.64, 4.19);
/// Watts of a GiB of memory (Cloud Carbon Footprint's coefficient).
const GIB_W: f64 = 0.392;

/// Where the watts come from.
pub const ASSUMPTIONS: &str = "watts are assumptions: CPU 0.64 to 4.19 W a thread and memory 0.392 W a GiB (Cloud Carbon \
     Footprint, Skylake), cards idle/limit T4 10/70, P100 26/250, V100 40/300, A10 and G2 20/150, G3 50/400 W (data \
     sheets; G2 and G3 are taken for A10 and A100); a busy share of a card draws that share of limit less idle; all \
     requests are in use";

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Nodes.
    pub nodes: usize,
    /// Pods.
    pub pods: usize,
    /// Pods that were placed, on cards that have room.
    pub placed: usize,
    /// Pods that weren't.
    pub unplaced: usize,
    /// Those of them that sums had room for at some time, but no card.
    pub stranded: usize,
    /// Thousandths of a card that are in use, of all that there are, in per cent.
    pub gpu_used_pct: f64,
    /// Nodes that are on.
    pub nodes_on: usize,
    /// Watts that the planner goes by: of nodes that are on, without busy GPUs.
    pub watts: f64,
    /// The same if all nodes were on.
    pub all_on_w: f64,
    /// What no placement of the pods that were placed can be below.
    pub bound_w: f64,
    /// How far above the bound, in per cent.
    pub gap_pct: f64,
    /// Watts of busy GPUs on top.
    pub gpu_busy_w: f64,
    /// Rounds of planning that cards made necessary.
    pub rounds: usize,
    /// What the checker found; nothing.
    pub violations: usize,
    /// Where the watts come from.
    pub assumptions: String,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum OpenbError {
    /// A file can't be read.
    #[error(
        "can't read {path}: {source}; the folder has to have openb_node_list_all_node.csv and openb_pod_list_default.csv"
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A line that can't be understood.
    #[error("{path}, line {line}: {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// A name that isn't one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// The planner refused.
    #[error("no plan: {0}")]
    Plan(#[from] Refusal),
}

/// A line of a table by the names of its columns.
struct Row<'a> {
    path: &'a Path,
    line: usize,
    columns: &'a [&'a str],
    fields: Vec<&'a str>,
}

impl<'a> Row<'a> {
    fn text(&self, column: &str) -> Result<&'a str, OpenbError> {
        let at = self.columns.iter().position(|c| *c == column);
        at.and_then(|i| self.fields.get(i).copied()).ok_or_else(|| self.wrong(format!("no column {column}")))
    }

    fn number(&self, column: &str) -> Result<u64, OpenbError> {
        let text = self.text(column)?;
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| self.wrong(format!("{column} is {text:?}, not a whole number")))
    }

    fn wrong(&self, what: String) -> OpenbError {
        OpenbError::Line { path: self.path.to_owned(), line: self.line, what }
    }
}

fn rows<T>(
    path: &Path,
    text: &str,
    mut each: impl FnMut(&Row<'_>) -> Result<T, OpenbError>,
) -> Result<Vec<T>, OpenbError> {
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let columns: Vec<&str> = lines.next().map(|(_, l)| l.split(',').map(str::trim).collect()).unwrap_or_default();
    lines
        .map(|(i, l)| {
            each(&Row { path, line: i + 1, columns: &columns, fields: l.split(',').map(str::trim).collect() })
        })
        .collect()
}

/// A node's card model, and the pod's wish as the label that it selects by.
fn wish(spec: &str) -> String {
    format!("gpu-model/{spec}")
}

fn read_nodes(path: &Path, text: &str, wishes: &BTreeSet<String>) -> Result<Vec<Node>, OpenbError> {
    rows(path, text, |row| {
        let (cpu, mib, cards, model) =
            (row.number("cpu_milli")?, row.number("memory_mib")?, row.number("gpu")?, row.text("model")?);
        let card = CARDS.iter().find(|c| c.0 == model);
        if cards > 0 && card.is_none() {
            return Err(row.wrong(format!("nothing is known of the power of a card called {model:?}")));
        }
        let threads = cpu as f64 / 1000.0;
        let base = mib as f64 / 1024.0 * GIB_W + card.map_or(0.0, |c| c.1) * cards as f64;
        let mut room = Resources::new(cpu, mib * MIB);
        if cards > 0 {
            room = room.with(GPU, cards * CARD);
        }
        let curve = PowerCurve::line(base + threads * THREAD_W.0, base + threads * THREAD_W.1);
        let mut node = Node::new(NodeId::new(row.text("sn")?)?, room, curve);
        node.power = PowerState::Off;
        // a pod that takes one of several models selects by that choice as a whole
        for spec in wishes.iter().filter(|spec| spec.split('|').any(|m| m == model)) {
            node.labels.insert(wish(spec), "yes".to_owned());
        }
        node.labels.insert("gpu-model".to_owned(), model.to_owned());
        Ok(node)
    })
}

fn read_pods(path: &Path, text: &str) -> Result<(Vec<Workload>, BTreeSet<String>), OpenbError> {
    let mut wishes = BTreeSet::new();
    let pods = rows(path, text, |row| {
        let (count, milli) = (row.number("num_gpu")?, row.number("gpu_milli")?);
        let mut needs = Resources::new(row.number("cpu_milli")?, row.number("memory_mib")? * MIB);
        if count > 1 && milli != CARD {
            return Err(row.wrong(format!("asks for {milli} thousandths of {count} cards; several have to be whole")));
        }
        if count > 0 {
            needs = needs.with(GPU, count * milli);
        }
        let mut pod = Workload::new(WorkloadId::new(WorkloadKind::Pod, row.text("name")?)?, needs);
        let spec = row.text("gpu_spec")?;
        if !spec.is_empty() {
            wishes.insert(spec.to_owned());
            pod.selector.insert(wish(spec), "yes".to_owned());
        }
        Ok(pod)
    })?;
    Ok((pods, wishes))
}

/// Places all pods. `progress` is told the round and of how many at most.
///
/// # Errors
/// [`OpenbError`] if the folder's files can't be used.
pub fn run(folder: &Path, policy: &Policy, mut progress: impl FnMut(u64, u64)) -> Result<Report, OpenbError> {
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path)
            .map(|text| (path.clone(), text))
            .map_err(|source| OpenbError::Io { path, source })
    };
    let (node_path, node_text) = read("openb_node_list_all_node.csv")?;
    let (pod_path, pod_text) = read("openb_pod_list_default.csv")?;
    let (pods, wishes) = read_pods(&pod_path, &pod_text)?;
    let nodes = read_nodes(&node_path, &node_text, &wishes)?;
    place(nodes, pods, policy, &mut progress)
}

fn place(
    nodes: Vec<Node>,
    pods: Vec<Workload>,
    policy: &Policy,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Report, OpenbError> {
    let (node_count, pod_count) = (nodes.len(), pods.len());
    let all_cards: u64 = nodes.iter().filter_map(|n| n.capacity.named.get(GPU)).sum();
    let mut state = FleetState::new();
    let at = Time::from_secs(100_000);
    for node in nodes {
        state.apply(at, Event::NodeSeen(Box::new(node)));
    }
    for pod in pods {
        state.apply(at, Event::WorkloadSeen(Box::new(pod)));
    }
    state.apply(at, Event::Synced);
    let (mut rounds, mut violations) = (0, 0);
    let mut without_card = BTreeSet::new();
    loop {
        progress(rounds as u64, ROUNDS as u64);
        rounds += 1;
        for node in state.nodes.values_mut() {
            node.heard = at;
        }
        // all rounds are one decision: nothing was started yet
        state.settle();
        let plan = plan(&state, policy, at)?;
        violations += check(&plan, &state, policy).len();
        for action in plan.actions.iter().filter(|a| !matches!(a.what, Do::PowerOff { .. } | Do::Cordon { .. })) {
            for event in action.what.effects() {
                state.apply(at, event);
            }
        }
        let misfits = off_cards(&mut state, at);
        if misfits.is_empty() || rounds >= ROUNDS {
            without_card.extend(misfits);
            break;
        }
        without_card.extend(misfits);
    }
    without_card.retain(|id| state.workloads.get(id).is_some_and(|w| w.node.is_none()));
    Ok(report(&state, policy, (node_count, pod_count, all_cards), (rounds, violations, without_card.len()), at)?)
}

/// Takes pods off nodes where no card has room for them, and sets aside what is left over there.
fn off_cards(state: &mut FleetState, at: Time) -> BTreeSet<WorkloadId> {
    let mut off = BTreeSet::new();
    let mut aside = Vec::new();
    for node in state.nodes.values().filter(|n| n.capacity.named.contains_key(GPU)) {
        let gpu = |id: &WorkloadId| state.workloads.get(id).and_then(|w| w.requests.named.get(GPU)).copied();
        let asks: Vec<(&WorkloadId, u64)> =
            state.places.on(&node.id).filter_map(|id| Some((id, gpu(id)?))).filter(|(_, m)| *m > 0).collect();
        let cards = node.capacity.named.get(GPU).copied().unwrap_or(0) / CARD;
        let wanted: Vec<u64> = asks.iter().map(|(_, milli)| *milli).collect();
        let misfits = stranded(&wanted, cards);
        if misfits.is_empty() {
            continue;
        }
        let stay: u64 = (0..wanted.len()).filter(|i| !misfits.contains(i)).map(|i| wanted[i]).sum();
        off.extend(misfits.iter().map(|i| asks[*i].0.clone()));
        aside.push((node.id.clone(), (cards * CARD).saturating_sub(stay)));
    }
    for id in &off {
        state.apply(at, Event::WorkloadBound { workload: id.clone(), node: None });
    }
    for (node, milli) in aside {
        let reserved = Resources::default().with(GPU, milli);
        state.apply(at, Event::NodeReserved { node, reserved, used_milli: 0 });
    }
    off
}

fn report(
    state: &FleetState,
    policy: &Policy,
    (nodes, pods, all_cards): (usize, usize, u64),
    (rounds, violations, stranded): (usize, usize, usize),
    at: Time,
) -> Result<Report, Refusal> {
    let placed = state.workloads.values().filter(|w| w.node.is_some()).count();
    // the bound is for what was placed, and with all cards: what is set aside only makes a placement dearer
    let mut served = state.clone();
    for node in state.nodes.keys() {
        let whole = Event::NodeReserved { node: node.clone(), reserved: Resources::default(), used_milli: 0 };
        served.apply(at, whole);
    }
    for w in state.workloads.values().filter(|w| w.node.is_none()) {
        served.apply(at, Event::WorkloadGone { workload: w.id.clone() });
    }
    served.settle();
    let bound_w = plan(&served, &Policy { effort: 1, ..policy.clone() }, at)?.bound_w;
    let used = state.expected_use();
    let watts = state.watts();
    let all_on_w = state.nodes.values().map(|n| n.watts(used.get(&n.id).copied().unwrap_or(0.0))).sum();
    let (mut busy_w, mut milli) = (0.0, 0);
    for w in state.workloads.values() {
        let (Some(node), Some(gpu)) = (&w.node, w.requests.named.get(GPU)) else { continue };
        milli += gpu;
        let model = state.nodes.get(node).and_then(|n| n.labels.get("gpu-model"));
        let card = CARDS.iter().find(|c| Some(c.0) == model.map(String::as_str));
        busy_w += card.map_or(0.0, |c| c.2 - c.1) * *gpu as f64 / CARD as f64;
    }
    Ok(Report {
        nodes,
        pods,
        placed,
        unplaced: pods - placed,
        stranded,
        gpu_used_pct: milli as f64 / all_cards.max(1) as f64 * 100.0,
        nodes_on: state.nodes.values().filter(|n| n.power == PowerState::On).count(),
        watts,
        all_on_w,
        bound_w,
        gap_pct: if bound_w > 0.0 { (watts / bound_w - 1.0) * 100.0 } else { 0.0 },
        gpu_busy_w: busy_w,
        rounds,
        violations,
        assumptions: ASSUMPTIONS.to_owned(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} nodes, {} pods", self.nodes, self.pods)?;
        writeln!(
            f,
            "{} placed, {} not ({} for want of a card with room) · {:.1} % of all GPUs in use",
            self.placed, self.unplaced, self.stranded, self.gpu_used_pct
        )?;
        writeln!(f, "{} nodes on, {} off", self.nodes_on, self.nodes - self.nodes_on)?;
        writeln!(
            f,
            "{:.1} kW (all on {:.1} kW), bound {:.1} kW, gap {:.1} % · busy GPUs {:.1} kW on top",
            self.watts / 1e3,
            self.all_on_w / 1e3,
            self.bound_w / 1e3,
            self.gap_pct,
            self.gpu_busy_w / 1e3
        )?;
        writeln!(f, "{} rounds of planning, {} violations", self.rounds, self.violations)?;
        writeln!(f, "{}", self.assumptions)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,32000,131072,2,T4\nn1,32000,131072,2,V100M16\n\
                         n2,32000,131072,0,\n";
    const HEAD: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n";

    fn placed(pods: &str) -> Report {
        let (pods, wishes) = read_pods(Path::new("p"), &format!("{HEAD}{pods}")).unwrap();
        let nodes = read_nodes(Path::new("n"), NODES, &wishes).unwrap();
        place(nodes, pods, &Policy::default(), &mut |_, _| {}).unwrap()
    }

    #[test]
    fn parts_of_cards_share_a_card_only_if_they_fit_on_it() {
        // three times 600 are less than two cards, but only one fits on each
        let report = placed("a,1000,1024,1,600,T4,LS\nb,1000,1024,1,600,T4,LS\nc,1000,1024,1,600,T4,LS\n");
        assert_eq!((report.placed, report.unplaced, report.violations), (2, 1, 0), "{report:?}");
        let report = placed("a,1000,1024,1,600,T4,LS\nb,1000,1024,1,400,T4,LS\nc,1000,1024,1,600,T4,LS\n");
        assert_eq!((report.placed, report.nodes_on), (3, 1), "{report:?}");
    }

    #[test]
    fn a_pod_goes_where_its_model_is_and_needs_whole_cards_if_several() {
        let report =
            placed("a,1000,1024,2,1000,V100M16|V100M32,LS\nb,1000,1024,1,1000,V100M16,LS\nc,1000,1024,0,0,,BE\n");
        assert_eq!((report.placed, report.unplaced, report.nodes_on), (2, 1, 1), "{report:?}");
        assert!((report.gpu_busy_w - 2.0 * 260.0).abs() < 1e-9, "{report:?}");
        assert!(report.watts >= report.bound_w && report.bound_w > 0.0, "{report:?}");
        let said = read_pods(Path::new("p"), &format!("{HEAD}a,1,1,2,500,,LS\n")).unwrap_err().to_string();
        assert_eq!(said, "p, line 2: asks for 500 thousandths of 2 cards; several have to be whole");
    }

    #[test]
    fn lines_that_cannot_be_read_are_named() {
        let said = read_nodes(Path::new("n"), "sn,cpu_milli,memory_mib,gpu,model\nx,1,1,1,H1\n", &BTreeSet::new());
        assert_eq!(said.unwrap_err().to_string(), "n, line 2: nothing is known of the power of a card called \"H1\"");
        let said = read_pods(Path::new("p"), "name,cpu_milli\na,x\n").map(|_| ()).unwrap_err().to_string();
        assert!(said.starts_with("p, line 2: no column num_gpu"), "{said}");
    }
}
