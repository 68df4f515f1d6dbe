//! One number in a file of sysfs, read again and again through a file that stays open.
//!
//! `pread` on an open attribute costs half of open, read and close, and goes on working after the
//! agent has dropped the privilege that opening needed. While the file answers, nothing is allocated.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::super::ReadError;

/// Longer than the longest number (20 digits) with its line end; more than this is no number.
const BUFFER: usize = 32;

/// A file that holds one decimal number.
#[derive(Debug)]
pub(crate) struct Attribute {
    path: PathBuf,
    file: Option<File>,
}

/// Why an open file gave no number.
enum Failed {
    /// The kernel said no.
    Io(io::Error),
    /// What it holds isn't a number.
    Nonsense(String),
    /// It was unlinked: what it still says is old.
    Gone,
}

impl Attribute {
    /// The file at `path`; opened at the first read.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number. After a failure the file is opened anew by name, so one that was taken away and
    /// put back is read again at once.
    pub(crate) fn read(&mut self) -> Result<u64, ReadError> {
        if let Some(value) = self.file.as_ref().and_then(|f| number_in(f).ok()) {
            return Ok(value);
        }
        self.file = None;
        let opened = File::open(&self.path).map_err(Failed::Io);
        match opened.and_then(|f| number_in(&f).map(|value| (f, value))) {
            Ok((file, value)) => {
                self.file = Some(file);
                Ok(value)
            }
            Err(failed) => Err(self.error(failed)),
        }
    }

    fn error(&self, failed: Failed) -> ReadError {
        let path = self.path.display().to_string();
        match failed {
            // the driver's way to say that the register holds nothing now
            Failed::Io(e) if e.raw_os_error() == Some(libc::ENODATA) => {
                ReadError::Absent { path, why: "the driver has no data".into() }
            }
            Failed::Io(source) => ReadError::Io { path, source },
            Failed::Nonsense(found) => ReadError::Nonsense { path, found },
            Failed::Gone => ReadError::Absent { path, why: "it was removed while it was read".into() },
        }
    }
}

fn number_in(file: &File) -> Result<u64, Failed> {
    // sysfs never gets here; an unlinked file of a tmpfs (a twin, a guest's passthrough) goes on answering
    if rustix::fs::fstat(file).map_err(|e| Failed::Io(e.into()))?.st_nlink == 0 {
        return Err(Failed::Gone);
    }
    let mut buffer = [0; BUFFER];
    let n = file.read_at(&mut buffer, 0).map_err(Failed::Io)?;
    let bytes = buffer.get(..n).unwrap_or(&buffer);
    parse(bytes).ok_or_else(|| Failed::Nonsense(String::from_utf8_lossy(bytes).trim().to_owned()))
}

/// The number in the first line of `bytes`. What follows the line end is ignored: a file that is
/// rewritten in place with a shorter number has the tail of the old one there for an instant.
pub(super) fn parse(bytes: &[u8]) -> Option<u64> {
    let line = match bytes.iter().position(|&b| b == b'\n') {
        Some(end) => bytes.get(..end)?,
        None if bytes.len() >= BUFFER => return None,
        None => bytes,
    };
    let digits = line.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &b| {
        let digit = b.is_ascii_digit().then(|| u64::from(b - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;

    #[test]
    fn a_file_that_comes_back_is_read_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        fs::write(&path, "100\n").unwrap();
        let mut attribute = Attribute::new(path.clone());
        assert_eq!(attribute.read().unwrap(), 100);

        fs::write(&path, "250\n").unwrap();
        assert_eq!(attribute.read().unwrap(), 250, "rewritten in place");

        // the open file would still say 250
        fs::remove_file(&path).unwrap();
        let gone = attribute.read().unwrap_err();
        assert!(matches!(&gone, ReadError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound), "{gone}");

        fs::write(&path, "300\n").unwrap();
        assert_eq!(attribute.read().unwrap(), 300);

        let other = dir.path().join("new");
        fs::write(&other, "400\n").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(attribute.read().unwrap(), 400, "replaced by rename");
    }

    #[test]
    fn what_is_not_a_number_is_an_error_until_it_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        let mut attribute = Attribute::new(path.clone());
        for bad in ["", "\n", "n/a\n", "-5\n", "12 34\n", "18446744073709551616\n"] {
            fs::write(&path, bad).unwrap();
            let e = attribute.read().unwrap_err();
            assert!(matches!(&e, ReadError::Nonsense { found, .. } if found == bad.trim()), "{bad:?}: {e}");
        }
        fs::remove_file(&path).unwrap();
        // stands for whatever the kernel refuses: permissions don't stop root, a folder does
        fs::create_dir(&path).unwrap();
        assert!(matches!(attribute.read(), Err(ReadError::Io { .. })));
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "7").unwrap();
        assert_eq!(attribute.read().unwrap(), 7);
    }

    #[test]
    fn the_tail_of_a_longer_number_is_not_read() {
        assert_eq!(parse(b"17\n43328850\n"), Some(17));
        assert_eq!(parse(&[b'1'; BUFFER]), None, "may be cut off");
        assert_eq!(parse(b"18446744073709551615\n"), Some(u64::MAX));
    }

    proptest! {
        #[test]
        fn numbers_are_read_and_other_bytes_refused(value in any::<u64>(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(parse(format!("{value}\n").as_bytes()), Some(value));
            if let Some(read) = parse(&bytes) {
                let line = bytes.split(|&b| b == b'\n').next().unwrap();
                let text = std::str::from_utf8(line.trim_ascii()).unwrap();
                prop_assert_eq!(text.parse::<u64>().ok(), Some(read));
            }
        }
    }
}
