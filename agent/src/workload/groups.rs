//! The workloads of the machine and which of them each task belongs to.
//!
//! A task belongs to at most one workload of each kind: container ⊂ pod ⊂ namespace, or unit ⊂ slice, or VM; and
//! to its user. Kernel threads, interrupts and what nobody can be found for are workloads of kind `system`. So a
//! joule is counted once in each kind.

use std::collections::HashMap;
use std::sync::Arc;

use ebbtide_proto::{WorkloadId, WorkloadKind};

use super::cgroup::{self, CgroupIdentity};
use super::pods::PodNames;
use super::vm::Vm;
use crate::clock::Moment;
use crate::usage::table::{Task, TaskClass};

/// Index of a workload. Valid until the workload is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIx(u32);

impl GroupIx {
    /// As an index into arrays that run beside the table.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One workload.
#[derive(Clone, Debug)]
pub struct Group {
    /// Which.
    pub id: WorkloadId,
    /// What is known of it, by label name.
    pub labels: Arc<Vec<(&'static str, String)>>,
    /// CPU time since it was first seen, in nanoseconds.
    pub cpu_ns: u64,
    /// Living tasks at the last count.
    pub tasks: u32,
    /// When its last task was found to be gone.
    pub ended: Option<Moment>,
    /// Changes when labels do.
    pub version: u32,
    /// A cgroup path of it, for looking up what it reserved.
    pub cgroup: Arc<str>,
}

/// The workloads of one task, innermost first.
pub type Places = Arc<[GroupIx]>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    cgroup: Arc<str>,
    uid: u32,
    class: TaskClass,
    vm: Option<Vm>,
}

/// Workloads that ended are kept this long, so that a unit that is started again goes on counting.
const FORGET_AFTER_NS: u64 = 3_600_000_000_000;
/// More ended workloads than this are not kept.
const KEEP_ENDED: usize = 20_000;

/// All workloads.
#[derive(Default)]
pub struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<GroupIx>,
    by_id: HashMap<WorkloadId, GroupIx>,
    places: HashMap<Key, Places>,
}

impl Groups {
    /// One more than the largest index in use.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// A workload.
    pub fn get(&self, ix: GroupIx) -> Option<&Group> {
        self.slots.get(ix.index())?.as_ref()
    }

    /// A workload, to be changed.
    pub fn get_mut(&mut self, ix: GroupIx) -> Option<&mut Group> {
        self.slots.get_mut(ix.index())?.as_mut()
    }

    /// All workloads, in the order of indices.
    pub fn iter(&self) -> impl Iterator<Item = (GroupIx, &Group)> {
        (0..).zip(&self.slots).filter_map(|(i, g)| Some((GroupIx(i), g.as_ref()?)))
    }

    /// The workloads that `task` belongs to. `fresh` is called for each that was not known before.
    pub fn place(
        &mut self,
        task: &Task,
        vm: Option<&Vm>,
        names: &PodNames,
        mut fresh: impl FnMut(GroupIx, &WorkloadId),
    ) -> Places {
        let key = Key { cgroup: Arc::clone(&task.cgroup), uid: task.uid, class: task.class, vm: vm.cloned() };
        if let Some(known) = self.places.get(&key) {
            return Arc::clone(known);
        }
        let mut list = Vec::with_capacity(5);
        for (kind, name, labels) in memberships(task, vm, names) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(WorkloadId::MAX_NAME / 4).collect();
            let Ok(id) = WorkloadId::new(kind, &name) else { continue };
            list.push(match self.by_id.get(&id) {
                Some(&ix) => {
                    if let Some(group) = self.slots.get_mut(ix.index()).and_then(Option::as_mut)
                        && *group.labels != labels
                    {
                        group.labels = Arc::new(labels);
                        group.version = group.version.wrapping_add(1);
                    }
                    ix
                }
                None => {
                    let group = Group {
                        id: id.clone(),
                        labels: Arc::new(labels),
                        cpu_ns: 0,
                        tasks: 0,
                        ended: None,
                        version: 0,
                        cgroup: Arc::clone(&task.cgroup),
                    };
                    let ix = self.insert(group);
                    fresh(ix, &id);
                    ix
                }
            });
        }
        let list: Places = list.into();
        self.places.insert(key, Arc::clone(&list));
        list
    }

    fn insert(&mut self, group: Group) -> GroupIx {
        let id = group.id.clone();
        let ix = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            GroupIx(u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX))
        });
        if let Some(slot) = self.slots.get_mut(ix.index()) {
            *slot = Some(group);
        }
        self.by_id.insert(id, ix);
        ix
    }

    /// Forgets where tasks were placed, so that new names are used.
    pub fn forget_places(&mut self) {
        self.places.clear();
    }

    /// Counts living tasks, marks workloads without any as ended, and forgets those that ended long ago.
    /// `living` yields the places of each living task; `forgotten` is called for each that goes.
    pub fn sweep<'a>(
        &mut self,
        now: Moment,
        living: impl Iterator<Item = &'a Places>,
        mut forgotten: impl FnMut(GroupIx),
    ) {
        let mut counts = vec![0u32; self.slots.len()];
        for places in living {
            for ix in places.iter() {
                if let Some(n) = counts.get_mut(ix.index()) {
                    *n += 1;
                }
            }
        }
        let mut ended: Vec<(u64, GroupIx)> = Vec::new();
        for ((i, slot), n) in (0..).zip(&mut self.slots).zip(counts) {
            let Some(group) = slot else { continue };
            group.tasks = n;
            let machine_wide = group.id.kind() == WorkloadKind::System;
            if n > 0 || machine_wide {
                group.ended = None;
            } else {
                let at = group.ended.get_or_insert(now).boot;
                ended.push((at, GroupIx(i)));
            }
        }
        ended.sort_unstable_by_key(|e| std::cmp::Reverse(e.0));
        let old = |&(k, &(at, _)): &(usize, &(u64, GroupIx))| {
            k >= KEEP_ENDED || now.boot.saturating_sub(at) > FORGET_AFTER_NS
        };
        let gone: Vec<GroupIx> = ended.iter().enumerate().filter(old).map(|(_, e)| e.1).collect();
        if !gone.is_empty() {
            for ix in gone {
                if let Some(group) = self.slots.get_mut(ix.index()).and_then(Option::take) {
                    self.by_id.remove(&group.id);
                    self.free.push(ix);
                    forgotten(ix);
                }
            }
            self.places.clear();
        }
        if self.places.len() > 4 * self.slots.len() + 1024 {
            self.places.clear();
        }
    }
}

type Membership = (WorkloadKind, String, Vec<(&'static str, String)>);

/// The workloads a task belongs to, innermost first, with their labels.
fn memberships(task: &Task, vm: Option<&Vm>, names: &PodNames) -> Vec<Membership> {
    let system = |name: &str| vec![(WorkloadKind::System, name.to_owned(), vec![("name", name.to_owned())])];
    match task.class {
        TaskClass::Kernel => return system("kernel"),
        TaskClass::Interrupts => return system("interrupts"),
        TaskClass::Unseen => return system("unseen"),
        TaskClass::Process | TaskClass::EndedChildren => {}
    }
    let at = cgroup::identify(&task.cgroup);
    let mut out = inner(&at, vm, names);
    out.push((WorkloadKind::User, task.uid.to_string(), vec![("uid", task.uid.to_string())]));
    out
}

fn inner(at: &CgroupIdentity, vm: Option<&Vm>, names: &PodNames) -> Vec<Membership> {
    let mut out = Vec::new();
    if let Some(container) = &at.container {
        let mut labels = vec![("id", container.id.clone()), ("runtime", container.runtime.as_str().to_owned())];
        let mut pod_labels = Vec::new();
        let mut namespace = None;
        if let Some(pod) = &at.pod {
            if let Some(name) = names.pod(&pod.uid) {
                pod_labels.push(("name", name.name.clone()));
                pod_labels.push(("namespace", name.namespace.clone()));
                labels.push(("pod", name.name.clone()));
                labels.push(("namespace", name.namespace.clone()));
                namespace = Some(name.namespace.clone());
            }
            if let Some(qos) = pod.qos {
                pod_labels.push(("qos", qos.as_str().to_owned()));
            }
            pod_labels.push(("id", pod.uid.clone()));
            labels.push(("pod_id", pod.uid.clone()));
        }
        let name = names.container(&container.id).map_or_else(|| short(&container.id), |c| c.name.clone());
        labels.push(("name", name));
        out.push((WorkloadKind::Container, container.id.clone(), labels));
        if let Some(pod) = &at.pod {
            if namespace.is_none() {
                pod_labels.push(("name", pod.uid.clone()));
            }
            out.push((WorkloadKind::Pod, pod.uid.clone(), pod_labels));
        }
        if let Some(namespace) = namespace {
            out.push((WorkloadKind::Namespace, namespace.clone(), vec![("name", namespace)]));
        }
        return out;
    }
    let known_vm = vm.map(|vm| {
        let name = vm.name.clone().or_else(|| vm.uuid.clone()).or_else(|| at.machine.clone()).unwrap_or_default();
        let id = vm.uuid.clone().unwrap_or_else(|| name.clone());
        let labels = vec![
            ("name", name),
            ("id", id.clone()),
            ("hypervisor", vm.hypervisor.as_str().to_owned()),
            ("manager", vm.manager.as_str().to_owned()),
        ];
        (WorkloadKind::Vm, id, labels)
    });
    if let Some((kind, id, labels)) = known_vm
        && !id.is_empty()
    {
        out.push((kind, id, labels));
        return out;
    }
    if let Some(pod) = &at.pod {
        out.push((WorkloadKind::Pod, pod.uid.clone(), vec![("name", pod.uid.clone()), ("id", pod.uid.clone())]));
        return out;
    }
    if let Some(unit) = &at.unit {
        let mut labels = vec![("name", unit.clone())];
        if let Some(slice) = &at.slice {
            labels.push(("slice", slice.clone()));
        }
        // every user has a unit called init.scope or app-….scope: the user makes it another one
        let id = at.user.map_or_else(|| unit.clone(), |uid| format!("{unit}@{uid}"));
        out.push((WorkloadKind::Unit, id, labels));
    }
    if let Some(slice) = &at.slice {
        out.push((WorkloadKind::Slice, slice.clone(), vec![("name", slice.clone())]));
    }
    out
}

/// The first twelve characters of a container's id, as the runtimes' own tools show it.
fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
