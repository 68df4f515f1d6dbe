//! Orders from the dashboard: the calls of `ebbtide.v1.Control`, with the same rules about who may make them.

use ebbtide_proto::v1;
use ebbtide_proto::v1::control_server::Control as _;
use tonic::{Code, Request, Status};

use crate::api::ControlService;
use crate::query::{Order, Orders, Refusal, Visitor};

/// Gives orders to whoever answers gRPC.
pub(super) struct Desk(pub(super) ControlService);

#[tonic::async_trait]
impl Orders for Desk {
    async fn give(&self, by: &Visitor, order: Order) -> Result<Option<u64>, Refusal> {
        let to = &self.0;
        let answer = match order {
            Order::Pause { why } => to.pause(asked(by, v1::PauseRequest { why })).await,
            Order::Resume => to.resume(asked(by, v1::ResumeRequest {})).await,
            Order::SetMode { pool, mode } => {
                let request = asked(by, v1::SetPoolModeRequest { pool, mode: mode.into() });
                return to.set_pool_mode(request).await.map(|_| None).map_err(refusal);
            }
            Order::Approve { plan } => to.approve_plan(asked(by, v1::ApprovePlanRequest { plan })).await,
            Order::Reorchestrate => to.reorchestrate(asked(by, v1::ReorchestrateRequest {})).await,
            Order::Cancel { operation } => to.cancel(asked(by, v1::CancelRequest { id: operation })).await,
            Order::PowerOff { node } => to.power_off(asked(by, v1::PowerOffRequest { node })).await,
            Order::PowerOn { node } => to.power_on(asked(by, v1::PowerOnRequest { node })).await,
            Order::Evacuate { node, lock } => to.evacuate(asked(by, v1::EvacuateRequest { node, lock })).await,
            Order::Lock { node, why } => to.lock(asked(by, v1::LockRequest { node, why })).await,
            Order::Unlock { node } => to.unlock(asked(by, v1::UnlockRequest { node })).await,
            Order::SetCapacity { node, cpu_milli, memory, for_ms, why } => {
                let request = v1::SetCapacityRequest { node, cpu_milli, memory_bytes: memory, for_ms, why };
                to.set_capacity(asked(by, request)).await
            }
            Order::ClearCapacity { node } => to.clear_capacity(asked(by, v1::ClearCapacityRequest { node })).await,
        };
        answer.map(|operation| Some(operation.into_inner().id)).map_err(refusal)
    }
}

/// A call as if it had come over the visitor's connection.
fn asked<T>(by: &Visitor, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(by.peer.clone());
    request
}

fn refusal(status: Status) -> Refusal {
    let why = status.message().to_owned();
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => Refusal::NotPermitted(why),
        Code::NotFound => Refusal::NotFound(why),
        Code::InvalidArgument => Refusal::Senseless(why),
        Code::FailedPrecondition | Code::ResourceExhausted | Code::Unavailable => Refusal::NotNow(why),
        _ => Refusal::Broken(why),
    }
}
