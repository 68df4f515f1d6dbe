//! Which tasks get a row of their own in the snapshot.
//!
//! All of them, none, or the N that draw most. In the last case the set is sticky, and energy is counted for a
//! task's own row only while it has one, and for `other` while it hasn't: both only grow, and every microjoule
//! adds to exactly one of them.

use std::collections::HashMap;

use ebbtide_proto::Energy;

use crate::clock::Moment;
use crate::config::Processes;
use crate::ledger::Columns;
use crate::usage::table::{TaskIx, TaskTable};

/// Heat of a task: energy of late, halved every 30 samples or so.
#[derive(Clone, Copy, Debug, Default)]
struct Heat {
    value: f32,
    seq: u32,
}

impl Heat {
    fn at(self, seq: u32) -> f32 {
        let age = i32::try_from(seq.wrapping_sub(self.seq)).unwrap_or(i32::MAX);
        self.value * 0.977_f32.powi(age)
    }
}

/// A task with a row.
struct Named {
    energy: Vec<Energy>,
    /// Set when it lost its place: the row stays, unchanged, for as long as it takes to be scraped.
    frozen: Option<Moment>,
}

/// Keeps the choice.
pub(super) struct Chooser {
    mode: Processes,
    zones: usize,
    seq: u32,
    heat: Vec<Heat>,
    named: HashMap<TaskIx, Named>,
    /// What tasks used while they had no row.
    pub(super) other: Vec<Energy>,
}

impl Chooser {
    pub(super) fn new(mode: Processes, zones: usize) -> Self {
        Self { mode, zones, seq: 0, heat: Vec::new(), named: HashMap::new(), other: vec![Energy::ZERO; zones] }
    }

    /// Whether every task has a row, which makes the other methods do nothing.
    pub(super) fn everyone(&self) -> bool {
        matches!(self.mode, Processes::All)
    }

    /// Takes what each of `ran` drew in this interval and chooses anew. `rank` sums what counts.
    pub(super) fn choose(
        &mut self,
        now: Moment,
        ran: &[TaskIx],
        columns: &Columns,
        rank: impl Fn(&[Energy]) -> Energy,
    ) {
        let Processes::Top(most) = self.mode else {
            if self.mode == Processes::Off {
                for &ix in ran {
                    self.add_to_other(columns.last(ix.index()));
                }
            }
            return;
        };
        let most = most as usize;
        self.seq = self.seq.wrapping_add(1);
        for &ix in ran {
            if self.heat.len() <= ix.index() {
                self.heat.resize(ix.index() + 1, Heat::default());
            }
            let seq = self.seq;
            let drew = rank(columns.last(ix.index())).uj() as f32;
            if let Some(heat) = self.heat.get_mut(ix.index()) {
                *heat = Heat { value: heat.at(seq) + drew, seq };
            }
        }
        let mut places = self.named.values().filter(|n| n.frozen.is_none()).count();
        for &ix in ran {
            if self.named.get(&ix).is_some_and(|n| n.frozen.is_none()) {
                continue;
            }
            let hot = self.hot(ix);
            if places >= most {
                // a newcomer must draw clearly more than the least of those who have a place
                let coldest = self
                    .named
                    .iter()
                    .filter(|(_, n)| n.frozen.is_none())
                    .map(|(&t, _)| (self.hot(t), t))
                    .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                let Some((_, loser)) = coldest.filter(|(cold, _)| hot > 2.0 * cold) else { continue };
                if let Some(n) = self.named.get_mut(&loser) {
                    n.frozen = Some(now);
                }
                places -= 1;
            }
            if places < most {
                let zones = self.zones;
                let fresh = || Named { energy: vec![Energy::ZERO; zones], frozen: None };
                self.named.entry(ix).or_insert_with(fresh).frozen = None;
                places += 1;
            }
        }
        for &ix in ran {
            let last = columns.last(ix.index());
            match self.named.get_mut(&ix).filter(|n| n.frozen.is_none()) {
                Some(n) => {
                    for (sum, e) in n.energy.iter_mut().zip(last) {
                        *sum += *e;
                    }
                }
                None => self.add_to_other(last),
            }
        }
    }

    fn hot(&self, ix: TaskIx) -> f32 {
        self.heat.get(ix.index()).map_or(0.0, |h| h.at(self.seq))
    }

    fn add_to_other(&mut self, last: &[Energy]) {
        for (sum, e) in self.other.iter_mut().zip(last) {
            *sum += *e;
        }
    }

    /// Takes rows away that lost their place longer ago than `retention_ns`.
    pub(super) fn thaw(&mut self, now: Moment, retention_ns: u64) {
        self.named.retain(|_, n| n.frozen.is_none_or(|at| now.boot.saturating_sub(at.boot) <= retention_ns));
    }

    /// Forgets a task whose slot is given to another.
    pub(super) fn forget(&mut self, ix: TaskIx) {
        self.named.remove(&ix);
        if let Some(h) = self.heat.get_mut(ix.index()) {
            *h = Heat::default();
        }
    }

    /// Tasks with a row in the order of slots, with their energy by zone.
    pub(super) fn rows<'a>(
        &'a self,
        table: &'a TaskTable,
        columns: &'a Columns,
    ) -> Box<dyn Iterator<Item = (TaskIx, &'a [Energy])> + 'a> {
        match self.mode {
            Processes::Off => Box::new(std::iter::empty()),
            Processes::All => Box::new(table.iter().map(|(ix, _)| (ix, columns.energy(ix.index())))),
            Processes::Top(_) => {
                let mut list: Vec<_> = self.named.iter().map(|(&ix, n)| (ix, n.energy.as_slice())).collect();
                list.sort_unstable_by_key(|r| r.0);
                Box::new(list.into_iter())
            }
        }
    }
}

/// The last start among ended and living tasks, by the pid of ended ones: a pid that was used again shows its last
/// life only, else a page would have one series twice.
pub(super) fn last_lives(table: &TaskTable) -> HashMap<u32, u64> {
    let mut last = HashMap::new();
    for (_, task) in table.iter().filter(|(_, t)| t.ended.is_some()) {
        let living = table.by_pid(task.pid).and_then(|ix| table.get(ix)).map_or(0, |t| t.start);
        let start = last.entry(task.pid).or_insert(living);
        *start = task.start.max(*start);
    }
    last
}
