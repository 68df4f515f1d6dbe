//! Energy over time as a plot of power.

use ebbtide_proto::Power;
use ebbtide_proto::series::Component;
use ebbtide_proto::v1::{EnergyGroup, GroupBy, QueryEnergyRequest, QueryEnergyResponse};
use maud::{Markup, html};

use super::figures::{node_href, quality};
use super::window::Window;
use crate::plot::{Colour, Form, Plot, Steps, Track};

/// Rows of a plot that is shown as a table.
const ROWS: usize = 120;

/// What to ask the store for.
pub(super) fn request(window: &Window, by: GroupBy, limit: u32) -> QueryEnergyRequest {
    QueryEnergyRequest {
        from_ms: window.from_ms,
        until_ms: window.asked_until_ms(),
        step_ms: window.step_ms,
        by: by.into(),
        limit,
        ..QueryEnergyRequest::default()
    }
}

/// Power by node, each with a colour that doesn't depend on how much it draws.
pub(super) fn by_node(energy: &QueryEnergyResponse, window: &Window) -> Plot {
    let mut plot = plot("nodes", "Power by node", energy, window);
    for track in &mut plot.tracks {
        track.href = Some(node_href(&track.key));
    }
    push_other(&mut plot, energy, window);
    plot
}

/// Power by whatever workloads are told apart by.
pub(super) fn by_group(energy: &QueryEnergyResponse, window: &Window, title: String) -> Plot {
    let mut plot = plot("groups", "", energy, window);
    plot.title = title;
    push_other(&mut plot, energy, window);
    plot
}

/// Power of a node by component, in the order of its ledger.
pub(super) fn by_component(energy: &QueryEnergyResponse, window: &Window) -> Plot {
    let mut plot = plot("components", "Power by component", energy, window);
    let place = |track: &Track| Component::ALL.into_iter().position(|c| c.as_str() == track.key);
    plot.tracks.sort_by_key(|track| place(track).unwrap_or(usize::MAX));
    for track in &mut plot.tracks {
        track.colour = place(track).and_then(|i| Component::ALL.get(i).copied()).map_or(Colour::Other, Colour::from);
    }
    plot
}

/// The plot, or its figures in rows.
pub(super) fn shown(plot: &Plot, window: &Window, path: &str, rest: &str, as_table: bool, empty: Markup) -> Markup {
    let here = format!("{path}?{}{rest}", window.query());
    if as_table {
        return html! {
            section #(format!("plot-{}", plot.id)) data-part {
                h2 { (plot.title) }
                p.note {
                    "means of steps, the newest first"
                    @if plot.steps.count > ROWS { "; the last " (ROWS) " of " (plot.steps.count) }
                    " · " a href=(here) { "as a plot" }
                }
                div.wide-table tabindex="0" role="region" aria-label=(plot.title) { (plot.table(ROWS)) }
            }
        };
    }
    plot.figure(&crate::plot::Page { live: window.follows.is_some(), table: format!("{here}&view=table"), empty })
}

fn plot(id: &'static str, title: &str, energy: &QueryEnergyResponse, window: &Window) -> Plot {
    let steps = steps(energy, window);
    let mut tracks: Vec<Track> =
        energy.groups.iter().map(|group| track(group, Colour::Other, energy, window)).collect();
    // By name, so that a colour stays with its node or group while the order by energy changes.
    let mut order: Vec<usize> = (0..tracks.len()).collect();
    order.sort_by(|a, b| tracks.get(*a).map(|t| &t.key).cmp(&tracks.get(*b).map(|t| &t.key)));
    for (nth, i) in order.into_iter().enumerate() {
        if let Some(track) = tracks.get_mut(i) {
            track.colour = Colour::Nth(nth);
        }
    }
    Plot { id, title: title.to_owned(), form: Form::Stacked, steps, tracks }
}

fn push_other(plot: &mut Plot, energy: &QueryEnergyResponse, window: &Window) {
    if let Some(other) = &energy.other {
        let track = track(other, Colour::Other, energy, window);
        // No node or group has an empty name, so that this is taken for none of them.
        plot.tracks.push(Track { key: String::new(), name: "other".to_owned(), ..track });
    }
}

fn steps(energy: &QueryEnergyResponse, window: &Window) -> Steps {
    let count = (energy.buckets as usize).div_ceil(merge(window));
    Steps { from_ms: energy.from_ms, step_ms: energy.step_ms.saturating_mul(window.merge), count }
}

fn track(group: &EnergyGroup, colour: Colour, energy: &QueryEnergyResponse, window: &Window) -> Track {
    let count = energy.buckets as usize;
    let pairs: Vec<(u64, u64)> =
        group.energy_uj.iter().copied().zip(group.covered_ms.iter().copied()).take(count).collect();
    Track {
        key: group.name.clone(),
        name: group.name.clone(),
        colour,
        quality: quality(group.quality),
        href: None,
        values: pairs.chunks(merge(window)).map(mean).collect(),
    }
}

fn merge(window: &Window) -> usize {
    usize::try_from(window.merge).unwrap_or(1).max(1)
}

/// Mean power over the time of which energy is known.
fn mean(steps: &[(u64, u64)]) -> Option<Power> {
    let known = steps.iter().filter(|(_, ms)| *ms > 0);
    let (uj, ms) = known.fold((0u128, 0u128), |(e, t), (uj, ms)| (e + u128::from(*uj), t + u128::from(*ms)));
    // µJ per ms are milliwatts.
    (uj * 1000).checked_div(ms).map(|uw| Power::from_uw(u64::try_from(uw).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_over_what_is_known() {
        assert_eq!(mean(&[(5_000_000, 1000), (0, 0)]), Some(Power::from_uw(5_000_000)));
        assert_eq!(mean(&[(7, 0)]), None, "nothing is known, whatever the figure says");
        assert_eq!(mean(&[(u64::MAX, 1), (u64::MAX, 1)]), Some(Power::from_uw(u64::MAX)));
    }
}
