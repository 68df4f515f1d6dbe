//! The agent as a user runs it: its binary, its command line, its page.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use ebbtide_agent::clock;
use rustix::process::{Pid, Signal, kill_process};

use crate::scrape::Scraper;
use crate::{fake_rapl, kernel};

/// How long an agent may take until it shows its first sample, and to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// One way to run the agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// How it is called in tables.
    pub(crate) name: &'static str,
    pub(crate) args: &'static [&'static str],
    /// Whether each process has series of its own.
    pub(crate) everyone: bool,
}

/// The page as it is without any setting.
pub(crate) const DEFAULT: Setup = Setup { name: "default", args: &[], everyone: false };
/// Each process under Kepler's names.
pub(crate) const KEPLER: Setup =
    Setup { name: "every process, Kepler's names", args: &["--names=kepler", "--processes=all"], everyone: true };
/// Each process under Ebbtide's names.
pub(crate) const NATIVE: Setup =
    Setup { name: "every process, Ebbtide's names", args: &["--processes=all"], everyone: true };

/// A round of measurements of agents that run beside each other.
pub(crate) struct Round<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) root: &'a Path,
    pub(crate) interval: Duration,
    /// Whether the agent runs ahead of other load.
    pub(crate) ahead: bool,
    /// Processes that were started to be seen.
    pub(crate) processes: usize,
    pub(crate) warm_up: usize,
    pub(crate) cycles: usize,
}

/// What one run of an agent showed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// CPU time of each cycle of one collection and one scrape, in milliseconds.
    pub(crate) cpu_ms: Vec<f64>,
    /// From request to last byte, in milliseconds.
    pub(crate) page_ms: Vec<f64>,
    pub(crate) page_bytes: usize,
    pub(crate) series: usize,
    pub(crate) start_seconds: f64,
    /// CPU time until the first page, in milliseconds.
    pub(crate) start_cpu_ms: f64,
    pub(crate) peak_mib: f64,
    pub(crate) resident_mib: f64,
    /// Samples that the agent itself found late.
    pub(crate) late: f64,
}

/// A running agent. Dropping it stops it.
struct Agent {
    child: Child,
    scraper: Scraper,
    state: PathBuf,
    run: Run,
}

impl Round<'_> {
    /// Runs one agent per setup at the same time, and scrapes each once per interval, one after the other.
    ///
    /// At the same time, since the machine's other load is then the same for all, and since it takes a third of
    /// the time. An agent is started when those before it idle.
    pub(crate) fn measure(&self, setups: &[Setup]) -> anyhow::Result<Vec<Run>> {
        let mut agents = Vec::with_capacity(setups.len());
        for setup in setups {
            agents.push(self.start(setup, agents.len())?);
        }
        let every = u64::try_from(self.interval.as_nanos())?;
        let apart = every / setups.len().max(1) as u64;
        let began = clock::now().mono;
        let mut cpu_before = vec![Duration::ZERO; setups.len()];
        for (cycle, beat) in (0..=self.warm_up + self.cycles).zip(0u64..) {
            for (((agent, setup), before), place) in agents.iter_mut().zip(setups).zip(&mut cpu_before).zip(0u64..) {
                sleep_until(began + beat * every + place * apart);
                // from here to the same place of the next cycle there are one scrape and one collection
                let cpu = kernel::cpu_of(agent.child.id())?;
                let spent = cpu.saturating_sub(std::mem::replace(before, cpu));
                if cycle > self.warm_up {
                    agent.run.cpu_ms.push(spent.as_secs_f64() * 1e3);
                }
                if cycle < self.warm_up + self.cycles {
                    let took = agent.scraper.get().with_context(|| format!("can't read the page ({})", setup.name))?;
                    if cycle >= self.warm_up {
                        agent.run.page_ms.push(took.as_secs_f64() * 1e3);
                    }
                }
            }
        }
        agents.into_iter().zip(setups).map(|(agent, setup)| self.finish(agent, setup)).collect()
    }

    fn start(&self, setup: &Setup, number: usize) -> anyhow::Result<Agent> {
        // the port is free until another program takes it in the meantime
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let state = fake_rapl::scratch(std::process::id()).join(number.to_string());
        let mut command = Command::new(self.binary);
        command
            .env_clear() // settings of the person who measures must not matter
            .arg("run")
            .arg(format!("--root={}", self.root.display()))
            .arg(format!("--listen={address}"))
            .arg(format!("--interval={}ms", self.interval.as_millis()))
            .arg(format!("--state={}", state.display()))
            .arg("--node-name=bench")
            .arg("--log-level=error")
            .args(setup.args)
            .stdin(Stdio::null());
        kernel::prepare(&mut command, self.ahead);
        let began = clock::now();
        let mut child = command.spawn().with_context(|| format!("can't start {}", self.binary.display()))?;
        let scraper = loop {
            match first_page(address) {
                Some(scraper) => break scraper,
                None if child.try_wait()?.is_some() => bail!("{} ended right after its start", self.binary.display()),
                None if clock::now().since(began) > PATIENCE => {
                    child.kill()?;
                    bail!("no sample after {} s ({})", PATIENCE.as_secs(), setup.name);
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        let run = Run {
            start_seconds: clock::now().since(began).as_secs_f64(),
            start_cpu_ms: kernel::cpu_of(child.id())?.as_secs_f64() * 1e3,
            ..Run::default()
        };
        Ok(Agent { child, scraper, state, run })
    }

    fn finish(&self, agent: Agent, setup: &Setup) -> anyhow::Result<Run> {
        let mut run = agent.run.clone();
        run.page_bytes = agent.scraper.page.len();
        run.series = agent.scraper.series();
        run.late = agent.scraper.figure("ebbtide_agent_late_samples_total").unwrap_or(0.0);
        let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id()))?;
        let mib = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            Some(line.split_ascii_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
        };
        run.peak_mib = mib("VmHWM:").context("no VmHWM in the agent's status")?;
        run.resident_mib = mib("VmRSS:").context("no VmRSS in the agent's status")?;
        // a cheap page that shows nothing is no result
        let package = if setup.args.iter().any(|a| a.contains("kepler")) {
            let path = self.root.join("sys/class/powercap/intel-rapl:0/energy_uj");
            let labels = format!("node_name=\"bench\",zone=\"package\",path=\"{}\"", path.display());
            format!("kepler_node_cpu_joules_total{{{labels}}}")
        } else {
            "ebbtide_node_energy_joules_total{zone=\"package-0\",kind=\"package\",source=\"powercap\"}".to_owned()
        };
        if agent.scraper.figure(&package).is_none_or(|joules| joules <= 0.0) {
            bail!("the page of the agent ({}) has no energy of the package ({package})", setup.name);
        }
        if setup.everyone && run.series < self.processes {
            bail!("the page ({}) has {} series for {} processes", setup.name, run.series, self.processes);
        }
        Ok(run)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let stopped = kill_process(Pid::from_child(&self.child), Signal::TERM).map_err(std::io::Error::from);
        if let Err(error) = stopped.and_then(|()| self.child.wait()) {
            eprintln!("can't stop an agent: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.state)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("can't remove {}: {error}", self.state.display());
        }
    }
}

/// A connection to an agent that shows its first sample; a page before that doesn't count.
fn first_page(address: SocketAddr) -> Option<Scraper> {
    let mut scraper = Scraper::connect(address).ok()?;
    scraper.get().ok()?;
    scraper.figure("ebbtide_agent_samples_total").filter(|&samples| samples >= 1.0)?;
    Some(scraper)
}

fn sleep_until(mono: u64) {
    let now = clock::now().mono;
    if now < mono {
        std::thread::sleep(Duration::from_nanos(mono - now));
    }
}
