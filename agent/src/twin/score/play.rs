//! World and agent, step by step in simulated time.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ebbtide_proto::NodeId;

use super::balance::Balance;
use super::compare::Follower;
use super::counted::{CountedReader, Counters};
use super::kepler::NodeTime;
use super::{Score, ScoreError};
use crate::attribution::IdlePolicy;
use crate::config::Processes;
use crate::host::{HostRoot, read_text};
use crate::sampler::{Options, Sampler, StartError};
use crate::snapshot::Snapshot;
use crate::source::discover::{DiscoverOptions, discover};
use crate::source::integrate::ProbeMode;
use crate::source::model;
use crate::twin::scenario::{Event, Scenario, What};
use crate::twin::{Truth, Twin};
use crate::usage::UsageReader;
use crate::usage::procfs::ProcfsReader;

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// What one sample gave, for those who want to look at each.
pub struct Sample<'a> {
    /// What the agent says.
    pub snapshot: &'a Snapshot,
    /// What happened.
    pub truth: &'a Truth,
    /// Running time played so far.
    pub elapsed: Duration,
    /// Whether the agent was started anew since the last sample.
    pub restarted: bool,
}

/// How the agent is set up. The figures mean what they say under [`IdlePolicy::Unallocated`] only; what must hold
/// at each sample holds under all.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup {
    /// What is done with idle energy.
    pub idle_policy: IdlePolicy,
    /// Whether threads are told apart.
    pub threads: bool,
    /// Whether each process has hardware counters; its threads are told apart then.
    pub counters: bool,
}

/// Plays `scenario` with the agent in its default setup and compares. Same scenario and seed, same score.
pub fn score(scenario: &Scenario, seed: u64) -> Result<Score, ScoreError> {
    score_with(scenario, seed, Setup::default(), &mut |_| ControlFlow::Continue(()))
}

/// As [`score`] in any setup, and lets `look` see each sample and stop before the end.
pub fn score_with(scenario: &Scenario, seed: u64, setup: Setup, look: Look<'_>) -> Result<Score, ScoreError> {
    // a zone that stops answering is part of the play, nothing to warn anybody of
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), || {
        play(scenario, seed, setup, look)
    })
}

/// Sees each sample; [`ControlFlow::Break`] ends the play with [`ScoreError::Stopped`].
pub type Look<'a> = &'a mut dyn FnMut(&Sample<'_>) -> ControlFlow<()>;

fn play(scenario: &Scenario, seed: u64, setup: Setup, look: Look<'_>) -> Result<Score, ScoreError> {
    let scratch = Scratch::new().map_err(|(path, source)| ScoreError::Tree { path, source })?;
    let (root, state) = (scratch.0.join("root"), scratch.0.join("state"));
    let tree = |source| ScoreError::Tree { path: root.display().to_string(), source };
    let mut twin = Twin::new(scenario, seed);
    twin.write(&root).map_err(tree)?;
    let host = HostRoot::new(&root);
    let (mut balance, mut follower) = (Balance::default(), Follower::default());
    let counters = Counters::default();
    let mut agent = Some(start(&host, &state, setup, &counters)?);
    // when the agent is started again, seconds
    let mut back_at = f64::INFINITY;
    let mut restarted = true;
    let mut last: Option<Arc<Snapshot>> = None;
    let mut samples = 0;
    loop {
        if agent.is_none() && twin.elapsed().as_secs_f64() >= back_at {
            agent = Some(start(&host, &state, setup, &counters)?);
            restarted = true;
        }
        if let Some(agent) = &mut agent {
            if setup.counters {
                counters.set(twin.truth());
            }
            let snapshot = agent.step(twin.now()).map_err(ScoreError::Sample)?;
            samples += 1;
            let elapsed = twin.elapsed();
            balance.check(&snapshot, restarted);
            let elapsed_ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
            follower.take(&snapshot, twin.truth(), NodeTime::read(&host), elapsed_ns, restarted);
            if look(&Sample { snapshot: &snapshot, truth: twin.truth(), elapsed, restarted }).is_break() {
                return Err(ScoreError::Stopped);
            }
            last = Some(snapshot);
            restarted = false;
        }
        let left = scenario.duration().saturating_sub(twin.elapsed());
        if left.is_zero() {
            break;
        }
        twin.step(INTERVAL.min(left));
        twin.write(&root).map_err(tree)?;
        for event in twin.events_due() {
            if let Event { at_s, what: What::AgentRestart { down_s } } = event {
                agent = None;
                back_at = at_s + down_s;
            }
        }
    }
    let Some(last) = last else {
        return Err(ScoreError::Sample(io::Error::other("no sample was taken")));
    };
    let (ours, kepler, workloads, zones) = follower.figures(scenario, &last, twin.truth());
    Ok(Score {
        scenario: scenario.name.clone(),
        about: scenario.about.clone(),
        seed,
        seconds: twin.elapsed().as_secs_f64(),
        samples,
        broken: balance.broken,
        breaches: balance.breaches,
        agent: ours,
        kepler,
        zones,
        workloads,
    })
}

/// The agent with its defaults, every process shown.
fn start(host: &HostRoot, state: &Path, setup: Setup, counters: &Counters) -> Result<Sampler, StartError> {
    let cpuinfo = read_text(&host.proc("cpuinfo")).unwrap_or_default();
    let node =
        NodeId::new("twin").map_err(|e| StartError::Proc { path: "twin".into(), source: io::Error::other(e) })?;
    let options = Options {
        node,
        idle_policy: setup.idle_policy,
        idle_floor: BTreeMap::new(),
        processes: Processes::All,
        retention: Duration::from_secs(60),
        stale_after: Duration::from_secs(10),
        full_names: false,
        idle_share: model::idle_share_prior(&model::CpuInfo::parse(&cpuinfo)),
        state: Some(state.to_owned()),
        learned: None,
    };
    let found = discover(host, &DiscoverOptions::all(ProbeMode::Stepped));
    let usage = ProcfsReader::open(host, setup.threads || setup.counters)
        .map_err(|source| StartError::Proc { path: host.proc("").display().to_string(), source })?;
    let usage: Box<dyn UsageReader> =
        if setup.counters { Box::new(CountedReader::new(usage, counters.clone())) } else { Box::new(usage) };
    Sampler::new(host.clone(), usage, found.sources, options)
}

/// A folder in memory if there is one, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, (String, io::Error)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("ebbtide-score-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let memory = Path::new("/dev/shm").join(&name);
        if std::fs::create_dir(&memory).is_ok() {
            return Ok(Self(memory));
        }
        let disk = std::env::temp_dir().join(name);
        std::fs::create_dir(&disk).map_err(|e| (disk.display().to_string(), e))?;
        Ok(Self(disk))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("can't remove {}: {error}", self.0.display());
        }
    }
}
