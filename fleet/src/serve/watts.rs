//! Notes what nodes and outlets draw, so that what is plugged in where can be found out.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ebbtide_proto::v1;
use ebbtide_runtime::tasks::Shutdown;

use crate::power::Rack;
use crate::power::history::{EVERY_MS, History, outlets, watts};
use crate::query::Queries;

/// Notes the watts of all nodes and outlets again and again until the stop.
///
/// # Errors
/// None.
pub(super) async fn note(
    history: Arc<Mutex<History>>,
    rack: Arc<Rack>,
    queries: Arc<dyn Queries>,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(Duration::from_millis(EVERY_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            _ = ticks.tick() => {}
        }
        if rack.devices().next().is_none() {
            continue;
        }
        let nodes = queries.nodes(&v1::ListNodesRequest::default()).nodes;
        let nodes = nodes.into_iter().filter_map(|node| Some((node.name, watts(node.power_uw?))));
        let nodes: Vec<_> = nodes.collect();
        history.lock().unwrap_or_else(PoisonError::into_inner).note(nodes, outlets(&rack));
    }
}
