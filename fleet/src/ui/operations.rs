//! What is being done: operations, their steps, and how pools and nodes stand.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use maud::{Markup, html};
use serde::Deserialize;

use super::Shared;
use super::figures::{count, duration};
use super::orders::{self, Who};
use super::page::{Page, headline};
use crate::plot::day_and_time;

/// Operations on a page, at the most.
const SHOWN: usize = 200;

/// What the address asks for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    /// An operation; 0: all.
    #[serde(default)]
    id: u64,
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>, who: Who) -> Response {
    let version = shared.dashboard.version;
    let (control, now) = (Arc::clone(&shared.dashboard.control), shared.now());
    let content = if asked.id > 0 {
        let found = shared.in_turn(move || control.operation(asked.id)).await;
        found.map(|op| (format!("Operation {}", op.id), one(&op, now, &who)))
    } else {
        let found = shared.in_turn(move || Ok((control.control(), control.operations(SHOWN)))).await;
        found.map(|(state, operations)| ("Operations".to_owned(), all(&state, &operations, now, &who)))
    };
    match content {
        Ok((title, content)) => Page::still(title, "/operations", content).answer(version, StatusCode::OK),
        Err(failure) => failure.answer(version),
    }
}

fn state(op: &v1::Operation) -> &'static str {
    match op.state() {
        v1::OperationState::Live => "goes on",
        v1::OperationState::Ending => "is being ended",
        v1::OperationState::Done => "done",
        v1::OperationState::RolledBack => "undone",
        v1::OperationState::Refused => "refused",
        v1::OperationState::Cancelled => "cancelled",
        v1::OperationState::Failed => "failed",
        v1::OperationState::Quarantined => "needs a look",
        v1::OperationState::Unspecified => "–",
    }
}

fn mode(mode: v1::PoolMode) -> &'static str {
    match mode {
        v1::PoolMode::Recommend => "recommend: plans wait for approval",
        v1::PoolMode::Auto => "auto: plans are carried out",
        v1::PoolMode::Observe | v1::PoolMode::Unspecified => "observe: plans are only looked at",
    }
}

/// Whether a pool's windows are open, and until when.
fn hours(pool: &v1::PoolControl) -> String {
    let until = if pool.until_ms > 0 { format!(" until {}", day_and_time(pool.until_ms)) } else { String::new() };
    match pool.open {
        None => "always".to_owned(),
        Some(true) => format!("open{until}"),
        Some(false) => format!("closed{until}"),
    }
}

fn all(control: &v1::ControlState, operations: &[v1::Operation], now: u64, who: &Who) -> Markup {
    let acts = if control.leads { "this daemon acts" } else { "another daemon acts" };
    html! {
        h1 { "Operations" }
        dl.headlines {
            (headline("going on", "operation", &html! { (count(u64::from(control.operations))) }, &html! { (acts) }))
            (headline("left alone", "operation", &html! { (count(control.quarantined.len() as u64)) }, &html! { "nodes that somebody has to look at" }))
            (headline("locked", "operation", &html! { (count(control.locked.len() as u64)) }, &html! { "nodes" }))
        }
        @if control.paused.is_some() || !control.quarantined.is_empty() {
            section.wrong aria-label="what is wrong" data-any {
                ul {
                    @if let Some(why) = &control.paused { li { "paused, nothing new is begun: " (why) } }
                    @for one in &control.quarantined { li { (one.node) " is left alone: " (one.why) } }
                }
            }
        }
        @if who.may(Role::Operator) {
            p.orders {
                @if control.paused.is_some() { (orders::link("resume", &[], "Resume")) } @else { (orders::link("pause", &[], "Pause")) }
                " " (orders::link("reorchestrate", &[], "Plan anew"))
            }
        }
        @if let Some(cluster) = &control.cluster { p.fine { "Kubernetes: " (cluster) } }
        section {
            h2 { "Pools" }
            @if control.pools.is_empty() {
                p.fine { "None yet: no node was heard of." }
            } @else {
                div.wide-table { table {
                    thead { tr { th { "pool" } th { "mode" } th { "hours" } th.n { "nodes" } @if who.may(Role::Admin) { th { "let it" } } } }
                    tbody {
                        @for pool in &control.pools {
                            tr {
                                td { (if pool.name.is_empty() { "(no name)" } else { &pool.name }) }
                                td { (mode(pool.mode())) }
                                td { (hours(pool)) }
                                td.n { (pool.nodes) }
                                @if who.may(Role::Admin) { td { (orders::of_pool(&pool.name, pool.mode())) } }
                            }
                        }
                    }
                } }
            }
        }
        section {
            h2 { "What is done and was done" }
            @if operations.is_empty() {
                p.fine { "Nothing yet." }
            } @else {
                (table(operations, now))
            }
        }
    }
}

fn table(operations: &[v1::Operation], now: u64) -> Markup {
    html! {
        div.wide-table { table {
            thead { tr { th.n { "#" } th { "what" } th { "for" } th { "state" } th { "began" } th { "took" } th { "in words" } } }
            tbody {
                @for op in operations {
                    tr {
                        td.n { a href=(format!("/operations?id={}", op.id)) { (op.id) } }
                        td { (op.what) }
                        td { (op.by) }
                        td { (state(op)) }
                        td { (day_and_time(op.began_ms)) }
                        td { (took(op, now)) }
                        td { (op.words) }
                    }
                }
            }
        } }
    }
}

fn took(op: &v1::Operation, now: u64) -> String {
    let end = if op.ended_ms > 0 { op.ended_ms } else { now };
    duration(end.saturating_sub(op.began_ms))
}

fn one(op: &v1::Operation, now: u64, who: &Who) -> Markup {
    html! {
        h1 { "Operation " (op.id) }
        p { (op.what) ": " (state(op)) ". " (op.words) }
        p.fine {
            "for " (op.by) " · " (op.why) " · began " (day_and_time(op.began_ms)) ", " (took(op, now))
            @if op.part_of > 0 { " · part of " a href=(format!("/operations?id={}", op.part_of)) { (op.part_of) } }
        }
        @if op.state() == v1::OperationState::Live && who.may(Role::Operator) {
            p.orders { (orders::link("cancel", &[("id", &op.id.to_string())], "Cancel")) }
        }
        section {
            h2 { "Steps" }
            @if op.steps.is_empty() {
                p.fine { "Nothing was done that has an effect." }
            } @else {
                div.wide-table { table {
                    thead { tr { th.n { "#" } th { "at" } th { "what" } th { "what became of it" } th { "undone by" } } }
                    tbody {
                        @for step in &op.steps {
                            tr {
                                td.n { (step.number) }
                                td { (day_and_time(step.at_ms)) }
                                td { (step.what) }
                                td { @if step.answered_ms > 0 { (step.answer) } @else { "–" } }
                                td { (step.undo) }
                            }
                        }
                    }
                } }
            }
        }
    }
}
