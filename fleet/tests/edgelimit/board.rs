//! A board on an outlet: it boots when it gets power, runs an agent and what Kubernetes puts on it, and draws what that
//! costs. Its agent is a process of its own that measures a tree of files below the board's folder.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use ebbtide_agent::twin::fakeroot::{FakeProcess, FakeRoot};
use ebbtide_kubernetes_twin::Cluster;
use ebbtide_kubernetes_twin::kinds::PODS;
use ebbtide_runtime::clock::{self, Moment};
use serde_json::Value;

use crate::pdu::Pdu;

/// The variable with the arguments of an agent.
pub const AGENT: &str = "EBBTIDE_AGENT_OF_BOARD";
/// The arguments by which this program becomes an agent, with those of the agent in that variable.
pub type Agent = &'static [&'static str];
/// Time between two moments of a board.
const STEP: Duration = Duration::from_millis(200);
/// From power to an agent that runs, and to a kubelet that speaks.
const BOOT: Duration = Duration::from_millis(1500);
const READY: Duration = Duration::from_millis(2500);
/// What a board draws that was shut down, as long as its outlet gives power.
const HALTED_W: f64 = 0.4;
const TICKS_PER_S: f64 = 100.0;
const BOARD_BOOT: u64 = 1_000_000_000;

/// What kind of board.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub cpus: u32,
    /// Watts without work, and with all CPUs busy.
    pub watts: (f64, f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Dark,
    Booting(Moment),
    Up(Moment),
    Halted,
}

/// A board.
pub struct Board {
    name: String,
    kind: Kind,
    outlet: usize,
    pdu: Pdu,
    cluster: Arc<Cluster>,
    fleet: SocketAddr,
    becomes: Agent,
    folder: PathBuf,
    state: State,
    boots: u32,
    agent: Option<Child>,
    root: Root,
}

/// What the agent reads.
struct Root {
    fake: FakeRoot,
    /// By uid of the pod: its process and its CPU time in ticks.
    pods: BTreeMap<String, (u32, f64)>,
    next_pid: u32,
    busy: f64,
    idle: f64,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Pods that run on a node, by uid, and the CPUs that each uses.
fn running(cluster: &Cluster, node: &str) -> BTreeMap<String, f64> {
    let pods = cluster.list(PODS, "");
    let here = pods.iter().filter(|p| p["spec"]["nodeName"] == node && p["status"]["phase"] == "Running");
    let uses = |p: &Value| if p["metadata"]["labels"]["app"] == "ran" { 4.0 } else { 0.4444 };
    here.map(|p| (p["metadata"]["uid"].as_str().unwrap().to_owned(), uses(p))).collect()
}

impl Board {
    pub fn new(
        name: &str,
        kind: Kind,
        outlet: usize,
        (pdu, cluster): (&Pdu, &Arc<Cluster>),
        fleet: SocketAddr,
        folder: &Path,
        becomes: Agent,
    ) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self {
            name: name.to_owned(),
            kind,
            outlet,
            pdu: pdu.clone(),
            cluster: Arc::clone(cluster),
            fleet,
            becomes,
            state: State::Dark,
            boots: 0,
            agent: None,
            root: Root::new(&folder.join("root")),
            folder,
        }
    }

    /// Plays the board until it is dropped.
    pub async fn play(mut self) -> anyhow::Result<()> {
        let mut steps = tokio::time::interval(STEP);
        let mut before = clock::now();
        loop {
            steps.tick().await;
            let now = clock::now();
            self.step(now, now.since(before).as_secs_f64())?;
            before = now;
        }
    }

    fn step(&mut self, now: Moment, seconds: f64) -> anyhow::Result<()> {
        let powered = self.pdu.outlet(self.outlet).on;
        let halt = self.folder.join("halt");
        let next = match self.state {
            _ if !powered => State::Dark,
            State::Dark => State::Booting(now),
            State::Booting(since) if now.since(since) >= BOOT => State::Up(since),
            State::Up(_) if halt.exists() => State::Halted,
            same => same,
        };
        if next != self.state {
            match next {
                State::Up(_) => {
                    self.boots += 1;
                    std::fs::remove_file(&halt).ok();
                    self.root.boot(&self.name, self.kind.cpus, self.boots)?;
                    self.agent = Some(self.start_agent()?);
                }
                State::Dark | State::Halted => {
                    self.kill();
                    self.cluster.silence(&self.name, true);
                }
                State::Booting(_) => {}
            }
            self.state = next;
        }
        let (idle, full) = self.kind.watts;
        let watts = match self.state {
            State::Dark => 0.0,
            State::Halted => HALTED_W,
            State::Booting(_) => idle,
            State::Up(since) => {
                if now.since(since) >= READY && self.cluster.change().crew.silent.contains(&self.name) {
                    self.cluster.silence(&self.name, false);
                }
                let pods = running(&self.cluster, &self.name);
                self.root.run(&pods, self.kind.cpus, seconds)?;
                idle + (full - idle) * pods.values().sum::<f64>() / f64::from(self.kind.cpus)
            }
        };
        self.pdu.draw(self.outlet, watts);
        Ok(())
    }

    fn start_agent(&self) -> anyhow::Result<Child> {
        let (idle, full) = self.kind.watts;
        let state = self.folder.join("state");
        std::fs::create_dir_all(&state)?;
        let args = arguments(&self.name, &self.folder.join("root"), &state, self.fleet, idle, full);
        let log = std::fs::File::create(self.folder.join(format!("agent-{}.log", self.boots)))?;
        Ok(Command::new(std::env::current_exe()?)
            .args(self.becomes)
            .env(AGENT, args.join("\n"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?)
    }

    fn kill(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            agent.kill().ok();
            agent.wait().ok();
        }
    }
}

/// How a board's agent is called.
pub fn arguments(name: &str, root: &Path, state: &Path, fleet: SocketAddr, idle: f64, full: f64) -> Vec<String> {
    let text = |path: &Path| path.display().to_string();
    let args: [&str; 23] = [
        "ebbtide-agent",
        "run",
        "--root",
        &text(root),
        "--node-name",
        name,
        "--state",
        &text(state),
        "--listen",
        "127.0.0.1:0",
        "--usage",
        "procfs",
        "--interval",
        "500ms",
        "--fleet",
        &format!("http://{fleet}"),
        "--fleet-node-interval",
        "500ms",
        "--fleet-workload-interval",
        "1s",
        "--model-idle",
        &format!("{idle} W"),
        &format!("--model-full={full} W"),
    ];
    args.map(str::to_owned).to_vec()
}

impl Root {
    fn new(path: &Path) -> Self {
        Self { fake: FakeRoot::new(path), pods: BTreeMap::new(), next_pid: 100, busy: 0.0, idle: 0.0 }
    }

    /// What a kernel shows that has just booted.
    fn boot(&mut self, name: &str, cpus: u32, boots: u32) -> anyhow::Result<()> {
        for (pid, _) in std::mem::take(&mut self.pods).into_values() {
            self.fake.end(pid)?;
        }
        (self.busy, self.idle) = (0.0, 0.0);
        let all = format!("0-{}\n", cpus - 1);
        let id = (u64::from(boots) << 32) + name.bytes().map(u64::from).sum::<u64>();
        for (path, text) in [
            ("proc/sys/kernel/hostname", format!("{name}\n")),
            ("proc/sys/kernel/random/boot_id", format!("0b6e8a2c-93f5-4a63-9d5e-{:012x}\n", BOARD_BOOT + id)),
            ("proc/sys/kernel/osrelease", "6.12.0-board\n".to_owned()),
            ("proc/sys/kernel/pid_max", "4194304\n".to_owned()),
            ("sys/fs/cgroup/cgroup.controllers", "cpu memory\n".to_owned()),
            ("sys/devices/system/cpu/present", all.clone()),
            ("sys/devices/system/cpu/possible", all.clone()),
            ("sys/devices/system/cpu/online", all),
            ("proc/meminfo", "MemTotal: 8388608 kB\nMemFree: 8000000 kB\nMemAvailable: 8000000 kB\n".to_owned()),
            ("proc/loadavg", "0.00 0.00 0.00 1/10 99\n".to_owned()),
        ] {
            self.fake.put(path, text)?;
        }
        let cpu = |n: u32| {
            format!(
                "processor\t: {n}\nmodel name\t: board of {cpus}\nphysical id\t: 0\nsiblings\t: {cpus}\ncore id\t\t: {n}\n\
                 cpu cores\t: {cpus}\n\n"
            )
        };
        self.fake.put("proc/cpuinfo", (0..cpus).map(cpu).collect::<String>())?;
        for n in 0..cpus {
            for (file, text) in [
                ("physical_package_id", "0\n".to_owned()),
                ("core_id", format!("{n}\n")),
                ("thread_siblings_list", format!("{n}\n")),
            ] {
                self.fake.put(&format!("sys/devices/system/cpu/cpu{n}/topology/{file}"), text)?;
            }
        }
        self.fake.process(&FakeProcess { ppid: 0, ..FakeProcess::new(1, "init") })?;
        self.run(&BTreeMap::new(), cpus, 0.0)
    }

    /// Pods have used their CPUs for so many seconds.
    fn run(&mut self, pods: &BTreeMap<String, f64>, cpus: u32, seconds: f64) -> anyhow::Result<()> {
        let ended: Vec<String> = self.pods.keys().filter(|uid| !pods.contains_key(*uid)).cloned().collect();
        for uid in ended {
            if let Some((pid, _)) = self.pods.remove(&uid) {
                self.fake.end(pid)?;
            }
        }
        for (uid, uses) in pods {
            let new = !self.pods.contains_key(uid);
            let next = self.next_pid;
            let (pid, ticks) = self.pods.entry(uid.clone()).or_insert((next, 0.0));
            *ticks += uses * seconds * TICKS_PER_S;
            let mut process = FakeProcess::new(*pid, "work");
            process.cgroup = format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{:064x}.scope\n",
                uid.replace('-', "_"),
                *pid
            );
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "ticks of a minute")]
            (process.utime = *ticks as u64);
            if new {
                self.next_pid += 1;
                self.fake.process(&process)?;
            } else {
                self.fake.process_times(&process)?;
            }
        }
        let busy = pods.values().sum::<f64>() * seconds * TICKS_PER_S;
        self.busy += busy;
        self.idle += (f64::from(cpus) * seconds * TICKS_PER_S - busy).max(0.0);
        let share = |total: f64| (total / f64::from(cpus)).floor();
        let mut stat = format!("cpu  {} 0 0 {} 0 0 0 0 0 0\n", self.busy.floor(), self.idle.floor());
        for n in 0..cpus {
            stat.push_str(&format!("cpu{n} {} 0 0 {} 0 0 0 0 0 0\n", share(self.busy), share(self.idle)));
        }
        stat.push_str("intr 0\nctxt 1\nbtime 1\nprocesses 1\nprocs_running 1\nprocs_blocked 0\n");
        self.fake.put("proc/stat", stat)?;
        let up = clock::now().boot as f64 / 1e9;
        self.fake.put("proc/uptime", format!("{up:.2} {up:.2}\n"))?;
        Ok(())
    }
}
