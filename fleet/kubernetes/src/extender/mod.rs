//! The scheduler's extender: where a pod goes is Kubernetes' decision, this says which nodes cost least.
//!
//! `wire` has the messages, `view` what is known of nodes and `account` what was directed since (pure), this file answers.
//! Whatever isn't known is left to the scheduler: unknown nodes pass the filter, and a view that is too old says nothing at
//! all.

pub mod account;
pub mod view;
pub mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ebbtide_runtime::clock;

use self::account::Account;
use self::view::View;
use self::wire::{Arguments, FilterResult, HostPriority};
use crate::convert::Rules;

/// The longest request: five thousand nodes as whole objects.
const LONGEST: usize = 128 << 20;

/// What is known now; written by whoever plans, read by the extender. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Views(Arc<RwLock<Arc<View>>>);

impl Views {
    /// What is known.
    pub fn now(&self) -> Arc<View> {
        // a view is replaced as a whole, so that none is ever half written
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces what is known.
    pub fn publish(&self, view: View) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }
}

#[derive(Clone, Debug)]
struct Extender {
    views: Views,
    rules: Arc<Rules>,
    account: Arc<Mutex<Account>>,
}

impl Extender {
    /// What was directed and doesn't show in `view` yet, without the pod that asks now.
    fn account(&self, view: &View, pod: &str, mono_ms: u64) -> MutexGuard<'_, Account> {
        // a panic in between leaves an entry too many or too few, which grows old
        let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        account.forget(pod, view.made_ms().unwrap_or(0), mono_ms);
        account
    }
}

/// Answers at `/extender/filter` and `/extender/prioritize`.
pub fn router(views: Views, rules: Rules) -> Router {
    Router::new()
        .route("/extender/filter", post(filter))
        .route("/extender/prioritize", post(prioritize))
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(Extender { views, rules: Arc::new(rules), account: Arc::default() })
}

fn mono_ms() -> u64 {
    clock::now().mono / 1_000_000
}

async fn filter(State(extender): State<Extender>, body: Bytes) -> Response {
    match Arguments::read(&body) {
        Ok(arguments) => {
            let (view, now) = (extender.views.now(), mono_ms());
            let account = extender.account(&view, arguments.pod_id(), now);
            let answer = filtered(&view, &account, &arguments, &extender.rules, now);
            drop(account);
            json(&answer)
        }
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("these are no arguments of an extender: {error}\n")).into_response()
        }
    }
}

async fn prioritize(State(extender): State<Extender>, body: Bytes) -> Response {
    match Arguments::read(&body) {
        Ok(arguments) => {
            let (asked, view, now) = (arguments.asked(&extender.rules), extender.views.now(), mono_ms());
            let mut account = extender.account(&view, arguments.pod_id(), now);
            let scores = view.scores(&account, &asked, &arguments.names(), now);
            // with others of the same score it isn't known where it goes
            if let Some(best) = only_best(&scores).filter(|_| !asked.per_node) {
                account.direct(arguments.pod_id(), best, &asked.requests, now);
            }
            drop(account);
            json(&scores)
        }
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("these are no arguments of an extender: {error}\n")).into_response()
        }
    }
}

/// The node with the best score, if there is but one.
fn only_best(scores: &[HostPriority]) -> Option<&str> {
    let best = scores.iter().max_by_key(|s| s.score)?;
    let alone = scores.iter().filter(|s| s.score == best.score).count() == 1;
    (alone && best.score > 0).then_some(best.host.as_str())
}

/// The answer to a filter. Nodes come back the way they came: as objects or as names.
pub fn filtered<'a>(
    view: &View,
    account: &Account,
    arguments: &'a Arguments<'a>,
    rules: &Rules,
    mono_ms: u64,
) -> FilterResult<'a> {
    let names = arguments.names();
    let verdicts = view.verdicts(account, &arguments.asked(rules), &names, mono_ms);
    arguments.answer(&names, verdicts)
}

fn json(answer: &impl serde::Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
