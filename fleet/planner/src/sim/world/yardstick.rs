//! What the fleet's energy is compared with, from the truth that no planner knows: a bound that nothing can be below,
//! and a clairvoyant who packs all work anew at every moment, for free.
//!
//! The bound is a linear program of its own, not the planner's: kinds of machine may be on in part, work is split at
//! will, and only amounts of each resource have to fit. Machines of a type differ; a few groups stand for them, each
//! as good as its best member. Power is `idle + least slope · use`, nowhere above the curve.

use std::collections::BTreeMap;

use microlp::{ComparisonOp, OptimizationDirection, Problem};

use super::machine::Machine;
use super::setup::Setup;
use crate::state::resources::Resources;

/// Groups that machines of a type are sorted into by how much they draw.
const GROUPS: usize = 4;
/// Share by which the solver's arithmetic may be off.
const ROUNDING: f64 = 1e-6;

/// Machines that are nearly alike.
struct Kind {
    count: f64,
    room: Vec<f64>,
    off: f64,
    idle: f64,
    slope: f64,
    fixed: bool,
    example: usize,
}

/// What work of one class needs together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Need {
    /// Set aside, by resource.
    pub(super) room: Vec<f64>,
    /// Thousandths of a CPU in use.
    pub(super) milli: f64,
}

/// One workload for the clairvoyant.
pub(super) struct Item<'a> {
    pub(super) class: usize,
    pub(super) needs: &'a Resources,
    pub(super) milli: f64,
}

/// The measure for one world.
pub(super) struct Yardstick {
    names: Vec<String>,
    kinds: Vec<Kind>,
    class_of: Vec<usize>,
    admits: Vec<Vec<bool>>,
    by_requests: bool,
    last: Option<(Vec<Need>, f64)>,
}

impl Yardstick {
    pub(super) fn new(setup: &Setup, by_requests: bool) -> Self {
        let machines = &setup.machines;
        let mut names: Vec<String> = vec!["cpu".to_owned(), "memory".to_owned()];
        let mut known = BTreeMap::new();
        let (mut class_of, mut admits) = (Vec::new(), Vec::new());
        for job in &setup.jobs {
            let w = &job.workload;
            let class = *known.entry(w.wishes()).or_insert_with(|| {
                admits.push(machines.iter().map(|m| w.admits(&m.node)).collect::<Vec<bool>>());
                admits.len() - 1
            });
            class_of.push(class);
            for name in w.requests.named.keys() {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        let kinds = kinds(setup, &names, &admits);
        Self { names, kinds, class_of, admits, by_requests, last: None }
    }

    /// The class of the job with this index, among those of the setup.
    pub(super) fn class(&self, job: usize) -> usize {
        self.class_of.get(job).copied().unwrap_or(0)
    }

    /// Nothing needed yet, by class.
    pub(super) fn nothing(&self) -> Vec<Need> {
        vec![Need { room: vec![0.0; self.names.len()], milli: 0.0 }; self.admits.len()]
    }

    /// Adds a workload to what its class needs.
    pub(super) fn add(&self, needs: &mut [Need], class: usize, room: &Resources, milli: f64) {
        let Some(need) = needs.get_mut(class) else { return };
        for (have, name) in need.room.iter_mut().zip(&self.names) {
            *have += amount(room, name);
        }
        need.milli += milli;
    }

    /// Watts that no placement of this work is below.
    pub(super) fn bound(&mut self, needs: Vec<Need>) -> f64 {
        if let Some((last, watts)) = &self.last
            && *last == needs
        {
            return *watts;
        }
        let anyway: f64 = self.kinds.iter().map(|k| k.count * if k.fixed { k.idle } else { k.off }).sum();
        let more = self.solve(&needs).unwrap_or_else(|| {
            // the solver gave up: what is used costs at least the least slope, whatever is on
            let slope = self.kinds.iter().map(|k| k.slope).fold(f64::INFINITY, f64::min);
            needs.iter().map(|n| n.milli).sum::<f64>() * slope
        });
        let watts = anyway + more * (1.0 - ROUNDING);
        self.last = Some((needs, watts));
        watts
    }

    fn solve(&self, needs: &[Need]) -> Option<f64> {
        let dims = self.names.len();
        let mut lp = Problem::new(OptimizationDirection::Minimize);
        let scale: Vec<f64> =
            (0..dims).map(|d| self.kinds.iter().map(|k| k.room[d]).fold(0.0, f64::max).max(1e-9)).collect();
        let on: Vec<_> = self
            .kinds
            .iter()
            .map(|k| {
                let watts = if k.fixed { 0.0 } else { (k.idle - k.off).max(0.0) };
                lp.add_var(watts, (if k.fixed { k.count } else { 0.0 }, k.count))
            })
            .collect();
        // one row for each kind and resource, and one for what is used: the last
        let mut filled = vec![vec![Vec::new(); dims + 1]; self.kinds.len()];
        for (class, need) in needs.iter().enumerate() {
            let mut flow = |amount: f64, d: usize, cost: bool| {
                let unit = scale[d.min(dims) % dims];
                let mut row = Vec::new();
                for (k, kind) in self.kinds.iter().enumerate().filter(|(_, k)| self.admits[class][k.example]) {
                    let v = lp.add_var(if cost { kind.slope * unit } else { 0.0 }, (0.0, f64::INFINITY));
                    row.push((v, 1.0));
                    filled[k][d].push((v, 1.0));
                }
                lp.add_constraint(row, ComparisonOp::Ge, amount / unit * (1.0 - 1e-9));
            };
            for (d, &amount) in need.room.iter().enumerate() {
                if amount > 0.0 && (d > 0 || self.by_requests) {
                    flow(amount, d, false);
                }
            }
            if need.milli > 0.0 {
                flow(need.milli, dims, true);
            }
        }
        for ((kind, on), rows) in self.kinds.iter().zip(&on).zip(filled) {
            for (d, mut row) in rows.into_iter().enumerate().filter(|(_, row)| !row.is_empty()) {
                let of = d % dims;
                row.push((*on, -kind.room[of] / scale[of]));
                lp.add_constraint(row, ComparisonOp::Le, 0.0);
            }
        }
        Some(lp.solve().ok()?.objective())
    }

    /// Watts of the best of a few packings of all that is asked for, with everything else off. What fits nowhere is
    /// left out.
    pub(super) fn packed(&self, machines: &[Machine], items: &[Item<'_>]) -> f64 {
        let per_cpu = |m: usize, watts: f64| watts / machines[m].room_milli().max(1.0);
        let idle = |m: usize| per_cpu(m, machines[m].spec.truth.idle());
        let full = |m: usize| per_cpu(m, machines[m].spec.truth.full());
        let mut best = f64::INFINITY;
        for by in [&idle as &dyn Fn(usize) -> f64, &full] {
            let mut order: Vec<usize> = (0..machines.len()).collect();
            let fixed = |m: usize| machines[m].spec.node.switchable;
            order.sort_by(|&a, &b| fixed(a).cmp(&fixed(b)).then(by(a).total_cmp(&by(b))).then(a.cmp(&b)));
            best = best.min(self.pack_in(machines, items, &order));
        }
        best
    }

    fn pack_in(&self, machines: &[Machine], items: &[Item<'_>], order: &[usize]) -> f64 {
        let largest: Vec<f64> = self
            .names
            .iter()
            .map(|name| machines.iter().map(|m| amount(&m.spec.node.allocatable(), name)).fold(1e-9, f64::max))
            .collect();
        let vector = |item: &Item<'_>| -> Vec<f64> {
            let mut v: Vec<f64> = self.names.iter().map(|name| amount(item.needs, name)).collect();
            if !self.by_requests {
                v[0] = item.milli;
            }
            v
        };
        let mut sorted: Vec<(f64, usize, Vec<f64>)> = items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let v = vector(item);
                (v.iter().zip(&largest).map(|(a, b)| a / b).fold(0.0, f64::max), i, v)
            })
            .collect();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut room: Vec<Vec<f64>> = machines
            .iter()
            .map(|m| self.names.iter().map(|name| amount(&m.spec.node.allocatable(), name)).collect())
            .collect();
        let mut used: Vec<Option<f64>> = vec![None; machines.len()];
        for (_, i, v) in &sorted {
            let fits = |m: &usize| {
                self.admits[items[*i].class][*m] && room[*m].iter().zip(v).all(|(room, need)| *need <= room + 1e-6)
            };
            if let Some(&m) = order.iter().find(|m| fits(m)) {
                room[m].iter_mut().zip(v).for_each(|(room, need)| *room -= need);
                *used[m].get_or_insert(0.0) += items[*i].milli;
            }
        }
        machines
            .iter()
            .zip(used)
            .map(|(m, used)| match used {
                Some(milli) => m.spec.truth.watts(m.spec.node.load(milli)),
                None if m.spec.node.switchable => m.spec.node.off_watts,
                None => m.spec.truth.idle(),
            })
            .sum()
    }
}

/// What machines of a group have in common: figures, classes of work that they admit, whether they switch, their type.
type Alike<'a> = (Vec<u64>, Vec<bool>, bool, Option<&'a str>);

/// Groups of machines that are the same but for a little more or less power.
fn kinds(setup: &Setup, names: &[String], admits: &[Vec<bool>]) -> Vec<Kind> {
    let mut alike: BTreeMap<Alike<'_>, Vec<usize>> = BTreeMap::new();
    for (m, spec) in setup.machines.iter().enumerate() {
        let room = spec.node.allocatable();
        let figures = names.iter().map(|name| amount(&room, name).to_bits()).collect();
        let class = admits.iter().map(|a| a[m]).collect();
        alike.entry((figures, class, spec.node.switchable, spec.node.twin.as_deref())).or_default().push(m);
    }
    let mut kinds = Vec::new();
    for mut group in alike.into_values() {
        group.sort_by(|&a, &b| {
            let idle = |m: usize| setup.machines[m].truth.idle();
            idle(a).total_cmp(&idle(b)).then(a.cmp(&b))
        });
        for part in group.chunks(group.len().div_ceil(GROUPS)) {
            let least = |f: &dyn Fn(usize) -> f64| part.iter().map(|&m| f(m)).fold(f64::INFINITY, f64::min);
            let node = &setup.machines[part[0]].node;
            kinds.push(Kind {
                count: part.len() as f64,
                room: names.iter().map(|name| amount(&node.allocatable(), name)).collect(),
                off: least(&|m| setup.machines[m].node.off_watts.min(setup.machines[m].truth.idle())),
                idle: least(&|m| setup.machines[m].truth.idle()),
                slope: least(&|m| setup.machines[m].truth.least_slope()) / node.capacity.cpu_milli.max(1) as f64,
                fixed: !node.switchable,
                example: part[0],
            });
        }
    }
    kinds
}

fn amount(r: &Resources, name: &str) -> f64 {
    (match name {
        "cpu" => r.cpu_milli,
        "memory" => r.memory,
        named => r.named.get(named).copied().unwrap_or(0),
    }) as f64
}
