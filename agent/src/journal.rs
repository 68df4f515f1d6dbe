//! Totals that survive a restart of the agent: an append-only file in the state folder.
//!
//! # Record
//! One line per sample: eight hexadecimal digits of CRC-32, a space, and JSON ([`Record`]) with the *absolute*
//! figures of every zone and of each workload and task that changed. The first line of a file holds everything.
//! Reading the file is applying its lines in order; a line that is cut short or whose checksum is wrong ends it.
//!
//! # Why
//! The line is written before the sample is published. So whatever a scraper saw is in the file, and totals never
//! fall back, also when the agent is killed in the middle. It is not synced to disk: after a crash of the machine
//! the boot id is another one and the file is not used.
//!
//! # Bounds
//! A file larger than [`ROTATE_AT`] is replaced by one with a single line (written beside it, then renamed).
//! If the folder is full or read-only, measuring goes on and the failure is logged once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use ebbtide_proto::{BootId, Energy, WorkloadId, ZoneId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::clock::Moment;
use crate::ledger::ZoneAccount;

/// A file larger than this is rewritten.
pub const ROTATE_AT: u64 = 4 << 20;
/// More than this is never read.
const READ_AT_MOST: u64 = 64 << 20;

/// What one line holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The boot that the figures belong to.
    pub boot: Option<BootId>,
    /// When, in nanoseconds: monotonic, boot and wall clock.
    pub at: (u64, u64, u64),
    /// Every zone.
    pub zones: Vec<ZoneRecord>,
    /// Workloads and tasks that changed.
    pub rows: Vec<RowRecord>,
    /// CPU time in which something ran, of all CPUs, in nanoseconds.
    #[serde(default)]
    pub busy_ns: u64,
}

/// A zone in a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneRecord {
    /// Which.
    pub id: ZoneId,
    /// Its raw counter when it was last read, and when that was (boot clock, nanoseconds).
    pub raw: Option<(u64, u64)>,
    /// Its account.
    pub account: ZoneAccount,
}

/// A workload or task in a [`Record`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRecord {
    /// Which.
    pub id: WorkloadId,
    /// Energy by zone, in the order of [`Record::zones`].
    pub e: Vec<Energy>,
    /// Idle share by zone; left out where all are zero.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub i: Vec<Energy>,
    /// CPU time in nanoseconds.
    pub cpu: u64,
}

/// What an earlier run left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// When the last line was written.
    pub at: Option<Moment>,
    /// Zones by id.
    pub zones: HashMap<ZoneId, ZoneRecord>,
    /// The order of zones in rows.
    pub order: Vec<ZoneId>,
    /// Workloads and tasks.
    pub rows: HashMap<WorkloadId, RowRecord>,
    /// CPU time in which something ran, of all CPUs, in nanoseconds.
    pub busy_ns: u64,
}

/// Why the state folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent uses it.
    #[error(
        "another agent is running with the state folder {path}: stop it, or give this one its own with --state DIR (or --state none)"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error(
        "can't use the state folder {path}: {source}; totals will not survive a restart (choose another with --state DIR)"
    )]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: Option<File>,
    size: u64,
    /// Held as long as the journal is in use.
    _lock: File,
    failing: bool,
}

impl Journal {
    /// Opens the journal in `folder`, which is made if need be, and reads what an earlier run left for this boot.
    pub fn open(folder: &Path, boot: Option<BootId>) -> Result<(Self, Kept), JournalError> {
        let io = |source| JournalError::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(io)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock")).map_err(io)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(JournalError::Locked { path: folder.to_owned() }),
            Err(e) => return Err(io(e.into())),
        }
        let kept = match File::open(folder.join("ledger")) {
            Ok(file) => {
                let mut bytes = Vec::new();
                file.take(READ_AT_MOST).read_to_end(&mut bytes).map_err(io)?;
                replay(&bytes, boot)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(e) => return Err(io(e)),
        };
        let journal = Self { folder: folder.to_owned(), file: None, size: u64::MAX, _lock: lock, failing: false };
        Ok((journal, kept))
    }

    /// Whether the next record must hold everything.
    pub fn wants_all(&self) -> bool {
        self.size >= ROTATE_AT
    }

    /// Writes a record; after [`Journal::wants_all`] it starts a new file. Failures are logged once and don't stop anything.
    pub fn write(&mut self, record: &Record) {
        match self.try_write(record) {
            Ok(()) => {
                if std::mem::take(&mut self.failing) {
                    tracing::info!(folder = %self.folder.display(), "the state folder can be written again");
                }
            }
            Err(error) => {
                // start over with a whole file once it works again
                self.file = None;
                self.size = u64::MAX;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(folder = %self.folder.display(), %error, "can't write totals to the state folder; measuring goes on");
                }
            }
        }
    }

    fn try_write(&mut self, record: &Record) -> io::Result<()> {
        let line = encode(record)?;
        if self.wants_all() {
            let (fresh, path) = (self.folder.join("ledger.new"), self.folder.join("ledger"));
            let mut file = File::create(&fresh)?;
            file.write_all(line.as_bytes())?;
            std::fs::rename(&fresh, &path)?;
            self.file = Some(file);
            self.size = line.len() as u64;
            return Ok(());
        }
        let file = self.file.as_mut().ok_or_else(|| io::Error::other("the journal is not open"))?;
        file.write_all(line.as_bytes())?;
        self.size += line.len() as u64;
        Ok(())
    }
}

fn encode(record: &Record) -> io::Result<String> {
    let json = serde_json::to_string(record)?;
    Ok(format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes())))
}

/// Applies the lines of a journal in order, up to the first that is damaged. Lines of another boot count for nothing.
pub fn replay(bytes: &[u8], boot: Option<BootId>) -> Kept {
    let mut kept = Kept::default();
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        let Some(record) = decode(line) else { break };
        if record.boot.is_none() || record.boot != boot {
            return Kept::default();
        }
        let (mono, at_boot, wall) = record.at;
        kept.busy_ns = record.busy_ns;
        kept.at = Some(Moment { mono, boot: at_boot, wall });
        kept.order = record.zones.iter().map(|z| z.id.clone()).collect();
        kept.zones = record.zones.into_iter().map(|z| (z.id.clone(), z)).collect();
        for row in record.rows {
            kept.rows.insert(row.id.clone(), row);
        }
    }
    kept
}

fn decode(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let (crc, json) = text.split_at_checked(8)?;
    let json = json.strip_prefix(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32fast::hash(json.as_bytes()) {
        return None;
    }
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_proto::WorkloadKind;
    use proptest::prelude::*;

    fn boot() -> Option<BootId> {
        Some("0b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().unwrap())
    }

    fn record(t: u64, rows: &[(u32, u64)]) -> Record {
        let zone = ZoneRecord {
            id: ZoneId::new("powercap/package-0").unwrap(),
            raw: Some((t * 7, t)),
            account: ZoneAccount { total: Energy::from_uj(t), ..ZoneAccount::default() },
        };
        let rows = rows.iter().map(|&(pid, uj)| RowRecord {
            id: WorkloadId::process(pid, 1),
            e: vec![Energy::from_uj(uj)],
            i: vec![],
            cpu: uj,
        });
        Record { boot: boot(), at: (t, t, t), zones: vec![zone], rows: rows.collect(), busy_ns: t }
    }

    #[test]
    fn what_was_written_is_read_again_after_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let (mut j, kept) = Journal::open(dir.path(), boot()).unwrap();
        assert_eq!(kept, Kept::default());
        assert!(j.wants_all());
        j.write(&record(1, &[(1, 10), (2, 20)]));
        assert!(!j.wants_all());
        j.write(&record(2, &[(2, 25)]));
        assert!(matches!(Journal::open(dir.path(), boot()), Err(JournalError::Locked { .. })));
        drop(j);
        let (_j, kept) = Journal::open(dir.path(), boot()).unwrap();
        assert_eq!(kept.at.unwrap().mono, 2);
        let row = |pid| kept.rows[&WorkloadId::process(pid, 1)].e[0].uj();
        assert_eq!((row(1), row(2)), (10, 25));
        assert_eq!(kept.zones[&kept.order[0]].raw, Some((14, 2)));
    }

    #[test]
    fn another_boot_starts_from_nothing() {
        let text = encode(&record(1, &[(1, 10)])).unwrap();
        let other = "1b6e8a2c-93f5-4a63-9d5e-5a4e3f1c2b7d".parse().ok();
        assert_eq!(replay(text.as_bytes(), other), Kept::default());
        assert_eq!(replay(text.as_bytes(), None), Kept::default());
    }

    #[test]
    fn an_unusable_folder_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Journal::open(&file, boot()).unwrap_err().to_string();
        assert!(error.contains("--state"), "{error}");
    }

    proptest! {
        /// A cut or a flipped bit anywhere loses the tail, never the lines before it, and never invents a figure.
        #[test]
        fn damage_only_costs_the_tail(lines in 1..8u64, cut in any::<prop::sample::Index>(), flip in prop::option::of((any::<prop::sample::Index>(), 0..8u32))) {
            let mut text = Vec::new();
            let mut ends = vec![0];
            for t in 1..=lines {
                text.extend_from_slice(encode(&record(t, &[(1, t * 10)])).unwrap().as_bytes());
                ends.push(text.len());
            }
            let mut good = cut.index(text.len() + 1);
            text.truncate(good);
            if let Some((at, bit)) = flip && !text.is_empty() {
                let at = at.index(text.len());
                text[at] ^= 1 << bit;
                good = good.min(at);
            }
            let whole = ends.iter().filter(|&&e| e <= good).count() as u64 - 1;
            let kept = replay(&text, boot());
            let got = kept.rows.get(&WorkloadId::new(WorkloadKind::Process, "1-1").unwrap()).map_or(0, |r| r.e[0].uj());
            prop_assert_eq!(got, whole * 10);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            prop_assert_eq!(replay(&bytes, boot()), Kept::default());
        }
    }
}
