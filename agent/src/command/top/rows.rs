//! The lines of the table: who, how much, and what is left, so that they add up to the node. Pure.

use std::cmp::Ordering;
use std::collections::HashMap;

use ebbtide_proto::{Energy, WorkloadId, WorkloadKind};

use crate::snapshot::{GroupRow, TaskRow};
use crate::usage::table::TaskClass;

use super::picture::{Figures, Picture};
use super::view::{Level, Sort, View};

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Who.
    pub name: String,
    /// What else is known of it.
    pub info: String,
    /// How deep it lies in the tree; 0 outside of trees.
    pub depth: usize,
    /// How much.
    pub figures: Figures,
    /// It is gone; the line stays until it expires.
    pub ended: bool,
}

/// The table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Who has a name, in the order asked for.
    pub items: Vec<Row>,
    /// Everything else. The items of depth 0 and these add up to the node.
    pub rest: Vec<Row>,
    /// Items that the filter left out.
    pub hidden: usize,
}

/// The lines of `picture` as `view` wants them.
pub fn rows(picture: &Picture, view: &View) -> Table {
    let names = Names::of(picture);
    let nodes = match view.level {
        Level::Processes => picture.tasks().map(|(t, f)| names.process(t, f)).collect(),
        Level::Groups(kind) => picture.groups_of(kind).map(|(g, f)| names.group(g, f)).collect(),
        Level::Tree => names.tree(picture),
    };
    let top = nodes.iter().filter(|n: &&Node| n.parent.is_none());
    let sum = top.fold(Figures::default(), |sum, n| sum.with(&n.row.figures));
    let total = nodes.len();
    let (items, shown) = arrange(nodes, view);
    let filtered = (view.level != Level::Tree).then(|| sum.without(&shown));
    let hidden = total - items.len();
    let mut rest = Vec::new();
    if let Some(figures) = filtered.filter(|_| hidden > 0) {
        rest.push(line("filtered out", format!("{hidden} rows"), figures));
    }
    rest.extend(leftovers(picture, view.level, &sum));
    Table { items, rest, hidden }
}

/// A line and the line it belongs below.
struct Node {
    row: Row,
    parent: Option<usize>,
}

fn line(name: impl Into<String>, info: impl Into<String>, figures: Figures) -> Row {
    Row { name: name.into(), info: info.into(), depth: 0, figures, ended: false }
}

/// What is left of the node beside items that have `sum` together.
fn leftovers(picture: &Picture, level: Level, sum: &Figures) -> Vec<Row> {
    let mut rest = Vec::new();
    let users = picture.tasks().fold(picture.ended, |sum, (_, f)| sum.with(f));
    let other = users.without(sum);
    if other.is_something() {
        let (name, info) = match level {
            Level::Processes | Level::Tree => ("ended earlier", String::new()),
            Level::Groups(kind) => ("elsewhere", format!("in no {kind} here")),
        };
        rest.push(line(name, info, other));
    }
    rest.push(line("kernel", "threads", picture.kernel));
    if picture.interrupts.is_something() {
        rest.push(line("interrupts", "", picture.interrupts));
    }
    if picture.unseen.is_something() {
        rest.push(line("unseen", "owner not seen", picture.unseen));
    }
    rest.push(line("idle", picture.now.node.idle_policy.as_str(), picture.idle));
    if picture.residual.energy.is_some_and(|e| e > Energy::ZERO) {
        rest.push(line("residual", "nobody found", picture.residual));
    }
    rest
}

impl Picture {
    /// Tasks of user space with their figures.
    fn tasks(&self) -> impl Iterator<Item = (&TaskRow, &Figures)> {
        let user = |(t, _): &(&TaskRow, &Figures)| matches!(t.class, TaskClass::Process | TaskClass::EndedChildren);
        self.now.tasks.rows.iter().zip(&self.tasks).filter(user)
    }

    fn groups_of(&self, kind: WorkloadKind) -> impl Iterator<Item = (&GroupRow, &Figures)> {
        self.now.groups.rows.iter().zip(&self.groups).filter(move |(g, _)| g.id.kind() == kind)
    }
}

/// Names of workloads.
struct Names<'a>(HashMap<&'a WorkloadId, &'a GroupRow>);

impl<'a> Names<'a> {
    fn of(picture: &'a Picture) -> Self {
        Self(picture.now.groups.rows.iter().map(|g| (&g.id, g)).collect())
    }

    fn process(&self, t: &TaskRow, figures: &Figures) -> Node {
        // who is in nothing else still is some user's
        let within = home(t).or(t.labels.workloads.first()).and_then(|id| self.0.get(id)).map(|g| name(g));
        let mut info = within.unwrap_or_default();
        if t.class == TaskClass::EndedChildren {
            info = join(&["short-lived", &info]);
        } else if t.ended {
            info = join(&["ended", &info]);
        }
        let row = Row {
            name: clean(&format!("{:>7} {}", t.labels.pid, t.labels.comm)),
            info: clean(&info),
            depth: 0,
            figures: *figures,
            ended: t.ended,
        };
        Node { row, parent: None }
    }

    fn group(&self, g: &GroupRow, figures: &Figures) -> Node {
        let about: &[&str] = match g.id.kind() {
            WorkloadKind::Container => &["pod", "runtime"],
            WorkloadKind::Pod => &["qos"],
            WorkloadKind::Unit => &["slice"],
            WorkloadKind::Vm => &["hypervisor"],
            _ => &[],
        };
        let about: Vec<&str> = about.iter().filter_map(|l| label(g, l)).collect();
        let tasks = match g.tasks {
            0 => String::new(),
            1 => "1 process".to_owned(),
            n => format!("{n} processes"),
        };
        let mut info = if about.is_empty() { tasks } else { join(&about) };
        if g.ended {
            info = join(&["ended", &info]);
        }
        let row = Row { name: clean(&name(g)), info: clean(&info), depth: 0, figures: *figures, ended: g.ended };
        Node { row, parent: None }
    }

    /// Pods, containers, slices, units, VMs, and the processes in them. What is in nothing stands at the top.
    fn tree(&self, picture: &Picture) -> Vec<Node> {
        use WorkloadKind as K;
        let mut at: HashMap<&WorkloadId, usize> = HashMap::new();
        let mut nodes = Vec::new();
        for kind in [K::Pod, K::Slice, K::Container, K::Unit, K::Vm] {
            for (g, figures) in picture.groups_of(kind) {
                let above = match kind {
                    K::Container => label(g, "pod_id").map(|id| (K::Pod, id)),
                    K::Unit => label(g, "slice").map(|name| (K::Slice, name)),
                    _ => None,
                };
                let above = above.and_then(|(kind, id)| WorkloadId::new(kind, id).ok());
                let parent = above.and_then(|id| at.get(&id).copied());
                let mut node = Node { parent, ..self.group(g, figures) };
                node.row.name = format!("{kind} {}", node.row.name);
                at.insert(&g.id, nodes.len());
                nodes.push(node);
            }
        }
        for (t, figures) in picture.tasks() {
            let parent = home(t).and_then(|id| at.get(id).copied());
            let mut node = Node { parent, ..self.process(t, figures) };
            node.row.name = node.row.name.trim_start().to_owned();
            if parent.is_some() {
                // the line above says where
                node.row.info = match t.class {
                    TaskClass::EndedChildren => "short-lived".to_owned(),
                    _ if t.ended => "ended".to_owned(),
                    _ => String::new(),
                };
            }
            nodes.push(node);
        }
        nodes
    }
}

/// The innermost workload that a task is in, its user aside.
fn home(t: &TaskRow) -> Option<&WorkloadId> {
    t.labels.workloads.iter().find(|id| !matches!(id.kind(), WorkloadKind::User | WorkloadKind::Namespace))
}

fn label<'a>(g: &'a GroupRow, name: &str) -> Option<&'a str> {
    g.labels.iter().find(|l| l.0 == name).map(|l| l.1.as_str()).filter(|v| !v.is_empty())
}

fn name(g: &GroupRow) -> String {
    let own = label(g, "name").unwrap_or(g.id.name());
    match g.id.kind() {
        WorkloadKind::Pod => label(g, "namespace").map_or_else(|| own.to_owned(), |ns| format!("{ns}/{own}")),
        WorkloadKind::User => format!("uid {}", g.id.name()),
        // the units of users have their user in the id only
        WorkloadKind::Unit => g.id.name().to_owned(),
        _ => own.to_owned(),
    }
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|p| !p.is_empty()).copied().collect::<Vec<_>>().join(" · ")
}

/// Names are whatever their owner chose, and must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// Sorts, filters and flattens; the second is the sum of the items of depth 0 that are shown.
fn arrange(nodes: Vec<Node>, view: &View) -> (Vec<Row>, Figures) {
    let wanted = wanted(&nodes, view);
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    let mut top = Vec::new();
    for (i, node) in nodes.iter().enumerate().filter(|(i, _)| wanted.get(*i) == Some(&true)) {
        match node.parent.and_then(|p| below.get_mut(p)) {
            Some(list) => list.push(i),
            None => top.push(i),
        }
    }
    let order = |a: &usize, b: &usize| match (nodes.get(*a), nodes.get(*b)) {
        (Some(a), Some(b)) => compare(&a.row, &b.row, view),
        _ => Ordering::Equal,
    };
    top.sort_by(order);
    for list in &mut below {
        list.sort_by(order);
    }
    let mut items = Vec::with_capacity(nodes.len());
    let mut sum = Figures::default();
    let mut stack: Vec<(usize, usize)> = top.into_iter().rev().map(|i| (i, 0)).collect();
    while let Some((i, depth)) = stack.pop() {
        let Some(node) = nodes.get(i) else { continue };
        if depth == 0 {
            sum = sum.with(&node.row.figures);
        }
        items.push(Row { depth, ..node.row.clone() });
        stack.extend(below.get(i).into_iter().flatten().rev().map(|c| (*c, depth + 1)));
    }
    (items, sum)
}

/// Whether each node is shown: it fits the filter, or lies above or below one that does.
fn wanted(nodes: &[Node], view: &View) -> Vec<bool> {
    let fits: Vec<bool> = nodes.iter().map(|n| view.wants(&[&n.row.name, &n.row.info])).collect();
    let mut wanted = fits.clone();
    for (i, node) in nodes.iter().enumerate() {
        let mut up = node.parent;
        while let Some(p) = up {
            if fits.get(p) == Some(&true)
                && let Some(w) = wanted.get_mut(i)
            {
                *w = true;
            }
            if fits.get(i) == Some(&true)
                && let Some(w) = wanted.get_mut(p)
            {
                *w = true;
            }
            up = nodes.get(p).and_then(|n| n.parent);
        }
    }
    wanted
}

fn compare(a: &Row, b: &Row, view: &View) -> Ordering {
    let name = || a.name.trim_start().cmp(b.name.trim_start());
    let (x, y) = (&a.figures, &b.figures);
    let watts = || y.power.cmp(&x.power);
    let joules = || y.energy.cmp(&x.energy);
    // unknown comes after everything that is known
    let cpu = || y.cpus.unwrap_or(-1.0).total_cmp(&x.cpus.unwrap_or(-1.0));
    let order = match view.sort {
        Sort::Watts => watts().then_with(cpu).then_with(joules).then_with(name),
        Sort::Joules => joules().then_with(watts).then_with(name),
        Sort::Cpu => cpu().then_with(watts).then_with(joules).then_with(name),
        Sort::Name => natural(a).cmp(&natural(b)),
    };
    if view.reverse { order.reverse() } else { order }
}

/// Processes are sorted by what they are called, then by pid.
fn natural(row: &Row) -> (String, String) {
    let text = row.name.trim_start();
    match text.split_once(' ') {
        Some((pid, comm)) if pid.starts_with(|c: char| c.is_ascii_digit()) => {
            (comm.to_lowercase(), format!("{pid:>8}"))
        }
        _ => (text.to_lowercase(), String::new()),
    }
}
