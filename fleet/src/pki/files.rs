//! Certificates and keys as files: whole or not at all, keys for their owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::PkiError;

/// Mode of a file that anybody may read.
pub const PUBLIC: u32 = 0o644;
/// Mode of a private key.
pub const SECRET: u32 = 0o600;
/// The largest file that is read: a chain of certificates is far smaller.
const MAX_BYTES: u64 = 1 << 20;

/// A file that is to be written.
#[derive(Clone, Copy, Debug)]
pub struct NewFile<'a> {
    /// Where.
    pub path: &'a Path,
    /// What is in it.
    pub text: &'a str,
    /// [`PUBLIC`] or [`SECRET`].
    pub mode: u32,
}

/// Reads a text file of at most 1 MiB.
///
/// # Errors
/// [`PkiError::Read`].
pub fn read(path: &Path) -> Result<String, PkiError> {
    let failed = |source| PkiError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(failed(std::io::Error::new(ErrorKind::FileTooLarge, "more than 1 MiB")));
    }
    Ok(text)
}

/// Writes all of `files`, after it was made sure that none of them is there yet or `force` was given. Each replaces
/// its predecessor in one step.
///
/// # Errors
/// [`PkiError::Exists`] before anything was written; [`PkiError::Write`].
pub fn write(files: &[NewFile<'_>], force: bool) -> Result<(), PkiError> {
    if !force {
        absent(files.iter().map(|file| file.path))?;
    }
    for file in files {
        let failed = |source| PkiError::Write { path: file.path.to_owned(), source };
        if let Some(folder) = file.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        replace(file).map_err(failed)?;
    }
    Ok(())
}

/// Makes sure that none of `paths` is there.
///
/// # Errors
/// [`PkiError::Exists`] for the first that is.
pub fn absent<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<(), PkiError> {
    // a dangling link counts as there: it would be replaced
    match paths.into_iter().find(|path| path.symlink_metadata().is_ok()) {
        Some(path) => Err(PkiError::Exists { path: path.to_owned() }),
        None => Ok(()),
    }
}

fn replace(file: &NewFile<'_>) -> std::io::Result<()> {
    let mut beside = file.path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    match fs::remove_file(&beside) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        // what an interrupted run left
        _ => {}
    }
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(file.mode)
        .open(&beside)
        .and_then(|mut open| open.write_all(file.text.as_bytes()).and_then(|()| open.sync_all()))
        .and_then(|()| fs::rename(&beside, file.path));
    if written.is_err() {
        // it may hold a key; that it can't be removed is told by nothing better than the error at hand
        drop(fs::remove_file(&beside));
    }
    written
}
