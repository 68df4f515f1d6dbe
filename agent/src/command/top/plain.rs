//! The table on paper: `top --once`. Pure.

use super::picture::Picture;
use super::rows::{Row, rows};
use super::text::{self, Column};
use super::view::View;

/// Items that are printed.
const MOST: usize = 20;

/// The node, its first items and the rest, `width` characters wide.
pub fn table(picture: &Picture, view: &View, width: u16) -> String {
    let mut table = rows(picture, view);
    let more = table.items.len().saturating_sub(MOST);
    let mut lines = vec![
        text::title(picture, view),
        text::power(picture),
        text::floor(picture),
        text::activity(picture),
        String::new(),
    ];
    let columns = text::columns(width);
    lines.push(line(&columns, |c| c.head(view)));
    let left_out = table.items.split_off(table.items.len() - more);
    let mut last = table.rest;
    if more > 0 {
        // in a tree only what stands at the top may be summed
        let sum = left_out.iter().filter(|r| r.depth == 0).map(|r| r.figures).reduce(|a, b| a.with(&b));
        let row = Row {
            name: format!("{more} more"),
            info: String::new(),
            depth: 0,
            figures: sum.unwrap_or_default(),
            ended: false,
        };
        last.insert(0, row);
    }
    let node = Row { name: "node".into(), info: String::new(), depth: 0, figures: picture.node, ended: false };
    lines.extend(table.items.iter().chain(&last).chain([&node]).map(|row| line(&columns, |c| c.cell(row))));
    lines.iter().map(|l| format!("{}\n", l.trim_end())).collect()
}

fn line(columns: &[(Column, u16)], cell: impl Fn(Column) -> String) -> String {
    let cells = columns.iter().map(|&(c, width)| {
        let text = text::fit(cell(c), width);
        let width = usize::from(width);
        if c.is_figure() { format!("{text:>width$}") } else { format!("{text:<width$}") }
    });
    cells.collect::<Vec<_>>().join(" ")
}
