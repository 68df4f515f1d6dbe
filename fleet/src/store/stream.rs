//! From a connection's numbers to the store's, and from frames to what is written of them.

use std::collections::HashMap;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, PoisonError};

use ebbtide_proto::NodeId;
use ebbtide_proto::frame::{Decoded, Decoder};

use super::error::OnFile as _;
use super::hot::{gather, names_of, tail_of};
use super::names::Definition;
use super::node::{FrameRef, Node, Spool};
use super::recent::Movement;
use super::samples::{BodyWriter, Boot};
use super::{Inner, Store, StoreError, lock};

/// The spools of a node that are remembered: frames of older ones would be taken for new.
const MOST_SPOOLS: usize = 32;

/// A connection of an agent, or whatever else tells frames of one spool in order.
#[derive(Debug)]
pub struct Stream {
    store: Arc<Inner>,
    node: Arc<Node>,
    spool: u64,
    /// By the connection's numbers: the store's, or 0; and whether the series is added up.
    numbers: Vec<(u32, bool)>,
    /// The node's generation that these are of.
    generation: u32,
    writer: BodyWriter,
}

/// A frame, ready to be written.
#[derive(Debug)]
pub struct Record {
    pub(super) node: Arc<Node>,
    pub(super) spool: u64,
    pub(super) seq: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    pub(super) samples: usize,
    pub(super) body: Vec<u8>,
    pub(super) boot: Boot,
    pub(super) movement: Movement,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.node.records.fetch_sub(1, AcqRel);
    }
}

impl Record {
    /// Number within its spool.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Its first and last moment in milliseconds since 1970; zeros if it has none. Frames that claim to be from years
    /// ago or ahead make day files of their own: who takes frames from a network should refuse them.
    pub fn moments(&self) -> (u64, u64) {
        (self.first_ms, self.last_ms)
    }

    /// How many values it has.
    pub fn samples(&self) -> usize {
        self.samples
    }
}

impl Store {
    /// Frames of this spool of this node will come.
    ///
    /// # Errors
    /// If what is known of the node can't be read.
    pub fn stream(&self, node: &NodeId, spool_id: u64) -> Result<Stream, StoreError> {
        let node = self.0.node_or_new(node);
        self.0.load(&node)?;
        let known = lock(&node.state).spool(spool_id).is_some();
        if !known {
            self.0.new_spool(&node, spool_id)?;
        }
        Ok(Stream {
            store: Arc::clone(&self.0),
            node,
            spool: spool_id,
            numbers: Vec::new(),
            generation: 0,
            writer: BodyWriter::default(),
        })
    }
}

impl Inner {
    fn node_or_new(&self, name: &NodeId) -> Arc<Node> {
        if let Some(node) = self.nodes.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name) {
            return Arc::clone(node);
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        let next = nodes.next;
        let node = nodes.by_name.entry(name.clone()).or_insert_with(|| Arc::new(Node::new(next, name.clone())));
        let node = Arc::clone(node);
        if node.id == next {
            nodes.next += 1;
        }
        node
    }

    /// A spool that the node had not. Its number is written with its first frame.
    fn new_spool(&self, node: &Node, id: u64) -> Result<(), StoreError> {
        let mut hot = lock(&self.hot);
        let mut state = lock(&node.state);
        if state.spool(id).is_some() {
            return Ok(());
        }
        if state.spools.len() >= MOST_SPOOLS {
            // agents make a spool once in their life: the oldest one that has nothing here is not coming back
            let busy = |spool: &Spool| state.frames.iter().any(|frame| frame.stream == spool.stream);
            if let Some(place) = state.spools.iter().position(|spool| !busy(spool)) {
                let spool = state.spools.remove(place);
                hot.db.execute("DELETE FROM stream WHERE id = ?1", [spool.stream]).on("write to", &hot.path)?;
            }
        }
        let stream = hot.next_stream;
        hot.next_stream += 1;
        state.spools.push(Spool { stream, id, acked: 0, lost: 0, saved: false });
        Ok(())
    }

    /// Sees to it that the node's series are in memory, and its frames in the sums of what is recent.
    pub(super) fn load(&self, node: &Node) -> Result<(), StoreError> {
        if lock(&node.state).is_loaded() {
            return Ok(());
        }
        self.mend()?;
        let _fence = self.fence.read().unwrap_or_else(PoisonError::into_inner);
        let snapshot = self.hot_readers.snapshot()?;
        let (db, path) = (snapshot.db()?, snapshot.path());
        let (names, mut tail) = (names_of(db, path, node.id)?, tail_of(db, path, node.id)?);
        let mut state = lock(&node.state);
        if state.is_loaded() {
            return Ok(());
        }
        // nobody writes frames of a node that is not loaded
        let frames: Vec<FrameRef> = state.frames.iter().copied().collect();
        let mut frames = frames.as_slice();
        let mut all = Vec::new();
        let from = |series: u32| names.get(&series)?.from;
        while !frames.is_empty() {
            let gathered = gather(db, path, frames)?;
            frames = frames.get(gathered.frames.len().max(1)..).unwrap_or_default();
            all.push(gathered.samples);
        }
        let mut recent = lock(&self.recent);
        state.load(&names, &tail, &node.name, &self.fingerprints, &mut recent);
        for mut samples in all {
            samples.open(|series| tail.of(series), from);
            tail.advance(&samples);
            state.moved_by(samples, &mut recent);
        }
        Ok(())
    }
}

impl Stream {
    /// The last frame that is safe, or 0: the next one should follow it.
    pub fn acked(&self) -> u64 {
        lock(&self.node.state).spool(self.spool).map_or(0, |spool| spool.acked)
    }

    /// What is to be written of a frame that `decoder` has just decoded. Every frame of the connection has to pass
    /// here, also those that turn out to be duplicates.
    pub fn record(&mut self, decoder: &Decoder, decoded: &Decoded) -> Record {
        self.note(decoder, decoded);
        let mut movement = Movement::default();
        let mut values = decoded.values.as_slice();
        let mut columns = Vec::with_capacity(decoded.columns.len());
        for column in &decoded.columns {
            let Some((own, rest)) = values.split_at_checked(column.len as usize) else { break };
            values = rest;
            let known = self.numbers.get(column.series as usize).filter(|(number, _)| *number > 0);
            let Some(&(number, is_summed)) = known else { continue };
            columns.push((number, column.first, own));
            let ticks = decoded.ticks.get(column.first as usize..).and_then(|rest| rest.get(..own.len()));
            if let Some(ticks) = ticks.filter(|_| is_summed) {
                movement.add(number, ticks, own);
            }
        }
        let mut body = Vec::with_capacity(64 + columns.len() * 12 + decoded.values.len());
        let boot = decoded.boot.map(|boot| boot.as_u128());
        self.writer.write(&decoded.ticks, boot, columns.into_iter(), &mut body);
        Record {
            node: Arc::clone(&self.node),
            spool: self.spool,
            seq: decoded.seq,
            first_ms: decoded.ticks.first().copied().unwrap_or(0),
            last_ms: decoded.ticks.last().copied().unwrap_or(0),
            samples: decoded.values.len(),
            body,
            boot,
            movement,
        }
    }

    /// Learns what the frame defines.
    fn note(&mut self, decoder: &Decoder, decoded: &Decoded) {
        for &number in &decoded.forgotten {
            if let Some(known) = self.numbers.get_mut(number as usize) {
                *known = (0, false);
            }
        }
        let mut state = lock(&self.node.state);
        // until it is committed or dropped, the record's numbers stay valid
        self.node.records.fetch_add(1, AcqRel);
        let all = 0..u32::try_from(self.numbers.len()).unwrap_or(u32::MAX);
        let mut numbers = decoded.defined.clone();
        if state.generation != self.generation {
            self.generation = state.generation;
            self.numbers.fill((0, false));
            numbers.extend(all);
        } else if !decoded.described.is_empty() || !decoded.zones.is_empty() {
            // series that were known are of something that is described anew
            let anew = |number: &u32| {
                self.numbers.get(*number as usize).is_some_and(|(known, _)| *known > 0)
                    && decoder.series(*number).is_some_and(|of| {
                        of.workload.is_some_and(|info| decoded.described.iter().any(|it| it.id == info.id))
                            || of.zone.is_some_and(|info| decoded.zones.iter().any(|it| it.id == info.id))
                    })
            };
            numbers.extend(all.filter(anew));
        }
        if numbers.is_empty() {
            return;
        }
        let mut of = Vec::with_capacity(numbers.len());
        let mut definitions = Vec::with_capacity(numbers.len());
        for number in numbers {
            let Some(series) = decoder.series(number) else { continue };
            let (zone, workload) = (series.zone.cloned(), series.workload.cloned());
            of.push(number as usize);
            definitions.push(Definition { metric: series.metric, zone, workload });
        }
        let mut recent = lock(&self.store.recent);
        let found = state.resolve(definitions, &self.node.name, &self.store.fingerprints, &mut recent);
        // a connection may define a series under two numbers: the latest counts
        let mut owners: HashMap<u32, usize> =
            self.numbers.iter().enumerate().map(|(number, (known, _))| (*known, number)).collect();
        for (number, found) in of.into_iter().zip(found) {
            let other = owners.insert(found.0, number).filter(|other| *other != number);
            // unless that number was given to another series meanwhile
            if let Some(other) = other.and_then(|it| self.numbers.get_mut(it)).filter(|it| it.0 == found.0) {
                *other = (0, false);
            }
            if self.numbers.len() <= number {
                self.numbers.resize(number + 1, (0, false));
            }
            if let Some(place) = self.numbers.get_mut(number) {
                *place = found;
            }
        }
        self.numbers.shrink_to_fit();
    }
}
