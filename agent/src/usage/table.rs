//! The tasks of the machine, from the sample that first saw them until their last figures are delivered.
//!
//! A slot is one life of a process, known by pid *and* start time, so that a reused pid is another task.
//! Besides processes there are three consumers of their own: interrupts, children that lived only between
//! two samples (one slot per parent), and CPU time that nobody can be found for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::stat::Comm;
use crate::clock::Moment;

/// Index of a slot. Valid until the slot is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskIx(u32);

impl TaskIx {
    /// Any index, for tests of code that only passes it on.
    #[cfg(test)]
    pub(crate) fn test(i: usize) -> Self {
        Self(u32::try_from(i).unwrap())
    }

    /// As an index into arrays that run beside the table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What kind of consumer a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskClass {
    /// A process of user space.
    Process,
    /// A thread of the kernel.
    Kernel,
    /// Children of the process with this pid that were never seen alive.
    EndedChildren,
    /// Hard and soft interrupts.
    Interrupts,
    /// CPU time that was used, by whom is not known.
    Unseen,
}

/// One consumer of CPU time.
#[derive(Clone, Debug)]
pub struct Task {
    /// Process id; of the parent for [`TaskClass::EndedChildren`]; zero for the machine-wide ones.
    pub pid: u32,
    /// Start in clock ticks since boot.
    pub start: u64,
    /// What it is.
    pub class: TaskClass,
    /// Parent.
    pub ppid: u32,
    /// The kernel's name for it.
    pub comm: Comm,
    /// Effective user.
    pub uid: u32,
    /// Its cgroup path.
    pub cgroup: Arc<str>,
    /// Number of threads.
    pub threads: u32,
    /// The CPU it last ran on.
    pub cpu: u32,
    /// Resident memory in pages.
    pub rss_pages: u64,
    /// CPU time since it was first seen, in nanoseconds.
    pub cpu_ns: u64,
    /// When it was found to be gone.
    pub ended: Option<Moment>,
    /// Changes when name, user or cgroup do.
    pub version: u32,
    /// Tells apart several rows of one parent's [`TaskClass::EndedChildren`].
    pub sibling: u32,
    /// Name of the child that was last seen to live or end: what unseen children are called.
    pub child: Option<LastChild>,
}

/// What is remembered of a child to name its unseen siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastChild {
    /// Its name.
    pub comm: Comm,
    /// Its cgroup path.
    pub cgroup: Arc<str>,
    /// Its user.
    pub uid: u32,
}

impl Task {
    /// A task that was just found.
    pub fn new(pid: u32, start: u64, class: TaskClass) -> Self {
        Self {
            pid,
            start,
            class,
            ppid: 0,
            comm: Comm::default(),
            uid: 0,
            cgroup: Arc::from(""),
            threads: 1,
            cpu: 0,
            rss_pages: 0,
            cpu_ns: 0,
            ended: None,
            version: 0,
            sibling: 0,
            child: None,
        }
    }

    /// A number that orders tasks the same way whatever slots they have: decides ties in splits.
    pub fn order(&self) -> u64 {
        (u64::from(self.pid) << 32) ^ (self.start << 3) ^ self.class as u64 ^ (u64::from(self.sibling) << 48)
    }
}

/// What hardware counters told of a task while it ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Core cycles.
    pub cycles: u64,
    /// Instructions retired.
    pub instructions: u64,
    /// Misses of the last-level cache.
    pub misses: u64,
}

/// CPU time that one task used since the last sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Who.
    pub task: TaskIx,
    /// How much, in nanoseconds.
    pub cpu_ns: u64,
    /// The CPU it ran on; `None` if it may have been several.
    pub cpu: Option<u32>,
    /// What counters told, if they were on.
    pub events: Option<Events>,
}

impl Delta {
    /// CPU time, and nothing told by counters.
    pub fn time(task: TaskIx, cpu_ns: u64, cpu: Option<u32>) -> Self {
        Self { task, cpu_ns, cpu, events: None }
    }
}

/// All tasks.
#[derive(Default)]
pub struct TaskTable {
    slots: Vec<Option<Task>>,
    free: Vec<TaskIx>,
    living: HashMap<u32, TaskIx>,
    paths: HashSet<Arc<str>>,
}

impl TaskTable {
    /// Number of slots in use.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Whether nobody is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more than the largest index in use.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The task in a slot.
    pub fn get(&self, ix: TaskIx) -> Option<&Task> {
        self.slots.get(ix.index())?.as_ref()
    }

    /// The task in a slot, to be changed.
    pub fn get_mut(&mut self, ix: TaskIx) -> Option<&mut Task> {
        self.slots.get_mut(ix.index())?.as_mut()
    }

    /// The living process with this pid.
    pub fn by_pid(&self, pid: u32) -> Option<TaskIx> {
        self.living.get(&pid).copied()
    }

    /// Puts a task into a slot. Living processes can be found by pid.
    pub fn insert(&mut self, task: Task) -> TaskIx {
        let ix = match self.free.pop() {
            Some(ix) => ix,
            None => {
                self.slots.push(None);
                TaskIx(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
            }
        };
        if matches!(task.class, TaskClass::Process | TaskClass::Kernel) && task.ended.is_none() {
            self.living.insert(task.pid, ix);
        }
        if let Some(slot) = self.slots.get_mut(ix.index()) {
            *slot = Some(task);
        }
        ix
    }

    /// Notes that a task is gone; its slot stays until [`TaskTable::free`].
    pub fn end(&mut self, ix: TaskIx, at: Moment) {
        let Some(task) = self.slots.get_mut(ix.index()).and_then(Option::as_mut) else { return };
        task.ended.get_or_insert(at);
        if self.living.get(&task.pid) == Some(&ix) {
            self.living.remove(&task.pid);
        }
    }

    /// Gives a slot back.
    pub fn free(&mut self, ix: TaskIx) {
        if let Some(slot) = self.slots.get_mut(ix.index())
            && let Some(task) = slot.take()
        {
            if self.living.get(&task.pid) == Some(&ix) {
                self.living.remove(&task.pid);
            }
            self.free.push(ix);
        }
    }

    /// All tasks with their slots, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = (TaskIx, &Task)> {
        (0..).zip(&self.slots).filter_map(|(i, t)| Some((TaskIx(i), t.as_ref()?)))
    }

    /// Number of living processes and kernel threads.
    pub fn living(&self) -> usize {
        self.living.len()
    }

    /// One shared copy of a cgroup path.
    pub fn intern(&mut self, path: &str) -> Arc<str> {
        if let Some(known) = self.paths.get(path) {
            return Arc::clone(known);
        }
        let fresh: Arc<str> = path.into();
        self.paths.insert(Arc::clone(&fresh));
        fresh
    }

    /// Lets go of paths that no task has any more.
    pub fn forget_unused_paths(&mut self) {
        self.paths.retain(|p| Arc::strong_count(p) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_reused_pid_is_another_task() {
        let mut t = TaskTable::default();
        let a = t.insert(Task::new(7, 100, TaskClass::Process));
        t.end(a, Moment::default().plus(Duration::from_secs(1)));
        assert_eq!(t.by_pid(7), None);
        let b = t.insert(Task::new(7, 200, TaskClass::Process));
        assert_ne!(a, b);
        assert_eq!(t.by_pid(7), Some(b));
        t.free(a);
        assert_eq!(t.by_pid(7), Some(b), "freeing the first life leaves the second");
        assert_eq!((t.len(), t.living()), (1, 1));
        let c = t.insert(Task::new(8, 300, TaskClass::Process));
        assert_eq!(c, a, "slots are used again");
    }

    #[test]
    fn paths_are_kept_once_and_only_while_used() {
        let mut t = TaskTable::default();
        let a = t.intern("/a");
        assert!(Arc::ptr_eq(&a, &t.intern("/a")));
        drop(t.intern("/b"));
        t.forget_unused_paths();
        assert_eq!(t.paths.len(), 1);
        assert!(Arc::ptr_eq(&a, &t.intern("/a")));
    }
}
