//! Draws a picture. Knows nothing of terminals but their size; colour is never the only sign of anything.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as Cells, Table as Grid};

use ebbtide_proto::WorkloadKind;

use super::picture::Picture;
use super::rows::{Row, rows};
use super::text::{self, Column};
use super::view::{Level, Sort, View};

/// The rest of the table stays in sight if this many items have room above it.
const LEAST_ITEMS: usize = 3;

/// Draws what `view` wants to see of `picture`, and notes in `view` how much of it has room.
pub fn draw(frame: &mut Frame<'_>, picture: &Picture, view: &mut View) {
    let area = frame.area();
    let [head, table, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    draw_head(frame, head, picture, view);
    draw_table(frame, table, picture, view);
    frame.render_widget(Paragraph::new(footer(view, area.width)), foot);
    if view.legend {
        draw_legend(frame, area);
    }
}

fn draw_head(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &View) {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let lines = [
        (text::title(picture, view), text::clock(picture, view), bold),
        (text::power(picture), text::since_start(picture), tint(view, Color::Yellow).add_modifier(Modifier::BOLD)),
        (text::floor(picture), text::activity(picture), Style::new()),
    ];
    for ((left, right, style), row) in lines.into_iter().zip(area.rows()) {
        let line = spread(&left, &right, row.width);
        frame.render_widget(Paragraph::new(Line::styled(line, style)), row);
    }
}

/// `left` and, if there is room for it, `right` at the other end.
fn spread(left: &str, right: &str, width: u16) -> String {
    let (l, r) = (left.chars().count() + 1, right.chars().count() + 1);
    match usize::from(width).checked_sub(l + r) {
        Some(gap) if gap > 0 => format!(" {left}{:gap$}{right} ", ""),
        _ => format!(" {left}"),
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, picture: &Picture, view: &mut View) {
    let table = rows(picture, view);
    let room = usize::from(area.height).saturating_sub(1);
    let pinned = if table.rest.len() + LEAST_ITEMS <= room { table.rest.len() } else { 0 };
    let scrolled = room - pinned;
    let in_list = table.items.len() + if pinned == 0 { table.rest.len() } else { 0 };
    view.page = scrolled.max(1);
    view.offset = view.offset.min(in_list.saturating_sub(scrolled));
    let columns = text::columns(area.width);
    let mut lines: Vec<Cells<'_>> = Vec::with_capacity(room);
    let all = table.items.iter().map(|r| (r, false)).chain(table.rest.iter().map(|r| (r, true)));
    lines.extend(
        all.clone().take(in_list).skip(view.offset).take(scrolled).map(|(r, rest)| cells(r, rest, &columns, view)),
    );
    if pinned > 0 {
        // the rest sits right below a short list, and at the bottom below a long one
        lines.extend(table.rest.iter().map(|r| cells(r, true, &columns, view)));
    }
    let head = Cells::new(columns.iter().map(|(c, _)| aligned(c.head(view), *c)));
    let widths: Vec<Constraint> = columns.iter().map(|c| Constraint::Length(c.1)).collect();
    let grid =
        Grid::new(lines, widths).column_spacing(1).header(head.style(Style::new().add_modifier(Modifier::REVERSED)));
    frame.render_widget(grid, area);
}

fn aligned(text: String, column: Column) -> Cell<'static> {
    let line = Line::from(text);
    Cell::new(Text::from(if column.is_figure() { line.right_aligned() } else { line }))
}

fn cells(row: &Row, rest: bool, columns: &[(Column, u16)], view: &View) -> Cells<'static> {
    let style = match (row.ended, rest) {
        (true, _) => Style::new().add_modifier(Modifier::DIM),
        (_, true) => tint(view, Color::Cyan),
        _ => Style::new(),
    };
    Cells::new(columns.iter().map(|(c, width)| {
        let cell = aligned(text::fit(c.cell(row), *width), *c);
        if *c == Column::Watts && !row.ended { cell.style(tint(view, Color::Yellow)) } else { cell }
    }))
    .style(style)
}

fn tint(view: &View, colour: Color) -> Style {
    if view.colour { Style::new().fg(colour) } else { Style::new() }
}

fn footer(view: &View, width: u16) -> Line<'static> {
    if view.typing || !view.filter.is_empty() {
        let cursor = if view.typing { "_" } else { "" };
        let keys = if view.typing { "Enter keeps · Esc clears" } else { "/ changes · Esc clears" };
        return Line::from(spread(&format!("/{}{cursor}", view.filter), keys, width));
    }
    if width < 76 {
        return Line::from(" ? keys  q quit");
    }
    let mut spans = vec![Span::raw(" ")];
    let mut choice = |key: &str, on: bool| {
        let (text, style) = if on {
            (format!("[{key}]"), Style::new().add_modifier(Modifier::BOLD))
        } else {
            (format!(" {key} "), Style::new())
        };
        spans.push(Span::styled(text, style));
    };
    let group = |kind| view.level == Level::Groups(kind);
    choice("p", view.level == Level::Processes);
    choice("c", group(WorkloadKind::Container));
    choice("o", group(WorkloadKind::Pod));
    choice("u", group(WorkloadKind::Unit));
    choice("v", group(WorkloadKind::Vm));
    choice("s", group(WorkloadKind::Slice));
    choice("U", group(WorkloadKind::User));
    choice("t tree", view.level == Level::Tree);
    for (key, sort) in [("W", Sort::Watts), ("J", Sort::Joules), ("C", Sort::Cpu), ("N", Sort::Name)] {
        choice(key, view.sort == sort);
    }
    choice("r", view.reverse);
    spans.push(Span::raw("  / filter  ? keys  q quit"));
    Line::from(spans)
}

/// What marks and keys mean.
const LEGEND: &str = " 63.1 W   measured
~63.1 W   scaled or modelled: no sensor counted it
?63.1 W   stale: the sensor stopped answering
 –        not known

 W        mean power in the last interval
 W idle   of that, its share of idle power
 J        energy since it was first seen, then Wh, kWh
 CPU %    100 is one CPU all the time

 p c o    processes, containers, pods
 u v s U  units, VMs, slices, users     t  tree
 W J C N  sort by watts, joules, CPU, name; again or r: reverse
 / Esc    filter by name, clear         ↑ ↓ PgUp PgDn  scroll
 ?        close                         q  quit";

fn draw_legend(frame: &mut Frame<'_>, area: Rect) {
    let text = Text::raw(LEGEND);
    let width = u16::try_from(text.width()).unwrap_or(u16::MAX).saturating_add(4).min(area.width);
    let height = u16::try_from(text.height()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let box_area = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, box_area);
    let block = Block::bordered().title(" legend ").padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(text).block(block), box_area);
}
