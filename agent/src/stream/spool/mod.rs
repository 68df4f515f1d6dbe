//! Keeps frames until the fleet has them: segment files in `STATE/spool/`, oldest first.
//!
//! # Numbers
//! Frames are numbered from 1 within a spool id, which is random. Numbers are never given twice under one id, whatever
//! happens: a spool goes on with its id only where the newest segment is of the same boot and whole, because what a
//! process has written survives that process, but not a power cut. Otherwise, and when frames have to go to memory
//! because the disk fails, there is a new id, and frames under the old one are sent first.
//!
//! # Safety
//! A frame is written before it may be sent. `fdatasync` is called once a minute while frames wait for the fleet, when
//! a segment is full and at the end; so as long as the fleet takes frames, the disk is left alone. A power cut costs what was
//! measured in the last minute and not yet sent. An agent that is killed loses nothing that it had written.
//!
//! # Bounds
//! All segments together have at most [`Limits::bytes`]; frames older than [`Limits::age`] are not kept. The oldest
//! segment goes first, and the frame after it says how many are missing. A segment is complete in itself
//! (`segment.rs`), so that one that goes takes nothing from the others.
//!
//! # Damage
//! Half a record at the end of the newest segment is cut off and counted as one frame. From a record with a wrong
//! checksum on, the rest of its segment is given up and counted; so are segments that are missing in the middle.
//! While the disk is full or can't be written, frames are kept in memory, up to [`Limits::memory`]; the disk is tried
//! again each half minute.

pub mod files;
mod loss;
mod recover;
mod segment;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use ebbtide_proto::BootId;
use ebbtide_proto::frame::{Batch, Encoder};
use serde::{Deserialize, Serialize};

use self::files::{Files, Memory};
use self::segment::{HEAD, Head, Reader};
use super::random::Random;
use crate::clock::Moment;

/// How long frames that wait may be at the mercy of a power cut.
const SYNC_AFTER: Duration = Duration::from_secs(60);
/// How long a disk that fails is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(30);
/// The file with what the fleet has.
const POSITION: &str = "position";

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk, of all segments.
    pub bytes: u64,
    /// Bytes in memory, of all segments.
    pub memory: u64,
    /// Bytes of one segment.
    pub segment: u64,
    /// Age of a frame.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 256 << 20, memory: 4 << 20, segment: 1 << 20, age: Duration::from_secs(7 * 86_400) }
    }
}

impl Limits {
    /// Bytes after which a segment is full; several have to fit.
    fn segment(&self, in_memory: bool) -> u64 {
        self.segment.min(if in_memory { self.memory } else { self.bytes } / 4)
    }
}

/// Where a spool is, for the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Under which id the frames are that have to be sent next.
    pub spool_id: u64,
    /// The oldest of them that the fleet is not known to have; as `next_seq` if there is none.
    pub first_seq: u64,
    /// One more than the newest of them.
    pub next_seq: u64,
    /// There are frames under a later id: none will be added to this one.
    pub ended: bool,
}

/// What a spool holds, and lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    /// Frames that the fleet is not known to have.
    pub frames: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Frames that were given up since the start.
    pub dropped: u64,
    /// Why the disk can't be written, if so.
    pub failing: Option<&'static str>,
}

/// Frames that are lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Lost {
    spool_id: u64,
    first_seq: u64,
    last_seq: u64,
    /// As many as numbers, unless some are of other spool ids.
    frames: u64,
    from_ms: u64,
    until_ms: u64,
    reason: String,
}

impl Lost {
    /// Both together; `self` is the older.
    fn and(self, later: Self) -> Self {
        Self {
            first_seq: if self.spool_id == later.spool_id { self.first_seq } else { later.first_seq },
            frames: self.frames + later.frames,
            from_ms: if self.from_ms == 0 { later.from_ms } else { self.from_ms },
            ..later
        }
    }
}

#[derive(Debug)]
struct Segment {
    number: u64,
    in_memory: bool,
    spool_id: u64,
    first_seq: u64,
    frames: u64,
    first_ms: u64,
    last_ms: u64,
    bytes: u64,
    /// What was lost before its first frame.
    lost: Option<Lost>,
}

impl Segment {
    fn name(&self) -> String {
        format!("{:012}.seg", self.number)
    }

    fn next_seq(&self) -> u64 {
        self.first_seq + self.frames
    }
}

/// What outlives the process beside the segments.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    spool_id: u64,
    acked: u64,
    lost: Option<Lost>,
}

/// Where a reader is.
#[derive(Debug)]
struct Cursor {
    number: u64,
    reader: Reader,
}

/// The frames that the fleet doesn't have yet.
pub struct Spool {
    limits: Limits,
    boot: Option<BootId>,
    random: Random,
    disk: Option<Box<dyn Files>>,
    memory: Memory,
    segments: VecDeque<Segment>,
    /// Id and number of the next frame that is appended.
    id: u64,
    next_seq: u64,
    /// The newest segment can be appended to with this.
    encoder: Option<Encoder>,
    next_number: u64,
    /// The last frame, under the oldest segment's id, that the fleet is known to have.
    acked: u64,
    cursor: Option<Cursor>,
    /// Since when bytes wait for `fdatasync`, on the monotonic clock.
    unsynced: Option<u64>,
    failing: Option<(&'static str, u64)>,
    /// What was lost before the frame that is appended next.
    lost: Option<Lost>,
    dropped: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("position", &self.position()).field("segments", &self.segments).finish()
    }
}

impl Spool {
    /// Opens what an earlier run left in `disk`; without it frames are kept in memory only. `boot` is the present one
    /// and `seed` is random.
    pub fn open(disk: Option<Box<dyn Files>>, limits: Limits, boot: Option<BootId>, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut spool = Self {
            limits,
            boot,
            id: random.id(),
            random,
            disk,
            memory: Memory::default(),
            segments: VecDeque::new(),
            next_seq: 1,
            encoder: None,
            next_number: 1,
            acked: 0,
            cursor: None,
            unsynced: None,
            failing: None,
            lost: None,
            dropped: 0,
        };
        spool.recover();
        spool
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        let Some(front) = self.segments.front() else {
            return Position { spool_id: self.id, first_seq: self.next_seq, next_seq: self.next_seq, ended: false };
        };
        let mine = self.segments.iter().take_while(|s| s.spool_id == front.spool_id);
        let next_seq = mine.last().map_or(front.first_seq, Segment::next_seq);
        let first_seq = (self.acked + 1).max(front.first_seq).min(next_seq);
        Position { spool_id: front.spool_id, first_seq, next_seq, ended: front.spool_id != self.id }
    }

    /// What it holds, and lost.
    pub fn stock(&self) -> Stock {
        let all: u64 = self.segments.iter().map(|s| s.frames).sum();
        let known = self.segments.iter().filter(|s| Some(s.spool_id) == self.segments.front().map(|f| f.spool_id));
        let acked: u64 = known.map(|s| (self.acked + 1).saturating_sub(s.first_seq).min(s.frames)).sum();
        Stock {
            frames: all - acked,
            bytes: self.segments.iter().map(|s| s.bytes).sum(),
            dropped: self.dropped,
            failing: self.failing.map(|(why, _)| why),
        }
    }

    /// Adds a frame and gives it its number. Never fails: what can't be kept is counted.
    pub fn append(&mut self, mut batch: Batch, now: Moment) {
        // if the disk fails at this very frame, memory takes it
        for _ in 0..2 {
            self.make_place(batch.ticks.first().copied().unwrap_or(0), now);
            batch.seq = self.next_seq;
            if self.write(&batch, now) {
                break;
            }
        }
        self.keep_within(now);
        match self.unsynced {
            Some(since) if now.mono.saturating_sub(since) >= ns(SYNC_AFTER) => self.sync(),
            None if self.segments.back().is_some_and(|s| !s.in_memory) => self.unsynced = Some(now.mono),
            _ => {}
        }
    }

    /// Frames from number `from` on, of the id that [`Self::position`] tells: at most `frames`, and no more once they
    /// have `bytes`. All before number `from` must be known to arrive before these, or to be there.
    pub fn read(&mut self, from: u64, frames: usize, bytes: usize) -> Vec<Batch> {
        let mut out = Vec::new();
        let mut size = 0;
        let Some(id) = self.segments.front().map(|s| s.spool_id) else { return out };
        let mut next = from;
        while out.len() < frames && size < bytes {
            let at = self.segments.iter().position(|s| s.spool_id == id && next < s.next_seq());
            let Some((index, segment)) = at.and_then(|i| Some((i, self.segments.get(i)?))) else { break };
            next = next.max(segment.first_seq);
            let fits = |c: &Cursor| c.number == segment.number && c.reader.next_seq <= next;
            let mut cursor = self
                .cursor
                .take()
                .filter(fits)
                .unwrap_or_else(|| Cursor { number: segment.number, reader: Reader::new(segment.first_seq) });
            let name = segment.name();
            let files: Option<&mut dyn Files> = match segment.in_memory {
                true => Some(&mut self.memory),
                false => self.disk.as_mut().map(|d| &mut **d as _),
            };
            let read = files.map(|files| cursor.reader.next(files, &name));
            let Some(Ok((mut batch, len))) = read else {
                self.give_up_rest(index, cursor.reader.next_seq);
                continue;
            };
            if batch.seq >= next {
                batch.dropped = self.dropped_before(index, batch.seq, from);
                next = batch.seq + 1;
                size += len;
                out.push(batch);
            }
            self.cursor = Some(cursor);
        }
        out
    }

    /// The fleet has all frames of this id up to `seq`.
    pub fn release(&mut self, spool_id: u64, seq: u64) {
        let position = self.position();
        if position.spool_id != spool_id {
            return;
        }
        self.acked = self.acked.max(seq.min(position.next_seq.saturating_sub(1)));
        let mut changed = false;
        for segment in self.segments.iter_mut().filter(|s| s.spool_id == spool_id) {
            let told = |lost: &Lost| seq >= segment.first_seq || (lost.spool_id == spool_id && seq >= lost.last_seq);
            changed |= segment.lost.take_if(|lost| told(lost)).is_some();
        }
        if self.tidy() || changed {
            self.note_position();
        }
        if self.stock().frames == 0 {
            self.unsynced = None;
        }
    }

    /// Frames that are appended from now on have a new id.
    pub fn renew(&mut self) {
        self.encoder = None;
        self.id = self.random.id();
        self.next_seq = 1;
        if self.tidy() {
            self.note_position();
        }
    }

    /// Makes sure that what is kept survives a power cut.
    pub fn sync(&mut self) {
        self.unsynced = None;
        let Some(name) = self.segments.back().filter(|s| !s.in_memory).map(Segment::name) else { return };
        if let Some(Err(error)) = self.disk.as_mut().map(|disk| disk.sync(&name)) {
            tracing::debug!(%error, "can't sync the spool");
        }
    }

    /// Writes down where it is; for the end of the process.
    pub fn close(&mut self) {
        if self.stock().frames > 0 {
            self.sync();
        }
        self.note_position();
    }

    /// Sees to it that there is a segment to append to.
    fn make_place(&mut self, at_ms: u64, now: Moment) {
        let wants_disk = self.disk.is_some() && self.failing.is_none_or(|(_, retry)| now.mono >= retry);
        let longest = u64::try_from(self.limits.age.as_millis() / 24).unwrap_or(u64::MAX);
        let newest = self.segments.back().filter(|newest| {
            self.encoder.is_some()
                && newest.bytes < self.limits.segment(newest.in_memory)
                && (newest.frames == 0 || at_ms.saturating_sub(newest.first_ms) < longest)
        });
        let (on_disk, in_memory) = (newest.is_some_and(|s| !s.in_memory), newest.is_some_and(|s| s.in_memory));
        if on_disk || (in_memory && !wants_disk) {
            return;
        }
        if wants_disk {
            if self.unsynced.is_some() {
                self.sync();
            }
            match self.begin(false) {
                Ok(()) => {
                    if self.failing.take().is_some() {
                        tracing::info!("the spool can be written to disk again");
                    }
                    return;
                }
                Err(error) => self.fail(&error, now),
            }
            if in_memory && self.encoder.is_some() {
                return;
            }
        }
        // memory doesn't refuse
        drop(self.begin(true));
    }

    /// Begins a segment with the frame that comes next.
    fn begin(&mut self, in_memory: bool) -> io::Result<()> {
        let head = Head { spool_id: self.id, first_seq: self.next_seq, boot: self.boot };
        let mut segment = Segment {
            number: self.next_number,
            in_memory,
            spool_id: self.id,
            first_seq: self.next_seq,
            frames: 0,
            first_ms: 0,
            last_ms: 0,
            bytes: HEAD as u64,
            lost: None,
        };
        match (in_memory, &mut self.disk) {
            (false, Some(disk)) => disk.create(&segment.name(), &head.to_bytes())?,
            _ => self.memory.create(&segment.name(), &head.to_bytes())?,
        }
        segment.lost = self.lost.take();
        self.next_number += 1;
        if self.segments.is_empty() {
            self.acked = self.next_seq - 1;
        }
        self.segments.push_back(segment);
        self.encoder = Some(Encoder::new());
        // what is lost before other segments shows as a gap in the numbers
        if self.tidy() || self.segments.front().is_some_and(|front| front.lost.is_some()) {
            self.note_position();
        }
        Ok(())
    }

    /// Writes a frame to the newest segment. If that is impossible another place has to be made.
    fn write(&mut self, batch: &Batch, now: Moment) -> bool {
        let (Some(newest), Some(encoder)) = (self.segments.back_mut(), &mut self.encoder) else { return false };
        let Some(record) = segment::record(encoder, batch) else {
            // no reader would take it, and the encoder has gone ahead of the segment
            self.encoder = None;
            self.give_up_new(batch, "too-large");
            return true;
        };
        let name = newest.name();
        let written = match (newest.in_memory, &mut self.disk) {
            (false, Some(disk)) => disk.append(&name, &record).inspect_err(|_| drop(disk.cut(&name, newest.bytes))),
            _ => self.memory.append(&name, &record),
        };
        if let Err(error) = written {
            self.fail(&error, now);
            return false;
        }
        if newest.frames == 0 {
            newest.first_ms = batch.ticks.first().copied().unwrap_or(0);
        }
        newest.last_ms = batch.ticks.last().copied().unwrap_or(0);
        newest.frames += 1;
        newest.bytes += record.len() as u64;
        self.next_seq += 1;
        true
    }

    /// Notes that the disk can't be written. Frames have a new id from here on: those under the old one are on the
    /// disk, and their numbers must not depend on what is only in memory.
    fn fail(&mut self, error: &io::Error, now: Moment) {
        let why = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "disk-full",
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => "read-only",
            _ => "disk-error",
        };
        let retry = now.mono.saturating_add(ns(RETRY_AFTER));
        if self.failing.replace((why, retry)).is_none() {
            tracing::warn!("can't write the spool: {error}; frames are kept in memory until that works again");
            self.renew();
        }
    }
}

fn ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(in crate::stream) mod tests;
