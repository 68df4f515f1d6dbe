//! What is stored, handed out series by series; and as lines of text, for other programs.

use std::io::{self, Write};

use ebbtide_proto::NodeId;
use ebbtide_proto::series::Metric;
use rusqlite::params;

use super::block::{read_body, read_head};
use super::codec::Zip;
use super::day::{Day, HOUR_MS, SLOT_MS, day_names};
use super::error::{InFile as _, OnFile as _};
use super::hot::{gather, names_of, tail_of};
use super::names::{Definition, Names};
use super::node::{FrameRef, Node};
use super::rollup::Rollup;
use super::samples::Samples;
use super::sql::{Bits, Snapshot};
use super::{Store, StoreError};
use crate::query::QueryError;

/// What an export has in each line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Samples: counters as they were told.
    Raw,
    /// What counters moved by in ten seconds.
    TenSeconds,
    /// What counters moved by in a minute.
    Minute,
}

/// What is to be exported.
#[derive(Clone, Debug)]
pub struct Export {
    /// From this moment on, in milliseconds since 1970.
    pub from_ms: u64,
    /// Up to this one, without it.
    pub until_ms: u64,
    /// Only of this node.
    pub node: Option<NodeId>,
    /// In which detail. What is not kept any more in this detail is left out.
    pub resolution: Resolution,
}

/// Why an export ended early.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no such node.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It can't be written where it was to be written.
    #[error("can't write the export: {0}")]
    Write(#[from] io::Error),
}

/// Takes what is stored.
pub trait Sink {
    /// What comes next is of this series of a node; `None`: the store has lost what it is of. Whether it is wanted.
    fn series(&mut self, node: &NodeId, of: Option<&Definition>) -> bool;
    /// A value, and how much of its bucket is known; `None`: it is a sample.
    ///
    /// # Errors
    /// If it can't be taken; nothing comes after it.
    fn value(&mut self, at_ms: u64, value: u64, covered_ms: Option<u64>) -> io::Result<()>;
}

const HEADER: &str = "time_ms,node,metric,zone,workload,value,covered_ms\n";

impl Store {
    /// Writes CSV with a header: milliseconds since 1970, node, metric, zone, workload, value, and how much of a bucket
    /// is known (empty for samples). By day and node; how many lines there are.
    ///
    /// # Errors
    /// If the node is not known, or something can't be read or written. What was written by then is right.
    pub fn export(&self, what: &Export, to: &mut dyn Write) -> Result<u64, ExportError> {
        to.write_all(HEADER.as_bytes())?;
        let mut lines = Lines { to, about: String::new(), count: 0 };
        self.hand_out(what, &mut lines)?;
        Ok(lines.count)
    }

    /// Hands out what is stored, by day and node.
    ///
    /// # Errors
    /// As [`Store::export`].
    pub fn hand_out(&self, what: &Export, to: &mut dyn Sink) -> Result<(), ExportError> {
        let nodes = match &what.node {
            None => self.0.all_nodes(),
            Some(name) => vec![self.0.saved_node(name)?],
        };
        let (view, ()) = self.0.view(what.from_ms, what.until_ms, nodes, || ())?;
        let mut pass = Pass { what, to };
        let mut zip = Zip::new().map_err(StoreError::Compression)?;
        for (day, file) in &view.days {
            for (node, _) in &view.nodes {
                pass.day(*day, file, &node.name, &mut zip)?;
            }
        }
        for (node, frames) in &view.nodes {
            pass.frames(&view.hot, node, frames)?;
        }
        Ok(())
    }
}

/// The lines of a text.
struct Lines<'a> {
    to: &'a mut dyn Write,
    about: String,
    count: u64,
}

impl Sink for Lines<'_> {
    fn series(&mut self, node: &NodeId, of: Option<&Definition>) -> bool {
        self.about = about(node, of);
        true
    }

    fn value(&mut self, at_ms: u64, value: u64, covered_ms: Option<u64>) -> io::Result<()> {
        self.count += 1;
        match covered_ms {
            None => writeln!(self.to, "{at_ms},{},{value},", self.about),
            Some(covered) => writeln!(self.to, "{at_ms},{},{value},{covered}", self.about),
        }
    }
}

/// One way through the store.
struct Pass<'a> {
    what: &'a Export,
    to: &'a mut dyn Sink,
}

impl Pass<'_> {
    fn day(&mut self, day: Day, file: &Snapshot, name: &NodeId, zip: &mut Zip) -> Result<(), ExportError> {
        let (db, path) = (file.db()?, file.path());
        let mut query = db.prepare_cached("SELECT id FROM node WHERE name = ?1").on("read", path)?;
        let ids = query.query_map([name.as_str()], |row| row.get(0)).on("read", path)?;
        let ids: Vec<u32> = ids.collect::<rusqlite::Result<_>>().on("read", path)?;
        let (sql, length) = match self.what.resolution {
            Resolution::Raw => (
                "SELECT slot, head, body FROM raw WHERE node = ?1 AND slot BETWEEN ?2 AND ?3 ORDER BY slot, part, id",
                SLOT_MS,
            ),
            Resolution::TenSeconds => (
                "SELECT slot, head, body FROM tens WHERE node = ?1 AND slot BETWEEN ?2 AND ?3 ORDER BY slot, part, id",
                SLOT_MS,
            ),
            Resolution::Minute => (
                "SELECT hour, head, body FROM minutes WHERE node = ?1 AND hour BETWEEN ?2 AND ?3 AND body IS NOT NULL ORDER BY hour, part",
                HOUR_MS,
            ),
        };
        let first = self.what.from_ms.saturating_sub(day.start()) / length;
        let last = self.what.until_ms.saturating_sub(1).saturating_sub(day.start()) / length;
        for id in ids {
            let names = day_names(db, path, id, zip)?;
            let mut query = db.prepare_cached(sql).on("read", path)?;
            let mut rows =
                query.query(params![id, Bits(first), Bits(last.min(u64::from(u32::MAX)))]).on("read", path)?;
            while let Some(row) = rows.next().on("read", path)? {
                let place = || format!("blocks of {name}");
                let body = row.get_ref(2).and_then(|body| Ok(body.as_blob()?)).on("read", path)?;
                if self.what.resolution == Resolution::Raw {
                    self.samples(name, &names, &read_body(body, zip, |_| true).within(path, place)?)?;
                } else {
                    let head = row.get_ref(1).and_then(|head| Ok(head.as_blob()?)).on("read", path)?;
                    let head = read_head(head).within(path, place)?;
                    self.buckets(name, &names, &Rollup::read_body(&head, body, zip, |_| true).within(path, place)?)?;
                }
            }
        }
        Ok(())
    }

    fn frames(&mut self, hot: &Snapshot, node: &Node, mut frames: &[FrameRef]) -> Result<(), ExportError> {
        if frames.is_empty() {
            return Ok(());
        }
        let (db, path) = (hot.db()?, hot.path());
        let (names, mut tail) = (names_of(db, path, node.id)?, tail_of(db, path, node.id)?);
        while !frames.is_empty() {
            let gathered = gather(db, path, frames)?;
            frames = frames.get(gathered.frames.len().max(1)..).unwrap_or_default();
            let mut samples = gathered.samples;
            samples.open(|series| tail.of(series), |series| names.get(&series)?.from);
            tail.advance(&samples);
            let unit = match self.what.resolution {
                Resolution::Raw => {
                    self.samples(&node.name, &names, &samples)?;
                    continue;
                }
                Resolution::TenSeconds => 10_000,
                Resolution::Minute => 60_000,
            };
            for (hour, samples) in samples.split(|_, at| at / HOUR_MS) {
                let buckets = usize::try_from(HOUR_MS / unit).unwrap_or(0);
                self.buckets(&node.name, &names, &Rollup::of(&samples, hour * HOUR_MS, unit, buckets).0)?;
            }
        }
        Ok(())
    }

    fn samples(&mut self, node: &NodeId, names: &Names, samples: &Samples) -> io::Result<()> {
        for column in &samples.columns {
            if !self.wants(node, names, column.series) {
                continue;
            }
            let mut result = Ok(());
            samples.runs(column, |first, _, values| {
                let ticks = samples.ticks.get(first as usize..).unwrap_or_default();
                for (at, value) in ticks.iter().zip(values) {
                    if result.is_ok() {
                        result = self.value(*at, *value, None);
                    }
                }
            });
            result?;
        }
        Ok(())
    }

    fn buckets(&mut self, node: &NodeId, names: &Names, rollup: &Rollup) -> io::Result<()> {
        for column in &rollup.columns {
            if !self.wants(node, names, column.series) {
                continue;
            }
            for (n, (by, covered)) in (0u64..).zip(column.by.iter().zip(&column.covered_ms)) {
                if *covered > 0 {
                    self.value(rollup.start_ms + n * rollup.unit_ms, *by, Some(*covered))?;
                }
            }
        }
        Ok(())
    }

    fn wants(&mut self, node: &NodeId, names: &Names, series: u32) -> bool {
        self.to.series(node, names.get(&series).map(|named| &named.definition))
    }

    fn value(&mut self, at_ms: u64, value: u64, covered_ms: Option<u64>) -> io::Result<()> {
        let wanted = (self.what.from_ms..self.what.until_ms).contains(&at_ms);
        if wanted { self.to.value(at_ms, value, covered_ms) } else { Ok(()) }
    }
}

/// The fields of a line that say which series it is of.
fn about(node: &NodeId, of: Option<&Definition>) -> String {
    let Some(definition) = of else { return format!("{node},,,") };
    let zone = definition.zone.as_ref().map(|zone| quoted(zone.id.as_str())).unwrap_or_default();
    let workload = definition.workload.as_ref().map(|it| quoted(&it.id.to_string())).unwrap_or_default();
    format!("{node},{},{zone},{workload}", metric(definition.metric))
}

/// What a value counts, with its unit.
const fn metric(metric: Metric) -> &'static str {
    match metric {
        Metric::Energy => "energy_uj",
        Metric::IdleEnergy => "idle_energy_uj",
        Metric::CpuTime => "cpu_time_ns",
        Metric::Residual => "residual_uj",
        Metric::Gaps => "gaps",
        Metric::Unallocated => "unallocated_uj",
    }
}

/// A field as RFC 4180 has it.
fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}
