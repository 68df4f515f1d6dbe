//! Both ways to know who ran, on this machine's own kernel: against each other, and against what the kernel says of
//! a control group.
//!
//! They need rights that a developer's shell may lack. Without them they say so and pass; where
//! `EBBTIDE_REQUIRE_BPF` is set they fail instead.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ebbtide_agent::attribution::IdlePolicy;
use ebbtide_agent::clock;
use ebbtide_agent::config::Processes;
use ebbtide_agent::host::HostRoot;
use ebbtide_agent::sampler::{Options, Sampler};
use ebbtide_agent::usage::bpf::{BpfReader, Event};
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_agent::usage::table::{Delta, Task, TaskClass, TaskTable};
use ebbtide_agent::usage::{Method, Status, UsageReader};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};

const TICK_NS: u64 = 10_000_000;

/// A reader with all that it said.
struct Meter {
    reader: Box<dyn UsageReader>,
    table: TaskTable,
    /// Parent and CPU time by class, pid and start.
    used: BTreeMap<(u8, u32, u64), (u32, u64)>,
    deltas: Vec<Delta>,
}

impl Meter {
    fn new(reader: impl UsageReader + 'static) -> Self {
        let mut meter =
            Self { reader: Box::new(reader), table: TaskTable::default(), used: BTreeMap::new(), deltas: Vec::new() };
        meter.sample();
        meter
    }

    fn sample(&mut self) {
        self.deltas.clear();
        self.reader.sample(clock::now(), None, &mut self.table, &mut self.deltas).unwrap();
        for d in &self.deltas {
            let t = self.table.get(d.task).unwrap();
            let used = self.used.entry((t.class as u8, t.pid, t.start)).or_default();
            *used = (t.ppid, used.1 + d.cpu_ns);
        }
    }

    /// CPU time of a process and of its children, those included that nobody saw alive.
    fn of(&self, pid: u32) -> (u64, u64) {
        let sum = |f: &dyn Fn(u8, u32, u32) -> bool| {
            self.used.iter().filter(|((class, pid, _), (parent, _))| f(*class, *pid, *parent)).map(|(_, u)| u.1).sum()
        };
        let own = |class, p, _| class == TaskClass::Process as u8 && p == pid;
        let children = |class, p, parent| match class {
            c if c == TaskClass::EndedChildren as u8 => p == pid,
            _ => parent == pid,
        };
        (sum(&own), sum(&children))
    }

    fn task(&self, pid: u32) -> Option<&Task> {
        self.table.get(self.table.by_pid(pid)?)
    }
}

/// A reader by BPF, or the reason why this test can't be run here.
fn bpf(events: &[Event]) -> Option<BpfReader> {
    match BpfReader::with_events(&HostRoot::new("/"), events) {
        Ok(reader) => Some(reader),
        Err(why) if std::env::var_os("EBBTIDE_REQUIRE_BPF").is_none() => {
            eprintln!("SKIPPED: {why}");
            None
        }
        Err(why) => panic!("BPF is required here: {why}"),
    }
}

/// A program that ends with the test.
struct Load(Child);

impl Load {
    fn sh(script: &str) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null());
        Self::start(&mut shell)
    }

    /// In a process group of its own, so that its children end with it.
    fn start(command: &mut Command) -> Self {
        Self(command.process_group(0).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // it may be gone already
        if let Some(group) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let killed = kill_process_group(group, Signal::KILL);
            assert!(matches!(killed, Ok(()) | Err(rustix::io::Errno::SRCH)), "{killed:?}");
        }
        self.0.wait().unwrap();
    }
}

/// Holds off the test that floods the kernel's buffers, which are all readers' alike, or all others.
fn turn(how: FlockOperation) -> std::fs::File {
    let file = std::fs::File::create(std::env::temp_dir().join("ebbtide-kernel-buffers")).unwrap();
    flock(&file, how).unwrap();
    file
}

/// A control group of this test's own that counts CPU time.
struct Group(PathBuf);

impl Group {
    /// `None` where none can be made.
    fn new(name: &str) -> Option<Self> {
        let name = format!("ebbtide-test-{name}-{}", std::process::id());
        let tops = ["/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let holds = |top: &&&str| ["cpuacct.usage", "cgroup.procs"].iter().any(|f| Path::new(top).join(f).exists());
        for top in tops.iter().filter(holds) {
            let path = Path::new(top).join(&name);
            if std::fs::create_dir(&path).is_ok() {
                return Some(Self(path));
            }
        }
        if std::env::var_os("EBBTIDE_REQUIRE_BPF").is_some() {
            panic!("no control group can be made");
        }
        eprintln!("SKIPPED: no control group can be made");
        None
    }

    /// CPU time of all that ever ran in it, by the kernel's count, in nanoseconds.
    fn used(&self) -> u64 {
        if let Ok(text) = std::fs::read_to_string(self.0.join("cpuacct.usage")) {
            return text.trim().parse().unwrap();
        }
        let text = std::fs::read_to_string(self.0.join("cpu.stat")).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap();
        line.parse::<u64>().unwrap() * 1000
    }

    /// Text of a shell command that moves the shell into it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // its last task may still be on its way out
        for _ in 0..200 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{} is still in use", self.0.display());
    }
}

const BUSY: &str = "while :; do :; done";

#[test]
fn both_know_the_same_tasks() {
    let _turn = turn(FlockOperation::LockShared);
    let Some(reader) = bpf(&[]) else { return };
    let load = Load::sh("sleep 60 & sleep 60 & wait");
    // what is about to exec has two names
    let asleep = |pid: u32| {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let is_sleep = |pid: &str| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sleep\n");
        children.split_whitespace().filter(|pid| is_sleep(pid)).count()
    };
    while asleep(load.pid()) < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (a, b) = (Meter::new(reader), Meter::new(ProcfsReader::open(&HostRoot::new("/"), false).unwrap()));
    // the machine lives on between the two looks: who begins or ends in between is told differently
    let (mut both, mut only_one) = (0, Vec::new());
    for (_, t) in b.table.iter().filter(|(_, t)| t.ended.is_none()) {
        let Some(k) = a.task(t.pid) else {
            only_one.push((t.pid, t.comm));
            continue;
        };
        if k.start != t.start {
            continue;
        }
        both += 1;
        let what = format!("{} {:?}", t.pid, t.comm);
        assert_eq!(k.class, t.class, "{what}");
        if k.ppid != t.ppid {
            only_one.push((t.pid, t.comm));
            continue;
        }
        // a worker's name goes on in /proc with what it works at
        let name = |t: &Task| t.comm.to_text().chars().take(15).collect::<String>();
        let same = t.class == TaskClass::Kernel && name(t).starts_with(&name(k)) || name(k) == name(t);
        if !same {
            only_one.push((t.pid, t.comm));
        }
        // who is ending says in /proc that it is in no group, and has fewer threads from one look to the next
        if (&k.cgroup, k.threads) != (&t.cgroup, t.threads) {
            only_one.push((t.pid, t.comm));
            continue;
        }
        // who has just begun grows from one look to the next
        if k.rss_pages.abs_diff(t.rss_pages) > 64 + t.rss_pages / 2 {
            only_one.push((t.pid, t.comm));
        }
    }
    assert!(both > 20 && only_one.len() <= 5 + both / 20, "{both} {only_one:?}");
}

#[test]
fn both_charge_the_same_to_within_their_ticks() {
    let _turn = turn(FlockOperation::LockShared);
    let Some(reader) = bpf(&[]) else { return };
    let shell = Load::sh(BUSY);
    let threads = Load::sh(&format!("exec python3 -c '{PYTHON_THREADS}' 2>/dev/null || {BUSY}"));
    // on a busy machine any time may pass between two looks: what one says of its interval must lie between what the
    // other says of the intervals just within and just around it
    let mut around = Meter::new(ProcfsReader::open(&HostRoot::new("/"), false).unwrap());
    let mut a = Meter::new(reader);
    let mut within = Meter::new(ProcfsReader::open(&HostRoot::new("/"), false).unwrap());
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(500));
        within.sample();
        a.sample();
        around.sample();
        for load in [&shell, &threads] {
            let of = |m: &Meter| m.of(load.pid()).0;
            // a running task's time is told up to its last tick, 10 ms at the most; that of threads is summed in ticks
            let slack = 4 * TICK_NS;
            let (least, bpf, most) = (of(&within), of(&a), of(&around));
            assert!(least <= bpf + slack && bpf <= most + slack, "{least} {bpf} {most}");
        }
    }
    for load in [&shell, &threads] {
        assert!(a.of(load.pid()).0 > 100_000_000, "the load didn't run");
    }
}

const PYTHON_THREADS: &str = r#"
import threading
def f():
    while True: pass
[threading.Thread(target=f).start() for _ in range(3)]
"#;

/// Processes so short that hardly a sample sees one: what the kernel says they used is found, under one name.
#[test]
fn a_storm_of_short_processes_is_accounted_for() {
    let _turn = turn(FlockOperation::LockShared);
    let Some(reader) = bpf(&[]) else { return };
    let Some(group) = Group::new("storm") else { return };
    let mut meter = Meter::new(reader);
    let child = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done";
    let storm = format!("{}; read go; n=0; while [ $n -lt 150 ]; do sh -c '{child}'; n=$((n+1)); done", group.enter());
    let mut load = Load::sh(&storm);
    meter.sample();
    drop(load.0.stdin.take());
    for _ in 0..200 {
        // seldom enough that also a slow machine's children are gone by then
        std::thread::sleep(Duration::from_millis(400));
        meter.sample();
        if load.0.try_wait().unwrap().is_some() {
            break;
        }
    }
    // before they are forgotten
    let row = meter.table.iter().find(|(_, t)| t.class == TaskClass::EndedChildren && t.pid == load.pid());
    assert_eq!(row.map(|(_, t)| t.comm.to_text()), Some("sh".into()));
    // the kernel frees the last ones after they end: a little later, or seconds where it is busy; those of whom it
    // says nothing are found a second later
    let truth = group.used();
    let (mut own, mut children) = meter.of(load.pid());
    for _ in 0..200 {
        if own + children >= truth {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        meter.sample();
        (own, children) = meter.of(load.pid());
    }
    assert_eq!(meter.reader.status().lost_exits, 0);
    let found = (own + children) as f64 / truth as f64;
    assert!(truth > 200_000_000 && children > own, "{truth} {own} {children}");
    assert!((0.995..1.005).contains(&found), "{found} of {truth} ns");
}

/// Threads that come and go within a process: their last part isn't in the kernel's own sum of dead threads.
#[test]
fn a_storm_of_short_threads_is_accounted_for() {
    let _turn = turn(FlockOperation::LockShared);
    let Some(reader) = bpf(&[]) else { return };
    let Some(group) = Group::new("threads") else { return };
    let mut meter = Meter::new(reader);
    let before = group.used();
    let script = r#"
import sys, threading
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
sys.stdin.read()
def f():
    for i in range(20000): pass
for n in range(400):
    t = [threading.Thread(target=f) for _ in range(2)]
    [x.start() for x in t]
    [x.join() for x in t]
"#;
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(&group.0).stdin(Stdio::piped());
    let mut load = Load::start(&mut python);
    // it waits until it is told to go; what it used before it joined the group is not the group's
    while !std::fs::read_to_string(group.0.join("cgroup.procs")).unwrap().contains(&load.pid().to_string()) {
        std::thread::sleep(Duration::from_millis(10));
    }
    meter.sample();
    let (own_before, truth_before) = (meter.of(load.pid()).0, group.used() - before);
    drop(load.0.stdin.take());
    while load.0.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(100));
        meter.sample();
    }
    let truth = group.used() - before - truth_before;
    let mut own = meter.of(load.pid()).0 - own_before;
    // as with processes, the last ends come late, and some only when they are overdue
    for _ in 0..200 {
        if own >= truth {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
        meter.sample();
        own = meter.of(load.pid()).0 - own_before;
    }
    let found = own as f64 / truth as f64;
    assert!(truth > 100_000_000, "{truth}");
    assert!((0.99..1.01).contains(&found), "{found} of {truth} ns");
}

/// Where the processor has no counters, the kernel's own clocks stand in for them: everything but the counter itself
/// is the same.
#[test]
fn events_are_counted_per_task() {
    let _turn = turn(FlockOperation::LockShared);
    const SOFTWARE: u32 = 1;
    let clock = |map| Event { map, kind: SOFTWARE, config: 0 };
    let Some(reader) = bpf(&[clock("cycles"), clock("instructions"), clock("misses")]) else { return };
    // two that share a CPU and so are switched
    let pin = "taskset -p -c 0 $$ >/dev/null;";
    let loads = [Load::sh(&format!("{pin} {BUSY}")), Load::sh(&format!("{pin} {BUSY}"))];
    let mut meter = Meter::new(reader);
    assert_eq!(meter.reader.status().method, Method::Bpf);
    assert!(meter.reader.status().counters);
    let mut sums: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(200));
        meter.sample();
        for d in &meter.deltas {
            let pid = meter.table.get(d.task).unwrap().pid;
            if let Some(e) = d.events {
                let sum = sums.entry(pid).or_default();
                (sum.0, sum.1) = (sum.0 + d.cpu_ns, sum.1 + e.cycles);
                assert_eq!((e.cycles > 0, e.instructions > 0), (true, true));
            }
        }
    }
    for load in &loads {
        let (time, counted) = sums[&load.pid()];
        let ratio = counted as f64 / time as f64;
        assert!(time > 200_000_000, "{time}");
        // the clock counts what the CPU is held for, interrupts and switching included
        assert!((0.9..1.3).contains(&ratio), "{ratio}");
    }
}

#[test]
fn what_can_not_be_counted_is_said_and_left_out() {
    let host = HostRoot::new("/");
    if bpf(&[]).is_none() {
        return;
    }
    let none = Event { map: "cycles", kind: 0xffff, config: 0 };
    let why = BpfReader::with_events(&host, &[none]).err().unwrap().to_string();
    assert!(why.starts_with("the processor doesn't count cycles here"), "{why}");
    let why = BpfReader::with_events(&HostRoot::new("/nowhere"), &[]).err().unwrap().to_string();
    assert_eq!(why, "the measured root has no /proc of this machine");
}

/// More threads end between two samples than the buffer holds: what is lost is counted, and the next sample is whole.
#[test]
fn what_does_not_fit_is_counted() {
    let _turn = turn(FlockOperation::LockExclusive);
    let Some(reader) = bpf(&[]) else { return };
    let mut meter = Meter::new(reader);
    for _ in 0..30_000 {
        std::thread::spawn(|| {}).join().unwrap();
    }
    // the kernel frees them later, in batches: nothing may be on its way any more when others are let in
    let mut status = meter.reader.status();
    let mut quiet = 0;
    for _ in 0..500 {
        std::thread::sleep(Duration::from_millis(20));
        meter.sample();
        quiet = if meter.reader.status().lost_exits == status.lost_exits { quiet + 1 } else { 0 };
        status = meter.reader.status();
        if status.lost_exits > 0 && quiet >= 25 {
            break;
        }
    }
    assert!(quiet >= 25, "threads still end: {status:?}");
    assert!(status.lost_exits > 1000, "{status:?}");
    assert!(status.lost_ns > status.lost_exits * 1000, "{status:?}");
    let own = std::process::id();
    assert!(meter.task(own).is_some());
    let load = Load::sh("sleep 60");
    meter.sample();
    assert!(meter.task(load.pid()).is_some(), "it goes on");
    assert_eq!(meter.reader.status().lost_exits, status.lost_exits, "nothing more is lost");
}

/// A reader that loses something now and then.
struct Losing {
    reader: ProcfsReader,
    samples: u64,
}

impl UsageReader for Losing {
    fn sample(
        &mut self,
        now: clock::Moment,
        forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> std::io::Result<()> {
        self.samples += 1;
        self.reader.sample(now, forks, table, out)
    }

    fn status(&self) -> Status {
        // in the third sample
        let lost = if self.samples >= 3 { 7 } else { 0 };
        Status { lost_exits: lost, lost_ns: lost * 1000, ..self.reader.status() }
    }
}

#[test]
fn a_loss_lowers_the_quality_of_the_sample_it_was_in() {
    let host = HostRoot::new("/");
    let options = Options {
        node: ebbtide_proto::NodeId::new("losing").unwrap(),
        idle_policy: IdlePolicy::Unallocated,
        idle_floor: BTreeMap::new(),
        processes: Processes::All,
        retention: Duration::from_secs(60),
        stale_after: Duration::from_secs(10),
        full_names: false,
        idle_share: 0.3,
        state: None,
        learned: None,
    };
    let reader = Losing { reader: ProcfsReader::open(&host, false).unwrap(), samples: 0 };
    let mut sampler = Sampler::new(host, Box::new(reader), Vec::new(), options).unwrap();
    let mut quality = || {
        let usage = sampler.step(clock::now()).unwrap().usage;
        (usage.quality().as_str(), usage.status.lost_exits)
    };
    let told: Vec<_> = (0..4).map(|_| quality()).collect();
    assert_eq!(told, [("measured", 0), ("measured", 0), ("scaled", 7), ("measured", 7)]);
}
