use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;

use super::record::{Counted, Exiting, GroupKey, Life, ProcessRecord, ThreadRecord, write};
use super::*;
use crate::usage::stat::Comm;
use crate::usage::table::{Events, TaskClass};

const MS: u64 = 1_000_000;

/// A thread of the made-up kernel.
#[derive(Clone, Debug)]
struct Thread {
    record: ThreadRecord,
    process: ProcessRecord,
    counted: Counted,
    /// What was last told of it.
    told: Option<u64>,
}

/// A made-up kernel: what its programs would tell.
#[derive(Default)]
struct World {
    threads: BTreeMap<u32, Thread>,
    /// Freed, but the agent isn't told yet.
    freed: Vec<Thread>,
    /// Began to end without a word when they were freed.
    mute: Vec<Exiting>,
    mono: u64,
    groups: Vec<(u32, u64, String)>,
    lost: Lost,
    next_task: u64,
    now: u64,
    /// Where threads were that are gone: used again at once, as the kernel does.
    addresses: Vec<u64>,
    counters: bool,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Feed for Shared {
    fn pass(&mut self, everyone: bool, to: &mut Vec<u8>) -> io::Result<()> {
        let mut world = self.0.lock().unwrap();
        let counters = world.counters;
        to.clear();
        for t in world.threads.values_mut() {
            if everyone || t.told != Some(t.record.run_ns) {
                t.told = Some(t.record.run_ns);
                let process = t.record.leads().then_some(&t.process);
                write::alive(to, &t.record, counters.then_some(&t.counted), process);
            }
        }
        Ok(())
    }

    fn readable(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn ended(&mut self, to: &mut Vec<u8>) {
        let mut world = self.0.lock().unwrap();
        to.clear();
        for t in std::mem::take(&mut world.freed) {
            write::freed(to, &t.record, world.counters.then_some(&t.counted), &t.process);
        }
        for (hierarchy, id, path) in std::mem::take(&mut world.groups) {
            write::group(to, hierarchy, id, &path);
        }
    }

    fn exiting(&self, to: &mut Vec<Exiting>) {
        to.clone_from(&self.0.lock().unwrap().mute);
    }

    fn take_exit(&mut self, life: Life) -> bool {
        let mute = &mut self.0.lock().unwrap().mute;
        let before = mute.len();
        mute.retain(|e| Life::of(&e.thread) != life);
        mute.len() < before
    }

    fn lost(&self) -> Lost {
        self.0.lock().unwrap().lost
    }
}

impl World {
    fn spawn(&mut self, tid: u32, tgid: u32, ppid: u32, comm: &str) {
        self.now += 1_000_003;
        let task = self.addresses.pop().unwrap_or_else(|| {
            self.next_task += 64;
            self.next_task
        });
        let record = ThreadRecord { cpu: tid % 4, task, start_ns: self.now, run_ns: 0, tid, tgid };
        let process = ProcessRecord {
            ppid,
            uid: 0,
            threads: 1,
            kernel: false,
            rss_pages: 10,
            groups: GroupKey { css_set: u64::from(tgid % 3), v2: 1, v1: 0, hierarchy: 0 },
            comm: Comm::new(comm.as_bytes()),
        };
        self.threads.insert(tid, Thread { record, process, counted: Counted::default(), told: None });
    }

    fn run(&mut self, tid: u32, ns: u64) {
        if let Some(t) = self.threads.get_mut(&tid) {
            t.record.run_ns += ns;
        }
    }

    /// Frees a thread; `ns` is what it used while it ended.
    fn free(&mut self, tid: u32, ns: u64) {
        if let Some(mut t) = self.threads.remove(&tid) {
            t.record.run_ns += ns;
            self.addresses.push(t.record.task);
            self.freed.push(t);
        }
    }

    /// Frees a thread without a word; only what it had used when it began to end can be known. Gives what would have
    /// been said.
    fn free_mute(&mut self, tid: u32, ns: u64) -> Option<Thread> {
        let t = self.threads.get(&tid)?;
        self.mute.push(Exiting { thread: t.record, process: t.process, at_ns: self.mono, since_ns: 0 });
        self.free(tid, ns);
        self.freed.pop()
    }

    /// A thread calls exec: all others end, and it takes the place of the first one, which goes under its id.
    fn exec(&mut self, tid: u32) {
        let Some(tgid) = self.threads.get(&tid).map(|t| t.record.tgid) else { return };
        let others: Vec<u32> =
            self.threads.values().map(|t| t.record).filter(|t| t.tgid == tgid).map(|t| t.tid).collect();
        for other in others.into_iter().filter(|t| *t != tid && *t != tgid) {
            self.free(other, 0);
        }
        if tid == tgid {
            return;
        }
        let (Some(mut new), Some(mut old)) = (self.threads.remove(&tid), self.threads.remove(&tgid)) else { return };
        new.record.start_ns = old.record.start_ns;
        std::mem::swap(&mut new.record.tid, &mut old.record.tid);
        new.told = None;
        self.threads.insert(tgid, new);
        self.addresses.push(old.record.task);
        self.freed.push(old);
    }
}

/// A reader of a made-up kernel, and what it knows.
struct Bench {
    world: Shared,
    reader: BpfReader,
    table: TaskTable,
    now: Moment,
    out: Vec<Delta>,
}

impl Bench {
    fn new(counters: bool, begin: impl FnOnce(&mut World)) -> Self {
        let world = Shared::default();
        world.0.lock().unwrap().counters = counters;
        begin(&mut world.0.lock().unwrap());
        let reader = BpfReader::new(Box::new(world.clone()), &HostRoot::new("/nowhere"), counters);
        let (table, now) = (TaskTable::default(), Moment::default());
        let mut bench = Self { world, reader, table, now, out: Vec::new() };
        assert_eq!(bench.sample(), [], "the first sample only takes stock");
        bench
    }

    /// Class, pid and nanoseconds of each task that ran.
    fn sample(&mut self) -> Vec<(TaskClass, u32, u64)> {
        self.now = self.now.plus(Duration::from_secs(1));
        self.out.clear();
        self.world().mono = self.now.mono;
        self.reader.sample(self.now, None, &mut self.table, &mut self.out).unwrap();
        let mut sums = BTreeMap::new();
        for d in &self.out {
            let t = self.table.get(d.task).unwrap();
            let class = t.class;
            *sums.entry((t.pid, class as u8)).or_insert((class, 0)) = (class, {
                let before: u64 = sums.get(&(t.pid, class as u8)).map_or(0, |s: &(TaskClass, u64)| s.1);
                before + d.cpu_ns
            });
        }
        sums.into_iter().map(|((pid, _), (class, ns))| (class, pid, ns)).collect()
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.0.lock().unwrap()
    }
}

#[test]
fn the_last_word_on_a_task_is_charged_to_it() {
    let mut b = Bench::new(false, |w| w.spawn(10, 10, 1, "job"));
    b.world().run(10, 5 * MS);
    assert_eq!(b.sample(), [(TaskClass::Process, 10, 5 * MS)]);
    b.world().free(10, 3 * MS);
    assert_eq!(b.sample(), [(TaskClass::Process, 10, 3 * MS)]);
    assert_eq!(b.table.by_pid(10), None);
    assert_eq!(b.sample(), []);
}

#[test]
fn who_lived_between_two_samples_is_charged_to_the_nearest_ancestor_that_was_seen() {
    let mut b = Bench::new(false, |w| w.spawn(10, 10, 1, "make"));
    let mut w = b.world();
    // make → sh → cc, and cc's child whose record comes first
    w.spawn(11, 11, 10, "sh");
    w.spawn(12, 12, 11, "cc");
    w.spawn(13, 13, 12, "as");
    for (tid, ms) in [(13, 30), (12, 20), (11, 10)] {
        w.free(tid, ms * MS);
    }
    drop(w);
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 10, 60 * MS)]);
    // nobody is left who could be named
    let mut w = b.world();
    w.spawn(21, 21, 99, "lost");
    w.free(21, 7 * MS);
    drop(w);
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 0, 7 * MS)]);
}

#[test]
fn children_in_several_groups_have_a_row_for_each() {
    let mut b = Bench::new(false, |w| w.spawn(10, 10, 1, "shim"));
    let id = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let mut w = b.world();
    w.groups.push((0, 77, format!("/docker/{id}")));
    for (tid, group) in [(11, 77), (12, 1), (13, 77)] {
        w.spawn(tid, tid, 10, "sh");
        let groups = GroupKey { css_set: group, v2: group, v1: 0, hierarchy: 0 };
        w.threads.get_mut(&tid).unwrap().process.groups = groups;
        w.free(tid, MS);
    }
    drop(w);
    b.sample();
    let rows: Vec<_> = b.out.iter().map(|d| (b.table.get(d.task).unwrap(), d.cpu_ns)).collect();
    let told: Vec<_> = rows.iter().map(|(t, ns)| (&*t.cgroup, t.sibling, *ns)).collect();
    let path = format!("/docker/{id}");
    assert_eq!(told, [(path.as_str(), 0, MS), (path.as_str(), 0, MS), ("", 1, MS)], "by CPU, then by row");
}

#[test]
fn an_exec_by_another_thread_is_neither_lost_nor_charged_twice() {
    let mut b = Bench::new(false, |w| {
        w.spawn(10, 10, 1, "go");
        w.spawn(11, 10, 1, "go");
    });
    b.world().run(10, 2 * MS);
    b.world().run(11, 4 * MS);
    assert_eq!(b.sample(), [(TaskClass::Process, 10, 6 * MS)]);
    b.world().run(11, MS);
    b.world().exec(11);
    assert_eq!(b.sample(), [(TaskClass::Process, 10, MS)]);
    assert!(b.table.by_pid(10).is_some(), "the process lives on");
    b.world().run(10, MS);
    assert_eq!(b.sample(), [(TaskClass::Process, 10, MS)]);
}

#[test]
fn what_was_lost_is_counted_and_its_task_ends_all_the_same() {
    let mut b = Bench::new(false, |w| w.spawn(10, 10, 1, "job"));
    let mut w = b.world();
    w.threads.remove(&10);
    w.lost = Lost { tasks: 1, ns: 9 * MS, groups: 0 };
    drop(w);
    for _ in 0..3 {
        assert_eq!(b.sample(), []);
    }
    assert_eq!(b.table.by_pid(10), None);
    let status = b.reader.status();
    assert_eq!((status.lost_exits, status.lost_ns), (1, 9 * MS));
    for _ in 0..70 {
        b.sample();
    }
    assert!(!b.reader.books.misses_someone(), "patience ends");
}

#[test]
fn who_is_never_freed_is_charged_by_its_exit_and_once_if_the_word_comes_late() {
    let mut b = Bench::new(false, |w| {
        w.spawn(10, 10, 1, "make");
        w.spawn(11, 11, 10, "seen");
    });
    b.world().run(11, 5 * MS);
    assert_eq!(b.sample(), [(TaskClass::Process, 11, 5 * MS)]);
    let mut w = b.world();
    w.run(11, 2 * MS);
    w.free_mute(11, MS);
    w.spawn(12, 12, 10, "cc");
    w.run(12, 30 * MS);
    let late = w.free_mute(12, 4 * MS).unwrap();
    drop(w);
    let mut told = Vec::new();
    for _ in 0..40 {
        told.extend(b.sample());
    }
    assert_eq!(told, [(TaskClass::EndedChildren, 10, 30 * MS), (TaskClass::Process, 11, 2 * MS)]);
    assert_eq!(b.table.by_pid(11), None);
    b.world().freed.push(late);
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 10, 4 * MS)], "what the exit didn't know");
}

#[test]
fn counters_cover_the_time_of_the_sample_at_the_rate_they_last_had() {
    let mut b = Bench::new(true, |w| w.spawn(10, 10, 1, "job"));
    let mut run = |ns: u64, counted: Option<(u64, u64)>| {
        let mut w = b.world();
        w.run(10, ns);
        if let Some((cycles, run_ns)) = counted {
            let events = Events { cycles, instructions: cycles / 2, misses: cycles / 100 };
            w.threads.get_mut(&10).unwrap().counted = Counted { events, run_ns };
        }
        drop(w);
        b.sample();
        b.out.first().and_then(|d| d.events).map(|e| (e.cycles, e.instructions, e.misses))
    };
    assert_eq!(run(100, None), None, "it has not left its CPU yet");
    // of 200 ns, 150 are counted, at 3 cycles each
    assert_eq!(run(100, Some((450, 150))), Some((300, 150, 2)));
    assert_eq!(run(10, None), Some((30, 15, 0)));
    // another 100 at 1 each
    assert_eq!(run(40, Some((550, 250))), Some((40, 20, 0)));
}

/// What can happen in the made-up kernel.
#[derive(Clone, Debug)]
enum Act {
    Spawn {
        parent: u8,
        thread: bool,
    },
    Run {
        who: u8,
        ms: u16,
    },
    Free {
        who: u8,
        us: u16,
        word: Word,
    },
    Exec {
        who: u8,
    },
    /// The agent looks.
    Sample,
}

/// What is said when a thread is freed.
#[derive(Clone, Copy, Debug)]
enum Word {
    Said,
    /// There was no room for it.
    Lost,
    Never,
    /// At the very end.
    Late,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => any::<(u8, bool)>().prop_map(|(parent, thread)| Act::Spawn { parent, thread }),
        6 => (any::<u8>(), 0..2000u16).prop_map(|(who, ms)| Act::Run { who, ms }),
        3 => (any::<u8>(), any::<u16>(), word()).prop_map(|(who, us, word)| Act::Free { who, us, word }),
        1 => any::<u8>().prop_map(|who| Act::Exec { who }),
        3 => Just(Act::Sample),
    ]
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![7 => Just(Word::Said), 1 => Just(Word::Lost), 1 => Just(Word::Never), 1 => Just(Word::Late)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// All run time is charged exactly once, whatever happens in whatever order; what isn't was lost and counted.
    #[test]
    fn all_run_time_is_charged_once(acts in prop::collection::vec(act(), 1..120), reuse: bool) {
        let mut b = Bench::new(false, |w| w.spawn(1, 1, 0, "init"));
        let (mut truth, mut told, mut next) = (0u64, 0u64, 2u32);
        let (mut unsaid, mut late) = (0u64, Vec::new());
        let mut execs = std::collections::BTreeSet::new();
        for act in acts {
            let mut w = b.world();
            let pick = |w: &World, who: u8| {
                let n = w.threads.len();
                w.threads.keys().copied().nth(usize::from(who) % n.max(1))
            };
            match act {
                Act::Spawn { parent, thread } => {
                    let Some(of) = pick(&w, parent) else { continue };
                    let of = w.threads[&of].record;
                    // pids are used again when that is asked for
                    let tid = if reuse { (2..).find(|t| !w.threads.contains_key(t)).unwrap() } else { next };
                    next += 1;
                    let tgid = if thread && w.threads.contains_key(&of.tgid) { of.tgid } else { tid };
                    w.spawn(tid, tgid, of.tgid, "x");
                }
                Act::Run { who, ms } => {
                    let Some(tid) = pick(&w, who) else { continue };
                    w.run(tid, u64::from(ms) * MS);
                    truth += u64::from(ms) * MS;
                }
                Act::Free { who, us, word } => {
                    let Some(tid) = pick(&w, who).filter(|t| *t != 1) else { continue };
                    let leads = w.threads[&tid].record.leads();
                    // the first thread is freed when all others are
                    if leads && w.threads.values().any(|t| t.record.tgid == tid && t.record.tid != tid) {
                        continue;
                    }
                    let last = u64::from(us) * 1000;
                    truth += last;
                    match word {
                        Word::Said => w.free(tid, last),
                        Word::Lost => {
                            w.free(tid, last);
                            let t = w.freed.pop().unwrap();
                            w.lost.tasks += 1;
                            w.lost.ns += t.record.run_ns;
                        }
                        Word::Never => {
                            w.free_mute(tid, last);
                            unsaid += last;
                        }
                        Word::Late => late.extend(w.free_mute(tid, last)),
                    }
                }
                Act::Exec { who } => {
                    let Some(tid) = pick(&w, who) else { continue };
                    // twice between two samples, with an address used again in between, is more than can be told
                    if execs.insert(w.threads[&tid].record.tgid) {
                        w.exec(tid);
                    }
                }
                Act::Sample => {
                    drop(w);
                    execs.clear();
                    told += b.sample().iter().map(|r| r.2).sum::<u64>();
                    prop_assert!(told <= truth, "{told} of {truth}");
                }
            }
        }
        // as many as there are between two looks for those that were never freed
        for _ in 0..40 {
            told += b.sample().iter().map(|r| r.2).sum::<u64>();
        }
        b.world().freed.extend(late);
        told += b.sample().iter().map(|r| r.2).sum::<u64>();
        let lost = b.world().lost.ns + unsaid;
        prop_assert!(told <= truth && truth - told <= lost, "{told} of {truth}, {lost} lost");
        // who lives is known, with its own figures
        let leaders: Vec<u32> = b.world().threads.values().filter(|t| t.record.leads()).map(|t| t.record.tid).collect();
        for pid in leaders {
            prop_assert!(b.table.by_pid(pid).is_some(), "{pid}");
        }
    }
}

#[test]
fn kernels_of_32_bits_are_told_apart() {
    for wide in ["x86_64", "aarch64", "aarch64_be", "riscv64", "ppc64le", "loongarch64", "s390x"] {
        assert!(super::is_wide(wide), "{wide}");
    }
    for narrow in ["armv7l", "armv6l", "i686", "riscv32", "ppc", "armv8l"] {
        assert!(!super::is_wide(narrow), "{narrow}");
    }
}
