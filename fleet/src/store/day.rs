//! `day/YYYY-MM-DD.db`: one UTC day. It needs no other file to be read.
//!
//! `raw` and `tens` have a row per node, ten-minute slot, part and time that it was sealed; `minutes` one per node,
//! hour and part, `sums` one per group and hour, which later data of that hour is added to. Part 0 is the node's own
//! series, part 1 its workloads', so that who asks for nodes needn't read workloads. `sealed` says which frames are in:
//! none is put in twice, whatever happens between here and `hot.db`.

use std::collections::HashMap;
use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ebbtide_proto::NodeId;
use jiff::civil::Date;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::block::{Summary, put_body, put_head, read_head};
use super::codec::{Planes, Zip};
use super::error::{InFile as _, OnFile as _, StoreError};
use super::names::{Names, put_chunk, read_chunk};
use super::rollup::Rollup;
use super::samples::Samples;
use super::sql::{Bits, checksum, open_for_reading, open_for_writing, shrink, sync_dir};
use super::sums::{Sum, SumKey};

/// Length of a slot of `raw` and `tens`.
pub(super) const SLOT_MS: u64 = 10 * 60_000;
/// Length of a row of `minutes` and `sums`.
pub(super) const HOUR_MS: u64 = 60 * 60_000;
pub(super) const DAY_MS: u64 = 24 * HOUR_MS;

/// The version of the file, and the most that this program reads.
const VERSION: i64 = 1;

// Rows have some KiB: in pages of 32 KiB little room is left over, and a row in few pages is read in few steps.
const SETUP: &str = "PRAGMA page_size = 32768";
const SCHEMA: &str = "
CREATE TABLE node (
    id INTEGER PRIMARY KEY,        -- in this file
    epoch INTEGER NOT NULL,        -- of the hot.db that numbered its series
    name TEXT NOT NULL,
    UNIQUE (name, epoch)
) STRICT;
CREATE TABLE names (
    node INTEGER NOT NULL,
    first INTEGER NOT NULL,
    chunk BLOB NOT NULL,           -- one compressed section
    PRIMARY KEY (node, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE sealed (
    node INTEGER NOT NULL,
    spool INTEGER NOT NULL,
    seq INTEGER NOT NULL,          -- of frames up to this one, all that belongs to the day is in
    PRIMARY KEY (node, spool)
) STRICT, WITHOUT ROWID;
CREATE TABLE raw (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    slot INTEGER NOT NULL,         -- of the day, from 0
    part INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX raw_place ON raw (node, slot, part);
CREATE TABLE tens (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    slot INTEGER NOT NULL,
    part INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX tens_place ON tens (node, slot, part);
CREATE TABLE minutes (
    node INTEGER NOT NULL,
    hour INTEGER NOT NULL,         -- of the day
    part INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    head BLOB NOT NULL,
    body BLOB,                     -- NULL once only hours are kept
    PRIMARY KEY (node, hour, part)
) STRICT, WITHOUT ROWID;
CREATE TABLE sums (
    kind INTEGER NOT NULL,         -- a GroupBy of the wire
    hour INTEGER NOT NULL,
    name TEXT NOT NULL,
    energy INTEGER NOT NULL,
    covered_ms INTEGER NOT NULL,
    quality INTEGER NOT NULL,
    check_sum INTEGER NOT NULL,
    body BLOB,
    PRIMARY KEY (kind, hour, name)
) STRICT, WITHOUT ROWID;
";

/// A UTC day, as days since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(pub(super) u32);

impl Day {
    /// The day of a moment.
    pub(super) fn of(ms: u64) -> Self {
        Self(u32::try_from(ms / DAY_MS).unwrap_or(u32::MAX))
    }

    /// Its first moment.
    pub(super) fn start(self) -> u64 {
        u64::from(self.0) * DAY_MS
    }

    /// Where it is kept.
    pub(super) fn path(self, dir: &Path) -> PathBuf {
        dir.join("day").join(format!("{self}.db"))
    }

    /// All days that `dir` has a file of, in order.
    pub(super) fn all(dir: &Path) -> Result<Vec<Self>, StoreError> {
        let path = dir.join("day");
        let mut days = Vec::new();
        for entry in std::fs::read_dir(&path).on("read", &path)? {
            let name = entry.on("read", &path)?.file_name();
            let date = name.to_str().and_then(|name| name.strip_suffix(".db")?.parse::<Date>().ok());
            let epoch = Date::constant(1970, 1, 1);
            days.extend(date.and_then(|date| u32::try_from((date - epoch).get_days()).ok()).map(Self));
        }
        days.sort_unstable();
        Ok(days)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = jiff::Span::new().try_days(self.0);
        match span.and_then(|span| Date::constant(1970, 1, 1).checked_add(span)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "day-{}", self.0),
        }
    }
}

/// Memory for writing blocks that is used again.
#[derive(Debug)]
pub(super) struct Press {
    pub(super) zip: Zip,
    pub(super) planes: Planes,
}

impl Press {
    pub(super) fn new() -> Result<Self, StoreError> {
        Ok(Self { zip: Zip::new().map_err(StoreError::Compression)?, planes: Planes::default() })
    }
}

/// A node as a day knows it.
#[derive(Debug)]
struct DayNode {
    id: u32,
    /// Series that the day has names of, ascending.
    named: Vec<u32>,
}

/// The one writer of a day.
#[derive(Debug)]
pub(super) struct DayWriter {
    path: PathBuf,
    db: Connection,
    epoch: i64,
    nodes: HashMap<NodeId, DayNode>,
}

impl DayWriter {
    /// Opens or makes the file and begins a transaction; dropping the writer undoes what was not committed.
    pub(super) fn open(dir: &Path, day: Day, epoch: i64) -> Result<Self, StoreError> {
        let folder = dir.join("day");
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).on("make", &folder)?;
        let path = day.path(dir);
        if !path.exists() {
            // nobody sees a day without its tables
            let new = path.with_extension("new");
            for old in ["new", "new-wal", "new-shm"].map(|extension| path.with_extension(extension)) {
                if old.exists() {
                    std::fs::remove_file(&old).on("remove", &old)?;
                }
            }
            drop(open_for_writing(&new, SETUP, SCHEMA, VERSION)?);
            std::fs::rename(&new, &path).on("rename", &new)?;
            sync_dir(&folder)?;
        }
        let db = open_for_writing(&path, "", SCHEMA, VERSION)?;
        Ok(Self { path, db, epoch, nodes: HashMap::new() })
    }

    /// Closes the file; what was committed is in it, not beside it.
    pub(super) fn close(self) {
        if let Err(error) = shrink(&self.db) {
            // SQLite does it at the next opportunity
            tracing::debug!(file = %self.path.display(), "can't fold its journal in: {error}");
        }
    }

    pub(super) fn begin(&self) -> Result<(), StoreError> {
        if self.db.is_autocommit() {
            self.db.execute_batch("BEGIN IMMEDIATE").on("write to", &self.path)
        } else {
            Ok(())
        }
    }

    pub(super) fn commit(&self) -> Result<(), StoreError> {
        if self.db.is_autocommit() { Ok(()) } else { self.db.execute_batch("COMMIT").on("write to", &self.path) }
    }

    /// Frames of a node that are in, by spool: up to which number.
    pub(super) fn sealed(&mut self, name: &NodeId) -> Result<HashMap<u64, u64>, StoreError> {
        let node = self.node(name)?.id;
        let read = |db: &Connection| {
            let mut query = db.prepare_cached("SELECT spool, seq FROM sealed WHERE node = ?1")?;
            let rows = query.query_map([node], |row| Ok((row.get::<_, Bits>(0)?.0, row.get::<_, Bits>(1)?.0)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        read(&self.db).on("read", &self.path)
    }

    /// Remembers that frames are in.
    pub(super) fn set_sealed(&mut self, name: &NodeId, spool: u64, seq: u64) -> Result<(), StoreError> {
        let node = self.node(name)?.id;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO sealed VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![node, Bits(spool), Bits(seq)]))
            .on("write to", &self.path)?;
        Ok(())
    }

    fn node(&mut self, name: &NodeId) -> Result<&mut DayNode, StoreError> {
        // entry() would need a name of its own each time
        if !self.nodes.contains_key(name) {
            let node = self.find_node(name)?;
            self.nodes.insert(name.clone(), node);
        }
        self.nodes.get_mut(name).ok_or(StoreError::Misused("a node that was just put there is gone"))
    }

    fn find_node(&self, name: &NodeId) -> Result<DayNode, StoreError> {
        let known = "SELECT id FROM node WHERE name = ?1 AND epoch = ?2";
        let new = "INSERT INTO node (name, epoch) VALUES (?1, ?2) RETURNING id";
        let id = |sql| {
            let mut query = self.db.prepare_cached(sql)?;
            query.query_row(params![name.as_str(), self.epoch], |row| row.get(0)).optional()
        };
        let id = match id(known).on("read", &self.path)? {
            Some(id) => Some(id),
            None => id(new).on("write to", &self.path)?,
        };
        let id: u32 = id.ok_or(StoreError::Misused("a node got no number"))?;
        let names = Zip::shared(|zip| day_names(&self.db, &self.path, id, zip)).map_err(StoreError::Compression)??;
        Ok(DayNode { id, named: names.into_keys().collect() })
    }

    /// Sees to it that the day has the names of these series.
    pub(super) fn name(
        &mut self,
        node: &NodeId,
        series: impl Iterator<Item = u32>,
        names: &Names,
        press: &mut Press,
    ) -> Result<(), StoreError> {
        let known = self.node(node)?;
        let mut new: Vec<u32> = series.filter(|series| known.named.binary_search(series).is_err()).collect();
        new.sort_unstable();
        new.dedup();
        let Some(first) = new.first().copied() else { return Ok(()) };
        known.named.extend(&new);
        known.named.sort_unstable();
        let id = known.id;
        let mut chunk = Vec::new();
        put_chunk(new.iter().filter_map(|series| Some((*series, names.get(series)?))), &mut chunk);
        let mut section = Vec::new();
        press.zip.put_section(&chunk, &mut section).map_err(StoreError::Compression)?;
        self.db
            .prepare_cached("INSERT INTO names VALUES (?1, ?2, ?3)")
            .and_then(|mut insert| insert.execute(params![id, first, section]))
            .on("write to", &self.path)?;
        Ok(())
    }

    /// Adds a block of samples and one of its ten-second buckets.
    pub(super) fn put_slot(
        &mut self,
        node: &NodeId,
        place: Place,
        samples: &Samples,
        tens: &Rollup,
        press: &mut Press,
    ) -> Result<(), StoreError> {
        let series = tens.summaries();
        let mut body = Vec::new();
        put_body(samples, &mut press.planes, &mut press.zip, &mut body).map_err(StoreError::Compression)?;
        self.put("INSERT INTO raw VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6)", node, place, &series, &body)?;
        body.clear();
        tens.put_body(&mut press.planes, &mut press.zip, &mut body).map_err(StoreError::Compression)?;
        self.put("INSERT INTO tens VALUES (NULL, ?1, ?2, ?3, ?4, ?5, ?6)", node, place, &series, &body)
    }

    fn put(
        &mut self,
        sql: &'static str,
        node: &NodeId,
        place: Place,
        series: &[Summary],
        body: &[u8],
    ) -> Result<(), StoreError> {
        let id = self.node(node)?.id;
        let mut head = Vec::new();
        put_head(series, &mut head);
        self.db
            .prepare_cached(sql)
            .and_then(|mut put| put.execute(params![id, place.index, place.part, checksum(&[&head, body]), head, body]))
            .on("write to", &self.path)?;
        Ok(())
    }

    /// Adds `new` to the hour's minutes; all that there is of it now.
    pub(super) fn merge_minutes(
        &mut self,
        node: &NodeId,
        place: Place,
        new: &Rollup,
        press: &mut Press,
    ) -> Result<Rollup, StoreError> {
        let id = self.node(node)?.id;
        let mut query = self
            .db
            .prepare_cached("SELECT head, body FROM minutes WHERE node = ?1 AND hour = ?2 AND part = ?3")
            .on("read", &self.path)?;
        let known: Option<(Vec<u8>, Vec<u8>)> = query
            .query_row(params![id, place.index, place.part], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .on("read", &self.path)?;
        drop(query);
        let mut minutes = match known {
            None => Rollup { columns: Vec::new(), ..*new },
            Some((head, body)) => {
                let place = || format!("minutes of {node}, hour {}", place.index);
                let head = read_head(&head).within(&self.path, place)?;
                Rollup::read_body(&head, &body, &mut press.zip, |_| true).within(&self.path, place)?
            }
        };
        minutes.add(new);
        let mut body = Vec::new();
        minutes.put_body(&mut press.planes, &mut press.zip, &mut body).map_err(StoreError::Compression)?;
        let sql = "INSERT OR REPLACE INTO minutes VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        self.put(sql, node, place, &minutes.summaries(), &body)?;
        Ok(minutes)
    }

    /// Adds `new` to a group's hour.
    pub(super) fn merge_sum(&self, hour: u32, key: &SumKey, new: &Sum) -> Result<(), StoreError> {
        let path = &self.path;
        let mut query = self
            .db
            .prepare_cached("SELECT body, quality FROM sums WHERE kind = ?1 AND hour = ?2 AND name = ?3")
            .on("read", path)?;
        let known: Option<(Vec<u8>, u8)> = query
            .query_row(params![key.kind, hour, key.name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .on("read", path)?;
        let mut sum = match known {
            None => Sum::default(),
            Some((body, quality)) => Sum::read(&body, quality).within(path, || format!("sum of {}", key.name))?,
        };
        sum.add(new);
        let mut body = Vec::new();
        sum.put(&mut body);
        self.db
            .prepare_cached("INSERT OR REPLACE INTO sums VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")
            .and_then(|mut put| {
                let (energy, covered) = sum.totals();
                put.execute(params![
                    key.kind,
                    hour,
                    key.name,
                    Bits(energy),
                    Bits(covered),
                    sum.quality_code(),
                    checksum(&[&body]),
                    body
                ])
            })
            .on("write to", path)?;
        Ok(())
    }
}

/// Where in a day something is: a slot or an hour, and of which part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) index: u32,
    /// 0: the node's own series; 1: its workloads'.
    pub(super) part: u8,
}

/// What a day knows of a node's series.
pub(super) fn day_names(db: &Connection, path: &Path, node: u32, zip: &mut Zip) -> Result<Names, StoreError> {
    let mut names = Names::new();
    let mut query = db.prepare_cached("SELECT chunk FROM names WHERE node = ?1 ORDER BY first").on("read", path)?;
    let mut rows = query.query([node]).on("read", path)?;
    while let Some(row) = rows.next().on("read", path)? {
        let chunk = row.get_ref(0).and_then(|chunk| Ok(chunk.as_blob()?)).on("read", path)?;
        let mut from = super::codec::Reader::new(chunk);
        zip.read_section(&mut from, super::codec::MAX_SECTION)
            .and_then(|chunk| read_chunk(&chunk, &mut names))
            .within(path, || format!("names of node {node}"))?;
    }
    Ok(names)
}

/// Which frames are in a day, by node and spool: up to which number. Nothing if there is no such day.
pub(super) fn all_sealed(dir: &Path, day: Day, epoch: i64) -> Result<HashMap<(String, u64), u64>, StoreError> {
    let path = day.path(dir);
    if !path.exists() {
        return Ok(HashMap::new());
    }
    let db = open_for_reading(&path)?;
    let read = || {
        let sql = "SELECT name, spool, seq FROM sealed JOIN node ON node.id = sealed.node WHERE epoch = ?1";
        let mut query = db.prepare(sql)?;
        let row = |row: &rusqlite::Row<'_>| Ok(((row.get(0)?, row.get::<_, Bits>(1)?.0), row.get::<_, Bits>(2)?.0));
        let rows = query.query_map([epoch], row)?;
        rows.collect::<rusqlite::Result<_>>()
    };
    read().on("read", &path)
}
