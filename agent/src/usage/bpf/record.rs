//! What the BPF programs write: the layout of `ebpf/record.h`. Pure; any bytes give a record or `None`.

use super::super::stat::Comm;
use super::super::table::Events;

const ALIVE: u32 = 1;
const FREED: u32 = 2;
const GROUP: u32 = 3;
const KERNEL_THREAD: u32 = 1;
/// Most bytes of a group's path.
const PATH: usize = 256;

/// A thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadRecord {
    /// The CPU it last ran on.
    pub cpu: u32,
    /// Tells lives of threads apart: no two that live at the same time have the same.
    pub task: u64,
    /// Start in nanoseconds since boot, sleep included.
    pub start_ns: u64,
    /// Time on a CPU over its life, in nanoseconds.
    pub run_ns: u64,
    /// Its id.
    pub tid: u32,
    /// Its process.
    pub tgid: u32,
}

impl ThreadRecord {
    /// Whether it is the first thread of its process.
    pub fn leads(&self) -> bool {
        self.tid == self.tgid
    }
}

/// What hardware counters told of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Over its life since they were turned on.
    pub events: Events,
    /// Run time up to which they were counted: the last time it left a CPU.
    pub run_ns: u64,
}

/// The process that a thread belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessRecord {
    /// Its parent; zero if that can't be told.
    pub ppid: u32,
    /// Effective user.
    pub uid: u32,
    /// Number of threads.
    pub threads: u32,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
    /// Resident memory in pages.
    pub rss_pages: u64,
    /// The control groups it is in.
    pub groups: GroupKey,
    /// Its name.
    pub comm: Comm,
}

/// Which control groups a process is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GroupKey {
    /// The kernel's set of groups; the same number may stand for another set once this one is gone.
    pub css_set: u64,
    /// Id in the unified hierarchy.
    pub v2: u64,
    /// Id in the hierarchy of the memory controller, if that is another.
    pub v1: u64,
    /// Which hierarchy that is; zero if the unified one.
    pub hierarchy: u32,
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A thread that lives; with its process if it is the first of it.
    Alive(ThreadRecord, Counted, Option<ProcessRecord>),
    /// A thread that is gone; its figures are final.
    Freed(ThreadRecord, Counted, ProcessRecord),
    /// A control group that was made: hierarchy, id, path.
    Group(u32, u64, &'a [u8]),
}

/// Reads the record at the start of `bytes` and moves on behind it. `counters` says which object wrote it.
pub fn next<'a>(bytes: &mut &'a [u8], counters: bool) -> Option<Record<'a>> {
    let mut at = Bytes(bytes);
    let kind = at.u32()?;
    if kind == GROUP {
        let (hierarchy, id) = (at.u32()?, at.u64()?);
        let path = at.take(PATH)?;
        *bytes = at.0;
        let end = path.iter().position(|&b| b == 0).unwrap_or(path.len());
        return Some(Record::Group(hierarchy, id, path.get(..end)?));
    }
    let thread = ThreadRecord {
        cpu: at.u32()?,
        task: at.u64()?,
        start_ns: at.u64()?,
        run_ns: at.u64()?,
        tid: at.u32()?,
        tgid: at.u32()?,
    };
    let mut counted = Counted::default();
    if counters {
        let events = Events { cycles: at.u64()?, instructions: at.u64()?, misses: at.u64()? };
        counted = Counted { events, run_ns: at.u64()? };
    }
    let record = match kind {
        ALIVE if thread.leads() => Record::Alive(thread, counted, Some(process(&mut at)?)),
        ALIVE => Record::Alive(thread, counted, None),
        FREED => Record::Freed(thread, counted, process(&mut at)?),
        _ => return None,
    };
    *bytes = at.0;
    Some(record)
}

fn process(at: &mut Bytes<'_>) -> Option<ProcessRecord> {
    let (ppid, uid, threads, flags) = (at.u32()?, at.u32()?, at.u32()?, at.u32()?);
    let rss_pages = at.u64()?;
    let groups = GroupKey { css_set: at.u64()?, v2: at.u64()?, v1: at.u64()?, hierarchy: at.u32()? };
    let _reserved = at.u32()?;
    let comm = at.take(16)?;
    let comm = Comm::new(comm.split(|&b| b == 0).next()?);
    Some(ProcessRecord { ppid, uid, threads, kernel: flags & KERNEL_THREAD != 0, rss_pages, groups, comm })
}

/// Bytes of a life in the map of those that began to end.
pub(super) const LIFE: usize = 16;
/// Bytes of what is kept there.
pub(super) const EXITING: usize = 128;

/// Tells lives of threads apart: an address is used again at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Life {
    pub(super) task: u64,
    pub(super) start_ns: u64,
}

impl Life {
    pub(super) fn of(t: &ThreadRecord) -> Self {
        Self { task: t.task, start_ns: t.start_ns }
    }

    /// The key of the map.
    pub(super) fn key(self) -> [u8; LIFE] {
        let mut key = [0; LIFE];
        let (task, start) = key.split_at_mut(8);
        task.copy_from_slice(&self.task.to_ne_bytes());
        start.copy_from_slice(&self.start_ns.to_ne_bytes());
        key
    }
}

/// A thread that began to end, at `at_ns` of the monotonic clock, and was not freed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exiting {
    pub(super) thread: ThreadRecord,
    pub(super) process: ProcessRecord,
    pub(super) at_ns: u64,
    /// Nanoseconds since its run time was counted last, and by how much the clocks of both differ.
    pub(super) since_ns: u64,
}

/// What a thread may have run since a tick, at the most: ticks are that far apart where they are rarest.
const LONGEST_TICK_NS: u64 = 1_000_000_000;

impl Exiting {
    /// With what it ran after its run time was counted last, to its end. `ahead` is by how much the clocks differ, less
    /// what the last task that ended ran after it began to; 0: not known.
    pub(super) fn counted_to_its_end(mut self, ahead: u64) -> Self {
        let more = self.since_ns.wrapping_sub(ahead);
        if ahead != 0 && more <= LONGEST_TICK_NS {
            self.thread.run_ns = self.thread.run_ns.saturating_add(more);
        }
        self
    }
}

/// Reads a value of that map.
pub(super) fn exiting(value: &[u8; EXITING]) -> Option<Exiting> {
    let mut at = value.as_slice();
    let Record::Freed(thread, _, process) = next(&mut at, false)? else { return None };
    let mut at = Bytes(at);
    Some(Exiting { thread, process, at_ns: at.u64()?, since_ns: at.u64()? })
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u32(&mut self) -> Option<u32> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u32::from_ne_bytes(*head))
    }

    fn u64(&mut self) -> Option<u64> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(u64::from_ne_bytes(*head))
    }
}

/// Writes records as the programs do.
#[cfg(test)]
pub(super) mod write {
    use super::*;

    pub(crate) fn alive(to: &mut Vec<u8>, t: &ThreadRecord, c: Option<&Counted>, p: Option<&ProcessRecord>) {
        thread(to, ALIVE, t, c);
        if let Some(p) = p {
            process(to, p);
        }
    }

    pub(crate) fn freed(to: &mut Vec<u8>, t: &ThreadRecord, c: Option<&Counted>, p: &ProcessRecord) {
        thread(to, FREED, t, c);
        process(to, p);
    }

    pub(crate) fn group(to: &mut Vec<u8>, hierarchy: u32, id: u64, path: &str) {
        to.extend(GROUP.to_ne_bytes());
        to.extend(hierarchy.to_ne_bytes());
        to.extend(id.to_ne_bytes());
        let mut text = [0; PATH];
        text[..path.len()].copy_from_slice(path.as_bytes());
        to.extend(text);
    }

    fn thread(to: &mut Vec<u8>, kind: u32, t: &ThreadRecord, c: Option<&Counted>) {
        to.extend([kind, t.cpu].into_iter().flat_map(u32::to_ne_bytes));
        to.extend([t.task, t.start_ns, t.run_ns].into_iter().flat_map(u64::to_ne_bytes));
        to.extend([t.tid, t.tgid].into_iter().flat_map(u32::to_ne_bytes));
        if let Some(c) = c {
            let e = c.events;
            to.extend([e.cycles, e.instructions, e.misses, c.run_ns].into_iter().flat_map(u64::to_ne_bytes));
        }
    }

    fn process(to: &mut Vec<u8>, p: &ProcessRecord) {
        to.extend([p.ppid, p.uid, p.threads, u32::from(p.kernel)].into_iter().flat_map(u32::to_ne_bytes));
        let g = p.groups;
        to.extend([p.rss_pages, g.css_set, g.v2, g.v1].into_iter().flat_map(u64::to_ne_bytes));
        to.extend([g.hierarchy, 0].into_iter().flat_map(u32::to_ne_bytes));
        let mut comm = [0; 16];
        let bytes = p.comm.as_bytes();
        comm[..bytes.len()].copy_from_slice(bytes);
        to.extend(comm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn thread() -> impl Strategy<Value = ThreadRecord> {
        any::<(u32, u64, u64, u64, u32, u32, bool)>().prop_map(|(cpu, task, start_ns, run_ns, tid, tgid, leads)| {
            ThreadRecord { cpu, task, start_ns, run_ns, tid, tgid: if leads { tid } else { tgid } }
        })
    }

    fn process() -> impl Strategy<Value = ProcessRecord> {
        (any::<(u32, u32, u32, bool, u64)>(), any::<(u64, u64, u64, u32)>(), "[a-z/:]{0,15}").prop_map(
            |((ppid, uid, threads, kernel, rss_pages), (css_set, v2, v1, hierarchy), comm)| ProcessRecord {
                ppid,
                uid,
                threads,
                kernel,
                rss_pages,
                groups: GroupKey { css_set, v2, v1, hierarchy },
                comm: Comm::new(comm.as_bytes()),
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(t in thread(), p in process(), n in any::<[u64; 4]>(), counters: bool) {
            let events = Events { cycles: n[0], instructions: n[1], misses: n[2] };
            let counted = if counters { Counted { events, run_ns: n[3] } } else { Counted::default() };
            let written = counters.then_some(&counted);
            let mut bytes = Vec::new();
            write::freed(&mut bytes, &t, written, &p);
            write::alive(&mut bytes, &t, written, t.leads().then_some(&p));
            write::group(&mut bytes, 3, 77, "/a/b");
            let mut at = bytes.as_slice();
            prop_assert_eq!(next(&mut at, counters), Some(Record::Freed(t, counted, p)));
            prop_assert_eq!(next(&mut at, counters), Some(Record::Alive(t, counted, t.leads().then_some(p))));
            prop_assert_eq!(next(&mut at, counters), Some(Record::Group(3, 77, b"/a/b".as_slice())));
            prop_assert!(at.is_empty());
        }

        #[test]
        fn what_is_kept_of_an_exit_is_read(
            t in thread(), p in process(), at_ns: u64, since_ns: u64, ahead: u64, garbage: [u8; EXITING],
        ) {
            let mut bytes = Vec::new();
            write::freed(&mut bytes, &t, None, &p);
            bytes.extend([at_ns, since_ns].into_iter().flat_map(u64::to_ne_bytes));
            let value = <[u8; EXITING]>::try_from(bytes.as_slice()).unwrap();
            let read = exiting(&value);
            prop_assert_eq!(read, Some(Exiting { thread: t, process: p, at_ns, since_ns }));
            let more = read.unwrap().counted_to_its_end(ahead).thread.run_ns - t.run_ns;
            prop_assert!(more <= LONGEST_TICK_NS);
            let _any = exiting(&garbage);
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..600), kind in 0..5u32, counters: bool) {
            let mut all = kind.to_ne_bytes().to_vec();
            all.extend(bytes);
            let mut at = all.as_slice();
            let mut n = 0;
            while next(&mut at, counters).is_some() {
                n += 1;
            }
            prop_assert!(n * 40 <= all.len(), "a record has at least 40 bytes");
        }
    }
}
