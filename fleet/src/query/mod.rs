//! Questions that can be asked of a fleet, and orders that can be given. gRPC, dashboard and metrics ask here and nowhere else.
//!
//! Requests and answers are those of `ebbtide.v1.Fleet`; units and meanings are documented in `fleet.proto`.

mod answers;
mod orders;
mod plans;

pub use answers::Answers;
pub use orders::{Order, Orders, Refusal, Visitor};

use ebbtide_proto::v1;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// There is no such node, token, …
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// By what name.
        name: String,
    },
    /// What was looked for is not there; says what is.
    #[error("{0}")]
    Missing(String),
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Answering would take too much.
    #[error("{0}")]
    TooMuch(String),
    /// There is no answer yet.
    #[error("{0}")]
    NotYet(String),
    /// The store can't be read.
    #[error("the store can't be read: {0}")]
    Store(String),
}

/// What can be asked. `energy` reads files and may take a while: ask it on a thread that may block.
pub trait Queries: Send + Sync {
    /// All nodes, by name.
    fn nodes(&self, request: &v1::ListNodesRequest) -> v1::ListNodesResponse;
    /// One node and what runs on it.
    fn node(&self, request: &v1::GetNodeRequest) -> Result<v1::GetNodeResponse, QueryError>;
    /// What draws power now, the most first.
    fn workloads(&self, request: &v1::ListWorkloadsRequest) -> Result<v1::ListWorkloadsResponse, QueryError>;
    /// Energy over time.
    fn energy(&self, request: &v1::QueryEnergyRequest) -> Result<v1::QueryEnergyResponse, QueryError>;
    /// Zones of all nodes.
    fn zones(&self, request: &v1::ListZonesRequest) -> v1::ListZonesResponse;
    /// The fleet in one line.
    fn totals(&self) -> v1::Totals;
    /// How the daemon is doing.
    fn status(&self) -> v1::GetStatusResponse;
}

/// What can be asked about what is done. Nothing of it takes long.
pub trait ControlQueries: Send + Sync {
    /// How everything stands.
    fn control(&self) -> v1::ControlState;
    /// Operations that go on, or ended not long ago, the newest first.
    fn operations(&self, most: usize) -> Vec<v1::Operation>;
    /// One of them.
    fn operation(&self, id: u64) -> Result<v1::Operation, QueryError>;
}

/// What can be asked about plans. All of it may take a while: ask it on a thread that may block.
pub trait PlanQueries: Send + Sync {
    /// A plan.
    fn plan(&self, request: &v1::GetPlanRequest) -> Result<v1::Plan, QueryError>;
    /// Plans that are kept, the newest first.
    fn plans(&self, request: &v1::ListPlansRequest) -> Result<v1::ListPlansResponse, QueryError>;
    /// Why something was decided.
    fn explain(&self, request: &v1::ExplainRequest) -> Result<v1::Explanation, QueryError>;
    /// The plan that would be made if something were different.
    fn what_if(&self, request: &v1::WhatIfRequest) -> Result<v1::WhatIfResponse, QueryError>;
    /// Makes a plan again from what it was made from.
    fn replay(&self, request: &v1::ReplayPlanRequest) -> Result<v1::ReplayPlanResponse, QueryError>;
}
