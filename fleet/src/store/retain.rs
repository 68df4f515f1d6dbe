//! What is old goes: first samples, then fine buckets, at last the whole day.

use std::path::Path;

use rusqlite::Connection;

use super::day::{DAY_MS, Day};
use super::error::{OnFile as _, StoreError};
use super::sql::{open_for_reading, shrink, sync_dir};
use super::{Retention, Store, lock};

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Days that were removed.
    pub removed: usize,
    /// Days that lost a resolution.
    pub thinned: usize,
}

impl Store {
    /// Lets go of what is older than it is kept for. Cheap if there is nothing; sealing waits meanwhile.
    ///
    /// # Errors
    /// If a day can't be read, written or removed. The other days are not looked at then.
    pub fn retain(&self, now_ms: u64) -> Result<Retained, StoreError> {
        let mut sealer = lock(&self.0.sealer);
        let retention = &self.0.options.retention;
        let mut retained = Retained::default();
        for day in Day::all(&self.0.dir)? {
            let age = now_ms.saturating_sub(day.start() + DAY_MS);
            if age <= retention.raw_ms {
                continue;
            }
            sealer.close(day);
            if age > retention.hours_ms {
                lock(&self.0.days).remove(&day);
                remove(&self.0.dir, day)?;
                retained.removed += 1;
            } else if thin(&day.path(&self.0.dir), age, retention)? {
                retained.thinned += 1;
            }
        }
        Ok(retained)
    }
}

fn remove(dir: &Path, day: Day) -> Result<(), StoreError> {
    // the file itself first: without it nobody looks at the others
    for extension in ["db", "db-wal", "db-shm"] {
        let path = day.path(dir).with_extension(extension);
        if path.exists() {
            std::fs::remove_file(&path).on("remove", &path)?;
        }
    }
    sync_dir(&dir.join("day"))
}

/// Whether anything had to go.
fn thin(path: &Path, age: u64, retention: &Retention) -> Result<bool, StoreError> {
    let old = |kept: u64| age > kept;
    let rules = [
        (true, "raw", "SELECT EXISTS (SELECT 1 FROM raw)", "DELETE FROM raw"),
        (old(retention.tens_ms), "tens", "SELECT EXISTS (SELECT 1 FROM tens)", "DELETE FROM tens"),
        (
            old(retention.minutes_ms),
            "minutes",
            "SELECT EXISTS (SELECT 1 FROM minutes WHERE body IS NOT NULL)",
            "UPDATE minutes SET body = NULL, check_sum = 0; UPDATE sums SET body = NULL, check_sum = 0",
        ),
    ];
    let reader = open_for_reading(path)?;
    let has = |sql| reader.query_row(sql, [], |row| row.get::<_, bool>(0));
    let mut go = Vec::new();
    for (is_old, what, question, delete) in rules {
        if is_old && has(question).on("read", path)? {
            go.push((what, delete));
        }
    }
    drop(reader);
    if go.is_empty() {
        return Ok(false);
    }
    let db = Connection::open(path).on("open", path)?;
    let shorten = || {
        db.pragma_update(None, "synchronous", "FULL")?;
        for (_, delete) in &go {
            db.execute_batch(&format!("BEGIN; {delete}; COMMIT"))?;
        }
        db.execute_batch("VACUUM")?;
        shrink(&db)
    };
    shorten().on("thin out", path)?;
    tracing::debug!(file = %path.display(), "let go of {}", go.iter().map(|(what, _)| *what).collect::<Vec<_>>().join(", "));
    Ok(true)
}
