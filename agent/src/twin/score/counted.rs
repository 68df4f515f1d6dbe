//! Usage as told by `/proc`, with what hardware counters would have told beside it: the twin's own counters.
//!
//! They are exact. Real ones are read by task switches and share few registers, so that theirs are a little less.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Moment;
use crate::twin::Truth;
use crate::usage::procfs::ProcfsReader;
use crate::usage::table::{Delta, Events, TaskClass, TaskTable};
use crate::usage::{Status, UsageReader};

/// Counters of each process since its start, by pid and start: the twin writes, the reader reads.
#[derive(Clone, Debug, Default)]
pub(super) struct Counters(Arc<Mutex<HashMap<(u32, u64), Events>>>);

impl Counters {
    /// Takes what the counters of those who live say now.
    pub(super) fn set(&self, truth: &Truth) {
        let living = truth.processes.values().filter(|p| p.ended_ns.is_none());
        let now = living.map(|p| {
            let c = &p.counters;
            let events = Events { cycles: c.cycles, instructions: c.instructions, misses: c.misses };
            ((p.pid, p.start_ticks), events)
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = now.collect();
    }
}

/// A [`ProcfsReader`] whose processes have counters. Children that nobody saw have none, as there.
pub(super) struct CountedReader {
    inner: ProcfsReader,
    counters: Counters,
    told: HashMap<(u32, u64), Events>,
    first: bool,
}

impl CountedReader {
    /// Adds `counters` to what `inner` reads.
    pub(super) fn new(inner: ProcfsReader, counters: Counters) -> Self {
        Self { inner, counters, told: HashMap::new(), first: true }
    }
}

impl UsageReader for CountedReader {
    fn sample(
        &mut self,
        now: Moment,
        forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> io::Result<()> {
        let from = out.len();
        self.inner.sample(now, forks, table, out)?;
        let counters = self.counters.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut self.first) {
            self.told.clone_from(&counters);
        }
        let mut deltas: &mut [Delta] = out.get_mut(from..).unwrap_or_default();
        // the deltas of a task stand side by side: one per thread
        while let Some(task) = deltas.first().map(|d| d.task) {
            let n = deltas.iter().take_while(|d| d.task == task).count();
            let (own, rest) = std::mem::take(&mut deltas).split_at_mut(n);
            deltas = rest;
            let Some(t) = table.get(task).filter(|t| t.class == TaskClass::Process) else { continue };
            let key = (t.pid, t.start);
            let Some(total) = counters.get(&key) else { continue };
            let before = self.told.insert(key, *total).unwrap_or_default();
            split(&minus(*total, before), own);
        }
        self.told.retain(|key, _| counters.contains_key(key));
        Ok(())
    }

    fn status(&self) -> Status {
        Status { counters: true, ..self.inner.status() }
    }
}

fn minus(a: Events, b: Events) -> Events {
    Events {
        cycles: a.cycles.saturating_sub(b.cycles),
        instructions: a.instructions.saturating_sub(b.instructions),
        misses: a.misses.saturating_sub(b.misses),
    }
}

/// Shares the events of a process out over its deltas by their CPU time; the last one takes the rest.
fn split(events: &Events, deltas: &mut [Delta]) {
    let (mut left, mut left_ns) = (*events, deltas.iter().map(|d| u128::from(d.cpu_ns)).sum::<u128>());
    for d in deltas {
        let part = |of: u64| {
            let share = (u128::from(of) * u128::from(d.cpu_ns)).checked_div(left_ns).unwrap_or(0);
            u64::try_from(share).unwrap_or(of)
        };
        let own =
            Events { cycles: part(left.cycles), instructions: part(left.instructions), misses: part(left.misses) };
        left = minus(left, own);
        left_ns -= u128::from(d.cpu_ns);
        d.events = Some(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::table::TaskIx;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_between_threads(cycles in any::<u64>(), misses in any::<u64>(), ns in prop::collection::vec(1..1u64 << 40, 1..20)) {
            let events = Events { cycles, instructions: cycles / 2, misses };
            let mut deltas: Vec<Delta> = ns.iter().map(|ns| Delta::time(TaskIx::test(0), *ns, None)).collect();
            split(&events, &mut deltas);
            let sum = |of: fn(&Events) -> u64| deltas.iter().filter_map(|d| d.events.as_ref()).map(of).sum::<u64>();
            prop_assert_eq!(sum(|e| e.cycles), cycles);
            prop_assert_eq!(sum(|e| e.misses), misses);
            let all: u128 = ns.iter().map(|n| u128::from(*n)).sum();
            for (d, ns) in deltas.iter().zip(&ns) {
                let fair = u128::from(cycles) * u128::from(*ns) / all;
                prop_assert!(u128::from(d.events.unwrap().cycles).abs_diff(fair) <= deltas.len() as u128);
            }
        }
    }
}
