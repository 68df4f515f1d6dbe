//! A node as the store holds it in memory: little, since there may be ten thousand.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use ebbtide_proto::NodeId;

use super::names::{Definition, Named, Names};
use super::recent::{MINUTE_MS, Movement, Places, Recent, minute};
use super::rollup::Rollup;
use super::samples::{Boot, LONGEST_CHAIN, Sample, Samples, Step};
use super::tail::Tail;

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: u32,
    pub(super) name: NodeId,
    /// Records that name its series and are not committed yet.
    pub(super) records: AtomicUsize,
    pub(super) state: Mutex<NodeState>,
}

/// What changes of a node.
#[derive(Debug, Default)]
pub(super) struct NodeState {
    /// Whether it has a row in `hot.db`.
    pub(super) saved: bool,
    /// Frames up to this number are in days.
    pub(super) sealed: u64,
    /// Frames that are not, oldest first.
    pub(super) frames: VecDeque<FrameRef>,
    pub(super) spools: Vec<Spool>,
    /// The newest frame when sealing last saw a new one, and when that was.
    pub(super) looked: (u64, u64),
    /// The number that the next new series gets.
    pub(super) next_series: u32,
    /// Series that have no row in `hot.db` yet.
    pub(super) unsaved: BTreeMap<u32, Named>,
    /// Grows when numbers of series become invalid.
    pub(super) generation: u32,
    /// The series, by number; `None` until somebody asks.
    series: Option<Vec<Held>>,
    /// The boots that samples below are from.
    boots: Vec<Boot>,
}

/// A frame in `hot.db`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameRef {
    pub(super) id: u64,
    /// Its last moment; 0 if it has none.
    pub(super) last_ms: u64,
    /// How long before that its first is, at most.
    pub(super) span_ms: u32,
    pub(super) stream: u32,
}

impl FrameRef {
    pub(super) fn new(id: u64, stream: u32, first_ms: u64, last_ms: u64) -> Self {
        Self { id, last_ms, span_ms: u32::try_from(last_ms - first_ms.min(last_ms)).unwrap_or(u32::MAX), stream }
    }

    /// No moment of it is before this.
    pub(super) fn first_ms(&self) -> u64 {
        self.last_ms.saturating_sub(u64::from(self.span_ms))
    }
}

/// A spool of a node's agent, and how far it is told.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    /// The number of its row.
    pub(super) stream: u32,
    pub(super) id: u64,
    pub(super) acked: u64,
    /// Frames that never came.
    pub(super) lost: u64,
    /// Whether it has a row in `hot.db`.
    pub(super) saved: bool,
}

/// A series.
#[derive(Clone, Debug)]
struct Held {
    number: u32,
    /// The one that it goes on from; 0: none.
    from: u32,
    /// Which series, and as which it was described: figures that only mean something to this process.
    identity: u64,
    described: u32,
    /// Where its energy is added up; the rest is only there if it is.
    places: Places,
    /// Its last sample, with the number of its boot; 0: none yet.
    at: u64,
    value: u64,
    boot: u32,
    /// A minute, and how much of it is known.
    minute: u32,
    covered_ms: u32,
}

impl Node {
    pub(super) fn new(id: u32, name: NodeId) -> Self {
        let state = NodeState { next_series: 1, series: Some(Vec::new()), ..NodeState::default() };
        Self { id, name, records: AtomicUsize::new(0), state: Mutex::new(state) }
    }

    /// One that has a row.
    pub(super) fn saved(id: u32, name: NodeId, next_series: u32, sealed: u64) -> Self {
        let state = NodeState { saved: true, sealed, next_series, ..NodeState::default() };
        Self { id, name, records: AtomicUsize::new(0), state: Mutex::new(state) }
    }
}

impl NodeState {
    /// Whether its series are in memory, and its frames in the sums of what is recent.
    pub(super) fn is_loaded(&self) -> bool {
        self.series.is_some()
    }

    /// Takes the names that are saved, and where their counters are as far as they are in days.
    pub(super) fn load(
        &mut self,
        names: &Names,
        tail: &Tail,
        node: &NodeId,
        by: &impl BuildHasher,
        recent: &mut Recent,
    ) {
        let mut series = Vec::with_capacity(names.len());
        for (number, named) in names {
            let mut held = Held::new(*number, named, node, by, recent);
            if let Some(sample) = tail.of(*number).filter(|_| !held.places.is_empty()) {
                (held.at, held.value, held.boot) = (sample.at, sample.value, self.boot(sample.boot));
            }
            series.push(held);
        }
        self.series = Some(series);
    }

    /// The number of a boot.
    fn boot(&mut self, boot: Boot) -> u32 {
        let place = self.boots.iter().position(|known| *known == boot).unwrap_or_else(|| {
            self.boots.push(boot);
            self.boots.len() - 1
        });
        u32::try_from(place).unwrap_or(u32::MAX)
    }

    /// The numbers of these series, and whether they are added up; new ones get the next number.
    pub(super) fn resolve(
        &mut self,
        definitions: Vec<Definition>,
        node: &NodeId,
        by: &impl BuildHasher,
        recent: &mut Recent,
    ) -> Vec<(u32, bool)> {
        let series = self.series.get_or_insert_default();
        // the latest description of a series is the last
        let mut latest: HashMap<u64, usize> =
            series.iter().enumerate().map(|(place, held)| (held.identity, place)).collect();
        let mut numbers = Vec::with_capacity(definitions.len());
        for definition in definitions {
            let (identity, described) = definition.fingerprints(by);
            let known = latest.get(&identity).and_then(|place| series.get(*place));
            if let Some(held) = known.filter(|held| held.described == described) {
                numbers.push((held.number, !held.places.is_empty()));
                continue;
            }
            let number = self.next_series;
            self.next_series += 1;
            let named = Named { definition, from: known.map(|held| held.number) };
            let held = Held::new(number, &named, node, by, recent);
            numbers.push((number, !held.places.is_empty()));
            latest.insert(identity, series.len());
            series.push(held);
            self.unsaved.insert(number, named);
        }
        series.shrink_to_fit();
        numbers
    }

    /// The spool of this id.
    pub(super) fn spool(&self, id: u64) -> Option<&Spool> {
        self.spools.iter().find(|spool| spool.id == id)
    }

    /// How many series are in memory.
    pub(super) fn series(&self) -> usize {
        self.series.as_ref().map_or(0, Vec::len)
    }

    /// Adds what a frame moved by to the sums of what is recent.
    pub(super) fn moved(&mut self, movement: &Movement, boot: Boot, recent: &mut Recent) {
        let number = self.boot(boot);
        let (Some(series), boots) = (&mut self.series, &self.boots) else { return };
        let mut pieces = movement.pieces.as_slice();
        let mut likely = 0;
        for moved in &movement.series {
            let (own, rest) = pieces.split_at(pieces.len().min(moved.pieces as usize));
            pieces = rest;
            let Some(place) = find(series, moved.series, likely) else { continue };
            likely = place + 1;
            let first = Sample { at: moved.first.0, value: moved.first.1, boot };
            let before = last(series, place, boots);
            let known = known_before(series, place);
            let Some(held) = series.get_mut(place) else { continue };
            let mut own = own.iter().copied();
            if let Some(Step::Known { by, ms }) = before.map(|before| before.step_to(&first)) {
                let minute = minute(first.at);
                // the step to the frame is mostly of the same minute as the first of those within
                let next = own.clone().next().filter(|piece| piece.minute == minute);
                let (more, more_ms) = next.map_or((0, 0), |piece| (piece.by, u64::from(piece.ms)));
                own.by_ref().take(usize::from(next.is_some())).for_each(drop);
                held.add(minute, by.wrapping_add(more), ms + more_ms, known, recent);
            }
            own.for_each(|piece| held.add(piece.minute, piece.by, u64::from(piece.ms), known, recent));
            (held.at, held.value, held.boot) = (moved.last.0, moved.last.1, number);
        }
    }

    /// Adds what samples that follow [`Self::load`] moved by.
    pub(super) fn moved_by(&mut self, mut samples: Samples, recent: &mut Recent) {
        /// Minutes at a time.
        const AT_ONCE: usize = 60;
        for column in &samples.columns {
            let Some(last) = samples.last(column) else { continue };
            let boot = self.boot(last.boot);
            let Some(series) = &mut self.series else { return };
            if let Some(held) = find(series, column.series, 0).and_then(|place| series.get_mut(place)) {
                (held.at, held.value, held.boot) = (last.at, last.value, boot);
            }
        }
        let Some(series) = &mut self.series else { return };
        let is_summed = |number| find(series, number, 0).and_then(|place| series.get(place));
        samples.columns.retain(|column| is_summed(column.series).is_some_and(|held| !held.places.is_empty()));
        for (hour, samples) in samples.split(|_, at| at / (AT_ONCE as u64 * MINUTE_MS)) {
            let start = hour * AT_ONCE as u64 * MINUTE_MS;
            let (minutes, _) = Rollup::of(&samples, start, MINUTE_MS, AT_ONCE);
            for column in minutes.columns {
                let Some(place) = find(series, column.series, 0) else { continue };
                let known = known_before(series, place);
                let Some(held) = series.get_mut(place) else { continue };
                for ((minute, by), ms) in (minute(start)..).zip(column.by).zip(column.covered_ms) {
                    if ms > 0 {
                        held.add(minute, by, ms, known, recent);
                    }
                }
            }
        }
    }

    /// Takes what is in days now from the sums of what is recent: by series, minute and energy.
    pub(super) fn take<'a>(&self, taken: impl Iterator<Item = &'a (u32, u32, u64)>, recent: &mut Recent) {
        let Some(series) = &self.series else { return };
        let mut likely = 0;
        for (number, minute, by) in taken {
            let Some(place) = find(series, *number, likely) else { continue };
            likely = place;
            if let Some(held) = series.get(place) {
                recent.take(held.places, *minute, *by);
            }
        }
    }

    /// Keeps only these series, and those that have no row yet.
    pub(super) fn keep(&mut self, numbers: &BTreeSet<u32>, recent: &mut Recent) {
        self.generation += 1;
        let unsaved = &self.unsaved;
        if let Some(series) = &mut self.series {
            series.retain(|held| {
                let keep = numbers.contains(&held.number) || unsaved.contains_key(&held.number);
                if !keep {
                    recent.leave(held.places);
                }
                keep
            });
            series.shrink_to_fit();
        }
    }
}

impl Held {
    fn new(number: u32, named: &Named, node: &NodeId, by: &impl BuildHasher, recent: &mut Recent) -> Self {
        let (identity, described) = named.definition.fingerprints(by);
        let places = recent.places(&named.definition, node);
        let from = named.from.unwrap_or(0);
        Self { number, from, identity, described, places, at: 0, value: 0, boot: 0, minute: 0, covered_ms: 0 }
    }

    /// `known` is how much of which minute is known of the series that this one goes on from: a new description is no
    /// new beginning.
    fn add(&mut self, minute: u32, by: u64, ms: u64, known: (u32, u32), recent: &mut Recent) {
        if self.minute != minute {
            (self.minute, self.covered_ms) = (minute, if known.0 == minute { known.1 } else { 0 });
        }
        self.covered_ms = self.covered_ms.saturating_add(u32::try_from(ms).unwrap_or(u32::MAX));
        recent.add(self.places, minute, by, u64::from(self.covered_ms));
    }
}

/// Where a series is; mostly it is the likely place.
fn find(series: &[Held], number: u32, likely: usize) -> Option<usize> {
    if series.get(likely).is_some_and(|held| held.number == number) {
        return Some(likely);
    }
    series.binary_search_by_key(&number, |held| held.number).ok()
}

/// How much of which minute is known of the series that this one goes on from.
fn known_before(series: &[Held], place: usize) -> (u32, u32) {
    let from = series.get(place).map(|held| held.from).filter(|from| *from > 0);
    let before = from.and_then(|from| find(series, from, usize::MAX));
    before.and_then(|place| series.get(place)).map_or((0, 0), |before| (before.minute, before.covered_ms))
}

/// The last sample of a series, or of the one that it goes on from.
fn last(series: &[Held], place: usize, boots: &[Boot]) -> Option<Sample> {
    let own = series.get(place)?;
    let from = |held: &&Held| find(series, held.from, usize::MAX).and_then(|place| series.get(place));
    let mut chain = std::iter::successors(Some(own), from).take(LONGEST_CHAIN);
    let held = chain.find(|held| held.at > 0)?;
    Some(Sample { at: held.at, value: held.value, boot: boots.get(held.boot as usize).copied().flatten() })
}
