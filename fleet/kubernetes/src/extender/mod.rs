//! The scheduler's extender: where a pod goes is Kubernetes' decision, this says which nodes cost least.
//!
//! `wire` has the messages, `view` what is known of nodes (pure), this file answers. Whatever isn't known is left to the
//! scheduler: unknown nodes pass the filter, and a view that is too old says nothing at all.

pub mod view;
pub mod wire;

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use ebbtide_runtime::clock;

use self::view::View;
use self::wire::{Arguments, FilterResult};
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
}

/// Answers at `/extender/filter` and `/extender/prioritize`.
pub fn router(views: Views, rules: Rules) -> Router {
    Router::new()
        .route("/extender/filter", post(filter))
        .route("/extender/prioritize", post(prioritize))
        .layer(DefaultBodyLimit::max(LONGEST))
        .with_state(Extender { views, rules: Arc::new(rules) })
}

fn mono_ms() -> u64 {
    clock::now().mono / 1_000_000
}

async fn filter(State(extender): State<Extender>, body: Bytes) -> Response {
    match Arguments::read(&body) {
        Ok(arguments) => json(&filtered(&extender.views.now(), &arguments, &extender.rules, mono_ms())),
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("these are no arguments of an extender: {error}\n")).into_response()
        }
    }
}

async fn prioritize(State(extender): State<Extender>, body: Bytes) -> Response {
    match Arguments::read(&body) {
        Ok(arguments) => {
            let asked = arguments.asked(&extender.rules);
            json(&extender.views.now().scores(&asked, &arguments.names(), mono_ms()))
        }
        Err(error) => {
            (StatusCode::BAD_REQUEST, format!("these are no arguments of an extender: {error}\n")).into_response()
        }
    }
}

/// The answer to a filter. Nodes come back the way they came: as objects or as names.
pub fn filtered<'a>(view: &View, arguments: &'a Arguments<'a>, rules: &Rules, mono_ms: u64) -> FilterResult<'a> {
    let names = arguments.names();
    let verdicts = view.verdicts(&arguments.asked(rules), &names, mono_ms);
    arguments.answer(&names, verdicts)
}

fn json(answer: &impl serde::Serialize) -> Response {
    match serde_json::to_string(answer) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
