//! How the store is doing, in figures.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;

use ebbtide_proto::NodeId;
use rusqlite::{Connection, OptionalExtension as _};

use super::day::Day;
use super::error::{OnFile as _, StoreError};
use super::sql::Bits;
use super::{Store, lock};

/// Figures of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// What its files take.
    pub bytes: u64,
    /// Frames that are not in days.
    pub unsealed_frames: u64,
    /// About the first moment that anything is known of, in milliseconds since 1970; 0: nothing is.
    pub oldest_ms: u64,
    /// Records that came again, since the store was opened.
    pub duplicates: u64,
    /// Records that could not be kept, since the store was opened.
    pub refused: u64,
    /// Frames that never came, ever.
    pub lost: u64,
    /// Steps of series that could not be known, ever, as far as they are in days.
    pub gaps: u64,
    /// Values that are in days, ever.
    pub samples: u64,
    /// Nodes that ever told something.
    pub nodes: usize,
    /// Series that are in memory.
    pub series: usize,
}

impl Store {
    /// Nodes that ever told something.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.all_nodes().iter().map(|node| node.name.clone()).collect()
    }

    /// The figures now.
    ///
    /// # Errors
    /// If the directory or `hot.db` can't be read.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        let dir = &self.0.dir;
        let mut stats = Stats {
            bytes: size(dir)? + size(&dir.join("day"))?,
            duplicates: self.0.counts.duplicates.load(Relaxed),
            refused: self.0.counts.refused.load(Relaxed),
            ..Stats::default()
        };
        let mut oldest = Day::all(dir)?.first().map(|day| day.start());
        for node in self.0.all_nodes() {
            let state = lock(&node.state);
            stats.nodes += usize::from(state.saved);
            stats.series += state.series();
            stats.unsealed_frames += state.frames.len() as u64;
            stats.lost += state.spools.iter().map(|spool| spool.lost).sum::<u64>();
            let first = state.frames.front().map(|frame| frame.first_ms()).filter(|first| *first > 0);
            oldest = oldest.into_iter().chain(first).min();
        }
        stats.oldest_ms = oldest.unwrap_or(0);
        let hot = self.0.hot_readers.snapshot()?;
        stats.gaps = fact(hot.db()?, "gaps").on("read", hot.path())?;
        stats.samples = fact(hot.db()?, "samples").on("read", hot.path())?;
        Ok(stats)
    }
}

fn fact(db: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value = db.query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get::<_, Bits>(0));
    Ok(value.optional()?.map_or(0, |value| value.0))
}

/// The files of a directory, without those below it.
fn size(dir: &Path) -> Result<u64, StoreError> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).on("read", dir)? {
        // a file may go meanwhile
        let entry = entry.on("read", dir)?.metadata();
        bytes += entry.ok().filter(|entry| entry.is_file()).map_or(0, |entry| entry.len());
    }
    Ok(bytes)
}
