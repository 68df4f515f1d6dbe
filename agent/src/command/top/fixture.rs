//! A machine with a bit of everything, for tests of what is shown.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::{Energy, NodeId, Power, Ratio, WorkloadId, WorkloadKind, ZoneId};

use super::before::Before;
use super::picture::Picture;
use crate::attribution::IdlePolicy;
use crate::attribution::floor::{Floor, FloorKind};
use crate::clock::Moment;
use crate::ledger::ZoneAccount;
use crate::snapshot::{GroupRow, NodeInfo, Rows, Snapshot, TaskLabels, TaskRow, ZoneState, ZoneView};
use crate::source::discover::Role;
use crate::source::{CounterShape, Quality, SourceKind, Zone, ZoneKind};
use crate::usage::table::TaskClass;

const MJ: u64 = 1_000;

/// Energy of the two zones that count, in millijoules.
type Mj = [u64; 2];

fn energies(mj: Mj) -> [Energy; 2] {
    mj.map(|e| Energy::from_uj(e * MJ))
}

fn info() -> NodeInfo {
    NodeInfo {
        name: NodeId::new("edge1").unwrap(),
        boot: None,
        cpu_model: "Imaginary 9000".to_owned(),
        cpus: 4,
        sockets: 1,
        idle_policy: IdlePolicy::Unallocated,
    }
}

fn zone(name: &str, kind: ZoneKind, watts: u64, [total, unallocated, residual]: [u64; 3]) -> ZoneView {
    let watt = |w| Power::from_uw(w * 1_000_000);
    ZoneView {
        zone: Arc::new(Zone {
            id: ZoneId::new(&format!("powercap/{name}")).unwrap(),
            name: name.to_owned(),
            kind,
            parent: None,
            socket: Some(0),
            source: SourceKind::Powercap,
            path: String::new(),
            quality: Quality::Measured,
            error: Ratio::from_percent(2),
            counter: CounterShape { range: None, max_power: watt(1000) },
            idle: None,
        }),
        role: Role::Total,
        state: ZoneState::Live,
        account: ZoneAccount {
            total: Energy::from_uj(total * MJ),
            idle: Energy::from_uj(unallocated * MJ),
            unallocated: Energy::from_uj(unallocated * MJ),
            residual: Energy::from_uj(residual * MJ),
            ..ZoneAccount::default()
        },
        power: Some(watt(watts)),
        floor: Some(Floor { power: watt(watts / 4), error: Power::from_uw(300_000), kind: FloorKind::Learned }),
    }
}

fn id(kind: WorkloadKind, name: &str) -> WorkloadId {
    WorkloadId::new(kind, name).unwrap()
}

/// A machine before anything was measured, without any zone.
pub(super) fn nothing() -> Snapshot {
    let mut s = Snapshot::empty(Arc::new(info()));
    s.seq = 2;
    s.dt = Duration::from_secs(1);
    s.at = Moment { mono: 2_000_000_000, boot: 2_000_000_000, wall: 1_764_000_000_000_000_000 };
    s.utilisation = 0.25;
    let mut add = |pid: &str, comm: &str, ended, last_ms: u64| {
        let labels = TaskLabels { pid: pid.to_owned(), comm: comm.to_owned(), ..TaskLabels::default() };
        let row = TaskRow {
            labels: Arc::new(labels),
            class: TaskClass::Process,
            ended,
            cpu_ns: 5_000_000_000,
            cpu_last_ns: last_ms * 1_000_000,
            resident: 4096,
        };
        s.tasks.push(row, &[], &[], &[]);
    };
    add("1", "init", false, 0);
    add("4194304", "busy\u{1b}[31m", false, 998);
    add("77", "gone", true, 0);
    s
}

/// Tells what a task is: pid, name, class, whether it ended, workloads, CPU time in ms (all, last), energy and last.
type TaskFixture<'a> = (&'a str, &'a str, TaskClass, bool, &'a [WorkloadId], [u64; 2], Mj, Mj);

/// A machine of 40 W + 4 W with pods, units and a process that ended. Its energies add up, with 1 J of tasks that
/// have expired.
pub(super) fn machine() -> Snapshot {
    use WorkloadKind as K;
    let mut s = nothing();
    s.utilisation = 0.61;
    s.zones = vec![
        zone("package-0", ZoneKind::Package, 40, [400_000, 100_000, 2_000]),
        zone("dram", ZoneKind::Dram, 4, [40_000, 10_000, 0]),
        zone("core", ZoneKind::Core, 30, [290_000, 0, 0]),
    ];
    if let Some(core) = s.zones.get_mut(2) {
        core.role = Role::Part;
    }
    s.node_energy = Energy::from_uj(440_000 * MJ);
    s.node_power = Power::from_watts(44.0);
    let du = [id(K::Container, "c0ffee00"), id(K::Pod, "uid-du"), id(K::Namespace, "ran"), id(K::User, "0")];
    let ai = [id(K::Container, "decaf000"), id(K::Pod, "uid-ai"), id(K::Namespace, "mec"), id(K::User, "1000")];
    let pg = [id(K::Unit, "postgresql.service"), id(K::Slice, "system.slice"), id(K::User, "26")];
    let kernel = [id(K::System, "kernel")];
    let (process, children) = (TaskClass::Process, TaskClass::EndedChildren);
    let tasks: [TaskFixture<'_>; 7] = [
        ("2100", "du-high-phy", process, false, &du, [90_000, 1_200], [150_000, 15_000], [15_000, 1_500]),
        ("2101", "du-low-phy", process, false, &du, [10_000, 100], [10_000, 1_000], [1_000, 100]),
        ("3300", "python3", process, false, &ai, [70_000, 830], [90_000, 9_000], [9_000, 900]),
        ("512", "postgres", process, false, &pg, [20_000, 120], [20_000, 2_000], [1_500, 150]),
        ("512+", "postgres", children, false, &pg, [5_000, 60], [4_000, 400], [300, 30]),
        ("600", "pg_dump", process, true, &pg, [6_000, 0], [6_000, 600], [0, 0]),
        ("42", "kworker/0:1", TaskClass::Kernel, false, &kernel, [4_000, 40], [14_000, 1_400], [1_000, 100]),
    ];
    let mut groups = vec![
        (du[0].clone(), vec![("name", "du"), ("runtime", "containerd"), ("pod", "du-0"), ("pod_id", "uid-du")]),
        (ai[0].clone(), vec![("name", "server"), ("runtime", "containerd"), ("pod", "ai-7c9"), ("pod_id", "uid-ai")]),
        (du[1].clone(), vec![("name", "du-0"), ("namespace", "ran"), ("qos", "burstable")]),
        (ai[1].clone(), vec![("name", "ai-7c9"), ("namespace", "mec"), ("qos", "guaranteed")]),
        (du[2].clone(), vec![("name", "ran")]),
        (ai[2].clone(), vec![("name", "mec")]),
        (pg[0].clone(), vec![("name", "postgresql.service"), ("slice", "system.slice")]),
        (pg[1].clone(), vec![("name", "system.slice")]),
        (kernel[0].clone(), vec![("name", "kernel")]),
        (id(K::System, "interrupts"), vec![("name", "interrupts")]),
    ];
    groups.extend(["0", "1000", "26"].map(|uid| (id(K::User, uid), vec![("uid", uid)])));
    s.tasks = Rows::new(3);
    for (pid, comm, class, ended, workloads, [all, last_ms], energy, last) in &tasks {
        let labels = TaskLabels {
            pid: (*pid).to_owned(),
            comm: (*comm).to_owned(),
            workloads: workloads.to_vec(),
            ..TaskLabels::default()
        };
        let row = TaskRow {
            labels: Arc::new(labels),
            class: *class,
            ended: *ended,
            cpu_ns: all * 1_000_000,
            cpu_last_ns: last_ms * 1_000_000,
            resident: 1 << 20,
        };
        let [p, d] = energies(*energy);
        let [lp, ld] = energies(*last);
        s.tasks.push(row, &[p, d, p], &[Energy::ZERO; 3], &[lp, ld, lp]);
    }
    s.groups = Rows::new(3);
    for (id, labels) in groups {
        let members: Vec<_> = tasks.iter().filter(|t| t.4.contains(&id)).collect();
        let (mut energy, mut last, mut cpu) = ([0; 2], [0; 2], [0; 2]);
        for t in &members {
            for z in 0..2 {
                energy[z] += t.6[z];
                last[z] += t.7[z];
                cpu[z] += t.5[z] * 1_000_000;
            }
        }
        if id.name() == "interrupts" {
            (energy, last) = ([3_000, 300], [200, 20]);
        }
        let row = GroupRow {
            id,
            labels: Arc::new(labels.into_iter().map(|(k, v)| (k, v.to_owned())).collect()),
            ended: false,
            tasks: u32::try_from(members.iter().filter(|t| !t.3).count()).unwrap(),
            cpu_ns: cpu[0],
            cpu_last_ns: cpu[1],
            rendered: Arc::default(),
        };
        let [p, d] = energies(energy);
        let [lp, ld] = energies(last);
        s.groups.push(row, &[p, d, p], &[Energy::ZERO; 3], &[lp, ld, lp]);
    }
    s
}

/// The machine one second earlier.
fn earlier(now: &Snapshot) -> Before {
    let mut s = now.clone();
    for (z, last) in s.zones.iter_mut().zip([[40_000, 11_000, 1_000], [4_000, 1_200, 0], [30_000, 0, 0]]) {
        let less = |e: Energy, mj: u64| e.checked_sub(Energy::from_uj(mj * MJ)).unwrap();
        z.account.total = less(z.account.total, last[0]);
        z.account.unallocated = less(z.account.unallocated, last[1]);
        z.account.residual = less(z.account.residual, last[2]);
    }
    Before::of(&s)
}

/// What is shown of `snapshot`, which is [`machine`] or made of it.
pub(super) fn picture(snapshot: Snapshot) -> Picture {
    let before = earlier(&snapshot);
    Picture::new(&before, Arc::new(snapshot))
}
