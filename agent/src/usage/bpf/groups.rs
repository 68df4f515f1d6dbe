//! Paths of control groups by their ids.
//!
//! A process that lives is asked for its path the first time its set of groups is seen. For one that is gone the path
//! is known from others in the same set, or from the group's making.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::record::GroupKey;
use crate::host::{self, HostRoot};
use crate::usage::table::TaskTable;
use crate::workload::cgroup;

/// Most groups whose making is remembered; the oldest are forgotten first.
const MADE: usize = 8192;
/// Samples after which a path is asked for again: a set of groups may have taken the place of another, and a process
/// may have moved between its record and the reading of its path.
const REFRESH: u32 = 30;

/// What is known of paths.
pub(super) struct Paths {
    host: HostRoot,
    known: HashMap<GroupKey, Known>,
    made: HashMap<(u32, u64), Box<str>>,
    order: VecDeque<(u32, u64)>,
    sample: u32,
}

struct Known {
    path: Arc<str>,
    asked: u32,
}

impl Paths {
    pub(super) fn new(host: HostRoot) -> Self {
        Self { host, known: HashMap::new(), made: HashMap::new(), order: VecDeque::new(), sample: 0 }
    }

    /// A sample begins.
    pub(super) fn begin(&mut self) {
        self.sample = self.sample.wrapping_add(1);
    }

    /// Takes note of a group that was made.
    pub(super) fn note(&mut self, hierarchy: u32, id: u64, path: &[u8]) {
        let path = String::from_utf8_lossy(path).into_owned().into_boxed_str();
        if self.made.insert((hierarchy, id), path).is_none() {
            self.order.push_back((hierarchy, id));
        }
        if self.order.len() > MADE
            && let Some(oldest) = self.order.pop_front()
        {
            self.made.remove(&oldest);
        }
    }

    /// The path of a process that lives.
    pub(super) fn of_living(&mut self, groups: GroupKey, pid: u32, table: &mut TaskTable) -> Arc<str> {
        let sample = self.sample;
        if let Some(known) = self.known.get(&groups).filter(|k| sample.wrapping_sub(k.asked) < REFRESH) {
            return Arc::clone(&known.path);
        }
        let text = host::read_text(&self.host.proc(format!("{pid}/cgroup"))).ok();
        let asked = text.as_deref().and_then(|t| cgroup::unified_path(t.as_bytes()));
        let Some(path) = asked else {
            // gone meanwhile
            return self.of_ended(groups, table).unwrap_or_else(|| table.intern(""));
        };
        let path = table.intern(&path);
        self.known.insert(groups, Known { path: Arc::clone(&path), asked: sample });
        path
    }

    /// The path of a process that is gone, if it can be found.
    pub(super) fn of_ended(&self, groups: GroupKey, table: &mut TaskTable) -> Option<Arc<str>> {
        if let Some(known) = self.known.get(&groups) {
            return Some(Arc::clone(&known.path));
        }
        let mut text = String::new();
        if let Some(path) = self.made.get(&(0, groups.v2)) {
            text.push_str(&format!("0::{path}\n"));
        }
        if groups.hierarchy > 0
            && let Some(path) = self.made.get(&(groups.hierarchy, groups.v1))
        {
            text.push_str(&format!("{}:memory:{path}\n", groups.hierarchy));
        }
        Some(table.intern(&cgroup::unified_path(text.as_bytes())?))
    }

    /// Lets go of paths that no task has any more.
    pub(super) fn forget_unused(&mut self) {
        // one is the table's, one is ours
        self.known.retain(|_, k| Arc::strong_count(&k.path) > 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_nobody_was_seen_in_is_known_by_its_making() {
        let dir = tempfile::tempdir().unwrap();
        let (mut paths, mut table) = (Paths::new(HostRoot::new(dir.path())), TaskTable::default());
        let id = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let group = GroupKey { css_set: 1, v2: 1, v1: 40, hierarchy: 4 };
        assert_eq!(paths.of_ended(group, &mut table), None);
        paths.note(4, 40, format!("/docker/{id}").as_bytes());
        paths.note(0, 40, b"/not/this");
        assert_eq!(paths.of_ended(group, &mut table).as_deref(), Some(format!("/docker/{id}").as_str()));
        let unified = GroupKey { css_set: 2, v2: 40, v1: 0, hierarchy: 0 };
        assert_eq!(paths.of_ended(unified, &mut table).as_deref(), Some("/not/this"));
        // a living one that can't be asked any more is no worse off
        assert_eq!(&*paths.of_living(unified, 7, &mut table), "/not/this");
    }

    #[test]
    fn makings_are_forgotten_in_their_order() {
        let mut paths = Paths::new(HostRoot::new("/nowhere"));
        for id in 0..MADE as u64 + 10 {
            paths.note(0, id, b"/x");
        }
        assert_eq!((paths.made.len(), paths.order.len()), (MADE, MADE));
        assert!(!paths.made.contains_key(&(0, 9)) && paths.made.contains_key(&(0, 10)));
    }
}
