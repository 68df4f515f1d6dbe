//! Answers from what is live and what is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;

use super::{Queries, QueryError};
use crate::ingest::Counts;
use crate::live::Live;
use crate::power::Rack;
use crate::store::{Stats, Store};

/// Workloads in an answer, if the question doesn't say.
const WORKLOADS: usize = 1000;

/// The fleet daemon's answers.
pub struct Answers {
    /// What is now.
    pub live: Arc<Live>,
    /// What was.
    pub store: Store,
    /// The power hardware.
    pub rack: Arc<Rack>,
    /// What happened to the ingest.
    pub counts: Arc<Counts>,
    /// When the daemon started, in milliseconds since 1970.
    pub started_ms: u64,
    /// Whether connections are encrypted.
    pub encrypted: bool,
    /// The store's folder, for people.
    pub data_dir: String,
    /// When blocks were made last, in milliseconds since 1970; 0: not yet.
    pub sealed_ms: AtomicU64,
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

impl Queries for Answers {
    fn nodes(&self, request: &v1::ListNodesRequest) -> v1::ListNodesResponse {
        let now_ms = now_ms();
        v1::ListNodesResponse { nodes: self.live.nodes(&request.search, now_ms), now_ms }
    }

    fn node(&self, request: &v1::GetNodeRequest) -> Result<v1::GetNodeResponse, QueryError> {
        let unknown = || QueryError::NotFound { what: "node", name: request.name.clone() };
        let id = NodeId::new(&request.name).map_err(|_| unknown())?;
        let now_ms = now_ms();
        let (node, workloads) = self.live.node(&id, now_ms).ok_or_else(unknown)?;
        Ok(v1::GetNodeResponse { node: Some(node), workloads, now_ms })
    }

    fn workloads(&self, request: &v1::ListWorkloadsRequest) -> Result<v1::ListWorkloadsResponse, QueryError> {
        let by = match request.by() {
            v1::GroupBy::Unspecified => v1::GroupBy::Namespace,
            by => by,
        };
        if matches!(by, v1::GroupBy::Fleet | v1::GroupBy::Node | v1::GroupBy::Zone | v1::GroupBy::Component) {
            let text = "workloads can't be told apart by that; use namespace, pod, container, unit, vm, user or app";
            return Err(QueryError::Invalid(text.to_owned()));
        }
        let now_ms = now_ms();
        let mut workloads = self.live.workloads(by, &request.node, &request.search, now_ms);
        let total = u32::try_from(workloads.len()).unwrap_or(u32::MAX);
        workloads.truncate(if request.limit == 0 { WORKLOADS } else { request.limit as usize });
        Ok(v1::ListWorkloadsResponse { workloads, total, now_ms })
    }

    fn energy(&self, request: &v1::QueryEnergyRequest) -> Result<v1::QueryEnergyResponse, QueryError> {
        self.store.energy(request, now_ms())
    }

    fn zones(&self, request: &v1::ListZonesRequest) -> v1::ListZonesResponse {
        v1::ListZonesResponse { zones: self.live.zones(&request.node) }
    }

    fn totals(&self) -> v1::Totals {
        self.live.totals(now_ms())
    }

    fn status(&self) -> v1::GetStatusResponse {
        let counts = &self.counts;
        let now_ms = now_ms();
        let mut troubles = Vec::new();
        let stats = self.store.stats().unwrap_or_else(|error| {
            troubles.push(error.to_string());
            Stats::default()
        });
        let sealed_ms = self.sealed_ms.load(Ordering::Relaxed).max(self.started_ms);
        if now_ms.saturating_sub(sealed_ms) > 15 * 60 * 1000 {
            troubles.push("no blocks were made for 15 minutes: the log says why".to_owned());
        }
        let p99 = counts.p99_us();
        if p99 > 5_000_000 {
            troubles.push("commits take more than 5 s: the disk is slow or full".to_owned());
        }
        v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_ms: self.started_ms,
            now_ms,
            nodes: u32::try_from(self.live.len()).unwrap_or(u32::MAX),
            connected: u32::try_from(self.live.connected()).unwrap_or(u32::MAX),
            samples: counts.samples.load(Ordering::Relaxed),
            frames: counts.frames.load(Ordering::Relaxed),
            duplicates: counts.duplicates.load(Ordering::Relaxed),
            dropped_frames: counts.dropped.load(Ordering::Relaxed),
            refusals: counts.refusals(),
            commit_p99_us: p99,
            store_bytes: stats.bytes,
            unsealed_frames: stats.unsealed_frames,
            oldest_ms: stats.oldest_ms,
            encrypted: self.encrypted,
            data_dir: self.data_dir.clone(),
            your_role: String::new(),
            troubles,
        }
    }
}
