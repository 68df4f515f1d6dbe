//! What must hold at every sample, to the microjoule and without tolerance.

use std::collections::HashMap;

use ebbtide_proto::{Energy, WorkloadKind};

use crate::ledger::ZoneAccount;
use crate::snapshot::Snapshot;
use crate::source::discover::Role;
use crate::usage::table::TaskClass;

/// Checks sample after sample, also over restarts of the agent.
///
/// For each zone, of what each sample adds:
/// - Σ tasks + interrupts + unseen + idle of nobody + residual = zone;
/// - Σ users + Σ system = all tasks, interrupts and unseen;
/// - for each other kind of workload Σ ≤ all tasks;
///
/// and of what is kept: each total is the total of the sample before plus what was added, for zones, workloads and
/// processes; so nothing falls, and nothing is negative, as a sum of unsigned figures.
#[derive(Debug, Default)]
pub struct Balance {
    zones: Vec<ZoneAccount>,
    groups: HashMap<String, Kept>,
    tasks: HashMap<String, Kept>,
    sample: u64,
    /// Rules broken so far.
    pub breaches: u64,
    /// The first few, in words.
    pub broken: Vec<String>,
}

#[derive(Debug, Default)]
struct Kept {
    energy: Vec<Energy>,
    seen: u64,
}

/// So many breaches are told in words.
const TOLD: usize = 20;

impl Balance {
    /// Takes the next snapshot. `restarted` says that the agent was started anew since the last one.
    pub fn check(&mut self, s: &Snapshot, restarted: bool) {
        self.sample += 1;
        let n = s.zones.len();
        self.zones.resize(n, ZoneAccount::default());
        let mut tasks = vec![0u128; n];
        let mut kinds: HashMap<WorkloadKind, Vec<u128>> = HashMap::new();
        for row in s.tasks.iter() {
            add(&mut tasks, row.last);
        }
        for row in s.groups.iter() {
            add(kinds.entry(row.row.id.kind()).or_insert_with(|| vec![0; n]), row.last);
            if row.row.id.kind() == WorkloadKind::System && row.row.id.name() != "kernel" {
                add(&mut tasks, row.last);
            }
        }
        let at = format!("sample {} ({:.0} s)", self.sample, s.at.mono as f64 / 1e9);
        for (i, z) in s.zones.iter().enumerate() {
            let name = &z.zone.name;
            let before = self.zones.get(i).cloned().unwrap_or_default();
            let account = &z.account;
            let grown =
                |of: fn(&ZoneAccount) -> Energy| of(account).checked_sub(of(&before)).map(|e| u128::from(e.uj()));
            let parts = (grown(|a| a.total), grown(|a| a.unallocated), grown(|a| a.residual), grown(|a| a.idle));
            let (Some(total), Some(unallocated), Some(residual), Some(_)) = parts else {
                self.breach(format!("{at}: a total of zone {name} fell"));
                continue;
            };
            let of_tasks = tasks.get(i).copied().unwrap_or(0);
            let sum = of_tasks + unallocated + residual;
            if sum != total {
                self.breach(format!("{at}: zone {name} grew by {total} µJ and its parts by {sum} µJ"));
            }
            let kind = |k| kinds.get(&k).and_then(|v: &Vec<u128>| v.get(i)).copied().unwrap_or(0);
            let people = kind(WorkloadKind::User) + kind(WorkloadKind::System);
            if people != of_tasks {
                self.breach(format!("{at}: zone {name}: tasks got {of_tasks} µJ, users and system {people} µJ"));
            }
            for k in WorkloadKind::ALL {
                if kind(k) > of_tasks {
                    self.breach(format!("{at}: zone {name}: {} got {} µJ of {of_tasks} µJ", k.as_str(), kind(k)));
                }
            }
            if let Some(kept) = self.zones.get_mut(i) {
                kept.clone_from(account);
            }
        }
        let node: Energy = s.zones.iter().filter(|z| z.role == Role::Total).map(|z| z.account.total).sum();
        if node != s.node_energy {
            self.breach(format!("{at}: the node has {} µJ, its zones {} µJ", s.node_energy.uj(), node.uj()));
        }
        let mut wrong = Vec::new();
        for row in s.groups.iter() {
            if !follow(&mut self.groups, row.row.id.to_string(), self.sample, row.energy, row.last, false) {
                wrong.push(format!("{at}: {} is not what it was plus what was added", row.row.id));
            }
        }
        for row in s.tasks.iter() {
            // who was never seen alive has no row of its own after a restart; its workload goes on
            let may_start_over = restarted && row.row.class == TaskClass::EndedChildren;
            let key = row.row.labels.pid.clone();
            if !follow(&mut self.tasks, key, self.sample, row.energy, row.last, may_start_over) {
                wrong.push(format!("{at}: process {} is not what it was plus what was added", row.row.labels.pid));
            }
        }
        wrong.into_iter().for_each(|w| self.breach(w));
    }

    fn breach(&mut self, what: String) {
        self.breaches += 1;
        if self.broken.len() < TOLD {
            self.broken.push(what);
        }
    }
}

/// Whether a row is its last figure plus what was added. One that was away may start over.
fn follow(
    rows: &mut HashMap<String, Kept>,
    key: String,
    sample: u64,
    energy: &[Energy],
    last: &[Energy],
    may_start_over: bool,
) -> bool {
    let kept = rows.entry(key).or_default();
    let fresh = may_start_over || kept.seen + 1 != sample;
    let zero = vec![Energy::ZERO; energy.len()];
    let goes_on = |from: &[Energy]| {
        energy.len() == last.len() && energy.iter().zip(from.iter().zip(last)).all(|(e, (f, l))| *e == *f + *l)
    };
    let before = if kept.energy.is_empty() { &zero } else { &kept.energy };
    let fine = goes_on(before) || (fresh && goes_on(&zero));
    kept.energy = energy.to_vec();
    kept.seen = sample;
    fine
}

fn add(sums: &mut [u128], row: &[Energy]) {
    for (sum, e) in sums.iter_mut().zip(row) {
        *sum += u128::from(e.uj());
    }
}
