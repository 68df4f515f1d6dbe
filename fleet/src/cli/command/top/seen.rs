//! What is known of the fleet: updates, put together. Pure.

use std::collections::{BTreeMap, VecDeque};

use ebbtide_proto::v1;

/// Totals that are remembered for the curve.
const REMEMBERED: usize = 240;
/// The most nodes that are kept: more than a fleet can have, less than a hostile one could send.
const MOST_NODES: usize = 100_000;

/// The fleet as it was told last.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// The fleet's clock; 0: nothing was told yet.
    pub now_ms: u64,
    pub totals: v1::Totals,
    pub nodes: BTreeMap<String, v1::Node>,
    /// By what `workloads` are told apart.
    pub by: Option<v1::GroupBy>,
    pub workloads: Vec<v1::WorkloadPower>,
    /// Power of the fleet, the oldest first.
    pub curve: VecDeque<Option<u64>>,
    /// Why nothing new comes; figures are old then.
    pub lost: Option<String>,
}

impl Seen {
    /// Adds an update from a stream that was asked for workloads `by`.
    pub(super) fn take(&mut self, by: Option<v1::GroupBy>, update: v1::WatchResponse) {
        self.now_ms = update.now_ms;
        self.lost = None;
        if let Some(totals) = update.totals {
            self.curve.push_back(totals.power_uw);
            self.curve.drain(..self.curve.len().saturating_sub(REMEMBERED));
            self.totals = totals;
        }
        for node in update.nodes {
            if self.nodes.len() < MOST_NODES || self.nodes.contains_key(&node.name) {
                self.nodes.insert(node.name.clone(), node);
            }
        }
        for name in &update.removed {
            self.nodes.remove(name);
        }
        if self.by != by || by.is_some() {
            (self.by, self.workloads) = (by, update.workloads);
        }
    }

    /// A new stream begins: it will tell all nodes again.
    pub(super) fn begin(&mut self) {
        self.nodes.clear();
    }

    /// The quality to show a figure with.
    pub(super) fn quality(&self, told: i32) -> i32 {
        if self.lost.is_some() { v1::Quality::Stale.into() } else { told }
    }
}
