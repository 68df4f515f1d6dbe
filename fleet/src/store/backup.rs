//! A copy of the store while it goes on.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use super::Store;
use super::error::{OnFile as _, StoreError};
use super::sql::{Snapshot, sync_dir};
use super::verify::{Report, verify};

impl Store {
    /// Copies the store to `to`, a directory that is not there or empty, and verifies the copy. It is as the store was
    /// at one moment; commits and seals go on meanwhile. `catalogue.db` is not copied.
    ///
    /// # Errors
    /// If something can't be read or written. What was copied by then stays.
    pub fn backup(&self, to: &Path) -> Result<Report, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(to).on("make", to)?;
        if std::fs::read_dir(to).on("read", to)?.next().is_some() {
            return Err(StoreError::Misused("a backup needs a directory of its own; the one given has files in it"));
        }
        let days = to.join("day");
        DirBuilder::new().mode(0o700).create(&days).on("make", &days)?;
        let (view, ()) = self.0.view(0, u64::MAX, Vec::new(), || ())?;
        copy(&view.hot, &to.join("hot.db"))?;
        for (day, file) in view.days {
            copy(&file, &day.path(to))?;
        }
        sync_dir(&days)?;
        sync_dir(to)?;
        verify(to)
    }
}

/// Copies a file as it is in the snapshot.
fn copy(from: &Snapshot, to: &Path) -> Result<(), StoreError> {
    let mut db = Connection::open(to).on("write to", to)?;
    db.pragma_update(None, "synchronous", "FULL").on("write to", to)?;
    let backup = Backup::new(from.db()?, &mut db).on("write to", to)?;
    loop {
        match backup.step(-1).on("write to", to)? {
            StepResult::Done => break,
            // somebody holds the source for a moment
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Ok(())
}
