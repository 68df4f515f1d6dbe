//! The URLs: `/metrics`, `/healthz`, `/readyz`, and a page at `/` that names them.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;

use super::negotiate::{self, Format};
use super::page::{Context, Page, Section};
use super::scaphandre::HostFigures;
use super::{View, kepler, native, own, scaphandre};
use crate::config::NameStyle;
use crate::host::HostRoot;
use crate::snapshot::Published;

/// What the pages are made of.
#[derive(Clone)]
pub struct Pages {
    /// Where the latest snapshot is.
    pub published: Published,
    /// What the operator wants to see.
    pub view: Arc<View>,
    /// The machine, for figures that are no energy.
    pub host: HostRoot,
}

impl Pages {
    /// The routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(index))
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(Arc::new(self))
    }

    /// The metrics page of the latest snapshot.
    pub fn page(&self, format: Format) -> Page {
        let names = &self.view.names;
        let mut sections: Vec<&'static Section> = Vec::new();
        for (style, list) in [
            (NameStyle::Native, native::SECTIONS),
            (NameStyle::Kepler, kepler::SECTIONS),
            (NameStyle::Scaphandre, scaphandre::SECTIONS),
        ] {
            if names.contains(&style) {
                sections.extend(list);
            }
        }
        sections.extend(own::SECTIONS);
        let snapshot = self.published.load();
        let host =
            if names.contains(&NameStyle::Scaphandre) { HostFigures::read(&self.host) } else { HostFigures::default() };
        let zone_groups = if names.contains(&NameStyle::Kepler) { kepler::zone_groups(&snapshot) } else { Vec::new() };
        let context =
            Context { zone_groups, host, own: self.view.own.values(), view: Arc::clone(&self.view), snapshot };
        Page::new(context, sections, format)
    }
}

async fn metrics(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    let format = negotiate::format(text(header::ACCEPT));
    let gzip = pages.view.gzip && negotiate::accepts_gzip(text(header::ACCEPT_ENCODING));
    pages.view.own.scraped();
    let mut response = Response::new(negotiate::body(pages.page(format), gzip));
    let h = response.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    h.insert(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if gzip {
        h.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Ready once there is something to show: two samples, or one if nothing can be measured.
async fn ready(State(pages): State<Arc<Pages>>) -> Response {
    if pages.published.load().seq > 0 {
        "ready\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "no sample yet\n").into_response()
    }
}

async fn index(State(pages): State<Arc<Pages>>) -> Html<String> {
    let snapshot = pages.published.load();
    let node: String = snapshot.node.name.as_str().chars().filter(|c| !matches!(c, '<' | '>' | '&')).collect();
    let power = match (snapshot.node_power, snapshot.quality()) {
        (Some(p), Some(q)) => format!("{}{p}", q.mark()),
        _ => "–".to_owned(),
    };
    Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Ebbtide agent · {node}</title><style>body{{font:16px/1.5 system-ui;margin:3em auto;max-width:34em;padding:0 1em}}\
         b{{font-size:2em}}</style><h1>{node}</h1><p><b>{power}</b></p>\
         <ul><li><a href=/metrics>/metrics</a> for Prometheus<li><a href=/healthz>/healthz</a><li><a href=/readyz>/readyz</a></ul>\
         <p>Per process and container on a terminal: <code>ebbtide-agent top</code></p></html>"
    ))
}
