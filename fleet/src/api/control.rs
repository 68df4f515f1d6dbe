//! `ebbtide.v1.Control`: orders, operations, the audit.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ebbtide_executor::event::Ask;
use ebbtide_executor::operation::{Free, OperationId};
use ebbtide_executor::words;
use ebbtide_planner::state::node::Node;
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1::control_server::Control;
use ebbtide_proto::{NodeId, v1};
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::Trust;
use crate::act::{Acting, Board, JournalError, Untaken, told};
use crate::decide::Plans;

/// Operations and lines of the audit that are shown unless more are asked for, and at most.
const OPERATIONS: u32 = 20;
const AUDIT: u32 = 100;
const MOST: u32 = 10_000;
/// Seconds for which a part of a node may be said to be free.
const LONGEST_S: u64 = 366 * 86_400;

/// The service.
#[derive(Clone)]
pub struct ControlService {
    acting: Acting,
    plans: Arc<Plans>,
    trust: Trust,
}

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl ControlService {
    /// Gives orders to `acting`.
    pub fn new(acting: Acting, plans: Arc<Plans>, trust: Trust) -> Self {
        Self { acting, plans, trust }
    }

    /// Gives an order for whoever called, and answers with the operation.
    async fn ask<T>(&self, request: &Request<T>, why: &str, what: Ask) -> Answer<v1::Operation> {
        let caller = self.trust.allow(request, Role::Operator)?;
        let id = self.acting.ask(&caller.name, why, what).await.map_err(untaken)?;
        self.operation(id).map(Response::new)
    }

    fn operation(&self, id: OperationId) -> Result<v1::Operation, Status> {
        let board = self.acting.board();
        let operation = board.operations.get(&id);
        operation.map(|op| told::operation(op)).ok_or_else(|| {
            Status::not_found(format!("there is no operation {id}, or it ended long ago; the audit knows it"))
        })
    }

    fn state(&self) -> v1::ControlState {
        self.acting.board().state(&self.plans)
    }

    /// A node that is known; what isn't can't be acted on.
    fn node(&self, name: &str) -> Result<NodeId, Status> {
        let node = NodeId::new(name).map_err(|e| Status::invalid_argument(e.to_string()))?;
        match self.plans.state().nodes.contains_key(&node) {
            true => Ok(node),
            false => Err(Status::not_found(format!("no node {name:?} is known; `ebbtide plan -o wide` lists them"))),
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn get_control(&self, request: Request<v1::GetControlRequest>) -> Answer<v1::ControlState> {
        self.trust.allow(&request, Role::Viewer)?;
        Ok(Response::new(self.state()))
    }

    async fn set_pool_mode(&self, request: Request<v1::SetPoolModeRequest>) -> Answer<v1::ControlState> {
        let caller = self.trust.allow(&request, Role::Admin)?;
        let request = request.into_inner();
        let mode = told::wanted(request.mode());
        let mode = mode.ok_or_else(|| Status::invalid_argument("it doesn't say what the pool may do"))?;
        let state = self.plans.state();
        if !state.nodes.values().any(|node| node.pool == request.pool) {
            return Err(Status::not_found(format!("no node is in a pool {:?}", request.pool)));
        }
        self.acting.set_mode(&caller.name, &request.pool, mode).await.map_err(untaken)?;
        Ok(Response::new(self.state()))
    }

    async fn pause(&self, request: Request<v1::PauseRequest>) -> Answer<v1::Operation> {
        let why = request.get_ref().why.clone();
        self.ask(&request, &why, Ask::Pause).await
    }

    async fn resume(&self, request: Request<v1::ResumeRequest>) -> Answer<v1::Operation> {
        self.ask(&request, "", Ask::Resume).await
    }

    async fn approve_plan(&self, request: Request<v1::ApprovePlanRequest>) -> Answer<v1::Operation> {
        self.trust.allow(&request, Role::Operator)?;
        let wanted = request.get_ref().plan;
        let standing = self.plans.standing().filter(|standing| standing.id == wanted || wanted == 0);
        let standing = standing.ok_or_else(|| {
            Status::failed_precondition(format!(
                "plan {wanted} doesn't stand any more; `ebbtide plan` shows the one that does"
            ))
        })?;
        let plan = self.acting.board().of_plan(&standing.decision.plan.inputs).map(|op| op.id);
        let plan = plan.ok_or_else(|| {
            Status::failed_precondition(
                "the plan waits for no approval: it has nothing to do, or its pools are only observed \
                 (ebbtide pool set-mode POOL recommend)",
            )
        })?;
        self.ask(&request, "", Ask::Approve { plan }).await
    }

    async fn evacuate(&self, request: Request<v1::EvacuateRequest>) -> Answer<v1::Operation> {
        let (node, lock) = (self.node(&request.get_ref().node)?, request.get_ref().lock);
        self.ask(&request, "", Ask::Evacuate { node, lock }).await
    }

    async fn lock(&self, request: Request<v1::LockRequest>) -> Answer<v1::Operation> {
        let (node, why) = (self.node(&request.get_ref().node)?, request.get_ref().why.clone());
        self.ask(&request, &why, Ask::Lock { node }).await
    }

    async fn unlock(&self, request: Request<v1::UnlockRequest>) -> Answer<v1::Operation> {
        let node = self.node(&request.get_ref().node)?;
        self.ask(&request, "", Ask::Unlock { node }).await
    }

    async fn power_off(&self, request: Request<v1::PowerOffRequest>) -> Answer<v1::Operation> {
        let node = self.node(&request.get_ref().node)?;
        self.ask(&request, "", Ask::PowerOff { node }).await
    }

    async fn power_on(&self, request: Request<v1::PowerOnRequest>) -> Answer<v1::Operation> {
        let node = self.node(&request.get_ref().node)?;
        self.ask(&request, "", Ask::PowerOn { node }).await
    }

    async fn reorchestrate(&self, request: Request<v1::ReorchestrateRequest>) -> Answer<v1::Operation> {
        self.ask(&request, "", Ask::Reorchestrate).await
    }

    async fn set_capacity(&self, request: Request<v1::SetCapacityRequest>) -> Answer<v1::Operation> {
        self.trust.allow(&request, Role::Operator)?;
        let asked = request.get_ref();
        let node = self.node(&asked.node)?;
        let free = Free { cpu_milli: asked.cpu_milli, memory: asked.memory_bytes };
        let for_s = (asked.for_ms > 0).then(|| asked.for_ms.div_ceil(1000));
        let why = asked.why.clone();
        let state = self.plans.state();
        if let Some(wrong) = state.nodes.get(&node).and_then(|known| against_part(known, &free, for_s)) {
            return Err(Status::invalid_argument(wrong));
        }
        self.ask(&request, &why, Ask::SetCapacity { node, free, for_s }).await
    }

    async fn clear_capacity(&self, request: Request<v1::ClearCapacityRequest>) -> Answer<v1::Operation> {
        let node = self.node(&request.get_ref().node)?;
        self.ask(&request, "", Ask::ClearCapacity { node }).await
    }

    async fn list_capacity(&self, request: Request<v1::ListCapacityRequest>) -> Answer<v1::ListCapacityResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        Ok(Response::new(self.acting.board().capacity(&self.plans.state())))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Answer<v1::Operation> {
        let operation = OperationId(request.get_ref().id);
        self.operation(operation)?;
        self.ask(&request, "", Ask::Cancel { operation }).await
    }

    async fn list_operations(&self, request: Request<v1::ListOperationsRequest>) -> Answer<v1::ListOperationsResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let v1::ListOperationsRequest { limit, running } = request.into_inner();
        let limit = if limit == 0 { OPERATIONS } else { limit.min(MOST) };
        let board = self.acting.board();
        let shown = board.newest().filter(|op| !running || op.is_live());
        let operations = shown.take(limit as usize).map(told::operation).collect();
        Ok(Response::new(v1::ListOperationsResponse { operations }))
    }

    type WatchOperationStream = Streamed<v1::Operation>;

    async fn watch_operation(&self, request: Request<v1::WatchOperationRequest>) -> Answer<Self::WatchOperationStream> {
        self.trust.allow(&request, Role::Viewer)?;
        let id = OperationId(request.into_inner().id);
        self.operation(id)?;
        let news = WatchStream::new(self.acting.watch());
        Ok(Response::new(Box::pin(Watched { news, id, told: None, over: false })))
    }

    async fn list_audit(&self, request: Request<v1::ListAuditRequest>) -> Answer<v1::ListAuditResponse> {
        self.trust.allow(&request, Role::Viewer)?;
        let v1::ListAuditRequest { limit, node, since_ms } = request.into_inner();
        let limit = if limit == 0 { AUDIT } else { limit.min(MOST) };
        let lines = self.acting.audited(node, since_ms, limit).await.map_err(|error| match error {
            JournalError::Halfway => Status::internal(error.to_string()),
            _ => Status::unavailable(error.to_string()),
        })?;
        Ok(Response::new(v1::ListAuditResponse { entries: lines.into_iter().map(told::audit).collect() }))
    }
}

/// An operation each time that something about it changes, until it is over.
struct Watched {
    news: WatchStream<Arc<Board>>,
    id: OperationId,
    told: Option<v1::Operation>,
    over: bool,
}

impl Stream for Watched {
    type Item = Result<v1::Operation, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        while !self.over {
            let Some(board) = ready!(Pin::new(&mut self.news).poll_next(cx)) else { break };
            let Some(operation) = board.operations.get(&self.id) else { break };
            self.over = !operation.is_live();
            let shown = told::operation(operation);
            if self.told.as_ref() != Some(&shown) {
                self.told = Some(shown.clone());
                return Poll::Ready(Some(Ok(shown)));
            }
        }
        Poll::Ready(None)
    }
}

/// What is wrong with keeping workloads to a part of a node; `None` if nothing is.
fn against_part(node: &Node, free: &Free, for_s: Option<u64>) -> Option<String> {
    let (id, capacity) = (&node.id, &node.capacity);
    if free.cpu_milli.is_none() && free.memory.is_none() {
        return Some("it says neither how many CPUs are free nor how much memory".to_owned());
    }
    if let Some(milli) = free.cpu_milli.filter(|milli| *milli > capacity.cpu_milli) {
        let (has, asked) = (capacity.cpu_milli as f64 / 1000.0, milli as f64 / 1000.0);
        return Some(format!("{id} has {has} CPUs; {asked} of them can't be free"));
    }
    if let Some(bytes) = free.memory.filter(|bytes| *bytes > capacity.memory) {
        return Some(match capacity.memory {
            0 => format!("nobody said how much memory {id} has; write it into the inventory first"),
            has => format!("{id} has {} of memory; {} can't be free", words::bytes(has), words::bytes(bytes)),
        });
    }
    for_s
        .filter(|s| *s > LONGEST_S)
        .map(|_| "it holds for a year at most; leave the time out to clear it by hand".to_owned())
}

fn untaken(why: Untaken) -> Status {
    match why {
        Untaken::Busy => Status::resource_exhausted(why.to_string()),
        Untaken::Away => Status::unavailable(why.to_string()),
    }
}
