//! What goes wrong in the store.

use std::path::{Path, PathBuf};

use super::codec::Damaged;

/// Why the store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open.
    #[error("the store in {} is in use by another process; stop that, or give another --data", dir.display())]
    Locked {
        /// Where the store is.
        dir: PathBuf,
    },
    /// A later version wrote it.
    #[error("{} is of version {found}, this program reads up to {known}; use a newer one", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// A file or directory.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// SQLite; a full disk, mostly.
    #[error("can't {what} {}: {source}", path.display())]
    Sqlite {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// What was read makes no sense.
    #[error("{} is {source} ({what}); `ebbtide-fleet verify` tells what is left, a backup has the rest", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        what: String,
        /// What is wrong.
        source: Damaged,
    },
    /// Compression ran out of memory.
    #[error("can't compress: {0}")]
    Compression(std::io::Error),
    /// A stream's store was asked for something of another one.
    #[error("{0}")]
    Misused(&'static str),
}

/// Says which file it was and what was tried.
pub(super) trait OnFile<T> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, StoreError>;
}

impl<T> OnFile<T> for Result<T, rusqlite::Error> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Sqlite { what, path: path.to_owned(), source })
    }
}

impl<T> OnFile<T> for Result<T, std::io::Error> {
    fn on(self, what: &'static str, path: &Path) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Io { what, path: path.to_owned(), source })
    }
}

/// Says where in a file the damage is.
pub(super) trait InFile<T> {
    fn within(self, path: &Path, what: impl FnOnce() -> String) -> Result<T, StoreError>;
}

impl<T> InFile<T> for Result<T, Damaged> {
    fn within(self, path: &Path, what: impl FnOnce() -> String) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Damaged { path: path.to_owned(), what: what(), source })
    }
}
