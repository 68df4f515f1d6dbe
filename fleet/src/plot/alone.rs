//! A plot as a file of its own, with its style in it: for reports and the CLI.

use maud::{Markup, html};

use super::figure::text;
use super::{Plot, STYLE};

/// Room around the plotting area and for letters, in pixels.
const LEFT: u32 = 60;
const RIGHT: u32 = 32;
const TOP: u32 = 44;
const LINE: u32 = 18;
/// Width of a time and the room around it.
const TIME: u32 = 84;
/// Width of a letter of the legend, about.
const LETTER: usize = 7;

impl Plot {
    /// The plot as an SVG document, `width` by `height` pixels (at least 200 by 120) and its legend below that.
    pub fn alone(&self, width: u32, height: u32) -> String {
        let (width, height) = (width.max(200), height.max(120));
        let rows = self.rows((width - LEFT - RIGHT) as usize);
        let below = 34 + LINE * u32::try_from(rows.len()).unwrap_or(0);
        let all = height.saturating_add(below);
        html! {
            svg xmlns="http://www.w3.org/2000/svg" class="plot alone" width=(width) height=(all)
                viewBox=(format!("0 0 {width} {all}")) role="img" {
                title { (self.title) }
                desc { (self.description()) }
                // Not escaped: it is ours, and a `>` in a style must stay one.
                style { (maud::PreEscaped(STYLE)) }
                rect class="ground" width="100%" height="100%" {}
                text class="title" x=(LEFT) y="18" { (self.title) }
                text class="note" x=(LEFT) y="34" {
                    (super::span_text(self.steps.from_ms, self.steps.until_ms()))
                }
                svg x=(LEFT) y=(TOP) width=(width - LEFT - RIGHT) height=(height - TOP) overflow="visible" {
                    (self.area(u64::from(width / TIME)))
                }
                @for (i, row) in rows.iter().enumerate() {
                    (self.row(row, height + 34 + LINE * u32::try_from(i).unwrap_or(0)))
                }
            }
        }
        .into_string()
    }

    /// Tracks by the rows of the legend that they fit in, each with its place.
    fn rows(&self, room: usize) -> Vec<Vec<(usize, usize)>> {
        let mut rows: Vec<Vec<(usize, usize)>> = Vec::new();
        let mut x = usize::MAX;
        for (i, track) in self.tracks.iter().enumerate() {
            let wide = 16 + LETTER * (track.name.chars().count() + 12);
            if x.saturating_add(wide) > room {
                rows.push(Vec::new());
                x = 0;
            }
            if let Some(row) = rows.last_mut() {
                row.push((i, x));
            }
            x = x.saturating_add(wide);
        }
        rows
    }

    fn row(&self, row: &[(usize, usize)], y: u32) -> Markup {
        html! {
            @for (track, x) in row.iter().filter_map(|(i, x)| Some((self.tracks.get(*i)?, *x))) {
                @let x = LEFT as usize + x;
                rect class={ "band " (track.colour.class()) } x=(x) y=(y - 9) width="10" height="10" {}
                text class="entry" x=(x + 16) y=(y) { (track.name) " " (text(track.mean(), track.mark())) }
            }
        }
    }
}
