//! The spool against a model, with disks that fill up, lie and vanish.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use ebbtide_proto::frame::Column;
use ebbtide_proto::series::{Metric, SeriesKey};
use proptest::prelude::*;

use super::files::Folder;
use super::*;

/// A disk that outlives the process.
#[derive(Clone, Default)]
pub(in crate::stream) struct Disk(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    files: Memory,
    full: bool,
    /// Lengths that survive a power cut.
    synced: HashMap<String, usize>,
}

impl Disk {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }

    fn write(&self, act: impl FnOnce(&mut Memory) -> io::Result<()>) -> io::Result<()> {
        self.with(|d| if d.full { Err(io::ErrorKind::StorageFull.into()) } else { act(&mut d.files) })
    }

    fn newest(&self) -> Option<String> {
        self.with(|d| d.files.0.keys().filter(|n| n.ends_with(".seg")).max().cloned())
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.with(|d| d.files.list())
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(|files| files.create(name, bytes))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // some of it may get through
        let part = &bytes[..bytes.len() / 2];
        self.with(|d| if d.full { d.files.append(name, part) } else { Ok(()) })?;
        self.write(|files| files.append(name, bytes))
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        self.with(|d| d.files.read(name, offset, bytes))
    }

    fn cut(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.with(|d| d.files.cut(name, len))
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.with(|d| {
            let len = d.files.0[name].len();
            d.synced.insert(name.to_owned(), len);
        });
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.with(|d| d.files.remove(name))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(|files| files.replace(name, bytes))
    }
}

pub(in crate::stream) fn boot(n: u64) -> Option<BootId> {
    format!("00000000-0000-0000-0000-{n:012}").parse().ok()
}

/// A frame that can be told from all others by its first value.
pub(in crate::stream) fn frame(label: u64, values: u64) -> Batch {
    let mut batch = Batch { boot: boot(1), ticks: vec![label * 10_000 + 1_700_000_000_000], ..Batch::default() };
    for (n, metric) in Metric::ALL.into_iter().enumerate() {
        batch.columns.push(Column { series: u32::try_from(n).unwrap(), first: 0, len: 1 });
        batch.series.push(SeriesKey { metric, zone: None, workload: None });
        batch.values.push(if n == 0 { label } else { label.wrapping_mul(values) });
    }
    batch
}

const SMALL: Limits = Limits { bytes: 2400, memory: 1200, segment: 400, age: Duration::from_secs(1 << 30) };

#[derive(Clone, Debug)]
enum Act {
    Append(u64),
    /// Send so many frames; whether the ack arrives.
    Send(usize, bool),
    /// The process is killed, perhaps within its last write.
    Kill {
        torn: bool,
    },
    PowerCut,
    /// Damage at some place of some file.
    Corrupt(prop::sample::Index, prop::sample::Index),
    Full(bool),
    Renew,
    Wait(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        20 => any::<u64>().prop_map(Act::Append),
        8 => (1usize..20, any::<bool>()).prop_map(|(n, acked)| Act::Send(n, acked)),
        2 => any::<bool>().prop_map(|torn| Act::Kill { torn }),
        1 => Just(Act::PowerCut),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(f, at)| Act::Corrupt(f, at)),
        2 => any::<bool>().prop_map(Act::Full),
        1 => Just(Act::Renew),
        4 => (1u64..50).prop_map(Act::Wait),
    ];
    prop::collection::vec(act, 1..150)
}

/// A spool with the fleet that it sends to.
struct World {
    disk: Disk,
    spool: Spool,
    now: Moment,
    boot: u64,
    starts: u64,
    appended: u64,
    /// What the fleet has under which number, and the last number by id.
    stored: HashMap<(u64, u64), u64>,
    acked: HashMap<u64, u64>,
    /// The last label it got, and how many frames it was told are lost.
    last: u64,
    told: u64,
    /// Something happened that can cost frames that nobody can count.
    uncounted: bool,
    /// Frames that arrived, but whose ack was lost with all that was known of their id.
    unheard: u64,
    /// The next number on the present connection, and its spool id.
    connection: Option<(u64, u64)>,
}

impl World {
    fn new() -> Self {
        let disk = Disk::default();
        let spool = Spool::open(Some(Box::new(disk.clone())), SMALL, boot(1), 1);
        Self {
            disk,
            spool,
            now: Moment { mono: 0, boot: 0, wall: 1_700_000_000_000_000_000 },
            boot: 1,
            starts: 1,
            appended: 0,
            stored: HashMap::new(),
            acked: HashMap::new(),
            last: 0,
            told: 0,
            uncounted: false,
            unheard: 0,
            connection: None,
        }
    }

    fn append(&mut self, values: u64) {
        self.appended += 1;
        self.now = self.now.plus(Duration::from_secs(10));
        let (id, known) = (self.spool.position().spool_id, self.spool.acked);
        self.spool.append(frame(self.appended, values), self.now);
        if self.spool.position().spool_id != id {
            // the last of an id were given up: what the fleet has of them nobody will hear
            self.unheard += self.acked.get(&id).copied().unwrap_or(0).saturating_sub(known);
        }
    }

    fn send(&mut self, most: usize, ack_arrives: bool) {
        let position = self.spool.position();
        let (id, mut next) = match self.connection.take().filter(|(id, _)| *id == position.spool_id) {
            Some(connection) => connection,
            None => {
                // the fleet says what it has
                let acked = self.acked.get(&position.spool_id).copied().unwrap_or(0);
                self.spool.release(position.spool_id, acked);
                let id = self.spool.position().spool_id;
                (id, if id == position.spool_id { acked + 1 } else { 1 })
            }
        };
        for batch in self.spool.read(next, most, usize::MAX) {
            assert!(batch.seq >= next, "{} after {next}", batch.seq);
            next = batch.seq + 1;
            let before = self.stored.insert((id, batch.seq), batch.values[0]);
            assert!(before.is_none_or(|label| label == batch.values[0]), "number {} was given twice", batch.seq);
            if before.is_none() {
                assert!(batch.values[0] > self.last, "frame {} after {}", batch.values[0], self.last);
                self.last = batch.values[0];
                self.told += batch.dropped.map_or(0, |dropped| dropped.frames);
            }
            self.acked.insert(id, batch.seq);
        }
        self.connection = Some((id, next));
        if ack_arrives {
            self.spool.release(id, next - 1);
        }
    }

    fn restart(&mut self) {
        self.starts += 1;
        self.connection = None;
        // what is in memory is gone, and so is the disk's part of the ids after it
        self.uncounted |= self.spool.segments.iter().any(|s| s.in_memory) || self.spool.lost.is_some();
        self.spool = Spool::open(Some(Box::new(self.disk.clone())), SMALL, boot(self.boot), self.starts);
    }

    fn act(&mut self, act: &Act) {
        match act {
            Act::Append(values) => self.append(*values),
            Act::Send(most, ack_arrives) => self.send(*most, *ack_arrives),
            Act::Kill { torn } => {
                let newest = self.spool.segments.back().filter(|s| !s.in_memory && s.frames > 0);
                let sent = newest.is_some_and(|s| self.stored.contains_key(&(s.spool_id, s.next_seq() - 1)));
                if let (true, Some(segment)) = (*torn && !sent, newest) {
                    self.disk.with(|d| {
                        let file = d.files.0.get_mut(&segment.name()).unwrap();
                        file.truncate(file.len() - 3);
                    });
                }
                self.restart();
            }
            Act::PowerCut => {
                self.boot += 1;
                self.uncounted = true;
                self.disk.with(|d| {
                    let Inner { files, synced, .. } = d;
                    files.0.iter_mut().for_each(|(name, file)| {
                        let synced = synced.get(name).copied().unwrap_or(0);
                        file.truncate(synced + (file.len().saturating_sub(synced)) / 2);
                    });
                });
                self.restart();
            }
            Act::Corrupt(file, at) => {
                self.uncounted = true;
                self.disk.with(|d| {
                    if !d.files.0.is_empty() {
                        let name = d.files.0.keys().nth(file.index(d.files.0.len())).unwrap().clone();
                        let file = d.files.0.get_mut(&name).unwrap();
                        if !file.is_empty() {
                            let at = at.index(file.len());
                            file[at] ^= 0x11;
                        }
                    }
                });
            }
            Act::Full(full) => self.disk.with(|d| d.full = *full),
            Act::Renew => self.spool.renew(),
            Act::Wait(seconds) => self.now = self.now.plus(Duration::from_secs(*seconds)),
        }
        let disk: u64 = self.spool.segments.iter().filter(|s| !s.in_memory).map(|s| s.bytes).sum();
        let memory: u64 = self.spool.segments.iter().filter(|s| s.in_memory).map(|s| s.bytes).sum();
        // the newest segment is let grow
        assert!(disk <= SMALL.bytes + SMALL.segment + 300 && memory <= SMALL.memory + SMALL.segment + 300);
        assert_eq!(memory, self.spool.memory.0.values().map(|file| file.len() as u64).sum::<u64>());
    }

    /// The disk is well and the fleet takes everything.
    fn drain(&mut self) {
        self.disk.with(|d| d.full = false);
        self.now = self.now.plus(RETRY_AFTER);
        // the first pass may find damage, the second tells of it
        for _ in 0..2 {
            self.append(1);
            for n in 0.. {
                assert!(n < 1000, "never done: {:?}", self.spool);
                self.send(50, true);
                let position = self.spool.position();
                if position.first_seq == position.next_seq && !position.ended {
                    break;
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens: no number means two frames, none comes twice or out of order, and each frame arrives or is
    /// counted as lost.
    #[test]
    fn every_frame_arrives_or_is_counted(acts in acts()) {
        let mut world = World::new();
        for act in &acts {
            world.act(act);
        }
        world.drain();
        prop_assert_eq!(world.last, world.appended);
        let missing = world.appended - world.stored.len() as u64;
        if !world.uncounted {
            prop_assert!(world.told >= missing, "{} of {} lost", world.told, missing);
            prop_assert!(world.told <= missing + world.unheard, "{} of {} lost", world.told, missing);
        }
        prop_assert_eq!(world.spool.stock().frames, 0);
        prop_assert!(world.spool.segments.len() == 1 && world.disk.newest().is_some());
    }

    /// Nothing in the folder is believed without proof.
    #[test]
    fn any_files_are_survived(files in prop::collection::btree_map("[0-9]{1,3}\\.seg|position", prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        let disk = Disk::default();
        disk.with(|d| d.files = Memory(files));
        let mut spool = Spool::open(Some(Box::new(disk)), SMALL, boot(1), 1);
        spool.append(frame(1, 1), Moment::default());
        let position = spool.position();
        prop_assert_eq!(spool.read(position.first_seq, 9, 9000).len(), 1);
    }
}

#[test]
fn a_folder_is_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let open = |boot, seed| Spool::open(Some(Box::new(Folder::new(dir.path().join("spool")))), SMALL, boot, seed);
    let mut spool = open(boot(1), 1);
    assert_eq!(spool.stock(), Stock::default());
    for label in 1..=12 {
        spool.append(frame(label, 3), Moment::default());
    }
    let before = spool.position();
    spool.release(before.spool_id, 4);
    spool.close();
    drop(spool);
    let mut spool = open(boot(1), 2);
    let position = spool.position();
    assert_eq!(position, Position { first_seq: 5, ..before });
    let labels: Vec<u64> = spool.read(5, 99, usize::MAX).iter().map(|b| b.values[0]).collect();
    assert_eq!(labels, (5..=12).collect::<Vec<_>>());
    spool.append(frame(13, 3), Moment::default());
    assert_eq!(spool.position().next_seq, 14);
    // after a reboot there are new numbers, but first the old ones
    drop(spool);
    let mut spool = open(boot(2), 3);
    spool.append(frame(14, 3), Moment::default());
    assert_eq!(spool.position(), Position { next_seq: 14, ended: true, ..position });
    spool.release(position.spool_id, 13);
    let position = spool.position();
    assert!(position.spool_id != before.spool_id && (position.first_seq, position.next_seq) == (1, 2));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(dir.path().join("spool/position")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_is_too_old_goes_and_is_told() {
    let limits = Limits { age: Duration::from_secs(600), memory: 1 << 20, ..SMALL };
    let mut spool = Spool::open(None, limits, boot(1), 7);
    let start = Moment { wall: 1_700_000_000_000_000_000, ..Moment::default() };
    for label in 0..100 {
        spool.append(frame(label, 3), start.plus(Duration::from_secs(label * 10)));
    }
    let first = spool.read(1, 1, 1).remove(0);
    assert!((38..=45).contains(&first.values[0]), "{}", first.values[0]);
    let dropped = first.dropped.unwrap();
    assert_eq!((dropped.frames, dropped.from_ms), (first.values[0], 1_700_000_000_000));
    assert_eq!(spool.stock().dropped, dropped.frames);
}
