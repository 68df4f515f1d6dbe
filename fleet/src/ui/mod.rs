//! The dashboard: pages made on the server, read without JavaScript, kept up to date by one small module with it.
//!
//! `page` frames what `fleet`, `node`, `workloads`, `plan`, `operations`, `status` and `about` show; `figures` writes numbers, `window` is the
//! time range in the URL, `orders` what can be ordered, `history` turns energy over time into plots, `live` tells browsers what changed, `http` is
//! what all answers have in common. Everything is asked of [`crate::query`]; nothing is kept here. What comes
//! from outside gets into a page only through maud, which escapes it.

mod about;
mod figures;
mod fleet;
mod history;
mod http;
mod ledger;
mod live;
mod node;
mod operations;
mod orders;
mod page;
mod plan;
mod status;
mod window;
mod workloads;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use ebbtide_runtime::tasks::{self, Shutdown};
use tokio::sync::Semaphore;

use crate::query::{ControlQueries, Orders, PlanQueries, Queries, QueryError};

use self::http::Failure;

/// The most browsers that are told live what changes.
pub const MAX_LIVE: usize = 100;
/// Questions that read files and may be answered at the same time.
const MAX_READING: usize = 4;
/// The longest form.
const FORM: usize = 8 << 10;
/// Questions that may wait for their turn.
const MAX_WAITING: usize = 64;

/// What the dashboard needs.
#[derive(Clone)]
pub struct Dashboard {
    /// Who is asked.
    pub queries: Arc<dyn Queries>,
    /// Who is asked about plans.
    pub plans: Arc<dyn PlanQueries>,
    /// Who is asked about what is done.
    pub control: Arc<dyn ControlQueries>,
    /// Who takes orders.
    pub orders: Arc<dyn Orders>,
    /// Version of the daemon, shown at the foot of each page.
    pub version: &'static str,
    /// Milliseconds since 1970 UTC.
    pub clock: fn() -> u64,
    /// Ends the streams to browsers.
    pub stop: Shutdown,
}

/// What all requests share.
struct Shared {
    dashboard: Dashboard,
    live: live::Live,
    reading: Semaphore,
    waiting: Semaphore,
}

/// The dashboard's pages. Who may see them is up to the caller, who puts a [`crate::query::Visitor`] among the extensions of
/// requests whose sender may give orders.
pub fn router(dashboard: Dashboard) -> Router {
    let shared = Arc::new(Shared {
        dashboard,
        live: live::Live::new(MAX_LIVE),
        reading: Semaphore::new(MAX_READING),
        waiting: Semaphore::new(MAX_WAITING),
    });
    Router::new()
        .route("/", get(fleet::get))
        .route("/node/{name}", get(node::get))
        .route("/workloads", get(workloads::get))
        .route("/plan", get(plan::get))
        .route("/operations", get(operations::get))
        .route("/order/{verb}", get(orders::get).post(orders::post).layer(DefaultBodyLimit::max(FORM)))
        .route("/status", get(status::get))
        .route("/about", get(about::get))
        .route("/live", get(live::get))
        .route("/assets/{name}", get(http::asset))
        .fallback(http::nowhere)
        .method_not_allowed_fallback(http::not_allowed)
        .with_state(shared)
        .layer(axum::middleware::map_response(http::guard))
}

impl Shared {
    fn now(&self) -> u64 {
        (self.dashboard.clock)()
    }

    /// Asks where waiting hurts nobody. So many at a time, so many in a queue; the others are told to come later.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Queries) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Failure> {
        let queries = Arc::clone(&self.dashboard.queries);
        self.in_turn(move || question(&*queries)).await
    }

    /// Asks about plans in the same way.
    async fn ask_plans<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn PlanQueries) -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Failure> {
        let plans = Arc::clone(&self.dashboard.plans);
        self.in_turn(move || question(&*plans)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        question: impl FnOnce() -> Result<T, QueryError> + Send + 'static,
    ) -> Result<T, Failure> {
        let _waiting = self.waiting.try_acquire().map_err(|_| Failure::Busy)?;
        let _reading = self.reading.acquire().await.map_err(|_| Failure::Busy)?;
        match tasks::blocking("dashboard query", question).await {
            Some(answer) => Ok(answer?),
            None => Err(Failure::Broken),
        }
    }
}
