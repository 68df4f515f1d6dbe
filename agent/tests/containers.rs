//! Real containers: whose the CPU time of their processes is, by both ways of reading who ran and on the agent's page.
//!
//! They need root, a static busybox, podman and runc. Without them they say so and pass; where
//! `EBBTIDE_REQUIRE_CONTAINERS` is set they fail instead. `EBBTIDE_REQUIRE_BPF` is that of `usage.rs`.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/agent.rs"]
mod agent;
#[path = "containers/site.rs"]
mod site;

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbtide_agent::clock;
use ebbtide_agent::host::HostRoot;
use ebbtide_agent::usage::UsageReader;
use ebbtide_agent::usage::bpf::BpfReader;
use ebbtide_agent::usage::procfs::ProcfsReader;
use ebbtide_agent::usage::table::{Delta, TaskClass, TaskTable};
use ebbtide_agent::workload::cgroup::{self, Qos};

use agent::Agent;
use rustix::fs::{FlockOperation, flock};
use site::{Container, Kind, Site, wait};

const TICK_NS: u64 = 10_000_000;
const PATIENCE: Duration = Duration::from_secs(60);

const BUSY: &str = "while :; do :; done";
/// Uses 250 ms of CPU time, however long that takes, and tells how much it was.
const SHORT: &str = "while read -r used rest </proc/self/schedstat && [ $used -lt 250000000 ]; do \
                     i=0; while [ $i -lt 200 ]; do i=$((i+1)); done; done; echo $used";

/// One at a time: control groups of the same names are made and removed, and CPU time is scarce.
///
/// The file is that of `usage.rs`, one of whose tests floods the kernel's buffers.
fn alone() -> (MutexGuard<'static, ()>, std::fs::File) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let file = std::fs::File::create(Path::new(env!("CARGO_TARGET_TMPDIR")).join("kernel-buffers")).unwrap();
    flock(&file, FlockOperation::LockShared).unwrap();
    (turn, file)
}

/// A reader, and what it said of control groups.
struct Meter {
    name: &'static str,
    reader: Box<dyn UsageReader>,
    table: TaskTable,
    deltas: Vec<Delta>,
    /// Class, path and CPU time.
    used: Vec<(TaskClass, std::sync::Arc<str>, u64)>,
}

impl Meter {
    fn new(reader: impl UsageReader + 'static) -> Self {
        let name = reader.status().method.as_str();
        let reader = Box::new(reader);
        let mut meter = Self { name, reader, table: TaskTable::default(), deltas: Vec::new(), used: Vec::new() };
        meter.sample();
        meter
    }

    /// From the kernel, if that is possible here.
    fn bpf() -> Option<Self> {
        match BpfReader::with_events(&HostRoot::new("/"), &[]) {
            Ok(reader) => Some(Self::new(reader)),
            Err(why) if std::env::var_os("EBBTIDE_REQUIRE_BPF").is_none() => {
                eprintln!("SKIPPED: {why}");
                None
            }
            Err(why) => panic!("BPF is required here: {why}"),
        }
    }

    fn sample(&mut self) {
        self.deltas.clear();
        self.reader.sample(clock::now(), None, &mut self.table, &mut self.deltas).unwrap();
        for d in &self.deltas {
            let t = self.table.get(d.task).unwrap();
            match self.used.iter_mut().find(|(class, path, _)| *class == t.class && *path == t.cgroup) {
                Some(used) => used.2 += d.cpu_ns,
                None => self.used.push((t.class, t.cgroup.clone(), d.cpu_ns)),
            }
        }
    }

    /// CPU time of a container's tasks of some classes.
    fn of(&self, container: &Container<'_>, classes: &[TaskClass]) -> u64 {
        let its = |class, path| classes.contains(class) && container.holds(path);
        self.used.iter().filter(|(class, path, _)| its(class, path)).map(|(_, _, ns)| ns).sum()
    }
}

const ALL: [TaskClass; 2] = [TaskClass::Process, TaskClass::EndedChildren];

/// 5 %, or two ticks.
fn slack(ns: u64) -> u64 {
    (ns / 20).max(2 * TICK_NS)
}

/// Who is in a container is known, and what it uses is what the kernel counts.
fn a_busy_container_is_charged(kind: Kind) {
    let _turn = alone();
    let Some(site) = Site::new(kind) else { return };
    let mut meters = vec![Meter::new(ProcfsReader::open(&HostRoot::new("/"), false).unwrap())];
    meters.extend(Meter::bpf());
    let mut container = site.container(BUSY).unwrap();
    // it is seen at every step of its making, when its processes bear other names in other groups
    container.start(|| meters.iter_mut().for_each(Meter::sample));
    // the kernel's count before and after the look that begins the interval
    let mut begun = Vec::new();
    for meter in &mut meters {
        let before = container.used();
        meter.sample();
        begun.push((before, container.used(), meter.of(&container, &ALL)));
        let pids = container.pids();
        assert!(!pids.is_empty());
        for pid in pids {
            let task = meter.table.get(meter.table.by_pid(pid).unwrap()).unwrap();
            assert_eq!(cgroup::identify(&task.cgroup), container.identity(), "{}: {}", meter.name, task.cgroup);
            assert_eq!((task.class, task.comm.to_text().as_ref()), (TaskClass::Process, "sh"), "{}", meter.name);
        }
    }
    let start = container.used();
    let enough = wait(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(90));
        meters.iter_mut().for_each(Meter::sample);
        container.used() - start > 600_000_000
    });
    assert!(enough, "the container doesn't run");
    for (meter, (before, after, already)) in meters.iter_mut().zip(begun) {
        let least = container.used() - after;
        meter.sample();
        let most = container.used() - before;
        let found = meter.of(&container, &ALL) - already;
        let (low, high) = (least - slack(least), most + slack(most));
        assert!((low..=high).contains(&found), "{}: {found} ns, not {least} to {most}", meter.name);
    }
    // it stays who it was when its processes and its groups are gone
    container.remove();
    for meter in &mut meters {
        let charged = meter.of(&container, &ALL);
        meter.sample();
        assert!(meter.of(&container, &ALL) >= charged);
        // the kernel tells of the last ones a little after they end
        let rows = |meter: &Meter| {
            let its = meter.table.iter().filter(|(_, t)| t.class == TaskClass::Process && container.holds(&t.cgroup));
            its.map(|(_, t)| t.ended.is_some()).collect::<Vec<bool>>()
        };
        let ended = wait(Duration::from_secs(5), || {
            meter.sample();
            rows(meter).iter().all(|ended| *ended)
        });
        assert!(ended && !rows(meter).is_empty(), "{}", meter.name);
    }
}

/// A container that comes and goes between two samples is charged all the same, by what is known of its groups when
/// they are gone.
fn a_short_container_is_charged(kind: Kind) {
    let _turn = alone();
    let Some(site) = Site::new(kind) else { return };
    let Some(mut meter) = Meter::bpf() else { return };
    let mut container = site.container(SHORT).unwrap();
    meter.sample();
    let before = site.used();
    let said = container.run().unwrap();
    container.remove();
    assert!(container.is_gone());
    let most = site.used() - before;
    let own: u64 = said.trim().parse().unwrap();
    // podman's monitor is counted beside the container, runc has none
    let least = if kind == Kind::Podman { own } else { most };
    // the kernel frees the last ones a little after they end
    let found = |meter: &Meter| meter.of(&container, &[TaskClass::EndedChildren]);
    wait(Duration::from_secs(5), || {
        meter.sample();
        found(&meter) + slack(least) / 2 > least
    });
    let found = found(&meter);
    assert!(own >= 250_000_000 && most >= own, "{own} {most}");
    assert!((least - slack(least)..=most + slack(most)).contains(&found), "{found} ns, not {least} to {most}");
    let paths = meter.used.iter().filter(|(_, path, _)| container.holds(path));
    for (class, path, _) in paths {
        assert_eq!(*class, TaskClass::EndedChildren, "{path} was seen alive");
        assert_eq!(cgroup::identify(path), container.identity(), "{path}");
    }
    assert_eq!(meter.reader.status().lost_exits, 0);
}

#[test]
fn busy_of_podman() {
    a_busy_container_is_charged(Kind::Podman);
}

#[test]
fn busy_of_docker() {
    a_busy_container_is_charged(Kind::Docker);
}

#[test]
fn busy_in_a_best_effort_pod() {
    a_busy_container_is_charged(Kind::Pod(Qos::BestEffort));
}

#[test]
fn busy_in_a_burstable_pod() {
    a_busy_container_is_charged(Kind::Pod(Qos::Burstable));
}

#[test]
fn short_of_podman() {
    a_short_container_is_charged(Kind::Podman);
}

#[test]
fn short_of_docker() {
    a_short_container_is_charged(Kind::Docker);
}

#[test]
fn short_in_a_best_effort_pod() {
    a_short_container_is_charged(Kind::Pod(Qos::BestEffort));
}

#[test]
fn short_in_a_burstable_pod() {
    a_short_container_is_charged(Kind::Pod(Qos::Burstable));
}

/// Labels and CPU seconds of a workload.
fn seconds(agent: &Agent, kind: &str, id: &str) -> Option<(String, f64)> {
    let page = agent.page();
    let name = format!("ebbtide_workload_cpu_seconds_total{{kind=\"{kind}\",id=\"{id}\"");
    let line = page.lines().find_map(|l| l.strip_prefix(&name))?;
    let (labels, value) = line.rsplit_once("} ")?;
    Some((labels.to_owned(), value.parse().unwrap()))
}

/// The program as it is run: a container that starts after it has a series that grows with the kernel's count.
fn the_page_has(kind: Kind) {
    let _turn = alone();
    let Some(site) = Site::new(kind) else { return };
    let agent = Agent::start(Command::new(env!("CARGO_BIN_EXE_ebbtide-agent")), &["--interval", "200ms"]);
    let mut container = site.container(BUSY).unwrap();
    container.start(|| {});
    let identity = container.identity().container.unwrap();
    let mut first = None;
    let mut grown = 0.0;
    let grows = wait(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(90));
        let Some((labels, now)) = seconds(&agent, "container", &container.id) else { return false };
        assert!(labels.contains(&format!("runtime=\"{}\"", identity.runtime.as_str())), "{labels}");
        grown = now - *first.get_or_insert(now);
        grown > 0.5
    });
    let counted = container.used() as f64 / 1e9;
    let (_, all) = seconds(&agent, "container", &container.id).unwrap_or_default();
    assert!(grows, "{grown} s of {counted}:\n{}", agent.page());
    assert!(grown <= counted * 1.05 + 0.02, "{grown} s of {counted}");
    if let Some(uid) = kind.pod_uid() {
        let (labels, pod) = seconds(&agent, "pod", uid).unwrap();
        assert!(pod >= all && labels.contains("qos=\""), "{labels} {pod} {all}");
    }
    // its last figures are still to be had when it is gone
    container.remove();
    assert!(seconds(&agent, "container", &container.id).unwrap().1 >= all);
}

#[test]
fn the_page_has_a_container_of_podman() {
    the_page_has(Kind::Podman);
}

#[test]
fn the_page_has_a_container_and_its_pod() {
    the_page_has(Kind::Pod(Qos::Burstable));
}
