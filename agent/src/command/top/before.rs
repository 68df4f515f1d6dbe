//! What is remembered of the snapshot before, to tell what an interval added.

use std::collections::HashMap;

use ebbtide_proto::{Energy, WorkloadId};

use crate::attribution::IdlePolicy;
use crate::ledger::ZoneAccount;
use crate::snapshot::{Snapshot, TaskRow};

/// Figures of one snapshot that the next one doesn't repeat.
#[derive(Clone, Debug, Default)]
pub struct Before {
    zones: Vec<ZoneAccount>,
    /// Idle shares of living tasks, by pid as shown.
    tasks: HashMap<String, Vec<Energy>>,
    groups: HashMap<WorkloadId, Vec<Energy>>,
}

impl Before {
    /// What to remember of `snapshot`.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut before = Self { zones: snapshot.zones.iter().map(|z| z.account.clone()).collect(), ..Self::default() };
        // otherwise nobody has idle shares
        if snapshot.node.idle_policy != IdlePolicy::Unallocated {
            let living = snapshot.tasks.iter().filter(|r| !r.row.ended);
            before.tasks = living.map(|r| (r.row.labels.pid.clone(), r.idle.to_vec())).collect();
            before.groups = snapshot.groups.iter().map(|r| (r.row.id.clone(), r.idle.to_vec())).collect();
        }
        before
    }

    /// Energy of zone `i`; `None` if there was no such zone.
    pub(super) fn total(&self, i: usize) -> Option<Energy> {
        self.zones.get(i).map(|z| z.total)
    }

    pub(super) fn unallocated(&self, i: usize) -> Energy {
        self.zones.get(i).map_or(Energy::ZERO, |z| z.unallocated)
    }

    pub(super) fn residual(&self, i: usize) -> Energy {
        self.zones.get(i).map_or(Energy::ZERO, |z| z.residual)
    }

    pub(super) fn task_idle(&self, row: &TaskRow) -> &[Energy] {
        self.tasks.get(&row.labels.pid).map_or(&[], Vec::as_slice)
    }

    pub(super) fn group_idle(&self, id: &WorkloadId) -> &[Energy] {
        self.groups.get(id).map_or(&[], Vec::as_slice)
    }
}
