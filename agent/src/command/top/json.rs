//! The picture as a JSON document; `docs/top-json.md` describes it field by field. Pure.
//!
//! Joules and watts are written with all six decimals from the integers they are, so that sums over the document
//! are exact. What isn't known is `null`.

use std::fmt::{self, Write as _};

use ebbtide_proto::{Energy, Power, WorkloadId, WorkloadKind};

use crate::snapshot::{GroupRow, TaskRow, ZoneView};
use crate::usage::table::TaskClass;

use super::picture::{Figures, Picture};

/// A JSON value whose numbers are the text that they are written as.
enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(b) => write!(f, "{b}"),
            Self::Number(n) => f.write_str(n),
            Self::Text(t) => f.write_str(&serde_json::Value::from(t.as_str()).to_string()),
            Self::Array(items) => {
                f.write_char('[')?;
                for (i, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if i > 0 { "," } else { "" })?;
                }
                f.write_char(']')
            }
            Self::Object(fields) => {
                f.write_char('{')?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    write!(f, "{}\"{name}\":{value}", if i > 0 { "," } else { "" })?;
                }
                f.write_char('}')
            }
        }
    }
}

fn text(t: impl fmt::Display) -> Json {
    Json::Text(t.to_string())
}

/// Like [`text`], but nothing is `null`.
fn some_text(t: &str) -> Json {
    if t.is_empty() { Json::Null } else { text(t) }
}

fn number(n: impl fmt::Display) -> Json {
    Json::Number(n.to_string())
}

fn or_null<T>(value: Option<T>, write: impl FnOnce(T) -> Json) -> Json {
    value.map_or(Json::Null, write)
}

fn joules(e: Energy) -> Json {
    number(e.as_joules_exact())
}

fn watts(p: Power) -> Json {
    number(Energy::from_uj(p.uw()).as_joules_exact())
}

fn seconds(ns: u64) -> Json {
    number(format_args!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000))
}

/// Parts of one CPU as percent of it.
fn percent(cpus: f64) -> Json {
    if cpus.is_finite() { number(format_args!("{:.3}", cpus * 100.0)) } else { Json::Null }
}

/// The document, on one line without its end.
pub fn document(picture: &Picture) -> String {
    let now = &picture.now;
    let at = jiff::Timestamp::from_nanosecond(i128::from(now.at.wall)).ok();
    let tasks = now.tasks.rows.iter().zip(&picture.tasks).map(|(t, f)| task(t, f));
    let groups = now.groups.rows.iter().zip(&picture.groups);
    let groups = groups.filter(|(g, _)| g.id.kind() != WorkloadKind::System).map(|(g, f)| group(g, f));
    Json::Object(vec![
        ("at", or_null(at, |t| text(format_args!("{t:.3}")))),
        ("interval_s", number(format_args!("{:.6}", now.dt.as_secs_f64()))),
        ("node", node(picture)),
        ("zones", Json::Array(now.zones.iter().map(zone).collect())),
        ("workloads", Json::Array(groups.chain(tasks).collect())),
        ("kernel", consumer(&picture.kernel)),
        ("interrupts", consumer(&picture.interrupts)),
        ("unseen", consumer(&picture.unseen)),
        ("ended", Json::Object(vec![("energy_j", or_null(picture.ended.energy, joules))])),
        ("idle", account(&picture.idle)),
        ("residual", account(&picture.residual)),
    ])
    .to_string()
}

fn node(picture: &Picture) -> Json {
    let (node, now) = (&picture.now.node, &picture.now);
    Json::Object(vec![
        ("name", text(&node.name)),
        ("boot", or_null(node.boot, text)),
        ("cpu_model", some_text(&node.cpu_model)),
        ("cpus", number(node.cpus)),
        ("sockets", number(node.sockets)),
        ("sources", Json::Array(picture.sources.iter().map(|s| text(s.as_str())).collect())),
        ("idle_policy", text(node.idle_policy.as_str())),
        ("usage", usage(&now.usage)),
        ("quality", or_null(now.quality(), |q| text(q.as_str()))),
        ("error", or_null(picture.error, |e| number(e.fraction()))),
        ("power_w", or_null(picture.node.power, watts)),
        ("energy_j", or_null(picture.node.energy, joules)),
        ("rest_w", or_null(now.rest.and_then(|r| r.power), watts)),
        ("rest_error_w", or_null(now.rest, |r| watts(r.error))),
        ("rest_j", or_null(now.rest, |r| joules(r.energy))),
        ("floor_w", or_null(picture.floor, |f| watts(f.power))),
        ("floor_error_w", or_null(picture.floor, |f| watts(f.error))),
        ("floor_kind", or_null(picture.floor, |f| floor_kind(f.kind))),
        ("cpu_pct", or_null(picture.node.cpus, percent)),
    ])
}

fn usage(usage: &crate::snapshot::Usage) -> Json {
    let s = usage.status;
    Json::Object(vec![
        ("method", text(s.method.as_str())),
        ("counters", Json::Bool(s.counters)),
        ("lost_exits", number(s.lost_exits)),
        ("lost_s", number(s.lost_ns as f64 / 1e9)),
    ])
}

fn floor_kind(kind: crate::attribution::floor::FloorKind) -> Json {
    use crate::attribution::floor::FloorKind as K;
    text(match kind {
        K::Set => "set",
        K::Learned => "learned",
        K::Prior => "prior",
    })
}

fn zone(z: &ZoneView) -> Json {
    use crate::snapshot::ZoneState as S;
    let state = match z.state {
        S::Starting => "starting",
        S::Live => "live",
        S::Stale => "stale",
        S::Absent => "absent",
    };
    // before a second reading a total of zero says nothing
    let known = matches!(z.state, S::Live | S::Stale) || z.account.total > Energy::ZERO;
    let sum = |e: Energy| if known { joules(e) } else { Json::Null };
    Json::Object(vec![
        ("name", text(&z.zone.name)),
        ("id", text(&z.zone.id)),
        ("kind", text(z.zone.kind.as_str())),
        ("role", text(z.role.as_str())),
        ("source", text(z.zone.source.as_str())),
        ("state", text(state)),
        ("quality", text(z.quality().as_str())),
        ("error", number(z.zone.error.fraction())),
        ("power_w", or_null(z.power, watts)),
        ("energy_j", sum(z.account.total)),
        ("idle_j", sum(z.account.idle)),
        ("unallocated_j", sum(z.account.unallocated)),
        ("residual_j", sum(z.account.residual)),
        ("floor_w", or_null(z.floor, |f| watts(f.power))),
        ("floor_error_w", or_null(z.floor, |f| watts(f.error))),
        ("floor_kind", or_null(z.floor, |f| floor_kind(f.kind))),
    ])
}

/// What a workload is, its figures aside.
struct Who<'a> {
    kind: WorkloadKind,
    id: &'a str,
    name: &'a str,
    class: Option<&'static str>,
    pid: Option<&'a str>,
    comm: Option<&'a str>,
    within: &'a [WorkloadId],
    tasks: Option<u32>,
    resident: Option<u64>,
    ended: bool,
}

fn workload(who: &Who<'_>, f: &Figures) -> Json {
    Json::Object(vec![
        ("kind", text(who.kind)),
        ("id", text(who.id)),
        ("name", text(who.name)),
        ("class", or_null(who.class, text)),
        ("pid", or_null(who.pid, number)),
        ("comm", or_null(who.comm, text)),
        ("in", Json::Array(who.within.iter().map(text).collect())),
        ("tasks", or_null(who.tasks, number)),
        ("resident_bytes", or_null(who.resident, number)),
        ("ended", Json::Bool(who.ended)),
        ("quality", or_null(f.quality, |q| text(q.as_str()))),
        ("power_w", or_null(f.power, watts)),
        ("energy_j", or_null(f.energy, joules)),
        ("idle_w", or_null(f.idle_power, watts)),
        ("idle_j", or_null(f.idle, joules)),
        ("cpu_s", or_null(f.cpu_ns, seconds)),
        ("cpu_pct", or_null(f.cpus, percent)),
    ])
}

fn task(t: &TaskRow, f: &Figures) -> Json {
    let class = match t.class {
        TaskClass::Process => "process",
        TaskClass::Kernel => "kernel",
        TaskClass::EndedChildren => "ended-children",
        TaskClass::Interrupts => "interrupts",
        TaskClass::Unseen => "unseen",
    };
    let pid = t.labels.pid.trim_end_matches('+');
    let who = Who {
        kind: WorkloadKind::Process,
        id: &t.labels.pid,
        name: &t.labels.comm,
        class: Some(class),
        pid: Some(pid).filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())),
        comm: Some(&t.labels.comm),
        within: &t.labels.workloads,
        tasks: None,
        resident: Some(t.resident).filter(|_| t.class == TaskClass::Process && !t.ended),
        ended: t.ended,
    };
    workload(&who, f)
}

fn group(g: &GroupRow, f: &Figures) -> Json {
    let label = |name: &str| g.labels.iter().find(|l| l.0 == name).map(|l| l.1.as_str());
    let above = match g.id.kind() {
        WorkloadKind::Container => label("pod_id").map(|id| (WorkloadKind::Pod, id)),
        WorkloadKind::Pod => label("namespace").map(|name| (WorkloadKind::Namespace, name)),
        WorkloadKind::Unit => label("slice").map(|name| (WorkloadKind::Slice, name)),
        _ => None,
    };
    let above: Vec<WorkloadId> = above.and_then(|(kind, id)| WorkloadId::new(kind, id).ok()).into_iter().collect();
    let who = Who {
        kind: g.id.kind(),
        id: g.id.name(),
        name: label("name").unwrap_or(g.id.name()),
        class: None,
        pid: None,
        comm: None,
        within: &above,
        tasks: Some(g.tasks),
        resident: None,
        ended: g.ended,
    };
    workload(&who, f)
}

fn consumer(f: &Figures) -> Json {
    Json::Object(vec![
        ("power_w", or_null(f.power, watts)),
        ("energy_j", or_null(f.energy, joules)),
        ("cpu_s", or_null(f.cpu_ns, seconds)),
        ("cpu_pct", or_null(f.cpus, percent)),
    ])
}

fn account(f: &Figures) -> Json {
    Json::Object(vec![("power_w", or_null(f.power, watts)), ("energy_j", or_null(f.energy, joules))])
}
