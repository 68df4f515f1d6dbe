//! Commands of the operator that empty plain hosts and fill them again: whatever schedules work there is asked by its own
//! tools. They run without a shell, in an environment of their own, and are killed when their time is over.
//!
//! A command takes longer than an effect may. So it is a job: asking for it again finds it under way, or takes its result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ebbtide_devices::Period;
use ebbtide_devices::command::run::{Finished, Program};
use ebbtide_planner::state::FleetState;
use ebbtide_planner::state::node::PowerState;
use ebbtide_proto::{NodeId, WorkloadId};
use ebbtide_runtime::clock::{self, Moment};
use ebbtide_runtime::tasks::{Shutdown, Tasks};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

/// A command that says so (`EX_TEMPFAIL`) is run again later.
const LATER: i32 = 75;
/// So much later.
const AGAIN: Duration = Duration::from_secs(30);
/// A result that nobody took for so long says nothing of now.
const STALE: Duration = Duration::from_secs(60);
/// Whoever asks for a job waits so long for its end.
const WAIT: Duration = Duration::from_secs(4);
/// Jobs that wait to be started.
const WAITING: usize = 64;
/// What a command said last is shown up to this length.
const SHOWN: usize = 300;

/// Commands for some nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HookConfig {
    /// The nodes that it is for; `*` stands for anything. The first that names a node counts.
    pub nodes: Vec<String>,
    /// Empties `{node}`, and keeps it empty until `undrain`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drain: Vec<String>,
    /// Lets work onto `{node}` again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undrain: Vec<String>,
    /// Moves `{workload}` from `{node}` to `{target}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub r#move: Vec<String>,
    /// Instead of `move`: where the libvirt of `{node}` is, such as "qemu+ssh://{node}/system". Its machines are migrated live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<String>,
    /// The commands' environment, besides PATH and LANG. Nothing of the daemon's own is handed on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How long each may take, up to 24h.
    #[serde(default = "limit")]
    pub limit: Period,
}

fn limit() -> Period {
    Period::new(Duration::from_secs(600))
}

/// What of a command is written between braces.
const NAMES: [&str; 3] = ["{node}", "{workload}", "{target}"];

impl HookConfig {
    /// What is wrong with it; goes on after "hook N".
    ///
    /// # Errors
    /// In words.
    pub fn check(&self) -> Result<(), String> {
        if self.nodes.is_empty() {
            return Err("names no nodes; write nodes = [\"NAME\"], with * for anything".to_owned());
        }
        if self.libvirt.is_some() && !self.r#move.is_empty() {
            return Err("has both move and libvirt; keep one".to_owned());
        }
        if self.drain.is_empty() && self.r#move.is_empty() && self.libvirt.is_none() {
            return Err("has no command; write drain, move or libvirt".to_owned());
        }
        if self.drain.is_empty() && !self.undrain.is_empty() {
            return Err("has undrain without drain; add drain, or leave undrain out".to_owned());
        }
        let libvirt: Vec<String> = self.libvirt.iter().cloned().collect();
        let commands = [
            ("drain", &self.drain, 1),
            ("undrain", &self.undrain, 1),
            ("move", &self.r#move, 3),
            ("libvirt", &libvirt, 1),
        ];
        for (key, argv, known) in commands {
            for word in argv {
                let rest = NAMES.iter().take(known).fold(word.clone(), |rest, name| rest.replace(name, ""));
                if let (Some(from), Some(to)) = (rest.find('{'), rest.find('}')) {
                    let wrong = rest.get(from..=to).unwrap_or_default();
                    let known = NAMES.iter().take(known).copied().collect::<Vec<_>>().join(", ");
                    return Err(format!("has {wrong} in {key}, which means nothing there; write {known}"));
                }
            }
        }
        Ok(())
    }

    fn is_for(&self, node: &NodeId) -> bool {
        self.nodes.iter().any(|pattern| crate::decide::inventory::matches(pattern, node.as_str()))
    }

    fn filled(argv: &[String], node: &NodeId, workload: Option<&WorkloadId>, target: Option<&NodeId>) -> Vec<String> {
        let fill = |word: &String| {
            let word = word.replace("{node}", node.as_str());
            let word = workload.map_or(word.clone(), |w| word.replace("{workload}", w.name()));
            target.map_or(word.clone(), |t| word.replace("{target}", t.as_str()))
        };
        argv.iter().map(fill).collect()
    }

    /// What is run for a job, one command after the other.
    fn commands(&self, job: &Job) -> Vec<Vec<String>> {
        match job {
            Job::Drain(node) => vec![Self::filled(&self.drain, node, None, None)],
            Job::Undrain(node) => vec![Self::filled(&self.undrain, node, None, None)],
            Job::Move(node, workload, target) => match &self.libvirt {
                None => vec![Self::filled(&self.r#move, node, Some(workload), Some(target))],
                Some(at) => {
                    let (from, to) = (at.replace("{node}", node.as_str()), at.replace("{node}", target.as_str()));
                    let virsh = |words: &[&str]| -> Vec<String> {
                        ["virsh", "-q", "-c", from.as_str()].iter().chain(words).map(|w| (*w).to_owned()).collect()
                    };
                    vec![
                        virsh(&["migrate", "--live", "--persistent", "--undefinesource", workload.name(), &to]),
                        // who migrates may say so and be wrong: where it was it must not be any more
                        virsh(&["list", "--uuid", "--name"]),
                    ]
                }
            },
        }
    }
}

/// Something that commands do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    Drain(NodeId),
    Undrain(NodeId),
    Move(NodeId, WorkloadId, NodeId),
}

impl std::fmt::Display for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Drain(node) => write!(f, "drain {node}"),
            Self::Undrain(node) => write!(f, "undrain {node}"),
            Self::Move(node, workload, target) => write!(f, "move {workload} from {node} to {target}"),
        }
    }
}

/// How a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Under way.
    Runs,
    /// Done; what it said last.
    Done(String),
    /// It wants to be asked again later, and why.
    Later(String),
    /// For certain not done, and why.
    Failed(String),
}

struct Asked {
    job: Job,
    hook: Arc<HookConfig>,
    tell: watch::Sender<Told>,
}

/// How a job stands, and since when.
type Told = (Progress, Moment);

/// Whether what was told still says something: about a job that is under way, or ended not long ago.
fn holds((progress, since): &Told) -> bool {
    let ago = clock::now().since_with_sleep(*since);
    match progress {
        Progress::Runs => true,
        Progress::Later(_) => ago < AGAIN,
        Progress::Done(_) | Progress::Failed(_) => ago < STALE,
    }
}

/// The way to the commands. Cheap to share.
#[derive(Clone)]
pub struct Hooks {
    hooks: Arc<Vec<Arc<HookConfig>>>,
    jobs: Arc<Mutex<BTreeMap<Job, watch::Receiver<Told>>>>,
    start: mpsc::Sender<Asked>,
}

/// Runs the commands.
pub struct Runner(mpsc::Receiver<Asked>);

impl Hooks {
    /// The commands, and what runs them.
    pub fn new(hooks: &[HookConfig]) -> (Self, Runner) {
        let (start, asked) = mpsc::channel(WAITING);
        let hooks = hooks.iter().cloned().map(Arc::new).collect();
        (Self { hooks: Arc::new(hooks), jobs: Arc::default(), start }, Runner(asked))
    }

    fn jobs(&self) -> MutexGuard<'_, BTreeMap<Job, watch::Receiver<Told>>> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.retain(|_, told| matches!(told.borrow().0, Progress::Later(_)) || holds(&told.borrow()));
        jobs
    }

    fn of(&self, node: &NodeId) -> Option<&Arc<HookConfig>> {
        self.hooks.iter().find(|hook| hook.is_for(node))
    }

    /// Whether a command empties the node as a whole.
    pub(super) fn drains(&self, node: &NodeId) -> bool {
        self.of(node).is_some_and(|hook| !hook.drain.is_empty())
    }

    /// Whether a command lets work onto the node again.
    pub(super) fn undrains(&self, node: &NodeId) -> bool {
        self.of(node).is_some_and(|hook| !hook.undrain.is_empty())
    }

    /// Whether a command moves single workloads off the node.
    pub(super) fn moves(&self, node: &NodeId) -> bool {
        self.of(node).is_some_and(|hook| !hook.r#move.is_empty() || hook.libvirt.is_some())
    }

    /// Where a workload can be moved to: of the nodes with the same commands the one with the most CPUs free.
    pub(super) fn target(&self, fleet: &FleetState, from: &NodeId, workload: &WorkloadId) -> Option<NodeId> {
        let (hook, workload) = (self.of(from)?, fleet.workloads.get(workload)?);
        let room = |node: &&ebbtide_planner::state::node::Node| {
            let mut wanted = fleet.places.used(&node.id).clone();
            wanted.add(&workload.requests);
            let open = node.id != *from && node.power == PowerState::On && !node.cordoned && workload.admits(node);
            open && wanted.lacks(&node.allocatable()).is_none()
        };
        let same = |node: &&ebbtide_planner::state::node::Node| self.of(&node.id).is_some_and(|h| Arc::ptr_eq(h, hook));
        let free = |node: &&ebbtide_planner::state::node::Node| {
            node.allocatable().cpu_milli.saturating_sub(fleet.places.used(&node.id).cpu_milli)
        };
        fleet.nodes.values().filter(same).filter(room).max_by_key(free).map(|node| node.id.clone())
    }

    /// Where a workload is being moved to, if it was asked for.
    pub(super) fn moving(&self, node: &NodeId, workload: &WorkloadId) -> Option<NodeId> {
        self.jobs().keys().find_map(|job| match job {
            Job::Move(n, w, target) if n == node && w == workload => Some(target.clone()),
            _ => None,
        })
    }

    /// How a job stands, if it was asked for and its result not yet taken.
    pub(super) fn look(&self, job: &Job) -> Option<Progress> {
        self.jobs().get(job).map(|told| told.borrow().0.clone())
    }

    /// Starts a job, unless it is under way or wanted to be asked again later, and waits a little for its end. A result
    /// is taken: asked for once more, it begins anew.
    pub(super) async fn ask(&self, job: &Job) -> Progress {
        let mut told = match self.begin(job) {
            Ok(told) => told,
            Err(why) => return Progress::Failed(why),
        };
        let over = told.wait_for(|(progress, _)| *progress != Progress::Runs);
        let ended = match tokio::time::timeout(WAIT, over).await {
            Err(_) => return Progress::Runs,
            Ok(Ok(ended)) => ended.0.clone(),
            Ok(Err(_)) => Progress::Failed("the daemon stopped before it ended".to_owned()),
        };
        if !matches!(ended, Progress::Later(_)) {
            self.jobs().remove(job);
        }
        ended
    }

    fn begin(&self, job: &Job) -> Result<watch::Receiver<Told>, String> {
        let mut jobs = self.jobs();
        if let Some(told) = jobs.get(job).filter(|told| holds(&told.borrow())) {
            return Ok(told.clone());
        }
        let (Job::Drain(node) | Job::Undrain(node) | Job::Move(node, ..)) = job;
        let hook = self.of(node).ok_or_else(|| format!("no [[act.hook]] is for {node}"))?;
        let (tell, told) = watch::channel((Progress::Runs, clock::now()));
        let asked = Asked { job: job.clone(), hook: Arc::clone(hook), tell };
        self.start.try_send(asked).map_err(|_| "too many commands wait, or the daemon stops".to_owned())?;
        jobs.insert(job.clone(), told.clone());
        Ok(told)
    }
}

impl Runner {
    /// Runs what is asked for until the stop; then all that still runs is killed.
    ///
    /// # Errors
    /// None.
    pub async fn run(mut self, stop: Shutdown) -> anyhow::Result<()> {
        let mut running = Tasks::new();
        loop {
            tokio::select! {
                () = stop.requested() => break,
                Some(asked) = self.0.recv() => {
                    let name = format!("hook: {}", asked.job);
                    running.spawn(name, async move {
                        let ended = carry_out(&asked.hook, &asked.job).await;
                        match &ended {
                            Progress::Failed(why) => tracing::warn!("{}: {why}", asked.job),
                            other => tracing::info!("{}: {other:?}", asked.job),
                        }
                        asked.tell.send_replace((ended, clock::now()));
                        Ok(())
                    });
                }
                _ = running.next_ended(), if !running.is_empty() => {}
            }
        }
        running.finish(Duration::ZERO).await;
        Ok(())
    }
}

/// Runs the commands of a job to their end.
async fn carry_out(hook: &HookConfig, job: &Job) -> Progress {
    let mut said = String::new();
    for argv in hook.commands(job) {
        let Some((program, args)) = argv.split_first() else { return Progress::Failed("it is no command".to_owned()) };
        let env = hook.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let command = Program::new(PathBuf::from(program), Vec::new(), env, Vec::new(), hook.limit.get());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let Finished { status, output, reason } = match command.finish(&args).await {
            Ok(finished) => finished,
            Err(error) => return Progress::Failed(error.to_string()),
        };
        let shown = tail(&reason).or_else(|| tail(&output));
        let told = |what: &str| {
            shown.as_ref().map_or_else(|| format!("{program} {what}"), |s| format!("{program} {what}: {s}"))
        };
        match status.code() {
            Some(0) => {}
            Some(LATER) => return Progress::Later(told("can't yet")),
            Some(code) => return Progress::Failed(told(&format!("ended with {code}"))),
            None => return Progress::Failed(told("was killed")),
        }
        if let (Job::Move(node, workload, _), Some(_)) = (job, &hook.libvirt)
            && args.contains(&"list")
            && listed(&output).contains(workload.name())
        {
            return Progress::Failed(format!("{program} migrated it, and it is still on {node}"));
        }
        said = shown.unwrap_or_default();
    }
    Progress::Done(said)
}

/// The words of a listing.
fn listed(output: &[u8]) -> BTreeSet<String> {
    String::from_utf8_lossy(output).split_whitespace().map(str::to_owned).collect()
}

/// The end of what was said, on one line; `None` if nothing was.
fn tail(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join(" / ");
    let clean: Vec<char> = last.chars().filter(|c| !c.is_control()).collect();
    let from = clean.len().saturating_sub(SHOWN);
    (!clean.is_empty()).then(|| clean.into_iter().skip(from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ebbtide_runtime::tasks::Tasks;

    fn hook(text: &str) -> HookConfig {
        toml::from_str(text).unwrap()
    }

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_to_write() {
        for (text, says) in [
            ("nodes = []\ndrain = ['x']", "names no nodes"),
            ("nodes = ['a']", "has no command"),
            ("nodes = ['a']\nundrain = ['x']\nmove = ['y']", "undrain without drain"),
            ("nodes = ['a']\nmove = ['x']\nlibvirt = 'qemu:///system'", "both move and libvirt"),
            ("nodes = ['a']\ndrain = ['x', '{workload}']", "{workload} in drain"),
            ("nodes = ['a']\nmove = ['x', '{nod}']", "write {node}, {workload}, {target}"),
        ] {
            let error = hook(text).check().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!(hook("nodes = ['a']\nmove = ['x', '--to={target}', '{workload}@{node}']").check(), Ok(()));
    }

    #[test]
    fn what_nobody_took_for_a_while_says_nothing() {
        let ago = |s: u64| {
            let now = clock::now();
            Moment { boot: now.boot.saturating_sub(s * 1_000_000_000), ..now }
        };
        let (done, later) = (Progress::Done(String::new()), Progress::Later(String::new()));
        assert!(holds(&(done.clone(), ago(50))) && !holds(&(done, ago(61))));
        assert!(holds(&(later.clone(), ago(20))) && !holds(&(later, ago(31))));
        assert!(holds(&(Progress::Runs, ago(4000))));
    }

    #[test]
    fn words_are_filled_in_and_never_split() {
        let hook = hook("nodes = ['a']\nmove = ['x', '--to={target}', '{workload}@{node}']");
        let job = Job::Move(node("a"), "vm/b; rm -rf".parse().unwrap(), node("c"));
        assert_eq!(hook.commands(&job), [["x", "--to=c", "b; rm -rf@a"]]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_command_says_by_its_exit_code_what_became_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        let sh = |nodes: &str, script: &str, limit: &str| {
            let script = script.replace("FILE", &file.display().to_string());
            hook(&format!("nodes = ['{nodes}']\ndrain = ['/bin/sh', '-c', '{script}']\nlimit = '{limit}'"))
        };
        let (hooks, runner) = Hooks::new(&[
            sh("good", "echo one; echo two", "10s"),
            sh("later", "echo x >> FILE.later; echo not yet >&2; exit 75", "10s"),
            sh("bad", "echo why >&2; exit 2", "10s"),
            sh("slow", "echo x >> FILE; sleep 60", "6s"),
            sh("lost", "exit 0", "10s"),
        ]);
        let mut tasks = Tasks::new();
        tasks.spawn("hooks", runner.run(tasks.shutdown()));
        let ask = |name: &str| {
            let (hooks, job) = (hooks.clone(), Job::Drain(node(name)));
            async move { hooks.ask(&job).await }
        };
        assert_eq!(ask("good").await, Progress::Done("one / two".to_owned()));
        assert_eq!(ask("bad").await, Progress::Failed("/bin/sh ended with 2: why".to_owned()));
        assert_eq!(ask("later").await, Progress::Later("/bin/sh can't yet: not yet".to_owned()));
        assert!(matches!(ask("later").await, Progress::Later(_)));
        assert_eq!(std::fs::read_to_string(file.with_extension("later")).unwrap(), "x\n", "not before its time");
        assert!(matches!(ask("nobody").await, Progress::Failed(why) if why.contains("no [[act.hook]]")));
        // it goes on while nobody waits, isn't begun twice, and is killed when its time is over
        assert_eq!(ask("slow").await, Progress::Runs);
        assert!(matches!(ask("slow").await, Progress::Failed(why) if why.contains("killed")));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");
        tasks.finish(Duration::ZERO).await;
        assert!(matches!(ask("lost").await, Progress::Failed(_)));
    }
}
