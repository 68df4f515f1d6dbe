//! Plans that were made, with everything they were made from, and what was learned: one SQLite file beside the store.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ebbtide_planner::replay::Decision;
use ebbtide_planner::state::FleetState;
use rusqlite::{Connection, OptionalExtension as _, params};

/// Plans that are kept, and for how long, in milliseconds.
const KEPT: i64 = 1000;
const KEPT_MS: u64 = 30 * 86_400_000;
/// Bytes that they may take together; older ones go first.
const KEPT_BYTES: i64 = 1 << 30;
/// Level of compression: states are long and alike, and there is time.
const LEVEL: i32 = 3;
/// No state is larger than this, in bytes of JSON.
const LARGEST: u64 = 4 << 30;

/// Why the archive can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The file.
    #[error("plans.db can't be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What is in it.
    #[error("a plan in plans.db can't be read: {0}")]
    Content(String),
}

/// A plan in one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its number.
    pub id: u64,
    /// When it was made.
    pub at_ms: u64,
    /// When it was last found to hold.
    pub confirmed_ms: u64,
    /// What planning took, in microseconds.
    pub took_us: u64,
    /// How many actions it has.
    pub actions: u32,
    /// Watts before, after, and at least.
    pub watts: [f64; 3],
    /// It, in a sentence.
    pub headline: String,
}

/// The open file.
pub struct Archive(Mutex<Connection>);

impl Archive {
    /// Opens `plans.db` in the folder of the store.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn open(folder: &Path) -> Result<Self, ArchiveError> {
        let db = Connection::open(folder.join("plans.db"))?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS plan (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, confirmed_ms INTEGER NOT NULL,
                 took_us INTEGER NOT NULL, actions INTEGER NOT NULL, before_w REAL NOT NULL, after_w REAL NOT NULL,
                 bound_w REAL NOT NULL, headline TEXT NOT NULL, decision BLOB NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS learned (
                 only INTEGER PRIMARY KEY CHECK (only = 1), at_ms INTEGER NOT NULL, state BLOB NOT NULL) STRICT;",
        )?;
        Ok(Self(Mutex::new(db)))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a decision; gives its number.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn keep(&self, decision: &Decision, headline: &str, took_us: u64) -> Result<u64, ArchiveError> {
        let packed = pack(decision)?;
        let (at, plan) = (sql(decision.now.ms()), &decision.plan);
        let mut db = self.db();
        let change = db.transaction()?;
        change.execute(
            "INSERT INTO plan (at_ms, confirmed_ms, took_us, actions, before_w, after_w, bound_w, headline, decision)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                at,
                at,
                sql(took_us),
                sql(plan.actions.len() as u64),
                plan.before_w,
                plan.after_w,
                plan.bound_w,
                headline,
                packed
            ],
        )?;
        let id = change.last_insert_rowid();
        change.execute(
            "DELETE FROM plan WHERE id <= ?1 - ?2 OR (id < ?1 AND at_ms < ?3)",
            params![id, KEPT, at - sql(KEPT_MS)],
        )?;
        change.execute(
            "DELETE FROM plan WHERE id < ?1 AND id IN (SELECT id FROM
               (SELECT id, sum(length(decision)) OVER (ORDER BY id DESC) AS bytes FROM plan) WHERE bytes > ?2)",
            params![id, KEPT_BYTES],
        )?;
        change.commit()?;
        Ok(id.unsigned_abs())
    }

    /// Notes that a plan still holds.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn confirm(&self, id: u64, at_ms: u64) -> Result<(), ArchiveError> {
        self.db().execute("UPDATE plan SET confirmed_ms = ? WHERE id = ?", params![sql(at_ms), sql(id)])?;
        Ok(())
    }

    /// A decision of the past; `None` if there is none of that number, or it is no longer kept.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn decision(&self, id: u64) -> Result<Option<Decision>, ArchiveError> {
        let packed: Option<Vec<u8>> =
            self.db().query_row("SELECT decision FROM plan WHERE id = ?", [sql(id)], |row| row.get(0)).optional()?;
        packed.map(|bytes| unpack(&bytes)).transpose()
    }

    /// Plans in one line each, the newest first.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn list(&self, limit: u32) -> Result<Vec<Summary>, ArchiveError> {
        self.summaries("ORDER BY id DESC LIMIT ?", i64::from(limit))
    }

    /// One plan in one line.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn summary(&self, id: u64) -> Result<Option<Summary>, ArchiveError> {
        Ok(self.summaries("WHERE id = ?", sql(id))?.pop())
    }

    fn summaries(&self, which: &str, value: i64) -> Result<Vec<Summary>, ArchiveError> {
        let db = self.db();
        let mut rows = db.prepare(&format!(
            "SELECT id, at_ms, confirmed_ms, took_us, actions, before_w, after_w, bound_w, headline FROM plan {which}"
        ))?;
        let number = |row: &rusqlite::Row<'_>, i: usize| row.get::<_, i64>(i).map(i64::unsigned_abs);
        let rows = rows.query_map([value], |row| {
            Ok(Summary {
                id: number(row, 0)?,
                at_ms: number(row, 1)?,
                confirmed_ms: number(row, 2)?,
                took_us: number(row, 3)?,
                actions: u32::try_from(number(row, 4)?).unwrap_or(u32::MAX),
                watts: [row.get(5)?, row.get(6)?, row.get(7)?],
                headline: row.get(8)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps what was learned.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn remember(&self, state: &FleetState, at_ms: u64) -> Result<(), ArchiveError> {
        let packed = pack(state)?;
        self.db().execute("INSERT OR REPLACE INTO learned VALUES (1, ?, ?)", params![sql(at_ms), packed])?;
        Ok(())
    }

    /// What had been learned when it was kept last.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn learned(&self) -> Result<Option<FleetState>, ArchiveError> {
        let packed: Option<Vec<u8>> =
            self.db().query_row("SELECT state FROM learned", [], |row| row.get(0)).optional()?;
        packed.map(|bytes| unpack(&bytes)).transpose()
    }
}

fn sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn pack<T: serde::Serialize>(value: &T) -> Result<Vec<u8>, ArchiveError> {
    let wrong = |e: std::io::Error| ArchiveError::Content(e.to_string());
    let mut to = zstd::Encoder::new(Vec::new(), LEVEL).map_err(wrong)?;
    serde_json::to_writer(&mut to, value).map_err(|e| ArchiveError::Content(e.to_string()))?;
    to.finish().map_err(wrong)
}

fn unpack<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ArchiveError> {
    use std::io::Read as _;
    let from = zstd::Decoder::new(bytes).map_err(|e| ArchiveError::Content(e.to_string()))?;
    let mut text = Vec::new();
    from.take(LARGEST).read_to_end(&mut text).map_err(|e| ArchiveError::Content(e.to_string()))?;
    serde_json::from_slice(&text).map_err(|e| ArchiveError::Content(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_planner::policy::Policy;
    use ebbtide_planner::sim::generate::{START, Shape, fleet};

    #[test]
    fn what_is_kept_is_read_back_bit_for_bit_and_old_plans_go() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        let shape = Shape { nodes: 5, workloads: 20, asked: 0.4, special: 0.1, placed: true };
        let state = fleet(&shape, 3).unwrap();
        let decision = Decision::make(state.clone(), Policy::default(), START).unwrap();
        let first = archive.keep(&decision, "one", 7).unwrap();
        let read = archive.decision(first).unwrap().unwrap();
        assert_eq!(read, decision);
        assert!(read.replay().is_ok());
        archive.confirm(first, START.ms() + 5).unwrap();
        let second = archive.keep(&decision, "two", 8).unwrap();
        let list = archive.list(10).unwrap();
        assert_eq!(
            list.iter().map(|s| (s.id, s.headline.as_str())).collect::<Vec<_>>(),
            [(second, "two"), (first, "one")]
        );
        assert_eq!(archive.summary(first).unwrap().unwrap().confirmed_ms, START.ms() + 5);
        assert_eq!(archive.decision(99).unwrap(), None);
        archive.remember(&state, 1).unwrap();
        assert_eq!(archive.learned().unwrap(), Some(state));
        // a month later only what is of this month is left
        let mut late = decision;
        late.now = START.plus_secs(31 * 86_400);
        archive.keep(&late, "late", 1).unwrap();
        assert_eq!(archive.list(10).unwrap().len(), 1);
    }

    #[test]
    fn a_broken_plan_is_an_error_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let archive = Archive::open(folder.path()).unwrap();
        archive.db().execute("INSERT INTO learned VALUES (1, 1, x'00')", []).unwrap();
        assert!(archive.learned().unwrap_err().to_string().contains("can't be read"));
    }
}
