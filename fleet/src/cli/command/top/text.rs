//! The fleet as lines of text. Pure.

use std::cmp::Ordering;

use ebbtide_proto::series::Component;
use ebbtide_proto::v1;

use super::seen::Seen;
use super::view::{Sort, View};
use crate::cli::command::{counted, state_tint, today, workloads};
use crate::cli::failure::printable;
use crate::cli::figure::{UNKNOWN, ago, clock, count, cpu, energy, power};
use crate::cli::record::{quality, state};
use crate::cli::table::{Cell, Column, Look, Table, Tint, columns_of, fit};

/// What a row is sorted by.
struct Key<'a> {
    name: &'a str,
    power: Option<u64>,
    idle: Option<u64>,
    cpu: Option<u64>,
}

impl Key<'_> {
    /// The most first, the unknown last; names as in a dictionary.
    fn order(&self, other: &Self, view: &View) -> Ordering {
        let figures = match view.sort {
            Sort::Watts => other.power.cmp(&self.power),
            Sort::Idle => other.idle.cmp(&self.idle),
            Sort::Cpu => other.cpu.cmp(&self.cpu),
            Sort::Name => Ordering::Equal,
        };
        let order = figures.then_with(|| self.name.cmp(other.name));
        if view.reverse { order.reverse() } else { order }
    }
}

/// The three lines above the table, each with what stands at its other end.
pub(super) fn head(seen: &Seen, view: &View) -> [(String, String); 3] {
    let t = &seen.totals;
    let told = seen.now_ms > 0;
    let quality_now = seen.quality(t.quality);
    let mut states = vec![format!("{} live", t.live)];
    states.extend((t.stale > 0).then(|| format!("{} stale", t.stale)));
    states.extend((t.troubled > 0).then(|| format!("{} troubled", t.troubled)));
    let nodes = counted(t.nodes as usize, "node");
    let nodes = if told { format!("{nodes}, {}", states.join(", ")) } else { "waiting".to_owned() };
    let title = format!("ebbtide · {} · {nodes} · every {}", view.address, crate::cli::figure::span(view.every));
    let part = |c: &Component| {
        let found = t.components.iter().find(|p| p.component == c.as_str())?;
        Some(format!("{} {}", c.as_str(), power(Some(found.power_uw), 1)))
    };
    let parts: Vec<_> = Component::ALL.iter().filter_map(part).collect();
    let mut sum = format!("fleet {}", power(t.power_uw, quality_now));
    if !parts.is_empty() {
        sum.push_str(&format!(" = {}", parts.join(" + ")));
    }
    let today = energy((t.nodes > 0).then_some(t.today_uj), quality_now);
    let workloads = counted(t.workloads as usize, "workload");
    let mut third = vec![format!("idle {}", power(t.idle_uw, quality_now)), workloads];
    third.extend(Some(quality(quality_now)).filter(|q| !q.is_empty()));
    [
        (printable(&title), if told { clock(seen.now_ms, &view.zone) } else { UNKNOWN.to_owned() }),
        (printable(&sum), format!("today {today}")),
        (printable(&third.join(" · ")), curve(seen)),
    ]
}

/// The last totals as a curve, from nothing to the most.
fn curve(seen: &Seen) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const LENGTH: usize = 24;
    let shown = seen.curve.iter().skip(seen.curve.len().saturating_sub(LENGTH));
    let most = seen.curve.iter().flatten().max().copied().unwrap_or(0).max(1);
    shown
        .map(|uw| match uw {
            None => ' ',
            Some(uw) => {
                let level = u128::from(*uw) * (BARS.len() as u128 - 1) / u128::from(most);
                usize::try_from(level).ok().and_then(|level| BARS.get(level)).copied().unwrap_or('█')
            }
        })
        .collect()
}

/// `left` and, if there is room for it, `right` at the other end.
pub(super) fn spread(left: &str, right: &str, width: usize) -> String {
    let (l, r) = (columns_of(left) + 1, columns_of(right) + 1);
    match width.checked_sub(l + r) {
        Some(gap) if gap > 0 => format!(" {left}{:gap$}{right} ", ""),
        _ => fit(&format!(" {left}"), width),
    }
}

/// The rows that are wanted, in their order.
pub(super) fn table(seen: &Seen, view: &View) -> Table {
    let arrow = |sort: Sort, head: &str| {
        // names rise, figures fall
        let arrow = if (sort == Sort::Name) == view.reverse { "▼" } else { "▲" };
        match (view.sort == sort, sort) {
            (false, _) => head.to_owned(),
            (true, Sort::Name) => format!("{head} {arrow}"),
            (true, _) => format!("{arrow}{head}"),
        }
    };
    let mut table = match view.by {
        None => nodes(seen, view),
        Some(_) => of_workloads(seen, view),
    };
    table.set_head(0, &arrow(Sort::Name, view.by.map_or("NODE", |by| by.head())));
    table.set_head(2, &arrow(Sort::Watts, "W"));
    table.set_head(3, &arrow(Sort::Idle, "W idle"));
    table.set_head(4, &arrow(Sort::Cpu, "CPU %"));
    table
}

fn nodes(seen: &Seen, view: &View) -> Table {
    fn key(n: &v1::Node) -> Key<'_> {
        Key { name: &n.name, power: n.power_uw, idle: n.idle_uw, cpu: n.cpu_milli }
    }
    let mut nodes: Vec<_> =
        seen.nodes.values().filter(|n| view.wants(&[&n.name, &state(n.state), &n.trouble])).collect();
    nodes.sort_by(|a, b| key(a).order(&key(b), view));
    let mut columns = vec![
        Column::text("NODE").grows(),
        Column::text("STATE"),
        Column::figure("W").least(9),
        Column::figure("W idle").least(9).may_go(2),
        Column::figure("CPU %").least(6).may_go(3),
        Column::figure("TODAY").least(10).may_go(4),
    ];
    if nodes.iter().any(|n| !trouble(n, seen.now_ms).is_empty()) {
        columns.push(Column::text("TROUBLE").may_go(1));
    }
    let mut table = Table::new(&columns);
    for n in nodes {
        let quality = seen.quality(n.quality);
        table.row([
            Cell::from(&n.name),
            Cell::tinted(state(n.state), state_tint(n.state)),
            Cell::tinted(power(n.power_uw, quality), Tint::Figure),
            power(n.idle_uw, quality).into(),
            cpu(n.cpu_milli).into(),
            today(n, quality).into(),
            trouble(n, seen.now_ms).into(),
        ]);
    }
    table
}

/// What is wrong with a node, shortly.
fn trouble(node: &v1::Node, now_ms: u64) -> String {
    if !node.trouble.is_empty() {
        return node.trouble.clone();
    }
    match v1::NodeState::try_from(node.state) {
        Ok(v1::NodeState::Stale | v1::NodeState::Gone) if node.last_ms > 0 => {
            format!("heard {}", ago(node.last_ms, now_ms))
        }
        _ => String::new(),
    }
}

fn of_workloads(seen: &Seen, view: &View) -> Table {
    let head = view.by.map_or("WORKLOAD", |by| by.head());
    let mut table = Table::new(&[
        Column::text(head).grows(),
        Column::text("NODE").may_go(1),
        Column::figure("W").least(9),
        Column::figure("W idle").least(9).may_go(2),
        Column::figure("CPU %").least(6).may_go(3),
    ]);
    // what was told before another kind was asked for is no answer
    if seen.by != view.by.map(|by| by.wire()) {
        return table;
    }
    let places: Vec<_> = seen.workloads.iter().map(|w| (w, workloads::place(w))).collect();
    let mut rows: Vec<_> = places.iter().filter(|(w, place)| view.wants(&[workloads::name(w), place])).collect();
    fn key(w: &v1::WorkloadPower) -> Key<'_> {
        Key { name: workloads::name(w), power: w.power_uw, idle: w.idle_uw, cpu: w.cpu_milli }
    }
    rows.sort_by(|(a, _), (b, _)| key(a).order(&key(b), view));
    for (w, place) in rows {
        let quality = seen.quality(w.quality);
        table.row([
            Cell::from(workloads::name(w)),
            place.into(),
            Cell::tinted(power(w.power_uw, quality), Tint::Figure),
            power(w.idle_uw, quality).into(),
            cpu(w.cpu_milli).into(),
        ]);
    }
    table
}

/// All of it on paper, with at most so many rows.
pub(super) fn paper(seen: &Seen, view: &View, look: Look, most: usize) -> String {
    let lines = head(seen, view);
    let mut out = String::new();
    for (left, right) in [&lines[0], &lines[1]] {
        // a pipe has no other end
        out.push_str(&format!("{left} · {right}\n"));
    }
    out.push_str(&format!("{}\n\n", lines[2].0));
    let table = table(seen, view);
    let rendered = table.render(look);
    rendered.lines().take(most + 1).for_each(|line| {
        out.push_str(line);
        out.push('\n');
    });
    let more = table.len().saturating_sub(most);
    if more > 0 {
        out.push_str(&format!("{} more\n", count(more as u64)));
    }
    if table.is_empty() {
        out.push_str(match view.by {
            None => "no node has joined yet: ebbtide token create --node NAME\n",
            Some(_) => "nothing of this kind draws power that is known of\n",
        });
    }
    out
}
