//! The plan that stands: what it would save, what it does, and why each node is treated as it is.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::identity::Role;
use ebbtide_proto::{Power, v1};
use maud::{Markup, html};
use serde::Deserialize;

use super::Shared;
use super::figures::{count, duration};
use super::orders::{self, Who};
use super::page::{Page, headline};
use crate::plot::day_and_time;
use crate::query::QueryError;

/// Actions and nodes on a page, at the most.
const SHOWN: usize = 500;
/// Older plans that are listed.
const LISTED: u32 = 10;

/// What the address asks for.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Asked {
    /// A plan; 0: the one that stands.
    #[serde(default)]
    id: u64,
    /// A pool; empty: all.
    #[serde(default)]
    pool: String,
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>, who: Who) -> Response {
    let version = shared.dashboard.version;
    let now = shared.now();
    let stands = asked.id == 0;
    let question = v1::GetPlanRequest { id: asked.id, pool: asked.pool };
    let answer = shared.ask_plans(move |plans| {
        let plan = match plans.plan(&question) {
            // that there is none yet is no failure
            Err(QueryError::NotYet(why)) => return Ok(Err(why)),
            plan => plan?,
        };
        let older = plans.plans(&v1::ListPlansRequest { limit: LISTED })?;
        Ok(Ok((plan, older.plans)))
    });
    match answer.await {
        Ok(Ok((plan, older))) => {
            let acts = |pool: &v1::PoolControl| pool.mode() != v1::PoolMode::Observe;
            let waits = stands && !plan.actions.is_empty() && shared.dashboard.control.control().pools.iter().any(acts);
            let orders = html! {
                @if waits && who.may(Role::Operator) {
                    p.orders { (orders::link("approve", &[("id", &plan.id.to_string())], "Approve")) }
                }
            };
            Page::still("Plan", "/plan", content(&plan, &older, now, &orders)).answer(version, StatusCode::OK)
        }
        Ok(Err(why)) => {
            Page::still("Plan", "/plan", html! { h1 { "Plan" } p.fine { (why) } }).answer(version, StatusCode::OK)
        }
        Err(failure) => failure.answer(version),
    }
}

fn watts(uw: u64) -> String {
    Power::from_uw(uw).to_string()
}

/// A change with its sign.
fn change(uw: i64) -> String {
    let sign = match uw {
        0 => "",
        1.. => "+",
        _ => "−",
    };
    format!("{sign}{}", watts(uw.unsigned_abs()))
}

/// Parts per million as per cent, with one digit.
fn percent(ppm: u64) -> String {
    let tenths = ppm.saturating_add(500) / 1000;
    format!("{}.{} %", tenths / 10, tenths % 10)
}

fn content(plan: &v1::Plan, older: &[v1::PlanSummary], now: u64, orders: &Markup) -> Markup {
    let explained = plan.explanation.clone().unwrap_or_default();
    let mode = match plan.mode() {
        v1::PlanMode::Recommend => "recommended: nothing is done by itself",
        _ => "observed: nothing is done",
    };
    let off = plan.nodes.iter().filter(|n| n.before() != n.after()).count();
    html! {
        h1 { "Plan " (plan.id) }
        p { (explained.headline) }
        dl.headlines {
            (headline("now", "plan", &html! { (watts(plan.before_uw)) }, &html! { (count(plan.nodes.len() as u64)) " nodes" }))
            (headline("planned", "plan", &html! { (watts(plan.after_uw)) }, &html! { (count(off as u64)) " nodes switched" }))
            (headline("bound", "plan", &html! { (watts(plan.bound_uw)) },
                &html! { "gap " (percent(plan.gap_ppm)) }))
        }
        p.fine {
            (mode) " · made " (day_and_time(plan.at_ms)) ", holds as of "
            (duration(now.saturating_sub(plan.confirmed_ms))) " ago · planning took "
            (plan.took_us / 1000) " ms"
        }
        (orders)
        @if !plan.violations.is_empty() || !plan.unplaced.is_empty() || plan.cut_short {
            section.wrong aria-label="what is wrong" data-any {
                ul {
                    @for violation in &plan.violations { li { "does not hold up: " (violation) } }
                    @if !plan.unplaced.is_empty() {
                        li { (plan.unplaced.len()) " workloads find no node: "
                            (plan.unplaced.iter().take(10).cloned().collect::<Vec<_>>().join(", ")) }
                    }
                    @if plan.cut_short { li { "planning stopped at its effort limit; there may be a better plan" } }
                }
            }
        }
        section {
            h2 { "What it does" }
            @if plan.actions.is_empty() {
                p.fine { "Nothing: the fleet is as it should be, or what stands against changing it is said below." }
            } @else {
                (actions(plan))
            }
        }
        section {
            h2 { "Nodes" }
            (nodes(plan))
        }
        section {
            h2 { "Plans before" }
            div.wide-table { table {
                thead { tr { th { "plan" } th { "made" } th.n { "actions" } th { "what it says" } } }
                tbody {
                    @for one in older {
                        tr {
                            td { a href=(format!("/plan?id={}", one.id)) { (one.id) } }
                            td { (day_and_time(one.at_ms)) }
                            td.n { (one.actions) }
                            td { (one.headline) }
                        }
                    }
                }
            } }
        }
    }
}

fn actions(plan: &v1::Plan) -> Markup {
    html! {
        div.wide-table { table {
            thead { tr { th.n { "#" } th { "what" } th.n { "power" } th { "after" } th { "within" } } }
            tbody {
                @for action in plan.actions.iter().take(SHOWN) {
                    tr {
                        td.n { (action.id) }
                        td { (what(action)) }
                        td.n { (change(action.change_uw)) }
                        td { (action.needs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")) }
                        td { (duration(action.deadline_s.saturating_mul(1000))) }
                    }
                }
            }
        } }
        @if plan.actions.len() > SHOWN {
            p.fine { (plan.actions.len() - SHOWN) " more: ebbtide plan -o json" }
        }
    }
}

fn what(action: &v1::PlanAction) -> Markup {
    let node = |name: &str| html! { a href=(format!("/node/{name}")) { (name) } };
    html! {
        @match action.kind() {
            v1::ActionKind::PowerOn => { "power " (node(&action.node)) " on" },
            v1::ActionKind::PowerOff => { "power " (node(&action.node)) " off" },
            v1::ActionKind::Cordon => { "keep new work away from " (node(&action.node)) },
            v1::ActionKind::Place => { "place " (action.workload) " on " (node(&action.to)) },
            v1::ActionKind::Move => { "move " (action.workload) " from " (node(&action.node)) " to " (node(&action.to)) },
            v1::ActionKind::Unspecified => { "something that this version doesn't know" },
        }
    }
}

fn nodes(plan: &v1::Plan) -> Markup {
    let power = |state: v1::PowerState| match state {
        v1::PowerState::On => "on",
        v1::PowerState::Off => "off",
        v1::PowerState::TurningOn => "turning on",
        v1::PowerState::TurningOff => "turning off",
        v1::PowerState::Unknown | v1::PowerState::Unspecified => "not known",
    };
    html! {
        div.wide-table { table {
            thead {
                tr { th { "node" } th { "pool" } th { "power" } th.n { "now" } th.n { "planned" } th.n { "workloads" } th { "why" } }
            }
            tbody {
                @for one in plan.nodes.iter().take(SHOWN) {
                    tr {
                        td { a href=(format!("/node/{}", one.name)) { (one.name) } }
                        td { (one.pool) }
                        td {
                            (power(one.before()))
                            @if one.before() != one.after() { " → " (power(one.after())) }
                        }
                        td.n { (watts(one.before_uw)) }
                        td.n { (watts(one.after_uw)) }
                        td.n {
                            (one.workloads_before)
                            @if one.workloads_before != one.workloads_after { " → " (one.workloads_after) }
                        }
                        td { (one.headline) }
                    }
                }
            }
        } }
        @if plan.nodes.len() > SHOWN {
            p.fine { (plan.nodes.len() - SHOWN) " more: ebbtide plan -o json" }
        }
    }
}
