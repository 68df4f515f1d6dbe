//! What an earlier run left behind.

use super::segment::{Ending, Survey, survey};
use super::{Kept, Lost, POSITION, Segment, Spool};

impl Spool {
    /// Reads all segments of the disk. What is damaged is cut off and counted.
    pub(super) fn recover(&mut self) {
        let Some(disk) = &mut self.disk else { return };
        let names = match disk.list() {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!("can't read the spool: {error}; what an earlier run left in it is not sent");
                return;
            }
        };
        let mut numbers: Vec<u64> = names.iter().filter_map(|n| n.strip_suffix(".seg")?.parse().ok()).collect();
        numbers.sort_unstable();
        let mut kept: Vec<u8> = vec![0; 4096];
        let n = disk.read(POSITION, 0, &mut kept).unwrap_or(0);
        kept.truncate(n);
        let kept: Kept = serde_json::from_slice(&kept).unwrap_or_default();

        let mut newest: Option<Survey> = None;
        for number in numbers {
            self.next_number = number + 1;
            newest = self.recover_one(number);
        }
        if let Some(newest) = newest {
            self.recover_end(&newest);
        }
        self.recover_position(kept);
        self.tidy();
    }

    /// Adds a segment to those that are known. `None` if it is none.
    fn recover_one(&mut self, number: u64) -> Option<Survey> {
        let mut segment = Segment {
            number,
            in_memory: false,
            spool_id: 0,
            first_seq: 0,
            frames: 0,
            first_ms: 0,
            last_ms: 0,
            bytes: 0,
            lost: None,
        };
        let disk = self.disk.as_mut()?;
        let found = survey(&mut **disk, &segment.name());
        let found = match found {
            Ok(Some(found)) => found,
            Ok(None) => {
                tracing::warn!("{} of the spool is no segment and is removed", segment.name());
                drop(disk.remove(&segment.name()));
                return None;
            }
            Err(error) => {
                tracing::warn!("can't read {} of the spool, it is left out: {error}", segment.name());
                return None;
            }
        };
        let before = self.segments.back().filter(|s| s.spool_id == found.head.spool_id);
        if before.is_some_and(|before| found.head.first_seq < before.next_seq()) {
            tracing::warn!("{} of the spool repeats numbers and is left out", segment.name());
            return None;
        }
        if let Some(before) = before
            && found.head.first_seq > before.next_seq()
        {
            let frames = found.head.first_seq - before.next_seq();
            segment.lost = Some(Lost {
                spool_id: before.spool_id,
                first_seq: before.next_seq(),
                last_seq: found.head.first_seq - 1,
                frames,
                from_ms: before.last_ms,
                until_ms: found.first_ms,
                reason: "corrupt".into(),
            });
            self.dropped += frames;
        }
        segment.spool_id = found.head.spool_id;
        segment.first_seq = found.head.first_seq;
        (segment.frames, segment.bytes) = (found.frames, found.bytes);
        (segment.first_ms, segment.last_ms) = (found.first_ms, found.last_ms);
        self.segments.push_back(segment);
        Some(found)
    }

    /// Decides whether numbers go on behind the newest segment.
    fn recover_end(&mut self, newest: &Survey) {
        let Some(segment) = self.segments.back() else { return };
        let mut next = segment.next_seq();
        if newest.ending != Ending::Whole {
            // at least one frame
            self.lost = Some(Lost {
                spool_id: segment.spool_id,
                first_seq: next,
                last_seq: next,
                frames: 1,
                from_ms: segment.last_ms,
                until_ms: segment.last_ms,
                reason: "corrupt".into(),
            });
            self.dropped += 1;
            next += 1;
        }
        if newest.head.boot.is_some() && newest.head.boot == self.boot && newest.ending != Ending::Corrupt {
            self.id = newest.head.spool_id;
            self.next_seq = next;
        }
    }

    /// Takes up what the fleet was known to have.
    fn recover_position(&mut self, kept: Kept) {
        let Some(front) = self.segments.front_mut() else { return };
        self.acked = front.first_seq - 1;
        if kept.spool_id != front.spool_id {
            return;
        }
        if kept.lost.is_some() && kept.acked < front.first_seq {
            front.lost = kept.lost;
        }
        self.release(kept.spool_id, kept.acked);
    }
}
