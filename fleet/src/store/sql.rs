//! How SQLite is used: one writer per file, readers apart, whole numbers without a sign.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags};

use super::error::{OnFile as _, StoreError};
use super::lock;

/// Any number of 64 bits in SQLite's signed column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bits(pub(super) u64);

impl ToSql for Bits {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.0.cast_signed()))
    }
}

impl FromSql for Bits {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_i64().map(|value| Self(value.cast_unsigned()))
    }
}

/// Opens a file of the store for writing; `schema` makes it if it is new.
///
/// `setup` are settings that have no effect once there is a table. What is committed is on the disk.
pub(super) fn open_for_writing(path: &Path, setup: &str, schema: &str, version: i64) -> Result<Connection, StoreError> {
    let db = Connection::open(path).on("open", path)?;
    prepare(&db).on("open", path)?;
    db.pragma_update(None, "synchronous", "FULL").on("set up", path)?;
    db.pragma_update(None, "journal_size_limit", 64 << 20).on("set up", path)?;
    db.execute_batch(setup).on("set up", path)?;
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).on("set up", path)?;
    debug_assert_eq!(mode, "wal");
    let found: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).on("read", path)?;
    if found > version {
        return Err(StoreError::Newer { path: path.to_owned(), found, known: version });
    }
    if found == 0 {
        db.execute_batch(&format!("BEGIN; {schema} PRAGMA user_version = {version}; COMMIT")).on("set up", path)?;
    }
    Ok(db)
}

/// Opens a file of the store for reading.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).on("open", path)?;
    prepare(&db).on("open", path)?;
    db.pragma_update(None, "query_only", true).on("open", path)?;
    Ok(db)
}

fn prepare(db: &Connection) -> rusqlite::Result<()> {
    db.busy_timeout(Duration::from_secs(10))?;
    db.set_prepared_statement_cache_capacity(64);
    db.pragma_update(None, "cache_size", -2048)
}

/// Connections of readers to one file.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) path: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    /// Keeps at most this many that nobody uses.
    const IDLE: usize = 4;

    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()) }
    }

    /// The file as it is now, whatever is written from here on.
    pub(super) fn snapshot(self: &Arc<Self>) -> Result<Snapshot, StoreError> {
        let idle = lock(&self.idle).pop();
        let db = match idle {
            Some(db) => db,
            None => open_for_reading(&self.path)?,
        };
        db.execute_batch("BEGIN").on("read", &self.path)?;
        // a transaction sees the file as it is at its first look
        let _: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).on("read", &self.path)?;
        Ok(Snapshot { pool: Arc::clone(self), db: Some(db) })
    }
}

/// A file as it was at some moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pool: Arc<Pool>,
    /// There until this is dropped.
    db: Option<Connection>,
}

impl Snapshot {
    pub(super) fn path(&self) -> &Path {
        &self.pool.path
    }

    pub(super) fn db(&self) -> Result<&Connection, StoreError> {
        self.db.as_ref().ok_or(StoreError::Misused("a snapshot is used after its end"))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let Some(db) = self.db.take() else { return };
        let mut idle = lock(&self.pool.idle);
        if idle.len() < Pool::IDLE && db.execute_batch("COMMIT").is_ok() {
            idle.push(db);
        }
    }
}

/// What a blob's bytes amount to. It finds what a disk did, not what somebody did.
pub(super) fn checksum(parts: &[&[u8]]) -> Bits {
    const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut sum = PRIME;
    let mut mix = |word: u64| sum = (sum ^ word).wrapping_mul(PRIME).rotate_left(29);
    for part in parts {
        let (words, rest) = part.as_chunks::<8>();
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| mix(u64::from(*byte)));
        mix(part.len() as u64);
    }
    Bits(sum)
}

/// Gives the file system what a file doesn't need any more.
pub(super) fn shrink(db: &Connection) -> rusqlite::Result<()> {
    // a page goes at each step
    let mut vacuum = db.prepare("PRAGMA incremental_vacuum")?;
    let mut rows = vacuum.query([])?;
    while rows.next()?.is_some() {}
    drop(rows);
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
}
