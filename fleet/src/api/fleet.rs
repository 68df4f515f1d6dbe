//! `ebbtide.v1.Fleet`: questions of operators and their programs.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use ebbtide_proto::v1::fleet_server::Fleet;
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{self, Shutdown};
use tokio::sync::Semaphore;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Trust, status};
use crate::query::{Queries, QueryError};

/// Questions about energy that are answered at a time; others wait.
const AT_A_TIME: usize = 4;
/// Who watches gets news at most this often.
const SHORTEST_WATCH: Duration = Duration::from_millis(250);

/// The service.
#[derive(Clone)]
pub struct FleetService {
    queries: Arc<dyn Queries>,
    trust: Trust,
    reading: Arc<Semaphore>,
    stop: Shutdown,
}

impl FleetService {
    /// Answers from `queries`.
    pub fn new(queries: Arc<dyn Queries>, trust: Trust, stop: Shutdown) -> Self {
        Self { queries, trust, reading: Arc::new(Semaphore::new(AT_A_TIME)), stop }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Fleet for FleetService {
    async fn list_nodes(&self, request: Request<v1::ListNodesRequest>) -> Answer<v1::ListNodesResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        Ok(Response::new(self.queries.nodes(request.get_ref())))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Answer<v1::GetNodeResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        self.queries.node(request.get_ref()).map(Response::new).map_err(status)
    }

    async fn list_workloads(&self, request: Request<v1::ListWorkloadsRequest>) -> Answer<v1::ListWorkloadsResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        self.queries.workloads(request.get_ref()).map(Response::new).map_err(status)
    }

    async fn query_energy(&self, request: Request<v1::QueryEnergyRequest>) -> Answer<v1::QueryEnergyResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let turn = Arc::clone(&self.reading).acquire_owned().await;
        let _turn = turn.map_err(|_| Status::unavailable("the fleet daemon stops"))?;
        let (queries, question) = (Arc::clone(&self.queries), request.into_inner());
        let answer = tasks::blocking("query energy", move || queries.energy(&question)).await;
        match answer {
            Some(answer) => answer.map(Response::new).map_err(status),
            None => Err(status(QueryError::Store("the question could not be answered; the log says why".into()))),
        }
    }

    async fn list_zones(&self, request: Request<v1::ListZonesRequest>) -> Answer<v1::ListZonesResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        Ok(Response::new(self.queries.zones(request.get_ref())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        self.trust.allow(&request, Role::Viewer)?;
        let request = request.into_inner();
        let interval = match request.interval_ms {
            0 => Duration::from_secs(1),
            ms => Duration::from_millis(ms.into()).max(SHORTEST_WATCH),
        };
        let mut watcher = Watcher { queries: Arc::clone(&self.queries), request, seen: HashMap::new() };
        let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(interval));
        let stop = self.stop.clone();
        let news = tokio_stream::StreamExt::map_while(ticks, move |_| {
            (!stop.is_requested()).then(|| watcher.news().map_err(status))
        });
        Ok(Response::new(Box::pin(news)))
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Answer<v1::GetStatusResponse> {
        let caller = self.trust.allow(&request, Role::Viewer)?;
        let status = self.queries.status();
        Ok(Response::new(v1::GetStatusResponse { your_role: caller.role.to_string(), ..status }))
    }
}

/// What one client has been told.
struct Watcher {
    queries: Arc<dyn Queries>,
    request: v1::WatchRequest,
    seen: HashMap<String, v1::Node>,
}

impl Watcher {
    fn news(&mut self) -> Result<v1::WatchResponse, QueryError> {
        let mut nodes = self.queries.nodes(&v1::ListNodesRequest::default()).nodes;
        let mut removed: Vec<String> = self.seen.keys().cloned().collect();
        removed.retain(|name| !nodes.iter().any(|node| node.name == *name));
        for name in &removed {
            self.seen.remove(name);
        }
        nodes.retain(|node| self.seen.get(&node.name) != Some(node));
        self.seen.extend(nodes.iter().map(|node| (node.name.clone(), node.clone())));
        let workloads = match self.request.workloads() {
            v1::GroupBy::Unspecified => Vec::new(),
            by => {
                let limit = if self.request.limit == 0 { 50 } else { self.request.limit };
                let question = v1::ListWorkloadsRequest { by: by.into(), limit, ..Default::default() };
                self.queries.workloads(&question)?.workloads
            }
        };
        let now_ms = clock::now().wall / 1_000_000;
        Ok(v1::WatchResponse { now_ms, totals: Some(self.queries.totals()), nodes, removed, workloads })
    }
}
