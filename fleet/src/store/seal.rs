//! Frames become blocks of days.
//!
//! A node's frames are sealed once it has told something of a later slot, or nothing for a while. Blocks, roll-ups,
//! sums and the note which frames they are of are one transaction of a day's file; then `hot.db` is told, in one
//! transaction as well; then frames are deleted. Whatever is cut short is done again from the same frames and the same
//! last samples, comes to the same figures, and leaves out what the day already has.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::Ordering::Acquire;
use std::sync::{Arc, PoisonError};

use rusqlite::params;

use super::day::{Day, DayWriter, HOUR_MS, Place, Press, SLOT_MS, all_sealed};
use super::error::OnFile as _;
use super::hot::{FrameRow, Gathered, Hot, gather, names_of, replace_names, tail_of, unsealed};
use super::names::Names;
use super::node::{FrameRef, Node, NodeState};
use super::recent::{MINUTE_MS, minute};
use super::rollup::Rollup;
use super::samples::Samples;
use super::sql::{Bits, shrink};
use super::sums::{Sums, add_hour};
use super::tail::Tail;
use super::{Inner, Store, StoreError, lock};

/// More frames than this of one node are sealed whether or not its slot is over.
const MOST_FRAMES: usize = 2000;
/// A node that tells nothing for this long, in milliseconds, is sealed.
const QUIET_MS: u64 = 2 * 60_000;
/// As many series of a node are not worth tidying.
const FEW_SERIES: usize = 256;
/// Frames that are deleted in one go: ingest waits that long.
const DELETED_AT_ONCE: u64 = 5000;
/// Days that stay open for writing.
const OPEN_DAYS: usize = 2;

/// What was sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Nodes of which frames were sealed.
    pub nodes: usize,
    /// Those frames.
    pub frames: u64,
    /// Their values.
    pub samples: u64,
    /// Steps that could not be known.
    pub gaps: u64,
    /// Whether more nodes are ripe.
    pub more: bool,
}

/// What sealing keeps from one time to the next.
#[derive(Debug)]
pub(super) struct Sealer {
    press: Press,
    days: BTreeMap<Day, DayWriter>,
    /// Where to go on looking for nodes.
    next: usize,
}

impl Sealer {
    pub(super) fn new() -> Result<Self, StoreError> {
        Ok(Self { press: Press::new()?, days: BTreeMap::new(), next: 0 })
    }

    /// Closes a day, if it is open.
    pub(super) fn close(&mut self, day: Day) {
        if let Some(writer) = self.days.remove(&day) {
            writer.close();
        }
    }
}

/// A node's frames that are in days once those are committed.
struct Done {
    node: Arc<Node>,
    /// The last of the frames.
    last: u64,
    /// By stream, their highest number.
    streams: BTreeMap<u32, u64>,
    tail: Tail,
    gaps: u64,
    samples: u64,
    /// Energy by series and minute.
    taken: Vec<(u32, u32, u64)>,
}

impl Store {
    /// Seals what is ripe of at most `max_nodes` nodes. Blocks; meant for a background thread, again and again, at
    /// once while there is `more`.
    ///
    /// # Errors
    /// If days or `hot.db` can't be read or written. Nothing is lost or counted twice; try again later.
    pub fn seal(&self, now_ms: u64, max_nodes: usize) -> Result<Sealed, StoreError> {
        let mut sealer = lock(&self.0.sealer);
        let nodes = self.0.all_nodes();
        let mut ripe = Vec::new();
        let mut more = false;
        let begin = sealer.next;
        for n in 0..nodes.len() {
            let at = (begin + n) % nodes.len();
            let Some(node) = nodes.get(at) else { continue };
            let frames = ripe_frames(&mut lock(&node.state), now_ms);
            if frames.is_empty() {
                continue;
            }
            if ripe.len() == max_nodes {
                more = true;
                sealer.next = at;
                break;
            }
            ripe.push((Arc::clone(node), frames));
        }
        let mut sealed = self.0.seal_nodes(&mut sealer, ripe)?;
        sealed.more |= more;
        Ok(sealed)
    }

    /// Seals everything, ripe or not, and gives the disk back what frames took. Before an orderly end.
    ///
    /// # Errors
    /// As [`Self::seal`].
    pub fn seal_all(&self, _now_ms: u64) -> Result<Sealed, StoreError> {
        /// Nodes in one transaction.
        const AT_ONCE: usize = 256;
        let mut sealer = lock(&self.0.sealer);
        let mut total = Sealed::default();
        loop {
            let frames =
                |node: &Arc<Node>| (Arc::clone(node), lock(&node.state).frames.iter().copied().collect::<Vec<_>>());
            let all: Vec<_> =
                self.0.all_nodes().iter().map(frames).filter(|(_, frames)| !frames.is_empty()).take(AT_ONCE).collect();
            if all.is_empty() {
                break;
            }
            let sealed = self.0.seal_nodes(&mut sealer, all)?;
            total.nodes += sealed.nodes;
            total.frames += sealed.frames;
            total.samples += sealed.samples;
            total.gaps += sealed.gaps;
        }
        std::mem::take(&mut sealer.days).into_values().for_each(DayWriter::close);
        let hot = lock(&self.0.hot);
        shrink(&hot.db).on("shrink", &hot.path)?;
        Ok(total)
    }
}

/// The frames of a node that are to be sealed now.
fn ripe_frames(state: &mut NodeState, now_ms: u64) -> Vec<FrameRef> {
    let Some(newest) = state.frames.back().copied() else { return Vec::new() };
    if state.looked.0 != newest.id {
        state.looked = (newest.id, now_ms);
    }
    let quiet = now_ms.saturating_sub(state.looked.1) >= QUIET_MS;
    let count = if quiet || state.frames.len() > MOST_FRAMES {
        state.frames.len()
    } else {
        let slot = |frame: &FrameRef| frame.last_ms / SLOT_MS;
        state.frames.iter().position(|frame| slot(frame) == slot(&newest)).unwrap_or(0)
    };
    state.frames.iter().take(count).copied().collect()
}

impl Inner {
    pub(super) fn all_nodes(&self) -> Vec<Arc<Node>> {
        let nodes = self.nodes.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Arc<Node>> = nodes.by_name.values().map(Arc::clone).collect();
        all.sort_unstable_by_key(|node| node.id);
        all
    }

    fn seal_nodes(&self, sealer: &mut Sealer, nodes: Vec<(Arc<Node>, Vec<FrameRef>)>) -> Result<Sealed, StoreError> {
        let result = self.seal_into_days(sealer, nodes);
        if result.is_err() {
            // undoes what is not committed
            sealer.days.clear();
        }
        while let (Some(day), true) = (sealer.days.keys().next().copied(), sealer.days.len() > OPEN_DAYS) {
            sealer.close(day);
        }
        let sealed = result?;
        self.delete_sealed()?;
        Ok(sealed)
    }

    fn seal_into_days(
        &self,
        sealer: &mut Sealer,
        nodes: Vec<(Arc<Node>, Vec<FrameRef>)>,
    ) -> Result<Sealed, StoreError> {
        let epoch = lock(&self.hot).epoch;
        let snapshot = self.hot_readers.snapshot()?;
        let (db, path) = (snapshot.db()?, snapshot.path());
        let mut sums: HashMap<Day, Sums> = HashMap::new();
        let mut done = Vec::with_capacity(nodes.len());
        let mut sealed = Sealed::default();
        for (node, mut frames) in nodes {
            let (names, mut tail) = (names_of(db, path, node.id)?, tail_of(db, path, node.id)?);
            let gathered = gather(db, path, &frames)?;
            sealed.more |= gathered.frames.len() < frames.len();
            frames.truncate(gathered.frames.len());
            let Some(last) = frames.last() else { continue };
            let samples = gathered.samples.len() as u64;
            let streams = gathered.frames.iter().map(|(stream, seq, _)| (*stream, *seq)).collect();
            let mut taken = Vec::new();
            let mut write = NodeSealing {
                inner: self,
                sealer,
                epoch,
                node: &node,
                names: &names,
                sums: &mut sums,
                taken: &mut taken,
            };
            let gaps = write.seal(gathered, &mut tail)?;
            sealed.nodes += 1;
            sealed.frames += frames.len() as u64;
            sealed.samples += samples;
            sealed.gaps += gaps;
            done.push(Done { last: last.id, node, streams, tail, gaps, samples, taken });
        }
        for (day, sums) in &sums {
            let Some(writer) = sealer.days.get(day) else { continue };
            for (hour, sums) in sums {
                let mut ordered: Vec<_> = sums.iter().collect();
                ordered.sort_unstable_by_key(|(key, _)| *key);
                ordered.into_iter().try_for_each(|(key, sum)| writer.merge_sum(*hour, key, sum))?;
            }
        }

        drop(snapshot);
        // who reads sees either the frames or the blocks
        let _fence = self.fence.write().unwrap_or_else(PoisonError::into_inner);
        let result = sealer.days.iter().try_for_each(|(day, writer)| {
            writer.commit()?;
            self.take(*day, &done);
            Ok(())
        });
        let result = result.and_then(|()| self.tell_hot(&done));
        if result.is_err() {
            // some days may have what `hot.db` still has
            lock(&self.torn).extend(done.into_iter().map(|it| it.node));
        }
        result.map(|()| sealed)
    }

    /// Takes what a day has now from the sums of what is recent.
    fn take(&self, day: Day, done: &[Done]) {
        for it in done {
            let in_day = |(_, minute, _): &&(u32, u32, u64)| Day::of(u64::from(*minute) * MINUTE_MS) == day;
            let state = lock(&it.node.state);
            state.take(it.taken.iter().filter(in_day), &mut lock(&self.recent));
        }
    }

    /// Notes in `hot.db` and in memory what is in days.
    fn tell_hot(&self, done: &[Done]) -> Result<(), StoreError> {
        let mut hot = lock(&self.hot);
        let path = hot.path.clone();
        let transaction = hot.db.transaction().on("write to", &path)?;
        let write = || -> rusqlite::Result<()> {
            let mut node = transaction.prepare_cached("UPDATE node SET sealed = ?2, tail = ?3 WHERE id = ?1")?;
            let mut stream = transaction.prepare_cached("UPDATE stream SET acked = max(acked, ?2) WHERE id = ?1")?;
            let mut fact = transaction.prepare_cached(
                "INSERT INTO fact VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            )?;
            for it in done {
                let mut tail = Vec::new();
                it.tail.put(&mut tail);
                node.execute(params![it.node.id, Bits(it.last), tail])?;
                for (number, seq) in &it.streams {
                    stream.execute(params![number, Bits(*seq)])?;
                }
            }
            let sum = |of: fn(&Done) -> u64| Bits(done.iter().map(of).sum());
            fact.execute(params!["gaps", sum(|it| it.gaps)])?;
            fact.execute(params!["samples", sum(|it| it.samples)])?;
            Ok(())
        };
        write().on("write to", &path)?;
        transaction.commit().on("write to", &path)?;
        for it in done {
            let mut state = lock(&it.node.state);
            state.sealed = it.last;
            while state.frames.front().is_some_and(|frame| frame.id <= it.last) {
                state.frames.pop_front();
            }
            drop(state);
            self.tidy_names(&hot, it)?;
        }
        Ok(())
    }

    /// Forgets series that have not been told for long, once they are most. Their names are in the days that need them.
    fn tidy_names(&self, hot: &Hot, of: &Done) -> Result<(), StoreError> {
        let mut state = lock(&of.node.state);
        let live = of.tail.series().len();
        if state.series() < 2 * live + FEW_SERIES || of.node.records.load(Acquire) > 0 {
            return Ok(());
        }
        let frames: Vec<FrameRef> = state.frames.iter().copied().collect();
        let later = gather(&hot.db, &hot.path, &frames)?;
        if later.frames.len() < frames.len() {
            return Ok(());
        }
        let mut keep: BTreeSet<u32> = of.tail.series().collect();
        keep.extend(later.samples.columns.iter().map(|column| column.series));
        let mut names = names_of(&hot.db, &hot.path, of.node.id)?;
        names.retain(|number, _| keep.contains(number));
        let replace = || {
            let transaction = hot.db.unchecked_transaction()?;
            replace_names(&transaction, of.node.id, &names)?;
            transaction.commit()
        };
        replace().on("write to", &hot.path)?;
        state.keep(&keep, &mut lock(&self.recent));
        Ok(())
    }

    /// Seals nodes of which frames may be in days and in `hot.db` at once, since an earlier attempt was cut short.
    pub(super) fn mend(&self) -> Result<(), StoreError> {
        if lock(&self.torn).is_empty() {
            return Ok(());
        }
        let mut sealer = lock(&self.sealer);
        let torn = std::mem::take(&mut *lock(&self.torn));
        let frames = |node: &Arc<Node>| (Arc::clone(node), lock(&node.state).frames.iter().copied().collect());
        let result = self.seal_nodes(&mut sealer, torn.iter().map(frames).collect());
        if result.is_err() {
            *lock(&self.torn) = torn;
        }
        result.map(|_| ())
    }

    /// Finds nodes for [`Self::mend`] when the store is opened.
    pub(super) fn find_torn(&self) -> Result<(), StoreError> {
        let hot = lock(&self.hot);
        let mut days: HashMap<Day, HashMap<(String, u64), u64>> = HashMap::new();
        let mut torn = BTreeSet::new();
        let look = |frame: FrameRow| {
            for at in [frame.first_ms, frame.last_ms].into_iter().filter(|at| *at > 0) {
                let known = match days.entry(Day::of(at)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => new.insert(all_sealed(&self.dir, Day::of(at), hot.epoch)?),
                };
                if !known.is_empty() && known.get(&(frame.node.clone(), frame.spool)) >= Some(&frame.seq) {
                    torn.insert(frame.node.clone());
                }
            }
            Ok(())
        };
        unsealed(&hot.db, look).on("read", &hot.path)??;
        let nodes = self.all_nodes().into_iter().filter(|node| torn.contains(node.name.as_str()));
        lock(&self.torn).extend(nodes);
        Ok(())
    }

    /// Deletes frames that all are in days, from the front.
    fn delete_sealed(&self) -> Result<(), StoreError> {
        loop {
            let mut hot = lock(&self.hot);
            let oldest = |node: &Arc<Node>| lock(&node.state).frames.front().copied();
            let oldest: Vec<FrameRef> = self.all_nodes().iter().filter_map(oldest).collect();
            let keep = oldest.iter().map(|frame| frame.id).min().unwrap_or(hot.next_frame);
            let first = oldest.iter().map(FrameRef::first_ms).min().unwrap_or(u64::MAX);
            lock(&self.recent).forget_before(minute(first));
            let until = keep.min(hot.first_frame.saturating_add(DELETED_AT_ONCE));
            if until <= hot.first_frame {
                return Ok(());
            }
            let path = hot.path.clone();
            let transaction = hot.db.transaction().on("write to", &path)?;
            for sql in ["DELETE FROM frame WHERE id < ?1", "DELETE FROM body WHERE id < ?1"] {
                transaction
                    .prepare_cached(sql)
                    .and_then(|mut delete| delete.execute([Bits(until)]))
                    .on("write to", &path)?;
            }
            transaction.commit().on("write to", &path)?;
            hot.first_frame = until;
        }
    }
}

/// What one node's frames are written with.
struct NodeSealing<'a> {
    inner: &'a Inner,
    sealer: &'a mut Sealer,
    epoch: i64,
    node: &'a Node,
    names: &'a Names,
    sums: &'a mut HashMap<Day, Sums>,
    taken: &'a mut Vec<(u32, u32, u64)>,
}

impl NodeSealing<'_> {
    /// Writes what `gathered` has of each day; `tail` goes on to its end. How many steps could not be known.
    fn seal(&mut self, gathered: Gathered, tail: &mut Tail) -> Result<u64, StoreError> {
        let Gathered { mut samples, frames } = gathered;
        samples.open(|series| tail.of(series), |series| self.names.get(&series)?.from);
        tail.advance(&samples);
        let name = &{ self.node }.name;
        let days: HashSet<Day> = samples.ticks.iter().map(|at| Day::of(*at)).collect();
        let spools = self.spools();
        let mut known: HashMap<Day, Vec<bool>> = HashMap::new();
        for day in &days {
            let sealed = self.writer(*day)?.sealed(name)?;
            let is_in = |(stream, seq, _): &(u32, u64, usize)| {
                spools.get(stream).and_then(|spool| sealed.get(spool)).is_some_and(|sealed| seq <= sealed)
            };
            known.insert(*day, frames.iter().map(is_in).collect());
        }
        // cut by slot, and by whether the day has it already
        let mut frame = 0;
        let parts = samples.split(|tick, at| {
            while frames.get(frame).is_some_and(|(.., end)| *end <= tick as usize) {
                frame += 1;
            }
            let is_in = known.get(&Day::of(at)).and_then(|known| known.get(frame)).is_some_and(|is_in| *is_in);
            (at / SLOT_MS, is_in)
        });
        let mut gaps = 0;
        let mut hours: BTreeMap<(u64, u8), Rollup> = BTreeMap::new();
        for ((slot, is_in), samples) in parts {
            if !is_in {
                gaps += self.put_slot(slot * SLOT_MS, samples, &mut hours)?;
            }
        }
        for ((start, part), new) in hours {
            let day = Day::of(start);
            let hour = u32::try_from((start - day.start()) / HOUR_MS).unwrap_or(0);
            let writer = self.sealer.days.get_mut(&day).ok_or(StoreError::Misused("a day is not open"))?;
            let whole = writer.merge_minutes(name, Place { index: hour, part }, &new, &mut self.sealer.press)?;
            let first = minute(start);
            for column in &new.columns {
                let moved = (first..).zip(&column.by).filter(|(_, by)| **by > 0);
                self.taken.extend(moved.map(|(minute, by)| (column.series, minute, *by)));
            }
            add_hour(self.sums.entry(day).or_default(), hour, name, &new, &whole, self.names);
        }
        let mut last = BTreeMap::new();
        for day in days {
            for (stream, seq, _) in &frames {
                if let Some(spool) = spools.get(stream) {
                    last.insert(*spool, *seq);
                }
            }
            let writer = self.writer(day)?;
            last.iter().try_for_each(|(spool, seq)| writer.set_sealed(name, *spool, *seq))?;
        }
        Ok(gaps)
    }

    /// Writes the samples of one slot, and adds them to the hour's minutes.
    fn put_slot(
        &mut self,
        start: u64,
        samples: Samples,
        hours: &mut BTreeMap<(u64, u8), Rollup>,
    ) -> Result<u64, StoreError> {
        let day = Day::of(start);
        let index = u32::try_from((start - day.start()) / SLOT_MS).unwrap_or(0);
        let hour = start / HOUR_MS * HOUR_MS;
        let mut gaps = 0;
        for (part, samples) in [0, 1].into_iter().zip(self.parts(samples)) {
            if samples.is_empty() {
                continue;
            }
            self.writer(day)?;
            let Sealer { press, days, .. } = &mut *self.sealer;
            let writer = days.get_mut(&day).ok_or(StoreError::Misused("a day is not open"))?;
            let place = Place { index, part };
            let series = samples.columns.iter().map(|column| column.series);
            writer.name(&self.node.name, series, self.names, press)?;
            // the slot's buckets are all of it, so that their sums are those of the samples
            let (tens, unknown) = Rollup::of(&samples, start, 10_000, 60);
            gaps += unknown;
            writer.put_slot(&self.node.name, place, &samples, &tens, press)?;
            hours
                .entry((hour, part))
                .or_insert_with(|| Rollup { start_ms: hour, unit_ms: 60_000, buckets: 60, columns: Vec::new() })
                .add(&tens);
        }
        Ok(gaps)
    }

    /// The node's own series and its workloads', each in the order of their numbers.
    fn parts(&self, samples: Samples) -> [Samples; 2] {
        let Samples { ticks, boots, columns } = samples;
        let of_workload = |series| self.names.get(&series).is_some_and(|named| named.definition.workload.is_some());
        let (mut theirs, mut own): (Vec<_>, Vec<_>) = columns.into_iter().partition(|it| of_workload(it.series));
        own.sort_unstable_by_key(|column| column.series);
        theirs.sort_unstable_by_key(|column| column.series);
        let own = Samples { ticks: ticks.clone(), boots: boots.clone(), columns: own };
        [own, Samples { ticks, boots, columns: theirs }]
    }

    fn writer(&mut self, day: Day) -> Result<&mut DayWriter, StoreError> {
        if !self.sealer.days.contains_key(&day) {
            self.sealer.days.insert(day, DayWriter::open(&self.inner.dir, day, self.epoch)?);
        }
        let writer = self.sealer.days.get_mut(&day).ok_or(StoreError::Misused("a day is not open"))?;
        writer.begin()?;
        Ok(writer)
    }

    fn spools(&self) -> HashMap<u32, u64> {
        lock(&self.node.state).spools.iter().map(|spool| (spool.stream, spool.id)).collect()
    }
}
