//! The first page: how many watts, where, and is anything wrong.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::series::{Component, Quality};
use ebbtide_proto::v1::{
    ComponentPower, GetStatusResponse, GroupBy, ListNodesRequest, Node, NodeState, QueryEnergyResponse, Totals,
};
use maud::{Markup, html};

use super::figures::{
    Figure, Live, UNKNOWN, ago, count, cpus, energy, node_href, node_quality, plural, power, quality,
};
use super::http::Failure;
use super::live::{Picture, shape};
use super::page::{Page, headline};
use super::window::{Asked, Window};
use super::{Shared, figures, history, ledger};
use crate::plot::Colour;
use crate::query::{Queries, QueryError};

/// Nodes in the table unless all are asked for; also those that are kept up to date.
const ROWS: usize = 250;
/// Nodes with a colour of their own in the plot.
const TRACKS: u32 = 8;
const _: () = assert!(TRACKS as usize == Colour::NTH, "no two nodes have the same colour");

const DAY_MS: u64 = 86_400_000;

/// All that the page shows.
struct Fleet {
    totals: Totals,
    /// By power, the most first.
    nodes: Vec<Node>,
    status: GetStatusResponse,
    now_ms: u64,
}

impl Fleet {
    fn ask(queries: &dyn Queries, now_ms: u64) -> Self {
        let mut nodes = queries.nodes(&ListNodesRequest::default()).nodes;
        nodes.sort_by(|a, b| b.power_uw.cmp(&a.power_uw).then_with(|| a.name.cmp(&b.name)));
        Self { totals: queries.totals(), nodes, status: queries.status(), now_ms }
    }

    /// What stands at the top of the page, by the name of its place.
    fn headlines(&self) -> [(&'static str, Figure); 7] {
        let totals = &self.totals;
        let quality = quality(totals.quality);
        let share = figures::share(totals.idle_uw, totals.power_uw);
        [
            ("now", power(totals.power_uw, quality)),
            ("idle", power(totals.idle_uw, quality)),
            ("idle-share", Figure::plain(if share.is_empty() { share } else { format!("{share} of it") })),
            ("today", energy(Some(totals.today_uj), quality)),
            ("live", Figure::plain(format!("{} of {}", totals.live, totals.nodes))),
            ("workloads", Figure::plain(count(totals.workloads.into()))),
            ("troubles", Figure::plain(self.troubles().len().to_string())),
        ]
    }

    fn parts(&self) -> [(Component, Option<u64>); 4] {
        let of =
            |wanted: &str, parts: &[ComponentPower]| parts.iter().find(|p| p.component == wanted).map(|p| p.power_uw);
        Component::ALL.map(|c| (c, of(c.as_str(), &self.totals.components)))
    }

    /// What is wrong: who, and what it is.
    fn troubles(&self) -> Vec<(Option<&str>, String)> {
        let daemon = self.status.troubles.iter().map(|text| (None, text.clone()));
        let nodes = self.nodes.iter().filter_map(|node| Some((Some(node.name.as_str()), trouble(node, self.now_ms)?)));
        daemon.chain(nodes).collect()
    }
}

/// What is wrong with a node; `None`: nothing.
pub(super) fn trouble(node: &Node, now: u64) -> Option<String> {
    if !node.trouble.is_empty() {
        return Some(match node.state() {
            NodeState::Refused => format!("refused: {}", node.trouble),
            _ => node.trouble.clone(),
        });
    }
    match node.state() {
        NodeState::Stale => {
            Some(format!("not heard for {}; on the node: systemctl status ebbtide-agent", silence(node, now)))
        }
        NodeState::Refused => Some("refused; the daemon's log says why".to_owned()),
        _ => None,
    }
}

fn silence(node: &Node, now: u64) -> String {
    figures::duration(now.saturating_sub(if node.last_ms > 0 { node.last_ms } else { node.since_ms }))
}

/// Energy since midnight; not known of who wasn't heard since then.
pub(super) fn today(node: &Node, now: u64) -> Figure {
    let heard = node.last_ms / DAY_MS == now / DAY_MS;
    energy(heard.then_some(node.today_uj), figures::quality(node.quality).map(|q| q.min(Quality::Modelled)))
}

/// The cells of a node's row, by the name of their place.
fn cells(node: &Node, now: u64) -> [(&'static str, Figure); 7] {
    let quality = node_quality(node);
    let word = figures::state(node.state());
    [
        ("state", Figure { text: word.to_owned(), is: word }),
        ("w", power(node.power_uw, quality)),
        ("idle", power(node.idle_uw, quality)),
        ("cpu", cpus(node.cpu_milli, quality)),
        ("today", today(node, now)),
        ("runs", Figure::plain(count(node.workloads.into()))),
        ("seen", Figure::plain(ago(node.last_ms, now))),
    ]
}

/// What changes on the page.
pub(super) fn picture(queries: &dyn Queries, now: u64) -> Picture {
    let fleet = Fleet::ask(queries, now);
    let mut picture = Picture { at_ms: now, plot: "nodes", shape: fleet.shape(), ..Picture::default() };
    for (key, figure) in fleet.headlines() {
        picture.figures.insert(key.to_owned(), figure);
    }
    for (component, part) in fleet.parts() {
        picture.figures.insert(format!("part/{}", component.as_str()), power(part, None));
    }
    picture.bar = fleet.parts().map(|(component, part)| (component.as_str(), part.unwrap_or(0) / 1000));
    for node in fleet.nodes.iter().take(ROWS) {
        for (cell, figure) in cells(node, now) {
            picture.figures.insert(format!("{cell}/{}", node.name), figure);
        }
        // What isn't heard at present is a gap in the plot, not the last figure on and on.
        let heard = matches!(node.state(), NodeState::Live);
        let mw = node.power_uw.filter(|_| heard).map(|uw| uw / 1000);
        picture.tracks.insert(node.name.clone(), mw);
    }
    picture
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Response {
    let version = shared.dashboard.version;
    match page(&shared, &asked).await {
        Ok(page) => page.answer(version, StatusCode::OK),
        Err(failure) => failure.answer(version),
    }
}

async fn page(shared: &Shared, asked: &Asked) -> Result<Page, Failure> {
    let now = shared.now();
    let window = Window::of(asked, now).map_err(Failure::Asked)?;
    let request = history::request(&window, GroupBy::Node, TRACKS);
    let (fleet, energy) = shared.ask(move |queries| Ok((Fleet::ask(queries, now), queries.energy(&request)))).await?;
    Ok(fleet.page(asked, &window, &energy))
}

impl Fleet {
    fn shape(&self) -> String {
        let troubles = self.troubles().len().to_string();
        shape(self.nodes.iter().take(ROWS).map(|n| n.name.as_str()).chain([troubles.as_str()]))
    }

    fn page(&self, asked: &Asked, window: &Window, energy: &Result<QueryEnergyResponse, QueryError>) -> Page {
        let content = if self.nodes.is_empty() { welcome() } else { self.content(asked, window, energy) };
        let live = Some("/live".to_owned());
        Page { title: "Fleet".to_owned(), menu: "/", live, shape: self.shape(), content }
    }

    fn content(&self, asked: &Asked, window: &Window, energy: &Result<QueryEnergyResponse, QueryError>) -> Markup {
        let as_table = asked.view.as_deref() == Some("table");
        html! {
            h1.hidden { "Fleet" }
            (self.wrong())
            (self.top())
            section {
                (window.picker("/", if as_table { "&view=table" } else { "" }))
                (plot(energy, window, as_table))
            }
            (self.table(asked.all.is_some(), window))
        }
    }

    fn wrong(&self) -> Markup {
        let troubles = self.troubles();
        html! {
            section.wrong #wrong data-part aria-label="what is wrong" data-any[!troubles.is_empty()] {
                @if troubles.is_empty() {
                    p.fine { "Nothing is wrong." }
                } @else {
                    ul {
                        @for (node, what) in troubles.iter().take(20) {
                            li {
                                @match node {
                                    Some(name) => a href=(node_href(name)) { (name) },
                                    None => a href="/status" { "this daemon" },
                                }
                                " " (what)
                            }
                        }
                        @if troubles.len() > 20 { li { "and " (troubles.len() - 20) " more; see the table" } }
                    }
                }
            }
        }
    }

    fn top(&self) -> Markup {
        let headlines = self.headlines();
        let place = |key: &'static str| {
            let figure =
                headlines.iter().find(|(k, _)| *k == key).map_or_else(|| Figure::plain(UNKNOWN), |h| h.1.clone());
            html! { (Live { key, figure }) }
        };
        html! {
            section #top aria-label="the fleet now" {
                dl.headlines {
                    (headline("Power now", "now", &place("now"), &html! { (place("live")) " nodes live" }))
                    (headline("Idle", "idle", &place("idle"), &place("idle-share")))
                    (headline("Energy today", "today", &place("today"), &html! { "since 00:00 UTC" }))
                    (headline("Saved", "saved", &html! { (UNKNOWN) }, &html! { "nothing is switched yet" }))
                    (headline("Workloads", "workloads", &place("workloads"), &html! { a href="/workloads" { "by application" } }))
                }
                p.sum {
                    @for (component, part) in self.parts() {
                        span.term {
                            i.swatch.(Colour::from(component).class()) {} " "
                            (component.as_str()) " "
                            (Live { key: &format!("part/{}", component.as_str()), figure: power(part, None) })
                        }
                    }
                }
                (ledger::bar(self.parts().into_iter().map(|(c, p)| (c.as_str(), Colour::from(c), p))))
            }
        }
    }

    fn table(&self, all: bool, window: &Window) -> Markup {
        let most = if all { usize::MAX } else { ROWS };
        html! {
            section #nodes data-part {
                h2 { "Nodes" }
                table.figures {
                    thead {
                        tr {
                            th scope="col" { "node" }
                            th scope="col" { "state" }
                            th.n scope="col" { "power" }
                            th.n scope="col" { "idle" }
                            th.n.mid scope="col" { "CPUs busy" }
                            th.n.mid scope="col" { "today" }
                            th.n.far scope="col" { "workloads" }
                            th.far scope="col" { "heard" }
                            th.far scope="col" { "machine" }
                        }
                    }
                    tbody {
                        @for node in self.nodes.iter().take(most) { (self.row(node)) }
                    }
                }
                @if self.nodes.len() > most {
                    p.note {
                        "The " (ROWS) " with the most power of " (plural(self.nodes.len() as u64, "node")) ". "
                        a href=(format!("/?{}&all=1", window.query())) { "Show all" }
                    }
                }
            }
        }
    }

    fn row(&self, node: &Node) -> Markup {
        let [state, w, idle, cpu, today, runs, seen] = cells(node, self.now_ms)
            .map(|(cell, figure)| html! { (Live { key: &format!("{cell}/{}", node.name), figure }) });
        let machine = node.machine.clone().unwrap_or_default();
        html! {
            tr {
                th scope="row" { a href=(node_href(&node.name)) { (node.name) } }
                td.state { (state) }
                td.n { (w) }
                td.n { (idle) }
                td.n.mid { (cpu) @if machine.cpus > 0 { span.note { " / " (machine.cpus) } } }
                td.n.mid { (today) }
                td.n.far { (runs) }
                td.far { (seen) }
                td.far.note { (machine.cpu_model) }
            }
        }
    }
}

fn plot(energy: &Result<QueryEnergyResponse, QueryError>, window: &Window, as_table: bool) -> Markup {
    match energy {
        Ok(energy) => {
            let empty = html! { "Nothing was measured in this time." };
            history::shown(&history::by_node(energy, window), window, "/", "", as_table, empty)
        }
        Err(error) => no_plot(error.clone()),
    }
}

/// In place of a plot whose figures can't be had; the rest of the page stands.
pub(super) fn no_plot(error: QueryError) -> Markup {
    let (what, next) = Failure::Query(error).words();
    html! { div.empty role="alert" { p { "No plot: " (what) ". " (next) } } }
}

/// No node has ever spoken to this daemon.
fn welcome() -> Markup {
    html! {
        section.welcome {
            h1 { "No node yet" }
            p { "This daemon keeps what agents measure. On this machine, start one with:" }
            pre { "ebbtide-agent run --fleet http://127.0.0.1:9884" }
            p { "For another machine, make a token here:" }
            pre { "ebbtide token create" }
            p { "and on that machine:" }
            pre { "ebbtide-agent join --token TOKEN --fleet HOST" }
            p { "This page shows the first watts a second after that." }
        }
    }
}
