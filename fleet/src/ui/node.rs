//! One machine: what it draws, in which parts, what measures it, what runs on it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::identity::Role;
use ebbtide_proto::series::Component;
use ebbtide_proto::v1::{
    GetNodeRequest, GetNodeResponse, GroupBy, Node, NodeState, QueryEnergyRequest, QueryEnergyResponse, WorkloadPower,
    ZonePower,
};
use maud::{Markup, html};

use super::figures::{
    Figure, Live, ago, count, cpus, duration, energy, error, escaped, node_href, node_quality, plural, power, quality,
};
use super::http::Failure;
use super::ledger::{self, Ledger};
use super::live::{Picture, shape};
use super::orders::{self, Who};
use super::page::{Page, headline};
use super::window::{Asked, Window};
use super::{Shared, figures, fleet, history};
use crate::query::{Queries, QueryError};

/// Workloads in the table unless all are asked for; also those that are kept up to date.
const ROWS: usize = 100;

/// All that the page shows.
struct Machine {
    node: Node,
    workloads: Vec<WorkloadPower>,
    now_ms: u64,
}

impl Machine {
    fn ask(queries: &dyn Queries, name: &str, now_ms: u64) -> Result<Self, QueryError> {
        let GetNodeResponse { node, workloads, .. } = queries.node(&GetNodeRequest { name: name.to_owned() })?;
        let missing = || QueryError::NotFound { what: "node", name: name.to_owned() };
        Ok(Self { node: node.ok_or_else(missing)?, workloads, now_ms })
    }

    fn headlines(&self) -> [(&'static str, Figure); 6] {
        let node = &self.node;
        let quality = node_quality(node);
        let word = figures::state(node.state());
        let share = figures::share(node.idle_uw, node.power_uw);
        [
            ("state", Figure { text: word.to_owned(), is: word }),
            ("now", power(node.power_uw, quality)),
            ("idle", power(node.idle_uw, quality)),
            ("idle-share", Figure::plain(if share.is_empty() { share } else { format!("{share} of it") })),
            ("today", fleet::today(node, self.now_ms)),
            ("cpu", cpus(node.cpu_milli, quality)),
        ]
    }

    fn shape(&self) -> String {
        let word = figures::state(self.node.state());
        shape(self.workloads.iter().take(ROWS).map(|w| w.id.as_str()).chain([word]))
    }

    fn rows(&self, all: bool) -> impl Iterator<Item = &WorkloadPower> {
        self.workloads.iter().take(if all { usize::MAX } else { ROWS })
    }

    fn heard(&self) -> bool {
        self.node.state() == NodeState::Live
    }
}

/// Whether there is such a node.
pub(super) fn exists(queries: &dyn Queries, name: &str) -> Result<(), QueryError> {
    queries.node(&GetNodeRequest { name: name.to_owned() }).map(drop)
}

/// What changes on the page.
pub(super) fn picture(queries: &dyn Queries, name: &str, now: u64) -> Result<Picture, QueryError> {
    let machine = Machine::ask(queries, name, now)?;
    let ledger = Ledger::of(&machine.node);
    let mut picture = Picture { at_ms: now, plot: "components", shape: machine.shape(), ..Picture::default() };
    let figures = &mut picture.figures;
    for (key, figure) in machine.headlines() {
        figures.insert(key.to_owned(), figure);
    }
    figures.insert("whole".to_owned(), power(ledger.whole, ledger.quality));
    for (component, part) in Component::ALL.into_iter().zip(ledger.parts) {
        figures.insert(format!("part/{}", component.as_str()), power(part, None));
    }
    for zone in &machine.node.zones {
        for (key, figure) in zone_cells(zone) {
            figures.insert(key, figure);
        }
    }
    for workload in machine.rows(false) {
        for (key, figure) in workload_cells(workload) {
            figures.insert(key, figure);
        }
    }
    picture.bar = std::array::from_fn(|i| {
        let part = ledger.parts.get(i).copied().flatten().unwrap_or(0);
        (Component::ALL.get(i).map_or("", |c| c.as_str()), part / 1000)
    });
    // The plot shows what the store counts: zones that are summed, without the rest beyond them.
    let counting: Vec<&ZonePower> =
        machine.node.zones.iter().filter(|z| z.zone.as_ref().is_some_and(|zone| zone.counts)).collect();
    for (component, part) in Component::ALL.into_iter().zip(ledger::counted(&counting)) {
        let mw = part.filter(|_| machine.heard()).map(|uw| uw / 1000);
        picture.tracks.insert(component.as_str().to_owned(), mw);
    }
    Ok(picture)
}

fn zone_cells(zone: &ZonePower) -> [(String, Figure); 3] {
    let id = zone.zone.as_ref().map_or("", |z| z.id.as_str());
    let quality = ledger::zone_quality(zone);
    [
        (format!("zone-w/{id}"), power(zone.power_uw, quality)),
        (format!("zone-idle/{id}"), power(zone.idle_uw, quality)),
        (format!("zone-energy/{id}"), energy(Some(zone.energy_uj), quality)),
    ]
}

fn workload_cells(workload: &WorkloadPower) -> [(String, Figure); 3] {
    let quality = quality(workload.quality);
    [
        (format!("run-w/{}", workload.id), power(workload.power_uw, quality)),
        (format!("run-idle/{}", workload.id), power(workload.idle_uw, quality)),
        (format!("run-cpu/{}", workload.id), cpus(workload.cpu_milli, quality)),
    ]
}

pub(super) async fn get(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    Query(asked): Query<Asked>,
    who: Who,
) -> Response {
    let version = shared.dashboard.version;
    match page(&shared, name, &asked, &who).await {
        Ok(page) => page.answer(version, StatusCode::OK),
        Err(failure) => failure.answer(version),
    }
}

async fn page(shared: &Shared, name: String, asked: &Asked, who: &Who) -> Result<Page, Failure> {
    let now = shared.now();
    let window = Window::of(asked, now).map_err(Failure::Asked)?;
    let request = QueryEnergyRequest { node: name.clone(), ..history::request(&window, GroupBy::Component, 0) };
    let (machine, energy) =
        shared.ask(move |queries| Ok((Machine::ask(queries, &name, now)?, queries.energy(&request)))).await?;
    let orders = html! {
        @if who.may(Role::Operator) {
            @let locked = shared.dashboard.control.control().locked.contains(&machine.node.name);
            p.orders { (orders::of_node(&machine.node.name, locked)) }
        }
    };
    Ok(machine.page(asked, &window, &energy, &orders))
}

impl Machine {
    fn page(
        &self,
        asked: &Asked,
        window: &Window,
        energy: &Result<QueryEnergyResponse, QueryError>,
        orders: &Markup,
    ) -> Page {
        let node = &self.node;
        let href = node_href(&node.name);
        let as_table = asked.view.as_deref() == Some("table");
        let content = html! {
            (self.title())
            (orders)
            (self.top())
            section #ledger aria-label="ledger" {
                h2 { a href="/about#ledger" { "Ledger" } }
                (Ledger::of(node).show())
            }
            section {
                (window.picker(&href, if as_table { "&view=table" } else { "" }))
                @match energy {
                    Ok(energy) => (history::shown(&history::by_component(energy, window), window, &href, "", as_table,
                        html! { "Nothing was measured in this time." })),
                    Err(error) => (fleet::no_plot(error.clone())),
                }
            }
            (self.runs(asked.all.is_some(), window))
            (self.zones())
            (self.machine())
        };
        let live = Some(format!("/live?node={}", escaped(&node.name)));
        Page { title: node.name.clone(), menu: "/", live, shape: self.shape(), content }
    }

    fn title(&self) -> Markup {
        let node = &self.node;
        let word = figures::state(node.state());
        html! {
            div.title #title data-part {
                p.crumbs { a href="/" { "Fleet" } " /" }
                h1 { (node.name) }
                p.state {
                    (Live { key: "state", figure: Figure { text: word.to_owned(), is: word } })
                    @if node.since_ms > 0 { span.note { " since " (crate::plot::day_and_time(node.since_ms)) } }
                }
                @if let Some(trouble) = fleet::trouble(node, self.now_ms) { p.warning role="alert" { (trouble) } }
            }
        }
    }

    fn top(&self) -> Markup {
        let node = &self.node;
        let headlines = self.headlines();
        let place = |key: &'static str| {
            let found = headlines.iter().find(|(k, _)| *k == key);
            html! { @if let Some((_, figure)) = found { (Live { key, figure: figure.clone() }) } }
        };
        let cpus = node.machine.as_ref().map_or(0, |m| m.cpus);
        let gap = html! {
            "since 00:00 UTC"
            @if node.gap_today_ms >= 1000 {
                ", " a href="/about#gap" { (duration(node.gap_today_ms)) " not known" }
            }
        };
        html! {
            section aria-label="this node now" {
                dl.headlines {
                    (headline("Power now", "now", &place("now"), &html! { "what counts, added up" }))
                    (headline("Idle", "idle", &place("idle"), &place("idle-share")))
                    (headline("Energy today", "today", &place("today"), &gap))
                    (headline("CPUs busy", "cpu", &place("cpu"), &html! { @if cpus > 0 { "of " (cpus) } }))
                }
            }
        }
    }

    fn zones(&self) -> Markup {
        html! {
            section #zones data-part {
                h2 { "Zones" }
                @if self.node.zones.is_empty() {
                    p.empty { "Nothing tells energy on this node yet. On the node: " code { "ebbtide-agent check" } }
                } @else {
                    table.figures {
                        thead {
                            tr {
                                th scope="col" { "zone" }
                                th.n scope="col" { "power" }
                                th.n scope="col" { "idle" }
                                th.n.mid scope="col" { "since boot" }
                                th scope="col" { "quality" }
                                th.mid scope="col" { "source" }
                                th.far scope="col" { "in the sum" }
                            }
                        }
                        tbody { @for zone in &self.node.zones { (zone_row(zone)) } }
                    }
                }
            }
        }
    }

    fn runs(&self, all: bool, window: &Window) -> Markup {
        let total = self.workloads.len();
        html! {
            section #runs data-part {
                h2 { "Workloads" }
                @if total == 0 {
                    p.empty { "No workload is known here." }
                } @else {
                    table.figures {
                        thead {
                            tr {
                                th scope="col" { "workload" }
                                th.n scope="col" { "power" }
                                th.n scope="col" { "idle share" }
                                th.n.mid scope="col" { "CPUs busy" }
                                th.mid scope="col" { "kind" }
                                th.far scope="col" { "labels" }
                            }
                        }
                        tbody { @for workload in self.rows(all) { (workload_row(workload)) } }
                    }
                }
                @if total > ROWS && !all {
                    p.note {
                        "The " (ROWS) " with the most power of " (plural(total as u64, "workload")) ". "
                        a href=(format!("{}?{}&all=1", node_href(&self.node.name), window.query())) { "Show all" }
                    }
                }
            }
        }
    }

    fn machine(&self) -> Markup {
        let node = &self.node;
        let machine = node.machine.clone().unwrap_or_default();
        let rows = [
            ("processor", machine.cpu_model),
            ("CPUs", format!("{} in {}", count(machine.cpus.into()), plural(machine.sockets.into(), "socket"))),
            ("architecture", machine.architecture),
            ("idle policy", machine.idle_policy),
            ("usage by", machine.usage_method),
            ("agent", node.agent_version.clone()),
            ("heard", format!("{} ({})", ago(node.last_ms, self.now_ms), crate::plot::day_and_time(node.last_ms))),
            ("from", node.address.clone()),
            ("boot", node.boot_id.clone()),
        ];
        html! {
            section #machine data-part {
                h2 { "Machine" }
                dl.facts {
                    @for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
                        dt { (name) } dd { (value) }
                    }
                }
            }
        }
    }
}

fn zone_row(row: &ZonePower) -> Markup {
    let zone = row.zone.clone().unwrap_or_default();
    let kind = ledger::kind(row).map_or("", |k| k.as_str());
    let word = ledger::zone_quality(row).map_or("not said", |q| q.as_str());
    let [w, idle, sum] = zone_cells(row).map(|(key, figure)| html! { (Live { key: &key, figure }) });
    html! {
        tr {
            th scope="row" title=(zone.id) { (zone.name) @if kind != zone.name { span.note { " " (kind) } } }
            td.n { (w) }
            td.n { (idle) }
            td.n.mid { (sum) }
            td { (word) " " span.note { (error(zone.error_ppm)) } }
            td.mid { (zone.source) }
            td.far { @if zone.counts { "yes" } @else { span.note { "no" } } }
        }
    }
}

fn workload_row(workload: &WorkloadPower) -> Markup {
    let kind = workload.id.split_once('/').map_or("", |(kind, _)| kind);
    let [w, idle, cpu] = workload_cells(workload).map(|(key, figure)| html! { (Live { key: &key, figure }) });
    html! {
        tr {
            th scope="row" title=(workload.id) { (name(workload)) }
            td.n { (w) }
            td.n { (idle) }
            td.n.mid { (cpu) }
            td.mid { (kind) }
            td.far.note { (labels(workload)) }
        }
    }
}

/// What people call a workload.
pub(super) fn name(workload: &WorkloadPower) -> &str {
    if workload.name.is_empty() { &workload.id } else { &workload.name }
}

/// Labels in one line.
pub(super) fn labels(workload: &WorkloadPower) -> String {
    let texts: Vec<String> = workload.labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
    texts.join(" ")
}
