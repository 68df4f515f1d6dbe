//! Frames as messages of the stream, compressed where that helps.

use std::cell::RefCell;
use std::io;

use prost::Message as _;

use super::FrameError;
use crate::v1;

thread_local! {
    /// A decompressor's memory is large, and messages are small and many.
    static UNZIP: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

fn unzip(bytes: &[u8], size: usize) -> io::Result<Vec<u8>> {
    UNZIP.with_borrow_mut(|kept| {
        let unzip = match kept {
            Some(unzip) => unzip,
            None => kept.insert(zstd::bulk::Decompressor::new()?),
        };
        unzip.decompress(bytes, size)
    })
}

/// Frames as one message, compressed where that helps.
pub fn pack(frames: Vec<v1::Frame>, level: i32) -> v1::FrameBatch {
    use v1::frame_batch::Body;
    let frames = v1::Frames { frames };
    let plain = frames.encode_to_vec();
    let body = match zstd::bulk::compress(&plain, level) {
        Ok(smaller) if smaller.len() < plain.len() => Body::Zstd(smaller),
        _ => Body::Plain(frames),
    };
    v1::FrameBatch { body: Some(body) }
}

/// The frames of a message; no more than `max` bytes are decompressed.
pub fn unpack(batch: v1::FrameBatch, max: usize) -> Result<Vec<v1::Frame>, FrameError> {
    use v1::frame_batch::Body;
    match batch.body {
        None => Ok(Vec::new()),
        Some(Body::Plain(frames)) => Ok(frames.frames),
        Some(Body::Zstd(bytes)) => {
            let size = zstd::bulk::Decompressor::<'_>::upper_bound(&bytes).unwrap_or(usize::MAX);
            if size > max {
                return Err(FrameError::Compression { max });
            }
            let plain = unzip(&bytes, size).map_err(|_| FrameError::Compression { max })?;
            let frames = v1::Frames::decode(plain.as_slice()).map_err(|e| FrameError::Protobuf(e.to_string()))?;
            Ok(frames.frames)
        }
    }
}
