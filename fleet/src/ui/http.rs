//! What all answers have in common: headers that keep others out, assets, and pages for what goes wrong.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use maud::html;

use super::Shared;
use super::page::Page;
use crate::query::{QueryError, Refusal};

/// Nothing but what this server gives itself: no frame, no inline code or style, no other host.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of each answer.
const GUARDS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // forms have to say where they come from
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// A file that a page needs. Its address has a hash of its content, so that browsers may keep it forever.
pub(super) struct Asset {
    stem: &'static str,
    ending: &'static str,
    kind: &'static str,
    text: &'static str,
}

pub(super) static SHEET: Asset = Asset {
    stem: "style",
    ending: "css",
    kind: "text/css; charset=utf-8",
    text: concat!(include_str!("../plot/plot.css"), include_str!("assets/style.css")),
};
pub(super) static SCRIPT: Asset =
    Asset { stem: "live", ending: "js", kind: "text/javascript; charset=utf-8", text: include_str!("assets/live.js") };
pub(super) static ICON: Asset =
    Asset { stem: "icon", ending: "svg", kind: "image/svg+xml", text: include_str!("assets/icon.svg") };

impl Asset {
    fn name(&self) -> String {
        format!("{}-{:016x}.{}", self.stem, hash(self.text.as_bytes()), self.ending)
    }

    pub(super) fn path(&self) -> String {
        format!("/assets/{}", self.name())
    }
}

/// FNV-1a: tells versions of a file apart; nobody gains from a collision.
pub(super) const fn hash(mut bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    while let [first, rest @ ..] = bytes {
        hash = (hash ^ *first as u64).wrapping_mul(0x0100_0000_01b3);
        bytes = rest;
    }
    hash
}

/// Why there is no page.
#[derive(Debug)]
pub(super) enum Failure {
    /// The question had no answer.
    Query(QueryError),
    /// What stands in the URL makes no sense.
    Asked(String),
    /// An order wasn't taken.
    Refused(Refusal),
    /// Too many ask for too much.
    Busy,
    /// Too many browsers are told live what changes.
    Full,
    /// A bug; it is in the log.
    Broken,
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl Failure {
    fn status(&self) -> StatusCode {
        match self {
            Self::Query(QueryError::NotFound { .. } | QueryError::Missing(_)) => StatusCode::NOT_FOUND,
            Self::Query(QueryError::NotYet(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Query(QueryError::Invalid(_) | QueryError::TooMuch(_)) | Self::Asked(_) => StatusCode::BAD_REQUEST,
            Self::Refused(Refusal::NotPermitted(_)) => StatusCode::FORBIDDEN,
            Self::Refused(Refusal::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::Refused(Refusal::Senseless(_)) => StatusCode::BAD_REQUEST,
            Self::Refused(Refusal::NotNow(_)) => StatusCode::CONFLICT,
            Self::Refused(Refusal::Broken(_)) | Self::Query(QueryError::Store(_)) | Self::Broken => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Busy | Self::Full => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// What is wrong, and what can be done.
    pub(super) fn words(&self) -> (String, &'static str) {
        match self {
            Self::Query(error @ QueryError::NotFound { what: "node", .. }) => {
                (error.to_string(), "A node is listed once its agent has spoken to this daemon.")
            }
            Self::Query(error @ QueryError::TooMuch(_)) => (error.to_string(), "Ask for a shorter time."),
            Self::Query(error @ QueryError::Store(_)) => {
                (error.to_string(), "The daemon's log says more: journalctl -u ebbtide-fleet")
            }
            Self::Query(error) => (error.to_string(), "Check the address, or start from the fleet."),
            Self::Refused(why @ Refusal::NotPermitted(_)) => (
                why.to_string(),
                "Roles come with certificates; without one they are what plain-role and anonymous-role of the daemon say.",
            ),
            Self::Refused(why @ Refusal::Broken(_)) => {
                (why.to_string(), "The daemon's log says more: journalctl -u ebbtide-fleet")
            }
            Self::Refused(why) => (why.to_string(), "Nothing was done."),
            Self::Asked(text) => (text.clone(), "Check the address, or start from the fleet."),
            Self::Busy => ("too many questions at a time".to_owned(), "Try again in a few seconds."),
            Self::Full => {
                ("too many browsers watch already".to_owned(), "Pages still show what was so when they were fetched.")
            }
            Self::Broken => ("the daemon made a mistake".to_owned(), "Its log says more: journalctl -u ebbtide-fleet"),
        }
    }

    pub(super) fn answer(&self, version: &str) -> Response {
        let (what, next) = self.words();
        let mut answer = trouble(self.status(), &what, next).answer(version, self.status());
        let wait = match self {
            Self::Busy => "2",
            Self::Full => "10",
            _ => return answer,
        };
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(wait));
        answer
    }
}

fn trouble(status: StatusCode, what: &str, next: &str) -> Page {
    let title = status.canonical_reason().unwrap_or("Error");
    let content = html! {
        h1 { (title) }
        p { (what) }
        p { (next) }
        p { a href="/" { "Fleet" } " · " a href="/workloads" { "Workloads" } " · " a href="/status" { "Status" } }
    };
    Page::still(title, "", content)
}

pub(super) fn html(status: StatusCode, document: String) -> impl IntoResponse {
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-store")], document)
}

pub(super) async fn guard(mut answer: Response) -> Response {
    for (name, value) in GUARDS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

pub(super) async fn asset(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    match [&SHEET, &SCRIPT, &ICON].into_iter().find(|asset| asset.name() == name) {
        Some(asset) => {
            ([(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")], asset.text)
                .into_response()
        }
        None => no_page(&shared),
    }
}

pub(super) async fn nowhere(State(shared): State<Arc<Shared>>, _: Uri) -> Response {
    no_page(&shared)
}

fn no_page(shared: &Shared) -> Response {
    let status = StatusCode::NOT_FOUND;
    trouble(status, "There is no such page.", "Start from the fleet.").answer(shared.dashboard.version, status)
}

pub(super) async fn not_allowed(State(shared): State<Arc<Shared>>, method: Method) -> Response {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    let page = trouble(
        status,
        &format!("{method} is not possible here."),
        "Orders are given on the pages of nodes, plans and operations.",
    );
    let mut answer = page.answer(shared.dashboard.version, status);
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}
