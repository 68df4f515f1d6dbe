//! Reading files that somebody else wrote.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// The most that is ever read of one file.
pub const READ_LIMIT: u64 = 1 << 20;

/// Reads a whole small text file, at most [`READ_LIMIT`] bytes; bytes that aren't UTF-8 become `U+FFFD`.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(256);
    File::open(path)?.take(READ_LIMIT).read_to_end(&mut bytes)?;
    Ok(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    })
}
