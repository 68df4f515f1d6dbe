//! Fleets of a few nodes: the best set of nodes to be on and the best placement are searched for, rather than taken from
//! a relaxation that knows nothing of whole nodes.
//!
//! What the usual rounds lead to is the one to beat. What is found obeys the same rules as they do: `search.rs` is told
//! what may be switched and moved, `arrange.rs` brings the result into an order of which every prefix is harmless.

use super::Planner;
use super::facts::{FN, Facts};
use super::hold::can_wake;
use super::pack::Pack;
use super::problem::{N, Problem, W};
use super::search::{Bin, Company, Drawn, Item, Lock, Search, Target, mask};
use crate::policy::Basis;
use crate::state::node::PowerState;

/// Most nodes that can be on, and most workloads.
const NODES: usize = 12;
const WORK: usize = 200;
/// Places of workloads that are looked at, for up to so many workloads; fewer for more, as each takes longer.
const EFFORT: u64 = 100_000;
const FULL_EFFORT: u64 = 20;
/// Share by which it has to be better than what the usual rounds lead to.
const BETTER: f64 = 1e-3;
/// Share of all watts that moving everything counts for at least: no move without a reason, even if it costs nothing.
const NUDGE: f64 = 3e-4;
/// Times that a target is looked for of which every step can be carried out.
const TRIES: usize = 4;

/// What a plan leads to: lower is better.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(crate) struct Outcome {
    /// Workloads that find no place.
    pub(crate) waiting: usize,
    /// Watts, with all that it costs spread over the horizon.
    pub(crate) watts: f64,
}

impl Outcome {
    /// What `after` is worth, for those who are at `problem`.
    pub(crate) fn of(problem: &Problem<'_>, planner: &Planner<'_, '_>, after: &Facts<'_>) -> Self {
        let mut level = vec![0.0; problem.nodes.len()];
        let mut at: Vec<N> = vec![0; problem.nodes.len()];
        for (n, p) in problem.nodes.iter().enumerate() {
            at[p.fact] = n;
        }
        let (mut waiting, mut moves) = (0, 0.0);
        for (w, work) in problem.work.iter().enumerate() {
            let place = after.works[work.fact].home.map(|n: FN| at[n]);
            match place {
                Some(n) => level[n] += work.level,
                None => waiting += usize::from(!work.of_node),
            }
            if work.home.is_some() && work.home != place {
                moves += weight(problem) * planner.move_cost(w);
            }
        }
        let watts = problem.nodes.iter().enumerate().map(|(n, p)| {
            let drawn = drawn(planner, n);
            if after.nodes[p.fact].power == PowerState::Off { drawn.off() } else { drawn.on(level[n]) }
        });
        Self { waiting, watts: watts.sum::<f64>() + moves }
    }

    /// Whether it is so much better than `other` that it is worth being taken.
    pub(crate) fn beats(self, other: Self) -> bool {
        (self.waiting, self.watts) < (other.waiting, other.watts - BETTER * other.watts.abs())
    }
}

/// Watts that a joule of cost counts for.
fn weight(problem: &Problem<'_>) -> f64 {
    problem.policy.margin / problem.policy.horizon_s.max(1) as f64
}

fn drawn<'a>(planner: &Planner<'_, 'a>, n: N) -> Drawn<'a> {
    let node = planner.problem.nodes[n].node;
    Drawn {
        node,
        now: planner.pack.watts(n),
        lit: planner.pack.lit[n],
        boot: weight(planner.problem) * node.boot.joules(),
    }
}

/// Whether the fleet is small enough.
pub(crate) fn is_small(problem: &Problem<'_>) -> bool {
    let may_be_on = (0..problem.nodes.len()).filter(|&n| problem.nodes[n].open || can_wake(problem, n)).count();
    problem.policy.basis == Basis::Requests && may_be_on <= NODES && problem.work.len() <= WORK
}

impl<'p, 'a> Planner<'p, 'a> {
    /// Decides on something better than what leads to `usual`; no steps if nothing is found.
    pub(crate) fn surpass(&mut self, facts: &Facts<'_>, usual: &Facts<'_>) {
        let mut table = Table::new(self, facts, usual);
        // what has outgrown its node is relieved first, by as few moves as will do
        if table.bins.is_empty() || table.bins.iter().any(|&n| self.has_too_much(n)) {
            return;
        }
        let incumbent = Outcome::of(self.problem, self, usual).watts;
        let limit = incumbent - BETTER * incumbent.abs();
        let before = self.pack.clone();
        let effort = EFFORT * FULL_EFFORT / (self.problem.work.len() as u64).max(FULL_EFFORT);
        for round in 1..=TRIES {
            // what was looked for in vain before is not looked for as long again
            let left = if round == 1 { effort } else { effort / 4 };
            let mut search = table.search(self, left.min(self.pack.effort));
            let target = search.best(limit);
            let Some(target) = target else { return };
            // emptying whole nodes reads best; the order that was found leads there in any case but for the reserve
            let stuck = self.arrange(&table, &target, true).and_then(|_| {
                self.start_over(&before);
                self.arrange(&table, &target, false)
            });
            let Some(w) = stuck else { return };
            if round == TRIES {
                return;
            }
            // somebody waits for room that never comes: without that one, there may be a way
            let to = table.items.iter().zip(&target.at).find(|(i, _)| **i == w).map(|(_, b)| table.bins[*b]);
            table.closed.extend(to.map(|n| (w, n)));
            self.start_over(&before);
        }
    }

    fn start_over(&mut self, before: &Pack<'p, 'a>) {
        self.pack = before.clone();
        self.steps.clear();
        self.woken.clear();
        self.verdicts.fill(None);
    }

    fn has_too_much(&self, n: N) -> bool {
        self.pack.open[n]
            && self.pack.loads[n].used.iter().zip(self.problem.nodes[n].room.iter()).any(|(used, room)| used > room)
    }

    fn arrange(&mut self, table: &Table, target: &Target, whole: bool) -> Option<W> {
        let on = |b: usize| target.set >> b & 1 == 1;
        let nodes = table.bins.iter().enumerate();
        let woken: Vec<N> = nodes.clone().filter(|(b, n)| on(*b) && !self.pack.lit[**n]).map(|(_, n)| *n).collect();
        let off: Vec<N> = nodes.filter(|(b, n)| !on(*b) && self.pack.lit[**n]).map(|(_, n)| *n).collect();
        let places: Vec<(W, N)> = target.order.iter().map(|&i| (table.items[i], table.bins[target.at[i]])).collect();
        self.carry_over(woken, off, &places, whole)
    }
}

/// Which nodes and workloads are in question.
struct Table {
    bins: Vec<N>,
    /// The largest first.
    items: Vec<W>,
    /// By node: whether it has to stay on.
    keep: Vec<bool>,
    /// By node: whether it may be woken only to save.
    wakes: Vec<bool>,
    /// By interlock with a number: open nodes that it has in the end by the usual rounds.
    least: Vec<u32>,
    /// Watts that a move counts for at least.
    nudge: f64,
    /// Where workloads wanted to go and found no way.
    closed: Vec<(W, N)>,
}

impl Table {
    fn new(planner: &mut Planner<'_, '_>, facts: &Facts<'_>, usual: &Facts<'_>) -> Self {
        let problem = planner.problem;
        let fact = |n: N| problem.nodes[n].fact;
        let in_the_end = |w: W| usual.works[problem.work[w].fact].home;
        let waiting: Vec<W> =
            (0..problem.work.len()).filter(|&w| problem.work[w].home.is_none() && !problem.work[w].of_node).collect();
        let (placed, missed): (Vec<W>, Vec<W>) = waiting.iter().partition(|&&w| in_the_end(w).is_some());
        planner.waiting = waiting;
        let mut bins = Vec::new();
        let (mut keep, mut wakes) = (vec![false; problem.nodes.len()], vec![false; problem.nodes.len()]);
        for (n, p) in problem.nodes.iter().enumerate() {
            let f = fact(n);
            // what was switched by the plan is not switched again by it
            let may_wake = can_wake(problem, n) && !facts.nodes[f].switched;
            let rested = problem.now.since(facts.since(f)) > problem.policy.min_off_s as f64;
            let may_save =
                p.node.wake_proven && rested && facts.switched_today(f) < problem.policy.switches_per_day as usize;
            wakes[n] = may_save || usual.nodes[f].power == PowerState::On;
            if p.open || may_wake && (wakes[n] || !placed.is_empty()) {
                bins.push(n);
            }
        }
        let mut items = placed;
        for (w, work) in problem.work.iter().enumerate() {
            let Some(n) = work.home.filter(|_| !work.of_node) else { continue };
            if work.movable && problem.nodes[n].open && planner.budget_used_up(w).is_none() {
                items.push(w);
            } else {
                keep[n] = true;
            }
        }
        for &n in bins.iter().filter(|&&n| problem.nodes[n].lit) {
            let room = &problem.nodes[n].room;
            let fits = |w: &W| {
                problem.admits(*w, n) && problem.work[*w].need.iter().zip(room.iter()).all(|(need, room)| need <= room)
            };
            // a node that goes off may be just what a workload lacks that found no place
            keep[n] |= planner.holds[n].is_some() || missed.iter().any(fits);
        }
        let size = |w: W| {
            let share = |d: usize| {
                let most = bins.iter().map(|&n| problem.nodes[n].room[d]).max().unwrap_or(0);
                problem.work[w].need[d] as f64 / most.max(1) as f64
            };
            (0..problem.dims).map(share).fold(0.0, f64::max)
        };
        items.sort_by(|&a, &b| {
            let alike = |w: W| (problem.work[w].home, problem.work[w].class, problem.work[w].group);
            size(b).total_cmp(&size(a)).then(alike(a).cmp(&alike(b))).then(a.cmp(&b))
        });
        let open = |n: N| match usual.nodes[fact(n)].power {
            PowerState::On => problem.nodes[n].open || !problem.nodes[n].lit,
            _ => false,
        };
        let matching = |lock: &crate::policy::Interlock| {
            let nodes = (0..problem.nodes.len()).filter(|&n| lock.nodes.matches(problem.nodes[n].node) && open(n));
            u32::try_from(nodes.count()).unwrap_or(u32::MAX).min(lock.keep.unwrap_or(0))
        };
        let least = problem.policy.interlocks.iter().map(matching).collect();
        let nudge = NUDGE * planner.pack.total_watts() / items.len().max(1) as f64;
        Self { bins, items, keep, wakes, least, nudge, closed: Vec::new() }
    }

    fn search<'a>(&self, planner: &Planner<'_, 'a>, left: u64) -> Search<'a> {
        let (problem, policy) = (planner.problem, planner.problem.policy);
        let bin_of = |n: N| self.bins.iter().position(|&other| other == n);
        let mut in_question = vec![false; problem.work.len()];
        for &w in &self.items {
            in_question[w] = true;
        }
        let zoned = problem.work.iter().any(|w| w.per_zone != u32::MAX);
        let zone = |n: N| if zoned { problem.nodes[n].zone } else { 0 };
        let mut pools: Vec<&str> = problem.nodes.iter().map(|p| p.node.pool.as_str()).collect();
        pools.sort_unstable();
        pools.dedup();
        let mut company = Company {
            bins: self.bins.len(),
            zones: problem.zones,
            members: vec![0; problem.groups.len() * self.bins.len()],
            avoiders: vec![0; problem.groups.len() * self.bins.len()],
            in_zone: vec![0; problem.groups.len() * problem.zones],
        };
        let mut used = vec![vec![0_u64; problem.dims]; problem.nodes.len()];
        let mut level = vec![0.0; problem.nodes.len()];
        let mut stays = self.keep.clone();
        for (w, work) in problem.work.iter().enumerate().filter(|(w, _)| !in_question[*w]) {
            let Some(n) = work.home else { continue };
            used[n].iter_mut().zip(work.need.iter()).for_each(|(sum, need)| *sum = sum.saturating_add(*need));
            level[n] += work.level;
            stays[n] |= !work.of_node;
            company.count(&self.item(planner, w), bin_of(n), zone(n), true);
        }
        let bin = |&n: &N| Bin {
            drawn: drawn(planner, n),
            keep: stays[n] && problem.nodes[n].lit,
            wakes: self.wakes[n],
            room: problem.nodes[n].room.to_vec(),
            used: used[n].clone(),
            level: level[n],
            zone: zone(n),
            pool: pools.binary_search(&problem.nodes[n].node.pool.as_str()).unwrap_or(0),
        };
        let locks = policy.interlocks.iter().zip(&self.least).filter_map(|(lock, &least)| {
            let mask = mask(self.bins.iter().map(|&n| lock.nodes.matches(problem.nodes[n].node)));
            Some(Lock { mask, keep: lock.keep?, least })
        });
        let beside = (0..problem.nodes.len()).filter(|n| !self.bins.contains(n));
        Search {
            items: self.items.iter().map(|&w| self.item(planner, w)).collect(),
            locks: locks.collect(),
            company,
            reserve: (policy.reserve.nodes as usize, policy.reserve.cpu),
            foreseen: problem.foreseen,
            dims: problem.dims,
            constant: beside.map(|n| planner.pack.watts(n)).sum(),
            left,
            bins: self.bins.iter().map(bin).collect(),
        }
    }

    fn item(&self, planner: &Planner<'_, '_>, w: W) -> Item {
        let (problem, work) = (planner.problem, &planner.problem.work[w]);
        let may = |n: N| work.home == Some(n) || problem.admits(w, n);
        Item {
            need: work.need.to_vec(),
            level: work.level,
            home: work.home.and_then(|n| self.bins.iter().position(|&other| other == n)),
            cost: (weight(problem) * planner.move_cost(w)).max(self.nudge),
            mask: mask(self.bins.iter().map(|&n| may(n) && !self.closed.contains(&(w, n)))),
            group: work.group,
            avoid: work.avoid.to_vec(),
            per_node: work.per_node,
            per_zone: work.per_zone,
        }
    }
}
