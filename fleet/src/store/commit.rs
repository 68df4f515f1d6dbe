//! Frames become safe.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rusqlite::{Transaction, params};

use super::error::OnFile as _;
use super::hot::save_names;
use super::node::{FrameRef, Node};
use super::sql::Bits;
use super::stream::Record;
use super::{Store, StoreError, lock};

/// The last moment that a calendar has, in milliseconds: the end of the year 9999.
const LAST_MOMENT: u64 = 253_402_300_799_999;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is safe.
    Accepted,
    /// It, or a later one of its spool, was already: nothing was written.
    Duplicate,
    /// It can't be kept, whenever it comes: acknowledge it with this reason.
    Refused(&'static str),
}

/// What became of some frames, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// For each record.
    pub outcomes: Vec<Outcome>,
    /// Values that were written.
    pub samples: u64,
    /// Records that were duplicates.
    pub duplicates: u64,
    /// Frames before these that never came.
    pub lost: u64,
}

/// A spool within one commit.
struct Progress {
    acked: u64,
    lost: u64,
    stream: u32,
}

impl Store {
    /// Writes frames; when it returns they are on the disk. Blocks. Frames of one spool have to be in order.
    ///
    /// # Errors
    /// If they can't be written, the disk being full, say: then none of them is, and all may be tried again.
    pub fn commit(&self, records: impl AsRef<[Record]>) -> Result<Committed, StoreError> {
        let records = records.as_ref();
        let mut committed = Committed { outcomes: Vec::with_capacity(records.len()), ..Committed::default() };
        let mut hot = lock(&self.0.hot);
        let path = hot.path.clone();
        let mut next_frame = hot.next_frame;
        let mut spools: HashMap<(u32, u64), Progress> = HashMap::new();
        let mut nodes: HashMap<u32, (&Arc<Node>, u32)> = HashMap::new();
        let mut frames = Vec::with_capacity(records.len());
        let transaction = hot.db.transaction().on("write to", &path)?;
        for record in records {
            // all that is in `records` was made before, so the node's names are complete the first time
            if let Entry::Vacant(new) = nodes.entry(record.node.id) {
                new.insert((&record.node, save_node(&transaction, record).on("write to", &path)?));
            }
            let key = (record.node.id, record.spool);
            let progress = match spools.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let Some(found) = save_spool(&transaction, record).on("write to", &path)? else {
                        committed.outcomes.push(Outcome::Refused("its spool is not known any more"));
                        continue;
                    };
                    new.insert(found)
                }
            };
            if record.seq <= progress.acked {
                committed.outcomes.push(Outcome::Duplicate);
                continue;
            }
            let lost = record.seq - progress.acked - 1;
            committed.lost += lost;
            progress.lost += lost;
            progress.acked = record.seq;
            if record.last_ms > LAST_MOMENT {
                committed.outcomes.push(Outcome::Refused("its moments are beyond the calendar"));
                continue;
            }
            let frame = FrameRef::new(next_frame, progress.stream, record.first_ms, record.last_ms);
            next_frame += 1;
            insert(&transaction, &frame, record).on("write to", &path)?;
            frames.push((record, frame));
            committed.samples += record.samples as u64;
            committed.outcomes.push(Outcome::Accepted);
        }
        for progress in spools.values().filter(|progress| progress.lost > 0) {
            transaction
                .prepare_cached("UPDATE stream SET lost = lost + ?2 WHERE id = ?1")
                .and_then(|mut update| update.execute(params![progress.stream, Bits(progress.lost)]))
                .on("write to", &path)?;
        }
        transaction.commit().on("write to", &path)?;

        // it is on the disk: from here on nothing fails
        hot.next_frame = next_frame;
        for (node, next_series) in nodes.into_values() {
            let mut state = lock(&node.state);
            state.saved = true;
            state.unsaved = state.unsaved.split_off(&next_series);
            for ((_, id), progress) in spools.iter().filter(|((of, _), _)| *of == node.id) {
                if let Some(spool) = state.spools.iter_mut().find(|spool| spool.id == *id) {
                    spool.saved = true;
                    spool.acked = progress.acked;
                    spool.lost += progress.lost;
                }
            }
        }
        for (record, frame) in frames {
            let mut state = lock(&record.node.state);
            state.frames.push_back(frame);
            state.moved(&record.movement, record.boot, &mut lock(&self.0.recent));
        }
        let count = |wanted: fn(&Outcome) -> bool| committed.outcomes.iter().filter(|it| wanted(it)).count() as u64;
        committed.duplicates = count(|it| *it == Outcome::Duplicate);
        self.0.counts.duplicates.fetch_add(committed.duplicates, Relaxed);
        self.0.counts.refused.fetch_add(count(|it| matches!(it, Outcome::Refused(_))), Relaxed);
        Ok(committed)
    }
}

/// Writes the node and the names of its new series, where that wasn't done. Series from the returned number on are
/// not saved.
fn save_node(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<u32> {
    let node = &record.node;
    let state = lock(&node.state);
    if !state.saved {
        transaction.prepare_cached("INSERT OR IGNORE INTO node VALUES (?1, ?2, ?3, 0, x'')")?.execute(params![
            node.id,
            node.name.as_str(),
            state.next_series
        ])?;
    }
    save_names(transaction, node.id, state.next_series, state.unsaved.iter().map(|(number, named)| (*number, named)))?;
    Ok(state.next_series)
}

fn save_spool(transaction: &Transaction<'_>, record: &Record) -> rusqlite::Result<Option<Progress>> {
    let state = lock(&record.node.state);
    let Some(spool) = state.spool(record.spool) else { return Ok(None) };
    if !spool.saved {
        transaction.prepare_cached("INSERT OR IGNORE INTO stream VALUES (?1, ?2, ?3, 0, 0)")?.execute(params![
            spool.stream,
            record.node.id,
            Bits(spool.id)
        ])?;
    }
    Ok(Some(Progress { acked: spool.acked, lost: 0, stream: spool.stream }))
}

fn insert(transaction: &Transaction<'_>, frame: &FrameRef, record: &Record) -> rusqlite::Result<()> {
    let id = Bits(frame.id);
    let (seq, first_ms, last_ms) = (Bits(record.seq), Bits(record.first_ms), Bits(record.last_ms));
    transaction.prepare_cached("INSERT INTO frame VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        id,
        frame.stream,
        seq,
        first_ms,
        last_ms
    ])?;
    transaction.prepare_cached("INSERT INTO body VALUES (?1, ?2)")?.execute(params![id, record.body])?;
    Ok(())
}
