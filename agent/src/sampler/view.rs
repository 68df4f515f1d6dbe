//! The snapshot of a sample.

use std::sync::Arc;
use std::time::Duration;

use super::{OWN_MEMORY_EVERY, Sampler, rest, rows};
use crate::clock::Moment;
use crate::host::{self, HostRoot};
use crate::snapshot::{GroupRow, Rows, Snapshot, TaskLabels, TaskRow, Usage};
use crate::source::discover::Role;
use crate::usage::table::{Task, TaskClass, TaskIx};
use crate::workload::cgroup;

impl Sampler {
    pub(super) fn snapshot(&mut self, now: Moment, dt: Duration) -> Snapshot {
        let zones: Vec<_> = self.tracks.iter().map(|t| t.view(now, self.options.stale_after)).collect();
        let total = || zones.iter().filter(|z| z.role == Role::Total);
        let node_power = total().any(|z| z.power.is_some()).then(|| total().filter_map(|z| z.power).sum());
        let node_energy = total().map(|z| z.account.total).sum();
        let rest =
            self.rest.step(now, &zones, rest::input(&zones).and_then(|i| Some((i, self.tracks.get(i)?.added()?))));
        let mut tasks = Rows::new(zones.len());
        let mut unnamed = Vec::new();
        let last_lives = rows::last_lives(&self.table);
        for (ix, energy) in self.chooser.rows(&self.table, &self.task_columns) {
            let Some(task) = self.table.get(ix) else { continue };
            let used_again = task.ended.is_some() && last_lives.get(&task.pid).is_some_and(|&s| s > task.start);
            if used_again || matches!(task.class, TaskClass::Interrupts | TaskClass::Unseen) {
                continue;
            }
            let labels = match self.seats.get(ix.index()).and_then(|s| s.labels.clone()) {
                Some(labels) => labels,
                None => {
                    let labels = Arc::new(self.label(ix, task));
                    unnamed.push((ix, Arc::clone(&labels)));
                    labels
                }
            };
            let row = TaskRow {
                labels,
                class: task.class,
                ended: task.ended.is_some(),
                cpu_ns: task.cpu_ns,
                cpu_last_ns: self.seats.get(ix.index()).map_or(0, |s| s.cpu_last_ns),
                resident: task.rss_pages.saturating_mul(rustix::param::page_size() as u64),
            };
            tasks.push(row, energy, self.task_columns.idle(ix.index()), self.task_columns.last(ix.index()));
        }
        let other_tasks = self.chooser.other.clone();
        for (ix, labels) in unnamed {
            if let Some(seat) = self.seats.get_mut(ix.index()) {
                seat.labels = Some(labels);
            }
        }
        let retention = u64::try_from(self.options.retention.as_nanos()).unwrap_or(u64::MAX);
        let mut groups = Rows::new(zones.len());
        for (ix, group) in self.groups.iter() {
            if group.ended.is_some_and(|at| now.boot.saturating_sub(at.boot) > retention) {
                continue;
            }
            let Some(seat) = self.group_seats.get_mut(ix.index()) else { continue };
            if seat.version != group.version {
                seat.version = group.version;
                seat.rendered = Arc::default();
            }
            let row = GroupRow {
                id: group.id.clone(),
                labels: Arc::clone(&group.labels),
                ended: group.ended.is_some(),
                tasks: group.tasks,
                cpu_ns: group.cpu_ns,
                cpu_last_ns: seat.cpu_last_ns,
                rendered: Arc::clone(&seat.rendered),
            };
            let i = ix.index();
            groups.push(row, self.group_columns.energy(i), self.group_columns.idle(i), self.group_columns.last(i));
        }
        self.own.late = self.late;
        self.own.living = self.table.living();
        if self.seq % OWN_MEMORY_EVERY == 1 {
            self.own.resident = own_memory();
        }
        let own_row = self.table.by_pid(std::process::id()).filter(|_| self.host.is_real());
        let status = self.usage.status();
        let mut snapshot = Snapshot {
            seq: self.seq,
            at: now,
            dt,
            node: Arc::clone(&self.node),
            zones,
            node_energy,
            node_power,
            rest,
            utilisation: self.meter.utilisation(dt),
            busy_ns: self.busy_ns,
            tasks,
            other_tasks,
            groups,
            usage: Usage { status, incomplete: status.lost_exits > self.lost_exits },
            own: self.own,
        };
        self.lost_exits = status.lost_exits;
        snapshot.own.energy = own_row.map(|ix| snapshot.over_node(self.task_columns.energy(ix.index())));
        snapshot
    }

    pub(super) fn label(&self, ix: TaskIx, task: &Task) -> TaskLabels {
        let at = cgroup::identify(&task.cgroup);
        let mut labels = TaskLabels {
            pid: match (task.class, task.sibling) {
                (TaskClass::EndedChildren, 0) => format!("{}+", task.pid),
                (TaskClass::EndedChildren, n) => format!("{}+{n}", task.pid),
                _ => task.pid.to_string(),
            },
            comm: task.comm.to_text(),
            container: at.container.map(|c| c.id).unwrap_or_default(),
            ..TaskLabels::default()
        };
        if let Some(vm) = self.vms.get(&ix) {
            labels.vm = vm.uuid.clone().or_else(|| vm.name.clone()).unwrap_or_default();
        }
        let places = self.seats.get(ix.index()).and_then(|s| s.places.as_ref());
        labels.workloads =
            places.into_iter().flat_map(|p| p.iter()).filter_map(|g| Some(self.groups.get(*g)?.id.clone())).collect();
        if self.options.full_names && task.class == TaskClass::Process && task.ended.is_none() {
            let file = |name: &str| self.host.proc(format!("{}/{name}", task.pid));
            if let Ok(exe) = std::fs::read_link(file("exe")) {
                labels.exe = exe.to_string_lossy().into_owned();
            }
            if let Ok(text) = host::read_text(&file("cmdline")) {
                let shown: String = text.trim_end_matches('\0').chars().take(256).collect();
                labels.cmdline = shown.replace('\0', " ");
            }
        }
        labels
    }
}

fn own_memory() -> u64 {
    // pages; the second figure is the resident part
    let text = host::read_text(&HostRoot::new("/").proc("self/statm")).unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|p| p.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
