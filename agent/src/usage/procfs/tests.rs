use super::*;
use crate::clock;
use crate::twin::fakeroot::{FakeProcess, FakeRoot};
use std::time::Duration;

const S: u64 = 1_000_000_000;

/// A fake machine, its reader, and what the reader knows.
struct Bench {
    _dir: tempfile::TempDir,
    root: FakeRoot,
    reader: ProcfsReader,
    table: TaskTable,
    now: Moment,
}

impl Bench {
    fn new(processes: &[FakeProcess]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut root = FakeRoot::new(dir.path());
        for p in processes {
            root.process(p).unwrap();
        }
        let reader = ProcfsReader::open(&root.host(), false).unwrap();
        let mut bench = Self { _dir: dir, root, reader, table: TaskTable::default(), now: Moment::default() };
        assert_eq!(bench.sample(), [], "the first sample only takes stock");
        bench
    }

    /// Class, pid, name and nanoseconds of each delta of the next sample.
    fn sample(&mut self) -> Vec<(TaskClass, u32, String, u64)> {
        self.now = self.now.plus(Duration::from_secs(1));
        let mut out = Vec::new();
        self.reader.sample(self.now, None, &mut self.table, &mut out).unwrap();
        let mut rows: Vec<_> = out
            .into_iter()
            .map(|d| {
                let t = self.table.get(d.task).unwrap();
                (t.class, t.pid, t.comm.to_text(), d.cpu_ns)
            })
            .collect();
        rows.sort_by(|a, b| (a.1, &a.2, a.3).cmp(&(b.1, &b.2, b.3)));
        rows
    }
}

fn process(pid: u32, ppid: u32, comm: &str, ticks: u64, child_ticks: u64) -> FakeProcess {
    let mut p = FakeProcess::new(pid, comm);
    (p.ppid, p.utime, p.cutime, p.start_ticks) = (ppid, ticks, child_ticks, u64::from(pid));
    p
}

#[test]
fn a_child_that_was_seen_is_not_charged_again_when_it_is_reaped() {
    let mut b = Bench::new(&[process(10, 1, "make", 5, 0), process(11, 10, "cc", 0, 0)]);
    b.root.process_times(&process(11, 10, "cc", 400, 0)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::Process, 11, "cc".into(), 4 * S)]);
    b.root.end(11).unwrap();
    b.root.process_times(&process(10, 1, "make", 5, 400)).unwrap();
    assert_eq!(b.sample(), [], "all of its four seconds were charged while it lived");
    // it ran half a second more before it ended, and a sibling that nobody saw a whole one
    b.root.process(&process(12, 10, "cc", 100, 0)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::Process, 12, "cc".into(), S)]);
    b.root.end(12).unwrap();
    b.root.process_times(&process(10, 1, "make", 5, 400 + 100 + 50 + 100)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 10, "cc".into(), 3 * S / 2)]);
}

#[test]
fn reaping_may_show_a_sample_later_than_the_end() {
    let mut b = Bench::new(&[process(10, 1, "sh", 0, 0), process(11, 10, "ls", 0, 0)]);
    b.root.process_times(&process(11, 10, "ls", 100, 0)).unwrap();
    b.sample();
    b.root.end(11).unwrap();
    assert_eq!(b.sample(), []);
    b.root.process_times(&process(10, 1, "sh", 0, 100)).unwrap();
    assert_eq!(b.sample(), []);
}

#[test]
fn a_child_that_is_never_waited_for_does_not_hide_later_ones() {
    let mut b = Bench::new(&[process(10, 1, "srv", 0, 0), process(11, 10, "job", 0, 0)]);
    b.root.process_times(&process(11, 10, "job", 100, 0)).unwrap();
    b.sample();
    b.root.end(11).unwrap();
    for _ in 0..PATIENCE + 2 {
        assert_eq!(b.sample(), []);
    }
    b.root.process_times(&process(10, 1, "srv", 0, 70)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 10, "job".into(), 7 * S / 10)]);
}

#[test]
fn a_grandchild_goes_up_the_chain() {
    let mut b = Bench::new(&[process(10, 1, "a", 0, 0), process(11, 10, "b", 0, 0)]);
    // 11 reaped a child of 2 s and ended itself after 1 s, all between two samples
    b.root.end(11).unwrap();
    b.root.process_times(&process(10, 1, "a", 0, 300)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::EndedChildren, 10, "b".into(), 3 * S)]);
}

#[test]
fn a_reused_pid_is_charged_its_own_time_only() {
    let mut b = Bench::new(&[process(11, 1, "old", 500, 0)]);
    let mut young = process(11, 1, "new", 100, 0);
    young.start_ticks = 9_999;
    b.root.process(&young).unwrap();
    assert_eq!(b.sample(), [(TaskClass::Process, 11, "new".into(), S)]);
}

#[test]
fn vanishing_and_damaged_files_are_survived() {
    let mut b = Bench::new(&[process(10, 1, "a", 1, 0), process(11, 1, "b", 1, 0)]);
    b.root.put("proc/10/stat", "10 (a").unwrap();
    b.root.put("proc/11/schedstat", "nonsense").unwrap();
    b.root.put("proc/99999999999/stat", "").unwrap();
    b.root.put("proc/12/stat", [0xff, 0xfe]).unwrap();
    assert_eq!(b.sample(), []);
    b.root.process_times(&process(11, 1, "b", 101, 0)).unwrap();
    assert_eq!(b.sample(), [(TaskClass::Process, 11, "b".into(), S)]);
}

/// On the machine itself: whoever lives through a sample is known after it, however new pids are looked for.
#[test]
fn new_processes_are_found_on_the_machine_itself() {
    let host = HostRoot::new("/");
    let mut reader = ProcfsReader::open(&host, false).unwrap();
    let (mut table, mut out) = (TaskTable::default(), Vec::new());
    let forks = || {
        let mut m = stat::MachineStat::default();
        stat::parse_machine(&std::fs::read("/proc/stat").unwrap(), &mut m);
        m.forks
    };
    for _ in 0..5 {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        // a thread, whose id is given out in turn, too, but which is no process
        std::thread::spawn(|| {}).join().unwrap();
        reader.sample(clock::now(), forks(), &mut table, &mut out).unwrap();
        let known = table.by_pid(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(known.is_some());
        reader.sample(clock::now(), forks(), &mut table, &mut out).unwrap();
        assert_eq!(table.by_pid(child.id()), None);
    }
    for (_, t) in table.iter().filter(|(_, t)| t.ended.is_none()) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", t.pid)).unwrap_or_default();
        let leader = status.lines().find_map(|l| l.strip_prefix("Tgid:")).map(str::trim);
        assert!(leader.is_none_or(|l| l == t.pid.to_string()), "{} is a thread of {leader:?}", t.pid);
    }
}
