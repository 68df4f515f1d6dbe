//! Plain hosts: what the executor sees of them, and how what it asks for is brought about. Power by BMCs and outlets,
//! goodbyes by agents; a node is closed by a note in `actions.db`, which plans and placements respect.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_devices::feed::SYSTEM;
use ebbtide_devices::{Limits, OutletId, Place, Switch, Verdict};
use ebbtide_executor::command::{Effect, Mark, Way};
use ebbtide_executor::event::{Answer, Cordon, Sight};
use ebbtide_executor::settings::{Rung, Ways};
use ebbtide_proto::v1::directive::Kind;
use ebbtide_proto::{NodeId, PowerState, WorkloadId, v1};
use ebbtide_runtime::clock::{self, Moment};

use super::hooks::Hooks;
use super::journal::{Journal, JournalError};
use crate::decide::{Plans, observe};
use crate::ingest::{Directives, Untold};
use crate::live::Live;
use crate::power::{FeedConfig, Rack, wake};

/// A command to a device is given so long; what is not known by then is looked at later.
const COMMAND: Duration = Duration::from_secs(20);
/// An agent may take so long to deliver what it has.
const GOODBYE: Duration = Duration::from_secs(25);
/// What an agent told as it left, before its machine is shut down, holds for so long.
const LEFT: Duration = Duration::from_secs(20);
/// Readings of devices that are older say nothing of now.
const OLD: Duration = Duration::from_secs(30);
/// What a boot is given to show a sign of life before the next way is tried, in seconds, and how often each is.
const PATIENCE_S: u64 = 300;
const TRIES: u32 = 2;

/// The hands and eyes of the executor.
#[derive(Clone)]
pub struct Hosts {
    /// The devices.
    pub rack: Arc<Rack>,
    /// Who streams, and what runs there.
    pub live: Arc<Live>,
    /// The ways to agents.
    pub agents: Arc<Directives>,
    /// Where closed nodes are noted.
    pub journal: Journal,
    /// What moves work.
    pub hooks: Hooks,
    /// The fleet as it was seen last.
    pub plans: Arc<Plans>,
}

/// What a place in a node's `[[feed]]` is to it.
fn way(place: &Place, feed: &FeedConfig, rack: &Rack) -> Way {
    match rack.device(&place.device) {
        _ if Some(&place.device) == feed.bmc.as_ref() => Way::Bmc,
        Ok(device) if crate::power::kind_of(device.config()) == "wake-on-lan" => Way::Wol,
        _ => Way::Outlet,
    }
}

/// By what a node is switched, by its `[[feed]]`.
pub fn ways(feed: &FeedConfig, rack: &Rack) -> Ways {
    let mut on: Vec<Rung> = Vec::new();
    for way in feed.ladder().iter().map(|place| way(place, feed, rack)) {
        if !on.iter().any(|rung| rung.way == way) {
            on.push(Rung { way, patience_s: PATIENCE_S, tries: TRIES });
        }
    }
    let off = if feed.bmc.is_some() { Way::Bmc } else { Way::Agent };
    // a machine that only its outlet wakes has to lose its power before it can get it again
    let cut = feed.cut || off == Way::Agent && on.iter().all(|rung| rung.way == Way::Outlet);
    Ways { off: vec![off], on, cut }
}

impl Hosts {
    /// A node as it is seen now.
    pub async fn look(&self, node: NodeId) -> Sight {
        let cordon = match self.journal.with("which nodes are closed", Journal::closed).await {
            Ok(closed) => match closed.get(&node) {
                None => Some(Cordon::Open),
                Some(Mark::Lock) => Some(Cordon::Locked),
                Some(Mark::Operation(id)) => self.draining(&node, *id).await,
            },
            Err(_) => None,
        };
        let heard = self.live.heard(&node);
        let streams = heard.is_some_and(|(connected, _)| connected);
        let feed = self.rack.feed(node.as_str());
        let outlets = feed.map_or(&[][..], |feed| &feed.outlets);
        let states: Vec<PowerState> = outlets.iter().map(|place| self.state(place)).collect();
        let all = |state: PowerState| !states.is_empty() && states.iter().all(|s| *s == state);
        let outlet = match () {
            () if all(PowerState::Off) => PowerState::Off,
            () if states.contains(&PowerState::On) => PowerState::On,
            () => PowerState::Unknown,
        };
        Sight {
            cordon,
            ready: Some(streams),
            held: None,
            workloads: self.workloads(&node),
            agent_ago_s: heard.filter(|(_, ms)| *ms > 0).map(|(_, ms)| now_ms().saturating_sub(ms) as f64 / 1e3),
            bmc: feed.and_then(behind_bmc).map_or(PowerState::Unknown, |place| self.state(&place)),
            outlet,
            outlet_w: self.outlet_watts(outlets),
        }
    }

    /// What runs on a node, if its agent tells, or told as it left; `None` if that isn't known.
    fn workloads(&self, node: &NodeId) -> Option<Vec<WorkloadId>> {
        let now = now_ms();
        let told = |of: &v1::Node| match of.state() {
            v1::NodeState::Live => true,
            v1::NodeState::Gone => Duration::from_millis(now.saturating_sub(of.since_ms)) < LEFT,
            _ => false,
        };
        let mut found = None;
        self.live.loads(now, |id, load| {
            if id == node && told(&load.node) {
                let placed = load.workloads.iter().filter(|(info, _)| observe::is_placed(info));
                found = Some(placed.map(|(info, _)| info.id.clone()).collect());
            }
        });
        found
    }

    /// How an outlet stands, if its device told lately.
    fn state(&self, place: &Place) -> PowerState {
        let latest = self.rack.latest(&place.device).filter(|latest| latest.error.is_none());
        let Some(latest) = latest.filter(|latest| latest.read_at.is_some_and(is_recent)) else {
            return PowerState::Unknown;
        };
        let Some(report) = &latest.report else { return PowerState::Unknown };
        report.outlets.iter().find(|o| o.id == place.outlet).map_or(PowerState::Unknown, |o| o.state)
    }

    /// What all outlets of a node give together, if each was measured lately.
    fn outlet_watts(&self, outlets: &[Place]) -> Option<f64> {
        let mut sum = None;
        for place in outlets {
            let latest = self.rack.latest(&place.device)?;
            let report = latest.report.as_ref()?;
            let power = report.outlets.iter().find(|o| o.id == place.outlet)?.feed.power.as_ref()?;
            if latest.error.is_some() || !is_recent(power.at) {
                return None;
            }
            *sum.get_or_insert(0.0) += power.value.uw() as f64 / 1e6;
        }
        sum
    }

    /// Brings an effect about.
    pub async fn bring_about(&self, node: &NodeId, effect: &Effect) -> Answer {
        match effect {
            Effect::Cordon { mark: mark @ Mark::Operation(_) } if self.hooks.drains(node) => {
                self.drain(node, *mark).await
            }
            Effect::Cordon { mark } => self.mark(node, *mark, true).await,
            Effect::Uncordon { mark } => self.mark(node, *mark, false).await,
            Effect::Evict { workload, to, .. } => self.evict(node, workload, to.as_ref()).await,
            Effect::Place { .. } => Answer::Refused {
                why: "nothing starts work on plain hosts; whoever runs it there does".to_owned(),
                retry_after_s: None,
            },
            Effect::TellGoodbye => self.goodbye(node).await,
            Effect::Shutdown { way: Way::Bmc } => self.shut_down(node).await,
            Effect::Shutdown { way: Way::Agent } => self.shut_down_by_agent(node).await,
            Effect::Shutdown { way } => failed(format!("{way:?} can't shut a plain host down")),
            Effect::OutletOff => {
                let outlets = self.rack.feed(node.as_str()).map_or_else(Vec::new, |feed| feed.outlets.clone());
                self.switch_all(&outlets, Switch::Off).await
            }
            Effect::PowerOn { way } => self.power_on(node, *way).await,
        }
    }

    pub(super) async fn mark(&self, node: &NodeId, mark: Mark, close: bool) -> Answer {
        let id = node.clone();
        let done = self.journal.with("close or open a node", move |journal| {
            let stands = journal.closed()?.get(&id).copied();
            // what carries another mark is somebody else's, and what is gone needs no opening
            Ok(match (stands, close) {
                (None, true) => journal.close(&id, Some(mark)).map(|()| Answer::Done)?,
                (Some(other), true) if other == mark => Answer::Done,
                (Some(Mark::Operation(_)), true) => journal.close(&id, Some(mark)).map(|()| Answer::Done)?,
                (Some(other), false) if other == mark => journal.close(&id, None).map(|()| Answer::Done)?,
                (None, false) => Answer::Done,
                (Some(_), _) => Answer::Refused { why: "it is locked".to_owned(), retry_after_s: None },
            })
        });
        match done.await {
            Ok(answer) => answer,
            Err(error @ JournalError::Halfway) => Answer::Unknown { why: error.to_string() },
            Err(error) => failed(error.to_string()),
        }
    }

    async fn goodbye(&self, node: &NodeId) -> Answer {
        let deadline_ms = now_ms() + 60_000;
        // an agent that is to shut the machine down has to hear that, too
        let stay = self.rack.feed(node.as_str()).is_some_and(|feed| feed.bmc.is_none());
        self.order(node, Kind::PrepareForPowerOff(v1::PrepareForPowerOff { deadline_ms, stay })).await
    }

    /// Tells an agent to do something, and waits for its word.
    async fn order(&self, node: &NodeId, kind: Kind) -> Answer {
        match self.agents.tell(node, kind, GOODBYE).await {
            Ok(_) => Answer::Done,
            Err(error @ (Untold::NotConnected | Untold::Refused(_))) => failed(error.to_string()),
            Err(error @ Untold::NoAnswer(_)) => Answer::Unknown { why: error.to_string() },
        }
    }

    /// What speaks against shutting a node down, as its agent tells.
    fn occupied(&self, node: &NodeId) -> Option<Answer> {
        let work = self.workloads(node).filter(|work| !work.is_empty())?;
        Some(Answer::Refused { why: format!("{} workloads run on it", work.len()), retry_after_s: None })
    }

    async fn shut_down_by_agent(&self, node: &NodeId) -> Answer {
        if let Some(occupied) = self.occupied(node) {
            return occupied;
        }
        self.order(node, Kind::ShutDown(v1::ShutDown { deadline_ms: now_ms() + 60_000 })).await
    }

    async fn shut_down(&self, node: &NodeId) -> Answer {
        if let Some(occupied) = self.occupied(node) {
            return occupied;
        }
        self.soft_off(node).await
    }

    /// Lets the BMC shut a node down, whatever runs on it.
    pub(super) async fn soft_off(&self, node: &NodeId) -> Answer {
        let Some(place) = self.rack.feed(node.as_str()).and_then(behind_bmc) else {
            return failed("its [[feed]] names no bmc".to_owned());
        };
        self.switch(&place, Switch::SoftOff).await
    }

    async fn power_on(&self, node: &NodeId, way: Way) -> Answer {
        let Some(feed) = self.rack.feed(node.as_str()) else { return failed("it has no [[feed]]".to_owned()) };
        let by: Vec<Place> =
            feed.ladder().into_iter().filter(|place| self::way(place, feed, &self.rack) == way).collect();
        if by.is_empty() {
            return failed(format!("its [[feed]] has no way {way:?} to wake it"));
        }
        // a machine behind a dark outlet hears nothing
        let dark: Vec<Place> = feed.outlets.iter().filter(|p| self.state(p) == PowerState::Off).cloned().collect();
        if way != Way::Outlet && !dark.is_empty() {
            let lit = self.switch_all(&dark, Switch::On).await;
            if !matches!(lit, Answer::Done) {
                return lit;
            }
        }
        self.switch_all(&by, Switch::On).await
    }

    async fn switch_all(&self, places: &[Place], to: Switch) -> Answer {
        if places.is_empty() {
            return failed("its [[feed]] names no outlets".to_owned());
        }
        for place in places {
            let answer = self.switch(place, to).await;
            if answer != Answer::Done {
                return answer;
            }
        }
        Answer::Done
    }

    async fn switch(&self, place: &Place, to: Switch) -> Answer {
        let device = match self.rack.device(&place.device) {
            Ok(device) => device,
            Err(error) => return failed(error.to_string()),
        };
        let limits = Limits { deadline: COMMAND, attempts: 1, ..Limits::default() };
        let outcome = device.switch(&place.outlet, to, limits, || None).await;
        let said = wake::spoken(&outcome.verdict);
        match outcome.verdict {
            Verdict::Already | Verdict::Confirmed => Answer::Done,
            // the order was taken: whether the machine follows is for the executor to see
            Verdict::Unconfirmed { .. } if outcome.commands > 0 => Answer::Done,
            Verdict::Failed { .. } if outcome.commands == 0 => failed(said),
            Verdict::Unconfirmed { .. } | Verdict::Failed { .. } | Verdict::Contradicted { .. } => {
                Answer::Unknown { why: said }
            }
        }
    }
}

fn now_ms() -> u64 {
    clock::now().wall / 1_000_000
}

fn is_recent(at: Moment) -> bool {
    clock::now().since_with_sleep(at) <= OLD
}

fn behind_bmc(feed: &FeedConfig) -> Option<Place> {
    Some(Place { device: feed.bmc.clone()?, outlet: OutletId::new(SYSTEM) })
}

pub(super) fn failed(why: String) -> Answer {
    Answer::Failed { why }
}
