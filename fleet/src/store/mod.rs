//! What the fleet keeps: SQLite files in one directory, and nothing else.
//!
//! `hot.db` has frames as they came, safe before they are acknowledged, and what their numbers stand for;
//! `day/YYYY-MM-DD.db` has a UTC day in blocks and roll-ups, so that retention is an unlink. `commit` writes frames,
//! `seal` moves them to days, `energy` reads both. `codec`, `names`, `samples`, `block`, `rollup` and `groups` are pure.
//! Times are milliseconds since 1970 and come from outside; nothing here knows the network. (docs/adr/0009)

mod backup;
pub mod block;
pub mod codec;
mod commit;
mod day;
mod energy;
mod error;
mod export;
pub mod groups;
mod hot;
pub mod names;
mod node;
mod question;
mod recent;
mod retain;
pub mod rollup;
pub mod samples;
mod seal;
mod sql;
mod stats;
mod stream;
mod sums;
pub mod tail;
mod verify;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use ebbtide_proto::NodeId;
use rustix::fs::{FlockOperation, flock};

pub use commit::{Committed, Outcome};
pub use error::StoreError;
pub use export::{Export, ExportError, Resolution, Sink};
pub use retain::Retained;
pub use seal::Sealed;
pub use stats::Stats;
pub use stream::{Record, Stream};
pub use verify::{Report, verify};

use day::Day;
use hot::Hot;
use node::Node;
use recent::Recent;
use seal::Sealer;
use sql::Pool;

/// How the store is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// For how long what is kept.
    pub retention: Retention,
}

/// For how long each resolution is kept, in milliseconds. A coarser one is kept at least as long as a finer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Samples as they came.
    pub raw_ms: u64,
    /// Buckets of ten seconds.
    pub tens_ms: u64,
    /// Buckets of a minute.
    pub minutes_ms: u64,
    /// Buckets of an hour; then nothing.
    pub hours_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: u64 = 24 * 60 * 60_000;
        Self { raw_ms: 2 * DAY, tens_ms: 14 * DAY, minutes_ms: 90 * DAY, hours_ms: 5 * 365 * DAY }
    }
}

/// The store of a fleet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    options: Options,
    hot: Mutex<Hot>,
    hot_readers: Arc<Pool>,
    days: Mutex<BTreeMap<Day, Arc<Pool>>>,
    nodes: RwLock<Nodes>,
    sealer: Mutex<Sealer>,
    recent: Mutex<Recent>,
    /// Nodes of which frames may be in days and in `hot.db` at once.
    torn: Mutex<Vec<Arc<Node>>>,
    /// Held for writing while frames turn into blocks, for reading while snapshots of both are begun.
    fence: RwLock<()>,
    fingerprints: foldhash::quality::RandomState,
    counts: Counts,
    /// Held as long as the store is open.
    _lock: File,
}

#[derive(Debug, Default)]
struct Nodes {
    by_name: HashMap<NodeId, Arc<Node>>,
    next: u32,
}

/// What was counted since the store was opened.
#[derive(Debug, Default)]
struct Counts {
    duplicates: AtomicU64,
    refused: AtomicU64,
}

impl Store {
    /// Opens the store in `dir`, or makes one.
    ///
    /// # Errors
    /// `Locked` if another process has it open; `Newer` if a later version wrote it.
    pub fn open(dir: &Path, options: Options) -> Result<Self, StoreError> {
        let io = |what: &'static str, path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { what, path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("make", dir))?;
        let day = dir.join("day");
        DirBuilder::new().recursive(true).mode(0o700).create(&day).map_err(io("make", &day))?;
        let path = dir.join("LOCK");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
        let lock = lock.map_err(io("open", &path))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => StoreError::Locked { dir: dir.to_owned() },
            error => StoreError::Io { what: "lock", path: path.clone(), source: error.into() },
        })?;
        let path = dir.join("hot.db");
        let mut hot = Hot::open(&path)?;
        sql::sync_dir(dir)?;
        let nodes = hot.load()?;
        let inner = Inner {
            dir: dir.to_owned(),
            options,
            hot: Mutex::new(hot),
            hot_readers: Arc::new(Pool::new(path)),
            days: Mutex::default(),
            nodes: RwLock::new(nodes),
            recent: Mutex::default(),
            sealer: Mutex::new(Sealer::new()?),
            torn: Mutex::default(),
            fence: RwLock::new(()),
            fingerprints: foldhash::quality::RandomState::default(),
            counts: Counts::default(),
            _lock: lock,
        };
        inner.find_torn()?;
        inner.mend()?;
        Ok(Self(Arc::new(inner)))
    }
}

/// A lock is taken whether or not its last holder panicked: what it guards is changed in one go.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
