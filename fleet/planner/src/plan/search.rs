//! Which nodes to have on and who is on which, for few nodes: branch and bound over sets of nodes, and in each set over
//! the places of workloads. The sets come in the order of what none of their placements can be below, so that the
//! search ends where that is no better than what is known.
//!
//! Knows numbers only; `small.rs` says what they stand for. Watts are those of all nodes with every cost spread over
//! the horizon, and err to the disadvantage of change.

use std::collections::BTreeSet;

use super::problem::CPU;
use crate::state::node::Node;

/// Share by which a placement has to be better than the one known.
const BETTER: f64 = 5e-4;
/// Placements of one workload that are looked at in a set before the next set has its turn.
const TURN: u64 = 2_000;

/// Steps that are tried to find an order.
const ORDERS: u64 = 256;

/// What a node draws, with what it costs to change that.
#[derive(Clone)]
pub(crate) struct Drawn<'a> {
    pub(crate) node: &'a Node,
    /// Watts that it draws now.
    pub(crate) now: f64,
    pub(crate) lit: bool,
    /// Watts that a boot counts for.
    pub(crate) boot: f64,
}

impl Drawn<'_> {
    /// Watts that count for a node that is on.
    pub(crate) fn on(&self, level: f64) -> f64 {
        let boot = if self.lit { 0.0 } else { self.boot };
        self.careful(self.node.watts(level)) + boot
    }

    /// Watts that count for a node that is off.
    pub(crate) fn off(&self) -> f64 {
        if self.lit { self.careful(self.node.off_watts) + self.boot } else { self.node.off_watts }
    }

    /// More than now is taken to be even more, less to be not quite as little.
    fn careful(&self, watts: f64) -> f64 {
        watts + self.node.curve.error() * (watts - self.now).abs()
    }

    /// Watts per thousandth of a CPU that are surely added from `base` up to `most`.
    fn slope(&self, base: f64, most: f64) -> f64 {
        let capacity = self.node.capacity.cpu_milli as f64;
        let knot = |k: u32| f64::from(k) / 10.0 * capacity - self.node.reserved_use_milli as f64;
        let start = self.on(base);
        let steps = (1..=10).map(knot).chain([self.kink(capacity), most]).filter(|l| *l > base + 1e-9 && *l <= most);
        let least = steps.map(|l| (self.on(l) - start) / (l - base)).fold(f64::INFINITY, f64::min);
        if least.is_finite() { least.max(0.0) } else { 0.0 }
    }

    /// The level at which it draws what it draws now: from there on, errors count the other way.
    fn kink(&self, capacity: f64) -> f64 {
        let (mut low, mut high) = (0.0, capacity);
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if self.node.watts(middle) < self.now { low = middle } else { high = middle }
        }
        high
    }
}

/// A node that may be on.
pub(crate) struct Bin<'a> {
    pub(crate) drawn: Drawn<'a>,
    /// Has to stay on.
    pub(crate) keep: bool,
    /// May be woken only to save.
    pub(crate) wakes: bool,
    pub(crate) room: Vec<u64>,
    /// Used by what stays.
    pub(crate) used: Vec<u64>,
    pub(crate) level: f64,
    pub(crate) zone: usize,
    pub(crate) pool: usize,
}

/// A workload that has to have a place.
#[derive(PartialEq)]
pub(crate) struct Item {
    pub(crate) need: Vec<u64>,
    pub(crate) level: f64,
    pub(crate) home: Option<usize>,
    /// Watts that moving it counts for.
    pub(crate) cost: f64,
    /// Nodes that labels and taints let it on, as bits.
    pub(crate) mask: u32,
    pub(crate) group: Option<usize>,
    pub(crate) avoid: Vec<usize>,
    pub(crate) per_node: u32,
    pub(crate) per_zone: u32,
}

/// Nodes of which some have to be on.
pub(crate) struct Lock {
    pub(crate) mask: u32,
    /// So many, before any may go off.
    pub(crate) keep: u32,
    /// So many in any case.
    pub(crate) least: u32,
}

/// Who is beside whom: members of groups, and those that avoid them.
#[derive(Clone)]
pub(crate) struct Company {
    pub(crate) bins: usize,
    pub(crate) zones: usize,
    /// By group and node.
    pub(crate) members: Vec<u32>,
    pub(crate) avoiders: Vec<u32>,
    /// By group and zone.
    pub(crate) in_zone: Vec<u32>,
}

impl Company {
    /// Counts a workload in or out.
    pub(crate) fn count(&mut self, item: &Item, bin: Option<usize>, zone: usize, add: bool) {
        let step = |count: &mut u32| *count = if add { *count + 1 } else { count.saturating_sub(1) };
        if let Some(g) = item.group {
            step(&mut self.in_zone[g * self.zones + zone]);
            if let Some(b) = bin {
                step(&mut self.members[g * self.bins + b]);
            }
        }
        if let Some(b) = bin {
            item.avoid.iter().for_each(|g| step(&mut self.avoiders[g * self.bins + b]));
        }
    }

    fn allows(&self, item: &Item, bin: usize, zone: usize) -> bool {
        let at = |g: usize| g * self.bins + bin;
        item.group.is_none_or(|g| {
            self.members[at(g)] < item.per_node
                && self.in_zone[g * self.zones + zone] < item.per_zone
                && self.avoiders[at(g)] == 0
        }) && item.avoid.iter().all(|&g| self.members[at(g)] == 0)
    }

    fn column(&self, bin: usize) -> impl Iterator<Item = u32> {
        let groups = (0..self.members.len()).skip(bin).step_by(self.bins.max(1));
        groups.flat_map(|i| [self.members[i], self.avoiders[i]])
    }
}

/// The question.
pub(crate) struct Search<'a> {
    pub(crate) bins: Vec<Bin<'a>>,
    /// The largest first.
    pub(crate) items: Vec<Item>,
    pub(crate) locks: Vec<Lock>,
    pub(crate) company: Company,
    /// Nodes that may fail, and the share of CPU that stays free.
    pub(crate) reserve: (usize, f64),
    /// Thousandths of a CPU that stay free beside it.
    pub(crate) foreseen: f64,
    pub(crate) dims: usize,
    /// Watts of everything that is not in question.
    pub(crate) constant: f64,
    /// Places that may still be looked at.
    pub(crate) left: u64,
}

/// The answer.
pub(crate) struct Target {
    /// Nodes that are on, as bits.
    pub(crate) set: u32,
    /// Where each item is.
    pub(crate) at: Vec<usize>,
    /// Items that come or move, in an order in which each finds room.
    pub(crate) order: Vec<usize>,
}

/// An order in the making.
struct Order {
    used: Vec<u64>,
    company: Company,
    /// Items that are not where they shall be.
    left: Vec<usize>,
    done: Vec<usize>,
    /// Items left from which there was no way on.
    dead: BTreeSet<Vec<usize>>,
    tries: u64,
}

/// A set of nodes that is looked into.
struct Set {
    bits: u32,
    on: Vec<usize>,
    /// Watts before any item is placed.
    start: f64,
    /// Watts that items from each on cost at least, each for itself.
    alone: Vec<f64>,
    /// Watts that items from each on cost that have to leave their node.
    forced: Vec<f64>,
}

/// Where the search stands.
struct Trail {
    used: Vec<u64>,
    level: Vec<f64>,
    at: Vec<usize>,
    company: Company,
    /// Places looked at that this set has left.
    left: u64,
    limit: f64,
    found: Option<(Vec<usize>, Vec<usize>)>,
}

/// What is known of items and nodes before any set is looked at.
struct Known {
    slopes: Vec<f64>,
    flattest: Vec<usize>,
    twins: Vec<usize>,
    rest_need: Vec<Vec<u64>>,
    rest_level: Vec<f64>,
    /// Most use per thousandth asked for.
    ratio: f64,
    lit: u32,
    waits: bool,
}

impl Search<'_> {
    /// The best placement below `limit` watts; `None` if there is none, or none was found.
    pub(crate) fn best(&mut self, limit: f64) -> Option<Target> {
        let known = self.known();
        let mut sets: Vec<(f64, u32)> = (0..1_u32 << self.bins.len())
            .filter(|&bits| self.allowed(bits, &known))
            .filter_map(|bits| Some((self.least(bits, &known)?, bits)))
            .filter(|(least, _)| *least < limit)
            .collect();
        sets.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (mut limit, mut best, mut turn) = (limit, None, TURN);
        while !sets.is_empty() && self.left > 0 {
            let mut again = Vec::new();
            for (least, bits) in sets {
                if least >= limit || self.left == 0 {
                    break;
                }
                let set = self.set(bits, &known);
                let mut trail = self.trail(limit, turn);
                self.place(&set, &known, &mut trail, 0, set.start);
                self.left = self.left.saturating_sub(turn - trail.left);
                if trail.left == 0 {
                    again.push((least, bits));
                }
                if let Some((at, order)) = trail.found {
                    limit = trail.limit;
                    best = Some(Target { set: bits, at, order });
                }
            }
            (sets, turn) = (again, turn * 8);
        }
        best
    }

    fn known(&self) -> Known {
        let all: f64 = self.items.iter().map(|i| i.level).sum();
        let slopes: Vec<f64> = self.bins.iter().map(|b| b.drawn.slope(b.level, b.level + all)).collect();
        let mut flattest: Vec<usize> = (0..self.bins.len()).collect();
        flattest.sort_by(|&a, &b| slopes[a].total_cmp(&slopes[b]).then(a.cmp(&b)));
        let mut rest_need = vec![vec![0; self.dims]; self.items.len() + 1];
        let mut rest_level = vec![0.0; self.items.len() + 1];
        for (i, item) in self.items.iter().enumerate().rev() {
            rest_level[i] = rest_level[i + 1] + item.level;
            rest_need[i] =
                rest_need[i + 1].iter().zip(&item.need).map(|(a, b): (&u64, &u64)| a.saturating_add(*b)).collect();
        }
        let ratio = |i: &Item| if i.level > 0.0 { i.level / i.need[CPU] as f64 } else { 0.0 };
        Known {
            twins: self.twins(),
            slopes,
            flattest,
            rest_need,
            rest_level,
            ratio: self.items.iter().map(ratio).fold(0.0, f64::max),
            lit: mask(self.bins.iter().map(|b| b.drawn.lit)),
            waits: self.items.iter().any(|i| i.home.is_none()),
        }
    }

    /// Nodes that are alike in everything that matters, by the first of them.
    fn twins(&self) -> Vec<usize> {
        let free = self.items.iter().all(|i| i.cost <= 0.0);
        let signature = |b: usize| {
            let bin = &self.bins[b];
            let node = bin.drawn.node;
            let error = node.curve.error();
            let homely = self.items.iter().any(|i| i.home == Some(b)) && !free;
            let figures = [error, error * bin.drawn.now, node.off_watts, bin.drawn.boot, bin.level];
            let mut key: Vec<u64> = node.curve.knots().iter().chain(&figures).map(|v| v.to_bits()).collect();
            key.extend(bin.room.iter().chain(&bin.used));
            key.extend([node.capacity.cpu_milli, node.reserved_use_milli]);
            key.extend([bin.drawn.lit, bin.keep, bin.wakes].map(u64::from));
            key.extend([bin.zone, bin.pool, if homely { b + 1 } else { 0 }].map(|v| v as u64));
            key.extend(self.items.iter().map(|i| u64::from(i.mask >> b & 1)));
            key.extend(self.locks.iter().map(|l| u64::from(l.mask >> b & 1)));
            key.extend(self.company.column(b).map(u64::from));
            key
        };
        let keys: Vec<Vec<u64>> = (0..self.bins.len()).map(signature).collect();
        keys.iter().map(|key| keys.iter().position(|other| other == key).unwrap_or(0)).collect()
    }

    /// Whether rules let exactly these nodes be on, and they have room for all in sum.
    fn allowed(&self, set: u32, known: &Known) -> bool {
        let (woken, off) = (set & !known.lit, known.lit & !set);
        let has = |b: usize| set >> b & 1 == 1;
        let pool = |bits: u32, p: usize| (0..self.bins.len()).any(|b| bits >> b & 1 == 1 && self.bins[b].pool == p);
        for (b, bin) in self.bins.iter().enumerate() {
            let woken_here = woken >> b & 1 == 1;
            if bin.keep && !has(b)
                || woken_here && (!bin.wakes && !known.waits || pool(off, bin.pool))
                // of twins, the first ones are on
                || has(b) && (known.twins[b]..b).any(|o| known.twins[o] == known.twins[b] && !has(o))
            {
                return false;
            }
        }
        let locks = self.locks.iter().all(|lock| {
            let on = (set & lock.mask).count_ones();
            on >= lock.least && (off & lock.mask == 0 || on >= lock.keep)
        });
        let room = |d: usize| {
            let free = |b: &Bin<'_>| b.room[d].saturating_sub(b.used[d]);
            self.bins.iter().enumerate().filter(|(b, _)| has(*b)).map(|(_, b)| free(b)).fold(0, u64::saturating_add)
        };
        locks && (0..self.dims).all(|d| known.rest_need[0][d] <= room(d))
    }

    /// Watts before any item is placed.
    fn start(&self, set: u32) -> f64 {
        let of = |(b, bin): (usize, &Bin<'_>)| {
            if set >> b & 1 == 1 { bin.drawn.on(bin.level) } else { bin.drawn.off() }
        };
        self.constant + self.bins.iter().enumerate().map(of).sum::<f64>()
    }

    /// Watts that no placement on the set is below; `None` if there is none.
    fn least(&self, bits: u32, known: &Known) -> Option<f64> {
        let set = Set { bits, on: on(bits, known), start: self.start(bits), alone: Vec::new(), forced: Vec::new() };
        let used: Vec<u64> = self.bins.iter().flat_map(|b| b.used.iter().copied()).collect();
        let leaves = |i: &&Item| i.home.is_some_and(|h| bits >> h & 1 == 0);
        let forced: f64 = self.items.iter().filter(leaves).map(|i| i.cost).sum();
        Some(set.start + forced + self.poured(&set, known, &used, 0)?)
    }

    fn set(&self, bits: u32, known: &Known) -> Set {
        let on = on(bits, known);
        let (mut alone, mut forced) = (vec![0.0; self.items.len() + 1], vec![0.0; self.items.len() + 1]);
        for (i, item) in self.items.iter().enumerate().rev() {
            let costs = on.iter().filter(|&&b| item.mask >> b & 1 == 1);
            let least = costs.map(|&b| known.slopes[b] * item.level + item.moving(b)).fold(f64::INFINITY, f64::min);
            let stays = item.home.is_none_or(|h| bits >> h & 1 == 1 && item.mask >> h & 1 == 1);
            alone[i] = alone[i + 1] + least;
            forced[i] = forced[i + 1] + if stays { 0.0 } else { item.cost };
        }
        Set { bits, on, start: self.start(bits), alone, forced }
    }

    fn trail(&self, limit: f64, left: u64) -> Trail {
        Trail {
            used: self.bins.iter().flat_map(|b| b.used.iter().copied()).collect(),
            level: self.bins.iter().map(|b| b.level).collect(),
            at: vec![0; self.items.len()],
            company: self.company.clone(),
            left: left.min(self.left),
            limit,
            found: None,
        }
    }

    /// Watts of the use that is left from item `from` on if it could be split at will; `None` if there is no room.
    fn poured(&self, set: &Set, known: &Known, used: &[u64], from: usize) -> Option<f64> {
        let free = |b: usize, d: usize| self.bins[b].room[d].saturating_sub(used[b * self.dims + d]);
        for (d, &need) in known.rest_need[from].iter().enumerate() {
            if need > 0 && set.on.iter().map(|&b| free(b, d)).fold(0, u64::saturating_add) < need {
                return None;
            }
        }
        let (mut rest, mut watts) = (known.rest_level[from], 0.0);
        for &b in &set.on {
            let here = rest.min(free(b, CPU) as f64 * known.ratio);
            // nothing times a ratio without end is no number
            let here = if here.is_nan() { rest } else { here };
            watts += here * known.slopes[b];
            rest -= here;
        }
        Some(watts)
    }

    /// Places items from `i` on. `so_far` is what counts already, by the straight lines below the curves.
    fn place(&self, set: &Set, known: &Known, trail: &mut Trail, i: usize, so_far: f64) {
        if trail.left == 0 {
            return;
        }
        trail.left -= 1;
        let Some(item) = self.items.get(i) else {
            return self.arrive(set, trail);
        };
        let Some(poured) = self.poured(set, known, &trail.used, i) else { return };
        if so_far + (poured + set.forced[i]).max(set.alone[i]) >= trail.limit {
            return;
        }
        // what is just like the one before goes to the same node or a later one
        let from = if i > 0 && self.items[i - 1] == *item { trail.at[i - 1] } else { 0 };
        let mut options: Vec<(f64, usize)> = Vec::with_capacity(set.on.len());
        for &b in &set.on {
            let bin = &self.bins[b];
            if b < from || item.mask >> b & 1 == 0 || !self.fits(item, b, trail) {
                continue;
            }
            if options.iter().any(|&(_, o)| known.twins[o] == known.twins[b] && self.same(o, b, trail)) {
                continue;
            }
            let more = bin.drawn.on(trail.level[b] + item.level) - bin.drawn.on(trail.level[b]);
            options.push((more + item.moving(b), b));
        }
        options.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (_, b) in options {
            let before = trail.level[b];
            let used = b * self.dims..(b + 1) * self.dims;
            trail.at[i] = b;
            trail.level[b] += item.level;
            trail.used[used.clone()].iter_mut().zip(&item.need).for_each(|(u, n)| *u += n);
            trail.company.count(item, Some(b), self.bins[b].zone, true);
            let more = known.slopes[b] * item.level + item.moving(b);
            self.place(set, known, trail, i + 1, so_far + more);
            trail.company.count(item, Some(b), self.bins[b].zone, false);
            trail.used[used].iter_mut().zip(&item.need).for_each(|(u, n)| *u -= n);
            trail.level[b] = before;
        }
    }

    fn fits(&self, item: &Item, b: usize, trail: &Trail) -> bool {
        self.has_room(item, b, &trail.used) && trail.company.allows(item, b, self.bins[b].zone)
    }

    /// Whether two nodes that are alike are filled alike, too.
    fn same(&self, a: usize, b: usize, trail: &Trail) -> bool {
        let used = |b: usize| &trail.used[b * self.dims..(b + 1) * self.dims];
        used(a) == used(b)
            && trail.level[a].to_bits() == trail.level[b].to_bits()
            && trail.company.column(a).eq(trail.company.column(b))
    }

    /// Notes a complete placement if it is better than what is known.
    fn arrive(&self, set: &Set, trail: &mut Trail) {
        let of = |(b, bin): (usize, &Bin<'_>)| {
            if set.bits >> b & 1 == 1 { bin.drawn.on(trail.level[b]) } else { bin.drawn.off() }
        };
        let moves: f64 = self.items.iter().zip(&trail.at).map(|(item, b)| item.moving(*b)).sum();
        let watts = self.constant + self.bins.iter().enumerate().map(of).sum::<f64>() + moves;
        if watts < trail.limit
            && self.reserve_holds(set, trail)
            && let Some(order) = self.order(&trail.at.clone(), trail)
        {
            trail.limit = watts - BETTER * watts.abs();
            trail.found = Some((trail.at.clone(), order));
        }
    }

    /// An order in which everyone comes to its place by one move and always finds room; `None` if none is found.
    fn order(&self, at: &[usize], trail: &mut Trail) -> Option<Vec<usize>> {
        let used = self.bins.iter().flat_map(|b| b.used.iter().copied()).collect();
        let left = (0..self.items.len()).filter(|&i| self.items[i].home != Some(at[i])).collect();
        let company = self.company.clone();
        let mut order = Order { used, company, left, done: Vec::new(), dead: BTreeSet::new(), tries: ORDERS };
        for item in &self.items {
            item.home.into_iter().for_each(|home| self.book(item, home, &mut order, true));
        }
        let found = self.follow(at, &mut order);
        trail.left = trail.left.saturating_sub(ORDERS - order.tries);
        found.then_some(order.done)
    }

    /// Moves who can be moved, the largest first; takes it back if that leads nowhere.
    fn follow(&self, at: &[usize], order: &mut Order) -> bool {
        if order.left.is_empty() {
            return true;
        }
        if order.tries == 0 || !order.dead.insert(order.left.clone()) {
            return false;
        }
        order.tries -= 1;
        for k in 0..order.left.len() {
            let (i, item) = (order.left[k], &self.items[order.left[k]]);
            item.home.into_iter().for_each(|home| self.book(item, home, order, false));
            let moves =
                self.has_room(item, at[i], &order.used) && order.company.allows(item, at[i], self.bins[at[i]].zone);
            if moves {
                self.book(item, at[i], order, true);
                order.left.remove(k);
                order.done.push(i);
                if self.follow(at, order) {
                    return true;
                }
                order.done.pop();
                order.left.insert(k, i);
                self.book(item, at[i], order, false);
            }
            item.home.into_iter().for_each(|home| self.book(item, home, order, true));
        }
        false
    }

    fn book(&self, item: &Item, b: usize, order: &mut Order, add: bool) {
        for (used, need) in order.used[b * self.dims..].iter_mut().zip(&item.need) {
            *used = if add { used.saturating_add(*need) } else { used.saturating_sub(*need) };
        }
        order.company.count(item, Some(b), self.bins[b].zone, add);
    }

    fn has_room(&self, item: &Item, b: usize, used: &[u64]) -> bool {
        let (used, room) = (&used[b * self.dims..], &self.bins[b].room);
        (0..self.dims).all(|d| item.need[d] == 0 || used[d].saturating_add(item.need[d]) <= room[d])
    }

    fn reserve_holds(&self, set: &Set, trail: &Trail) -> bool {
        let (nodes, share) = self.reserve;
        (nodes == 0 && share <= 0.0 && self.foreseen <= 0.0)
            || (0..2.min(self.dims)).all(|d| {
                let mut used: Vec<f64> = set.on.iter().map(|&b| trail.used[b * self.dims + d] as f64).collect();
                let room: f64 = set.on.iter().map(|&b| self.bins[b].room[d] as f64).sum();
                used.sort_by(|a, b| b.total_cmp(a));
                let failing: f64 = used.iter().take(nodes).sum();
                let (share, more) = if d == CPU { (share * room, self.foreseen) } else { (0.0, 0.0) };
                room - used.iter().sum::<f64>() - more >= failing.max(share)
            })
    }
}

impl Item {
    /// Watts that count for having it on a node.
    fn moving(&self, b: usize) -> f64 {
        if self.home.is_some_and(|h| h != b) { self.cost } else { 0.0 }
    }
}

/// Nodes of a set, the flattest first.
fn on(set: u32, known: &Known) -> Vec<usize> {
    known.flattest.iter().copied().filter(|b| set >> b & 1 == 1).collect()
}

/// Bits that are set where `of` says so.
pub(crate) fn mask(of: impl Iterator<Item = bool>) -> u32 {
    of.enumerate().fold(0, |mask, (i, is)| mask | u32::from(is) << i)
}
