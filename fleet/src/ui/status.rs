//! How the daemon is doing.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::v1::GetStatusResponse;
use maud::{Markup, html};

use super::Shared;
use super::figures::{bytes, count, duration};
use super::page::Page;
use crate::plot::day_and_time;

pub(super) async fn get(State(shared): State<Arc<Shared>>) -> Response {
    let version = shared.dashboard.version;
    let now = shared.now();
    match shared.ask(|queries| Ok(queries.status())).await {
        Ok(status) => Page::still("Status", "/status", content(&status, now)).answer(version, StatusCode::OK),
        Err(failure) => failure.answer(version),
    }
}

fn content(status: &GetStatusResponse, now: u64) -> Markup {
    let since = |ms: u64| format!("{} ({})", duration(now.saturating_sub(ms)), day_and_time(ms));
    let oldest = if status.oldest_ms == 0 { "nothing yet".to_owned() } else { since(status.oldest_ms) };
    let encrypted = if status.encrypted {
        "with TLS; who speaks is known by certificate"
    } else {
        "in plain text; safe on this machine only"
    };
    let groups: [(&str, Vec<(&str, String)>); 3] = [
        (
            "Daemon",
            vec![
                ("version", status.version.clone()),
                ("running for", since(status.started_ms)),
                ("spoken", encrypted.to_owned()),
                ("you may", role(&status.your_role)),
            ],
        ),
        (
            "Agents",
            vec![
                ("connected", format!("{} of {}", count(status.connected.into()), count(status.nodes.into()))),
                ("frames", count(status.frames)),
                ("samples", count(status.samples)),
                ("sent twice", format!("{}; each is counted once", count(status.duplicates))),
                ("given up by agents", plural_frames(status.dropped_frames)),
            ],
        ),
        (
            "Store",
            vec![
                ("directory", status.data_dir.clone()),
                ("size", bytes(status.store_bytes)),
                ("reaches back", oldest),
                ("safe after", format!("{} (99 of 100 frames, last minute)", millis(status.commit_p99_us))),
                ("not yet in blocks", plural_frames(status.unsealed_frames)),
            ],
        ),
    ];
    html! {
        h1 { "Status" }
        section.wrong aria-label="what is wrong" data-any[!status.troubles.is_empty()] {
            @if status.troubles.is_empty() {
                p.fine { "Nothing is wrong with the daemon." }
            } @else {
                ul { @for trouble in &status.troubles { li { (trouble) } } }
            }
        }
        div.columns {
            @for (name, rows) in groups {
                section {
                    h2 { (name) }
                    dl.facts { @for (name, value) in rows { dt { (name) } dd { (value) } } }
                }
            }
            section {
                h2 { "Refused" }
                @if status.refusals.is_empty() {
                    p { "Nothing was refused since the start." }
                } @else {
                    table.figures {
                        thead { tr { th scope="col" { "reason" } th.n scope="col" { "times" } } }
                        tbody {
                            @for refusal in &status.refusals {
                                tr { th scope="row" { (refusal.reason) } td.n { (count(refusal.count)) } }
                            }
                        }
                    }
                }
            }
        }
        p.note { "On a terminal: " code { "ebbtide doctor" } }
    }
}

fn role(role: &str) -> String {
    match role {
        "" => "not said".to_owned(),
        "viewer" => "look (viewer)".to_owned(),
        "operator" => "look and operate (operator)".to_owned(),
        other => format!("all ({other})"),
    }
}

fn plural_frames(n: u64) -> String {
    if n == 0 { "none".to_owned() } else { super::figures::plural(n, "frame") }
}

fn millis(us: u64) -> String {
    match us {
        0 => "–".to_owned(),
        us if us < 10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        us => format!("{} ms", us / 1000),
    }
}
