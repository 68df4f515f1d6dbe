//! The HTTP side: dashboard, metrics, health. Whoever may look may look at all of it; orders ask for a role of their own.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ebbtide_runtime::http::Client;
use ebbtide_runtime::tasks::{self, Shutdown};

use crate::act::Acting;
use crate::api::{Caller, Trust};
use crate::decide::Plans;
use crate::export::{self, StoreFigures};
use crate::ingest::Peer;
use crate::pki;
use crate::query::{Answers, Visitor};
use crate::ui;

use super::deeds::Deeds;
use super::orders::Desk;

/// The pages of the daemon, and what a scheduler asks if it may.
pub(super) fn router(
    (answers, plans, acting): (Arc<Answers>, Arc<Plans>, Acting),
    desk: Desk,
    extender: Option<Router>,
    trust: Trust,
    stop: Shutdown,
) -> Router {
    let dashboard = ui::Dashboard {
        queries: Arc::clone(&answers) as _,
        plans: Arc::clone(&plans) as _,
        control: Arc::new(Deeds { acting: acting.clone(), plans: Arc::clone(&plans) }),
        orders: Arc::new(desk),
        version: env!("CARGO_PKG_VERSION"),
        clock: super::now_ms,
        stop,
    };
    let open = Router::new().route("/healthz", get(async || "ok\n"));
    Router::new()
        .route("/metrics", get(metrics_page))
        .with_state((answers, plans, acting))
        .merge(ui::router(dashboard))
        .merge(extender.unwrap_or_default())
        .layer(middleware::from_fn_with_state(trust, only_who_may_look))
        .merge(open)
}

/// The metrics page at `at_ms`.
pub(super) fn metrics(answers: &Answers, plans: &Plans, acting: &Acting, at_ms: u64) -> String {
    // what can't be told is left out
    let stats = answers.store.stats().ok();
    let store = stats.map(|stats| StoreFigures { unsealed_frames: stats.unsealed_frames, bytes: stats.bytes });
    export::page(&answers.live, &answers.rack, &answers.counts, plans, &acting.board(), store, at_ms)
}

async fn metrics_page(State((answers, plans, acting)): State<(Arc<Answers>, Arc<Plans>, Acting)>) -> Response {
    let page = tasks::blocking("metrics page", move || metrics(&answers, &plans, &acting, super::now_ms())).await;
    match page {
        Some(page) => ([(header::CONTENT_TYPE, export::CONTENT_TYPE)], page).into_response(),
        None => (StatusCode::INTERNAL_SERVER_ERROR, "the page could not be made; the log says why\n").into_response(),
    }
}

async fn only_who_may_look(State(trust): State<Trust>, mut request: Request, next: Next) -> Response {
    let Some(client) = request.extensions().get::<Client>() else {
        return (StatusCode::INTERNAL_SERVER_ERROR, "it is not known who asks\n").into_response();
    };
    let identity = match client.certificate.as_ref().map(|certificate| pki::identity_of(certificate)) {
        Some(Err(error)) => return (StatusCode::UNAUTHORIZED, format!("{error}\n")).into_response(),
        Some(Ok(identity)) => Some(identity),
        None => None,
    };
    let peer = Peer { address: Some(client.address), encrypted: client.encrypted, identity };
    if !peer.encrypted && client.address.is_loopback() && !is_this_machine(request.headers()) {
        let text = "this address is served under localhost, 127.0.0.1 or [::1] only\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    match trust.caller(&peer) {
        Ok(Caller { name, role }) => {
            request.extensions_mut().insert(Visitor { name, role, peer });
            next.run(request).await
        }
        Err(why) => (StatusCode::UNAUTHORIZED, format!("{why}\n")).into_response(),
    }
}

/// Whether the request was meant for this machine. A page elsewhere whose name was made to point here (DNS rebinding)
/// makes browsers ask under that name.
fn is_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost") || address.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for (host, ok) in [
            ("localhost", true),
            ("LOCALHOST:9885", true),
            ("127.0.0.1:9885", true),
            ("[::1]:9885", true),
            ("192.0.2.7", true),
            ("evil.example", false),
            ("evil.example:9885", false),
            ("127.0.0.1.evil.example", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            assert_eq!(is_this_machine(&headers), ok, "{host}");
        }
    }
}
