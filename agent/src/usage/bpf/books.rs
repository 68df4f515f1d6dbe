//! What each thread was last known to have used, and what follows from a record that says more.
//!
//! A thread is known by the kernel's address of it and its start: the address is used again at once, often by the next
//! thread that is made. What a record adds to its run time is charged to its process; what was never seen alive is left
//! to `children`. The books are right whatever the order of records, and if a record comes twice; only a process in
//! which two other threads call exec between two samples may be told wrongly. They miss time only if the kernel lost the
//! last word on a thread, which it counts. One that it never says is made up for by what was known when the thread began
//! to end.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::children::{Children, Ended, Short};
use super::groups::Paths;
use super::record::{self, Counted, Exiting, Life, ProcessRecord, Record, ThreadRecord};
use crate::clock::Moment;
use crate::host::HostRoot;
use crate::usage::table::{Delta, Events, Task, TaskClass, TaskIx, TaskTable};

/// `USER_HZ`: starts are told in these elsewhere, so that a task is the same whoever reads it.
const TICK_NS: u64 = 10_000_000;
/// A thread that isn't there any more is waited for this long: its last word may be on its way.
const PATIENCE_NS: u64 = 60_000_000_000;
/// A thread that began to end this long ago and isn't listed any more should have been freed.
const OVERDUE_NS: u64 = 1_000_000_000;
/// A last word that comes later than this is not expected any more.
const TOO_LATE_NS: u64 = 600_000_000_000;
/// Samples for which processes that ended are remembered, at the most.
const REMEMBERED: u32 = 32;
/// Samples between two looks for what can be forgotten.
const TIDY: u32 = 64;

/// The books.
pub(super) struct Books {
    threads: Threads,
    /// Those whose place another took in this sample; their last word comes with it.
    replaced: Threads,
    /// Those of earlier samples whose last word didn't come, and in which sample they lost their place.
    unheard: HashMap<Life, (Thread, u32)>,
    paths: Paths,
    children: Children,
    /// Start of each process in nanoseconds, by slot.
    starts: Vec<u64>,
    now: Moment,
    everyone: bool,
    sample: u32,
    /// Threads that a pass over everyone didn't show although nobody told of their end.
    missing: usize,
    short: Vec<Short>,
    /// Processes that ended of late, by pid: the last word on one of their threads may come after that on the first.
    ended: Ended,
    /// Threads charged by what was known when they began to end: their run time then, and when that was.
    never_freed: HashMap<Life, (u64, u64)>,
}

/// By address.
type Threads = HashMap<u64, Thread, BuildHasherDefault<AddressHasher>>;

/// One thread.
struct Thread {
    start_ns: u64,
    run_ns: u64,
    process: TaskIx,
    tid: u32,
    /// The last sample that told of it.
    seen: u32,
    /// Since when it is missing.
    missing: Option<u64>,
    counted: Counted,
    /// Events per nanosecond when they were last counted.
    rate: Option<Rate>,
}

#[derive(Clone, Copy)]
struct Rate {
    cycles: f64,
    instructions: f64,
    misses: f64,
}

impl Books {
    pub(super) fn new(host: HostRoot) -> Self {
        Self {
            threads: Threads::default(),
            replaced: Threads::default(),
            unheard: HashMap::new(),
            paths: Paths::new(host),
            children: Children::default(),
            starts: Vec::new(),
            now: Moment::default(),
            everyone: false,
            sample: 0,
            missing: 0,
            short: Vec::new(),
            ended: Ended::new(),
            never_freed: HashMap::new(),
        }
    }

    /// Whether a pass over everyone is needed to find out who is there.
    pub(super) fn misses_someone(&self) -> bool {
        self.missing > 0
    }

    /// A sample begins; `everyone` says that the living are told in full.
    pub(super) fn begin(&mut self, now: Moment, everyone: bool) {
        self.now = now;
        self.everyone = everyone;
        self.sample = self.sample.wrapping_add(1);
        self.paths.begin();
        let sample = self.sample;
        self.ended.retain(|_, (_, since)| sample.wrapping_sub(*since) < REMEMBERED);
        let (last, unheard) = (sample.wrapping_sub(1), &mut self.unheard);
        unheard.retain(|_, (_, since)| sample.wrapping_sub(*since) < 2 * REMEMBERED);
        unheard.extend(self.replaced.drain().map(|(task, t)| (Life { task, start_ns: t.start_ns }, (t, last))));
        self.short.clear();
    }

    fn first(&self) -> bool {
        self.sample == 1
    }

    /// Takes what a pass told.
    pub(super) fn living(&mut self, bytes: &[u8], counters: bool, table: &mut TaskTable, out: &mut Vec<Delta>) {
        // processes before their other threads, whose ids may be smaller
        for leaders in [true, false] {
            let mut at = bytes;
            while let Some(record) = record::next(&mut at, counters) {
                match record {
                    Record::Alive(t, c, Some(p)) if leaders => {
                        let ix = self.process(&t, &p, table);
                        self.ran(&t, c, ix, table, out);
                    }
                    Record::Alive(t, c, None) if !leaders => {
                        // one whose process came to life after its own turn is told again next time
                        if let Some(ix) = table.by_pid(t.tgid) {
                            self.ran(&t, c, ix, table, out);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    /// Brings a process up to date.
    fn process(&mut self, t: &ThreadRecord, p: &ProcessRecord, table: &mut TaskTable) -> TaskIx {
        let start = t.start_ns / TICK_NS;
        let class = if p.kernel { TaskClass::Kernel } else { TaskClass::Process };
        let known = match table.by_pid(t.tgid) {
            Some(ix) if started(&self.starts, ix) == t.start_ns => Some(ix),
            Some(other) => {
                self.end(other, table);
                None
            }
            None => None,
        };
        let cgroup = match class {
            TaskClass::Process => self.paths.of_living(p.groups, t.tgid, table),
            _ => table.intern(""),
        };
        let ix = match known {
            Some(ix) => ix,
            None => table.insert(Task { comm: p.comm, uid: p.uid, ..Task::new(t.tgid, start, class) }),
        };
        if self.starts.len() <= ix.index() {
            self.starts.resize(ix.index() + 1, 0);
        }
        if let Some(start) = self.starts.get_mut(ix.index()) {
            *start = t.start_ns;
        }
        if let Some(task) = table.get_mut(ix) {
            if task.comm != p.comm || task.uid != p.uid || task.cgroup != cgroup {
                (task.comm, task.uid, task.cgroup) = (p.comm, p.uid, cgroup);
                task.version = task.version.wrapping_add(1);
            }
            task.ppid = p.ppid;
            task.threads = p.threads;
            task.cpu = t.cpu;
            task.rss_pages = p.rss_pages;
        }
        ix
    }

    /// Charges what a thread of `process` used since it was last told.
    fn ran(&mut self, t: &ThreadRecord, c: Counted, process: TaskIx, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let first = self.first();
        let sample = self.sample;
        let fresh = || Thread {
            start_ns: t.start_ns,
            // what ran before the agent looked for the first time is nobody's
            run_ns: if first { t.run_ns } else { 0 },
            process,
            tid: t.tid,
            seen: sample,
            missing: None,
            counted: if first { Counted { run_ns: c.run_ns.max(t.run_ns), ..c } } else { Counted::default() },
            rate: None,
        };
        let process_start = started(&self.starts, process);
        let thread = self.threads.entry(t.task).or_insert_with(fresh);
        // a thread that calls exec takes over the id and the start of the first one; otherwise it is another thread
        if thread.start_ns != t.start_ns {
            if thread.process == process && t.start_ns == process_start && t.run_ns >= thread.run_ns {
                thread.start_ns = t.start_ns;
            } else {
                self.replaced.insert(t.task, std::mem::replace(thread, fresh()));
            }
        }
        thread.process = process;
        thread.tid = t.tid;
        thread.seen = sample;
        if thread.missing.take().is_some() {
            self.missing = self.missing.saturating_sub(1);
        }
        let ran = t.run_ns.saturating_sub(thread.run_ns);
        thread.run_ns = thread.run_ns.max(t.run_ns);
        if ran > 0 {
            let events = thread.count(c, ran);
            charge(Delta { task: process, cpu_ns: ran, cpu: Some(t.cpu), events }, table, out);
        }
    }

    /// Takes what ended, and control groups that were made.
    pub(super) fn gone(&mut self, bytes: &[u8], counters: bool, table: &mut TaskTable, out: &mut Vec<Delta>) {
        // groups before those who were in them, threads before the process that ends with its first one
        for turn in 0..3 {
            let mut at = bytes;
            while let Some(record) = record::next(&mut at, counters) {
                match record {
                    Record::Group(hierarchy, id, path) if turn == 0 => self.paths.note(hierarchy, id, path),
                    Record::Freed(mut t, mut c, p) if turn == 1 + u8::from(t.leads()) => {
                        if let Some((charged, _)) = self.never_freed.remove(&Life::of(&t)) {
                            t.run_ns = t.run_ns.saturating_sub(charged);
                            c = Counted::default();
                        }
                        self.freed(&t, c, p, table, out);
                    }
                    _ => {}
                }
            }
        }
        self.charge_short(table, out);
    }

    fn charge_short(&mut self, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let mut short = std::mem::take(&mut self.short);
        // who went before the first look is nobody's business
        if !self.first() {
            self.children.charge(&short, &self.ended, self.now, table, out);
        }
        short.clear();
        self.short = short;
    }

    /// Whether a thread should have been freed by now: it began to end a while ago, and is not listed, as one would be
    /// that waits for its parent.
    pub(super) fn is_overdue(&self, exit: &Exiting) -> bool {
        let t = &exit.thread;
        let listed = match self.threads.get(&t.task) {
            // only a pass over everyone tells of those that don't change
            Some(known) if known.start_ns == t.start_ns => !self.everyone || known.seen == self.sample,
            // whoever wasn't listed yet would have been now
            _ => false,
        };
        !listed && self.now.mono.saturating_sub(exit.at_ns) >= OVERDUE_NS
    }

    /// Charges a thread by what was known when it began to end.
    pub(super) fn never_freed(&mut self, exit: &Exiting, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let mut t = exit.thread;
        self.never_freed.insert(Life::of(&t), (t.run_ns, self.now.mono));
        let sample = self.sample;
        // its place as the first thread was taken by another that called exec: the process lives on
        let successor = |k: &Thread| k.tid == t.tid && k.start_ns == t.start_ns && k.seen == sample;
        if t.leads() && self.threads.values().any(successor) {
            t.tid = 0;
        }
        self.freed(&t, Counted::default(), exit.process, table, out);
        self.charge_short(table, out);
    }

    fn freed(&mut self, t: &ThreadRecord, c: Counted, p: ProcessRecord, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let starts = self.starts.as_slice();
        let is_of = |ix: TaskIx| {
            let at = started(starts, ix);
            let fits = if t.leads() { at == t.start_ns } else { at <= t.start_ns };
            fits && table.get(ix).is_some_and(|p| p.pid == t.tgid)
        };
        let same = |known: &Thread| known.start_ns == t.start_ns;
        // it called exec, and then another thread did, since it was last told of
        let sample = self.sample;
        let took_over = |known: &Thread| {
            known.seen != sample && is_of(known.process) && t.start_ns == started(starts, known.process)
        };
        let (now, before) = (self.threads.get(&t.task), self.replaced.get(&t.task));
        let thread = match (now, before) {
            (Some(k), _) if same(k) => self.threads.remove(&t.task),
            (_, Some(k)) if same(k) || took_over(k) => self.replaced.remove(&t.task),
            (Some(k), _) if took_over(k) => self.threads.remove(&t.task),
            _ => self.unheard.remove(&Life::of(t)).map(|(thread, _)| thread),
        };
        if thread.as_ref().is_some_and(|thread| thread.missing.is_some()) {
            self.missing = self.missing.saturating_sub(1);
        }
        let known = thread.as_ref().map(|thread| thread.process);
        // a thread that came after the last pass may be of a process that was there
        let alive = || table.by_pid(t.tgid).filter(|ix| is_of(*ix));
        let ended = || self.ended.get(&t.tgid).map(|e| e.0).filter(|ix| !t.leads() && is_of(*ix));
        let process = known.filter(|ix| is_of(*ix)).or_else(alive).or_else(ended);
        match process {
            Some(ix) => {
                let before = thread.as_ref().map_or(0, |thread| thread.run_ns);
                let ran = t.run_ns.saturating_sub(before);
                // who was there before the first look and went since is charged with the next part only
                if ran > 0 && (thread.is_some() || !self.first()) {
                    let events = match thread {
                        Some(mut thread) => thread.count(c, ran),
                        None => (c.run_ns > 0).then_some(c.events),
                    };
                    charge(Delta { task: ix, cpu_ns: ran, cpu: Some(t.cpu), events }, table, out);
                }
                if t.leads() {
                    self.end(ix, table);
                }
            }
            None => {
                let cgroup = if p.kernel { Some(table.intern("")) } else { self.paths.of_ended(p.groups, table) };
                let events = (c.run_ns > 0).then_some(c.events);
                self.short.push(Short { thread: *t, process: p, cgroup, events });
            }
        }
    }

    fn end(&mut self, ix: TaskIx, table: &mut TaskTable) {
        let Some(task) = table.get(ix) else { return };
        let who = (task.pid, task.start);
        self.ended.insert(task.pid, (ix, self.sample));
        table.end(ix, self.now);
        self.children.orphan(who, self.now, table);
    }

    /// The sample is complete: finds out who went without a word.
    pub(super) fn close(&mut self, table: &mut TaskTable) {
        if self.everyone {
            let (sample, now) = (self.sample, self.now.mono);
            let mut lost = Vec::new();
            let mut missing = 0;
            self.threads.retain(|_, t| {
                if t.seen == sample {
                    return true;
                }
                match t.missing {
                    None => t.missing = Some(now),
                    // its process isn't there either; what it used last is counted as lost
                    Some(_) if table.get(t.process).is_some_and(|p| p.pid == t.tid) => lost.push(t.process),
                    Some(_) => {}
                }
                let keep = t.missing.is_none_or(|since| now.saturating_sub(since) < PATIENCE_NS);
                missing += usize::from(keep);
                keep
            });
            self.missing = missing;
            for ix in lost {
                self.end(ix, table);
            }
        }
        if self.sample.is_multiple_of(TIDY) {
            table.forget_unused_paths();
            self.paths.forget_unused();
            self.children.forget_freed(table);
            let now = self.now.mono;
            self.never_freed.retain(|_, (_, since)| now.saturating_sub(*since) < TOO_LATE_NS);
        }
    }
}

/// Start of a process in nanoseconds.
fn started(starts: &[u64], process: TaskIx) -> u64 {
    starts.get(process.index()).copied().unwrap_or(0)
}

/// Adds to a task's time.
fn charge(delta: Delta, table: &mut TaskTable, out: &mut Vec<Delta>) {
    if let Some(task) = table.get_mut(delta.task) {
        task.cpu_ns += delta.cpu_ns;
    }
    out.push(delta);
}

impl Thread {
    /// What counters tell of `ran` nanoseconds: they are read when a task leaves its CPU, so that they cover another
    /// span than the sample does. The rate in the last span that was counted is taken for the sample.
    fn count(&mut self, c: Counted, ran: u64) -> Option<Events> {
        let covered = c.run_ns.saturating_sub(self.counted.run_ns);
        if covered > 0 {
            let per_ns = |now: u64, before: u64| now.saturating_sub(before) as f64 / covered as f64;
            let (new, old) = (c.events, self.counted.events);
            self.rate = Some(Rate {
                cycles: per_ns(new.cycles, old.cycles),
                instructions: per_ns(new.instructions, old.instructions),
                misses: per_ns(new.misses, old.misses),
            });
            self.counted = c;
        }
        let rate = self.rate?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "finite, not negative, saturating")]
        let over = |per_ns: f64| (per_ns * ran as f64) as u64;
        Some(Events { cycles: over(rate.cycles), instructions: over(rate.instructions), misses: over(rate.misses) })
    }
}

/// Spreads addresses, whose low bits are all alike, by one multiplication (Fibonacci hashing).
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_right(32);
    }
}
