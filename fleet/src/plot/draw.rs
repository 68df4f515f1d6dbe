//! The drawing itself: the plotting area with its axes around it.
//!
//! Positions along the axes are percentages, so that an area fills whatever room it is given while letters keep their
//! size. Marks live in an inner viewport of one unit per step and a thousand units of height, stretched to the area.
//! Each step is drawn flat: the area below it is its energy.

use std::ops::Range;

use maud::{Markup, html};

use super::axis::{Watts, times};
use super::{Form, Plot, Steps, Track};

/// Steps at the end of which nothing is known yet, because figures take a while to arrive, are not shown as a gap.
const NOT_YET: usize = 2;

/// A time of which something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    /// Steps.
    pub steps: Range<usize>,
    /// Whether nothing is known at all, or only some tracks are missing between their own known values.
    pub all: bool,
}

impl Plot {
    /// What stands in the plotting area and hangs out of it to the left and below.
    ///
    /// `lines` is how many times of day there is room for.
    pub(super) fn area(&self, lines: u64) -> Markup {
        let axis = Watts::up_to(self.peak());
        let ticks = times(&self.steps, lines);
        let hatch = format!("hatch-{}", self.id);
        html! {
            defs {
                pattern id=(hatch) width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    line class="hatch" x1="0" y1="0" x2="0" y2="6" {}
                }
            }
            g class="gaps" {
                @for gap in self.gaps() {
                    (gap_mark(&gap, &self.steps, &hatch))
                }
            }
            svg class="marks" width="100%" height="100%" viewBox=(format!("0 0 {} 1000", self.steps.count.max(1)))
                preserveAspectRatio="none" {
                @for (track, path) in self.tracks.iter().zip(self.paths(&axis)) {
                    path class=(mark_class(self.form, track)) data-key=(track.key) data-v=(milliwatts(track, self.steps.count)) d=(path) {}
                }
            }
            g class="grid" {
                @for (uw, label) in &axis.ticks {
                    @let y = percent(axis.max - uw, axis.max);
                    line x1="0" x2="100%" y1=(y) y2=(y) {}
                    text class="y" x="-6" y=(y) dy="0.32em" { (label) }
                }
                line class="zero" x1="0" x2="100%" y1="100%" y2="100%" {}
                text class="y" x="-6" y="100%" dy="0.32em" { "0" }
                @for tick in &ticks {
                    @let part = u128::from(tick.ms.saturating_sub(self.steps.from_ms));
                    @let x = percent(part, u128::from(self.steps.length_ms()));
                    line class={ "t" @if !tick.major { " minor" } } data-t=(tick.ms) x1=(x) x2=(x) y1="0" y2="100%" {}
                    text class={ "x" @if !tick.major { " minor" } } data-t=(tick.ms) x=(x) y="100%" dy="1.5em" { (tick.label) }
                }
            }
        }
    }

    /// The upper end of the watt axis, in milliwatts.
    pub(super) fn top_mw(&self) -> u128 {
        (Watts::up_to(self.peak()).max / 1000).max(1)
    }

    /// What the plot says, in a sentence.
    pub(super) fn description(&self) -> String {
        let span = super::span_text(self.steps.from_ms, self.steps.until_ms());
        let names: Vec<&str> = self.tracks.iter().map(|t| t.name.as_str()).collect();
        match self.mean() {
            Some(mean) => format!("{span}; mean {mean}; {}", names.join(", ")),
            None => format!("{span}; nothing is known"),
        }
    }

    fn paths(&self, axis: &Watts) -> Vec<String> {
        let count = self.steps.count;
        let mut base = vec![0u128; count];
        let mut paths = Vec::with_capacity(self.tracks.len());
        for track in &self.tracks {
            let mut path = String::new();
            for run in known(track, count) {
                let tops: Vec<u128> = run
                    .clone()
                    .map(|i| base.get(i).copied().unwrap_or(0) + u128::from(track.at(i).map_or(0, |p| p.uw())))
                    .collect();
                match self.form {
                    Form::Stacked => {
                        let bottoms = base.get(run.clone()).unwrap_or(&[]);
                        band(&mut path, run.start, &tops, bottoms, axis);
                    }
                    Form::Lines => line(&mut path, run.start, &tops, axis),
                }
                if self.form == Form::Stacked {
                    for (slot, top) in base.iter_mut().skip(run.start).zip(tops) {
                        *slot = top;
                    }
                }
            }
            paths.push(path);
        }
        paths
    }

    pub(super) fn gaps(&self) -> Vec<Gap> {
        let count = self.steps.count;
        // Where each track is known for the first and the last time: before and after, it may not have existed.
        let lives: Vec<Range<usize>> = self
            .tracks
            .iter()
            .map(|t| {
                let known = |i: &usize| t.at(*i).is_some();
                (0..count).find(known).unwrap_or(count)..(0..count).rfind(known).unwrap_or(0)
            })
            .collect();
        let kind = |i: usize| {
            if self.sum_at(i).is_none() {
                return Some(true);
            }
            let missing = self.tracks.iter().zip(&lives).any(|(t, life)| life.contains(&i) && t.at(i).is_none());
            missing.then_some(false)
        };
        let mut gaps: Vec<Gap> = Vec::new();
        for i in 0..count {
            let Some(all) = kind(i) else { continue };
            match gaps.last_mut() {
                Some(last) if last.all == all && last.steps.end == i => last.steps.end = i + 1,
                _ => gaps.push(Gap { steps: i..i + 1, all }),
            }
        }
        gaps.retain(|g| !(g.all && g.steps.end == count && g.steps.len() <= NOT_YET && g.steps.start > 0));
        gaps
    }
}

fn gap_mark(gap: &Gap, steps: &Steps, hatch: &str) -> Markup {
    let count = steps.count as u128;
    let (x, width) = (percent(gap.steps.start as u128, count), percent(gap.steps.len() as u128, count));
    let span = super::span_text(steps.at_ms(gap.steps.start), steps.at_ms(gap.steps.end));
    html! {
        @if gap.all {
            rect class="gap" x=(x) width=(width) y="0" height="100%" fill=(format!("url(#{hatch})")) {
                title { "nothing is known, " (span) }
            }
        } @else {
            rect class="gap some" x=(x) width=(width) y="0" height="6" fill=(format!("url(#{hatch})")) {
                title { "not all is known, " (span) }
            }
        }
    }
}

fn mark_class(form: Form, track: &Track) -> String {
    let form = match form {
        Form::Stacked => "band",
        Form::Lines => "line",
    };
    format!("{form} {}", track.colour.class())
}

/// Steps in a row at which a track is known.
fn known(track: &Track, count: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for i in (0..count).filter(|i| track.at(*i).is_some()) {
        match runs.last_mut() {
            Some(run) if run.end == i => run.end = i + 1,
            _ => runs.push(i..i + 1),
        }
    }
    runs
}

fn band(path: &mut String, start: usize, tops: &[u128], bottoms: &[u128], axis: &Watts) {
    let y = |uw: &u128| 1000 - axis.permille(*uw);
    let mut x = start;
    put(path, format_args!("M{x} {}", bottoms.first().map_or(1000, y)));
    for top in tops {
        x += 1;
        put(path, format_args!("V{}H{x}", y(top)));
    }
    for bottom in bottoms.iter().rev() {
        x = x.saturating_sub(1);
        put(path, format_args!("V{}H{x}", y(bottom)));
    }
    path.push('Z');
}

fn line(path: &mut String, start: usize, tops: &[u128], axis: &Watts) {
    for (i, top) in tops.iter().enumerate() {
        let y = 1000 - axis.permille(*top);
        let (from, to) = (start + i, start + i + 1);
        if i == 0 {
            put(path, format_args!("M{from} {y}H{to}"));
        } else {
            put(path, format_args!("V{y}H{to}"));
        }
    }
}

/// Values in milliwatts with commas between them; nothing where nothing is known.
fn milliwatts(track: &Track, count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        if i > 0 {
            text.push(',');
        }
        if let Some(power) = track.at(i) {
            put(&mut text, format_args!("{}", power.uw().saturating_add(500) / 1000));
        }
    }
    text
}

/// `part` of `whole` as a length: percent with two decimals.
pub fn percent(part: u128, whole: u128) -> String {
    let hundredths = part.saturating_mul(10_000) / whole.max(1);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.push_str(&std::fmt::format(what));
}
