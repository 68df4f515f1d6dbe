//! One connection's frames: from the spool through the window to the fleet.

use std::collections::VecDeque;

use ebbtide_proto::frame::{Batch, Encoder, pack};
use ebbtide_proto::v1;
use prost::Message as _;

use super::Command;
use crate::clock::Moment;
use crate::stream::spool::Position;

/// Frames on their way if the fleet doesn't say otherwise.
const WINDOW_FRAMES: usize = 512;
/// Bytes on their way, before compression, and messages.
const WINDOW_BYTES: usize = 1 << 20;
const WINDOW_MESSAGES: usize = 16;
/// The largest message if the fleet doesn't say otherwise, and the smallest that it may ask for.
const MESSAGE_BYTES: usize = 1 << 20;
const SMALLEST_MESSAGE: usize = 16 << 10;
/// A message is full with this many bytes, so that one doesn't hold much memory.
const FULL_MESSAGE: usize = 256 << 10;
/// What a decoder takes after decompression.
const PLAIN_BYTES: usize = 4 << 20;
/// More names than these the fleet may refuse; a new connection starts counting again.
const MOST_SERIES: usize = 19_000;
const MOST_WORKLOADS: usize = 9_500;
/// Level of compression: fast, and most of what there is to gain.
const LEVEL: i32 = 3;

/// A frame that is not acknowledged yet.
#[derive(Debug)]
struct InFlight {
    seq: u64,
    bytes: usize,
    /// It is the last of its message.
    last: bool,
}

/// What one connection has sent.
#[derive(Debug)]
pub(super) struct Sending {
    connection: u64,
    /// Under which id it sends.
    pub(super) spool_id: u64,
    /// When it began, on the monotonic clock.
    pub(super) since: u64,
    encoder: Encoder,
    /// Numbers that the encoder has given.
    series: usize,
    workloads: usize,
    worn_out: bool,
    /// The number to be read next.
    next: u64,
    in_flight: VecDeque<InFlight>,
    /// When something was acknowledged last, or sent after nothing was on its way.
    heard: u64,
    reading: bool,
    /// The spool had nothing; it was here then.
    starved: Option<Position>,
    window: usize,
    message: usize,
}

impl Sending {
    pub(super) fn new(connection: u64, spool_id: u64, now: Moment, acked: u64, config: &v1::Config) -> Self {
        let or = |wish: u32, usual: usize| if wish == 0 { usual } else { wish as usize };
        Self {
            connection,
            spool_id,
            since: now.mono,
            encoder: Encoder::new(),
            series: 0,
            workloads: 0,
            worn_out: false,
            next: acked.saturating_add(1),
            in_flight: VecDeque::new(),
            heard: now.mono,
            reading: false,
            starved: None,
            window: or(config.window_frames, WINDOW_FRAMES).min(10 * WINDOW_FRAMES),
            message: or(config.max_message_bytes, MESSAGE_BYTES).clamp(SMALLEST_MESSAGE, PLAIN_BYTES),
        }
    }

    /// Since when the fleet owes an ack.
    pub(super) fn waits_since(&self) -> Option<u64> {
        (!self.in_flight.is_empty()).then_some(self.heard)
    }

    /// Whether the stream has so many names that a new one has to begin.
    pub(super) fn is_worn_out(&self) -> bool {
        self.worn_out
    }

    /// Asks for frames if there are any and the window has room.
    pub(super) fn ask(&mut self, spool: &Position, commands: &mut Vec<Command>) {
        let frames = self.in_flight.len();
        let bytes: usize = self.in_flight.iter().map(|f| f.bytes).sum();
        let messages = self.in_flight.iter().filter(|f| f.last).count();
        let room = frames < self.window && bytes < WINDOW_BYTES && messages < WINDOW_MESSAGES;
        if self.reading || !room || self.next >= spool.next_seq || self.starved.as_ref() == Some(spool) {
            return;
        }
        self.reading = true;
        commands.push(Command::Read {
            connection: self.connection,
            from: self.next,
            frames: (self.window - frames).min(256),
            bytes: FULL_MESSAGE.min(self.message),
        });
    }

    /// Sends what the spool had at this position; how many frames.
    pub(super) fn send(
        &mut self,
        now: Moment,
        spool: Position,
        batches: Vec<Batch>,
        commands: &mut Vec<Command>,
    ) -> u64 {
        self.reading = false;
        self.starved = batches.is_empty().then_some(spool);
        let mut sent = 0;
        let (mut frames, mut bytes) = (Vec::new(), 0);
        for mut batch in batches {
            if batch.seq < self.next {
                continue;
            }
            let used = self.series > 0;
            let many = self.series + batch.series.len() > MOST_SERIES;
            if used && (many || self.workloads + batch.workloads.len() > MOST_WORKLOADS) {
                self.worn_out = true;
                break;
            }
            if !fits(&batch, self.message) {
                batch = in_place_of(&batch);
            }
            if batch.seq > self.next && batch.dropped.is_none() {
                batch.dropped = Some(missing(&batch, batch.seq - self.next));
            }
            self.next = batch.seq + 1;
            let frame = self.encoder.encode(&batch);
            let largest = |refs: &mut dyn Iterator<Item = u32>| refs.max().map_or(0, |n| n as usize);
            self.series = self.series.max(largest(&mut frame.series.iter().map(|s| s.r#ref)));
            self.workloads = self.workloads.max(largest(&mut frame.workloads.iter().map(|w| w.r#ref)));
            let len = frame.encoded_len() + 8;
            if !frames.is_empty() && bytes + len > FULL_MESSAGE.min(self.message) {
                self.message(std::mem::take(&mut frames), commands);
                bytes = 0;
            }
            if self.in_flight.is_empty() {
                self.heard = now.mono;
            }
            self.in_flight.push_back(InFlight { seq: batch.seq, bytes: len, last: false });
            frames.push(frame);
            bytes += len;
            sent += 1;
        }
        if !frames.is_empty() {
            self.message(frames, commands);
        }
        sent
    }

    fn message(&mut self, frames: Vec<v1::Frame>, commands: &mut Vec<Command>) {
        if let Some(last) = self.in_flight.back_mut() {
            last.last = true;
        }
        let kind = v1::agent_message::Kind::Frames(pack(frames, LEVEL));
        commands.push(Command::Send(self.connection, Box::new(v1::AgentMessage { kind: Some(kind) })));
    }

    /// The fleet has all up to `seq`. The last number that we sent of those, and how many frames became safe by this.
    pub(super) fn acked(&mut self, now: Moment, seq: u64) -> (u64, u64) {
        let (mut last, mut frames) = (0, 0);
        self.heard = now.mono;
        while let Some(front) = self.in_flight.pop_front_if(|front| front.seq <= seq) {
            last = front.seq;
            frames += 1;
        }
        (last, frames)
    }
}

/// Whether a message can hold the frame, even if it is the first of its stream.
fn fits(batch: &Batch, message: usize) -> bool {
    let labels =
        |w: &ebbtide_proto::series::WorkloadInfo| w.labels.iter().map(|(n, v)| n.len() + v.len() + 8).sum::<usize>();
    let names: usize = batch.workloads.iter().map(|w| 60 + w.id.name().len() + labels(w)).sum();
    let rough =
        names + batch.values.len() * 10 + batch.series.len() * 24 + batch.ticks.len() * 5 + batch.zones.len() * 600;
    if rough <= message.min(PLAIN_BYTES) {
        return true;
    }
    let frame = Encoder::new().encode(batch);
    frame.encoded_len() <= PLAIN_BYTES && pack(vec![frame], LEVEL).encoded_len() + 64 <= message
}

/// What a frame says of numbers before it that nobody has any more: the fleet had them once and forgot, as one does
/// that starts with an empty store.
fn missing(batch: &Batch, frames: u64) -> v1::Dropped {
    let at = batch.ticks.first().copied().unwrap_or(0);
    v1::Dropped { frames, from_ms: at, until_ms: at, reason: "forgotten".into() }
}

/// A frame with the same number that says that it is missing.
fn in_place_of(batch: &Batch) -> Batch {
    let before = batch.dropped.clone().unwrap_or_default();
    let first = batch.ticks.first().copied().unwrap_or(0);
    let dropped = v1::Dropped {
        frames: before.frames + 1,
        from_ms: if before.frames == 0 { first } else { before.from_ms },
        until_ms: batch.ticks.last().copied().unwrap_or(0),
        reason: "too-large".into(),
    };
    Batch { seq: batch.seq, boot: batch.boot, dropped: Some(dropped), ..Batch::default() }
}
