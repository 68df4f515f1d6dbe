//! Sums over the fleet of what is not in days yet, in memory: what `sums` is to days.
//!
//! Each step is added when its frame is committed, and taken away when it is in a day. Both come from the same rules
//! ([`super::samples`]) in the same order, so that nothing is left over.

use std::collections::{HashMap, VecDeque};

use ebbtide_proto::NodeId;
use ebbtide_proto::series::Quality;
use ebbtide_proto::v1::GroupBy;

use super::groups::{Described, group, quality};
use super::names::Definition;
use super::samples::{LONGEST_STEP_MS, Sample, Step};
use super::sums::{KINDS, SumKey};

/// The most groups that a series goes to: those of a zone.
const GROUPS: usize = 3;
const NONE: u32 = u32::MAX;

/// Length of a cell in milliseconds.
pub(super) const MINUTE_MS: u64 = 60_000;

/// The groups that a series goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places([u32; GROUPS]);

impl Places {
    /// Whether it goes to none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|place| *place == NONE)
    }
}

/// What a series moved by in one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) series: u32,
    /// Its first and last sample in the frame.
    pub(super) first: (u64, u64),
    pub(super) last: (u64, u64),
    /// How many of [`Movement::pieces`] are its.
    pub(super) pieces: u32,
}

/// A minute's part of what a series moved by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) minute: u32,
    pub(super) ms: u32,
    pub(super) by: u64,
}

/// What the series of a frame moved by.
#[derive(Clone, Debug, Default)]
pub(super) struct Movement {
    pub(super) series: Vec<Moved>,
    pub(super) pieces: Vec<Piece>,
}

impl Movement {
    /// Adds a column; its ticks rise.
    pub(super) fn add(&mut self, series: u32, ticks: &[u64], values: &[u64]) {
        let (Some(first), Some(last)) = (ticks.first().zip(values.first()), ticks.last().zip(values.last())) else {
            return;
        };
        let before = self.pieces.len();
        // mostly all steps are known and end in the same minute
        let falls = values.iter().zip(values.iter().skip(1)).fold(false, |falls, (a, b)| falls | (b < a));
        if let Some(second) = ticks.get(1).filter(|_| !falls) {
            let (minute, ms) = (minute(*second), last.0 - first.0.min(last.0));
            if minute == self::minute(*last.0) && first.0 < second && ms <= LONGEST_STEP_MS {
                self.push(before, minute, last.1 - first.1, ms);
                self.series.push(Moved { series, first: (*first.0, *first.1), last: (*last.0, *last.1), pieces: 1 });
                return;
            }
        }
        let moments = ticks.iter().zip(values);
        let mut from = first;
        for to in moments.skip(1) {
            let sample = |(at, value): (&u64, &u64)| Sample { at: *at, value: *value, boot: None };
            if let Step::Known { by, ms } = sample(from).step_to(&sample(to)) {
                self.push(before, minute(*to.0), by, ms);
            }
            from = to;
        }
        let pieces = u32::try_from(self.pieces.len() - before).unwrap_or(u32::MAX);
        self.series.push(Moved { series, first: (*first.0, *first.1), last: (*last.0, *last.1), pieces });
    }

    fn push(&mut self, before: usize, minute: u32, by: u64, ms: u64) {
        // a step is at most minutes long
        let ms = u32::try_from(ms).unwrap_or(u32::MAX);
        match self.pieces.get_mut(before..).and_then(<[_]>::last_mut) {
            Some(piece) if piece.minute == minute => {
                piece.by = piece.by.wrapping_add(by);
                piece.ms = piece.ms.saturating_add(ms);
            }
            _ => self.pieces.push(Piece { minute, ms, by }),
        }
    }
}

/// The minute of a moment.
pub(super) fn minute(at: u64) -> u32 {
    u32::try_from(at / MINUTE_MS).unwrap_or(u32::MAX)
}

/// A minute of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) minute: u32,
    /// In microjoules.
    pub(super) energy: u64,
    /// The longest that any of the group's nodes is known.
    pub(super) covered_ms: u64,
}

#[derive(Debug)]
struct Group {
    key: SumKey,
    quality: Quality,
    /// How many series go here.
    series: u32,
    /// Minutes that have something, in order.
    minutes: VecDeque<Cell>,
}

impl Group {
    fn cell(&mut self, minute: u32) -> &mut Cell {
        // mostly the last
        let place = match self.minutes.back() {
            Some(last) if last.minute == minute => self.minutes.len() - 1,
            _ => self.minutes.partition_point(|cell| cell.minute < minute),
        };
        if self.minutes.get(place).is_none_or(|cell| cell.minute != minute) {
            self.minutes.insert(place, Cell { minute, energy: 0, covered_ms: 0 });
        }
        &mut self.minutes[place]
    }
}

/// Sums of what is not in days.
#[derive(Debug, Default)]
pub(super) struct Recent {
    groups: Vec<Option<Group>>,
    by_key: HashMap<SumKey, u32>,
    free: Vec<u32>,
}

impl Recent {
    /// Where a new series goes.
    pub(super) fn places(&mut self, definition: &Definition, node: &NodeId) -> Places {
        let mut places = Places([NONE; GROUPS]);
        let nobody = Described::default();
        let keys = KINDS.iter().filter_map(|by| {
            let name = group(definition, *by, node, &nobody)?;
            Some(SumKey { kind: (*by).into(), name })
        });
        for (place, key) in places.0.iter_mut().zip(keys) {
            *place = self.place(key, quality(definition));
        }
        places
    }

    fn place(&mut self, key: SumKey, worst: Quality) -> u32 {
        let place = match self.by_key.get(&key) {
            Some(place) => *place,
            None => {
                let next = u32::try_from(self.groups.len()).unwrap_or(NONE);
                let place = self.free.pop().unwrap_or(next);
                if place == next {
                    self.groups.push(None);
                }
                let group = Group { key: key.clone(), quality: worst, series: 0, minutes: VecDeque::new() };
                if let Some(free) = self.groups.get_mut(place as usize) {
                    *free = Some(group);
                }
                self.by_key.insert(key, place);
                place
            }
        };
        if let Some(group) = self.group(place) {
            group.series += 1;
            group.quality = group.quality.max(worst);
        }
        place
    }

    fn group(&mut self, place: u32) -> Option<&mut Group> {
        self.groups.get_mut(place as usize).and_then(Option::as_mut)
    }

    /// A series goes nowhere any more.
    pub(super) fn leave(&mut self, places: Places) {
        for place in places.0 {
            if let Some(group) = self.group(place) {
                group.series -= 1;
            }
        }
    }

    /// Adds to a minute; `covered_ms` is how much of it is known of the series with this.
    pub(super) fn add(&mut self, places: Places, minute: u32, by: u64, covered_ms: u64) {
        for place in places.0 {
            if let Some(group) = self.group(place) {
                let cell = group.cell(minute);
                cell.energy = cell.energy.wrapping_add(by);
                cell.covered_ms = cell.covered_ms.max(covered_ms);
            }
        }
    }

    /// Takes away what is in a day now.
    pub(super) fn take(&mut self, places: Places, minute: u32, by: u64) {
        for place in places.0 {
            if let Some(group) = self.group(place) {
                let cell = group.cell(minute);
                cell.energy = cell.energy.wrapping_sub(by);
            }
        }
    }

    /// Lets go of minutes before this, all of which are in days, and of groups that nobody needs.
    pub(super) fn forget_before(&mut self, first: u32) {
        for (place, slot) in (0u32..).zip(&mut self.groups) {
            let Some(group) = slot else { continue };
            while group.minutes.front().is_some_and(|oldest| oldest.minute < first && oldest.energy == 0) {
                group.minutes.pop_front();
            }
            if group.series == 0 && group.minutes.is_empty() {
                self.by_key.remove(&group.key);
                *slot = None;
                self.free.push(place);
            }
        }
    }

    /// All groups of a kind that have something.
    pub(super) fn of(&self, by: GroupBy) -> Vec<(String, Quality, Vec<Cell>)> {
        let kind = i32::from(by);
        let groups = self.groups.iter().flatten().filter(|group| group.key.kind == kind && !group.minutes.is_empty());
        groups.map(|group| (group.key.name.clone(), group.quality, group.minutes.iter().copied().collect())).collect()
    }
}
