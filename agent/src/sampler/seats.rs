//! Where each task belongs: its workloads, its share of what is reserved, what an earlier run left of it.

use ebbtide_proto::{Energy, WorkloadId, WorkloadKind};

use super::{GroupSeat, Sampler, Seat};
use crate::attribution::IdlePolicy;
use crate::attribution::split::Weight;
use crate::host::{self, HostRoot};
use crate::journal::RowRecord;
use crate::usage::table::{Task, TaskClass, TaskIx};
use crate::workload::groups::GroupIx;
use crate::workload::vm::{self, Vm};

impl Sampler {
    /// Finds the workloads of tasks that are new or changed.
    pub(super) fn seat_tasks(&mut self, first: bool) {
        let n = self.table.capacity();
        if self.seats.len() < n {
            self.seats.resize_with(n, Seat::default);
        }
        self.task_columns.begin(n);
        let mut stale: Vec<TaskIx> = Vec::new();
        for (ix, task) in self.table.iter() {
            if let Some(seat) = self.seats.get_mut(ix.index()) {
                seat.cpu_last_ns = 0;
                if seat.version != task.version.wrapping_add(1) {
                    stale.push(ix);
                }
            }
        }
        let mut fresh_groups: Vec<(GroupIx, WorkloadId)> = Vec::new();
        for ix in stale {
            let Some(task) = self.table.get(ix) else { continue };
            let vm = self.find_vm(ix, task);
            let places = self.groups.place(task, vm.as_ref(), &self.pods, |g, id| fresh_groups.push((g, id.clone())));
            if let Some(vm) = vm {
                self.vms.insert(ix, vm);
            }
            let fresh = self.seats.get(ix.index()).is_some_and(|s| s.version == 0);
            if let Some(seat) = self.seats.get_mut(ix.index()) {
                seat.version = task.version.wrapping_add(1);
                seat.places = Some(places);
                seat.labels = None;
            }
            if first && fresh && matches!(task.class, TaskClass::Process | TaskClass::Kernel) {
                let id = WorkloadId::process(task.pid, task.start);
                if let Some(row) = self.kept.rows.remove(&id) {
                    let (e, i) = self.kept_figures(&row);
                    self.task_columns.restore(ix.index(), &e, &i);
                    if let Some(t) = self.table.get_mut(ix) {
                        t.cpu_ns = row.cpu;
                    }
                }
            }
        }
        if first {
            // who is not there any more doesn't come back
            self.kept.rows.retain(|id, _| id.kind() != WorkloadKind::Process);
        }
        let n = self.groups.capacity();
        self.group_columns.begin(n);
        if self.group_seats.len() < n {
            self.group_seats.resize_with(n, GroupSeat::default);
        }
        for seat in &mut self.group_seats {
            seat.cpu_last_ns = 0;
        }
        for (ix, id) in fresh_groups {
            if let Some(seat) = self.group_seats.get_mut(ix.index()) {
                *seat = GroupSeat::default();
            }
            if let Some(row) = self.kept.rows.remove(&id) {
                let (e, i) = self.kept_figures(&row);
                self.group_columns.restore(ix.index(), &e, &i);
                if let Some(g) = self.groups.get_mut(ix) {
                    g.cpu_ns = row.cpu;
                }
            }
        }
    }

    /// A kept row's figures in the order of the zones of today.
    pub(super) fn kept_figures(&self, row: &RowRecord) -> (Vec<Energy>, Vec<Energy>) {
        let pick = |from: &[Energy]| {
            self.tracks
                .iter()
                .map(|t| {
                    self.kept
                        .order
                        .iter()
                        .position(|z| *z == t.zone.id)
                        .and_then(|i| from.get(i))
                        .copied()
                        .unwrap_or_default()
                })
                .collect()
        };
        (pick(&row.e), pick(&row.i))
    }

    pub(super) fn find_vm(&self, ix: TaskIx, task: &Task) -> Option<Vm> {
        if task.class != TaskClass::Process {
            return None;
        }
        let comm = task.comm.to_text().to_ascii_lowercase();
        const PROGRAMS: [&str; 6] = ["qemu", "kvm", "firecracker", "cloud-hyper", "virtualbox", "vbox"];
        if !PROGRAMS.iter().any(|p| comm.contains(p)) && !comm.starts_with("vmware-vmx") {
            return None;
        }
        if let Some(known) = self.vms.get(&ix) {
            return Some(known.clone());
        }
        let text = host::read_text(&self.host.proc(format!("{}/cmdline", task.pid))).ok()?;
        vm::identify(text.as_bytes())
    }

    /// Says who gets how much of idle energy under the policies that don't go by use.
    pub(super) fn reserve(&mut self) {
        let by_reservation = self.options.idle_policy == IdlePolicy::ByReservation;
        for (ix, task) in self.table.iter() {
            if task.ended.is_some() || task.class != TaskClass::Process {
                continue;
            }
            let Some(leaf) = self.seats.get(ix.index()).and_then(|s| s.places.as_ref()?.first().copied()) else {
                continue;
            };
            let Some(group) = self.groups.get(leaf) else { continue };
            let mut weight = 100;
            if by_reservation && let Some(seat) = self.group_seats.get_mut(leaf.index()) {
                weight = *seat.reservation.get_or_insert_with(|| cgroup_weight(&self.host, &group.cgroup));
            }
            self.reservations
                .push(Weight { key: task.order(), weight: (weight << 20) / u64::from(group.tasks.max(1)) });
            self.reserved_for.push(ix);
        }
    }
}

/// What a cgroup reserved, in units of `cpu.weight` (100 is what everybody has who asked for nothing).
fn cgroup_weight(host: &HostRoot, path: &str) -> u64 {
    let path = path.trim_start_matches('/');
    let read = |file: String| host::read_u64(&host.sys(format!("fs/cgroup/{file}"))).ok();
    read(format!("{path}/cpu.weight"))
        .or_else(|| read(format!("unified/{path}/cpu.weight")))
        .or_else(|| read(format!("cpu/{path}/cpu.shares")).map(|shares| shares * 100 / 1024))
        .unwrap_or(100)
        .clamp(1, 1 << 20)
}
