//! Plans for the fleet as it is: what is seen becomes events, events become a state, a state becomes a plan.
//!
//! `inventory` is the file of what agents don't know, `observe` turns what they tell into events (pure), `beneath` does
//! that for nodes of a Kubernetes cluster (pure), `cluster` takes in what the cluster tells, `withheld` is what operators and
//! others keep from plans. `archive` keeps plans with all they were made from, `answer` puts them into the words of the API.
//! Deciding itself is the crate `ebbtide-planner`. Nothing in here switches anything.

mod answer;
pub mod archive;
pub mod beneath;
mod cluster;
pub mod inventory;
pub mod observe;
pub mod withheld;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use ebbtide_kubernetes::watch::Followed;
use ebbtide_planner::explain;
use ebbtide_planner::plan::action::Plan;
use ebbtide_planner::plan::reason::{Reason, Verdict};
use ebbtide_planner::plan::{Refusal, plan};
use ebbtide_planner::policy::Policy;
use ebbtide_planner::replay::Decision;
use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::{FleetState, Time};
use ebbtide_proto::series::{Quality, ZoneKind};
use ebbtide_proto::{NodeId, v1};
use ebbtide_runtime::clock;
use ebbtide_runtime::tasks::{self, Shutdown};
use tokio::sync::{Notify, watch};

pub use self::answer::NoAnswer;
use self::archive::Archive;
use self::cluster::Cluster;
pub use self::cluster::{Heard, hear};
use self::inventory::Inventory;
use self::observe::{Observer, Seen, Sight};
use self::withheld::{Layer, Withheld};
use crate::catalogue::Catalogue;
use crate::live::{Live, Load};
use crate::power::Rack;

/// What was learned is kept this often.
const REMEMBER_MS: u64 = 600_000;
/// A plan that still holds is written anew after this long: watts drift.
const ANEW_MS: u64 = 3_600_000;
/// Nodes that nobody heard of for this long, and that no inventory names, are forgotten.
const FORGET_S: f64 = 7.0 * 86_400.0;

/// What the fleet does with plans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// They can be looked at.
    #[default]
    Observe,
    /// They are put forward.
    Recommend,
}

/// A plan as it stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its number.
    pub id: u64,
    /// It, and what it was made from.
    pub decision: Arc<Decision>,
    /// What stands against it.
    pub violations: Vec<String>,
    /// When it was last found to hold.
    pub confirmed_ms: u64,
    /// What planning took, in microseconds.
    pub took_us: u64,
}

/// The fleet's plans.
pub struct Plans {
    mode: Mode,
    policy: RwLock<Arc<Policy>>,
    /// The policy of the file, or the usual one.
    own_policy: Arc<Policy>,
    archive: Archive,
    standing: RwLock<Option<Standing>>,
    /// The plan that stands, for those who act on it.
    news: watch::Sender<Option<Arc<Plan>>>,
    /// Somebody wants a plan now.
    soon: Notify,
    /// The fleet as it was seen last, and when.
    state: RwLock<Arc<FleetState>>,
    /// What is kept from plans.
    withheld: RwLock<Arc<Withheld>>,
    /// Why there is no plan.
    wanting: RwLock<String>,
    /// The cluster that is followed.
    followed: OnceLock<Followed>,
    work: Mutex<Work>,
}

/// What changes from round to round.
struct Work {
    observer: Observer,
    layer: Layer,
    state: FleetState,
    wakes: BTreeMap<NodeId, u64>,
    remembered_ms: u64,
    cluster: Option<Cluster>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // a round that panicked left a state that lacks some news; they come again
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Plans {
    /// Opens the archive in `folder` and goes on from what was learned.
    ///
    /// # Errors
    /// If a file can't be used, or says what can't be.
    pub fn open(
        folder: &Path,
        mode: Mode,
        inventory: Option<&Path>,
        policy: Option<&Path>,
        settle: Duration,
    ) -> anyhow::Result<Self> {
        let inventory = inventory.map(Inventory::load).transpose()?.unwrap_or_default();
        let policy = policy.map(read_policy).transpose()?.unwrap_or_default();
        let archive = Archive::open(folder)?;
        let mut state = archive.learned().unwrap_or_else(|error| {
            tracing::warn!("what was learned about power is lost, learning anew: {error}");
            None
        });
        let mut observer = Observer::new(inventory, settle.as_secs_f64());
        if let Some(state) = &mut state {
            observer.resume(state, Time::from_ms(now_ms()), FORGET_S);
        }
        let state = state.unwrap_or_default();
        let (layer, wakes) = (Layer::default(), BTreeMap::new());
        let work = Work { observer, layer, state, wakes, remembered_ms: now_ms(), cluster: None };
        let policy = Arc::new(policy);
        Ok(Self {
            mode,
            policy: RwLock::new(Arc::clone(&policy)),
            own_policy: policy,
            archive,
            standing: RwLock::new(None),
            news: watch::channel(None).0,
            soon: Notify::new(),
            state: RwLock::default(),
            withheld: RwLock::default(),
            wanting: RwLock::new("the daemon has just started".to_owned()),
            followed: OnceLock::new(),
            work: Mutex::new(work),
        })
    }

    /// The plan that stands.
    pub fn standing(&self) -> Option<Standing> {
        self.standing.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The plan, each time that one is made that holds up.
    pub fn news(&self) -> watch::Receiver<Option<Arc<Plan>>> {
        self.news.subscribe()
    }

    /// The fleet as it was seen last.
    pub fn state(&self) -> Arc<FleetState> {
        Arc::clone(&self.state.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The policy.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Plans by another policy from now on, or by the own one again.
    ///
    /// # Errors
    /// If it makes no sense; says where. Then that of before stays.
    pub fn set_policy(&self, text: Option<&str>) -> Result<(), String> {
        let policy = match text {
            Some(text) => Arc::new(parse_policy(text)?),
            None => Arc::clone(&self.own_policy),
        };
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
        self.plan_now();
        Ok(())
    }

    /// Makes the next plan now rather than when it is due.
    pub fn plan_now(&self) {
        self.soon.notify_one();
    }

    /// What is kept from plans from now on; if that is news, the next plan is made now.
    pub fn withhold(&self, withheld: Withheld) {
        let mut kept = self.withheld.write().unwrap_or_else(PoisonError::into_inner);
        if **kept != withheld {
            *kept = Arc::new(withheld);
            self.soon.notify_one();
        }
    }

    /// What is kept from plans.
    pub fn withheld(&self) -> Arc<Withheld> {
        Arc::clone(&self.withheld.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the fleet does with plans.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// One round: takes in what is seen, and plans.
    pub fn round(&self, at: Time, seen: &BTreeMap<NodeId, Sight>, wakes: &[v1::Wake]) {
        let mut work = locked(&self.work);
        work.cluster_round(at, seen);
        let Work { observer, layer, state, wakes: known, remembered_ms, cluster } = &mut *work;
        for event in observer.observe(at, seen) {
            state.apply(at, layer.over(event));
        }
        for event in layer.change((*self.withheld()).clone()) {
            state.apply(at, event);
        }
        for wake in wakes.iter().filter(|wake| wake.proven && wake.boot_ms > 0) {
            let Ok(node) = NodeId::new(&wake.node) else { continue };
            let first = known.insert(node.clone(), wake.at_ms);
            // what was known at the start was taken in by the daemon before
            if first.is_some_and(|at_ms| at_ms < wake.at_ms) {
                let (seconds, joules) = (wake.boot_ms as f64 / 1e3, wake.boot_uj.unwrap_or(0) as f64 / 1e6);
                state.apply(at, Event::NodeBooted { node, seconds, joules });
            }
        }
        let wait_s = observer.settles_in(at);
        self.publish(state);
        if at.ms().saturating_sub(*remembered_ms) >= REMEMBER_MS {
            *remembered_ms = at.ms();
            self.remember(state, at);
        }
        if let Some(cluster) = cluster.as_ref().filter(|cluster| !cluster.is_complete()) {
            self.want(cluster.missing());
            return;
        }
        if state.nodes.is_empty() {
            self.want("no node was heard of yet; let one join: ebbtide token create --node NAME".to_owned());
            return;
        }
        // what isn't known yet is no drop in demand
        if state.synced {
            state.apply(at, Event::Counted);
        }
        let begun = clock::now();
        let policy = self.policy();
        let made = plan(state, &policy, at);
        let took_us = u64::try_from(clock::now().since(begun).as_micros()).unwrap_or(u64::MAX);
        match made {
            Ok(made) => self.stand(state, &policy, made, at, took_us),
            Err(Refusal::NotSynced) => {
                self.want(format!("nodes are still waited for, {wait_s:.0} s at most"));
            }
            Err(refusal) => {
                tracing::error!("no plan: {refusal}");
                self.want(refusal.to_string());
            }
        }
    }

    /// Makes `made` the plan that stands, unless that says the same.
    fn stand(&self, state: &FleetState, policy: &Policy, made: Plan, at: Time, took_us: u64) {
        if let Some(standing) = self.standing()
            && at.ms().saturating_sub(standing.decision.now.ms()) < ANEW_MS
            && says_the_same(&standing.decision.plan, &made)
        {
            if let Err(error) = self.archive.confirm(standing.id, at.ms()) {
                tracing::warn!("{error}");
            }
            let Standing { decision, violations, .. } = standing;
            let inputs = decision.plan.inputs.clone();
            drop(decision);
            if let Some(kept) = &mut *self.standing.write().unwrap_or_else(PoisonError::into_inner) {
                (kept.confirmed_ms, kept.took_us) = (at.ms(), took_us);
                // reasons have figures that change; while somebody reads it, it stays as it is
                if let Some(decision) = Arc::get_mut(&mut kept.decision) {
                    decision.plan.reasons.clone_from(&made.reasons);
                }
            }
            // who acts on it goes by when it was made last
            self.tell(Plan { inputs, ..made }, &violations);
            return;
        }
        let decision = Decision::of(state.clone(), policy.clone(), at, made);
        let violations = answer::violations(&decision);
        if !violations.is_empty() {
            tracing::error!(?violations, "a plan doesn't hold up: this is a fault of the planner, please report it");
        }
        let explained = explain::plan(&decision.plan);
        let id = match self.archive.keep(&decision, &explained.headline, took_us) {
            Ok(id) => id,
            Err(error) => {
                tracing::error!("a plan can't be kept, so it doesn't stand: {error}");
                return;
            }
        };
        if self.mode == Mode::Recommend && !decision.plan.is_empty() {
            tracing::info!(plan = id, "recommended: {}; ebbtide plan shows it", explained.headline);
        }
        let decision = Arc::new(decision);
        let standing = Standing { id, decision, violations, confirmed_ms: at.ms(), took_us };
        self.tell(standing.decision.plan.clone(), &standing.violations);
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }

    fn tell(&self, plan: Plan, violations: &[String]) {
        if violations.is_empty() {
            self.news.send_replace(Some(Arc::new(plan)));
        }
    }

    fn publish(&self, state: &FleetState) {
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state.clone());
    }

    /// Says why there is no plan.
    fn want(&self, why: String) {
        *self.wanting.write().unwrap_or_else(PoisonError::into_inner) = why;
    }

    fn remember(&self, state: &FleetState, at: Time) {
        if let Err(error) = self.archive.remember(state, at.ms()) {
            tracing::warn!("what was learned can't be kept: {error}");
        }
    }
}

/// Whether two plans do the same for the same reasons, figures aside.
fn says_the_same(a: &Plan, b: &Plan) -> bool {
    let kinds = |p: &Plan| -> Vec<_> {
        let hold = |verdict: &Verdict| match verdict {
            Verdict::Held { by } => Some(std::mem::discriminant(by)),
            _ => None,
        };
        let kind = |r: &Reason| match r {
            Reason::Node { node, verdict } => (node.to_string(), std::mem::discriminant(verdict), hold(verdict)),
            Reason::Workload { workload, verdict } => {
                (workload.to_string(), std::mem::discriminant(verdict), hold(verdict))
            }
        };
        p.reasons.iter().map(kind).collect()
    };
    a.unplaced == b.unplaced
        && a.actions.len() == b.actions.len()
        && a.actions.iter().zip(&b.actions).all(|(a, b)| a.what == b.what)
        && kinds(a) == kinds(b)
}

/// Reads a policy file.
///
/// # Errors
/// If it can't be read or makes no sense; says where.
pub fn read_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read the policy {}", path.display()))?;
    parse_policy(&text).map_err(|why| anyhow::anyhow!("policy {}: {why}", path.display()))
}

/// Reads a policy; says what is wrong, and where.
fn parse_policy(text: &str) -> Result<Policy, String> {
    let policy: Policy = crate::toml_text::read(text)?;
    policy.validate().map_err(|e| e.to_string())?;
    Ok(policy)
}

/// Plans again and again until the stop.
///
/// # Errors
/// None.
pub async fn run(
    plans: Arc<Plans>,
    live: Arc<Live>,
    rack: Arc<Rack>,
    catalogue: Catalogue,
    every: Duration,
    stop: Shutdown,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.requested() => break,
            _ = ticks.tick() => {}
            () = plans.soon.notified() => {}
        }
        let (plans, live, rack, catalogue) =
            (Arc::clone(&plans), Arc::clone(&live), Arc::clone(&rack), catalogue.clone());
        let round = tasks::blocking("plan", move || {
            let now_ms = now_ms();
            let wakes = catalogue.wakes().unwrap_or_else(|error| {
                tracing::warn!("{error}");
                Vec::new()
            });
            plans.round(Time::from_ms(now_ms), &sights(&live, &rack, &wakes, now_ms), &wakes);
        });
        round.await;
    }
    let remember = tasks::blocking("keep what was learned", move || {
        let work = locked(&plans.work);
        plans.remember(&work.state, work.state.now);
    });
    remember.await;
    Ok(())
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

/// All nodes as they are seen now.
fn sights(live: &Live, rack: &Rack, wakes: &[v1::Wake], now_ms: u64) -> BTreeMap<NodeId, Sight> {
    let proven: BTreeSet<&str> = wakes.iter().filter(|wake| wake.proven).map(|wake| wake.node.as_str()).collect();
    let mut all = BTreeMap::new();
    let mut unable = BTreeSet::new();
    live.loads(now_ms, |id, load| {
        // one whose agent isn't there may be off, and is woken all the same
        if load.shuts_down == Some(false) {
            unable.insert(id.clone());
        }
        all.insert(id.clone(), seen(load));
    });
    // a node that is off may never have been heard
    for id in rack.feeds().iter().filter_map(|feed| NodeId::new(&feed.node).ok()) {
        all.entry(id).or_default();
    }
    for (id, sight) in &mut all {
        let feed = rack.feed(id.as_str());
        sight.hardware = rack.power_state(id.as_str());
        sight.switchable =
            feed.is_some_and(|feed| !feed.ladder().is_empty() && (feed.bmc.is_some() || !unable.contains(id)));
        sight.wake_proven = proven.contains(id.as_str());
    }
    all
}

fn seen(load: Load) -> Sight {
    let node = load.node;
    let at_the_wall = |zone: &&v1::ZonePower| {
        !zone.stale && zone.zone.as_ref().is_some_and(|z| ZoneKind::from_wire(z.kind) == Ok(ZoneKind::Wall))
    };
    let wall = node.zones.iter().find(at_the_wall).and_then(|zone| Some((zone.power_uw?, zone.zone.as_ref()?.quality)));
    let (power_uw, quality) = wall.map_or((node.power_uw, node.quality), |(uw, quality)| (Some(uw), quality));
    let machine = node.machine.unwrap_or_default();
    let workload = |w: &(Arc<ebbtide_proto::series::WorkloadInfo>, Option<u64>)| {
        let (info, cpu_milli) = w;
        observe::is_placed(info).then(|| Seen {
            id: info.id.clone(),
            name: crate::groups::shown(info),
            cpu_milli: cpu_milli.map(|milli| milli as f64),
        })
    };
    Sight {
        fresh: node.state == i32::from(v1::NodeState::Live),
        watts: power_uw.map(|uw| uw as f64 / 1e6),
        error: match Quality::from_wire(quality) {
            Ok(Quality::Measured) => 0.02,
            Ok(Quality::Scaled) => 0.1,
            Ok(Quality::Modelled | Quality::Stale) | Err(_) => 0.5,
        },
        cpu_milli: node.cpu_milli.map(|milli| milli as f64),
        cpus: (machine.cpus > 0).then_some(machine.cpus),
        sockets: machine.sockets,
        model: machine.cpu_model,
        hardware: None,
        switchable: false,
        wake_proven: false,
        workloads: load.workloads.iter().filter_map(workload).collect(),
        left: load.left,
    }
}
