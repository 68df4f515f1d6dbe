//! Proves that a node can be woken: it is shut down, woken by the ways that are configured, and has to stream again.

use std::sync::Arc;
use std::time::Duration;

use ebbtide_devices::{Agent, Device, Limits, PowerState, Switch, Verdict};
use ebbtide_proto::{Energy, NodeId, v1};
use ebbtide_runtime::clock::{self, Moment};
use ebbtide_runtime::tasks::Shutdown;
use tokio::sync::mpsc;

use super::Rack;
use crate::catalogue::Catalogue;
use crate::live::Live;
use ebbtide_devices::feed::{FeedConfig, Place, SYSTEM};

/// Between two looks whether the agent speaks.
const LOOK: Duration = Duration::from_millis(500);
/// An outlet that is on is taken off for so long, so that the machine notices.
const DARK: Duration = Duration::from_secs(10);
/// Of the deadline, a way to wake gets at least this before the next is tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// A test that somebody asked for.
pub struct Order {
    /// Of which node.
    pub node: NodeId,
    /// For the shutdown and for the boot, each.
    pub deadline: Duration,
    /// Who asked.
    pub by: String,
    /// Told of each step; the last has the outcome.
    pub tell: mpsc::Sender<v1::WakeStep>,
}

/// Carries out tests, one after the other, until the stop. Whoever asked may go away: a machine that was shut down is
/// woken all the same.
///
/// # Errors
/// None.
pub async fn tests(
    mut orders: mpsc::Receiver<Order>,
    rack: Arc<Rack>,
    live: Arc<Live>,
    catalogue: Catalogue,
    stop: Shutdown,
) -> anyhow::Result<()> {
    loop {
        let order = tokio::select! {
            () = stop.requested() => return Ok(()),
            order = orders.recv() => order,
        };
        let Some(Order { node, deadline, by, tell }) = order else { return Ok(()) };
        let at_ms = || clock::now().wall / 1_000_000;
        let mut step = |text: String| {
            tracing::info!(%node, "test of waking: {text}");
            // nobody may be listening any more
            drop(tell.try_send(v1::WakeStep { at_ms: at_ms(), text, wake: None }));
        };
        let test = Test { rack: &rack, live: &live, node: &node, deadline, by: &by };
        let wake = test.run(&mut step).await;
        if let Err(error) = catalogue.keep_wake(&wake) {
            tracing::error!(%node, "the outcome of a test of waking can't be kept: {error}");
        }
        let text = if wake.proven { "it can be woken".to_owned() } else { wake.why.clone() };
        drop(tell.send(v1::WakeStep { at_ms: at_ms(), text, wake: Some(wake) }).await);
    }
}

/// A test of one node.
pub struct Test<'a> {
    /// The devices.
    pub rack: &'a Rack,
    /// Who streams.
    pub live: &'a Live,
    /// Which node.
    pub node: &'a NodeId,
    /// For the shutdown and for the boot, each.
    pub deadline: Duration,
    /// Who asked.
    pub by: &'a str,
}

impl Test<'_> {
    /// Runs it; `tell` is told of each step.
    pub async fn run(&self, tell: &mut (dyn FnMut(String) + Send)) -> v1::Wake {
        let mut wake = v1::Wake {
            node: self.node.to_string(),
            at_ms: clock::now().wall / 1_000_000,
            by: self.by.to_owned(),
            ..v1::Wake::default()
        };
        match self.prove(&mut wake, tell).await {
            Ok(()) => wake.proven = true,
            Err(why) => wake.why = why,
        }
        wake
    }

    async fn prove(&self, wake: &mut v1::Wake, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), String> {
        let feed = self.rack.feed(self.node.as_str()).ok_or_else(|| {
            format!("nothing is configured to wake {}: add a [[feed]] with its outlets or bmc", self.node)
        })?;
        let ladder = feed.ladder();
        if ladder.is_empty() {
            return Err(format!("the [[feed]] of {} names neither outlets nor bmc nor wake", self.node));
        }
        if self.streams() {
            self.shut_down(feed, tell).await?;
        } else {
            self.is_off(feed).await?;
            tell("it is off already".to_owned());
        }
        let patience = self.deadline.div_f64(ladder.len() as f64).max(PATIENCE);
        for place in &ladder {
            let (start, before) = (clock::now(), self.energy());
            tell(format!("waking it by {place}"));
            match self.wake_by(place, tell).await {
                Ok(()) if self.comes_back(start, patience).await => {
                    wake.path = place.to_string();
                    wake.boot_ms = u64::try_from(clock::now().since(start).as_millis()).unwrap_or(u64::MAX);
                    let after = self.energy();
                    wake.boot_uj = before.zip(after).and_then(|(a, b)| Some(b.checked_sub(a)?.uj()));
                    tell(format!("it streams again after {:.0} s", wake.boot_ms as f64 / 1e3));
                    return Ok(());
                }
                Ok(()) => tell(format!("it didn't come back within {} s", patience.as_secs())),
                Err(why) => tell(why),
            }
        }
        Err("none of the ways to wake it brought it back; see to it by hand".to_owned())
    }

    /// What the node used at the wall so far, where that is measured.
    fn energy(&self) -> Option<Energy> {
        self.rack.wall(self.node.as_str()).map(|wall| wall.energy)
    }

    /// Whether its agent speaks now.
    fn streams(&self) -> bool {
        self.live.heard(self.node).is_some_and(|(connected, _)| connected)
    }

    async fn shut_down(&self, feed: &FeedConfig, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), String> {
        let Some(bmc) = &feed.bmc else {
            return Err(format!(
                "{} runs, and has no bmc that could shut it down: shut it down by hand, then run this again",
                self.node
            ));
        };
        let place = Place { device: bmc.clone(), outlet: ebbtide_devices::OutletId::new(SYSTEM) };
        tell(format!("asking it to shut down, by {place}"));
        // the machine's word and the agent's silence
        let limits = Limits { deadline: self.deadline, signals: 2, ..Limits::default() };
        let outcome = self
            .device(&place)?
            .switch(&place.outlet, Switch::SoftOff, limits, || agent_of(self.live, self.node))
            .await;
        if !outcome.is_success() {
            return Err(format!("it didn't shut down: {}", spoken(&outcome.verdict)));
        }
        // an agent that goes on speaking belies any device
        let start = clock::now();
        while self.streams() {
            if clock::now().since(start) >= self.deadline {
                return Err(format!("{place} says that it is off, but its agent still speaks"));
            }
            tokio::time::sleep(LOOK).await;
        }
        tell(format!("it is off, confirmed by {}, and its agent is gone", outcome.signals));
        Ok(())
    }

    /// Refuses to go on with a machine of which nobody knows that it is off.
    async fn is_off(&self, feed: &FeedConfig) -> Result<(), String> {
        for place in feed.bmc.iter().map(String::as_str).chain(feed.outlets.iter().map(|place| place.device.as_str())) {
            let Ok(device) = self.rack.device(place) else { continue };
            let latest = device.latest();
            let Some(report) = &latest.report else { continue };
            let own = |outlet: &&ebbtide_devices::Outlet| {
                outlet.id.as_str() == SYSTEM || feed.outlets.iter().any(|p| p.device == place && p.outlet == outlet.id)
            };
            for outlet in report.outlets.iter().filter(own) {
                let dark = outlet
                    .feed
                    .power
                    .as_ref()
                    .is_some_and(|power| power.value <= device.config().off_power(&outlet.id));
                if outlet.state == PowerState::Off || dark {
                    return Ok(());
                }
            }
        }
        Err(format!(
            "the agent of {} is silent, but no device says that it is off: an outlet that is off or below its off-watts, or a bmc that says so",
            self.node
        ))
    }

    /// Gives the command of one way to wake.
    async fn wake_by(&self, place: &Place, tell: &mut (dyn FnMut(String) + Send)) -> Result<(), String> {
        let device = self.device(place)?;
        let is_on = device.latest().report.as_ref().is_some_and(|report| {
            report.outlets.iter().any(|outlet| outlet.id == place.outlet && outlet.state == PowerState::On)
        });
        let limits = Limits { deadline: PATIENCE, ..Limits::default() };
        if is_on && place.outlet.as_str() != SYSTEM {
            // power that comes back boots the machine, if its firmware is told so
            tell(format!("{place} is on: taking it off for {} s", DARK.as_secs()));
            let off = device.switch(&place.outlet, Switch::Off, limits, || None).await;
            if !off.is_success() {
                return Err(format!("{place} didn't go off: {}", spoken(&off.verdict)));
            }
            tokio::time::sleep(DARK).await;
        }
        let on = device.switch(&place.outlet, Switch::On, limits, || None).await;
        match &on.verdict {
            // a magic packet confirms nothing: the agent will
            Verdict::Already | Verdict::Confirmed | Verdict::Unconfirmed { .. } => Ok(()),
            verdict => Err(format!("{place} didn't go on: {}", spoken(verdict))),
        }
    }

    /// Waits until the agent spoke after `start`.
    async fn comes_back(&self, start: Moment, patience: Duration) -> bool {
        let start_ms = start.wall / 1_000_000;
        while clock::now().since(start) < patience.max(self.deadline) {
            if self.live.heard(self.node).is_some_and(|(connected, heard_ms)| connected && heard_ms > start_ms) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    fn device(&self, place: &Place) -> Result<&Device, String> {
        self.rack.device(&place.device).map_err(|error| error.to_string())
    }
}

/// What is heard of a machine by its agent, as a signal for switching; `None` if it was never heard of.
pub fn agent_of(live: &Live, node: &NodeId) -> Option<Agent> {
    let (connected, heard_ms) = live.heard(node)?;
    Some(if connected { Agent::Speaks(moment_of(heard_ms)) } else { Agent::Silent })
}

/// The moment of a time on the daemon's own clock, in milliseconds since 1970, that has passed.
fn moment_of(ms: u64) -> Moment {
    let now = clock::now();
    let ns = now.wall.saturating_sub(ms.saturating_mul(1_000_000));
    Moment { mono: now.mono.saturating_sub(ns), boot: now.boot.saturating_sub(ns), wall: now.wall.saturating_sub(ns) }
}

/// A verdict in words.
pub fn spoken(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Already => "it stood so already".to_owned(),
        Verdict::Confirmed => "done".to_owned(),
        Verdict::Contradicted { by } => format!("the device says that it is done, but {by}"),
        Verdict::Unconfirmed { last } => format!("nothing confirmed it in time; last seen: {last}"),
        Verdict::Failed { why } => why.clone(),
    }
}
