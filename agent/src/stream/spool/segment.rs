//! One segment: a file of frames that can be read without any other.
//!
//! ```text
//! head    "EBBSPOOL" · version u32 = 1 · CRC-32 of what follows u32 · spool id u64 · number of the first frame u64
//!         · boot id u128, 0 if unknown
//! record  length of the frame u32 · CRC-32 of what follows u32 · first moment u64 · last moment u64 · frame
//! ```
//!
//! All numbers are little endian, moments are milliseconds since 1970, a frame is an encoded `ebbtide.v1.Frame` whose
//! stream begins with the segment. Frame numbers rise by one from record to record.

use std::io;

use ebbtide_proto::frame::{Batch, Decoded, Decoder, Encoder, Limits};
use ebbtide_proto::{BootId, v1};
use prost::Message as _;

use super::files::Files;

const MAGIC: &[u8; 8] = b"EBBSPOOL";
const VERSION: u32 = 1;
/// Bytes of the head of a segment.
pub(super) const HEAD: usize = 48;
/// Bytes of a record before its frame.
const RECORD: usize = 24;
/// A longer frame is not written, and not believed.
const LONGEST: usize = 16 << 20;

/// A spool reads what it wrote itself: only its own bounds count.
const OWN: Limits = Limits { series: 1 << 20, names: 1 << 20, ticks: 1 << 16, values: 1 << 24, bytes: LONGEST };

/// What the head of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) spool_id: u64,
    pub(super) first_seq: u64,
    pub(super) boot: Option<BootId>,
}

impl Head {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut body = Vec::with_capacity(HEAD);
        body.extend(self.spool_id.to_le_bytes());
        body.extend(self.first_seq.to_le_bytes());
        body.extend(self.boot.map_or(0, BootId::as_u128).to_le_bytes());
        let mut all = MAGIC.to_vec();
        all.extend(VERSION.to_le_bytes());
        all.extend(crc32fast::hash(&body).to_le_bytes());
        all.extend(body);
        all
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.get(..HEAD)?.strip_prefix(MAGIC)?;
        let (version, rest) = u32_of(rest)?;
        let (crc, body) = u32_of(rest)?;
        if version != VERSION || crc != crc32fast::hash(body) {
            return None;
        }
        let (spool_id, rest) = u64_of(body)?;
        let (first_seq, boot) = u64_of(rest)?;
        let boot = u128::from_le_bytes(boot.try_into().ok()?);
        Some(Self { spool_id, first_seq, boot: (boot != 0).then(|| boot_id(boot)).flatten() })
    }
}

fn boot_id(bits: u128) -> Option<BootId> {
    let h = format!("{bits:032x}");
    let groups = [h.get(..8)?, h.get(8..12)?, h.get(12..16)?, h.get(16..20)?, h.get(20..)?];
    groups.join("-").parse().ok()
}

fn u32_of(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (n, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*n), rest))
}

fn u64_of(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (n, rest) = bytes.split_first_chunk()?;
    Some((u64::from_le_bytes(*n), rest))
}

/// A frame as a record; `None` if it is too long.
pub(super) fn record(encoder: &mut Encoder, batch: &Batch) -> Option<Vec<u8>> {
    let frame = encoder.encode(batch).encode_to_vec();
    let len = u32::try_from(frame.len()).ok().filter(|_| frame.len() <= LONGEST)?;
    let mut body = Vec::with_capacity(RECORD + frame.len());
    body.extend(batch.ticks.first().copied().unwrap_or(0).to_le_bytes());
    body.extend(batch.ticks.last().copied().unwrap_or(0).to_le_bytes());
    body.extend(frame);
    let mut all = len.to_le_bytes().to_vec();
    all.extend(crc32fast::hash(&body).to_le_bytes());
    all.extend(body);
    Some(all)
}

/// One record as it stands in a segment.
struct Record {
    first_ms: u64,
    last_ms: u64,
    frame: Vec<u8>,
}

/// What is at some place of a segment.
enum Found {
    Record(Record),
    /// The end, between two records.
    End,
    /// The beginning of a record that was not written to its end.
    Torn,
    /// Something else.
    Corrupt,
}

fn look(files: &mut dyn Files, name: &str, offset: u64, buffer: &mut Vec<u8>) -> io::Result<Found> {
    let mut head = [0; RECORD];
    let n = files.read(name, offset, &mut head)?;
    if n == 0 {
        return Ok(Found::End);
    }
    if n < RECORD {
        return Ok(Found::Torn);
    }
    let Some((len, (crc, times))) = u32_of(&head).and_then(|(len, rest)| Some((len, u32_of(rest)?))) else {
        return Ok(Found::Corrupt);
    };
    let len = len as usize;
    if len > LONGEST {
        return Ok(Found::Corrupt);
    }
    buffer.clear();
    buffer.resize(len, 0);
    if files.read(name, offset + RECORD as u64, buffer)? < len {
        return Ok(Found::Torn);
    }
    let mut found = crc32fast::Hasher::new();
    found.update(times);
    found.update(buffer);
    let (Some((first_ms, rest)), true) = (u64_of(times), found.finalize() == crc) else { return Ok(Found::Corrupt) };
    let Some((last_ms, _)) = u64_of(rest) else { return Ok(Found::Corrupt) };
    Ok(Found::Record(Record { first_ms, last_ms, frame: std::mem::take(buffer) }))
}

/// How a segment ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// With a whole record.
    Whole,
    /// In the middle of one.
    Torn,
    /// With something that was never written so.
    Corrupt,
}

/// What a segment was found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Survey {
    pub(super) head: Head,
    pub(super) frames: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
    /// Bytes up to the end of the last whole record.
    pub(super) bytes: u64,
    pub(super) ending: Ending,
}

/// Reads a segment from end to end; `None` if its head is not one.
pub(super) fn survey(files: &mut dyn Files, name: &str) -> io::Result<Option<Survey>> {
    let mut head = [0; HEAD];
    files.read(name, 0, &mut head)?;
    let Some(head) = Head::read(&head) else { return Ok(None) };
    let bytes = HEAD as u64;
    let mut survey = Survey { head, frames: 0, first_ms: 0, last_ms: 0, bytes, ending: Ending::Whole };
    let mut buffer = Vec::new();
    loop {
        match look(files, name, survey.bytes, &mut buffer)? {
            Found::Record(record) => {
                survey.bytes += (RECORD + record.frame.len()) as u64;
                if survey.frames == 0 {
                    survey.first_ms = record.first_ms;
                }
                survey.last_ms = record.last_ms;
                survey.frames += 1;
                buffer = record.frame;
            }
            Found::End => return Ok(Some(survey)),
            Found::Torn => return Ok(Some(Survey { ending: Ending::Torn, ..survey })),
            Found::Corrupt => return Ok(Some(Survey { ending: Ending::Corrupt, ..survey })),
        }
    }
}

/// Reads the frames of one segment, one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    decoder: Decoder,
    decoded: Decoded,
    buffer: Vec<u8>,
    offset: u64,
    /// Number of the frame that comes next.
    pub(super) next_seq: u64,
}

/// A segment that can't be read on.
#[derive(Debug)]
pub(super) struct Unreadable;

impl Reader {
    /// At the beginning of a segment whose first frame has this number.
    pub(super) fn new(first_seq: u64) -> Self {
        Self {
            decoder: Decoder::new(OWN),
            decoded: Decoded::default(),
            buffer: Vec::new(),
            offset: HEAD as u64,
            next_seq: first_seq,
        }
    }

    /// The next frame, and how many bytes it takes.
    pub(super) fn next(&mut self, files: &mut dyn Files, name: &str) -> Result<(Batch, usize), Unreadable> {
        let found = look(files, name, self.offset, &mut self.buffer).map_err(|_| Unreadable)?;
        let Found::Record(record) = found else { return Err(Unreadable) };
        let frame = v1::Frame::decode(record.frame.as_slice()).map_err(|_| Unreadable)?;
        self.decoder.decode(&frame, &mut self.decoded).map_err(|_| Unreadable)?;
        if frame.seq != self.next_seq {
            return Err(Unreadable);
        }
        let bytes = record.frame.len();
        self.offset += (RECORD + bytes) as u64;
        self.next_seq += 1;
        self.buffer = record.frame;
        Ok((self.decoder.batch(&self.decoded), bytes))
    }
}
