//! A plot as part of a page: caption, area, and a legend that holds figures, those at the pointer or the means.

use ebbtide_proto::Power;
use maud::{Markup, html};

use super::{Form, Plot, Track};

/// What a page says around a plot.
#[derive(Clone, Debug)]
pub struct Page {
    /// Whether its end is now, so that what comes next is appended.
    pub live: bool,
    /// Where the same is shown as a table.
    pub table: String,
    /// What is shown in place of a plot without any value.
    pub empty: Markup,
}

impl Plot {
    /// The plot with all around it.
    pub fn figure(&self, page: &Page) -> Markup {
        html! {
            figure.plot id=(format!("plot-{}", self.id)) data-part data-form=(self.form.name())
                data-from=(self.steps.from_ms) data-step=(self.steps.step_ms) data-count=(self.steps.count)
                data-max=(self.top_mw()) data-live-plot=[page.live.then_some(self.id)] {
                figcaption {
                    h2 { (self.title) }
                    p.note {
                        span.span { (super::span_text(self.steps.from_ms, self.steps.until_ms())) }
                        " · means of " (step_text(self.steps.step_ms)) " · "
                        a href=(page.table) { "as a table" }
                    }
                }
                @if self.is_empty() {
                    div.empty { (page.empty) }
                } @else {
                    div.area tabindex="0" role="group"
                        aria-label=(format!("{}. Left and right tell values over time; with shift they select, enter zooms.", self.title)) {
                        svg.plot width="100%" height="100%" role="img" aria-label=(self.description()) {
                            (self.area(super::axis::LINES))
                        }
                    }
                    p.when data-rest="means of the range" role="status" { "means of the range" }
                    (self.legend())
                }
            }
        }
    }

    /// The values as a table, the newest first, at most `rows` of them.
    pub fn table(&self, rows: usize) -> Markup {
        html! {
            table.figures {
                thead {
                    tr {
                        th scope="col" { "from (UTC)" }
                        @if self.has_sum() { th.n scope="col" { "all" } }
                        @for track in &self.tracks { th.n scope="col" { (name(track)) } }
                    }
                }
                tbody {
                    @for i in (0..self.steps.count).rev().take(rows) {
                        tr {
                            th scope="row" { (super::day_and_time(self.steps.at_ms(i))) }
                            @if self.has_sum() { td.n { (text(self.sum_at(i), "")) } }
                            @for track in &self.tracks { td.n { (text(track.at(i), track.mark())) } }
                        }
                    }
                }
            }
        }
    }

    fn legend(&self) -> Markup {
        html! {
            ul.legend {
                @if self.has_sum() {
                    li data-sum { span.name { "all" } " " span.v { (text(self.mean(), "")) } }
                }
                // As they lie on top of each other.
                @for track in self.tracks.iter().rev() {
                    li data-key=(track.key) data-mark=(track.mark()) {
                        i.swatch.(track.colour.class()) {} " "
                        span.name { (name(track)) } " "
                        span.v title=[track.quality.map(|q| q.as_str())] { (text(track.mean(), track.mark())) }
                    }
                }
            }
        }
    }

    fn has_sum(&self) -> bool {
        self.form == Form::Stacked && self.tracks.len() > 1
    }
}

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Stacked => "stacked",
            Self::Lines => "lines",
        }
    }
}

impl Track {
    pub(super) fn mark(&self) -> &'static str {
        self.quality.map_or("", |q| q.mark())
    }
}

pub(super) fn text(power: Option<Power>, mark: &str) -> String {
    power.map_or_else(|| "–".to_owned(), |p| format!("{mark}{p}"))
}

fn name(track: &Track) -> Markup {
    html! {
        @match &track.href {
            Some(href) => a href=(href) { (track.name) },
            None => (track.name),
        }
    }
}

/// How long a step is, for people.
pub(super) fn step_text(ms: u64) -> String {
    match ms {
        _ if ms.is_multiple_of(86_400_000) && ms > 0 => format!("{} d", ms / 86_400_000),
        _ if ms.is_multiple_of(3_600_000) && ms > 0 => format!("{} h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) && ms > 0 => format!("{} min", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{} s", ms / 1000),
        _ => format!("{ms} ms"),
    }
}
