//! Whether what is in the files makes sense: each block by itself, and sums against what they are sums of.

use std::collections::BTreeMap;
use std::path::Path;

use ebbtide_proto::NodeId;
use rusqlite::{Connection, OptionalExtension as _};

use super::block::{Summary, read_body, read_head};
use super::codec::{Damaged, Zip};
use super::day::{Day, HOUR_MS, SLOT_MS, day_names};
use super::error::{OnFile as _, StoreError};
use super::hot::{names_of, tail_of};
use super::names::Names;
use super::rollup::Rollup;
use super::samples::Gatherer;
use super::sql::{Bits, checksum, open_for_reading};
use super::sums::{Sum, SumKey, Sums, add_hour};

/// Problems beyond these are only counted.
const TOLD: usize = 100;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Files that were read.
    pub files: u64,
    /// Frames that are not in days.
    pub frames: u64,
    /// Blocks and roll-ups.
    pub blocks: u64,
    /// Values in blocks.
    pub samples: u64,
    /// How much is wrong.
    pub problems: u64,
    /// What is wrong, the first hundred.
    pub details: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problems == 0
    }

    fn problem(&mut self, path: &Path, what: impl std::fmt::Display) {
        self.problems += 1;
        if self.details.len() < TOLD {
            self.details.push(format!("{}: {what}", path.display()));
        }
    }
}

/// Reads the store in `dir` from end to end. Another process may have it open; what is written meanwhile may or may not
/// be looked at.
///
/// # Errors
/// Only if a file can't be read at all. What is wrong with what it says is in the report.
pub fn verify(dir: &Path) -> Result<Report, StoreError> {
    let mut report = Report::default();
    let mut zip = Zip::new().map_err(StoreError::Compression)?;
    let path = dir.join("hot.db");
    if path.exists() {
        verify_hot(&path, &mut report)?;
    } else {
        report.problem(&path, "is missing: frames that were not in days are lost");
    }
    for day in Day::all(dir)? {
        let path = day.path(dir);
        let db = open_for_reading(&path)?;
        // one moment of the file
        db.execute_batch("BEGIN").on("read", &path)?;
        if integrity(&db, &path, &mut report) {
            Checking { day, db: &db, path: &path, zip: &mut zip, report: &mut report }.run()?;
        }
    }
    Ok(report)
}

/// Whether SQLite finds the file sound enough to look further.
fn integrity(db: &Connection, path: &Path, report: &mut Report) -> bool {
    report.files += 1;
    let check = || {
        let mut query = db.prepare("PRAGMA integrity_check")?;
        let rows = query.query_map([], |row| row.get::<_, String>(0))?;
        rows.collect::<rusqlite::Result<Vec<String>>>()
    };
    match check() {
        Ok(lines) if lines == ["ok"] => true,
        Ok(lines) => {
            lines.into_iter().for_each(|line| report.problem(path, line));
            false
        }
        Err(error) => {
            report.problem(path, error);
            false
        }
    }
}

fn verify_hot(path: &Path, report: &mut Report) -> Result<(), StoreError> {
    let db = open_for_reading(path)?;
    db.execute_batch("BEGIN").on("read", path)?;
    if !integrity(&db, path, report) {
        return Ok(());
    }
    let mut names: BTreeMap<u32, Names> = BTreeMap::new();
    let nodes: Vec<u32> = column(&db, "SELECT id FROM node").on("read", path)?;
    for node in nodes {
        match names_of(&db, path, node).and_then(|names| tail_of(&db, path, node).map(|_| names)) {
            Ok(known) => drop(names.insert(node, known)),
            Err(error) => report.problem(path, error),
        }
    }
    let sql = "SELECT frame.id, node, data FROM frame LEFT JOIN stream ON stream.id = frame.stream
               LEFT JOIN body ON body.id = frame.id";
    let mut query = db.prepare(sql).on("read", path)?;
    let mut rows = query.query([]).on("read", path)?;
    while let Some(row) = rows.next().on("read", path)? {
        report.frames += 1;
        let id: i64 = row.get(0).on("read", path)?;
        let node: Option<u32> = row.get(1).on("read", path)?;
        let body = row.get_ref(2).and_then(|body| Ok(body.as_blob_or_null()?)).on("read", path)?;
        let (Some(names), Some(body)) = (node.and_then(|node| names.get(&node)), body) else {
            report.problem(path, format!("frame {id} has no body, or is of nobody that is known"));
            continue;
        };
        let mut gatherer = Gatherer::default();
        match gatherer.add(body) {
            Err(error) => report.problem(path, format!("frame {id} is {error}")),
            Ok(()) => {
                let nameless = |series: &u32| !names.contains_key(series);
                let samples = gatherer.finish();
                if let Some(series) = samples.columns.iter().map(|column| column.series).find(nameless) {
                    report.problem(path, format!("frame {id} has series {series}, which has no name"));
                }
            }
        }
    }
    Ok(())
}

fn column<T: rusqlite::types::FromSql>(db: &Connection, sql: &str) -> rusqlite::Result<Vec<T>> {
    db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// What is being looked at.
struct Checking<'a> {
    day: Day,
    db: &'a Connection,
    path: &'a Path,
    zip: &'a mut Zip,
    report: &'a mut Report,
}

/// A row with a head and perhaps a body.
struct Row {
    index: u32,
    part: u8,
    check: Bits,
    head: Vec<u8>,
    body: Option<Vec<u8>>,
}

/// By hour and part, an hour's minutes as they come from finer data.
type Hours = BTreeMap<(u32, u8), Rollup>;

impl Checking<'_> {
    fn run(mut self) -> Result<(), StoreError> {
        let nodes: Vec<u32> = column(self.db, "SELECT id FROM node").on("read", self.path)?;
        let mut sums = Sums::new();
        for node in nodes {
            let name: String = self
                .db
                .query_row("SELECT name FROM node WHERE id = ?1", [node], |row| row.get(0))
                .on("read", self.path)?;
            let names = match day_names(self.db, self.path, node, self.zip) {
                Ok(names) => names,
                Err(error) => {
                    self.report.problem(self.path, error);
                    continue;
                }
            };
            self.node(node, &name, &names, &mut sums)?;
        }
        self.sums(&sums)
    }

    fn rows(&self, sql: &str, node: u32) -> Result<Vec<Row>, StoreError> {
        let read = || {
            let mut query = self.db.prepare_cached(sql)?;
            let row = |row: &rusqlite::Row<'_>| {
                Ok(Row {
                    index: row.get(0)?,
                    part: row.get(1)?,
                    check: row.get(2)?,
                    head: row.get(3)?,
                    body: row.get(4)?,
                })
            };
            query.query_map([node], row)?.collect::<rusqlite::Result<_>>()
        };
        read().on("read", self.path)
    }

    /// What reading a row says, unless it is damaged; that is reported.
    fn read<T>(
        &mut self,
        what: &str,
        row: &Row,
        read: impl FnOnce(&mut Zip, &[Summary], Option<&[u8]>) -> Result<T, Damaged>,
    ) -> Option<T> {
        self.report.blocks += 1;
        let intact = row.body.as_ref().is_none_or(|body| checksum(&[&row.head, body]) == row.check);
        let result = if intact {
            read_head(&row.head).and_then(|head| read(self.zip, &head, row.body.as_deref()))
        } else {
            Err(Damaged("its check sum is another"))
        };
        result.map_err(|error| self.report.problem(self.path, format!("{what} {} is {error}", row.index))).ok()
    }

    fn node(&mut self, node: u32, name: &str, names: &Names, sums: &mut Sums) -> Result<(), StoreError> {
        let raw = self.rows("SELECT slot, part, check_sum, head, body FROM raw WHERE node = ?1 ORDER BY id", node)?;
        let tens = self.rows("SELECT slot, part, check_sum, head, body FROM tens WHERE node = ?1 ORDER BY id", node)?;
        let minutes = self.rows("SELECT hour, part, check_sum, head, body FROM minutes WHERE node = ?1", node)?;
        let (mut from_raw, mut from_tens) = (Hours::new(), Hours::new());
        for row in &raw {
            let start = self.day.start() + u64::from(row.index) * SLOT_MS;
            let what = format!("samples of {name}, slot");
            let rolled = self.read(&what, row, |zip, head, body| {
                let samples = read_body(body.unwrap_or_default(), zip, |_| true)?;
                let (rollup, _) = Rollup::of(&samples, start, 10_000, 60);
                let same = rollup.summaries() == head;
                if same { Ok(rollup) } else { Err(Damaged("its head says another thing than its body")) }
            });
            let Some(rolled) = rolled else { continue };
            self.report.samples += rolled.columns.iter().map(|column| column.samples).sum::<u64>();
            if let Some(column) = rolled.columns.iter().find(|column| !names.contains_key(&column.series)) {
                self.report.problem(self.path, format!("{what} {}: series {} has no name", row.index, column.series));
            }
            self.add(&mut from_raw, row, &rolled);
        }
        for row in &tens {
            let what = format!("ten seconds of {name}, slot");
            if let Some(rolled) = self.read(&what, row, rollup_as_told) {
                self.add(&mut from_tens, row, &rolled);
            }
        }
        let has_finer = [(!raw.is_empty(), from_raw), (!tens.is_empty(), from_tens)];
        for row in &minutes {
            let what = format!("minutes of {name}, hour");
            if row.body.is_none() {
                self.report.blocks += 1;
                continue;
            }
            let Some(told) = self.read(&what, row, rollup_as_told) else { continue };
            for (there, finer) in &has_finer {
                let same = finer.get(&(row.index, row.part)).is_some_and(|finer| *finer == told);
                if *there && !same {
                    let text =
                        format!("{what} {}, part {}: is not the sum of what it is a sum of", row.index, row.part);
                    self.report.problem(self.path, text);
                }
            }
            if let Ok(node) = NodeId::new(name) {
                add_hour(sums, row.index, &node, &told, &told, names);
            }
        }
        let hours = minutes.iter().map(|row| (row.index, row.part)).collect::<std::collections::BTreeSet<_>>();
        for place in has_finer.iter().flat_map(|(_, finer)| finer.keys()).filter(|place| !hours.contains(place)) {
            self.report
                .problem(self.path, format!("minutes of {name}, hour {}, part {} are missing", place.0, place.1));
        }
        Ok(())
    }

    fn add(&self, to: &mut Hours, row: &Row, rolled: &Rollup) {
        let slots = u32::try_from(HOUR_MS / SLOT_MS).unwrap_or(1);
        let hour = row.index / slots;
        let start_ms = self.day.start() + u64::from(hour) * HOUR_MS;
        let empty = || Rollup { start_ms, unit_ms: 60_000, buckets: 60, columns: Vec::new() };
        to.entry((hour, row.part)).or_insert_with(empty).add(rolled);
    }

    /// Sums by group against those of `sums`, which are made of minutes.
    fn sums(&mut self, sums: &Sums) -> Result<(), StoreError> {
        let mut query = self
            .db
            .prepare("SELECT hour, kind, name, energy, covered_ms, quality, check_sum, body FROM sums")
            .on("read", self.path)?;
        let mut rows = query.query([]).on("read", self.path)?;
        let mut found = 0;
        while let Some(row) = rows.next().on("read", self.path)? {
            self.report.blocks += 1;
            let read = || -> rusqlite::Result<_> {
                let key = SumKey { kind: row.get(1)?, name: row.get(2)? };
                let totals: (Bits, Bits) = (row.get(3)?, row.get(4)?);
                let body: Option<Vec<u8>> = row.get(7)?;
                Ok((row.get::<_, u32>(0)?, key, totals, row.get::<_, u8>(5)?, row.get::<_, Bits>(6)?, body))
            };
            let (hour, key, totals, quality, check, body) = read().on("read", self.path)?;
            let Some(body) = body else { continue };
            found += 1;
            let told = match Sum::read(&body, quality) {
                Ok(told) if checksum(&[&body]) == check && told.totals() == (totals.0.0, totals.1.0) => told,
                Ok(_) => {
                    self.report.problem(self.path, format!("sum of {}, hour {hour}: contradicts itself", key.name));
                    continue;
                }
                Err(error) => {
                    self.report.problem(self.path, format!("sum of {}, hour {hour} is {error}", key.name));
                    continue;
                }
            };
            if sums.get(&hour).and_then(|sums| sums.get(&key)).is_none_or(|sum| sum.energy != told.energy) {
                let text = format!("sum of {}, hour {hour}: is not what its nodes add up to", key.name);
                self.report.problem(self.path, text);
            }
        }
        let thinned = "SELECT 1 FROM minutes WHERE body IS NULL LIMIT 1";
        let thinned: Option<i64> = self.db.query_row(thinned, [], |row| row.get(0)).optional().on("read", self.path)?;
        if thinned.is_none() && found != sums.values().map(|sums| sums.len()).sum::<usize>() {
            self.report.problem(self.path, "sums of groups are missing");
        }
        Ok(())
    }
}

/// A roll-up whose head says what its body does.
fn rollup_as_told(zip: &mut Zip, head: &[Summary], body: Option<&[u8]>) -> Result<Rollup, Damaged> {
    let rollup = Rollup::read_body(head, body.unwrap_or_default(), zip, |_| true)?;
    if rollup.summaries() == head { Ok(rollup) } else { Err(Damaged("its head says another thing than its body")) }
}
