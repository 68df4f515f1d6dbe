//! Watts and totals as people read them, made of two snapshots. Pure.
//!
//! What is left when everything with a row is taken from the node's energy is a figure of its own here, so that
//! each list adds up to the node.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::{Energy, Power, Ratio, WorkloadKind};

use crate::attribution::IdlePolicy;
use crate::attribution::floor::FloorKind;
use crate::snapshot::{GroupRow, RowView, Snapshot, TaskRow, ZoneState, ZoneView};
use crate::source::discover::Role;
use crate::source::{Quality, SourceKind, ZoneKind};
use crate::usage::table::TaskClass;

use super::before::Before;

/// What is known of one consumer. Absent is unknown, never nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Mean power in the last interval, idle share included.
    pub power: Option<Power>,
    /// Of that, its share of idle power; absent where idle power is shared out to nobody.
    pub idle_power: Option<Power>,
    /// Energy since it was first seen, idle share included.
    pub energy: Option<Energy>,
    /// Of that, its share of idle energy; absent where idle energy is shared out to nobody.
    pub idle: Option<Energy>,
    /// CPU time since it was first seen, in nanoseconds.
    pub cpu_ns: Option<u64>,
    /// CPUs it kept busy in the last interval: 1 is one CPU all the time.
    pub cpus: Option<f64>,
    /// The worst quality among the zones that it drew from.
    pub quality: Option<Quality>,
}

impl Figures {
    /// What is left of `self` when `part` is taken away, at least nothing.
    #[must_use]
    pub fn without(&self, part: &Self) -> Self {
        Self {
            power: self.power.map(|p| minus(p, part.power)),
            idle_power: self.idle_power.map(|p| minus(p, part.idle_power)),
            energy: self.energy.map(|e| e.saturating_sub(part.energy.unwrap_or_default())),
            idle: self.idle.map(|e| e.saturating_sub(part.idle.unwrap_or_default())),
            cpu_ns: self.cpu_ns.map(|ns| ns.saturating_sub(part.cpu_ns.unwrap_or(0))),
            cpus: self.cpus.map(|c| (c - part.cpus.unwrap_or(0.0)).max(0.0)),
            quality: self.quality,
        }
    }

    /// Both together. What only one of them knows is what is known of both.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        fn sum<T: std::iter::Sum>(a: Option<T>, b: Option<T>) -> Option<T> {
            (a.is_some() || b.is_some()).then(|| a.into_iter().chain(b).sum())
        }
        Self {
            power: sum(self.power, other.power),
            idle_power: sum(self.idle_power, other.idle_power),
            energy: sum(self.energy, other.energy),
            idle: sum(self.idle, other.idle),
            cpu_ns: sum(self.cpu_ns, other.cpu_ns),
            cpus: sum(self.cpus, other.cpus),
            quality: self.quality.max(other.quality),
        }
    }

    /// Whether it drew or used anything, ever.
    pub fn is_something(&self) -> bool {
        self.energy.is_some_and(|e| e > Energy::ZERO) || self.cpu_ns.is_some_and(|ns| ns > 0)
    }
}

fn minus(from: Power, part: Option<Power>) -> Power {
    Power::from_uw(from.uw().saturating_sub(part.unwrap_or_default().uw()))
}

/// The floor of the node: what its zones draw together when nothing runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeFloor {
    /// Power when nothing runs.
    pub power: Power,
    /// One standard error of it, errors of zones being independent.
    pub error: Power,
    /// The least certain kind among the zones.
    pub kind: FloorKind,
}

/// The machine in the last interval, with figures for each row of the snapshot.
#[derive(Clone, Debug)]
pub struct Picture {
    /// The snapshot that the rows are in.
    pub now: Arc<Snapshot>,
    /// The node as a whole.
    pub node: Figures,
    /// The largest known error of the node's zones.
    pub error: Option<Ratio>,
    /// The node's floor, once each of its zones has one.
    pub floor: Option<NodeFloor>,
    /// Who tells the energy of zones that answer, best first.
    pub sources: Vec<SourceKind>,
    /// Idle energy that was given to nobody.
    pub idle: Figures,
    /// Energy that nobody could be found for.
    pub residual: Figures,
    /// Threads of the kernel.
    pub kernel: Figures,
    /// Interrupts.
    pub interrupts: Figures,
    /// CPU time nobody owned up to.
    pub unseen: Figures,
    /// Tasks that ended so long ago that they have no row any more.
    pub ended: Figures,
    /// Figures of the snapshot's tasks, in their order.
    pub tasks: Vec<Figures>,
    /// Figures of the snapshot's workloads, in their order.
    pub groups: Vec<Figures>,
}

/// What turns energy into power in one zone: what it added in the last interval, and the power this was.
#[derive(Clone, Copy)]
struct Rate {
    power: Power,
    added: Energy,
}

impl Rate {
    /// The power of a part of what was added. Parts of the whole add up to the whole, whenever the zone was read.
    fn of(self, part: Energy) -> u64 {
        let product = u128::from(part.uj()) * u128::from(self.power.uw());
        product.checked_div(u128::from(self.added.uj())).map_or(0, |p| u64::try_from(p).unwrap_or(u64::MAX))
    }
}

struct Scale<'a> {
    now: &'a Snapshot,
    rates: Vec<Option<Rate>>,
    /// Whether any zone of the node has power now.
    live: bool,
    /// Whether any zone of the node has energy.
    known: bool,
    shares_idle: bool,
}

impl<'a> Scale<'a> {
    fn new(before: &Before, now: &'a Snapshot) -> Self {
        let rates: Vec<_> = now.zones.iter().enumerate().map(|(i, z)| rate(before, i, z)).collect();
        Self {
            now,
            live: rates.iter().any(Option::is_some),
            known: now.zones.iter().any(counts_and_knows),
            rates,
            shares_idle: now.node.idle_policy != IdlePolicy::Unallocated,
        }
    }

    fn power(&self, last: &[Energy]) -> Option<Power> {
        let part = |(r, e): (&Option<Rate>, &Energy)| r.map(|r| r.of(*e));
        self.live.then(|| Power::from_uw(self.rates.iter().zip(last).filter_map(part).fold(0, u64::saturating_add)))
    }

    fn energy(&self, by_zone: &[Energy]) -> Option<Energy> {
        self.known.then(|| self.now.over_node(by_zone))
    }

    fn quality(&self, by_zone: &[Energy]) -> Option<Quality> {
        let drawn_from = |(z, e): &(&ZoneView, &Energy)| counts_and_knows(z) && **e > Energy::ZERO;
        let worst = self.now.zones.iter().zip(by_zone).filter(drawn_from).map(|(z, _)| z.quality()).max();
        worst.or_else(|| self.now.quality()).map(|q| q.max(self.now.usage.quality())).filter(|_| self.known)
    }

    fn cpus(&self, last_ns: u64) -> Option<f64> {
        (self.now.dt > Duration::ZERO).then(|| last_ns as f64 / self.now.dt.as_nanos() as f64)
    }

    /// A row's figures. `idle_before` are its idle shares one snapshot ago.
    fn row<T>(&self, row: &RowView<'_, T>, idle_before: &[Energy], cpu: (u64, u64), ended: bool) -> Figures {
        let gone = ended && cpu.1 == 0 && row.last.iter().all(|e| *e == Energy::ZERO);
        let idle_last = || -> Vec<Energy> {
            let added = |(i, e): (usize, &Energy)| {
                let was = idle_before.get(i).copied().unwrap_or_default();
                let most = row.last.get(i).copied().unwrap_or_default();
                // less than before: another task under the same name
                e.checked_sub(was).unwrap_or(*e).min(most)
            };
            row.idle.iter().enumerate().map(added).collect()
        };
        Figures {
            power: self.power(row.last).filter(|_| !gone),
            idle_power: (self.shares_idle && !gone).then(|| self.power(&idle_last())).flatten(),
            energy: self.energy(row.energy),
            idle: self.shares_idle.then(|| self.energy(row.idle)).flatten(),
            cpu_ns: Some(cpu.0),
            cpus: self.cpus(cpu.1).filter(|_| !gone),
            quality: self.quality(row.energy),
        }
    }

    /// An account of the zones that only has a total.
    fn account(
        &self,
        before: &Before,
        pick: impl Fn(&ZoneView) -> Energy,
        was: impl Fn(&Before, usize) -> Energy,
    ) -> Figures {
        let all: Vec<Energy> = self.now.zones.iter().map(&pick).collect();
        let last: Vec<Energy> = all.iter().enumerate().map(|(i, e)| e.saturating_sub(was(before, i))).collect();
        Figures {
            power: self.power(&last),
            energy: self.energy(&all),
            quality: self.quality(&all),
            ..Figures::default()
        }
    }
}

/// Whether a zone counts towards the node and its energy is known.
fn counts_and_knows(z: &ZoneView) -> bool {
    let answers = matches!(z.state, ZoneState::Live | ZoneState::Stale);
    z.role == Role::Total && (answers || z.account.total > Energy::ZERO)
}

fn rate(before: &Before, i: usize, z: &ZoneView) -> Option<Rate> {
    if z.role != Role::Total || z.state != ZoneState::Live {
        return None;
    }
    let added = z.account.total.checked_sub(before.total(i)?)?;
    Some(Rate { power: z.power?, added })
}

impl Picture {
    /// The machine between what was noted `before` and `now`.
    pub fn new(before: &Before, now: Arc<Snapshot>) -> Self {
        let scale = Scale::new(before, &now);
        let task = |r: RowView<'_, TaskRow>| {
            scale.row(&r, before.task_idle(r.row), (r.row.cpu_ns, r.row.cpu_last_ns), r.row.ended)
        };
        let group = |r: RowView<'_, GroupRow>| {
            scale.row(&r, before.group_idle(&r.row.id), (r.row.cpu_ns, r.row.cpu_last_ns), r.row.ended)
        };
        let tasks: Vec<Figures> = now.tasks.iter().map(task).collect();
        let groups: Vec<Figures> = now.groups.iter().map(group).collect();
        let system = |name: &str| {
            let is = |g: &GroupRow| g.id.kind() == WorkloadKind::System && g.id.name() == name;
            let none = || Figures {
                power: scale.power(&[]),
                energy: scale.energy(&[]),
                cpu_ns: Some(0),
                cpus: scale.cpus(0),
                quality: scale.quality(&[]),
                ..Figures::default()
            };
            let at = now.groups.rows.iter().position(is);
            at.and_then(|i| groups.get(i).copied()).unwrap_or_else(none)
        };
        let idle = scale.account(before, |z| z.account.unallocated, Before::unallocated);
        let idle = Figures { idle_power: idle.power, idle: idle.energy, ..idle };
        let residual = scale.account(before, |z| z.account.residual, Before::residual);
        let (interrupts, unseen) = (system("interrupts"), system("unseen"));
        let rows = tasks.iter().fold(Figures::default(), |sum, f| sum.with(f));
        let named = [idle, residual, interrupts, unseen, rows];
        let named: Energy = named.iter().filter_map(|f| f.energy).sum();
        let left = scale.known.then(|| now.node_energy.saturating_sub(named));
        let ended = Figures { energy: left, quality: scale.quality(&[]), ..Figures::default() };
        let node = Figures {
            power: now.node_power,
            energy: scale.known.then_some(now.node_energy),
            cpus: (now.dt > Duration::ZERO).then_some(now.utilisation * now.node.cpus as f64),
            quality: scale.quality(&[]),
            ..Figures::default()
        };
        let total = || now.zones.iter().filter(|z| counts_and_knows(z));
        let mut sources: Vec<SourceKind> = now.zones.iter().filter(|z| z.shown()).map(|z| z.zone.source).collect();
        sources.sort_unstable();
        sources.dedup();
        Self {
            node,
            error: total().map(|z| z.zone.error).max(),
            floor: floor(&now),
            sources,
            idle,
            residual,
            kernel: system("kernel"),
            interrupts,
            unseen,
            ended,
            tasks,
            groups,
            now,
        }
    }

    /// Power of the node's zones by kind, in the order in which the zones come.
    pub fn by_kind(&self) -> Vec<(ZoneKind, Option<Power>)> {
        let mut kinds: Vec<(ZoneKind, Option<Power>)> = Vec::new();
        for z in self.now.zones.iter().filter(|z| z.role == Role::Total && z.shown()) {
            match kinds.iter_mut().find(|k| k.0 == z.zone.kind) {
                Some(k) => k.1 = k.1.into_iter().chain(z.power).reduce(Power::saturating_add),
                None => kinds.push((z.zone.kind, z.power)),
            }
        }
        kinds
    }

    /// Power of the widest zone that contains the node's zones and more, and what it has beyond them: the machine's
    /// input if that is known, else the board or platform.
    pub fn platform(&self) -> Option<(ZoneKind, Power, Quality, Power)> {
        let around = self.now.zones.iter().filter(|z| z.role == Role::Platform);
        let widest = around.max_by_key(|z| (z.zone.kind == ZoneKind::Wall, z.power))?;
        let power = widest.power?;
        let rest = match widest.zone.kind {
            ZoneKind::Wall => self.now.rest?.power?,
            _ => Power::from_uw(power.uw().checked_sub(self.node.power?.uw())?),
        };
        Some((widest.zone.kind, power, widest.quality(), rest))
    }

    /// Processes in user space that live.
    pub fn processes(&self) -> usize {
        self.now.tasks.rows.iter().filter(|t| t.class == TaskClass::Process && !t.ended).count()
    }
}

fn floor(now: &Snapshot) -> Option<NodeFloor> {
    let mut sum: Option<(Power, f64, FloorKind)> = None;
    for z in now.zones.iter().filter(|z| z.role == Role::Total && z.shown()) {
        let f = z.floor?;
        let (power, square, kind) = sum.unwrap_or((Power::ZERO, 0.0, FloorKind::Set));
        let doubt = |k| match k {
            FloorKind::Set => 0,
            FloorKind::Learned => 1,
            FloorKind::Prior => 2,
        };
        let kind = if doubt(f.kind) > doubt(kind) { f.kind } else { kind };
        sum = Some((power.saturating_add(f.power), square + f.error.watts().powi(2), kind));
    }
    let (power, square, kind) = sum?;
    Some(NodeFloor { power, error: Power::from_watts(square.sqrt())?, kind })
}
