//! Questions that can be asked of a fleet. gRPC, dashboard and metrics ask here and nowhere else.
//!
//! Requests and answers are those of `ebbtide.v1.Fleet`; units and meanings are documented in `fleet.proto`.

mod answers;

pub use answers::Answers;

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
    /// The question makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Answering would take too much.
    #[error("{0}")]
    TooMuch(String),
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
