//! Processes that lived only between two samples.
//!
//! They have no row of their own, or a build would have thousands: each is charged to a row of its parent's ended
//! children, one for each control group that they were in. Whose parent wasn't seen either is charged to the nearest
//! ancestor that was.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::{ProcessRecord, ThreadRecord};
use crate::clock::Moment;
use crate::usage::table::{Delta, Events, Task, TaskClass, TaskIx, TaskTable};

/// Longest way up to an ancestor that was seen.
const GENERATIONS: usize = 64;
/// Most rows of one parent; groups beyond share the last row.
const ROWS: usize = 64;

/// Processes that were seen and have ended, by pid, and the sample in which they did.
pub(super) type Ended = HashMap<u32, (TaskIx, u32)>;

/// One of them.
pub(super) struct Short {
    pub(super) thread: ThreadRecord,
    pub(super) process: ProcessRecord,
    pub(super) cgroup: Option<Arc<str>>,
    pub(super) events: Option<Events>,
}

/// Rows of ended children.
#[derive(Default)]
pub(super) struct Children {
    /// By the parent's slot, pid and start.
    rows: HashMap<(u32, u64), Vec<TaskIx>>,
}

impl Children {
    /// Charges processes that were never seen; `ended` are those that were seen and ended of late.
    pub(super) fn charge(
        &mut self,
        short: &[Short],
        ended: &Ended,
        now: Moment,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) {
        let parents: HashMap<u32, u32> = short.iter().map(|s| (s.thread.tgid, s.process.ppid)).collect();
        // a storm is thousands of records for a handful of rows
        let mut sums: HashMap<(TaskIx, u32), Delta> = HashMap::new();
        for s in short.iter().filter(|s| s.thread.run_ns > 0) {
            let mut pid = s.process.ppid;
            let mut seen = None;
            for _ in 0..GENERATIONS {
                // its slot may have been given to another
                let gone = || ended.get(&pid).map(|e| e.0).filter(|ix| table.get(*ix).is_some_and(|t| t.pid == pid));
                seen = table.by_pid(pid).or_else(gone);
                match parents.get(&pid) {
                    Some(&up) if seen.is_none() => pid = up,
                    _ => break,
                }
            }
            let ix = self.row(seen, s, now, table);
            let Some(row) = table.get_mut(ix) else { continue };
            if row.comm != s.process.comm || row.uid != s.process.uid {
                (row.comm, row.uid) = (s.process.comm, s.process.uid);
                row.version = row.version.wrapping_add(1);
            }
            row.cpu_ns += s.thread.run_ns;
            row.cpu = s.thread.cpu;
            let sum = sums.entry((ix, s.thread.cpu)).or_insert(Delta::time(ix, 0, Some(s.thread.cpu)));
            sum.cpu_ns += s.thread.run_ns;
            if let Some(e) = s.events {
                let all = sum.events.get_or_insert_default();
                all.cycles += e.cycles;
                all.instructions += e.instructions;
                all.misses += e.misses;
            }
        }
        let mut sums: Vec<Delta> = sums.into_values().collect();
        sums.sort_unstable_by_key(|d| (d.task, d.cpu));
        out.extend(sums);
    }

    /// The row of `parent` for the group that `short` was in; of nobody if there is no parent.
    fn row(&mut self, parent: Option<TaskIx>, short: &Short, now: Moment, table: &mut TaskTable) -> TaskIx {
        let parent = parent.and_then(|ix| table.get(ix));
        let (pid, start) = parent.map_or((0, 0), |p| (p.pid, p.start));
        let gone = parent.is_some_and(|p| p.ended.is_some());
        let cgroup = match (&short.cgroup, parent) {
            (Some(path), _) => Arc::clone(path),
            (None, Some(p)) => Arc::clone(&p.cgroup),
            (None, None) => table.intern(""),
        };
        let rows = self.rows.entry((pid, start)).or_default();
        let is = |ix: &&TaskIx| {
            table.get(**ix).is_some_and(|t| {
                t.class == TaskClass::EndedChildren && (t.pid, t.start) == (pid, start) && t.cgroup == cgroup
            })
        };
        if let Some(ix) = rows.iter().find(is) {
            return *ix;
        }
        if let Some(last) = rows.get(ROWS - 1) {
            return *last;
        }
        let mut task = Task::new(pid, start, TaskClass::EndedChildren);
        task.ppid = pid;
        task.cgroup = cgroup;
        task.sibling = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let ix = table.insert(task);
        rows.push(ix);
        if gone {
            table.end(ix, now);
        }
        ix
    }

    /// Ends the rows of a parent that has ended.
    pub(super) fn orphan(&mut self, parent: (u32, u64), now: Moment, table: &mut TaskTable) {
        for ix in self.rows.get(&parent).into_iter().flatten() {
            table.end(*ix, now);
        }
    }

    /// Forgets rows whose slots were given back.
    pub(super) fn forget_freed(&mut self, table: &TaskTable) {
        self.rows.retain(|&(pid, start), rows| {
            let ours = |t: &Task| t.class == TaskClass::EndedChildren && (t.pid, t.start) == (pid, start);
            rows.iter().any(|ix| table.get(*ix).is_some_and(ours))
        });
    }
}
