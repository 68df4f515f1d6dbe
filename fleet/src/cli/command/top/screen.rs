//! The screen: takes keys, draws, and leaves the terminal as it was, whatever happens.

use std::time::Duration;

use crossterm::event::{self, Event};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Clear, Padding, Paragraph};
use ratatui::{DefaultTerminal, Frame};

use super::live::Live;
use super::seen::Seen;
use super::text::{head, spread, table};
use super::view::{Act, Sort, View};
use crate::cli::args::Kind;
use crate::cli::failure::{Exit, Failure, printable};
use crate::cli::table::{Look, Tint};

/// How long news or a signal may wait.
const GLANCE: Duration = Duration::from_millis(100);

/// Shows the fleet until the user leaves or a signal asks for the end.
pub(super) fn show(mut view: View, live: Live) -> Result<Exit, Failure> {
    let mut screen = Screen::open()?;
    let failed = |what: &str, e: std::io::Error| Failure::new(format!("can't {what} the terminal: {e}"));
    let mut drawn = None;
    while !live.stopped() {
        let (seen, version) = live.seen();
        if drawn != Some(version) {
            screen.0.draw(|frame| draw(frame, &seen, &mut view)).map_err(|e| failed("draw on", e))?;
            drawn = Some(version);
        }
        if !event::poll(GLANCE).map_err(|e| failed("read", e))? {
            continue;
        }
        match event::read().map_err(|e| failed("read", e))? {
            Event::Key(key) => match view.key(key) {
                Act::Quit => break,
                Act::Draw => {
                    live.want(view.by.map(Kind::wire));
                    drawn = None;
                }
                Act::Ignore => {}
            },
            Event::Resize(..) => drawn = None,
            _ => {}
        }
    }
    Ok(Exit::Ok)
}

/// The alternate screen in raw mode. Dropping it, or a panic, gives the terminal back.
struct Screen(DefaultTerminal);

impl Screen {
    fn open() -> Result<Self, Failure> {
        ratatui::try_init()
            .map(Self)
            .map_err(|e| Failure::new(format!("can't take over the terminal: {e}")).next("print it once with --once"))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Draws what `view` wants to see of `seen`, and notes in `view` how much of it has room.
pub(super) fn draw(frame: &mut Frame<'_>, seen: &Seen, view: &mut View) {
    let area = frame.area();
    let [top, middle, foot] =
        Layout::vertical([Constraint::Length(3), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let styles = [bold, style(Tint::Figure, view).add_modifier(Modifier::BOLD), Style::new()];
    for (((left, right), style), row) in head(seen, view).into_iter().zip(styles).zip(top.rows()) {
        let line = spread(&left, &right, usize::from(row.width));
        frame.render_widget(Paragraph::new(Line::styled(line, style)), row);
    }
    draw_table(frame, middle, seen, view);
    frame.render_widget(Paragraph::new(footer(seen, view, usize::from(area.width))), foot);
    if view.legend {
        draw_legend(frame, area);
    }
}

fn draw_table(frame: &mut Frame<'_>, area: Rect, seen: &Seen, view: &mut View) {
    let look = Look { width: Some(usize::from(area.width)), wide: false, colour: view.colour };
    let table = table(seen, view);
    let room = usize::from(area.height).saturating_sub(1);
    view.page = room.max(1);
    view.offset = view.offset.min(table.len().saturating_sub(room));
    let mut lines = table.lines(look).into_iter();
    let heads = lines.next().unwrap_or_default();
    let heads: String = heads.into_iter().map(|(text, _)| text).collect();
    let heads = format!("{heads:<width$}", width = usize::from(area.width));
    let mut shown = vec![Line::styled(heads, Style::new().add_modifier(Modifier::REVERSED))];
    shown.extend(lines.skip(view.offset).take(room).map(|line| {
        Line::from(line.into_iter().map(|(text, tint)| Span::styled(text, style(tint, view))).collect::<Vec<_>>())
    }));
    if table.is_empty() {
        shown.push(Line::from(empty(seen, view)));
    }
    frame.render_widget(Paragraph::new(Text::from(shown)), area);
}

/// Why there is no row.
fn empty(seen: &Seen, view: &View) -> &'static str {
    if !view.filter.is_empty() {
        " nothing has that in its name"
    } else if view.by.is_none() && seen.now_ms > 0 {
        " no node has joined yet: ebbtide token create --node NAME"
    } else if seen.by == view.by.map(Kind::wire) && seen.now_ms > 0 {
        " nothing of this kind is known; other keys show other kinds"
    } else {
        " …"
    }
}

fn style(tint: Tint, view: &View) -> Style {
    let colour = |colour| if view.colour { Style::new().fg(colour) } else { Style::new() };
    match tint {
        Tint::Plain => Style::new(),
        Tint::Figure | Tint::Doubtful => colour(Color::Yellow),
        Tint::Good => colour(Color::Green),
        Tint::Bad => colour(Color::Red),
        Tint::Quiet => Style::new().add_modifier(Modifier::DIM),
        Tint::Bold => Style::new().add_modifier(Modifier::BOLD),
    }
}

fn footer(seen: &Seen, view: &View, width: usize) -> Line<'static> {
    if view.typing || !view.filter.is_empty() {
        let cursor = if view.typing { "_" } else { "" };
        let keys = if view.typing { "Enter keeps · Esc clears" } else { "/ changes · Esc clears" };
        return Line::from(spread(&format!("/{}{cursor}", view.filter), keys, width));
    }
    if let Some(lost) = &seen.lost {
        return Line::styled(spread(&printable(lost), "q quit", width), style(Tint::Bad, view));
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
    let kinds = [
        ("n", None),
        ("a", Some(Kind::App)),
        ("s", Some(Kind::Namespace)),
        ("o", Some(Kind::Pod)),
        ("c", Some(Kind::Container)),
        ("u", Some(Kind::Unit)),
        ("v", Some(Kind::Vm)),
        ("U", Some(Kind::User)),
    ];
    for (key, by) in kinds {
        choice(key, view.by == by);
    }
    for (key, sort) in [("W", Sort::Watts), ("I", Sort::Idle), ("C", Sort::Cpu), ("N", Sort::Name)] {
        choice(key, view.sort == sort);
    }
    choice("r", view.reverse);
    spans.push(Span::raw("  / filter  ? keys  q quit"));
    Line::from(spans)
}

/// What marks and keys mean.
const LEGEND: &str = " 63.1 W   measured
~63.1 W   scaled or modelled: no sensor counted it
?63.1 W   stale: the last figure known
 –        not known

 W        mean power in the last interval
 W idle   of that, what is drawn when nothing runs
 CPU %    100 is one CPU all the time

 n        nodes
 a s      applications, namespaces
 o c      pods, containers
 u v U    units, VMs, users
 W I C N  sort by watts, idle watts, CPU, name; again or r: reverse
 / Esc    filter by name, clear         ↑ ↓ PgUp PgDn  scroll
 ?        close                         q  quit";

fn draw_legend(frame: &mut Frame<'_>, area: Rect) {
    let text = Text::raw(LEGEND);
    let width = u16::try_from(text.width()).unwrap_or(u16::MAX).saturating_add(4).min(area.width);
    let height = u16::try_from(text.height()).unwrap_or(u16::MAX).saturating_add(2).min(area.height);
    let box_area = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, box_area);
    let block = Block::bordered().title(" legend ").padding(Padding::horizontal(1));
    frame.render_widget(Paragraph::new(text).block(block), box_area);
}
