//! What outlives the agent: totals in the journal, learned floors in `floors.json`.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use ebbtide_proto::{Energy, WorkloadId, ZoneId};

use super::Sampler;
use super::track::Track;
use crate::attribution::floor::FloorLearner;
use crate::clock::Moment;
use crate::host;
use crate::journal::{Journal, Record, RowRecord};
use crate::ledger::Columns;
use crate::usage::table::TaskClass;

impl Sampler {
    /// Writes what was learned to the state folder.
    pub fn save(&self) {
        if let (Some(folder), true) = (&self.options.state, self.journal.is_some()) {
            save_floors(folder, self.tracks.iter().map(|t| (&t.zone.id, &t.learner)));
        }
    }

    pub(super) fn write_journal(&mut self, now: Moment) {
        let Some(all) = self.journal.as_ref().map(Journal::wants_all) else { return };
        let mut rows = Vec::new();
        let row = |id, columns: &Columns, i: usize, cpu| {
            let idle = columns.idle(i);
            let i_is_zero = idle.iter().all(|e| *e == Energy::ZERO);
            RowRecord { id, e: columns.energy(i).to_vec(), i: if i_is_zero { vec![] } else { idle.to_vec() }, cpu }
        };
        for (ix, task) in self.table.iter() {
            let own = matches!(task.class, TaskClass::Process | TaskClass::Kernel) && task.ended.is_none();
            let column = if all { self.task_columns.energy(ix.index()) } else { self.task_columns.last(ix.index()) };
            if own && column.iter().any(|e| *e > Energy::ZERO) {
                rows.push(row(WorkloadId::process(task.pid, task.start), &self.task_columns, ix.index(), task.cpu_ns));
            }
        }
        for (ix, group) in self.groups.iter() {
            let column = if all { self.group_columns.energy(ix.index()) } else { self.group_columns.last(ix.index()) };
            if column.iter().any(|e| *e > Energy::ZERO) {
                rows.push(row(group.id.clone(), &self.group_columns, ix.index(), group.cpu_ns));
            }
        }
        if all {
            // workloads of the run before that were not seen again yet
            for r in self.kept.rows.values() {
                let (e, i) = self.kept_figures(r);
                rows.push(RowRecord { id: r.id.clone(), e, i, cpu: r.cpu });
            }
        }
        let zones = self.tracks.iter().map(Track::record).collect();
        let record =
            Record { boot: self.node.boot, at: (now.mono, now.boot, now.wall), zones, rows, busy_ns: self.busy_ns };
        if let Some(journal) = &mut self.journal {
            journal.write(&record);
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.save();
    }
}

/// Learned floors in the state folder.
pub(super) fn load_floors(folder: &Path) -> HashMap<ZoneId, FloorLearner> {
    let Ok(text) = host::read_text(&folder.join("floors.json")) else { return HashMap::new() };
    match serde_json::from_str(&text) {
        Ok(map) => map,
        Err(error) => {
            tracing::warn!(%error, "floors.json is damaged; idle floors are learned anew");
            HashMap::new()
        }
    }
}

fn save_floors<'a>(folder: &Path, floors: impl Iterator<Item = (&'a ZoneId, &'a FloorLearner)>) {
    let map: BTreeMap<_, _> = floors.collect();
    let write = || -> io::Result<()> {
        let fresh = folder.join("floors.json.new");
        std::fs::write(&fresh, serde_json::to_vec(&map)?)?;
        std::fs::rename(fresh, folder.join("floors.json"))
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "can't keep learned idle floors");
    }
}
