//! Orders: a page that says what an order does and how it is undone, and the form on it that gives the order.
//!
//! Links to these pages are on the pages of what they are about, for visitors whose role allows it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Form;
use axum::extract::rejection::FormRejection;
use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1::PoolMode;
use maud::{Markup, html};
use serde::Deserialize;

use super::Shared;
use super::figures::{escaped, node_href};
use super::http::Failure;
use super::page::Page;
use crate::query::{Order, Refusal, Visitor};

/// Milliseconds of an hour, bytes of a gibibyte.
const HOUR_MS: f64 = 3_600_000.0;
const GIB: f64 = 1_073_741_824.0;

/// Who looks; `None`: nobody has said.
pub(super) struct Who(Option<Visitor>);

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self(parts.extensions.get().cloned()))
    }
}

impl Who {
    /// Whether they may give orders that take `role`.
    pub(super) fn may(&self, role: Role) -> bool {
        self.0.as_ref().is_some_and(|visitor| visitor.role >= role)
    }

    fn allowed(self, order: &Order) -> Result<Visitor, Refusal> {
        let role = order.needs();
        let unknown = || Refusal::NotPermitted(format!("it is not known who asks; this needs {role}"));
        let visitor = self.0.ok_or_else(unknown)?;
        match visitor.role.is_too_little(&visitor.name, role) {
            Some(why) => Err(Refusal::NotPermitted(why)),
            None => Ok(visitor),
        }
    }
}

/// What the address or the form says of an order.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Asked {
    node: String,
    pool: String,
    mode: String,
    id: u64,
    why: String,
    /// CPUs, gibibytes and hours, as people write them; empty: not said.
    cpu: String,
    memory: String,
    hours: String,
}

/// A link to the page of an order. `about` says what the order is about: `node=edge-7`.
pub(super) fn link(verb: &str, about: &[(&str, &str)], text: &str) -> Markup {
    let query: Vec<String> = about.iter().map(|(key, value)| format!("{key}={}", escaped(value))).collect();
    html! { a.order href=(format!("/order/{verb}?{}", query.join("&"))) { (text) } }
}

/// Orders about a node.
pub(super) fn of_node(node: &str, locked: bool) -> Markup {
    let about = [("node", node)];
    html! {
        (link("power-off", &about, "Power off")) " " (link("power-on", &about, "Power on")) " "
        (link("evacuate", &about, "Evacuate")) " "
        @if locked { (link("unlock", &about, "Unlock")) } @else {
            (link("lock", &about, "Lock")) " " (link("evacuate-and-lock", &about, "Evacuate and lock"))
        }
        " " (link("capacity", &about, "Withhold capacity")) " " (link("clear-capacity", &about, "Give capacity back"))
    }
}

/// The other modes that a pool may have.
pub(super) fn of_pool(pool: &str, now: PoolMode) -> Markup {
    let modes = [(PoolMode::Observe, "observe"), (PoolMode::Recommend, "recommend"), (PoolMode::Auto, "auto")];
    html! {
        @for (_, word) in modes.into_iter().filter(|(mode, _)| *mode != now) {
            (link("mode", &[("pool", pool), ("mode", word)], word)) " "
        }
    }
}

/// What a form asks for beside the order itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fields {
    Bare,
    Why,
    Capacity,
}

/// What the page of an order says.
struct Words {
    title: String,
    does: &'static str,
    undo: String,
    form: Fields,
    /// The page to go back to.
    back: String,
}

fn order(verb: &str, asked: &Asked) -> Result<Order, Failure> {
    let (node, why) = (asked.node.clone(), asked.why.clone());
    let order = match verb {
        "pause" => Order::Pause { why },
        "resume" => Order::Resume,
        "mode" => Order::SetMode { pool: asked.pool.clone(), mode: mode(&asked.mode)? },
        "approve" => Order::Approve { plan: asked.id },
        "reorchestrate" => Order::Reorchestrate,
        "cancel" => Order::Cancel { operation: asked.id },
        "power-off" => Order::PowerOff { node },
        "power-on" => Order::PowerOn { node },
        "evacuate" => Order::Evacuate { node, lock: false },
        "evacuate-and-lock" => Order::Evacuate { node, lock: true },
        "lock" => Order::Lock { node, why },
        "unlock" => Order::Unlock { node },
        "capacity" => Order::SetCapacity {
            node,
            cpu_milli: amount("CPUs", &asked.cpu, 1000.0)?,
            memory: amount("GiB of memory", &asked.memory, GIB)?,
            for_ms: amount("hours", &asked.hours, HOUR_MS)?.unwrap_or(0),
            why,
        },
        "clear-capacity" => Order::ClearCapacity { node },
        other => return Err(Failure::Asked(format!("there is no order {other:?}"))),
    };
    Ok(order)
}

fn mode(word: &str) -> Result<PoolMode, Failure> {
    match word {
        "observe" => Ok(PoolMode::Observe),
        "recommend" => Ok(PoolMode::Recommend),
        "auto" => Ok(PoolMode::Auto),
        other => Err(Failure::Asked(format!("a pool is in mode observe, recommend or auto, not {other:?}"))),
    }
}

/// An amount as people write it, in units of `unit`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 2^53")]
fn amount(what: &str, text: &str, unit: f64) -> Result<Option<u64>, Failure> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let number: Option<f64> = text.trim().parse().ok();
    let scaled = number.map(|n| (n * unit).round()).filter(|n| (0.0..9e15).contains(n));
    scaled.map(|n| Some(n as u64)).ok_or_else(|| Failure::Asked(format!("{text:?} is no number of {what}")))
}

fn words(verb: &str, order: &Order) -> Words {
    let (title, does, undo) = match order {
        Order::Pause { .. } => (
            "Pause the fleet".to_owned(),
            "Nothing new is begun, neither plans nor orders. What is under way comes to a safe end.",
            "Resume.".to_owned(),
        ),
        Order::Resume => ("Resume".to_owned(), "Plans and orders are carried out again.", "Pause.".to_owned()),
        Order::SetMode { pool, mode } => (
            format!("Let pool {pool:?} {}", mode_word(*mode)),
            match mode {
                PoolMode::Auto => {
                    "Plans for it are carried out as they are made: work is moved and nodes are powered off."
                }
                PoolMode::Recommend => "Plans for it wait until somebody approves them.",
                PoolMode::Observe | PoolMode::Unspecified => "Plans for it are only looked at.",
            },
            "Set the mode that it has now.".to_owned(),
        ),
        Order::Approve { plan } => (
            format!("Carry out plan {plan}"),
            "It is checked again, and then its moves and switches are done one by one.",
            "Each step says how it is undone; cancelling the operation undoes what can be undone.".to_owned(),
        ),
        Order::Reorchestrate => (
            "Plan anew".to_owned(),
            "A plan is made of how everything stands now, without waiting for the next round.",
            "Nothing is to be undone: what the plan may do is up to the pools' modes.".to_owned(),
        ),
        Order::Cancel { operation } => (
            format!("Cancel operation {operation}"),
            "What can be undone is undone; what can't is brought to a safe end.",
            "Give the order again.".to_owned(),
        ),
        Order::PowerOff { node } => (
            format!("Power {node} off"),
            "It is emptied, told to shut down and seen to be off by two signals. If it can't be emptied in time it is opened again.",
            format!("Power {node} on."),
        ),
        Order::PowerOn { node } => (
            format!("Power {node} on"),
            "It is woken by the ways that its feed names, and open for work once its agent streams.",
            format!("Power {node} off."),
        ),
        Order::Evacuate { node, lock: false } => (
            format!("Evacuate {node}"),
            "It is closed and its work is moved away; then it is open again, and plans may fill it.",
            "Cancel the operation: it is opened, and what has moved stays where it is.".to_owned(),
        ),
        Order::Evacuate { node, lock: true } => (
            format!("Evacuate {node} and lock it"),
            "It is closed, its work is moved away, and it stays closed to plans.",
            format!("Unlock {node}."),
        ),
        Order::Lock { node, .. } => (
            format!("Lock {node}"),
            "It is closed: plans neither fill, empty nor switch it. What runs there stays.",
            format!("Unlock {node}."),
        ),
        Order::Unlock { node } => (
            format!("Unlock {node}"),
            "It is open for work and for plans again, also if it was left alone after something had gone wrong.",
            format!("Lock {node}."),
        ),
        Order::SetCapacity { node, .. } => (
            format!("Say how much of {node} is free"),
            "Workloads may use so much of it and no more; what doesn't fit any longer moves.",
            "Give the capacity back.".to_owned(),
        ),
        Order::ClearCapacity { node } => (
            format!("Give back what is withheld of {node}"),
            "Workloads may use all of it that is not its own.",
            "Withhold it again.".to_owned(),
        ),
    };
    let form = match verb {
        "capacity" => Fields::Capacity,
        "pause" | "lock" => Fields::Why,
        _ => Fields::Bare,
    };
    let back = match order {
        Order::Approve { .. } => "/plan".to_owned(),
        Order::Cancel { operation } => format!("/operations?id={operation}"),
        Order::PowerOff { node }
        | Order::PowerOn { node }
        | Order::Evacuate { node, .. }
        | Order::Lock { node, .. }
        | Order::Unlock { node }
        | Order::SetCapacity { node, .. }
        | Order::ClearCapacity { node } => node_href(node),
        _ => "/operations".to_owned(),
    };
    Words { title, does, undo, form, back }
}

fn mode_word(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Auto => "act by itself",
        PoolMode::Recommend => "recommend",
        PoolMode::Observe | PoolMode::Unspecified => "observe only",
    }
}

/// The page that says what would be done.
pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(verb): Path<String>,
    Query(asked): Query<Asked>,
    who: Who,
) -> Response {
    let version = shared.dashboard.version;
    let found = order(&verb, &asked).and_then(|order| {
        let visitor = who.allowed(&order).map_err(Failure::Refused)?;
        Ok((words(&verb, &order), visitor))
    });
    match found {
        Ok((words, visitor)) => {
            let content = form(&verb, &asked, &words, &visitor);
            Page::still(words.title, "/operations", content).answer(version, StatusCode::OK)
        }
        Err(failure) => failure.answer(version),
    }
}

fn form(verb: &str, asked: &Asked, words: &Words, visitor: &Visitor) -> Markup {
    let id = if asked.id > 0 { asked.id.to_string() } else { String::new() };
    let about = [("node", &asked.node), ("pool", &asked.pool), ("mode", &asked.mode), ("id", &id)];
    html! {
        h1 { (words.title) "?" }
        p { (words.does) }
        p.fine { "To undo: " (words.undo) }
        form.order method="post" action=(format!("/order/{verb}")) {
            @for (name, value) in about.into_iter().filter(|(_, value)| !value.is_empty()) {
                input type="hidden" name=(name) value=(value);
            }
            @if words.form == Fields::Capacity {
                label { "CPUs" input name="cpu" inputmode="decimal" placeholder="as many as otherwise"; }
                label { "Memory in GiB" input name="memory" inputmode="decimal" placeholder="as much as otherwise"; }
                label { "For so many hours" input name="hours" inputmode="decimal" placeholder="until it is given back"; }
            }
            @if words.form != Fields::Bare { label { "Why" input name="why" maxlength="200"; } }
            p { button type="submit" { (words.title) } " " a href=(words.back) { "Leave it" } }
            p.fine { "It goes into the audit as an order of " (visitor.name) "." }
        }
    }
}

/// Gives the order.
pub(super) async fn post(
    State(shared): State<Arc<Shared>>,
    Path(verb): Path<String>,
    headers: HeaderMap,
    who: Who,
    asked: Result<Form<Asked>, FormRejection>,
) -> Response {
    match give(&shared, &verb, &headers, who, asked).await {
        Ok(Some(operation)) => Redirect::to(&format!("/operations?id={operation}")).into_response(),
        Ok(None) => Redirect::to("/operations").into_response(),
        Err(failure) => failure.answer(shared.dashboard.version),
    }
}

async fn give(
    shared: &Shared,
    verb: &str,
    headers: &HeaderMap,
    who: Who,
    asked: Result<Form<Asked>, FormRejection>,
) -> Result<Option<u64>, Failure> {
    if !is_from_here(headers) {
        let why = "the order did not come from a page of this dashboard; scripts give orders by gRPC or `ebbtide`";
        return Err(Failure::Refused(Refusal::NotPermitted(why.to_owned())));
    }
    let Form(asked) = asked.map_err(|error| Failure::Asked(error.body_text()))?;
    let order = order(verb, &asked)?;
    let visitor = who.allowed(&order).map_err(Failure::Refused)?;
    shared.dashboard.orders.give(&visitor, order).await.map_err(Failure::Refused)
}

/// Whether a form was sent from a page of this server. Browsers say so, and no page elsewhere can make them lie; what a
/// visitor's role allows must not be had by luring the visitor to another page.
fn is_from_here(headers: &HeaderMap) -> bool {
    let told = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = told("sec-fetch-site") {
        return site == "same-origin";
    }
    let origin = told("origin").and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    origin.is_some() && origin == told(header::HOST.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_this_server_give_orders() {
        for (headers, ok) in [
            (&[("sec-fetch-site", "same-origin")][..], true),
            (&[("sec-fetch-site", "same-site"), ("origin", "http://a:1"), ("host", "a:1")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("origin", "http://127.0.0.1:9885"), ("host", "127.0.0.1:9885")], true),
            (&[("origin", "http://127.0.0.1:9886"), ("host", "127.0.0.1:9885")], false),
            (&[("origin", "null"), ("host", "127.0.0.1:9885")], false),
            (&[("origin", "null")], false),
            (&[("host", "127.0.0.1:9885")], false),
            (&[], false),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, value.parse().unwrap());
            }
            assert_eq!(is_from_here(&map), ok, "{headers:?}");
        }
    }

    #[test]
    fn amounts_are_what_people_write_or_refused() {
        assert!(matches!(amount("CPUs", " 2.5 ", 1000.0), Ok(Some(2500))));
        assert!(matches!(amount("hours", "", HOUR_MS), Ok(None)));
        for nonsense in ["two", "-1", "NaN", "inf", "1e300"] {
            assert!(matches!(amount("CPUs", nonsense, 1000.0), Err(Failure::Asked(_))), "{nonsense}");
        }
    }
}
