//! What surrounds the content of each page.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::http::{self, ICON, SCRIPT, SHEET};

/// A page before it is framed.
pub(super) struct Page {
    /// Before ` · ebbtide` in the browser's tab.
    pub title: String,
    /// The path of the entry in the menu that it belongs to.
    pub menu: &'static str,
    /// Where a browser is told of changes; `None`: nowhere.
    pub live: Option<String>,
    /// What rows it has, in one word: when this changes, rows came or went and the page is fetched again.
    pub shape: String,
    /// The content.
    pub content: Markup,
}

const MENU: [(&str, &str); 5] = [
    ("/", "Fleet"),
    ("/workloads", "Workloads"),
    ("/plan", "Plan"),
    ("/operations", "Operations"),
    ("/status", "Status"),
];

impl Page {
    /// A page that doesn't change by itself.
    pub(super) fn still(title: impl Into<String>, menu: &'static str, content: Markup) -> Self {
        Self { title: title.into(), menu, live: None, shape: String::new(), content }
    }

    /// The HTML document.
    pub(super) fn document(&self, version: &str) -> String {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · ebbtide" }
                    link rel="icon" type="image/svg+xml" href=(ICON.path());
                    link rel="stylesheet" href=(SHEET.path());
                    script type="module" src=(SCRIPT.path()) {}
                }
                body data-live-url=[self.live.as_deref()] data-shape=(self.shape) {
                    a.skip href="#content" { "to the content" }
                    header {
                        a.mark href="/" { "ebbtide" }
                        nav aria-label="pages" {
                            @for (path, name) in MENU {
                                a href=(path) aria-current=[(path == self.menu).then_some("page")] { (name) }
                            }
                        }
                        @if self.live.is_some() {
                            p #link role="status" data-state="off" {}
                        }
                    }
                    main #content { (self.content) }
                    footer {
                        p {
                            span { "no mark: measured" } " " span { b { "~" } " scaled or modelled" } " "
                            span { b { "?" } " the last figure known" } " " span { b { "–" } " not known" } " "
                            a href="/about" { "what the figures mean" }
                        }
                        p { "ebbtide-fleet " (version) " · times are UTC" }
                    }
                }
            }
        }
        .into_string()
    }

    pub(super) fn answer(&self, version: &str, status: StatusCode) -> Response {
        http::html(status, self.document(version)).into_response()
    }
}

/// A figure at the top of a page, with what it is called and what is to be said of it.
pub(super) fn headline(name: &str, about: &str, figure: &Markup, note: &Markup) -> Markup {
    html! {
        div.headline {
            dt { a href=(format!("/about#{about}")) { (name) } }
            dd.figure { (figure) }
            dd.note { (note) }
        }
    }
}
