//! What the figures mean. Each headline links to its paragraph.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use maud::html;

use super::Shared;
use super::page::Page;

/// Anchor, name, meaning.
const WORDS: [(&str, &str, &str); 11] = [
    (
        "now",
        "Power now",
        "Mean power over the last second, of the zones that count: processors, memory and accelerators, or the whole \
         machine where only that is known. A node that isn't heard has a question mark or a dash, and is not part of \
         the fleet's sum.",
    ),
    (
        "idle",
        "Idle",
        "Of that, what would be drawn if nothing ran. It is learned from how power follows activity, and is what can be \
         saved by switching machines off.",
    ),
    ("today", "Energy today", "Energy since 00:00 UTC, counted in whole microjoules and never estimated over a gap."),
    (
        "saved",
        "Saved",
        "Energy that was not drawn because something was switched off. Nothing is switched yet, so there is no figure.",
    ),
    (
        "ledger",
        "Ledger",
        "wall = cpu + dram + gpu + rest. Where something measures the whole machine, the rest is what the parts don't \
         explain: fans, disks, losses of the power supply. It always adds up.",
    ),
    (
        "quality",
        "Marks",
        "No mark: a sensor counted it. ~ : a sensor's reading that was scaled or integrated, or a model without any \
         sensor. ? : the last figure known of something that doesn't answer at present. – : not known; never zero.",
    ),
    (
        "gap",
        "Gaps",
        "Time in which energy is not known. In plots it is hatched; energy in it is missing from sums. An agent that is \
         cut off keeps its figures and tells them later, so that most gaps close again.",
    ),
    ("cpu", "CPUs busy", "How many CPUs' worth of time was used: 2.50 are two CPUs and a half, of all kinds of work."),
    (
        "workload",
        "Workloads",
        "What a workload draws is its share of each zone by what it used, and of idle power what the agent's policy \
         gives it. All workloads of a node, its idle power and what nobody could be found for add up to the node.",
    ),
    ("time", "Times", "All times are UTC, so that a link shows the same to everybody."),
    (
        "plan",
        "Plan",
        "What the fleet would draw by the nodes' power curves: now, once the plan is carried out, and the bound that no \
         placement whatever can be below. The gap between the last two is the most that could still be won.",
    ),
];

pub(super) async fn get(State(shared): State<Arc<Shared>>) -> Response {
    let content = html! {
        h1 { "What the figures mean" }
        dl.words {
            @for (anchor, name, meaning) in WORDS { dt id=(anchor) { (name) } dd { (meaning) } }
        }
        h2 { "Keys" }
        p { "A plot that has the focus: " kbd { "←" } " " kbd { "→" } " tell values over time, with " kbd { "shift" }
            " they select, " kbd { "enter" } " zooms, " kbd { "esc" } " lets go. With a pointer: drag." }
    };
    Page::still("What the figures mean", "/about", content).answer(shared.dashboard.version, StatusCode::OK)
}
