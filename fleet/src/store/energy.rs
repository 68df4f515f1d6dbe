//! Answers where energy went, from days and from frames.

use std::sync::{Arc, PoisonError};

use ebbtide_proto::NodeId;
use ebbtide_proto::series::Quality;
use ebbtide_proto::v1;
use rusqlite::{Connection, params};

use super::block::{read_body, read_head};
use super::codec::Zip;
use super::day::{Day, HOUR_MS, SLOT_MS, day_names};
use super::error::{InFile as _, OnFile as _};
use super::hot::{gather, names_of, tail_of};
use super::node::{FrameRef, Node};
use super::question::{Answer, Question, Slots, Unit};
use super::recent::{Cell, MINUTE_MS};
use super::rollup::Rollup;
use super::sql::{Bits, Snapshot};
use super::sums::{KINDS, Sum};
use super::view::View;
use super::{Inner, Store, StoreError, lock};
use crate::query::QueryError;

/// What an answer may cost, in microseconds by rough estimate.
const MAX_COST_US: u64 = 20_000_000;

impl From<StoreError> for QueryError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

impl Store {
    /// Energy over time. Reads files: ask on a thread that may block.
    ///
    /// # Errors
    /// `NotFound` for a node that never told anything, `Invalid` and `TooMuch` as in `fleet.proto`, `Store` if files
    /// can't be read.
    pub fn energy(&self, request: &v1::QueryEnergyRequest, now_ms: u64) -> Result<v1::QueryEnergyResponse, QueryError> {
        let question = Question::new(request, now_ms, &self.0.options.retention)?;
        let summed = question.node.is_none() && KINDS.contains(&question.by) && question.unit >= Unit::Minute;
        let nodes = match &question.node {
            // sums are enough, if they are of all nodes
            _ if summed => {
                self.0.all_nodes().iter().try_for_each(|node| self.0.load(node))?;
                Vec::new()
            }
            None => self.0.all_nodes(),
            Some(name) => vec![self.0.saved_node(name)?],
        };
        let recent = || if summed { lock(&self.0.recent).of(question.by) } else { Vec::new() };
        let (view, recent) = self.0.view(question.from, question.until, nodes, recent)?;
        let mut answer = Answer::new(&question);
        let mut reading = Reading { question: &question, zip: Zip::new().map_err(StoreError::Compression)? };
        reading.affordable(&view)?;
        if summed {
            view.days.iter().try_for_each(|(day, file)| reading.sums(*day, file, &mut answer))?;
            reading.recent(recent, &mut answer)?;
            answer.end_node();
        }
        for (node, frames) in &view.nodes {
            for (day, file) in &view.days {
                reading.node(*day, file, &node.name, &mut answer)?;
            }
            reading.frames(&view.hot, node, frames, &mut answer)?;
            answer.end_node();
        }
        Ok(answer.finish(now_ms))
    }
}

impl Inner {
    /// A node that told something, at some time.
    pub(super) fn saved_node(&self, name: &NodeId) -> Result<Arc<Node>, QueryError> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let known = nodes.by_name.get(name).filter(|node| lock(&node.state).saved).map(Arc::clone);
        known.ok_or_else(|| QueryError::NotFound { what: "node", name: name.to_string() })
    }
}

/// Reads for one question.
struct Reading<'a> {
    question: &'a Question,
    zip: Zip,
}

impl Reading<'_> {
    /// Whether the question can be answered in reasonable time.
    fn affordable(&self, view: &View) -> Result<(), QueryError> {
        let hours = (self.question.until - self.question.from).div_ceil(HOUR_MS).min(view.days.len() as u64 * 24);
        let hour = match self.question.unit {
            Unit::Second => 6 * 400,
            Unit::Ten => 6 * 60,
            Unit::Minute => 40,
            Unit::Hour => 6,
        };
        let sealed = view.nodes.len() as u64 * (hours * hour + 20);
        let frames: u64 = view.nodes.iter().map(|(_, frames)| frames.len() as u64 * 8).sum();
        if sealed + frames > MAX_COST_US {
            return Err(QueryError::TooMuch(format!(
                "{} nodes over {hours} hours in this detail are too much to read; ask for one node, a shorter time, \
                 or steps of a minute or more by fleet, node, component, namespace, unit, vm, user or app",
                view.nodes.len()
            )));
        }
        Ok(())
    }

    /// Adds the sums of a day.
    fn sums(&self, day: Day, file: &Snapshot, answer: &mut Answer<'_>) -> Result<(), QueryError> {
        let (db, path) = (file.db()?, file.path());
        let (first, last) = self.hours(day);
        let sql = "SELECT hour, name, energy, covered_ms, quality, body FROM sums
                   WHERE kind = ?1 AND hour BETWEEN ?2 AND ?3";
        let mut query = db.prepare_cached(sql).on("read", path)?;
        let mut rows = query.query(params![i32::from(self.question.by), Bits(first), Bits(last)]).on("read", path)?;
        while let Some(row) = rows.next().on("read", path)? {
            let hour: u32 = row.get(0).on("read", path)?;
            let start = day.start() + u64::from(hour) * HOUR_MS;
            let code: u8 = row.get(4).on("read", path)?;
            let worst = super::names::quality_of(code).within(path, || "sums".to_owned())?;
            let name: String = row.get(1).on("read", path)?;
            let Some(group) = answer.group(name, worst)? else { continue };
            let body = row.get_ref(5).and_then(|body| Ok(body.as_blob_or_null()?)).on("read", path)?;
            match (self.question.bucket_of_all(start, HOUR_MS), body) {
                (None, Some(body)) => {
                    let sum = Sum::read(body, code).within(path, || format!("sums of hour {hour}"))?;
                    for (minute, (energy, ms)) in (0u64..).zip(sum.energy.iter().zip(&sum.covered_ms)) {
                        if let Some(bucket) = self.question.bucket(start + minute * Unit::Minute.ms()) {
                            answer.add_to(group, bucket, *energy, *ms);
                        }
                    }
                }
                (bucket, _) => {
                    let Some(bucket) = bucket.or_else(|| self.question.bucket(start)) else { continue };
                    let totals: (Bits, Bits) = (row.get(2).on("read", path)?, row.get(3).on("read", path)?);
                    answer.add_to(group, bucket, totals.0.0, totals.1.0);
                }
            }
        }
        Ok(())
    }

    /// Adds the sums of what is not in days.
    fn recent(&self, groups: Vec<(String, Quality, Vec<Cell>)>, answer: &mut Answer<'_>) -> Result<(), QueryError> {
        for (name, worst, minutes) in groups {
            let Some(group) = answer.group(name, worst)? else { continue };
            for cell in minutes {
                if let Some(bucket) = self.question.bucket(u64::from(cell.minute) * MINUTE_MS) {
                    answer.add_to(group, bucket, cell.energy, cell.covered_ms);
                }
            }
        }
        Ok(())
    }

    /// The first and last hour of a day that are asked for.
    fn hours(&self, day: Day) -> (u64, u64) {
        let first = self.question.from.saturating_sub(day.start()) / HOUR_MS;
        (first, (self.question.until - 1 - day.start()) / HOUR_MS)
    }

    /// Adds what a day has of a node.
    fn node(&mut self, day: Day, file: &Snapshot, name: &NodeId, answer: &mut Answer<'_>) -> Result<(), QueryError> {
        let (db, path) = (file.db()?, file.path());
        let mut query = db.prepare_cached("SELECT id FROM node WHERE name = ?1").on("read", path)?;
        let ids = query.query_map([name.as_str()], |row| row.get(0)).on("read", path)?;
        let ids: Vec<u32> = ids.collect::<rusqlite::Result<_>>().on("read", path)?;
        for id in ids {
            let names = day_names(db, path, id, &mut self.zip)?;
            let slots = answer.slots(name, &names)?;
            if slots.is_empty() {
                continue;
            }
            let of_workload = |series: &u32| names.get(series).is_some_and(|named| named.definition.workload.is_some());
            for part in [0, 1] {
                if slots.keys().any(|series| of_workload(series) == (part == 1)) {
                    let place = (id, part);
                    match self.question.unit {
                        Unit::Second | Unit::Ten => self.slots(day, db, path, place, &slots, answer)?,
                        Unit::Minute | Unit::Hour => self.minutes(day, db, path, place, &slots, answer)?,
                    }
                }
            }
        }
        Ok(())
    }

    fn minutes(
        &mut self,
        day: Day,
        db: &Connection,
        path: &std::path::Path,
        (node, part): (u32, u8),
        slots: &Slots,
        answer: &mut Answer<'_>,
    ) -> Result<(), QueryError> {
        let (first, last) = self.hours(day);
        let sql = "SELECT hour, head, body FROM minutes WHERE node = ?1 AND part = ?2 AND hour BETWEEN ?3 AND ?4";
        let mut query = db.prepare_cached(sql).on("read", path)?;
        let mut rows = query.query(params![node, part, Bits(first), Bits(last)]).on("read", path)?;
        while let Some(row) = rows.next().on("read", path)? {
            let hour: u32 = row.get(0).on("read", path)?;
            let place = || format!("minutes of node {node}, hour {hour}");
            let start = day.start() + u64::from(hour) * HOUR_MS;
            let head = row.get_ref(1).and_then(|head| Ok(head.as_blob()?)).on("read", path)?;
            let head = read_head(head).within(path, place)?;
            let whole = self.question.bucket_of_all(start, HOUR_MS);
            let body = match whole {
                None => row.get_ref(2).and_then(|body| Ok(body.as_blob_or_null()?)).on("read", path)?,
                Some(_) => None,
            };
            if let Some(body) = body {
                let wanted = |series| slots.contains_key(&series);
                let minutes = Rollup::read_body(&head, body, &mut self.zip, wanted).within(path, place)?;
                answer.add(slots, &minutes);
            } else if let Some(bucket) = whole.or_else(|| self.question.bucket(start)) {
                answer.add_totals(slots, bucket, head.iter().map(|it| (it.series, it.sum, it.covered_ms)));
            }
        }
        Ok(())
    }

    fn slots(
        &mut self,
        day: Day,
        db: &Connection,
        path: &std::path::Path,
        (node, part): (u32, u8),
        slots: &Slots,
        answer: &mut Answer<'_>,
    ) -> Result<(), QueryError> {
        let first = self.question.from.saturating_sub(day.start()) / SLOT_MS;
        let last = (self.question.until - 1 - day.start()) / SLOT_MS;
        let raw = self.question.unit == Unit::Second;
        let sql = if raw {
            "SELECT slot, head, body FROM raw WHERE node = ?1 AND part = ?2 AND slot BETWEEN ?3 AND ?4"
        } else {
            "SELECT slot, head, body FROM tens WHERE node = ?1 AND part = ?2 AND slot BETWEEN ?3 AND ?4"
        };
        let mut query = db.prepare_cached(sql).on("read", path)?;
        let mut rows = query.query(params![node, part, Bits(first), Bits(last)]).on("read", path)?;
        while let Some(row) = rows.next().on("read", path)? {
            let slot: u32 = row.get(0).on("read", path)?;
            let place = || format!("blocks of node {node}, slot {slot}");
            let body = row.get_ref(2).and_then(|body| Ok(body.as_blob()?)).on("read", path)?;
            let wanted = |series| slots.contains_key(&series);
            let rollup = if raw {
                let samples = read_body(body, &mut self.zip, wanted).within(path, place)?;
                let start = day.start() + u64::from(slot) * SLOT_MS;
                Rollup::of(&samples, start, Unit::Second.ms(), 600).0
            } else {
                let head = row.get_ref(1).and_then(|head| Ok(head.as_blob()?)).on("read", path)?;
                let head = read_head(head).within(path, place)?;
                Rollup::read_body(&head, body, &mut self.zip, wanted).within(path, place)?
            };
            answer.add(slots, &rollup);
        }
        Ok(())
    }

    /// Adds what a node's frames have.
    fn frames(
        &self,
        hot: &Snapshot,
        node: &Node,
        mut frames: &[FrameRef],
        answer: &mut Answer<'_>,
    ) -> Result<(), QueryError> {
        if frames.is_empty() {
            return Ok(());
        }
        let (db, path) = (hot.db()?, hot.path());
        let names = names_of(db, path, node.id)?;
        let slots = answer.slots(&node.name, &names)?;
        if slots.is_empty() {
            return Ok(());
        }
        let mut tail = tail_of(db, path, node.id)?;
        let unit = self.question.unit.ms().min(Unit::Minute.ms());
        while !frames.is_empty() {
            let gathered = gather(db, path, frames)?;
            frames = frames.get(gathered.frames.len().max(1)..).unwrap_or_default();
            let mut samples = gathered.samples;
            samples.open(|series| tail.of(series), |series| names.get(&series)?.from);
            tail.advance(&samples);
            samples.columns.retain(|column| slots.contains_key(&column.series));
            for (hour, samples) in samples.split(|_, at| at / HOUR_MS) {
                let buckets = usize::try_from(HOUR_MS / unit).unwrap_or(0);
                let (rollup, _) = Rollup::of(&samples, hour * HOUR_MS, unit, buckets);
                answer.add(&slots, &rollup);
            }
        }
        Ok(())
    }
}
