//! What runs, over all nodes: search, and sums by namespace, application, user, …

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use ebbtide_proto::v1::{
    EnergyGroup, GroupBy, ListWorkloadsRequest, ListWorkloadsResponse, QueryEnergyRequest, QueryEnergyResponse,
    WorkloadPower,
};
use maud::{Markup, html};

use super::figures::{Figure, count, cpus, energy, escaped, node_href, plural, power, quality, share};
use super::http::Failure;
use super::node::{labels, name};
use super::page::Page;
use super::window::{Asked, Window};
use super::{Shared, fleet, history};
use crate::plot::{Colour, Plot};
use crate::query::{Queries, QueryError};

/// Rows of the table unless all are asked for, and then.
const ROWS: u32 = 200;
const ALL: u32 = 5000;
/// The longest text to search for, in bytes.
const LONGEST: usize = 200;

/// By what workloads can be told apart: in the URL, on the wire, for people, and where such come from.
type By = (&'static str, GroupBy, &'static str, &'static str);

static BY: [By; 7] = [
    ("app", GroupBy::App, "application", "An application is a pod's label app, or the name of a unit."),
    ("namespace", GroupBy::Namespace, "namespace", "Namespaces come with pods of Kubernetes."),
    ("pod", GroupBy::Pod, "pod", "Pods are those of Kubernetes; agents name them if they may ask the kubelet."),
    ("container", GroupBy::Container, "container", "Containers of Kubernetes, podman, docker and their like."),
    ("unit", GroupBy::Unit, "unit", "Units are those of systemd."),
    ("vm", GroupBy::Vm, "virtual machine", "Virtual machines are those of libvirt and qemu."),
    ("user", GroupBy::User, "user", "Users are who logged in."),
];

/// All that the page shows.
struct Workloads {
    by: &'static By,
    search: String,
    now: ListWorkloadsResponse,
    energy: Result<QueryEnergyResponse, QueryError>,
    all: bool,
}

/// A group: what it draws now and what it used in the range. One of both may be missing.
struct Row<'a> {
    now: Option<&'a WorkloadPower>,
    used: Option<&'a EnergyGroup>,
}

pub(super) async fn get(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Response {
    let version = shared.dashboard.version;
    match page(&shared, &asked).await {
        Ok(page) => page.answer(version, StatusCode::OK),
        Err(failure) => failure.answer(version),
    }
}

async fn page(shared: &Shared, asked: &Asked) -> Result<Page, Failure> {
    let window = Window::of(asked, shared.now()).map_err(Failure::Asked)?;
    let wanted = match &asked.by {
        None => None,
        Some(wanted) => {
            let known = || BY.map(|by| by.0).join(", ");
            let none = || Failure::Asked(format!("by {wanted:?} is none of {}", known()));
            Some(BY.iter().find(|by| by.0 == wanted).ok_or_else(none)?)
        }
    };
    let search = asked.q.clone().unwrap_or_default().trim().to_owned();
    if search.len() > LONGEST {
        return Err(Failure::Asked(format!("search for {LONGEST} bytes at most")));
    }
    let all = asked.all.is_some();
    let limit = if all { ALL } else { ROWS };
    let range = window.clone();
    let ask = move |queries: &dyn Queries| {
        let by = wanted.unwrap_or_else(|| first_with_any(queries));
        let list = ListWorkloadsRequest { by: by.1.into(), search: search.clone(), limit, ..Default::default() };
        let request = QueryEnergyRequest { search: search.clone(), ..history::request(&range, by.1, limit) };
        Ok(Workloads { by, search, now: queries.workloads(&list)?, energy: queries.energy(&request), all })
    };
    let workloads = shared.ask(ask).await?;
    Ok(Page::still("Workloads", "/workloads", workloads.content(&window, asked.view.as_deref() == Some("table"))))
}

/// What to show if nobody said: the first grouping that there is on these nodes.
fn first_with_any(queries: &dyn Queries) -> &'static By {
    let any = |by: &&By| {
        let list = ListWorkloadsRequest { by: by.1.into(), limit: 1, ..Default::default() };
        queries.workloads(&list).is_ok_and(|found| !found.workloads.is_empty())
    };
    let [first, ..] = &BY;
    BY.iter().find(any).unwrap_or(first)
}

impl Workloads {
    fn content(&self, window: &Window, as_table: bool) -> Markup {
        html! {
            h1 { "Workloads" }
            (self.form(window))
            section {
                (window.picker("/workloads", &self.rest(if as_table { "&view=table" } else { "" })))
                @match &self.energy {
                    Ok(energy) => (history::shown(&self.plot(energy, window), window, "/workloads", &self.rest(""), as_table,
                        html! { "Nothing is known of this time." })),
                    Err(error) => (fleet::no_plot(error.clone())),
                }
            }
            (self.table(window))
        }
    }

    /// What stands in the URL besides the range.
    fn rest(&self, more: &str) -> String {
        let search = if self.search.is_empty() { String::new() } else { format!("&q={}", escaped(&self.search)) };
        format!("&by={}{search}{more}", self.by.0)
    }

    fn form(&self, window: &Window) -> Markup {
        html! {
            nav.tabs aria-label="by" {
                @for (word, _, name, _) in &BY {
                    @let search = if self.search.is_empty() { String::new() } else { format!("&q={}", escaped(&self.search)) };
                    a href=(format!("/workloads?{}&by={word}{search}", window.query()))
                        aria-current=[(*word == self.by.0).then_some("true")] { (name) }
                }
            }
            form.search role="search" action="/workloads" {
                input type="hidden" name="by" value=(self.by.0);
                @match window.follows {
                    Some(range) => input type="hidden" name="range" value=(range);,
                    None => {
                        input type="hidden" name="from" value=(window.from_ms);
                        input type="hidden" name="until" value=(window.until_ms);
                    }
                }
                label for="q" { "Search" } " "
                input #q type="search" name="q" value=(self.search) maxlength=(LONGEST) placeholder="name, id or label";
                button { "Search" }
                @if !self.search.is_empty() {
                    a href=(format!("/workloads?{}&by={}", window.query(), self.by.0)) { "clear" }
                }
            }
        }
    }

    /// The groups with the most energy; the rest as one.
    fn plot(&self, energy: &QueryEnergyResponse, window: &Window) -> Plot {
        let mut few = energy.clone();
        let rest = few.groups.split_off(few.groups.len().min(Colour::NTH));
        few.other = rest.into_iter().chain(few.other.take()).reduce(add);
        history::by_group(&few, window, format!("Power by {}", self.by.2))
    }

    /// By power now, then those that only used something in the range, by energy.
    fn rows(&self) -> Vec<Row<'_>> {
        let groups = self.energy.as_ref().map_or(&[][..], |e| &e.groups);
        let mut used: HashMap<&str, &EnergyGroup> = groups.iter().map(|g| (g.name.as_str(), g)).collect();
        let mut rows: Vec<Row<'_>> = Vec::new();
        for now in &self.now.workloads {
            let used = used.remove(now.id.as_str()).or_else(|| used.remove(now.name.as_str()));
            rows.push(Row { now: Some(now), used });
        }
        let ended = groups.iter().filter(|g| used.contains_key(g.name.as_str()));
        rows.extend(ended.map(|group| Row { now: None, used: Some(group) }));
        rows
    }

    fn table(&self, window: &Window) -> Markup {
        let rows = self.rows();
        let other = self.energy.as_ref().ok().and_then(|e| e.other.as_ref());
        let all_uj = self
            .energy
            .as_ref()
            .ok()
            .map(|e| e.groups.iter().chain(&e.other).fold(0u64, |sum, g| sum.saturating_add(g.total_uj)));
        html! {
            section {
                h2 { "By " (self.by.2) }
                @if rows.is_empty() {
                    (self.nothing(window))
                } @else {
                    table.figures {
                        thead {
                            tr {
                                th scope="col" { (self.by.2) }
                                th.n scope="col" { "power now" }
                                th.n.mid scope="col" { "idle share" }
                                th.n.mid scope="col" { "CPUs busy" }
                                th.n scope="col" { "energy" }
                                th.n.mid scope="col" { "share" }
                                th.mid scope="col" { "on" }
                                th.far scope="col" { "labels" }
                            }
                        }
                        tbody {
                            @for row in &rows { (row.show(all_uj)) }
                            @if let Some(other) = other {
                                tr {
                                    th scope="row" { span.note { "all others" } }
                                    td.n {} td.n.mid {} td.n.mid {}
                                    td.n { (energy(Some(other.total_uj), quality(other.quality))) }
                                    td.n.mid { (share(Some(other.total_uj), all_uj)) }
                                    td.mid {} td.far {}
                                }
                            }
                        }
                    }
                }
                @if !self.all && self.now.total > ROWS {
                    p.note {
                        "The " (ROWS) " with the most power of " (count(self.now.total.into())) ". "
                        a href=(format!("/workloads?{}{}&all=1", window.query(), self.rest(""))) { "Show all" }
                    }
                }
            }
        }
    }

    fn nothing(&self, window: &Window) -> Markup {
        html! {
            div.empty {
                @if self.search.is_empty() {
                    p { "No " (self.by.2) " is known in this time. " (self.by.3) }
                    p { "Try another grouping above, or see what an agent finds: " code { "ebbtide-agent top" } }
                } @else {
                    p { "No " (self.by.2) " has " q { (self.search) } " in its name, id or labels. "
                        a href=(format!("/workloads?{}&by={}", window.query(), self.by.0)) { "Show all of them" } }
                }
            }
        }
    }
}

impl Row<'_> {
    fn show(&self, all_uj: Option<u64>) -> Markup {
        let grade = self.now.and_then(|now| quality(now.quality));
        let title = self.now.map_or_else(|| self.used.map_or("", |u| u.name.as_str()), name);
        let members = self.now.map_or(0, |now| now.members);
        let used_uj = self.used.map(|used| used.total_uj);
        let cpu = cpus(self.now.and_then(|now| now.cpu_milli), grade);
        let at = |figure: fn(&WorkloadPower) -> Option<u64>| -> Figure { power(self.now.and_then(figure), grade) };
        html! {
            tr {
                th scope="row" title=[self.now.filter(|now| now.members <= 1).map(|now| now.id.as_str())] {
                    (title)
                    @if members > 1 { span.note { " ×" (count(members.into())) } }
                    @if self.now.is_none() { span.note { " ended" } }
                }
                td.n { (at(|now| now.power_uw)) }
                td.n.mid { (at(|now| now.idle_uw)) }
                td.n.mid { (cpu) }
                td.n { (energy(used_uj, self.used.and_then(|used| quality(used.quality)))) }
                td.n.mid { (share(used_uj, all_uj)) }
                td.mid {
                    @if let Some(now) = self.now {
                        @if now.node.is_empty() { (plural(now.nodes.into(), "node")) }
                        @else { a href=(node_href(&now.node)) { (now.node) } }
                    }
                }
                td.far.note { @if let Some(now) = self.now { (labels(now)) } }
            }
        }
    }
}

/// Both together. What is known of either is known of the sum.
fn add(mut a: EnergyGroup, b: EnergyGroup) -> EnergyGroup {
    a.total_uj = a.total_uj.saturating_add(b.total_uj);
    for (sum, more) in a.energy_uj.iter_mut().zip(&b.energy_uj) {
        *sum = sum.saturating_add(*more);
    }
    for (known, more) in a.covered_ms.iter_mut().zip(&b.covered_ms) {
        *known = (*known).max(*more);
    }
    a.quality = a.quality.max(b.quality);
    a
}
