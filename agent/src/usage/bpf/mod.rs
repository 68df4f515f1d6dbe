//! Tasks from the kernel's own records: one stream tells of all that changed, one buffer of all that ended.
//!
//! `kernel` loads the programs of `ebpf/` and reads them (`btf`: with as little of the kernel's types as they need),
//! `record` is the layout of what they write, `books` keeps what each thread was last known to have used, `children`
//! are processes that nobody saw alive, `groups` finds the paths of control groups, `counters` opens hardware events.
//!
//! Run time is the scheduler's own, in nanoseconds and for each thread. It is told when a task changed, and for the
//! last time when the kernel frees it, after it left its CPU for good. So all of it is charged, to whom and where it
//! was used, but for what is between two ticks of a thread that is running at the very moment: that comes with the
//! next sample.
//!
//! The kernel does not always run the program that tells of a freed task (ADR 8): what was known when it began to end
//! is kept until then, and charged if that word doesn't come.

mod books;
mod btf;
mod children;
mod counters;
mod groups;
mod kernel;
mod record;
mod sys;

use std::io;
use std::time::Duration;

use self::books::Books;
pub use self::counters::{EVENTS, Event};
use self::kernel::Kernel;
pub use self::kernel::Unusable;
use self::record::{Exiting, Life};
use super::table::{Delta, TaskTable};
use super::{Method, Status, UsageReader};
use crate::clock::Moment;
use crate::host::HostRoot;

// what is fuzzed
#[doc(hidden)]
pub use self::btf::reduced;
#[doc(hidden)]
pub use self::record::{Record, next};

/// `PROC_PID_INIT_INO`, `include/linux/proc_ns.h`.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Every so many samples all tasks are told, changed or not: memory and parents change without them.
const EVERYONE: u32 = 30;
/// This often it is looked whether somebody who began to end should have been freed.
const LOOK: Duration = Duration::from_secs(1);

/// What did not fit into the buffer of ended tasks, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    tasks: u64,
    /// Their run time in nanoseconds.
    ns: u64,
    groups: u64,
}

/// Where records come from.
trait Feed: Send {
    /// Tells of all threads, or of those that changed since they were last told.
    fn pass(&mut self, everyone: bool, to: &mut Vec<u8>) -> io::Result<()>;
    /// Whether all of this can be asked for with the rights that this thread has now.
    fn readable(&mut self) -> io::Result<()>;
    /// Tells what ended since the last call.
    fn ended(&mut self, to: &mut Vec<u8>);
    /// Tells who began to end and was not freed yet; it may miss some.
    fn exiting(&self, to: &mut Vec<Exiting>);
    /// Takes one of them out, unless it was freed in the meantime.
    fn take_exit(&mut self, life: Life) -> bool;
    /// What was not told.
    fn lost(&self) -> Lost;
}

/// Reads who ran by BPF.
pub struct BpfReader {
    feed: Box<dyn Feed>,
    books: Books,
    tasks: Vec<u8>,
    ended: Vec<u8>,
    exiting: Vec<Exiting>,
    /// When those were looked at last.
    looked: Moment,
    lost: Lost,
    sample: u32,
    counters: bool,
}

impl BpfReader {
    /// Loads the programs. If counters were wanted and can't be had, it goes without and says why.
    pub fn open(host: &HostRoot, counters: bool) -> Result<(Self, Option<Unusable>), Unusable> {
        let mut without = None;
        if counters {
            match Self::with_events(host, &EVENTS) {
                Ok(reader) => return Ok((reader, None)),
                Err(why) => without = Some(why),
            }
        }
        Ok((Self::with_events(host, &[])?, without))
    }

    /// Loads the programs, to count these events: [`EVENTS`], none, or others in their place to try it where the
    /// processor has no counters.
    pub fn with_events(host: &HostRoot, events: &[Event]) -> Result<Self, Unusable> {
        sees_machine(host)?;
        let kernel = Kernel::load(host, events)?;
        Ok(Self::new(Box::new(kernel), host, !events.is_empty()))
    }

    /// Has the next sample tell of all tasks, as each thirtieth does.
    pub fn tell_everyone(&mut self) {
        self.sample = 0;
    }

    fn new(feed: Box<dyn Feed>, host: &HostRoot, counters: bool) -> Self {
        Self {
            feed,
            books: Books::new(host.clone()),
            tasks: Vec::new(),
            ended: Vec::new(),
            exiting: Vec::new(),
            looked: Moment::default(),
            lost: Lost::default(),
            sample: 0,
            counters,
        }
    }
}

impl UsageReader for BpfReader {
    fn sample(
        &mut self,
        now: Moment,
        _forks: Option<u64>,
        table: &mut TaskTable,
        out: &mut Vec<Delta>,
    ) -> io::Result<()> {
        let lost = self.feed.lost();
        let everyone = self.sample.is_multiple_of(EVERYONE) || lost != self.lost || self.books.misses_someone();
        self.lost = lost;
        self.feed.pass(everyone, &mut self.tasks)?;
        self.feed.ended(&mut self.ended);
        self.sample = self.sample.wrapping_add(1);
        self.books.begin(now, everyone);
        self.books.living(&self.tasks, self.counters, table, out);
        self.books.gone(&self.ended, self.counters, table, out);
        if now.since(self.looked) >= LOOK {
            self.looked = now;
            self.feed.exiting(&mut self.exiting);
            for exit in &self.exiting {
                if self.books.is_overdue(exit) && self.feed.take_exit(Life::of(&exit.thread)) {
                    self.books.never_freed(exit, table, out);
                }
            }
        }
        self.books.close(table);
        Ok(())
    }

    fn readable(&mut self) -> io::Result<()> {
        self.feed.readable()
    }

    fn status(&self) -> Status {
        Status { method: Method::Bpf, counters: self.counters, lost_exits: self.lost.tasks, lost_ns: self.lost.ns }
    }
}

/// Whether a machine's kernel has words of 64 bits, by what it calls the machine.
fn is_wide(machine: &str) -> bool {
    machine.contains("64") || machine == "s390x"
}

/// Whether `host` is the machine that the agent runs on, seen whole: the kernel tells of all tasks by the ids of its
/// first pid namespace.
fn sees_machine(host: &HostRoot) -> Result<(), Unusable> {
    let system = rustix::system::uname();
    let machine = system.machine().to_string_lossy();
    if !is_wide(&machine) {
        return Err(Unusable::Narrow(machine.into_owned()));
    }
    let own = std::fs::read_link(host.proc("self")).map_err(|_| Unusable::OtherMachine)?;
    let is_proc = rustix::fs::statfs(host.proc("")).is_ok_and(|fs| super::procfs::is_procfs(&fs));
    if !is_proc || own.to_str() != Some(std::process::id().to_string().as_str()) {
        return Err(Unusable::OtherMachine);
    }
    let namespace = std::fs::read_link(host.proc("self/ns/pid")).unwrap_or_default();
    if namespace.to_str() != Some(FIRST_PID_NAMESPACE) {
        return Err(Unusable::Namespace);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
