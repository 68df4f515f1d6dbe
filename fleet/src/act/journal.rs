//! `actions.db`: the executor's journal, the audit, nodes that are closed or were drained, and what each pool may do. A record is on disk
//! before the effect that it announces is asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbtide_executor::audit::AuditEntry;
use ebbtide_executor::command::{Generation, Mark};
use ebbtide_executor::journal::{self, Record};
use ebbtide_executor::settings::Mode;
use ebbtide_planner::state::Time;
use ebbtide_proto::NodeId;
use ebbtide_runtime::tasks;
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Operations that are over are kept so long: a week. The audit keeps what was done for longer.
const KEPT_S: u64 = 7 * 86_400;
/// Lines of the audit that are kept.
const AUDIT_KEPT: i64 = 100_000;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file.
    #[error("actions.db can't be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What is in it.
    #[error("a line of actions.db can't be read: {0}")]
    Content(#[from] serde_json::Error),
    /// The daemon is at its end, or there is a fault in it.
    #[error("using actions.db ended halfway; the daemon's log says why")]
    Halfway,
    /// Another daemon leads now.
    #[error("{0} has taken over: what {1} wants written is refused")]
    Older(Generation, Generation),
}

type Result<T> = std::result::Result<T, JournalError>;

/// The open file. Cheap to share.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Connection>>);

impl Journal {
    /// Reads or writes where waiting hurts nobody; `what` for the log.
    ///
    /// # Errors
    /// Those of `with`, or [`JournalError::Halfway`].
    pub async fn with<T: Send + 'static>(
        &self,
        what: &'static str,
        with: impl FnOnce(&Self) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let journal = self.clone();
        tasks::blocking(what, move || with(&journal)).await.unwrap_or(Err(JournalError::Halfway))
    }

    /// Opens `actions.db` in the folder of the store.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn open(folder: &Path) -> Result<Self> {
        let db = Connection::open(folder.join("actions.db"))?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        // FULL: a commit that was confirmed survives the machine's end, not only the daemon's
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS leader (only INTEGER PRIMARY KEY CHECK (only = 1), generation INTEGER NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS record (seq INTEGER PRIMARY KEY, generation INTEGER NOT NULL, line TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS audit (
                 id INTEGER PRIMARY KEY AUTOINCREMENT, at_ms INTEGER NOT NULL, node TEXT NOT NULL, line TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS closed (node TEXT PRIMARY KEY, mark TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS drained (node TEXT PRIMARY KEY, done INTEGER NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS pool (name TEXT PRIMARY KEY, mode TEXT NOT NULL) STRICT;
             CREATE TABLE IF NOT EXISTS name (only INTEGER PRIMARY KEY CHECK (only = 1), name TEXT NOT NULL) STRICT;
             INSERT OR IGNORE INTO name VALUES (1, lower(hex(randomblob(6))));",
        )?;
        Ok(Self(Arc::new(Mutex::new(db))))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A name that no other journal has: numbers of operations count within one.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn name(&self) -> Result<String> {
        Ok(self.db().query_row("SELECT name FROM name", [], |r| r.get(0))?)
    }

    /// Takes the lead: everything that was written under an earlier generation, and the generation from now on.
    ///
    /// # Errors
    /// If the file can't be used, or says what can't be.
    pub fn lead(&self) -> Result<(Generation, Vec<Record>)> {
        let mut db = self.db();
        let change = db.transaction()?;
        let before: Option<i64> = change.query_row("SELECT generation FROM leader", [], |r| r.get(0)).optional()?;
        let own = before.unwrap_or(0) + 1;
        change.execute("INSERT OR REPLACE INTO leader VALUES (1, ?)", [own])?;
        let records = records(&change)?;
        change.commit()?;
        Ok((Generation(own.unsigned_abs()), records))
    }

    /// Forgets what nobody who begins anew needs any more; how many records that were.
    ///
    /// # Errors
    /// If the file can't be used, or another daemon leads.
    pub fn compact(&self, generation: Generation, now: Time) -> Result<usize> {
        let mut db = self.db();
        let change = db.transaction()?;
        must_lead(&change, generation)?;
        let needless = journal::needless(&records(&change)?, now, KEPT_S);
        let mut forget = change.prepare("DELETE FROM record WHERE seq = ?")?;
        for seq in &needless {
            forget.execute([sql(*seq)])?;
        }
        drop(forget);
        change.commit()?;
        Ok(needless.len())
    }

    /// Writes a record; it is on disk when this returns.
    ///
    /// # Errors
    /// If it can't be written, or another daemon leads.
    pub fn write(&self, record: &Record) -> Result<()> {
        let mut db = self.db();
        let change = db.transaction()?;
        must_lead(&change, record.generation)?;
        let (seq, generation) = (sql(record.seq), sql(record.generation.0));
        change.execute("INSERT INTO record VALUES (?, ?, ?)", params![seq, generation, text(record)?])?;
        Ok(change.commit()?)
    }

    /// Notes who did what.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn audit(&self, entry: &AuditEntry) -> Result<()> {
        let node = entry.node.as_ref().map_or("", NodeId::as_str);
        let db = self.db();
        db.execute(
            "INSERT INTO audit (at_ms, node, line) VALUES (?, ?, ?)",
            params![sql(entry.at.ms()), node, text(entry)?],
        )?;
        db.execute("DELETE FROM audit WHERE id <= ?", [db.last_insert_rowid() - AUDIT_KEPT])?;
        Ok(())
    }

    /// The latest lines of the audit, the newest first; of one node, or of all.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn audited(&self, node: &str, since_ms: u64, most: u32) -> Result<Vec<AuditEntry>> {
        self.list(
            "SELECT line FROM audit WHERE (?1 = '' OR node = ?1) AND at_ms >= ?2 ORDER BY id DESC LIMIT ?3",
            params![node, sql(since_ms), most],
        )
    }

    fn list<T: DeserializeOwned>(&self, question: &str, values: impl rusqlite::Params) -> Result<Vec<T>> {
        let db = self.db();
        let mut question = db.prepare_cached(question)?;
        let lines = question.query_map(values, |r| r.get::<_, String>(0))?;
        lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
    }

    /// Closes a node for work with a mark, or opens it.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn close(&self, node: &NodeId, mark: Option<Mark>) -> Result<()> {
        let db = self.db();
        match mark {
            Some(mark) => {
                db.execute("INSERT OR REPLACE INTO closed VALUES (?, ?)", params![node.as_str(), text(&mark)?])?
            }
            None => db.execute("DELETE FROM closed WHERE node = ?", [node.as_str()])?,
        };
        Ok(())
    }

    /// Nodes that are closed, and for whom.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn closed(&self) -> Result<BTreeMap<NodeId, Mark>> {
        let db = self.db();
        let mut question = db.prepare_cached("SELECT node, mark FROM closed")?;
        let rows = question.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        let mut closed = BTreeMap::new();
        for row in rows {
            let (node, mark) = row?;
            if let Ok(node) = NodeId::new(&node) {
                closed.insert(node, serde_json::from_str(&mark)?);
            }
        }
        Ok(closed)
    }

    /// Notes that a command was asked to empty a node, and whether it has; `None` once work may come to it again.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn drain(&self, node: &NodeId, done: Option<bool>) -> Result<()> {
        let db = self.db();
        match done {
            Some(done) => db.execute("INSERT OR REPLACE INTO drained VALUES (?, ?)", params![node.as_str(), done])?,
            None => db.execute("DELETE FROM drained WHERE node = ?", [node.as_str()])?,
        };
        Ok(())
    }

    /// Nodes that a command was asked to empty, and whether it has.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn drained(&self) -> Result<BTreeMap<NodeId, bool>> {
        let db = self.db();
        let mut question = db.prepare_cached("SELECT node, done FROM drained")?;
        let rows = question.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?)))?;
        let rows: Vec<(String, bool)> = rows.collect::<rusqlite::Result<_>>()?;
        Ok(rows.into_iter().filter_map(|(node, done)| Some((NodeId::new(&node).ok()?, done))).collect())
    }

    /// Keeps what a pool may do.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn set_mode(&self, pool: &str, mode: Mode) -> Result<()> {
        self.db().execute("INSERT OR REPLACE INTO pool VALUES (?, ?)", params![pool, text(&mode)?])?;
        Ok(())
    }

    /// What pools may do, those for which it was said.
    ///
    /// # Errors
    /// If the file can't be read.
    pub fn modes(&self) -> Result<BTreeMap<String, Mode>> {
        let db = self.db();
        let mut question = db.prepare_cached("SELECT name, mode FROM pool")?;
        let rows = question.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)))?;
        rows.map(|row| {
            row.map_err(JournalError::from).and_then(|(name, mode)| Ok((name, serde_json::from_str(&mode)?)))
        })
        .collect()
    }
}

/// That nobody has led since.
fn must_lead(db: &Connection, generation: Generation) -> Result<()> {
    let leads: i64 = db.query_row("SELECT generation FROM leader", [], |r| r.get(0))?;
    let leads = Generation(leads.unsigned_abs());
    if leads == generation { Ok(()) } else { Err(JournalError::Older(leads, generation)) }
}

fn records(db: &Connection) -> Result<Vec<Record>> {
    let mut question = db.prepare("SELECT line FROM record ORDER BY seq")?;
    let lines = question.query_map([], |r| r.get::<_, String>(0))?;
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn text<T: Serialize>(value: &T) -> Result<String> {
    Ok(serde_json::to_string(value)?)
}

fn sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_executor::journal::Change;

    fn record(seq: u64, generation: Generation) -> Record {
        Record { seq, generation, at: Time::from_secs(seq), change: Change::Paused { why: Some("a test".into()) } }
    }

    #[test]
    fn a_new_leader_finds_all_records_and_the_old_one_writes_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let old = Journal::open(folder.path()).unwrap();
        let (first, records) = old.lead().unwrap();
        assert!(records.is_empty());
        old.write(&record(1, first)).unwrap();
        old.write(&record(2, first)).unwrap();
        let new = Journal::open(folder.path()).unwrap();
        let (second, records) = new.lead().unwrap();
        assert!(second > first);
        assert_eq!(records, [record(1, first), record(2, first)]);
        assert!(matches!(old.write(&record(3, first)), Err(JournalError::Older(..))));
        new.write(&record(3, second)).unwrap();
        assert_eq!(Journal::open(folder.path()).unwrap().lead().unwrap().1.len(), 3);
    }

    #[test]
    fn what_was_paused_long_ago_is_forgotten_and_the_last_record_never() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        let (first, _) = journal.lead().unwrap();
        for seq in 1..=5 {
            journal.write(&record(seq, first)).unwrap();
        }
        assert_eq!(journal.compact(first, Time::from_secs(1_000_000)).unwrap(), 4);
        assert_eq!(journal.compact(first, Time::from_secs(1_000_000)).unwrap(), 0);
        let (second, records) = journal.lead().unwrap();
        assert_eq!(records, [record(5, first)]);
        assert!(matches!(journal.compact(first, Time::from_secs(1_000_000)), Err(JournalError::Older(..))));
        journal.write(&record(6, second)).unwrap();
    }

    #[test]
    fn marks_and_modes_outlive_the_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let node = NodeId::new("a").unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.close(&node, Some(Mark::Lock)).unwrap();
        journal.set_mode("edge", Mode::Auto).unwrap();
        let name = journal.name().unwrap();
        drop(journal);
        let journal = Journal::open(folder.path()).unwrap();
        let other = tempfile::tempdir().unwrap();
        assert_eq!(journal.name().unwrap(), name);
        assert_ne!(Journal::open(other.path()).unwrap().name().unwrap(), name);
        assert_eq!(journal.closed().unwrap(), [(node.clone(), Mark::Lock)].into());
        assert_eq!(journal.modes().unwrap(), [("edge".to_owned(), Mode::Auto)].into());
        journal.close(&node, None).unwrap();
        assert!(journal.closed().unwrap().is_empty());
    }
}
