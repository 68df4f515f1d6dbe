//! What is written on a cluster's nodes for people and for other programs: what they draw, and what is done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_executor::operation::{Task, Then};
use ebbtide_kubernetes::act::Hands;
use ebbtide_kubernetes::act::notes::Notes;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_planner::state::FleetState;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_proto::NodeId;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::Shutdown;

use super::lead::Lead;
use super::{Acting, Board};
use crate::decide::Plans;

/// Time between two rounds of writing.
const ROUND: Duration = Duration::from_secs(2);
/// Nodes that are written on in one round: five thousand take a few minutes.
const AT_ONCE: usize = 50;
/// A curve is written again when it has changed by this share.
const CHANGED: f64 = 0.05;
/// The API server has this long to answer.
const PATIENCE: Duration = Duration::from_secs(8);

/// Writes down what is done and what was learned, until the stop.
///
/// # Errors
/// None.
pub async fn write(
    hands: Hands,
    followed: Followed,
    lead: Lead,
    acting: Acting,
    plans: Arc<Plans>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut written: BTreeMap<NodeId, Notes> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            _ = rounds.tick() => {}
        }
        if lead.generation().is_none() {
            // another writes now; what it wrote isn't known here
            written.clear();
            continue;
        }
        let nodes: BTreeSet<NodeId> = followed.inventory().nodes().map(|n| n.id.clone()).collect();
        written.retain(|id, _| nodes.contains(id));
        let now_ms = clock::now().wall / 1_000_000;
        let wanted = wanted(&nodes, &plans.state(), &acting.board(), &written, now_ms);
        for (node, notes) in wanted.into_iter().take(AT_ONCE) {
            match tokio::time::timeout(PATIENCE, hands.note(node.as_str(), &notes)).await {
                Ok(Ok(())) => drop(written.insert(node, notes)),
                Ok(Err(error)) => {
                    tracing::debug!("{:#}", anyhow::Error::from(error));
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

/// Notes that differ from what was written; states first, as somebody may wait for those.
fn wanted(
    nodes: &BTreeSet<NodeId>,
    fleet: &FleetState,
    board: &Board,
    written: &BTreeMap<NodeId, Notes>,
    now_ms: u64,
) -> Vec<(NodeId, Notes)> {
    let mut news = Vec::new();
    let ranks = ranks(nodes, fleet);
    for id in nodes {
        let Some(node) = fleet.nodes.get(id) else { continue };
        let before = written.get(id);
        let rank = ranks.get(id).copied();
        let mut notes = Notes { curve: Some(curve(node)), rank, state: state(id, node, board) };
        if let (Some((state, why, since)), Some((was, because, began))) =
            (&mut notes.state, before.and_then(|b| b.state.as_ref()))
            && (&*state, &*why) == (was, because)
        {
            *since = *began;
        } else if let Some((_, _, since)) = &mut notes.state {
            *since = now_ms;
        }
        let state_changed = before.is_none_or(|b| b.state != notes.state);
        if state_changed || before.is_none_or(|b| differs(b.curve, notes.curve) || b.rank != notes.rank) {
            news.push((!state_changed, id.clone(), notes));
        }
    }
    news.sort_by_key(|(later, ..)| *later);
    news.into_iter().map(|(_, id, notes)| (id, notes)).collect()
}

fn differs(a: Option<(f64, f64)>, b: Option<(f64, f64)>) -> bool {
    let far = |a: f64, b: f64| (a - b).abs() > CHANGED * a.abs().max(1.0);
    match (a, b) {
        (Some(a), Some(b)) => far(a.0, b.0) || far(a.1, b.1),
        (a, b) => a.is_some() != b.is_some(),
    }
}

/// The place of each node by watts per core when it is busy, 1 being the most efficient. Nodes that differ by less than a
/// twentieth share a place: what is learned moves a little all the time.
fn ranks(nodes: &BTreeSet<NodeId>, fleet: &FleetState) -> BTreeMap<NodeId, u32> {
    let mut by_cost: Vec<(f64, &NodeId)> = Vec::new();
    for id in nodes {
        let Some(node) = fleet.nodes.get(id).filter(|node| node.capacity.cpu_milli > 0) else { continue };
        by_cost.push((node.curve.full() * 1000.0 / node.capacity.cpu_milli as f64, id));
    }
    by_cost.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    let (mut place, mut first) = (0, f64::NEG_INFINITY);
    let mut ranks = BTreeMap::new();
    for (cost, id) in by_cost {
        if cost > first * (1.0 + CHANGED) || place == 0 {
            (place, first) = (place + 1, cost);
        }
        ranks.insert(id.clone(), place);
    }
    ranks
}

/// Watts without load, and watts of one more busy core.
fn curve(node: &Node) -> (f64, f64) {
    let cores = (node.capacity.cpu_milli as f64 / 1000.0).max(1.0);
    let idle = node.curve.idle();
    (idle, (node.curve.full() - idle).max(0.0) / cores)
}

/// What is done with a node, and why; nothing, if it is one among many. The moment is filled in by whoever asks.
fn state(id: &NodeId, node: &Node, board: &Board) -> Option<(String, String, u64)> {
    let said = |state: &str, why: &str| Some((state.to_owned(), why.to_owned(), 0));
    let live = board.operations.values().filter(|op| op.is_live() && op.task.node() == Some(id));
    for op in live {
        let state = match &op.task {
            Task::Empty { then: Then::Off, .. } => "powering-off",
            Task::Empty { .. } => "draining",
            Task::PowerOn { .. } => "powering-on",
            _ => continue,
        };
        return said(state, &op.why);
    }
    if let Some(why) = board.quarantined.get(id) {
        return said("quarantined", why);
    }
    if node.power == PowerState::Off {
        let last = board.operations.values().rev().find(|op| op.task.node() == Some(id));
        return said("off", last.map_or("an outlet or a BMC says so", |op| op.words.as_str()));
    }
    None
}
