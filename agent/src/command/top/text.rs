//! Figures as text: three digits and a unit, a mark for what isn't measured, `–` for what isn't known. Pure.

use crate::attribution::floor::FloorKind;
use crate::source::Quality;

use super::picture::{Figures, Picture};
use super::rows::Row;
use super::view::{Level, Sort, View};

/// Stands for what isn't known.
pub const UNKNOWN: &str = "–";

/// A column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    /// Who.
    Name,
    /// Mean power.
    Watts,
    /// Share of idle power.
    Idle,
    /// Energy so far.
    Joules,
    /// CPU time, 100 is one CPU.
    Cpu,
    /// What else is known.
    About,
}

/// The columns that fit into `width` characters, with their widths; one space is between two.
pub fn columns(width: u16) -> Vec<(Column, u16)> {
    use Column as C;
    // columns go in the order in which they can be missed
    let fixed: &[(Column, u16)] = match width {
        76.. => &[(C::Watts, 9), (C::Idle, 9), (C::Joules, 9), (C::Cpu, 6)],
        58.. => &[(C::Watts, 9), (C::Joules, 9), (C::Cpu, 6)],
        44.. => &[(C::Watts, 9), (C::Joules, 9)],
        _ => &[(C::Watts, 9)],
    };
    let taken: u16 = fixed.iter().map(|c| c.1 + 1).sum();
    let left = width.saturating_sub(taken);
    let about = if width >= 76 { left * 2 / 5 } else { 0 };
    let mut all = vec![(C::Name, left.saturating_sub(about + u16::from(about > 0)).max(4))];
    all.extend(fixed);
    if about > 0 {
        all.push((C::About, about));
    }
    all
}

impl Column {
    /// Whether its cells are figures.
    pub fn is_figure(self) -> bool {
        !matches!(self, Self::Name | Self::About)
    }

    /// Its head. The column that rows are sorted by has an arrow.
    pub fn head(self, view: &View) -> String {
        let (text, sorted) = match self {
            Self::Name => (view.level.title(), view.sort == Sort::Name),
            Self::Watts => ("W", view.sort == Sort::Watts),
            Self::Idle => ("W idle", false),
            Self::Joules => ("J", view.sort == Sort::Joules),
            Self::Cpu => ("CPU %", view.sort == Sort::Cpu),
            Self::About if view.level == Level::Processes => ("IN", false),
            Self::About => ("KIND", false),
        };
        // names rise, figures fall
        let arrow = if (self == Self::Name) == view.reverse { "▼" } else { "▲" };
        match (sorted, self.is_figure()) {
            (false, _) => text.to_owned(),
            (true, true) => format!("{arrow}{text}"),
            (true, false) => format!("{text} {arrow}"),
        }
    }

    /// The cell of `row`.
    pub fn cell(self, row: &Row) -> String {
        let f = &row.figures;
        match self {
            Self::Name => format!("{:1$}{name}", "", row.depth * 2, name = row.name),
            Self::Watts => marked(f.power, f.quality),
            Self::Idle => marked(f.idle_power, f.quality),
            Self::Joules => marked(f.energy, f.quality),
            Self::Cpu => cpu(f),
            Self::About => row.info.clone(),
        }
    }
}

/// `text` in `width` characters; the last one says if it was cut.
pub fn fit(text: String, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text;
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// A figure with the mark of its quality.
pub fn marked(figure: Option<impl ToString>, quality: Option<Quality>) -> String {
    match figure {
        Some(f) => format!("{}{}", quality.map_or("", Quality::mark), f.to_string()),
        None => UNKNOWN.to_owned(),
    }
}

fn cpu(f: &Figures) -> String {
    match f.cpus.map(|c| c * 100.0) {
        None => UNKNOWN.to_owned(),
        Some(0.0) => "0".to_owned(),
        Some(p) if p < 9.95 => format!("{p:.1}"),
        Some(p) => format!("{p:.0}"),
    }
}

/// First line: who measures, by what, how often.
pub fn title(picture: &Picture, view: &View) -> String {
    let node = &picture.now.node;
    let sockets = match node.sockets {
        1 => "1 socket".to_owned(),
        n => format!("{n} sockets"),
    };
    let sources: Vec<&str> = picture.sources.iter().map(|s| s.as_str()).collect();
    let sources = if sources.is_empty() { "no source".to_owned() } else { sources.join(" + ") };
    format!("ebbtide · {} · {sockets} · {sources} · every {}", node.name, period(view.every))
}

fn period(d: std::time::Duration) -> String {
    match d.as_millis() {
        ms if ms % 1000 == 0 => format!("{} s", ms / 1000),
        ms => format!("{ms} ms"),
    }
}

/// The time of the sample on the wall.
pub fn clock(picture: &Picture, view: &View) -> String {
    match jiff::Timestamp::from_nanosecond(i128::from(picture.now.at.wall)) {
        Ok(t) => t.to_zoned(view.zone.clone()).strftime("%H:%M:%S").to_string(),
        Err(_) => UNKNOWN.to_owned(),
    }
}

/// Second line: the node's power and what it is made of.
pub fn power(picture: &Picture) -> String {
    let node = &picture.node;
    let kinds = picture.by_kind();
    if kinds.is_empty() {
        return format!("node {UNKNOWN}  nothing tells energy here; ebbtide-agent check says why");
    }
    let mut parts: Vec<String> =
        kinds.into_iter().map(|(kind, p)| format!("{} {}", kind.as_str(), marked(p, None))).collect();
    if let Some((kind, watts, quality, rest)) = picture.platform() {
        parts.push(format!("rest {rest}"));
        return format!("{} {} = {}", kind.as_str(), marked(Some(watts), Some(quality)), parts.join(" + "));
    }
    let sum = marked(node.power, picture.now.quality());
    format!("node {sum} = {}", parts.join(" + "))
}

/// What the node used since the start.
pub fn since_start(picture: &Picture) -> String {
    format!("since start {}", marked(picture.node.energy, picture.node.quality))
}

/// Third line: what idling costs, and how good the figures are.
pub fn floor(picture: &Picture) -> String {
    let floor = match picture.floor {
        None if picture.node.power.is_some() => format!("{UNKNOWN} (learning)"),
        None => UNKNOWN.to_owned(),
        Some(f) => match f.kind {
            FloorKind::Set => format!("{} (set)", f.power),
            FloorKind::Learned => format!("{} (learned, ±{})", f.power, f.error),
            FloorKind::Prior => format!("{} (prior, ±{})", f.power, f.error),
        },
    };
    let Some(quality) = picture.now.quality() else { return format!("idle floor {floor}") };
    let error = picture.error.filter(|e| e.fraction() > 0.0).map(|e| format!(" ±{:.0} %", e.fraction() * 100.0));
    format!("idle floor {floor} · {}{}", quality.as_str(), error.unwrap_or_default())
}

/// End of the third line: what runs.
pub fn activity(picture: &Picture) -> String {
    let dt = picture.now.dt > std::time::Duration::ZERO;
    let cpu = if dt { format!("{:.0} %", picture.now.utilisation * 100.0) } else { UNKNOWN.to_owned() };
    format!("{} processes · CPU {cpu}", picture.processes())
}
