//! What is given up, and how the fleet is told: each lost frame is counted once, before the frame that follows it.

use ebbtide_proto::frame::Batch;
use ebbtide_proto::v1;

use super::{Kept, Lost, POSITION, Segment, Spool};
use crate::clock::Moment;

impl Spool {
    /// Gives up the oldest segments until what is left is within the limits. The newest always stays.
    pub(super) fn keep_within(&mut self, now: Moment) {
        let oldest = (now.wall / 1_000_000).saturating_sub(u64::try_from(self.limits.age.as_millis()).unwrap_or(0));
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.last_ms < oldest) {
            self.give_up(0, "too-old");
        }
        for (in_memory, most) in [(false, self.limits.bytes), (true, self.limits.memory)] {
            while self.segments.iter().filter(|s| s.in_memory == in_memory).map(|s| s.bytes).sum::<u64>() > most {
                let oldest = self.segments.iter().position(|s| s.in_memory == in_memory);
                let Some(index) = oldest.filter(|i| i + 1 < self.segments.len()) else { break };
                let why = self.failing.filter(|_| in_memory).map_or("spool-full", |(why, _)| why);
                self.give_up(index, why);
            }
        }
    }

    /// What a frame has to say of frames that are missing before it, where all before `from` arrive.
    pub(super) fn dropped_before(&self, index: usize, seq: u64, from: u64) -> Option<v1::Dropped> {
        let segment = self.segments.get(index).filter(|s| s.first_seq == seq)?;
        let lost = segment.lost.as_ref()?;
        let front = self.segments.front()?;
        // some of them may have been sent before they were given up
        let delivered = match lost.spool_id == front.spool_id {
            true => from.saturating_sub(lost.first_seq).min(lost.last_seq + 1 - lost.first_seq),
            false => 0,
        };
        let frames = lost.frames.saturating_sub(delivered);
        (frames > 0).then(|| v1::Dropped {
            frames,
            from_ms: lost.from_ms,
            until_ms: lost.until_ms,
            reason: lost.reason.clone(),
        })
    }

    /// Gives up a segment.
    fn give_up(&mut self, index: usize, why: &str) {
        let Some(segment) = self.segments.get(index) else { return };
        let first = segment.first_seq;
        self.lose(index, first, why);
        self.remove(index);
        if index == 0 {
            self.note_position();
        }
    }

    /// Gives up the frames of a segment from number `from` on: they can't be read.
    pub(super) fn give_up_rest(&mut self, index: usize, from: u64) {
        let Some(segment) = self.segments.get(index) else { return };
        tracing::warn!(
            "the spool's segment {} is damaged from frame {from} on; the rest of it is lost",
            segment.name()
        );
        let from = from.max(segment.first_seq);
        self.lose(index, from, "corrupt");
        if let Some(segment) = self.segments.get_mut(index) {
            segment.frames = from - segment.first_seq;
        }
        if index + 1 == self.segments.len() {
            self.encoder = None;
        }
        self.tidy();
    }

    /// Counts the frames of a segment from `from` on that the fleet is not known to have, before what comes next.
    fn lose(&mut self, index: usize, from: u64, why: &str) {
        let front = self.segments.front().map(|s| s.spool_id);
        let Some(segment) = self.segments.get(index) else { return };
        let first_seq = if front == Some(segment.spool_id) { from.max(self.acked + 1) } else { from };
        let last_seq = segment.next_seq() - 1;
        if first_seq > last_seq {
            return;
        }
        let frames = last_seq + 1 - first_seq;
        let (from_ms, until_ms) = (segment.first_ms, segment.last_ms);
        let lost =
            Lost { spool_id: segment.spool_id, first_seq, last_seq, frames, from_ms, until_ms, reason: why.into() };
        self.dropped += frames;
        self.pass_on(index, lost);
    }

    /// Counts a frame that could not be written at all.
    pub(super) fn give_up_new(&mut self, batch: &Batch, why: &str) {
        tracing::warn!("frame {} is {why} for the spool and lost", batch.seq);
        let lost = Lost {
            spool_id: self.id,
            first_seq: batch.seq,
            last_seq: batch.seq,
            frames: 1,
            from_ms: batch.ticks.first().copied().unwrap_or(0),
            until_ms: batch.ticks.last().copied().unwrap_or(0),
            reason: why.into(),
        };
        self.dropped += 1;
        self.next_seq += 1;
        self.pass_on(self.segments.len(), lost);
    }

    /// What was lost in a segment was lost before the one after it.
    pub(super) fn pass_on(&mut self, index: usize, lost: Lost) {
        let next = match self.segments.get_mut(index + 1) {
            Some(next) => &mut next.lost,
            None => &mut self.lost,
        };
        *next = Some(match next.take() {
            Some(later) => lost.and(later),
            None => lost,
        });
    }

    /// Takes a segment away, and its file.
    pub(super) fn remove(&mut self, index: usize) {
        let Some(Segment { lost, .. }) = self.segments.get_mut(index) else { return };
        if let Some(lost) = lost.take() {
            self.pass_on(index, lost);
        }
        let Some(segment) = self.segments.remove(index) else { return };
        let removed = match (segment.in_memory, &mut self.disk) {
            (false, Some(disk)) => disk.remove(&segment.name()),
            _ => super::Files::remove(&mut self.memory, &segment.name()),
        };
        if let Err(error) = removed {
            tracing::debug!(%error, "can't remove {} of the spool", segment.name());
        }
        if let Some(front) = self.segments.front().filter(|_| index == 0)
            && front.spool_id != segment.spool_id
        {
            self.acked = front.first_seq - 1;
        }
    }

    /// Takes away what nobody needs: segments that the fleet has and those without frames. The newest under the present
    /// id stays, it knows the number that comes next. Whether there was anything.
    pub(super) fn tidy(&mut self) -> bool {
        let mut index = 0;
        let mut removed = false;
        while let Some(segment) = self.segments.get(index) {
            let newest = index + 1 == self.segments.len() && segment.spool_id == self.id;
            let delivered = index == 0 && segment.next_seq() <= self.acked + 1;
            if !newest && (delivered || segment.frames == 0) {
                self.remove(index);
                removed = true;
            } else {
                index += 1;
            }
        }
        removed
    }

    /// Writes down what the fleet has. If that fails it will be sent again, and the fleet knows it.
    pub(super) fn note_position(&mut self) {
        let (Some(disk), Some(front)) = (&mut self.disk, self.segments.front()) else { return };
        let kept = Kept { spool_id: front.spool_id, acked: self.acked, lost: front.lost.clone() };
        let written = serde_json::to_vec(&kept).map_err(Into::into).and_then(|text| disk.replace(POSITION, &text));
        if let Err(error) = written {
            tracing::debug!(%error, "can't write down the spool's position");
        }
    }
}
