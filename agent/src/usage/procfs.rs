//! Tasks from `/proc`, read by hand: about a microsecond for a task that slept, about ten for one that ran.
//!
//! How it is kept cheap:
//! - paths are opened relative to one descriptor of `/proc`, texts go through one reused buffer;
//! - `schedstat` of each single-threaded task stays open and tells its run time in nanoseconds with one read. If
//!   that stood still, nothing else can have changed: only a running task can clone, exec or reap. `stat` is read
//!   only when it moved;
//! - a task with threads is told by its `stat`, which is kept open instead (its `schedstat` is that of one thread);
//!   if threads are to be told apart, by the `schedstat` of each;
//! - the folder is listed only if the kernel counted forks since the last sample, and not even then if there were
//!   few: pids are given out in turn, so new ones lie between the last pid of then and of now, and are asked for;
//! - name, user and cgroup are read when the task is new, changed its name (exec) or is still young, since
//!   runtimes move a task to its cgroup right after the fork.
//!
//! A kept descriptor belongs to one life of a task: after that it answers `ESRCH`, also if the pid is reused.
//! Descriptors are kept up to the process's limit, less a reserve; beyond it, and below a root that isn't procfs
//! (twin, fixtures), files are opened at each sample.
//!
//! Children that nobody saw alive are found in their parent: `cutime + cstime` grows by a child's whole run time
//! when it is waited for. What was already charged to children that were seen is taken off, and the rest is
//! charged to the parent's [`TaskClass::EndedChildren`].

mod path;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, openat, readlinkat, statat};
use rustix::io::{Errno, pread};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::path::{TaskPath, parse_pid, raise_fd_limit};
use super::stat::{self, TaskStat};
use super::table::{Delta, LastChild, Task, TaskClass, TaskIx, TaskTable};
use super::{Method, Status, UsageReader};
use crate::clock::Moment;
use crate::host::HostRoot;
use crate::workload::cgroup;

/// Descriptors left to the rest of the agent.
pub(crate) const RESERVED_FDS: u64 = 256;
/// Samples in which a new task's cgroup is read again.
const YOUNG: u8 = 3;
/// Every so many samples a running task's cgroup is read again whatever happened.
const CGROUP_REFRESH: u32 = 30;
/// Every so many samples the folder is listed whatever the kernel counted: pids can be chosen (checkpoint/restore).
const LIST_EVERY: u32 = 30;
/// Samples after which a child that was never waited for is forgotten.
const PATIENCE: u8 = 3;

const PROC_SUPER_MAGIC: u64 = 0x9fa0;

/// Reads `/proc`.
pub struct ProcfsReader {
    proc: OwnedFd,
    tick_ns: u64,
    keep: u64,
    kept: u64,
    states: Vec<State>,
    buf: Vec<u8>,
    dir_buf: Vec<u8>,
    forks: Option<u64>,
    first: bool,
    sample: u32,
    /// Slots by rising pid of first sight, so that parents are read before their children.
    order: Vec<TaskIx>,
    gone: Vec<TaskIx>,
    found: Vec<u32>,
    /// Parents whose children's balance isn't even; settled at the end of a sample, when it is known who has gone.
    unsettled: Vec<TaskIx>,
    /// The last pid given out at the last sample, if pids here mean the same as in `/proc`.
    last_pid: Option<u32>,
    /// Pids that were given out but led to nobody: a task on its way to life, or one that is gone.
    nobody: Vec<u32>,
    /// Whether threads are told apart.
    threads: bool,
}

/// What is remembered of a task between samples, by slot.
#[derive(Default)]
struct State {
    /// `schedstat` if it has one thread, else `stat`.
    fd: Option<OwnedFd>,
    /// Run time of each thread, if threads are told apart.
    threads: HashMap<u32, u64>,
    /// Run time over its whole life, in nanoseconds.
    run_ns: u64,
    /// Run time of children that were waited for, over its whole life.
    child_ns: u64,
    /// Children's time that came in (+) against what was charged to children that went (−).
    balance: i128,
    /// Samples for which `balance` was below zero.
    overdrawn: u8,
    /// Whether `schedstat` can be trusted for it: it has one thread.
    single: bool,
    /// Samples since it was found, up to [`YOUNG`].
    age: u8,
    alive: bool,
    must_read_stat: bool,
    ended_children: Option<TaskIx>,
}

impl ProcfsReader {
    /// Opens `/proc` below `host`. With `threads` the threads of a process are told apart, so that its time is
    /// charged to each CPU that it ran on; that costs a file per thread of each process that ran.
    pub fn open(host: &HostRoot, threads: bool) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = rustix::fs::open(host.proc(""), flags, Mode::empty())?;
        let real = rustix::fs::fstatfs(&proc).is_ok_and(|fs| is_procfs(&fs));
        let keep = if real { raise_fd_limit().saturating_sub(RESERVED_FDS) } else { 0 };
        Ok(Self {
            proc,
            tick_ns: 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1),
            keep,
            kept: 0,
            states: Vec::new(),
            buf: vec![0; 4096],
            dir_buf: Vec::with_capacity(32 * 1024),
            forks: None,
            first: true,
            sample: 0,
            order: Vec::new(),
            gone: Vec::new(),
            found: Vec::new(),
            unsettled: Vec::new(),
            last_pid: None,
            nobody: Vec::new(),
            threads,
        })
    }

    fn state(&mut self, ix: TaskIx) -> &mut State {
        if self.states.len() <= ix.index() {
            self.states.resize_with(ix.index() + 1, State::default);
        }
        &mut self.states[ix.index()]
    }

    /// Lists the pids in `/proc` into `self.found`.
    fn list(&mut self) -> io::Result<()> {
        self.found.clear();
        // a fresh description, so that reading starts at the beginning
        let dir = openat(&self.proc, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut entries = RawDir::new(&dir, self.dir_buf.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            if let Some(pid) = parse_pid(entry?.file_name().to_bytes()) {
                self.found.push(pid);
            }
        }
        Ok(())
    }

    /// Finds pids that came since the last sample into `self.found`: by asking for each, or by listing all.
    fn look_for_new(&mut self, living: usize) -> io::Result<()> {
        let before = self.last_pid;
        self.last_pid = self.read_last_pid();
        let range = match (before, self.last_pid) {
            (Some(a), Some(b)) if b >= a => a + 1..b + 1,
            _ => return self.list(),
        };
        // asking for a pid costs about what listing one does
        if self.sample.is_multiple_of(LIST_EVERY) || range.len() + self.nobody.len() > living / 2 {
            return self.list();
        }
        self.found.clear();
        for (again, pid) in self.nobody.split_off(0).into_iter().map(|p| (true, p)).chain(range.map(|p| (false, p))) {
            match i32::try_from(pid).ok().and_then(Pid::from_raw).map(|p| pidfd_open(p, PidfdFlags::empty())) {
                Some(Ok(_)) => self.found.push(pid),
                // gone, or not quite there yet: asked for once more
                Some(Err(Errno::SRCH)) if !again => self.nobody.push(pid),
                // a thread, which is no process of its own
                Some(Err(Errno::SRCH | Errno::INVAL | Errno::NOENT)) => {}
                // not allowed, or an old kernel
                _ => return self.list(),
            }
        }
        Ok(())
    }

    /// The last pid that was given out, from the end of `/proc/loadavg`. It is that of the reader's own namespace,
    /// which must be the one that `/proc` shows.
    fn read_last_pid(&mut self) -> Option<u32> {
        let own = readlinkat(&self.proc, c"self", Vec::new()).ok()?;
        if self.keep == 0 || parse_pid(own.to_bytes())? != std::process::id() {
            return None;
        }
        let fd = openat(&self.proc, c"loadavg", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let n = rustix::io::read(&fd, self.buf.as_mut_slice()).ok()?;
        let text = self.buf.get(..n)?.trim_ascii_end();
        parse_pid(text.rsplit(|b| *b == b' ').next()?)
    }

    /// Takes a task that was not known into the table.
    fn discover(&mut self, pid: u32, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let path = TaskPath::new(pid);
        let Some(stat) = self.read_stat(&path) else { return };
        let class = if stat.kernel_thread { TaskClass::Kernel } else { TaskClass::Process };
        let mut task = Task::new(pid, stat.start, class);
        task.uid = statat(&self.proc, path.folder(), AtFlags::empty()).map_or(0, |s| s.st_uid);
        task.cgroup = self.read_cgroup(&path, class, table);
        apply(&mut task, &stat);
        let single = stat.threads <= 1;
        let fd = self.keep_open(&path, single);
        let ticks_ns = stat.ticks * self.tick_ns;
        let run_ns = match (&fd, single) {
            (Some(fd), true) => read_schedstat(fd.as_fd(), &mut self.buf).unwrap_or(ticks_ns),
            (None, true) => self.read_schedstat_at(&path).unwrap_or(ticks_ns),
            (_, false) => ticks_ns,
        };
        let child_ns = stat.child_ticks * self.tick_ns;
        // what ran before the agent looked for the first time is nobody's
        let mine = if self.first { 0 } else { run_ns };
        task.cpu_ns = mine;
        remember_child(table, &task);
        let ix = table.insert(task);
        let first = self.first;
        let state = self.state(ix);
        *state = State { fd, run_ns, child_ns, single, alive: true, ..State::default() };
        self.order.push(ix);
        if mine > 0 {
            out.push(Delta::time(ix, mine, single.then_some(stat.cpu)));
        }
        if self.threads && !single {
            self.read_threads(ix, &path);
        }
        if !first && child_ns > 0 {
            self.state(ix).balance = i128::from(child_ns);
            self.unsettled.push(ix);
        }
    }

    /// Reads one known task; `false` if it is gone.
    fn visit(&mut self, ix: TaskIx, table: &mut TaskTable, out: &mut Vec<Delta>) -> bool {
        let Some(task) = table.get(ix) else { return false };
        let (pid, start) = (task.pid, task.start);
        let path = TaskPath::new(pid);
        let state = &self.states[ix.index()];
        let (single, must, before) = (state.single, state.must_read_stat, state.run_ns);
        let mut run_ns = before;
        if single {
            let read = match &state.fd {
                Some(fd) => read_schedstat(fd.as_fd(), &mut self.buf),
                None => self.read_schedstat_at(&path),
            };
            match read {
                // a reused pid can only be told by its start where no descriptor is kept
                Some(ns) if ns == before && !must && self.keep > 0 => {
                    if self.states[ix.index()].balance != 0 {
                        self.unsettled.push(ix);
                    }
                    return true;
                }
                Some(ns) => run_ns = ns,
                None if self.states[ix.index()].fd.is_some() => return false,
                None => {}
            }
        }
        let stat = match (&self.states[ix.index()].fd, single) {
            (Some(fd), false) => {
                let Some(n) = read_kept(fd.as_fd(), &mut self.buf) else { return false };
                self.buf.get(..n).and_then(stat::parse_task)
            }
            _ => self.read_stat(&path),
        };
        let Some(stat) = stat else { return false };
        if stat.start != start {
            return false;
        }
        let now_single = stat.threads <= 1;
        if !single || !now_single {
            // ticks may lag behind nanoseconds that were already told
            run_ns = run_ns.max(stat.ticks * self.tick_ns);
        }
        let child_ns = stat.child_ticks * self.tick_ns;
        let state = &mut self.states[ix.index()];
        let ran = run_ns.saturating_sub(state.run_ns);
        state.run_ns = state.run_ns.max(run_ns);
        state.must_read_stat = false;
        state.balance += i128::from(child_ns.saturating_sub(state.child_ns));
        state.child_ns = state.child_ns.max(child_ns);
        state.age = state.age.saturating_add(1).min(YOUNG + 1);
        let young = state.age <= YOUNG;
        if state.single != now_single {
            state.single = now_single;
            if state.fd.take().is_some() {
                self.kept = self.kept.saturating_sub(1);
            }
            self.states[ix.index()].fd = self.keep_open(&path, now_single);
        }
        self.refresh(ix, &path, &stat, young, table);
        if ran > 0 {
            if let Some(task) = table.get_mut(ix) {
                task.cpu_ns += ran;
            }
            if self.threads && !now_single {
                self.push_threads(ix, &path, ran, out);
            } else {
                out.push(Delta::time(ix, ran, now_single.then_some(stat.cpu)));
            }
        }
        if self.states[ix.index()].balance != 0 {
            self.unsettled.push(ix);
        }
        true
    }

    /// Brings name, user and cgroup up to date.
    fn refresh(&mut self, ix: TaskIx, path: &TaskPath, stat: &TaskStat, young: bool, table: &mut TaskTable) {
        let Some(task) = table.get(ix) else { return };
        let renamed = task.comm != stat.comm;
        let (class, uid) = (task.class, task.uid);
        let turn = (self.sample.wrapping_add(task.pid)).is_multiple_of(CGROUP_REFRESH);
        let mut identity = None;
        if renamed || young || turn {
            let uid = statat(&self.proc, path.folder(), AtFlags::empty()).map_or(uid, |s| s.st_uid);
            identity = Some((uid, self.read_cgroup(path, class, table)));
        }
        let Some(task) = table.get_mut(ix) else { return };
        if let Some((uid, cgroup)) = identity {
            // a task that is exiting says "/": it stays where it was
            let moved = task.cgroup != cgroup && (stat.state != b'Z' || task.cgroup.is_empty());
            if moved || uid != task.uid || renamed {
                task.uid = uid;
                if moved {
                    task.cgroup = cgroup;
                }
                task.version = task.version.wrapping_add(1);
            }
        }
        apply(task, stat);
        if renamed {
            let copy = task.clone();
            remember_child(table, &copy);
        }
    }

    /// Charges children that were never seen, once what was seen of others is taken off.
    fn settle(&mut self, parent: TaskIx, table: &mut TaskTable, out: &mut Vec<Delta>) {
        let slack = i128::from(2 * self.tick_ns);
        let Some(state) = self.states.get_mut(parent.index()).filter(|s| s.alive) else { return };
        if state.balance < 0 {
            state.overdrawn += 1;
            if state.overdrawn > PATIENCE {
                // it was never waited for: the parent ignores its children's end
                state.balance = 0;
                state.overdrawn = 0;
            }
            return;
        }
        state.overdrawn = 0;
        if state.balance < slack {
            return; // the rounding of ticks; it stays in the balance
        }
        let ns = u64::try_from(state.balance).unwrap_or(u64::MAX);
        state.balance = 0;
        let known = state.ended_children;
        let Some(p) = table.get(parent) else { return };
        let name = p.child.clone().unwrap_or(LastChild { comm: p.comm, cgroup: p.cgroup.clone(), uid: p.uid });
        let (pid, start, cpu, ppid) = (p.pid, p.start, p.cpu, p.pid);
        let ix = match known
            .filter(|&ix| table.get(ix).is_some_and(|t| t.class == TaskClass::EndedChildren && t.pid == pid))
        {
            Some(ix) => ix,
            None => {
                let ix = table.insert(Task::new(pid, start, TaskClass::EndedChildren));
                self.state(ix).alive = false;
                self.states[parent.index()].ended_children = Some(ix);
                ix
            }
        };
        if let Some(t) = table.get_mut(ix) {
            if t.comm != name.comm || t.cgroup != name.cgroup || t.uid != name.uid {
                t.comm = name.comm;
                t.cgroup = name.cgroup;
                t.uid = name.uid;
                t.version = t.version.wrapping_add(1);
            }
            t.cpu = cpu;
            t.ppid = ppid;
            t.cpu_ns += ns;
        }
        out.push(Delta::time(ix, ns, None));
    }

    /// Takes leave of a task that is gone.
    fn bury(&mut self, ix: TaskIx, now: Moment, table: &mut TaskTable) {
        let Some(task) = table.get(ix) else { return };
        let (ppid, copy) = (task.ppid, task.clone());
        let state = std::mem::take(&mut self.states[ix.index()]);
        self.kept = self.kept.saturating_sub(u64::from(state.fd.is_some()));
        if let Some(parent) = table.by_pid(ppid) {
            remember_child(table, &copy);
            // its parent will be told all of it once it has waited for it
            let p = self.state(parent);
            p.balance -= i128::from(state.run_ns) + i128::from(state.child_ns);
            p.must_read_stat = true;
        }
        table.end(ix, now);
        if let Some(children) = state.ended_children {
            table.end(children, now);
        }
    }

    /// Opens the file that tells a task's run time for good, if the limit allows.
    fn keep_open(&mut self, path: &TaskPath, single: bool) -> Option<OwnedFd> {
        if self.kept >= self.keep {
            return None;
        }
        let file = path.file(if single { "schedstat" } else { "stat" });
        let fd = openat(&self.proc, &file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        self.kept += 1;
        Some(fd)
    }

    /// Run time of each thread: thread id, nanoseconds, the CPU it last ran on.
    fn list_threads(&mut self, path: &TaskPath) -> Vec<(u32, u64, u32)> {
        let mut out = Vec::new();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(dir) = openat(&self.proc, path.file("task"), flags, Mode::empty()) else { return out };
        let mut tids = Vec::new();
        let mut entries = RawDir::new(&dir, self.dir_buf.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            tids.extend(parse_pid(entry.file_name().to_bytes()));
        }
        for tid in tids {
            let thread = TaskPath { pid: path.pid, tid: Some(tid) };
            let Some(ns) = self.read_schedstat_at(&thread) else { continue };
            let Some(stat) = self.read_stat(&thread) else { continue };
            out.push((tid, ns, stat.cpu));
        }
        out
    }

    fn read_threads(&mut self, ix: TaskIx, path: &TaskPath) {
        let threads = self.list_threads(path);
        self.states[ix.index()].threads = threads.into_iter().map(|(tid, ns, _)| (tid, ns)).collect();
    }

    /// Tells `ran` by the CPUs that the threads ran on; what no living thread accounts for ran anywhere.
    fn push_threads(&mut self, ix: TaskIx, path: &TaskPath, ran: u64, out: &mut Vec<Delta>) {
        let threads = self.list_threads(path);
        let before = std::mem::take(&mut self.states[ix.index()].threads);
        let mut left = ran;
        for &(tid, ns, cpu) in &threads {
            let part = ns.saturating_sub(before.get(&tid).copied().unwrap_or(0)).min(left);
            if part > 0 {
                left -= part;
                out.push(Delta::time(ix, part, Some(cpu)));
            }
        }
        if left > 0 {
            out.push(Delta::time(ix, left, None));
        }
        self.states[ix.index()].threads = threads.into_iter().map(|(tid, ns, _)| (tid, ns)).collect();
    }

    fn read_stat(&mut self, path: &TaskPath) -> Option<TaskStat> {
        let n = self.read_file(path, "stat")?;
        stat::parse_task(self.buf.get(..n)?)
    }

    fn read_schedstat_at(&mut self, path: &TaskPath) -> Option<u64> {
        let n = self.read_file(path, "schedstat")?;
        stat::parse_schedstat(self.buf.get(..n)?)
    }

    fn read_cgroup(&mut self, path: &TaskPath, class: TaskClass, table: &mut TaskTable) -> std::sync::Arc<str> {
        let text = match class {
            TaskClass::Process => self.read_file(path, "cgroup").and_then(|n| cgroup::unified_path(self.buf.get(..n)?)),
            _ => None,
        };
        table.intern(text.as_deref().unwrap_or(""))
    }

    /// Reads a file of a task into the buffer; its length, or `None` if that can't be done.
    fn read_file(&mut self, path: &TaskPath, name: &str) -> Option<usize> {
        let fd = openat(&self.proc, path.file(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut len = 0;
        loop {
            let n = rustix::io::read(&fd, self.buf.get_mut(len..)?).ok()?;
            len += n;
            if n == 0 || len == self.buf.len() {
                return Some(len);
            }
            // procfs hands out a short file in one piece
            if self.keep > 0 && len < self.buf.len() / 2 {
                return Some(len);
            }
        }
    }
}

impl UsageReader for ProcfsReader {
    fn sample(
        &mut self,
        now: Moment,
        forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> io::Result<()> {
        self.sample = self.sample.wrapping_add(1);
        let mut order = std::mem::take(&mut self.order);
        let mut gone = std::mem::take(&mut self.gone);
        order.retain(|&ix| {
            let alive = self.visit(ix, table, out);
            if !alive {
                gone.push(ix);
            }
            alive
        });
        // children of those that went have a new parent; they may sleep on and must be asked for it
        if !gone.is_empty() {
            let mut pids: Vec<u32> = gone.iter().filter_map(|&g| Some(table.get(g)?.pid)).collect();
            pids.sort_unstable();
            for &ix in &order {
                if table.get(ix).is_some_and(|t| pids.binary_search(&t.ppid).is_ok()) {
                    self.state(ix).must_read_stat = true;
                }
            }
        }
        for ix in gone.drain(..) {
            self.bury(ix, now, table);
        }
        self.order = order;
        self.gone = gone;
        if self.first || forks.is_none() || forks != self.forks || !self.nobody.is_empty() {
            self.look_for_new(table.living())?;
            let found = std::mem::take(&mut self.found);
            for &pid in &found {
                if table.by_pid(pid).is_none() {
                    self.discover(pid, table, out);
                }
            }
            self.found = found;
        }
        let mut unsettled = std::mem::take(&mut self.unsettled);
        for ix in unsettled.drain(..) {
            self.settle(ix, table, out);
        }
        self.unsettled = unsettled;
        self.forks = forks;
        self.first = false;
        if self.sample.is_multiple_of(64) {
            table.forget_unused_paths();
        }
        Ok(())
    }

    fn status(&self) -> Status {
        Status { method: Method::Procfs, ..Status::default() }
    }
}

/// Whether a file system is a procfs, and not a folder that was made to look like one.
pub(super) fn is_procfs(fs: &rustix::fs::StatFs) -> bool {
    u64::try_from(fs.f_type) == Ok(PROC_SUPER_MAGIC)
}

/// Takes over what `stat` says and what changes all the time.
fn apply(task: &mut Task, stat: &TaskStat) {
    task.comm = stat.comm;
    task.ppid = stat.ppid;
    task.threads = stat.threads;
    task.cpu = stat.cpu;
    task.rss_pages = stat.rss_pages;
}

/// Notes at the parent what its children are called.
fn remember_child(table: &mut TaskTable, child: &Task) {
    if let Some(parent) = table.by_pid(child.ppid).and_then(|ix| table.get_mut(ix))
        && parent.class == TaskClass::Process
        // between fork and exec a child has its parent's name, which says less than that of an older child
        && (parent.child.is_none() || parent.comm != child.comm)
    {
        parent.child = Some(LastChild { comm: child.comm, cgroup: child.cgroup.clone(), uid: child.uid });
    }
}

fn read_schedstat(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Option<u64> {
    let n = read_kept(fd, buf)?;
    stat::parse_schedstat(buf.get(..n)?)
}

/// Reads a kept descriptor from the start; `None` once its task is gone.
fn read_kept(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Option<usize> {
    loop {
        match pread(fd, &mut *buf, 0) {
            Err(Errno::INTR) => {}
            other => return other.ok(),
        }
    }
}
