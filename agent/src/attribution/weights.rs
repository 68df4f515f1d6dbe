//! How much of each package a task stands for in one interval.
//!
//! The unit is nanoseconds of a core: CPU time, less where the core's other thread was busy as well. Two busy
//! siblings draw about 15 % more than one, so each of the two stands for 1.15 / 2 of a core (figure: METRION's
//! measurements on SMT machines; the same order is reported by Intel for Hyper-Threading).
//!
//! Where hardware counters tell what ran, tasks have [`Terms`] beside that, and weigh what those cost (`mix`).

use super::Basis;
use super::mix::{Prices, TERMS, Terms, weight};
use super::split::Weight;
use crate::usage::cpu::CpuMeter;
use crate::usage::table::{Events, TaskIx};

/// What a CPU second costs while the sibling is busy, in parts of 1024 of what it costs alone: 1.15 / 2.
const SHARED_CORE: u64 = 589;
const WHOLE_CORE: u64 = 1024;

/// One consumer in one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Who.
    pub task: TaskIx,
    /// Decides ties, see [`crate::usage::table::Task::order`].
    pub order: u64,
    /// Resident memory in pages.
    pub rss_pages: u64,
}

/// The loads of one interval: who, and core nanoseconds on each package.
#[derive(Debug, Default)]
pub struct Loads {
    /// Who ran.
    pub tasks: Vec<Load>,
    /// `sockets` figures per task.
    core_ns: Vec<u64>,
    /// As many; empty if there are no counters.
    terms: Vec<Terms>,
    sockets: usize,
    rss_total: u128,
}

impl Loads {
    /// No loads on a machine with this many packages.
    pub fn new(sockets: usize) -> Self {
        Self { sockets: sockets.max(1), ..Self::default() }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.tasks.clear();
        self.core_ns.clear();
        self.terms.clear();
        self.rss_total = 0;
    }

    /// Adds a task with its core nanoseconds on each package.
    pub fn push(&mut self, load: Load, core_ns: &[u64]) {
        self.rss_total += u128::from(load.rss_pages);
        self.tasks.push(load);
        for s in 0..self.sockets {
            self.core_ns.push(core_ns.get(s).copied().unwrap_or(0));
        }
    }

    /// Takes the terms of each task on each package; those that aren't known get the mean of a core's time there, or
    /// on all packages if nobody was counted there.
    fn fill_in(&mut self, terms: Vec<Option<Terms>>) {
        let mut known = vec![(0u64, [0u64; TERMS]); self.sockets + 1];
        for (i, (ns, terms)) in self.core_ns.iter().zip(&terms).enumerate() {
            let Some(terms) = terms else { continue };
            for at in [i % self.sockets, self.sockets] {
                if let Some((sum, all)) = known.get_mut(at) {
                    *sum = sum.saturating_add(*ns);
                    add(all, terms);
                }
            }
        }
        let everywhere = known.pop().unwrap_or_default();
        let fill = |(i, (ns, terms)): (usize, (&u64, Option<Terms>))| {
            terms.unwrap_or_else(|| {
                let here = known.get(i % self.sockets).filter(|k| k.0 > 0).unwrap_or(&everywhere);
                here.1.map(|t| {
                    let mean = (u128::from(t) * u128::from(*ns)).checked_div(u128::from(here.0)).unwrap_or(0);
                    u64::try_from(mean).unwrap_or(u64::MAX)
                })
            })
        };
        self.terms = self.core_ns.iter().zip(terms).enumerate().map(fill).collect();
    }

    fn on(&self, task: usize, socket: Option<usize>) -> u64 {
        let row = self.core_ns.get(task * self.sockets..(task + 1) * self.sockets).unwrap_or_default();
        match socket {
            Some(s) => row.get(s).copied().unwrap_or(0),
            None => row.iter().fold(0, |a, &b| a.saturating_add(b)),
        }
    }

    /// What all tasks did on one package, or on all; `None` if there are no counters.
    pub fn total(&self, socket: Option<usize>) -> Option<Terms> {
        if self.terms.is_empty() {
            return None;
        }
        let mut sum = [0u64; TERMS];
        for (_, terms) in self.terms.iter().enumerate().filter(|(i, _)| socket.is_none_or(|s| i % self.sockets == s)) {
            add(&mut sum, terms);
        }
        Some(sum)
    }

    fn terms_on(&self, task: usize, socket: Option<usize>) -> Terms {
        let row = self.terms.get(task * self.sockets..(task + 1) * self.sockets).unwrap_or_default();
        let mut sum = [0u64; TERMS];
        for (_, terms) in row.iter().enumerate().filter(|(i, _)| socket.is_none_or(|s| *i == s)) {
            add(&mut sum, terms);
        }
        sum
    }

    /// Writes each task's weight on a zone with this basis, in the order of [`Loads::tasks`]: by counters if there
    /// are some and it is known what they cost, else by time.
    pub fn weigh(&self, basis: Basis, prices: Option<&Prices>, out: &mut Vec<Weight>) {
        if let (Some(prices), Some(socket), false) = (prices, basis.socket(), self.terms.is_empty()) {
            out.clear();
            for (i, load) in self.tasks.iter().enumerate() {
                // 32 bits of price times 36 bits of events of a large machine: 16 of them are below what matters
                let weight = u64::try_from(weight(prices, &self.terms_on(i, socket)) >> 16).unwrap_or(u64::MAX);
                out.push(Weight { key: load.order, weight });
            }
            if out.iter().any(|w| w.weight > 0) {
                return;
            }
        }
        out.clear();
        let n = u128::try_from(self.tasks.len()).unwrap_or(1).max(1);
        for (i, load) in self.tasks.iter().enumerate() {
            let weight = match basis {
                Basis::Socket(s) => self.on(i, Some(s)),
                Basis::Machine => self.on(i, None),
                Basis::Memory(s) => {
                    // three quarters by CPU time, one by CPU time times resident memory over the mean of those who
                    // ran: who has much memory may use the caches less well, but how much less isn't known here
                    let cpu = u128::from(self.on(i, s));
                    let by_rss =
                        cpu.saturating_mul(u128::from(load.rss_pages)).saturating_mul(n) / self.rss_total.max(1);
                    let sum = cpu.saturating_mul(3).saturating_add(by_rss.min(cpu.saturating_mul(4)));
                    u64::try_from(sum / 4).unwrap_or(u64::MAX)
                }
                Basis::Nobody => 0,
            };
            out.push(Weight { key: load.order, weight });
        }
    }
}

/// CPU time of one task, before it is known on which package it ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Who.
    pub load: Load,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// The CPU it last ran on; `None` if it may have run anywhere.
    pub cpu: Option<u32>,
    /// What counters told.
    pub events: Option<Events>,
}

/// Spreads CPU time over packages and weighs it by how cores were shared.
///
/// A task with one thread ran where it was last seen. The others share what is left of each package's busy time.
/// Events go where the time goes. Who has none while others do is taken to have the mean of what a core's time had.
pub fn spread(demands: &[Demand], meter: &CpuMeter, dt_ns: u64, loads: &mut Loads) {
    let topology = meter.topology();
    let sockets = usize::try_from(topology.sockets).unwrap_or(1).max(1);
    loads.clear();
    loads.sockets = sockets;
    let mut busy = vec![0u64; sockets];
    let mut cost = vec![(0u128, 0u128); sockets];
    for (cpu, interval) in topology.cpus.iter().zip(&meter.last) {
        let s = cpu.socket as usize;
        if let (Some(b), Some(c)) = (busy.get_mut(s), cost.get_mut(s)) {
            *b += interval.busy_ns;
            c.0 += u128::from(interval.busy_ns) * u128::from(factor(cpu.sibling, meter, dt_ns));
            c.1 += u128::from(interval.busy_ns);
        }
    }
    // what a CPU second costs on each package on average
    let mean: Vec<u64> = cost
        .iter()
        .map(|&(sum, n)| sum.checked_div(n).and_then(|c| u64::try_from(c).ok()).unwrap_or(WHOLE_CORE))
        .collect();
    let mut left = busy;
    let mut row = vec![0u64; sockets];
    let place = |d: &Demand| {
        let i = topology.position(d.cpu?)?;
        let cpu = topology.cpus.get(i)?;
        Some((cpu.socket as usize, factor(cpu.sibling, meter, dt_ns)))
    };
    for d in demands {
        if let Some((s, _)) = place(d)
            && let Some(l) = left.get_mut(s)
        {
            *l = l.saturating_sub(d.cpu_ns);
        }
    }
    let left_total: u128 = left.iter().map(|&x| u128::from(x)).sum();
    let counted = demands.iter().any(|d| events(d).is_some());
    let mut terms = Vec::new();
    for d in demands {
        row.fill(0);
        let mut put = |s: usize, ns: u64, f: u64| {
            if let Some(r) = row.get_mut(s) {
                *r = ns.saturating_mul(f);
            }
            terms.push(events(d).map(|e| count(e, d.cpu_ns, ns, f)));
        };
        match place(d) {
            Some((here, f)) => (0..sockets).for_each(|s| if s == here { put(s, d.cpu_ns, f) } else { put(s, 0, f) }),
            None => {
                for (s, (&l, &f)) in left.iter().zip(&mean).enumerate() {
                    let share = (u128::from(d.cpu_ns) * u128::from(l)).checked_div(left_total);
                    let part = share.unwrap_or(u128::from(d.cpu_ns) / sockets as u128);
                    put(s, u64::try_from(part).unwrap_or(u64::MAX), f);
                }
            }
        }
        loads.push(d.load, &row);
    }
    if counted {
        loads.fill_in(terms);
    }
}

/// The events of who was counted. No cycles in time that was used means that its counter had no turn.
fn events(d: &Demand) -> Option<&Events> {
    d.events.as_ref().filter(|e| e.cycles > 0 && d.cpu_ns > 0)
}

/// The terms of `part_ns` of the `cpu_ns` in which these events came up, where a CPU second costs `factor`.
fn count(e: &Events, cpu_ns: u64, part_ns: u64, factor: u64) -> Terms {
    let whole = |x: u128| u64::try_from(x).unwrap_or(u64::MAX);
    let (all, part) = (u128::from(cpu_ns.max(1)), u128::from(part_ns));
    let here = |n: u64| u128::from(n) * part / all;
    let cycles = here(e.cycles) * u128::from(factor) / u128::from(WHOLE_CORE);
    // no core reaches 100 GHz: what claims to is a counter that was set anew
    let mhz = (u128::from(e.cycles) * 1000 / all).min(100_000);
    [
        whole(part * u128::from(factor) / u128::from(WHOLE_CORE)),
        whole(cycles),
        whole(cycles * mhz * mhz / 1_000_000),
        whole(here(e.instructions)),
        whole(here(e.misses)),
    ]
}

fn add(to: &mut Terms, terms: &Terms) {
    for (t, n) in to.iter_mut().zip(terms) {
        *t = t.saturating_add(*n);
    }
}

/// What a CPU second costs on a CPU with this sibling, in parts of 1024.
fn factor(sibling: Option<usize>, meter: &CpuMeter, dt_ns: u64) -> u64 {
    let Some(other) = sibling.and_then(|i| meter.last.get(i)) else { return WHOLE_CORE };
    let busy = other.busy_ns.min(dt_ns);
    WHOLE_CORE - (WHOLE_CORE - SHARED_CORE) * busy / dt_ns.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution::{Attribution, IdlePolicy, Interval, ZoneInterval, attribute};
    use crate::clock::Moment;
    use crate::usage::cpu::{Cpu, Topology};
    use crate::usage::stat::{CpuTicks, MachineStat};
    use ebbtide_proto::Energy;
    use proptest::prelude::*;
    use std::time::Duration;

    const S: u64 = 1_000_000_000;

    /// Two packages with one core of two threads each; busy shares in percent.
    fn meter(busy: [u64; 4]) -> CpuMeter {
        let cpu = |id, socket, sibling| Cpu { id, socket, sibling: Some(sibling) };
        let cpus = vec![cpu(0, 0, 1), cpu(1, 0, 0), cpu(2, 1, 3), cpu(3, 1, 2)];
        let mut m = CpuMeter::new(Topology { cpus, sockets: 2, packages: vec![0, 1] }, 100);
        let stat = |f: &dyn Fn(usize) -> u64| MachineStat {
            cpus: (0..4).map(|i| CpuTicks { cpu: i, not_run: f(i as usize), interrupts: 0 }).collect(),
            forks: None,
        };
        let s = Duration::from_secs(1);
        m.step(Moment::default(), &stat(&|_| 0), s);
        m.step(Moment::default().plus(s), &stat(&|i| 100 - busy[i]), s);
        m
    }

    fn demand(i: usize, cpu_ns: u64, cpu: Option<u32>) -> Demand {
        Demand { load: Load { task: TaskIx::test(i), order: i as u64, rss_pages: 1 }, cpu_ns, cpu, events: None }
    }

    fn weights(demands: &[Demand], m: &CpuMeter, basis: Basis) -> Vec<u64> {
        let (mut loads, mut out) = (Loads::new(2), Vec::new());
        spread(demands, m, S, &mut loads);
        loads.weigh(basis, None, &mut out);
        out.into_iter().map(|w| w.weight / S).collect()
    }

    #[test]
    fn a_pair_on_one_core_costs_fifteen_percent_more_than_one() {
        let m = meter([100, 100, 100, 0]);
        let d = [demand(0, S, Some(0)), demand(1, S, Some(1)), demand(2, S, Some(2))];
        assert_eq!(weights(&d, &m, Basis::Socket(0)), [SHARED_CORE, SHARED_CORE, 0]);
        assert_eq!(weights(&d, &m, Basis::Socket(1)), [0, 0, WHOLE_CORE]);
        let pair = 2.0 * SHARED_CORE as f64 / WHOLE_CORE as f64;
        assert!((pair - 1.15).abs() < 0.002, "{pair}");
    }

    #[test]
    fn threads_take_what_others_left_of_each_package() {
        // package 0: one second pinned; package 1: 1.5 s busy, none of it pinned
        let m = meter([100, 0, 75, 75]);
        let d = [demand(0, S, Some(0)), demand(1, 3 * S / 2, None)];
        let on0 = weights(&d, &m, Basis::Socket(0));
        let on1 = weights(&d, &m, Basis::Socket(1));
        assert_eq!(on0, [WHOLE_CORE, 0]);
        assert!(on1[0] == 0 && on1[1] > WHOLE_CORE, "{on1:?}");
    }

    #[test]
    fn nobody_means_nobody_and_memory_counts_a_quarter() {
        let m = meter([50, 0, 50, 0]);
        let mut d = [demand(0, S, Some(0)), demand(1, S, Some(2))];
        d[0].load.rss_pages = 300;
        d[1].load.rss_pages = 100;
        assert_eq!(weights(&d, &m, Basis::Nobody), [0, 0]);
        let w = weights(&d, &m, Basis::Memory(None));
        assert_eq!(w, [1024 * 9 / 8, 1024 * 7 / 8]);
    }

    fn counted(i: usize, cpu_ns: u64, cpu: Option<u32>, misses: u64) -> Demand {
        let events = Events { cycles: 2 * cpu_ns, instructions: cpu_ns, misses };
        Demand { events: Some(events), ..demand(i, cpu_ns, cpu) }
    }

    fn priced(demands: &[Demand], prices: &Prices, basis: Basis) -> Vec<u64> {
        let (mut loads, mut out) = (Loads::new(2), Vec::new());
        spread(demands, &meter([100, 0, 100, 0]), S, &mut loads);
        loads.weigh(basis, Some(prices), &mut out);
        out.into_iter().map(|w| w.weight).collect()
    }

    const BY_MISSES: Prices = [0, 0, 0, 0, 1 << 31];

    #[test]
    fn events_weigh_on_the_package_where_they_came_up() {
        let d = [counted(0, S, Some(0), 3000), counted(1, S, Some(2), 1000)];
        let on0 = priced(&d, &BY_MISSES, Basis::Memory(Some(0)));
        assert!(on0[0] > 0 && on0[1] == 0, "{on0:?}");
        let all = priced(&d, &BY_MISSES, Basis::Machine);
        assert_eq!(all[0], 3 * all[1]);
    }

    #[test]
    fn who_was_not_counted_costs_the_mean_of_those_who_were() {
        let d = [counted(0, S / 4, Some(0), 1000), counted(1, S / 4, Some(0), 3000), demand(2, S / 2, Some(0))];
        let w = priced(&d, &BY_MISSES, Basis::Socket(0));
        assert_eq!(w[2], w[0] + w[1]);
    }

    #[test]
    fn without_counters_prices_change_nothing() {
        let m = meter([100, 50, 100, 0]);
        let d = [demand(0, S, Some(0)), demand(1, S / 2, Some(1)), demand(2, S, None)];
        let (mut loads, mut by_time, mut by_price) = (Loads::new(2), Vec::new(), Vec::new());
        spread(&d, &m, S, &mut loads);
        for basis in [Basis::Socket(0), Basis::Machine, Basis::Memory(None), Basis::Nobody] {
            loads.weigh(basis, None, &mut by_time);
            loads.weigh(basis, Some(&BY_MISSES), &mut by_price);
            assert_eq!(by_time, by_price);
        }
        assert_eq!(loads.total(None), None);
    }

    #[test]
    fn time_decides_where_nothing_that_was_priced_came_up() {
        let d = [counted(0, S, Some(0), 0), counted(1, S / 2, Some(0), 0)];
        let w = priced(&d, &BY_MISSES, Basis::Socket(0));
        assert_eq!(w[0], 2 * w[1]);
        assert!(w[1] > 0);
    }

    proptest! {
        /// Any counters whatever: who did nothing weighs nothing, and the order makes no difference.
        #[test]
        fn any_events_weigh_something_sane(
            rows in prop::collection::vec((0..S, prop::option::of(0..4u32), any::<u64>(), any::<u64>(), any::<bool>()), 1..20),
            prices in prop::array::uniform5(any::<u32>()),
        ) {
            let d: Vec<Demand> = rows.iter().enumerate().map(|(i, &(ns, cpu, cycles, misses, on))| Demand {
                events: on.then_some(Events { cycles, instructions: cycles / 3, misses }),
                ..demand(i, ns, cpu)
            }).collect();
            for basis in [Basis::Socket(0), Basis::Socket(1), Basis::Machine, Basis::Memory(None)] {
                let w = priced(&d, &prices, basis);
                let mut back: Vec<Demand> = d.clone();
                back.reverse();
                let mut turned = priced(&back, &prices, basis);
                turned.reverse();
                prop_assert_eq!(&w, &turned);
                for (d, w) in d.iter().zip(w) {
                    prop_assert!(d.cpu_ns > 0 || w == 0);
                }
            }
        }

        /// Conservation to the microjoule for any events and prices.
        #[test]
        fn shares_by_events_add_up(
            rows in prop::collection::vec((0..S, any::<u64>(), any::<u64>()), 0..20),
            prices in prop::array::uniform5(any::<u32>()),
            energy in any::<u64>(),
            floor in any::<u64>(),
        ) {
            let d: Vec<Demand> = rows.iter().zip([0, 1, 2, 3].into_iter().cycle()).enumerate().map(|(i, (&(ns, cycles, misses), cpu))| Demand {
                events: Some(Events { cycles, instructions: misses, misses }),
                ..demand(i, ns, Some(cpu))
            }).collect();
            let mut loads = Loads::new(2);
            spread(&d, &meter([100, 0, 100, 0]), S, &mut loads);
            let (energy, floor) = (Energy::from_uj(energy), Energy::from_uj(floor));
            let zone = ZoneInterval { energy, floor, basis: Basis::Socket(0), gap: false, prices: Some(prices) };
            let mut out = Attribution::default();
            let policy = IdlePolicy::ByUsage;
            attribute(&Interval { zones: &[zone], loads: &loads, policy, reservations: &[] }, &mut out);
            let shares = &out.zones[0];
            let parts = shares.active.iter().chain(&shares.idle).chain([&shares.unallocated, &shares.residual]);
            prop_assert_eq!(parts.map(|e| u128::from(e.uj())).sum::<u128>(), u128::from(energy.uj()));
        }
    }
}
